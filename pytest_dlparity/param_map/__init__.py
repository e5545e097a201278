"""Which torch parameter is which jax array, and in which layout: only where there is exactly one answer.

What the user gives comes first, then names, then numbers ("2.weight" is "Dense_1.kernel"), then shapes. Layouts are those of RULES; where
no rule speaks, a layout must be the only one that fits. What stays in doubt is refused, with the line to write; `pytest_dlparity.proof`
asks the values of what is in doubt here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_dlparity.errors import SpecError
from pytest_dlparity.param_map.given import Tie, carried, read
from pytest_dlparity.param_map.infer import forced as _forced
from pytest_dlparity.param_map.infer import inferred
from pytest_dlparity.param_map.names import IGNORED, JaxLeaf, TorchLeaf, jax_leaves, torch_leaves
from pytest_dlparity.param_map.pattern import (
    Carry,
    by,
    checked,
    jax_arrays,
    summed,
    table,
    to_jax,
    to_torch,
    torch_gradients,
    torch_values,
    uncovered,
    written,
)
from pytest_dlparity.param_map.refuse import Doubt, refuse

__all__ = [
    "IGNORED",
    "Carry",
    "Doubt",
    "JaxLeaf",
    "SpecError",
    "TorchLeaf",
    "_forced",
    "by",
    "carries",
    "checked",
    "jax_arrays",
    "summed",
    "table",
    "to_jax",
    "to_torch",
    "torch_gradients",
    "torch_values",
    "uncovered",
    "written",
]


def carries(
    torch: Sequence[TorchLeaf],
    jax: Sequence[JaxLeaf],
    given: Mapping[Any, Any] | None = None,
    proved: Sequence[Carry] = (),
    more: Sequence[str] = (),
) -> tuple[Carry, ...]:
    """The Carries that fill every jax array with torch's numbers, in torch's order.

    given: {torch name: jax path}. "*" in a name is anything and fills the "*" in the path. A path may come with a layout,
    (path, "o i -> i o") or (path, "(h d) i -> i h d", {"h": 8}); `pattern` says what a layout may be. Several in a list share one torch
    array, or are parts of it. A name that no leaf has is the end of the only one it fits ("weight" for "norm.weight"). {"mask": None} and
    {None: "cache"} say that there is no counterpart: the array keeps its own numbers. What is not given is inferred. Buffers and jax state
    that are no running statistics (masks, caches, counters, keys) may stay alone unsaid; so may IGNORED.
    proved: Carries that were found out otherwise. more: lines for the refusal.

    Raises:
        Doubt: something has no counterpart or several, or sizes differ.
        SpecError: `given` names what is not there.

    >>> carries([TorchLeaf("weight", (8, 8), "Linear")], [JaxLeaf("kernel", (8, 8), "Dense")])
    (Carry(torch='weight', jax='kernel', pattern='o i -> i o', sizes=(), how='name'),)
    >>> carries([TorchLeaf("mix", (8, 8))], [JaxLeaf("mix", (8, 8))])
    Traceback (most recent call last):
    pytest_dlparity.param_map.refuse.Doubt: torch and jax parameters cannot be matched without doubt:
      torch "mix" [8, 8] fits jax "mix" [8, 8] as "a b -> a b" and as "a b -> b a", and no rule tells which.
    Write param_map={"mix": ("mix", "a b -> a b")} if that is what is meant; what is left out is inferred.
    >>> carries([], [])
    ()
    """
    left, right = torch_leaves(torch), jax_leaves(jax)
    said = read({} if given is None else given, left, right)
    there, back = ({leaf.name: leaf for leaf in side} for side in (left, right))
    said.ties.extend(Tie(there[carry.torch], back[carry.jax], carry.how, carry.pattern, carry.sizes) for carry in proved)
    found = inferred(left, right, said)
    refuse(said.ties, found, more)
    order = {leaf: place for place, leaf in enumerate([*left, *right])}
    return tuple(carried(tie) for tie in sorted([*said.ties, *found.ties], key=lambda tie: (order[tie.torch], order[tie.jax])))
