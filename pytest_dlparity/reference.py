"""The float64 reference of a spec, and how far rounding alone can move each of its leaves.

Noise: the reference again with every input, parameter and cotangent multiplied by (1 + u d), d = +-1 at random, u the unit roundoff of
the cell's dtype. The root mean square over the runs, together with u times the value itself (the result's own rounding), is the noise of
each element: a stochastic estimate of the condition (Monte Carlo arithmetic: Parker 1997; Higham 2002, section 1.6: error ~ condition x backward error).
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_dlparity import casts, draws, param_map, run, tolerance
from pytest_dlparity.casts import Finding
from pytest_dlparity.errors import SpecError
from pytest_dlparity.run import Arrays, Outcome, Prepared
from pytest_dlparity.tolerance import Format

LARGE = 1 << 24  # elements of all parameters: 128 MB in float64
RUNS = 8  # an rms of 8 draws is within a factor 2 of the true one in at least 19 of 20 cases (chi-square with 8 degrees of freedom)
FEW = 3  # over long trajectories, and for a first look: where a leaf has many elements these average where the runs do not
REDRAWS = 8  # three signs stay as they are in one redraw of eight
LONG = 8  # steps from which a trajectory counts as long


@dataclass(frozen=True)
class Noise:
    """What rounding in one format does to each leaf."""

    format: Format
    elements: Arrays  # per element, in the units of the leaf
    flips: Arrays  # non-floating leaves: which elements change under rounding
    still: frozenset[str]  # leaves that no perturbation moved at all

    known: dict[str, float] = field(default_factory=dict)

    def rms(self, name: str) -> float:
        if name not in self.known:
            found = self.elements.get(name)
            self.known[name] = 0.0 if found is None or not found.size else float(np.linalg.norm(found.reshape(-1)) / np.sqrt(found.size))
        return self.known[name]


@dataclass
class Explained:
    """What a failure was found to come from (explain.py), once for all cells."""

    where: Any = None  # a Localization
    causes: tuple[Any, ...] = ()
    trouble: str = ""  # what kept causes from being looked for
    lost: dict[tuple[str, str], Any] = field(default_factory=dict)  # (dtype, side) -> where precision is lost, or None


@dataclass
class Reference:
    """Both sides in float64 on the CPU; noise is measured when a format first needs it."""

    prep: Prepared
    torch: Outcome
    jax: Outcome
    problem: str = ""  # why there is no float64 run, "" when there is one
    dtype: str = "float64"  # what the reference was really run in
    random: bool = False  # the torch side drew random numbers
    states: frozenset[str] = frozenset()
    _ready: Any = None
    _noises: dict[Any, Noise] = field(default_factory=dict)
    _flows: dict[str, Finding | None] = field(default_factory=dict)
    _moving: dict[str | None, frozenset[str]] = field(default_factory=dict)
    _casts: tuple[dict[str, str], dict[str, str]] | None = None
    seconds: float = 0.0  # that the float64 run took, compilation included
    explained: Explained = field(default_factory=lambda: Explained())

    def noise(self, format: Format, of: str = "inputs", accumulated: bool = False, runs: int = RUNS) -> Noise:
        """Noise of one format; `of` the inputs, or also of every operation inside "torch" or "jax".

        `accumulated` lets an optimizer run freely instead of starting each step from the reference state.
        """
        key = (format, of, accumulated, runs)
        if key not in self._noises:
            self._noises[key] = _measured(self, format, of, accumulated, runs)
        return self._noises[key]

    def insides(self, format: Format, accumulated: bool = False, first: Format | None = None) -> Iterator[Noise]:
        """Noise of the operations inside: first a few runs of torch (in the format `first`), which often explain enough; then all of both sides."""
        yield self.noise(first or format, "torch", accumulated, FEW)
        yield self.inside(format, accumulated)

    def inside(self, format: Format, accumulated: bool = False) -> Noise:
        """Noise of the inputs and of every operation inside, on the side where it is the larger, element by element."""
        return _larger(self.noise(format, "torch", accumulated), self.noise(format, "jax", accumulated))

    @property
    def ready(self) -> Any:
        """The torch side as it ran in float64, to run again where a copy would be large; None where a fresh copy is as well."""
        large = sum(array.size for array in self.prep.params.values()) > LARGE
        return self._ready if large and self.dtype == "float64" else None

    @functools.cached_property
    def largest(self) -> float:
        """The largest rms of any leaf of the float64 run."""
        found = [np.abs(a[np.isfinite(a)]) for a in self.torch.leaves.values() if tolerance.is_inexact(a)]
        return max((float(np.sqrt(np.mean(np.square(a)))) for a in found if a.size), default=0.0)

    def cast_apart(self, dtype: str) -> Finding | None:
        """A value that jax rounds to a half precision dtype before use where torch casts up and does not."""
        if dtype not in self._flows:
            self._flows[dtype] = casts.finding(self.prep, dtype) if self.prep.job.kind != "optimizer" else None
        return self._flows[dtype]

    def moves(self, leaf: str) -> bool:
        """Whether other inputs and parameters altogether give this leaf another value."""
        return leaf in self._redrawn(None)

    def depends(self, name: str) -> bool:
        """Whether another value of one input or parameter gives any output another value."""
        return bool(self._redrawn(name))

    def _redrawn(self, name: str | None) -> frozenset[str]:
        if name not in self._moving:
            self._moving[name] = _moving(self, name)
        return self._moving[name]

    def casts(self) -> tuple[dict[str, str], dict[str, str]]:
        """Casts to narrower floats inside the float64 run, per side: dtype -> where. Looked for only when they could explain something."""
        if self._casts is None:
            self._casts = _casts(self)
        return self._casts


def reference(prep: Prepared) -> Reference:
    """Both sides in float64; where that fails but the user's own precision works, the reason is kept and the verdict says so."""
    begun = time.perf_counter()
    try:
        ready = run.torch_ready(prep, "cpu", "float64", False)
        torch_outcome = run.torch_outcome(prep, ready, "cpu", "float64", starts=())
        prep.fixed = torch_outcome.fixed
        prep.shapes = {name: torch_outcome.leaves[name].shape for name in prep.fixed}
        jax_outcome = run.jax_outcome(prep, "cpu", "float64", True)
    except SpecError:
        raise
    except Exception as error:  # noqa: BLE001  the user's code may raise anything; the cell runs it again and shows what it raises there
        return Reference(prep, Outcome({}), Outcome({}), problem=_said(error))
    made = Reference(prep, torch_outcome, jax_outcome, random=torch_outcome.drew, _ready=ready, seconds=time.perf_counter() - begun)
    made.states = changed(prep, torch_outcome, jax_outcome)
    return made


