"""`rlbench.parse` and `rlbench.metrics`: the numbers of runs, and errors that name the argument."""

import random
import subprocess
import sys

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, Success, nDCG

import rlbench
from rlbench.api.arguments import UnknownArgument
from rlbench.evaluation.given import judge_texts
from rlbench.evaluation.judging import make_criteria
from rlbench.lists.items import line_of
from tests.conftest import composed
from tests.helpers import ROOT

CHAT = "Sure! Here are some films:\n1. Heat (1995)\nA heist film.\n2. **Alien** (1979) - in space\n3. Up (2009)"


def test_import_is_light_and_lists_need_no_torch():
    code = (
        "import sys, rlbench; dir(rlbench)\n"
        "heavy = ('torch', 'numpy', 'pandas', 'hydra', 'matplotlib')\n"
        "assert not [name for name in heavy if name in sys.modules], sys.modules.keys()\n"
        "rlbench.metrics([['a']], [['a']]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_name_is_there():
    assert all(getattr(rlbench, name) is not None for name in rlbench.__all__)
    assert set(rlbench.__all__) <= set(dir(rlbench))
    with pytest.raises(AttributeError, match="no name 'metrix'. Did you mean 'metrics'?"):
        _ = rlbench.metrix


def test_parse_says_what_it_drops():
    found = rlbench.parse(CHAT, n=2)
    assert found.items == [("Heat", 1995), ("Alien", 1979)] and found.lines == [1, 3]
    assert [(one.line, one.reason) for one in found.dropped] == [
        (0, "not an entry"),
        (2, "not an entry"),
        (4, "past rank 2"),
    ]
    assert rlbench.parse(CHAT).items[2] == ("Up", 2009)
    assert rlbench.parse("").items == []


def test_parse_reads_titles_and_a_catalogue():
    titles = "{title}"
    assert rlbench.parse("1. Dune\n\n2. Fast", line_format=titles).items == [("Dune", None), ("Fast", None)]
    assert rlbench.parse("2. Fast", line_format=titles, catalog=["2. Fast", "Dune"]).items == [("2. Fast", None)]
    assert rlbench.parse("2. Fast", line_format=titles, catalog=[("2. Fast", None)]).dropped == []


@pytest.fixture(scope="module")
def answered(mini):
    """Records of mini's test split, and a text for each context: hits, misses, repeats, seen films and chat."""
    draw = random.Random(3)
    records = list(mini.splits["test"])
    texts = {}
    for record in records:
        named = [film for film in mini.catalog.items if film[0] in record.seen_titles]
        films = [*record.ground_truth, *named[:1], *draw.sample(mini.catalog.items, 8)]
        draw.shuffle(films)
        lines = [line_of(*film) for film in films]
        texts[record.context_id] = "\n".join(
            ["Here is a list:", *lines[:4], lines[0], "Unknown Film (2031)", *lines[4:]]
        )
    return records, texts


def test_metrics_are_those_of_a_run(mini, answered):
    records, texts = answered
    config = composed()
    criteria = make_criteria(config.matching, mini, 10)
    predictions, means = judge_texts(records, texts, criteria, [5, 10])
    found = rlbench.metrics(
        [texts[record.context_id] for record in records],
        [record.ground_truth for record in records],
        catalog=mini.catalog.items,
        cutoffs=[5, 10],
        seen=[record.seen_titles for record in records],
    )
    shared = [name for name in found.per_list.columns if name not in ("verdicts", "n_truth")]
    assert {"recall@5", "ndcg@10", "in_catalog", "seen", "published_ndcg@10"} <= set(shared)
    for name in shared:
        assert (found.per_list[name].to_numpy() == predictions[name].to_numpy()).all(), name
    assert found.per_list["verdicts"].tolist() == predictions["verdicts"].tolist()
    # coverage and gini count each context's list once; here each list is a query of its own.
    same = [name for name in found if name not in ("coverage", "gini")]
    assert {name: found[name] for name in same} == {name: means[name] for name in same}
    assert found["ndcg@10"] > 0 and found["seen"] > 0


def test_metrics_agree_with_ir_measures():
    draw = random.Random(5)
    lists, truth, qrels, run = {}, {}, [], []
    for query in map(str, range(25)):
        lists[query] = [(f"Film {i}", 1990 + i) for i in draw.sample(range(30), 12)]
        relevant = draw.sample(range(30), draw.randint(1, 6))
        truth[query] = [f"film {i} ({1990 + i})" for i in relevant]
        qrels += [ir_measures.Qrel(query, f"film {i}", 1) for i in relevant]
        run += [ir_measures.ScoredDoc(query, title.lower(), -rank) for rank, (title, _) in enumerate(lists[query])]
    found = rlbench.metrics(lists, truth, cutoffs=[3, 10])
    assert "in_catalog" not in found and "published_ndcg@10" not in found
    for name, measure in (("recall", R), ("ndcg", nDCG), ("hit_rate", Success), ("mrr", RR)):
        for k in (3, 10):
            values = {one.query_id: one.value for one in ir_measures.iter_calc([measure @ k], qrels, run)}
            np.testing.assert_allclose(
                found.per_list[f"{name}@{k}"], [values[query] for query in found.per_list.index], atol=1e-12
            )
            assert found[f"{name}@{k}"] == pytest.approx(np.mean(list(values.values())))


def test_graded_truths_weigh_ndcg():
    even = rlbench.metrics([["a", "b"]], [["b", "a"]], cutoffs=[2])
    graded = rlbench.metrics([["a", "b"]], [["b", "a"]], gains=[[3, 1]], cutoffs=[2])
    assert even["ndcg@2"] == 1 and graded["ndcg@2"] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert graded["recall@2"] == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: rlbench.metrics([["a"]], [["a"]], cutofs=[1]),
            "metrics has no argument 'cutofs'. Did you mean 'cutoffs'?",
        ),
        (
            lambda: rlbench.parse("a", lineformat="{title}"),
            "parse has no argument 'lineformat'. Did you mean 'line_format'?",
        ),
        (
            lambda: rlbench.metrics([["a"]], [["a"]], matching="fuzy"),
            "matching = 'fuzy' is unknown; .*Did you mean 'fuzzy'?",
        ),
        (lambda: rlbench.metrics([["a"]], [["a"]], cutoffs=[5, 0]), "cutoffs = .* 0 is not"),
        (lambda: rlbench.metrics([["a"]], [["a"]], n=0), "n = 0 must be"),
        (lambda: rlbench.metrics([["a"]], [[]]), r"truth\[0\] is empty"),
        (lambda: rlbench.metrics([], []), "lists is empty"),
        (lambda: rlbench.metrics("a", [["a"]]), "lists = 'a' must be a sequence of lists"),
        (lambda: rlbench.metrics([["a"]], [["a"], ["b"]]), "truth has 2 entries, but there are 1 lists"),
        (lambda: rlbench.metrics({"q": ["a"]}, {"p": ["a"]}), "lists has no 'p'|truth has no 'q'"),
        (lambda: rlbench.metrics({"q": ["a"]}, [["a"]]), "truth must be a mapping, as lists is"),
        (lambda: rlbench.metrics([["a (1990)", 3]], [["a (1990)"]]), r"lists\[0\]\[1\] = 3 is not 'Title \(Year\)'"),
        (lambda: rlbench.metrics([["a"]], [["a"]], gains=[[0]]), r"gains\[0\] must hold finite numbers above 0"),
        (lambda: rlbench.metrics([["a"]], [["a"]], gains=[[1, 2]]), r"gains\[0\] has 2 numbers"),
        (lambda: rlbench.metrics([["a"]], [["a"]], seen=["a"]), r"seen\[0\] = 'a' must be a sequence"),
        (lambda: rlbench.metrics([["a"]], [["a"]], catalog=[]), "catalog is empty"),
        (lambda: rlbench.parse(3), "text = 3 must be a text"),
        *(
            (
                lambda one=one: rlbench.metrics([one], [["a"]]),
                rf"lists\[0\] = .* is a {kind}, and its order counts; give",
            )
            for one, kind in (
                ({"a", "b"}, "set"),
                (frozenset("ab"), "frozenset"),
                ({"a": 1}, "dict"),
                ({"a": 1}.keys(), "dict_keys"),
                ({1: "a"}.values(), "dict_values"),
                ((one for one in "ab"), "generator"),
            )
        ),
        (lambda: rlbench.metrics([["a"]], {"a"}), "truth = {'a'} is a set, and its order counts"),
        (lambda: rlbench.metrics([["a"]], 3), "truth must be a sequence, as lists is"),
        (lambda: rlbench.metrics([["a"]], [3]), r"truth\[0\] = 3 must be a sequence of items"),
        (lambda: rlbench.metrics([["a"]], [{"a": 2}]), r"truth\[0\] = {'a': 2} must be a sequence of items"),
        (lambda: rlbench.metrics([["a"]], [["a"]], seen=[{"a": 2}]), r"seen\[0\] = {'a': 2} must be a sequence"),
        (lambda: rlbench.metrics([["a"]], [["a", "b"]], gains=[{1, 2}]), r"gains\[0\] = {1, 2} is a set"),
        (lambda: rlbench.metrics([["a"]], [{"a", "b"}], gains=[[1, 2]]), r"truth\[0\] = .* is a set"),
        (lambda: rlbench.metrics([["a"]], [["a"]], cutoffs={5, 10}), "cutoffs = .* must be a sequence"),
        (
            lambda: rlbench.metrics([["Heat (1995)"], "1. Up (2009)"], [["Heat"], ["Up (2009)"]]),
            r"truth has items without years, such as 'Heat', but every item of lists has one, such as 'Heat \(1995\)'",
        ),
        (lambda: rlbench.parse("a", n=0), "n = 0 must be"),
    ],
)
def test_errors_name_the_argument(call, said):
    with pytest.raises(rlbench.BadInput, match=said):
        call()


