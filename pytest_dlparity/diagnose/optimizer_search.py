"""Which switches and numbers of a formula must change for it to do what was recorded: one, several at once, or two."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity.diagnose import optimizer_formula
from pytest_dlparity.diagnose.optimizer_formula import ULP32, Formula, Record, simulate
from pytest_dlparity.diagnose.optimizer_torch import AVERAGE
from pytest_dlparity.diagnose.optimizer_words import changed

SAMPLE = 512  # elements that a hypothesis is looked at with first
MANY = 20_000  # and those that pass; what is named has in the end reproduced every one
EXPLAINED = 1e-3  # of the difference may be left: 1e-11 of an update says nothing where the difference itself is that small
CLOSE = 1e-2  # a constant is found where another value so close no longer fits

GUESSES: Mapping[str, tuple[float, ...]] = {
    "lr": (1.0,), "gain": (0.1, 10.0), "weight_decay": (1e-2,), "eps": (1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1), "eps_root": (1e-10, 1e-7, 1e-4),
    "momentum": (0.5, 0.8, 0.9, 0.99), "velocity": (0.5, 0.9, 0.99), "beta2": (0.5, 0.9, 0.99, 0.999, 0.9999), "dampening": (0.1, 0.5, 0.9),
    "start": (0.01, 0.1, 1.0), "momentum_decay": (1e-3, 1e-1), "eta_minus": (0.3, 0.7), "eta_plus": (1.1, 1.5), "smallest": (1e-4,),
    "largest": (1e-2,),
}  # fmt: skip
NUMBERS = {*GUESSES, "clip_at"}
BELOW_ONE = {"momentum", "velocity", "beta2", "dampening", "eta_minus"}


class Change(NamedTuple):
    formula: Formula
    free: tuple[str, ...] = ()  # numbers to solve for


@dataclass(frozen=True)
class Search:
    """The formula that is to be changed, what it is to reproduce, and how long that may take."""

    formula: Formula
    whole: Record
    seen: Record  # of it
    few: Record
    first: Record  # the first steps of it
    slack: float | None
    before: float  # relative error of the formula as it is
    until: float  # time.perf_counter

    @property
    def is_late(self) -> bool:
        return time.perf_counter() > self.until

    def solved(self, change: Change) -> Formula | None:
        """The changed formula with its free numbers found, where it then does what was recorded."""
        seen = self.seen if change.formula.needs_all else self.few
        if change.formula.needs_all and self.seen is not self.whole:
            return None
        if len(seen.grads.reshape(-1)) < 4 * (len(change.free) + 1):
            return None
        found = change.formula if not change.free else _fitted(change, seen, self.slack)
        if found is None or not self.exact(found := _short(found, change.free, seen, self.slack), seen):
            return None
        if any(self.exact(_near(found, name), seen) for name in change.free):
            return None  # other values would do as well: it is not known
        if found.clip and self.exact(_unclipped(found), seen):
            return None  # it clips nothing here: that is another change
        found = self.least(_plain(found), seen)
        found = found if self.formula.dampening else _plain(found)
        return found if changed(self.formula, found) and self.exact(found, self.seen) else None

    def begins(self, change: Change) -> bool:
        """Whether the first steps can be made so, seen on a few elements: most changes cannot."""
        if not self.seen.each or change.formula.needs_all or not change.free:
            return True
        found = _fitted(change, self.first, self.slack)
        return found is not None and optimizer_formula.relative(simulate(found, self.first, self.slack).moved, self.first) <= 1e-6

    def least(self, formula: Formula, seen: Record) -> Formula:
        """The formula without the changes that it does not need."""
        for name in changed(self.formula, formula):
            less = replace(formula, **{name: getattr(self.formula, name)})
            if self.exact(less, seen):
                formula = less
        return formula

    def exact(self, formula: Formula, seen: Record) -> bool:
        return self._gives(formula, seen, None) or (self.slack is not None and seen.each and self._gives(formula, seen, self.slack))

    def _gives(self, formula: Formula, seen: Record, slack: float | None) -> bool:
        made = simulate(formula, seen, slack).moved
        single = (formula.varies and not seen.each) or (formula.every > 1 and formula.mean)  # optax's mean is one of single precision
        if not optimizer_formula.reproduces(made, seen, 8 * ULP32 if single else 1e-11):
            return False
        return optimizer_formula.relative(made, seen) <= EXPLAINED * self.before


def search(formula: Formula, seen: Record, seconds: float, slack: float | None = None) -> Search | None:
    """None where the formula already does what was recorded."""
    many = seen if formula.needs_all else seen.thinned(MANY)
    found = simulate(formula, many).moved
    if optimizer_formula.reproduces(found, many) and (many is seen or optimizer_formula.reproduces(simulate(formula, seen).moved, seen)):
        return None
    few, first = many.thinned(SAMPLE), many.thinned(64).until(4)
    return Search(formula, seen, many, few, first, slack, optimizer_formula.relative(found, many), time.perf_counter() + seconds)


def singly(at: Search) -> list[Formula]:
    """Every formula one change away that does what was recorded; none where the time is up before all were tried."""
    found = [at.solved(change) for change in neighbours(at.formula, at.seen) if not at.is_late]
    return [] if at.is_late else distinct([made for made in found if made is not None], at.formula)


def together(at: Search) -> list[Formula]:
    """A library's defaults taken together, less those that need not change."""
    found = [made for formula in libraries(at.formula) if (made := at.solved(Change(formula))) is not None]
    fewest = min((len(changed(at.formula, f)) for f in found), default=0)
    return distinct((f for f in found if len(changed(at.formula, f)) == fewest), at.formula)


