"""Rewards and demonstrations use only the training split, so other validation and test data change neither."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlbench.config.schema import Config, RewardConfig
from rlbench.data import load_dataset
from rlbench.data.facts import item_facts
from rlbench.data.record import Film, RankedListDataset, Record
from rlbench.lists.catalog import Catalog
from rlbench.lists.relevance import Judge
from rlbench.rewards.scorer import score
from rlbench.rewards.terms import TERMS, of_lists_alone

OPTIONS: dict[str, dict[str, object]] = {
    "tokens": {"normaliser": 100.0},
    "soft_overlong": {"max_tokens": 50, "cache": 10},
}
VARIANTS = [{"novelty": {"among": "hits"}}, {"value": {"of": "recency"}}, {"value": {"of": "rarity"}}]


def rewards(dataset: RankedListDataset) -> list[np.ndarray]:
    """Return every term for random lists of train films, judged on train records."""
    films = sorted({film for record in dataset.splits["train"] for film in record.ground_truth})
    rng = np.random.default_rng(0)
    records = dataset.splits["train"][:40]
    texts = ["\n".join("{} ({})".format(*films[i]) for i in rng.integers(len(films), size=6)) for _ in records]
    judge = Judge(dataset.catalog, 5)
    lists = judge(
        judge.read(texts),
        [record.ground_truth for record in records],
        [record.seen_titles for record in records],
        [int(n) for n in rng.integers(5, 60, size=len(records))],
    )
    facts = item_facts(dataset, dataset.catalog)
    terms = [{name: OPTIONS.get(name, {})} for name in of_lists_alone()]
    return [
        TERMS[name].function(lists, facts, **options) for term in [*terms, *VARIANTS] for name, options in term.items()
    ]


def same(first: RankedListDataset, second: RankedListDataset) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(rewards(first), rewards(second), strict=True))


def films_of(dataset: RankedListDataset, split: str) -> set[Film]:
    return {film for record in dataset.splits[split] for film in record.ground_truth}


@pytest.mark.parametrize("source", ["noisy", "remap_reflect_adjust"])
def test_mini_with_other_validation_and_test_contexts(config: Callable[..., Config], source: str) -> None:
    small = ["dataset.demonstrations=60", f"dataset.demonstrations_from={source}"]
    first, second = (
        load_dataset(config(f"dataset.contexts={{train:60,validation:{v},test:{t}}}", *small).dataset)
        for v, t in ((20, 20), (35, 5))
    )
    assert films_of(first, "test") != films_of(second, "test")
    assert first.splits["train"] == second.splits["train"]
    assert first.splits["sft"] == second.splits["sft"]
    assert same(first, second)


def test_truths_of_the_other_splits_count_nothing(config: Callable[..., Config]) -> None:
    dataset = load_dataset(config("dataset.contexts={train:60,validation:20,test:20}").dataset)
    film = dataset.splits["train"][0].ground_truth[0]
    changed = {
        split: [replace(record, ground_truth=[film]) for record in dataset.splits[split]]
        for split in ("validation", "test")
    }
    assert same(dataset, replace(dataset, splits=dataset.splits | changed))


def test_a_catalogue_that_grows_by_films_of_other_splits_changes_no_reward(config: Callable[..., Config]) -> None:
    """Percentiles over the whole catalogue would change: the new films are rarer, and older or newer than others."""
    dataset = load_dataset(config("dataset.contexts={train:60,validation:20,test:20}").dataset)
    more: list[Film] = [(f"Test Film {i}", 1900 + 3 * i) for i in range(40)]
    test = [Record([{"role": "user", "content": "?"}], [film], [], f"test-{film[0]}") for film in more]
    grown = replace(dataset, catalog=Catalog([*more, *dataset.catalog.items]), splits=dataset.splits | {"test": test})
    assert same(dataset, grown)


TRAIN = [
    ("t1", "I like Heat (1995)", "You should see The Fifth Element and John Carter (2012)", []),
    ("t2", "I like Heat (1995)", "Alien (1979) or Up (2009)", ["Alien (1979)", "Up (2009)"]),
    ("t3", "hi", "isle of dogs (2018), Up (2009)", ["isle of dogs (2018)", "Up (2009)"]),
    ("t4", "I like Up (2009)", "Try Blade Runner 2049 (2017)", []),
    ("t5", "hi", "try paterson (2016) or Up (2009)", ["Up (2009)"]),
]
OTHERS = {
    "plain": [("v1", "hi", "Up (2009)", ["Up (2009)"])],
    "telling": [  # reading these would change films and spellings found in the train texts
        (
            "v1",
            "hi",
            "The Fifth Element (1997), John Carter (2012)",
            ["The Fifth Element (1997)", "John Carter (2012)"],
        ),
        ("v2", "hi", "Isle of Dogs (2018) Isle of Dogs (2018)", ["Isle of Dogs (2018)"] * 3),
        ("v3", "hi", "2049 (2017)", ["2049 (2017)"]),
        ("v5", "hi", "Paterson (2016)", ["Paterson (2016)"]),
        ("v4", "hi", "Heat (1995), Big (1988), Saw (2004)", ["Heat (1995)", "Big (1988)", "Saw (2004)"]),
    ],
}


def redial(
    config: Callable[..., Config], folder: Path, others: list[tuple[str, str, str, list[str]]]
) -> RankedListDataset:
    folder.mkdir()
    for name, rows in (("train", TRAIN), ("valid", others), ("test", [(f"x{i}", *rest) for i, *rest in others])):
        lines = [
            {"context": [turn], "resp": answer, "entity_name": names, "dialog_id": dialogue, "is_user": 0}
            for dialogue, turn, answer, names in rows
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_dataset(config("dataset=redial", f"dataset.path={folder}", "dataset.list_length=3").dataset)


def test_a_film_that_only_other_files_name_is_not_read_in_train(config: Callable[..., Config], tmp_path: Path) -> None:
    """The test file has a film "2049", but train's text means Blade Runner 2049."""
    dataset = redial(config, tmp_path / "telling", OTHERS["telling"])
    assert {film for film in films_of(dataset, "train") if film[1] == 2017} == {("Blade Runner 2049", 2017)}
    assert ("2049", 2017) in films_of(dataset, "test")
    # A lower-case title is recognised only if a list contains it.
    assert "Paterson" in {title for title, _ in films_of(dataset, "test")} - {t for t, _ in films_of(dataset, "train")}


