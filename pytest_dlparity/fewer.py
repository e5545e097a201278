"""A prepared spec -> the same on fewer examples and shorter sequences, the least first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pytest_dlparity.run import Prepared

FIRST = (1, 2)  # examples
SECOND = (1, 2, 3)  # of the second axis: a sequence, where there is one


def fewer(prep: Prepared) -> Iterator[Prepared]:
    """The spec with its inputs cut along axes that all of them have in the same length; none where nothing can be cut.

    A program may be written for one length, so each has to be tried.
    """
    shapes = [array.shape for array in prep.inputs.values()]
    if prep.job.kind == "optimizer" or len(prep.batches) > 1 or not shapes:
        return
    first = _common([shape[:1] for shape in shapes])
    second = _common([shape[1:2] for shape in shapes])
    cuts = [(b, t) for t in (*(n for n in SECOND if n < second), second) for b in (*(n for n in FIRST if n < first), first)]
    for b, t in cuts:
        if (b, t) != (first, second):
            yield _cut(prep, b, t)


def _common(lengths: list[tuple[int, ...]]) -> int:
    """The length that all have, 0 where one has none or they differ.

    >>> _common([(3,), (3,)]), _common([(3,), ()]), _common([(3,), (2,)])
    (3, 0, 0)
    """
    return lengths[0][0] if len(set(lengths)) == 1 and lengths[0] else 0


def _cut(prep: Prepared, first: int, second: int) -> Prepared:
    parts = tuple(slice(n) if n else slice(None) for n in (first, second))
    inputs = {name: np.ascontiguousarray(array[parts[: array.ndim]]) for name, array in prep.inputs.items()}
    return replace(prep, inputs=inputs, batches=[inputs], cotangents_seen={}, compiled={}, shapes={}, fixed=frozenset())
