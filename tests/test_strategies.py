"""dlp.strategies: shapes and inputs of hypothesis, as draws."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

import pytest_dlparity as dlp
from pytest_dlparity import draws, tolerance

few = settings(max_examples=5, deadline=None)


def drawn(draw: dlp.Draw) -> np.ndarray:
    return draws.drawn(draw, 0, "x")


@given(dlp.strategies.shapes(2, 4))
def test_shapes_are_as_asked(shape):
    assert 2 <= len(shape) <= 4 and set(shape) <= set(dlp.strategies.SIDES)


@given(dlp.strategies.inputs((3, 2), low=-1.0, high=2.0))
def test_inputs_are_as_asked(draw):
    made = drawn(draw)
    assert made.shape == (3, 2) and made.dtype == np.float64 and (made >= -1).all() and (made <= 2).all()


@given(dlp.strategies.inputs())
def test_inputs_are_exact_in_every_dtype(draw):
    made = drawn(draw)
    assert (tolerance.on_grid(made, tolerance.grid(["float16"])) == made).all()


@given(dlp.strategies.integers(4, high=3), dlp.strategies.booleans((2,)))
def test_whole_numbers_and_masks_are_as_asked(numbers, mask):
    assert drawn(numbers).dtype == np.int64 and set(drawn(numbers).tolist()) <= {0, 1, 2} and drawn(mask).dtype == bool


def test_a_draw_prints_what_can_be_copied():
    least = find(dlp.strategies.inputs((2,)), lambda draw: True)
    assert str(least) == "fixed([0.0, 0.0])"
    assert (drawn(eval(str(least), {"fixed": dlp.fixed})) == drawn(least)).all()


def test_edges_ties_and_what_is_not_finite_are_found():
    tie = find(dlp.strategies.inputs((2,)), lambda draw: drawn(draw)[0] == drawn(draw)[1] != 0)
    assert drawn(tie).shape == (2,)
    assert math.isnan(drawn(find(dlp.strategies.inputs((1,), nonfinite=True), lambda draw: np.isnan(drawn(draw)).any()))[0])
    find(dlp.strategies.inputs((1,)), lambda draw: drawn(draw)[0] == 0 and np.signbit(drawn(draw)[0]))


@few
@given(dlp.strategies.inputs(dlp.strategies.shapes(1, 2)))
def test_a_right_port_agrees_at_any_input(x):
    report = dlp.check(dlp.layer(torch=torch.nn.functional.softplus, jax=jax.nn.softplus, inputs=[x]), devices=["cpu"])
    assert report.ok, report


def test_a_wrong_port_is_found_and_shrunk():
    def wrong(x: dlp.Draw) -> bool:
        return not dlp.check(dlp.layer(torch=torch.nn.functional.leaky_relu, jax=jax.nn.leaky_relu, inputs=[x]), devices=["cpu"]).ok

    least = find(dlp.strategies.inputs((1,)), wrong, settings=settings(max_examples=20, deadline=None))
    assert drawn(least)[0] == 0  # the slope at zero


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: dlp.strategies.shapes(3, 2), "shapes has min_dims=3 and max_dims=2. Give whole numbers, max_dims at least min_dims."),
        (lambda: dlp.strategies.shapes(sides=(0,)), "shapes has the sides (0,). Give lengths of at least 1: sides=(1, 2, 5)."),
        (
            lambda: dlp.strategies.inputs(low=1.0, high=1.0),
            "inputs has low=1.0 and high=1.0. Give high above low: inputs(low=0.0, high=1.0).",
        ),
        (
            lambda: dlp.strategies.integers(3),
            "integers has low=0 and high=None. Give the first number that is too large: integers(high=10).",
        ),
    ],
)
def test_what_means_nothing_is_refused(call, said):
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(said)}$"):
        call()


def test_without_hypothesis_it_says_what_to_install():
    code = "import sys; sys.modules['hypothesis'] = None\nimport pytest_dlparity as dlp\ndlp.strategies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (
        done.stderr.splitlines()[-1]
        == "ImportError: dlp.strategies needs hypothesis, which is not installed. Write: pip install hypothesis."
    )


@given(st.data())
@few
def test_strategies_of_shapes_serve_as_shapes(data):
    shape = data.draw(dlp.strategies.shapes(2, 2))
    assert drawn(data.draw(dlp.strategies.inputs(shape))).shape == shape
