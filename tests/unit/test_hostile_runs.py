"""A damaged or malicious run directory is left out and its file is named, or the command refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import report as report_command
from analysis import status
from analysis.collection import collect
from analysis.collection import stored as collected
from analysis.collection.origins import origin
from analysis.collection.reading import read_run
from analysis.collection.sources import read_config
from analysis.commands.wandb_check import measured
from analysis.problems import Problem, Unusable
from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.base.files import held
from rlbench.base.records import NESTED, check_of
from rlbench.base.user_files import parse_yaml
from rlbench.runs import recorded
from rlbench.runs.attempts import reserve
from rlbench.runs.directory import Run, check_done, misplaced, seal
from rlbench.runs.record import RolloutGroup, is_greedy
from tests.helpers_analysis import budget, edit_result, queries, write_run

COLUMNS = {name: [0.25, 0.75] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}
DEEP = "[" * 100_000
HUGE = "1" + "0" * 5_000


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One good run, and a second one (seed 1) to damage."""
    for seed in (0, 1):
        curves = [(1, "validation", "ndcg@10", 0.5)]
        write_run(tmp_path / "runs", "grpo-hits", seed, queries(COLUMNS, ["a", "b"]), curves=curves, step=3)
    return tmp_path / "runs"


def second(runs: Path) -> Path:
    return next(runs.rglob("seed1-*"))


def left_out(runs: Path, file: str) -> str:
    """Return the notice about the damaged run, and check that the other run is still read."""
    found = collect(runs)
    assert list(found.runs["seed"]) == [0]
    (problem,) = found.problems
    assert problem.left_out and file in problem.reason and problem.run.endswith(second(runs).name)
    return problem.reason


def left_out_for_content(runs: Path, file: str) -> str:
    """Like `left_out`, but the run's file list matches its files: only their content is wrong."""
    seal(second(runs))
    return left_out(runs, file)


LISTED = ("result.json", "predictions-test-3.parquet", "metrics.jsonl", "budget.json")


@pytest.mark.parametrize("file", LISTED)
@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
def test_a_file_that_differs_from_the_list_of_a_finished_run_leaves_the_run_out(
    runs: Path, file: str, kind: str
) -> None:
    path = second(runs) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if kind != "gone":
        path.write_bytes(content if kind == "flipped" else content[:-1])
    reason = left_out(runs, file)
    assert reason.startswith("damaged: ") and "Restore the file from a backup, or move the folder away" in reason


def test_an_edited_value_that_reads_well_is_noticed(runs: Path) -> None:
    """Only the digest reveals this edit."""
    file = second(runs) / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"budget": budget(updates=9)}))
    left_out(runs, "result.json")


def test_a_finished_run_without_a_list_is_left_out(runs: Path) -> None:
    """The runner refuses it too, because without the list it cannot verify the files."""
    (second(runs) / digests.LIST_FILE).unlink()
    reason = left_out(runs, "files.json is missing")
    assert "Restore the file from a backup, or move the folder away" in reason


@pytest.mark.parametrize("file", ["budget.jsonl", "config.yaml", "completions.jsonl", "predictions-test-9.parquet"])
def test_a_file_that_the_list_does_not_name_leaves_the_run_out(runs: Path, file: str) -> None:
    (second(runs) / file).write_text("")
    left_out(runs, f"{file} was not there when the run ended")


def test_files_that_nothing_reads_may_be_added_to_a_run(runs: Path) -> None:
    for name in ("notes.txt", "mine.json", "slurm.json", "progress.json"):
        (second(runs) / name).write_text("mine")
    assert collect(runs).problems == ()


@pytest.mark.parametrize("content", ["", "[]", "{}", DEEP, '{"files": {}, "sha256": "0"}'])
def test_a_damaged_list_leaves_the_run_out(runs: Path, content: str) -> None:
    (second(runs) / digests.LIST_FILE).write_text(content)
    left_out(runs, digests.LIST_FILE)


@pytest.mark.parametrize(
    "files", [[], {"../x": {"bytes": 0, "sha256": ""}}, {"/x": {"bytes": 0, "sha256": ""}}, {"x": 1}, {"x": {}}]
)
def test_a_list_of_odd_content_with_the_right_digest_leaves_the_run_out(runs: Path, files: Any) -> None:
    digests._write(second(runs), {"files": files, "logs": {}})
    left_out(runs, digests.LIST_FILE)


