"""Tables from a spec: which runs each row has, numbers against slow ones, marks, and comparisons with a baseline."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics
from analysis.collection import collect
from analysis.render.numbers import Interval
from analysis.render.sheet import to_latex, to_markdown
from analysis.statistics import Scores
from analysis.tables.build import build
from analysis.tables.model import MISSING, ONE_SEED, STOPPED, UNEQUAL, Table, Versus
from analysis.tables.profiles import profile_scores
from analysis.tables.select import Folder
from analysis.tables.spec import TableSpec, parse_spec
from analysis.tables.write import comparisons_csv, comparisons_sheet, runs_json, table_sheet, to_csv
from rlbench.base.errors import BadInput
from tests.helpers_analysis import budget, edit_result, queries, write_run

SPENT = budget(150, 1_200, 9_600, 864_000, 197.4)
CONTEXTS = 20
RL = [{"where": {"stage": "rl"}}]


def predictions(level: float, *, noise: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Two samples per context. Every metric has mean `level` and its own deviations."""
    rng = np.random.default_rng(seed)
    columns = {}
    for metric in ("recall@5", "recall@10", "ndcg@5", "ndcg@10"):
        drawn = np.repeat(rng.normal(0, noise, CONTEXTS), 2)
        columns[metric] = level + drawn - drawn.mean()
    return queries(
        columns | {"in_catalog": np.full(2 * CONTEXTS, 0.9)}, [f"c{i // 2:02d}" for i in range(2 * CONTEXTS)]
    )


def add(
    runs: Path,
    label: str,
    levels: Sequence[float],
    *,
    group: str = "mini/mini-tiny",
    spent: dict = SPENT,
    settings: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    noise: float = 0.05,
) -> list[Path]:
    """Write the runs of one row, with one level per seed."""
    return [
        write_run(
            runs,
            label,
            seed,
            predictions(level, noise=noise, seed=7),
            spent=spent,
            rule="last",
            group=group,
            identity=None if settings is None else {"stage": "rl", "seed": seed, **settings},
            validation={"ndcg@10": level, "ndcg@5": level / 2},
        )
        for seed, level in zip(seeds or range(len(levels)), levels, strict=True)
    ]


def _parsed(
    *, rows: Sequence[Any] = RL, columns: Sequence[Any] = ("ndcg@10",), title: str = "T", **spec: Any
) -> TableSpec:
    return parse_spec({"title": title, "rows": list(rows), "columns": list(columns), **spec}, "spec")


def _folders(*folders: Path) -> list[Folder]:
    return [Folder(str(folder) if len(folders) > 1 else "", collect(folder)) for folder in folders]


def made(*folders: Path, **spec: Any) -> Table:
    """Return the table of a spec, with 200 resamples."""
    found = _folders(*folders)
    problems = [problem for folder in found for problem in folder.collection.problems]
    return build(found, _parsed(**spec), problems=problems, resamples=200)


def refused(*folders: Path, **spec: Any) -> str:
    """Return the error message, which contains all problems."""
    with pytest.raises(BadInput) as error:
        made(*folders, **spec)
    return str(error.value)


def cell(table: Table, name: str, column: str) -> Interval:
    found = next(row for row in table.rows if row.name == name).cells[column]
    assert isinstance(found, Interval)
    return found


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


# Rows.


def test_rows_stand_in_the_order_of_the_spec_and_are_renamed(runs: Path) -> None:
    for label in ("grpo-dcg", "grpo-hit", "gspo-dcg", "rank_grpo-dcg", "rank_grpo-hit"):
        add(runs, label, [0.2, 0.21])
    add(runs, "sft", [0.1], spent=budget(5))
    table = made(
        runs,
        rows=[
            {"where": {"algorithm": ["rank_grpo", "grpo"], "reward": ["hit", "dcg"]}, "name": "{algorithm} ({reward})"},
            {"where": {"stage": "sft"}, "name": "start"},
        ],
        names={"algorithm": {"rank_grpo": "Rank-GRPO"}, "reward": {"hit": "exp∞"}},
    )
    assert [row.name for row in table.rows] == [
        "Rank-GRPO (exp∞)", "Rank-GRPO (dcg)", "grpo (exp∞)", "grpo (dcg)", "start",
    ]  # fmt: skip


def test_a_run_is_in_the_first_entry_that_it_fits(runs: Path) -> None:
    for label in ("grpo-dcg", "gspo-dcg"):
        add(runs, label, [0.2])
    table = made(runs, rows=[{"where": {"algorithm": "gspo"}, "name": "ours"}, {"where": {"stage": "rl"}}])
    assert [row.name for row in table.rows] == ["ours", "grpo · dcg"]


