"""Wrong ports with one known fault each, in the smallest form in which they are met, for `benchmarks/causes.py`.

A case is a spec and what its cause must say. `says` is empty where nothing may be named: a right port, or a fault that has no name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx

import pytest_dlparity as dlp

X = dlp.normal(6, 16)
IMAGES = dlp.normal(2, 3, 8, 8)
HEADS = [dlp.normal(2, 2, 5, 8), dlp.normal(2, 2, 5, 8), dlp.normal(2, 2, 5, 8)]
LOGITS = [dlp.normal(12, 7, scale=2.0), dlp.integers(12, high=7)]
PAIR = [dlp.normal(8, 4), dlp.normal(8, 4)]


class Case(NamedTuple):
    """One wrong port. `says`: a pattern for the sentence, "" where there is no cause to be named."""

    id: str
    says: str
    spec: Callable[[], Any]


CASES: list[Case] = []


def case(name: str, says: str, torch_side: Any, jax_side: Any, inputs: Any = (X,), **more: Any) -> None:
    CASES.append(Case(name, says, lambda: dlp.layer(torch=torch_side, jax=jax_side, inputs=list(inputs), name=name, **more)))


def channels_last(x: Any) -> Any:
    return jnp.transpose(x, (0, 2, 3, 1))


def convolved(x: Any, w: Any, padding: Any, stride: int = 1, **more: Any) -> Any:
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NCHW", "OIHW", "NCHW"), **more)


def normed(x: Any, eps: float = 1e-5, ddof: int = 0) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps)


def scores(q: Any, k: Any) -> Any:
    return q @ jnp.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])


# ---------------------------------------------------------------- normalisation

NORM = {"g": dlp.normal(16, mean=1.0, scale=0.1), "b": dlp.normal(16, scale=0.1)}
case("layer norm eps, linen", r"jax side has eps=1e-06, torch's layer_norm",
     lambda p, x: F.layer_norm(x, (16,), p["g"], p["b"]),
     lambda p, x: linen.LayerNorm().apply({"params": {"scale": p["g"], "bias": p["b"]}}, x), params=NORM)  # fmt: skip
case(
    "layer norm eps, nnx module",
    r"jax side has eps=1e-06, torch's layer_norm",
    lambda: torch.nn.LayerNorm(16),
    lambda: nnx.LayerNorm(16, rngs=nnx.Rngs(0)),
)
case("layer norm eps 1e-3", r"jax side has eps=0.001, torch's layer_norm", lambda x: F.layer_norm(x, (16,)), lambda x: normed(x, 1e-3))
case(
    "layer norm eps as a strange number",
    r"jax side has eps=0.00037, torch's layer_norm",
    lambda x: F.layer_norm(x, (16,)),
    lambda x: normed(x, 3.7e-4),
)
case("layer norm unbiased", r"divides the squares by n-1 = 15, torch's layer_norm at \S+ by n = 16", lambda x: F.layer_norm(x, (16,)),
     lambda x: normed(x, ddof=1))  # fmt: skip
case("layer norm eps outside the root", r"divides by sqrt\(variance\) \+ eps", lambda x: F.layer_norm(x, (16,), eps=1e-3),
     lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3))  # fmt: skip
case("rms for layer norm", r"does not subtract the mean", lambda x: F.layer_norm(x, (16,)),
     lambda x: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5))  # fmt: skip
case("rms norm 1 + weight", r"multiplies by 1 \+ weight", lambda p, x: F.rms_norm(x, (16,), p["g"], 1e-6),
     lambda p, x: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * (1 + p["g"]), params={"g": dlp.normal(16)})  # fmt: skip
case(
    "std by hand, biased",
    r"divides the squares by n = 16, torch's std",
    lambda x: x / x.std(-1, keepdim=True),
    lambda x: x / x.std(-1, keepdims=True),
)
case("batch norm running statistics", r"normalises with the batch's statistics",
     lambda p, x: F.batch_norm(x, p["m"], p["v"]),
     lambda p, x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) + 0 * p["m"] * p["v"],
     params={"m": dlp.normal(16), "v": dlp.uniform(16, low=0.5, high=2.0)}, wrt=[])  # fmt: skip
case("batch norm momentum", r"keeps 0.1 of the old running statistics, and averages the variance divided by n", lambda: torch.nn.BatchNorm1d(16),
     lambda: nnx.BatchNorm(16, momentum=0.1, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0)), train=True)  # fmt: skip
case("group norm groups", r"has 2 groups, torch's group_norm at \S+ has 4", lambda x: F.group_norm(x, 4),
     lambda x: normed(x.reshape(6, 2, -1)).reshape(x.shape), inputs=[dlp.normal(6, 8, 5)])  # fmt: skip

# ---------------------------------------------------------------- activations

case("gelu", r"^jax.nn.gelu\(x\) at \S+ is the tanh approximation; with approximate=False", F.gelu, lambda x: jax.nn.gelu(x))
case("gelu, the other way", r"^jax.nn.gelu\(x\) at \S+ is the exact gelu; with approximate=True", lambda x: F.gelu(x, approximate="tanh"),
     lambda x: jax.nn.gelu(x, approximate=False))  # fmt: skip
case(
    "leaky relu slope",
    r"has negative_slope=0.2, torch's leaky_relu",
    lambda x: F.leaky_relu(x, 0.01),
    lambda x: jnp.where(x > 0, x, 0.2 * x),
)
case("silu for gelu", r"computes silu, torch's gelu", F.gelu, lambda x: x * jax.nn.sigmoid(x))
case("keras hard sigmoid", r"hard sigmoid with slope 0.2", F.hardsigmoid, lambda x: jnp.clip(0.2 * x + 0.5, 0, 1))
case("elu alpha", r"has alpha=0.5, torch's elu", F.elu, lambda x: jax.nn.elu(x, 0.5))

# ---------------------------------------------------------------- attention

case("attention without a scale", r"scales the scores by 1, torch's scaled_dot_product_attention by 1/sqrt\(8\)", F.scaled_dot_product_attention,
     lambda q, k, v: jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2), -1) @ v, HEADS)  # fmt: skip
case("attention scaled by 1/d", r"scales the scores by 1/8", F.scaled_dot_product_attention,
     lambda q, k, v: jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / 8, -1) @ v, HEADS)  # fmt: skip
case("attention over the queries", r"takes the softmax over the queries", F.scaled_dot_product_attention,
     lambda q, k, v: jax.nn.softmax(scores(q, k), -2) @ v, HEADS)  # fmt: skip
case("attention with query and key swapped", r"has query and key swapped", F.scaled_dot_product_attention,
     lambda q, k, v: jax.nn.softmax(scores(k, q), -1) @ v, HEADS)  # fmt: skip
case("attention not causal", r"does not mask the future", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
     lambda q, k, v: jax.nn.softmax(scores(q, k), -1) @ v, HEADS)  # fmt: skip
case("attention mask inverted", r"attends where the mask is False", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
     lambda q, k, v, m: jax.nn.softmax(jnp.where(m, -jnp.inf, scores(q, k)), -1) @ v,
     [*HEADS, dlp.fixed(np.random.default_rng(3).random((5, 5)) < 0.5)])  # fmt: skip
case(
    "softmax axis",
    r"takes the softmax over axis 0, torch's softmax at \S+ over axis 1",
    lambda x: x.softmax(-1),
    lambda x: jax.nn.softmax(x, 0),
)
case("attention by hand, softmax scale", r"1/8|multiplies|divides", lambda q, k, v: torch.softmax(q @ k.mT / math.sqrt(8), -1) @ v,
     lambda q, k, v: jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / 8, -1) @ v, HEADS)  # fmt: skip

# ---------------------------------------------------------------- convolutions and pools

KERNEL = {"w": dlp.normal(4, 3, 3, 3)}
case("convolution SAME with stride", r'\("SAME"\), torch\'s conv2d', lambda p, x: F.conv2d(x, p["w"], stride=2, padding=1),
     lambda p, x: convolved(x, p["w"], "SAME", 2), [IMAGES], params=KERNEL)  # fmt: skip
case("convolution with a flipped kernel", r"flips the kernel", lambda p, x: F.conv2d(x, p["w"], padding=1),
     lambda p, x: convolved(x, p["w"][:, :, ::-1, ::-1], "SAME"), [IMAGES], params=KERNEL)  # fmt: skip
case("transposed convolution from another place", r"begins at place 0 of the full transposed convolution",
     lambda p, x: F.conv_transpose2d(x, p["w"], stride=2, padding=1, output_padding=1),
     lambda p, x: jax.lax.conv_general_dilated(x, jnp.swapaxes(p["w"], 0, 1)[:, :, ::-1, ::-1], (1, 1), [(2, 1), (2, 1)], lhs_dilation=(2, 2),
                                               dimension_numbers=("NCHW", "OIHW", "NCHW")), [dlp.normal(2, 4, 5, 5)], params=KERNEL)  # fmt: skip
case("average pool with its padding counted", r"leaves the padding out of the average", lambda x: F.avg_pool2d(x, 3, 1, 1),
     lambda x: jnp.transpose(linen.avg_pool(channels_last(x), (3, 3), (1, 1), "SAME", count_include_pad=False), (0, 3, 1, 2)), [IMAGES])  # fmt: skip
case("max pool padded with zeros", r"pads with zeros, torch's max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1),
     lambda x: jax.lax.reduce_window(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "VALID"),
     [dlp.normal(2, 3, 8, 8, mean=-1.0)])  # fmt: skip

# ---------------------------------------------------------------- order of elements

case("flattened channels last", r"\(channels last\)", lambda p, x: x.flatten(1) @ p["w"].T, lambda p, x: channels_last(x).reshape(2, -1) @ p["w"].T,
     [IMAGES], params={"w": dlp.normal(5, 192)})  # fmt: skip
case(
    "square weight transposed",
    r"multiplies by the transpose of w",
    lambda p, x: F.linear(x, p["w"]),
    lambda p, x: x @ p["w"],
    params={"w": dlp.normal(16, 16)},
)
case("query and value exchanged in a fused product", r"takes the 3 parts in the order 2, 1, 0",
     lambda p, x: (lambda q, k, v: q.tanh() * k.sigmoid() + v)(*F.linear(x, p["w"]).chunk(3, -1)),
     lambda p, x: (lambda v, k, q: jnp.tanh(q) * jax.nn.sigmoid(k) + v)(*jnp.split(x @ p["w"].T, 3, -1)), params={"w": dlp.normal(24, 16)})  # fmt: skip
case("rotary in pairs", r"takes neighbours as pairs",
     lambda x, c, s: (lambda a, b: torch.cat([a * c - b * s, b * c + a * s], -1))(*x.chunk(2, -1)),
     lambda x, c, s: jnp.stack([x[..., ::2] * c - x[..., 1::2] * s, x[..., 1::2] * c + x[..., ::2] * s], -1).reshape(x.shape),
     [X, dlp.normal(8), dlp.normal(8)])  # fmt: skip
case("LSTM gates in haiku's order", r"for the gates i, g, f, o",
     lambda p, x, h, c: torch.lstm_cell(x, (h, c), p["wi"], p["wh"], p["bi"], p["bh"])[0],
     lambda p, x, h, c: (lambda i, g, f, o: jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)))(
         *jnp.split(x @ p["wi"].T + p["bi"] + h @ p["wh"].T + p["bh"], 4, -1)),
     [dlp.normal(3, 5), dlp.normal(3, 4), dlp.normal(3, 4)],
     params={"wi": dlp.normal(16, 5), "wh": dlp.normal(16, 4), "bi": dlp.normal(16), "bh": dlp.normal(16)})  # fmt: skip


def gru_before(p: Any, x: Any, h: Any) -> Any:
    """The reset gate before the matrix product, as in the paper."""
    (ri, zi, ni), (rh, zh, nh) = jnp.split(x @ p["wi"].T + p["bi"], 3, -1), jnp.split(p["wh"], 3)
    (br, bz, bn) = jnp.split(p["bh"], 3)
    r, z = jax.nn.sigmoid(ri + h @ rh.T + br), jax.nn.sigmoid(zi + h @ zh.T + bz)
    return (1 - z) * jnp.tanh(ni + (r * h) @ nh.T + bn) + z * h


case("GRU reset before the product", r"applies the reset gate before the matrix product",
     lambda p, x, h: torch.gru_cell(x, h, p["wi"], p["wh"], p["bi"], p["bh"]), gru_before, [dlp.normal(3, 5), dlp.normal(3, 4)],
     params={"wi": dlp.normal(12, 5), "wh": dlp.normal(12, 4), "bi": dlp.normal(12), "bh": dlp.normal(12)})  # fmt: skip

# ---------------------------------------------------------------- losses

case("cross entropy summed", r"takes the sum, torch's cross_entropy takes the mean", F.cross_entropy,
     lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).sum(), LOGITS)  # fmt: skip
case("cross entropy of probabilities", r"takes a softmax before the loss that takes one", F.cross_entropy,
     lambda x, y: optax.softmax_cross_entropy_with_integer_labels(jax.nn.softmax(x), y).mean(), LOGITS)  # fmt: skip
case("half of the squares", r"takes half of the squares", F.mse_loss, lambda x, y: optax.l2_loss(x, y).mean(), PAIR)
case("Huber's delta", r"has delta=0.5, torch's huber_loss", F.huber_loss, lambda x, y: optax.huber_loss(x, y, delta=0.5).mean(), PAIR)
case("KL by batch", r"takes the sum divided by the batch of 8, torch's kl_div", lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="sum"),
     lambda x, y: optax.kl_divergence(jax.nn.log_softmax(x), jax.nn.softmax(y)).mean(), PAIR)  # fmt: skip
case("KL the other way round", r"takes the divergence the other way round", lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
     lambda x, y: optax.kl_divergence(jax.nn.log_softmax(y), jax.nn.softmax(x)).mean(), PAIR)  # fmt: skip
case("logarithm with an epsilon", r"takes log\(p \+ 1e-05\)", F.binary_cross_entropy_with_logits,
     lambda x, y: -(y * jnp.log(jax.nn.sigmoid(x) + 1e-5) + (1 - y) * jnp.log(1 - jax.nn.sigmoid(x) + 1e-5)).mean(),
     [dlp.normal(8, 4), dlp.uniform(8, 4)], wrt=["input0"])  # fmt: skip

# ---------------------------------------------------------------- indices, whole numbers, resizing

case("next position", r"takes the next row", lambda p, i: F.embedding(i, p["e"]), lambda p, i: p["e"][i + 1], [dlp.integers(2, 6, high=9)],
     params={"e": dlp.normal(10, 4)})  # fmt: skip
case("embedding scaled by sqrt(d)", r"multiplies the embedding by sqrt\(12\)", lambda p, i: F.embedding(i, p["e"]), lambda p, i: p["e"][i] * math.sqrt(12),
     [dlp.integers(2, 6, high=10)], params={"e": dlp.normal(10, 12)})  # fmt: skip
case("rounded towards zero", r"rounds towards zero", torch.floor, jnp.trunc, wrt=[])
case(
    "remainder with the other sign",
    r"gives a remainder the sign of the dividend",
    lambda x: torch.remainder(x, 0.7),
    lambda x: jnp.fmod(x, 0.7),
    wrt=[],
)
case("cumulated from the end", r"accumulates from the end", lambda x: x.cumsum(-1), lambda x: jnp.cumsum(x[:, ::-1], -1)[:, ::-1])
case("resized with corners aligned", r"bilinear with corners aligned", lambda x: F.interpolate(x, size=(12, 12), mode="bilinear"),
     lambda x: (lambda w: jnp.einsum("oh,bchw,pw->bcop", w, x, w))(jnp.asarray(
         np.array([[max(0.0, 1 - abs(o * 7 / 11 - i)) for i in range(8)] for o in range(12)]))), [IMAGES])  # fmt: skip

# ---------------------------------------------------------------- gradients

case("relu as a maximum", r"passes half of the gradient where the input is exactly 0", F.relu, lambda x: jnp.maximum(x, 0.0),
     [dlp.fixed(np.round(np.random.default_rng(0).normal(size=(6, 8))))])  # fmt: skip
case(
    "target not detached",
    r"lets the gradient through",
    lambda x, y: ((x - y.detach()) ** 2).mean(),
    lambda x, y: ((x - y) ** 2).mean(),
    PAIR,
)
case(
    "gradient stopped",
    r"stops the gradient",
    lambda x, y: (x * y.sigmoid()).sum(-1),
    lambda x, y: (x * jax.lax.stop_gradient(jax.nn.sigmoid(y))).sum(-1),
    PAIR,
)

# ---------------------------------------------------------------- written out by hand: found by a number or a factor

case("constant of the tanh form", r"0.0447", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
     lambda x: 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.04 * x**3))))  # fmt: skip
case("mean for a sum", r"takes the mean over axis 1, torch's sum", lambda x: x.tanh().sum(-1), lambda x: jnp.tanh(x).mean(-1))
case("a bias left out", r"leaves out the bias", lambda p, x: F.linear(x, p["w"], p["b"]), lambda p, x: x @ p["w"].T + 0 * p["b"].sum(),
     params={"w": dlp.normal(4, 16), "b": dlp.normal(4)})  # fmt: skip
case("positions in bfloat16", r"casts .*bfloat16", lambda x, t: x * torch.cos(t.to(x.dtype))[:, None],
     lambda x, t: x * jnp.cos(t.astype(jnp.bfloat16).astype(x.dtype))[:, None], [X, dlp.integers(6, low=300, high=4000)])  # fmt: skip


class Block(torch.nn.Module):
    """Normalisation, two linear layers, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(16), torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def forward(self, x: Any) -> Any:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class EqxBlock(eqx.Module):
    """The same in equinox, of one row, with what can be wrong."""

    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    eps: float = eqx.field(static=True)

    def __init__(self, eps: float) -> None:
        one, two = jax.random.split(jax.random.key(0))
        self.norm, self.up, self.down, self.eps = (
            eqx.nn.LayerNorm(16, eps=eps),
            eqx.nn.Linear(16, 32, key=one),
            eqx.nn.Linear(32, 16, key=two),
            eps,
        )

    def __call__(self, x: Any) -> Any:
        return x + self.down(jax.nn.gelu(self.up(self.norm(x)), approximate=False))


case("block in equinox, eps", r"has eps=1e-06, torch's layer_norm", lambda: Block(), lambda: dlp.vmap(EqxBlock(1e-6)))

# ---------------------------------------------------------------- two faults, none, and faults without a name

case("two faults", r"2 things differ", lambda x: F.gelu(F.layer_norm(x, (16,))), lambda x: jax.nn.gelu(normed(x, 1e-3)))
case("right: layer norm", "", lambda x: F.layer_norm(x, (16,)), normed)
case("right: block in equinox", "", lambda: Block(), lambda: dlp.vmap(EqxBlock(1e-5)))
case("no name: another function", "", lambda x: F.softplus(x), lambda x: jnp.log(1 + x * x))
case("no name: noise", "", lambda x: x.sum(-1), lambda x: x.sum(-1) + jnp.sin(x[:, 0] * x[:, 1]))
case("no name: data in the place of a constant", "", lambda x: 0.5 * x, lambda x: x * jnp.abs(x).mean())
case("no name: a power of the data", "", lambda x, y: F.mse_loss(x, y), lambda x, y: (jnp.abs(x - y) ** 1.9 * jnp.cos(x)).mean(), PAIR)
