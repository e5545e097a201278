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


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None) -> Program:
    """The pair as a Program. Parameters are initialised for the shapes of the positional inputs; paths are indices ("0.0").

    One input is given to apply_fun as it is, several as a tuple. No rng is given: dropout needs mode="test".
    train: sets a train-like argument of apply_fun.
    """
    init_fun, apply_fun = side
    shapes = tuple(tuple(x.shape) for x in args)
    tree = jax_program.initial(lambda key: init_fun(key, _one(shapes))[1], (), {}, exact=lambda path: False)
    arrays = jax_program.leaves(tree)
    trained = jax_program.leaves(tree, wanted=jax_program.is_floating)
    flags = jax_program.train_flags(apply_fun, (tree, _one(args)), kwargs, train)

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        return apply_fun(jax_program.rebuilt(tree, {**params, **state}), _one(args), **kwargs, **flags), state

    return Program(
        library="stax",
        params=trained,
        state={name: array for name, array in arrays.items() if name not in trained},
        layers={},
        apply=apply,
    )


def _one(inputs: tuple[Any, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs
