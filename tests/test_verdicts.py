"""Every verdict has a planted fault in the smallest form a person would write; what is empty or strange does not pass; right ports do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import matrix
from pytest_dlparity.report import Report
from pytest_dlparity.spec import Spec

F = torch.nn.functional
X = dlp.normal(4, 8)
AT_ZERO = np.array([[-1.0, 0.0, 0.0, 2.0]])
ONE_LARGE_ROW = np.array([[1.0, 2.0, 3.0], [100.0, 101.0, 99.0]])


def check(spec: Spec, dtype: str = "float32", **settings: Any) -> Report:
    return dlp.check(spec, devices=["cpu"], dtypes=[dtype], **settings)


def statuses(report: Report) -> dict[str, str]:
    return {v.name: v.status for v in report.verdicts}


def reasons(report: Report) -> dict[str, str]:
    return {v.name: v.reason for v in report.verdicts}


# ---------------------------------------------------------------- structure


def test_a_leaf_that_only_torch_returns_is_structure_and_the_others_are_still_compared() -> None:
    report = check(dlp.layer(lambda x: {"h": x.sin(), "aux": x.mean()}, lambda x: {"h": jnp.sin(x)}, inputs=[X]))
    assert reasons(report) == {"output.h": "", "output.aux": "missing"}
    assert report["output.aux"].side == "torch" and report["output.h"].ok and not report.ok


def test_a_leaf_that_only_jax_returns_is_structure() -> None:
    report = check(dlp.layer(lambda x: x.sin(), lambda x: (jnp.sin(x), x), inputs=[X]))
    assert statuses(report) == {"output": "structure", "output.0": "structure", "output.1": "structure"}
    assert [report[name].side for name in ("output", "output.0", "output.1")] == ["torch", "jax", "jax"]


@pytest.mark.parametrize(
    "port",
    [lambda x: x.mean(1), lambda x: x.mean(1)[None], lambda x: x.mean(1, keepdims=True)[None], lambda x: x.mean(), lambda x: x[:1, :1]],
    ids=["keepdims forgotten", "transposed", "one axis more", "reduced to one number", "one element of four"],
)
def test_shapes_that_would_broadcast_are_structure(port: Callable[..., Any]) -> None:
    report = check(dlp.layer(lambda x: x.mean(1, keepdim=True), port, inputs=[X]))
    assert reasons(report) == {"output": "shapes"} and not report.ok


@pytest.mark.parametrize(
    ("torch_side", "jax_side", "classes"),
    [
        (lambda x: (x > 0).to(x.dtype), lambda x: x > 0, ("floating", "boolean")),
        (lambda x: (x > 0).long(), lambda x: x > 0, ("integer", "boolean")),
        (lambda x: x.round(), lambda x: jnp.round(x).astype(int), ("floating", "integer")),
        (lambda x: torch.complex(x, x * 0), lambda x: x, ("complex", "floating")),
    ],
    ids=["mask as floats", "mask as integers", "rounded to integers", "imaginary part dropped"],
)
def test_another_kind_of_number_is_structure(torch_side: Any, jax_side: Any, classes: tuple[str, str]) -> None:
    report = check(dlp.layer(torch_side, jax_side, inputs=[X], wrt=[]))
    assert reasons(report) == {"output": "classes"} and report["output"].detail == classes


def test_without_the_same_outputs_gradients_are_not_reported_as_a_second_fault() -> None:
    report = check(dlp.layer(lambda x: x.sin(), lambda x: jnp.sin(x).T, inputs=[X]))
    assert statuses(report) == {"output": "structure"}


# ---------------------------------------------------------------- nonfinite


def test_the_gradient_of_a_norm_at_zero_is_nonfinite_in_float64() -> None:
    report = check(dlp.layer(lambda x: x.norm(dim=1), lambda x: jnp.linalg.norm(x, axis=1), inputs=[np.zeros((2, 3))]))
    assert reasons(report) == {"output": "", "grad.input": "nonfinite64"}
    gap = report["grad.input"]
    assert (gap.status, gap.detail, gap.where, gap.values[0]) == ("nonfinite", (6, 6), (0, 0), 0.0) and np.isnan(gap.values[1])


def test_one_nan_row_of_many_is_nonfinite() -> None:
    masked = np.array([[True, True, False], [False, False, False], [True, False, True]])
    spec = dlp.layer(
        torch=lambda x, m: x.masked_fill(~m, -torch.inf).softmax(1),
        jax=lambda x, m: jax.nn.softmax(x, 1, where=m),
        inputs=[dlp.normal(3, 3), dlp.fixed(masked)],
        wrt=[],
    )
    found = check(spec)["output"]
    assert (found.status, found.detail, found.where) == ("nonfinite", (3, 9), (1, 0))


def test_infinities_of_opposite_sign_are_nonfinite() -> None:
    report = check(dlp.layer(lambda x: 1 / x, lambda x: -1 / x, inputs=[np.array([0.0, 0.0])], wrt=[]))
    assert (report["output"].status, report["output"].detail) == ("nonfinite", (2, 2))


def test_an_overflow_on_one_side_in_the_cell_only_is_nonfinite() -> None:
    spec = dlp.layer(lambda x: x.exp().sum(1).log(), lambda x: jax.nn.logsumexp(x, 1), inputs=[ONE_LARGE_ROW])
    report = check(spec)
    assert reasons(report) == {"output": "nonfinite", "grad.input": "nonfinite"}
    assert (report["output"].where, report["output"].detail) == ((1,), (1, 2))
    assert check(spec, "float64").ok


def test_an_overflow_on_both_sides_where_float64_is_finite_does_not_pass() -> None:
    report = check(dlp.layer(lambda x: x.exp().sum(1).log(), lambda x: jnp.log(jnp.exp(x).sum(1)), inputs=[ONE_LARGE_ROW]))
    assert (report["output"].status, report["output"].reason, report["output"].where) == ("precision", "overflow", (1,)) and not report.ok


# ---------------------------------------------------------------- semantics


def layer_norm(eps: float) -> Callable[..., Any]:
    return lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


SEMANTICS = {
    "gelu's tanh form": (F.gelu, jax.nn.gelu, X),
    "layer norm's eps 1e-6 for 1e-5": (lambda x: F.layer_norm(x, (8,)), layer_norm(1e-6), X),
    "variance of N for N-1": (lambda x: x.var(1), lambda x: x.var(1), X),
    "softmax over another axis": (lambda x: x.softmax(1), lambda x: jax.nn.softmax(x, 0), X),
    "a sum for a mean": (lambda x: x.mean(1), lambda x: x.sum(1), X),
    "a transposed square weight": (lambda x: x @ x.T @ x, lambda x: x.T @ x @ x.T, dlp.normal(4, 4)),
    "a sign of 1e-12": (lambda x: 1e-12 * x, lambda x: -1e-12 * x, X),
    "float32's eps where float64's is": (lambda x: x / (x.abs() + 1e-8), lambda x: x / (abs(x) + 1e-8 * 1.5), dlp.normal(4, 8, scale=1e-6)),
    "a cast to bfloat16 in torch": (lambda x: x.to(torch.bfloat16).to(x.dtype) * 2, lambda x: x * 2, X),
    "a cast to bfloat16 in jax": (lambda x: x * 2, lambda x: x.astype(jnp.bfloat16).astype(x.dtype) * 2, X),
    "one element of 32": (lambda x: x.sin(), lambda x: jnp.sin(x).at[1, 2].multiply(1.00001), X),
}


@pytest.mark.parametrize("case", SEMANTICS)
def test_other_mathematics_is_semantics(case: str) -> None:
    torch_side, jax_side, draw = SEMANTICS[case]
    report = check(dlp.layer(torch_side, jax_side, inputs=[draw], wrt=[]))
    assert (report["output"].status, report["output"].reason) == ("semantics", "semantics") and not report.ok


def test_mathematics_is_judged_in_float64_also_in_a_cell_too_coarse_to_see_it() -> None:
    spec = dlp.layer(lambda x: F.layer_norm(x, (8,)), layer_norm(1e-6), inputs=[X], wrt=[])
    assert check(spec, "bfloat16")["output"].status == "semantics"


def test_a_wrong_gradient_behind_a_right_output_is_semantics() -> None:
    report = check(dlp.layer(lambda x: x.detach() * x, lambda x: x * x, inputs=[X]))
    assert statuses(report) == {"output": "agree", "grad.input": "semantics"}


def test_a_gradient_that_only_one_side_stops_is_semantics_and_its_numbers_are_finite() -> None:
    found = check(dlp.layer(lambda x: x.sin(), lambda x: jax.lax.stop_gradient(jnp.sin(x)), inputs=[X]))["grad.input"]
    assert found.status == "semantics" and np.isfinite([found.bits, found.error, found.limit, found.scale]).all()


def test_a_subgradient_at_a_tie_is_semantics() -> None:
    report = check(dlp.layer(torch.relu, lambda x: jnp.maximum(x, 0), inputs=[AT_ZERO]))
    assert statuses(report) == {"output": "agree", "grad.input": "semantics"}
    assert report["grad.input"].where in ((0, 1), (0, 2))


def test_integers_are_equal_or_semantics() -> None:
    found = check(dlp.layer(lambda x: x.argmax(1), lambda x: jnp.argmin(x, 1), inputs=[X], wrt=[]))["output"]
    assert (found.status, found.reason, found.detail) == ("semantics", "unequal64", (4, 4))


def test_one_boolean_of_three_is_semantics_with_its_place_and_values() -> None:
    found = check(dlp.layer(lambda x: x > 0, lambda x: x >= 0, inputs=[np.array([1.0, 0.0, -1.0])], wrt=[]))["output"]
    assert (found.status, found.detail, found.where, found.values[:2]) == ("semantics", (1, 3), (1,), (False, True))


def test_a_wrong_loss_is_semantics() -> None:
    spec = dlp.loss(torch.nn.CrossEntropyLoss(), lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).sum(),
                    inputs=[X, dlp.integers(4, high=8)])  # fmt: skip
    assert statuses(check(spec)) == {"loss": "semantics", "grad.input0": "semantics"}


def test_a_wrong_second_step_of_an_optimizer_is_semantics_from_that_step_on() -> None:
    sgd = lambda params: torch.optim.SGD(params, 0.1, momentum=0.9)
    spec = dlp.optimizer(sgd, optax.sgd(0.1, momentum=0.8), params={"w": dlp.normal(3, 4)}, steps=3)
    assert statuses(check(spec)) == {"update.1.w": "agree", "update.2.w": "semantics", "update.3.w": "semantics"}


# ---------------------------------------------------------------- precision


def naive_variance(x: Any) -> Any:
    return (x * x).mean(1) - x.mean(1) ** 2


def test_a_difference_of_large_numbers_is_precision_and_its_side_is_named() -> None:
    large = dlp.normal(4, 64, mean=100)
    jax_is_naive = check(dlp.layer(lambda x: x.var(1, correction=0), naive_variance, inputs=[large], wrt=[]))["output"]
    torch_is_naive = check(dlp.layer(naive_variance, lambda x: x.var(1), inputs=[large], wrt=[]))["output"]
    assert [(v.status, v.side) for v in (jax_is_naive, torch_is_naive)] == [("precision", "jax"), ("precision", "torch")]


def test_a_difference_of_large_numbers_is_precision_and_not_semantics_in_float64_too() -> None:
    spec = dlp.layer(lambda x: x.var(1, correction=0), naive_variance, inputs=[dlp.normal(4, 64, mean=100)], wrt=[])
    report = check(spec, "float64")
    assert statuses(report) == {"output": "precision"}


def test_a_cast_that_only_the_cell_makes_is_precision() -> None:
    def low(x: jax.Array) -> jax.Array:
        return jnp.sin(x if x.dtype == jnp.float64 else jax.lax.reduce_precision(x, 8, 7))  # XLA may drop a pair of casts

    report = check(dlp.layer(torch.sin, low, inputs=[X], wrt=[]))
    assert (report["output"].status, report["output"].side) == ("precision", "jax")


def test_a_product_in_bfloat16_inside_a_float32_cell_is_precision_in_torch() -> None:
    def low(x: torch.Tensor) -> torch.Tensor:
        return x @ x.T if x.dtype is torch.float64 else (x.bfloat16() @ x.bfloat16().T).float()

    report = check(dlp.layer(low, lambda x: x @ x.T, inputs=[X], wrt=[]))
    assert (report["output"].status, report["output"].side) == ("precision", "torch")


def test_integers_that_rounding_does_not_flip_must_be_equal_in_the_cell_too() -> None:
    def low(x: jax.Array) -> jax.Array:
        return jnp.argmax(x, 1) + (x.dtype == jnp.float32)

    found = check(dlp.layer(lambda x: x.argmax(1), low, inputs=[X], wrt=[]))["output"]
    assert (found.status, found.reason, found.detail) == ("precision", "unequal", (4, 4))


def test_a_cast_to_float32_on_one_side_is_a_note_in_float32_and_precision_in_float64() -> None:
    spec = dlp.layer(lambda x: x.float().sin().to(x.dtype), jnp.sin, inputs=[X], wrt=[])
    single, double = check(spec)["output"], check(spec, "float64")["output"]
    assert (single.status, single.note, single.detail[:2]) == ("agree", "cast", ("float32", "torch"))
    assert double.status == "precision"


def test_a_tolerance_is_precision_when_it_is_exceeded_and_asks_nothing_else() -> None:
    tight, loose = dlp.Tolerance(rtol=1e-6, atol=1e-6), dlp.Tolerance(rtol=1e-2, atol=1e-2)
    naive = dlp.layer(lambda x: x.var(1, correction=0), naive_variance, inputs=[dlp.normal(4, 64, mean=100)], wrt=[])
    tanh = dlp.layer(F.gelu, jax.nn.gelu, inputs=[X], wrt=[])
    for spec in (naive, tanh):
        assert check(spec, tolerance=tight)["output"].reason == "tolerance"
        assert check(spec, tolerance=loose).ok
    assert [check(spec, tolerance=loose)["output"].note for spec in (naive, tanh)] == ["", "allowed"]
    one_wrong = dlp.layer(torch.sin, lambda x: jnp.sin(x).at[3, 7].add(1), inputs=[X], wrt=[], tolerance=loose)
    assert check(one_wrong)["output"].where == (3, 7)


def test_a_tolerance_says_nothing_of_structure_places_and_integers() -> None:
    loose = dlp.Tolerance(rtol=1e6, atol=1e6)
    spec = dlp.layer(
        lambda x: (x.sin(), x.mean(0), x.log(), x.argmax(1)), lambda x: (jnp.sin(x), x.mean(1), jnp.log(abs(x)), x.argmin(1)), inputs=[X], wrt=[],
        tolerance=loose,
    )  # fmt: skip
    assert list(statuses(check(spec)).values()) == ["agree", "structure", "nonfinite", "semantics"]


# ---------------------------------------------------------------- vacuous: nothing was tested


def test_no_leaf_at_all_is_vacuous() -> None:
    report = check(dlp.layer(lambda x: None, lambda x: (), inputs=[X], wrt=[]))
    assert reasons(report) == {"output": "no leaves"} and statuses(report) == {"output": "vacuous"} and not report.ok


def test_no_output_and_its_zero_gradient_are_vacuous() -> None:
    assert reasons(check(dlp.layer(lambda x: {}, lambda x: [], inputs=[X]))) == {"grad.input": "zero gradient"}


def test_empty_leaves_are_vacuous() -> None:
    assert reasons(check(dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(0, 8)]))) == {"output": "empty", "grad.input": "empty"}


def test_nan_everywhere_on_both_sides_is_vacuous() -> None:
    report = check(dlp.layer(lambda x: (x * 0 - 1).log(), lambda x: jnp.log(x * 0 - 1), inputs=[X], wrt=[]))
    assert reasons(report) == {"output": "no finite"}


def test_a_constant_output_and_its_zero_gradient_are_vacuous() -> None:
    report = check(dlp.layer(lambda x: torch.ones(4), lambda x: jnp.ones(4), inputs=[X]))
    assert reasons(report) == {"output": "constant", "grad.input": "zero gradient"}


KINDS = ["float", "int", "bool", "mask", "zeros"]


@pytest.mark.parametrize("value", [lambda x: 3.0, lambda x: 3, lambda x: True, lambda x: x > 1e6, lambda x: 0 * x], ids=KINDS)
def test_constants_of_every_kind_are_vacuous(value: Any) -> None:
    assert reasons(check(dlp.layer(value, value, inputs=[X], wrt=[]))) == {"output": "constant"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_bias_whose_gradient_xla_sums_in_half_precision_agrees(dtype: str) -> None:
    """On a CPU XLA rounds every partial sum of 4096 terms, torch sums in float32: the port is right all the same."""
    side = lambda p, x: x + p["b"][:, None, None]
    found = check(dlp.layer(side, side, inputs=[dlp.normal(4, 3, 32, 32)], params={"b": dlp.normal(3)}), dtype)["grad.b"]
    assert (found.status, found.side, found.note) == ("agree", "jax", "rounding inside") and found.error > 8 * found.noise


NEGATIVE = np.array([-1.0, -2.5, -0.25])


@pytest.mark.parametrize("side", [jax.nn.relu, lambda x: 0 * x], ids=["right", "wrong"])
@pytest.mark.parametrize("inputs", [NEGATIVE, NEGATIVE[:1]], ids=["three", "one"])
def test_an_output_that_is_one_number_at_these_inputs_is_vacuous(side: Any, inputs: np.ndarray) -> None:
    report = check(dlp.layer(torch.nn.functional.relu, side, inputs=[inputs]))
    assert report["output"].status == "vacuous" and not report.ok
    if inputs.size > 1:
        assert reasons(report)["output"] == "flat"
        assert "output is vacuous: at these inputs it is 0 everywhere, and every gradient is zero" in str(report)
        assert "Nothing was tested: draw inputs at which it is not constant." in str(report)


FLAT_AND_TESTED: dict[str, dlp.Spec] = {
    "some are on": dlp.layer(torch.nn.functional.relu, jax.nn.relu, inputs=[np.array([-1.0, 2.0])]),
    "one step": dlp.layer(torch.floor, jnp.floor, inputs=[np.array([3.5])], wrt=[]),
    "steps": dlp.layer(torch.floor, jnp.floor, inputs=[np.array([3.5, 4.5])], wrt=[]),
    "a zero that has a gradient": dlp.layer(
        lambda p, x: p["w"] * x, lambda p, x: p["w"] * x, inputs=[X], params={"w": lambda rng: np.zeros(8)}, wrt=["w"]
    ),
    "a loss of zero": dlp.loss(torch.nn.functional.mse_loss, lambda x, y: ((x - y) ** 2).mean(), inputs=[np.ones(3), np.ones(3)]),
}


@pytest.mark.parametrize("case", FLAT_AND_TESTED)
def test_one_number_with_a_gradient_or_that_rounding_moves_is_no_vacuum(case: str) -> None:
    assert check(FLAT_AND_TESTED[case]).ok


def test_a_spec_without_inputs_is_vacuous() -> None:
    assert reasons(check(dlp.layer(lambda: torch.ones(3), lambda: jnp.ones(3), inputs=[]))) == {"output": "constant"}


def test_the_zero_gradient_of_an_unused_input_is_vacuous() -> None:
    report = check(dlp.layer(lambda x, y: x.sin(), lambda x, y: jnp.sin(x), inputs=[X, dlp.normal(3)]))
    assert reasons(report) == {"output": "", "grad.input0": "", "grad.input1": "zero gradient"}


def test_an_unused_parameter_is_vacuous() -> None:
    spec = dlp.layer(lambda p, x: x * p["a"], lambda p, x: x * p["a"], inputs=[X], params={"a": dlp.normal(8), "b": dlp.normal(8)})
    assert reasons(check(spec))["grad.b"] == "zero gradient"


def test_a_step_that_changes_nothing_is_vacuous() -> None:
    spec = dlp.optimizer(lambda p: torch.optim.SGD(p, lr=0.0), optax.sgd(0.0), params={"w": dlp.normal(3)}, steps=1)
    assert reasons(check(spec)) == {"update.1.w": "zero update"}


@pytest.mark.parametrize("tolerance", ["conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5)], ids=str)
def test_a_conventional_tolerance_does_not_make_vacuous_leaves_pass(tolerance: Any) -> None:
    spec = dlp.layer(lambda x, y: (x.sin(), torch.ones(3)), lambda x, y: (jnp.sin(x), jnp.ones(3)), inputs=[X, dlp.normal(3)])
    report = check(spec, tolerance=tolerance)
    assert statuses(report) == {"output.0": "agree", "output.1": "vacuous", "grad.input0": "agree", "grad.input1": "vacuous"}


# ---------------------------------------------------------------- strange inputs that must not pass


@pytest.mark.parametrize(
    ("torch_side", "jax_side"),
    [
        (lambda x: {"a.b": x.sin(), "a": {"b": x}}, lambda x: {"a.b": x * 2, "a": {"b": x}}),
        (lambda x: {1: x.sin(), "1": x}, lambda x: {1: x * 2, "1": x}),
    ],
    ids=["a dot in a key", "a number and its text"],
)
def test_two_leaves_under_one_name_do_not_hide_one_another(torch_side: Any, jax_side: Any) -> None:
    try:
        report = check(dlp.layer(torch_side, jax_side, inputs=[X]))
    except dlp.SpecError:
        return
    assert not report.ok


def test_an_output_in_another_order_does_not_pass() -> None:
    assert not check(dlp.layer(lambda x: (x.sin(), x.cos()), lambda x: (jnp.cos(x), jnp.sin(x)), inputs=[X])).ok


def test_random_numbers_of_two_frameworks_do_not_pass_and_the_remark_says_why() -> None:
    noise = jax.random.normal(jax.random.key(0), (4, 8))
    report = check(dlp.layer(lambda x: x + torch.randn(4, 8), lambda x: x + noise, inputs=[X]))
    assert not report.ok
    assert report.remarks == (
        "  note: the torch side drew random numbers (dropout in train mode?): give train=False, shared_randomness=True, or draw them with dlp "
        "and pass them in",
    )


def test_nan_at_the_same_places_does_not_hide_a_difference_elsewhere() -> None:
    report = check(dlp.layer(lambda x: x.log(), lambda x: jnp.log(x) * 1.001, inputs=[np.array([-1.0, 2.0, 3.0])], wrt=[]))
    assert report["output"].status == "semantics"


def test_a_tiny_wrong_leaf_is_seen_beside_a_large_right_one() -> None:
    report = check(dlp.layer(lambda x: (x * 1e6, x * 1e-20), lambda x: (x * 1e6, x * -1e-20), inputs=[X]))
    assert statuses(report)["output.1"] == "semantics"


def test_a_report_without_verdicts_is_not_ok() -> None:
    spec = dlp.layer(torch.sin, jnp.sin, inputs=[X])
    empty = Report(spec, (matrix.Cell("cpu", "float32"),), ())
    assert not empty.ok
    with pytest.raises(dlp.ParityError, match=r"^sin \[cpu-float32\]: nothing was compared$"):
        empty.raise_if_failed()


# ---------------------------------------------------------------- inconclusive


def no_doubles_in_torch(x: torch.Tensor) -> torch.Tensor:
    if x.dtype is torch.float64:
        raise RuntimeError("no doubles in this kernel")
    return x.sin()


def no_doubles_in_jax(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.float64:
        raise RuntimeError("no doubles in this kernel")
    return jnp.sin(x)


@pytest.mark.parametrize(("torch_side", "jax_side"), [(no_doubles_in_torch, jnp.sin), (torch.sin, no_doubles_in_jax)], ids=["torch", "jax"])
def test_a_side_that_raises_in_float64_only_is_inconclusive_and_strict_makes_it_a_failure(torch_side: Any, jax_side: Any) -> None:
    spec = dlp.layer(torch_side, jax_side, inputs=[X])
    report, strict = check(spec), check(spec, strict=True)
    assert reasons(report) == {"output": "no float64", "grad.input": "no float64"} and report.ok
    assert statuses(strict) == {"output": "inconclusive", "grad.input": "inconclusive"} and not strict.ok
    assert "RuntimeError at test_verdicts.py:" in report["output"].detail[0] and 0 < report["output"].power < 1e-4


def test_without_float64_a_difference_beyond_rounding_is_still_a_failure() -> None:
    report = check(dlp.layer(no_doubles_in_torch, lambda x: jnp.sin(x) * 1.001, inputs=[X]))
    assert (report["output"].status, report["output"].reason) == ("precision", "no float64 apart")


def test_without_float64_places_structure_and_integers_are_still_judged() -> None:
    spec = dlp.layer(
        lambda x: (no_doubles_in_torch(x), 1 / (x * 0), x.mean(0), x > 0, x > 0),
        lambda x: (jnp.sin(x), -1 / (x * 0), x.mean(1), x > 0, x < 0),
        inputs=[X], wrt=[],
    )  # fmt: skip
    found = statuses(check(spec))
    assert (found["output.0"], found["output.2"], found["output.4"]) == ("inconclusive", "structure", "precision")
    assert found["output.1"] in ("nonfinite", "agree", "vacuous", "inconclusive")


def test_a_side_that_raises_everywhere_raises_what_it_raises() -> None:
    def broken(x: Any) -> Any:
        raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match=r"^the user's own"):
        check(dlp.layer(broken, jnp.sin, inputs=[X]))
    with pytest.raises(ZeroDivisionError, match=r"^the user's own"):
        check(dlp.layer(torch.sin, broken, inputs=[X]))


# ---------------------------------------------------------------- agree: no false alarm


def conv_and_norm(p: Any, x: Any) -> Any:
    h = jax.lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=("NCW", "OIW", "NCW")) + p["b"][:, None]
    return (h - h.mean((0, 2), keepdims=True)) / jnp.sqrt(h.var((0, 2), keepdims=True) + 1e-5)


RIGHT = {
    "softplus": dlp.layer(F.softplus, jax.nn.softplus, inputs=[X]),
    "finfo.eps of the dtype": dlp.layer(
        lambda x: x / (x.norm() + torch.finfo(x.dtype).eps), lambda x: x / (jnp.linalg.norm(x) + jnp.finfo(x.dtype).eps), inputs=[X]
    ),
    "finfo.eps that matters": dlp.layer(
        lambda x: x / (x.norm() + torch.finfo(x.dtype).eps),
        lambda x: x / (jnp.linalg.norm(x) + jnp.finfo(x.dtype).eps),
        inputs=[dlp.normal(4, 8, scale=1e-7)],
    ),
    "finfo.min as a mask": dlp.layer(
        lambda x, m: x.masked_fill(~m, torch.finfo(x.dtype).min).softmax(1),
        lambda x, m: jax.nn.softmax(jnp.where(m, x, jnp.finfo(x.dtype).min), 1),
        inputs=[X, dlp.booleans(4, 8)],
    ),
    "relu at exact zeros": dlp.layer(torch.relu, jax.nn.relu, inputs=[AT_ZERO]),
    "argmax": dlp.layer(lambda x: x.argmax(1), lambda x: jnp.argmax(x, 1), inputs=[X], wrt=[]),
    "a label and its float": dlp.layer(lambda x: (x.argmax(1), x.max(1)[0]), lambda x: (jnp.argmax(x, 1), x.max(1)), inputs=[X]),
    "detached on both sides": dlp.layer(lambda x: x.detach() * 2, lambda x: jax.lax.stop_gradient(x) * 2, inputs=[X]),
    "the loss of equal arrays is zero": dlp.loss(F.mse_loss, lambda x, y: ((x - y) ** 2).mean(), inputs=[AT_ZERO, AT_ZERO]),
    "a loss that cancels to nearly zero": dlp.loss(
        lambda x, y: (x * 3).mean() - 3 * y.mean(), lambda x, y: (x * 3).mean() - 3 * y.mean(), inputs=[AT_ZERO + 0.1, AT_ZERO + 0.1]
    ),
    "NaN at the same places": dlp.layer(torch.log, jnp.log, inputs=[np.array([-1.0, 2.0, 3.0])], wrt=[]),
    "infinities at the same places": dlp.layer(lambda x: 1 / x, lambda x: 1 / x, inputs=[np.array([0.0, 2.0, 3.0])], wrt=[]),
    "numbers of 1e-30": dlp.layer(lambda x: x * 1e-30, lambda x: x * 1e-30, inputs=[X]),
    "numbers of 1e30": dlp.layer(lambda x: x * 1e30, lambda x: x * 1e30, inputs=[X]),
    "a scalar of a scalar": dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal()]),
    "a reordered sum": dlp.layer(lambda x: x.sum(1), lambda x: x[:, ::-1].cumsum(1)[:, -1], inputs=[dlp.normal(4, 257)]),
    "a softmax of large numbers": dlp.layer(lambda x: x.softmax(1), jax.nn.softmax, inputs=[dlp.normal(4, 8, mean=1000, scale=10)]),
    "complex numbers": dlp.layer(lambda x: torch.fft.fft(x), jnp.fft.fft, inputs=[X]),
    "one hot of one label": dlp.layer(
        lambda y: F.one_hot(y, 10), lambda y: jax.nn.one_hot(y, 10, dtype=int), inputs=[dlp.integers(1, high=10)]
    ),
    "a histogram of labels": dlp.layer(
        lambda y: torch.bincount(y, minlength=10), lambda y: jnp.bincount(y, length=10), inputs=[dlp.integers(16, high=10)]
    ),
    "a mask of three": dlp.layer(lambda x: x > 0, lambda x: x > 0, inputs=[dlp.normal(3)], wrt=[]),
    "a mean of a mask": dlp.layer(lambda m: m.double().mean(), lambda m: m.astype(float).mean(), inputs=[dlp.booleans(7)]),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_port_agrees(case: str) -> None:
    report = check(RIGHT[case])
    assert set(statuses(report).values()) == {"agree"}, str(report)


@pytest.mark.parametrize("case", ["softplus", "finfo.eps of the dtype"])
def test_a_right_port_agrees_in_every_dtype(case: str) -> None:
    report = dlp.check(RIGHT[case], devices=["cpu"], dtypes=["float64", "float32", "bfloat16", "float16"])
    assert {(v.name, str(v.cell)) for v in report.verdicts if v.status != "agree"} == set(), str(report)
    assert len(report.cells) == 4


def test_a_conv_bias_before_batch_norm_whose_gradient_is_zero_up_to_rounding_agrees() -> None:
    spec = dlp.layer(
        lambda p, x: F.batch_norm(F.conv1d(x, p["w"], p["b"], padding="same"), None, None, training=True),
        conv_and_norm,
        params={"w": dlp.normal(3, 2, 3), "b": dlp.normal(3)},
        inputs=[dlp.normal(2, 2, 5)],
    )
    report = dlp.check(spec, devices=["cpu"], dtypes=["float32", "bfloat16"])
    assert {(v.name, str(v.cell)) for v in report.verdicts if v.status != "agree"} == set(), str(report)


def test_every_status_is_reached_in_this_file() -> None:
    reached = {
        *statuses(check(dlp.layer(lambda x: (x.T, x.exp(), x.sin()), lambda x: (x, x, jnp.sin(x)), inputs=[X], wrt=[]))).values(),
        *statuses(check(dlp.layer(lambda x: 1 / x, lambda x: -1 / x, inputs=[np.zeros(2)], wrt=[]))).values(),
        *statuses(check(dlp.layer(naive_variance, lambda x: x.var(1), inputs=[dlp.normal(4, 64, mean=100)]))).values(),
        *statuses(check(dlp.layer(lambda x: 1.0, lambda x: 1.0, inputs=[X], wrt=[]))).values(),
        *statuses(check(dlp.layer(no_doubles_in_torch, jnp.sin, inputs=[X]))).values(),
    }
    assert reached == {"structure", "nonfinite", "semantics", "precision", "vacuous", "inconclusive", "agree"}


def test_a_verdict_says_its_power_and_the_power_is_true() -> None:
    def port(change: float) -> Spec:
        return dlp.layer(torch.sin, lambda x: jnp.sin(x) * (1 + change), inputs=[X])

    power = check(port(0.0))["output"].power
    assert 0 < power < 1e-12
    assert [check(port(change), "float64")["output"].ok for change in (power / 20, 20 * power)] == [True, False]


def test_bits_count_the_bits_that_the_sides_share() -> None:
    bits = [check(dlp.layer(torch.sin, lambda x, c=c: jnp.sin(x) * (1 + c), inputs=[X]))["output"].bits for c in (2.0**-6, 2.0**-12)]
    assert bits == pytest.approx([6, 12], abs=0.01)
    assert all(a < b for a, b in itertools.pairwise(bits))


# ---------------------------------------------------------------- a schedule that ends at zero


def falling(last: float) -> Spec:
    """A rate of 1, a half and zero in torch; of 1, a half and `last` in jax."""

    def torch_side(params: Any) -> Any:
        optimizer = torch.optim.SGD(params, lr=1.0)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1.0, 0.5, 0.0, 0.0)[step])

    return dlp.optimizer(torch_side, optax.sgd(lambda count: jnp.asarray([1.0, 0.5, last])[count]), params={"w": dlp.normal(5)}, steps=3)


@pytest.mark.parametrize(("last", "status"), [(0.0, "agree"), (1e-16, "agree"), (1e-8, "agree"), (1e-4, "semantics")])
def test_a_step_of_nothing_is_held_against_the_size_of_the_other_steps(last: float, status: str) -> None:
    assert check(falling(last), "bfloat16")["update.3.w"].status == status
