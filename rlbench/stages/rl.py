"""The RL stage: policy optimisation from the shared SFT checkpoint."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from rlbench.config import Config
from rlbench.data.record import Record
from rlbench.lists import ListReader
from rlbench.models.loading import load_model
from rlbench.objective import Objective
from rlbench.progress import Progress
from rlbench.relevance import Judge
from rlbench.rewards.scorer import ListScorer
from rlbench.rewards.terms import FilmFacts
from rlbench.rollouts import rollout_arguments
from rlbench.runs import Run
from rlbench.stages.callbacks import Clock, Evaluator, Recorder, ReferenceSync, ResumeWriter, last_checkpoint
from rlbench.stages.common import quiet, shared_arguments
from rlbench.stages.demonstrations import Demonstrations
from rlbench.stages.evaluate import eos_ids, evaluate
from rlbench.tracking import Tracker
from rlbench.trainer import RankedListTrainer


def trl_arguments(config: Config, output_dir: Path, processes: int = 1) -> GRPOConfig:
    """TRL's arguments for this config. Its loss settings are left alone: the objective replaces the loss."""
    rl = config.trainer.rl
    return GRPOConfig(
        output_dir=str(output_dir),
        max_steps=rl.updates,
        per_device_train_batch_size=rl.micro_batch_size,
        gradient_accumulation_steps=rl.completions_per_update // (rl.micro_batch_size * processes),
        num_generations=rl.group_size,
        num_iterations=rl.num_iterations,
        learning_rate=rl.learning_rate,
        lr_scheduler_type=rl.schedule,
        warmup_steps=rl.warmup_updates,
        adam_beta2=rl.adam_beta2,
        weight_decay=0.0,
        max_grad_norm=rl.max_grad_norm,
        # With any coefficient TRL keeps a reference model; whose term it is, the objective decides.
        beta=reference_beta(config),
        logging_steps=1,
        save_steps=rl.save_every,
        # One more than is kept: an old checkpoint goes before the new one is known to be whole.
        save_total_limit=rl.keep_checkpoints + 1,
        seed=config.seed,
        **rollout_arguments(config.generation),
        **shared_arguments(config),
    )


def reference_beta(config: Config) -> float:
    """TRL's KL coefficient: what it does with it is replaced, but above 0 it keeps the reference model."""
    needed = Objective(config.algorithm, config.reward, config.dataset.list_length).needs_reference
    return (config.algorithm.kl.beta or 1.0) if needed else 0.0


def reference_sync(trainer: RankedListTrainer, config: Config, start: Path | None) -> ReferenceSync:
    """The callback that lets the trainer's reference follow its policy."""
    unwrap, reference = trainer.accelerator.unwrap_model, config.algorithm.reference
    return ReferenceSync(unwrap(trainer.model), unwrap(trainer.ref_model), reference.sync_every, reference.mixup, start)


def make_demonstrations(
    config: Config, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
) -> Demonstrations | None:
    """Batches of the demonstrations, where the algorithm asks for them.

    Args:
        records: the SFT stage's.
    """
    if "demonstrations" not in Objective(config.algorithm, config.reward, config.dataset.list_length).needs:
        return None
    return Demonstrations(records, tokenizer, config.trainer.sft.max_length, config.seed)


