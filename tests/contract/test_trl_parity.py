"""`algorithm=grpo` and `gspo` are TRL's own trainer: same losses, same gradients, step after step."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from trl import GRPOTrainer

from rlbench.config import Config
from rlbench.data.record import RankedListDataset
from rlbench.objective import Objective
from rlbench.rewards.scorer import ListScorer
from rlbench.stages.rl import prompt_dataset, trl_arguments
from rlbench.trainer import RankedListTrainer
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_scorer

UPDATES = 4


@pytest.fixture(autouse=True)
def double_precision():
    """In float32 rounding alone comes near 1e-6, and Adam carries it on from step to step."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def hashed_gains(completion_ids, term, n):
    """(B, N) gains drawn from the text, since an untrained model hits nothing and would leave all advantages 0."""
    digests = [hashlib.sha256(f"{term} {list(ids)}".encode()).digest() for ids in completion_ids]
    return torch.tensor([[byte / 256 for byte in digest[:n]] for digest in digests])


class HashScorer(ListScorer):
    """`hashed_gains` in place of every term's."""

    def __call__(self, completion_ids, **columns):
        super().__call__(completion_ids, **columns)
        n = self.reader.units.list_length
        gains = [hashed_gains(completion_ids, term, n) for term in self.reward.terms]
        self.rewards = replace(self.rewards, gains=torch.stack(gains, dim=1))
        return self.rewards.gains.sum((1, 2)).tolist()

    def as_functions(self):
        """The terms as TRL has them: one reward function each."""

        def of_term(term):
            def total(completion_ids, **_):
                return hashed_gains(completion_ids, term, self.reader.units.list_length).sum(1).tolist()

            return total

        return [of_term(term) for term in self.reward.terms]


class Watch(TrainerCallback):
    """Keeps the gradient of every update."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.gradients = model, []

    def on_pre_optimizer_step(self, args, state, control, **_):
        flat = [p.grad.detach().flatten() for p in self.model.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(flat).clone())


def trained(
    config: Config, folder: Path, mini: RankedListDataset, output: Path, trl_settings: dict | None
) -> tuple[list[float], list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, gradients and final weights of a few updates: ours, or with `trl_settings` TRL's own."""
    tokenizer, model = load(folder, "float64", ends_early=True)
    scorer = make_scorer(config, mini, tokenizer, model, HashScorer)
    common = {"model": model, "train_dataset": prompt_dataset(mini.splits["train"]), "processing_class": tokenizer}
    # With its usual epsilon Adam moves weights whose gradient is rounding noise by the full step, to either side.
    args = replace_arguments(trl_arguments(config, output), adam_epsilon=1e-4)
    if trl_settings is None:
        objective = Objective(config.algorithm, config.reward, config.dataset.list_length)
        trainer = RankedListTrainer(objective=objective, scorer=scorer, args=args, **common)
    else:
        weights = [float(term["weight"]) for term in config.reward.terms.values()]
        args = replace_arguments(args, reward_weights=weights, **trl_settings)
        trainer = GRPOTrainer(reward_funcs=scorer.as_functions(), args=args, **common)
    watch = Watch(model)
    trainer.add_callback(watch)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, watch.gradients, model.state_dict()


def replace_arguments(args, **changes):
    for name, value in changes.items():
        assert hasattr(args, name), f"TRL 1.16 has no argument {name}"
        setattr(args, name, value)
    return args


def settings(config: Config, **more) -> dict:
    """TRL's names for an algorithm's numbers."""
    clip = config.algorithm.options.get("clip", {"low": 0.2, "high": 0.2})
    return {
        "epsilon": clip["low"],
        "epsilon_high": clip["high"],
        "loss_type": "grpo",
        "use_bias_correction_kl": config.algorithm.kl.importance_weighted,
        "beta": config.algorithm.kl.beta,
        **more,
    }


