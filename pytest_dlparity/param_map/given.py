"""What the user gives: a param_map, read against the arrays of both sides."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from pytest_dlparity.errors import SpecError
from pytest_dlparity.param_map import pattern as patterns
from pytest_dlparity.param_map.layout import BIASES, apart, entry, layout_of, shaped
from pytest_dlparity.param_map.names import COLLECTIONS, IGNORED, Leaf, either, grouped, split
from pytest_dlparity.param_map.pattern import Carry, after


class Tie(NamedTuple):
    torch: Leaf
    jax: Leaf
    how: str
    pattern: str | None = None  # None: as layout_of finds
    sizes: tuple[tuple[str, int], ...] = ()


class Said(NamedTuple):
    ties: list[Tie]
    alone: list[Leaf]
    wrong: list[str]


class _Target(NamedTuple):
    path: str
    pattern: str | None
    sizes: Mapping[str, int]


def read(given: Mapping[Any, Any], torch: Sequence[Leaf], jax: Sequence[Leaf]) -> Said:
    """The user's map as leaves. A name without "*" goes before one with it.

    Raises:
        SpecError: all that is wrong with it.
    """
    if not isinstance(given, Mapping):
        raise SpecError(f'param_map is {given!r}. Write a dict from torch names to jax paths: {{"weight": "kernel"}}.')
    said = Said([], [], [])
    claimed: dict[Leaf, str] = {}
    for key, value in sorted(given.items(), key=lambda item: "*" in str(item[0])):
        try:
            if key is None:
                said.alone.extend(_without_torch(value, jax))
            else:
                for leaf, filling in _named(key, torch, claimed):
                    claimed[leaf] = key
                    _say(said, leaf, key, value, filling, jax)
        except SpecError as error:
            said.wrong.append(str(error))
    said.wrong.extend(_shared(said.ties))
    if said.wrong:
        raise SpecError("\n  ".join(["param_map does not fit the two sides:", *said.wrong]))
    return said


def _shared(ties: Sequence[Tie]) -> list[str]:
    """What keeps arrays that are put together or taken apart from being whole, a sentence each."""
    wrong, laid_out = [], [tie for tie in ties if tie.pattern is not None]
    for leaf, mine in grouped(ties, lambda tie: tie.jax).items():
        first = [tie for tie in mine if tie.pattern is None or carried(tie).is_whole]
        if len(first) > 1:
            names = " and ".join(f'torch "{tie.torch.name}"' for tie in first)
            wrong.append(f'param_map gives jax "{leaf.name}" to {names}. A jax array takes the numbers of one; leave the others out.')
            laid_out = [tie for tie in laid_out if tie.jax is not leaf]
    whole = [Carry(tie.torch.name, tie.jax.name) for tie in ties if tie.pattern is None]
    torch, jax = {tie.torch.name: tie.torch.shape for tie in ties}, {tie.jax.name: tie.jax.shape for tie in ties}
    joined = {leaf for tie in laid_out if not carried(tie).is_whole for leaf in (tie.torch, tie.jax)}
    parts = [carried(tie) for tie in laid_out if tie.torch in joined or tie.jax in joined]
    near = [carry for carry in whole if any(carry.jax == part.jax or carry.torch == part.torch for part in parts)]
    return [*wrong, *patterns.uncovered([*near, *parts], torch, jax)]


def carried(tie: Tie) -> Carry:
    pattern = layout_of(tie.torch, tie.jax).patterns[0] if tie.pattern is None else tie.pattern
    return Carry(tie.torch.name, tie.jax.name, pattern, tie.sizes, tie.how)


def _without_torch(value: Any, jax: Sequence[Leaf]) -> Iterator[Leaf]:
    for path in value if isinstance(value, (list, tuple)) else [value]:
        leaf = _called(str(path), jax, "jax")
        if not leaf.state:
            raise SpecError(f"param_map says that torch has nothing for jax {leaf}, which is a parameter: it has to get torch's numbers.")
        yield leaf


def _say(said: Said, leaf: Leaf, key: str, value: Any, filling: tuple[str, ...], jax: Sequence[Leaf]) -> None:
    if value is None:
        if leaf.state is False:
            raise SpecError(f"param_map gives None for torch {leaf}, which is a parameter: the jax side has to get its numbers.")
        said.alone.append(leaf)
        return
    for one in value if isinstance(value, list) else [value]:
        target = _target(key, one)
        between = target.path.split("*")
        if len(between) - 1 != len(filling):
            stars = f'{len(filling)} "*" in "{key}" and {len(between) - 1} in "{target.path}"'
            raise SpecError(f"param_map has {stars}. Write as many on both sides.")
        path = "".join(itertools.chain(*zip(between, (*filling, ""), strict=True)))
        said.ties.append(_given_tie(leaf, _called(path, jax, "jax", f' (by "{target.path}")' if filling else ""), target))


def _target(key: str, value: Any) -> _Target:
    match value:
        case str(path) | (str(path),):
            return _Target(path, None, {})
        case (str(path), str(pattern)):
            return _Target(path, pattern, {})
        case (str(path), str(pattern), Mapping() as sizes) if all(type(n) is int and n > 0 for n in sizes.values()):
            return _Target(path, pattern, sizes)
    forms = 'a jax path, (path, "o i -> i o"), (path, "(h d) i -> i h d", {"h": 8}) or a list of these'
    raise SpecError(f'param_map["{key}"] is {value!r}. Write {forms}.')


def _given_tie(torch: Leaf, jax: Leaf, target: _Target) -> Tie:
    if target.pattern in (None, "+"):
        return _as_it_fits(torch, jax, target)
    try:
        made, sizes = after(target.pattern, torch.shape, target.sizes, jax.shape)
    except SpecError as error:
        raise SpecError(f'param_map lays out torch {torch} as "{target.pattern}", but {error}.') from None
    if made != jax.shape:
        raise SpecError(f'param_map lays out torch {torch} as "{target.pattern}", which makes {list(made)}, but jax {jax} is to take it.')
    return Tie(torch, jax, "given", target.pattern, sizes)


def _as_it_fits(torch: Leaf, jax: Leaf, target: _Target) -> Tie:
    """In the layout that is inferred. Where two are added, each is as it is: one of the two biases says so of the other."""
    layout, plain = layout_of(torch, jax), torch.shape == jax.shape and shaped(torch.shape, jax.shape).certain
    if target.pattern == "+" and (plain or layout.certain):
        return Tie(torch, jax, "given", "+" if plain else f"+ {layout.patterns[0]}".strip())
    if plain and layout.why == BIASES:
        return Tie(torch, jax, "given", "")
    if not layout.fits or target.pattern == "+":
        line = entry(torch, jax, target.pattern or "")
        more = f" Write param_map={{{line}}} if that is what is meant." if line else ""
        raise SpecError(f"param_map gives torch {torch} to jax {jax}, but {apart(torch, jax)}.{more}")
    return Tie(torch, jax, "given")


def _named(key: Any, torch: Sequence[Leaf], claimed: Mapping[Leaf, str]) -> list[tuple[Leaf, tuple[str, ...]]]:
    """The torch leaves that a key of the map names, each with what its "*" stand for."""
    if not isinstance(key, str):
        raise SpecError(f"param_map has the key {key!r}. Write the torch name of a parameter.")
    if "*" not in key:
        return [(_called(key, torch, "torch"), ())]
    form = re.compile("(.+?)".join(map(re.escape, key.split("*"))))
    matches = [(leaf, match.groups()) for leaf in torch if leaf.last not in IGNORED and (match := form.fullmatch(leaf.name))]
    if not matches:
        raise SpecError(f'param_map names torch "{key}", which no name fits{_close(key, torch)}.')
    for leaf, _ in matches:
        if "*" in claimed.get(leaf, ""):
            raise SpecError(f'param_map names torch "{leaf.name}" twice, by "{claimed[leaf]}" and by "{key}". Leave one out.')
    return [(leaf, groups) for leaf, groups in matches if leaf not in claimed]


def _called(name: str, leaves: Sequence[Leaf], side: str, source: str = "") -> Leaf:
    """The leaf of a name, or the only one whose name ends with it. jax paths go with "." or "/", with or without the collection."""
    whole = _path(name, side)
    ways = [whole, whole[1:]] if side == "jax" and whole[:1] in [[c] for c in COLLECTIONS] else [whole]
    for way in ways:
        for same in (lambda parts, way=way: parts == way, lambda parts, way=way: parts[-len(way) :] == way):
            hits = [leaf for leaf in leaves if way and same(_path(leaf.name, side))]
            if len(hits) == 1:
                return hits[0]
            if hits:
                raise SpecError(f'param_map names {side} "{name}"{source}, which may be {either(hits, side)}. Write the whole name.')
    raise SpecError(f'param_map names {side} "{name}"{source}, which is not there{_close(name, leaves)}.')


def _path(name: str, side: str) -> list[str]:
    return split(name) if side == "jax" else name.split(".")


def _close(name: str, leaves: Sequence[Leaf]) -> str:
    names = get_close_matches(name, [leaf.name for leaf in leaves], 3, 0.5) or [leaf.name for leaf in leaves[:3]]
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"; close to it: {quoted}" if names else "; that side has no arrays"
