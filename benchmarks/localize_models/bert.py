"""BERT: torch against flax.linen. Post-norm blocks, a padding mask, segments, and a decoder tied to the word embedding."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WORDS, LENGTH, WIDTH, HEADS, LAYERS, EPS = 13, 6, 16, 2, 3, 1e-5

# ---------------------------------------------------------------- torch


class Attention(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def split(self, x):
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # @split

    def forward(self, x, mask):
        q = self.split(self.query(x))  # @query
        k = self.split(self.key(x))  # @key
        v = self.split(self.value(x))  # @value
        scores = q @ k.mT / math.sqrt(WIDTH // HEADS)  # @scores
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)  # @masked
        weights = F.softmax(scores, -1)  # @softmax
        x = (weights @ v).transpose(1, 2).flatten(2)  # @mixed
        return self.out(x)  # @out


class Layer(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index
        self.attention = Attention(index)
        self.norm1 = nn.LayerNorm(WIDTH, EPS)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, EPS)

    def forward(self, x, mask):
        a = self.attention(x, mask)  # @attention
        x = self.norm1(x + a)  # @norm1
        h = F.gelu(self.up(x))  # @up
        h = self.down(h)  # @down
        return self.norm2(x + h)  # @norm2


class BERT(nn.Module):
    """Token ids, segment ids and a mask, each (n, time), to logits (n, time, words)."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(LENGTH + 1, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPS)
        self.layers = nn.ModuleList(Layer(i) for i in range(LAYERS))
        self.transform = nn.Linear(WIDTH, WIDTH)
        self.transform_norm = nn.LayerNorm(WIDTH, EPS)
        self.bias = nn.Parameter(torch.zeros(WORDS))

    def forward(self, ids, segments, mask):
        x = self.words(ids) + self.segments(segments)  # @words
        x = x + self.positions.weight[: ids.shape[1]]  # @positions
        x = self.norm(x)  # @embedded
        for layer in self.layers:
            x = layer(x, mask)
        x = F.gelu(self.transform(x))  # @transform
        x = self.transform_norm(x)  # @transform_norm
        return x @ self.words.weight.T + self.bias  # @decoder


def torch_loss(logits, labels, chosen):
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")  # @losses
    return losses[chosen.flatten()].mean()  # @loss


# ---------------------------------------------------------------- jax


class JaxAttention(linen.Module):
    index: int

    def split(self, x):
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)  # @split

    @linen.compact
    def __call__(self, x, mask):
        q = self.split(linen.Dense(WIDTH, name="query")(x))  # @query
        k = self.split(linen.Dense(WIDTH, name="key")(x))  # @key
        v = self.split(linen.Dense(WIDTH, name="value")(x))  # @value
        scores = jnp.einsum("nhqd,nhkd->nhqk", q, k) / math.sqrt(WIDTH // HEADS)  # @scores
        scores = jnp.where(mask[:, None, None, :], scores, -1e9)  # @masked
        weights = jax.nn.softmax(scores, -1)  # @softmax
        x = jnp.einsum("nhqk,nhkd->nqhd", weights, v).reshape(x.shape)  # @mixed
        return linen.Dense(WIDTH, name="out")(x)  # @out


class JaxLayer(linen.Module):
    index: int

    @linen.compact
    def __call__(self, x, mask):
        a = JaxAttention(self.index, name="attention")(x, mask)  # @attention
        x = linen.LayerNorm(EPS, name="norm1")(x + a)  # @norm1
        h = linen.gelu(linen.Dense(2 * WIDTH, name="up")(x), approximate=False)  # @up
        h = linen.Dense(WIDTH, name="down")(h)  # @down
        return linen.LayerNorm(EPS, name="norm2")(x + h)  # @norm2


class JaxBERT(linen.Module):
    @linen.compact
    def __call__(self, ids, segments, mask):
        words = linen.Embed(WORDS, WIDTH, name="words")
        positions = self.param("positions", linen.initializers.normal(), (LENGTH + 1, WIDTH))
        x = words(ids) + linen.Embed(2, WIDTH, name="segments")(segments)  # @words
        x = x + positions[: ids.shape[1]]  # @positions
        x = linen.LayerNorm(EPS, name="norm")(x)  # @embedded
        for index in range(LAYERS):
            x = JaxLayer(index, name=f"layers_{index}")(x, mask)
        x = linen.gelu(linen.Dense(WIDTH, name="transform")(x), approximate=False)  # @transform
        x = linen.LayerNorm(EPS, name="transform_norm")(x)  # @transform_norm
        return words.attend(x) + self.param("bias", linen.initializers.zeros, (WORDS,))  # @decoder


def jax_loss(logits, labels, chosen):
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]  # @losses
    return jnp.sum(losses * chosen) / jnp.sum(chosen)  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return BERT()


def jax_side():
    return JaxBERT()


def padded(rng):
    """True for words, False for padding: the second text is shorter."""
    return np.arange(LENGTH) < np.array([[LENGTH], [rng.integers(2, LENGTH - 1)]])


def some(rng):
    return rng.permutation(2 * LENGTH).reshape(2, LENGTH) < 5


def spec(torch_side, jax_side):
    ids = dlp.integers(2, LENGTH, high=WORDS)
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[ids, dlp.integers(2, LENGTH, high=2), padded, ids, some],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        param_map={"positions.weight": ("positions", "t d -> t d")},
        train=False,
        name="bert",
    )


