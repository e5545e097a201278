"""A failure -> a folder that fails by itself: a small script of torch, jax and numpy, its arrays, the report and the versions.

The script holds the piece around the first difference where that was found (`excerpt`), an optimizer's steps (`steps`), or both programs whole
(`whole`). Where there is none, README.txt says why. A folder is written beside its place and then moved there: it is whole, or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import excerpt, locate, matrix, parity, steps, whole
from pytest_dlparity.errors import SpecError
from pytest_dlparity.excerpt import Excerpt, NoExcerpt
from pytest_dlparity.fewer import fewer
from pytest_dlparity.locate import Localization
from pytest_dlparity.matrix import Cell
from pytest_dlparity.parity import Begun
from pytest_dlparity.reference import reference
from pytest_dlparity.report import Report
from pytest_dlparity.run import Prepared
from pytest_dlparity.spec import Spec
from pytest_dlparity.steps import Steps
from pytest_dlparity.whole import APART, IN_FLOAT64, Whole

SCRIPT, ARRAYS, REASON, REPORT, VERSIONS = "reproduce.py", "arrays.npz", "README.txt", "report.txt", "versions.json"
SHORTER = 8.0  # seconds in which shorter runs are tried
WAIT = 120  # seconds that a script may take to fail
LONGEST = 80  # characters of a folder's name before its number

Arrays = dict[str, np.ndarray]


class Made(NamedTuple):
    """A script with its arrays; `why` there is none."""

    script: str = ""
    arrays: Arrays = {}  # noqa: RUF012  never changed
    why: str = ""


class Written(NamedTuple):
    """What was written: the script, or README.txt; or why nothing was."""

    path: Path | None
    why: str = ""  # there is no script
    problem: str = ""  # nothing could be written

    def __str__(self) -> str:
        if self.path is None:
            return f"none, {self.problem}"
        return f"{self.path.as_posix()}" + (f" (no script: {self.why})" if self.why else "")


def reproduce(spec: Spec, directory: str | os.PathLike[str], seed: int = 0, verify: bool = False) -> Path:
    """Writes a folder that shows how the two sides of a spec differ, and gives the path of its script.

    Where no script can be made it is the path of the folder's README.txt, which says why.

    Args:
        directory: where the folder goes; it is made if it is not there. A folder of the same spec and seed is replaced.
        seed: of every draw.
        verify: the script is run in a process of its own, and has to fail there.

    Raises:
        SpecError: the spec cannot be run as it is written, or its two sides agree.
        OSError: nothing can be written there.
        RuntimeError: with `verify`, the script does not fail by itself.
        Whatever the user's own code raises.
    """
    ready = parity.begun(spec, seed, ["float32"])
    report = parity.in_cell(
        ready, Cell("cpu", "float32"), matrix.devices()["cpu"], again=f"dlp.reproduce(spec, {str(directory)!r}, {seed})"
    )
    if report.ok:
        raise SpecError(
            f"the two sides of {spec.name} agree on the CPU in float32, so there is nothing to reproduce. Give a spec that fails."
        )
    made = written(report, ready, directory, f"{spec.name}-{seed}")
    if made.path is None:
        raise OSError(made.problem)
    if verify and not made.why:
        _verified(made.path)
    return made.path


def _verified(script: Path) -> None:
    """Runs a script as anybody would, with nothing of ours beside it.

    Raises:
        RuntimeError: it does not fail, or fails in another way than it says.
    """
    done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, timeout=WAIT, check=False)
    if done.returncode != 1 or "they differ" not in done.stdout:
        last = ((done.stderr or done.stdout).strip().splitlines() or [""])[-1]
        raise RuntimeError(f"{script.as_posix()} does not show the difference by itself: exit status {done.returncode}, {last!r}.")


def written(report: Report, ready: Begun, directory: str | os.PathLike[str], name: str) -> Written:
    """The folder of one failure. Nothing is raised: what goes wrong is told by the result.

    Args:
        name: of the test; the folder's name is made from it, another one for every test.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of the user's programs, which run again here; the test has had its say
            made = _made(report, ready)
    except Exception as error:  # noqa: BLE001  the verdict stands whatever happens here
        made = Made(arrays=_arrays(ready), why=parity.first_line(error))
    place = Path(directory) / folder(name)
    try:
        _placed(place, _files(report, made, name, ready.prep.seed), made.arrays)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Written(None, made.why, f"{place.as_posix()} could not be written ({_reason(error)})")
    return Written(place / (REASON if made.why else SCRIPT), made.why)


