"""Figures of earlier runs in a folder, one file for each machine: what a later run on the same machine is held against."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_dlparity import machine
from pytest_dlparity.gate import Figure, Ratio

FORMAT = 1
KEPT = 5  # runs of a figure: enough to see what changes from run to run, few enough that the spread does not grow for ever
MODES = ("", "new", "add")
STORE = "Store one with --dlparity-save-baseline=new"

Cells = dict[str, list[Figure]]


class Stored(NamedTuple):
    """The figures of a machine, or in a sentence why there are none to be held against."""

    cells: Cells
    problem: str = ""
    missing: bool = False  # nothing is wrong, there is just none yet


def path(folder: str, fingerprint: Mapping[str, str]) -> Path:
    return Path(folder) / f"{machine.title(dict(fingerprint))}.json"


def read(folder: str, fingerprint: Mapping[str, str], versions: Mapping[str, str]) -> Stored:
    """What is stored of this machine with these versions."""
    place = path(folder, fingerprint)
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = len(list(Path(folder).glob("*.json"))) if Path(folder).is_dir() else 0
        more = f" It holds baselines of {others} other machine{'s' * (others > 1)}." if others else ""
        return Stored({}, f"there is no baseline of this machine ({place.stem}) in {folder}.{more} {STORE}.", missing=True)
    except (OSError, UnicodeDecodeError) as error:
        return Stored({}, f"the baseline {place} cannot be read ({getattr(error, 'strerror', None) or 'it is no text'}). {STORE}.")
    try:
        kept = json.loads(text)
        cells = {str(key): [_figure(key, one) for one in runs] for key, runs in kept["cells"].items()}
        told, where, layout = dict(kept["versions"]), dict(kept["machine"]), kept["format"]
        if not all(cells.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Stored({}, f"the baseline {place} is corrupt: it is not what a run writes. {STORE}.")
    if layout != FORMAT:
        return Stored({}, f"the baseline {place} is of format {layout}, this pytest-dlparity reads {FORMAT}. {STORE}.")
    if where != dict(fingerprint):
        return Stored({}, f"the baseline {place} is of another machine ({_differing(where, fingerprint)}). {STORE}.")
    if told != dict(versions):
        return Stored({}, f"the baseline {place} was stored with other versions ({_differing(told, versions)}). {STORE}.")
    return Stored(cells)


def unlike(now: Figure, stored: Sequence[Figure]) -> str:
    """Why a figure is not comparable with the stored ones of its name, "" where it is."""
    for one in stored:
        if one.where != now.where:
            return f"it was stored on another set-up ({_differing(one.where, now.where)}). {STORE}."
    return ""


def save(folder: str, mode: str, rows: Sequence[tuple[Figure, Mapping[str, Any]]]) -> list[str]:
    """Stores figures, each with the surroundings in which it was measured; gives a sentence for each file that could not be written.

    `new` begins each of these figures again, `add` keeps up to five runs of each. Figures of other tests stay as they are, unless the file
    is of other versions: then nothing in it is comparable any more.
    """
    lost = []
    by_place: dict[Path, tuple[dict[str, str], dict[str, str], list[Figure]]] = {}
    for figure, known in rows:
        where, versions = dict(known["machine"]), dict(known["versions"])
        by_place.setdefault(path(folder, where), (where, versions, []))[2].append(figure)
    for place, (where, versions, figures) in by_place.items():
        before = read(folder, where, versions)
        if before.problem and not before.missing and mode == "add":
            lost.append(f"nothing could be added to the baseline: {before.problem}")
            continue
        cells: Cells = {} if mode == "add" else {figure.key: [] for figure in figures}
        cells = {**before.cells, **cells}
        for figure in figures:
            runs = cells.setdefault(figure.key, [])
            if unlike(figure, runs):
                runs.clear()
            runs.append(figure)
            del runs[:-KEPT]
        kept = {"format": FORMAT, "machine": where, "versions": versions, "cells": {key: list(map(_plain, runs)) for key, runs in cells.items()}}
        try:
            _written(place, json.dumps(kept, indent=1))
        except OSError as error:
            lost.append(f"the baseline {place} could not be written ({error.strerror}).")
    return lost


def _written(place: Path, text: str) -> None:
    """All of it or nothing: a full disk leaves the file that was there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(place)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _plain(figure: Figure) -> dict[str, Any]:
    return {"ratio": list(figure.ratio), "best": figure.best, "where": figure.where}


def _figure(key: str, kept: Mapping[str, Any]) -> Figure:
    """Raises ValueError, KeyError or TypeError for what no run writes."""
    ratio = Ratio(*map(float, kept["ratio"]))
    best = {side: float(kept["best"][side]) for side in ("torch", "jax")}
    if not all(0 < number < math.inf for number in (*ratio, *best.values())) or not ratio.low <= ratio.value <= ratio.high:
        raise ValueError
    return Figure(key, ratio, best, {str(name): str(value) for name, value in kept["where"].items()})


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is not the same, each with both values.

    >>> _differing({"torch": "2.12.0", "jax": "0.10.2"}, {"torch": "2.13.0", "jax": "0.10.2"})
    'torch 2.12.0, now 2.13.0'
    """
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {then.get(name) or 'none'}, now {now.get(name) or 'none'}" for name in names)
