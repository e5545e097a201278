"""How a torch array lies inside a jax array: patterns of einops with parts, cuts, flips and sums.

| in a pattern | is | as in |
|---|---|---|
| `o i -> i o`, `(h d) i -> i h d` | what einops rearranges | every kernel |
| `0/3` | part 0 of an axis of 3 that is left out: on the left it is taken, on the right it is filled | `(0/3 o) i -> i o`, `o i -> i (0/3 o)` |
| `o[0:8]` | the places 0 to 8 of an axis, or of a group: taken on the left, filled on the right | `(h d)[0:8] i -> i h d` |
| `-h` | on the right: the axis in reversed order | `i o h w -> -h -w i o` |
| `+` | at the start: added to what others put there; on the way back it gets zeros | `+`, `+ o -> o` |

So one jax array may be put together from several torch arrays, and one torch array may be spread over several jax arrays, all by linear maps
of ones and zeros. A gradient goes back by the adjoint: each torch array gets the gradient of the places that it filled, summed. Numbers go back
by the inverse: what was added has no inverse, so the first torch array (without `+`) gets the sum and the others get zeros.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import einops
import numpy as np

from pytest_dlparity.errors import SpecError

Shape = tuple[int, ...]
Arrays = Mapping[str, np.ndarray]


class Carry(NamedTuple):
    """One torch array, the jax array that takes its numbers, and the layout."""

    torch: str
    jax: str
    pattern: str = ""  # from torch to jax: "o i -> i o"; "": as it is
    sizes: tuple[tuple[str, int], ...] = ()  # of the axes inside parentheses
    how: str = ""  # "given", "its layer" (a part of it was given), "name", "number", "only layer left", "only shape left", "value", "as <jax path>"

    @property
    def is_whole(self) -> bool:
        """True where it fills a jax array alone, from all of a torch array, by moving axes."""
        return not re.search(r"[/\[+]|-(?!>)", self.pattern)

    @property
    def is_added(self) -> bool:
        return self.pattern.startswith("+")


# ---------------------------------------------------------------- the language


class Atom(NamedTuple):
    name: str  # "1" has length 1; "" is a part
    part: tuple[int, int] | None = None
    flipped: bool = False

    def __str__(self) -> str:
        return f"{self.part[0]}/{self.part[1]}" if self.part else self.name


class Axis(NamedTuple):
    atoms: tuple[Atom, ...]
    cut: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.atoms))})"


class Pattern(NamedTuple):
    left: tuple[Axis, ...]
    right: tuple[Axis, ...]


FORM = 'it is not a layout, which looks like "o i -> i o" or "(h d) i -> i h d"'
_ATOM = r"(?:-?\w+(?:/\d+)?)"
_AXIS = re.compile(rf"(?:\((?P<group>(?:\s*{_ATOM})*\s*)\)|(?P<one>{_ATOM}))(?:\[(?P<start>\d+):(?P<end>\d+)\])?(?=\s|$|\()")


@functools.lru_cache(maxsize=1 << 12)
def sides(pattern: str) -> Pattern:
    """Both sides of a pattern, without its "+".

    >>> sides("o (c h) -> 1 (h c) o").right[1]
    Axis(atoms=(Atom(name='h', part=None, flipped=False), Atom(name='c', part=None, flipped=False)), cut=None)
    >>> sides("(2/4 h)[0:8] -> -h").left
    (Axis(atoms=(Atom(name='', part=(2, 4), flipped=False), Atom(name='h', part=None, flipped=False)), cut=(0, 8)),)
    >>> sides("o ... -> ... o")
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: it is not a layout, which looks like "o i -> i o" or "(h d) i -> i h d"
    """
    halves = pattern.removeprefix("+").split("->")
    if len(halves) != 2:
        raise SpecError(FORM)
    made = Pattern(*(tuple(_axes(half)) for half in halves))
    names = [sorted(atom.name for axis in side for atom in axis.atoms if atom.name not in ("", "1")) for side in made]
    if names[0] != names[1] or len(set(names[0])) != len(names[0]):
        raise SpecError("every axis has to stand once on each side of it")
    if bad := [name for name in names[0] if not name.isidentifier() or name.strip("_") != name]:
        raise SpecError(f"{bad[0]} is no name of an axis")
    if any(atom.flipped for axis in made.left for atom in axis.atoms):
        raise SpecError("an axis is turned round on its right side")
    return made


def _axes(text: str) -> Iterable[Axis]:
    at = 0
    while rest := text[at:].lstrip():
        at = len(text) - len(rest)
        found = _AXIS.match(text, at)
        if not found:
            raise SpecError(FORM)
        cut = (int(found["start"]), int(found["end"])) if found["start"] else None
        if cut and cut[0] >= cut[1]:
            raise SpecError(f"[{cut[0]}:{cut[1]}] is empty")
        words = [found["one"]] if found["one"] else (found["group"] or "").split()
        yield Axis(tuple(map(_atom, words)), cut)
        at = found.end()


def _atom(word: str) -> Atom:
    if "/" not in word:
        return Atom(word.removeprefix("-"), None, word.startswith("-"))
    index, _, count = word.partition("/")
    if not index.isdecimal() or int(index) >= int(count):
        raise SpecError(f"{word} is no part: parts are counted from 0, as in 0/3, 1/3 and 2/3")
    return Atom("", (int(index), int(count)))


def after(pattern: str, shape: Shape, sizes: Mapping[str, int], jax: Shape | None = None) -> tuple[Shape, tuple[tuple[str, int], ...]]:
    """The shape that a pattern makes of a shape, and the length of every axis that stands in parentheses.

    jax: the shape that is wanted. It tells lengths that nothing else tells; an axis that is filled in part has its length.

    Raises:
        SpecError: why the pattern cannot be applied, as the end of a sentence.

    >>> after("(h d) i -> i h d", (8, 3), {"h": 2})
    ((3, 2, 4), (('h', 2), ('d', 4)))
    >>> after("(1/3 h d) i -> i h d", (24, 3), {}, (3, 2, 4)), after("o -> (0/3 o)", (8,), {})
    (((3, 2, 4), (('h', 2), ('d', 4))), ((24,), (('o', 8),)))
    >>> after("(h d) -> h d", (8,), {})
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: the length of all but one of h, d is needed, as in {"h": 2}
    """
    left, right = sides(pattern)
    if len(left) != len(shape):
        raise SpecError(f"its left side has {len(left)} axes and {list(shape)} has {len(shape)}")
    lengths, seen = {"1": 1, **sizes}, _seen(right, jax or ())
    if stray := [name for name in sizes if name not in (atom.name for axis in left for atom in axis.atoms)]:
        raise SpecError(f"it has no axis {stray[0]}")
    for axis, n in zip(left, shape, strict=True):
        _solve(axis, n, shape, lengths, seen)
    made = tuple(_length(axis, lengths) for axis in right)
    if jax is not None and len(jax) == len(made):
        made = tuple(_filled(axis, n, whole) for axis, n, whole in zip(right, made, jax, strict=True))
    elif any(axis.cut for axis in right):
        raise SpecError(f"its right side has {len(right)} axes and the jax array has {len(jax or ())}")
    inner = dict.fromkeys(atom.name for axis in (*left, *right) if len(axis.atoms) > 1 for atom in axis.atoms if atom.name not in ("", "1"))
    return made, tuple((name, lengths[name]) for name in inner)


def _seen(right: Sequence[Axis], jax: Shape) -> dict[str, int]:
    """Lengths that the jax array shows: those of axes that stand alone."""
    if len(right) != len(jax):
        return {}
    return {
        axis.atoms[0].name: n for axis, n in zip(right, jax, strict=True) if len(axis.atoms) == 1 and axis.atoms[0].name and not axis.cut
    }


def _solve(axis: Axis, n: int, shape: Shape, lengths: dict[str, int], seen: Mapping[str, int]) -> None:
    """Adds the lengths of an axis's atoms: what nothing else tells the jax array may."""
    if axis.cut and axis.cut[1] > n:
        raise SpecError(f"it cuts [{axis.cut[0]}:{axis.cut[1]}] out of an axis of {n}")
    whole, n = n, axis.cut[1] - axis.cut[0] if axis.cut else n
    unknown = [atom.name for atom in axis.atoms if atom.name and atom.name not in lengths]
    if len(unknown) > 1:
        lengths.update({name: seen[name] for name in unknown if name in seen})
        unknown = [name for name in unknown if name not in seen]
    known = prod(atom.part[1] if atom.part else lengths[atom.name] for atom in axis.atoms if atom.name in lengths or atom.part)
    if len(unknown) > 1:
        raise SpecError(f'the length of all but one of {", ".join(unknown)} is needed, as in {{"{unknown[0]}": 2}}')
    if unknown and known and n % known == 0:
        lengths[unknown[0]] = n // known
    elif unknown or known != n:
        name = axis.atoms[0].name if len(axis.atoms) == 1 and axis.atoms[0].name else str(axis)
        there = f"{list(shape)} has {whole} there" if not axis.cut else f"the cut has {n}"
        raise SpecError(f"its axis {name} is {'a multiple of ' if unknown else ''}{known}, and {there}")


