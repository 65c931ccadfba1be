"""The SFT stage: TRL's `SFTTrainer` on the dataset's demonstrations; trained once and shared by a sweep."""

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig

from rlbench.budget import Ledger
from rlbench.config import Config
from rlbench.data.record import Record
from rlbench.models.loading import load_model
from rlbench.progress import Progress
from rlbench.runs import Run
from rlbench.stages.callbacks import Recorder, ResumeWriter, last_checkpoint
from rlbench.stages.common import quiet, shared_arguments, warmup_steps
from rlbench.stages.metered import MeteredSFTTrainer, train_what_is_left
from rlbench.tracking import Tracker


def train_sft(
    config: Config,
    run: Run,
    start: Path,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    tracker: Tracker,
    progress: Progress,
    ledger: Ledger,
) -> None:
    """Train, and save the model to `run.final_model`.

    Args:
        start: folder of the model to start from.
        records: demonstrations, each with a completion.
        ledger: what the stage spends.
    """
    sft = config.trainer.sft
    earlier = last_checkpoint(run.checkpoints)
    ledger.resume(earlier[2].get("budget", {}) if earlier else {})
    run.rewind_metrics(earlier[1] if earlier else -1)
    progress.start_at(earlier[1] if earlier else 0)
    args = SFTConfig(
        output_dir=str(run.checkpoints),
        max_steps=sft.updates,
        per_device_train_batch_size=sft.micro_batch_size,
        gradient_accumulation_steps=sft.batch_size // sft.micro_batch_size,
        learning_rate=sft.learning_rate,
        lr_scheduler_type=sft.schedule,
        warmup_steps=warmup_steps(sft.warmup_fraction, sft.updates),
        max_length=sft.max_length,
        logging_steps=min(10, sft.updates),
        save_steps=sft.save_every,
        save_total_limit=2,
        seed=sft.seed,
        **shared_arguments(config),
    )
    trainer = MeteredSFTTrainer(
        model=load_model(start, config.model.dtype),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": r.prompt, "completion": r.completion} for r in records]),
        processing_class=tokenizer,
        callbacks=[
            Recorder(run, tracker, progress, "loss"),
            ResumeWriter(lambda: {"budget": ledger.totals()}),
        ],
    )
    trainer.ledger = ledger
    quiet(trainer)
    train_what_is_left(trainer, str(earlier[0]) if earlier else None)
    trainer.save_model(str(run.final_model))
    ledger.counts["prompts"] = sft.updates * sft.batch_size
