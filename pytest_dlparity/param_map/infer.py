"""What belongs together by name, number and shape: modules first, then the arrays in them, and only where there is exactly one answer."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pytest_dlparity.param_map.given import Said, Tie
from pytest_dlparity.param_map.layout import fits
from pytest_dlparity.param_map.names import IGNORED, Leaf, alike, grouped


@dataclass
class Found:
    """What one stage has matched, what it leaves to the next, and what is settled as wrong."""

    ties: list[Tie] = field(default_factory=list)
    torch: list[Leaf] = field(default_factory=list)  # left over
    jax: list[Leaf] = field(default_factory=list)
    lone_torch: dict[Leaf, list[Leaf]] = field(default_factory=dict)  # the layer has its counterpart; what in it the leaf may be
    lone_jax: list[Leaf] = field(default_factory=list)
    unequal: list[tuple[Leaf, Leaf]] = field(default_factory=list)  # they belong together, and no layout fits

    def add(self, other: Found) -> None:
        self.ties += other.ties
        self.torch += other.torch
        self.jax += other.jax
        self.lone_torch |= other.lone_torch
        self.lone_jax += other.lone_jax
        self.unequal += other.unequal

    @property
    def clean(self) -> bool:
        return not self.unequal and not any(leaf.needed for leaf in (*self.torch, *self.jax, *self.lone_torch, *self.lone_jax))


@dataclass
class _Node:
    """A module: its own arrays that are still free, and the modules inside it by word or number."""

    leaves: list[Leaf] = field(default_factory=list)
    inside: dict[str | int, _Node] = field(default_factory=dict)

    @property
    def all(self) -> list[Leaf]:
        return [*self.leaves, *(leaf for node in self.inside.values() for leaf in node.all)]

    @property
    def kind(self) -> str:
        return "composite" if not self.leaves and self.inside else next((leaf.kind for leaf in self.leaves), "")


Module = tuple[str | int, ...]  # the way to it
Part = tuple[str, int | None]  # a module inside another: ("fc", 1), ("", 0), ("head", None)
Parts = dict[Part, _Node]


def _tree(leaves: Iterable[Leaf], free: set[Leaf]) -> _Node:
    """The modules of a side. Those without a free leaf stay: they count where layers are counted."""
    root = _Node()
    for leaf in leaves:
        node = root
        for token in leaf.module:
            node = node.inside.setdefault(token, _Node())
        if leaf in free:
            node.leaves.append(leaf)
    return root


def inferred(torch: Sequence[Leaf], jax: Sequence[Leaf], said: Said) -> Found:
    """What the user did not give: the rest of each layer that he gave a part of, then the others by name, number and shape."""
    gone = {*said.alone, *(leaf for tie in said.ties for leaf in (tie.torch, tie.jax)), *(leaf for leaf in torch if leaf.last in IGNORED)}
    free = {*torch, *jax} - gone
    found = Found()
    for there, back in _given_layers(said.ties):
        mine, others = ([leaf for leaf in side if leaf in free and leaf.module == module] for side, module in ((torch, there), (jax, back)))
        rest = _in_layer(mine, others, "its layer")
        rest.torch, rest.jax = [], []
        free -= {*(leaf for tie in rest.ties for leaf in (tie.torch, tie.jax)), *rest.lone_torch, *rest.lone_jax}
        found.add(rest)
    found.add(_in_modules(_tree(torch, free), _tree(jax, free), "name"))
    return found


def _given_layers(ties: Sequence[Tie]) -> Iterator[tuple[Module, Module]]:
    """Layers that belong together because the user gave a part of one for a part of the other, and of no third."""
    there, back = grouped(ties, lambda tie: tie.torch.module), grouped(ties, lambda tie: tie.jax.module)
    for module, mine in there.items():
        if len({tie.jax.module for tie in mine}) == 1 and {tie.torch.module for tie in back[mine[0].jax.module]} == {module}:
            yield module, mine[0].jax.module


def _in_modules(torch: _Node, jax: _Node, how: str) -> Found:
    """Two modules that are the same: their own arrays, the modules in them by name and number, and by shape what then is left."""
    torch, jax, how = _unwrapped(torch, jax, how)
    found = _in_layer(torch.leaves, jax.leaves, how, alone=not (torch.inside or jax.inside))
    words = [key for key in torch.inside if isinstance(key, str) and key in jax.inside]
    for word in words:
        found.add(_in_modules(torch.inside[word], jax.inside[word], how))
    left, right = _parts(torch, words), _parts(jax, words)
    for proposal in (_same_numbers, _same_row, *_same_kinds(left, right), _same_rest):
        pairs, decided = proposal(left, right)
        trial = Found()
        for here, there in pairs:
            trial.add(_in_modules(left[here], right[there], decided or how))
        if trial.clean or (how == "name" and not decided):  # what is equal by name stays so, and is wrong if it does not fit
            found.add(trial)
            for here, there in pairs:
                del left[here], right[there]
    found.torch += [leaf for node in left.values() for leaf in node.all]
    found.jax += [leaf for node in right.values() for leaf in node.all]
    return _by_shape(found)


def _unwrapped(torch: _Node, jax: _Node, how: str) -> tuple[_Node, _Node, str]:
    """The modules below those that only wrap another and have their name on one side: "model.fc1" is "fc1"."""
    peeled: list[list[str | int]] = [[], []]
    sides = [torch, jax]
    for mine, other in ((0, 1), (1, 0)):
        while not sides[mine].leaves and len(sides[mine].inside) == 1 and not sides[mine].inside.keys() & sides[other].inside.keys():
            key, sides[mine] = next(iter(sides[mine].inside.items()))
            peeled[mine].append(key)
    if peeled[0] != peeled[1] and not sides[0].inside and not sides[1].inside and _same_sort(sides[0].kind, sides[1].kind):
        how = "only layer left"
    elif peeled[0] != peeled[1] and all(isinstance(key, int) for side in sides for key in side.inside):
        how = "number"  # the word before the number was peeled: Dense_0, Dense_1
    return sides[0], sides[1], how


def _parts(node: _Node, words: Sequence[str]) -> Parts:
    """The modules inside, without some; a module of numbered ones alone (fc: 1, 2, 3) as these."""
    found: Parts = {}
    for key, child in node.inside.items():
        if isinstance(key, int):
            found["", key] = child
        elif key not in words and not child.leaves and all(isinstance(inner, int) for inner in child.inside):
            found |= {(key, int(number)): inner for number, inner in child.inside.items()}
        elif key not in words:
            found[key, None] = child
    return found


def _rows(parts: Parts) -> dict[str, list[Part]]:
    """The numbered modules in order, by the word before the number."""
    numbered = [part for part in parts if part[1] is not None]
    return grouped(sorted(numbered, key=lambda part: part[1] or 0), lambda part: part[0])


Proposal = tuple[list[tuple[Part, Part]], str]  # modules that may belong together, and by what; "": by name


def _same_numbers(left: Parts, right: Parts) -> Proposal:
    """Layers that only have numbers, where these are the same.

    With others they go in order, if either side counts them all from 0 or no number is on both: torch's Sequential counts what has no
    parameters too, so 0, 2, 4 may be 0, 1, 2. With fc1, fc2 against fc2, fc3 the names speak against the order.
    """
    mine, others = _rows(left).get("", []), _rows(right).get("", [])
    if len(mine) != len(others):
        return [], "number"
    counted = [("", n) for n in range(len(mine))]
    if mine == others or counted in (mine, others) or not {*mine} & {*others}:
        return list(zip(mine, others, strict=True)), "" if mine == others else "number"
    return [], "number"


def _same_row(left: Parts, right: Parts) -> Proposal:
    """The only numbered row on each side, under different words: fc1, fc2 and Dense_0, Dense_1."""
    rows, others = list(_rows(left).values()), list(_rows(right).values())
    if len(rows) != 1 or len(others) != 1 or len(rows[0]) != len(others[0]) or rows[0][0][0] == others[0][0][0]:
        return [], "number"
    kinds = {parts[part].kind for parts, row in ((left, rows[0]), (right, others[0])) for part in row}
    return ([] if _loose(left, kinds) or _loose(right, kinds) else list(zip(rows[0], others[0], strict=True))), "number"


def _same_kinds(left: Parts, right: Parts) -> list[Callable[[Parts, Parts], Proposal]]:
    """A proposal for each kind of layer: the only numbered row on each side that has it, as linen counts Dense and Conv apart."""
    return [functools.partial(_same_kind, kind) for kind in dict.fromkeys(node.kind for node in left.values() if node.kind)]


def _same_kind(kind: str, left: Parts, right: Parts) -> Proposal:
    found = []
    for parts in (left, right):
        rows = [[part for part in row if parts[part].kind == kind] for row in _rows(parts).values()]
        rows = [row for row in rows if row]
        if len(rows) != 1 or _loose(parts, {kind}):
            return [], "number"
        found.append(rows[0])
    words = {row[0][0] for row in found}
    one_count = all(_counts_all(parts) for parts in (left, right))  # of all kinds, on both sides: then the kinds have to alternate alike
    return (list(zip(*found, strict=True)) if len(found[0]) == len(found[1]) and len(words) == 2 and not one_count else []), "number"


def _counts_all(parts: Parts) -> bool:
    return len(_rows(parts)) == 1 and len({node.kind for (_, number), node in parts.items() if number is not None}) > 1


def _loose(parts: Parts, kinds: set[str]) -> bool:
    """True where a module without a number may belong among the numbered ones."""
    return any(number is None and node.all and (node.kind in kinds or "" in (node.kind, *kinds)) for (_, number), node in parts.items())


def _same_rest(left: Parts, right: Parts) -> Proposal:
    """The only module with modules inside it that is left on each side, whatever its name: "encoder" and "enc"."""
    pair = [[part for part, node in parts.items() if node.kind == "composite" and node.all] for parts in (left, right)]
    return ([(pair[0][0], pair[1][0])] if len(pair[0]) == len(pair[1]) == 1 else []), "name"


def _in_layer(torch: Sequence[Leaf], jax: Sequence[Leaf], how: str, alone: bool = True) -> Found:
    """The arrays of one layer: by their own name, by what they are (weight, kernel and scale), and by shape what then is left.

    By shape only where no other layer is inside of this one: there what is left may have its counterpart (a norm of weights, around its layer).
    """
    found = Found(torch=list(torch), jax=list(jax))
    for aspect in (lambda leaf: leaf.last, lambda leaf: leaf.role):
        there, back = grouped(found.torch, aspect), grouped(found.jax, aspect)
        for name, mine in there.items():
            if name and len(mine) == 1 and len(back.get(name, ())) == 1 and alike(mine[0], back[name][0]):
                _join(found, mine[0], back[name][0], how)
    if not alone:
        return found
    choices = choices_of(found.torch, found.jax, fits)
    for left, right in forced(choices_of(_few(found.torch), _few(found.jax), fits)).items():
        _join(found, left, right, "only shape left")
    if torch and jax and any(leaf.kind for leaf in torch):
        found.lone_torch, found.lone_jax = {leaf: choices.get(leaf, []) for leaf in found.torch}, found.jax
        found.torch, found.jax = [], []
    return found


def _join(found: Found, torch: Leaf, jax: Leaf, how: str) -> None:
    if fits(torch, jax):
        found.ties.append(Tie(torch, jax, how))
    elif how in ("name", "its layer", "only layer left"):
        found.unequal.append((torch, jax))
    else:
        return
    found.torch.remove(torch)
    found.jax.remove(jax)


def _by_shape(found: Found) -> Found:
    """What is left over, where only one assignment is possible: of whole layers first, then of single arrays."""
    there, back = (_few_layers(grouped(filter(is_needed, side), lambda leaf: leaf.module)) for side in (found.torch, found.jax))
    sizes = grouped(back, lambda module: _sizes(back[module]))
    alike = {module: [other for other in sizes.get(_sizes(mine), ()) if _same_layer(mine, back[other])] for module, mine in there.items()}
    for module, other in forced(alike).items():
        _settle(found, _undisputed(_in_layer(there[module], back[other], "only shape left").ties, found))
    left = forced(choices_of(_few(found.torch), _few(found.jax), may_be))
    _settle(found, _undisputed([Tie(leaf, other, "only shape left") for leaf, other in left.items()], found))
    return found


def _undisputed(ties: Sequence[Tie], found: Found) -> list[Tie]:
    """Those against which no name speaks: a leaf of the same name that is free elsewhere, and would fit as well."""
    return [
        tie
        for tie in ties
        if tie.torch.last == tie.jax.last
        or (not any(other.last == tie.torch.last and fits(tie.torch, other) for other in found.jax)
        and not any(other.last == tie.jax.last and fits(other, tie.jax) for other in found.torch))
    ]


def choices_of(torch: Iterable[Leaf], jax: Iterable[Leaf], may: Callable[[Leaf, Leaf], bool]) -> dict[Leaf, list[Leaf]]:
    """What each leaf that needs a counterpart may be; asked once for those that look alike."""
    looks = grouped(filter(is_needed, jax), lambda leaf: leaf.look)
    sizes = grouped(looks.values(), lambda alike: _sizes(alike[:1]))
    found: dict[tuple[object, ...], list[Leaf]] = {}
    for leaf in (needy := list(filter(is_needed, torch))):
        if leaf.look not in found:
            found[leaf.look] = [other for alike in sizes.get(_sizes([leaf]), ()) if may(leaf, alike[0]) for other in alike]
    return {leaf: found[leaf.look] for leaf in needy}


def is_needed(leaf: Leaf) -> bool:
    return leaf.needed


def _few(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Two of those that look alike are as undecided as two hundred."""
    return [leaf for alike in grouped(leaves, lambda leaf: leaf.look).values() for leaf in alike[:2]]


