"""Two sequences of learning rates in words: shifted, constant on one side, of one shape with other constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pytest_dlparity.diagnose.optimizer_formula import ULP32
from pytest_dlparity.diagnose.optimizer_words import Said, number


class Shape(NamedTuple):
    """A schedule that has a name."""

    kind: str
    numbers: tuple[float, ...]
    said: str
    write: str


DOUBLE = 1e-12
SINGLE = 8 * ULP32  # optax computes schedules so


def alike(a: np.ndarray, b: np.ndarray, rtol: float = SINGLE) -> bool:
    """Whether two sequences are one, up to a rounding."""
    size = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)))
    return bool(np.all(np.abs(a - b) <= rtol * size))


def difference(torch: np.ndarray, jax: np.ndarray) -> tuple[Said, np.ndarray]:
    """What differs, and jax's rates as it says they are (those that it used, where it has only numbers).

    >>> warm = np.array([0.1, 0.2, 0.3, 0.4, 0.4])
    >>> difference(warm, np.array([0.0, 0.1, 0.2, 0.3, 0.4]))[0].what
    'jax uses at each step the learning rate that torch uses one step earlier, and 0 at the first'
    >>> difference(warm, np.full(5, 0.4))[0].what
    "torch's learning rate goes from 0.1 to 0.4 over 3 steps, jax's is 0.4 at every step"
    """
    if alike(torch, jax):
        return Said("jax computes its learning rates in single precision", "learning rates in double precision"), jax
    shifted = moved_on(torch, jax)
    if shifted is not None:
        return shifted
    ours, theirs = shape(torch, DOUBLE), shape(jax)
    write = ours.write if ours else ""
    if ours and theirs:
        return Said(f"torch's learning rate {ours.said}, jax's {_smooth(ours, theirs)}", "torch's learning rates", write), jax
    if np.ptp(torch) == 0 or alike(jax, np.full_like(jax, jax[0])):
        words = [found.said if found else f"goes from {number(r[0])} to {number(r[-1])}" for found, r in ((ours, torch), (theirs, jax))]
        if ours or theirs:
            return Said(f"torch's learning rate {words[0]}, jax's {words[1]}", "torch's learning rates", write), jax
    return _listed(torch, jax), jax


def is_named(torch: np.ndarray, jax: np.ndarray) -> bool:
    """Whether the two sequences are those of schedules, and not only some factor at each step."""
    return alike(torch, jax) or moved_on(torch, jax) is not None or shape(jax) is not None


def _smooth(ours: Shape, theirs: Shape) -> str:
    if ours.kind == "stairs" and theirs.kind == "exponential" and abs(ours.numbers[1] ** (1 / ours.numbers[2]) - theirs.numbers[1]) < 1e-5:
        return "falls as much but smoothly, at every step (staircase=False)"
    return theirs.said


def moved_on(torch: np.ndarray, jax: np.ndarray) -> tuple[Said, np.ndarray] | None:
    """What is said of a sequence that is the other, some steps earlier or later; None where it is not."""
    for by in (1, 2):
        if len(torch) < by + 2:
            return None
        steps = "one step" if by == 1 else f"{by} steps"
        if np.ptp(jax[by:]) > 0 and alike(torch[:-by], jax[by:]):
            first = f"{number(jax[0])} at the first" if by == 1 else f"{', '.join(number(x) for x in jax[:by])} before"
            said = f"jax uses at each step the learning rate that torch uses {steps} earlier, and {first}"
            write = f"lambda step: schedule(step + {by})"
            return Said(said, f"its schedule {steps} ahead", write), np.concatenate([jax[:by], torch[:-by]])
        if np.ptp(jax[:-by]) > 0 and alike(torch[by:], jax[:-by]):
            said = f"jax uses at each step the learning rate that torch uses {steps} later"
            write = f"lambda step: schedule(step - {by})"
            return Said(said, f"its schedule {steps} back", write), np.concatenate([torch[by:], jax[-by:]])
    return None


def _listed(torch: np.ndarray, jax: np.ndarray) -> Said:
    """Numbers alone: the factors may be those of a schedule, or of something else that a whole step is multiplied by."""
    size = float(np.abs(torch).max())
    apart = [k for k in range(len(torch)) if abs(torch[k] - jax[k]) > SINGLE * size]
    rows = [f"{number(jax[k])} for {number(torch[k])} at step {k + 1}" for k in apart[:3]]
    more = f", and others at {len(apart) - 3} more steps" if len(apart) > 3 else ""
    said = f"jax's steps are those of other learning rates ({', '.join(rows)}{more}), by its schedule or by another factor of a whole step"
    return Said(said, "torch's learning rates")


# ---------------------------------------------------------------- shapes


def shape(rates: np.ndarray, rtol: float = SINGLE) -> Shape | None:
    """The schedule that a sequence is, where the steps are more than its constants can fit by chance.

    >>> shape(0.1 * 0.9 ** np.arange(6)).said
    'is 0.1, times 0.9 a step'
    >>> shape(np.array([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])).write
    'optax.exponential_decay(0.1, 3, 0.1, staircase=True)'
    >>> shape(0.05 * (1 + np.cos(np.pi * np.arange(8) / 10))).said
    'goes from 0.1 along a half cosine over 10 steps to 0'
    >>> shape(np.array([0.3, 0.1, 0.2]))
    """
    if alike(rates, np.full_like(rates, rates[0]), rtol):
        return Shape("constant", (rates[0],), f"is {number(_nice(rates[0]))} at every step", number(_nice(rates[0])))
    return next((found for found in _shapes(rates) if _is_shape(found, rates, rtol)), None)


def _is_shape(found: Shape, rates: np.ndarray, rtol: float) -> bool:
    values = _values(found, len(rates))
    moves = bool(np.all(np.abs(values - rates) <= 1e-3 * np.ptp(rates)))  # where the rates change little
    return moves and alike(values, rates, rtol)


def _shapes(rates: np.ndarray) -> Iterator[Shape]:
    n, first = len(rates), float(rates[0])
    if n < 4:
        return
    if first > 0 and rates[-1] > 0:
        factor = _nice(float(rates[-1] / first) ** (1 / (n - 1)), 1e-8)  # as exact as many steps make it
        write = f"optax.exponential_decay({number(first)}, 1, {number(factor)})"
        yield Shape("exponential", (first, factor), f"is {number(first)}, times {number(factor)} a step", write)
        yield from _stairs(rates)
    yield from _lines(rates)
    if n >= 5:
        yield from _cosines(rates)


def _stairs(rates: np.ndarray) -> Iterator[Shape]:
    edges = np.flatnonzero(~np.isclose(rates[1:], rates[:-1], rtol=1e-5, atol=0)) + 1
    if len(edges) and rates[edges[0]] > 0 and edges[0] > 1:
        first, factor, every = float(rates[0]), _nice(float(rates[edges[0]] / rates[0])), int(edges[0])
        write = f"optax.exponential_decay({number(first)}, {every}, {number(factor)}, staircase=True)"
        yield Shape("stairs", (first, factor, every), f"is {number(first)}, times {number(factor)} every {every} steps", write)


def _lines(rates: np.ndarray) -> Iterator[Shape]:
    first, slope = float(rates[0]), float(rates[1] - rates[0])
    for over in range(2, len(rates)):
        end = first + slope * over
        if slope and (over == len(rates) - 1 or abs(rates[over] - rates[over + 1]) < 1e-6 * abs(slope)):
            to = number(_zero(end, max(abs(first), abs(end))))
            write = f"optax.linear_schedule({number(first)}, {to}, {over})"
            yield Shape("line", (first, end, over), f"goes from {number(first)} to {to} over {over} steps", write)
            return


def _cosines(rates: np.ndarray) -> Iterator[Shape]:
    """first to end along half a wave: two constants, from the first rate and the last that moves, for every whole number of steps."""
    first, k = float(rates[0]), np.arange(len(rates))
    for over in range(3, 4 * len(rates) + 1):
        wave = np.cos(np.pi * np.minimum(k, over) / over)
        at = min(len(rates) - 1, over)
        end = first - 2 * (first - float(rates[at])) / (1 - wave[at])
        found = Shape("cosine", (first, end, over), "", "")
        if _is_shape(found, rates, SINGLE):
            to = _zero(end, first)
            alpha = f", alpha={number(to / first)}" if to else ""
            said = f"goes from {number(first)} along a half cosine over {over} steps to {number(to)}"
            yield found._replace(said=said, write=f"optax.cosine_decay_schedule({number(first)}, {over}{alpha})")
            return


def _values(found: Shape, steps: int) -> np.ndarray:
    k, numbers = np.arange(steps), found.numbers
    if found.kind == "exponential":
        return np.asarray(numbers[0] * numbers[1] ** k)
    if found.kind == "stairs":
        return np.asarray(numbers[0] * numbers[1] ** (k // int(numbers[2])))
    progress = np.minimum(k, numbers[2]) / numbers[2]
    if found.kind == "line":
        return np.asarray(numbers[0] + (numbers[1] - numbers[0]) * progress)
    return np.asarray(numbers[1] + (numbers[0] - numbers[1]) * (1 + np.cos(np.pi * progress)) / 2)


def _nice(value: float, rtol: float = 16 * ULP32) -> float:
    """The shortest number within a few roundings of single precision."""
    for digits in range(1, 7):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= rtol * abs(value):
            return short
    return value


def _zero(value: float, size: float) -> float:
    return 0.0 if abs(value) <= 64 * ULP32 * size else _nice(value)
