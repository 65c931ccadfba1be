"""`rlbench data`: list, check, stats, prepare."""

import json
import os
from pathlib import Path

import pytest

from rlbench.base.user_files import unreachable
from rlbench.config.datasets import DATASETS
from rlbench.data.record import RankedListDataset, Record
from rlbench.data.summary import leaks, near_duplicates, split_counts
from rlbench.datasets import main
from rlbench.lists.catalog import Catalog
from tests.conftest import SMALL
from tests.helpers import ROOT
from tests.helpers_models import save_model
from tests.properties.tokenizers import gpt2_like

OWN = ["--config-dir", str(ROOT / "examples" / "adding_a_dataset" / "conf")]
BOOKS = str(ROOT / "examples" / "adding_a_dataset" / "books")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    def said(*arguments: str, code: int = 0) -> str:
        assert main(arguments) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    return said


def test_list_says_what_there_is_and_where_to_get_it(said):
    text = said("list")
    for name, entry in DATASETS.items():
        assert any(line.startswith(name) and entry.about in line for line in text.splitlines())
        assert entry.get in text
    assert "no files needed" in text and "dataset.path is not set; files: https" in text
    assert "files in examples/adding_a_dataset/books" in said("list", *OWN)


def test_check_of_sound_data(said):
    text = said("check", BOOKS, "dataset=books", *OWN)
    assert "no problems: " in text and "36 books in the catalogue" in text
    assert "note: the files have no validation split" in text


def test_check_reports_all_problems_and_exits_with_1(said, tmp_path):
    rows = [{"prompt": "?", "ground_truth": ["Dune", 3]}, {"ground_truth": ["Emma"]}, "x"]
    (tmp_path / "it's mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = said(
        "check", str(tmp_path / "it's mine.jsonl"), 'dataset.line_format="{title}"', "dataset.item=book", code=1
    )
    assert "line 1: ground_truth must hold names" in text and "line 2: prompt is missing" in text
    assert "line 3: a record must be an object" in text and text.rstrip().endswith("3 problems in jsonl")


def test_check_tells_notices_with_the_problems(said, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "?", "mood": "good"}\n')
    text = said("check", str(tmp_path), code=1)
    assert "note: 1 field 'mood' is not read" in text and "1 problem in jsonl" in text
    assert "note: 1 field 'mood' is not read" in said("stats", "jsonl", f"dataset.path={tmp_path}", code=2)


@pytest.mark.slow
def test_one_broken_dataset_hides_no_other(said, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("defaults: [jsonl, _self_]\nnmae: mine\n")
    (tmp_path / "dataset" / "torn.yaml").write_text("name: [\n")
    text = said("list", "--config-dir", str(tmp_path), code=2)
    assert all(f"\n{name} " in f"\n{text}" for name in DATASETS)
    assert "dataset=mine: " in text and "nmae" in text and "dataset=torn: " in text
    assert said("list", "dataset.nmae=x", code=2).count("no key 'nmae'") == 1, "what is wrong everywhere is said once"


def test_check_of_another_dataset(said, tmp_path):
    text = said("check", str(tmp_path), "dataset=redial", code=1)
    assert "found none of the files" in text and "1 problem in redial" in text


def test_stats(said, tmp_path):
    text = said("stats", "mini", *SMALL, f"runtime.data_cache={tmp_path}")
    for words in ("answerers per context, mean", "share of truths outside the catalogue", "prompts nearly equal"):
        assert words in text
    assert "catalogue: 200 films" in text and "tokens" not in text


def test_stats_with_tokens(said, tmp_path, tiny_folder):
    text = said(
        "stats",
        "books",
        *OWN,
        f"dataset.path={BOOKS}",
        f"runtime.data_cache={tmp_path}",
        "--tokenizer",
        str(tiny_folder),
    )
    assert "tokens per prompt, mean" in text and "tokens per demonstration, most" in text
    assert "cannot be loaded" in said(
        "stats", "mini", *SMALL, f"runtime.data_cache={tmp_path}", "--tokenizer", "./no", code=2
    )
    save_model(tmp_path / "model", "gpt2", gpt2_like())
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    own = ("stats", "mini", *SMALL, f"runtime.data_cache={tmp_path}", "--tokenizer", str(tmp_path / "model"))
    assert "has no tokenizer files" in said(*own, code=2)


def test_prepare_fills_the_cache(said, tmp_path):
    text = said("prepare", "mini", *SMALL, f"runtime.data_cache={tmp_path}")
    assert "mini is stored in" in text and len(list(tmp_path.glob("mini-*/records/test.arrow"))) == 1
    assert "runtime.data_cache = null" in said("prepare", "mini", *SMALL, "runtime.data_cache=null", code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "check needs PATH, a file or folder, before any settings"),
        (["stats"], "stats needs NAME, one of mini, redial"),
        (["stats", "dataset=mini"], "stats needs NAME, one of mini, redial"),
        (["stats", "mni"], "Did you mean 'mini'?"),
        (["stats", "my/file.jsonl"], "'my/file.jsonl' is not the name of a dataset; known: mini, redial"),
        (["prepare", "mini", "redial"], "prepare takes one NAME"),
        (["stats", "redial"], "dataset.path is not set"),
        (["check", "x", "dataset.pth=3"], "dataset.pth"),
    ],
)
def test_what_is_refused(said, arguments, words):
    assert words in said(*arguments, code=2)


