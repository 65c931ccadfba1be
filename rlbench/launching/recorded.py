"""Composes the cells of a sweep in `experiments/` without running them: `+table1=sweep`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import CONF, EXPERIMENTS
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.launching.composing import compose_cells
from rlbench.launching.sweepers import combinations, merged


@dataclass(frozen=True)
class RecordedCell:
    """One cell of a recorded sweep.

    Attributes:
        overrides: the overrides of its command, in order.
        choices: values of the swept keys (without +) in this cell.
        config: composed and typed; its values are not checked.
    """

    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    config: Config


def recorded_sweeps() -> dict[str, list[str]]:
    """Return the sweeps in each folder of `experiments/` that has any."""
    found: dict[str, list[str]] = {}
    for path in sorted(EXPERIMENTS.glob("*/*.yaml")):
        if (path.parent / "README.md").is_file():
            found.setdefault(path.parent.name, []).append(path.stem)
    return found


def recorded_cells(experiment: str, sweep: str, overrides: Sequence[str] = ()) -> list[RecordedCell]:
    """Return every cell of `python run.py +EXPERIMENT=SWEEP OVERRIDES`.

    Raises:
        BadInput: if the sweep does not exist or cannot be composed.
    """
    known = recorded_sweeps()
    if sweep not in known.get(experiment, []):
        names = [f"{folder}={name}" for folder, sweeps in known.items() for name in sweeps]
        wanted = f"{experiment}={sweep}"
        raise BadInput(
            f"experiments/{experiment}/{sweep}.yaml: there is no such sweep; known: {', '.join(names)}."
            f"{nearest(wanted, names)}"
        )
    chosen = f"+{experiment}={sweep}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = compose("config", overrides=[chosen], return_hydra_config=True)
            parser, loader = OverridesParser.create(), GlobalHydra.instance().config_loader()
            params = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create())
            assert isinstance(params, dict)
            swept = merged(parser, {str(key): str(value) for key, value in params.items()}, [chosen, *overrides])
            (lines,) = combinations(swept, None)
            configs = [resolve(config) for config in compose_cells(loader, composed, lines)]
        except HydraException as error:
            raise BadInput(f"+{experiment}={sweep}: {str(error).splitlines()[0]}") from error
    cells = []
    for line, config in zip(lines, configs, strict=True):
        ordered = (chosen, *(text for text in line if text != chosen))
        choices = dict(text.lstrip("+").split("=", 1) for text in ordered[1:])
        cells.append(RecordedCell(ordered, choices, config))
    return cells
