"""Activations and their gradients: drawn at random, and at the places where functions are odd."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import pytest_dlparity as dlp

SAME = {
    "sigmoid": (torch.sigmoid, jax.nn.sigmoid),
    "relu": (torch.relu, jax.nn.relu),
    "tanh": (torch.tanh, jnp.tanh),
    "softmax": (lambda x: torch.softmax(x, -1), jax.nn.softmax),  # jax takes the last axis unless told otherwise, torch wants to be told
    "log_softmax": (lambda x: torch.log_softmax(x, -1), jax.nn.log_softmax),
    "silu": (torch.nn.functional.silu, jax.nn.silu),
    "gelu": (torch.nn.functional.gelu, lambda x: jax.nn.gelu(x, approximate=False)),  # each has the other's form as its default
}
ODD = np.array([[-1e4, -90.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 90.0, 1e4], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("name", SAME)
@pytest.mark.dlparity(dtypes=["float32", "bfloat16"])
def test_at_random(parity, name):
    ours, theirs = SAME[name]
    parity(dlp.layer(torch=ours, jax=theirs, inputs=[dlp.normal(32, 64, scale=3.0)]))


@pytest.mark.parametrize("name", SAME)
@pytest.mark.dlparity(dtypes=["float32"])
def test_at_odd_places(parity, name):
    """Zero (relu has no slope there: both say 0), the smallest and numbers whose exponential overflows."""
    ours, theirs = SAME[name]
    parity(dlp.layer(torch=ours, jax=theirs, inputs=[dlp.fixed(ODD)]))
