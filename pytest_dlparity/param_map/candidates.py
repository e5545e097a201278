"""What a jax array may be made of: torch arrays, parts of them, their sums and joins, in every layout that the sizes allow.

Names are not asked. A candidate is a list of Carries that fills the jax array; which one is right, values tell.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from math import gcd, prod
from typing import NamedTuple

from pytest_dlparity.param_map.names import Leaf, alike, grouped
from pytest_dlparity.param_map.pattern import Carry, Shape

MOST_PARTS = 12  # of one torch array: query, key and value are 3, gates 4
MOST_LAYOUTS = 48  # of one array; five equal axes alone have 120
MOST_JOINED = 4  # arrays of unrelated names in one; layers of one name may be any number
GATES = (3, 4)  # of a GRU and of an LSTM

Use = tuple[str, int, int, int, int]  # a torch array, an axis of it, and which places: from, to, of how many; the axis is -1 for all of it


class Candidate(NamedTuple):
    """One way to fill a jax array."""

    carries: tuple[Carry, ...]
    uses: tuple[Use, ...]
    layer: tuple[str, ...]  # where it comes from: what meets in one place comes from one layer, mostly
    far: bool = (
        False  # nothing of either side shows why an axis would be taken apart so: features in another order compute the same, reordered
    )

    def clashes(self, other: Candidate) -> bool:
        """True where both use the same numbers of torch's."""
        return any(_overlap(mine, yours) for mine in self.uses for yours in other.uses)


def _overlap(a: Use, b: Use) -> bool:
    if a[0] != b[0]:
        return False
    if -1 in (a[1], b[1]) or a[1] != b[1]:
        return True
    return a[2] * b[4] < b[3] * a[4] and b[2] * a[4] < a[3] * b[4]


