"""Pairs of models in which one line is wrong: the truth by which a localisation is judged.

A pair is one file here: the torch side, the jax side, and its bugs. Corresponding lines of the two sides carry the same mark, `# @scores`. A bug
changes one marked line in a copy of the file, so the truth is known: that line, the lines with the same mark on the other side, the module path.

A wrong line is not always where numbers first part. A line that moves numbers about (a reshape, a swap of q and k) changes none of them, and one
that does nothing any more (a norm left out) leaves none: then the line that reads it is as right, and where one operation is left out of a chain
(a mask, a bias), the line that made what stands there now. Where one side has a function of its own for what the other calls from a library, its
lines and that of the call are the same place. Such lines are named by the bug, one by one.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

NAMES = ("mlp", "cnn", "lstm", "gpt", "bert", "vit", "resnet", "resnet_train", "unet", "llama", "stax_net")
MARK = re.compile(r"#.*?@(\w+(?: @\w+)*)")
SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)
SECTION = re.compile(r"^# -{16,} (\w+)")


class Bug(NamedTuple):
    """One line written wrongly: `old` in it, an expression, becomes `new`.

    With a condition `when` the line is wrong in one place only, drawn by the seed: a block, a direction; {k} is its number and {place} its path.
    Where {place} is in `layer`, there is a condition: `self.index == {k}` if no other is given. `old` may be an argument, "padding=1".
    """

    kind: str
    where: str  # "jax scores": the side, and the mark of the line
    old: str
    new: str
    layer: str = ""  # torch's module path, several with "|" between them; "" is the model itself
    when: str = ""
    torch: str = ""  # marks of the right lines where it is not the mark of the wrong line
    jax: str = ""
    effect: bool = True  # False: no number that anybody sees is changed, and both sides agree
    backward: bool = False  # only gradients are wrong
    places: str = "PLACES"  # what the file calls the paths of the places

    @property
    def condition(self) -> str:
        return self.when or ("self.index == {k}" if "{place}" in self.layer else "")

    @property
    def name(self) -> str:
        return f"{self.kind} ({self.where})"


class Planted(NamedTuple):
    """A pair with a bug in it, or without one, and the truth about it."""

    pair: str
    bug: Bug | None
    seed: int
    spec: Any
    file: Path
    layers: tuple[str, ...]
    torch_lines: frozenset[int]
    jax_lines: frozenset[int]

    def __str__(self) -> str:
        where = f", in {self.layers[0]}" if any(self.layers[:1]) else ""
        return f"{self.pair}, {self.bug.name if self.bug else 'right'}, seed {self.seed}{where}"


def bugs(pair: str) -> tuple[Bug, ...]:
    return tuple(original(pair).BUGS)


def original(pair: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{pair}")


def planted(pair: str, bug: Bug | None, seed: int, folder: Path, **sizes: int) -> Planted:
    """A copy of the pair's file in `folder` with the bug in it, and its spec. `sizes` are arguments of the file's `spec`."""
    text, right = written(pair, bug, seed)
    label = f"{bug.where} {bug.kind} {bug.new}" if bug else "right"
    file = folder / f"{pair}_{zlib.crc32(label.encode()):08x}_{seed}.py"
    file.write_text(text)
    module = _loaded(file)
    torch.manual_seed(seed)
    spec = module.spec(_moved(module.torch_side(**sizes)), module.jax_side(**sizes), **sizes)
    layers = tuple(bug.layer.format(place=_place(pair, bug, seed)[1]).split("|")) if bug else ()
    return Planted(pair, bug, seed, spec, file, layers, right["torch"], right["jax"])


def written(pair: str, bug: Bug | None, seed: int) -> tuple[str, dict[str, frozenset[int]]]:
    """The pair's file with the bug in it, and the numbers of the right lines on either side."""
    text = Path(str(original(pair).__file__)).read_text()
    if bug is None:
        return text, {"torch": frozenset(), "jax": frozenset()}
    marks, (k, place) = _marks(text), _place(pair, bug, seed)
    text = _changed(text, marks, bug, k, place)
    return text, {side: lines(text, marks, side, _right(bug, side, place)) for side in ("torch", "jax")}


def _right(bug: Bug, side: str, place: str) -> list[str]:
    """The marks of the lines that are right; {last} in them is the end of the place's path."""
    given = (bug.torch if side == "torch" else bug.jax) or bug.where.split()[1]
    return given.format(last=place.rpartition(".")[2]).split()


def _place(pair: str, bug: Bug, seed: int) -> tuple[int, str]:
    """Where the bug is, for this seed: a number and a module path."""
    if not bug.condition:
        return -1, ""
    places = getattr(original(pair), bug.places)
    k = int(np.random.default_rng([seed, zlib.crc32(f"{pair} {bug.name} {bug.new}".encode())]).integers(len(places)))
    return k, places[k]


def _changed(text: str, marks: dict[tuple[str, str], set[int]], bug: Bug, k: int, place: str) -> str:
    (line,) = marks[tuple(bug.where.split())]  # one line, or the bug names it badly
    rows = text.splitlines()
    code, comment = rows[line - 1].split("  # ", 1)
    if code.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: {bug.old!r} stands {code.count(bug.old)} times in {code.strip()!r}, not once")
    rows[line - 1] = f"{code.replace(bug.old, _in_one_place(bug, k, place))}  # {comment}"
    return "\n".join(rows) + "\n"


def _in_one_place(bug: Bug, k: int, place: str) -> str:
    if not bug.condition:
        return bug.new
    keyword = argument[0] if (argument := re.match(r"\w+=(?!=)", bug.old)) else ""
    old, new = bug.old.removeprefix(keyword), bug.new.removeprefix(keyword)
    return f"{keyword}({new} if {bug.condition.format(k=k, place=place)} else {old})"


def _marks(text: str) -> dict[tuple[str, str], set[int]]:
    """(side, mark) -> line numbers."""
    found: dict[tuple[str, str], set[int]] = {}
    side = ""
    for number, row in enumerate(text.splitlines(), 1):
        if section := SECTION.match(row):
            side = section[1]
        elif side in ("torch", "jax") and (mark := MARK.search(row)):
            for name in mark[1].split(" @"):
                found.setdefault((side, name), set()).add(number)
    return found


def lines(text: str, marks: dict[tuple[str, str], set[int]], side: str, names: list[str]) -> frozenset[int]:
    """Every line of the statements that carry one of these marks."""
    wanted = {line for name in names for line in marks[side, name]}
    spans = [range(node.lineno, (node.end_lineno or 0) + 1) for node in ast.walk(ast.parse(text)) if isinstance(node, SIMPLE)]
    return frozenset(wanted.union(*(span for span in spans if any(line in span for line in wanted))))


def _loaded(file: Path) -> ModuleType:
    made = importlib.util.spec_from_file_location(file.stem, file)
    assert made is not None and made.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


def _moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module with no number left as plain as it began: scales of 1, biases of 0 and running statistics are moved as training would."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim < 2 or bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))
    return module
