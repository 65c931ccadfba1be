"""Code shared by the training stages."""

import math
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from rlbench.config.adapters import OPTIMIZERS
from rlbench.config.schema import Config


def on_cpu(config: Config) -> bool:
    """Whether the run computes on the CPU: because it asks for it, or because `auto` finds no GPU."""
    return config.runtime.device == "cpu" or (config.runtime.device == "auto" and not torch.cuda.is_available())


def shared_arguments(config: Config) -> dict[str, Any]:
    """Arguments of both trainers: precision, optimiser, device, printing. They report only to our own callbacks."""
    named = OPTIMIZERS[config.trainer.optimizer]
    return {
        **({"optim": named} if named else {}),
        "bf16": config.trainer.bf16,
        "gradient_checkpointing": config.trainer.gradient_checkpointing,
        "use_cpu": on_cpu(config),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def rl_arguments(config: Config) -> dict[str, Any]:
    """Arguments of the RL stage's trainers for updates, optimiser and log."""
    rl = config.trainer.rl
    return {
        "max_steps": rl.updates,
        "learning_rate": rl.learning_rate,
        "lr_scheduler_type": rl.schedule,
        "warmup_steps": rl.warmup_updates,
        "adam_beta2": rl.adam_beta2,
        "weight_decay": 0.0,
        "max_grad_norm": rl.max_grad_norm,
        "logging_steps": 1,
        "save_steps": rl.save_every,
        "seed": config.seed,
    }


def warmup_steps(fraction: float, updates: int) -> int:
    """Number of warm-up updates of a schedule."""
    return math.ceil(fraction * updates)


def quiet(trainer: Trainer) -> None:
    """Turn off transformers' and TRL's own output: metrics go to files, and there is one progress bar.

    TRL would also write a model card next to every checkpoint, which takes a tenth of a second.
    """
    trainer.create_model_card = lambda **_: None
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
