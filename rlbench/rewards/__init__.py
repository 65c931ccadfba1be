"""What a list and its ranks are worth: gains per rank, and their discounted tail sums (returns)."""

from rlbench.rewards.gains import GAINS
from rlbench.rewards.returns import tail_returns
from rlbench.rewards.scorer import ListScorer, ScoredList

__all__ = ["GAINS", "ListScorer", "ScoredList", "tail_returns"]
