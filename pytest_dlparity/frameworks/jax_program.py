"""A jax side as pure functions: parameters, state and inputs in, output and new state out. Every library's adapter hands back a Program."""

from __future__ import annotations

import functools
import inspect
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, jaxpr_as_fun
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from pytest_dlparity.errors import SpecError

Arrays = dict[str, Any]
Args = tuple[Any, ...]
KeyPath = tuple[Any, ...]
Naming = Callable[[KeyPath], str]

# every argument by which a library is told that it trains, and the value that says so
TRAIN_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
    "update_stats": True,  # flax's SpectralNorm and WeightNorm
}


@dataclass(frozen=True, eq=False)
class Program:
    """A jax side taken apart. `apply` is pure and traceable, and computes in the dtypes of what it is given."""

    library: str  # "function", "nnx", "linen", "equinox", "haiku", "stax"
    params: Arrays  # differentiable floating leaves by dotted path: "fc1.kernel", "layers.0.weight"
    state: Arrays  # every other array the module carries and may change: running statistics, counters. Same dotted paths
    layers: dict[str, str]  # dotted path of a leaf -> class name of the layer that owns it, where the library tells; may be empty
    apply: Callable[[Arrays, Arrays, Args, dict[str, Any]], tuple[Any, Arrays]]  # (params, state, args, kwargs) -> (output, new state)
    shared: Any = None  # jax_sharing.Given, where random draws are given numbers


def is_array(leaf: Any) -> bool:
    """True for a jax, numpy or traced array and for a shape standing for one; False for a number, a string, a typed PRNG key.

    >>> is_array(np.ones(2)), is_array(1.0), is_array(jax.random.key(0))
    (True, False, False)
    """
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_floating(leaf: Any) -> bool:
    """True for an array that has a derivative: real or complex, of any width."""
    return is_array(leaf) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def is_function(part: Any) -> bool:
    """True for a plain function, also a jitted, partial or bound one; False for a class and for other objects that can be called.

    >>> is_function(len), is_function(jax.jit(len)), is_function(dict), is_function({})
    (True, True, False, False)
    """
    return isinstance(part, (FunctionType, MethodType, BuiltinFunctionType, functools.partial, type(jax.jit(len))))


def dotted(path: KeyPath) -> str:
    """A key path of jax.tree_util as a person writes it.

    >>> dotted((GetAttrKey("layers"), SequenceKey(0), DictKey("w")))
    'layers.0.w'
    >>> dotted(())
    ''
    """
    return ".".join(str(_key(key)) for key in path)


def _key(key: Any) -> Any:
    match key:
        case GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index):
            return index
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return name
    return key


def leaves(tree: Any, name: Naming = dotted, wanted: Callable[[Any], bool] = is_array) -> Arrays:
    """The arrays of a container by their names.

    Raises:
        SpecError: two arrays would have the same name.

    >>> leaves({"a": {"b": np.ones(1)}, "c": 1.0})
    {'a.b': array([1.])}
    >>> leaves({"a": {"b": np.ones(1)}, "a.b": np.ones(1)})
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: two arrays of the jax side are called 'a.b'. Rename one: a dot inside a name reads as a path.
    """
    found: Arrays = {}
    for path, leaf in tree_flatten_with_path(tree)[0]:
        if wanted(leaf):
            if name(path) in found:
                raise SpecError(f"two arrays of the jax side are called {name(path)!r}. Rename one: a dot inside a name reads as a path.")
            found[name(path)] = leaf
    return found


