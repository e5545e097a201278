"""A traced jax function, evaluated operation by operation in float64: every value as a node of a trace.

Calls are opened (jit, remat, custom_jvp, custom_vjp), loops are run step by step, a condition takes the branch that its value says. What has no
inside that can be read (a kernel, a callback) is one node. A value is dropped after its last use; its fingerprint stays.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import DropVar, Literal

from pytest_dlparity.frameworks import jax_eager
from pytest_dlparity.frameworks.jax_frames import DEPTH, Origin, Origins, joined
from pytest_dlparity.frameworks.jax_rounding import INLINED, closed
from pytest_dlparity.trace import Fingerprint, Frame, Node, Trace, fingerprint

LIMIT = 200_000  # nodes: about 20 s and 200 MB
BIG = 4096  # elements: parameters beyond are known by name, and a fingerprint of each would be a large part of the cost
MOVES = jax_eager.PASSING | {"reshape", "transpose", "squeeze", "expand_dims", "convert_element_type"}
MOVES_IF_WHOLE = frozenset(  # and nothing is left out, doubled or added: the values are those of the first operand
    "broadcast_in_dim slice dynamic_slice concatenate pad split reduce_sum reduce_prod reduce_max reduce_min scan_slice scan_stack".split()
)
REFERENCES = frozenset("new_ref get swap addupdate freeze run_state".split())
NOWHERE = -1  # the index of a number written into an equation: it is no node


class Unfollowed(Exception):
    """A run cannot be shown as values that follow from one another."""


class TooLong(Unfollowed):
    """It has more operations than can be followed one by one."""


class Again(NamedTuple):
    """What computes a node's value once more: see `replay`. Another operand or another parameter makes it another computation."""

    name: str
    primitive: Any  # None: a row of a loop's arrays, or its rows stacked
    params: dict[str, Any]
    operands: tuple[int | np.ndarray, ...]  # a node's index, or a number written into the equation, of shape ()
    declared: tuple[Any, ...]  # the operands' dtypes as the equation was traced for
    result: int  # which of its results


class Held(NamedTuple):
    """A value, and the node that it is."""

    value: Any
    node: int


class At(NamedTuple):
    """The call that an equation is part of."""

    frames: tuple[Frame, ...] = ()
    module: tuple[str, ...] = ()
    call: str = ""
    number: int = -1
    transposed: bool = False


def trace(
    traced: Any,
    args: Sequence[Any],
    names: Sequence[tuple[str, str]],
    outputs: Sequence[str],
    keep: Collection[int] = frozenset(),
    instead: Mapping[int, np.ndarray] | None = None,
    rounded: bool = False,
    room: int = 0,
    bare: bool = False,
) -> Trace:
    """Every value of one run on the CPU, in float64 whatever narrower float the function asks for.

    Args:
        traced: what `jax.jit(function).trace(*args)` gave, under jax.enable_x64. Of a vjp: forward and backward pass in one.
        args: the flat arguments, floats in float64.
        names: of each argument ("input" | "param" | "const", name). What only a "const" given here leads to, a cotangent, is backward.
        outputs: the leaf of each flat result, "" where it is none. One called "grad.*" says that there is a backward pass.
        keep: nodes whose values are kept. Nodes are numbered alike in every run that takes the same branches.
        instead: values that take the place of what some nodes computed, any shape of as many elements.
        rounded: each result is computed in float64 and then rounded to the dtype that the function has there.
        room: elements of other values that are kept too, the first ones first.
        bare: values alone are wanted: no fingerprints, and no modules.

    The nodes' `call` is the function or layer that the user called there. `backward` is False for what a remat computes once more.

    Raises:
        TooLong: there are more than LIMIT nodes.
        Unfollowed: an array is changed in place (jax.new_ref).
    """
    started = time.perf_counter()
    jaxpr = traced.jaxpr
    walk = _Walk(keep, instead or {}, any(name.startswith("grad.") for name in outputs), rounded, room, bare)
    walk.plans, walk.origins = _plans(traced)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        held = [walk.given(value, var.aval, *name) for value, var, name in zip(args, jaxpr.jaxpr.invars, names, strict=True)]
        results = walk.run(jaxpr.jaxpr, jaxpr.consts, held, At(), outermost=True)
        found = {name: walk.node_of(held) for name, held in zip(outputs, results, strict=True) if name}
    if not bare:
        _place(walk.nodes, walk.linen)
    return Trace("jax", walk.nodes, found, time.perf_counter() - started)


