"""A limit is held, exceeded, or cannot be told, and each is said in a sentence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pytest_dlparity import gate
from pytest_dlparity.errors import SpecError
from pytest_dlparity.gate import EXCEEDED, HELD, UNDECIDED, Figure, Ratio


def figure(value: float, spread: float = 0.01, *, torch: float = 1.0, best: float | None = None) -> Figure:
    """jax takes `value` times as long, give or take `spread` of it; torch's best round takes `torch`, jax's as much as that makes."""
    return Figure("k", Ratio(value, value * (1 - spread), value * (1 + spread)), {"torch": torch, "jax": torch * (best or value)})


# ---------------------------------------------------------------- jax over torch


@pytest.mark.parametrize(
    ("found", "status", "sentence"),
    [
        (figure(2.0), EXCEEDED, "mlp: jax takes 2 [1.98, 2.02] times as long as torch (best rounds: 2), more than max_ratio=1.5."),
        (figure(1.4), HELD, "mlp: jax takes 1.4 [1.39, 1.41] times as long as torch (best rounds: 1.4), within max_ratio=1.5."),
        (
            figure(1.4, 0.2),
            UNDECIDED,
            "mlp: too noisy to tell: jax takes 1.4 [1.12, 1.68] times as long as torch (best rounds: 1.4), and max_ratio is 1.5.",
        ),
        (
            figure(2.0, best=1.2),
            UNDECIDED,
            "mlp: too noisy to tell: jax takes 2 [1.98, 2.02] times as long as torch (best rounds: 1.2), and max_ratio is 1.5.",
        ),
        (
            figure(1.2, best=1.7),
            UNDECIDED,
            "mlp: too noisy to tell: jax takes 1.2 [1.19, 1.21] times as long as torch (best rounds: 1.7), and max_ratio is 1.5.",
        ),
    ],
    ids=["exceeded", "held", "wide", "best rounds below", "best rounds above"],
)
def test_a_ratio_beside_its_limit(found: Figure, status: str, sentence: str) -> None:
    assert gate.of_ratio("mlp", found, 1.5) == (status, sentence)


def test_a_ratio_that_is_just_the_limit_holds_it() -> None:
    assert gate.of_ratio("mlp", figure(1.5, 0.0), 1.5).status == HELD


# ---------------------------------------------------------------- against stored runs


def ruled(now: Figure, *then: Figure) -> gate.Ruling:
    return gate.of_regression("mlp", now, then, 0.1)


def test_no_change_is_held() -> None:
    assert ruled(figure(2.0), figure(2.0)) == (HELD, "mlp: no slower than in the baseline by more than 10%.")


def test_jax_slower_by_itself_and_beside_torch_is_exceeded() -> None:
    assert ruled(figure(3.0), figure(2.0)) == (
        EXCEEDED,
        "mlp: jax takes 1.5 [1.48, 1.52] times as long beside torch as in the baseline, and its best round 1.5 times as long, more than "
        "max_regression=10%.",
    )


def test_torch_slower_by_itself_and_beside_jax_is_exceeded() -> None:
    now = figure(1.0, torch=2.0)
    assert ruled(now, figure(2.0)) == (
        EXCEEDED,
        "mlp: torch takes 2 [1.97, 2.03] times as long beside jax as in the baseline, and its best round 2 times as long, more than "
        "max_regression=10%.",
    )


@pytest.mark.parametrize("faster", [0.5, 0.8])
def test_a_side_that_became_faster_does_not_make_the_other_one_slower(faster: float) -> None:
    for side, now in (("torch", figure(2.0 / faster, torch=faster)), ("jax", figure(2.0 * faster))):
        other = "jax" if side == "torch" else "torch"
        found = ruled(now, figure(2.0))
        assert found.status == UNDECIDED
        assert found.sentence.startswith(f"mlp: {other} takes ") and found.sentence.endswith(
            f"but its best round only 1 times as long: {side} is faster than it was, or the machine is. Store a new baseline if that is meant."
        )


@pytest.mark.parametrize("slower", [1.5, 3.0])
def test_a_machine_that_became_slower_is_no_regression_and_is_said(slower: float) -> None:
    assert ruled(figure(2.0, torch=slower), figure(2.0)) == (
        UNDECIDED,
        f"mlp: the best rounds of both sides take longer than in the baseline (torch {slower:g} times, jax {slower:g} times): the machine is "
        "slower than it was, or both do more.",
    )


def test_a_machine_that_became_faster_does_not_hide_a_slower_jax() -> None:
    assert ruled(figure(3.0, torch=0.5), figure(2.0)).status == UNDECIDED


@pytest.mark.parametrize("now", [figure(2.1, 0.2), figure(2.3, 0.1)])
def test_what_is_too_noisy_is_said(now: Figure) -> None:
    found = ruled(now, figure(2.0))
    assert found.status == UNDECIDED
    assert re.fullmatch(
        r"mlp: too noisy to tell: jax takes 1\.\d+ \[[\d.]+, 1\.\d+\] times as long beside torch as in the baseline, and max_regression is 10%\.",
        found.sentence,
    )


def test_several_stored_runs_span_what_changes_from_run_to_run() -> None:
    assert ruled(figure(2.4), figure(2.0)).status == EXCEEDED
    assert ruled(figure(2.4), figure(2.0), figure(2.5)).status == UNDECIDED


def test_the_interval_of_a_change_holds_the_truth_in_95_of_100_pairs_of_runs() -> None:
    """Two runs of 40 rounds each, whose intervals are those of a mean of logarithms: the truth is that nothing changed."""
    rng = np.random.default_rng(0)

    def measured() -> Ratio:
        drawn = 0.1 * rng.standard_normal(40)
        half = 1.96 * drawn.std(ddof=1) / np.sqrt(40)
        return Ratio(*(float(np.exp(drawn.mean() + shift)) for shift in (0, -half, half)))

    changes = [gate.change(measured(), [measured()]) for _ in range(1000)]
    assert 0.92 < np.mean([one.low <= 1 <= one.high for one in changes]) < 0.98


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize(("given", "limit"), [("1.5", 1.5), (1.5, 1.5), (2, 2.0), (None, None), ("", None), ("1e-1", 0.1)])
def test_limits_of_ratios(given: Any, limit: float | None) -> None:
    assert gate.ratio_limit(given, "max_ratio") == limit


@pytest.mark.parametrize("given", ["fast", "0", -1, float("nan"), "inf", True, [1.5], "150%"])
def test_what_is_no_limit_of_a_ratio(given: Any) -> None:
    says = f"max_ratio is {given!r}. Give the most that jax may take beside torch, a number above 0: 1.5."
    with pytest.raises(SpecError, match=f"^{re.escape(says)}$"):
        gate.ratio_limit(given, "max_ratio")


@pytest.mark.parametrize(("given", "limit"), [("10%", 0.1), (" 2.5 % ", 0.025), ("0%", 0.0), (None, None), ("", None)])
def test_limits_of_regressions(given: Any, limit: float | None) -> None:
    found = gate.regression_limit(given, "max_regression")
    assert found == limit and gate.regression_limit(found, "max_regression") == limit


@pytest.mark.parametrize("given", ["10", 10, 0.1, "-5%", "much", "nan%", True])
def test_what_is_no_percentage(given: Any) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(f'max_regression is {given!r}. Give a percentage: 10%.')}$"):
        gate.regression_limit(given, "max_regression")