def pairs(at: Search) -> list[Formula]:
    """Every formula two changes away; none where the time is up before all were tried."""
    found: list[Formula] = []
    tried: set[Any] = set()
    for first in neighbours(at.formula, at.seen):
        touched = {*changed(at.formula, first.formula), *first.free}
        for second in neighbours(first.formula, at.seen):
            more = {*changed(first.formula, second.formula), *second.free}
            free = tuple(dict.fromkeys((*first.free, *second.free)))
            key = (_key(second.formula), frozenset(free))
            if touched & more or key in tried:
                continue
            tried.add(key)
            if at.is_late:
                return []
            both = Change(second.formula, free)
            made = at.solved(both) if at.begins(both) else None
            if made is not None:
                found.append(made)
    return distinct(found, at.formula)


def is_usual(formula: Formula, ours: Formula) -> bool:
    """Whether somebody would write its numbers: 0.1 and not 0.1000001, which is rather two changes at once."""
    names = [name for name in changed(ours, formula) if name in NUMBERS and name != "lr"]
    numbers = {name: value for name in names if (value := getattr(formula, name)) is not None}
    if not np.array_equal(ours.lr, formula.lr) and not ours.varies and not formula.varies:
        numbers["lr"] = float(formula.lr[0])
    return all(math.isclose(_rounded(name, value, 4), value, rel_tol=1e-12) for name, value in numbers.items())


def _key(formula: Formula) -> tuple[Any, ...]:
    return tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in vars(formula).values())


def distinct(found: Iterable[Formula], ours: Formula) -> list[Formula]:
    """Each formula once; also where it is said with two numbers: decoupled decay at one learning rate is decay without it."""
    kept: list[Formula] = []
    for formula in found:
        twins = [i for i, other in enumerate(kept) if _is_twin(formula, other)]
        if not twins:
            kept.append(formula)
        elif formula.weight_decay == ours.weight_decay:
            kept[twins[0]] = formula
    return kept


def _is_twin(a: Formula, b: Formula) -> bool:
    apart = set(changed(a, b))
    return not apart or (apart <= {"decay", "weight_decay"} and {a.decay, b.decay} == {"decoupled", "outright"} and not a.varies)


# ---------------------------------------------------------------- changes


