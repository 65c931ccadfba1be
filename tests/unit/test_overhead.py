"""The overhead benchmark measures what it claims: finished sweeps that run nothing, next to Hydra's own jobs."""

import pytest

from benchmarks.overhead import finish_cells, finished_sweep, seconds_of, sweep_arguments
from rlbench.runs.directory import DONE


@pytest.mark.slow
def test_cells_are_done_and_the_sweep_finds_them_so(tmp_path):
    runs = finish_cells(tmp_path / "runs", 2, 1)
    assert len(runs) == 2 and all(run.status() == DONE for run in runs)
    assert sweep_arguments(tmp_path, 2, 3)[1] == "seed=0,1,2"
    ours, hydras = finished_sweep(tmp_path, 2, 1, 1)
    assert ours > 0 and hydras > 0


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="exit code 0"):
        seconds_of(["true"], "something else")
    with pytest.raises(RuntimeError, match="exit code 1"):
        seconds_of(["false"], "")