def _reason(error: Exception) -> str:
    """
    >>> _reason(FileExistsError(17, "File exists")), _reason(OSError(28, "No space left on device")), _reason(ValueError("embedded null byte"))
    ('a file is in the way', 'No space left on device', 'embedded null byte')
    """
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "a file is in the way"
    return getattr(error, "strerror", "") or str(error)


def noted(report: Report, ready: Begun, directory: str, name: str) -> tuple[Report, str]:
    """(the report with a line that says where its reproducer is, what kept it from being written)."""
    made = written(report, ready, directory, name)
    return replace(report, remarks=(*report.remarks, f"  reproducer: {made}")), made.problem


def folder(name: str) -> str:
    """The folder of a test: a name for people, and a number that no other test has.

    >>> folder("tests/test_a.py::test_norm[cpu-float32-eager]")
    'test_a.py-test_norm-cpu-float32-eager-489da461'
    >>> len(folder("x" * 300)), folder("../..")[:3], folder("a/b") == folder("c/b")
    (89, '-0c', False)
    """
    words = re.sub(r"[^\w.]+", "-", name.rpartition("/")[2], flags=re.ASCII).strip("-.")[:LONGEST]
    return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


# ---------------------------------------------------------------- what is in it


def _made(report: Report, ready: Begun) -> Made:
    failed, prep = report.failed, ready.prep
    if not failed or all(v.status == "vacuous" for v in failed):
        return Made(arrays=_arrays(ready), why="nothing was compared, so no difference can be shown")
    if ready.reference.random:
        return Made(arrays=_arrays(ready), why="the torch side draws random numbers, which differ in every run")
    try:
        if prep.job.kind == "optimizer":
            return _of_steps(steps.steps(prep, failed), report)
        if prep.job.steps and all(v.name.startswith(("update.", "loss.")) for v in failed):
            return _of_steps(steps.steps(steps.of_training(prep, ready.reference), failed), report)
        where = _where(report, ready)
        why = where.reason
        if where.status == "parts":
            try:
                return _of_excerpt(*_piece(prep, where))
            except NoExcerpt as error:
                why = str(error)
        return _of_whole(whole.whole(prep, failed), report, why)
    except (NoExcerpt, ValueError) as error:
        return Made(arrays=_arrays(ready), why=str(error))


def _piece(prep: Prepared, where: Localization) -> tuple[Excerpt, Localization]:
    """The piece at the place where the two sides part; of a shorter run where that of the whole one is too long.

    Raises:
        NoExcerpt: there is none, and why.
    """
    try:
        return excerpt.excerpt(prep, where), where
    except NoExcerpt:
        until = time.perf_counter() + SHORTER
        for less in fewer(prep):
            if time.perf_counter() > until:
                break
            try:
                found = locate.located(less, reference(less), [where.leaf])
                return excerpt.excerpt(less, found), found
            except Exception:  # noqa: BLE001  a program may be written for one number of examples
                continue
        raise


def _where(report: Report, ready: Begun) -> Localization:
    apart = list(dict.fromkeys(v.name for v in report.failed if v.reason in IN_FLOAT64))
    if not apart:
        return Localization("unknown", reason="the two sides do not differ in float64")
    return report.where or locate.located(ready.prep, ready.reference, apart)


def _arrays(ready: Begun) -> Arrays:
    """What a folder without a script holds: the inputs and parameters."""
    prep = ready.prep
    return {
        f"{kind}.{name}": array
        for kind, part in (("param", {**prep.params, **prep.buffers}), ("input", prep.inputs))
        for name, array in part.items()
    }


def _files(report: Report, made: Made, name: str, seed: int) -> dict[str, str]:
    said = made.script.replace("{test}", _quoted(name)) if not made.why else ""
    text = f"There is no script: {made.why}.\n{ARRAYS} holds the inputs and parameters, {REPORT} what was found.\n"
    return {
        REPORT: without_paths(report.text(every=True)) + "\n",
        VERSIONS: _versions(seed),
        SCRIPT if said else REASON: said or without_paths(text),
    }


