"""Curves as data: seeds at common positions, against updates or cost."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.collection import collect
from analysis.figures.series import (
    all_series,
    in_bins,
    measured,
    on_common_grid,
    rank_maps,
    row_names,
    smoothed,
    smoothing_points,
    spent_at,
    without_spending,
)
from analysis.statistics import seed_interval
from rlbench.runs.directory import seal
from tests.helpers_analysis import queries, write_run
from tests.helpers_curves import collection, write_measurements, write_spending

SCORES = {"recall@10": [0.1], "ndcg@10": [0.1], "in_catalog": [1.0]}


def slow_interpolation(at: float, places: list[float], values: list[float]) -> float:
    """Interpolation between the two neighbours; of several values at one position the last counts."""
    curve = dict(zip(places, values, strict=True))
    if at in curve:
        return curve[at]
    before = max(place for place in curve if place < at)
    after = min(place for place in curve if place > at)
    return curve[before] + (at - before) / (after - before) * (curve[after] - curve[before])


def test_a_row_is_the_mean_of_its_seeds_with_an_interval() -> None:
    found = all_series(
        collection({"grpo-dcg": [{0: 0.1, 25: 0.2}, {0: 0.1, 25: 0.3}, {0: 0.1, 25: 0.1}]}), "validation", "ndcg@10"
    )["grpo-dcg"]
    np.testing.assert_allclose(found.x, [0, 25])
    np.testing.assert_allclose(found.mean, [0.1, 0.2])
    np.testing.assert_allclose(found.values, [[0.1, 0.2], [0.1, 0.3], [0.1, 0.1]])
    expected = seed_interval(found.values)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    assert found.runs == tuple(f"grpo-dcg/seed{seed}" for seed in range(3))


def test_two_seeds_have_their_range_and_one_has_no_band() -> None:
    rows = {"a-dcg": [{0: 0.1, 25: 0.2}, {0: 0.1, 25: 0.3}], "b-dcg": [{0: 0.1, 25: 0.3}]}
    found = all_series(collection(rows), "validation", "ndcg@10")
    two, one = found["a-dcg"], found["b-dcg"]
    np.testing.assert_allclose([two.low, two.mean, two.high], [[0.1, 0.2], [0.1, 0.25], [0.1, 0.3]])
    np.testing.assert_allclose([one.low, one.mean, one.high], [[0.1, 0.3]] * 3)


def test_only_updates_that_all_seeds_measured_are_kept() -> None:
    group = collection({"grpo-dcg": [{0: 0.1, 25: 0.2, 50: 0.3}, {0: 0.1, 30: 0.2, 50: 0.5}], "gspo-dcg": [{}]})
    found = all_series(group, "validation", "ndcg@10")
    assert list(found) == ["grpo-dcg"]
    assert found["grpo-dcg"].x.tolist() == [0, 50]
    assert all_series(group, "train", "ndcg@10") == {}


@pytest.mark.parametrize("window", [0.0, 0.6])
def test_nan_is_a_gap_and_not_left_out_of_the_mean(window: float) -> None:
    group = collection({"grpo-dcg": [{0: 0.1, 25: math.nan, 50: 0.3}, {0: 0.1, 25: 0.2, 50: 0.3}]})
    found = all_series(group, "validation", "ndcg@10", window=window)["grpo-dcg"]
    assert np.isnan(found.mean).tolist() == [False, True, False]


def test_smoothing_is_the_mean_of_the_curve_over_a_centred_window() -> None:
    group = collection({"grpo-dcg": [{step: float(step % 2) for step in range(1, 31)}]})
    found = all_series(group, "validation", "ndcg@10", window=0.1)["grpo-dcg"]
    assert smoothing_points(30, 0.1) == 3
    np.testing.assert_allclose(found.mean, 1 / 2)
    values = np.random.default_rng(5).normal(size=(2, 40))
    values[1, 7] = np.nan
    slow = np.full_like(values, np.nan)
    for row, line in enumerate(values):
        for place in range(40):
            parts = [(line[i] + line[i + 1]) / 2 for i in range(max(place - 4, 0), min(place + 4, 39))]
            parts = [part for part in parts if np.isfinite(part)]
            slow[row, place] = np.mean(parts) if np.isfinite(line[place]) else np.nan
    np.testing.assert_allclose(smoothed(values, 0.21), slow)
    assert smoothed(values[:, :1], 0.5).tolist() == values[:, :1].tolist()
    assert [smoothing_points(n, 0.05) for n in (6, 40, 150, 1_000)] == [1, 3, 7, 51]


def test_what_was_spent_is_nothing_at_the_start_and_unknown_after_the_last_line() -> None:
    group = collection({"grpo-dcg": [{0: 0.1}]}, spending={("grpo-dcg", 0): {10: 100.0, 30: 500.0}})
    found = spent_at(group.spending, "generated_tokens", np.array([0.0, 5, 10, 20, 30, 31]))
    np.testing.assert_allclose(found, [0, 50, 100, 300, 500, math.nan])


def test_seeds_that_spent_alike_are_not_interpolated() -> None:
    spent = {10: 640.0, 20: 1_280.0}
    group = collection(
        {"grpo-dcg": [{0: 0.1, 10: 0.5, 20: 0.2}, {0: 0.3, 10: 0.7, 20: 0.4}]},
        spending={("grpo-dcg", 0): spent, ("grpo-dcg", 1): spent},
    )
    found = all_series(group, "validation", "ndcg@10", against="completions")["grpo-dcg"]
    assert found.x.tolist() == [0, 640, 1_280]
    assert found.values.tolist() == [[0.1, 0.5, 0.2], [0.3, 0.7, 0.4]]


def test_seeds_that_spent_otherwise_meet_where_both_have_been() -> None:
    group = collection(
        {"grpo-dcg": [{0: 0.0, 10: 1.0, 20: 2.0}, {0: 0.0, 10: 1.0, 20: 2.0}]},
        spending={("grpo-dcg", 0): {20: 100.0}, ("grpo-dcg", 1): {20: 200.0}},
    )
    found = all_series(group, "validation", "ndcg@10", against="generated_tokens")["grpo-dcg"]
    np.testing.assert_allclose(found.x, [0, 75, 100])  # the means are 0, 75 and 150; the first run ends at 100
    np.testing.assert_allclose(found.values, [[0, 1.5, 2], [0, 0.75, 1]])


def test_updates_on_one_rollout_spend_nothing_more_and_the_last_counts() -> None:
    for factor in (1.0, 2.0):
        spending = {("grpo-dcg", 0): {1: 64.0, 2: 64.0, 3: 128.0, 4: 128.0}}
        spending[("grpo-dcg", 1)] = {update: factor * value for update, value in spending[("grpo-dcg", 0)].items()}
        points = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
        group = collection({"grpo-dcg": [points, points]}, metric="entropy", split="train", spending=spending)
        found = all_series(group, "train", "entropy", against="completions")["grpo-dcg"]
        assert (np.diff(found.x) > 0).all()
        assert found.values[0, found.x == 128].tolist() == [0.4]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seeds=st.integers(1, 4), points=st.integers(1, 6))
def test_the_grid_agrees_with_interpolation_by_hand(data: st.DataObject, seeds: int, points: int) -> None:
    steps = st.lists(st.integers(0, 9), min_size=points, max_size=points)
    places = np.stack([np.cumsum(data.draw(steps)).astype(float) for _ in range(seeds)])
    values = np.stack([data.draw(steps) for _ in range(seeds)]).astype(float)
    grid, found = on_common_grid(places, values)
    low, high = max(row[0] for row in places), min(row[-1] for row in places)
    wanted = sorted({min(max(sum(column) / seeds, low), high) for column in places.T.tolist()}) if low <= high else []
    np.testing.assert_allclose(grid, wanted)
    assert found.shape == (seeds, len(wanted))
    for seed in range(seeds):
        by_hand = [slow_interpolation(at, places[seed].tolist(), values[seed].tolist()) for at in grid]
        np.testing.assert_allclose(found[seed], by_hand, atol=1e-12)


def test_places_that_are_unknown_are_left_out() -> None:
    grid, values = on_common_grid(np.array([[0.0, 10, np.nan], [0, 10, 20]]), np.array([[1.0, 2, 3], [1, 2, 3]]))
    assert grid.tolist() == [0, 10] and values.tolist() == [[1, 2], [1, 2]]
    grid, values = on_common_grid(np.array([[np.nan]]), np.array([[1.0]]))
    assert grid.shape == (0,) and values.shape == (1, 0)


def test_rows_without_a_record_of_spending_are_named_and_have_no_curve() -> None:
    points = {0: 0.1, 10: 0.2}
    group = collection(
        {"grpo-dcg": [points, points], "gspo-dcg": [points, points]},
        spending={("grpo-dcg", 0): {10: 640.0}, ("grpo-dcg", 1): {10: 640.0}, ("gspo-dcg", 0): {10: 640.0}},
    )
    assert without_spending(group) == ["gspo-dcg"]
    assert list(all_series(group, "validation", "ndcg@10", against="seconds")) == ["grpo-dcg"]
    assert list(all_series(group, "validation", "ndcg@10")) == ["grpo-dcg", "gspo-dcg"]
    assert row_names(group) == {"grpo-dcg": "grpo · dcg", "gspo-dcg": "gspo · dcg"}


def test_spending_and_ranks_are_read_from_run_directories(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = write_run(tmp_path, "grpo-dcg", seed, queries(SCORES, ["a"]), cutoffs=[10])
        write_measurements(
            run, [(step, "train", f"reward@{k}", step * k / 10 + seed) for step in (1, 2) for k in (1, 2, 10)]
        )
        write_measurements(run, [(1, "train", "reward", 0.5), (1, "train", "reward@mean", 0.5)])
        write_spending(run, [1, 2], factor=1 + seed)
    (group,) = collect(tmp_path).groups()
    assert group.spending.groupby("run")["seconds"].max().tolist() == [2.6, 5.2]
    assert "reward@10" in measured(group, "train") and measured(group, "test") == []
    found = rank_maps(group, "train", "reward@k")["grpo-dcg"]
    assert found.x.tolist() == [1, 2] and found.ranks.tolist() == list(range(1, 11))
    np.testing.assert_allclose(found.values[[0, 1, 9]], [[0.6, 0.7], [0.7, 0.9], [1.5, 2.5]])
    assert np.isnan(found.values[2:9]).all()
    against = rank_maps(group, "train", "reward@k", against="completions")["grpo-dcg"]
    assert against.x.tolist() == [64, 128]


def test_a_damaged_record_of_spending_leaves_the_run_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, "grpo-dcg", 0, queries(SCORES, ["a"]), cutoffs=[10])
    (run / "budget.jsonl").write_text('{"update": 1, "completions": 64}\n')
    seal(run)
    (problem,) = collect(tmp_path).problems
    assert (
        problem.left_out and "budget.jsonl is damaged: line 1 is not a record of what an update spent" in problem.reason
    )


def test_bins_are_means_of_neighbours() -> None:
    values = np.array([[1.0, 3, 5, math.nan, 9]])
    means, parts = in_bins(values, 3)
    assert parts == [[0, 1], [2, 3], [4]]
    np.testing.assert_allclose(means, [[2, 5, 9]])
    assert np.isnan(in_bins(np.full((1, 2), math.nan), 1)[0]).all()
