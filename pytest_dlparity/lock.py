"""Who may run now on this machine: any number of workers side by side, or one alone.

On flock(2): the kernel lets go of the lock of a worker that dies. A worker that wants to be alone keeps the gate while it waits for the
room to empty, so that a stream of others cannot keep it waiting for ever.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FLOCK = find_spec("fcntl") is not None  # not on Windows
if FLOCK:
    import fcntl


class Lock(NamedTuple):
    """Two open files, as their descriptors. Not reentrant: a process takes one side at a time."""

    gate: int
    room: int

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside others who share, and beside nobody who is alone. Blocks until then."""
        with _held(self.gate, fcntl.LOCK_EX):
            fcntl.flock(self.room, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Alone. Blocks until everyone who is in has left; nobody new gets in meanwhile."""
        with _held(self.gate, fcntl.LOCK_EX), _held(self.room, fcntl.LOCK_EX):
            yield

    def close(self) -> None:
        """Let go of whatever is held, and of the files."""
        for descriptor in self:
            os.close(descriptor)


def opened(run: str) -> Lock | None:
    """The lock that all workers of one run on this machine open, by the id that they share; None where there is no flock. Never blocks.

    No flock: Windows, and a temporary directory on a file system without it. Then nobody can be alone, and what needs to be must not run.
    """
    if not FLOCK:
        return None
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in _paths(run)]
    lock = Lock(*descriptors)
    try:
        with _held(lock.gate, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return lock
    except BlockingIOError:  # somebody has it: it works
        return lock
    except OSError:  # flock is not supported there
        lock.close()
        return None


def remove(run: str) -> None:
    """Take the files of a run away. For the one who outlives all workers: a worker that comes later would lock files of its own."""
    for path in _paths(run):
        path.unlink(missing_ok=True)


def _paths(run: str) -> tuple[Path, Path]:
    """The gate and the room. A run's id may be anything its user typed, a slash included, and two users may type the same."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = f"dlparity-{user}-{hashlib.sha256(run.encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir())
    return folder / f"{name}.gate", folder / f"{name}.room"


@contextmanager
def _held(descriptor: int, how: int) -> Iterator[None]:
    fcntl.flock(descriptor, how)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
