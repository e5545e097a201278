"""The jax side as calls: values in, named numpy leaves out. Each jax function is compiled once per dtype."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pytest_dlparity import leaves, tolerance
from pytest_dlparity.errors import SpecError
from pytest_dlparity.flow import Step
from pytest_dlparity.frameworks import (
    jax_equinox,
    jax_flow,
    jax_haiku,
    jax_linen,
    jax_nnx,
    jax_optimizers,
    jax_rounding,
    jax_sharing,
    jax_stax,
)
from pytest_dlparity.frameworks.jax_program import Program, batched, first_example, key, open_keys
from pytest_dlparity.job import Job
from pytest_dlparity.sharing import Event
from pytest_dlparity.spec import Vmapped, title

Arrays = dict[str, np.ndarray]
LIBRARIES: tuple[ModuleType, ...] = (jax_nnx, jax_linen, jax_equinox, jax_haiku, jax_stax)
# The reference runs a few times: compiling it costs more than running it, except for what XLA's lowest level runs 30 times slower
# (`python benchmarks/overhead.py --levels`; docs/verdicts.md, "What a check costs").
SLOW_WITHOUT_OPTIMISATION = frozenset(
    {"conv_general_dilated", "reduce_window", "reduce_window_max", "select_and_scatter_add", "reduce_window_sum"}
)
WHOLE = 3000  # equations, with those of calls and loops: up to here a program that rounds everywhere is compiled in one


def program(
    side: Any,
    own: Arrays,
    tree: Any,
    carried: Arrays,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    train: bool | None,
    keyed: bool = False,
) -> Program:
    """The jax side of a spec as pure functions of arrays.

    Args:
        own: the spec's `params`, nested as `tree` (None where the spec has none).
        carried: the torch module's parameters and buffers, which a plain function gets as a flat dict.
        keyed: whether a side that takes a random key and is given none gets one.

    Raises:
        SpecError: the side is none of the kinds that are known, or a module comes with `params`.
    """
    side = _instance(side)
    if isinstance(side, Vmapped):
        inner = program(side.side, own, tree, carried, *first_example(args, kwargs), train, keyed)
        return batched(inner, side.axis_name, keyed)
    for library in LIBRARIES:
        if library.owns(side):
            if tree is not None:
                raise SpecError(
                    f"the jax side is {title(side)}, which has its own parameters. Leave params out, or give a function as the jax side."
                )
            made: Program = library.program(side, args, kwargs, train, keyed)
            return made
    if not callable(side):
        raise SpecError(
            f"the jax side is a {type(side).__name__}. Give a function of arrays, or a module of flax.nnx, flax.linen, equinox, haiku or stax."
        )
    if (args or kwargs) and _takes_nothing(side):
        with settings("float32", "default"):
            built = side()
        return program(built, own, tree, carried, args, kwargs, train, keyed)
    if keyed:
        side = _with_keys(side, args if tree is None and not carried else ({}, *args), kwargs)
    if tree is not None:
        floats = {name: array for name, array in own.items() if tolerance.is_inexact(array)}
        rest = {name: array for name, array in own.items() if name not in floats}
        return Program("function", floats, rest, {}, lambda p, s, a, k: (side(leaves.filled(tree, p | s), *a, **k), s))
    if carried:
        floats = {name: array for name, array in carried.items() if tolerance.is_inexact(array)}
        rest = {name: array for name, array in carried.items() if name not in floats}
        return Program("function", floats, rest, {}, lambda p, s, a, k: (side(p | s, *a, **k), s))
    return Program("function", {}, {}, {}, lambda p, s, a, k: (side(*a, **k), s))


def _instance(side: Any) -> Any:
    """The module of a library's class that needs no arguments; anything else as it is."""
    if not isinstance(side, type) or not {base.__module__.partition(".")[0] for base in side.__mro__} & {"flax", "equinox", "haiku"}:
        return side
    try:
        with settings("float32", "default"):
            return side()
    except TypeError as error:
        raise SpecError(
            f"the jax side is the class {side.__name__}, which is not made without arguments ({error}). Give a module of it, or a function that makes "
            f"one: jax=lambda: {side.__name__}(...)."
        ) from error


