"""Which checkpoints and best weights are kept, from folders and metrics alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run, locate
from rlbench.training.checkpoints import RESUME_FILE, BestKeeper, CheckpointWriter, last_checkpoint, seal, steps_of
from tests.conftest import composed


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return locate(composed(f"runs_dir={tmp_path}"), "rl")


def measured(run: Run, values: dict[int, float], split: str = "validation", metric: str = "ndcg@10") -> None:
    for step, value in values.items():
        run.append_metrics(step, split, {metric: value})


def folders(run: Run, *names: str) -> None:
    for name in names:
        (run.checkpoints / name).mkdir(parents=True)


def there(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def keeper(run: Run) -> BestKeeper:
    def save_model(folder: str) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "weights").write_text("")

    return BestKeeper(run, "ndcg@10", SimpleNamespace(save_model=save_model))  # type: ignore[arg-type]


def test_the_earliest_of_equally_good_checkpoints_is_the_best(run: Run) -> None:
    measured(run, {0: 0.9, 20: 0.1, 40: 0.3, 60: 0.3, 80: 0.2})
    measured(run, {80: 0.99}, split="train")
    measured(run, {80: 0.98}, split="test")
    measured(run, {80: 0.97}, metric="recall@10")
    assert keeper(run).best() == 40  # not update 0, which has the starting weights; not other splits or metrics


def test_weights_are_kept_where_a_validation_is_the_best(run: Run) -> None:
    kept = keeper(run)
    folders(run, "checkpoint-20")
    kept.offer(10, 0.2)
    kept.offer(20, 0.1)
    assert there(run) == ["best-10", "checkpoint-20"]
    # A run resumed from checkpoint 20 needs best-10; it does not need later files.
    kept.offer(30, 0.3)
    assert there(run) == ["best-10", "best-30", "checkpoint-20"]
    kept.offer(40, 0.4)
    assert there(run) == ["best-10", "best-40", "checkpoint-20"]
    kept.offer(50, 0.4)
    assert kept.best() == 40 and there(run) == ["best-10", "best-40", "checkpoint-20"]


def test_checkpoints_are_in_the_order_of_their_updates(run: Run) -> None:
    folders(run, "checkpoint-100", "checkpoint-20", "checkpoint-3", "checkpoint-x", ".checkpoint-7.partial")
    assert list(steps_of(run.checkpoints)) == [3, 20, 100]
    for step in (20, 100):
        (run.checkpoints / f"checkpoint-{step}" / RESUME_FILE).write_text(json.dumps({"budget": {"step": step}}))
        seal(run.checkpoints / f"checkpoint-{step}")
    found = last_checkpoint(run.checkpoints)
    assert found is not None and found.update == 100 and found.totals == {"budget": {"step": 100}}


def writer(run: Run, keep: int, best: int | None) -> CheckpointWriter:
    trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), ledger=Ledger())
    return CheckpointWriter(run, trainer, dict, keep, lambda: best)  # type: ignore[arg-type]


def test_the_oldest_checkpoints_go_and_the_best_weights_stay(run: Run) -> None:
    folders(run, "checkpoint-20", "checkpoint-40", "checkpoint-100", "best-20", "best-40")
    writer(run, keep=2, best=20)._drop_others()
    assert there(run) == ["best-20", "checkpoint-100", "checkpoint-40"]


def test_what_comes_after_the_checkpoint_of_a_resumed_run_is_dropped(run: Run, tmp_path: Path) -> None:
    folders(run, "checkpoint-20", "checkpoint-40", "best-10", "best-30", ".best-50.partial")
    state = TrainerState(global_step=20, max_steps=60, is_world_process_zero=True)
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    writer(run, keep=2, best=10).on_train_begin(arguments, state, TrainerControl())
    assert there(run) == ["best-10", "checkpoint-20"]
