"""check(spec): the whole flow, without pytest."""

from __future__ import annotations

import contextlib
import functools
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_dlparity import compare, explain, matrix, report, run, tolerance, when
from pytest_dlparity.compare import Verdict
from pytest_dlparity.errors import SpecError
from pytest_dlparity.matrix import Cell, Device
from pytest_dlparity.reference import Reference, changed, reference
from pytest_dlparity.report import Report
from pytest_dlparity.run import Outcome, Prepared
from pytest_dlparity.spec import Spec
from pytest_dlparity.tolerance import TF32, Format, Tolerances


def check(
    spec: Spec,
    devices: Iterable[str] | str = "auto",
    dtypes: Iterable[str] | str = ("float32",),
    modes: Iterable[str] | str = ("eager",),
    *,
    seed: int = 0,
    tolerance: Tolerances = "auto",
    strict: bool = False,
    localize: str = "off",
    table: Mapping[str, Device] | None = None,
) -> Report:
    """Runs a spec in PyTorch and in JAX in every cell and says of each leaf whether the two sides agree.

    Args:
        devices: names of devices, or "auto" for those that are here.
        dtypes: float64, float32, bfloat16, float16 (complex64 and complex128 where the spec is complex).
        modes: "eager" (torch eager, jax jit), "compiled" (torch.compile, jax jit), "nojit" (torch eager, jax operation by operation).
        seed: of every draw.
        tolerance: "auto" measures what rounding explains; the spec's own tolerance goes first.
        strict: an inconclusive leaf is a failure.
        localize: "auto" also says where the two sides part and why, after a failure in float64; "always" also where they agree.
        table: devices besides matrix.devices().

    Raises:
        SpecError: the spec cannot be run as it is written, or a device is asked for by name and absent.
        Whatever the user's own code raises.
    """
    _is_spec(spec)
    when.validated(localize)
    known = {**matrix.devices(), **(table or {})}
    cells = matrix.cells(devices, dtypes, modes, known)
    for cell in cells:
        if absent := unavailable(known[cell.device]):
            raise SpecError(f'{cell.device} was asked for, but {absent}. Leave it out, or write devices="auto".')
    ready = begun(spec, seed, [cell.dtype for cell in cells])
    kinds = _names(c.mode or "eager" for c in cells)
    said = f"devices={_names(c.device for c in cells)}, dtypes={_names(c.dtype for c in cells)}{f', modes={kinds}' if kinds != ['eager'] else ''}"
    again = f"dlp.check(spec, {said}, seed={seed})"
    reports = [in_cell(ready, cell, known[cell.device], tolerance, strict, again) for cell in cells]
    return explain.explained(merged(reports), ready.reference, localize)


def _is_spec(spec: Any) -> None:
    if not isinstance(spec, Spec):
        raise SpecError(f"{spec!r} is no spec. Make one with dlp.layer, dlp.loss, dlp.optimizer or dlp.model.")


def _names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def unavailable(device: Device) -> str:
    """Why a device cannot be had here, "" when both frameworks have it."""
    torch_side, jax_side = run.frameworks()
    return torch_side.available(device.torch) or jax_side.available(device.jax)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[Callable[[], None]]:
    """Torch's random state at the seed, so that a module made in a test is the same in each run; put back afterwards.

    Yields a function that starts it again: every spec of a test finds and leaves the state as the test began with it.
    """
    torch_side, _ = run.frameworks()
    before = torch_side.random_state()
    try:
        torch_side.set_random_state(seed)
        yield functools.partial(torch_side.set_random_state, seed)
    finally:
        torch_side.set_random_state(before)


@dataclass
class Begun:
    """A spec with its reference: what all its cells share."""

    prep: Prepared
    reference: Reference


def begun(spec: Spec, seed: int, dtypes: Sequence[str]) -> Begun:
    """Draws, parameters and the float64 reference of a spec; `dtypes` is the whole matrix, so that every cell sees the same numbers."""
    _is_spec(spec)
    prep = run.prepared(spec, seed, dtypes)
    return Begun(prep, reference(prep))


def reseeded(ready: Begun, torch: Any, seed: int, dtypes: Sequence[str]) -> Begun:
    """The same spec at another seed or in another matrix; see run.reseeded."""
    prep = run.reseeded(ready.prep, torch, seed, dtypes)
    return Begun(prep, reference(prep))


def in_cell(ready: Begun, cell: Cell, device: Device, tolerated: Tolerances = "auto", strict: bool = False, again: str = "") -> Report:
    """Both sides in one cell, held against the reference."""
    prep, spec = ready.prep, ready.prep.spec
    mode = matrix.MODES[cell.mode]
    format = _format(cell, spec.precision, device)
    outcomes: list[Outcome] = []
    try:
        outcomes.append(_torch(ready, device.torch, cell.dtype, mode.compiled))
        outcomes.append(_jax(ready, device.jax, cell.dtype, mode.jit))
    except Exception as error:
        if ready.reference.problem or not _unsupported(error, cell.dtype):
            raise
        verdicts = compare.by_float64_alone(cell, ready.reference, ("torch", "jax")[len(outcomes)], first_line(error), format)
    else:
        torch, jax = outcomes
        truth = ready.reference if not ready.reference.problem else _in_the_cell(ready, cell, torch, jax)
        chosen = tolerance.for_dtype(spec.tolerance or tolerance.validated(tolerated), cell.dtype)
        verdicts = compare.verdicts(cell, torch, jax, truth, chosen, format)
    return Report(spec, (cell,), tuple(verdicts), environment(device, prep.seed), again, strict, _remarks(ready, cell, device))


