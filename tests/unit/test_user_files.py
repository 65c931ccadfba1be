"""Every reader of a user's file: whatever the file contains, the only error is one that names the file."""

import argparse
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.collection.sources import read_config as read_run_config
from analysis.tables.spec import read_spec
from rlbench import inspect
from rlbench.base.errors import BadInput
from rlbench.base.user_files import (
    TWICE,
    read_user_json,
    read_user_lines,
    read_user_text,
    read_user_yaml,
    text_lines,
)
from rlbench.commands import demonstration
from rlbench.config.plugins import load_plugins
from rlbench.data import load_dataset
from rlbench.data.catalog_files import read_catalog
from rlbench.data.record import Record
from rlbench.data.stage1.files import demonstrated, read_rows, read_texts
from rlbench.lists.catalog import Catalog
from rlbench.models.sources import weight_files
from rlbench.running.cli import check_overrides
from tests.conftest import composed
from tests.unit import test_data_movielens as movielens
from tests.unit import test_data_reddit_movie as reddit_movie
from tests.unit import test_data_redial_official as redial_official


def laughs(alias: str) -> bytes:
    """A thousand bytes of YAML that expand to about 10^18 values. `alias` contains LAST nine times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + alias.replace("LAST", ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 20)]
    return "\n".join(lines).encode()


PROMPT = [{"role": "user", "content": "?"}]
SPLITS = {
    "train": [Record(PROMPT, [("Heat", 1995)], [], "t")],
    "validation": [Record(PROMPT, [("Heat", 1995)], [], "v")],
}


def _redial(file: Path) -> None:
    load_dataset(composed("dataset=redial", f"dataset.path={file}", "dataset.list_length=5").dataset)


def _published(name: str, file: Path, write: Callable[[Path], Path]) -> None:
    """Load a published dataset of which one file is bad and the others, written beside it, are good."""
    for other in write(file.parent / "good").iterdir():
        if other.name != file.name:
            shutil.copy(other, file.parent)
    load_dataset(composed(f"dataset={name}", f"dataset.path={file.parent}", "dataset.list_length=2").dataset)


def _redial_official(file: Path) -> None:
    _published(
        "redial_official",
        file,
        lambda folder: redial_official.write(folder, [redial_official.TALK], [redial_official.TALK]),
    )


def _inspired(file: Path) -> None:
    load_dataset(composed("dataset=inspired", f"dataset.path={file}", "dataset.list_length=2").dataset)


def _reddit_movie(file: Path) -> None:
    rows = reddit_movie.TALK
    _published("reddit_movie", file, lambda folder: reddit_movie.write(folder, rows, rows, rows))


def _movielens(file: Path) -> None:
    _published("movielens", file, movielens.write)


def _plugin(file: Path) -> None:
    if problems := load_plugins([str(file)]):
        raise BadInput(*problems)


def _option(file: Path) -> None:
    check_overrides(["--config-dir", str(file.parent.parent), f"algorithm={file.stem}"])


READERS: dict[str, Callable[[Path], object]] = {
    "lists.jsonl": lambda file: read_rows(file, {"context_id": str, "response": str}),
    "films.jsonl": read_texts,
    "ratings.jsonl": demonstration._ratings,
    "demonstrations.jsonl": lambda file: demonstrated(str(file), SPLITS, 5),
    "redial.jsonl": _redial,
    "official/train_data.jsonl": _redial_official,
    "dev.tsv": _inspired,
    "reddit/train.csv": _reddit_movie,
    "reddit/id2name.json": _reddit_movie,
    "movielens/movies.dat": _movielens,
    "movielens/ratings.dat": _movielens,
    "catalogue.json": read_catalog,
    "catalogue.csv": read_catalog,
    "catalogue.pkl": read_catalog,
    "spec.yaml": read_spec,
    "plugin.py": _plugin,
    "config.yaml": lambda file: inspect.read_config(file.parent),
    "analysed/config.yaml": lambda file: read_run_config(file.parent),
    "algorithm/mine.yaml": _option,
    "model.safetensors.index.json": lambda file: weight_files(file.parent, "here"),
}
"""Readers by the name of the file that they read."""

CONTENTS = {
    "gzip": gzip.compress(b'{"context_id": "t", "completion": "Heat (1995)", "title": "Heat", "year": 1995}\n'),
    "utf-16": "title,year\nHeat,1995\n".encode("utf-16"),
    "utf-16 without a mark": '{"context_id": "t"}\n'.encode("utf-16-le"),
    "latin-1": 'title: "Am\xe9lie (2001)"\n'.encode("latin-1"),
    "bytes": bytes(range(256)) * 4,
    "zeros": bytes(100),
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 50_000,
    "5000 digits": b"year: " + b"9" * 5000,
    "only digits": b"9" * 5000,
    "no month": b"title: 2020-13-45\n",
    "no date": b"title: !!timestamp x\n",
    "no integer": b"title: !!int ''\n",
    "aliases": laughs("[LAST]"),
    "merged aliases": laughs("{<<: [LAST]}"),
    "a loop": b"title: &a {rows: [*a]}\n",
    "unclosed": b'{"title": "Heat"',
}
"""Contents that no reader accepts."""

VALUES = ["3", "null", '"x"', "[]", "[3]", "[[NaN, 1e999]]", '[["Heat", NaN]]', '[["Heat", 1e99]]', "{}", '{"a": NaN}']
"""JSON and YAML of the wrong type."""
TAKES = (
    {("plugin.py", value) for value in VALUES}
    | {("algorithm/mine.yaml", value) for value in VALUES}
    | {("analysed/config.yaml", v) for v in ("{}", '{"a": NaN}')}
)
"""Values that a reader accepts, because they are checked later."""


def refused(name: str, file: Path) -> str:
    with pytest.raises(BadInput) as caught:
        READERS[name](file)
    assert "secret" not in str(caught.value)
    said = str(caught.value)
    assert file.name in said or str(file.parent) in said, said
    assert all(problem.strip() and "\n" not in problem and len(problem) < 1000 for problem in caught.value.problems)
    return said


def placed(name: str, folder: Path) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    return folder / name


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_of_another_kind(name, content, tmp_path):
    file = placed(name, tmp_path)
    file.write_bytes(CONTENTS[content])
    if (name, content) == ("plugin.py", "no month"):
        pytest.skip("Python too: an annotation without a value")
    said = refused(name, file)
    if content == "gzip" and not name.endswith((".pkl", ".py")):
        assert "compressed with gzip; unpack it" in said


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", READERS)
def test_values_of_the_wrong_kind(name, value, tmp_path):
    if (name, value) in TAKES:
        pytest.skip("taken")
    file = placed(name, tmp_path)
    file.write_text(value + "\n")
    refused(name, file)


@pytest.mark.parametrize("name", READERS)
def test_an_empty_file_and_a_folder_in_its_place_and_nothing(name, tmp_path):
    file = placed(name, tmp_path)
    if name not in ("plugin.py", "algorithm/mine.yaml"):
        file.write_bytes(b"")
        refused(name, file)
        file.unlink()
    if name != "algorithm/mine.yaml":  # the option does not exist then
        refused(name, file)
    file.mkdir()
    refused(name, file)
    file.rmdir()
    file.symlink_to(tmp_path / "gone")
    refused(name, file)
    file.unlink()
    file.symlink_to(file)
    refused(name, file)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_may_not_be_read(name, tmp_path):
    file = placed(name, tmp_path)
    file.write_text("{}")
    file.chmod(0)
    try:
        file.read_bytes()
    except PermissionError:
        refused(name, file)
    else:
        pytest.skip("this user may read every file")


GOOD = {
    "lists.jsonl": '{"context_id": "t", "response": "Amélie (2001)"}\n',
    "films.jsonl": '{"title": "Amélie", "year": 2001, "text": "x"}\n',
    "demonstrations.jsonl": '{"context_id": "t", "completion": "Amélie (2001)"}\n',
    "catalogue.json": '[["Amélie", 2001]]',
    "catalogue.csv": "title,year\nAmélie,2001\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_mark_of_utf_8_and_windows_line_ends_change_nothing(name, tmp_path):
    file = tmp_path / name
    file.write_text(GOOD[name], encoding="utf-8")
    plain = READERS[name](file)
    file.write_bytes(GOOD[name].replace("\n", "\r\n").encode("utf-8-sig"))
    marked = READERS[name](file)
    assert repr(_content(marked)) == repr(_content(plain))


def _content(read):
    """What a reader returned, with a catalogue as its items."""
    return read[0].items if isinstance(read, tuple) and isinstance(read[0], Catalog) else read


def test_marks_and_text(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}\n')
    assert read_user_text(file) == '{"a": "é"}\n'
    assert read_user_json(file) == read_user_yaml(file) == {"a": "é"}
    assert list(read_user_lines(file)) == [(1, {"a": "é"}, None)]
    file.write_bytes(b'\n{"a": 1}\r\n\nnone\n3')
    assert [(number, value) for number, value, _ in read_user_lines(file)] == [(2, {"a": 1}), (4, None), (5, 3)]
    assert [bool(wrong) for _, _, wrong in read_user_lines(file)] == [False, True, False]
    with pytest.raises(BadInput, match="the films: there is no such file"):
        read_user_text(tmp_path / "none", "the films")
    with pytest.raises(BadInput, match="cannot be read: File name too long"):
        read_user_text(tmp_path / ("x" * 300))


@pytest.mark.parametrize("text", ['{"title": "Heat"}\n{"title": "Alien"}\n', "七人の侍 (1954)\n羅生門 (1950)\n"])
@pytest.mark.parametrize("encoding", [f"utf-{size}{end}" for size in (16, 32) for end in ("", "-le", "-be")])
@pytest.mark.parametrize("read", [read_user_text, lambda file: list(read_user_lines(file)), read_user_json])
def test_other_encodings_are_named(tmp_path, read, encoding, text):
    file = tmp_path / "f.txt"
    file.write_bytes(text.encode(encoding))
    with pytest.raises(BadInput, match=rf"f.txt is {encoding[:6].upper()} text; save it as UTF-8"):
        read(file)


def test_only_newlines_end_lines(tmp_path):
    odd = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"
    assert text_lines(f"{odd}\r\n\n{odd}\n") == [odd, "", odd] and text_lines("") == [] and text_lines("a") == ["a"]
    file = tmp_path / "f.jsonl"
    file.write_text('{"a": 1,\r"b": "x\u2028y\x85"}\n2\n', encoding="utf-8", newline="")
    assert list(read_user_lines(file)) == [(1, {"a": 1, "b": "x\u2028y\x85"}, None), (2, 2, None)]


def test_a_key_that_stands_twice_is_a_problem(tmp_path):
    file = tmp_path / "f.json"
    file.write_text('{"a": {"b": 1, "c": 2, "b": 3}}\n')
    assert list(read_user_lines(file)) == [(1, None, (TWICE, "'b'"))]
    with pytest.raises(BadInput, match="f.json: a key stands twice in one object; keep one: 'b'"):
        read_user_json(file, distinct_keys=True)
    assert read_user_json(file) == {"a": {"b": 3, "c": 2}}, "in files of models, the last one counts"


def lines(file: Path, *rows: tuple[str, str], key: str = "completion") -> Path:
    file.write_text("".join(json.dumps({"context_id": i, key: text}) + "\n" for i, text in rows))
    return file


def test_repeated_lines_of_demonstrations(tmp_path):
    file = tmp_path / "own.jsonl"
    found = demonstrated(str(lines(file, ("t", "A (1999)"), ("t", "B (1999)"))), SPLITS, 5)
    assert found is not None and len(found[0]["sft"]) == 2  # two answers to one request
    with pytest.raises(BadInput, match=r"own.jsonl: 1 contexts have the same demonstration more than once: t"):
        demonstrated(str(lines(file, ("t", "A (1999)"), ("v", "A (1999)"), ("t", "A (1999)"))), SPLITS, 5)
    with pytest.raises(
        BadInput, match=r"own.jsonl: 1 contexts of validation have more than one demonstration.*: v; keep"
    ):
        demonstrated(str(lines(file, ("t", "A (1999)"), ("v", "A (1999)"), ("v", "B (1999)"))), SPLITS, 5)


def test_repeated_ratings_and_texts_of_films(tmp_path):
    file = lines(tmp_path / "ratings.jsonl", ("t", "A (1999)####2"), ("t", "B (1999)####1"), key="response")
    with pytest.raises(BadInput, match=r"ratings.jsonl: 1 contexts have more than one line of ratings: t; keep one"):
        demonstration._ratings(file)
    film = {"title": "Heat", "year": 1995, "text": "x"}
    file = tmp_path / "films.jsonl"
    file.write_text(json.dumps(film) + "\n" + json.dumps(film) + "\n")
    assert read_texts(file) == {("Heat", 1995): "x"}
    file.write_text(json.dumps(film) + "\n" + json.dumps(film | {"text": "y"}) + "\n")
    with pytest.raises(BadInput, match=r"films.jsonl: 1 films have more than one text: Heat \(1995\)"):
        read_texts(file)


@pytest.mark.slow
def test_ratings_and_films_are_read_before_anything_is_encoded_or_written(tmp_path, monkeypatch):
    """A bad ratings file used to be reported only after the candidates had been computed and written."""
    monkeypatch.setattr(demonstration, "load_encoder", None)
    config = composed("dataset=mini")
    context = demonstration.load_dataset(config.dataset).splits["train"][0].context_id
    (tmp_path / "ratings.jsonl").write_text("none\n")
    options = argparse.Namespace(
        lists=lines(tmp_path / "lists.jsonl", (context, "Heat (1995)"), key="response"),
        out=tmp_path / "out.jsonl",
        candidates=tmp_path / "candidates.jsonl",
        ratings=tmp_path / "ratings.jsonl",
        films=None,
        steps="remap_reflect_adjust",
        encoder=None,
        trust_remote_code=False,
    )
    with pytest.raises(BadInput, match="ratings.jsonl, line 1: not JSON"):
        demonstration.demonstrate(options, config)
    assert not options.candidates.exists()
