"""Recorded metrics have the same names for every method, and advantage metrics are correct."""

import hashlib
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlbench.base.jsonl import read_rows
from rlbench.base.progress import Progress
from rlbench.lists.metric_catalogue import TRAINING
from rlbench.objective import Objective
from rlbench.rewards.scorer import ListScorer
from rlbench.running.checks import check_config
from rlbench.runs.directory import locate
from rlbench.tracking import make_tracker
from rlbench.training.callbacks import Recorder
from rlbench.training.rl import make_demonstrations, prompt_dataset, trl_arguments
from rlbench.training.rollout_log import RolloutLog
from rlbench.training.trainer import ZERO_VARIANCE, effective_units
from tests.conftest import SMALL, composed
from tests.helpers import ROOT
from tests.helpers_parity import HashedLists
from tests.helpers_training import load, make_scorer

N, G = 3, 4
SHORT = [
    f"dataset.list_length={N}",
    "dataset.cutoffs=[1]",
    "evaluation.metric=ndcg@1",
    "trainer.rl.updates=4",
    "trainer.rl.num_iterations=2",
    "trainer.rl.completions_per_update=16",
    f"trainer.rl.group_size={G}",
    "trainer.rl.micro_batch_size=8",
    "trainer.rl.learning_rate=1e-3",
    "trainer.rl.save_every=100",
    "evaluation.every=100",
]
METHODS = ("grpo", "rank_grpo", "rover", "shapley_rank")
OWN = ("kl", "regulariser/")
"""Names, or prefixes of names, that only some methods record."""


class DrawnHits(ListScorer):
    """Hits and gains drawn from a hash of the text, at the ranks present in the list."""

    def __call__(self, completion_ids, **columns):
        totals = super().__call__(completion_ids, **columns)
        digests = [hashlib.sha256(str(list(ids)).encode()).digest() for ids in completion_ids]
        drawn = torch.tensor([[float(byte < 110) for byte in digest[:N]] for digest in digests], dtype=torch.float64)
        hits = drawn * self.rewards.present
        self.rewards = replace(self.rewards, hits=hits, gains=hits[:, None])
        return totals


def make(mini, folder: Path, output: Path, *overrides: str) -> HashedLists:
    """Return a trainer whose lists have ranks, although its model knows no film."""
    config = composed(*SMALL, *SHORT, *overrides, f"runs_dir={output}")
    assert not check_config(config)
    tokenizer, model = load(folder)
    trainer = HashedLists(
        objective=Objective(config.algorithm, config.reward, N),
        scorer=make_scorer(config, mini, tokenizer, model, DrawnHits),
        model=model,
        args=trl_arguments(config, output / "checkpoints"),
        train_dataset=prompt_dataset(mini.splits["train"]),
        processing_class=tokenizer,
        demonstrations=make_demonstrations(config, tokenizer, mini.splits["sft"]),
        generation=config.generation,
    )
    trainer.run = locate(config, "rl")
    return trainer


def recorded(mini, folder, output, *overrides) -> dict[str, dict[int, float]]:
    """Return the metrics of a short training by name and update."""
    trainer = make(mini, folder, output, *overrides)
    tracker = make_tracker("none", directory=output, identity=None, config={})
    trainer.add_callback(Recorder(trainer.run, tracker, Progress("", 4, file=None, show=False), "hits"))
    trainer.train()
    curves: dict[str, dict[int, float]] = {}
    for row in trainer.run.read_metrics():
        assert row["split"] == "train" and math.isfinite(row["value"])
        curves.setdefault(row["metric"], {})[row["step"]] = row["value"]
    return curves


@pytest.fixture(scope="module")
def curves(mini, tiny_folder, tmp_path_factory) -> dict[str, dict[str, dict[int, float]]]:
    """Recorded metrics of each method."""
    return {
        name: recorded(mini, tiny_folder, tmp_path_factory.mktemp(name), f"algorithm={name}")
        for name in (*METHODS, "siren", "uniapl")
    }


AT_RANKS = {f"{what}@{k + 1}" for what in ("advantage_mean", "advantage_std", "reward", "hits") for k in range(N)}
OF_ROLLOUTS = {
    "reward",
    "reward_std",
    "hits",
    "success",
    "list_length",
    "completion_length",
    "truncated",
    "frac_zero_variance_units",
    "effective_units",
    "advantage_mean",
    "advantage_std",
    *AT_RANKS,
}
OF_UPDATES = {
    "loss",
    "grad_norm",
    "learning_rate",
    "entropy",
    "clip_low",
    "clip_high",
    "max_abs_log_ratio",
    "kl_rollout",
    "skipped_completions",
}


def test_names_are_those_of_every_method(curves):
    for name, found in curves.items():
        common = {metric for metric in found if metric != "kl" and not metric.startswith(OWN[1:])}
        assert common == OF_ROLLOUTS | OF_UPDATES, name
        for metric in OF_UPDATES:
            assert list(found[metric]) == [1, 2, 3, 4], metric
        for metric in OF_ROLLOUTS:
            assert list(found[metric]) == [1, 3], metric  # only the first of every two updates has new lists


def test_names_that_only_some_methods_have(curves):
    own = {
        name: {metric for metric in found if metric == "kl" or metric.startswith(OWN[1:])}
        for name, found in curves.items()
    }
    assert own == {
        "grpo": {"kl"},
        "rank_grpo": {"kl"},
        "rover": set(),
        "shapley_rank": {"kl"},
        "siren": {"regulariser/siren"},
        "uniapl": {"kl", "regulariser/sft"},
    }


def test_every_name_is_documented():
    schema = (ROOT / "docs" / "results-schema.md").read_text(encoding="utf-8")
    for metric in TRAINING:
        assert f"`{metric.name}`" in schema, metric.name


