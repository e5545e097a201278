"""Where an equation of a jaxpr was written: the user's lines, the path of the module, the library function that the user called.

What the name stack tells of the module (jax 0.10, flax 0.12, equinox 0.13, haiku 0.0.17):

- linen and haiku enter a scope for each module that is called, so the whole path is there. linen's begins with the class of the outermost
  module, haiku's follows the calls ("net/sequential/linear_1" where the parameters say "net/~/linear_1"). A method other than `__call__`
  is a scope too: linen's "decoder.attend" is read as "decoder", haiku's "net/encode/net" is left as it is.
- nnx and stax enter none, equinox only for its own layers and by their class ("eqx.nn.Linear"), which is no path: left out.
- `jax.named_scope` is a scope everywhere.
"""

from __future__ import annotations

import functools
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import jax

from pytest_dlparity.trace import Frame

DEPTH = 4  # lines that are kept of the user's
OURS = str(Path(__file__).parent.parent) + os.sep
JAX = str(Path(jax.__file__).parent) + os.sep
PYTHON = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib"))
PUBLIC = tuple(
    JAX + part.replace("/", os.sep)
    for part in (
        "_src/nn/", "_src/numpy/", "_src/scipy/", "_src/lax/", "_src/image/", "_src/random.py", "_src/ops/", "_src/cudnn/",
        "example_libraries/", "experimental/",
    )
)  # fmt: skip
MACHINERY = frozenset(  # files of flax, equinox and haiku that call what the user wrote or called
    "module.py _module.py transform.py transforms.py lift.py scope.py axes_scan.py stateful.py general.py graph.py graphlib.py iteration.py "
    "compilation.py autodiff.py _jit.py _ad.py _vmap_pmap.py _noinline.py".split()
)
COMBINATORS = frozenset("Sequential Lambda serial parallel elementwise shape_dependent".split())  # the layers inside were called, not they
# scopes of equinox's layers and loops, of a remat, of an einsum ("bij,bkj->bik"), of linen's lifted functions ("cell.<lambda>")
NO_MODULE = re.compile(r"eqx\.|checkpointed-|(rematted_computation|checkpoint|remat)$|.*(->|,|<)")


class Origin(NamedTuple):
    """What one equation tells of itself; what the call around it tells is not in here."""

    frames: tuple[Frame, ...]  # the user's, innermost first
    library: tuple[Frame, ...]  # where the user has none: of the library's function that was called
    module: tuple[str, ...]
    transposed: bool  # the outermost transformation is the transposition of a vjp
    repeated: bool  # a remat computes it once more
    linen: bool
    call: str  # "softmax", "LayerNorm"
    place: tuple[int, ...]  # from where in the user's code it was called
    step: int  # how far the called function had got
    path: tuple[int, ...]  # the whole stack


class Origins:
    """The origins of a jaxpr's equations, each traceback read once."""

    def __init__(self) -> None:
        self.stacks: dict[int, tuple[Any, _Stack]] = {}  # with the traceback, so that its id stays its own

    def __call__(self, equation: Any) -> Origin:
        traceback = equation.source_info.traceback
        known = self.stacks.get(id(traceback))
        if known is None:
            self.stacks[id(traceback)] = known = traceback, _stack(traceback)
        stack = known[1]
        scopes, transposed, repeated = read(str(equation.source_info.name_stack), stack.linen)
        return Origin(stack.frames, stack.library, scopes, transposed, repeated, *stack[2:])


class _Stack(NamedTuple):
    frames: tuple[Frame, ...]
    library: tuple[Frame, ...]
    linen: bool
    call: str
    place: tuple[int, ...]
    step: int
    path: tuple[int, ...]


def _stack(traceback: Any) -> _Stack:
    codes, positions = traceback.raw_frames() if traceback is not None else ([], [])
    path = tuple(number for code, position in zip(codes, positions, strict=True) for number in (id(code), position))
    kinds = [_kind(code.co_filename) for code in codes]
    users = [i for i, kind in enumerate(kinds) if kind == "user"]
    inside = users[0] if users else len(codes)
    call, at = _called(codes[:inside])
    others = () if users else [at] if call else _of_libraries(codes, kinds)[:DEPTH]
    return _Stack(
        tuple(_frame(codes[i], positions[i], codes[i].co_filename) for i in users[:DEPTH]),
        tuple(_frame(codes[i], positions[i], codes[i].co_filename) for i in others),
        any(f"{os.sep}flax{os.sep}linen{os.sep}" in code.co_filename for code in codes),
        call, path[2 * at + 2 :], positions[at] if call else -1, path,
    )  # fmt: skip


@functools.cache
def _kind(file: str) -> str:
    """Whose a source file is.

    >>> _kind(__file__), _kind(jax.__file__), _kind(re.__file__), _kind("/home/me/model.py"), _kind("<doctest x[0]>"), _kind("<string>")
    ('ours', 'jax', 'python', 'user', 'user', 'python')
    """
    if file.startswith(OURS):
        return "ours"
    if file.startswith(JAX) or f"{os.sep}jaxlib{os.sep}" in file:
        return "jax"
    if any(f"{os.sep}{folder}{os.sep}" in file for folder in ("site-packages", "dist-packages")):
        return "library"
    return "python" if file.startswith((*PYTHON, "<frozen", "<string>")) else "user"  # <string>: the methods that dataclasses makes


