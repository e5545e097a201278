"""The recurrences of optimizers, one formula with switches, run in numpy on the gradients that were recorded.

A step goes: gradient -> accumulated, clipped, decayed -> first moment -> divided by the root of the second -> times the rate -> the move.
Each library's optimizer is a setting of the switches, so that two libraries differ by the switches that differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

Vector = np.ndarray
EPS = 2.0**-52
ULP32 = 2.0**-24  # optax counts steps in int32, so that schedules come out in single precision, in a double precision run too


@dataclass(frozen=True, eq=False)
class Formula:
    """An optimizer as switches and numbers. The defaults are those of plain gradient descent."""

    lr: Vector  # the learning rate of each step
    shares: tuple[float, ...] | None = None  # times this for each parameter
    kind: str = "moments"  # or "adadelta", "rprop", "lion"
    ascends: bool = False
    gain: float = 1.0  # the gradient is multiplied by this first
    every: int = 1  # steps for one move
    mean: bool = True  # of the gradients of these steps, or their sum
    clip: str = ""  # "global" or "each": by norm; "value"
    clip_at: float = 0.0
    clip_eps: float = 0.0  # added to the norm
    clips: str = "gradient"  # or "decayed": after coupled decay; "update": after the learning rate
    decay: str = ""  # "coupled": to the gradient; "decoupled": to the update; "outright": without the learning rate
    weight_decay: float = 0.0
    decayed: tuple[bool, ...] | None = None  # the parameters that decay; None for all
    momentum: float = 0.0
    dampening: float | None = 0.0  # the gradient enters by 1 - dampening; None: by 1 - momentum, an average
    whole_start: bool = False  # the first buffer is the whole gradient, without dampening
    nesterov: str = ""  # "sum", "shifted" (optax.nadam), "decayed" (torch.optim.NAdam)
    momentum_decay: float = 0.0
    correct_first: bool = False  # bias correction of the first moment
    scale: str = ""  # second moment: "average", "sum", "largest"
    beta2: float = 0.0
    start: float = 0.0  # of the second moment
    correct_second: bool = False
    late: int = 0  # bias correction counts steps from 1 + late
    centered: bool = False
    belief: bool = False  # the second moment is of gradient minus first moment
    amsgrad: str = ""  # maximum of the "raw" or the "corrected" second moment
    eps: float = 0.0
    eps_place: str = "outside"  # of the root; "inside"; "early": outside, before the bias correction
    eps_root: float = 0.0  # inside, beside eps
    rectified: bool = False
    velocity: float = 0.0  # momentum after the division
    velocity_nesterov: bool = False
    lr_inside: bool = False  # momentum sums steps, each times its own learning rate
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    smallest: float = 1e-6
    largest: float = 50.0
    behind: bool = False  # rprop: each step makes the move of the step before

    @property
    def varies(self) -> bool:
        return bool(np.ptp(self.lr) > 1e-12 * np.abs(self.lr).max())

    @property
    def is_linear(self) -> bool:
        """Whether twice the gradients give twice the updates: then a learning rate is not told from a factor of the gradient."""
        return self.kind == "moments" and not self.scale and not self.clip and not self.decay

    @property
    def is_scale_free(self) -> bool:
        """Whether twice the gradients and twice eps give the same updates: then eps is not told from a factor of the gradient."""
        return self.kind == "moments" and bool(self.scale) and not self.clip and self.decay != "coupled" and not self.start

    @property
    def needs_all(self) -> bool:
        """Whether a part of the elements does not know its own norm."""
        return bool(self.clip) and self.clip != "value" and (self.clips != "gradient" or self.every > 1)


@dataclass(frozen=True, eq=False)
class Record:
    """What one side did: flat rows, a row for a step, the parameters one behind the other."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: Vector  # [parameters], elements of each
    starts: Vector  # [steps, elements] before each step; [1, elements] where only the beginning is known
    grads: Vector  # [steps, elements]
    moved: Vector  # [steps, elements], or [1, elements]: what all the steps did together
    norms: Vector  # [steps, parameters], of the gradients

    @property
    def steps(self) -> int:
        return len(self.grads)

    @property
    def each(self) -> bool:
        """Whether every step was seen, not only what all did together."""
        return len(self.moved) == len(self.grads)

    @property
    def is_finite(self) -> bool:
        return all(bool(np.all(np.isfinite(part))) for part in (self.starts, self.grads, self.moved))

    def spread(self, values: Sequence[float] | Vector) -> Vector:
        """A value for each parameter as a value for each element."""
        return np.repeat(np.asarray(values), self.sizes)

    def thinned(self, count: int) -> Record:
        """About `count` of the elements, evenly from each parameter; all of it where there are not more."""
        if self.sizes.sum() <= count:
            return self
        ends = np.cumsum(self.sizes)
        wanted = np.maximum(4, np.ceil(count * self.sizes / ends[-1])).astype(int)
        pick = [
            np.unique(np.linspace(end - size, end - 1, min(n, size)).astype(int))
            for end, size, n in zip(ends, self.sizes, wanted, strict=True)
        ]
        at = np.concatenate(pick)
        return replace(
            self,
            sizes=np.array([len(p) for p in pick]),
            starts=self.starts[:, at],
            grads=self.grads[:, at],
            moved=self.moved[:, at],
        )

    def until(self, steps: int) -> Record:
        rows = {name: getattr(self, name)[:steps] for name in ("grads", "norms", *(("starts", "moved") if self.each else ()))}
        return replace(self, **rows)

    def only(self, name: str) -> Record:
        """One parameter of it."""
        i = self.names.index(name)
        at = slice(int(self.sizes[:i].sum()), int(self.sizes[: i + 1].sum()))
        return replace(
            self, names=(name,), shapes=(self.shapes[i],), sizes=self.sizes[i : i + 1],
            starts=self.starts[:, at], grads=self.grads[:, at], moved=self.moved[:, at], norms=self.norms[:, i : i + 1],
        )  # fmt: skip


