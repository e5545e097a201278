"""Why two optimizers part: the formula of each side, fitted to the steps it made, and what differs between the two.

torch's class says which formula it starts from. A formula is believed when it gives every element of every recorded update up to rounding.
What is named is the smallest change of it that gives jax's: one switch or number, the defaults of a library together, a schedule, or two changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import run
from pytest_dlparity.diagnose import optimizer_formula, optimizer_schedule, optimizer_search, optimizer_torch, optimizer_words
from pytest_dlparity.diagnose.cause import Cause
from pytest_dlparity.diagnose.optimizer_formula import ULP32, Formula, Record, simulate
from pytest_dlparity.diagnose.optimizer_torch import Group
from pytest_dlparity.diagnose.optimizer_words import Said

Arrays = Mapping[str, np.ndarray]
MOST = 5_000_000  # numbers (elements times steps) that are kept of a side; of longer runs the first steps
NO_ARGUMENT = "; optax has no argument for it"
MANY = 3  # more explanations than these for the same steps are none


def causes(
    updates_torch: Sequence[Arrays],
    updates_jax: Sequence[Arrays],
    params: Arrays,
    grads: Sequence[Arrays],
    optimizer_name: str,
    hyper: Sequence[Sequence[Group]],
    *,
    grads_jax: Sequence[Arrays] | None = None,
    every: int = 1,
    seconds: float = 10.0,
) -> list[Cause]:
    """What makes the updates of two optimizers differ; [] where they do not, or where no change of a formula that is known explains it.

    Args:
        updates_torch, updates_jax: the update of each step by parameter, float64; or one row, what all steps did together.
        params: at the beginning, equal on both sides.
        grads: of each step, torch's, and jax's where `grads_jax` does not give them.
        optimizer_name: torch's class, "AdamW".
        hyper: torch's param_groups at each step, their parameters by name.
        every: torch moves by the sum of so many gradients.
        seconds: for the search. When they are over without a finding there is none.
    """
    torch, jax = (optimizer_formula.record(params, g, u) for g, u in ((grads, updates_torch), (grads_jax or grads, updates_jax)))
    if not (torch.grads.size and torch.is_finite and jax.is_finite and np.any(jax.moved)):
        return []
    until = time.perf_counter() + seconds
    candidates = optimizer_torch.formulas(optimizer_name, hyper, torch.names)
    ours = own([replace(formula, every=every, mean=False) if every > 1 else formula for formula in candidates], torch, seconds)
    if ours is None or not np.any(ours.lr):
        return []
    at = _search(ours, jax, until)
    found = None if at is None else _said(_looked_for(at), at)
    error = optimizer_formula.relative(simulate(ours, torch).moved, torch)
    same = float(np.linalg.norm(jax.grads[0] - torch.grads[0])) <= 1e-9 * float(np.linalg.norm(torch.grads[0]))
    on = "" if same else "on its own gradients "
    return [] if found is None else [_cause(ours, jax, found, error, on)._replace(leaves=_apart(torch, jax))]


class Parted(NamedTuple):
    """What jax does instead, in one of several equally good ways."""

    ways: list[tuple[list[Said], str]]  # what differs, and optax's line
    error: float  # relative, of jax's updates under the formula
    before: float


def own(candidates: Iterable[Formula], torch: Record, seconds: float) -> Formula | None:
    """torch's formula: the class's, or one change from it (clipped gradients leave no trace in param_groups)."""
    for formula in candidates:
        at = optimizer_search.search(formula, torch, seconds)
        if at is None:
            return formula
        found = optimizer_search.singly(at)
        found = [made for made in found if optimizer_search.is_usual(made, formula)] or found
        if len(found) == 1 and (at.seen is at.whole or at.exact(found[0], at.whole)):
            return found[0]
    return None


def explained(ours: Formula, jax: Record, until: float) -> list[Formula] | None:
    """The formulas, equally near to ours, that give what jax did; None where ours does, [] where none is found."""
    at = _search(ours, jax, until)
    return None if at is None else _looked_for(at)


def _search(ours: Formula, jax: Record, until: float) -> optimizer_search.Search | None:
    at = optimizer_search.search(ours, jax, until - time.perf_counter())
    if at is None or not (ours.varies and jax.each):
        return at
    return replace(at, slack=8 * ULP32 * float(np.abs(ours.lr).max()))  # optax's schedules are those of single precision


def _looked_for(at: optimizer_search.Search) -> list[Formula]:
    unusual: list[Formula] = []
    for look in LOOKS:
        found = [formula for formula in look(at) if at.seen is at.whole or at.exact(formula, at.whole)]
        usual = [formula for formula in found if optimizer_search.is_usual(formula, at.formula)]
        if at.is_late:
            return []  # what else would do as well is not known
        if usual:
            return usual
        unusual = unusual or found
    return unusual


def _in_single(at: optimizer_search.Search) -> list[Formula]:
    """The same formula at learning rates that went through single precision."""
    if at.slack is None or not at.exact(at.formula, at.seen):
        return []
    return [replace(at.formula, lr=simulate(at.formula, at.seen, at.slack).lr)]


def _scheduled(at: optimizer_search.Search) -> list[Formula]:
    """Another schedule."""
    return [formula for formula in _with_free_rates(at, at.formula) if optimizer_schedule.is_named(at.formula.lr, formula.lr)]


def _scheduled_too(at: optimizer_search.Search) -> list[Formula]:
    """Another schedule, and one other change."""
    loose = replace(at, slack=math.inf)
    found: list[Formula] = []
    for change in optimizer_search.neighbours(at.formula, at.seen):
        if at.is_late:
            return []
        made = None if "lr" in change.free else loose.solved(change)
        if made is not None:
            found += [formula for formula in _with_free_rates(at, made) if optimizer_schedule.is_named(at.formula.lr, formula.lr)]
    return optimizer_search.distinct(found, at.formula)


def _factored(at: optimizer_search.Search) -> list[Formula]:
    """Some number of its own at each step, which three elements or more agree on."""
    return _with_free_rates(at, at.formula)


def _with_free_rates(at: optimizer_search.Search, formula: Formula) -> list[Formula]:
    seen = at.seen
    if formula.kind == "rprop" or formula.clips == "update" or formula.every > 1:
        return []
    if seen.grads.shape[1] < 3 * (1 if seen.each else seen.steps) or (not seen.each and (formula.decay or formula.lr_inside)):
        return []
    rates = simulate(formula, seen, math.inf).lr if seen.each else _rates_together(formula, seen)
    made = replace(formula, lr=rates)
    if not made.varies:
        made = replace(made, lr=np.full_like(rates, float(f"{rates[0]:.12g}")))
    return [made] if at.exact(made, seen) else []


def _rates_together(formula: Formula, seen: Record) -> np.ndarray:
    """The learning rate of each step from what all did together, which is linear in them."""
    steps = [simulate(replace(formula, lr=row), seen).moved[0] for row in np.eye(seen.steps)]
    rates = np.linalg.lstsq(np.stack(steps, 1), seen.moved[0], rcond=None)[0]
    return np.where(np.abs(rates) <= 1e-12 * np.abs(rates).max(), 0.0, rates)


def _shared(at: optimizer_search.Search) -> list[Formula]:
    """Another learning rate for some of the parameters."""
    f, seen = at.formula, at.seen
    if len(seen.names) < 2 or len(seen.names) > 64 or f.clip or f.kind == "rprop" or not seen.each:
        return []
    factors = [_factor(f, seen, name) for name in seen.names]
    ours = f.shares or (1.0,) * len(factors)
    shares = tuple(a if abs(by - 1) <= 8 * ULP32 else a * by for a, by in zip(ours, factors, strict=True))
    made = replace(f, shares=shares)
    return [made] if shares != ours and any(a == b for a, b in zip(ours, shares, strict=True)) and at.exact(made, seen) else []


def _factor(f: Formula, seen: Record, name: str) -> float:
    """What one parameter's learning rate is multiplied by on the jax side, by least squares."""
    one = seen.only(name)
    made = simulate(replace(f, shares=None if f.shares is None else (f.shares[seen.names.index(name)],)), one).moved
    square = float(np.sum(made * made))
    found = float(np.sum(made * one.moved)) / square if square else 1.0
    return next((short for digits in range(1, 7) if abs((short := float(f"{found:.{digits}g}")) - found) <= 1e-10), found)


