"""Curves: the figure shows the measured values and explains its bands."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.collection import Collection, collect
from analysis.commands.curves import figures
from analysis.curves import main
from analysis.figures.grid import across_for, short_names, wrapped
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.ranks import column_edges, draw_ranks
from analysis.figures.reported import CURVES, METHODS, beside, colour_of, draw_alone, reported_curves
from analysis.figures.style import (
    ALGORITHMS,
    REWARDS,
    axis_unit,
    legend_columns,
    method_look,
    save,
    styles,
    value_range,
)
from analysis.reported import main as reported_main
from rlbench.base.program import CONF
from tests.helpers_analysis import queries, write_run, write_sweep
from tests.helpers_curves import collection, write_measurements, write_spending

SCORES = {"recall@10": [0.1], "ndcg@10": [0.1], "in_catalog": [1.0]}


def sweep(tmp_path: Path, **options: object) -> Collection:
    gains = {"rank_grpo-relevance": 0.08, "grpo-relevance": 0.03, "gspo-relevance": 0.035}
    write_sweep(tmp_path, gains, **({"seeds": 3, "contexts": 20} | options))
    (group,) = collect(tmp_path).groups()
    return group


def words(figure: Figure) -> str:
    """All texts of the legend."""
    (legend,) = figure.legends
    return " | ".join([legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())])


def test_styles_tell_rows_apart_without_colour() -> None:
    runs = pd.DataFrame(
        [("rl", f"{a}-{r}", a, r) for a in ("grpo", "gspo", "rank_grpo") for r in ("dcg", "relevance")],
        columns=["stage", "label", "algorithm", "reward"],
    )
    looks = styles(runs)
    assert len({(look["marker"], look["linestyle"]) for look in looks.values()}) == 6
    assert len({look["color"] for look in looks.values()}) == 6
    one_reward = styles(runs[runs["reward"] == "dcg"])
    assert len({look["linestyle"] for look in one_reward.values()}) == 3
    assert len({look["color"] for look in one_reward.values()}) == 3
    by_algorithm, by_reward = styles(runs, "algorithm"), styles(runs, "reward")
    assert by_algorithm["grpo-dcg"] == by_algorithm["gspo-dcg"] != by_algorithm["gspo-relevance"]
    assert by_reward["grpo-dcg"] == by_reward["grpo-relevance"] != by_reward["gspo-relevance"]


def rl(*names: str) -> pd.DataFrame:
    """RL rows by label, each the algorithm and the reward with a hyphen between them."""
    rows = [("rl", name, *name.split("-", 1)) for name in names]
    return pd.DataFrame(rows, columns=["stage", "label", "algorithm", "reward"])


def test_a_method_looks_the_same_in_every_figure() -> None:
    """However many rows the other figures have: its colour, marker and dashes follow from its name."""
    methods = [f"{a}-{r}" for a in ("grpo", "rank_grpo", "gspo", "dapo", "dr_grpo") for r in REWARDS[:3]]
    together = styles(rl(*methods))
    assert all(styles(rl(method))[method] == together[method] for method in methods)
    assert styles(rl("grpo-relevance @ lr1", "mine-own"))["mine-own"] == styles(rl("mine-own"))["mine-own"]
    assert together["grpo-relevance"] == method_look("grpo", "relevance")
    assert colour_of("rank_grpo_exp_inf") == together["rank_grpo-relevance"]["color"]
    variants = styles(rl(*(f"grpo-relevance @ lr{i}" for i in range(7))))
    assert len({look["color"] for look in variants.values()}) == 7


@pytest.mark.parametrize("properties", [("color", "linestyle"), ("color", "marker"), ("marker", "linestyle")])
def test_two_properties_tell_thirty_rows_apart(properties: tuple[str, str]) -> None:
    """So the page's lines (no markers), lines with few points and grey prints differ."""
    looks = styles(rl(*(f"{algorithm}-relevance" for algorithm in ALGORITHMS[:30])))
    assert len({tuple(look[name] for name in properties) for look in looks.values()}) == 30


