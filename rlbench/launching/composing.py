"""Composes the configs of many cells quickly: Hydra runs once per choice of config groups.

The cells of a sweep differ in few groups and many plain values. Hydra applies plain values on top of the composed
groups. Cells with the same groups therefore share that part, and each gets a copy with its own values.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict


def compose_cells(
    loader: ConfigLoader, composed: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> Iterator[DictConfig]:
    """Yield the config of each cell without its `hydra` node, equal to `loader.load_sweep_config` of its overrides.

    Args:
        loader: Hydra's config loader.
        composed: the config of the whole sweep, with its `hydra` node.
        job_overrides: the overrides of each cell.

    Raises:
        HydraException: if an override cannot be applied.
    """
    own = OmegaConf.to_container(composed.hydra.overrides.hydra)
    assert isinstance(own, list)
    name = composed.hydra.job.config_name
    plain: dict[tuple[str, bool], bool] = {}  # (key, whether its value is a dict) -> whether it sets a plain value
    shared: dict[tuple[str, ...], DictConfig] = {}
    for texts in job_overrides:
        overrides = [_parse(text) for text in texts]
        if any(_kind(override) not in plain for override in overrides):
            defaults = loader.compute_defaults_list(name, [*own, *texts], RunMode.RUN)
            values = {override.input_line for override in defaults.config_overrides}
            plain |= {_kind(o): o.input_line in values and not o.is_hydra_override() for o in overrides}
        choices = tuple(text for text, o in zip(texts, overrides, strict=True) if not plain[_kind(o)])
        if choices not in shared:
            base = loader.load_configuration(name, [*own, *choices], RunMode.RUN)
            with open_dict(base):
                del base["hydra"]
            OmegaConf.copy_cache(from_config=composed, to_config=base)
            shared[choices] = base
        config = copy.deepcopy(shared[choices])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in overrides if plain[_kind(o)]], config)
        yield config


@cache
def _parse(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _kind(override: Override) -> tuple[str, bool]:
    """Return the properties by which Hydra decides whether an override chooses a group or sets a value."""
    return override.key_or_group, isinstance(override.value(), dict)
