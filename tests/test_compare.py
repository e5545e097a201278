"""Two outcomes to verdicts: faults planted into the arrays of a right port, so that each limit is met from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pytest_dlparity as dlp
from pytest_dlparity import compare, parity, run
from pytest_dlparity.compare import RMS, STATUSES, WORST, Verdict
from pytest_dlparity.matrix import Cell
from pytest_dlparity.run import Outcome
from pytest_dlparity.tolerance import FORMATS, Tolerance

CELL = Cell("cpu", "float32")
SINGLE = FORMATS["float32"]
SPEC = dlp.layer(
    lambda x, i: (x.sin(), i * 2, x > 0), lambda x, i: (jnp.sin(x), i * 2, x > 0), inputs=[dlp.normal(16, 16), dlp.integers(16, high=9)]
)  # fmt: skip
FLOAT, INTEGER, MASK, GRADIENT = "output.0", "output.1", "output.2", "grad.input0"


@pytest.fixture(scope="module")
def right() -> tuple[Any, Outcome, Outcome]:
    """(reference, torch outcome, jax outcome) of a right port."""
    ready = parity.begun(SPEC, 0, ["float32"])
    torch_ready = run.torch_ready(ready.prep, "cpu", "float32", False)
    return ready.reference, run.torch_outcome(ready.prep, torch_ready, "cpu", "float32"), run.jax_outcome(ready.prep, "cpu", "float32", True)


Change = Callable[[np.ndarray], np.ndarray]


def judged(right: Any, torch_side: dict[str, Any] | None = None, jax_side: dict[str, Any] | None = None, tolerated: Any = None) -> dict[str, Verdict]:
    """Verdicts after some leaves of a side were changed; None takes a leaf away."""
    reference, *outcomes = right
    changed = []
    for outcome, changes in zip(outcomes, (torch_side or {}, jax_side or {}), strict=True):
        leaves = dict(outcome.leaves)
        for name, change in changes.items():
            leaves[name] = change(leaves[name].copy()) if callable(change) and name in leaves else change
        changed.append(replace(outcome, leaves={name: array for name, array in leaves.items() if array is not None}))
    return {v.name: v for v in compare.verdicts(CELL, *changed, reference, tolerated, SINGLE)}


def statuses(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: v.status for name, v in found.items()}


def at(place: Any, value: Any) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


def test_a_right_port_agrees_in_every_leaf(right: Any) -> None:
    assert statuses(judged(right)) == {FLOAT: "agree", INTEGER: "agree", MASK: "agree", GRADIENT: "agree"}


def test_every_leaf_has_one_verdict_in_the_order_of_the_sides(right: Any) -> None:
    found = judged(right, {"extra": np.ones(3)}, {"more": np.ones(3), FLOAT: None})
    assert list(found) == [FLOAT, INTEGER, MASK, "extra", "more"]  # without the same outputs gradients have no meaning


# ---------------------------------------------------------------- structure


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "missing"),
        (lambda a: a.T[:8], "shapes"),
        (lambda a: a[None], "shapes"),
        (lambda a: a[..., None], "shapes"),
        (lambda a: a[:1], "shapes"),
        (lambda a: a.sum(), "shapes"),
        (lambda a: a.astype(int), "classes"),
        (lambda a: a.astype(bool), "classes"),
        (lambda a: a.astype(complex), "classes"),
    ],
)
@pytest.mark.parametrize("side", ["torch", "jax"])
def test_structure_is_settled_before_any_number(right: Any, side: str, change: Any, reason: str) -> None:
    found = judged(right, **{f"{side}_side": {FLOAT: change}})
    assert (found[FLOAT].status, found[FLOAT].reason) == ("structure", reason) and not found[FLOAT].ok
    assert found[INTEGER].ok


def test_a_missing_leaf_names_the_side_that_has_it(right: Any) -> None:
    assert judged(right, {FLOAT: None})[FLOAT].side == "jax" and judged(right, None, {FLOAT: None})[FLOAT].side == "torch"


def test_a_leaf_of_nothing_at_all_is_vacuous(right: Any) -> None:
    reference, *_ = right
    (only,) = compare.verdicts(CELL, Outcome({}), Outcome({}), reference, None, SINGLE)
    assert (only.status, only.reason, only.ok) == ("vacuous", "no leaves", False)


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["torch", "jax"])
def test_one_value_that_is_not_finite_on_one_side_is_nonfinite(right: Any, side: str, value: float) -> None:
    found = judged(right, **{f"{side}_side": {FLOAT: at((3, 4), value)}})[FLOAT]
    assert (found.status, found.where, found.detail) == ("nonfinite", (3, 4), (1, 256))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_on_both_sides_where_the_reference_is_does_not_agree(right: Any, value: float) -> None:
    both = {FLOAT: at((3, 4), value)}
    assert not judged(right, both, both)[FLOAT].ok
    everywhere = {FLOAT: at(slice(None), value)}
    assert not judged(right, everywhere, everywhere)[FLOAT].ok


def test_a_conventional_tolerance_does_not_forgive_values_that_are_not_finite(right: Any) -> None:
    loose = Tolerance(rtol=1e3, atol=1e3)
    for value in (np.nan, np.inf):
        assert judged(right, None, {FLOAT: at(0, value)}, tolerated=loose)[FLOAT].status == "nonfinite"


# ---------------------------------------------------------------- values


def moved(right: Any, times: float) -> Change:
    """An error of `times` the leaf's noise, in the root mean square, at random signs."""
    reference, *_ = right
    signs = np.random.default_rng(0).choice([-1, 1], reference.torch.leaves[FLOAT].shape)
    return lambda a: reference.torch.leaves[FLOAT] + times * signs * reference.noise(SINGLE).rms(FLOAT)


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_an_error_just_below_the_limit_agrees_and_just_above_is_precision(right: Any, side: str) -> None:
    below, above = (judged(right, **{f"{side}_side": {FLOAT: moved(right, times)}})[FLOAT] for times in (0.95 * RMS, 1.05 * RMS))
    assert below.status == "agree" and below.error / below.noise == pytest.approx(0.95 * RMS)
    assert (above.status, above.side) == ("precision", side) and above.error / above.noise == pytest.approx(1.05 * RMS)
    assert above.limit == pytest.approx(RMS * above.noise)


