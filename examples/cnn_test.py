"""A convolutional network reads digits: torch, channels first, against flax.linen, channels last.

28x28 -> conv 5x5 to 32 channels of 24x24 -> pool 12x12 -> conv 5x5 to 64 channels of 8x8 -> pool 4x4 -> 1024 -> 512 -> 10.
"""

from __future__ import annotations

import data
import einops
import jax
import optax
import pytest
import torch
import training
from flax import linen

import pytest_dlparity as dlp

DIGITS = data.pictures()
BATCH = 50
JAX_SGD = optax.sgd(0.01, momentum=0.9)

# Flattened, features come channel by channel in torch and pixel by pixel in jax: the next layer reads them in another order.
PARAM_MAP = {"fc1.weight": ("fc1.kernel", "o (c h w) -> (h w c) o", {"c": 64, "h": 4, "w": 4})}


def torch_sgd(params):
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


class TorchCNN(torch.nn.Module):
    """Pictures (n, 28, 28) to scores (n, 10). Inside: (n, c, h, w)."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 32, 5)
        self.conv2 = torch.nn.Conv2d(32, 64, 5)
        self.fc1 = torch.nn.Linear(1024, 512)
        self.fc2 = torch.nn.Linear(512, 10)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu(self.conv1(x[:, None])), 2)
        x = torch.nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class JaxCNN(linen.Module):
    """The same in flax.linen. Inside: (n, h, w, c)."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(32, (5, 5), padding="VALID", name="conv1")(x[..., None]))  # flax pads by itself unless told not to
        x = linen.max_pool(x, (2, 2), strides=(2, 2))  # and pools at every pixel
        x = linen.relu(linen.Conv(64, (5, 5), padding="VALID", name="conv2")(x))
        x = linen.max_pool(x, (2, 2), strides=(2, 2))
        x = linen.relu(linen.Dense(512, name="fc1")(x.reshape(len(x), -1)))
        return linen.Dense(10, name="fc2")(x)


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@pytest.mark.dlparity(dtypes=["float32"])
def test_outputs_loss_gradients_and_twenty_steps(parity):
    parity(
        dlp.model(
            torch=TorchCNN(),
            jax=JaxCNN(),
            batches=list(DIGITS.batches(2))[:20],  # few pictures: rounding seldom carries a relu or a maximum over its edge
            loss=dlp.loss(torch=torch.nn.CrossEntropyLoss(), jax=cross_entropy),
            optimizer=dlp.optimizer(torch=torch_sgd, jax=JAX_SGD),
            steps=20,
            param_map=PARAM_MAP,
        )
    )


def test_training():
    """From the same start, over the same batches, both learn the same."""
    torch.manual_seed(0)
    module, start = training.begin(TorchCNN())
    layouts = {
        "conv1": "o i h w -> h w i o",
        "conv2": "o i h w -> h w i o",
        "fc1": "o (c h w) -> (h w c) o",
        "fc2": "o i -> i o",
    }
    params = {}
    for name, layout in layouts.items():
        sizes = {"c": 64, "h": 4} if name == "fc1" else {}
        params[name] = {"kernel": einops.rearrange(start[f"{name}.weight"], layout, **sizes), "bias": start[f"{name}.bias"]}

    passes = DIGITS.passes(BATCH, 8)
    torch_side = training.torch_curve(module, torch_sgd(module.parameters()), torch.nn.CrossEntropyLoss(), passes, DIGITS)
    params = jax.tree.map(jax.numpy.asarray, params)
    jax_side = training.jax_curve(lambda p, x: JaxCNN().apply({"params": p}, x), params, JAX_SGD, cross_entropy, passes, DIGITS)

    print(training.table(f"conv 32, conv 64, 512-10, {DIGITS}", torch_side, jax_side))
    assert torch_side.accuracies[-1] > 0.8
    assert abs(torch_side.accuracies[-1] - jax_side.accuracies[-1]) < training.MARGIN
