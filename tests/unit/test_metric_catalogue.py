"""The catalogue of metrics: titles of recorded names, and the table in the docs."""

import pytest

from rlbench.lists.metric_catalogue import EVALUATION, METRICS, docs_table, entry_of, inside, metric_of, selectable
from rlbench.training.callbacks import training_metrics
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("recall@5", "Recall@5 (share)"),
        ("published_truncate_first_ndcg@20", "Published NDCG@20, cut first (0 to 1)"),
        ("pass@4", "Pass@4 (share)"),
        ("hits", "Hits per list (items)"),
        ("hits@3", "Lists with a hit at rank 3 (share)"),
        ("hits@k", "Lists with a hit at rank k (share)"),
        ("effective_units", "Effective units (count)"),
        ("term/in_catalog", "Reward term in_catalog per list"),
        ("generated_tokens", "Generated tokens"),
        ("my_plugin@3", "my_plugin@3"),
        ("entropy/x", "entropy/x"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert metric_of(name).label == label


def test_names_that_are_no_metric() -> None:
    assert entry_of("recall") is entry_of("recall@") is entry_of("entropy@3") is entry_of("") is None


def test_titles_inside_a_sentence() -> None:
    assert [inside(text) for text in ("Entropy", "NDCG@10", "KL to it", "")] == ["entropy", "NDCG@10", "KL to it", ""]


def test_titles_are_unique() -> None:
    """Only completion length in training and in greedy evaluation may share a title."""
    titles = [metric.label for name, metric in METRICS.items() if name != "completion_tokens"]
    assert len(titles) == len(set(titles))


def test_metrics_that_may_choose_a_checkpoint() -> None:
    names = selectable([1, 10])
    assert names[:4] == ["recall@1", "recall@10", "ndcg@1", "ndcg@10"] and len(names) == 18
    assert "pass@1" not in names and all(metric_of(name).better == "higher" for name in names)


def test_docs_name_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert docs_table() in page, "stale: put the output of python -m rlbench.lists.metric_catalogue there"
    for metric in EVALUATION:
        stem = metric.name.replace("published_truncate_first_", "..._")
        assert page.count(f"`{metric.name}`") > 1 or f"`{stem}`" in page or metric.name == "loss", metric.name


def test_training_metrics_of_a_log() -> None:
    """Returns our names in the catalogue's order, then ranks, terms and regularisers in the logged order."""
    log = {"reward@2": 3, "step_time": 1.0, "completions/clipped_ratio": 0.5, "term/b": 2, "reward": 1, "term/a": 4}
    assert list(training_metrics(log | {"loss": 0.1}).items()) == [
        ("loss", 0.1), ("reward", 1), ("truncated", 0.5), ("reward@2", 3), ("term/b", 2), ("term/a", 4),
    ]  # fmt: skip
