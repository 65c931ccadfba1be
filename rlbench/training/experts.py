"""Experts whose lists `rollout=expert` puts into groups: demonstrations, the oracle of `mini`, or an endpoint."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.config.schema import Config, MiniConfig
from rlbench.data import mini
from rlbench.data.record import Record
from rlbench.lists.items import line_of
from rlbench.sampling.structures import all_options
from rlbench.teacher.answers import AnswerCache, AskingStopped, NoAnswer, TeacherAnswer
from rlbench.teacher.endpoint import Endpoint

Advice = Callable[[dict[str, Any]], tuple[str, int] | None]
"""A prompt's row -> the expert's text and the tokens that were drawn for it; None if the expert does not answer."""
SECONDS = 60.0
"""Longest time for an answer."""


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
        return lambda row: _free(shown.get(row["context_id"]))
    if options["source"] == "oracle":
        assert isinstance(config.dataset, MiniConfig)
        best = {
            context: "\n".join(line_of(*film) for film in films)
            for context, films in mini.train_oracle(config.dataset).items()
        }
        return lambda row: _free(best.get(row["context_id"]))
    if options["source"] == "endpoint":
        return AskedExpert(options["url"], options["model"], options["key_env"], Path(config.cache_dir))
    return None


def _free(text: str | None) -> tuple[str, int] | None:
    return None if text is None else (text, 0)


class AskedExpert:
    """An expert behind an OpenAI-compatible endpoint. Each prompt is asked once; answers are kept in a file.

    Args:
        url: of the endpoint.
        model: the model's name there.
        key_env: environment variable that holds the key, or "".
        folder: where the file of answers is.

    Raises:
        BadInput: httpx is not installed, or the file of answers cannot be used.
    """

    def __init__(self, url: str, model: str, key_env: str, folder: Path):
        self.url, self.model, self.key = url, model, os.environ.get(key_env) if key_env else None
        self.cache = AnswerCache(folder / "experts.sqlite", url)
        Endpoint(url, self.key, SECONDS, 1)  # refuses now, if it would

    def __call__(self, row: dict[str, Any]) -> tuple[str, int] | None:
        """The text and the tokens of the answer; None if there is none.

        Raises:
            BadInput: the endpoint accepts no request.
        """
        body = {"model": self.model, "messages": row["prompt"], "temperature": 0}
        answer = self.cache.get(body)
        if answer is None:
            try:
                answer = asyncio.run(self._ask(body))
                self.cache.put(body, answer)
            except NoAnswer:
                return None
            except AskingStopped as error:
                raise BadInput(f"rollout.options.expert.url = {self.url}: {error}") from error
        return answer.text, answer.completion_tokens

    async def _ask(self, body: dict[str, Any]) -> TeacherAnswer:
        endpoint = Endpoint(self.url, self.key, SECONDS, 1)
        try:
            return await endpoint.ask(body, "")
        finally:
            await endpoint.close()