def prompt_dataset(records: Sequence[Record]) -> Dataset:
    """The columns that the trainer and the scorer read."""
    return Dataset.from_list(
        [
            {
                "prompt": record.prompt,
                "ground_truth": [{"title": title, "year": year} for title, year in record.ground_truth],
                "seen_titles": list(record.seen_titles),
            }
            for record in records
        ]
    )


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
) -> tuple[dict[str, Any], int]:
    """Train from the SFT model in `start`, save the chosen model to `run.final_model`.

    Args:
        start: folder of the SFT model; also the reference of the KL term.
        records: what prompts are drawn from.
        demonstrations: those of the SFT stage, for algorithms with a supervised term.
        judge: how lists are judged, in training and evaluation.
        facts: what reward terms and metrics may know of the films.
        validation: the records that every evaluation during training uses.
        initial: validation metrics of the SFT model: the curves' point at update 0.

    Returns:
        The budget spent, and the update whose weights were chosen by `evaluation.checkpoint`.
    """
    rl, rule = config.trainer.rl, config.evaluation
    earlier = last_checkpoint(run.checkpoints)
    totals = earlier[2] if earlier else {}
    if earlier:
        run.rewind_metrics(earlier[1])
        progress.start_at(earlier[1])
    else:
        run.rewind_metrics(-1)
        run.append_metrics(0, "validation", initial)
    tracker.log({f"validation/{name}": value for name, value in initial.items()}, 0)
    clock = Clock(totals.get("seconds", 0.0))
    policy = load_model(start, config.model.dtype)
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(policy, tokenizer))
    trainer = RankedListTrainer(
        objective=Objective(config.algorithm, config.reward, config.dataset.list_length),
        scorer=ListScorer(reader, judge, facts, config.reward),
        model=policy,
        args=trl_arguments(config, run.checkpoints),
        train_dataset=prompt_dataset(records),
        processing_class=tokenizer,
        demonstrations=make_demonstrations(config, tokenizer, demonstrations),
    )
    for name in ("completions", "prompts", "generated_tokens", "seconds_rollout", "seconds_evaluation"):
        trainer.spent[name] = totals.get(name, 0.0)
    trainer.memory.update(totals.get("memory", {}))
    quiet(trainer)
    if config.algorithm.reference.sync_every:
        trainer.add_callback(reference_sync(trainer, config, earlier[0] if earlier else None))
    trainer.add_callback(Recorder(run, tracker, progress, "hits"))
    chooser = BestKeeper(run, rule.metric, lambda folder: trainer.save_model(str(folder)))
    trainer.add_callback(
        Evaluator(rule.every, lambda step: _validate(trainer, config, run, validation, tracker, chooser, step))
    )
    trainer.add_callback(ResumeWriter(lambda: {**trainer.spent, "seconds": clock.seconds(), "memory": trainer.memory}))
    trainer.train(resume_from_checkpoint=str(earlier[0]) if earlier else None)

    step = rl.updates
    if rule.checkpoint == "best" and (best := chooser.best()) is not None:
        step = best[0]
        shutil.copytree(chooser.folder, run.final_model, dirs_exist_ok=True)
    else:
        trainer.save_model(str(run.final_model))
    spent, total = trainer.spent, clock.seconds()
    seconds = {"total": total, "rollout": spent["seconds_rollout"], "evaluation": spent["seconds_evaluation"]}
    seconds["update"] = total - seconds["rollout"] - seconds["evaluation"]
    counts = {name: int(spent[name]) for name in ("prompts", "completions", "generated_tokens")}
    return counts | {"updates": rl.updates, "seconds": seconds}, step


class BestKeeper:
    """Keeps the weights of the best validation so far, where the checkpoint rule asks for them."""

    def __init__(self, run: Run, metric: str, save: Callable[[Path], None]):
        self.run, self.metric, self.save = run, metric, save
        self.folder = run.checkpoints / "best"

    def best(self) -> tuple[int, float] | None:
        """(update, value) of the best validation after the start; the earliest of equals."""
        rows = [
            (row["step"], row["value"])
            for row in self.run.read_metrics()
            if row["split"] == "validation" and row["metric"] == self.metric and row["step"] > 0
        ]
        return max(rows, key=lambda row: (row[1], -row[0])) if rows else None

    def offer(self, step: int) -> None:
        """Save the current weights if the validation of this update is the best."""
        if (best := self.best()) is not None and best[0] == step:
            self.save(self.folder)


def _validate(
    trainer: RankedListTrainer,
    config: Config,
    run: Run,
    records: Sequence[Record],
    tracker: Tracker,
    chooser: BestKeeper,
    step: int,
) -> None:
    clock = Clock()
    result = evaluate(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        records,
        trainer.scorer.judge,
        trainer.scorer.facts,
        config,
    )
    run.append_metrics(step, "validation", result.means)
    tracker.log({f"validation/{name}": value for name, value in result.means.items()}, step)
    if config.evaluation.checkpoint == "best":
        chooser.offer(step)
    trainer.spent["seconds_evaluation"] += clock.seconds()
