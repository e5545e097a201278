"""A bidirectional LSTM of two layers judges texts: torch.nn.LSTM against plain jax.

10,000 tokens embedded in 100 numbers each, a hidden state of 128 in each direction, two classes. The jax side is a function
f(params, tokens) whose params are a dict with torch's own names and layouts.
"""

from __future__ import annotations

import data
import jax
import jax.numpy as jnp
import optax
import pytest
import torch
import training

import pytest_dlparity as dlp

TEXTS = data.texts(train=1_536)
BATCH = 64
HIDDEN = 128
JAX_SGD = optax.sgd(0.4, momentum=0.9)


def torch_sgd(params):
    return torch.optim.SGD(params, lr=0.4, momentum=0.9)


class TorchLSTM(torch.nn.Module):
    """Token ids (n, length) to scores (n, 2)."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(data.VOCABULARY, 100)
        self.lstm = torch.nn.LSTM(100, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(2 * HIDDEN, 2)

    def forward(self, tokens):
        _, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.head(torch.cat([hidden[-2], hidden[-1]], -1))  # the last layer's two directions, each where it ends


def direction(params, suffix, x, reverse):
    """One direction of one layer: (length, n, features) to (length, n, HIDDEN), each state at the token it has just read."""
    w_in, w_state = params[f"lstm.weight_ih_{suffix}"], params[f"lstm.weight_hh_{suffix}"]
    bias = params[f"lstm.bias_ih_{suffix}"] + params[f"lstm.bias_hh_{suffix}"]

    def cell(carry, x):
        hidden, memory = carry
        entry, forget, candidate, exit_ = jnp.split(x @ w_in.T + hidden @ w_state.T + bias, 4, axis=-1)  # torch's order of the gates
        memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(entry) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(exit_) * jnp.tanh(memory)
        return (hidden, memory), hidden

    zeros = jnp.zeros((x.shape[1], HIDDEN), x.dtype)
    return jax.lax.scan(cell, (zeros, zeros), x, reverse=reverse)[1]


def jax_lstm(params, tokens):
    x = params["embedding.weight"][tokens.T]
    for layer in range(2):
        there = direction(params, f"l{layer}", x, reverse=False)
        back = direction(params, f"l{layer}_reverse", x, reverse=True)
        x = jnp.concatenate([there, back], -1)
    ends = jnp.concatenate([there[-1], back[0]], -1)
    return ends @ params["head.weight"].T + params["head.bias"]


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def lstm(**more):
    loss = dlp.loss(torch=torch.nn.CrossEntropyLoss(), jax=cross_entropy)
    return dlp.model(torch=TorchLSTM(), jax=jax_lstm, loss=loss, **more)


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_and_gradients(parity):
    parity(lstm(batches=list(TEXTS.batches(8))[:1]))


@pytest.mark.dlparity(dtypes=["float32"])
def test_twenty_steps(parity):
    """Each step's loss and update; wrt=[]: the gradients have been seen above."""
    steps = dlp.optimizer(torch=torch_sgd, jax=JAX_SGD)
    parity(lstm(batches=list(TEXTS.batches(8))[:20], optimizer=steps, steps=20, wrt=[]))


def test_training():
    """From the same start, over the same batches, both learn the same."""
    torch.manual_seed(0)
    module, start = training.begin(TorchLSTM())
    passes = TEXTS.passes(BATCH, 6)
    torch_side = training.torch_curve(module, torch_sgd(module.parameters()), torch.nn.CrossEntropyLoss(), passes, TEXTS)
    jax_side = training.jax_curve(jax_lstm, jax.tree.map(jnp.asarray, start), JAX_SGD, cross_entropy, passes, TEXTS)

    print(training.table(f"bidirectional LSTM, {TEXTS}", torch_side, jax_side))
    assert torch_side.accuracies[-1] > 0.6
    assert abs(torch_side.accuracies[-1] - jax_side.accuracies[-1]) < training.MARGIN
