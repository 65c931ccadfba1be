"""Composes the pieces that a configuration names into advantages and a loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from rlbench.config.options import filled
from rlbench.config.schema import AlgorithmConfig, RewardConfig
from rlbench.lists.reader import TokenUnits, UnitLayout
from rlbench.objective.credit import CreditInputs
from rlbench.objective.inputs import Carried, Course, Group, LossInputs, Window, alone
from rlbench.objective.outputs import first_not_finite, made_not_finite, shaped
from rlbench.objective.pieces import (
    OF_REFERENCE,
    Start,
    aggregations,
    baselines,
    choices,
    credits,
    estimators,
    kl_scales,
    ratios,
    regularisers,
    scalars,
    surrogates,
)
from rlbench.objective.ratios import on_tokens
from rlbench.objective.regularisers import entropy_mask
from rlbench.objective.shaping import SHAPINGS
from rlbench.objective.surrogates import clip_shares
from rlbench.objective.units import masked_mean, scatter_mean, unit_sizes
from rlbench.rewards.batch import RewardBatch
from rlbench.rewards.combine import COMBINERS, FACTORS, weighted_sum
from rlbench.rewards.returns import tail_returns


@dataclass(frozen=True)
class RolloutTokens:
    """Tokens of this process's completions, as sampled. All tensors are (B', T).

    Attributes:
        unit_ids: the unit of each token (`Objective.token_units`).
        mask: 0 on padding.
        logps: log-probabilities under the rollout policy; zeros if no piece needs them.
        entropies: entropies at the tokens; zeros if no piece needs them.
        square_sums: sums of squared probabilities over the vocabulary; None if no piece needs them.
        divergences: log-ratios of the rollout policy to the reference; None if no piece needs them.
    """

    unit_ids: torch.Tensor
    mask: torch.Tensor
    logps: torch.Tensor
    entropies: torch.Tensor
    square_sums: torch.Tensor | None = None
    divergences: torch.Tensor | None = None

    def summed(self) -> dict[str, torch.Tensor]:
        """(B', T) by name, the values whose sums are in `Group.until`."""
        found = {}
        if self.square_sums is not None:
            found["score_norm"] = 1 - 2 * self.logps.exp() + self.square_sums
        if self.divergences is not None:
            found["divergence"] = self.divergences
        return found


@dataclass(frozen=True)
class Rollout:
    """Facts about B generated completions, over all processes.

    Attributes:
        rewards: their rewards.
        unit_tokens: (B, U) tokens of each unit, with EOS in the unit where the algorithm puts it.
        unit_logps: (B, U) sum of the rollout policy's log-probabilities over each unit; zeros if no piece needs it.
        entropy: (B,) mean entropy of each list's tokens; zeros if no piece needs it.
        progress: finished share of the run's updates.
        hidden: (B,) further properties of lists by name: mode, and numbers computed from hidden states if a piece needs
            them.
        carried: numbers that pieces carry from update to update.
        prompts: (P,) names of the prompts, the same in every update; empty if no piece needs them.
        unit_sums: (B, U) by name, sums over the tokens of each unit, for `Group.until`.
    """

    rewards: RewardBatch
    unit_tokens: torch.Tensor
    unit_logps: torch.Tensor
    entropy: torch.Tensor
    progress: float
    hidden: Mapping[str, torch.Tensor] = field(default_factory=dict)
    carried: Carried = field(default_factory=dict)
    prompts: Sequence[str] = ()
    unit_sums: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of_tokens(
        cls,
        rewards: RewardBatch,
        tokens: RolloutTokens,
        count: int,
        hidden: Mapping[str, torch.Tensor] | None = None,
        progress: float = 0.0,
        course: Course | None = None,
        prompts: Sequence[str] = (),
    ) -> "Rollout":
        """Build from this process's tokens.

        Args:
            rewards: gathered over processes already.
            tokens: of the B' completions of this process.
            count: number of units, U.
            hidden: (B',) further properties of lists, by name.
            progress: finished share of the run's updates.
            course: carried numbers, and how to gather rows over processes. Default: none, and a single process.
            prompts: (P,) names of the prompts of all processes.
        """
        course = course or Course()
        sizes = unit_sizes(tokens.unit_ids, tokens.mask, count)

        def summed(values: torch.Tensor) -> torch.Tensor:
            return course.gather(scatter_mean(values, tokens.unit_ids, tokens.mask, count) * sizes)

        return cls(
            rewards,
            course.gather(sizes),
            summed(tokens.logps),
            course.gather(masked_mean(tokens.entropies, tokens.mask)),
            progress,
            {name: course.gather(values) for name, values in (hidden or {}).items()},
            course.carried,
            prompts,
            {name: summed(values) for name, values in tokens.summed().items()},
        )

    def features(self) -> dict[str, torch.Tensor]:
        """(B,) properties of each list, by name."""
        confidence = (self.unit_logps.sum(1) / self.unit_tokens.sum(1).clamp(min=1)).exp()
        of_all = {"entropy": self.entropy, "confidence": confidence, "mode": torch.zeros_like(self.entropy)}
        return {**self.rewards.named_features(), **of_all, **self.hidden}


class Objective:
    """The algorithm of a configuration, with the parts of the reward that need whole groups: returns and combiner.

    Args:
        algorithm: the algorithm's choices, as in `conf/algorithm/`.
        reward: weights of its terms, discount and combiner, as in `conf/reward/`.
        list_length: N.

    Attributes:
        needs: inputs that its pieces request from the trainer (`rlbench.objective.pieces.known_needs`).
        scalars: names of the forward pass's scalars that the loss needs.
        rollout_scalars: names of those needed at the rollout, without "old_".
    """

    def __init__(self, algorithm: AlgorithmConfig, reward: RewardConfig, list_length: int):
        self.algorithm = algorithm
        self.reward = reward
        self.units = UnitLayout(list_length)
        a, options = algorithm, algorithm.options
        self.credit = credits[a.credit]
        self.returns = credits.chosen(a.credit, options)
        within = self.credit.facts["within"]
        self.spread = filled(self.credit.facts["spread"], options.get(a.credit, {}))
        self.within = filled(within, options.get(a.credit, {})) if within else None
        self.baseline = baselines.chosen(a.baseline, options)
        self.ratio = ratios.chosen(a.ratio, options)
        self.surrogate = surrogates.chosen(a.surrogate, options)
        self.aggregate = aggregations.chosen(a.aggregation, options)
        self.estimator = estimators.chosen(a.kl.estimator, options)
        self.kl_scale = kl_scales.chosen(a.kl.scale, options)
        self.regularisers = {
            name: (weight, regularisers.chosen(name, options)) for name, weight in a.regularisers.items() if weight
        }
        used = [place[name] for place, name in choices(a) if place is not regularisers or name in self.regularisers]
        self.needs = {need for piece in used for need in piece.needs}
        self.scalars = [name for name in scalars if name in self.needs]
        self.rollout_scalars = [name for name in scalars if f"old_{name}" in self.needs]
        self.starts: list[tuple[Start, Callable[..., float]]] = []
        for name in self.regularisers:
            start = regularisers[name].facts.get("start")
            if start is not None:
                self.starts.append((start, filled(start.function, options.get(name, {}))))
        if a.entropy_quantile < 1:
            self.needs.add("entropy")
        self.parts: list[tuple[str, torch.Tensor]] = []  # named parts of the latest loss
        self.blamed = ""  # the piece that made values of the latest rollout not finite

    def scalars_at_rollout(self, carried: Carried) -> list[str]:
        """Names of the scalars to compute at the next rollout: those needed at every rollout, and those of the first
        rollout while `carried` lacks the numbers computed from them."""
        first = {name for start, _ in self.starts if start.keeps not in carried for name in start.scalars}
        return [name for name in scalars if name in self.rollout_scalars or name in first]

    def begin(
        self,
        values: Mapping[str, torch.Tensor],
        mask: torch.Tensor,
        carried: Carried,
        gather: Callable[[torch.Tensor], torch.Tensor] = alone,
    ) -> None:
        """Put the numbers that pieces compute from the first rollout into `carried`. Existing entries stay.

        Args:
            values: (B, T) by name, for all of `scalars_at_rollout`.
            mask: (B, T), 0 on padding.
            carried: changed in place.
            gather: (B,) values of this process -> those of all processes.
        """
        for start, function in self.starts:
            if start.keeps not in carried:
                carried[start.keeps] = function({name: values[name] for name in start.scalars}, mask, gather)

    @property
    def needs_reference(self) -> bool:
        """Whether the loss or a baseline compares a policy with the reference policy."""
        surrogate = surrogates[self.algorithm.surrogate]
        return self.algorithm.kl.beta > 0 or surrogate.facts["needs_reference"] or bool(OF_REFERENCE & self.needs)

    @property
    def skips_idle(self) -> bool:
        """Whether a completion whose advantages are all 0 has no effect on the gradient, by the pieces' facts."""
        a = self.algorithm
        separate = ratios[a.ratio].facts.get("separate") and aggregations[a.aggregation].facts.get("separate")
        alone = a.kl.beta == 0 and not self.regularisers and a.entropy_quantile == 1
        return bool(alone and separate and surrogates[a.surrogate].facts.get("vanishes"))

    @property
    def weights(self) -> torch.Tensor:
        """(M,) weights of the reward's terms."""
        return torch.tensor([float(term["weight"]) for term in self.reward.terms.values()])

    def weighted(self, returns: torch.Tensor) -> torch.Tensor:
        """(B, M, C) -> (B, C): weighted sum over the terms."""
        return weighted_sum(returns, self.weights.to(returns))

    def unit_returns(self, rewards: RewardBatch, group_size: int) -> torch.Tensor:
        """Unweighted returns of the credited units for each reward term: (B, M, C), in float64.

        C = 1 under sequence credit, N under rank credit. There a term that scores whole lists counts for every rank.

        Args:
            rewards: rewards of B completions; the G completions of a prompt are adjacent.
            group_size: G.
        """
        return self._of_terms(rewards, group_size, self._credited)

    def _credited(self, term: CreditInputs) -> torch.Tensor:
        """Returns of one reward term under this algorithm's credit, (B, C), checked."""
        piece = f"credit '{self.algorithm.credit}'"
        width = {"sequence": 1, "rank": self.units.list_length}
        columns = sum(width[kind] for kind in self.credit.facts["columns"])
        returns = shaped(piece, self.returns(term), (len(term.gains), columns))
        self.blamed = self.blamed or made_not_finite(piece, returns, [term.gains, term.scores])
        return returns

    def rank_returns(self, rewards: RewardBatch, group_size: int) -> torch.Tensor:
        """Value of each rank, whatever the credit: the terms' discounted tail returns, weighted and summed: (B, N).

        Terms that score whole lists are excluded. Arguments as for `unit_returns`.
        """
        return self.weighted(self._of_terms(rewards, group_size, lambda term: tail_returns(term.gains, term.gamma)))

    def _of_terms(
        self, rewards: RewardBatch, group_size: int, returns_of: Callable[[CreditInputs], torch.Tensor]
    ) -> torch.Tensor:
        """Returns of each term, scaled by a factor of its group if the term says so: (B, M, C)."""
        of_terms = []
        for m, term in enumerate(self.reward.terms.values()):
            returns = returns_of(
                CreditInputs(
                    rewards.gains[:, m], rewards.scores[:, m], rewards.hits, rewards.n_truth, self.reward.gamma
                )
            )
            if term.get("scaled_by") is not None:
                factor = FACTORS[term["scaled_by"]](rewards.success, group_size)
                returns = returns * factor.to(returns)[:, None]
            of_terms.append(returns)
        return torch.stack(of_terms, dim=1)

    def unit_advantages(
        self, rollout: Rollout, group_size: int, leaves: int = 1, compared: int | None = None
    ) -> torch.Tensor:
        """Advantages of the credited units, (B, C).

        Args:
            rollout: B completions, the G completions of a prompt adjacent.
            group_size: G.
            leaves: number of adjacent completions that form a node. A node's return is the mean over its completions,
                which all get its advantage. Its other properties are means too.
            compared: number of adjacent nodes that a baseline compares. Default: all nodes of a prompt.
        """
        self.blamed = ""
        nodes = compared or group_size // leaves

        def of_nodes(values: torch.Tensor) -> torch.Tensor:
            return values if leaves == 1 else values.view(-1, leaves, *values.shape[1:]).to(torch.float64).mean(1)

        returns = of_nodes(self.unit_returns(rollout.rewards, group_size))
        shape, rows = (-1, nodes, returns.size(2)), (-1, nodes)
        counted = of_nodes(self._counted(rollout.rewards)) > 0
        tokens, logps = (of_nodes(self._of_columns(given)) for given in (rollout.unit_tokens, rollout.unit_logps))
        features = {name: of_nodes(values).view(rows) for name, values in rollout.features().items()}
        success = of_nodes(rollout.rewards.success) > 0
        until = {name: of_nodes(self._until(sums)).view(shape) for name, sums in rollout.unit_sums.items()}

        def normalise(of_units: torch.Tensor) -> torch.Tensor:
            # Round only now, so that sums that differ only in their order become equal.
            of_units = of_units.to(torch.get_default_dtype())
            group = Group(
                returns=of_units.view(shape),
                counted=counted.view(shape),
                unit_tokens=tokens.view(shape),
                log_confidence=(logps / tokens.clamp(min=1)).to(of_units).view(shape),
                success=success.view(rows),
                features=features,
                progress=rollout.progress,
                prompts=rollout.prompts,
                until={name: sums.to(of_units) for name, sums in until.items()},
                carried=rollout.carried,
            )
            piece = f"baseline '{self.algorithm.baseline}'"
            made = shaped(piece, self.baseline(group), group.returns.shape)
            given = [group.returns, group.unit_tokens, group.log_confidence]
            given += [*group.features.values(), *group.until.values()]
            self.blamed = self.blamed or made_not_finite(piece, made, given)
            return made.view_as(of_units)

        combined = COMBINERS[self.reward.combine](returns, self.weights.to(returns), normalise, self.reward.power)
        return combined.to(torch.get_default_dtype()).repeat_interleave(leaves, dim=0)

    def _counted(self, rewards: RewardBatch) -> torch.Tensor:
        """(B, C) bool mask of the returns a baseline may use."""
        whole = torch.ones_like(rewards.present[:, :1])
        of_ranks = rewards.present if self.algorithm.missing_rank == "excluded" else torch.ones_like(rewards.present)
        parts = {"sequence": whole, "rank": of_ranks}
        return torch.cat([parts[kind] for kind in self.credit.facts["columns"]], dim=1)

    def _of_columns(self, of_units: torch.Tensor) -> torch.Tensor:
        """(B, U) sums over units -> (B, C) sums over the units that each column credits."""
        real = of_units[:, : self.units.padding]
        parts = {"sequence": real.sum(dim=1, keepdim=True), "rank": of_units[:, : self.units.list_length]}
        return torch.cat([parts[kind] for kind in self.credit.facts["columns"]], dim=1)

    def _until(self, of_units: torch.Tensor) -> torch.Tensor:
        """(B, U) sums over units -> (B, C) sums up to the end of the units that each column credits."""
        whole = of_units[:, : self.units.padding].sum(dim=1, keepdim=True)
        parts = {"sequence": whole, "rank": of_units[:, : self.units.list_length].cumsum(dim=1)}
        return torch.cat([parts[kind] for kind in self.credit.facts["columns"]], dim=1)

    def token_units(self, tokens: TokenUnits) -> TokenUnits:
        """The units under this algorithm. An EOS that it counts to rank N gets that unit and is no EOS any more."""
        absorbed = SHAPINGS[self.algorithm.length_shaping.rule].absorbed(tokens, self.units)
        unit_ids = tokens.unit_ids.masked_fill(absorbed, self.units.list_length - 1)
        return replace(tokens, unit_ids=unit_ids, is_eos=tokens.is_eos & ~absorbed)

    def spread_advantages(self, unit_advantages: torch.Tensor, n_units: torch.Tensor) -> torch.Tensor:
        """Advantages of the credited units (B, C) -> of all units (B, U), with length shaping.

        Args:
            unit_advantages: (B, C).
            n_units: (B,) entries of each list, as its layout counts them.
        """
        shaping = self.algorithm.length_shaping
        special = SHAPINGS[shaping.rule].special(n_units, self.units, shaping).to(unit_advantages)
        return self.spread(unit_advantages, special, self.units)

    def token_advantages(self, spread: torch.Tensor, units: TokenUnits) -> torch.Tensor:
        """Advantages of all units (B, U) -> advantages of tokens (B, T).

        Args:
            spread: result of `spread_advantages`.
            units: result of `token_units`.
        """
        advantages = spread.gather(1, units.unit_ids)
        if self.within is not None:
            advantages = advantages * self.within(units.unit_ids, units.unit_ids != self.units.padding, self.units)
        # Under the published layout EOS is in the unit of its line. It shares that unit's ratio, but not its advantage.
        return torch.where(units.is_eos, spread[:, self.units.eos, None], advantages)

    def kl_scales(self, success: torch.Tensor, group_size: int) -> torch.Tensor:
        """(B,) factor on each completion's KL, from (B,) bool success by the reward's rule."""
        solved = success.view(-1, group_size).float().mean(dim=1)
        piece = f"kl.scale '{self.algorithm.kl.scale}'"
        scales = shaped(piece, self.kl_scale(solved), solved.shape)
        self.blamed = self.blamed or made_not_finite(piece, scales, [solved])
        return scales.repeat_interleave(group_size)

    def loss(self, inputs: LossInputs, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a micro-batch, and detached scalars to log."""
        algorithm, mask = self.algorithm, inputs.mask
        parts = [("the policy's log-probabilities", inputs.logps), ("the advantages", inputs.advantages)]

        def part(piece: str, values: object, shape: Sequence[int]) -> torch.Tensor:
            parts.append((piece, shaped(piece, values, shape)))
            return parts[-1][1]

        log_ratio = part(f"ratio '{algorithm.ratio}'", self.ratio(inputs), mask.shape)
        surrogate = self.surrogate(inputs, log_ratio)
        per_token = part(f"surrogate '{algorithm.surrogate}'", surrogate.loss, mask.shape)
        if algorithm.entropy_quantile < 1:
            kept = entropy_mask(inputs, algorithm.entropy_quantile)
            per_token = per_token * kept
            inputs = replace(inputs, extras={**inputs.extras, "unused": mask.bool() & ~kept})
        if inputs.sampling_ratio is not None and not surrogates[algorithm.surrogate].facts.get("corrects_sampling"):
            per_token = per_token * on_tokens(inputs.sampling_ratio.expand_as(mask), mask)
        at_low, at_high = clip_shares(surrogate, mask)
        moved = on_tokens(inputs.log_ratio.detach(), mask)
        stats = {
            "clip_low": at_low,
            "clip_high": at_high,
            "max_abs_log_ratio": moved.abs().max(),
            # KL from the rollout policy to this one: estimator k3 on samples of the rollout policy.
            "kl_rollout": (moved.expm1() - moved).sum() / mask.sum().clamp(min=1),
        }
        if algorithm.kl.beta > 0 and inputs.ref_logps is not None:
            parts.append(("the reference policy's log-probabilities", inputs.ref_logps))
            kl = self.estimator(on_tokens(inputs.logps, mask), on_tokens(inputs.ref_logps, mask))
            kl = part(f"kl.estimator '{algorithm.kl.estimator}'", kl, mask.shape)
            stats["kl"] = (kl.detach() * mask).sum() / mask.sum().clamp(min=1)
            if algorithm.kl.importance_weighted:
                kl = kl * log_ratio.exp()
            if "kl_scale" in inputs.extras:
                kl = kl * inputs.extras["kl_scale"].to(kl)[:, None]
            per_token = per_token + algorithm.kl.beta * kl
        loss = part(f"aggregation '{algorithm.aggregation}'", self.aggregate(per_token, inputs, window), ())
        for name, (weight, regulariser) in self.regularisers.items():
            term = part(f"regulariser '{name}'", regulariser(inputs), ())
            stats[f"regulariser/{name}"] = term.detach()
            loss = loss + weight * term / window.accumulation_steps
        self.parts = [(name, values.detach()) for name, values in parts]
        return loss, stats

    def not_finite(self, mask: torch.Tensor) -> str:
        """The first part of the latest rollout or loss, in the order of computation, that is not finite; "" if none.

        Args:
            mask: (B, T) of that micro-batch.
        """
        return self.blamed or first_not_finite(self.parts, mask)
