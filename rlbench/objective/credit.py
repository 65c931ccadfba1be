"""Credit: which unit an advantage belongs to, what the return of that unit is, and how its tokens get the advantage.

A piece gives the returns of B lists under one reward term, (B, C). Facts of a piece:

columns: the meaning of the C columns, in order: "sequence" is one column for the whole list, "rank" is N columns;
spread: the function (advantages (B, C), special (B, 4), units, **options) -> (B, U) that maps the columns' advantages
    to unit codes;
within: a function (unit_ids (B, T), mask (B, T), units, **options) -> (B, T) that gives a factor for every token on top
    of its unit's advantage, or None;
reads: "gains" if returns come from the reward's gains, "hits" if they come from relevance alone;
signed: returns may be negative even if the reward's are not; default false.
"""

import math
from dataclasses import dataclass

import torch

from rlbench.config.options import Share, WholeNumber
from rlbench.lists import metrics
from rlbench.lists.reader import UnitLayout
from rlbench.objective.pieces import credits
from rlbench.rewards.returns import tail_returns


@dataclass(frozen=True)
class CreditInputs:
    """One reward term of B lists.

    Attributes:
        gains: (B, N) gain of each rank.
        scores: (B,) score of the whole list, on top of its ranks' gains.
        hits: (B, N) relevance.
        n_truth: (B,) number of distinct relevant items.
        gamma: the reward's discount over later ranks.
    """

    gains: torch.Tensor
    scores: torch.Tensor
    hits: torch.Tensor
    n_truth: torch.Tensor
    gamma: float


def spread_sequence(advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout) -> torch.Tensor:
    """(B, 1) -> (B, U): every unit of the completion gets the list's advantage."""
    spread = advantages.expand(-1, units.count).clone()
    spread[:, units.padding] = 0.0
    return spread


def spread_rank(advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout) -> torch.Tensor:
    """(B, N) -> (B, U): ranks keep their advantages, and special units get theirs from length shaping."""
    return torch.cat([advantages, special], dim=1)


def spread_both(
    advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout, *, alpha: Share = 0.8
) -> torch.Tensor:
    """(B, 1 + N) -> (B, U): alpha times the list's advantage plus 1 - alpha times the rank's."""
    of_list = spread_sequence(advantages[:, :1], special, units)
    return alpha * of_list + (1 - alpha) * spread_rank(advantages[:, 1:], special, units)


def spread_phases(
    advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout, *, first_phase: Share = 0.5
) -> torch.Tensor:
    """(B, 2) -> (B, U): the preamble and the first ranks get the first advantage, later ranks the second."""
    n = units.list_length
    second = torch.arange(n, device=advantages.device) >= math.floor(first_phase * n + 0.5)
    of_ranks = torch.where(second, advantages[:, 1:], advantages[:, :1])
    others = special.to(of_ranks).clone()
    others[:, units.other - n] += advantages[:, 0]
    return torch.cat([of_ranks, others], dim=1)


def spread_mode(advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout) -> torch.Tensor:
    """(B, 2) -> (B, U): the text outside entries gets the first advantage, all other units the second."""
    spread = spread_sequence(advantages[:, 1:], special, units)
    spread[:, units.other] = advantages[:, 0]
    return spread


def decay_to_end(unit_ids: torch.Tensor, mask: torch.Tensor, units: UnitLayout, *, decay: Share = 0.9) -> torch.Tensor:
    """(B, T) decay^d, where d is the number of later tokens in the token's rank; 1 in special units."""
    last = torch.nn.functional.pad(unit_ids[:, 1:] != unit_ids[:, :-1], (0, 1), value=True)
    positions = torch.arange(unit_ids.size(1), device=unit_ids.device).expand_as(unit_ids)
    # The tokens of a rank are contiguous, so the rank ends at the next change of unit.
    end = positions.masked_fill(~last, unit_ids.size(1)).flip(1).cummin(dim=1).values.flip(1)
    return torch.where((unit_ids < units.list_length) & mask.bool(), decay ** (end - positions), 1.0)


@credits.piece(columns=("sequence",), spread=spread_sequence, within=None, reads="gains")
def sequence(given: CreditInputs) -> torch.Tensor:
    """(B, 1) the list's total gain; gamma has no effect, since the whole list is one unit (GRPO)."""
    return given.gains.sum(dim=1, keepdim=True) + given.scores[:, None]


@credits.piece(columns=("rank",), spread=spread_rank, within=None, reads="gains")
def rank(given: CreditInputs) -> torch.Tensor:
    """(B, N) the return of each rank, `tail_returns` (Rank-GRPO, Eqs. 8 and 9)."""
    return tail_returns(given.gains, given.gamma) + given.scores[:, None]


