"""Every word a user reads about verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dlparity.compare import STATUSES, Verdict
from pytest_dlparity.errors import ParityError
from pytest_dlparity.matrix import Cell
from pytest_dlparity.spec import Spec
from pytest_dlparity.tolerance import TF32, format_of

SHOWN = 3  # disagreeing leaves in a short message; -vv shows all


@dataclass(frozen=True)
class Report:
    """What was found of one spec in one or several cells. `str()` is what pytest shows."""

    spec: Spec
    cells: tuple[Cell, ...]
    verdicts: tuple[Verdict, ...]
    environment: str = ""
    again: str = ""
    strict: bool = False
    remarks: tuple[str, ...] = ()
    where: Any = None  # a Localization, where one was asked for
    causes: tuple[Any, ...] = ()
    lost: Any = None  # where precision is lost, where that is one operation

    @property
    def ok(self) -> bool:
        """True when every leaf of every cell agrees (or is inconclusive, unless strict); False where nothing was compared."""
        return bool(self.verdicts) and not self.failed

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts that are no pass, worst first."""
        bad = [v for v in self.verdicts if not v.ok or (self.strict and v.status == "inconclusive")]
        return tuple(sorted(bad, key=_badness))

    @property
    def cell(self) -> Cell:
        """The cell of a report of one cell."""
        if len(self.cells) != 1:
            raise ValueError(f"the report has {len(self.cells)} cells. Ask a verdict for its cell: report[name].cell.")
        return self.cells[0]

    def __getitem__(self, name: str) -> Verdict:
        """The verdict of a leaf; the worst of its cells where there are several."""
        found = [v for v in self.verdicts if v.name == name]
        if not found:
            raise KeyError(f"no leaf {name!r}; the leaves are {', '.join(dict.fromkeys(v.name for v in self.verdicts))}")
        return min(found, key=_badness)

    def raise_if_failed(self, every: bool = False) -> None:
        """Raises ParityError with the report when it is no pass; with `every`, the long one."""
        __tracebackhide__ = True
        if not self.ok:
            error = ParityError(self.text(every))
            error.report = self
            raise error

    def __str__(self) -> str:
        return self.text()

    def text(self, every: bool = False) -> str:
        """The message; with `every`, all disagreeing leaves and all that agreed."""
        return "\n".join([headline(self), *_explained(self), *_failures(self, every), *_agreed(self, every), *self.remarks, *_foot(self)])


def headline(report: Report) -> str:
    """The line that says it all."""
    cells = ", ".join(map(str, report.cells))
    failed, count = report.failed, len(report.verdicts)
    if not count:
        return f"{report.spec.name} [{cells}]: nothing was compared"
    if not failed:
        said = [v for v in report.verdicts if v.status == "inconclusive"]
        more = f", {len(said)} inconclusive" if said else ""
        return f"{report.spec.name} [{cells}]: {count - len(said)} of {count} {_leaves(count)} agree{more}{_bits(report)}"
    worst = failed[0]
    at = f" in {worst.cell}" if len(report.cells) > 1 else ""
    return f"{report.spec.name} [{cells}]: {len(failed)} of {count} {_leaves(count)} disagree: {summary(worst)}{at}"


def _leaves(count: int) -> str:
    return "leaf" if count == 1 else "leaves"


def _bits(report: Report) -> str:
    known = [v for v in report.verdicts if v.status == "agree" and math.isfinite(v.bits)]
    if not known:
        return ""
    least = min(known, key=lambda v: v.bits)
    return f" (least: {least.name}, {least.bits:.1f} of {significand(least.cell)} bits)"


def significand(cell: Cell) -> int:
    return format_of(cell.dtype).significand


_FAMILIES = ("output", "loss", "state", "grad", "update")  # what a fault reaches first is said first


def _badness(verdict: Verdict) -> tuple[int, int, int, float]:
    """Sorts verdicts: the graver status, then what comes earlier in a run, then the larger error over its limit."""
    family, *rest = verdict.name.split(".")
    step = int(rest[0]) if family in ("update", "loss") and rest and rest[0].isdecimal() else 0
    beyond = verdict.error / verdict.limit if verdict.limit else math.inf
    return STATUSES.index(verdict.status), step, _FAMILIES.index(family) if family in _FAMILIES else 0, -beyond if beyond == beyond else 0.0