@pytest.mark.parametrize("name", ["trainer.rl.num_iterations", "rl.num_iterations", "num_iterations"])
def test_rows_are_filtered_by_a_setting_in_any_of_its_spellings(runs: Path, name: str) -> None:
    for label, updates, rate in (("grpo-dcg", 1, 1e-5), ("gspo-dcg", 2, 1e-5), ("rank_grpo-dcg", 2, 3e-4)):
        add(runs, label, [0.2], settings={"rl": {"num_iterations": updates, "learning_rate": rate}})
    table = made(runs, rows=[{"where": {name: 2}}], columns=["ndcg@10", {"value": name}])
    assert [(row.label, row.cells[name]) for row in table.rows] == [("gspo-dcg", "2"), ("rank_grpo-dcg", "2")]
    rate = {"trainer.rl.learning_rate": "1e-5"}  # YAML reads 1e-5 as text
    assert [row.label for row in made(runs, rows=[{"where": {name: [1, 2], **rate}}]).rows] == ["grpo-dcg", "gspo-dcg"]


def test_rows_are_ordered_by_a_column(runs: Path) -> None:
    for label, level in (("a-dcg", 0.2), ("b-dcg", 0.3), ("c-dcg", 0.1)):
        add(runs, label, [level])
    best_first = made(runs, rows=[{"where": {"stage": "rl"}, "order": "-test.ndcg@10"}])
    assert [row.algorithm for row in best_first.rows] == ["b", "a", "c"]
    assert [row.algorithm for row in made(runs, rows=[{"where": {"stage": "rl"}, "order": "test.ndcg@10"}]).rows] == [
        "c", "a", "b",
    ]  # fmt: skip


def test_names_that_are_not_there_are_told_at_once(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2], settings={"rl": {"clip": 1}, "sft": {"clip": 1}})
    told = refused(
        runs, rows=[{"where": {"algoritm": "grpo"}}, {"where": {"clip": 1}}], columns=["ndcg@10"], group_by="modell"
    )
    assert "rows[0].where: runs have no column and no setting 'algoritm'. Did you mean 'algorithm'?" in told
    assert "group_by: modell: runs have no column and no setting 'modell'. Did you mean 'model'?" in told
    assert "rows[1].where: 'clip' may be rl.clip or sft.clip; write out which" in told


def test_metrics_that_are_not_there_are_told(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2])
    assert "columns[0]: no run has the metric 'ndgc@10' on test. Did you mean 'ndcg@10'?" in refused(
        runs, columns=["ndgc@10"]
    )
    assert "columns: 'ndcg@10' is there more than once" in refused(runs, columns=["ndcg@10", {"metric": "ndcg@all"}])
    assert "'difference' needs `to`, or a baseline of the spec" in refused(runs, columns=[{"difference": "ndcg@10"}])


def test_what_no_run_fits_is_named(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2])
    table = made(runs, rows=[{"where": {"algorithm": ["grpo", "gpso"]}}, {"where": {"algorithm": "gspo"}}, *RL])
    (note,) = [note for note in table.notes if note.startswith("There is no finished run for")]
    assert note == "There is no finished run for: algorithm gpso; algorithm gspo."
    told = refused(runs, rows=[{"where": {"algorithm": "gpro"}}])
    assert told == "no run fits any of the rows: algorithm gpro. Did you mean 'grpo'?"


# Groups and folders.


def test_groups_are_compared_within_themselves(runs: Path) -> None:
    for model, gain in (("big", 0.03), ("tiny", 0.01)):
        add(runs, "sft", [0.1 + gain], group=f"mini/mini-{model}", spent=budget(5))
        add(runs, "grpo-dcg", [0.1 + 2 * gain, 0.1 + 2 * gain + 0.001], group=f"mini/mini-{model}")
    table = made(
        runs,
        rows=[{"where": {"stage": "sft"}}, *RL],
        columns=[{"difference": "ndcg@10"}],
        group_by="model",
        names={"model": {"tiny": "Tiny-0.1B", "big": "Big-1B"}},
        baseline="sft",
        comparisons="ndcg@10",
    )
    assert [(row.group, row.name) for row in table.rows] == [
        ("Tiny-0.1B", "SFT"), ("Tiny-0.1B", "grpo · dcg"), ("Big-1B", "SFT"), ("Big-1B", "grpo · dcg"),
    ]  # fmt: skip
    assert [row.cells["ndcg@10_minus_sft"] for row in table.rows][0::2] == [None, None]
    differences = [versus.difference.mean for versus in table.comparisons]
    assert differences == pytest.approx([0.0105, 0.0305])
    assert [versus.group for versus in table.comparisons] == ["Tiny-0.1B", "Big-1B"]
    text = to_markdown(table_sheet(table))
    assert text.index("**Tiny-0.1B**") < text.index("**Big-1B**")
    assert r"\multicolumn{2}{@{}l}{\textit{Big-1B}} \\" in to_latex(table_sheet(table))


def test_a_heading_holds_only_what_varies(runs: Path) -> None:
    for model in ("big", "tiny"):
        add(runs, "grpo-dcg", [0.2], group=f"mini/mini-{model}")
    table = made(runs, group_by=["dataset", "model", "experiment"], title="{dataset}, {model} ({experiment})")
    assert [row.group for row in table.rows] == ["big", "tiny"]
    assert table.title == "mini, big / tiny (mini)"


def test_rows_of_one_name_say_what_they_differ_in(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2], group="one/mini-tiny")
    add(runs, "grpo-dcg", [0.2], group="two/mini-tiny")
    assert [row.name for row in made(runs).rows] == ["grpo · dcg, one", "grpo · dcg, two"]


