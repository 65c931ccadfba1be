"""The RL stage: policy or preference optimisation from the shared SFT checkpoint, or from the untrained model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import GRPOConfig

from rlbench.base import preemption
from rlbench.base.errors import BadInput
from rlbench.base.progress import Progress
from rlbench.config.engines import rollout_arguments
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.data.record import Record
from rlbench.data.stored import StoredRecords
from rlbench.evaluation.evaluate import eos_ids
from rlbench.evaluation.recording import Recording
from rlbench.lists.reader import ListReader
from rlbench.models.adapters import lora_config
from rlbench.models.dropout import without_dropout
from rlbench.models.loading import load_model
from rlbench.models.prompt_cache import reason_against
from rlbench.objective import Objective
from rlbench.preference.places import chooses_demonstrations, update_of
from rlbench.preference.steps import updates
from rlbench.rewards.scorer import ListScorer
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run
from rlbench.runs.existing import unmeasured
from rlbench.training.arguments import quiet, rl_arguments, shared_arguments
from rlbench.training.callbacks import (
    COLLECTOR_FILE,
    REWARD_MODEL_FILE,
    CollectorState,
    Evaluator,
    Recorder,
    ReferenceSync,
    RewardModelState,
    SpendingLog,
    Stopper,
    StopTraining,
    TokenBudget,
)
from rlbench.training.checkpoints import (
    BestKeeper,
    CheckpointWriter,
    ResumePoint,
    publish_copy,
    save_model,
    train,
    writing_folder,
)
from rlbench.training.cloning import take_checkpoint
from rlbench.training.collecting import Collector, Processes
from rlbench.training.demonstrations import Demonstrations, Kept, kept_of
from rlbench.training.experts import make_advice
from rlbench.training.made import check_made, draws_after, planned, without_signal
from rlbench.training.parallel import (
    adapter_argument,
    checkpoint_to_resume,
    let_cpus_shard,
    on_each,
    parallel_arguments,
    whole_policy,
)
from rlbench.training.preference import PreferenceTrainer, preference_arguments
from rlbench.training.preference_lists import Lists
from rlbench.training.rollout_log import RolloutLog
from rlbench.training.safety import CannotGoOn, Guard, Stop
from rlbench.training.schedule import stepped
from rlbench.training.scheduled import Scheduled, scheduled_rate
from rlbench.training.scoring import Batching
from rlbench.training.steps_apart import StepsApart
from rlbench.training.tokens import tokenised
from rlbench.training.trainer import RankedListTrainer
from rlbench.training.validation import Validation

log = logging.getLogger(__name__)


def trl_arguments(
    config: Config, output_dir: Path, processes: int = 1, eos_token_ids: Sequence[int] = ()
) -> GRPOConfig:
    """TRL's arguments for this config. Its loss settings keep their defaults, because the objective replaces the loss.

    Args:
        config: the run's configuration.
        output_dir: folder for checkpoints.
        processes: number of processes of the run.
        eos_token_ids: every id that ends a list, for vLLM.
    """
    rl = config.trainer.rl
    # With micro-batches by tokens, the trainer cuts the completions of an update itself.
    at_once = rl.micro_batch_size if rl.micro_batch_tokens is None else rl.completions_per_update
    at_once, accumulation = on_each(rl.completions_per_update, at_once, processes)
    return GRPOConfig(
        output_dir=str(output_dir),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulation,
        num_generations=rl.group_size,
        num_iterations=rl.num_iterations,
        # With any coefficient above 0 TRL keeps a reference model. The objective decides which terms use it.
        beta=reference_beta(config),
        **rollout_arguments(config.generation, eos_token_ids),
        **rl_arguments(config) | shared_arguments(config) | parallel_arguments(config),
    )


def updates_of_an_epoch(config: Config, prompts: int) -> int:
    """Number of updates that this many prompts make. TRL drops prompts that do not fill a generation."""
    rl = config.trainer.rl
    return max(prompts * rl.group_size // rl.completions_per_update, 1) * rl.num_iterations


def reference_beta(config: Config) -> float:
    """TRL's KL coefficient. Above 0 it makes TRL keep the reference model; its own use of it is replaced."""
    needed = Objective(config.policy_optimisation, config.reward, config.dataset.list_length).needs_reference
    return (config.policy_optimisation.kl.beta or 1.0) if needed else 0.0


