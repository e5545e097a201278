"""The jax side run with some of its parameters unknown: at each equation the candidates are tried that make of it a value which torch computed.

A value that hangs on an unknown parameter is open: it is computed for an assignment of candidates. Where an equation gives an open value,
every assignment that is still possible is tried, and those stay whose result torch has too (a fingerprint that no layout moves). Parameters
that meet are tried together from then on, as a group, so what one equation cannot tell (query and key, before the softmax) a later one can. An
assignment of which only one is left is proved, and its values are known from there on.

Nothing is concluded from what is not found: torch may compute it in another order. A parameter that does not change the result is not
proved by it either: another array in its place has to fail.
"""

from __future__ import annotations

import functools
import itertools
import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import jax
import numpy as np
from jax.extend.core import Literal

from pytest_dlparity.frameworks import jax_eager
from pytest_dlparity.frameworks.jax_rounding import INLINED, closed
from pytest_dlparity.trace import MASKED, Fingerprint, Index, fingerprint

MOST = 1500  # assignments tried at one equation
GRACE = 8  # equations within which torch adds what it adds later
WAIT = 4  # equations in which nothing but what is likely is tried
PATIENCE = 16  # equations that make of an unknown nothing that torch has, after which it is given up
TURNS = 4096  # of a loop, each of which is followed
KEPT = 1 << 25  # bytes of computed results that an open value keeps
ARRAYS = 1 << 28  # bytes of candidates that are kept
BLANK = -(1 << 30)  # in place of an option: an array of nan, which shows where it goes
MOVES = jax_eager.PASSING | frozenset(
    "reshape transpose squeeze expand_dims convert_element_type broadcast_in_dim rev neg".split()
)  # their results show nothing that their operands do not
CUTS = frozenset(("slice", "split", "dynamic_slice", "gather"))  # their results may hang on less than their operands
ABSORBING = frozenset(("dot_general", "mul", "conv_general_dilated"))  # zero times anything is zero

Assignment = Mapping[int, int]  # unknown -> which of its candidates


class Option(Protocol):
    """One way to fill an unknown array."""

    layer: Hashable  # where it comes from
    uses: tuple[tuple[Any, ...], ...]  # the first of each is a torch name
    far: bool  # fetched from afar: tried where nothing nearer does

    def clashes(self, other: Any) -> bool: ...


@dataclass
class Unknown:
    """A parameter of the jax side, what it may be, and what it was found to be."""

    path: str
    shape: tuple[int, ...]
    options: Sequence[Option]
    array: Callable[[int], np.ndarray]  # of an option
    wider: Mapping[int, Sequence[int]] = field(default_factory=dict)  # options that add something to another: torch may add it later
    proved: bool = False
    in_vain: int = 0  # equations that were tried since the last that told something
    passed: int = 0  # equations that were explained without something wider


@dataclass(eq=False)
class Group:
    """Unknowns that have met, and the assignments that are possible."""

    members: tuple[int, ...]
    ways: list[tuple[int, ...]]


@dataclass(eq=False)
class Open:
    """A value that hangs on unknown parameters."""

    members: tuple[int, ...]
    make: Callable[[Assignment], Any]
    shape: tuple[int, ...]
    dtype: Any
    made: dict[tuple[int, ...], Any] = field(default_factory=dict)

    def value(self, at: Assignment) -> Any:
        key = tuple(at[member] for member in self.members)
        if key not in self.made:
            if (len(self.made) + 1) * 8 * prod(self.shape) > KEPT:
                self.made.clear()
            self.made[key] = self.make(at)
        return self.made[key]


Together = tuple[tuple[str, ...], list[tuple[int, ...]]]  # paths that are proved together, and the options that are left: one, mostly


@dataclass
class Found:
    """What a walk found out."""

    outputs: list[Any]  # None: it hangs on what is not known
    ways: list[Together]
    first: str  # the first unknown that was given up: there the two sides part
    tried: int
    stopped: str  # why it was given up: "" it was not


@dataclass
class _Held:
    """A value and whether an input of the program reaches it."""

    value: Any
    data: bool


Guess = Callable[[str, Mapping[str, int]], int | None]  # of a path and the options of all that is settled, the option that is likely


