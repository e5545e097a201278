"""A perceptron with two hidden layers reads digits, 784-256-128-10: torch against flax.nnx."""

from __future__ import annotations

import data
import optax
import pytest
import torch
import training
from flax import nnx

import pytest_dlparity as dlp

DIGITS = data.pictures()
BATCH = 64
JAX_SGD = optax.sgd(0.03, momentum=0.9)


def torch_sgd(params):
    return torch.optim.SGD(params, lr=0.03, momentum=0.9)


class TorchMLP(torch.nn.Module):
    """Pictures (n, 28, 28) to scores (n, 10)."""

    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(784, 256)
        self.fc2 = torch.nn.Linear(256, 128)
        self.fc3 = torch.nn.Linear(128, 10)

    def forward(self, x):
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc3(torch.relu(self.fc2(x)))


class JaxMLP(nnx.Module):
    """The same in flax.nnx. A kernel is torch's weight transposed: (in, out)."""

    def __init__(self, rngs):
        self.fc1 = nnx.Linear(784, 256, rngs=rngs)
        self.fc2 = nnx.Linear(256, 128, rngs=rngs)
        self.fc3 = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc3(nnx.relu(self.fc2(x)))


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_gradients_and_twenty_steps(parity):
    """Names and layouts (kernel for weight, transposed) are inferred, so there is no param_map."""
    parity(
        dlp.model(
            torch=TorchMLP(),
            jax=JaxMLP(nnx.Rngs(0)),
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
    port = JaxMLP(nnx.Rngs(0))
    for name in ("fc1", "fc2", "fc3"):
        layer = getattr(port, name)
        layer.kernel[...] = start[f"{name}.weight"].T
        layer.bias[...] = start[f"{name}.bias"]
    graph, params = nnx.split(port)

    passes = DIGITS.passes(BATCH, 16)
    torch_side = training.torch_curve(module, torch_sgd(module.parameters()), torch.nn.CrossEntropyLoss(), passes, DIGITS)
    jax_side = training.jax_curve(lambda p, x: nnx.merge(graph, p)(x), params, JAX_SGD, cross_entropy, passes, DIGITS)

    print(training.table(f"784-256-128-10, {DIGITS}", torch_side, jax_side))
    assert torch_side.accuracies[-1] > 0.8
    assert abs(torch_side.accuracies[-1] - jax_side.accuracies[-1]) < training.MARGIN
