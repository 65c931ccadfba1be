"""Every method of conf/algorithm trains: a few updates on mini, with finite numbers and weights that move."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch

from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.objective.pieces import credits
from rlbench.rewards.scorer import ListScorer
from rlbench.running.checks import check_config
from rlbench.running.cli import methods
from rlbench.training.preference_lists import Lists
from tests.conftest import SMALL, composed, shares
from tests.helpers_training import load, make_preference_trainer, make_trainer

UPDATES = 4
# An untrained model has no hits. Token counts differ between lists, so every method has something to do.
OTHER_REWARD = [
    "+reward.terms.tokens={weight:1.0,normaliser:24.0}",
    "reward.success={rule:total_at_least,threshold:0.5}",
]
SHORT = [
    f"trainer.rl.updates={UPDATES}",
    "trainer.rl.num_iterations=2",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=4",
    "trainer.rl.learning_rate=1e-3",
    "trainer.rl.save_every=100",
    "generation.max_new_tokens=24",
    *OTHER_REWARD,
]


class DrawnHits(ListScorer):
    """Hits drawn from the text, for credit that depends on hits alone."""

    def __call__(self, completion_ids, **columns):
        totals = super().__call__(completion_ids, **columns)
        digests = [hashlib.sha256(str(list(ids)).encode()).digest() for ids in completion_ids]
        n = self.reader.units.list_length
        hits = torch.tensor([[float(byte < 64) for byte in digest[:n]] for digest in digests])
        self.rewards = replace(self.rewards, hits=hits)
        return totals


@pytest.mark.parametrize("name", shares(methods(POLICY_OPTIMISATION), parts=3, fast=0))
def test_trains(name, mini, tiny_folder, tmp_path):
    config = composed(*SMALL, f"algorithm={name}", *SHORT)
    of_hits = credits[config.algorithm.credit].facts["reads"] == "hits"
    if of_hits:
        config = composed(*SMALL, f"algorithm={name}", *SHORT[: -len(OTHER_REWARD)])
    assert not check_config(config)
    tokenizer, model = load(tiny_folder, ends_early=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path, DrawnHits if of_hits else ListScorer)
    train(trainer, "loss", "grad_norm", "clip_low", "clip_high", "max_abs_log_ratio")
    check_weights(before, model)


class DrawnLists(Lists):
    """Entries drawn from the text, because an untrained model writes none: hits, misses, and what was named before."""

    def _listed(self, ids, records):
        found = super()._listed(ids, records)
        relevant, seen = self._relevant(records), [self._seen(record) for record in records]
        return [self._with_entries(one, *row) for one, *row in zip(found, relevant, seen, strict=True)]

    def _with_entries(self, one, relevant, seen):
        if one.lines:
            return one
        digest = hashlib.sha256(str(one.ids).encode()).digest()
        pools = [range(len(self._lines)), sorted(relevant) or [0], sorted(seen) or [0]]
        pools = [pools[byte % 3] for byte in digest[:4]]
        items = [pool[byte % len(pool)] for byte, pool in zip(digest[4:8], pools, strict=True)]
        hits = [item in relevant and item not in items[:place] for place, item in enumerate(items)]
        terms = tuple(float(sum(hits)) for _ in one.terms)
        return replace(one, lines=[self._lines[item] for item in items], items=items, hits=hits, terms=terms)


@pytest.mark.parametrize("name", shares(methods("preference"), parts=3, fast=0))
def test_trains_on_preferences(name, mini, start, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.helpers_training.Lists", DrawnLists)
    enough = ["algorithm.rounds=2", "trainer.rl.group_size=8", "algorithm.prompts=12"]  # so that lists differ in value
    config = composed(*SMALL, f"algorithm={name}", *SHORT, f"runs_dir={tmp_path}", *enough)
    assert not check_config(config)
    tokenizer, model = load(start)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_preference_trainer(config, mini, tokenizer, model, start)
    train(trainer, "loss", "grad_norm", "entropy")
    check_weights(before, model)


def train(trainer, *finite: str) -> None:
    """Train, and check the measurements of every update."""
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == UPDATES
    for row in rows:
        assert all(math.isfinite(row[key]) for key in finite)


def check_weights(before, model) -> None:
    assert any((value - before[key]).abs().max() > 1e-6 for key, value in model.state_dict().items())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