def _length(axis: Axis, lengths: Mapping[str, int]) -> int:
    return prod(atom.part[1] if atom.part else lengths[atom.name] for atom in axis.atoms)


def _filled(axis: Axis, n: int, whole: int) -> int:
    """The length of a right axis: with a cut that of the jax array's."""
    if not axis.cut:
        return n
    if axis.cut[1] - axis.cut[0] != n or axis.cut[1] > whole:
        raise SpecError(f"it fills [{axis.cut[0]}:{axis.cut[1]}] of an axis of {whole} with {n}")
    return whole


# ---------------------------------------------------------------- one carry, applied


def to_jax(carry: Carry, array: np.ndarray) -> np.ndarray:
    """A torch array in the layout of the jax side, same dtype. The carry is whole.

    Raises:
        SpecError: the array has not the shape that the pattern wants.

    >>> to_jax(Carry("a", "b", "1 ->"), np.ones(1)).shape, to_jax(Carry("a", "b", "o -> o 1 1"), np.ones(0)).shape
    ((), (0, 1, 1))
    """
    return _rearranged(carry, carry.pattern, array)


def to_torch(carry: Carry, array: np.ndarray) -> np.ndarray:
    """A jax array in the layout of the torch side, same dtype: the inverse of to_jax.

    Raises:
        SpecError: the array has not the shape that the pattern wants.

    >>> carry = Carry("a", "b", "o (c h w) -> (h w c) o", (("c", 2), ("h", 3), ("w", 1)))
    >>> np.array_equal(to_torch(carry, to_jax(carry, np.arange(24).reshape(4, 6))), np.arange(24).reshape(4, 6))
    True
    >>> to_torch(carry, np.ones((5, 4)))
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: param_map cannot lay out "b" [5, 4] as "(h w c) o -> o (c h w)" with c=2, h=3, w=1 for "a".
    """
    return _rearranged(carry, " -> ".join(side.strip() for side in reversed(carry.pattern.split("->"))) if carry.pattern else "", array)


