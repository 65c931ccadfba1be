"""Requests to a teacher, its answers, and a file that keeps every answer."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.base.files import naming
from rlbench.data.record import Messages

Body = Mapping[str, Any]
"""Everything that a request sends: model, messages and sampling."""

FULL = "full"
"""What SQLite says of a full disk."""


@dataclass(frozen=True)
class TeacherAnswer:
    """One answer of a teacher.

    Attributes:
        text: its text, possibly empty.
        finish: why it ended: `stop`, `length` if it was cut off at the maximum length, `content_filter`, or another
            word of the endpoint.
        refusal: the endpoint's own words of a refusal, or "".
        prompt_tokens, completion_tokens: tokens of the request and of the answer.
        counted: whether the teacher counted the tokens. False: they are estimated from the text.
        model: the model that answered, as the endpoint names it.
    """

    text: str
    finish: str = "stop"
    refusal: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True
    model: str = ""


class NoAnswer(Exception):
    """A request got no answer.

    Args:
        kind: short name, by which failures are counted.
        words: what happened.
    """

    def __init__(self, kind: str, words: str):
        self.kind, self.words = kind, words
        super().__init__(words)


class TryAgain(NoAnswer):
    """A request got no answer, but may get one later.

    Args:
        kind, words: as in `NoAnswer`.
        after: seconds to wait, as the endpoint asks; None if it says nothing.
    """

    def __init__(self, kind: str, words: str, after: float | None = None):
        super().__init__(kind, words)
        self.after = after


class AskingStopped(Exception):
    """No further request makes sense: a wrong key, no credit left, a limit that was reached. The message says why."""


def tokens_in(text: str) -> int:
    """Estimated number of tokens of a text: one per four bytes of UTF-8, which is close for English."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def prompt_tokens(messages: Messages) -> int:
    """Estimated number of tokens of chat messages."""
    return sum(tokens_in(message["content"]) + 4 for message in messages)


TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL)"


def _opened(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, timeout=60, isolation_level=None, check_same_thread=False, uri=True)


class AnswerCache:
    """Answers by their whole request, in an SQLite file.

    Each answer is committed to disk before `put` returns, so a killed process loses none of them. Several processes may
    use one file.

    Args:
        path: the file; created when needed.
        source: the teacher: an endpoint's URL, or a digest of a local model. It is part of every key.
        read_only: only look up answers. A file that is missing is not created.

    Raises:
        BadInput: the file is not such a cache, or cannot be opened.
    """

    def __init__(self, path: Path, source: str, *, read_only: bool = False):
        self.path, self.source = path, source
        self._lock = threading.Lock()
        if path.is_dir():
            raise BadInput(f"{path} is a folder, but the cache of answers is a file; give another --cache")
        try:
            if read_only and path.exists():
                self._file = _opened(f"{path.resolve().as_uri()}?mode=ro")
                self.count()  # fails unless the file is such a cache
            elif read_only:
                self._file = _opened(":memory:")
                self._file.execute(TABLE)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _opened(path.resolve().as_uri())
                self._file.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"{path} cannot be used as a cache of answers: {error}. Give another --cache, or move the file away"
            ) from error

    def key(self, body: Body) -> str:
        """sha256 (hex) of a request and the teacher it goes to."""
        return hashlib.sha256(json.dumps([self.source, body], sort_keys=True).encode()).hexdigest()

    def get(self, body: Body) -> TeacherAnswer | None:
        """The answer to a request, or None if there is none yet.

        Raises:
            BadInput: the file is damaged.
        """
        try:
            with self._lock:
                found = self._file.execute("SELECT answer FROM answers WHERE key = ?", (self.key(body),)).fetchone()
            return None if found is None else TeacherAnswer(**json.loads(found[0]))
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise BadInput(f"{self.path} is damaged: {error}; restore it from a backup, or move it away") from error

    def put(self, body: Body, answer: TeacherAnswer) -> None:
        """Keep an answer.

        Raises:
            Stop: it cannot be written.
        """
        row = (self.key(body), json.dumps([self.source, body]), json.dumps(asdict(answer)))
        try:
            with self._lock, naming(self.path):
                self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:
            advice = "free some space" if FULL in str(error) else "check the file and its disk"
            raise AskingStopped(f"an answer could not be written to {self.path}: {error}; {advice}") from error

    def count(self) -> int:
        """Number of answers in the file."""
        return int(self._file.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        self._file.close()
