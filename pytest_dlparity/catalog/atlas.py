"""docs/atlas/: the catalogue as pages, with what was measured of it.

    pytest --dlparity-catalog -n 2 --dlparity-dtypes=float32,bfloat16,float16 --dlparity-json=found.json
    python -m pytest_dlparity.catalog.atlas found.json docs/atlas

The first argument may be left out (the pages are written again from docs/atlas/results.json) or given several times (another device, a part of the
catalogue): what a file has goes over what was known.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_dlparity import draws, report
from pytest_dlparity.catalog import code, items, specs
from pytest_dlparity.catalog.entry import LIBRARIES, Entry, Equivalent
from pytest_dlparity.matrix import Cell

Results = dict[str, Any]  # environments: by device, what ran there; entries: by entry and library, its print and its cells
EMPTY: Results = {"environments": {}, "entries": {}}
TITLES = {"jax": "jax", "optax": "optax", "linen": "flax.linen", "nnx": "flax.nnx", "equinox": "equinox", "haiku": "haiku"}
SHORT = {"torch.nn.functional": "F", "jax.numpy": "jnp", "jax.lax": "lax", "equinox": "eqx", "haiku": "hk", "pytest_dlparity": "dlp"}
AGAIN = "python -m pytest_dlparity.catalog.atlas docs/atlas"
RUN = "pytest --dlparity-catalog -n 2 --dlparity-dtypes=float32,bfloat16,float16 --dlparity-json=found.json"


# ---------------------------------------------------------------- what was measured


ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function among the options: another in each process


def fingerprint(entry: Entry, way: Equivalent) -> str:
    """Changes when the code or the inputs of an equivalent change: what was measured of others is not its own."""
    inputs = {name: _drawn(given) for name, given in specs.cases(entry, way).items()}
    options = sorted((name, ADDRESS.sub("", str(value))) for name, value in {**entry.options, **way.options}.items() if not callable(value))
    told = [entry.kind, entry.torch, way.code, way.channels_last, inputs, options, [(d.leaf, d.case) for d in way.differs]]
    return f"{zlib.crc32(json.dumps(told, sort_keys=True, default=str).encode()):08x}"


def _drawn(inputs: Any) -> list[str]:
    pairs = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    return [f"{name}={draws.as_draw(given, 'input')!r}" for name, given in pairs]


def gathered(rows: Iterable[Mapping[str, Any]], entries: Mapping[str, Entry]) -> Results:
    """The results of the rows of a --dlparity-json file: per entry, library and cell the worst status and the least bits."""
    found: Results = {"environments": {}, "entries": {}}
    for row in rows:
        told = row.get("catalog")
        if told is None or told["entry"] not in entries or told["library"] not in entries[told["entry"]].jax:
            continue
        entry = entries[told["entry"]]
        way = entry.equivalents()[told["library"]]
        place = found["entries"].setdefault(entry.name, {}).setdefault(told["library"], {"print": fingerprint(entry, way), "cells": {}})
        cell = place["cells"].setdefault(row["cell"], {"status": told["status"]})
        cell["status"] = max(cell["status"], told["status"], key=items.gravity)
        bits = [v["bits"] for v in row["verdicts"] if v["status"] == "agree" and v["bits"] is not None]
        cell |= {"bits": round(min([*bits, cell.get("bits", 99.0)]), 1)} if bits else {}
        cell |= {"speed": told["speed"]} if told.get("speed") else {}
        cell |= {"says": told["says"]} if told["status"] == "skipped" else {}
        if row["environment"]:
            known = found["environments"].setdefault(row["cell"].partition("-")[0], {})
            known["machine"] = row["environment"].rpartition(", seed")[0]
            known[told["library"]] = told["version"]
    return found


def merged(known: Results, new: Results) -> Results:
    """What is new over what was known."""
    entries = {name: dict(ways) for name, ways in known["entries"].items()}
    for name, ways in new["entries"].items():
        for library, way in ways.items():
            before = entries.setdefault(name, {}).get(library, way)
            cells = {**before["cells"], **way["cells"]} if before["print"] == way["print"] else way["cells"]
            entries[name][library] = {"print": way["print"], "cells": cells}
    environments = {**known["environments"]}
    for device, environment in new["environments"].items():
        environments[device] = {**environments.get(device, {}), **environment}
    return {"environments": environments, "entries": entries}


def pruned(results: Results, entries: Mapping[str, Entry]) -> Results:
    """The results without what is no longer in the catalogue, or was measured of other code."""
    kept: dict[str, Any] = {}
    for name, entry in entries.items():
        ways = {lib: found for lib, way in entry.equivalents().items() if (found := _own(results, entry, lib, way)) is not None}
        kept |= {name: ways} if ways else {}
    return {"environments": results["environments"], "entries": kept}


def _own(results: Results, entry: Entry, library: str, way: Equivalent) -> Any:
    found = results["entries"].get(entry.name, {}).get(library)
    return found if found and found["print"] == fingerprint(entry, way) else None


def lacking(results: Results, entries: Mapping[str, Entry]) -> list[str]:
    """The equivalents that were not measured as they now are."""
    return [
        f"{name} [{library}]"
        for name, entry in entries.items()
        for library, way in entry.equivalents().items()
        if _own(results, entry, library, way) is None
    ]


def text(results: Results) -> str:
    """results.json: a line an equivalent, so that a change can be read."""
    environments = json.dumps(results["environments"], sort_keys=True)
    lines = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(lib)}: {json.dumps(way, sort_keys=True)}" for lib, way in sorted(ways.items()))
        + "\n}"
        for name, ways in sorted(results["entries"].items())
    ]
    return f'{{"environments": {environments},\n"entries": {{\n' + ",\n".join(lines) + "\n}}\n"


# ---------------------------------------------------------------- pages


def pages(families: Mapping[str, Sequence[Entry]], results: Results) -> dict[str, str]:
    """The text of every page by the name of its file."""
    found = {f"{name}.md": family(name, entries, results) for name, entries in families.items()}
    return {"index.md": index(families, results), **found}


def index(families: Mapping[str, Sequence[Entry]], results: Results) -> str:
    every = [(name, entry) for name, entries in families.items() for entry in entries]
    libraries = [library for library in LIBRARIES if any(library in entry.jax for _, entry in every)]
    lines = sorted((of(entry), entry.name, name, entry) for name, entry in every)
    table = [
        [f"`{torch}`", f"[{name}]({page}.md#{name})", *(_mark(entry, library, results) for library in libraries)]
        for torch, name, page, entry in lines
    ]
    count = sum(len(entry.jax) for _, entry in every)
    return "\n".join(
        [
            "# The Parity Atlas",
            "",
            f"What is `torch.nn.X` in JAX, exactly? {len(every)} entries with {count} equivalents, each of them run beside torch with its parameters, its "
            "gradients and its edges. The code of a page is the code that ran.",
            "",
            "```console",
            "$ pytest --dlparity-catalog                  # all of it, on this machine",
            "$ pytest --dlparity-catalog -k conv2d --dlparity-dtypes=float32,bfloat16",
            "```",
            "",
            *_environments(results),
            "## Families",
            "",
            *(f"- [{name.replace('_', ' ')}]({name}.md): {_count(len(entries), 'entry', 'entries')}" for name, entries in families.items()),
            "",
            "## Entries",
            "",
            "**yes**: every leaf of every case agrees. **differs**: it differs at the edges that its page names, and agrees everywhere else. "
            "**no**: the library has none. **-**: none is given here. **?**: not measured.",
            "",
            "Bits are the least of all leaves and cases. Times are of the first case, whose inputs are small: jax.jit over torch eager as calls, not as "
            "arithmetic.",
            "",
            *_table(["torch", "entry", *(TITLES[library] for library in libraries)], table),
            "",
            f"These pages are generated: `{AGAIN}` writes them, and `{RUN}` measures what they show.",
            "",
        ]
    )


def _mark(entry: Entry, library: str, results: Results) -> str:
    if library in entry.missing:
        return "no"
    if source := next((name for name, way in entry.equivalents().items() if library in way.also), ""):
        return f"{_mark(entry, source, results)}, as {source}"
    if library not in entry.jax:
        return "-"
    found = _own(results, entry, library, entry.equivalents()[library])
    statuses = {cell["status"] for cell in found["cells"].values()} - {"skipped"} if found else set()
    if not statuses:
        return "?"
    return {"agrees": "yes", "differs as written": "differs", "failed": "FAILS"}[max(statuses, key=items.gravity)]


def _environments(results: Results) -> list[str]:
    """A line for each device: what ran there."""
    lines = []
    for device, known in sorted(results["environments"].items()):
        versions = dict.fromkeys(version for library, version in sorted(known.items()) if library not in ("machine", "jax") and version)
        lines.append(f"- {device}: {', '.join([known['machine'], *versions])}")
    return ["Measured with:", "", *lines, ""] if lines else []


def family(name: str, entries: Sequence[Entry], results: Results) -> str:
    """A page."""
    names = sorted({short for entry in entries for short in code.names(entry.torch, *(way.code for way in entry.equivalents().values()))})
    return "\n".join(
        [
            f"# {name.replace('_', ' ').capitalize()}",
            "",
            f"[All families](index.md). Names in the code: {', '.join(_import(short) for short in names)}.",
            "",
            *(line for entry in entries for line in section(entry, results)),
        ]
    )


def _import(short: str) -> str:
    path = code.NAMES.get(short, short)
    top, _, last = path.rpartition(".")
    return f"`import {path}`" if path == short else f"`from {top} import {short}`" if last == short else f"`import {path} as {short}`"


def section(entry: Entry, results: Results) -> list[str]:
    inputs = "; ".join(f"{case}: {_inputs(given)}" for case, given in entry.cases.items())
    return [
        f"## {entry.name}",
        "",
        f"`{of(entry)}`",
        "",
        *_fence(entry.torch),
        *(line for library, way in entry.equivalents().items() for line in equivalent(entry, library, way, results)),
        *(f"- **{TITLES[library]}**: no equivalent. {_sentence(why)}" for library, why in entry.missing.items()),
        *(f"- **{topic[:1].upper()}{topic[1:]}**: {said}." for topic, said in entry.notes.items()),
        f"- Inputs: {inputs}." + (f" Edges: {', '.join(entry.edges)}." if entry.edges else ""),
        "",
    ]


def equivalent(entry: Entry, library: str, way: Equivalent, results: Results) -> list[str]:
    """One library's code, what it takes to translate it, where it differs, and what was measured."""
    told = [f"`{torch}` is `{here}`" for torch, here in way.translation.items()]
    remarks = [
        *(["Channels last: (batch, ..., channels)."] if way.channels_last else []),
        *([_sentence(way.words)] if way.words else []),
        *(f"`{_exported(way.code, name)}` is the same function." for name in way.also),
        *([f"Translation: {', '.join(told)}."] if told else []),
        *([f"`param_map={way.options['param_map']!r}`"] if "param_map" in way.options else []),
    ]
    differs = [
        f"- Differs in `{d.leaf}` at {d.case}{' in ' * bool(d.dtypes)}{', '.join(d.dtypes)}: {_sentence(d.says)} Source: {d.source}."
        for d in way.differs
    ]
    measured = _measured(_own(results, entry, library, way))
    return [
        f"### {TITLES[library]}",
        "",
        *_fence(way.code),
        *(" ".join(remarks), "") * bool(remarks),
        *differs,
        *[""] * bool(differs),
        measured,
        "",
    ]


