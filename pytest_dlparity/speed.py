"""A cell as blocking calls: both sides of a spec ready on their device, timed interleaved, as rows for pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytest_dlparity import benchmark_bridge, matrix, run, timing
from pytest_dlparity.matrix import Cell, Device
from pytest_dlparity.parity import Begun
from pytest_dlparity.report import Report
from pytest_dlparity.run import Functions, Prepared
from pytest_dlparity.timing import Contender

Step = Callable[[], Any]


def rows(begun: Begun, cell: Cell, device: Device, nodeid: str, report: Report) -> list[dict[str, Any]]:
    """Times what the spec is made of, both sides in turn, and gives one row for each side of each part.

    Raises:
        Whatever a side raises while it is timed.
    """
    torch_side, jax_side = run.frameworks()
    prep = run.unshared(replace(begun.prep, compiled={}))  # compiled anew, so that the first call tells what compiling costs
    found = []
    for what, torch_step, jax_step in parts(prep, cell, device):
        contenders = (
            Contender("torch", torch_step, lambda _: torch_side.wait(device.torch)),
            Contender("jax", jax_step, jax_side.wait),
        )
        precision = begun.prep.spec.precision
        with torch_side.settings(cell.dtype, precision), jax_side.settings(cell.dtype, precision, device.jax):
            torch_side.wait(device.torch)
            times = timing.paired(contenders)
        params = {"device": cell.device, "dtype": cell.dtype, "mode": cell.mode or "eager"}
        extra = {"parity": report.ok, "environment": report.environment, "threads": torch_side.threads()}
        ratio = timing.ratio(times[1], times[0])
        name = nodeid.replace(f"{cell}-speed", str(cell))  # the name that a run without xdist and one with it share
        found += benchmark_bridge.rows(nodeid=name, cell_params=params, what=what, timings=times, ratio=ratio, extra=extra)
    return found


def parts(prep: Prepared, cell: Cell, device: Device) -> list[tuple[str, Step, Step]]:
    """(what is timed, a step of torch, a step of jax): forward, forward and backward; for optimizers a step; for training a training step."""
    mode = matrix.MODES[cell.mode]
    functions = Functions(prep, device.jax, cell.dtype, mode.jit)
    torch_side, jax_side = run.frameworks()
    precision = prep.spec.precision
    with torch_side.settings(cell.dtype, precision), jax_side.settings(cell.dtype, precision, device.jax):
        ready = run.torch_ready(prep, device.torch, cell.dtype, mode.compiled)
        if prep.job.kind == "optimizer":
            return [
                (
                    "step",
                    torch_side.optimizer_timed(ready, prep.job, prep.batches[0], device.torch, cell.dtype),
                    _optimizer(prep, functions),
                )
            ]
        both = ("forward", "forward+backward") if prep.job.wrt else ("forward",)
        found = [
            (what, torch_side.timed(ready, prep.job, prep.cotangent, what != "forward"), _evaluation(prep, functions, what != "forward"))
            for what in both
        ]
        if prep.job.steps:
            found.append(("training step", torch_side.training_timed(ready, prep.job), _training(prep, functions)))
        return found


def _evaluation(prep: Prepared, functions: Functions, backward: bool) -> Step:
    _, jax_side = run.frameworks()
    params, state = run.jax_start(prep, functions.dtype)
    cotangents = run.cotangents(prep) if backward else {}
    values = (params, state, prep.inputs, cotangents)
    placed = jax_side.placed([jax_side.arrays(part, functions.dtype) for part in values], functions.platform)
    call = functions("evaluate" if backward else "forward")
    return lambda: call(*placed)


def _training(prep: Prepared, functions: Functions) -> Step:
    _, jax_side = run.frameworks()
    params, state = run.jax_start(prep, functions.dtype)
    trained = {carry.jax: params[carry.jax] for name in prep.job.trained for carry in prep.paths(name)}
    held = functions("init")(trained)
    inputs = jax_side.arrays(prep.inputs, functions.dtype)
    placed = jax_side.placed([jax_side.zero(), params, state, held, inputs], functions.platform)
    call = functions("train")
    return lambda: call(*placed)


def _optimizer(prep: Prepared, functions: Functions) -> Step:
    _, jax_side = run.frameworks()
    params = jax_side.arrays(prep.params, functions.dtype)
    held = functions("init")(params)
    grads = jax_side.arrays(prep.batches[0], functions.dtype)
    placed = jax_side.placed([jax_side.zero(), grads, held, params], functions.platform)
    call = functions("step")
    return lambda: call(*placed)
