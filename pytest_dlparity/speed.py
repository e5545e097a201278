"""A cell as blocking calls: both sides of a spec ready on their device, timed interleaved, as rows for pytest-benchmark."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pytest_dlparity import baseline, benchmark_bridge, ending, gate, machine, matrix, run, timing
from pytest_dlparity.errors import SpeedError
from pytest_dlparity.matrix import Cell, Device
from pytest_dlparity.parity import Begun
from pytest_dlparity.report import Report
from pytest_dlparity.run import Functions, Prepared
from pytest_dlparity.timing import Contender, Timing

Step = Callable[[], Any]
Timed = tuple[Step, Any, float]
Row = dict[str, Any]


class Part(NamedTuple):
    """One thing that is timed, as a step of each side."""

    torch: Step
    jax: Step
    made: Any = None  # what XLA compiled of jax's step
    compiling: float = 0.0  # seconds that took


Made = Callable[[], Part]


def measure(
    begun: Begun, cell: Cell, device: Device, nodeid: str, report: Report, into: list[Row], threads: int = 1, **limits: Any
) -> None:
    """Times what the spec is made of, both sides in turn, and appends one row for each side of each part as soon as it is there.

    On the CPU both sides have `threads` threads, whatever the machine has, so that all runs are comparable. `limits` are those of
    timing.paired.

    Raises:
        SpeedError: jax has another number of threads already; or a side raises while it is timed, though it ran while it was
            compared.
        timing.Unfinished: work in the background was not waited for.
    """
    torch_side, _ = run.frameworks()
    spec = begun.prep.spec
    prep = run.unshared(replace(begun.prep, compiled={}))  # compiled anew, so that the first call tells what compiling costs
    with contextlib.ExitStack() as stack:
        if _on_cpu(device):
            stack.enter_context(torch_side.on_threads(threads))
        stack.enter_context(_settings(spec.precision, cell, device))
        for what, made in parts(prep, cell, device):
            part = made()
            if _on_cpu(device):
                _as_many(threads)
            times = _paired(part, device, f"{spec.name} [{cell}] {what}", limits)
            own = _own(part, device, times, matrix.MODES[cell.mode].compiled)
            known = {
                "parity": report.ok,
                "environment": report.environment,
                "cpu_threads": torch_side.threads(),
                "xla_threads": machine.pool(),
            }
            into += benchmark_bridge.rows(
                nodeid=nodeid.replace(f"{cell}-speed", str(cell)),  # the name that a run without xdist and one with it share
                cell_params={"device": cell.device, "dtype": cell.dtype, "mode": cell.mode or "eager"},
                what=what,
                timings=(times[0], times[1]._replace(first_call=times[1].first_call + part.compiling)),
                ratio=timing.ratio(times[1], times[0]),
                extra=known,
                own=own,
            )


def _paired(part: Part, device: Device, name: str, limits: dict[str, Any]) -> tuple[Timing, ...]:
    torch_side, jax_side = run.frameworks()
    contenders = (
        Contender("torch", part.torch, lambda _: torch_side.wait(device.torch), lambda _: torch_side.idle(device.torch)),
        Contender("jax", part.jax, jax_side.wait, jax_side.ended),
    )
    torch_side.wait(device.torch)
    try:
        return timing.paired(contenders, **limits)
    except timing.Raised as error:
        cause = error.__cause__
        said = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"
        raise SpeedError(f"{name}: the {error} side ran when it was compared and raises when it is timed: {said}") from cause


def _as_many(threads: int) -> None:
    """Raises SpeedError where XLA computes with another number of threads. Its pool is made once, when jax first looks for the CPU."""
    pool = machine.pool()
    if pool not in (None, threads):
        raise SpeedError(
            f"nothing is timed, because jax had started with {pool} threads on the CPU before it could be told to take {threads}: use no jax array in "
            f"conftest.py and while modules are imported, or set {machine.POOL}={threads} in the environment."
        )


def _on_cpu(device: Device) -> bool:
    return device.torch.partition(":")[0] == device.jax.partition(":")[0] == "cpu"


@contextlib.contextmanager
def _settings(precision: str, cell: Cell, device: Device) -> Iterator[None]:
    torch_side, jax_side = run.frameworks()
    with torch_side.settings(cell.dtype, precision), jax_side.settings(cell.dtype, precision, device.jax):
        yield


def _own(part: Part, device: Device, times: Sequence[Timing], compiled: bool) -> dict[str, dict[str, Any]]:
    """What is known of each side alone: its device, its memory, its work, and the rate of it."""
    from pytest_dlparity.frameworks import jax_work, torch_work

    torch = torch_work.measured(part.torch, device.torch, compiled)
    jax = jax_work.measured(part.jax, part.made, device.jax)
    jax["compile"] = part.compiling if part.made is not None else None
    for known, timed in zip((torch, jax), times, strict=True):
        best = min(timed.rounds)
        known["rate"] = {name: known["work"][name] / best if known["work"][name] and best else None for name in ("flops", "bytes")}
    return {"torch": torch, "jax": jax}


def parts(prep: Prepared, cell: Cell, device: Device) -> list[tuple[str, Made]]:
    """What is timed: forward, forward and backward; for optimizers a step; for training a training step. Each is made when it is called."""
    functions = Functions(prep, device.jax, cell.dtype, matrix.MODES[cell.mode].jit)
    torch_side, _ = run.frameworks()
    with _settings(prep.spec.precision, cell, device):
        ready = run.torch_ready(prep, device.torch, cell.dtype, matrix.MODES[cell.mode].compiled)

    def evaluation(backward: bool) -> Part:
        return Part(torch_side.timed(ready, prep.job, prep.cotangent, backward), *_evaluation(prep, functions, backward))

    def optimizer() -> Part:
        step = torch_side.optimizer_timed(ready, prep.job, prep.batches[0], device.torch, cell.dtype)
        return Part(step, *_optimizer(prep, functions))

    def training() -> Part:
        return Part(torch_side.training_timed(ready, prep.job), *_training(prep, functions))

    if prep.job.kind == "optimizer":
        return [("step", optimizer)]
    found: list[tuple[str, Made]] = [("forward", functools.partial(evaluation, False))]
    if prep.job.wrt:
        found.append(("forward+backward", functools.partial(evaluation, True)))
    return found + ([("training step", training)] if prep.job.steps else [])


def _evaluation(prep: Prepared, functions: Functions, backward: bool) -> Timed:
    _, jax_side = run.frameworks()
    params, state = run.jax_start(prep, functions.dtype)
    cotangents = run.cotangents(prep) if backward else {}
    values = (params, state, prep.inputs, cotangents)
    placed = jax_side.placed([jax_side.arrays(part, functions.dtype) for part in values], functions.platform)
    return _timed(functions("evaluate" if backward else "forward"), placed)


def _training(prep: Prepared, functions: Functions) -> Timed:
    _, jax_side = run.frameworks()
    params, state = run.jax_start(prep, functions.dtype)
    trained = {carry.jax: params[carry.jax] for name in prep.job.trained for carry in prep.paths(name)}
    held = functions("init")(trained)
    inputs = jax_side.arrays(prep.inputs, functions.dtype)
    placed = jax_side.placed([jax_side.zero(), params, state, held, inputs], functions.platform)
    return _timed(functions("train"), placed)


def _optimizer(prep: Prepared, functions: Functions) -> Timed:
    _, jax_side = run.frameworks()
    params = jax_side.arrays(prep.params, functions.dtype)
    held = functions("init")(params)
    grads = jax_side.arrays(prep.batches[0], functions.dtype)
    placed = jax_side.placed([jax_side.zero(), grads, held, params], functions.platform)
    return _timed(functions("step"), placed)


def _timed(function: Any, placed: Any) -> Timed:
    found: Timed = function.timed(*placed)
    return found


# ---------------------------------------------------------------- limits


def rulings(title: str, found: Sequence[Row], max_ratio: float | None, max_regression: float | None, folder: str) -> list[dict[str, str]]:
    """What the limits say of each part, in plain types: they travel to the controller."""
    stored = None
    if max_regression is not None:
        stored = baseline.read(folder, machine.fingerprint(), machine.versions())
    said: list[tuple[str, str]] = []
    for torch, jax in ending.pairs(found):
        name, figure = f"{title} {jax['params']['what']}", gate.figure(torch, jax)
        if max_ratio is not None:
            said.append(gate.of_ratio(name, figure, max_ratio))
        if stored is not None and max_regression is not None:
            said.append(_regression(name, figure, stored, max_regression))
    return [{"status": status, "sentence": sentence} for status, sentence in said]


def _regression(name: str, figure: gate.Figure, stored: baseline.Stored, limit: float) -> tuple[str, str]:
    if stored.problem:
        return "missing" if stored.missing else "unusable", stored.problem
    if figure.key not in stored.cells:
        return "missing", f"{name}: the baseline has no figure of it. {baseline.STORE}."
    if problem := baseline.unlike(figure, stored.cells[figure.key]):
        return "unusable", f"{name}: {problem}"
    return gate.of_regression(name, figure, stored.cells[figure.key], limit)


def raise_if_exceeded(found: Sequence[dict[str, str]]) -> None:
    """Raises SpeedError where a limit is exceeded."""
    __tracebackhide__ = True
    beyond = [ruling["sentence"] for ruling in found if ruling["status"] == gate.EXCEEDED]
    if beyond:
        raise SpeedError("\n".join(beyond))