# ---------------------------------------------------------------- a verdict in words


def summary(v: Verdict) -> str:
    """A verdict in half a sentence, for the first line."""
    return _SUMMARIES[v.reason](v) if v.reason else f"{v.name} agrees"


def advice(v: Verdict) -> str:
    """What to look at next."""
    return _ADVICE.get(v.reason, lambda v: "")(v)


_SUMMARIES: dict[str, Callable[[Verdict], str]] = {
    "semantics": lambda v: f"{v.name} differs in float64, the two sides compute different mathematics",
    "unequal64": lambda v: (
        f"{v.name} is unequal in {v.detail[0]} of {v.detail[1]} places in float64, the two sides compute different mathematics"
    ),
    "nonfinite64": lambda v: f"{v.name} is not finite at the same places in float64 ({v.detail[0]} of {v.detail[1]})",
    "nonfinite": lambda v: f"{v.name} is not finite at the same places ({v.detail[0]} of {v.detail[1]})",
    "missing": lambda v: f"only {v.side} returns {v.name}, of shape {v.detail[0]}",
    "shapes": lambda v: f"{v.name} has torch shape {v.detail[0]} and jax shape {v.detail[1]}",
    "classes": lambda v: f"{v.name} is {v.detail[0]} in torch and {v.detail[1]} in jax",
    "precision": lambda v: (
        f"{v.name} is the same mathematics, but in {v.cell.dtype} the {v.side} side is {_times(v)} farther from float64 than rounding explains"
    ),
    "below float64": lambda v: (
        f"{v.name} is the same mathematics, but the {v.side} side casts to {v.detail[0]} ({v.detail[2]})"
        if v.detail
        else f"{v.name} is the same mathematics, but one side's function is less accurate than float64"
    ),
    "overflow": lambda v: f"{v.name} is not finite in {v.detail[0]} of {v.detail[1]} places on both sides where float64 is",
    "accumulated": lambda v: (
        f"{v.name} is right step by step, but over the steps the {v.side} side drifts {v.drift:.3g} x noise from float64, more than rounding explains"
    ),
    "casts": lambda v: (
        f"{v.name} is the same mathematics, but the {v.side} side rounds to {v.cell.dtype} before use ({v.detail[2]}) what torch keeps in float32 "
        f"({v.detail[1]})"
    ),
    "unequal": lambda v: f"{v.name} is unequal in {v.detail[0]} of {v.detail[1]} places where rounding in {v.cell.dtype} changes nothing",
    "tolerance": lambda v: f"{v.name} differs by more than rtol={v.detail[0].rtol:g}, atol={v.detail[0].atol:g}",
    "no float64": lambda v: f"{v.name} agrees as far as {v.cell.dtype} can tell, there is no float64 run to tell more",
    "unsupported": lambda v: f"{v.name} is the same mathematics in float64, and the {v.side} side cannot run it in {v.cell.dtype}",
    "no float64 apart": lambda v: (
        f"{v.name} differs by more than rounding in {v.cell.dtype} explains, and there is no float64 run to say why"
    ),
    "no leaves": lambda v: "nothing was compared (vacuous): neither side returns an array",
    "empty": lambda v: f"{v.name} is vacuous: its shape {v.detail[0]} holds no element",
    "no finite": lambda v: f"{v.name} is vacuous: it is nowhere finite on either side",
    "constant": lambda v: f"{v.name} is vacuous: no input moves it",
    "flat": lambda v: f"{v.name} is vacuous: at these inputs it is {v.detail[0]:g} everywhere, and every gradient is zero",
    "zero gradient": lambda v: (
        f"{v.name} is vacuous: zero everywhere on both sides, and no output depends on {v.name.removeprefix('grad.')}"
    ),
    "zero update": lambda v: f"{v.name} is vacuous: no step changes {v.name.split('.', 2)[2]} on either side",
}