def test_a_whole_run_with_a_list_is_read_and_its_model_may_be_gone(runs: Path) -> None:
    model = second(runs) / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    digests.seal(model)
    seal(second(runs))
    (model / digests.LIST_FILE).unlink()
    found = collect(runs)
    assert list(found.runs["seed"]) == [0, 1] and found.problems == ()


ODD_RESULTS: list[tuple[str, Any]] = [
    ("seed", True),
    ("seed", -1),
    ("seed", 10**400),
    ("list_length", True),
    ("cutoffs", [{}]),
    ("cutoffs", [True]),
    ("checkpoint", {"rule": None, "step": True}),
    ("checkpoint", {"rule": [], "step": 3}),
    ("checkpoint", {"rule": None, "step": "../../x"}),
    ("metrics", {"test": [], "validation": {}}),
    ("metrics", {"test": {}, "validation": []}),
    ("budget", budget() | {"updates": True}),
    ("budget", budget() | {"updates": float("inf")}),
    ("budget", budget() | {"prompts": 10**400}),
    ("budget", budget() | {"seconds": {"total": 1, "rollout": []}}),
    ("budget", budget() | {"energy_joules": {"cpu": "much"}}),
    ("budget", budget() | {"peak_memory_bytes": [1]}),
    ("variant", []),
    ("algorithm", {}),
    ("reward", None),
    ("stopped", [1]),
    ("stopped", {"update": "1", "reason": "x"}),
    ("label", "../x"),
    ("label", "\ud800"),
    ("note", "\ud800"),
    ("note", json.loads("[" * NESTED + "]" * NESTED)),
    ("list_length", 10**12),
    ("cutoffs", [10**12]),
]


@pytest.mark.parametrize(("key", "value"), ODD_RESULTS)
def test_a_result_with_another_type_leaves_the_run_out(runs: Path, key: str, value: Any) -> None:
    edit_result(second(runs), **{key: value})
    left_out(runs, "result.json")


def test_further_keys_of_a_result_do_no_harm(runs: Path) -> None:
    edit_result(second(runs), more={"a": [1]})
    assert collect(runs).problems == ()


@pytest.mark.parametrize("file", ["result.json", "identity.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", DEEP.encode(), f'{{"a": {HUGE}}}'.encode()])
def test_json_that_cannot_be_read_leaves_the_run_out(runs: Path, file: str, content: bytes) -> None:
    (second(runs) / file).write_bytes(content)
    left_out_for_content(runs, file)


@pytest.mark.parametrize("file", ["result.json", "metrics.jsonl"])
def test_a_folder_in_place_of_a_file_leaves_the_run_out(runs: Path, file: str) -> None:
    (second(runs) / file).unlink()
    (second(runs) / file).mkdir()
    left_out(runs, file)


