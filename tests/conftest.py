"""Fixtures of all tests: a small `mini`, a small `tiny`, and composed configs."""

import os

for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy  # noqa: E402
import gc  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # noqa: E402
from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from hydra.core.override_parser.types import Override  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from rlbench.config.resolving import resolve  # noqa: E402
from rlbench.config.schema import Config  # noqa: E402
from rlbench.data import load_dataset  # noqa: E402
from rlbench.data.record import RankedListDataset  # noqa: E402
from rlbench.running.cli import groups  # noqa: E402
from rlbench.runs import provenance, versions  # noqa: E402

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = groups()

# Installed packages do not change, and reading their metadata again takes every run of this process half a second.
provenance.packages, versions.version = cache(provenance.packages), cache(versions.version)

SMALL = [
    "dataset.contexts={train:40,validation:6,test:6}",
    "dataset.demonstrations=40",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.layers=2",
    "model.vocab_size=900",
    "tracker=none",
    "runtime.progress=false",
    "runtime.device=cpu",
    "runtime.threads=1",
]
"""Overrides that make a run of a second or two."""


def pytest_collection_finish() -> None:
    """Exempt imported objects from garbage collection, which every training starts: it would take half a second."""
    gc.freeze()


def composed(*overrides: str) -> Config:
    """The config of a command line. As in a sweep, Hydra composes each choice of groups once, which it does slowly."""
    parsed = [_parse(text) for text in overrides]
    chosen = tuple(text for text, override in zip(overrides, parsed, strict=True) if _chooses_group(override))
    config = copy.deepcopy(_of_groups(chosen))
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not _chooses_group(o)], config)
    return resolve(config)


@cache
def _parse(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _chooses_group(override: Override) -> bool:
    return override.key_or_group in GROUPS or override.is_hydra_override()


@cache
def _of_groups(choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(choices))


@pytest.fixture(autouse=True)
def no_wandb_left() -> Iterator[None]:
    """End the W&B service that a test started, and remove its environment variables.

    Otherwise a test that first deletes WANDB_SERVICE and then ends the service would put back the address of a dead
    one, and no later test of this process could track a run.
    """
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_MODE"]:
        del os.environ[name]


@pytest.fixture
def config() -> Callable[..., Config]:
    return composed


@pytest.fixture(scope="session")
def mini() -> RankedListDataset:
    """A small `mini`."""
    return load_dataset(composed(*SMALL).dataset)


@pytest.fixture(scope="session")
def tiny_folder(mini: RankedListDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `tiny`, untrained."""
    from rlbench.models import tiny

    return tiny.build(composed(*SMALL).model, mini, tmp_path_factory.mktemp("cache"))
