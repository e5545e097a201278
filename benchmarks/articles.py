"""The claims that articles make about torch beside jax, measured over the example models: docs/claims.md.

    python benchmarks/articles.py                 times everything, keeps the figures in benchmarks/results, writes docs/claims.md
    python benchmarks/articles.py --models mlp    the models of one file, on the screen only
    python benchmarks/articles.py --render        writes docs/claims.md from the figures that are there

Every figure is a ratio of paired rounds of one pytest run: torch eager beside jax.jit, torch.compile beside jax.jit, torch eager beside jax operation
by operation. What is held against each other across cells (torch.compile against eager, jax.jit against none) goes over the side that both cells have.
A model that does not run in a mode is named. The exit status is 1 where a model is out of parity, for then its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_dlparity.gate import Ratio, change

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "claims.md"
MODELS = ("mlp", "autoencoder", "cnn", "lstm", "attention")
MODES = ("eager", "compiled", "nojit")
QUIET = 5.0  # per cent of the last 10 s in which some task waited for a core


def written(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def says(ratio: Ratio) -> str:
    """
    >>> [says(Ratio(*one)) for one in ((0.5, 0.4, 0.6), (1.1, 0.9, 1.3), (2, 1.5, 3))]
    ['less', 'equal', 'more']
    """
    return "less" if ratio.high < 1 else "more" if ratio.low > 1 else "equal"


# ---------------------------------------------------------------- measuring


def measured(models: Sequence[str], devices: str) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """The rows of one run for each model, the set-up, and what did not run."""
    rows: list[dict[str, Any]] = []
    setup: dict[str, Any] = {}
    missing: list[str] = []
    for model in models:
        for mode in MODES:
            found, known, lost = ran(model, mode, devices)
            rows += found
            setup = known or setup
            missing += lost
            print(f"{model}, {mode}: {len(found)} parts{'; ' if lost else ''}{'; '.join(lost)}", file=sys.stderr)
    return rows, setup, missing


def ran(model: str, mode: str, devices: str) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """One pytest run of one example file in one mode."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        options = ["-q", "-m", "dlparity_speed", "--dlparity-speed", f"--dlparity-modes={mode}", f"--dlparity-devices={devices}"]
        command = [
            sys.executable,
            "-m",
            "pytest",
            f"examples/{model}_test.py",
            *options,
            f"--benchmark-json={out}",
            "-p",
            "no:cacheprovider",
        ]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
        lost = [
            line.removeprefix("FAILED ").partition(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))
        ]
        if not out.exists() or not out.stat().st_size:
            return [], {}, lost or [f"{model} in mode {mode} (pytest ended with {done.returncode})"]
        benchmarks = json.loads(out.read_text())["benchmarks"]
    return [*_rows(benchmarks, model)], _setup(benchmarks), lost


def _rows(benchmarks: Sequence[dict[str, Any]], model: str) -> Iterator[dict[str, Any]]:
    """A row for each part of each test, from its two benchmarks."""
    sides: dict[str, dict[str, dict[str, Any]]] = {}
    for one in benchmarks:
        sides.setdefault(one["group"], {})[one["params"]["side"]] = one
    for both in sides.values():
        jax, torch = both["jax"], both["torch"]
        extra, params = jax["extra_info"], jax["params"]
        yield {
            "model": model,
            "test": jax["name"].partition("[")[0].removeprefix("test_"),
            **{key: params[key] for key in ("device", "dtype", "mode", "what")},
            "ratio": [extra[key] for key in ("ratio", "ratio_low", "ratio_high")],
            "best": jax["stats"]["min"] / torch["stats"]["min"],
            "parity": extra["parity"],
            "pressure": extra.get("pressure"),
            "first_call": {side: one["extra_info"]["first_call"] for side, one in both.items()},
            "memory": {side: one["extra_info"]["memory"]["peak_bytes"] for side, one in both.items()},
        }


def _setup(benchmarks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not benchmarks:
        return {}
    extra = benchmarks[0]["extra_info"]
    return {"machine": extra["machine"], "versions": extra["versions"], "threads": extra["cpu_threads"], "device": extra["device_name"]}


# ---------------------------------------------------------------- the page


def paired(rows: Sequence[dict[str, Any]], mode: str) -> dict[tuple[str, ...], Ratio]:
    """Jax over torch of every part in one mode."""
    return {
        tuple(row[key] for key in ("device", "model", "test", "dtype", "what")): Ratio(*row["ratio"]) for row in rows if row["mode"] == mode
    }


def quotients(over: dict[tuple[str, ...], Ratio], under: dict[tuple[str, ...], Ratio]) -> dict[tuple[str, ...], Ratio]:
    return {key: change(ratio, [under[key]]) for key, ratio in over.items() if key in under}


def memory(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, ...], Ratio]:
    """Peak bytes of jax over torch, where both are known: exact, so the interval is a point."""
    found = {}
    for row in rows:
        jax, torch = row["memory"]["jax"], row["memory"]["torch"]
        if row["mode"] == "eager" and jax and torch:
            found[tuple(row[key] for key in ("device", "model", "test", "dtype", "what"))] = Ratio(*[jax / torch] * 3)
    return found


