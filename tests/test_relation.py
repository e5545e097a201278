"""Relations: each planted, each in its whole words, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_dlparity.relation import Relation, in_layout, named, relation

RNG = np.random.default_rng(1)
X = RNG.standard_normal((3, 4, 5))
SQUARE = RNG.standard_normal((2, 6, 6))
ABOVE = np.where(np.triu(np.ones((6, 6)), 1) > 0, 1.0, 0.0)
DIAGONAL = np.eye(6, k=1)


def bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    ("torch", "jax", "kind", "text", "odd"),
    [
        (X, X + 1e-14, "same", "the same", False),
        (X, X.transpose(0, 2, 1), "arranged", "the same values with the axes permuted to [0, 2, 1]", False),
        (SQUARE, SQUARE.transpose(0, 2, 1), "arranged", "the same values with the axes permuted to [0, 2, 1]", True),
        (X, X.reshape(3, 20), "arranged", "the same values reshaped to [3, 20]", False),
        (X.reshape(3, 20), X.transpose(0, 2, 1).reshape(3, 20), "arranged",
         "the same values, axis 1 read as (4 5) on one side and as (5 4) on the other", True),
        (X, X.transpose(0, 2, 1).reshape(3, 20), "arranged", "the same values with the axes permuted to [0, 2, 1] and reshaped to [3, 20]", True),
        (X, X[:, ::-1], "arranged", "the same values, axis 1 reversed", True),
        (X, np.roll(X, -1, 2), "arranged", "the same values, axis 2 rolled by -1", True),
        (np.arange(24.0).reshape(8, 3), np.arange(24.0).reshape(4, 2, 3)[[0, 2, 1, 3]].reshape(8, 3), "arranged",
         "the same values, axis 0 in 4 parts, in the order [0, 2, 1, 3]", True),
        (X, X * 0.3, "factor", "jax = torch * 0.3", False),
        (X, X / np.sqrt(5), "factor", "jax = torch * 0.447214 (1/sqrt(5))", False),
        (X, -X, "factor", "jax = -torch", False),
        (X, X + 0.25, "offset", "jax = torch + 0.25", False),
        (X, X + np.arange(4.0)[:, None], "vector", "jax - torch is one vector along axis 1, the same everywhere else", False),
        (X, X * np.arange(1.0, 6.0), "vector", "jax / torch is one vector along axis 2, the same everywhere else", False),
        (SQUARE, SQUARE + ABOVE, "part", "equal on 58% of the elements; they differ above the diagonal only", False),
        (SQUARE, SQUARE + DIAGONAL, "part", "equal on 86% of the elements; they differ on diagonal +1 only", False),
        (X, np.concatenate([X[:, :3], X[:, 3:] + 1 + X[:, 3:] ** 2], 1), "part", "equal on 75% of the elements; they differ on axis 1 at 3 only", False),
        (np.arange(60.0).reshape(12, 5) ** 2, np.concatenate([np.arange(60.0).reshape(12, 5)[1:] ** 2, np.ones((1, 5))]), "shifted",
         "jax is torch shifted by -1 along axis 0", False),
        (X, bf16(X), "rounded", "they differ as if one were rounded to bfloat16", False),
        (X, X.astype(np.float32).astype(float), "rounded", "they differ as if one were rounded to float32", False),
        (X, X[:2], "sizes", "different sizes: torch [3, 4, 5], jax [2, 4, 5]", False),
        (np.zeros((0, 3)), np.zeros((0, 3)), "other", "nothing to compare", False),
        (np.zeros(4), np.array([1.0, 2, 3, 5]), "other", "torch is zero everywhere and jax is not", False),
        (np.full(3, np.nan), np.arange(3.0), "other", "nowhere finite on both sides", False),
    ],
    ids=map(str, range(25)),
)  # fmt: skip
def test_relation(torch: np.ndarray, jax: np.ndarray, kind: str, text: str, odd: bool) -> None:
    found = relation(torch, jax, [5, 4])
    assert (found.kind, found.text, found.odd) == (kind, text, odd)


def test_what_has_no_relation_says_how_far_apart() -> None:
    found = relation(X, X * (1 + 0.01 * RNG.standard_normal(X.shape)))
    assert found.kind == "other"
    assert found.text.startswith("relative difference 0.0")


def test_another_layout_and_other_values() -> None:
    moved = (X * (1 + 0.01 * RNG.standard_normal(X.shape))).transpose(2, 0, 1)
    assert relation(X, moved).text.endswith(", axes permuted to [2, 0, 1]")
    np.testing.assert_array_equal(in_layout(X, moved), X.transpose(2, 0, 1))


def test_masks_of_two_kinds_are_the_same() -> None:
    torch, jax = SQUARE.copy(), SQUARE.copy()
    torch[:, 0], jax[:, 0] = -np.inf, np.finfo(np.float32).min
    assert relation(torch, jax) == Relation("same", "the same")


@pytest.mark.parametrize("factor", [1.0001, 0.3, -2.5, 0.0])
def test_a_factor_without_a_name_gets_none(factor: float) -> None:
    assert named(factor, [64, 10, 3]) == ""
