"""Checks of the canonical record and of whole datasets."""

from dataclasses import replace
from typing import Any

import pytest

from rlbench.data.checks import check_dataset, check_records, digests, fingerprint, report, share_outside_catalog
from rlbench.data.record import RankedListDataset, Record
from rlbench.lists.catalog import Catalog

GOOD = Record([{"role": "user", "content": "films?"}], [("Heat", 1995)], ["Alien"], "a")
ANSWER = [{"role": "assistant", "content": "Heat (1995)"}]
FILMS = Catalog([("Heat", 1995), ("Alien", 1979), ("Jaws", 1975)])


def dataset(**splits: Any) -> RankedListDataset:
    parts = {
        "sft": [replace(GOOD, completion=ANSWER)],
        "train": [GOOD],
        "validation": [replace(GOOD, context_id="b")],
        "test": [replace(GOOD, context_id="c"), replace(GOOD, context_id="c", ground_truth=[("Jaws", 1975)])],
    }
    return RankedListDataset("toy", FILMS, {**parts, **splits})


def test_good_data_have_no_problems() -> None:
    assert check_records([GOOD, replace(GOOD, completion=ANSWER), replace(GOOD, seen_titles=[])], "x") == []
    assert check_dataset(dataset(), 3) == []


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("prompt", None, "prompt is missing or empty"),
        ("prompt", [], "prompt is missing or empty"),
        ("prompt", "films?", "prompt is not a list of {role: str, content: str}: 'films?'"),
        ("prompt", [{"role": "user"}], "prompt is not a list of {role"),
        ("prompt", [{"role": "user", "content": 3}], "prompt is not a list of {role"),
        ("prompt", [{"role": "user", "content": " \n"}], "prompt has no non-empty message with role 'user'"),
        ("prompt", [{"role": "system", "content": "x"}], "prompt has no non-empty message with role 'user'"),
        ("ground_truth", [], "ground_truth is missing or empty"),
        ("ground_truth", None, "ground_truth is missing or empty"),
        ("ground_truth", "Heat", "ground_truth is not a list of (title, year): 'Heat'"),
        ("ground_truth", ["Heat"], "ground_truth has an entry that is not (title, year): 'Heat'"),
        ("ground_truth", [("Heat", 1995, 1)], "ground_truth has an entry that is not (title, year)"),
        ("ground_truth", [("", 1995)], "ground_truth has a title that is empty or not text"),
        ("ground_truth", [(None, 1995)], "ground_truth has a title that is empty or not text"),
        ("ground_truth", [("Heat", "1995")], "ground_truth has a year that is not an integer: ('Heat', '1995')"),
        ("ground_truth", [("Heat", True)], "ground_truth has a year that is not an integer"),
        ("ground_truth", [("Heat", 1995.0)], "ground_truth has a year that is not an integer"),
        ("seen_titles", None, "seen_titles is not a list of str: None"),
        ("seen_titles", "Heat", "seen_titles is not a list of str"),
        ("seen_titles", [("Heat", 1995)], "seen_titles is not a list of str"),
        ("context_id", "", "context_id is missing or empty"),
        ("context_id", None, "context_id is missing or empty"),
        ("cluster_id", None, "cluster_id is missing or empty"),
        ("cluster_id", 7, "cluster_id is missing or empty: 7"),
        ("completion", [], "completion is missing or empty"),
        ("completion", "Heat (1995)", "completion is not a list of {role"),
        ("completion", [{"role": "user", "content": "x"}], "completion has no non-empty message with role 'assistant'"),
    ],
)
def test_a_bad_field_is_named_with_row_and_reason(field: str, value: object, reason: str) -> None:
    (problem,) = check_records([GOOD, replace(GOOD, **{field: value})], "test.jsonl")
    assert problem.startswith(f"test.jsonl, row 1: {reason}")


def test_all_problems_come_at_once_and_examples_are_few() -> None:
    bad = replace(GOOD, prompt=[], ground_truth=[("", "x")])
    problems = check_records([bad] * 12, "f")
    assert len(problems) == 3 * (5 + 1)
    assert "f: 7 more: prompt is missing or empty" in problems


def test_report_names_the_unit() -> None:
    assert report("f", [(3, "kind", "detail"), (4, "other", "")], "line") == [
        "f, line 3: kind: detail",
        "f, line 4: other",
    ]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_empty_and_missing_splits(split: str) -> None:
    assert check_dataset(dataset(**{split: []}), 3) == [f"dataset toy: split '{split}' is empty"]
    whole = dataset()
    lacking = replace(whole, splits={name: part for name, part in whole.splits.items() if name != split})
    assert check_dataset(lacking, 3) == [f"dataset toy: split '{split}' is missing"]


def test_demonstrations_may_be_absent_but_not_without_completion() -> None:
    whole = dataset()
    assert check_dataset(replace(whole, splits={k: v for k, v in whole.splits.items() if k != "sft"}), 3) == []
    (problem,) = check_dataset(dataset(sft=[GOOD]), 3)
    assert problem == "dataset toy, split 'sft', row 0: the demonstration has no completion"


