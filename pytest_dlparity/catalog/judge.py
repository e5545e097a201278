"""An entry, a library, a case and a cell -> agrees, differs as written, failed or skipped."""

from __future__ import annotations

import math
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_dlparity import explain, matrix, parity
from pytest_dlparity.catalog import code, specs
from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.compare import Verdict
from pytest_dlparity.errors import SpecError
from pytest_dlparity.matrix import Cell, Device
from pytest_dlparity.report import Report

AGREES, DIFFERS, FAILED, SKIPPED = STATUSES = ("agrees", "differs as written", "failed", "skipped")
EQUAL = ("no finite", "constant", "flat", "zero gradient", "zero update")  # what an edge may be: the same on both sides, and nothing that moves
NEAR = 1e-2  # relative: the number of a Difference is written with two digits, and bfloat16 has as many
REST = 100  # cases after which jax's compiled programs are forgotten: some of them serve the next case again
KEPT = 8  # references held for the other cells of an entry


@dataclass(frozen=True)
class Found:
    """What was found of one case in one library and one cell."""

    entry: Entry
    library: str
    case: str
    cell: Cell
    status: str
    says: str = ""  # why it failed or was skipped, or which differences it has
    report: Report | None = None
    lost: str = ""  # why a reproducer that was asked for could not be written

    def __str__(self) -> str:
        return f"{self.entry.name} [{self.library}, {self.case}, {self.cell}] {self.status}" + (f": {self.says}" if self.says else "")


@dataclass
class Course:
    """What is the same for all that runs together, and the references that the cells of one case share.

    Args:
        dtypes: of the whole matrix, so that every cell sees the same numbers.
        localize: as in check(): looks for where and why only after a failure.
        reproduce: the folder into which a reproducer of each failure goes, "" for none.
        kept: how many references are held.
        first: a course of the same cases at another seed or in other dtypes, which holds its references: what was compiled there serves again.
    """

    devices: Mapping[str, Device] = field(default_factory=matrix.devices)
    dtypes: Sequence[str] = ("float32",)
    seed: int = 0
    tolerance: Any = "auto"
    strict: bool = False
    localize: str = "off"
    reproduce: str = ""
    kept: float = KEPT
    first: Course | None = None
    _begun: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    _count: int = 0

    def begun(self, entry: Entry, library: str, case: str) -> Any:
        key = entry.name, library, case
        if key not in self._begun:
            self._begun[key] = self._made(entry, library, case)
            while len(self._begun) > self.kept:
                self._begun.popitem(last=False)
            self._count += 1
            if self._count % REST == 0:
                from pytest_dlparity.catalog import jax_side

                jax_side.forget()
        return self._begun[key]

    def _made(self, entry: Entry, library: str, case: str) -> Any:
        dtypes = [dtype for dtype in self.dtypes if not entry.dtypes or dtype in entry.dtypes]  # the others do not coarsen its inputs
        before = self.first.begun(entry, library, case) if self.first is not None else None
        if before is not None and not before.prep.spec.shared_randomness:  # which pairs the draws of one seed
            return parity.reseeded(before, specs.torch_side_of(entry, specs.equivalent(entry, library), self.seed), self.seed, dtypes)
        return parity.begun(specs.spec(entry, library, case, self.seed), self.seed, dtypes)

    def at(self, seed: int, dtypes: Sequence[str]) -> Course:
        """The same at another seed, in another matrix."""
        return replace(self, seed=seed, dtypes=dtypes, first=self, kept=KEPT, _begun=OrderedDict(), _count=0)


def check(
    wanted: Entry | str | Iterable[Entry | str],
    libraries: Iterable[str] | None = None,
    devices: Iterable[str] | str = "auto",
    dtypes: Iterable[str] | str = ("float32",),
    modes: Iterable[str] | str = ("eager",),
    *,
    seed: int = 0,
) -> list[Found]:
    """Runs entries, or one, in all their libraries or in some, over all cases and cells.

    Raises:
        SpecError: there is no such entry.
    """
    named = [wanted] if isinstance(wanted, (Entry, str)) else list(wanted)
    cells = matrix.cells(devices, dtypes, modes)
    course = Course(dtypes=list(dict.fromkeys(cell.dtype for cell in cells)), seed=seed)
    return [
        found
        for entry in map(_entry, named)
        for library in (entry.jax if libraries is None else libraries)
        for cell in cells
        for found in cases(entry, library, cell, course)
    ]


def _entry(wanted: Entry | str) -> Entry:
    if isinstance(wanted, Entry):
        return wanted
    known = specs.entries()
    if wanted not in known:
        raise SpecError(f"the catalogue has no entry {wanted!r}. Its entries are {', '.join(known)}.")
    return known[wanted]


