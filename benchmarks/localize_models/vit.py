"""A vision transformer: torch, with its own attention kernel, against equinox, which takes one picture at a time."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import torch
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WIDTH, HEADS, BLOCKS, PATCHES = 16, 2, 3, 6

# ---------------------------------------------------------------- torch


class Attention(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q = self.query(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # @query
        k = self.key(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # @key
        v = self.value(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # @value
        x = F.scaled_dot_product_attention(q, k, v)  # @scores @softmax @mixed
        return self.proj(x.transpose(1, 2).flatten(2))  # @proj


class Block(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.norm1 = nn.LayerNorm(WIDTH, 1e-6)
        self.attention = Attention(index)
        self.norm2 = nn.LayerNorm(WIDTH, 1e-6)
        self.fc1 = nn.Linear(WIDTH, 3 * WIDTH)
        self.fc2 = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))  # @attend
        h = self.norm2(x)  # @norm2
        h = F.gelu(self.fc1(h))  # @fc1
        return x + self.fc2(h)  # @fc2


class ViT(nn.Module):
    """Pictures (n, 3, 8, 12) in 2x3 patches of 4x4 to scores (n, 5)."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, PATCHES + 1, WIDTH) / 2)
        self.blocks = nn.ModuleList(Block(i) for i in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = 2 * x - 1  # @scale
        x = self.patches(x)  # @patches
        x = x.flatten(2).transpose(1, 2)  # @rows
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)  # @token
        x = x + self.positions  # @positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)  # @final
        return self.head(x[:, 0])  # @head


def torch_loss(scores, labels):
    return F.cross_entropy(scores, labels, label_smoothing=0.1)  # @loss


# ---------------------------------------------------------------- jax


def heads(x):
    return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)  # @heads


class JaxAttention(eqx.Module):
    index: int = eqx.field(static=True)
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    proj: eqx.nn.Linear

    def __init__(self, index, key):
        self.index = index
        self.query, self.key, self.value, self.proj = (eqx.nn.Linear(WIDTH, WIDTH, key=k) for k in jax.random.split(key, 4))

    def __call__(self, x):
        q = heads(jax.vmap(self.query)(x))  # @query
        k = heads(jax.vmap(self.key)(x))  # @key
        v = heads(jax.vmap(self.value)(x))  # @value
        scores = jnp.einsum("hqd,hkd->hqk", q, k) / jnp.sqrt(WIDTH // HEADS)  # @scores
        weights = jax.nn.softmax(scores, -1)  # @softmax
        x = jnp.einsum("hqk,hkd->qhd", weights, v).reshape(x.shape)  # @mixed
        return jax.vmap(self.proj)(x)  # @proj


class JaxBlock(eqx.Module):
    index: int = eqx.field(static=True)
    norm1: eqx.nn.LayerNorm
    attention: JaxAttention
    norm2: eqx.nn.LayerNorm
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear

    def __init__(self, index, key):
        keys = jax.random.split(key, 3)
        self.index = index
        self.norm1 = eqx.nn.LayerNorm(WIDTH, 1e-6)  # @make_norm1
        self.attention = JaxAttention(index, keys[0])
        self.norm2 = eqx.nn.LayerNorm(WIDTH, 1e-6)  # @make_norm2
        self.fc1 = eqx.nn.Linear(WIDTH, 3 * WIDTH, key=keys[1])
        self.fc2 = eqx.nn.Linear(3 * WIDTH, WIDTH, key=keys[2])

    def __call__(self, x):
        x = x + self.attention(jax.vmap(self.norm1)(x))  # @attend
        h = jax.vmap(self.norm2)(x)  # @norm2
        h = jax.nn.gelu(jax.vmap(self.fc1)(h), approximate=False)  # @fc1
        return x + jax.vmap(self.fc2)(h)  # @fc2


class JaxViT(eqx.Module):
    patches: eqx.nn.Conv2d
    token: jax.Array
    positions: jax.Array
    blocks: list[JaxBlock]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, BLOCKS + 2)
        self.patches = eqx.nn.Conv2d(3, WIDTH, 4, stride=4, key=keys[0])
        self.token = jnp.zeros((1, 1, WIDTH))
        self.positions = jnp.zeros((1, PATCHES + 1, WIDTH))
        self.blocks = [JaxBlock(i, k) for i, k in enumerate(keys[2:])]
        self.norm = eqx.nn.LayerNorm(WIDTH, 1e-6)  # @make_norm
        self.head = eqx.nn.Linear(WIDTH, 5, key=keys[1])

    def __call__(self, x):
        x = 2 * x - 1  # @scale
        x = self.patches(x)  # @patches
        x = x.reshape(WIDTH, -1).T  # @rows
        x = jnp.concatenate([self.token[0], x])  # @token
        x = x + self.positions[0]  # @positions
        for block in self.blocks:
            x = block(x)
        x = jax.vmap(self.norm)(x)  # @final
        return self.head(x[0])  # @head


def jax_loss(scores, labels):
    hot = optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.1)  # @smooth
    return optax.softmax_cross_entropy(scores, hot).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return ViT()


def jax_side():
    return dlp.vmap(JaxViT(jax.random.key(0)))


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[dlp.uniform(2, 3, 8, 12), dlp.integers(2, high=5)],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        train=False,
        name="vit",
    )


PLACES = ("blocks.0", "blocks.1", "blocks.2")
ATTENTION = "{place}.attention"
GELU = "jax.nn.gelu(jax.vmap(self.fc1)(h), approximate=False)"