def _rearranged(carry: Carry, pattern: str, array: np.ndarray) -> np.ndarray:
    if not pattern:
        return array
    try:
        return einops.rearrange(array, pattern, **dict(carry.sizes)).copy()
    except einops.EinopsError:  # it spreads over five lines and does not know the names
        sizes = f" with {', '.join(f'{axis}={n}' for axis, n in carry.sizes)}" if carry.sizes else ""
        taken, made = (carry.torch, carry.jax) if pattern == carry.pattern else (carry.jax, carry.torch)
        text = f'param_map cannot lay out "{taken}" {list(np.shape(array))} as "{pattern}"{sizes} for "{made}".'
    raise SpecError(text)


def _places(carry: Carry, torch: np.ndarray, jax: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part that a carry takes of a torch array and the part of the jax array that it fills: views with the same axes in the same order."""
    if carry.pattern in ("", "+"):
        return torch, jax
    left, right = sides(carry.pattern)
    _, sizes = after(carry.pattern, torch.shape, dict(carry.sizes), jax.shape)
    lengths = {"1": 1, **dict(sizes)}
    for axis, n in itertools.chain(zip(left, torch.shape, strict=True), zip(right, jax.shape, strict=True)):
        if len(axis.atoms) == 1 and axis.atoms[0].name:
            lengths.setdefault(axis.atoms[0].name, axis.cut[1] - axis.cut[0] if axis.cut else n)
    taken, names = _opened(torch, left, lengths)
    filled, order = _opened(jax, right, lengths)
    return taken.transpose([names.index(name) for name in order]), filled


def _opened(array: np.ndarray, axes: Sequence[Axis], lengths: Mapping[str, int]) -> tuple[np.ndarray, list[str]]:
    """A view with an axis for each name: cut, taken apart, the parts chosen, the flips done."""
    array = array[tuple(slice(*axis.cut) if axis.cut else slice(None) for axis in axes)]
    atoms = [atom for axis in axes for atom in axis.atoms]
    array = array.reshape([atom.part[1] if atom.part else lengths[atom.name] for atom in atoms])  # axes are only split, so it stays a view
    chosen = [atom.part[0] if atom.part else 0 if atom.name == "1" else slice(None, None, -1 if atom.flipped else 1) for atom in atoms]
    return array[(*chosen, ...)], [atom.name for atom in atoms if atom.name not in ("", "1")]


# ---------------------------------------------------------------- all carries, applied


def jax_arrays(carries: Iterable[Carry], arrays: Arrays, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Torch's arrays by jax path; `shapes` are those of the jax arrays that are put together.

    >>> sum_ = [Carry("b_ih", "bias"), Carry("b_hh", "bias", "+")]
    >>> jax_arrays(sum_, {"b_ih": np.array([1.0]), "b_hh": np.array([2.0])}, {"bias": (1,)})
    {'bias': array([3.])}
    """
    found: dict[str, np.ndarray] = {}
    for path, into in by(carries, "jax").items():
        if len(into) == 1 and into[0].is_whole:
            found[path] = to_jax(into[0], arrays[into[0].torch])
        else:
            found[path] = np.zeros(shapes[path], np.result_type(*(arrays[carry.torch].dtype for carry in into)))
            for carry in into:
                taken, filled = _places(carry, arrays[carry.torch], found[path])
                filled += taken
    return found


def torch_gradients(carries: Iterable[Carry], by_path: Arrays, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Gradients by jax path as gradients by torch name, the adjoint of jax_arrays; `shapes` are those of the torch arrays that are put together.

    >>> sum_ = [Carry("b_ih", "bias"), Carry("b_hh", "bias", "+")]
    >>> torch_gradients(sum_, {"bias": np.array([3.0])}, {"b_ih": (1,), "b_hh": (1,)})
    {'b_ih': array([3.]), 'b_hh': array([3.])}
    """
    return _back(carries, by_path, shapes, summed=True)


def torch_values(carries: Iterable[Carry], by_path: Arrays, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Numbers by jax path as numbers by torch name, the inverse of jax_arrays: what was added gets zeros, and of several jax arrays the first speaks.

    >>> sum_ = [Carry("b_ih", "bias"), Carry("b_hh", "bias", "+")]
    >>> torch_values(sum_, {"bias": np.array([3.0])}, {"b_ih": (1,), "b_hh": (1,)})
    {'b_ih': array([3.]), 'b_hh': array([0.])}
    """
    return _back(carries, by_path, shapes, summed=False)


def _back(carries: Iterable[Carry], by_path: Arrays, shapes: Mapping[str, Shape], summed: bool) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, onto in by((carry for carry in carries if carry.jax in by_path), "torch").items():
        if len(onto) == 1 and onto[0].is_whole:
            found[name] = to_torch(onto[0], by_path[onto[0].jax])
            continue
        found[name] = np.zeros(shapes[name], np.result_type(*(by_path[carry.jax].dtype for carry in onto)))
        for carry in onto if summed else reversed(onto):
            taken, filled = _places(carry, found[name], by_path[carry.jax])
            if summed:
                taken += filled
            else:
                taken[...] = 0 if carry.is_added else filled
    return found


def by(carries: Iterable[Carry], side: str) -> dict[str, list[Carry]]:
    """The carries of each torch name or jax path; those that are not added come first."""
    found: dict[str, list[Carry]] = {}
    for carry in sorted(carries, key=lambda carry: carry.is_added):
        found.setdefault(getattr(carry, side), []).append(carry)
    return found


def summed(carries: Sequence[Carry], torch: Mapping[str, Shape], jax: Mapping[str, Shape], arrays: Arrays) -> dict[str, np.ndarray]:
    """Torch's arrays as the jax side can know them: where two of them are added, the first has the sum and the other nothing.

    `torch` and `jax` are the shapes of both sides. Arrays that are added to nothing stay as they are; one that is added whole is left out.

    >>> sum_ = [Carry("b_ih", "bias"), Carry("b_hh", "bias", "+")]
    >>> summed(sum_, {"b_ih": (1,), "b_hh": (1,)}, {"bias": (1,)}, {"w": np.ones(1), "b_ih": np.array([1.0]), "b_hh": np.array([2.0])})
    {'w': array([1.]), 'b_ih': array([3.])}
    >>> gates = [Carry("b_ih", "r", "(0/2 o) -> o"), Carry("b_ih", "n", "(1/2 o) -> o"), Carry("b_hh", "r", "+ (0/2 o) -> o")]
    >>> summed(gates, {"b_ih": (2,), "b_hh": (2,)}, {"r": (1,), "n": (1,)}, {"b_ih": np.array([1.0, 2.0]), "b_hh": np.array([3.0, 0.0])})
    {'b_ih': array([4., 2.])}
    """
    paths = {carry.jax for carry in carries if carry.is_added}
    if not paths:
        return dict(arrays)
    names = {carry.torch for carry in carries if carry.jax in paths}
    mine = [carry for carry in carries if carry.torch in names]
    there = {carry.jax for carry in mine}
    into = [carry for carry in carries if carry.jax in there]
    given = {carry.torch: arrays.get(carry.torch, np.zeros(torch[carry.torch])) for carry in into}
    known = torch_values(mine, jax_arrays(into, given, jax), torch)
    whole = {name for name, onto in by(carries, "torch").items() if all(carry.is_added for carry in onto)}
    return {name: known.get(name, array) for name, array in arrays.items() if name not in whole}


# ---------------------------------------------------------------- what a carry leaves open


def checked(carry: Carry, torch: Shape, jax: Shape) -> None:
    """Nothing, where the layout makes the one shape of the other.

    Raises:
        SpecError: it does not.

    >>> checked(Carry("w", "kernel", "o i -> i o"), (4, 3), (4, 3))
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: torch "w" [4, 3] as "o i -> i o" is not jax "kernel" [4, 3].
    """
    try:
        made = torch if carry.pattern in ("", "+") else after(carry.pattern, torch, dict(carry.sizes), jax)[0]
    except SpecError as error:
        raise SpecError(f'torch "{carry.torch}" {list(torch)} as "{carry.pattern}": {error}.') from None
    if tuple(made) != tuple(jax):
        way = f' as "{carry.pattern}"' if carry.pattern else ""
        raise SpecError(f'torch "{carry.torch}" {list(torch)}{way} is not jax "{carry.jax}" {list(jax)}.')


def uncovered(carries: Sequence[Carry], torch: Mapping[str, Shape], jax: Mapping[str, Shape]) -> list[str]:
    """What keeps the carries from filling every jax array once and from using every number of a torch array, a sentence each.

    >>> uncovered([Carry("w", "kernel", "(0/3 o) i -> i o", (("o", 2),))], {"w": (6, 4)}, {"kernel": (4, 2)})
    ['param_map takes 8 of the 24 numbers of torch "w" [6, 4]. Say where the others go.']
    """
    wrong = []
    for path, into in by(carries, "jax").items():
        if not (len(into) == 1 and into[0].is_whole):
            times = np.zeros(jax[path], np.int8)
            for carry in into:
                if not carry.is_added:
                    _, filled = _places(carry, np.empty(torch[carry.torch], np.int8), times)
                    filled += 1
            wrong += _filling(path, into, times)
    for name, left in untaken(carries, torch, jax).items():
        size, shape = prod(torch[name]), list(torch[name])
        wrong.append(f'param_map takes {size - left} of the {size} numbers of torch "{name}" {shape}. Say where the others go.')
    return wrong


def untaken(carries: Iterable[Carry], torch: Mapping[str, Shape], jax: Mapping[str, Shape]) -> dict[str, int]:
    """How many numbers of a torch array go nowhere, for those of which only some do."""
    found = {}
    for name, onto in by(carries, "torch").items():
        if not any(carry.is_whole for carry in onto):
            used = np.zeros(torch[name], np.int8)
            for carry in onto:
                taken, _ = _places(carry, used, np.empty(jax[carry.jax], np.int8))
                taken |= 1
            if not used.all():
                found[name] = int(used.size - used.sum())
    return found


def _filling(path: str, into: Sequence[Carry], times: np.ndarray) -> list[str]:
    names = " and ".join(f'torch "{carry.torch}"' for carry in into if not carry.is_added)
    if (times > 1).any():
        return [
            f'param_map gives {(times > 1).sum()} of the {times.size} numbers of jax "{path}" to {names} at once. '
            'Where one is to be added to the other, begin its layout with "+".'
        ]
    if not times.all():
        by_whom = f" by {names}" if names else ""
        return [f'param_map fills {times.sum()} of the {times.size} numbers of jax "{path}"{by_whom}. Say where the others come from.']
    return []


def table(carries: Sequence[Carry]) -> str:
    """The carries for a person to read, a line each.

    >>> print(table([Carry("fc.weight", "fc.kernel", "o i -> i o", how="name"), Carry("gain", "scale", how="only shape left")]))
    torch      jax        layout      decided by
    fc.weight  fc.kernel  o i -> i o  name
    gain       scale      as it is    only shape left
    >>> table([])
    'no parameters are carried'
    """
    if not carries:
        return "no parameters are carried"
    rows = [("torch", "jax", "layout", "decided by")]
    rows += [(c.torch, c.jax, ", ".join([_read(c.pattern), *(f"{axis}={n}" for axis, n in c.sizes)]), c.how) for c in carries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _read(pattern: str) -> str:
    return {"": "as it is", "+": "added"}.get(pattern, pattern)


def written(carries: Iterable[Carry]) -> str:
    """The carries as a param_map to paste.

    >>> print(written([Carry("w", "a.kernel", "(0/2 o) i -> i o", (("o", 4),)), Carry("w", "b.kernel", "(1/2 o) i -> i o", (("o", 4),))]))
    {
        "w": [("a.kernel", "(0/2 o) i -> i o"), ("b.kernel", "(1/2 o) i -> i o")],
    }
    >>> written([])
    '{}'
    """
    lines = []
    for name, onto in by(carries, "torch").items():
        entries = [target(carry) for carry in onto]
        lines.append(f'    "{name}": {entries[0] if len(entries) == 1 else "[" + ", ".join(entries) + "]"},')
    return "\n".join(["{", *lines, "}"]) if lines else "{}"


def target(carry: Carry) -> str:
    """What stands for a carry on the right of a param_map: the path, the layout, and the lengths that the layout leaves open."""
    if not carry.pattern:
        return f'"{carry.jax}"'
    open_ = _open(carry)
    sizes = ", {" + ", ".join(f'"{axis}": {n}' for axis, n in open_.items()) + "}" if open_ else ""
    return f'("{carry.jax}", "{carry.pattern}"{sizes})'


def _open(carry: Carry) -> dict[str, int]:
    """Lengths that have to be said: all but the last of each group on the left, but those that stand alone on the right."""
    if carry.pattern in ("", "+"):
        return {}
    left, right = sides(carry.pattern)
    alone = {axis.atoms[0].name for axis in right if len(axis.atoms) == 1 and not axis.cut}
    said = [[atom.name for atom in axis.atoms if atom.name not in ("", "1")] for axis in left]
    needed = [name for group in said if sum(name not in alone for name in group) > 1 for name in [n for n in group if n not in alone][:-1]]
    return {name: n for name, n in carry.sizes if name in needed}
