"""Fixtures of all tests: a small `mini`, a small `tiny`, and composed configs."""

import os

for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy  # noqa: E402
import gc  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # noqa: E402
from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from hydra.core.override_parser.types import Override  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

from rlbench.config.resolving import resolve  # noqa: E402
from rlbench.config.schema import Config  # noqa: E402
from rlbench.data import load_dataset  # noqa: E402
from rlbench.data.record import RankedListDataset  # noqa: E402
from rlbench.running.cli import groups  # noqa: E402
from rlbench.runs import provenance, versions  # noqa: E402

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = groups()

# A shell without job control starts commands in the background with Ctrl-C ignored, and their children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Installed packages do not change. Without this cache each run in this process reads their metadata for half a second.
provenance.packages, versions.version = cache(provenance.packages), cache(versions.version)

_load, _loaded = OmegaConf.load, {}


def _load_once(source: Any) -> Any:
    """What `OmegaConf.load` returns. A text is parsed once, because parsing YAML is more than half of composing."""
    text = Path(source).read_text(encoding="utf-8") if isinstance(source, str | Path) else source.read()
    if text not in _loaded:
        if not isinstance(source, str | Path):
            source.seek(0)
        _loaded[text] = _load(source)
    return copy.deepcopy(_loaded[text])


OmegaConf.load = staticmethod(_load_once)

SMALL = [
    "dataset.contexts={train:40,validation:6,test:6}",
    "dataset.demonstrations=40",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.layers=2",
    "model.vocab_size=900",
    "baselines=[]",
    "tracker=none",
    "runtime.progress=false",
    "runtime.device=cpu",
    "runtime.threads=1",
]
"""Overrides for a run that takes a second or two."""


def slow(*values: Any) -> list[Any]:
    """Parameters that only the slow suite has."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def shares(values: Iterable[Any], *, parts: int = 2, fast: int) -> list[Any]:
    """Parameters of which one in `parts`, from place `fast` on, is in the fast suite, the others in the slow.

    Tests over all methods that run long share the methods. With 0 and 1 of 2 parts, each is in the fast share of one.
    """
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=[] if place % parts == fast else [pytest.mark.slow],
        )
        for place, value in enumerate(values)
    ]


def pytest_collection_finish() -> None:
    """Exempt imported objects from garbage collection. Each training would spend half a second on them."""
    gc.freeze()


def composed(*overrides: str) -> Config:
    """The config of a command line. Each choice of groups is composed once, as in a sweep, because Hydra is slow."""
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

    A test may delete WANDB_SERVICE before it ends the service. Restoring the variable would then leave the address of a
    service that is gone, and no later test in this process could track a run.
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
