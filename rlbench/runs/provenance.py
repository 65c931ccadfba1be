"""Records the origin of a result: code, versions, hardware, data and prompt."""

import hashlib
import os
import platform
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

import psutil
import torch

from rlbench.base.git import code_state
from rlbench.base.program import own_words
from rlbench.config.plugins import plugin_digests
from rlbench.config.schema import FileModelConfig, ModelConfig
from rlbench.data.record import RankedListDataset
from rlbench.models.sources import folder_digests, is_local
from rlbench.runs import versions
from rlbench.runs.budget import gpu_driver
from rlbench.runs.record import Git, Hardware, Manifest, ModelOrigin


def manifest(
    dataset: RankedListDataset, prompt_template: str | None, model: ModelOrigin, plugins: Sequence[str] = ()
) -> Manifest:
    """Return what a reader needs to decide whether two results are comparable.

    Args:
        dataset: the data.
        prompt_template: the dataset's template, or None.
        model: result of `model_origin`.
        plugins: as in `rlbench.config.plugins.load_plugins`.
    """
    return {
        "git": cast(Git, code_state()),
        "versions": versions.present(),
        "packages": packages(),
        "hardware": hardware(),
        "data": {"name": dataset.name, "sha256": dataset.fingerprint, "notices": list(dataset.notices)},
        "model": model,
        "plugins": plugin_digests(plugins),
        "prompt_sha256": hashlib.sha256((prompt_template or "").encode()).hexdigest(),
        "command": own_words(),
    }


def model_origin(config: ModelConfig, folder: str) -> ModelOrigin:
    """Return the name of a model's folder, the sha256 of its files, and the hub's revision.

    Args:
        config: the model's configuration.
        folder: the folder that it is loaded from.
    """
    path = config.path if isinstance(config, FileModelConfig) else None
    revision = Path(folder).name if path is not None and not is_local(path) else None
    return {"folder": Path(folder).name, "files": folder_digests(Path(folder), folder), "revision": revision}


def packages() -> dict[str, str]:
    """Return every installed distribution and its version, sorted by name."""
    return dict(sorted(_installed(), key=lambda item: item[0].lower()))


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Name and version of every installed distribution. Each stage asks, and reading them takes a third of a second."""
    every = (each.metadata for each in distributions())
    return tuple({str(one["Name"]): str(one["Version"]) for one in every}.items())


def hardware() -> Hardware:
    """Describe the machine as far as speed and rounding may depend on it, without identifying it."""
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
    """Return the processor's name from Linux, or else from Python."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor()
