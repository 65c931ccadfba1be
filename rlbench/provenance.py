"""Where a result came from: code, versions, hardware, data and prompt."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlbench.data.record import RankedListDataset
from rlbench.plugins import plugin_digests

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "hydra-core", "wandb", "numpy", "pandas", "scipy")


def manifest(dataset: RankedListDataset, prompt_template: str | None, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """What a reader needs to tell whether two results can be compared."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "git": _git(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
        "data": {"name": dataset.name, "sha256": dataset.fingerprint, "notices": list(dataset.notices)},
        "plugins": plugin_digests(plugins),
        "prompt_sha256": hashlib.sha256((prompt_template or "").encode()).hexdigest(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _git() -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, or no repository (an installed copy)
            return None
        return answer.stdout.strip()

    status = ask("status", "--porcelain")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(status) if status is not None else None}