def replay(node: Node, values: Mapping[int, Any]) -> np.ndarray:
    """The value of one node, computed again from other values of what it reads.

    Args:
        node: of a trace of this module. With another `again` it is computed otherwise:
            `replace(node, again=node.again._replace(operands=...))`.
        values: of each node in `node.reads`, by index.

    Raises:
        ValueError: it was not computed, but given; or a value is missing.
    """
    again = node.again
    if again is None:
        raise ValueError(f"node {node.index} ({node.name or node.kind}) was given, not computed: there is nothing to replay.")
    missing = [operand for operand in again.operands if isinstance(operand, int) and operand not in values]
    if missing:
        raise ValueError(f"node {node.index} ({node.operation}) cannot be replayed: the value of node {missing[0]} is missing.")
    operands = [jax_eager.wide(values[operand]) if isinstance(operand, int) else operand for operand in again.operands]
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        made = jax_eager.computed(again.name, again.primitive, again.params, operands, again.declared)
    return np.asarray(_shown(made[again.result]))


def _shown(value: Any) -> Any:
    return jax.random.key_data(value) if jax_eager.is_key(value) else value


# ---------------------------------------------------------------- the plan of a jaxpr


class _Step:
    """One equation, prepared: loops come by a thousand times."""

    __slots__ = ("dead", "declared", "equation", "inner", "name", "operands", "origin", "outs", "params", "primitive", "unread")

    def __init__(self, equation: Any, origin: Origin, outs: tuple[Any, ...], dead: tuple[Any, ...], unread: tuple[Any, ...]) -> None:
        self.equation, self.origin, self.outs, self.dead, self.unread = equation, origin, outs, dead, unread
        self.name, self.primitive, self.params = equation.primitive.name, equation.primitive, equation.params
        self.operands = tuple(_literal(atom) if isinstance(atom, Literal) else atom for atom in equation.invars)
        self.declared = tuple(getattr(atom.aval, "dtype", None) for atom in equation.invars)
        self.inner = _inside(self.name, self.params)


def _literal(atom: Any) -> Held:
    return Held(jax_eager.literal(atom.val, atom.aval.dtype), NOWHERE)


