"""The classical baselines of a cell: which ones its data allow. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlbench.config.baselines import expanded
from rlbench.config.schema import Config
from rlbench.runs import inputs
from rlbench.runs.directory import DONE, Run, locate

if TYPE_CHECKING:
    from rlbench.data.record import RankedListDataset


def baseline_runs(config: Config) -> list[Run]:
    """Return the directories of the baselines that a cell's data allow, in the order of the tables.

    Raises:
        BadInput: as `locate`.
    """
    if not config.baselines:
        return []
    refused = refused_by(inputs.load(config))
    return [locate(config, "baseline", name) for name in expanded(config.baselines) if name not in refused]


def missing_baselines(configs: Sequence[Config]) -> list[Config]:
    """Return one config for each set of baselines of which some are not finished.

    Raises:
        BadInput: as `locate`.
    """
    found: dict[tuple[Path, ...], Config] = {}
    for config in configs:
        every = [locate(config, "baseline", name) for name in expanded(config.baselines)]
        if all(run.status() == DONE for run in every):
            continue  # without reading the data
        if missing := tuple(run.root for run in baseline_runs(config) if run.status() != DONE):
            found.setdefault(missing, config)
    return list(found.values())


def check_on_data(config: Config, dataset: "RankedListDataset") -> list[str]:
    """Return one sentence for each baseline that a config names and the data do not allow."""
    refused = refused_by(dataset) if config.baselines else {}
    return [
        f"the baseline {name} cannot run on {dataset.name}: {refused[name]}. Leave it out of baselines"
        for name in config.baselines
        if name in refused
    ]


def left_out(config: Config, dataset: "RankedListDataset") -> list[str]:
    """Return one sentence for each default baseline that the data do not allow."""
    refused = refused_by(dataset) if config.baselines else {}
    return [
        f"no baseline {name}: {refused[name]}"
        for name in expanded(config.baselines)
        if name in refused and name not in config.baselines
    ]


def refused_by(dataset: "RankedListDataset") -> dict[str, str]:
    """Return the baselines that a dataset does not allow, with the reason."""
    from rlbench.baselines.recommend import refusals  # scipy takes a while to import

    return refusals(dataset, dataset.catalog)