def _with_keys(side: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
    names = open_keys(side, args, kwargs)
    return lambda *a, **k: side(*a, **k, **{name: key() for name in names})


def _takes_nothing(side: Any) -> bool:
    try:
        return not inspect.signature(side).parameters
    except (TypeError, ValueError):
        return False


def optimizer(side: Any, params: Arrays) -> Any:
    """The jax side of an optimizer, `init` and `step`.

    Raises:
        SpecError: it is no optimizer that is known.
    """
    if not jax_optimizers.owns(side) and callable(side) and not isinstance(side, tuple) and _takes_nothing(side):
        side = side()
    if not jax_optimizers.owns(side):
        raise SpecError(
            f"the jax side of the optimizer is {title(side)}. Give an optax transformation, jax=optax.sgd(0.1), "
            "or a triple of jax.example_libraries.optimizers."
        )
    return jax_optimizers.optimizer(side, params)


# ---------------------------------------------------------------- settings


@contextlib.contextmanager
def settings(dtype: str, precision: str, platform: str = "cpu") -> Iterator[None]:
    """x64 exactly in double precision cells, products in full float32 unless asked otherwise, on one device; all restored."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(dtype in ("float64", "complex128")))
        stack.enter_context(jax.default_device(device(platform)))
        if precision == "highest":
            stack.enter_context(jax.default_matmul_precision("highest"))
        yield


def device(platform: str) -> Any:
    """A jax device from `cpu`, `gpu`, `tpu` or `cpu:1`."""
    name, _, index = platform.partition(":")
    return jax.devices(name)[int(index or 0)]


def available(platform: str) -> str:
    """Why a jax device cannot be had here, "" when it can."""
    try:
        device(platform)
    except Exception as error:  # noqa: BLE001  every kind of absence
        return f"jax has no device {platform!r} here ({(str(error).strip().splitlines() or [''])[0]})"
    return ""


# ---------------------------------------------------------------- values


def arrays(values: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Master numbers in the cell's dtype, still numpy: jax takes them without compiling anything."""
    wide = dtype in ("float64", "complex128")
    narrow = tolerance.format_of(dtype).scalar
    out = {}
    for name, value in values.items():
        if not isinstance(value, np.ndarray):
            out[name] = value
        elif tolerance.is_floating(value):
            out[name] = value.astype(narrow)
        elif value.dtype.kind == "c":
            out[name] = value.astype(np.complex128 if wide else np.complex64)
        elif value.dtype.kind in "iu" and not wide:
            out[name] = value.astype(np.int32) if value.dtype == np.int64 else value
        else:
            out[name] = value
    return out


def to_numpy(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if tolerance.is_floating(array) and array.dtype.itemsize < 4 else array


# ---------------------------------------------------------------- running


class Result(NamedTuple):
    """What the jax function gives: outputs, gradients by input name and by jax path, state by jax path."""

    leaves: dict[str, Any]
    inputs: dict[str, Any]
    params: dict[str, Any]
    state: dict[str, Any]


class Compiled:
    """A pure function, traced and compiled once for each shape, dtype and device it meets."""

    def __init__(self, function: Callable[..., Any], cheap: bool, jit: bool) -> None:
        self.function, self.cheap, self.jit = function, cheap, jit
        self.made: dict[Any, Any] = {}
        self.traces: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        if not self.jit:
            return self.function(*jax.tree.map(jnp.asarray, args))
        return self.ready(*args)(*args)

    def ready(self, *args: Any) -> Any:
        traced, key = self.traced(*args)
        if key not in self.made:
            self.made[key] = traced.lower().compile(compiler_options=_options(traced) if self.cheap else None)
        return self.made[key]

    def timed(self, *args: Any) -> tuple[Callable[[], Any], Any, float]:
        """(a step on these arguments, what XLA compiled of it or None, the seconds that took), optimised as it is for everyone.

        The step is jax.jit's own call, which finds what was compiled here: ours would add the time of finding the shapes again.
        """
        if not self.jit:
            return functools.partial(self, *args), None, 0.0
        began = time.perf_counter()
        jitted = jax.jit(self.function)
        made = jitted.trace(*args).lower().compile()
        return functools.partial(jitted, *args), made, time.perf_counter() - began

    def traced(self, *args: Any) -> tuple[Any, Any]:
        """(what jax traced, a key for the shapes and dtypes of the arguments)."""
        flat, structure = jax.tree.flatten(args)
        key = (structure, tuple((np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in flat))
        if key not in self.traces:
            self.traces[key] = jax.jit(self.function).trace(*args)
        return self.traces[key], key


def evaluation(made: Program, job: Job, params_wrt: Sequence[str], cheap: bool, jit: bool) -> Compiled:
    """(params, state, inputs, cotangents) -> Result: outputs and the vjp, with torch's convention for complex gradients.

    jax.vjp multiplies by f'(z), torch by its conjugate (PyTorch notes, Autograd for Complex Numbers): cotangent and gradient are conjugated here.
    """
    inputs_wrt = [name for name in job.wrt if name in job.consumed + job.targets]

    def run(params: dict[str, Any], state: dict[str, Any], inputs: dict[str, Any], cotangents: dict[str, Any]) -> Result:
        def forward(at: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], tuple[dict[str, Any], dict[str, Any]]]:
            found, roots, new = _forward(made, job, params | at[1], state, inputs | at[0])
            return {n: jnp.asarray(r) for n, r in roots.items() if jnp.issubdtype(jnp.result_type(r), jnp.inexact)}, (found, new)

        at = {n: inputs[n] for n in inputs_wrt}, {n: params[n] for n in params_wrt}
        if not (at[0] or at[1]):
            found, _, new = _forward(made, job, params, state, inputs)
            return Result(found, {}, {}, new)
        roots, pull, (found, new) = jax.vjp(forward, at, has_aux=True)
        weights = {name: _weight(job, name, root, cotangents) for name, root in roots.items()}
        if any(weight is None for weight in weights.values()):
            return Result(found, {}, {}, new)  # another structure than torch's: that is the verdict, gradients have no meaning
        of_inputs, of_params = jax.tree.map(_conjugate, pull(weights)[0])
        return Result(found, of_inputs, of_params, new)

    return Compiled(run, cheap, jit)


def _options(traced: Any) -> dict[str, Any]:
    """XLA's lowest optimisation level, or the next where the lowest is slow to run; and the code generator that is twice as quick."""
    slow = any(equation.primitive.name in SLOW_WITHOUT_OPTIMISATION for equation in _equations(traced.jaxpr.jaxpr))
    return {"xla_backend_optimization_level": int(slow), **_quick()}


@functools.cache
def _quick() -> dict[str, Any]:
    """The option that takes XLA's older code generator on the CPU; none where this XLA has no such option any more."""
    options: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=options)
    except Exception:  # noqa: BLE001  XLA refuses an option in its own way in every version
        return {}
    return options


class Rounded:
    """A compiled function again, with rounding everywhere: traced as it was, run as jax_rounding says.

    It is compiled whole, which takes less than XLA takes for each kind of operation by itself (a sixth of it for one block of a transformer, as much
    for 24), and its runs then cost next to nothing. A larger one runs operation by operation.
    """

    def __init__(self, plain: Compiled) -> None:
        self.plain, self.runs, self.roundoff = plain, 0, 0.0
        self.rounders: dict[Any, Callable[..., list[Any]]] = {}

    def __call__(self, *args: Any) -> Any:
        traced, key = self.plain.traced(*args)
        self.runs += 1
        given = jax_rounding.key(self.runs), np.float64(self.roundoff), *jax.tree.leaves(args)
        if key not in self.rounders:
            rounder: Callable[..., list[Any]] = jax_rounding.Rounder(traced.jaxpr)
            if sum(1 for _ in _equations(traced.jaxpr.jaxpr)) <= WHOLE:
                rounder = jax.jit(rounder).lower(*given).compile(compiler_options=_options(traced))
            self.rounders[key] = rounder
        results = self.rounders[key](*given)
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), results)


