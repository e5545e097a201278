"""Activations."""

from __future__ import annotations

import pytest_dlparity as dlp
from pytest_dlparity.catalog.entry import Entry

ENTRIES = (
    Entry(
        name="relu",
        torch="torch.nn.ReLU()",
        jax={"jax": "jax.nn.relu", "linen": "linen.relu", "nnx": "nnx.relu"},
        cases={"odd": [dlp.normal(3, 5)]},
    ),
)
