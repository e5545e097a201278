"""A ResNet in evaluation, with the running statistics of its batch norms: torch, channels first, against flax.nnx, channels last."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

SHAPES = ((8, 8, 1), (8, 12, 2), (12, 12, 1))  # channels in, channels out, stride of each block

# ---------------------------------------------------------------- torch


class Block(nn.Module):
    def __init__(self, index, before, after, stride):
        super().__init__()
        self.index = index
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = nn.Conv2d(before, after, 1, stride, bias=False)
        self.short_norm = nn.BatchNorm2d(after)

    def forward(self, x):
        h = self.conv1(x)  # @conv1
        h = F.relu(self.norm1(h))  # @norm1
        h = self.conv2(h)  # @conv2
        h = self.norm2(h)  # @norm2
        s = self.short(x)  # @short
        s = self.short_norm(s)  # @short_norm
        return F.relu(h + s)  # @join


class ResNet(nn.Module):
    """Pictures (n, 3, 16, 20) to scores (n, 5)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(Block(i, *shape) for i, shape in enumerate(SHAPES))
        self.hidden = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)  # @stem
        x = F.silu(self.stem_norm(x))  # @stem_norm
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # @pool
        for block in self.blocks:
            x = block(x)
        x = x.mean((2, 3))  # @mean
        x = F.elu(self.hidden(x))  # @hidden
        return self.head(x)  # @head


def torch_loss(scores, labels):
    return F.cross_entropy(scores, labels)  # @loss


# ---------------------------------------------------------------- jax


class JaxBlock(nnx.Module):
    def __init__(self, index, before, after, stride, rngs):
        self.index = index
        self.conv1 = nnx.Conv(before, after, (3, 3), stride, padding=1, use_bias=False, rngs=rngs)  # @make_conv1
        self.norm1 = nnx.BatchNorm(after, momentum=0.9, epsilon=1e-5, rngs=rngs)  # @make_norm1
        self.conv2 = nnx.Conv(after, after, (3, 3), padding=1, use_bias=False, rngs=rngs)  # @make_conv2
        self.norm2 = nnx.BatchNorm(after, momentum=0.9, epsilon=1e-5, rngs=rngs)  # @make_norm2
        self.short = nnx.Conv(before, after, (1, 1), stride, padding="VALID", use_bias=False, rngs=rngs)
        self.short_norm = nnx.BatchNorm(after, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        h = self.conv1(x)  # @conv1
        h = nnx.relu(self.norm1(h))  # @norm1
        h = self.conv2(h)  # @conv2
        h = self.norm2(h)  # @norm2
        s = self.short(x)  # @short
        s = self.short_norm(s)  # @short_norm
        return jax.nn.relu(h + s)  # @join


class JaxResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), 2, padding=1, use_bias=False, rngs=rngs)  # @make_stem
        self.stem_norm = nnx.BatchNorm(8, momentum=0.9, epsilon=1e-5, rngs=rngs)  # @make_stem_norm
        self.blocks = nnx.List([JaxBlock(i, *shape, rngs) for i, shape in enumerate(SHAPES)])
        self.hidden = nnx.Linear(12, 12, rngs=rngs)
        self.head = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x.transpose(0, 2, 3, 1))  # @stem
        x = nnx.silu(self.stem_norm(x))  # @stem_norm
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # @pool
        for block in self.blocks:
            x = block(x)
        x = jnp.mean(x, (1, 2))  # @mean
        x = nnx.elu(self.hidden(x))  # @hidden
        return self.head(x)  # @head


def jax_loss(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return ResNet()


def jax_side():
    return JaxResNet(nnx.Rngs(0))


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[dlp.normal(2, 3, 16, 20), dlp.integers(2, high=5)],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        train=False,
        name="resnet",
    )


PLACES = ("blocks.0", "blocks.1", "blocks.2")
MADE = "index == {k}"

