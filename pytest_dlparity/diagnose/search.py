"""The hypotheses of one failure, tried one after the other: one side is run again with a change, and the disagreement must vanish.

What holds on the spec's own inputs is tried again on others, twice, before it is said: a constant that was solved for may not move with the data.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import draws, run, tolerance
from pytest_dlparity.calls import Call
from pytest_dlparity.diagnose import agreement, constants
from pytest_dlparity.diagnose.agreement import Gaps
from pytest_dlparity.diagnose.cause import Cause
from pytest_dlparity.diagnose.variant import Variant
from pytest_dlparity.reference import Reference
from pytest_dlparity.run import Arrays, Prepared

REDRAWS = 2
PARTS = 4  # changes that explain a part of the difference, each of which is tried together with every other
PARTLY = 0.2  # of the difference is left when a change counts as a part of the cause
NAMED = 1  # changes of this rank and below are all causes with a name: none of them hides another
OF_GRADIENTS = frozenset({"detach", "subgradient", "gradient"})  # which change no value
LAST_NEAR = 3  # rank to which changes of what is near come before all others
LAST = 9  # a rank behind all
OF_SIZES = frozenset({"scale", "factor", "constant", "reduction"})  # whose constants may be made of the lengths of axes
CLOSE = 1e-2  # a constant is found where another value so close fits worse
KNOWN = 100.0  # so many times worse
VANISHED = 1e-3  # of a difference is left at most
EVERYWHERE = frozenset({"eps", 'padding "SAME"', "mode"})  # what a library does in all its layers, whatever they are called
SOMEWHAT = 0.95  # the same for what is known to be done in two ways
SHOWN = 3  # leaves, places and rival causes that a sentence names

PROGRAMMING = (AttributeError, NameError, KeyError, AssertionError, ZeroDivisionError, UnboundLocalError)

Change = Callable[..., Any]


class Hypothesis(NamedTuple):
    """A change of one side as a whole: calls by their index, each with what is done instead."""

    side: str
    family: str
    fact: str
    change: str
    write: str
    where: str
    changes: dict[Any, Change]
    start: float | None = None
    rank: int = 0
    meaning: str = ""
    sizes: tuple[int, ...] = ()
    places: int = 1
    constant: float | None = None
    text: str = ""  # of the constant
    parts: tuple[Any, ...] = ()  # hypotheses that it joins

    def fixed(self, value: float, text: str) -> Hypothesis:
        """The hypothesis with its constant found."""
        return self._replace(constant=value, text=text, start=None, changes={i: _with(change, value) for i, change in self.changes.items()})

    def said(self, text: str) -> str:
        return text.replace("{c}", self.text).replace("{at}", f" at {self.where}" if self.where else "")


def _with(change: Change, value: float) -> Change:
    return lambda call: change(call, value)


def joined(hypotheses: Sequence[Hypothesis]) -> Hypothesis:
    """Several changes of one side made together."""
    changes: dict[Any, Change] = {}
    for one in hypotheses:
        changes |= one.changes
    first = hypotheses[0]
    meaning, rank = " and ".join(sorted(one.meaning for one in hypotheses)), max(one.rank for one in hypotheses)
    return first._replace(changes=changes, rank=rank, meaning=meaning, parts=tuple(hypotheses))


class Side(NamedTuple):
    """How one side is run with changes: (prepared, changes, with gradients) -> its leaves."""

    name: str
    run: Callable[[Prepared, dict[Any, Change], bool], Arrays]


@dataclass
class Search:
    """What is known while one failure is looked into."""

    prep: Prepared
    reference: Reference
    until: float
    limit: float = agreement.ROUNDING
    tried: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # hypotheses that could not be run: family and kind of error
    found: list[tuple[Hypothesis, Gaps]] = field(default_factory=list)
    parts: list[tuple[float, Hypothesis]] = field(default_factory=list)
    held: dict[Any, Any] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)  # lengths of the axes of what is computed
    errors: list[Exception] = field(default_factory=list)  # of a kind that a change of a call should not raise

    def __post_init__(self) -> None:
        self.names = [n for n in dict.fromkeys((*self.reference.torch.leaves, *self.reference.jax.leaves)) if self._is_leaf(n)]
        if any(self._is_broken(name) for name in self.names if not name.startswith("grad.")):
            self.names = [
                name for name in self.names if not name.startswith("grad.")
            ]  # without the same outputs there is no gradient to compare
        self.before = self.gaps(self.reference.torch.leaves, self.reference.jax.leaves)
        forward = [name for name in self.before.apart if not name.startswith("grad.") and not agreement.is_later(name)]
        self.forward = bool(forward)
        self.aims = sorted(forward or self.before.apart)

    def _is_broken(self, name: str) -> bool:
        torch, jax = self.reference.torch.leaves.get(name), self.reference.jax.leaves.get(name)
        return torch is None or jax is None or torch.shape != jax.shape

    def _is_leaf(self, name: str) -> bool:
        return not name.startswith("state.") or name in self.reference.states

    @property
    def simplest(self) -> int:
        """The rank that a change may have at most to be said, after what was found to hold."""
        return min((max(one.rank, NAMED) for one, _ in self.found), default=LAST)

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.until

    def gaps(self, torch: Arrays, jax: Arrays, names: Iterable[str] | None = None) -> Gaps:
        return agreement.gaps(torch, jax, self.names if names is None else names, self.limit)

    def fixed(self, side: str) -> Arrays:
        """The leaves of the side that is not changed."""
        return (self.reference.jax if side == "torch" else self.reference.torch).leaves

    def pair(self, side: str, moved: Arrays, other: Arrays) -> tuple[Arrays, Arrays]:
        return (moved, other) if side == "torch" else (other, moved)

    # ------------------------------------------------------------ trying

    def attempt(self, side: Side, one: Hypothesis, base: Sequence[Hypothesis] = ()) -> None:
        """Tries one hypothesis, together with `base`, and keeps it where it holds."""
        self.tried += 1
        try:
            self._attempt(side, one, base)
        except Exception as error:  # noqa: BLE001  a change may be anything; what kind of error it was is counted, and a test looks at the counts
            self.refuse(f"{one.family}: {type(error).__name__}", error)

    def refuse(self, why: str, error: Exception) -> None:
        """Counts a hypothesis that could not be made or run."""
        self.refused[why] += 1
        if isinstance(error, PROGRAMMING):
            self.errors.append(error)

    def _attempt(self, side: Side, one: Hypothesis, base: Sequence[Hypothesis]) -> None:
        others = {i: change for part in base for i, change in part.changes.items()}
        if one.start is not None:
            solution = self._solved(side, one, others)
            if solution is None:
                return
            one = solution
        changes = others | one.changes
        if self.forward:
            leaves = side.run(self.prep, changes, False)
            found = self.gaps(*self.pair(side.name, leaves, self.fixed(side.name)), self.aims)
            if not self._agrees(found):
                self._partly(one, found, base)
                return
        leaves = side.run(self.prep, changes, True)
        found = self.gaps(*self.pair(side.name, leaves, self.fixed(side.name)))
        if not self._agrees(found):
            self._partly(one, found, base)
        elif self._holds(side, changes):
            parts = sorted([*base, one], key=lambda part: min(part.changes))  # in the order of the run
            self.found.append((joined(parts) if base else one, found))

    def _agrees(self, found: Gaps) -> bool:
        """Whether the leaves agree, and those that did not have come much closer: a small difference may not stay as it was."""
        return not found.apart and all(
            found.relative[name] <= VANISHED * self.before.relative[name] for name in self.before.apart if name in found.relative
        )

    def _partly(self, one: Hypothesis, found: Gaps, base: Sequence[Hypothesis]) -> None:
        """Keeps a change that makes the difference much smaller, or some leaves agree and none disagree that did not."""
        if base:
            return
        ratios = [
            found.relative[n] / self.before.relative[n] for n in found.relative if n in self.before.apart and np.isfinite(found.relative[n])
        ]
        spoiled = any(name in found.apart for name in found.relative if name not in self.before.apart)
        if ratios and len(ratios) == len([n for n in found.relative if n in self.before.apart]) and not spoiled:
            left = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-16)))))
            if left < (PARTLY if one.rank else SOMEWHAT) and max(ratios) <= 1.001:
                self.parts.append((left * (1 + one.rank), one))

    def _solved(self, side: Side, one: Hypothesis, others: dict[Any, Change]) -> Hypothesis | None:
        fixed = self.fixed(side.name)

        def residual(value: float) -> np.ndarray | None:
            if self.late:
                return None
            changes = others | {i: _with(change, value) for i, change in one.changes.items()}
            try:
                leaves = side.run(self.prep, changes, not self.forward)
            except (ArithmeticError, ValueError, RuntimeError):  # the number has no meaning there
                return None
            return agreement.residual(leaves, fixed, self.aims)

        assert one.start is not None
        found = constants.solved(residual, one.start)
        if found is None or found.norm >= SOMEWHAT * self._apart(side):
            return None
        value, text = constants.named(found, residual, (*one.sizes, *self._sizes()) if one.family in OF_SIZES else (), one.start)
        step, least = CLOSE * (abs(value) or abs(one.start) or 1.0), KNOWN * max(found.norm, constants.ROUNDING)
        beside = [residual(value + step), residual(value - step)]
        if any(gap is not None and float(np.linalg.norm(gap)) <= least for gap in beside):
            return None  # a number close by would do as well: it is not known
        return one.fixed(value, text)

    def _apart(self, side: Side) -> float:
        """The size of the difference as it is."""
        if ("apart", side.name) not in self.held:
            moving = self.fixed("jax" if side.name == "torch" else "torch")
            found = agreement.residual(moving, self.fixed(side.name), self.aims)
            self.held["apart", side.name] = np.inf if found is None else float(np.linalg.norm(found))
        return float(self.held["apart", side.name])

    def _sizes(self) -> list[int]:
        arrays = (*self.prep.params.values(), *self.prep.inputs.values(), *self.reference.torch.leaves.values())
        return sorted(self.sizes | {n for array in arrays for n in (*array.shape, array.size) if n > 1})

    # ------------------------------------------------------------ other inputs

    def _holds(self, side: Side, changes: dict[Any, Change]) -> bool:
        """Whether the change makes the leaves agree on other inputs too, of which some let the two sides differ without it."""
        telling = False
        for number in range(REDRAWS):
            other = self._redrawn(number)
            if other is None:
                continue
            prep, torch, jax, before = other
            leaves = side.run(prep, changes, True)
            found = self.gaps(*self.pair(side.name, leaves, jax if side.name == "torch" else torch))
            if found.apart:
                return False
            telling |= bool(before.apart)
        return telling

    def _redrawn(self, number: int) -> tuple[Prepared, Arrays, Arrays, Gaps] | None:
        key = ("redrawn", number)
        if key not in self.held:
            self.held[key] = self._drawn_again(number)
        found: tuple[Prepared, Arrays, Arrays, Gaps] | None = self.held[key]
        return found

    def _drawn_again(self, number: int) -> tuple[Prepared, Arrays, Arrays, Gaps] | None:
        prep = redrawn(self.prep, number)
        try:
            torch = run.torch_outcome(prep, run.torch_ready(prep, "cpu", "float64", False), "cpu", "float64").leaves
            jax = run.jax_outcome(prep, "cpu", "float64", True).leaves
        except Exception as error:  # noqa: BLE001  numbers that the user never gave may be refused
            self.refused[f"redraw: {type(error).__name__}"] += 1
            return None
        return prep, torch, jax, self.gaps(torch, jax)


def redrawn(prep: Prepared, number: int) -> Prepared:
    """The same spec with other numbers of the same kind: drawn with another seed, or, where the numbers are given, in another order and (the second
    time) smaller. Zeros, ties, signs, whole numbers and truth values stay what they are."""
    rng = np.random.default_rng([prep.seed, number, 7])
    given = {**prep.spec.inputs, **(prep.spec.params or {})}

    def other(name: str, array: np.ndarray) -> np.ndarray:
        if not array.size or array.dtype.kind == "b":
            return array
        draw = given.get(name)
        again = tolerance.on_grid(draws.drawn(draw, prep.seed + 101 + number, name), prep.grid) if draw is not None else array
        if again.shape == array.shape and not np.array_equal(again, array):
            return again
        if number == 0:
            return rng.permutation(array.reshape(-1)).reshape(array.shape)
        whole = not tolerance.is_inexact(array) or not np.any(array != np.round(array.real))
        if whole:  # labels in another number too: a factor that is a sum over them moves
            return rng.choice(np.unique(array), array.shape)
        return tolerance.on_grid(rng.permutation(array.reshape(-1)).reshape(array.shape) * rng.uniform(0.6, 0.95), prep.grid)

    params = {name: other(name, array) for name, array in prep.params.items()}
    inputs = {name: other(name, array) for name, array in prep.inputs.items()}
    batches = [inputs] if prep.job.kind == "model" and prep.job.steps else prep.batches
    return replace(prep, params=params, inputs=inputs, batches=batches)


# ---------------------------------------------------------------- from variants of calls to hypotheses


def hypotheses(
    calls: Sequence[Call], variants: Iterable[tuple[Call, Variant]], near: Callable[[Call], bool], forward: bool = True
) -> Iterator[Hypothesis]:
    """Every change of all the calls of one kind, of those of one line, and of each by itself; the simplest and the nearest first."""
    groups: dict[tuple[str, str], list[tuple[Call, Variant]]] = {}
    alike: dict[str, dict[int, tuple[Call, Variant]]] = {}
    for call, variant in variants:
        groups.setdefault((variant.key, variant.family), []).append((call, variant))
        if variant.meaning in EVERYWHERE:
            alike.setdefault(variant.meaning, {}).setdefault(call.index, (call, variant))
    on_line = Counter((call.file, call.line) for call in {call.index: call for members in groups.values() for call, _ in members}.values())
    made = [one for members in groups.values() for one in _of_group(members, on_line)]
    made += [_everywhere(list(of.values())) for of in alike.values() if len({variant.key for _, variant in of.values()}) > 1]
    by_index = {call.index: call for call in calls}

    def order(one: Hypothesis) -> tuple[bool, bool, int]:
        beside = not any(near(by_index[i]) for i in one.changes if i in by_index)
        return (not forward and one.family not in OF_GRADIENTS), beside or one.rank > LAST_NEAR, one.rank

    yield from sorted(made, key=order)


def _of_group(members: list[tuple[Call, Variant]], on_line: Mapping[tuple[str, int], int]) -> Iterator[Hypothesis]:
    yield _hypothesis(members, on_line)
    lines: dict[tuple[str, int], list[tuple[Call, Variant]]] = {}
    for call, variant in members:
        lines.setdefault((call.file, call.line), []).append((call, variant))
    if len(lines) > 1:
        yield from (_hypothesis(of_line, on_line) for of_line in lines.values())
    for of_line in lines.values():
        if len(of_line) > 1:
            yield from (_hypothesis([one], on_line) for one in of_line)


def _everywhere(members: Sequence[tuple[Call, Variant]]) -> Hypothesis:
    """One change of calls of several kinds, each kind with its own words."""
    kinds: dict[str, list[tuple[Call, Variant]]] = {}
    for call, variant in members:
        kinds.setdefault(call.name, []).append((call, variant))
    parts = [_hypothesis(of) for of in kinds.values()]
    facts = [part.fact.replace("{at}", f" at {part.where}" if part.where else "") for part in parts]
    changes = [change for part in parts for change in part.changes.items()]
    return parts[0]._replace(
        fact="; and ".join(facts), changes=dict(changes), places=sum(part.places for part in parts), where=", ".join(p.where for p in parts)
    )


def _hypothesis(members: Sequence[tuple[Call, Variant]], on_line: Mapping[tuple[str, int], int] = MappingProxyType({})) -> Hypothesis:
    call, variant = members[0]
    changes: dict[Any, Change] = {}
    for one, of_one in members:
        changes |= {one.index: of_one.apply} | dict(of_one.others)
    places = list(dict.fromkeys(c.where or c.module for c, _ in members if c.where or c.module))
    more = f" and {len(places) - SHOWN} more places" if len(places) > SHOWN else ""
    where = ", ".join(places[:SHOWN]) + more
    if (
        call.file
        and call.module
        and {c.module for c, _ in members} == {call.module}
        and on_line.get((call.file, call.line), 0) > len(members)
    ):
        where += f" in {call.module}"  # the line is that of other modules too
    within = f" in {call.within}{{at}}" if call.within and len({c.within for c, _ in members}) == 1 else "{at}"
    sizes = [*variant.sizes, *(n for _, array in call.arrays() for n in array.shape)]
    return Hypothesis(
        "torch", variant.family, variant.fact.replace("{at}", within), variant.change, variant.write, where, changes, variant.start, variant.rank,
        variant.meaning or variant.key, tuple(sizes), len(places),
    )  # fmt: skip


# ---------------------------------------------------------------- words


def causes(search: Search) -> list[Cause]:
    """What was found, as sentences: the simplest, and every other that is as simple and means something else."""
    if not search.found:
        return []
    simplest = min(_weight(one) for one, _ in search.found)
    rivals: dict[str, tuple[Hypothesis, Gaps]] = {}
    for one, gaps in search.found:
        if _weight(one) == simplest:
            kept = rivals.get(one.meaning)
            if kept is None or _preferred(one) < _preferred(kept[0]):
                rivals[one.meaning] = (one, gaps)
    chosen = sorted(rivals.values(), key=lambda r: _preferred(r[0]))
    return [_cause(search, chosen)]


def _weight(one: Hypothesis) -> tuple[int, int]:
    return len(one.parts), max(one.rank, NAMED)


def _preferred(one: Hypothesis) -> tuple[int, bool, bool, int]:
    return one.rank, one.side != "jax", not one.where, one.places


def _cause(search: Search, rivals: Sequence[tuple[Hypothesis, Gaps]]) -> Cause:
    first, _ = rivals[0]
    leaves = tuple(sorted(search.before.apart, key=search.names.index))
    bits = min(found.bits(leaves) for _, found in rivals)
    agree = f"{said(leaves)} {'agrees' if len(leaves) == 1 else 'agree'} to {bits:.0f} of 53 bits"
    parts = [one.parts or (one,) for one, _ in rivals[:SHOWN]]
    if len(parts) == 1:
        sentence = f"{_fact(parts[0])}; with {_both(parts[0])} {agree}"
    else:
        more = f", or {len(rivals) - SHOWN} more" if len(rivals) > SHOWN else ""
        sentence = f"either {', or '.join(map(_fact, parts))}{more}; these inputs cannot tell which: with each of these changes {agree}"
    worst = max((search.before.relative[name] for name in leaves), default=0.0)
    write = first.said(first.write) if len(rivals) == 1 and not first.parts else ""
    return Cause(first.family, sentence, first.side, first.where, write, worst, bits, leaves)


def _fact(parts: Sequence[Hypothesis]) -> str:
    facts = [part.said(part.fact) for part in parts]
    return facts[0] if len(facts) == 1 else f"{len(facts)} things differ: {'; and '.join(facts)}"


def _both(parts: Sequence[Hypothesis]) -> str:
    changes = [part.said(part.change) for part in parts]
    return changes[0] if len(changes) == 1 else " and ".join(change.rstrip(",") for change in changes)


def said(leaves: Sequence[str]) -> str:
    """
    >>> said(["output"]), said(["output", "grad.x"]), said(["a", "b", "c", "d"])
    ('output', 'output and grad.x', 'a, b, c and one more')
    """
    if len(leaves) == 1:
        return leaves[0]
    if len(leaves) <= SHOWN:
        return f"{', '.join(leaves[:-1])} and {leaves[-1]}"
    left = len(leaves) - SHOWN
    return f"{', '.join(leaves[:SHOWN])} and {'one more' if left == 1 else f'{left} more'}"
