"""Draws: the same numbers for one (seed, name), other numbers for any other, and a wrong draw answered in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import draws


def test_draws_print_as_the_calls_that_make_them() -> None:
    made = [
        dlp.normal(2, 3), dlp.normal(2, mean=1.5, scale=0.1), dlp.normal(), dlp.uniform(4), dlp.uniform(4, low=-1.0), dlp.integers(3, high=10),
        dlp.integers(3, low=1, high=10), dlp.booleans(2, 2), dlp.fixed(np.ones((2, 3), np.float32)), dlp.fixed(3),
    ]  # fmt: skip
    assert list(map(repr, made)) == [
        "normal(2, 3)", "normal(2, mean=1.5, scale=0.1)", "normal()", "uniform(4)", "uniform(4, low=-1.0)", "integers(3, high=10)",
        "integers(3, low=1, high=10)", "booleans(2, 2)", "fixed(float32[2,3])", "fixed(int64[])",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "dtype", "low", "high"),
    [
        (dlp.normal(1000, mean=5, scale=0.1), np.float64, 4.4, 5.6),
        (dlp.uniform(1000, low=-2, high=-1), np.float64, -2, -1),
        (dlp.integers(1000, low=-3, high=4), np.int64, -3, 3),
        (dlp.booleans(1000), np.bool_, 0, 1),
    ],
    ids=repr,
)
def test_a_draw_has_its_shape_dtype_and_range(draw: dlp.Draw, dtype: type, low: float, high: float) -> None:
    made = draws.drawn(draw, 0, "x")
    assert made.shape == (1000,) and made.dtype == dtype and made.min() >= low and made.max() <= high and len(set(made.tolist())) > 1


def test_whole_numbers_reach_both_ends_and_never_the_bound() -> None:
    assert set(draws.drawn(dlp.integers(500, low=-1, high=2), 0, "x").tolist()) == {-1, 0, 1}


def test_the_numbers_hang_on_the_seed_and_the_name_alone() -> None:
    first = draws.drawn(dlp.normal(8), 0, "x")
    assert np.array_equal(first, draws.drawn(dlp.normal(8), 0, "x"))
    assert not np.array_equal(first, draws.drawn(dlp.normal(8), 0, "y")) and not np.array_equal(first, draws.drawn(dlp.normal(8), 1, "x"))
    np.random.seed(7)
    assert np.array_equal(first, draws.drawn(dlp.normal(8), 0, "x"))


def test_the_numbers_are_the_same_tomorrow() -> None:
    assert draws.drawn(dlp.normal(2), 0, "input").tolist() == pytest.approx([0.45971890, -0.13736735], abs=1e-7)


def test_shapes_may_be_scalar_empty_and_of_numpy_integers() -> None:
    shapes = [draws.drawn(draw, 0, "x").shape for draw in (dlp.normal(), dlp.normal(0, 3), dlp.normal(np.int64(2)), dlp.booleans(), dlp.uniform())]
    assert shapes == [(), (0, 3), (2,), (), ()]


def test_a_users_function_draws_from_the_generator_it_gets() -> None:
    def sorted_normals(rng: np.random.Generator) -> np.ndarray:
        return np.sort(rng.normal(size=4)).astype(np.float32)

    draw = draws.as_draw(sorted_normals, "x")
    made = draws.drawn(draw, 0, "x")
    assert repr(draw) == "sorted_normals" and made.dtype == np.float64 and (np.diff(made) > 0).all()
    assert repr(draws.as_draw(lambda rng: rng.random(2), "x")) == "draw"


def test_classes_of_numbers_are_kept_and_widened() -> None:
    given = [np.float16(1), np.uint8(1), np.int16(1), np.complex64(1j), np.bool_(True), [1, 2], [1.5], 2, 1j, True]
    kinds = [draws.drawn(draws.as_draw(value, "x"), 0, "x").dtype.name for value in given]
    assert kinds == ["float64", "int64", "int64", "complex128", "bool", "int64", "float64", "int64", "complex128", "bool"]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, -2.0]), torch.tensor([1.5, -2.0]), torch.tensor([1.5, -2.0], requires_grad=True), torch.tensor([1.5, -2.0]).bfloat16(),
        torch.tensor([1.5, -2.0]).half(), jnp.array([1.5, -2.0]), jnp.array([1.5, -2.0], jnp.bfloat16), [1.5, -2.0],
    ],
    ids=lambda a: f"{type(a).__module__.split('.')[0]} {getattr(a, 'dtype', '')}",
)  # fmt: skip
def test_fixed_takes_arrays_of_every_library_without_a_warning(array: Any) -> None:
    made = draws.drawn(dlp.fixed(array), 0, "x")
    assert made.tolist() == [1.5, -2.0] and made.dtype == np.float64


def test_fixed_keeps_a_copy_that_nobody_can_write_to() -> None:
    mine = np.ones(2)
    draw = dlp.fixed(mine)
    mine[:] = 7
    kept = draw.make(np.random.default_rng())
    assert kept.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 3


def test_a_draw_does_not_change() -> None:
    with pytest.raises(AttributeError):
        dlp.normal(2).text = "other"  # type: ignore[misc]


ANSWERED: dict[str, tuple[Callable[[], Any], str]] = {
    "a shape as a tuple": (lambda: dlp.normal((2, 3)), "normal has the size (2, 3). Give whole numbers, one for each axis: normal(8, 64)."),
    "half a row": (lambda: dlp.uniform(2.5), "uniform has the size 2.5. Give whole numbers, one for each axis: uniform(8, 64)."),
    "a negative size": (lambda: dlp.booleans(-1), "booleans has the size -1. Give whole numbers, one for each axis: booleans(8, 64)."),
    "True rows": (lambda: dlp.integers(True, high=3), "integers has the size True. Give whole numbers, one for each axis: integers(8, 64)."),
    "no high": (lambda: dlp.integers(32), "integers has no high. Give the first number that is too large: integers(32, high=10)."),
    "low above high": (
        lambda: dlp.integers(3, low=5, high=5),
        "integers has low=5 and high=5. Give high above low: integers(32, low=0, high=10).",
    ),
    "uniform upside down": (
        lambda: dlp.uniform(3, low=1.0, high=0.0),
        "uniform has low=1.0 and high=0.0. Give high above low: uniform(8, low=0.0, high=1.0).",
    ),
    "NaN as a bound": (
        lambda: dlp.uniform(3, low=np.nan),
        "uniform has low=nan and high=1.0. Give high above low: uniform(8, low=0.0, high=1.0).",
    ),
    "text from a function": (
        lambda: draws.drawn(draws.as_draw(lambda rng: np.array(["a"]), "x"), 0, "x"),
        "the draw of x gives an array of dtype <U1. Give numbers: floats, integers, booleans or complex.",
    ),
    "nothing from a function": (
        lambda: draws.drawn(draws.as_draw(lambda rng: None, "x"), 0, "x"),
        "the draw of x gives an array of dtype |O. Give numbers: floats, integers, booleans or complex.",
    ),
    "a text": (
        lambda: draws.as_draw("normal", "inputs[0]"),
        "inputs[0] is 'normal'. Give a draw such as dlp.normal(8, 64), dlp.fixed(array), or a function of a numpy Generator that returns an array.",
    ),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_a_wrong_draw_is_answered_in_words(case: str) -> None:
    call, sentence = ANSWERED[case]
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(sentence)}$"):
        call()
