"""What tells one machine from another, one set-up from another, and a noisy moment from a quiet one. Imports no framework."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

PRESSURE = Path("/proc/pressure/cpu")  # Linux: how much of the time something waited for a core
CPUINFO = Path("/proc/cpuinfo")
CORES = Path("/proc/stat")  # Linux: what each core has done since it started
TASKS = Path("/proc/self/task")  # Linux: the threads of this process
CARDS = "/proc/driver/nvidia/gpus/*/information"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # torch's, MKL's and XLA's number of CPU threads
VERSIONS = ("pytest-dlparity", "torch", "jax", "jaxlib", "numpy")
GLANCE = 0.02  # seconds in which the idlest cores are looked for: two ticks of the kernel's clock


def surroundings() -> dict[str, object]:
    """What belongs to every figure: where and beside what it was measured. What this system does not tell is left out."""
    known: dict[str, object] = {
        "worker": os.environ.get("PYTEST_XDIST_WORKER"),
        "threads": threads(),
        "versions": versions(),
        "machine": fingerprint(),
    }
    if hasattr(os, "getloadavg"):
        known["loadavg"] = os.getloadavg()[0]
    with suppress(OSError, ValueError, IndexError):
        known["pressure"] = float(PRESSURE.read_text().partition("avg10=")[2].split()[0])  # per cent of the last 10 s
    return known


def threads() -> dict[str, object]:
    return {"cores": _allowed(), **{name: os.environ[name] for name in THREADS if name in os.environ}}


@cache
def versions() -> dict[str, str]:
    """By the installed distributions: no framework is imported to be asked."""
    installed = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in VERSIONS:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


@cache
def fingerprint() -> dict[str, str]:
    """What makes times of two runs comparable. No name of a host: a runner that is made anew each day is the same machine."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _processor(),
        "cores": str(_allowed()),
        "cards": ", ".join(sorted(map(_card, glob.glob(CARDS)))),
    }


def title(fingerprint: dict[str, str]) -> str:
    """A fingerprint as a file name.

    >>> title({"architecture": "x86_64", "cores": "2"}), title({"architecture": "x86_64", "cores": "4"})
    ('x86_64-2-f4d7cd70', 'x86_64-4-8086d362')
    """
    told = hashlib.sha256(repr(sorted(fingerprint.items())).encode()).hexdigest()[:8]
    return f"{fingerprint['architecture']}-{fingerprint['cores']}-{told}"


@cache  # asked before any thread is held on fewer
def _allowed() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    with suppress(OSError, IndexError):
        return CPUINFO.read_text().partition("model name")[2].partition(":")[2].splitlines()[0].strip()
    return platform.processor()


def _card(information: str) -> str:
    with suppress(OSError, IndexError):
        return Path(information).read_text().partition("Model:")[2].splitlines()[0].strip()
    return "unknown"


# ---------------------------------------------------------------- a fixed number of cores


@contextmanager
def on_cores(count: int) -> Iterator[int]:
    """Every thread of this process on the same `count` cores, the idlest ones, while it lasts; yields how many there are.

    The one way to give two frameworks the same number whose pools of threads were made before: XLA's cannot be made smaller. On systems
    without affinity nothing is held, and 0 is yielded.
    """
    if not (hasattr(os, "sched_setaffinity") and TASKS.exists()):
        yield 0
        return
    _allowed()
    allowed = os.sched_getaffinity(0)
    chosen = _idlest(allowed, count) if count < len(allowed) else allowed
    before = {task: mask for task in _tasks() if (mask := _mask(task))}
    for task in before:
        _pin(task, chosen)
    try:
        yield len(chosen)
    finally:
        for task in _tasks():
            _pin(task, before.get(task, allowed))  # a thread that began meanwhile took over the few cores


def _tasks() -> list[int]:
    return [int(task.name) for task in TASKS.iterdir()]


def _mask(task: int) -> set[int]:
    with suppress(OSError):  # it has ended
        return os.sched_getaffinity(task)
    return set()


def _pin(task: int, cores: set[int]) -> None:
    with suppress(OSError):
        os.sched_setaffinity(task, cores)


def _idlest(allowed: set[int], count: int) -> set[int]:
    """The cores with the most idle time in a short while: the kernel cannot move a pinned thread away from a busy neighbour."""
    before = _idle()
    time.sleep(GLANCE)
    after = _idle()
    return set(sorted(allowed, key=lambda core: (before.get(core, 0) - after.get(core, 0), core))[:count])


def _idle() -> dict[int, int]:
    """Ticks that each core has been idle."""
    with suppress(OSError, ValueError, IndexError):
        rows = [line.split() for line in CORES.read_text().splitlines() if line[:3] == "cpu" and line[3:4].isdigit()]
        return {int(name[3:]): int(times[3]) for name, *times in rows}
    return {}