def without_paths(text: str) -> str:
    """Text with file names in the place of absolute paths.

    >>> without_paths('at /home/me/a b/model.py:3, "C:\\\\x\\\\y.py" and tests/test_a.py::test_b, 3/4')
    'at a b/model.py:3, "y.py" and tests/test_a.py::test_b, 3/4'
    >>> without_paths("File /usr/lib/torch/nn.py, (/tmp/x)")
    'File nn.py, (x)'
    """
    return re.sub(r"(?<![\w.\-/\\])(?:[A-Za-z]:)?(?:[/\\]+[\w.\-+@]+)*[/\\]+([\w.\-+@]+)", r"\1", text)


def _versions(seed: int) -> str:
    flags = re.sub(r"=\S*[/\\]\S*", "=(a path)", os.environ.get("XLA_FLAGS", ""))
    found: dict[str, Any] = {name: metadata.version(name) for name in ("torch", "jax", "jaxlib", "numpy")}
    found |= {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(), "seed": seed}
    return json.dumps(found | {"flags": {"jax_default_matmul_precision": "highest", "XLA_FLAGS": flags}}, indent=1) + "\n"


def _placed(place: Path, files: Mapping[str, str], arrays: Arrays) -> None:
    """Writes a folder beside its place and moves it there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name[:20]}-", dir=place.parent))
    try:
        for name, text in files.items():
            (beside / name).write_text(text, encoding="utf-8")
        _saved(beside / ARRAYS, arrays)
        beside.chmod(0o755)
        if place.exists():
            shutil.rmtree(place)
        beside.rename(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _saved(path: Path, arrays: Arrays) -> None:
    """An npz file. numpy's own savez takes names for its arguments, and pickles what it does not know."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


# ---------------------------------------------------------------- the scripts


def _quoted(text: str) -> str:
    """Text that may stand inside a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


def _head(title: str, needs: str = "torch, jax and numpy") -> str:
    return f'''"""{_quoted(title)}

Made by pytest-dlparity from {{test}}.
Needs {needs}; {ARRAYS} lies beside it. Exit status 1: they differ; 0: they agree.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
'''


def _settings(dtype: str, precision: str = "highest") -> str:
    lines = ['jax.config.update("jax_platforms", "cpu")']
    lines += ['jax.config.update("jax_enable_x64", True)'] * (dtype in ("float64", "complex128"))
    lines += ['jax.config.update("jax_default_matmul_precision", "highest")'] * (precision == "highest")
    lines += ["torch.set_default_dtype(torch.float64)"] * (dtype in ("float64", "complex128"))
    return "\n".join(lines)


_APART = '''
def apart(t, j):
    """|t - j| at each place; infinite where only one of them is finite."""
    with np.errstate(all="ignore"):
        gap = np.nan_to_num(np.abs(t - j), nan=np.inf, posinf=np.inf)
    return np.where((t == j) | ((t != t) & (j != j)), 0.0, gap)