def test_every_shipped_method_has_a_place_of_its_own() -> None:
    for names, folder in ((ALGORITHMS, "algorithm"), (REWARDS, "reward")):
        assert len(set(names)) == len(names) and set(names) <= {file.stem for file in (CONF / folder).glob("*.yaml")}


def test_many_algorithms_share_no_look() -> None:
    looks = styles(rl(*(f"a{i:02d}-dcg" for i in range(30))))
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 30


def test_the_validation_figure(tmp_path: Path) -> None:
    group = sweep(tmp_path)
    figure = draw_validation(group)
    assert figure is not None
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("Validation Recall@10 (share)", "Validation NDCG@10 (0 to 1)")
    assert left.get_xlabel() == right.get_xlabel() == "Updates"
    assert words(figure) == (
        "Lines: mean over 3 seeds. Bands: 95 % interval over seeds. | "
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


@pytest.mark.parametrize(("level", "oracle", "drawn"), [(0.0, 0.65, True), (0.5, 0.54, True), (0.5, 0.65, False)])
def test_references_of_constant_curves_follow_the_scale(
    tmp_path: Path, level: float, oracle: float, drawn: bool
) -> None:
    """Curves that stay at 0 have the scale 0 to 1, others ten percent around them."""
    values = {"ndcg@10": oracle, "recall@10": oracle}
    write_run(tmp_path, "oracle", 0, queries(SCORES, ["a"]), cutoffs=[10], validation=values)
    points = [(step, "validation", metric, level) for step in (0, 10) for metric in values]
    write_run(tmp_path, "grpo-dcg", 0, queries(SCORES, ["a"]), cutoffs=[10], curves=points)
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group)
    assert figure is not None
    for ax in figure.axes:
        assert bool(ax.get_ylim()[0] < oracle < ax.get_ylim()[1]) is drawn
        assert [text.get_text() for text in ax.texts] == ["oracle"] * drawn
        assert ("above" in ax.get_title(loc="right")) is not drawn
    assert ("above the scale" in figure.caption) is not drawn


