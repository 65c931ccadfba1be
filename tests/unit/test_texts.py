"""Half a character (a lone surrogate) in user input: the reader refuses it and names file, row and field."""

import json

import pytest

from rlbench.base.errors import BadInput
from rlbench.base.texts import broken_texts
from rlbench.config.schema import RedialConfig
from rlbench.data.checks import check_records
from rlbench.data.record import Record
from rlbench.data.redial import load
from rlbench.data.stage1.files import read_rows
from tests.conftest import composed

HALF = "\ud83c"


def test_where_it_stands_is_found():
    assert broken_texts({"a": [("x", 1), (HALF, 2)], HALF + "b": None}) == [HALF, HALF + "b"]
    assert broken_texts({"a": ["\N{CLAPPER BOARD}", 3, None, True]}) == []


@pytest.mark.parametrize("field", ["context", "resp", "entity_name", "dialog_id"])
def test_redial(field, tmp_path):
    row = {"context": ["Hi"], "resp": "Heat (1995)", "entity_name": ["Heat (1995)"], "dialog_id": "d", "is_user": 0}
    row[field] = [HALF] if isinstance(row[field], list) else HALF
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    settings = RedialConfig(
        name="redial",
        list_length=1,
        cutoffs=[1],
        path=str(tmp_path),
        prompt_template="{conversation}",
        validation_fraction=0.1,
        test_fraction=0.2,
        seed=0,
    )
    with pytest.raises(BadInput) as error:
        load(settings)
    assert any(f"line 1: {field} contains half a character" in problem for problem in error.value.problems)
    str(error.value).encode()  # the message can be printed


def test_demonstrations_and_lists_of_a_teacher(tmp_path):
    file = tmp_path / "lists.jsonl"
    file.write_text(json.dumps({"context_id": "a", "response": HALF}) + "\n")
    with pytest.raises(BadInput, match="line 1: response contains half a character"):
        read_rows(file, {"context_id": str, "response": str})


@pytest.mark.parametrize("field", ["prompt", "ground_truth", "seen_titles", "context_id", "completion"])
def test_every_text_of_a_record(field):
    values = {"prompt": [{"role": "user", "content": "hi"}], "ground_truth": [("Heat", 1995)], "seen_titles": ["Up"]}
    values |= {"context_id": "a", "completion": [{"role": "assistant", "content": "Heat (1995)"}]}
    assert check_records([Record(**values)], "test") == []
    values[field] = {
        "prompt": [{"role": "user", "content": HALF}],
        "ground_truth": [(HALF, 1995)],
        "seen_titles": [HALF],
        "context_id": HALF,
        "completion": [{"role": "assistant", "content": HALF}],
    }[field]
    (problem,) = check_records([Record(**values)], "test")
    assert "a text contains half a character" in problem and "\\ud83c" in problem


def test_a_config():
    with pytest.raises(BadInput, match=r"contains half a character"):
        composed(f"dataset.prompt_template='{HALF}'")