def _few_layers(layers: Mapping[Module, list[Leaf]]) -> dict[Module, list[Leaf]]:
    alike = grouped(layers, lambda module: tuple(leaf.look for leaf in layers[module]))
    return {module: layers[module] for modules in alike.values() for module in modules[:2]}


def _settle(found: Found, ties: Sequence[Tie]) -> None:
    done = {leaf for tie in ties for leaf in (tie.torch, tie.jax)}
    found.ties += ties
    found.torch = [leaf for leaf in found.torch if leaf not in done]
    found.jax = [leaf for leaf in found.jax if leaf not in done]


def _sizes(leaves: Iterable[Leaf]) -> tuple[tuple[int, ...], ...]:
    """What no permitted layout changes: the lengths of the axes, without those of length 1."""
    return tuple(sorted(tuple(sorted(n for n in leaf.shape if n != 1)) for leaf in leaves))


def _same_layer(torch: Sequence[Leaf], jax: Sequence[Leaf]) -> bool:
    return _same_sort(torch[0].kind, jax[0].kind) and _in_layer(torch, jax, "only shape left").clean


def may_be(torch: Leaf, jax: Leaf) -> bool:
    return _same_sort(torch.kind, jax.kind) and fits(torch, jax)


def _same_sort(torch: str, jax: str) -> bool:
    return torch == jax or "" in (torch, jax)


