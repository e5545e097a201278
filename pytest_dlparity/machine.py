"""What tells one machine from another, one set-up from another, and a noisy moment from a quiet one. Imports no framework."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

PRESSURE = Path("/proc/pressure/cpu")  # Linux: how much of the time something waited for a core
CPUINFO = Path("/proc/cpuinfo")
TASKS = Path("/proc/self/task")  # Linux: the threads of this process
CARDS = "/proc/driver/nvidia/gpus/*/information"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # torch's, MKL's and XLA's number of CPU threads
VERSIONS = ("pytest-dlparity", "torch", "jax", "jaxlib", "numpy")
POOL = "PJRT_NPROC"  # how many threads XLA's pool gets, read once, when jax first looks for the CPU; stronger than NPROC


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


def pool() -> int | None:
    """How many threads XLA computes with on the CPU, by their names; None where the system does not tell, or there are none yet."""
    found = 0
    with suppress(OSError):
        for task in TASKS.iterdir():
            with suppress(OSError):  # it has ended
                found += (task / "comm").read_text().startswith("tf_XLAEigen")
    return found or None
