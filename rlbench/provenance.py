"""Where a result came from: code, versions, hardware, data and prompt."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import torch

from rlbench.budget import gpu_driver
from rlbench.data.record import RankedListDataset
from rlbench.plugins import plugin_digests

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "hydra-core", "wandb", "numpy", "pandas", "scipy")

RUNS = ("run.py", "rlbench", "conf", "hydra_plugins")
"""What decides how a run computes, below the repository."""


def manifest(dataset: RankedListDataset, prompt_template: str | None, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """What a reader needs to tell whether two results can be compared."""
    return {
        "git": _git(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "packages": packages(),
        "hardware": hardware(),
        "data": {"name": dataset.name, "sha256": dataset.fingerprint, "notices": list(dataset.notices)},
        "plugins": plugin_digests(plugins),
        "prompt_sha256": hashlib.sha256((prompt_template or "").encode()).hexdigest(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def packages() -> dict[str, str]:
    """Every installed distribution and its version, in the order of their names."""
    found = {str(each.metadata["Name"]): each.version for each in distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def hardware() -> dict[str, Any]:
    """The machine, as far as speed and rounding may depend on it; nothing that names it."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "gpu_driver": gpu_driver() if gpus else None,
        "cuda": torch.version.cuda,
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as Linux gives it; elsewhere what Python knows."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor()


def _git() -> dict[str, Any]:
    return git_state(Path(__file__).resolve().parent.parent)


def git_state(root: Path) -> dict[str, Any]:
    """Commit, whether the tree differs from it, and the sha256 of the difference: `git diff HEAD`, and the files of
    code and configuration (`RUNS`) that git neither tracks nor ignores. All null where there is no git, or no
    repository."""

    def ask(*arguments: str) -> bytes | None:
        try:
            return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):  # no git, or no repository (an installed copy)
            return None

    commit, status = ask("rev-parse", "HEAD"), ask("status", "--porcelain")
    if commit is None or status is None:
        return {"commit": None, "dirty": None, "diff_sha256": None}
    if not status:
        return {"commit": commit.decode().strip(), "dirty": False, "diff_sha256": None}
    digest = hashlib.sha256(ask("diff", "HEAD", "--binary") or b"")
    for name in sorted((ask("ls-files", "--others", "--exclude-standard", "-z", "--", *RUNS) or b"").split(b"\0")):
        path = root / os.fsdecode(name)
        if name and path.is_file():
            with path.open("rb") as file:
                digest.update(name + hashlib.file_digest(file, "sha256").digest())
    return {"commit": commit.decode().strip(), "dirty": True, "diff_sha256": digest.hexdigest()}
