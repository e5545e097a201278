"""The jax side run again with its jaxpr changed: a number, a cast, a stop_gradient, a function that was called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, DropVar, Literal, jaxpr_as_fun

from pytest_dlparity.frameworks.jax_frames import Origin, Origins
from pytest_dlparity.frameworks.jax_program import Program
from pytest_dlparity.frameworks.jax_rounding import INLINED, closed
from pytest_dlparity.job import Job

Path = tuple[
    int, ...
]  # the equation's place in its jaxpr, behind those of the equations that it is inside of; the first says which part of the side
PARTS = ("apply", "loss")
LOOPS = ("scan", "while", "cond")
NUMBERS = "numbers of the jaxpr"  # under this name they travel with the state
NARROW = ("float16", "bfloat16", "float32")
MOST = 400  # equations of one function that is replaced as a whole


class Number(NamedTuple):
    """A number that is written into an equation."""

    path: Path
    operand: int
    value: float
    operation: str
    file: str
    line: int
    call: str  # the library's function that holds it, "" where the user wrote it
    size: int  # elements of what the equation gives


class Travels(NamedTuple):
    """A number that is read from the state under NUMBERS, at this place."""

    place: int


class Step(NamedTuple):
    """An equation that could be left out."""

    path: Path
    operation: str
    file: str
    line: int


class Called(NamedTuple):
    """Equations that one call of a library's function of one array made: `first` computes, the others are left out."""

    name: str
    file: str
    line: int
    part: int
    equations: tuple[Path, ...]
    given: tuple[Path, int]  # the equation and operand that read the function's argument
    result: Path  # the equation that gives its result


@dataclass
class Changes:
    """What is done otherwise while a jaxpr is run."""

    numbers: Mapping[tuple[Path, int], Any] = field(default_factory=dict)  # a number, or a Travels
    steps: Mapping[Path, Callable[..., Any]] = field(default_factory=dict)  # (its inputs) -> its one result
    wide: bool = False  # nothing is cast to a narrower float

    def inside(self, path: Path) -> bool:
        """Whether something of what an equation holds is changed."""
        if self.wide:
            return True
        return any(p[: len(path)] == path for p in (*(p for p, _ in self.numbers), *self.steps))

    def __or__(self, other: Changes) -> Changes:
        return Changes({**self.numbers, **other.numbers}, {**self.steps, **other.steps}, self.wide or other.wide)


# ---------------------------------------------------------------- reading


@dataclass
class Read:
    """What stands in the jaxprs of a side that could be changed."""

    numbers: list[Number] = field(default_factory=list)
    whole: list[Number] = field(default_factory=list)
    casts: list[Step] = field(default_factory=list)  # to a narrower float
    stops: list[Step] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)


def recorded(program: Program, job: Job) -> tuple[Program, Job, Read]:
    """(the program and the job to run once, what will then have been read)."""
    seen = Read()

    def look(closed_jaxpr: Any, part: int) -> None:
        _read(closed_jaxpr.jaxpr, (part,), Origins(), seen, None)

    apply, loss = program.apply, job.jax_loss

    def applied(*args: Any) -> Any:
        look(jax.make_jaxpr(apply)(*args), 0)
        return apply(*args)

    def lost(*args: Any) -> Any:
        assert loss is not None
        look(jax.make_jaxpr(loss)(*args), 1)
        return loss(*args)

    return replace(program, apply=applied), job if loss is None else job._replace(jax_loss=lost), seen


def _read(jaxpr: Any, path: Path, origins: Origins, seen: Read, around: Origin | None) -> None:
    found: list[tuple[Path, Any, Origin]] = []
    for index, equation in enumerate(jaxpr.eqns):
        at, origin = (*path, index), origins(equation)
        origin = around if around is not None and not origin.frames else origin
        file, line = (origin.frames[0].file, origin.frames[0].line) if origin.frames else ("", 0)
        found.append((at, equation, origin))
        size = max((var.aval.size for var in equation.outvars if hasattr(var.aval, "size")), default=0)
        for operand, atom in enumerate(equation.invars):
            kind = _kind(atom)
            if kind:
                number = Number(at, operand, float(atom.val), equation.primitive.name, file, line, origin.call, size)
                (seen.numbers if kind == "f" else seen.whole).append(number)
        if (narrow := _narrower(equation)) is not None:
            seen.casts.append(Step(at, narrow, file, line))
        if equation.primitive.name == "stop_gradient":
            seen.stops.append(Step(at, "stop_gradient", file, line))
        for inner in _bodies(equation):
            _read(inner[1], (*at, inner[0]), origins, seen, origin)
    seen.called += _regions(jaxpr, found, path[0])


def _narrower(equation: Any) -> str | None:
    """The narrow float that an equation casts something wider to."""
    if equation.primitive.name != "convert_element_type":
        return None
    before, after = str(equation.invars[0].aval.dtype), str(np.dtype(equation.params["new_dtype"]))
    return after if after in NARROW and before not in NARROW else None


