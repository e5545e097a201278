"""Two outcomes and their reference -> a verdict for every leaf. Structure first, then non-finite places, then values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_dlparity import casts, distance, tolerance
from pytest_dlparity.distance import Distance, Index
from pytest_dlparity.matrix import Cell
from pytest_dlparity.reference import Noise, Reference
from pytest_dlparity.run import Arrays, Outcome
from pytest_dlparity.tolerance import Format, Tolerance

# The limits, in units of the leaf's noise. Calibrated: `python benchmarks/calibration.py` (docs/verdicts.md, "Calibration").
RMS = 8.0  # root mean square of the error over that of the noise
WORST = 64.0  # worst element over its own noise
FLOOR = 1 / 16  # of the leaf's rms noise, added to each element's own: one lucky element has no noise of its own
INSIDE = 128.0  # a side whose own operations explain its error may lose this much (7 bits) to the better side or to the inputs' rounding
KINKS = 8  # bits: a trajectory is also held against noise 256 times as large, in which the kinks that rounding crosses are crossed too
# Below this share of a leaf's scale a float64 difference is an inaccurate float64 function, above it other mathematics (docs/verdicts.md, "Three zones")
INACCURATE = 5e-7
GROSS = 1e-6  # of the largest leaf: float64 rounding would have to be amplified 10^10 times to reach it
AMPLIFIED = 512.0  # rounding inside may be this many times one roundoff of the leaf; what goes beyond is a jump, not rounding
GROSS_WITH_CASTS = 1e-2  # the same where a program casts to a narrower float inside its float64 run
STATUSES = ("structure", "nonfinite", "semantics", "precision", "vacuous", "inconclusive", "agree")


@dataclass(frozen=True)
class Verdict:
    """What is said of one leaf in one cell, with every number that was used."""

    name: str
    status: str
    cell: Cell
    bits: float = math.nan  # -log2 of the relative difference of the two sides in the cell
    error: float = math.nan  # rms of the difference that was judged
    noise: float = math.nan  # rms of what rounding explains, in the same place
    limit: float = math.nan  # what `error` was held against
    power: float = math.nan  # smallest relative change that this check would have caught
    scale: float = math.nan  # rms of the reference
    worst: float = math.nan  # largest error of one element over that element's noise
    reason: str = ""  # which rule spoke: what report.py words
    side: str = ""  # the side that it spoke of
    where: Index | None = None
    values: tuple[Any, Any, Any] = (None, None, None)  # torch, jax, reference at `where`
    detail: tuple[Any, ...] = ()  # what the reason's sentence needs besides
    note: str = ""  # said also of a leaf that agrees
    drift: float = math.nan  # optimizers: accumulated error over its noise

    @property
    def ok(self) -> bool:
        return self.status in ("agree", "inconclusive")


def verdicts(cell: Cell, torch: Outcome, jax: Outcome, reference: Reference, tolerated: Tolerance | None, format: Format) -> list[Verdict]:
    """A verdict for every leaf of either side; one `vacuous` verdict where there is none.

    Args:
        tolerated: the conventional tolerance, None for the measured verdict.
        format: the format whose roundoff the cell is judged by.
    """
    mine = {name: array for name, array in torch.leaves.items() if _is_leaf(name, reference)}
    theirs = {name: array for name, array in jax.leaves.items() if _is_leaf(name, reference)}
    names = list(dict.fromkeys((*mine, *theirs)))
    if not names:
        return [Verdict("output", "vacuous", cell, reason="no leaves")]
    broken = {v.name: v for v in structures(cell, mine, theirs, reference)}
    if any(not name.startswith("grad.") for name in broken):  # without the same outputs there is no gradient to compare
        names = [name for name in names if not name.startswith("grad.")]
    return [broken.get(name) or _verdict(name, cell, torch, jax, reference, tolerated, format) for name in names]


def by_float64_alone(cell: Cell, reference: Reference, side: str, error: str, format: Format) -> list[Verdict]:
    """The verdicts of a cell that one framework cannot run: what differs in float64 differs, the rest is inconclusive."""
    names = [name for name in dict.fromkeys((*reference.torch.leaves, *reference.jax.leaves)) if _is_leaf(name, reference)]
    if not names:
        return [Verdict("output", "vacuous", cell, reason="no leaves")]
    told = {name: _compared_in_float64(name, cell, reference, format) for name in names}
    return [
        found if found is not None and found.status != "agree" else Verdict(
            name, "inconclusive", cell, reason="unsupported", side=side, detail=(error,), power=found.power if found is not None else 0.0
        )
        for name, found in told.items()
    ]  # fmt: skip


def _is_leaf(name: str, reference: Reference) -> bool:
    return not name.startswith("state.") or name in reference.states or bool(reference.problem)


def structures(cell: Cell, torch: Arrays, jax: Arrays, reference: Reference) -> Iterable[Verdict]:
    """Leaves that cannot be compared value by value. Nothing is broadcast, nothing zipped short."""
    for name in dict.fromkeys((*torch, *jax)):
        for reason, detail in _obstacle(torch.get(name), jax.get(name)):
            yield Verdict(name, "structure", cell, reason=reason, detail=detail, side="torch" if name in torch else "jax")


def _obstacle(torch: np.ndarray | None, jax: np.ndarray | None) -> list[tuple[str, tuple[Any, ...]]]:
    """What keeps two leaves from being compared.

    >>> _obstacle(np.ones((2, 1)), np.ones((1, 2)))
    [('shapes', ([2, 1], [1, 2]))]
    >>> _obstacle(None, np.ones(1))
    [('missing', ([1],))]
    >>> _obstacle(np.ones(1), np.ones(1, int))
    [('classes', ('floating', 'integer'))]
    >>> _obstacle(np.ones(1, np.float32), np.ones(1))
    []
    """
    if torch is None or jax is None:
        return [("missing", (list((torch if jax is None else jax).shape),))]  # type: ignore[union-attr]  # one of them is there
    if torch.shape != jax.shape:
        return [("shapes", (list(torch.shape), list(jax.shape)))]
    if _class(torch) != _class(jax):
        return [("classes", (_class(torch), _class(jax)))]
    return []


def _class(array: np.ndarray) -> str:
    if tolerance.is_floating(array):
        return "floating"
    return {"c": "complex", "i": "integer", "u": "integer", "b": "boolean"}.get(array.dtype.kind, array.dtype.name)


def _verdict(
    name: str, cell: Cell, torch: Outcome, jax: Outcome, reference: Reference, tolerated: Tolerance | None, format: Format
) -> Verdict:
    t, j = torch.leaves[name], jax.leaves[name]
    if t.size == 0:
        return Verdict(name, "vacuous", cell, reason="empty", detail=(list(t.shape),))
    if reference.problem:
        return _without_float64(name, cell, t, j, reference, tolerated, format)
    if tolerated is not None and tolerance.is_inexact(t):
        places = _nonfinite(name, cell, t, j, reference.torch.leaves.get(name, t), format)
        found = places or _conventional(name, cell, t, j, reference, tolerated, format)
        return found if found.status != "agree" else _vacuous(name, cell, torch, reference, format) or found
    told = _compared_in_float64(name, cell, reference, format)
    if told is not None and told.status in ("structure", "nonfinite", "semantics"):
        return told
    if told is not None and told.note in ("cast", "less accurate") and told.detail[1:2] != ("both",) and format.name == "float64":
        return _below_float64(told, t, j, reference.torch.leaves[name])
    if told is not None and told.note == "cast" and told.detail[1] == "both":
        format = min(format, tolerance.FORMATS[told.detail[0]], key=lambda f: f.significand)  # the cell cannot be more accurate
    if not tolerance.is_inexact(t):
        return _equal(name, cell, t, j, reference, format)
    if (places := _nonfinite(name, cell, t, j, reference.torch.leaves[name], format)) is not None:
        return places
    found = _measured(name, cell, torch, jax, reference, format)
    if found.status != "agree":
        return found
    empty = _vacuous(name, cell, torch, reference, format)
    return empty if empty is not None else _with_note(found, told)


def _below_float64(told: Verdict, t: np.ndarray, j: np.ndarray, truth: np.ndarray) -> Verdict:
    """A float64 cell in which one side does not compute in float64."""
    apart = distance.between(j, t)
    side = told.detail[1] if told.detail else ""
    bits = max(0.0, -math.log2(apart.relative)) if apart.relative else 53.0
    return replace(
        told, status="precision", reason="below float64", side=side, bits=bits, scale=apart.scale, where=apart.where, note="",
        values=_at(apart.where, t, j, truth),
    )  # fmt: skip


def _with_note(found: Verdict, told: Verdict | None) -> Verdict:
    if told is None:
        return found
    return replace(found, note=told.note or found.note, power=told.power, detail=told.detail)


# ---------------------------------------------------------------- float64: the mathematics


def _compared_in_float64(name: str, cell: Cell, reference: Reference, format: Format) -> Verdict | None:
    """The verdict of the float64 runs: `structure`, `nonfinite` or `semantics`, or `agree` with its power (and a note in the middle zone)."""
    t, j = reference.torch.leaves.get(name), reference.jax.leaves.get(name)
    for reason, detail in _obstacle(t, j):
        return Verdict(name, "structure", cell, reason=reason, detail=detail, side="torch" if t is not None else "jax")
    assert t is not None and j is not None
    if not tolerance.is_inexact(t):
        return _unequal(name, cell, t, j)
    gap = distance.between(j, t)
    if gap.apart is not None:
        return Verdict(
            name, "nonfinite", cell, reason="nonfinite64", where=gap.apart, values=_at(gap.apart, t, j, t), detail=(gap.apart_count, t.size)
        )
    if not gap.count:
        return Verdict(name, "vacuous", cell, reason="no finite", power=math.inf)
    noise = reference.noise(format)
    limit = RMS * noise.rms(name) * _to_double(format)
    if gap.rms <= limit:
        return _same_mathematics(name, cell, gap, limit, noise.rms(name) * _to_double(format))
    return _beyond_float64(name, cell, t, j, gap, reference, format)


def _to_double(format: Format) -> float:
    """Noise is proportional to the roundoff: from the cell's format to float64's."""
    return tolerance.FORMATS["float64"].roundoff / format.roundoff


def _same_mathematics(
    name: str, cell: Cell, gap: Distance, limit: float, noise: float, note: str = "", detail: tuple[Any, ...] = ()
) -> Verdict:
    power = limit / gap.scale if gap.scale else math.inf
    return Verdict(name, "agree", cell, error=gap.rms, noise=noise, limit=limit, power=power, note=note, detail=detail)


def _beyond_float64(name: str, cell: Cell, t: np.ndarray, j: np.ndarray, gap: Distance, reference: Reference, format: Format) -> Verdict:
    """The float64 runs differ by more than their inputs' rounding: rounding inside, a less accurate function, a cast, or other mathematics."""
    narrow = reference.casts()
    shared = _shared_casts(narrow)
    limit = 0.0
    if gap.rms <= (GROSS_WITH_CASTS if shared else GROSS) * reference.largest:  # else no rounding inside can explain it: do not measure
        quick = format if format.name == "float32" else tolerance.PROBE  # as linear as the probe, and measured for the cell anyway
        for inside in reference.insides(tolerance.PROBE, first=quick):
            limit = RMS * inside.rms(name) * _to_double(inside.format)
            if gap.rms <= limit:
                return _same_mathematics(name, cell, gap, limit, limit / RMS, "rounding inside")
        for dtype, side, line in shared:
            rounded = reference.inside(tolerance.FORMATS[dtype])
            reach = max(RMS * min(rounded.rms(name), _most(rounded, name, gap.scale, reference.largest)), INACCURATE * gap.scale)
            if gap.rms <= reach and distance.between(j, t, rounded.elements[name], FLOOR * rounded.rms(name)).worst <= WORST:
                return _same_mathematics(name, cell, gap, reach, reach / RMS, "cast", (dtype, side, line))
    single = reference.noise(tolerance.FORMATS["float32"])
    local = distance.between(j, t, single.elements[name], FLOOR * single.rms(name))
    limit = max(limit, INACCURATE * _size(name, gap.scale, reference))
    if gap.rms <= limit and local.worst <= WORST:
        return _same_mathematics(name, cell, gap, limit, limit, "less accurate", _first_cast(narrow))
    bits = -math.log2(gap.relative) if 0 < gap.relative < math.inf else 0.0
    by = gap if gap.rms > limit else local
    return Verdict(
        name, "semantics", cell, bits=max(0.0, bits), error=gap.rms, noise=limit / RMS, limit=limit, power=limit / gap.scale if gap.scale else math.inf,
        scale=gap.scale, worst=local.worst, reason="semantics", where=by.where, values=_at(by.where, t, j, t), detail=(gap.relative, *_first_cast(narrow)),
    )  # fmt: skip


