"""Curves: what is drawn is what was measured, and the figure says what its bands are."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.collect import Collection, collect
from analysis.curves import (
    COLOURS,
    draw_training,
    draw_validation,
    legend_columns,
    line,
    save,
    smoothing_points,
    styles,
)
from analysis.statistics import seed_interval
from tests.helpers_analysis import queries, write_run, write_sweep

SCORES = {"recall@10": [0.1], "ndcg@10": [0.1], "in_catalog": [1.0]}


def frame(values: dict[str, dict[int, float]], split: str = "validation", metric: str = "ndcg@10") -> pd.DataFrame:
    """Curves of some runs: step to value."""
    rows = [(run, step, split, metric, value) for run, points in values.items() for step, value in points.items()]
    return pd.DataFrame(rows, columns=["run", "step", "split", "metric", "value"])


def sweep(tmp_path: Path, **options: object) -> Collection:
    gains = {"rank_grpo-relevance": 0.08, "grpo-relevance": 0.03, "gspo-relevance": 0.035}
    write_sweep(tmp_path, gains, **({"seeds": 3, "contexts": 20} | options))
    (group,) = collect(tmp_path).groups()
    return group


def words(figure: Figure) -> str:
    """Everything the legend says."""
    (legend,) = figure.legends
    return " | ".join([legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())])


def test_a_line_is_the_mean_of_its_seeds_with_an_interval() -> None:
    values = {"a": {0: 0.1, 25: 0.2}, "b": {0: 0.1, 25: 0.3}, "c": {0: 0.1, 25: 0.1}}
    found = line(frame(values), ["a", "b", "c"], "validation", "ndcg@10")
    assert found is not None and found.seeds == 3
    np.testing.assert_allclose(found.steps, [0, 25])
    np.testing.assert_allclose(found.mean, [0.1, 0.2])
    expected = seed_interval(np.array([[0.1, 0.2], [0.1, 0.3], [0.1, 0.1]]))
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])


def test_two_seeds_have_their_range_and_one_has_no_band() -> None:
    values = {"a": {0: 0.1, 25: 0.2}, "b": {0: 0.1, 25: 0.3}}
    two = line(frame(values), ["a", "b"], "validation", "ndcg@10")
    one = line(frame(values), ["b"], "validation", "ndcg@10")
    assert two is not None and one is not None
    np.testing.assert_allclose([two.low, two.mean, two.high], [[0.1, 0.2], [0.1, 0.25], [0.1, 0.3]])
    np.testing.assert_allclose([one.low, one.mean, one.high], [[0.1, 0.3]] * 3)


def test_only_updates_that_all_seeds_measured_are_drawn() -> None:
    values = {"a": {0: 0.1, 25: 0.2, 50: 0.3}, "b": {0: 0.1, 30: 0.2, 50: 0.5}}
    found = line(frame(values), ["a", "b"], "validation", "ndcg@10")
    assert found is not None
    assert found.steps.tolist() == [0, 50]
    assert line(frame(values), ["a", "missing"], "validation", "ndcg@10") is None
    assert line(frame(values), ["a"], "train", "ndcg@10") is None


@pytest.mark.parametrize("window", [0.0, 0.6])
def test_nan_is_a_gap_and_not_left_out_of_the_mean(window: float) -> None:
    values = {"a": {0: 0.1, 25: math.nan, 50: 0.3}, "b": {0: 0.1, 25: 0.2, 50: 0.3}}
    found = line(frame(values), ["a", "b"], "validation", "ndcg@10", window=window)
    assert found is not None
    assert np.isnan(found.mean).tolist() == [False, True, False]


def test_smoothing_is_a_centred_moving_mean() -> None:
    values = {"a": {step: float(step % 2) for step in range(1, 31)}}
    found = line(frame(values), ["a"], "validation", "ndcg@10", window=0.1)
    assert found is not None
    assert smoothing_points(30, 0.1) == 3
    np.testing.assert_allclose(found.mean[:3], [1 / 2, 2 / 3, 1 / 3])
    assert [smoothing_points(n, 0.05) for n in (6, 40, 150, 1_000)] == [1, 3, 7, 51]


def test_styles_tell_rows_apart_without_colour() -> None:
    runs = pd.DataFrame(
        [("rl", f"{a}-{r}", a, r) for a in ("grpo", "gspo", "rank_grpo") for r in ("dcg", "relevance")],
        columns=["stage", "label", "algorithm", "reward"],
    )
    looks = styles(runs)
    assert len({(look["marker"], look["linestyle"]) for look in looks.values()}) == 6
    assert looks["grpo-dcg"]["color"] == looks["grpo-relevance"]["color"] == COLOURS[0]
    one_reward = styles(runs[runs["reward"] == "dcg"])
    assert len({look["linestyle"] for look in one_reward.values()}) == 3
    assert len({look["color"] for look in one_reward.values()}) == 3


def test_many_algorithms_share_no_look() -> None:
    rows = [("rl", f"a{i:02d}-dcg", f"a{i:02d}", "dcg") for i in range(30)]
    looks = styles(pd.DataFrame(rows, columns=["stage", "label", "algorithm", "reward"]))
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 30


def test_the_validation_figure(tmp_path: Path) -> None:
    group = sweep(tmp_path)
    figure = draw_validation(group)
    assert figure is not None
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("Validation Recall@10 (share)", "Validation NDCG@10 (0 to 1)")
    assert left.get_xlabel() == right.get_xlabel() == "Updates"
    assert words(figure) == (
        "Lines: mean over 3 seeds. Bands: 95 % bootstrap interval over seeds. | "
        "grpo · relevance | gspo · relevance | rank_grpo · relevance"
    )
    drawn = {curve.get_label(): curve for curve in right.get_lines()}
    of_row = group.curves[group.curves["run"].str.contains("/grpo-") & (group.curves["metric"] == "ndcg@10")]
    expected = of_row.groupby("step")["value"].mean()
    np.testing.assert_allclose(drawn["grpo · relevance"].get_xdata(), expected.index)
    np.testing.assert_allclose(drawn["grpo · relevance"].get_ydata(), expected)
    assert drawn["grpo · relevance"].get_marker() != drawn["gspo · relevance"].get_marker()


def test_an_oracle_far_above_is_named_and_not_drawn(tmp_path: Path) -> None:
    figure = draw_validation(sweep(tmp_path))
    assert figure is not None
    for ax in figure.axes:
        assert ax.get_title(loc="right") == "oracle .650, above this scale ↑"
        assert ax.get_ylim()[1] < 0.3
        assert [text.get_text() for text in ax.texts] == ["SFT"]
        (reference,) = [curve for curve in ax.get_lines() if len(set(curve.get_ydata())) == 1]
        assert reference.get_ydata()[0] == pytest.approx(0.08)


def test_an_oracle_within_reach_is_drawn(tmp_path: Path) -> None:
    write_run(
        tmp_path, "oracle", 0, queries(SCORES, ["a"]), cutoffs=[10], validation={"ndcg@10": 0.3, "recall@10": 0.3}
    )
    points = [(step, "validation", metric, 0.25) for step in (0, 10) for metric in ("ndcg@10", "recall@10")]
    write_run(tmp_path, "grpo-dcg", 0, queries(SCORES, ["a"]), cutoffs=[10], curves=points)
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group)
    assert figure is not None
    for ax in figure.axes:
        assert ax.get_title(loc="right") == ""
        assert [text.get_text() for text in ax.texts] == ["oracle"]
    assert "one seed each, hence no bands" in words(figure)


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        (
            {"grpo-dcg": 2, "gspo-dcg": 2},
            "Lines: mean over 2 seeds. Bands: smallest to largest. | grpo · dcg | gspo · dcg",
        ),
        (
            {"grpo-dcg": 3, "gspo-dcg": 2},
            "Lines: mean over seeds. Bands: 95 % bootstrap interval over seeds, smallest to largest where there are "
            "2 seeds. | grpo · dcg (3 seeds) | gspo · dcg (2 seeds)",
        ),
        (
            {"grpo-dcg": 2, "gspo-dcg": 1},
            "Lines: mean over seeds. Bands: smallest to largest where there are 2 seeds, none where there is 1 seed. | "
            "grpo · dcg (2 seeds) | gspo · dcg (1 seed)",
        ),
    ],
)
def test_the_figure_says_what_its_bands_are(tmp_path: Path, seeds: dict[str, int], note: str) -> None:
    for label, number in seeds.items():
        for seed in range(number):
            points = [(step, "validation", "ndcg@10", 0.1 + 0.01 * seed) for step in (0, 10)]
            write_run(tmp_path, label, seed, queries(SCORES, ["a"]), cutoffs=[10], curves=points)
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group)
    assert figure is not None
    assert words(figure) == note


def test_training_panels_are_of_the_metrics_that_were_logged(tmp_path: Path) -> None:
    figure = draw_training(sweep(tmp_path, logs_kl=False))
    assert figure is not None
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "Reward per list",
        "Hits per list (films)",
        "Entropy per token (nats)",
        "Entries per list",
        "Units without signal (share)",
    ]
    assert words(figure).startswith("Smoothed: moving mean of 7 points. Lines: mean over 3 seeds.")


def test_rewards_of_several_kinds_are_said_to_have_their_own_units(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"grpo-dcg": 0.02, "grpo-relevance": 0.02}, seeds=2, contexts=20, updates=20)
    (group,) = collect(tmp_path).groups()
    figure = draw_training(group)
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "Reward per list (own units)"


def test_without_rl_there_is_nothing_to_draw(tmp_path: Path) -> None:
    write_sweep(tmp_path, {}, seeds=1, contexts=20)
    (group,) = collect(tmp_path).groups()
    assert draw_validation(group) is None
    assert draw_training(group) is None


def test_the_legend_fits_below_the_axes() -> None:
    assert legend_columns(["grpo · relevance"] * 3) == 3
    assert legend_columns(["rank_grpo · relevance"] * 9) == 3
    assert legend_columns(["x" * 200]) == 1
    assert legend_columns(["short"] * 5) == 5


def test_files_are_the_same_bytes_and_hold_no_date(tmp_path: Path) -> None:
    group = sweep(tmp_path / "runs", updates=30, every=10)
    for draw in (draw_validation, draw_training):
        written = []
        for name in ("one", "two"):
            figure = draw(group)
            assert figure is not None
            written.append([file.read_bytes() for file in save(figure, tmp_path / name)])
        assert written[0] == written[1]
        png, svg = written[0]
        assert png.startswith(b"\x89PNG") and b"<svg" in svg
        assert b"<dc:date>" not in svg and b"matplotlib.org" not in png
        assert int.from_bytes(png[16:20]) == 1_380  # 6.9 inches at 200 dots


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """Legend and labels lie within the page, for few rows and for many."""
    gains = {f"{a}-{r}": 0.02 for a in ("grpo", "gspo", "rank_grpo") for r in ("dcg", "log_decay", "relevance")}
    write_sweep(tmp_path, gains, seeds=2, contexts=20, updates=20, every=10)
    (group,) = collect(tmp_path).groups()
    for figure in (draw_validation(group), draw_training(group)):
        assert figure is not None
        save(figure, tmp_path / "figure")
        page, needed = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert needed.x0 >= page.x0 - 1 and needed.x1 <= page.x1 + 1
        assert needed.y0 >= page.y0 - 1 and needed.y1 <= page.y1 + 1