def test_what_has_no_order_may_be_a_set_or_a_generator():
    lists, truth = [["Heat (1995)", "Up (2009)"]], ["Up (2009)", "Ran (1985)"]
    usual = rlbench.metrics(lists, [truth], seen=[["Up"]], catalog=[*lists[0], *truth])
    for kind in (set, frozenset, iter, tuple):
        assert rlbench.metrics(lists, [kind(truth)], seen=[kind(["Up"])], catalog=kind([*lists[0], *truth])) == usual


def test_titles_may_look_like_years():
    """Where the truth has them too, or the lists have others, or the caller says so."""
    for lists, truth, more in (
        (["Heat (1995)"], ["Heat (1995)", ("Ran", None)], {"line_format": "{title}"}),
        (["Heat (1995)", "Ran"], ["Heat (1995)", "Up"], {}),
        ([("Heat (1995)", None)], ["Heat (1995)", "Up"], {}),
    ):
        assert rlbench.metrics([lists], [truth], **more)["recall@5"] == 0.5


def test_all_problems_come_together():
    with pytest.raises(rlbench.BadInput) as error:
        rlbench.metrics([["a (1990)"], [3]], [["a (1990)"], []], gains=[[1], [1]])
    assert len(error.value.problems) == 3


def test_an_unknown_argument_is_a_type_error_too():
    with pytest.raises(TypeError) as error:
        rlbench.metrics([["a"]], [["a"]], cutofs=[1])
    assert isinstance(error.value, UnknownArgument)


def test_an_unknown_metric_gives_the_nearest():
    with pytest.raises(KeyError, match="Did you mean 'recall@5'?"):
        _ = rlbench.metrics([["a"]], [["a"]])["recal@5"]
