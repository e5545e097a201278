"""GPT-2: torch against flax.nnx. Pre-norm blocks, causal attention with one product for q, k and v, the head tied to the embedding."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

# ---------------------------------------------------------------- torch


class Attention(nn.Module):
    def __init__(self, index, width, heads):
        super().__init__()
        self.index, self.heads = index, heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).split(d, -1)  # @qkv
        q, k, v = (a.view(b, t, self.heads, d // self.heads).transpose(1, 2) for a in (q, k, v))  # @heads
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)  # @scores
        causal = torch.ones(t, t, dtype=torch.bool).tril()  # @causal
        scores = scores.masked_fill(~causal, -torch.inf)  # @masked
        weights = scores.softmax(-1)  # @softmax
        x = (weights @ v).transpose(1, 2).reshape(b, t, d)  # @values
        return self.proj(x)  # @proj


class MLP(nn.Module):
    def __init__(self, index, width):
        super().__init__()
        self.index = index
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        h = F.gelu(self.up(x), approximate="tanh")  # @up
        return self.down(h)  # @down


class Block(nn.Module):
    def __init__(self, index, width, heads):
        super().__init__()
        self.index = index
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(index, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(index, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))  # @attend
        return x + self.mlp(self.norm2(x))  # @feed


class GPT(nn.Module):
    """Token ids (n, t) to logits (n, t, words)."""

    def __init__(self, blocks=3, width=16, heads=2, words=13, length=7):
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.positions = nn.Embedding(length + 1, width)
        self.blocks = nn.ModuleList(Block(i, width, heads) for i in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.tokens(ids)  # @tokens
        x = x + self.positions(torch.arange(ids.shape[1]))  # @positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)  # @final
        return x @ self.tokens.weight.T  # @head


def torch_loss(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())  # @loss


# ---------------------------------------------------------------- jax


class JaxAttention(nnx.Module):
    def __init__(self, index, width, heads, rngs):
        self.index, self.heads = index, heads
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        b, t, d = x.shape
        q, k, v = jnp.split(self.qkv(x), 3, -1)  # @qkv
        q, k, v = (a.reshape(b, t, self.heads, d // self.heads).transpose(0, 2, 1, 3) for a in (q, k, v))  # @heads
        scores = q @ k.swapaxes(-2, -1) / math.sqrt(d // self.heads)  # @scores
        causal = jnp.tril(jnp.ones((t, t), bool))  # @causal
        scores = jnp.where(causal, scores, -jnp.inf)  # @masked
        weights = jax.nn.softmax(scores, -1)  # @softmax
        x = (weights @ v).transpose(0, 2, 1, 3).reshape(b, t, d)  # @values
        return self.proj(x)  # @proj


class JaxMLP(nnx.Module):
    def __init__(self, index, width, rngs):
        self.index = index
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.gelu(self.up(x), approximate=True)  # @up
        return self.down(h)  # @down


class JaxBlock(nnx.Module):
    def __init__(self, index, width, heads, rngs):
        self.index = index
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)  # @make_norm1
        self.attention = JaxAttention(index, width, heads, rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)  # @make_norm2
        self.mlp = JaxMLP(index, width, rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))  # @attend
        return x + self.mlp(self.norm2(x))  # @feed


class JaxGPT(nnx.Module):
    def __init__(self, rngs, blocks=3, width=16, heads=2, words=13, length=7):
        self.tokens = nnx.Embed(words, width, rngs=rngs)
        self.positions = nnx.Embed(length + 1, width, rngs=rngs)
        self.blocks = nnx.List([JaxBlock(i, width, heads, rngs) for i in range(blocks)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)  # @make_norm

    def __call__(self, ids):
        x = self.tokens(ids)  # @tokens
        x = x + self.positions(jnp.arange(ids.shape[1]))  # @positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)  # @final
        return self.tokens.attend(x)  # @head


def jax_loss(logits, ids):
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:]).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side(batch=2, **sizes):
    return GPT(**sizes)


def jax_side(batch=2, **sizes):
    return JaxGPT(nnx.Rngs(0), **sizes)


def spec(torch_side, jax_side, batch=2, words=13, length=7, **sizes):
    ids = dlp.integers(batch, length, high=words)
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[ids, ids],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        train=False,
        name="gpt",
    )


PLACES = ("blocks.0", "blocks.1", "blocks.2")
SPLIT = "jnp.split(self.qkv(x), 3, -1)"
ROWS = "a.reshape(b, t, self.heads, d // self.heads).transpose(0, 2, 1, 3)"
MIXED = "(weights @ v).transpose(0, 2, 1, 3).reshape(b, t, d)"
GELU = "jax.nn.gelu(self.up(x), approximate=True)"

BUGS = (
    Bug("layer norm eps", "jax make_norm1", "epsilon=1e-5", "epsilon=1e-6", "{place}.norm1", "index == {k}", torch="attend", jax="attend"),
    Bug("layer norm eps", "jax make_norm2", "epsilon=1e-5", "epsilon=1e-6", "{place}.norm2", "index == {k}", torch="feed", jax="feed"),
    Bug("layer norm eps", "jax make_norm", "1e-5", "1e-6", "norm", torch="final", jax="final"),
    Bug("GELU variant", "jax up", "True", "False", "{place}.mlp"),
    Bug("GELU variant", "torch up", '"tanh"', '"none"', "{place}.mlp"),
    Bug("attention scale missing", "jax scores", "math.sqrt(d // self.heads)", "1.0", "{place}.attention"),
    Bug("attention scale wrong", "jax scores", "math.sqrt(d // self.heads)", "math.sqrt(d)", "{place}.attention"),
    Bug("attention scale wrong", "torch scores", "math.sqrt(d // self.heads)", "(d // self.heads)", "{place}.attention"),
    Bug(
        "q and k swapped",
        "jax qkv",
        SPLIT,
        f"[{SPLIT}[j] for j in (1, 0, 2)]",
        "{place}.attention",
        torch="qkv scores masked",
        jax="qkv scores masked",
    ),
    Bug("k and v swapped", "jax qkv", SPLIT, f"[{SPLIT}[j] for j in (0, 2, 1)]", "{place}.attention", torch="qkv scores", jax="qkv scores"),
    Bug(
        "causal mask off by one",
        "jax causal",
        "jnp.tril(jnp.ones((t, t), bool))",
        "jnp.tril(jnp.ones((t, t), bool), 1)",
        "{place}.attention",
        torch="causal masked",
        jax="causal masked",
    ),
    Bug(
        "causal mask missing",
        "jax masked",
        "jnp.where(causal, scores, -jnp.inf)",
        "scores",
        "{place}.attention",
        jax="masked softmax scores",
    ),
    Bug("causal mask transposed", "jax causal", "jnp.tril", "jnp.triu", "{place}.attention", torch="causal masked", jax="causal masked"),
    Bug("mask value", "jax masked", "-jnp.inf", "-1.0", "{place}.attention"),
    Bug("softmax axis", "jax softmax", "-1", "-2", "{place}.attention"),
    Bug(
        "head split order",
        "jax heads",
        ROWS,
        "a.reshape(b, t, d // self.heads, self.heads).transpose(0, 3, 1, 2)",
        "{place}.attention",
        torch="heads scores",
        jax="heads scores",
    ),
    Bug(
        "head merge order",
        "jax values",
        MIXED,
        "(weights @ v).reshape(b, t, d)",
        "{place}.attention",
        torch="values proj",
        jax="values proj",
    ),
    Bug("square weight transposed", "jax proj", "self.proj(x)", "x @ self.proj.kernel.T + self.proj.bias", "{place}.attention"),
    Bug("bias missing", "jax proj", "self.proj(x)", "x @ self.proj.kernel", "{place}.attention", jax="proj attend"),
    Bug("bias doubled", "jax down", "self.down(h)", "self.down(h) + self.down.bias", "{place}.mlp", torch="down feed"),
    Bug(
        "dropout left on",
        "jax softmax",
        "jax.nn.softmax(scores, -1)",
        "jax.nn.softmax(scores, -1) * (jnp.arange(t) % 3 > 0) / 0.7",
        "{place}.attention",
        torch="softmax values",
    ),
    Bug("dropout left on", "jax up", GELU, f"{GELU} * (jnp.arange(x.shape[-1] * 2) % 5 > 0) / 0.8", "{place}.mlp", torch="up down"),
    Bug("residual order", "jax feed", "x + self.mlp(self.norm2(x))", "self.norm2(x + self.mlp(x))", "{place}", jax="feed up"),
    Bug(
        "residual missing", "jax attend", "x + self.attention(self.norm1(x))", "self.attention(self.norm1(x))", "{place}", jax="attend feed"
    ),
    Bug("residual of the norm", "torch feed", "x + self.mlp(self.norm2(x))", "self.norm2(x) + self.mlp(self.norm2(x))", "{place}"),
    Bug("norm missing", "jax attend", "self.attention(self.norm1(x))", "self.attention(x)", "{place}", jax="attend qkv"),
    Bug("norm missing", "jax final", "self.norm(x)", "x", "norm", jax="final head"),
    Bug("position off by one", "jax positions", "jnp.arange(ids.shape[1])", "jnp.arange(ids.shape[1]) + 1", "positions|"),
    Bug("position off by one", "torch positions", "torch.arange(ids.shape[1])", "torch.arange(ids.shape[1]) + 1", "positions|"),
    Bug("embedding scale", "jax tokens", "self.tokens(ids)", "self.tokens(ids) * 4.0", "|tokens", torch="tokens positions"),
    Bug("activation", "jax up", GELU, "jax.nn.relu(self.up(x))", "{place}.mlp"),
    Bug("weight of another layer", "jax down", "self.down(h)", "h @ self.up.kernel.T + self.down.bias", "{place}.mlp.down"),
    Bug("reduction", "jax loss", ".mean()", ".sum()"),
    Bug("labels shifted wrongly", "jax loss", "ids[:, 1:]", "ids[:, :-1]"),
    Bug(
        "stop_gradient",
        "jax scores",
        "q @ k.swapaxes(-2, -1)",
        "jax.lax.stop_gradient(q) @ k.swapaxes(-2, -1)",
        "{place}.attention",
        jax="scores heads qkv",
        torch="scores heads qkv",
        backward=True,
    ),
    Bug(
        "stop_gradient",
        "jax head",
        "self.tokens.attend(x)",
        "x @ jax.lax.stop_gradient(self.tokens.embedding[...]).T",
        jax="head tokens",
        backward=True,
    ),
    Bug("no effect", "jax masked", "-jnp.inf", "-1e9", "{place}.attention", effect=False),
    Bug("no effect", "torch positions", "torch.arange(ids.shape[1])", "torch.arange(8)[: ids.shape[1]]", effect=False),
)