def test_redial_with_other_validation_and_test_files(config: Callable[..., Config], tmp_path: Path) -> None:
    first, second = (redial(config, tmp_path / name, rows) for name, rows in OTHERS.items())
    assert len(first.catalog) != len(second.catalog)
    assert first.splits["train"] == second.splits["train"]
    assert first.splits["sft"] == second.splits["sft"]
    assert same(first, second)
    titles = {title for title, _ in films_of(second, "test")}
    assert "isle of dogs" in titles, "a film that train names keeps the spelling of train"
    assert all(film in second.catalog for split in ("train", "test") for film in films_of(second, split))


def test_scores_of_a_whole_reward_are_the_same(config: Callable[..., Config], tmp_path: Path) -> None:
    reward = config("reward=novelty").reward
    assert isinstance(reward, RewardConfig)
    scores = []
    for name, rows in OTHERS.items():
        dataset = redial(config, tmp_path / name, rows)
        records = dataset.splits["train"]
        texts = ["Up (2009)\nHeat (1995)\nAlien (1979)"] * len(records)
        judge = Judge(dataset.catalog, 3)
        lists = judge(judge.read(texts), [r.ground_truth for r in records], [r.seen_titles for r in records])
        scores.append(score(lists, item_facts(dataset, dataset.catalog), reward))
    first, second = (np.asarray(one.gains) for one in scores)
    np.testing.assert_array_equal(first, second)
