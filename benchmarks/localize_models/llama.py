"""A LLaMA: torch against haiku. RMS norms, rotary positions, keys and values shared by two heads each, a gated feed-forward."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WORDS, WIDTH, HEADS, SHARED, BLOCKS = 13, 16, 4, 2, 3  # each of SHARED keys serves HEADS // SHARED queries
INNER = 24
SIZE = WIDTH // HEADS

# ---------------------------------------------------------------- torch


def torch_rotary(x):
    """(n, heads, time, SIZE), each half of the features turned with the other."""
    half = x.shape[-1] // 2
    rates = 1e4 ** (-torch.arange(half, dtype=x.dtype) / half)  # @rates
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * rates  # @angles
    a, b = x[..., :half], x[..., half:]  # @halves
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)  # @turned


class Attention(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, SHARED * SIZE, bias=False)
        self.value = nn.Linear(WIDTH, SHARED * SIZE, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        q = self.query(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2)  # @query
        k = self.key(x).unflatten(-1, (SHARED, SIZE)).transpose(1, 2)  # @key
        v = self.value(x).unflatten(-1, (SHARED, SIZE)).transpose(1, 2)  # @value
        q, k = torch_rotary(q), torch_rotary(k)  # @rotary
        k = k.repeat_interleave(HEADS // SHARED, 1)  # @repeat_k
        v = v.repeat_interleave(HEADS // SHARED, 1)  # @repeat_v
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # @scores @masked @softmax @mixed
        return self.out(x.transpose(1, 2).flatten(2))  # @out


class Block(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.norm1 = nn.RMSNorm(WIDTH, 1e-5)
        self.attention = Attention(index)
        self.norm2 = nn.RMSNorm(WIDTH, 1e-5)
        self.gate = nn.Linear(WIDTH, INNER, bias=False)
        self.up = nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))  # @attend @norm1
        h = self.norm2(x)  # @norm2
        h = F.silu(self.gate(h)) * self.up(h)  # @gate
        return x + self.down(h)  # @down


class Llama(nn.Module):
    """Token ids (n, time) to logits (n, time, WORDS)."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(i) for i in range(BLOCKS))
        self.norm = nn.RMSNorm(WIDTH, 1e-5)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids):
        x = self.tokens(ids)  # @tokens
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)  # @final
        return 30 * torch.tanh(self.head(x) / 30)  # @head


# ---------------------------------------------------------------- jax


def jax_rotary(x):
    half = x.shape[-1] // 2
    rates = 1e4 ** (-jnp.arange(half) / half)  # @rates
    angles = jnp.arange(x.shape[-2])[:, None] * rates  # @angles
    a, b = x[..., :half], x[..., half:]  # @halves
    return jnp.concatenate([a * jnp.cos(angles) - b * jnp.sin(angles), b * jnp.cos(angles) + a * jnp.sin(angles)], -1)  # @turned


class RMSNorm(hk.Module):
    def __call__(self, x):
        scale = hk.get_parameter("scale", (WIDTH,), init=jnp.ones)
        square = jnp.square(x).mean(-1, keepdims=True)  # @square
        return x * jax.lax.rsqrt(square + 1e-5) * scale  # @normed


class JaxAttention(hk.Module):
    def __init__(self, index):
        super().__init__("attention")
        self.index = index

    def split(self, x, heads):
        return x.reshape(*x.shape[:2], heads, SIZE).swapaxes(1, 2)  # @split

    def __call__(self, x):
        q = self.split(hk.Linear(WIDTH, with_bias=False, name="query")(x), HEADS)  # @query
        k = self.split(hk.Linear(SHARED * SIZE, with_bias=False, name="key")(x), SHARED)  # @key
        v = self.split(hk.Linear(SHARED * SIZE, with_bias=False, name="value")(x), SHARED)  # @value
        q, k = jax_rotary(q), jax_rotary(k)  # @rotary
        k = jnp.repeat(k, HEADS // SHARED, 1)  # @repeat_k
        v = jnp.repeat(v, HEADS // SHARED, 1)  # @repeat_v
        scores = jnp.einsum("nhqd,nhkd->nhqk", q, k) * SIZE**-0.5  # @scores
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))  # @causal
        scores = jnp.where(causal, scores, -1e30)  # @masked
        weights = jax.nn.softmax(scores)  # @softmax
        mixed = jnp.einsum("nhqk,nhkd->nqhd", weights, v)  # @mixed
        return hk.Linear(WIDTH, with_bias=False, name="out")(mixed.reshape(x.shape))  # @out


