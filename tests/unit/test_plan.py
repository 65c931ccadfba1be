"""A dry run says what a command would do and does nothing."""

import json

from rich.console import Console

from rlbench.plan import show, steps
from rlbench.runner import run
from rlbench.runs import DONE, locate
from tests.conftest import SMALL, composed


def finished(config, stage, updates, seconds):
    made = locate(config, stage)
    made.root.mkdir(parents=True)
    (made.root / "identity.json").write_text(json.dumps(made.identity))
    (made.root / "budget.json").write_text(json.dumps({"updates": updates, "seconds": {"total": seconds}}))
    made.set_status(DONE)


def cells(tmp_path, *more):
    return [composed(*SMALL, f"runs_dir={tmp_path}", "trainer.rl.updates=40", f"seed={seed}", *more) for seed in (0, 1)]


def test_shared_stages_stand_once_and_expectations_come_from_what_has_finished(tmp_path):
    configs = cells(tmp_path)
    found = steps(configs)
    assert [step.run.stage for step in found] == ["zero_shot", "sft", "rl", "rl"]
    assert all(step.status is None and step.seconds is None for step in found)
    finished(configs[0], "rl", updates=40, seconds=100.0)
    longer = cells(tmp_path, "trainer.rl.updates=80")
    assert [step.seconds for step in steps(longer) if step.run.stage == "rl"] == [200.0, 200.0]
    assert [step.status for step in steps(configs) if step.run.stage == "rl"] == [DONE, None]


def test_the_plan_is_shown(tmp_path):
    configs = cells(tmp_path)
    finished(configs[0], "rl", 40, 100.0)
    console = Console(record=True, width=160)
    show(configs, 2, console)
    text = console.export_text()
    assert "4 stages of 2 cells, 1 done, 3 to run" in text
    assert "expected: unknown" in text and "1 min 40 s" in text
    for stage, updates, seconds in (("zero_shot", 0, 10.0), ("sft", 8, 20.0)):
        finished(configs[0], stage, updates, seconds)
    show(configs, 1, console)
    assert "3 done, 1 to run" in (text := console.export_text())
    assert "expected: about 1 min 40 s with 1 at once" in text


def test_a_dry_run_makes_no_run_directory(tmp_path):
    config = composed(*SMALL, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "runtime.dry_run=true")
    made = run(config)
    assert made == locate(config, "rl") and not (tmp_path / "runs").exists()


def test_rl_without_sft_waits_for_no_sft(tmp_path):
    base = cells(tmp_path, "trainer.rl.start=base")
    assert [step.run.stage for step in steps(base)] == ["zero_shot", "rl", "rl"]
    assert [step.run.stage for step in steps(base + cells(tmp_path))] == ["zero_shot", "sft", *["rl"] * 4]


def test_shared_stages_are_expected_one_after_another_and_cells_side_by_side(tmp_path):
    """200 s of two cells take 100 s with two at once; the SFT stage before them takes its 160 s."""
    finished(cells(tmp_path, "trainer.sft.updates=8")[0], "sft", 8, 80.0)
    finished(cells(tmp_path, "trainer.rl.start=base")[0], "rl", 40, 100.0)
    configs = cells(tmp_path, "trainer.sft.updates=16")
    finished(configs[0], "zero_shot", 0, 10.0)
    console = Console(record=True, width=160)
    show(configs, 2, console)
    assert "expected: about 4 min 20 s with 2 at once" in console.export_text()


def test_runs_that_are_under_way_tell_of_no_rate(tmp_path):
    other = cells(tmp_path, "trainer.rl.start=base")[0]
    finished(other, "rl", 40, 100.0)
    locate(other, "rl").set_status("running")
    assert all(step.seconds is None for step in steps(cells(tmp_path)))
