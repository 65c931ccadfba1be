"""Specs of tables: what they may contain, and that all mistakes are reported together."""

import re
from pathlib import Path
from typing import Any

import pytest

from analysis.tables.spec import SPECS, ColumnSpec, RowSpec, parse_spec, read_spec
from rlbench.base.errors import BadInput

LEAST: dict[str, Any] = {"title": "T", "rows": [{"where": {"stage": "rl"}}], "columns": ["ndcg@10"]}


def test_the_least_spec() -> None:
    spec = parse_spec(LEAST, "t.yaml")
    assert spec.rows == (RowSpec({"stage": ("rl",)}),)
    assert spec.columns == (ColumnSpec("metric", "ndcg@10"),)
    assert (spec.split, spec.baseline, spec.comparisons, spec.method) == ("test", None, (), "Method")


def test_short_forms() -> None:
    spec = parse_spec(
        LEAST
        | {
            "columns": ["seeds", "seconds", {"difference": "ndcg@all", "to": "sft", "p": True}],
            "group_by": "model",
            "baseline": "grpo-dcg",
            "comparisons": "ndcg@largest",
            "seeds": 3,
            "rows": [{"where": {"algorithm": ["gspo", "grpo"], "rl.num_iterations": 2}, "order": "-test.ndcg@10"}],
        },
        "t.yaml",
    )
    assert [(column.kind, column.of) for column in spec.columns] == [
        ("value", "seeds"), ("value", "seconds"), ("difference", "ndcg@all"),
    ]  # fmt: skip
    assert spec.columns[2].to == {"label": ("sft",)} and spec.columns[2].p
    assert spec.group_by == ("model",) and spec.baseline == {"label": ("grpo-dcg",)}
    assert spec.comparisons == ("ndcg@largest",) and spec.seeds == (0, 1, 2)
    assert spec.rows[0].where == {"algorithm": ("gspo", "grpo"), "rl.num_iterations": (2,)}
    assert spec.rows[0].order == ("-test.ndcg@10",)
    assert parse_spec(LEAST | {"seeds": [7, 3]}, "t.yaml").seeds == (3, 7)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(BadInput) as error:
        parse_spec({"titel": "T", "rows": [{"where": {}}], "columns": [{"metric": "a", "digit": 2}]}, "t.yaml")
    told = "\n".join(error.value.problems)
    assert "the spec has no key 'titel'. Did you mean 'title'?" in told
    assert "title is missing" in told
    assert "rows[0].where is empty" in told
    assert "columns[0] has no key 'digit'. Did you mean 'digits'?" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split": "tset"}, "split is 'tset', which is none of test, validation. Did you mean 'test'?"),
        ({"columns": []}, "columns is empty"),
        ({"columns": "ndcg@10"}, "columns must be a list, not 'ndcg@10'"),
        ({"columns": [{"header": "x"}]}, "columns[0] needs one of metric, difference, improvement, value; it has none"),
        ({"columns": [{"metric": "a", "value": "b"}]}, "it has metric and value"),
        ({"columns": [{"metric": "a", "p": True}]}, "columns[0].p means nothing beside 'metric'"),
        ({"columns": [{"metric": "a", "digits": 9}]}, "columns[0].digits is 9; it must be a whole number from 0 to 6"),
        ({"columns": [{"metric": "a", "digits": True}]}, "columns[0].digits is True"),
        ({"columns": [{"metric": "a", "interval": "±"}]}, "which is none of brackets, plus_minus, none"),
        ({"columns": [{"metric": "a", "statistic": "median"}]}, "columns[0].statistic is 'median'"),
        ({"columns": [{"difference": "a", "p": 1}]}, "columns[0].p must be true or false, not 1"),
        ({"rows": [{"name": "x"}]}, "rows[0] lacks `where`"),
        ({"rows": [{"where": {"stage": []}}]}, "rows[0].where.stage is an empty list"),
        ({"rows": [{"where": {"a": {"b": 1}}}]}, "rows[0].where.a must be a value or a list of values"),
        ({"rows": ["rl"]}, "rows[0] must be a mapping, not 'rl'"),
        ({"names": {"model": "x"}}, "names.model must map values to words, not 'x'"),
        ({"names": {"model": {"a": 1}}}, "names.model.a must be text, not 1"),
        ({"comparisons": "ndcg@10"}, "comparisons needs a baseline"),
        ({"seeds": 0}, "seeds is 0; it must be a list of seeds"),
        ({"seeds": [1, "a"]}, "seeds is [1, 'a']; it must be a list of seeds"),
        ({"title": None}, "title must be text, not nothing"),
        ({1: 2}, "the spec has the key 1, which is no text"),
    ],
)
def test_a_problem_says_where_and_what(changes: dict[Any, Any], told: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_spec(LEAST | changes, "t.yaml")
    assert told in "\n".join(error.value.problems)


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(BadInput, match=re.escape("t.yaml: the spec must be a mapping, not ['a']")):
        parse_spec(["a"], "t.yaml")


def test_a_spec_is_a_file_or_one_that_comes_with_the_harness(tmp_path: Path) -> None:
    assert read_spec(Path("comparison")) == read_spec(SPECS / "comparison.yaml")
    with pytest.raises(BadInput, match="there is no such file. Did you mean 'comparison'. Specs by name: comparison"):
        read_spec(Path("comparisn"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(BadInput, match="bad.yaml is not YAML"):
        read_spec(tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_spec_is_sound(path: Path) -> None:
    assert read_spec(path).columns
