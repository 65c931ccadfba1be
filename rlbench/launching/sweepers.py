"""What `-m` makes cells from: plain sweeps over lists and ranges."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from rlbench.cli import fail
from rlbench.errors import BadInput


class PlainSweeper(BasicSweeper):
    """Hydra's own sweeper over lists and ranges; its launchers compose and check every cell, so it does not."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        continuous = [o.input_line for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]
        if continuous:
            advice = "an interval is searched, not swept: add hydra/sweeper=optuna, or give a list or a range"
            fail(BadInput(*(f"{text}: {advice}" for text in continuous)))
        return BasicSweeper.split_arguments(overrides, max_batch_size)
