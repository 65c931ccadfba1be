"""A damaged file of an interrupted run is repaired or reported in one message. It never changes a result."""

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from analysis.commands.status import survey
from rlbench.base.errors import BadInput
from rlbench.base.preemption import Preempted
from rlbench.base.progress import Progress
from rlbench.config.schema import Config
from rlbench.running import runner, stages
from rlbench.runs.directory import INTERRUPTED, locate
from rlbench.runs.record import SWEEP
from rlbench.runs.sweep_file import read_cells, write_cells
from rlbench.training.checkpoints import steps_of
from tests.conftest import SMALL, composed

STAGES = ("oracle", "zero_shot", "sft", "rl")
UPDATES, STOP = 3, 2
"""RL stops during update 2, after the checkpoint of update 1."""


FAMILIES = {
    "policy": (),
    "preference": (
        "algorithm=dpo",
        "+reward.terms.tokens={weight:1.0,normaliser:24.0}",  # lists without a hit differ too, so pairs exist
        "trainer.rl.completions_per_update=16",
        "trainer.rl.micro_batch_size=4",
        "trainer.sft.max_length=400",
    ),
}
"""The settings of each family of methods, besides the settings that both share."""


def cell(folder: Path) -> Config:
    """The cell of a folder. The parent folder's name is the family."""
    return composed(
        *FAMILIES[folder.parent.name],
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
    """Stops RL at the end of an update, before its checkpoint."""

    def to(self, done: int, note: str = "") -> None:
        if self.total == UPDATES and done == STOP:
            raise Preempted("stopped by the test")
        super().to(done, note)


Make = Callable[[str], Path]
"""Maps a family to the folder of its run, which is made once."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Make:
    """Uninterrupted runs."""

    @functools.cache
    def made(family: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / family / "run"
        runner.run(cell(folder))
        return folder

    return made


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Make:
    """Runs stopped during RL."""
    return functools.cache(lambda family: stop(tmp_path_factory.mktemp("stopped") / family / "run"))


def stop(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "Progress", StopsInRl)
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
    """The first file whose content differs between the finished runs of two folders, or ""."""
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


REMEDIES = ("Put ", "put ", "Move ", "move ", "Remove ", "remove ")
"""Words that tell a user what to do."""


def outcome(family: str, case: Case, stopped: Path, whole: Make, folder: Path) -> str:
    """Result of the same command on a damaged copy.

    "identical": the result of the uninterrupted run. "refused": one problem, which names the file or a folder that
    holds
    it, and says what to do. Anything else describes what went wrong.
    """
    folder = folder / family / "run"
    shutil.copytree(stopped, folder)
    path = folder / case.file
    {**ANY, **OF_JSON}[case.damage](path)
    above = [str(place) for place in path.parents if folder in place.parents][:2]
    try:
        runner.run(cell(folder))
        return difference(folder, whole(family)) or "identical"
    except BadInput as error:
        said = str(error)
        named = path.name in said and any(place in said for place in above)
        if len(error.problems) == 1 and named and any(word in said for word in REMEDIES):
            return "refused"
        return f"not one problem that names the file and says what to do: {error.problems}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder.parent)


FEW = [
    *(
        pytest.param(*case, "refused")
        for case in (
            ("runs/**/sft*/*/files.json", "deleted"),
            ("runs/**/zero_shot*/*/metrics.jsonl", "half"),
            ("runs/**/sft*/*/model/model.safetensors", "middle byte"),
            ("cache/**/config.json", "empty"),
        )
    ),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("runs/**/sft*/*/STATUS", "first byte", "identical"),
            ("runs/**/sft*/*/result.json", "middle byte", "refused"),
            ("runs/**/sft*/*/model/config.json", "null", "refused"),
            ("runs/**/sft*/*/model/config.json", "deleted", "refused"),
            ("runs/**/sft*/*/model/config.json", "folder", "refused"),
            ("runs/**/sft*/*/model/model.safetensors", "deleted", "refused"),
            ("runs/**/checkpoint-1/files.json", "list", "identical"),
            ("runs/**/rank_grpo*/*/identity.json", "other keys", "refused"),
            ("cache/**/model.safetensors", "last byte", "refused"),
        )
    ),
]


@pytest.mark.parametrize(("pattern", "damage", "expected"), FEW)
def test_damage_is_repaired_or_named(pattern, damage, expected, stopped, whole, tmp_path):
    folder = stopped("policy")
    case = Case(next(folder.glob(pattern)).relative_to(folder).as_posix(), damage)
    assert outcome("policy", case, folder, whole, tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_without_damage_the_run_goes_on_to_the_same_result(family, stopped, whole, tmp_path):
    shutil.copytree(stopped(family), tmp_path / family / "run")
    runner.run(cell(tmp_path / family / "run"))
    assert difference(tmp_path / family / "run", whole(family)) == ""


CHUNKS = 16


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_each_damage_of_each_file_is_repaired_or_named(chunk, stopped, whole, tmp_path):
    expect_repaired_or_named("policy", cases(stopped("policy"))[chunk::CHUNKS], stopped, whole, tmp_path)


@pytest.mark.slow
def test_damage_of_what_preference_optimisation_keeps_is_repaired_or_named(stopped, whole, tmp_path):
    """A sample of cases for RL's own files; other stages are tested above."""
    own = [case for case in cases(stopped("preference")) if "/dpo" in case.file]
    assert any("/preferences/" in case.file for case in own)
    chosen = random.Random(0).sample(own, 20)
    expect_repaired_or_named("preference", chosen, stopped, whole, tmp_path)


def expect_repaired_or_named(family, wanted, stopped, whole, tmp_path):
    found = {case: outcome(family, case, stopped(family), whole, tmp_path) for case in wanted}
    print(pd.Series(found.values()).where(lambda s: s.isin(["identical", "refused"]), "other").value_counts().to_dict())
    assert {case: said for case, said in found.items() if said not in ("identical", "refused")} == {}


@pytest.mark.parametrize("damage", [*ANY, *OF_JSON])
def test_damage_of_the_cells_of_a_sweep_is_named(damage, tmp_path):
    """`analysis.status` and the next sweep report it. If the file is missing, the next sweep starts a new one."""
    file = tmp_path / SWEEP.name
    write_cells(tmp_path, {"mini-tiny/sft/seed0-00000000": {"command": ["python", "run.py", "seed=1"], "updates": 3}})
    {**ANY, **OF_JSON}[damage](file)
    if damage == "deleted":
        with pytest.raises(BadInput, match="no run below"):
            survey(tmp_path, 0.0)
        return
    for read in (lambda: read_cells(tmp_path), lambda: survey(tmp_path, 0.0)):
        with pytest.raises(BadInput, match=f"{file} is damaged.*; move it away; the commands of its sweeps"):
            read()
