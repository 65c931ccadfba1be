"""Trackers: what an offline run contains, and what no tracker may ever do to a run."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from matplotlib.figure import Figure

from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.running.checks import check_config
from rlbench.tracking import MODES, NoTracker, Tracker, TrackerIdentity, check_modes, make_tracker, worker
from rlbench.tracking import tracker as tracker_module
from rlbench.tracking.wandb_backend import WandbBackend, _forget_service, artifact_name
from rlbench.tracking.wandb_file import BLOCK, CutShort, read_payloads, read_run
from tests.helpers_tensorboard import open_attempt, read_scalars
from tests.helpers_wandb import find_runs

ROOT = Path(__file__).parents[2]
GROUP = "mini-tiny/rank_grpo-relevance/seed0-1a2b3c4d"


def identity(attempt: int = 1, **changes: object) -> TrackerIdentity:
    values: dict = {
        "experiment": "mini",
        "group": GROUP,
        "job_type": "rl",
        "name": "rank_grpo-relevance seed0",
        "tags": ("rank_grpo", "relevance", "mini"),
        "attempt": attempt,
    }
    return TrackerIdentity(**(values | changes))


@pytest.fixture(autouse=True)
def fresh_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mode, no login and an empty home directory."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(WandbBackend, "_unreachable", False)


def offline(directory: Path, attempt: int = 1, config: dict | None = None, **changes: object) -> Tracker:
    return make_tracker(["offline"], directory=directory, identity=identity(attempt, **changes), config=config or {})


def script(directory: Path, mode: str = "offline", before: str = "", body: str = "") -> str:
    """Return the source of a process that makes a tracker named `t` in `directory`, runs `body` and finishes."""
    return f"""
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
from rlbench.tracking import wandb_backend, worker
from rlbench.tracking import TrackerIdentity, make_tracker
{before}
identity = TrackerIdentity("mini", "group", "rl", "name")
t = make_tracker([{mode!r}], directory=Path({str(directory)!r}), identity=identity, config={{}})
t.log({{"train/reward": 1.0}}, 1)
{body}
t.finish()
"""


def execute(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_offline_run_is_read_back(tmp_path: Path) -> None:
    config = {"algorithm": {"name": "rank_grpo", "ratio": "rank"}, "seed": 0, "trainer": {"learning_rate": 4e-4}}
    tracker = offline(tmp_path, config=config, entity="team")
    for update in range(0, 40, 10):
        # Train and validation points of one update come in separate calls, as from the runner.
        tracker.log({"train/reward": update / 100, "train/kl": 0.0}, update)
        tracker.log({"validation/ndcg@10": update / 1000, "validation/recall@10": 0.1}, update)
    tracker.log_table("samples/validation", ["context_id", "rank", "hit"], [["c1", 1, True], ["c2", None, "-"]])
    tracker.summary({"test/ndcg@10": 0.25})
    tracker.finish()

    (run,) = find_runs(tmp_path)
    assert run.curve("validation/ndcg@10") == [(0, 0.0), (10, 0.01), (20, 0.02), (30, 0.03)]
    assert run.curve("train/reward") == [(0, 0.0), (10, 0.1), (20, 0.2), (30, 0.3)]
    sections = [f"{split}{of}/*" for split in ("train", "validation", "test") for of in ("", "_by_rank")]
    assert run.step_metrics == {"update": ""} | dict.fromkeys(sections, "update")
    assert {key: run.config[key] for key in config} == config
    assert run.config["identity"]["attempt"] == 1
    assert run.config["identity"]["experiment"] == "mini"
    assert (run.project, run.entity, run.group, run.job_type) == ("rlbench", "team", GROUP, "rl")
    assert run.name == "rank_grpo-relevance seed0"
    assert run.tags == ["rank_grpo", "relevance", "mini"]
    assert run.summary["test/ndcg@10"] == 0.25
    assert run.exit_code == 0

    (entry,) = [row["samples/validation"] for row in run.history if "samples/validation" in row]
    assert (entry["_type"], entry["ncols"], entry["nrows"]) == ("table-file", 3, 2)
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    table = json.loads((files / entry["path"]).read_text())
    assert table["columns"] == ["context_id", "rank", "hit"]
    assert table["data"] == [["c1", 1, True], ["c2", None, "-"]]


def test_offline_run_keeps_to_its_directory_and_to_the_metrics(tmp_path: Path) -> None:
    tracker = offline(tmp_path / "run")
    tracker.log({"train/reward": 1.0}, 1)
    tracker.log_table("samples", ["text"], [["Heat (1995)"]])
    tracker.finish()

    (run,) = find_runs(tmp_path / "run")
    # No console output, no machine or git state, no packages, no device statistics.
    assert not run.kinds & {"output", "output_raw", "stats", "environment"}
    files = [path.name for path in (tmp_path / "run").glob("wandb/offline-run-*/files/**/*") if path.is_file()]
    assert [name.endswith(".table.json") for name in files] == [True]
    # Whatever the settings, the service keeps a small log in the cache folder and links to it.
    assert {path.name for path in (tmp_path / "run").rglob("*") if path.is_symlink()} <= {"debug-core.log"}
    # Tables must not be staged in the home directory.
    assert not (tmp_path / "home" / ".local").exists()


def test_attempts_are_runs_of_their_own_in_one_group(tmp_path: Path) -> None:
    for attempt in (1, 2):
        tracker = offline(tmp_path, attempt)
        tracker.log({"train/reward": float(attempt)}, attempt)
        tracker.finish(failed=attempt == 1)

    first, second = find_runs(tmp_path)
    assert first.group == second.group == GROUP
    assert first.id != second.id
    assert (first.name, second.name) == ("rank_grpo-relevance seed0", "rank_grpo-relevance seed0 (attempt 2)")
    assert (first.config["identity"]["attempt"], second.config["identity"]["attempt"]) == (1, 2)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.curve("train/reward") == [(1, 1.0)]
    assert second.curve("train/reward") == [(2, 2.0)]


def test_records_longer_than_a_block_and_long_tags(tmp_path: Path) -> None:
    text = "Heat (1995)\n" * (3 * BLOCK // 12)
    tracker = offline(tmp_path, config={"prompt": text}, tags=("m" * 100, ""))
    tracker.finish()

    (run,) = find_runs(tmp_path)
    assert run.config["prompt"] == text
    assert run.tags == ["m" * 64]

    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")  # complete, as read above
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-3])
    assert read_run(path).config["prompt"] == text and not read_run(path).whole
    with pytest.raises(CutShort):
        list(read_payloads(bytes(data[:-3])))
    data[BLOCK + 100] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        list(read_payloads(bytes(data)))
    with pytest.raises(ValueError, match="not a W&B file"):
        list(read_payloads(b"PAR1" + bytes(100)))


def test_seeded_random_streams_are_left_alone(tmp_path: Path) -> None:
    random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()
    tracker = offline(tmp_path)
    tracker.log({"train/reward": 1.0}, 1)
    tracker.log_table("samples", ["text"], [["a"]])
    tracker.finish()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_none_imports_no_wandb(tmp_path: Path) -> None:
    body = 't.log_table("t", ["a"], [[1]]); t.summary({"x": 1.0}); assert "wandb" not in sys.modules'
    done = execute(script(tmp_path, mode="none", body=body))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Did you mean 'wandb'"):
        make_tracker(["wandbb"], directory=tmp_path, identity=identity(), config={})


def test_offline_is_silent_and_touches_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to the network leads to a counting socket: server address, proxies, and a login that invites use."""
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
        ways = ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        monkeypatch.delenv("WANDB_ERROR_REPORTING")
        done = execute(
            # wandb is imported first, as transformers does if it is installed.
            script(tmp_path, before="import wandb", body='t.log_table("t", ["a"], [[1]]); t.summary({"x": 1.0})'),
            WANDB_API_KEY="0" * 40,
            **dict.fromkeys(ways, address),
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert connections == []
    assert find_runs(tmp_path)[0].curve("train/reward") == [(1, 1.0)]


def test_without_a_login_wandb_is_offline_with_one_notice(tmp_path: Path) -> None:
    again = f"""
t.finish()
t = make_tracker(["wandb"], directory=Path({str(tmp_path)!r}), identity=identity, config={{}})
t.log({{"train/reward": 2.0}}, 2)
"""
    done = execute(script(tmp_path, mode="wandb", body=again))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 1
    assert "no W&B login was found, so this run is tracked offline" in done.stderr
    assert [run.curve("train/reward") for run in find_runs(tmp_path)] == [[(1, 1.0)], [(2, 2.0)]]


def test_login_that_cannot_be_used_is_offline_with_its_reason(tmp_path: Path) -> None:
    done = execute(script(tmp_path, mode="wandb"), WANDB_API_KEY="short")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)
    assert "the W&B login cannot be used" in done.stderr
    assert len(find_runs(tmp_path)) == 1


