"""Views of W&B: which panels they have, and that a server gets them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import wandb_layout
from analysis.commands.wandb_layout import Viewed, read_views, sections
from rlbench.base.program import ROOT
from rlbench.lists.metric_catalogue import EVALUATION, TRAINING
from tests.helpers_wandb_server import wandb_server

RECORDED = {
    "validation/ndcg@10",
    "validation/ndcg@5",
    "validation/recall@10",
    "validation/recall@5",
    "validation/duplicates",
    "validation/rank_hit_rate@1",
    "validation/rank_hit_rate@2",
    "validation/mine",
    "train/kl",
    "train/loss",
    "train/reward",
    "train/clip_high",
    "train/clip_low",
    "train/entropy",
    "train/advantage_std@2",
    "train/term/dcg",
    "test/ndcg@10",
    "test/duplicates",
}


def a_run(folder: Path, experiment: str, recorded: set[str] = RECORDED, **tracker: Any) -> Path:
    """A run directory with what a view needs."""
    path = folder / experiment / "mini-tiny" / "grpo-relevance" / "seed0-1a2b3c4d"
    path.mkdir(parents=True)
    config = {"experiment_name": experiment, "evaluation": {"metric": "ndcg@10"}}
    (path / "config.yaml").write_text(
        yaml.safe_dump(config | {"tracker": {"project": "films", "entity": None} | tracker})
    )
    rows = [dict(zip(("split", "metric"), name.split("/", 1), strict=True)) | {"step": 1} for name in sorted(recorded)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row | {"value": 0.5}) + "\n" for row in rows))
    (path / "STATUS").write_text("done\n")
    return path


def test_the_panels_of_a_run() -> None:
    shown = {
        each.title: [(p.title, p.names) for p in each.panels] for each in sections(Viewed("ndcg@10", RECORDED, True))
    }
    assert list(shown) == ["Validation", "Training", "Test", "Lists", "Ranks", "Speed"]
    names = ("ndcg@10", "recall@5", "recall@10", "ndcg@5")  # the metric that chooses checkpoints is first
    assert [of for _, of in shown["Validation"]] == [(f"validation/{name}",) for name in names]
    assert shown["Validation"][0][0] == "NDCG@10 (0 to 1)"
    names = ("reward", "kl", "entropy", "clip_low", "clip_high", "loss", "term/dcg")
    assert [of for _, of in shown["Training"]] == [(f"train/{name}",) for name in names]
    assert shown["Training"][-1][0] == "Reward term dcg per list"
    assert shown["Test"] == [("NDCG@10 (0 to 1)", ("final/test/ndcg@10",))]
    assert [of for _, of in shown["Lists"]] == [("validation/duplicates",), ("validation/mine",)]
    assert shown["Ranks"] == [
        (
            "Samples with a hit at rank k (share), validation",
            ("validation_by_rank/rank_hit_rate@1", "validation_by_rank/rank_hit_rate@2"),
        ),
        ("Advantage of rank k, deviation, train", ("train_by_rank/advantage_std@2",)),
    ]
    assert ("Speed, rollouts (tokens/s)", ("speed/tokens_per_second_rollout",)) in shown["Speed"]


def test_every_recorded_curve_has_one_place() -> None:
    recorded = {
        f"{split}/{metric.name.replace('@k', '@5').replace('<name>', 'mine')}"
        for split, catalogue in (("validation", EVALUATION), ("train", TRAINING))
        for metric in catalogue
    }
    names = [name for each in sections(Viewed("recall@5", recorded)) for panel in each.panels for name in panel.names]
    assert len(names) == len(set(names)) == len(recorded)
    assert {name.replace("_by_rank", "") for name in names} == recorded


def test_a_run_that_has_recorded_nothing_has_no_panel() -> None:
    assert sections(Viewed("ndcg@10")) == []


def test_a_view_for_each_experiment(tmp_path: Path) -> None:
    a_run(tmp_path, "one")
    a_run(tmp_path, "two", {"validation/ndcg@10"}, entity="team")
    views = read_views(tmp_path)
    assert list(views) == [("one", None, "films"), ("two", "team", "films")]
    assert views["one", None, "films"] == Viewed("ndcg@10", RECORDED, True)
    assert views["two", "team", "films"] == Viewed("ndcg@10", {"validation/ndcg@10"}, False)
    assert list(read_views(tmp_path, "mine", "other")) == [("one", "mine", "other"), ("two", "mine", "other")]


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert wandb_layout.main([str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wandb_layout.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "the package wandb-workspaces, which is not installed: python -m pip install -r requirements-wandb" in said


def test_folders_without_usable_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces", reason="pip install -r requirements-wandb-layout.txt")
    assert wandb_layout.main([str(tmp_path)]) == 2
    assert f"there is no run below {tmp_path}" in capsys.readouterr().err
    path = a_run(tmp_path, "one")
    (path / "config.yaml").write_text("experiment_name: one")
    assert wandb_layout.main([str(tmp_path)]) == 2
    assert "config.yaml has no evaluation.metric and no tracker.project" in capsys.readouterr().err


def command(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {"HOME": str(folder), "NETRC": str(folder / "netrc"), "WANDB_ERROR_REPORTING": "false"} | environment
    words = [sys.executable, "-m", "analysis.wandb_layout", str(folder / "runs"), *options]
    return subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_views_are_written_and_sent(tmp_path: Path) -> None:
    """The same view goes to a file and to a server; without a login, and without a server, it is said."""
    pytest.importorskip("wandb_workspaces", reason="pip install -r requirements-wandb-layout.txt")
    a_run(tmp_path / "runs", "one")
    a_run(tmp_path / "runs", "two", {"validation/ndcg@10"}, entity="others")
    done = command(tmp_path, "--out", str(tmp_path / "layout.json"))
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "layout.json").read_text())
    assert [(view["entity"], view["project"], view["name"]) for view in written] == [
        (None, "films", "rlbench one"),
        ("others", "films", "rlbench two"),
    ]
    section = written[0]["spec"]["section"]
    bank = section["panelBankConfig"]["sections"]
    assert [each["name"] for each in bank] == ["Validation", "Training", "Test", "Lists", "Ranks", "Speed"]
    assert bank[0]["panels"][0]["config"]["metrics"] == ["validation/ndcg@10"]
    assert bank[0]["panels"][0]["config"]["xAxis"] == "update"
    (of_runs,) = section["runSets"]
    (chosen,) = of_runs["filters"]["filters"]
    assert (chosen["key"], chosen["op"], chosen["value"]) == (
        {"section": "config", "name": "experiment_name"},
        "=",
        "one",
    )
    assert of_runs["grouping"] == [{"section": "config", "name": "identity.value.row"}]

    done = command(tmp_path)
    assert done.returncode == 2 and "no W&B login was found; run `wandb login`" in done.stderr
    with wandb_server() as server:
        done = command(tmp_path, WANDB_API_KEY="0" * 40, WANDB_BASE_URL=server.address)
        assert done.returncode == 0 and server.problems == [], (done.stderr, server.problems)
        assert [(view["entityName"], view["projectName"], view["displayName"]) for view in server.views] == [
            ("team", "films", "rlbench one"),
            ("others", "films", "rlbench two"),
        ]
        assert done.stdout.startswith("one: http") and "/team/films?nw=" in done.stdout
        for sent, view in zip(server.views, written, strict=True):
            assert without_ids(sent["spec"]) == without_ids(view["spec"])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    done = command(tmp_path, WANDB_API_KEY="0" * 40, WANDB_BASE_URL=nowhere, WANDB_HTTP_TIMEOUT="2")
    assert done.returncode == 1 and "W&B did not save the view" in done.stderr


def without_ids(node: Any) -> Any:
    """A view without the random ids of its panels."""
    if isinstance(node, dict):
        return {key: without_ids(value) for key, value in node.items() if key != "__id__"}
    return [without_ids(each) for each in node] if isinstance(node, list) else node
