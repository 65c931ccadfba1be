"""The RL stage: policy or preference optimisation from the shared SFT checkpoint, or from the untrained model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig

from rlbench.base import preemption
from rlbench.base.progress import Progress
from rlbench.config.engines import rollout_arguments
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import Evaluation, eos_ids, evaluate
from rlbench.lists.film_facts import FilmFacts
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import Judge
from rlbench.models.loading import load_model
from rlbench.objective import Objective
from rlbench.rewards.scorer import ListScorer
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.runs.completions import CompletionLog
from rlbench.runs.directory import Run
from rlbench.runs.existing import unmeasured
from rlbench.tracking import Tracker
from rlbench.training.arguments import quiet, rl_arguments, shared_arguments
from rlbench.training.callbacks import Evaluator, Recorder, ReferenceSync, SpendingLog, Stopper, StopTraining
from rlbench.training.checkpoints import BestKeeper, CheckpointWriter, publish_copy, save_model, train, writing_folder
from rlbench.training.demonstrations import Demonstrations, Kept, kept_of
from rlbench.training.made import check_made, planned, without_signal
from rlbench.training.parallel import checkpoint_to_resume, let_cpus_shard, on_each, parallel_arguments, whole_policy
from rlbench.training.preference import Lists, PreferenceTrainer, preference_arguments
from rlbench.training.rollout_log import RolloutLog
from rlbench.training.safety import CannotGoOn, Guard, Stop
from rlbench.training.schedule import stepped
from rlbench.training.trainer import RankedListTrainer

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
    at_once, accumulation = on_each(rl.completions_per_update, rl.micro_batch_size, processes)
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
        return config.algorithm.chosen == "demonstration"
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
    return Demonstrations(records, tokenizer, config.trainer.sft.max_length, config.seed)


def prompt_dataset(records: Sequence[Record]) -> Dataset:
    """The columns that the trainer and the scorer read."""
    return Dataset.from_list(
        [
            {
                "context_id": record.context_id,
                "prompt": record.prompt,
                "ground_truth": [{"title": title, "year": year} for title, year in record.ground_truth],
                "seen_titles": list(record.seen_titles),
            }
            for record in records
        ]
    )


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
    run: Run,
    start: Path,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    demonstrations: Sequence[Record],
    judge: Judge,
    facts: FilmFacts,
    validation: Sequence[Record],
    initial: Mapping[str, float],
    tracker: Tracker,
    progress: Progress,
    ledger: Ledger | None = None,
) -> Trained:
    """Train from the model in `start` and save the selected model to `run.final_model`.

    Args:
        start: folder or hub id of the first policy, which is also the reference of the KL term.
        records: source of the prompts.
        demonstrations: those of the SFT stage, for algorithms with a supervised term.
        judge: judges lists in training and evaluation.
        facts: facts about the films that reward terms and metrics may use.
        validation: the records for every evaluation during training.
        initial: validation metrics of the first policy, the curves' point at update 0.
        ledger: records the stage's spending.
    """
    rl, rule = config.trainer.rl, config.evaluation
    earlier = processes.on_main(lambda: checkpoint_to_resume(config, run))
    totals = earlier[2] if earlier else {}
    if earlier:
        progress.start_at(earlier[1])
    ledger = ledger or Ledger()
    ledger.resume(totals.get("budget", {}))
    spending = SpendingLog(run, ledger)
    rollouts = RolloutLog(run, rule.every, rl.num_iterations) if config.tracker.completions else None
    completions = CompletionLog(run, tracker, config.tracker.completions, config.dataset.list_length)
    if processes.is_main() and not earlier:
        run.append_metrics(0, "validation", initial)
    processes.barrier()
    tracker.log({f"validation/{name}": value for name, value in initial.items()}, 0)
    guard = Guard(config.safety, initial.get("in_catalog", 0.0), totals.get("safety", {}))
    policy = load_model(start, config.model.dtype)
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(policy, tokenizer))
    scorer = ListScorer(reader, judge, facts, config.reward)
    kept = _kept(config, run, reader, demonstrations)
    trainer: RankedListTrainer | PreferenceTrainer
    if isinstance(config.algorithm, PreferenceConfig):
        shown = "implicit_reward_accuracy"
        chosen = demonstrations if config.algorithm.chosen == "demonstration" else records
        trainer = preference_trainer(config, run, start, policy, chosen, scorer, ledger, earlier, progress)
    else:
        shown = "hits"
        trainer = policy_trainer(
            config, run, policy, tokenizer, records, demonstrations, scorer, ledger, earlier, rollouts
        )
    trainer.rate = stepped(rl.learning_rate, rl.learning_rate_steps)
    trainer.carried.update(totals.get("memory", {}))  # the name that checkpoints have always had
    trainer.add_callback(Recorder(run, tracker, progress, shown))
    trainer.add_callback(spending)
    chooser = BestKeeper(run, rule.metric, trainer)
    if earlier is not None and rule.checkpoint == "best":
        processes.on_main(lambda: chooser.check(earlier[1]))
    spread = processes.facts(config)

    def validate(step: int) -> None:
        result = _evaluate(trainer, config, start, validation)
        tracker.log({f"validation/{name}": value for name, value in result.means.items()}, step)
        if processes.is_main():
            run.append_metrics(step, "validation", result.means)
            completions.add(step, "validation", validation, result.predictions)
        with ledger.phase("checkpoint"):
            chooser.offer(step, result.means[rule.metric])
        guard.validation(step, result.means)
        if found := without_signal(result.means, rule.metric):
            log.warning("%s, update %d: %s", run.name, step, found)

    trainer.add_callback(Evaluator(rule.every, validate))
    trainer.add_callback(StopTraining(guard))

    def totals_so_far() -> dict[str, Any]:
        return {"budget": ledger.totals(), "memory": trainer.carried, "safety": guard.state, **spread}

    stop = None
    with preemption.training() as training:
        trainer.add_callback(Stopper(training, rl.num_iterations))
        trainer.add_callback(CheckpointWriter(run, trainer, totals_so_far, rl.keep_checkpoints, chooser.best))
        try:
            train(trainer, earlier[0] if earlier else None)
            stop = guard.stop
        except CannotGoOn as error:
            stop = error.stop
    if stop is None:
        made = {name: ledger.counts[name] for name in ("prompts", "completions")}
        check_made({"updates": trainer.state.global_step, **made}, planned(config))
        processes.on_main(lambda: _check_evaluated(run, [*range(rule.every, rl.updates, rule.every), rl.updates]))
    updates = stop.update if stop else rl.updates
    if stop and not processes.on_main(lambda: _is_validated(run, updates)):
        validate(updates)

    step = updates
    if rule.checkpoint == "best" and (best := chooser.best()) is not None:
        step = best
        if processes.is_main():
            publish_copy(chooser.folder(best), run.final_model)
    else:
        with ledger.phase("checkpoint"):
            save_model(trainer, run.final_model)
    processes.barrier()  # the others read files that the main process has written
    return Trained(updates, step, stop, kept)


def _kept(config: Config, run: Run, reader: ListReader, records: Sequence[Record]) -> Kept | None:
    """Count the demonstrations that `trainer.sft.max_length` cuts, and log a warning if it cuts any."""
    if not needs_demonstrations(config):
        return None
    longest = config.trainer.sft.max_length
    kept = kept_of(records, reader.tokenizer, longest, reader.eos_token_ids)
    if kept.without_end:
        pairs = isinstance(config.algorithm, PreferenceConfig)
        log.warning("%s: %s", run.name, kept.words_of_pairs(longest) if pairs else kept.words(longest))
    return kept


def policy_trainer(
    config: Config,
    run: Run,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    demonstrations: Sequence[Record],
    scorer: ListScorer,
    ledger: Ledger,
    earlier: tuple[Path, int, dict[str, Any]] | None,
    rollouts: RolloutLog | None,
) -> RankedListTrainer:
    """The trainer of policy optimisation; `earlier` is the checkpoint to resume from."""
    args = trl_arguments(config, writing_folder(run.checkpoints), processes.count(), scorer.reader.eos_token_ids)
    let_cpus_shard(args)
    trainer = RankedListTrainer(
        objective=Objective(config.policy_optimisation, config.reward, config.dataset.list_length),
        scorer=scorer,
        model=policy,
        args=args,
        train_dataset=prompt_dataset(records),
        processing_class=tokenizer,
        demonstrations=make_demonstrations(config, tokenizer, demonstrations),
        ledger=ledger,
        rollout_log=rollouts,
    )
    trainer.epochs_done = (earlier[1] if earlier else 0) // updates_of_an_epoch(config, len(records))
    quiet(trainer)
    if config.policy_optimisation.reference.sync_every:
        trainer.add_callback(reference_sync(trainer, config, earlier[0] if earlier else None))
    return trainer


def preference_trainer(
    config: Config,
    run: Run,
    start: Path,
    policy: PreTrainedModel,
    records: Sequence[Record],
    scorer: ListScorer,
    ledger: Ledger,
    earlier: tuple[Path, int, dict[str, Any]] | None,
    progress: Progress,
) -> PreferenceTrainer:
    """The trainer of preference optimisation; `earlier` is the checkpoint to resume from."""
    args = preference_arguments(config, writing_folder(run.checkpoints))
    let_cpus_shard(args)
    trainer = PreferenceTrainer(
        lists=Lists(config, run, records, scorer),
        config=config,
        start=start,
        updates_done=earlier[1] if earlier else 0,
        ledger=ledger,
        tell=lambda note: progress.to(trainer.state.global_step, note),
        model=policy,
        args=args,
        processing_class=scorer.reader.tokenizer,
    )
    quiet(trainer)
    return trainer


def _check_evaluated(run: Run, steps: Sequence[int]) -> None:
    """Raises NotMade if a planned evaluation is missing in metrics.jsonl."""
    missing = unmeasured(run, steps)
    check_made({"evaluations": len(steps) - len(missing)}, {"evaluations": len(steps)})


def _is_validated(run: Run, update: int) -> bool:
    return any(row["step"] == update and row["split"] == "validation" for row in run.read_metrics())


def _evaluate(
    trainer: RankedListTrainer | PreferenceTrainer, config: Config, start: Path, records: Sequence[Record]
) -> Evaluation:
    """The policy's greedy lists; `start` is the folder of a model of the same shape."""
    with trainer.ledger.phase("evaluation"), whole_policy(trainer, config, start) as policy:
        result = evaluate(policy, trainer.processing_class, records, trainer.scorer.judge, trainer.scorer.facts, config)
    trainer.ledger.add(evaluation_tokens=result.generated_tokens)
    return result
