"""Which torch parameter is which jax array, told by what the two sides compute: where names and shapes leave a doubt.

Both sides run once in float64, with torch's parameters moved at random so that no two are equal and none is zero or one. `jax_unify` walks
the jax side with the doubtful arrays unknown; what makes the same values as torch is proved. What no value tells (it lies behind the first
difference of the two sides, or nothing hangs on it) goes by what is proved of its like in another layer, else by names and shapes as before.
"""

from __future__ import annotations

import functools
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import param_map, tolerance
from pytest_dlparity.job import Job
from pytest_dlparity.param_map import Carry, Doubt, JaxLeaf, TorchLeaf, names
from pytest_dlparity.param_map.candidates import GATES, Candidate, candidates
from pytest_dlparity.param_map.given import carried
from pytest_dlparity.param_map.names import Leaf
from pytest_dlparity.param_map.pattern import untaken
from pytest_dlparity.trace import Fingerprint, Index, Node, Trace, fingerprint, informative

Arrays = dict[str, np.ndarray]

SECONDS = 30.0  # for one spec; what is not told by then is a doubt
MOVED = 0.3  # of a parameter's own size: far enough to tell equal ones apart, near enough to stay where the model works
HELD = ("given", "its layer", "name", "number")  # how something was decided that values do not decide again
ROWS = 24  # of a table in a message
SAME = 1e-6  # of an output's size: programs that cast to float32 inside agree to 1e-7


class Sides(NamedTuple):
    """Two programs on the same inputs, with torch's numbers."""

    torch: Any
    jax: Any
    job: Job
    params: Arrays
    buffers: Arrays
    inputs: Arrays
    precision: str = "highest"

    @property
    def torch_leaves(self) -> list[TorchLeaf]:
        arrays = {**self.params, **self.buffers}
        return [TorchLeaf(name, array.shape, self.torch.layers.get(name, ""), name in self.buffers) for name, array in arrays.items()]

    @property
    def jax_leaves(self) -> list[JaxLeaf]:
        parts = ((self.jax.params, False), (self.jax.state, True))
        return [
            JaxLeaf(path, tuple(np.shape(a)), self.jax.layers.get(path, ""), state) for part, state in parts for path, a in part.items()
        ]


@functools.cache
def _frameworks() -> tuple[Any, Any, Any, Any]:
    from pytest_dlparity.frameworks import jax as jax_side
    from pytest_dlparity.frameworks import jax_unify, torch_trace
    from pytest_dlparity.frameworks import torch as torch_side

    return torch_side, torch_trace, jax_side, jax_unify


def carries(
    sides: Sides, given: Mapping[Any, Any] | None, doubt: Doubt, seconds: float | None = None, hold: bool = True
) -> tuple[Carry, ...]:
    """One Carry for each jax array that takes torch's numbers, where names alone have left `doubt`.

    hold: what names have decided stays; else they are asked only where values tell nothing.

    Raises:
        Doubt: what is left of the doubt, and what was found out.
    """
    kept = HELD if hold else ("given",)
    held = [*doubt.given, *(carried(tie) for tie in doubt.ties if tie.how in kept)]
    search = Search(sides, held, {j.name: t.name for t, j in doubt.pairs} if hold else {}, hold)
    try:
        found = search.proved(time.monotonic() + (SECONDS if seconds is None else seconds))
    except Exception as error:  # the user's code may raise anything, and in float64 what it does not raise otherwise
        said = (str(error).strip().splitlines() or [""])[0]
        raise _said(doubt, [f"Values could not be asked in float64: {type(error).__name__}: {said}"]) from error
    whole, partly = _complete(found, sides)
    return param_map.carries(sides.torch_leaves, sides.jax_leaves, given, _new(whole, doubt), [*search.story(found), *partly])


def _new(proved: Sequence[Carry], doubt: Doubt) -> list[Carry]:
    """What is not there by the user's map already."""
    given = {tie.jax.name for tie in doubt.ties if tie.how == "given"} | {carry.jax for carry in doubt.given}
    return [carry for carry in proved if carry.jax not in given]


def _said(doubt: Doubt, more: Sequence[str]) -> Doubt:
    *lines, last = str(doubt).splitlines()
    made = Doubt("\n".join([*lines, *more, last]))
    made.ties, made.pairs, made.open = doubt.ties, doubt.pairs, doubt.open
    return made


