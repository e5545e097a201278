"""A spec -> both its programs as source, whole: for a failure of which no piece can be cut out, in the dtype in which it failed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import run
from pytest_dlparity.compare import Verdict
from pytest_dlparity.excerpt import Move, NoExcerpt, gap, plain
from pytest_dlparity.fewer import fewer
from pytest_dlparity.reference import reference
from pytest_dlparity.run import Prepared

LINES = 600  # of both functions
LEAVES = 4  # that a script judges, the worst first
SECONDS = 5.0  # for making it smaller
IN_FLOAT64 = frozenset(("semantics", "unequal64", "nonfinite64"))
STRUCTURE = frozenset(("missing", "shapes", "classes"))
IN_THE_CELL = frozenset(("precision", "nonfinite", "unequal", "tolerance", "no float64 apart", "below float64", "overflow"))
APART = 1e-6  # of the largest value: what two float64 runs of whole programs stay below

Arrays = dict[str, np.ndarray]


class Judge(NamedTuple):
    """How a leaf is judged: "apart" (largest difference over the largest value), "error" (rms from float64, of the worse side), "equal"."""

    how: str
    limit: float


@dataclass(frozen=True)
class Whole:
    """Two functions that give the leaves of a spec. Each takes the arrays that are named, in this order."""

    torch: list[str]
    jax: list[str]
    takes: dict[str, list[str]]
    moves: dict[str, Move]  # of arrays that lie otherwise in jax
    gives: dict[str, list[str]]
    results: dict[str, Move]  # of torch's leaves, where jax's lie otherwise
    arrays: Arrays
    judged: dict[str, Judge]
    dtype: str
    precision: str
    values: dict[str, Arrays] = field(default_factory=dict, repr=False)

    @property
    def failing(self) -> list[str]:
        """The judged leaves that are no pass."""
        return [name for name, judge in self.judged.items() if _fails(self, name, judge)]


def whole(prep: Prepared, verdicts: Sequence[Verdict]) -> Whole:
    """The programs of a spec that failed, on as few examples as it still fails on.

    Args:
        verdicts: those that are no pass, the worst first.

    Raises:
        NoExcerpt: there is no such source, and why.
        Whatever the frameworks raise for what they cannot trace.
    """
    chosen, dtype = _chosen(verdicts)
    if prep.job.steps:
        raise NoExcerpt("the steps of a training loop are no function of arrays")
    if dtype == "complex64":
        raise NoExcerpt("programs of complex numbers are written in double precision alone")
    if prep.spec.shared_randomness:
        raise NoExcerpt("the two sides share random draws")
    until = time.perf_counter() + SECONDS
    for less in fewer(prep):
        if time.perf_counter() > until:
            break
        try:
            reference(less)  # which draws the cotangents
            made = _ran(_made(less, chosen, dtype))
        except Exception:  # noqa: BLE001  a program may be written for one number of examples
            continue
        if made.failing:
            return made
    made = _ran(_made(prep, chosen, dtype))
    if not made.failing:
        raise NoExcerpt(f"on the CPU in {dtype} the two programs alone do not show the difference")
    return made


def _chosen(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], str]:
    """The verdicts of one kind that a script can show, and the dtype in which it shows them."""
    for reasons in (STRUCTURE, IN_FLOAT64, IN_THE_CELL):
        found = [v for v in verdicts if v.reason in reasons]
        found = [v for v in found if not v.name.startswith("grad.")] or found
        if found:
            dtype = "float64" if reasons is IN_FLOAT64 else found[0].cell.dtype
            return [v for v in found if reasons is IN_FLOAT64 or v.cell.dtype == dtype][:LEAVES], dtype
    raise NoExcerpt("nothing differs between the two sides in a way that a script can show" if verdicts else "every leaf agrees")


def _judge(verdict: Verdict) -> Judge:
    if verdict.reason in STRUCTURE or verdict.reason.startswith("unequal"):
        return Judge("equal", 0.0)
    if verdict.reason in ("nonfinite", "nonfinite64", "overflow"):
        return Judge("finite", 0.0)
    if verdict.reason in IN_FLOAT64:
        return Judge("apart", min(APART, verdict.power) if verdict.power == verdict.power and verdict.power > 0 else APART)
    if verdict.reason == "precision" and verdict.error > verdict.limit:
        return Judge("error", verdict.limit)
    if verdict.reason in ("tolerance", "no float64 apart") and verdict.error > verdict.limit:
        return Judge("rms", verdict.limit)
    raise NoExcerpt("the difference is one of single elements, which the CPU may round otherwise")


# ---------------------------------------------------------------- source


def _made(prep: Prepared, chosen: Sequence[Verdict], dtype: str) -> Whole:
    judged = {verdict.name: _judge(verdict) for verdict in chosen}
    torch = _torch(prep, dtype, list(judged))
    jax = _jax(prep, dtype, list(judged))
    if len(torch.lines) + len(jax.lines) > LINES:
        raise NoExcerpt(f"the two programs have more than {LINES} operations")
    known = {**prep.params, **prep.buffers, **prep.inputs, **torch.constants, **jax.arrays}
    arrays = {name: known[name] for name in dict.fromkeys([*torch.arguments, *jax.takes])}
    if any(judge.how == "error" for judge in judged.values()):
        ready = run.torch_ready(prep, "cpu", "float64", False)
        leaves = run.torch_outcome(prep, ready, "cpu", "float64").leaves
        arrays |= {f"float64 {name}": leaves[name] for name, judge in judged.items() if judge.how == "error"}
    results = {f"grad.{name}": move for name, move in jax.moves.items()}
    return Whole(
        torch.lines, jax.lines, {"torch": torch.arguments, "jax": jax.takes}, jax.moves, {"torch": torch.leaves, "jax": jax.gives}, results,
        arrays, judged, dtype, prep.spec.precision,
    )  # fmt: skip


def _torch(prep: Prepared, dtype: str, leaves: list[str]) -> Any:
    torch_side, _ = run.frameworks()
    from pytest_dlparity.frameworks import torch_source

    with torch_side.settings(dtype, prep.spec.precision):
        return torch_source.program(run.torch_ready(prep, "cpu", dtype, False), prep.job, prep.cotangent, "torch_side", leaves)


class _Jax(NamedTuple):
    """The jax side's function. `moves`: how parameters lie that torch has too; `arrays`: what only this side has."""

    lines: list[str]
    takes: list[str]
    gives: list[str]
    moves: dict[str, Move]
    arrays: Arrays