def _of_libraries(codes: Sequence[CodeType], kinds: Sequence[str]) -> list[int]:
    """The frames of other libraries, or those of jax's public functions, or all."""
    libraries = [i for i, kind in enumerate(kinds) if kind == "library" and os.path.basename(codes[i].co_filename) not in MACHINERY]
    public = [i for i, code in enumerate(codes) if code.co_filename.startswith(PUBLIC)]
    return libraries or public or list(range(len(codes)))


@functools.lru_cache(maxsize=8192)
def _frame(code: CodeType, position: int, file: str) -> Frame:  # the file is a key of its own: equal code in two files is equal
    line = next((number for start, end, number in code.co_lines() if start <= position < end), None)
    return Frame(file, line or code.co_firstlineno, code.co_qualname.replace(".<locals>", ""))


def _called(codes: Sequence[CodeType]) -> tuple[str, int]:
    """(what the user called, which frame it is) from the frames between the user's line, the last, and the operation; ("", -1): an operator."""
    for at in reversed(range(len(codes))):
        code = codes[at]
        name = _public(code) if _kind(code.co_filename) == "jax" else _of_library(code)
        if name is not None:
            return name, at if name else -1
    return "", -1


def _public(code: CodeType) -> str | None:
    """The name of a public function of jax, "" of an operator, None of what is neither."""
    if not code.co_filename.startswith(PUBLIC):
        return None
    outer, _, inner = code.co_qualname.partition(".<locals>.")
    if inner:
        return outer if "example_libraries" in code.co_filename and outer not in COMBINATORS else None
    if outer.startswith("_operator_"):
        return ""
    if os.path.basename(code.co_filename) == "array_methods.py":
        return outer.lstrip("_")  # x.mean()
    return None if "." in outer or outer.startswith("_") else outer


def _of_library(code: CodeType) -> str | None:
    """The name of a library's function, or of the layer whose `__call__` it is; None of what was not called by name."""
    file, name = code.co_filename, code.co_qualname
    if _kind(file) != "library" or os.path.basename(file) in MACHINERY or "<" in name:
        return None
    owner, _, method = name.rpartition(".")
    if owner in COMBINATORS:
        return None
    return owner if owner and method == "__call__" else None if method.startswith("_") else name


# ---------------------------------------------------------------- name stacks


@functools.lru_cache(maxsize=8192)
def read(stack: str, linen: bool = False) -> tuple[tuple[str, ...], bool, bool]:
    """(modules, whether it is a vjp's transposition, whether a remat repeats it) from a name stack as jax prints it.

    >>> read("transpose(jvp(Net))/blocks_0/fc"), read("jvp(transpose(jvp()))")
    ((('Net', 'blocks_0', 'fc'), True, False), ((), False, False))
    >>> read("rematted_computation/b1/Dense_0"), read("transpose(jvp(Net))/jvp(Net)/b1")
    ((('b1', 'Dense_0'), False, True), (('Net', 'b1'), True, False))
    >>> read("jvp(vmap(eqx.nn.Linear))"), read("head/sd,Sd->sS")
    (((), False, False), (('head',), False, False))
    >>> read("Net/cell.<lambda>/cell/decoder.attend", linen=True)
    (('Net', 'cell', 'decoder'), False, False)
    """
    path: tuple[str, ...] = ()
    first, repeated = "", False
    for transforms, names in _segments(stack):
        first = first or next(iter(transforms), "")
        repeated |= "rematted_computation" in names
        path = joined(path, _modules(names, linen))
    return path, first == "transpose", repeated


def _segments(stack: str) -> Iterator[tuple[list[str], list[str]]]:
    """(transformations, scopes) of a name stack: a transformation begins a new part."""
    transforms: list[str] = []
    names: list[str] = []
    for piece in stack.split("/"):
        found = []
        while (match := re.fullmatch(r"(\w+)\((.*)\)", piece)) is not None:
            found.append(match[1])
            piece = match[2]
        if found:
            yield transforms, names
            transforms, names = found, []
        names.append(piece)
    yield transforms, names


def _modules(scopes: Sequence[str], linen: bool) -> tuple[str, ...]:
    found: list[str] = []
    for scope in scopes:
        if not scope or NO_MODULE.match(scope):
            continue
        name, _, method = scope.partition(".") if linen else (scope, "", "")
        if not (method and found[-1:] == [name]):  # a module's own method
            found.append(name)
    return tuple(found)


def joined(outer: tuple[str, ...], inner: tuple[str, ...]) -> tuple[str, ...]:
    """One path inside another; the inner one may say the outer one again.

    >>> joined(("net", "a"), ("b",)), joined(("net",), ("net", "a")), joined(("net",), ())
    (('net', 'a', 'b'), ('net', 'a'), ('net',))
    """
    return inner if inner[: len(outer)] == outer else outer + inner
