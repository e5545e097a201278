"""Reproducers: each script is run by itself, where nothing of ours can be imported, and has to fail there until its one line is made right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from jax import lax
from torch import nn

import pytest_dlparity as dlp
from pytest_dlparity import excerpt, matrix, parity, reproducer, run, steps, whole
from pytest_dlparity.excerpt import NoExcerpt
from pytest_dlparity.fewer import fewer
from pytest_dlparity.frameworks import jax as jax_side
from pytest_dlparity.frameworks import jax_source, jax_trace, torch_source
from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.matrix import Cell
from pytest_dlparity.spec import Spec

# ---------------------------------------------------------------- faults, one line each


def layer_norm_eps() -> Spec:
    module = nn.LayerNorm(16)

    def jax_norm(p: Any, x: Any) -> Any:
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(var + 1e-3) * p["weight"] + p["bias"]

    return dlp.layer(module, jax_norm, inputs=[dlp.normal(6, 16)])


def gelu_variant() -> Spec:
    return dlp.layer(lambda x, w: F.gelu(x @ w), lambda x, w: jax.nn.gelu(x @ w), inputs=[dlp.normal(6, 16), dlp.normal(16, 8)])


def attention_mask() -> Spec:
    def jax_attention(q: Any, k: Any, v: Any) -> Any:
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool), -1)
        return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(jnp.where(mask, scores, -1e9), -1), v)

    attention = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return dlp.layer(attention, jax_attention, inputs=[dlp.normal(2, 2, 6, 4)] * 3)


def missing_scale() -> Spec:
    return dlp.layer(
        lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v,
        lambda q, k, v: jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k), -1) @ v,
        inputs=[dlp.normal(2, 6, 4)] * 3,
    )


def conv_padding() -> Spec:
    def jax_conv(p: Any, x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x.transpose(0, 2, 3, 1), p["weight"].transpose(2, 3, 1, 0), (2, 2), "SAME", dimension_numbers=numbers)
        return (y + p["bias"]).transpose(0, 3, 1, 2)

    return dlp.layer(nn.Conv2d(3, 4, 3, stride=2, padding=1), jax_conv, inputs=[dlp.normal(4, 3, 8, 8)])


def flatten_order() -> Spec:
    def jax_net(p: Any, x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x.transpose(0, 2, 3, 1), p["0.weight"].transpose(2, 3, 1, 0), (1, 1), "SAME", dimension_numbers=numbers
        )
        return jax.nn.relu(y + p["0.bias"]).reshape(x.shape[0], -1) @ p["3.weight"].T + p["3.bias"]

    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    return dlp.layer(module, jax_net, inputs=[dlp.normal(4, 2, 4, 4)])


def every_step_of_a_scan() -> Spec:
    def torch_scan(x: Any) -> Any:
        carry, rows = torch.zeros_like(x[0]), []
        for row in x:
            carry = torch.tanh(0.6 * carry + row)
            rows.append(carry)
        return torch.stack(rows)

    def jax_scan(x: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            carry = jnp.tanh(0.5 * carry + row)
            return carry, carry

        return lax.scan(step, jnp.zeros_like(x[0]), x)[1]

    return dlp.layer(torch_scan, jax_scan, inputs=[dlp.normal(5, 8)])


def gradient_stopped() -> Spec:
    return dlp.layer(
        lambda x, w: torch.tanh(x @ w) * torch.sigmoid(x),
        lambda x, w: jnp.tanh(x @ w) * lax.stop_gradient(jax.nn.sigmoid(x)),
        inputs=[dlp.normal(4, 4), dlp.normal(4, 4)],
    )


def square_weight() -> Spec:
    return dlp.layer(nn.Linear(8, 8), lambda p, x: x @ p["weight"] + p["bias"], inputs=[dlp.normal(4, 8)])


class Fault(NamedTuple):
    """A wrong port, and what makes its script right."""

    spec: Callable[[], Spec]
    wrong: str
    right: str
    lines: int  # of both functions, at most
    numbers: int  # in all arrays, at most


FAULTS = (
    Fault(layer_norm_eps, "layer_norm_mean + 0.001", "layer_norm_mean + 1e-05", 6, 6),
    Fault(gelu_variant, "v5 = jnp.tanh(v4)", "v5 = lax.erf(matmul / 2**0.5)", 18, 48),
    Fault(attention_mask, "v3 = v2 + -1", "v3 = v2", 18, 16),
    Fault(missing_scale, "    return matmul\n", "    return matmul / 2.0\n", 6, 36),
    Fault(conv_padding, "[(0, 1), (0, 1)]", "[(1, 1), (1, 1)]", 8, 300),
    Fault(flatten_order, "relu_10.reshape((1, 48))", "relu_10.transpose((0, 3, 1, 2)).reshape((1, 48))", 14, 144),
    Fault(every_step_of_a_scan, "return 0.5 * tanh", "return 0.6 * tanh", 6, 8),
    Fault(gradient_stopped, "return tanh_2 @ input1.T", "return tanh_2 @ input1.T + PART", 9, 96),
    Fault(square_weight, "return input @ weight\n", "return input @ weight.T\n", 8, 72),
)
NAMES = [fault.spec.__name__ for fault in FAULTS]
SCRIPTS = """
import contextlib, io, json, runpy, sys

