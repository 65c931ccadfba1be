"""A plugin whose completions depend only on the prompt and the position in its group, for any number of processes.

Sampled completions would differ, because every process draws from its own stream.
"""

import random

from rlbench.training.trainer import RankedListTrainer


def _hashed_lists(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
    first = self.accelerator.process_index * len(prompt_ids)
    places = [(first + i) % num_generations for i in range(len(prompt_ids))]
    return [_hashed_list(self, ids, place) for ids, place in zip(prompt_ids, places, strict=True)], None


def _hashed_list(trainer: RankedListTrainer, prompt_ids: list[int], place: int) -> list[int]:
    """A few films of the catalogue, sometimes cut off before EOS."""
    draw = random.Random(f"{prompt_ids} {place}")
    films = draw.sample(trainer.scorer.judge.catalog.items, draw.randint(4, trainer.objective.units.list_length))
    tokenizer = trainer.processing_class
    end = [tokenizer.eos_token_id] if draw.random() < 0.75 else []
    return (
        tokenizer("\n".join(f"{title} ({year})" for title, year in films), add_special_tokens=False)["input_ids"] + end
    )


RankedListTrainer._generate_single_turn = _hashed_lists
