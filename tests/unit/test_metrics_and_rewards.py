"""Metrics against ir-measures, verdicts, gains and returns against the paper's numbers."""

import ir_measures
import numpy as np
import pytest
import torch

from rlbench.catalog import Catalog
from rlbench.metrics import ndcg, ranking_metrics, recall
from rlbench.relevance import Verdict, judge, truth_size
from rlbench.rewards import GAINS, tail_returns


def test_metrics_agree_with_ir_measures():
    rng = np.random.default_rng(0)
    n, queries, cutoffs = 10, 200, [1, 5, 10]
    hits, n_truth, qrels, run = np.zeros((queries, n)), [], [], []
    for query in range(queries):
        truth = set(rng.choice(40, size=rng.integers(1, 15), replace=False).tolist())
        ranked = rng.permutation(40)[:n].tolist()
        hits[query] = [item in truth for item in ranked]
        n_truth.append(len(truth))
        qrels += [ir_measures.Qrel(str(query), str(item), 1) for item in truth]
        run += [ir_measures.ScoredDoc(str(query), str(item), float(-rank)) for rank, item in enumerate(ranked)]
    ours = ranking_metrics(hits, np.array(n_truth), cutoffs)
    measures = {f"recall@{k}": ir_measures.R @ k for k in cutoffs} | {
        f"ndcg@{k}": ir_measures.nDCG @ k for k in cutoffs
    }
    names = {str(measure): name for name, measure in measures.items()}
    seen = 0
    for value in ir_measures.iter_calc(list(measures.values()), qrels, run):
        assert ours[names[str(value.measure)]][int(value.query_id)] == pytest.approx(value.value, abs=1e-12)
        seen += 1
    assert seen == queries * len(measures)


def test_cutoff_beyond_the_list():
    hits = np.array([[1.0, 0.0]])
    assert recall(hits, np.array([4]), 5) == pytest.approx([0.25])
    ideal = (1 / np.log2(np.arange(2, 6))).sum()  # 4 relevant films
    assert ndcg(hits, np.array([4]), 5) == pytest.approx([1 / ideal])


CATALOG = Catalog([("Alien", 1979), ("Heat", 1995), ("Taken", 2008), ("Jaws", 1975)])


def test_verdicts_keep_their_ranks():
    entries = [("Heat", 1995), ("ALIEN ", 1979), ("Alien", 1979), ("Nowhere", 2000), ("Jaws", 1975), ("Taken", 2008)]
    verdicts = judge(entries, [("Alien", 1979), ("Taken", 2008)], ["jaws"], CATALOG)
    assert verdicts == [
        Verdict.MISS,
        Verdict.HIT,
        Verdict.DUPLICATE,
        Verdict.OUT_OF_CATALOG,
        Verdict.SEEN,
        Verdict.HIT,
    ]


def test_a_truth_outside_the_catalogue_is_no_hit():
    assert judge([("Gone", 1990)], [("Gone", 1990)], [], CATALOG) == [Verdict.OUT_OF_CATALOG]


def test_the_year_counts():
    assert judge([("Heat", 1986)], [("Heat", 1995)], [], CATALOG) == [Verdict.OUT_OF_CATALOG]


def test_truths_are_counted_once():
    assert truth_size([("Alien", 1979), ("alien", 1979), ("Heat", 1995)]) == 2


def test_log_decay_returns_of_a_perfect_list():
    """The paper's numbers for N = 20: DCG@20 = 7.0403, tails 4.479 (k=5), 2.786 (k=10), .2277 (k=20)."""
    returns = tail_returns(GAINS["dcg"](torch.ones(1, 20, dtype=torch.float64)), 1.0)[0]
    assert returns[0].item() == pytest.approx(7.0403, abs=5e-5)
    assert [returns[k - 1].item() for k in (5, 10, 20)] == pytest.approx([4.479, 2.786, 0.2277], abs=5e-4)


def slow_returns(gains, gamma):
    """Eqs. 8 and 9 as they are written."""
    n = gains.size(1)
    return torch.stack([sum(gamma ** (j - k) * gains[:, j] for j in range(k, n)) for k in range(n)], dim=1)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0])
def test_returns_follow_their_definition(gamma):
    gains = torch.rand(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tail_returns(gains, gamma), slow_returns(gains, gamma), atol=1e-12, rtol=0)


def test_gamma_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        tail_returns(torch.ones(1, 2), 1.5)
