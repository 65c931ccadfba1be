"""A trainer, or its parts, on the small `mini` and an untrained `tiny`."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.base.progress import Progress
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset
from rlbench.evaluation import judging
from rlbench.evaluation.evaluate import eos_ids
from rlbench.evaluation.judging import Criteria
from rlbench.evaluation.recording import Recording
from rlbench.lists.reader import ListReader
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.objective import Objective
from rlbench.preference.places import chooses_demonstrations
from rlbench.rewards.scorer import ListScorer
from rlbench.runs.budget import Ledger
from rlbench.runs.completions import CompletionLog
from rlbench.runs.directory import Run, locate
from rlbench.tracking import Tracker, make_tracker
from rlbench.training.parallel import adapter_argument
from rlbench.training.preference import PreferenceTrainer
from rlbench.training.preference_lists import Lists
from rlbench.training.rl import make_demonstrations, preference_trainer, prompt_dataset, trl_arguments
from rlbench.training.scoring import Batching
from rlbench.training.trainer import RankedListTrainer


def make_scorer(
    config: Config,
    dataset: RankedListDataset,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    kind: type[ListScorer] = ListScorer,
) -> ListScorer:
    """The scorer of a config."""
    criteria = make_criteria(config, dataset)
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(model, tokenizer))
    return kind(reader, criteria.judge, criteria.facts, config.reward)


def make_criteria(config: Config, dataset: RankedListDataset) -> Criteria:
    """The judge of a config."""
    return judging.make_criteria(config.matching, dataset, config.dataset.list_length)


def make_recording(config: Config, run: Run, tracker: Tracker | None = None, ledger: Ledger | None = None) -> Recording:
    """The recorder of a stage, without a tracker: only its run directory."""
    tracker = tracker or make_tracker("none", directory=run.root, identity=None, config={})
    completions = CompletionLog(run, tracker, config.tracker.completions, config.dataset.list_length)
    return Recording(run, tracker, ledger or Ledger(), completions)


def load(
    folder: Path, dtype: str = "float32", ends_early: bool = False
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model. With `ends_early`, the untrained model's completions have different lengths."""
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype)
    if ends_early:
        model.generation_config.eos_token_id = list(range(10, 60))
    return tokenizer, model


def make_preference_trainer(
    config: Config,
    dataset: RankedListDataset,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    start: Path,
    ledger: Ledger | None = None,
) -> PreferenceTrainer:
    """The trainer of a config of preference optimisation; `start` is the folder of the model."""
    records = dataset.splits["sft" if chooses_demonstrations(config.algorithm) else "train"]
    scorer = make_scorer(config, dataset, tokenizer, model)
    progress = Progress("", config.trainer.rl.updates, file=None, show=False)
    lists = Lists(config, locate(config, "rl"), records, scorer)
    return preference_trainer(config, lists, model, start, ledger or Ledger(), None, progress)


def make_trainer(
    config: Config,
    dataset: RankedListDataset,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    output: Path,
    scorer: type[ListScorer] = ListScorer,
    kind: type[RankedListTrainer] = RankedListTrainer,
) -> RankedListTrainer:
    """The trainer of a config."""
    return kind(
        objective=Objective(config.algorithm, config.reward, config.dataset.list_length),
        scorer=make_scorer(config, dataset, tokenizer, model, scorer),
        model=model,
        args=trl_arguments(config, output),
        train_dataset=prompt_dataset(dataset.splits["train"]),
        processing_class=tokenizer,
        demonstrations=make_demonstrations(config, tokenizer, dataset.splits["sft"]),
        batching=Batching(config.trainer.share_prompts, config.trainer.rl.shuffle),
        generation=config.generation,
        **adapter_argument(config, "rl"),
    )
