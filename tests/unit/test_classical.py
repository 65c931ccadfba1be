"""Classical baselines against slow loops, and the runs that they become."""

import importlib.util
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlbench.baselines import scorers
from rlbench.baselines.conversations import Conversations, read_conversations
from rlbench.baselines.recommend import Order, _first, recommend, refusals
from rlbench.config.baselines import BASELINES, check_baselines, expanded
from rlbench.data import load_dataset
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.judging import make_criteria
from rlbench.lists.catalog import Catalog
from rlbench.lists.items import line_of
from rlbench.lists.relevance import Judge
from rlbench.running.checks import check_values
from rlbench.running.classical import baseline_runs, check_on_data, left_out, missing_baselines
from rlbench.running.plan import steps
from rlbench.runs.directory import DONE
from tests.conftest import SMALL, composed

CHOICES = {name: list(one.choices()) for name, one in BASELINES.items()}
# An extra package, which users need for two baselines only. CI has no need of it.
needs_implicit = pytest.mark.skipif(
    importlib.util.find_spec("implicit") is None, reason="pip install -r requirements-baselines.txt"
)


@pytest.fixture(scope="module")
def judge(mini: RankedListDataset) -> Judge:
    return make_criteria(composed(*SMALL).matching, mini, 10).judge


@pytest.fixture(scope="module")
def both(mini: RankedListDataset) -> tuple[Conversations, Conversations]:
    return tuple(read_conversations(mini.splits[split], mini.catalog) for split in ("train", "test"))