def test_an_oracle_inside_a_scale_that_panels_share_is_drawn_in_each(tmp_path: Path) -> None:
    values = {"ndcg@10": 0.4, "recall@10": 0.4}
    write_run(tmp_path, "oracle", 0, queries(SCORES, ["a"]), cutoffs=[10], validation=values)
    for label, level in (("grpo-dcg", 0.1), ("gspo-dcg", 0.5)):
        points = [(step, "validation", metric, level + step / 1000) for step in (0, 10) for metric in values]
        write_run(tmp_path, label, 0, queries(SCORES, ["a"]), cutoffs=[10], curves=points)
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group, by="algorithm")
    assert figure is not None and len(figure.axes) == 4
    assert all([text.get_text() for text in ax.texts] == ["oracle"] for ax in figure.axes)


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
            "Equal curves lie on each other: the last is seen.\nLines: mean over 2 seeds. Bands: smallest to "
            "largest. | grpo · dcg | gspo · dcg",
        ),
        (
            {"grpo-dcg": 3, "gspo-dcg": 2},
            "Lines: mean over seeds. Bands: 95 % interval over seeds, smallest to largest where there are "
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
        "Hits per list (items)",
        "Entropy (nats per token)",
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


@pytest.mark.slow
def test_files_are_the_same_bytes_and_hold_no_date(tmp_path: Path) -> None:
    group = sweep(tmp_path / "runs", updates=30, every=10)
    for draw in (draw_validation, draw_training):
        written = []
        for name in ("one", "two"):
            figure = draw(group)
            assert figure is not None
            written.append([file.read_bytes() for file in save(figure, tmp_path / name, ("png", "svg", "pdf"))])
        assert written[0] == written[1]
        png, svg, pdf = written[0]
        assert png.startswith(b"\x89PNG") and b"<svg" in svg and pdf.startswith(b"%PDF")
        assert b"<dc:date>" not in svg and b"matplotlib.org" not in png
        assert b"CreationDate" not in pdf and b"/FontFile2" in pdf and b"/Type3" not in pdf
        assert int.from_bytes(png[16:20]) == 1_380  # 6.9 inches at 200 dpi


@pytest.mark.slow
def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """Legend and labels lie within the page, for few rows and for many."""
    gains = {f"{a}-{r}": 0.02 for a in ("grpo", "gspo", "rank_grpo") for r in ("dcg", "log_decay", "relevance")}
    write_sweep(tmp_path, gains, seeds=2, contexts=20, updates=20, every=10)
    (group,) = collect(tmp_path).groups()
    for figure in (draw_validation(group), draw_training(group), draw_validation(group, by="reward")):
        assert figure is not None
        save(figure, tmp_path / "figure")
        page, needed = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert needed.x0 >= page.x0 - 1 and needed.x1 <= page.x1 + 1
        assert needed.y0 >= page.y0 - 1 and needed.y1 <= page.y1 + 1


def add_ranks(runs: Path) -> None:
    """Add returns and hits at ten ranks to every RL run: higher at the head of the list, and for rank_grpo."""
    for run in sorted(runs.glob("*/*/*-*/seed*")):
        more = 2.0 if "rank_grpo" in run.parent.name else 1.0
        write_measurements(
            run,
            [
                (step, "train", f"{metric}@{k}", more * step / k / 1_000)
                for step in range(1, 31)
                for k in range(1, 11)
                for metric in ("reward", "hits")
            ],
        )


def test_kl_is_named_by_the_policy_that_it_is_to() -> None:
    points = {1: 0.1, 2: 0.2}
    for every, word in (({}, "initial"), ({"grpo-dcg": 1}, "reference"), ({"grpo-dcg": 1, "gspo-dcg": 4}, "previous")):
        group = collection({"grpo-dcg": [points], "gspo-dcg": [points]}, split="train", metric="kl")
        settings = {f"{label}/seed0": {"algorithm.reference.sync_every": n} for label, n in every.items()}
        known = replace(group, settings=settings)
        figure = draw_training(known)
        assert figure is not None
        assert figure.axes[0].get_ylabel().replace("\n", " ") == f"KL to the {word} policy (nats per token)"


def test_a_rank_map_shows_the_measured_values_on_one_scale(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"rank_grpo-dcg": 0.08, "grpo-dcg": 0.03}, seeds=2, contexts=20, updates=30, every=10)
    add_ranks(tmp_path)
    (group,) = collect(tmp_path).groups()
    figure = draw_ranks(group, "reward@k")
    assert figure is not None
    left, right, bar = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("grpo · dcg", "rank_grpo · dcg")
    assert bar.get_ylabel() == "Return of rank k"
    low, high = left.get_ylim()
    assert low > high, "rank 1 is at the top"
    (mesh,), (other,) = left.collections, right.collections
    assert mesh.norm is other.norm and mesh.get_cmap().name == "cividis"
    drawn = np.asarray(mesh.get_array())
    steps = np.array([np.mean(part) for part in np.array_split(np.arange(1, 31), 24)])
    np.testing.assert_allclose(drawn, steps / np.arange(1, 11)[:, None] / 1_000)
    np.testing.assert_allclose(np.asarray(other.get_array()), 2 * drawn)
    assert mesh.norm.vmax == pytest.approx(2 * drawn.max())
    assert words(figure).startswith("Columns: mean over 2 seeds and 2 measurements or fewer.")
    assert draw_ranks(group, "advantage_std@k") is None
    # As printed without colour: the head of the list is lighter than its tail.
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    grey = np.asarray(Image.open(file).convert("L"), float)
    box = right.get_window_extent()
    columns = slice(int(box.x1) - 12, int(box.x1) - 4)
    rows = np.linspace(grey.shape[0] - box.y1, grey.shape[0] - box.y0, 11).astype(int)
    lightness = [grey[a + 2 : b - 2, columns].mean() for a, b in zip(rows, rows[1:], strict=False)]
    assert (np.diff(lightness) < 0).all()