def _size(name: str, scale: float, reference: Reference) -> float:
    """What a leaf's float64 difference is a share of: its rms; of an update the largest of that parameter's, for a schedule may end at zero."""
    if not name.startswith("update."):
        return scale
    parameter = name.split(".", 2)[2]
    every = [array for leaf, array in reference.torch.leaves.items() if leaf.startswith("update.") and leaf.split(".", 2)[2] == parameter]
    return max([scale, *(distance.between(array, array).scale for array in every)])


def _most(noise: Noise, name: str, scale: float, largest: float) -> float:
    """The most that rounding inside may claim: a jump at a floor or a tie is no rounding. Of the leaf, or of the largest where it has no digits."""
    return AMPLIFIED * noise.format.roundoff * (scale if scale > RMS * noise.rms(name) else largest)


def _shared_casts(found: tuple[dict[str, str], dict[str, str]]) -> list[tuple[str, str, str]]:
    """(dtype, side, line) of casts that explain a difference: to float32 on either side, to a narrower format only where both sides cast."""
    single = [("float32", side, seen["float32"]) for side, seen in zip(("torch", "jax"), found, strict=True) if "float32" in seen][:1]
    return single + [
        (dtype, "both", found[0][dtype]) for dtype in found[0] if dtype in found[1] and dtype in tolerance.FORMATS and dtype != "float32"
    ]


