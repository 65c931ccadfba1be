"""The comparison table: numbers by hand, marks, bold, and identical bytes for the same runs."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.collection import Collection, collect
from analysis.html.curve_data import curve_data
from analysis.html.rows import looks
from analysis.render.numbers import count, share, signed
from analysis.render.sheet import to_latex, to_markdown, to_rich
from analysis.render.spreadsheet import csv_text
from analysis.tables.build import build_table
from analysis.tables.cautions import cautions
from analysis.tables.model import ONE_SEED, UNEQUAL, Row, Table
from analysis.tables.write import table_sheet, to_csv
from rlbench.base.durations import duration
from tests.conftest import slow
from tests.helpers_analysis import budget, queries, write_run, write_sweep

METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
SPENT = budget(150, 1_200, 9_600, 864_000, 197.4)


def flat(level: float, *, samples: int = 40, wobble: float = 0.0, seed: int = 0) -> object:
    """Predictions in which every metric has mean `level`; wobble is the spread over contexts of two samples each."""
    noise = np.repeat(np.random.default_rng(seed).normal(0, 1, samples // 2), 2)
    scores = level + wobble * (noise - noise.mean())
    names = [f"c{i // 2:02d}" for i in range(samples)]
    return queries(dict.fromkeys(METRICS, scores) | {"in_catalog": np.full(samples, 0.9)}, names)


def only_group(runs: Path) -> Collection:
    collection = collect(runs)
    assert collection.problems == ()
    (group,) = collection.groups()
    return group


def row_of(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def sweep(runs: Path) -> Path:
    write_sweep(runs, {"rank_grpo-relevance": 0.08, "grpo-relevance": 0.03, "grpo-dcg": 0.031}, seeds=3, contexts=60)
    return runs


def test_rows_are_in_order_and_name_their_runs(sweep: Path) -> None:
    table = build_table(only_group(sweep))
    assert [row.label for row in table.rows] == [
        "oracle", "zero_shot", "sft", "grpo-dcg", "grpo-relevance", "rank_grpo-relevance",
    ]  # fmt: skip
    assert [row.name for row in table.rows] == [
        "oracle", "zero-shot", "SFT", "grpo · dcg", "grpo · relevance", "rank_grpo · relevance",
    ]  # fmt: skip
    row = row_of(table, "grpo-dcg")
    assert row.seeds == (0, 1, 2)
    assert [re.sub("-[0-9a-f]{8}$", "", run) for run in row.runs] == [
        f"mini/mini-tiny/grpo-dcg/seed{k}" for k in range(3)
    ]
    assert all((sweep / run / "STATUS").exists() for run in row.runs)


def test_numbers_by_hand(runs: Path) -> None:
    write_run(runs, "sft", 0, flat(0.10), spent=budget(500, 0, 0, 0, 83.0))
    for seed, level in ((0, 0.16), (1, 0.20)):
        spent = budget(150, 1_200, 9_600, 800_000 + 100_000 * seed, 190.0 + 20 * seed)
        write_run(runs, "grpo-dcg", seed, flat(level), spent=spent, step=150, rule="last")
    table = build_table(only_group(runs))
    row = row_of(table, "grpo-dcg")
    assert row.metrics["recall@5"].mean == pytest.approx(0.18)
    assert row.difference is not None and row.difference.mean == pytest.approx(0.08)
    assert row.metrics["in_catalog"].mean == pytest.approx(0.9)
    expected = {"updates": 150, "prompts": 1_200, "completions": 9_600, "generated_tokens": 850_000, "seconds": 200}
    assert row.spent == expected
    # Contexts do not differ. The interval is that of two seeds, .16 and .20: t_1 = 12.706 standard errors of .02.
    half = 0.02 * 12.7062
    assert row.metrics["ndcg@10"].high == pytest.approx(0.18 + half, rel=0.002)
    assert row.metrics["ndcg@10"].low == 0.0  # .18 - .254 is below 0
    assert row.difference.low == pytest.approx(0.08 - half, rel=0.005)
    sft = row_of(table, "sft")
    assert (sft.metrics["ndcg@5"].low, sft.metrics["ndcg@5"].high) == pytest.approx((0.1, 0.1))
    assert sft.difference is None
    assert table.headline == "ndcg@10"


def test_an_interval_of_a_share_stays_within_0_and_1(runs: Path) -> None:
    for seed, level in ((0, 0.01), (1, 0.11)):
        write_run(runs, "grpo-dcg", seed, flat(level), spent=SPENT)
    row = build_table(only_group(runs)).rows[0]
    assert row.metrics["ndcg@10"].low == 0.0
    assert row.difference is None


def two_rows(runs: Path, *, gap: float, seeds: int = 3, spread: float = 0.001, spent: dict = SPENT) -> Table:
    """`gspo` is above `grpo` by `gap`; seeds differ by `spread`; `spent` is gspo's budget."""
    write_run(runs, "sft", 0, flat(0.1, wobble=0.05))
    for seed in range(seeds):
        own = spread * (seed - (seeds - 1) / 2)
        write_run(runs, "grpo-dcg", seed, flat(0.15 + own, wobble=0.05), spent=SPENT, rule="last")
        write_run(runs, "gspo-dcg", seed, flat(0.15 + gap - own, wobble=0.05), spent=spent, rule="last")
    return build_table(only_group(runs))