@credits.piece(columns=("sequence", "rank"), spread=spread_both, within=None, reads="gains")
def hybrid(given: CreditInputs, *, alpha: Share = 0.8) -> torch.Tensor:
    """(B, 1 + N) the list's return next to the returns of its ranks; advantages are mixed alpha to 1 - alpha.

    RLMLR (arXiv 2509.23040) mixes outcome and state advantages in this way, with alpha = .8. Adapted to lists: ranks
    replace states.
    """
    return torch.cat([sequence(given), rank(given)], dim=1)


@credits.piece(columns=("rank",), spread=spread_rank, within=decay_to_end, reads="gains")
def token(given: CreditInputs, *, decay: Share = 0.9) -> torch.Tensor:
    """(B, N) as `rank`; a token's advantage is that of its rank times decay^d, d the later tokens of the rank.

    This is the return if every token is an action, an entry's gain comes with its last token, and decay discounts later
    gains for each token up to the end of the entry. Tokens at the same position in different titles are not comparable,
    so the baseline is the rank's. decay = 1 is `rank`. Ours.
    """
    return rank(given)


@credits.piece(columns=("sequence", "sequence"), spread=spread_phases, within=None, reads="hits")
def two_phase(given: CreditInputs, *, first_phase: Share = 0.5) -> torch.Tensor:
    """(B, 2) the list's recall of all truths, whose order does not matter, next to its NDCG@N.

    Recall judges the preamble and the first share of the ranks; NDCG judges the rest. Each phase has its own baseline.
    Inspired by F-GRPO (arXiv 2605.12995), where one rollout writes a set of candidates and then ranks it: coverage
    rewards the first phase, utility by position the second.
    """
    weights = _discounts(given.gains.size(1), given.hits)
    coverage = given.hits.sum(dim=1) / given.n_truth.clamp(min=1)
    utility = (given.hits * weights).sum(dim=1) / _ideal(given)
    return torch.stack([coverage, utility], dim=1) + given.scores[:, None]


@credits.piece(columns=("sequence", "sequence"), spread=spread_mode, within=None, reads="gains")
def mode_and_answer(given: CreditInputs) -> torch.Tensor:
    """(B, 2) the list's return twice: for the text outside entries, which names a mode, and for the answer.

    The baseline `by_mode` tells them apart (HiPO, arXiv 2509.23967; after notes). In the paper only special tokens name
    the mode. Adapted to lists: so do all words before the list, thoughts included.
    """
    return sequence(given).repeat(1, 2)


@credits.piece(columns=("rank",), spread=spread_rank, within=None, reads="hits", signed=True)
def swap(given: CreditInputs) -> torch.Tensor:
    """(B, N) drop of the list's NDCG@N if rank k is swapped with a later rank, mean over these; 0 for rank N.

    With discounts w, this is (rel_k - rel_j)(w_k - w_j) for each j > k. A miss costs what the hits below it would gain
    in its place. Inspired by FlexRec (arXiv 2603.11901), whose counterfactual exchanges an item with all remaining
    candidates; `swap_pool` does, and this stays inside the list.
    """
    n = given.gains.size(1)
    weights = _discounts(n, given.hits)
    places = torch.arange(n, device=weights.device)
    later = (n - 1 - places).to(weights)
    sum_w, sum_rel, sum_both = (
        _sum_of_later(x.expand_as(given.hits)) for x in (weights, given.hits, given.hits * weights)
    )
    lost = given.hits * weights * later - given.hits * sum_w - weights * sum_rel + sum_both
    return lost / later.clamp(min=1) / _ideal(given)[:, None] + given.scores[:, None]


@credits.piece(columns=("rank",), spread=spread_rank, within=None, reads="hits", signed=True)
def swap_pool(given: CreditInputs, *, outside: WholeNumber = 80) -> torch.Tensor:
    """(B, N) drop of the list's NDCG@N if rank k is swapped with a remaining candidate, mean over these: the items at
    later ranks and `outside` candidates that the list lacks (FlexRec, arXiv 2603.11901; inspired by: abstract only).

    A swap with a candidate outside changes (rel_k - rel_j) w_k. The relevant items that the list lacks are among these
    candidates, at most `outside` of them. So a miss at rank 1 also costs what these would have gained there, which
    `swap` does not count. With outside = 0 it equals `swap`.

    Adapted to lists: the paper ranks a fixed set of candidates to its end. Here the list is written freely, so only the
    number of candidates outside is set.

    Args:
        outside: number of candidates that the list lacks. 80 and 20 ranks make a pool of 100; ours.
    """
    n = given.gains.size(1)
    weights = _discounts(n, given.hits)
    later = (n - 1 - torch.arange(n, device=weights.device)).to(weights)
    missing = (given.n_truth.to(given.hits) - given.hits.sum(dim=1)).clamp(min=0, max=outside)
    replaced = weights * (given.hits * outside - missing[:, None])
    within = (swap(given) - given.scores[:, None]) * _ideal(given)[:, None] * later
    return (within + replaced) / (later + outside).clamp(min=1) / _ideal(given)[:, None] + given.scores[:, None]