A = TypeVar("A")
B = TypeVar("B")


def forced(edges: Mapping[A, Sequence[B]]) -> dict[A, B]:
    """The pairs of every group in which exactly one assignment is possible.

    Such a group always has one with a single choice (Kotzig 1959), so taking those one by one finds it or gets stuck.

    >>> forced({"q": ["a", "b"], "k": ["a"], "v": ["c", "d"]})  # q must be b, but v may be either
    {'k': 'a', 'q': 'b'}
    >>> forced({"q": ["a"], "k": ["a"]}), forced({"q": ["a", "b"], "k": ["a", "b"]})
    ({}, {})
    """
    found: dict[A, B] = {}
    for group in _groups(edges):
        left = {one: set(edges[one]) for one in group}
        pairs: dict[A, B] = {}
        while (one := next((one for one, choices in left.items() if len(choices) == 1), None)) is not None:
            pairs[one] = left.pop(one).pop()
            for choices in left.values():
                choices.discard(pairs[one])
        if not left and len(pairs) == len({other for one in group for other in edges[one]}):
            found |= pairs
    return found


def _groups(edges: Mapping[A, Sequence[B]]) -> Iterator[list[A]]:
    """What shares a choice, directly or through others."""
    back: dict[B, list[A]] = defaultdict(list)
    for one, choices in edges.items():
        for other in choices:
            back[other].append(one)
    seen: set[A] = set()
    for start in edges:
        group = [] if start in seen else [start]
        seen.add(start)
        for one in group:  # grows
            fresh = dict.fromkeys(near for other in edges[one] for near in back[other] if near not in seen)
            seen |= fresh.keys()
            group += fresh
        if group:
            yield group


K = TypeVar("K")
