"""Output of ablation, convergence and reproduce for data that are constant, 0, or from one seed."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import reproduce
from analysis.collection import collect
from analysis.commands.ablation import Ablation, build_ablation, draw_effects
from analysis.commands.convergence import Convergence, compare, sentences, to_csv
from analysis.papers.curves import Curve, draw, draw_ranks
from analysis.papers.figure import _change
from analysis.papers.page import number, signed
from analysis.papers.runs import shared
from analysis.papers.verdicts import ONE_EVALUATION, SEEDS_AGREE, TOO_FEW_SEEDS
from analysis.render.numbers import Interval, signed_percent
from analysis.render.sheet import estimate
from analysis.studies.ablation import NO_P
from analysis.studies.convergence import passage_time
from analysis.studies.convergence_text import convergence_sheet, notes
from rlbench.launching.recorded import recorded_cells
from rlbench.runs.directory import label_of
from rlbench.runs.identity import canonical, stage_settings
from tests.helpers_analysis import budget, queries, write_identity, write_run
from tests.helpers_curves import collection

METRICS = [f"{protocol}{name}@{k}" for protocol in ("", "published_") for name in ("recall", "ndcg") for k in (5, 10)]
UP = {0: 0.1, 25: 0.15, 50: 0.2}


def constant(value: float, contexts: int = 8) -> pd.DataFrame:
    values = dict.fromkeys(METRICS, np.full(contexts, value)) | {"in_catalog": np.full(contexts, 0.9)}
    return queries(values, [f"c{i}" for i in range(contexts)])


# Ablation.


def ablation(
    runs: Path, values: Mapping[str, float], seeds: int, ratios: Sequence[str] = ("rank", "token")
) -> Ablation:
    """A sweep over credit (with these values) and ratio; every sample of a run has the same score."""
    write_run(runs, "sft", 0, constant(0.2))
    for credit, value in values.items():
        for ratio in ratios:
            for seed in range(seeds):
                identity = {"seed": seed, "algorithm": {"name": "grpo", "credit": credit, "ratio": ratio}}
                spent = budget(60, 480, 3_840, 300_000, 60.0)
                label = f"grpo-relevance@{credit}-{ratio}"
                write_run(runs, label, seed, constant(value), step=60, rule="last", spent=spent, identity=identity)
    (group,) = collect(runs).groups()
    return build_ablation(group, "ndcg@10", resamples=50)


@pytest.mark.parametrize("value", [0.0, 0.2])
def test_combinations_that_are_all_equal_have_no_order(value: float, tmp_path: Path) -> None:
    found = ablation(tmp_path, {"rank": value, "sequence": value}, 3)
    assert "All 4 combinations have the same NDCG@10, so their order says nothing." in found.grid_notes
    assert not any("partly luck" in note for note in found.grid_notes)
    assert [effect.above for effect in found.effects] == [0, 0] and all(effect.p == 1 for effect in found.effects)


def test_combinations_that_share_the_first_place_are_counted(tmp_path: Path) -> None:
    found = ablation(tmp_path, {"rank": 0.3, "sequence": 0.2}, 1)
    said = (
        "Sorted by the test metric. The first 2 of 4 combinations have the same NDCG@10, so their order says nothing."
    )
    assert said in found.grid_notes


def legend_of(found: Ablation) -> tuple[str, list[str]]:
    figure = draw_effects(found)
    assert figure is not None
    (legend,) = figure.legends
    return legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]


def test_no_word_of_p_where_no_effect_has_one(tmp_path: Path) -> None:
    found = ablation(tmp_path, {"rank": 0.3, "sequence": 0.2}, 1)
    told = " ".join(found.effect_notes)
    assert NO_P in found.effect_notes and "0 effects" not in told and "Bold" not in told and "Holm" not in told
    assert "Brackets: 95 % interval over contexts and pairs (50 bootstrap resamples" in told
    assert legend_of(found) == (NO_P, ["mean, 95 % interval over contexts and pairs (one seed)", "one pair of runs"])


def test_a_single_pair_has_no_interval_in_words_or_picture(tmp_path: Path) -> None:
    found = ablation(tmp_path, {"rank": 0.3, "sequence": 0.2}, 1, ratios=("token",))
    told = " ".join(found.effect_notes)
    assert "An effect of a single pair has no interval." in found.effect_notes and "Brackets" not in told
    assert "0 effects" not in told and legend_of(found) == (NO_P, ["mean", "one pair of runs"])


def test_the_picture_of_effects_names_one_p(tmp_path: Path) -> None:
    found = ablation(tmp_path, {"rank": 0.2, "sequence": 0.2}, 3)
    title, entries = legend_of(found)
    assert title == "p: corrected by Holm. Bold: p below .05, equal budgets."
    assert entries[0] == "mean, 95 % interval over contexts and seeds"
    figure = draw_effects(found)
    assert figure is not None
    (ax,) = figure.axes
    assert ax.get_xlim()[0] < -0.003 < 0.003 < ax.get_xlim()[1]


# Convergence.


def converging(rows: Mapping[str, Sequence[Mapping[int, float]]], *asked: str) -> Convergence:
    return compare(collection(rows), "ndcg@10", baseline="grpo-r", thresholds=asked or ("final",))


@pytest.mark.parametrize("value", [0.1, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 7])
def test_equal_seeds_reach_the_mean_of_themselves(value: float, seeds: int) -> None:
    """np.mean of three times .2 is .20000000000000004."""
    found = converging({"grpo-r": [{0: 0.0, 50: value}] * seeds})
    assert found.thresholds[0].rows["grpo-r"].times == pytest.approx([50.0] * seeds)
    flat = converging({"grpo-r": [{0: value, 50: value}] * seeds})
    (said,) = sentences(flat)
    assert "is not above where grpo · r starts" in said


def test_a_passage_at_a_threshold_that_was_rounded_up_is_at_the_evaluation() -> None:
    assert passage_time((np.array([0.0, 10, 20]), np.array([0.1, 0.2, 0.2])), np.mean([0.2] * 3), 20) == 10.0


def texts(found: Convergence) -> list[list[str]]:
    return [[*line.names, *(cell.text for cell in line.cells)] for line in convergence_sheet(found).lines]


def test_equal_rows_have_neither_intervals_nor_p() -> None:
    found = converging({"grpo-r": [UP] * 3, "gspo-r": [UP] * 3}, "final", "0.1")
    assert sentences(found) == [
        "grpo · r reaches its own final NDCG@10 (.200) after 50 of 50 updates in 3 of 3 seeds.",
        "gspo · r reaches grpo · r's final NDCG@10 (.200) after 50 of 50 updates in 3 of 3 seeds.",
        "The threshold 0.1 (.100) is not above where grpo · r starts (.100), so that times to it say nothing of speed; "
        "see the areas.",
    ]
    assert texts(found) == [
        ["grpo · r", "3", ".150", "", "", "50", "3/3", "", "", "–", "–", "–", "–"],
        ["gspo · r", "3", ".150", ".000", "", "50", "3/3", "1.00", "", "–", "–", "–", "–"],
    ]
    told = notes(found)
    assert "A number on which all seeds agree has neither interval nor p." in told
    assert not any("95 % intervals" in note for note in told)


def test_a_paired_difference_that_does_not_vary_has_no_p_of_its_rounding() -> None:
    """Seeds of both rows differ equally; rounding in the sums once gave p = 1e-31."""
    rows = {
        label: [{0: 0.1, 25: 0.1 + rise * 25 + 0.01 * seed, 50: 0.1 + rise * 50 + 0.01 * seed} for seed in range(3)]
        for label, rise in (("grpo-r", 0.002), ("gspo-r", 0.003))
    }
    found = converging(rows)
    difference = found.areas["gspo-r"].difference
    assert difference is not None and difference.mean == pytest.approx(0.025)
    assert not difference.has_interval and difference.p is None
    assert texts(found)[1][3:5] == ["+.025", ""]
    told = notes(found)
    assert "[95 % intervals] over seeds, given the threshold; p two-sided, corrected over the rows by Holm." in told
    assert "A number on which all seeds agree has neither interval nor p." in told
    (row,) = [line for line in csv.DictReader(io.StringIO(to_csv(found))) if line["label"] == "gspo-r"]
    assert row["difference_p"] == row["difference_lo"] == ""


def test_one_update_one_row_and_a_start_above_the_threshold_in_words() -> None:
    found = converging({"grpo-r": [{0: 0.1, 1: 0.2}] * 2}, "final", "0.9")
    assert sentences(found) == [
        "grpo · r reaches its own final NDCG@10 (.200) after 1 of 1 update in 2 of 2 seeds.",
        "grpo · r does not reach NDCG@10 of .900 within 1 update in any seed (0 of 2 seeds).",
    ]
    told = notes(found)
    assert told[0].startswith("Validation NDCG@10, 0 to 1 update, which all rows cover")
    assert "There is one row, so nothing is compared." in told and not any("three seeds" in note for note in told)
    above = converging({"grpo-r": [UP] * 2, "gspo-r": [{0: 0.3, 50: 0.3}] * 2})
    assert sentences(above)[1] == "gspo · r is at grpo · r's final NDCG@10 (.200) from the start in 2 of 2 seeds."


def test_a_horizon_within_the_data_reads_values_there_and_reaches_them() -> None:
    found = converging({"grpo-r": [UP] * 3, "gspo-r": [{0: 0.1, 10: 0.12, 30: 0.16}] * 3})
    assert found.horizon == 30 and found.thresholds[0].value == pytest.approx(0.16)
    assert [said.split(" (")[0] for said in sentences(found)] == [
        "grpo · r reaches its own final NDCG@10",
        "gspo · r reaches grpo · r's final NDCG@10",
    ]


# Reproduction.


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (number, 0.0945, ".0945"),
        (number, -0.25, "−.2500"),
        (number, -0.00001, ".0000"),
        (number, float("nan"), "–"),
        (signed, 0.0, ".0000"),
        (signed, -0.00001, ".0000"),
        (signed, -0.0134, "−.0134"),
        (signed_percent, 0.0, "0.0 %"),
        (signed_percent, -0.0001, "0.0 %"),
        (signed_percent, -0.534, "−53.4 %"),
    ],
)
def test_zero_has_no_sign(show: Callable[[float], str], value: float, text: str) -> None:
    assert show(value) == text


def test_a_number_without_an_interval_has_no_brackets() -> None:
    assert estimate(Interval(0.0134), signed).text == "+.0134"


def curve(*runs: Mapping[int, float]) -> Curve:
    ours = pd.DataFrame({f"run{i}": values for i, values in enumerate(runs)})
    return Curve("on-policy", "Qwen2.5-0.5B", "grpo", "ndcg@20", {0: 0.08, 50: 0.09}, "ndcg@10", None, ours)


def test_a_change_is_tested_only_where_seeds_show_how_it_varies() -> None:
    one = _change(curve(UP))
    assert one.ours == Interval(pytest.approx(0.1)) and (one.seeds, one.p, one.verdict) == (1, None, TOO_FEW_SEEDS)
    same = _change(curve(UP, UP, UP))
    assert same.ours is not None and not same.ours.has_interval and (same.p, same.verdict) == (None, SEEDS_AGREE)
    once = _change(curve({50: 0.2}, {50: 0.2}))
    assert (once.ours, once.seeds, once.verdict) == (None, 2, ONE_EVALUATION)
    two = _change(curve(UP, UP | {50: 0.21}))
    assert two.ours is not None and two.ours.has_interval and (two.p, two.verdict) == (None, TOO_FEW_SEEDS)
    assert _change(curve(UP, UP | {50: 0.21}, UP | {50: 0.22})).p is not None


def test_constant_curves_have_a_scale_and_single_points_are_drawn() -> None:
    figure = draw([curve({0: 0.0, 50: 0.0})], comparable=False)
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert -0.1 < low <= 0 and high >= 1
    assert figure.legends[0].get_title().get_text() == "Solid: ours, one seed each."
    figure = draw([curve({50: 0.2}, {50: 0.2})], comparable=False)
    assert figure is not None and figure.axes[0].lines[0].get_marker() == "o"
    assert "mean over seeds" in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("value", [0.0, -0.25, 0.5])
def test_returns_of_ranks_are_all_on_the_scale(value: float) -> None:
    profile = np.full(10, value)
    (ax,) = draw_ranks({"GRPO, tiny": (profile, profile)}).axes
    low, high = ax.get_ylim()
    assert low < min(value, 0) and high > max(value, 0)  # with a margin: nothing lies on the edge


def test_a_folder_without_a_sound_run_is_reported_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    runs = tmp_path / "table1"
    write_run(runs, "sft", 0, constant(0.0), group="table1/mini-tiny", status="failed\n")
    assert reproduce.main(["table1", "--twin", "mini", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "seed0-" in capsys.readouterr().out


def settings_of_cell(label: str) -> dict[str, object]:
    """The settings, as in identity.json, of the cell of table1's twin whose runs have this label."""
    cells = [shared(recorded_cells("table1", "mini")[0], "sft"), *recorded_cells("table1", "mini")]
    config = next(cell.config for cell in cells if label_of(cell.config, cell.config.stage) == label)
    return canonical(stage_settings(config, config.stage))


@pytest.mark.slow
def test_a_table_whose_rows_score_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    runs = tmp_path / "table1"
    for label in ("sft", "grpo-log_decay", "rank_grpo-log_decay"):
        for seed in range(1 if label == "sft" else 2):
            run = write_run(runs, label, seed, constant(0.0), spent=budget(50), group="table1/mini-tiny")
            write_identity(run, settings_of_cell(label) | {"seed": seed})
    out = tmp_path / "out"
    assert (
        reproduce.main(["table1", "--twin", "mini", "--runs", str(runs), "--out", str(out), "--resamples", "20"]) == 0
    )
    said = (out / "table1-mini.md").read_text()
    assert "Our gain is – where our SFT scores 0: there is nothing that it could be a share of." in said
    assert "+.0000" not in said and "0.000" not in said and "nan" not in said
    orders = [line for line in said.splitlines() if "> GRPO" in line and "fewer than three seeds" in line]
    assert len(orders) == 2 and all("| – |" in " ".join(line.split()) for line in orders)
