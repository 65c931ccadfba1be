"""A rollout engine whose probabilities differ slightly from the policy's. It replaces vLLM in TRL."""

import random
from typing import Any

import pytest
import torch
from trl.generation import vllm_generation
from trl.trainer import grpo_trainer

NOISE = 0.12
"""Standard deviation of log-probabilities around the policy's: in each list some ratios exceed 3 and most do not."""


class NoisyEngine:
    """Random lists determined by prompt and position, with the policy's log-probabilities plus noise.

    It replaces TRL's `VLLMGeneration` and uses the current weights of the training.
    """

    def __init__(self, model: Any, accelerator: Any, processing_class: Any, **settings: Any):
        self.model, self.accelerator, self.settings = model, accelerator, settings
        self.eos, self.vocabulary = processing_class.eos_token_id, len(processing_class)

    def sync_weights(self) -> None:
        """Nothing to do: the engine uses the training's own weights."""

    def generate(self, prompts, images, num_generations, profiler):
        found = [self.one(ids, place % num_generations) for place, ids in enumerate(prompts)]
        completions, logps = zip(*found, strict=True)
        return prompts, list(completions), list(logps), [[[i] for i in ids] for ids in completions]

    def one(self, prompt: list[int], place: int) -> tuple[list[int], list[list[float | None]]]:
        """A completion, with or without EOS, and a log-probability for each token; one of them is unknown."""
        draw = random.Random(f"{prompt} {place}")
        length = draw.randint(3, self.settings["max_completion_length"])
        ids = [draw.randrange(4, self.vocabulary) for _ in range(length)]
        if draw.random() < 0.7:
            ids[-1] = self.eos
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        of_tokens = (logits / self.settings["temperature"]).log_softmax(-1)[range(length), ids].tolist()
        noisy: list[list[float | None]] = [[value + draw.gauss(0, NOISE)] for value in of_tokens]
        if draw.random() < 0.2:
            noisy[draw.randrange(length)] = [None]
        return ids, noisy


@pytest.fixture
def noisy_engine(monkeypatch):
    """Make every trainer use `NoisyEngine` in place of vLLM."""
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", NoisyEngine)
    monkeypatch.setattr(vllm_generation, "LLM", None, raising=False)
