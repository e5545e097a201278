"""The operations inside a traced jax function, calls opened, casts and movements passed through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from pytest_dlparity.flow import Step
from pytest_dlparity.frameworks.jax_rounding import INLINED, closed

HALVES = ("bfloat16", "float16")
MOVEMENTS = frozenset(
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice rev copy copy_p stop_gradient concatenate pad gather "
    "optimization_barrier device_put".split()
)


class _Known:
    """What is known of each variable: (number of the value, rounded to half precision by now)."""

    def __init__(self) -> None:
        self.count = 0

    def new(self, rounded: bool) -> tuple[int, bool]:
        self.count += 1
        return self.count, rounded


def steps(traced: Any) -> list[Step]:
    """Every operation on floating arrays, in order."""
    known = _Known()
    inputs = [known.new(_half(var.aval)) for var in (*traced.jaxpr.constvars, *traced.jaxpr.invars)]
    return list(_steps(traced.jaxpr, inputs, known)[0])


def _steps(jaxpr: Any, inputs: Sequence[tuple[int, bool]], known: _Known) -> tuple[list[Step], list[tuple[int, bool]]]:
    at = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))
    found: list[Step] = []

    def read(atom: Any) -> tuple[int, bool]:
        return known.new(_half(atom.aval)) if isinstance(atom, jax.extend.core.Literal) else at[atom]

    for equation in jaxpr.eqns:
        name, reads = equation.primitive.name, [read(atom) for atom in equation.invars]
        inside = closed(equation.params) if name in INLINED else None
        if inside is not None:
            body, consts = inside
            more, made = _steps(body, [*(known.new(_half(jax.typeof(c))) for c in consts), *reads], known)
            found += more
        else:
            made = [_made(equation, reads, var, known) for var in equation.outvars]
            found += [
                Step(name, () if name in MOVEMENTS else tuple(_floating(equation, reads)), number, rounded, line(equation))
                for (number, rounded), var in zip(made, equation.outvars, strict=True)
                if _is_step(equation, var)
            ]
        at.update(zip(equation.outvars, made, strict=True))
    return found, [read(atom) for atom in jaxpr.outvars]


def _floating(equation: Any, reads: Sequence[tuple[int, bool]]) -> Iterator[tuple[int, bool]]:
    for atom, found in zip(equation.invars, reads, strict=True):
        if jnp.issubdtype(atom.aval.dtype, jnp.floating) and atom.aval.shape != ():
            yield found


def _made(equation: Any, reads: Sequence[tuple[int, bool]], var: Any, known: _Known) -> tuple[int, bool]:
    half = _half(var.aval)
    if _passes(equation):
        return reads[0][0], reads[0][1] or half
    return known.new(half or (equation.primitive.name in MOVEMENTS and any(rounded for _, rounded in reads)))


def _passes(equation: Any) -> bool:
    """Casts and movements of one array hand the value on."""
    name = equation.primitive.name
    arrays = [atom for atom in equation.invars if jnp.issubdtype(atom.aval.dtype, jnp.floating)]
    return name == "convert_element_type" or (name in MOVEMENTS and len(arrays) == 1 and equation.invars[0] is arrays[0])


def _is_step(equation: Any, var: Any) -> bool:
    return not _passes(equation) and jnp.issubdtype(var.aval.dtype, jnp.floating) and var.aval.size > 0


def _half(aval: Any) -> bool:
    return str(getattr(aval, "dtype", "")) in HALVES


def statistics(traced: Any, half: str) -> Callable[..., Any]:
    """(*flat arguments) -> a row for each step: mean, mean |x|, mean x^2, mean x^3, and 1 where half precision cannot hold the value."""

    def run(*args: Any) -> Any:
        rows: list[Any] = []
        _values(traced.jaxpr, traced.consts, args, rows, half)
        return jnp.stack(rows) if rows else jnp.zeros((0, 5))

    return run


def _values(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], rows: list[Any], half: str) -> list[Any]:
    at = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else at[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inside = closed(equation.params) if equation.primitive.name in INLINED else None
        if inside is not None:
            results = _values(*inside, inputs, rows, half)
        else:
            made = equation.primitive.bind(*inputs, **equation.params)
            results = list(made) if equation.primitive.multiple_results else [made]
            rows += [_row(value, half) for value, var in zip(results, equation.outvars, strict=True) if _is_step(equation, var)]
        at.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _row(value: Any, half: str) -> Any:
    wide = value.astype(jnp.float64)
    held = jax.lax.reduce_precision(wide, *{"bfloat16": (8, 7), "float16": (5, 10)}[half])
    return jnp.stack(
        [wide.mean(), jnp.abs(wide).mean(), (wide * wide).mean(), (wide * wide * wide).mean(), jnp.any(held != wide).astype(jnp.float64)]
    )


def line(equation: Any) -> str:
    """file:line of the user's frame behind an equation, "?" where jax keeps none."""
    traceback = getattr(equation.source_info, "traceback", None)
    for frame in traceback.frames if traceback is not None else ():
        path = frame.file_name
        if "site-packages" not in path and "pytest_dlparity" not in path:
            return f"{path.rsplit('/', 1)[-1]}:{frame.line_num}"
    return "?"