def rebuilt(tree: Any, values: Mapping[str, Any], name: Naming = dotted) -> Any:
    """The container with other values under the same names; what has no value stays as it is.

    >>> rebuilt({"a": 1, "b": [2, "text"]}, {"b.0": 5})
    {'a': 1, 'b': [5, 'text']}
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: values.get(name(path), leaf), tree)


def refilled(tree: Any, values: Mapping[str, Any], name: Naming = dotted) -> Any:
    """The container with other numbers under the same names, as jax arrays of the dtypes that were there.

    >>> refilled({"n": 3, "w": np.ones(1, np.float16)}, {"w": np.zeros(1)})
    {'n': 3, 'w': Array([0.], dtype=float16)}
    """
    cast = {
        name(path): jnp.asarray(values[name(path)], leaf.dtype) for path, leaf in tree_flatten_with_path(tree)[0] if name(path) in values
    }
    return rebuilt(tree, cast, name)


def shortest(tree: Any, short: Naming, full: Naming) -> Naming:
    """A naming that is short where that is unique in the container, and full where it is not."""
    times = Counter(short(path) for path, _ in tree_flatten_with_path(tree)[0])
    return lambda path: full(path) if times[short(path)] > 1 else short(path)


def owners(names: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """The class of the module that owns each leaf: the nearest one above it. `modules`: path -> class, the root's path is "".

    >>> owners(["fc.w", "scale", "block.fc.w"], {"fc": "Linear", "": "Net"})
    {'fc.w': 'Linear', 'scale': 'Net', 'block.fc.w': 'Net'}
    """
    nearest = {name: next((modules[above] for above in _above(name) if above in modules), "") for name in names}
    return {name: module for name, module in nearest.items() if module}


def _above(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def train_flags(
    call: Any, args: Args, kwargs: Mapping[str, Any], train: bool | None, settled: Callable[[str], bool] = lambda name: False
) -> dict[str, bool]:
    """The train-like arguments that a call leaves open, and the value each takes.

    A flag without a default must have a value: that of `train`, and evaluation where train is None. A flag with a default keeps it
    where train is None. A default of None is kept too where the flag is `settled`: where the module's own setting decides.

    >>> train_flags(lambda x, train: x, (1,), {}, None), train_flags(lambda x, deterministic: x, (1,), {}, True)
    ({'train': False}, {'deterministic': False})
    >>> train_flags(lambda x, train: x, (1, 2), {}, True)  # there is an input for it
    {}
    >>> train_flags(lambda x, inference=False: x, (1,), {}, None), train_flags(lambda x, inference=False: x, (1,), {}, False)
    ({}, {'inference': True})
    """
    try:
        parameters = inspect.signature(call).parameters
        given = inspect.signature(call).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or inputs that don't fit it: the call itself says so better
        return {}
    open_flags = {name: parameters[name].default for name in TRAIN_FLAGS if _is_open(name, parameters, given)}
    return {
        name: TRAIN_FLAGS[name] == bool(train)
        for name, default in open_flags.items()
        if default is inspect.Parameter.empty or (train is not None and not (default is None and settled(name)))
    }


def _is_open(name: str, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> bool:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return name in parameters and name not in given and parameters[name].kind in by_name


_EXAMPLES: ContextVar[tuple[Any, ...]] = ContextVar("examples", default=())  # which example of each vmap around is being computed


def key() -> jax.Array:
    """A fixed random key; under a dlp.vmap that is keyed, another for each example."""
    return functools.reduce(jax.random.fold_in, _EXAMPLES.get(), jax.random.key(0))


def open_keys(call: Any, args: Args, kwargs: Mapping[str, Any], names: Sequence[str] = ("key", "rng")) -> list[str]:
    """The arguments of a call that take a random key and are left open.

    >>> open_keys(lambda x, key: x, (1,), {}), open_keys(lambda q, key, rng=None: q, (1, 2), {}), open_keys(lambda x, key=7: x, (1,), {})
    (['key'], ['rng'], [])
    """
    try:
        parameters = inspect.signature(call).parameters
        given = inspect.signature(call).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # as in train_flags
        return []
    return [name for name in names if _is_open(name, parameters, given) and parameters[name].default in (None, inspect.Parameter.empty)]


def settings(module: Any) -> Callable[[str], bool]:
    """Whether a flag is an attribute of the module. Not if it can be called: every nnx module has a method `train`."""
    return lambda flag: hasattr(module, flag) and not callable(getattr(module, flag))


def common_dtype(params: Mapping[str, Any]) -> np.dtype | None:
    """The dtype of the real floating parameters, None where there are none or they differ.

    >>> common_dtype({"w": np.ones(1, np.float16), "z": np.ones(1, complex)}), common_dtype({})
    (dtype('float16'), None)
    """
    found = {np.dtype(p.dtype) for p in params.values() if jnp.issubdtype(p.dtype, jnp.floating)}
    return found.pop() if len(found) == 1 else None


def redeclare(module: Any, dtype: np.dtype | None, assign: Callable[[Any, str, Any], None] = setattr) -> None:
    """Makes what a flax module declares true again after its parameters were given in another dtype.

    `param_dtype` is what an RNN starts its carry with, and nnx.Embed keeps a `dtype` it had from its table: both would pin float32.
    A `dtype` other than `param_dtype` is mixed precision, which the user meant, and stays.

    >>> from types import SimpleNamespace
    >>> module, mixed = SimpleNamespace(dtype="float32", param_dtype="float32"), SimpleNamespace(dtype="float16", param_dtype="float32")
    >>> redeclare(module, np.dtype("float64")), redeclare(mixed, np.dtype("float64"))
    (None, None)
    >>> str(module.dtype), mixed.dtype, str(mixed.param_dtype)
    ('float64', 'float16', 'float64')
    """
    said = vars(module)  # its own attributes: nnx.bridge.ToNNX answers to every name
    declared = said.get("param_dtype")
    if declared is None or dtype is None or not jnp.issubdtype(declared, jnp.floating):
        return
    if said.get("dtype") is not None and np.dtype(said["dtype"]) == np.dtype(declared):
        assign(module, "dtype", dtype)
    assign(module, "param_dtype", dtype)


def opened(tree: Any, wanted: Callable[[Any], bool] = is_array) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The wanted leaves of a container, and a function that puts others in their place.

    >>> values, put = opened({"n": 3, "x": np.ones(2)})
    >>> len(values), put(["y"])
    (1, {'n': 3, 'x': 'y'})
    """
    flat, structure = jax.tree.flatten(tree)
    places = [place for place, leaf in enumerate(flat) if wanted(leaf)]

    def put(values: list[Any]) -> Any:
        found = dict(zip(places, values, strict=True))
        return jax.tree.unflatten(structure, [found.get(place, leaf) for place, leaf in enumerate(flat)])

    return [flat[place] for place in places], put


