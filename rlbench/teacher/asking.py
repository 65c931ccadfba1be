"""Asks a teacher about many items at once: cache, pace, retries, one repair per answer, and counts."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlbench.base.progress import Progress
from rlbench.data.record import Messages
from rlbench.teacher.answers import AnswerCache, AskingStopped, Body, NoAnswer, TeacherAnswer, TryAgain, prompt_tokens
from rlbench.teacher.pace import Pace

LONGEST_WAIT = 60.0
"""Maximum number of seconds between two tries, unless the endpoint asks for more."""
GIVE_UP_WAIT = 900.0
"""An endpoint that asks for a longer wait, such as until tomorrow, ends the job."""
INTERRUPTED = "interrupted"
"""Why a job ended, after the name of a signal."""
FAILURES_IN_A_ROW = 20
"""Number of requests in a row that got no answer, after which the job ends."""
TELL_EVERY = 60.0
"""Seconds between two lines about the progress."""
REFUSAL, UNKNOWN = "refusal", "unknown"
"""Kinds of failures after which the teacher is not asked again: it does not want to answer, or does not know."""


class AnswerSource(Protocol):
    """What answers a request: an endpoint, or a local model."""

    async def ask(self, body: Body, name: str) -> TeacherAnswer:
        """Answer a request about the question of that name. Raises TryAgain, NoAnswer or Stop."""
        ...

    async def close(self) -> None:
        """Free what the source holds. Called once, at the end."""
        ...


@dataclass(frozen=True)
class Question:
    """One item to ask about.

    Attributes:
        name: its id in files.
        messages: the chat messages of the first request.
        subject: what the reader needs to know about it.
    """

    name: str
    messages: Messages
    subject: Any = None


@dataclass(frozen=True)
class AnswerReading:
    """What was read from the answers to one question.

    Attributes:
        response: the result, as it goes into the file; None if there is none.
        kind, problem: why there is none: a short name, and a sentence for the teacher.
        repairs: how often each simple repair was made.
    """

    response: str | None
    kind: str = ""
    problem: str = ""
    repairs: Counter[str] = field(default_factory=Counter)


Reader = Callable[[Question, list[TeacherAnswer]], AnswerReading]
"""Reads all answers to one question: the first, and one per repair that was asked for."""


@dataclass(frozen=True)
class Failure:
    """A question without a result: its kind, what happened, and the texts of all answers."""

    name: str
    kind: str
    problem: str
    texts: list[str]


@dataclass
class Counts:
    """What a job has done so far.

    Attributes:
        asked: requests sent and answered.
        cached: answers taken from the cache.
        retries: further tries after failures that may pass, by kind.
        reasked: questions whose first answer had a problem, by kind of the problem.
        failed: questions without a result, by kind.
        repairs: simple repairs, by kind.
        prompt_tokens, completion_tokens: of the answers to requests that were sent.
        cached_prompt_tokens, cached_completion_tokens: of the answers from the cache.
        estimated: answers whose tokens the teacher did not count.
        models: answers by the name of the model that gave them.
    """

    asked: int = 0
    cached: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    reasked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0
    estimated: int = 0
    models: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Prices:
    """Cost of a million tokens of requests and of answers, in the user's currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass(frozen=True)
class AskSettings:
    """How to ask.

    Attributes:
        sampling: fields of every request besides its messages: model, temperature, maximum length, ...
        concurrency: maximum number of open requests.
        retries: maximum number of further tries of one request.
        backoff: seconds before the first further try. The wait doubles with each.
        reasks: how often a teacher is asked again about an answer with a problem.
        answer_tokens: expected tokens of an answer, until answers have come.
        prices: for the cost.
        max_cost: the job ends when its requests have cost so much; None for no limit.
    """

    sampling: Body
    concurrency: int = 8
    retries: int = 6
    backoff: float = 1.0
    reasks: int = 1
    answer_tokens: int = 300
    prices: Prices = field(default_factory=Prices)
    max_cost: float | None = None


@dataclass
class AskOutcome:
    """Results by the names of their questions, failures, counts, and why the job ended early, or ""."""

    responses: dict[str, str]
    failures: list[Failure]
    counts: Counts
    stopped: str


