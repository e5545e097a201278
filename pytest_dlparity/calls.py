"""What a side called: one call of a library's function, with its arguments by name and the user's line."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Array:
    """An array that a call was given or gave: all but its numbers."""

    shape: tuple[int, ...]
    dtype: str
    made: int = -1  # the call that gave it, -1: none that was recorded
    name: str = ""  # of the parameter or input that it is

    @property
    def floating(self) -> bool:
        return self.dtype.startswith(("float", "bfloat", "complex"))


@dataclass(frozen=True, eq=False)
class Call:
    """One call. Arguments are numbers, strings, containers of them, and an `Array` in the place of every tensor."""

    index: int  # in the order of the run: the same in each run of a program that does the same
    name: str
    arguments: Mapping[str, Any]
    result: Any = None  # an Array, or a tuple of them
    file: str = ""
    line: int = 0
    module: str = ""
    within: str = ""  # a function of the library that the user called and that made this call
    given: frozenset[str] = field(default_factory=frozenset)  # arguments that the caller wrote, defaults apart

    @property
    def where(self) -> str:
        return f"{self.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{self.line}" if self.file else ""

    def __getitem__(self, argument: str) -> Any:
        """An argument, None where it was left out and has no default.

        >>> Call(0, "softmax", {"dim": -1})["dim"], Call(0, "softmax", {})["dim"]
        (-1, None)
        """
        return self.arguments.get(argument)

    def arrays(self) -> list[tuple[str, Array]]:
        """The array arguments, those inside lists too, under the argument's name."""
        return [(name, array) for name, value in self.arguments.items() for array in inside(value)]

    @property
    def out(self) -> Array | None:
        """What it gave, where that is one array."""
        return self.result if isinstance(self.result, Array) else None


def inside(value: Any) -> Iterator[Array]:
    """Every array in a nest of lists and tuples."""
    if isinstance(value, Array):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from inside(part)


class Signature(NamedTuple):
    """Names and defaults of a function's arguments. A name without a default has none."""

    names: tuple[str, ...]
    defaults: Mapping[str, Any]

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """
        >>> signature("input dim=-1").bound([3], {}), signature("input *dims").bound([3, 1, 2], {}), signature("*dims").bound([(1, 2)], {})
        ({'dim': -1, 'input': 3}, {'input': 3, 'dims': (1, 2)}, {'dims': (1, 2)})
        """
        found = dict(self.defaults)
        for place, value in enumerate(args):
            name = self.names[place] if place < len(self.names) else f"#{place}"
            if name.startswith("*"):
                rest = args[place:]
                found[name[1:]] = tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else tuple(rest)
                break
            found[name] = value
        return found | dict(kwargs)


def signature(text: str) -> Signature:
    """
    >>> signature("input weight=None stride=1")
    Signature(names=('input', 'weight', 'stride'), defaults={'weight': None, 'stride': 1})
    """
    names, defaults = [], {}
    for word in text.split():
        name, given, value = word.partition("=")
        names.append(name)
        if given:
            defaults[name] = ast.literal_eval(value)
    return Signature(tuple(names), defaults)
