"""Cells: every combination in the order given, each once, and no empty matrix."""

from __future__ import annotations

import importlib.machinery
import re
from typing import Any

import pytest

import pytest_dlparity as dlp
from pytest_dlparity import matrix
from pytest_dlparity.matrix import Cell, Device, Mode


def texts(*args: Any) -> list[str]:
    return [str(cell) for cell in matrix.cells(*args)]


@pytest.mark.parametrize(
    ("args", "cells"),
    [
        ((["cpu"], ["float32"]), ["cpu-float32"]),
        (("cpu", "float32"), ["cpu-float32"]),
        (("cpu, cuda", "bfloat16,float32"), ["cpu-bfloat16", "cpu-float32", "cuda-bfloat16", "cuda-float32"]),
        ((["cuda", "cpu"], ["float32"]), ["cuda-float32", "cpu-float32"]),
        ((["cpu"], ["float32"], "eager,compiled,nojit"), ["cpu-float32", "cpu-float32-compiled", "cpu-float32-nojit"]),
        ((["cpu"], ["float32"], ["eager", "jit", "default"]), ["cpu-float32"]),
        ((["cpu", "cpu"], ["float32", "float32"], ["compiled", "compiled"]), ["cpu-float32-compiled"]),
        ((("cpu",), ("complex64",)), ["cpu-complex64"]),
    ],
    ids=str,
)
def test_cells_come_in_the_order_given_and_each_once(args: Any, cells: list[str]) -> None:
    assert texts(*args) == cells


def test_a_cell_is_a_value_whose_text_is_its_id() -> None:
    cell = matrix.cells("cpu", "float32", "compiled")[0]
    assert cell == Cell("cpu", "float32", "compiled") == ("cpu", "float32", "compiled") and str(cell) == "cpu-float32-compiled"
    assert str(Cell("cpu", "float32")) == "cpu-float32"


def test_auto_is_what_is_present_and_may_stand_beside_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "present", lambda: ["cpu", "cuda"])
    assert texts("auto", "float32") == ["cpu-float32", "cuda-float32"]
    assert texts("tpu,auto,cpu", "float32") == ["tpu-float32", "cpu-float32", "cuda-float32"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("cuba", "float32"), "'cuba' is no device. Did you mean 'cuda'? The devices are cpu, cuda, rocm, tpu, mps, auto."),
        (("gpu", "float32"), None),
        ((["cpu"], ["float"]), None),
        ((["cpu"], ["xyz"]), "'xyz' is no dtype. The dtypes are float64, float32, float16, bfloat16, complex128, complex64."),
        ((["cpu"], [None]), None),
        ((["cpu"], ["float32"], ["compile"]), "'compile' is no mode. Did you mean 'compiled'? The modes are eager, jit, default, compiled, nojit."),
        (([], ["float32"]), "devices is empty, so nothing would run. Name at least one, or leave it out."),
        (("", ["float32"]), "devices is empty, so nothing would run. Name at least one, or leave it out."),
        ((["cpu"], ()), "dtypes is empty, so nothing would run. Name at least one, or leave it out."),
        ((["cpu"], ["float32"], []), "modes is empty, so nothing would run. Name at least one, or leave it out."),
    ],
    ids=str,
)
def test_a_name_that_means_nothing_is_answered_with_those_that_do(args: Any, sentence: str | None) -> None:
    with pytest.raises(dlp.SpecError) as caught:
        matrix.cells(*args)
    said = str(caught.value)
    assert said == sentence or (sentence is None and re.match(r"^'?\w+'? is no (device|dtype)\..* The (device|dtype)s are [\w, ]+\.$", said))


def test_a_blank_name_between_commas_is_refused() -> None:
    with pytest.raises(dlp.SpecError, match=r"^'' is no dtype\."):
        matrix.cells("cpu", "float32,,bfloat16")


def test_a_table_of_the_users_own_replaces_ours() -> None:
    table = {"fake": Device("fake", "cpu", "cpu")}
    assert [str(cell) for cell in matrix.cells("fake", "float32", table=table)] == ["fake-float32"]
    with pytest.raises(dlp.SpecError, match=r"^'cpu' is no device\. The devices are fake, auto\.$"):
        matrix.cells("cpu", "float32", table=table)


def test_the_table_says_how_each_framework_calls_a_device() -> None:
    table = matrix.devices()
    assert list(table) == ["cpu", "cuda", "rocm", "tpu", "mps"] and all(name == device.name for name, device in table.items())
    assert (table["cpu"].torch, table["cpu"].jax, table["cpu"].note) == ("cpu", "cpu", "")
    assert (table["cuda"].torch, table["cuda"].jax) == (table["rocm"].torch, table["rocm"].jax) == ("cuda", "gpu")
    assert (table["mps"].torch, table["mps"].jax, table["mps"].note) == ("mps", "cpu", "jax has no MPS device: it stays on the CPU")


@pytest.mark.parametrize(("installed", "torch_name", "note"), [(True, "xla", ""), (False, "cpu", "torch_xla is not installed: torch stays on the CPU")])
def test_a_tpu_needs_torch_xla(monkeypatch: pytest.MonkeyPatch, installed: bool, torch_name: str, note: str) -> None:
    spec = importlib.machinery.ModuleSpec("torch_xla", None)
    monkeypatch.setattr(matrix.importlib.util, "find_spec", lambda name: spec if installed else None)
    assert matrix.devices()["tpu"] == Device("tpu", torch_name, "tpu", note)


@pytest.mark.parametrize(
    ("files", "packages", "found"),
    [
        ([], [], ["cpu"]),
        (["/dev/nvidia[0-9]*"], ["jax_plugins"], ["cpu", "cuda"]),
        (["/dev/nvidia[0-9]*"], [], ["cpu"]),
        (["/dev/kfd"], [], ["cpu", "rocm"]),
        (["/dev/accel[0-9]*"], ["libtpu"], ["cpu", "tpu"]),
        (["/dev/accel[0-9]*"], [], ["cpu"]),
    ],
    ids=str,
)
def test_what_is_present_is_seen_without_importing_a_framework(
    monkeypatch: pytest.MonkeyPatch, files: list[str], packages: list[str], found: list[str]
) -> None:
    monkeypatch.setattr(matrix.glob, "glob", lambda pattern: [pattern] if pattern in files else [])
    monkeypatch.setattr(matrix.importlib.util, "find_spec", lambda name: object() if name in packages else None)
    assert matrix.present() == found


def test_modes_say_how_each_side_runs() -> None:
    assert dict(matrix.MODES) == {"": Mode(False, True), "compiled": Mode(True, True), "nojit": Mode(False, False)}
    assert set(matrix.MODES) == {cell.mode for cell in matrix.cells("cpu", "float32", "eager,jit,default,compiled,nojit")}