def test_n_larger_than_the_catalogue() -> None:
    (problem,) = check_dataset(dataset(), 4)
    assert "dataset.list_length = 4" in problem
    assert "more than the 3 films of the catalogue" in problem


def test_unknown_split() -> None:
    (problem,) = check_dataset(dataset(dev=[replace(GOOD, context_id="d")]), 3)
    assert "split 'dev' is unknown" in problem


@pytest.mark.parametrize(("source", "target"), [("train", "test"), ("sft", "validation"), ("validation", "test")])
def test_a_context_of_training_in_evaluation_is_a_leak(source: str, target: str) -> None:
    leaked = replace(dataset().splits[source][0], completion=None)
    (problem,) = check_dataset(dataset(**{target: [leaked]}), 3)
    assert f"are also in '{target}'" in problem
    assert leaked.context_id in problem


def test_a_context_id_with_two_prompts() -> None:
    other = replace(GOOD, prompt=[{"role": "user", "content": "other"}])
    (problem,) = check_dataset(dataset(train=[GOOD, other]), 3)
    assert problem == "dataset toy, row 1: split 'train': this context_id is also used for another prompt: a"


def test_a_record_is_its_own_cluster_unless_told_otherwise() -> None:
    assert GOOD.cluster_id == GOOD.context_id == "a"
    told = Record(GOOD.prompt, GOOD.ground_truth, GOOD.seen_titles, "a", cluster_id="dialogue")
    assert (told.context_id, told.cluster_id) == ("a", "dialogue")
    assert replace(told, completion=None).cluster_id == "dialogue"


def test_a_context_in_two_clusters() -> None:
    (problem,) = check_dataset(dataset(train=[GOOD, replace(GOOD, cluster_id="x")]), 3)
    assert problem == "dataset toy, row 1: split 'train': the context has two different values of cluster_id: a"


def test_truth_outside_the_catalogue() -> None:
    outside = replace(GOOD, context_id="d", ground_truth=[("Nowhere", 1999)])
    assert share_outside_catalog([GOOD, outside], FILMS) == 0.5
    assert share_outside_catalog([], FILMS) == 0
    assert check_dataset(dataset(test=[outside, replace(GOOD, context_id="c")]), 3) == []
    (problem,) = check_dataset(dataset(test=[outside]), 3)
    assert "split 'test': no ground-truth film is in the catalogue" in problem


def test_problems_of_splits_catalogue_and_records_come_together() -> None:
    problems = check_dataset(dataset(train=[], test=[replace(GOOD, context_id=["c"], prompt=None)]), 9)
    assert len(problems) == 4


def test_fingerprint_sees_every_part() -> None:
    whole = dataset()
    prints = {
        fingerprint(whole.splits, FILMS),
        fingerprint(whole.splits, Catalog(FILMS.items[:2])),
        fingerprint(dataset(test=[]).splits, FILMS),
        fingerprint(dataset(train=[replace(GOOD, seen_titles=[])]).splits, FILMS),
        fingerprint(dataset(sft=[replace(GOOD, completion=None)]).splits, FILMS),
        fingerprint(dataset(train=[replace(GOOD, cluster_id="x")]).splits, FILMS),
    }
    assert len(prints) == 6
    assert fingerprint(dataset().splits, FILMS) in prints


def changed(base: RankedListDataset, other: RankedListDataset, demonstrations: bool = True) -> set[str]:
    """Return the names of the parts whose digests differ."""
    first, second = digests(base, demonstrations), digests(other, demonstrations)
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def test_every_part_of_a_dataset_has_a_digest_of_its_own() -> None:
    base = dataset()
    records = [replace(GOOD, context_id=letter) for letter in "xyz"]
    for split in ("train", "validation", "test"):
        assert changed(base, dataset(**{split: records})) == {f"split {split}"}
    assert changed(base, replace(base, catalog=Catalog([("Heat", 1995), ("Alien", 1979), ("Jaws", 1976)]))) == {
        "catalogue"
    }
    assert changed(base, replace(base, oracle={"b": [("Heat", 1995)]})) == {"oracle"}
    other = [{"role": "assistant", "content": "Jaws (1975)"}]
    assert changed(base, dataset(sft=[replace(GOOD, completion=other)])) == {"split sft"}
    assert changed(base, dataset(sft=[replace(GOOD, completion=other)]), demonstrations=False) == set()
    assert changed(dataset(train=records), dataset(train=records[::-1])) == {"split train"}  # depends on the order


@pytest.mark.parametrize("demonstrations", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"prompt": [{"role": "user", "content": "others?"}]},
        {"ground_truth": [("Heat", 1996)]},
        {"seen_titles": ["Jaws"]},
        {"context_id": "z"},
        {"cluster_id": "z"},
    ],
)
def test_every_field_of_a_record_counts(change: dict[str, Any], demonstrations: bool) -> None:
    assert changed(dataset(), dataset(train=[replace(GOOD, **change)]), demonstrations) == {"split train"}