def reference_sync(trainer: RankedListTrainer, config: Config, start: Path | None) -> ReferenceSync:
    """The callback that makes the trainer's reference follow its policy."""
    unwrap, reference = trainer.accelerator.unwrap_model, config.policy_optimisation.reference
    return ReferenceSync(unwrap(trainer.model), unwrap(trainer.ref_model), reference.sync_every, reference.mixup, start)


def needs_demonstrations(config: Config) -> bool:
    """Whether the algorithm also learns from demonstrations: in a supervised term, or as chosen lists."""
    if config.stage != "rl":
        return False
    if isinstance(config.algorithm, PreferenceConfig):
        return chooses_demonstrations(config.algorithm)
    return "demonstrations" in Objective(config.policy_optimisation, config.reward, config.dataset.list_length).needs


def make_demonstrations(
    config: Config, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
) -> Demonstrations | None:
    """Batches of demonstrations, or None if the algorithm does not need them.

    Args:
        records: those of the SFT stage.
    """
    if not needs_demonstrations(config):
        return None
    longest = config.trainer.sft.max_length
    return Demonstrations(records, tokenizer, longest, config.seed, tokenised(records, tokenizer, longest))


PROMPT_COLUMNS = ("context_id", "prompt", "ground_truth", "seen_titles")


def prompt_dataset(records: Sequence[Record], numbered: bool = False) -> Dataset:
    """The columns that the trainer and the scorer read.

    Args:
        records: the prompts' records.
        numbered: whether to add each one's place.
    """
    dataset = _prompt_columns(records)
    return dataset.add_column("place", list(range(len(dataset)))) if numbered else dataset


def _prompt_columns(records: Sequence[Record]) -> Dataset:
    if isinstance(records, StoredRecords):
        return Dataset.from_file(str(records.file)).select_columns(list(PROMPT_COLUMNS))
    return Dataset.from_list(
        [
            {
                "context_id": record.context_id,
                "prompt": record.prompt,
                "ground_truth": record.truth_rows(),
                "seen_titles": list(record.seen_titles),
            }
            for record in records
        ]
    )


def make_collector(
    config: Config, dataset: Dataset, earlier: ResumePoint | None = None, demonstrations: Sequence[Record] = ()
) -> Collector:
    """The sampler and the rollout of a run, as at the checkpoint from which it resumes.

    Args:
        config: the run's configuration.
        dataset: the prompts.
        earlier: the checkpoint.
        demonstrations: those of the SFT stage, for an expert.
    """
    collector = Collector(
        config.sampler,
        config.rollout,
        dataset,
        config.trainer.rl.group_size,
        config.dataset.list_length,
        config.seed,
        Processes(processes.index(), processes.count()),
        asdict(config.dataset).get("prompt_template"),
        make_advice(config, demonstrations),
    )
    # A clone's parent may have had the defaults, which remember nothing.
    if earlier is not None and (config.clone is None or (earlier.folder / COLLECTOR_FILE).exists()):
        with np.load(earlier.folder / COLLECTOR_FILE) as state:
            collector.restore(dict(state))
    return collector


@dataclass(frozen=True)
class TrainingData:
    """The records that an RL stage trains on.

    Attributes:
        prompts: source of the prompts.
        demonstrations: those of the SFT stage, for a supervised term or as chosen lists.
    """

    prompts: Sequence[Record]
    demonstrations: Sequence[Record]