def test_the_best_row_is_bold_where_the_difference_holds(runs: Path) -> None:
    table = two_rows(runs, gap=0.02)
    assert row_of(table, "gspo-dcg").bold == {"ndcg@10"}, "the metric that is tested, and no other"
    assert all(not row.bold for row in table.rows if row.label != "gspo-dcg")
    assert any(note.startswith("Bold: the RL row") and note.endswith("and its budget.") for note in table.notes)
    assert "**.170** [" in to_markdown(table_sheet(table))
    assert r"\textbf{.170}" in to_latex(table_sheet(table))


@pytest.mark.parametrize(
    "case",
    [
        dict(gap=0.0),
        dict(gap=0.005, spread=0.02),
        dict(gap=0.02, seeds=1),
        dict(gap=0.02, seeds=2, spread=0.0),
        dict(gap=0.02, spent=budget(300, 2_400, 19_200, 1, 1.0)),
    ],
    ids=["no difference", "within the noise of seeds", "one seed", "two seeds", "unequal budgets"],
)
def test_no_row_is_bold_where_it_does_not(runs: Path, case: dict) -> None:
    table = two_rows(runs, **case)
    assert not any(row.bold for row in table.rows)
    assert any(note.endswith("its budget; that holds in no column.") for note in table.notes)
    assert "**" not in to_markdown(table_sheet(table))


def test_one_seed_is_marked_but_not_where_nothing_was_trained(runs: Path) -> None:
    write_run(runs, "oracle", 0, flat(0.6))
    write_run(runs, "zero_shot", 0, flat(0.01))
    table = two_rows(runs, gap=0.02, seeds=1)
    marks = {row.label: row.marks for row in table.rows}
    assert marks == {
        "oracle": (), "zero_shot": (), "sft": (ONE_SEED,), "grpo-dcg": (ONE_SEED,), "gspo-dcg": (ONE_SEED,),
    }  # fmt: skip
    assert sum(note.startswith(ONE_SEED) for note in table.notes) == 1
    assert "| grpo · dcg †" in to_markdown(table_sheet(table))


def test_no_note_without_a_mark(runs: Path) -> None:
    write_run(runs, "oracle", 0, flat(0.6))
    notes = build_table(only_group(runs)).notes
    assert not any(note.startswith((ONE_SEED, UNEQUAL, "Bold", "Δ")) for note in notes)


def test_unequal_budgets_are_marked_and_told(runs: Path) -> None:
    write_run(runs, "sft", 0, flat(0.1), spent=budget(500))
    for label, updates in (("grpo-dcg", 150), ("gspo-dcg", 150), ("rank_grpo-dcg", 120)):
        for seed in range(2):
            write_run(runs, label, seed, flat(0.15), spent=budget(updates, 8 * updates, 64 * updates), rule="last")
    table = build_table(only_group(runs))
    assert [row.label for row in table.rows if UNEQUAL in row.marks] == ["rank_grpo-dcg"]
    (note,) = [note for note in table.notes if note.startswith(UNEQUAL)]
    assert "grpo · dcg, gspo · dcg: 150 / 1,200 / 9,600; rank_grpo · dcg: 120 / 960 / 7,680" in note


