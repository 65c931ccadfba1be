"""The answers of the policy that trains to reward terms: `rlbench.rewards.answers.Policy`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from rlbench.lists.item_facts import Floats
from rlbench.models.adapters import causal
from rlbench.models.batches import Completions
from rlbench.models.sensitivity import sensitivities
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

    def sensitivities(
        self, prompts: Sequence[Any], completion_ids: Ids, units: Ids, ranks: int, first: int, shuffles: int
    ) -> Floats:
        trainer = self.trainer
        batch = self._batch(prompts, completion_ids)
        own = pad_sequence([torch.tensor(row) for row in units], batch_first=True, padding_value=ranks).to(
            batch.prompt_ids.device
        )
        found = []
        for cut in trainer.own_cuts(batch):
            trainer.count_asked(batch[cut], passes=2 * shuffles + 1)
            with trainer.ledger.phase("reference"), trainer.accelerator.autocast():
                model = causal(trainer.accelerator.unwrap_model(trainer.model))
                found.append(
                    sensitivities(
                        model, batch[cut], own[cut], ranks,
                        first=first, shuffles=shuffles, temperature=trainer.temperature,
                    )
                )  # fmt: skip
        return torch.cat(found).numpy()

    def _batch(self, prompts: Sequence[Any], completion_ids: Ids) -> Completions:
        trainer = self.trainer
        asked = trainer.prompt_ids([{"prompt": prompt} for prompt in prompts])
        rows = list(zip(asked, completion_ids, strict=True))
        return Completions.of_rows(rows, trainer.scorer.reader.tokenizer.pad_token_id, trainer.accelerator.device)