def contexts(dataset: RankedListDataset, split: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in dataset.splits[split]:
        found.setdefault(record.context_id, []).append(record)
    return found


def seen_items(record: Record, catalog: Catalog) -> set[int]:
    titles = {title.casefold() for title in record.seen_titles}
    return {i for i, (title, _) in enumerate(catalog.items) if title.casefold() in titles}


def answered(records: list[Record], catalog: Catalog) -> Counter[int]:
    return Counter(catalog.items.index(item) for record in records for item in record.ground_truth)


class Slow:
    """Every baseline as loops over records."""

    def __init__(self, dataset: RankedListDataset):
        self.catalog = dataset.catalog
        self.train = list(contexts(dataset, "train").values())
        self.test = list(contexts(dataset, "test").values())
        self.seen = [seen_items(records[0], self.catalog) for records in self.train]
        self.answers = [answered(records, self.catalog) for records in self.train]
        self.named = [seen | set(truth) for seen, truth in zip(self.seen, self.answers, strict=True)]
        self.items = range(len(self.catalog))

    def popularity(self, choice: Mapping[str, Any], seen: set[int], text: str) -> list[float]:
        return [sum(truth[i] for truth in self.answers) for i in self.items]

    def cooccurrence(self, choice: Mapping[str, Any], seen: set[int], text: str) -> list[float]:
        first, second = (self.seen, self.answers) if choice["pairs"] == "seen_truth" else (self.named, self.named)
        scores = [0.0 for _ in self.items]
        for s in seen:
            count = max(sum(s in one for one in first), 1)
            for one, other in zip(first, second, strict=True):
                for i in set(other) if s in one else ():
                    scores[i] += (choice["pairs"] == "seen_truth" or i != s) / count ** choice["exponent"]
        return scores

    def item_knn(self, choice: Mapping[str, Any], seen: set[int], text: str) -> list[float]:
        n = [sum(i in one for one in self.named) for i in self.items]
        scores = [0.0 for _ in self.items]
        for s in seen:
            similar = {}
            for i in self.items:
                together = sum(s in one and i in one for one in self.named)
                if i != s and together:
                    similar[i] = together / (math.sqrt(n[s] * n[i]) + choice["shrinkage"])
            for i in sorted(similar, key=lambda i: (-similar[i], i))[: choice["neighbours"]]:
                scores[i] += similar[i]
        return scores

    def ease(self, choice: Mapping[str, Any], seen: set[int], text: str) -> list[float]:
        """Column i of B minimises |X_i - X b|^2 + ridge |b|^2 with b_i = 0, solved for each item alone."""
        x = np.array([[float(i in one) for i in self.items] for one in self.named])
        asked = np.array([float(i in seen) for i in self.items])
        scores = []
        for i in self.items:
            rest = np.delete(np.arange(len(self.items)), i)
            a = x[:, rest].T @ x[:, rest] + choice["ridge"] * np.eye(len(rest))
            scores.append(float(asked[rest] @ np.linalg.solve(a, x[:, rest].T @ x[:, i])))
        return scores

    def bm25(self, choice: Mapping[str, Any], seen: set[int], text: str) -> list[float]:
        documents = [words_of(records[0].prompt[0]["content"]) for records in self.train]
        average = sum(map(len, documents)) / len(documents)
        similar = []
        for document in documents:
            counts, score = Counter(document), 0.0
            for word in words_of(text):
                holding = sum(word in other for other in documents)
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                length = 1.5 * (1 - 0.75 + 0.75 * len(document) / average)
                score += idf * counts[word] / (counts[word] + length)
            similar.append(score)
        return self.votes(choice, similar)

    def votes(self, choice: Mapping[str, Any], similar: list[float]) -> list[float]:
        nearest = sorted((row for row, one in enumerate(similar) if one > 0), key=lambda row: (-similar[row], row))
        scores = [0.0 for _ in self.items]
        for row in nearest[: choice["neighbours"]]:
            for i, count in self.answers[row].items():
                scores[i] += similar[row] ** choice["power"] * count
        return scores


def words_of(text: str) -> list[str]:
    return re.findall(r"\b\w\w+\b", text.lower())


def cases() -> Iterator[Any]:
    for name in ("popularity", "cooccurrence", "item_knn", "ease", "bm25"):
        picked = CHOICES[name] if name == "cooccurrence" else [*CHOICES[name][:1], *CHOICES[name][-1:]]
        yield from (pytest.param(name, choice, id=f"{name}-{choice}") for choice in picked)


@pytest.mark.parametrize(("name", "choice"), list(cases()))
def test_scores_equal_those_of_loops(name: str, choice: dict, mini: RankedListDataset, both: Any) -> None:
    slow, (train, queries) = Slow(mini), both
    found = scorers.SCORERS[name](train, queries)(choice, slice(0, 3))
    for row, records in zip(found, slow.test, strict=False):
        seen, text = seen_items(records[0], mini.catalog), records[0].prompt[0]["content"]
        np.testing.assert_allclose(row, getattr(slow, name)(choice, seen, text), rtol=1e-5, atol=1e-8)


def letters(texts: Any) -> np.ndarray:
    """Texts to the shares of their letters, as vectors of length 1."""
    counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_votes_of_sentence_vectors_equal_those_of_loops(mini: RankedListDataset, both: Any) -> None:
    slow, (train, queries) = Slow(mini), both
    for choice in ({"neighbours": 3, "power": 4}, {"neighbours": 1000, "power": 0}):
        found = scorers.minilm(train, queries, letters)(choice, slice(0, 3))
        known = letters([records[0].prompt[0]["content"] for records in slow.train])
        for row, records in zip(found, slow.test, strict=False):
            similar = (known @ letters([records[0].prompt[0]["content"]])[0]).astype(float).tolist()
            np.testing.assert_allclose(row, slow.votes(choice, similar), rtol=1e-4)


@needs_implicit
def test_item_knn_without_shrinkage_is_that_of_implicit(both: Any) -> None:
    from implicit.nearest_neighbours import CosineRecommender
    from scipy.sparse import csr_matrix

    train, queries = both
    model = CosineRecommender(K=len(train.counts))
    model.fit(csr_matrix(train.named), show_progress=False)
    similar = model.similarity.toarray()
    np.fill_diagonal(similar, 0.0)
    found = scorers.item_knn(train, queries)({"neighbours": 1000, "shrinkage": 0}, slice(None))
    np.testing.assert_allclose(found, queries.seen.toarray() @ similar, rtol=1e-6, atol=1e-9)


@needs_implicit
def test_bpr_repeats_itself_and_scores_by_factors(mini: RankedListDataset, judge: Judge, both: Any) -> None:
    train, queries = both
    first, again = (scorers.bpr(train, queries)(CHOICES["bpr"][0], slice(None)) for _ in range(2))
    assert first.tobytes() == again.tobytes() and np.isfinite(first).all()
    train_scores = scorers.bpr(train, train)(CHOICES["bpr"][0], slice(None))
    named = train.answers.toarray() > 0  # known pairs score above others
    assert train_scores[named].mean() > train_scores[~named].mean() + 0.1


def test_lists_leave_out_what_is_seen_and_order_ties_by_popularity(mini: RankedListDataset, judge: Judge) -> None:
    made = recommend("cooccurrence", mini.splits["train"], {"validation": mini.splits["validation"]}, judge, 10)
    slow, counts = Slow(mini), Slow(mini).popularity({}, set(), "")
    for context, records in contexts(mini, "validation").items():
        seen = seen_items(records[0], mini.catalog)
        scores = slow.cooccurrence(made.tuning["chosen"], seen, "")
        order = sorted((i for i in slow.items if i not in seen), key=lambda i: (-round(scores[i], 9), -counts[i], i))
        assert made.lists["validation"][context] == [mini.catalog.items[i] for i in order[:10]]


def test_an_item_that_equals_an_earlier_one_is_recommended_once() -> None:
    items = [("Heat", 1995), ("HEAT", 1995), ("Alien", 1979), ("Alien", 1986)]
    judge = Judge(Catalog(items), 4)
    asked = [{"role": "user", "content": "what now?"}]
    train = [Record(asked, [("Heat", 1995), ("Alien", 1986)], [], "a"), Record(asked, [("Alien", 1986)], [], "a")]
    known = read_conversations(train, judge.catalog)
    assert known.counts.tolist() == [1, 0, 0, 2]
    queries = read_conversations(
        [Record(asked, [("Heat", 1995)], ["alien"], "b"), Record(asked, [("Heat", 1995)], [], "c")], judge.catalog
    )
    lists = Order(known, judge).lists(scorers.popularity(known, queries), {}, queries)
    assert lists == {"b": [("Heat", 1995)], "c": [("Alien", 1986), ("Heat", 1995), ("Alien", 1979)]}


def test_the_first_of_equal_scores_is_chosen() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (200, 30)).astype(float)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    scores[:3] = -np.inf
    for n in (1, 5, 29, 30, 40):
        assert (_first(scores, n) == np.argsort(-scores, axis=1, kind="stable")[:, :n]).all()