def test_rows_of_other_samples_are_not_compared(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2])
    other = predictions(0.2).assign(context_id=[f"d{i // 2:02d}" for i in range(2 * CONTEXTS)])
    write_run(runs, "gspo-dcg", 0, other, group="mini/redial-tiny")
    told = refused(runs)
    assert told.startswith(
        "rows were judged on different samples: mini/mini/tiny and mini/redial/tiny; name in group_by"
    )
    assert len(made(runs, group_by="dataset").rows) == 2


def test_folders_are_joined(tmp_path: Path) -> None:
    levels = [0.20, 0.22, 0.19, 0.21]
    add(tmp_path / "all", "grpo-dcg", levels)
    add(tmp_path / "a", "grpo-dcg", levels[::2], seeds=[0, 2])
    add(tmp_path / "b", "grpo-dcg", levels[1::2], seeds=[1, 3])
    add(tmp_path / "all", "sft", [0.1], spent=budget(5))
    add(tmp_path / "a", "sft", [0.1], spent=budget(5))
    rows = [{"where": {"stage": ["rl", "sft"]}}]
    spec: dict[str, Any] = {"rows": rows, "baseline": "sft", "columns": ["ndcg@10", {"improvement": "ndcg@10"}]}
    joined, whole = made(tmp_path / "b", tmp_path / "a", **spec), made(tmp_path / "all", **spec)
    assert joined.rows[0].cells == whole.rows[0].cells
    scores = [profile_scores(_folders(*where), _parsed(profiles="ndcg@10", rows=rows))["ndcg@10"][0].scores
              for where in ([tmp_path / "b", tmp_path / "a"], [tmp_path / "all"])]  # fmt: skip
    assert np.array_equal(scores[0].values, scores[1].values)
    assert joined.rows[0].seeds == (0, 1, 2, 3)
    assert [run.folder for run in joined.rows[0].made] == [str(tmp_path / name) for name in "abab"]


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    add(tmp_path / "a", "grpo-dcg", [0.2], settings={"rl": {"rate": 1}})
    add(tmp_path / "b", "grpo-dcg", [0.2], settings={"rl": {"rate": 1}})
    add(tmp_path / "c", "grpo-dcg", [0.2], seeds=[1], settings={"rl": {"rate": 2}})
    assert "mini/mini/tiny/grpo-dcg seed 0 is there more than once" in refused(tmp_path / "a", tmp_path / "b")
    assert "differ in more than the seed" in refused(tmp_path / "a", tmp_path / "c")


# Numbers.


def test_a_number_does_not_hang_on_the_columns_beside_it(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2, 0.22, 0.19])
    alone, among = made(runs), made(runs, columns=[{"metric": "recall@all"}, {"metric": "ndcg@all"}])
    assert cell(alone, "grpo · dcg", "ndcg@10") == cell(among, "grpo · dcg", "ndcg@10")


def test_the_interquartile_mean_is_over_runs(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.20, 0.22, 0.19, 0.21, 0.70])
    table = made(runs, columns=["ndcg@10", {"metric": "ndcg@10", "statistic": "iqm"}])
    assert cell(table, "grpo · dcg", "ndcg@10").mean == pytest.approx(0.304)
    assert cell(table, "grpo · dcg", "ndcg@10_iqm").mean == pytest.approx(0.21)
    assert any(note.startswith("IQM: interquartile mean of the run scores") for note in table.notes)
    assert not table.rows[0].bold


def test_an_overall_group_pools_the_runs_of_all_groups(runs: Path) -> None:
    levels = {"big": [0.30, 0.32, 0.31], "tiny": [0.20, 0.90, 0.21]}
    for model, own in levels.items():
        add(runs, "a-dcg", [0.25] * 3, group=f"mini/mini-{model}")
        add(runs, "b-dcg", own, group=f"mini/mini-{model}")
    add(runs, "c-dcg", [0.2], group="mini/mini-big")
    table = made(
        runs,
        columns=["ndcg@10", {"metric": "ndcg@10", "statistic": "iqm"}, {"improvement": "ndcg@10"}, "seeds"],
        group_by="model",
        overall="Both",
        baseline={"algorithm": "a"},
    )
    a, b = table.rows[-2:]
    assert [(row.group, row.name) for row in (a, b)] == [("Both", "a · dcg"), ("Both", "b · dcg")]
    assert b.cells["ndcg@10"] is None and b.cells["seeds"] == 6 and len(b.made) == 6
    iqm, better = b.cells["ndcg@10_iqm"], b.cells["ndcg@10_beats_a"]
    assert isinstance(iqm, Interval) and isinstance(better, Interval)
    assert iqm.mean == pytest.approx(stats.trim_mean(levels["big"] + levels["tiny"], 0.25))
    assert iqm.low < iqm.mean < iqm.high
    assert better.mean == pytest.approx((1 + 1 / 3) / 2)
    assert a.cells["ndcg@10_beats_a"] is None
    assert "**Both**" in to_markdown(table_sheet(table)) and r"\textit{Both}" in to_latex(table_sheet(table))