def test_unreachable_server_is_offline_with_one_notice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    before = "wandb_backend.ONLINE_START_SECONDS = 1.0"
    done = execute(script(tmp_path, mode="wandb", before=before), WANDB_API_KEY="0" * 40, WANDB_BASE_URL=closed)
    assert (done.returncode, done.stdout) == (0, "")
    assert "W&B could not be reached, so this run is tracked offline" in done.stderr
    assert find_runs(tmp_path)[0].curve("train/reward") == [(1, 1.0)]


def use_everything(tracker: Tracker) -> None:
    tracker.log({"train/reward": 1.0}, 1)
    tracker.log_table("samples", ["text"], [["a"]])
    tracker.summary({"test/ndcg@10": 0.1})
    tracker.finish()
    tracker.finish()


def wandb_service() -> psutil.Process:
    (service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    return service


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rlbench.tracking"]


def test_unwritable_directory_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    use_everything(offline(tmp_path / "file" / "run"))
    (message,) = warnings_in(caplog)
    assert message.startswith("W&B failed to start (NotADirectoryError")


def test_bad_wandb_variable_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_CONSOLE", "loud")
    use_everything(offline(tmp_path))
    (message,) = warnings_in(caplog)
    assert message.startswith("W&B failed to start (ValidationError")


def test_killed_service_is_one_warning_and_the_next_run_is_tracked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = offline(tmp_path / "first")
    service = wandb_service()
    service.kill()
    service.wait()
    use_everything(tracker)
    (message,) = warnings_in(caplog)
    # The call that notices first depends on when the closed socket is seen.
    assert message.startswith("W&B failed to ")

    use_everything(offline(tmp_path / "second"))
    assert warnings_in(caplog) == [message]
    assert find_runs(tmp_path / "second")[0].curve("train/reward") == [(1, 1.0)]


def test_a_service_that_is_gone_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A notebook, for example, passes on the address of its service, which may have ended."""
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{tmp_path}/socket")
    use_everything(offline(tmp_path / "run"))
    assert not warnings_in(caplog)
    assert find_runs(tmp_path / "run")[0].curve("train/reward") == [(1, 1.0)]


def test_service_that_ends_with_an_error_does_not_end_the_run(tmp_path: Path) -> None:
    offline(tmp_path)
    service = wandb_service()
    service.suspend()  # it receives the stop message but dies before acting on it
    timer = threading.Timer(0.5, service.kill)
    timer.start()
    _forget_service()
    timer.join()
    assert not service.is_running()


def test_our_own_mistakes_are_not_hidden(tmp_path: Path) -> None:
    tracker = offline(tmp_path)
    with pytest.raises(ValueError, match="columns"):
        tracker.log_table("samples", ["text", "hit"], [["a"]])
    tracker.finish()


def test_metrics_of_a_rank_have_a_section_of_their_own(tmp_path: Path) -> None:
    tracker = make_tracker(["offline", "tensorboard"], directory=tmp_path, identity=identity(), config={})
    tracker.log({"train/advantage_mean@3": 0.5, "validation/rank_hit_rate@10": 0.25, "validation/ndcg@10": 0.125}, 7)
    tracker.finish()
    points = {"train_by_rank/advantage_mean@3": 0.5, "validation_by_rank/rank_hit_rate@10": 0.25}
    points |= {"validation/ndcg@10": 0.125}
    (run,) = find_runs(tmp_path)
    assert run.history[0].items() >= (points | {"update": 7}).items()
    assert read_scalars(tmp_path) == {name: [(7, value)] for name, value in points.items()}


def test_an_image_is_kept(tmp_path: Path) -> None:
    figure = Figure(figsize=(1.5, 1.0), dpi=100)
    figure.savefig(tmp_path / "curves.png")
    content = (tmp_path / "curves.png").read_bytes()
    tracker = make_tracker(["offline", "tensorboard"], directory=tmp_path, identity=identity(), config={})
    tracker.log_image("report/curves", tmp_path / "curves.png")
    with pytest.raises(FileNotFoundError, match="no image"):
        tracker.log_image("report/training", tmp_path / "training.png")
    tracker.finish()
    (copy,) = tmp_path.glob("wandb/offline-run-*/files/media/images/report/*.png")
    assert copy.read_bytes() == content
    (image,) = open_attempt(tmp_path).Images("report/curves")
    assert (image.width, image.height, image.encoded_image_string) == (150, 100, content)


def test_calls_that_a_slow_backend_cannot_take_are_dropped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "QUEUE_LENGTH", 10)
    tracker = make_tracker(["tensorboard"], directory=tmp_path, identity=identity(), config={})
    (behind,) = tracker._workers
    busy, held = threading.Event(), threading.Event()
    monkeypatch.setattr(behind._backend, "summary", lambda values: busy.set() or held.wait())
    tracker.summary({})
    assert busy.wait(timeout=60)
    for update in range(100):
        tracker.log({"train/reward": 1.0}, update)
    held.set()
    tracker.finish()
    (message,) = warnings_in(caplog)
    assert message.startswith("TensorBoard is too slow: 10 calls are waiting")
    assert read_scalars(tmp_path)["train/reward"] == [(update, 1.0) for update in range(10)]


@pytest.mark.parametrize("mode", MODES)
def test_config_group(mode: str) -> None:
    config = yaml.safe_load((ROOT / "conf" / "tracker" / f"{mode}.yaml").read_text())
    usual = {"also": [], "completions": 8, "upload": [], "project": "rlbench", "entity": None}
    assert config == {"mode": mode} | usual


def test_modes_are_checked_together() -> None:
    def problems(mode: str, *also: str) -> str:
        return "\n".join(check_modes(mode, also))

    assert check_modes("offline", ["tensorboard"]) == check_modes("none", []) == []
    assert "tracker.also = 'tensorbord' is unknown" in problems("offline", "tensorbord")
    assert "tracker.also contains 'none'" in problems("offline", "none")
    assert "names 'tensorboard' twice" in problems("tensorboard", "tensorboard")
    assert "'wandb' and 'offline', which are the same W&B run" in problems("wandb", "offline")


def test_wishes_for_files_are_checked() -> None:
    def problems(mode: str, also: list[str], *upload: str) -> str:
        return "\n".join(check_modes(mode, also, upload))

    assert (
        problems("wandb", [], "predictions", "checkpoint") == problems("tensorboard", ["offline"], "checkpoint") == ""
    )
    unknown = problems("offline", [], "predictons", "checkpoint", "checkpoint")
    assert (
        "names 'predictons', which is unknown; known: predictions, checkpoint. Did you mean 'predictions'?" in unknown
    )
    assert "tracker.upload names 'checkpoint' twice" in unknown
    assert problems("tensorboard", ["trackio"], "checkpoint").startswith(
        "tracker.upload = [checkpoint] needs a tracker that keeps files, but tracker = 'tensorboard,trackio' has none"
    )
    assert "needs a tracker that keeps files" in problems("none", [], "checkpoint")


def test_files_are_kept_on_request_and_not_copied(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("predictions-test-5.parquet", "model/weights", "budget.json"):
        (tmp_path / name).write_text(name)
    tracker = make_tracker(["offline", "tensorboard"], directory=tmp_path, identity=identity(), config={})
    tracker.upload(["predictions", "checkpoint"])
    tracker.finish()
    (run,) = find_runs(tmp_path)
    assert run.artifacts == {
        artifact_name("predictions", identity().group): {
            "predictions-test-5.parquet": str(tmp_path / "predictions-test-5.parquet")
        },
        artifact_name("checkpoint", identity().group): {"model/weights": str(tmp_path / "model" / "weights")},
    }
    assert [path.name for path in tmp_path.rglob("*") if path.name == "weights"] == ["weights"]


def test_a_run_without_such_files_uploads_nothing(tmp_path: Path) -> None:
    tracker = make_tracker(["offline"], directory=tmp_path, identity=identity(), config={})
    tracker.upload(["checkpoint"])
    tracker.finish()
    assert find_runs(tmp_path)[0].artifacts == {}


def test_names_of_files_are_names_for_wandb() -> None:
    group = "mini-tiny/grpo-relevance@learning_rate=0.0001,x=[1]/seed0-1a2b3c4d"
    name = "mini-tiny-grpo-relevance-learning_rate-0.0001-x--1--seed0-1a2b3c4d-checkpoint"
    assert artifact_name("checkpoint", group) == name
    long = artifact_name("checkpoint", "x" * 200 + "/seed0-1a2b3c4d")
    assert len(long) == 128 and long.endswith("xxx-seed0-1a2b3c4d-checkpoint")


def test_a_missing_package_is_found_before_anything_is_spent(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"tensorboard": ("no_such_package", "pip install it")}
    monkeypatch.setattr(tracker_module, "PACKAGES", packages)
    (problem,) = check_config(config("tracker=tensorboard"))
    assert problem == (
        "tracker = 'tensorboard' needs the package no_such_package, which is not installed: pip install it"
    )
    (problem,) = check_config(config("tracker.completions=-1"))
    assert problem == "tracker.completions = -1 must be at least 0"


@pytest.mark.parametrize("modes", [["offline"], ["tensorboard"], ["wandb", "tensorboard"]])
def test_no_tracker_loads_torch(tmp_path: Path, modes: list[str]) -> None:
    """`analysis` shows its reports with trackers and must never load torch."""
    body = f"""
t.finish()
t = make_tracker({modes!r}, directory=Path({str(tmp_path)!r}) / "more", identity=identity, config={{}})
t.log({{"train/reward": 1.0}}, 1)
t.log_table("samples", ["text", "n"], [["a", 1.5]])
t.summary({{"x": 1.0}})
t.finish()
assert "torch" not in sys.modules
"""
    done = execute(script(tmp_path, mode="none", body=body))
    assert done.returncode == 0, done.stderr


def test_no_tracker_does_nothing() -> None:
    use_everything(NoTracker())
