"""Data for the evaluations of a stage during training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.config.schema import Config
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import Evaluation, evaluate
from rlbench.evaluation.judging import Criteria
from rlbench.runs.budget import Ledger


@dataclass(frozen=True)
class Validation:
    """The validation split, and how its lists are judged.

    Attributes:
        records: records of the split. In the SFT stage, those with a completion give the validation loss.
        criteria: what the lists are judged by.
        initial: metrics of the stage's first policy on these records, the curves' point at update 0.
    """

    records: Sequence[Record]
    criteria: Criteria
    initial: Mapping[str, float]

    def of(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Config, ledger: Ledger
    ) -> Evaluation:
        """Evaluate a policy, which has all its weights on every process. Its tokens go to the ledger."""
        found = evaluate(policy, tokenizer, self.records, self.criteria, config)
        ledger.add(evaluation_tokens=found.generated_tokens)
        ledger.needed(evaluation=found.operations)
        return found
