"""What jax computed as source: an operation as a line, and a traced function as its lines, in the words of jax.numpy and jax.lax."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import DropVar, Literal

from pytest_dlparity.frameworks import jax_eager
from pytest_dlparity.frameworks.jax_rounding import INLINED, closed

Size = Callable[[Sequence[int]], tuple[int, ...]]
HEADER = "import jax\nimport jax.numpy as jnp\nfrom jax import lax\n"
CALLBACKS = frozenset("pure_callback io_callback debug_callback pallas_call custom_call ffi_call".split())


class NoSource(ValueError):
    """An operation has no public function that computes it. The message names it."""


def as_it_is(shape: Sequence[int]) -> tuple[int, ...]:
    """The lengths of an operation that is not made smaller."""
    return tuple(int(n) for n in shape)


@dataclass(frozen=True)
class Equation:
    """One operation to be written."""

    name: str
    params: dict[str, Any]
    names: list[str]  # of its operands: a number is its own name
    shapes: list[tuple[int, ...]]
    dtypes: list[Any]
    numbers: list[bool]  # which operands are numbers
    result: int = 0  # which of its results is wanted
    wide: bool = True  # a float64 run: narrower floats are not asked for
    size: Size = as_it_is  # what becomes of the lengths that are written into it

    def __getitem__(self, name: str) -> Any:
        return self.params[name]

    @property
    def x(self) -> str:
        return self.names[0]

    @property
    def array(self) -> str:
        """The first operand, an array where all of them are numbers."""
        return f'jnp.asarray({self.x}, "{self.dtype(self.dtypes[0])}")' if all(self.numbers) else self.x

    def dtype(self, dtype: Any) -> str:
        """The name of a dtype as this equation asks for it.

        Raises:
            NoSource: it is that of a typed key.
        """
        try:
            found = np.dtype(dtype)
        except TypeError:
            raise NoSource(f"{self.name} of {dtype}") from None
        if not self.wide:
            return str(found)
        return "complex128" if found == np.complex64 else "float64" if jax_eager.is_narrow(found) else str(found)


def text(equation: Equation) -> str:
    """A right hand side.

    Raises:
        NoSource: there is no public function for it.

    >>> text(Equation("integer_pow", {"y": 2}, ["x"], [(3,)], ["float64"], [False]))
    'x ** 2'
    >>> text(Equation("broadcast_in_dim", {"shape": (2, 3), "broadcast_dimensions": ()}, ["-jnp.inf"], [()], ["float64"], [True]))
    'jnp.full((2, 3), -jnp.inf, "float64")'
    >>> text(Equation("my_kernel", {}, ["x"], [(3,)], ["float64"], [False]))
    Traceback (most recent call last):
    pytest_dlparity.frameworks.jax_source.NoSource: jax's my_kernel has no source of its own
    """
    write = _TEXT.get(equation.name)
    made = write(equation) if write else None
    if made is None:
        raise NoSource(f"jax's {equation.name} has no source of its own")
    return f"{made}[{equation.result}]" if equation.name in _SEVERAL else made


def _aval(atom: Any) -> Any:
    return atom.aval


def _numpy(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if jax_eager.is_narrow(array.dtype) else array


def literal(value: Any) -> str:
    """A number as Python writes it.

    >>> literal(np.float64(-np.inf)), literal(np.array(1e-05)), literal(np.True_), literal(np.int32(3)), literal(float("nan"))
    ('-jnp.inf', '1e-05', 'True', '3', 'jnp.nan')
    """
    plain = np.asarray(value).item()
    if isinstance(plain, float) and not math.isfinite(plain):
        return "jnp.nan" if plain != plain else "jnp.inf" if plain > 0 else "-jnp.inf"
    return repr(plain)


def results(source: str, function: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a function of a piece of source gives: one array, or several. Run it in the settings of the dtype."""
    space: dict[str, Any] = {"jax": jax, "jnp": jnp, "lax": lax}
    exec(compile(source, "<reproducer>", "exec"), space)
    cheap = jax.jit(space[function], compiler_options={"xla_backend_optimization_level": 0})  # it runs once
    found = cheap(*map(jnp.asarray, arrays))
    return [_numpy(part) for part in (found if isinstance(found, tuple) else (found,))]


# ---------------------------------------------------------------- a traced function


