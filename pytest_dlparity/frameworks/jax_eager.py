"""One equation of a jaxpr, computed on the CPU in float64.

What numpy has, numpy computes: jax would compile each operation once for every shape, which for a model of a dozen layers costs several times
the run itself. Both compute in float64; they differ in the last bits. A cast to a narrower float is not done.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal

NARROW = frozenset(("float32", "float16", "bfloat16"))
DTYPES = ("new_dtype", "preferred_element_type", "dtype", "out_dtype")  # parameters in which an equation asks for a dtype
# operations of which a dtype is part of the meaning
BITS = frozenset("bitcast_convert_type nextafter random_bits threefry2x32 rng_bit_generator random_gamma".split())
# each result is its operand
PASSING = frozenset("copy copy_p stop_gradient optimization_barrier reduce_precision device_put name pvary".split())

Values = Sequence[Any]


def is_key(value: Any) -> bool:
    """True for a typed key of jax.random, which numpy cannot hold."""
    return not isinstance(value, np.ndarray) and hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.extended)


def is_narrow(dtype: Any) -> bool:
    """True for a float that a float64 run does without. float8 is none of them: it is a quantisation, which the author means.

    >>> is_narrow(jnp.bfloat16), is_narrow(np.float64), is_narrow(jnp.float8_e4m3fn), is_narrow(np.int32)
    (True, False, False, False)
    """
    return str(np.dtype(dtype)) in NARROW


def wide(value: Any) -> Any:
    """An array as numpy holds it, real and complex floats in double precision; a typed key as it is."""
    if is_key(value):
        return value
    array = np.asarray(value)
    if array.dtype == np.complex64:
        return array.astype(np.complex128)
    return array.astype(np.float64) if is_narrow(array.dtype) else array


def literal(value: Any, dtype: Any) -> np.ndarray:
    """A constant written into an equation, of the dtype that the equation gives it: a float32 number becomes the one that the author wrote.

    >>> literal(np.float32(0.1), np.float32), literal(2, np.int32), literal(0.1, np.float64)
    (array(0.1), array(2, dtype=int32), array(0.1))
    """
    array = np.asarray(value, dtype=dtype)
    return np.asarray(derounded(array.item())) if array.dtype == np.float32 and array.shape == () else np.asarray(wide(array))


def derounded(value: float) -> float:
    """The number of which a float32 is the rounding, where that is certain: a short decimal or a known constant. Else the float32 itself.

    >>> derounded(np.float32(1e-5).item()), derounded(np.float32(math.sqrt(2 / math.pi)).item()), derounded(np.float32(1 / 3).item())
    (1e-05, 0.7978845608028654, 0.3333333333333333)
    >>> derounded(0.12345679104328156) == 0.12345679104328156, derounded(-math.inf), derounded(16777216.0)
    (True, -inf, 16777216.0)
    """
    if not math.isfinite(value) or value == round(value):
        return value
    shortest = str(np.float32(value))
    digits = shortest.lower().partition("e")[0].replace(".", "").replace("-", "").strip("0")
    return float(shortest) if len(digits) <= 6 else _constants().get(value, value)  # 7 digits and more are what any float32 has


@functools.cache
def _constants() -> dict[float, float]:
    """Irrational numbers and fractions that models are written with, by their float32 roundings."""
    found = [math.pi, math.e, 2 * math.pi, math.log(2), math.log(10), math.log(1e4), math.log(2 * math.pi), math.log(2 * math.pi) / 2]
    found += [math.sqrt(math.pi), math.sqrt(2 / math.pi), 2 / math.sqrt(math.pi), 1 / math.sqrt(2 * math.pi), 1 / math.log(2)]
    found += [f(k) for k in range(2, 1025) for f in (math.sqrt, lambda k: 1 / math.sqrt(k), lambda k: 1 / k)]
    return {np.float32(sign * number).item(): sign * number for number in reversed(found) for sign in (1, -1)}


def computed(name: str, primitive: Any, params: dict[str, Any], inputs: Values, declared: Sequence[Any]) -> list[Any]:
    """The results of one equation: numpy arrays, and typed keys as jax holds them.

    Args:
        inputs: arrays as `wide` gives them.
        declared: the dtypes that the equation was traced for.
    """
    if primitive is None:
        return [LOOPS[name](params, *inputs)]
    by_numpy = NUMPY.get(name)
    if by_numpy is not None and all(map(_is_plain, inputs)):
        made = by_numpy(params, *inputs)
        if made is not NotImplemented:
            return [np.asarray(value) for value in (made if isinstance(made, list) else [made])]
    return [wide(value) for value in _by_jax(primitive, params, inputs, declared)]


def _is_plain(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind in "biu" or value.dtype == np.float64)


def _by_jax(primitive: Any, params: dict[str, Any], inputs: Values, declared: Sequence[Any]) -> list[Any]:
    narrow = _as_declared(inputs, declared)
    if primitive not in _of_jax() or primitive.name in BITS:
        return _bound(primitive, params, narrow)
    if all(x is y for x, y in zip(inputs, narrow, strict=True)):
        return _bound(primitive, _widened(params), inputs)
    try:
        return _bound(primitive, {name: _rewritten(value) for name, value in _widened(params).items()}, inputs)
    except (TypeError, ValueError):  # a function among the parameters is typed for the narrow dtype, and more than a line of arithmetic
        return _bound(primitive, params, narrow)


def _rewritten(value: Any) -> Any:
    """A function of numbers among the parameters, what a scatter does with two values say, in float64."""
    jaxpr = getattr(value, "jaxpr", value)
    avals: list[Any] = [var.aval for var in jaxpr.invars] if isinstance(jaxpr, Jaxpr) else []
    if not avals or jaxpr.constvars or any(aval.shape for aval in avals):
        return value
    wide = jax.make_jaxpr(functools.partial(_rerun, jaxpr))(*(np.zeros((), _wide_dtype(aval.dtype)) for aval in avals))
    return wide.jaxpr if value is jaxpr else wide


def _rerun(jaxpr: Any, *args: Any) -> list[Any]:
    known: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        aval = atom.aval
        return literal(atom.val, aval.dtype) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = _bound(equation.primitive, _widened(equation.params), [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _as_declared(inputs: Values, declared: Sequence[Any]) -> list[Any]:
    return [
        x.astype(dtype) if not is_key(x) and x.dtype != dtype and x.dtype.kind in "fc" else x
        for x, dtype in zip(inputs, declared, strict=True)
    ]


@functools.cache
def _of_jax() -> frozenset[Any]:
    """jax's own operations, which compute in whatever dtype they get. A kernel of somebody else's has been written for one."""
    places = (jax.extend.core.primitives, jax.lax, jax.lax.linalg)
    return frozenset(value for place in places for name, value in vars(place).items() if name.endswith("_p"))


def _wide_dtype(dtype: Any) -> Any:
    return np.dtype(np.float64) if _names_narrow(dtype) else dtype


def _widened(params: dict[str, Any]) -> dict[str, Any]:
    narrow = {name: np.dtype(np.float64) for name in DTYPES if params.get(name) is not None and _names_narrow(params[name])}
    return {**params, **narrow} if narrow else params


def _names_narrow(dtype: Any) -> bool:
    try:
        return is_narrow(dtype)
    except TypeError:  # a typed key's, or no dtype at all
        return False


def _bound(primitive: Any, params: dict[str, Any], inputs: Values) -> list[Any]:
    made = primitive.get_bind_params(params)
    functions, rest = made if isinstance(made, tuple) else ((), made)
    results = primitive.bind(*functions, *inputs, **rest)
    return list(results) if primitive.multiple_results else [results]


# ---------------------------------------------------------------- numpy: (parameters, operands) -> result, NotImplemented where it differs


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *inputs: function(*inputs)


def _on_floats(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *inputs: function(*inputs) if all(x.dtype == np.float64 for x in inputs) else NotImplemented


def _convert(params: dict[str, Any], x: np.ndarray) -> Any:
    new = params["new_dtype"]
    if not isinstance(new, np.dtype) and not isinstance(new, type):
        return NotImplemented
    dtype = np.dtype(_wide_dtype(new))
    if dtype.kind not in "biuf" or (x.dtype.kind == "f" and dtype.kind in "iu"):  # out of range it is undefined in numpy
        return NotImplemented
    return x if dtype == x.dtype else x.astype(dtype)


def _power(params: dict[str, Any], x: np.ndarray) -> Any:
    y = params["y"]
    if y < 0 and x.dtype != np.float64:
        return NotImplemented
    found, factor, left = None, x, abs(y)
    while left:  # by squares, as XLA does: numpy's ** is thirty times slower
        if left & 1:
            found = factor if found is None else found * factor
        left >>= 1
        factor = factor * factor if left else factor
    found = np.ones_like(x) if found is None else found
    return 1 / found if y < 0 else found


def _round(params: dict[str, Any], x: np.ndarray) -> Any:
    return np.rint(x) if int(params["rounding_method"]) == 1 else NotImplemented


def _select(params: dict[str, Any], which: np.ndarray, *cases: np.ndarray) -> Any:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool and len(cases) == 2 else NotImplemented


def _reduced(function: np.ufunc) -> Callable[..., Any]:
    def reduce(params: dict[str, Any], x: np.ndarray) -> Any:
        if not params["axes"]:
            return x
        if not x.size and function.identity is None:
            return NotImplemented
        return function.reduce(x, axis=tuple(params["axes"]), dtype=x.dtype)

    return reduce


def _position(function: Callable[..., Any]) -> Callable[..., Any]:
    def position(params: dict[str, Any], x: np.ndarray) -> Any:
        (axis,) = params["axes"]
        return function(x, axis).astype(params["index_dtype"]) if x.size else NotImplemented

    return position


def _running(function: np.ufunc) -> Callable[..., Any]:
    def run(params: dict[str, Any], x: np.ndarray) -> Any:
        turn = (lambda a: np.flip(a, params["axis"])) if params["reverse"] else (lambda a: a)
        return turn(function.accumulate(turn(x), axis=params["axis"], dtype=x.dtype))

    return run


def _iota(params: dict[str, Any], *sizes: Any) -> Any:
    dtype = np.dtype(params["dtype"])
    if sizes or dtype.kind not in "iuf":
        return NotImplemented
    shape, axis = params["shape"], params["dimension"]
    column = np.arange(shape[axis]).astype(wide(np.empty(0, dtype)).dtype)
    return np.broadcast_to(column.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def _reshape(params: dict[str, Any], x: np.ndarray, *sizes: Any) -> Any:
    return NotImplemented if sizes or params.get("dimensions") is not None else x.reshape(params["new_sizes"])


def _broadcast(params: dict[str, Any], x: np.ndarray, *sizes: Any) -> Any:
    if sizes:
        return NotImplemented
    at = dict(zip(params["broadcast_dimensions"], x.shape, strict=True))
    return np.broadcast_to(x.reshape([at.get(i, 1) for i in range(len(params["shape"]))]), params["shape"])


def _slice(params: dict[str, Any], x: np.ndarray) -> Any:
    starts, limits, strides = params["start_indices"], params["limit_indices"], params["strides"] or (1,) * x.ndim
    return _part(x, tuple(slice(*bounds) for bounds in zip(starts, limits, strides, strict=True)))


def _part(x: np.ndarray, where: Any) -> np.ndarray:
    """A copy of some elements: a view would keep all the others alive."""
    part = x[where]
    return part if part.size == x.size else np.array(part)


def _window(x: np.ndarray, starts: Sequence[Any], sizes: Sequence[int]) -> tuple[slice, ...]:
    """As XLA has it: a start is moved until the window lies inside."""
    first = [min(max(int(start), 0), length - size) for start, length, size in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(first, sizes, strict=True))


def _dynamic_slice(params: dict[str, Any], x: np.ndarray, *starts: np.ndarray) -> Any:
    sizes = params["slice_sizes"]
    return _part(x, _window(x, starts, sizes)) if len(starts) == x.ndim else NotImplemented


def _dynamic_update(params: dict[str, Any], x: np.ndarray, update: np.ndarray, *starts: np.ndarray) -> Any:
    made = np.array(x)
    made[_window(x, starts, update.shape)] = update
    return made


def _pad(params: dict[str, Any], x: np.ndarray, value: np.ndarray) -> Any:
    config = params["padding_config"]
    if not x.size or any(low < 0 or high < 0 for low, high, _ in config):
        return NotImplemented
    inner = [(n - 1) * (gap + 1) + 1 for n, (_, _, gap) in zip(x.shape, config, strict=True)]
    made = np.full([low + n + high for n, (low, high, _) in zip(inner, config, strict=True)], value, x.dtype)
    made[tuple(slice(low, low + n, gap + 1) for n, (low, _, gap) in zip(inner, config, strict=True))] = x
    return made


def _split(params: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(params["sizes"])[:-1]
    return [np.array(part) for part in np.split(x, ends, params["axis"])]


def _sort(params: dict[str, Any], *inputs: np.ndarray) -> Any:
    return [np.sort(inputs[0], axis=params["dimension"], kind="stable")] if len(inputs) == 1 else NotImplemented


def _dot(params: dict[str, Any], a: np.ndarray, b: np.ndarray) -> Any:
    (a_sum, b_sum), (a_batch, b_batch) = params["dimension_numbers"]
    a_free = [i for i in range(a.ndim) if i not in (*a_sum, *a_batch)]
    b_free = [i for i in range(b.ndim) if i not in (*b_sum, *b_batch)]
    batch, rows, columns = [a.shape[i] for i in a_batch], [a.shape[i] for i in a_free], [b.shape[i] for i in b_free]
    inner = math.prod(a.shape[i] for i in a_sum)
    count = [math.prod(batch)] if batch else []
    left = a.transpose([*a_batch, *a_free, *a_sum]).reshape([*count, math.prod(rows), inner])
    right = b.transpose([*b_batch, *b_sum, *b_free]).reshape([*count, inner, math.prod(columns)])
    return np.matmul(_dense(left), _dense(right)).reshape([*batch, *rows, *columns])


def _dense(x: np.ndarray) -> np.ndarray:
    """An array that BLAS can take: for others numpy has a loop that is a hundred times slower."""
    return x if x.itemsize in x.strides[-2:] else np.ascontiguousarray(x)


# ---------------------------------------------------------------- loops, which a trace has step by step


def _row(params: dict[str, Any], x: Any) -> Any:
    return x[params["index"]] if is_key(x) else np.asarray(x[params["index"]])


def _rows(params: dict[str, Any], *rows: Any) -> Any:
    return jnp.stack(rows) if is_key(rows[0]) else np.stack(rows)


LOOPS: dict[str, Callable[..., Any]] = {"scan_slice": _row, "scan_stack": _rows}
SAME: dict[str, Callable[..., Any]] = {  # for every dtype
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "max": np.maximum, "min": np.minimum,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "abs": np.abs, "sign": np.sign, "square": np.square,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}  # fmt: skip
FLOATS: dict[str, Callable[..., Any]] = {  # for floats alone
    "div": np.divide, "rem": np.fmod, "pow": np.power, "atan2": np.arctan2, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan, "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh,
    "sqrt": np.sqrt, "cbrt": np.cbrt, "floor": np.floor, "ceil": np.ceil, "is_finite": np.isfinite,
    "rsqrt": lambda x: 1 / np.sqrt(x), "logistic": lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip
NUMPY: dict[str, Callable[..., Any]] = {
    **{name: _plainly(function) for name, function in SAME.items()},
    **{name: _on_floats(function) for name, function in FLOATS.items()},
    **{name: lambda params, *inputs: list(inputs) for name in PASSING},
    "dot_general": lambda params, a, b: _dot(params, a, b) if a.dtype == b.dtype == np.float64 else NotImplemented,
    "convert_element_type": _convert, "integer_pow": _power, "round": _round, "select_n": _select, "iota": _iota,
    "reduce_sum": _reduced(np.add), "reduce_prod": _reduced(np.multiply), "reduce_max": _reduced(np.maximum),
    "reduce_min": _reduced(np.minimum), "reduce_and": _reduced(np.bitwise_and), "reduce_or": _reduced(np.bitwise_or),
    "argmax": _position(np.argmax), "argmin": _position(np.argmin), "cumsum": _running(np.add), "cumprod": _running(np.multiply),
    "cummax": _running(np.maximum), "cummin": _running(np.minimum), "sort": _sort,
    "reshape": _reshape, "broadcast_in_dim": _broadcast, "slice": _slice, "dynamic_slice": _dynamic_slice, "pad": _pad, "split": _split,
    "dynamic_update_slice": _dynamic_update,
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "concatenate": lambda params, *parts: np.concatenate(parts, params["dimension"]),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
}  # fmt: skip
