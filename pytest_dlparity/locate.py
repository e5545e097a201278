"""Where the two sides first part: the line, the module and the operation on both sides, forward or backward.

Both sides are traced in float64 on the same numbers (tracing.py), their values are matched (align.py), and at the operations where they part
what they were computed from is put to the test: an operand of one side is given to the other's operation, and torch's value is put in the place
of jax's, after which everything that follows must agree. What passes this last test is certain; what does not is said to be likely only.
"""

from __future__ import annotations

import itertools
import linecache
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import align, distance, relation, run, tracing
from pytest_dlparity.align import Alignment, Entry
from pytest_dlparity.errors import SpecError
from pytest_dlparity.reference import Reference, reference
from pytest_dlparity.run import Prepared
from pytest_dlparity.spec import Spec
from pytest_dlparity.trace import Frame, Node, Trace, alike, ancestors, fingerprint, informative

APART = 5e-7  # relative: what compare.INACCURATE calls another mathematics
TIGHT, LOOSE = 1e-9, 1e-6  # relative; the second where a float64 function of one library is less accurate than float64
FAR = 40  # values before the parting that are looked at for an arrangement that came from further back
READERS = 12  # values that follow from the parting and are looked at
LATER = 6  # pairs of them that are tried
TESTS_SECONDS, TESTS_TRACES = 5.0, 3.0  # how long the tests at the parting may take, or how many times both traces
SHOWN = 8  # rows of the table in a message
NOTHING = 1e-12  # of the largest leaf: a gradient that is zero but for rounding
INSIGNIFICANT = 1e-2  # of what a leaf is apart: what remains when the place is put right is rounding that went another way
EXACT = 1e-11  # relative: two float64 runs of the same mathematics through a deep model
ROOM = 1 << 25  # elements of each side's values that are kept in the first run, so that smaller models need no second
LARGE = 1 << 26  # elements of all kept values together, beyond which only the operation itself is looked at


class Place(NamedTuple):
    """One value in one program."""

    operation: str
    call: str
    file: str
    line: int
    function: str
    source: str
    module: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        what = f"{self.call} ({self.operation})" if self.call and self.call != self.operation else self.operation
        at = f" at {self.short}" if self.line else ""
        inside = f" in {self.module}" if self.module else ""
        return f"{what}{at}{inside} {list(self.shape)}"

    @property
    def short(self) -> str:
        """file:line without the folder."""
        return f"{self.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{self.line}"


class Row(NamedTuple):
    """One module, or one line, along the way."""

    module: str
    agreed: int
    values: int
    apart: float  # relative difference, at least; NaN where nothing can be held against it


