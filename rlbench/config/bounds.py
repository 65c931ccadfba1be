"""The valid range of every number in a config. Loads no torch.

Most ranges have an upper bound that no sensible run reaches. Larger numbers would overflow or exhaust memory deep
inside a library, with an error that names no key.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlbench.base.records import is_finite

MOST = 2**31 - 1
"""Largest count. Libraries store counts as 32-bit integers."""
LONGEST_LIST = 10_000
"""Largest `dataset.list_length`. Cut-offs, ranks and columns are listed one by one."""
LARGEST_SEED = 2**32 - 1
"""numpy accepts no larger seed."""


@dataclass(frozen=True)
class Bound:
    """A range of numbers.

    Attributes:
        low, high: the ends.
        open_low, open_high: whether the end itself is excluded.
        interval: whether messages name both ends.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    interval: bool = False

    def problem(self, value: float) -> str:
        """Return what the number must be, or "" if it is valid."""
        if self.interval:
            inside = (self.low < value or (not self.open_low and self.low == value)) and (
                value < self.high or (not self.open_high and self.high == value)
            )
            left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
            return "" if inside else f"must lie in {left}{self.low}, {self.high}{right}"
        least = f" above {self.low}" if self.open_low else "" if self.low == -math.inf else f" of at least {self.low}"
        if not is_finite(value):
            return f"must be a finite number{least}"
        if self.open_low and value <= self.low:
            return "must be a positive number"
        if value < self.low:
            return f"must be at least {self.low}"
        return f"must be at most {self.high}" if value > self.high else ""


