"""What a user writes: one computation with a torch side and a jax side, its inputs and its parameters."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from pytest_dlparity import draws, tolerance
from pytest_dlparity.draws import Draw
from pytest_dlparity.errors import SpecError
from pytest_dlparity.tolerance import Tolerances

PRECISIONS = ("highest", "default")


@dataclass(frozen=True, eq=False)
class Spec:
    """One computation, written twice. Made by layer(), loss(), optimizer() and model(); immutable, and checked when it is made."""

    kind: str
    name: str
    torch: Any
    jax: Any
    inputs: Mapping[str, Draw]
    keywords: bool = False  # inputs were given as a dict: keyword arguments
    params: Mapping[str, Draw] | None = None  # by dotted name
    params_tree: Any = None  # the names, nested as the user nested them
    wrt: tuple[str, ...] | None = None
    param_map: Mapping[str, Any] | None = None
    train: bool | None = None
    tolerance: Tolerances | None = None
    precision: str = "highest"
    shared_randomness: bool = False
    loss: Spec | None = None
    optimizer: Spec | None = None
    steps: int = 0
    batches: tuple[tuple[np.ndarray, ...], ...] = ()

    def __str__(self) -> str:
        given = ", ".join(f"{name}={draw!r}" for name, draw in {**self.inputs, **(self.params or {})}.items())
        given = f"{len(self.batches)} batches" if self.batches else given
        said = ", ".join(part for part in (given, f"{self.steps} steps" if self.steps else "") if part)
        return f"{self.kind} {self.name}({said}): torch {title(self.torch)} | jax {title(self.jax)}"

    __repr__ = __str__

    @property
    def is_named(self) -> bool:
        return self.name != self.kind

    def called(self, name: str) -> Spec:
        """The same spec under a name of its test, where it has none of its own."""
        return self if self.is_named else replace(self, name=name)


def vmap(side: Any, axis_name: str | None = None) -> Vmapped:
    """A jax side that takes single examples, applied to a batch: axis 0 of every input, its parameters shared and still seen.

    Args:
        axis_name: the name that layers such as equinox's BatchNorm reduce over.
    """
    if not callable(side) and not isinstance(side, tuple):
        raise SpecError(f"vmap takes a function or a module of single examples, not {side!r}. Write dlp.vmap(module).")
    return Vmapped(side, axis_name)


@dataclass(frozen=True, eq=False)
class Vmapped:
    side: Any
    axis_name: str | None = None

    def __repr__(self) -> str:
        return f"vmap({title(self.side)})"


def layer(
    torch: Any = None,
    jax: Any = None,
    *,
    inputs: Any = None,
    params: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | None = None,
    param_map: Mapping[str, Any] | None = None,
    train: bool | None = None,
    shared_randomness: bool = False,
    tolerance: Tolerances | None = None,
    precision: str = "highest",
    name: str | None = None,
    **unknown: Any,
) -> Spec:
    """A layer, or any function: outputs and the vjp with one fixed random cotangent.

    Args:
        torch: a function of tensors, an nn.Module, or a factory of one.
        jax: a function of arrays, a module (flax.nnx, flax.linen, equinox, haiku, stax), dlp.vmap of one, or a factory of one.
        inputs: a list of draws (positional: `input` or `input0`, `input1`, ...) or a dict of draws (keyword arguments).
        params: draws that both functions get, in one dict, as their first argument.
        wrt: the inputs and parameters to differentiate; every floating one by default, [] for none.
        param_map: {torch name or pattern: jax path}, or (jax path, einops pattern) or (jax path, pattern, axis sizes).
        train: True or False sets both sides' mode; None leaves each as it is.
        shared_randomness: True gives both sides the same numbers wherever they draw (dropout, noise), so that they can be compared.
        tolerance: "auto" (measured), "conventional", a Tolerance, or a dict of dtypes to Tolerances.
        precision: "highest" runs float32 products in full float32; "default" runs what the library does by itself.
        name: what messages call it; by default the torch side's name.

    Raises:
        SpecError: an argument means nothing; the message says what to write.
    """
    _known("layer", unknown)
    made = _spec("layer", name, torch, jax, inputs, params, wrt, param_map, train, tolerance, precision)
    return replace(made, shared_randomness=_yes_or_no(shared_randomness))


def loss(
    torch: Any = None,
    jax: Any = None,
    *,
    inputs: Any = (),
    params: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | None = None,
    tolerance: Tolerances | None = None,
    precision: str = "highest",
    name: str | None = None,
    **unknown: Any,
) -> Spec:
    """A loss: scalar out, gradients with respect to every floating input. Inside a model it needs no inputs. Arguments as in layer()."""
    _known("loss", unknown)
    return _spec("loss", name, torch, jax, inputs, params, wrt, None, None, tolerance, precision)


def optimizer(
    torch: Any = None,
    jax: Any = None,
    *,
    params: Mapping[str, Any] | None = None,
    steps: int = 10,
    grads: Mapping[str, Any] | None = None,
    tolerance: Tolerances | None = None,
    name: str | None = None,
    **unknown: Any,
) -> Spec:
    """An optimizer: the same parameters and gradients on both sides; each step's *update* is compared.

    Args:
        torch: params -> torch.optim.Optimizer, or params -> (optimizer, learning rate scheduler).
        jax: an optax.GradientTransformation, or a jax.example_libraries.optimizers triple.
        params: draws of the parameters, by name. Left out inside a model.
        steps: how many.
        grads: draws of each step's gradient by parameter name; standard normal by default.
    """
    _known("optimizer", unknown)
    if torch is not None and not callable(torch):
        raise SpecError(
            f"the torch side of an optimizer is {title(torch)}. Give a function that makes it from the parameters: "
            "torch=lambda params: torch.optim.SGD(params, lr=0.1)."
        )
    made = _spec("optimizer", name, torch, jax, (), params, None, None, None, tolerance, "highest")
    given = {key: draws.as_draw(draw, f"grads[{key!r}]") for key, draw in (grads or {}).items()}
    for key in given:
        if key not in (made.params or {}):
            raise SpecError(f"grads names {key!r}, which is no parameter. The parameters are {_list(made.params or {})}.")
    return replace(made, inputs=MappingProxyType(given), steps=_steps(steps, "optimizer"))


def model(
    torch: Any = None,
    jax: Any = None,
    *,
    inputs: Any = None,
    loss: Spec | None = None,
    optimizer: Spec | None = None,
    steps: int | None = None,
    batches: Iterable[Sequence[Any]] | None = None,
    params: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | None = None,
    param_map: Mapping[str, Any] | None = None,
    train: bool | None = None,
    shared_randomness: bool = False,
    tolerance: Tolerances | None = None,
    precision: str = "highest",
    name: str | None = None,
    **unknown: Any,
) -> Spec:
    """A full model: outputs, loss, every gradient, and with an optimizer and `steps` the training trajectory.

    Args:
        inputs: as in layer(); those that the loss takes besides the model's output come last.
        loss: a dlp.loss without inputs. Without one, gradients are taken with a random cotangent as in layer().
        optimizer: a dlp.optimizer without params.
        steps: length of the trajectory; one pass over `batches` by default.
        batches: instead of inputs, real data: an iterable of tuples of numpy arrays, one tuple a step.
        Others as in layer().
    """
    _known("model", unknown)
    for kind, part in (("loss", loss), ("optimizer", optimizer)):
        if part is not None and (not isinstance(part, Spec) or part.kind != kind):
            raise SpecError(f"the {kind} of a model is {title(part)}. Write {kind}=dlp.{kind}(torch=..., jax=...).")
    if loss is not None and loss.inputs:
        raise SpecError(
            "the loss of a model has inputs of its own. Leave them out: it gets the model's output and the model's last inputs."
        )
    if optimizer is not None and optimizer.params:
        raise SpecError("the optimizer of a model has params of its own. Leave them out: it gets the model's parameters.")
    if optimizer is not None and loss is None:
        raise SpecError("the model has an optimizer but no loss. Add loss=dlp.loss(torch=..., jax=...): a step needs its gradient.")
    if steps is not None and optimizer is None:
        raise SpecError("the model has steps but no optimizer. Add optimizer=dlp.optimizer(torch=..., jax=...).")
    data = _batches(batches, inputs)
    if data:
        inputs = [draws.fixed(array) for array in data[0]]
    made = _spec("model", name, torch, jax, inputs, params, wrt, param_map, train, tolerance, precision)
    count = 0 if optimizer is None else _steps(steps if steps is not None else max(1, len(data)), "model")
    shared = _yes_or_no(shared_randomness)
    return replace(made, loss=loss, optimizer=optimizer, steps=count, batches=data, shared_randomness=shared)


def title(side: Any) -> str:
    """A side in a few words: a function's name, a module's class.

    >>> title(lambda x: x), title(print), title(None)
    ('<lambda>', 'print', 'None')
    """
    if isinstance(side, functools.partial):
        return title(side.func)
    if isinstance(side, Vmapped):
        return repr(side)
    if isinstance(side, tuple) and not hasattr(side, "_fields"):
        return f"({', '.join(title(part) for part in side)})"
    if inspect.isroutine(side) or isinstance(side, type) or hasattr(side, "__wrapped__"):
        return str(getattr(side, "__name__", type(side).__name__))
    return "None" if side is None else type(side).__name__


def _spec(
    kind: str,
    name: str | None,
    torch: Any,
    jax: Any,
    inputs: Any,
    params: Mapping[str, Any] | None,
    wrt: Sequence[str] | None,
    param_map: Mapping[str, Any] | None,
    train: bool | None,
    tolerated: Tolerances | None,
    precision: str,
) -> Spec:
    _sides(kind, torch, jax)
    keywords = isinstance(inputs, Mapping)
    flat = None if params is None else _params(kind, params)
    made = Spec(
        kind=kind,
        name=name or _own_name(torch) or kind,
        torch=torch,
        jax=jax,
        inputs=MappingProxyType(_inputs(kind, inputs)),
        keywords=keywords,
        params=None if flat is None else MappingProxyType({n: draws.as_draw(d, f"params[{n!r}]") for n, d in flat.items()}),
        params_tree=None if params is None else _names(params),
        wrt=None if wrt is None else _wrt(kind, wrt),
        param_map=param_map,
        train=train,
        tolerance=None if tolerated is None else tolerance.validated(tolerated),
        precision=precision,
    )
    clash = set(made.inputs) & set(made.params or {})
    if clash:
        raise SpecError(f"{_list(clash)} is the name of an input and of a parameter. Rename one of them.")
    if train not in (None, True, False):
        raise SpecError(f"train is {train!r}. Write True, False, or None to leave both sides as they are.")
    if precision not in PRECISIONS:
        raise SpecError(f'precision is {precision!r}. Write "highest" or "default".')
    if param_map is not None and not isinstance(param_map, Mapping):
        raise SpecError(f'param_map is {param_map!r}. Write a dict from torch names to jax paths: {{"weight": "kernel"}}.')
    return made


_SIDES = {
    "layer": ("a function of tensors or an nn.Module", "a function of arrays or a module"),
    "loss": ("a function of tensors or an nn.Module that returns a scalar", "a function of arrays that returns a scalar"),
    "optimizer": ("params -> torch.optim.Optimizer", "an optax transformation"),
    "model": ("an nn.Module", "a flax, equinox or haiku module, or a function of arrays"),
}


def _sides(kind: str, torch: Any, jax: Any) -> None:
    for side, given, wanted in zip(("torch", "jax"), (torch, jax), _SIDES[kind], strict=True):
        if given is None:
            raise SpecError(f"dlp.{kind} has no {side} side. Give {side}={wanted}.")
        if isinstance(given, (str, bytes, int, float, np.ndarray)):
            raise SpecError(f"the {side} side of dlp.{kind} is {given!r}. Give {side}={wanted}.")
    if _home(torch) in ("jax", "jaxlib", "flax", "optax", "equinox", "haiku"):
        raise SpecError(f"the torch side of dlp.{kind} is {title(torch)}, which belongs to {_home(torch)}: were the sides swapped?")
    if _home(jax) == "torch":
        raise SpecError(f"the jax side of dlp.{kind} is {title(jax)}, which belongs to torch: were the sides swapped?")


def _home(side: Any) -> str:
    """The package an object or its class belongs to."""
    homes = (
        [getattr(side, "__module__", "")]
        if inspect.isroutine(side) or isinstance(side, type)
        else [c.__module__ for c in type(side).__mro__]
    )
    return next((root for root in (str(home).split(".")[0] for home in homes) if root in _HOMES), "")


_HOMES = {"torch", "jax", "jaxlib", "flax", "optax", "equinox", "haiku"}


def _inputs(kind: str, inputs: Any) -> dict[str, Draw]:
    if inputs is None:
        raise SpecError(f"dlp.{kind} has no inputs. Give a list of draws: inputs=[dlp.normal(8, 64)].")
    if isinstance(inputs, Draw) or hasattr(inputs, "__array__") or isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
        raise SpecError(f"inputs is {inputs!r}. Give a list of draws, also where there is one: inputs=[dlp.normal(8, 64)].")
    if isinstance(inputs, Mapping):
        return {str(name): draws.as_draw(draw, f"inputs[{name!r}]") for name, draw in inputs.items()}
    given = [draws.as_draw(draw, f"inputs[{index}]") for index, draw in enumerate(inputs)]
    return {"input": given[0]} if len(given) == 1 else {f"input{index}": draw for index, draw in enumerate(given)}


def _params(kind: str, params: Any, root: str = "") -> dict[str, Any]:
    if not isinstance(params, Mapping) or (not params and not root):
        raise SpecError(f'the params of dlp.{kind} are {params!r}. Give a dict of draws: params={{"w": dlp.normal(32, 64)}}.')
    flat: dict[str, Any] = {}
    for key, value in params.items():
        more = _params(kind, value, f"{root}{key}.") if isinstance(value, Mapping) else {f"{root}{key}": value}
        if twice := flat.keys() & more.keys():
            raise SpecError(f"the params of dlp.{kind} have two arrays named {_list(twice)}. Rename one of them.")
        flat.update(more)
    return flat


def _names(params: Mapping[str, Any], root: str = "") -> Any:
    return {k: _names(v, f"{root}{k}.") if isinstance(v, Mapping) else f"{root}{k}" for k, v in params.items()}


def _yes_or_no(shared: Any) -> bool:
    if not isinstance(shared, bool):
        raise SpecError(f"shared_randomness is {shared!r}. Write True or False.")
    return shared


def _wrt(kind: str, wrt: Any) -> tuple[str, ...]:
    if isinstance(wrt, str) or not isinstance(wrt, Sequence) or not all(isinstance(name, str) for name in wrt):
        raise SpecError(f'the wrt of dlp.{kind} is {wrt!r}. Give a list of names: wrt=["input"], or wrt=[] for no gradients.')
    return tuple(wrt)


def _steps(steps: Any, kind: str) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SpecError(f"the steps of dlp.{kind} are {steps!r}. Give a whole number of at least 1.")
    return steps


def _batches(batches: Any, inputs: Any) -> tuple[tuple[np.ndarray, ...], ...]:
    if batches is None:
        return ()
    if inputs is not None:
        raise SpecError("the model has inputs and batches. Give one of them: batches are the inputs of each step.")
    data = tuple(tuple(np.array(array) for array in (batch if isinstance(batch, (tuple, list)) else (batch,))) for batch in batches)
    if not data:
        raise SpecError("batches is empty. Give at least one tuple of arrays: batches=[(images, labels)].")
    if len({len(batch) for batch in data}) > 1:
        raise SpecError(f"the batches have {_list({len(batch) for batch in data})} arrays. Give each batch the same number of arrays.")
    return data


def _known(kind: str, unknown: Mapping[str, Any]) -> None:
    if not unknown:
        return
    known = [name for name in inspect.signature(globals()[kind]).parameters if name != "unknown"]
    word = next(iter(unknown))
    near = difflib.get_close_matches(word, known, 1, 0.5)
    raise SpecError(f"dlp.{kind} has no argument {word!r}. " + (f"Write {near[0]}=." if near else f"Its arguments are {', '.join(known)}."))


def _own_name(side: Any) -> str:
    """A side's own name in lower case, "" where it has none (a lambda)."""
    name = title(side)
    return "" if name in ("<lambda>", "function") else name.lower().strip("_")


def _list(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
