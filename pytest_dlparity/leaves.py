"""Names for the arrays inside nested containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_dlparity.errors import SpecError

Children = Callable[[Any], list[tuple[str, Any]] | None]


def named(root: str, tree: Any, is_array: Callable[[Any], bool], children: Children = lambda tree: None) -> dict[str, Any]:
    """Every array of a nested result under its own name: `output` for one, `output.0`, `output.key` for several.

    Tuples and lists count, dicts, named tuples and dataclasses name; None is nothing. `children` opens containers that only a
    framework knows (registered pytrees).

    Raises:
        SpecError: something in it is no array, no number and no container.

    >>> named("output", [1.0, {"a": 2.0, "b": None}], lambda x: False)
    {'output.0': 1.0, 'output.1.a': 2.0}
    >>> named("output", (), lambda x: False)
    {}
    >>> named("output", ("logits",), lambda x: False)
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: output.0 is a str ('logits'). Return arrays, numbers, or containers of them.
    """
    found: dict[str, Any] = {}
    for name, value in _walk(root, tree, is_array, children):
        if name in found:
            raise SpecError(f"two arrays of the result are named {name}. Give them keys that differ, also where a key has a dot.")
        found[name] = value
    return found


def _walk(name: str, tree: Any, is_array: Callable[[Any], bool], children: Children) -> Iterator[tuple[str, Any]]:
    if is_array(tree) or isinstance(tree, (bool, int, float, complex)):
        yield name, tree
    elif tree is not None:
        inside = _children(tree)
        if inside is None:
            inside = children(tree)
        if inside is None:
            raise SpecError(f"{name} is a {type(tree).__name__} ({_short(tree)}). Return arrays, numbers, or containers of them.")
        for key, child in inside:
            yield from _walk(f"{name}.{key}", child, is_array, children)


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    if isinstance(tree, Mapping):
        return [(str(key), value) for key, value in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, (tuple, list)):
        return [(str(index), value) for index, value in enumerate(tree)]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    return None


def filled(names: Any, values: Mapping[str, Any]) -> Any:
    """Nested dicts of names with each name replaced by its value.

    >>> filled({"fc1": {"w": "fc1.w"}, "out.b": "out.b"}, {"fc1.w": 1, "out.b": 2})
    {'fc1': {'w': 1}, 'out.b': 2}
    """
    return {key: filled(name, values) for key, name in names.items()} if isinstance(names, Mapping) else values[names]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