def _complete(proved: Sequence[Carry], sides: Sides) -> tuple[list[Carry], list[str]]:
    """The carries that leave no torch array used in part; and what is missing of the others, a sentence each."""
    torch, jax = ({leaf[0]: leaf.shape for leaf in side} for side in (sides.torch_leaves, sides.jax_leaves))
    partly = untaken(proved, torch, jax)
    paths = {name: ", ".join(f'"{path}"' for path in dict.fromkeys(c.jax for c in proved if c.torch == name)) for name in partly}
    said = [
        f'torch "{name}" {list(torch[name])} was found in jax {paths[name]}, but {left} of its numbers were not.'
        for name, left in partly.items()
    ]
    return [carry for carry in proved if carry.torch not in partly], said


# ---------------------------------------------------------------- numbers that tell everything apart


def varied(sides: Sides) -> Arrays:
    """Torch's parameters and running statistics, each moved by random numbers of about its own size; variances stay positive."""
    moved = {name: _varied(name, array) for name, array in sides.params.items()}
    statistics = {
        name: _varied(name, array) for name, array in sides.buffers.items() if names.ROLES.get(name.rpartition(".")[2]) in names.STATISTICS
    }
    return {**sides.params, **sides.buffers, **moved, **statistics}


def _varied(name: str, array: np.ndarray) -> np.ndarray:
    if not tolerance.is_floating(array) or not array.size:
        return array
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(array.shape)
    if names.ROLES.get(name.rpartition(".")[2]) == "var":
        return array * np.exp(MOVED * noise) + 0.01 * np.abs(noise)
    size = np.sqrt(np.mean(np.square(array)))
    return array + (MOVED * size if size else 0.1) * noise


# ---------------------------------------------------------------- the search


@dataclass
class Question:
    """A jax array in doubt, and all that it may be: candidates for an array called ANY, which questions that are alike share."""

    leaf: Leaf
    options: list[Candidate]
    wider: dict[int, list[int]]  # of each option those that are the same and something added

    def carries(self, option: int) -> tuple[Carry, ...]:
        return tuple(carry._replace(jax=self.leaf.name) for carry in self.options[option].carries)

    def array(self, numbers: Arrays, option: int) -> np.ndarray:
        return _filled(self.options[option], numbers, self.leaf.shape)


ANY = "?"
AGAINST = "value, against its name"


