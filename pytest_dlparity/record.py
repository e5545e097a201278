"""What a machine reads of a report: plain rows for JSON, JUnit properties and the table at the end of a run."""

from __future__ import annotations

import math
from typing import Any

from pytest_dlparity.report import Report, significand

Row = dict[str, Any]


def row(report: Report, nodeid: str) -> Row:
    """A report as plain numbers and strings: it travels between processes and into JSON.

    Non-finite numbers become None, which JSON has a word for.
    """
    verdicts = [leaf(v) for v in report.verdicts]
    bits = [v["bits"] for v in verdicts if v["bits"] is not None and v["status"] != "structure"]
    cells = ",".join(map(str, report.cells))
    return {
        "nodeid": nodeid,
        "spec": report.spec.name,
        "kind": report.spec.kind,
        "cell": cells,
        "devices": sorted({cell.device for cell in report.cells}),
        "ok": report.ok,
        "leaves": len(verdicts),
        "bits": f"{min(bits):.1f} of {significand(report.cells[0])}" if bits else "-",
        "verdict": report.failed[0].status if report.failed else "inconclusive" if _unsure(report) else "agree",
        "environment": report.environment,
        "verdicts": verdicts,
    }


def _unsure(report: Report) -> bool:
    return any(v.status == "inconclusive" for v in report.verdicts)


def leaf(verdict: Any) -> Row:
    """One verdict as plain numbers."""
    numbers = {name: _plain(getattr(verdict, name)) for name in ("bits", "error", "noise", "limit", "power", "scale", "worst", "drift")}
    return {
        "name": verdict.name,
        "status": verdict.status,
        "cell": str(verdict.cell),
        "reason": verdict.reason,
        "side": verdict.side,
        **numbers,
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def properties(one: Row) -> list[tuple[str, str]]:
    """JUnit properties: few and short."""
    return [
        ("dlparity.cell", one["cell"]),
        ("dlparity.verdict", one["verdict"]),
        ("dlparity.bits", one["bits"]),
        ("dlparity.leaves", str(one["leaves"])),
    ]
