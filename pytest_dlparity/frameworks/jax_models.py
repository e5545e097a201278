"""jax models as a user holds them, and their arrays by the paths that a Program has."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from pytest_dlparity.errors import SpecError
from pytest_dlparity.frameworks import jax as jax_side
from pytest_dlparity.frameworks.jax_program import Args, first_example
from pytest_dlparity.spec import Vmapped, title

FROM_INPUTS = ("jax_linen", "jax_haiku", "jax_stax")  # libraries whose modules have no parameters before they have seen an input


def library(side: Any) -> ModuleType | None:
    """The adapter that owns a model, None for anything else."""
    side = side.side if isinstance(side, Vmapped) else side
    return next((adapter for adapter in jax_side.LIBRARIES if adapter.owns(side)), None)


def needs_inputs(side: Any) -> bool:
    found = library(side)
    return found is not None and found.__name__.rpartition(".")[2] in FROM_INPUTS


def filled(side: Any, values: dict[str, np.ndarray], args: Args, kwargs: dict[str, Any], held: Any = None) -> Any:
    """The model with these numbers in the dtypes that it has: a new nnx or equinox module, linen's variables, haiku's params, stax's tree.

    Args:
        values: arrays by the paths of the model's Program.
        args, kwargs: example inputs, for libraries whose modules make their parameters from them.
        held: the variables or parameters whose places are filled, where the model does not carry them itself.
    """
    adapter, side, args, kwargs = _opened(side, args, kwargs)
    return adapter.filled(side, values, args, kwargs, held)


def numbers(side: Any, args: Args, kwargs: dict[str, Any], held: Any = None) -> dict[str, np.ndarray]:
    """The model's arrays by the paths of its Program."""
    adapter, side, args, kwargs = _opened(side, args, kwargs)
    return {path: np.asarray(array) for path, array in adapter.numbers(side, args, kwargs, held).items()}


def _opened(side: Any, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Any, Args, dict[str, Any]]:
    adapter = library(side)
    if adapter is None:
        raise SpecError(f"the jax model is {title(side)}. Give a module of flax.nnx, flax.linen, equinox, haiku or stax.")
    args, kwargs = tuple(map(jnp.asarray, args)), {name: jnp.asarray(array) for name, array in kwargs.items()}
    return (adapter, side.side, *first_example(args, kwargs)) if isinstance(side, Vmapped) else (adapter, side, args, kwargs)
