"""equinox modules: inexact jax arrays are parameters, the arrays of an eqx.nn.State are state."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from pytest_dlparity.errors import SpecError
from pytest_dlparity.frameworks import jax_program
from pytest_dlparity.frameworks.jax_program import Args, Arrays, KeyPath, Naming, Program

# BatchNorm keeps both statistics under one index: its state by the names that the other libraries have for it
STATE_NAMES = {
    "BatchNorm": {
        "ema_state_index.0": "mean",
        "ema_state_index.1": "var",
        "ema_first_time_index": "first_time",
        "batch_state_index.0": "mean",
        "batch_state_index.1": "var",
        "batch_counter": "counter",
    }
}

SET_BY_MODE = ("inference", "deterministic")  # inference_mode has set them in the layers; giving the second warns that it is old
WRAPPED = (GetAttrKey("__self__"), GetAttrKey("_fun"))  # where a bound method and eqx.filter_vmap keep the module


def owns(side: Any) -> bool:
    """True for an instance of equinox.Module, and for (module, state) of eqx.nn.make_with_state; equinox is not imported to find out.

    eqx.filter_jit and its like make a module of any function: without arrays inside it is taken for the function that it is.
    """
    eqx = sys.modules.get("equinox")
    if eqx is None:
        return False
    if isinstance(side, tuple) and len(side) == 2:
        return isinstance(side[0], eqx.Module) and isinstance(side[1], eqx.nn.State)
    return isinstance(side, eqx.Module) and not (hasattr(side, "__wrapped__") and not jax_program.leaves(side))


def program(side: Any, args: Args, kwargs: dict[str, Any], train: bool | None, keyed: bool = False) -> Program:
    """The module as a Program. Arrays that are neither inexact nor in the State (whole numbers, keys, numpy's) are constants.

    A module with state takes it as its argument `state`, or last, and returns (output, state).
    train: True or False is eqx.nn.inference_mode on a copy, None leaves the module as it is set.
    keyed: whether a call with an argument `key` is given one.

    Raises:
        SpecError: the module keeps state but comes without it, or, when applied, does not return it.
    """
    import equinox as eqx

    module, kept = side if isinstance(side, tuple) else _with_state(side)
    module = inspect.unwrap(module, stop=lambda outer: not isinstance(outer, type(eqx.filter_jit(len))))  # it hides the names of its arrays
    if train is not None:
        module = eqx.nn.inference_mode(module, value=not train)
    flags = jax_program.train_flags(module, args, kwargs, train, settled=lambda flag: flag in SET_BY_MODE)
    keys = jax_program.open_keys(module, args, kwargs) if keyed else []
    trained = jax_program.leaves(module, _name, eqx.is_inexact_array)
    naming = _naming(module, set(trained))
    carried = {} if kept is None else {name: _strong(leaf) for name, leaf in jax_program.leaves(kept, naming(kept)).items()}

    def apply(params: Arrays, state: Arrays, args: Args, kwargs: dict[str, Any]) -> tuple[Any, Arrays]:
        called = jax_program.rebuilt(module, params, _name)
        kwargs = kwargs | {name: jax_program.key() for name in keys}
        if kept is None:
            return called(*args, **kwargs, **flags), state
        args, kwargs = _with_argument(module, jax_program.rebuilt(kept, state, naming(kept)), args, kwargs)
        output, changed = _output_and_state(called(*args, **kwargs, **flags))
        return output, state | jax_program.leaves(changed, naming(changed))

    return Program(
        library="equinox",
        params=trained,
        state=carried,
        layers=jax_program.owners([*trained, *carried], _modules(module)),
        apply=apply,
    )


def filled(side: Any, values: Arrays, args: Args, kwargs: dict[str, Any], held: Any = None) -> Any:
    """A new module like the user's with other numbers, by the paths of its Program; (module, state) for one that keeps state."""
    module, kept, naming = _split(side)
    made = jax_program.refilled(module, values, _name)
    return made if kept is None else (made, jax_program.refilled(kept, values, naming(kept)))


def numbers(side: Any, args: Args, kwargs: dict[str, Any], held: Any = None) -> Arrays:
    """The module's and its state's arrays by the paths of its Program."""
    import equinox as eqx

    module, kept, naming = _split(side)
    return jax_program.leaves(module, _name, eqx.is_inexact_array) | ({} if kept is None else jax_program.leaves(kept, naming(kept)))


def _strong(leaf: Any) -> Any:
    """The same array without a weak type: a counter that begins as jnp.array(0) would be 64 bits wide after one addition where x64 is on."""
    return jnp.asarray(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


def _split(side: Any) -> tuple[Any, Any, Callable[[Any], Naming]]:
    import equinox as eqx

    module, kept = side if isinstance(side, tuple) else _with_state(side)
    module = inspect.unwrap(module, stop=lambda outer: not isinstance(outer, type(eqx.filter_jit(len))))
    return module, kept, _naming(module, set(jax_program.leaves(module, _name, eqx.is_inexact_array)))


def _with_state(module: Any) -> tuple[Any, Any]:
    """The module without its initial state, and that state; None for a module that keeps none."""
    import equinox as eqx

    if not _indices(module):
        return module, None
    try:
        return eqx.nn.delete_init_state(module), eqx.nn.State(module)
    except ValueError as error:
        raise SpecError(
            f"the equinox module {type(module).__name__} keeps state, which is not there. "
            "Give both, as eqx.nn.make_with_state made them: jax=(module, state)."
        ) from error


def _indices(module: Any) -> list[tuple[KeyPath, Any]]:
    """Every eqx.nn.StateIndex of the module, and where it is."""
    import equinox as eqx

    found = tree_flatten_with_path(module, is_leaf=lambda leaf: isinstance(leaf, eqx.nn.StateIndex))[0]
    return [(path, leaf) for path, leaf in found if isinstance(leaf, eqx.nn.StateIndex)]


def _naming(module: Any, taken: set[str]) -> Callable[[Any], Naming]:
    """Names for the leaves of a State: the path of the attribute that holds their index. An index in two places goes by the first.

    A State is keyed by markers; in flattened form, by the places of the markers among its own.
    """
    places = {index.marker: path for path, index in reversed(_indices(module))}
    classes = _modules(module)

    def naming(state: Any) -> Naming:
        markers = state.tree_flatten()[1]

        def name(path: KeyPath) -> str:
            marker = markers[path[0].key]
            *above, attribute = places.get(marker, (DictKey(str(marker)),))
            layer, inside = _name(tuple(above)), jax_program.dotted((attribute, *path[1:]))
            short = _joined(layer, STATE_NAMES.get(classes.get(layer, ""), {}).get(inside, inside))
            return _joined(layer, inside) if short in taken else short

        return name

    return naming


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _modules(module: Any) -> dict[str, str]:
    """The class of every module that has a leaf or an index, by dotted path; the root's path is ""."""
    import equinox as eqx

    found: dict[str, str] = {}
    for path, _ in [*tree_flatten_with_path(module)[0], *_indices(module)]:
        inner = module
        for depth, key in enumerate(path):
            if isinstance(inner, eqx.Module):
                found[_name(path[:depth])] = type(inner).__name__
            inner = _child(inner, key)
    return found


def _child(tree: Any, key: Any) -> Any:
    match key:
        case GetAttrKey(name=name):
            return getattr(tree, name)
        case SequenceKey(idx=index) | DictKey(key=index):
            return tree[index]
    return None  # a container that only jax can open: nothing below it has an owner


def _with_argument(module: Any, state: Any, args: Args, kwargs: dict[str, Any]) -> tuple[Args, dict[str, Any]]:
    """The arguments with the state among them: where the call has a parameter `state`, else last of the positional ones."""
    parameters = list(inspect.signature(module).parameters.values())
    place = next((i for i, parameter in enumerate(parameters) if parameter.name == "state"), None)
    if place is None:
        return (*args, state), kwargs
    if place > len(args) or parameters[place].kind is inspect.Parameter.KEYWORD_ONLY:
        return args, {**kwargs, "state": state}
    return (*args[:place], state, *args[place:]), kwargs


def _output_and_state(result: Any) -> tuple[Any, Any]:
    import equinox as eqx

    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], eqx.nn.State):
        return result[0], result[1]
    raise SpecError(f"the equinox module keeps state but returns a {type(result).__name__}. Return (output, state) from its __call__.")


def _name(path: KeyPath) -> str:
    return jax_program.dotted(tuple(key for key in path if key not in WRAPPED))
