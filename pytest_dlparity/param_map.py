"""Which torch parameter is which jax array, and in which layout: only where there is exactly one answer.

What the user gives comes first, then names, then numbers ("2.weight" is "Dense_1.kernel"), then shapes. Layouts are those of RULES; where
no rule speaks, a layout must be the only one that fits. What stays in doubt is refused, with the line to write.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod
from typing import Any, NamedTuple, TypeVar

import einops
import numpy as np

from pytest_dlparity.errors import SpecError


class TorchLeaf(NamedTuple):
    """A parameter or buffer. A tensor with two names (tied weights) is listed once."""

    name: str
    shape: tuple[int, ...]
    layer: str = ""  # class name of the owning module: "Linear", "Conv2d"
    state: bool | None = None  # True a buffer, False a parameter, None: its name tells (running_mean)


class JaxLeaf(NamedTuple):
    """An array of a jax module."""

    path: str
    shape: tuple[int, ...]
    layer: str = ""
    state: bool = False


class Carry(NamedTuple):
    """One torch array, the jax array that takes its numbers, and the layout."""

    torch: str
    jax: str
    pattern: str = ""  # of einops, from torch to jax: "o i -> i o"; "": as it is
    sizes: tuple[tuple[str, int], ...] = ()  # of the axes inside parentheses
    how: str = ""  # "given", "its layer" (a part of it was given), "name", "number", "only layer left", "only shape left"


# ---------------------------------------------------------------- what is known of layers and names

KINDS = {  # class name, in lower case and without "_" -> what it does with its parameters
    **dict.fromkeys(("linear", "nondynamicallyquantizablelinear", "dense", "densegeneral", "lineargeneral"), "linear"),
    **dict.fromkeys(("conv", "conv1d", "conv2d", "conv3d", "depthwiseconv1d", "depthwiseconv2d", "depthwiseconv3d"), "conv"),
    **dict.fromkeys((f"convtranspose{n}" for n in ("", "1d", "2d", "3d")), "transposed conv"),
    **dict.fromkeys((f"conv{n}transpose" for n in ("1d", "2d", "3d")), "transposed conv"),
    **dict.fromkeys((f"{kind}norm{n}" for kind in ("batch", "instance") for n in ("", "1d", "2d", "3d")), "norm"),
    **dict.fromkeys(("syncbatchnorm", "layernorm", "rmsnorm", "groupnorm", "exponentialmovingaverage"), "norm"),
    **dict.fromkeys(("embedding", "embeddingbag", "embed"), "embedding"),
    **dict.fromkeys(("rnn", "lstm", "gru", "rnncell", "lstmcell", "grucell", "optimizedlstmcell"), "recurrent"),
    **dict.fromkeys(("multiheadattention", "multiheaddotproductattention"), "attention"),
}

ROLES = {  # last part of a name -> what it is; any other name may be anything
    **dict.fromkeys(("weight", "kernel", "scale", "embedding", "embeddings", "w", "gamma"), "weight"),
    **dict.fromkeys(("bias", "b", "offset", "beta"), "bias"),
    **dict.fromkeys(("running_mean", "mean"), "mean"),
    **dict.fromkeys(("running_var", "var"), "var"),
}
STATISTICS = ("mean", "var")
ALIASES = {("mean_ema", "average"): "mean", ("var_ema", "average"): "var"}  # haiku's BatchNorm keeps its statistics one module deeper
COLLECTIONS = ("params", "batch_stats")  # how flax's own paths may begin
IGNORED = ("num_batches_tracked",)  # counts torch's steps; no jax library has it, and with a momentum torch does not read it


class Rule(NamedTuple):
    """How one kind of torch leaf is kept by jax libraries."""

    kind: str
    leaf: str  # torch's last name, "*" in it is anything
    jax: tuple[str, ...]  # jax's last names; "=": torch's own, "*": any. "0" and "1" are places in a stax layer
    patterns: tuple[str, ...]  # the one with as many axes as the arrays; "": as it is; none: refused
    why: str


FLIPPED = "the kernel of a transposed convolution is flipped in space and no pattern can flip"
BIASES = "torch has two biases in a layer and no pattern can add them"
GATES = "torch keeps the gates in one array and no pattern can take them apart or reorder them"
FUSED = "torch keeps query, key and value in one array and no pattern can take them apart"

RULES = (
    Rule("linear", "weight", ("kernel", "w", "0"), ("o i -> i o",), "flax, haiku and stax compute x @ kernel, torch x @ weight.T"),
    Rule("linear", "weight", ("weight",), ("",), "equinox computes weight @ x, as torch does"),
    Rule("conv", "weight", ("kernel", "w", "0"), ("o i w -> w i o", "o i h w -> h w i o", "o i d h w -> d h w i o"), "channels last"),
    Rule("conv", "weight", ("weight",), ("",), "equinox keeps torch's order"),
    Rule("conv", "bias", ("bias",), ("o -> o 1", "o -> o 1 1", "o -> o 1 1 1"), "equinox: the axes of one image"),
    Rule("conv", "bias", ("1",), ("o -> 1 1 o", "o -> 1 1 1 o", "o -> 1 1 1 1 o"), "stax: the axes of a batch of images, channels last"),
    # flax with transpose_kernel=True is as torch; with False its kernel is [..., in, out] and flipped, as always in haiku and equinox
    Rule("transposed conv", "weight", ("kernel",), ("i o w -> w o i", "i o h w -> h w o i", "i o d h w -> d h w o i"), FLIPPED),
    Rule("transposed conv", "weight", ("*",), (), FLIPPED),
    Rule("embedding", "weight", ("embedding", "embeddings", "weight"), ("",), "one row a token in every library"),
    Rule("recurrent", "*", ("=",), ("",), "equinox has torch's names and torch's order of gates"),
    Rule("recurrent", "bias*", ("*",), (), BIASES),
    Rule("recurrent", "*", ("*",), (), GATES),
    Rule("attention", "in_proj_*", ("=",), ("",), "kept in one array on both sides"),
    Rule("attention", "in_proj_*", ("*",), (), FUSED),
)


# ---------------------------------------------------------------- what a caller asks


def carries(torch: Sequence[TorchLeaf], jax: Sequence[JaxLeaf], given: Mapping[Any, Any] | None = None) -> tuple[Carry, ...]:
    """One Carry for each jax array that takes torch's numbers, in torch's order.

    given: {torch name: jax path}. "*" in a name is anything and fills the "*" in the path. A path may come with a layout,
    (path, "o i -> i o") or (path, "(h d) i -> i h d", {"h": 8}). Several in a list share one torch array. A name that no leaf has is the
    end of the only one it fits ("weight" for "norm.weight"). {"mask": None} and {None: "cache"} say that there is no counterpart: the
    array keeps its own numbers. What is not given is inferred. Buffers and jax state that are no running statistics (masks, caches,
    counters, keys) may stay alone unsaid; so may IGNORED.

    Raises:
        SpecError: something has no counterpart or several, sizes differ, or `given` names what is not there.

    >>> carries([TorchLeaf("weight", (8, 8), "Linear")], [JaxLeaf("kernel", (8, 8), "Dense")])
    (Carry(torch='weight', jax='kernel', pattern='o i -> i o', sizes=(), how='name'),)
    >>> carries([TorchLeaf("mix", (8, 8))], [JaxLeaf("mix", (8, 8))])
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: torch and jax parameters cannot be matched without doubt:
      torch "mix" [8, 8] fits jax "mix" [8, 8] as "a b -> a b" and as "a b -> b a", and no rule tells which.
    Write param_map={"mix": ("mix", "a b -> a b")} if that is what is meant; what is left out is inferred.
    >>> carries([], [])
    ()
    """
    left, right = _torch_leaves(torch), _jax_leaves(jax)
    said = _read({} if given is None else given, left, right)
    found = _inferred(left, right, said)
    _refuse(said.ties, found)
    order = {leaf: place for place, leaf in enumerate([*left, *right])}
    return tuple(_carry(tie) for tie in sorted([*said.ties, *found.ties], key=lambda tie: (order[tie.torch], order[tie.jax])))


def to_jax(carry: Carry, array: np.ndarray) -> np.ndarray:
    """A torch array in the layout of the jax side, same dtype.

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
    rows += [(c.torch, c.jax, ", ".join([c.pattern or "as it is", *(f"{axis}={n}" for axis, n in c.sizes)]), c.how) for c in carries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


# ---------------------------------------------------------------- leaves as they are compared


@dataclass(frozen=True, eq=False)  # itself and no other, and quick to look up
class _Leaf:
    name: str
    shape: tuple[int, ...]
    told: bool  # the owning layer's class is known
    kind: str  # of the owning layer, "" where no rule knows it
    state: bool | None
    module: tuple[str | int, ...]
    last: str
    role: str

    @property
    def needed(self) -> bool:
        """True where a missing counterpart is wrong."""
        return self.state is not True or self.role in STATISTICS

    @functools.cached_property
    def look(self) -> tuple[object, ...]:
        """All that a rule or a shape can tell it by: leaves that look alike have the same counterparts."""
        return self.shape, self.told, self.kind, self.state, self.last, self.role, bool(self.module)

    def __str__(self) -> str:
        return f'"{self.name}" {list(self.shape)}'


def _torch_leaves(leaves: Sequence[TorchLeaf]) -> list[_Leaf]:
    made = []
    for leaf in leaves:
        *module, last = leaf.name.split(".")
        role = ROLES.get(last, "")
        state = True if leaf.state is None and role in STATISTICS else leaf.state
        made.append(_Leaf(leaf.name, tuple(leaf.shape), bool(leaf.layer), _kind(leaf.layer), state, _tokens(module, set()), last, role))
    return made


def _jax_leaves(leaves: Sequence[JaxLeaf]) -> list[_Leaf]:
    parts = [_split(leaf.path) for leaf in leaves]
    modules = {tuple(part[:end]) for part in parts for end in range(len(part))}
    matrices = {tuple(part[:-1]) for part, leaf in zip(parts, leaves, strict=True) if part[-1:] == ["0"] and len(leaf.shape) > 1}
    made = []
    for part, leaf in zip(parts, leaves, strict=True):
        *module, last = part if tuple(part[-2:]) not in ALIASES else (*part[:-2], ALIASES[part[-2], part[-1]])
        role = ROLES.get(last, "")
        if tuple(module) in matrices and not leaf.layer:  # stax: (W, b), but BatchNorm is (beta, gamma)
            role = {"0": "weight", "1": "bias"}.get(last, "")
        tokens = _tokens(module, modules)
        kind = _kind(leaf.layer or next((token for token in reversed(tokens) if isinstance(token, str)), ""))
        made.append(_Leaf(leaf.path, tuple(leaf.shape), bool(leaf.layer), kind, leaf.state, tokens, last, role))
    return made


def _split(path: str) -> list[str]:
    """
    >>> _split("mlp/~/linear_0/w")
    ['mlp', 'linear_0', 'w']
    """
    return [part for part in re.split(r"[./]", path) if part not in ("", "~")]


def _kind(layer: str) -> str:
    return KINDS.get(layer.lower().replace("_", ""), "")


def _tokens(module: Sequence[str], modules: set[tuple[str, ...]]) -> tuple[str | int, ...]:
    """A module's path as words and numbers. "layers" before a number is how a library says Sequential, and no word.

    haiku counts linear, linear_1, linear_2: with `modules` a name without a number is the first.

    >>> _tokens(["layers_0", "Dense_1"], set()), _tokens(["encoder", "layers", "0", "fc2"], set())
    ((0, 'dense', 1), ('encoder', 0, 'fc', 2))
    >>> _tokens(["linear"], {("linear",), ("linear_1",)}), _tokens(["conv2_d"], set())
    (('linear', 0), ('conv2d',))
    """
    made: list[str | int] = []
    for end, part in enumerate(module):
        above = tuple(module[:end])
        if (*above, f"{part}_1") in modules and (*above, f"{part}_0") not in modules:
            part = f"{part}_0"
        match = re.fullmatch(r"(.*?)_*(\d+)", part)
        word, number = match.groups() if match else (part, None)
        made += [word.lower().replace("_", "")] * bool(word.strip("_")) + ([int(number)] if number else [])
    return tuple(token for token, after in itertools.zip_longest(made, made[1:]) if not (token == "layers" and isinstance(after, int)))


def _alike(torch: _Leaf, jax: _Leaf) -> bool:
    """True where both may be the same thing, whatever their shapes: weight or bias, parameter or state."""
    return (torch.role == jax.role or "" in (torch.role, jax.role)) and torch.state in (None, jax.state)


def _fits(torch: _Leaf, jax: _Leaf) -> bool:
    return _alike(torch, jax) and _layout(torch, jax).fits


# ---------------------------------------------------------------- layouts


class _Layout(NamedTuple):
    """The layouts that fit: one without a doubt is certain, others are for the user to decide, none says why."""

    patterns: tuple[str, ...] = ()
    why: str = ""  # the doubt, or what keeps every layout from fitting

    @property
    def fits(self) -> bool:
        return bool(self.patterns)

    @property
    def certain(self) -> bool:
        return len(self.patterns) == 1 and not self.why


def _layout(torch: _Leaf, jax: _Leaf) -> _Layout:
    """In which layouts the torch array can be the jax array."""
    for rule in RULES:
        if _speaks(rule, torch, jax):
            if not rule.patterns:
                return _Layout((), rule.why)
            for pattern in rule.patterns:
                if not pattern or [len(side.split()) for side in pattern.split("->")] == [len(torch.shape), len(jax.shape)]:
                    return _ruled(rule, pattern, torch.shape, jax.shape)
    return _shaped(torch.shape, jax.shape)


def _speaks(rule: Rule, torch: _Leaf, jax: _Leaf) -> bool:
    if rule.kind != torch.kind or not fnmatchcase(torch.last, rule.leaf):
        return False
    if rule.jax == ("*",) or (rule.jax == ("=",) and jax.last == torch.last):
        return True
    if jax.last == "w" and not jax.module and not jax.told:  # an array of no layer
        return False
    return jax.last in rule.jax and jax.kind in ((rule.kind,) if jax.told else ("", rule.kind))


@functools.lru_cache(maxsize=1 << 12)
def _ruled(rule: Rule, pattern: str, torch: tuple[int, ...], jax: tuple[int, ...]) -> _Layout:
    made = _after(pattern, torch, {})[0] if pattern else torch
    if rule.why is FLIPPED and torch[0] == torch[1] and made == jax:
        return _Layout((pattern,), f'as "{pattern}" if it has transpose_kernel=True; if not, {FLIPPED}')
    if rule.why is FLIPPED and made == (*jax[:-2], jax[-1], jax[-2]) != jax:
        return _Layout((), f"without transpose_kernel=True {FLIPPED}")
    return _Layout((pattern,)) if made == jax else _Layout((), f'"{pattern}" makes {list(made)} of the first' if pattern else "")


@functools.lru_cache(maxsize=1 << 12)
def _shaped(torch: tuple[int, ...], jax: tuple[int, ...]) -> _Layout:
    """The layouts that the shapes alone allow; axes of length 1 come and go.

    >>> _shaped((3, 4), (4, 3)).patterns, _shaped((1,), ()).patterns, _shaped((2, 3), (2, 3)).patterns
    (('a b -> b a',), ('1 ->',), ('',))
    >>> _shaped((0, 0), (0,)).patterns
    ()
    """
    long = [axis for axis, n in enumerate(torch) if n != 1]
    letters = ["o"] if len(long) == 1 else [f"a{i}" if len(long) > 26 else chr(ord("a") + i) for i in range(len(long))]
    name = dict(zip(long, letters, strict=True))
    left = " ".join(name.get(axis, "1") for axis in range(len(torch)))
    found = []
    for order in itertools.islice(_orders([torch[axis] for axis in long], [n for n in jax if n != 1]), 3):
        filled = iter(order)
        found.append(f"{left} -> {' '.join('1' if n == 1 else letters[next(filled)] for n in jax)}".strip())
    return _Layout(("",)) if len(found) == 1 and torch == jax else _Layout(tuple(found))


def _orders(have: Sequence[int], want: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to put the axes in an order that has the wanted lengths."""
    if sorted(have) == sorted(want):
        yield from _continued(have, want, ())


def _continued(have: Sequence[int], want: Sequence[int], used: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(used) == len(want):
        yield used
    for axis, n in enumerate(have):
        if axis not in used and len(used) < len(want) and n == want[len(used)]:
            yield from _continued(have, want, (*used, axis))


def _after(pattern: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    """The shape that a pattern makes of a shape, and the length of every axis that stands in parentheses.

    Raises:
        SpecError: why the pattern cannot be applied, as the end of a sentence.

    >>> _after("(h d) i -> i h d", (8, 3), {"h": 2})
    ((3, 2, 4), (('h', 2), ('d', 4)))
    >>> _after("(h d) -> h d", (8,), {})
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: the length of all but one of h, d is needed, as in {"h": 2}
    """
    left, right = _sides(pattern)
    if len(left) != len(shape):
        raise SpecError(f"its left side has {len(left)} axes and {list(shape)} has {len(shape)}")
    lengths = {"1": 1, **sizes}
    if stray := [axis for axis in sizes if axis not in itertools.chain(*left)]:
        raise SpecError(f"it has no axis {stray[0]}")
    for group, n in zip(left, shape, strict=True):
        unknown = [axis for axis in group if axis not in lengths]
        known = prod(lengths[axis] for axis in group if axis in lengths)
        if len(unknown) > 1:
            raise SpecError(f'the length of all but one of {", ".join(unknown)} is needed, as in {{"{unknown[0]}": 2}}')
        if unknown and known and n % known == 0:
            lengths[unknown[0]] = n // known
        elif unknown or known != n:
            axis = group[0] if len(group) == 1 else f"({' '.join(group)})"
            raise SpecError(f"its axis {axis} is {'a multiple of ' if unknown else ''}{known}, and {list(shape)} has {n} there")
    inner = dict.fromkeys(axis for group in (*left, *right) if len(group) > 1 for axis in group if axis != "1")
    return tuple(prod(lengths[axis] for axis in group) for group in right), tuple((axis, lengths[axis]) for axis in inner)


def _sides(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """Both sides of a pattern, each a list of groups of axes.

    >>> _sides("o (c h) -> 1 (h c) o")
    ([['o'], ['c', 'h']], [['1'], ['h', 'c'], ['o']])
    >>> _sides("o ... -> ... o")
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: it is not a layout, which looks like "o i -> i o" or "(h d) i -> i h d"
    """
    words = [re.findall(r"\([\w\s]*\)|\w+|\S", side) for side in pattern.split("->")]
    if len(words) != 2 or not all(re.fullmatch(r"\(.*\)|\w+", word) for side in words for word in side):
        raise SpecError('it is not a layout, which looks like "o i -> i o" or "(h d) i -> i h d"')
    left, right = ([word.strip("()").split() for word in side] for side in words)
    names = [sorted(axis for group in side for axis in group if axis != "1") for side in (left, right)]
    if names[0] != names[1] or len(set(names[0])) != len(names[0]):
        raise SpecError("every axis has to stand once on each side of it")
    if bad := [axis for axis in names[0] if not axis.isidentifier() or axis.strip("_") != axis]:
        raise SpecError(f"{bad[0]} is no name of an axis")
    return left, right


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


# ---------------------------------------------------------------- what the user gives


class _Tie(NamedTuple):
    torch: _Leaf
    jax: _Leaf
    how: str
    pattern: str | None = None  # None: as _layout finds
    sizes: tuple[tuple[str, int], ...] = ()


class _Said(NamedTuple):
    ties: list[_Tie]
    alone: list[_Leaf]
    wrong: list[str]


class _Target(NamedTuple):
    path: str
    pattern: str | None
    sizes: Mapping[str, int]


def _read(given: Mapping[Any, Any], torch: Sequence[_Leaf], jax: Sequence[_Leaf]) -> _Said:
    """The user's map as leaves. A name without "*" goes before one with it.

    Raises:
        SpecError: all that is wrong with it.
    """
    if not isinstance(given, Mapping):
        raise SpecError(f'param_map is {given!r}. Write a dict from torch names to jax paths: {{"weight": "kernel"}}.')
    said = _Said([], [], [])
    claimed: dict[_Leaf, str] = {}
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
    for leaf, ties in _grouped(said.ties, lambda tie: tie.jax).items():
        if len(ties) > 1:
            names = " and ".join(f'torch "{tie.torch.name}"' for tie in ties)
            said.wrong.append(f'param_map gives jax "{leaf.name}" to {names}. A jax array takes the numbers of one; leave the others out.')
    if said.wrong:
        raise SpecError("\n  ".join(["param_map does not fit the two sides:", *said.wrong]))
    return said


def _without_torch(value: Any, jax: Sequence[_Leaf]) -> Iterator[_Leaf]:
    for path in value if isinstance(value, (list, tuple)) else [value]:
        leaf = _called(str(path), jax, "jax")
        if not leaf.state:
            raise SpecError(f"param_map says that torch has nothing for jax {leaf}, which is a parameter: it has to get torch's numbers.")
        yield leaf


def _say(said: _Said, leaf: _Leaf, key: str, value: Any, filling: tuple[str, ...], jax: Sequence[_Leaf]) -> None:
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


def _given_tie(torch: _Leaf, jax: _Leaf, target: _Target) -> _Tie:
    if target.pattern is None:
        layout = _layout(torch, jax)
        if not layout.fits:
            entry = _entry(torch, jax)
            more = f" Write param_map={{{entry}}} if that is what is meant." if entry else ""
            raise SpecError(f"param_map gives torch {torch} to jax {jax}, but {_apart(torch, jax)}.{more}")
        return _Tie(torch, jax, "given")
    try:
        made, sizes = _after(target.pattern, torch.shape, target.sizes)
    except SpecError as error:
        raise SpecError(f'param_map lays out torch {torch} as "{target.pattern}", but {error}.') from None
    if made != jax.shape:
        raise SpecError(f'param_map lays out torch {torch} as "{target.pattern}", which makes {list(made)}, but jax {jax} is to take it.')
    return _Tie(torch, jax, "given", target.pattern, sizes)


def _named(key: Any, torch: Sequence[_Leaf], claimed: Mapping[_Leaf, str]) -> list[tuple[_Leaf, tuple[str, ...]]]:
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


def _called(name: str, leaves: Sequence[_Leaf], side: str, source: str = "") -> _Leaf:
    """The leaf of a name, or the only one whose name ends with it. jax paths go with "." or "/", with or without the collection."""
    whole = _path(name, side)
    ways = [whole, whole[1:]] if side == "jax" and whole[:1] in [[c] for c in COLLECTIONS] else [whole]
    for way in ways:
        for same in (lambda parts, way=way: parts == way, lambda parts, way=way: parts[-len(way) :] == way):
            hits = [leaf for leaf in leaves if way and same(_path(leaf.name, side))]
            if len(hits) == 1:
                return hits[0]
            if hits:
                raise SpecError(f'param_map names {side} "{name}"{source}, which may be {_or(hits, side)}. Write the whole name.')
    raise SpecError(f'param_map names {side} "{name}"{source}, which is not there{_close(name, leaves)}.')


def _path(name: str, side: str) -> list[str]:
    return _split(name) if side == "jax" else name.split(".")


def _close(name: str, leaves: Sequence[_Leaf]) -> str:
    names = get_close_matches(name, [leaf.name for leaf in leaves], 3, 0.5) or [leaf.name for leaf in leaves[:3]]
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"; close to it: {quoted}" if names else "; that side has no arrays"


# ---------------------------------------------------------------- inference


@dataclass
class _Found:
    """What one stage has matched, what it leaves to the next, and what is settled as wrong."""

    ties: list[_Tie] = field(default_factory=list)
    torch: list[_Leaf] = field(default_factory=list)  # left over
    jax: list[_Leaf] = field(default_factory=list)
    lone_torch: dict[_Leaf, list[_Leaf]] = field(default_factory=dict)  # the layer has its counterpart; what in it the leaf may be
    lone_jax: list[_Leaf] = field(default_factory=list)
    unequal: list[tuple[_Leaf, _Leaf]] = field(default_factory=list)  # they belong together, and no layout fits

    def add(self, other: _Found) -> None:
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

    leaves: list[_Leaf] = field(default_factory=list)
    inside: dict[str | int, _Node] = field(default_factory=dict)

    @property
    def all(self) -> list[_Leaf]:
        return [*self.leaves, *(leaf for node in self.inside.values() for leaf in node.all)]

    @property
    def kind(self) -> str:
        return "composite" if not self.leaves and self.inside else next((leaf.kind for leaf in self.leaves), "")


Module = tuple[str | int, ...]  # the way to it
Part = tuple[str, int | None]  # a module inside another: ("fc", 1), ("", 0), ("head", None)
Parts = dict[Part, _Node]


def _tree(leaves: Iterable[_Leaf], free: set[_Leaf]) -> _Node:
    """The modules of a side. Those without a free leaf stay: they count where layers are counted."""
    root = _Node()
    for leaf in leaves:
        node = root
        for token in leaf.module:
            node = node.inside.setdefault(token, _Node())
        if leaf in free:
            node.leaves.append(leaf)
    return root


def _inferred(torch: Sequence[_Leaf], jax: Sequence[_Leaf], said: _Said) -> _Found:
    """What the user did not give: the rest of each layer that he gave a part of, then the others by name, number and shape."""
    gone = {*said.alone, *(leaf for tie in said.ties for leaf in (tie.torch, tie.jax)), *(leaf for leaf in torch if leaf.last in IGNORED)}
    free = {*torch, *jax} - gone
    found = _Found()
    for there, back in _given_layers(said.ties):
        mine, others = ([leaf for leaf in side if leaf in free and leaf.module == module] for side, module in ((torch, there), (jax, back)))
        rest = _in_layer(mine, others, "its layer")
        rest.torch, rest.jax = [], []
        free -= {*(leaf for tie in rest.ties for leaf in (tie.torch, tie.jax)), *rest.lone_torch, *rest.lone_jax}
        found.add(rest)
    found.add(_in_modules(_tree(torch, free), _tree(jax, free), "name"))
    return found


def _given_layers(ties: Sequence[_Tie]) -> Iterator[tuple[Module, Module]]:
    """Layers that belong together because the user gave a part of one for a part of the other, and of no third."""
    there, back = _grouped(ties, lambda tie: tie.torch.module), _grouped(ties, lambda tie: tie.jax.module)
    for module, mine in there.items():
        if len({tie.jax.module for tie in mine}) == 1 and {tie.torch.module for tie in back[mine[0].jax.module]} == {module}:
            yield module, mine[0].jax.module


def _in_modules(torch: _Node, jax: _Node, how: str) -> _Found:
    """Two modules that are the same: their own arrays, the modules in them by name and number, and by shape what then is left."""
    torch, jax, how = _unwrapped(torch, jax, how)
    found = _in_layer(torch.leaves, jax.leaves, how)
    words = [key for key in torch.inside if isinstance(key, str) and key in jax.inside]
    for word in words:
        found.add(_in_modules(torch.inside[word], jax.inside[word], how))
    left, right = _parts(torch, words), _parts(jax, words)
    for proposal in (_same_numbers, _same_row, *_same_kinds(left, right), _same_rest):
        pairs, decided = proposal(left, right)
        trial = _Found()
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
    return _grouped(sorted(numbered, key=lambda part: part[1] or 0), lambda part: part[0])


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


def _in_layer(torch: Sequence[_Leaf], jax: Sequence[_Leaf], how: str) -> _Found:
    """The arrays of one layer: by their own name, by what they are (weight, kernel and scale), and by shape what then is left."""
    found = _Found(torch=list(torch), jax=list(jax))
    for aspect in (lambda leaf: leaf.last, lambda leaf: leaf.role):
        there, back = _grouped(found.torch, aspect), _grouped(found.jax, aspect)
        for name, mine in there.items():
            if name and len(mine) == 1 and len(back.get(name, ())) == 1 and _alike(mine[0], back[name][0]):
                _join(found, mine[0], back[name][0], how)
    choices = _choices(found.torch, found.jax, _fits)
    for left, right in _forced(_choices(_few(found.torch), _few(found.jax), _fits)).items():
        _join(found, left, right, "only shape left")
    if torch and jax and any(leaf.kind for leaf in torch):
        found.lone_torch, found.lone_jax = {leaf: choices.get(leaf, []) for leaf in found.torch}, found.jax
        found.torch, found.jax = [], []
    return found


def _join(found: _Found, torch: _Leaf, jax: _Leaf, how: str) -> None:
    if _fits(torch, jax):
        found.ties.append(_Tie(torch, jax, how))
    elif how in ("name", "its layer", "only layer left"):
        found.unequal.append((torch, jax))
    else:
        return
    found.torch.remove(torch)
    found.jax.remove(jax)


def _by_shape(found: _Found) -> _Found:
    """What is left over, where only one assignment is possible: of whole layers first, then of single arrays."""
    there, back = (_few_layers(_grouped(filter(_is_needed, side), lambda leaf: leaf.module)) for side in (found.torch, found.jax))
    sizes = _grouped(back, lambda module: _sizes(back[module]))
    alike = {module: [other for other in sizes.get(_sizes(mine), ()) if _same_layer(mine, back[other])] for module, mine in there.items()}
    for module, other in _forced(alike).items():
        _settle(found, _in_layer(there[module], back[other], "only shape left").ties)
    left = _forced(_choices(_few(found.torch), _few(found.jax), _may_be))
    _settle(found, [_Tie(leaf, other, "only shape left") for leaf, other in left.items()])
    return found


def _choices(torch: Iterable[_Leaf], jax: Iterable[_Leaf], may: Callable[[_Leaf, _Leaf], bool]) -> dict[_Leaf, list[_Leaf]]:
    """What each leaf that needs a counterpart may be; asked once for those that look alike."""
    looks = _grouped(filter(_is_needed, jax), lambda leaf: leaf.look)
    sizes = _grouped(looks.values(), lambda alike: _sizes(alike[:1]))
    found: dict[tuple[object, ...], list[_Leaf]] = {}
    for leaf in (needy := list(filter(_is_needed, torch))):
        if leaf.look not in found:
            found[leaf.look] = [other for alike in sizes.get(_sizes([leaf]), ()) if may(leaf, alike[0]) for other in alike]
    return {leaf: found[leaf.look] for leaf in needy}


def _is_needed(leaf: _Leaf) -> bool:
    return leaf.needed


def _few(leaves: Iterable[_Leaf]) -> list[_Leaf]:
    """Two of those that look alike are as undecided as two hundred."""
    return [leaf for alike in _grouped(leaves, lambda leaf: leaf.look).values() for leaf in alike[:2]]


def _few_layers(layers: Mapping[Module, list[_Leaf]]) -> dict[Module, list[_Leaf]]:
    alike = _grouped(layers, lambda module: tuple(leaf.look for leaf in layers[module]))
    return {module: layers[module] for modules in alike.values() for module in modules[:2]}


def _settle(found: _Found, ties: Sequence[_Tie]) -> None:
    done = {leaf for tie in ties for leaf in (tie.torch, tie.jax)}
    found.ties += ties
    found.torch = [leaf for leaf in found.torch if leaf not in done]
    found.jax = [leaf for leaf in found.jax if leaf not in done]


def _sizes(leaves: Iterable[_Leaf]) -> tuple[tuple[int, ...], ...]:
    """What no permitted layout changes: the lengths of the axes, without those of length 1."""
    return tuple(sorted(tuple(sorted(n for n in leaf.shape if n != 1)) for leaf in leaves))


def _same_layer(torch: Sequence[_Leaf], jax: Sequence[_Leaf]) -> bool:
    return _same_sort(torch[0].kind, jax[0].kind) and _in_layer(torch, jax, "only shape left").clean


def _may_be(torch: _Leaf, jax: _Leaf) -> bool:
    return _same_sort(torch.kind, jax.kind) and _fits(torch, jax)


def _same_sort(torch: str, jax: str) -> bool:
    return torch == jax or "" in (torch, jax)


A = TypeVar("A")
B = TypeVar("B")


def _forced(edges: Mapping[A, Sequence[B]]) -> dict[A, B]:
    """The pairs of every group in which exactly one assignment is possible.

    Such a group always has one with a single choice (Kotzig 1959), so taking those one by one finds it or gets stuck.

    >>> _forced({"q": ["a", "b"], "k": ["a"], "v": ["c", "d"]})  # q must be b, but v may be either
    {'k': 'a', 'q': 'b'}
    >>> _forced({"q": ["a"], "k": ["a"]}), _forced({"q": ["a", "b"], "k": ["a", "b"]})
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


def _grouped(values: Iterable[A], key: Callable[[A], K]) -> dict[K, list[A]]:
    found: dict[K, list[A]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return found


def _carry(tie: _Tie) -> Carry:
    pattern = _layout(tie.torch, tie.jax).patterns[0] if tie.pattern is None else tie.pattern
    return Carry(tie.torch.name, tie.jax.name, pattern, tie.sizes, tie.how)


# ---------------------------------------------------------------- refusal

LINES = 20  # of a message; a model that does not match at all has hundreds
ENTRIES = 6  # in the line to write


def _refuse(given: Sequence[_Tie], found: _Found) -> None:
    """Nothing, where all is certain.

    Raises:
        SpecError: everything that is not, and the line to write.
    """
    doubts = [tie for tie in (*given, *found.ties) if tie.pattern is None and not _layout(tie.torch, tie.jax).certain]
    choices = _choices(found.torch, found.jax, _may_be) | found.lone_torch
    chosen = {other for others in {id(others): others for others in choices.values()}.values() for other in others}
    wrong = [_doubtful(tie) for tie in doubts]
    wrong += [f"torch {t} goes with jax {j}, but {_apart(t, j)}." for t, j in found.unequal]
    wrong += [_undecided(leaf, choices) for leaf, others in choices.items() if others]
    alone = [leaf for leaf, others in choices.items() if not others and leaf.needed]
    wrong += [f"torch {leaf} has no counterpart on the jax side{_fused(leaf)}." for leaf in alone]
    extra = [leaf for leaf in (*found.jax, *found.lone_jax) if leaf.needed and leaf not in chosen]
    wrong += [f"jax {leaf} has no counterpart on the torch side." for leaf in extra]
    if wrong:
        entries = [(tie.torch, tie.jax) for tie in doubts] + found.unequal + _closest(choices, alone, extra)
        written = [_entry(t, j) for t, j in entries] + _nothing(alone, extra, {leaf for pair in entries for leaf in pair})
        head = "torch and jax parameters cannot be matched without doubt:"
        raise SpecError("\n".join([head, *_cut(wrong), _what_to_write([entry for entry in written if entry])]))


def _doubtful(tie: _Tie) -> str:
    layout = _layout(tie.torch, tie.jax)
    if layout.why:
        return f"torch {tie.torch} fits jax {tie.jax} {layout.why}."
    ways = " and ".join(f'as "{pattern}"' for pattern in layout.patterns[:2])
    return f"torch {tie.torch} fits jax {tie.jax} {ways}{', among others' if layout.patterns[2:] else ''}, and no rule tells which."


def _apart(torch: _Leaf, jax: _Leaf) -> str:
    return _layout(torch, jax).why or "their sizes differ"


def _undecided(leaf: _Leaf, choices: Mapping[_Leaf, Sequence[_Leaf]]) -> str:
    others = choices[leaf]
    rivals = [rival for rival in choices if rival is not leaf and others[0] in choices[rival]] if len(others) == 1 else []
    also = f", and so may {_or(rivals, 'torch')}" if rivals else ""
    return f"torch {leaf} may be {_or(others, 'jax')}{also}."


def _or(leaves: Sequence[_Leaf], side: str) -> str:
    """
    >>> leaves = _jax_leaves([JaxLeaf(name, (2,)) for name in "abcde"])
    >>> _or(leaves[:2], "jax"), _or(leaves, "jax")
    ('jax "a" [2] or jax "b" [2]', 'jax "a" [2], jax "b" [2], jax "c" [2] or 2 others')
    """
    shown = [f"{side} {leaf}" for leaf in leaves[:3]] + ([f"{len(leaves) - 3} others"] if len(leaves) > 3 else [])
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _fused(leaf: _Leaf) -> str:
    why = next((rule.why for rule in RULES if rule.kind == leaf.kind and fnmatchcase(leaf.last, rule.leaf) and not rule.patterns), "")
    return f": {why}" if why else ""


def _cut(lines: Sequence[str]) -> list[str]:
    more = len(lines) - LINES
    return [f"  {line}" for line in lines[:LINES]] + ([f"  and {more} more."] if more > 0 else [])


def _closest(choices: Mapping[_Leaf, Sequence[_Leaf]], torch: Sequence[_Leaf], jax: Sequence[_Leaf]) -> list[tuple[_Leaf, _Leaf]]:
    """For what is undecided the choice of the most similar name, as an example of what to write; for the rest what a layout could join."""
    made: list[tuple[_Leaf, _Leaf]] = []
    joined = {leaf: [other for other in jax if _heads(leaf, other)] for leaf in torch}
    used: set[_Leaf] = set()
    for leaf, others in {**choices, **joined}.items():
        if len(made) <= ENTRIES and (open_ := [other for other in others if other not in used]):
            best = max(open_, key=lambda other: _similar(leaf, other))
            used.add(best)
            made.append((leaf, best))
    return made


def _similar(torch: _Leaf, jax: _Leaf) -> float:
    if torch.kind == "norm" and jax.last in ("0", "1"):  # stax keeps (beta, gamma)
        return float((torch.role == "weight") == (jax.last == "1"))
    words = [[str(token) for token in leaf.module] for leaf in (torch, jax)]
    return sum(any(mine.startswith(other) or other.startswith(mine) for other in words[1]) for mine in words[0])


def _heads(torch: _Leaf, jax: _Leaf) -> tuple[str, dict[str, int]] | None:
    """The layout of a linear layer whose jax side keeps the heads as an axis of its own, if it is one."""
    if torch.kind == "linear" and _alike(torch, jax):
        for pattern in ("(h d) i -> i h d", "o (h d) -> h d o", "(h d) -> h d"):
            if len(_sides(pattern)[0]) == len(torch.shape) and len(_sides(pattern)[1]) == len(jax.shape):
                heads = {"h": jax.shape[pattern.split("->")[1].split().index("h")]}
                if heads["h"] and torch.shape["o (" in pattern] % heads["h"] == 0 and _after(pattern, torch.shape, heads)[0] == jax.shape:
                    return pattern, heads
    return None


def _entry(torch: _Leaf, jax: _Leaf) -> str:
    """One entry of the map: the layout of the rule, or the first that the shapes allow. "" where nothing joins the two."""
    layout = _layout(torch, jax)
    if heads := _heads(torch, jax):
        sizes = ", ".join(f'"{axis}": {n}' for axis, n in heads[1].items())
        return f'"{torch.name}": ("{jax.name}", "{heads[0]}", {{{sizes}}})'
    pattern = next(iter(layout.patterns or (_shaped(torch.shape, jax.shape).patterns if "makes" in layout.why else ())), None)
    if pattern == "" and not layout.patterns:  # the rule speaks against it, so it has to be said
        axes = " ".join(chr(ord("a") + axis) for axis in range(len(torch.shape)))
        pattern = f"{axes} -> {axes}"
    if pattern is None:
        return ""
    return f'"{torch.name}": ("{jax.name}", "{pattern}")' if pattern else f'"{torch.name}": "{jax.name}"'


def _nothing(torch: Sequence[_Leaf], jax: Sequence[_Leaf], used: set[_Leaf]) -> list[str]:
    """Entries for running statistics that one side does not keep."""
    made = [f'"{leaf.name}": None' for leaf in torch if leaf.state and leaf not in used]
    paths = [f'"{leaf.name}"' for leaf in jax if leaf.state and leaf not in used]
    return made + ([f"None: {paths[0] if len(paths) == 1 else '[' + ', '.join(paths) + ']'}"] if paths else [])


def _what_to_write(entries: Sequence[str]) -> str:
    if not entries:
        return 'Give both sides the same parameters, or say what belongs together: param_map={"torch name": "jax path"}.'
    shown = [*entries[:ENTRIES], *(["..."] if len(entries) > ENTRIES else [])]
    none = " None says that there is no counterpart." if any("None" in entry for entry in shown) else ""
    return f"Write param_map={{{', '.join(shown)}}} if that is what is meant; what is left out is inferred.{none}"
