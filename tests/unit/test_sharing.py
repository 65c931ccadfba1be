"""Finished stages of other experiments: which are adopted, and the effect on both folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.config.schema import Config
from rlbench.runs.claiming import claim
from rlbench.runs.directory import (
    DONE,
    RUNNING,
    Run,
    locate,
    seal,
)
from rlbench.runs.sharing import adopt, find_finished
from tests.conftest import SMALL, composed
from tests.helpers_analysis import budget

FILES = {"model.safetensors": "a" * 64}
"""Digests of the model with which the stage began."""


def made(config: Config, stage: str) -> Run:
    """Return a finished stage that looks computed."""
    run = locate(config, stage)
    with claim(run, config):
        spent = budget(updates=3)
        write_json(run.root / "result.json", {"experiment": config.experiment_name, "budget": spent})
        write_json(run.root / "budget.json", spent)
        write_json(run.root / "manifest.json", {"model": {"files": FILES}})
        (run.root / "progress.json").write_text("{}")
        run.append_metrics(3, "validation", {"ndcg@10": 0.1})
        run.final_model.mkdir()
        (run.final_model / "model.safetensors").write_bytes(b"weights")
        digests.seal(run.final_model)
    return run


@pytest.fixture
def here(tmp_path: Path) -> Config:
    return composed(*SMALL, f"runs_dir={tmp_path}", "experiment_name=here", "trainer.sft.updates=3")


@pytest.fixture
def there(here: Config) -> Run:
    return made(replace(here, experiment_name="there"), "sft")


def test_a_finished_stage_of_another_experiment_is_found(here: Config, there: Run) -> None:
    assert find_finished(locate(here, "sft"), here, lambda: FILES) == there.root
    assert find_finished(there, replace(here, experiment_name="there"), lambda: FILES) is None  # not from itself
    assert find_finished(locate(here, "sft"), here, lambda: {"model.safetensors": "b" * 64}) is None
    assert find_finished(locate(here, "zero_shot"), here, lambda: FILES) is None


def test_names_are_no_patterns(here: Config) -> None:
    model = replace(here.model, name="a[bc]*?")
    there = made(replace(here, experiment_name="there", model=model), "sft")
    config = replace(here, model=model)
    assert find_finished(locate(config, "sft"), config, lambda: FILES) == there.root


def test_an_oracle_has_no_model(here: Config) -> None:
    oracle = made(replace(here, experiment_name="there"), "oracle")
    assert find_finished(locate(here, "oracle"), here, dict) == oracle.root


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_rl_is_never_taken(here: Config, stage: str) -> None:
    made(replace(here, experiment_name="there"), stage)
    assert (find_finished(locate(here, stage), here, lambda: FILES) is None) == (stage == "rl")


@pytest.mark.parametrize("status", [RUNNING, "failed", "interrupted"])
def test_an_unfinished_stage_is_not_taken(here: Config, there: Run, status: str) -> None:
    there.set_status(status)
    assert find_finished(locate(here, "sft"), here, lambda: FILES) is None


def test_an_edited_stage_is_not_taken(here: Config, there: Run) -> None:
    (there.root / "identity.json").write_text(json.dumps({**there.identity, "schema": 0}))
    assert find_finished(locate(here, "sft"), here, lambda: FILES) is None


def test_a_stage_without_the_curve_is_not_taken(here: Config, there: Run) -> None:
    sft = replace(here.trainer.sft, evaluate_every=1)
    curve = replace(here, trainer=replace(here.trainer, sft=sft))
    assert find_finished(locate(curve, "sft"), curve, lambda: FILES) is None
    for step in (0, 1, 2):
        there.append_metrics(step, "validation", {"ndcg@10": 0.1})
    seal(there.root)
    assert find_finished(locate(curve, "sft"), curve, lambda: FILES) == there.root


def test_weights_are_linked_and_all_else_is_copied(here: Config, there: Run) -> None:
    before = {path: path.read_bytes() for path in there.root.rglob("*") if path.is_file()}
    run = locate(here, "sft")
    with claim(run, here):
        written = {name: (run.root / name).read_bytes() for name in ("identity.json", "config.yaml", "STATUS")}
        adopt(run, there.root, here)
        assert {name: (run.root / name).read_bytes() for name in written} == written
        assert not (run.root / "progress.json").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert (run.final_model / "model.safetensors").samefile(there.final_model / "model.safetensors")
    assert not run.metrics_file.samefile(there.metrics_file)
    assert run.metrics_file.read_bytes() == there.metrics_file.read_bytes() and run.status() == DONE
    place = there.root.relative_to(here.runs_dir).as_posix()
    result = json.loads((run.root / "result.json").read_text())
    assert result == {"experiment": "here", "budget": budget(updates=3) | {"adopted_from": place}}
    for name in ("budget.json", "manifest.json"):
        assert json.loads((run.root / name).read_text())["adopted_from"] == place


def test_a_stage_that_was_taken_before_names_who_made_it(here: Config, there: Run) -> None:
    """True even if the experiment in between is deleted later."""
    third = replace(here, experiment_name="third")
    for config, source in ((here, there), (third, locate(here, "sft"))):
        run = locate(config, "sft")
        with claim(run, config):
            adopt(run, source.root, config)
    place = there.root.relative_to(here.runs_dir).as_posix()
    contents = [json.loads((run.root / f"{name}.json").read_text()) for name in ("budget", "manifest", "result")]
    assert [content.get("adopted_from", content.get("budget", {}).get("adopted_from")) for content in contents] == [
        place
    ] * 3
    assert contents[2]["experiment"] == "third"


@pytest.mark.parametrize("content", [{}, {"budget": 3}])
def test_a_result_without_a_budget_is_named_before_anything_is_taken(here: Config, there: Run, content: object) -> None:
    """The file matches its digest, so only its content is wrong."""
    write_json(there.root / "result.json", content)
    seal(there.root)
    run = locate(here, "sft")
    with (
        pytest.raises(BadInput, match=r"result.json is damaged: it (lacks|has) budget.*; move"),
        claim(run, here),
    ):
        adopt(run, there.root, here)
    assert not run.final_model.exists() and not (run.root / "result.json").exists()


@pytest.mark.parametrize(("name", "said"), [("result.json", "result.json"), ("model/model.safetensors", "the model")])
def test_a_damaged_stage_is_refused(here: Config, there: Run, name: str, said: str) -> None:
    file = there.root / name
    file.write_bytes(file.read_bytes() + b" ")  # still valid JSON
    run = locate(here, "sft")
    with pytest.raises(BadInput, match=said), claim(run, here):
        adopt(run, there.root, here)


@pytest.mark.parametrize("content", ['{"model": "x"}', '{"model": {"files": 3}}', "[]", "", "{}"])
def test_a_stage_with_a_damaged_manifest_is_refused_when_it_is_found(here: Config, there: Run, content: str) -> None:
    """The files are compared with their list before they are read."""
    (there.root / "manifest.json").write_text(content)
    with pytest.raises(
        BadInput, match=f"{there.root} has the status done, but manifest.json has .* move the folder away"
    ):
        find_finished(locate(here, "sft"), here, lambda: FILES)


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "budget.json"])
def test_a_damaged_stage_is_refused_when_it_is_found(here: Config, there: Run, name: str) -> None:
    with (there.root / name).open("a") as file:
        file.write("x")
    with pytest.raises(BadInput, match=f"{there.root} has the status done, but {name} has"):
        find_finished(locate(here, "sft"), here, lambda: FILES)


@pytest.mark.parametrize("content", ['{"model": "x"}', '{"model": {"files": 3}}', "{}"])
def test_a_stage_that_does_not_say_what_it_began_with_is_not_taken(here: Config, there: Run, content: str) -> None:
    """The manifest matches its digest, so only its content is wrong."""
    (there.root / "manifest.json").write_text(content)
    seal(there.root)
    assert find_finished(locate(here, "sft"), here, lambda: FILES) is None
