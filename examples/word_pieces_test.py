"""The mean of a text's embedded pieces judges it: torch.nn.EmbeddingBag against equinox."""

from __future__ import annotations

import data
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
import torch
import training

import pytest_dlparity as dlp

TEXTS = data.texts()
WIDTH = 32
BATCH = 100
JAX_RMSPROP = optax.rmsprop(3e-3, decay=0.99, eps=1e-8, eps_in_sqrt=False)  # torch's defaults, which are not optax's


def torch_rmsprop(params):
    return torch.optim.RMSprop(params, lr=3e-3)


class TorchBag(torch.nn.Module):
    """Token ids (n, length), 0 where there is none, to scores (n, 2)."""

    def __init__(self):
        super().__init__()
        self.pieces = torch.nn.EmbeddingBag(data.VOCABULARY, WIDTH, mode="mean", padding_idx=0)
        self.head = torch.nn.Linear(WIDTH, 2)

    def forward(self, tokens):
        return self.head(self.pieces(tokens))


class JaxBag(eqx.Module):
    """The same in equinox, one text (length,) at a time."""

    pieces: eqx.nn.Embedding
    head: eqx.nn.Linear

    def __init__(self, key):
        self.pieces = eqx.nn.Embedding(data.VOCABULARY, WIDTH, key=key)
        self.head = eqx.nn.Linear(WIDTH, 2, key=key)

    def __call__(self, tokens):
        there = tokens > 0
        total = (jax.vmap(self.pieces)(tokens) * there[:, None]).sum(0)
        return self.head(total / there.sum())


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_gradients_and_twenty_steps(parity):
    parity(
        dlp.model(
            torch=TorchBag(),
            jax=dlp.vmap(JaxBag(jax.random.key(0))),
            batches=list(TEXTS.batches(BATCH))[:20],
            loss=dlp.loss(torch=torch.nn.CrossEntropyLoss(), jax=cross_entropy),
            optimizer=dlp.optimizer(torch=torch_rmsprop, jax=JAX_RMSPROP),
            steps=20,
        )
    )


def test_training():
    """From the same start, over the same batches, both learn the same."""
    torch.manual_seed(0)
    module, start = training.begin(TorchBag())
    leaves = [jnp.asarray(start[name]) for name in ("pieces.weight", "head.weight", "head.bias")]
    port = eqx.tree_at(lambda m: [m.pieces.weight, m.head.weight, m.head.bias], JaxBag(jax.random.key(0)), leaves)

    passes = TEXTS.passes(BATCH, 6)
    torch_side = training.torch_curve(module, torch_rmsprop(module.parameters()), torch.nn.CrossEntropyLoss(), passes, TEXTS)
    params, rest = eqx.partition(port, eqx.is_inexact_array)
    jax_side = training.jax_curve(lambda p, x: jax.vmap(eqx.combine(p, rest))(x), params, JAX_RMSPROP, cross_entropy, passes, TEXTS)

    print(training.table(f"mean of embedded pieces, {TEXTS}", torch_side, jax_side))
    assert torch_side.accuracies[-1] > 0.6
    assert abs(torch_side.accuracies[-1] - jax_side.accuracies[-1]) < training.MARGIN
