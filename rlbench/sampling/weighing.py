"""Weights of prompts: the chance of each to be drawn next. n prompts; s is the share of a group that succeeds.

"Succeeds" is the reward's success rule (`reward.success`).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rlbench.base.records import Values, is_finite
from rlbench.config.options import Positive, PositiveInt, Share
from rlbench.sampling.history import History, Moment, parts_of
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
    shares = _shares(moment.progress, first_knee, second_knee)
    mean = history.mean_solved
    of_tier = np.where(mean >= easy, shares[0], np.where(mean < hard, shares[2], shares[1]))
    return np.where(history.visits > 0, of_tier, 1.0)


def _shares(at: float, first_knee: float, second_knee: float) -> tuple[float, float, float]:
    """Shares of the easy, middle and hard tier at a share of the run."""
    if at < first_knee:
        return 1 - at / first_knee, at / first_knee, 0.0
    if at <= second_knee:
        return 0.0, 1.0, 0.0
    late = (at - second_knee) / (1 - second_knee)
    return 0.0, 1 - late, late


@weights.piece(reads_history=True, entropy=True)
def entropy_tiers(history: History, moment: Moment, *, first_knee: Share = 0.3, second_knee: Share = 0.7) -> Weights:
    """`tiers` by entropy: a third of the prompts each, from low to high (RMT, arXiv 2509.24375, known from notes).

    RMT takes the entropy under the base model. Here it is that of the tokens of a prompt's first group, so it costs
    nothing. A prompt without it belongs to every tier.

    Args:
        first_knee: as in `tiers`.
        second_knee: as in `tiers`.
    """
    known = ~np.isnan(history.entropy)
    if not known.any():
        return np.ones(len(history))
    low, high = np.quantile(history.entropy[known], [1 / 3, 2 / 3])
    easy, middle, hard = _shares(moment.progress, first_knee, second_knee)
    of_tier = np.where(history.entropy <= low, easy, np.where(history.entropy <= high, middle, hard))
    return np.where(known, of_tier, 1.0)


def _reference(
    history: History, moment: Moment, rng: np.random.Generator, *, references: int = 32, every: int = 10
) -> NDArray[np.int64]:
    """Prompts to draw as references; none if those of less than `every` updates ago are still good."""
    if len(history.reference) and moment.update - history.update[history.reference].min() < every:
        return np.zeros(0, dtype=np.int64)
    return rng.choice(len(history), size=min(references, len(history)), replace=False)


def _enough(names: Sequence[str], *, references: int, **_: Any) -> str:
    if references > len(names):
        return (
            f"sampler.options.attention.references = {references}: the train split has only {len(names)} prompts; use "
            f"at most {len(names)}"
        )
    return ""


@weights.piece(reads_history=True, reference=_reference, check=_enough)
def attention(
    history: History,
    moment: Moment,
    *,
    target: Share = 0.5,
    temperature: Positive = 1e-3,
    sharpness: Positive = 10.0,
    references: PositiveInt = 32,
    every: PositiveInt = 10,
) -> Weights:
    """exp(-|d - target| / temperature), d the difficulty that reference prompts predict (DOTS, arXiv 2506.05316).

    It is the mean of the references' difficulties (shares of failures), weighted by a softmax of `sharpness` times the
    cosine of their features. Groups of the references are drawn anew every `every` updates, which costs tokens. DOTS
    uses a sentence encoder with a trained projection and 256 references, draws new ones every two updates, and
    calibrates d. Here the features are hashed words (`rlbench.sampling.features`), so nothing is downloaded, and d is
    not calibrated. `target_difficulty` needs no references.

    Args:
        target: the difficulty to draw.
        temperature: 0.001 in the paper.
        sharpness: factor on cosines.
        references: number of reference prompts.
        every: updates until new references are drawn.
    """
    scores = sharpness * history.features @ history.features[history.reference].T
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    difficulty = odds @ (1 - history.reference_solved) / odds.sum(axis=1)
    distance = np.abs(difficulty - target)
    return np.exp(-(distance - distance.min()) / temperature)


def _is_shares(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(is_finite(share) and share > 0 for share in value.values())
    )


Shares = Annotated[Mapping, Values("a mapping of patterns to numbers above 0", _is_shares)]


def _no_empty_part(names: Sequence[str], *, shares: Mapping[str, float]) -> str:
    parts = parts_of(names, tuple(shares))
    empty = [pattern for place, pattern in enumerate(shares) if not (parts == place).any()]
    if empty:
        return (
            f"sampler.options.mix.shares has parts without prompts: {', '.join(empty)}. A part has the prompts whose "
            f"context_id matches its pattern and no earlier one; the first context_id is '{names[0]}'"
        )
    return ""


@weights.piece(reads_history=True, check=_no_empty_part)
def mix(history: History, moment: Moment, *, shares: Shares) -> Weights:
    """A mix of parts of the data: each part gets its share of the prompts, each of its prompts in turn.

    Args:
        shares: share of each part by a pattern of `context_id`, such as {"reddit-*": 3, "*": 1}. A prompt belongs to
            the first pattern that matches it. Prompts that match none are left out.
    """
    parts, found = history.parts(tuple(shares)), np.zeros(len(history))
    for place, share in enumerate(shares.values()):
        own = parts == place
        next_ones = own & (history.visits == history.visits[own].min())
        found[next_ones] = share / next_ones.sum()
    return found
