"""A small sweep tracked offline, read back, and sent by `wandb sync` to a local server: `pytest -m slow`."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import report, wandb_check
from analysis.commands.wandb_check import joined as join
from analysis.commands.wandb_check import measured, tables
from rlbench.base.jsonl import read_rows
from rlbench.running.cli import CONF
from rlbench.runs.completions import as_table
from rlbench.runs.directory import DONE, locate
from rlbench.tracking.wandb_file import read_run
from tests.conftest import SMALL, composed
from tests.helpers_wandb_server import ARTIFACTS, WandbServer, wandb_server

pytestmark = pytest.mark.slow

RUN_PY = CONF.parent / "run.py"
_WORDS = [*SMALL, "+debug=smoke", "tracker=offline", "dataset.contexts={train:40,validation:12,test:12}"]
SHORT = list({word.split("=")[0]: word for word in _WORDS}.values())  # a key may be given once; the last one counts
STAGES = {"oracle", "zero_shot", "sft", "rl"}


def command(folder: Path, *overrides: str) -> list[str]:
    places = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    return [sys.executable, str(RUN_PY), *SHORT, *places, *overrides]


def run(folder: Path, *overrides: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(command(folder, *overrides), env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment's folder after the launcher ran two algorithms with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    run(folder, "algorithm=grpo,rank_grpo", "seed=0,1", "hydra.launcher.jobs=2", "-m")
    assert report.main([str(folder / "runs" / "smoke"), "--out", str(folder / "report"), "--tracker", "offline"]) == 0
    return folder / "runs" / "smoke"


def directories(sweep: Path) -> list[Path]:
    found = sorted(path.parent for path in sweep.rglob("STATUS"))
    assert len(found) == 3 + 4
    return found


def synced(server: WandbServer, home: Path, *paths: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    clean |= {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.address}
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run(
        [str(wandb), "sync", *map(str, paths)], cwd=home, env=clean, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and server.problems == [], (done.stderr, server.problems)


def test_the_files_hold_what_the_run_directories_hold(sweep: Path) -> None:
    assert wandb_check.main([str(sweep)]) == 0
    stages = set()
    for directory in directories(sweep):
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        tracked = read_run(file)
        points = measured(directory / "metrics.jsonl")
        joined = join([tracked])
        assert {key: joined[key] for key in points} == points
        config = yaml.safe_load((directory / "config.yaml").read_text())
        assert {key: tracked.config[key] for key in config} == config
        assert tracked.config["manifest"] == json.loads((directory / "manifest.json").read_text())
        assert len(tracked.config["manifest"]["git"]["commit"]) == 40
        assert "dirty" in tracked.config["manifest"]["git"]
        stages.add(tracked.job_type)
        label = directory.parent.name
        assert tracked.group == directory.relative_to(sweep).as_posix()
        assert tracked.tags == ["mini", "tiny", label] and tracked.project == "rlbench"
        assert tracked.exit_code == 0 and tracked.whole
        result = json.loads((directory / "result.json").read_text())["metrics"]
        finals = {f"final/{split}/{name}": value for split in result for name, value in result[split].items()}
        assert {key: tracked.summary[key] for key in finals} == finals
    assert stages == STAGES


def test_a_table_of_completions_at_each_evaluation(sweep: Path) -> None:
    for directory in directories(sweep):
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        rows = read_rows(directory / "completions.jsonl")
        by_evaluation: dict[tuple[int, str], list[dict]] = {}
        for row in rows:
            by_evaluation.setdefault((row["step"], row["split"]), []).append(row)
        steps = {row["step"] for row in map(json.loads, (directory / "metrics.jsonl").open()) if row["split"] == "test"}
        assert {step for step, split in by_evaluation if split == "test"} == steps
        assert all(len(of_one) == 8 for of_one in by_evaluation.values())
        tracked = {}
        for row in read_run(file).history:
            for name in ("completions/validation", "completions/test"):
                if name in row:
                    content = json.loads((file.parent / "files" / row[name]["path"]).read_text())
                    tracked[row["update"], name.split("/")[1]] = (content["columns"], content["data"])
        assert tracked == {key: as_table(of_one) for key, of_one in by_evaluation.items()}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the keys added by wandb and without empty mappings, which wandb's service does not send."""
    kept = {key: settings(value) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: value for key, value in kept.items() if value != {} and key != "_wandb"}


