"""Decisions of the launcher and the sweepers before any cell starts."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlbench.base.errors import BadInput
from rlbench.launching.cells import Cell, missing_shared_stages
from rlbench.launching.local import LocalLauncher, _stage_of, cores, threads_of
from rlbench.launching.placement import VISIBLE
from rlbench.launching.sweepers import combinations, merged
from rlbench.running.checks import check_config
from rlbench.runs.directory import DONE, PRUNED, RUNNING, locate
from tests.conftest import SMALL, composed


@pytest.fixture
def cell(tmp_path) -> Cell:
    """A cell that uses a GPU if there is one."""
    config = composed(*SMALL, "runtime.device=auto", f"runs_dir={tmp_path}")
    return Cell([], [], config, locate(config, "rl"))


@pytest.mark.parametrize("status", [PRUNED, DONE, RUNNING])
def test_what_an_earlier_command_left_is_no_reason(cell, status):
    """A process killed before its run began leaves an earlier command's STATUS unchanged."""
    cell.run.set_status(status, "stopped early at update 4")
    assert cell.reason().startswith("it ended without a message")


def launcher(jobs="auto", gpus="auto", cells_per_gpu=1, gpu_share=None) -> LocalLauncher:
    return LocalLauncher(jobs, 1, gpus, cells_per_gpu, gpu_share)


def test_so_many_cells_run_at_once_as_gpus_have_room_for(cell, monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,7")
    assert launcher().gpus == ("4", "7") and launcher(gpus=[1]).gpus == ("7",)
    assert launcher().at_once([cell]) == 2
    assert launcher(cells_per_gpu=3).at_once([cell]) == 6
    assert launcher(jobs=1).at_once([cell]) == 1
    assert launcher(jobs=9).at_once([cell]) == 2
    cell.config.runtime.device = "cpu"
    assert launcher(jobs=9).at_once([cell]) == 9 and launcher().at_once([cell]) == 1


def test_without_gpus_jobs_says_it_alone(cell, monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    assert launcher().at_once([cell]) == 1 and launcher(jobs=3, cells_per_gpu=2).at_once([cell]) == 3


def test_the_share_is_that_of_cells_which_share(cell):
    assert launcher()._share(("0",)) is None
    assert launcher(cells_per_gpu=4)._share(("0",)) == 0.25
    assert launcher(cells_per_gpu=2, gpu_share=0.3)._share(("0",)) == 0.3
    assert launcher(cells_per_gpu=2)._share(("0", "1")) is None and launcher(cells_per_gpu=2)._share(()) is None


def test_runtime_threads_is_a_limit(cell):
    cell.config.runtime.threads = 2
    assert (threads_of(cell, 1), threads_of(cell, 8)) == (1, 2)
    cell.config.runtime.threads = None
    assert threads_of(cell, 8) == 8


def test_cells_share_the_cores_of_the_command(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})  # as taskset and SLURM set it
    assert cores() == 4
    for limit, left in (("3", 3), ("1", 1), ("64", 4), ("0", 4), ("", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert cores() == left


def test_settings_are_checked_before_cells_run(cell):
    with pytest.raises(BadInput, match="hydra.launcher.cells_per_gpu = 0"):
        launcher(cells_per_gpu=0).check([cell])
    launcher(gpus=[0]).check([cell])


@pytest.mark.parametrize("share", [0, 1.5, -0.5])
def test_a_share_of_a_gpu_lies_in_0_1(share):
    (problem,) = check_config(composed(*SMALL, f"runtime.gpu_share={share}"))
    assert f"runtime.gpu_share = {share}" in problem.replace(".0 ", " ")


def test_an_interval_is_searched_and_not_swept():
    overrides = OverridesParser.create().parse_overrides(["a=interval(0, 1)", "b=interval(0, 1)", "seed=0,1", "c=3"])
    with pytest.raises(BadInput, match=r"(?s)a=interval.*cannot use an interval.*b=interval"):
        combinations(overrides, None)
    assert combinations(overrides[2:], None) == [[["seed=0", "c=3"], ["seed=1", "c=3"]]]
    assert combinations(overrides[2:], 1) == [[["seed=0", "c=3"]], [["seed=1", "c=3"]]]


def test_cells_without_sft_wait_for_none(tmp_path):
    def made(*overrides: str) -> Cell:
        config = composed(*SMALL, f"runs_dir={tmp_path}", *overrides)
        return Cell([], [], config, locate(config, config.stage))

    after, without = made(), made("trainer.rl.start=base")
    assert missing_shared_stages([without]) == {}
    assert missing_shared_stages([after, without]) == {locate(after.config, "sft").root: [after]}


def test_a_command_takes_the_place_of_what_a_recorded_sweep_sets() -> None:
    params = {"+method": "grpo,gspo", "seed": "0,1,2", "model": "tiny"}
    found = merged(OverridesParser.create(), params, ["+table1=mini", "seed=7", "+method=grpo"])
    assert [override.input_line for override in found] == ["model=tiny", "+table1=mini", "seed=7", "+method=grpo"]


def test_finished_cells_need_no_gpus_and_their_stage_is_not_made_again(cell, monkeypatch):
    monkeypatch.setenv(VISIBLE, "4")
    cell.processes = 2
    assert cell.gpus == 2 and threads_of(cell, 8) == 1  # because runtime.threads=1
    cell.config.runtime.threads = None
    assert threads_of(cell, 8) == 4
    with pytest.raises(BadInput, match="a cell needs 2 GPUs, but only 1 are available"):
        launcher().check([cell])
    assert list(missing_shared_stages([cell])) == [locate(cell.config, "sft").root]
    for stage in ("sft", "rl"):
        locate(cell.config, stage).set_status(DONE)
    launcher().check([cell])
    assert missing_shared_stages([cell]) == {}


def test_a_shared_stage_is_a_cell_of_its_own(cell):
    stage = _stage_of(cell)
    assert stage.run == locate(cell.config, "sft") and stage.overrides == ["stage=sft"]
    assert (stage.config.stage, stage.updates) == ("sft", cell.config.trainer.sft.updates)
