"""Every method of conf/algorithm trains: a few updates on mini, with finite numbers and weights that move."""

import math

import pytest
import torch

from rlbench.cli import groups
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_trainer

UPDATES = 4
SHORT = [
    f"trainer.rl.updates={UPDATES}",
    "trainer.rl.num_iterations=2",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=4",
    "trainer.rl.learning_rate=1e-3",
    "trainer.rl.save_every=100",
    "generation.max_new_tokens=24",
    # An untrained model hits nothing; tokens differ from list to list and give every method something to do.
    "reward=soft_overlong",
    "+reward.terms.tokens={weight:1.0,normaliser:24.0}",
    "reward.success={rule:total_at_least,threshold:0.5}",
]


@pytest.mark.parametrize("name", groups()["algorithm"])
def test_trains(name, mini, tiny_folder, tmp_path):
    config = composed(*SMALL, f"algorithm={name}", *SHORT)
    tokenizer, model = load(tiny_folder, ends_early=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == UPDATES
    for row in rows:
        assert all(
            math.isfinite(row[key]) for key in ("loss", "grad_norm", "clip_low", "clip_high", "max_abs_log_ratio")
        )
    assert any((value - before[key]).abs().max() > 1e-6 for key, value in model.state_dict().items())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
