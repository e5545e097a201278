"""Why two sides differ, where the cause has a name: a hypothesis is a change of one side, and it is named only when the difference vanishes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from pytest_dlparity import run
from pytest_dlparity.calls import Call
from pytest_dlparity.diagnose import (
    activations,
    agreement,
    attention,
    convolutions,
    generic,
    gradients,
    indexing,
    jaxprs,
    layout,
    losses,
    normalisation,
    optimizers,
    pooling,
    recurrent,
    resizing,
    search,
)  # fmt: skip
from pytest_dlparity.diagnose.cause import Cause
from pytest_dlparity.diagnose.search import Search, Side
from pytest_dlparity.diagnose.variant import Variant
from pytest_dlparity.reference import Reference
from pytest_dlparity.run import Arrays, Prepared

__all__ = ["Cause", "causes"]

FAMILIES: tuple[Callable[[Call], Iterator[Variant]], ...] = (
    *(family.variants for family in (
        normalisation, activations, losses, convolutions, pooling, attention, resizing, indexing, recurrent, layout, gradients,
    )),
    generic.reductions, generic.complex_numbers, generic.unused, generic.dropout, generic.rounded, generic.constants, generic.factors, generic.structure,
)  # fmt: skip


def causes(prep: Prepared, reference: Reference, deadline_s: float = 10.0, near: Any = None) -> list[Cause]:
    """The cause of a disagreement in float64, tested by running one side again with it; [] where none of those known holds.

    Args:
        near: a Localization, or places (`file`, `line`, `module`), whose calls are tried first.
    """
    if reference.problem:
        return []
    of_optimizer = optimizers.of(prep, reference, deadline_s / 2)
    if of_optimizer or prep.job.kind == "optimizer":
        return of_optimizer
    return search.causes(searched(prep, reference, deadline_s, near))


def searched(prep: Prepared, reference: Reference, deadline_s: float, near: Any = None) -> Search:
    """Every hypothesis that there was time for, with what became of it."""
    found = Search(prep, reference, time.perf_counter() + deadline_s)
    if reference.problem or not found.before.apart:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a hypothesis warns of is nobody's concern, and under -W error it would fail by it
        return _looked(found, near)


def _looked(found: Search, near: Any) -> Search:
    try:
        side, calls = _torch(found.prep)
    except Exception as error:  # noqa: BLE001  a side that does not run under a TorchFunctionMode: jax's is still there
        found.refuse(f"torch: {type(error).__name__}", error)
        _of_jax(found)
        return found
    if _is_narrow(found.prep, calls):
        found = Search(found.prep, found.reference, found.until, agreement.NARROW)
    found.sizes = {n for call in calls for _, array in call.arrays() for n in array.shape if n > 1}
    tried = list(search.hypotheses(calls, _variants(found, calls), _near(near), found.forward))
    _tried(found, side, tried)
    _of_jax(found)
    if not found.found:
        _pairs(found, side, tried)
    return found


def _is_narrow(prep: Prepared, calls: list[Call]) -> bool:
    """Whether a side computes in less than double precision inside its float64 run: then it can agree to no more."""
    if any(call.out is not None and call.out.dtype in ("float32", "bfloat16", "float16") for call in calls):
        return True
    _, jax_side = run.frameworks()
    traces = [trace for key, made in prep.compiled.items() if key[2:] == ("float64", True) for trace in made.traces.values()]
    return bool(jax_side.narrow_casts(traces))


def _tried(found: Search, side: Side, hypotheses: Iterable[search.Hypothesis]) -> None:
    for one in hypotheses:
        if found.late:
            return
        changes_values = not found.forward and one.family not in search.OF_GRADIENTS
        if one.rank <= found.simplest and not (found.found and changes_values):  # nothing less simple would be said
            found.attempt(side, one)


def _of_jax(found: Search) -> None:
    """Changes of the jax side: where torch's explain nothing by name, and where the jax side's own line can be told."""
    families, named = {one.family for one, _ in found.found}, found.simplest <= search.NAMED
    if found.until - time.perf_counter() < found.reference.seconds or (named and not families & {"activation", "cast", "detach"}):
        return  # each of these is compiled anew, as the reference was
    try:
        side, read = jaxprs.side(found.prep)
    except Exception as error:  # noqa: BLE001  as in Search.attempt
        found.refuse(f"jaxpr: {type(error).__name__}", error)
        return
    if not named or "activation" in families:
        _tried(found, side, jaxprs.of_functions(read))
    if not named or "cast" in families:
        _tried(found, side, jaxprs.of_casts(read))
    if not found.forward:
        _tried(found, side, jaxprs.of_stops(read))
    elif not named:
        _tried(found, side, jaxprs.of_numbers(read))
        _tried(found, side, jaxprs.of_whole_numbers(read))


def _pairs(found: Search, side: Side, tried: list[search.Hypothesis]) -> None:
    for _, part in sorted(found.parts, key=lambda p: p[0])[: search.PARTS]:
        for one in tried:
            if found.late:
                return
            if one.side == part.side == side.name and not set(one.changes) & set(part.changes):
                found.attempt(side, one, (part,))


def _variants(found: Search, calls: list[Call]) -> Iterator[tuple[Call, Variant]]:
    for call in calls:
        for family in FAMILIES if found.forward else (*FAMILIES, gradients.cuts):
            yield from ((call, variant) for variant in _proposed(found, family, call))
        yield from ((call, variant) for variant in _proposed(found, lambda c: activations.products(c, calls), call))


def _proposed(found: Search, family: Callable[[Call], Iterator[Variant]], call: Call) -> Iterator[Variant]:
    """What a family proposes; a call whose arguments are none that it knows is left alone, and counted."""
    try:
        yield from family(call)
    except Exception as error:  # noqa: BLE001  as in Search.attempt
        found.refuse(f"{call.name}: {type(error).__name__}", error)


def _torch(prep: Prepared) -> tuple[Side, list[Call]]:
    """The torch side to be run with changes, and the calls that it makes."""
    from pytest_dlparity.frameworks import torch_repair

    forward = prep.job._replace(wrt=(), steps=0)
    sides = {True: _ready(prep)}

    def made(at: Prepared, changes: dict[Any, Any], gradients: bool) -> Arrays:
        side = sides[True] if at is prep else _ready(at)
        plan = at if gradients else replace(at, job=forward)
        return run.torch_outcome(plan, torch_repair.changing(side, at.job, changes), "cpu", "float64").leaves

    side, calls, close = torch_repair.recording(sides[True], prep.job)
    try:
        run.torch_outcome(prep, side, "cpu", "float64")
    finally:
        close()
    return Side("torch", made), calls


def _ready(prep: Prepared) -> Any:
    return run.torch_ready(prep, "cpu", "float64", False)


def _near(near: Any) -> Callable[[Call], bool]:
    """Whether a call stands where a Localization says that the sides part, or at one of these places."""
    places: Iterable[Any] = () if near is None else [near.torch, *(torch for torch, _ in near.more)] if hasattr(near, "torch") else near
    known = {(place.file.rsplit("/", 1)[-1], place.line) for place in places if place is not None}
    return lambda call: (call.file.rsplit("/", 1)[-1], call.line) in known
