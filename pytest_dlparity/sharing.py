"""Random draws of two programs, paired: what each side draws, which draw is which, and the numbers that both are given instead.

A draw is known by its kind, its shape, its probability or bounds, and an identity: two draws of one identity (a jax key, a state of torch's generator)
are the same draw, as in a recomputation. Numbers come from numpy, from (seed, step, number of the draw), so every run and every cell has the same.
They are independent from element to element: a draw may be laid out in any order of axes without changing what the program computes in distribution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pytest_dlparity import tolerance
from pytest_dlparity.errors import SpecError
from pytest_dlparity.tolerance import Format

RATE = 1e-6  # float32 holds a probability to 6e-8, and 1 - p doubles that
HELD = 0.01  # bfloat16 holds a probability to 2^-9, and a run with rounding inside moves it by 2^-8 more
WAYS = 16  # ways to lay draws out that are tried; every one costs a run of the jax side
AGREES = 1e-9  # of the outputs in float64: rounding stays far below, another mask far above
CLEAR = 10.0  # times closer than any other way: sides that differ elsewhere too still tell a right mask from a wrong one
SHOWN = 6  # draws of a side that a message lists

Shape = tuple[int, ...]


class Drawn(NamedTuple):
    """One draw of one side.

    >>> str(Drawn("bernoulli", (8, 64), "at model.py:12", keep=0.9)), str(Drawn("integers", (), "", bounds=(0, 5)))
    ('bernoulli(0.9) of [8, 64] at model.py:12', 'integers(0, 5) of []')
    """

    kind: str  # "bernoulli", "normal", "uniform", "integers", "gumbel", "exponential"
    shape: Shape
    place: str = ""  # "at model.py:12", "in Dropout 'blocks.0.drop'"
    keep: float | None = None  # bernoulli: the probability of True; None: an array of them
    bounds: tuple[int, int] | None = None  # integers: from the first to before the second
    times: int = 1  # how often it happens, the same each time

    def __str__(self) -> str:
        again = f", the same {self.times} times" if self.times > 1 else ""
        return f"{self.what} of {list(self.shape)} {self.place}".rstrip() + again

    @property
    def what(self) -> str:
        if self.keep is not None:
            return f"{self.kind}({self.keep:.6g})"
        return self.kind if self.bounds is None else f"{self.kind}{self.bounds}"

    @property
    def is_certain(self) -> bool:
        """Whether nothing is random in it: a probability of 0 or 1, or no element."""
        return self.keep in (0.0, 1.0) or 0 in self.shape

    def same(self, other: Drawn) -> bool:
        """Whether it is the same but for its place."""
        return self._replace(place="", times=1) == other._replace(place="", times=1)


class Layout(NamedTuple):
    """How an array of torch's shape becomes one of jax's."""

    core: Shape  # torch's shape without axes of length 1, or with one axis split
    order: Shape  # of the core's axes
    shape: Shape

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.core).transpose(self.order).reshape(self.shape)

    def __str__(self) -> str:
        moved = self.order != tuple(range(len(self.order)))
        return f"{list(self.shape)}, axes {list(self.order)} of {list(self.core)}" if moved else str(list(self.shape))


class Fit(NamedTuple):
    """One way in which a draw of jax's is a draw of torch's."""

    layout: Layout
    inverted: bool = False  # jax is True where torch is False


class Pair(NamedTuple):
    torch: int
    jax: int
    fit: Fit


# ---------------------------------------------------------------- one side's draws


class Series:
    """One side's draws in the order in which they come; what comes again under a known identity is the same draw."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.draws: list[Drawn] = []
        self._owners: dict[Hashable, int] = {}
        self._rows: dict[int, frozenset[Hashable]] = {}

    def number(self, drawn: Drawn, identity: Sequence[Hashable]) -> int:
        """The number of a draw, -1 where nothing is random in it. `identity`: of each of its parts (the examples of a jax.vmap); one for most.

        Raises:
            SpecError: it depends on another draw, as two draws of one key do.
        """
        if drawn.is_certain:
            return -1
        rows = frozenset(identity)
        owners = {self._owners.get(row) for row in rows}
        if len(rows) == len(identity) and owners == {None}:
            self.draws.append(drawn)
            self._owners.update(dict.fromkeys(rows, len(self.draws) - 1))
            self._rows[len(self.draws) - 1] = rows
            return len(self.draws) - 1
        known = next((owner for owner in owners if owner is not None), None)
        if known is not None and owners == {known} and rows == self._rows[known] and drawn.same(self.draws[known]):
            self.draws[known] = self.draws[known]._replace(times=self.draws[known].times + 1)
            return known
        raise SpecError(_dependent(self.side, drawn, None if known is None else self.draws[known]))