def record(
    params: Mapping[str, np.ndarray], grads: Sequence[Mapping[str, np.ndarray]], moved: Sequence[Mapping[str, np.ndarray]]
) -> Record:
    """One side's run as flat rows.

    Args:
        params: the parameters at the beginning, float64, any shapes.
        grads: of each step, by parameter.
        moved: the update of each step, or one row: what all steps did together.
    """
    names = tuple(params)
    flat = [np.stack([_flat(row, names) for row in rows]) for rows in (grads, moved)]
    start = _flat(params, names)
    each = len(moved) == len(grads)
    starts = start + np.concatenate([np.zeros((1, start.size)), np.cumsum(flat[1], 0)[:-1]]) if each else start[None]
    sizes = np.array([params[name].size for name in names])
    norms = np.array([[float(np.linalg.norm(row[name])) for name in names] for row in grads])
    return Record(names, tuple(params[name].shape for name in names), sizes, starts, flat[0], flat[1], norms)


def _flat(row: Mapping[str, np.ndarray], names: Sequence[str]) -> Vector:
    return np.concatenate([np.asarray(row[name], np.float64).reshape(-1) for name in names])


# ---------------------------------------------------------------- running


class Run(NamedTuple):
    moved: Vector  # as in the record
    lr: Vector  # the learning rate of each step, as given or as solved for


@dataclass
class _State:
    first: Any = 0.0
    second: Any = 0.0
    average: Any = 0.0
    most: Any = 0.0
    velocity: Any = 0.0
    sum: Any = 0.0
    product: float = 1.0
    sizes: Any = None
    before: Any = 0.0
    moves: int = 0


def simulate(formula: Formula, seen: Record, slack: float | None = None) -> Run:
    """What the formula does with the gradients of the record.

    Args:
        slack: the learning rate of each step may differ from the formula's by as much, and is solved for; infinite: it is free. Only where
            every step was seen.
    """
    state = _State(second=formula.start)
    position, moved, rates = seen.starts[0], [], np.array(formula.lr, np.float64)
    shares = 1.0 if formula.shares is None else seen.spread(formula.shares)
    with np.errstate(all="ignore"):
        for k in range(seen.steps):
            start = seen.starts[k] if seen.each else position
            gradient = _gradient(formula, seen, state, k, start)
            if gradient is None:
                update = np.zeros_like(start)
            else:
                at = state.moves - 1 if formula.every > 1 else k
                fixed, slope = _move(formula, seen, state, gradient, start)
                slope = slope * shares
                rate = rates[at] if slack is None else _rate(rates[at], slack, slope, seen.moved[k] - fixed)
                rates[at] = rate
                update = _settled(formula, seen, state, fixed + rate * slope, rate)
            moved.append(update)
            position = start + update
    rows = np.stack(moved)
    return Run(rows if seen.each else rows.sum(0, keepdims=True), rates)


def _rate(wanted: float, slack: float, slope: Vector, move: Vector) -> float:
    square = float(slope @ slope)
    found = float(slope @ move) / square if square > 0 else wanted
    return min(max(found, wanted - slack), wanted + slack) if math.isfinite(found) else wanted


