"""Times are right, also of what runs in the background; rounds pair; a ratio has an honest interval."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_dlparity import timing
from pytest_dlparity.timing import Contender, Timing


class Clock:
    """A clock that stands still until somebody works, so that what a test says of seconds is exact."""

    def __init__(self) -> None:
        self.now = 0.0
        self.free = 0.0  # when the one device that runs in the background has done all it was given

    def __call__(self) -> float:
        return self.now

    def blocking(self, name: str, seconds: float | Callable[[], float]) -> Contender:
        def step() -> None:
            self.now += seconds() if callable(seconds) else seconds

        return Contender(name, step, lambda result: None)

    def background(self, name: str, seconds: float, *, waits: bool = True) -> Contender:
        """Hands a step to the device in 1 us, the way CUDA and JAX do."""

        def step() -> float:
            self.now += 1e-6
            self.free = max(self.free, self.now) + seconds
            return self.free

        def wait(ready: float) -> None:
            self.now = max(self.now, ready) if waits else self.now

        return Contender(name, step, wait)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


# ------------------------------------------------------------------------------------------------ what a step takes


def test_a_step_that_blocks(clock: Clock) -> None:
    (found,) = timing.paired([clock.blocking("torch", 2e-3)])
    assert found.name == "torch"
    assert found.iterations == 1
    assert found.rounds == pytest.approx([2e-3] * len(found.rounds))


def test_a_step_that_returns_before_it_has_finished(clock: Clock) -> None:
    slow, fast = timing.paired([clock.background("torch", 4e-3), clock.background("jax", 1e-3)])
    assert slow.rounds == pytest.approx([4e-3] * len(slow.rounds), rel=2e-3)
    assert fast.rounds == pytest.approx([1e-3] * len(fast.rounds), rel=2e-3)
    assert timing.ratio(fast, slow).value == pytest.approx(0.25, rel=2e-3)


def test_without_its_wait_the_same_step_looks_a_thousand_times_faster_and_its_work_is_charged_to_the_other(clock: Clock) -> None:
    careless, careful = timing.paired([clock.background("torch", 4e-3, waits=False), clock.background("jax", 1e-3)])
    assert max(careless.rounds) < 4e-6
    assert max(careful.rounds) > 4e-3


@pytest.mark.parametrize(("waits", "between"), [(True, (3e-3, 1)), (False, (0, 1e-3))], ids=["waits", "does not wait"])
def test_a_real_thread_in_the_background(waits: bool, between: tuple[float, float]) -> None:
    with ThreadPoolExecutor(1) as device:

        def step() -> Future[None]:
            return device.submit(time.sleep, 3e-3)

        contender = Contender("torch", step, Future.result if waits else lambda result: None)
        (found,) = timing.paired([contender], max_time=0.01, min_rounds=4, max_rounds=4, min_round=1e-5)
        device.shutdown(cancel_futures=True)
    low, high = between
    assert low < float(np.median(found.rounds)) < high


def test_a_round_waits_once_and_for_its_last_step(clock: Clock) -> None:
    waited: list[float] = []
    jax = clock.background("jax", 1e-5)

    def wait(ready: float) -> None:
        waited.append(ready)
        jax.wait(ready)

    (found,) = timing.paired([jax._replace(wait=wait)], max_rounds=10)
    assert found.iterations == pytest.approx(100, abs=15)
    assert np.diff(waited)[-9:] == pytest.approx([found.iterations * 1e-5 + 1e-6] * 9)


# ------------------------------------------------------------------------------------------------ compilation


@pytest.mark.parametrize("compiles", [(3.0,), (3.0, 0.5), (3.0, 0.5, 0.8)], ids=["once", "twice", "and records"])
def test_compilation_is_apart_and_calibration_does_not_see_it(clock: Clock, compiles: tuple[float, ...]) -> None:
    once = iter(compiles)
    (found,) = timing.paired([clock.blocking("jax", lambda: next(once, 0.0) + 1e-5)], max_rounds=10)
    assert found.first_call == pytest.approx(3.0, rel=1e-4)
    assert found.iterations == pytest.approx(100, abs=1)
    assert max(found.rounds) == pytest.approx(1e-5)


def test_a_step_that_the_clock_cannot_see(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_STEPS", 64)
    (found,) = timing.paired([clock.blocking("torch", 0.0)], max_rounds=2, min_rounds=2)
    assert found == Timing("torch", 0.0, 64, (0.0, 0.0))
    with pytest.raises(ValueError, match=r"^round 0 of torch took 0\.0 s per step: there is no ratio to it\.$"):
        timing.ratio(found, found)


# ------------------------------------------------------------------------------------------------ rounds


def test_contenders_take_turns_and_each_order_is_followed_by_its_reverse(clock: Clock) -> None:
    ran: list[str] = []

    def contender(name: str) -> Contender:
        return clock.blocking(name, 2e-3)._replace(wait=lambda result: ran.append(name))

    found = timing.paired([contender(name) for name in "abc"], max_rounds=60, max_time=10.0)
    assert [len(one.rounds) for one in found] == [60, 60, 60]
    orders = [tuple(ran[-180:][i : i + 3]) for i in range(0, 180, 3)]
    assert all(first == second[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    places = Counter((place, name) for order in orders for place, name in enumerate(order))
    assert [places[0, name] - places[2, name] for name in "abc"] == [0, 0, 0]  # as often first as last
    assert len(set(orders)) == 6  # all permutations come up


def test_who_goes_first_is_drawn_for_every_pair() -> None:
    firsts = list(islice(timing.orders(2, seed=0), 0, 2000, 2))
    assert 400 < firsts.count((0, 1)) < 600
    assert firsts == list(islice(timing.orders(2, seed=0), 0, 2000, 2))
    assert firsts != list(islice(timing.orders(2, seed=1), 0, 2000, 2))


def test_a_machine_that_slows_down_does_not_move_the_ratio(clock: Clock) -> None:
    """Twice as slow after a while, and slower and slower besides: one after the other the two would look equal."""

    def contender(name: str, seconds: float) -> Contender:
        return clock.blocking(name, lambda: seconds * (1 + clock.now) * (1 + (clock.now > 0.5)))

    slow, fast = contender("jax", 4e-3), contender("torch", 2e-3)
    jax, torch = timing.paired([slow, fast], max_time=1.0)
    found = timing.ratio(jax, torch)
    assert found.value == pytest.approx(2.0, rel=0.01)
    assert found.low <= 2.0 <= found.high
    alone = timing.paired([slow], max_time=0.2)[0], timing.paired([fast], max_time=0.2)[0]
    assert not 1.9 < np.median(alone[0].rounds) / np.median(alone[1].rounds) < 2.1


@pytest.mark.parametrize(
    ("limits", "rounds"),
    [
        ({"max_time": 1.0}, 50),
        ({"max_time": 1.0, "max_rounds": 20}, 20),
        ({"max_time": 1e-9}, 10),
        ({"max_time": 1e-9, "min_rounds": 3}, 4),
        ({"max_rounds": 11, "min_rounds": 11}, 12),
        ({"max_rounds": 1, "min_rounds": 1}, 2),
    ],
    ids=str,
)
def test_how_many_rounds(clock: Clock, limits: dict[str, Any], rounds: int) -> None:
    found = timing.paired([clock.blocking("a", 1 / 128), clock.blocking("b", 1 / 81)], **limits)
    assert [len(one.rounds) for one in found] == [rounds, rounds]


# ------------------------------------------------------------------------------------------------ the user's interpreter


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_nothing_disturbs_a_round_and_everything_comes_back(clock: Clock, collecting: bool, raises: bool) -> None:
    seen: list[object] = []

    def step() -> None:
        clock.now += 2e-3
        seen.append((gc.isenabled(), sys.gettrace(), sys.getprofile()))
        if raises and len(seen) == 20:
            raise RuntimeError("out of memory")

    def profiler(*_: object) -> None: ...

    def tracer(*_: object) -> None: ...

    before = gc.isenabled(), sys.gettrace(), sys.getprofile()
    try:
        (gc.enable if collecting else gc.disable)()
        sys.settrace(tracer)
        sys.setprofile(profiler)
        if raises:
            with pytest.raises(timing.Raised, match=r"^torch$") as caught:
                timing.paired([Contender("torch", step, lambda result: None)])
        else:
            timing.paired([Contender("torch", step, lambda result: None)])
        after = gc.isenabled(), sys.gettrace(), sys.getprofile()
    finally:
        sys.setprofile(before[2])
        sys.settrace(before[1])
        (gc.enable if before[0] else gc.disable)()
    assert after == (collecting, tracer, profiler)
    assert not raises or repr(caught.value.__cause__) == "RuntimeError('out of memory')"
    assert seen[0] == (collecting, tracer, profiler)  # compilation makes garbage, and its lines count for coverage
    assert set(seen[1:]) == {(False, None, None)}


def test_imports_neither_framework_nor_pytest() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(sorted({'torch', 'jax', 'pytest', 'numpy'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code, str(Path(timing.__file__))], capture_output=True, text=True, check=True)
    assert ran.stdout == "['numpy']\n"


# ------------------------------------------------------------------------------------------------ ratio


def rounds_of(name: str, rounds: object) -> Timing:
    return Timing(name, 1.0, 1, tuple(np.asarray(rounds, dtype=float).tolist()))


def test_a_ratio_is_the_median_of_the_paired_ratios_and_not_the_ratio_of_the_medians() -> None:
    found = timing.ratio(rounds_of("jax", [1, 20, 3]), rounds_of("torch", [1, 10, 6]))
    assert found.value == 1.0
    assert [type(number) for number in found] == [float] * 3


def test_the_interval_holds_the_true_ratio_in_95_of_100_runs() -> None:
    rng = np.random.default_rng(0)
    noisy = (rounds_of("jax", 2 * np.exp(0.1 * rng.standard_normal(20))) for _ in range(300))
    found = [timing.ratio(jax, rounds_of("torch", np.ones(20))) for jax in noisy]
    assert 0.91 < np.mean([one.low <= 2.0 <= one.high for one in found]) < 0.99


def test_the_interval_shrinks_with_rounds_and_is_the_same_for_the_same_seed() -> None:
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(1000))
    found = [timing.ratio(rounds_of("jax", noise[:n]), rounds_of("torch", np.ones(n))) for n in (10, 100, 1000)]
    assert all(less.high - less.low < 0.5 * (more.high - more.low) for more, less in pairwise(found))
    assert found[0] == timing.ratio(rounds_of("jax", noise[:10]), rounds_of("torch", np.ones(10)), 0)
    assert found[0] != timing.ratio(rounds_of("jax", noise[:10]), rounds_of("torch", np.ones(10)), 1)


@pytest.mark.parametrize(
    ("jax", "torch", "says"),
    [
        ([1.0], [1.0, 2.0], "jax has 1 rounds, torch has 2. A ratio pairs round with round: time both in one call of paired()."),
        ([], [], "jax has no rounds: nothing was timed."),
        ([1.0, 2.0], [1.0, 0.0], "round 1 of torch took 0.0 s per step: there is no ratio to it."),
        ([1.0, np.nan], [1.0, 1.0], "round 1 of jax took nan s per step: there is no ratio to it."),
        ([np.inf, 1.0], [1.0, 1.0], "round 0 of jax took inf s per step: there is no ratio to it."),
        ([-1.0], [1.0], "round 0 of jax took -1.0 s per step: there is no ratio to it."),
    ],
)
def test_what_has_no_ratio(jax: list[float], torch: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        timing.ratio(rounds_of("jax", jax), rounds_of("torch", torch))


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("names", "limits", "says"),
    [
        ("", {}, "there is nothing to time: give paired() at least one contender."),
        ("aba", {}, 'two contenders are named "a": their timings could not be told apart.'),
        ("a", {"max_time": 0}, "max_time is 0 s: give a time above 0."),
        ("a", {"max_time": float("nan")}, "max_time is nan s: give a time above 0."),
        ("a", {"min_round": float("inf")}, "min_round is inf s: give a time above 0."),
        ("a", {"min_rounds": 0}, "min_rounds is 0 and max_rounds is 1000: give 1 <= min_rounds <= max_rounds."),
        ("a", {"max_rounds": 5}, "min_rounds is 10 and max_rounds is 5: give 1 <= min_rounds <= max_rounds."),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_runs(names: str, limits: dict[str, Any], says: str) -> None:
    def never() -> None:
        raise AssertionError("a step was taken")

    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        timing.paired([Contender(name, never, lambda result: None) for name in names], **limits)
