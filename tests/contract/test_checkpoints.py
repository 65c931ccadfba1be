"""Checkpoints are complete or absent, the last and the best are kept, and a resumed run equals an uninterrupted one."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlbench.base.digests import LIST_FILE, damage
from rlbench.base.errors import BadInput
from rlbench.base.files import PARTIAL
from rlbench.base.progress import Progress
from rlbench.runs.directory import Run, locate
from rlbench.training import checkpoints
from rlbench.training.checkpoints import RESUME_FILE, last_checkpoint, steps_of
from rlbench.training.rl import TrainingData, train_rl
from rlbench.training.sft import train_sft
from rlbench.training.validation import Validation
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_criteria, make_recording

UPDATES, STOP = 6, 5
"""The run stops during update 5, after the checkpoint of update 4."""
RL = [
    *SMALL,
    "generation.max_new_tokens=24",
    f"trainer.rl.updates={UPDATES}",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=8",
    "trainer.rl.num_iterations=1",
    "trainer.rl.learning_rate=1e-3",
    "trainer.rl.save_every=2",
    "trainer.rl.keep_checkpoints=2",
    "evaluation.every=1",
    "evaluation.metric=eos",  # no hits in a small model
    "algorithm=grpo",
    "+reward.terms.tokens={weight:1.0,normaliser:16.0}",
]
SFT = [
    *SMALL,
    "trainer.sft.updates=24",
    "trainer.sft.batch_size=8",
    "trainer.sft.micro_batch_size=4",
    "trainer.sft.save_every=7",
]
"""Metrics are logged every 10 updates; checkpoints are written every 7."""


class Stopped(RuntimeError):
    """Raised in place of a kill."""


class StopsAt(Progress):
    """A progress bar that stops the run at the end of an update, before its checkpoint."""

    def __init__(self, update: int | None):
        self.update = update
        super().__init__("", UPDATES, file=None, show=False)

    def to(self, done: int, note: str = "") -> None:
        if done == self.update:
            raise Stopped
        super().to(done, note)


@pytest.fixture(scope="module")
def trains(mini, start):
    """Train one of the two stages in a folder, up to an update or to the end."""

    def train(stage: str, folder: Path, stop: int | None = None, *overrides: str, prompts: int | None = None) -> Run:
        config = composed(*(RL if stage == "rl" else SFT), *overrides, f"runs_dir={folder}")
        run, (tokenizer, _) = locate(config, stage), load(start)
        recording = make_recording(config, run)
        if stage == "sft":
            train_sft(config, recording, start, tokenizer, mini.splits["sft"], StopsAt(stop))
            return run
        train_rl(
            config,
            recording,
            start,
            tokenizer,
            TrainingData(mini.splits["train"][:prompts], mini.splits["sft"]),
            Validation(mini.splits["validation"], make_criteria(config, mini), {}),
            StopsAt(stop),
        )
        return run

    return train


def run_of(stage: str, folder: Path, *overrides: str) -> Run:
    return locate(composed(*(RL if stage == "rl" else SFT), *overrides, f"runs_dir={folder}"), stage)


@pytest.fixture(scope="module")
def whole(trains, tmp_path_factory) -> dict[str, Run]:
    """Uninterrupted runs."""
    return {stage: trains(stage, tmp_path_factory.mktemp(stage)) for stage in ("rl", "sft")}


@pytest.fixture(scope="module")
def left_behind(trains, tmp_path_factory) -> Path:
    """Files left by an RL stage that was stopped in update 5."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        trains("rl", folder, STOP)
    assert list(steps_of(run_of("rl", folder).checkpoints)) == [2, 4]
    return folder


@pytest.fixture
def stopped(left_behind, tmp_path) -> Run:
    """A copy of the stopped stage."""
    shutil.copytree(left_behind, tmp_path / "runs")
    return run_of("rl", tmp_path / "runs")


