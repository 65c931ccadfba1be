"""Lets Hydra find the sweeps in `experiments/`, so that `+table1=sweep` means experiments/table1/sweep.yaml."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from rlbench.base.program import CONF, EXPERIMENTS


class ExperimentsSearchPath(SearchPathPlugin):
    """Adds the folder after `conf/`, from any working directory. Other Hydra programs stay unchanged."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if any(element.path in (str(CONF), f"file://{CONF}") for element in search_path.get_path()):
            search_path.append("rlbench", f"file://{EXPERIMENTS}")
