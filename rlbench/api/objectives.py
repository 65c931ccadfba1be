"""The objective of a method on a user's own tensors: credit of groups, and the loss with its parts.

Shapes: B completions, T tokens, N ranks, C columns of credit (1 under sequence credit, N under rank credit).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from rlbench.api.overrides import words
from rlbench.api.tensors import Given, check_logps, group_size, in_groups, of_loss, shown_shape
from rlbench.base.errors import BadInput
from rlbench.config.schema import POLICY_OPTIMISATION, AlgorithmConfig, RewardConfig, SuccessConfig
from rlbench.objective import Course, LossInputs, Objective, Window
from rlbench.objective.checks import check_algorithm
from rlbench.objective.credit import spread_sequence
from rlbench.objective.effective_rank import rank_features
from rlbench.objective.inputs import Carried
from rlbench.objective.objective import Rollout, RolloutTokens
from rlbench.objective.pieces import NEEDS, baselines, choices, credits, scalars
from rlbench.objective.ratios import on_tokens
from rlbench.rewards.batch import FEATURES
from rlbench.running.cli import config_of

WITHOUT_RANKS = {
    "ratio": ("token", "sequence", "product", "sequence_token", "none"),
    "aggregation": ("sequence_mean", "token_mean", "global_token_mean", "constant", "sequence_sum"),
    "regularisers": ("entropy_bonus", "siren", "sft", "unlearn", "adversarial", "ntp", "calibration"),
}
"""Pieces that read no unit of a token, by place."""
TERM = "given"
"""Name of the one term of the reward that the user gives."""


@dataclass(frozen=True)
class Credit:
    """Credit of B completions. `credit[rows]` selects completions, as for a micro-batch.

    Attributes:
        advantages: (B, T) advantage of each token; 0 on padding.
        unit_advantages: (B, C) advantage of each credited unit.
        returns: (B, C) its return.
        unit_ids: (B, T) the unit of each token: its rank from 0, then the codes of `rlbench.lists.reader.UnitLayout`.
        mask: (B, T) 0 on padding.
        correct: (B,) 1 where the list succeeds.
        correct_ranks: (B, N) relevance.
        score: (B,) total reward.
        kl_scale: (B,) factor on the completion's KL term.
    """

    advantages: torch.Tensor
    unit_advantages: torch.Tensor
    returns: torch.Tensor
    unit_ids: torch.Tensor
    mask: torch.Tensor
    correct: torch.Tensor
    correct_ranks: torch.Tensor
    score: torch.Tensor
    kl_scale: torch.Tensor

    def __getitem__(self, rows: Any) -> "Credit":
        return Credit(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


@dataclass(frozen=True)
class Loss:
    """A loss and its parts. All tensors but `loss` are detached.

    Attributes:
        loss: a scalar, with gradient if the log-probabilities have one.
        advantages: (B, T) advantage of each token; 0 on padding.
        ratios: (B, T) importance ratio of the token's unit; 1 on padding.
        weights: (B, T) minus the derivative of the loss by the token's log-probability: how strongly an update raises
            it, with KL and clipping. 0 where clipping has cut the gradient.
        metrics: what runs log of a loss: shares of clipped tokens, KL, the largest log ratio.
        credit: the credit from which it was computed.
    """

    loss: torch.Tensor
    advantages: torch.Tensor
    ratios: torch.Tensor
    weights: torch.Tensor
    metrics: dict[str, float]
    credit: Credit


class MethodObjective:
    """The objective of a method, for tensors. `rlbench.objective` makes it.

    Attributes:
        name: name of the method.
        algorithm: its settings.
        carried: numbers that pieces carry from update to update.
        update: number of finished updates, for pieces that depend on it. Set it if you train.
    """

    def __init__(self, algorithm: AlgorithmConfig, gamma: float = 0.0, max_length: int | None = None):
        self.name = algorithm.name
        self.algorithm = algorithm
        self.gamma, self.max_length = gamma, max_length
        self.carried: Carried = {}
        self.update = 0
        self._of_length: dict[int, Objective] = {}

    @property
    def needs_ranks(self) -> bool:
        """Whether the method reads which rank a token belongs to."""
        chosen = [(place.name, name) for place, name in choices(self.algorithm)]
        reads = any(name not in WITHOUT_RANKS[place] for place, name in chosen if place in WITHOUT_RANKS)
        whole = credits[self.algorithm.credit].facts["spread"] is spread_sequence
        return reads or not whole or "hidden_states" in self._objective(1).needs

    @property
    def credits_ranks(self) -> bool:
        """Whether ranks get advantages of their own."""
        return "rank" in credits[self.algorithm.credit].facts["columns"]

    @property
    def needs_reference(self) -> bool:
        """Whether the loss needs log-probabilities of a reference policy."""
        return self._objective(1).needs_reference

    @property
    def needs(self) -> dict[str, str]:
        """Inputs that the method needs in `extras`, and what they are."""
        named = {**NEEDS, **{name: f"the piece {name} at every token" for name in scalars}}
        every = self._objective(1).needs
        found = {name: said for name, said in named.items() if name in every and name != "old_logps"}
        return found | {f"old_{name}": f"{name} at the rollout" for name in scalars if f"old_{name}" in every}

    def credit(
        self,
        rewards: torch.Tensor | None = None,
        hits: torch.Tensor | None = None,
        *,
        groups: int | Sequence[int] | torch.Tensor,
        ranks: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        old_logps: torch.Tensor | None = None,
        extras: Mapping[str, torch.Tensor] | None = None,
    ) -> Credit:
        """Advantages of a rollout of whole groups. A loss needs them for each of its micro-batches.

        Args:
            rewards: (B, N) reward of each rank, or (B,) of each list; default: `hits`.
            hits: (B, N) 1 where the rank is relevant; default: where the reward is above 0.
            groups: G, if the completions of a prompt are adjacent; or (B,) the prompt of each completion.
            ranks: (B, T) the rank of each token, from 0. -1 is text that belongs to no entry, -2 the token that ends
                the completion. Ranks of N and more are entries past the last rank.
            mask: (B, T) 0 on padding; default: no padding.
            old_logps: (B, T) log-probabilities under the rollout policy, for methods that compare lists by them.
            extras: further inputs by name. `n_truth` (B,): number of relevant items. `success` (B,): whether the list
                counts as correct; default: it has a hit, or a total above 0. `eos` (B, T): the tokens that end
                completions, if `ranks` gives them the rank of their line. Others: `needs`.

        Raises:
            BadInput: an argument is missing, has a wrong shape, or is unknown. All problems together.
        """
        problems: list[str] = []
        given = Given.of(self, rewards, hits, ranks, mask, old_logps, extras or {}, problems)
        order = in_groups(groups, len(given.gains), problems)
        problems += self._lacking(given)
        if problems:
            raise BadInput(*problems)
        ordered, size = given[order], group_size(groups, len(order))
        found = self._credit_of(ordered, size)
        return found[order.argsort()]

    def _credit_of(self, given: Given, size: int) -> Credit:
        """Credit of groups whose completions are adjacent."""
        objective = self._objective(given.gains.size(1))
        units = objective.token_units(given.tokens(objective))
        rewards = given.batch(units)
        begun = {name: given.scalar(name) for name in objective.scalars_at_rollout(self.carried)}
        objective.begin(begun, given.mask, self.carried)
        hidden = given.extras.get("hidden_states")
        rollout = Rollout.of_tokens(
            rewards,
            RolloutTokens(
                units.unit_ids,
                given.mask,
                given.old_logps,
                given.extras.get("entropy", given.old_logps * 0),
                begun.get("square_sum"),
                given.extras.get("divergence"),
            ),
            objective.units.count,
            {name: given.extras[name].float() for name in ("mode",) if name in given.extras}
            | ({} if hidden is None else rank_features(hidden, units.unit_ids, objective.units)),
            course=self._course(),
            prompts=given.prompts(size) if "prompts" in objective.needs else (),
        )
        of_units = objective.unit_advantages(rollout, size)
        spread = objective.spread_advantages(of_units, units.n_units.to(of_units.device))
        return Credit(
            advantages=objective.token_advantages(spread, units).masked_fill(given.mask == 0, 0.0),
            unit_advantages=of_units,
            returns=objective.weighted(objective.unit_returns(rewards, size)),
            unit_ids=units.unit_ids,
            mask=given.mask,
            correct=rewards.success.float(),
            correct_ranks=rewards.hits,
            score=rewards.totals,
            kl_scale=objective.kl_scales(rewards.success, size),
        )

    def loss(
        self,
        logps: torch.Tensor,
        old_logps: torch.Tensor | None = None,
        ref_logps: torch.Tensor | None = None,
        *,
        rewards: torch.Tensor | None = None,
        hits: torch.Tensor | None = None,
        groups: int | Sequence[int] | torch.Tensor | None = None,
        ranks: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        credit: Credit | None = None,
        extras: Mapping[str, torch.Tensor] | None = None,
    ) -> Loss:
        """The loss of completions, as the trainer computes it.

        Args:
            logps: (B, T) log-probabilities of the completions' tokens under the policy.
            old_logps: (B, T) under the policy that wrote them; default: `logps`, without gradient.
            ref_logps: (B, T) under the reference policy, for methods with a KL term.
            rewards, hits, groups, ranks, mask: as for `credit`.
            credit: the completions' credit, in place of these; needed for a micro-batch that is no whole group.
            extras: as for `credit`; also inputs of the loss, such as `entropy` (B, T).

        Raises:
            BadInput: an argument is missing, has a wrong shape, or is unknown.
        """
        extras = dict(extras or {})
        own_mask = mask if credit is None else credit.mask
        check_logps(logps, old_logps, ref_logps, own_mask, self.needs_reference, self.name)
        old = logps.detach() if old_logps is None else old_logps
        if credit is None:
            if groups is None:
                raise BadInput("groups is missing: give the group size G, or the prompt of each completion (B,)")
            mask = torch.ones_like(logps, dtype=torch.long) if mask is None else mask
            credit = self.credit(rewards, hits, groups=groups, ranks=ranks, mask=mask, old_logps=old, extras=extras)
        elif any(value is not None for value in (rewards, hits, groups, ranks, mask)):
            raise BadInput("credit replaces rewards, hits, groups, ranks and mask: give either")
        if credit.mask.shape != logps.shape:
            raise BadInput(f"logps is {shown_shape(logps)}, but the credit is for {shown_shape(credit.mask)}")
        objective = self._objective(credit.correct_ranks.size(1))
        if lacking := [name for name in sorted(of_loss(objective)) if name not in extras]:
            raise BadInput(*(f"extras['{name}'] is missing: {self.name} needs it" for name in lacking))
        with torch.enable_grad():
            own = logps if logps.requires_grad else logps.detach().requires_grad_()
            inputs = LossInputs(
                logps=own,
                old_logps=old,
                ref_logps=ref_logps,
                advantages=credit.advantages.to(logps.device),
                unit_ids=credit.unit_ids,
                mask=credit.mask,
                units=objective.units,
                extras={"segment": torch.zeros_like(credit.unit_ids)}
                | extras
                | {"correct": credit.correct, "correct_ranks": credit.correct_ranks}
                | {"score": credit.score, "kl_scale": credit.kl_scale},
                course=self._course(),
            )
            longest = self.max_length or logps.size(1)
            loss, stats = objective.loss(inputs, Window(1.0, credit.mask.sum(), longest))
            (slope,) = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        ratios = on_tokens(objective.ratio(inputs).detach(), credit.mask).exp()
        weights = torch.zeros_like(logps) if slope is None else -slope.detach()
        metrics = {name: float(value) for name, value in stats.items()}
        value = loss if logps.requires_grad else loss.detach()
        return Loss(value, credit.advantages, ratios, weights, metrics, credit)

    def _objective(self, n: int) -> Objective:
        if n not in self._of_length:
            success = SuccessConfig("any_hit", 0.0)
            reward = RewardConfig(TERM, TERM, self.gamma, {TERM: {"weight": 1.0}}, "sum_then_normalise", 1.0, success)
            self._of_length[n] = Objective(self.algorithm, reward, n)
        return self._of_length[n]

    def _course(self) -> Course:
        return Course(self.update, self.carried)

    def _lacking(self, given: Given) -> list[str]:
        """Inputs of the credit that are missing, one sentence each."""
        a, objective = self.algorithm, self._objective(1)
        lacking = [name for name in objective.scalars_at_rollout(self.carried) if not given.has_scalar(name)]
        needed = [f"old_{name}" if name in objective.rollout_scalars else name for name in lacking]
        for name in ("hidden_states", "divergence", "prompts"):
            if name in objective.needs and name not in given.extras:
                needed.append(name)
        if credits[a.credit].facts["reads"] == "hits" and "n_truth" not in given.extras:
            needed.append("n_truth")
        metric = baselines[a.baseline].options.get("metric")
        if metric is not None:
            chosen = a.options.get(a.baseline, {}).get("metric", metric.default)
            if chosen in ("entropy", *FEATURES[2:]) and chosen not in given.extras:
                needed.append(chosen)
        problems = [f"extras['{name}'] is missing: {self.name} needs it for its credit" for name in needed]
        if "old_logps" in objective.needs and not given.has_logps:
            problems.append(f"old_logps is missing: {self.name} compares lists by their probability at the rollout")
        return problems


def objective(
    name: str,
    *,
    gamma: float = 0.0,
    max_length: int | None = None,
    plugins: Sequence[str] = (),
    config_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> MethodObjective:
    """The objective of a method of `conf/algorithm/`, for your own tensors.

    Args:
        name: the method, such as "rank_grpo".
        gamma: discount of later ranks' rewards in a rank's return, in [0, 1].
        max_length: token limit of a completion, for methods that divide by it; default: T.
        plugins: modules or files with pieces of your own.
        config_dir: folder of your own configs, laid out like `conf/`.
        **settings: settings of the method that differ from its file, such as `kl={"beta": 0}` or
            `options={"clip": {"low": 0.1}}`. Keys are those of `algorithm` in docs/config-keys.md.

    Raises:
        BadInput: the method or a setting is unknown, or a value is invalid. All problems together.

    Example:
        >>> method = rlbench.objective("rank_grpo", kl={"beta": 0})
        >>> found = method.loss(logps, hits=hits, groups=4, ranks=ranks)
        >>> found.loss.backward()
    """
    given = [f"algorithm={name}", *words(settings, "algorithm.")]
    given += words({"plugins": list(plugins)}) if plugins else []
    config = config_of(given, None if config_dir is None else Path(config_dir))
    if not isinstance(config.algorithm, AlgorithmConfig):
        raise BadInput(
            f"name = '{name}' is a method of preference optimisation, which compares whole lists and has no loss on "
            f"groups of completions; methods of {POLICY_OPTIMISATION} have one"
        )
    if problems := check_algorithm(config.algorithm):
        raise BadInput(*problems)
    if not 0 <= gamma <= 1:
        raise BadInput(f"gamma = {gamma!r} must lie in [0, 1]")
    return MethodObjective(config.algorithm, gamma, max_length)