def _first_cast(found: tuple[dict[str, str], dict[str, str]]) -> tuple[Any, ...]:
    return next(((dtype, side, line) for side, seen in zip(("torch", "jax"), found, strict=True) for dtype, line in seen.items()), ())


def _unequal(name: str, cell: Cell, t: np.ndarray, j: np.ndarray, reason: str = "unequal64", status: str = "semantics") -> Verdict | None:
    differ = t != j
    if not differ.any():
        return None
    where = tuple(int(i) for i in np.unravel_index(int(differ.argmax()), t.shape)) if t.shape else ()
    return Verdict(
        name, status, cell, bits=0.0, error=float(differ.mean()), noise=0.0, limit=0.0, power=0.0, reason=reason, where=where,
        values=_at(where, t, j, t), detail=(int(differ.sum()), t.size),
    )  # fmt: skip


# ---------------------------------------------------------------- the cell


def _equal(name: str, cell: Cell, t: np.ndarray, j: np.ndarray, reference: Reference, format: Format) -> Verdict:
    """Integers and booleans are equal, except where rounding in the cell's dtype flips the reference too."""
    noise = reference.noise(format)
    flips = noise.flips.get(name, np.zeros(t.shape, bool))
    told = _unequal(name, cell, t, np.where(flips, t, j), "unequal", "precision")
    if told is not None:
        return told
    if _unmoved(name, noise, reference):
        return Verdict(name, "vacuous", cell, reason="constant")
    return Verdict(name, "agree", cell, bits=math.inf, error=0.0, noise=0.0, limit=0.0, power=0.0, note="flips" if (t != j).any() else "")


