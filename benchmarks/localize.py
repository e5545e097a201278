"""How often localisation names the right layer and the right lines: the tables of docs/localization.md.

    python benchmarks/localize.py                                 every pair, three seeds, two processes
    python benchmarks/localize.py --seeds 1 --models gpt,vit      one seed of two pairs
    python benchmarks/localize.py --bugs eps -v                   bugs with "eps" in their kind, and what was said of each
    python benchmarks/localize.py --every 3 --seeds 1             a third of the bugs: a first look
    python benchmarks/localize.py --check                         that each bug is one: dlp.check in the place of dlp.localize
    python benchmarks/localize.py --cost                          time beside a float64 forward pass, on 12 blocks of width 256
    python benchmarks/localize.py --large                         peak memory on 100 million parameters

A line is right where it is the wrong line, or the line of the other side with the same mark, or one that the bug names as equally right (see
localize_models/__init__.py). A layer is right where torch's module path is that of the bug or inside of it, or torch's line is right. The exit
status is 1 where a wrong place was stated as certain, a right pair was said to part, or (--check) a bug is none.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import localize_models
import torch
from localize_models import Planted

import pytest_dlparity as dlp
from pytest_dlparity import run

SEEDS = 3
DEEP = {"blocks": 12, "width": 256, "heads": 8, "words": 512, "length": 64}
LARGE = {"blocks": 12, "width": 896, "heads": 14, "words": 26_000, "length": 32}  # 12 x 8 x 896^2 + 26,000 x 896: 100 million parameters
IN_DEPTH = "GELU variant (jax up)"

# ---------------------------------------------------------------- one bug


class Judged(NamedTuple):
    """What was said of one planted bug, or of a right pair, and whether it is right."""

    pair: str
    kind: str  # "right pair" where there is no bug
    label: str
    seed: int
    effect: bool
    status: str  # of the localisation, or "failed" where it raised
    layer: bool
    torch_line: bool
    jax_line: bool
    certain: bool
    seconds: float  # all of it, with the reference
    said: str

    @property
    def found(self) -> bool:
        return self.status == "parts"

    @property
    def both(self) -> bool:
        return self.torch_line and self.jax_line

    @property
    def falsely_certain(self) -> bool:
        return self.certain and self.found and not (self.effect and self.layer)

    @property
    def wrong(self) -> bool:
        """Whether anything is to be said of it: a line that is not right, or a finding where there is nothing to find."""
        return not (self.found and self.layer and self.both) if self.effect else self.status != "agree"


def judged(planted: Planted, found: dlp.Localization | str, seconds: float) -> Judged:
    """`found`: a localisation, or the text of the error that it raised."""
    bug = planted.bug
    named = (planted.pair, bug.kind if bug else "right pair", str(planted), planted.seed, bool(bug and bug.effect))
    if isinstance(found, str):
        return Judged(*named, "failed", False, False, False, False, seconds, found)
    torch_line, jax_line = at(found.torch, planted.file, planted.torch_lines), at(found.jax, planted.file, planted.jax_lines)
    layer = torch_line or (found.torch is not None and inside(found.torch.module, planted.layers))
    wanted = f"  wanted: torch {sorted(planted.torch_lines)}, jax {sorted(planted.jax_lines)}, layer {planted.layers}\n{planted.file}"
    return Judged(*named, found.status, layer, torch_line, jax_line, found.certain, seconds, f"{found}\n{wanted}")


def at(place: Any, file: Path, lines: Iterable[int]) -> bool:
    return place is not None and Path(place.file).name == file.name and place.line in set(lines)


def inside(module: str, layers: Sequence[str]) -> bool:
    """Whether a module path is one of these layers, or a part of one; "" is the model itself and has no parts.

    >>> inside("blocks.1.norm", ["blocks.1"]), inside("blocks.10", ["blocks.1"]), inside("head", [""]), inside("", ["", "head"])
    (True, False, False, True)
    """
    return any(module == layer or (layer and module.startswith(layer + ".")) for layer in layers)


def tried(pair: str, bug: localize_models.Bug | None, seed: int, folder: Path) -> Judged:
    planted = localize_models.planted(pair, bug, seed, folder)
    start = time.perf_counter()
    try:
        found: dlp.Localization | str = dlp.localize(planted.spec, seed=seed)
    except Exception:  # noqa: BLE001  an error is a result: the others go on
        found = traceback.format_exc()
    return judged(planted, found, time.perf_counter() - start)


def checked(pair: str, bug: localize_models.Bug | None, seed: int, folder: Path) -> Judged:
    """The verdict of a check in the place of a localisation: found is a leaf that is called `semantics` or `nonfinite`."""
    planted = localize_models.planted(pair, bug, seed, folder)
    start = time.perf_counter()
    report = dlp.check(planted.spec, devices=["cpu"], dtypes=["float64"], seed=seed)
    seen = [v.name for v in report.verdicts if v.status in ("semantics", "nonfinite")]
    ok = bool(seen) == bool(bug and bug.effect)
    if bug and bug.effect and bug.backward:
        ok = ok and all(name.startswith("grad.") for name in seen)
    status = "parts" if seen else "agree"
    return judged(planted, dlp.Localization(status), time.perf_counter() - start)._replace(layer=ok, torch_line=ok, jax_line=ok)


# ---------------------------------------------------------------- all of them


class Task(NamedTuple):
    pair: str
    seed: int
    kinds: str
    every: int
    check: bool
    kept: str  # folder of compiled programs


def work(task: Task) -> list[Judged]:
    """Every bug of one pair with one seed, and the pair without a bug."""
    torch.set_num_threads(1)
    jax.config.update(
        "jax_compilation_cache_dir", task.kept
    )  # of a bug on the torch side, and in the same block with another seed, jax is the same
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    one = checked if task.check else tried
    bugs = [bug for bug in (None, *localize_models.bugs(task.pair)) if task.kinds in (bug.name if bug else "right pair")]
    bugs = bugs[task.seed % task.every :: task.every]
    with tempfile.TemporaryDirectory() as folder:
        return [one(task.pair, bug, task.seed, Path(folder)) for bug in bugs]


def results(tasks: Sequence[Task], workers: int) -> Iterator[list[Judged]]:
    if workers == 1:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from pool.map(work, tasks)


# ---------------------------------------------------------------- tables

HEAD = ["kind", "planted", "found", "layer right", "torch line", "jax line", "both lines", "wrong, yet certain", "median s"]


def counts(judged: Sequence[Judged]) -> dict[str, float]:
    return {
        "planted": len(judged),
        "found": sum(one.found for one in judged),
        "layer": sum(one.found and one.layer for one in judged),
        "torch_line": sum(one.torch_line for one in judged),
        "jax_line": sum(one.jax_line for one in judged),
        "both": sum(one.both for one in judged),
        "falsely_certain": sum(one.falsely_certain for one in judged),
        "seconds": statistics.median(one.seconds for one in judged),
    }


def grouped(judged: Sequence[Judged], key: Callable[[Judged], str]) -> dict[str, list[Judged]]:
    made: dict[str, list[Judged]] = {}
    for one in judged:
        made.setdefault(key(one), []).append(one)
    return made


def row(name: str, judged: Sequence[Judged]) -> list[str]:
    *numbers, seconds = counts(judged).values()
    return [name, *(str(number) for number in numbers), f"{seconds:.2f}"]


def total(judged: Sequence[Judged]) -> list[str]:
    planted, *numbers, certain, seconds = counts(judged).values()
    return ["all", str(planted), *(f"{n} ({n / planted:.1%})" for n in numbers), str(certain), f"{seconds:.2f}"]


def table(head: list[str], rows: list[list[str]]) -> str:
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def report(all_: Sequence[Judged]) -> str:
    real = [one for one in all_ if one.effect]
    same = [one for one in all_ if not one.effect]
    parts = []
    if real:
        for name, key in (("kind", lambda one: one.kind), ("model", lambda one: one.pair)):
            rows = [row(group, ones) for group, ones in sorted(grouped(real, key).items())]
            parts.append(table([name, *HEAD[1:]], [*rows, total(real)]))
    if same:
        agreed = sum(one.status == "agree" for one in same)
        parts.append(f"{agreed} of {len(same)} right pairs and bugs without effect were said to agree.")
    return "\n\n".join(parts)


def as_json(all_: Sequence[Judged]) -> dict[str, Any]:
    real = [one for one in all_ if one.effect]
    return {
        "torch": torch.__version__,
        "jax": jax.__version__,
        "total": counts(real) if real else {},
        "kinds": {kind: counts(ones) for kind, ones in grouped(real, lambda one: one.kind).items()},
        "models": {pair: counts(ones) for pair, ones in grouped(real, lambda one: one.pair).items()},
        "agree": {"planted": len(all_) - len(real), "agreed": sum(one.status == "agree" for one in all_ if not one.effect)},
        "wrong": [{"label": one.label, **{k: getattr(one, k) for k in WRONG}} for one in all_ if one.wrong],
    }


WRONG = ("status", "layer", "torch_line", "jax_line", "certain", "said")

# ---------------------------------------------------------------- cost and memory


def best(function: Callable[[], Any], times: int = 5) -> float:
    """The shortest of a few runs, after one that warms up."""
    function()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def forward_seconds(spec: dlp.Spec) -> tuple[float, float]:
    """One float64 forward pass, the loss included: torch eager, jax compiled."""
    torch_side, jax_side = run.frameworks()
    prep = run.prepared(spec, 0, ["float64"])
    module = copy.deepcopy(spec.torch).double().eval()
    inputs = [torch.tensor(array) for array in prep.inputs.values()]

    def in_torch() -> Any:
        with torch.no_grad():
            return prep.job.torch_loss(module(*inputs[: len(prep.job.consumed)]), *inputs[len(prep.job.consumed) :])

    with jax_side.settings("float64", spec.precision):
        args = (*run.jax_start(prep, "float64"), jax_side.arrays(prep.inputs, "float64"), {})
        forward = run.Functions(prep, "cpu", "float64", True)("forward")
        in_jax = best(lambda: jax.block_until_ready(forward(*args).leaves))
    with torch_side.settings("float64", spec.precision):
        return best(in_torch), in_jax


def deep(folder: Path, **sizes: int) -> Planted:
    bug = next(bug for bug in localize_models.bugs("gpt") if bug.name == IN_DEPTH)
    return localize_models.planted("gpt", bug, 0, folder, **sizes)


def cost() -> str:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        planted = deep(Path(folder), **DEEP)
        found = tried_deep(planted)
        in_torch, in_jax = forward_seconds(planted.spec)
    ratio = found["seconds"] / (in_torch + in_jax)
    sizes = ", ".join(f"{value} {name}" for name, value in DEEP.items())
    return (
        f"GPT of {sizes}: localised in {found['seconds']:.2f} s ({found['all']:.2f} s with the reference), {ratio:.1f} times a float64 "
        f"forward pass of both sides (torch {in_torch:.3f} s, jax compiled {in_jax:.3f} s); lines right: {found['right']}."
    )


def tried_deep(planted: Planted) -> dict[str, Any]:
    start = time.perf_counter()
    found = dlp.localize(planted.spec)
    one = judged(planted, found, time.perf_counter() - start)
    return {"seconds": found.seconds, "all": one.seconds, "right": one.found and one.layer and one.both, "said": one.said}


def large() -> str:
    """Peak memory, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--large-itself"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"GPT of 100 million parameters: failed with exit status {done.returncode}.\n{done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        f"GPT of {found['parameters'] / 1e6:.0f} million parameters: {found['peak']:.2f} GiB at the peak, {found['before']:.2f} GiB of it the models "
        f"as they were given; localised in {found['seconds']:.1f} s ({found['all']:.1f} s with the reference); lines right: {found['right']}."
    )