def test_validation_has_intervals_over_seeds_alone(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.20, 0.22, 0.21])
    add(runs, "gspo-dcg", [0.25])
    table = made(runs, columns=[{"metric": "ndcg@all"}], split="validation")
    found = cell(table, "grpo · dcg", "ndcg@10")
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((0.21, 0.21 - half, 0.21 + half), rel=5e-3)
    assert not cell(table, "gspo · dcg", "ndcg@5").has_interval
    assert "| gspo · dcg †" in to_markdown(table_sheet(table)) and ".250 |" in to_markdown(table_sheet(table))
    assert any("Intervals (95 %) are over seeds only" in note for note in table.notes)


def test_values_of_a_run_and_of_a_whole_split(runs: Path) -> None:
    for seed, (path, gini) in enumerate(zip(add(runs, "grpo-dcg", [0.2, 0.2]), (0.4, 0.5), strict=True)):
        result = json.loads((path / "result.json").read_text())
        result["metrics"]["test"]["gini"] = gini
        edit_result(path, metrics=result["metrics"], hash=f"{seed:08x}")
    assert "'gini' is of the split as a whole" in refused(runs, columns=["gini"])
    table = made(runs, columns=[{"value": "test.gini", "header": "Gini"}, "checkpoint_step", {"value": "hash"}])
    assert table.rows[0].cells == {
        "test.gini": pytest.approx(0.45),
        "checkpoint_step": 0.0,
        "hash": "00000000, 00000001",
    }
    assert "| .450 |" in to_markdown(table_sheet(table))


def test_how_a_column_shows(runs: Path) -> None:
    add(runs, "sft", [0.1], spent=budget(5))
    add(runs, "grpo-dcg", [0.2, 0.22, 0.19])
    table = made(
        runs,
        rows=[{"where": {"stage": "sft"}}, *RL],
        columns=[
            {"metric": "recall@all", "header": "R", "interval": "none", "digits": 2},
            {"metric": "ndcg@10", "interval": "plus_minus"},
            {"difference": "ndcg@10", "p": True, "header": "gain"},
            {"improvement": "ndcg@10", "header": "P"},
        ],
        baseline="sft",
        method="Algorithm",
    )
    assert [column.header for column in table.columns] == ["R@5", "R@10", "NDCG@10", "gain", "P"]
    last = to_markdown(table_sheet(table)).split("\n- ")[0].splitlines()[-1]
    found = cell(table, "grpo · dcg", "ndcg@10")
    half = f"{(found.high - found.low) / 2:.3f}"[1:]
    assert last.startswith(f"| grpo · dcg | .20 |  .20 | .203 ± {half} | +.103 [+.")
    assert "] (p .0" in last and last.endswith("| 1.00 [.32, 1.00] |")
    assert "| Algorithm " in to_markdown(table_sheet(table))
    assert any(note.startswith("p of a difference") for note in table.notes)
    assert "± (half the width): 95 %" in table.notes[0]


# Bold.


def two(runs: Path, gap: float, spread: float) -> None:
    """Row `b` is above `a` by `gap`, and its seeds are `spread` apart."""
    for label, level in (("a-dcg", 0.2), ("b-dcg", 0.2 + gap)):
        sign = 1 if label == "b-dcg" else -1
        add(runs, label, [level + sign * spread * step for step in (-1, 0, 1, 0.5, -0.5)])


def test_bold_is_corrected_for_the_columns(runs: Path) -> None:
    two(runs, gap=0.0053, spread=0.002)
    one = made(runs, columns=["ndcg@10"])
    many = made(runs, columns=[{"metric": "ndcg@all"}, {"metric": "recall@all"}])
    a, b = (scores_of(runs, label) for label in ("a-dcg", "b-dcg"))
    p = float(statistics.paired_difference(b, a, resamples=200).p[0])
    assert 0.05 / 4 < p < 0.05, "the case must lie between the two"
    assert [row.bold for row in one.rows] == [frozenset(), frozenset({"ndcg@10"})]
    assert not any(row.bold for row in many.rows)
    assert any(
        note.startswith("Tested: 1 column with a best row. p of a single test needs no correction")
        for note in one.notes
    )
    assert any(note.startswith("Tested: 4 columns with a best row. p of these 4 tests is") for note in many.notes)
    assert [lead.p_holm for lead in one.leads] == pytest.approx([p])


def test_bold_may_be_switched_off_and_on(runs: Path) -> None:
    two(runs, gap=0.05, spread=0.002)
    assert made(runs).rows[1].bold
    assert not made(runs, columns=[{"metric": "ndcg@10", "bold": False}]).rows[1].bold
    assert not any("Bold" in note for note in made(runs, columns=["in_catalog"]).notes)
    assert any("Bold" in note for note in made(runs, columns=[{"metric": "in_catalog", "bold": True}]).notes)


# Marks.


def test_missing_seeds_are_marked_and_named(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2, 0.2, 0.2])
    add(runs, "gspo-dcg", [0.2], seeds=[1])
    table = made(runs)
    assert [row.missing for row in table.rows] == [(), (0, 2)]
    assert table.rows[1].marks == (ONE_SEED, MISSING)
    assert any(note.startswith(f"{MISSING} Missing seeds: 0, 2 of gspo · dcg.") for note in table.notes)
    wanted = made(runs, seeds=4)
    assert [row.missing for row in wanted.rows] == [(3,), (0, 2, 3)]
    assert "0 2 3" in to_csv(wanted)