def _gradient(f: Formula, seen: Record, state: _State, k: int, start: Vector) -> Vector | None:
    """The gradient that a step begins with; None where the step only gathers."""
    g = seen.grads[k] * (-f.gain if f.ascends else f.gain)
    norms = seen.norms[k] * f.gain
    if f.every > 1:
        state.sum = state.sum + g / (f.every if f.mean else 1)
        if (k + 1) % f.every:
            return None
        g, state.sum = state.sum, 0.0
        norms = _norms(g, seen) if f.clip else norms
    state.moves += 1
    if f.clips == "gradient":
        g = _clipped(f, g, norms, seen)
    if f.decay == "coupled":
        g = g + _decay(f, seen) * start
    if f.clips == "decayed":
        g = _clipped(f, g, _norms(g, seen), seen)
    return g


def _norms(g: Vector, seen: Record) -> Vector:
    ends = np.cumsum(seen.sizes)
    return np.array([np.linalg.norm(g[end - size : end]) for end, size in zip(ends, seen.sizes, strict=True)])


def _clipped(f: Formula, g: Vector, norms: Vector, seen: Record) -> Vector:
    if f.clip == "value":
        return np.clip(g, -f.clip_at, f.clip_at)
    if f.clip == "global":
        return g * float(_factor(f, np.linalg.norm(norms)))
    if f.clip == "each":
        return g * seen.spread(_factor(f, norms))
    return g


def _factor(f: Formula, norms: Any) -> Vector:
    return np.minimum(1.0, np.divide(f.clip_at, norms + f.clip_eps))


def _decay(f: Formula, seen: Record) -> Vector | float:
    return f.weight_decay if f.decayed is None else f.weight_decay * seen.spread(np.array(f.decayed, float))


def _move(f: Formula, seen: Record, state: _State, g: Vector, start: Vector) -> tuple[Any, Vector]:
    """(a, b): the update is a + learning rate times b."""
    if f.kind == "rprop":
        return _rprop(f, state, g), np.zeros_like(g)
    direction = {"moments": _moments, "adadelta": _adadelta, "lion": _lion}[f.kind](f, state, g)
    fixed: Any = 0.0
    inertia = _inertia(f)
    if inertia and f.lr_inside:
        fixed = -inertia * state.velocity
    elif inertia and f.velocity:
        state.velocity = inertia * state.velocity + direction
        direction = direction + inertia * state.velocity if f.velocity_nesterov else state.velocity
    if f.decay == "decoupled":
        direction = direction + _decay(f, seen) * start
    elif f.decay == "outright":
        fixed = fixed - _decay(f, seen) * start
    return fixed, -direction


def _inertia(f: Formula) -> float:
    """The momentum that is applied to steps, not to gradients."""
    return f.velocity or (f.momentum if f.lr_inside and not f.scale else 0.0)


def _settled(f: Formula, seen: Record, state: _State, update: Vector, rate: float) -> Vector:
    if f.lr_inside and (inertia := _inertia(f)):
        step = -inertia * state.velocity - update  # the new term alone
        state.velocity = -update
        if f.velocity_nesterov or f.nesterov == "sum":
            update = -(step + inertia * state.velocity)
    if f.clips == "update":
        update = _clipped(f, update, _norms(update, seen) if f.clip != "value" else seen.norms[0], seen)
    return update


def _moments(f: Formula, state: _State, g: Vector) -> Vector:
    t = state.moves
    first = _first(f, state, g, t)
    if not f.scale:
        return first
    error = g - state.first if f.belief else g
    correction = 1 - f.beta2 ** (t + f.late) if f.correct_second and f.scale == "average" else 1.0
    if f.scale == "largest":
        inside = f.eps if f.eps_place == "inside" else 0.0
        state.second = np.maximum(f.beta2 * state.second, np.abs(error) + inside)
        return first / (state.second + (f.eps - inside))
    state.second = state.second + error**2 if f.scale == "sum" else f.beta2 * state.second + (1 - f.beta2) * error**2
    if f.belief:
        state.second = state.second + f.eps_root  # at every step (Zhuang et al. 2020, arXiv:2010.07468, algorithm 2)
    second = state.second
    if f.centered:
        state.average = f.beta2 * state.average + (1 - f.beta2) * g
        second = second - (state.average / correction) ** 2 * correction
    if f.amsgrad == "raw":
        second = state.most = np.maximum(state.most, second)
    corrected = second / correction
    if f.amsgrad == "corrected":
        corrected = state.most = np.maximum(state.most, corrected)
    bottom = _root(f, corrected, correction)
    direction = np.divide(first, bottom, out=np.zeros_like(g), where=bottom != 0)
    return _rectified(f, direction, first, t) if f.rectified else direction


def _root(f: Formula, second: Vector, correction: float) -> Vector:
    if f.eps_place == "inside":
        return np.sqrt(second + f.eps)
    early = math.sqrt(correction) if f.eps_place == "early" else 1.0
    return np.sqrt(second if f.belief else second + f.eps_root) + f.eps / early