class Asking:
    """One job.

    Args:
        source, cache, reader, pace: see there.
        settings: how to ask.
        progress: a bar over the questions.
        tell: shows a line from time to time, where no bar is drawn.
    """

    def __init__(
        self,
        source: AnswerSource,
        cache: AnswerCache | None,
        reader: Reader,
        settings: AskSettings,
        pace: Pace,
        progress: Progress,
        tell: Callable[[str], None] | None = None,
    ):
        self.source, self.cache, self.reader, self.pace, self.progress = source, cache, reader, pace, progress
        self.settings, self.tell = settings, tell
        self.outcome = AskOutcome({}, [], Counts(), "")
        self._in_a_row = self._done = 0
        self._random = random.Random()
        self._halted = asyncio.Event()
        self._open: dict[str, asyncio.Event] = {}
        self._told = time.monotonic()

    async def run(self, questions: Iterable[Question]) -> AskOutcome:
        """Ask about all questions, and return what was read.

        The first SIGINT or SIGTERM lets open requests end and sends no further one. A second SIGINT ends at once.
        """
        loop = asyncio.get_running_loop()
        workers = self._workers(questions)

        def interrupted(name: str) -> None:
            if self.outcome.stopped and name == "SIGINT":
                for worker in workers:
                    worker.cancel()
            self._stop(f"{name}: {INTERRUPTED}")

        handled = (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            loop.add_signal_handler(number, interrupted, number.name)
        try:
            await asyncio.gather(*workers)
        except asyncio.CancelledError:
            await asyncio.gather(*workers, return_exceptions=True)
        finally:
            for worker in workers:
                worker.cancel()
            for number in handled:
                loop.remove_signal_handler(number)
        return self.outcome

    async def ask(self, questions: Iterable[Question]) -> AskOutcome:
        """The same as `run`, but signals stay as they are. For a few questions within other work."""
        await asyncio.gather(*self._workers(questions))
        return self.outcome

    def _workers(self, questions: Iterable[Question]) -> list[asyncio.Future[None]]:
        waiting = iter(questions)
        return [asyncio.ensure_future(self._work(waiting)) for _ in range(self.settings.concurrency)]

    async def _work(self, waiting: Iterator[Question]) -> None:
        for question in waiting:
            if self.outcome.stopped:
                return
            try:
                await self._answer(question)
            except AskingStopped as stop:
                self._stop(str(stop))
                return
            self._done += 1
            self._show()

    def _stop(self, why: str) -> None:
        self.outcome.stopped = self.outcome.stopped or why
        self._halted.set()

    async def _answer(self, question: Question) -> None:
        """Ask about one question until there is a result, or no more to try."""
        counts, messages, answers = self.outcome.counts, question.messages, list[TeacherAnswer]()
        while True:
            try:
                answers.append(await self._obtain({**self.settings.sampling, "messages": messages}, question.name))
            except NoAnswer as problem:
                self._fail(question, problem.kind, problem.words, answers)
                self._in_a_row += 1
                if self._in_a_row >= FAILURES_IN_A_ROW:
                    raise AskingStopped(
                        f"{self._in_a_row} requests in a row got no answer; the last: {problem.words}"
                    ) from None
                return
            reading = self.reader(question, answers)
            if reading.response is not None:
                self.outcome.responses[question.name] = reading.response
                counts.repairs += reading.repairs
                return
            if len(answers) > self.settings.reasks or reading.kind in (REFUSAL, UNKNOWN):
                self._fail(question, reading.kind, reading.problem, answers)
                return
            counts.reasked[reading.kind] += 1
            messages = again(messages, answers[-1].text, reading.problem)

    def _fail(self, question: Question, kind: str, words: str, answers: list[TeacherAnswer]) -> None:
        self.outcome.counts.failed[kind] += 1
        self.outcome.failures.append(Failure(question.name, kind, words, [answer.text for answer in answers]))

    async def _obtain(self, body: Body, name: str) -> TeacherAnswer:
        """The answer to one request, from the cache or from the teacher.

        Equal requests wait for the first of them, and then find its answer in the cache.

        Raises:
            NoAnswer: there is none after all tries.
            Stop: the job must end.
        """
        if self.cache is None:
            return await self._send(body, name)
        key = self.cache.key(body)
        while key in self._open:
            await self._open[key].wait()
        self._open[key] = asyncio.Event()
        try:
            return await self._send(body, name)
        finally:
            self._open.pop(key).set()

    async def _send(self, body: Body, name: str) -> TeacherAnswer:
        counts = self.outcome.counts
        known = None if self.cache is None else self.cache.get(body)
        if known is not None:
            counts.cached += 1
            counts.cached_prompt_tokens += known.prompt_tokens
            counts.cached_completion_tokens += known.completion_tokens
            counts.models[known.model] += 1
            return known
        expected = prompt_tokens(body["messages"]) + self._expected_answer()
        for attempt in range(self.settings.retries + 1):
            await self.pace.turn(expected, self._halted)
            self._check_limits()
            try:
                answer = await self.source.ask(body, name)
                break
            except TryAgain as problem:
                if attempt == self.settings.retries:
                    raise NoAnswer(problem.kind, f"{problem.words} ({attempt + 1} tries)") from None
                counts.retries[problem.kind] += 1
                await self._wait(attempt, problem)
        if self.cache is not None:
            await asyncio.to_thread(self.cache.put, body, answer)
        self.pace.correct(answer.prompt_tokens + answer.completion_tokens - expected)
        self._in_a_row = 0
        counts.asked += 1
        counts.prompt_tokens += answer.prompt_tokens
        counts.completion_tokens += answer.completion_tokens
        counts.estimated += not answer.counted
        counts.models[answer.model] += 1
        return answer

    def _check_limits(self) -> None:
        if self.outcome.stopped:
            raise AskingStopped(self.outcome.stopped)
        limit = self.settings.max_cost
        if limit is not None and self.cost() >= limit:
            raise AskingStopped(f"the requests have cost {self.cost():.2f}, and --max-cost is {limit:g}")

    async def _wait(self, attempt: int, problem: TryAgain) -> None:
        """Wait before the next try: twice as long each time, at random within a half, and as long as was asked for."""
        wait = min(LONGEST_WAIT, self.settings.backoff * 2**attempt) * self._random.uniform(0.5, 1)
        if problem.after is not None:
            if problem.after > GIVE_UP_WAIT:
                raise AskingStopped(f"the endpoint asks to wait {problem.after:,.0f} s: {problem.words}")
            self.pace.pause(problem.after)
            wait = max(wait, problem.after)
        try:
            await asyncio.wait_for(self._halted.wait(), wait)
        except TimeoutError:
            return
        raise AskingStopped(self.outcome.stopped)

    def _expected_answer(self) -> int:
        counts = self.outcome.counts
        return counts.completion_tokens // counts.asked if counts.asked else self.settings.answer_tokens

    def cost(self) -> float:
        """Cost of the requests that this job has sent."""
        counts = self.outcome.counts
        return self.settings.prices.cost(counts.prompt_tokens, counts.completion_tokens)

    def _show(self) -> None:
        counts = self.outcome.counts
        note = f"{counts.prompt_tokens + counts.completion_tokens:,} tokens"
        if self.settings.prices != Prices():
            note += f", cost {self.cost():.2f}"
        if counts.failed:
            note += f", {counts.failed.total()} failed"
        self.progress.to(self._done, note)
        if self.tell is not None and time.monotonic() - self._told > TELL_EVERY:
            self._told = time.monotonic()
            self.tell(f"{self._done} of {self.progress.total} questions, {note}")


def again(messages: Messages, text: str, problem: str) -> Messages:
    """The messages that ask again, with the teacher's answer and its problem.

    Endpoints accept no empty message, so the problem of an empty answer is added to the last message.
    """
    if text.strip():
        return [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": problem}]
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n\n{problem}"}]


def timed(counts: Counts, started: float) -> dict[str, Any]:
    """Counts of a job as JSON, with its seconds."""
    plain = {
        name: dict(sorted(value.items())) if isinstance(value, Counter) else value
        for name, value in vars(counts).items()
    }
    return {**plain, "seconds": round(time.time() - started, 1)}
