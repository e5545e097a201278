"""The comparison of two arrays of 25 million float32 elements beside the assertions in use: time and peak extra memory.

    python benchmarks/compare.py

`distance.between` must be 5 times faster than torch.testing.assert_close and must not make a temporary of the array's size, or the exit
status is 1. Each timing is a median of five, one call after the other in one process, after a call of each that does not count; the memory
is the growth of the peak resident set around one call, in a process of its own. The arrays differ by 2^-22 everywhere, so every
assertion reads everything and passes. chex takes part where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 25_000_000
FASTER = 5  # times torch.testing.assert_close
MEMORY = 25.0  # MB, a quarter of one array: room for chunks and for the allocator's own growth, not for a temporary
REPEATS = 5  # a median of five survives two disturbed calls
MB = 1e6
OURS, ASSERTION = "distance.between", "torch.testing.assert_close"


def arrays(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays, two roundings apart; made without temporaries, which would hide those that are measured."""
    b = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    return b * np.float32(1 + 2.0**-22), b


def ours(a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    from pytest_dlparity import distance

    return lambda: distance.between(a, b)


def with_noise(a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    """As a cell is judged: each difference over its own noise, all in double precision but the cell's values."""
    from pytest_dlparity import distance

    truth = b.astype(np.float64)
    noise = np.full(b.shape, 1e-7)
    return lambda: distance.between(a, truth, noise, 1e-8)


def torch_assertion(a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(1)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: torch.testing.assert_close(x, y)


def chex_assertion(a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    import chex

    return lambda: chex.assert_trees_all_close(a, b)


RIVALS: dict[str, Callable[[np.ndarray, np.ndarray], Callable[[], Any]]] = {
    OURS: ours,
    OURS + ", with noise": with_noise,
    ASSERTION: torch_assertion,
    "numpy.testing.assert_allclose": lambda a, b: lambda: np.testing.assert_allclose(a, b, rtol=1e-6),
    "numpy.allclose": lambda a, b: lambda: np.allclose(a, b),
}
if importlib.util.find_spec("chex"):
    RIVALS["chex.assert_trees_all_close"] = chex_assertion


def seconds(size: int) -> dict[str, list[float]]:
    """The times of each, taken in turn."""
    a, b = arrays(size)
    calls = {name: make(a, b) for name, make in RIVALS.items()}
    took: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(REPEATS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition:
                took[name].append(time.perf_counter() - start)
    return took


def peak(name: str, size: int) -> float:
    """MB by which the peak resident set of this process grows in one call. A small call first loads what it needs."""
    RIVALS[name](*arrays(1000))()
    call = RIVALS[name](*arrays(size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown * (1 if sys.platform == "darwin" else 1024) / MB


def peak_elsewhere(name: str, size: int) -> float:
    """The same in a fresh process, where nothing was allocated before."""
    command = [sys.executable, __file__, "--peak", name, "--size", str(size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=SIZE, help="elements of each array")
    parser.add_argument("--peak", choices=RIVALS, help="print one contestant's peak memory, in MB; the program calls itself with it")
    given = parser.parse_args()
    if given.peak:
        print(peak(given.peak, given.size))
        return 0
    memory = {name: peak_elsewhere(name, given.size) for name in RIVALS}  # first: a new process inherits the peak of the one that starts it
    took = seconds(given.size)
    ratios = {name: statistics.median(t / o for t, o in zip(times, took[OURS], strict=True)) for name, times in took.items()}
    print(f"{given.size:,} float32 elements, {given.size * 4 / MB:.0f} MB an array\n")
    print(f"| {'':29} | median, ms | times {OURS} | peak extra memory, MB |\n|{'-' * 31}|{'-' * 12}|{'-' * 24}|{'-' * 23}|")
    for name, times in took.items():
        print(f"| {name:29} | {1e3 * statistics.median(times):10.0f} | {ratios[name]:22.1f} | {memory[name]:21.1f} |")
    fast, lean = ratios[ASSERTION] >= FASTER, memory[OURS] <= MEMORY
    print(
        f"\n{FASTER} times faster than {ASSERTION}: {'yes' if fast else 'no'}; no temporary of the array's size: {'yes' if lean else 'no'}"
    )
    return int(not (fast and lean))


if __name__ == "__main__":
    sys.exit(main())
