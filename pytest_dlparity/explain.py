"""After a failure: where the two sides part, and why where the cause has a name. Once per spec; a passing spec never comes here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_dlparity import diagnose, locate, precise
from pytest_dlparity.compare import Verdict
from pytest_dlparity.precise import Lost
from pytest_dlparity.reference import Reference
from pytest_dlparity.report import Report

PATIENCE = 2.0  # seconds before a line says what is being done
TRACES = 4  # runs of the float64 reference that two traces and a second look take, about
DEADLINE = 8.0  # seconds in which causes are looked for: those near the place come first

Say = Callable[[str], None]


def explained(report: Report, truth: Reference, wanted: str = "auto", say: Say | None = None) -> Report:
    """The report with what is known of where and why; the same report where nothing is asked for or nothing failed.

    A difference in float64 has a place and, if it has a name, a cause; a loss of precision has the operation at which it happens.
    """
    apart = [v for v in report.failed if v.reason in ("semantics", "unequal64", "nonfinite64")]
    slips = [v for v in report.failed if v.reason == "precision"]
    if wanted == "off" or not (apart or slips or wanted == "always"):
        return report
    patience = _Patience(report.spec.name, say)
    if slips and not apart:
        return replace(report, lost=_lost(truth, slips[0], patience))
    if truth.explained.where is None:
        _explain(truth, apart, patience, wanted == "always")
    found = truth.explained
    notes = (f"  note: the cause could not be looked for: {found.trouble}",) if found.trouble else ()
    return replace(report, where=found.where, causes=found.causes, remarks=(*report.remarks, *notes))


def _lost(truth: Reference, verdict: Verdict, patience: _Patience) -> Lost | None:
    key = verdict.cell.dtype, verdict.side
    if key not in truth.explained.lost:
        patience.expects(truth.seconds * TRACES, "looking for where precision is lost")
        truth.explained.lost[key] = precise.lost(truth.prep, truth, *key, verdict.name)
    return truth.explained.lost[key]


def _explain(truth: Reference, apart: Sequence[Verdict], patience: _Patience, always: bool) -> None:
    found = truth.explained
    patience.expects(truth.seconds * TRACES, "looking for where the two sides part")
    found.where = locate.located(truth.prep, truth, list(dict.fromkeys(v.name for v in apart)), always)
    patience.expects(0.0, "looking for the cause")
    try:
        found.causes = tuple(diagnose.causes(truth.prep, truth, DEADLINE, found.where)) if apart else ()
    except Exception as error:  # noqa: BLE001  the verdict stands without its cause
        found.trouble = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class _Patience:
    """Says what is being done when it takes longer than a person waits in silence. Before a stage, not during: a line may not come from a thread."""

    def __init__(self, name: str, say: Say | None) -> None:
        self.name, self.say, self.begun = name, say, time.perf_counter()

    def expects(self, seconds: float, text: str) -> None:
        if self.say is not None and time.perf_counter() - self.begun + seconds > PATIENCE:
            self.say(f"dlparity: {self.name}: {text} ...")


