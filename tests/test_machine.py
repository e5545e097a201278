"""A machine is told by what moves its times, and XLA's threads are counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dlparity import machine


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


@pytest.mark.skipif(not machine.TASKS.exists(), reason="threads have no names here")
def test_xlas_threads_are_counted_by_their_name_and_their_number_is_the_environments() -> None:
    """The name is XLA's to change, and so is the variable: then nothing says how many threads jax has, and this test is red."""
    code = (
        "import jax.numpy as jnp\nfrom pytest_dlparity import machine\n"
        "print(machine.pool())\n(jnp.ones((300, 300)) @ jnp.ones((300, 300))).block_until_ready()\nprint(machine.pool())"
    )
    environ = {**os.environ, machine.POOL: "3", "NPROC": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "3"]


def test_without_names_of_threads_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TASKS", tmp_path / "none")
    assert machine.pool() is None
