"""The embedded dataset has the form of the real data, and no list scores above its oracle."""

import itertools
from collections import Counter

import numpy as np
import pytest

from rlbench.data import load_dataset, mini
from rlbench.data.checks import check_dataset
from rlbench.data.facts import item_facts
from rlbench.evaluation.judging import Answer, Criteria, judge_answers
from rlbench.lists.entries import parse_list, parse_text
from rlbench.lists.relevance import Judge
from tests.conftest import SMALL, composed


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(
        composed("dataset.contexts={train:100,validation:300,test:300}", "dataset.demonstrations=150").dataset
    )


def scores(dataset, lists, split="test"):
    texts = {context: "\n".join(f"{t} ({y})" for t, y in films) for context, films in lists.items()}
    unknown = np.full(10, np.nan)
    answers = {context: Answer(text, parse_text(text), True, 0, unknown) for context, text in texts.items()}
    criteria = Criteria(Judge(dataset.catalog, 10), item_facts(dataset, dataset.catalog))
    return judge_answers(dataset.splits[split], answers, criteria, [5, 10])[1]


def test_catalogue_is_two_hundred_films_in_every_genre_and_era():
    films = mini.read_films()
    assert len(films) == 200
    cells = Counter(
        (genre, next(name for name, first, last in mini.ERAS if first <= year <= last)) for _, year, genre in films
    )
    assert len(cells) == 32 and min(cells.values()) >= 6


def test_no_problems_and_the_same_every_time(dataset):
    assert check_dataset(dataset, 10) == []
    first, again = (load_dataset(composed(*SMALL).dataset) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert load_dataset(composed(*SMALL, "dataset.seed=8").dataset).fingerprint != first.fingerprint


def test_contexts_have_several_answerers_and_one_prompt(dataset):
    answerers = Counter(record.context_id for record in dataset.splits["test"])
    assert set(answerers.values()) == {1, 2, 3, 4, 5}
    prompts = {}
    for record in dataset.splits["test"]:
        assert prompts.setdefault(record.context_id, record.prompt) == record.prompt


def test_truths_are_three_to_eight_unseen_films_of_the_catalogue(dataset):
    sizes = Counter()
    for record in dataset.splits["train"] + dataset.splits["test"]:
        sizes[len(record.ground_truth)] += 1
        assert all(film in dataset.catalog for film in record.ground_truth)
        assert not {title for title, _ in record.ground_truth} & set(record.seen_titles)
        assert len(set(record.ground_truth)) == len(record.ground_truth)
    assert set(sizes) == set(range(3, 9)) and max(sizes.values()) < 1.5 * min(sizes.values())


def test_demonstrations_are_lists_of_the_right_length(dataset):
    assert len(dataset.splits["sft"]) == 150
    for record in dataset.splits["sft"]:
        entries = parse_list(record.completion[0]["content"])
        films = [(entry.title, entry.year) for entry in entries]
        assert len(set(films)) == 10 and all(film in dataset.catalog for film in films)
        assert not {title for title, _ in films} & set(record.seen_titles)


def test_no_list_beats_the_oracle(dataset):
    """On average over many answerers, the oracle scores above perturbed oracles and far above chance."""
    best = scores(dataset, dataset.oracle)
    rng = np.random.default_rng(0)
    films = dataset.catalog.items
    worse = {context: list_[1:] + list_[:1] for context, list_ in dataset.oracle.items()}
    swapped = {c: [*list_[:4], *(films[i] for i in rng.choice(200, 6, replace=False))] for c, list_ in worse.items()}
    random = {c: [films[i] for i in rng.choice(200, 10, replace=False)] for c in dataset.oracle}
    for metric in ("recall@5", "ndcg@5", "ndcg@10"):
        assert best[metric] > scores(dataset, worse)[metric] > scores(dataset, swapped)[metric]
        assert best[metric] > 5 * scores(dataset, random)[metric]


def test_the_noise_makes_demonstrations_worse_than_the_oracle():
    def recall(noise):
        options = ["dataset.contexts={train:300,validation:2,test:2}", "dataset.demonstrations=300"]
        options += ["dataset.careful_share=0", "dataset.noise_popularity=0"]
        data = load_dataset(composed(*options, f"dataset.demonstration_noise={noise}").dataset)
        lists = {
            r.context_id: [(e.title, e.year) for e in parse_list(r.completion[0]["content"])]
            for r in data.splits["sft"]
        }
        return scores(data, lists, "train")["recall@10"]

    assert recall(1.0) < 0.1 < recall(0.5) < recall(0.0)


def test_answerers_name_the_given_numbers_of_films():
    sizes = Counter(
        len(record.ground_truth)
        for record in load_dataset(composed(*SMALL, "dataset.truth_sizes=[0,3,0,1]").dataset).splits["train"]
    )
    assert set(sizes) == {2, 4} and sizes[2] > sizes[4]


def test_noise_may_prefer_popular_films():
    """A strong preference repeats the same few films in all demonstrations, whatever was requested."""

    def films(weight):
        options = ["dataset.demonstrations=60", "dataset.demonstration_noise=1", "dataset.careful_share=0"]
        options += [f"dataset.noise_popularity={weight}"]
        data = load_dataset(composed(*SMALL, *options).dataset)
        return {line for r in data.splits["sft"] for line in r.completion[0]["content"].split("\n")}

    assert len(films(50)) < 40 < 100 < len(films(0))


def test_careful_demonstrations_have_no_noise():
    """With only noise otherwise, the share of careful demonstrations is the share with films that answerers name."""

    def found(share):
        options = ["dataset.contexts={train:200,validation:2,test:2}", "dataset.demonstrations=200"]
        options += ["dataset.demonstration_noise=1", "dataset.noise_popularity=50", f"dataset.careful_share={share}"]
        data = load_dataset(composed(*options).dataset)
        lists = {
            r.context_id: [(e.title, e.year) for e in parse_list(r.completion[0]["content"])]
            for r in data.splits["sft"]
        }
        return scores(data, lists, "train")["ndcg@10"]

    without, half, all_careful = (found(share) for share in (0, 0.5, 1))
    assert without < 0.1 < 0.3 < all_careful
    assert without + 0.05 < half < all_careful - 0.05


def test_demonstrations_are_in_the_order_of_popularity():
    """Two films always appear in the same order in all demonstrations, so a policy can learn this order."""
    dataset = load_dataset(composed("dataset.demonstrations=60", "dataset.careful_share=0").dataset)
    before: set[tuple[str, str]] = set()
    for record in dataset.splits["sft"]:
        assert record.completion is not None
        films = record.completion[-1]["content"].split("\n")
        before |= set(itertools.combinations(films, 2))
    assert before and not any((second, first) in before for first, second in before)
