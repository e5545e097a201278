"""Which leaves of two outcomes agree in float64, and to how many bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pytest_dlparity import distance, tolerance

Arrays = Mapping[str, np.ndarray]

ROUNDING = 1e-9  # relative: float64 rounding amplified four million times; other mathematics is far above it, a repaired side far below
NARROW = 5e-7  # the same where a side computes in float32 inside its float64 run, as compare.INACCURATE
LATER = 1e-6  # of what a later step of a training gives: each step amplifies what the one before left
NOTHING = 1e-12  # of the largest leaf: a leaf below that is a sum that cancels, and has no digits to compare


class Gaps(NamedTuple):
    """The relative difference of every leaf; infinite where shapes, kinds or non-finite places differ."""

    relative: dict[str, float]
    limit: float

    @property
    def apart(self) -> frozenset[str]:
        return frozenset(
            name for name, gap in self.relative.items() if not gap <= (LATER if is_later(name) else self.limit)
        )  # NaN lands here

    @property
    def worst(self) -> float:
        return max(self.relative.values(), default=0.0)

    def bits(self, names: Iterable[str]) -> float:
        """To how many of 53 bits all of these agree.

        >>> Gaps({"output": 2.0**-40, "loss": 0.0}, 1e-9).bits(["output", "loss"]), Gaps({}, 1e-9).bits([])
        (40.0, 53.0)
        """
        worst = max((self.relative[name] for name in names), default=0.0)
        return 53.0 if not worst else max(0.0, min(53.0, -math.log2(worst)))


def is_later(name: str) -> bool:
    """
    >>> is_later("update.3.w"), is_later("loss.2"), is_later("loss"), is_later("output.0")
    (True, True, False, False)
    """
    return name.startswith(("update.", "loss."))


def gaps(torch: Arrays, jax: Arrays, names: Iterable[str], limit: float = ROUNDING) -> Gaps:
    """
    >>> gaps({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(1)}, ["a", "b"]).apart
    frozenset({'b'})
    >>> gaps({"a": np.array([1.0, np.nan])}, {"a": np.array([1.0, 2.0])}, ["a"]).relative
    {'a': inf}
    """
    names = list(names)
    size = max((_size(array) for name in names for array in (torch.get(name), jax.get(name)) if array is not None), default=0.0)
    return Gaps({name: _gap(torch.get(name), jax.get(name), NOTHING * size) for name in names}, limit)


def _size(array: np.ndarray) -> float:
    if not array.size or not tolerance.is_inexact(array):
        return 0.0
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def _gap(torch: np.ndarray | None, jax: np.ndarray | None, floor: float) -> float:
    if torch is None or jax is None or torch.shape != jax.shape or tolerance.is_inexact(torch) != tolerance.is_inexact(jax):
        return math.inf
    if not tolerance.is_inexact(torch):
        return float(np.mean(torch != jax)) if torch.size else 0.0
    found = distance.between(jax, torch)
    if found.apart is not None:
        return math.inf
    if found.rms <= floor:
        return 0.0
    return found.rms / max(found.scale, floor) if max(found.scale, floor) else math.inf


def residual(moving: Arrays, fixed: Arrays, names: Iterable[str]) -> np.ndarray | None:
    """moving - fixed of these leaves in one vector, each leaf measured by the size of the fixed one; None where they cannot be subtracted.

    >>> residual({"a": np.array([3.0, 5.0])}, {"a": np.array([3.0, 4.0])}, ["a"])
    array([0. , 0.2])
    >>> residual({"a": np.ones(2)}, {"a": np.ones(3)}, ["a"]) is None
    True
    """
    parts = []
    for name in names:
        a, b = moving.get(name), fixed.get(name)
        if a is None or b is None or a.shape != b.shape or not a.size or not tolerance.is_inexact(a):
            return None
        with np.errstate(all="ignore"):
            gap = np.asarray(a - b).reshape(-1)
        gap = np.concatenate([gap.real, gap.imag]) if gap.dtype.kind == "c" else gap
        size = float(np.linalg.norm(np.asarray(b).reshape(-1)))
        if not np.isfinite(gap).all() or not np.isfinite(size):
            return None
        parts.append(gap / (size or 1.0))
    return np.concatenate(parts) if parts else None
