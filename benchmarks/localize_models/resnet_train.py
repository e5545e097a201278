"""A pre-activation ResNet in training: torch against flax.nnx with a batch norm written to torch's convention, statistics of both included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WIDTH, BLOCKS = 8, 3

# ---------------------------------------------------------------- torch


class Block(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.norm1 = nn.BatchNorm2d(WIDTH)
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        h = F.relu(self.norm1(x))  # @norm1
        h = self.conv1(h)  # @conv1
        h = F.relu(self.norm2(h))  # @norm2
        h = self.conv2(h)  # @conv2
        return x + self.gain * h  # @join


class ResNet(nn.Module):
    """Pictures (n, 3, 8, 10) to numbers (n, 4)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(Block(i) for i in range(BLOCKS))
        self.norm = nn.BatchNorm2d(WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.stem(x)  # @stem
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.norm(x))  # @norm
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # @mean
        return self.head(x)  # @head


def torch_loss(found, wanted):
    return F.smooth_l1_loss(found, wanted)  # @loss


# ---------------------------------------------------------------- jax


class BatchNorm(nnx.Module):
    """As torch's: the batch's own variance normalises, the unbiased one is kept."""

    def __init__(self, width, name):
        self.name = name
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.use_running_average = False

    def __call__(self, x):
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))  # @statistics
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean  # @keep_mean
            count = x.size // x.shape[-1]
            self.var[...] = 0.9 * self.var[...] + 0.1 * var * count / (count - 1)  # @keep_var
        x = (x - mean) / jnp.sqrt(var + 1e-5)  # @normed
        return x * self.scale[...] + self.bias[...]  # @affine


def conv(rngs):
    return nnx.Conv(WIDTH, WIDTH, (3, 3), padding=1, use_bias=False, rngs=rngs)


class JaxBlock(nnx.Module):
    def __init__(self, index, rngs):
        self.index = index
        self.norm1, self.norm2 = BatchNorm(WIDTH, f"blocks.{index}.norm1"), BatchNorm(WIDTH, f"blocks.{index}.norm2")
        self.conv1, self.conv2 = conv(rngs), conv(rngs)
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        h = jax.nn.relu(self.norm1(x))  # @norm1
        h = self.conv1(h)  # @conv1
        h = nnx.relu(self.norm2(h))  # @norm2
        h = self.conv2(h)  # @conv2
        return x + self.gain[...] * h  # @join


class JaxResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, WIDTH, (3, 3), padding=1, rngs=rngs)
        self.blocks = nnx.List([JaxBlock(i, rngs) for i in range(BLOCKS)])
        self.norm = BatchNorm(WIDTH, "norm")
        self.head = nnx.Linear(WIDTH, 4, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x.transpose(0, 2, 3, 1))  # @stem
        for block in self.blocks:
            x = block(x)
        x = nnx.relu(self.norm(x))  # @norm
        x = x.mean((1, 2))  # @mean
        return self.head(x)  # @head


def jax_loss(found, wanted):
    gap = jnp.abs(found - wanted)  # @gap
    return jnp.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return ResNet()


def jax_side():
    return JaxResNet(nnx.Rngs(0))


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[dlp.normal(3, 3, 8, 10), dlp.normal(3, 4)],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        train=True,
        name="resnet_train",
    )


PLACES = ("blocks.0", "blocks.1", "blocks.2")
AFFINE = "x * self.scale[...] + self.bias[...]"
NORMS = ("blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "blocks.2.norm1", "blocks.2.norm2", "norm")


def norm(kind, where, old, new, jax="", **more):
    """A bug in one of the batch norms."""
    return Bug(kind, where, old, new, "{place}", 'self.name == "{place}"', torch="{last}", jax=jax, places="NORMS", **more)


BUGS = (
    norm("batch norm eps", "jax normed", "1e-5", "1e-3"),
    norm("variance over N - 1", "jax normed", "jnp.sqrt(var + 1e-5)", "jnp.sqrt(var * count / (count - 1) + 1e-5)", "normed"),
    norm("running variance over N", "jax keep_var", "var * count / (count - 1)", "var"),
    norm("momentum", "jax keep_mean", "0.9 * self.mean[...] + 0.1 * mean", "0.99 * self.mean[...] + 0.01 * mean"),
    norm("momentum", "jax keep_var", "0.9 * self.var[...]", "0.1 * self.var[...]"),
    norm("mean over the wrong axis", "jax statistics", "x.var((0, 1, 2))", "x.var((1, 2)).mean(0)", "statistics normed"),
    norm("running statistics in training", "jax normed", "x - mean", "x - self.mean[...]", "normed keep_mean"),
    norm(
        "stop_gradient",
        "jax normed",
        "jnp.sqrt(var + 1e-5)",
        "jnp.sqrt(jax.lax.stop_gradient(var) + 1e-5)",
        "normed statistics",
        backward=True,
    ),
    norm("stop_gradient", "jax normed", "x - mean", "x - jax.lax.stop_gradient(mean)", "normed statistics", backward=True),
    norm("bias missing", "jax affine", AFFINE, AFFINE.split(" + ")[0], "affine {last}"),
    Bug("activation", "jax norm1", "jax.nn.relu(self.norm1(x))", "jax.nn.leaky_relu(self.norm1(x))", "{place}"),
    Bug("activation", "torch norm2", "F.relu(self.norm2(h))", "F.gelu(self.norm2(h))", "{place}"),
    Bug("norm after the activation", "jax norm2", "nnx.relu(self.norm2(h))", "self.norm2(nnx.relu(h))", "{place}", jax="norm2 statistics"),
    Bug("padding", "torch conv1", "self.conv1(h)", "F.conv2d(F.pad(h, (2, 0, 1, 1)), self.conv1.weight)", "{place}"),
    Bug("kernel turned", "jax conv2", "self.conv2(h)", "self.conv2(h[:, ::-1])[:, ::-1]", "{place}.conv2"),
    Bug("residual missing", "jax join", "x + self.gain[...] * h", "self.gain[...] * h", "{place}", jax="join statistics"),
    Bug("residual of the activation", "torch join", "x + self.gain * h", "F.relu(x) + self.gain * h", "{place}"),
    Bug("wrong constant", "jax join", "self.gain[...] * h", "0.5 * self.gain[...] * h", "{place}"),
    Bug(
        "dropout left on",
        "jax conv1",
        "self.conv1(h)",
        "self.conv1(h) * (jnp.arange(WIDTH) % 4 > 0) / 0.75",
        "{place}",
        torch="conv1 norm2",
    ),
    Bug("mean over the wrong axis", "jax mean", "x.mean((1, 2))", "x.mean(1)[:, 0]"),
    Bug("loss threshold", "jax loss", "gap < 1", "gap < 2", torch="loss"),
    Bug("reduction", "torch loss", "F.smooth_l1_loss(found, wanted)", 'F.smooth_l1_loss(found, wanted, reduction="sum")', jax="loss"),
    Bug("no effect", "jax join", "self.gain[...] * h", "h * self.gain[...]", "{place}", effect=False),
)