LOOKS = (
    _in_single, optimizer_search.singly, _scheduled, _shared, optimizer_search.together, _scheduled_too, optimizer_search.pairs, _factored,
)  # fmt: skip


# ---------------------------------------------------------------- what is said


def _said(found: Sequence[Formula], at: optimizer_search.Search) -> Parted | None:
    if not found:
        return None
    ours = at.formula
    ways, errors = [], []
    for theirs in found:
        said, replaced = _words(ours, theirs, at)
        ways.append((said, _line(ours, theirs, said, at.seen.names)))
        errors.append(optimizer_formula.relative(simulate(replaced, at.whole).moved, at.whole))
    fewest = min(len(said) for said, _ in ways)
    ways = [way for way in ways if len(way[0]) == fewest]
    return Parted(ways, max(errors), at.before) if len(ways) <= MANY else None


def _line(ours: Formula, theirs: Formula, said: Sequence[Said], names: Sequence[str]) -> str:
    if optimizer_words.family(ours) != optimizer_words.family(theirs) and not ours.varies:
        return optimizer_words.whole(ours, names)
    apart = set(optimizer_words.changed(ours, theirs))
    scheduled = next((part.schedule for part in said if part.schedule), "")
    if ("lr" in apart and ours.varies and not scheduled) or "shares" in apart:
        return ""
    return optimizer_words.line(ours, apart, names, scheduled)


