"""A perceptron with three hidden layers reads digits, 784-256-128-64-10: torch against equinox."""

from __future__ import annotations

from itertools import pairwise

import data
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
import torch
import training

import pytest_dlparity as dlp

DIGITS = data.pictures()
SIZES = (784, 256, 128, 64, 10)
BATCH = 64
JAX_SGD = optax.sgd(0.03, momentum=0.9, nesterov=True)


def torch_sgd(params):
    return torch.optim.SGD(params, lr=0.03, momentum=0.9, nesterov=True)


class TorchMLP(torch.nn.Module):
    """Pictures (n, 28, 28) to scores (n, 10)."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in pairwise(SIZES))

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class JaxMLP(eqx.Module):
    """The same in equinox, which keeps torch's layout (out, in) and reads one picture (28, 28) at a time."""

    layers: list[eqx.nn.Linear]

    def __init__(self, key):
        keys = jax.random.split(key, len(SIZES) - 1)
        self.layers = [eqx.nn.Linear(a, b, key=k) for (a, b), k in zip(pairwise(SIZES), keys, strict=True)]

    def __call__(self, x):
        x = x.ravel()
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_gradients_and_twenty_steps(parity):
    """dlp.vmap gives the module a batch; its parameters keep their names."""
    parity(
        dlp.model(
            torch=TorchMLP(),
            jax=dlp.vmap(JaxMLP(jax.random.key(0))),
            batches=list(DIGITS.batches(16))[:20],
            loss=dlp.loss(torch=torch.nn.CrossEntropyLoss(), jax=cross_entropy),
            optimizer=dlp.optimizer(torch=torch_sgd, jax=JAX_SGD),
            steps=20,
        )
    )


def test_training():
    """From the same start, over the same batches, both learn the same."""
    torch.manual_seed(0)
    module, start = training.begin(TorchMLP())
    port = JaxMLP(jax.random.key(0))
    leaves = [jnp.asarray(start[f"layers.{i}.{leaf}"]) for i in range(len(SIZES) - 1) for leaf in ("weight", "bias")]
    port = eqx.tree_at(lambda m: [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)], port, leaves)

    passes = DIGITS.passes(BATCH, 16)
    torch_side = training.torch_curve(module, torch_sgd(module.parameters()), torch.nn.CrossEntropyLoss(), passes, DIGITS)
    params, rest = eqx.partition(port, eqx.is_inexact_array)
    jax_side = training.jax_curve(lambda p, x: jax.vmap(eqx.combine(p, rest))(x), params, JAX_SGD, cross_entropy, passes, DIGITS)

    print(training.table(f"784-256-128-64-10, {DIGITS}", torch_side, jax_side))
    assert torch_side.accuracies[-1] > 0.8
    assert abs(torch_side.accuracies[-1] - jax_side.accuracies[-1]) < training.MARGIN