class JaxBlock(hk.Module):
    def __init__(self, index):
        super().__init__(f"blocks_{index}")
        self.index = index

    def __call__(self, x):
        x = x + JaxAttention(self.index)(RMSNorm("norm1")(x))  # @attend @norm1
        h = RMSNorm("norm2")(x)  # @norm2
        h = jax.nn.silu(hk.Linear(INNER, with_bias=False, name="gate")(h)) * hk.Linear(INNER, with_bias=False, name="up")(h)  # @gate
        return x + hk.Linear(WIDTH, with_bias=False, name="down")(h)  # @down


def jax_llama(ids):
    x = hk.Embed(WORDS, WIDTH, name="tokens")(ids)  # @tokens
    for index in range(BLOCKS):
        x = JaxBlock(index)(x)
    x = RMSNorm("norm")(x)  # @final
    return 30 * jnp.tanh(hk.Linear(WORDS, with_bias=False, name="head")(x) / 30)  # @head


# ---------------------------------------------------------------- the pair


def torch_side():
    return Llama()


def jax_side():
    return hk.without_apply_rng(hk.transform(jax_llama))


def spec(torch_side, jax_side):
    return dlp.model(torch=torch_side, jax=jax_side, inputs=[dlp.integers(2, 7, high=WORDS)], train=False, name="llama")


PLACES = ("blocks.0", "blocks.1", "blocks.2")
NORMS = tuple(f"blocks.{i}.norm{j}" for i in range(BLOCKS) for j in (1, 2))
ATTENTION = "{place}.attention"
NORM = 'self.module_name == "{place}".replace(".", "_", 1).replace(".", "/")'
GATE, UP = (f'hk.Linear(INNER, with_bias=False, name="{name}")(h)' for name in ("gate", "up"))
TORCH_SCORES = "F.scaled_dot_product_attention(q, k, v, is_causal=True)"
JAX_SCORES, MIXED = 'jnp.einsum("nhqd,nhkd->nhqk", q, k)', 'jnp.einsum("nhqk,nhkd->nqhd", weights, v)'
MASKED = "jnp.where(causal, scores, -1e30)"