def _nonfinite(name: str, cell: Cell, t: np.ndarray, j: np.ndarray, truth: np.ndarray, format: Format) -> Verdict | None:
    gap = distance.between(j, t)
    if gap.apart is not None:
        largest = format.largest / (1 + WORST * format.roundoff)
        near = np.abs(truth) >= largest  # overflow is a matter of one rounding there
        apart = distance.between(np.where(near, 0, j), np.where(near, 0, t))
        if apart.apart is not None:
            return Verdict(
                name,
                "nonfinite",
                cell,
                reason="nonfinite",
                where=apart.apart,
                values=_at(apart.apart, t, j, truth),
                detail=(apart.apart_count, t.size),
            )
    lost = ~np.isfinite(t) & np.isfinite(truth) & ~np.isfinite(j)
    if lost.any():
        where = tuple(int(i) for i in np.unravel_index(int(lost.argmax()), t.shape)) if t.shape else ()
        return Verdict(
            name, "precision", cell, reason="overflow", side="both", where=where, values=_at(where, t, j, truth), detail=(int(lost.sum()), t.size)
        )  # fmt: skip
    return Verdict(name, "vacuous", cell, reason="no finite") if not gap.count else None


def _measured(name: str, cell: Cell, torch: Outcome, jax: Outcome, reference: Reference, format: Format) -> Verdict:
    """Each side's error against the reference, held against the noise; what the inputs' rounding does not explain, rounding inside may."""
    truth, noise = reference.torch.leaves[name], reference.noise(format)
    sides = {"torch": torch.leaves[name], "jax": jax.leaves[name]}
    errors = {side: _error(found, truth, noise, name) for side, found in sides.items()}
    apart = distance.between(jax.leaves[name], torch.leaves[name])
    bits = min(format.significand, -math.log2(apart.relative)) if apart.relative else float(format.significand)
    worse = max(errors, key=lambda side: errors[side].rms)
    size, note = noise, ""
    guilty = [side for side, error in errors.items() if not _explained(error, noise, name)]
    if guilty and apart.rms <= RMS * noise.rms(name) and _near(sides, noise, name):
        guilty, note = [], "alike"  # a constant that depends on the dtype, finfo.eps for one, moves both sides by the same amount
    for inside in reference.insides(format) if guilty else ():
        guilty = [side for side in guilty if not _inside(side, sides[side], errors, truth, noise, reference.largest, inside, name)]
        size, note = inside, "rounding inside"
        if not guilty:
            break
    guilty = [side for side in guilty if not _inside_both(sides[side], truth, reference, format, name)]
    if guilty and _steps_before(name, reference):
        wide = reference.noise(_wider(format))
        guilty = [side for side in guilty if not _explained(_error(sides[side], truth, wide, name), wide, name)]
        note = "kinks"
    side = max(guilty, key=lambda s: errors[s].rms, default=worse)
    error = errors[side]
    scale = error.scale
    limit = RMS * (noise if guilty else size).rms(name)
    common: dict[str, Any] = {
        "bits": max(0.0, bits), "error": error.rms, "noise": noise.rms(name), "limit": limit, "scale": scale, "worst": error.worst,
        "power": limit / scale if scale else math.inf, "side": side,
    }  # fmt: skip
    if not guilty and (cast := _cast_apart(cell, reference, apart, format)) is not None:
        where = apart.where
        return Verdict(
            name, "precision", cell, reason="casts", where=where, values=_at(where, sides["torch"], sides["jax"], truth), detail=tuple(cast),
            **{**common, "side": cast.side},
        )  # fmt: skip
    if not guilty:
        return _drifting(name, cell, torch, jax, reference, format, Verdict(name, "agree", cell, note=note, **common))
    where = error.where if error.rms <= limit else distance.between(sides[side], truth).where
    return Verdict(
        name, "precision", cell, reason="precision", where=where, values=_at(where, sides["torch"], sides["jax"], truth),
        detail=(len(guilty), error.rms > limit), **common,
    )  # fmt: skip