class Program(NamedTuple):
    """A traced function as the lines of a function of arrays that returns a tuple."""

    lines: list[str]
    takes: list[int]  # which of the flat arguments, in this order; the constants come after them
    constants: dict[str, np.ndarray]  # arrays that it closes over


def program(traced: Any, name: str, wanted: Sequence[int]) -> Program:
    """What leads to the wanted results of a traced function, in the dtypes in which it was traced. Calls are opened, loops stay loops.

    Raises:
        NoSource: it has an operation without a public function.
    """
    writer, jaxpr = _Writer(), traced.jaxpr.jaxpr
    known = {var: writer.fresh() for var in jaxpr.invars}
    lines = writer.body(jaxpr, traced.jaxpr.consts, known, wanted)
    used = set(re.findall(r"\w+", " ".join(lines)))
    takes = [at for at, var in enumerate(jaxpr.invars) if known[var] in used]
    arguments = [*(known[jaxpr.invars[at]] for at in takes), *writer.constants]
    return Program([f"def {name}({', '.join(arguments)}):", *(f"    {line}" for line in lines)], takes, writer.constants)


class _Writer:
    """Writes a jaxpr. `constants`: arrays that it closes over, by the name under which the source reads them."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.constants: dict[str, np.ndarray] = {}

    def function(self, name: str, jaxpr: Any, consts: Sequence[Any], fixed: Sequence[str] = ()) -> list[str]:
        free = jaxpr.invars[len(fixed) :]
        arguments = [self.fresh() for _ in free]
        known = dict(zip(jaxpr.invars, [*fixed, *arguments], strict=True))
        return [f"def {name}({', '.join(arguments)}):", *("    " + line for line in self.body(jaxpr, consts, known))]

    def fresh(self) -> str:
        return f"v{next(self.numbers)}"

    def body(self, jaxpr: Any, consts: Sequence[Any], known: dict[Any, str], wanted: Sequence[int] | None = None) -> list[str]:
        results = jaxpr.outvars if wanted is None else [jaxpr.outvars[at] for at in wanted]
        lines = list(self.lines(jaxpr, consts, known, results))
        results = [self.read(atom, known) for atom in results]
        return [*lines, f"return ({', '.join(results)}{',' if len(results) == 1 else ''})"]

    def read(self, atom: Any, known: dict[Any, str]) -> str:
        return f'jnp.asarray({literal(atom.val)}, "{_aval(atom).dtype}")' if isinstance(atom, Literal) else known[atom]

    def lines(self, jaxpr: Any, consts: Sequence[Any], known: dict[Any, str], results: Sequence[Any]) -> Iterator[str]:
        needed = {atom for atom in results if not isinstance(atom, Literal)}
        equations = []
        for equation in reversed(jaxpr.eqns):
            if needed.intersection(equation.outvars):
                equations.append(equation)
                needed |= {atom for atom in equation.invars if not isinstance(atom, Literal)}
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            if var in needed:
                known[var] = self.constant(const)
        for equation in reversed(equations):
            yield from self.equation(equation, known)

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        if array.shape == ():
            return f'jnp.asarray({literal(array)}, "{array.dtype}")'
        name = f"constant{len(self.constants)}"
        self.constants[name] = array.astype(np.float64) if jax_eager.is_narrow(array.dtype) and array.dtype.itemsize == 2 else array
        return name

    def equation(self, equation: Any, known: dict[Any, str]) -> Iterator[str]:
        name, params = equation.primitive.name, equation.params
        given = [self.read(atom, known) for atom in equation.invars]
        if name in INLINED and (inner := closed(params)) is not None:
            jaxpr, consts = inner
            held = dict(zip(jaxpr.invars, given, strict=True))
            yield from self.lines(jaxpr, consts, held, jaxpr.outvars)
            known.update((var, self.read(atom, held)) for var, atom in zip(equation.outvars, jaxpr.outvars, strict=True))
            return
        loop = getattr(self, f"_{name}", None)
        if loop is not None:
            results = [self.fresh() for _ in equation.outvars]
            yield from loop(params, given, results)
            known.update(zip(equation.outvars, results, strict=True))
            return
        for number, var in enumerate(equation.outvars):
            if isinstance(var, DropVar):
                continue
            right = text(self.described(equation, known, number))
            if right.isidentifier():
                known[var] = right
            else:
                known[var] = self.fresh()
                yield f"{known[var]} = {right}"

    def described(self, equation: Any, known: dict[Any, str], number: int) -> Equation:
        literals = [isinstance(atom, Literal) and _aval(atom).shape == () for atom in equation.invars]
        names = [literal(atom.val) if plain else self.read(atom, known) for atom, plain in zip(equation.invars, literals, strict=True)]
        avals = [atom.aval for atom in equation.invars]
        return Equation(
            equation.primitive.name,
            equation.params,
            names,
            [a.shape for a in avals],
            [a.dtype for a in avals],
            literals,
            number,
            wide=False,
        )

    def _scan(self, params: dict[str, Any], given: list[str], results: list[str]) -> Iterator[str]:
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        body, inner, step = params["jaxpr"], self.fresh(), self.fresh()
        yield from self.function(inner, body.jaxpr, body.consts, given[:first])
        carried = last - first
        yield f"def {step}(carried, row):"
        yield f"    found = {inner}(*carried, *row)"
        yield f"    return found[:{carried}], found[{carried}:]"
        options = f"length={params['length']}" + (", reverse=True" if params["reverse"] else "")
        start, rows = (f"({', '.join(part)}{',' if len(part) == 1 else ''})" for part in (given[first:last], given[last:]))
        held = self.fresh()
        yield f"{held} = lax.scan({step}, {start}, {rows}, {options})"
        yield f"{', '.join(results)}{',' if len(results) == 1 else ''} = (*{held}[0], *{held}[1])"

    def _while(self, params: dict[str, Any], given: list[str], results: list[str]) -> Iterator[str]:
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        test, body, more, step = params["cond_jaxpr"], params["body_jaxpr"], self.fresh(), self.fresh()
        yield from self.function(more, test.jaxpr, test.consts, given[:first])
        yield from self.function(step, body.jaxpr, body.consts, given[first:last])
        start = f"({', '.join(given[last:])},)"
        yield f"{', '.join(results)}, = lax.while_loop(lambda held: {more}(*held)[0], lambda held: {step}(*held), {start})"

    def _cond(self, params: dict[str, Any], given: list[str], results: list[str]) -> Iterator[str]:
        names = []
        for branch in params["branches"]:
            names.append(self.fresh())
            yield from self.function(names[-1], branch.jaxpr, branch.consts)
        yield f"{', '.join(results)}, = lax.switch({given[0]}, [{', '.join(names)}], {', '.join(given[1:])})"


# ---------------------------------------------------------------- words

Write = Callable[[Equation], str | None]


def _infix(sign: str) -> Write:
    return lambda e: f"{e.array} {sign} {e.names[1]}"


def _prefix(sign: str) -> Write:
    return lambda e: f"{sign}{e.array}"


def _call(name: str) -> Write:
    return lambda e: f"{name}({', '.join([e.array, *e.names[1:]])})"


def _tuple(values: Sequence[Any]) -> str:
    return repr(tuple(int(v) for v in values))


def _pairs(values: Sequence[Sequence[Any]]) -> str:
    return f"[{', '.join(map(_tuple, values))}]"


def _axes(values: Sequence[int]) -> str:
    return str(int(values[0])) if len(values) == 1 else _tuple(values)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")


def _divided(e: Equation) -> str:
    return (
        f"{e.array} / {e.names[1]}" if np.issubdtype(np.dtype(e.dtypes[0]), np.inexact) or _is_half(e) else f"lax.div({', '.join(e.names)})"
    )


def _is_half(e: Equation) -> bool:
    return bool(jnp.issubdtype(e.dtypes[0], jnp.inexact))


def _power(e: Equation) -> str:
    return f"{e.array} ** {int(e['y'])}" if int(e["y"]) >= 0 else f"{e.array} ** ({int(e['y'])})"


def _reduced(name: str) -> Write:
    return lambda e: f"{name}({e.array}, axis={_axes(e['axes'])})" if len(e["axes"]) else e.x


def _summed(name: str) -> Write:
    return lambda e: f'{name}({e.array}, axis={_axes(e["axes"])}, dtype="{e.dtype(e.dtypes[0])}")' if len(e["axes"]) else e.x


def _position(name: str) -> Write:
    return lambda e: f'{name}({e.x}, axis={_axes(e["axes"])}).astype("{e.dtype(e["index_dtype"])}")'


def _running(name: str) -> Write:
    return lambda e: f"{name}({e.x}, axis={int(e['axis'])}{', reverse=True' if e['reverse'] else ''})"


def _passed(e: Equation) -> str | None:
    if len(e.names) != 1:
        return e.names[e.result]
    if e.name == "reduce_precision" and not e.wide:
        return f"lax.reduce_precision({e.x}, {int(e['exponent_bits'])}, {int(e['mantissa_bits'])})"
    return e.array


def _broadcast(e: Equation) -> str | None:
    if len(e.names) != 1:
        return None
    to, at = e.size(e["shape"]), tuple(e["broadcast_dimensions"])
    if e.numbers[0]:
        return f'jnp.full({_tuple(to)}, {e.x}, "{e.dtype(e.dtypes[0])}")'
    if math.prod(e.shapes[0]) == math.prod(e["shape"]) and sorted(at) == list(at):
        added = [axis for axis in range(len(to)) if axis not in at]
        return f"jnp.expand_dims({e.x}, {_axes(added)})" if added else e.x
    if at == tuple(range(len(to) - len(at), len(to))):
        return f"jnp.broadcast_to({e.x}, {_tuple(to)})"
    return f"lax.broadcast_in_dim({e.x}, {_tuple(to)}, {_tuple(at)})"


def _reshaped(e: Equation) -> str | None:
    if len(e.names) != 1:
        return None
    order = e.params.get("dimensions")
    moved = e.array if order is None or tuple(order) == tuple(range(len(e.shapes[0]))) else f"{e.array}.transpose({_tuple(order)})"
    return f"{moved}.reshape({_tuple(e.size(e['new_sizes']))})"


def _sliced(e: Equation) -> str:
    strides, ends = e["strides"] or (1,) * len(e.shapes[0]), e.size(e["limit_indices"])
    parts = []
    for start, stop, step, length, now in zip(e["start_indices"], e["limit_indices"], strides, e.shapes[0], ends, strict=True):
        parts.append(f"{int(start) or ''}:{'' if stop == length else int(now)}" + (f":{int(step)}" if step != 1 else ""))
    return f"{e.x}[{', '.join(parts)}]"


def _dynamically_sliced(e: Equation) -> str:
    return f"lax.dynamic_slice({e.x}, ({_listed(e.names[1:])}), {_tuple(e.size(e['slice_sizes']))})"


def _updated(e: Equation) -> str:
    return f"lax.dynamic_update_slice({e.x}, {e.names[1]}, ({_listed(e.names[2:])}))"


def _padded(e: Equation) -> str:
    return f"lax.pad({e.x}, jnp.asarray({e.names[1]}, {e.x}.dtype), {_pairs(e['padding_config'])})"


def _selected(e: Equation) -> str | None:
    return f"jnp.where({e.x}, {e.names[2]}, {e.names[1]})" if len(e.names) == 3 and np.dtype(e.dtypes[0]) == bool else None


def _converted(e: Equation) -> str:
    dtype = e.dtype(e["new_dtype"])
    if e.numbers[0]:
        return f'jnp.asarray({e.x}, "{dtype}")'
    return e.x if dtype == e.dtype(e.dtypes[0]) else f'{e.x}.astype("{dtype}")'


def _iota(e: Equation) -> str | None:
    if e.names:
        return None
    shape, dtype = e.size(e["shape"]), e.dtype(e["dtype"])
    if len(shape) == 1:
        return f'jnp.arange({shape[0]}, dtype="{dtype}")'
    return f'lax.broadcasted_iota("{dtype}", {_tuple(shape)}, {int(e["dimension"])})'


def _product(e: Equation) -> str:
    (a_sum, b_sum), (a_batch, b_batch) = e["dimension_numbers"]
    asked = e.params.get("preferred_element_type")
    dtype = "" if e.wide or asked is None or asked == e.dtypes[0] else f', preferred_element_type="{e.dtype(asked)}"'
    batch, ranks = len(a_batch), [len(shape) for shape in e.shapes]
    leading = tuple(range(batch)) == tuple(a_batch) == tuple(b_batch) and tuple(a_sum) == (ranks[0] - 1,) and not dtype
    if leading and ranks[1] == batch + 2 and (ranks[0] == batch + 2 or not batch):
        if tuple(b_sum) == (batch,):
            return f"{e.x} @ {e.names[1]}"
        return f"{e.x} @ {e.names[1]}.T" if not batch else f"{e.x} @ jnp.swapaxes({e.names[1]}, -1, -2)"
    if leading and ranks[1] == 1 and not batch:
        return f"{e.x} @ {e.names[1]}"
    numbers = f"(({_tuple(a_sum)}, {_tuple(b_sum)}), ({_tuple(a_batch)}, {_tuple(b_batch)}))"
    return f"lax.dot_general({e.x}, {e.names[1]}, {numbers}{dtype})"


def _convolved(e: Equation) -> str:
    parts = [e.x, e.names[1], _tuple(e["window_strides"]), _pairs(e["padding"])]
    parts += [f"{name}={_tuple(e[name])}" for name in ("lhs_dilation", "rhs_dilation") if any(n != 1 for n in e[name])]
    parts.append(f"dimension_numbers={_layouts(e['dimension_numbers'])}")
    parts += [f"{name}={int(e[name])}" for name in ("feature_group_count", "batch_group_count") if e[name] != 1]
    return f"lax.conv_general_dilated({', '.join(parts)})"


def _layouts(numbers: Any) -> str:
    """("NHWC", "HWIO", "NHWC"): where the batch, feature and spatial axes are."""
    names = []
    for spec, first in zip((numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec), ("NC", "OI", "NC"), strict=True):
        letters = dict(zip(spec, first + ("DHW" if len(spec) == 5 else "HW"), strict=False))
        names.append("".join(letters[axis] for axis in range(len(spec))))
    return repr(tuple(names))


def _windows(computation: str, start: str) -> Write:
    def write(e: Equation) -> str:
        parts = [e.x, start, computation, _tuple(e["window_dimensions"]), _tuple(e["window_strides"]), _pairs(e["padding"])]
        parts += [f"{name}={_tuple(e[name])}" for name in ("base_dilation", "window_dilation") if any(n != 1 for n in e[name])]
        return f"lax.reduce_window({', '.join(parts)})"

    return write


def _scattered_back(e: Equation) -> str | None:
    """The gradient of max pooling: its cotangent goes where the maximum was."""
    if "ge" not in str(e["select_prim"]):
        return None
    windows = f"{_tuple(e['window_dimensions'])}, {_tuple(e['window_strides'])}, {_pairs(e['padding'])}"
    return f"jax.vjp(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, {windows}), {e.names[1]})[1]({e.x})[0]"


def _gathered(e: Equation) -> str:
    numbers, mode = e["dimension_numbers"], _mode(e["mode"])
    filled = f", fill_value={literal(e['fill_value'])}" if e["fill_value"] is not None else ""
    return f"lax.gather({e.x}, {e.names[1]}, {_numbers('Gather', numbers)}, {_tuple(e.size(e['slice_sizes']))}, mode={mode}{filled})"


def _numbers(kind: str, numbers: Any) -> str:
    written = ", ".join(f"{name}={_tuple(value)}" for name, value in numbers._asdict().items() if value or "batching" not in name)
    return f"lax.{kind}DimensionNumbers({written})"


def _mode(mode: Any) -> str:
    name = str(mode).rpartition(".")[2].lower()
    return '"promise_in_bounds"' if "promise" in name else '"clip"' if "clip" in name else '"fill"'


def _scattered(name: str) -> Write:
    return lambda e: f"lax.{name}({', '.join(e.names)}, {_numbers('Scatter', e['dimension_numbers'])}, mode={_mode(e['mode'])})"


def _sorted(e: Equation) -> str:
    operands = f"({_listed(e.names)})"
    stable = "" if e["is_stable"] else ", is_stable=False"
    return f"lax.sort({operands}, dimension={int(e['dimension'])}{stable}, num_keys={int(e['num_keys'])})"


def _top(e: Equation) -> str | None:
    last = len(e.shapes[0]) - 1
    return f"lax.top_k({e.x}, {int(e['k'])})" if e.params.get("axis", last) == last else None


def _rounded(e: Equation) -> str:
    return f"jnp.round({e.x})" if int(e["rounding_method"]) == 1 else f"lax.round({e.x}, lax.RoundingMethod.AWAY_FROM_ZERO)"


def _tiled(e: Equation) -> str | None:
    return f"jnp.tile({e.x}, {_tuple(e['reps'])})" if "reps" in e.params else None


_SEVERAL = frozenset(("sort", "split", "top_k"))
_NAMED = {
    "max": "jnp.maximum", "min": "jnp.minimum", "pow": "jnp.power", "rem": "lax.rem", "atan2": "jnp.arctan2", "erf": "lax.erf", "erfc": "lax.erfc",
    "erf_inv": "lax.erf_inv", "rsqrt": "lax.rsqrt", "logistic": "lax.logistic", "lgamma": "lax.lgamma", "digamma": "lax.digamma",
    "is_finite": "jnp.isfinite", "clamp": "lax.clamp", "complex": "lax.complex", "real": "jnp.real", "imag": "jnp.imag", "conj": "jnp.conj",
    "asin": "jnp.arcsin", "acos": "jnp.arccos", "atan": "jnp.arctan", "asinh": "jnp.arcsinh", "acosh": "jnp.arccosh", "atanh": "jnp.arctanh",
    **{name: f"jnp.{name}" for name in "exp exp2 expm1 log log1p sin cos tan sinh cosh tanh sqrt cbrt floor ceil abs sign square".split()},
}  # fmt: skip
_SIGNS = {
    "add": "+", "add_any": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&",
    "or": "|", "xor": "^",
}  # fmt: skip
_TEXT: dict[str, Write] = {
    **{name: _call(function) for name, function in _NAMED.items()},
    **{name: _infix(sign) for name, sign in _SIGNS.items()},
    **dict.fromkeys(jax_eager.PASSING, _passed),
    **{name: _running(f"lax.{name}") for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")},
    "neg": _prefix("-"), "not": _prefix("~"), "div": _divided, "integer_pow": _power, "round": _rounded,
    "reduce_sum": _summed("jnp.sum"), "reduce_prod": _summed("jnp.prod"), "reduce_max": _reduced("jnp.max"), "reduce_min": _reduced("jnp.min"),
    "reduce_and": _reduced("jnp.all"), "reduce_or": _reduced("jnp.any"), "argmax": _position("jnp.argmax"), "argmin": _position("jnp.argmin"),
    "broadcast_in_dim": _broadcast, "reshape": _reshaped, "slice": _sliced, "dynamic_slice": _dynamically_sliced,
    "transpose": lambda e: f"{e.x}.transpose({_tuple(e['permutation'])})",
    "squeeze": lambda e: f"jnp.squeeze({e.x}, {_axes(e['dimensions'])})",
    "expand_dims": lambda e: f"jnp.expand_dims({e.x}, {_axes(e['dimensions'])})",
    "rev": lambda e: f"jnp.flip({e.x}, {_axes(e['dimensions'])})",
    "concatenate": lambda e: f"jnp.concatenate([{', '.join(e.names)}], axis={int(e['dimension'])})",
    "stack": lambda e: f"jnp.stack([{', '.join(e.names)}], axis={int(e.params.get('axis', 0))})",
    "tile": _tiled, "dynamic_update_slice": _updated, "pad": _padded, "select_n": _selected, "convert_element_type": _converted, "iota": _iota,
    "dot_general": _product, "conv_general_dilated": _convolved,
    "reduce_window_max": _windows("lax.max", "-jnp.inf"), "reduce_window_min": _windows("lax.min", "jnp.inf"),
    "reduce_window_sum": _windows("lax.add", "0.0"), "select_and_scatter_add": _scattered_back,
    "gather": _gathered, "scatter": _scattered("scatter"), "scatter-add": _scattered("scatter_add"), "scatter-mul": _scattered("scatter_mul"),
    "scatter-min": _scattered("scatter_min"), "scatter-max": _scattered("scatter_max"),
    "sort": _sorted, "split": lambda e: f"lax.split({e.x}, {_tuple(e.size(e['sizes']))}, axis={int(e['axis'])})", "top_k": _top,
    "scan_slice": lambda e: f"{e.x}[{int(e['index'])}]",
    "scan_stack": lambda e: f"jnp.stack([{', '.join(e.names)}])",
}  # fmt: skip
