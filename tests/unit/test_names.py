"""Names cannot lead to other paths."""

import copy
import json

import pytest
import yaml

from analysis import report
from analysis.collection import collect
from rlbench.base.errors import BadInput
from rlbench.config.names import check_names, odd_name, row_of_runs
from rlbench.config.places import check_places
from rlbench.running.checks import check_values
from rlbench.runs.directory import locate
from tests.conftest import composed
from tests.helpers_analysis import GROUP, edit_result, queries, reseal, write_run
from tests.helpers_inputs import OF_REDIAL, write_redial

ODD = {
    "": "is empty",
    "  ": "is empty",
    ".": "means the folder itself",
    "..": "means the folder itself",
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
    config.tracker.project = config.tracker.entity = "a\nb"
    problems = check_names(config)
    assert len(problems) == 8 and problems[0].startswith("experiment_name = '../x' contains a path separator; give")
    assert set(problems) <= set(check_places(config, to_write=False))


@pytest.mark.parametrize("key", ["experiment_name", "dataset.name", "algorithm.name"])
def test_no_folder_is_hidden(key):
    (problem,) = check_names(put(composed(), key, ".hidden"))
    assert problem.startswith(f"{key} = '.hidden' starts with a dot, which marks hidden and unfinished folders; give")


@pytest.mark.parametrize("project", [*ODD, "a/b", "a#b", "a%b", "a:b", "a?b", "x" * 129])
def test_a_project_is_a_name_that_trackers_take(project):
    """W&B refuses some of these names when a run starts, and Trackio uses the name for a file."""
    config = composed()
    for good in ("rlbench", "my project", "x" * 128):
        config.tracker.project = good
        assert check_names(config) == []
    config.tracker.project = project
    (problem,) = check_places(config, to_write=False)
    assert problem.startswith("tracker.project = ") and problem.endswith(
        "give another name, such as tracker.project=mine"
    )
    assert "\n" not in problem and "\0" not in problem


ODD_PATHS = {
    "": "is empty",
    " ": "is empty",
    "a\nb": "control character",
    "a\0.jsonl": "control character",
    "a\udc80": "surrogate",
    "x" * 256: "a part longer than 255 bytes",
    "é" * 128 + "/x": "a part longer than 255 bytes",
    "x/" * 2048: "longer than 4095 bytes",
}
PATHS = {
    "dataset=redial": ("dataset.path", "dataset.demonstrations_from"),
    "dataset=reddit_v2": ("dataset.path", "dataset.catalog", "dataset.demonstrations_from"),
    "model=qwen2.5_0.5b": ("model.path",),
    "model=smollm2_135m": ("model.path",),
    "stage=rl": ("runs_dir", "cache_dir"),
}


def put(config, key, value):
    """Return a config with one key changed."""
    config = copy.deepcopy(config)
    section, _, name = key.rpartition(".")
    setattr(getattr(config, section) if section else config, name, value)
    return config


@pytest.mark.parametrize("override", PATHS)
def test_what_is_no_path_is_refused_for_every_path(override):
    """Each used to end in a traceback, or in a message without the key."""
    config = composed(override)
    for key in PATHS[override]:
        for path, why in ODD_PATHS.items():
            (problem,) = check_values(put(config, key, path))
            assert problem.startswith(f"{key} = ") and why in problem and len(problem) < 400
            assert check_names(put(config, key, path)) == []  # reported only once; no file is opened
        for path in ("../x", "..", "/dev/zero", "/proc/self/mem", "a b.jsonl", "x" * 255):
            assert check_values(put(config, key, path)) == []
    assert all(f"dataset.{key}" in PATHS.get(override, ()) for key in config.dataset.paths) or "dataset" not in override


def test_a_home_is_written_out():
    for override, keys in PATHS.items():
        for key in keys:
            problems = check_values(put(composed(override), key, "~/x"))
            said = f"{key} = ~/x: ~ is not expanded to your home folder; write the full path"
            assert problems == ([] if key == "model.path" else [said])
    (problem,) = check_values(put(composed("model=qwen2.5_0.5b"), "model.path", "~nobody-of-this-name/x"))
    assert problem.startswith("model.path = ~nobody-of-this-name/x: there is no user of that name")


@pytest.mark.parametrize("name", ["", "..", "../x", "/tmp/x", "a\nb", "x" * 300])
def test_demonstrations_of_mini_are_a_name_that_is_known(name):
    """The value is part of the row's name. For other data sets it is a path, and only its file name is."""
    config = put(composed(), "dataset.demonstrations_from", name)
    assert bool(check_names(config)) == bool(odd_name(config.label))
    with pytest.raises(BadInput, match="(?s)demonstrations_from = .* is unknown; known: noisy"):
        locate(config, "rl")


@pytest.mark.parametrize("name", ["../up.jsonl", "..", "/dev/zero", "/proc/self/mem", "deeper/x.jsonl"])
def test_demonstrations_from_a_path_lead_no_row_elsewhere(name, tmp_path, monkeypatch):
    """The row's name contains only the file name, and unreadable files are refused."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = put(composed(*OF_REDIAL), "dataset.path", str(write_redial(tmp_path / "data")))
    config = put(config, "dataset.demonstrations_from", name)
    assert "/" not in config.label and odd_name(config.label) == ""
    with pytest.raises(BadInput):
        locate(config, "rl")


def test_a_row_name_that_a_file_makes_too_long_says_so(tmp_path):
    config = put(composed("dataset=redial"), "dataset.demonstrations_from", str(tmp_path / f"{'x' * 240}.jsonl"))
    (problem,) = check_names(config)
    assert "is longer than 255 bytes; choose another with variant=NAME or rename the file in dataset.demon" in problem


@pytest.mark.parametrize("value", [None, 3, "a/b", ""])
def test_a_report_is_tracked_in_a_project_that_is_a_name(value, tmp_path, capsys):
    columns = {f"{metric}@{k}": [0.5, 0.25] for metric in ("recall", "ndcg") for k in (5, 10)} | {
        "in_catalog": [1.0, 1.0]
    }
    path = write_run(tmp_path / "runs", "sft", 0, queries(columns, ["a", "b"]))
    tracker = {} if value is None else {"project": value, "entity": "me"}
    (path / "config.yaml").write_text(yaml.safe_dump({"tracker": tracker}))
    reseal(path)
    command = [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--tracker", "offline"]
    assert report.main(command) == 2
    said = capsys.readouterr().err
    assert f"tracker.project = {value!r}" in said and "report without --tracker" in said
    assert not (tmp_path / "out").exists()


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
        and f"{key} '../../../elsewhere'" in problem.reason
        and "part of a path" in problem.reason
    )
    assert json.loads((path / "result.json").read_text())[key] == "../../../elsewhere"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gpt-4.1-mini", ""),
        ("oracle2", ""),
        ("bm25", "the baseline bm25"),
        ("Oracle", "the stage oracle"),
        ("sft@gold", "the stage sft"),
        ("rank_grpo-mine", "runs of algorithm=rank_grpo"),
        ("mine-log_decay@a@b", "runs with reward=log_decay"),
        ("rank_grpo", ""),
    ],
)
def test_the_rows_that_runs_could_have(name: str, row: str) -> None:
    assert row_of_runs(name, ["grpo", "rank_grpo"], ["log_decay"]) == row