def _steps_before(name: str, reference: Reference) -> bool:
    """Whether a leaf comes after earlier steps of a training trajectory, where one ReLU that rounding switches moves all that follow."""
    family, _, rest = name.partition(".")
    step = rest.partition(".")[0]
    return reference.prep.job.kind == "model" and family in ("update", "loss") and step.isdecimal() and int(step) > 1


def _wider(format: Format) -> Format:
    """The format whose rounding is so much larger that the switches of one run show in a few."""
    return Format(f"{format.name} / {2**KINKS}", max(format.significand - KINKS, 4), format.scalar)


def _cast_apart(cell: Cell, reference: Reference, apart: Distance, format: Format) -> casts.Finding | None:
    """In half precision, whether the sides differ by a cast that one of them makes earlier."""
    if cell.dtype not in ("bfloat16", "float16") or apart.rms <= casts.MOVES * format.roundoff * apart.scale:
        return None
    return reference.cast_apart(cell.dtype)


def _near(sides: dict[str, np.ndarray], noise: Noise, name: str) -> bool:
    return distance.between(sides["jax"], sides["torch"], noise.elements[name], FLOOR * noise.rms(name)).worst <= WORST


def _inside(
    side: str, found: np.ndarray, errors: dict[str, Distance], truth: np.ndarray, inputs: Noise, largest: float, inside: Noise, name: str
) -> bool:
    """Whether rounding of the operations inside explains a side's error, and the side does not lose much more than it must."""
    if name not in inside.elements or not _explained(_error(found, truth, inside, name), inside, name):
        return False
    error = errors[side]
    other = max(e.rms for which, e in errors.items() if which != side)
    no_digits = error.scale <= RMS * inside.rms(name) and error.rms <= RMS * _most(inside, name, error.scale, largest)
    return no_digits or error.rms <= INSIDE * max(inputs.rms(name), other)