def cases(entry: Entry, library: str, cell: Cell, course: Course) -> Iterator[Found]:
    """What is found of every case of an entry in one library and one cell. An error of the entry's own code is a failure, in words."""
    way = specs.equivalent(entry, library)
    obstacle = _obstacle(entry, way, cell, course.devices[cell.device])
    for case in specs.cases(entry, way):
        if obstacle:
            yield Found(entry, library, case, cell, SKIPPED, obstacle)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a library's advice is no verdict, also where warnings are errors
                yield _one(entry, way, library, case, cell, course)
        except Exception as error:  # noqa: BLE001  the other cases still run
            told = "".join(traceback.format_exception(error)[-3:])
            yield Found(entry, library, case, cell, FAILED, f"it could not be run.\n{told}")


def _obstacle(entry: Entry, way: Equivalent, cell: Cell, device: Device) -> str:
    """Why an equivalent cannot be run here, "" where it can."""
    if entry.dtypes and cell.dtype not in entry.dtypes:
        return f"it is for {', '.join(entry.dtypes)}"
    return code.lacking(entry.torch) or code.lacking(way.code) or parity.unavailable(device)


def _one(entry: Entry, way: Equivalent, library: str, case: str, cell: Cell, course: Course) -> Found:
    ready = course.begun(entry, library, case)
    again = f'pytest --dlparity-catalog -k "{entry.name}[{library}-{cell}]" --dlparity-dtypes={",".join(course.dtypes)}'
    again += f" --dlparity-seed={course.seed}" if course.seed else ""
    given = parity.in_cell(ready, cell, course.devices[cell.device], course.tolerance, course.strict, again)
    known = [d for d in way.differs if d.case == case and (not d.dtypes or cell.dtype in d.dtypes)]
    status, says, wrong = verdict(given, known, case in entry.edges)
    lost = ""
    if wrong is not None:
        wrong = explain.explained(wrong, ready.reference, course.localize)
        if course.reproduce:
            from pytest_dlparity import reproducer

            wrong, lost = reproducer.noted(wrong, ready, course.reproduce, f"{entry.name}[{library}-{case}-{cell}]")
        says = str(wrong)
    return Found(entry, library, case, cell, status, says, given, lost)


def verdict(given: Report, known: Sequence[Difference], is_edge: bool = False) -> tuple[str, str, Report | None]:
    """(status, why, the report of what should agree and does not).

    Args:
        known: the differences of this case in this dtype.
        is_edge: at an edge both sides may be constant, zero or nowhere finite, if they are so alike.
    """
    refused = [v for v in given.verdicts if v.reason == "unsupported"]
    if refused and len(refused) == len(given.verdicts):
        return SKIPPED, f"{refused[0].side} cannot run it in {refused[0].cell.dtype}: {refused[0].detail[0]}", None
    named = {d.leaf for d in known}
    wrong = [v for v in given.failed if v.name not in named and not (is_edge and v.reason in EQUAL)]
    if wrong or not given.verdicts:
        rest = [v for v in given.verdicts if v in wrong or v.ok]
        return FAILED, "", replace(given, verdicts=tuple(rest))
    if lost := [text for d in known if (text := _lost(given, d, is_edge))]:
        return FAILED, "\n".join(lost), None
    return (DIFFERS, "; ".join(f"{d.leaf}: {d.says}" for d in known), None) if known else (AGREES, "", None)


def _lost(given: Report, known: Difference, is_edge: bool) -> str:
    """What is no longer as a Difference says, "" where it is."""
    names = [v.name for v in given.verdicts]
    if known.leaf not in names:
        return f"{given.spec.name}: there is no leaf {known.leaf}, of which the catalogue says {known.says!r}. The leaves are {', '.join(names)}."
    v = given[known.leaf]
    if v.status == "agree" or (is_edge and v.reason in EQUAL):
        return (
            f"{given.spec.name} in {v.cell}: {known.leaf} agrees, although the catalogue says {known.says!r}. "
            "The difference has disappeared: take it out of the entry."
        )
    for side, wanted, value in zip(("torch", "jax"), (known.torch, known.jax), v.values, strict=False):
        if wanted is not None and v.status != "inconclusive" and not _near(wanted, value):
            return (
                f"{given.spec.name} in {v.cell}: {known.leaf} differs, but not as written: {side} gives {_said(v, value)} "
                f"where the catalogue says {wanted:g}. It says {known.says!r}."
            )
    return ""


def _near(wanted: float, value: Any) -> bool:
    if value is None:
        return False
    value = float(value)
    if math.isnan(wanted) or math.isinf(wanted):
        return value == wanted or (math.isnan(wanted) and math.isnan(value))
    return math.isclose(wanted, value, rel_tol=NEAR, abs_tol=1e-6)


def _said(v: Verdict, value: Any) -> str:
    if value is None:
        return "no number"
    at = f" at {list(v.where)}" if v.where else ""
    return f"{float(value):.9g}{at}"