def _dependent(side: str, drawn: Drawn, other: Drawn | None) -> str:
    other = other and other._replace(times=1)
    if side == "torch":
        return (
            f"torch's random state was set back between {other} and {drawn}, so these draws depend on one another, which cannot be shared. "
            "Leave torch.manual_seed out of the model."
        )
    if other is None:
        return f"jax uses one key for several examples in {drawn}, so they all draw the same. Split it: jax.random.split(key, len(x))."
    return (
        f"jax uses one key for {other} and again for {drawn}, so these draws depend on one another, which cannot be shared. "
        "Split it: key1, key2 = jax.random.split(key)."
    )


# ---------------------------------------------------------------- which draw is which


def ways(torch: Sequence[Drawn], jax: Sequence[Drawn]) -> list[tuple[Pair, ...]]:
    """Every way to pair the draws, the most natural first. Draws pair in order; where that fails, each with the first of its kind that is left.

    Raises:
        SpecError: they cannot be paired; the message says what does not match and lists both sides.
    """
    if not torch and not jax:
        raise SpecError(
            "shared_randomness=True, but neither side draws a random number. Set both to training mode with train=True, "
            "or leave shared_randomness out."
        )
    partners = _partners(torch, jax)
    choices = [fits(torch[t], jax[j]) for t, j in partners]
    alike = list(dict.fromkeys(choices))  # draws that could be laid out in the same ways are laid out in the same one
    if math.prod(map(len, alike)) > WAYS:
        raise SpecError(_ambiguous([(torch[t], jax[j]) for t, j in partners]))
    combinations = [dict(zip(alike, chosen, strict=True)) for chosen in itertools.product(*alike)]
    return [tuple(Pair(t, j, way[choice]) for (t, j), choice in zip(partners, choices, strict=True)) for way in combinations]


def _partners(torch: Sequence[Drawn], jax: Sequence[Drawn]) -> list[tuple[int, int]]:
    if len(torch) == len(jax) and all(fits(t, j) for t, j in zip(torch, jax, strict=True)):
        return [(index, index) for index in range(len(torch))]
    left, found = list(range(len(jax))), []
    for index, drawn in enumerate(torch):
        partner = next((other for other in left if fits(drawn, jax[other])), None)
        if partner is None:
            break
        left.remove(partner)
        found.append((index, partner))
    if left or len(found) < len(torch):
        raise SpecError(_unpaired(torch, jax))
    return found


def fits(torch: Drawn, jax: Drawn) -> tuple[Fit, ...]:
    """The ways in which one draw can be the other, the most natural first; none where it cannot."""
    kinds = {torch.kind, jax.kind}
    if len(kinds) > 1 and kinds != {"exponential", "gumbel"}:  # a Gumbel number is -log of an exponential one
        return ()
    if torch.bounds != jax.bounds:
        return ()
    return tuple(Fit(layout, inverted) for inverted in _orientations(torch, jax) for layout in layouts(torch.shape, jax.shape))


def _orientations(torch: Drawn, jax: Drawn) -> list[bool]:
    """Whether jax's mask is torch's or its complement: what the probabilities say."""
    if torch.keep is None or jax.keep is None:
        return [False] if torch.keep is jax.keep else []
    return [flip for flip, keep in ((False, torch.keep), (True, 1 - torch.keep)) if abs(keep - jax.keep) <= RATE]


def layouts(torch: Shape, jax: Shape) -> list[Layout]:
    """The ways to lay an array of one shape out in another, the most natural first.

    Axes of length 1 come and go. Axes of equal length keep their order, or one is moved to the end or the front (channels), or the first two
    are swapped (time and batch). One axis may be split in two.

    >>> [str(way) for way in layouts((2, 3, 8, 8), (2, 8, 8, 3))]
    ['[2, 8, 8, 3], axes [0, 2, 3, 1] of [2, 3, 8, 8]']
    >>> [way.order for way in layouts((2, 8, 8, 5), (2, 8, 5, 8))], layouts((8, 64), (64,))
    ([(0, 1, 3, 2), (0, 2, 3, 1)], [])
    >>> layouts((2, 3, 1, 1), (2, 1, 1, 3))
    [Layout(core=(2, 3), order=(0, 1), shape=(2, 1, 1, 3))]
    >>> [(way.core, way.order) for way in layouts((8, 4, 4), (2, 4, 4, 4))]
    [((2, 4, 4, 4), (0, 1, 2, 3)), ((4, 2, 4, 4), (1, 0, 2, 3))]
    """
    a, b = (tuple(size for size in shape if size != 1) for shape in (torch, jax))
    if sorted(a) == sorted(b):
        orders = [_in_order(a, b), *(_moves(len(a)) if len(a) > 2 or a != b else ())]
        return [Layout(a, order, jax) for order in dict.fromkeys(orders) if tuple(a[axis] for axis in order) == b]
    if len(a) + 1 == len(b):
        return [Layout(core, order, jax) for core, order in _splits(a, b)]
    if len(b) + 1 == len(a):
        return [Layout(a, order, jax) for _, order in _splits(b, a)]
    return []