@dataclass(frozen=True)
class Trained:
    """The end of a training.

    Attributes:
        updates: number of updates made.
        step: the update whose weights `evaluation.checkpoint` selects.
        stop: why it ended early, or None.
        kept: the part of the demonstrations that `trainer.sft.max_length` leaves; None if the algorithm uses none.
    """

    updates: int
    step: int
    stop: Stop | None
    kept: Kept | None = None


def train_rl(
    config: Config,
    recording: Recording,
    start: Path,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    validation: Validation,
    progress: Progress,
) -> Trained:
    """Train from the model in `start` and save the selected model as the run's final one.

    Args:
        config: the run's configuration.
        recording: where the stage records what it does.
        start: folder or hub id of the first policy, which is also the reference of the KL term.
        tokenizer: its tokenizer.
        data: what it trains on.
        validation: data for every evaluation during training.
        progress: shows the updates made.
    """
    rl, run, ledger = config.trainer.rl, recording.run, recording.ledger
    if config.clone is not None:
        processes.on_main(lambda: take_checkpoint(config, run))
    earlier = processes.on_main(lambda: checkpoint_to_resume(config, run))
    totals = earlier.totals if earlier else {}
    _begin(recording, validation.initial, earlier, progress)
    guard = Guard(config.safety, validation.initial.get("in_catalog", 0.0), totals.get("safety", {}))
    policy = without_dropout(load_model(start, config.model.dtype, config.adapter.quantization_of("rl")))
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(policy, tokenizer))
    scorer = ListScorer(reader, validation.criteria.judge, validation.criteria.facts, config.reward)
    kept = _kept(config, run, reader, data.demonstrations)
    trainer: RankedListTrainer | PreferenceTrainer
    if isinstance(config.algorithm, PreferenceConfig):
        shown = "implicit_reward_accuracy"
        records = data.demonstrations if chooses_demonstrations(config.algorithm) else data.prompts
        lists = Lists(config, run, records, scorer)
        trainer = preference_trainer(config, lists, policy, start, ledger, earlier, progress)
    else:
        shown = "hits"
        trainer = policy_trainer(config, run, policy, data, scorer, ledger, earlier)
    trainer.rate = stepped(rl.learning_rate, rl.learning_rate_steps) or scheduled_rate(config)
    trainer.is_clone = config.clone is not None
    trainer.carried.update(totals.get("memory", {}))  # the name that checkpoints have always had
    chooser = BestKeeper(run, config.evaluation.metric, trainer)
    if earlier is not None and config.evaluation.checkpoint == "best":
        processes.on_main(lambda: chooser.check(earlier.update))
    validate = _validator(config, recording, start, validation, trainer, chooser, guard)
    trainer.add_callback(Recorder(run, recording.tracker, progress, shown))
    trainer.add_callback(SpendingLog(run, ledger, recording.tracker))
    trainer.add_callback(Evaluator(config.evaluation.every, validate))
    trainer.add_callback(StopTraining(guard))
    stop = _train(config, run, trainer, earlier, guard, chooser)
    updates = stop.update if stop else trainer.state.global_step
    is_early = stop is not None or (rl.token_budget is not None and updates < rl.updates)
    if is_early and not processes.on_main(lambda: _is_validated(run, updates)):
        validate(updates)
    if stop is None:
        _check_complete(config, run, trainer, updates if is_early else rl.updates)
    return Trained(updates, _select(config, run, trainer, chooser, updates), stop, kept)


def _begin(recording: Recording, initial: Mapping[str, float], earlier: ResumePoint | None, progress: Progress) -> None:
    """Start the ledger, the progress bar and the curves: from their beginning, or from a checkpoint."""
    recording.ledger.resume(earlier.totals.get("budget", {}) if earlier else {})
    if earlier is None:
        recording.means(0, "validation", initial)
    else:
        progress.start_at(earlier.update)
        recording.track(0, "validation", initial)
    processes.barrier()