def test_without_a_majority_every_row_is_marked(runs: Path) -> None:
    table = two_rows(runs, gap=0.02, spent=budget(300, 2_400, 19_200, 1, 1.0))
    assert [row.label for row in table.rows if UNEQUAL in row.marks] == ["grpo-dcg", "gspo-dcg"]


def test_seeds_of_one_row_that_spent_unalike_mark_it(runs: Path) -> None:
    for seed in range(3):
        write_run(runs, "grpo-dcg", seed, flat(0.15), spent=budget(150 if seed else 100), rule="last")
    table = build_table(only_group(runs))
    assert table.rows[0].marks == (UNEQUAL,)
    assert table.rows[0].spent["updates"] == pytest.approx(400 / 3)


def test_without_sft_the_column_is_gone_and_the_reason_given(runs: Path) -> None:
    write_run(runs, "grpo-dcg", 0, flat(0.15), spent=SPENT, rule="best")
    table = build_table(only_group(runs))
    assert "to SFT" not in to_markdown(table_sheet(table)).split("\n- ")[0]
    assert any("no finished SFT run" in note for note in table.notes)
    assert "RL rows are scored at the best checkpoint on validation." in table.notes


def test_csv_holds_plain_numbers(sweep: Path) -> None:
    table = build_table(only_group(sweep))
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [line["label"] for line in lines] == [row.label for row in table.rows]
    for line, row in zip(lines, table.rows, strict=True):
        assert int(line["seeds"]) == len(row.seeds)
        assert line["runs"].split(" ") == list(row.runs)
        for metric in (*METRICS, "in_catalog"):
            cell = row.metrics[metric]
            found = [float(line[f"{metric}{end}"]) for end in ("", "_lo", "_hi")]
            assert found == pytest.approx([cell.mean, cell.low, cell.high], abs=1e-6)
        assert (line["ndcg@10_minus_sft"] == "") == (row.difference is None)
        assert float(line["generated_tokens"]) == row.spent["generated_tokens"]
        assert line["one_seed"] == str(int(row.label == "sft"))
        assert line["unequal_budget"] == "0"
    assert lines[-1]["bold"] == "ndcg@10"


def test_markdown_lines_up(sweep: Path) -> None:
    lines = [
        line for line in to_markdown(table_sheet(build_table(only_group(sweep)))).splitlines() if line.startswith("|")
    ]
    assert len({len(line) for line in lines}) == 1
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 6
    assert re.fullmatch(r"\| SFT † +\|( +\.\d{3} \[\.\d{3}, \.\d{3}\] \|){4} +– \| +\.960 .*", lines[4])


def test_latex_is_whole(sweep: Path) -> None:
    text = to_latex(table_sheet(build_table(only_group(sweep))))
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith((r"\\", r"\\[2pt]"))]
    assert len(rows) == 1 + 2 * 6
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {10}
    assert r"{@{}l" + "r" * 10 + r"@{}}" in text
    assert text.count("{") == text.count("}")
    assert r"rank\_grpo $\cdot$ relevance" in text and r"SFT $^{\dagger}$" in text
    assert text.isascii()
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_terminal_shows_everything_at_any_width(sweep: Path, width: int) -> None:
    table = build_table(only_group(sweep))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(table_sheet(table), width))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for header in (
        "Recall@5",
        "NDCG@10",
        "Δ NDCG@10 to SFT",
        "In catalogue",
        "Seeds",
        "Updates",
        "Time",
        "Generated tokens",
    ):
        assert header in text
    for row in table.rows:
        assert row.name in text
        for metric in METRICS:
            cell = row.metrics[metric]
            assert f"[{share(cell.low)}, {share(cell.high)}]" in text