def large_itself() -> None:
    torch.set_num_threads(1)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform != "darwin" else 1 << 30)
    with tempfile.TemporaryDirectory() as folder:
        planted = deep(Path(folder), batch=1, **LARGE)
        before = peak()
        found = tried_deep(planted)
    parameters = sum(parameter.numel() for parameter in planted.spec.torch.parameters())
    print(json.dumps({"parameters": parameters, "before": before, "peak": peak(), **found}))


# ---------------------------------------------------------------- the command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0")
    parser.add_argument("--models", default=",".join(localize_models.NAMES), help="names with commas between them")
    parser.add_argument("--bugs", default="", help="only those whose name has this in it")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth bug, others for each seed")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--check", action="store_true", help="dlp.check in the place of dlp.localize")
    parser.add_argument("--cost", action="store_true", help="only the time beside a forward pass")
    parser.add_argument("--large", action="store_true", help="only the peak memory")
    parser.add_argument("--large-itself", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    parser.add_argument("-v", action="store_true", help="what was said wherever something is wrong")
    asked = parser.parse_args()
    if asked.large_itself:
        large_itself()
        return 0
    if asked.cost or asked.large:
        print("\n".join([*([cost()] if asked.cost else []), *([large()] if asked.large else [])]))
        return 0
    if unknown := set(asked.models.split(",")) - set(localize_models.NAMES):
        parser.error(f"there is no model {', '.join(sorted(unknown))}. There are {', '.join(localize_models.NAMES)}.")
    with tempfile.TemporaryDirectory() as kept:
        all_ = told(asked, kept)
    print(report(all_))
    if asked.json:
        asked.json.write_text(json.dumps(as_json(all_), indent=1) + "\n")
    return int(
        any(one.falsely_certain or one.status == "failed" or (not one.effect and one.found) or (asked.check and one.wrong) for one in all_)
    )


def told(asked: argparse.Namespace, kept: str) -> list[Judged]:
    """Every result, each pair told on the way as it is done."""
    pairs = asked.models.split(",")
    tasks = [Task(pair, seed, asked.bugs, asked.every, asked.check, kept) for seed in range(asked.seeds) for pair in pairs]
    all_: list[Judged] = []
    for task, found in zip(tasks, results(tasks, asked.workers), strict=True):
        all_ += found
        print(f"{task.pair}, seed {task.seed}: {len(found)} in {sum(one.seconds for one in found):.0f} s", file=sys.stderr, flush=True)
        for one in filter(lambda one: one.wrong, found):
            print(brief(one) + (f"\n{one.said}\n" if asked.v else ""), file=sys.stderr, flush=True)
    return all_


def brief(one: Judged) -> str:
    """One line on what is not right.

    >>> brief(Judged("gpt", "GELU variant", "gpt, GELU variant (jax up), seed 0", 0, True, "parts", True, True, False, False, 0.1, ""))
    '  gpt, GELU variant (jax up), seed 0: parts, not right: jax line'
    """
    parts = {"layer": one.layer, "torch line": one.torch_line, "jax line": one.jax_line}
    wrong = [name for name, right in parts.items() if not right] if one.effect and one.found else []
    return f"  {one.label}: {one.status}" + (f", not right: {', '.join(wrong)}" if wrong else "") + ", yet certain" * one.falsely_certain


if __name__ == "__main__":
    sys.exit(main())
