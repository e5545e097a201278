"""Where precision is lost: planted losses on either side, and what is not called one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import torch
from torch.nn import functional as F

import pytest_dlparity as dlp
from pytest_dlparity import precise, reference, run

HERE = Path(__file__)


def line(mark: str) -> int:
    return next(number for number, text in enumerate(HERE.read_text().splitlines(), 1) if text.endswith(f"# @{mark}"))


def lost(spec: dlp.Spec, dtype: str, side: str, leaf: str = "output") -> precise.Lost | None:
    prep = run.prepared(spec, 0, [dtype])
    return precise.lost(prep, reference.reference(prep), dtype, side, leaf)


def norm(p: dict[str, Any], x: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    var = (x * x).mean(-1, keepdims=True) - mean * mean  # @variance
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["w"]


def normed(mean: float) -> dlp.Spec:
    side = lambda p, x: F.layer_norm(x, (64,), p["w"])
    return dlp.layer(torch=side, jax=norm, params={"w": dlp.normal(64)}, inputs=[dlp.normal(8, 64, mean=mean)])


def test_a_variance_by_the_difference_of_squares() -> None:
    found = lost(normed(100.0), "float32", "jax")
    assert found is not None
    assert (found.side, found.place.operation, found.place.line) == ("jax", "sub", line("variance"))
    assert found.before < 4 < 1000 < found.after
    assert found.other < 4


def test_the_same_formula_where_it_loses_nothing() -> None:
    assert lost(normed(0.0), "float32", "jax") is None


def test_a_cast_on_the_torch_side_in_its_whole_words() -> None:
    side = lambda x: torch.tanh(x.half().to(x.dtype) if x.dtype == torch.float32 else x)  # @cast
    found = lost(dlp.layer(torch=side, jax=jnp.tanh, inputs=[dlp.normal(64)]), "float32", "torch")
    assert found is not None
    assert str(found) == (
        f"in float32 the torch side's error jumps from 0 to {found.after:.0f} roundoffs at half (_to_copy) at test_precise.py:{line('cast')} [64]; "
        "jax's same value has 0"
    )


def test_in_a_gradient() -> None:
    def side(x: Any) -> Any:
        y = jnp.sin(x)
        return y * (y.astype(jnp.bfloat16).astype(x.dtype) if x.dtype == jnp.float32 else y)  # @narrow

    found = lost(dlp.layer(torch=lambda x: torch.sin(x) ** 2, jax=side, inputs=[dlp.normal(64)]), "float32", "jax", "grad.input")
    assert found is not None
    assert found.place.line == line("narrow")


def test_what_both_sides_lose_is_nobodys_fault() -> None:
    spec = dlp.layer(torch=lambda x: (x + 1e4) - 1e4, jax=lambda x: (x + 1e4) - 1e4, inputs=[dlp.normal(64)])
    assert lost(spec, "float32", "jax") is None


@pytest.mark.parametrize("leaf", ["output.7", "grad.nothing"])
def test_a_leaf_that_is_not_there(leaf: str) -> None:
    assert lost(normed(100.0), "float32", "jax", leaf) is None


def test_an_optimizer_has_no_operations_to_follow() -> None:
    import optax

    spec = dlp.optimizer(torch=lambda p: torch.optim.SGD(p, lr=0.1), jax=optax.sgd(0.1), params={"w": dlp.normal(3)}, steps=1)
    assert lost(spec, "float32", "jax", "update.1.w") is None


def test_what_goes_wrong_is_no_error_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precise.locate, "LARGE", 10)
    assert lost(normed(100.0), "float32", "jax") is None