def _said(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)
    mine = [f for f in where if "site-packages" not in f.filename and "pytest_dlparity" not in f.filename]
    place = f" at {mine[-1].filename.rsplit('/', 1)[-1]}:{mine[-1].lineno}" if mine else ""
    return f"{type(error).__name__}{place}: {(str(error).strip().splitlines() or [''])[0]}"


def changed(prep: Prepared, torch: Outcome, jax: Outcome) -> frozenset[str]:
    """States that a side changed: these are leaves, the others are only carried along."""
    return frozenset(
        name
        for side in (torch, jax)
        for name, now in side.leaves.items()
        if name.startswith("state.")
        and _is_compared(prep, name.removeprefix("state."))
        and not _same(now, prep.buffers[name.removeprefix("state.")])
    )


def _is_compared(prep: Prepared, buffer: str) -> bool:
    """Whether a changed buffer must change alike on the jax side: not what only torch counts, nor what the user said has no counterpart."""
    given = prep.spec.param_map or {}
    return buffer in prep.buffers and buffer.rpartition(".")[2] not in param_map.IGNORED and given.get(buffer, "") is not None


def _measured(made: Reference, format: Format, of: str, accumulated: bool, runs: int) -> Noise:
    prep = made.prep
    truth = {name: array for name, array in made.torch.leaves.items() if not name.startswith("state.") or name in made.states}
    if of == "jax":  # around its own float64 run: what it computes may not be what torch computes
        truth = {name: made.jax.leaves[name] for name, array in truth.items() if np.shape(made.jax.leaves.get(name, ())) == array.shape}
    squares = {
        n: np.zeros(a.shape, np.complex128 if a.dtype.kind == "c" else np.float64) for n, a in truth.items() if tolerance.is_inexact(a)
    }
    flips = {name: np.zeros(array.shape, bool) for name, array in truth.items() if name not in squares}
    runs = FEW if prep.job.steps > LONG and prep.job.kind == "model" else runs
    for index in range(runs):
        _add(squares, flips, _moved(made, format, of, accumulated, index), truth)
    still = frozenset(n for n, s in squares.items() if not np.any(s)) | frozenset(n for n, f in flips.items() if not f.any())
    elements = {name: _rms(total, runs, truth[name], format, _operands(prep, truth, name)) for name, total in squares.items()}
    return Noise(format, elements, flips, still)


def _moved(made: Reference, format: Format, of: str, accumulated: bool, index: int) -> Arrays:
    """The leaves of one perturbed run."""
    prep, fed = made.prep, made.prep.job.kind == "optimizer" and not accumulated
    if of == "jax":
        return run.jax_outcome(prep, "cpu", "float64", True, made.jax.starts if fed else (), format.roundoff).leaves
    starts = made.torch.starts if fed else ()
    nudged = functools.partial(run.torch_nudged, prep, made._ready, made.dtype, format.roundoff, prep.seed + 1 + index, starts, of == "torch")
    try:
        return nudged()
    except Exception:  # noqa: BLE001  the program ran without: a number on the bound of what it takes was moved beyond
        return nudged(inward=True)


