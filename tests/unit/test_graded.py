"""Graded relevance: gains reach DCG and NDCG, in metrics and rewards, and change nothing where there are none."""

from dataclasses import replace

import ir_measures
import numpy as np
import pytest

from rlbench.base.cache import Cache
from rlbench.data.checks import check_records, digests, fingerprint
from rlbench.data.record import RankedListDataset, Record
from rlbench.data.stored import StoredPlace, StoredRecords, write_records
from rlbench.lists.catalog import Catalog
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.metrics import ndcg, ranking_metrics
from rlbench.lists.relevance import Judge, PublishedJudge
from rlbench.rewards.terms import TERMS
from rlbench.training.rl import prompt_dataset

N, CUTOFFS = 8, [1, 3, 5, 8, 20]
CATALOG = Catalog([(f"Book {i}", None) for i in range(40)])
PROMPT = [{"role": "user", "content": "books?"}]


def questions(seed):
    """Random lists, and truths with whole gains. Some items of truths and lists are outside the catalogue."""
    rng = np.random.default_rng(seed)
    for _ in range(150):
        truth = rng.choice(50, size=rng.integers(1, 12), replace=False).tolist()
        gains = rng.integers(1, 5, size=len(truth)).tolist()
        yield rng.permutation(50)[: rng.integers(0, N + 1)].tolist(), truth, gains


@pytest.fixture(scope="module")
def judged():
    cases = list(questions(0))
    judge = Judge(CATALOG, N)
    parsed = judge.read(["\n".join(f"Book {i}" for i in ranked) for ranked, _, _ in cases])
    truths = [[(f"Book {i}", None) for i in truth] for _, truth, _ in cases]
    gains = [list(map(float, gains)) for _, _, gains in cases]
    return cases, judge(parsed, truths, [[]] * len(cases), gains=gains), judge(parsed, truths, [[]] * len(cases))


def test_ndcg_agrees_with_ir_measures(judged):
    cases, graded, _ = judged
    qrels = [
        ir_measures.Qrel(str(q), str(i), g)
        for q, (_, truth, gains) in enumerate(cases)
        for i, g in zip(truth, gains, strict=True)
    ]
    run = [
        ir_measures.ScoredDoc(str(q), str(i) if i < 40 else f"outside {i}", float(-rank))  # cannot be hit
        for q, (ranked, _, _) in enumerate(cases)
        for rank, i in enumerate(ranked)
    ]
    names = {ir_measures.nDCG @ k: f"ndcg@{k}" for k in CUTOFFS}
    ours = ranking_metrics(graded.hits, graded.n_truth, CUTOFFS, graded.gains, graded.graded)
    expected = {name: np.full(len(cases), np.nan) for name in names.values()}
    for value in ir_measures.iter_calc(list(names), qrels, run):
        expected[names[value.measure]][int(value.query_id)] = value.value
    for name, values in expected.items():
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=1e-12, err_msg=name)
    assert (np.abs(ours["ndcg@8"] - ranking_metrics(graded.hits, graded.n_truth, [8])["ndcg@8"]) > 0.01).any()


def test_only_ndcg_depends_on_gains(judged):
    _, graded, binary = judged
    ours = ranking_metrics(graded.hits, graded.n_truth, CUTOFFS, graded.gains, graded.graded)
    plain = ranking_metrics(binary.hits, binary.n_truth, CUTOFFS, binary.gains, binary.graded)
    for name, values in plain.items():
        assert name.startswith("ndcg") or (ours[name] == values).all(), name
    ones = replace(graded, graded=(graded.graded > 0).astype(float))
    again = ranking_metrics(ones.hits, ones.n_truth, CUTOFFS, ones.gains, ones.graded)
    for name, values in plain.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_rewards_are_the_reported_metrics(judged):
    _, graded, _ = judged
    facts = ItemFacts(np.ones(40, np.int64), np.zeros(40, np.int64))
    expected = ndcg(graded.hits, graded.n_truth, N, graded.gains, graded.graded)
    np.testing.assert_array_equal(TERMS["ndcg"].function(graded, facts), expected)
    np.testing.assert_allclose(TERMS["ndcg_share"].function(graded, facts).sum(axis=1), expected, atol=1e-12)
    np.testing.assert_allclose(
        TERMS["dcg"].function(graded, facts).sum(axis=1), TERMS["list_dcg"].function(graded, facts), atol=1e-12
    )


def test_equal_truths_count_once_with_their_highest_gain():
    judge = Judge(CATALOG, 3)
    truth = [("Book 1", None), ("BOOK 1", None), ("Lost", None), ("lost", None), ("Book 2", None)]
    lists = judge(judge.read(["book 2\nBook 1"]), [truth], [[]], gains=[[1.0, 3.0, 2.0, 1.0, 5.0]])
    assert lists.n_truth.tolist() == [3]
    assert lists.graded.tolist() == [[3.0, 5.0, 2.0]] and lists.gains.tolist() == [[5.0, 3.0, 0.0]]


def test_the_published_rules_count_each_answer():
    judge = PublishedJudge(Catalog([("Heat", 1995), ("Alien", 1979)]), 2)
    truth = [("Alien", 1979), ("Heat", 1995), ("Heat", 1995)]
    lists = judge(judge.read(["Heat (1995)\nAlien (1979)"]), [truth], [[]], gains=[[2.0, 3.0, 1.0]])
    assert lists.gains.tolist() == [[3.0, 2.0]] and lists.graded.tolist() == [[2.0, 3.0, 1.0]]


GRADED = Record(PROMPT, [("Dune", None), ("Emma", None)], [], "a", gains=(2.0, 0.5))
BINARY = Record(PROMPT, [("Dune", None)], [], "b")


def test_digests_depend_on_gains_only_if_there_are_any():
    assert "gains" not in repr(BINARY) and repr(BINARY).endswith("cluster_id='b')")
    assert repr(GRADED).endswith("gains=(2.0, 0.5))")
    other = replace(GRADED, gains=(2.0, 1.0))
    of = [digests(RankedListDataset("x", CATALOG, {"train": [record]}), False) for record in (GRADED, other)]
    assert of[0] != of[1]
    assert fingerprint({"train": [GRADED]}, CATALOG) != fingerprint({"train": [other]}, CATALOG)


@pytest.mark.parametrize("gains", [(1.0,), (1.0, float("nan")), (1.0, 0.0), (1.0, -2.0), [1.0, 2.0], (1, 2.0)])
def test_bad_gains_are_refused(gains):
    (problem,) = check_records([replace(GRADED, gains=gains)], "here", with_years=False)
    assert problem.startswith("here, row 0: gains ")


def test_gains_survive_the_cache_and_reach_the_trainer(tmp_path):
    records = [GRADED, BINARY]
    write_records(records, tmp_path / "x.arrow", lambda count: None)
    stored = StoredRecords(tmp_path / "x.arrow", StoredPlace(Cache(tmp_path / "cache", print), "x"))
    assert list(stored) == records and stored[0].gains == (2.0, 0.5)
    for rows in (prompt_dataset(records), prompt_dataset(stored)):
        assert [item["gain"] for item in rows[0]["ground_truth"]] == [2.0, 0.5]
        assert rows[1]["ground_truth"][0]["gain"] is None
    write_records([BINARY], tmp_path / "y.arrow", lambda count: None)
    assert "gain" not in prompt_dataset([BINARY])[0]["ground_truth"][0]