def _validator(
    config: Config,
    recording: Recording,
    start: Path,
    validation: Validation,
    trainer: RankedListTrainer | PreferenceTrainer,
    chooser: BestKeeper,
    guard: Guard,
) -> Callable[[int], None]:
    """A function that evaluates the policy after an update, records the result, and keeps the weights if they are the
    best; `start` is the folder of a model of the same shape."""
    metric, ledger = config.evaluation.metric, trainer.ledger

    def validate(step: int) -> None:
        with ledger.phase("evaluation"), whole_policy(trainer, config, start) as policy:
            found = validation.of(policy, trainer.processing_class, config, ledger)
        recording.means(step, "validation", found.means)
        recording.lists(step, "validation", validation.records, found.predictions)
        with ledger.phase("checkpoint"):
            chooser.offer(step, found.means[metric])
        guard.validation(step, found.means)
        if silent := without_signal(found.means, metric):
            log.warning("%s, update %d: %s", recording.run.name, step, silent)

    return validate


def _train(
    config: Config,
    run: Run,
    trainer: RankedListTrainer | PreferenceTrainer,
    earlier: ResumePoint | None,
    guard: Guard,
    chooser: BestKeeper,
) -> Stop | None:
    """Train and write checkpoints, to the last update or until something stops the training. Returns what stopped it.

    Raises:
        Preempted: the process was told to stop.
    """
    rl, spread = config.trainer.rl, processes.facts(config)

    def totals() -> dict[str, Any]:
        return {"budget": trainer.ledger.totals(), "memory": trainer.carried, "safety": guard.state, **spread}

    with preemption.training() as training:
        budget = TokenBudget(trainer.ledger, rl.token_budget, partial(draws_after, config))
        trainer.add_callback(budget)
        trainer.add_callback(Stopper(training, rl.num_iterations))
        trainer.add_callback(CheckpointWriter(run, trainer, totals, rl.keep_checkpoints, chooser.best, budget.is_spent))
        try:
            train(trainer, earlier.folder if earlier else None)
        except CannotGoOn as error:
            return error.stop
    return guard.stop


def _check_complete(config: Config, run: Run, trainer: RankedListTrainer | PreferenceTrainer, updates: int) -> None:
    """Raises NotMade if a training that was not stopped made fewer updates, lists or evaluations than planned."""
    made = {name: trainer.ledger.counts[name] for name in ("prompts", "completions")}
    check_made({"updates": trainer.state.global_step, **made}, planned(config, updates))
    every = config.evaluation.every
    processes.on_main(lambda: _check_evaluated(run, [*range(every, updates, every), updates]))


def _select(
    config: Config, run: Run, trainer: RankedListTrainer | PreferenceTrainer, chooser: BestKeeper, updates: int
) -> int:
    """Save the weights that `evaluation.checkpoint` selects as the run's final model. Returns their update."""
    best = chooser.best() if config.evaluation.checkpoint == "best" else None
    if best is None:
        with trainer.ledger.phase("checkpoint"):
            save_model(trainer, run.final_model)
    elif processes.is_main():
        publish_copy(chooser.folder(best), run.final_model)
    processes.barrier()  # the others read files that the main process has written
    return updates if best is None else best


def _kept(config: Config, run: Run, reader: ListReader, records: Sequence[Record]) -> Kept | None:
    """Count the demonstrations that `trainer.sft.max_length` cuts, and log a warning if it cuts any."""
    if not needs_demonstrations(config):
        return None
    longest = config.trainer.sft.max_length
    tokens = tokenised(records, reader.tokenizer, longest)
    ends = reader.eos_token_ids
    kept = kept_of(records, reader.tokenizer, longest, ends) if tokens is None else tokens.kept(ends)
    if kept.without_end:
        pairs = isinstance(config.algorithm, PreferenceConfig)
        log.warning("%s: %s", run.name, kept.words_of_pairs(longest) if pairs else kept.words(longest))
    return kept


