"""A stage that was started with other model files than the current ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.running import runner
from rlbench.running.runner import MANIFEST_REMEDY
from rlbench.running.session import Session, prepare
from rlbench.runs.directory import DONE, FAILED, locate
from tests.conftest import SMALL, composed
from tests.helpers_analysis import budget

RESULT: dict[str, Any] = {"metrics": {"validation": {}, "test": {}}, "budget": budget()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Session:
    cache = tmp_path_factory.mktemp("cache")
    return prepare(composed(*SMALL, f"runs_dir={cache / 'runs'}", f"cache_dir={cache}"))


@pytest.fixture
def session(prepared: Session, tmp_path: Path) -> Session:
    """A session with its own runs folder."""
    return replace(prepared, config=replace(prepared.config, runs_dir=str(tmp_path)))


def other_files(session: Session) -> Session:
    files = session.model_files["files"] | {"model.safetensors": "0" * 64}
    return replace(session, model_files=session.model_files | {"files": files})


def works(*_: object) -> dict[str, Any]:
    return RESULT


def fails(*_: object) -> dict[str, Any]:
    raise RuntimeError("planted")


SAID = (
    r"was started with other model files than those in .*tiny-.* today: "
    r"model.safetensors: sha256 was [0-9a-f]{12}, is now 0{12}"
)


def test_a_finished_stage_is_not_used(session: Session) -> None:
    run = runner._stage(session, "zero_shot", works)
    assert run.status() == DONE and runner._stage(session, "zero_shot", fails) == run  # same files, so it is used
    with pytest.raises(BadInput, match=f"{run.root} {SAID}.*Restore the old files, or move the run away"):
        runner._stage(other_files(session), "zero_shot", fails)
    assert run.status() == DONE


def test_a_stage_is_not_gone_on_with(session: Session) -> None:
    with pytest.raises(RuntimeError, match="planted"):
        runner._stage(session, "zero_shot", fails)
    run = locate(session.config, "zero_shot")
    before = (run.root / "manifest.json").read_bytes()
    with pytest.raises(BadInput, match=f"{run.root} {SAID}"):
        runner._stage(other_files(session), "zero_shot", works)
    assert run.status() == FAILED and (run.root / "manifest.json").read_bytes() == before
    assert runner._stage(session, "zero_shot", works).status() == DONE


def test_a_stage_of_other_files_is_not_taken_from_another_experiment(session: Session) -> None:
    runner._stage(session, "zero_shot", works)
    elsewhere = replace(session, config=replace(session.config, experiment_name="elsewhere"))
    made: list[str] = []

    def notes(*_: object) -> dict[str, Any]:
        made.append("zero_shot")
        return RESULT

    runner._stage(replace(other_files(session), config=elsewhere.config), "zero_shot", notes)
    assert made == ["zero_shot"]
    assert runner._stage(
        replace(elsewhere, config=replace(session.config, experiment_name="third")), "zero_shot", fails
    )


def test_the_oracle_reads_no_model(session: Session) -> None:
    runner._stage(session, "oracle", works)
    assert runner._stage(other_files(session), "oracle", fails).status() == DONE


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (3, "has model 3, which is not an object"),
        ({"files": []}, "has model.files [], which is not an object"),
        ({"folder": "x"}, "lacks model.files"),
    ],
)
def test_a_manifest_of_a_stopped_stage_that_is_damaged_is_named(session: Session, model: object, wrong: str) -> None:
    with pytest.raises(RuntimeError):
        runner._stage(session, "zero_shot", fails)
    file = locate(session.config, "zero_shot").root / "manifest.json"
    write_json(file, json.loads(file.read_text()) | {"model": model})
    with pytest.raises(BadInput) as error:
        runner._stage(session, "zero_shot", works)
    assert error.value.problems == [f"{file} is damaged: it {wrong}; {MANIFEST_REMEDY}"]
