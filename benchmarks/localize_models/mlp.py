"""A residual MLP that classifies: torch modules against plain functions of their parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WIDTH, HIDDEN, BLOCKS = 16, 24, 3

# ---------------------------------------------------------------- torch


class Block(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.dropout = nn.Dropout(0.2)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.mix = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        h = self.norm(x)  # @norm
        h = self.up(h)  # @up
        h = F.gelu(h, approximate="none")  # @gelu
        h = self.dropout(h)  # @dropout
        h = self.down(h)  # @down
        x = x + self.scale * h  # @residual
        return x + torch.tanh(self.mix(x))  # @mix


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(10, WIDTH)
        self.blocks = nn.ModuleList(Block(i) for i in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.stem(x)  # @stem
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)  # @final
        return F.log_softmax(self.head(x), -1)  # @head


def torch_loss(scores, labels):
    return F.nll_loss(scores, labels)  # @loss


# ---------------------------------------------------------------- jax


def layer_norm(p, name, x):
    centred = x - x.mean(-1, keepdims=True)  # @centred
    variance = jnp.square(centred).mean(-1, keepdims=True)  # @variance
    normed = centred / jnp.sqrt(variance + 1e-5)  # @root
    return normed * p[f"{name}.weight"] + p[f"{name}.bias"]  # @affine


def block(p, index, x):
    name = f"blocks.{index}"
    h = layer_norm(p, f"{name}.norm", x)  # @norm
    h = h @ p[f"{name}.up.weight"].T + p[f"{name}.up.bias"]  # @up
    h = jax.nn.gelu(h, approximate=False)  # @gelu
    h = h @ p[f"{name}.down.weight"].T + p[f"{name}.down.bias"]  # @down
    x = x + p[f"{name}.scale"] * h  # @residual
    return x + jnp.tanh(x @ p[f"{name}.mix.weight"].T)  # @mix


def mlp(p, x):
    x = x @ p["stem.weight"].T + p["stem.bias"]  # @stem
    for index in range(BLOCKS):
        x = block(p, index, x)
    x = layer_norm(p, "norm", x)  # @final
    return jax.nn.log_softmax(x @ p["head.weight"].T + p["head.bias"], -1)  # @head


def jax_loss(scores, labels):
    return -jnp.take_along_axis(scores, labels[:, None], 1).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return MLP()


def jax_side():
    return mlp


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[dlp.normal(4, 10), dlp.integers(4, high=5)],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        train=False,
        name="mlp",
    )


PLACES = tuple(f"blocks.{i}" for i in range(BLOCKS))
HERE = "index == {k}"
AFFINE = 'normed * p[f"{name}.weight"] + p[f"{name}.bias"]'
UP = 'h @ p[f"{name}.up.weight"].T + p[f"{name}.up.bias"]'
NORM = 'name == "{place}.norm"'

BUGS = (
    Bug("layer norm eps", "jax root", "1e-5", "1e-6", "{place}.norm", NORM, torch="norm"),
    Bug(
        "variance over N - 1",
        "jax variance",
        "jnp.square(centred).mean(-1, keepdims=True)",
        "x.var(-1, keepdims=True, ddof=1)",
        "{place}.norm",
        NORM,
        torch="norm",
    ),
    Bug(
        "mean over the wrong axis",
        "jax centred",
        "x.mean(-1, keepdims=True)",
        "x.mean(0, keepdims=True)",
        "{place}.norm",
        NORM,
        torch="norm",
    ),
    Bug("bias missing", "jax affine", AFFINE, AFFINE.split(" + ")[0], "{place}.norm", NORM, torch="norm", jax="affine up"),
    Bug("norm missing", "jax norm", 'layer_norm(p, f"{name}.norm", x)', "x", "{place}.norm", HERE, jax="norm up"),
    Bug("norm missing", "jax final", 'layer_norm(p, "norm", x)', "x", "norm", jax="final head"),
    Bug("GELU variant", "jax gelu", "False", "True", "{place}", HERE),
    Bug("GELU variant", "torch gelu", '"none"', '"tanh"', "{place}"),
    Bug("activation", "jax gelu", "jax.nn.gelu(h, approximate=False)", "jax.nn.silu(h)", "{place}", HERE),
    Bug(
        "dropout left on",
        "jax gelu",
        "jax.nn.gelu(h, approximate=False)",
        "jax.nn.gelu(h, approximate=False) * (jnp.arange(HIDDEN) % 5 > 0) / 0.8",
        "{place}",
        HERE,
        torch="gelu dropout down",
    ),
    Bug("bias missing", "jax up", UP, UP.split(" + ")[0], "{place}.up", HERE, jax="up gelu"),
    Bug("bias doubled", "jax down", 'p[f"{name}.down.bias"]', '2 * p[f"{name}.down.bias"]', "{place}.down", HERE),
    Bug("residual missing", "jax residual", 'x + p[f"{name}.scale"] * h', 'p[f"{name}.scale"] * h', "{place}", HERE, jax="residual mix"),
    Bug("residual missing", "torch mix", "x + torch.tanh(self.mix(x))", "torch.tanh(self.mix(x))", "{place}", torch="mix norm final"),
    Bug("clamp", "jax residual", 'p[f"{name}.scale"] * h', 'jnp.clip(p[f"{name}.scale"] * h, -0.2, 0.2)', "{place}", HERE),
    Bug("square weight transposed", "jax mix", 'p[f"{name}.mix.weight"].T', 'p[f"{name}.mix.weight"]', "{place}.mix", HERE),
    Bug("softmax axis", "jax head", "-1", "0", "", torch="head", jax="head"),
    Bug("reduction", "jax loss", ".mean()", ".sum()"),
    Bug(
        "stop_gradient",
        "jax mix",
        'x @ p[f"{name}.mix.weight"].T',
        'jax.lax.stop_gradient(x) @ p[f"{name}.mix.weight"].T',
        "{place}",
        HERE,
        jax="mix residual",
        backward=True,
    ),
    Bug("no effect", "jax final", 'layer_norm(p, "norm", x)', 'layer_norm(p, "norm", x.clip(-1e3, 1e3))', effect=False),
)
