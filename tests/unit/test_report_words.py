"""Sentences of a report about ties, zeros, rows that do not vary, and single rows."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.collection import collect
from analysis.collection.origins import origins
from analysis.html.budgets import budgets
from analysis.html.rows import looks
from analysis.render.numbers import at_least
from analysis.statistics import Scores
from analysis.tables.__main__ import main as tables
from analysis.tables.build import build_table
from analysis.tables.cautions import cautions
from analysis.tables.headline import Headline, sentences
from rlbench.runs.directory import seal
from tests.helpers_analysis import edit_result
from tests.helpers_report import names_of, verdict, write_full_sweep

LABELS = ("grpo-relevance", "rank_grpo-relevance", "rank_grpo-log_decay")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words") / "runs"
    write_full_sweep(folder, dict.fromkeys(LABELS, 0.0), seeds=3, contexts=20, updates=20)
    return folder


def words_of(found: Headline, runs: Path) -> str:
    (group,) = collect(runs).groups()
    return " ".join(sentences(found, names_of(group)))


def constant(value: float) -> Scores:
    return Scores(np.full((3, 40, 1), value), np.arange(40), (0, 1, 2))


def test_rows_without_a_hit_are_not_ranked(runs: Path) -> None:
    told = words_of(verdict(dict.fromkeys(LABELS, constant(0.0)), 50), runs)
    assert told == "NDCG@10 on test is 0 in every trained row: no list has a hit, so nothing can be compared."


def test_rows_that_tie_share_the_first_place(runs: Path) -> None:
    scores = {LABELS[0]: constant(0.25), LABELS[1]: constant(0.25), LABELS[2]: constant(0.125)}
    told = words_of(verdict(scores, 50), runs)
    first = "grpo · relevance and rank_grpo · relevance have the same NDCG@10 on test, the highest: .250 [.250, .250]"
    assert told.startswith(f"{first}. No row leads. ")
    assert told.endswith("do not vary over seeds or contexts, so this design’s power is not known.")
    assert not re.search(r"lead over|larger|smaller|highest NDCG", told)


def test_rows_of_equal_means_that_vary_tie_as_well(runs: Path) -> None:
    values = np.random.default_rng(0).random((3, 40, 1))
    scores = {
        LABELS[0]: Scores(values, np.arange(40), (0, 1, 2)),
        LABELS[1]: Scores(values[:, ::-1], np.arange(40), (0, 1, 2)),  # the sums differ only by rounding
    }
    told = words_of(verdict(scores, 50), runs)
    assert "No row leads. With 3 seeds and 40 test contexts a true difference of ." in told
    assert told.endswith("is detected in 80 % of experiments, after the correction.")


def test_a_lead_that_does_not_vary_says_nothing_of_power(runs: Path) -> None:
    told = words_of(verdict({LABELS[0]: constant(0.25), LABELS[1]: constant(0.2)}, 50), runs)
    assert "grpo · relevance has the highest NDCG@10 on test: .250" in told
    assert "larger" not in told and told.endswith("so this design’s power is not known.")


def test_contexts_that_are_not_independent_are_counted_with_their_clusters(runs: Path) -> None:
    """In ReDial the independent units are dialogues, which the headline used to call contexts."""
    values = np.random.default_rng(1).random((2, 3, 40, 1))
    found = verdict({LABELS[i]: Scores(values[i], np.arange(40), (0, 1, 2)) for i in (0, 1)}, 50)
    assert "With 3 seeds and 40 test contexts a true difference" in words_of(found, runs)
    turns = replace(found, contexts=95)
    assert "With 3 seeds and 95 test contexts in 40 clusters a true difference" in words_of(turns, runs)
    alone = replace(turns, lead=replace(found.lead, detectable=None))
    assert "What 3 seeds and 95 test contexts in 40 clusters can detect is not known" in words_of(alone, runs)


def test_a_report_names_contexts_and_clusters_of_its_test_split(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, dict.fromkeys(LABELS[:2], 0.02), seeds=3, contexts=12, updates=10)
    for file in runs.rglob("predictions-test-*.parquet"):
        table = pd.read_parquet(file)
        clusters = "d" + (table["context_id"].str[1:].astype(int) // 2).astype(str)
        table.assign(cluster_id=clusters).to_parquet(file)
        seal(file.parent)
    assert report.main([str(runs), "--out", str(tmp_path / "report"), "--resamples", "20"]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert re.search(r"3\sseeds and 12\stest contexts in 6\sclusters", page)


def test_a_size_that_rounds_to_zero_is_not_zero() -> None:
    assert [at_least(0.0), at_least(0.0004), at_least(0.0006), at_least(0.25)] == [
        ".000",
        "less than .001",
        ".001",
        ".250",
    ]


def told_of(runs: Path, title: str) -> str | None:
    collection = collect(runs)
    (group,) = collection.groups()
    found = cautions(
        group, build_table(group, resamples=20), names_of(group), origins(group, runs), None, collection.problems
    )
    return next((caution.told for caution in found if caution.title == title), None)


def set_test_metrics(run: Path, **values: float) -> None:
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    edit_result(run, metrics=metrics | {"test": metrics["test"] | values})
    (file,) = run.glob("predictions-test-*.parquet")
    table = pd.read_parquet(file)
    table.assign(**{name: value for name, value in values.items() if name in table}).to_parquet(file)
    seal(run)


def test_shares_in_a_warning_are_of_what_it_names(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02}, seeds=1, contexts=10, updates=10)
    (path,) = (runs / "mini/mini-tiny/grpo-relevance").iterdir()
    set_test_metrics(path, in_catalog=0.0, eos=0.25, duplicates=0.5, list_length=7.5)
    assert told_of(runs, "Invented items") == (
        "More than 10\u00a0% of the ranks out of the catalogue on test: grpo · relevance (100\u00a0%)."
    )
    assert told_of(runs, "Lists cut off") == (
        "More than 10\u00a0% not ended by the model on test: grpo · relevance (75\u00a0%)."
    )
    assert told_of(runs, "Repetitive lists") == "More than 20\u00a0% duplicates on test: grpo · relevance (50\u00a0%)."
    assert told_of(runs, "Short lists") == "Fewer than 80\u00a0% of 10 entries on test: grpo · relevance (7.5)."


def test_lists_without_entries_invent_no_film(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02}, seeds=1, contexts=10, updates=10)
    (path,) = (runs / "mini/mini-tiny/grpo-relevance").iterdir()
    set_test_metrics(path, in_catalog=0.0, list_length=0.0)
    assert told_of(runs, "Invented items") is None
    assert told_of(runs, "Short lists") == "Fewer than 80\u00a0% of 10 entries on test: grpo · relevance (0.0)."


def test_the_budget_of_one_row_is_not_compared(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02}, seeds=1, contexts=10, updates=10)
    (group,) = collect(runs).groups()
    assert "All trained rows had the same" not in budgets(group, looks(group))


def test_demonstrations_without_an_end_are_a_warning(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_full_sweep(runs, {"grpo-relevance": 0.02}, seeds=1, contexts=10, updates=10)
    (sft,) = (runs / "mini/mini-tiny/sft").iterdir()
    edit_result(sft, demonstrations={"count": 4000, "at_limit": 9, "without_end": 0})
    assert told_of(runs, "Cut demonstrations") is None
    edit_result(sft, demonstrations={"count": 4000, "at_limit": 1500, "without_end": 1200})
    told = told_of(runs, "Cut demonstrations")
    assert told is not None and told.startswith(
        "Demonstrations that lost their end to trainer.sft.max_length: SFT (1,200 of 4,000)."
    )


def make_constant(runs: Path, value: float) -> None:
    """Set every metric of every run, sample and curve to one value."""
    for path in sorted(file.parent for file in runs.rglob("result.json")):
        metrics = json.loads((path / "result.json").read_text())["metrics"]
        edit_result(path, metrics={split: dict.fromkeys(means, value) for split, means in metrics.items()})
        (file,) = path.glob("predictions-test-*.parquet")
        table = pd.read_parquet(file)
        table.assign(
            **dict.fromkeys([name for name in table if "@" in name or name in LIST_METRICS], value)
        ).to_parquet(file)
        rows = [json.loads(line) | {"value": value} for line in (path / "metrics.jsonl").read_text().splitlines()]
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        seal(path)


LIST_METRICS = ("in_catalog", "duplicates", "list_length")
FORBIDDEN = (
    r"\.000 \(\.000 to \.000\)",
    r"from [−-]?\.000[^.]* on",
    r"highest[^.]*: \.000",
    r"\bnan\b",
    r"[−-]\.000",
    r"More than \d+\s%[^.]*\(0\s%\)",
    r"mean of 1 points",
    r"\d e-1\d",
)
UNKNOWN_POWER = "not shown; the difference does not vary, so this design’s power is not known"


@pytest.mark.parametrize(
    ("value", "labels", "seeds", "told"),
    [
        (0.0, LABELS, 3, ["NDCG@10 on test is 0 in every trained row", UNKNOWN_POWER]),
        (0.25, LABELS, 3, ["have the same NDCG@10 on test, the highest: .250 [.250, .250]", UNKNOWN_POWER]),
        (
            0.0,
            LABELS[:1],
            1,
            ["is the only trained row: NDCG@10 on test .000", "one seed: compares models, not methods"],
        ),
        pytest.param(None, LABELS[:1], 3, ["is the only trained row"], marks=pytest.mark.slow),
        pytest.param(None, LABELS, 1, ["With one seed, this compares trained models"], marks=pytest.mark.slow),
    ],
)
def test_reports_and_tables_of_degenerate_data(
    value: float | None, labels: tuple[str, ...], seeds: int, told: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    runs = tmp_path / "runs"
    write_full_sweep(runs, dict.fromkeys(labels, 0.02), seeds=seeds, contexts=12, updates=10)
    if value is not None:
        make_constant(runs, value)
    assert report.main([str(runs), "--out", str(tmp_path / "report"), "--resamples", "20"]) == 0
    assert tables([str(runs), "--out", str(tmp_path / "tables"), "--resamples", "20"]) == 0
    page = re.sub(
        r"<script.*?</script>|<style.*?</style>", "", (tmp_path / "report/report.html").read_text(), flags=re.S
    )
    shown = [html.unescape(re.sub(r"<[^>]+>", " ", page))]
    shown += [file.read_text() for file in sorted(tmp_path.glob("*/*.md"))]
    text = re.sub(r"[ \n]+", " ", "\n".join(shown))
    for forbidden in FORBIDDEN:
        assert not re.search(forbidden, text), re.findall(f".{{60}}{forbidden}.{{20}}", text)
    for words in told:
        assert words in text, words
