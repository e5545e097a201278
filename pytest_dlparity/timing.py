"""Seconds per step of contenders that take turns, each round waiting until its results are ready.

A round is k steps and one wait. Rounds are interleaved, A B then B A: what slows the machine for a while slows every contender, so
round i of one pairs with round i of another. Imports neither framework: a contender is two callables.
"""

from __future__ import annotations

import gc
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity.gate import Ratio

WARM_UP = 0.05  # of max_time, for each contender: clocks rise and caches fill before the first round counts
WARM_UP_ROUNDS = 3  # at least: torch.compile and CUDA graphs still compile or record in their second and third call
MOST_STEPS = 2**20  # in a round, where the clock cannot see a step at all
RESAMPLES = 2000  # of the bootstrap: another seed then moves an end of the interval by about 4 % of its width


def _ended(result: Any) -> bool:
    """Of work that is never in the background."""
    return True


class Contender(NamedTuple):
    """One way to compute, ready to be timed.

    `step` starts one step and may return before it has finished; `wait` blocks until what `step` returned is ready. Steps must finish in
    the order they were started, as on a CUDA stream and in JAX's queue of a device: a round waits for its last step only. `ended` tells,
    without waiting, whether what `step` returned is ready: after each wait it must be.
    """

    name: str
    step: Callable[[], Any]
    wait: Callable[[Any], object]
    ended: Callable[[Any], bool] = _ended


class Raised(Exception):
    """A contender raised while it was timed; its error is the cause."""


class Unfinished(RuntimeError):
    """Work that was waited for and has not ended: its time would be too short, and the rest would be charged to the next."""


class Timing(NamedTuple):
    """What one contender took. All times are seconds; `rounds` are seconds per step, `first_call` is compilation and one run."""

    name: str
    first_call: float
    iterations: int
    rounds: tuple[float, ...]


def paired(
    contenders: Sequence[Contender],
    *,
    max_time: float = 1.0,
    min_round: float = 1e-3,
    min_rounds: int = 10,
    max_rounds: int = 1000,
    seed: int = 0,
) -> tuple[Timing, ...]:
    """What each contender takes per step, in the order given; all have the same number of rounds.

    First every contender is called once (kept apart: it compiles), then warmed up until a round of k steps lasts `min_round` seconds.
    Then rounds are measured until `max_time` seconds have passed, at least `min_rounds` and at most `max_rounds`. They come in pairs, an
    order and its reverse, so an odd number is rounded up. While measuring, garbage collection, tracing and profiling are off; they
    come back also when a step raises.

    Raises ValueError for no contender, for two of one name, and for limits that no number of rounds can meet; Raised for what a contender
    raises; Unfinished for work in the background that was not waited for.
    """
    _refuse(contenders, max_time, min_round, min_rounds, max_rounds)
    first_calls = [_seconds(contender, 1) for contender in contenders]
    rounds: list[list[float]] = [[] for _ in contenders]
    with _undisturbed():
        steps = [_steps(contender, min_round, max_time * WARM_UP) for contender in contenders]
        end = perf_counter() + max_time
        for done, order in enumerate(orders(len(contenders), seed), start=1):
            for i in order:
                rounds[i].append(_seconds(contenders[i], steps[i]) / steps[i])
            if done % 2 == 0 and (done >= max_rounds or (done >= min_rounds and perf_counter() >= end)):
                break
    return tuple(
        Timing(contender.name, first_call, k, tuple(taken))
        for contender, first_call, k, taken in zip(contenders, first_calls, steps, rounds, strict=True)
    )


