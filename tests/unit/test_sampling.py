"""Weights of prompts, draws by weight, the history of prompts and the replay buffer, against their definitions."""

import math
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rlbench.sampling.drawing import draw
from rlbench.sampling.features import hashed_words
from rlbench.sampling.history import History, Moment
from rlbench.sampling.keeping import middling, mixed, varied
from rlbench.sampling.members import Member
from rlbench.sampling.places import weights
from rlbench.sampling.replay import Buffer, KeptGroup

GROUPS = [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (1, 0.75), (2, 0.5)]
"""(prompt, share of successes) in the order of rollouts. Prompt 5 is never drawn."""
ENTROPIES = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 9.0]
"""Of these groups. The first of a prompt counts: 1 to 5, in the order of prompts."""
TEXTS = ["a red film", "a red film please", "old films, old ones", "", "a film", "a RED film"]
NAMES = ["a-0", "a-1", "b-0", "b-1", "c-0", "a-2"]
SHARES = {"a-*": 3, "c-*": 0.5}
OPTIONS = {"mix": {"shares": SHARES}}
START = Moment(0, 0.0)


def some_history() -> History:
    history = History(6, lambda: TEXTS, lambda: NAMES)
    for update, (prompt, solved) in enumerate(GROUPS):
        history.learn([prompt], [solved], [2 * solved], update, [ENTROPIES[update]])
    history.reference, history.reference_solved = np.array([1, 4]), np.array([0.25, 1.0])
    return history


def latest(prompt: int) -> float | None:
    of_prompt = [solved for other, solved in GROUPS if other == prompt]
    return of_prompt[-1] if of_prompt else None


def mean(prompt: int) -> float | None:
    of_prompt = [solved for other, solved in GROUPS if other == prompt]
    return sum(of_prompt) / len(of_prompt) if of_prompt else None


def by_hand(name: str, prompt: int) -> float:
    """The weight of a prompt, from its formula in the docstring."""
    s, m = latest(prompt), mean(prompt)
    visits = sum(other == prompt for other, _ in GROUPS)
    if name == "uniform":
        return float(visits == 0)
    if name == "difficulty_pool":
        return 1.0 if s is None or 0.25 < s <= 0.75 else 0.2
    if name == "target_difficulty":
        return math.exp(-abs((0.5 if m is None else 1 - m) - 0.5) / 1e-3)
    if name == "moderate":
        return 1.0 if s is None else 0.0 if s == 1 else math.exp(-((s - 0.5) ** 2) / (2 * (1 / 6) ** 2))
    if name == "unsolved":
        return 1.0 if s is None else max(1 - s, 0.01)
    if name == "pruned":
        return float(visits == 0)
    if name == "entropy_tiers":  # the start of the run: the third of the lowest entropy, 1 to 5 nats
        first = next((ENTROPIES[place] for place, (other, _) in enumerate(GROUPS) if other == prompt), None)
        return 1.0 if first is None or first <= 1 + 4 / 3 else 0.0
    if name == "attention":
        return attended(prompt) / max(attended(other) for other in range(6))
    if name == "mix":  # prompt 5 is the only one of its part without a group, and no pattern has b
        return {5: 3.0, 4: 0.5}.get(prompt, 0.0)
    assert name == "tiers"
    return 1.0 if m is None or m >= 0.7 else 0.0  # the start of the run: easy prompts only


def features_by_hand(texts: list[str], width: int) -> list[list[float]]:
    rows = []
    for text in texts:
        row = [0.0] * width
        for word in "".join(letter if letter.isalnum() else " " for letter in text.lower()).split():
            row[zlib.crc32(word.encode()) % width] += 1
        rows.append(row)
    for column in range(width):
        there = sum(row[column] > 0 for row in rows)
        for row in rows:
            row[column] *= math.log((1 + len(rows)) / (1 + there)) + 1
    lengths = [math.sqrt(sum(value**2 for value in row)) or 1.0 for row in rows]
    return [[value / length for value in row] for row, length in zip(rows, lengths, strict=True)]


