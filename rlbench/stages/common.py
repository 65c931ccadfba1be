"""What the training stages share."""

import math
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from rlbench.config import Config


def on_cpu(config: Config) -> bool:
    """Whether the run computes on the CPU: asked for, or `auto` without a GPU."""
    return config.runtime.device == "cpu" or (config.runtime.device == "auto" and not torch.cuda.is_available())


def shared_arguments(config: Config) -> dict[str, Any]:
    """What both trainers are told about precision, device and printing; they report to nobody but our callbacks."""
    return {
        "bf16": config.trainer.bf16,
        "gradient_checkpointing": config.trainer.gradient_checkpointing,
        "use_cpu": on_cpu(config),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def rl_arguments(config: Config) -> dict[str, Any]:
    """What the trainers of the RL stage are told about updates, their optimiser and their log."""
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
    """Warm-up updates of a schedule."""
    return math.ceil(fraction * updates)


def quiet(trainer: Trainer) -> None:
    """Take away what transformers and TRL do for people: metrics go to files, and there is one progress bar.

    TRL writes a model card at every checkpoint, beside it and in a tenth of a second, for models that are published.
    """
    trainer.create_model_card = lambda **_: None
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
