"""What the training stages share."""

import math

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from rlbench.config import Config


def on_cpu(config: Config) -> bool:
    """Whether the run computes on the CPU: asked for, or `auto` without a GPU."""
    return config.runtime.device == "cpu" or (config.runtime.device == "auto" and not torch.cuda.is_available())


def warmup_steps(fraction: float, updates: int) -> int:
    """Warm-up updates of a schedule."""
    return math.ceil(fraction * updates)


def quiet(trainer: Trainer) -> None:
    """Take transformers' own printing away: metrics go to files, and there is one progress bar."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