def test_one_element_just_below_its_limit_agrees_and_one_that_rounding_inside_cannot_explain_is_precision(right: Any) -> None:
    reference, *_ = right
    noise, truth = reference.noise(SINGLE), reference.torch.leaves[FLOAT]
    place = (5, 6)
    size = noise.elements[FLOAT][place] + compare.FLOOR * noise.rms(FLOAT)
    below, above = (judged(right, None, {FLOAT: at(place, truth[place] + k * WORST * size)})[FLOAT] for k in (0.9, 4.0))
    assert below.status == "agree" and (above.status, above.side, above.where) == ("precision", "jax", place)
    assert above.worst == pytest.approx(4 * WORST, rel=0.5)


def test_errors_of_both_sides_name_the_worse_one(right: Any) -> None:
    found = judged(right, {FLOAT: moved(right, 30)}, {FLOAT: moved(right, -60)})[FLOAT]
    assert (found.status, found.side, found.detail[0]) == ("precision", "jax", 2)


def test_sides_that_move_alike_agree(right: Any) -> None:
    """A constant that hangs on the dtype, finfo.eps for one, moves both sides by the same amount."""
    same = {FLOAT: moved(right, 2 * RMS)}
    found = judged(right, same, same)[FLOAT]
    assert (found.status, found.note) == ("agree", "alike")


def test_zeros_for_a_leaf_are_no_agreement(right: Any) -> None:
    for changes in ({"jax_side": {FLOAT: np.zeros_like}}, {"torch_side": {GRADIENT: np.zeros_like}}):
        found = judged(right, **changes)
        assert "precision" in statuses(found).values()


@pytest.mark.parametrize(("change", "share"), [(lambda a: -a, 0), (lambda a: a * (1 + 2.0**-8), 8), (lambda a: a[::-1].copy(), 0)])
def test_bits_say_how_much_the_sides_share(right: Any, change: Any, share: float) -> None:
    assert judged(right, None, {FLOAT: change})[FLOAT].bits == pytest.approx(share, abs=0.1)


# ---------------------------------------------------------------- integers and booleans


def test_one_integer_that_rounding_cannot_flip_is_precision(right: Any) -> None:
    found = judged(right, None, {INTEGER: at(3, 1)})[INTEGER]
    assert (found.status, found.reason, found.where, found.detail) == ("precision", "unequal", (3,), (1, 16))


def test_one_boolean_that_rounding_cannot_flip_is_precision(right: Any) -> None:
    found = judged(right, {MASK: np.logical_not})[MASK]
    assert (found.status, found.reason, found.detail) == ("precision", "unequal", (256, 256))


# ---------------------------------------------------------------- a conventional tolerance


def test_a_tolerance_is_element_by_element_and_relative_to_jax(right: Any) -> None:
    reference, *_ = right
    truth = reference.torch.leaves[FLOAT].astype(np.float32)
    tolerated = Tolerance(rtol=0.1, atol=0.01)
    limit = 0.01 + 0.1 * abs(truth[2, 2])
    for share, status in ((0.99, "agree"), (1.01, "precision")):
        shifted = at((2, 2), truth[2, 2] + share * limit)
        found = judged(right, {FLOAT: shifted}, {FLOAT: lambda a: truth.copy()}, tolerated=tolerated)[FLOAT]
        assert found.status == status
    assert (found.reason, found.where, found.worst) == ("tolerance", (2, 2), pytest.approx(1.01, rel=1e-3))


def test_a_tolerance_above_the_leafs_own_size_is_said_to_be_blind(right: Any) -> None:
    assert judged(right, tolerated=Tolerance(rtol=0, atol=10))[FLOAT].note == "blind"
    assert judged(right, tolerated=Tolerance(rtol=0, atol=1e-3))[FLOAT].note == ""


def test_a_tolerance_of_zero_asks_for_equality(right: Any) -> None:
    exact = Tolerance(rtol=0, atol=0)
    same = {FLOAT: np.zeros_like}
    assert judged(right, same, same, tolerated=exact)[FLOAT].status != "precision"
    assert judged(right, {FLOAT: lambda a: a * 1.001}, tolerated=exact)[FLOAT].status == "precision"


# ---------------------------------------------------------------- verdicts as values


def test_only_agree_and_inconclusive_are_ok() -> None:
    assert [status for status in STATUSES if Verdict("x", status, CELL).ok] == ["inconclusive", "agree"]


def test_numbers_of_an_agreement_are_all_there(right: Any) -> None:
    found = judged(right)[FLOAT]
    numbers = [found.bits, found.error, found.noise, found.limit, found.power, found.scale, found.worst]
    assert all(math.isfinite(number) and number >= 0 for number in numbers) and found.cell == CELL
    assert found.power < 1e-12 and found.error < found.limit


def test_values_stand_where_the_worst_is(right: Any) -> None:
    reference, torch_outcome, _ = right
    found = judged(right, None, {FLOAT: at((7, 8), 123.0)})[FLOAT]
    assert found.where == (7, 8)
    assert found.values == (torch_outcome.leaves[FLOAT][7, 8].item(), 123.0, reference.torch.leaves[FLOAT][7, 8].item())


