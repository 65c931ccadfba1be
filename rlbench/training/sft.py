"""The SFT stage: TRL's `SFTTrainer` on the dataset's demonstrations. Trained once and shared by a sweep.

With `trainer.sft.evaluate_every` it is evaluated on validation during training. Greedy lists and losses draw no random
numbers, so evaluations do not change the weights.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig

from rlbench.base import preemption
from rlbench.base.errors import BadInput
from rlbench.base.progress import Progress
from rlbench.config.schema import Config
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import eos_ids
from rlbench.evaluation.recording import Recording
from rlbench.models.loading import load_model
from rlbench.runs import processes
from rlbench.runs.directory import Run
from rlbench.runs.existing import curve_problems, unmeasured
from rlbench.training.arguments import quiet, shared_arguments, warmup_steps
from rlbench.training.callbacks import Evaluator, Recorder, Stopper
from rlbench.training.checkpoints import SFT_KEPT, CheckpointWriter, save_model, train, writing_folder
from rlbench.training.demonstrations import Demonstrations, Kept
from rlbench.training.made import check_made
from rlbench.training.parallel import (
    SpreadSFTTrainer,
    adapter_argument,
    checkpoint_to_resume,
    let_cpus_shard,
    on_each,
    parallel_arguments,
    save_absorbed,
    whole_policy,
)
from rlbench.training.tokens import Tokens, tokenised
from rlbench.training.validation import Validation

log = logging.getLogger(__name__)


def train_sft(
    config: Config,
    recording: Recording,
    start: Path,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    progress: Progress,
    validation: Validation | None = None,
) -> Kept:
    """Train, and save the run's final model. Returns the part of the demonstrations that `max_length` leaves.

    Args:
        config: the run's configuration.
        recording: where the stage records what it does.
        start: folder of the model to start from.
        tokenizer: its tokenizer.
        records: demonstrations, each with a completion.
        progress: shows the updates made.
        validation: data for the evaluations of `trainer.sft.evaluate_every`; None without evaluations.

    Raises:
        BadInput: the run resumes from a checkpoint and lacks an earlier evaluation.
    """
    sft, run, ledger = config.trainer.sft, recording.run, recording.ledger
    earlier = processes.on_main(lambda: checkpoint_to_resume(config, run))
    ledger.resume(earlier.totals.get("budget", {}) if earlier else {})
    if validation is not None and earlier is not None:
        _check_evaluated(config, run, earlier.update)
    processes.barrier()
    progress.start_at(earlier.update if earlier else 0)
    model = load_model(start, config.model.dtype, config.adapter.quantization_of("sft"))
    args = sft_arguments(config, writing_folder(run.checkpoints))
    let_cpus_shard(args)
    tokens = tokenised(records, tokenizer, sft.max_length)
    if tokens is not None:
        args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = SpreadSFTTrainer(
        plain=config.trainer.share_prompts == "never",
        model=model,
        args=args,
        train_dataset=texts_of(records) if tokens is None else tokens.dataset(),
        processing_class=tokenizer,
        callbacks=[Recorder(run, recording.tracker, progress, "loss")],
        **adapter_argument(config, "sft"),
    )
    trainer.ledger = ledger
    quiet(trainer)
    kept = _kept(trainer, tokens, len(records), eos_ids(model, tokenizer))
    if tokens is not None and tokens.cut_prompts:
        log.warning("%s: %s", run.name, tokens.words())
    if kept.without_end:
        log.warning("%s: %s", run.name, kept.words(sft.max_length))
    if validation is not None:
        trainer.add_callback(_make_curve(config, recording, start, validation, trainer))
    spread = processes.facts(config)
    with preemption.training() as training:
        trainer.add_callback(Stopper(training, 1))
        trainer.add_callback(CheckpointWriter(run, trainer, lambda: {"budget": ledger.totals(), **spread}, SFT_KEPT))
        train(trainer, earlier.folder if earlier else None)
    with ledger.phase("checkpoint"):
        if config.adapter.trains("sft"):
            save_absorbed(trainer, config, start, run.final_model)
        else:
            save_model(trainer, run.final_model)
    check_made({"updates": trainer.state.global_step}, {"updates": sft.updates})
    return kept


def texts_of(records: Sequence[Record]) -> Dataset:
    """The columns that TRL tokenises."""
    return Dataset.from_list([{"prompt": record.prompt, "completion": record.completion} for record in records])


def _kept(trainer: SpreadSFTTrainer, tokens: Tokens | None, count: int, ends: Sequence[int]) -> Kept:
    """Effect of the length limit on `count` demonstrations, from the stored tokens or from TRL's."""
    if tokens is not None:
        return tokens.kept(ends)
    rows = trainer.train_dataset["input_ids"][: trainer.rows]  # with several processes, blank rows follow
    return Kept.of_rows(rows, trainer.args.max_length, ends, dropped=count - trainer.rows)


def sft_arguments(config: Config, output_dir: Path) -> SFTConfig:
    """TRL's arguments for this config; `output_dir` is the folder for checkpoints."""
    sft = config.trainer.sft
    at_once, accumulation = on_each(sft.batch_size, sft.micro_batch_size, processes.count())
    return SFTConfig(
        output_dir=str(output_dir),
        max_steps=sft.updates,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulation,
        learning_rate=sft.learning_rate,
        lr_scheduler_type=sft.schedule,
        warmup_steps=warmup_steps(sft.warmup_fraction, sft.updates),
        max_length=sft.max_length,
        logging_steps=min(10, sft.updates),
        save_steps=sft.save_every,
        seed=sft.seed,
        **shared_arguments(config) | parallel_arguments(config),
    )


def _check_evaluated(config: Config, run: Run, step: int) -> None:
    sft = config.trainer.sft
    missing = processes.on_main(lambda: unmeasured(run, [update for update in sft.evaluated if update <= step]))
    if sft.evaluate_every is not None and (problems := curve_problems(run, sft.evaluate_every, missing)):
        raise BadInput(*problems)


class _Curve(Evaluator):
    """Also evaluates before the first update."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self.evaluate(0)


def _make_curve(
    config: Config, recording: Recording, start: Path, validation: Validation, trainer: SpreadSFTTrainer
) -> _Curve:
    """The callback that measures the points of the curve: losses at each, and lists at all but the first and the last.

    The lists of the untrained model are known. Those of the last update are generated from the saved weights.
    """
    sft, every, tokenizer = config.trainer.sft, config.trainer.sft.evaluate_every, trainer.processing_class
    assert every is not None
    shown = [record for record in validation.records if record.completion is not None]
    held_out = Demonstrations(shown, tokenizer, sft.max_length, sft.seed) if shown else None

    def validate(step: int) -> None:
        predictions, means = None, dict(validation.initial) if step == 0 else {}
        with trainer.ledger.phase("evaluation"), whole_policy(trainer, config, start) as policy:
            if 0 < step < sft.updates:
                found = validation.of(policy, tokenizer, config, trainer.ledger)
                predictions, means = found.predictions, dict(found.means)
            if held_out is not None:
                means["loss"] = held_out.loss(policy, sft.micro_batch_size)
        recording.means(step, "validation", means)
        if predictions is not None:
            recording.lists(step, "validation", validation.records, predictions)

    return _Curve(every, validate)
