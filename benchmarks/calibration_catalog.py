"""How far the right pairs of the catalogue stay below the limits of a verdict, and how far its mutants lie above: a part of docs/verdicts.md.

    python benchmarks/calibration_catalog.py                       all entries, 20 seeds, three dtypes, every mutant: about 50 minutes on two cores
    python benchmarks/calibration_catalog.py --every 25 --seeds 2  a part of it, on the screen only; as is --only relu,gelu
    python benchmarks/calibration_catalog.py --render              writes the table and the figure from the figures that are stored

The right pairs are the entries of pytest_dlparity/catalog/, over their cases and edges, each with the numbers of every seed; the faults are made of
their code (pytest_dlparity/catalog/mutations.py). A case that fails is a false alarm, a mutant that changes the mathematics and agrees is a miss: each
is printed, and the exit status is 1. What an entry gave is kept in --keep as soon as it is there, and a run that was broken off goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_dlparity.compare import RMS, WORST

ROOT = Path(__file__).parent.parent
STORED = Path(__file__).parent / "results" / "calibration-cpu.json"
PAGE = ROOT / "docs" / "verdicts.md"
FIGURE = ROOT / "docs" / "calibration.svg"
KEPT = ROOT / ".calibration.jsonl"
BEGIN, END = "<!-- calibration of the catalogue: begin -->\n", "<!-- calibration of the catalogue: end -->\n"
DTYPES = ("float32", "bfloat16", "float16")
SEEDS = 20
MEASURES = {"rms": RMS, "worst": WORST}  # what is held against a limit, and the limit
EDGES = np.arange(-4, 8.01, 0.1)  # of the stored histograms: log10 of how many times the limit

# ---------------------------------------------------------------- measuring, in a process of its own


def ready() -> None:
    import torch

    torch.set_num_threads(1)


def measured(name: str, seeds: int, faults: bool) -> dict[str, Any]:
    """All that one entry gave."""
    from pytest_dlparity.catalog import jax_side, judge, mutations, specs
    from pytest_dlparity.matrix import Cell

    entry = specs.entries()[name]
    first = judge.Course(dtypes=DTYPES, kept=math.inf)
    found: dict[str, Any] = {
        "entry": name,
        "equivalents": len(entry.jax),
        "alarms": [],
        "trials": [],
        "dtypes": {dtype: {"statuses": dict.fromkeys(judge.STATUSES, 0), "rms": [], "worst": [], "inside": 0} for dtype in DTYPES},
    }
    for library, seed, dtype in itertools.product(entry.jax, range(seeds), DTYPES):
        here, course = found["dtypes"][dtype], first.at(seed, [dtype])  # a matrix of one dtype: its numbers have all their bits
        for one in judge.cases(entry, library, Cell("cpu", dtype), course):
            here["statuses"][one.status] += 1
            if one.status == judge.FAILED:
                found["alarms"].append(f"{one.entry.name} [{library}, {one.case}], seed {seed}, {dtype}: {one.says}")
            for v in one.report.verdicts if one.report is not None else ():
                if v.status == "agree" and v.noise and math.isfinite(v.error / v.noise) and math.isfinite(v.worst):
                    here["rms"].append(rounded(v.error / v.noise))
                    here["worst"].append(rounded(v.worst))
                    here["inside"] += v.error > RMS * v.noise or v.worst > WORST
    if faults:
        found["trials"] = [
            (library, trial.mutant.name, trial.mutant.code, trial.outcome, trial.change, trial.margin)
            for library in entry.jax
            for trial in mutations.trials(entry, library)
        ]
    jax_side.forget()
    return found


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def gathered(names: Sequence[str], seeds: int, faults: bool, jobs: int, keep: Path) -> list[dict[str, Any]]:
    """What every entry gave, from `keep` where it is there already."""
    lines = [json.loads(line) for line in keep.read_text().splitlines()] if keep.exists() else []
    if lines and lines[0] != [seeds, faults]:
        raise SystemExit(f"{keep} is of another run: {lines[0][0]} seeds, mutants {lines[0][1]}. Delete it, or give another --keep.")
    known = {one["entry"]: one for one in lines[1:]}
    wanted = [name for name in names if name not in known]
    with keep.open("a") as file:
        if not lines:
            print(json.dumps([seeds, faults]), file=file, flush=True)
        # a new process after some entries: what XLA compiled is never given back whole
        with multiprocessing.get_context("spawn").Pool(jobs, ready, maxtasksperchild=40) as pool:
            found = pool.imap_unordered(functools.partial(measured, seeds=seeds, faults=faults), wanted)
            for count, one in enumerate(found, 1):
                known[one["entry"]] = one
                print(json.dumps(one), file=file, flush=True)
                print(f"{count} of {len(wanted)}: {one['entry']}", file=sys.stderr)
    return [known[name] for name in names]


# ---------------------------------------------------------------- what it comes to


def summary(found: Sequence[dict[str, Any]], seeds: int) -> dict[str, Any]:
    """The figures that are stored."""
    import jax
    import torch

    trials = [trial for one in found for trial in one["trials"]]
    return {
        "setup": {
            "torch": torch.__version__, "jax": jax.__version__, "device": "CPU", "seeds": seeds, "entries": len(found),
            "equivalents": sum(one["equivalents"] for one in found),
        },
        "dtypes": {dtype: of_dtype(dtype, found) for dtype in DTYPES},
        "mutants": mutants(trials),
        "margins": histogram([margin for *_, margin in trials if math.isfinite(margin)]),
        "alarms": [alarm for one in found for alarm in one["alarms"]],
        "misses": [f"{one['entry']} [{t[0]}], {t[1]}: {t[2]}" for one in found for t in one["trials"] if t[3] == "missed"],
    }  # fmt: skip


def of_dtype(dtype: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    here = [one["dtypes"][dtype] for one in found]
    made: dict[str, Any] = {
        "statuses": {status: sum(one["statuses"][status] for one in here) for status in here[0]["statuses"]},
        "leaves": sum(len(one["rms"]) for one in here),
        "inside": sum(one["inside"] for one in here),
    }
    for measure, limit in MEASURES.items():
        values = np.array([value for one in here for value in one[measure]])
        made[measure] = [rounded(value) for value in np.quantile(values, [0.5, 0.99, 0.999])] if values.size else []
        made[f"{measure} histogram"] = histogram(values / limit)
    return made


def histogram(values: Iterable[float]) -> list[int]:
    """How many of some numbers lie in each bin of EDGES; below the first and beyond the last they count in those."""
    with np.errstate(divide="ignore"):
        logs = np.log10(np.asarray(list(values), float))
    return np.histogram(np.clip(logs, EDGES[0], EDGES[-1] - 1e-9), EDGES)[0].tolist()


def mutants(trials: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """By what is wrong: how many were caught, refused, missed or no fault, and the smallest margin."""
    rows = []
    for name in sorted({trial[1] for trial in trials}):
        here = [trial for trial in trials if trial[1] == name]
        margins = [trial[5] for trial in here if math.isfinite(trial[5])]
        rows.append([name, *(sum(t[3] == outcome for t in here) for outcome in OUTCOMES), rounded(min(margins)) if margins else None])
    return rows


OUTCOMES = ("caught", "refused", "missed", "the same")

# ---------------------------------------------------------------- the page and the figure


def section(stored: dict[str, Any]) -> str:
    """The part of docs/verdicts.md between its two marks."""
    setup, rows = stored["setup"], stored["mutants"]
    counts = dict(zip(OUTCOMES, (sum(row[index] for row in rows) for index in range(1, 5)), strict=True))
    changing = counts["caught"] + counts["refused"] + counts["missed"]
    fewer = "" if setup["seeds"] == SEEDS else f" --seeds {setup['seeds']}"
    printed = (
        f"Printed by `python benchmarks/calibration_catalog.py{fewer}`: "
        f"{setup['entries']} entries, {setup['equivalents']} equivalents, {setup['seeds']} seeds, "
        f"torch {setup['torch']}, jax {setup['jax']}, {setup['device']}."
    )
    bars = (
        "![Error of right pairs and margin of mutants, in times the limit](calibration.svg)\n\nEvery leaf of every case, in times the limit: "
        "the error over the noise of the inputs is held against 8, the worst element over its own against 64. Leaves to the right of 1 were "
        "explained by rounding inside. Below, the mutants: how many times its limit the clearest difference is."
    )
    score = (
        f"Score: {counts['caught'] + counts['refused']} of {changing} mutants that change the mathematics did not pass; {counts['the same']} change "
        "nothing. Mutants are made of the jax code of each equivalent by changing one place of it, and run until a case tells. `caught`: a leaf "
        "differs. `refused`: it cannot be run, or the parameters no longer fit. `no change`: in float64 every leaf is that of the right code to a "
        "relative 2e-06, so there is nothing to catch. `margin`: how many times its limit the clearest difference is, where it has a size."
    )
    parts = [
        textwrap.fill(printed, 150),
        table(CASES, [case_row(dtype, stored["dtypes"][dtype]) for dtype in DTYPES]),
        "\n\n".join(textwrap.fill(part, 150) for part in bars.split("\n\n")),
        table(MUTANTS, [[*map(str, row[:5]), "" if row[5] is None else f"{row[5]:.2g}"] for row in grouped(rows)]),
        textwrap.fill(score, 150),
    ]
    return "\n\n".join(parts) + "\n"


def grouped(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """The rows of mutants with every argument that was left out in one, and every flag that was turned."""
    found: dict[str, list[Any]] = {}
    for name, *counts, margin in rows:
        kind = "an argument left to its default" if name.startswith("default ") else "a flag the other way" if name.endswith("way") else name
        known = found.setdefault(kind, [kind, 0, 0, 0, 0, None])
        known[1:5] = [a + b for a, b in zip(known[1:5], counts, strict=True)]
        known[5] = min((m for m in (known[5], margin) if m is not None), default=None)
    return [found[kind] for kind in sorted(found)]


def case_row(dtype: str, here: dict[str, Any]) -> list[str]:
    statuses = here["statuses"]
    spread = [", ".join(f"{value:.2g}" for value in here[measure]) for measure in MEASURES]
    counts = (statuses["differs as written"], statuses["skipped"], statuses["failed"])
    inside = f"{here['inside']} ({here['inside'] / max(here['leaves'], 1):.1%})"
    return [dtype, str(sum(statuses.values())), str(here["leaves"]), *spread, inside, *map(str, counts)]


CASES = [
    "dtype", "cases", "leaves that agree", f"error / noise (rms; limit {RMS:g}): median, 99 %, 99.9 %",
    f"worst element / its noise (limit {WORST:g}): median, 99 %, 99.9 %", "needed rounding inside", "differ as written",
    "skipped", "false alarms",
]  # fmt: skip
MUTANTS = ["what is wrong", "caught", "refused", "missed", "no change of the mathematics", "smallest margin"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(row: Sequence[str]) -> str:
        return f"| {' | '.join(row)} |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def drawn(stored: dict[str, Any]) -> None:
    """The figure, with the digest of the figures it shows."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "calibration", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    panes, axes = plt.subplots(len(DTYPES) + 1, 1, sharex=True, figsize=(8, 7), layout="constrained")
    left, right = 10.0 ** EDGES[:-1], 10.0 ** EDGES[1:]
    for axis, dtype in zip(axes, DTYPES, strict=False):
        here = stored["dtypes"][dtype]
        axis.bar(left, here["rms histogram"], right - left, align="edge", color="#4878a8", label="error of the leaf / (8 noise)")
        axis.stairs(here["worst histogram"], 10.0**EDGES, color="#c06030", label="worst element / (64 its noise)")
        axis.set_ylabel(f"{dtype}\nleaves")
    axes[0].legend(frameon=False, loc="upper right")
    axes[-1].bar(left, stored["margins"], right - left, align="edge", color="#888888")
    axes[-1].set_ylabel("mutants\nfloat32")
    axes[-1].set_xlabel("times the limit")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("symlog", linthresh=1)
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
    panes.savefig(FIGURE, metadata={"Date": None, "Creator": None, "Description": digest(stored)})
    plt.close(panes)
    FIGURE.write_text("\n".join(line.rstrip() for line in FIGURE.read_text().splitlines()) + "\n")