def candidates(jax: Leaf, torch: Sequence[Leaf], seen: Iterable[Shape] = ()) -> list[Candidate]:
    """Everything that the jax array may be made of. `seen`: shapes that torch's values have, which tell how a long axis is put together.

    >>> from pytest_dlparity.param_map.names import JaxLeaf, TorchLeaf, jax_leaves, torch_leaves
    >>> torch = torch_leaves([TorchLeaf("in_proj_weight", (12, 4)), TorchLeaf("x", (4, 4))])
    >>> made = candidates(jax_leaves([JaxLeaf("query.kernel", (4, 2, 2))])[0], torch[:1])
    >>> {"(0/3 h d) i -> i h d", "(h 1/3 d) i -> i h d", "(2/3 h d) i -> i d h"} <= {one.carries[0].pattern for one in made}
    True
    >>> candidates(jax_leaves([JaxLeaf("kernel", (4, 5))])[0], torch)
    []
    """
    if not prod(jax.shape):
        return []
    gates = tuple((_layer(leaf), leaf.shape[0] // leaf.shape[1]) for leaf in torch if "weight_hh" in leaf.last and len(leaf.shape) == 2)
    hints = Hints(tuple(sorted({tuple(n for n in shape if n != 1) for shape in seen})), gates)
    there = [leaf for leaf in torch if 0 not in leaf.shape and leaf.state in (None, jax.state)]
    return _made([leaf for leaf in there if alike(leaf, jax)], jax, hints) or _made(there, jax, hints)  # a weight that is called b


def _made(fits: Sequence[Leaf], jax: Leaf, hints: Hints) -> list[Candidate]:
    size = prod(jax.shape)
    found: list[Candidate] = []
    for leaf in fits:
        if prod(leaf.shape) == size:
            found += _whole(leaf, jax, hints)
        elif prod(leaf.shape) > size:
            found += _parts(leaf, jax, hints)
    found += _sums(fits, jax, hints)
    found += _joins([leaf for leaf in fits if prod(leaf.shape) < size], jax, hints)
    found += _stacks([leaf for leaf in fits if prod(leaf.shape) < size], jax, hints)
    return list({one.carries: one for one in found}.values())


class Hints(NamedTuple):
    """What is known of torch. Shapes of values, without axes of length 1: how an axis of 24 may be (4, 3, 2)."""

    shapes: tuple[Shape, ...]
    gates: tuple[tuple[str, int], ...] = ()  # of each recurrent layer of torch's

    def of(self, n: int) -> list[Shape]:
        """Every way that axes of a value in a row make up n, in order of how many they are."""
        return _factors(self.shapes, n)


@functools.lru_cache(maxsize=1 << 10)
def _factors(shapes: tuple[Shape, ...], n: int) -> list[Shape]:
    found = set()
    for shape in shapes:
        for start, end in itertools.combinations(range(len(shape) + 1), 2):
            if 2 <= end - start <= 3 and prod(shape[start:end]) == n:
                found.add(shape[start:end])
    return sorted(found, key=len)


# ---------------------------------------------------------------- layouts of one array in another


class Layout(NamedTuple):
    """Names of atoms by axis on both sides, and their lengths."""

    left: tuple[tuple[str, ...], ...]
    right: tuple[tuple[str, ...], ...]
    sizes: tuple[tuple[str, int], ...]
    far: bool = False

    def text(
        self, left: Sequence[tuple[str, ...]] | None = None, right: Sequence[tuple[str, ...]] | None = None, added: bool = False
    ) -> str:
        """The pattern. "" where it moves nothing."""
        left, right = left or self.left, right or self.right
        moved = left != right or any(len(group) != 1 for group in left)
        return f"{'+ ' if added else ''}{_side(left)} -> {_side(right)}".strip() if moved else "+" if added else ""


def _side(groups: Sequence[tuple[str, ...]]) -> str:
    return " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1" for group in groups)


def layouts(torch: Shape, jax: Shape, hints: Hints, spatial: bool = False) -> list[Layout]:
    """Every way to lay out an array of one shape in another: axes moved, put together, taken apart; `spatial` also with all axes after two flipped.

    >>> [layout.text() for layout in layouts((8, 5), (5, 2, 4), Hints(()))]
    ['(h d) i -> i h d', '(h d) i -> i d h']
    >>> [layout.text() for layout in layouts((5, 12), (12, 5), Hints(((2, 3, 2),)))][:2]
    ['o i -> i o', 'o (c h w) -> (c w h) o']
    """
    return list(_layouts(torch, jax, hints, spatial))


@functools.lru_cache(maxsize=1 << 10)
def _layouts(torch: Shape, jax: Shape, hints: Hints, spatial: bool) -> tuple[Layout, ...]:
    have, want = [n for n in torch if n != 1], [n for n in jax if n != 1]
    if prod(have) != prod(want):
        return ()
    if sorted(have) == sorted(want):
        plain = [_named(torch, jax, split, order) for split, order in itertools.islice(_moved(have, want), MOST_LAYOUTS)]
        opened = [
            _named(torch, jax, split, order)._replace(far=True)
            for split, order in itertools.islice(_opened(have, want, hints), MOST_LAYOUTS)
        ]
        return (*plain, *(map(_flipped, plain) if spatial and len(torch) > 2 else ()), *opened)
    ways = _taken_apart(have, want) if len(want) > len(have) else _put_together(have, want)
    return tuple(_named(torch, jax, split, order) for split, order in itertools.islice(ways, MOST_LAYOUTS))


# A way is the lengths into which each torch axis is split, and for each jax axis the (torch axis, which of its lengths) that make it up.
_Way = tuple[list[Shape], list[list[tuple[int, int]]]]


def _moved(have: list[int], want: list[int]) -> Iterator[_Way]:
    """The reversed order first, which is torch's to channels last."""
    orders = itertools.permutations(range(len(have)))
    fitting = (order for order in orders if [have[axis] for axis in order] == want)
    backwards = tuple(reversed(range(len(have))))
    first = sorted(itertools.islice(fitting, MOST_LAYOUTS), key=lambda order: (order != backwards, order))
    for order in first:
        yield [(n,) for n in have], [[(axis, 0)] for axis in order]


def _opened(have: list[int], want: list[int], hints: Hints) -> Iterator[_Way]:
    """One axis that is several on both sides, in another order: flattened channels and pixels."""
    for _, order in _moved(have, want):
        for place, ((axis, _),) in enumerate(order):
            for lengths in hints.of(have[axis]):
                for inner in list(itertools.permutations(range(len(lengths))))[1:]:
                    split = [lengths if a == axis else (n,) for a, n in enumerate(have)]
                    yield split, [[(axis, i) for i in inner] if p == place else list(group) for p, group in enumerate(order)]


def _taken_apart(have: list[int], want: list[int]) -> Iterator[_Way]:
    """Each torch axis is one or several of the jax side's."""
    for groups in _shared(have, want):
        where = {place: (axis, i) for axis, group in enumerate(groups) for i, place in enumerate(group)}
        yield [tuple(want[place] for place in group) for group in groups], [[where[place]] for place in range(len(want))]


def _put_together(have: list[int], want: list[int]) -> Iterator[_Way]:
    for groups in _shared(want, have):
        yield [(n,) for n in have], [[(axis, 0) for axis in group] for group in groups]


def _shared(few: list[int], many: list[int]) -> Iterator[list[tuple[int, ...]]]:
    """Every way to make each of the few as a product of some of the many, in some order; natural orders first."""

    def rest(at: int, left: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
        if at == len(few):
            if not left:
                yield []
            return
        for count in range(1, len(left) + 1):
            for group in itertools.permutations(left, count):
                if prod(many[i] for i in group) == few[at]:
                    for others in rest(at + 1, tuple(i for i in left if i not in group)):
                        yield [group, *others]

    ways = itertools.islice(rest(0, tuple(range(len(many)))), 4 * MOST_LAYOUTS)
    yield from sorted(ways, key=lambda groups: sum(list(group) != sorted(group) for group in groups))


_WHOLE = {1: "o", 2: "oi", 3: "oiw", 4: "oihw", 5: "oidhw"}
_SPLIT = {2: "hd", 3: "chw"}


def _named(torch: Shape, jax: Shape, split: list[Shape], order: list[list[tuple[int, int]]]) -> Layout:
    free = iter(name for name in "abcefgjklmnpqrstuvxyz" if all(name not in _SPLIT.get(len(lengths), "") for lengths in split))
    used: set[str] = set()

    def fresh(wanted: str) -> str:
        name = wanted if wanted and wanted not in used else next(other for other in free if other not in used)
        used.add(name)
        return name

    several = [
        [fresh(name) for name in _SPLIT.get(len(lengths), " " * len(lengths)).replace(" ", "a")] if len(lengths) > 1 else []
        for lengths in split
    ]
    base = _WHOLE.get(len(split), "a" * len(split))
    names = [several[axis] or [fresh(base[axis])] for axis in range(len(split))]
    sizes = tuple((name, n) for group, lengths in zip(names, split, strict=True) for name, n in zip(group, lengths, strict=True))
    inner, outer = iter(names), iter(order)
    left = tuple(tuple(next(inner)) if n != 1 else ("1",) for n in torch)
    right = tuple(tuple(names[axis][i] for axis, i in next(outer)) if n != 1 else ("1",) for n in jax)
    return Layout(left, right, sizes)


def _flipped(layout: Layout) -> Layout:
    spatial = {name for group in layout.left[2:] for name in group if name != "1"}
    return layout._replace(right=tuple(tuple(f"-{name}" if name in spatial else name for name in group) for group in layout.right))


def _carry(torch: Leaf, jax: Leaf, layout: Layout, pattern: str) -> Carry:
    sides = pattern.removeprefix("+").split("->")
    inside = set(re.findall(r"\w+", " ".join(re.findall(r"\([^)]*\)", " ".join(sides)))))
    return Carry(torch.name, jax.name, pattern, tuple((name, n) for name, n in layout.sizes if name in inside))


# ---------------------------------------------------------------- one torch array, all of it or a part


def _layer(leaf: Leaf) -> str:
    """The layer of a torch array: nn.LSTM keeps several in one module."""
    suffix = re.search(r"_(l\d+(?:_reverse)?)$", leaf.last)
    return f"{leaf.name.rpartition('.')[0]}.{suffix[1] if suffix else ''}"


def _whole(leaf: Leaf, jax: Leaf, hints: Hints) -> Iterator[Candidate]:
    for layout in layouts(leaf.shape, jax.shape, hints, leaf.kind == "transposed conv"):
        yield Candidate((_carry(leaf, jax, layout, layout.text()),), ((leaf.name, -1, 0, 1, 1),), (_layer(leaf),), layout.far)
    for count in _gate_counts(leaf, hints):
        yield from _in_other_order([leaf], jax, hints, count)


def _gate_counts(leaf: Leaf, hints: Hints) -> list[int]:
    """In how many parts the first axis is, that another library may keep in another order."""
    gates = dict(hints.gates).get(_layer(leaf), 0)
    fused = 3 if leaf.kind == "attention" or re.search(r"qkv|in_proj|c_attn", leaf.last + str(leaf.module[-1:])) else 0
    return [count for count in (gates or fused,) if count > 1 and leaf.shape and leaf.shape[0] % count == 0 and leaf.shape[0] > count]


def _in_other_order(leaves: Sequence[Leaf], jax: Leaf, hints: Hints, count: int) -> Iterator[Candidate]:
    """The gates of a layer permuted; of two biases each gate has the sum or one of them."""
    leaf = leaves[0]
    for layout in layouts((leaf.shape[0] // count, *leaf.shape[1:]), _divided(jax.shape, leaf.shape[0], count), hints):
        axis = next((a for a, group in enumerate(layout.right) if group == layout.left[0]), None)
        if axis is None or len(layout.left[0]) != 1 or jax.shape[axis] != leaf.shape[0]:
            continue
        for order in itertools.permutations(range(count)):
            for terms in _terms(leaves, count):
                if order == tuple(range(count)) and len({*terms}) == 1:
                    continue  # a candidate by itself
                carries = tuple(
                    _carry(term, jax, layout, _moved_part(layout, axis, (part, place, count), i > 0))
                    for place, part in enumerate(order)
                    for i, term in enumerate(terms[part])
                )
                uses = tuple((term.name, 0, part, part + 1, count) for part in range(count) for term in terms[part])
                yield Candidate(carries, uses, (_layer(leaf), str(order)))


def _moved_part(layout: Layout, axis: int, part: tuple[int, int, int], added: bool) -> str:
    """The pattern that takes one part of the first axis to another place of a jax axis."""
    from_, to, count = part
    return layout.text(_at(layout.left, 0, from_, count), _at(layout.right, axis, to, count), added)


def _terms(leaves: Sequence[Leaf], count: int) -> Iterator[tuple[tuple[Leaf, ...], ...]]:
    """What is summed in each gate. A GRU's last gate keeps its two biases apart."""
    if len(leaves) == 1:
        yield ((leaves[0],),) * count
    elif count == 3:
        yield from itertools.product([tuple(leaves), (leaves[0],), (leaves[1],)], repeat=count)
    else:
        yield (tuple(leaves),) * count


def _divided(shape: Shape, length: int, count: int) -> Shape:
    """The shape of one part: the first axis of that length divided.

    >>> _divided((4, 12), 12, 3)
    (4, 4)
    """
    axis = next((axis for axis, n in enumerate(shape) if n == length), None)
    return shape if axis is None else (*shape[:axis], length // count, *shape[axis + 1 :])


def _at(groups: Sequence[tuple[str, ...]], axis: int, index: int, count: int, place: int = 0) -> tuple[tuple[str, ...], ...]:
    """The groups with a part put into one."""
    put = tuple(name for name in groups[axis] if name != "1")
    return (*groups[:axis], (*put[:place], f"{index}/{count}", *put[place:]), *groups[axis + 1 :])


def _parts(leaf: Leaf, jax: Leaf, hints: Hints) -> Iterator[Candidate]:
    """A part of one axis: equal parts one after the other or by turns, or a cut."""
    size, whole = prod(jax.shape), prod(leaf.shape)
    for axis, n in enumerate(leaf.shape):
        other = whole // n
        if whole % size == 0 and (2 <= (count := whole // size) <= MOST_PARTS or count == n > 1) and n % count == 0:
            for layout, place in _interleaved(leaf.shape, axis, count, jax.shape, hints):
                for index in range(count):
                    pattern = layout.text(_at(layout.left, axis, index, count, place))
                    uses = ((leaf.name, axis, index, index + 1, count),)
                    yield Candidate((_carry(leaf, jax, layout, pattern),), uses, (_layer(leaf), f"{index}/{count}"), layout.far)
        if size % other == 0 and (length := size // other) < n and (step := gcd(length, n)) * MOST_PARTS * 2 > n and step > 1:
            for layout in layouts((*leaf.shape[:axis], length, *leaf.shape[axis + 1 :]), jax.shape, hints):
                for start in range(0, n - length + 1, step):
                    if n % length or start % length:  # else it is a part
                        yield _cut(leaf, jax, layout, axis, start, length)


def _interleaved(shape: Shape, axis: int, count: int, jax: Shape, hints: Hints) -> Iterator[tuple[Layout, int]]:
    """Layouts of a part, and before which atom of the axis the parts are counted."""
    n = shape[axis] // count
    rest = (*shape[:axis], n, *shape[axis + 1 :])
    seen = hints.of(shape[axis])
    for layout in layouts(rest, jax, hints):
        inner = [dict(layout.sizes)[name] for name in layout.left[axis] if name != "1"]
        for place in range(len(inner) + 1):
            by_turns = (*inner[:place], count, *inner[place:])
            yield layout._replace(far=layout.far or (place > 0 and by_turns not in seen)), place
    for lengths in seen:
        if len(lengths) == 3 and lengths[1] == count:
            heads = (*shape[:axis], lengths[0], lengths[2], *shape[axis + 1 :])
            for layout in layouts(heads, jax, hints):
                joined = (*layout.left[axis], *layout.left[axis + 1])
                yield layout._replace(left=(*layout.left[:axis], joined, *layout.left[axis + 2 :])), 1


def _cut(leaf: Leaf, jax: Leaf, layout: Layout, axis: int, start: int, length: int) -> Candidate:
    groups = [_side([group]) for group in layout.left]
    groups[axis] = f"{groups[axis]}[{start}:{start + length}]"
    carry = _carry(leaf, jax, layout, f"{' '.join(groups)} -> {_side(layout.right)}")
    return Candidate((carry,), ((leaf.name, axis, start, start + length, leaf.shape[axis]),), (_layer(leaf), f"{start}:{start + length}"))


# ---------------------------------------------------------------- several torch arrays in one


def _sums(leaves: Sequence[Leaf], jax: Leaf, hints: Hints) -> Iterator[Candidate]:
    """Two biases of a recurrent layer in one jax array: bias_ih and bias_hh."""
    for one, other in itertools.permutations(leaves, 2):
        if "ih" in one.last and one.last.replace("ih", "hh") == other.last and one.module == other.module and one.shape == other.shape:
            size, whole = prod(jax.shape), prod(one.shape)
            single = _whole(one, jax, hints) if whole == size else _parts(one, jax, hints) if whole > size else ()
            for candidate in single:
                yield _doubled(candidate, other)
            if whole == size and len(one.shape) == 1:
                for count in _gate_counts(one, hints):
                    yield from _in_other_order([one, other], jax, hints, count)


def _doubled(candidate: Candidate, other: Leaf) -> Candidate:
    added = tuple(carry._replace(torch=other.name, pattern=f"+ {carry.pattern}".strip()) for carry in candidate.carries)
    uses = tuple((other.name, *use[1:]) for use in candidate.uses)
    return Candidate((*candidate.carries, *added), (*candidate.uses, *uses), candidate.layer)


def _stacks(leaves: Sequence[Leaf], jax: Leaf, hints: Hints) -> Iterator[Candidate]:
    """The same of every layer, in an axis more."""
    families = [sorted(family, key=_numbers) for family in grouped(leaves, lambda leaf: re.sub(r"\d+", "#", leaf.name)).values()]
    for axis, count in enumerate(jax.shape):
        whole = [family for family in families if len(family) == count > 1 and len({leaf.shape for leaf in family}) == 1]
        if not whole:
            continue
        row = dataclasses.replace(jax, shape=(*jax.shape[:axis], *jax.shape[axis + 1 :]))
        others = {family[0].name: family for family in whole}
        for one in _made([family[0] for family in whole], row, hints):
            carries = tuple(
                _in_row(carry, others[carry.torch][place].name, axis, f"{place}/{count}", len(row.shape))
                for place in range(count)
                for carry in one.carries
            )
            uses = tuple((others[use[0]][place].name, *use[1:]) for place in range(count) for use in one.uses)
            yield Candidate(carries, uses, ("every", *one.layer), one.far)


def _in_row(carry: Carry, torch: str, axis: int, part: str, axes: int) -> Carry:
    """The same from another layer, into one row of an axis."""
    added, pattern = ("+ ", carry.pattern.removeprefix("+").strip()) if carry.is_added else ("", carry.pattern)
    names = " ".join("abcdefgh"[:axes])
    left, _, right = (pattern or f"{names} -> {names}").partition("->")
    words = _WORDS.findall(right)
    return carry._replace(torch=torch, pattern=f"{added}{left.strip()} -> {' '.join([*words[:axis], part, *words[axis:]])}".strip())


_WORDS = re.compile(r"(?:\([^)]*\)|[\w/-]+)(?:\[\d+:\d+\])?")


def _joins(leaves: Sequence[Leaf], jax: Leaf, hints: Hints) -> Iterator[Candidate]:
    """A few torch arrays of one layer one after the other, in any order."""
    size = prod(jax.shape)
    for near in grouped(leaves, _neighbourhood).values():
        for count in range(2, MOST_JOINED + 1):
            for chosen in itertools.permutations(near, count) if len(near) <= 6 else ():
                if sum(prod(leaf.shape) for leaf in chosen) == size:
                    yield from _joined(chosen, jax, hints)


def _numbers(leaf: Leaf) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", leaf.name)]


def _neighbourhood(leaf: Leaf) -> tuple[object, ...]:
    """Arrays that one layer of another library may keep in one: the same of sister modules, or those of one module."""
    above = leaf.name.split(".")
    place = (tuple(above[:-2]), above[-1]) if len(above) > 1 and leaf.role else (tuple(above[:-1]), leaf.role)
    return (*place, leaf.kind, len(leaf.shape), leaf.shape[1:])


def _joined(leaves: Sequence[Leaf], jax: Leaf, hints: Hints) -> Iterator[Candidate]:
    count = len(leaves)
    uses, layer = tuple((leaf.name, -1, 0, 1, 1) for leaf in leaves), tuple(_layer(leaf) for leaf in leaves)
    for axis, n in enumerate(jax.shape):
        if len({leaf.shape for leaf in leaves}) == 1 and n % count == 0:
            for layout, place in _by_turns(leaves[0].shape, axis, count, jax.shape, hints):
                yield Candidate(
                    tuple(_carry(leaf, jax, layout, layout.text(None, _at(layout.right, axis, i, count, place))) for i, leaf in enumerate(leaves)),
                    uses, layer, layout.far,
                )  # fmt: skip
        else:
            for carries in _one_after_the_other(leaves, jax, hints, axis):
                yield Candidate(carries, uses, layer)


def _by_turns(torch: Shape, axis: int, count: int, jax: Shape, hints: Hints) -> Iterator[tuple[Layout, int]]:
    """Layouts of one of several arrays, and before which atom of the jax axis they are counted."""
    n = jax[axis] // count
    for layout in layouts(torch, (*jax[:axis], n, *jax[axis + 1 :]), hints):
        inner = [name for name in layout.right[axis] if name != "1"]
        for place in range(len(inner) + 1):
            yield layout._replace(far=layout.far or place > 0), place
    for lengths in hints.of(n):
        if len(lengths) == 2:
            for layout in layouts(torch, (*jax[:axis], *lengths, *jax[axis + 1 :]), hints):
                joined = (*layout.right[axis], *layout.right[axis + 1])
                yield layout._replace(right=(*layout.right[:axis], joined, *layout.right[axis + 2 :]), far=True), 1


def _one_after_the_other(leaves: Sequence[Leaf], jax: Leaf, hints: Hints, axis: int) -> list[tuple[Carry, ...]]:
    """Arrays of unequal lengths along one axis, each in the first layout that is the same for all."""
    others = prod(jax.shape) // jax.shape[axis]
    lengths = [prod(leaf.shape) // others for leaf in leaves]
    if any(prod(leaf.shape) % others for leaf in leaves) or sum(lengths) != jax.shape[axis]:
        return []
    ends = list(itertools.accumulate(lengths))
    shapes = [(*jax.shape[:axis], length, *jax.shape[axis + 1 :]) for length in lengths]
    options = [layouts(leaf.shape, shape, hints) for leaf, shape in zip(leaves, shapes, strict=True)]
    made = []
    for same in zip(*options, strict=False):
        groups = [[_side([group]) for group in layout.right] for layout in same]
        for group, end, length in zip(groups, ends, lengths, strict=True):
            group[axis] += f"[{end - length}:{end}]"
        patterns = [f"{_side(layout.left)} -> {' '.join(group)}" for layout, group in zip(same, groups, strict=True)]
        made.append(tuple(_carry(leaf, jax, layout, pattern) for leaf, layout, pattern in zip(leaves, same, patterns, strict=True)))
    return made
