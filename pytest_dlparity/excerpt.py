"""Where two sides part -> the piece of both programs around it: its source, and the values that it is computed from.

The piece begins at values that both sides have and ends at a value that they ought to have: with torch's in the place of jax's, all that
follows agrees. The source is run before it is handed out, and must give what the two programs gave.
"""

from __future__ import annotations

import keyword
import linecache
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import relation, run, tracing
from pytest_dlparity.align import Alignment, Entry, is_floating, is_movement
from pytest_dlparity.locate import Localization
from pytest_dlparity.run import Prepared
from pytest_dlparity.trace import MASKED, Index, Node, Trace, ancestors, informative

KEPT = 1 << 24  # elements of all kept values of one side: 128 MB
LINES = 160  # of both functions; beyond, nobody reads a script
OPENED = 16  # values that are looked behind, until both sides' operands lie in the same order
SMALL = 64  # elements of all arrays together, which need not become fewer
SECONDS = 5.0  # for the search of the piece's end, and again for making it smaller
ALIKE = 0.3  # correlation from which a layout is tried
LATER = 6  # values after the parting that are tried as the piece's end, on each side
EXACT = 1e-9  # relative: what two float64 runs of the same source differ by is far below
ROUNDING = 1e-6  # relative: what is left of it after a whole program

Size = Callable[[Sequence[int]], tuple[int, ...]]


class NoExcerpt(Exception):
    """No piece of the two programs can be handed out. The message says why, as half a sentence."""


class Move(NamedTuple):
    """How jax's array lies, seen from torch's: axes permuted, and then reshaped where that is not enough."""

    order: tuple[int, ...]
    shape: tuple[int, ...] | None = None

    def __call__(self, array: np.ndarray) -> np.ndarray:
        moved = array.transpose(self.order)
        return moved if self.shape is None else moved.reshape(self.shape)

    def text(self) -> str:
        """What is to be written behind torch's array.

        >>> Move((0, 2, 1)).text(), Move((0, 1), (6,)).text(), Move((0,), ()).text(), Move((0,)).text()
        ('.transpose(0, 2, 1)', '.reshape(6)', '.reshape(())', '')
        """
        permuted = "" if self.order == tuple(range(len(self.order))) else f".transpose({', '.join(map(str, self.order))})"
        return permuted + ("" if self.shape is None else f".reshape({', '.join(map(str, self.shape)) or '()'})")