BUGS = (
    Bug("rms norm eps", "jax normed", "1e-5", "1e-6", "{place}", NORM, torch="{last}", places="NORMS"),
    Bug(
        "layer norm for rms norm",
        "jax square",
        "jnp.square(x).mean(-1, keepdims=True)",
        "x.var(-1, keepdims=True)",
        "{place}",
        NORM,
        torch="{last}",
        places="NORMS",
    ),
    Bug(
        "mean over the wrong axis",
        "jax square",
        "jnp.square(x).mean(-1, keepdims=True)",
        "jnp.square(x).mean(1, keepdims=True)",
        "{place}",
        NORM,
        torch="{last}",
        places="NORMS",
    ),
    Bug("norm missing", "torch final", "self.norm(x)", "x", "|norm|head", torch="final head", jax="final square normed"),
    Bug(
        "scale from zero",
        "torch norm2",
        "self.norm2(x)",
        "self.norm2(x) + F.rms_norm(x, (WIDTH,), eps=1e-5)",
        "{place}",
        jax="norm2 normed",
    ),
    Bug("activation", "jax gate", "jax.nn.silu", "jax.nn.gelu", "{place}"),
    Bug("gate and value swapped", "jax gate", f"jax.nn.silu({GATE}) * {UP}", f"{GATE} * jax.nn.silu({UP})", "{place}"),
    Bug("gate and value swapped", "torch gate", "F.silu(self.gate(h)) * self.up(h)", "self.gate(h) * F.silu(self.up(h))", "{place}"),
    Bug("attention scale missing", "jax scores", "SIZE**-0.5", "1.0", ATTENTION),
    Bug("attention scale wrong", "jax scores", "SIZE**-0.5", "WIDTH**-0.5", ATTENTION),
    Bug("attention scale wrong", "torch scores", TORCH_SCORES, TORCH_SCORES.replace("True", "True, scale=1.0"), ATTENTION),
    Bug("causal mask missing", "jax masked", MASKED, "scores", ATTENTION, jax="masked softmax scores"),
    Bug("causal mask missing", "torch scores", "is_causal=True", "is_causal=False", ATTENTION, jax="masked softmax causal"),
    Bug(
        "causal mask off by one",
        "jax causal",
        "jnp.tril(jnp.ones(scores.shape[-2:], bool))",
        "jnp.tril(jnp.ones(scores.shape[-2:], bool), 1)",
        ATTENTION,
        torch="scores",
        jax="causal masked",
    ),
    Bug(
        "sliding window",
        "jax causal",
        "jnp.tril(jnp.ones(scores.shape[-2:], bool))",
        "jnp.triu(jnp.tril(jnp.ones(scores.shape[-2:], bool)), -3)",
        ATTENTION,
        torch="scores",
        jax="causal masked",
    ),
    Bug("q and k swapped", "jax scores", '"nhqd,nhkd->nhqk"', '"nhqd,nhkd->nhkq"', ATTENTION, jax="scores masked"),
    Bug("softmax axis", "jax softmax", "jax.nn.softmax(scores)", "jax.nn.softmax(scores, 1)", ATTENTION),
    Bug(
        "order of shared heads",
        "jax repeat_k",
        "jnp.repeat(k, HEADS // SHARED, 1)",
        "jnp.tile(k, (1, HEADS // SHARED, 1, 1))",
        ATTENTION,
        torch="repeat_k scores",
        jax="repeat_k scores",
    ),
    Bug(
        "order of shared heads",
        "jax repeat_v",
        "jnp.repeat(v, HEADS // SHARED, 1)",
        "jnp.tile(v, (1, HEADS // SHARED, 1, 1))",
        ATTENTION,
        torch="repeat_v scores",
        jax="repeat_v mixed",
    ),
    Bug("head merge order", "jax mixed", '"nhqk,nhkd->nqhd"', '"nhqk,nhkd->nhqd"', ATTENTION, torch="mixed out", jax="mixed out"),
    Bug("rotary for q alone", "jax rotary", "jax_rotary(k)", "k", ATTENTION, torch="turned rotary", jax="rotary scores"),
    Bug(
        "rotary halves",
        "jax halves",
        "x[..., :half], x[..., half:]",
        "x[..., ::2], x[..., 1::2]",
        "blocks.0.attention",
        torch="halves turned",
        jax="halves turned",
    ),
    Bug("rotary sign", "jax turned", "- b * jnp.sin(angles)", "+ b * jnp.sin(angles)", "blocks.0.attention"),
    Bug("wrong constant", "jax rates", "1e4", "1e3", "blocks.0.attention", torch="rates angles turned", jax="rates angles turned"),
    Bug("wrong constant", "jax head", "/ 30", "/ 15"),
    Bug(
        "square weight transposed",
        "torch out",
        "self.out(x.transpose(1, 2).flatten(2))",
        "F.linear(x.transpose(1, 2).flatten(2), self.out.weight.T)",
        ATTENTION,
    ),
    Bug(
        "residual missing",
        "jax down",
        'x + hk.Linear(WIDTH, with_bias=False, name="down")(h)',
        'hk.Linear(WIDTH, with_bias=False, name="down")(h)',
        "{place}",
        jax="down square normed",
    ),
    Bug(
        "residual of the norm",
        "torch attend",
        "x + self.attention(self.norm1(x))",
        "self.norm1(x) + self.attention(self.norm1(x))",
        "{place}",
    ),
    Bug("embedding scale", "jax tokens", "(ids)", "(ids) * WIDTH**0.5", "|tokens|blocks.0", torch="tokens attend", jax="tokens"),
    Bug("dropout left on", "jax mixed", MIXED, MIXED.replace("weights", "weights * (jnp.arange(7) % 4 > 0) / 0.75"), ATTENTION),
    Bug(
        "stop_gradient",
        "jax scores",
        JAX_SCORES,
        JAX_SCORES.replace("k)", "jax.lax.stop_gradient(k))"),
        ATTENTION,
        jax="scores repeat_k",
        backward=True,
    ),
    Bug("no effect", "jax angles", "jnp.arange(x.shape[-2])[:, None]", "(jnp.arange(x.shape[-2])[:, None] + 1)", effect=False),
    Bug("no effect", "jax masked", "-1e30", "-jnp.inf", ATTENTION, effect=False),
)
