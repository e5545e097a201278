"""Fingerprints: what they see through, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_dlparity.trace import Frame, Index, Node, Trace, alike, ancestors, fingerprint, informative

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 3, 4, 5))


def node(array: np.ndarray, data: bool = True) -> Node:
    return Node(0, "op", (), array.shape, str(array.dtype), "op", fingerprint(array), data=data)


@pytest.mark.parametrize(
    "moved",
    [IMAGE.transpose(0, 2, 3, 1), IMAGE.reshape(2, -1), np.roll(IMAGE, 1, 0), IMAGE[::-1], IMAGE + 1e-13],
    ids=["axes", "shape", "rolled", "reversed", "rounding"],
)
def test_layout_does_not_move_a_fingerprint(moved: np.ndarray) -> None:
    assert alike(fingerprint(IMAGE), fingerprint(moved))


@pytest.mark.parametrize(
    "other",
    [IMAGE * (1 + 1e-7), IMAGE + 1e-7, -IMAGE, IMAGE.clip(-2.5, 2.5) * (1 + 1e-8), IMAGE[:1], np.concatenate([IMAGE, IMAGE])],
    ids=["factor", "offset", "sign", "clipped", "half", "twice"],
)
def test_other_values_are_other_fingerprints(other: np.ndarray) -> None:
    assert not alike(fingerprint(IMAGE), fingerprint(other))


def test_one_changed_element_is_seen() -> None:
    other = IMAGE.copy()
    other[0, 0, 0, 0] += 1e-5
    assert not alike(fingerprint(IMAGE), fingerprint(other))


@pytest.mark.parametrize("fill", [-np.inf, np.finfo(np.float64).min, -1e9, -1e30, np.finfo(np.float32).min])
def test_mask_values_are_one_class(fill: float) -> None:
    masked, other = IMAGE.copy(), IMAGE.copy()
    masked[0], other[0] = -np.inf, fill
    assert alike(fingerprint(masked), fingerprint(other))
    other[1, 0, 0, 0] = fill
    assert not alike(fingerprint(masked), fingerprint(other))


@pytest.mark.parametrize(
    "strange",
    [np.ones(()), np.ones((0, 3)), np.full(4, np.nan), np.full(4, np.inf), np.array([True, False]), np.array(["a"]), np.array([1 + 2j])],
    ids=["scalar", "empty", "nan", "inf", "bool", "text", "complex"],
)
def test_the_strangest_arrays_have_a_fingerprint_and_no_warning(strange: np.ndarray) -> None:
    assert alike(fingerprint(strange), fingerprint(strange.copy()))


def test_large_numbers_are_no_mask() -> None:
    assert not alike(fingerprint(np.array([-2e4, -3e4])), fingerprint(np.array([-2e4, -4e4])))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (IMAGE, True), (np.zeros(9), False), (np.ones((4, 4)), False), (np.array([0.0, 1.0] * 8), False), (np.array(0.5), False), (np.array(3.0), False),
        (np.array(0.123), True), (np.array([0.1, 0.2]), True), (np.zeros(0), False), (np.arange(10), True), (np.array([True, False] * 20), False),
    ],
    ids=["normal", "zeros", "ones", "binary", "half", "whole", "scalar", "two", "empty", "range", "mask"],
)  # fmt: skip
def test_what_a_match_of_says_something(array: np.ndarray, says: bool) -> None:
    assert informative(node(array)) is says


def test_a_number_that_no_input_moves_says_nothing() -> None:
    assert not informative(node(np.array(0.123), data=False))


def test_an_index_finds_what_a_loop_finds() -> None:
    arrays = [RNG.standard_normal(50) * 10.0**k for k in range(-8, 8)]
    index = Index((fingerprint(a), k) for k, a in enumerate(arrays))
    assert [index.find(fingerprint(a[::-1])) for a in arrays] == [[k] for k in range(len(arrays))]
    assert index.find(fingerprint(np.ones(50))) == []


def test_ancestors_stop_where_they_are_told() -> None:
    nodes = [Node(i, "op", reads, (), "float64", "op", None) for i, reads in enumerate([(), (0,), (1,), (2, 0)])]
    assert ancestors(Trace("torch", nodes), [3]) == {0, 1, 2, 3}
    assert ancestors(Trace("torch", nodes), [3], {2}) == {3, 2, 0}


def test_a_frame_prints_without_its_folder() -> None:
    assert str(Frame("/a/b/model.py", 3, "forward")) == "model.py:3"