'''

_DIFFER = """
def main():
    arrays = np.load(Path(__file__).with_name("arrays.npz"), allow_pickle=False)
    t = torch_side(*(torch.tensor(arrays[name]) for name in {torch})).numpy(){result} * 1.0
    j = np.asarray(jax_side(*(jnp.asarray(arrays[name]) for name in {jax}))) * 1.0
{masked}    if t.shape != j.shape:
        sys.exit(f"they differ: torch gives shape {{t.shape}}, jax {{j.shape}}")
    gap = apart(t, j)
    worst = gap.max() / max(np.abs(t[np.isfinite(t)]).max(initial=0), np.finfo(float).tiny)
    at = np.unravel_index(gap.argmax(), gap.shape)
    print(f"at {{[int(i) for i in at]}}: torch {{t[at]:.17g}}, jax {{j[at]:.17g}}, gap {{gap[at]:.3g}}")
    print(f"largest gap over the largest value of torch: {{worst:.3g}}; rounding stays below {{LIMIT:g}}")
    print("they differ" if worst > LIMIT else "they agree")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
"""


def _of_excerpt(made: Excerpt, where: Localization) -> Made:
    """The script of a piece."""
    result = made.sized(made.result).text()
    masked = (
        "    t, j = (np.where(x <= -9.9e3, -np.inf, x) for x in (t, j))  # -1e4, -1e9, finfo.min and -inf all say: masked\n"
        if made.masked
        else ""
    )
    title = f"torch and jax part{'' if made.certain else ' (probably)'}: torch {where.torch}, jax {where.jax}."
    script = "\n".join([
        _head(title), _settings("float64"), f"LIMIT = {made.limit:g}", "", "", *made.source("torch"), "", "", *made.source("jax"), "", _APART, "",
        _DIFFER.strip("\n").format(torch=made.names("torch"), jax=made.names("jax"), result=result, masked=masked) + "\n",
    ])  # fmt: skip
    return Made(script, made.arrays)


_JUDGE = {
    "apart": '''    found = gap.max() / max(np.abs(t[np.isfinite(t)]).max(initial=0), np.finfo(float).tiny)
    what = "largest gap over the largest value of torch"''',
    "rms": '''    found = float(np.sqrt(np.mean(gap**2)))
    what = "root mean square of the gap"''',
    "error": '''    found = max(float(np.sqrt(np.mean(apart(side, truth) ** 2))) for side in (t, j))
    what = "root mean square of the difference from float64, of the side that is farther from it"''',
    "equal": '''    found = np.count_nonzero(gap)
    what = "places that are not equal"''',
    "finite": '''    found = np.count_nonzero(np.isinf(gap))
    what = "places that are finite on one side alone"''',
}

_LEAVES = '''
def differs(name, t, j, how, limit, truth=None):
    """Whether a leaf differs; told in any case."""
    if t is None or j is None:
        print(f"{{name}}: only {{'jax' if t is None else 'torch'}} returns it")
        return True
    if t.shape != j.shape or (how == "equal" and (t.dtype.kind in "biu") != (j.dtype.kind in "biu")):
        print(f"{{name}}: torch {{t.dtype}}{{list(t.shape)}}, jax {{j.dtype}}{{list(j.shape)}}")
        return True
    t, j = (x.astype(np.result_type(x, np.float64)) for x in (t, j))
    gap = apart(t, j)
    at = np.unravel_index(gap.argmax(), gap.shape)
{judge}
    print(f"{{name}} at {{[int(i) for i in at]}}: torch {{t[at]:.9g}}, jax {{j[at]:.9g}}, gap {{gap[at]:.3g}}")
    print(f"  {{what}}: {{found:.3g}}, limit {{limit:.3g}}")
    return found > limit


def main():
    arrays = np.load(Path(__file__).with_name("arrays.npz"), allow_pickle=False)
{run}
    bad = [differs(name, t.get(name), j.get(name), how, limit, arrays.get(f"float64 {{name}}")) for name, (how, limit) in JUDGED.items()]
    print("they differ" if any(bad) else "they agree")
    return int(any(bad))


if __name__ == "__main__":
    sys.exit(main())