def test_columns_of_a_map_meet_midway() -> None:
    assert column_edges(np.array([0.0, 10, 20, 40]), [(0, 1), (2, 2), (3, 3)]).tolist() == [
        pytest.approx(-20 / 3),
        15,
        30,
        pytest.approx(140 / 3),
    ]
    assert column_edges(np.array([5.0]), [(0, 0)]).tolist() == [4.5, 5.5]


def test_more_rows_than_a_panel_holds_have_one_each(tmp_path: Path) -> None:
    gains = {f"rank_grpo-relevance @ lr{i}": 0.02 + i / 1_000 for i in range(11)}
    write_sweep(tmp_path, gains, seeds=1, contexts=20, updates=20, every=10)
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group)
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == sorted(f"lr{i}" for i in range(11))
    assert all(len(ax.get_lines()) == 11 + 1 + 1 for ax in figure.axes), "all in grey, one in colour, SFT"
    assert "All rows: rank_grpo · relevance." in words(figure)
    training = draw_training(group)
    assert training is not None
    *panels, bar = training.axes
    assert bar.get_ylabel() == "Validation NDCG@10 (0 to 1) at the end"
    assert all(len({line.get_color() for line in ax.get_lines()}) > 5 for ax in panels)
    assert list(figures(group, metrics=["ndcg@5", "recall@5"])) == ["validation-ndcg@5", "validation-recall@5"]


def test_panels_by_reward_share_a_scale_and_a_legend(tmp_path: Path) -> None:
    gains = {f"{a}-{r}": 0.02 for a in ("grpo", "rank_grpo") for r in ("dcg", "relevance")}
    gains["rank_grpo-relevance"] = 0.2
    write_sweep(tmp_path, gains, seeds=2, contexts=20, updates=20, every=10)
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group, by="reward")
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["reward: dcg", "reward: relevance"] * 2
    assert figure.axes[2].get_ylim() == figure.axes[3].get_ylim()
    assert figure.axes[2].get_ylim()[1] > 0.25, "the higher panel fits"
    assert words(figure).endswith("| grpo | rank_grpo")
    drawn = figures(group, by="reward")
    assert list(drawn) == ["validation", "training", "training-2"]


def test_long_names_lose_what_all_share_and_are_broken() -> None:
    names = {"a": "rank_grpo · dcg @ x-y", "b": "rank_grpo · dcg @ x-z"}
    assert short_names(names) == (" All rows: rank_grpo · dcg.", {"a": "x-y", "b": "x-z"})
    assert short_names({"a": "grpo · dcg", "b": "gspo · dcg"}) == ("", {"a": "grpo · dcg", "b": "gspo · dcg"})
    assert short_names({"a": "grpo · dcg"}) == ("", {"a": "grpo · dcg"})
    assert wrapped("rank-sequence_mean-group_std and more", 6) == "rank-\nsequence_mean-\ngroup_std and more"
    assert [across_for(n) for n in (1, 3, 4, 9, 10, 16, 17, 36)] == [1, 3, 3, 3, 4, 4, 6, 6]


def test_axes_say_what_they_count() -> None:
    assert axis_unit("updates", 15_800) == (1, "Updates")
    assert axis_unit("completions", 1_500) == (1, "Completions")
    assert axis_unit("generated_tokens", 576_000) == (1e3, "Generated tokens (thousands)")
    assert axis_unit("generated_tokens", 5e6) == (1e6, "Generated tokens (millions)")
    assert [axis_unit("seconds", s) for s in (100, 2_000, 30_000)] == [
        (1, "Time (s)"),
        (60, "Time (min)"),
        (3_600, "Time (h)"),
    ]


