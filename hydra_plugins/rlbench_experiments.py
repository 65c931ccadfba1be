"""Lets Hydra find the sweeps in `experiments/`: `+table1=sweep` is experiments/table1/sweep.yaml."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from rlbench.cli import EXPERIMENTS


class ExperimentsSearchPath(SearchPathPlugin):
    """Adds the folder after `conf/`, independent of the working directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("rlbench", f"file://{EXPERIMENTS}")
