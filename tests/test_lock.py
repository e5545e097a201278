"""Those who share run side by side, one who is alone runs alone, and nobody waits for the dead."""

from __future__ import annotations

import errno
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_dlparity import lock

pytestmark = pytest.mark.skipif(not lock.FLOCK, reason="no flock on this system")

LONG = 5.0  # never reached unless a test fails
SHORT = 0.1  # long enough for a thread that is not blocked


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return "a run"


class Worker:
    """A thread with a lock of its own: flock is per open file, so it excludes other threads as it does other processes."""

    def __init__(self, side: str, run: str) -> None:
        own = lock.opened(run)
        assert own is not None
        self.inside, self.leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._live, args=(own, getattr(own, side)()), daemon=True)
        self.thread.start()

    def _live(self, own: lock.Lock, side: AbstractContextManager[None]) -> None:
        with side:
            self.inside.set()
            self.leave.wait(LONG)
        own.close()

    def gone(self) -> bool:
        self.leave.set()
        self.thread.join(LONG)
        return not self.thread.is_alive()


Start = Callable[[str], Worker]


@pytest.fixture
def worker(run: str) -> Iterator[Start]:
    workers: list[Worker] = []

    def start(side: str) -> Worker:
        workers.append(Worker(side, run))
        return workers[-1]

    yield start
    gone = [one.gone() for one in workers]
    assert all(gone)


def test_two_share(worker: Start) -> None:
    assert worker("shared").inside.wait(LONG)
    assert worker("shared").inside.wait(LONG)


@pytest.mark.parametrize(("first", "second"), [("shared", "exclusive"), ("exclusive", "shared"), ("exclusive", "exclusive")])
def test_one_waits_for_the_other(worker: Start, first: str, second: str) -> None:
    inside = worker(first)
    assert inside.inside.wait(LONG)
    waiting = worker(second)
    assert not waiting.inside.wait(SHORT)
    assert inside.gone()
    assert waiting.inside.wait(LONG)


def test_who_wants_to_be_alone_is_not_overtaken(worker: Start) -> None:
    early = worker("shared")
    assert early.inside.wait(LONG)
    alone = worker("exclusive")
    assert not alone.inside.wait(SHORT)
    late = worker("shared")
    assert not late.inside.wait(SHORT)
    assert early.gone()
    assert alone.inside.wait(LONG)
    assert not late.inside.wait(SHORT)
    assert alone.gone()
    assert late.inside.wait(LONG)


@pytest.mark.parametrize("side", ["shared", "exclusive"])
def test_it_is_let_go_when_a_test_raises(run: str, worker: Start, side: str) -> None:
    own = lock.opened(run)
    assert own is not None
    with pytest.raises(KeyError), getattr(own, side)():
        raise KeyError
    assert worker("exclusive").inside.wait(LONG)
    own.close()


@pytest.mark.parametrize("side", ["shared", "exclusive"])
def test_the_lock_of_a_worker_that_crashes_is_free(run: str, worker: Start, side: str) -> None:
    code = f"""
import os, runpy, sys, tempfile
tempfile.tempdir = {tempfile.tempdir!r}
own = runpy.run_path({lock.__file__!r})["opened"]({run!r})
held = own.{side}()
held.__enter__()
print("in", flush=True)
sys.stdin.read(1)
os._exit(11)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        waiting = worker("exclusive")
        assert not waiting.inside.wait(SHORT)
        process.communicate("x")
    assert process.returncode == 11
    assert waiting.inside.wait(LONG)


def test_a_child_left_behind_does_not_keep_it(run: str, worker: Start) -> None:
    own = lock.opened(run)
    assert own is not None
    with own.exclusive():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=tuple(own))
    assert worker("exclusive").inside.wait(LONG)
    child.communicate(b"\n")
    own.close()


def test_runs_do_not_wait_for_each_other(run: str, worker: Start) -> None:
    assert worker("exclusive").inside.wait(LONG)
    other = Worker("exclusive", "another run")
    assert other.inside.wait(LONG)
    assert other.gone()


@pytest.mark.parametrize("typed", ["feature/x", "../../up", "", "ü" * 400], ids=["slash", "dots", "empty", "long"])
def test_an_id_may_be_anything_and_remove_leaves_nothing(typed: str, tmp_path: Path) -> None:
    own = lock.opened(typed)
    assert own is not None
    with own.exclusive():
        assert len(list(tmp_path.iterdir())) == 2
    own.close()
    lock.remove(typed)
    lock.remove(typed)
    assert list(tmp_path.iterdir()) == []


def test_without_fcntl_there_is_no_lock(monkeypatch: pytest.MonkeyPatch, run: str, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    windows = runpy.run_path(lock.__file__)
    assert windows["opened"](run) is None
    windows["remove"](run)
    assert list(tmp_path.iterdir()) == []


def test_without_flock_on_the_file_system_there_is_no_lock(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    open_before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    assert lock.opened(run) is None
    assert open_before == (len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0)


def test_opening_does_not_wait(run: str, worker: Start) -> None:
    alone = worker("exclusive")
    assert alone.inside.wait(LONG)
    began = time.perf_counter()
    own = lock.opened(run)
    assert time.perf_counter() - began < LONG / 2
    assert own is not None
    own.close()
