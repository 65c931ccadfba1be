"""A report never writes outside its folder, and text from a run never becomes markup, a formula or a command."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import ablation, convergence, curves, report
from analysis.render.sheet import no_markup
from analysis.render.spreadsheet import as_text, csv_text
from analysis.tables.__main__ import main as tables
from rlbench.base.jsonl import read_rows
from tests.helpers_analysis import edit_result, queries, reseal, write_identity, write_run
from tests.helpers_report import write_full_sweep, write_json, write_lines

HURT = "<script>alert(1)</script>"
NAME = "<script>alert(1)"
"""A hostile name without path separators."""
COLUMNS = {name: [0.25, 0.75] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with texts that would break a page without escaping."""
    folder = tmp_path_factory.mktemp("hostile") / "runs"
    write_full_sweep(folder, {"grpo-relevance": 0.02, "gspo-dcg": 0.03}, seeds=2, contexts=8, updates=50, samples=2)
    for path in sorted(file.parent for file in folder.rglob("STATUS")):
        result = json.loads((path / "result.json").read_text())
        trained = result["stage"] == "rl"
        names = {key: f"{result[key]} {NAME}" for key in ("algorithm", "reward") if trained}
        if trained:
            names |= {"variant": f"a {NAME}", "label": f"{result['label']} {NAME}"}
            names |= {"stopped": {"update": 50, "reason": HURT}, "checkpoint": {"rule": HURT, "step": 50}}
        edit_result(path, experiment=NAME, dataset=f"mini {NAME}", model=f"tiny {NAME}", **names)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest |= {"git": {"commit": HURT, "dirty": True, "changed": [HURT]}, "versions": {HURT: HURT, "torch": HURT}}
        manifest |= {"hardware": {"cpu": HURT, "gpus": [HURT]}, "data": {"name": HURT, "sha256": HURT}}
        write_json(path / "manifest.json", manifest | {"command": ["run.py", f"a={HURT}", f"{HURT}=b"]})
        write_json(path / "attempts/1/attempt.json", {"number": 1, "started": HURT, "ended": HURT, "outcome": HURT})
        samples = read_rows(path / "completions.jsonl")
        for sample in samples:
            sample |= {"split": HURT, "context_id": HURT, "prompt": HURT, "text": HURT, "relevant": [[HURT, 1995]]}
            sample["ranks"] = [[HURT, year, HURT] for _, year, _ in sample["ranks"]]
        write_lines(path / "completions.jsonl", samples)
        with (path / "metrics.jsonl").open("a") as file:
            for split, value in (("train", 0.5), ("validation", float("nan")), (HURT, 0.5)):
                row = {"step": 50, "split": split, "metric": HURT, "value": value}
                file.write(json.dumps(row) + "\n")
        (table,) = path.glob("predictions-test-*.parquet")
        pd.read_parquet(table).assign(**{f"ndcg@10 {HURT}": 0.5}).to_parquet(table)
        if trained:
            groups = read_rows(path / "rollouts.jsonl")
            for one in groups:
                one |= {"prompt": HURT, "context_id": HURT, "relevant": [[HURT, 1995]]}
                one["lists"] = [
                    {**made, "text": HURT, "ranks": [[HURT, 1995, HURT, 1.0, 0.5]]} for made in one["lists"]
                ]
            write_lines(path / "rollouts.jsonl", groups)
            write_identity(
                path, {"seed": result["seed"], HURT: HURT, "algorithm": {"name": HURT}, "reward": result["reward"]}
            )
    failed = write_run(folder, "gspo-hits", 0, queries(COLUMNS, ["a", "b"]), status=f"failed\n{HURT}\n")
    odd = write_run(folder, "gspo-hits", 1, queries(COLUMNS, ["a", "b"]))
    edit_result(odd, label=f"../{HURT}")
    failed.rename(failed.with_name(f"seed0 {NAME}"))
    reseal(folder)
    return folder


def test_no_text_of_a_run_becomes_markup(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert report.main([str(runs), "--out", str(out), "--resamples", "20"]) == 0
    page = (out / "report.html").read_text()
    assert page.count("alert(1)") > 50, "the texts are in the page"
    assert page.lower().count("<script") == page.lower().count("</script") == 2, "data and the page's own script"
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "alert(1)" in outside and not re.search(r"<[^>]*\son[a-z]+=", outside)
    for name in ("curves.svg", "training.svg"):
        assert "<script" not in (out / name).read_text().lower()
    assert not re.search(r"(?<!\\)<script", (out / "table.md").read_text())


def test_no_text_of_a_run_becomes_markup_where_pages_lead_to_others(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "sft", 0, queries(COLUMNS, ["a", "b"]), group=f"{NAME}/mini-tiny")
    write_run(tmp_path / "runs", "sft", 0, queries(COLUMNS, ["a", "b"]), group="other/mini-tiny")
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "20"]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("alert(1)") > 1 and page.lower().count("<script") == page.lower().count("</script") == 2


