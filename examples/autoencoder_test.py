"""An autoencoder draws digits again from 32 numbers, with the mean squared error: torch against haiku."""

from __future__ import annotations

import data
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
import torch

import pytest_dlparity as dlp

PICTURES = data.pictures().x.reshape(-1, 784)


def torch_autoencoder():
    """Pictures (n, 784) to pictures (n, 784)."""
    return torch.nn.Sequential(torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 784), torch.nn.Sigmoid())


def jax_autoencoder():
    def draw_again(x):
        code = jnp.tanh(hk.Linear(32, name="encoder")(x))
        return jax.nn.sigmoid(hk.Linear(784, name="decoder")(code))

    return hk.without_apply_rng(hk.transform(draw_again))


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_gradients_and_twenty_steps(parity):
    """torch numbers the layers, haiku names them: a param_map joins them."""
    parity(
        dlp.model(
            torch=torch_autoencoder(),
            jax=jax_autoencoder(),
            batches=[(batch, batch) for batch in PICTURES[: 20 * 32].reshape(20, 32, 784)],
            loss=dlp.loss(torch=torch.nn.MSELoss(), jax=lambda drawn, x: optax.squared_error(drawn, x).mean()),
            optimizer=dlp.optimizer(
                torch=lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-2),
                jax=optax.adamw(1e-3, weight_decay=1e-2),
            ),
            steps=20,
            param_map={
                "0.weight": ("encoder.w", "o i -> i o"),
                "0.bias": "encoder.b",
                "2.weight": ("decoder.w", "o i -> i o"),
                "2.bias": "decoder.b",
            },
        )
    )
