"""The answers of the policy that trains to reward terms: `rlbench.rewards.answers.Policy`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlbench.models.batches import Completions
from rlbench.rewards.answers import Ids

if TYPE_CHECKING:
    from rlbench.training.trainer import RankedListTrainer


class TrainerPolicy:
    """The present policy of a trainer. Its passes belong to one process and wait for no other."""

    def __init__(self, trainer: "RankedListTrainer"):
        self.trainer = trainer

    def logps(self, prompts: Sequence[Any], completion_ids: Ids) -> list[list[float]]:
        scores = self.trainer.own_pass(self._batch(prompts, completion_ids))
        rows = scores.logps.double().tolist()
        return [row[: len(ids)] for row, ids in zip(rows, completion_ids, strict=True)]

    def _batch(self, prompts: Sequence[Any], completion_ids: Ids) -> Completions:
        trainer = self.trainer
        asked = trainer.prompt_ids([{"prompt": prompt} for prompt in prompts])
        rows = list(zip(asked, completion_ids, strict=True))
        return Completions.of_rows(rows, trainer.scorer.reader.tokenizer.pad_token_id, trainer.accelerator.device)
