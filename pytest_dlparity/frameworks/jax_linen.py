"""flax.linen modules: the collection "params" is the parameters, every other collection is state."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.tree_util import DictKey

from pytest_dlparity.frameworks import jax_program
from pytest_dlparity.frameworks.jax_program import Args, Arrays, KeyPath, Program

PARAMS = DictKey("params")


def owns(side: Any) -> bool:
    """True for an instance of flax.linen.Module, and for (module, variables); flax is not imported to find out."""
    linen = sys.modules.get("flax.linen")
    if linen is None:
        return False
    if isinstance(side, tuple) and len(side) == 2:
        return isinstance(side[0], linen.Module) and isinstance(side[1], Mapping)
    return isinstance(side, linen.Module)


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None, keyed: bool = False) -> Program:
    """The module as a Program. Its variables are those it was given with or bound to, else they are initialised from the example inputs.

    A leaf's path leaves its collection out ("BatchNorm_0.mean") unless two collections have it ("cache.Dense_0.kernel").
    train: True or False sets the call's train-like argument, and a train-like field of the module itself on a copy.
    keyed: whether the call is given a key for every stream of random numbers that it asks for.
    """
    module, variables = _taken_apart(side)
    flags = jax_program.train_flags(module, args, kwargs, train, settled=jax_program.settings(module))
    module = _switched(module, train, decided={*kwargs, *flags})
    if variables is None:
        variables, modules = _initialised(module, args, {**kwargs, **flags})
    else:
        variables, modules = _given(module, variables, args, {**kwargs, **flags}, keyed)
    name = jax_program.shortest(variables, short=_without_collection, full=jax_program.dotted)
    arrays = jax_program.leaves(variables, name)
    trained = jax_program.leaves(variables.get("params", {}), lambda path: name((PARAMS, *path)), jax_program.is_floating)
    changing = [collection for collection in variables if collection != "params"]

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        carried = jax_program.rebuilt(variables, {**params, **state}, name)
        with _redeclared(jax_program.common_dtype(params)):
            call = functools.partial(module.apply, carried, *args, mutable=changing, **kwargs, **flags)
            output, changed = _with_keys(call) if keyed else call()
        after = jax_program.leaves(changed, name)
        return output, {name: after.get(name, value) for name, value in state.items()}

    return Program(
        library="linen",
        params=trained,
        state={name: array for name, array in arrays.items() if name not in trained},
        layers=jax_program.owners(arrays, modules),
        apply=apply,
    )


def filled(side: Any, values: Arrays, args: Args, kwargs: dict[str, Any], held: Any = None) -> dict[str, Any]:
    """The module's variables with other numbers, by the paths of its Program."""
    variables = _variables(side, args, kwargs, held)
    return dict(
        jax_program.refilled(variables, values, jax_program.shortest(variables, short=_without_collection, full=jax_program.dotted))
    )


def numbers(side: Any, args: Args, kwargs: dict[str, Any], held: Any = None) -> Arrays:
    """The arrays of the variables by the paths of the module's Program."""
    variables = _variables(side, args, kwargs, held)
    return jax_program.leaves(variables, jax_program.shortest(variables, short=_without_collection, full=jax_program.dotted))


def _variables(side: Any, args: Args, kwargs: dict[str, Any], held: Any) -> dict[str, Any]:
    module, variables = _taken_apart(side)
    variables = variables if held is None else held
    if variables is not None:
        return _plain(variables)
    flags = jax_program.train_flags(module, args, kwargs, False, settled=jax_program.settings(module))
    return _initialised(_switched(module, False, decided={*kwargs, *flags}), args, {**kwargs, **flags})[0]


def _taken_apart(side: Any) -> tuple[Any, Mapping[str, Any] | None]:
    if isinstance(side, tuple):
        return side[0], side[1]
    return (side, None) if side.scope is None else side.unbind()


def _switched(module: Any, train: bool | None, decided: set[str]) -> Any:
    """The module with its own train-like fields set: those still None, and with `train` given every one that no call argument decides."""
    fields = {field.name for field in dataclasses.fields(module)} & jax_program.TRAIN_FLAGS.keys() - decided
    chosen = [name for name in fields if train is not None or getattr(module, name) is None]
    return module.clone(**{name: jax_program.TRAIN_FLAGS[name] == bool(train) for name in chosen}) if chosen else module


def _with_keys(call: Callable[..., Any]) -> Any:
    """The call with a key for each stream that it asks for: flax names a stream when it is missing."""
    from flax import errors

    streams: dict[str, Any] = {"dropout": jax_program.key()}
    while True:
        try:
            return call(rngs=streams)
        except errors.InvalidRngError as error:
            missing = re.search(r'needs PRNG for "([^"]+)"', str(error))
            if missing is None or missing[1] in streams:
                raise
            streams[missing[1]] = jax.random.fold_in(jax_program.key(), len(streams))


def _initialised(module: Any, args: Args, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The variables that the module makes for these inputs, and the class of every module that was called, by dotted path."""

    def init(key: Any, *args: Any, **kwargs: Any) -> Any:
        return module.init({"params": key, "dropout": key}, *args, **kwargs)

    with _modules_called() as modules:
        variables = jax_program.initial(init, args, kwargs, exact=lambda path: path[0] != PARAMS)
    return _plain(variables), modules


def _given(
    module: Any, variables: Mapping[str, Any], args: Args, kwargs: dict[str, Any], keyed: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    inputs, put = jax_program.opened((args, kwargs))

    def call(variables: Any, inputs: list[Any]) -> Any:
        args, kwargs = put(inputs)
        changing = [collection for collection in variables if collection != "params"]
        apply = functools.partial(module.apply, variables, *args, mutable=changing, **kwargs)
        return (_with_keys(apply) if keyed else apply())[0]

    with _modules_called() as modules:
        jax.eval_shape(call, variables, inputs)
    return _plain(variables), modules


@contextlib.contextmanager
def _modules_called() -> Iterator[dict[str, str]]:
    from flax import linen

    modules: dict[str, str] = {}

    def note(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        modules[".".join(context.module.path)] = type(context.module).__name__
        return method(*args, **kwargs)

    with linen.intercept_methods(note):
        yield modules


@contextlib.contextmanager
def _redeclared(dtype: Any) -> Iterator[None]:
    """Inside, a module's declared dtypes follow its parameters' before any of its methods, setup included, runs.

    They are set on the clones that `apply` makes, and on their parts: an RNN asks its cell for a carry, which nothing intercepts.
    """
    from flax import linen

    def follow(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        for part in (context.module, *vars(context.module).values()):
            if isinstance(part, linen.Module):
                jax_program.redeclare(part, dtype, object.__setattr__)  # a bound module is frozen to everybody else
        return method(*args, **kwargs)

    with linen.intercept_methods(follow):
        yield


def _plain(variables: Any) -> dict[str, Any]:
    """Variables as nested dicts of arrays, out of their frozen dicts and their boxes of partitioning metadata."""
    from flax import core, linen

    return dict(core.unfreeze(linen.meta.unbox(variables)))


def _without_collection(path: KeyPath) -> str:
    return jax_program.dotted(path[1:])