def _weight(job: Job, name: str, root: Any, cotangents: dict[str, Any]) -> Any:
    if name == "loss":
        return jnp.ones_like(root)
    given = cotangents.get(name)
    if given is None or given.shape != root.shape:
        return None
    if jnp.iscomplexobj(root):
        return (given - 1j * cotangents[name + ".imag"]).astype(root.dtype)  # conjugated
    return given.astype(root.dtype)


def _conjugate(grad: Any) -> Any:
    return jnp.conj(grad) if jnp.iscomplexobj(grad) else grad


Forward = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def _forward(made: Program, job: Job, params: Any, state: Any, inputs: Any) -> Forward:
    """(every output leaf, the roots of differentiation, the state afterwards)."""
    if made.shared is not None:
        found: Forward = made.shared(functools.partial(_once, made, job), params, state, inputs)
        return found
    return _once(made, job, params, state, inputs)


def _once(made: Program, job: Job, params: Any, state: Any, inputs: Any) -> Forward:
    args = () if job.keywords else tuple(inputs[n] for n in job.consumed)
    kwargs = {n: inputs[n] for n in job.consumed} if job.keywords else {}
    output, new = made.apply(params, state, args, kwargs)
    found = leaves.named("loss" if job.kind == "loss" else "output", output, _is_array, _children)
    roots = found
    if job.kind == "loss":
        _scalar(found)
    if job.jax_loss is not None:
        roots = leaves.named("loss", job.jax_loss(output, *(inputs[n] for n in job.targets)), _is_array, _children)
        _scalar(roots)
        found = found | roots
    return {n: jnp.asarray(v) for n, v in found.items()}, roots, new


