"""Trackio: one database for many runs, in TRACKIO_DIR or else `<runs_dir>/trackio`.

Trackio 0.43 fixes its folder when imported (TRL imports it wherever it is installed), prints to standard output,
contacts the Hugging Face Hub, and turns failures into warnings. Therefore it runs in a separate process
(`rlbench.tracking.trackio_process`), whose environment keeps data on this machine and whose prints are discarded. Calls
are sent as JSON lines. No server is started; `TRACKIO_DIR=runs/trackio trackio show` starts one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlbench.tracking.identity import Scalar, TrackerIdentity

FOLDER = "trackio"
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
"""Environment variables that would make Trackio send data to other machines."""


class TrackioError(Exception):
    """A failure that Trackio reported as a warning."""


class TrackioBackend:
    """One Trackio run. `make_tracker` documents the arguments."""

    name = "Trackio"
    remedy = ""

    def __init__(self, shared: Path, identity: TrackerIdentity, config: Mapping[str, Any]):
        self._folder = Path(os.environ.get("TRACKIO_DIR") or shared / FOLDER).absolute()
        self._identity, self._config = identity, config
        self._last_step = 0
        self._process: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        pass

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        environment |= {"TRACKIO_DIR": str(self._folder), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("trackio_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C must reach only the run, which then closes its trackers
        )
        identity = asdict(self._identity)
        self._send(
            "init",
            project=self._identity.project,
            name=self._identity.display_name,
            group=self._identity.group,
            config={**self._config, "identity": identity},
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._last_step = max(self._last_step, step)
        self._send("log", metrics=dict(metrics), step=step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Scalar]], step: int) -> None:
        self._send("table", name=name, columns=list(columns), rows=[list(row) for row in rows], step=step)

    def log_image(self, name: str, file: Path, step: int) -> None:
        self._send("image", name=name, file=str(file.absolute()), step=step)

    def summary(self, values: Mapping[str, float]) -> None:
        self._send("log", metrics=dict(values), step=self._last_step)  # Trackio stores only curves, no final values

    def finish(self, failed: bool) -> None:
        assert self._process is not None
        self._send("finish", failed=failed)
        complaints, _ = self._process.communicate()
        if complaints or self._process.returncode:
            raise TrackioError(complaints.strip() or f"its process ended with {self._process.returncode}")

    def abandon(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _send(self, method: str, **arguments: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        if self._process.poll() is not None:
            raise TrackioError(self._complaints() or f"its process ended with {self._process.returncode}")
        self._process.stdin.write(json.dumps({"method": method, **arguments}) + "\n")
        self._process.stdin.flush()

    def _complaints(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.read().strip()
