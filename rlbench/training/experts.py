"""Experts whose lists `rollout=expert` puts into groups: demonstrations, the oracle of `mini`, or an endpoint."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.errors import Unavailable
from rlbench.base.progress import Progress
from rlbench.config.schema import Config, MiniConfig
from rlbench.data import mini
from rlbench.data.record import Record
from rlbench.lists.items import line_of
from rlbench.sampling.structures import all_options
from rlbench.teacher.answers import AnswerCache, Body, NoAnswer, TeacherAnswer
from rlbench.teacher.asking import AnswerReading, Asking, AskOutcome, AskSettings, Question, Reader
from rlbench.teacher.endpoint import Endpoint, key_in
from rlbench.teacher.pace import Pace

log = logging.getLogger(__name__)

Advice = Callable[[dict[str, Any]], tuple[str, int] | None]
"""A prompt's row -> the expert's text and the tokens that were drawn for it; None if the expert does not answer."""
SECONDS = 60.0
"""Time limit of a request."""
RETRIES = 3
"""Number of times that a failed request is sent again."""
BACKOFF = 1.0
"""Seconds before it is sent again for the first time."""
FAILURES = 5
"""Number of prompts in a row without an answer after which the run ends."""
URL = "rollout.options.expert.url"
ASKS_ANOTHER = "asks_another"
"""Column of a made prompt, for the desk only: whether an answer to the dataset's prompt is none to it."""


def make_advice(config: Config, demonstrations: Sequence[Record]) -> Advice | None:
    """The expert of a run; None if it has none, or one who knows the truth of each prompt.

    Args:
        config: the run's configuration.
        demonstrations: those of the SFT stage.
    """
    if config.rollout.structure != "expert":
        return None
    options = all_options(config.rollout)
    if options["source"] == "demonstration":
        shown = {one.context_id: one.completion[-1]["content"] for one in demonstrations if one.completion}
        return lambda row: _of_context(shown, row)
    if options["source"] == "oracle":
        assert isinstance(config.dataset, MiniConfig)
        best = {
            context: "\n".join(line_of(*film) for film in films)
            for context, films in mini.train_oracle(config.dataset).items()
        }
        return lambda row: _of_context(best, row)
    if options["source"] == "endpoint":
        return AskedExpert(options["url"], options["model"], options["key_env"], Path(config.cache_dir))
    return None


def _of_context(lists: Mapping[str, str], row: dict[str, Any]) -> tuple[str, int] | None:
    """The list that was made for a prompt's context; None if a maker has changed what the prompt asks."""
    text = None if row.get(ASKS_ANOTHER) else lists.get(row["context_id"])
    return None if text is None else (text, 0)


class AskedExpert:
    """An expert behind an OpenAI-compatible endpoint. Each prompt is asked once; answers are kept in a file.

    A request that fails is sent again a few times. A prompt whose requests all fail has no expert's list. If that
    happens to several prompts in a row, the endpoint is gone.

    Args:
        url: of the endpoint.
        model: the model's name there.
        key_env: environment variable that holds the key, or "".
        folder: where the file of answers is.

    Raises:
        BadInput: httpx is not installed, or the file of answers cannot be used.
    """

    def __init__(self, url: str, model: str, key_env: str, folder: Path):
        self.url, self.model, self.key = url, model, key_in(key_env)
        self.cache = AnswerCache(folder / "experts.sqlite", url)
        self.failures = 0
        """Prompts in a row without an answer."""
        self.warned = False
        self._endpoint()  # refuses now, if it would

    def __call__(self, row: dict[str, Any]) -> tuple[str, int] | None:
        """The text and the tokens of the answer; None if there is none.

        Raises:
            Unavailable: the endpoint accepts no request, or several prompts in a row got no answer.
        """
        found: list[TeacherAnswer] = []

        def read(question: Question, answers: list[TeacherAnswer]) -> AnswerReading:
            found.append(answers[-1])
            return AnswerReading(answers[-1].text)

        outcome = asyncio.run(self._ask(row, read))
        if outcome.stopped:
            raise Unavailable(self._ended(outcome.stopped))
        if found:
            self.failures = 0
            return found[-1].text, found[-1].completion_tokens
        self.failures += 1
        (failure,) = outcome.failures
        if self.failures >= FAILURES:
            raise Unavailable(
                self._ended(f"{self.failures} prompts in a row got no answer; the last: {failure.problem}")
            )
        if not self.warned:
            self.warned = True
            log.warning(
                "%s = %s: no answer for the prompt %s: %s. Its group stays as it is; experts_silent counts such groups",
                URL,
                self.url,
                failure.name,
                failure.problem,
            )
        return None

    def _ended(self, why: str) -> str:
        return (
            f"{URL} = {self.url}: {why}. When the endpoint answers, run the same command again, which goes on from the "
            "last checkpoint"
        )

    def _endpoint(self) -> "_Expert":
        return _Expert(self.url, self.key, SECONDS, 1, key_setting="rollout.options.expert.key_env")

    async def _ask(self, row: dict[str, Any], read: Reader) -> AskOutcome:
        endpoint = self._endpoint()
        body = {"model": self.model, "temperature": 0}
        settings = AskSettings(body, concurrency=1, retries=RETRIES, backoff=BACKOFF, reasks=0)
        progress = Progress("expert", 1, file=None, show=False, unit="prompt")
        try:
            return await Asking(endpoint, self.cache, read, settings, Pace(), progress).ask(
                [Question(row["context_id"], row["prompt"])]
            )
        finally:
            await endpoint.close()


class _Expert(Endpoint):
    """An endpoint whose empty answers are failures, so that they are not kept. A refusal is an answer."""

    async def ask(self, body: Body, name: str) -> TeacherAnswer:
        answer = await super().ask(body, name)
        if not answer.text.strip() and not answer.refusal:
            raise NoAnswer("empty answer", f"{self.url} gave an empty answer")
        return answer