def _first(f: Formula, state: _State, g: Vector, t: int) -> Vector:
    mu = f.momentum
    if not mu or (f.lr_inside and not f.scale):
        state.first = g
        return g
    enters = 1 - (mu if f.dampening is None else f.dampening)
    state.first = g if f.whole_start and t == 1 else mu * state.first + enters * g
    if f.nesterov == "sum":
        return g + mu * state.first
    if f.nesterov == "decayed":
        return _nadam(f, state, g, t)
    count = t + f.late
    if f.nesterov == "shifted":
        if not f.correct_first:
            return mu * state.first + enters * g
        return mu * state.first / (1 - mu ** (count + 1)) + enters * g / (1 - mu**count)
    return state.first / (1 - mu**count) if f.correct_first else state.first


def _nadam(f: Formula, state: _State, g: Vector, t: int) -> Vector:
    now, after = (f.momentum * (1 - 0.5 * 0.96 ** (step * f.momentum_decay)) for step in (t, t + 1))
    state.product *= now
    return g * (1 - now) / (1 - state.product) + state.first * after / (1 - state.product * after)


def _rectified(f: Formula, direction: Vector, first: Vector, t: int) -> Vector:
    """Liu et al. 2019 (arXiv:1908.03265), algorithm 2: plain momentum until the variance of the second moment is tractable."""
    limit = 2 / (1 - f.beta2) - 1
    rho = limit - 2 * t * f.beta2**t / (1 - f.beta2**t)
    if rho <= 5:
        return first
    return direction * math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


def _adadelta(f: Formula, state: _State, g: Vector) -> Vector:
    state.second = f.beta2 * state.second + (1 - f.beta2) * g * g
    if f.eps_place == "inside":
        direction = np.sqrt(state.average + f.eps) / np.sqrt(state.second + f.eps) * g
    else:
        direction = (np.sqrt(state.average) + f.eps) / (np.sqrt(state.second) + f.eps) * g
    state.average = f.beta2 * state.average + (1 - f.beta2) * direction**2
    return direction


def _lion(f: Formula, state: _State, g: Vector) -> Vector:
    direction = np.sign(f.momentum * state.first + (1 - f.momentum) * g)
    state.first = f.beta2 * state.first + (1 - f.beta2) * g
    return direction


def _rprop(f: Formula, state: _State, g: Vector) -> Vector:
    sign = np.sign(g * state.before)
    sizes = np.full_like(g, f.lr[0]) if state.sizes is None else state.sizes
    factor = np.where(sign > 0, f.eta_plus, np.where(sign < 0, f.eta_minus, 1.0))
    state.sizes = np.clip(sizes * factor, f.smallest, f.largest)
    now = np.where(sign < 0, 0.0, -np.sign(g) * state.sizes)
    update = np.where(sign < 0, 0.0, state.velocity) if f.behind else now
    state.before, state.velocity = np.where(sign < 0, 0.0, g), now
    return update


# ---------------------------------------------------------------- how well it fits


def relative(found: Vector, seen: Record) -> float:
    """The rms error over the rms of the updates, for the parameter where it is largest; infinite where something is not finite."""
    ends = np.cumsum(seen.sizes)
    worst = 0.0
    for end, size in zip(ends, seen.sizes, strict=True):
        gap = np.linalg.norm(found[:, end - size : end] - seen.moved[:, end - size : end])
        scale = np.linalg.norm(seen.moved[:, end - size : end]) or np.linalg.norm(found[:, end - size : end])
        worst = max(worst, 0.0 if gap == 0 else float(gap / scale) if scale else math.inf)
    return worst if math.isfinite(worst) else math.inf


def reproduces(found: Vector, seen: Record, rtol: float = 1e-11) -> bool:
    """Whether every element of every step is the recorded one, up to rounding: an update is the difference of two rounded parameters."""
    rows = 1 if seen.each else seen.steps
    size = np.abs(seen.starts[: len(seen.moved)]) + np.abs(seen.moved)
    rms = np.sqrt(np.mean(np.square(seen.moved), 1, keepdims=True))
    found_to = 4 * rows * EPS * float(np.linalg.norm(size)) / (float(np.linalg.norm(seen.moved)) or 1.0)  # numbers that were solved for
    allowed = (rtol + found_to) * np.abs(seen.moved) + (rtol if rtol > ULP32 else 1e-13) * rms + 4 * rows * EPS * size
    return bool(np.all(np.abs(found - seen.moved) <= allowed))  # NaN is not below


def bits(error: float) -> float:
    """
    >>> bits(2.0**-44), bits(0.0), bits(math.inf)
    (44.0, 53.0, 0.0)
    """
    return 53.0 if error == 0 else 0.0 if not error < 1 else min(53.0, -math.log2(error))
