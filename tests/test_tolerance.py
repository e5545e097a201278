"""What a dtype can hold, the grid that every cell shares, and tolerances that mean something or are refused."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import tolerance
from pytest_dlparity.tolerance import DTYPES, FORMATS, Tolerance


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_what_torch_and_numpy_say(name: str) -> None:
    made, theirs = FORMATS[name], torch.finfo(getattr(torch, name))
    assert made.roundoff == theirs.eps / 2 == float(ml_dtypes.finfo(made.scalar).eps) / 2
    assert made.largest == theirs.max


def test_the_roundoff_is_the_largest_relative_error_of_rounding() -> None:
    for made in FORMATS.values():
        if made.name != "float64":
            halfway = 1 + made.roundoff
            assert float(np.float64(halfway).astype(made.scalar)) == 1 and float(np.float64(1 + 1.01 * made.roundoff).astype(made.scalar)) > 1


def test_a_complex_dtype_has_the_format_of_its_parts() -> None:
    assert [tolerance.format_of(dtype).name for dtype in DTYPES] == ["float64", "float32", "float16", "bfloat16", "float64", "float32"]
    with pytest.raises(KeyError):
        tolerance.format_of("float31")


# ---------------------------------------------------------------- the grid


GRIDS = [["float64"], ["float32"], ["bfloat16"], ["float16"], ["float16", "bfloat16"], ["float64", "bfloat16", "float16", "float32"], ["complex64"]]


@pytest.mark.parametrize("dtypes", GRIDS, ids=str)
def test_a_number_on_the_grid_is_exact_in_every_dtype_of_the_matrix(dtypes: list[str]) -> None:
    rng = np.random.default_rng(0)
    array = tolerance.on_grid(rng.normal(size=2000) * 10.0 ** rng.uniform(-4, 4, 2000), tolerance.grid(dtypes))
    assert array.dtype == np.float64 and len(set(array.tolist())) > 100
    for dtype in dtypes:
        assert np.array_equal(array.astype(tolerance.format_of(dtype).scalar).astype(np.float64), array)


def test_the_grid_does_not_hang_on_the_order_of_the_dtypes() -> None:
    assert tolerance.grid(["float16", "bfloat16"]) == tolerance.grid(["bfloat16", "float16", "float16"])


def test_strange_numbers_on_the_grid() -> None:
    bfloat16, both = tolerance.grid(["bfloat16"]), tolerance.grid(["float16", "bfloat16"])
    given = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300])
    assert str(tolerance.on_grid(given, bfloat16).tolist()) == "[0.0, -0.0, inf, -inf, nan, inf]"
    assert tolerance.on_grid(np.array([1e5]), both).tolist() == [np.inf]
    assert tolerance.on_grid(np.array(0.1), bfloat16).shape == () and tolerance.on_grid(np.zeros((0, 2)), bfloat16).shape == (0, 2)


def test_complex_numbers_round_part_by_part_and_others_stay() -> None:
    grid = tolerance.grid(["bfloat16"])
    assert tolerance.on_grid(np.array([0.1 + 0.2j]), grid).tolist() == [0.099609375 + 0.19921875j]
    for array in (np.array([2**40 + 1]), np.array([True])):
        assert tolerance.on_grid(array, grid) is array


@pytest.mark.parametrize(
    ("array", "floating", "inexact"),
    [
        (np.ones(1), True, True), (np.ones(1, ml_dtypes.bfloat16), True, True), (np.ones(1, ml_dtypes.float8_e5m2), True, True),
        (np.ones(1, complex), False, True), (np.ones(1, int), False, False), (np.ones(1, bool), False, False), (np.array(["a"]), False, False),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)  # fmt: skip
def test_kinds_of_numbers_are_known(array: np.ndarray, floating: bool, inexact: bool) -> None:
    assert (tolerance.is_floating(array), tolerance.is_inexact(array)) == (floating, inexact)


# ---------------------------------------------------------------- tolerances


def test_the_conventional_table_is_torchs() -> None:
    from torch.testing._comparison import default_tolerances

    for dtype, made in tolerance.CONVENTIONAL.items():
        assert (made.rtol, made.atol) == default_tolerances(getattr(torch, dtype))
    assert set(tolerance.CONVENTIONAL) == set(DTYPES)


ANSWERED: dict[str, tuple[Any, str]] = {
    "atol missing": (
        lambda: Tolerance(rtol=1e-3),
        "Tolerance gives rtol but not atol. Give both: Tolerance(rtol=0.001, atol=1e-05). With one of them a test can pass because of the other.",
    ),
    "rtol missing": (
        lambda: Tolerance(atol=1e-6),
        "Tolerance gives atol but not rtol. Give both: Tolerance(rtol=0.001, atol=1e-06). With one of them a test can pass because of the other.",
    ),
    "neither": (lambda: Tolerance(), "Tolerance gives neither rtol nor atol. Give both: Tolerance(rtol=1e-3, atol=1e-5)."),
    "infinite": (
        lambda: Tolerance(rtol=1e-3, atol=float("inf")),
        "Tolerance has atol=inf. Give a finite number that is not negative, such as 1e-5.",
    ),
    "NaN": (lambda: Tolerance(rtol=float("nan"), atol=0), "Tolerance has rtol=nan. Give a finite number that is not negative, such as 1e-5."),
    "negative": (lambda: Tolerance(rtol=-1e-3, atol=0), "Tolerance has rtol=-0.001. Give a finite number that is not negative, such as 1e-5."),
    "text": (lambda: Tolerance(rtol="1e-3", atol=0), "Tolerance has rtol='1e-3'. Give a finite number that is not negative, such as 1e-5."),
    "True": (lambda: Tolerance(rtol=True, atol=0), "Tolerance has rtol=True. Give a finite number that is not negative, such as 1e-5."),
    "a number": (
        lambda: tolerance.validated(1e-3),
        'tolerance is 0.001. Write "auto", "conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5), or a dict from dtypes to Tolerances.',
    ),
    "an empty dict": (
        lambda: tolerance.validated({}),
        'tolerance is {}. Write "auto", "conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5), or a dict from dtypes to Tolerances.',
    ),
    "no dtype": (
        lambda: tolerance.validated({"float31": Tolerance(0, 0)}),
        "tolerance is given for 'float31', which is no dtype. The dtypes are float64, float32, float16, bfloat16, complex128, complex64.",
    ),
    "a number for a dtype": (
        lambda: tolerance.validated({"float32": 1e-3}),
        "tolerance for float32 is 0.001. Write dlp.Tolerance(rtol=1e-3, atol=1e-5).",
    ),
    "a word": (lambda: tolerance.validated("loose"), 'tolerance is \'loose\'. Write "auto", "conventional" or "rtol=1e-3,atol=1e-5".'),
    "half a text": (
        lambda: tolerance.validated("rtol=1e-3"),
        "Tolerance gives rtol but not atol. Give both: Tolerance(rtol=0.001, atol=1e-05). With one of them a test can pass because of the other.",
    ),
    "more than a text": (
        lambda: tolerance.validated("rtol=1e-3,atol=1e-5,ptol=3"),
        'tolerance is \'rtol=1e-3,atol=1e-5,ptol=3\'. Write "auto", "conventional" or "rtol=1e-3,atol=1e-5".',
    ),
    "a text without a number": (
        lambda: tolerance.validated("rtol=e,atol=1e-5"),
        'tolerance is \'rtol=e,atol=1e-5\'. Write "auto", "conventional" or "rtol=1e-3,atol=1e-5".',
    ),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_a_tolerance_that_means_nothing_is_answered_in_words(case: str) -> None:
    call, sentence = ANSWERED[case]
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(sentence)}$"):
        call()


@pytest.mark.parametrize("text", ["rtol=1e-3,atol=1e-5", "rtol = 1e-3, atol = 1e-5", "atol=0.00001 rtol=.001"])
def test_a_tolerance_may_be_written_as_text(text: str) -> None:
    assert tolerance.validated(text) == Tolerance(rtol=1e-3, atol=1e-5)


def test_zero_is_a_tolerance() -> None:
    assert Tolerance(rtol=0, atol=0) == Tolerance(0.0, 0.0)


def test_the_tolerance_of_a_dtype() -> None:
    mine = Tolerance(1e-2, 1e-2)
    given: list[Any] = ["auto", "conventional", mine, {"bfloat16": mine}]
    assert [tolerance.for_dtype(one, "bfloat16") for one in given] == [None, Tolerance(rtol=1.6e-2, atol=1e-5), mine, mine]
    assert [tolerance.for_dtype(one, "float32") for one in given] == [None, Tolerance(rtol=1.3e-6, atol=1e-5), mine, None]


def test_a_dict_of_tolerances_is_copied_and_a_tolerance_does_not_change() -> None:
    given = {"float32": Tolerance(0, 0)}
    kept = tolerance.validated(given)
    given.clear()
    assert kept == {"float32": Tolerance(0, 0)}
    with pytest.raises(AttributeError):
        Tolerance(0, 0).rtol = 1.0  # type: ignore[misc]
