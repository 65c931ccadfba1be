"""How a stage is spread over processes: what trainers are told, batches on each device, whole weights to evaluate.

Whatever the number of processes, an update is of the same prompts, completions and demonstrations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import DistributedType
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from trl import SFTTrainer
from trl.models import unwrap_model_for_generation

from rlbench import processes
from rlbench.config import Config
from rlbench.errors import BadInput
from rlbench.models.loading import load_model
from rlbench.runs import Run
from rlbench.stages.checkpoints import last_checkpoint, rewind_logs
from rlbench.stages.metered import Metered


def on_each(batch_size: int, micro_batch_size: int, count: int) -> tuple[int, int]:
    """(rows that a process takes at once, how often it does so for an update), for `count` processes.

    A micro-batch is the most that a device takes; where its share of an update is less it takes that.
    """
    share = batch_size // count
    at_once = min(micro_batch_size, share)
    return at_once, share // at_once


def checkpoint_to_resume(config: Config, run: Run) -> tuple[Path, int, dict[str, Any]] | None:
    """`last_checkpoint` of a run that goes on, whose logs are cut back to it; for the main process.

    Raises:
        BadInput: where it was written by another number of processes, or another strategy, or logs are damaged.
    """
    found = last_checkpoint(run.checkpoints)
    if found and (problems := processes.check_resume(run, found[2], config)):
        raise BadInput(*problems)
    rewind_logs(run, found[0] if found else None)
    return found


def parallel_arguments(config: Config) -> dict[str, Any]:
    """What transformers is told of how weights and gradients are spread; nothing where one process runs alone."""
    parallel, trainer = config.trainer.parallel, config.trainer
    if processes.count() == 1:
        return {}
    if parallel.strategy == "ddp":
        return {"ddp_find_unused_parameters": False}  # every loss reaches all weights
    if parallel.strategy == "fsdp2":
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "reshard_after_forward": parallel.reshard_after_forward,
                "cpu_offload": parallel.cpu_offload,
                # In place of gradient_checkpointing, which would gather weights a second time.
                "activation_checkpointing": trainer.gradient_checkpointing,
            },
            "gradient_checkpointing": False,
        }
    return {"deepspeed": deepspeed_config(config)}


def deepspeed_config(config: Config) -> dict[str, Any]:
    """DeepSpeed's own form; "auto" is filled in by transformers from its arguments."""
    parallel = config.trainer.parallel
    zero: dict[str, Any] = {"stage": parallel.zero_stage}
    if parallel.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if parallel.cpu_offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if parallel.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def let_cpus_shard(args: TrainingArguments) -> None:
    """Make FSDP2 and DeepSpeed work on CPUs, over gloo; accelerate 1.15 leaves FSDP2 out there in silence.

    To be called between the making of arguments and trainer: that is where accelerate looks.
    """
    if args.fsdp and args.use_cpu:
        args.distributed_state.distributed_type = DistributedType.MULTI_GPU
    if args.deepspeed and args.use_cpu:
        import deepspeed  # only here: an optional package

        deepspeed.init_distributed("gloo")


@contextmanager
def whole_policy(trainer: Trainer, config: Config, start: Path) -> Iterator[PreTrainedModel]:
    """The policy with all its weights on every process, to generate from without the others.

    Args:
        trainer: holds the policy, wrapped and sharded as it may be.
        config: says how it is sharded.
        start: folder of a model of the same shape.
    """
    parallel = config.trainer.parallel
    if trainer.is_fsdp_enabled:
        # A copy, since sharded weights would be gathered anew for every token.
        options = StateDictOptions(full_state_dict=True)
        weights = get_model_state_dict(trainer.model, options=options)
        model = load_model(start, config.model.dtype).to(trainer.accelerator.device)
        model.load_state_dict(weights)
        yield model
    elif trainer.is_deepspeed_enabled and parallel.zero_stage == 3:
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            yield model
    else:
        yield trainer.accelerator.unwrap_model(trainer.model)


class SpreadSFTTrainer(Metered, SFTTrainer):
    """TRL's trainer, whose steps at the end of an epoch have the rows of one process however many there are; it counts
    the tokens that it trains on."""

    train_dataset: Dataset

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.rows = len(self.train_dataset)
        step = self.args.per_device_train_batch_size * processes.count()
        if processes.count() > 1 and self.rows % step:
            blank = {"input_ids": [self.processing_class.pad_token_id], "labels": [-100]}
            rows = self.train_dataset.select_columns(list(blank))
            filling = Dataset.from_list([blank] * (-self.rows % step), features=rows.features)
            self.train_dataset = concatenate_datasets([rows, filling])

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        rows = sum(int((batch["labels"] != -100).any(dim=1).sum()) for batch in batches)
        self.ledger.add(trained_tokens=int(tokens), prompts=sum(processes.gather(rows)))
        return batches, tokens

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        if processes.count() == 1:
            return super()._get_train_sampler(train_dataset)
        return PaddedSampler(self.rows, len(self.train_dataset))


class PaddedSampler(Sampler[int]):
    """An epoch of rows in the order that one process has, and after them as many blank rows as fill the last step.

    accelerate would fill it with rows of the epoch's beginning, which would then count twice.

    Args:
        rows: how many rows the dataset has, without the blank ones that follow them.
        padded: with these.
    """

    def __init__(self, rows: int, padded: int):
        self.order, self.rows, self.padded = SeedableRandomSampler(range(rows)), rows, padded

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from range(self.rows, self.padded)

    def __len__(self) -> int:
        return self.padded