def _interval(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Bound:
    return Bound(low, high, open_low, open_high, interval=True)


FINITE = Bound()
COUNT = Bound(1, MOST)
COUNT_OR_NONE = Bound(0, MOST)
SEED = Bound(0, LARGEST_SEED)
SHARE = _interval(0, 1)
NOT_NEGATIVE = Bound(0, 10**9)
POSITIVE = Bound(0, 10**9, open_low=True)
INSIDE = _interval(0, 1, open_low=True, open_high=True)
PORT = _interval(1, 65535)
LOG_WEIGHT = _interval(-100, 100)
"""Range of the weights of `mini`'s preference model, which takes the exponential of a sum of four of them."""

BOUNDS: Mapping[str, Bound] = {
    "seed": SEED,
    "algorithm.kl.beta": NOT_NEGATIVE,
    "algorithm.reference.sync_every": COUNT_OR_NONE,
    "algorithm.reference.mixup": SHARE,
    "algorithm.entropy_quantile": _interval(0, 1, open_low=True),
    "algorithm.length_shaping.early_stop": FINITE,
    "algorithm.length_shaping.overflow": FINITE,
    "algorithm.length_shaping.exact": FINITE,
    "algorithm.negatives": COUNT,
    "algorithm.tuples_per_prompt": COUNT,
    "algorithm.prompts": COUNT,
    "algorithm.rounds": COUNT,
    "algorithm.beta": POSITIVE,
    "algorithm.sft_share": _interval(0, 1, open_high=True),
    "reward.gamma": SHARE,
    "reward.power": FINITE,
    "reward.success.threshold": FINITE,
    "matching.year_tolerance": COUNT_OR_NONE,
    "matching.fuzzy_threshold": _interval(0, 100, open_low=True),
    "dataset.list_length": Bound(1, LONGEST_LIST),
    "dataset.seed": SEED,
    "dataset.demonstrations": COUNT_OR_NONE,
    "dataset.demonstration_noise": SHARE,
    "dataset.careful_share": SHARE,
    "dataset.noise_popularity": LOG_WEIGHT,
    "dataset.genre_weight": LOG_WEIGHT,
    "dataset.era_weight": LOG_WEIGHT,
    "dataset.taste_weight": LOG_WEIGHT,
    "dataset.popularity_weight": LOG_WEIGHT,
    "dataset.validation_fraction": INSIDE,
    "dataset.test_fraction": INSIDE,
    "dataset.max_conversation_chars": COUNT,
    "dataset.min_rating": Bound(1, 5),
    "dataset.history": COUNT,
    "dataset.min_history": COUNT,
    "dataset.truth_size": COUNT,
    "dataset.train_windows": COUNT,
    "model.vocab_size": _interval(260, 10**6),  # 256 bytes and four special tokens
    "model.hidden_size": _interval(2, 2**15),
    "model.intermediate_size": _interval(1, 2**17),
    "model.layers": _interval(1, 1000),
    "model.heads": _interval(1, 1000),
    "model.max_positions": _interval(1, 2**20),
    "model.initializer_range": _interval(0, 10, open_low=True),
    "model.seed": SEED,
    "adapter.rank": _interval(1, 2**15),
    "adapter.alpha": Bound(0, 10**6, open_low=True),
    "adapter.dropout": _interval(0, 1, open_high=True),
    "trainer.parallel.zero_stage": _interval(1, 3),
    "trainer.sft.updates": COUNT,
    "trainer.sft.learning_rate": POSITIVE,
    "trainer.sft.warmup_fraction": SHARE,
    "trainer.sft.batch_size": COUNT,
    "trainer.sft.micro_batch_size": COUNT,
    "trainer.sft.max_length": COUNT,
    "trainer.sft.save_every": COUNT,
    "trainer.sft.seed": SEED,
    "trainer.sft.evaluate_every": COUNT,
    "trainer.rl.updates": COUNT,
    "trainer.rl.learning_rate": POSITIVE,
    "trainer.rl.warmup_updates": COUNT_OR_NONE,
    "trainer.rl.completions_per_update": COUNT,
    "trainer.rl.group_size": Bound(2, MOST),
    "trainer.rl.micro_batch_size": COUNT,
    "trainer.rl.micro_batch_tokens": COUNT,
    "trainer.rl.num_iterations": COUNT,
    "trainer.rl.token_budget": COUNT,
    "trainer.rl.adam_beta2": _interval(0, 1, open_high=True),  # Adam divides by 1 - beta2
    "trainer.rl.max_grad_norm": NOT_NEGATIVE,
    "trainer.rl.save_every": COUNT,
    "trainer.rl.keep_checkpoints": COUNT,
    "generation.temperature": Bound(0, 10**6, open_low=True),
    "generation.top_p": SHARE,
    "generation.top_k": COUNT_OR_NONE,
    "generation.min_p": _interval(0, 1, open_high=True),
    "generation.repetition_penalty": Bound(0, 100, open_low=True),
    "generation.no_repeat_ngram_size": COUNT_OR_NONE,
    "generation.max_new_tokens": COUNT,
    "generation.continuous.batch_tokens": COUNT,
    "generation.continuous.cache_tokens": COUNT,
    "generation.vllm.ratio_min": POSITIVE,
    "generation.vllm.ratio_max": POSITIVE,
    "generation.vllm.tensor_parallel_size": COUNT,
    "generation.vllm.gpu_memory_utilization": INSIDE,
    "generation.vllm.max_model_length": COUNT,
    "generation.vllm.server_port": PORT,
    "generation.vllm.server_timeout": POSITIVE,
    "generation.vllm.group_port": PORT,
    "evaluation.every": COUNT,
    "evaluation.batch_size": COUNT,
    "evaluation.batch_tokens": COUNT,
    "evaluation.validation_contexts": COUNT,
    "evaluation.test_contexts": COUNT,
    "evaluation.samples": COUNT_OR_NONE,
    "evaluation.beams": COUNT,
    "rollout.ranks": COUNT,
    "sampler.rounds": COUNT,
    "sampler.replay": _interval(0, 1, open_high=True),
    "sampler.capacity": COUNT_OR_NONE,
    "sampler.successes": COUNT_OR_NONE,
    "safety.max_kl": POSITIVE,
    "safety.min_entropy_share": INSIDE,
    "safety.min_list_length_share": INSIDE,
    "safety.min_catalogue_rate_share": INSIDE,
    "safety.patience": COUNT,
    "safety.warmup": COUNT_OR_NONE,
    "tracker.completions": COUNT_OR_NONE,
    "runtime.threads": _interval(1, 4096),
    "runtime.gpu_share": _interval(0, 1, open_low=True),
}
"""Range for each key. Lists, mappings of numbers, and options of pieces and terms are checked elsewhere."""

NULLABLE = {
    "algorithm.prompts",
    "matching.fuzzy_threshold",
    "dataset.max_conversation_chars",
    "trainer.sft.evaluate_every",
    "trainer.rl.micro_batch_tokens",
    "trainer.rl.token_budget",
    "generation.continuous.cache_tokens",
    "generation.vllm.ratio_min",
    "generation.vllm.ratio_max",
    "generation.vllm.max_model_length",
    "evaluation.validation_contexts",
    "evaluation.test_contexts",
    "rollout.ranks",
    "safety.max_kl",
    "safety.min_entropy_share",
    "safety.min_list_length_share",
    "safety.min_catalogue_rate_share",
    "runtime.threads",
    "runtime.gpu_share",
}
"""Keys that may be null. The error message says so."""


def number_problem(value: Any, bound: Bound, *, is_whole: bool = True) -> str:
    """Return what a setting outside the config must be, or "" if it is valid.

    Args:
        value: any type.
        bound: the valid range.
        is_whole: whether fractions are refused.
    """
    kind = "whole number" if is_whole else "number"
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        return f"must be a {kind} of at least {bound.low}"
    wrong = bound.problem(value) if is_finite(value) else f"must be a finite number of at least {bound.low}"
    return wrong.replace("must be at least", f"must be a {kind} of at least")


def check_numbers(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one sentence for each number outside its range, at any depth.

    Args:
        values: a config as nested mappings.
        prefix: prefix of the keys in messages.
    """
    problems = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            problems += check_numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            wrong = BOUNDS.get(name, FINITE).problem(value)
            problems += [f"{name} = {value} {wrong}{', or be null' if name in NULLABLE else ''}"] if wrong else []
    return problems
