"""flax.nnx modules: nnx.Param leaves are parameters, every other array is state."""

from __future__ import annotations

import sys
from typing import Any

from jax.tree_util import GetAttrKey

from pytest_dlparity.frameworks import jax_program
from pytest_dlparity.frameworks.jax_program import Args, Arrays, KeyPath, Program


def owns(side: Any) -> bool:
    """True for an instance of flax.nnx.Module; flax is not imported to find out."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(side, nnx.Module)


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None) -> Program:
    """The module as a Program. It is split and merged again, so the user's own is never changed.

    A shared variable counts once, under its first path. Typed PRNG keys stay inside; variables that only a call adds are dropped.
    train: True or False calls .train() or .eval() on a copy, None leaves the module as it is set.
    """
    from flax import nnx

    copy = nnx.merge(*nnx.split(side))
    if train is not None:
        _switch(copy, train)
    graph, carried = nnx.split(copy)
    arrays = jax_program.leaves(carried, _name)
    trained = jax_program.leaves(nnx.filter_state(carried, nnx.Param), _name, jax_program.is_floating)
    modules = {".".join(map(str, path)): type(module).__name__ for path, module in nnx.iter_modules(copy)}
    flags = jax_program.train_flags(side, args, kwargs, train, settled=jax_program.settings(side))

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        module = nnx.merge(graph, jax_program.rebuilt(carried, {**params, **state}, _name))
        dtype = jax_program.common_dtype(params)
        for _, part in nnx.iter_modules(module):
            jax_program.redeclare(part, dtype)
        output = module(*args, **kwargs, **flags)
        after = jax_program.leaves(nnx.state(module), _name)
        return output, {name: after.get(name, value) for name, value in state.items()}

    return Program(
        library="nnx",
        params=trained,
        state={name: array for name, array in arrays.items() if name not in trained},
        layers=jax_program.owners(arrays, modules),
        apply=apply,
    )


def _switch(module: Any, train: bool) -> None:
    method = getattr(module, "train" if train else "eval", None)
    if callable(method):
        method()
    else:  # the user's module has an attribute of that name
        module.set_attributes(deterministic=not train, use_running_average=not train, raise_if_not_found=False)


def _name(path: KeyPath) -> str:
    return jax_program.dotted(tuple(key for key in path if key != GetAttrKey("value")))  # a Variable's own step: modules are keyed as dicts
