"""The SFT stage: TRL's `SFTTrainer` on the dataset's demonstrations; trained once and shared by a sweep."""

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig

from rlbench import preemption, processes
from rlbench.budget import Ledger
from rlbench.config import Config
from rlbench.data.record import Record
from rlbench.models.loading import load_model
from rlbench.progress import Progress
from rlbench.runs import Run
from rlbench.stages.callbacks import Recorder, Stopper
from rlbench.stages.checkpoints import SFT_KEPT, CheckpointWriter, save_model, train, writing_folder
from rlbench.stages.common import quiet, shared_arguments, warmup_steps
from rlbench.stages.parallel import SpreadSFTTrainer, checkpoint_to_resume, let_cpus_shard, on_each, parallel_arguments
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
    earlier = processes.on_main(lambda: checkpoint_to_resume(config, run))
    ledger.resume(earlier[2].get("budget", {}) if earlier else {})
    if processes.is_main():
        run.rewind_metrics(earlier[1] if earlier else -1)
    processes.barrier()
    progress.start_at(earlier[1] if earlier else 0)
    model = load_model(start, config.model.dtype)
    at_once, accumulation = on_each(sft.batch_size, sft.micro_batch_size, processes.count())
    args = SFTConfig(
        output_dir=str(writing_folder(run.checkpoints)),
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
    let_cpus_shard(args)
    trainer = SpreadSFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": r.prompt, "completion": r.completion} for r in records]),
        processing_class=tokenizer,
        callbacks=[Recorder(run, tracker, progress, "loss")],
    )
    trainer.ledger = ledger
    quiet(trainer)
    spread = processes.facts(config)
    with preemption.training() as training:
        trainer.add_callback(Stopper(training, 1))
        trainer.add_callback(CheckpointWriter(run, trainer, lambda: {"budget": ledger.totals(), **spread}, SFT_KEPT))
        train(trainer, earlier[0] if earlier else None)
    with ledger.phase("checkpoint"):
        save_model(trainer, run.final_model)
    ledger.counts["prompts"] = sft.updates * sft.batch_size
