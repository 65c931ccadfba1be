"""Files around Stage 1, demonstrations added to a dataset from a file, and labels that distinguish them."""

import json
from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.data.record import Record
from rlbench.data.stage1.files import demonstrated, read_ratings, read_rows, read_texts
from rlbench.data.stage1.pipeline import without_instructions
from rlbench.runs.directory import locate
from tests.conftest import composed


def record(context: str, truth: str, completion: str | None = None) -> Record:
    shown = None if completion is None else [{"role": "assistant", "content": completion}]
    return Record([{"role": "user", "content": f"about {context}"}], [(truth, 1999)], [], context, shown)


def jsonl(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SPLITS = {
    "train": [record("a", "Heat"), record("a", "Alien"), record("b", "Jaws")],
    "validation": [record("v", "Up", "published"), record("v", "Her", "published"), record("w", "Ran")],
}


def test_ratings_are_read_line_by_line():
    text = "Heat (1995)####2\n\n3. Alien (1979)#### -1 \nJaws (1975)####5\nJaws (1975)\nno year####1\nUp (2009)####x"
    assert read_ratings(text) == ({("Heat", 1995): 2, ("Alien", 1979): -1}, 4)


def test_demonstrations_of_a_file(tmp_path):
    lines = [("b", "B (2000)\nC (2001)\nD (2002)"), ("a", "A (1999)"), ("v", "V (2003)"), ("b", "E (2004)")]
    path = jsonl(tmp_path / "own.jsonl", *({"context_id": c, "completion": t} for c, t in lines))
    found = demonstrated(str(path), SPLITS, 2)
    assert found is not None
    splits, notices = found
    shown = [(r.context_id, r.ground_truth, r.completion[0]["content"]) for r in splits["sft"]]
    assert shown == [
        ("b", [("Jaws", 1999)], "B (2000)\nC (2001)"),
        ("a", [("Heat", 1999)], "A (1999)"),
        ("b", [("Jaws", 1999)], "E (2004)"),
    ]
    completions = [r.completion and r.completion[0]["content"] for r in splits["validation"]]
    assert completions == ["V (2003)", None, None]  # the dataset's own demonstrations come from another teacher
    assert splits["train"] == SPLITS["train"]
    assert "own.jsonl supplies 3 demonstrations for train and 1 for validation" in notices[0] and "1 of" in notices[1]
    assert demonstrated(None, SPLITS, 2) is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"context_id": "z", "completion": "A (1999)"}], "in neither train nor validation: z"),
        ([{"context_id": "v", "completion": "A (1999)"}], "no demonstration for a context of train"),
        ([{"context_id": 3, "completion": "A (1999)"}], "line 1: context_id must be a str: 3"),
        ([], "has no rows"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, lines, words):
    with pytest.raises(BadInput, match=words):
        demonstrated(str(jsonl(tmp_path / "own.jsonl", *lines)), SPLITS, 2)


def test_all_problems_of_a_file_are_told(tmp_path):
    path = tmp_path / "films.jsonl"
    path.write_text(
        '{"title": "Heat", "year": "1995", "text": ""}\nno json\n{"title": "Up", "year": true, "text": "x"}\n'
    )
    with pytest.raises(BadInput) as error:
        read_texts(path)
    assert len(error.value.problems) == 3
    with pytest.raises(BadInput, match="no such file"):
        read_rows(tmp_path / "nowhere.jsonl", {})


def test_what_all_prompts_share_is_left_out():
    prompts = [f"You are an expert. User: {said} Answer now." for said in ("space?", "a western", "heist films")]
    assert without_instructions(prompts) == ["space?", "a western", "heist films"]
    assert without_instructions(["alone"]) == ["alone"] and without_instructions(["same", "same"]) == ["same", "same"]


@pytest.mark.slow
def test_demonstrations_of_another_source_are_runs_and_rows_of_their_own(tmp_path):
    def at(*overrides: str):
        return composed(f"runs_dir={tmp_path}", *overrides)

    plain, other = at(), at("dataset.demonstrations_from=remap_adjust")
    assert locate(other, "sft").label == "sft@remap_adjust" and other.label == "rank_grpo-relevance@remap_adjust"
    assert locate(other, "sft").root != locate(plain, "sft").root
    for shared in ("oracle", "zero_shot"):
        assert locate(other, shared).root == locate(plain, shared).root
    assert "demonstrations_from" not in locate(plain, "sft").identity["dataset"]
    assert locate(plain, "sft").label == "sft"
