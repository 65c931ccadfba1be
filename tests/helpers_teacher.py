"""A teacher behind an OpenAI-compatible endpoint on a loopback port, whose answers and failures a test decides."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DROP = -1
"""Status that closes the connection without an answer."""


@dataclass
class Reply:
    """What the server sends: a status, the text of an answer or a raw body, headers, and seconds to wait before."""

    text: str | None = ""
    status: int = 200
    finish: str = "stop"
    refusal: str | None = None
    raw: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    usage: bool = True

    def body(self, request: dict[str, Any]) -> str:
        if self.raw is not None:
            return self.raw
        message = {"role": "assistant", "content": self.text, "refusal": self.refusal}
        content: dict[str, Any] = {
            "model": f"{request['model']}-2026",
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
        }
        if self.usage:
            content["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}
        return json.dumps(content)


Replies = Callable[[dict[str, Any], int], Reply]
"""The reply to a request, given how often the same request has come before."""


class TeacherServer(ThreadingHTTPServer):
    """The server. `requests` holds (body, headers) in the order of arrival, `most` the most that were open at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, replies: Replies):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = replies
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.times: list[float] = []
        self.answered: list[str] = []
        self.open = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def asked(self) -> list[str]:
        """The text of the last message of each request."""
        return [body["messages"][-1]["content"] for body, _ in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    server: TeacherServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            before = sum(body == other for other, _ in server.requests)
            server.requests.append((body, dict(self.headers)))
            server.times.append(time.monotonic())
            server.open += 1
            server.most = max(server.most, server.open)
        try:
            assert self.path == "/v1/chat/completions", self.path
            reply = server.replies(body, before)
            time.sleep(reply.delay)
            if reply.status == DROP:
                self.close_connection = True
                return
            content = reply.body(body).encode("utf-8", "surrogatepass")
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
            with server.lock:
                server.answered.append(body["messages"][-1]["content"])
        finally:
            with server.lock:
                server.open -= 1

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def teacher(replies: Replies) -> Iterator[TeacherServer]:
    """A running server."""
    server = TeacherServer(replies)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


FILMS = [
    *("Heat (1995)", "Alien (1979)", "Jaws (1975)", "Up (2009)", "Ran (1985)", "Her (2013)", "Fargo (1996)"),
    *("Big (1988)", "Speed (1994)", "Drive (2011)", "Rocky (1976)", "Se7en (1995)"),
]


def redial_folder(folder: Path, dialogues: int = 12) -> Path:
    """A small dataset in the form of CRSLab's ReDial: train, validation and test, with made-up dialogues."""
    folder.mkdir(parents=True)
    for part, start in (("train", 0), ("valid", dialogues), ("test", dialogues + 4)):
        rows = []
        for i in range(start, start + (dialogues if part == "train" else 4)):
            liked, other, told = (FILMS[(i * k + k) % len(FILMS)] for k in (1, 5, 7))
            hello, thanks = (
                ("Hello! I loved", "Hi, I liked")[i % 2],
                ("What should I watch?", "What is next?")[i // 2 % 2],
            )
            turns = [f"{hello} {liked} on evening number {i}. {thanks}"]
            answer = f"You could try {other}, or else {told}."
            row = {"dialog_id": i, "is_user": 0, "context": turns, "resp": answer, "entity_name": [liked, other, told]}
            rows.append(json.dumps(row))
        (folder / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def plain_teacher(request: dict[str, Any], before: int) -> Reply:
    """A teacher that does as it is asked: lists, ratings and descriptions."""
    text = request["messages"][-1]["content"]
    if "####level" in text:
        names = re.findall(r"^.+ \(\d{4}\)$", text.rpartition("####-1")[2], re.MULTILINE)
        return Reply("\n".join(f"{name}####{len(name) % 5 - 2}" for name in names))
    if text.startswith("Describe"):
        return Reply("Keywords: crime, city\nPlot: Two men meet.")
    shift = len(text) % len(FILMS)
    return Reply("\n".join(f"{i}. {name}" for i, name in enumerate(FILMS[shift:] + FILMS[:shift], start=1)))