def record(context: str, text: str, **more) -> Record:
    return Record([{"role": "user", "content": text}], [("Dune", None)], [], context, **more)


def test_leaks_are_counted_by_kind():
    long = "I would like a long book about the sea with many ships and storms, please, number "
    train = [record("a", f"{long}one"), record("b", "Short?"), record("c", "Other", cluster_id="u")]
    test = [
        record("a", "Leak of the id"),
        record("d", "  SHORT? "),
        record("e", f"{long}two"),
        record("f", "Nothing alike at all", cluster_id="u"),
    ]
    dataset = RankedListDataset("x", Catalog([("Dune", None)]), {"train": train, "validation": [], "test": test})
    leak = leaks(dataset)["test"]
    assert (leak.contexts, leak.clusters, leak.prompts, leak.alike, leak.searched) == (1, 2, 1, 1, 3)
    assert leaks(dataset)["validation"].searched == 0


def test_instructions_do_not_make_prompts_alike():
    rule = "You are an expert. Answer with ten books, one a line, and nothing else, whatever the request may be. "
    assert near_duplicates([f"{rule}The sea?"], [f"{rule}A murder!", f"{rule}Cooking..."]) == 0
    assert (
        near_duplicates([f"{rule}A murder in a quiet village?"], [f"{rule}A murder in a quiet village", f"{rule}Sea"])
        == 1
    )
    assert near_duplicates([], ["a"]) == near_duplicates(["a"], []) == 0


def test_counts_of_a_split():
    records = [record("a", "x"), record("a", "x", gains=(2.0,)), record("b", "yyy")]
    records[2] = Record(records[2].prompt, [("Lost", None), ("Dune", None)], ["Emma"], "b")
    counts = split_counts(records, Catalog([("Dune", None), ("Emma", None)]), tokens=len)
    assert (counts["samples"], counts["contexts"], counts["answerers per context, mean"]) == (3, 2, 1.5)
    assert counts["share of truths outside the catalogue"] == 0.25 and counts["share of the catalogue in truths"] == 0.5
    assert counts["different items in truths"] == 2 and counts["samples with graded truths"] == 1
    assert (counts["tokens per prompt, mean"], counts["tokens per prompt, most"]) == (2, 3)
    assert split_counts([], Catalog([("Dune", None)]))["truths per sample, most"] == 0


def test_help_comes_fast(said, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "every problem of a file or folder" in " ".join(capsys.readouterr().out.split())


def test_paths_with_odd_characters(said, tmp_path: Path):
    place = tmp_path / "a, b=c [d]"
    place.mkdir()
    assert "a, b=c [d]: found no file that ends in .jsonl" in said("check", str(place), code=1)


def test_places_that_cannot_be_looked_into(said, tmp_path: Path):
    long = "x" * 300
    assert "has a part longer than 255 bytes" in said("check", long, code=2)
    assert f"--config-dir {long} cannot be read: " in said("check", BOOKS, "--config-dir", long, code=2)
    assert unreachable(tmp_path) is None and unreachable(tmp_path / "missing") is None


# CI runs as root, for which no folder is without permission. Users rarely do.
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_places_without_permission(said, tmp_path: Path):
    (tmp_path / "shut").mkdir(mode=0)
    for place in (tmp_path / "shut", tmp_path / "shut" / "data"):
        assert "cannot be read: Permission denied" in said("check", str(place), code=1)
        assert "cannot be read: Permission denied" in said("check", BOOKS, "--config-dir", str(place), code=2)