def _scalar(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name != "loss" or np.shape(value) != ():
            raise SpecError(
                f"the jax loss returns {name} of shape {list(np.shape(value))}, not one number. Reduce it, with a mean for example."
            )


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    """What a registered pytree holds, by the keys that it gives itself."""
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if len(found) == 1 and not found[0][0]:
        return None
    return [(jax.tree_util.keystr(path, simple=True, separator="."), child) for path, child in found]


def train_step(made: Program, job: Job, trained: Sequence[str], optimizer_: Any, cheap: bool, jit: bool) -> Compiled:
    """(index, params, state, optimizer state, inputs) -> (outputs, loss, gradients, new params, new state, new optimizer state)."""
    inputs_wrt = [name for name in job.wrt if name in job.consumed + job.targets]

    def step(index: Any, params: dict[str, Any], state: dict[str, Any], held: Any, inputs: dict[str, Any]) -> Any:
        def forward(at: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Any, tuple[dict[str, Any], dict[str, Any]]]:
            found, roots, new = _forward(made, job, params | at[1], state, inputs | at[0])
            return jnp.asarray(roots["loss"]), (found, new)

        at = {n: inputs[n] for n in inputs_wrt}, {n: params[n] for n in trained}
        (_, (found, new)), grads = jax.value_and_grad(forward, has_aux=True)(at)
        of_inputs, of_params = jax.tree.map(_conjugate, grads)
        updates, held = optimizer_.step(index, of_params, held, at[1])
        moved = {n: (p + updates[n]).astype(p.dtype) for n, p in at[1].items()}
        return Result(found, of_inputs, of_params, new), params | moved, held

    return Compiled(step, cheap, jit)


def optimizer_step(optimizer_: Any, cheap: bool, jit: bool) -> Compiled:
    """(index, gradients, optimizer state, params) -> (new params, new optimizer state)."""

    def step(index: Any, grads: dict[str, Any], held: Any, params: dict[str, Any]) -> Any:
        updates, held = optimizer_.step(index, grads, held, params)
        return {n: (p + updates[n]).astype(p.dtype) for n, p in params.items()}, held

    return Compiled(step, cheap, jit)


def optimizer_init(optimizer_: Any, cheap: bool, jit: bool) -> Compiled:
    return Compiled(optimizer_.init, cheap, jit)


def like(values: Any, example: Any) -> Any:
    """A tree of arrays in the dtypes of another tree: a float64 optimizer state as a cell holds it."""
    return jax.tree.map(lambda value, other: np.asarray(value).astype(np.asarray(other).dtype), values, example)


def flat(tree: Any) -> list[Any]:
    """The arrays of a container, in jax's order."""
    return list(jax.tree.leaves(tree))


def paths(tree: Any) -> list[tuple[int, str]]:
    """(which part, name) of every array in a tuple of flat dicts, in jax's order."""
    parts = [(index, part) for index, part in enumerate(tree) if part]
    return [(index, name) for index, part in parts for name in sorted(part)]


def drawn(made: Program, job: Job, params: Any, state: Any, inputs: Any) -> list[Event]:
    """The random draws of one forward pass."""
    return jax_sharing.events(functools.partial(_once, made, job), params, state, inputs)


def with_numbers(made: Program, numbers: Sequence[np.ndarray]) -> Program:
    """The program with given numbers for its draws, one array for each equation that draws."""
    return replace(made, shared=jax_sharing.Given(numbers))


def named_numbers(numbers: Sequence[np.ndarray]) -> Arrays:
    """The numbers of another training step as inputs of that step."""
    return {f"{jax_sharing.NUMBERS}{index}": array for index, array in enumerate(numbers)}


def still_draws(traces: Sequence[Any]) -> str:
    """Where traced functions still draw random numbers, "" where they do not."""
    return next((place for traced in traces if (place := jax_sharing.left(traced.jaxpr.jaxpr))), "")


def narrow_casts(traces: Sequence[Any]) -> dict[str, str]:
    """Casts of a double to a narrower float in traced functions: dtype -> where the first one stands."""
    seen: dict[str, str] = {}
    for traced in traces:
        for equation in _equations(traced.jaxpr.jaxpr):
            if equation.primitive.name != "convert_element_type":
                continue
            before, after = equation.invars[0].aval.dtype, equation.params["new_dtype"]
            if before == np.float64 and jnp.issubdtype(after, jnp.floating) and after != np.float64:
                seen.setdefault(np.dtype(after).name, jax_flow.line(equation))
    return seen


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def placed(values: Any, platform: str) -> Any:
    """Values on their device, ready before anything is timed."""
    return jax.block_until_ready(jax.device_put(values, device(platform)))


def zero() -> Any:
    return np.int32(0)


def flow(function: Compiled, args: tuple[Any, ...], half: str) -> list[Step]:
    """The operations of one run; with `half`, each with the statistics of what it made, and whether that half precision can hold it."""
    traced, _ = function.traced(*args)
    steps = jax_flow.steps(traced.jaxpr)
    if not half:
        return steps
    measure = jax.jit(jax_flow.statistics(traced.jaxpr, half))
    rows = np.asarray(measure.lower(*jax.tree.leaves(args)).compile(compiler_options=_options(traced))(*jax.tree.leaves(args)))
    return [step._replace(statistics=tuple(row[:4].tolist()), loses=bool(row[4])) for step, row in zip(steps, rows, strict=True)]


def version() -> str:
    return jax.__version__


def wait(values: Any) -> Any:
    """Blocks until every array of a result is ready."""
    return jax.block_until_ready(values)


def ended(values: Any) -> bool:
    """Whether every array of a result is ready, without waiting."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(values) if hasattr(leaf, "is_ready"))
