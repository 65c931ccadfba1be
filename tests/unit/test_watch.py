"""The board of `status --watch`: its rows, and which processes it may touch."""

import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from analysis.commands import cell_processes
from analysis.commands.board import Live, board, ordered, short_names, sparkline, time_left
from analysis.commands.cell_processes import process_of, runnable, stop
from analysis.commands.status import CellState
from analysis.commands.watch import Watch, validation_curve
from analysis.status import main
from rlbench.base.program import RUN_PY
from rlbench.runs.attempts import begin
from rlbench.runs.record import JOB, MEASUREMENTS
from tests.unit.test_analysis_status import experiment, make

__all__ = ["experiment"]

CELLS = [
    CellState("mini-tiny/sft/seed0-11111111", "done", "sft test", 300, 300),
    CellState("mini-tiny/grpo-relevance/seed0-22222222", "running", "seed 0", 30, 60, 130.0, 1.0),
    CellState("mini-tiny/rank_grpo-relevance/seed1-33333333", "interrupted", "", 12, 60, reason="SIGTERM at update 12"),
    CellState("mini-tiny/dapo-relevance/seed0-44444444", "missing", total=60),
]


def drawn(cells: list[CellState], selected: int = 0, size: tuple[int, int] = (80, 24), **options: object) -> list[str]:
    live = {"running": Live((0.1, 0.2, 0.3), 3 * 2**29, 2**30)}
    console = Console(width=size[0], file=io.StringIO())
    console.print(
        board("runs/mini", [(cell, live.get(cell.state, Live())) for cell in cells], selected, size, **options)
    )
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_every_cell_is_one_line_that_fits(width: int) -> None:
    lines = drawn(ordered(CELLS), size=(width, 24))
    assert max(map(len, lines)) <= width
    (running,) = (line for line in lines if " grpo-relevance s0" in line)
    for part in ("▶", "running", "███─── 30/60", "2 min", "▁", "█ .300", "1.50G"):
        assert part in running
    assert ("1.00G" in running) == (width >= 110)  # the process's memory on GPUs
    order = [next(name for name in ("rank", "grpo", "dapo", "sft") if name in line) for line in lines[2:6]]
    assert order == ["grpo", "rank", "dapo", "sft"]


def test_the_line_on_the_selected_cell_and_a_window_over_many() -> None:
    assert "SIGTERM at update 12" in drawn(ordered(CELLS), 1)[-2]
    many = [CellState(f"mini-tiny/row{i:02}/seed0-{i:08}", "missing", total=60) for i in range(40)]
    lines = drawn(many, 35, (80, 15))
    assert len(lines) <= 15 and any("▶ row35" in line for line in lines) and "33 more cells" in "".join(lines)
    assert drawn(many, -1, (80, 99), keys="")[-1].startswith("  row39")


def test_small_parts() -> None:
    assert sparkline(()) == "" and sparkline((0.5, 0.5)) == "▁▁ .500"
    assert [time_left(s) for s in (None, 59, 60, 7200)] == ["", "59 s", "1 min", "2.0 h"]
    assert short_names(["a/x/seed0-1", "b/x/seed0-2", "a/y/seed0-1"]) == ["a/x/seed0-1", "b/x/seed0-2", "y s0"]


def test_the_curve_is_ndcg_at_the_largest_cutoff(tmp_path: Path) -> None:
    rows = [(0, "ndcg@5", 0.9), (0, "ndcg@10", 0.1), (20, "ndcg@10", 0.3), (20, "ndcg@10", 0.2)]
    MEASUREMENTS.append(tmp_path, [{"step": s, "split": "validation", "metric": m, "value": v} for s, m, v in rows])
    assert validation_curve(tmp_path) == (0.1, 0.2)
    (tmp_path / MEASUREMENTS.name).write_text("nonsense\n")
    assert validation_curve(tmp_path) == ()


def test_only_a_process_that_has_the_lock_open_is_signalled(tmp_path: Path) -> None:
    """A process id may belong to anything: on another machine, or after the run has ended."""
    run = make(tmp_path, "gspo", "running\n", description="seed 0", done=1, total=2)
    begin(run)  # with the id of this process, which does not have the lock
    assert process_of(run) is None
    assert "works on another machine" in stop(run) and "SLURM" not in stop(run)
    JOB.write(run, {"job": "12_3"})
    assert "SLURM job 12_3" in stop(run)
    with (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = process_of(run)
        assert process is not None and process.pid == os.getpid()


def test_keys_do_only_what_fits_the_state(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Watch(experiment)
    shown.refresh()
    state = {cell.state: i for i, (cell, _) in enumerate(shown.cells)}
    assert shown.cells[shown.place][0].state == "running"
    shown.resume()
    assert "is running, so there is nothing to resume" in shown.cells[shown.place][1].said
    shown.move(state["done"])
    shown.stop()
    assert "is done, so there is nothing to stop" in shown.cells[shown.place][1].said
    shown.move(-99)
    shown.move(state["missing"])
    started = []
    monkeypatch.setattr("analysis.commands.watch.resume", lambda root, command: started.append(command) or Ended())
    shown.resume()
    shown.resume()
    assert started == [("python", "run.py", "algorithm=canon")]
    assert "has been resumed and is starting" in shown.cells[shown.place][1].said
    Ended.code = 2
    shown.refresh()
    assert "ended with exit code 2" in shown.cells[shown.place][1].said


class Ended:
    code: int | None = None

    def poll(self) -> int | None:
        return self.code


def test_recorded_commands_start_from_anywhere() -> None:
    python = sys.executable
    assert runnable(["python", "run.py", "seed=1"]) == [python, str(RUN_PY), "seed=1"]
    assert runnable(["rlbench", "clone", "x"]) == [python, "-m", "rlbench", "clone", "x"]
    assert runnable(["python", "-m", "rlbench.clone", "x"]) == [python, "-m", "rlbench.clone", "x"]
    many = ["python", "-m", "torch.distributed.run", "--nproc_per_node=2", "run.py", "seed=1"]
    assert runnable(many) == [python, *many[1:4], str(RUN_PY), "seed=1"]


def test_gpu_numbers_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cell_processes.gpu_lines() == [] or cell_processes.gpu_bytes() is not None
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *gpu=*) echo "0, 87, 2048, 81920";; *) echo "42, 512"; echo "42, 512";; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert cell_processes.gpu_lines() == ["GPU 0: 87 %, 2.0 of 80.0 GiB"]
    assert cell_processes.gpu_bytes() == {42: 2**30}
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert cell_processes.gpu_lines() == [] and cell_processes.gpu_bytes() == {}


def test_without_a_terminal_it_prints_once(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(experiment), "--watch"]) == 1
    said = capsys.readouterr().out
    assert "1 running" in said and "gspo-relevance s0" in said and "printed once" in said
    assert main([str(experiment), "--watch", "--commands"]) == 2
    assert "leave out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(experiment), "--watch", "--every", "0"])


def test_importing_the_board_loads_no_torch() -> None:
    code = "import analysis.commands.watch, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
