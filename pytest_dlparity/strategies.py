"""Shapes and inputs for hypothesis, as draws that a spec takes: `@given(x=dlp.strategies.inputs())`.

What is found shrinks to a small shape and simple numbers, and prints as a draw that can be copied: `fixed([[0.0, 1.0]])`. Each example compiles
again on the jax side: `@settings(max_examples=10, deadline=None)` is a good beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_dlparity import draws
from pytest_dlparity.draws import Draw
from pytest_dlparity.errors import SpecError

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:  # pragma: no cover  tested in a process of its own
    raise ImportError("dlp.strategies needs hypothesis, which is not installed. Write: pip install hypothesis.") from error

SIDES = (1, 2, 3, 4, 5, 7, 8)  # one, odd, even, prime, a power of two
EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0**-12, -(2.0**-12), 30.0, -30.0, 300.0)


def shapes(min_dims: int = 1, max_dims: int = 3, sides: Sequence[int] = SIDES) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes that bite: axes of length one, odd, even and prime.

    Raises:
        SpecError: no shape is like that.
    """
    if not 0 <= min_dims <= max_dims:
        raise SpecError(f"shapes has min_dims={min_dims!r} and max_dims={max_dims!r}. Give whole numbers, max_dims at least min_dims.")
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        raise SpecError(f"shapes has the sides {sides!r}. Give lengths of at least 1: sides=(1, 2, 5).")
    return st.lists(st.sampled_from(list(sides)), min_size=min_dims, max_size=max_dims).map(tuple)


def inputs(
    shape: Any = None, low: float = -8.0, high: float = 8.0, *, edges: Sequence[float] = EDGES, nonfinite: bool = False
) -> st.SearchStrategy[Draw]:
    """Floating arrays as draws: numbers of [low, high] that float16 can hold, ties among them, and edges that both sides must agree at.

    Args:
        shape: a shape, or a strategy of shapes; shapes() by default.
        edges: further values, taken where they lie within [low, high]; () for none.
        nonfinite: also infinities and NaN.
    """
    if not low < high:
        raise SpecError(f"inputs has low={low!r} and high={high!r}. Give high above low: inputs(low=0.0, high=1.0).")
    ordinary = st.floats(low, high, width=16) if np.float16(low) == low and np.float16(high) == high else st.floats(low, high)
    elements = [ordinary, *([st.sampled_from(inside)] if (inside := [e for e in edges if low <= e <= high]) else [])]
    elements += [st.sampled_from([np.inf, -np.inf, np.nan])] * nonfinite
    return _arrays(np.float64, shape, st.one_of(elements))


def integers(shape: Any = None, low: int = 0, high: int | None = None) -> st.SearchStrategy[Draw]:
    """Whole numbers of [low, high) as draws: labels, indices.

    Args:
        shape: a shape, or a strategy of shapes; shapes() by default.
    """
    if high is None or not low < high:
        raise SpecError(f"integers has low={low!r} and high={high!r}. Give the first number that is too large: integers(high=10).")
    return _arrays(np.int64, shape, st.integers(low, high - 1))


def booleans(shape: Any = None) -> st.SearchStrategy[Draw]:
    """Masks as draws."""
    return _arrays(np.bool_, shape, st.booleans())


def _arrays(dtype: Any, shape: Any, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Draw]:
    return hnp.arrays(dtype, shapes() if shape is None else shape, elements=elements).map(_draw)


def _draw(array: np.ndarray) -> Draw:
    """A draw that prints its numbers."""
    return Draw(f"fixed({array.tolist()})", draws.fixed(array).make)