def walk(
    traced: Any,
    args: Sequence[Any],
    inputs: Sequence[bool],
    known: Index,
    deadline: float,
    guess: Guess = lambda path, settled: None,
    wanted: Sequence[Fingerprint | None] = (),
) -> Found:
    """Runs a traced function of which some arguments are Unknown.

    Args:
        traced: what `jax.jit(function).trace(*args)` gave under jax.enable_x64.
        args: the flat arguments: arrays (floats in float64) or Unknown.
        inputs: of each argument, whether it is an input of the program, and not a parameter.
        known: the fingerprints of torch's values.
        deadline: of time.monotonic(): nothing is tried after it.
        guess: what is tried first, and alone if it is right.
        wanted: of each flat result, the fingerprint of the one that torch returns under its name.
    """
    unknown = [arg for arg in args if isinstance(arg, Unknown)]
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        return _Walk(unknown, known, deadline, guess).found(traced.jaxpr, args, inputs, wanted)


class _Walk:
    def __init__(self, unknown: list[Unknown], known: Index, deadline: float, guess: Guess) -> None:
        self.unknown, self.known, self.deadline, self.guess = unknown, known, deadline, guess
        self.settled: dict[str, int] = {}
        self.bytes = 0  # of self.arrays
        self.group = {number: Group((number,), [(i,) for i in range(len(one.options))]) for number, one in enumerate(unknown)}
        self.arrays: dict[tuple[int, int], np.ndarray] = {}
        self.free = {
            number: set(range(len(one.options))) for number, one in enumerate(unknown)
        }  # options that use nothing of a settled one
        self.using = [_using(one.options) for one in unknown]
        self.tried = 0
        self.first = self.stopped = ""

    def found(self, jaxpr: Any, args: Sequence[Any], inputs: Sequence[bool], wanted: Sequence[Fingerprint | None]) -> Found:
        numbers = itertools.count()
        held = [
            _Held(self._open(next(numbers)) if isinstance(arg, Unknown) else _given(arg, var), data)
            for arg, var, data in zip(args, jaxpr.jaxpr.invars, inputs, strict=True)
        ]
        results = [one.value for one in self._run(jaxpr.jaxpr, jaxpr.consts, held)]
        for value, print_ in zip(results, wanted, strict=False):
            self._ends(value, print_)
        results = [self._settled(value) for value in results]
        outputs = [None if isinstance(value, Open) else value for value in results]
        return Found(outputs, [self._proved(group) for group in self._groups()], self.first, self.tried, self.stopped)

    def _ends(self, value: Any, wanted: Fingerprint | None) -> None:
        """What is left may make different results: it is the one that torch returns that counts, not any value on its way."""
        if isinstance(value, Open) and wanted is not None and not self._is_hopeless(value):
            every, self.known = self.known, Index([(wanted, 0)])
            fixed = {member: next(iter(self._options(member))) for member in value.members if self._is_settled(member)}
            groups = list({id(self.group[m]): self.group[m] for m in value.members if m not in fixed}.values())
            members = tuple(member for group in groups for member in group.members)
            if groups and (hits := self._hits(value, fixed, members, self._joined(groups, [group.ways for group in groups]))):
                self._keep(value, fixed, groups, members, hits, final=True)
            self.known = every

    def _groups(self) -> list[Group]:
        groups = {id(group): group for group in self.group.values()}.values()
        return [group for group in groups if any(self.unknown[member].proved for member in group.members)]

    def _proved(self, group: Group) -> Together:
        places = [place for place, member in enumerate(group.members) if self.unknown[member].proved]
        left = group.ways if len(group.ways) == 1 else self._free(group, far=True) or group.ways
        ways = dict.fromkeys(tuple(way[place] for place in places) for way in left)
        return tuple(self.unknown[group.members[place]].path for place in places), list(ways)

    # ------------------------------------------------------------ unknowns

    def _open(self, number: int) -> Open:
        one = self.unknown[number]
        return Open((number,), lambda at: self._array(number, at[number]), one.shape, np.float64)

    def _array(self, number: int, option: int) -> np.ndarray:
        """An option's array; of ~option another array, which must not do."""
        found = self.arrays.get((number, option))
        if found is None:
            found = self._made(number, option)
            self.bytes += found.nbytes
            if self.bytes > ARRAYS:
                self.arrays.clear()
                self.bytes = found.nbytes
            self.arrays[number, option] = found
        return found

    def _made(self, number: int, option: int) -> np.ndarray:
        if option == BLANK:
            return np.full(self.unknown[number].shape, np.nan)
        return self.unknown[number].array(option) if option >= 0 else 1.375 * np.roll(self._array(number, ~option), 1) + 0.0625

    def _options(self, number: int) -> set[int]:
        group = self.group[number]
        place = group.members.index(number)
        return {way[place] for way in group.ways}

    def _is_settled(self, number: int) -> bool:
        return self.unknown[number].proved and len(self._options(number)) == 1

    def _settled(self, value: Any) -> Any:
        """The value itself, where all that it hangs on is proved."""
        if isinstance(value, Open) and all(self._is_settled(member) for member in value.members):
            return value.value({member: next(iter(self._options(member))) for member in value.members})
        return value

    # ------------------------------------------------------------ equations

    def _run(self, jaxpr: Any, consts: Iterable[Any], held: Sequence[_Held]) -> list[_Held]:
        fixed = [_Held(jax_eager.wide(const), False) for const in consts]
        at = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*fixed, *held), strict=True))
        last = {atom: number for number, equation in enumerate(jaxpr.eqns) for atom in equation.invars if not isinstance(atom, Literal)}
        kept = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}

        def read(atom: Any) -> _Held:
            if isinstance(atom, Literal):
                return _Held(jax_eager.literal(atom.val, _dtype(atom)), False)
            at[atom].value = self._settled(at[atom].value)
            return at[atom]

        for number, equation in enumerate(jaxpr.eqns):
            operands = [read(atom) for atom in equation.invars]
            at.update(zip(equation.outvars, self._equation(equation, operands), strict=True))
            for atom in equation.invars:
                if not isinstance(atom, Literal) and last[atom] == number and atom not in kept:
                    at.pop(atom, None)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: list[_Held]) -> list[_Held]:
        name, params = equation.primitive.name, equation.params
        if name == "custom_vmap_call":
            return self._run(params["call"].jaxpr, params["call"].consts, operands)
        if (name in INLINED or name == "composite") and (inside := closed(params)) is not None:
            return self._run(inside[0], inside[1], operands)
        if name == "scan" and params["length"] <= TURNS:
            return self._scan(params, operands)
        if name == "cond" and not isinstance(operands[0].value, Open):
            branches = params["branches"]
            branch = branches[min(max(int(operands[0].value), 0), len(branches) - 1)]
            return self._run(branch.jaxpr, branch.consts, operands[1:])
        if name == "while" and not any(isinstance(one.value, Open) for one in operands[: params["cond_nconsts"]]):
            return self._while(params, operands)
        return self._computed(equation, operands)

    def _computed(self, equation: Any, operands: list[_Held]) -> list[_Held]:
        values, data = [one.value for one in operands], any(one.data for one in operands)
        opened = [value for value in values if isinstance(value, Open)]
        if not opened:
            return [_Held(value, data) for value in _bound(equation, values)]
        if equation.primitive.name in ABSORBING and any(_is_zero(value) for value in values):
            return [_Held(np.zeros(var.aval.shape), False) for var in equation.outvars]
        made = self._opened(equation, values, opened)
        if equation.primitive.name in CUTS:
            made = [self._pruned(value) for value in made]
        return [_Held(self._tested(value, equation, data), data) for value in made]

    def _opened(self, equation: Any, values: list[Any], opened: list[Open]) -> list[Open]:
        """The results as open values; an equation with several computes them at once."""
        members = tuple(sorted({member for value in opened for member in value.members}))
        shape = max((var.aval.shape for var in equation.outvars), key=prod)

        def make(at: Assignment) -> list[Any]:
            return _bound(equation, [value.value(at) if isinstance(value, Open) else value for value in values])

        if len(equation.outvars) == 1:
            return [Open(members, lambda at: make(at)[0], tuple(shape), _dtype(equation.outvars[0]))]
        together = Open(members, make, (len(equation.outvars), *shape), None)
        return [
            Open(members, functools.partial(_nth, together, number), tuple(var.aval.shape), _dtype(var))
            for number, var in enumerate(equation.outvars)
        ]

    def _pruned(self, value: Any) -> Any:
        """The value without the unknowns of which nothing is left in it: those that may be nan without a trace."""
        if len(value.members) < 2 or self._is_hopeless(value) or not _is_float(value.dtype):
            return value
        first = {member: min(self._options(member)) for member in value.members}
        try:
            hangs = tuple(member for member in value.members if np.isnan(value.value({**first, member: BLANK})).any())
        except Exception:  # noqa: BLE001  an operation may refuse nan
            return value
        return value if hangs == value.members else Open(hangs, lambda at: value.value({**first, **at}), value.shape, value.dtype)

    def _scan(self, params: Any, operands: list[_Held]) -> list[_Held]:
        body, first, last = params["jaxpr"], params["num_consts"], params["num_consts"] + params["num_carry"]
        fixed, carried, arrays = operands[:first], operands[first:last], operands[last:]
        rows: list[list[_Held]] = [[] for _ in body.jaxpr.outvars[last - first :]]
        turns = range(params["length"])
        for turn in reversed(turns) if params["reverse"] else turns:
            here = [_Held(self._row(one.value, turn), one.data) for one in arrays]
            made = self._run(body.jaxpr, body.consts, [*fixed, *carried, *here])
            carried = made[: last - first]
            for row, result in zip(rows, made[last - first :], strict=True):
                row.append(result)
        avals = [var.aval for var in body.jaxpr.outvars[last - first :]]
        return [*carried, *(self._stacked(row[::-1] if params["reverse"] else row, aval) for row, aval in zip(rows, avals, strict=True))]

    def _row(self, value: Any, turn: int) -> Any:
        value = self._settled(value)
        if not isinstance(value, Open):
            return value[turn]
        return Open(value.members, lambda at: value.value(at)[turn], value.shape[1:], value.dtype)

    def _stacked(self, row: list[_Held], aval: Any) -> _Held:
        values, data = [self._settled(one.value) for one in row], any(one.data for one in row)
        if not values:
            return _Held(np.zeros((0, *aval.shape), jax_eager.wide(np.zeros(0, aval.dtype)).dtype), data)
        members = tuple(sorted({member for value in values if isinstance(value, Open) for member in value.members}))
        if not members:
            return _Held(np.stack(values), data)

        def make(at: Assignment) -> np.ndarray:
            return np.stack([value.value(at) if isinstance(value, Open) else value for value in values])

        return _Held(Open(members, make, (len(values), *aval.shape), aval.dtype), data)

    def _while(self, params: Any, operands: list[_Held]) -> list[_Held]:
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        asked, fixed, carried = operands[:first], operands[first:second], operands[second:]
        condition, body = params["cond_jaxpr"], params["body_jaxpr"]
        for _ in range(TURNS):
            (goes_on,) = self._run(condition.jaxpr, condition.consts, [*asked, *carried])
            if isinstance(goes_on.value, Open):
                raise EndlessLoop("a loop of the jax side ends when a parameter that is not known says so")
            if not goes_on.value:
                return carried
            carried = self._run(body.jaxpr, body.consts, [*fixed, *carried])
        raise EndlessLoop(f"a loop of the jax side has more than {TURNS} turns")

    # ------------------------------------------------------------ trying

    def _tested(self, value: Open, equation: Any, data: bool) -> Any:
        """The value, with the assignments gone that make of it what torch does not have while others make what it has."""
        shows = data and equation.primitive.name not in MOVES and _is_float(value.dtype) and prod(value.shape) > 1
        if shows and not self._is_hopeless(value):
            self._try(value)
        return self._settled(value)

    def _is_hopeless(self, value: Open) -> bool:
        mine = [self.unknown[member] for member in value.members]
        return bool(self.stopped) or any(one.in_vain >= PATIENCE or not one.options for one in mine)

    def _try(self, value: Open) -> None:
        fixed = {member: next(iter(self._options(member))) for member in value.members if self._is_settled(member)}
        groups = list({id(self.group[m]): self.group[m] for m in value.members if m not in fixed}.values())
        members = tuple(member for group in groups for member in group.members)
        for ways in self._attempts(groups):
            if hits := self._hits(value, fixed, members, ways):
                self._keep(value, fixed, groups, members, hits)
                return
        if len(groups) > 1 and not all(map(self._likely, groups)) and self._try_apart(value, fixed, groups):
            return
        for member in members:
            if member in value.members:
                self._missed(self.unknown[member])

    def _try_apart(self, value: Open, fixed: Assignment, groups: list[Group]) -> bool:
        """Each group by itself, in the part of the value that hangs on no other: gates that are computed together."""
        found = False
        for group in groups:
            blank = {member: BLANK for other in groups if other is not group for member in other.members}
            for far in (False, True):
                if hits := self._hits(value, {**fixed, **blank}, group.members, self._free(group, far)):
                    self._keep(value, {**fixed, **blank}, [group], group.members, hits)
                    found = True
                    break
        return found

    def _missed(self, one: Unknown) -> None:
        one.in_vain += 1
        if one.in_vain == PATIENCE and not self.first:
            self.first = one.path

    def _attempts(self, groups: list[Group]) -> Iterator[list[tuple[int, ...]]]:
        """Assignments in the order in which they are worth trying: what is near before what is far, of one layer before any others."""
        likely = [self._likely(group) for group in groups]
        if all(likely):
            yield self._joined(groups, likely)
            if all(self.unknown[member].in_vain < WAIT for group in groups for member in group.members):
                return  # what told the others in the layer before comes later
        near = [self._free(group, far=False) for group in groups]
        every = [self._free(group, far=True) for group in groups]
        tried: set[tuple[int, ...]] = set()
        for ways in (near, every):
            for join in (self._of_one_layer, self._joined):
                joined = [way for way in join(groups, ways) if way not in tried]
                yield joined
                tried.update(joined)

    def _likely(self, group: Group) -> list[tuple[int, ...]]:
        """The assignments of a group in which everything unproved is as it is guessed."""
        guesses = [None if self.unknown[member].proved else self.guess(self.unknown[member].path, self.settled) for member in group.members]
        if any(guess is None and not self.unknown[member].proved for member, guess in zip(group.members, guesses, strict=True)):
            return []
        return [way for way in self._free(group, far=True) if all(g in (None, option) for g, option in zip(guesses, way, strict=True))]

    def _free(self, group: Group, far: bool) -> list[tuple[int, ...]]:
        def is_free(member: int, option: int) -> bool:
            return option in self.free[member] and (far or self.unknown[member].proved or not self.unknown[member].options[option].far)

        return [way for way in group.ways if all(map(is_free, group.members, way))]

    def _of_one_layer(self, groups: list[Group], ways: list[list[tuple[int, ...]]]) -> list[tuple[int, ...]]:
        """Assignments in which everything comes from one layer of torch's."""
        sorted_: list[dict[Hashable, list[tuple[int, ...]]]] = []
        for group, mine in zip(groups, ways, strict=True):
            layers: dict[Hashable, list[tuple[int, ...]]] = {}
            for way in mine:
                from_ = {self.unknown[m].options[option].layer for m, option in zip(group.members, way, strict=True)}
                if len(from_) == 1:
                    layers.setdefault(from_.pop(), []).append(way)
            sorted_.append(layers)
        shared = set.intersection(*({*layers} for layers in sorted_))
        found: list[tuple[int, ...]] = []
        for layer in sorted(shared, key=str):
            found += self._joined(groups, [layers[layer] for layers in sorted_])
        return found if len(found) <= 4 * MOST else []

    def _joined(self, groups: list[Group], ways: list[list[tuple[int, ...]]]) -> list[tuple[int, ...]]:
        """Every assignment of several groups that uses no number of torch's twice; none, where there are too many."""
        if prod(map(len, ways)) > 16 * MOST:
            return []
        found: list[tuple[int, ...]] = [()]
        members: tuple[int, ...] = ()
        for group, mine in zip(groups, ways, strict=True):
            found = [(*way, *more) for way in found for more in mine if self._goes(members, way, group.members, more)]
            members = (*members, *group.members)
        return found if len(found) <= MOST else []

    def _goes(self, members: Sequence[int], way: Sequence[int], others: Sequence[int], more: Sequence[int]) -> bool:
        mine = [self.unknown[number].options[option] for number, option in zip(members, way, strict=True)]
        yours = [self.unknown[number].options[option] for number, option in zip(others, more, strict=True)]
        return not any(one.clashes(other) for one in mine for other in yours)

    def _hits(self, value: Open, fixed: Assignment, members: tuple[int, ...], ways: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        hits = []
        for way in ways:
            if time.monotonic() > self.deadline:
                self.stopped = "the time was up"
                return []
            self.tried += 1
            if self._is_known(value, {**fixed, **dict(zip(members, way, strict=True))}):
                hits.append(way)
        return hits

    def _is_known(self, value: Open, at: Assignment) -> bool:
        try:
            array = np.asarray(value.value(at))
        except Exception:  # noqa: BLE001  an operation may refuse numbers that were never meant for it
            return False
        if array.dtype == np.float64 and BLANK in at.values():
            array = array[~np.isnan(array)]
        if array.dtype != np.float64 or not array.size:
            return False
        return (array.min() <= MASKED or self._is_near(float(np.vdot(array, array)) / array.size)) and self._is_there(fingerprint(array))

    def _is_near(self, square: float) -> bool:
        """Whether torch has a value of about this size: most attempts end here."""
        place = bisect_left(self.known.keys, square * (1 - 1e-8))
        return place < len(self.known.keys) and self.known.keys[place] <= square * (1 + 1e-8)

    def _is_there(self, print_: Fingerprint) -> bool:
        return print_.count > 1 and print_.distinct >= min(3, print_.count) and bool(self.known.find(print_))

    def _keep(
        self,
        value: Open,
        fixed: Assignment,
        groups: list[Group],
        members: tuple[int, ...],
        hits: list[tuple[int, ...]],
        final: bool = False,
    ) -> None:
        """The assignments that are found become those of one group; what the value does not hang on stays out of it."""
        first = {**fixed, **dict(zip(members, hits[0], strict=True))}
        shown = {m for m in members if m in value.members and not self._is_known(value, {**first, m: ~first[m]})}
        active = [group for group in groups if shown & {*group.members}]
        kept = tuple(member for group in active for member in group.members)
        places = [members.index(member) for member in kept]
        found = dict.fromkeys(tuple(hit[place] for place in places) for hit in hits)
        before = {member: {way[group.members.index(member)] for way in group.ways} for group in active for member in group.members}
        joined = Group(kept, list(found if final else dict.fromkeys(way for hit in found for way in self._widened(kept, hit, before))))
        for member in kept:
            self.group[member] = joined
            if member in shown:
                self.unknown[member].proved, self.unknown[member].in_vain = True, 0
                self.unknown[member].passed += 1
        self._part(joined)

    def _part(self, group: Group) -> None:
        """Members of which one option is left need no company any more."""
        certain = [place for place in range(len(group.members)) if len({way[place] for way in group.ways}) == 1]
        others = [place for place in range(len(group.members)) if place not in certain]
        for place in certain:
            member, option = group.members[place], group.ways[0][place]
            self.group[member] = Group((member,), [(option,)])
            if self.unknown[member].proved:
                self._settle(member, option)
        ways = dict.fromkeys(tuple(way[place] for place in others) for way in group.ways)
        rest = Group(tuple(group.members[place] for place in others), list(ways))
        self.group.update(dict.fromkeys(rest.members, rest))

    def _widened(self, members: tuple[int, ...], hit: tuple[int, ...], possible: Mapping[int, set[int]]) -> Iterator[tuple[int, ...]]:
        """The assignment, and those that add what torch may add later: x @ w + bias_ih is a value of torch's, and no end."""
        options = [[option, *self._wider(m, option, possible[m])] for m, option in zip(members, hit, strict=True)]
        for way in itertools.product(*options):
            chosen = [self.unknown[member].options[option] for member, option in zip(members, way, strict=True)]
            if not any(one.clashes(other) for one, other in itertools.combinations(chosen, 2)):
                yield way

    def _wider(self, member: int, option: int, possible: set[int]) -> list[int]:
        one = self.unknown[member]
        return [wider for wider in one.wider.get(option, ()) if wider in possible] if one.passed <= GRACE else []

    def _settle(self, member: int, option: int) -> None:
        """Nothing else is made of the same numbers. (Tied weights: a second walk, in which these are known, tries them again.)"""
        self.settled[self.unknown[member].path] = option
        mine = self.unknown[member].options[option]
        for number, free in self.free.items():
            if number != member and not self._is_settled(number):
                theirs, using = self.unknown[number].options, self.using[number]
                near = {i for name in {use[0] for use in mine.uses} for i in using.get(name, ())}
                free -= {i for i in near & free if mine.clashes(theirs[i])}


def _using(options: Sequence[Option]) -> dict[str, list[int]]:
    """Which options use each torch array."""
    found: dict[str, list[int]] = {}
    for index, option in enumerate(options):
        for name in {use[0] for use in option.uses}:
            found.setdefault(name, []).append(index)
    return found


class EndlessLoop(RuntimeError):
    """A loop that cannot be followed."""


def _given(value: Any, var: Any) -> Any:
    value = jax_eager.wide(value)
    return value.astype(var.aval.dtype) if not jax_eager.is_key(value) and value.dtype.kind in "iu" else value


def _bound(equation: Any, values: Sequence[Any]) -> list[Any]:
    declared = [getattr(atom.aval, "dtype", None) for atom in equation.invars]
    return jax_eager.computed(equation.primitive.name, equation.primitive, equation.params, values, declared)


def _nth(together: Open, number: int, at: Assignment) -> Any:
    return together.value(at)[number]


def _dtype(var: Any) -> Any:
    return getattr(var.aval, "dtype", None)


def _is_float(dtype: Any) -> bool:
    return dtype is not None and np.issubdtype(dtype, np.floating)


def _is_zero(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64 and not value.any()