def test_settings_are_chosen_on_validation_alone(mini: RankedListDataset, judge: Judge) -> None:
    splits = {split: mini.splits[split] for split in ("validation", "test")}
    made = recommend("item_knn", mini.splits["train"], splits, judge, 10)
    swapped = recommend("item_knn", mini.splits["train"], {**splits, "test": splits["test"][:3]}, judge, 10)
    assert made.tuning == swapped.tuning
    tried = made.tuning["tried"]
    assert [{k: v for k, v in one.items() if k != "value"} for one in tried] == CHOICES["item_knn"]
    best = max(tried, key=lambda one: one["value"])
    assert made.tuning["chosen"] == {key: best[key] for key in made.tuning["chosen"]}


def test_the_grids_are_products() -> None:
    for one in BASELINES.values():
        wanted = [dict(zip(one.grid, values, strict=True)) for values in product(*one.grid.values())]
        assert list(one.choices()) == wanted


def test_data_without_seen_items_leave_out_what_needs_them(mini: RankedListDataset) -> None:
    def unseen(records: Any) -> list[Record]:
        return [Record(record.prompt, record.ground_truth, [], record.context_id) for record in records]

    dataset = RankedListDataset("bare", mini.catalog, {split: unseen(mini.splits[split]) for split in mini.splits})
    assert refusals(mini, mini.catalog) == {}
    assert list(refusals(dataset, mini.catalog)) == ["cooccurrence", "item_knn", "ease", "bpr"]
    config = composed(*SMALL, "baselines=[default,ease]")
    assert [said.split(":")[0] for said in left_out(config, dataset)] == [
        "no baseline cooccurrence", "no baseline item_knn",
    ]  # fmt: skip
    assert check_on_data(config, dataset) == [
        "the baseline ease cannot run on bare: no conversation of validation names an item of the catalogue. Leave it "
        "out of baselines"
    ]


def test_unknown_and_repeated_names_are_refused() -> None:
    said = check_values(composed(*SMALL, "baselines=[bm52,default,default]"))
    assert [problem.split(";")[0] for problem in said] == [
        "baselines contains 'bm52', which is unknown", "baselines contains 'default' twice",
    ]  # fmt: skip
    assert "bm25" in said[0]
    assert expanded(["ease", "default"]) == ["popularity", "cooccurrence", "item_knn", "ease", "bm25"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (said,) = check_baselines(["bpr", "popularity"])
    assert said.startswith("the baseline bpr needs implicit, which is not installed; run python -m pip install -r")


def test_the_plan_lists_them_last(tmp_path: Path) -> None:
    config = composed(*SMALL, f"runs_dir={tmp_path}", "baselines=[bm25,popularity]")
    assert [step.run.label for step in steps([config])][-2:] == ["popularity", "bm25"]
    assert [run.hash for run in baseline_runs(config)] == [step.run.hash for step in steps([config])][-2:]


def test_finished_cells_without_baselines_get_them(tmp_path: Path) -> None:
    """An earlier version made the cells, or the baselines were off."""
    from rlbench.running.runner import run

    small = [*SMALL, f"runs_dir={tmp_path}", "stage=zero_shot"]
    before, after = composed(*small), composed(*small, "baselines=[default]")
    run(before)
    assert missing_baselines([before]) == [] and missing_baselines([after, after]) == [after]
    run(after)
    assert missing_baselines([after]) == []
    mini = load_dataset(after.dataset)  # from the generator, while the runs read it from the data cache
    judge, splits = make_criteria(after.matching, mini, 10).judge, {s: mini.splits[s] for s in ("validation", "test")}
    for made in baseline_runs(after):
        wanted = recommend(made.label, mini.splits["train"], splits, judge, 10).lists["test"]
        predictions = pd.read_parquet(made.root / "predictions-test-0.parquet").set_index("context_id")
        assert predictions["text"].to_dict() == {
            context: "\n".join(line_of(*item) for item in items) for context, items in wanted.items()
        }
        result = json.loads((made.root / "result.json").read_text())
        assert made.status() == DONE and result["stage"] == "baseline" and result["label"] == made.label
        tuning = result.get("tuning")
        if tuning is not None:  # the same metric by the evaluation of all runs
            best = max(one["value"] for one in tuning["tried"])
            assert result["metrics"]["validation"][tuning["metric"]] == pytest.approx(best, abs=1e-12)
        assert result["metrics"]["test"]["in_catalog"] == 1 and result["metrics"]["test"]["seen"] == 0