def initial(init: Callable[..., Any], args: Args, kwargs: Mapping[str, Any], exact: Callable[[KeyPath], bool]) -> Any:
    """What init(key, *args, **kwargs) gives, without the cost of a library's random initialisers.

    A parameter is there to be overwritten by the other side's, and drawing it costs a compilation: 0.3 s for a linen Dense and
    BatchNorm, 2.6 s for four transformer blocks of width 64, where this takes 0.07 s and 0.2 s. So a floating leaf that comes from
    the key is drawn by numpy (normal, scale 0.1), unless `exact` says of its path that the value counts. Everything else is init's own.
    """
    key = jax.random.key(0)
    inputs, put = opened((args, dict(kwargs)))

    def run(key: Any, inputs: list[Any]) -> Any:
        args, kwargs = put(inputs)
        return init(key, *args, **kwargs)

    closed, shapes = jax.make_jaxpr(run, return_shape=True)(key, inputs)
    paths, structure = tree_flatten_with_path(shapes)
    from_key = _from_key(closed.jaxpr)
    drawn = [random and is_floating(leaf) and not exact(path) for random, (path, leaf) in zip(from_key, paths, strict=True)]

    @jax.jit  # what is not asked for is never compiled
    def compute(*given: Any) -> list[Any]:
        return [value for value, skip in zip(jaxpr_as_fun(closed)(*given), drawn, strict=True) if not skip]

    computed = iter(compute(key, *inputs))
    values = [_draw(dotted(path), leaf) if skip else next(computed) for skip, (path, leaf) in zip(drawn, paths, strict=True)]
    return jax.tree.unflatten(structure, values)


def _from_key(jaxpr: Jaxpr) -> list[bool]:
    """Of each output, whether it comes from the first input. An equation with an inside (scan, jit) counts as one."""
    touched = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(not isinstance(var, Literal) and var in touched for var in equation.invars):
            touched.update(equation.outvars)
    return [not isinstance(var, Literal) and var in touched for var in jaxpr.outvars]


def _draw(name: str, leaf: Any) -> jax.Array:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return jnp.asarray(0.1 * generator.standard_normal(leaf.shape, dtype=np.float32), leaf.dtype)


def batched(program: Program, axis_name: str | None = None, keyed: bool = False) -> Program:
    """The program of single examples applied to a batch: axis 0 of every array of args and kwargs is mapped, params and state are not.

    Numbers and arrays without an axis are given to every example. State must come out the same for all examples: a layer that reduces
    over `axis_name` (equinox.nn.BatchNorm) sees to that. Build `program` with `first_example`. `keyed`: whether each example has a key of its own.

    Raises (when applied):
        SpecError: no input has an axis 0, or the new state differs between examples.
    """

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        rows, put = opened((args, kwargs), _has_rows)
        if not rows:
            raise SpecError("vmap has no input with an axis 0 to map over. Give at least one input a batch axis, or leave dlp.vmap out.")

        examples = [np.arange(rows[0].shape[0])] if keyed else []

        def one(rows: list[Any], example: list[Any]) -> tuple[Any, Arrays]:
            args, kwargs = put(rows)
            token = _EXAMPLES.set((*_EXAMPLES.get(), *example))
            try:
                return program.apply(params, state, args, kwargs)
            finally:
                _EXAMPLES.reset(token)

        try:
            return jax.vmap(one, out_axes=(0, None), axis_name=axis_name)(rows, examples)
        except ValueError as error:
            if "out_axes" not in str(error):  # the outputs' axis fits any output: it is the state's None
                raise
            raise SpecError(
                "under vmap every example leaves another state. Let the module reduce over a named axis, and name it: "
                'dlp.vmap(side, axis_name="batch").'
            ) from error

    return replace(program, apply=apply)


def first_example(args: Args, kwargs: Mapping[str, Any]) -> tuple[Args, dict[str, Any]]:
    """Row 0 of every array that has an axis, the rest as it is: what a program of single examples is built with.

    Raises:
        SpecError: an input has an axis 0 of length 0.

    >>> first_example((np.array([1.0, 2.0]), 3), {"y": np.float32(4.0)})
    ((array(1.), 3), {'y': np.float32(4.0)})
    """
    rows, put = opened((args, dict(kwargs)), _has_rows)
    if any(row.shape[0] == 0 for row in rows):
        raise SpecError("vmap has an input without examples: its axis 0 has length 0. Give at least one.")
    args, kwargs = put([row[0, ...] for row in rows])
    return args, dict(kwargs)


def _has_rows(leaf: Any) -> bool:
    return is_array(leaf) and len(leaf.shape) > 0
