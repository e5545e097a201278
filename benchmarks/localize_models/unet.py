"""A UNet with time steps, as in diffusion models: torch against equinox."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WIDTH, TIME = 8, 12
INSIDE = {"down.0": WIDTH, "down.1": WIDTH, "up.0": 2 * WIDTH, "up.1": 2 * WIDTH}  # channels that each residual block reads

# ---------------------------------------------------------------- torch


def torch_time(t):
    """Time steps (n,) to sines and cosines (n, TIME)."""
    rates = torch.exp(-math.log(1e4) * torch.arange(TIME // 2, dtype=t.dtype) / (TIME // 2))  # @rates
    angles = t[:, None] * rates  # @angles
    return torch.cat([angles.cos(), angles.sin()], -1)  # @waves


class ResBlock(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.norm1 = nn.GroupNorm(4, INSIDE[name])
        self.conv1 = nn.Conv2d(INSIDE[name], WIDTH, 3, padding=1)
        self.time = nn.Linear(TIME, WIDTH)
        self.norm2 = nn.GroupNorm(4, WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.skip = nn.Identity() if INSIDE[name] == WIDTH else nn.Conv2d(INSIDE[name], WIDTH, 1)

    def forward(self, x, t):
        h = self.norm1(x)  # @norm1
        h = self.conv1(F.silu(h))  # @conv1
        h = h + self.time(t)[:, :, None, None]  # @time
        h = self.norm2(h)  # @norm2
        h = self.conv2(F.silu(h))  # @conv2
        return (self.skip(x) + h) / math.sqrt(2)  # @join


class Attention(nn.Module):
    """Every pixel attends to every other, one head."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(4, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        rows = self.norm(x).flatten(2).mT  # @rows
        q, k, v = self.query(rows), self.key(rows), self.value(rows)  # @qkv
        scores = q @ k.mT / math.sqrt(WIDTH)  # @scores
        h = scores.softmax(-1) @ v  # @values
        return x + h.mT.reshape(x.shape)  # @attended