class Cut(NamedTuple):
    """Lengths made smaller: `length` to `now`; the leading axis and its multiples, or every axis of that length."""

    length: int
    now: int
    leading: bool
    last: bool  # the end of each axis is kept, not its beginning

    def size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """
        >>> Cut(8, 2, True, False).size((16, 8)), Cut(8, 2, False, False).size((16, 8))
        ((4, 8), (16, 2))
        """
        if not self.leading:
            return tuple(self.now if n == self.length else int(n) for n in shape)
        return tuple(int(n) // self.length * self.now if at == 0 and n % self.length == 0 else int(n) for at, n in enumerate(shape))

    def part(self, array: np.ndarray, shape: Sequence[int] | None = None) -> np.ndarray:
        """The part of an array that is kept."""
        to = self.size(array.shape) if shape is None else shape
        return array[tuple(slice(n - m, None) if self.last else slice(m) for n, m in zip(array.shape, to, strict=True))]


@dataclass(frozen=True)
class Excerpt:
    """Two functions of the same arrays that ought to give the same."""

    torch: _Piece
    jax: _Piece
    arrays: dict[str, np.ndarray]
    moves: dict[int, tuple[str, Move]]  # jax's node -> the array that it is, and how that lies
    batched: frozenset[str]  # arrays that an input moves
    result: Move
    limit: float
    certain: bool
    cuts: tuple[Cut, ...] = ()
    values: tuple[np.ndarray, np.ndarray] = field(default=(np.zeros(0), np.zeros(0)), repr=False)

    def size(self, shape: Sequence[int], batched: bool = True) -> tuple[int, ...]:
        """What became of a shape; only inputs are made smaller along the batch."""
        for cut in self.cuts:
            shape = cut.size(shape) if batched or not cut.leading else shape
        return tuple(int(n) for n in shape)

    def sized(self, move: Move, batched: bool = True) -> Move:
        return move if move.shape is None else Move(move.order, self.size(move.shape, batched))

    @property
    def masked(self) -> bool:
        """Whether -inf and -1e9 have to count as the same."""
        return any(bool(np.any(value <= MASKED)) for value in self.values)

    @property
    def gap(self) -> float:
        """The largest difference over the largest value of torch's."""
        return gap(*self.values, self.masked)

    def names(self, side: str) -> list[str]:
        """The arrays that a side's function takes."""
        used = set(self.torch.ends.values()) if side == "torch" else {name for name, _ in self.moves.values()}
        return [name for name in self.arrays if name in used]

    def source(self, side: str) -> list[str]:
        """The function of one side."""
        return _source(self, side)


@dataclass(frozen=True)
class _Piece:
    """One side's part: the nodes from its ends to its sink."""

    trace: Trace
    sink: int
    inner: tuple[int, ...]
    ends: dict[int, str]  # what is loaded, and under which name
    numbers: dict[int, np.ndarray] = field(default_factory=dict)  # constants of one number, which are written and not loaded


def gap(torch: np.ndarray, jax: np.ndarray, masked: bool = False) -> float:
    """How far two arrays are from each other, for torch's size; infinite where they are not finite at the same places, or of other shapes.

    >>> gap(np.array([2.0, -np.inf]), np.array([3.0, -1e9])), gap(np.array([2.0, -np.inf]), np.array([3.0, -1e9]), masked=True)
    (inf, 0.5)
    >>> gap(np.zeros(2), np.zeros(2)), gap(np.zeros(2), np.ones(2)), gap(np.zeros(2), np.zeros(3)), gap(np.array([np.nan]), np.array([np.nan]))
    (0.0, inf, inf, 0.0)
    """
    if torch.shape != jax.shape:
        return math.inf
    if masked:
        torch, jax = (np.where(x <= MASKED, -np.inf, x) for x in (torch, jax))
    torch, jax = torch * 1.0, jax * 1.0
    finite = np.isfinite(torch) & np.isfinite(jax)
    if not np.array_equal(torch[~finite], jax[~finite], equal_nan=True):
        return math.inf
    torch, jax = torch[finite], jax[finite]
    apart, size = (float(np.max(np.abs(x), initial=0)) for x in (torch - jax, torch))
    return apart / size if size else math.inf if apart else 0.0


# ---------------------------------------------------------------- finding it


def excerpt(prep: Prepared, where: Localization) -> Excerpt:
    """The piece at the place where the two sides part, as small as it can be.

    Raises:
        NoExcerpt: there is none, and why.
    """
    if where.status != "parts" or where.evidence is None:
        raise NoExcerpt("where the two sides part is not known")
    return _smaller(_Cutter(prep, where).found())


class _Cutter:
    """The search for a piece, with the values of both runs around it."""

    def __init__(self, prep: Prepared, where: Localization) -> None:
        self.prep, self.where = prep, where
        self.made: Alignment = where.evidence.made
        self.entries: tuple[Entry | None, Entry | None] = (where.evidence.torch_entry, where.evidence.jax_entry)
        self.torch, self.jax = self.made.torch_trace, self.made.jax_trace
        self.leaf = self.torch.outputs[where.leaf], self.jax.outputs[where.leaf]
        self.until = time.perf_counter() + SECONDS
        self.values = {
            "torch": self._kept(self.torch, [self.leaf[0], *self._entry(0)], tracing.torch_trace),
            "jax": self._kept(self.jax, [self.leaf[1], *self._entry(1)], tracing.jax_trace),
        }

    def _entry(self, side: int) -> list[int]:
        entry = self.entries[side]
        return [] if entry is None else [entry.node]

    def _kept(self, trace: Trace, targets: Sequence[int], run_again: Any) -> dict[int, np.ndarray]:
        """Values of a second run: those around the parting first, as many as fit."""
        near = targets[-1]
        wanted, room = set(), KEPT
        for index in sorted(ancestors(trace, targets), key=lambda i: abs(i - near)):
            size = math.prod(trace.nodes[index].shape)
            if size <= room:
                room -= size
                wanted.add(index)
        again = run_again(self.prep, wanted, self.where.backward)
        if again.steps() != trace.steps():
            raise NoExcerpt(f"the {trace.side} side takes different steps in two runs")
        return {node.index: node.value for node in again.nodes if node.value is not None}

    def found(self) -> Excerpt:
        """The first piece that can be written, the surest ends first."""
        why: Exception | None = None
        for torch, jax, move, certain in self._ends():
            try:
                return self._written(torch, jax, move, certain)
            except (NoExcerpt, ValueError) as error:  # an operation without source, of either side
                why = why or error
        raise NoExcerpt(str(why) if why else "the values around the parting do not fit")

    # ------------------------------------------------------------ where it ends

    def _ends(self) -> Iterator[tuple[int, int, Move, bool]]:
        """(torch's value, jax's, how that lies, whether it was shown that they are the same thing)."""
        near = []
        for number, found in enumerate(self._pairs()):
            for move in self._moves(*found) if time.perf_counter() < self.until else ():
                agrees, rejoins = self._tested(*found, move)
                if agrees or (rejoins and not number):
                    yield *found, move, True
                    break
                near += [(*found, move, True)] * rejoins
        yield from near
        yield from ((*self.leaf, move, True) for move in self._moves(*self.leaf))
        yield from ((*found, move, False) for found in self._of_one_kind() for move in self._moves(*found)[:1])

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """Values that may be the same thing, the earliest first. A value that the other side has stands for an operation that is left out."""
        ours, theirs = self.entries
        if ours is not None and theirs is not None:
            first = (ours.node, theirs.node)
            out = [(ours.node, other) for other in reversed(theirs.operands)] + [(at, theirs.node) for at in reversed(ours.operands)]
            ends = [(_end(self.torch, ours.node), _end(self.jax, theirs.node))]
            later = sorted(
                ((a + b, t, j) for a, t in enumerate(self._after(self.torch, 0)) for b, j in enumerate(self._after(self.jax, 1))),
            )
            pairs = dict.fromkeys([first, *out, *ends, *((t, j) for _, t, j in later)])
            yield from ((t, j) for t, j in pairs if j not in self.made.jax.get(t, ()) and (t, j) != self.leaf)

    def _after(self, trace: Trace, side: int) -> list[int]:
        """The values through which everything goes that follows from the parting."""
        start, leaf = self._entry(side)[0], self.leaf[side]
        cone, read_last = {start}, dict[int, int]()
        behind = ancestors(trace, [leaf])
        for node in trace.nodes[start + 1 : leaf + 1]:
            if node.index in behind and (read := cone.intersection(node.reads)):
                cone.add(node.index)
                read_last |= dict.fromkeys(read, node.index)
        found, reach = [], start
        for index in sorted(cone):
            if index >= reach and trace.nodes[index].kind == "op":
                found.append(index)
            reach = max(reach, read_last.get(index, 0))
        return found[:LATER]

    def _of_one_kind(self) -> Iterator[tuple[int, int]]:
        """Operations of one kind, or the ends of calls of one name: where no value makes all agree, because something else differs later on."""
        ours, theirs = self.entries
        if ours is None or theirs is None:
            return
        t, j = self.torch.nodes[ours.node], self.jax.nodes[theirs.node]
        if _family(t.operation) == _family(j.operation):
            yield t.index, j.index
        if t.call and t.call == j.call:
            yield _end(self.torch, t.index), _end(self.jax, j.index)

    def _moves(self, torch: int, jax: int) -> list[Move]:
        """The ways in which jax's value may lie, seen from torch's, the likeliest first."""
        t, j = self.values["torch"].get(torch), self.values["jax"].get(jax)
        if t is None or j is None or t.size != j.size or not t.size:
            return []
        if (torch, jax) == self.leaf:
            return [self._leaf_move(t, j)]
        likely = sorted(((_likeness(move(t), j), move) for move in _layouts(t.shape, j.shape)), key=lambda found: -found[0])
        usual = [_lying(order, t.shape, j.shape) for order in self._orders(t.ndim)]
        return list(dict.fromkeys([*usual, *(move for likeness, move in likely[:2] if likeness > ALIKE)]))

    def _orders(self, rank: int) -> list[tuple[int, ...]]:
        """How the axes of this many are permuted on jax's side: as those of what is read at the parting, or not at all."""
        straight = tuple(range(rank))
        found = []
        for here in self.entries[0].operands if self.entries[0] is not None else ():
            for there in self.made.jax.get(here, ()):
                mine, yours = self.values["torch"].get(here), self.values["jax"].get(there)
                if (
                    mine is not None
                    and yours is not None
                    and mine.ndim == yours.ndim == rank
                    and (move := plain(mine, yours, True)) is not None
                ):
                    found.append(move.order)
        return list(dict.fromkeys([*found, straight]))

    def _leaf_move(self, t: np.ndarray, j: np.ndarray) -> Move:
        """An output lies as it lies; the gradient of a parameter as the parameter."""
        name = self.where.leaf.removeprefix("grad.")
        if name != self.where.leaf:
            for here, there in tracing.known(self.prep, self.torch, self.jax):
                if self.torch.nodes[here].name == name:
                    mine, yours = self.values["torch"].get(here), self.values["jax"].get(there)
                    if mine is not None and yours is not None and (move := plain(mine, yours, True)) is not None:
                        return move
        if t.shape != j.shape:
            raise NoExcerpt(f"{self.where.leaf} has torch shape {list(t.shape)} and jax shape {list(j.shape)}")
        return Move(tuple(range(t.ndim)))

    def _tested(self, torch: int, jax: int, move: Move) -> tuple[bool, bool]:
        """Whether jax, with torch's value in the place of its own, gives torch's leaf; and whether at least what reads it gives torch's values."""
        there = self.leaf[1]
        again = tracing.jax_trace(self.prep, {there}, self.where.backward, {jax: move(self.values["torch"][torch])})
        mine, yours = self.values["torch"].get(self.leaf[0]), again.nodes[there].value
        if mine is None or yours is None or mine.size != yours.size:
            return False, False
        agrees = gap(self._leaf_move(mine, yours)(mine), yours, masked=True) <= ROUNDING
        return agrees, agrees or self._rejoins(torch, jax, again)

    def _rejoins(self, torch: int, jax: int, again: Trace) -> bool:
        """Whether every operation that reads jax's value, and nothing else that differs, gives a value that torch has after its own."""
        moved, readers = {jax}, []
        for node in again.nodes[jax + 1 :]:
            if not moved.intersection(node.reads):
                continue
            if node.kind == "move" or is_movement(node):
                moved.add(node.index)
            elif is_floating(node) and informative(node) and all(self._same(again, at, moved) for at in node.reads):
                readers.append(node.print)
        later = Index((n.print, n.index) for n in self.torch.nodes[torch + 1 :] if n.print is not None and n.index not in self.made.jax)
        return bool(readers) and all(later.find(found, ROUNDING) for found in readers if found is not None)

    def _same(self, trace: Trace, index: int, moved: set[int]) -> bool:
        node = trace.nodes[index]
        return index in moved or index in self.made.torch or not node.data

    # ------------------------------------------------------------ what it is made of

    def _written(self, torch: int, jax: int, move: Move, certain: bool) -> Excerpt:
        opened: set[tuple[str, int]] = set()
        for _ in range(OPENED):
            pieces = [self._piece(side, sink, opened) for side, sink in (("torch", torch), ("jax", jax))]
            odd = self._odd(pieces[0], pieces[1])
            if not odd:
                break
            opened |= odd
        made = self._named(pieces[0], pieces[1], move, certain)
        made = replace(made, values=_run(made))
        recorded = move(self.values["torch"][torch]), self.values["jax"][jax]
        if any(gap(now, then, made.masked) > EXACT for now, then in zip(made.values, recorded, strict=True)):
            raise NoExcerpt("the piece alone does not give what the programs gave")
        if not made.gap > made.limit:
            raise NoExcerpt("the piece alone does not show the difference")
        return made

    def _piece(self, side: str, sink: int, opened: set[tuple[str, int]]) -> _Piece:
        trace, matched = (self.torch, self.made.jax) if side == "torch" else (self.jax, self.made.torch)
        inner, ends, stack = set(), set(), [sink]
        while stack:
            node = trace.nodes[stack.pop()]
            if node.index in inner or node.index in ends:
                continue
            known = node.index in matched and (node.data or node.kind != "move")
            if node.again is None or (known and (side, node.index) not in opened):
                ends.add(node.index)
            else:
                inner.add(node.index)
                stack.extend(node.reads)
        numbers = {i: v for i in sorted(inner | ends) if i != sink and (v := self._number(side, trace.nodes[i])) is not None}
        return _without_numbers(_Piece(trace, sink, tuple(sorted(inner)), dict.fromkeys(sorted(ends), ""), numbers))

    def _number(self, side: str, node: Node) -> np.ndarray | None:
        """The value of a constant that is one number: jax's of one element, torch's also where an array was filled with it."""
        value = self.values[side].get(node.index)
        if value is None or node.data or node.name or not value.size or (side == "jax" and value.shape) or (side == "torch" and node.reads):
            return None
        return value if value.min() == value.max() else None

    def _odd(self, torch: _Piece, jax: _Piece) -> set[tuple[str, int]]:
        """Ends that hold the same values in another order: where that was done lies further back."""
        found = set()
        for there in jax.ends:
            if self.jax.nodes[there].data and self._partner(there, torch) is None:
                here = [i for i in self.made.torch.get(there, ()) if i in torch.ends]
                able = [("jax", there)] if self.jax.nodes[there].again is not None else []
                able += [("torch", i) for i in here if self.torch.nodes[i].again is not None]
                if here:
                    found |= set(able)
        return found

    def _partner(self, there: int, torch: _Piece) -> tuple[int, Move] | None:
        """The value of torch's that one of jax's is, those that torch's piece reads first."""
        by_name = {j: t for t, j in tracing.known(self.prep, self.torch, self.jax)}
        others = dict.fromkeys([*([by_name[there]] if there in by_name else []), *self.made.torch.get(there, ())])
        for here in sorted(others, key=lambda i: i not in torch.ends):
            mine, yours = self.values["torch"].get(here), self.values["jax"].get(there)
            if mine is not None and yours is not None and (move := plain(mine, yours, by_name.get(there) == here)) is not None:
                return here, move
        return None

    def _named(self, torch: _Piece, jax: _Piece, move: Move, certain: bool) -> Excerpt:
        arrays: dict[str, np.ndarray] = {}
        names: dict[int, str] = {}
        batched = set()

        def named(side: str, node: Node) -> str:
            value = self.values[side].get(node.index)
            if value is None:
                raise NoExcerpt(f"{side}'s value of {node.name or node.call or node.operation} is too large to keep")
            trace = self.torch if side == "torch" else self.jax
            name = _free(_identifier(node, _end(trace, node.index) == node.index), arrays)
            arrays[name] = value
            if node.data:
                batched.add(name)
            return name

        for index in torch.ends:
            names[index] = named("torch", self.torch.nodes[index])
        moves = {}
        for index in jax.ends:
            found = self._partner(index, torch)
            if found is not None:
                here, lies = found
                names[here] = names[here] if here in names else named("torch", self.torch.nodes[here])
                moves[index] = names[here], lies
            else:
                name = named("jax", self.jax.nodes[index])
                moves[index] = name, Move(tuple(range(arrays[name].ndim)))
        torch = replace(torch, ends={index: names[index] for index in torch.ends})
        return Excerpt(torch, jax, arrays, moves, frozenset(batched), move, self.made.rtol, certain)


def _without_numbers(piece: _Piece) -> _Piece:
    """The piece without what leads to its numbers alone."""
    inner, ends, stack = set(), set(), [piece.sink]
    while stack:
        at = stack.pop()
        if at in piece.numbers or at in inner or at in ends:
            continue
        if at in piece.ends:
            ends.add(at)
        else:
            inner.add(at)
            stack.extend(piece.trace.nodes[at].reads)
    return replace(piece, inner=tuple(sorted(inner)), ends=dict.fromkeys(sorted(ends), ""))


def _end(trace: Trace, index: int) -> int:
    """The last value of the call that a value is part of."""
    node = trace.nodes[index]
    same = [n.index for n in trace.nodes if n.call_number == node.call_number and n.backward == node.backward]
    return max(same) if node.call_number >= 0 else index


def _family(operation: str) -> str:
    """
    >>> _family("bmm") == _family("dot_general"), _family("masked_fill") == _family("select_n"), _family("mul") == _family("sub")
    (True, True, False)
    """
    return next((names[0] for names in _FAMILIES if operation in names), operation)


_FAMILIES = (
    ("mm", "bmm", "mv", "dot", "matmul", "dot_general"), ("convolution", "conv_general_dilated"), ("masked_fill", "where", "select_n"),
    ("add", "add_any"), ("sum", "reduce_sum"), ("sigmoid", "logistic"), ("amax", "max", "reduce_max"), ("pow", "integer_pow"),
)  # fmt: skip

# ---------------------------------------------------------------- how arrays lie


def _layouts(before: Sequence[int], after: Sequence[int]) -> Iterator[Move]:
    """Every permutation of the axes, reshaped where that is needed; those that need none first."""
    orders = permutations(range(len(before))) if len(before) <= relation.AXES else [tuple(range(len(before)))]
    kept = sorted(orders, key=lambda order: (_lengths(before[k] for k in order) != _lengths(after), order))
    yield from (_lying(order, before, after) for order in kept)


def _lying(order: Sequence[int], before: Sequence[int], after: Sequence[int]) -> Move:
    permuted = tuple(before[axis] for axis in order)
    return Move(tuple(order), None if permuted == tuple(after) else tuple(after))


def _lengths(shape: Any) -> list[int]:
    return [n for n in shape if n != 1]


def plain(t: np.ndarray, j: np.ndarray, by_name: bool) -> Move | None:
    """How jax's array lies if it is torch's in another layout; None where equal lengths changed places, unless both have one name."""
    if t.size != j.size:
        return None
    for move in _layouts(t.shape, j.shape):
        straight = list(move.order) == sorted(move.order)
        whole = _lengths(t.shape[k] for k in move.order) == _lengths(j.shape)
        if (straight or by_name or (whole and t.shape != j.shape)) and gap(move(t), j, masked=True) <= EXACT:
            return move
    return None


def _likeness(t: np.ndarray, j: np.ndarray) -> float:
    """The correlation of two arrays, with a little for what lies as it lay."""
    x, y = (np.nan_to_num(np.where(a <= MASKED, MASKED, a) * 1.0, nan=0.0, posinf=1e30).ravel() for a in (t, j))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return round(abs(float(x @ y)) / size, 6) if size else 0.0


# ---------------------------------------------------------------- source


def _source(made: Excerpt, side: str) -> list[str]:
    return list(_torch_lines(made)) if side == "torch" else list(_jax_lines(made))


def _torch_lines(made: Excerpt) -> Iterator[str]:
    from pytest_dlparity.frameworks import torch_source

    piece = made.torch
    words = piece.ends | {index: torch_source.full(value, made.size(value.shape)) for index, value in piece.numbers.items()}

    def write(node: Node) -> str:
        func, args, kwargs, part = node.again
        name = lambda ref: torch_source.Name(words[ref.index])
        return torch_source.text(func, torch_source.named(args, name), torch_source.named(kwargs, name), made.size, part)

    yield f"def torch_side({', '.join(made.names('torch'))}):"
    yield from _body(piece, words, write)


def _jax_lines(made: Excerpt) -> Iterator[str]:
    from pytest_dlparity.frameworks import jax_source

    piece = made.jax
    words = {index: jax_source.literal(value) for index, value in piece.numbers.items()}
    yield f"def jax_side({', '.join(made.names('jax'))}):"
    for index, (name, move) in made.moves.items():
        node = piece.trace.nodes[index]
        moved = made.sized(move, name in made.batched).text()
        cast = f'.astype("{node.dtype}")' if node.dtype != str(made.arrays[name].dtype) else ""
        words[index] = f"{name}_{index}" if moved or cast else name
        if moved or cast:
            yield f"    {words[index]} = {name}{moved}{cast}"

    def write(node: Node) -> str:
        again, nodes = node.again, piece.trace.nodes
        operands = [
            (words[o], nodes[o].shape, nodes[o].dtype, o in piece.numbers) if isinstance(o, int) else _number(o) for o in again.operands
        ]
        names, shapes, dtypes, numbers = (list(part) for part in zip(*operands, strict=True)) if operands else ([], [], [], [])
        equation = jax_source.Equation(again.name, again.params, names, shapes, dtypes, numbers, again.result, size=made.size)
        return jax_source.text(equation)

    def _number(value: np.ndarray) -> tuple[str, tuple[int, ...], str, bool]:
        return jax_source.literal(value), (), str(value.dtype), True

    yield from _body(piece, words, write)


def _body(piece: _Piece, words: dict[int, str], write: Callable[[Node], str]) -> Iterator[str]:
    """The lines of a function: one for each operation, the user's line above."""
    said, count = "", 0
    lines: list[str] = []
    for index in piece.inner:
        node = piece.trace.nodes[index]
        right = write(node)
        if right.isidentifier():
            words[index] = right
            continue
        if (remark := _remark(node)) != said:
            said = remark
            lines.append(f"    # {remark}")
        count += 1
        words[index] = f"v{count}"
        lines.append(f"    v{count} = {right}")
        if count > LINES:
            raise NoExcerpt(f"the piece has more than {LINES} operations")
    if lines and lines[-1].startswith(f"    {words[piece.sink]} = "):
        lines[-1] = "    return " + lines[-1].partition(" = ")[2]
    else:
        lines += ["    # nothing is done here"] * (not lines)
        lines.append(f"    return {words[piece.sink]}")
    yield from lines


def _remark(node: Node) -> str:
    """Where an operation stands in the user's program."""
    frame = node.frames[0] if node.frames else None
    inside = f" in {node.module}" if node.module else ""
    source = linecache.getline(frame.file, frame.line).strip() if frame else ""
    place = f"{frame}{inside}" if frame else f"{node.call or node.operation}{inside}"
    return f"{place}: {source[:110]}" if source else place


def _identifier(node: Node, last: bool = True) -> str:
    """A name for an array that Python and a reader take; `last`: whether it is what its call gave.

    >>> _identifier(Node(0, "", (), (), "float64", "param", None, name="blocks.3.norm1.weight"))
    'weight'
    >>> _identifier(Node(0, "add", (), (), "float64", "op", None, call="lambda")), _identifier(Node(0, "", (), (), "", "const", None))
    ('lambda_', 'constant')
    >>> _identifier(Node(0, "mean", (), (), "float64", "op", None, call="layer_norm"), last=False)
    'layer_norm_mean'
    """
    parts = [node.call, node.operation] if node.call and not last and node.call != node.operation else [node.call or node.operation]
    given = node.name if node.name.startswith("cotangent.") else node.name.rpartition(".")[2]
    text = re.sub(r"\W", "_", given or "_".join(part.strip("_") for part in parts)).strip("_") or "constant"
    text = f"a{text}" if text[0].isdigit() else text
    return f"{text}_" if keyword.iskeyword(text) or text in _TAKEN else text


_TAKEN = frozenset(("torch", "jax", "jnp", "lax", "np", "torch_side", "jax_side", "Path", "LIMIT", "NAMES"))


def _free(name: str, taken: Mapping[str, Any]) -> str:
    return next(free for free in (name, *(f"{name}_{n}" for n in range(2, len(taken) + 3))) if free not in taken)


# ---------------------------------------------------------------- running and shrinking


def _run(made: Excerpt) -> tuple[np.ndarray, np.ndarray]:
    """What the two functions give, in jax's layout."""
    torch_side, jax_side = run.frameworks()
    from pytest_dlparity.frameworks import jax_source, torch_source

    given = {side: [made.arrays[name] for name in made.names(side)] for side in ("torch", "jax")}
    with torch_side.settings("float64", "highest"):
        tensors = list(torch_side.tensors(dict(enumerate(given["torch"])), "cpu", "float64").values())
        (t,) = torch_source.results("\n".join(made.source("torch")), "torch_side", tensors)
    with jax_side.settings("float64", "highest"):
        (j,) = jax_source.results("\n".join(made.source("jax")), "jax_side", given["jax"])
    return made.sized(made.result)(t), j


def _smaller(made: Excerpt) -> Excerpt:
    """The excerpt on as few elements as it still fails on, where each axis that is cut is one along which nothing is mixed."""
    until = time.perf_counter() + SECONDS
    lengths = [(n, leading) for leading in (True, False) for n in _cuttable(made, leading)]
    for length, leading in lengths:
        for now in (1, 2, 4, 8) if leading else (2, 4, 8):  # of one row, no mask and no matrix is left
            if now >= length or _elements(made) <= SMALL or time.perf_counter() > until:
                break
            cut = next((c for last in (False, True) if (c := _cut(made, Cut(length, now, leading, last))) is not None), None)
            if cut is not None:
                made = cut
                break
    return made


def _elements(made: Excerpt) -> int:
    return sum(array.size for array in made.arrays.values())


def _cuttable(made: Excerpt, leading: bool) -> list[int]:
    shapes = [made.arrays[name].shape for name in made.arrays if name in made.batched or not leading]
    return sorted({n for shape in shapes for n in (shape[:1] if leading else shape) if n > 1}, reverse=True)


def _cut(made: Excerpt, cut: Cut) -> Excerpt | None:
    """The excerpt with a cut; None where what is left is not simply the same part of the results, or no longer fails."""
    arrays = {
        name: np.ascontiguousarray(cut.part(array)) if name in made.batched or not cut.leading else array
        for name, array in made.arrays.items()
    }
    less = replace(made, arrays=arrays, cuts=(*made.cuts, cut))
    try:
        values = _run(less)
        same = all(gap(now, cut.part(then, now.shape), made.masked) <= EXACT for now, then in zip(values, made.values, strict=True))
    except Exception:  # noqa: BLE001  lengths that do not fit together any more: the operations say so in many ways
        return None
    less = replace(less, values=values)
    same = same and values[0].shape == values[1].shape
    return less if same and _elements(less) < _elements(made) and less.gap > less.limit else None