def ratio(numerator: Timing, denominator: Timing, seed: int = 0) -> Ratio:
    """The median of the ratios of paired rounds, with a bootstrap 95 % interval (Efron 1979, percentiles of the resampled median).

    Both must come from one call of `paired`: the ratio of two medians, measured apart, follows the machine's load instead.

    >>> print(ratio(Timing("jax", 1.0, 1, (2.0, 4.0)), Timing("torch", 1.0, 1, (1.0, 2.0))))
    2 [2, 2]
    >>> ratio(Timing("jax", 1.0, 1, (2.0, 4.0)), Timing("torch", 1.0, 1, (1.0,)))
    Traceback (most recent call last):
    ValueError: jax has 2 rounds, torch has 1. A ratio pairs round with round: time both in one call of paired().

    Raises ValueError for differing numbers of rounds, for no rounds, and for a round that took no time, or infinitely long, or NaN.
    """
    if len(numerator.rounds) != len(denominator.rounds):
        raise ValueError(
            f"{numerator.name} has {len(numerator.rounds)} rounds, {denominator.name} has {len(denominator.rounds)}. "
            "A ratio pairs round with round: time both in one call of paired()."
        )
    each = _durations(numerator) / _durations(denominator)
    drawn = np.random.default_rng(seed).integers(len(each), size=(RESAMPLES, len(each)))
    low, high = np.quantile(np.median(each[drawn], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(each)), float(low), float(high))


def orders(contenders: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Who goes when, round after round without end: a random order, then its reverse, so that a steady drift cancels.

    >>> turns = orders(2, seed=0)
    >>> [next(turns) for _ in range(6)]
    [(1, 0), (0, 1), (0, 1), (1, 0), (1, 0), (0, 1)]
    """
    generator = random.Random(seed)
    while True:
        order = tuple(generator.sample(range(contenders), contenders))
        yield order
        yield order[::-1]


def _seconds(contender: Contender, steps: int) -> float:
    """What `steps` steps and one wait took."""
    step = contender.step
    start = perf_counter()
    try:
        for _ in range(steps):
            result = step()
        contender.wait(result)
    except Exception as error:
        raise Raised(contender.name) from error
    taken = perf_counter() - start
    if not contender.ended(result):
        raise Unfinished(f"{contender.name} is still at work after it was waited for, so its times would be too short.")
    return taken


def _steps(contender: Contender, min_round: float, warm_up: float) -> int:
    """How many steps last `min_round` seconds, found while warming up for `warm_up` seconds.

    The fastest round counts: one that compiled again, or was preempted, does not.
    """
    steps, spent, fastest = 1, 0.0, math.inf
    for rounds in count(1):
        taken = _seconds(contender, steps)
        spent, fastest = spent + taken, min(fastest, taken / steps)
        if taken < min_round / 2 and steps < MOST_STEPS:
            steps *= 2
        elif (spent >= warm_up and rounds >= WARM_UP_ROUNDS) or taken == 0:  # 0: so coarse a clock never sees the warm-up end
            break
    return math.ceil(min_round / max(fastest, min_round / MOST_STEPS))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Garbage collection, tracing (coverage, debuggers) and profiling, which cost Python more than compiled code, are off inside."""
    collecting, tracer, profiler = gc.isenabled(), sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profiler)
        sys.settrace(tracer)
        if collecting:
            gc.enable()


def _durations(timing: Timing) -> np.ndarray:
    """The rounds as a float64 array of shape (rounds,), every one above 0 and finite."""
    durations = np.asarray(timing.rounds, dtype=np.float64)
    if not len(durations):
        raise ValueError(f"{timing.name} has no rounds: nothing was timed.")
    usable = (durations > 0) & np.isfinite(durations)
    if not usable.all():
        worst = int(np.argmin(usable))
        raise ValueError(f"round {worst} of {timing.name} took {durations[worst]} s per step: there is no ratio to it.")
    return durations


def _refuse(contenders: Sequence[Contender], max_time: float, min_round: float, min_rounds: int, max_rounds: int) -> None:
    """Raise ValueError for what cannot be timed."""
    names = [contender.name for contender in contenders]
    if not names:
        raise ValueError("there is nothing to time: give paired() at least one contender.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f'two contenders are named "{twice}": their timings could not be told apart.')
    for what, seconds in (("max_time", max_time), ("min_round", min_round)):
        if not 0 < seconds < math.inf:  # NaN must land here
            raise ValueError(f"{what} is {seconds} s: give a time above 0.")
    if not 1 <= min_rounds <= max_rounds:
        raise ValueError(f"min_rounds is {min_rounds} and max_rounds is {max_rounds}: give 1 <= min_rounds <= max_rounds.")
