"""A prepared spec -> the same on fewer examples and shorter sequences, the least first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pytest_dlparity.run import Prepared

FIRST = (1, 2)  # examples
SECOND = (1, 2, 3)  # of the second axis: a sequence, where there is one


def fewer(prep: Prepared) -> Iterator[Prepared]:
    """The spec with its inputs cut along axes that have one length in all of them; none where nothing can be cut.

    A program may be written for one length, so each has to be tried.
    """
    shapes = [array.shape for array in prep.inputs.values()]
    if prep.job.kind == "optimizer" or len(prep.batches) > 1:
        return
    first, second = _common(shapes, 0), _common(shapes, 1)
    cuts = [(b, t) for b in (*(n for n in FIRST if n < first), first) for t in (*(n for n in SECOND if n < second), second)]
    for b, t in sorted(cuts, key=lambda cut: cut[0] * max(1, cut[1])):
        if (b, t) != (first, second):
            yield _cut(prep, b, t)


def _common(shapes: list[tuple[int, ...]], axis: int) -> int:
    """The length of an axis where all that have the axis have the same, else 0.

    >>> _common([(3,), (3, 7)], 0), _common([(3,), (3, 7), ()], 1), _common([(3,), (2,)], 0), _common([()], 0)
    (3, 7, 0, 0)
    """
    lengths = {shape[axis] for shape in shapes if len(shape) > axis}
    return lengths.pop() if len(lengths) == 1 else 0


def _cut(prep: Prepared, first: int, second: int) -> Prepared:
    parts = tuple(slice(n) if n else slice(None) for n in (first, second))
    inputs = {name: np.ascontiguousarray(array[parts[: array.ndim]]) for name, array in prep.inputs.items()}
    return replace(prep, inputs=inputs, batches=[inputs], cotangents_seen={}, compiled={}, shapes={}, fixed=frozenset())
