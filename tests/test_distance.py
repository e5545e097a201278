"""One pass over two arrays finds what a naive pass in double precision finds, on every strange input, without room for a leaf."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytest_dlparity import distance
from pytest_dlparity.distance import CHUNK, Distance, between

NAN, INF = np.nan, np.inf


def naive(a: np.ndarray, b: np.ndarray, noise: np.ndarray | None = None, floor: float = 0.0) -> dict[str, Any]:
    """The definition, element by element; complex numbers as two real ones."""
    shape = a.shape
    if a.dtype.kind == "c" or b.dtype.kind == "c":
        a, b = (np.stack([x.real, x.imag], -1) for x in (a.astype(np.complex128), b.astype(np.complex128)))
        if noise is not None:
            noise = np.stack([noise.real, noise.imag if noise.dtype.kind == "c" else noise], -1)
    parts = a.size // max(1, math.prod(shape))
    gaps, scales, worst, where, apart, apart_count = [], [], 0.0, None, None, 0
    sizes = np.ones(a.size) if noise is None else noise.astype(np.float64).ravel() + floor
    for index, (x, y, size) in enumerate(zip(a.astype(np.float64).ravel().tolist(), b.astype(np.float64).ravel().tolist(), sizes, strict=True)):
        place = tuple(int(i) for i in np.unravel_index(index // parts, shape)) if shape else ()
        if math.isfinite(x) and math.isfinite(y):
            gap = abs(x - y)
            gaps.append(gap)
            scales.append(y)
            measured = gap / size if size else (INF if gap else 0.0)
            measured = 0.0 if math.isnan(size) else measured
            if where is None or measured > worst:
                worst, where = max(worst, measured), place
        elif not (x == y or (math.isnan(x) and math.isnan(y))):
            apart, apart_count = (place if apart is None else apart), apart_count + 1

    def rms(values: list[float]) -> float:
        return math.hypot(*values) / math.sqrt(len(values)) if values else 0.0

    return {"count": len(gaps), "rms": rms(gaps), "scale": rms(scales), "worst": worst, "apart": apart, "apart_count": apart_count}


def assert_same(a: np.ndarray, b: np.ndarray, noise: np.ndarray | None = None, floor: float = 0.0, rel: float = 1e-12) -> Distance:
    found, wanted = between(a, b, noise, floor), naive(a, b, noise, floor)
    assert (found.count, found.apart, found.apart_count) == (wanted["count"], wanted["apart"], wanted["apart_count"])
    for name in ("rms", "scale", "worst"):
        assert getattr(found, name) == pytest.approx(wanted[name], rel=rel, abs=0), name
    if found.count and wanted["worst"] > 0:  # the place holds the worst
        at = found.where
        pair = between(a[at].reshape(1), b[at].reshape(1), None if noise is None else noise[at].reshape(1), floor)
        assert pair.worst == pytest.approx(found.worst, rel=rel, abs=0)
    return found


STRANGE = {
    "a NaN on one side": ([1.0, NAN, 3.0], [1.0, 2.0, 4.0]),
    "a NaN on the other": ([1.0, 2.0, 3.0], [1.0, NAN, 4.0]),
    "NaN on both": ([1.0, NAN, 3.0], [1.5, NAN, 3.0]),
    "NaN everywhere": ([NAN, NAN], [NAN, NAN]),
    "infinity on one side": ([INF, 2.0], [1.0, 2.0]),
    "infinities alike": ([INF, -INF, 2.0], [INF, -INF, 2.5]),
    "infinities of opposite sign": ([INF, -INF, 2.0], [-INF, INF, 2.0]),
    "NaN against infinity": ([NAN, INF], [INF, NAN]),
    "NaN against infinity behind finite ones": ([0.0, 1.0, NAN], [0.0, 1.0, INF]),
    "zeros of both signs": ([0.0, -0.0], [-0.0, 0.0]),
    "zero against something": ([0.0, 0.0], [1.0, 0.0]),
    "something against zero": ([1.0, 0.0], [0.0, 0.0]),
    "equal": ([1.0, 2.0], [1.0, 2.0]),
    "empty": ([], []),
    "squares that underflow in single precision": ([1e-30, 2e-30], [1.5e-30, 2e-30]),
    "a square that underflows beside one that does not": ([1.0, 2e-30], [1.0, 1e-30]),
    "single denormals": ([1e-42, 0.0], [2e-42, 0.0]),
    "squares that overflow in single precision": ([1e30, 2e30], [1.5e30, 2e30]),
    "nearly the largest single": ([3.4e38, -3.4e38], [-3.4e38, 3.4e38]),
    "a tiny and a huge": ([1e-20, 1e20], [2e-20, 1e20]),
    "the worst stands last": ([0.0, 0.0, 9.0], [0.0, 1.0, 0.0]),
    "the worst stands first": ([9.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
}


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float64, np.float64), (np.float32, np.float64)], ids=["single", "double", "mixed"])
@pytest.mark.parametrize("case", STRANGE)
def test_strange_numbers_are_measured_as_the_definition_says(case: str, dtypes: tuple[type, type]) -> None:
    a, b = (np.array(values, dtype) for values, dtype in zip(STRANGE[case], dtypes, strict=True))
    assert_same(a, b, rel=1e-5)
    assert_same(a, b, np.full(a.shape, 0.5), rel=1e-5)
    assert_same(np.concatenate([np.ones(CHUNK, dtypes[0]), a]), np.concatenate([np.ones(CHUNK, dtypes[1]), b]), rel=1e-5)


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e160, 1e200, 1e300])
def test_doubles_whose_squares_leave_the_range_are_measured_too(size: float) -> None:
    found = assert_same(np.array([size, 2 * size]), np.array([1.5 * size, 2 * size]))
    assert found.worst == pytest.approx(size / 2) and 0 < found.relative < 1


def test_a_difference_that_overflows_double_precision_is_no_small_one() -> None:
    found = between(np.array([1.7e308, 1.0]), np.array([-1.7e308, 1.0]))
    assert not found.rms < 1e300 or found.worst == INF


@pytest.mark.parametrize("value", [(1.0, 1.5), (NAN, NAN), (NAN, 1.0), (INF, INF), (INF, 1.0)], ids=str)
def test_a_scalar_has_the_place_of_a_scalar(value: tuple[float, float]) -> None:
    found = assert_same(np.array(value[0]), np.array(value[1]))
    assert found.where == ()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
def test_an_empty_array_has_no_place_and_no_distance(shape: tuple[int, ...]) -> None:
    assert between(np.zeros(shape), np.zeros(shape)) == Distance(0, 0.0, 0.0, 0.0, (), None, 0)
    assert between(np.zeros(shape), np.zeros(shape), np.zeros(shape)).worst == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["single", "double"])
@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK + 1])
def test_the_borders_of_a_chunk_are_seen(size: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=size).astype(dtype)
    for place in {0, min(CHUNK, size) - 1, min(CHUNK, size - 1), size - 1}:
        b = a.copy()
        b[place] += 100
        found = between(a, b)
        assert found.where == (place,) and found.worst == pytest.approx(100, rel=1e-5) and found.count == size
        assert found.rms == pytest.approx(100 / math.sqrt(size), rel=1e-5)
        b[place] = NAN
        assert (between(a, b).apart, between(a, b).apart_count) == ((place,), 1)


SHAPES = [(CHUNK + 1,), (3, CHUNK), (3, CHUNK + 1), (CHUNK + 1, 3), (2, 3, 6007), (1, 1, CHUNK + 5), (5, 1, 9001), (CHUNK * 2, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_cover_every_element_once_and_in_order(shape: tuple[int, ...]) -> None:
    numbers = np.arange(math.prod(shape)).reshape(shape)
    seen = [(numbers[at].reshape(-1), before) for at, before in distance._blocks(shape)]
    assert np.array_equal(np.concatenate([block for block, _ in seen]), numbers.reshape(-1))
    assert all(block.size <= CHUNK and block[0] == before for block, before in seen)


LAYOUTS = {
    "transposed": lambda x: x.T,
    "every other": lambda x: x[::2],
    "every other column": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "fortran": np.asfortranarray,
    "a broadcast view": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_does_not_matter(layout: str) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 130, 260))
    b[7, 8], b[20, 30] = NAN, 50.0
    noise = rng.random((130, 260))
    strided = [LAYOUTS[layout](x) for x in (a, b, noise)]
    plain = [np.array(x, order="C") for x in strided]
    for left, right in itertools.product((strided[0], plain[0]), (strided[1], plain[1])):
        assert between(left, right).where == between(*plain[:2]).where
        assert between(left, right).rms == pytest.approx(between(*plain[:2]).rms, rel=1e-12)
        assert between(left, right).apart == between(*plain[:2]).apart
    assert between(*strided).worst == pytest.approx(between(*plain).worst, rel=1e-12)
    assert between(*strided).where == between(*plain).where


def test_a_large_transposed_array_has_its_worst_where_it_is() -> None:
    a = np.zeros((400, 300), np.float32)
    b = a.copy()
    b[399, 7] = 2.0
    assert between(a.T, b.T).where == (7, 399) and between(a, b).where == (399, 7)


@pytest.mark.parametrize("dtypes", [(np.complex64, np.complex64), (np.complex128, np.complex128), (np.complex64, np.complex128)], ids=str)
def test_complex_numbers_count_as_two_real_ones_and_share_a_place(dtypes: tuple[type, type]) -> None:
    a = np.array([[1 + 2j, 3 - 4j], [0j, 1j]], dtypes[0])
    b = np.array([[1 + 2j, 3 - 4.5j], [0j, complex(0, NAN)]], dtypes[1])
    found = assert_same(a, b, rel=1e-6)
    assert (found.where, found.apart, found.apart_count, found.count) == ((0, 1), (1, 1), 1, 7)
    assert_same(a, b, np.full(a.shape, 0.25), rel=1e-6)
    assert_same(a, b, np.full(a.shape, 0.25 + 0.125j), rel=1e-6)
    assert_same(a.T, b.T, rel=1e-6)


def test_complex_infinities_and_nan_in_one_part_are_apart_part_by_part() -> None:
    a = np.array([complex(NAN, 1), complex(INF, 1), complex(1, 1)])
    b = np.array([complex(NAN, 1), complex(INF, -INF), complex(1, 1)])
    assert (between(a, b).apart, between(a, b).apart_count) == ((1,), 1)


def test_a_complex_scalar_and_a_real_against_a_complex() -> None:
    assert_same(np.array(1 + 2j), np.array(1 + 3j))
    assert_same(np.array([1.0, 2.0]), np.array([1 + 1j, 2 + 0j]))


def test_complex_arrays_of_more_than_a_chunk_have_true_places() -> None:
    a = np.zeros((3, CHUNK // 2 + 1), np.complex64)
    b = a.copy()
    b[2, 5] = 3j
    b[1, 7] = complex(0, INF)
    found = between(a, b)
    assert (found.where, found.apart, found.worst) == ((2, 5), (1, 7), 3.0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.bool_], ids=lambda d: np.dtype(d).name)
def test_other_dtypes_are_measured_in_double_precision(dtype: Any) -> None:
    a, b = np.array([1, 0, 1, 1], dtype), np.array([0, 0, 1, 0], dtype)
    found = assert_same(a, b)
    assert found.rms == pytest.approx(math.sqrt(0.5)) and found.where == (0,)


@pytest.mark.parametrize(("a", "b"), [((3,), (1, 3)), ((2, 1), (1, 2)), ((), (1,)), ((0,), ()), ((3,), (4,)), ((1,), (3,))], ids=str)
def test_nothing_is_ever_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^shapes \(.*\) and \(.*\) differ$"):
        between(np.zeros(a), np.zeros(b))
    with pytest.raises(ValueError, match=r"^shapes \(.*\) and \(.*\) differ$"):
        between(np.zeros(a), np.zeros(a), np.zeros(b))


# ---------------------------------------------------------------- noise


def test_the_worst_element_is_measured_in_its_own_noise() -> None:
    a, b = np.array([1.0, 1.0, 1.0]), np.array([1.5, 2.0, 1.0])
    found = assert_same(a, b, np.array([0.01, 1.0, 0.0]))
    assert (found.worst, found.where) == (50.0, (0,))
    assert assert_same(a, b, np.array([0.01, 1.0, 0.0]), floor=0.99).worst == pytest.approx(0.5025, rel=1e-3)


def test_a_difference_where_there_is_no_noise_is_infinitely_large_and_an_equality_is_none() -> None:
    assert assert_same(np.array([1.0, 2.0]), np.array([1.0, 2.5]), np.zeros(2)).worst == INF
    assert assert_same(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.zeros(2)).worst == 0


def test_a_floor_alone_is_a_size() -> None:
    assert assert_same(np.array([1.0]), np.array([1.5]), np.zeros(1), floor=0.25).worst == 2.0


def test_nan_at_the_same_place_does_not_hide_a_worst_element() -> None:
    found = assert_same(np.array([NAN, 1.0]), np.array([NAN, 3.0]), np.array([1.0, 0.5]))
    assert (found.worst, found.where) == (4.0, (1,))


# ---------------------------------------------------------------- relative


@pytest.mark.parametrize(("a", "b", "relative"), [([0.0], [0.0], 0.0), ([1.0], [0.0], INF), ([0.0], [1.0], 1.0), ([], [], 0.0), ([3.0], [2.0], 0.5)])
def test_relative_is_zero_for_equal_and_infinite_beside_zero(a: list[float], b: list[float], relative: float) -> None:
    assert between(np.array(a), np.array(b)).relative == relative


# ---------------------------------------------------------------- room


@pytest.mark.parametrize("layout", ["single", "double", "noise", "transposed", "mixed"])
def test_no_temporary_of_the_arrays_size_is_made(layout: str) -> None:
    shape = (1024, 1024)
    a = np.ones(shape, np.float64 if layout == "double" else np.float32)
    b = np.ones(shape, np.float64 if layout in ("double", "mixed") else np.float32)
    b[500, 500] = 2.0
    noise = np.ones(shape, np.float32) if layout == "noise" else None
    if layout == "transposed":
        a, b = a.T, b.T
    between(a[:8], b[:8])
    tracemalloc.start()
    try:
        assert between(a, b, noise).where == (500, 500)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < a.nbytes / 2, f"{peak} bytes beside arrays of {a.nbytes}"


def test_the_measure_of_room_can_fail() -> None:
    a = np.ones((1024, 1024), np.float32)
    tracemalloc.start()
    try:
        _ = np.abs(a - a).max()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak >= a.nbytes


def test_arrays_are_left_as_they_were() -> None:
    a, b, noise = np.array([1.0, NAN, 3.0]), np.array([2.0, NAN, INF]), np.array([1.0, NAN, 0.0])
    before = [x.copy() for x in (a, b, noise)]
    between(a, b, noise)
    assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip((a, b, noise), before, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_random_arrays_with_strange_numbers_agree_with_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(0, 4)))
    a = rng.normal(size=shape) * 10.0 ** rng.integers(-12, 12)
    a, b = np.array(a), np.array(a + rng.normal(size=shape) * 10.0 ** rng.integers(-12, 3))
    for array in (a, b):
        if rng.random() < 0.5:
            array[...] = np.where(rng.random(shape) < 0.2, rng.choice([NAN, INF, -INF, 0.0]), array)
    dtype = rng.choice([np.float32, np.float64])
    a, b = a.astype(dtype), b.astype(dtype)
    assert_same(a, b, rel=1e-5)
    assert_same(a, b, rng.random(shape), float(rng.random()), rel=1e-5)