def test_samples_that_no_number_stands_for_do_not_end_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "grpo-hits", 0, queries(COLUMNS, ["a", "b"]))
    lines = [{"ndcg@10": float("inf")}, {"ndcg@10": float("nan")}, {"ndcg@10": None}, {"ndcg@10": 10**300}]
    sample = {"step": 1, "split": "test", "context_id": "a", "prompt": "", "relevant": [], "ranks": [], "text": ""}
    write_lines(run / "completions.jsonl", [sample | line for line in lines])
    reseal(tmp_path)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "20"]) == 0


# Links.

COMMANDS = {
    "report": lambda *words: report.main([*words, "--resamples", "20"]),
    "tables": lambda *words: tables([*words, "--resamples", "20"]),
    "convergence": lambda *words: convergence.main([*words]),
    "curves": lambda *words: curves.main([*words, "--metrics", "ndcg@10"]),
    "ablation": lambda *words: ablation.main([*words, "--resamples", "20"]),
}


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    write_full_sweep(folder, {"grpo-relevance": 0.02, "gspo-relevance": 0.03}, seeds=2, contexts=6, updates=50)
    return folder


@pytest.mark.parametrize("command", ["tables", "convergence", *map(slow, ("report", "curves", "ablation"))])
def test_no_file_is_written_through_a_link(sweep: Path, tmp_path: Path, command: str) -> None:
    """A link in place of an output is replaced, and its target stays unchanged."""
    first, out = tmp_path / "first", tmp_path / "out"
    assert COMMANDS[command](str(sweep), "--out", str(first)) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    written = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    for path in written:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).symlink_to(elsewhere)
    assert COMMANDS[command](str(sweep), "--out", str(out)) == 0
    assert elsewhere.read_text() == "mine" and len(written) >= 2
    assert all((out / path).read_bytes() == (first / path).read_bytes() for path in written)


@pytest.mark.parametrize("command", ["convergence", slow("report"), slow("curves")])
def test_no_folder_of_a_group_leads_out(
    sweep: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "runs"
    both.mkdir()
    for name in ("one", "two"):
        write_full_sweep(both / name, {"grpo-relevance": 0.02}, seeds=1, contexts=4, updates=50, samples=1)
    for path in (both / "two").rglob("result.json"):
        edit_result(path.parent, experiment="two")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "two").symlink_to(elsewhere)
    assert COMMANDS[command](str(both), "--out", str(out)) == 2
    assert "leads out of" in capsys.readouterr().err and list(elsewhere.iterdir()) == []
    assert COMMANDS[command](str(both), "--out", str(tmp_path / "good")) == 0


# Spreadsheets and Markdown.


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        *((number, number) for number in ("-0.5", "+1", "-1e-9", "-inf", "0", "", "grpo-hits", "a=b")),
        *(
            (text, f"'{text}")
            for text in ("=1+1", "+cmd", "-2+3", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http://x","y")')
        ),
    ],
)
def test_cells_that_a_spreadsheet_would_run_are_text(cell: str, shown: str) -> None:
    assert as_text(cell) == shown
    assert list(csv.reader(io.StringIO(csv_text(["a", "=b"], [[cell, "x"]]), newline="")))[0] == ["a", "'=b"]


def test_no_table_holds_a_formula(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = write_run(tmp_path / "runs", "=grpo-hits", seed, queries(COLUMNS, ["a", "b"]), rule="last")
        edit_result(run, experiment="@one", dataset="+two", model="-three")
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "20"]) == 0
    table = pd.read_csv(tmp_path / "out/table.csv", dtype=str)
    for key, value in {"label": "=grpo-hits", "experiment": "@one", "dataset": "+two", "model": "-three"}.items():
        assert set(table[key]) == {f"'{value}"}


def test_markdown_leaves_comparisons_as_they_are() -> None:
    assert no_markup("p < .05, <.001, a<b, <script>, </p>, <!--") == (
        "p < .05, <.001, a\\<b, \\<script>, \\</p>, \\<!--"
    )