found = {}
for path in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = runpy.run_path(path, run_name="__main__") and 0
        except SystemExit as end:
            code = end.code
    found[path] = [code, out.getvalue()]
print(json.dumps([found, sorted({"pytest_dlparity", "pytest", "optax", "flax"} & set(sys.modules))]))
"""


def alone(*scripts: Path, cwd: Path) -> dict[Path, tuple[Any, str]]:
    """Exit status and output of scripts, all of them in one fresh process that sees nothing of ours."""
    driver = cwd / "driver.py"
    driver.write_text(SCRIPTS)
    done = subprocess.run(
        [sys.executable, "-I", str(driver), *map(str, scripts)], cwd=cwd, capture_output=True, text=True, timeout=300, check=True
    )
    found, ours = json.loads(done.stdout)
    assert ours == []
    return {Path(path): (code, text) for path, (code, text) in found.items()}


class Shown(NamedTuple):
    folder: Path
    script: str
    arrays: dict[str, np.ndarray]
    before: tuple[Any, str]  # of the script as it is
    after: tuple[Any, str]  # of the script made right


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    """Every fault reproduced, its script run as it is and with its line made right."""
    home, elsewhere = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    found, runs = {}, {}
    for fault in FAULTS:
        torch.manual_seed(0)
        name = fault.spec.__name__
        path = dlp.reproduce(replace(fault.spec(), name=name), home)
        wrong, right = elsewhere / name / "wrong", elsewhere / name / "right"
        for copy in (wrong, right):
            copy.mkdir(parents=True)
            (copy / "arrays.npz").write_bytes((path.parent / "arrays.npz").read_bytes())
        text = path.read_text()
        assert text.count(fault.wrong) == 1, text
        part = "cotangent_output * tanh * sigmoid * (1 - sigmoid)"
        arguments = "def jax_side(input1, tanh_2):"
        mended = text.replace(fault.wrong, fault.right.replace("PART", part))
        if "PART" in fault.right:  # what the user's line left out needs what torch's function takes
            mended = mended.replace(arguments, "def jax_side(input1, tanh_2, tanh, sigmoid, cotangent_output):")
            mended = mended.replace("['input1', 'tanh_2']", "['input1', 'tanh_2', 'tanh', 'sigmoid', 'cotangent_output']")
        (wrong / "reproduce.py").write_text(text)
        (right / "reproduce.py").write_text(mended)
        runs[name] = wrong / "reproduce.py", right / "reproduce.py"
        with np.load(path.parent / "arrays.npz", allow_pickle=False) as file:
            found[name] = path.parent, text, dict(file)
    told = alone(*(path for pair in runs.values() for path in pair), cwd=elsewhere)
    return {name: Shown(*found[name], *(told[path] for path in pair)) for name, pair in runs.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_fails_by_itself(shown, name):
    code, text = shown[name].before
    assert code == 1
    where, gap, verdict = text.splitlines()
    assert where.startswith("at [") and "torch " in where and "jax " in where and "gap " in where
    assert gap.startswith("largest gap over the largest value of torch: ") and gap.endswith("; rounding stays below 1e-09")
    assert verdict == "they differ"


@pytest.mark.parametrize("name", NAMES)
def test_a_script_made_right_passes(shown, name):
    assert shown[name].after[0] == 0, shown[name].after[1]
    assert shown[name].after[1].endswith("they agree\n")


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_script_is_small(shown, fault):
    found = shown[fault.spec.__name__]
    lines = found.script.splitlines()
    functions = lines[lines.index(next(line for line in lines if line.startswith("def torch_side"))) :]
    functions = functions[: functions.index("def apart(t, j):")]
    assert len([line for line in functions if line.strip() and not line.strip().startswith("#")]) <= fault.lines
    assert sum(array.size for array in found.arrays.values()) <= fault.numbers
    assert len(lines) <= 80 and len(found.script) <= 4000
    assert sum(file.stat().st_size for file in found.folder.iterdir()) <= 16_000


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_the_script_its_arrays_the_report_and_the_versions(shown, name):
    folder = shown[name].folder
    assert sorted(file.name for file in folder.iterdir()) == ["arrays.npz", "report.txt", "reproduce.py", "versions.json"]
    assert folder.name.startswith(f"{name}-0-")
    versions = json.loads((folder / "versions.json").read_text())
    assert list(versions) == ["torch", "jax", "jaxlib", "numpy", "python", "machine", "system", "seed", "flags"]
    assert versions["torch"] == torch.__version__ and versions["jax"] == jax.__version__ and versions["seed"] == 0
    assert (folder / "report.txt").read_text().startswith(f"{name} [cpu-float32]: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_says_nothing_of_the_machine_and_needs_nothing_of_ours(shown, name):
    found = shown[name]
    text = "".join(file.read_text() for file in found.folder.iterdir() if file.suffix != ".npz")
    assert str(Path(__file__).parent) not in text and str(found.folder.parent) not in text and sys.prefix not in text
    assert "pickle" not in found.script.replace("allow_pickle=False", "")
    imports = {line.split()[1].partition(".")[0] for line in found.script.splitlines() if line.startswith(("import ", "from "))}
    assert imports == {"sys", "pathlib", "jax", "numpy", "torch"}


def test_a_script_names_the_users_lines(shown):
    script = shown["layer_norm_eps"].script
    line = 1 + next(i for i, text in enumerate(Path(__file__).read_text().splitlines()) if "lax.rsqrt(var + 1e-3)" in text)
    assert f"    # test_reproduce.py:{line}: return (x - mean) * lax.rsqrt(var + 1e-3)" in script
    assert f"""torch and jax part: torch layer_norm (add) in LayerNorm [6, 1], jax add at test_reproduce.py:{line} [6, 1].""" in script


# ---------------------------------------------------------------- programs that are written whole


def failing(spec: Spec, dtype: str = "float32") -> tuple[Any, Any]:
    """A report and what it was made from."""
    ready = parity.begun(spec, 0, [dtype])
    return parity.in_cell(ready, Cell("cpu", dtype), matrix.devices()["cpu"]), ready


def test_another_structure_is_shown_by_both_programs_whole(tmp_path):
    spec = dlp.layer(lambda x: (x * 2, x.sum(0, keepdim=True)), lambda x: (x * 2, x.sum(0)), inputs=[dlp.normal(4, 8)])
    path = dlp.reproduce(spec, tmp_path)
    assert alone(path, cwd=tmp_path)[path] == (1, "output.1: torch float32[1, 1], jax float32[1]\nthey differ\n")
    assert "Both programs are here whole: the two sides do not differ in float64.\n" in path.read_text()


def test_lost_precision_is_shown_in_its_own_dtype(tmp_path):
    def through_bfloat16(x: Any) -> Any:
        return (x * x).astype(jnp.bfloat16).astype(x.dtype).mean(-1) if x.dtype == jnp.float32 else (x * x).mean(-1)

    report, ready = failing(dlp.layer(lambda x: (x * x).mean(-1), through_bfloat16, inputs=[dlp.normal(4, 8)]))
    made = reproducer.written(report, ready, tmp_path, "lost")
    code, text = alone(made.path, cwd=tmp_path)[made.path]
    assert code == 1
    assert "  root mean square of the difference from float64, of the side that is farther from it: " in text
    assert text.endswith("they differ\n")
    script = made.path.read_text()
    assert "jax_enable_x64" not in script and "torch.float32) if a.dtype == np.float64" in script


def test_a_piece_that_is_no_piece_is_not_handed_out(monkeypatch):
    prep = failing(missing_scale())[1].prep
    spoiled = lambda *args, **kwargs: torch_source.Name("torch.zeros(2, 6, 6)")
    where = dlp.localize(missing_scale())
    monkeypatch.setattr(torch_source, "text", spoiled)
    with pytest.raises(NoExcerpt, match=r"^the piece alone does not give what the programs gave$"):
        excerpt.excerpt(prep, where)


def test_where_no_piece_can_be_cut_out_both_programs_are_written_whole(tmp_path, monkeypatch):
    def none(*args: Any) -> Any:
        raise NoExcerpt("the values around the parting do not fit")

    monkeypatch.setattr(excerpt, "excerpt", none)
    path = dlp.reproduce(flatten_order(), tmp_path)
    code, text = alone(path, cwd=tmp_path)[path]
    assert code == 1 and text.startswith("output at [") and text.endswith("they differ\n")
    script = path.read_text()
    assert "Both programs are here whole: the values around the parting do not fit.\n" in script
    assert "torch.nn.functional.conv2d(x1, c1, bias=c2, padding=[1, 1])" in script
    with np.load(path.parent / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["input"].shape == (1, 2, 4, 4)  # one example shows it as well as four


def test_a_programs_gradients_are_written_whole(monkeypatch):
    report, ready = failing(gradient_stopped())
    made = whole.whole(ready.prep, report.failed)
    assert made.failing == ["grad.input0"]
    right = replace(made, jax=[line.replace("v12 = v11 @ v2.T", "v12 = v11 @ v2.T + v3 * v5 * v7 * (1 - v7)") for line in made.jax])
    assert whole._ran(right).failing == []


def test_a_program_that_does_not_differ_alone_is_no_reproducer(monkeypatch):
    report, ready = failing(gradient_stopped())
    monkeypatch.setattr(whole, "measured", lambda *args: 0.0)
    with pytest.raises(NoExcerpt, match=r"^on the CPU in float64 the two programs alone do not show the difference$"):
        whole.whole(ready.prep, report.failed)


# ---------------------------------------------------------------- optimizers

PARAMS = {"w": dlp.normal(4, 8), "b": dlp.normal(8)}


def wrong_epsilon() -> Spec:
    return dlp.optimizer(
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
        optax.adamw(1e-2, weight_decay=0.1, eps_root=1e-3),
        params=PARAMS,
        steps=3,
    )


def missing_schedule() -> Spec:
    def scheduled(params: Any) -> Any:
        optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)

    return dlp.optimizer(scheduled, optax.sgd(0.1, momentum=0.9), params=PARAMS, steps=4)


def test_an_optimizers_steps_are_written_without_optax(tmp_path):
    paths = [
        dlp.reproduce(replace(spec, name=name), tmp_path) for name, spec in (("epsilon", wrong_epsilon()), ("schedule", missing_schedule()))
    ]
    right = paths[0].with_name("right.py")
    text = paths[0].read_text()
    assert "torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)" in text and text.count("+ 0.001") == 1
    right.write_text(text.replace("+ 0.001", "+ 0.0"))
    told = alone(*paths, right, cwd=tmp_path)
    assert [told[path][0] for path in (*paths, right)] == [1, 1, 0]
    assert told[paths[0]][1].startswith("step 1, update of w at [") and told[paths[0]][1].endswith("they differ\n")
    assert [line.partition(",")[0] for line in told[paths[1]][1].splitlines()[:3]] == ["step 1", "step 2", "step 3"]
    assert "[[{'lr': 0.1}], [{'lr': 0.1}], [{'lr': 0.01" in paths[1].read_text()
    with np.load(paths[0].parent / "arrays.npz", allow_pickle=False) as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {"param.w": (2, 2), "grad.1.w": (2, 2)}


def training(rate: float) -> Spec:
    loss = dlp.loss(F.cross_entropy, lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean())
    optimizer = dlp.optimizer(lambda p: torch.optim.SGD(p, lr=0.1), optax.sgd(rate))
    linear = lambda p, x: x @ p["weight"].T + p["bias"]
    inputs = [dlp.normal(4, 6), dlp.integers(4, high=3)]
    return dlp.model(nn.Linear(6, 3), linear, inputs=inputs, loss=loss, optimizer=optimizer, steps=2)


def test_a_training_loop_whose_updates_alone_differ_is_shown_by_its_optimizer(tmp_path):
    path = dlp.reproduce(training(0.2), tmp_path)
    code, text = alone(path, cwd=tmp_path)[path]
    assert code == 1 and text.startswith("step 1, update of weight at [")
    assert "optimizer = torch.optim.SGD(params, lr=0.1)" in path.read_text() and "-0.2 * " in path.read_text()


def test_a_training_loop_without_gradients_has_none_to_give():
    _, ready = failing(training(0.2))
    ready.reference.torch.leaves.clear()
    with pytest.raises(NoExcerpt, match=r"^the training loop has no gradient that is compared$"):
        steps.of_training(ready.prep, ready.reference)


def test_updates_that_differ_in_rounding_alone_have_no_script():
    spec = dlp.optimizer(lambda p: torch.optim.SGD(p, lr=0.1), optax.sgd(0.1), params=PARAMS, steps=2)
    _, ready = failing(spec)
    with pytest.raises(NoExcerpt, match=r"^the updates agree$"):
        steps.steps(ready.prep, [])
    with pytest.raises(NoExcerpt, match=r"^the updates differ in rounding alone, which a script of one process cannot show$"):
        steps.steps(ready.prep, ["a verdict"])


# ---------------------------------------------------------------- no script


def test_random_draws_have_no_script_and_the_folder_says_so(tmp_path):
    path = dlp.reproduce(dlp.layer(nn.Dropout(0.5), lambda x: x, inputs=[dlp.normal(4, 8)], train=True), tmp_path)
    assert path.name == "README.txt"
    assert path.read_text() == (
        "There is no script: the torch side draws random numbers, which differ in every run.\n"
        "arrays.npz holds the inputs and parameters, report.txt what was found.\n"
    )
    assert sorted(file.name for file in path.parent.iterdir()) == ["README.txt", "arrays.npz", "report.txt", "versions.json"]
    with np.load(path.parent / "arrays.npz", allow_pickle=False) as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {"input.input": (4, 8)}


def test_whatever_goes_wrong_the_folder_says_so(tmp_path, monkeypatch):
    def broken(*args: Any) -> Any:
        raise RuntimeError("nobody thought of this, in /home/me/private/model.py")

    monkeypatch.setattr(reproducer, "_where", broken)
    report, ready = failing(missing_scale())
    made = reproducer.written(report, ready, tmp_path, "broken")
    assert made.path.read_text().startswith("There is no script: RuntimeError: nobody thought of this, in model.py.\n")


def test_two_sides_that_agree_have_nothing_to_reproduce(tmp_path):
    said = r"^the two sides of right agree on the CPU in float32, so there is nothing to reproduce\. Give a spec that fails\.$"
    with pytest.raises(dlp.SpecError, match=said):
        dlp.reproduce(dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)], name="right"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / reproducer.folder("wrong-0")
    wrong = dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)], name="wrong")
    with pytest.raises(OSError, match=rf"^{place.as_posix()} could not be written \(a file is in the way\)$"):
        dlp.reproduce(wrong, tmp_path / "file")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    report, ready = failing(dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)], name="wrong"))
    monkeypatch.setattr(reproducer, "_saved", full)
    noted, problem = reproducer.noted(report, ready, str(tmp_path), "a test")
    place = (tmp_path / reproducer.folder("a test")).as_posix()
    assert problem == f"{place} could not be written (No space left on device)"
    assert noted.remarks[-1] == f"  reproducer: none, {problem}"
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_replaces_the_folder_of_the_first(tmp_path):
    report, ready = failing(dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)], name="wrong"))
    first = reproducer.written(report, ready, tmp_path, "a test").path
    (first.parent / "old.txt").write_text("")
    second = reproducer.written(report, ready, tmp_path, "a test").path
    assert first == second and not (second.parent / "old.txt").exists()
    assert [folder.name for folder in tmp_path.iterdir()] == [reproducer.folder("a test")]


def test_a_script_can_be_verified_and_one_that_does_not_fail_is_refused(tmp_path, monkeypatch):
    wrong = dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)], name="wrong")
    assert dlp.reproduce(wrong, tmp_path, verify=True).name == "reproduce.py"
    made = reproducer._made
    harmless = lambda *args: made(*args)._replace(script="print('all is well')")
    monkeypatch.setattr(reproducer, "_made", harmless)
    with pytest.raises(RuntimeError, match=r"reproduce\.py does not show the difference by itself: exit status 0, 'all is well'\.$"):
        dlp.reproduce(wrong, tmp_path, verify=True)


# ---------------------------------------------------------------- source

A, IMAGE, KERNEL = (np.random.default_rng(0).standard_normal(shape) for shape in ((4, 8), (2, 8, 8, 3), (3, 3, 3, 5)))
CONV = lambda i, k: lax.conv_general_dilated(i, k, (2, 1), "SAME", rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC"))
POOL = lambda i: lax.reduce_window(i, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "pointwise": (
        lambda x: (x**2, jnp.abs(x) ** 2.5, 1 / x, -x, jnp.tanh(x), jax.nn.sigmoid(x), lax.erf(x), jnp.sign(x), x > 0, ~(x > 0), x // 2, x % 3),
        (A,),
    ),
    "activations": (
        lambda x: (jax.nn.gelu(x), jax.nn.gelu(x, approximate=False), jax.nn.relu(x), jax.nn.silu(x), jax.nn.softplus(x), jax.nn.elu(x)),
        (A,),
    ),
    "reductions": (
        lambda x: (x.sum(), x.mean(0), x.max(1), x.min(), x.prod(1), x.var(), (x > 0).any(), (x > 0).sum(), x.argmax(1), jnp.cumsum(x, 1)),
        (A,),
    ),
    "movements": (
        lambda x: (x.T, x.reshape(2, 16), x[:, 1:3], x[1], jnp.flip(x, 0), jnp.pad(x, 1), jnp.roll(x, 1, 0), jnp.tril(x), jnp.stack([x, x]), x[None]),
        (A,),
    ),
    "made": (lambda x: (jnp.eye(3), jnp.arange(5) // 2, jnp.full((2,), 3.0), jnp.linspace(0, 1, 5), x + np.arange(8.0)), (A,)),
    "products": (lambda x: (x @ x.T, x[0] @ x[0], x @ x[0], jnp.einsum("ab,cb->ca", x, x), x.reshape(2, 2, 8) @ x.reshape(2, 8, 2)), (A,)),
    "chosen": (lambda x: (jnp.where(x > 0, x, -1e9), jnp.clip(x, 0, 1), jnp.sort(x), jnp.argsort(x), lax.top_k(x, 2), jnp.nan_to_num(x)), (A,)),
    "indices": (lambda x, i: (x[i], jnp.take(x, i, 1), jax.grad(lambda x: x[i].sum())(x), x.at[0].set(1.0)), (A, np.array([1, 2, 0]))),
    "softmax": (lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x), jax.nn.logsumexp(x, 0)), (A,)),
    "convolution": (lambda i, k: (CONV(i, k), jax.grad(lambda i, k: CONV(i, k).sum(), (0, 1))(i, k)), (IMAGE, KERNEL)),
    "pooling": (lambda i: (POOL(i), jax.grad(lambda i: POOL(i).sum())(i)), (IMAGE,)),
    "loops": (
        lambda x: (
            lax.scan(lambda c, r: (jnp.tanh(c + r), c * 2), x[0], x, reverse=True),
            lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x)),
            lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
        ),
        (A,),
    ),
    "gradients": (lambda x: jax.grad(lambda x: (jax.nn.softmax(x @ x.T) * x.max(1)).sum() + jnp.linalg.norm(x) + x.var() ** 0.5)(x), (A,)),
    "narrow": (lambda x: (jnp.float32(0.1) * x.astype(jnp.float32) + 1e-5, jnp.arange(3, dtype=jnp.float32)), (A,)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_operation_of_a_trace_has_source_that_gives_its_value(name):
    function, args = FUNCTIONS[name]
    space: dict[str, Any] = {"jax": jax, "jnp": jnp, "lax": lax}
    with jax_side.settings("float64", "highest"):
        traced = jax.jit(function).trace(*args)
        outputs = [f"output.{i}" for i in range(len(jax.tree.leaves(traced.out_info)))]
        nodes = jax_trace.trace(traced, args, [("input", f"x{i}") for i in range(len(args))], outputs, range(5000)).nodes
        for node in nodes:
            if node.again is not None:
                given = node.again.operands
                shapes = [nodes[o].shape if isinstance(o, int) else () for o in given]
                dtypes = [nodes[o].dtype if isinstance(o, int) else str(o.dtype) for o in given]
                names = [f"v{o}" if isinstance(o, int) else jax_source.literal(o) for o in given]
                numbers = [not isinstance(o, int) for o in given]
                text = jax_source.text(
                    jax_source.Equation(node.again.name, node.again.params, names, shapes, dtypes, numbers, node.again.result)
                )
                value = np.asarray(eval(text, space))
                assert (value.shape, str(value.dtype)) == (node.shape, node.dtype), text
                np.testing.assert_allclose(value, node.value, rtol=1e-9, atol=1e-12, err_msg=text)
            space[f"v{node.index}"] = jnp.asarray(node.value, node.dtype)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_traced_function_has_source_that_computes_it_in_its_own_dtype(name, dtype):
    function, args = FUNCTIONS[name]
    with jax_side.settings(dtype, "highest"):
        args = tuple(jnp.asarray(a, dtype) if a.dtype == np.float64 else jnp.asarray(a) for a in args)
        jitted = jax.jit(function)
        traced = jitted.trace(*args)
        wanted = jax.tree.leaves(jitted(*args))
        made = jax_source.program(traced, "side", range(len(wanted)))
        space: dict[str, Any] = {"jax": jax, "jnp": jnp, "lax": lax}
        exec("\n".join(made.lines), space)
        found = space["side"](*(args[at] for at in made.takes), *map(jnp.asarray, made.constants.values()))
    for value, true in zip(found, wanted, strict=True):
        assert (value.shape, value.dtype) == (true.shape, true.dtype)
        narrow = str(true.dtype) != "float64"
        limit = {"rtol": 0.05, "atol": 0.1} if narrow else {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(np.asarray(value, np.float64), np.asarray(true, np.float64), **limit)


def test_an_operation_without_a_public_function_is_said():
    searched = jax.jit(lambda x: jnp.searchsorted(jnp.arange(5.0), x)).trace(np.ones(3))
    with pytest.raises(jax_source.NoSource, match=r"^jax's l[et]_to has no source of its own$"):
        jax_source.program(searched, "side", [0])


class Net(nn.Module):
    """What a graph of torch has of everything: statistics that are written, a constant, a shared weight, a random-free dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 5)
        self.scale = torch.linspace(1, 2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.dropout(F.relu(self.norm(self.conv(x))), 0.5, training=False).flatten(1)) * self.scale


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_run_of_torch_has_source_that_gives_its_leaves(dtype):
    spec = dlp.layer(Net().train(), lambda p, x: x, inputs=[dlp.normal(2, 3, 8, 8)])
    prep = run.prepared(spec, 0, ["bfloat16"])
    with torch_side.settings(dtype, "highest"):
        truth = run.torch_outcome(prep, run.torch_ready(prep, "cpu", dtype, False), "cpu", dtype).leaves
        leaves = [name for name in truth if not name.startswith("state.")]
        made = torch_source.program(run.torch_ready(prep, "cpu", dtype, False), prep.job, prep.cotangent, "side", leaves)
        arrays = {**prep.params, **prep.buffers, **prep.inputs, **made.constants}
        given = [whole._given(torch_side, arrays[name], dtype) for name in made.arguments]
        found = torch_source.results("\n".join(made.lines), "side", given)
    assert made.leaves == leaves
    for name, value in zip(leaves, found, strict=True):
        np.testing.assert_array_equal(value, truth[name], err_msg=name)