def test_runs_that_stopped_early_are_marked(runs: Path) -> None:
    paths = add(runs, "grpo-dcg", [0.2, 0.2])
    edit_result(paths[1], stopped={"update": 37, "reason": "no gain"})
    table = made(runs)
    assert (table.rows[0].stopped, table.rows[0].marks) == ((1,), (STOPPED,))
    assert f"{STOPPED} Stopped early, and used at that update: grpo · dcg: seed 1 at update 37." in table.notes


def test_budgets_are_equal_or_not_within_a_group(runs: Path) -> None:
    for model, updates in (("big", 50), ("tiny", 150)):
        for label in ("grpo-dcg", "gspo-dcg"):
            add(runs, label, [0.2, 0.2], group=f"mini/mini-{model}", spent=budget(updates, 8, 64))
    assert not any(row.marks for row in made(runs, group_by="model").rows)
    add(runs, "rank_grpo-dcg", [0.2, 0.2], group="mini/mini-big", spent=budget(40, 8, 64))
    table = made(runs, group_by="model")
    assert [row.name for row in table.rows if UNEQUAL in row.marks] == ["rank_grpo · dcg"]
    assert any("under big, not a fair comparison: grpo · dcg, gspo · dcg: 50" in note for note in table.notes)


def test_left_out_runs_are_named(runs: Path) -> None:
    add(runs, "grpo-dcg", [0.2, 0.2])
    for seed in range(10):
        write_run(runs, "gspo-dcg", seed, predictions(0.2), status="failed\nloss is NaN\n")
    table = made(runs)
    (note,) = [note for note in table.notes if note.startswith("Left out")]
    assert note.startswith("Left out: 10 runs. mini/mini-tiny/gspo-dcg/seed0-")
    assert "failed (loss is NaN)" in note and note.endswith("; and 2 more, in table.runs.json.")
    listed = json.loads(runs_json(table, collect(runs).problems))
    assert len(listed["left_out"]) == 10 and "loss is NaN" in listed["left_out"][9]["reason"]


# Runs behind each cell.


def test_each_cell_lists_its_runs(runs: Path) -> None:
    paths = add(runs, "grpo-dcg", [0.2, 0.2])
    sft = add(runs, "sft", [0.1], spent=budget(5))
    table = made(
        runs, rows=[{"where": {"stage": "sft"}}, *RL], columns=["ndcg@10", {"difference": "ndcg@10"}], baseline="sft"
    )
    cells = {(each["row"], each["column"]): each for each in json.loads(runs_json(table, []))["cells"]}
    assert len(cells) == 4
    one = cells["grpo · dcg", "ndcg@10_minus_sft"]
    assert [run["run"] for run in one["runs"]] == [path.relative_to(runs).as_posix() for path in paths]
    assert [(run["seed"], run["hash"]) for run in one["runs"]] == [(i, path.name[6:]) for i, path in enumerate(paths)]
    assert [run["run"] for run in one["against"]] == [sft[0].relative_to(runs).as_posix()]
    assert one["value"] == pytest.approx(0.1)
    assert cells["grpo · dcg", "ndcg@10"]["against"] == []
    empty = cells["SFT", "ndcg@10_minus_sft"]
    assert (empty["value"], empty["runs"], empty["against"]) == (None, [], [])


# Comparisons.


def scores_of(runs: Path, label: str) -> Scores:
    """Read a row's NDCG@10 without `analysis.tables`."""
    files = sorted((runs / "mini/mini-tiny" / label).glob("*/predictions-test-0.parquet"))
    frames = [pd.read_parquet(file) for file in files]
    contexts = pd.factorize(frames[0]["context_id"])[0]
    return Scores(np.stack([frame[["ndcg@10"]].to_numpy() for frame in frames]), contexts, tuple(range(len(files))))


def test_intervals_resample_clusters_and_not_contexts(runs: Path) -> None:
    """Each dialogue has four equal contexts, so the interval by context is half as wide as by dialogue."""
    clusters = np.repeat(np.arange(10), 8)
    contexts = np.repeat(np.arange(40), 2)
    level = 0.2 + 0.1 * np.random.default_rng(3).normal(size=10)[clusters]
    scores = {name: level for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}
    names = [f"c{context:02d}" for context in contexts]
    for label, of in (("grpo-dcg", [f"d{cluster}" for cluster in clusters]), ("gspo-dcg", None)):
        write_run(runs / label, label, 0, queries(scores, names, clusters=of))
    wide, narrow = (
        (table := made(runs / label)).rows[0].cells["ndcg@10"].high - table.rows[0].cells["ndcg@10"].mean
        for label in ("grpo-dcg", "gspo-dcg")
    )
    expected = statistics.mean_interval(Scores(level[None, :, None], clusters, (0,)), resamples=200)
    assert wide == pytest.approx(float(expected.high[0] - expected.mean[0]))
    assert 1.7 < wide / narrow < 2.6
    (note, *_) = made(runs / "grpo-dcg").notes
    assert note.startswith("Test split: 80 samples of 40 contexts in 10 clusters, which intervals resample as a whole")
    assert made(runs / "gspo-dcg").notes[0].startswith("Test split: 80 samples of 40 contexts, lists of 10")