def _filled(option: Candidate, numbers: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    return param_map.jax_arrays(option.carries, numbers, {ANY: shape})[ANY]


def _wider(options: Sequence[Candidate], numbers: Arrays, shape: tuple[int, ...]) -> dict[int, list[int]]:
    """Of each option those that are the same and something added: told apart by leaving out what may have been added."""
    summed = {carry.torch for option in options if any(c.is_added for c in option.carries) for carry in option.carries}
    mine = [index for index, option in enumerate(options) if summed & {carry.torch for carry in option.carries}]
    found: dict[int, list[int]] = {}
    for name in summed:
        without = {**numbers, name: np.zeros_like(numbers[name])}
        alike: dict[bytes, list[int]] = {}
        for index in mine:
            alike.setdefault(_filled(options[index], without, shape).tobytes(), []).append(index)
        for same in alike.values():
            plain = [index for index in same if all(carry.torch != name for carry in options[index].carries)]
            found |= {index: [*found.get(index, ()), *(other for other in same if other not in plain)] for index in plain}
    return found


class _Asking:
    """Questions; those for arrays that look alike are asked once."""

    def __init__(self, numbers: Arrays, shapes: set[tuple[int, ...]]) -> None:
        self.numbers, self.shapes = numbers, shapes
        self.made: dict[Any, tuple[list[Candidate], dict[int, list[int]]]] = {}

    def question(self, leaf: Leaf, torch: Sequence[Leaf]) -> Question:
        key = leaf.shape, leaf.role, leaf.state, tuple(one.name for one in torch)
        if key not in self.made:
            options = candidates(replace(leaf, name=ANY), torch, self.shapes)
            self.made[key] = options, _wider(options, self.numbers, leaf.shape)
        return Question(leaf, *self.made[key])


@dataclass
class Search:
    """What is asked of the values, and what they have answered."""

    sides: Sides
    held: list[Carry]
    pairs: dict[str, str]  # jax arrays that belong to a torch array, in a layout that is not known
    hold: bool = True
    against: list[Carry] = field(default_factory=list)  # proved, but named otherwise
    first: str = ""  # the jax array with which the two sides part
    stopped: str = ""
    asked: list[Leaf] = field(default_factory=list)  # every jax array that was in doubt
    left: dict[str, set[int]] = field(default_factory=dict)  # of jax arrays that are known in part, the options that names leave

    def proved(self, deadline: float) -> list[Carry]:
        """What stays as it is, what values prove, and what is like something proved."""
        numbers = varied(self.sides)
        trace = _traced(self.sides, numbers)
        found = list(self.held)
        asking = _Asking(numbers, {node.shape for node in trace.nodes if node.data})
        questions = self._questions(asking)
        known = _Known(
            _index(self.sides, numbers, trace), {name: trace.nodes[index].print for name, index in trace.outputs.items()}, deadline
        )
        found += self._asked(numbers, found, questions, known)
        found += self._asked(numbers, found, self._tied(asking, questions, found), known)
        found += self._laid_out(found, questions)
        return [*found, *_like(found, self.sides, self.asked)]

    def story(self, found: Sequence[Carry]) -> list[str]:
        """What was found out, for a refusal."""
        told = [carry for carry in found if carry.how.startswith(("value", "as "))]
        count = len({carry.jax for carry in told})
        parts = f' Nothing that torch has makes of jax "{self.first}" what torch computes: there the two sides part.' if self.first else ""
        late = f" It was given up: {self.stopped}." if self.stopped else ""
        lines = [f"Values were asked, and told {count} of {len(self.asked)} jax arrays that names left open.{parts}{late}"]
        for carry in self.against:
            way = f' as "{carry.pattern}"' if carry.pattern else ""
            lines.append(
                f'  By its values jax "{carry.jax}" is torch "{carry.torch}"{way}, and its name says another: a mistake on one side, or in a name.'
            )
        table = param_map.table(told[:ROWS]).splitlines() if told else []
        return [*lines, *(f"  {row}" for row in table), *([f"  and {len(told) - ROWS} more."] if len(told) > ROWS else [])]

    # ------------------------------------------------------------ what is asked

    def _questions(self, asking: _Asking) -> dict[str, Question]:
        """Every jax array that is not settled, with what torch has left for it."""
        torch, jax = names.torch_leaves(self.sides.torch_leaves), names.jax_leaves(self.sides.jax_leaves)
        there, back = {carry.torch for carry in self.held}, {carry.jax for carry in self.held}
        left = [leaf for leaf in torch if leaf.name not in there and leaf.last not in names.IGNORED]
        self.asked = [leaf for leaf in jax if leaf.name not in back and leaf.needed]
        found = {}
        for leaf in self.asked:
            paired = asking.question(leaf, [one for one in left if one.name == self.pairs.get(leaf.name)])
            found[leaf.name] = paired if paired.options else asking.question(leaf, left)
        return found

    def _tied(self, asking: _Asking, questions: Mapping[str, Question], found: Sequence[Carry]) -> dict[str, Question]:
        """Jax arrays for which torch has nothing left: it may use an array twice, but not one that is a term of a sum already.

        (Two gates of a GRU show the sum of its biases; the last keeps them apart.)
        """
        summed = {carry.jax for carry in found if carry.is_added}
        used, done = {carry.torch for carry in found if carry.jax not in summed}, {carry.jax for carry in found}
        torch = [leaf for leaf in names.torch_leaves(self.sides.torch_leaves) if leaf.name in used]
        again = {}
        for leaf in self.asked:
            mine = questions.get(leaf.name)
            if leaf.name not in done and (mine is None or all(used & {use[0] for use in option.uses} for option in mine.options)):
                again[leaf.name] = asking.question(leaf, torch)
        return {path: question for path, question in again.items() if question.options}

    # ------------------------------------------------------------ one walk

    def _asked(self, numbers: Arrays, held: Sequence[Carry], questions: Mapping[str, Question], known: _Known) -> list[Carry]:
        """What one walk over the jax side proves."""
        if not questions:
            return []
        _, _, _, jax_unify = _frameworks()
        unknown = {
            path: jax_unify.Unknown(path, one.leaf.shape, one.options, functools.partial(one.array, numbers), one.wider)
            for path, one in questions.items()
        }
        found = _walked(self.sides, numbers, held, unknown, known, _Likely(self.sides, questions)).found
        self.first, self.stopped = self.first or found.first, self.stopped or found.stopped
        told = [carry for members, ways in found.ways for carry in self._told(members, ways, questions)]
        against = [carry for carry in told if carry.how == AGAINST]
        self.against += against
        return [carry for carry in told if carry not in against or not self.hold]

    def _laid_out(self, found: Sequence[Carry], questions: Mapping[str, Question]) -> list[Carry]:
        """What only a layout is missing of is laid out as everything of its shape that is proved."""
        made: list[Carry] = []
        for path, options in self.left.items():
            question, done = questions.get(path), {carry.jax for carry in found}
            if question is None or len(options) == 1 or path in done:
                continue
            shapes = {leaf.name: leaf.shape for leaf in self.sides.torch_leaves}, {leaf.path: leaf.shape for leaf in self.sides.jax_leaves}
            used = {carry.torch for carry in found}
            sure = [c for c in found if c.how.startswith("value") and shapes[1][c.jax] == question.leaf.shape]
            for option in options:
                mine = question.carries(option)
                alike = [c for c in sure if len(mine) == 1 and shapes[0][c.torch] == shapes[0][mine[0].torch]]
                same_torch = {carry.torch for other in options for carry in question.carries(other)} == {carry.torch for carry in mine}
                if alike and same_torch and not used & {mine[0].torch} and {c.pattern for c in alike} == {mine[0].pattern}:
                    made.append(mine[0]._replace(how=f"value, laid out as {alike[0].jax}"))
        return made

    def _told(self, members: Sequence[str], ways: list[tuple[int, ...]], questions: Mapping[str, Question]) -> Iterator[Carry]:
        """The carries of parameters that are proved together; where values leave several ways, names may leave one."""
        named = [way for way in ways if all(_agrees(questions[m], option) is not False for m, option in zip(members, way, strict=True))]
        least = min((_width(members, way, questions) for way in named), default=0)  # what would be added later never was
        best = [way for way in named if _width(members, way, questions) == least] or ways
        for place, member in enumerate(members):
            self.left[member] = {way[place] for way in best}
            if len(self.left[member]) == 1:
                how = "value" if len({way[place] for way in (named or ways)}) == len({way[place] for way in ways}) else "value and name"
                how = AGAINST if _agrees(questions[member], best[0][place]) is False else how
                yield from (carry._replace(how=how) for carry in questions[member].carries(best[0][place]))


def _width(members: Sequence[str], way: Sequence[int], questions: Mapping[str, Question]) -> int:
    """How many parts of torch's arrays an assignment uses."""
    return sum(len(questions[member].options[option].uses) for member, option in zip(members, way, strict=True))


def _agrees(question: Question, option: int) -> bool | None:
    """Whether a name says what the values say: a query is the query. None: it says nothing."""
    mine = names.meaning(question.leaf.name)
    theirs = {names.meaning_of_part(carry.torch, carry.pattern) for carry in question.options[option].carries}
    return None if not mine or "" in theirs else theirs == {mine}


# ---------------------------------------------------------------- both sides, run


def _traced(sides: Sides, numbers: Arrays, keep: frozenset[int] = frozenset()) -> Trace:
    torch_side, torch_trace, _, _ = _frameworks()
    job = sides.job._replace(wrt=(), trained=())
    with torch_side.settings("float64", sides.precision):
        params, buffers = ({name: numbers[name] for name in part} for part in (sides.params, sides.buffers))
        ready = torch_side.ready(sides.torch, job, params, buffers, sides.inputs, "cpu", "float64", False)
        made: Trace = torch_trace.trace(ready, job, _no_cotangent, keep, False)
    return made


def _no_cotangent(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape)


class _Known(NamedTuple):
    """What torch computed, and until when it may be compared with."""

    values: Index
    outputs: Mapping[str, Fingerprint | None]
    deadline: float


def _walked(
    sides: Sides, numbers: Arrays, held: Sequence[Carry], unknown: Mapping[str, Any], known: _Known, guess: Any = lambda path, settled: None
) -> _Walked:
    """The jax side run with torch's numbers where they are known."""
    _, _, jax_side, jax_unify = _frameworks()
    arrays = param_map.jax_arrays(held, numbers, {leaf.path: leaf.shape for leaf in sides.jax_leaves})
    with jax_side.settings("float64", sides.precision):
        asked = {path: np.zeros(one.shape) for path, one in unknown.items()}
        parts = (sides.jax.params, sides.jax.state)
        own = [jax_side.arrays({p: arrays.get(p, asked.get(p, a)) for p, a in part.items()}, "float64") for part in parts]
        args = (*own, jax_side.arrays(sides.inputs, "float64"), {})
        traced, _ = jax_side.evaluation(sides.jax, sides.job._replace(wrt=()), [], True, True).traced(*args)
        flat = [
            unknown.get(path, value) if part < 2 else value
            for (part, path), value in zip(jax_side.paths(args), jax_side.flat(args), strict=True)
        ]
        inputs = [part == 2 for part, _ in jax_side.paths(args)]
        results = [name for _, name in jax_side.paths(traced.out_info)]
        wanted = [known.outputs.get(name) for name in results]
        return _Walked(jax_unify.walk(traced, flat, inputs, known.values, known.deadline, guess, wanted), results)


class _Walked(NamedTuple):
    found: Any
    names: list[str]  # of its outputs


def _index(sides: Sides, numbers: Arrays, trace: Trace) -> Index:
    """The fingerprints of torch's values, and of the gates of its recurrent layers, which it computes for all gates at once."""
    items = [(node.print, node.index) for node in trace.nodes if node.print is not None and node.data and informative(node)]
    gated = {leaf.name for leaf in names.torch_leaves(sides.torch_leaves) if leaf.kind == "recurrent"}
    made = {node.index for node in trace.nodes if gated and _meets(trace.nodes, node, gated)}
    wanted = frozenset(node.index for node in trace.nodes if made and _origin(trace.nodes, node).index in made)
    if wanted:
        values = [(node.value, node.index) for node in _traced(sides, numbers, wanted).nodes if node.value is not None]
        items += [(print_, index) for value, index in values for print_ in _gates(value)]
    return Index(items)


def _meets(nodes: Sequence[Node], node: Node, params: set[str]) -> bool:
    """Whether an operation joins data and what is made of the parameters alone."""
    alone = [index for index in node.reads if not nodes[index].data] if node.kind == "op" and node.data else []
    while alone:
        other = nodes[alone.pop()]
        if other.name in params:
            return True
        alone.extend(other.reads)
    return False


def _origin(nodes: Sequence[Node], node: Node) -> Node:
    while node.kind == "move" and node.reads:
        node = nodes[node.reads[0]]
    return node


def _gates(value: np.ndarray) -> Iterator[Fingerprint]:
    """Equal parts of a result along its last axis, of all time steps and of each."""
    rows = [value, *(value if value.ndim == 3 else ()), *(value.swapaxes(0, 1) if value.ndim == 3 else ())]
    for row in rows:
        for count in (1, *GATES):
            if row.ndim and row.shape[-1] % count == 0 and row.size > count:
                yield from map(fingerprint, np.split(row, count, -1))


class Agreement(NamedTuple):
    """How far the outputs of both sides are apart, with the same moved numbers, in float64."""

    gap: float  # the largest of any output, of its size
    words: str

    @property
    def holds(self) -> bool:
        return self.gap <= SAME


def agreement(sides: Sides, carries: Sequence[Carry]) -> Agreement:
    """Whether the two sides compute the same with these carries: once, in float64, with random numbers for torch's parameters."""
    torch_side, *_ = _frameworks()
    numbers = varied(sides)
    with torch_side.settings("float64", sides.precision):
        params, buffers = ({name: numbers[name] for name in part} for part in (sides.params, sides.buffers))
        job = sides.job._replace(wrt=(), trained=())
        ready = torch_side.ready(sides.torch, job, params, buffers, sides.inputs, "cpu", "float64", False)
        wanted = {name: torch_side.to_numpy(tensor) for name, tensor in torch_side.evaluate(ready, job, _no_cotangent).leaves.items()}
    made = _walked(sides, numbers, carries, {}, _Known(Index([]), {}, time.monotonic()))
    found = dict(zip(made.names, made.found.outputs, strict=True))
    gaps = {name: _gap(array, found.get(name)) for name, array in wanted.items() if not name.startswith(("state.", "grad."))}
    worst = max(gaps, key=lambda name: gaps[name], default="")
    gap = gaps.get(worst, np.inf)
    if not gaps:
        return Agreement(gap, "the torch side gives no output")
    if gap == np.inf:
        return Agreement(gap, f"{worst} has another shape on the jax side, or is not there")
    return Agreement(gap, f"the outputs {'agree' if gap <= SAME else 'differ'} to {gap:.0e} of their size in float64")


def _gap(torch: np.ndarray, jax: Any) -> float:
    if jax is None or np.shape(jax) != torch.shape:
        return float("inf")
    if torch.dtype.kind not in "fc":
        return float(not np.array_equal(torch, jax))
    apart = np.abs(np.where((torch == jax) | (np.isnan(torch) & np.isnan(jax)), 0, torch - jax))
    finite = torch[np.isfinite(torch)]
    size = float(np.sqrt(np.mean(np.square(np.abs(finite))))) if finite.size else 0.0
    return float(np.max(apart, initial=0.0) / (size or 1.0)) if np.isfinite(apart).all() else 1.0


# ---------------------------------------------------------------- like what is proved


def _like(found: Sequence[Carry], sides: Sides, asked: Sequence[Leaf]) -> Iterator[Carry]:
    """What the same array of another layer is made of, with the numbers of this one: "blocks.3.q.kernel" as "blocks.0.q.kernel".

    Only where both sides have as many such layers, so that the first is the first and the last is the last.
    """
    torch, jax = ({leaf[0]: leaf.shape for leaf in side} for side in (sides.torch_leaves, sides.jax_leaves))
    used, done = {carry.torch for carry in found}, {carry.jax for carry in found}
    into = param_map.by((carry for carry in found if carry.how == "value"), "jax")
    models: dict[str, list[str]] = {}
    for path in into:
        models.setdefault(_skeleton(path), []).append(path)
    for path in (leaf.name for leaf in asked if leaf.name not in done):
        for model in models.get(_skeleton(path), ()):
            names_ = [_counterpart(carry.torch, model, path, torch, jax) for carry in into[model]]
            fits = jax[path] == jax[model] and all(
                torch.get(name) == torch[its.torch] for name, its in zip(names_, into[model], strict=True)
            )
            if fits and not used & set(names_):
                yield from (its._replace(torch=name, jax=path, how=f"as {model}") for name, its in zip(names_, into[model], strict=True))
                break


class _Likely:
    """What is likely in the next layer: what was found in the one before."""

    def __init__(self, sides: Sides, questions: Mapping[str, Question]) -> None:
        self.torch, self.jax = [leaf.name for leaf in sides.torch_leaves], [leaf.path for leaf in sides.jax_leaves]
        self.questions = questions
        self.places: dict[int, dict[tuple[Carry, ...], int]] = {}

    def __call__(self, path: str, settled: Mapping[str, int]) -> int | None:
        options = self.questions[path].options
        if id(options) not in self.places:
            self.places[id(options)] = {one.carries: place for place, one in enumerate(options)}
        for model in reversed([other for other in settled if _skeleton(other) == _skeleton(path)]):
            carries = self.questions[model].options[settled[model]].carries
            moved = tuple(c._replace(torch=_counterpart(c.torch, model, path, self.torch, self.jax)) for c in carries)
            if moved in self.places[id(options)]:
                return self.places[id(options)][moved]
        return None


def _skeleton(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _row(name: str, place: int, all_: Iterable[str]) -> list[str]:
    """The names that differ from this one in one number only, in its order."""
    parts = re.split(r"(\d+)", name)
    form = re.compile("".join(r"(\d+)" if at == 2 * place + 1 else re.escape(part) for at, part in enumerate(parts)))
    found = [(int(match[1]), other) for other in all_ if (match := form.fullmatch(other))]
    return [other for _, other in sorted(found)]


def _counterpart(name: str, model: str, path: str, torch: Iterable[str], jax: Iterable[str]) -> str:
    """The torch name that is to `path` what `name` is to `model`; "" where it is not clear.

    >>> torch = [f"h.{n}.q" for n in range(3)]
    >>> _counterpart("h.0.q", "block_1.query", "block_3.query", torch, [f"block_{n}.query" for n in (1, 2, 3)])
    'h.2.q'
    >>> _counterpart("h.0.q", "block_1.query", "block_3.query", torch, [f"block_{n}.query" for n in range(6)])  # of six, which is the first?
    ''
    >>> stages = [f"layer{stage}.{block}.w" for stage in (1, 2) for block in (0, 1)]
    >>> _counterpart("layer1.0.w", "blocks.0.w", "blocks.1.w", stages, [f"blocks.{n}.w" for n in range(4)])
    ''
    """
    mine, its = re.findall(r"\d+", path), re.findall(r"\d+", model)
    differ = [place for place, (a, b) in enumerate(zip(mine, its, strict=True)) if a != b]
    if len(differ) != 1:
        return ""
    row = _row(model, differ[0], jax)
    rows = [_row(name, place, torch) for place in range(len(re.findall(r"\d+", name)))]
    same = [other for other in rows if len(other) == len(row) and other.index(name) == row.index(model)]
    return same[0][row.index(path)] if len(same) == 1 else ""
