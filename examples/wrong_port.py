"""A port with one mistake, and what the check says of it: python examples/wrong_port.py"""

from __future__ import annotations

import torch
from flax import nnx

import pytest_dlparity as dlp


class TorchFeedForward(torch.nn.Module):
    """The second half of a transformer's block: (n, 64) to (n, 64)."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(64)
        self.up = torch.nn.Linear(64, 256)
        self.down = torch.nn.Linear(256, 64)

    def forward(self, x):
        h = self.norm(x)
        h = torch.nn.functional.gelu(self.up(h))
        return x + self.down(h)


class JaxFeedForward(nnx.Module):
    """Its port, within 1e-3 of it everywhere and yet another function: jax's GELU is the tanh form unless told otherwise."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(64, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(64, 256, rngs=rngs)
        self.down = nnx.Linear(256, 64, rngs=rngs)

    def __call__(self, x):
        h = self.norm(x)
        h = nnx.gelu(self.up(h))  # the mistake: approximate=False is missing
        return x + self.down(h)


def feed_forward():
    return dlp.layer(torch=TorchFeedForward(), jax=JaxFeedForward(nnx.Rngs(0)), inputs=[dlp.normal(8, 64)])


if __name__ == "__main__":
    print(dlp.check(feed_forward(), devices=["cpu"], dtypes=["float32"], localize="auto"))