def _exported(code: str, library: str) -> str:
    """
    >>> _exported("lambda x: jax.nn.elu(x, 1.5)", "nnx")
    'nnx.elu'
    """
    found = re.search(r"jax\.nn\.(\w+)", code)
    return f"{library}.{found[1]}" if found else library


def _measured(found: Any) -> str:
    if found is None:
        return "Not measured yet."
    return "Measured: " + "; ".join(f"{name} {_cell(name, cell)}" for name, cell in sorted(found["cells"].items())) + "."


def _cell(name: str, cell: Mapping[str, Any]) -> str:
    if cell["status"] == "skipped":
        return f"skipped, {cell['says']}"
    known = Cell(*name.split("-"))
    bits = f", {cell['bits']:.1f} of {report.significand(known)} bits" if "bits" in cell else ""
    speed = "".join(f", {what} jax takes {ratio:.2g} of torch's time" for what, ratio in cell.get("speed", {}).items())
    return f"{cell['status']}{bits}{speed}"


def of(entry: Entry) -> str:
    """The torch entity of an entry: what it says it is of, or the first name of torch in its code.

    >>> of(Entry("x", "lambda x: F.silu(x)", {}, {}))
    'torch.nn.functional.silu'
    """
    found = re.search(r"\b(torch|F)(\.\w+)+", entry.torch)
    named = entry.of or (found[0] if found else entry.name)
    return re.sub(r"^F\.", "torch.nn.functional.", named)