def compared(runs: Path, **spec: Any) -> dict[str, Versus]:
    table = made(
        runs,
        rows=[{"where": {"stage": "sft"}}, {"where": {"stage": "rl"}, "name": "{algorithm}"}],
        **(
            {
                "baseline": {"algorithm": "a"},
                "comparisons": "ndcg@10",
                "columns": [{"metric": "ndcg@10", "bold": False}],
            }
            | spec
        ),
    )
    return {versus.row: versus for versus in table.comparisons}


def test_comparisons_against_slow_ones(runs: Path) -> None:
    levels = {"a": [0.200, 0.205, 0.195, 0.203], "b": [0.240, 0.252, 0.243, 0.249], "c": [0.206, 0.196, 0.201, 0.209]}
    for name, one in levels.items():
        add(runs, f"{name}-dcg", one)
    found = compared(runs)
    assert list(found) == ["b", "c"]
    raw = {}
    for name, versus in found.items():
        assert versus.difference.mean == pytest.approx(np.mean(levels[name]) - np.mean(levels["a"]))
        estimate = statistics.paired_difference(scores_of(runs, f"{name}-dcg"), scores_of(runs, "a-dcg"), resamples=200)
        assert versus.difference.p == pytest.approx(float(estimate.p[0]))
        assert (versus.difference.low, versus.difference.high) == pytest.approx((estimate.low[0], estimate.high[0]))
        pooled = levels[name] + levels["a"]
        observed = abs(sum(levels[name]) - sum(levels["a"]))
        far = [
            abs(2 * sum(pooled[i] for i in chosen) - sum(pooled)) >= observed - 1e-12
            for chosen in itertools.combinations(range(8), 4)
        ]
        raw[name] = np.mean(far)
        assert versus.permutation_p == pytest.approx(raw[name])
        assert (versus.permuted, versus.smallest_p) == ("labels", pytest.approx(2 / 70))
        wins = np.mean([(x > y) + 0.5 * (x == y) for x in levels[name] for y in levels["a"]])
        assert versus.improvement is not None and versus.improvement.mean == pytest.approx(wins)
        components = statistics.variance_components(
            statistics.difference(scores_of(runs, f"{name}-dcg"), scores_of(runs, "a-dcg"))
        )
        ends = statistics.detectable_range(components, 4, CONTEXTS, level=1 - 0.05 / 2)  # the first of Holm's two steps
        assert versus.detectable is not None
        assert (versus.detectable.mean, versus.detectable.low, versus.detectable.high) == pytest.approx(
            tuple(float(end[0]) for end in ends)
        )
    small, large = sorted(found.values(), key=lambda versus: versus.difference.p or 0)
    assert small.p_holm == pytest.approx(2 * (small.difference.p or 0))
    assert large.p_holm == pytest.approx(max(large.difference.p or 0, small.p_holm))
    assert found["b"].permutation_holm == pytest.approx(2 * raw["b"])
    assert found["b"].holds and found["b"].reading == "higher: holds by the interval; too few seeds to permute"
    shown = found["c"].reading
    assert not found["c"].holds and shown.startswith("not shown; this design finds differences from .0")
    assert shown.endswith(") on") and " to .0" in shown


def test_rows_of_other_seeds_are_compared_on_the_common_ones(runs: Path) -> None:
    add(runs, "a-dcg", [0.20, 0.21, 0.19, 0.20])
    add(runs, "b-dcg", [0.20, 0.23, 0.22, 0.21], seeds=[1, 2, 3, 4])
    add(runs, "c-dcg", [0.20, 0.23, 0.21], seeds=[7, 8, 9])
    found = compared(runs)
    assert found["b"].seeds == found["b"].baseline_seeds == (1, 2, 3)
    assert found["b"].difference.mean == pytest.approx((0.20 + 0.23 + 0.22 - 0.21 - 0.19 - 0.20) / 3)
    a, b = scores_of(runs, "a-dcg"), scores_of(runs, "b-dcg")
    of = statistics.variance_components(Scores(b.values[:3] - a.values[1:], a.contexts, (1, 2, 3)))
    ends = statistics.detectable_range(of, 3, CONTEXTS, level=1 - 0.05 / 2)
    assert found["b"].detectable is not None and found["b"].detectable.mean == pytest.approx(float(ends[0][0]))
    assert (found["c"].seeds, found["c"].baseline_seeds) == ((7, 8, 9), (0, 1, 2, 3))
    assert found["c"].detectable is None and found["c"].reading == "not shown"


