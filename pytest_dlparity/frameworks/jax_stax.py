"""stax pairs (init_fun, apply_fun), of jax.example_libraries.stax or written in its style."""

from __future__ import annotations

from typing import Any

from pytest_dlparity.frameworks import jax_program
from pytest_dlparity.frameworks.jax_program import Args, Arrays, Program


def owns(side: Any) -> bool:
    """True for a plain tuple of two functions.

    >>> owns((len, len)), owns((len, {})), owns((len, len, len)), owns((dict, dict))
    (True, False, False, False)
    """
    return type(side) is tuple and len(side) == 2 and all(jax_program.is_function(part) for part in side)


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None, keyed: bool = False) -> Program:
    """The pair as a Program. Parameters are initialised for the shapes of the positional inputs; paths are indices ("0.0").

    One input is given to apply_fun as it is, several as a tuple. An rng is given where it is `keyed`: else dropout needs mode="test".
    train: sets a train-like argument of apply_fun.
    """
    init_fun, apply_fun = side
    shapes = tuple(tuple(x.shape) for x in args)
    tree = jax_program.initial(lambda key: init_fun(key, _one(shapes))[1], (), {}, exact=lambda path: False)
    arrays = jax_program.leaves(tree)
    trained = jax_program.leaves(tree, wanted=jax_program.is_floating)
    flags = jax_program.train_flags(apply_fun, (tree, _one(args)), kwargs, train)

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        kwargs = kwargs | ({"rng": jax_program.key()} if keyed else {})
        return apply_fun(jax_program.rebuilt(tree, {**params, **state}), _one(args), **kwargs, **flags), state

    return Program(
        library="stax",
        params=trained,
        state={name: array for name, array in arrays.items() if name not in trained},
        layers={},
        apply=apply,
    )


def filled(side: Any, values: Arrays, args: Args, kwargs: dict[str, Any], held: Any = None) -> Any:
    """The tree of parameters with other numbers, by the paths of the Program."""
    return jax_program.refilled(_tree(side, args, held), values)


def numbers(side: Any, args: Args, kwargs: dict[str, Any], held: Any = None) -> Arrays:
    """The arrays of the tree of parameters by the paths of the Program."""
    return jax_program.leaves(_tree(side, args, held))


def _tree(side: Any, args: Args, held: Any) -> Any:
    shapes = tuple(tuple(x.shape) for x in args)
    return jax_program.initial(lambda key: side[0](key, _one(shapes))[1], (), {}, exact=lambda path: False) if held is None else held


def _one(inputs: tuple[Any, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs
