"""Where one side loses precision: the first operation whose result is farther from float64 than what it was computed from explains.

The side is traced twice, in float64 and in the cell's dtype, and each value's error is taken in roundoffs of that dtype. An error that grows
with the operation may be the mathematics (a difference of two nearly equal numbers), so where the other side computes the same value, its error
there must be much smaller. Only then is there a finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from pytest_dlparity import align, distance, locate, tolerance, tracing
from pytest_dlparity.locate import Place
from pytest_dlparity.reference import Reference
from pytest_dlparity.run import Prepared
from pytest_dlparity.trace import Node, Trace, ancestors

JUMP = 32.0  # times the error of what was read, at least: five bits, which no single right operation loses
LESS = 8.0  # times less than this must be the other side's error of the same value
EVERYTHING = range(200_000)


class Lost(NamedTuple):
    """The operation at which one side's error jumps. Errors are relative (rms), in roundoffs of the dtype."""

    side: str
    dtype: str
    place: Place
    before: float
    after: float
    other: float  # the other side's error of the same value, NaN where it has no such value

    def __str__(self) -> str:
        other = {"torch": "jax", "jax": "torch"}[self.side]
        beside = "" if math.isnan(self.other) else f"; {other}'s same value has {_count(self.other)}"
        return (
            f"in {self.dtype} the {self.side} side's error jumps from {_count(self.before)} to {_count(self.after)} roundoffs at {self.place}{beside}"
        )


def _count(roundoffs: float) -> str:
    return f"{roundoffs:.2g}" if roundoffs < 100 else f"{roundoffs:.0f}"


def lost(prep: Prepared, truth: Reference, dtype: str, side: str, leaf: str) -> Lost | None:
    """The first jump of a side's error on the way to a leaf; None where no single operation is to blame, or it cannot be followed.

    Never raises for what goes wrong while tracing: the verdict stands without it.
    """
    if prep.job.kind == "optimizer" or truth.problem:
        return None
    try:
        with np.errstate(all="ignore"):
            return _lost(prep, dtype, side, leaf)
    except Exception:  # noqa: BLE001  the user's programs under two tracers; there is a verdict already
        return None


def _lost(prep: Prepared, dtype: str, side: str, leaf: str) -> Lost | None:
    backward = leaf.startswith("grad.")
    runs = {name: _Run(prep, name, dtype, backward) for name in ("torch", "jax")}
    this, other = runs[side], runs["jax" if side == "torch" else "torch"]
    made = align.aligned(runs["torch"].exact, runs["jax"].exact, tracing.known(prep, runs["torch"].exact, runs["jax"].exact))
    matched = made.jax if side == "torch" else made.torch
    if leaf not in this.exact.outputs:
        return None
    errors, elsewhere = this.errors(), other.errors()
    way = ancestors(this.low, [this.low.outputs[leaf]])
    for node in this.low.nodes:
        if node.index not in way or node.index not in errors or not node.reads:
            continue
        before = max((errors.get(read, 0.0) for read in node.reads), default=0.0)
        after = errors[node.index]
        if not after > JUMP * max(before, 1.0):
            continue
        same = [elsewhere[i] for i in other.low_of(matched.get(this.pairs.get(node.index, -1), ())) if i in elsewhere]
        if not same or min(same) * LESS < after:
            return Lost(side, dtype, locate.placed(this.low, node), before, after, min(same, default=math.nan))
    return None


class _Run:
    """One side in float64 and in a dtype, and which value of the one is which of the other."""

    def __init__(self, prep: Prepared, side: str, dtype: str, backward: bool) -> None:
        tracer = tracing.torch_trace if side == "torch" else tracing.jax_trace
        self.roundoff = tolerance.format_of(dtype).roundoff
        self.exact: Trace = tracer(prep, (), backward)
        if sum(int(np.prod(node.shape)) for node in self.exact.nodes if node.data) > locate.LARGE:
            raise MemoryError("too many values to be kept")
        self.exact = tracer(prep, EVERYTHING, backward)
        self.low: Trace = tracer(prep, EVERYTHING, backward, dtype=dtype)
        self.pairs = dict(self._paired())

    def _paired(self) -> Iterator[tuple[int, int]]:
        """(value in the dtype, value in float64): operations in order; a cast or a movement has the value of what it moves."""
        low, exact = (_steps(trace) for trace in (self.low, self.exact))
        found = {a.index: b.index for a, b in _in_order(low, exact)}
        given = {node.name: node.index for node in self.exact.nodes if not node.reads and node.name}
        for node in self.low.nodes:
            if node.index in found:
                yield node.index, found[node.index]
            elif not node.reads and node.name in given:
                yield node.index, found.setdefault(node.index, given[node.name])
            elif len(node.reads) == 1 and node.reads[0] in found:
                yield node.index, found.setdefault(node.index, found[node.reads[0]])

    def errors(self) -> dict[int, float]:
        """Relative error of each value in the dtype, in roundoffs; that of a moved value is its source's."""
        found: dict[int, float] = {}
        for node in self.low.nodes:
            truth = self.exact.nodes[self.pairs[node.index]].value if node.index in self.pairs else None
            if node.value is not None and truth is not None and node.value.shape == truth.shape and truth.dtype.kind == "f":
                error = distance.between(node.value.astype(np.float64), truth).relative / self.roundoff
                if math.isfinite(error):
                    found[node.index] = error
            elif len(node.reads) == 1 and node.reads[0] in found:
                found[node.index] = found[node.reads[0]]
        return found

    def low_of(self, exact: object) -> list[int]:
        wanted = set(exact)  # type: ignore[call-overload]  # a tuple of nodes
        return [low for low, high in self.pairs.items() if high in wanted]


def _steps(trace: Trace) -> list[Node]:
    return [node for node in trace.nodes if node.kind in ("op", "const") and node.operation not in ("_to_copy", "convert_element_type")]


def _in_order(low: list[Node], exact: list[Node]) -> Iterator[tuple[Node, Node]]:
    names = [[f"{node.operation} {node.shape}" for node in nodes] for nodes in (low, exact)]
    for block in SequenceMatcher(None, names[0], names[1], autojunk=False).get_matching_blocks():
        yield from zip(low[block.a : block.a + block.size], exact[block.b : block.b + block.size], strict=True)

