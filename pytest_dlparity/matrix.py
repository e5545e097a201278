"""(devices, dtypes, modes) -> cells: the points at which one spec is checked."""

from __future__ import annotations

import difflib
import glob
import importlib.util
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_dlparity.errors import SpecError
from pytest_dlparity.tolerance import DTYPES


class Cell(NamedTuple):
    """One point of the matrix. Its text is the test id."""

    device: str
    dtype: str
    mode: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in self if part)  # cuda-bfloat16-compiled


class Device(NamedTuple):
    """A device of the matrix as each framework calls it."""

    name: str
    torch: str
    jax: str
    note: str = ""


class Mode(NamedTuple):
    """How each side is run: torch.compile or eager, jax.jit or operation by operation."""

    compiled: bool
    jit: bool


MODES = {"": Mode(False, True), "compiled": Mode(True, True), "nojit": Mode(False, False)}
_MODE_NAMES = {"eager": "", "jit": "", "default": "", "": "", "compiled": "compiled", "nojit": "nojit"}


def devices() -> dict[str, Device]:
    """The table of devices; a `pytest_dlparity_devices` hook may add to it."""
    xla = importlib.util.find_spec("torch_xla") is not None
    rows = (
        Device("cpu", "cpu", "cpu"),
        Device("cuda", "cuda", "gpu"),
        Device("rocm", "cuda", "gpu"),  # a ROCm build of torch calls its device cuda
        Device("tpu", "xla", "tpu") if xla else Device("tpu", "cpu", "tpu", "torch_xla is not installed: torch stays on the CPU"),
        Device("mps", "mps", "cpu", "jax has no MPS device: it stays on the CPU"),
    )
    return {device.name: device for device in rows}


def present() -> list[str]:
    """The devices that `auto` means: those that the machine seems to have, found without importing a framework."""
    found = ["cpu"]
    if glob.glob("/dev/nvidia[0-9]*") and importlib.util.find_spec("jax_plugins") is not None:
        found.append("cuda")
    elif glob.glob("/dev/kfd"):
        found.append("rocm")
    if glob.glob("/dev/accel[0-9]*") and importlib.util.find_spec("libtpu") is not None:
        found.append("tpu")
    return found


def cells(
    names: Iterable[str] | str,
    dtypes: Iterable[str] | str,
    modes: Iterable[str] | str = ("eager",),
    table: Mapping[str, Device] | None = None,
) -> tuple[Cell, ...]:
    """Every combination, devices first, in the order given; `auto` stands for the devices that are present.

    Raises:
        SpecError: a name that is no device, dtype or mode, or none at all.

    >>> [str(cell) for cell in cells(["cpu"], ["float32", "bfloat16"], ["eager", "compiled"])]
    ['cpu-float32', 'cpu-float32-compiled', 'cpu-bfloat16', 'cpu-bfloat16-compiled']
    >>> cells(["cpu"], ["float31"])
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: 'float31' is no dtype. Did you mean 'float32'? The dtypes are float64, float32, float16, bfloat16, \
complex128, complex64.
    """
    known = dict(table or devices())
    wanted = [name for given in _list("devices", names) for name in (present() if given == "auto" else [given])]
    picked = [_one("device", name, [*known, "auto"]) for name in dict.fromkeys(wanted)]
    types = [_one("dtype", name, DTYPES) for name in dict.fromkeys(_list("dtypes", dtypes))]
    kinds = dict.fromkeys(_MODE_NAMES[_one("mode", name, [n for n in _MODE_NAMES if n])] for name in _list("modes", modes))
    return tuple(Cell(*point) for point in itertools.product(picked, types, kinds))


def _list(what: str, given: Iterable[str] | str) -> list[str]:
    """`cpu,cuda` or a list of names."""
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    if not names or names == [""]:
        raise SpecError(f"{what} is empty, so nothing would run. Name at least one, or leave it out.")
    return names


def _one(what: str, name: object, known: Sequence[str]) -> str:
    if name in known:
        return str(name)
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SpecError(f"{name!r} is no {what}.{hint} The {what}s are {', '.join(known)}.")
