"""One way in which a call could be made otherwise: what a family of causes proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pytest_dlparity.calls import Array

_SPOKEN = {
    "__getitem__": "indexing",
    "__rsub__": "sub",
    "__rdiv__": "div",
    "__matmul__": "matmul",
    "__rpow__": "pow",
    "_weight_norm": "weight_norm",
}
SAME = "torch made to do the same,"


class Variant(NamedTuple):
    """A change of one call, with the words for it. Variants of several calls that share a `key` are one change of all of them.

    In the texts `{at}` stands for the places of the calls, `{c}` for the constant that was solved for.
    """

    key: str
    fact: str  # what the two sides compute, if this is the cause
    apply: Callable[..., Any]  # (bound call) -> result, or (bound call, constant) -> result where there is a `start`
    family: str
    change: str = SAME
    write: str = ""  # the line that a user writes on the jax side to get what torch computes
    start: float | None = None  # of a constant that is solved for
    rank: int = 0  # 0: a known difference, 1: a known place with an unknown constant, 2: any constant, 3: any factor, 4: any other change
    meaning: str = ""  # what is the same cause under another name shares this; the key where it is empty
    sizes: Sequence[int] = ()  # lengths of axes that could explain the constant
    others: tuple[tuple[int, Callable[..., Any]], ...] = ()  # calls that change with it: (index, their change)


def without(array: Array) -> str:
    """The meaning of every change that leaves out one parameter; "" where it is none.

    >>> without(Array((3,), "float64", name="norm.bias")), without(Array((3,), "float64"))
    ('without norm.bias', '')
    """
    return f"without {array.name}" if array.name else ""


def differs(
    key: str, jax: str, torch: str, apply: Callable[..., Any], family: str, *, write: str = "", change: str = SAME, start: float | None = None,
    rank: int = 0, meaning: str = "", sizes: Sequence[int] = (), others: tuple[tuple[int, Callable[..., Any]], ...] = (),
) -> Variant:  # fmt: skip
    """A variant whose fact reads: the jax side ..., torch's <call> at <place> ..."""
    call = _SPOKEN.get(key.split()[0], key.split()[0])
    return Variant(
        key, f"the jax side {jax}, torch's {call}{{at}} {torch}", apply, family, change, write, start, rank, meaning, sizes, others
    )