_REFUSALS = re.compile(
    r"not implemented|unsupported|not supported|does not accept|(supports .*|expected .* tensors?) but got|expected a tensor .* of float, double",
    re.IGNORECASE,
)
_WIDE_ONLY = re.compile(r"(must be either|types other than) float (or|and) double")  # which torch says without naming what it got


def _unsupported(error: Exception, dtype: str) -> bool:
    """Whether an error says that a framework has no such operation in a half precision dtype; anything else is the user's to see.

    >>> _unsupported(NotImplementedError("lu_cpu not implemented for 'BFloat16'"), "bfloat16")
    True
    >>> _unsupported(RuntimeError("linalg.vander supports floating point, complex, and integer tensors, but got Half"), "float16")
    True
    >>> _unsupported(RuntimeError("quantile() input tensor must be either float or double dtype"), "float16")
    True
    >>> _unsupported(ValueError("The precision 'F16_F16_F32' is not supported by dot_general on CPU"), "float16")
    True
    >>> _unsupported(RuntimeError("this is mine"), "bfloat16"), _unsupported(RuntimeError("I mix float and double"), "bfloat16")
    (False, False)
    """
    text = str(error)
    names = {"bfloat16": "bfloat16|bf16", "float16": r"half|float16|\bf16"}.get(dtype)
    return names is not None and bool(_WIDE_ONLY.search(text) or (_REFUSALS.search(text) and re.search(names, text, re.IGNORECASE)))


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _format(cell: Cell, precision: str, device: Device) -> Format:
    """The format whose roundoff judges a cell: the dtype's, or what the hardware does by default where the user wants just that."""
    format = tolerance.format_of(cell.dtype)
    if precision == "default" and format.name == "float32" and device.torch.startswith("cuda"):
        return TF32
    if precision == "default" and format.name == "float32" and device.jax.startswith("tpu"):
        return tolerance.FORMATS["bfloat16"]
    return format


def _torch(ready: Begun, device: str, dtype: str, compiled: bool) -> Outcome:
    prep = ready.prep
    if dtype == "float64" and device == "cpu" and not compiled and not ready.reference.problem:
        return ready.reference.torch
    side = run.torch_ready(prep, device, dtype, compiled)
    found = run.torch_outcome(prep, side, device, dtype)
    if prep.job.kind != "optimizer" or ready.reference.problem:
        return found
    fed = run.torch_outcome(prep, side, device, dtype, starts=ready.reference.torch.starts)
    return replace(fed, free=found.leaves)


def _jax(ready: Begun, platform_: str, dtype: str, jit: bool) -> Outcome:
    prep = ready.prep
    if dtype == "float64" and platform_ == "cpu" and jit and not ready.reference.problem:
        return ready.reference.jax
    found = run.jax_outcome(prep, platform_, dtype, jit)
    if prep.job.kind != "optimizer" or ready.reference.problem:
        return found
    fed = run.jax_outcome(prep, platform_, dtype, jit, starts=ready.reference.jax.starts)
    return replace(fed, free=found.leaves)


def _in_the_cell(ready: Begun, cell: Cell, torch: Outcome, jax: Outcome) -> Reference:
    """What stands in for a reference where float64 cannot be had: the torch side on the CPU in the cell's own dtype."""
    prep = ready.prep
    side = run.torch_ready(prep, "cpu", cell.dtype, False)
    found = run.torch_outcome(prep, side, "cpu", cell.dtype)
    states = changed(prep, found, jax)
    return replace(ready.reference, torch=found, jax=jax, dtype=cell.dtype, states=states, _ready=side, _noises={})


def _remarks(ready: Begun, cell: Cell, device: Device) -> tuple[str, ...]:
    said = [device.note, report.judged_by(cell, ready.prep.spec.precision, "tpu" if device.jax.startswith("tpu") else device.torch)]
    if ready.reference.random:
        said.append(
            "the torch side drew random numbers (dropout in train mode?): give train=False, shared_randomness=True, or draw them with dlp "
            "and pass them in"
        )
    if ready.prep.shared is not None:
        said.append(str(ready.prep.shared))
    if ready.prep.fixed:
        said.append(f"torch has no gradient of {', '.join(sorted(ready.prep.fixed))}, so neither side's vjp has a cotangent there")
    if ready.reference.problem:
        said.append(f"there is no float64 reference: {ready.reference.problem}")
    return tuple(f"  note: {text}" for text in said if text)


def environment(device: Device, seed: int) -> str:
    """Versions, device and seed, in one line."""
    torch_side, jax_side = run.frameworks()
    python = ".".join(map(str, sys.version_info[:3]))
    return f"torch {torch_side.version()} on {device.torch}, jax {jax_side.version()} on {device.jax}, python {python}, {platform.machine()}, seed {seed}"


def merged(reports: Sequence[Report]) -> Report:
    """One report of several cells, whose verdicts carry their cell."""
    if len(reports) == 1:
        return reports[0]
    verdicts: tuple[Verdict, ...] = tuple(v for found in reports for v in found.verdicts)
    cells = tuple(cell for found in reports for cell in found.cells)
    remarks = tuple(dict.fromkeys(remark for found in reports for remark in found.remarks))
    return replace(reports[0], cells=cells, verdicts=verdicts, remarks=remarks)