class UNet(nn.Module):
    """Pictures (n, 3, 8, 12) and time steps (n,) to noise (n, 3, 8, 12)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.embed = nn.Linear(TIME, TIME)
        self.down = nn.ModuleList(ResBlock(f"down.{i}") for i in range(2))
        self.pools = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, stride=2) for _ in range(2))
        self.attention = Attention()
        self.up = nn.ModuleList(ResBlock(f"up.{i}") for i in range(2))
        self.out = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, x, t):
        t = F.silu(self.embed(torch_time(t)))  # @embed
        x = self.stem(x)  # @stem
        skips = []
        for block, pool in zip(self.down, self.pools, strict=True):
            x = block(x, t)
            skips.append(x)
            x = pool(F.pad(x, (0, 1, 0, 1)))  # @pool
        x = self.attention(x)
        for index, block in enumerate(self.up):
            mode = "nearest" if index == 0 else "bilinear"
            x = F.interpolate(x, scale_factor=2, mode=mode)  # @upsample
            x = torch.cat([x, skips.pop()], 1)  # @concat
            x = block(x, t)
        return self.out(x)  # @out


# ---------------------------------------------------------------- jax


def jax_time(t):
    rates = jnp.exp(-math.log(1e4) * jnp.arange(TIME // 2) / (TIME // 2))  # @rates
    angles = t * rates  # @angles
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])  # @waves


class JaxResBlock(eqx.Module):
    name: str = eqx.field(static=True)
    norm1: eqx.nn.GroupNorm
    conv1: eqx.nn.Conv2d
    time: eqx.nn.Linear
    norm2: eqx.nn.GroupNorm
    conv2: eqx.nn.Conv2d
    skip: eqx.nn.Conv2d | eqx.nn.Identity

    def __init__(self, name, key):
        keys = jax.random.split(key, 4)
        self.name = name
        self.norm1 = eqx.nn.GroupNorm(4, INSIDE[name], eps=1e-5)  # @make_norm1
        self.conv1 = eqx.nn.Conv2d(INSIDE[name], WIDTH, 3, padding=1, key=keys[0])  # @make_conv1
        self.time = eqx.nn.Linear(TIME, WIDTH, key=keys[1])
        self.norm2 = eqx.nn.GroupNorm(4, WIDTH, eps=1e-5)  # @make_norm2
        self.conv2 = eqx.nn.Conv2d(WIDTH, WIDTH, 3, padding=1, key=keys[2])
        self.skip = eqx.nn.Identity() if INSIDE[name] == WIDTH else eqx.nn.Conv2d(INSIDE[name], WIDTH, 1, key=keys[3])

    def __call__(self, x, t):
        h = self.norm1(x)  # @norm1
        h = self.conv1(jax.nn.silu(h))  # @conv1
        h = h + self.time(t)[:, None, None]  # @time
        h = self.norm2(h)  # @norm2
        h = self.conv2(jax.nn.silu(h))  # @conv2
        return (self.skip(x) + h) / math.sqrt(2)  # @join


class JaxAttention(eqx.Module):
    norm: eqx.nn.GroupNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.GroupNorm(4, WIDTH)
        self.query, self.key, self.value = (eqx.nn.Linear(WIDTH, WIDTH, key=k) for k in jax.random.split(key, 3))

    def __call__(self, x):
        rows = self.norm(x).reshape(WIDTH, -1).T  # @rows
        q, k, v = (jax.vmap(layer)(rows) for layer in (self.query, self.key, self.value))  # @qkv
        scores = q @ k.T / math.sqrt(WIDTH)  # @scores
        h = jax.nn.softmax(scores, -1) @ v  # @values
        return x + h.T.reshape(x.shape)  # @attended


class JaxUNet(eqx.Module):
    stem: eqx.nn.Conv2d
    embed: eqx.nn.Linear
    down: list[JaxResBlock]
    pools: list[eqx.nn.Conv2d]
    attention: JaxAttention
    up: list[JaxResBlock]
    out: eqx.nn.Conv2d

    def __init__(self, key):
        keys = iter(jax.random.split(key, 12))
        self.stem = eqx.nn.Conv2d(3, WIDTH, 3, padding=1, key=next(keys))
        self.embed = eqx.nn.Linear(TIME, TIME, key=next(keys))
        self.down = [JaxResBlock(f"down.{i}", next(keys)) for i in range(2)]
        self.pools = [eqx.nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=((0, 1), (0, 1)), key=next(keys)) for _ in range(2)]  # @make_pool
        self.attention = JaxAttention(next(keys))
        self.up = [JaxResBlock(f"up.{i}", next(keys)) for i in range(2)]
        self.out = eqx.nn.Conv2d(WIDTH, 3, 1, key=next(keys))

    def __call__(self, x, t):
        t = jax.nn.silu(self.embed(jax_time(t)))  # @embed
        x = self.stem(x)  # @stem
        skips = []
        for block, pool in zip(self.down, self.pools, strict=True):
            x = block(x, t)
            skips.append(x)
            x = pool(x)  # @pool
        x = self.attention(x)
        for index, block in enumerate(self.up):
            mode = "nearest" if index == 0 else "bilinear"
            x = jax.image.resize(x, (len(x), 2 * x.shape[1], 2 * x.shape[2]), mode)  # @upsample
            x = jnp.concatenate([x, skips.pop()])  # @concat
            x = block(x, t)
        return self.out(x)  # @out


# ---------------------------------------------------------------- the pair


def torch_side():
    return UNet()


def jax_side():
    return dlp.vmap(JaxUNet(jax.random.key(0)))


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side, jax=jax_side, inputs=[dlp.normal(2, 3, 8, 12), dlp.uniform(2, low=1, high=50)], train=False, name="unet"
    )


PLACES = tuple(INSIDE)
HERE, MADE, UP = 'self.name == "{place}"', 'name == "{place}"', "index == {k}"
UPS = ("up.0", "up.1")


def block(kind, where, old, new, layer="", torch="", jax="", **more):
    """A bug in one of the residual blocks."""
    return Bug(kind, where, old, new, "{place}" + layer, MADE if "make" in where else HERE, torch, jax, **more)


BUGS = (
    block("group norm eps", "jax make_norm1", "eps=1e-5", "eps=1e-6", ".norm1", "norm1", "norm1"),
    block("group norm eps", "jax make_norm2", "eps=1e-5", "eps=1e-3", ".norm2", "norm2", "norm2"),
    block("number of groups", "jax make_norm2", "4", "2", ".norm2", "norm2", "norm2"),
    block("padding", "jax make_conv1", "padding=1", "padding=((2, 0), (1, 1))", ".conv1", "conv1", "conv1"),
    block("norm missing", "jax norm2", "self.norm2(h)", "h", ".norm2", jax="norm2 conv2"),
    block("activation", "jax conv1", "jax.nn.silu(h)", "jax.nn.relu(h)"),
    block("activation", "torch conv2", "F.silu(h)", "F.gelu(h)"),
    block("time missing", "jax time", "h + self.time(t)[:, None, None]", "h", jax="time conv1 norm2"),
    block("bias doubled", "jax time", "self.time(t)[:, None, None]", "(self.time(t) + self.time.bias)[:, None, None]"),
    block("bias missing", "jax time", "self.time(t)[:, None, None]", "(self.time.weight @ t)[:, None, None]"),
    block("residual missing", "jax join", "self.skip(x) + h", "h"),
    block("wrong constant", "jax join", "math.sqrt(2)", "2"),
    block("wrong constant", "torch join", "math.sqrt(2)", "1"),
    block("kernel turned", "jax conv2", "self.conv2(jax.nn.silu(h))", "self.conv2(jax.nn.silu(h)[:, ::-1])[:, ::-1]", ".conv2"),
    block("dropout left on", "jax conv2", "jax.nn.silu(h)", "(jax.nn.silu(h) * (jnp.arange(h.shape[2]) % 3 > 0) / 0.7)"),
    block("stop_gradient", "jax time", "self.time(t)", "self.time(jax.lax.stop_gradient(t))", jax="time embed", backward=True),
    Bug("padding", "jax make_pool", "((0, 1), (0, 1))", "1", "pools", torch="pool", jax="pool"),
    Bug("padding", "torch pool", "(0, 1, 0, 1)", "(1, 0, 1, 0)", "|pools", jax="pool"),
    Bug("upsampling", "jax upsample", ", mode)", ', "nearest")', torch="upsample"),
    Bug("upsampling", "torch upsample", "mode=mode", 'mode="bilinear"', jax="upsample"),
    Bug("upsampling", "torch upsample", "mode=mode", 'mode=mode, align_corners=True if mode == "bilinear" else None', jax="upsample"),
    Bug(
        "concatenation order",
        "jax concat",
        "[x, skips.pop()]",
        "[skips.pop(), x]",
        "{place}",
        UP,
        torch="concat norm1 join",
        jax="concat norm1 join",
        places="UPS",
    ),
    Bug("order of the skips", "jax concat", "skips.pop()", "skips[1 - index]", effect=False),
    Bug(
        "order of sines",
        "jax waves",
        "[jnp.cos(angles), jnp.sin(angles)]",
        "[jnp.sin(angles), jnp.cos(angles)]",
        "|embed",
        torch="waves embed",
        jax="waves embed",
    ),
    Bug(
        "position off by one",
        "jax rates",
        "jnp.arange(TIME // 2) / (TIME // 2)",
        "jnp.arange(TIME // 2) / (TIME // 2 - 1)",
        jax="rates angles",
        torch="rates angles",
    ),
    Bug("embedding scale", "jax angles", "t * rates", "1000 * t * rates"),
    Bug("attention scale missing", "jax scores", "math.sqrt(WIDTH)", "1", "attention"),
    Bug("attention scale wrong", "jax scores", "math.sqrt(WIDTH)", "WIDTH", "attention"),
    Bug("softmax axis", "jax values", "-1", "0", "attention"),
    Bug("q and k swapped", "jax scores", "q @ k.T", "k @ q.T", "attention", torch="scores values", jax="scores values"),
    Bug("square weight transposed", "torch qkv", "self.value(rows)", "F.linear(rows, self.value.weight.T, self.value.bias)", "attention"),
    Bug("layout of the output", "jax attended", "h.T.reshape(x.shape)", "h.reshape(x.shape)", "attention"),
    Bug("residual missing", "jax attended", "x + h.T.reshape(x.shape)", "h.T.reshape(x.shape)", "attention", jax="attended upsample"),
    Bug("no effect", "jax attended", "x + h.T", "0.0 + x + h.T", "attention", effect=False),
)