def measurement(**changes: Any) -> str:
    return json.dumps({"step": 1, "split": "train", "metric": "kl", "value": 0.5} | changes)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "1",
        "{}",
        DEEP,
        measurement(step=-1),
        measurement(step="1"),
        measurement(step=1.5),
        measurement(step=True),
        measurement(step=float("nan")),
        measurement(step=float("inf")),
        measurement(step=2**70),
        measurement(split=1),
        measurement(metric="\ud800"),
        measurement(value="0.5"),
        measurement(value=True),
        measurement(value=10**400),
    ],
)
def test_a_line_that_is_no_measurement_leaves_the_run_out(runs: Path, line: str) -> None:
    with (second(runs) / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    left_out_for_content(runs, "metrics.jsonl is damaged: line 2")


def test_line_separators_within_a_name_do_not_cut_a_line(runs: Path) -> None:
    with (second(runs) / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "split": "train", "metric": "a\u2028b", "value": 1}\n')
    seal(second(runs))
    assert "a\u2028b" in set(read_run(second(runs), "x")[1].curves["metric"])


def without(name: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.drop(columns=name)


def with_values(name: str, values: list[Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.assign(**{name: values})


@pytest.mark.parametrize(
    "change",
    [
        *(without(name) for name in ("context_id", "sample", "cluster_id", "n_truth", "recall@5")),
        with_values("context_id", [["a"], ["b"]]),
        with_values("context_id", [{"a": 1}, {"a": 2}]),
        with_values("cluster_id", [["a"], ["b"]]),
        with_values("sample", ["0", "1"]),
        with_values("sample", [[0], [1]]),
        with_values("n_truth", [[0], [1]]),
        with_values("recall@5", [1, 0]),
        with_values("recall@5", ["0.25", "0.75"]),
        with_values("recall@5", [[0.25], [0.75]]),
        with_values("recall@5", [0.25, float("inf")]),
    ],
)
def test_predictions_of_another_form_leave_the_run_out(
    runs: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    path = second(runs) / "predictions-test-3.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    left_out_for_content(runs, path.name)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_predictions_that_are_no_parquet_leave_the_run_out(runs: Path, content: bytes) -> None:
    path = second(runs) / "predictions-test-3.parquet"
    path.write_bytes(content)
    left_out_for_content(runs, path.name)


@pytest.mark.parametrize(
    "content", ["[]", "a", "!!python/object:os.system {}", "a: 2001-99-99", "a: &a {b: *a}", "[" * 3_000, "\x00"]
)
def test_settings_that_are_no_mapping_are_refused(runs: Path, content: str) -> None:
    (second(runs) / "config.yaml").write_text(content)
    with pytest.raises(BadInput, match=r"config\.yaml"):
        read_config(second(runs))
    assert any("config.yaml" in notice for notice in collected.settings_and_provenance(second(runs))[1])


@pytest.mark.parametrize(
    "content", ["", "[]", DEEP, '{"git": [], "versions": 1, "hardware": {"gpus": 3}, "data": "x"}']
)
def test_origins_of_odd_content_are_empty(runs: Path, content: str) -> None:
    (second(runs) / "manifest.json").write_text(content)
    (second(runs) / "attempts/1").mkdir(parents=True)
    (second(runs) / "attempts/1/attempt.json").write_text(content)
    found = origin(second(runs))
    assert (found.commit, found.started, found.versions, found.command) == ("", "", {}, ())
    collected.settings_and_provenance(second(runs))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(
            ("progress.json", text)
            for text in ("", "[]", DEEP, '{"done": "1"}', '{"total": true}', '{"description": 1}')
        ),
        *(("manifest.json", text) for text in ("", "[]", DEEP, "{}", '{"command": "x"}', '{"command": [1]}')),
        *(("STATUS", text) for text in ("", "odd\n", "\x00")),
        *(("../sweep.json", text) for text in ("", "[]", DEEP, "{}", '{"cells": []}', '{"cells": {"../x": {}}}')),
    ],
)
def test_status_refuses_odd_files_by_name(
    runs: Path, file: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if file == "../sweep.json" and content.startswith("{"):
        cells = json.loads(content)
        content = json.dumps(cells | {"sha256": digests.own_digest(cells)})
    (second(runs) / file).write_text(content)
    assert status.main([str(runs)]) == 2
    assert Path(file).name in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", DEEP, '{"form": 2}', '{"form": 2, "name": 1, "run": []}'])
def test_a_record_of_odd_content_in_a_collection_is_refused(runs: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "collection"
    collected.update(runs, out)
    file = sorted((out / "index").glob("*.json"))[0]
    file.write_text(content)
    if content == '{"form": 2}' or "name" in content:
        file.write_text(content.replace("2", str(collected.FORM)))
    with pytest.raises(BadInput, match=file.name):
        collect(out)


@pytest.mark.parametrize("content", ["", "[]", DEEP])
def test_a_marker_of_odd_content_is_refused(runs: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "collection"
    collected.update(runs, out)
    (out / collected.MARKER).write_text(content)
    with pytest.raises(BadInput, match=collected.MARKER):
        collect(out)


def test_a_collection_notices_that_the_list_of_a_run_has_changed(runs: Path, tmp_path: Path) -> None:
    seal(second(runs))
    collected.update(runs, tmp_path / "collection")
    (second(runs) / digests.LIST_FILE).write_text("{}")
    assert collected.update(runs, tmp_path / "collection").read == 1
    assert len(collect(tmp_path / "collection").runs) == 1


def test_reading_runs_and_their_lists_loads_no_torch() -> None:
    code = "import sys, analysis.collect, analysis.status, rlbench.base.digests; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unreadable_status_leaves_the_run_out(runs: Path) -> None:
    (second(runs) / "STATUS").write_bytes(b"\xff\xfe\n")
    with pytest.raises(Unusable, match="STATUS says"):
        read_run(second(runs), "x")


# Links that point outside a run.

SECRET = "root:x:0:0:secret:/root:/bin/sh"


def link_out(run: Path, file: str) -> Path:
    """Replace a run's file by a link to a file elsewhere, and seal the run. Return the file elsewhere."""
    elsewhere = run.parents[3] / "elsewhere"
    elsewhere.write_text(f"{SECRET}\n")
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).unlink(missing_ok=True)
    (run / file).symlink_to(elsewhere)
    seal(run)
    return elsewhere


LINKS = [
    *("STATUS", "result.json", "identity.json", "config.yaml", "manifest.json", "metrics.jsonl", "budget.jsonl"),
    *("completions.jsonl", "rollouts.jsonl", "predictions-test-3.parquet", "attempts/1/attempt.json", "files.json"),
]


@pytest.mark.parametrize("file", LINKS)
def test_a_file_that_is_a_link_out_of_the_run_is_not_read(
    runs: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if file == "files.json":
        seal(second(runs))
        elsewhere = second(runs).parents[3] / "elsewhere"
        (second(runs) / file).rename(elsewhere)
        (second(runs) / file).symlink_to(elsewhere)
    else:
        link_out(second(runs), file)
    assert SECRET not in left_out(runs, f"{file} is a link to a place outside the run: replace it with the file itself")
    collected.update(runs, runs.parent / "collection")
    assert list(collect(runs.parent / "collection").runs["seed"]) == [0]
    assert status.main([str(runs)]) == 2
    told = capsys.readouterr()
    assert file in told.err and "secret" not in told.out + told.err
    with pytest.raises(BadInput, match=f"{file} is a link to a place outside"):
        check_done(second(runs))


def test_a_run_writes_through_no_link(runs: Path) -> None:
    """A run neither empties a linked lock nor writes to linked logs."""
    for file in (".lock", "metrics.jsonl"):
        elsewhere = link_out(second(runs), file)
        (problem,) = misplaced(second(runs))
        assert f"{file} is a link to a place outside" in problem and elsewhere.read_text() == f"{SECRET}\n"
        with held(second(runs) / file):
            assert elsewhere.read_text() == f"{SECRET}\n"
        (second(runs) / file).unlink()
    (second(runs) / "attempts").symlink_to(runs.parent)
    with pytest.raises(BadInput, match="attempts is a link to a place outside"):
        reserve(second(runs))


def test_links_within_a_run_and_to_whole_runs_are_read(runs: Path, tmp_path: Path) -> None:
    (second(runs) / "manifest.json").write_text("{}")
    (second(runs) / "budget.jsonl").symlink_to(second(runs) / "metrics.jsonl")
    assert misplaced(second(runs)) == []
    (second(runs) / "budget.jsonl").unlink()
    seal(second(runs))
    (tmp_path / "linked").symlink_to(runs)
    assert list(collect(tmp_path / "linked").runs["seed"]) == [0, 1]


def test_inspection_reads_no_link_and_resolves_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    (second(runs) / "config.yaml").write_text("experiment_name: ${oc.env:SECRET}\nseed: a\n")
    with pytest.raises(BadInput) as caught:
        recorded.read_config(second(runs))
    assert SECRET not in str(caught.value)
    assert recorded._literal({"a": ["${b}", 1]}) == {"a": ["\\${b}", 1]}
    link_out(second(runs), "config.yaml")
    with pytest.raises(BadInput, match="config.yaml is a link to a place outside"):
        recorded.read_config(second(runs))


def test_messages_quote_nothing_of_a_yaml_file_and_move_no_cursor() -> None:
    with pytest.raises(BadInput) as caught:
        parse_yaml("secret: word: more", "config.yaml")
    assert str(caught.value) == "config.yaml is not YAML: mapping values are not allowed in this context (line 1)"
    assert str(Problem("a\x1b[2Jb\u202e", "c\nd\u00a0e")) == "a\\x1b[2Jb\\u202e: c\nd\u00a0e"


# Readers outside the tables.

is_group = check_of(RolloutGroup)

FILM = ["Heat", 1995]
GREEDY = {
    **{"step": 1, "split": "validation", "context_id": "a", "prompt": "?", "relevant": [FILM], "text": "Heat (1995)"},
    **{"ranks": [[*FILM, "hit"]], "ndcg@10": 0.5},
}
LIST = {"ranks": [[*FILM, "hit", 1.0, None]], "reward": 0.5, "hits": 1, "finished": True, "text": "Heat (1995)"}
GROUP = {"step": 1, "context_id": None, "prompt": "?", "relevant": [FILM], "lists": [LIST]}


@pytest.mark.parametrize("key", GREEDY)
@pytest.mark.parametrize("value", [{}, [1], [["x"]], "\ud800", True])
def test_a_sample_list_has_its_types(key: str, value: Any) -> None:
    assert is_greedy(GREEDY) and is_greedy(GREEDY | {"context_id": None, "ndcg@10": float("nan")})
    assert not is_greedy(GREEDY | {key: value})
    assert key.startswith("ndcg") or not is_greedy({name: one for name, one in GREEDY.items() if name != key})


@pytest.mark.parametrize("key", [*GROUP, *LIST])
@pytest.mark.parametrize("value", [{}, [1], [["x"]], "\ud800", -1])
def test_a_sampled_group_has_its_types(key: str, value: Any) -> None:
    assert is_group(GROUP)
    if (key, value) != ("reward", -1):
        assert not is_group(GROUP | ({"lists": [LIST | {key: value}]} if key in LIST else {key: value}))


@pytest.mark.parametrize("content", [b"\n", b"[]\n", b"\xff\n", b'{"step": 1}\n', DEEP.encode() + b"\n"])
def test_damaged_samples_are_left_out_of_a_page_by_name(runs: Path, tmp_path: Path, content: bytes) -> None:
    for name, good in (("completions.jsonl", GREEDY), ("rollouts.jsonl", GROUP)):
        (first(runs) / name).write_bytes(f"{json.dumps(good)}\n".encode() + content)
        seal(first(runs))
    assert report_command.main([str(runs), "--out", str(tmp_path / "out"), "--resamples", "20"]) == 0
    page = (tmp_path / "out/report.html").read_text()
    for name in ("completions.jsonl", "rollouts.jsonl"):
        assert f"{first(runs).name}/{name} is damaged: line 2" in page


def first(runs: Path) -> Path:
    return next(runs.rglob("seed0-*"))


@pytest.mark.parametrize("content", ["[]\n", "\n", '{"step": 1}\n', measurement(value="x") + "\n", DEEP + "\n"])
def test_the_check_of_wandb_names_a_damaged_file(runs: Path, content: str) -> None:
    file = second(runs) / "metrics.jsonl"
    file.write_text(measurement() + "\n" + content + '{"cut sho')
    with pytest.raises(BadInput, match=r"metrics\.jsonl is damaged: line 2"):
        measured(file)


@pytest.mark.parametrize("content", ["", "[]", DEEP, '{"stopped": 1}', '{"stopped": {"update": 3}}'])
def test_the_note_of_an_early_stop_names_a_damaged_result(runs: Path, content: str) -> None:
    (second(runs) / "result.json").write_text(content)
    with pytest.raises(BadInput, match=r"result\.json is damaged.*run the same command again"):
        Run(second(runs), "rl", "grpo-hits", 1, "0" * 8, {}).stopped_early()


@pytest.mark.parametrize("part", collected.PARTS)
@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_part_of_a_collection_is_refused(
    runs: Path, tmp_path: Path, part: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "collection"
    collected.update(runs, out)
    file = sorted((out / part).iterdir())[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if kind != "gone":
        file.write_bytes({"flipped": content, "cut": content[:-1], "empty": b""}[kind])
    assert report_command.main([str(out), "--out", str(tmp_path / "report"), "--resamples", "20"]) == 2
    told = capsys.readouterr().err
    assert file.name in told and "remove the collection, and collect the runs again" in told


def test_an_edited_record_of_a_collection_is_refused(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "collection"
    collected.update(runs, out)
    file = sorted((out / "index").glob("*.json"))[0]
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 7').replace('"seed": 1', '"seed": 7'))
    with pytest.raises(BadInput, match=f"{file.name} is damaged: it has changed since it was written"):
        collect(out)


def test_odd_settings_and_numbers_fit_into_the_run_table(runs: Path, tmp_path: Path) -> None:
    edit_result(second(runs), budget=budget() | {"prompts": 10**30})
    (second(runs) / "config.yaml").write_text(f"seed: {2**70}\na: [1]\n")
    (second(runs) / "attempts/1").mkdir(parents=True)
    (second(runs) / "attempts/1/attempt.json").write_text('{"started": "\\ud800", "ended": [1]}')
    seal(second(runs))
    collected.update(runs, tmp_path / "collection")
    table = pd.read_parquet(tmp_path / "collection/runs.parquet")
    assert table["prompts"].tolist() == ["0", str(10**30)] and table["config.seed"].tolist()[1] == str(2**70)
