"""The run that `wandb agent` has made for this process (docs/sweeps.md).

The agent starts a command with the id of the run in the environment. wandb applies these variables to every run of the
process, but a cell has several: its shared stages are runs of their own. Therefore the variables are taken out of the
environment, and only the cell's last stage, which the sweep is about, becomes the agent's run.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SWEEP, RUN, PARAMETERS = "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"
"""Variables of the agent: ids of sweep and run, and the file with what the sweep chose."""


def started_by_agent() -> bool:
    """Whether `wandb agent` has started this process, and no tracker has been made in it yet."""
    return SWEEP in os.environ and RUN in os.environ


@dataclass(frozen=True)
class AgentRun:
    """A run made by `wandb agent`.

    Args:
        id: of the run.
        sweep: id of its sweep.
        file: the chosen parameters, in the format of W&B's config files; None if the agent gave none.
    """

    id: str
    sweep: str
    file: str | None


class Agent:
    """The agent that started this process, if one did."""

    def __init__(self) -> None:
        self.is_here = False
        self._run: AgentRun | None = None

    def notice(self) -> None:
        """Take the agent's variables out of the environment. Must run before wandb is set up."""
        if started_by_agent():
            self._run = AgentRun(os.environ.pop(RUN), os.environ.pop(SWEEP), os.environ.pop(PARAMETERS, None))
            self.is_here = True

    def take(self) -> AgentRun | None:
        """Return the agent's run to the first caller, and None to all others: no two stages share a run."""
        taken, self._run = self._run, None
        return taken


AGENT = Agent()
"""The agent of this process."""


def with_parameters(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the parameters of a sweep.

    W&B reads a run's parameters from its config by their names, and a swept group has the name of its settings. The
    settings then move from `algorithm` to `algorithm_settings`, because the chosen option has that place.

    Args:
        config: nested.
        parameters: by the key of their override, for example `algorithm` or `trainer.rl.learning_rate`.
    """
    moved = {f"{key}_settings": config[key] for key in parameters if isinstance(config.get(key), Mapping)}
    return {**config, **moved, **parameters}
