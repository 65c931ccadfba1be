"""What pieces are given. Shapes: B completions, T tokens, U units, P prompts, G completions a prompt, C columns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from rlbench.lists import UnitLayout

Memory = dict[str, float]
"""What pieces carry from update to update, by names of their own; saved and resumed with the run. Each process has its
own, so that what is put in must be the same on all."""


def alone(values: torch.Tensor) -> torch.Tensor:
    """The values of all processes, where there is one."""
    return values


@dataclass(frozen=True)
class Course:
    """Where in the run a micro-batch is, for pieces that look beyond it.

    Attributes:
        update: optimiser updates that are done.
        memory: what pieces keep; the only thing that a piece may change.
        gather: (n,) values of this process -> those of all processes, without gradients.
    """

    update: int = 0
    memory: Memory = field(default_factory=dict)
    gather: Callable[[torch.Tensor], torch.Tensor] = alone


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch at the loss; all tensors (B, T) where not said otherwise.

    Attributes:
        logps: log-probabilities of the tokens under the policy, differentiable.
        old_logps: under the rollout policy.
        ref_logps: under the reference policy; None where no piece asks for it.
        advantages: the tokens' advantages; 0 on padding.
        unit_ids: the tokens' units, codes of the layout.
        mask: 0 on padding.
        units: the layout.
        sampling_ratio: (B, T) or (B, 1), what each token's loss is multiplied by where another engine than the policy
            sampled: the policy's probability at the rollout over the engine's, bounded; None where the two are one.
        extras: by name, what pieces asked for in their `needs`: entropy and the forward pass's scalars (B, T), also at
            the rollout under "old_" names; demonstration_logps and demonstration_mask (D, L) of D demonstrations.
            Always there from the trainer: correct (B,), correct_ranks (B, N), score (B,) the lists' rewards, kl_scale
            (B,).
        course: where in the run this is.
    """

    logps: torch.Tensor
    old_logps: torch.Tensor
    ref_logps: torch.Tensor | None
    advantages: torch.Tensor
    unit_ids: torch.Tensor
    mask: torch.Tensor
    units: UnitLayout
    sampling_ratio: torch.Tensor | None = None
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    course: Course = field(default_factory=Course)

    @property
    def log_ratio(self) -> torch.Tensor:
        """log pi - log pi_old, token by token."""
        return self.logps - self.old_logps


@dataclass(frozen=True)
class Group:
    """Returns at the rollout, and what a baseline may look at beside them.

    Attributes:
        returns: (P, G, C), C = 1 under sequence credit, N under rank credit.
        counted: (P, G, C) bool, the returns that a baseline may look at; the others get advantage 0.
        unit_tokens: (P, G, C) how many tokens the credited unit has, at least 0.
        log_confidence: (P, G, C) mean log-probability of the unit's tokens under the rollout policy, 0 without tokens;
            all 0 where no piece needs old_logps.
        success: (P, G) bool, by the reward's success rule.
        features: (P, G) numbers of each list by name: tokens, entries, entropy, confidence, popularity, in_catalog,
            duplicates; where a piece needs hidden_states also effective_rank and its velocity and acceleration
            (`rlbench.objective.effective_rank`).
        progress: share of the run's updates that are done, in [0, 1].
        memory: what pieces keep from update to update.
    """

    returns: torch.Tensor
    counted: torch.Tensor
    unit_tokens: torch.Tensor
    log_confidence: torch.Tensor
    success: torch.Tensor
    features: Mapping[str, torch.Tensor]
    progress: float
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """What an aggregation may know of the accumulation window around its micro-batch.

    Attributes:
        accumulation_steps: micro-batches an update.
        tokens: completion tokens of the whole window, over all processes and divided by their number (gradients are
            averaged over processes).
        max_completion_length: the token limit of a completion.
    """

    accumulation_steps: int
    tokens: torch.Tensor
    max_completion_length: int
