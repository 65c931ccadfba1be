"""Measures of a rollout, the same for policy and preference optimisation."""

from collections.abc import Callable, Sequence

import torch

from rlbench.rewards.batch import RewardBatch


def rollout_measures(
    rewards: RewardBatch,
    returns: torch.Tensor,
    terms: Sequence[str],
    over_lists: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, float]:
    """Means or sums over B lists, by their names in `metrics.jsonl`.

    Args:
        rewards: rewards of the lists.
        returns: (B, N) return of each rank.
        terms: names of the M reward terms. A single term is not measured on its own: it equals the reward.
        over_lists: (B, ...) -> (...), the mean or the sum over lists.
    """
    measured = {
        f"{name}@{k}": value
        for name, of_ranks in (("reward", returns), ("hits", rewards.hits))
        for k, value in enumerate(over_lists(of_ranks.double()).tolist(), start=1)
    }
    measured["hits"] = over_lists(rewards.hits.sum(1)).item()
    measured["success"] = over_lists(rewards.success.float()).item()
    if len(terms) > 1:
        of_terms = over_lists(rewards.gains.sum(2) + rewards.scores).tolist()
        measured |= {f"term/{name}": value for name, value in zip(terms, of_terms, strict=True)}
    measured["list_length"] = over_lists(rewards.named_features()["entries"]).item()
    return measured
