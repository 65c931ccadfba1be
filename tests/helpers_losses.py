"""Micro-batches as the loss receives them, the same values one by one for slow references, and TRL's loss."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch

from rlbench.lists.reader import UnitLayout
from rlbench.objective.inputs import Course, LossInputs, Window

N, T = 4, 14
LENGTHS = [14, 11, 9, 6, 12]
B = len(LENGTHS)
PREAMBLES = [2, 0, 1, 3, 0]


def loss_inputs(seed: int = 0) -> LossInputs:
    """Random float64 micro-batch far off policy, with all kinds of units and advantages of both signs and 0."""
    generator = torch.Generator().manual_seed(seed)
    units = UnitLayout(N)
    unit_ids, mask = torch.full((B, T), units.padding), torch.zeros(B, T, dtype=torch.long)
    for row, (length, preamble) in enumerate(zip(LENGTHS, PREAMBLES, strict=True)):
        listed = torch.arange(length - preamble - 1) * (N + (row == 0)) // (length - preamble - 1)
        unit_ids[row, :length] = torch.cat([torch.full((preamble,), units.other), listed, torch.tensor([units.eos])])
        mask[row, :length] = 1

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape or (B, T), generator=generator, dtype=torch.float64)

    advantages = torch.randn(B, T, generator=generator, dtype=torch.float64)
    return LossInputs(
        logps=uniform(-2.0, -0.05),
        old_logps=uniform(-2.0, -0.05),
        ref_logps=uniform(-2.0, -0.05),
        advantages=advantages.masked_fill((unit_ids == units.eos) | (mask == 0), 0.0),
        unit_ids=unit_ids,
        mask=mask,
        units=units,
        extras={
            "entropy": uniform(0.0, 2.0),
            "top_p_entropy": uniform(0.0, 2.0),
            "unused": (uniform(0.0, 1.0) < 0.7) & mask.bool(),
            "demonstration_logps": uniform(-2.0, -0.05, 3, 5),
            "demonstration_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]),
            "mean_logps": uniform(-4.0, -2.0),
            "old_mean_logps": uniform(-4.0, -2.0),
            "correct": torch.tensor([1.0, 0.0, 0.3, 1.0, 0.0], dtype=torch.float64),
            "correct_ranks": uniform(0.0, 1.0, B, N).round(),
            "score": torch.tensor([0.7, 0.0, -0.2, 1.3, 0.0], dtype=torch.float64),
            "demonstration_ref_logps": uniform(-2.0, -0.05, 3, 5),
            "segment": (unit_ids == units.other).long() * 2,
        },
        course=Course(
            update=1,
            carried={"siren/anchor": 0.4, "adversarial/texts": 0.0, "adversarial/update": 1.0}
            | {f"adversarial/slope/{k}": 0.0 for k in range(3)}
            | {f"adversarial/weight/{k}": weight for k, weight in enumerate((0.4, 0.7, -0.3))},
        ),
    )


def on_policy(inputs: LossInputs) -> LossInputs:
    """The same tokens with equal rollout, reference and current policies."""
    same = inputs.logps.clone()
    return replace(
        inputs,
        old_logps=same,
        ref_logps=same,
        extras={**inputs.extras, "old_mean_logps": inputs.extras["mean_logps"]},
    )


def polluted(inputs: LossInputs, value: float) -> LossInputs:
    """The same with `value` or -`value` on the padding of everything that a model computes."""
    padding = inputs.mask == 0
    of_tokens = ("entropy", "top_p_entropy", "mean_logps", "old_mean_logps")
    beside = inputs.extras["demonstration_mask"] == 0
    demonstrations = ("demonstration_logps", "demonstration_ref_logps")
    return replace(
        inputs,
        logps=inputs.logps.masked_fill(padding, value),
        old_logps=inputs.old_logps.masked_fill(padding, -value),
        ref_logps=inputs.ref_logps.masked_fill(padding, -value),
        extras={
            **inputs.extras,
            **{name: inputs.extras[name].masked_fill(padding, value) for name in of_tokens},
            **{name: inputs.extras[name].masked_fill(beside, value) for name in demonstrations},
        },
    )


def one_advantage_a_list(inputs: LossInputs) -> LossInputs:
    """The same, with the advantage of each completion's first token at all its tokens."""
    return replace(inputs, advantages=inputs.advantages[:, :1] * inputs.mask)


def one_advantage_a_unit(inputs: LossInputs) -> LossInputs:
    """The same, with one advantage per unit."""
    generator = torch.Generator().manual_seed(5)
    of_units = torch.randn(B, inputs.units.count, generator=generator, dtype=torch.float64)
    return replace(inputs, advantages=of_units.gather(1, inputs.unit_ids) * inputs.mask)


def window(inputs: LossInputs, accumulation_steps: int = 1) -> Window:
    return Window(accumulation_steps, inputs.mask.sum(), T)


