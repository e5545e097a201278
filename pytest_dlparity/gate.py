"""Limits on how long a side may take: what was measured holds them, exceeds them, or is too noisy to tell.

A limit is exceeded where the whole interval lies beyond it and the best rounds say so too; it is held where both lie within.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_dlparity.errors import SpecError

SIDES = (("jax", "torch"), ("torch", "jax"))
HELD, EXCEEDED, UNDECIDED = "held", "exceeded", "undecided"


class Ratio(NamedTuple):
    """How many times as long as another a contender takes, with a 95 % interval.

    >>> print(Ratio(1.3204, 1.25, 1.4))
    1.32 [1.25, 1.4]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Figure(NamedTuple):
    """What one part of a cell takes: jax over torch in paired rounds, and the best round of each side in seconds a step."""

    key: str  # the same in every run: path::test[cpu-float32-forward]
    ratio: Ratio
    best: dict[str, float]
    where: dict[str, str] = {}  # noqa: RUF012  never written to: device and number of threads, without which two figures are not comparable

    def beside(self, side: str) -> Ratio:
        """How many times as long as the other a side takes."""
        return self.ratio if side == "jax" else Ratio(1 / self.ratio.value, 1 / self.ratio.high, 1 / self.ratio.low)


class Ruling(NamedTuple):
    """What a limit says of a figure."""

    status: str
    sentence: str


def figure(torch: Mapping[str, Any], jax: Mapping[str, Any]) -> Figure:
    """Two rows of one part (benchmark_bridge.rows) as a figure."""
    known = jax["extra_info"]
    where = {name: str(known.get(name)) for name in ("device_name", "cpu_threads", "xla_threads")}
    best = {"torch": min(torch["rounds"]), "jax": min(jax["rounds"])}
    return Figure(key(jax), Ratio(known["ratio"], known["ratio_low"], known["ratio_high"]), best, where)


def key(row: Mapping[str, Any]) -> str:
    """The name of a part of a cell, without the side.

    >>> key({"fullname": "t.py::test_a[cpu-float32-forward-jax]", "params": {"side": "jax"}})
    't.py::test_a[cpu-float32-forward]'
    """
    return row["fullname"].removesuffix(f"-{row['params']['side']}]") + "]"


# ---------------------------------------------------------------- limits


class Share(float):
    """A percentage that was read: a user's own number could mean 10 or 0.1."""


def ratio_limit(given: Any, who: str) -> float | None:
    """1.5 of "1.5" or 1.5; None of nothing.

    Raises:
        SpecError: it is no ratio.
    """
    if given is None or given == "":
        return None
    try:
        limit = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        limit = math.nan
    if not 0 < limit < math.inf:  # NaN must land here
        raise SpecError(f"{who} is {given!r}. Give the most that jax may take beside torch, a number above 0: 1.5.")
    return limit


def regression_limit(given: Any, who: str) -> float | None:
    """0.1 of "10%"; None of nothing. A bare number could mean either.

    Raises:
        SpecError: it is no percentage.
    """
    if given is None or given == "":
        return None
    if isinstance(given, Share):  # read before
        return given
    told = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", given) if isinstance(given, str) else None
    if told is None:
        raise SpecError(f"{who} is {given!r}. Give a percentage: 10%.")
    return Share(float(told[1]) / 100)


# ---------------------------------------------------------------- rulings


def of_ratio(name: str, found: Figure, limit: float) -> Ruling:
    """Whether jax takes at most `limit` times as long as torch.

    >>> best = {"torch": 1.0, "jax": 1.4}
    >>> [of_ratio("mlp", Figure("", Ratio(1.4, low, high), best), limit).status for low, high, limit in ((1.3, 1.5, 1.2), (1.3, 1.5, 1.6), (1, 3, 2))]
    ['exceeded', 'held', 'undecided']
    """
    best = found.best["jax"] / found.best["torch"]
    said = f"jax takes {found.ratio} times as long as torch (best rounds: {best:.3g})"
    if found.ratio.low > limit and best > limit:
        return Ruling(EXCEEDED, f"{name}: {said}, more than max_ratio={limit:g}.")
    if found.ratio.high <= limit and best <= limit:
        return Ruling(HELD, f"{name}: {said}, within max_ratio={limit:g}.")
    return Ruling(UNDECIDED, f"{name}: too noisy to tell: {said}, and max_ratio is {limit:g}.")


def of_regression(name: str, found: Figure, stored: Sequence[Figure], limit: float) -> Ruling:
    """Whether neither side has become slower than in the stored runs by more than `limit` (0.1: a tenth).

    A side has become slower where it takes longer beside the other side, in rounds that alternate, which a busy machine does not move; and
    where its own best round takes longer, which the other side does not move. Where the two do not say the same, that is told.
    """
    moved = [(side, other, change(found.beside(side), [one.beside(side) for one in stored]), _own(side, found, stored)) for side, other in SIDES]
    for side, other, beside, own in moved:
        if beside.low > 1 + limit and own > 1 + limit:
            return Ruling(
                EXCEEDED,
                f"{name}: {side} takes {beside} times as long beside {other} as in the baseline, and its best round {own:.3g} times as long, "
                f"more than max_regression={limit * 100:g}%.",
            )
    for side, other, beside, own in moved:
        if beside.low > 1 + limit:
            return Ruling(
                UNDECIDED,
                f"{name}: {side} takes {beside} times as long beside {other} as in the baseline, but its best round only {own:.3g} times as "
                f"long: {other} is faster than it was, or the machine is. Store a new baseline if that is meant.",
            )
        if beside.high > 1 + limit:
            return Ruling(
                UNDECIDED,
                f"{name}: too noisy to tell: {side} takes {beside} times as long beside {other} as in the baseline, and max_regression is "
                f"{limit * 100:g}%.",
            )
    slower = {side: own for side, _, _, own in moved}
    if min(slower.values()) > 1 + limit:
        return Ruling(
            UNDECIDED,
            f"{name}: the best rounds of both sides take longer than in the baseline (torch {slower['torch']:.3g} times, jax {slower['jax']:.3g} "
            "times): the machine is slower than it was, or both do more.",
        )
    return Ruling(HELD, f"{name}: no slower than in the baseline by more than {limit * 100:g}%.")


def change(now: Ratio, then: Sequence[Ratio]) -> Ratio:
    """A ratio over that of stored runs, with an interval from the intervals of both (Zou & Donner 2008, doi:10.1002/sim.3095, on logarithms).

    Several stored runs count as one whose interval spans all of theirs, so that what changes from run to run is in it.

    >>> print(change(Ratio(2.0, 2.0, 2.0), [Ratio(1.0, 0.5, 1.0)]))
    2 [2, 4]
    >>> print(change(Ratio(2.0, 2.0, 2.0), [Ratio(1.0, 1.0, 1.0), Ratio(2.0, 2.0, 2.0)]))
    1.41 [1, 2]
    """
    value, low, high = (math.log(part) for part in now)
    old_low, old_high = math.log(min(one.low for one in then)), math.log(max(one.high for one in then))
    middle = sorted(math.log(one.value) for one in then)
    old = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
    moved = value - old
    return Ratio(
        math.exp(moved),
        math.exp(moved - math.hypot(value - low, old_high - old)),
        math.exp(moved + math.hypot(high - value, old - old_low)),
    )


def _own(side: str, found: Figure, stored: Sequence[Figure]) -> float:
    """A side's best round over the slowest best round that was stored: what is beyond a limit is so beside all of them."""
    return found.best[side] / max(one.best[side] for one in stored)