def test_what_writes_to_its_argument_is_written_as_what_it_gives():
    add_, zero_ = torch.ops.aten.add_.Tensor, torch.ops.aten.relu_.default
    x = torch_source.Name("x")
    assert torch_source.text(add_, [x, 1], {}) == "x + 1"
    assert torch_source.text(add_, [x, 1], {}, writes=True) == "torch.ops.aten.add_.Tensor(x, 1)"
    assert torch_source.text(zero_, [x], {}) == "torch.relu(x)"


def test_a_spec_is_cut_along_what_its_inputs_share():
    shapes = lambda *shapes: [
        [array.shape for array in less.inputs.values()]
        for less in fewer(
            run.prepared(dlp.layer(lambda *x: x[0], lambda *x: x[0], inputs=[dlp.normal(*s) for s in shapes]), 0, ["float32"])
        )
    ]
    assert shapes((3,)) == [[(1,)], [(2,)]]
    assert shapes((2, 2), (2,)) == [[(1, 1), (1,)], [(1, 2), (1,)], [(2, 1), (2,)]]
    assert shapes((3,), (2,)) == [] and shapes(()) == []


# ---------------------------------------------------------------- the option

TESTS = """
import jax.numpy as jnp
import torch
import pytest_dlparity as dlp


@dlp_mark
def test_right(parity):
    parity(dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)]))


@dlp_mark
def test_wrong(parity):
    parity(dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)]))


@dlp_mark
def test_wrong_twice(parity):
    for side in (jnp.cos, jnp.tan):
        try:
            parity(dlp.layer(torch.sin, side, inputs=[dlp.normal(3)]))
        except AssertionError:
            pass
""".replace("@dlp_mark\n", "")