DELTA = "++algorithm.options.clip_delta={low:0.2,high:0.2,delta:1.1}"
SOFT = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
GAMMA = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
SEQUENCE = {"importance_sampling_level": "sequence"}
CASES = {
    "grpo": ([], {"importance_sampling_level": "token"}),
    "gspo": ([], SEQUENCE),
    "grpo-weighted_kl": (["algorithm.kl.importance_weighted=true"], {}),
    "gspo-weighted_kl": (["algorithm.kl.importance_weighted=true"], SEQUENCE),
    "grpo-delta": (["algorithm.surrogate=clip_delta", DELTA], {"epsilon": 0.2, "epsilon_high": 0.2, "delta": 1.1}),
    "grpo-batch_std": (["algorithm.baseline=batch_std"], {"scale_rewards": "batch"}),
    "bnpo": ([], {"loss_type": "bnpo"}),
    "dapo": ([], {"loss_type": "dapo"}),
    "dr_grpo": ([], {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "cispo": ([], {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": ([], {"loss_type": "sapo", **SOFT}),
    "vespo": ([], {"loss_type": "vespo", **GAMMA}),
    "luspo": ([], {"loss_type": "luspo", **SEQUENCE}),
}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_reproduces_trl(case, num_iterations, accumulation, mini, tiny_folder, tmp_path):
    overrides, trl_settings = CASES[case]
    config = composed(
        *SMALL,
        f"algorithm={case.split('-')[0]}",
        "reward=dcg",
        f"trainer.rl.updates={UPDATES}",
        "trainer.rl.completions_per_update=16",
        "trainer.rl.group_size=4",
        f"trainer.rl.micro_batch_size={16 // accumulation}",
        f"trainer.rl.num_iterations={num_iterations}",
        "trainer.rl.learning_rate=1e-3",
        "trainer.rl.save_every=100",
        "algorithm.kl.beta=0.05",
        "generation.max_new_tokens=24",
        *overrides,
    )
    ours = trained(config, tiny_folder, mini, tmp_path / "ours", None)
    theirs = trained(config, tiny_folder, mini, tmp_path / "theirs", settings(config, **trl_settings))
    assert len(ours[0]) == len(theirs[0]) == UPDATES
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert max(b.abs().max() for b in theirs[1]) > 1e-2  # a comparison of zeros would prove nothing
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    for name, weight in theirs[2].items():
        torch.testing.assert_close(ours[2][name], weight, atol=1e-6, rtol=1e-5)


GUARDED = ["reward=guarded_gdpo", "reward.terms.seen.weight=0.3"]
"""Four terms of different weights."""


@pytest.mark.parametrize("combine", ["sum_then_normalise", "normalise_then_sum"])
def test_several_terms_are_combined_as_trl_combines_reward_functions(combine, mini, tiny_folder, tmp_path):
    """normalise_then_sum at sequence credit is TRL's GDPO."""
    theirs_of = {"sum_then_normalise": "sum_then_normalize", "normalise_then_sum": "normalize_then_sum"}
    config = composed(*SMALL, *GUARDED, f"reward.combine={combine}", "algorithm=grpo", *SHORT)
    ours = trained(config, tiny_folder, mini, tmp_path / "ours", None)
    named = settings(config, multi_objective_aggregation=theirs_of[combine])
    theirs = trained(config, tiny_folder, mini, tmp_path / "theirs", named)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert max(b.abs().max() for b in theirs[1]) > 1e-2
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


SHORT = [
    "trainer.rl.updates=2",
    "trainer.rl.num_iterations=2",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=8",
    "trainer.rl.learning_rate=1e-2",
    "trainer.rl.save_every=100",
    "generation.max_new_tokens=16",
]


def test_the_comparison_can_fail(mini, tiny_folder, tmp_path):
    """Another clip range changes the gradient at mu = 2: the parity above is not blind."""
    config = composed(*SMALL, "algorithm=gspo", "reward=dcg", *SHORT)
    ours = trained(config, tiny_folder, mini, tmp_path / "ours", None)
    wide = settings(config, importance_sampling_level="sequence") | {"epsilon": 0.5, "epsilon_high": 0.5}
    theirs = trained(config, tiny_folder, mini, tmp_path / "theirs", wide)
    assert (ours[1][1] - theirs[1][1]).abs().max() > 1e-4
