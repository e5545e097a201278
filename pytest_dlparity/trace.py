"""What one side computed in one run, value by value: who made each array, from what, and a fingerprint that no layout moves.

A fingerprint is made of means, so no transpose or reshape changes it: an array in NCHW is known again in NHWC. -inf, finfo.min and -1e9 are one
class of values ("masked"), because libraries differ in which they use.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

MASKED = -9.9e3  # and below: what attention masks are filled with (-1e4, -1e9, finfo.min, -inf)
HUGE = 1e30  # and above: the same with the other sign
CHUNK = 8192  # elements: they fit the cache, and no temporary is large enough to be mapped anew each time
SAMPLE = 256  # elements from which the number of distinct values is counted


class Frame(NamedTuple):
    """One place in a source file."""

    file: str  # full path
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{self.line}"


class Fingerprint(NamedTuple):
    """Statistics of an array that no movement of its elements changes."""

    count: int  # type: ignore[assignment]  # in the place of the method of tuples
    nans: int
    masked: int
    huge: int
    mean: float
    absolute: float
    square: float
    cube: float
    low: float
    high: float
    distinct: int  # different values among at most SAMPLE; a constant has 1


@dataclass(slots=True)
class Node:
    """One array of a trace: an input, a parameter, a constant, or the result of an operation."""

    index: int
    operation: str  # "mm", "dot_general"; "" for what is no result
    reads: tuple[int, ...]  # nodes it was computed from, in the order of the operation's arguments
    shape: tuple[int, ...]
    dtype: str
    kind: str  # "input", "param", "const", "op", or "move": the values of reads[0], elsewhere (view, cast, transpose, copy)
    print: Fingerprint | None
    frames: tuple[Frame, ...] = ()  # the user's, innermost first; library frames only where there is no other
    module: str = ""  # path of the module that was being called: "blocks.3.norm1"; "" unknown
    call: str = ""  # what the user called: "layer_norm" where the operation is a part of it
    call_number: int = -1  # parts of one call share it
    name: str = ""  # of an input or parameter
    data: bool = False  # an input reaches it
    backward: bool = False  # made by the backward pass
    again: Any = None  # how to compute it again: for the side that made it
    value: np.ndarray | None = None  # where it was asked to be kept


@dataclass
class Trace:
    """A run as its nodes, in order. `outputs` are leaves of the spec (`output`, `loss`, `grad.x`) by name."""

    side: str
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def steps(self) -> list[str]:
        """The names of all operations: equal for two runs of a program that does the same."""
        return [node.operation for node in self.nodes]


def fingerprint(array: Any) -> Fingerprint:
    """
    >>> fingerprint(np.array([[1.0, 2.0], [3.0, -np.inf]])).masked
    1
    >>> fingerprint(np.ones((0, 3))).count, fingerprint(np.array([1 + 1j])).count
    (0, 2)
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> alike(fingerprint(x), fingerprint(x.T)), alike(fingerprint(x), fingerprint(x + 1))
    (True, False)
    """
    a = np.asarray(array)
    if a.dtype.kind == "c":
        a = np.stack([a.real, a.imag])
    if a.dtype.kind not in "fiub" and a.dtype.itemsize <= 2:  # bfloat16, float8: ml_dtypes
        a = a.astype(np.float32)
    if not a.size or a.dtype.kind not in "fiub":
        return Fingerprint(int(a.size), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    x = a.astype(np.float64, copy=False).ravel(order="K")
    count, low, high = x.size, float(np.minimum.reduce(x)), float(np.maximum.reduce(x))
    nans = masked = huge = 0
    if not (low > MASKED and high < HUGE):
        nan, down, up = np.isnan(x), x <= MASKED, x >= HUGE
        if down.all():  # large numbers, no mask
            down &= np.isneginf(x)
        nans, masked, huge = int(nan.sum()), int(down.sum()), int(up.sum())
        x = x[~(nan | down | up)]
        if not x.size:
            return Fingerprint(count, nans, masked, huge, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
        low, high = float(x.min()), float(x.max())
    mean, absolute, square, cube = (total / x.size for total in _sums(x))
    return Fingerprint(count, nans, masked, huge, mean, absolute, square, cube, low, high, 1 if low == high else _distinct(x))


_ONES = np.ones(CHUNK)


def _sums(x: np.ndarray) -> tuple[float, ...]:
    """Of the numbers, their sizes, squares and cubes; by products with ones, in one piece of memory that stays in the cache."""
    scratch, rows = np.empty(min(CHUNK, x.size)), []
    for start in range(0, x.size, CHUNK):
        part = x[start : start + CHUNK]
        other, ones = scratch[: part.size], _ONES[: part.size]
        np.abs(part, out=other)
        size = float(other.dot(ones))
        np.multiply(part, part, out=other)
        rows.append((float(part.dot(ones)), size, float(other.dot(ones)), float(other.dot(part))))
    return tuple(math.fsum(column) for column in zip(*rows, strict=True))


def _distinct(x: np.ndarray) -> int:
    sample = x if x.size <= SAMPLE else x[:: x.size // SAMPLE]
    found = _different(sample)
    return found if found > 2 or x.size <= SAMPLE else _different(x[: 16 * SAMPLE])


def _different(x: np.ndarray) -> int:
    found = np.sort(x)
    return 1 + int(np.count_nonzero(found[1:] != found[:-1]))


def alike(a: Fingerprint, b: Fingerprint, rtol: float = 1e-9) -> bool:
    """Whether two fingerprints are those of the same values, whatever their order."""
    if a[:4] != b[:4]:
        return False
    square = max(a.square, b.square)
    size = max(-a.low, a.high, -b.low, b.high, 0.0)
    rms = float(np.sqrt(square))
    return (
        abs(a.square - b.square) <= 2 * rtol * square
        and abs(a.absolute - b.absolute) <= rtol * rms
        and abs(a.mean - b.mean) <= rtol * rms
        and abs(a.high - b.high) <= rtol * size
        and abs(a.low - b.low) <= rtol * size
        and abs(a.cube - b.cube) <= 3 * rtol * square * size
    )


class Index:
    """Fingerprints to be found again: those within `rtol`, in time that grows with the logarithm of their number."""

    def __init__(self, items: Iterable[tuple[Fingerprint, int]]) -> None:
        self.items = sorted(items, key=lambda item: item[0].square)
        self.keys = [item[0].square for item in self.items]

    def find(self, wanted: Fingerprint, rtol: float = 1e-9) -> list[int]:
        """What was given beside each fingerprint that is alike."""
        width = 4 * rtol * wanted.square + 1e-300
        first, end = bisect_left(self.keys, wanted.square - width), bisect_right(self.keys, wanted.square + width)
        return [number for print_, number in self.items[first:end] if alike(wanted, print_, rtol)]


def informative(node: Node) -> bool:
    """Whether a match of this array means anything: constants, ranges, masks and one-element arrays of simple numbers do not count."""
    found = node.print
    if found is None or not found.count:
        return False
    if not (node.dtype.startswith(("float", "bfloat", "complex"))):
        return found.count >= 8 and found.distinct >= 4
    if found.count == 1:
        return node.data and found.low not in _SIMPLE and found.low != round(found.low)
    return found.distinct >= min(3, found.count)


_SIMPLE = (0.5, -0.5, float("inf"), float("-inf"))


def ancestors(trace: Trace, start: Sequence[int], stop: Iterable[int] = ()) -> set[int]:
    """Every node that some of `start` was computed from, themselves included; not beyond `stop`."""
    seen: set[int] = set()
    ends = set(stop)
    stack = list(start)
    while stack:
        at = stack.pop()
        if at not in seen:
            seen.add(at)
            if at not in ends:
                stack.extend(trace.nodes[at].reads)
    return seen