def test_one_family_covers_the_baseline_the_lead_and_bold(runs: Path) -> None:
    """Three differences to SFT and one lead are four tests with one correction, and bold follows the lead."""
    add(runs, "sft", [0.1], spent=budget(5))
    levels = {"a": [0.20, 0.21, 0.19, 0.20], "b": [0.30, 0.32, 0.29, 0.31], "c": [0.11, 0.08, 0.12, 0.10]}
    for name, one in levels.items():
        add(runs, f"{name}-dcg", one)
    table = made(
        runs,
        rows=[{"where": {"stage": "sft"}}, {"where": {"stage": "rl"}, "name": "{algorithm}"}],
        columns=[{"metric": "ndcg@10"}, {"metric": "recall@10"}, {"difference": "ndcg@10", "p": True}],
        baseline="sft",
        comparisons="ndcg@10",
    )
    scores = {name: scores_of(runs, label) for name, label in [("sft", "sft"), *((n, f"{n}-dcg") for n in levels)]}

    def p(x: str, y: str) -> float:
        return float(statistics.paired_difference(scores[x], scores[y], resamples=200).p[0])

    raw = [p("a", "sft"), p("b", "sft"), p("c", "sft"), max(p("b", "a"), p("b", "c"))]
    expected = {}
    for i, one in enumerate(sorted(raw)):  # Holm by hand
        expected[one] = max([min(1.0, one * (4 - i)), *expected.values()])
    assert [versus.p_holm for versus in table.comparisons] == pytest.approx([expected[one] for one in raw[:3]])
    (lead,) = table.leads
    assert (lead.row, lead.p, lead.p_holm) == ("b", pytest.approx(raw[3]), pytest.approx(expected[raw[3]]))
    assert lead.tests == 4 and lead.holds and [one.row for one in lead.over] == ["a", "c"]
    assert [(row.name, sorted(row.bold)) for row in table.rows if row.bold] == [("b", ["ndcg@10"])]
    shown = {row.name: row.cells["ndcg@10_minus_sft"] for row in table.rows if row.name != "SFT"}
    assert [one.p for one in shown.values()] == pytest.approx([expected[one] for one in raw[:3]])
    assert any("p of these 4 tests is corrected by Holm over all of them" in note for note in table.notes)
    assert any("SFT is one training and is held fixed." in note for note in table.comparison_notes)
    assert table.comparisons[1].reading.startswith("higher than this checkpoint: holds")


def test_the_family_covers_all_groups_of_a_table(runs: Path) -> None:
    """One correction covers the differences and leads of both models in a table."""
    for model, base in (("big", 0.3), ("tiny", 0.2)):
        add(runs, "a-dcg", [base, base + 0.01, base - 0.005], group=f"mini/mini-{model}")
        add(runs, "b-dcg", [base + 0.03, base + 0.05, base + 0.02], group=f"mini/mini-{model}")
    table = made(
        runs,
        group_by=["model"],
        rows=[{"where": {"stage": "rl"}, "name": "{algorithm}"}],
        baseline={"algorithm": "a"},
        comparisons="ndcg@10",
    )
    raw = [versus.difference.p or 0.0 for versus in table.comparisons] + [lead.p or 0.0 for lead in table.leads]
    assert len(raw) == 4 and [lead.group for lead in table.leads] == ["big", "tiny"]
    corrected = [versus.p_holm for versus in table.comparisons] + [lead.p_holm for lead in table.leads]
    np.testing.assert_allclose(corrected, statistics.holm(np.array(raw)))
    assert {lead.tests for lead in table.leads} == {4}


def test_rows_that_cannot_be_compared_are_in_no_family(runs: Path) -> None:
    """Rows with one seed, two seeds or another budget are excluded by design, before any score is read."""
    add(runs, "sft", [0.1], spent=budget(5))
    add(runs, "a-dcg", [0.30, 0.31, 0.30])
    add(runs, "b-dcg", [0.20, 0.21, 0.20])
    add(runs, "one-dcg", [0.20])
    add(runs, "two-dcg", [0.20, 0.20])
    add(runs, "more-dcg", [0.25, 0.25, 0.25], spent=budget(300, 2_400, 19_200))
    found = compared(runs, baseline="sft")
    assert {name: versus.p_holm is None for name, versus in found.items()} == {
        "a": False, "b": False, "more": True, "one": True, "two": True,
    }  # fmt: skip
    assert not any(found[name].holds or found[name].detectable for name in ("more", "one", "two"))
    assert found["one"].reading == "one seed: compares models, not methods"
    table = made(runs, rows=[{"where": {"stage": "rl"}, "name": "{algorithm}"}])
    (lead,) = table.leads
    assert lead.row == "a" and lead.holds and lead.tests == 1
    assert {one.row: one.reason for one in lead.over} == {
        "b": "", "one": "1 seed", "two": "2 seeds", "more": "another budget",
    }  # fmt: skip
    assert [one.row for one in lead.left_out] == ["more", "one", "two"]


def test_five_seeds_against_one_is_no_verdict_whichever_way(runs: Path) -> None:
    """Comparing one seed with a baseline of five used to find a difference in 25 % of equal methods."""
    add(runs, "a-dcg", [0.2, 0.2001, 0.2002, 0.1999, 0.1998])
    add(runs, "b-dcg", [0.3])
    assert not compared(runs)["b"].holds and compared(runs)["b"].p_holm is None
    turned = compared(runs, baseline={"algorithm": "b"})["a"]
    assert not turned.holds and turned.reading == "one seed: compares models, not methods"


