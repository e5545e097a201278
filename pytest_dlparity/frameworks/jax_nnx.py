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


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None, keyed: bool = False) -> Program:
    """The module as a Program. It is split and merged again, so the user's own is never changed.

    A shared variable counts once, under its first path. Typed PRNG keys stay inside; variables that only a call adds are dropped.
    train: True or False calls .train() or .eval() on a copy, None leaves the module as it is set.
    keyed: whether a call with an argument `rngs` is given one; a module's own are its state.
    """
    from flax import nnx

    copy = nnx.merge(*nnx.split(side))
    if train is not None:
        _switch(copy, train)
    graph, carried = nnx.split(copy)
    arrays = jax_program.leaves(carried, _name)
    trained = jax_program.leaves(nnx.filter_state(carried, nnx.Param), _name, jax_program.is_floating)
    modules = {".".join(map(str, path)): type(module).__name__ for path, module in nnx.iter_modules(copy)}
    takes_rngs = keyed and bool(jax_program.open_keys(side, args, kwargs, ("rngs",)))
    flags = jax_program.train_flags(side, args, kwargs, train, settled=jax_program.settings(side))

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        module = nnx.merge(graph, jax_program.rebuilt(carried, {**params, **state}, _name))
        dtype = jax_program.common_dtype(params)
        for _, part in nnx.iter_modules(module):
            jax_program.redeclare(part, dtype)
        streams = {"rngs": nnx.Rngs(jax_program.key())} if takes_rngs else {}
        output = module(*args, **kwargs, **flags, **streams)
        after = jax_program.leaves(nnx.state(module), _name)
        return output, {name: after.get(name, value) for name, value in state.items()}

    return Program(
        library="nnx",
        params=trained,
        state={name: array for name, array in arrays.items() if name not in trained},
        layers=jax_program.owners(arrays, modules),
        apply=apply,
    )


def filled(side: Any, values: Arrays, args: Args, kwargs: dict[str, Any], held: Any = None) -> Any:
    """A new module like the user's with other numbers, by the paths of its Program."""
    from flax import nnx

    graph, carried = nnx.split(side)
    return nnx.merge(graph, jax_program.refilled(carried, values, _name))


def numbers(side: Any, args: Args, kwargs: dict[str, Any], held: Any = None) -> Arrays:
    """The module's arrays by the paths of its Program."""
    from flax import nnx

    return jax_program.leaves(nnx.split(side)[1], _name)


def _switch(module: Any, train: bool) -> None:
    method = getattr(module, "train" if train else "eval", None)
    if callable(method):
        method()
    else:  # the user's module has an attribute of that name
        module.set_attributes(deterministic=not train, use_running_average=not train, raise_if_not_found=False)


def _name(path: KeyPath) -> str:
    return jax_program.dotted(tuple(key for key in path if key != GetAttrKey("value")))  # a Variable's own step: modules are keyed as dicts