def _in_order(a: Shape, b: Shape) -> Shape:
    left = list(range(len(a)))
    order = []
    for size in b:
        axis = next(axis for axis in left if a[axis] == size)
        left.remove(axis)
        order.append(axis)
    return tuple(order)


def _moves(rank: int) -> Iterator[Shape]:
    axes = tuple(range(rank))
    for axis in axes[:2]:
        rest = axes[:axis] + axes[axis + 1 :]
        yield (*rest, axis)
        yield (*axes[:axis], axes[-1], *axes[axis:-1])
    if rank > 1:
        yield (1, 0, *axes[2:])


def _splits(coarse: Shape, fine: Shape) -> Iterator[tuple[Shape, Shape]]:
    """(the coarse shape with one axis split, the order that makes it the fine one): rows first, then the two parts swapped."""
    for axis, size in enumerate(coarse):
        one, two = fine[axis : axis + 2]
        if one * two == size and fine == (*coarse[:axis], one, two, *coarse[axis + 1 :]):
            order = tuple(range(len(fine)))
            yield fine, order
            yield (*fine[:axis], two, one, *fine[axis + 2 :]), (*order[:axis], axis + 1, axis, *order[axis + 2 :])
            return


# ---------------------------------------------------------------- the numbers


def numbers(drawn: Drawn, seed: int, step: int, index: int, grid: tuple[Format, ...] = ()) -> np.ndarray:
    """The numbers of one draw, in its shape: bool, int64 or float64. Where a probability is an array: uniform numbers, True where they lie below it."""
    rng = np.random.default_rng([seed, step, index, 0x5A])  # apart from the streams of inputs
    match drawn.kind:
        case "bernoulli":
            uniform = np.asarray(rng.random(drawn.shape))
            return uniform if drawn.keep is None else uniform < drawn.keep
        case "integers" if drawn.bounds is not None:
            return np.asarray(rng.integers(*drawn.bounds, size=drawn.shape))
        case "normal":
            made = rng.standard_normal(drawn.shape)
        case "uniform":
            made = rng.random(drawn.shape)
        case "exponential":
            made = rng.exponential(size=drawn.shape)
        case _:
            made = rng.gumbel(size=drawn.shape)
    return tolerance.on_grid(np.asarray(made, np.float64), grid)


class Event(NamedTuple):
    """A draw of jax's as it happens: by which equation, in which round of the loops around it, with which keys (one for each example)."""

    drawn: Drawn
    site: int
    at: tuple[int, ...]
    keys: tuple[bytes, ...]
    number: int = -1  # which draw it is; one that happens twice is the same


@dataclass(frozen=True)
class Shared:
    """The paired draws of a spec, and their numbers for each side."""

    torch: tuple[Drawn, ...]
    jax: tuple[Drawn, ...]
    pairs: tuple[Pair, ...]
    happening: tuple[Event, ...]
    seed: int
    grid: tuple[Format, ...] = ()
    doubt: str = ""  # what was taken for granted

    def for_torch(self, step: int, index: int) -> np.ndarray:
        """The numbers of one draw in one step."""
        return numbers(self.torch[index], self.seed, step, index, self.grid)

    def for_jax(self, step: int) -> list[np.ndarray]:
        """The numbers of one step for each equation that draws; the rounds of the loops around it come first."""
        sites: dict[int, list[tuple[Shape, np.ndarray]]] = {}
        for event in self.happening:
            sites.setdefault(event.site, []).append((event.at, self._of(event, step)))
        return [_stacked(sites[site]) for site in sorted(sites)]

    def _of(self, event: Event, step: int) -> np.ndarray:
        return certain(event.drawn) if event.drawn.is_certain else self._paired(event.number, step)

    def _paired(self, index: int, step: int) -> np.ndarray:
        """The numbers of the torch draw that is this one, in its layout and as its kind."""
        pair = self.pairs[[pair.jax for pair in self.pairs].index(index)]
        made = pair.fit.layout(self.for_torch(step, pair.torch))
        if pair.fit.inverted:
            return ~made
        if self.torch[pair.torch].kind == "exponential" and self.jax[index].kind == "gumbel":
            return np.asarray(-np.log(made))
        if self.torch[pair.torch].kind == "gumbel" and self.jax[index].kind == "exponential":
            return np.asarray(np.exp(-made))
        return made

    def __str__(self) -> str:
        said = [f"torch's {self.torch[pair.torch]} for jax's {_given(self.jax[pair.jax], pair.fit)}" for pair in self.pairs]
        return "randomness is shared, " + _listed(said, "; ") + (f". {self.doubt}" if self.doubt else "")


