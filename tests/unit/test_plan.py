"""A dry run shows what a command would do, and does nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.models.loading import locate_model
from rlbench.models.sources import folder_digests
from rlbench.running.plan import show, steps
from rlbench.running.runner import run
from rlbench.runs import inputs
from rlbench.runs.claiming import claim
from rlbench.runs.directory import DONE, locate, seal
from tests.conftest import SMALL, composed
from tests.helpers_inputs import OF_REDIAL, write_redial


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
    assert [step.run.stage for step in found] == ["oracle", "zero_shot", "sft", "rl", "rl"]
    assert all(step.status is None and step.seconds is None and step.source is None for step in found)
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
    assert "5 stages of 2 cells, 1 done, 4 to run" in text
    assert "expected: unknown" in text and "1 min 40 s" in text
    for stage, updates, seconds in (("oracle", 0, 1.0), ("zero_shot", 0, 10.0), ("sft", 8, 20.0)):
        finished(configs[0], stage, updates, seconds)
    show(configs, 1, console)
    assert "4 done, 1 to run" in (text := console.export_text())
    assert "expected: about 1 min 40 s with 1 at once" in text


def test_a_dry_run_makes_no_run_directory(tmp_path):
    config = composed(*SMALL, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "runtime.dry_run=true")
    made = run(config)
    assert made == locate(config, "rl") and not (tmp_path / "runs").exists()


def test_a_dry_run_of_a_finished_run_shows_the_plan(tmp_path, capsys):
    config = composed(*SMALL, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "runtime.dry_run=true")
    finished(config, "rl", 40, 100.0)
    seal(locate(config, "rl").root)
    run(config)
    said = capsys.readouterr().err
    assert "already done" in said and "4 stages of 1 cells, 1 done, 3 to run" in said


def test_a_dry_run_refuses_a_folder_that_cannot_be_created(tmp_path):
    with pytest.raises(BadInput, match="runs_dir = /proc/x: no folder can be created in /proc"):
        run(composed(*SMALL, "runs_dir=/proc/x", f"cache_dir={tmp_path}/cache", "runtime.dry_run=true"))


def test_rl_without_sft_waits_for_no_sft(tmp_path):
    base = cells(tmp_path, "trainer.rl.start=base")
    assert [step.run.stage for step in steps(base)] == ["oracle", "zero_shot", "rl", "rl"]
    assert [step.run.stage for step in steps(base + cells(tmp_path))] == ["oracle", "zero_shot", "sft", *["rl"] * 4]


def test_shared_stages_are_expected_one_after_another_and_cells_side_by_side(tmp_path):
    """Two cells with 200 s in total take 100 s side by side, after 160 s of the shared SFT stage."""
    finished(cells(tmp_path, "trainer.sft.updates=8")[0], "sft", 8, 80.0)
    finished(cells(tmp_path, "trainer.rl.start=base")[0], "rl", 40, 100.0)
    configs = cells(tmp_path, "trainer.sft.updates=16")
    finished(configs[0], "oracle", 0, 1.0)
    finished(configs[0], "zero_shot", 0, 10.0)
    console = Console(record=True, width=160)
    show(configs, 2, console)
    assert "expected: about 4 min 20 s with 2 at once" in console.export_text()


def test_runs_that_are_under_way_tell_of_no_rate(tmp_path):
    other = cells(tmp_path, "trainer.rl.start=base")[0]
    finished(other, "rl", 40, 100.0)
    locate(other, "rl").set_status("running")
    assert all(step.seconds is None for step in steps(cells(tmp_path)))


def shared_elsewhere(config):
    """Finish a config's shared stages in another experiment, as its own command would."""
    there = replace(config, experiment_name="there")
    folder = locate_model(config.model, inputs.load(config), Path(config.cache_dir))
    for stage in ("oracle", "zero_shot", "sft"):
        made = locate(there, stage)
        with claim(made, there):
            write_json(made.root / "result.json", {"budget": {}})
            write_json(made.root / "manifest.json", {"model": {"files": folder_digests(Path(folder), folder)}})
            write_json(made.root / "budget.json", {"updates": 8, "seconds": {"total": 80.0}})
    return there


def test_stages_of_another_experiment_are_shown_as_taken(tmp_path):
    configs = cells(tmp_path, f"cache_dir={tmp_path / 'cache'}")
    there = shared_elsewhere(configs[0])
    found = steps(configs)
    assert [step.source for step in found[:3]] == [locate(there, step.run.stage).root for step in found[:3]]
    assert [(step.run.stage, step.to_run) for step in found[2:]] == [("sft", False), ("rl", True), ("rl", True)]
    console = Console(record=True, width=200)
    show(configs, 1, console)
    text = console.export_text()
    for stage in ("oracle", "zero_shot", "sft"):
        assert f"taken from there/mini-tiny/{stage}/{locate(there, stage).root.name}" in text
    assert "5 stages of 2 cells, 0 done, 3 taken from other experiments, 2 to run" in text
    assert not (tmp_path / configs[0].experiment_name).exists()


def test_only_what_would_be_taken_is_shown_as_taken(tmp_path):
    """Stages are not taken if they are done here, began with other model files, or are damaged."""
    config = cells(tmp_path, f"cache_dir={tmp_path / 'cache'}")[0]
    there = shared_elsewhere(config)
    finished(config, "zero_shot", 0, 10.0)
    sft = locate(there, "sft")
    write_json(sft.root / "manifest.json", {"model": {"files": {"model.safetensors": "0" * 64}}})
    seal(sft.root)
    taken = {step.run.stage: step.source is not None for step in steps([config])}
    assert taken == {"oracle": True, "zero_shot": False, "sft": False, "rl": False}
    (sft.root / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match=f"{sft.root} has the status done, but manifest.json has"):
        steps([config])


def test_data_without_best_lists_have_no_oracle_stage(tmp_path):
    config = composed(*OF_REDIAL, f"runs_dir={tmp_path / 'runs'}")
    config.dataset.path = str(write_redial(tmp_path / "data"))
    assert [step.run.stage for step in steps([config])] == ["zero_shot", "sft", "rl"]
