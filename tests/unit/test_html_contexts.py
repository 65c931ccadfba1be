"""The comparison of two rows by context, against slow methods."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.collection import Collection, collect
from analysis.html import contexts
from analysis.html.contexts import LETTERS, STEPS, context_data, context_scores, known_contexts, letters, read_lists
from analysis.html.rows import looks
from analysis.html.samples import sample_data
from rlbench.base.errors import BadInput
from tests.helpers_analysis import queries, write_run

NAMES = ["a", "a", "b", "c"]
"""Context of each test sample."""
COLUMNS = ("recall@5", "recall@10", "ndcg@5", "in_catalog")
SCORES = {"sft": [[0.0, 0.4, 0.1, 0.2]], "grpo-dcg": [[0.2, 0.4, 0.9, 0.2], [0.4, 0.8, 0.7, 0.2]]}


def predictions(scores: list[float], titles: list[list[str]], verdicts: list[list[str]]) -> pd.DataFrame:
    frame = queries(dict.fromkeys(COLUMNS, scores) | {"ndcg@10": scores}, NAMES, n_truth=2)
    return frame.assign(titles=titles, verdicts=verdicts, years=[[1995] * len(one) for one in titles])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Context a has two samples, of which each finds another title; c has no list."""
    folder = tmp_path_factory.mktemp("contexts") / "runs"
    titles = [["Heat", "Ran", "Heat"]] * 2 + [["Alien"], []]
    verdicts = [["hit", "miss", "duplicate"], ["miss", "hit", "duplicate"], ["hit"], []]
    for label, of_seeds in SCORES.items():
        for seed, scores in enumerate(of_seeds):
            listed = titles if label == "sft" else [["Ran"], ["Ran"], ["Heat"], ["Big"]]
            judged = verdicts if label == "sft" else [["hit"], ["miss"], ["miss"], ["hit"]]
            write_run(folder, label, seed, predictions(scores, listed, judged))
    return folder


def group_of(runs: Path) -> Collection:
    (group,) = collect(runs).groups()
    return group


def test_a_score_is_the_mean_over_samples_of_a_context_and_seeds(runs: Path) -> None:
    group = group_of(runs)
    names, scores, samples = context_scores(group, looks(group), "ndcg@10")
    assert names == ["a", "b", "c"] and samples.tolist() == [2, 1, 1]
    np.testing.assert_allclose(scores, [[0.2, 0.1, 0.2], [0.45, 0.8, 0.2]])


def test_scores_are_stored_within_half_a_step() -> None:
    shares = np.concatenate([np.random.default_rng(0).random(500), [0.0, 1.0]])
    text = letters(shares)
    read = [64 * LETTERS.index(a) + LETTERS.index(b) for a, b in zip(text[::2], text[1::2], strict=True)]
    assert np.abs(np.array(read) / STEPS - shares).max() <= 0.5 / STEPS + 1e-12


def test_lists_join_the_verdicts_of_a_context_and_truth_is_what_any_row_hit(runs: Path) -> None:
    group = group_of(runs)
    lists = context_data(group, looks(group), runs, "ndcg@10", {"c": ("which?", ["Big (1995)", "Jaws (1975)"])})[
        "lists"
    ]

    def shown(context: str, row: int) -> list[tuple[str, str]]:
        codes = lists["rows"][lists["contexts"].index("abc".index(context))][row]
        pairs = (divmod(code, len(lists["verdicts"])) for code in codes)
        return [(lists["titles"][title], lists["verdicts"][verdict]) for title, verdict in pairs]

    assert shown("a", 0) == [("Heat (1995)", "hit"), ("Ran (1995)", "hit"), ("Heat (1995)", "duplicate")]
    assert shown("a", 1) == [("Ran (1995)", "hit")] and shown("b", 1) == [("Heat (1995)", "miss")]
    assert shown("c", 0) == []
    at = {context: lists["contexts"].index(i) for i, context in enumerate("abc")}
    truth = {context: [lists["titles"][title] for title in lists["truth"][i]] for context, i in at.items()}
    assert truth == {"a": ["Heat (1995)", "Ran (1995)"], "b": ["Alien (1995)"], "c": ["Big (1995)", "Jaws (1975)"]}
    assert [lists["open"][at[context]] for context in "abc"] == [None, 1, 0]
    assert [lists["prompts"][at[context]] for context in "abc"] == ["", "", "which?"]


def test_lists_are_of_the_contexts_in_which_rows_differ_most(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of(runs)
    monkeypatch.setattr(contexts, "BYTES", 40)
    data = context_data(group, looks(group), runs, "ndcg@10", {})
    assert data["names"] == ["a", "b", "c"] and data["lists"]["contexts"] == [1]
    assert data["told"] == ["lists are stored for one context, where trained rows differ most"]
    monkeypatch.setattr(contexts, "CONTEXTS", 2)
    assert context_data(group, looks(group), runs, "ndcg@10", {})["names"] == ["a", "c"]


def test_a_run_without_lists_is_named_and_the_others_are_shown(runs: Path, tmp_path: Path) -> None:
    group = group_of(runs)
    assert "not at" in context_data(group, looks(group), tmp_path / "gone", "ndcg@10", {})["told"][0]
    file = tmp_path / "predictions-test-0.parquet"
    predictions(SCORES["sft"][0], [["x"]] * 4, [["hit"]] * 4).drop(columns="years").to_parquet(file)
    with pytest.raises(BadInput, match="has no column years: restore it"):
        read_lists(tmp_path, file.name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/link.parquet").symlink_to(file)
    with pytest.raises(BadInput, match="leads out of the run"):
        read_lists(tmp_path / "run", "link.parquet")


def test_prompts_and_truth_come_from_the_samples_of_the_test_split(runs: Path) -> None:
    group = group_of(runs)
    assert known_contexts(sample_data(looks(group), runs)) == {}
    context = {"id": "a", "split": "test", "prompt": "which?", "relevant": [1]}
    samples = {"titles": ["Heat", "Ran"], "contexts": [context, context | {"id": "b", "split": "validation"}]}
    assert known_contexts(samples) == {"a": ("which?", ["Ran"])}