def _words(ours: Formula, theirs: Formula, at: optimizer_search.Search) -> tuple[list[Said], Formula]:
    most = int(np.argmax(np.abs(ours.lr)))
    if np.allclose(theirs.lr, theirs.lr[most] / ours.lr[most] * ours.lr, rtol=1e-10, atol=0):  # also where a rate of torch's is 0
        alone = _also_later(ours, theirs, optimizer_words.differences(ours, theirs, at.seen.names))
        return _also_updates(ours, theirs, at.whole, alone), theirs
    said, rates = optimizer_schedule.difference(ours.lr, theirs.lr)
    others = optimizer_words.differences(ours, replace(theirs, lr=ours.lr), at.seen.names)
    return [said, *others], replace(theirs, lr=rates)


def _also_later(ours: Formula, theirs: Formula, said: list[Said]) -> list[Said]:
    """A factor of the learning rates is, where these fall by one factor, also the schedule of another step."""
    later = optimizer_schedule.moved_on(ours.lr, theirs.lr) if ours.varies and "lr" in optimizer_words.changed(ours, theirs) else None
    if later is None:
        return said
    return [Said(f"{later[0].what} ({said[0].what})", later[0].repair, later[0].schedule), *said[1:]]


def _also_updates(ours: Formula, theirs: Formula, jax: Record, said: list[Said]) -> list[Said]:
    """A clip that came after the optimizer, where updates are small, clips as little as none."""
    if not ours.clip or theirs.clip:
        return said
    starts = np.repeat(jax.starts[:1], jax.steps, 0)
    moves = simulate(theirs, replace(jax, starts=starts, moved=np.zeros_like(starts))).moved
    if 2 * float(np.linalg.norm(moves, axis=1).max()) > ours.clip_at:
        return said
    also = "nothing in these steps, as it would if it clipped the updates"
    return [part._replace(what=part.what.replace("nothing in these steps", also)) for part in said]