@dataclass(frozen=True)
class Localization:
    """Where two sides part. `str()` is what a person reads."""

    status: str  # "agree", "parts" or "unknown"
    certain: bool = False  # with torch's value in the place of jax's, everything that follows agrees
    backward: bool = False
    leaf: str = ""
    torch: Place | None = None
    jax: Place | None = None
    last_torch: Place | None = None
    last_jax: Place | None = None
    relation: str = ""
    culprit: str = ""  # the operand that makes the difference, where swapping it between the sides proved it
    rows: tuple[Row, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    more: tuple[tuple[Place | None, Place | None], ...] = ()
    evidence: Any = field(default=None, compare=False, repr=False)  # traces, alignment and entries, for causes and reproducers

    def __str__(self) -> str:
        return "\n".join(_words(self))


@dataclass(frozen=True)
class Evidence:
    """What a finding was made from."""

    made: Alignment
    torch_entry: Entry | None
    jax_entry: Entry | None


class Proof(NamedTuple):
    """Torch's value `torch` in the place of jax's value `jax` makes all that follows agree. `kind`: the side that leaves out an operation."""

    torch: int
    jax: int
    kind: str


def localize(spec: Spec, seed: int = 0) -> Localization:
    """Where the two sides of a spec first part, in float64 on the CPU.

    Raises:
        SpecError: the spec cannot be run as it is written.
        Whatever the user's own code raises outside of tracing.
    """
    if not isinstance(spec, Spec):
        raise SpecError(f"{spec!r} is no spec. Make one with dlp.layer, dlp.loss, dlp.optimizer or dlp.model.")
    prep = run.prepared(spec, seed, ["float32"])
    return located(prep, reference(prep))


def located(prep: Prepared, truth: Reference, leaves: Sequence[str] | None = None, always: bool = False) -> Localization:
    """The same of a spec that has its reference. `leaves`: those that disagree; by default, what differs in float64.

    `always`: both sides are followed also where nothing differs, and their values counted along the way.
    What goes wrong while tracing is the answer's reason, and never raised: the verdict stands without it.
    """
    begun = time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            found = _located(prep, truth, disagreeing(truth) if leaves is None else list(leaves), always)
    except (MemoryError, RecursionError) as error:
        found = Localization("unknown", reason=f"the trace does not fit: {type(error).__name__}.")
    except Exception as error:  # noqa: BLE001  the user's programs under two tracers: whatever happens there is no verdict
        first = (str(error).strip().splitlines() or [""])[0]
        found = Localization("unknown", reason=f"one side cannot be traced: {type(error).__name__}: {first}")
    return _with(found, seconds=time.perf_counter() - begun)


def _with(found: Localization, **changed: Any) -> Localization:
    return Localization(**{**vars(found), **changed})


def disagreeing(truth: Reference, limit: float = APART) -> list[str]:
    """Leaves of the float64 run that are not the same on both sides: outputs before gradients."""
    floor = NOTHING * truth.largest
    pairs = ((name, t, truth.jax.leaves.get(name)) for name, t in truth.torch.leaves.items())
    with np.errstate(all="ignore"):
        return [name for name, t, j in pairs if j is not None and not _close(t, j, limit, floor)]


def _close(t: np.ndarray, j: np.ndarray, limit: float, floor: float = 0.0) -> bool:
    """Whether two arrays differ by no more than `limit` of their size, or by no more than `floor` in each element (rms)."""
    if t.shape != j.shape:
        return False
    finite = np.isfinite(t) & np.isfinite(j)
    if not np.array_equal(np.where(finite, 0, t), np.where(finite, 0, j), equal_nan=t.dtype.kind in "fc"):
        return False
    gap, size = np.abs(t[finite] * 1.0 - j[finite]), np.abs(t[finite] * 1.0)
    return not gap.size or bool(np.linalg.norm(gap) <= max(limit * float(np.linalg.norm(size)), floor * np.sqrt(gap.size)))


# ---------------------------------------------------------------- the finding


def _located(prep: Prepared, truth: Reference, bad: list[str], always: bool) -> Localization:
    if prep.job.kind == "optimizer":
        return Localization("unknown", reason="an optimizer's step is one formula: its cause says more than a line.")
    if truth.problem:
        return Localization("unknown", reason=f"there is no float64 run: {truth.problem}")
    if truth.random:
        return Localization("unknown", reason="the torch side drew random numbers, so its two runs are not the same.")
    for side, other in (("torch", "jax"), ("jax", "torch")):
        ours, theirs = getattr(truth, side).leaves, getattr(truth, other).leaves
        if alone := [name for name in ours if name not in theirs and not name.startswith("state.")]:
            return Localization("unknown", reason=f"only {side} returns {alone[0]}.")
    forward = [name for name in disagreeing(truth, 100 * TIGHT) if bad and not name.startswith(("grad.", "update.", "state.", "loss."))]
    forward = forward or [name for name in bad if name.startswith("state.")]
    leaves = forward or [name for name in bad if name.startswith("grad.")]
    if not leaves and bad:
        return Localization("unknown", reason=f"{bad[0]} is not followed through the program.")
    if not leaves:
        outputs = [name for name in truth.torch.leaves if not name.startswith(("grad.", "update.", "state.", "loss."))]
        return _Search(prep, truth, outputs, False).agreed() if always else Localization("agree")
    return _Search(prep, truth, leaves, not forward).found()


class _Search:
    """One search: the two traces, their values where they part, and the tests made on them."""

    def __init__(self, prep: Prepared, truth: Reference, leaves: Sequence[str], backward: bool) -> None:
        self.prep, self.truth, self.backward = prep, truth, backward
        room = ROOM if truth.ready is None else 0  # a large model needs its memory
        self.torch = tracing.torch_trace(prep, (), backward, room=room, ready=truth.ready)
        self.jax = tracing.jax_trace(prep, (), backward, room=room)
        self.leaves = [name for name in leaves if name in self.torch.outputs and name in self.jax.outputs]
        self.asked = list(leaves)
        self.traces = {"torch": self.torch, "jax": self.jax}

    def found(self) -> Localization:
        try:
            return self._found()
        finally:
            self._forget()

    def _forget(self) -> None:
        """Drops the values: an answer keeps the traces."""
        for node in (*self.torch.nodes, *self.jax.nodes):
            node.value = None

    def agreed(self) -> Localization:
        self.made = align.aligned(self.torch, self.jax, tracing.known(self.prep, self.torch, self.jax), LOOSE)
        self._forget()
        return Localization("agree", rows=self._rows())

    def _found(self) -> Localization:
        if not self.leaves:
            return Localization("unknown", reason=f"{self.asked[0]} cannot be followed on both sides.", backward=self.backward)
        if (reason := self._not_the_same_run()) is not None:
            return Localization("unknown", reason=reason, leaf=self.leaves[0], backward=self.backward)
        for rtol in (TIGHT, LOOSE):
            self.made = self._aligned(rtol)
            pairs = align.partings(self.made, self.leaves, self.backward)
            if not pairs:
                continue
            answer = self._answer(pairs)
            if rtol == LOOSE or not self._only_inaccurate(answer):
                return answer
        return self._nothing()

    def _aligned(self, rtol: float) -> Alignment:
        made = align.aligned(self.torch, self.jax, tracing.known(self.prep, self.torch, self.jax), rtol)
        for name in self.leaves:  # a permutation of the right values is no agreement
            made.jax.pop(self.torch.outputs[name], None)
            made.torch.pop(self.jax.outputs[name], None)
        return made

    def _not_the_same_run(self) -> str | None:
        """What keeps the traces from being the runs that were judged."""
        for trace, outcome in ((self.torch, self.truth.torch), (self.jax, self.truth.jax)):
            for name in self.leaves:
                seen = trace.nodes[trace.outputs[name]].print
                same = fingerprint(outcome.leaves[name])
                if seen is not None and same.square > (NOTHING * self.truth.largest) ** 2 and not alike(seen, same, LOOSE):
                    where = self._cast()
                    if where:
                        return f"{where}; without that cast the trace does not show the difference."
                    return f"the {trace.side} side is not deterministic: two runs on the same numbers give two values of {name}."
        return None

    def _cast(self) -> str:
        for side, casts in zip(("torch", "jax"), self.truth.casts(), strict=True):
            for dtype, where in casts.items():
                return f"the {side} side casts to {dtype} inside its float64 run ({where})"
        return ""

    def _only_inaccurate(self, answer: Localization) -> bool:
        """Whether what parts there is a function that is less accurate than float64, far smaller than the difference that is looked for."""
        ours, theirs = self.entries
        t = None if ours is None else self._value("torch", ours.node)
        j = None if theirs is None else self._value("jax", theirs.node)
        if answer.certain or t is None or j is None or t.size != j.size or not t.size:
            return False
        return _gap(t, j) < min(LOOSE, INSIGNIFICANT * max(map(self._apart, self.leaves)))

    def _apart(self, name: str) -> float:
        """How far the two sides are apart in a leaf, relative."""
        t, j = self.truth.torch.leaves[name], self.truth.jax.leaves[name]
        return _gap(np.asarray(j, float), np.asarray(t, float)) if t.shape == j.shape and t.dtype.kind in "fiub" else 1.0

    def _nothing(self) -> Localization:
        return Localization(
            "unknown", backward=self.backward, leaf=self.leaves[0], rows=self._rows(),
            reason="every value that leads to the difference has a counterpart: the two differ by how equal values are arranged.",
        )  # fmt: skip

    # ------------------------------------------------------------ at the parting

    def _answer(self, pairs: list[tuple[Entry | None, Entry | None]]) -> Localization:
        self.entries = pairs[0]
        ours, theirs = self.entries
        self._fetch(ours, theirs)
        self.deadline = time.perf_counter() + max(TESTS_SECONDS, TESTS_TRACES * (self.torch.seconds + self.jax.seconds))
        t = None if ours is None else self.torch.nodes[ours.node]
        j = None if theirs is None else self.jax.nodes[theirs.node]
        culprit, blamed = self._culprit(ours, theirs)
        proof = self._proof(ours, theirs)
        if blamed is not None:  # a parameter stands in no line: then it is the operation that reads it
            t, j = (made if made is not None and made.frames else entry for made, entry in zip(blamed, (t, j), strict=True))
        elif self.backward and (stopped := self._stopped(ours)) is not None:
            culprit, t, j = stopped
        elif proof is not None and proof.kind == "moved":
            t, j = self.torch.nodes[proof.torch], self.jax.nodes[proof.jax]
        elif not culprit and proof is not None and proof.kind:
            culprit, t, j = self._left_out(proof, ours, theirs)
        certain = proof is not None and (not self.backward or (t is not None and bool(t.frames or t.module)))  # sums of cotangents have no line
        last_t, last_j = self._last(t, j)
        if last_t is None and ours is not None and theirs is not None:
            last_t, last_j = self._last(self.torch.nodes[ours.node], self.jax.nodes[theirs.node])
        return Localization(
            "parts", certain=certain, backward=self.backward, leaf=self.leaves[0],
            torch=self._place(self.torch, t), jax=self._place(self.jax, j),
            last_torch=self._place(self.torch, last_t), last_jax=self._place(self.jax, last_j),
            relation=self._relation(proof, ours, theirs), culprit=culprit, rows=self._rows(),
            more=tuple(
                (self._place(self.torch, a and self.torch.nodes[a.node]), self._place(self.jax, b and self.jax.nodes[b.node]))
                for a, b in pairs[1:]
            ),
            evidence=Evidence(self.made, ours, theirs),
        )  # fmt: skip

    def _fetch(self, ours: Entry | None, theirs: Entry | None) -> None:
        """A second run of both sides, for the values around the parting."""
        self.values: dict[tuple[str, int], np.ndarray] = {}
        for side, trace, entry, table in (("torch", self.torch, ours, self.made.jax), ("jax", self.jax, theirs, self.made.torch)):
            if entry is None:
                continue
            keep = self._around(trace, entry, table)
            have = {(side, index): value for index in keep if (value := trace.nodes[index].value) is not None}
            if len(have) == len(keep):
                self.values |= have
                continue
            if side == "torch":
                again = tracing.torch_trace(self.prep, keep, self.backward, ready=self.truth.ready)
            else:
                again = tracing.jax_trace(self.prep, keep, self.backward)
            if again.steps() != trace.steps():
                raise ValueError(f"the {side} side is not deterministic: two runs on the same numbers take different steps")
            self.values |= {(side, n.index): n.value for n in again.nodes if n.value is not None}

    def _around(self, trace: Trace, entry: Entry, matched: Mapping[int, Any]) -> set[int]:
        after = self._after(trace, entry.node, matched)
        ends = {i for i in ancestors(trace, [entry.node]) if i in matched or not trace.nodes[i].data}
        near = ancestors(trace, [entry.node], ends - {entry.node})
        before = sorted(i for i in ancestors(trace, list(near)) - near if i in matched and trace.nodes[i].data)[-FAR:]
        wanted, room = set(), LARGE
        for index in [entry.node, _end_of_call(trace, entry.node), *sorted(near, reverse=True), *after, *reversed(before)]:
            room -= int(np.prod(trace.nodes[index].shape))
            if room > 0:
                wanted.add(index)
        return wanted

    def _after(self, trace: Trace, index: int, matched: Mapping[int, Any]) -> list[int]:
        """The next values that follow from one and have no counterpart: the rest of its call first."""
        found, reached = [], {index}
        for node in trace.nodes[index + 1 :]:
            if reached.intersection(node.reads) and node.index not in matched and node.kind == "op" and align.is_floating(node):
                found.append(node.index)
            if reached.intersection(node.reads):
                reached.add(node.index)
            if len(found) == READERS:
                break
        return found

    def _late(self) -> bool:
        """Whether the tests at the parting have taken as long as they may."""
        return time.perf_counter() > self.deadline

    def _value(self, side: str, index: int) -> np.ndarray | None:
        return self.values.get((side, index))

    def _relation(self, proof: Proof | None, ours: Entry | None, theirs: Entry | None) -> str:
        pairs = [] if ours is None or theirs is None or (proof is not None and proof.kind) else [(ours.node, theirs.node)]
        pairs += [proof[:2]] if proof is not None else []
        found = [between for at, other in pairs if (between := self._between(at, other)) is not None]
        return next((one for one in found if one.kind != "other"), found[-1]).text if found else ""

    def _between(self, at: int, other: int) -> relation.Relation | None:
        t, j = self._value("torch", at), self._value("jax", other)
        if t is None or j is None or t.size != j.size:
            return None
        return relation.relation(t, j, relation.sizes([self.torch.nodes[i].shape for i in (at, *self.torch.nodes[at].reads)]))

    def _last(self, t: Node | None, j: Node | None) -> tuple[Node | None, Node | None]:
        """The latest value that both sides have, that the parting was computed from, and that lies alike on both."""
        if t is None or j is None:
            return None, None
        behind = ancestors(self.jax, [j.index])
        for at in sorted(ancestors(self.torch, [t.index]) - {t.index}, reverse=True):
            partners = sorted(behind.intersection(self.made.jax.get(at, ())) - {j.index}, reverse=True)
            if self.torch.nodes[at].data and partners and self.torch.nodes[at].backward == t.backward and not self._lies_oddly(at, partners[0]):
                return self.torch.nodes[at], self.jax.nodes[partners[0]]
        return None, None

    def _lies_oddly(self, at: int, other: int) -> bool:
        mine, yours = self._value("torch", at), self._value("jax", other)
        return mine is not None and yours is not None and relation.relation(mine, yours).odd

    # ------------------------------------------------------------ which operand

    def _culprit(self, ours: Entry | None, theirs: Entry | None) -> tuple[str, tuple[Node | None, Node | None] | None]:
        """The operand whose exchange makes torch's operation give jax's value, and where it was made."""
        if ours is None or theirs is None:
            return "", None
        wanted = self.jax.nodes[theirs.node].print
        if wanted is None:
            return "", None
        for at, other, values in self._exchanges(ours, theirs):
            for value in values if not self._late() else ():
                result = self._recomputed("torch", ours.node, {at: value})
                if result is not None and alike(fingerprint(result), wanted, LOOSE):
                    return self._said(at, value), self._made_where(at, other, self.torch.nodes[ours.node], self.jax.nodes[theirs.node])
        return "", None

    def _exchanges(self, ours: Entry, theirs: Entry) -> Iterator[tuple[int, int, list[np.ndarray]]]:
        """(an end of torch's operation, its counterpart of jax's, jax's values in torch's shape)."""
        right = self._ends(self.jax, theirs, self.made.torch)
        for at in self._ends(self.torch, ours, self.made.jax):
            mine, node = self._value("torch", at), self.torch.nodes[at]
            if mine is None or mine.size < 2:
                continue
            partners = [i for i in self.made.jax.get(at, ()) if i in right] or [i for i in right if i not in self.made.torch]
            for other in partners:
                yours = self._value("jax", other)
                if yours is None or yours.dtype.kind != mine.dtype.kind or not _broadcasts(yours, mine):
                    continue
                values = list(_arrangements(yours, mine)) if node.kind == "param" else self._laid_out(mine, yours)
                values += [~value for value in values if value.dtype.kind == "b"]
                values = [v for v in values if not _close(v * 1.0, mine * 1.0, TIGHT)]
                if values and node.data == self.jax.nodes[other].data:
                    yield at, other, values

    def _laid_out(self, mine: np.ndarray, yours: np.ndarray) -> list[np.ndarray]:
        """Jax's operand in torch's shape, in every order of its axes; none where the two are the same but for the layout."""
        if mine.size != yours.size or mine.dtype.kind != "f" or max(mine.ndim, yours.ndim) > relation.AXES:
            return [_shaped(yours, mine.shape)]
        between = relation.relation(mine, yours)
        if between.kind == "same" or (between.kind == "arranged" and not between.odd):
            return []
        moved = [yours.reshape(mine.shape)]
        moved += [m for order in permutations(range(yours.ndim)) if (m := yours.transpose(order)).shape == mine.shape]
        return _different(moved)

    def _ends(self, trace: Trace, entry: Entry, matched: Mapping[int, Any]) -> list[int]:
        """What an operation is computed from: values of both sides, parameters, and what no input moves."""
        behind = ancestors(trace, [entry.node]) - {entry.node}
        stop = {i for i in behind if i in matched or not trace.nodes[i].data}
        return sorted((ancestors(trace, [entry.node], stop) & stop) | set(entry.suspects), reverse=True)

    def _recomputed(self, side: str, target: int, given: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """A side's value of a node when some nodes behind it have other values; None where that cannot be computed."""
        trace, values = self.traces[side], dict(given)
        behind = ancestors(trace, [target])
        moved = set(given)
        for index in sorted(i for i in behind if i > min(given)):
            node = trace.nodes[index]
            if index in given or not moved.intersection(node.reads):
                continue
            moved.add(index)
            reads = {read: values[read] if read in values else self._value(side, read) for read in node.reads}
            if any(value is None for value in reads.values()):
                return None
            try:
                values[index] = tracing.replay(side, node, reads)
            except Exception:  # noqa: BLE001  an operation that does not take the other side's operand is no proof
                return None
        return values.get(target) if target in moved else None

    def _said(self, at: int, value: np.ndarray) -> str:
        node = self.torch.nodes[at]
        while node.kind == "move" and not node.data and node.reads:
            node = self.torch.nodes[node.reads[0]]
        if node.kind == "param":
            return f"with the parameter {node.name} in another arrangement torch's operation gives jax's value"
        between = relation.relation(self.values["torch", at], value)
        what = "an operand" if node.data else "a constant"
        return f"{what} is not the same on both sides ({between.text}); with jax's in its place torch's operation gives jax's value"

    def _made_where(self, at: int, other: int, reads: Node, others: Node) -> tuple[Node | None, Node | None] | None:
        """The nodes that made an exchanged operand; for a parameter, the operations that read it. `reads`, `others`: the operations."""
        t, j = self.torch.nodes[at], self.jax.nodes[other]
        if t.kind in ("param", "input"):
            return None
        if not t.data:
            return _maker(self.torch, t), _maker(self.jax, j)
        later = reads, others
        while (back := self._odd_before(t, j)) is not None:
            later, (t, j) = (t, j), back
        if self._lies_alike_before(self.jax, j.index, self.made.jax.get(t.index, ()), lambda k: (t.index, k)):
            return later[0], j  # jax moves what torch reads as it is
        if self._lies_alike_before(self.torch, t.index, self.made.torch.get(j.index, ()), lambda k: (k, j.index)):
            return t, later[1]
        return t, j

    def _lies_alike_before(self, trace: Trace, index: int, partners: Iterable[int], pair: Callable[[int], tuple[int, int]]) -> bool:
        """Whether a value that one side has in another order lies there as on the other side right before."""
        behind = ancestors(trace, [index]) - {index}
        return any(k in behind and self._value("jax", pair(k)[1]) is not None and not self._lies_oddly(*pair(k)) for k in partners)

    def _odd_before(self, t: Node, j: Node) -> tuple[Node, Node] | None:
        """The pair of values before these that is oddly arranged already."""
        behind = ancestors(self.jax, [j.index]) - {j.index}
        for read in sorted(ancestors(self.torch, [t.index]) - {t.index}, reverse=True):
            mine = self._value("torch", read)
            if mine is None or mine.size != int(np.prod(t.shape)):
                continue
            for other in sorted(set(self.made.jax.get(read, ())) & behind, reverse=True):
                yours = self._value("jax", other)
                if yours is not None and sorted(mine.shape) == sorted(yours.shape) and relation.relation(mine, yours).odd:
                    return self.torch.nodes[read], self.jax.nodes[other]
        return None

    # ------------------------------------------------------------ proof

    def _proof(self, ours: Entry | None, theirs: Entry | None) -> Proof | None:
        """A value of jax's in whose place torch's makes everything that follows agree."""
        if ours is None or theirs is None:
            return None
        outputs = [self.jax.outputs[name] for name in self.leaves]
        for at, other, kind in self._candidates(ours, theirs):
            mine, yours = self._value("torch", at), self._value("jax", other)
            assert mine is not None and yours is not None
            for value in _arrangements(mine, yours):
                again = tracing.jax_trace(self.prep, outputs, self.backward, {other: value}, bare=True)
                if all(self._agrees(again, name) for name in self.leaves):
                    return Proof(at, other, kind)
                if self._late():
                    return None
        return None

    def _candidates(self, ours: Entry, theirs: Entry) -> Iterator[tuple[int, int, str]]:
        """Pairs of as many elements, the likeliest first, and which side leaves out an operation if that pair is it."""
        tried = set()
        here = dict.fromkeys((ours.node, _end_of_call(self.torch, ours.node)))
        there = dict.fromkeys((theirs.node, _end_of_call(self.jax, theirs.node)))
        before = [(*self._moved(self.torch, ours, self.made.jax), ours.node), (*self._moved(self.jax, theirs, self.made.torch), theirs.node)]
        moved = [(at, other, "moved") for at in before[0] for other in before[1] if (at, other) != (ours.node, theirs.node)]
        out = [(at, other, "jax") for at in here for other in reversed(theirs.operands)]
        out += [(at, other, "torch") for other in there for at in reversed(ours.operands)]
        out += [(at, other, "jax") for other in theirs.operands for at in self._joins(self.torch, ours, self.made.torch.get(other, ()))]
        out += [(at, other, "torch") for at in ours.operands for other in self._joins(self.jax, theirs, self.made.jax.get(at, ()))]
        ends = (list(here)[-1], list(there)[-1], "")
        for at, other, kind in itertools.chain(moved, [ends, (ours.node, theirs.node, "")], out, self._alike_later(ours, theirs)):
            mine, yours = self._value("torch", at), self._value("jax", other)
            if (at, other) not in tried and mine is not None and yours is not None and mine.size == yours.size and mine.size:
                if kind and other in self.made.jax.get(at, ()):
                    continue
                tried.add((at, other))
                yield at, other, kind

    def _moved(self, trace: Trace, entry: Entry, matched: Mapping[int, Any]) -> list[int]:
        """What an operation reads that was only moved from values of both sides, and is on this side only: slices, paddings, resized images."""
        ends = {i for i in ancestors(trace, [entry.node]) if i in matched or not trace.nodes[i].data}
        found: list[int] = []
        for index in sorted(ancestors(trace, [entry.node], ends) - ends - {entry.node}):
            node = trace.nodes[index]
            if align.is_movement(node) and align.is_floating(node) and all(read in ends or read in found for read in node.reads):
                found.append(index)
        return [index for index in found if trace.nodes[index].kind == "op"]

    def _joins(self, trace: Trace, entry: Entry, operands: Iterable[int]) -> list[int]:
        """Where what began at an operation meets one of some values: the end of a branch that the other side has not."""
        wanted = set(operands)
        return [index for index in self._after(trace, entry.node, {}) if _meet(trace, index, entry.node, wanted)][:1]

    def _alike_later(self, ours: Entry, theirs: Entry) -> Iterator[tuple[int, int, str]]:
        """Values that follow from the parting and are most alike: there the sides compute the same thing differently again."""
        found = []
        for at in [ours.node, *self._after(self.torch, ours.node, self.made.jax)]:
            for other in [theirs.node, *self._after(self.jax, theirs.node, self.made.torch)]:
                mine, yours = self.torch.nodes[at].print, self.jax.nodes[other].print
                if mine is not None and yours is not None and mine.count == yours.count > 1 and yours.square:
                    found.append((abs(mine.square - yours.square) / yours.square, at, other))
        near = []
        for _, at, other in sorted(found)[: 2 * LATER]:
            t, j = self._value("torch", at), self._value("jax", other)
            if t is not None and j is not None and not self._late():
                near.append((_gap(t, j), at, other, ""))
        yield from ((at, other, kind) for gap, at, other, kind in sorted(near)[:LATER] if gap < 1)

    def _agrees(self, again: Trace, name: str) -> bool:
        """Whether a leaf is torch's now: to a small part of what it was apart before."""
        room = max(INSIGNIFICANT * self._apart(name), EXACT)
        found, wanted = again.nodes[again.outputs[name]].value, self.truth.torch.leaves[name]
        assert found is not None
        if found.shape == wanted.shape:
            return _close(wanted, found, room, NOTHING * self.truth.largest)
        mine = self.torch.nodes[self.torch.outputs[name]].print  # a gradient in jax's layout
        return mine is not None and alike(mine, fingerprint(found), room)

    def _left_out(self, proof: Proof, ours: Entry | None, theirs: Entry | None) -> tuple[str, Node, Node]:
        """What one side leaves out, and where it would stand there."""
        assert ours is not None and theirs is not None
        t, j = self.torch.nodes[ours.node], self.jax.nodes[theirs.node]
        if proof.kind == "jax":
            t = t if proof.torch in (t.index, _end_of_call(self.torch, t.index)) else self.torch.nodes[proof.torch]
            own = [_unmoved(self.torch, self.torch.nodes[i], t.call_number) for i in self.made.torch.get(proof.jax, ()) if i in self._near(t)]
            return f"jax leaves out torch's {t.call or t.operation}", t, _standing(self.jax.nodes[proof.jax], j, own, t)
        j = j if proof.jax in (j.index, _end_of_call(self.jax, j.index)) else self.jax.nodes[proof.jax]
        own = [_unmoved(self.jax, self.jax.nodes[i], j.call_number) for i in self.made.jax.get(proof.torch, ()) if i in self._near(j, "jax")]
        return f"torch leaves out jax's {j.call or j.operation}", _standing(self.torch.nodes[proof.torch], t, own, j), j

    def _near(self, node: Node, side: str = "torch") -> set[int]:
        """The nearest values that both sides have behind a node."""
        trace, matched = (self.torch, self.made.jax) if side == "torch" else (self.jax, self.made.torch)
        behind = ancestors(trace, node.reads, set(matched))
        return {i for i in behind if i in matched}

    def _stopped(self, ours: Entry | None) -> tuple[str, Node, Node] | None:
        """A stop_gradient of jax's on the way on which torch has a gradient. A sum of cotangents stands in no line: then what it adds."""
        if ours is None:
            return None
        entry = self.torch.nodes[ours.node]
        added = [self.torch.nodes[i] for i in sorted(entry.reads, key=self.made.jax.__contains__)]
        for t in added if not entry.frames else [entry]:
            for node in self.jax.nodes:
                if node.operation == "stop_gradient" and node.frames and t.frames:
                    for at in self.made.torch.get(node.index, ()):
                        readers = [n for n in self.torch.nodes if at in n.reads and not n.backward]
                        if any(n.frames[:1] == t.frames[:1] for n in (*readers, self.torch.nodes[at])):
                            return "jax stops the gradient there and torch does not", t, node
        return None

    # ------------------------------------------------------------ words

    def _place(self, trace: Trace, node: Node | None) -> Place | None:
        return None if node is None else placed(trace, node)

    def _rows(self) -> tuple[Row, ...]:
        """The agreement along torch's modules, in the order in which they begin; the module in which the two part by its parts."""
        leaves = [self.torch.outputs[name] for name in self.leaves]
        away = align.Parting(self.torch, self.made.jax.keys(), leaves, self.backward)
        apart = (away.cone - away.returning) & (away.carriers if away.carriers is not None else away.cone)
        counted = [
            n
            for n in self.torch.nodes
            if n.data and n.kind == "op" and n.backward == self.backward and align.is_floating(n) and informative(n)
        ]
        first = next((_whole(n.module) for n in counted if n.index in apart), "")
        seen: dict[str, list[Node]] = defaultdict(list)
        for node in counted:
            whole = _whole(node.module)
            seen[node.module if whole == first else whole].append(node)
        return tuple(self._row(module, nodes, apart) for module, nodes in seen.items())

    def _row(self, module: str, nodes: list[Node], apart: set[int]) -> Row:
        bad = [node for node in nodes if node.index in apart]
        return Row(module, len(nodes) - len(bad), len(nodes), _nearest(bad[-1], self.made) if bad else 0.0)


def placed(trace: Trace, node: Node) -> Place:
    """A node as a place in the program; where the library does not say in which module, the one whose parameters are read."""
    frame = node.frames[0] if node.frames else Frame("", 0, "")
    owners = [trace.nodes[i].name.rpartition(".")[0] for i in node.reads if trace.nodes[i].kind == "param"]
    source = linecache.getline(frame.file, frame.line).strip() if frame.file else ""
    module = node.module or next(iter(owners), "")
    return Place(node.operation or node.kind, node.call, frame.file, frame.line, frame.function, source, module, node.shape, node.dtype)


def _whole(module: str) -> str:
    """The part of a module's path that says which block it is.

    >>> _whole("encoder.layers.3.attention.query"), _whole("head"), _whole("")
    ('encoder.layers.3', 'head', '')
    """
    parts = module.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def _meet(trace: Trace, index: int, start: int, wanted: set[int]) -> bool:
    """Whether of what an operation reads one comes from `start`, and another from a wanted value and not from `start`."""
    behind = [ancestors(trace, [read]) for read in trace.nodes[index].reads]
    return any(start in one for one in behind) and any(wanted & one and start not in one for one in behind)


def _end_of_call(trace: Trace, index: int) -> int:
    """The last value of the call that a node is part of."""
    number = trace.nodes[index].call_number
    parts = [node.index for node in trace.nodes if node.call_number == number >= 0 and node.kind == "op" and align.is_floating(node)]
    return max([index, *parts])


def _maker(trace: Trace, node: Node) -> Node:
    """What made a constant, behind what only moves, casts or negates it."""
    while len(node.reads) == 1 and (node.kind == "move" or node.operation in _ASIDE) and trace.nodes[node.reads[0]].operation:
        node = trace.nodes[node.reads[0]]
    return node


_ASIDE = ("bitwise_not", "logical_not", "not", "convert_element_type", "broadcast_in_dim", "expand")


def _standing(made: Node, read: Node, own: list[Node], extra: Node) -> Node:
    """Where an operation would stand that one side leaves out between making a value and reading it.

    With the value, if on the other side it stands in one line with what makes the value: in the same function where it is a part of the same
    call, else as many calls deep as there. Otherwise with what reads it.
    """
    beside = [node for node in own if node.frames[:1] == extra.frames[:1]]
    if not beside:
        return read
    within = any(node.call_number == extra.call_number >= 0 for node in beside)
    return made if within else replace(made, frames=made.frames[max(0, len(made.frames) - len(extra.frames)) :])


def _unmoved(trace: Trace, node: Node, call: int) -> Node:
    """What computed a value, behind the views and copies that a call begins with."""
    while node.kind == "move" and node.reads and node.call_number == call >= 0:
        node = trace.nodes[node.reads[0]]
    return node


def _gap(mine: np.ndarray, yours: np.ndarray) -> float:
    """Relative difference of two arrays in the layout in which they are most alike."""
    return distance.between(relation.in_layout(mine, yours), yours).relative


def _broadcasts(yours: np.ndarray, mine: np.ndarray) -> bool:
    """Whether one can stand in the place of the other: as many elements, or a mask that is broadcast on one side only."""
    if yours.size == mine.size or (yours.size > mine.size and _repeats(yours, mine.shape)):
        return True
    try:
        return np.broadcast_shapes(yours.shape, mine.shape) == mine.shape
    except ValueError:
        return False


def _repeats(value: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether an array is one of another shape, over and over along axes in front."""
    count = int(np.prod(shape))
    if not count or value.size % count or [n for n in value.shape if n > 1][-len([n for n in shape if n > 1]) :] != [n for n in shape if n > 1]:
        return False
    rows = value.reshape(-1, count)
    return bool((rows == rows[:1]).all())


def _shaped(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if value.size > int(np.prod(shape)):
        return value.reshape(-1, *shape)[0]
    return value.reshape(shape) if value.size == int(np.prod(shape)) else np.broadcast_to(value, shape).copy()


def _nearest(node: Node, made: Alignment) -> float:
    """How far the statistics of a value are from those of the nearest of as many elements on the other side."""
    mine = node.print
    assert mine is not None
    size = np.sqrt(mine.square) or 1.0
    others = (n.print for n in made.jax_trace.nodes if n.print is not None and n.print.count == mine.count and n.data)
    gaps = (
        max(
            abs(mine.mean - o.mean),
            abs(mine.absolute - o.absolute),
            abs(np.sqrt(mine.square) - np.sqrt(o.square)),
            abs(mine.high - o.high) / 4,
        )
        for o in others
    )
    return float(min(gaps, default=np.nan) / size)


def _arrangements(value: np.ndarray, like: np.ndarray) -> Iterator[np.ndarray]:
    """An array in the shape of another: in the layout most like it, as it lies, and with any two equal axes exchanged."""
    plain = value.reshape(like.shape)
    found = [relation.in_layout(value, like).astype(value.dtype), plain]
    for a in range(plain.ndim):
        found += [np.swapaxes(plain, a, b) for b in range(a + 1, plain.ndim) if plain.shape[a] == plain.shape[b] > 1]
    if value.ndim <= relation.AXES:
        found += [moved for order in permutations(range(value.ndim)) if (moved := value.transpose(order)).shape == like.shape]
    yield from _different(found)


def _different(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays without repetitions."""
    found: list[np.ndarray] = []
    for one in arrays:
        if not any(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for other in found):
            found.append(one)
    return found


def _words(found: Localization) -> Iterable[str]:
    if found.status == "agree":
        yield "the two sides agree in every leaf, in float64"
        yield from _table(found.rows)
        return
    if found.status == "unknown":
        yield f"where the two sides part cannot be told: {found.reason}"
        return
    place = next((p.module for p in (found.torch, found.jax) if p and p.module), "")
    way = "backward" if found.backward else "forward"
    likely = "" if found.certain else "probably "
    yield f"the two sides {likely}part{f' in {place}' if place else ''}, on the way {way} to {found.leaf}"
    for label, torch, jax in (("both have", found.last_torch, found.last_jax), ("they part", found.torch, found.jax)):
        yield f"  {label}  torch  {torch or 'has no such value'}"
        yield f"             jax    {jax or 'has no such value'}"
    for side, at in (("torch", found.torch), ("jax", found.jax)):
        if at and at.source:
            yield f"  {side:5}  {at.short}  {at.source}"
    if found.relation:
        yield f"  there: {found.relation}"
    if found.culprit:
        yield f"  {found.culprit}"
    if found.certain:
        yield "  with torch's value there, jax agrees in all that follows"
    yield from _table(found.rows)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows, those of one kind after each other in one line."""
    if len(rows) < 2:
        return
    yield "  along the way, values of torch that jax has too:"
    whole = [row for row in rows if row.agreed == row.values]
    start = next((k for k, row in enumerate(rows) if row.agreed < row.values), len(rows))
    if start:
        named = [row.module or "the model" for row in rows[:start]]
        yield f"    {named[0]}{f' to {named[-1]}' if start > 1 else ''}: all {sum(row.values for row in rows[:start])}"
    shown = [row for row in rows[start:] if row not in whole]
    for row in shown[:SHOWN]:
        apart = f", the last apart by {row.apart:.1g} at least" if row.apart == row.apart and row.apart else ""
        yield f"    {row.module or 'the model'}: {row.agreed} of {row.values}{apart}"
    if len(shown) > SHOWN:
        yield f"    and {len(shown) - SHOWN} more modules"