@pytest.mark.parametrize(
    ("levels", "options", "reading"),
    [
        ([0.3], {}, "one seed: compares models, not methods"),
        ([0.30, 0.30], {}, "2 seeds: too few for a verdict on methods"),
        ([0.10, 0.11, 0.10, 0.09, 0.10, 0.11], {}, "lower: holds by both tests"),
        ([0.30, 0.31, 0.30], {"spent": budget(1, 2, 3)}, "unequal budgets: no fair comparison"),
    ],
)
def test_readings(runs: Path, levels: list[float], options: dict[str, Any], reading: str) -> None:
    add(runs, "a-dcg", [0.2001 + 0.0001 * i for i in range(len(levels))])
    add(runs, "b-dcg", levels, **options)
    found = compared(runs)
    assert found["b"].reading == reading
    assert found["b"].holds == ("holds" in reading)
    assert (found["b"].improvement is None) == (len(levels) == 1)


def test_sft_is_held_fixed_and_signs_of_seeds_are_flipped(runs: Path) -> None:
    add(runs, "sft", [0.1], spent=budget(5))
    add(runs, "a-dcg", [0.2, 0.21, 0.19])
    found = compared(runs, baseline="sft")
    assert (found["a"].permuted, found["a"].smallest_p, found["a"].permutation_p) == ("seeds", 0.25, 0.25)
    assert found["a"].marks == ()  # SFT with one seed is no flaw of the comparison
    sheet = comparisons_sheet(
        made(runs, rows=[{"where": {"stage": "sft"}}, *RL], baseline="sft", comparisons="ndcg@10")
    )
    assert any("signs of seeds cannot reach a p below .250" in note for note in sheet.notes)
    assert "**+.100** [" in to_markdown(sheet)


def test_comparisons_in_csv(runs: Path) -> None:
    add(runs, "a-dcg", [0.2, 0.21, 0.19])
    add(runs, "b-dcg", [0.3, 0.31, 0.32])
    table = made(runs, baseline={"algorithm": "a"}, comparisons=["ndcg@largest", "recall@all"])
    lines = [line.split(",") for line in comparisons_csv(table).splitlines()]
    assert [line[0] for line in lines[1:]] == ["ndcg@10", "recall@5", "recall@10"]
    assert lines[1][1:7] == ["", "b · dcg", "b-dcg", "a · dcg", "3", "3"]
    assert float(lines[1][7]) == pytest.approx(0.11)
    for line, versus in zip(lines[1:], table.comparisons, strict=True):
        written = dict(zip(lines[0], line, strict=True))
        assert versus.improvement is not None and versus.detectable is not None
        wanted = {
            "p": versus.difference.p,
            "p_holm": versus.p_holm,
            "permutation_p": versus.permutation_p,
            "permutation_p_holm": versus.permutation_holm,
            "smallest_permutation_p": versus.smallest_p,
            "difference_lo": versus.difference.low,
            "improvement": versus.improvement.mean,
            "detectable_hi": versus.detectable.high,
        }
        assert {name: float(written[name]) for name in wanted} == pytest.approx(wanted, rel=1e-3)


def test_sft_is_the_row_of_that_label_or_the_only_one_of_the_stage(runs: Path) -> None:
    add(runs, "a-dcg", [0.2, 0.21])
    for path in add(runs, "sft", [0.1], spent=budget(5)):
        edit_result(path, label="sft@none")
    rows = [{"where": {"stage": "sft"}}, *RL]
    spec: dict[str, Any] = {"rows": rows, "columns": ["ndcg@10", {"difference": "ndcg@10"}], "baseline": "sft"}
    table = made(runs, **spec)
    assert [row.name for row in table.rows] == ["SFT @ none", "a · dcg"]
    assert table.columns[1].header == "Δ NDCG@10 to SFT @ none"
    assert cell(table, "a · dcg", "ndcg@10_minus_sft").mean == pytest.approx(0.105)
    for path in add(runs, "sft", [0.12], spent=budget(5), seeds=[1]):
        edit_result(path, label="sft@half")
    told = made(runs, **spec)
    assert [column.key for column in told.columns] == ["ndcg@10"]
    assert any(note.startswith("There is no one SFT row") for note in told.notes)


def test_a_baseline_is_one_row(runs: Path) -> None:
    for label in ("a-dcg", "a-hit", "b-dcg"):
        add(runs, label, [0.2, 0.21])
    told = refused(runs, baseline={"algorithm": "a"}, comparisons="ndcg@10")
    assert told == "baseline algorithm a: several rows fit (a · dcg, a · hit); name one of them"
    table = made(runs, baseline="sft", columns=["ndcg@10", {"difference": "ndcg@10"}], comparisons="ndcg@10")
    assert [column.key for column in table.columns] == ["ndcg@10"] and not table.comparisons
    assert "There is no finished SFT run, so no difference to it can be given." in table.notes
    table = made(runs, baseline={"algorithm": "x"}, columns=["ndcg@10", {"difference": "ndcg@10"}])
    assert "There is no finished run of x, so no difference to it can be given." in table.notes