def _kind(atom: Any) -> str:
    """Whether an operand is a written number: "f" of a float, "i" of a whole one, "" no number."""
    if not isinstance(atom, Literal):
        return ""
    aval: Any = atom.aval
    if aval.shape == () and jnp.issubdtype(aval.dtype, jnp.floating):
        return "f" if np.isfinite(float(atom.val)) else ""
    return "i" if aval.shape == () and jnp.issubdtype(aval.dtype, jnp.integer) else ""


def _bodies(equation: Any) -> Iterator[tuple[int, Any]]:
    """(number, jaxpr) of what an equation runs and can be run here with changes."""
    name, params = equation.primitive.name, equation.params
    if name in INLINED and (inner := closed(params)) is not None:
        yield 0, inner[0]
    elif name == "scan":
        yield 0, params["jaxpr"].jaxpr
    elif name == "while":
        yield 0, params["body_jaxpr"].jaxpr
    elif name == "cond":
        yield from ((i, branch.jaxpr) for i, branch in enumerate(params["branches"]))


def _regions(jaxpr: Any, found: Sequence[tuple[Path, Any, Origin]], part: int) -> Iterator[Called]:
    groups: dict[Any, list[tuple[Path, Any, Origin]]] = {}
    for at, equation, origin in found:
        if origin.call and origin.frames:
            groups.setdefault((origin.call, origin.place), []).append((at, equation, origin))
    for (call, _), members in groups.items():
        one = _region(jaxpr, found, members) if len(members) <= MOST else None
        if one is not None:
            frame = members[0][2].frames[0]
            yield Called(call, frame.file, frame.line, part, tuple(at for at, _, _ in members), *one)


