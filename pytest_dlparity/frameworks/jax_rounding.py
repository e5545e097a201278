"""Monte Carlo arithmetic on a traced jax function: every primitive's result moved by one rounding (Parker 1997)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

# Results that need no rounding: moved, chosen, compared or signed, never computed
EXACT = frozenset(
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice concatenate pad rev gather select_n copy copy_p "
    "iota max min clamp abs neg sign sort argmax argmin reduce_max reduce_min cummax cummin stop_gradient convert_element_type floor ceil round "
    "reduce_precision real imag complex split top_k is_finite select_and_gather_add select_and_scatter_add reduce_window_max device_put "
    "optimization_barrier scatter".split()
)
INLINED = frozenset(
    "pjit jit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr custom_lin named_call".split()
)


class Rounder:
    """(key, u, *flat arguments) -> flat results of a closed jaxpr in which every argument and every result is moved by x (1 +- u).

    Called as it is, it runs operation by operation: XLA compiles each kind of operation once, and loops whole. It may be compiled, too.
    """

    def __init__(self, closed: Any) -> None:
        self.closed = closed
        self.loops: dict[int, Callable[..., list[Any]]] = {}

    def __call__(self, key: Any, roundoff: Any, *args: Any) -> list[Any]:
        moved = [_moved(_child(key, index), arg, roundoff) for index, arg in enumerate(args)]
        return self._run(self.closed.jaxpr, self.closed.consts, moved, _child(key, len(args)), roundoff)

    def _run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], key: Any, roundoff: Any) -> list[Any]:
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jax.extend.core.Literal) else known[atom]

        for index, equation in enumerate(jaxpr.eqns):
            inputs = [read(atom) for atom in equation.invars]
            results = self._result(equation, inputs, _child(key, index), roundoff)
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _result(self, equation: Any, inputs: list[Any], key: Any, roundoff: Any) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name in INLINED and (inner := closed(params)) is not None:
            return self._run(*inner, inputs, key, roundoff)
        if name in ("scan", "while", "cond"):
            if id(equation) not in self.loops:
                self.loops[id(equation)] = jax.jit(functools.partial(getattr(self, f"_{name}"), params))
            return self.loops[id(equation)](key, roundoff, *inputs)
        results = equation.primitive.bind(*inputs, **params)
        results = list(results) if equation.primitive.multiple_results else [results]
        if name in EXACT:
            return results
        if name == "reduce_sum":
            results = [_summed(_child(key, len(results)), inputs[0], results[0], tuple(params["axes"]), roundoff)]
        return [_moved(_child(key, index), value, roundoff) for index, value in enumerate(results)]

    def _scan(self, params: dict[str, Any], key: Any, roundoff: Any, *inputs: Any) -> list[Any]:
        consts, carried = params["num_consts"], params["num_carry"]
        fixed, start, rows = inputs[:consts], list(inputs[consts : consts + carried]), list(inputs[consts + carried :])
        body = params["jaxpr"]

        def step(state: tuple[Any, list[Any]], row: list[Any]) -> tuple[Any, list[Any]]:
            at, held = state
            results = self._run(body.jaxpr, body.consts, [*fixed, *held, *row], _child(key, at), roundoff)
            return (at + 1, results[:carried]), results[carried:]

        (_, held), out = jax.lax.scan(step, (jnp.int32(0), start), rows, length=params["length"], reverse=params["reverse"])
        return [*held, *out]

    def _while(self, params: dict[str, Any], key: Any, roundoff: Any, *inputs: Any) -> list[Any]:
        tests, steps = params["cond_nconsts"], params["body_nconsts"]
        of_test, of_step, start = inputs[:tests], inputs[tests : tests + steps], list(inputs[tests + steps :])
        test, body = params["cond_jaxpr"], params["body_jaxpr"]

        def more(state: tuple[Any, list[Any]]) -> Any:
            return jax.extend.core.jaxpr_as_fun(test)(*of_test, *state[1])[0]

        def step(state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
            at, held = state
            return at + 1, self._run(body.jaxpr, body.consts, [*of_step, *held], _child(key, at), roundoff)

        return list(jax.lax.while_loop(more, step, (jnp.int32(0), start))[1])

    def _cond(self, params: dict[str, Any], key: Any, roundoff: Any, *inputs: Any) -> list[Any]:
        branches = [functools.partial(self._branch, branch, key, roundoff) for branch in params["branches"]]
        return list(jax.lax.switch(inputs[0], branches, *inputs[1:]))

    def _branch(self, branch: Any, key: Any, roundoff: Any, *inputs: Any) -> list[Any]:
        return self._run(branch.jaxpr, branch.consts, inputs, key, roundoff)


def key(seed: int) -> Any:
    """What the signs of one run are made from: a uint64, not a jax key. XLA generates random bits too slowly for one draw an operation."""
    return np.uint64(seed)


def _child(key: Any, index: Any) -> Any:
    """Another key for each index: an operation in a program, an iteration of a loop. Odd factors, so that no two of a program are the same."""
    return key * jnp.uint64(0xD1342543DE82EF95) + (jnp.asarray(index).astype(jnp.uint64) + jnp.uint64(1)) * jnp.uint64(0x9E3779B97F4A7C15)


@jax.jit
def _moved(key: Any, value: Any, roundoff: Any) -> Any:
    """A result moved by one rounding. The sign hangs on the value: equal numbers round alike, so ties stay ties.

    The sign is the first bit of a hash, the 64-bit finaliser of MurmurHash3 (Appleby 2008).
    """
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return value
    if jnp.iscomplexobj(value):
        return jax.lax.complex(_moved(key, jnp.real(value), roundoff), _moved(_child(key, 0), jnp.imag(value), roundoff))
    factor = jnp.where(_is_up(key, value), 1 + roundoff, 1 - roundoff)
    # inside a loop XLA would fuse, and so repeat, each operation's signs into all that follow
    return jax.lax.optimization_barrier(value * factor.astype(value.dtype))


def _is_up(key: Any, value: Any) -> Any:
    """Of each number, whether it is rounded up."""
    bits = jax.lax.bitcast_convert_type(value.astype(jnp.float64), jnp.uint64) ^ key
    bits = (bits ^ (bits >> 33)) * jnp.uint64(0xFF51AFD7ED558CCD)
    bits = (bits ^ (bits >> 33)) * jnp.uint64(0xC4CEB9FE1A85EC53)
    return bits >> 63 == 1


@functools.partial(jax.jit, static_argnums=3)
def _summed(key: Any, terms: Any, total: Any, axes: tuple[int, ...], roundoff: Any) -> Any:
    """A sum whose partial sums were rounded one after the other, as XLA sums half precision on a CPU (a bias's gradient).

    n - 1 roundings of the partial sums S_k make an error of u sqrt(sum S_k^2) (Higham 2002, section 4.2). In any order that is on average
    u sqrt((n - 1) (S^2 / 3 + sum x^2 / 6)): a random walk that is known to end at S.
    """
    count = math.prod(terms.shape[axis] for axis in axes)
    if count < 3 or not jnp.issubdtype(jnp.result_type(total), jnp.inexact):
        return total
    if jnp.iscomplexobj(total):
        parts = (jnp.real, jnp.imag)
        return jax.lax.complex(*(_summed(_child(key, i), part(terms), part(total), axes, roundoff) for i, part in enumerate(parts)))
    size = jnp.sqrt((count - 1) * (jnp.square(total) / 3 + jnp.square(terms).sum(axes) / 6))
    error = roundoff * size.astype(jnp.float64)
    return jax.lax.optimization_barrier(total + jnp.where(_is_up(key, total), error, -error).astype(total.dtype))


def closed(params: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """(jaxpr, constants) of a call, under whichever name the primitive keeps it."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(name)
        if inner is not None:
            return (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
    return None
