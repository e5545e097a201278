"""(prepared spec, side) -> trace: every value of one float64 run on the CPU, under the names that both sides share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from pytest_dlparity import run
from pytest_dlparity.run import Prepared
from pytest_dlparity.trace import Node, Trace


def torch_trace(prep: Prepared, keep: Collection[int] = (), backward: bool = True, dtype: str = "float64", room: int = 0) -> Trace:
    """The torch side's forward pass, and its backward pass with the spec's cotangents.

    `keep`: nodes whose values are kept; `room`: elements of others that are kept too.

    In another dtype than float64 nothing is widened: it is the run of a cell.
    """
    torch_side, _ = run.frameworks()
    from pytest_dlparity.frameworks import torch_trace as tracer

    with torch_side.settings(dtype, prep.spec.precision):
        ready = run.torch_ready(prep, "cpu", dtype, False)
        return tracer.trace(ready, prep.job, prep.cotangent, keep, backward, dtype != "float64", room)


def jax_trace(
    prep: Prepared,
    keep: Collection[int] = (),
    backward: bool = True,
    instead: Mapping[int, np.ndarray] | None = None,
    dtype: str = "float64",
    room: int = 0,
    bare: bool = False,
) -> Trace:
    """The same of the jax side. `instead`: values that take the place of what some nodes computed. `bare`: values alone, no fingerprints.

    In another dtype than float64 each result is rounded to what the function has there.
    """
    _, jax_side = run.frameworks()
    from pytest_dlparity.frameworks import jax_trace as tracer

    with jax_side.settings(dtype, prep.spec.precision):
        params, state = run.jax_start(prep, dtype)
        backward = backward and bool(prep.job.wrt)
        held = jax_side.arrays(run.cotangents(prep), dtype) if backward else {}
        args = params, state, jax_side.arrays(prep.inputs, dtype), held
        traced, _ = run.Functions(prep, "cpu", dtype, True)("evaluate" if backward else "forward").traced(*args)
        names = [(("param", "param", "input", "const")[part], name) for part, name in jax_side.paths(args)]
        outputs = [_leaf(prep, part, name) for part, name in jax_side.paths(traced.out_info)]
        return tracer.trace(traced, jax_side.flat(args), names, outputs, keep, instead or {}, dtype != "float64", room, bare)


def _leaf(prep: Prepared, part: int, name: str) -> str:
    """The name of one flat result as a leaf of the spec, "" where it is none."""
    if part == 0:
        return name
    if part == 1:
        return f"grad.{name}"
    carried = [carry.torch for carry in prep.carries if carry.jax == name]
    alone = len(carried) == 1 and len(prep.paths(carried[0])) == 1
    return ("grad." if part == 2 else "state.") + carried[0] if alone else ""


def known(prep: Prepared, torch: Trace, jax: Trace) -> Iterator[tuple[int, int]]:
    """Nodes that are the same by name: inputs, parameters, buffers."""
    here: dict[str, int] = {node.name: node.index for node in torch.nodes if node.kind in ("input", "param")}
    there: dict[str, int] = {node.name: node.index for node in jax.nodes if node.kind in ("input", "param")}
    pairs: list[tuple[Any, Any]] = [(carry.torch, carry.jax) for carry in prep.carries] + [(name, name) for name in prep.inputs]
    for ours, theirs in pairs:
        if ours in here and theirs in there:
            yield here[ours], there[theirs]


def replay(side: str, node: Node, values: Mapping[int, Any]) -> np.ndarray:
    """One operation again, in float64, on other values of what it reads.

    Raises:
        Whatever the operation raises when it does not take them.
    """
    torch_side, jax_side = run.frameworks()
    if side == "torch":
        from pytest_dlparity.frameworks import torch_trace

        with torch_side.settings("float64", "highest"):
            return torch_trace.replay(node, values)
    from pytest_dlparity.frameworks import jax_trace

    with jax_side.settings("float64", "highest"):
        return jax_trace.replay(node, values)