def test_wandb_sync_sends_all_of_it(sweep: Path, tmp_path: Path) -> None:
    """The server has every curve, the config, groups, tags, job types, tables, and the report with its figures."""
    with wandb_server() as server:
        files = sorted(sweep.glob("*/*/*/wandb/offline-run-*"))
        reported = sorted((sweep.parents[1] / "report").glob("wandb/offline-run-*"))
        assert len(files) == 7 and len(reported) == 1
        synced(server, tmp_path, *files, *reported)
        for directory in directories(sweep):
            (file,) = directory.glob("wandb/offline-run-*/*.wandb")
            offline, online = read_run(file), server.runs[read_run(file).id]
            points = measured(directory / "metrics.jsonl")
            for name in {name for name, _ in points}:
                assert dict(online.curve(name)) == {step: value for (of, step), value in points.items() if of == name}
            assert settings(online.config) == settings(offline.config)
            assert online.fields["groupName"] == offline.group and online.fields["jobType"] == offline.job_type
            assert online.fields["tags"] == offline.tags and online.fields["displayName"] == offline.name
            assert {name: content for name, content in online.files.items() if name in tables(offline)} == {
                name: (file.parent / "files" / name).read_bytes() for name in tables(offline)
            }
            assert online.exit_code == 0
        (shown,) = [run for run in server.runs.values() if run.fields.get("jobType") == "report"]
        assert shown.fields["project"] == "rlbench" and shown.fields["groupName"] == "smoke/mini-tiny/report"
        pictures = [content for name, content in shown.files.items() if name.endswith(".png")]
        assert sorted(pictures) == sorted(path.read_bytes() for path in (sweep.parents[1] / "report").glob("*.png"))
        assert any(name.startswith("media/table/comparison") for name in shown.files)
        assert "completions/validation.table.json" in server.runs[ARTIFACTS].files


def test_moved_runs_send_all_but_the_copies_of_tables(sweep: Path, tmp_path: Path) -> None:
    """As docs/tracking.md says, W&B finds the copies of tables by their original path."""
    (place,) = sweep.glob("*/sft/*")
    moved = tmp_path / "elsewhere"
    shutil.copytree(place, moved)
    hidden = place.rename(place.with_name("hidden"))
    try:
        with wandb_server() as server:
            for marker in moved.rglob("*.synced"):
                marker.unlink()
            synced(server, tmp_path, *moved.glob("wandb/offline-run-*"))
            (run_id,) = set(server.runs) - {ARTIFACTS}
            points = measured(moved / "metrics.jsonl")
            assert len(server.runs[run_id].history) > 0 and points
            assert any(name.startswith("media/table/completions") for name in server.runs[run_id].files)
            assert ARTIFACTS not in server.runs
    finally:
        hidden.rename(place)


