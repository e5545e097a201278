"""A bidirectional LSTM of two layers that judges texts: torch.nn.LSTM against lax.scan in plain jax."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from localize_models import Bug

WORDS, HIDDEN = 11, 8

# ---------------------------------------------------------------- torch


class Judge(nn.Module):
    """Token ids (n, time) to scores (n, 4)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, 6)
        self.lstm = nn.LSTM(6, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(2 * HIDDEN)
        self.bridge = nn.Linear(2 * HIDDEN, 2 * HIDDEN)
        self.query = nn.Parameter(torch.randn(2 * HIDDEN))
        self.head = nn.Linear(4 * HIDDEN, 4)

    def forward(self, tokens):
        x = self.embed(tokens) * 2.0  # @embed
        x, (hidden, _) = self.lstm(x)  # @lstm
        x = self.norm(x)  # @norm
        x = torch.tanh(self.bridge(x))  # @bridge
        weights = (x @ self.query).softmax(1)  # @weights
        pooled = (weights[..., None] * x).sum(1)  # @pooled
        last = torch.cat([hidden[-2], hidden[-1]], -1)  # @last
        return self.head(torch.cat([pooled, last], -1))  # @head


def torch_loss(scores, labels):
    return F.cross_entropy(scores, labels)  # @loss


# ---------------------------------------------------------------- jax


def cell(p, suffix, carry, x):
    hidden, memory = carry
    w_x, w_h = p[f"lstm.weight_ih_{suffix}"], p[f"lstm.weight_hh_{suffix}"]
    bias = p[f"lstm.bias_ih_{suffix}"] + p[f"lstm.bias_hh_{suffix}"]  # @bias
    gates = x @ w_x.T + hidden @ w_h.T + bias  # @gates
    i, f, g, o = jnp.split(gates, 4, -1)  # @split
    memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)  # @memory
    hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)  # @hidden
    return (hidden, memory), hidden


def direction(p, suffix, x):
    """One direction of one layer: (time, n, features) to (time, n, HIDDEN), and the last state."""
    backwards = suffix.endswith("reverse")
    x = x[::-1] if backwards else x  # @flip
    start = jnp.zeros((x.shape[1], HIDDEN), x.dtype)  # @start
    (last, _), out = jax.lax.scan(functools.partial(cell, p, suffix), (start, start), x)
    return (out[::-1] if backwards else out), last  # @flip_back


def lstm(p, x):
    for layer in range(2):
        there, last = direction(p, f"l{layer}", x)
        back, first = direction(p, f"l{layer}_reverse", x)
        x = jnp.concatenate([there, back], -1)  # @concat
    return x, jnp.concatenate([last, first], -1)  # @last


def layer_norm(weight, bias, x):
    centred = x - x.mean(-1, keepdims=True)  # @centred
    return centred / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias  # @normed


def judge(p, tokens):
    x = p["embed.weight"][tokens.T] * 2.0  # @embed
    x, last = lstm(p, x)  # @lstm
    x = layer_norm(p["norm.weight"], p["norm.bias"], x)  # @norm
    x = jnp.tanh(x @ p["bridge.weight"].T + p["bridge.bias"])  # @bridge
    weights = jax.nn.softmax(x @ p["query"], 0)  # @weights
    pooled = (weights[..., None] * x).sum(0)  # @pooled
    return jnp.concatenate([pooled, last], -1) @ p["head.weight"].T + p["head.bias"]  # @head


def jax_loss(scores, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], 1).mean()  # @loss


# ---------------------------------------------------------------- the pair


def torch_side():
    return Judge()


def jax_side():
    return judge


def spec(torch_side, jax_side):
    return dlp.model(
        torch=torch_side,
        jax=jax_side,
        inputs=[dlp.integers(3, 7, high=WORDS), dlp.integers(3, high=4)],
        loss=dlp.loss(torch=torch_loss, jax=jax_loss),
        train=False,
        name="lstm",
    )


DIRECTIONS = ("l0", "l0_reverse", "l1", "l1_reverse")
BACK = ("l0_reverse", "l1_reverse")
LAYERS = ("l0", "l1")
BIASES = 'p[f"lstm.bias_ih_{suffix}"] + p[f"lstm.bias_hh_{suffix}"]'
HERE, LAYER = 'suffix == "{place}"', "layer == {k}"