@pytest.mark.parametrize(
    "writer", [*slow(to_csv, lambda table: to_markdown(table_sheet(table))), lambda table: to_latex(table_sheet(table))]
)
def test_the_same_runs_give_the_same_bytes(sweep: Path, writer: Callable[[Table], str]) -> None:
    assert writer(build_table(only_group(sweep))) == writer(build_table(only_group(sweep)))


@pytest.mark.parametrize(
    ("value", "text"), [(0.1834, ".183"), (0.0004, ".000"), (0.9996, "1.000"), (1.0, "1.000"), (0.0, ".000")]
)
def test_share(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0351, "+.035"), (-0.0351, "−.035"), (0.0002, ".000"), (-0.0002, ".000"), (-1.0, "−1.000")]
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0 s"), (61.5, "1 min 02 s"), (3_599.4, "59 min 59 s"), (3_599.6, "1 h 00 min"), (36_610, "10 h 10 min")],
)
def test_duration(value: float, text: str) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"), (999.4, "999"), (999.6, "1.00 k"), (1_234, "1.23 k"), (9_996, "10.0 k"), (99_960, "100 k"),
        (864_000, "864 k"), (999_600, "1.00 M"), (4_560_000, "4.56 M"), (2_500_000_000, "2.50 G"), (5e12, "5000 G"),
    ],
)  # fmt: skip
def test_count(value: float, text: str) -> None:
    assert count(value) == text


def test_a_line_of_a_csv_that_would_shift_its_columns_is_refused() -> None:
    assert csv_text(["a", "b"], [["1", "2"], ["", "x,y"]]) == 'a,b\n1,2\n,"x,y"\n'
    for line in (["1"], ["1", "2", "3"]):
        with pytest.raises(ValueError, match="for 2 columns"):
            csv_text(["a", "b"], [["1", "2"], line])


# Classical baselines.


def test_baselines_stand_above_zero_shot_in_their_order_and_are_not_tested(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"grpo-dcg": 0.1, "gspo-dcg": 0.2}, seeds=3, contexts=30, updates=50)
    of_sft = pd.read_parquet(next(tmp_path.glob("*/*/sft/*/predictions-test-0.parquet")))
    metrics = of_sft.select_dtypes("float")
    (group,) = collect(tmp_path).groups()
    before = build_table(group, resamples=50)
    for label, factor in (("bm25", 3.0), ("popularity", 0.5), ("item_knn", 1.2)):
        scaled = of_sft.assign(**{name: (values * factor).clip(0, 1) for name, values in metrics.items()})
        validation = {"ndcg@10": 0.1 * factor, "recall@10": 0.1 * factor}
        write_run(tmp_path, label, 0, scaled, validation=validation)
    (group,) = collect(tmp_path).groups()
    table = build_table(group, resamples=50)
    assert [row.name for row in table.rows] == [
        "oracle", "popularity", "item kNN", "BM25", "zero-shot", "SFT", "grpo · dcg", "gspo · dcg",
    ]  # fmt: skip
    assert (table.comparisons, table.leads) == (before.comparisons, before.leads)
    assert any(note.startswith("Classical baselines, without a language model: popularity, item kNN and BM25.")
               for note in table.notes)  # fmt: skip
    rows = looks(group)
    assert [look.name for look in rows][:5] == ["oracle", "popularity", "item kNN", "BM25", "zero-shot"]
    references = curve_data(group, rows)["references"]["validation/ndcg@10"]
    assert [rows[place].label for place, _ in references] == ["oracle", "bm25", "zero_shot", "sft"]  # only the best one
    names = {look.label: look.name for look in rows}
    told = {one.title: one.told for one in cautions(group, table, names, {}, None, ())}
    best, ours = table.rows[3].metrics["ndcg@10"].mean, table.rows[6].metrics["ndcg@10"].mean
    assert ours < best and table.rows[7].metrics["ndcg@10"].mean > best
    assert told["Below a classical baseline"].startswith(f"NDCG@10 on test is below that of BM25 (.{best * 1000:.0f})")
    assert "1 of 2 trained rows: grpo · dcg (" in told["Below a classical baseline"]