def gradient(loss: Callable[[LossInputs], torch.Tensor], inputs: LossInputs) -> torch.Tensor:
    """(B, T) gradient of a scalar loss with respect to the log-probabilities."""
    logps = inputs.logps.clone().requires_grad_()
    loss(replace(inputs, logps=logps)).backward()
    return logps.grad


class Slow:
    """The values of a micro-batch one by one. Values without gradient are computed from `frozen`.

    Args:
        inputs: the micro-batch.
        ratio: level of the ratio, a name in the registry.
        logps: log-probabilities that replace those of inputs.
    """

    def __init__(self, inputs: LossInputs, ratio: str = "token", logps: torch.Tensor | None = None):
        self.frozen = inputs.logps.tolist()
        self.lp = self.frozen if logps is None else logps.tolist()
        self.old, self.ref, self.a = inputs.old_logps.tolist(), inputs.ref_logps.tolist(), inputs.advantages.tolist()
        self.unit, self.other = inputs.unit_ids.tolist(), inputs.units.other
        self.extras = {name: values.tolist() for name, values in inputs.extras.items()}
        self.lengths = inputs.mask.sum(1).tolist()
        self.ratio = ratio

    def tokens(self) -> list[tuple[int, int]]:
        return [(i, t) for i, length in enumerate(self.lengths) for t in range(length)]

    def log_ratio(self, i: int, t: int) -> float:
        return self._log_ratio(self.lp, i, t)

    def frozen_log_ratio(self, i: int, t: int) -> float:
        return self._log_ratio(self.frozen, i, t)

    def _log_ratio(self, lp: list[list[float]], i: int, t: int) -> float:
        row, unit = range(self.lengths[i]), self.unit[i]
        if self.ratio == "none":
            return lp[i][t] - self.frozen[i][t]
        if self.ratio == "product":
            return math.fsum(lp[i][s] - self.old[i][s] for s in row)
        if self.ratio == "sequence_token":
            return mean(self.frozen[i][s] - self.old[i][s] for s in row) + lp[i][t] - self.frozen[i][t]
        members = {
            "token": [t],
            "rank": [s for s in row if unit[s] == unit[t]],
            "sequence": list(row),
            "segment": [s for s in row if (unit[s] == self.other) == (unit[t] == self.other)],
        }[self.ratio]
        return mean(lp[i][s] - self.old[i][s] for s in members)


def mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def numeric_gradient(of_row: Callable[[torch.Tensor, int], float], inputs: LossInputs, eps: float = 1e-6):
    """(B, T) central differences with respect to logps of a sum of row losses (logps, row) -> float; 0 on padding."""
    found = torch.zeros_like(inputs.logps)
    for i, t in Slow(inputs).tokens():
        step = torch.zeros_like(inputs.logps)
        step[i, t] = eps
        found[i, t] = (of_row(inputs.logps + step, i) - of_row(inputs.logps - step, i)) / (2 * eps)
    return found


def trl_loss(inputs: LossInputs, method: Callable | None = None, level: str = "token", **settings) -> torch.Tensor:
    """TRL's own `_compute_loss` of a micro-batch, on a trainer that holds only its settings.

    Args:
        inputs: the micro-batch; logps may require gradients.
        method: the trainer's `_compute_loss`; GRPOTrainer's by default.
        level: TRL's importance_sampling_level.
        settings: attributes of the trainer, e.g. loss_type, epsilon_low, and `args` as a dict.
    """
    from trl import GRPOTrainer

    trainer = SimpleNamespace(
        **{
            "beta": 0.0,
            "loss_type": "grpo",
            "importance_sampling_level": level,
            "top_entropy_quantile": 1.0,
            "entropy_coef": 0.0,
            "_entropy_bonus_enabled": False,
            **settings,
        },
    )
    trainer.args = SimpleNamespace(**{"delta": None, "steps_per_generation": 1, **settings.get("args", {})})
    trainer.accelerator = SimpleNamespace(
        num_processes=1,
        sync_gradients=True,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
        pad_across_processes=lambda x, dim, pad_index: x,
    )
    trainer.model = SimpleNamespace(training=True)
    trainer.max_completion_length = T
    trainer.current_gradient_accumulation_steps = 1
    trainer.aux_loss_enabled = trainer.use_vllm = trainer.use_adaptive_entropy = False
    trainer.off_policy_mask_threshold = None
    trainer._metrics = {"train": defaultdict(list)}
    trainer.get_gamma_weights = GRPOTrainer.get_gamma_weights
    trainer.get_high_entropy_mask = partial(GRPOTrainer.get_high_entropy_mask, trainer)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (inputs.logps, inputs.extras["entropy"], None)
    prompt = torch.zeros(B, 1, dtype=torch.long)
    batch = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.zeros_like(inputs.mask),
        "completion_mask": inputs.mask,
        "advantages": inputs.advantages,
        "old_per_token_logps": inputs.old_logps,
        "ref_per_token_logps": inputs.ref_logps,
        "num_items_in_batch": inputs.mask.sum(),
    }
    return (method or GRPOTrainer._compute_loss)(trainer, None, batch)
