"""Plugins that add a dataset, metrics and matchers: registered, used, checked, and part of a run's record."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis.collection import collect
from rlbench.base import content
from rlbench.base.cache import Cache
from rlbench.base.errors import BadInput
from rlbench.config import plugins as registry
from rlbench.config.datasets import DATASETS
from rlbench.config.plugins import load_plugins, used_by
from rlbench.config.resolving import resolve
from rlbench.config.schema import MatchingConfig
from rlbench.data.cached import open_dataset
from rlbench.lists.catalog import MATCHERS, NORMALISERS, Catalog
from rlbench.lists.metric_catalogue import METRICS, metric_of, metric_title, selectable
from rlbench.lists.plugged import QUERY_METRICS, query_metrics
from rlbench.lists.relevance import make_judge
from rlbench.running.checks import check_config, check_values
from rlbench.running.cli import check_overrides
from rlbench.running.runner import run
from rlbench.runs.directory import DONE, locate
from rlbench.runs.record import required_metrics
from tests.conftest import SMALL, composed
from tests.helpers_analysis import queries, reseal, write_run

DATA = """
from dataclasses import dataclass
from pathlib import Path

from rlbench.config.datasets import dataset
from rlbench.config.schema import DatasetConfig
from rlbench.data.checks import fingerprint
from rlbench.data.record import RankedListDataset, Record
from rlbench.lists.catalog import Catalog


@dataclass
class ShelfConfig(DatasetConfig):
    path: str | None
    paths = ("path",)


def sources(config: ShelfConfig) -> dict[str, Path]:
    return {"shelf": Path(str(config.path))}


@dataset("shelf", schema=ShelfConfig, about="a shelf of books", sources=sources)
def load(config: ShelfConfig) -> RankedListDataset:
    titles = Path(str(config.path)).read_text().split()
    catalog = Catalog([(title, None) for title in titles])
    ask = [{"role": "user", "content": "books?"}]
    splits = {split: [Record(ask, [(titles[0], None)], [], split)] for split in ("train", "validation", "test")}
    return RankedListDataset("shelf", catalog, splits, fingerprint=fingerprint(splits, catalog))
"""
LISTS = """
import numpy as np

from rlbench.lists.catalog import Catalog, matcher, normaliser
from rlbench.lists.plugged import query_metric


@query_metric(title="Precision@{k}", unit="share", better="higher")
def precision(lists, facts, k):
    return lists.hits[:, :k].sum(axis=1) / k


@query_metric(title="Characters", better="lower")
def size(lists, facts):
    return lists.n_tokens.astype(np.float64)


@normaliser
def vowels(title: str) -> str:
    return title.translate(str.maketrans("", "", "aeiou")) or title


@matcher
def first_word(title: str, year: int | None, catalog: Catalog) -> int:
    words = [name.split()[0].lower() for name, _ in catalog.items]
    word = title.split()[0].lower()
    return words.index(word) if word in words else -1