def assert_equal(run: Run, other: Run) -> None:
    assert run.read_metrics() == other.read_metrics()
    ours, theirs = (load_file(r.final_model / "model.safetensors") for r in (run, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Contents of the folder.


def test_what_a_stage_leaves(whole):
    assert names(whole["sft"].checkpoints) == {"checkpoint-21", "checkpoint-24"}
    run = whole["rl"]
    values = checkpoints.validations(run, "eos")
    best = max(values, key=lambda step: (values[step], -step))
    assert names(run.checkpoints) == {"checkpoint-4", "checkpoint-6", f"best-{best}"}
    for folder in steps_of(run.checkpoints).values():
        listed = json.loads((folder / LIST_FILE).read_text())["files"]
        assert {*listed, LIST_FILE} == names(folder)
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", RESUME_FILE} <= listed.keys()


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_ones_are_kept_and_none_goes_before_the_next_is_there(keep, trains, tmp_path, monkeypatch):
    seen = []

    def publish(made, place):
        seen.append(sorted(steps_of(place.parent)))
        assert PARTIAL in str(made) or place.name == "model"
        real(made, place)

    real = checkpoints.publish
    monkeypatch.setattr(checkpoints, "publish", publish)
    run = trains("rl", tmp_path, None, f"trainer.rl.keep_checkpoints={keep}", "evaluation.every=6")
    assert seen[:2] == [[], [2]]
    assert seen[3] == ([4] if keep == 1 else [2, 4])  # [2] has the best weights
    assert list(steps_of(run.checkpoints)) == ([6] if keep == 1 else [2, 4, 6])


def test_the_best_weights_are_those_of_the_best_validation(trains, tmp_path):
    """The best weights are kept under both rules; with checkpoint=best the final model is a copy of them."""
    often = ["trainer.rl.save_every=1", "trainer.rl.keep_checkpoints=9", "evaluation.checkpoint=best"]
    run = trains("rl", tmp_path, None, *often, "seed=6")  # with this seed the first validation is not the best
    (step,) = steps_of(run.checkpoints, "best")
    assert step > 1  # if nothing is learnt, the first is the best and the test shows nothing
    best = load_file(run.checkpoints / f"best-{step}" / "model.safetensors")
    then = load_file(run.checkpoints / f"checkpoint-{step}" / "model.safetensors")
    final = load_file(run.final_model / "model.safetensors")
    assert all(torch.equal(best[name], then[name]) and torch.equal(best[name], final[name]) for name in then)


# Resuming.


def test_a_run_goes_on_in_a_later_epoch(trains, tmp_path):
    """With 7 prompts an epoch has three updates and one prompt left over; update 5 is in the second epoch."""
    whole = trains("rl", tmp_path / "whole", prompts=7)
    with pytest.raises(Stopped):
        trains("rl", tmp_path / "stopped", STOP, prompts=7)
    assert_equal(trains("rl", tmp_path / "stopped", prompts=7), whole)


def test_what_was_stopped_goes_on_as_if_it_had_not_been(stopped, whole, trains, tmp_path):
    assert_equal(trains("rl", tmp_path / "runs"), whole["rl"])
    assert names(stopped.checkpoints) == names(whole["rl"].checkpoints)


@pytest.mark.parametrize("stop", [11, 16])
def test_metrics_of_several_updates_survive_a_stop_between_them(stop, whole, trains, tmp_path):
    with pytest.raises(Stopped):
        trains("sft", tmp_path, stop)
    assert_equal(trains("sft", tmp_path), whole["sft"])


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_after_the_last_update_nothing_more_is_trained(stage, whole, trains, tmp_path):
    """The run stops between its last checkpoint and the end of the stage."""
    run = run_of(stage, tmp_path / "runs")
    shutil.copytree(whole[stage].root, run.root)
    shutil.rmtree(run.final_model)
    assert_equal(trains(stage, tmp_path / "runs"), whole[stage])
    assert names(run.checkpoints) == names(whole[stage].checkpoints)


def test_the_best_of_the_checkpoint_stays_until_the_next(trains, tmp_path):
    """A later best does not replace the best that a resumed run may need."""
    config = composed(*RL, f"runs_dir={tmp_path}")
    run = locate(config, "rl")
    keeper = checkpoints.BestKeeper(run, "ndcg@20", trainer=Saver())
    for step, value in ((1, 0.1), (2, 0.3)):
        keeper.offer(step, value)
    (run.checkpoints / "checkpoint-2").mkdir()
    for step, value in ((3, 0.2), (4, 0.4), (5, 0.5), (6, 0.5)):
        keeper.offer(step, value)
    assert list(steps_of(run.checkpoints, "best")) == [2, 5] and keeper.best() == 5
    with pytest.raises(BadInput, match="best-9 has the weights of the best validation, but they are missing"):
        keeper.folder(9)
    (run.checkpoints / "best-5" / "model").write_bytes(b"2")
    with pytest.raises(BadInput, match="best-5 .* model has changed since it was written. Remove"):
        keeper.check(6)


class Saver:
    """Saves a model of one byte."""

    def save_model(self, folder: str) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "model").write_bytes(b"1")


# Damage.


def truncated(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def unreadable(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    path.write_bytes(bytes(path.stat().st_size))


def missing(checkpoint: Path) -> None:
    (checkpoint / "rng_state.pth").unlink()


def without_list(checkpoint: Path) -> None:
    (checkpoint / LIST_FILE).write_text("{")


DAMAGES = {
    "model.safetensors has": truncated,
    "optimizer.pt has changed": unreadable,
    "rng_state.pth is missing": missing,
    "files.json cannot be read": without_list,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_damage_is_told(words, stopped, caplog):
    newest = stopped.checkpoints / "checkpoint-4"
    assert damage(newest) == ""
    DAMAGES[words](newest)
    found = last_checkpoint(stopped.checkpoints)
    assert found is not None and (found.folder, found.update) == (stopped.checkpoints / "checkpoint-2", 2)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and str(newest) in record.message and words in record.message


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(stopped, whole, trains, tmp_path):
    truncated(stopped.checkpoints / "checkpoint-4")
    assert_equal(trains("rl", tmp_path / "runs"), whole["rl"])
    assert names(stopped.checkpoints) == names(whole["rl"].checkpoints)


def test_with_all_damaged_it_starts_again(stopped, whole, trains, tmp_path):
    for folder in steps_of(stopped.checkpoints).values():
        truncated(folder)
    assert_equal(trains("rl", tmp_path / "runs"), whole["rl"])


LOGS = ("metrics.jsonl", "completions.jsonl", "budget.jsonl", "rollouts.jsonl")


@pytest.mark.parametrize("log", LOGS)
def test_a_damaged_log_is_noticed(log, stopped, trains, tmp_path):
    """Without a checkpoint older than the damage, the user must decide to start again."""
    path = stopped.root / log
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)  # before the first checkpoint
    digit = re.search(r"\d", first)
    damaged = first[: digit.start()] + str((int(digit[0]) + 1) % 10) + first[digit.end() :]
    path.write_text(f"{damaged}\n{rest}", encoding="utf-8")
    with pytest.raises(BadInput, match=rf"cannot be resumed: {log} has changed .* or remove .*checkpoints"):
        trains("rl", tmp_path / "runs")


def test_a_log_damaged_after_a_checkpoint_goes_back_to_it(stopped, whole, trains, tmp_path, caplog):
    rows = (stopped.root / "metrics.jsonl").read_text().splitlines(keepends=True)
    place = next(i for i, row in enumerate(rows) if json.loads(row)["step"] == 3)
    (stopped.root / "metrics.jsonl").write_text("".join([*rows[:place], "{", *rows[place:]]))
    assert_equal(trains("rl", tmp_path / "runs"), whole["rl"])
    assert "checkpoint-4 is damaged (metrics.jsonl has changed" in caplog.text


# Interrupted writing.


@pytest.mark.parametrize("written", [0, 8])
def test_what_is_half_written_is_no_checkpoint(written, whole, trains, tmp_path, monkeypatch):
    """The run stops while the checkpoint of update 4 is flushed to disk, with all or some of its files written."""
    real = checkpoints.publish

    def publish(made, place):
        if place.name == "checkpoint-4":
            for path in sorted(p for p in made.rglob("*") if p.is_file())[written:]:
                path.unlink()
            raise Stopped
        real(made, place)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "publish", publish)
        with pytest.raises(Stopped):
            trains("rl", tmp_path)
    run = run_of("rl", tmp_path)
    assert list(steps_of(run.checkpoints)) == [2] and any(n.endswith(PARTIAL) for n in names(run.checkpoints))
    assert_equal(trains("rl", tmp_path), whole["rl"])
    assert names(run.checkpoints) == names(whole["rl"].checkpoints)


def test_a_final_model_is_whole_or_not_there(whole, tmp_path):
    """A run that stops while saving a checkpoint keeps the previous one, or none."""
    folder = tmp_path / "model"

    class Stops(Saver):
        def save_model(self, place: str) -> None:
            super().save_model(place)
            raise Stopped

    with pytest.raises(Stopped):
        checkpoints.save_model(Stops(), folder)
    assert not folder.exists()
    checkpoints.save_model(Saver(), folder)
    (folder / "model").write_bytes(b"old")
    with pytest.raises(Stopped):
        checkpoints.save_model(Stops(), folder)
    assert (folder / "model").read_bytes() == b"old"
    checkpoints.save_model(Saver(), folder)
    assert (folder / "model").read_bytes() == b"1" and names(tmp_path) == {"model"}