def test_the_option_writes_a_folder_for_each_failure(runner):
    runner.makepyfile(test_it=TESTS)
    result = runner.runpytest_subprocess("--dlparity-reproduce=made", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    ids = (
        "test_it.py::test_wrong[cpu-float32]",
        "test_it.py::test_wrong_twice[cpu-float32]",
        "test_it.py::test_wrong_twice[cpu-float32]#2",
    )
    folders = [reproducer.folder(name) for name in ids]
    assert sorted(folder.name for folder in Path("made").iterdir()) == sorted(folders)
    result.stdout.fnmatch_lines([f"*  reproducer: made/{folders[0]}/reproduce.py"])
    assert "test_it.py::test_wrong[cpu-float32].\n" in Path("made", folders[0], "reproduce.py").read_text()


def test_without_the_option_nothing_is_written(runner):
    runner.makepyfile(test_it=TESTS)
    result = runner.runpytest_subprocess("-p", "no:cacheprovider")
    assert "reproducer" not in result.stdout.str()
    assert not list(runner.path.rglob(reproducer.SCRIPT))


def test_the_option_refuses_a_file(runner):
    runner.makepyfile(test_it=TESTS, taken="")
    result = runner.runpytest_subprocess("--dlparity-reproduce=taken.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --dlparity-reproduce=taken.py: that is a file. Give the folder into which reproducers go."])


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["serial", "workers"])
def test_a_folder_that_cannot_be_written_fails_the_run(runner, workers):
    runner.makepyfile(test_it=TESTS, taken="")
    result = runner.runpytest_subprocess("--dlparity-reproduce=taken.py/deep", "-k", "twice", "-p", "no:cacheprovider", *workers)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    place = f"taken.py/deep/{reproducer.folder('test_it.py::test_wrong_twice[cpu-float32]')}"
    sentence = f"dlparity: a reproducer is missing, {place} could not be written (a file is in the way): the run fails."
    assert sentence in result.stdout.str()
