"""Weights that carry themselves: a torch module's numbers in a jax model and back, and the mapping kept for a checkpoint."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pytest_dlparity import draws, proof, run, spec
from pytest_dlparity import param_map as maps
from pytest_dlparity.errors import SpecError
from pytest_dlparity.param_map import Carry, Doubt
from pytest_dlparity.proof import Agreement, Sides
from pytest_dlparity.spec import title

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]

FORMAT = "pytest-dlparity mapping, version 1"
SECONDS = 60.0  # that values may be asked
SHOWN = 3  # names in a sentence


@dataclass(frozen=True)
class Mapping:
    """Which torch array is which jax array, and in which layout. Prints as a table."""

    carries: tuple[Carry, ...]
    torch: MappingOf[str, Shape]  # every torch array that is carried
    jax: MappingOf[str, Shape]  # every jax array that is filled
    words: str  # how the outputs of both sides agree
    verified: bool = False  # they agree
    tied: MappingOf[str, str] = field(default_factory=dict)  # other names of torch's arrays
    unused: tuple[str, ...] = ()  # torch's arrays without a counterpart: masks, counters

    def __str__(self) -> str:
        return f"{maps.table(self.carries)}\n{self.words}"

    def param_map(self) -> str:
        """The mapping as a param_map to paste into a spec."""
        return maps.written(self.carries)

    def apply(self, state_dict: MappingOf[str, Any]) -> Arrays:
        """jax's arrays by path, of torch's arrays by name (tensors or arrays, of any dtype, which stays).

        Raises:
            SpecError: a name or a shape is not that of the torch module, in a sentence.
        """
        given = _models()[1].numbers(state_dict)
        _fits(given, {name: self.torch[first] for name, first in self.tied.items() if first in self.torch} | dict(self.torch), self)
        return maps.jax_arrays(self.carries, {name: given[name] for name in self.torch}, self.jax)

    def back(self, by_path: MappingOf[str, Any]) -> Arrays:
        """torch's arrays by name, of jax's arrays by path. Where torch has two biases and jax their sum, the first has it and the other zeros.

        Raises:
            SpecError: a path or a shape is not that of the jax model, or two jax arrays that are one in torch differ.
        """
        given = {path: np.asarray(array) for path, array in by_path.items()}
        _named("jax", given, self.jax)
        made = maps.torch_values(self.carries, given, self.torch)
        again = maps.jax_arrays(self.carries, made, self.jax)
        for path, array in again.items():
            if not np.array_equal(array, given[path], equal_nan=array.dtype.kind in "fc"):
                (first, *_) = [carry.torch for carry in self.carries if carry.jax == path]
                raise SpecError(
                    f'jax "{path}" is torch "{first}", and so is another jax array with other numbers: torch has one array for both. '
                    "Tie them on the jax side, or untie them in torch."
                )
        return made | {name: made[first] for name, first in self.tied.items() if first in made}


# ---------------------------------------------------------------- what a user calls


def mapping(
    torch: Any,
    jax: Any,
    inputs: Any = None,
    *,
    param_map: MappingOf[Any, Any] | None = None,
    train: bool | None = False,
    seconds: float = SECONDS,
) -> Mapping:
    """Which array of a torch module is which of a jax model.

    Names, shapes and known layouts decide; with `inputs`, both models run once in float64 with random numbers for parameters: that shows
    whether the outputs agree, and where names leave a doubt, which array makes the values that torch has.

    Args:
        torch: an nn.Module.
        jax: a model of flax.nnx, flax.linen, equinox, haiku or stax, or dlp.vmap of one.
        inputs: draws or arrays, a list of positional ones or a dict, as in dlp.layer. linen, haiku and stax need them.
        param_map: what is known, as in dlp.layer.
        train: the mode of both models.
        seconds: the longest that values are asked.

    Raises:
        SpecError: what stays in doubt, with what was found out and the line to write.
    """
    _sided(torch, jax)
    if inputs is None and _models()[0].needs_inputs(jax):
        raise SpecError(f"{title(jax)} makes its parameters from inputs. Give some: inputs=[dlp.normal(2, 8)].")
    made = spec.layer(torch=torch, jax=jax, inputs=[] if inputs is None else inputs, param_map=param_map, train=train)
    sides = run.sides(made, 0, ())
    carries, found = _decided(sides, param_map, seconds, inputs is not None)
    used = {carry.torch for carry in carries}
    torch_shapes = {leaf.name: leaf.shape for leaf in sides.torch_leaves}
    jax_shapes = {leaf.path: leaf.shape for leaf in sides.jax_leaves}
    return Mapping(
        carries,
        {name: shape for name, shape in torch_shapes.items() if name in used},
        {path: jax_shapes[path] for path in dict.fromkeys(carry.jax for carry in carries)},
        found.words,
        found.holds,
        run.frameworks()[0].tied(torch),
        tuple(name for name in torch_shapes if name not in used),
    )


def carry(
    source: Any,
    target: Any,
    inputs: Any = None,
    *,
    mapping: Mapping | None = None,
    values: Any = None,
    param_map: MappingOf[Any, Any] | None = None,
    train: bool | None = False,
    seconds: float = SECONDS,
    check: bool = True,
) -> Any:
    """The target model with the source's weights. Neither is changed.

    Args:
        source, target: an nn.Module and a jax model, in the direction of the weights. With a `mapping`, the source may also be a
            checkpoint: torch's arrays by name.
        mapping: one that was made or loaded before; nothing is inferred then.
        values: linen's variables, haiku's params or (params, state), or stax's tree, where a jax model is the source and does not hold its
            numbers, or where it is the target and they are there to be filled.
        check: False carries also where the outputs of the two models differ, or were not compared because no inputs were given.
        Others as in dlp.mapping.

    Returns:
        A new nnx or equinox module ((module, state) for one that keeps state), linen's variables, haiku's params or (params, state), stax's
        tree; in the other direction a deep copy of the nn.Module.

    Raises:
        SpecError: what stays in doubt; the outputs differ; or the mapping was made for others.
    """
    jax_models, torch_models = _models()
    to_jax = not run.frameworks()[0].is_module(target)
    torch, jax = (source, target) if to_jax else (target, source)
    found = mapping
    if found is None:
        found = _made(torch, jax, inputs, param_map=param_map, train=train, seconds=seconds)
        if check and inputs is not None and not found.verified:
            raise SpecError(
                f"{found.words}, so this is not the same model, or not these are its weights. dlp.check shows where they part; "
                f"check=False carries the weights all the same:\n{maps.table(found.carries)}"
            )
    args, kwargs = _examples(torch, jax, inputs)
    if not to_jax:
        return torch_models.filled(torch, found.back(_only(jax_models.numbers(jax, args, kwargs, values), found.jax)))
    arrays = found.apply(source if isinstance(source, MappingOf) else torch_models.arrays(source))
    there = jax_models.numbers(jax, args, kwargs, values)
    _named("jax", there, found.jax)
    return jax_models.filled(jax, arrays, args, kwargs, values)


def save_mapping(mapping: Mapping, path: Any) -> None:
    """Writes a mapping as JSON."""
    text = {
        "format": FORMAT,
        "torch": {name: list(shape) for name, shape in mapping.torch.items()},
        "jax": {name: list(shape) for name, shape in mapping.jax.items()},
        "carries": [{"torch": c.torch, "jax": c.jax, "pattern": c.pattern, "sizes": dict(c.sizes), "how": c.how} for c in mapping.carries],
        "tied": dict(mapping.tied),
        "unused": list(mapping.unused),
        "words": mapping.words,
        "verified": mapping.verified,
    }
    Path(path).write_text(json.dumps(text, indent=1) + "\n")


def load_mapping(path: Any) -> Mapping:
    """A mapping that save_mapping wrote.

    Raises:
        SpecError: the file is none, or what it says does not fit together.
    """
    try:
        text = json.loads(Path(path).read_text())
        assert text["format"] == FORMAT
        found = Mapping(
            tuple(Carry(c["torch"], c["jax"], c["pattern"], tuple(c["sizes"].items()), c["how"]) for c in text["carries"]),
            {name: tuple(shape) for name, shape in text["torch"].items()},
            {name: tuple(shape) for name, shape in text["jax"].items()},
            text["words"], bool(text["verified"]), dict(text["tied"]), tuple(text["unused"]),
        )  # fmt: skip
    except OSError:
        raise
    except Exception as error:
        raise SpecError(f"{path} is no mapping that dlp.save_mapping of this version wrote.") from error
    if wrong := _unsound(found):
        raise SpecError(f"the mapping in {path} does not fit together: {wrong}")
    return found


# ---------------------------------------------------------------- how it is decided


def _decided(sides: Sides, given: MappingOf[Any, Any] | None, seconds: float, has_inputs: bool) -> tuple[tuple[Carry, ...], Agreement]:
    """By name; by value, where that is in doubt or the outputs then differ."""
    doubt: Doubt | None = None
    found: tuple[tuple[Carry, ...], Agreement] | None = None
    try:
        carries = maps.carries(sides.torch_leaves, sides.jax_leaves, given)
        found = (
            carries,
            proof.agreement(sides, carries) if has_inputs else Agreement(float("inf"), "the outputs were not compared: no inputs"),
        )
    except Doubt as error:
        doubt = error
    if not has_inputs:
        if found is None:
            raise _without_inputs(doubt) from None
        return found
    for hold in (True, False):
        if found is not None and (found[1].holds or hold):
            continue
        try:
            carries = proof.carries(sides, given, doubt or _open(found), seconds, hold)
        except Doubt as error:
            doubt = error if found is None and hold else doubt
            continue
        asked = carries, proof.agreement(sides, carries)
        found = asked if found is None or asked[1].holds else found
    if found is None:
        assert doubt is not None
        raise doubt
    return found


def _open(found: tuple[tuple[Carry, ...], Agreement] | None) -> Doubt:
    """Everything in doubt but what the user gave."""
    doubt = Doubt("the outputs differ")
    doubt.given = tuple(carry for carry in found[0] if carry.how == "given") if found else ()
    return doubt


def _without_inputs(doubt: Doubt | None) -> SpecError:
    *lines, last = str(doubt).splitlines()
    return SpecError("\n".join([*lines, "With inputs=[...] the values of both models may tell.", last]))


_made = mapping  # `carry` has an argument of that name


# ---------------------------------------------------------------- what fits


def _sided(torch: Any, jax: Any) -> None:
    if isinstance(torch, MappingOf):
        raise SpecError(
            "the torch model is a dict of arrays. Give an nn.Module, or mapping= for a checkpoint: dlp.mapping(module, model, inputs) makes one."
        )
    if not run.frameworks()[0].is_module(torch):
        raise SpecError(f"the torch model is {title(torch)}. Give an nn.Module.")
    if _models()[0].library(jax) is None:
        raise SpecError(f"the jax model is {title(jax)}. Give a module of flax.nnx, flax.linen, equinox, haiku or stax.")


@functools.cache
def _models() -> tuple[Any, Any]:
    from pytest_dlparity.frameworks import jax_models, torch_models

    return jax_models, torch_models


def _examples(torch: Any, jax: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None:
        return (), {}
    made = spec.layer(torch=torch, jax=jax, inputs=inputs)
    arrays = {name: draws.drawn(draw, 0, name) for name, draw in made.inputs.items()}
    return ((), arrays) if made.keywords else (tuple(arrays.values()), {})


def _only(arrays: Arrays, wanted: MappingOf[str, Shape]) -> Arrays:
    return {path: array for path, array in arrays.items() if path in wanted}


def _fits(given: Arrays, known: MappingOf[str, Shape], mapping: Mapping) -> None:
    """Nothing, where the arrays are those of the torch module."""
    extra = [name for name in given if name not in known and name not in mapping.unused]
    _named("torch", {name: array for name, array in given.items() if name in known}, {n: s for n, s in known.items() if n in mapping.torch})
    if extra:
        raise SpecError(f"the mapping does not know torch {_some(extra)}. Leave out what belongs to another model.")
    for name, first in mapping.tied.items():
        if name in given and not np.array_equal(given[name], given[first]):
            raise SpecError(
                f'torch "{name}" and "{first}" are one array in the module of the mapping, and two here. Map the module that has two.'
            )


def _named(side: str, given: Arrays, known: MappingOf[str, Shape]) -> None:
    missing = [name for name in known if name not in given]
    if missing:
        raise SpecError(f"the mapping needs {side} {_some(missing)}, which {'is' if len(missing) == 1 else 'are'} not there.")
    for name, shape in known.items():
        if given[name].shape != tuple(shape):
            raise SpecError(f'{side} "{name}" has the shape {list(given[name].shape)}, and in the mapping {list(shape)}.')


def _some(names: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _unsound(mapping: Mapping) -> str:
    """What is wrong with a mapping: "" nothing."""
    try:
        for one in mapping.carries:
            maps.checked(one, mapping.torch[one.torch], mapping.jax[one.jax])
        wrong = maps.uncovered(mapping.carries, mapping.torch, mapping.jax)
    except KeyError as error:
        return f"it has no shape for {error}."
    except SpecError as error:
        return str(error)
    return wrong[0] if wrong else ""
