"""The page that compares several experiments: what differs, which rows share a table, and what is tested."""

import json
import re
from pathlib import Path

import pytest

from analysis.collection import Collection, collect
from analysis.html import ComparedGroup, compare
from analysis.html.experiments import comparable, facts, joined
from analysis.report import main
from analysis.tables.build import build_table
from tests.helpers_analysis import budget, hash_of, queries, write_run
from tests.helpers_report import rows_of

NAMES = [f"c{i:02d}" for i in range(30)]
COLUMNS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")


def write(folder: Path, group: str, *, level: float, lr: float, updates: int = 10, names: list[str] = NAMES) -> None:
    """An experiment with SFT and two RL rows of three seeds."""
    experiment = group.split("/")[0]
    flat = queries(dict.fromkeys(COLUMNS, [0.1] * len(names)), names)
    write_run(folder, "sft", 0, flat, group=group, spent=budget(5))
    for label in ("grpo-dcg", "gspo-dcg"):
        gain = level + 0.05 * (label == "gspo-dcg")
        for seed in range(3):
            noise = [0.02 * ((7 * i + 3 * seed + hash_of(label, 0)) % 5 - 2) for i in range(len(names))]
            scores = [gain + 0.001 * seed + one for one in noise]
            write_run(
                folder, label, seed, queries(dict.fromkeys(COLUMNS, scores), names), group=group, step=updates,
                rule="last", spent=budget(updates, 8 * updates, 64 * updates), validation={"ndcg@10": gain},
                identity={"seed": seed, "rl": {"learning_rate": lr}, "at": experiment if label == "x" else "same",
                          "algorithm": {"name": label.partition("-")[0]}},
                curves=[(step, "validation", "ndcg@10", gain * step / updates) for step in (0, updates)],
            )  # fmt: skip


def experiments(*folders: Path) -> list[ComparedGroup]:
    groups: list[Collection] = [group for folder in folders for group in collect(folder).groups()]
    return [
        ComparedGroup(str(group.runs.iloc[0]["experiment"]), "x.html", group, build_table(group, resamples=50))
        for group in groups
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments that differ in the learning rate and in nothing else."""
    folder = tmp_path_factory.mktemp("experiments")
    write(folder, "low/mini-tiny", level=0.3, lr=1e-6)
    write(folder, "high/mini-tiny", level=0.4, lr=1e-4)
    return folder


def test_what_differs_is_told_and_what_is_shared_is_folded(two: Path) -> None:
    compared = compare(experiments(two), resamples=50)
    page = compared.sections["differences"].replace("<wbr>", "")
    assert rows_of(page, "differences-table") == [["rl.learning_rate", "0.0001", "1e-06"]]
    assert "algorithm.name" in page.split("The same in all")[1]
    (high, low) = experiments(two)
    assert facts(high.group)["algorithm.name"] == "varies"
    assert facts(low.group)["updates per run"] == "10" and facts(low.group)["test samples"] == "30 of 30 contexts"


def test_rows_of_equal_samples_and_budgets_are_tested_once(two: Path) -> None:
    found = experiments(two)
    assert [[one.name for one in together] for together in comparable(found)] == [["high", "low"]]
    table = joined(found, 50)
    (lead,) = table.leads
    assert lead.tests == 1 and len(lead.over) == 3 and all(one.reason == "" for one in lead.over)
    page = compare(found, resamples=50).sections["rows"]
    methods = [(row[0].strip(), row[1]) for row in rows_of(page, "rows-0")]
    assert methods == [
        ("SFT †", "all"), ("grpo · dcg", "high"), ("gspo · dcg", "high"), ("grpo · dcg", "low"), ("gspo · dcg", "low"),
    ]  # fmt: skip
    assert "Lead of gspo · dcg of high" in page and page.count("corrected p") == 1
    assert [row[1] for row in rows_of(page, "lead-0")] == ["high", "low", "low"]


def test_the_numbers_are_those_of_the_experiments_own_tables(two: Path) -> None:
    found = experiments(two)
    own = {(one.name, row.label): row.metrics["ndcg@10"] for one in found for row in one.table.rows}
    together = {(row.experiment, row.label): row.metrics["ndcg@10"] for row in joined(found, 50).rows}
    assert together and all(own[key] == cell for key, cell in together.items())


def test_rows_of_other_budgets_are_shown_and_never_tested(two: Path, tmp_path: Path) -> None:
    write(tmp_path, "long/mini-tiny", level=0.6, lr=1e-4, updates=40)
    page = compare(experiments(two, tmp_path), resamples=50).sections["rows"]
    reasons = {(row[0].strip(), row[1]): row[3] for row in rows_of(page, "lead-0")}
    assert reasons["gspo · dcg", "high"] == "no: another budget" and reasons["grpo · dcg", "long"] == "yes"
    marked = {row[1] for row in rows_of(page, "rows-0") if "‡" in row[0]}
    assert marked == {"long"} and "Unequal budgets" in page


def test_other_samples_datasets_and_models_have_tables_of_their_own(two: Path, tmp_path: Path) -> None:
    write(tmp_path, "fewer/mini-tiny", level=0.3, lr=1e-6, names=NAMES[:20])
    write(tmp_path, "other/other-tiny", level=0.3, lr=1e-6)
    write(tmp_path, "large/mini-large", level=0.3, lr=1e-6)
    found = experiments(two, tmp_path)
    assert sorted([one.name for one in together] for together in comparable(found)) == [
        ["fewer"], ["high", "low"], ["large"], ["other"],
    ]  # fmt: skip
    compared = compare(found, resamples=50)
    page = compared.sections["rows"]
    assert page.count('class="sortable"') == 5, "four tables of rows, and one of a lead"
    assert len(compared.data["curves"]["metrics"]) == 4 and "Nothing is compared across tables" in page


def test_no_two_rows_of_the_page_look_alike(two: Path) -> None:
    rows = compare(experiments(two), resamples=50).data["rows"]
    trained = [(row["colour"], tuple(row["dashes"])) for row in rows if row["stage"] == "rl"]
    assert len(set(trained)) == len(trained) == 4
    assert {row["name"] for row in rows if row["stage"] == "rl"} == {
        "grpo · dcg, high", "gspo · dcg, high", "grpo · dcg, low", "gspo · dcg, low",
    }  # fmt: skip


# The command.


def test_the_command_takes_several_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, level in (("a", 0.3), ("b", 0.4)):
        write(tmp_path / name, "mini/mini-tiny", level=level, lr=level / 100)
    failed = next((tmp_path / "b/mini/mini-tiny/grpo-dcg").iterdir())
    (failed / "STATUS").write_text("failed\nno memory\n")
    out = tmp_path / "out"
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out), "--resamples", "50"]) == 0
    index = (out / "report.html").read_text("utf-8")
    assert re.findall(r'href="([^"#]*report.html)"', index) == [
        "1/mini/mini-tiny/report.html", "2/mini/mini-tiny/report.html",
    ]  # fmt: skip
    assert "no memory" not in (out / "1/mini/mini-tiny/report.html").read_text("utf-8")
    assert "no memory" in (out / "2/mini/mini-tiny/report.html").read_text("utf-8")
    data = json.loads(index.split('id="data">')[1].split("</script>")[0])
    assert len({row["name"] for row in data["rows"]}) == 6
    capsys.readouterr()
    assert main([str(tmp_path / "a"), str(tmp_path / "a/mini"), str(tmp_path / "a")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'a/mini'} is in {tmp_path / 'a'}; name it once" in told and "given twice" in told
