"""A damaged file of an interrupted run is repaired, or named in one message; it never changes a result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from rlbench import runner
from rlbench.config import Config
from rlbench.errors import BadInput
from rlbench.preemption import Preempted
from rlbench.progress import Progress
from rlbench.runs import INTERRUPTED, locate
from rlbench.stages.checkpoints import steps_of
from tests.conftest import SMALL, composed

STAGES = ("oracle", "zero_shot", "sft", "rl")
UPDATES, STOP = 3, 2
"""RL ends during update 2, with the checkpoint of update 1."""


def cell(folder: Path) -> Config:
    return composed(
        *SMALL,
        "+debug=smoke",
        "evaluation.validation_contexts=null",
        "evaluation.test_contexts=null",
        f"trainer.rl.updates={UPDATES}",
        "trainer.rl.save_every=1",
        "evaluation.every=1",
        "generation.max_new_tokens=16",
        f"runs_dir={folder / 'runs'}",
        f"cache_dir={folder / 'cache'}",
    )


class StopsInRl(Progress):
    """Ends RL at the end of an update, before its checkpoint."""

    def to(self, done: int, note: str = "") -> None:
        if self.total == UPDATES and done == STOP:
            raise Preempted("stopped by the test")
        super().to(done, note)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    runner.run(cell(folder))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The folder of a run that was stopped in RL."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Progress", StopsInRl)
        with pytest.raises(Preempted):
            runner.run(cell(folder))
    run = locate(cell(folder), "rl")
    assert run.status() == INTERRUPTED and list(steps_of(run.checkpoints)) == [1]
    return folder


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            content[int(place * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


def put(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def numbers_to_text(path: Path) -> None:
    def changed(value):
        if isinstance(value, dict):
            return {key: changed(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [changed(entry) for entry in value]
        return str(value) if isinstance(value, int | float) else value

    path.write_text(json.dumps(changed(json.loads(path.read_text()))))


ANY: dict[str, Callable[[Path], None]] = {
    "empty": put(""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "first byte": flip(0),
    "middle byte": flip(0.5),
    "last byte": flip(1),
    "deleted": Path.unlink,
    "folder": to_folder,
}
OF_JSON = {"list": put("[]"), "null": put("null"), "other keys": put('{"a": 1}'), "text": numbers_to_text}


class Case(NamedTuple):
    file: str
    damage: str


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def cases(folder: Path) -> list[Case]:
    return [
        Case(file, damage)
        for file in files(folder)
        for damage in {**ANY, **(OF_JSON if file.endswith(".json") else {})}
    ]


def difference(folder: Path, other: Path) -> str:
    """The first file whose content differs between the finished runs of two folders; "" where none does."""
    for stage in STAGES:
        ours, theirs = (locate(cell(place), stage) for place in (folder, other))
        results = [json.loads((run.root / "result.json").read_text()) for run in (ours, theirs)]
        for result in results:
            result.pop("budget")  # times
        if results[0] != results[1]:
            return f"{stage}: result.json"
        if ours.read_metrics() != theirs.read_metrics():
            return f"{stage}: metrics.jsonl"
        tables = sorted(path.name for path in theirs.root.glob("predictions-*.parquet"))
        for name in tables:
            if not pd.read_parquet(ours.root / name).equals(pd.read_parquet(theirs.root / name)):
                return f"{stage}: {name}"
        if theirs.final_model.exists():
            weights = [load_file(run.final_model / "model.safetensors") for run in (ours, theirs)]
            if weights[0].keys() != weights[1].keys() or not all(
                torch.equal(weights[0][name], weights[1][name]) for name in weights[1]
            ):
                return f"{stage}: weights"
    return ""


def outcome(case: Case, stopped: Path, whole: Path, folder: Path) -> str:
    """What the same command makes of a damaged copy: "identical", "refused", or else what went wrong."""
    shutil.copytree(stopped, folder)
    path = folder / case.file
    {**ANY, **OF_JSON}[case.damage](path)
    places = [str(place) for place in (path, *path.parents) if folder in place.parents]
    try:
        runner.run(cell(folder))
        return difference(folder, whole) or "identical"
    except BadInput as error:
        named = any(place in str(error) for place in places[:3])
        return "refused" if named else f"another file is named: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder)


FAST = [
    ("runs/**/sft*/*/STATUS", "first byte", "identical"),
    ("runs/**/sft*/*/files.json", "deleted", "refused"),
    ("runs/**/sft*/*/result.json", "middle byte", "refused"),
    ("runs/**/zero_shot*/*/metrics.jsonl", "half", "refused"),
    ("runs/**/sft*/*/model/model.safetensors", "middle byte", "refused"),
    ("runs/**/sft*/*/model/config.json", "null", "refused"),
    ("runs/**/checkpoint-1/files.json", "list", "identical"),
    ("runs/**/rank_grpo*/*/identity.json", "other keys", "refused"),
    ("cache/**/model.safetensors", "last byte", "refused"),
    ("cache/**/config.json", "empty", "refused"),
]


@pytest.mark.parametrize(("pattern", "damage", "expected"), FAST)
def test_damage_is_repaired_or_named(pattern, damage, expected, stopped, whole, tmp_path):
    path = next(stopped.glob(pattern))
    case = Case(path.relative_to(stopped).as_posix(), damage)
    assert outcome(case, stopped, whole, tmp_path / "copy") in (expected, "identical")


@pytest.mark.slow
def test_without_damage_the_run_goes_on_to_the_same_result(stopped, whole, tmp_path):
    shutil.copytree(stopped, tmp_path / "copy")
    runner.run(cell(tmp_path / "copy"))
    assert difference(tmp_path / "copy", whole) == ""


CHUNKS = 16


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_each_damage_of_each_file_is_repaired_or_named(chunk, stopped, whole, tmp_path):
    found = {case: outcome(case, stopped, whole, tmp_path / "copy") for case in cases(stopped)[chunk::CHUNKS]}
    print(pd.Series(found.values()).where(lambda s: s.isin(["identical", "refused"]), "other").value_counts().to_dict())
    assert {case: said for case, said in found.items() if said not in ("identical", "refused")} == {}