def _larger(one: Noise, other: Noise) -> Noise:
    """The larger noise of two at each element; where only one knows a leaf, that one's."""
    both = one.elements.keys() & other.elements.keys()
    elements = {**one.elements, **other.elements}
    for name in both:
        a, b = one.elements[name], other.elements[name]
        elements[name] = np.maximum(a.real, b.real) + 1j * np.maximum(a.imag, b.imag) if a.dtype.kind == "c" else np.maximum(a, b)
    flips = {name: flip | other.flips.get(name, False) for name, flip in one.flips.items()}
    return Noise(one.format, elements, flips, one.still & other.still)


def _add(squares: Arrays, flips: Arrays, moved: Arrays, truth: Arrays) -> None:
    """Adds one run's squared deviations, and the places where a non-floating leaf changed."""
    for name, found in moved.items():
        if name in squares and name in truth and found.shape == truth[name].shape:
            with np.errstate(all="ignore"):
                gap = found - truth[name]
                square = np.square(gap) if gap.dtype.kind != "c" else np.square(gap.real) + 1j * np.square(gap.imag)
            squares[name] += np.nan_to_num(square, nan=0.0, posinf=0.0, neginf=0.0)
        elif name in flips and name in truth and found.shape == truth[name].shape:
            flips[name] |= found != truth[name]


def _rms(total: np.ndarray, runs: int, truth: np.ndarray, format: Format, operands: np.ndarray | float) -> np.ndarray:
    """Spread of the runs and the rounding of the result itself (and of the operands of a difference), element by element."""
    with np.errstate(all="ignore"):
        if total.dtype.kind == "c":  # torch and jax round a complex number as a pair, to the size of the whole
            own = np.square(np.maximum(format.roundoff * np.abs(truth), format.tiny))
            return np.nan_to_num(np.sqrt(total.real / runs + own) + 1j * np.sqrt(total.imag / runs + own))
        own = np.square(np.maximum(format.roundoff * np.abs(truth), format.tiny)) + np.square(format.roundoff * operands)
        return np.nan_to_num(np.sqrt(total / runs + own), nan=0.0, posinf=0.0)


def _operands(prep: Prepared, truth: Arrays, name: str) -> np.ndarray | float:
    """An update is the difference of two parameters that were each rounded: their size counts."""
    if not name.startswith("update."):
        return 0.0
    _, step, parameter = name.split(".", 2)
    moved = [truth[f"update.{earlier}.{parameter}"] for earlier in range(1, int(step) + 1)]
    return np.abs(prep.params[parameter] + np.sum(moved, axis=0))


def _moving(made: Reference, name: str | None) -> frozenset[str]:
    """Outputs and states that change when one value (or every value) is replaced by others of its kind."""
    found: frozenset[str] = frozenset()
    asked = {leaf for leaf in made.torch.leaves if leaf.partition(".")[0] in ("output", "loss", "state")}
    for attempt in range(REDRAWS):
        try:
            found |= _moved_by_others(made, name, attempt)
        except Exception:  # noqa: BLE001  inputs that the user never gave may be refused: then nothing was shown to move
            return found
        if asked <= found or (name is not None and found):
            break
    return found


def _moved_by_others(made: Reference, name: str | None, attempt: int) -> frozenset[str]:
    prep = made.prep
    rng = np.random.default_rng([prep.seed, attempt, 1])

    def other(key: str, array: np.ndarray) -> np.ndarray:
        if not array.size or name not in (None, key):
            return array
        draw = {**prep.spec.inputs, **(prep.spec.params or {})}.get(key) if attempt % 2 == 0 or not tolerance.is_inexact(array) else None
        again = tolerance.on_grid(draws.drawn(draw, prep.seed + 1 + attempt, key), prep.grid) if draw is not None else array
        if again.shape == array.shape and not _same(again, array):
            return again
        if array.dtype.kind == "b":
            return ~array
        if array.dtype.kind in "iu":
            return rng.choice(np.unique(array), array.shape)
        return array + (np.sqrt(np.mean(np.abs(array) ** 2)) or 1.0) * rng.standard_normal(array.shape)

    params = {key: other(key, array) for key, array in prep.params.items()}
    inputs = {key: other(key, array) for key, array in prep.inputs.items()}
    batches = [inputs] if prep.job.kind == "model" and prep.job.steps else prep.batches
    moved = replace(prep, params=params, inputs=inputs, batches=batches)
    ready = run.torch_ready(moved, "cpu", made.dtype, False)
    leaves = run.torch_outcome(moved, ready, "cpu", made.dtype).leaves
    return frozenset(
        key
        for key, array in leaves.items()
        if not key.startswith(("grad.", "update.", "loss.")) and key in made.torch.leaves and not _same(array, made.torch.leaves[key])
    )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=tolerance.is_inexact(a))


def _casts(made: Reference) -> tuple[dict[str, str], dict[str, str]]:
    torch_side, jax_side = run.frameworks()
    if made.problem:
        return {}, {}
    watching = torch_side.Casts()
    with watching:
        run.torch_outcome(made.prep, made._ready, "cpu", "float64")
    traced = [trace for key, value in made.prep.compiled.items() if key[2:] == ("float64", True) for trace in value.traces.values()]
    return watching.seen, jax_side.narrow_casts(traced)
