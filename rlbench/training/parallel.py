"""Distributes a stage over processes: trainer arguments, batches on each device, whole weights for evaluation.

An update has the same prompts, completions and demonstrations, whatever the number of processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import DistributedType
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from peft import PeftModel, get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from trl import SFTTrainer
from trl.models import unwrap_model_for_generation

from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.models.adapters import absorbed, causal, in_float32, lora_config, merged
from rlbench.models.label_head import add_label_head
from rlbench.models.loading import load_model
from rlbench.runs import processes
from rlbench.runs.directory import Run
from rlbench.training.checkpoints import ResumePoint, last_checkpoint, rewind_logs, save_folder
from rlbench.training.metered import Metered


def on_each(batch_size: int, micro_batch_size: int, count: int) -> tuple[int, int]:
    """(rows that a process takes at once, number of times per update), for `count` processes.

    A micro-batch is the maximum for a device. If the device's share of an update is smaller, it takes only that.
    """
    share = batch_size // count
    at_once = min(micro_batch_size, share)
    return at_once, share // at_once


def checkpoint_to_resume(config: Config, run: Run) -> ResumePoint | None:
    """`last_checkpoint` of a run that resumes. Also truncates its logs to that point. For the main process.

    Raises:
        BadInput: another number of processes or another strategy wrote the checkpoint, or logs are damaged.
    """
    found = last_checkpoint(run.checkpoints)
    if found and (problems := processes.check_resume(run, found.totals, config)):
        raise BadInput(*problems)
    rewind_logs(run, found.folder if found else None)
    return found


def parallel_arguments(config: Config) -> dict[str, Any]:
    """Arguments of transformers for distributing weights and gradients. Empty for a single process."""
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
                # Instead of gradient_checkpointing, which would gather weights a second time.
                "activation_checkpointing": trainer.gradient_checkpointing,
            },
            "gradient_checkpointing": False,
        }
    return {"deepspeed": deepspeed_config(config)}


def deepspeed_config(config: Config) -> dict[str, Any]:
    """DeepSpeed's own configuration. transformers fills in "auto" from its arguments."""
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
    """Make FSDP2 and DeepSpeed work on CPUs, over gloo. accelerate 1.15 silently skips FSDP2 there.

    Call it after creating the arguments and before creating the trainer: accelerate reads them there.
    """
    if args.fsdp and args.use_cpu:
        args.distributed_state.distributed_type = DistributedType.MULTI_GPU
    if args.deepspeed and args.use_cpu:
        import deepspeed  # only here: an optional package

        deepspeed.init_distributed("gloo")


@contextmanager
def whole_policy(trainer: Trainer, config: Config, start: Path) -> Iterator[PreTrainedModel]:
    """The policy with all its weights on every process, so that each can generate without the others.

    Its adapter is merged in this block, where that does not round (`merged`).

    Args:
        trainer: holds the policy, possibly wrapped and sharded.
        config: defines the sharding.
        start: folder of a model of the same shape.
    """
    parallel = config.trainer.parallel
    if trainer.is_fsdp_enabled:
        # A copy, since sharded weights would be gathered again for every token.
        with merged(_gathered(trainer, config, start)) as model:
            yield model
    elif trainer.is_deepspeed_enabled and parallel.zero_stage == 3:
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            yield model
    else:
        with merged(trainer.accelerator.unwrap_model(trainer.model)) as model:
            yield model


def _gathered(trainer: Trainer, config: Config, start: Path) -> PreTrainedModel | PeftModel:
    """A copy of a sharded policy, whole."""
    model: PreTrainedModel | PeftModel = load_model(start, config.model.dtype)
    policy = trainer.accelerator.unwrap_model(trainer.model)
    adapts = isinstance(policy, PeftModel)
    if adapts:
        model = get_peft_model(model, policy.peft_config["default"])
    # Frozen weights are those of `start`.
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=adapts)
    model.load_state_dict(get_model_state_dict(trainer.model, options=options), strict=not adapts)
    return model.to(trainer.accelerator.device)


def save_absorbed(trainer: Trainer, config: Config, start: Path, folder: Path) -> None:
    """Save the policy as a usual model, with its adapter merged. Afterwards the trainer cannot go on.

    All processes call it together.
    """
    sharded = trainer.is_fsdp_enabled
    model = _gathered(trainer, config, start) if sharded else trainer.accelerator.unwrap_model(trainer.model)

    def write(beside: Path) -> None:
        absorbed(model, lambda: load_model(start, config.model.dtype)).save_pretrained(beside)
        trainer.processing_class.save_pretrained(beside)

    save_folder(folder, lambda beside: write(beside) if processes.is_main() else None)


def adapter_argument(config: Config, stage: str) -> dict[str, Any]:
    """TRL's argument for a stage's adapter. Empty for a stage that trains all weights."""
    return {"peft_config": lora_config(config.adapter)} if config.adapter.trains(stage) else {}


def shards_head(trainer: Trainer) -> bool:
    """Whether the weights of the LM head are in parts on the processes, outside a call of the model (ZeRO-3)."""
    return bool(trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3)


class SpreadSFTTrainer(Metered, SFTTrainer):
    """TRL's SFT trainer with rlbench's LM head, which also counts the tokens it trains on. The last steps of an epoch
    use the same rows, whatever the number of processes.

    Args:
        plain: whether to keep TRL's LM head. A mixture of experts with a loss of its router always keeps it.
        **kwargs: TRL's arguments.
    """

    train_dataset: Dataset

    def __init__(self, *, plain: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        in_float32(self.model)
        if not plain and not self.aux_loss_enabled and not shards_head(self):
            add_label_head(causal(self.model))
        self.rows = len(self.train_dataset)
        step = self.args.per_device_train_batch_size * processes.count()
        if processes.count() > 1 and self.rows % step:
            blank = {"input_ids": [self.processing_class.pad_token_id], "labels": [-100]}
            rows = self.train_dataset.select_columns(list(blank))
            filling = Dataset.from_list([blank] * (-self.rows % step), features=rows.features)
            self.train_dataset = concatenate_datasets([rows, filling])

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        rows = operations = 0
        for batch in batches:
            scored = (batch["labels"] != -100).sum(dim=1)
            lengths = batch["attention_mask"].sum(dim=1)[scored > 0].tolist()
            rows += len(lengths)
            operations += self.shape.forward([0] * len(lengths), lengths, int(scored.sum()), trains=True)
        of_all = processes.gather((rows, operations))
        self.ledger.add(trained_tokens=int(tokens), prompts=sum(rows for rows, _ in of_all))
        self.ledger.needed(update=sum(operations for _, operations in of_all))
        return batches, tokens

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        if processes.count() == 1:
            return super()._get_train_sampler(train_dataset)
        return PaddedSampler(self.rows, len(self.train_dataset))


class PaddedSampler(Sampler[int]):
    """An epoch of rows in the order of a single process, followed by blank rows that fill the last step.

    accelerate would fill it with rows from the beginning of the epoch, which would then count twice.

    Args:
        rows: rows of the dataset, without the blank ones at its end.
        padded: rows of the dataset, with them.
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