'''


def _judging(hows: Sequence[str]) -> str:
    """The lines that judge a leaf, in the ways that are asked for."""
    if len(hows) == 1:
        return _JUDGE[hows[0]]
    parts = []
    for number, how in enumerate(hows):
        body = "\n".join(f"    {line}" for line in _JUDGE[how].splitlines())
        parts.append(f'    {"el" if number else ""}if how == "{how}":\n{body}')
    return "\n".join(parts)


def _given(dtype: str) -> str:
    """How arrays become tensors: what is kept in float64 is for the dtype, the rest has its own."""
    wide = dtype in ("float64", "complex128")
    torch = "torch.tensor(a)" if wide else f"torch.tensor(a).to(torch.{dtype}) if a.dtype == np.float64 else torch.tensor(a)"
    jax = "jnp.asarray(a)" if wide else f'jnp.asarray(a, "{dtype}") if a.dtype == np.float64 else jnp.asarray(a)'
    return f"\ndef tensor(a):\n    return {torch}\n\n\ndef array(a):\n    return {jax}\n\n"


def _of_whole(made: Whole, report: Report, why: str) -> Made:
    """The script of two programs; `why` it is not one of a piece of them."""
    half = made.dtype in ("bfloat16", "float16")
    lies = "".join(f"\n    lies[{name!r}] = arrays[{name!r}]{move.text()}" for name, move in made.moves.items())
    results = "".join(f"\n    t[{name!r}] = t[{name!r}]{move.text()}" for name, move in made.results.items() if name in made.gives["torch"])
    run = f"""    torch_gives, jax_gives = {made.gives["torch"]}, {made.gives["jax"]}
    lies = dict(arrays){lies}
    found = torch_side(*(tensor(arrays[name]) for name in {made.takes["torch"]}))
    t = dict(zip(torch_gives, (x{".float()" * half}.numpy() for x in found)))
    found = jax_side(*(array(lies[name]) for name in {made.takes["jax"]}))
    j = dict(zip(jax_gives, (np.asarray(x{', "float32"' * half}) for x in found))){results}"""
    judged = {name: tuple(judge) for name, judge in made.judged.items()}
    hows = list(dict.fromkeys(judge.how for judge in made.judged.values()))
    title = f"{report.spec.name}: torch and jax differ in {made.dtype}. Both programs are here whole: {without_paths(why).rstrip('.')}."
    script = "\n".join([
        _head(title), _settings(made.dtype, made.precision), f"JUDGED = {judged}", "", "",
        *made.torch, "", "", *made.jax, "", _APART, _given(made.dtype), _LEAVES.strip("\n").format(judge=_judging(hows), run=run) + "\n",
    ])  # fmt: skip
    return Made(script, made.arrays)


_STEPS = """
def torch_steps(params, grads):
    optimizer = {torch}
    for number, step in enumerate(grads):
{options}        before = [p.clone() for p in params]
        for p, g in zip(params, step):
            p.grad = g
        optimizer.step()
        yield [(p - b).numpy() for p, b in zip(params, before)]


def jax_steps(params, grads):
    order = {order}  # jax's functions take the parameters by name
    params = [params[at] for at in order]
    held = list(jax_init(*(params[at] for at in {init_takes}){init_constants}))
    for number, step in enumerate(grads):
        given = [jnp.int32(number), *(step[at] for at in order), *held, *params]
        found = jax_step(*(given[at] for at in {step_takes}){step_constants})
        updates = [np.asarray(now - then) for now, then in zip(found, params)]
        params, held = list(found[: len(params)]), list(found[len(params) :])
        yield [updates[order.index(at)] for at in range(len(order))]


def main():
    arrays = np.load(Path(__file__).with_name("arrays.npz"), allow_pickle=False)
    params = [arrays[f"param.{{name}}"] for name in NAMES]
    grads = [[arrays[f"grad.{{step}}.{{name}}"] for name in NAMES] for step in range(1, STEPS + 1)]
    torch_found = torch_steps([torch.tensor(p) for p in params], [[torch.tensor(g) for g in step] for step in grads])
    jax_found = jax_steps([jnp.asarray(p) for p in params], [[jnp.asarray(g) for g in step] for step in grads])
    for step, (ts, js) in enumerate(zip(torch_found, jax_found), 1):
        for name, t, j in zip(NAMES, ts, js):
            gap = apart(t, j)
            worst = gap.max() / max(np.abs(t).max(), np.finfo(float).tiny)
            at = np.unravel_index(gap.argmax(), gap.shape)
            print(f"step {{step}}, update of {{name}} at {{[int(i) for i in at]}}: torch {{t[at]:.17g}}, jax {{j[at]:.17g}}, gap {{gap[at]:.3g}}")
            if worst > LIMIT:
                print(f"largest gap over the largest value of torch: {{worst:.3g}}; rounding stays below {{LIMIT:g}}")
                print("they differ")
                return 1
    print("they agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
"""


def _of_steps(made: Steps, report: Report) -> Made:
    """The script of an optimizer's steps."""
    names = list(made.params)
    options = ""
    if made.options:
        options = f"        for group, now in zip(optimizer.param_groups, {made.options}[number]):  # as the scheduler has set them\n"
        options += "            group.update(now)\n"
    constants = {which: "".join(f', jnp.asarray(ARRAYS["{which}.{name}"])' for name in made.constants[which]) for which in ("init", "step")}
    order = [names.index(name) for name in sorted(names)]
    body = _STEPS.strip("\n").format(
        torch=made.torch, options=options, order=order, init_takes=made.init_takes, step_takes=made.step_takes,
        init_constants=constants["init"], step_constants=constants["step"],
    )  # fmt: skip
    arrays = {f"param.{name}": array for name, array in made.params.items()}
    arrays |= {f"grad.{step}.{name}": array for step, grad in enumerate(made.grads, 1) for name, array in grad.items()}
    arrays |= {f"{which}.{name}": array for which, part in made.constants.items() for name, array in part.items()}
    closed = ['ARRAYS = np.load(Path(__file__).with_name("arrays.npz"), allow_pickle=False)'] if any(constants.values()) else []
    script = "\n".join([
        _head(f"{report.spec.name}: torch and jax take another step {len(made.grads)}."), _settings("float64"), f"LIMIT = {APART:g}",
        f"NAMES, STEPS = {names}, {len(made.grads)}", *closed, "", "", *made.init, "", "", *made.step, "", _APART, "", body + "\n",
    ])  # fmt: skip
    return Made(script, arrays)