def _inside(name: str, params: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """(jaxpr, constants) of a call that is opened."""
    if name == "custom_vmap_call":
        return params["call"].jaxpr, params["call"].consts
    return closed(params) if name in INLINED or name == "composite" else None


def _steps(jaxpr: Any, origins: Origins) -> list[_Step]:
    """The equations that lead to a result, each with the variables that nobody needs after it, and the results that no equation reads."""
    results = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    read: set[Any] = set()  # by what comes later
    found = []
    for equation in reversed(jaxpr.eqns):
        outs = tuple(None if isinstance(var, DropVar) or (var not in read and var not in results) else var for var in equation.outvars)
        if all(out is None for out in outs):
            continue  # also a debug print: it gives nothing
        here = {atom for atom in equation.invars if not isinstance(atom, Literal)}
        unread = ({out for out in outs if out is not None} | here) & results - read
        found.append(_Step(equation, origins(equation), outs, tuple(here - read - results), tuple(unread)))
        read |= here
    return found[::-1]


@functools.lru_cache(maxsize=2)  # a search runs one program again and again
def _plans(traced: Any) -> tuple[dict[int, tuple[Any, list[_Step]]], Origins]:
    """The plans of a program's jaxprs, made as they are met, and where their equations were written."""
    return {}, Origins()


# ---------------------------------------------------------------- the run


class _Walk:
    def __init__(
        self, keep: Collection[int], instead: Mapping[int, np.ndarray], differentiated: bool, rounded: bool, room: int, bare: bool
    ) -> None:
        self.keep, self.instead, self.differentiated, self.rounded = keep, instead, differentiated, rounded
        self.room, self.bare = room, bare
        self.nodes: list[Node] = []
        self.plans: dict[int, tuple[Any, list[_Step]]] = {}
        self.constants: dict[int, tuple[Any, Held]] = {}
        self.origins = Origins()
        self.calls = 0
        self.silent = 0  # inside a loop's test: nothing is recorded
        self.count = 0
        self.linen = False

    # ------------------------------------------------------------ nodes

    def given(self, value: Any, aval: Any, kind: str, name: str) -> Held:
        """An argument."""
        value = jax_eager.wide(value)
        if not jax_eager.is_key(value) and value.dtype.kind in "iu" and value.dtype != aval.dtype:
            value = value.astype(aval.dtype)
        known = kind == "param" and value.size > BIG
        return self._add(value, "", kind, (), None, At(), None if known else self._print(value), name, kind == "input", kind == "const")

    def _constant(self, value: Any) -> Held:
        """A constant of a jaxpr, one node however often a loop enters."""
        if id(value) not in self.constants:
            wide = jax_eager.wide(value)
            self.constants[id(value)] = value, self._add(wide, "", "const", (), None, At(), self._print(wide))
        return self.constants[id(value)][1]

    def node_of(self, held: Held) -> int:
        return held.node if held.node != NOWHERE else self._add(held.value, "", "const", (), None, At(), self._print(held.value)).node

    def _add(
        self, value: Any, operation: str, kind: str, reads: tuple[int, ...], again: Again | None, at: At, print_: Fingerprint | None,
        name: str = "", data: bool = False, backward: bool = False,
    ) -> Held:  # fmt: skip
        self.count += 1
        if self.count > LIMIT:
            raise TooLong(
                f"the jax side computes more than {LIMIT} values, each step of a loop counted: too many to follow one by one. "
                "Give it fewer steps (a shorter sequence, fewer iterations)."
            )
        index = len(self.nodes)
        if self.silent:
            return Held(value, NOWHERE)
        if index in self.instead:
            value = np.asarray(self.instead[index], value.dtype).reshape(value.shape)
            print_ = self._print(value)
        kept = np.array(_shown(value)) if index in self.keep else self._kept(value, kind)
        self.nodes.append(
            Node(
                index, operation, reads, tuple(value.shape), _name(value.dtype), kind, print_, at.frames, ".".join(at.module), at.call, at.number,
                name, data or any(self.nodes[i].data for i in reads), backward, again, kept,
            )
        )  # fmt: skip
        return Held(value, index)

    def _kept(self, value: Any, kind: str) -> np.ndarray | None:
        """A value for which there is room. Parameters take none: they are held anyway."""
        size = 0 if kind == "param" else value.size
        if not self.room or size > self.room:
            return None
        self.room -= size
        return np.asarray(value) if kind == "param" else np.array(_shown(value))  # what computes may write over what nobody reads any more

    def _print(self, value: Any) -> Fingerprint | None:
        return None if self.silent or self.bare else fingerprint(_shown(value))

    def _result(self, value: Any, step: _Step, again: Again, operands: Sequence[Held], at: At, backward: bool) -> Held:
        reads = tuple(held.node for held in operands if held.node != NOWHERE)
        if not reads:
            return self._add(value, again.name, "const", (), again, at, self._print(value), backward=backward)
        first = operands[0]
        moved = first.node != NOWHERE and _moves(again.name, first.value, value)
        print_ = self.nodes[first.node].print if moved else self._print_of(again.name, value, first)
        return self._add(value, again.name, "move" if moved else "op", reads, again, at, print_, backward=backward)

    def _print_of(self, name: str, value: Any, first: Held) -> Fingerprint | None:
        if name == "broadcast_in_dim" and first.node != NOWHERE and value.size and (base := self.nodes[first.node].print) is not None:
            times = value.size // first.value.size
            return base._replace(count=value.size, nans=base.nans * times, masked=base.masked * times, huge=base.huge * times)
        return self._print(value)

    # ------------------------------------------------------------ jaxprs

    def run(self, jaxpr: Any, consts: Iterable[Any], held: list[Held], at: At, outermost: bool = False) -> list[Held]:
        """The results of a jaxpr. `held` is taken: nothing here keeps an argument after its last use.

        The values of the outermost one's results are dropped too: nobody reads them, and the gradients are as large as the parameters.
        """
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(self._constant, consts), *held), strict=True))
        held.clear()
        calls = _Calls(self)
        for step in self._plan(jaxpr):
            operands = [operand if isinstance(operand, Held) else known[operand] for operand in step.operands]
            for var in step.dead:
                del known[var]
            made = self._made(step, operands, self._at(step, at, calls))
            known.update((var, result) for var, result in zip(step.outs, made, strict=True) if var is not None and result is not None)
            del operands, made
            if outermost:
                known.update((var, Held(None, known[var].node)) for var in step.unread if known[var].node != NOWHERE)
        return [_literal(atom) if isinstance(atom, Literal) else known[atom] for atom in jaxpr.outvars]

    def _plan(self, jaxpr: Any) -> list[_Step]:
        if id(jaxpr) not in self.plans:
            self.plans[id(jaxpr)] = jaxpr, _steps(jaxpr, self.origins)
        return self.plans[id(jaxpr)][1]

    def _at(self, step: _Step, outer: At, calls: _Calls) -> At:
        origin = step.origin
        self.linen |= origin.linen
        frames = (origin.frames + outer.frames)[:DEPTH] or origin.library
        module = joined(outer.module, origin.module)
        transposed = (outer.transposed or (self.differentiated and origin.transposed)) and not origin.repeated
        if outer.call and not origin.frames:  # inside of a library's function
            return At(frames, module, outer.call, outer.number, transposed)
        return At(frames, module, origin.call, calls.number(step, module, transposed) if origin.call else -1, transposed)

    def _made(self, step: _Step, operands: list[Held], at: At) -> list[Held | None]:
        if step.inner is not None:
            jaxpr, consts = step.inner
            return [*self.run(jaxpr, consts, operands, at)]
        if step.name == "scan":
            return [*self._scan(step, operands, at)]
        if step.name == "while":
            return [*self._while(step, operands, at)]
        if step.name == "cond":
            branches = step.params["branches"]
            branch = branches[min(max(int(operands[0].value), 0), len(branches) - 1)]
            del operands[0]
            return [*self.run(branch.jaxpr, branch.consts, operands, at)]
        if step.name in REFERENCES:
            raise Unfollowed(
                f"the jax side changes an array in place ({step.name}{f' at {at.frames[0]}' if at.frames else ''}), "
                "which cannot be followed value by value. Write it without jax.new_ref."
            )
        return self._computed(step, operands, at)

    def _computed(self, step: _Step, operands: list[Held], at: At) -> list[Held | None]:
        results = jax_eager.computed(step.name, step.primitive, step.params, [held.value for held in operands], step.declared)
        if self.rounded:
            results = [_rounded(value, var.aval) for value, var in zip(results, step.equation.outvars, strict=True)]
        passing = step.name in jax_eager.PASSING and len(results) == len(operands)
        made: list[Held | None] = []
        for number, (value, out) in enumerate(zip(results, step.outs, strict=True)):
            if out is None:
                made.append(None)
                continue
            places = [number] if passing else range(len(operands))
            read = [operands[i] for i in places]
            declared = tuple(step.declared[i] for i in places)
            made.append(self._op(value, step, read, declared, 0 if passing else number, at))
        return made

    def _op(self, value: Any, step: _Step, read: Sequence[Held], declared: tuple[Any, ...], number: int, at: At) -> Held:
        written = tuple(held.value if held.node == NOWHERE else held.node for held in read)
        again = Again(step.name, step.primitive, step.params, written, declared, number)
        return self._result(value, step, again, read, at, self._is_backward(read, at))

    def _is_backward(self, read: Sequence[Held], at: At) -> bool:
        return at.transposed or any(held.node != NOWHERE and self.nodes[held.node].backward for held in read)

    # ------------------------------------------------------------ loops

    def _scan(self, step: _Step, operands: list[Held], at: At) -> list[Held]:
        params, body = step.params, step.params["jaxpr"]
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        fixed, carried, arrays = operands[:first], operands[first:last], operands[last:]
        operands.clear()
        rows: list[list[Held]] = [[] for _ in body.jaxpr.outvars[last - first :]]
        turns = range(params["length"])
        for turn in reversed(turns) if params["reverse"] else turns:
            here = [self._loop("scan_slice", {"index": turn}, [array], step, at) for array in arrays]
            made = self.run(body.jaxpr, body.consts, [*fixed, *carried, *here], at)
            carried = made[: last - first]
            for row, result in zip(rows, made[last - first :], strict=True):
                row.append(result)
        avals = [var.aval for var in body.jaxpr.outvars[last - first :]]
        stacked: list[Held] = []
        while rows:
            row = rows.pop(0)
            stacked.append(self._stacked(row[::-1] if params["reverse"] else row, avals[len(stacked)], step, at))
        return [*map(_owned, carried), *stacked]

    def _stacked(self, row: list[Held], aval: Any, step: _Step, at: At) -> Held:
        if row:
            return self._loop("scan_stack", {}, row, step, at)
        empty = jax_eager.wide(jnp.empty((0, *aval.shape), aval.dtype))
        return self._add(empty, "scan_stack", "const", (), None, at, self._print(empty))

    def _loop(self, name: str, params: dict[str, Any], read: list[Held], step: _Step, at: At) -> Held:
        (value,) = jax_eager.computed(name, None, params, [held.value for held in read], ())
        written = tuple(held.value if held.node == NOWHERE else held.node for held in read)
        return self._result(value, step, Again(name, None, params, written, (), 0), read, at, self._is_backward(read, at))

    def _while(self, step: _Step, operands: list[Held], at: At) -> list[Held]:
        params = step.params
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        of_test, of_body, carried = operands[:first], operands[first:last], operands[last:]
        operands.clear()
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        while self._holds(test, [*of_test, *carried], at):
            carried = self.run(body.jaxpr, body.consts, [*of_body, *carried], at)
        return carried

    def _holds(self, test: Any, held: list[Held], at: At) -> bool:
        constants = dict(self.constants)
        self.silent += 1
        try:
            (result,) = self.run(test.jaxpr, test.consts, held, at)
        finally:
            self.silent -= 1
            self.constants = constants
        return bool(result.value)