def certain(drawn: Drawn) -> np.ndarray:
    """What comes of a draw in which nothing is random."""
    return np.full(drawn.shape, drawn.keep == 1.0) if drawn.keep is not None else np.zeros(drawn.shape)


def _stacked(parts: Sequence[tuple[Shape, np.ndarray]]) -> np.ndarray:
    """Arrays put where they belong in one.

    >>> _stacked([((1, 0), np.array([5])), ((0, 0), np.array([7]))]).tolist()
    [[[7]], [[5]]]
    """
    loops = tuple(np.max([at for at, _ in parts], axis=0) + 1) if parts[0][0] else ()
    made = np.empty((*loops, *parts[0][1].shape), parts[0][1].dtype)
    for at, array in parts:
        made[at] = array
    return made


def _given(drawn: Drawn, fit: Fit) -> str:
    return f"{drawn.what} of {fit.layout}{', inverted,' if fit.inverted else ''} {drawn.place}".rstrip(" ,")


@dataclass
class Stream:
    """The numbers that one run of the torch side is given: draw by draw, forward pass by forward pass."""

    seed: int
    grid: tuple[Format, ...] = ()
    steps: int = 1
    shared: Shared | None = None  # None: a first run, which says what is drawn
    passes: int = 0
    sequence: Series = field(default_factory=lambda: Series("torch"))

    def again(self) -> None:
        """A new run: its first forward pass is step 0."""
        self.passes = 0
        self.sequence = Series("torch")

    def forward(self) -> None:
        """A new forward pass, which draws anew."""
        self.passes += 1
        self.sequence = Series("torch")

    @property
    def step(self) -> int:
        return max(0, self.passes - 1) % self.steps

    def numbers(self, drawn: Drawn, identity: Hashable) -> np.ndarray:
        """The numbers of a draw.

        Raises:
            SpecError: the first run did not draw this.
        """
        index = self.sequence.number(drawn, [identity])
        if self.shared is None:
            return numbers(drawn, self.seed, self.step, index, self.grid)
        expected = self.shared.torch
        way = _same_rows(expected[index], drawn) if index < len(expected) else None
        if way is None:
            then = f"where the first run drew {expected[index]}" if index < len(expected) else "where the first run drew nothing more"
            raise SpecError(
                f"torch draws {drawn} in step {self.step + 1}, {then}. Randomness is shared only where every run draws alike: "
                "leave shared_randomness out, or draw with dlp and pass the draws in."
            )
        return way(self.shared.for_torch(self.step, index))


def _same_rows(first: Drawn, now: Drawn) -> Layout | None:
    """How an earlier draw is this one: the same, or with an axis split or joined, as where attention is computed with its heads apart."""
    known = first.keep is not None and now.keep is not None and abs(first.keep - now.keep) <= HELD
    if not (known or first.keep is now.keep) or not first.same(now._replace(shape=first.shape, keep=first.keep)):
        return None
    return next((way for way in layouts(first.shape, now.shape) if way.order == tuple(range(len(way.order)))), None)


# ---------------------------------------------------------------- choosing among several ways


