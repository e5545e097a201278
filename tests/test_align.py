"""Where two traces part, on traces written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pytest_dlparity import align
from pytest_dlparity.trace import Frame, Node, Trace, fingerprint

RNG = np.random.default_rng(2)
X, W, V = (RNG.standard_normal((4, 4)) for _ in range(3))


class Side:
    """A trace built by computing: each call is a node."""

    def __init__(self, name: str) -> None:
        self.trace = Trace(name)
        self.values: list[np.ndarray] = []

    def given(self, value: np.ndarray, kind: str = "input", name: str = "x") -> int:
        return self._add("", (), value, kind, name)

    def __call__(self, operation: str, function: Callable[..., Any], *reads: int, kind: str = "op") -> int:
        return self._add(operation, reads, np.asarray(function(*(self.values[r] for r in reads))), kind, "")

    def _add(self, operation: str, reads: tuple[int, ...], value: np.ndarray, kind: str, name: str) -> int:
        index = len(self.values)
        data = kind == "input" or any(self.trace.nodes[r].data for r in reads)
        frames = (Frame(f"{self.trace.side}.py", index, "f"),)
        self.trace.nodes.append(
            Node(index, operation, reads, value.shape, str(value.dtype), kind, fingerprint(value), frames, name=name, data=data)
        )
        self.values.append(value)
        return index


def parted(torch: Side, jax: Side, known: list[tuple[int, int]], bad: str = "output") -> list[tuple[Any, Any]]:
    made = align.aligned(torch.trace, jax.trace, known)
    made.jax.pop(torch.trace.outputs[bad], None)
    made.torch.pop(jax.trace.outputs[bad], None)
    operation = lambda side, entry: entry and side.trace.nodes[entry.node].operation
    return [(operation(torch, a), operation(jax, b)) for a, b in align.partings(made, [bad])]


def both(torch_step: Callable[[Side, int], int], jax_step: Callable[[Side, int], int]) -> list[tuple[Any, Any]]:
    """One step between a product that both have and a product after it."""
    sides = []
    for name, step in (("torch", torch_step), ("jax", jax_step)):
        side = Side(name)
        x, w, v = side.given(X), side.given(W, "param", "w"), side.given(V, "param", "v")
        middle = step(side, side("mm", np.matmul, x, w))
        side.trace.outputs["output"] = side("mm", np.matmul, middle, v)
        sides.append(side)
    return parted(*sides, [(0, 0), (1, 1), (2, 2)])


def test_another_function() -> None:
    assert both(lambda s, h: s("tanh", np.tanh, h), lambda s, h: s("sin", np.sin, h)) == [("tanh", "sin")]


def test_a_missing_operation() -> None:
    assert both(lambda s, h: s("mul", lambda a: a * 2, h), lambda s, h: h) == [("mul", "mm")]


def test_an_operation_too_many_on_the_jax_side() -> None:
    assert both(lambda s, h: h, lambda s, h: s("mul", lambda a: a * 2, h)) == [("mm", "mul")]


def test_another_way_to_the_same_value_is_no_parting() -> None:
    def square(s: Side, h: int) -> int:
        return s("tanh", np.tanh, s("mul", np.multiply, h, h))

    def power(s: Side, h: int) -> int:
        logs = s("log", lambda a: np.log(np.abs(a)), h)
        return s("sin", np.sin, s("exp", lambda a: np.exp(2 * a), logs))

    assert both(square, power) == [("tanh", "sin")]


def test_two_faults_are_two_pairs() -> None:
    def chain(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[[Side, int], int]:
        def step(s: Side, h: int) -> int:
            left, right = s("left", first, h), s("right", second, s("mm", np.matmul, h, 2))
            return s("add", np.add, left, right)

        return step

    assert both(chain(np.tanh, np.sin), chain(np.arctan, np.cos)) == [("left", "left"), ("right", "right")]


def test_a_permutation_of_the_right_values_ends_at_the_output() -> None:
    torch, jax = Side("torch"), Side("jax")
    for side, turn in ((torch, lambda a: a), (jax, lambda a: a[::-1])):
        x = side.given(X)
        side.trace.outputs["output"] = side("turn", turn, side("tanh", np.tanh, x))
    assert parted(torch, jax, [(0, 0)]) == [("turn", "turn")]


def test_a_constant_that_only_one_side_has_is_a_suspect() -> None:
    entries = []
    for value in (np.arange(16.0).reshape(4, 4) ** 2, np.arange(1.0, 17.0).reshape(4, 4) ** 2):
        side = Side("torch")
        x = side.given(X)
        table = side.given(value, "const", "")
        side.trace.outputs["output"] = side("add", np.add, x, table)
        entries += align.Parting(side.trace, {0}, [2]).entries()
    assert [entry.suspects for entry in entries] == [(1,), (1,)]


def test_integers_that_agree_by_accident_prove_nothing() -> None:
    """A pooling's indices are the same although its values are not: the values are where the two part."""
    torch, jax = Side("torch"), Side("jax")
    for side, factor in ((torch, 2.0), (jax, 3.0)):
        x = side.given(X)
        scaled = side("mul", lambda a, factor=factor: a * factor, x)
        order = side("argsort", np.argsort, scaled)
        side.trace.outputs["output"] = side("add", np.add, scaled, order)
    assert parted(torch, jax, [(0, 0)]) == [("mul", "mul")]


def test_nothing_parts_where_all_agrees() -> None:
    same = lambda s, h: s("tanh", np.tanh, h)
    torch, jax = Side("torch"), Side("jax")
    for side in (torch, jax):
        side.trace.outputs["output"] = same(side, side.given(X))
    made = align.aligned(torch.trace, jax.trace, [(0, 0)])
    assert made.jax == {0: (0,), 1: (1,)}
    assert align.partings(made, ["output"]) == []


def test_a_maximum_that_agrees_proves_nothing() -> None:
    """A mask of -1 in the place of one of -inf leaves most maxima as they are."""
    torch, jax = Side("torch"), Side("jax")
    for side, fill in ((torch, -50.0), (jax, -30.0)):
        x = side.given(X)
        masked = side("where", lambda a, fill=fill: np.where(np.tri(4) > 0, a, fill), x)
        top = side("amax", lambda a: a.max(-1, keepdims=True), masked)
        side.trace.outputs["output"] = side("sub", np.subtract, masked, top)
    assert parted(torch, jax, [(0, 0)]) == [("where", "where")]


def test_a_mean_that_agrees_proves_nothing_of_what_else_is_read() -> None:
    torch, jax = Side("torch"), Side("jax")
    for side, moved in ((torch, lambda a: a + np.arange(4) - 1.5), (jax, lambda a: a)):
        x = side.given(X)
        h = side("step", lambda a, moved=moved: 2 * moved(a), x)
        mean = side("mean", lambda a: a.mean(-1, keepdims=True), h)
        side.trace.outputs["output"] = side("sub", np.subtract, h, mean)
    assert parted(torch, jax, [(0, 0)]) == [("step", "step")]