"""


@pytest.fixture
def plugin(tmp_path):
    """Write and load a plugin; what it registers is removed afterwards."""
    kept = [(each, dict(each)) for each in (DATASETS, METRICS, QUERY_METRICS, NORMALISERS, MATCHERS, registry._failed)]
    modules, shared = set(sys.modules), set(registry._of_every_stage)

    def make(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    yield make
    for each, before in kept:
        each.clear()
        each.update(before)
    registry._of_every_stage.intersection_update(shared)
    for name in set(sys.modules) - modules:
        if name.startswith("rlbench_plugin:"):
            del sys.modules[name]


@pytest.mark.slow
def test_a_metric_is_registered_measured_and_may_choose_a_checkpoint(plugin, tmp_path):
    path = plugin(LISTS)
    folders = [f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    config = composed("+debug=smoke", "stage=zero_shot", f"plugins=[{path}]", "evaluation.metric=precision@5", *folders)
    assert not any("evaluation.metric" in problem for problem in check_values(config)), "plugins are not loaded yet"
    assert load_plugins(config.plugins) == [] and check_config(config) == []
    assert metric_of("precision@5").label == "Precision@5 (share)" and "precision@5" in selectable([5])
    assert "size" not in selectable([5])
    made = run(config)
    table = pd.read_parquet(next(made.root.glob("predictions-test-*.parquet")))
    np.testing.assert_allclose(table["precision@5"], table["recall@5"] * table["n_truth"] / 5)
    assert (table["size"] == table["completion_tokens"]).all()
    manifest = json.loads((made.root / "manifest.json").read_text())
    assert list(manifest["plugins"]) == [path], "a shared stage depends on a plugin with a metric"
    assert run(config) == made and made.status() == DONE
    (tmp_path / "mine.py").write_text(LISTS + "\n# changed\n")
    with pytest.raises(BadInput, match="different version of the plugins"):
        run(config)


def test_an_unknown_metric_is_refused_with_plugins_too(plugin):
    config = composed("+debug=smoke", f"plugins=[{plugin(LISTS)}]", "evaluation.metric=precision@7")
    (problem,) = check_config(config)
    assert "evaluation.metric = 'precision@7' is unknown" in problem and "precision@5" in problem


def test_steps_and_matchers(plugin):
    path = plugin(LISTS)
    config = composed("+debug=smoke", f"plugins=[{path}]", "matching.normalisers=[casefold,vowels]")
    assert check_config(config) == []
    catalog = Catalog([("Dune Messiah", None), ("Emma", None)])
    judge = make_judge(MatchingConfig("m", "ours", ["casefold", "vowels"], 0, None), catalog, 3)
    assert judge.catalog.find("DNE MSSH", None) == 0
    judge = make_judge(MatchingConfig("m", "first_word", ["casefold"], 0, None), catalog, 3)
    lists = judge(judge.read(["Dune\nEmma (Penguin Classics)\nUlysses"]), [[("Dune Messiah", None)]], [[]])
    assert lists.items.tolist() == [[0, 1, -1]] and lists.hits.tolist() == [[1, 0, 0]]
    assert check_config(composed("+debug=smoke", f"plugins=[{path}]", "matching.rules=first_word")) == []
    (problem,) = check_config(composed("+debug=smoke", f"plugins=[{path}]", "matching.rules=last_word"))
    assert "matching.rules = 'last_word' is unknown; known: ours, published, first_word" in problem


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("return lists.hits", r"metric bad: must return numpy float64 of shape \(2,\), but returned float64 \(2, 3\)"),
        ("return 1.0", "but returned float"),
        ("return lists.n_tokens / 0.0 * 0", "metric bad: returned nan for query 0"),
    ],
)
def test_bad_values_of_a_metric(plugin, line, words):
    start = "from rlbench.lists.plugged import query_metric\n@query_metric(title='Bad')\ndef bad(lists, facts):\n"
    text = f"{start}    {line}\n"
    assert load_plugins([plugin(text)]) == []
    judge = make_judge(MatchingConfig("m", "ours", [], 0, None), Catalog([("Dune", None)]), 3)
    with np.errstate(all="ignore"), pytest.raises(BadInput, match=words):
        query_metrics(judge(judge.read(["Dune", "x"]), [[("Dune", None)]] * 2, [[], []]), None, [1])


def test_a_matcher_that_returns_no_index(plugin):
    assert (
        load_plugins([plugin("from rlbench.lists.catalog import matcher\n@matcher\ndef far(t, y, c):\n    return 9\n")])
        == []
    )
    judge = make_judge(MatchingConfig("m", "far", [], 0, None), Catalog([("Dune", None)]), 3)
    with pytest.raises(BadInput, match="matching.rules = 'far': returned 9 for Emma; it must return an index below 1"):
        judge(judge.read(["Emma"]), [[("Dune", None)]], [[]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DATA.replace('"shelf"', '"mini"'), "two datasets are called 'mini'"),
        (LISTS.replace("def precision", "def recall"), "two metrics are called 'recall@k'"),
        (LISTS.replace("def vowels", "def casefold"), "two matching rules or steps are called 'casefold'"),
        (LISTS.replace("def first_word", "def ours"), "two matching rules or steps are called 'ours'"),
    ],
)
def test_names_that_are_taken(plugin, text, words):
    (problem,) = load_plugins([plugin(text)])
    assert words in problem


def test_a_dataset_of_a_plugin(plugin, tmp_path):
    """Resolving loads the plugin if its dataset is not known yet. The cache depends on the plugin's code."""
    (tmp_path / "shelf.txt").write_text("Dune Emma Ulysses Beloved")
    path = plugin(DATA)
    config = composed("+debug=smoke", f"plugins=[{path}]")
    values = asdict(config)
    common = {"name": "shelf", "list_length": 3, "cutoffs": None, "line_format": "{title}", "item": "book"}
    values["dataset"] = common | {"path": str(tmp_path / "shelf.txt")}
    config = resolve(OmegaConf.create(values))
    assert type(config.dataset).__name__ == "ShelfConfig" and used_by("sft", [path]) == [path]
    cache = Cache(tmp_path / "cache", print)
    first, second = (open_dataset(config.dataset, cache) for _ in range(2))
    assert first.fingerprint == second.fingerprint and first.item == "book"
    assert len(list((tmp_path / "cache").glob("shelf-*"))) == 1
    (tmp_path / "mine.py").write_text(DATA + "\n")
    content.forget()
    open_dataset(config.dataset, cache)
    assert len(list((tmp_path / "cache").glob("shelf-*"))) == 2, "other code, other folder"