def _inputs(given: Any) -> str:
    pairs = given.items() if isinstance(given, Mapping) else ((None, value) for value in given)
    return ", ".join(f"{name}={_draw(value)}" if name is not None else _draw(value) for name, value in pairs)


def _draw(value: Any) -> str:
    return f"`{draws.as_draw(value, 'input')!r}`"


def _sentence(words: str) -> str:
    words = words[:1].upper() + words[1:]
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _fence(text: str) -> list[str]:
    return ["```python", *text.strip().splitlines(), "```", ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


# ---------------------------------------------------------------- files


def known(folder: Path) -> Results:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else EMPTY


def stale(folder: Path, families: Mapping[str, Sequence[Entry]]) -> list[str]:
    """What a folder of pages lacks to show the catalogue as it is, a sentence each."""
    results = known(folder)
    wanted = pages(families, results)
    there = {path.name for path in folder.glob("*.md")}
    wrong = [f"{name} is missing. Write it: {AGAIN}" for name in sorted(wanted.keys() - there)]
    wrong += [f"{name} belongs to no family. Write the pages: {AGAIN}" for name in sorted(there - wanted.keys())]
    wrong += [
        f"{name} does not show the catalogue as it is. Write it: {AGAIN}"
        for name in sorted(wanted.keys() & there)
        if (folder / name).read_text(encoding="utf-8") != wanted[name]
    ]
    return wrong + [f"{one} is not measured. Run it: {RUN}" for one in lacking(results, {e.name: e for f in families.values() for e in f})]


def main(arguments: Sequence[str]) -> int:
    if not arguments or any(not Path(name).is_file() for name in arguments[:-1]):
        print(f"{(__doc__ or '').strip()}", file=sys.stderr)  # noqa: T201
        return 2
    folder, families = Path(arguments[-1]), specs.families()
    entries = {entry.name: entry for family in families.values() for entry in family}
    results = known(folder)
    for name in arguments[:-1]:
        results = merged(results, gathered(json.loads(Path(name).read_text(encoding="utf-8"))["dlparity"], entries))
    results = pruned(results, entries)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.md"):
        path.unlink()
    for name, page in {**pages(families, results), "results.json": text(results)}.items():
        (folder / name).write_text(page, encoding="utf-8")
    for one in lacking(results, entries):
        print(f"not measured: {one}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