def test_curves_against_tokens_are_drawn_in_the_axis_unit(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"grpo-dcg": 0.02}, seeds=2, contexts=20, updates=20, every=10)
    for run in sorted(tmp_path.glob("*/*/grpo-*/seed*")):
        write_spending(run, range(1, 21))
    (group,) = collect(tmp_path).groups()
    figure = draw_validation(group, against="generated_tokens")
    assert figure is not None
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "grpo · dcg"]
    np.testing.assert_allclose(line.get_xdata(), [0, 57.6, 115.2])
    assert figure.axes[0].get_xlabel() == "Generated tokens (thousands)"


def reddit(tmp_path: Path, iterations: int = 1, model: str = "qwen2.5_0.5b") -> Collection:
    scores = {"recall@20": [0.1], "ndcg@20": [0.1], "in_catalog": [1.0]}
    points = [(step, "validation", name, 0.09) for step in (0, 4_000) for name in ("ndcg@20", "recall@20")]
    for label in ("grpo-log_decay", "rank_grpo-relevance"):
        write_run(
            tmp_path,
            label,
            0,
            queries(scores, ["a"]),
            cutoffs=[20],
            curves=points,
            group=f"figure/reddit_v2-{model}",
            identity={"rl": {"num_iterations": iterations}},
        )
    (found,) = collect(tmp_path).groups()
    return found


def test_the_papers_curves_stand_beside_runs_of_their_kind(tmp_path: Path) -> None:
    group = reddit(tmp_path / "runs")
    curves = beside(group)
    assert [curve.method for curve in curves] == ["grpo", "rank_grpo_log_decay", "rank_grpo_exp_inf"]
    figure = draw_validation(group, reported=curves)
    assert figure is not None
    recall, ndcg = figure.axes
    assert not [line for line in recall.get_lines() if "paper" in str(line.get_label())]
    lines = {line.get_label(): line for line in ndcg.get_lines()}
    reported = lines["Rank-GRPO (exp∞), paper"]
    table = pd.read_csv(CURVES).query(
        "backbone == 'Qwen2.5-0.5B' and regime == 'on-policy' and method == 'rank_grpo_exp_inf'"
    )
    np.testing.assert_allclose(np.asarray(reported.get_xydata()), table[["step", "value"]].to_numpy())
    assert reported.get_color() == lines["rank_grpo · relevance"].get_color() != lines["grpo · log_decay"].get_color()
    assert len({line.get_marker() for name, line in lines.items() if "paper" in str(name)}) == 3
    assert beside(reddit(tmp_path / "other", iterations=4)) == []
    assert [curve.regime for curve in beside(reddit(tmp_path / "two", iterations=2))] == ["mu=2"] * 4
    assert beside(reddit(tmp_path / "tiny", model="tiny")) == []


def test_the_reported_curves_are_drawn_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = draw_alone(reported_curves(), "NDCG@20")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Qwen2.5-0.5B, on-policy",
        "Llama-3.2-1B, on-policy",
        "Llama-3.2-3B, on-policy",
        "Qwen2.5-0.5B, μ = 2",
        "Llama-3.2-3B, μ = 2",
    ]
    assert sum(len(ax.get_lines()) for ax in figure.axes) == 15
    assert all(method.title in words(figure) for method in METHODS.values())
    assert reported_main(["--out", str(tmp_path), "--regime", "mu=2"]) == 0
    assert sorted(file.name for file in tmp_path.glob("[!.]*")) == ["paper.pdf", "paper.png", "paper.svg"]
    assert reported_main(["--out", str(tmp_path), "--regime", "mu=2", "--backbone", "Llama-3.2-1B"]) == 2
    assert "no curve of Llama-3.2-1B with mu=2" in capsys.readouterr().err


def small_runs(folder: Path) -> None:
    """Two rows of one seed with one metric of each kind."""
    for label in ("grpo-dcg", "gspo-dcg"):
        rows = [(step, "validation", "ndcg@10", 0.1 + step / 100) for step in (0, 1, 2)]
        rows += [(step, "train", name, 0.1 * step) for step in (1, 2) for name in ("entropy", "hits@1", "hits@2")]
        write_run(folder, label, 0, queries(SCORES, ["a"]), cutoffs=[10], curves=rows)