_ADVICE: dict[str, Callable[[Verdict], str]] = {
    "semantics": lambda v: (
        "Rounding cannot do this: look for an epsilon, a default, a reduction, a mask, a layout or a formula that differs."
    ),
    "unequal64": lambda v: "Look at ties, index conventions and integer widths.",
    "nonfinite64": lambda v: "Look at masked rows, log and division of zero, and gradients at zero (where, norm, sqrt).",
    "nonfinite": lambda v: (
        f"float64 is finite there on both sides: look for a value beyond the range of {v.cell.dtype}, or a mask constant of another dtype."
    ),
    "missing": lambda v: f"Return it on both sides, or take it out of the {v.side} side.",
    "shapes": lambda v: "Nothing is broadcast: give both sides the same layout.",
    "classes": lambda v: "Return the same kind of numbers on both sides.",
    "precision": lambda v: "Look for a cast, a TF32 or bfloat16 product, or a difference of large numbers on that side.",
    "below float64": lambda v: "Compute in float64 there, or check in float32, where it makes no difference.",
    "overflow": lambda v: (
        f"Both sides leave the range of {v.cell.dtype} there, or divide by what it rounds to zero: scale, or draw other inputs."
    ),
    "accumulated": lambda v: "Look at the dtype in which that side keeps its state.",
    "casts": lambda v: "Move the cast, so that both sides leave and enter the low precision at the same place.",
    "unequal": lambda v: "Look for a comparison or a rounding that one side does in another dtype.",
    "tolerance": lambda v: 'tolerance="auto" tells whether this is mathematics or rounding.',
    "no float64": lambda v: f"{v.detail[0]}",
    "no float64 apart": lambda v: f"{v.detail[0]}",
    "unsupported": lambda v: f"{v.detail[0]}",
    "no leaves": lambda v: "Return what should be compared.",
    "empty": lambda v: "Give an input of at least one element.",
    "no finite": lambda v: "Look for a mask over everything, or inputs outside the function's domain.",
    "constant": lambda v: "Check that the output depends on the inputs, or leave it out.",
    "flat": lambda v: "Nothing was tested: draw inputs at which it is not constant.",
    "zero gradient": lambda v: "Nothing was tested. Draw inputs at which it has a gradient, or leave the name out of wrt.",
    "zero update": lambda v: "Nothing was tested. Check the learning rate, the schedule's first steps and which parameters are trained.",
}


def _times(v: Verdict) -> str:
    return f"{v.error / v.noise:.3g} x noise" if v.noise and v.detail[1] else f"{v.worst:.3g} x noise at one element"


def numbers(v: Verdict) -> str:
    """Every number that the verdict used."""
    if v.reason == "semantics" and math.isinf(v.detail[0]):
        return f"torch is zero everywhere in float64 and jax is not; error {v.error:.3g}"
    if v.reason == "below float64":
        return f"the sides agree to {v.bits:.1f} of 53 bits"
    if v.reason == "semantics":
        return f"relative difference {v.detail[0]:.3g} in float64 where at most {v.power:.3g} is rounding; error {v.error:.3g}, limit {v.limit:.3g}"
    if v.reason == "tolerance":
        return f"rms difference {v.error:.3g}, worst element {v.worst:.3g} x what is allowed"
    if v.reason in ("precision", "accumulated", "no float64", "no float64 apart"):
        return (
            f"error {v.error:.3g} = {_over(v.error, v.noise)} x noise, limit {_over(v.limit, v.noise)}; worst element {v.worst:.3g} x its noise; "
            f"the sides agree to {v.bits:.1f} of {significand(v.cell)} bits"
        )
    return ""


def _over(value: float, noise: float) -> str:
    return f"{value / noise:.3g}" if noise else "inf"


def place(v: Verdict) -> str:
    """Where the leaves are farthest apart, and the values there."""
    if v.where is None:
        return ""
    torch, jax, truth = v.values
    at = f"at {list(v.where)}" if v.where else "its value"
    said = f"{at}: torch {_value(torch)}, jax {_value(jax)}"
    in_float64 = v.reason in ("semantics", "unequal64", "nonfinite64", "tolerance", "no float64 apart")
    return said if in_float64 else f"{said}, reference {_value(truth)}"


def _value(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, (float, complex)) else str(value)


