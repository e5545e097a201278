"""A small convolutional network: torch against layers in the style of jax.example_libraries.stax, a pair of functions each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import torch
from jax.example_libraries import stax
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WIDTH, CONVS = 8, 3

# ---------------------------------------------------------------- torch


class Net(nn.Module):
    """Pictures (n, 3, 12, 16) to scores (n, 5)."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(WIDTH if i else 3, WIDTH, 3, stride=2, padding=1) for i in range(CONVS))
        self.hidden = nn.Linear(WIDTH * 4, 16)
        self.norm = nn.LayerNorm(16)
        self.square = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        for index, conv in enumerate(self.convs):
            x = conv(x)  # @conv
            x = F.softplus(x) - 0.1 * index  # @soft
        x = x.flatten(1)  # @flatten
        x = self.hidden(x)  # @hidden
        x = self.norm(x)  # @norm
        x = x + torch.tanh(self.square(x))  # @square
        return self.head(x)  # @head


# ---------------------------------------------------------------- jax


def conv(index):
    def init(key, shape):
        return (*(-(-n // 2) for n in shape[1:3]), WIDTH), (jnp.zeros((3, 3, shape[-1], WIDTH)), jnp.zeros(WIDTH))

    def apply(params, x, **_):
        kernel, bias = params
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))  # @conv @kernel
        return x + bias  # @conv @conv_bias

    return lambda key, shape: ((shape[0], *init(key, shape)[0]), init(key, shape)[1]), apply


def soft(index):
    def apply(params, x, **_):
        return jax.nn.softplus(x) - 0.1 * index  # @soft

    return lambda key, shape: (shape, ()), apply


def flatten():
    def apply(params, x, **_):
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # @flatten

    return lambda key, shape: ((shape[0], shape[1] * shape[2] * shape[3]), ()), apply


def dense(width):
    def apply(params, x, **_):
        kernel, bias = params
        return x @ kernel + bias  # @hidden @head

    return lambda key, shape: ((shape[0], width), (jnp.zeros((shape[1], width)), jnp.zeros(width))), apply


def norm():
    def apply(params, x, **_):
        scale, bias = params
        centred = x - x.mean(-1, keepdims=True)  # @centred
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * scale + bias  # @norm

    return lambda key, shape: (shape, (jnp.ones(shape[-1]), jnp.zeros(shape[-1]))), apply


def square():
    def apply(params, x, **_):
        kernel, bias = params
        return x + jnp.tanh(x @ kernel + bias)  # @square

    return lambda key, shape: (shape, (jnp.zeros((shape[1], shape[1])), jnp.zeros(shape[1]))), apply


# ---------------------------------------------------------------- the pair


def torch_side():
    return Net()


def images_last():
    return lambda key, shape: ((shape[0], *shape[2:], shape[1]), ()), lambda params, x, **_: x.transpose(0, 2, 3, 1)


def jax_side():
    convs = [layer for index in range(CONVS) for layer in (conv(index), soft(index))]
    return stax.serial(images_last(), *convs, flatten(), dense(16), norm(), square(), dense(5))


def spec(torch_side, jax_side):
    kernels = {f"convs.{i}.weight": (f"{1 + 2 * i}.0", "o i h w -> h w i o") for i in range(CONVS)}
    biases = {f"convs.{i}.bias": f"{1 + 2 * i}.1" for i in range(CONVS)}
    dense = {"hidden": 8, "square": 10, "head": 11}
    kernels |= {f"{name}.weight": (f"{place}.0", "o i -> i o") for name, place in dense.items()}
    biases |= {f"{name}.bias": f"{place}.1" for name, place in dense.items()} | {"norm.weight": "9.0", "norm.bias": "9.1"}
    return dlp.model(
        torch=torch_side, jax=jax_side, inputs=[dlp.normal(2, 3, 12, 16)], param_map=kernels | biases, train=False, name="stax_net"
    )


PLACES = ("convs.0", "convs.1", "convs.2")
HERE = "index == {k}"
SOFT = "jax.nn.softplus(x)"

BUGS = (
    Bug("padding", "jax kernel", "((1, 1), (1, 1))", '"SAME"', "{place}", HERE, torch="conv", jax="conv"),
    Bug("bias missing", "jax conv_bias", "x + bias", "x", "{place}", HERE, torch="conv", jax="conv_bias kernel soft"),
    Bug("bias doubled", "jax conv_bias", "bias", "2 * bias", "{place}", HERE, torch="conv"),
    Bug("activation", "jax soft", SOFT, "jax.nn.relu(x)", "", HERE),
    Bug("wrong constant", "torch soft", "0.1 * index", "0.2 * index", jax="soft"),
    Bug("dropout left on", "jax soft", SOFT, f"{SOFT} * (jnp.arange(WIDTH) % 4 > 0) / 0.75", "", HERE, torch="soft"),
    Bug("flatten order", "jax flatten", ".transpose(0, 3, 1, 2)", "", "hidden|", torch="flatten hidden", jax="flatten hidden"),
    Bug("layer norm eps", "jax norm", "1e-5", "1e-6", "norm"),
    Bug("variance over N - 1", "jax norm", "jnp.square(centred).mean(-1, keepdims=True)", "x.var(-1, keepdims=True, ddof=1)", "norm"),
    Bug("square weight transposed", "jax square", "x @ kernel", "x @ kernel.T", "square"),
    Bug("residual missing", "jax square", "x + jnp.tanh", "jnp.tanh", jax="square head"),
    Bug("residual missing", "torch square", "x + torch.tanh", "torch.tanh", torch="square head"),
    Bug("stop_gradient", "jax square", "x + jnp", "jax.lax.stop_gradient(x) + jnp", jax="square norm", backward=True),
)
