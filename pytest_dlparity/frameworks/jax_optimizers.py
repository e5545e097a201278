"""jax optimizers as pure steps: optax transformations and jax.example_libraries triples, on a flat dict of parameters."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from pytest_dlparity.errors import SpecError
from pytest_dlparity.frameworks import jax_program
from pytest_dlparity.frameworks.jax_program import Arrays

# what to write for a solver that has a plain counterpart
INSTEAD = {"GradientDescent": "optax.sgd(learning_rate)", "OptaxSolver": "the solver's own `opt`"}
EXAMPLES = {"OptaxSolver": "jax=solver.opt"}


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An optimizer as two pure and traceable functions. It computes in the dtypes of the params and grads it is given."""

    library: str  # "optax" or "jax"
    init: Callable[[Arrays], Any]  # params -> state
    step: Callable[[Any, Arrays, Any, Arrays], tuple[Arrays, Any]]  # (index, grads, state, params) -> (updates to add, state)


def owns(obj: Any) -> bool:
    """True for an optax transformation, an example_libraries triple, and a jaxopt solver, which `optimizer` declines in words.

    None of them is imported to find out.
    """
    return _is_solver(obj) or _is_optax(obj) or _is_triple(obj)


def optimizer(obj: Any, example: Mapping[str, Any]) -> Optimizer:
    """The optimizer as pure functions; `example` are parameters by name, arrays or shapes.

    Raises:
        SpecError: a jaxopt solver, or a transformation whose update needs more than gradients (optax.lbfgs).

    A triple keeps its parameters in its state: an update is what its state's parameters moved by, rounded to the dtype of the
    parameters, and `params` is not looked at.
    """
    if _is_solver(obj):
        raise SpecError(_declined(obj))
    if _is_triple(obj):
        return _from_triple(*obj)

    def step(index: Any, grads: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        updates, state = obj.update(grads, state, params)
        return updates, state

    made = Optimizer("optax", obj.init, step)
    _refuse_more_than_gradients(made, example)
    return made


def _from_triple(init: Any, update: Any, get_params: Any) -> Optimizer:
    def step(index: Any, grads: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        after = update(index, grads, state)
        return jax.tree.map(lambda new, old: new - old, get_params(after), get_params(state)), after

    return Optimizer("jax", init, step)


def _refuse_more_than_gradients(made: Optimizer, example: Mapping[str, Any]) -> None:
    """One step on shapes alone, a trace without compiling: a chain hides from its signature what its members need."""
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in example.items()}
    try:
        jax.eval_shape(lambda params: made.step(0, params, made.init(params), params), shapes)
    except TypeError as error:
        missing = re.search(r"missing \d+ required keyword-only arguments?: (.*)", str(error))
        if missing is None:
            raise
        raise SpecError(
            f"the update of this optax transformation needs {missing[1]}, and an optimizer is stepped here with given gradients only. "
            "Give a transformation of gradients, such as optax.sgd(0.1) or optax.adam(1e-3)."
        ) from error


def _declined(solver: Any) -> str:
    name = type(solver).__name__
    instead = INSTEAD.get(name, "an optax transformation")
    return f"jaxopt.{name} is a solver, not a sequence of steps. Give {instead} instead: {EXAMPLES.get(name, 'jax=optax.sgd(0.1)')}."


def _is_solver(obj: Any) -> bool:
    return not isinstance(obj, type) and type(obj).__module__.partition(".")[0] == "jaxopt"


def _is_optax(obj: Any) -> bool:
    optax = sys.modules.get("optax")
    return optax is not None and isinstance(obj, (optax.GradientTransformation, optax.MultiSteps))


def _is_triple(obj: Any) -> bool:
    optimizers = sys.modules.get("jax.example_libraries.optimizers")
    if optimizers is not None and isinstance(obj, optimizers.Optimizer):
        return True
    return type(obj) is tuple and len(obj) == 3 and all(jax_program.is_function(part) for part in obj)
