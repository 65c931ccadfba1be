"""The SFT stage: TRL's `SFTTrainer` on the dataset's demonstrations; trained once and shared by a sweep."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig

from rlbench import processes
from rlbench.config import Config
from rlbench.data.record import Record
from rlbench.models.loading import load_model
from rlbench.progress import Progress
from rlbench.runs import Run
from rlbench.stages.callbacks import Clock, Recorder, ResumeWriter, last_checkpoint
from rlbench.stages.common import quiet, shared_arguments, warmup_steps
from rlbench.stages.parallel import SpreadSFTTrainer, let_cpus_shard, on_each, parallel_arguments
from rlbench.tracking import Tracker


def train_sft(
    config: Config,
    run: Run,
    start: Path,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    tracker: Tracker,
    progress: Progress,
) -> dict[str, Any]:
    """Train, save the model to `run.final_model`, and return the budget spent.

    Args:
        start: folder of the model to start from.
        records: demonstrations, each with a completion.
    """
    sft = config.trainer.sft
    earlier = processes.on_main(lambda: last_checkpoint(run.checkpoints))
    clock = Clock(earlier[2]["seconds"] if earlier else 0.0)
    if processes.is_main():
        run.rewind_metrics(earlier[1] if earlier else -1)
    progress.start_at(earlier[1] if earlier else 0)
    model = load_model(start, config.model.dtype)
    at_once, accumulation = on_each(sft.batch_size, sft.micro_batch_size, processes.count())
    args = SFTConfig(
        output_dir=str(run.checkpoints),
        max_steps=sft.updates,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulation,
        learning_rate=sft.learning_rate,
        lr_scheduler_type=sft.schedule,
        warmup_steps=warmup_steps(sft.warmup_fraction, sft.updates),
        max_length=sft.max_length,
        logging_steps=min(10, sft.updates),
        save_steps=sft.save_every,
        save_total_limit=2,
        seed=sft.seed,
        **shared_arguments(config) | parallel_arguments(config),
    )
    let_cpus_shard(args)
    trainer = SpreadSFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": r.prompt, "completion": r.completion} for r in records]),
        processing_class=tokenizer,
        callbacks=[
            Recorder(run, tracker, progress, "loss"),
            ResumeWriter(lambda: {"seconds": clock.seconds(), **processes.facts(config)}),
        ],
    )
    quiet(trainer)
    trainer.train(resume_from_checkpoint=str(earlier[0]) if earlier else None)
    trainer.save_model(str(run.final_model))
    processes.barrier()  # the others read what the main process has written
    seconds = clock.seconds()
    return {
        "prompts": sft.updates * sft.batch_size,
        "completions": 0,
        "generated_tokens": 0,
        "updates": sft.updates,
        "seconds": {"total": seconds, "rollout": 0.0, "update": seconds, "evaluation": 0.0},
    }
