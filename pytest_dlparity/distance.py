"""How far two arrays are apart: one pass in chunks that stay in cache, without a temporary of the array's size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

CHUNK = 1 << 13  # stays in cache, and below the size from which BLAS spreads a dot product over threads: 30 times slower on busy cores
Index = tuple[int, ...]


@dataclass(frozen=True)
class Distance:
    """What one pass over two arrays finds. Places where both hold the same NaN or infinity do not count."""

    count: int  # finite places compared
    rms: float  # root mean square of a - b
    scale: float  # root mean square of b
    worst: float  # largest |a - b|, or largest |a - b| / noise where noise is given
    where: Index  # the place of the worst; real and imaginary part of a complex place share it
    apart: Index | None  # the first place where one is finite and the other not, or infinite with another sign
    apart_count: int

    @property
    def relative(self) -> float:
        """rms of the difference over the scale; 0 where both are zero, infinite where only b is."""
        return 0.0 if self.rms == 0 else self.rms / self.scale if self.scale else math.inf


def between(a: np.ndarray, b: np.ndarray, noise: np.ndarray | None = None, floor: float = 0.0) -> Distance:
    """The distance of two real or complex arrays of one shape.

    Args:
        noise: for each element, the size that |a - b| is measured in; `floor` is added to it.

    Raises:
        ValueError: the shapes differ: nothing is ever broadcast.

    >>> between(np.array([1.0, np.nan]), np.array([1.5, np.nan]))
    Distance(count=1, rms=0.5, scale=1.5, worst=0.5, where=(0,), apart=None, apart_count=0)
    >>> between(np.array([np.inf, 2.0]), np.array([-np.inf, 2.0])).apart
    (0,)
    >>> between(np.zeros(0), np.zeros(0)).count
    0
    """
    if a.shape != b.shape or (noise is not None and noise.shape != a.shape):
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    shape = a.shape
    a, b, noise = _flat(a, b, noise)
    parts = 2 if a.size == 2 * math.prod(shape) else 1
    squares = scales = worst = 0.0
    where: tuple[int, ...] | None = None
    count = apart_count = 0
    apart: tuple[int, ...] | None = None
    for at, origin in _blocks(a.shape):
        x, y = a[at].reshape(-1), b[at].reshape(-1)
        z = None if noise is None else noise[at].reshape(-1)
        found = _block(x, y, z, floor)
        if found.beyond:
            return _scaled(a, b, noise, floor, shape)
        squares += found.squares
        scales += found.scales
        count += found.count
        if found.bad is not None:
            apart_count += found.bad_count
            apart = apart if apart is not None else _place(origin + found.bad, parts, shape)
        if found.worst > worst or where is None:
            worst, where = max(worst, found.worst), _place(origin + found.where, parts, shape)
    rms = math.sqrt(squares / count) if count else 0.0
    return Distance(count, rms, math.sqrt(scales / count) if count else 0.0, worst, where or (), apart, apart_count)


def _scaled(a: np.ndarray, b: np.ndarray, noise: np.ndarray | None, floor: float, shape: tuple[int, ...]) -> Distance:
    """The distance of numbers so large or small that their squares are not: a power of two brings them near one, and back."""
    largest = max(float(np.abs(x, where=np.isfinite(x), out=np.zeros(x.shape)).max()) for x in (a, b))
    power = -math.frexp(largest)[1]
    parts = [np.ldexp(x.astype(np.float64), power) for x in (a, b)]
    size = None if noise is None else np.ldexp(noise.astype(np.float64), power)
    found = between(parts[0].reshape(-1), parts[1].reshape(-1), None if size is None else size.reshape(-1), math.ldexp(floor, power))
    with np.errstate(over="ignore"):  # what no double can hold is infinite
        back = [float(np.ldexp(number, -power)) for number in (found.rms, found.scale, found.worst)]
    return replace(
        found,
        rms=back[0],
        scale=back[1],
        worst=found.worst if noise is not None else back[2],
        where=_place(found.where[0] if found.where else 0, a.size // max(1, math.prod(shape)), shape),
        apart=None if found.apart is None else _place(found.apart[0], a.size // max(1, math.prod(shape)), shape),
    )


@dataclass(frozen=True)
class _Found:
    squares: float
    scales: float
    count: int
    worst: float
    where: int
    bad: int | None = None
    bad_count: int = 0
    beyond: bool = False  # numbers whose squares a double cannot hold


SMALL = 1e-280  # sums of squares in double precision that have lost bits to underflow
SAFE = 1e-30, 1e30  # sums of squares in single precision that neither underflow nor overflow anywhere that matters


def _block(x: np.ndarray, y: np.ndarray, noise: np.ndarray | None, floor: float) -> _Found:
    if x.dtype == y.dtype == np.float32 and noise is None and x.size:
        with np.errstate(all="ignore"):
            gap = x - y
            squares, scales = float(np.dot(gap, gap)), float(np.dot(y, y))
        if all(SAFE[0] < sum_ < SAFE[1] or sum_ == 0 for sum_ in (squares, scales)) and not (squares == 0 and not np.array_equal(x, y)):
            np.abs(gap, out=gap)
            where = int(gap.argmax())
            return _Found(squares, scales, x.size, float(gap[where]), where)
    return _careful(x.astype(np.float64, copy=False), y.astype(np.float64, copy=False), noise, floor)


def _careful(x: np.ndarray, y: np.ndarray, noise: np.ndarray | None, floor: float) -> _Found:
    """The same in double precision, with NaN and infinities set apart."""
    with np.errstate(all="ignore"):
        gap = x - y
        squares, scales = float(np.dot(gap, gap)), float(np.dot(y, y))
        bad, bad_count, count = None, 0, x.size
        if not (math.isfinite(squares) and math.isfinite(scales)):
            fine = np.isfinite(x) & np.isfinite(y)
            same = fine | (np.isnan(x) & np.isnan(y)) | (x == y)
            if not same.all():
                bad, bad_count = int((~same).argmax()), int((~same).sum())
            gap, y = np.where(fine, gap, 0.0), np.where(fine, y, 0.0)
            squares, scales, count = float(np.dot(gap, gap)), float(np.dot(y, y)), int(fine.sum())
        small = squares < SMALL and scales < SMALL and bool(gap.any() or y.any())
        beyond = small or not (math.isfinite(squares) and math.isfinite(scales))
        gap = np.abs(gap, out=gap)
        if noise is not None:
            size = noise + np.float64(floor)
            if size.size and size.min() > 0:
                np.divide(gap, size, out=gap)
            else:  # a NaN, or an element without noise
                size = np.nan_to_num(size, nan=np.inf)
                gap = np.divide(gap, size, out=np.where(gap > 0, np.inf, 0.0), where=size > 0)
        where = int(gap.argmax()) if gap.size else 0
    return _Found(squares, scales, count, float(gap[where]) if gap.size else 0.0, where, bad, bad_count, beyond)


def _flat(a: np.ndarray, b: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Complex numbers as pairs of real ones; contiguous arrays as one row."""
    if a.dtype.kind == "c" or b.dtype.kind == "c":
        a, b = _pairs(a), _pairs(b)
        noise = None if noise is None else _pairs(noise) if noise.dtype.kind == "c" else np.repeat(noise[..., None], 2, -1)
    arrays = [a, b] if noise is None else [a, b, noise]
    if all(array.flags.c_contiguous for array in arrays):
        arrays = [array.reshape(-1) for array in arrays]
    return arrays[0], arrays[1], arrays[2] if noise is not None else None


def _pairs(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array if array.dtype.kind == "c" else array.astype(np.complex128))
    return array.view(array.real.dtype).reshape(*array.shape, 2)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int | slice, ...], int]]:
    """(index of a block of at most CHUNK elements, number of elements before it), in memory order whatever the strides."""
    size = math.prod(shape)
    if size <= CHUNK:
        yield (), 0
        return
    row = size // shape[0]
    if row <= CHUNK:
        rows = max(1, CHUNK // max(1, row))
        for start in range(0, shape[0], rows):
            yield (slice(start, start + rows),), start * row
    else:
        for index in range(shape[0]):
            for at, before in _blocks(shape[1:]):
                yield (index, *at), index * row + before


def _place(linear: int, parts: int, shape: tuple[int, ...]) -> Index:
    """Index in the original array, which was read as `parts` numbers for each element."""
    return tuple(int(i) for i in np.unravel_index(linear // parts, shape)) if shape and 0 not in shape else ()