def neighbours(f: Formula, seen: Record) -> Iterator[Change]:
    """Every single change of a formula that somebody makes."""
    yield from _overall(f, seen)
    if f.kind != "rprop":
        yield from _decays(f, seen)
        yield from _clips(f, seen)
    if f.kind == "moments":
        yield from _scaled(f) if f.scale else _summed(f)
    else:
        yield from {"adadelta": _adadelta, "lion": _lion, "rprop": _rprop}[f.kind](f)


def _overall(f: Formula, seen: Record) -> Iterator[Change]:
    yield Change(replace(f, ascends=not f.ascends))
    yield Change(f, ("lr",))
    if not f.is_linear and not f.is_scale_free and f.kind in ("moments", "adadelta"):
        yield Change(f, ("gain",))
    still = ~np.any(seen.moved, 1)
    if seen.each and still[0] and not still.all():
        every = int(np.argmin(still)) + 1
        for mean in (True, False):
            yield Change(replace(f, every=every, mean=mean))
    if f.every > 1:
        yield Change(replace(f, mean=not f.mean))


def _decays(f: Formula, seen: Record) -> Iterator[Change]:
    plain = f.kind == "moments" and not f.scale and not f.momentum and not f.clip  # coupled and decoupled are one
    for mode in ("coupled", "decoupled", "outright"):
        same = plain and {mode, f.decay} == {"coupled", "decoupled"}
        if f.decay and mode != f.decay and not same:
            yield Change(replace(f, decay=mode))
        twice = (mode == "decoupled" and plain) or (mode == "outright" and not f.varies)  # would be found as another number
        if (not twice and not same) or mode == f.decay:
            yield Change(replace(f, decay=mode), ("weight_decay",))
    if f.decay:
        yield Change(replace(f, decay="", weight_decay=0.0, decayed=None))
        yield from _masks(f, seen)


def _masks(f: Formula, seen: Record) -> Iterator[Change]:
    """The parameters that decay: all, the matrices, or those that the record shows."""
    if len(seen.names) < 2:
        return
    masks = [None, tuple(len(shape) > 1 for shape in seen.shapes), tuple(not name.endswith("bias") for name in seen.names)]
    if len(seen.names) <= 64 and not f.clip:
        masks.append(tuple(_decays_in(f, seen, name) for name in seen.names))
    for mask in dict.fromkeys(masks):
        if mask != f.decayed and (mask is None or (any(mask) and not all(mask))):
            yield Change(replace(f, decayed=mask))


def _decays_in(f: Formula, seen: Record, name: str) -> bool:
    one = seen.only(name)
    shares = None if f.shares is None else (f.shares[seen.names.index(name)],)
    with_, without = (
        optimizer_formula.relative(simulate(replace(f, decayed=(on,), shares=shares), one).moved, one) for on in (True, False)
    )
    return with_ < without


def _unclipped(f: Formula) -> Formula:
    return replace(f, clip="", clip_at=0.0, clip_eps=0.0, clips="gradient")


def _clips(f: Formula, seen: Record) -> Iterator[Change]:
    if not f.clip:
        plain = f.is_linear and not f.momentum and not f.varies  # clipped updates are clipped gradients
        for kind, eps, what in (
            ("global", 0.0, "gradient"), ("global", 1e-6, "gradient"), ("each", 0.0, "gradient"), ("each", 1e-6, "gradient"),
            ("value", 0.0, "gradient"), ("global", 0.0, "update"), ("value", 0.0, "update"),
        ):  # fmt: skip
            if (kind != "each" or len(seen.names) > 1) and not (what == "update" and plain):
                yield Change(replace(f, clip=kind, clip_eps=eps, clips=what), ("clip_at",))
        return
    yield Change(_unclipped(f))
    for eps in (f.clip_eps, 0.0 if f.clip_eps else 1e-6) if f.clip != "value" else (0.0,):
        yield Change(replace(f, clip_eps=eps), ("clip_at",))
    for kind in ("global", "each", "value"):
        if kind != f.clip:
            for eps in (0.0, 1e-6) if kind != "value" else (0.0,):
                yield Change(replace(f, clip=kind, clip_eps=eps))
    if f.clip != "value":
        yield Change(replace(f, clip_eps=0.0 if f.clip_eps else 1e-6))
    for what in ("gradient", "update", *(("decayed",) if f.decay == "coupled" else ())):
        if what != f.clips:
            for eps in {f.clip_eps, 0.0}:
                yield Change(replace(f, clips=what, clip_eps=eps))


