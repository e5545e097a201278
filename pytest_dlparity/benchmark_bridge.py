"""Our timings as rows of pytest-benchmark. The one file that touches its innards.

    the plugin registered as "pytest-benchmark"     its BenchmarkSession
    BenchmarkSession.benchmarks                     a list of stats.Metadata, read when the run is over
    stats.Metadata(fixture, iterations, options)    seven attributes of a fixture, `has_error`, and `.stats.update(seconds)`

Table, JSON, autosave, compare, compare-fail, csv and histogram then are pytest-benchmark's own work (5.2.3 to 5.3.1). Its fixture cannot
be used: it times one function per test, compilation included.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from importlib import metadata
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_dlparity import machine

if TYPE_CHECKING:  # the plugin loads this file at start-up: no numpy
    from collections.abc import Sequence

    from pytest_dlparity.timing import Ratio, Timing

READ = ("name", "fullname", "group", "param", "params", "extra_info")  # what Metadata reads of a fixture and a row has
SKIPPED = "Skipping non-benchmark (--benchmark-only active)."  # the reason of the mark that --benchmark-only puts on items
OPTIONS = {"disable_gc": True, "timer": "perf_counter", "warmup": True, "interleaved": True}  # how timing.paired measures


def session(config: Any) -> Any | None:
    """The BenchmarkSession of this run; None without pytest-benchmark, and before it is configured."""
    return config.pluginmanager.get_plugin("pytest-benchmark")


def wanted(config: Any) -> bool:
    """Whether the user left timing on: by pytest-benchmark's options, not its state, which is off merely because xdist is on."""
    plugin = sys.modules.get("pytest_benchmark.plugin")
    if plugin is None or not config.pluginmanager.is_registered(plugin):  # -p no:benchmark, which may leave its options behind
        return False
    option = config.option
    if option.benchmark_skip and not option.benchmark_only:
        return False
    return not option.benchmark_disable or option.benchmark_enable


def add(config: Any, row: Mapping[str, Any]) -> bool:
    """Hand a row (see `rows`) to pytest-benchmark; False where it is off. Only the controller's and a serial run's rows are ever read.

    Raises:
        RuntimeError: this version of pytest-benchmark keeps its results in another way.
    """
    benchmarks = session(config)
    if benchmarks is None:
        return False
    fixture = SimpleNamespace(**{key: row[key] for key in READ}, cprofile_stats=None, has_error=False)
    try:
        from pytest_benchmark.stats import Metadata

        result = Metadata(fixture, iterations=row["iterations"], options=row["options"])
        for seconds in row["rounds"]:
            result.stats.update(seconds)
        benchmarks.benchmarks.append(result)
    except (ImportError, AttributeError, TypeError) as error:
        raise RuntimeError(
            f"pytest-benchmark {metadata.version('pytest-benchmark')} keeps its results in a way that this pytest-dlparity does not know "
            f"({type(error).__name__}: {error}). Install pytest-benchmark 5.3, or run with -p no:benchmark."
        ) from error
    return True


def rows(
    *,
    nodeid: str,
    cell_params: Mapping[str, object],
    what: str,
    timings: Sequence[Timing],
    ratio: Ratio | None = None,
    extra: Mapping[str, object] | None = None,
    own: Mapping[str, Mapping[str, object]] | None = None,
) -> list[dict[str, Any]]:
    """One row per timing, of plain values only, so that it can travel on a report from an xdist worker.

    `what` was timed: "forward", "forward+backward". Names do not depend on xdist, so that runs with and without it compare:
    test_gelu[cpu-float32] gives test_gelu[cpu-float32-forward-jax] in the group test_gelu[cpu-float32]-forward. `ratio` is that of
    jax over torch and goes to the jax row. `own` is what is known of one side alone, by its name. In `extra_info` measurements win over `own`
    and `extra`, and these over what is known of the machine.

    Raises:
        ValueError: nothing was timed, `what` is empty, or there is a ratio but not one jax and one torch row.
    """
    sides = [timing.name for timing in timings]
    if not sides or not all(timing.rounds for timing in timings):
        raise ValueError(f"{nodeid} has {'a timing without rounds' if sides else 'no timings'}: nothing was timed.")
    if not what:
        raise ValueError(f'{nodeid} does not say what was timed: give what="forward" or the like.')
    if ratio is not None and sorted(sides) != ["jax", "torch"]:
        raise ValueError(f"{nodeid} has a ratio of jax over torch, but timings of {', '.join(sides)}.")
    path, test, ident = _parts(nodeid)
    known = {**machine.surroundings(), **(extra or {})}
    found = []
    for timing in timings:
        param = "-".join(part for part in (ident, what, timing.name) if part)
        row = {
            "name": f"{test.rpartition('::')[2]}[{param}]",
            "fullname": f"{path}::{test}[{param}]",
            "group": f"{test.rpartition('::')[2]}{f'[{ident}]' if ident else ''}-{what}",
            "param": param,
            "params": {**cell_params, "what": what, "side": timing.name},
            "iterations": timing.iterations,
            "rounds": timing.rounds,
            "options": OPTIONS,
            "extra_info": {
                **known,
                **(own or {}).get(timing.name, {}),
                "first_call": timing.first_call,
                **(_compared(ratio) if timing.name == "jax" else {}),
            },
        }
        found.append(plain(row))
    return found


def keep_under_benchmark_only(items: Iterable[Any]) -> None:
    """Take off these items the skip mark that --benchmark-only puts on every item without the `benchmark` fixture; no other mark.

    To be called after pytest-benchmark has seen the items: in a `trylast` pytest_collection_modifyitems.
    """
    for item in items:
        item.own_markers[:] = [mark for mark in item.own_markers if not (mark.name == "skip" and mark.kwargs.get("reason") == SKIPPED)]


def plain(value: Any) -> Any:
    """The same in types that execnet and JSON carry, which look at the exact type. What is left over becomes its text.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> plain({"ratio": np.float64(1.5), "rounds": (np.float32(2), np.int64(3)), "fast": np.bool_(True), 1: Path("a")})
    {'ratio': 1.5, 'rounds': [2.0, 3], 'fast': True, '1': 'a'}
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):  # float32 and bool_ are no Python numbers
        return plain(value.tolist())
    return str(value)


def _parts(nodeid: str) -> tuple[str, str, str]:
    """Path, test with its classes, and the id in brackets, without the "@group" that --dist loadgroup appends.

    >>> _parts("a@b/test_x.py::TestY::test_z[cpu-float32-a@b::[1]]@gpu")
    ('a@b/test_x.py', 'TestY::test_z', 'cpu-float32-a@b::[1]')
    >>> _parts("test_x.py::test_z@gpu")
    ('test_x.py', 'test_z', '')
    """
    path, _, rest = nodeid.partition("::")
    inside, bracket, after = rest.rpartition("]")  # the rule of xdist: an @ before the last ] belongs to the id
    rest = inside + bracket + after.partition("@")[0]
    test, _, ident = rest.partition("[")
    return path, test, ident.removesuffix("]")


def _compared(ratio: Ratio | None) -> dict[str, object]:
    if ratio is None:
        return {}
    return {"ratio_to": "torch", "ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
