"""What is in doubt, in words, and the line to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from pytest_dlparity.errors import SpecError
from pytest_dlparity.param_map.given import Tie
from pytest_dlparity.param_map.infer import Found, choices_of, may_be
from pytest_dlparity.param_map.layout import RULES, apart, entry, heads_apart, layout_of
from pytest_dlparity.param_map.names import Leaf, either
from pytest_dlparity.param_map.pattern import Carry

LINES = 20  # of a message; a model that does not match at all has hundreds
ENTRIES = 6  # in the line to write


class Doubt(SpecError):
    """Why two sides cannot be matched, and what was found out on the way."""

    ties: tuple[Tie, ...] = ()  # what is certain all the same
    given: tuple[Carry, ...] = ()  # what the user gave, where there are no ties
    pairs: tuple[tuple[Leaf, Leaf], ...] = ()  # what belongs together in a layout that is not known
    open: tuple[frozenset[Leaf], frozenset[Leaf]] = (frozenset(), frozenset())  # what may belong to anything that is left


def refuse(given: Sequence[Tie], found: Found, more: Sequence[str] = ()) -> None:
    """Nothing, where all is certain. `more` is said before the line to write.

    Raises:
        Doubt: everything that is not, and the line to write.
    """
    doubts = [tie for tie in (*given, *found.ties) if tie.pattern is None and not layout_of(tie.torch, tie.jax).certain]
    choices = choices_of(found.torch, found.jax, may_be) | found.lone_torch
    chosen = {other for others in {id(others): others for others in choices.values()}.values() for other in others}
    wrong = [_doubtful(tie) for tie in doubts]
    wrong += [f"torch {t} goes with jax {j}, but {apart(t, j)}." for t, j in found.unequal]
    wrong += [_undecided(leaf, choices) for leaf, others in choices.items() if others]
    alone = [leaf for leaf, others in choices.items() if not others and leaf.needed]
    wrong += [f"torch {leaf} has no counterpart on the jax side{_fused(leaf)}." for leaf in alone]
    extra = [leaf for leaf in (*found.jax, *found.lone_jax) if leaf.needed and leaf not in chosen]
    wrong += [f"jax {leaf} has no counterpart on the torch side." for leaf in extra]
    if wrong:
        entries = [(tie.torch, tie.jax) for tie in doubts] + found.unequal + _closest(choices, alone, extra)
        written = [entry(t, j) for t, j in entries] + _nothing(alone, extra, {leaf for pair in entries for leaf in pair})
        head = "torch and jax parameters cannot be matched without doubt:"
        doubt = Doubt("\n".join([head, *_cut(wrong), *more, _what_to_write([entry for entry in written if entry])]))
        doubt.ties = tuple(tie for tie in (*given, *found.ties) if tie not in doubts)
        doubt.pairs = (*((tie.torch, tie.jax) for tie in doubts), *found.unequal)
        doubt.open = frozenset((*found.torch, *found.lone_torch)), frozenset((*found.jax, *found.lone_jax))
        raise doubt


def _doubtful(tie: Tie) -> str:
    layout = layout_of(tie.torch, tie.jax)
    if layout.why:
        return f"torch {tie.torch} fits jax {tie.jax} {layout.why}."
    ways = " and ".join(f'as "{pattern}"' for pattern in layout.patterns[:2])
    return f"torch {tie.torch} fits jax {tie.jax} {ways}{', among others' if layout.patterns[2:] else ''}, and no rule tells which."


def _undecided(leaf: Leaf, choices: Mapping[Leaf, Sequence[Leaf]]) -> str:
    others = choices[leaf]
    rivals = [rival for rival in choices if rival is not leaf and others[0] in choices[rival]] if len(others) == 1 else []
    also = f", and so may {either(rivals, 'torch')}" if rivals else ""
    return f"torch {leaf} may be {either(others, 'jax')}{also}."


def _fused(leaf: Leaf) -> str:
    why = next((rule.why for rule in RULES if rule.kind == leaf.kind and fnmatchcase(leaf.last, rule.leaf) and not rule.patterns), "")
    return f": {why}" if why else ""


def _cut(lines: Sequence[str]) -> list[str]:
    more = len(lines) - LINES
    return [f"  {line}" for line in lines[:LINES]] + ([f"  and {more} more."] if more > 0 else [])


def _closest(choices: Mapping[Leaf, Sequence[Leaf]], torch: Sequence[Leaf], jax: Sequence[Leaf]) -> list[tuple[Leaf, Leaf]]:
    """For what is undecided the choice of the most similar name, as an example of what to write; for the rest what a layout could join."""
    made: list[tuple[Leaf, Leaf]] = []
    joined = {leaf: [other for other in jax if heads_apart(leaf, other)] for leaf in torch}
    used: set[Leaf] = set()
    for leaf, others in {**choices, **joined}.items():
        if len(made) <= ENTRIES and (open_ := [other for other in others if other not in used]):
            best = max(open_, key=lambda other: _similar(leaf, other))
            used.add(best)
            made.append((leaf, best))
    return made


def _similar(torch: Leaf, jax: Leaf) -> float:
    if torch.kind == "norm" and jax.last in ("0", "1"):  # stax keeps (beta, gamma)
        return float((torch.role == "weight") == (jax.last == "1"))
    words = [[str(token) for token in leaf.module] for leaf in (torch, jax)]
    return sum(any(mine.startswith(other) or other.startswith(mine) for other in words[1]) for mine in words[0])


def _nothing(torch: Sequence[Leaf], jax: Sequence[Leaf], used: set[Leaf]) -> list[str]:
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
