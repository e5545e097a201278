"""Where in the user's program torch is: line, module and call; and in the backward pass, whose gradient is being computed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import site
import sysconfig
from collections.abc import Iterator
from os import sep
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.trace import Frame

FRAMES = 4  # of the user's, innermost first: the line itself and who called it
_STANDARD = tuple({sysconfig.get_path(name) + sep for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({path + sep for path in (*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))})
_HIDDEN = (str(Path(torch.__file__).parent) + sep, str(Path(__file__).parents[1]) + sep, "<")  # torch, this package, generated code
_TAG = "pytest_dlparity"


class Place(NamedTuple):
    """Where an operation stands in the user's program."""

    frames: tuple[Frame, ...] = ()
    module: str = ""
    call: str = ""
    call_number: int = -1


NOWHERE = Place()


@functools.cache
def whose(path: str) -> str:
    """Whose source file this is: "user", "library" (installed), or "" (torch, Python, this package, generated).

    >>> whose("<string>"), whose(torch.__file__), whose(contextlib.__file__), whose(__file__)
    ('', '', '', '')
    >>> whose(torch.__file__.replace("torch", "torchvision")), whose("/home/me/torch/model.py")
    ('library', 'user')
    """
    if path.startswith(_HIDDEN):
        return ""
    if path.startswith(_INSTALLED):
        return "library"
    return "" if path.startswith(_STANDARD) else "user"


class Places:
    """The place of a running program, forward and backward. Functions, modules and autograd nodes are followed while `watched`."""

    def __init__(self, ends: set[CodeType]) -> None:
        self.ends = ends  # where the user's part of the stack ends
        self.call, self.number = "", -1
        self.numbers = itertools.count()
        self.modules: list[tuple[Any, str]] = []
        self.names: dict[Any, str] = {}
        self.inside: list[Place] = []  # autograd nodes being evaluated, innermost last
        self.last = NOWHERE  # the autograd node that was evaluated last
        self.tag = object()
        self.handles: list[Any] = []
        self.codes: dict[CodeType, str] = {}
        self.lines: dict[tuple[CodeType, int], Frame] = {}

    # ---------------- lines

    def frames(self, frame: FrameType | None) -> tuple[Frame, ...]:
        """The user's frames from here outwards; those of installed libraries only where there is no other."""
        users: list[Frame] = []
        libraries: list[Frame] = []
        while frame is not None and len(users) < FRAMES:
            code = frame.f_code
            owner = self.codes.get(code)
            if owner is None:
                owner = self.codes[code] = "end" if code in self.ends else whose(code.co_filename)
            if owner == "user":
                users.append(self._line(frame, code))
            elif owner == "end":
                break
            elif owner and not users and len(libraries) < FRAMES:
                libraries.append(self._line(frame, code))
            frame = frame.f_back
        return tuple(users or libraries)

    def _line(self, frame: FrameType, code: CodeType) -> Frame:
        key = (code, frame.f_lasti)
        if key not in self.lines:
            self.lines[key] = Frame(code.co_filename, frame.f_lineno, code.co_qualname)
        return self.lines[key]

    def here(self, frame: FrameType | None) -> Place:
        """The place of the operation that is about to run, `frame` being anywhere inside of it."""
        return Place(self.frames(frame), self.modules[-1][1] if self.modules else "", self.call, self.number)

    def behind(self, frame: FrameType | None, accumulates: bool) -> Place:
        """The same in the backward pass: the forward operation whose gradient it is, unless a line of the user's is running."""
        here = self.here(frame)
        of = self.inside[-1] if self.inside else NOWHERE if accumulates else self.last
        if not here.frames:
            return of
        return here if here.module else here._replace(module=of.module)

    # ---------------- modules

    def named(self, root: Any, prefix: str) -> None:
        """Gives the modules under a root their paths; the root itself has `prefix`, or its class's name where that is empty."""
        for name, module in root.named_modules():
            path = f"{prefix}.{name}" if prefix and name else prefix or name or type(module).__name__
            self.names.setdefault(module, path)

    def enter_module(self, module: Any, args: Any) -> None:
        if module not in self.names:
            self.named(module, type(module).__name__)
        self.modules.append((module, self.names[module]))

    def leave_module(self, module: Any, args: Any, output: Any) -> None:
        while self.modules and self.modules.pop()[0] is not module:
            pass

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Follows modules; whatever was hooked is unhooked afterwards."""
        before = torch.nn.modules.module.register_module_forward_pre_hook(self.enter_module)
        after = torch.nn.modules.module.register_module_forward_hook(self.leave_module, always_call=True)
        try:
            yield
        finally:
            for handle in (before, after, *self.handles):
                handle.remove()

    # ---------------- autograd nodes

    def unmarked(self, value: torch.Tensor) -> bool:
        """Whether the autograd node that made a tensor has no place yet."""
        node = _made_by(value)
        return node is not None and node.metadata.get(_TAG) is not self.tag

    def mark(self, value: torch.Tensor, place: Place) -> None:
        """The autograd nodes behind a tensor that have no place yet stand here."""
        stack: list[Any] = [_made_by(value)]
        while stack:
            node = stack.pop()
            if node is None or type(node).__name__ == "AccumulateGrad" or node.metadata.get(_TAG) is self.tag:
                continue
            node.metadata[_TAG] = self.tag
            self.handles.append(node.register_prehook(functools.partial(self._enter, place)))
            self.handles.append(node.register_hook(self._leave))
            stack.extend(before for before, _ in node.next_functions)

    def _enter(self, place: Place, gradients: Any) -> None:
        self.inside.append(place)

    def _leave(self, *gradients: Any) -> None:
        self.last = self.inside.pop() if self.inside else NOWHERE


def _made_by(value: torch.Tensor) -> Any:
    """The autograd node that made a tensor; of one that a transformation (vmap) has wrapped, that of what is inside."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):  # private, pinned by tests/test_torch_trace.py
        value = torch._C._functorch.get_unwrapped(value)
    return value.grad_fn


def ends(*functions: Any) -> set[CodeType]:
    """The code at which the user's part of the stack ends: what calls it."""
    return {function.__code__ for function in (torch_side._forward, *functions)}
