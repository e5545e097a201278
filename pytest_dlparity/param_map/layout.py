"""In which layouts a torch array can be a jax array: those that a library is known for, else those that the shapes allow."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from pytest_dlparity.param_map.names import Leaf, alike
from pytest_dlparity.param_map.pattern import after, sides


class Rule(NamedTuple):
    """How one kind of torch leaf is kept by jax libraries."""

    kind: str
    leaf: str  # torch's last name, "*" in it is anything
    jax: tuple[str, ...]  # jax's last names; "=": torch's own, "*": any. "0" and "1" are places in a stax layer
    patterns: tuple[str, ...]  # the one with as many axes as the arrays; "": as it is; none: refused
    why: str


FLIPPED = "the kernel of a transposed convolution is flipped in space, which names do not show"
BIASES = "torch has two biases in a layer, and names do not show where each one goes"
GATES = "torch keeps the gates in one array, and names do not show where each one goes"
FUSED = "torch keeps query, key and value in one array, and names do not show where each one goes"

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


def fits(torch: Leaf, jax: Leaf) -> bool:
    return alike(torch, jax) and layout_of(torch, jax).fits


# ---------------------------------------------------------------- layouts


class Layout(NamedTuple):
    """The layouts that fit: one without a doubt is certain, others are for the user to decide, none says why."""

    patterns: tuple[str, ...] = ()
    why: str = ""  # the doubt, or what keeps every layout from fitting

    @property
    def fits(self) -> bool:
        return bool(self.patterns)

    @property
    def certain(self) -> bool:
        return len(self.patterns) == 1 and not self.why


def layout_of(torch: Leaf, jax: Leaf) -> Layout:
    """In which layouts the torch array can be the jax array."""
    for rule in RULES:
        if _speaks(rule, torch, jax):
            if not rule.patterns:
                return Layout((), rule.why)
            for pattern in rule.patterns:
                if not pattern or [len(side.split()) for side in pattern.split("->")] == [len(torch.shape), len(jax.shape)]:
                    return _ruled(rule, pattern, torch.shape, jax.shape)
    return shaped(torch.shape, jax.shape)


def _speaks(rule: Rule, torch: Leaf, jax: Leaf) -> bool:
    if rule.kind != torch.kind or not fnmatchcase(torch.last, rule.leaf):
        return False
    if rule.jax == ("*",) or (rule.jax == ("=",) and jax.last == torch.last):
        return True
    if jax.last == "w" and not jax.module and not jax.told:  # an array of no layer
        return False
    return jax.last in rule.jax and jax.kind in ((rule.kind,) if jax.told else ("", rule.kind))


@functools.lru_cache(maxsize=1 << 12)
def _ruled(rule: Rule, pattern: str, torch: tuple[int, ...], jax: tuple[int, ...]) -> Layout:
    made = after(pattern, torch, {})[0] if pattern else torch
    if rule.why is FLIPPED and torch[0] == torch[1] and made == jax:
        return Layout((pattern,), f'as "{pattern}" if it has transpose_kernel=True; if not, {FLIPPED}')
    if rule.why is FLIPPED and made == (*jax[:-2], jax[-1], jax[-2]) != jax:
        return Layout((), f"without transpose_kernel=True {FLIPPED}")
    return Layout((pattern,)) if made == jax else Layout((), f'"{pattern}" makes {list(made)} of the first' if pattern else "")


@functools.lru_cache(maxsize=1 << 12)
def shaped(torch: tuple[int, ...], jax: tuple[int, ...]) -> Layout:
    """The layouts that the shapes alone allow; axes of length 1 come and go.

    >>> shaped((3, 4), (4, 3)).patterns, shaped((1,), ()).patterns, shaped((2, 3), (2, 3)).patterns
    (('a b -> b a',), ('1 ->',), ('',))
    >>> shaped((0, 0), (0,)).patterns
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
    return Layout(("",)) if len(found) == 1 and torch == jax else Layout(tuple(found))


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


def apart(torch: Leaf, jax: Leaf) -> str:
    return layout_of(torch, jax).why or "their sizes differ"


def heads_apart(torch: Leaf, jax: Leaf) -> tuple[str, dict[str, int]] | None:
    """The layout of a linear layer whose jax side keeps the heads as an axis of its own, if it is one."""
    if torch.kind == "linear" and alike(torch, jax):
        for pattern in ("(h d) i -> i h d", "o (h d) -> h d o", "(h d) -> h d"):
            if [len(side) for side in sides(pattern)] == [len(torch.shape), len(jax.shape)]:
                heads = {"h": jax.shape[pattern.split("->")[1].split().index("h")]}
                if heads["h"] and torch.shape["o (" in pattern] % heads["h"] == 0 and after(pattern, torch.shape, heads)[0] == jax.shape:
                    return pattern, heads
    return None


def entry(torch: Leaf, jax: Leaf, start: str = "") -> str:
    """One entry of the map: the layout of the rule, or the first that the shapes allow. "" where nothing joins the two. `start`: "+" or nothing."""
    layout = layout_of(torch, jax)
    if heads := heads_apart(torch, jax):
        sizes = ", ".join(f'"{axis}": {n}' for axis, n in heads[1].items())
        return f'"{torch.name}": ("{jax.name}", "{heads[0]}", {{{sizes}}})'
    shown = "makes" in layout.why or (torch.shape == jax.shape and layout.why in (BIASES, GATES, FUSED))
    pattern = next(iter(layout.patterns or (shaped(torch.shape, jax.shape).patterns if shown else ())), None)
    if pattern == "" and not layout.patterns:  # the rule speaks against it, so it has to be said
        axes = " ".join(chr(ord("a") + axis) for axis in range(len(torch.shape)))
        pattern = f"{axes} -> {axes}"
    if pattern is None:
        return ""
    pattern = f"{start} {pattern}".strip()
    return f'"{torch.name}": ("{jax.name}", "{pattern}")' if pattern else f'"{torch.name}": "{jax.name}"'