def test_two_attempts_are_two_runs_whose_curves_join(tmp_path: Path) -> None:
    """After kill -9 during RL, two W&B runs of one group together have all points of metrics.jsonl."""
    longer = ["trainer.rl.updates=40", "trainer.rl.save_every=10", "evaluation.every=10"]
    longer += ["trainer.rl.learning_rate=1e-3"]
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    target = locate(composed(*SHORT, *places, *longer), "rl")
    killed = subprocess.Popen(command(tmp_path, *longer), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None:
        done = [row["step"] for row in target.read_metrics() if row["metric"] == "loss"]
        begun = any(read_run(file).group for file in target.root.glob("wandb/offline-run-*/*.wandb"))
        if max(done, default=0) >= 15 and begun:  # W&B starts in the background and has nothing to show earlier
            killed.kill()
            break
        time.sleep(0.05)
    killed.wait()
    assert target.status() == "running"
    cut = (target.root / "completions.jsonl").read_text()
    run(tmp_path, *longer)
    assert target.status() == DONE and target.attempts() == 2
    deadline = time.monotonic() + 20
    files = sorted(target.root.glob("wandb/offline-run-*/*.wandb"))
    while len(attempts := [read_run(file) for file in files]) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    first, second = sorted(attempts, key=lambda attempt: attempt.started)
    assert first.group == second.group and first.id != second.id
    assert second.name == f"{first.name} (attempt 2)"
    assert (first.config["identity"]["attempt"], second.config["identity"]["attempt"]) == (1, 2)
    points = measured(target.root / "metrics.jsonl")
    joined = join([first, second])
    assert {key: value for key, value in joined.items() if key in points} == points
    for curve, alone in (("train/loss", first), ("train/loss", second)):
        assert len(alone.curve(curve)) < 40
    assert wandb_check.main([str(target.root.parent)]) == 0
    # The lists of both attempts: each evaluation once, in order; the first attempt's beginning is kept.
    rows = read_rows(target.root / "completions.jsonl")
    steps = [row["step"] for row in rows if row["split"] == "validation"]
    assert steps == sorted(steps) and {step: steps.count(step) for step in steps} == dict.fromkeys((10, 20, 30, 40), 8)
    assert (target.root / "completions.jsonl").read_text().startswith(cut.split('{"step": 20')[0])


def test_an_agent_runs_the_cells_of_a_sweep(tmp_path: Path) -> None:
    """`wandb sweep` and `wandb agent` run a written grid. Only the last stage of a cell is the agent's run.

    A second sweep of the same cells finds them done, and gets their values all the same.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    programs = Path(sys.executable).parent
    clean |= {"WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(tmp_path), "PATH": f"{programs}:{clean['PATH']}"}
    words = [word for word in SHORT if not word.startswith("tracker=")]
    words += [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "algorithm=grpo,rank_grpo"]
    words += ["trainer.rl.learning_rate=choice(1e-3)"]
    with wandb_server() as server:

        def start(*command: str) -> str:
            done = subprocess.run(
                command,
                cwd=RUN_PY.parent,
                env=clean | {"WANDB_BASE_URL": server.address},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout + done.stderr

        start(sys.executable, "-m", "rlbench.wandb_sweep", *words, "--out", str(tmp_path / "sweep.yaml"))
        said = start(str(programs / "wandb"), "sweep", str(tmp_path / "sweep.yaml"))
        assert "wandb agent team/rlbench/sweep0" in said
        start(str(programs / "wandb"), "agent", "team/rlbench/sweep0")
        start(str(programs / "wandb"), "sweep", str(tmp_path / "sweep.yaml"))
        start(str(programs / "wandb"), "agent", "team/rlbench/sweep1")
    of_sweep, again = server.sweeps.values()
    assert of_sweep.waiting == [] and len(of_sweep.given) == 2 and server.problems == []
    own = [server.runs[name] for name in of_sweep.given]
    statuses = [path.read_text() for path in (tmp_path / "runs").rglob("STATUS")]
    assert len(statuses) == 3 + 2 and all(status.startswith(DONE) for status in statuses)
    for run_of_agent, algorithm in zip(own, ("grpo", "rank_grpo"), strict=True):
        (root,) = (tmp_path / "runs").glob(f"smoke/*/{algorithm}-relevance/seed0-*")
        assert run_of_agent.fields["jobType"] == "rl" and run_of_agent.fields["sweep"] == "sweep0"
        assert (run_of_agent.fields["entity"], run_of_agent.fields["project"]) == ("team", "rlbench")
        assert run_of_agent.fields["groupName"] == root.relative_to(tmp_path / "runs" / "smoke").as_posix()
        assert run_of_agent.fields["displayName"] == f"{algorithm}-relevance-seed0"
        assert run_of_agent.config["algorithm"] == algorithm
        assert run_of_agent.config["trainer.rl.learning_rate"] == 1e-3
        assert run_of_agent.config["algorithm_settings"]["name"] == algorithm
        assert run_of_agent.config["trainer"]["rl"]["learning_rate"] == 1e-3
        result = json.loads((root / "result.json").read_text())["metrics"]["validation"]["ndcg@10"]
        assert run_of_agent.summary[of_sweep.config["metric"]["name"]] == result
        assert dict(run_of_agent.curve("train/loss")).keys() == {1, 2} and run_of_agent.exit_code == 0
    for first, name in zip(own, again.given, strict=True):
        second = server.runs[name]
        assert second.fields["sweep"] == "sweep1" and second.exit_code == 0
        assert second.fields["groupName"] == first.fields["groupName"]
        finals = {key: value for key, value in first.summary.items() if key.startswith("final/")}
        assert finals.items() <= second.summary.items() and len(finals) > 20
        assert second.curve("train/loss") == first.curve("train/loss")
        tables = [{name for name in one.files if name.startswith("media/table/")} for one in (first, second)]
        assert len(tables[0]) == len(tables[1]) > 2
    others = [run for name, run in server.runs.items() if name not in (*of_sweep.given, *again.given, ARTIFACTS)]
    assert {run.fields["jobType"] for run in others} == {"oracle", "zero_shot", "sft"} and len(others) == 3
    assert all("sweep" not in run.fields and run.fields["project"] == "rlbench" for run in others)


def test_files_are_sent_on_request(tmp_path: Path) -> None:
    """Online when a stage is done, offline by `wandb sync`: the judged lists and the weights, byte for byte."""
    wanted = "tracker.upload=[predictions,checkpoint]"
    words = [word for word in SHORT if not word.startswith("tracker=")] + ["stage=sft", wanted]
    places = [f"cache_dir={tmp_path / 'cache'}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    for mode in ("wandb", "offline"):
        with wandb_server() as server:
            there = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.address}
            own = [*words, f"tracker={mode}", *places, f"runs_dir={tmp_path / mode}"]
            done = subprocess.run(
                [sys.executable, str(RUN_PY), *own], env=clean | there, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0 and "failed to" not in done.stderr, done.stderr
            (root,) = (tmp_path / mode).glob("smoke/*/sft/seed0-*")
            if mode == "offline":
                assert server.operations == []
                synced(server, tmp_path, *root.glob("wandb/offline-run-*"))
            files = [*root.glob("predictions-*.parquet"), *(path for path in root.glob("model/*") if path.is_file())]
            assert len(files) > 4
            sent = server.runs[ARTIFACTS].files
            for file in files:
                assert sent[file.relative_to(root).as_posix()] == file.read_bytes(), file
            kinds = {(name, kind) for name, kind in server.artifacts if not name.startswith("run-")}
            stem = f"mini-tiny-sft-{root.name}"
            of_sft = {(f"{stem}-predictions", "predictions"), (f"{stem}-checkpoint", "model")}
            assert of_sft <= kinds and server.problems == []
            weights = root / "model" / "model.safetensors"
            assert not [path for path in root.glob("wandb/**/*") if path.stat().st_size == weights.stat().st_size]
