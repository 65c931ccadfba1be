"""Reward terms that ask the policy, against loops over tokens."""

import math

import numpy as np
import pytest

from rlbench.base.errors import BadInput
from rlbench.rewards.answers import Answers
from rlbench.rewards.scorer import score
from rlbench.rewards.terms import NEEDS, TERMS, check_terms, list_term
from rlbench.running.checks import check_config
from tests.conftest import composed
from tests.unit.test_rewards import FACTS, LISTS, N, judged

OTHER, EOS = N + 1, N + 2


class Known:
    """A policy with given log-probabilities."""

    def __init__(self, logps):
        self.given = logps
        self.calls = 0

    def logps(self, prompts, completion_ids):
        self.calls += 1
        return self.given


def written(rng):
    """Units and log-probabilities of the tokens of LISTS: one to three tokens for each entry, and others around."""
    units, logps = [], []
    for text, *_ in LISTS:
        row = [OTHER] * int(rng.integers(0, 3))
        for rank in range(len(text.split())):
            row += [rank] * int(rng.integers(1, 4))
        row.append(EOS)
        units.append(row)
        logps.append((-rng.exponential(0.8, len(row))).tolist())
    return units, logps


def answers_of(units, logps):
    policy = Known(logps)
    return Answers(policy, [None] * len(units), [[0] * len(row) for row in units], units, N), policy


def slow_confidence(units, logps, rank):
    own = [logp for unit, logp in zip(units, logps, strict=True) if unit == rank]
    return math.exp(sum(own) / len(own)) if own else 1.0


@pytest.mark.parametrize("form", ["brier", "log"])
def test_calibration_against_a_loop(form):
    units, logps = written(np.random.default_rng(0))
    logps[0][units[0].index(0)] = -40.0  # a hit that the policy thought impossible
    answers, policy = answers_of(units, logps)
    values = TERMS["calibration"].function(judged(), FACTS, answers, form=form)
    for i, (text, *_) in enumerate(LISTS):
        ranks = text.split()
        for k in range(N):
            if k >= len(ranks):
                assert values[i, k] == 0
                continue
            c, hit = slow_confidence(units[i], logps[i], k), ranks[k].startswith("hit")
            if form == "brier":
                expected = 1 - (c - hit) ** 2
            else:
                expected = 1 - math.log(max(c if hit else 1 - c, 1e-3)) / math.log(1e-3)
            assert values[i, k] == pytest.approx(expected, rel=1e-12)
    assert values.min() >= 0 and values.max() <= 1
    TERMS["calibration"].function(judged(), FACTS, answers, form=form)
    assert policy.calls == 1  # an answer is computed once


@pytest.mark.parametrize("form", ["brier", "log"])
def test_calibration_is_proper(form):
    """In expectation, no confidence is better than the chance of a hit."""
    lists = judged([("hit:0", 1, 1, 1, 9), ("miss:1", 1, 1, 1, 9)])
    for chance in (0.1, 0.5, 0.7):
        expected = {}
        for c in np.linspace(0.02, 0.98, 49):
            answers, _ = answers_of([[0], [0]], [[math.log(c)]] * 2)
            hit, miss = TERMS["calibration"].function(lists, FACTS, answers, form=form)[:, 0]
            expected[c] = chance * hit + (1 - chance) * miss
        assert max(expected, key=expected.get) == pytest.approx(chance, abs=0.011)


def test_a_rank_without_tokens_is_certain():
    answers, _ = answers_of([[0, 2]], [[-1.0, -2.0]])
    assert answers.confidence[0, :3].tolist() == pytest.approx([math.exp(-1), 1.0, math.exp(-2)])


def test_nobody_answers():
    reward = composed("reward=calibration").reward
    with pytest.raises(BadInput, match=r"reward.terms.calibration asks the policy that trains, and there is none here"):
        score(judged(), FACTS, reward)


def test_unknown_needs_are_refused():
    with pytest.raises(ValueError, match="term 'asks_more' needs 'oracle', which is unknown; known: policy"):

        @list_term(needs=["oracle"])
        def asks_more(lists, facts, answers):
            return lists.hits.sum(axis=1)

    assert "asks_more" not in TERMS and NEEDS[0] == "policy"


def test_refused_where_nothing_can_answer():
    (problem,) = check_config(composed("algorithm=dpo", "reward=calibration"))
    assert problem.startswith("reward.terms.calibration asks the policy") and "algorithm=grpo" in problem
    problems = check_config(composed("reward=calibration", "trainer=fsdp2"), processes=2)
    assert ["strategy = 'fsdp2' shards its weights; remove the term, or use trainer=ddp" in p for p in problems] == [
        True
    ]
    assert not check_config(composed("reward=calibration"))
    assert check_terms({"calibration": {"weight": 1.0, "form": "rps"}}) == [
        "terms.calibration.form = 'rps' must be one of brier, log"
    ]