def attended(prompt: int) -> float:
    rows = features_by_hand(TEXTS, 512)
    scores = [math.exp(10 * sum(a * b for a, b in zip(rows[prompt], rows[r], strict=True))) for r in (1, 4)]
    difficulty = (scores[0] * 0.75 + scores[1] * 0.0) / sum(scores)
    return math.exp(-abs(difficulty - 0.5) / 0.01)


@pytest.mark.parametrize("width", [3, 512])
def test_hashed_words_by_hand(width: int) -> None:
    np.testing.assert_allclose(hashed_words(TEXTS, width), features_by_hand(TEXTS, width), atol=1e-15)


@pytest.mark.parametrize("name", list(weights))
def test_weights_by_hand(name: str) -> None:
    options = {"attention": {"temperature": 0.01}} | OPTIONS
    found = weights.chosen(name, options)(some_history(), START)
    assert found == pytest.approx([by_hand(name, prompt) for prompt in range(6)])


@pytest.mark.parametrize(
    ("progress", "shares"),
    [(0.15, (0.5, 0.5, 0)), (0.3, (0, 1, 0)), (0.5, (0, 1, 0)), (0.85, (0, 0.5, 0.5)), (1, (0, 0, 1))],
)
def test_tiers_change_linearly_between_their_knees(progress: float, shares: tuple[float, ...]) -> None:
    found = weights.chosen("tiers", {})(some_history(), Moment(9, progress))
    easy, middle, hard = shares
    assert found == pytest.approx([hard, middle, middle, easy, easy, 1])


@pytest.mark.parametrize(
    ("progress", "shares"), [(0.15, (0.5, 0.5, 0)), (0.5, (0, 1, 0)), (0.85, (0, 0.5, 0.5)), (1, (0, 0, 1))]
)
def test_tiers_of_entropy(progress: float, shares: tuple[float, ...]) -> None:
    """Of 1 to 5 nats, the third quantiles are 2.33 and 3.67."""
    found = weights.chosen("entropy_tiers", {})(some_history(), Moment(9, progress))
    low, middle, high = shares
    assert found == pytest.approx([low, low, middle, high, high, 1])


def test_references_stay_until_they_are_old() -> None:
    history, rng = some_history(), np.random.default_rng(3)  # prompts 1 and 4 were last drawn at updates 5 and 4
    reference = weights["attention"].facts["reference"]
    assert len(reference(history, Moment(13, 0.0), rng, references=4, every=10)) == 0
    found = reference(history, Moment(14, 0.0), rng, references=4, every=10)
    assert len(set(found.tolist())) == 4 and set(found.tolist()) <= set(range(6))
    assert len(reference(History(6), Moment(0, 0.0), rng, references=4, every=10)) == 4


def test_a_mix_keeps_its_shares() -> None:
    """Draws of one prompt each: three of part a for every one of b, and each prompt of a part in turn."""
    shares, names = {"a*": 3.0, "*": 1.0}, [f"a{n}" for n in range(30)] + [f"b{n}" for n in range(300)]
    history, rng, found = History(len(names), names=lambda: names), np.random.default_rng(0), Counter()
    for update in range(800):
        ((prompt,), _) = draw(weights.chosen("mix", {"mix": {"shares": shares}})(history, START), 1, rng)
        history.learn([int(prompt)], [0.5], [0.0], update)
        found[names[prompt][0]] += 1
    assert chisquare([found["a"], found["b"]], [600, 200]).pvalue > 0.01
    assert np.ptp(history.visits[:30]) <= 1


def test_pruned_prompts_come_in_turn() -> None:
    history = some_history()
    history.learn([5], [0.5], [1.0], 9)
    assert weights.chosen("pruned", {})(history, START).tolist() == [
        1,
        0,
        0,
        1,
        0,
        1,
    ]  # 4 is solved, 1 and 2 had a turn


def test_draws_follow_the_weights() -> None:
    """The chance of an ordered pair (i, j) is w_i / sum w times w_j / (sum w - w_i)."""
    w, rng = np.array([1.0, 2.0, 3.0, 0.0]), np.random.default_rng(0)
    found = Counter(tuple(draw(w, 2, rng)[0].tolist()) for _ in range(6000))
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = [6000 * w[i] / 6 * w[j] / (6 - w[i]) for i, j in pairs]
    assert set(found) == set(pairs)
    assert chisquare([found[pair] for pair in pairs], expected).pvalue > 0.01


