"""Two traces -> which values both sides have, and the operations at which they part.

A value of one side is found on the other by its fingerprint; parameters and inputs are known by name, outputs by position. What leads to a
disagreeing leaf and has no counterpart, although all that it was computed from has one, is where the two part: unless a value that both sides
have follows from it again, for then it was only another way to compute the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from pytest_dlparity.trace import Index, Node, Trace, alike, ancestors, informative

MOVEMENTS = frozenset(  # an element of the result is an element of what was read
    "slice select split unbind chunk narrow split_with_sizes cat stack concatenate pad constant_pad_nd index index_select gather dynamic_slice "
    "dynamic_update_slice scatter broadcast_in_dim expand repeat rev flip roll take unfold embedding scan_slice scan_stack mutated_view copy "
    "slice_scatter select_scatter slice_backward select_backward squeeze where_idx fold im2col".split()
)
BLUNT = frozenset(
    "sign round floor ceil trunc argmax argmin topk sort gt lt ge le eq ne".split()
)  # many inputs, one result: no proof of them
EXTREMES = frozenset("amax amin max min reduce_max reduce_min".split())  # where they reduce: a mask of -1 may leave a maximum as one of -inf
SUMS = frozenset("mean sum reduce_sum var var_mean".split())
FLOATING = ("float", "bfloat", "complex")

DETOUR = 12  # operations by which another way to compute the same value comes back to it

Pairs = Mapping[int, Collection[int]]


class Entry(NamedTuple):
    """An operation of one side that the other has not."""

    node: int
    operands: tuple[int, ...]  # values that both sides have, from which it was computed
    suspects: tuple[int, ...] = ()  # what it reads that only this side has, though no input moves it or it only moves elements


@dataclass
class Alignment:
    """The values that both sides have. `jax[i]` are jax's nodes for torch's node i, `torch` the other way round."""

    torch_trace: Trace
    jax_trace: Trace
    rtol: float
    jax: dict[int, tuple[int, ...]] = field(default_factory=dict)
    torch: dict[int, tuple[int, ...]] = field(default_factory=dict)


def aligned(torch: Trace, jax: Trace, known: Iterable[tuple[int, int]] = (), rtol: float = 1e-9) -> Alignment:
    """Both traces matched by value. `known`: pairs of nodes that are the same by name, inputs and parameters."""
    made = Alignment(torch, jax, rtol)
    made.jax = _matches(torch, jax, rtol)
    made.torch = _matches(jax, torch, rtol)
    to, back = defaultdict(set), defaultdict(set)
    for here, there in known:
        to[here].add(there)
        back[there].add(here)
    made.jax.update({here: tuple(sorted({*made.jax.get(here, ()), *there})) for here, there in to.items()})
    made.torch.update({there: tuple(sorted({*made.torch.get(there, ()), *here})) for there, here in back.items()})
    for name in torch.outputs.keys() | jax.outputs.keys():
        _output(made, torch.outputs.get(name), jax.outputs.get(name))
    return made


def _matches(here: Trace, there: Trace, rtol: float) -> dict[int, tuple[int, ...]]:
    index = Index((node.print, node.index) for node in there.nodes if node.print is not None and informative(node))
    found = {}
    for node in here.nodes:
        if node.print is not None and informative(node) and (same := index.find(node.print, rtol)):
            found[node.index] = tuple(same)
    return found


def _output(made: Alignment, torch: int | None, jax: int | None) -> None:
    """An output is the same where its own counterpart is, and nowhere else."""
    t = None if torch is None else made.torch_trace.nodes[torch].print
    j = None if jax is None else made.jax_trace.nodes[jax].print
    same = t is not None and j is not None and alike(t, j, made.rtol)
    for at, other, table in ((torch, jax, made.jax), (jax, torch, made.torch)):
        if at is not None and same and other is not None:
            table[at] = (other,)
        elif at is not None and not same:
            table.pop(at, None)


def is_floating(node: Node) -> bool:
    return node.dtype.startswith(FLOATING)


def is_movement(node: Node) -> bool:
    return node.kind == "move" or node.operation.split("[")[0] in MOVEMENTS


def is_given(node: Node) -> bool:
    return node.kind in ("input", "param", "const")


# ---------------------------------------------------------------- one side


class Parting:
    """The entries of one side on the way to some of its leaves.

    On the way to gradients only what carries a cotangent can part: a derivative's own factors are computed in many ways.
    """

    def __init__(self, trace: Trace, matched: Collection[int], leaves: Sequence[int], backward: bool = False) -> None:
        self.trace, self.matched, self.leaves = trace, matched, leaves
        self.carriers = carriers(trace) if backward else None
        self.scope = ancestors(trace, leaves)
        self.cone = ancestors(trace, [leaf for leaf in leaves if leaf not in matched], matched) - set(matched)
        self.consumers: dict[int, list[int]] = defaultdict(list)
        for index in self.scope:
            for read in trace.nodes[index].reads:
                self.consumers[read].append(index)
        self.returning = self._returning()
        self.good = self._good()

    def _returning(self) -> set[int]:
        """Values without a counterpart from which one with a counterpart follows again, soon: after many operations it is an accident."""
        away: dict[int, int] = {}
        for index in sorted(self.scope, reverse=True):
            ways = {
                consumer: 0 if consumer in self.matched else away[consumer] + (not is_movement(self.trace.nodes[consumer]))
                for consumer in self.consumers[index]
                if (not self._is_blunt(consumer, index) if consumer in self.matched else consumer in away)
            }
            if ways and min(ways.values()) <= DETOUR and (self._all_come_back(index, ways) or not all(self._sums(at, index) for at in ways)):
                away[index] = min(ways.values())
        return set(away)

    def _sums(self, consumer: int, read: int) -> bool:
        """Whether an operation keeps a mean only, as that of an image resized in two ways."""
        node = self.trace.nodes[consumer]
        return node.operation in SUMS and prod(node.shape) < prod(self.trace.nodes[read].shape)

    def _all_come_back(self, index: int, ways: Collection[int]) -> bool:
        return all(at in ways or at in self.matched or not is_floating(self.trace.nodes[at]) for at in self.consumers[index])

    def _is_blunt(self, consumer: int, read: int) -> bool:
        """Whether an operation gives one result for many inputs, so that the result proves nothing of what was read."""
        node, source = self.trace.nodes[consumer], self.trace.nodes[read]
        reduced = node.operation in EXTREMES and prod(node.shape) < prod(source.shape)
        return reduced or node.operation in BLUNT or not is_floating(node)

    def _good(self) -> set[int]:
        """Values that are not to blame: matched, given, on a way back, not floating, or only moved from such."""
        good: set[int] = set()
        for index in sorted(self.scope):
            node = self.trace.nodes[index]
            free = (
                index in self.matched or is_given(node) or (index in self.returning and node.data) or not node.data or not is_floating(node)
            )
            if free or ((is_movement(node) or not informative(node)) and all(read in good for read in node.reads)):
                good.add(index)
        return good

    def entries(self) -> list[Entry]:
        """In the order of computation."""
        return [self._entry(self.trace.nodes[index]) for index in sorted(self.cone) if self._parts(self.trace.nodes[index])]

    def _parts(self, node: Node) -> bool:
        if self.carriers is not None and node.index not in self.carriers:
            return False
        if is_given(node) or not node.data or not is_floating(node) or (is_movement(node) and node.index not in self.leaves):
            return False
        if (not informative(node) and node.index not in self.leaves) or node.index in self.returning:
            return False
        return all(read in self.good for read in node.reads) and any(self.trace.nodes[read].data for read in node.reads)

    def _entry(self, node: Node) -> Entry:
        suspects = {deep for read in node.reads for deep in self._suspects(read)}
        return Entry(node.index, tuple(sorted(self.known(node.reads))), tuple(sorted(suspects)))

    def known(self, start: Sequence[int]) -> set[int]:
        """The nearest values behind some nodes that both sides have and an input moves."""
        ends = {i for i in self.scope if i in self.matched or is_given(self.trace.nodes[i])}
        return {i for i in ancestors(self.trace, start, ends) if i in ends and self.trace.nodes[i].data}

    def _suspects(self, read: int) -> list[int]:
        """The earliest values without a counterpart behind something read that no input moves or that only moves elements."""
        if self._innocent(read) or not informative(self.trace.nodes[read]):
            return []
        found, seen, stack = [], set(), [read]
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            behind = [k for k in self.trace.nodes[at].reads if not self._innocent(k)]
            if behind:
                stack.extend(behind)
            else:
                found.append(at)
        return found

    def _innocent(self, index: int) -> bool:
        node = self.trace.nodes[index]
        return index in self.matched or node.kind in ("input", "param") or index in self.returning or (node.data and not is_floating(node))


def carriers(trace: Trace) -> set[int]:
    """The values of a backward pass that a cotangent reaches."""
    found: set[int] = set()
    for node in trace.nodes:
        begins = node.name.startswith("cotangent.") if trace.side == "torch" else node.backward
        if begins or (node.backward and any(read in found for read in node.reads)):
            found.add(node.index)
    return found


# ---------------------------------------------------------------- both sides


def partings(made: Alignment, leaves: Sequence[str], backward: bool = False) -> list[tuple[Entry | None, Entry | None]]:
    """Where the two part on the way to disagreeing leaves: pairs of entries that share what they were computed from, first ones first.

    A side without an entry of its own (a missing operation) gives None.
    """
    t = Parting(made.torch_trace, made.jax.keys(), [made.torch_trace.outputs[name] for name in leaves], backward)
    j = Parting(made.jax_trace, made.torch.keys(), [made.jax_trace.outputs[name] for name in leaves], backward)
    ours, theirs = t.entries(), j.entries()
    found: list[tuple[Entry | None, Entry | None]] = []
    while ours and theirs:
        ranked = [
            (a + b, -shared, a, b)
            for a, one in enumerate(ours)
            for b, other in enumerate(theirs)
            if (shared := _shared(made, one, other))
        ]
        if not ranked:
            break
        *_, a, b = min(ranked)
        found.append((ours.pop(a), theirs.pop(b)))
        ours, theirs = ours[a:], theirs[b:]  # what comes before a pair has no partner
    if found:
        return found
    return [(ours[0] if ours else None, theirs[0] if theirs else None)] if ours or theirs else []


def _shared(made: Alignment, torch: Entry, jax: Entry) -> int:
    """How many values both were computed from; in a backward pass only cotangents count, for many operations read one forward value."""
    ours = _of_the_pass(made.torch_trace, torch)
    theirs = {other for index in ours for other in made.jax.get(index, ())}
    return len(theirs & set(_of_the_pass(made.jax_trace, jax)))


def _of_the_pass(trace: Trace, entry: Entry) -> list[int]:
    backward = [index for index in entry.operands if trace.nodes[index].backward]
    return backward if trace.nodes[entry.node].backward and backward else list(entry.operands)