def _region(jaxpr: Any, found: Sequence[Any], members: Sequence[Any]) -> tuple[tuple[Path, int], Path] | None:
    """Where a group of equations takes its one array and gives its one result; None where there are several."""
    inside = {at for at, _, _ in members}
    made = {var: at for at, equation, _ in members for var in equation.outvars if not isinstance(var, DropVar)}
    read = {
        atom: (at, i) for at, equation, _ in reversed(members) for i, atom in enumerate(equation.invars) if not isinstance(atom, Literal)
    }
    given = [(atom, place) for atom, place in read.items() if atom not in made]
    used = {atom for at, equation, _ in found if at not in inside for atom in equation.invars if not isinstance(atom, Literal)}
    used |= {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    results = [var for var in made if var in used]
    if len(given) != 1 or len(results) != 1 or given[0][0].aval.shape != results[0].aval.shape:
        return None
    return given[0][1], made[results[0]]


# ---------------------------------------------------------------- running


def changing(program: Program, job: Job, changes: Changes) -> tuple[Program, Job]:
    """The side with its jaxprs changed. Numbers given as Travels are read from the state, under NUMBERS."""
    held: dict[str, Any] = {}
    apply, loss = program.apply, job.jax_loss

    def applied(params: Any, state: Any, args: Any, kwargs: Any) -> Any:
        held[NUMBERS] = state.get(NUMBERS)
        state = {name: value for name, value in state.items() if name != NUMBERS}
        return _run(apply, (params, state, args, kwargs), 0, changes, held)

    def lost(*args: Any) -> Any:
        return _run(loss, args, 1, changes, held)

    return replace(program, apply=applied), job if loss is None else job._replace(jax_loss=lost)


def _run(function: Any, args: tuple[Any, ...], part: int, changes: Changes, held: Mapping[str, Any]) -> Any:
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    flat = jax.tree.leaves(args)
    results = _Runner(changes, held).run(traced.jaxpr, traced.consts, flat, (part,))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


class _Runner:
    def __init__(self, changes: Changes, held: Mapping[str, Any]) -> None:
        self.changes, self.held = changes, held

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], path: Path) -> list[Any]:
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        for index, equation in enumerate(jaxpr.eqns):
            at = (*path, index)
            inputs = [self._read(known, atom, at, i) for i, atom in enumerate(equation.invars)]
            results = self._results(jaxpr, equation, inputs, at)
            known.update(zip(equation.outvars, results, strict=True))
        return [atom.val if isinstance(atom, Literal) else known[atom] for atom in jaxpr.outvars]

    def _read(self, known: Mapping[Any, Any], atom: Any, at: Path, operand: int) -> Any:
        if not isinstance(atom, Literal):
            return known[atom]
        number = self.changes.numbers.get((at, operand))
        if number is None:
            return atom.val
        value = self.held[NUMBERS][number.place] if isinstance(number, Travels) else number
        aval: Any = atom.aval
        return jnp.asarray(value, aval.dtype)

    def _results(self, jaxpr: Any, equation: Any, inputs: list[Any], at: Path) -> list[Any]:
        change = self.changes.steps.get(at)
        if change is not None:
            return [change(*inputs)]
        name, params = equation.primitive.name, equation.params
        if self.changes.inside(at):
            if name in INLINED and (inner := closed(params)) is not None:
                return self.run(*inner, inputs, (*at, 0))
            if name in LOOPS:
                found: list[Any] = getattr(self, f"_{name}")(params, inputs, at)
                return found
        if self.changes.wide:
            return _widely(jaxpr, equation, inputs)
        if "custom" in name:
            return _whole(jaxpr, equation, inputs)
        results = equation.primitive.bind(*inputs, **params)
        return list(results) if equation.primitive.multiple_results else [results]

    def _scan(self, params: dict[str, Any], inputs: list[Any], at: Path) -> list[Any]:
        consts, carried, body = params["num_consts"], params["num_carry"], params["jaxpr"]
        fixed, start, rows = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]

        def step(state: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
            results = self.run(body.jaxpr, body.consts, [*fixed, *state, *row], (*at, 0))
            like = [jnp.asarray(r, jnp.result_type(s)) for r, s in zip(results[:carried], state, strict=True)]
            return like, results[carried:]

        state, out = jax.lax.scan(step, list(map(jnp.asarray, start)), list(rows), length=params["length"], reverse=params["reverse"])
        return [*state, *out]

    def _while(self, params: dict[str, Any], inputs: list[Any], at: Path) -> list[Any]:
        tests, steps, body = params["cond_nconsts"], params["body_nconsts"], params["body_jaxpr"]
        of_test, of_step, start = inputs[:tests], inputs[tests : tests + steps], inputs[tests + steps :]
        more = jaxpr_as_fun(params["cond_jaxpr"])
        return list(
            jax.lax.while_loop(
                lambda state: more(*of_test, *state)[0],
                lambda state: self.run(body.jaxpr, body.consts, [*of_step, *state], (*at, 0)),
                list(map(jnp.asarray, start)),
            )
        )

    def _cond(self, params: dict[str, Any], inputs: list[Any], at: Path) -> list[Any]:
        def branch(number: int) -> Callable[..., Any]:
            inner = params["branches"][number]
            return lambda *args: self.run(inner.jaxpr, inner.consts, args, (*at, number))

        return list(jax.lax.switch(inputs[0], [branch(i) for i in range(len(params["branches"]))], *inputs[1:]))


def _whole(jaxpr: Any, equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """An equation with derivatives of its own, run with them: as a jaxpr of its own."""
    values = {atom: x for atom, x in zip(equation.invars, inputs, strict=True) if not isinstance(atom, Literal)}
    given = [var for var in equation.outvars if not isinstance(var, DropVar)]
    alone = jaxpr.replace(constvars=[], invars=list(values), outvars=given, eqns=[equation], effects=equation.effects)
    made = iter(jaxpr_as_fun(ClosedJaxpr(alone, ()))(*values.values()))
    return [None if isinstance(var, DropVar) else next(made) for var in equation.outvars]


def _widely(jaxpr: Any, equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """An equation in float64, where it would be in a narrower float."""
    name, params = equation.primitive.name, dict(equation.params)
    for key in ("new_dtype", "preferred_element_type", "dtype", "out_dtype"):
        if key in params and params[key] is not None and str(np.dtype(params[key])) in NARROW:
            params[key] = np.dtype(np.float64)
    if name == "reduce_precision":
        return [inputs[0]]
    wide = [_wide(x) for x in inputs]
    if "custom" in name:
        return _whole(jaxpr, equation, wide)
    results = equation.primitive.bind(*wide, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def _wide(value: Any) -> Any:
    return jnp.asarray(value, jnp.float64) if hasattr(value, "dtype") and str(value.dtype) in NARROW else value


# ---------------------------------------------------------------- changes


def without(steps: Sequence[Step]) -> Changes:
    """These equations left out: each gives its first operand."""
    return Changes(steps={step.path: lambda *inputs: inputs[0] for step in steps})


def instead(called: Sequence[Called], function: Callable[[Any, Any], Any]) -> Changes:
    """Another function of one array in the place of the called ones. `function` is given jax and the array."""
    steps: dict[Path, Callable[..., Any]] = {}
    for one in called:
        steps |= dict.fromkeys(one.equations, _nothing) | _replaced(one, function)
    return Changes(steps=steps)


def _nothing(*inputs: Any) -> Any:
    return inputs[0] if inputs else jnp.zeros(())


def _replaced(one: Called, function: Callable[[Any, Any], Any]) -> dict[Path, Callable[..., Any]]:
    reader, operand = one.given
    kept: dict[str, Any] = {}

    def reads(*inputs: Any) -> Any:
        kept["x"] = inputs[operand]
        return inputs[operand]

    def gives(*inputs: Any) -> Any:
        x = inputs[operand] if reader == one.result else kept["x"]
        return function(jax, x)

    return {reader: reads, one.result: gives} if reader != one.result else {one.result: gives}


def numbers(read: Read) -> tuple[Changes, np.ndarray]:
    """(every number of the jaxprs as an unknown, their values)."""
    places = {(n.path, n.operand): Travels(i) for i, n in enumerate(read.numbers)}
    return Changes(numbers=places), np.array([n.value for n in read.numbers])
