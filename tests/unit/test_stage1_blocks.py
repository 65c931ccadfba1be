"""Stage 1 in blocks equals Stage 1 on whole matrices."""

import hashlib

import numpy as np
import pytest

from rlbench.data.stage1 import pipeline
from rlbench.data.stage1.blocks import ScoreFile, blocks
from rlbench.data.stage1.pipeline import Conversation, Stage1
from rlbench.data.stage1.scores import (
    AdjustmentLoss,
    fit_adjustment,
    membership,
    rank_weights,
    reflect,
    remap,
    remap_encoded,
    top_films,
)
from rlbench.lists.catalog import Catalog

ITEMS = [(f"Film {i}", 1950 + i) for i in range(30)]
OUTSIDE = [(f"Sequel {i}", 2030 + i) for i in range(10)]


def encode(texts):
    rows = []
    for text in texts:
        seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
        rows.append(np.random.default_rng(seed).normal(size=16))
    made = np.array(rows, dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def conversations(count: int) -> list[Conversation]:
    rng = np.random.default_rng(0)
    known = [*ITEMS, *OUTSIDE]
    made = []
    for i in range(count):
        named = [known[j] for j in rng.integers(0, len(known), 6)]
        truth = [ITEMS[j] for j in rng.integers(0, len(ITEMS), rng.integers(0, 4))]
        seen = [ITEMS[j][0] for j in rng.integers(0, len(ITEMS), i % 3)]
        made.append(Conversation(str(i), f"talk {i}", seen, truth, named))
    return made


def test_all_steps_equal_those_on_whole_matrices(monkeypatch):
    monkeypatch.setattr(pipeline, "AT_ONCE", 7)
    catalog, talks = Catalog(ITEMS), conversations(40)
    stage = Stage1(catalog, talks, encode, {OUTSIDE[0]: "what it is about"})
    items = list(dict.fromkeys(item for talk in talks for item in talk.named))
    texts = ["what it is about" if item == OUTSIDE[0] else f"{item[0]} ({item[1]})" for item in items]
    of_catalog = encode([f"{title} ({year})" for title, year in catalog.items])
    weights = rank_weights([[items.index(item) for item in talk.named] for talk in talks], len(items))
    inside = membership([catalog.find(*item) for item in items], len(catalog))
    scores = remap(weights, encode(texts) @ of_catalog.T, inside, encode([talk.text for talk in talks]) @ of_catalog.T)
    np.testing.assert_allclose(stage.scores[:], scores, atol=1e-6)

    ratings = {talk.context_id: {ITEMS[i % 30]: i % 5 - 2, OUTSIDE[0]: 1} for i, talk in enumerate(talks[:30])}
    levels = np.zeros(scores.shape, dtype=np.int64)
    for row, talk in enumerate(talks):
        for item, level in ratings.get(talk.context_id, {}).items():
            if item in ITEMS:
                levels[row, catalog.find(*item)] = level
    assert stage.reflect(ratings) == 30
    scores = reflect(scores, levels)
    np.testing.assert_allclose(stage.scores[:], scores, atol=1e-6)

    stage.adjust()
    rows = np.array([row for row, talk in enumerate(talks) for _ in talk.truth])
    films = np.array([catalog.find(*item) for talk in talks for item in talk.truth])
    scores = fit_adjustment(AdjustmentLoss(scores, rows, films))(scores)
    np.testing.assert_allclose(stage.scores[:], scores, atol=2e-3)  # the fit ends at a slope of 1e-5

    excluded = np.stack([np.isin(catalog.title_ids, catalog.find_titles(talk.seen_titles)) for talk in talks])
    best = top_films(np.asarray(stage.scores[:], dtype=np.float64), 5, excluded)
    assert stage.lists(5) == [[catalog.items[place] for place in places] for places in best.tolist()]
    assert all(len(row) == len(catalog) - excluded.sum(1).max() for row in stage.candidates())


def test_remap_from_encodings_equals_remap_of_their_products():
    rng = np.random.default_rng(1)
    named, films, talks = (rng.normal(size=(count, 8)) for count in (9, 12, 5))
    weights = rank_weights([[0, 1, 8], [2, 2, 3], [], [4], [5, 0]], 9)
    inside = membership([3, -1, 0, 3, 11, -1, 7, 7, -1], 12)
    np.testing.assert_allclose(
        remap_encoded(weights, named, inside, talks, films, 0.7),
        remap(weights, named @ films.T, inside, talks @ films.T, 0.7),
        atol=1e-12,
    )


def test_the_loss_in_blocks_equals_the_loss_at_once():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(23, 6)).astype(np.float32)
    rows, films = rng.integers(0, 23, 40), rng.integers(0, 6, 40)
    there = rng.normal(size=12)
    value, slope = AdjustmentLoss(scores, rows, films)(there)
    in_blocks = AdjustmentLoss(scores, rows, films, at_once=5)(there)
    assert in_blocks[0] == pytest.approx(value, abs=1e-10)
    np.testing.assert_allclose(in_blocks[1], slope, atol=1e-10)


def test_a_file_of_scores(tmp_path):
    file = ScoreFile((10, 3), tmp_path)
    whole = np.arange(30, dtype=np.float32).reshape(10, 3)
    for rows in blocks(10, 4):
        file[rows] = whole[rows].astype(np.float64)
    np.testing.assert_array_equal(file[:], whole)
    np.testing.assert_array_equal(file[7:100], whole[7:])
    assert list(tmp_path.iterdir()) == [] and len(file) == 10
    with pytest.raises(ValueError, match="do not fit"):
        file[0:4] = whole