def _summed(f: Formula) -> Iterator[Change]:
    """Changes of gradient descent."""
    average: dict[str, Any] = {"dampening": None, "whole_start": False}
    if not f.momentum:
        for nesterov in ("", "sum"):
            yield Change(replace(f, nesterov=nesterov), ("momentum",))
        yield Change(replace(f, **average), ("momentum",))
        yield Change(replace(f, **average, correct_first=True), ("momentum",))
        return
    yield Change(replace(f, momentum=0.0, dampening=0.0, whole_start=False, nesterov="", correct_first=False))
    yield Change(f, ("momentum",))
    yield Change(replace(f, nesterov="" if f.nesterov else "sum"))
    if f.dampening is not None:
        for corrected in (False, True):
            yield Change(replace(f, **average, correct_first=corrected))
        for whole in (False, True):
            yield Change(replace(f, whole_start=whole), ("dampening",))
    if f.dampening:
        yield Change(replace(f, dampening=0.0, whole_start=False))
        yield Change(replace(f, whole_start=not f.whole_start))
    if f.varies:
        yield Change(replace(f, lr_inside=not f.lr_inside))


def _scaled(f: Formula) -> Iterator[Change]:
    """Changes of the optimizers that divide by the root of a second moment."""
    if f.momentum:
        yield Change(f, ("momentum",))
        yield Change(replace(f, momentum=0.0, correct_first=False, nesterov="", dampening=0.0))
        yield from _nesterovs(f)
    else:
        for corrected in (False, True):
            yield Change(replace(f, dampening=None, correct_first=corrected), ("momentum",))
        yield from _velocities(f)
    if f.scale != "sum":
        yield Change(f, ("beta2",))
    yield from _corrections(f)
    yield from _epsilons(f)
    if f.scale == "average":
        yield Change(replace(f, centered=not f.centered))
        yield Change(replace(f, belief=not f.belief))
        for amsgrad in {"", "raw", "corrected"} - {f.amsgrad}:
            yield Change(replace(f, amsgrad=amsgrad))
        if f.momentum:
            yield Change(replace(f, rectified=not f.rectified))
    if f.scale != "largest":
        yield Change(f, ("start",))
        if f.start:
            yield Change(replace(f, start=0.0))


def _nesterovs(f: Formula) -> Iterator[Change]:
    for nesterov in ("", "shifted"):
        if nesterov != f.nesterov:
            yield Change(replace(f, nesterov=nesterov, momentum_decay=0.0))
    if f.nesterov == "decayed":
        yield Change(f, ("momentum_decay",))
        yield Change(replace(f, momentum_decay=0.0))
    else:
        yield Change(replace(f, nesterov="decayed", momentum_decay=4e-3))


def _velocities(f: Formula) -> Iterator[Change]:
    yield Change(f, ("velocity",))
    if f.velocity:
        yield Change(replace(f, velocity=0.0, velocity_nesterov=False))
        yield Change(replace(f, velocity_nesterov=not f.velocity_nesterov))
        if f.varies:
            yield Change(replace(f, lr_inside=not f.lr_inside))


def _corrections(f: Formula) -> Iterator[Change]:
    first, second = f.correct_first, f.correct_second
    if f.momentum:
        yield Change(replace(f, correct_first=not first))
    if f.scale == "average":
        yield Change(replace(f, correct_second=not second))
        if f.momentum and first == second:
            yield Change(replace(f, correct_first=not first, correct_second=not second))
    if first or second:
        yield Change(replace(f, late=1))


def _epsilons(f: Formula) -> Iterator[Change]:
    yield Change(f, ("eps",))
    if f.eps:
        yield Change(replace(f, eps=0.0))
    places = ("outside", "inside", "early") if f.correct_second and f.scale == "average" else ("outside", "inside")
    for place in places:
        if place != f.eps_place:
            yield Change(replace(f, eps_place=place))
            yield Change(replace(f, eps_place=place), ("eps",))
    if f.scale == "average" and f.momentum:
        yield Change(f, ("eps_root",))


