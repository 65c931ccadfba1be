"""A collection holds the contents of the run directories, whether built at once, run by run, or after a kill.

`test_analysis_collect.py` checks for collections, too, that bad runs are left out.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis import ablation, report
from analysis.collect import main
from analysis.collection import Collection, collect
from analysis.collection import stored as collected
from analysis.collection.stored import Update, update
from rlbench.base.errors import BadInput
from rlbench.runs.directory import seal
from tests.helpers_analysis import edit_result, queries, reseal, write_run

ROOT = Path(__file__).parents[2]
CONTEXTS = ["b", "a", "a"]
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
CURVES = [(25, "validation", "ndcg@10", 0.2), (1, "train", "reward", 0.5), (2, "train", "reward", math.nan)]
SPENT = {"completions": 8, "prompts": 2, "generated_tokens": 90, "trained_tokens": 80, "seconds": 1.5}
CONFIG = "dataset:\n  name: mini\n  cutoffs: [5, 10]\nseed: {seed}\ntracker: {{project: p, entity: null}}\n"


def add_run(runs: Path, label: str, seed: int, rate: float = 1e-4, **options: object) -> Path:
    """A run with its own scores, settings and provenance."""
    rng = np.random.default_rng([len(label), seed])
    scores = {name: rng.random(3) for name in (*METRICS, "in_catalog")}
    identity = {"seed": seed, "rl": {"learning_rate": rate}, "algorithm": {"name": label.split("-")[0]}}
    path = write_run(runs, label, seed, queries(scores, CONTEXTS), curves=CURVES, identity=identity, **options)
    (path / "config.yaml").write_text(CONFIG.format(seed=seed))
    (path / "budget.jsonl").write_text(json.dumps({"update": 1, **SPENT}) + "\n")
    manifest = {
        "git": {"commit": "c0ffee", "dirty": seed == 1, "diff_sha256": None},
        "versions": {"torch": "2.13.0"},
        "packages": {"torch": "2.13.0", "zlib": "1"},
        "hardware": {"cpus": 2, "gpus": ["a", "b"]},
        "command": ["run.py", "reward=a b"],
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    for number in (1, 2, 10):
        (path / "attempts" / str(number)).mkdir(parents=True)
        times = {"started": f"s{number}", "ended": f"e{number}"}
        (path / "attempts" / str(number) / "attempt.json").write_text(json.dumps(times))
    seal(path)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for label, seed in (("sft", 0), ("grpo-dcg", 0), ("grpo-dcg", 1), ("gspo-dcg", 0)):
        add_run(folder, label, seed)
    return folder


def run_of(runs: Path, label: str, seed: int = 0) -> Path:
    return next((runs / "mini/mini-tiny" / label).glob(f"seed{seed}-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_collection(one: Collection, other: Collection) -> None:
    pd.testing.assert_frame_equal(one.runs, other.runs)
    pd.testing.assert_frame_equal(one.curves, other.curves)
    pd.testing.assert_frame_equal(one.spending, other.spending)
    assert (one.problems, one.settings) == (other.problems, other.settings)
    for run in one.runs["run"]:
        names = one.queries.metrics([run])
        assert names == other.queries.metrics([run])
        columns = ["n_truth", *names]
        pd.testing.assert_frame_equal(one.queries.read(run, columns), other.queries.read(run, columns))
        assert one.config(run) == other.config(run)


def test_a_collection_is_the_runs(runs: Path, tmp_path: Path) -> None:
    update(runs, tmp_path / "out")
    same_collection(collect(runs), collect(tmp_path / "out"))
    assert len(collect(tmp_path / "out").problems) == 4  # one NaN for each run


def test_pandas_reads_one_long_table(runs: Path, tmp_path: Path) -> None:
    update(runs, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out/queries")
    assert list(table) == ["run", "context_id", "sample", "cluster_id", "metric", "value"]
    assert len(table) == 4 * 3 * (len(METRICS) + 2)  # plus in_catalog and n_truth
    wide = table.pivot(index=["run", "context_id", "sample"], columns="metric", values="value")
    for path in sorted(runs.rglob("predictions-test-0.parquet")):
        own = wide.loc[path.parent.relative_to(runs).as_posix()]
        truth = pd.read_parquet(path).set_index(["context_id", "sample"]).sort_index()
        for name in (*METRICS, "in_catalog", "n_truth"):
            assert own[name].tolist() == truth[name].tolist()
    assert {str(dtype) for dtype in table[["run", "context_id", "cluster_id", "metric"]].dtypes} == {"category"}
    one = pd.read_parquet(tmp_path / "out/queries", filters=[("metric", "==", "ndcg@5")])
    assert one["value"].tolist() == table[table["metric"] == "ndcg@5"]["value"].tolist() and len(one) == 12


def test_curves_hold_what_had_been_spent(runs: Path, tmp_path: Path) -> None:
    update(runs, tmp_path / "out")
    curves = pd.read_parquet(tmp_path / "out/curves")
    assert list(curves) == ["run", "step", "split", "metric", "value"]
    part = curves[curves["run"] == run_of(runs, "sft").relative_to(runs).as_posix()]
    spent = part[part["split"] == "budget"]
    assert dict(zip(spent["metric"], spent["value"], strict=True)) == SPENT and set(spent["step"]) == {1}
    assert len(part) == len(SPENT) + len(CURVES) and part["value"].isna().sum() == 1


def test_a_metric_is_a_row_group_sorted_by_query(runs: Path, tmp_path: Path) -> None:
    update(runs, tmp_path / "out")
    files = sorted((tmp_path / "out/queries").iterdir())
    assert len(files) == 4
    for file in files:
        groups = pq.ParquetFile(file)
        tables = [groups.read_row_group(place).to_pandas() for place in range(groups.num_row_groups)]
        names = [table["metric"].unique().tolist() for table in tables]
        assert names == [[name] for name in sorted((*METRICS, "in_catalog", "n_truth"))]
        for table in tables:
            assert table["context_id"].tolist() == ["a", "a", "b"] and table["sample"].tolist() == [1, 2, 0]


def test_the_run_table_has_settings_and_provenance(runs: Path, tmp_path: Path) -> None:
    (run_of(runs, "gspo-dcg") / "config.yaml").write_text("seed: [1]\n")
    reseal(runs)
    update(runs, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out/runs.parquet").set_index("run")
    assert list(table["label"]) == ["grpo-dcg", "grpo-dcg", "gspo-dcg", "sft"]
    row = table.loc[run_of(runs, "grpo-dcg", 1).relative_to(runs).as_posix()]
    assert (row["test.ndcg@5"], row["cutoffs"].tolist()) == (collect(runs).runs["test.ndcg@5"][1], [5, 10])
    assert (row["config.dataset.name"], row["config.dataset.cutoffs"]) == ("mini", "[5, 10]")
    assert (row["config.seed"], table["config.seed"].iloc[2]) == ("1", "[1]")  # JSON, since not all are numbers
    assert (row["identity.rl.learning_rate"], row["identity.seed"]) == (1e-4, 1)
    assert (row["git.commit"], row["git.dirty"], row["versions.torch"]) == ("c0ffee", True, "2.13.0")
    assert (row["hardware.cpus"], row["hardware.gpus"], row["command"]) == (2, '["a", "b"]', "run.py 'reward=a b'")
    assert (row["started"], row["ended"]) == ("s1", "e10")
    assert "packages.zlib" not in table and table["config.dataset.name"].isna().sum() == 1
    assert (table["seed"].dtype, table["git.dirty"].dtype, table["updates"].dtype) == ("int64", "bool", "int64")


def test_what_a_run_table_holds_is_of_one_kind_a_column() -> None:
    rows = [{"a": 1, "b": 1, "c": True}, {"b": 0.5, "d": "x", "e": None}, {"d": 1, "e": None, "c": False}]
    assert collected.run_table(rows).to_pydict() == {
        "a": [1, None, None],
        "b": [1.0, 0.5, None],
        "c": [True, None, False],
        "d": [None, '"x"', "1"],
        "e": [None, None, None],
    }


def test_a_broken_config_is_told_and_the_run_used(runs: Path, tmp_path: Path) -> None:
    path = run_of(runs, "sft")
    (path / "config.yaml").write_text("a: [1")
    (path / "manifest.json").write_text("{")
    seal(path)
    update(runs, tmp_path / "out")
    collection = collect(tmp_path / "out")
    said = [problem.reason for problem in collection.problems if "sft" in problem.run]
    assert len(collection.runs) == 4 and not any(problem.left_out for problem in collection.problems)
    assert any("config.yaml is not YAML" in one for one in said)
    assert any("manifest.json is not in the run table" in one for one in said)
    with pytest.raises(BadInput, match="no config.yaml that could be read"):
        collection.config(path.relative_to(runs).as_posix())


# Updating.


def test_the_same_runs_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        update(runs, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_only_what_changed_is_read_again(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert update(runs, out) == Update(4, 0, 0)
    files = {path: path.stat().st_ino for path in out.rglob("*.parquet")}
    assert update(runs, out) == Update(0, 4, 0)
    assert {path: path.stat().st_ino for path in out.rglob("*.parquet")} == files  # nothing was written

    path = run_of(runs, "grpo-dcg", 1)
    changed = pd.read_parquet(path / "predictions-test-0.parquet").assign(eos=[1.0, 0.0, 1.0])
    changed.to_parquet(path / "predictions-test-0.parquet")
    seal(path)
    shutil.rmtree(run_of(runs, "sft"))
    add_run(runs, "gspo-dcg", 1)
    assert update(runs, out) == Update(2, 2, 1)
    key = collected.key_of(run_of(runs, "grpo-dcg").relative_to(runs).as_posix())
    kept = out / f"queries/{key}.parquet"
    assert kept.stat().st_ino == files[kept]
    update(runs, tmp_path / "anew")
    assert contents(out) == contents(tmp_path / "anew")
    same_collection(collect(runs), collect(out))


@pytest.mark.parametrize("what", ["status", "result", "metrics"])
def test_a_run_that_went_bad_leaves_and_comes_back(runs: Path, tmp_path: Path, what: str) -> None:
    out, path = tmp_path / "out", run_of(runs, "grpo-dcg", 1)
    update(runs, out)
    name = {"status": "STATUS", "result": "result.json", "metrics": "metrics.jsonl"}[what]
    good = (path / name).read_text()
    (path / name).write_text("running\n" if what == "status" else good[:-9])
    assert update(runs, out) == Update(1, 3, 0)
    assert len(list((out / "queries").iterdir())) == len(collect(out).runs) == 3
    left_out = [problem for problem in json.loads((out / "problems.json").read_text()) if problem["left_out"]]
    assert [problem["run"] for problem in left_out] == [path.relative_to(runs).as_posix()]
    (path / name).write_text(good)
    assert update(runs, out) == Update(1, 3, 0)
    same_collection(collect(runs), collect(out))


def test_a_duplicate_takes_a_run_out_and_gives_it_back(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    update(runs, out)
    before = contents(out)
    twin = shutil.copytree(run_of(runs, "gspo-dcg"), runs / "copy" / run_of(runs, "gspo-dcg").name)
    assert update(runs, out) == Update(1, 4, 0)
    assert len(collect(out).runs) == len(list((out / "queries").iterdir())) == 3
    assert sum("duplicate cell" in problem.reason for problem in collect(out).problems) == 2
    assert update(runs, out) == Update(0, 5, 0)
    shutil.rmtree(twin)
    assert update(runs, out) == Update(0, 4, 1)
    assert contents(out) == before


def test_an_interrupted_update_leaves_the_old_and_is_gone_on_from(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    update(runs, out)
    before = contents(out)
    for label, seed in (("grpo-dcg", 0), ("grpo-dcg", 1), ("sft", 0)):
        edit_result(run_of(runs, label, seed), budget={**json.loads(budget_of(runs)), "updates": 7})
    add_run(runs, "gspo-dcg", 1)
    read = collected.read_run

    def killed(path: Path, name: str):
        if "gspo" in name:
            raise KeyboardInterrupt
        return read(path, name)

    monkeypatch.setattr(collected, "read_run", killed)
    with pytest.raises(KeyboardInterrupt):
        update(runs, out)
    assert contents(out) == before
    edit_result(run_of(runs, "grpo-dcg", 1), budget={**json.loads(budget_of(runs)), "updates": 70})  # read, but stale
    monkeypatch.undo()
    assert update(runs, out) == Update(3, 2, 0)  # grpo 0 was read before the kill, and gspo 0 long before
    update(runs, tmp_path / "anew")
    assert contents(out) == contents(tmp_path / "anew")
    assert set(collect(out).runs["updates"]) == {0, 7, 70}
    assert [path.name for path in out.parent.iterdir() if path.name.endswith(".partial")] == []


def budget_of(runs: Path) -> str:
    return (run_of(runs, "gspo-dcg") / "budget.json").read_text()


def test_a_collection_of_another_form_is_refused_and_made_anew(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    update(runs, out)
    for file in (out / "collection.json", *(out / "index").iterdir()):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"form": 0}))
    with pytest.raises(BadInput, match="form 0, and this code knows 3: collect the runs again"):
        collect(out)
    assert update(runs, out) == Update(4, 0, 0)
    same_collection(collect(runs), collect(out))


def test_what_a_user_made_is_not_replaced(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="there is no folder"):
        update(tmp_path / "nowhere", out)
    out.mkdir()
    update(runs, out)  # an empty folder belongs to nobody
    with pytest.raises(BadInput, match="is a collection itself"):
        update(out, tmp_path / "other")
    with pytest.raises(BadInput, match=r"is there and no collection"):
        update(runs, runs)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds notes.txt beside a collection"):
        update(runs, out)
    (out / "notes.txt").unlink()
    with pytest.raises(BadInput, match="is the collection of .*/runs: name another folder"):
        update(runs / "mini", out)
    assert (runs / "mini").is_dir() and len(collect(out).runs) == 4


# Commands.


def test_commands_read_either(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "collected"
    assert main([str(runs), "--out", str(out)]) == 0
    assert "4 runs used; 4 read, 0 unchanged, 0 removed" in capsys.readouterr().out
    for command in (report, ablation):
        for source in (runs, out):
            folder = tmp_path / f"{command.__name__}-{source.name}"
            assert command.main([str(source), "--out", str(folder), "--resamples", "20"]) == 0
        one, other = (contents(tmp_path / f"{command.__name__}-{source.name}") for source in (runs, out))
        assert one == other and any(name.endswith(".csv") for name in one)


def test_the_command_names_what_is_left_out_and_refuses(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_of(runs, "sft") / "STATUS").write_text("running\n")
    assert main([str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "sft/seed0" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "other")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_the_command_runs_and_loads_no_torch(runs: Path, tmp_path: Path) -> None:
    code = "import sys, analysis.collect as c; code = c.main(); sys.exit(code or 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(runs)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert collected.is_collection(tmp_path / "reports/runs/collected")