def claim(text: str, ratios: dict[tuple[str, ...], Ratio], what: str) -> str:
    """One row of the table: what is said, over how many parts it was measured, and what came out."""
    if not ratios:
        return f"| {text} | {what} | not measured | | | | |"
    values = [ratio.value for ratio in ratios.values()]
    middle = math.exp(sum(map(math.log, values)) / len(values))
    said = [sum(says(ratio) == word for ratio in ratios.values()) for word in ("less", "equal", "more")]
    return f"| {text} | {what} | {len(values)} | {middle:.2f} | {' | '.join(map(str, said))} |"


def page(files: Sequence[dict[str, Any]]) -> str:
    """docs/claims.md from the result files."""
    text = [HEAD]
    for one in files:
        rows = one["rows"]
        jit, compiled, nojit = (paired(rows, mode) for mode in MODES)
        set_up = one["setup"]
        text += [
            f"\n## {one['name']}\n",
            f"{set_up['machine']['cpu']}, {set_up['machine']['cores']} cores, {set_up['threads']} thread for each side; "
            f"torch {set_up['versions']['torch']}, jax {set_up['versions']['jax']}, Python {set_up['versions']['python']}; "
            f"some task waited for a core in {one['pressure']:.0f} % of the time (median over the parts).\n",
            "| articles say | ratio | parts | geometric mean | less than 1 | cannot be told | more than 1 |",
            "|---|---|---|---|---|---|---|",
            claim("on a CPU the two are about equal, JAX somewhat ahead", of(jit, "cpu"), "jax.jit / torch eager"),
            claim("on a GPU JAX is ahead", of(jit, "cuda"), "jax.jit / torch eager"),
            claim("against torch.compile the lead is smaller", compiled, "jax.jit / torch.compile"),
            claim("torch.compile makes torch faster", quotients(jit, compiled), "torch.compile / torch eager"),
            claim("jax.jit is what makes JAX fast", quotients(jit, nojit), "jax.jit / jax without jit"),
            claim("without jit JAX is slower than torch", nojit, "jax without jit / torch eager"),
            claim("JAX uses less memory", memory(rows), "peak bytes of a step, jax.jit / torch eager"),
            "\n| model | part | jax.jit / torch eager | jax.jit / torch.compile | jax without jit / torch eager | memory |",
            "|---|---|---|---|---|---|",
            *detail(jit, compiled, nojit, memory(rows)),
        ]
        if one["missing"]:
            text.append(f"\nDid not run: {', '.join(f'`{name}`' for name in one['missing'])}.")
    return "\n".join(text) + "\n"


def of(ratios: dict[tuple[str, ...], Ratio], device: str) -> dict[tuple[str, ...], Ratio]:
    return {key: ratio for key, ratio in ratios.items() if key[0] == device}


def detail(*columns: dict[tuple[str, ...], Ratio]) -> Iterator[str]:
    for key in dict.fromkeys(key for column in columns for key in column):
        shown = [written(column[key]) if key in column else "" for column in columns[:-1]]
        shown.append(f"{columns[-1][key].value:.2f}" if key in columns[-1] else "")
        yield f"| {key[1]}, {key[2].replace('_', ' ')} | {key[4]} | {' | '.join(shown)} |"


HEAD = """# What articles claim, measured

Articles that compare torch and JAX agree on a handful of claims. Here they are, over the models of `examples/`, whose two sides are in parity:
what is timed is the same mathematics. One command measures them and writes this page:

```console
$ python benchmarks/articles.py
```

How a ratio is made stands in [speed.md](speed.md): rounds of both sides in turn, each waited for, the median of the ratios of paired rounds, a
bootstrap 95 % interval. A ratio below 1 means that the first one named takes less. "Cannot be told" is a part whose interval holds 1. The models are
small (the largest has some hundred thousand parameters): what is measured here is the cost of starting operations as much as that of computing.
torch.compile against eager and jax.jit against none are quotients of two ratios over a side that both have, with an interval from both.
Memory of jax is XLA's own analysis of the compiled program, that of torch the peak of its allocator: see [speed.md](speed.md#what-is-recorded)."""


def stored() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("claims-*.json"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help=f"files of examples, with commas between them: {', '.join(MODELS)}")
    parser.add_argument("--devices", default="auto", help="as --dlparity-devices")
    parser.add_argument("--render", action="store_true", help="only write the page again")
    asked = parser.parse_args()
    if not asked.render:
        rows, setup, missing = measured(asked.models.split(",") if asked.models else MODELS, asked.devices)
        if not rows:
            print("Nothing was timed:", "; ".join(missing))
            return 1
        devices = "-".join(dict.fromkeys(row["device"] for row in rows))
        pressures = sorted(row["pressure"] for row in rows if row["pressure"] is not None)
        pressure = pressures[len(pressures) // 2] if pressures else float("nan")
        name = f"{devices.upper()}, {platform.system()} {platform.machine()}"
        one = {"name": name, "setup": setup, "pressure": pressure, "missing": missing, "rows": rows}
        if asked.models:
            print(page([one]))
        else:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"claims-{devices}.json").write_text(json.dumps(one, indent=1) + "\n")
        if not pressure <= QUIET:
            print(
                f"Some task waited for a core in {pressure:.0f} % of the time: this machine was not quiet, and intervals are wide.",
                file=sys.stderr,
            )
    if not asked.models:
        PAGE.write_text(page(stored()))
        print(f"{PAGE.relative_to(ROOT)} is written.")
    return int(
        any(not row["parity"] for one in stored() for row in one["rows"]) if not asked.models else not all(row["parity"] for row in rows)
    )


if __name__ == "__main__":
    sys.exit(main())
