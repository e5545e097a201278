"""Changes of the jax side: a number that it has, a cast that it makes, a gradient that it stops, a function that it calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_dlparity import run
from pytest_dlparity.diagnose.search import Hypothesis, Side
from pytest_dlparity.run import Arrays, Prepared

MOST = 40  # numbers that are tried one by one
BESIDE = frozenset(
    {"gt", "lt", "ge", "le", "eq", "ne", "select_n", "pad", "sign", "floor", "round", "nextafter", "random_bits"}
)  # no smooth way there
ADDING = frozenset({"add", "sub", "rem", "max", "min"})  # where a whole number may be one off
WIDE = ("wide",)

Function = Callable[[Any, Any], Any]
# name -> (what a sentence calls it, (jax, x) -> result, the line)
FUNCTIONS: Mapping[str, tuple[str, Function, str]] = {
    "erf gelu": ("the exact gelu", lambda jax, x: jax.nn.gelu(x, approximate=False), "jax.nn.gelu(x, approximate=False)"),
    "tanh gelu": ("the tanh approximation", lambda jax, x: jax.nn.gelu(x, approximate=True), "jax.nn.gelu(x, approximate=True)"),
    "quick gelu": ("quick gelu", lambda jax, x: x * jax.nn.sigmoid(1.702 * x), "x * jax.nn.sigmoid(1.702 * x)"),
    "silu": ("silu", lambda jax, x: jax.nn.silu(x), "jax.nn.silu(x)"),
    "relu": ("relu", lambda jax, x: jax.nn.relu(x), "jax.nn.relu(x)"),
    "elu": ("elu", lambda jax, x: jax.nn.elu(x), "jax.nn.elu(x)"),
    "softplus": ("softplus", lambda jax, x: jax.nn.softplus(x), "jax.nn.softplus(x)"),
    "mish": ("mish", lambda jax, x: jax.nn.mish(x), "jax.nn.mish(x)"),
    "hard swish": ("hard swish", lambda jax, x: jax.nn.hard_swish(x), "jax.nn.hard_swish(x)"),
    "tanh": ("tanh", lambda jax, x: jax.numpy.tanh(x), "jnp.tanh(x)"),
    "sigmoid": ("sigmoid", lambda jax, x: jax.nn.sigmoid(x), "jax.nn.sigmoid(x)"),
}
OWN = {
    "silu": "silu",
    "swish": "silu",
    "elu": "elu",
    "softplus": "softplus",
    "mish": "mish",
    "hard_swish": "hard swish",
    "hard_silu": "hard swish",
}


def side(prep: Prepared) -> tuple[Side, Any]:
    """The jax side to be run with changes, and what of it could be changed."""
    from pytest_dlparity.frameworks import jax_repair

    program, job, read = jax_repair.recorded(prep.jax, prep.job)
    run.jax_outcome(dataclasses.replace(prep, jax=program, job=job._replace(wrt=(), steps=0), compiled={}), "cpu", "float64", True)
    read = _once(read)
    unknown, values = jax_repair.numbers(read)
    places = {key: number.place for key, number in unknown.numbers.items()}
    kept: dict[Any, dict[Any, Any]] = {}

    def made(at: Prepared, changes: dict[Any, Any], gradients: bool) -> Arrays:
        numbers = {key[1:]: change(None) for key, change in changes.items() if key[0] == "number"}
        if not gradients and len(numbers) == len(changes) and all(key in places for key in numbers):
            row = values.copy()
            for key, number in numbers.items():
                row[places[key]] = number
            program, job = jax_repair.changing(at.jax, at.job, unknown)
            program = dataclasses.replace(program, state={**program.state, jax_repair.NUMBERS: row})
            return _leaves(at, program, job, False, kept.setdefault("unknown", {}))
        steps = {key[1]: change for key, change in changes.items() if key[0] == "step"}
        plan = jax_repair.Changes(numbers, steps, WIDE in changes)
        program, job = jax_repair.changing(at.jax, at.job, plan)
        name = (tuple(sorted(numbers.items())), tuple(sorted((path, id(change)) for path, change in steps.items())), plan.wide, gradients)
        return _leaves(at, program, job, gradients, kept.setdefault(name, {}))

    return Side("jax", made), read


def _once(read: Any) -> Any:
    """What was read, each place once: jax may trace a function several times."""
    unique = {field.name: list(dict.fromkeys(getattr(read, field.name))) for field in dataclasses.fields(read)}
    return dataclasses.replace(read, **unique)


def _leaves(prep: Prepared, program: Any, job: Any, gradients: bool, compiled: dict[Any, Any]) -> Arrays:
    job = job if gradients else job._replace(wrt=(), steps=0)
    return run.jax_outcome(dataclasses.replace(prep, jax=program, job=job, compiled=compiled), "cpu", "float64", True).leaves


def _where(file: str, line: int) -> str:
    return f"{file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{line}" if file else ""


def of_numbers(read: Any) -> Iterator[Hypothesis]:
    """Each number of the jaxprs as an unknown: all that are equal in one function, those of one line, each by itself."""
    numbers = [n for n in read.numbers if n.operation not in BESIDE]
    seen: set[Any] = set()
    by_function: dict[Any, list[Any]] = {}
    by_line: dict[Any, list[Any]] = {}
    for number in numbers:
        by_function.setdefault((number.value, number.call or "", number.operation if not number.call else ""), []).append(number)
        by_line.setdefault((number.value, number.file, number.line), []).append(number)
    groups = [*by_function.values(), *by_line.values(), *([number] for number in numbers[:MOST])]
    for group in groups:
        key = frozenset((n.path, n.operand) for n in group)
        if key not in seen:
            seen.add(key)
            yield _number(group)


def _number(group: Sequence[Any]) -> Hypothesis:
    first = group[0]
    places = list(dict.fromkeys(_where(n.file, n.line) for n in group if n.file))
    where = ", ".join(places[:3]) + (f" and {len(places) - 3} more places" if len(places) > 3 else "")
    holder = f" ({first.call})" if first.call else ""
    changes: dict[Any, Any] = {("number", n.path, n.operand): lambda _, c: c for n in group}
    return Hypothesis(
        "jax", "constant", f"the jax side has {first.value:.12g}{{at}}{holder}", "{c} in its place",
        f"{{c}} in the place of {first.value:.12g}", where, changes,
        first.value, 2, "constant", (), len(places),
    )  # fmt: skip


def of_whole_numbers(read: Any) -> Iterator[Hypothesis]:
    """Whole numbers that are added, one more and one less."""
    groups: dict[Any, list[Any]] = {}
    for number in read.whole:
        if number.operation in ADDING:
            groups.setdefault((number.value, number.file, number.line), []).append(number)
    for (value, file, line), group in groups.items():
        for other in (value + 1, value - 1):
            changes: dict[Any, Any] = {("number", n.path, n.operand): lambda _, other=other: int(other) for n in group}
            yield Hypothesis(
                "jax", "index", f"the jax side has {value:g}{{at}}", f"{other:g} in its place", f"{other:g} in the place of {value:g}",
                _where(file, line), changes,
                None, 2, "off by one",
            )  # fmt: skip


def of_stops(read: Any) -> Iterator[Hypothesis]:
    """Each stop_gradient left out, then all of one line."""
    lines: dict[Any, list[Any]] = {}
    for stop in read.stops:
        lines.setdefault((stop.file, stop.line), []).append(stop)
    for (file, line), group in lines.items():
        changes: dict[Any, Any] = {("step", stop.path): _first for stop in group}
        yield Hypothesis(
            "jax", "detach", "the jax side stops the gradient{at}", "no stop_gradient there", "x in the place of jax.lax.stop_gradient(x)",
            _where(file, line),
            changes, None, 0, "cut",
        )  # fmt: skip


def _first(*inputs: Any) -> Any:
    return inputs[0]


def of_casts(read: Any) -> Iterator[Hypothesis]:
    """Every cast to a narrower float left out."""
    casts = {cast.operation: _where(cast.file, cast.line) or "?" for cast in reversed(read.casts)}
    if casts:
        listed = " and ".join(f"{dtype}{f' at {line}' if line != '?' else ''}" for dtype, line in casts.items())
        yield Hypothesis(
            "jax", "cast", f"the jax side casts to {listed}", "no such cast", f"no cast to {' or '.join(casts)}",
            next(iter(casts.values())), {WIDE: _first}, None, 0,
            f"cast to {next(iter(casts))}",
        )  # fmt: skip


def of_functions(read: Any) -> Iterator[Hypothesis]:
    """Another function in the place of an activation that the jax side calls."""
    from pytest_dlparity.frameworks import jax_repair

    groups: dict[tuple[str, str], list[Any]] = {}
    for called in read.called:
        own = _own(called, read)
        if own:
            groups.setdefault((called.name, own), []).append(called)
    for (name, own), group in groups.items():
        for other, (title, function, line) in FUNCTIONS.items():
            if other != own:
                changes = {("step", path): step for path, step in jax_repair.instead(group, function).steps.items()}
                gelu = {own, other} == {"erf gelu", "tanh gelu"}
                place = ", ".join(dict.fromkeys(_where(c.file, c.line) for c in group))
                yield Hypothesis(
                    "jax", "activation", f"jax.nn.{name}(x){{at}} is {FUNCTIONS[own][0]}",
                    f"approximate={other == 'tanh gelu'}" if gelu else f"{title} in its place",
                    line, place, dict(changes), None, 0 if gelu else 1, f"activation {own}",
                )  # fmt: skip


def _own(called: Any, read: Any) -> str:
    if called.name == "gelu":
        inside = {n.value for n in read.numbers if n.path in called.equations}
        return "tanh gelu" if 0.044715 in inside else "erf gelu"
    return OWN.get(called.name, "")


def holds(read: Any, value: float) -> str:
    """The one line of the user's on which the jax side has this number, "" where it is none or several.

    A number that a repair found on the torch side is said to stand there.
    """
    lines = {_where(n.file, n.line) for n in read.numbers if n.file and value and np.isclose(n.value, value, rtol=1e-9, atol=0.0)}
    return lines.pop() if len(lines) == 1 else ""
