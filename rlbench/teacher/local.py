"""A teacher on this machine: a transformers model, or vLLM. Loads torch when it is made."""

import asyncio
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from typing import Any, Protocol

from rlbench.base.content import combined
from rlbench.base.errors import BadInput
from rlbench.teacher.answers import Body, NoAnswer, TeacherAnswer

KNOWN = ("model", "temperature", "max_tokens", "top_p", "messages")
"""Fields of a request that a local model understands."""


class Engine(Protocol):
    """Answers several requests at once."""

    def __call__(self, bodies: Sequence[Body]) -> Sequence[TeacherAnswer | None]:
        """The answers, in the order of the requests; None to a prompt that is too long for the model."""
        ...


class LocalTeacher:
    """Collects open requests and answers them in batches. The engine is loaded for the first request.

    Args:
        model: a folder or a hub id.
        engine: transformers or vllm.
        device: auto, cpu or cuda.
        batch: maximum number of requests that are answered together.

    Attributes:
        digest: sha256 (hex) of the model's files.

    Raises:
        BadInput: the model, or vLLM, is not available.
    """

    def __init__(self, model: str, engine: str, device: str, batch: int):
        if engine == "vllm" and importlib.util.find_spec("vllm") is None:
            raise BadInput("--engine vllm needs the package vllm, which is not installed: pip install vllm")
        from rlbench.models.sources import folder_digests, is_local, model_folder

        if is_local(model) and not model_folder(model).is_dir():
            raise BadInput(f"--local {model}: there is no such folder; give a model's folder or a hub id")
        self.folder = model_folder(model)
        self.digest = combined(folder_digests(self.folder, model))
        self.kind, self.device, self.batch = engine, device, batch
        self._engine: Engine | None = None
        self._waiting: list[tuple[Body, asyncio.Future[TeacherAnswer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, body: Body, name: str) -> TeacherAnswer:
        """Answer a request together with others that are open.

        Raises:
            NoAnswer: its prompt is too long for the model.
        """
        found: asyncio.Future[TeacherAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, found))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await found

    async def _work(self) -> None:
        await asyncio.sleep(0)  # so that the other workers add their requests
        while self._waiting:
            some, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            try:
                answers = await asyncio.to_thread(self._answer, [body for body, _ in some])
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait, and is raised there
                for _, found in some:
                    if not found.cancelled():
                        found.set_exception(error)
                continue
            for (_, found), answer in zip(some, answers, strict=True):
                if found.cancelled():
                    continue
                if answer is None:
                    found.set_exception(NoAnswer("too long", "the prompt does not fit the model's context"))
                else:
                    found.set_result(answer)

    def _answer(self, bodies: Sequence[Body]) -> Sequence[TeacherAnswer | None]:
        if self._engine is None:
            folder = str(self.folder)
            self._engine = _Transformers(folder, self.device) if self.kind == "transformers" else _VLLM(folder)
        return self._engine(bodies)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _seed(bodies: Sequence[Body]) -> int:
    """Seed of the samples of a batch, from its content."""
    return int(hashlib.sha256(json.dumps(list(bodies), sort_keys=True).encode()).hexdigest()[:8], 16)


class _Transformers:
    def __init__(self, folder: str, device: str):
        import torch

        from rlbench.models.loading import load_model, load_tokenizer, max_positions

        place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model(folder, "bfloat16" if place == "cuda" else "float32").to(place).eval()
        self.limit = max_positions(folder)
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def __call__(self, bodies: Sequence[Body]) -> list[TeacherAnswer | None]:
        import torch
        from transformers import GenerationConfig

        texts = [
            self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
            for body in bodies
        ]
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        longest = int(bodies[0]["max_tokens"])
        fitting = [i for i, row in enumerate(ids) if self.limit is None or len(row) + longest <= self.limit]
        answers: list[TeacherAnswer | None] = [None] * len(bodies)
        if not fitting:
            return answers
        temperature = float(bodies[0].get("temperature", 0.0))
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling |= {"temperature": temperature, "top_p": float(bodies[0].get("top_p", 1.0)), "top_k": 0}
        batch = self.tokenizer.pad({"input_ids": [ids[i] for i in fitting]}, return_tensors="pt").to(self.model.device)
        torch.manual_seed(_seed(bodies))
        config = GenerationConfig(
            max_new_tokens=longest,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )
        with torch.inference_mode():
            made = self.model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :].tolist()
        for i, row in zip(fitting, made, strict=True):
            end = next((place for place, token in enumerate(row) if token in self.ends), None)
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True)
            used = len(row) if end is None else end + 1
            answers[i] = TeacherAnswer(text, "length" if end is None else "stop", "", len(ids[i]), used)
        return answers


class _VLLM:
    def __init__(self, folder: str):
        from vllm import LLM

        self.model = LLM(model=folder)

    def __call__(self, bodies: Sequence[Body]) -> list[TeacherAnswer]:
        from vllm import SamplingParams

        first = bodies[0]
        sampling = SamplingParams(
            temperature=float(first.get("temperature", 0.0)),
            top_p=float(first.get("top_p", 1.0)),
            max_tokens=int(first["max_tokens"]),
            seed=_seed(bodies),
        )
        outputs = self.model.chat([list(body["messages"]) for body in bodies], sampling, use_tqdm=False)
        return [
            TeacherAnswer(
                output.outputs[0].text,
                output.outputs[0].finish_reason or "stop",
                "",
                len(output.prompt_token_ids or ()),
                len(output.outputs[0].token_ids),
            )
            for output in outputs
        ]
