"""Names are names: they lead no path elsewhere."""

import json

import pytest

from analysis.collect import collect
from rlbench.names import check_names, odd_name
from rlbench.places import check_places
from tests.conftest import composed
from tests.helpers_analysis import GROUP, edit_result, queries, write_run

ODD = {
    "": "is empty",
    "  ": "is empty",
    ".": "names the folder itself",
    "..": "names the folder itself",
    "../../x": "separator",
    "/tmp/x": "separator",
    "a\\b": "separator",
    "a\nb": "control character",
    "a\x00b": "control character",
    "a\udc80": "surrogate",
    "é" * 128: "longer than 255 bytes",
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_name(name):
    assert ODD[name] in odd_name(name)


@pytest.mark.parametrize("name", ["mini", "Llama-3.2 1B", "...", "lr=1e-4,β", "x" * 255])
def test_what_is_a_name(name):
    assert odd_name(name) == ""


def test_every_name_of_a_config_is_checked(tmp_path):
    config = composed(f"runs_dir={tmp_path}")
    assert check_names(config) == []
    for owner, key in ((config, "experiment_name"), (config, "variant")):
        setattr(owner, key, "../x")
    for part in ("algorithm", "reward", "dataset", "model"):
        getattr(config, part).name = "a/b"
    problems = check_names(config)
    assert len(problems) == 6 and problems[0].startswith("experiment_name = '../x' holds a separator of paths; give")
    assert set(problems) <= set(check_places(config, to_write=False))


@pytest.mark.parametrize("key", ["experiment", "dataset", "model", "label"])
def test_a_run_with_a_crafted_name_is_left_out_of_an_analysis(key, tmp_path):
    columns = {f"{metric}@{k}": [0.5, 0.25] for metric in ("recall", "ndcg") for k in (5, 10)} | {
        "in_catalog": [1.0, 1.0]
    }
    path = write_run(tmp_path, "sft", 0, queries(columns, ["a", "b"]))
    assert len(collect(tmp_path).runs) == 1
    edit_result(path, **{key: "../../../elsewhere"})
    found = collect(tmp_path)
    assert found.runs.empty
    (problem,) = found.problems
    assert (
        problem.run.startswith(GROUP)
        and f"{key} = '../../../elsewhere'" in problem.reason
        and "separator" in problem.reason
    )
    assert json.loads((path / "result.json").read_text())[key] == "../../../elsewhere"