def digest(stored: dict[str, Any]) -> str:
    return f"calibration-cpu.json {hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]}"


def parts(page: str) -> tuple[str, str, str]:
    """A page before, between and after the two marks."""
    before, _, rest = page.partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside, after


def render(stored: dict[str, Any]) -> None:
    before, _, after = parts(PAGE.read_text())
    PAGE.write_text(f"{before}{BEGIN}\n{section(stored)}\n{END}{after}")
    drawn(stored)


def wrong(stored: dict[str, Any]) -> Iterator[str]:
    yield from (f"false alarm: {alarm}" for alarm in stored["alarms"])
    yield from (f"miss: {miss}" for miss in stored["misses"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--every", type=int, default=1, help="each n-th entry; the figures are then not stored")
    parser.add_argument("--only", default="", help="these entries; the figures are then not stored")
    parser.add_argument("--no-mutants", action="store_true", help="the right pairs alone; the figures are then not stored")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--keep", type=Path, default=KEPT, help="what each entry gave, for a run that goes on")
    parser.add_argument("--render", action="store_true", help="only the page and the figure, from the stored figures")
    given = parser.parse_args()
    if given.render:
        render(json.loads(STORED.read_text()))
        return 0
    from pytest_dlparity.catalog import specs

    known = list(specs.entries())
    names = given.only.split(",") if given.only else known[:: given.every]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only names {', '.join(unknown)}, and the catalogue has no such entry.")
    stored = summary(gathered(names, given.seeds, not given.no_mutants, given.jobs, given.keep), given.seeds)
    if given.every == 1 and not given.only and not given.no_mutants:
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
        render(stored)
    print(section(stored))
    for text in wrong(stored):
        print(text, file=sys.stderr)
    return int(any(True for _ in wrong(stored)))


if __name__ == "__main__":
    sys.exit(main())
