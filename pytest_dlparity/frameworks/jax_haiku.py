"""haiku transforms: what init gives is parameters and state, by module name."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from jax.tree_util import SequenceKey

from pytest_dlparity.frameworks import jax_program
from pytest_dlparity.frameworks.jax_program import Args, Arrays, KeyPath, Program


def owns(side: Any) -> bool:
    """True for what hk.transform, hk.transform_with_state and their hk.without_... give; haiku is not imported to find out."""
    haiku = sys.modules.get("haiku")
    return haiku is not None and isinstance(side, (haiku.Transformed, haiku.TransformedWithState))


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None, keyed: bool = False) -> Program:
    """The transform as a Program. Parameters and state are initialised from the example inputs.

    "mlp/~/linear_0" and "w" are "mlp.linear_0.w"; the "~" is kept where two leaves differ in nothing else. apply's rng is None
    unless it is `keyed`.
    train: sets a train-like argument of the transformed function.
    """
    import haiku

    keeps_state = isinstance(side, haiku.TransformedWithState)
    flags = jax_program.train_flags(side.init, (None, *args), kwargs, train)
    training = jax_program.train_flags(side.init, (None, *args), kwargs, True)  # hk.BatchNorm makes its state in training only
    modules: dict[str, str] = {}

    def seen(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = method(*args, **kwargs)
        modules[_dots(context.module.module_name)] = type(context.module).__name__  # a module has its name after __init__
        return result

    def init(key: Any, *args: Any, **kwargs: Any) -> Any:
        made = side.init(key, *args, **kwargs)
        return made if keeps_state else (made, {})

    with haiku.intercept_methods(seen):
        variables = jax_program.initial(init, args, {**kwargs, **training}, exact=lambda path: path[0] != SequenceKey(0))
    name = jax_program.shortest(variables, _short, _full)
    arrays = jax_program.leaves(variables, name)
    trained = jax_program.leaves(variables[0], lambda path: name((SequenceKey(0), *path)), jax_program.is_floating)
    takes_rng = _takes_rng(side, keeps_state)

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        rng = (jax_program.key() if keyed else None,) if takes_rng else ()
        carried, kept = jax_program.rebuilt(variables, {**params, **state}, name)
        if not keeps_state:
            return side.apply(carried, *rng, *args, **kwargs, **flags), state
        output, changed = side.apply(carried, kept, *rng, *args, **kwargs, **flags)
        after = jax_program.leaves(changed, lambda path: name((SequenceKey(1), *path)))
        return output, {name: after.get(name, value) for name, value in state.items()}

    return Program(
        library="haiku",
        params=trained,
        state={name: array for name, array in arrays.items() if name not in trained},
        layers=jax_program.owners(arrays, modules),
        apply=apply,
    )


def filled(side: Any, values: Arrays, args: Args, kwargs: dict[str, Any], held: Any = None) -> Any:
    """params with other numbers, by the paths of the Program; (params, state) where the transform keeps state."""
    variables = _variables(side, args, kwargs, held)
    params, state = jax_program.refilled(variables, values, jax_program.shortest(variables, _short, _full))
    return (params, state) if len(variables[1]) else params


def numbers(side: Any, args: Args, kwargs: dict[str, Any], held: Any = None) -> Arrays:
    """The arrays of params, or of (params, state), by the paths of the Program."""
    variables = _variables(side, args, kwargs, held)
    return jax_program.leaves(variables, jax_program.shortest(variables, _short, _full))


def _variables(side: Any, args: Args, kwargs: dict[str, Any], held: Any) -> tuple[Any, Any]:
    import haiku

    keeps_state = isinstance(side, haiku.TransformedWithState)
    if held is not None:
        return held if isinstance(held, tuple) else (held, {})
    training = jax_program.train_flags(side.init, (None, *args), kwargs, True)

    def init(key: Any, *args: Any, **kwargs: Any) -> Any:
        made = side.init(key, *args, **kwargs)
        return made if keeps_state else (made, {})

    made = jax_program.initial(init, args, {**kwargs, **training}, exact=lambda path: path[0] != SequenceKey(0))
    return made[0], made[1]


def _takes_rng(side: Any, keeps_state: bool) -> bool:
    """False for hk.without_apply_rng, which has the same type: init is (rng, ...), apply then (params, [state,] ...)."""
    own = 2 if keeps_state else 1
    return len(inspect.signature(side.apply).parameters) - own == len(inspect.signature(side.init).parameters)


def _short(path: KeyPath) -> str:
    _, module, *rest = path
    return ".".join(filter(None, [_dots(module.key), jax_program.dotted(tuple(rest))]))


def _full(path: KeyPath) -> str:
    return jax_program.dotted(path[1:]).replace("/", ".")


def _dots(module: str) -> str:
    """
    >>> _dots("mlp/~/linear_0"), _dots("~")
    ('mlp.linear_0', '')
    """
    return ".".join(part for part in module.split("/") if part != "~")