def _inside_both(found: np.ndarray, truth: np.ndarray, reference: Reference, format: Format, name: str) -> bool:
    """Whether rounding inside either program would explain an error: then no side chose worse operations than the other."""
    noises = [reference.noise(format, of) for of in ("torch", "jax")]
    return all(name in noise.elements and _explained(_error(found, truth, noise, name), noise, name) for noise in noises)


def _drifting(name: str, cell: Cell, torch: Outcome, jax: Outcome, reference: Reference, format: Format, found: Verdict) -> Verdict:
    """Optimizers: the error that the steps accumulate, beside the one that each step introduces."""
    if not (torch.free and jax.free):
        return found
    truth, noise = reference.torch.leaves[name], reference.noise(format, accumulated=True)
    sides = {"torch": torch.free[name], "jax": jax.free[name]}
    drifts = {side: _error(array, truth, noise, name) for side, array in sides.items()}
    side = max(drifts, key=lambda s: drifts[s].rms)
    drift = drifts[side].rms / noise.rms(name) if noise.rms(name) else 0.0 if not drifts[side].rms else math.inf
    guilty = [which for which, error in drifts.items() if not _explained(error, noise, name)]
    if guilty and distance.between(sides["jax"], sides["torch"]).rms <= RMS * noise.rms(name) and _near(sides, noise, name):
        guilty = []
    for inside in reference.insides(format, accumulated=True) if guilty else ():
        guilty = [which for which in guilty if not _inside(which, sides[which], drifts, truth, noise, reference.largest, inside, name)]
        if not guilty:
            break
    if not guilty:
        return replace(found, drift=drift)
    worst = drifts[guilty[0]]
    return replace(
        found, status="precision", reason="accumulated", drift=drift, side=guilty[0], where=worst.where, error=worst.rms, worst=worst.worst,
        values=_at(worst.where, sides["torch"], sides["jax"], truth), noise=noise.rms(name), limit=RMS * noise.rms(name),
    )  # fmt: skip


def _error(found: np.ndarray, truth: np.ndarray, noise: Noise, name: str) -> Distance:
    """A side's distance from the reference; its worst element is the one farthest out of its own noise."""
    return distance.between(found, truth, noise.elements[name], FLOOR * noise.rms(name))


def _explained(error: Distance, noise: Noise, name: str) -> bool:
    return error.rms <= RMS * noise.rms(name) and error.worst <= WORST  # a NaN fails both


def _conventional(
    name: str, cell: Cell, t: np.ndarray, j: np.ndarray, reference: Reference, tolerated: Tolerance, format: Format
) -> Verdict:
    """|torch - jax| <= atol + rtol |jax| element by element, and whether that test could have failed at all."""
    allowed = tolerated.atol + tolerated.rtol * np.abs(j)
    over = distance.between(t, j, allowed)
    plain = distance.between(t, j)
    bits = min(format.significand, -math.log2(plain.relative)) if plain.relative else float(format.significand)
    scale = plain.scale
    common: dict[str, Any] = {
        "bits": max(0.0, bits), "error": plain.rms, "noise": reference.noise(format).rms(name) if not reference.problem else math.nan,
        "limit": tolerated.atol + tolerated.rtol * scale, "scale": scale, "worst": over.worst,
        "power": tolerated.rtol + tolerated.atol / scale if scale else math.inf,
    }  # fmt: skip
    if not over.worst <= 1:
        return Verdict(
            name, "precision", cell, reason="tolerance", where=over.where, values=_at(over.where, t, j, j), detail=(tolerated,), **common
        )
    if tolerated.atol >= scale:
        return Verdict(name, "agree", cell, note="blind", detail=(tolerated,), **common)
    apart = _apart_in_float64(name, reference)
    return Verdict(name, "agree", cell, note="allowed" if apart > INACCURATE else "", detail=(tolerated, apart), **common)