def _cause(ours: Formula, jax: Record, found: Parted, own: float, on: str = "") -> Cause:
    """The finding in a sentence; `own` is the relative error of torch's formula for torch."""
    bits = optimizer_formula.bits(max(own, found.error))
    agree = f"{on}jax's updates agree to {bits:.0f} of 53 bits" if on else f"the updates agree to {bits:.0f} of 53 bits"
    parts = [", and ".join(said.what for said in way) for way, _ in found.ways]
    lines = list(dict.fromkeys(line for _, line in found.ways))
    if len(parts) == 1:
        sentence = f"{parts[0]}: with {' and '.join(said.repair for said in found.ways[0][0])} {agree}"
    else:
        ways = ", or ".join(f"({i}) {part}" for i, part in enumerate(parts, 1))
        sentence = f"either {ways}: with either changed {agree}, and {_steps(jax)} not tell them apart"
    if any(optimizer_words.alias(ours) is None for _ in lines):
        sentence += NO_ARGUMENT
    write = " or ".join(line for line in lines if line) if "" not in lines else ""
    return Cause("optimizer", sentence, "jax", "", write, found.before, bits)


def _apart(torch: Record, jax: Record) -> tuple[str, ...]:
    """The updates that differ beyond rounding."""
    ends = np.cumsum(jax.sizes)
    return tuple(
        f"update.{row + 1}.{name}"
        for row in range(len(jax.moved))
        for name, end, size in zip(jax.names, ends, jax.sizes, strict=True)
        if not np.allclose(jax.moved[row, end - size : end], torch.moved[row, end - size : end], rtol=1e-9, atol=1e-15)
    )


def _steps(jax: Record) -> str:
    return f"{jax.steps} steps do" if jax.steps > 1 else "one step does"


# ---------------------------------------------------------------- the data of a spec


def of(prep: Any, reference: Any, seconds: float = 10.0) -> list[Cause]:
    """The causes where a torch optimizer steps: in an optimizer spec, in a model's training, or inside a function that returns the parameters.

    torch runs once more in float64 and every step is recorded; so does jax where its gradients are its own.

    Args:
        prep: what run.prepared gives.
        reference: what reference.reference gives: its updates are explained.
    """
    if reference.problem:
        return []
    seen = watched(prep)
    seen.steps = _with_gradients(seen.steps)
    if not seen.steps or len({step.optimizer for step in seen.steps}) > 1:
        return []
    look = _of_function if prep.job.torch_optimizer is None else _of_training
    return look(prep, reference, seen, seconds)


def watched(prep: Any, altered: Mapping[str, Any] | None = None) -> Any:
    """Every optimizer step of the torch side, in float64: class, groups, parameters, gradients. `altered`: what every group is to hold."""
    torch_side, _ = run.frameworks()
    ready = run.torch_ready(prep, "cpu", "float64", False)
    with torch_side.OptimizerSteps(ready.params, MOST, altered or {}) as watching:
        run.torch_outcome(prep, ready, "cpu", "float64")
    return watching


def _with_gradients(steps: Sequence[Any]) -> list[Any]:
    """The steps with the parameters that have a gradient in all of them; none where that is complex."""
    names = [name for name in steps[0].params if all(name in step.grads for step in steps)] if steps else []
    if any(step.grads[name].dtype.kind != "f" for step in steps for name in names) or not names:
        return []
    return [
        step._replace(
            params={name: step.params[name] for name in names},
            grads={name: step.grads[name] for name in names},
            groups=[kept for group in step.groups if (kept := {**group, "params": [n for n in group["params"] if n in names]})["params"]],
        )
        for step in steps
    ]


def _of_training(prep: Any, reference: Any, seen: Any, seconds: float) -> list[Cause]:
    steps, names = seen.steps, tuple(seen.steps[0].params)
    grads = [step.grads for step in steps]
    if any(f"update.1.{name}" not in side.leaves for side in (reference.torch, reference.jax) for name in names):
        return []  # one side keeps the sum of two parameters as one
    grads_jax = grads if prep.job.kind == "optimizer" else run.jax_gradients(prep)[: len(steps)]
    ours, theirs = (
        [{name: side.leaves[f"update.{step}.{name}"] for name in names} for step in range(1, len(steps) + 1)]
        for side in (reference.torch, reference.jax)
    )
    hyper = [step.groups for step in steps]
    found = causes(ours, theirs, steps[0].params, grads, steps[0].name, hyper, grads_jax=grads_jax, seconds=seconds)
    library = getattr(prep.compiled.get("optimizer"), "library", "optax")
    return found if library == "optax" else [c._replace(write="", sentence=c.sentence.removesuffix(NO_ARGUMENT)) for c in found]


