"""The torch side of an entry as a spec needs it: without a parameter that is constant, and with its channels where the other side has them."""

from __future__ import annotations

from typing import Any

import torch


class ChannelsLast(torch.nn.Module):
    """A module or function of (batch, channels, ...), called with (batch, ..., channels)."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        found = self.module(*(_first(x) for x in inputs), **{name: _first(x) for name, x in named.items()})
        return tuple(map(_last, found)) if isinstance(found, tuple) else _last(found)


def _first(x: Any) -> Any:
    return x.movedim(-1, 1) if isinstance(x, torch.Tensor) and x.ndim > 2 else x


def _last(x: Any) -> Any:
    return x.movedim(1, -1) if isinstance(x, torch.Tensor) and x.ndim > 2 else x


def made(side: Any) -> Any:
    """A module of its class; anything else as it is."""
    return side() if isinstance(side, type) and issubclass(side, torch.nn.Module) else side


def stirred(side: Any) -> Any:
    """The same module; what was constant in it is no more. A norm begins with a weight of ones and a bias of zeros: dropped, neither would be missed.

    Variances stay positive: their logarithm is moved.
    """
    if not isinstance(side, torch.nn.Module):
        return side
    with torch.no_grad():
        for name, tensor in (*side.named_parameters(), *side.named_buffers()):
            if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
                noise = 0.3 * (2 * torch.rand_like(tensor) - 1)
                tensor.copy_(tensor * noise.exp() if name.endswith("var") else tensor + noise)
    return side


def wrapped(side: Any) -> Any:
    return ChannelsLast(side)