def _jax(prep: Prepared, dtype: str, leaves: list[str]) -> _Jax:
    _, jax_side = run.frameworks()
    from pytest_dlparity.frameworks import jax_source

    with jax_side.settings(dtype, prep.spec.precision):
        params, state = run.jax_start(prep, dtype)
        args = params, state, jax_side.arrays(prep.inputs, dtype), jax_side.arrays(run.cotangents(prep), dtype)
        traced, _ = run.Functions(prep, "cpu", dtype, True)("evaluate").traced(*args)
        gives = [_leaf(prep, part, name) for part, name in jax_side.paths(traced.out_info)]
        wanted = [at for at, name in enumerate(gives) if name in leaves and gives.count(name) == 1]
        made = jax_source.program(traced, "jax_side", wanted)
        paths = jax_side.paths(args)
    params, state = run.jax_start(prep, "float64")
    masters, own = ({**params, **state}, prep.inputs, run.cotangents(prep)), {}
    takes, moves = [], {}
    for part, name in (paths[at] for at in made.takes):
        known = prep.inputs if part == 2 else {**prep.params, **prep.buffers} if part < 2 else {}
        torch = name if part == 2 else _carried(prep, name)
        value = np.asarray(masters[max(0, part - 1)][name])
        move = plain(known[torch], value, True) if torch in known else None
        takes.append(torch if move is not None else f"cotangent.{name}" if part == 3 else f"jax.{name}")
        if move is None:
            own[takes[-1]] = value
        elif move.text():
            moves[torch] = move
    return _Jax(made.lines, [*takes, *made.constants], [gives[at] for at in wanted], moves, {**own, **made.constants})