def gap(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """How far two runs' outputs are apart, relative to their size.

    >>> gap({"output": np.ones(2)}, {"output": np.ones(2) * 1.5}), gap({"output": np.ones(2)}, {})
    (0.5, inf)
    """
    worst = 0.0
    for name, array in one.items():
        if name.partition(".")[0] in ("output", "loss"):
            there = other.get(name)
            if there is None or there.shape != array.shape:
                return math.inf
            size = float(np.linalg.norm(np.ravel(array)))
            apart = there.astype(np.complex128) - array.astype(np.complex128)
            worst = max(worst, float(np.linalg.norm(np.ravel(apart))) / (size or 1.0))
    return worst if math.isfinite(worst) else math.inf


def clear_way(gaps: Sequence[float], torch: Sequence[Drawn], jax: Sequence[Drawn], way: Sequence[Pair]) -> tuple[int, str]:
    """(the way that brings the outputs together, what is in doubt), from the difference of the outputs in each way. `way`: the first.

    Raises:
        SpecError: none does so clearly, and shapes that differ leave no natural one.

    >>> mask = [Drawn("bernoulli", (4, 4), keep=0.5)]
    >>> clear_way([1.0, 1e-3], mask, mask, ways(mask, mask)[0])
    (1, '')
    """
    order = sorted(range(len(gaps)), key=lambda index: gaps[index])
    if len(gaps) == 1 or gaps[order[0]] * CLEAR <= gaps[order[1]]:
        return order[0], ""
    pairs = [(torch[pair.torch], jax[pair.jax]) for pair in way]
    if any(_core(t) != _core(j) and len(layouts(t.shape, j.shape)) > 1 for t, j in pairs):
        raise SpecError(_ambiguous(pairs))
    return 0, f"The outputs differ in each of {len(gaps)} ways to do so (axes of equal length, masks that keep or drop): the first is taken"


def _core(drawn: Drawn) -> Shape:
    return tuple(size for size in drawn.shape if size != 1)


# ---------------------------------------------------------------- sentences


def _unpaired(torch: Sequence[Drawn], jax: Sequence[Drawn]) -> str:
    return (
        f"the draws of the two sides do not match: {_reason(torch, jax)}. "
        f"torch draws {_listed(map(str, torch), ', ')}; jax draws {_listed(map(str, jax), ', ')}. "
        f"{_advice(torch, jax)}, or leave shared_randomness out and give train=False."
    )


def _reason(torch: Sequence[Drawn], jax: Sequence[Drawn]) -> str:
    first = _first_apart(torch, jax)
    if first is None:
        return f"torch draws {_times(len(torch))}, jax {_times(len(jax))}"
    t, j = first
    if t.kind != j.kind:
        return f"{t.what} is not {j.what}"
    if t.keep is not None and j.keep is not None and not _orientations(t, j):
        return f"torch's mask is True with probability {t.keep:.6g}, jax's with {j.keep:.6g}"
    if t.bounds != j.bounds or (t.keep is None) != (j.keep is None):
        return f"{t.what} is not {j.what}"
    return f"torch draws the shape {list(t.shape)}, jax {list(j.shape)}"


def _advice(torch: Sequence[Drawn], jax: Sequence[Drawn]) -> str:
    first = _first_apart(torch, jax)
    if first is not None and len(torch) == len(jax):
        t, j = first
        if t.kind == "bernoulli" and j.kind == "uniform" and t.keep is not None:
            return f"Write jax.random.bernoulli(key, {t.keep:.6g}, {j.shape}) on the jax side"
        if t.kind == "uniform" and j.kind == "bernoulli" and j.keep is not None:
            return f"Write torch.empty({list(t.shape)}).bernoulli_({j.keep:.6g}) on the torch side"
        if t.kind == j.kind and math.prod(t.shape) > math.prod(j.shape):
            return (
                "Let jax draw a number for each element, not one for several (flax: broadcast_dropout=False; vmap: a key for each example)"
            )
        if t.kind == j.kind and math.prod(t.shape) < math.prod(j.shape):
            return "Let torch draw a number for each element, not one for several (dropout, not dropout2d)"
    return "Let both sides draw the same numbers of the same shape in the same order"


def _first_apart(torch: Sequence[Drawn], jax: Sequence[Drawn]) -> tuple[Drawn, Drawn] | None:
    return next(((t, j) for t, j in zip(torch, jax, strict=False) if not fits(t, j)), None)


def _times(count: int) -> str:
    return {0: "nothing", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _ambiguous(pairs: Sequence[tuple[Drawn, Drawn]]) -> str:
    several = [f"{list(t.shape)} as {list(j.shape)}" for t, j in pairs if len(fits(t, j)) > 1]
    return (
        f"a draw of {_listed(list(dict.fromkeys(several)), ', ')} can be laid out in more than one way, and none brings the outputs of the two "
        "sides together. Give the axes lengths that differ, compare with train=False first, or draw the numbers with dlp and pass them in."
    )


def _listed(texts: Iterable[str], between: str) -> str:
    found = list(texts)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return between.join(found[:SHOWN] + more) or "nothing"
