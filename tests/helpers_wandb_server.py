"""The parts of a W&B server that wandb 0.31 needs for an online run, a sync, or a sweep with agents, on a free port.

It keeps what it receives by run: the fields of the run, its history as sent by the file stream, its files. Its sweeps
are grids, whatever their method.
"""

import base64
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "team"
ARTIFACTS = "artifacts"
"""Name under which `runs` holds files that W&B stores for tables, separate from their run."""


@dataclass
class ReceivedRun:
    """One run on the server."""

    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return the (update, value) points of one metric."""
        return [(row["update"], row[metric]) for row in self.history if metric in row]


@dataclass
class ReceivedSweep:
    """One sweep on the server: its configuration, and the runs that its agents have not been given yet."""

    text: str
    config: dict[str, Any]
    waiting: list[dict[str, Any]]
    given: list[str] = field(default_factory=list)


class WandbServer(ThreadingHTTPServer):
    """The server; `runs` holds what has arrived, by run id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, ReceivedRun] = {}
        self.sweeps: dict[str, ReceivedSweep] = {}
        self.views: list[dict[str, Any]] = []
        """Saved views."""
        self.operations: list[str] = []
        self.artifacts: list[tuple[str, str]] = []
        """Name and type of each artefact."""
        self.problems: list[str] = []
        self.refused: set[str] = set()
        """GraphQL operations that are answered with an error."""
        self.unanswered: set[str] = set()
        """GraphQL operations that are accepted and never answered."""
        self.silent = threading.Event()
        """Once set, every request is accepted and never answered."""
        self.released = threading.Event()
        """Ends the requests that `silent` holds."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def run(self, name: str) -> ReceivedRun:
        return self.runs.setdefault(name, ReceivedRun())

    def answer(self, operation: str, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """The data that a GraphQL operation returns."""
        self.operations.append(operation)
        if operation in ("Viewer", "GetDefaultEntity"):
            viewer = {"id": "1", "entity": ENTITY, "username": "user", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": [{"node": {"name": ENTITY}}]}}}
        if operation == "UpsertBucket":
            run = self.run(values["name"])
            run.fields |= {key: value for key, value in values.items() if value is not None}
            if values.get("config"):
                run.config |= {key: item["value"] for key, item in json.loads(values["config"]).items()}
            return {"upsertBucket": {"bucket": self.bucket(values), "inserted": True}}
        if operation == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.address}/put/{values['run']}/{name}"} for name in values["files"]
            ]
            return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}
        if operation == "MarkRunFilesUploaded":
            return {"markRunFilesUploaded": {"success": True}}
        if operation == "RunResumeStatus":
            bucket = self.resumed(values["name"]) if values["name"] in self.runs else None
            return {
                "model": {"id": "m", "name": values["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}
            }
        if operation == "UpsertSweep":
            config = yaml.safe_load(values["config"])
            choices = [[(key, value) for value in of["values"]] for key, of in config["parameters"].items()]
            name = f"sweep{len(self.sweeps)}"
            self.sweeps[name] = ReceivedSweep(values["config"], config, [dict(c) for c in itertools.product(*choices)])
            project = {"id": "p", "name": values["projectName"], "entity": {"id": "e", "name": ENTITY}}
            return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            found = self.sweeps[values["sweep"]]
            return {"project": {"sweep": {"name": values["sweep"], "config": found.text, "runs": {"edges": []}}}}
        if operation == "UpsertView2":
            self.views.append(values | {"spec": json.loads(values["spec"])})
            return {"upsertView": {"view": {"id": f"view{len(self.views)}", "name": values["name"]}, "inserted": True}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": values["sweep"]}}}
        if operation == "Heartbeat":
            is_busy = bool(json.loads(values["runState"]))
            commands = [] if is_busy else [self.next_command(values["id"])]
            return {"agentHeartbeat": {"agent": {"id": values["id"]}, "commands": json.dumps(commands)}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            sequence = {"latestArtifact": None}
            made = values["input"]
            self.artifacts.append((made["artifactCollectionName"], made["artifactTypeName"]))
            named = base64.b64encode(f"Artifact:{len(self.artifacts) - 1}".encode()).decode()
            return {"createArtifact": {"artifact": {"id": named, "state": "PENDING", "artifactSequence": sequence}}}
        if operation == "ArtifactByID":
            return {"artifact": self.artifact(values["id"])}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            file = {"id": "f", "uploadUrl": f"{self.address}/put/{ARTIFACTS}/manifest", "uploadHeaders": []}
            return {operation[0].lower() + operation[1:]: {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CreateArtifactFiles":
            specs = values["input"]["artifactFiles"]
            return {
                "createArtifactFiles": {"files": {"edges": [{"node": self.artifact_file(s["name"])} for s in specs]}}
            }
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        return {}

    def next_command(self, of_sweep: str) -> dict[str, Any]:
        """What an idle agent does next. As on W&B, a run is made before its command starts."""
        sweep = self.sweeps[of_sweep]
        if not sweep.waiting:
            return {"type": "exit"}
        chosen, name = sweep.waiting.pop(0), f"{of_sweep}-run{len(sweep.given)}"
        sweep.given.append(name)
        self.run(name).config |= chosen
        arguments = {key: {"value": value} for key, value in chosen.items()}
        return {"type": "run", "run_id": name, "program": sweep.config["program"], "args": arguments}

    def resumed(self, name: str) -> dict[str, Any]:
        """A run that exists, as a client that resumes it reads it."""
        config = {key: {"value": value} for key, value in self.runs[name].config.items()}
        counts = {"historyLineCount": 0, "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": "[]", "eventsTail": "[]", "summaryMetrics": "{}", "config": json.dumps(config)}
        return {"id": name, "name": name, "state": "running", "tags": [], "wandbConfig": "{}", **counts, **tails}

    def artifact(self, named: str) -> dict[str, Any]:
        """A committed artefact, as a client that has waited for it reads it."""
        name, kind = self.artifacts[int(base64.b64decode(named).decode().split(":")[1])]
        project = {"id": "p", "internalId": "UHJvamVjdDox", "name": "rlbench", "entity": {"name": ENTITY}}
        found = {"id": named, "artifactSequence": {"__typename": "ArtifactSequence", "name": name, "project": project}}
        found |= {"versionIndex": 0, "artifactType": {"name": kind}, "description": None, "metadata": None}
        found |= {"ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [], "historyStep": None, "size": 0}
        found |= {"state": "COMMITTED", "digest": "d", "digestAlgorithm": None, "commitHash": None, "fileCount": 0}
        return found | {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": []}

    def artifact_file(self, name: str) -> dict[str, Any]:
        node = {"storagePath": name, "uploadUrl": f"{self.address}/put/{ARTIFACTS}/{name}", "uploadHeaders": []}
        return node | {"uploadMultipartUrls": None, "artifact": {"id": "a"}}

    def bucket(self, values: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": values.get("project"), "entity": {"id": "e", "name": ENTITY}}
        named = {"id": values["name"], "name": values["name"], "displayName": values.get("displayName")}
        rest = {"description": "", "config": "{}", "sweepName": None, "historyLineCount": 0}
        return named | rest | {"project": project}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.silent.is_set():
            self.server.released.wait()
            self.close_connection = True
            return
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            request = json.loads(body)
            operation = request.get("operationName") or request["query"].split("(")[0].split("{")[0].split()[-1]
            answer = {"data": self.server.answer(operation, request["query"], request.get("variables") or {})}
            if operation in self.server.unanswered:
                self.server.released.wait()
                self.close_connection = True
                return
            if operation in self.server.refused:
                answer = {"errors": [{"message": f"{operation} is above your quota"}]}
            elif not answer["data"]:
                self.server.problems.append(request["query"])
                answer = {"errors": [{"message": f"{operation} is unknown here"}]}
        elif self.path.endswith("/file_stream"):
            self._stream(self.path.split("/")[-2], json.loads(body))
        elif self.path.startswith("/put/"):
            _, _, run, name = self.path.split("/", 3)
            self.server.run(run).files[name] = body
        else:
            self.server.problems.append(f"{self.command} {self.path}")
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _serve

    def _stream(self, name: str, content: dict[str, Any]) -> None:
        run = self.server.run(name)
        for file, chunk in (content.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if file.endswith((".jsonl", ".json")) else []
            if file == "wandb-history.jsonl":
                run.history += lines
            elif file == "wandb-summary.json":
                for line in lines:
                    run.summary |= line
        if content.get("exitcode") is not None:
            run.exit_code = content["exitcode"]

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionResetError, BrokenPipeError):  # wandb ends while a connection is still open
            super().handle()


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Run a server inside the block."""
    server = WandbServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.silent.set()
        server.released.set()
        server.shutdown()
        server.server_close()