BUGS = (
    Bug("layer norm eps", "jax make_norm1", "1e-6", "1e-5", "{place}.norm1", "index == {k}", torch="attend", jax="attend"),
    Bug("layer norm eps", "jax make_norm2", "1e-6", "1e-5", "{place}.norm2", "index == {k}", torch="norm2", jax="norm2"),
    Bug("layer norm eps", "jax make_norm", "1e-6", "1e-5", "norm", torch="final", jax="final"),
    Bug("norm missing", "jax norm2", "jax.vmap(self.norm2)(x)", "x", "{place}.norm2", jax="norm2 fc1"),
    Bug("norm missing", "jax final", "jax.vmap(self.norm)(x)", "x", "norm", jax="final head"),
    Bug("GELU variant", "jax fc1", "False", "True", "{place}"),
    Bug("activation", "jax fc1", GELU, "jax.nn.silu(jax.vmap(self.fc1)(h))", "{place}"),
    Bug("activation", "torch fc1", "F.gelu(self.fc1(h))", "F.relu(self.fc1(h))", "{place}"),
    Bug("attention scale missing", "jax scores", "jnp.sqrt(WIDTH // HEADS)", "1", ATTENTION),
    Bug("attention scale wrong", "jax scores", "jnp.sqrt(WIDTH // HEADS)", "jnp.sqrt(WIDTH)", ATTENTION),
    Bug(
        "attention scale wrong",
        "torch scores",
        "F.scaled_dot_product_attention(q, k, v)",
        "F.scaled_dot_product_attention(q, k, v, scale=0.5)",
        ATTENTION,
    ),
    Bug(
        "causal mask too many",
        "torch scores",
        "F.scaled_dot_product_attention(q, k, v)",
        "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        ATTENTION,
        jax="scores softmax",
    ),
    Bug("q and k swapped", "jax scores", '"hqd,hkd->hqk"', '"hqd,hkd->hkq"', ATTENTION, jax="scores softmax"),
    Bug("k and v swapped", "torch scores", "F.scaled_dot_product_attention(q, k, v)", "F.scaled_dot_product_attention(q, v, k)", ATTENTION),
    Bug("softmax axis", "jax softmax", "-1", "-2", ATTENTION),
    Bug(
        "head split order",
        "jax query",
        "heads(jax.vmap(self.query)(x))",
        "jax.vmap(self.query)(x).reshape(len(x), -1, HEADS).transpose(2, 0, 1)",
        ATTENTION,
        torch="query scores",
        jax="query scores",
    ),
    Bug("head merge order", "jax mixed", '"hqk,hkd->qhd"', '"hqk,hkd->hqd"', ATTENTION, torch="mixed proj", jax="mixed proj"),
    Bug("square weight transposed", "jax key", "jax.vmap(self.key)(x)", "x @ self.key.weight + self.key.bias", ATTENTION),
    Bug(
        "square weight transposed",
        "torch proj",
        "self.proj(x.transpose(1, 2).flatten(2))",
        "F.linear(x.transpose(1, 2).flatten(2), self.proj.weight.T, self.proj.bias)",
        ATTENTION,
    ),
    Bug("bias missing", "jax value", "jax.vmap(self.value)(x)", "x @ self.value.weight.T", ATTENTION, jax="value mixed"),
    Bug("bias doubled", "jax fc2", "jax.vmap(self.fc2)(h)", "(jax.vmap(self.fc2)(h) + self.fc2.bias)", "{place}"),
    Bug(
        "dropout left on",
        "jax softmax",
        "jax.nn.softmax(scores, -1)",
        "jax.nn.softmax(scores, -1) * (jnp.arange(PATCHES + 1) % 4 > 0) / 0.75",
        ATTENTION,
        torch="softmax",
    ),
    Bug(
        "residual order",
        "jax attend",
        "x + self.attention(jax.vmap(self.norm1)(x))",
        "jax.vmap(self.norm1)(x + self.attention(x))",
        "{place}",
        jax="attend query key value",
    ),
    Bug("residual missing", "jax fc2", "x + jax.vmap(self.fc2)(h)", "jax.vmap(self.fc2)(h)", "{place}", jax="fc2 attend final"),
    Bug("class token order", "jax token", "[self.token[0], x]", "[x, self.token[0]]", torch="token positions", jax="token positions"),
    Bug("class token order", "jax head", "x[0]", "x[-1]", "|head"),
    Bug("pooling", "jax head", "x[0]", "x.mean(0)", "|head"),
    Bug(
        "order of the patches",
        "jax rows",
        "x.reshape(WIDTH, -1).T",
        "x.transpose(2, 1, 0).reshape(-1, WIDTH)",
        torch="rows token positions",
        jax="rows token positions",
    ),
    Bug("position off by one", "jax positions", "self.positions[0]", "jnp.roll(self.positions[0], 1, 0)"),
    Bug("wrong constant", "jax scale", "- 1", "- 0.9"),
    Bug(
        "variance over N - 1",
        "jax final",
        "jax.vmap(self.norm)(x)",
        "jax.vmap(lambda r: (r - r.mean()) / jnp.sqrt(r.var(ddof=1) + 1e-6) * self.norm.weight + self.norm.bias)(x)",
        "norm",
    ),
    Bug("label smoothing", "jax smooth", "0.1", "0.2", torch="loss", jax="smooth loss"),
    Bug("reduction", "jax loss", ".mean()", ".sum()"),
    Bug(
        "stop_gradient",
        "jax mixed",
        'jnp.einsum("hqk,hkd->qhd", weights, v)',
        'jnp.einsum("hqk,hkd->qhd", jax.lax.stop_gradient(weights), v)',
        ATTENTION,
        jax="mixed softmax",
        backward=True,
    ),
    Bug("no effect", "jax positions", "x + self.positions[0]", "(x + self.positions[0]).clip(-1e4, 1e4)", effect=False),
)
