"""Optimizers: torch's and optax's, with every default that differs written out.

| torch | optax | what to write |
|---|---|---|
| SGD(lr) | sgd | the same |
| SGD(lr, momentum) | sgd(lr, momentum) | the same: both keep v = momentum v + g and step by lr v; torch's dampening is 0 |
| Adam(lr) | adam | the same: both have betas 0.9 and 0.999, and eps 1e-8 outside the square root |
| RMSprop(lr) | rmsprop | decay=0.99 (optax 0.9), eps=1e-8 the same, eps_in_sqrt=False (optax True) |
| RMSprop(lr, momentum) | rmsprop(lr, momentum) | see test_rmsprop_with_momentum |
| AdamW(lr) | adamw | weight_decay=1e-2 (optax 1e-4) |
"""

from __future__ import annotations

import optax
import pytest
import torch

import pytest_dlparity as dlp

PARAMS = {"weight": dlp.normal(32, 16), "bias": dlp.normal(32)}
SAME = {
    "sgd": (lambda params: torch.optim.SGD(params, lr=0.1), optax.sgd(0.1)),
    "momentum": (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    "nesterov": (
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (lambda params: torch.optim.Adam(params, lr=1e-3), optax.adam(1e-3)),
    "adamw": (lambda params: torch.optim.AdamW(params, lr=1e-3), optax.adamw(1e-3, weight_decay=1e-2)),
    "rmsprop": (
        lambda params: torch.optim.RMSprop(params, lr=1e-2),
        optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False),
    ),
    "rmsprop with momentum": (
        lambda params: torch.optim.RMSprop(params, lr=1e-2, momentum=0.9),
        optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False, momentum=0.9),
    ),
}
DIFFERENT = {
    "rmsprop with optax's decay": (lambda params: torch.optim.RMSprop(params, lr=1e-2), optax.rmsprop(1e-2, eps_in_sqrt=False)),
    "adamw with optax's weight decay": (lambda params: torch.optim.AdamW(params, lr=1e-3), optax.adamw(1e-3)),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.dlparity(dtypes=["float32"])
def test_same(parity, name):
    ours, theirs = SAME[name]
    parity(dlp.optimizer(torch=ours, jax=theirs, params=PARAMS, steps=10))


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.dlparity(dtypes=["float32"])
@pytest.mark.xfail(raises=dlp.ParityError, strict=True, reason="the two libraries' defaults differ")
def test_defaults_that_differ(parity, name):
    ours, theirs = DIFFERENT[name]
    parity(dlp.optimizer(torch=ours, jax=theirs, params=PARAMS, steps=10))
