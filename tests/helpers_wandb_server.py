"""The parts of a W&B server that wandb 0.31 needs for an online run or a sync, on a loopback port.

It keeps what it receives by run: the fields of the run, its history as sent by the file stream, its files.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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


class WandbServer(ThreadingHTTPServer):
    """The server; `runs` holds what has arrived, by run id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, ReceivedRun] = {}
        self.operations: list[str] = []
        self.problems: list[str] = []
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
        if operation == "Viewer":
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
            return {
                "model": {"id": "m", "name": values["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}
            }
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "CreateArtifact":
            sequence = {"latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": sequence}}}
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
            if not answer["data"]:
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