def notes(v: Verdict) -> str:
    """What is said of a leaf that agrees, but not without reserve."""
    if v.note == "less accurate":
        cause = f" (a cast to {v.detail[0]} on the {v.detail[1]} side, {v.detail[2]})" if v.detail else ""
        return f"{v.name}: one side's float64 is less accurate than float64{cause}: changes below {v.power:.2g} would not be seen"
    if v.note == "cast":
        sides = "both sides cast" if v.detail[1] == "both" else f"the {v.detail[1]} side casts"
        return f"{v.name}: {sides} to {v.detail[0]} inside the float64 run ({v.detail[2]}): changes below {v.power:.2g} would not be seen"
    if v.note == "allowed":
        return f"{v.name}: the sides differ by {v.detail[1]:.3g} in float64, which is other mathematics and which this tolerance allows"
    if v.note == "blind":
        return f"{v.name}: atol={v.detail[0].atol:g} is above the leaf's own size {v.scale:.3g}, so this tolerance is blind here"
    return ""


# ---------------------------------------------------------------- the message


def _failures(report: Report, every: bool) -> list[str]:
    failed = report.failed
    shown = 1 if report.causes or getattr(report.where, "status", "") == "parts" else SHOWN  # a place says more than a third leaf
    lines = []
    for v in failed if every else failed[:shown]:
        at = f" [{v.cell}]" if len(report.cells) > 1 else ""
        said = "" if v is failed[0] else f". {summary(v)}"  # the first line has said it of the worst
        lines.append(f"  {v.name}{at}: {v.status}{said}")
        explained = bool(report.causes) and v.reason == "semantics"
        lines += [f"    {text}" for text in (numbers(v), place(v), "" if explained else advice(v)) if text]
    if len(failed) > shown and not every:
        rest = [v.name for v in failed[shown:]]
        lines.append(f"  and {len(rest)} more: {_some(rest)} (-vv shows all)")
    return lines


def _explained(report: Report) -> list[str]:
    """Why, and where."""
    lines = [f"  where: {report.lost}"] if report.lost is not None else []
    for cause in report.causes:
        lines.append(f"  why: {cause.sentence}")
        if cause.write:
            lines.append(f"    write: {cause.write}")
    if report.where is not None:
        first, *rest = str(report.where).splitlines()
        lines += [f"  where: {first}", *(f"  {line}" for line in rest)]
    return lines


def _agreed(report: Report, every: bool) -> list[str]:
    good = [v for v in report.verdicts if v.status == "agree"]
    unsure = [v for v in report.verdicts if v.status == "inconclusive" and not report.strict]
    lines = []
    for cell in report.cells:
        told = [f"{v.name} ({v.bits:.1f})" if math.isfinite(v.bits) else f"{v.name} (equal)" for v in good if v.cell == cell]
        at = f" [{cell}]" if len(report.cells) > 1 else ""
        if told:
            lines.append(f"  agreed{at}, in bits of {significand(cell)}: {', '.join(told) if every else _some(told)}")
    for v in unsure if every else unsure[:SHOWN]:
        lines.append(f"  {v.name}: inconclusive. " + "; ".join(text for text in (summary(v), numbers(v), advice(v)) if text))
    remarks = [text for text in map(notes, good) if text]
    return lines + [f"  note: {text}" for text in (remarks if every else remarks[:SHOWN])]


def _some(names: Sequence[str], count: int = 6) -> str:
    return ", ".join(names) if len(names) <= count else f"{', '.join(names[:count])} and {len(names) - count} more"


def _foot(report: Report) -> list[str]:
    return [f"  {label}: {text}" for label, text in (("environment", report.environment), ("again", report.again)) if text]


def judged_by(cell: Cell, precision: str, device_kind: str) -> str:
    """What precision="default" meant in a cell.

    >>> judged_by(Cell("cuda", "float32"), "default", "cuda")
    'precision="default": float32 products may run in TF32 there, so the cell is judged by a roundoff of 2^-11.'
    """
    if precision != "default" or cell.dtype not in ("float32", "complex64") or device_kind == "cpu":
        return ""
    format = TF32 if device_kind == "cuda" else format_of("bfloat16")
    name = "TF32" if format is TF32 else format.name
    return f'precision="default": {cell.dtype} products may run in {name} there, so the cell is judged by a roundoff of 2^-{format.significand}.'


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table at the end of a run: spec, cell, leaves, bits, verdict."""
    head = ("spec", "cell", "leaves", "bits", "verdict")
    body = [(str(r["spec"]), str(r["cell"]), str(r["leaves"]), r["bits"], str(r["verdict"])) for r in rows]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)]
