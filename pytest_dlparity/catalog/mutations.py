"""Entries with one thing wrong in them, as a person would write it: what calibration counts, and the catalogue must catch.

A mutant is the jax code with one place of its syntax tree changed. Whether that changes the mathematics is not decided by our verdict: the float64
values of the mutant are held against those of the right code. What is the same there is no fault.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import distance
from pytest_dlparity.catalog import judge, specs
from pytest_dlparity.catalog.entry import Entry
from pytest_dlparity.matrix import Cell
from pytest_dlparity.report import Report

EPSILONS = (1e-13, 9e-4)  # a literal in between is an epsilon
SWAPS = {"mean": "sum", "sum": "mean", "var": "std", "std": "var", "max": "min", "min": "max"}
AXES = {"axis", "feature_axis"}
FLIPPED = {
    "approximate": "GELU by the other formula",
    "nesterov": "other momentum",
    "use_bias": "bias dropped",
    "with_bias": "bias dropped",
}
SEEN = 2e-6  # relative: below, a change of the float64 values is less than a check can tell (compare.INACCURATE is a quarter of it)


ZERO = 1e-8  # of the largest leaf: what is smaller has no digits of its own


class Mutant(NamedTuple):
    name: str  # "epsilon times ten"
    code: str


class Trial(NamedTuple):
    """What became of one mutant: caught (differs), refused (cannot be run or carried), the same (no fault), or missed."""

    entry: str
    library: str
    mutant: Mutant
    outcome: str
    change: float = np.nan  # the largest relative difference from the right code in float64, where nothing was caught
    margin: float = np.nan  # how many times its limit the clearest difference is, where one was caught


def mutants(code: str, dims: int = 0) -> Iterator[Mutant]:
    """Every mutant of some code.

    >>> [name for name, _ in mutants("lambda x: x / jnp.sqrt(jnp.var(x) + 1e-5)")]
    ['variance over N - 1', 'epsilon times ten']
    >>> [text for _, text in mutants("linen.LayerNorm(epsilon=1e-5)")]
    ['linen.LayerNorm()', 'linen.LayerNorm(epsilon=0.0001)']
    >>> list(mutants("jax.nn.relu"))
    []
    """
    tree = ast.parse(code)
    seen = {ast.unparse(tree)}
    for index, node in enumerate(ast.walk(tree)):
        for name, other in _changed(node, dims):
            text = ast.unparse(_with(tree, index, other))
            if text not in seen:
                seen.add(text)
                yield Mutant(name, text)


def _with(tree: ast.AST, index: int, other: ast.AST) -> ast.AST:
    """The tree with another node in one place."""
    made = copy.deepcopy(tree)
    place = list(ast.walk(made))[index]

    class Put(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return other if node is place else self.generic_visit(node)

    return ast.fix_missing_locations(Put().visit(made))


def _changed(node: ast.AST, dims: int) -> Iterator[tuple[str, ast.AST]]:
    """What can be wrong at one node: (name, the node as it then is)."""
    match node:
        case ast.Call():
            yield from _call(node, dims)
        case ast.Attribute(value=ast.Name(id="jnp"), attr=name) if name in ("mean", "sum", "max", "min"):
            yield _reduction(name), ast.Attribute(node.value, SWAPS[name], node.ctx)
        case ast.Attribute(value=ast.Attribute(), attr="gelu"):
            yield "GELU by the other formula", _read("lambda x: jax.nn.gelu(x, approximate=False)")
        case ast.Constant(value=float(value)) if EPSILONS[0] < value < EPSILONS[1]:
            yield "epsilon times ten", ast.Constant(value * 10)
        case ast.Constant(value=float(value)) if value and np.isfinite(value):
            yield "constant off by a tenth", ast.Constant(value * 1.1)
        case ast.Subscript(value=ast.Name(id="p"), slice=ast.Constant(value=str(name))) if "bias" in name:
            yield "bias dropped", ast.BinOp(ast.Constant(0), ast.Mult(), node)
        case ast.Attribute(attr="T", value=value):
            yield "weight transposed", value
        case ast.BinOp(op=ast.Sub()):
            yield "sign", ast.BinOp(node.left, ast.Add(), node.right)


def _call(node: ast.Call, dims: int) -> Iterator[tuple[str, ast.AST]]:
    function = ast.unparse(node.func)
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("mean", "sum") and ast.unparse(node.func.value) != "jnp":
        other = ast.Attribute(node.func.value, SWAPS[node.func.attr], ast.Load())
        yield _reduction(node.func.attr), ast.Call(other, node.args, node.keywords)
    if function.rpartition(".")[2] in ("var", "std") and not any(k.arg in ("ddof", "correction") for k in node.keywords):
        yield "variance over N - 1", ast.Call(node.func, node.args, [*node.keywords, ast.keyword("ddof", ast.Constant(1))])
    for index, given in enumerate(node.keywords):
        if given.arg is None or given.arg in ("key", "rngs", "name"):
            continue
        rest = node.keywords[:index] + node.keywords[index + 1 :]
        yield f"default {given.arg}", ast.Call(node.func, node.args, rest)
        for name, value in _keyword(given, dims):
            changed = [*node.keywords[:index], ast.keyword(given.arg, value), *node.keywords[index + 1 :]]
            yield name, ast.Call(node.func, node.args, changed)


def _keyword(given: ast.keyword, dims: int) -> Iterator[tuple[str, ast.expr]]:
    name, value = str(given.arg), given.value
    match value:
        case ast.Constant(value=bool(flag)):
            yield FLIPPED.get(name, f"{name} the other way"), ast.Constant(not flag)
        case ast.Constant(value=float(number)) if name in ("momentum", "decay", "decay_rate"):
            yield "momentum of the other form", ast.Constant(round(1 - number, 12))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())) if name in AXES:
            yield "wrong axis", ast.Constant(0)
        case ast.Constant(value=int(number)) if name in AXES:
            yield "wrong axis", ast.Constant(0 if number else 1)
        case ast.Constant(value=1) if name in ("ddof", "correction"):
            yield "variance over N", ast.Constant(0)
        case ast.Constant(value=int(number)) if name == "padding" and number and dims:
            yield "padding moved by one", _read(f"(({number - 1}, {number + 1}),) * {dims}")
        case ast.Tuple() | ast.List() if name == "padding" and (moved := re.sub(r"\((\d+), (\d+)\)", _moved, ast.unparse(value), count=1)):
            if moved != ast.unparse(value):
                yield "padding moved by one", _read(moved)


def _moved(found: re.Match[str]) -> str:
    before, after = int(found[1]), int(found[2])
    return f"({before - 1}, {after + 1})" if before else f"({before + 1}, {after - 1})" if after else found[0]


def _reduction(name: str) -> str:
    return "reduction changed" if name in ("mean", "sum") else "maximum for minimum"


def _read(code: str) -> ast.expr:
    return ast.parse(code, mode="eval").body


# ---------------------------------------------------------------- what becomes of them


def trials(entry: Entry, library: str, seed: int = 0) -> Iterator[Trial]:
    """Runs every mutant of an equivalent over its cases and edges, in float32 on the CPU, until one case tells."""
    way, cell = specs.equivalent(entry, library), Cell("cpu", "float32")
    right = judge.Course(seed=seed)
    found = re.search(r"(\d)d", entry.torch)
    for mutant in mutants(way.code, int(found[1]) if found else 0):
        wrong = replace(entry, jax={library: replace(way, code=mutant.code)})
        course = judge.Course(seed=seed)
        told, change, margin = "the same", 0.0, np.nan
        for one in judge.cases(wrong, library, cell, course):
            if one.status == judge.FAILED:
                told, change, margin = ("refused", np.nan, np.nan) if one.report is None else ("caught", np.nan, _margin(one.report))
                break
            if one.status != judge.SKIPPED:
                change = max(change, _change(entry, library, one.case, right, course))
        if told == "the same" and change > SEEN:
            told = "missed"
        yield Trial(entry.name, library, mutant, told, change, margin)


def _margin(report: Report) -> float:
    """Of a difference that has no size (a shape, a place that is not finite, whole numbers): infinite."""
    sizes = [v.error / v.limit for v in report.failed if v.reason == "semantics" and v.limit]
    return max(sizes) if sizes and len(sizes) == len(report.failed) else np.inf


def _change(entry: Entry, library: str, case: str, right: judge.Course, wrong: judge.Course) -> float:
    """The largest relative difference of a leaf between the right code and the mutant, in float64; of leaves that a Difference is about, none.

    A leaf that is zero but for rounding (the gradient of a key's bias) is held against a share of the largest one.
    """
    named = {d.leaf for d in specs.equivalent(entry, library).differs if d.case == case}
    known = right.begun(entry, library, case).reference
    ours, theirs = known.jax.leaves, wrong.begun(entry, library, case).reference.jax.leaves
    least = ZERO * known.largest
    return max((_relative(a, theirs[name], least) for name, a in ours.items() if name not in named and name in theirs), default=0.0)


def _relative(ours: np.ndarray, theirs: np.ndarray, least: float) -> float:
    """The rms of a difference over that of the first, or over `least` where that is more."""
    gap = distance.between(np.asarray(theirs, complex), np.asarray(ours, complex))
    size = max(gap.scale, least)
    return gap.rms / size if size else 0.0
