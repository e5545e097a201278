"""Names for the arrays inside nested containers: one each, none lost, none under another's name."""

from __future__ import annotations

import collections
import dataclasses
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import pytest_dlparity as dlp
from pytest_dlparity import leaves


def named(tree: Any, **more: Any) -> dict[str, Any]:
    return leaves.named("output", tree, lambda x: isinstance(x, np.ndarray), **more)


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Box:
    inner: Any
    label: Any = None


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a number": (1.5, {"output": 1.5}),
    "nothing": (None, {}),
    "an empty tuple": ((), {}),
    "empty containers inside": ([{}, (), [None]], {}),
    "a tuple of one": ((1.0,), {"output.0": 1.0}),
    "a list in a tuple": ((1.0, [2.0, 3.0]), {"output.0": 1.0, "output.1.0": 2.0, "output.1.1": 3.0}),
    "nothing counts as a place": ((None, 2.0), {"output.1": 2.0}),
    "a dict": ({"a": 1, "b": True}, {"output.a": 1, "output.b": True}),
    "an ordered dict": (collections.OrderedDict(b=1, a=2), {"output.b": 1, "output.a": 2}),
    "a mapping that is no dict": (MappingProxyType({"a": 1j}), {"output.a": 1j}),
    "numbers as keys": ({0: 1.0, 7: 2.0}, {"output.0": 1.0, "output.7": 2.0}),
    "a named tuple": (Point(1.0, (2.0,)), {"output.x": 1.0, "output.y.0": 2.0}),
    "a dataclass": (Box({"w": 1.0}), {"output.inner.w": 1.0}),
    "a dataclass in a named tuple": (Point(Box(1.0, 2.0), None), {"output.x.inner": 1.0, "output.x.label": 2.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_leaf_has_its_name_in_order(case: str) -> None:
    tree, expected = CASES[case]
    assert list(named(tree).items()) == list(expected.items())


def test_arrays_are_leaves_also_when_they_could_be_iterated() -> None:
    array = np.ones((2, 3))
    assert named([array])["output.0"] is array


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ("logits", "output is a str ('logits'). Return arrays, numbers, or containers of them."),
        ((1.0, {1, 2}), "output.1 is a set ({1, 2}). Return arrays, numbers, or containers of them."),
        ({"a": b"x"}, "output.a is a bytes (b'x'). Return arrays, numbers, or containers of them."),
        (Box, "output is a type (<class 'test_leaves.Box'>). Return arrays, numbers, or containers of them."),
        ("x" * 50, f"output is a str ('{'x' * 36}...). Return arrays, numbers, or containers of them."),
        ((i for i in [1.0]), None),
        (range(3), "output is a range (range(0, 3)). Return arrays, numbers, or containers of them."),
    ],
    ids=["text", "a set", "bytes", "a class", "a long text", "a generator", "a range"],
)
def test_what_is_no_array_is_refused_by_its_name(tree: Any, sentence: str | None) -> None:
    with pytest.raises(dlp.SpecError) as caught:
        named(tree)
    said = str(caught.value).replace("tests.test_leaves", "test_leaves")
    assert said == sentence or (sentence is None and said.startswith("output is a generator (<generator object"))


def test_containers_of_a_framework_are_opened_by_children_only() -> None:
    tree = SimpleNamespace(w=1.0, b=SimpleNamespace(z=2.0))
    opened = named(tree, children=lambda node: list(vars(node).items()) if isinstance(node, SimpleNamespace) else None)
    assert opened == {"output.w": 1.0, "output.b.z": 2.0}
    with pytest.raises(dlp.SpecError, match=r"^output is a SimpleNamespace \(namespace\(w=1\.0, b=namespace\(z=2\.0\)\)\)\. Return arrays"):
        named(tree)


@pytest.mark.parametrize("tree", [{"a.b": 1.0, "a": {"b": 2.0}}, {1: 1.0, "1": 2.0}, {"a": [1.0], "a.0": 2.0}], ids=str)
def test_two_leaves_of_one_name_are_refused_and_never_silently_one(tree: Any) -> None:
    with pytest.raises(dlp.SpecError, match=r"\b(two|twice)\b"):
        named(tree)


def test_filled_puts_values_where_their_names_were() -> None:
    names = {"fc": {"w": "fc.w", "deep": {"b": "fc.deep.b"}}, "s": "s"}
    assert leaves.filled(names, {"fc.w": 1, "fc.deep.b": 2, "s": 3}) == {"fc": {"w": 1, "deep": {"b": 2}}, "s": 3}
    assert leaves.filled({}, {"s": 3}) == {} and leaves.filled("s", {"s": 3}) == 3
    with pytest.raises(KeyError):
        leaves.filled({"a": "lost"}, {})
