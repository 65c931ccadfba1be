"""Gathers sharded weights into whole tensors and back. All processes must call these functions together."""

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy whole weights into a model, sharded or not. Parameters without a given weight stay unchanged."""
    for name, parameter in model.named_parameters():
        if name in weights:
            value = weights[name].to(parameter.device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.data.copy_(value)