def _adadelta(f: Formula) -> Iterator[Change]:
    yield Change(f, ("beta2",))
    yield Change(f, ("eps",))
    place = "outside" if f.eps_place == "inside" else "inside"
    yield Change(replace(f, eps_place=place))
    yield Change(replace(f, eps_place=place), ("eps",))


def _lion(f: Formula) -> Iterator[Change]:
    """A sign shows a beta only as a range: those in use are tried."""
    yield Change(replace(f, momentum=f.beta2, beta2=f.momentum))
    for beta in (0.9, 0.95, 0.98, 0.99, 0.999):
        if beta != f.momentum:
            yield Change(replace(f, momentum=beta))
        if beta != f.beta2:
            yield Change(replace(f, beta2=beta))


def _rprop(f: Formula) -> Iterator[Change]:
    yield Change(replace(f, behind=not f.behind))
    for name in ("eta_minus", "eta_plus", "smallest", "largest"):
        yield Change(f, (name,))


def libraries(f: Formula) -> Iterator[Formula]:
    """optax's optimizers with their defaults, at the same learning rates; the decay as it is, and as the library has it."""
    base = Formula(f.lr, f.shares, clip=f.clip, clip_at=f.clip_at, clip_eps=f.clip_eps, clips=f.clips)
    base = replace(base, decay=f.decay, weight_decay=f.weight_decay, decayed=f.decayed)
    adam = replace(base, momentum=0.9, beta2=0.999, eps=1e-8, **AVERAGE)
    nadam = replace(adam, nesterov="shifted")
    largest = replace(adam, scale="largest", correct_second=False, eps_place="inside")
    rms = replace(base, scale="average", beta2=0.9, eps=1e-8, eps_place="inside")
    rms = replace(rms, velocity=f.velocity, velocity_nesterov=f.velocity_nesterov)
    lion = replace(base, kind="lion", momentum=0.9, beta2=0.99)
    plain = [
        base, replace(base, momentum=f.momentum or 0.9), adam, nadam, largest, rms, lion, replace(rms, centered=True),
        replace(adam, amsgrad="corrected"), replace(adam, rectified=True), replace(adam, belief=True, eps=1e-16, eps_root=1e-16),
        replace(base, scale="sum", start=0.1, eps=1e-7, eps_place="inside"),
        replace(base, kind="adadelta", beta2=0.9, eps=1e-6, eps_place="inside"), replace(base, kind="rprop", behind=True, decay=""),
        replace(rms, eps_place="outside", beta2=0.99),
    ]  # fmt: skip
    yield from plain
    for decaying, by in ((adam, 1e-4), (nadam, 1e-4), (largest, 1e-4), (lion, 1e-3)):
        yield replace(decaying, decay="decoupled", weight_decay=by, decayed=None)


# ---------------------------------------------------------------- numbers


def put(f: Formula, name: str, value: float) -> Formula:
    changes: dict[str, Any] = {name: f.lr * value if name == "lr" else value}
    return replace(f, **changes)


def _near(f: Formula, name: str) -> Formula:
    value = 1.0 if name == "lr" else float(getattr(f, name))
    return put(f, name, 1 - (1 - value) * (1 + CLOSE) if name in BELOW_ONE else value * (1 + CLOSE))


def _guesses(name: str, seen: Record) -> tuple[float, ...]:
    if name == "clip_at":
        norms = np.linalg.norm(seen.norms, axis=1)
        rows = [seen.norms[seen.norms > 0].min(initial=1e30), norms.min(), float(np.median(norms))]
        moves = [float(np.abs(seen.moved).max()), float(np.linalg.norm(seen.moved, axis=1).max())]
        sizes = np.quantile(np.abs(seen.grads), (0.5, 0.8, 0.95, 0.99, 1.0))
        return tuple(float(0.9 * row) for row in (*rows, *moves, *sizes) if 0 < row < 1e30) or (1.0,)
    return GUESSES[name]


