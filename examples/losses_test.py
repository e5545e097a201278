"""Losses and their gradients, and a third opinion: the gradients as a textbook writes them, in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from scipy import special

import pytest_dlparity as dlp

CLASSES = 10


def jax_cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def jax_squared_error(guess, target):
    return jnp.mean((guess - target) ** 2)


def test_cross_entropy(parity):
    """torch reads scores, not probabilities, and takes the mean over the batch; optax leaves the mean to you."""
    parity(
        dlp.loss(
            torch=torch.nn.CrossEntropyLoss(),
            jax=jax_cross_entropy,
            inputs=[dlp.normal(32, CLASSES, scale=3.0), dlp.integers(32, high=CLASSES)],
        )
    )


def test_mean_squared_error(parity):
    """torch's mean is over every element; optax.l2_loss would be half of it."""
    parity(dlp.loss(torch=torch.nn.MSELoss(), jax=jax_squared_error, inputs=[dlp.normal(32, 8), dlp.normal(32, 8)]))


def test_binary_cross_entropy(parity):
    parity(
        dlp.loss(
            torch=torch.nn.functional.binary_cross_entropy_with_logits,
            jax=lambda scores, target: optax.sigmoid_binary_cross_entropy(scores, target).mean(),
            inputs=[dlp.normal(32, 8, scale=3.0), dlp.uniform(32, 8)],
        )
    )


def slopes(torch_loss, jax_loss, at, target):
    """The gradient at `at` as each framework has it, in float64."""
    x = torch.tensor(at, requires_grad=True)
    torch_loss(x, torch.tensor(target)).backward()
    with jax.enable_x64(True):
        return x.grad.numpy(), np.asarray(jax.grad(jax_loss)(jnp.asarray(at), jnp.asarray(target)))


def test_cross_entropy_against_the_textbook():
    """The slope of each score is (probability - 1 where it is the label) / n."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(32, CLASSES)), rng.integers(0, CLASSES, 32)
    textbook = (special.softmax(scores, -1) - np.eye(CLASSES)[labels]) / len(labels)
    for found in slopes(torch.nn.CrossEntropyLoss(), jax_cross_entropy, scores, labels):
        np.testing.assert_allclose(found, textbook, rtol=1e-12, atol=1e-15)


def test_mean_squared_error_against_the_textbook():
    """The slope of each guess is twice its error over the number of elements."""
    rng = np.random.default_rng(0)
    guess, target = rng.normal(size=(32, 8)), rng.normal(size=(32, 8))
    for found in slopes(torch.nn.MSELoss(), jax_squared_error, guess, target):
        np.testing.assert_allclose(found, 2 * (guess - target) / guess.size, rtol=1e-12)