def test_prompts_without_weight_fill_the_gap() -> None:
    chosen, without = draw(np.array([0.0, 1.0, 0.0, 2.0]), 3, np.random.default_rng(1))
    assert set(chosen[:2].tolist()) == {1, 3} and chosen[2] in (0, 2) and without == 1


def test_taken_prompts_are_not_drawn() -> None:
    chosen, without = draw(np.ones(5), 3, np.random.default_rng(1), np.array([0, 4]))
    assert sorted(chosen.tolist()) == [1, 2, 3] and without == 0


def test_kept_groups() -> None:
    totals = torch.tensor([[1.0, 1.0], [0.0, 0.5], [0.0, 0.0]])
    success = torch.tensor([[True, True], [False, False], [False, True]])
    assert varied(totals, success).tolist() == [False, True, False]
    assert mixed(totals, success).tolist() == [False, False, True]
    assert middling(totals, success).tolist() == [False, False, True]
    assert middling(totals, success, low=0.6).tolist() == [False, False, False]


def test_history_is_restored_exactly() -> None:
    history, again = some_history(), History(6)
    again.restore(history.state())
    for name in ("visits", "solved", "solved_sum", "score", "update", "mean_solved"):
        np.testing.assert_array_equal(getattr(again, name), getattr(history, name))
    for name in ("entropy", "reference", "reference_solved"):
        np.testing.assert_array_equal(getattr(again, name), getattr(history, name))
    old = {name: values for name, values in history.state().items() if name not in ("entropy", "reference")}
    assert History(6).restore(old) is None  # a checkpoint of a sampler without them
    assert history.mean_solved[1] == 0.5 and history.score[1] == 1.5 and history.update[1] == 5


def group(prompt: int, number: int = 0) -> KeptGroup:
    members = [Member([number, place], behaviour=[-1 / 3 - number, -place / 7]) for place in range(2)]
    return KeptGroup(prompt, members)


def test_the_buffer_keeps_the_newest_group_of_each_prompt() -> None:
    buffer = Buffer(2)
    for prompt, number in ((0, 1), (1, 2), (0, 3), (2, 4)):  # the second group of 0 is newer than that of 1
        buffer.add(group(prompt, number))
    kept = buffer.draw(9, np.random.default_rng(0))
    assert {(one.prompt, one.members[0].ids[0]) for one in kept} == {(0, 3), (2, 4)}
    assert [one.prompt for one in buffer.draw(9, np.random.default_rng(0), without=[0])] == [2]


def test_the_buffer_is_restored_exactly() -> None:
    buffer, again = Buffer(3), Buffer(3)
    for prompt in (4, 1, 3):
        buffer.add(group(prompt, prompt))
    again.restore(buffer.state())
    assert again.draw(3, np.random.default_rng(5)) == buffer.draw(3, np.random.default_rng(5))
    again.add(group(0))
    assert {one.prompt for one in again.draw(9, np.random.default_rng(0))} == {0, 1, 3}  # the order of age survives


def test_a_buffer_keeps_modes_and_segments() -> None:
    members = [Member([5, 6, 7], behaviour=[-1.0, -2.0, -3.0], mode=1, segments=(1, 2)), Member([8], behaviour=[-1.0])]
    buffer, again = Buffer(2), Buffer(2)
    buffer.add(group(3))
    buffer.add(KeptGroup(9, members))
    again.restore(buffer.state())
    assert again.of(9) == KeptGroup(9, members) and again.of(3) == group(3) and again.of(1) is None
    older = {name: values for name, values in buffer.state().items() if name not in ("modes", "begun", "segments")}
    again.restore(older)  # from before there were modes
    assert again.of(3) == group(3)


def test_an_empty_buffer_is_restored() -> None:
    again = Buffer(3)
    again.restore(Buffer(3).state())
    assert len(again) == 0
