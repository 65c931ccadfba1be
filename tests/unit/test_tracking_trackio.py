"""Trackio's view of a run, read back with Trackio; skipped if it is not installed."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlbench.tracking import TrackerIdentity, make_tracker

pytest.importorskip("trackio", reason="pip install -r requirements-trackio.txt")

READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
names = SQLiteStorage.get_runs("rlbench")
print(json.dumps({name: [SQLiteStorage.get_logs("rlbench", name), SQLiteStorage.get_run_config("rlbench", name)]
                  for name in names}))
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TRACKIO_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # set by tests/conftest.py
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def track(folder: Path, attempt: int = 1) -> None:
    group = "mini-tiny/grpo-relevance/seed3-1a2b3c4d"
    identity = TrackerIdentity("mini", group, "rl", "grpo-seed3", attempt=attempt)
    config = {"seed": 3, "algorithm": {"name": "grpo"}}
    tracker = make_tracker(
        ["trackio"], directory=folder / "run", shared=folder / "runs", identity=identity, config=config
    )
    for update in range(3):
        tracker.log({"train/reward": update / 4}, update)
        tracker.log({"validation/ndcg@10": update / 8}, update)
    tracker.log_table("completions/validation", ["text", "ndcg"], [["Heat (1995)", 0.125], [None, 1]], 2)
    tracker.summary({"final/test/ndcg@10": 0.25})
    tracker.finish()


def read(folder: Path) -> dict:
    environment = os.environ | {"TRACKIO_DIR": str(folder)}
    shown = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)


def test_curves_tables_and_config(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    track(tmp_path)
    track(tmp_path, attempt=2)
    assert capfd.readouterr() == ("", "")  # Trackio itself would print
    runs = read(tmp_path / "runs" / "trackio")
    assert set(runs) == {"grpo-seed3", "grpo-seed3 (attempt 2)"}
    logs, config = runs["grpo-seed3"]
    assert [(row["step"], row["train/reward"]) for row in logs if "train/reward" in row] == [
        (0, 0),
        (1, 0.25),
        (2, 0.5),
    ]
    assert [row["step"] for row in logs if "validation/ndcg@10" in row] == [0, 1, 2]
    (table,) = [row for row in logs if "completions/validation" in row]
    assert table["completions/validation"]["_value"] == [
        {"text": "Heat (1995)", "ndcg": 0.125},
        {"text": None, "ndcg": 1},
    ]
    (final,) = [row for row in logs if "final/test/ndcg@10" in row]
    assert (final["step"], final["final/test/ndcg@10"]) == (2, 0.25)
    assert config["seed"] == 3 and config["algorithm"] == {"name": "grpo"}
    assert config["_Group"] == "mini-tiny/grpo-relevance/seed3-1a2b3c4d" and config["_Username"] is None


def test_it_keeps_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "chosen"))
    track(tmp_path)
    assert set(read(tmp_path / "chosen")) == {"grpo-seed3"}


def test_it_touches_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to the network leads to a counting socket: the Hub with a token, a server, a Space, proxies."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def count() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection.recv(200))
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "TRACKIO_WEBHOOK_URL"):
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("TRACKIO_SERVER_URL", f"{address}?write_token=x")
        monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
        track(tmp_path)
    assert connections == []
    for name in ("TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name)
    assert set(read(tmp_path / "runs" / "trackio")) == {"grpo-seed3"}