_name = functools.cache(str)  # of a dtype


def _owned(held: Held) -> Held:
    """A row that leaves its loop, as an array that does not keep all rows alive."""
    value = held.value
    view = isinstance(value, np.ndarray) and value.base is not None and getattr(value.base, "size", 0) > value.size
    return Held(np.array(value), held.node) if view else held


def _rounded(value: Any, aval: Any) -> Any:
    """A result as the function's own dtype holds it."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or dtype == np.float64:
        return value
    return np.asarray(value).astype(dtype).astype(np.float64)


def _moves(name: str, operand: Any, value: Any) -> bool:
    """Whether an operation only hands its operand's values on."""
    if name == "convert_element_type":  # to a wider float; to float8 it is a rounding
        return value.dtype == np.float64 and jnp.issubdtype(operand.dtype, jnp.floating)
    if name == "scan_stack":
        return operand.size == value.size and operand.dtype == value.dtype
    return name in MOVES or (name in MOVES_IF_WHOLE and operand.size == value.size and operand.dtype == value.dtype)


class _Calls:
    """Which equations of one jaxpr belong to one call of a library's function.

    A traceback does not say which time around a line was passed. A new call begins where the caller is another, where the called function
    begins anew (in a backward pass: ends anew), and where the equation that began the last call comes again, traced at another time.
    """

    def __init__(self, walk: _Walk) -> None:
        self.walk = walk
        self.caller: Any = None
        self.step = 0
        self.first: Any = None

    def number(self, step: _Step, module: tuple[str, ...], transposed: bool) -> int:
        origin = step.origin
        caller = origin.call, origin.place, module, transposed
        at = -origin.step if transposed else origin.step
        traceback = id(step.equation.source_info.traceback)
        again = self.first is not None and self.first[0] == (origin.path, step.name) and self.first[1] != traceback
        if caller != self.caller or at < self.step or again:
            self.walk.calls += 1
            self.caller, self.first = caller, ((origin.path, step.name), traceback)
        self.step = at
        return self.walk.calls