def _of_function(prep: Any, reference: Any, seen: Any, seconds: float) -> list[Cause]:
    """A function of parameters and gradients that steps an optimizer inside and returns the parameters: what all its steps did together."""
    steps, start = seen.steps, seen.steps[0].params
    outputs = {name: _output(reference, seen.last[name]) for name in start}
    if len(set(outputs.values())) < len(start) or "" in outputs.values():
        return []
    ours, theirs = ({name: side.leaves[leaf] - start[name] for name, leaf in outputs.items()} for side in (reference.torch, reference.jax))
    until, found = time.perf_counter() + seconds, []
    given = _given(prep, start)
    if given is not None and len(given) % len(steps) == 0:
        every = len(given) // len(steps)
        hyper = [step.groups for step in steps for _ in range(every)]
        found = causes([ours], [theirs], start, given, steps[0].name, hyper, every=every, seconds=seconds / 2)
    found = found or _by_trial(prep, reference, seen, outputs, until)
    return [cause._replace(leaves=tuple(outputs.values())) for cause in found]


def _by_trial(prep: Any, reference: Any, seen: Any, outputs: Mapping[str, str], until: float) -> list[Cause]:
    """torch run again with one hyper-parameter of another value, as jax's library or a reader of its documentation would have it."""
    first, hyper = seen.steps[0], [step.groups for step in seen.steps]
    made = optimizer_torch.formulas(first.name, hyper, tuple(first.params))
    jax = _together(first.params, {name: reference.jax.leaves[leaf] for name, leaf in outputs.items()}, len(hyper))
    before = optimizer_formula.relative(_together(first.params, seen.last, len(hyper)).moved, jax)
    if len(made) != 1 or before <= 1e-9:
        return []
    ways, errors = [], []
    for altered in optimizer_torch.alterations(hyper[0][0]):
        if time.perf_counter() > until:
            return []
        there = _together(first.params, watched(prep, altered).last, len(hyper))
        theirs = optimizer_torch.formulas(first.name, [[{**group, **altered} for group in groups] for groups in hyper], tuple(first.params))
        error = optimizer_formula.relative(there.moved, jax)
        if theirs and optimizer_formula.reproduces(there.moved, jax, 1e-9) and error <= optimizer_search.EXPLAINED * before:
            said = optimizer_words.differences(made[0], theirs[0], jax.names)
            ways.append((said, _line(made[0], theirs[0], said, jax.names)))
            errors.append(error)
    return [_cause(made[0], jax, Parted(ways, max(errors), before), 0.0)] if 0 < len(ways) <= MANY else []


def _together(start: Arrays, end: Arrays, steps: int) -> Record:
    """What all steps did together, of gradients that are not known."""
    nothing = {name: np.zeros_like(value) for name, value in start.items()}
    return optimizer_formula.record(start, [nothing] * max(2, steps), [{name: end[name] - value for name, value in start.items()}])


def _output(reference: Any, array: np.ndarray) -> str:
    """The one output that holds the values of an array, on both sides in its shape; "" where that is none or several."""
    found = [
        name
        for name, value in reference.torch.leaves.items()
        if name.split(".")[0] == "output" and np.array_equal(value, array) and np.shape(reference.jax.leaves.get(name)) == array.shape
    ]
    return found[0] if len(found) == 1 else ""


def _given(prep: Any, start: Arrays) -> list[dict[str, np.ndarray]] | None:
    """The gradients as inputs of the function, a row for each step, before anything was clipped."""
    rows = {
        name: [array for array in prep.inputs.values() if array.ndim and array.shape[1:] == value.shape and array.dtype.kind == "f"]
        for name, value in start.items()
    }
    if any(len(found) != 1 for found in rows.values()) or len({len(found[0]) for found in rows.values()}) != 1:
        return None
    return [dict(zip(rows, row, strict=True)) for row in zip(*(found[0] for found in rows.values()), strict=True)]
