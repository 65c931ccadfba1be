"""Combines the returns of several reward terms into one advantage per unit. Runs after gathering, on whole groups.

Shapes: B completions, the G completions of a prompt adjacent; M terms; C columns, 1 under sequence credit and N under
rank credit. `normalise` is the algorithm's baseline, (B, C) -> (B, C). Results keep the dtype of the returns.
"""

from collections.abc import Callable

import torch

BATCH_EPSILON = 1e-4  # TRL's guard against a zero standard deviation
LARGEST_POWER = 1e6  # beyond this the limit is more accurate than the formula, which overflows
SMALLEST_POWER = 1e-8  # below this the limit is more accurate than the formula, which suffers from rounding

Normalise = Callable[[torch.Tensor], torch.Tensor]
Combiner = Callable[[torch.Tensor, torch.Tensor, Normalise, float], torch.Tensor]


def solve_rate(success: torch.Tensor, group_size: int) -> torch.Tensor:
    """Share of correct completions in each one's group, at least 1/G (ALP, arXiv 2506.05256: max(p_solved, 1/K)).

    Args:
        success: (B,) bool.
        group_size: G.

    Returns:
        (B,) float64, the same for all members of a group.
    """
    shares = success.view(-1, group_size).double().mean(dim=1)
    return shares.clamp(min=1 / group_size).repeat_interleave(group_size)


def moderate_difficulty(success: torch.Tensor, group_size: int) -> torch.Tensor:
    """exp(-(s - 1/2)^2 / (2 (1/6)^2)) of the group's solve rate s if 0 < s < 1, else 0 (SPELL, arXiv 2509.23863).

    The paper rewards the questioner with it, so that questions are neither too easy nor too hard.

    Args:
        success: (B,) bool.
        group_size: G.

    Returns:
        (B,) float64, the same for all members of a group.
    """
    solved = success.view(-1, group_size).double().mean(dim=1)
    bump = torch.exp(-((solved - 0.5) ** 2) / (2 * (0.5 / 3) ** 2))
    return torch.where((solved > 0) & (solved < 1), bump, 0.0).repeat_interleave(group_size)


def weighted_sum(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B, M, C), (M,) -> (B, C)."""
    return (values * weights[:, None]).sum(dim=1)


def sum_then_normalise(
    returns: torch.Tensor, weights: torch.Tensor, normalise: Normalise, power: float
) -> torch.Tensor:
    """normalise(sum_m w_m r_m): adds the terms in their own units, as GRPO does."""
    return normalise(weighted_sum(returns, weights))


def normalise_then_sum(
    returns: torch.Tensor, weights: torch.Tensor, normalise: Normalise, power: float
) -> torch.Tensor:
    """z(sum_m w_m normalise(r_m)), z the z-score over the batch (GDPO, arXiv 2601.05242).

    At C = 1 it is TRL 1.16's `multi_objective_aggregation="normalize_then_sum"`: unbiased standard deviation, epsilon
    1e-4. The paper has one column. At C > 1 the z-score has one mean and one standard deviation for all of (B, C).
    A z-score per column would bring ranks with few hits in the batch to the scale of the others: if only one of P
    groups varies at a rank, its advantages would grow by sqrt(P).
    """
    sums = weighted_sum(torch.stack([normalise(of_term) for of_term in returns.unbind(dim=1)], dim=1), weights)
    spread = sums.std() if sums.numel() > 1 else torch.zeros_like(sums)
    return (sums - sums.mean()) / (spread + BATCH_EPSILON)


def power_mean(returns: torch.Tensor, weights: torch.Tensor, normalise: Normalise, power: float) -> torch.Tensor:
    """normalise of the weighted power mean of the terms (CE-PO, arXiv 2509.23095); see `mean_of_power`."""
    return normalise(mean_of_power(returns, weights, power))


def mean_of_power(values: torch.Tensor, weights: torch.Tensor, power: float) -> torch.Tensor:
    """(sum_m w_m s_m^p)^(1/p), with weights normalised to sum to 1.

    p = 0 gives the limit, the weighted geometric mean; p = inf gives the largest and p = -inf the smallest of the terms
    with positive weight. If one of these terms is 0 and p <= 0, the mean is 0.

    Args:
        values: (B, M, C), not negative.
        weights: (M,), not negative, not all 0.
        power: p.

    Returns:
        (B, C), computed in float64.

    Raises:
        ValueError: a value or a weight is negative, or all weights are 0.
    """
    if (values < 0).any():
        raise ValueError(f"the power mean needs non-negative terms, got {values.min().item()}")
    if (weights < 0).any() or not weights.any():
        raise ValueError(f"the power mean needs non-negative weights that are not all 0, got {weights.tolist()}")
    used = weights > 0
    share = (weights[used] / weights[used].sum()).double()[:, None]
    # Logarithms keep large powers from overflowing. log 0 = -inf gives the correct limits.
    logs = values[:, used].double().log()
    if abs(power) < SMALLEST_POWER:
        mean = (share * logs).sum(dim=1)
    elif abs(power) > LARGEST_POWER:
        mean = logs.amax(dim=1) if power > 0 else logs.amin(dim=1)
    else:
        mean = (share.log() + power * logs).logsumexp(dim=1) / power
    return mean.exp().to(values.dtype)


COMBINERS: dict[str, Combiner] = {
    "sum_then_normalise": sum_then_normalise,
    "normalise_then_sum": normalise_then_sum,
    "power_mean": power_mean,
}
FACTORS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "solve_rate": solve_rate,
    "moderate": moderate_difficulty,
}
"""Factors of a list term's score by their name in `scaled_by`: (success (B,), G) -> (B,)."""