BUGS = (
    Bug("batch norm eps", "jax make_norm1", "epsilon=1e-5", "epsilon=1e-3", "{place}.norm1", MADE, torch="norm1", jax="norm1"),
    Bug("batch norm eps", "jax make_norm2", "epsilon=1e-5", "epsilon=1e-6", "{place}.norm2", MADE, torch="norm2", jax="norm2"),
    Bug("batch norm eps", "jax make_stem_norm", "epsilon=1e-5", "epsilon=1e-3", "stem_norm", torch="stem_norm", jax="stem_norm"),
    Bug("batch statistics in evaluation", "jax norm1", "self.norm1(h)", "self.norm1(h, use_running_average=False)", "{place}.norm1"),
    Bug(
        "batch statistics in evaluation",
        "torch norm2",
        "self.norm2(h)",
        "F.batch_norm(h, None, None, self.norm2.weight, self.norm2.bias, True)",
        "{place}.norm2|{place}",
    ),
    Bug("norm missing", "jax short_norm", "self.short_norm(s)", "s", "{place}.short_norm", jax="short_norm short join"),
    Bug("norm of another layer", "torch norm2", "self.norm2(h)", "self.norm1(h)", "{place}.norm2|{place}.norm1"),
    Bug("padding", "jax make_stem", "padding=1", 'padding="SAME"', "stem", torch="stem", jax="stem"),
    Bug("padding", "jax make_conv1", "padding=1", 'padding="SAME"', "blocks.1.conv1", "index == 1", torch="conv1", jax="conv1"),
    Bug("padding", "jax make_conv2", "padding=1", "padding=((2, 0), (1, 1))", "{place}.conv2", MADE, torch="conv2", jax="conv2"),
    Bug("padding", "jax pool", "padding=((1, 1), (1, 1))", 'padding="SAME"'),
    Bug("stride offset", "jax short", "self.short(x)", "self.short(jnp.roll(x, -1, 1))", "{place}.short"),
    Bug("pooling", "jax pool", "nnx.max_pool(x,", "nnx.avg_pool(x,"),
    Bug("pooling", "jax mean", "jnp.mean(x, (1, 2))", "x.max((1, 2))"),
    Bug("mean over the wrong axis", "jax mean", "jnp.mean(x, (1, 2))", "x.mean(1)[:, 0]"),
    Bug("activation", "jax norm1", "nnx.relu(self.norm1(h))", "nnx.gelu(self.norm1(h))", "{place}"),
    Bug("activation", "jax stem_norm", "nnx.silu", "nnx.relu"),
    Bug("activation", "torch hidden", "F.elu", "F.selu"),
    Bug("clamp", "jax join", "jax.nn.relu(h + s)", "jnp.clip(h + s, 0.0, 0.5)", "{place}"),
    Bug("residual missing", "jax join", "h + s", "h", "{place}"),
    Bug("residual order", "jax join", "jax.nn.relu(h + s)", "(jax.nn.relu(h) + s)", "{place}"),
    Bug(
        "bias doubled",
        "torch short_norm",
        "self.short_norm(s)",
        "self.short_norm(s) + self.short_norm.bias[:, None, None]",
        "{place}",
        jax="short_norm join",
    ),
    Bug("kernel turned", "jax conv2", "self.conv2(h)", "self.conv2(h[:, ::-1, ::-1])[:, ::-1, ::-1]", "{place}.conv2"),
    Bug("square weight transposed", "jax hidden", "self.hidden(x)", "x @ self.hidden.kernel.T + self.hidden.bias", "hidden"),
    Bug("bias missing", "jax head", "self.head(x)", "x @ self.head.kernel", "head", jax="head loss"),
    Bug("dropout left on", "jax mean", "jnp.mean(x, (1, 2))", "jnp.mean(x, (1, 2)) * (jnp.arange(12) % 4 > 0) / 0.75", torch="mean hidden"),
    Bug("reduction", "jax loss", ".mean()", ".sum()"),
    Bug(
        "stop_gradient",
        "jax short_norm",
        "self.short_norm(s)",
        "self.short_norm(jax.lax.stop_gradient(s))",
        "{place}",
        jax="short_norm short",
        backward=True,
    ),
    Bug("no effect", "jax pool", "nnx.max_pool(x,", "nnx.max_pool(x + 0.0,", effect=False),
    Bug("no effect", "jax make_norm1", "momentum=0.9", "momentum=0.99", "{place}", MADE, torch="norm1", jax="norm1", effect=False),
)
