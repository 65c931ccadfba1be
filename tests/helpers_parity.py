"""Trainings to compare update by update: ours, TRL's own, and ours on completions that are not sampled."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOTrainer

from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset
from rlbench.models.completing import Completion
from rlbench.objective import Objective
from rlbench.rewards.scorer import ListScorer
from rlbench.rewards.terms import TERMS
from rlbench.training.rl import make_collector, prompt_dataset, trl_arguments
from rlbench.training.scoring import Batching
from rlbench.training.trainer import RankedListTrainer
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_scorer

UPDATES = 4


class Trained(NamedTuple):
    """Results of a training of a few updates, with losses and gradients by update."""

    log: list[dict[str, float]]
    gradients: list[torch.Tensor]
    weights: dict[str, torch.Tensor]
    spent: dict[str, int]
    processes: int

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.log]


def hashed_gains(completion_ids: Sequence[Sequence[int]], term: str, n: int) -> torch.Tensor:
    """(B, N) gains computed from a hash of the text. An untrained model has no hits, so all advantages would be 0."""
    digests = [hashlib.sha256(f"{term} {list(ids)}".encode()).digest() for ids in completion_ids]
    return torch.tensor([[byte / 256 for byte in digest[:n]] for digest in digests])


class HashScorer(ListScorer):
    """`hashed_gains` in place of every term's gains, except those of terms that ask."""

    def __call__(self, completion_ids, **columns):
        super().__call__(completion_ids, **columns)
        n = self.reader.units.list_length
        gains = [
            self.rewards.gains[:, m] if TERMS[term].needs else hashed_gains(completion_ids, term, n)
            for m, term in enumerate(self.reward.terms)
        ]
        self.rewards = replace(self.rewards, gains=torch.stack(gains, dim=1))
        return self.rewards.gains.sum((1, 2)).tolist()

    def as_functions(self):
        """The terms in TRL's form: one reward function each."""

        def of_term(term):
            def total(completion_ids, **_):
                return hashed_gains(completion_ids, term, self.reader.units.list_length).sum(1).tolist()

            return total

        return [of_term(term) for term in self.reward.terms]


class HashedLists(RankedListTrainer):
    """Prompt and position in the group determine the completions, so every layout has the same batch."""

    def lists(self, prompt_ids, end, walk, written=None):
        """With a sampler: completions of a group are adjacent, and several groups may have one prompt."""
        before, found = Counter(), []
        for ids in map(tuple, prompt_ids):
            found.append(Completion(self.hashed_list(list(ids), before[ids] % self.num_generations), [], len(ids)))
            before[ids] += 1
        return found

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        if self._collected is not None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations)
        first = self.accelerator.process_index * len(prompt_ids)
        places = [(first + i) % num_generations for i in range(len(prompt_ids))]
        return [self.hashed_list(ids, place) for ids, place in zip(prompt_ids, places, strict=True)], None

    def hashed_list(self, prompt_ids: list[int], place: int) -> list[int]:
        """A list with at most one entry too many; some have a preamble, some are cut off before EOS."""
        draw = random.Random(f"{prompt_ids} {place}")
        films = draw.sample(self.scorer.judge.catalog.items, draw.randint(1, self.objective.units.list_length + 1))
        preamble = draw.choice(["", "", "Films to try:\n"])
        text = preamble + "\n".join(f"{title} ({year})" for title, year in films)
        tokenizer = self.processing_class
        end = [tokenizer.eos_token_id] if draw.random() < 0.75 else []
        return tokenizer(text, add_special_tokens=False)["input_ids"] + end


class Watch(TrainerCallback):
    """Record the gradient of every update."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.gradients = model, []

    def on_pre_optimizer_step(self, args, state, control, **_):
        flat = [p.grad.detach().flatten() for p in self.model.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(flat).clone())


def parity_config(*overrides: str) -> Config:
    """A short training at mu = 2 with 16 completions per update, in groups of 4."""
    return composed(
        *SMALL,
        "reward=dcg",
        f"trainer.rl.updates={UPDATES}",
        "trainer.rl.completions_per_update=16",
        "trainer.rl.group_size=4",
        "trainer.rl.num_iterations=2",
        "trainer.rl.learning_rate=1e-3",
        "trainer.rl.max_grad_norm=1e6",  # gradient clipping would hide a loss with a wrong scale
        "algorithm.kl.beta=0.05",
        "generation.max_new_tokens=24",
        *overrides,
    )


def trained(
    config: Config,
    folder: Path,
    dataset: RankedListDataset,
    output: Path,
    trl_settings: dict[str, Any] | None = None,
    *,
    hashed: bool = False,
    processes: int = 1,
) -> Trained:
    """A training by our trainer, on `HashedLists` if `hashed`; with `trl_settings`, by TRL's own trainer."""
    tokenizer, model = load(folder, "float64", ends_early=not hashed)
    scorer = make_scorer(config, dataset, tokenizer, model, HashScorer)
    common = {"model": model, "train_dataset": prompt_dataset(dataset.splits["train"]), "processing_class": tokenizer}
    # With its usual epsilon, Adam moves a weight by a full step in either direction if its gradient is rounding noise.
    args = with_settings(trl_arguments(config, output, processes), adam_epsilon=1e-4, save_strategy="no")
    if trl_settings is None:
        objective = Objective(config.algorithm, config.reward, config.dataset.list_length)
        kind = HashedLists if hashed else RankedListTrainer
        # TRL's order of completions, and prompts shared although TRL shares none. Rounding decides whether a token at
        # the quantile of entropies counts, so there the passes must be TRL's.
        batching = Batching("always" if config.algorithm.entropy_quantile == 1 else "never", "completions")
        generation = replace(config.generation, prefill="repeated")
        trainer = kind(
            objective=objective, scorer=scorer, args=args, batching=batching, generation=generation, **common
        )
        if config.collects:
            prompts = prompt_dataset(dataset.splits["train"], numbered=True)
            trainer.train_dataset, trainer.collector = prompts, make_collector(config, prompts)
    else:
        weights = [float(term["weight"]) for term in config.reward.terms.values()]
        kind = trl_settings.get("trainer", GRPOTrainer)
        named = {name: value for name, value in trl_settings.items() if name != "trainer"}
        if kind is RLOOTrainer:
            args = rloo_arguments(args)
            named.pop("loss_type"), named.pop("use_bias_correction_kl")
        args = with_settings(args, reward_weights=weights, **named)
        trainer = kind(reward_funcs=scorer.as_functions(), args=args, **common)
    watch = Watch(model)
    trainer.add_callback(watch)
    trainer.train()
    return Trained(
        log=[row for row in trainer.state.log_history if "loss" in row],
        gradients=watch.gradients,
        weights=dict(model.state_dict()),
        spent=trainer.ledger.counts if isinstance(trainer, RankedListTrainer) else {},
        processes=trainer.accelerator.num_processes,
    )