PLACES = ("layers.0", "layers.1", "layers.2")
GELU = 'linen.gelu(linen.Dense(2 * WIDTH, name="up")(x), approximate=False)'
WEIGHTS = "jax.nn.softmax(scores, -1)"
ATTENTION = "{place}.attention"

BUGS = (
    Bug("layer norm eps", "jax norm1", "EPS", "1e-6", "{place}.norm1"),
    Bug("layer norm eps", "jax norm2", "EPS", "1e-12", "{place}.norm2"),
    Bug("layer norm eps", "jax embedded", "EPS", "1e-6", "norm"),
    Bug("norm missing", "torch transform_norm", "self.transform_norm(x)", "x", "|transform_norm", torch="transform_norm decoder"),
    Bug("GELU variant", "jax up", "False", "True", "{place}"),
    Bug("GELU variant", "jax transform", "False", "True"),
    Bug("activation", "torch up", "F.gelu", "F.relu", "{place}"),
    Bug("attention scale missing", "jax scores", "math.sqrt(WIDTH // HEADS)", "1.0", ATTENTION),
    Bug("attention scale wrong", "jax scores", "math.sqrt(WIDTH // HEADS)", "math.sqrt(WIDTH)", ATTENTION),
    Bug("q and k swapped", "jax scores", '"nhqd,nhkd->nhqk"', '"nhqd,nhkd->nhkq"', ATTENTION, torch="scores masked", jax="scores masked"),
    Bug("mask inverted", "jax masked", "mask[:, None, None, :]", "~mask[:, None, None, :]", ATTENTION),
    Bug("mask value", "jax masked", "-1e9", "-1.0", ATTENTION),
    Bug("mask on the wrong axis", "jax masked", "mask[:, None, None, :]", "mask[:, None, :, None]", ATTENTION),
    Bug("mask missing", "jax masked", "jnp.where(mask[:, None, None, :], scores, -1e9)", "scores", ATTENTION, jax="masked softmax scores"),
    Bug("mask after the softmax", "jax softmax", WEIGHTS, f"{WEIGHTS} * (jnp.arange(LENGTH) < 5)", ATTENTION, torch="softmax mixed"),
    Bug("softmax axis", "jax softmax", "-1", "1", ATTENTION),
    Bug("head split order", "jax mixed", '"nhqk,nhkd->nqhd"', '"nhqk,nhkd->nqdh"', ATTENTION, torch="mixed out", jax="mixed out"),
    Bug(
        "square weight transposed",
        "jax query",
        'linen.Dense(WIDTH, name="query")(x)',
        'linen.Dense(WIDTH, name="query", dot_general=lambda a, w, *_, **__: a @ w.T)(x)',
        ATTENTION,
    ),
    Bug("square weight transposed", "torch out", "self.out(x)", "F.linear(x, self.out.weight.T, self.out.bias)", ATTENTION),
    Bug("bias missing", "torch decoder", " + self.bias", "", torch="decoder losses"),
    Bug("dropout left on", "jax softmax", WEIGHTS, f"{WEIGHTS} * (jnp.arange(LENGTH) % 4 > 0) / 0.75", ATTENTION, torch="softmax mixed"),
    Bug(
        "dropout left on",
        "jax down",
        'linen.Dense(WIDTH, name="down")(h)',
        'linen.Dense(WIDTH, name="down")(h) * (jnp.arange(WIDTH) % 4 > 0) / 0.75',
        "{place}",
        torch="down norm2",
    ),
    Bug("residual order", "jax norm2", 'linen.LayerNorm(EPS, name="norm2")(x + h)', 'x + linen.LayerNorm(EPS, name="norm2")(h)', "{place}"),
    Bug("residual missing", "jax norm1", "x + a", "a", "{place}"),
    Bug("residual missing", "torch norm2", "x + h", "h", "{place}"),
    Bug("position off by one", "jax positions", "positions[: ids.shape[1]]", "positions[1 : ids.shape[1] + 1]"),
    Bug("segments swapped", "jax words", "(segments)", "(1 - segments)", "segments|"),
    Bug("embedding scale", "jax words", "words(ids)", "words(ids) * math.sqrt(WIDTH)", "|words"),
    Bug("reduction", "jax loss", "jnp.sum(chosen)", "chosen.size"),
    Bug("loss not masked", "jax loss", "jnp.sum(losses * chosen) / jnp.sum(chosen)", "losses.mean()"),
    Bug(
        "stop_gradient",
        "jax decoder",
        "words.attend(x)",
        "x @ jax.lax.stop_gradient(words.embedding).T",
        jax="decoder words",
        backward=True,
    ),
    Bug(
        "stop_gradient",
        "jax softmax",
        WEIGHTS,
        f"jax.lax.stop_gradient({WEIGHTS})",
        ATTENTION,
        torch="softmax mixed",
        jax="softmax mixed",
        backward=True,
    ),
    Bug("no effect", "jax masked", "-1e9", "jnp.finfo(scores.dtype).min", ATTENTION, effect=False),
    Bug("no effect", "jax softmax", WEIGHTS, "jax.nn.softmax(scores + 2.0, -1)", ATTENTION, effect=False),
)
