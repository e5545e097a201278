"""A convolution with batch normalization on digits: torch against flax.nnx, in use and in training.

In use both sides compute the same. In training they disagree on one number, by design: the variance they remember, which torch divides
by n - 1 and flax by n. What the layer returns is the same, and so are its gradients.
"""

from __future__ import annotations

import data
import pytest
import torch
from flax import nnx

import pytest_dlparity as dlp

PICTURES = data.pictures().x[:12, None, 8:20, 8:20]  # the middle of twelve digits, (12, 1, 12, 12)


class TorchNet(torch.nn.Module):
    """Pictures (n, 1, h, w) to (n, 8, h - 2, w - 2)."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class JaxNet(nnx.Module):
    """The same in flax.nnx, on the same axes. Its momentum is the part that is kept: 0.9 where torch says 0.1."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.conv(x.transpose(0, 2, 3, 1)))
        return nnx.relu(x).transpose(0, 3, 1, 2)


def net(train):
    torch_net, jax_net = TorchNet().train(train), JaxNet(nnx.Rngs(0))
    jax_net.set_attributes(use_running_average=not train)
    return dlp.layer(torch=torch_net, jax=jax_net, inputs=[dlp.fixed(PICTURES)])


@pytest.mark.dlparity(dtypes=["float32"])
def test_in_use(parity):
    parity(net(train=False))


def test_in_training_only_the_remembered_variance_differs():
    report = dlp.check(net(train=True), devices=["cpu"], dtypes=["float32"])
    assert {verdict.name for verdict in report.verdicts if verdict.status != "agree"} == {"state.norm.running_var"}
