"""A teacher behind an OpenAI-compatible endpoint. Needs httpx (requirements-stage1.txt)."""

import asyncio
import importlib.util
import json
import os
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from rlbench.base.errors import BadInput
from rlbench.base.program import install
from rlbench.teacher.answers import AskingStopped, Body, NoAnswer, TeacherAnswer, TryAgain, prompt_tokens, tokens_in

if TYPE_CHECKING:
    import httpx

PATH = "/chat/completions"
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
"""Statuses after which the same request may succeed."""
HOPELESS = (401, 402, 403, 404, 405)
"""Statuses that every request would get: a wrong key, model or URL, or no credit."""
NO_CREDIT = "insufficient_quota"
"""Error code of a 429 that no waiting ends."""
LONGEST_SHOWN = 300
"""Maximum number of characters of an endpoint's message to show."""
HIDDEN = "***"
"""Takes the place of the key wherever the endpoint repeats it."""
SECRET = 12
"""Fewest characters of a key that is a secret. Local servers take words such as EMPTY, which an answer may contain."""


def check_endpoint(url: str, name: str = "--endpoint", key: str = "--key-env") -> str | None:
    """What is wrong with an endpoint's URL, or None.

    Args:
        url: the URL.
        name: option or setting that holds it.
        key: option or setting that names the environment variable with the key.
    """
    examples = "https://api.openai.com/v1 or http://localhost:8000/v1"
    if not url.strip():
        return f"{name} is missing; give the URL of an endpoint, such as {examples}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname
        parts.port  # noqa: B018 - raises for a bad port
    except ValueError:
        known = None
    if not known:
        return f"{name}{' ' if name.startswith('-') else ' = '}{url} must be a URL such as {examples}"
    if parts.username or parts.password:
        return f"{name} must not contain a user name or password; put the key in an environment variable ({key})"
    if any(word in parts.query.casefold() for word in ("key", "token", "secret")):
        return f"{name} must not contain a key; put it in an environment variable ({key})"
    return None


def key_in(variable: str) -> str | None:
    """The key in an environment variable; None if there is none."""
    return os.environ.get(variable, "").strip() or None


class Endpoint:
    """Sends requests to an endpoint.

    Args:
        url: with or without `/chat/completions`.
        key: sent as a bearer token; None for none. It is removed from every text that comes back.
        timeout: seconds for one request, from its start to the last byte of its answer.
        connections: maximum number of open connections.
        key_setting: option or setting that names the environment variable with the key, for messages.

    Raises:
        BadInput: httpx is not installed.
    """

    def __init__(self, url: str, key: str | None, timeout: float, connections: int, *, key_setting: str = "--key-env"):
        if importlib.util.find_spec("httpx") is None:
            raise BadInput(f"asking an endpoint needs httpx, which is not installed; run {install('stage1')}")
        parts = urlsplit(url)
        path = parts.path.rstrip("/").removesuffix(PATH) + PATH
        self.url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
        self._key, self.timeout, self.connections, self.key_setting = key, timeout, connections, key_setting
        self._client: httpx.AsyncClient | None = None

    def _open(self) -> "httpx.AsyncClient":
        """The client, which belongs to the running event loop."""
        import httpx

        if self._client is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
            self._client = httpx.AsyncClient(headers=headers, timeout=self.timeout, limits=limits)
        return self._client

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def ask(self, body: Body, name: str) -> TeacherAnswer:
        """Send one request.

        Args:
            body: its content.
            name: not sent.

        Raises:
            TryAgain: a failure that may pass.
            NoAnswer: the endpoint does not accept this request.
            Stop: the endpoint accepts no request.
        """
        import httpx

        client = self._open()
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(self.timeout):
                response = await client.post(self.url, content=content, headers=headers)
        except (TimeoutError, httpx.TimeoutException):
            raise TryAgain("timeout", f"no complete answer within {self.timeout:g} s") from None
        except httpx.InvalidURL as error:
            raise AskingStopped(f"{self.url}: {error}") from error
        except httpx.HTTPError as error:
            raise TryAgain("connection", self._hidden(f"{type(error).__name__}: {error}")) from None
        text = self._hidden(response.content.decode("utf-8", "replace"))
        if response.status_code != 200:
            raise self._failure(response.status_code, text, response.headers.get("Retry-After"))
        try:
            return read_answer(json.loads(text), body)
        except (ValueError, RecursionError) as error:
            raise TryAgain("malformed answer", f"{error}: {text[:LONGEST_SHOWN]}") from None

    def _failure(self, status: int, text: str, after: str | None) -> Exception:
        said = " ".join(text.split())[:LONGEST_SHOWN]
        words = f"{self.url} answered {status}: {said}"
        if status in HOPELESS or (status == 429 and NO_CREDIT in text):
            advice = f" Set the key in the variable that {self.key_setting} names." if status in (401, 403) else ""
            return AskingStopped(words + advice)
        if status in AGAIN:
            return TryAgain(f"HTTP {status}", words, retry_after(after))
        return NoAnswer(f"HTTP {status}", words)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, HIDDEN) if self._key and len(self._key) >= SECRET else text


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; None without a readable one."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def read_answer(content: Any, body: Body) -> TeacherAnswer:
    """The answer in an endpoint's reply.

    Args:
        content: the reply, parsed.
        body: the request, from which missing token counts are estimated.

    Raises:
        ValueError: it has no answer; the message says what is wrong.
    """
    if not isinstance(content, dict):
        raise ValueError("the reply is not a JSON object")
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("the reply has no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ValueError("the reply has no message")
    text = _text(message.get("content"))
    used = content.get("usage")
    numbers = [used.get(name) if isinstance(used, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    counts = [number for number in numbers if type(number) is int and number >= 0]
    counted = len(counts) == len(numbers)
    refusal, finish, model = message.get("refusal"), choices[0].get("finish_reason"), content.get("model")
    return TeacherAnswer(
        text,
        finish if isinstance(finish, str) else "stop",
        refusal if isinstance(refusal, str) else "",
        counts[0] if counted else prompt_tokens(body["messages"]),
        counts[1] if counted else tokens_in(text),
        counted,
        model if isinstance(model, str) else "",
    )


def _text(content: Any) -> str:
    """The text of a message: a string, or the text parts of a list; none for null, as beside a refusal."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise ValueError("the message has no text")
