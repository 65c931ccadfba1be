"""A teacher that orders the drawn lists of a prompt, as the judge of preference pairs."""

import asyncio
import logging
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.base import preemption
from rlbench.base.errors import Unavailable
from rlbench.base.progress import Progress
from rlbench.data.record import Record
from rlbench.teacher.answers import AnswerCache, TeacherAnswer
from rlbench.teacher.asking import INTERRUPTED, AnswerReading, Asking, AskOutcome, AskSettings, Question
from rlbench.teacher.endpoint import Endpoint, key_in
from rlbench.teacher.local import LocalTeacher
from rlbench.teacher.pace import Pace

log = logging.getLogger(__name__)

CONCURRENCY = 8
"""Number of requests that are open at the same time."""
SECONDS = 120
"""Time limit of a request."""
LENGTH = 64
"""Maximum number of tokens of an answer."""
RETRIES = 6
"""Number of times that a failed request is sent again."""
KEY = "algorithm.options.feedback.key_env"
SHOWN = 200
"""Most characters of an answer in a message."""
ASKED = (
    "Here are {count} answers to the conversation above.\n\n{lists}\n\nOrder them by how well they serve the user. "
    "Answer with their numbers only, best first, separated by commas."
)


def ask_for_scores(
    records: Sequence[Record],
    texts: Sequence[Sequence[str]],
    options: Mapping[str, Any],
    cache: Path,
    device: str,
    *,
    first: bool = True,
) -> list[list[float]]:
    """Scores of each record's lists: the number of lists that the teacher places below each.

    All lists of a record score 0 if the teacher gives no order of them, so that they make no pair; a warning says how
    many records that are. Answers are kept, so a run that stops and goes on asks only for the others.

    Args:
        records: one per prompt.
        texts: its lists.
        options: of the recipe `feedback`.
        cache: file of the answers.
        device: of a local teacher.
        first: whether these are the run's first lists. Then the teacher must order those of one record at least. Later
            it must answer one request at least.

    Raises:
        BadInput: the teacher cannot be loaded.
        Unavailable: it stopped answering, or gives no order.
        Preempted, KeyboardInterrupt: the process was told to stop.
    """
    questions = [
        Question(str(place), _messages(record, lists), len(lists))
        for place, (record, lists) in enumerate(zip(records, texts, strict=True))
    ]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = asyncio.run(_orders(questions, options, cache, device))
    finally:
        for number, handler in handlers.items():  # asking takes them, and training wants its own
            signal.signal(number, handler)
    _check(outcome, len(questions), options["local"] or options["endpoint"], first)
    orders = outcome.responses
    return [_scores(orders.get(question.name, ""), question.subject) for question in questions]


def _check(outcome: AskOutcome, asked: int, teacher: str, first: bool) -> None:
    """Warn of questions without an order. Raises Unavailable if the teacher is of no use."""
    judge = f"the judge of algorithm.pairs = feedback, {teacher}"
    again = "Run the same command again when it answers"
    if outcome.stopped == f"SIGTERM: {INTERRUPTED}":
        raise preemption.Preempted(f"SIGTERM; {preemption.GOES_ON}")
    if outcome.stopped == f"SIGINT: {INTERRUPTED}":
        raise KeyboardInterrupt
    if outcome.stopped:
        raise Unavailable(f"{judge}: {outcome.stopped}. {again}")
    if not outcome.failures:
        return
    last = outcome.failures[-1].problem
    answered = outcome.counts.asked + outcome.counts.cached
    if not outcome.responses and (first or not answered):
        said = f"{judge} ordered the lists of none of {asked} prompts, so there is nothing to learn from"
        shown = f"; it said: {ascii(outcome.failures[-1].texts[-1])[:SHOWN]}" if outcome.failures[-1].texts else ""
        raise Unavailable(f"{said}. The last problem: {last}{shown}. {again if not answered else 'Use another judge'}")
    log.warning(
        "%s gave no order for %d of %d prompts, which make no pair; the last problem: %s",
        judge,
        len(outcome.failures),
        asked,
        last,
    )


def _messages(record: Record, lists: Sequence[str]) -> list[dict[str, str]]:
    numbered = "\n\n".join(f"Answer {place}:\n{text.strip()}" for place, text in enumerate(lists, 1))
    asked = ASKED.format(count=len(lists), lists=numbered)
    *before, last = record.prompt
    return [*before, {**last, "content": f"{last['content']}\n\n{asked}"}]


async def _orders(questions: Sequence[Question], options: Mapping[str, Any], path: Path, device: str) -> AskOutcome:
    source: Endpoint | LocalTeacher
    body: dict[str, Any] = {"max_tokens": LENGTH, "temperature": 0}
    if options["local"]:
        source = LocalTeacher(options["local"], "transformers", device, CONCURRENCY)
        name = source.digest
    else:
        key = key_in(options["key_env"])
        source = Endpoint(options["endpoint"], key, SECONDS, CONCURRENCY, key_setting=KEY)
        name, body["model"] = options["endpoint"].rstrip("/"), options["model"]
    cache = AnswerCache(path, name)
    progress = Progress("judging", len(questions), file=None, show=False, unit="prompt")
    try:
        settings = AskSettings(body, concurrency=CONCURRENCY, retries=RETRIES)
        return await Asking(source, cache, _read, settings, Pace(), progress).run(questions)
    finally:
        await source.close()
        cache.close()


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