def _to(name: str, value: float) -> float:
    return value if name == "weight_decay" else math.log(1 - value) if name in BELOW_ONE else math.log(value)


def _from(name: str, x: float) -> float:
    if name == "weight_decay":
        return x
    return 1 - math.exp(min(x, 0.0)) if name in BELOW_ONE else math.exp(min(x, 40.0))


def _fitted(change: Change, seen: Record, slack: float | None) -> Formula | None:
    """The free numbers by Gauss and Newton, from the best two of a grid of guesses."""
    size = np.sqrt(np.mean(np.square(seen.moved), 1, keepdims=True))
    size = np.where(size > 0, size, float(size.max()) or 1.0)

    def formula(x: Sequence[float] | np.ndarray) -> Formula:
        made = change.formula
        for name, value in zip(change.free, x, strict=True):
            made = put(made, name, _from(name, float(value)))
        return made

    def residual(x: Sequence[float] | np.ndarray) -> np.ndarray:
        gap: np.ndarray = ((simulate(formula(x), seen, slack if seen.each else None).moved - seen.moved) / size).reshape(-1)
        return gap

    def cost(x: Sequence[float] | np.ndarray) -> float:
        found = float(np.linalg.norm(residual(x)))
        return found if math.isfinite(found) else math.inf

    grid = itertools.product(*([_to(name, guess) for guess in _guesses(name, seen)] for name in change.free))
    ranked = sorted((cost(x), x) for x in grid)
    best = [_newton(np.array(x), residual) for value, x in ranked[:2] if math.isfinite(value)]
    return formula(min(best)[1]) if best else None


def _newton(x: np.ndarray, residual: Any) -> tuple[float, tuple[float, ...]]:
    r = residual(x)
    norm = float(np.linalg.norm(r))
    floor = 1e-14 * math.sqrt(r.size)
    for turn in range(15):
        slopes = np.stack([(residual(x + h) - r) / 1e-6 for h in 1e-6 * np.eye(len(x))], 1)
        if not np.all(np.isfinite(slopes)):
            break
        step = np.clip(np.linalg.lstsq(slopes, -r, rcond=None)[0], -3, 3)
        for part in (1.0, 0.3, 0.05):
            after = residual(x + part * step)
            size = float(np.linalg.norm(after))
            if size < norm:
                break
        else:
            break
        slow = size > 0.5 * norm
        x, r, norm = x + part * step, after, size
        if norm <= floor or (turn >= 5 and slow):
            break
    return norm, tuple(x)


def _short(f: Formula, free: Sequence[str], seen: Record, slack: float | None) -> Formula:
    """The numbers as somebody would have written them, where these fit as well."""

    def error(made: Formula) -> float:
        return optimizer_formula.relative(simulate(made, seen, slack if seen.each else None).moved, seen)

    allowed = max(3 * error(f), 1e-14)
    for name in free:
        if name == "lr":
            f = _short_rate(f)
            continue
        value = float(getattr(f, name))
        for digits in range(1, 8):
            made = put(f, name, _rounded(name, value, digits))
            if error(made) <= allowed:
                f = made
                break
    return f


def _short_rate(f: Formula) -> Formula:
    if f.varies:
        return f
    value = float(f.lr[0])
    short = next((s for digits in range(1, 8) if abs((s := float(f"{value:.{digits}g}")) - value) <= 1e-9 * abs(value)), value)
    return replace(f, lr=np.full_like(f.lr, short))


def _rounded(name: str, value: float, digits: int) -> float:
    if name in BELOW_ONE and value > 0.5:
        return round(1 - float(f"{1 - value:.{digits}g}"), 12)
    return float(f"{value:.{digits}g}")


def _plain(f: Formula) -> Formula:
    """One way to write each formula: dampening by the momentum is an average."""
    if f.dampening is not None and f.momentum and f.dampening == f.momentum and not f.whole_start:
        f = replace(f, dampening=None)
    return f if f.decay and f.weight_decay else replace(f, decay="", weight_decay=0.0, decayed=None)