def _sum_of_later(values: torch.Tensor) -> torch.Tensor:
    """(B, N) sum over the later ranks."""
    return torch.cat([values[:, 1:].flip(1).cumsum(1).flip(1), torch.zeros_like(values[:, :1])], dim=1)


@credits.piece(columns=("rank",), spread=spread_rank, within=None, reads="hits", signed=True)
def removal(given: CreditInputs) -> torch.Tensor:
    """(B, N) drop of the list's NDCG@N if rank k is removed and later ranks move up (leave-one-out; ours).

    A miss has minus the value that it takes from the hits below it. Exact: the discount they would gain, summed.
    """
    n = given.gains.size(1)
    weights = _discounts(n + 1, given.hits)
    ideal = _ideal(given)
    own = given.hits * weights[:n]
    steps = torch.cat([weights.new_zeros(1), weights[: n - 1] - weights[1:n]])
    below = _sum_of_later(given.hits * steps)  # gain of the later hits if they moved up one rank
    return (own - below) / ideal[:, None] + given.scores[:, None]


@credits.piece(columns=("rank",), spread=spread_rank, within=None, reads="hits", signed=True)
def shapley(given: CreditInputs) -> torch.Tensor:
    """(B, N) Shapley value of rank k, where the value of a coalition of ranks is the NDCG@N of its list with the gaps
    closed (after ShapE-GRPO, arXiv 2603.29871, whose set-level reward has no order; `shapley_max` is nearer).

    Exact in O(N^2) per list. In a random order of arrival, hit j finds m of the j - 1 ranks before it with probability
    1/j for each m = 0..j-1. A rank that is above hit j in the list but arrives later moves it down.
    """
    n = given.gains.size(1)
    weights = _discounts(n, given.hits)
    ranks = torch.arange(1, n + 1, device=weights.device, dtype=weights.dtype)
    # When a hit at rank j (0-based) joins, its value is the mean of w over the 1 + m places it may take.
    own = weights.cumsum(0) / ranks
    # Rank k < j joins after hit j. If a of the other j - 1 ranks above j have joined, hit j falls from 1 + a to 2 + a.
    # Any arrival order of these j + 1 ranks (k, j and the j - 1 others) is equally likely, and j must precede k.
    fall = torch.zeros(n, dtype=weights.dtype, device=weights.device)
    for j in range(1, n):
        drops = weights[:j] - weights[1 : j + 1]  # a = 0 .. j - 1
        chance = torch.arange(1, j + 1, device=weights.device, dtype=weights.dtype) / (j * (j + 1))
        fall[j] = (drops * chance).sum()
    cost = given.hits * fall  # what each rank above hit j takes from it
    return (given.hits * own - _sum_of_later(cost)) / _ideal(given)[:, None] + given.scores[:, None]


@credits.piece(columns=("rank",), spread=spread_rank, within=None, reads="gains")
def shapley_max(given: CreditInputs) -> torch.Tensor:
    """(B, N) Shapley value of rank k, where the value of a set of ranks is its largest gain (ShapE-GRPO, arXiv
    2603.29871; after its abstract and summaries: users pick one item of a set).

    A rank shares each part of its gain with all ranks that have it too: with gains r_1 <= ... <= r_N in ascending
    order, rank i gets the sum over j <= i of (r_j - r_(j-1)) / (N - j + 1). The values of a list sum to its largest
    gain. A hit beside other hits is worth less, and a miss nothing.
    """
    order = given.gains.argsort(dim=1, stable=True)
    ascending = given.gains.gather(1, order)
    parts = ascending.diff(dim=1, prepend=torch.zeros_like(ascending[:, :1]))
    sharers = torch.arange(ascending.size(1), 0, -1, device=ascending.device)
    shares = (parts / sharers).cumsum(dim=1)
    return torch.zeros_like(shares).scatter(1, order, shares) + given.scores[:, None]


def _discounts(n: int, like: torch.Tensor) -> torch.Tensor:
    """(n,) DCG's discounts of ranks 1..n, of the type and on the device of `like`."""
    return torch.from_numpy(metrics.discounts(n)).to(like)


def _ideal(given: CreditInputs) -> torch.Tensor:
    """(B,) DCG@N of ideal lists, of the type and on the device of the hits."""
    n_truth = given.n_truth.clamp(min=1).cpu().numpy()
    return torch.from_numpy(metrics.ideal_dcg(n_truth, given.gains.size(1))).to(given.hits)
