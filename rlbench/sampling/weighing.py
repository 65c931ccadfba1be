"""Weights of prompts: the chance of each to be drawn next. n prompts; s is the share of a group that succeeds.

"Succeeds" is the reward's success rule (`reward.success`).
"""

import numpy as np
from numpy.typing import NDArray

from rlbench.config.options import Positive, Share
from rlbench.sampling.history import History, Moment
from rlbench.sampling.places import weights

Weights = NDArray[np.float64]


@weights.piece(reads_history=False)
def uniform(history: History, moment: Moment) -> Weights:
    """Each prompt once before any a second time."""
    return (history.visits == history.visits.min()).astype(float)


@weights.piece(reads_history=True)
def difficulty_pool(
    history: History,
    moment: Moment,
    *,
    hard: Share = 0.25,
    easy: Share = 0.75,
    hard_weight: Positive = 0.2,
    easy_weight: Positive = 0.2,
) -> Weights:
    """Three pools by the latest s: at most `hard`, at most `easy`, and above (prime-rl's difficulty_pool).

    prime-rl uses the mean reward of the latest group. Prompts of the middle pool and prompts without a group weigh 1.

    Args:
        hard: largest s of the hard pool.
        easy: largest s of the middle pool.
        hard_weight: weight of a prompt in the hard pool.
        easy_weight: weight of a prompt in the easy pool.
    """
    of_pool = np.where(history.solved <= hard, hard_weight, np.where(history.solved <= easy, 1.0, easy_weight))
    return np.where(history.visits > 0, of_pool, 1.0)


@weights.piece(reads_history=True)
def target_difficulty(
    history: History, moment: Moment, *, target: Share = 0.5, temperature: Positive = 1e-3, prior: Share = 0.5
) -> Weights:
    """exp(-|d - target| / temperature), d = 1 - mean s (DOTS, arXiv 2506.05316, with running means).

    DOTS predicts d by attention to a reference set. Here d is the mean over a prompt's own groups.

    Args:
        target: the difficulty to draw.
        temperature: 0.001 in the paper, which draws the prompts nearest to the target.
        prior: d of a prompt without a group.
    """
    difficulty = np.where(history.visits > 0, 1 - history.mean_solved, prior)
    distance = np.abs(difficulty - target)
    return np.exp(-(distance - distance.min()) / temperature)  # the nearest prompt weighs 1, so not all weights vanish


@weights.piece(reads_history=True)
def moderate(history: History, moment: Moment, *, unseen: Positive = 1.0) -> Weights:
    """exp(-(s - 1/2)^2 / (2 (1/6)^2)) for 0 < s < 1, and 0 for s = 1 (SPELL, arXiv 2509.23863).

    SPELL gives this as the reward of a generated question. A prompt with s = 0 keeps the bump's value there, .011, so
    that it can come back.

    Args:
        unseen: weight of a prompt without a group.
    """
    bump = np.exp(-((history.solved - 0.5) ** 2) / (2 * (0.5 / 3) ** 2))
    return np.where(history.visits > 0, np.where(history.solved >= 1, 0.0, bump), unseen)


@weights.piece(reads_history=True)
def unsolved(history: History, moment: Moment, *, least: Positive = 0.01) -> Weights:
    """1 - s of the latest group, at least `least`; 1 for a prompt without a group."""
    return np.where(history.visits > 0, np.maximum(1 - history.solved, least), 1.0)


@weights.piece(reads_history=True)
def pruned(history: History, moment: Moment, *, solved: Share = 0.9) -> Weights:
    """`uniform` among prompts whose latest s is below `solved` (RAPO of Fathom, arXiv 2509.24107).

    The paper prunes after each epoch. Here a prompt is left out as soon as its group is solved.
    """
    left = ~(history.solved >= solved)  # true for NaN
    fewest = history.visits[left].min() if left.any() else 0
    return (left & (history.visits == fewest)).astype(float)


@weights.piece(reads_history=True)
def tiers(
    history: History,
    moment: Moment,
    *,
    easy: Share = 0.7,
    hard: Share = 0.3,
    first_knee: Share = 0.3,
    second_knee: Share = 0.7,
) -> Weights:
    """A curriculum from easy to hard prompts (after RMT, arXiv 2509.24375, known from notes).

    The shares of the easy, middle and hard tier change linearly: from (1, 0, 0) at the start to (0, 1, 0) at the first
    knee, stay there to the second, and reach (0, 0, 1) at the end. RMT's tiers are by entropy under the base model;
    here they are by mean s. A prompt without a group belongs to every tier.

    Args:
        easy: smallest mean s of the easy tier.
        hard: mean s below which a prompt is in the hard tier.
        first_knee: share of the run at which the middle tier is alone.
        second_knee: share of the run until which it is alone.
    """
    at = moment.progress
    if at < first_knee:
        shares = (1 - at / first_knee, at / first_knee, 0.0)
    elif at <= second_knee:
        shares = (0.0, 1.0, 0.0)
    else:
        late = (at - second_knee) / (1 - second_knee)
        shares = (0.0, 1 - late, late)
    mean = history.mean_solved
    of_tier = np.where(mean >= easy, shares[0], np.where(mean < hard, shares[2], shares[1]))
    return np.where(history.visits > 0, of_tier, 1.0)
