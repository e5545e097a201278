"""The operations of one run as rows: what each read and made, and whether it had been rounded to half precision by then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Read = tuple[int, bool]  # (number of a value, rounded to half precision before it was read)


class Step(NamedTuple):
    """One operation. Casts and movements are no steps: they pass a value on, rounded or not."""

    name: str
    reads: tuple[Read, ...]
    made: int
    rounded: bool
    where: str
    statistics: tuple[float, ...] = ()  # mean, mean |x|, mean x^2, mean x^3: no layout moves them
    loses: bool = False  # half precision cannot hold it


class Value(NamedTuple):
    """One value inside a program: who it is, and in which precision it was read."""

    statistics: tuple[float, ...]
    full: bool  # some operation read it before it was rounded to half precision
    half: bool  # some operation read it after
    loses: bool
    where: str  # the line that made it


def values(half: Sequence[Step], double: Sequence[Step]) -> list[Value] | None:
    """Every value of a half precision run, known by the statistics of the same run in float64; None where the two runs took other steps.

    >>> run = [Step("mul", ((0, True), (0, True)), 1, False, "a.py:1"), Step("add", ((1, True),), 2, False, "a.py:2")]
    >>> values(run, [step._replace(statistics=(1.0, 1.0, 1.0, 1.0), loses=True) for step in run])[0]
    Value(statistics=(1.0, 1.0, 1.0, 1.0), full=False, half=True, loses=True, where='a.py:1')
    >>> values(run, run[:1]) is None
    True
    """
    if [step.name for step in half] != [step.name for step in double]:
        return None
    reads = {read for step in half for read in step.reads}
    return [
        Value(truth.statistics, (step.made, False) in reads, (step.made, True) in reads, truth.loses, step.where)
        for step, truth in zip(half, double, strict=True)
    ]
