"""Turns off a model's dropout where it would make an update's probabilities differ from those of the rollout."""

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout rate of a model to 0, in its modules and its config, and return it.

    An importance ratio compares a completion's probability in an update with its probability in the rollout. Rollouts
    have no dropout. If the update had it, the ratio of an unchanged policy would not be 1.

    Some modules keep the rate as an attribute (OPT, BLOOM, Llama). Others read it from the config (Falcon).
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