def test_the_command_writes_every_figure_in_three_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    small_runs(runs)
    write_spending(next(runs.glob("*/*/grpo-*/seed*")), [1, 2])
    assert main([str(runs), "--out", str(tmp_path / "one"), "--against", "seconds"]) == 0
    assert sorted(file.name for file in (tmp_path / "one").glob("[!.]*")) == [
        f"{name}.{kind}" for name in ("ranks-hits", "training", "validation") for kind in ("pdf", "png", "svg", "txt")
    ]
    assert "Not drawn against seconds: gspo-dcg (runs without budget.jsonl)" in capsys.readouterr().out
    chosen = ["--metrics", "train.entropy", "--reference", "paper"]
    assert main([str(runs), "--out", str(tmp_path / "two"), *chosen]) == 0
    assert sorted(file.name for file in (tmp_path / "two").glob("*.png")) == ["training.png"]
    assert "No curve of the paper for mini with tiny" in capsys.readouterr().out
    assert main([str(runs), "--out", str(tmp_path / "two"), "--metrics", "ndcg@10"]) == 0
    assert "Not written now (of an earlier call?)" in (shown := capsys.readouterr().out) and "  training.svg" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--metrics", "ndgc@5"], "--metrics ndgc@5: no RL run measured it"),
        (["--metrics", "entropy"], "Did you mean 'train.entropy'?"),
        (["--by", "algoritm"], "--by algoritm: rows have no such setting. Did you mean 'algorithm'?"),
        (["--against", "seconds"], "no row has budget.jsonl in all of its runs"),
    ],
)
def test_what_the_runs_cannot_serve_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    small_runs(tmp_path / "runs")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_rl_runs_there_is_nothing_to_draw_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "runs", {}, seeds=1, contexts=20)
    assert main([str(tmp_path / "runs")]) == 2
    assert "no finished RL run below" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.0, 0.0), (0.0, 1.0)),
        ((0.0, 1e-17), (0.0, 1.0)),
        ((0.25, 0.25), (0.225, 0.275)),
        ((0.25, 0.25 + 1e-16), (0.225, 0.275)),
        ((-2.0, -2.0), (-2.2, -1.8)),
        ((0.25, 0.26), (0.25, 0.26)),
        ((0.0, 1e-4), (0.0, 1e-4)),
    ],
)
def test_a_scale_of_constant_values_says_something(ends: tuple[float, float], expected: tuple[float, float]) -> None:
    assert value_range(*ends) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("value", "limits"), [(0.0, (-0.03, 1.03)), (0.25, (0.2235, 0.2765))])
def test_axes_of_constant_curves(value: float, limits: tuple[float, float], tmp_path: Path) -> None:
    """No negative values for a zero, no offsets, one name for equal levels, and a hint that curves coincide."""
    group = sweep(tmp_path)
    group.runs[[name for name in group.runs if name.startswith("validation.")]] = value
    group.curves["value"] = value * (1 + 1e-16 * np.arange(len(group.curves)) % 3)
    for figure in (draw_validation(group), draw_training(group)):
        assert figure is not None
        figure.canvas.draw()
        for ax in figure.axes:
            assert ax.get_ylim() == pytest.approx(limits, abs=1e-9)
            assert ax.yaxis.get_major_formatter().get_offset() == ""
        assert "Equal curves lie on each other" in words(figure)
    figure = draw_validation(group)
    assert figure is not None and [text.get_text() for text in figure.axes[0].texts] == ["SFT, oracle"]


def test_a_curve_of_one_point_stands_in_the_middle(tmp_path: Path) -> None:
    figure = draw_validation(sweep(tmp_path, updates=6, every=25))
    assert figure is not None and figure.axes[0].get_xlim() == (-1, 1)


def test_what_is_not_smoothed_is_not_said_to_be(tmp_path: Path) -> None:
    figure = draw_training(sweep(tmp_path, updates=10))
    assert figure is not None and "moving mean" not in words(figure)
