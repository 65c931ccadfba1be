"""A user's tensors, checked, in the form in which the trainer has them.

Shapes: B completions, T tokens, N ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from rlbench.api.arguments import out_of_order
from rlbench.base.errors import BadInput, nearest
from rlbench.lists.reader import TokenUnits
from rlbench.objective import Objective
from rlbench.objective.pieces import credits
from rlbench.rewards.batch import FEATURES, RewardBatch

if TYPE_CHECKING:
    from rlbench.api.objectives import MethodObjective

OTHER, END = -1, -2
"""Ranks of tokens that belong to no rank: text around the entries, and the token that ends the completion."""
SCALARS = ("top_p_entropy", "mean_logps", "square_sum")
OF_TOKENS = ("entropy", "divergence", "segment", *(f"{prefix}{name}" for prefix in ("", "old_") for name in SCALARS))
OF_LISTS = ("n_truth", "prompts", "mode", "success", "in_catalog", "duplicates", "popularity")
OTHERS = ("eos", "hidden_states", "demonstration_logps", "demonstration_mask", "demonstration_ref_logps")


@dataclass(frozen=True)
class Given:
    """Checked tensors of a rollout."""

    gains: torch.Tensor
    scores: torch.Tensor
    hits: torch.Tensor
    succeeds: torch.Tensor
    ranks: torch.Tensor
    mask: torch.Tensor
    old_logps: torch.Tensor
    extras: dict[str, torch.Tensor]
    has_logps: bool

    @classmethod
    def of(
        cls,
        method: "MethodObjective",
        rewards: Any,
        hits: Any,
        ranks: Any,
        mask: Any,
        old_logps: Any,
        extras: Mapping[str, Any],
        problems: list[str],
    ) -> "Given":
        """Check the arguments, and report every problem."""
        worth = _worth(method, rewards, hits, problems)
        known = [*OF_TOKENS, *OF_LISTS, *OTHERS]
        problems += [f"extras has an unknown '{name}'.{nearest(name, known)}" for name in extras if name not in known]
        b = 0 if worth is None else len(worth)
        like = next((one for one in (mask, ranks, old_logps) if isinstance(one, torch.Tensor)), None)
        if like is None:
            problems.append("mask is missing: (B, T), 0 on padding; it says how many tokens each completion has")
            like = torch.zeros(b, 1)
        shape = (b, like.size(-1)) if like.dim() else (b, 1)
        for name, value in (("mask", mask), ("ranks", ranks), ("old_logps", old_logps)):
            _check_shape(name, value, shape, problems)
        for name, value in extras.items():
            _check_shape(f"extras['{name}']", value, _extra_shape(name, shape), problems)
        if not problems:
            there = torch.ones(shape, dtype=torch.bool) if mask is None else mask != 0
            problems += wrong_ranks(ranks, there) + wrong_logps("old_logps", old_logps, there)
            problems += _wrong_counts(extras.get("n_truth"))
            shown = extras.get("demonstration_mask")
            for name in ("demonstration_logps", "demonstration_ref_logps"):
                if name in extras and (shown is None or shown.shape == extras[name].shape):
                    of_tokens = torch.ones_like(extras[name]) if shown is None else shown
                    problems += wrong_logps(f"extras['{name}']", extras[name], of_tokens != 0)
        if ranks is None and method.needs_ranks:
            problems.append(f"ranks is missing: {method.name} needs the rank of each token, (B, T) from 0")
        if problems or worth is None:
            raise BadInput(*problems)
        whole = worth.dim() == 1
        gains = worth.new_zeros(b, hits.size(1) if hits is not None else 1) if whole else worth
        relevant = (gains > 0).to(gains) if hits is None else hits.to(gains)
        full = torch.ones(shape, dtype=torch.long, device=gains.device)
        mask = full if mask is None else (mask != 0).long()
        scores = worth if whole else torch.zeros_like(gains[:, 0])
        succeeds = relevant.any(dim=1) if hits is not None else gains.sum(dim=1) + scores > 0
        return cls(
            gains,
            scores,
            relevant,
            extras["success"].bool() if "success" in extras else succeeds,
            torch.zeros_like(full) if ranks is None else ranks.long(),
            mask,
            torch.zeros(shape, device=gains.device) if old_logps is None else old_logps.detach(),
            {name: value for name, value in extras.items() if not name.startswith("demonstration_")},
            old_logps is not None,
        )

    def __getitem__(self, rows: torch.Tensor) -> "Given":
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors = {name: value[rows] for name, value in parts.items() if isinstance(value, torch.Tensor)}
        return Given(**{**parts, **tensors, "extras": {name: value[rows] for name, value in self.extras.items()}})

    def has_scalar(self, name: str) -> bool:
        return name in self.extras or f"old_{name}" in self.extras

    def scalar(self, name: str) -> torch.Tensor:
        """(B, T) a scalar of the forward pass at the rollout."""
        return self.extras[f"old_{name}" if f"old_{name}" in self.extras else name].detach()

    def prompts(self, size: int) -> list[str]:
        """(P,) names of the prompts."""
        return [str(number) for number in self.extras["prompts"][::size].tolist()]

    def tokens(self, objective: Objective) -> TokenUnits:
        """The unit of each token."""
        units, ranks = objective.units, self.ranks
        ids = ranks.clamp(max=units.overflow)
        ids = ids.masked_fill(ranks == OTHER, units.other).masked_fill(ranks == END, units.eos)
        ends = self.extras["eos"].bool() if "eos" in self.extras else ranks == END
        there = self.mask.bool()
        entries = ranks.masked_fill(~there, -1).amax(dim=1).clamp(min=-1) + 1
        return TokenUnits(ids.masked_fill(~there, units.padding), ends & there, entries)

    def batch(self, units: TokenUnits) -> RewardBatch:
        """The rewards as the trainer has them."""
        n, extras = self.gains.size(1), self.extras
        zeros = self.scores.float() * 0
        features = {"tokens": self.mask.sum(dim=1).float(), "entries": units.n_units.float()}
        features |= {name: extras.get(name, zeros).float() for name in FEATURES[2:]}
        totals = self.gains.double().sum(dim=1) + self.scores.double()
        return RewardBatch(
            gains=self.gains.double()[:, None],
            scores=self.scores.double()[:, None],
            hits=self.hits.double(),
            n_truth=extras["n_truth"].long() if "n_truth" in extras else self.hits.sum(dim=1).long().clamp(min=1),
            present=torch.arange(n, device=units.n_units.device) < units.n_units[:, None],
            totals=totals,
            success=self.succeeds,
            features=torch.stack([features[name] for name in FEATURES], dim=1),
        )


def _worth(method: "MethodObjective", rewards: Any, hits: Any, problems: list[str]) -> torch.Tensor | None:
    """(B, N) or (B,) rewards, checked."""
    for name, value, dims in (("rewards", rewards, (1, 2)), ("hits", hits, (2,))):
        if value is not None and not isinstance(value, torch.Tensor):
            problems.append(f"{name} = {value!r:.60} must be a tensor")
        elif value is not None and (value.dim() not in dims or not value.numel()):
            shapes = "(B, N) or (B,)" if 1 in dims else "(B, N)"
            problems.append(f"{name} must be {shapes}, but is {shown_shape(value)}")
        elif value is not None and not torch.isfinite(value.double()).all():
            problems.append(f"{name} holds values that are not finite")
        elif name == "hits" and value is not None and (odd := value[(value != 0) & (value != 1)]).numel():
            problems.append(f"hits must be 0 or 1, but has {odd[0].item():.6g}; give graded relevance as rewards")
    if problems:
        return None
    if rewards is None and hits is None:
        problems.append("rewards is missing: give rewards (B, N) or (B,), or hits (B, N)")
        return None
    if rewards is not None and hits is not None and rewards.dim() == 2 and rewards.shape != hits.shape:
        problems.append(f"rewards is {shown_shape(rewards)}, but hits is {shown_shape(hits)}")
    if rewards is not None and hits is not None and len(rewards) != len(hits):
        problems.append(f"rewards has {len(rewards)} completions, but hits has {len(hits)}")
    reads_hits = credits[method.algorithm.credit].facts["reads"] == "hits"
    worth = hits if rewards is None else rewards
    if worth.dim() == 1 and hits is None and (method.credits_ranks or reads_hits):
        problems.append(f"rewards is (B,), but {method.name} credits ranks: give the reward of each rank, (B, N)")
    return worth


def of_loss(objective: Objective) -> set[str]:
    """Names of the extras that the loss reads."""
    needs = objective.needs
    found = {"entropy"} & needs | set(objective.scalars) | {f"old_{name}" for name in objective.rollout_scalars}
    found |= {"demonstration_logps", "demonstration_mask"} if "demonstrations" in needs else set()
    return found | ({"demonstration_ref_logps"} if "demonstration_reference" in needs else set())


def _extra_shape(name: str, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    if name in OF_LISTS:
        return shape[:1]
    if name == "hidden_states":
        return (*shape, None)
    return (None, None) if name.startswith("demonstration_") else shape


def _check_shape(name: str, value: Any, wanted: Sequence[int | None], problems: list[str]) -> None:
    if value is None:
        return
    if not isinstance(value, torch.Tensor):
        problems.append(f"{name} = {value!r:.60} must be a tensor")
    elif value.dim() != len(wanted) or any(w not in (None, n) for w, n in zip(wanted, value.shape, strict=False)):
        problems.append(
            f"{name} must be ({', '.join('any' if w is None else str(w) for w in wanted)}), but is {shown_shape(value)}"
        )


ROUNDING = 1e-3
"""How far above 0 rounding may put a log-probability."""


def wrong_logps(name: str, values: torch.Tensor | None, there: torch.Tensor) -> list[str]:
    """One sentence if tokens have log-probabilities that none can have.

    Args:
        name: name of the argument.
        values: (B, T) log-probabilities, or None.
        there: (B, T) False on padding, where any number may be.
    """
    if values is None:
        return []
    own = values.detach()[there.to(values.device)]
    odd = own[~(own <= ROUNDING) | ~own.isfinite()]
    if not odd.numel():
        return []
    remedy = "give log-probabilities, which are finite and at most 0; mask is 0 on padding"
    return [f"{name} has {odd[0].item():.6g} at {odd.numel()} of {own.numel()} tokens that are no padding; {remedy}"]


def wrong_ranks(ranks: torch.Tensor | None, there: torch.Tensor) -> list[str]:
    """One sentence if tokens have a rank that is none.

    Args:
        ranks: (B, T) ranks, or None.
        there: (B, T) False on padding, where any number may be.
    """
    if ranks is None:
        return []
    own = ranks[there.to(ranks.device)]
    odd = own[(own < END) | (own != own.long())]
    remedy = f"ranks are whole numbers from 0, {OTHER} for text outside the entries, and {END} for the end"
    return [f"ranks has {odd[0].item():.6g}: {remedy}"] if odd.numel() else []


def _wrong_counts(n_truth: torch.Tensor | None) -> list[str]:
    if n_truth is None or not (odd := n_truth[~(n_truth >= 1) | (n_truth != n_truth.long())]).numel():
        return []
    return [f"extras['n_truth'] has {odd[0].item():.6g}: give how many items are relevant, a whole number from 1"]


def check_logps(logps: Any, old_logps: Any, ref_logps: Any, mask: Any, needs_reference: bool, name: str) -> None:
    """Check the log-probabilities of a loss.

    Args:
        logps, old_logps, ref_logps: (B, T) as given.
        mask: (B, T) 0 on padding; None without padding. Checked by `Given.of`.
        needs_reference: whether the method needs `ref_logps`.
        name: the method.

    Raises:
        BadInput: for all problems together.
    """
    problems: list[str] = []
    if not isinstance(logps, torch.Tensor) or logps.dim() != 2 or not logps.is_floating_point():
        raise BadInput(f"logps must be a tensor (B, T) of log-probabilities, but is {shown_shape(logps)}")
    _check_shape("old_logps", old_logps, logps.shape, problems)
    _check_shape("ref_logps", ref_logps, logps.shape, problems)
    if needs_reference and ref_logps is None:
        problems.append(
            f"ref_logps is missing: {name} compares the policy with a reference policy. Without one, make the "
            "objective with kl={'beta': 0} if its KL term is all that needs it"
        )
    mask = torch.ones_like(logps) if mask is None else mask
    if not problems and isinstance(mask, torch.Tensor) and mask.shape == logps.shape:
        there = mask != 0
        named = {"logps": logps, "old_logps": old_logps, "ref_logps": ref_logps}
        problems += [said for of, value in named.items() for said in wrong_logps(of, value, there)]
    if problems:
        raise BadInput(*problems)


def in_groups(groups: Any, b: int, problems: list[str]) -> torch.Tensor:
    """(B,) order in which the completions of a prompt are adjacent."""
    if isinstance(groups, int) and not isinstance(groups, bool):
        if groups < 1 or b % groups:
            problems.append(f"groups = {groups} must divide the number of completions, {b}")
        return torch.arange(b)
    if wrong := out_of_order("groups", groups):
        problems.append(wrong)
        return torch.arange(b)
    try:
        names = torch.as_tensor(groups).cpu()
    except (TypeError, ValueError, RuntimeError):
        problems.append(f"groups = {groups!r:.60} must be G, or the number of each completion's prompt ({b},)")
        return torch.arange(b)
    if names.dim() != 1 or len(names) != b:
        problems.append(f"groups must be G or ({b},), but is {shown_shape(names)}")
        return torch.arange(b)
    sizes = names.unique(return_counts=True)[1]
    if len(sizes.unique()) != 1:
        problems.append(f"groups must have equal sizes, but they have from {int(sizes.min())} to {int(sizes.max())}")
    return names.argsort(stable=True)


def group_size(groups: Any, b: int) -> int:
    return groups if isinstance(groups, int) else b // len(torch.as_tensor(groups).unique())


def shown_shape(value: Any) -> str:
    return f"({', '.join(map(str, value.shape))})" if isinstance(value, torch.Tensor) else repr(value)[:60]