def policy_trainer(
    config: Config,
    run: Run,
    policy: PreTrainedModel,
    data: TrainingData,
    scorer: ListScorer,
    ledger: Ledger,
    earlier: ResumePoint | None,
) -> RankedListTrainer:
    """The trainer of policy optimisation; `earlier` is the checkpoint to resume from."""
    rl, tokenizer = config.trainer.rl, scorer.reader.tokenizer
    reason = reason_against(policy)
    if config.generation.stop_after_list and reason is not None:
        raise BadInput(f"generation.stop_after_list = true: {reason}; use generation.stop_after_list=false")
    args = trl_arguments(config, writing_folder(run.checkpoints), processes.count(), scorer.reader.eos_token_ids)
    let_cpus_shard(args)
    dataset = prompt_dataset(data.prompts, config.collects)
    trainer = RankedListTrainer(
        objective=Objective(config.policy_optimisation, config.reward, config.dataset.list_length),
        scorer=scorer,
        model=policy,
        args=args,
        train_dataset=dataset,
        collector=make_collector(config, dataset, earlier, data.demonstrations) if config.collects else None,
        processing_class=tokenizer,
        demonstrations=make_demonstrations(config, tokenizer, data.demonstrations),
        batching=Batching(config.trainer.share_prompts, rl.shuffle, rl.micro_batch_tokens),
        ledger=ledger,
        rollout_log=RolloutLog(run, config.evaluation.every, rl.num_iterations) if config.tracker.completions else None,
        generation=config.generation,
        **adapter_argument(config, "rl"),
    )
    trainer.epochs_done = (earlier.update if earlier else 0) // updates_of_an_epoch(config, len(data.prompts))
    quiet(trainer)
    if config.schedule.values:
        trainer.add_callback(Scheduled(config, trainer))
    if trainer.collector is not None:
        trainer.add_callback(CollectorState(trainer.collector))
    if scorer.reward_model is not None:
        start = None if earlier is None else earlier.folder
        # A clone's parent may have had a reward without such a model.
        known = start is not None and (config.clone is None or (start / REWARD_MODEL_FILE).exists())
        trainer.add_callback(RewardModelState(scorer.reward_model, start if known else None))
    if config.policy_optimisation.reference.sync_every:
        trainer.add_callback(reference_sync(trainer, config, earlier.folder if earlier else None))
    return trainer


def adapted_policy(config: Config, policy: PreTrainedModel) -> PreTrainedModel | PeftModel:
    """The policy with a new adapter, drawn from the run's seed; as it is in a stage that trains all weights."""
    if not config.adapter.trains("rl"):
        return policy
    set_seed(config.seed)  # as TRL does before it makes an adapter
    return get_peft_model(policy, lora_config(config.adapter))


def preference_trainer(
    config: Config,
    lists: Lists,
    policy: PreTrainedModel,
    start: Path,
    ledger: Ledger,
    earlier: ResumePoint | None,
    progress: Progress,
) -> PreferenceTrainer:
    """The trainer of preference optimisation; `earlier` is the checkpoint to resume from."""
    args = preference_arguments(config, writing_folder(lists.run.checkpoints))
    let_cpus_shard(args)
    trainer = PreferenceTrainer(
        lists=lists,
        config=config,
        start=start,
        updates_done=earlier.update if earlier else 0,
        ledger=ledger,
        tell=lambda note: progress.to(trainer.state.global_step, note),
        model=adapted_policy(config, policy),
        args=args,
        processing_class=lists.scorer.reader.tokenizer,
    )
    quiet(trainer)
    if updates[lists.method.update].facts["earlier"]:
        trainer.add_callback(StepsApart(trainer, update_of(lists.method)))
    return trainer


def _check_evaluated(run: Run, steps: Sequence[int]) -> None:
    """Raises NotMade if a planned evaluation is missing in metrics.jsonl."""
    missing = unmeasured(run, steps)
    check_made({"evaluations": len(steps) - len(missing)}, {"evaluations": len(steps)})


def _is_validated(run: Run, update: int) -> bool:
    return any(row["step"] == update and row["split"] == "validation" for row in run.read_metrics())