def rloo_arguments(args: GRPOConfig) -> RLOOConfig:
    """The same for TRL's other trainer."""
    shared = {field.name for field in fields(GRPOConfig) if field.init} & {f.name for f in fields(RLOOConfig) if f.init}
    # The two determine each other, so only one may be given.
    return RLOOConfig(**{name: getattr(args, name) for name in shared - {"generation_batch_size"}})


def with_settings(args: GRPOConfig, **changes: Any) -> GRPOConfig:
    """The arguments with changes."""
    for name, value in changes.items():
        assert hasattr(args, name), f"TRL 1.16 has no argument {name}"
        setattr(args, name, value)
    return args


def assert_same(a: Trained, b: Trained) -> None:
    """Losses, gradients and final weights agree to 1e-6.

    TRL rounds advantages to float32. If they multiply log-probabilities, as in VESPO, the mean -log pi (the entropy)
    enlarges that rounding. The sampled tokens, and so the size of a loss, depend on the processor.
    """
    assert len(a.losses) == len(b.losses) > 0
    for row, mine, other in zip(a.log, a.losses, b.losses, strict=True):
        assert mine == pytest.approx(other, abs=1e-6 * max(1.0, row.get("entropy", 1.0)))
    assert max(gradient.abs().max() for gradient in b.gradients) > 1e-2  # a comparison of zeros would prove nothing
    for mine, other in zip(a.gradients, b.gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    for name, weight in b.weights.items():
        torch.testing.assert_close(a.weights[name], weight, atol=1e-6, rtol=1e-5)


def settings(config: Config, **more: Any) -> dict[str, Any]:
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
GUARDED = ["reward=guarded_gdpo", "reward.terms.seen.weight=0.3"]
"""Four terms of different weights."""

CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "grpo": (["algorithm=grpo"], {"importance_sampling_level": "token"}),
    "gspo": (["algorithm=gspo"], SEQUENCE),
    "grpo-weighted_kl": (["algorithm=grpo", "algorithm.kl.importance_weighted=true"], {}),
    "gspo-weighted_kl": (["algorithm=gspo", "algorithm.kl.importance_weighted=true"], SEQUENCE),
    "grpo-delta": (
        ["algorithm=grpo", "algorithm.surrogate=clip_delta", DELTA],
        {"epsilon": 0.2, "epsilon_high": 0.2, "delta": 1.1},
    ),
    "grpo-batch_std": (["algorithm=grpo", "algorithm.baseline=batch_std"], {"scale_rewards": "batch"}),
    "bnpo": (["algorithm=bnpo"], {"loss_type": "bnpo"}),
    "dapo": (["algorithm=dapo"], {"loss_type": "dapo"}),
    "dr_grpo": (["algorithm=dr_grpo"], {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "cispo": (["algorithm=cispo"], {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": (["algorithm=sapo"], {"loss_type": "sapo", **SOFT}),
    "vespo": (["algorithm=vespo"], {"loss_type": "vespo", **GAMMA}),
    "luspo": (["algorithm=luspo"], {"loss_type": "luspo", **SEQUENCE}),
    "top_entropy": (["algorithm=top_entropy"], {"loss_type": "dapo", "top_entropy_quantile": 0.2}),
    "grpo-entropy_bonus": (["algorithm=grpo", "+algorithm.regularisers.entropy_bonus=0.3"], {"entropy_coef": 0.3}),
    "gmpo": (["algorithm=gmpo"], {"trainer": GMPOTrainer, "epsilon": 0.4, "epsilon_high": 0.4}),
    "rloo": (["algorithm=rloo", "algorithm.kl.beta=0"], {"trainer": RLOOTrainer, "beta": 0.0}),
    "terms-summed": (
        ["algorithm=grpo", *GUARDED, "reward.combine=sum_then_normalise"],
        {"multi_objective_aggregation": "sum_then_normalize"},
    ),
    "terms-gdpo": (["algorithm=grpo", *GUARDED], {"multi_objective_aggregation": "normalize_then_sum"}),
}
"""Overrides of each method that TRL 1.16 also has, and TRL's names for its settings."""
