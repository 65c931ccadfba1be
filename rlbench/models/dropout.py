"""Turns off a model's dropout where it would make an update's probabilities differ from those of the rollout."""

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout rate of a model to 0, in its modules and its config, and return it.

    Importance ratios compare a completion's probabilities in an update with those of its rollout, which is drawn
    without dropout. With it, the ratio of an unchanged policy is not 1.

    Some modules use a rate that is their attribute (OPT, BLOOM, Llama), or that they read from the config (Falcon).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _set_to_zero(module)
    _of_config(model.config)
    return model


def _of_config(config: PretrainedConfig) -> None:
    _set_to_zero(config)
    for part in vars(config).values():
        if isinstance(part, PretrainedConfig):
            _of_config(part)


def _set_to_zero(holder: Any) -> None:
    for name, value in vars(holder).items():
        if "drop" in name and isinstance(value, float):
            setattr(holder, name, 0.0)
