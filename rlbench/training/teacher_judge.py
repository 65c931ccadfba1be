"""A teacher that orders the drawn lists of a prompt, as the judge of preference pairs."""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.base.progress import Progress
from rlbench.data.record import Record
from rlbench.teacher.answers import AnswerCache, TeacherAnswer
from rlbench.teacher.asking import AnswerReading, Asking, AskSettings, Question
from rlbench.teacher.endpoint import Endpoint
from rlbench.teacher.local import LocalTeacher
from rlbench.teacher.pace import Pace

CONCURRENCY, SECONDS, LENGTH = 8, 120, 64
"""Open requests, seconds of each, and tokens of an answer."""
ASKED = (
    "Here are {count} answers to the conversation above.\n\n{lists}\n\nOrder them by how well they serve the user. "
    "Answer with their numbers only, best first, separated by commas."
)


def ask_for_scores(
    records: Sequence[Record], texts: Sequence[Sequence[str]], options: Mapping[str, Any], cache: Path, device: str
) -> list[list[float]]:
    """Scores of each record's lists: the number of lists that the teacher places below each.

    All lists of a record score 0 if the teacher gives no order of them, so that they make no pair. Answers are kept, so
    a run that stops and goes on asks only for the others.

    Args:
        records: one per prompt.
        texts: its lists.
        options: of the recipe `feedback`.
        cache: file of the answers.
        device: of a local teacher.

    Raises:
        BadInput: the teacher is not available, or stopped answering.
    """
    questions = [
        Question(str(place), _messages(record, lists), len(lists))
        for place, (record, lists) in enumerate(zip(records, texts, strict=True))
    ]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        orders = asyncio.run(_orders(questions, options, cache, device))
    finally:
        for number, handler in handlers.items():  # asking takes them, and training wants its own
            signal.signal(number, handler)
    return [_scores(orders.get(question.name, ""), question.subject) for question in questions]


def _messages(record: Record, lists: Sequence[str]) -> list[dict[str, str]]:
    numbered = "\n\n".join(f"Answer {place}:\n{text.strip()}" for place, text in enumerate(lists, 1))
    asked = ASKED.format(count=len(lists), lists=numbered)
    *before, last = record.prompt
    return [*before, {**last, "content": f"{last['content']}\n\n{asked}"}]


async def _orders(questions: Sequence[Question], options: Mapping[str, Any], path: Path, device: str) -> dict[str, str]:
    source: Endpoint | LocalTeacher
    body: dict[str, Any] = {"max_tokens": LENGTH, "temperature": 0}
    if options["local"]:
        source = LocalTeacher(options["local"], "transformers", device, CONCURRENCY)
        name = source.digest
    else:
        source = Endpoint(
            options["endpoint"], os.environ.get(options["key_env"], "").strip() or None, SECONDS, CONCURRENCY
        )
        name, body["model"] = options["endpoint"].rstrip("/"), options["model"]
    cache = AnswerCache(path, name)
    progress = Progress("judging", len(questions), file=None, show=False, unit="prompt")
    try:
        outcome = await Asking(source, cache, _read, AskSettings(body, concurrency=CONCURRENCY), Pace(), progress).run(
            questions
        )
    finally:
        await source.close()
        cache.close()
    if outcome.stopped:
        raise BadInput(f"the judge of algorithm.pairs = feedback: {outcome.stopped}. Run the same command again")
    return outcome.responses


def _read(question: Question, answers: list[TeacherAnswer]) -> AnswerReading:
    """Read the order of the lists from an answer. It must name each list exactly once."""
    found = re.findall(r"\d+", answers[-1].text)
    if sorted(map(int, found)) != list(range(1, question.subject + 1)):
        problem = f"Answer with the numbers 1 to {question.subject}, each once, best first, separated by commas."
        return AnswerReading(None, "no order", problem)
    return AnswerReading(",".join(found))


def _scores(order: str, count: int) -> list[float]:
    if not order:
        return [0.0] * count
    places = [int(number) - 1 for number in order.split(",")]
    return [float(count - 1 - places.index(place)) for place in range(count)]
