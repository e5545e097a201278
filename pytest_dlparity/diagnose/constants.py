"""Numbers that are solved for, and the names that numbers have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_dlparity import tolerance

Residual = Callable[[float], np.ndarray | None]

STEPS = 14  # of Gauss-Newton; a residual that is smooth in the constant needs three or four
HOPELESS = 0.97  # cosine that is explained: a constant that is the cause explains nearly all of a residual from where it starts
SMALL = 1e-8  # of the number that stood there: what is below that is 0 to anybody
ROUNDING = 1e-13  # of the leaves, when the constant is right


@dataclass(frozen=True)
class Solution:
    """The constant that makes a residual smallest."""

    value: float
    norm: float  # of the residual there
    first: float  # of the residual at the start
    width: float  # by how much the value may be moved before rounding shows


def solved(residual: Residual, start: float) -> Solution | None:
    """The number near which the residual vanishes, or is smallest, beginning at `start`; None where the number does not move it.

    Gauss-Newton on one unknown (Nocedal and Wright 2006, section 10.3), with halved steps where a step goes up.

    >>> solved(lambda c: np.array([3.0, 4.0]) * (c - 2.0), 1.0).value
    2.0
    >>> solved(lambda c: np.array([1.0, 0.0]), 1.0) is None
    True
    >>> solved(lambda c: np.array([np.sqrt(1 + c) - np.sqrt(1 + 1e-6)]), 1e-2).value.__round__(12)
    1e-06
    """
    now = residual(start)
    if now is None or not now.size:
        return None
    at, first = start, float(np.linalg.norm(now))
    slope = None
    for _ in range(STEPS):
        norm = float(np.linalg.norm(now))
        there = _slope(residual, at, now, abs(start))
        if there is None:
            break
        slope = there
        step = -float(slope @ now) / float(slope @ slope)
        moved = _smaller(residual, at, step, norm)
        if moved is None:
            break
        at, now = moved
        if float(np.linalg.norm(now)) > 0.5 * norm and norm > 1e-3 * first and _ == 3:
            break  # four steps that do not halve it: another cause
        if abs(step) <= 4e-16 * abs(at):
            break
    if slope is None:
        return None
    norm, size = float(np.linalg.norm(now)), float(np.linalg.norm(slope))
    return Solution(_tidy(at), norm, first, max(norm, ROUNDING) / size if size else math.inf)


def _tidy(value: float) -> float:
    """The value without the last digits, which are rounding."""
    short = float(f"{value:.13g}")
    return short if abs(short - value) <= 1e-13 * abs(value) else value


def _slope(residual: Residual, at: float, now: np.ndarray, size: float) -> np.ndarray | None:
    near = max(1e-4 * abs(at), 1e-7 * size) or 1e-7
    for step in (near, -near, 100 * near, 1e-7, 1e-3):
        there = residual(at + step)
        if there is not None and there.shape == now.shape and np.any(there != now):
            slope: np.ndarray = (there - now) / step
            return slope
    return None


def _smaller(residual: Residual, at: float, step: float, norm: float) -> tuple[float, np.ndarray] | None:
    for part in (1.0, 0.5, 0.1, 1e-2):
        there = residual(at + part * step)
        if there is not None and float(np.linalg.norm(there)) < norm:
            return at + part * step, there
    return None


KNOWN = {
    math.sqrt(2 / math.pi): "sqrt(2/pi)",
    math.log(2.0): "log(2)",
    math.pi: "pi",
    math.e: "e",
    math.sqrt(2.0): "sqrt(2)",
    math.sqrt(0.5): "1/sqrt(2)",
    2.0**-23: "the epsilon of float32",
    2.0**-52: "the epsilon of float64",
    180 / math.pi: "180/pi",
    math.pi / 180: "pi/180",
    **{math.erf(n / math.sqrt(2)): f"{math.erf(n / math.sqrt(2)):.6f} (P(|z| < {n}) of a standard normal z)" for n in (1, 2, 3)},
}


def names(value: float, sizes: Iterable[int] = ()) -> Iterator[tuple[float, str]]:
    """(number, how a person writes it) for numbers of a simple form near the value, the simplest first.

    `sizes` are lengths of axes: 1/8 of a batch of 8 and 1/sqrt(64) of 64 features are both simple, and both are given.
    """
    if value == round(value) and abs(value) < 1e6:
        yield value, f"{value:g}"
    yield from _forms(value, sorted(set(sizes)))
    for number, text in KNOWN.items():
        for sign, mark in ((1, ""), (-1, "-")):
            if abs(value - sign * number) <= 1e-3 * abs(number):
                yield sign * number, mark + text
    for digits in (1, 2, 3, 4, 6, 8, 10):
        short = float(f"{value:.{digits}g}")
        yield short, f"{short:g}" if digits <= 6 else f"{short:.{digits}g}"


def _forms(value: float, sizes: Sequence[int]) -> Iterator[tuple[float, str]]:
    sign, size = ("-", -value) if value < 0 else ("", value)
    if not size or not math.isfinite(size):
        return
    for n in (n for n in sizes if n > 2):
        for number, text in (
            (n, f"{n}"), (1 / n, f"1/{n}"), (math.sqrt(n), f"sqrt({n})"), (1 / math.sqrt(n), f"1/sqrt({n})"),
            (n / (n - 1), f"{n}/{n - 1}"), ((n - 1) / n, f"{n - 1}/{n}"), (math.sqrt(n / (n - 1)), f"sqrt({n}/{n - 1})"),
            (math.sqrt((n - 1) / n), f"sqrt({n - 1}/{n})"),
        ):  # fmt: skip
            if abs(size - number) <= 1e-3 * number:
                yield (-number if sign else number), sign + text
    if float(f"{size:.4g}") == size:
        return  # a short decimal is what somebody wrote
    for denominator in range(2, 13):
        over = size * denominator
        if (
            abs(over - round(over)) <= 1e-6 * max(over, 1e-300)
            and 0 < round(over) <= 2 * denominator
            and math.gcd(round(over), denominator) == 1
        ):
            yield (-1 if sign else 1) * round(over) / denominator, f"{sign}{round(over)}/{denominator}"


def named(found: Solution, residual: Residual, sizes: Iterable[int] = (), start: float = 0.0) -> tuple[float, str]:
    """The solved number as a person writes it: the simplest that the residual cannot tell from the best, else its own digits.

    `start` is the number that stood there: one rounded to another dtype is said to be that.

    >>> residual = lambda c: np.array([c - 0.125])
    >>> named(solved(residual, 1.0), residual, [8, 64])
    (0.125, '1/8 or 1/sqrt(64)')
    """
    tolerated = max(10 * found.norm, ROUNDING)
    near: list[tuple[float, str]] = []
    zero = residual(0.0) if abs(found.value) <= found.width else None
    if zero is not None and float(np.linalg.norm(zero)) <= tolerated:
        bound = 10.0 ** math.ceil(math.log10(10 * found.width))
        return 0.0, "0" if bound <= SMALL * abs(start) else f"0 (or less than {bound:.0e})"
    narrow = [(number, f"{number:g} ({start:g} as {dtype} holds it)") for number, dtype in _rounded(start)]
    for number, text in (*names(found.value, sizes), *narrow):
        if near and number != near[0][0]:
            continue
        if not near:
            there = residual(number) if abs(number - found.value) <= max(1e3 * found.width, 1e-9 * abs(found.value)) else None
            if there is None or float(np.linalg.norm(there)) > tolerated:
                continue
        near.append((number, text))
    if not near:
        return found.value, f"{found.value:.12g}"
    return near[0][0], said([text for _, text in near])


def _rounded(number: float) -> Iterator[tuple[float, str]]:
    for format in (tolerance.FORMATS[name] for name in ("bfloat16", "float16", "float32")):
        with np.errstate(over="ignore"):
            narrow = float(np.float64(number).astype(format.scalar))
        if narrow != number:
            yield narrow, format.name


def said(texts: Sequence[str]) -> str:
    """Every name of one number: a short decimal, those that tell where it comes from; a long decimal only where there is no other.

    >>> said(["0.125", "1/8", "1/sqrt(64)", "1/8"]), said(["1e-06"]), said(["8", "sqrt(64)"]), said(["1/4", "0.25"])
    ('1/8 or 1/sqrt(64)', '1e-06', '8 or sqrt(64)', '0.25 or 1/4')
    """
    unique = list(dict.fromkeys(texts))
    plain = [text for text in unique if _plain(text)]
    short = [text for text in plain if len(text.partition("e")[0].replace(".", "").strip("-0")) <= 2]
    telling = [text for text in unique if not _plain(text)]
    return " or ".join((short[:1] + telling)[:3]) if telling else plain[0]


def _plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