def inside(kind, where, old, new, jax="", condition=HERE, places="DIRECTIONS", read=False, **more):
    """A bug in one direction of one layer; torch has all of them in one line. read: what is only moved first tells in the norm that reads it."""
    layer, torch = ("lstm|norm", "lstm norm") if read else ("lstm", "lstm")
    return Bug(kind, where, old, new, layer, condition, torch, jax, places=places, **more)


BUGS = (
    inside("gate order", "jax split", "jnp.split(gates, 4, -1)", "[jnp.split(gates, 4, -1)[j] for j in (0, 1, 3, 2)]", "split memory"),
    inside("gate order", "jax split", "jnp.split(gates, 4, -1)", "[jnp.split(gates, 4, -1)[j] for j in (1, 0, 2, 3)]", "split memory"),
    inside("missing flip", "jax flip", "x[::-1] if backwards else x", "x", "flip gates", places="BACK"),
    inside("missing flip", "jax flip_back", "out[::-1]", "out", "flip_back concat gates centred", places="BACK", read=True),
    inside("cell activation", "jax memory", "jnp.tanh(g)", "jax.nn.relu(g)"),
    inside("cell activation", "jax hidden", "jnp.tanh(memory)", "memory"),
    inside("state of the step before", "jax hidden", "jnp.tanh(memory)", "jnp.tanh(carry[1])"),
    inside("forget bias", "jax memory", "jax.nn.sigmoid(f)", "jax.nn.sigmoid(f + 1.0)"),
    inside("bias doubled", "jax bias", 'p[f"lstm.bias_hh_{suffix}"]', 'p[f"lstm.bias_ih_{suffix}"]', "bias gates"),
    inside("bias missing", "jax bias", BIASES, BIASES.split(" + ")[0], "bias gates"),
    inside(
        "first state",
        "jax start",
        "jnp.zeros((x.shape[1], HIDDEN), x.dtype)",
        "jnp.ones((x.shape[1], HIDDEN), x.dtype)",
        "start gates memory",
    ),
    inside("square weight transposed", "jax gates", "hidden @ w_h.T", "jnp.concatenate([hidden @ w for w in jnp.split(w_h, 4)], -1)"),
    inside(
        "concatenation order", "jax concat", "[there, back]", "[back, there]", "concat gates centred normed", LAYER, "LAYERS", read=True
    ),
    inside("dropout left on", "jax concat", "[there, back]", "[there * (jnp.arange(HIDDEN) % 4 > 0) / 0.75, back]", "", LAYER, "LAYERS"),
    inside("stop_gradient", "jax gates", "hidden @ w_h.T", "jax.lax.stop_gradient(hidden) @ w_h.T", "gates hidden", backward=True),
    Bug("last state", "jax last", "jnp.concatenate([last, first], -1)", "x[-1]", "|lstm", torch="lstm last head", jax="last head"),
    Bug("embedding scale", "jax embed", " * 2.0", "", "|embed|lstm", torch="embed", jax="embed gates"),
    Bug("layer norm eps", "jax normed", "1e-5", "1e-6", "norm", torch="norm"),
    Bug("variance over N - 1", "jax normed", "x.var(-1, keepdims=True)", "x.var(-1, keepdims=True, ddof=1)", "norm", torch="norm"),
    Bug("square weight transposed", "jax bridge", 'p["bridge.weight"].T', 'p["bridge.weight"]', "bridge"),
    Bug("bias missing", "jax bridge", ' + p["bridge.bias"]', "", "bridge"),
    Bug("activation", "jax bridge", "jnp.tanh(", "jax.nn.relu("),
    Bug("activation", "torch bridge", "torch.tanh(", "torch.sigmoid("),
    Bug("softmax axis", "jax weights", "0", "1"),
    Bug("softmax axis", "torch weights", "softmax(1)", "softmax(0)"),
    Bug("pooling", "jax pooled", ".sum(0)", ".mean(0)"),
    Bug("reduction", "jax loss", ".mean()", ".sum()"),
    Bug(
        "stop_gradient",
        "jax pooled",
        "weights[..., None]",
        "jax.lax.stop_gradient(weights[..., None])",
        jax="pooled weights",
        backward=True,
    ),
    Bug("no effect", "jax weights", 'x @ p["query"]', 'x @ p["query"] + 3.0', effect=False),
)
