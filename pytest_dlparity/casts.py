"""Half precision cells: values that one side keeps in float32 and the other rounds before it uses them.

A model that casts up on purpose (`x.float()`) and back again promises that what lies between is not rounded. A port that casts back one
operation earlier is the same mathematics in float64, and its error is of the same order as that of a right port, so no tolerance tells them
apart. What tells them apart is the flow of precision: each value inside both programs is recognised in float64 by statistics that no layout
moves, and beside it stands whether it had been rounded to half precision when the next operation read it.

Looked at only where the torch side casts up itself. What cannot be matched is no finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pytest_dlparity import run
from pytest_dlparity.run import Prepared

SAME = 1e-9  # relative distance of the statistics of one value in two float64 runs (correct pairs were seen to differ by 5e-14 at most)
MOVES = 0.15  # of one roundoff of the leaf's scale: below it the two sides differ by what the order of summation flips


class Finding(NamedTuple):
    """A value that `side` rounds before it is used and the other side does not."""

    side: str
    torch: str
    jax: str


def finding(prep: Prepared, dtype: str) -> Finding | None:
    """The first value that torch uses unrounded, because it casts up itself, and that jax rounds to half precision before use."""
    torch = run.torch_flow(prep, dtype)
    jax = run.jax_flow(prep, dtype) if torch else None  # jax's takes a compilation
    if not torch or not jax:
        return None
    table = np.array([value.statistics for value in jax])
    for value in torch:
        if not (value.full and not value.half and value.loses):
            continue
        same = [jax[index] for index in np.flatnonzero(_same(value.statistics, table))]
        if any(reader.half for reader in same) and not any(reader.full for reader in same):
            return Finding("jax", value.where, next(reader.where for reader in same if reader.half))
    return None


def _same(statistics: Sequence[float], table: np.ndarray) -> np.ndarray:
    """Rows of the table that are the same value as one with these statistics."""
    scale = np.maximum(np.abs(table), np.abs(statistics)) + 1e-300
    near: np.ndarray = np.all(np.abs(table - np.asarray(statistics)) <= SAME * np.maximum(scale, np.sqrt(np.abs(statistics[2]))), axis=1)
    return near
