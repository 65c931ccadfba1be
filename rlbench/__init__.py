"""rlbench: a benchmark and experiment harness for GRPO variants on ranked-list generation.

The names in `__all__` are the API for Python (docs/python.md). A name is loaded when it is first used, because most of
them need torch, pandas or matplotlib, and `import rlbench` needs none of these.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# peft imports bitsandbytes wherever it is installed, and that warns at each start about a faster kernel for CPUs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from analysis.api.plots import plot_credit as plot_credit
    from analysis.api.plots import plot_curves as plot_curves
    from analysis.api.plots import plot_training as plot_training
    from analysis.api.runs import Runs as Runs
    from analysis.api.runs import read as read
    from rlbench.api.experiment import Experiment as Experiment
    from rlbench.api.experiment import ExperimentFailed as ExperimentFailed
    from rlbench.api.groups import sample_group as sample_group
    from rlbench.api.lists import metrics as metrics
    from rlbench.api.lists import parse as parse
    from rlbench.api.objectives import objective as objective
    from rlbench.api.trl import trl_trainer as trl_trainer
    from rlbench.base.errors import BadInput as BadInput

# Names of modules are texts here, as in `rlbench.__main__`: the two entry points know both packages, and no room of
# rlbench imports the analysis.
_MODULES = {
    "BadInput": "rlbench.base.errors",
    "Experiment": "rlbench.api.experiment",
    "ExperimentFailed": "rlbench.api.experiment",
    "Runs": "analysis.api.runs",
    "metrics": "rlbench.api.lists",
    "parse": "rlbench.api.lists",
    "plot_credit": "analysis.api.plots",
    "plot_curves": "analysis.api.plots",
    "plot_training": "analysis.api.plots",
    "read": "analysis.api.runs",
    "sample_group": "rlbench.api.groups",
    "trl_trainer": "rlbench.api.trl",
}

__all__ = [
    "BadInput",
    "Experiment",
    "ExperimentFailed",
    "Runs",
    "metrics",
    "objective",
    "parse",
    "plot_credit",
    "plot_curves",
    "plot_training",
    "read",
    "sample_group",
    "trl_trainer",
]


def __getattr__(name: str) -> Any:
    if name == "objective":  # the room of this name can be called (rlbench/objective/__init__.py)
        return importlib.import_module("rlbench.objective")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name.startswith("_"):
        raise AttributeError(name)  # asked by Python itself, such as __path__ or __wrapped__
    from rlbench.base.errors import nearest

    raise AttributeError(f"rlbench has no name '{name}'.{nearest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
