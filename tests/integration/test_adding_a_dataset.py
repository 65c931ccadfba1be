"""docs/adding-a-dataset.md works as written: its files, its commands from file to table, and its plugins."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis import report
from rlbench import datasets
from rlbench.config.plugins import load_plugins
from rlbench.data.own_rows import FIELDS
from tests.helpers import ROOT
from tests.helpers_forked import run_py

PAGE = (ROOT / "docs" / "adding-a-dataset.md").read_text(encoding="utf-8")
EXAMPLE = "examples/adding_a_dataset"
SHORT = ["trainer.sft.updates=4", "trainer.rl.updates=2", "trainer.rl.completions_per_update=8", "evaluation.every=2"]
FEW = ["evaluation.validation_contexts=4", "evaluation.test_contexts=8", "generation.max_new_tokens=24"]
SMALL_BATCHES = ["trainer.sft.batch_size=8", "trainer.sft.micro_batch_size=8", "trainer.rl.micro_batch_size=8"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of each command of the page, after python."""
    lines = re.findall(r"^    python ((?:.*\\\n)*.*)$", PAGE, flags=re.MULTILINE)
    return [shlex.split(line.replace("\\\n", "")) for line in lines]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("books")


def places(folder: Path) -> list[str]:
    return [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]


def test_the_settings_that_the_page_shows_are_those_of_the_example():
    (shown, _) = blocks("yaml")
    assert shown == (ROOT / EXAMPLE / "conf" / "dataset" / "books.yaml").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in PAGE for name in FIELDS)
    assert json.loads(blocks("json")[0]).keys() <= set(FIELDS)


@pytest.mark.slow
def test_from_file_to_table(folder, capsys):
    """At most five commands."""
    check, run, table, *_ = commands()
    assert check[:2] == ["-m", "rlbench.datasets"] and datasets.main(check[2:]) == 0
    assert "no problems" in capsys.readouterr().out
    done = run_py(folder / "log.txt", *run[1:], *SHORT, *SMALL_BATCHES, *FEW, *places(folder))
    assert run[0] == "run.py" and done.wait() == 0, done.output()
    assert table[:3] == ["-m", "analysis.report", "runs/books"]
    assert report.main([str(folder / "runs" / "books"), "--out", str(folder / "report")]) == 0
    text = (folder / "report" / "table.md").read_text(encoding="utf-8")
    assert text.startswith("## books, tiny")
    for row in ("popularity", "item kNN", "SFT", "rank_grpo"):
        assert re.search(rf"^\| {row}", text, re.MULTILINE), row
    (predictions,) = (folder / "runs" / "books" / "books-tiny" / "popularity").glob("*/predictions-test-*.parquet")
    titles = {title for listed in pd.read_parquet(predictions)["titles"] for title in listed}
    catalog = (ROOT / EXAMPLE / "books" / "catalog.txt").read_text(encoding="utf-8").splitlines()
    assert titles and titles <= set(catalog)


@pytest.mark.slow
def test_without_a_settings_file_and_the_other_checks(folder, capsys):
    _, _, _, run, check, stats, _ = commands()
    done = run_py(folder / "log2.txt", *run[1:], "stage=zero_shot", "baselines=[]", *places(folder))
    assert done.wait() == 0, done.output()
    for words in (check, [*stats, f"runtime.data_cache={folder / 'data'}"]):
        assert words[:2] == ["-m", "rlbench.datasets"] and datasets.main(words[2:]) == 0
    said = capsys.readouterr().out
    assert "no problems" in said and "shared with train and sft" in said


def test_the_hub_settings_have_known_keys():
    _, hub = blocks("yaml")
    shown, known = OmegaConf.create(hub), OmegaConf.load(ROOT / "conf" / "dataset" / "hf.yaml")
    assert {key for key in shown if key != "defaults"} <= set(known) and set(shown.columns) <= set(FIELDS)


@pytest.mark.slow
def test_the_plugins_of_the_page(folder):
    """In a process of its own, because registries are global."""
    loader, *others = blocks("python")
    plugin = folder / "plugin.py"
    plugin.write_text("\n\n".join(others), encoding="utf-8")
    (folder / "shelf.py").write_text(loader, encoding="utf-8")
    (folder / "shelf.txt").write_text("Dune\nEmma\nUlysses\n", encoding="utf-8")
    (folder / "conf" / "dataset").mkdir(parents=True)
    settings = {"name": "shelf", "path": str(folder / "shelf.txt"), "list_length": 3, "cutoffs": None}
    OmegaConf.save(settings | {"line_format": "{title}", "item": "book"}, folder / "conf" / "dataset" / "shelf.yaml")
    words = [word.replace("PLUGIN.py", str(plugin)) for word in commands()[-1]]
    done = run_py(folder / "log3.txt", *words[1:], "+debug=smoke", "stage=zero_shot", "baselines=[]", *places(folder))
    assert done.wait() == 0, done.output()
    (root,) = (folder / "runs" / "smoke" / "mini-tiny" / "zero_shot").glob("seed*")
    assert "precision@10" in pd.read_parquet(next(root.glob("predictions-test-*.parquet")))
    assert list(json.loads((root / "manifest.json").read_text())["plugins"]) == [str(plugin)]
    listed = subprocess.run(
        [sys.executable, "-m", "rlbench.datasets", "check", str(folder / "shelf.txt"), "dataset=shelf",
         f"plugins=[{folder / 'shelf.py'}]", "--config-dir", str(folder / "conf")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "no problems: 3 train, 3 validation, 3 test; 3 books in the catalogue" in listed.stdout
    assert load_plugins([]) == []