def test_an_unknown_dataset_and_a_broken_plugin_are_reported_together(plugin, tmp_path):
    values = asdict(composed("+debug=smoke"))
    values["plugins"], values["dataset"]["name"] = [plugin("1 / 0\n")], "shelf"
    with pytest.raises(BadInput) as error:
        resolve(OmegaConf.create(values))
    assert "fails when it is loaded, at line 1: ZeroDivisionError" in error.value.problems[0]
    assert "dataset.name = 'shelf' is unknown" in error.value.problems[1]


def test_pieces_alone_leave_shared_stages_alone(plugin):
    path = plugin("STRENGTH = 1\n")
    assert load_plugins([path]) == [] and used_by("sft", [path]) == [] and used_by("rl", [path]) == [path]
    assert locate(composed(*SMALL, f"plugins=[{path}]"), "sft")


@pytest.mark.parametrize(
    "setting",
    ["evaluation.metric=precision@5", "matching.rules=first_word", "matching.normalisers=[vowels]",
     "+reward.terms.mine.weight=1.0", "dataset.name=letters"],
)  # fmt: skip
def test_an_unknown_name_that_a_plugin_may_add_hints_at_plugins(setting: str) -> None:
    hint = "If a plugin adds it, name the plugin: plugins=[FILE.py]"
    if setting.startswith("dataset"):
        with pytest.raises(BadInput) as error:
            composed(setting)
        problems = error.value.problems
    else:
        problems = check_values(composed("+debug=smoke", setting))
    assert any("is unknown" in said and hint in said for said in problems)


def test_an_unknown_option_hints_at_files_of_ones_own_and_an_unknown_baseline_at_scoring() -> None:
    with pytest.raises(
        BadInput, match=r"--config-dir FOLDER, with dataset/letters.yaml in it and.*plugins=\[FILE.py\]"
    ):
        check_overrides(["dataset=letters"])
    (said,) = check_values(composed("+debug=smoke", "baselines=[mine]"))
    assert "Plugins (plugins=) cannot add baselines" in said and "score" in said


METRIC = """
import numpy as np
from rlbench.lists.plugged import query_metric


@query_metric(title="Surprise@{k}", unit="share", better="higher")
def surprise(lists, facts, k):
    return np.zeros(len(lists))
"""


def run_with_plugin(runs: Path, name: str) -> None:
    names = [*required_metrics([5, 10]), "surprise@5", "surprise@10"]
    path = write_run(runs, "zero_shot", 0, queries(dict.fromkeys(names, [0.5, 0.25]), ["a", "b"]))
    (path / "config.yaml").write_text(json.dumps({"plugins": [name]}))
    reseal(runs)


def test_commands_that_read_runs_load_the_plugins_of_their_metrics(plugin, tmp_path):
    name = plugin(METRIC, "surprises.py")
    run_with_plugin(tmp_path / "runs", name)
    collection = collect(tmp_path / "runs")
    assert collection.problems == () and metric_title("surprise@5") == "Surprise@5"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("gone.py", None, "there is no file"),
        ("other.py", "x = 1\n", "does not register them"),
        ("bad.py", "1 / 0\n", "fails when it is loaded, at line 1: ZeroDivisionError"),
        ("runs/evil.py", "raise SystemExit(3)\n", "is in the folder of runs, from which no code is run"),
    ],
)
def test_a_metric_whose_plugin_is_not_loaded_keeps_its_recorded_name(plugin, tmp_path, name, text, why):
    run_with_plugin(tmp_path / "runs", str(tmp_path / name))
    if text is not None:
        plugin(text, name)
    (problem,) = collect(tmp_path / "runs").problems
    assert not problem.left_out and metric_title("surprise@5") == "surprise@5"
    assert "surprise@5, surprise@10: shown under the recorded name" in problem.reason and why in problem.reason