def _apart_in_float64(name: str, reference: Reference) -> float:
    """Relative difference of the float64 runs, 0 where there are none."""
    t, j = reference.torch.leaves.get(name), reference.jax.leaves.get(name)
    return distance.between(j, t).relative if t is not None and j is not None and t.shape == j.shape else 0.0


def _without_float64(
    name: str, cell: Cell, t: np.ndarray, j: np.ndarray, reference: Reference, tolerated: Tolerance | None, format: Format
) -> Verdict:
    """No float64 run: the two sides against each other in the cell, with noise measured in the cell's own dtype."""
    if not tolerance.is_inexact(t):
        return _unequal(name, cell, t, j, "unequal", "precision") or Verdict(
            name, "agree", cell, bits=math.inf, error=0.0, noise=0.0, limit=0.0, power=0.0
        )
    if (places := _nonfinite(name, cell, t, j, t, format)) is not None:
        return places
    if tolerated is not None:
        return _conventional(name, cell, t, j, reference, tolerated, format)
    noise = reference.noise(format)
    gap = distance.between(j, t, noise.elements[name], FLOOR * noise.rms(name))
    limit = 2 * RMS * noise.rms(name)
    common: dict[str, Any] = {
        "bits": max(0.0, min(format.significand, -math.log2(gap.relative)) if gap.relative else float(format.significand)),
        "error": gap.rms, "noise": noise.rms(name), "limit": limit, "scale": gap.scale, "worst": gap.worst,
        "power": limit / gap.scale if gap.scale else math.inf, "detail": (reference.problem,),
    }  # fmt: skip
    if gap.rms <= limit and gap.worst <= 2 * WORST:
        return Verdict(name, "inconclusive", cell, reason="no float64", **common)
    return Verdict(name, "precision", cell, reason="no float64 apart", where=gap.where, values=_at(gap.where, t, j, t), **common)


# ---------------------------------------------------------------- nothing was tested


def _vacuous(name: str, cell: Cell, torch: Outcome, reference: Reference, format: Format) -> Verdict | None:
    """A leaf that would have agreed whatever the two sides compute."""
    if name not in reference.torch.leaves:
        return None
    truth, noise = reference.torch.leaves[name], reference.noise(format)
    if not np.isfinite(truth).any():
        return Verdict(name, "vacuous", cell, reason="no finite")
    if name.startswith(("grad.", "update.")):
        if np.any(truth) or np.any(reference.jax.leaves.get(name, truth)):
            return None
        if name.startswith("update."):  # a schedule may begin at zero: only a parameter that never moves was not tested
            parameter = name.split(".", 2)[2]
            moves = any(np.any(a) for n, a in reference.torch.leaves.items() if n.startswith("update.") and n.split(".", 2)[2] == parameter)
            return None if moves else Verdict(name, "vacuous", cell, reason="zero update")
        return None if reference.depends(name.removeprefix("grad.")) else Verdict(name, "vacuous", cell, reason="zero gradient")
    if _unmoved(name, noise, reference):
        return Verdict(name, "vacuous", cell, reason="constant")
    return Verdict(name, "vacuous", cell, reason="flat", detail=(truth.flat[0].item(),)) if _is_flat(name, truth, noise, reference) else None


def _is_flat(name: str, truth: np.ndarray, noise: Noise, reference: Reference) -> bool:
    """Whether an output is one number at these inputs, which rounding does not move, and no gradient or update says more: a dead ReLU."""
    if name.startswith("state.") or name not in noise.still or np.any(truth != truth.flat[0]) or (truth.size == 1 and np.any(truth)):
        return False
    sides = reference.torch.leaves, reference.jax.leaves
    return not any(np.any(array) for leaves in sides for leaf, array in leaves.items() if leaf.startswith(("grad.", "update.")))


def _unmoved(name: str, noise: Noise, reference: Reference) -> bool:
    return name in noise.still and not reference.moves(name)


def _at(where: Index | None, *arrays: np.ndarray) -> tuple[Any, Any, Any]:
    found = tuple(array[where].item() if where is not None and array.size else None for array in arrays)
    return found  # type: ignore[return-value]  # three arrays in, three values out
