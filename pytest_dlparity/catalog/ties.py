"""Draws that meet no tie and no bound by chance, as numbers of eight bits otherwise do: what happens there an entry tells in an edge of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_dlparity.draws import Draw


def apart(draw: Draw, bounds: Sequence[float]) -> Draw:
    """A draw that meets none of the bounds."""

    def make(rng: np.random.Generator) -> np.ndarray:
        made = draw.make(rng)
        near = np.any([np.abs(made - bound) < abs(bound) / 64 for bound in bounds], axis=0)
        return np.where(near, 17 / 16 * made, made)

    return Draw(f"{draw!r} apart from {', '.join(f'{bound:g}' for bound in bounds)}", make) if bounds else draw


def lower(*shape: int) -> Any:
    """Numbers whose fraction is below a half: none is one of upper()."""
    return Draw(f"lower{shape}", lambda rng: rng.integers(-2, 2, shape) + rng.uniform(0.05, 0.45, shape))


def upper(*shape: int) -> Any:
    return Draw(f"upper{shape}", lambda rng: rng.integers(-2, 2, shape) + rng.uniform(0.55, 0.95, shape))


def distinct(*shape: int) -> Draw:
    """Up to 64 numbers of which no two are equal, in any dtype."""
    size = int(np.prod(shape))
    return Draw(f"distinct{shape}", lambda rng: rng.permutation(size).reshape(shape) / 8 - size / 16)
