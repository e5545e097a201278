"""Entries as specs: all of them by family, each held against what an entry can be, and the spec of one entry, one library and one case."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

import pytest_dlparity.catalog as package
from pytest_dlparity import draws, parity
from pytest_dlparity import spec as specs
from pytest_dlparity.catalog.code import evaluated
from pytest_dlparity.catalog.entry import LIBRARIES, Entry, Equivalent, Inputs
from pytest_dlparity.draws import Draw
from pytest_dlparity.errors import SpecError
from pytest_dlparity.spec import Spec
from pytest_dlparity.tolerance import DTYPES

# the modules of the package that are no families
CORE = ("atlas", "code", "entry", "items", "jax_side", "judge", "like", "mutations", "specs", "ties", "torch_side")
KINDS = ("layer", "loss", "optimizer", "model")
WRITTEN = ("loss", "optimizer")  # options of a model that are code


@cache
def families() -> dict[str, tuple[Entry, ...]]:
    """The entries of each family: every module of the package beside its core has `ENTRIES`.

    Raises:
        SpecError: an entry that means nothing.
    """
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.name not in CORE)
    found = {name: tuple(import_module(f"{package.__name__}.{name}").ENTRIES) for name in names}
    validate([entry for family in found.values() for entry in family])
    return found


def entries() -> dict[str, Entry]:
    """Every entry by its name."""
    return {entry.name: entry for family in families().values() for entry in family}


# ---------------------------------------------------------------- the spec of one case


def spec(entry: Entry, library: str, case: str, seed: int = 0) -> Spec:
    """The spec of an entry in one library at one of its cases or edges.

    Args:
        seed: of the modules' own parameters.

    Raises:
        SpecError: the entry has no such library or case.
    """
    way = equivalent(entry, library)
    if case not in cases(entry, way):
        raise SpecError(f"entry {entry.name!r} has no case {case!r} in {library}. It has {', '.join(cases(entry, way))}.")
    from pytest_dlparity.catalog import jax_side

    torch = torch_side_of(entry, way, seed)
    with jax_side.hasty():
        jax = evaluated(way.code)
    options = {
        name: evaluated(value) if name in WRITTEN and isinstance(value, str) else value
        for name, value in {**entry.options, **way.options}.items()
    }
    inputs = cases(entry, way)[case]
    if way.channels_last:
        inputs = _moved(inputs)
    where: dict[str, Any] = {"params": inputs} if entry.kind == "optimizer" else {"inputs": inputs}
    name = f"{entry.name} [{library}, {case}]"
    return _MAKERS[entry.kind](torch=torch, jax=jax, name=name, **where, **options)


def torch_side_of(entry: Entry, way: Equivalent, seed: int) -> Any:
    """The torch side of an entry as one equivalent is held against it: a module with the parameters of that seed, or a function."""
    from pytest_dlparity.catalog import torch_side

    with parity.seeded(seed):
        made = torch_side.stirred(torch_side.made(evaluated(entry.torch)))
    return torch_side.wrapped(made) if way.channels_last else made


_MAKERS: dict[str, Callable[..., Spec]] = {kind: getattr(specs, kind) for kind in KINDS}


def equivalent(entry: Entry, library: str) -> Equivalent:
    ways = entry.equivalents()
    if library not in ways:
        raise SpecError(f"entry {entry.name!r} has no equivalent in {library!r}. It has {', '.join(ways)}.")
    return ways[library]


def cases(entry: Entry, way: Equivalent) -> dict[str, Inputs]:
    """The cases and edges that an equivalent runs."""
    every = {**entry.cases, **entry.edges}
    return {name: inputs for name, inputs in every.items() if not way.cases or name in way.cases}


def _moved(inputs: Inputs) -> Inputs:
    """The inputs with their channels last."""
    if isinstance(inputs, Mapping):
        return {name: _last(draws.as_draw(given, name)) for name, given in inputs.items()}
    return [_last(draws.as_draw(given, f"inputs[{index}]")) for index, given in enumerate(inputs)]


def _last(draw: Draw) -> Draw:
    def make(rng: np.random.Generator) -> np.ndarray:
        made = np.asarray(draw.make(rng))
        return np.moveaxis(made, 1, -1) if made.ndim > 2 else made

    return Draw(f"{draw!r} with channels last", make)


# ---------------------------------------------------------------- what an entry can be


def validate(given: Iterable[Entry]) -> None:
    """
    Raises:
        SpecError: one of the entries means nothing, or two have one name.
    """
    seen: set[str] = set()
    for entry in given:
        if wrong := next(iter(problems(entry)), ""):
            raise SpecError(f"catalogue entry {entry.name!r} {wrong}")
        if entry.name in seen:
            raise SpecError(f"catalogue entry {entry.name!r} stands there twice. Rename one of them.")
        seen.add(entry.name)


def problems(entry: Entry) -> Iterable[str]:
    """What is wrong with an entry, a sentence each that follows its name."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name):
        yield "has a name that is not lower case with hyphens: conv2d-strided."
    if entry.kind not in KINDS:
        yield f"is of kind {entry.kind!r}. The kinds are {', '.join(KINDS)}."
    for library in (*entry.jax, *entry.missing):
        if library not in LIBRARIES:
            yield f"names the library {library!r}. The libraries are {', '.join(LIBRARIES)}."
    also = [library for way in entry.equivalents().values() for library in way.also]
    yield from _unknown("is also that of the library", also, LIBRARIES, "libraries")
    for library in (*entry.missing, *also):
        if library in entry.jax:
            yield f"has an equivalent in {library} and says that {library} has none. Take one of them out."
    if not entry.jax:
        yield "has no equivalent, so nothing would be compared. Give jax={library: code}."
    if not entry.cases:
        yield 'has no cases, so nothing would be compared. Give cases={"odd": [dlp.normal(3, 5)]}.'
    for case in entry.edges:
        if case in entry.cases:
            yield f"has a case and an edge named {case!r}. Rename one of them."
    yield from _unknown("is for the dtype", entry.dtypes, DTYPES, "dtypes")
    for topic, said in entry.notes.items():
        if not said.endswith(")"):
            yield f"has a note of {topic!r} without a source. Write it at the end, in parentheses: (torch.nn.Linear)."
    every = {**entry.cases, **entry.edges}
    for library, way in entry.equivalents().items():
        yield from _unknown(f"runs in {library} only the case", way.cases, every, "cases")
        for known in way.differs:
            yield from _unknown(f"differs in {library} in the case", [known.case], cases(entry, way), "cases it runs")
            yield from _unknown(f"differs in {library} in the dtype", known.dtypes, DTYPES, "dtypes")
            if not known.says or not known.source:
                yield f"differs in {library} at {known.leaf} without words or without a source. Give says= and source=."


def _unknown(text: str, names: Iterable[str], known: Iterable[str], what: str) -> Iterable[str]:
    known = list(known)
    for name in names:
        if name not in known:
            yield f"{text} {name!r}. The {what} are {', '.join(known)}."
