"""mini's simulated teacher, and what the steps of Stage 1 turn its lists into."""

import math

import numpy as np
import pytest

from rlbench.base.errors import BadInput
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from rlbench.data.stage1.scores import STEPS
from rlbench.lists.entries import parse_text
from tests.conftest import composed

SIZE = ["dataset.contexts={train:400,validation:200,test:6}", "dataset.demonstrations=400"]


@pytest.fixture(scope="module")
def datasets():
    return {s: load_dataset(composed(*SIZE, f"dataset.demonstrations_from={s}").dataset) for s in ("noisy", *STEPS)}


def films_of(record) -> list:
    return list(parse_text(record.completion[0]["content"]).items)


def ndcg(dataset, split: str) -> float:
    """Mean NDCG@10 of the demonstrations against each answerer's truth."""
    truths: dict[str, list[set]] = {}
    for record in dataset.splits["train" if split == "sft" else split]:
        truths.setdefault(record.context_id, []).append(set(record.ground_truth))
    values = []
    for record in dataset.splits[split]:
        for truth in truths[record.context_id] if record.completion else ():
            gains = [1 / math.log2(k + 2) for k, film in enumerate(films_of(record)) if film in truth]
            values.append(sum(gains) / sum(1 / math.log2(k + 2) for k in range(min(len(truth), 10))))
    return float(np.mean(values))


def test_only_demonstrations_differ(datasets):
    plain = datasets["noisy"]
    assert all(record.completion is None for record in plain.splits["validation"])
    for source, data in datasets.items():
        assert data.splits["train"] == plain.splits["train"] and data.splits["test"] == plain.splits["test"]
        assert data.oracle == plain.oracle and check_dataset(data, 10) == []
        for ours, theirs in zip(data.splits["sft"], plain.splits["sft"], strict=True):
            assert (ours.prompt, ours.context_id) == (theirs.prompt, theirs.context_id)
        contexts = {record.context_id for record in data.splits["validation"]}
        shown = [record for record in data.splits["validation"] if record.completion]
        assert len(shown) == (0 if source == "noisy" else len(contexts))


def test_lists_are_whole_and_repeat_nothing(datasets):
    for source in STEPS:
        for record in datasets[source].splits["sft"]:
            films = films_of(record)
            assert len(films) == 10 == len(set(films))
            if source != "teacher":
                assert not {title for title, _ in films} & set(record.seen_titles)


def test_the_teacher_does_not_know_the_catalogue(datasets):
    catalog = set(datasets["teacher"].catalog.items)
    inside = {s: np.mean([f in catalog for r in datasets[s].splits["sft"] for f in films_of(r)]) for s in STEPS}
    assert 0.65 < inside.pop("teacher") < 0.75 and set(inside.values()) == {1.0}


def test_steps_make_demonstrations_better_on_contexts_that_nothing_was_fitted_to(datasets):
    found = {source: ndcg(datasets[source], "validation") for source in STEPS}
    assert found["teacher"] + 0.05 < found["remap"] < min(found["remap_reflect"], found["remap_reflect_adjust"])


def test_the_same_every_time_and_another_with_another_seed():
    def fingerprint(*more: str) -> str:
        small = ["dataset.contexts={train:20,validation:3,test:3}", "dataset.demonstrations=30"]
        return load_dataset(composed(*small, "dataset.demonstrations_from=remap_adjust", *more).dataset).fingerprint

    assert fingerprint() == fingerprint() != fingerprint("dataset.seed=8")


def test_an_unknown_source_is_refused():
    with pytest.raises(BadInput, match="'remaped' is unknown.*Did you mean 'remap'"):
        load_dataset(composed("dataset.demonstrations_from=remaped").dataset)
