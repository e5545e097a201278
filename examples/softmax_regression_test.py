"""Softmax regression on digits: torch.nn.Sequential against stax, torch.optim.SGD against jax.example_libraries.optimizers."""

from __future__ import annotations

import data
import jax.numpy as jnp
import pytest
import torch
from jax.example_libraries import optimizers, stax

import pytest_dlparity as dlp

DIGITS = data.pictures()


def negative_log_likelihood(log_probabilities, labels):
    return -jnp.take_along_axis(log_probabilities, labels[:, None], -1).mean()


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_gradients_and_twenty_steps(parity):
    parity(
        dlp.model(
            torch=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), torch.nn.LogSoftmax(-1)),
            jax=stax.serial(stax.Flatten, stax.Dense(10), stax.LogSoftmax),
            batches=list(DIGITS.batches(64))[:20],
            loss=dlp.loss(torch=torch.nn.NLLLoss(), jax=negative_log_likelihood),
            optimizer=dlp.optimizer(
                torch=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
                jax=optimizers.momentum(0.1, mass=0.9),
            ),
            steps=20,
        )
    )
