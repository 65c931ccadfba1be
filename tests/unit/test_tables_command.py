"""`python -m analysis.tables` as a user calls it, and the figure of performance profiles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import collect as collecting
from analysis.collection import collect
from analysis.tables.__main__ import main
from analysis.tables.profiles import profile_scores
from analysis.tables.profiles_figure import THRESHOLDS, draw_profiles
from analysis.tables.select import Folder
from analysis.tables.spec import read_spec
from tests.helpers_analysis import queries, write_run, write_sweep
from tests.helpers_latex import compile_latex, needs_pdflatex

ROOT = Path(__file__).parents[2]
TEXTS = [
    "comparisons.csv", "comparisons.md", "comparisons.tex", "table.csv", "table.md", "table.runs.json", "table.tex",
]  # fmt: skip
FIGURES = ["profiles.pdf", "profiles.png", "profiles.svg", "profiles.txt"]
SCORES = {"recall@10": [0.1, 0.2], "ndcg@10": [0.1, 0.3], "in_catalog": [1.0, 1.0]}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    gains = {"rank_grpo-relevance": 0.08, "grpo-relevance": 0.03}
    write_sweep(folder, gains, seeds=2, contexts=30, updates=4, every=2)
    return folder


def tables(*arguments: Path | str) -> int:
    return main([*map(str, arguments), "--resamples", "100"])


def test_it_writes_tables_and_figure_and_says_where(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables(sweep, "--out", tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out").glob("[!.]*")) == sorted([*TEXTS, *FIGURES])
    shown = capsys.readouterr().out
    assert "rank_grpo · relevance" in shown and "against SFT" in shown
    written = shown.rstrip().split("Wrote\n")[1].splitlines()
    assert sorted(Path(line.strip()).name for line in written) == sorted([*TEXTS, *FIGURES])


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_in_another_process(sweep: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "analysis.tables", str(sweep), "--resamples", "50"]
        command += ["--out", str(tmp_path / seed)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed})
    for name in [*TEXTS, *FIGURES]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_a_collection_gives_the_bytes_of_its_runs(sweep: Path, tmp_path: Path) -> None:
    assert collecting.main([str(sweep), "--out", str(tmp_path / "collected")]) == 0
    assert tables(sweep, "--out", tmp_path / "a") == tables(tmp_path / "collected", "--out", tmp_path / "b") == 0
    for name in [*TEXTS, *FIGURES]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_without_a_baseline_no_comparisons_are_left_from_before(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("comparisons.md", "profiles.svg"):
        (out / name).write_text("of an earlier table")
    spec = tmp_path / "plain.yaml"
    spec.write_text("title: Plain\nrows: [{where: {stage: rl}}]\ncolumns: [ndcg@10, seeds]\n")
    assert tables(sweep, "--spec", spec, "--out", out) == 0
    assert sorted(file.name for file in out.glob("[!.]*")) == [
        "older",
        "table.csv",
        "table.md",
        "table.runs.json",
        "table.tex",
    ]
    assert (out / "table.md").read_text().startswith("## Plain\n")


def test_the_runs_of_a_cell(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables(sweep, "--runs-of", "grpo-relevance", "Δ NDCG@10 to SFT", "--out", tmp_path / "out") == 0
    (cell,) = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in cell["runs"]] == [0, 1]
    assert (sweep / cell["runs"][0]["run"] / "STATUS").exists()
    assert len(cell["against"]) == 1 and "/sft/" in cell["against"][0]["run"]
    assert not (tmp_path / "out").exists()
    assert tables(sweep, "--runs-of", "gpro · relevance", "ndgc@10") == 2
    told = capsys.readouterr().err
    assert "no row 'gpro · relevance'. Did you mean 'grpo · relevance'?" in told
    assert "no column 'ndgc@10'. Did you mean 'ndcg@10'?" in told


def test_several_folders_are_named_with_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, experiment in (("a", "one"), ("b", "two")):
        write_run(Path(folder), "sft", 0, queries(SCORES, ["x", "y"]), cutoffs=[10], group=f"{experiment}/mini-tiny")
        path = write_run(
            Path(folder), "grpo-dcg", 0, queries(SCORES, ["x", "y"]), cutoffs=[10], group=f"{experiment}/mini-tiny"
        )
    (path / "STATUS").write_text("running\n")
    assert tables("a", "b") == 0
    text = (tmp_path / "reports/a+b/tables/comparison/table.csv").read_text()
    assert " a/one/mini-tiny/grpo-dcg/seed0-" in text.replace(",", " ")
    assert "b/two/mini-tiny/sft/seed0-" in text
    assert (
        "b/two/mini-tiny/grpo-dcg/seed0"
        in (tmp_path / "reports/a+b/tables/comparison/table.md").read_text().split("Left out: 1 run.")[1]
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "neither"], ["there is no folder nowhere", "there is no folder neither"]),
        (["empty"], ["no finished run below empty, so there is nothing to show"]),
        (["runs", "--spec", "comparisom"], ["there is no such file. Did you mean 'comparison'?"]),
        (["runs", "--spec", "bad.yaml"], ["has no key 'colums'. Did you mean 'columns'?", "columns is missing"]),
    ],
)
def test_wrong_calls_end_with_2_and_write_nothing(
    arguments: list[str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs"), "sft", 0, queries(SCORES, ["x", "y"]), cutoffs=[10])
    Path("empty").mkdir()
    Path("bad.yaml").write_text("title: T\nrows: [{where: {stage: rl}}]\ncolums: [ndcg@10]\n")
    assert tables(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("analysis.tables: ")
    for words in told:
        assert words in error
    assert not Path("reports").exists()


@pytest.mark.slow
@needs_pdflatex
def test_latex_compiles(sweep: Path, tmp_path: Path) -> None:
    assert tables(sweep, "--out", tmp_path) == 0
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    document += r"\input{table}\input{comparisons}\end{document}"
    compile_latex(tmp_path, document)
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")


# The figure.


def test_a_profile_is_the_share_above_each_threshold(sweep: Path) -> None:
    profiles = profile_scores([Folder("", collect(sweep))], read_spec(Path("comparison")))
    assert list(profiles) == ["ndcg@10"]
    assert [row.name for row in profiles["ndcg@10"]] == ["SFT", "grpo · relevance", "rank_grpo · relevance"]
    figure = draw_profiles(profiles, resamples=50)
    assert figure is not None
    (ax,) = figure.axes
    for row, line in zip(profiles["ndcg@10"], ax.lines, strict=True):
        above = [(row.scores.values > threshold).mean() for threshold in THRESHOLDS]
        assert line.get_ydata() == pytest.approx(np.array(above))
        assert line.get_label() == row.name
    assert ax.get_ylabel() == "Share with NDCG@10 > τ"


def test_a_panel_for_each_group_and_metric(tmp_path: Path) -> None:
    for model in ("big", "tiny"):
        for label in ("grpo-dcg", "gspo-dcg"):
            write_run(tmp_path, label, 0, queries(SCORES, ["a", "b"]), cutoffs=[10], group=f"mini/mini-{model}")
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "title: T\nrows: [{where: {stage: rl}}]\ncolumns: [seeds]\ngroup_by: model\nprofiles: [ndcg@10, recall@10]\n"
    )
    figure = draw_profiles(profile_scores([Folder("", collect(tmp_path))], read_spec(spec)), resamples=20)
    assert figure is not None
    assert [(ax.get_title(), ax.get_xlabel()) for ax in figure.axes] == [
        (model, f"τ ({metric})") for metric in ("NDCG@10", "Recall@10") for model in ("big", "tiny")
    ]
    assert {ax.get_xlim()[1] for ax in figure.axes[:2]} == {figure.axes[0].get_xlim()[1]}
    assert draw_profiles({}) is None


def test_as_a_command_without_torch() -> None:
    code = "import sys, analysis.tables.__main__ as m; assert 'torch' not in sys.modules; m.main(['--help'])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for word in ("RUNS [RUNS ...]", "--spec FILE", "--runs-of ROW COLUMN", "comparison, paper", "exit code"):
        assert word in told.stdout