@pytest.mark.parametrize("name", METHODS)
def test_numbers_of_advantages(name, mini, tiny_folder, tmp_path):
    """Advantages of one rollout, computed by hand from tokens and from credited units."""
    trainer = make(mini, tiny_folder, tmp_path, f"algorithm={name}")
    trainer.model.train()
    rollouts, log_rollout = [], trainer._log_rollout

    def noted(of_units, spread, returns, rollout):
        rollouts.append(of_units)
        log_rollout(of_units, spread, returns, rollout)

    trainer._log_rollout = noted
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    logged = {key: values[-1] for key, values in trainer._metrics["train"].items() if key.startswith(("adv", "eff"))}
    logged["frac_zero_variance_units"] = trainer._metrics["train"]["frac_zero_variance_units"][-1]

    lists = list(zip(output["unit_ids"].tolist(), output["advantages"].tolist(), strict=True))
    sizes = []
    for k in range(N):
        there = [advantages[units.index(k)] for units, advantages in lists if k in units]
        sizes.append(len(there))
        assert logged[f"advantage_mean@{k + 1}"] == pytest.approx(statistics.mean(there), abs=1e-6)
        assert logged[f"advantage_std@{k + 1}"] == pytest.approx(statistics.pstdev(there), abs=1e-6)
    assert len(lists) >= sizes[0] > sizes[2] > 1

    (of_units,) = rollouts
    rows = of_units.tolist()
    assert of_units.shape == (16, 1 if name in ("grpo", "rover") else N)
    flat = [value for row in rows for value in row]
    total = sum(map(abs, flat))
    assert logged["advantage_mean"] == pytest.approx(statistics.mean(flat), abs=1e-6)
    assert logged["advantage_std"] == pytest.approx(statistics.stdev(flat), abs=1e-6)
    assert logged["effective_units"] == pytest.approx(total**2 / sum(value**2 for value in flat), rel=1e-5)
    assert 1 < logged["effective_units"] <= len(flat)
    units = [[row[c] for row in rows[start : start + G]] for start in range(0, 16, G) for c in range(len(rows[0]))]
    dead = [all(abs(value) < ZERO_VARIANCE for value in group) for group in units]
    assert logged["frac_zero_variance_units"] == pytest.approx(sum(dead) / len(dead))


@pytest.mark.parametrize(("reward", "gamma"), [("relevance", 0.0), ("exp_decay", 0.5)])
def test_sampled_groups_are_recorded(reward, gamma, mini, tiny_folder, tmp_path):
    """Returns are tail sums of the drawn gains, and their z-scores are the advantages."""
    options = ("algorithm=rank_grpo", f"reward={reward}", f"reward.gamma={gamma}")
    trainer = make(mini, tiny_folder, tmp_path, *options)
    trainer.rollout_log = RolloutLog(trainer.run, every=2, num_iterations=2)
    rewards, log_rollout = [], trainer._log_rollout

    def noted(of_units, spread, returns, rollout):
        rewards.append(rollout.rewards)
        log_rollout(of_units, spread, returns, rollout)

    trainer._log_rollout = noted
    trainer.train()
    groups = read_rows(trainer.run.root / "rollouts.jsonl")
    assert [group["step"] for group in groups] == [0, 2]
    compared = 0
    records = {record.context_id: record for record in mini.splits["train"]}
    for group, reward_batch in zip(groups, rewards, strict=True):
        assert records[group["context_id"]].prompt[-1]["content"].endswith(group["prompt"].removeprefix("…"))
        gains = reward_batch.gains[:G, 0].numpy()
        tails = np.array([[sum(gamma ** (j - k) * row[j] for j in range(k, N)) for k in range(N)] for row in gains])
        credit = (tails - tails.mean(0)) / (tails.std(0, ddof=1) + 1e-4)
        for one, worth, advantages, total in zip(
            group["lists"], tails, credit, reward_batch.totals[:G].tolist(), strict=True
        ):
            shown = len(one["ranks"])
            assert [rank[3] for rank in one["ranks"]] == pytest.approx(worth[:shown], abs=1e-6)
            assert [rank[4] for rank in one["ranks"]] == pytest.approx(advantages[:shown], abs=1e-5)
            assert one["reward"] == pytest.approx(total)
            compared += shown * bool(np.abs(advantages).max() > 0)
    assert compared


def test_ranks_that_no_list_has_are_not_recorded(mini, tiny_folder, tmp_path):
    trainer = make(mini, tiny_folder, tmp_path, "algorithm=grpo")
    trainer.hashed_list = lambda ids, place: [5] * (place + 1)  # no entry
    trainer.model.train()
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert (output["unit_ids"] >= N).all()
    metrics = trainer._metrics["train"]
    assert not {name for name in metrics if name.startswith(("advantage_mean@", "advantage_std@"))}
    assert metrics["effective_units"] == [0.0] and metrics["hits@1"] == metrics["reward@1"] == [0.0]
    assert metrics["frac_zero_variance_units"] == [1.0]


def test_effective_units():
    def of(*values: float) -> float:
        return effective_units(torch.tensor(values)[:, None]).item()

    assert of(0.0, 0.0, 0.0) == 0
    assert of(0.0, -2.5, 0.0, 0.0) == pytest.approx(1)
    for n in (2, 5):
        assert of(*[0.3] * n) == pytest.approx(n)
        assert of(*[-0.3, 0.3] * n, 0.0) == pytest.approx(2 * n)
    assert of(3.0, 1.0) == pytest.approx(1.6)
    assert of(3e6, 1e6) == pytest.approx(of(3e-6, 1e-6)) == pytest.approx(1.6)