def _carried(prep: Prepared, path: str) -> str:
    """The name of the torch parameter that alone fills a jax one, "" where there is none."""
    found = [carry.torch for carry in prep.carries if carry.jax == path]
    return found[0] if len(found) == 1 and len(prep.paths(found[0])) == 1 else ""


def _leaf(prep: Prepared, part: int, name: str) -> str:
    """The leaf that a result of the jax side is, "" where it is none of torch's."""
    if part < 2:
        return f"grad.{name}" if part else name
    return (torch := _carried(prep, name)) and f"{('grad', 'state')[part - 2]}.{torch}"


# ---------------------------------------------------------------- running


def _ran(made: Whole) -> Whole:
    """The programs run once, in this process, as a script would."""
    torch_side, jax_side = run.frameworks()
    from pytest_dlparity.frameworks import jax_source, torch_source

    with torch_side.settings(made.dtype, made.precision):
        given = [_given(torch_side, made.arrays[name], made.dtype) for name in made.takes["torch"]]
        torch = torch_source.results("\n".join(made.torch), "torch_side", given)
    with jax_side.settings(made.dtype, made.precision):
        moved = [made.moves.get(name, _asis)(made.arrays[name]) for name in made.takes["jax"]]
        arrays = [jax_side.arrays({"": array}, made.dtype)[""] if array.dtype == np.float64 else array for array in moved]
        jax = jax_source.results("\n".join(made.jax), "jax_side", arrays)
    values = {"torch": dict(zip(made.gives["torch"], torch, strict=True)), "jax": dict(zip(made.gives["jax"], jax, strict=True))}
    return replace(made, values=values)


def _given(torch_side: Any, array: np.ndarray, dtype: str) -> Any:
    """A tensor: what is kept in float64 is for the dtype, the rest has its own."""
    return torch_side.tensors({"": array}, "cpu", dtype if array.dtype == np.float64 else str(array.dtype))[""]


def _asis(array: np.ndarray) -> np.ndarray:
    return array


def _fails(made: Whole, name: str, judge: Judge) -> bool:
    t, j = made.values["torch"].get(name), made.values["jax"].get(name)
    if t is None or j is None:
        return True
    t = made.results.get(name, _asis)(t)
    return measured(t, j, judge.how, made.arrays.get(f"float64 {name}")) > judge.limit


def measured(t: np.ndarray, j: np.ndarray, how: str, truth: np.ndarray | None = None) -> float:
    """How far two leaves are from each other, or the farther one from float64; infinite where that cannot be said.

    >>> measured(np.ones(2), np.ones(3), "apart"), measured(np.ones(2), np.array([1.0, np.nan]), "rms")
    (inf, inf)
    >>> measured(np.array([2.0, 4.0]), np.array([2.0, 3.0]), "apart"), measured(np.array([1, 2]), np.array([1, 3]), "equal")
    (0.25, 1.0)
    >>> measured(np.ones(1), np.full(1, 3.0), "error", np.full(1, 2.5))
    1.5
    """
    if t.shape != j.shape or (how == "equal" and (t.dtype.kind in "biu") != (j.dtype.kind in "biu")):
        return math.inf
    if how == "error":
        assert truth is not None
        return max(measured(side, truth, "rms") for side in (t, j))
    if how == "apart":
        return gap(t, j)
    t, j = t * 1.0, j * 1.0
    finite = np.isfinite(t) & np.isfinite(j)
    if not np.array_equal(t[~finite], j[~finite], equal_nan=True):
        return math.inf
    gaps = np.abs(t[finite] - j[finite])
    if how in ("equal", "finite"):
        return float(np.count_nonzero(gaps)) if how == "equal" else 0.0
    return float(np.sqrt(np.mean(gaps * gaps))) if gaps.size else 0.0
