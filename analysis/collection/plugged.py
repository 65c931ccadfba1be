"""Loads the plugins that runs name, so that their metrics have titles."""

from collections.abc import Sequence
from pathlib import Path

from analysis.collection.reading import FinishedRun
from analysis.collection.sources import Source
from analysis.problems import Problem
from rlbench.base.errors import BadInput
from rlbench.config.plugins import load_plugins
from rlbench.lists.metric_catalogue import entry_of


def load_metrics(runs: Sequence[FinishedRun], source: Source) -> list[Problem]:
    """Load the plugins of runs with metrics that the catalogue lacks.

    Plugins below the folder of runs are not loaded: runs may come from elsewhere, and a plugin is a program.

    Returns:
        A notice for each plugin without which metrics stay under their recorded names.
    """
    said: dict[str, Problem] = {}
    for run in runs:
        unknown = [name for name in run.metrics if entry_of(name) is None]
        for plugin in _plugins(run.name, source) if unknown else ():
            reason = _loaded(plugin, source.folder)
            if lacking := [name for name in unknown if entry_of(name) is None]:
                why = reason or f"plugins: {plugin} does not register them"
                notice = f"{', '.join(lacking)}: shown under the recorded name. {why}"
                said.setdefault(plugin, Problem(run.name, notice, left_out=False))
    return list(said.values())


def _plugins(run: str, source: Source) -> list[str]:
    """The plugins that a run's settings name."""
    try:
        found = source.config(run).get("plugins")
    except BadInput:
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list | tuple) else []


def _loaded(plugin: str, folder: Path) -> str:
    """Load a plugin; "" or why it is not loaded."""
    if plugin.endswith(".py") and Path(plugin).resolve().is_relative_to(folder.resolve()):
        return f"plugins: {plugin} is in the folder of runs, from which no code is run; move it elsewhere"
    return "; ".join(load_plugins([plugin]))
