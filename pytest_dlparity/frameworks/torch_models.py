"""torch modules as a user holds them, and their arrays by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def filled(module: torch.nn.Module, values: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """A deep copy of the module with these numbers, in the dtypes and on the devices that it has."""
    made = copy.deepcopy(module)
    with torch.no_grad():
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            if name in values:
                array = np.array(values[name])
                tensor.copy_(torch.as_tensor(array if array.dtype.kind in "biufc" else array.astype(np.float32)))  # bfloat16: exact
    return made


def arrays(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a module, also those that a state dict leaves out."""
    return {name: tensor for found in (module.named_parameters(), module.named_buffers()) for name, tensor in found}


def numbers(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state dict, of torch tensors or of arrays, as numpy arrays of the same dtypes (bfloat16 as ml_dtypes has it)."""
    return {name: _numpy(value) for name, value in state.items()}


def _numpy(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    if value.dtype != torch.bfloat16:
        return value.numpy()
    import ml_dtypes

    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