# ---------------------------------------------------------------- modules


def _place(nodes: Sequence[Node], linen: bool) -> None:
    """Modules as the parameters' names have them: without linen's outermost class, and by the parameters where the name stack has none."""
    if linen:
        root = _root(nodes)
        for node in nodes:
            node.module = node.module[len(root) + 1 :] if root and f"{node.module}.".startswith(f"{root}.") else node.module
        return
    for call in _calls(nodes):
        owners = [{name.rpartition(".")[0] for name in _parameters(nodes, node)} for node in call]
        shared = _shared(set().union(*owners))
        for node, own in zip(call, owners, strict=True):
            node.module = node.module or (own.pop() if len(own) == 1 else shared)


def _shared(paths: Collection[str]) -> str:
    """The module that holds them all.

    >>> _shared({"block.mlp.0", "block.mlp.10"}), _shared({"a"}), _shared(set())
    ('block.mlp', 'a', '')
    """
    split = [path.split(".") for path in paths]
    return ".".join(parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False)))


def _root(nodes: Sequence[Node]) -> str:
    """The outermost module, "" where there are several. What jax moves out of a loop's body has lost it."""
    modules = {node.module for node in nodes if node.module}
    root = next((node.module.partition(".")[0] for node in nodes if node.module), "")
    return root if all(f"{module}.".startswith(f"{root}.") or f"{root}.{module}" in modules for module in modules) else ""


def _calls(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """The operations of each call; those of no call alone."""
    found: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.operation:
            found[node.call_number if node.call_number >= 0 else -2 - node.index].append(node)
    yield from found.values()


def _parameters(nodes: Sequence[Node], node: Node) -> Iterator[str]:
    for index in node.reads:
        read = nodes[index]
        while read.reads and (read.kind == "move" or read.operation == "broadcast_in_dim"):
            read = nodes[read.reads[0]]
        if read.kind == "param":
            yield read.name
