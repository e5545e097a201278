"""A convolutional network: torch, channels first, against flax.linen, channels last."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import torch
from flax import linen
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

CHANNELS, STAGES = 8, 3

# ---------------------------------------------------------------- torch


class Stage(nn.Module):
    """(n, 8, h, w) to (n, 8, h / 2, w / 2)."""

    def __init__(self, index):
        super().__init__()
        self.index = index
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(4, CHANNELS)
        self.mix = nn.Parameter(torch.randn(CHANNELS, CHANNELS) / 3)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, CHANNELS)

    def forward(self, x):
        h = self.conv1(x)  # @conv1
        h = self.norm1(h)  # @norm1
        h = F.relu(h)  # @relu
        h = torch.einsum("oc,nchw->nohw", self.mix, h)  # @mix
        h = self.conv2(h)  # @conv2
        h = self.norm2(h)  # @norm2
        shortcut = x[:, :, ::2, ::2]  # @shortcut
        return F.leaky_relu(h + shortcut, 0.1)  # @join


class CNN(nn.Module):
    """Pictures (n, 3, 16, 24) to scores (n, 5)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3)
        self.stages = nn.ModuleList(Stage(i) for i in range(STAGES))
        self.fc1 = nn.Linear(CHANNELS * 2 * 3, 16)
        self.fc2 = nn.Linear(16, 5)

    def forward(self, x):
        x = (x - 0.45) / 0.25  # @scale
        x = F.pad(x, (1, 1, 1, 1))  # @pad
        x = self.stem(x)  # @stem
        for stage in self.stages:
            x = stage(x)
        x = F.avg_pool2d(x, 3, stride=1, padding=1)  # @pool
        x = x.flatten(1)  # @flatten
        x = torch.relu(self.fc1(x))  # @fc1
        return self.fc2(x)  # @fc2


def torch_loss(scores, labels):
    return F.cross_entropy(scores, labels)  # @loss


# ---------------------------------------------------------------- jax


class JaxStage(linen.Module):
    index: int

    @linen.compact
    def __call__(self, x):
        h = linen.Conv(CHANNELS, (3, 3), strides=2, padding=1, name="conv1")(x)  # @conv1
        h = linen.GroupNorm(4, epsilon=1e-5, name="norm1")(h)  # @norm1
        h = jax.nn.relu(h)  # @relu
        h = jnp.einsum("oc,nhwc->nhwo", self.param("mix", linen.initializers.normal(), (CHANNELS, CHANNELS)), h)  # @mix
        h = linen.Conv(CHANNELS, (3, 3), padding=1, name="conv2")(h)  # @conv2
        h = linen.GroupNorm(4, epsilon=1e-5, name="norm2")(h)  # @norm2
        shortcut = x[:, ::2, ::2]  # @shortcut
        return linen.leaky_relu(h + shortcut, 0.1)  # @join


class JaxCNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)  # @layout
        x = (x - 0.45) / 0.25  # @scale
        x = linen.Conv(CHANNELS, (3, 3), padding=1, name="stem")(x)  # @stem
        for index in range(STAGES):
            x = JaxStage(index, name=f"stages_{index}")(x)
        x = linen.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)))  # @pool
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # @flatten
        x = linen.relu(linen.Dense(16, name="fc1")(x))  # @fc1
        return linen.Dense(5, name="fc2")(x)  # @fc2


def jax_loss(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return CNN()


def jax_side():
    return JaxCNN()


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[dlp.uniform(2, 3, 16, 24), dlp.integers(2, high=5)],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        param_map={"stages.*.mix": ("stages_*.mix", "o c -> o c"), "fc1.weight": ("fc1.kernel", "o i -> i o")},
        train=False,
        name="cnn",
    )


PLACES = tuple(f"stages.{i}" for i in range(STAGES))
POOL = "linen.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)))"

BUGS = (
    Bug("padding", "jax conv1", "padding=1", 'padding="SAME"', "{place}.conv1"),
    Bug("padding", "jax conv2", "padding=1", "padding=((0, 2), (1, 1))", "{place}.conv2"),
    Bug("padding", "jax stem", "padding=1", "padding=((2, 0), (1, 1))", "stem|", torch="pad stem"),
    Bug("dilation", "jax stem", "padding=1", "padding=2, kernel_dilation=2", "stem|", torch="pad stem"),
    Bug("stride offset", "jax shortcut", "x[:, ::2, ::2]", "x[:, 1::2, ::2]", "{place}"),
    Bug("stride offset", "torch shortcut", "x[:, :, ::2, ::2]", "x[:, :, ::2, 1::2]", "{place}"),
    Bug("group norm eps", "jax norm1", "epsilon=1e-5", "epsilon=1e-6", "{place}.norm1"),
    Bug("group norm eps", "jax norm2", "epsilon=1e-5", "epsilon=1e-3", "{place}.norm2"),
    Bug("number of groups", "jax norm1", "4", "2", "{place}.norm1"),
    Bug("norm missing", "torch norm2", "self.norm2(h)", "h", "{place}", torch="norm2 join"),
    Bug("activation", "jax relu", "jax.nn.relu(h)", "jax.nn.gelu(h)", "{place}"),
    Bug("activation", "jax fc1", "linen.relu", "linen.silu"),
    Bug("activation", "torch join", "0.1", "0.2", "{place}"),
    Bug("clamp", "jax relu", "jax.nn.relu(h)", "jnp.minimum(jax.nn.relu(h), 1.0)", "{place}", torch="relu mix"),
    Bug(
        "dropout left on",
        "jax relu",
        "jax.nn.relu(h)",
        "jax.nn.relu(h) * (jnp.arange(CHANNELS) % 3 > 0) / 0.7",
        "{place}",
        torch="relu mix",
    ),
    Bug("square weight transposed", "jax mix", '"oc,nhwc->nhwo"', '"co,nhwc->nhwo"', "{place}"),
    Bug("residual missing", "jax join", "h + shortcut", "h", "{place}"),
    Bug("pooling", "jax pool", POOL, "linen.max_pool(x, (3, 3), padding=((1, 1), (1, 1)))"),
    Bug("pooling", "jax pool", "((1, 1), (1, 1))", "((1, 1), (1, 1)), count_include_pad=False"),
    Bug("padding", "jax pool", "((1, 1), (1, 1))", "((0, 2), (1, 1))"),
    Bug("flatten order", "jax flatten", ".transpose(0, 3, 1, 2)", "", "fc1|", torch="flatten fc1", jax="flatten fc1"),
    Bug(
        "layout of the input",
        "jax layout",
        "x.transpose(0, 2, 3, 1)",
        "x.reshape(len(x), *x.shape[2:], 3)",
        "stem|",
        torch="pad stem",
        jax="layout stem",
    ),
    Bug("wrong constant", "jax scale", "0.25", "0.225"),
    Bug("reduction", "jax loss", ".mean()", ".sum()"),
    Bug(
        "stop_gradient",
        "jax shortcut",
        "x[:, ::2, ::2]",
        "jax.lax.stop_gradient(x[:, ::2, ::2])",
        "{place}",
        jax="shortcut join stem",
        backward=True,
    ),
    Bug("no effect", "jax relu", "jax.nn.relu(h)", "jnp.minimum(jax.nn.relu(h), 20.0)", "{place}", effect=False),
)
