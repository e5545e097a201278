"""How one array is made from another: the same in another layout, a multiple, shifted, masked, rounded, or something else.

Both come from float64 runs of programs that ought to compute the same, so a relation holds to rounding or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from math import prod
from typing import NamedTuple

import numpy as np

EXACT = 1e-9  # relative; two float64 programs that compute the same were seen to differ by 5e-14 of their size
MOST = 1 << 20  # elements that are looked at; of a larger array the first ones of each axis
PART = 0.25  # of the elements that are equal, at least, to say that the rest differ
AXES = 5  # beyond it the permutations of the axes are not tried
ROUNDINGS = (("bfloat16", 8), ("float16", 11), ("float32", 24))  # significand bits


class Relation(NamedTuple):
    """`kind` for programs: same, arranged, factor, offset, vector, shifted, part, rounded, sizes, other. `text` for people."""

    kind: str
    text: str
    odd: bool = False  # arranged in a way that no change of layout explains
    factor: float = math.nan


def relation(torch: np.ndarray, jax: np.ndarray, sizes: Sequence[int] = ()) -> Relation:
    """What was done to torch's array to get jax's. `sizes`: axis lengths of the model, by which a factor gets its name.

    >>> x = np.random.default_rng(0).standard_normal((4, 4, 3))
    >>> relation(x, x * 8, [64]).text
    'jax = torch * 8 (sqrt(64))'
    >>> relation(x, x.transpose(2, 0, 1)).text, relation(x, x.transpose(1, 0, 2)).odd
    ('the same values with the axes permuted to [2, 0, 1]', True)
    >>> relation(x, np.roll(x, 1, 0)).text, relation(x, x[:, ::-1]).text
    ('the same values, axis 0 rolled by 1', 'the same values, axis 1 reversed')
    >>> relation(x, x[:2]).text, relation(np.ones((0, 2)), np.ones((2, 0))).text
    ('different sizes: torch [4, 4, 3], jax [2, 4, 3]', 'nothing to compare')
    """
    if torch.size != jax.size:
        return Relation("sizes", f"different sizes: torch {list(torch.shape)}, jax {list(jax.shape)}")
    if not torch.size:
        return Relation("other", "nothing to compare")
    t, j = _real(torch), _real(jax)
    if t.shape == j.shape and _close(t, j):
        return Relation("same", "the same")
    if _same_values(t, j):
        return _arranged(t, j)
    order, moved = _layout(t, j)
    return _scaled(moved, j, sizes) or _rounded(moved, j) or _partly(moved, j) or _shifted(moved, j) or _apart(moved, j, order)


def in_layout(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """An array in the shape of another, its axes permuted so that the two are most alike; both have the same number of elements."""
    if "c" in values.dtype.kind + like.dtype.kind:  # its parts are no axis that could move
        return values.reshape(like.shape)
    moved: np.ndarray = _layout(_real(values), _real(like))[1].reshape(like.shape)
    return moved


def _real(array: np.ndarray) -> np.ndarray:
    a = np.asarray(array)
    if a.dtype.kind == "c":
        return np.stack([a.real, a.imag], -1)
    return a.astype(np.float64)


def _masked(a: np.ndarray) -> np.ndarray:
    """-inf, finfo.min and -1e9 as one number, NaN as another, so that arrays can be held against each other."""
    return np.nan_to_num(np.where(a <= -9.9e3, -9.9e3, a), nan=9.9e3, posinf=1e30)


def _size(a: np.ndarray) -> float:
    plain = a[np.isfinite(a) & (np.abs(a) < 9.9e3)]
    return float(np.abs(plain).max()) if plain.size else 1.0


def _close(t: np.ndarray, j: np.ndarray, exact: float = EXACT) -> bool:
    return bool(np.all(np.abs(_masked(t) - _masked(j)) <= exact * max(_size(t), _size(j))))


def _same_values(t: np.ndarray, j: np.ndarray) -> bool:
    return _close(np.sort(t, axis=None), np.sort(j, axis=None))


# ---------------------------------------------------------------- the same values


def _arranged(t: np.ndarray, j: np.ndarray) -> Relation:
    if t.ndim == j.ndim and t.ndim <= AXES:
        for order in permutations(range(t.ndim)):
            moved = t.transpose(order)
            if moved.shape == j.shape and _close(moved, j):
                return Relation("arranged", f"the same values with the axes permuted to {list(order)}", odd=t.shape == j.shape)
    for axes, moved in _layouts(t, j.shape):
        if _close(moved, j):
            straight = list(axes) == sorted(axes)
            merged = "reshaped" if straight else f"with the axes permuted to {list(axes)} and reshaped"
            return Relation("arranged", f"the same values {merged} to {list(j.shape)}", odd=not straight)
    return _by_blocks(t, j) or _within_an_axis(t, j) or Relation("arranged", "the same values in another order", odd=True)


def _layouts(t: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """The array in another shape, its axes permuted before it is reshaped."""
    if t.ndim > AXES:
        yield range(t.ndim), t.reshape(shape)
        return
    for order in permutations(range(t.ndim)):
        yield order, t.transpose(order).reshape(shape)


def _within_an_axis(t: np.ndarray, j: np.ndarray) -> Relation | None:
    """One axis reversed, rolled or its parts in another order, whatever the layout."""
    for _, moved in _layouts(t, j.shape):
        for axis, length in enumerate(j.shape):
            if length < 2:
                continue
            if _close(np.flip(moved, axis), j):
                return Relation("arranged", f"the same values, axis {axis} reversed", odd=True)
            order = _order(moved, j, axis)
            if order is not None:
                return Relation("arranged", f"the same values, axis {axis} {_order_in_words(order)}", odd=True)
    return None


def _order(t: np.ndarray, j: np.ndarray, axis: int) -> list[int] | None:
    """Which slice of torch's axis is each slice of jax's; None where the slices are no permutation of each other."""
    rows, wanted = (np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (t, j))
    if rows.shape[1] < 2 or rows.shape[0] > 4096:
        return None
    size = max(_size(t), _size(j))
    weights = np.random.default_rng(0).standard_normal(rows.shape[1])
    keys, targets = _masked(rows) @ weights, _masked(wanted) @ weights
    at, to = np.argsort(keys, kind="stable"), np.argsort(targets, kind="stable")
    if np.abs(keys[at] - targets[to]).max() > EXACT * size * rows.shape[1]:
        return None
    found = np.empty(len(at), int)
    found[to] = at
    return [int(i) for i in found] if _close(rows[found], wanted) else None


def _order_in_words(order: list[int]) -> str:
    n = len(order)
    shift = (-order[0]) % n
    if all((k - shift) % n == at for k, at in enumerate(order)):
        return f"rolled by {shift if shift <= n // 2 else shift - n}"
    for parts in range(2, min(n, 16) + 1):
        width = n // parts
        if n % parts == 0 and width > 1:
            starts = order[::width]
            if all(order[k] == starts[k // width] + k % width for k in range(n)) and all(s % width == 0 for s in starts):
                return f"in {parts} parts, in the order {[s // width for s in starts]}"
            if all(order[k] == (k % parts) * width + k // parts for k in range(n)):
                return f"interleaved from {parts} parts"
    return "in another order"


def _by_blocks(t: np.ndarray, j: np.ndarray) -> Relation | None:
    """An axis taken apart into two and put together the other way round ("(h d)" against "(d h)")."""
    for axis, length in enumerate(t.shape):
        for outer in range(2, length):
            if length % outer or t.size > MOST:
                continue
            split = t.reshape(*t.shape[:axis], outer, length // outer, *t.shape[axis + 1 :])
            if t.shape == j.shape and _close(np.swapaxes(split, axis, axis + 1).reshape(j.shape), j):
                text = f"the same values, axis {axis} read as ({outer} {length // outer}) on one side and as ({length // outer} {outer}) on the other"
                return Relation("arranged", text, odd=True)
    return None


# ---------------------------------------------------------------- other values


def _layout(t: np.ndarray, j: np.ndarray) -> tuple[Sequence[int], np.ndarray]:
    """The permutation of the axes under which two arrays are most alike, the plain one where nothing is gained."""
    best, found = -1.0, None
    y = _masked(j).ravel()
    y = y - y.mean()
    for order, moved in _layouts(t, j.shape):
        x = _masked(moved).ravel()
        x = x - x.mean()
        size = math.sqrt(float(x @ x) * float(y @ y))
        alike = abs(float(x @ y)) / size if size else 0.0
        fits = [n for n in (t.shape[k] for k in order) if n > 1] == [n for n in j.shape if n > 1]
        score = alike + (0.05 if fits else 0.0) + (0.01 if list(order) == sorted(order) else 0.0)
        if score > best:
            best, found = score, (order, moved)
    assert found is not None
    return found


def _scaled(t: np.ndarray, j: np.ndarray, sizes: Sequence[int]) -> Relation | None:
    if not (np.isfinite(t).all() and np.isfinite(j).all()):
        return None
    factor = float((t * j).sum() / (t * t).sum()) if np.any(t) else math.nan
    if math.isfinite(factor) and factor and _close(t * factor, j):
        if factor == -1 or abs(factor + 1) < EXACT:
            return Relation("factor", "jax = -torch", factor=-1.0)
        name = named(factor, sizes)
        return Relation("factor", f"jax = torch * {factor:.6g}" + (f" ({name})" if name else ""), factor=factor)
    gap = j - t
    if (
        _close(gap, np.full_like(gap, gap.flat[0]))
        and abs(gap.flat[0]) > EXACT * _size(t)
        and np.ptp(gap) <= EXACT * max(_size(t), _size(j))
    ):
        return Relation("offset", f"jax = torch {'+' if gap.flat[0] > 0 else '-'} {abs(gap.flat[0]):.6g}")
    for axis in range(t.ndim):
        rest = tuple(k for k in range(t.ndim) if k != axis)
        mean = gap.mean(axis=rest, keepdims=True)
        if t.ndim > 1 and t.size // t.shape[axis] > 2 and np.abs(gap - mean).max() <= EXACT * max(_size(t), _size(j)):
            return Relation("vector", f"jax - torch is one vector along axis {axis}, the same everywhere else")
        with np.errstate(all="ignore"):
            ratio = np.where(np.abs(t) > 1e-6 * _size(t), j / t, np.nan)
            told = np.isfinite(ratio).any(axis=rest).all()
            middle = np.nanmedian(ratio, axis=rest, keepdims=True) if told else np.full_like(mean, np.nan)
        if t.ndim > 1 and t.size // t.shape[axis] > 2 and np.isfinite(middle).all() and _close(t * middle, j):
            return Relation("vector", f"jax / torch is one vector along axis {axis}, the same everywhere else")
    return None


def named(factor: float, sizes: Sequence[int]) -> str:
    """A factor as what a person would have written, "" where it has no such name.

    >>> named(8.0, [64, 10]), named(1 / 32, [32]), named(10 / 9, [10]), named(0.123, [3])
    ('sqrt(64)', '1/32', '10/9, n/(n-1)', '')
    """
    for n in sorted({int(n) for n in sizes if n > 1}, reverse=True):
        for value, text in (
            (n, str(n)), (1 / n, f"1/{n}"), (math.sqrt(n), f"sqrt({n})"), (1 / math.sqrt(n), f"1/sqrt({n})"),
            (n / (n - 1), f"{n}/{n - 1}, n/(n-1)"), ((n - 1) / n, f"{n - 1}/{n}, (n-1)/n"), (math.sqrt(n / (n - 1)), f"sqrt({n}/{n - 1})"),
        ):  # fmt: skip
            if abs(factor - value) <= EXACT * value:
                return text
    return ""


def _partly(t: np.ndarray, j: np.ndarray) -> Relation | None:
    """Equal on a part of the elements, and which."""
    equal = np.abs(_masked(t) - _masked(j)) <= EXACT * max(_size(t), _size(j))
    if not PART < equal.mean() < 1:
        return None
    said = [f"differ {text}" for text in _where(~equal)]
    return Relation("part", f"equal on {equal.mean():.0%} of the elements" + (f"; they {said[0]}" if said else ""))


def _where(apart: np.ndarray) -> Iterator[str]:
    if apart.ndim >= 2 and apart.shape[-1] == apart.shape[-2] > 1:
        square = apart.any(axis=tuple(range(apart.ndim - 2)))
        offsets = {int(c - r) for r, c in zip(*np.nonzero(square), strict=True)}
        if len(offsets) == 1:
            yield f"on diagonal {offsets.pop():+d} only"
        elif min(offsets) > 0:
            yield "above the diagonal only"
        elif max(offsets) < 0:
            yield "below the diagonal only"
    for axis, length in enumerate(apart.shape):
        at = np.flatnonzero(apart.any(axis=tuple(k for k in range(apart.ndim) if k != axis)))
        if 0 < len(at) < length:
            yield f"on axis {axis} at {', '.join(map(str, at[:6]))}{' and others' if len(at) > 6 else ''} only"


def _shifted(t: np.ndarray, j: np.ndarray) -> Relation | None:
    for axis, length in enumerate(t.shape):
        for by in range(1, min(4, length)):
            inner = t.size // length * (length - by)
            if inner < 3:
                continue
            front, back = (slice(None),) * axis + (slice(by, None),), (slice(None),) * axis + (slice(None, -by),)
            if _close(t[back], j[front]) and np.ptp(t[back]) > 0:
                return Relation("shifted", f"jax is torch shifted by {by} along axis {axis}")
            if _close(t[front], j[back]) and np.ptp(t[front]) > 0:
                return Relation("shifted", f"jax is torch shifted by -{by} along axis {axis}")
    return None


def _rounded(t: np.ndarray, j: np.ndarray) -> Relation | None:
    with np.errstate(all="ignore"):
        gap = np.abs(t - j) / np.abs(j)
    gap = gap[np.isfinite(gap)]
    if not gap.size:
        return None
    most, half = float(np.quantile(gap, 0.99)), float(np.quantile(gap, 0.5))
    for name, bits in ROUNDINGS:
        if half > 2.0**-bits / 64 and most < 2.0**-bits * 1.01:
            return Relation("rounded", f"they differ as if one were rounded to {name}")
    return None


def _apart(t: np.ndarray, j: np.ndarray, order: Sequence[int]) -> Relation:
    finite = np.isfinite(t) & np.isfinite(j)
    size = float(np.sqrt(np.mean(np.square(t[finite])))) if finite.any() else 0.0
    if not size:
        return Relation("other", "torch is zero everywhere and jax is not" if finite.any() else "nowhere finite on both sides")
    gap = float(np.sqrt(np.mean(np.square(t[finite] - j[finite])))) / size
    layout = "" if list(order) == sorted(order) else f", axes permuted to {list(order)}"
    return Relation("other", f"relative difference {gap:.2g}{layout}")


def sizes(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Axis lengths and numbers of elements, by which constants get names.

    >>> sizes([(2, 3), ()])
    [2, 3, 6]
    """
    return sorted({n for shape in shapes for n in (*shape, prod(shape)) if n > 1})
