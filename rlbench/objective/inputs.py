"""Inputs of the pieces. Shapes: B completions, T tokens, U units, P prompts, G completions per prompt, C columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from rlbench.lists.reader import UnitLayout

Carried = dict[str, float]
"""Numbers that pieces carry from update to update, under names they choose. Saved and resumed with the run. Each
process has its own copy, so the values must be the same on all processes."""


def alone(values: torch.Tensor) -> torch.Tensor:
    """Gather for a single process: returns the values unchanged."""
    return values


@dataclass(frozen=True)
class Course:
    """Position in the run and carried numbers, for pieces that need more than a rollout or a micro-batch.

    Attributes:
        update: number of finished optimiser updates.
        carried: numbers that pieces carry from update to update. It is the only thing that a piece may change.
        gather: (n,) values of this process -> those of all processes, without gradients.
    """

    update: int = 0
    carried: Carried = field(default_factory=dict)
    gather: Callable[[torch.Tensor], torch.Tensor] = alone


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch at the loss. All tensors are (B, T) unless stated otherwise.

    Attributes:
        logps: log-probabilities of the tokens under the policy, differentiable.
        old_logps: log-probabilities under the rollout policy.
        ref_logps: log-probabilities under the reference policy, or None if no piece needs them.
        advantages: the tokens' advantages; 0 on padding.
        unit_ids: the unit code of each token.
        mask: 0 on padding.
        units: the layout.
        sampling_ratio: (B, T) or (B, 1) factor on each token's loss when a separate engine sampled: the policy's
            probability at the rollout over the engine's, bounded. None if the policy itself sampled.
        extras: inputs that pieces requested in `needs`, by name: entropy and the forward pass's scalars (B, T), also
            those at the rollout under "old_" names; demonstration_logps and demonstration_mask (D, L) of D
            demonstrations. The trainer always adds correct (B,), correct_ranks (B, N), score (B,) with the lists'
            rewards, kl_scale (B,), mode (B,) and segment (B, T) as the rollout made them
            (`rlbench.sampling.members.Member`).
        course: position in the run.
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
    """Returns at the rollout, with everything else that a baseline may use.

    Attributes:
        returns: (P, G, C); C = 1 under sequence credit, N under rank credit.
        counted: (P, G, C) bool mask of the returns that a baseline may use. The others get advantage 0.
        unit_tokens: (P, G, C) number of tokens in the credited unit, possibly 0.
        log_confidence: (P, G, C) mean log-probability of the unit's tokens under the rollout policy. 0 for a unit
            without tokens, and 0 everywhere if no piece needs old_logps.
        success: (P, G) bool, by the reward's success rule.
        features: (P, G) properties of each list by name: tokens, entries, entropy, confidence, popularity, in_catalog,
            duplicates; mode, which is 1 for a list that thinks first in a rollout with both modes. If a piece needs
            hidden_states, also effective_rank, rank_velocity and rank_acceleration
            (`rlbench.objective.effective_rank`).
        progress: finished share of the run's updates, in [0, 1].
        until: (P, G, C) by name, sums over the list's tokens up to the end of the credited unit. For a list these are
            all its tokens, for a rank those of this and of earlier ranks. score_norm sums the squared norm of the score
            by the logits, 1 - 2 pi + sum of pi^2 over the vocabulary, for pieces that need old_logps and
            old_square_sum. divergence sums log pi_old - log pi_ref. Each is missing if no piece needs it.
        prompts: (P,) the prompts' names, which stay the same from update to update; empty if no piece needs them.
        carried: numbers that pieces carry from update to update.
    """

    returns: torch.Tensor
    counted: torch.Tensor
    unit_tokens: torch.Tensor
    log_confidence: torch.Tensor
    success: torch.Tensor
    features: Mapping[str, torch.Tensor]
    progress: float
    until: Mapping[str, torch.Tensor] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    carried: Carried = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The accumulation window around a micro-batch, for aggregations.

    Attributes:
        accumulation_steps: completions in the window divided by those in the micro-batch. This is the number of
            micro-batches if all have one size.
        tokens: completion tokens in the whole window, summed over processes and divided by their number, because
            gradients are averaged over processes.
        max_completion_length: token limit of a completion.
    """

    accumulation_steps: float
    tokens: torch.Tensor
    max_completion_length: int
