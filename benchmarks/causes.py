"""Which wrong ports get their true cause named, and whether any gets a wrong one.

    python benchmarks/causes.py                       # planted faults of benchmarks/cause_cases.py
    python benchmarks/causes.py --cases PATH          # a folder with cases.py: CASES of torch, jax_good, jax_bad, params, inputs, diff_wrt

A planted fault is right when the sentence says what the case expects. Of other cases the sentences are printed to be read, and no cause may be
named of a `jax_good` (it is asked for only where the check fails).

Exit status 1 for a wrong cause, for one named of a right port, or where fewer than --least of the faults are named.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import pytest_dlparity as dlp
from pytest_dlparity import diagnose, run
from pytest_dlparity.reference import reference

LEAST = 0.7  # of the faults


class Found(NamedTuple):
    """What was said of one case."""

    id: str
    status: str  # "named", "none", "wrong", "read": named, to be judged by a person
    seconds: float
    sentences: list[str]


def main() -> int:
    arg = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arg.add_argument("--cases", type=Path, help="folder with cases.py")
    arg.add_argument("--only", default="", help="part of a case's name")
    arg.add_argument("--deadline", type=float, default=10.0, help="seconds for a case")
    arg.add_argument("--least", type=float, default=LEAST, help="share of the faults that must be named")
    arg.add_argument("--seed", type=int, default=0)
    given = arg.parse_args()
    warnings.simplefilter("ignore")  # of the frameworks, about their own defaults
    rows = []
    for row in planted(given) if given.cases is None else documented(given):
        rows.append(row)
        print(f"{row.status:6} {row.seconds:5.1f} s  {row.id}")
        for sentence in row.sentences:
            print(f"                 {sentence}")
    return judged(rows, given.least)


def judged(rows: list[Found], least: float) -> int:
    counts = Counter(row.status for row in rows)
    faults = [row for row in rows if row.status != "quiet"]
    named = counts["named"] + counts["read"]
    print(
        f"{len(faults)} faults: {named} named{' (to be read)' if counts['read'] else ''}, {counts['none']} not named, {counts['wrong']} wrongly; "
        f"{counts['quiet']} right ports and faults without a name left alone; {sum(row.seconds for row in rows):.0f} s"
    )
    return int(counts["wrong"] > 0 or named < least * len(faults))


def causes(spec: Any, seed: int, deadline: float) -> list[Any]:
    prep = run.prepared(spec, seed, ["float32"])
    return diagnose.causes(prep, reference(prep), deadline)


def planted(given: argparse.Namespace) -> Iterator[Found]:
    """Each planted fault with whether its sentence says what it must."""
    from cause_cases import CASES

    for case in CASES:
        if given.only in case.id:
            start = time.perf_counter()
            sentences = [str(cause) for cause in causes(case.spec(), given.seed, given.deadline)]
            right = bool(case.says) and any(re.search(case.says, sentence) for sentence in sentences)
            status = "named" if right else "wrong" if sentences else "none" if case.says else "quiet"
            yield Found(case.id, status, time.perf_counter() - start, sentences)


def documented(given: argparse.Namespace) -> Iterator[Found]:
    """Each wrong port of a folder, and each right one that something is said of."""
    for case in module(given.cases / "cases.py").CASES:
        if given.only not in case.id:
            continue
        for side, name in ((case.jax_bad, case.id), (case.jax_good, f"{case.id} (right port)")):
            if side is None:
                continue
            start = time.perf_counter()
            spec = _spec(case, side, given.seed)
            right = side is case.jax_good
            asked = not right or not dlp.check(spec, devices=["cpu"], seed=given.seed).ok  # of a test that passes nobody asks for a cause
            sentences = [str(cause) for cause in causes(spec, given.seed, given.deadline)] if asked else []
            status = ("wrong" if right else "read") if sentences else "quiet" if right else "none"
            yield Found(name, status, time.perf_counter() - start, sentences)


def module(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location("cases", path)
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    sys.modules["cases"] = made
    found.loader.exec_module(made)
    return made


def _spec(case: Any, jax_side: Any, seed: int) -> Any:
    rng = np.random.default_rng([seed, zlib.crc32(case.id.encode())])
    params = {name: np.asarray(value) for name, value in case.params(rng).items()}
    inputs = [np.asarray(value) for value in case.inputs(rng)]
    names = ["input"] if len(inputs) == 1 else [f"input{i}" for i in range(len(inputs))]
    wrt = [name for what in case.diff_wrt for name in (sorted(params) if what == "params" else [names[what]])]
    torch_side = case.torch
    if not params:
        torch_side, jax_side = (lambda *x: case.torch({}, *x)), (lambda *x, side=jax_side: side({}, *x))
    return dlp.layer(
        name=case.id,
        torch=torch_side,
        jax=jax_side,
        params={name: dlp.fixed(value) for name, value in params.items()} or None,
        inputs=[dlp.fixed(value) for value in inputs],
        wrt=wrt,
    )


if __name__ == "__main__":
    sys.exit(main())
