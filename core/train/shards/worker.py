"""Tensors that lie in shards on several processes (FSDP2): put together to be saved, cut again to be loaded.

Part of the train worker. What is not sharded is passed through as it is. Putting together and cutting is done by all
processes at the same point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: torch.nn.Module) -> bool:
    """Say whether what is trained lies in shards."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters() if parameter.requires_grad)


def whole(value: Any) -> Any:
    """Return a tensor put together, and everything else, with the tensors inside of dictionaries put together."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    return value


def whole_adapter(model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """Return the trained weights of a sharded model by their names in it; None for one that lies whole in every process."""
    if not is_sharded(model):
        return None
    return {name: whole(parameter.data) for name, parameter in model.named_parameters() if parameter.requires_grad}


def cut_like(stored: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor cut as another one is; the first process's counts."""
    if not isinstance(there, DTensor):
        return stored
    return distribute_tensor(stored.to(there.device), there.device_mesh, there.placements)


def cut_state(state: Mapping[int, Mapping[str, Any]], parameters: list[torch.Tensor]) -> dict[int, dict[str, Any]]:
    """Return an optimiser's state cut as its parameters are: what has a parameter's shape belongs to it weight by weight."""
    return {
        index: {
            name: cut_like(value, parameters[index])
            if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in held.items()
        }
        for index, held in state.items()
    }
