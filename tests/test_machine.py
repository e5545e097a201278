"""A machine is told by what moves its times; threads are held while something is timed, and let go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pytest_dlparity import machine

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or not machine.TASKS.exists(), reason="no affinity of threads here")


def test_a_fingerprint_says_processor_cores_and_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor 5\nprocessor\t: 1\nmodel name\t: A Processor 5\n")
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text("Model: \t\t A Card 9\nIRQ: 4\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "CARDS", str(tmp_path / "*" / "information"))
    found = machine.fingerprint.__wrapped__()
    assert (found["cpu"], found["cards"]) == ("A Processor 5", "A Card 9, A Card 9")
    assert set(found) == {"system", "architecture", "cpu", "cores", "cards"}
    assert machine.title(found) != machine.title({**found, "cards": "A Card 9"})


def test_a_system_without_these_files_has_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine, "CARDS", str(tmp_path / "none*"))
    found = machine.fingerprint.__wrapped__()
    assert found["cards"] == "" and isinstance(found["cpu"], str)


@needs_affinity
@pytest.mark.parametrize("raises", [False, True])
def test_all_threads_are_on_the_same_cores_and_come_back(raises: bool) -> None:
    allowed = os.sched_getaffinity(0)
    begun, leave, seen = threading.Event(), threading.Event(), {}

    def live() -> None:
        begun.set()
        leave.wait(10)

    old = threading.Thread(target=live, daemon=True)
    old.start()
    assert begun.wait(10)
    try:
        with machine.on_cores(1) as held:
            seen = {thread: os.sched_getaffinity(thread) for thread in (0, old.native_id or 0)}
            new = threading.Thread(target=leave.wait, args=(10,), daemon=True)
            new.start()
            if raises:
                raise RuntimeError
    except RuntimeError:
        assert raises
    after = [os.sched_getaffinity(thread) for thread in (0, old.native_id or 0, new.native_id or 0)]
    leave.set()
    assert held == 1
    assert {len(mask) for mask in seen.values()} == {1} and len(set(map(tuple, seen.values()))) == 1
    assert after == [allowed] * 3


@needs_affinity
def test_more_cores_than_there_are_is_all_of_them_and_the_fingerprint_stays() -> None:
    allowed, before = os.sched_getaffinity(0), machine.fingerprint()
    machine.fingerprint.cache_clear()
    with machine.on_cores(len(allowed) + 1) as held:
        assert held == len(allowed)
    with machine.on_cores(1):
        assert machine.fingerprint() == before


@needs_affinity
def test_the_idlest_cores_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "CORES", stat)
    idle = {"cpu0": 100, "cpu1": 100, "cpu2": 100}
    gains = {"cpu0": 1, "cpu1": 5, "cpu2": 3}

    def write() -> None:
        stat.write_text("cpu  1 1 1 1\n" + "".join(f"{core} 7 0 9 {ticks} 0\n" for core, ticks in idle.items()) + "intr 5\n")

    def pass_time(seconds: float) -> None:
        idle.update({core: ticks + gains[core] for core, ticks in idle.items()})
        write()

    write()
    monkeypatch.setattr(machine.time, "sleep", pass_time)
    assert machine._idlest({0, 1, 2}, 1) == {1}
    assert machine._idlest({0, 1, 2}, 2) == {1, 2}
    assert machine._idlest({0, 2}, 1) == {2}


def test_without_affinity_nothing_is_held_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with machine.on_cores(1) as held:
        assert held == 0
