"""Each family of causes: a planted fault is named, and the whole sentence says what was done and what it gave."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F

import pytest_dlparity as dlp
from pytest_dlparity import diagnose, run
from pytest_dlparity.reference import reference

X = dlp.normal(4, 6)
IMAGES = dlp.normal(2, 3, 6, 6)
HEADS = [dlp.normal(1, 2, 4, 3), dlp.normal(1, 2, 4, 3), dlp.normal(1, 2, 4, 3)]
LOGITS = [dlp.normal(8, 5), dlp.integers(8, high=5)]
PAIR = [dlp.normal(4, 3), dlp.normal(4, 3)]
TIES = dlp.fixed(np.round(np.random.default_rng(0).normal(size=(4, 6))))
STATE = [dlp.normal(2, 3), dlp.normal(2, 2)]
GATES = {"wi": dlp.normal(6, 3), "wh": dlp.normal(6, 2), "bi": dlp.normal(6), "bh": dlp.normal(6)}
MASK = dlp.fixed(np.array([[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]], bool))


def said(spec):
    """What is named of a spec; places in this file as HERE."""
    prep = run.prepared(spec, 0, ["float32"])
    found = diagnose.searched(prep, reference(prep), 60.0)
    assert found.errors == []  # of a kind that only a mistake in a family raises
    return [re.sub(r"test_diagnose\w*\.py:\d+", "HERE", str(cause)) for cause in diagnose.search.causes(found)]


def normed(x, eps=1e-5, ddof=0):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps)


def scores(q, k):
    return q @ jnp.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])


def convolved(x, w, padding, stride=1, **more):
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NCHW", "OIHW", "NCHW"), **more)


def unpooled(x, low=-jnp.inf, padding="VALID"):
    return jax.lax.reduce_window(x, low, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), padding)


def gru(p, x, h):
    """With the reset gate before the product."""
    (ri, zi, ni), (rh, zh, nh), (rb, zb, nb) = jnp.split(x @ p["wi"].T + p["bi"], 3, -1), jnp.split(p["wh"], 3), jnp.split(p["bh"], 3)
    r, z = jax.nn.sigmoid(ri + h @ rh.T + rb), jax.nn.sigmoid(zi + h @ zh.T + zb)
    return (1 - z) * jnp.tanh(ni + (r * h) @ nh.T + nb) + z * h


# name: (torch, jax, inputs, more arguments of dlp.layer)
FAULTS = {
    "eps": (lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, 3.7e-4), [X], {}),
    "eps None": (lambda x: F.rms_norm(x, (6,)), lambda x: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6), [X], {}),
    "eps outside": (
        lambda x: F.layer_norm(x, (6,), eps=1e-3),
        lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3),
        [X],
        {},
    ),
    "unbiased": (lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, ddof=1), [X], {}),
    "variance": (lambda x: x.var(-1), lambda x: x.var(-1), [X], {}),
    "rms": (lambda x: F.layer_norm(x, (6,)), lambda x: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5), [X], {}),
    "1 + weight": (
        lambda p, x: F.layer_norm(x, (6,), p["g"]),
        lambda p, x: normed(x) * (1 + p["g"]),
        [X],
        {"params": {"g": dlp.normal(6)}},
    ),
    "groups": (lambda x: F.group_norm(x, 3), lambda x: normed(x.reshape(4, 2, 3)).reshape(x.shape), [X], {}),
    "statistics": (
        lambda p, x: F.batch_norm(x, p["m"], p["v"]),
        lambda p, x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5),
        [X],
        {"params": {"m": dlp.normal(6), "v": dlp.uniform(6, low=0.5)}, "wrt": ["input"]},
    ),
    "gelu": (lambda x: F.gelu(x), lambda x: jax.nn.gelu(x), [X], {}),
    "silu": (lambda x: F.gelu(x), lambda x: jax.nn.silu(x), [X], {}),
    "slope": (lambda x: F.leaky_relu(x, 0.01), lambda x: jnp.where(x > 0, x, 0.3 * x), [X], {}),
    "product": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x * jax.nn.sigmoid(x), [X], {}),
    "scale": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        lambda q, k, v: jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / 3, -1) @ v,
        HEADS,
        {},
    ),
    "queries": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), lambda q, k, v: jax.nn.softmax(scores(q, k), -2) @ v, HEADS, {}),
    "mask inverted": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        lambda q, k, v, m: jax.nn.softmax(jnp.where(m, -1e30, scores(q, k)), -1) @ v,
        [*HEADS, MASK],
        {"wrt": ["input0"]},
    ),
    "masked_fill": (
        lambda x, m: x.masked_fill(m, -9.0).softmax(-1),
        lambda x, m: jax.nn.softmax(jnp.where(m, x, -9.0), -1),
        [dlp.normal(4, 4), MASK],
        {},
    ),
    "triangle": (lambda x: x.tril(), lambda x: jnp.tril(x, -1), [dlp.normal(4, 4)], {}),
    "axis": (lambda x: x.softmax(-1), lambda x: jax.nn.softmax(x, 0), [X], {}),
    "SAME": (
        lambda p, x: F.conv2d(x, p["w"], stride=2, padding=1),
        lambda p, x: convolved(x, p["w"], "SAME", 2),
        [IMAGES],
        {"params": {"w": dlp.normal(2, 3, 3, 3)}},
    ),
    "flipped kernel": (
        lambda p, x: F.conv2d(x, p["w"]),
        lambda p, x: convolved(x, p["w"][:, :, ::-1, ::-1], "VALID"),
        [IMAGES],
        {"params": {"w": dlp.normal(2, 3, 3, 3)}},
    ),
    "dilation": (
        lambda p, x: F.conv2d(x, p["w"], padding=2, dilation=2),
        lambda p, x: convolved(x, p["w"], "SAME"),
        [IMAGES],
        {"params": {"w": dlp.normal(2, 3, 3, 3)}},
    ),
    "transposed": (
        lambda p, x: F.conv_transpose1d(x, p["w"], stride=2, padding=1),
        lambda p, x: jax.lax.conv_general_dilated(
            x, jnp.swapaxes(p["w"], 0, 1)[:, :, ::-1], (1,), [(2, 0)], lhs_dilation=(2,), dimension_numbers=("NCW", "OIW", "NCW")
        ),
        [dlp.normal(1, 2, 5)],
        {"params": {"w": dlp.normal(2, 3, 3)}},
    ),
    "pad": (lambda x: F.pad(x, (0, 2)), lambda x: jnp.pad(x, ((0, 0), (2, 0))), [X], {}),
    "zeros": (
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: unpooled(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))),
        [dlp.normal(1, 2, 5, 5, mean=-1.0)],
        {},
    ),
    "window": (lambda x: F.avg_pool1d(x, 2), lambda x: (x[..., :-1] + x[..., 1:]) / 2, [dlp.normal(1, 2, 6)], {}),
    "nearest": (
        lambda x: F.interpolate(x, size=5, mode="nearest"),
        lambda x: jax.image.resize(x, (*x.shape[:2], 5), "nearest"),
        [dlp.normal(1, 2, 3)],
        {},
    ),
    "hann": (lambda x: x * torch.hann_window(6, dtype=x.dtype), lambda x: x * jnp.asarray(np.hanning(6)), [X], {}),
    "shuffle": (
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: jnp.transpose(x.reshape(1, 2, 2, 2, 2, 2), (0, 3, 4, 1, 5, 2)).reshape(1, 2, 4, 4),
        [dlp.normal(1, 8, 2, 2)],
        {},
    ),
    "next row": (lambda p, i: p["e"][i], lambda p, i: p["e"][i + 1], [dlp.integers(6, high=7)], {"params": {"e": dlp.normal(8, 2)}}),
    "negative index": (
        lambda p, i: p["e"][i],
        lambda p, i: jnp.take(p["e"], i, axis=0, mode="clip"),
        [dlp.integers(6, low=-4, high=7)],
        {"params": {"e": dlp.normal(8, 2)}},
    ),
    "ties": (lambda x: x.argsort(dim=-1, stable=True), lambda x: 5 - jnp.argsort(x[:, ::-1], -1), [TIES], {"wrt": []}),
    "overflow": (lambda i: (i * 70000) % 97, lambda i: (i.astype(jnp.int32) * 70000) % 97, [dlp.integers(9, high=10**6)], {}),
    "rounding": (lambda x: (3 * x).floor(), lambda x: jnp.trunc(3 * x), [X], {"wrt": []}),
    "remainder": (lambda x: torch.remainder(x, 0.7), lambda x: jnp.fmod(x, 0.7), [X], {"wrt": []}),
    "cumulated": (lambda x: x.cumsum(-1), lambda x: jnp.cumsum(x[:, ::-1], -1)[:, ::-1], [X], {}),
    "gates": (
        lambda p, x, h: torch.gru_cell(x, h, p["wi"], p["wh"], p["bi"], p["bh"]),
        lambda p, x, h: gru_after(p, x, h, (1, 0, 2)),
        STATE,
        {"params": GATES},
    ),
    "reset": (lambda p, x, h: torch.gru_cell(x, h, p["wi"], p["wh"], p["bi"], p["bh"]), gru, STATE, {"params": GATES}),
    "bias": (
        lambda p, x, h: torch.rnn_tanh_cell(x, h, p["wi"], p["wh"], p["bi"], p["bh"]),
        lambda p, x, h: jnp.tanh(x @ p["wi"].T + h @ p["wh"].T + p["bh"]),
        STATE,
        {"params": {"wi": dlp.normal(2, 3), "wh": dlp.normal(2, 2), "bi": dlp.normal(2), "bh": dlp.normal(2)}},
    ),
    "rotary": (
        lambda x, c: (lambda a, b: torch.cat([a * c - b, b * c + a], -1))(*x.chunk(2, -1)),
        lambda x, c: jnp.stack([x[..., ::2] * c - x[..., 1::2], x[..., 1::2] * c + x[..., ::2]], -1).reshape(x.shape),
        [X, dlp.normal(3)],
        {},
    ),
    "channels last": (
        lambda p, x: x.flatten(1) @ p["w"],
        lambda p, x: jnp.transpose(x, (0, 2, 3, 1)).reshape(2, -1) @ p["w"],
        [IMAGES],
        {"params": {"w": dlp.normal(108, 2)}},
    ),
    "square weight": (lambda p, x: F.linear(x, p["w"]), lambda p, x: x @ p["w"], [X], {"params": {"w": dlp.normal(6, 6)}}),
    "sum": (lambda x, y: F.cross_entropy(x, y), lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).sum(), LOGITS, {}),
    "smoothing": (
        lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
        lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).mean(),
        LOGITS,
        {},
    ),
    "half": (lambda x, y: F.mse_loss(x, y), lambda x, y: optax.l2_loss(x, y).mean(), PAIR, {}),
    "huber": (lambda x, y: F.smooth_l1_loss(x, y, beta=0.5), lambda x, y: optax.huber_loss(x, y, delta=0.5).mean(), PAIR, {}),
    "logarithm": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, y),
        lambda x, y: -(y * jnp.log(jax.nn.sigmoid(x) + 1e-4) + (1 - y) * jnp.log(1 - jax.nn.sigmoid(x) + 1e-4)).mean(),
        [dlp.normal(4, 3), dlp.uniform(4, 3)],
        {},
    ),
    "detach": (lambda x, y: x * y.detach(), lambda x, y: x * y, PAIR, {}),
    "stop_gradient": (lambda x, y: x * y.tanh(), lambda x, y: x * jax.lax.stop_gradient(jnp.tanh(y)), PAIR, {}),
    "relu at 0": (lambda x: F.relu(x), lambda x: jnp.maximum(x, 0.0), [TIES], {}),
    "largest": (lambda x: x.max(-1).values, lambda x: x.max(-1), [TIES], {}),
    "at a bound": (lambda x: x.clamp(-1, 1), lambda x: jnp.clip(x, -1.0, 1.0), [TIES], {}),
    "padding_idx": (
        lambda p, i: F.embedding(i, p["e"], padding_idx=0),
        lambda p, i: p["e"][i],
        [dlp.integers(6, high=4)],
        {"params": {"e": dlp.normal(4, 2)}},
    ),
    "number of torch": (lambda x: torch.sin(x * 2.5 + 0.3), lambda x: jnp.sin(2.5 * x + jnp.asarray([0.2] * 6)), [X], {}),
    "number of jax": (lambda x: x.sin() + x, lambda x: jnp.sin(1.25 * x) + x, [X], {}),
    "rounded number": (lambda x: x * 55.4256, lambda x: x * 55.5, [X], {}),
    "factor": (lambda x: x.matmul(x.mT).exp(), lambda x: jnp.exp(x @ x.T / jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))), [X], {}),
    "mean": (lambda x: x.tanh().sum(-1), lambda x: jnp.tanh(x).mean(-1), [X], {}),
    "swapped": (lambda x, y: (x - y).exp(), lambda x, y: jnp.exp(y - x), PAIR, {}),
    "left out": (lambda x: x.tanh().sin(), lambda x: jnp.sin(x), [X], {}),
    "unused": (lambda p, x: x * p["g"], lambda p, x: x, [X], {"params": {"g": dlp.normal(6)}}),
    "cast": (
        lambda t: torch.cos(t.to(torch.float64)),
        lambda t: jnp.cos(t.astype(jnp.bfloat16).astype(jnp.float64)),
        [dlp.integers(6, low=300, high=4000)],
        {},
    ),
    "conjugate": (
        lambda x: torch.view_as_real(torch.fft.fft(x) * (1 + 2j)),
        lambda x: (lambda z: jnp.stack([z.real, z.imag], -1))(jnp.conj(jnp.fft.fft(x)) * (1 + 2j)),
        [X],
        {},
    ),
    "dropout": (lambda x: F.dropout(x, 0.5), lambda x: x, [X], {}),
    "moved padding": (
        lambda p, x: F.conv2d(x, p["w"], padding=1),
        lambda p, x: convolved(x, p["w"], [(2, 0), (1, 1)]),
        [IMAGES],
        {"params": {"w": dlp.normal(2, 3, 3, 3)}},
    ),
    "dilated": (
        lambda p, x: F.conv2d(x, p["w"], padding=1),
        lambda p, x: convolved(x, p["w"], [(2, 2), (2, 2)], rhs_dilation=(2, 2)),
        [IMAGES],
        {"params": {"w": dlp.normal(2, 3, 3, 3)}},
    ),
    "another axis": (lambda x: F.layer_norm(x, (6,)), lambda x: normed(x.T).T, [X], {}),
    "slice": (lambda x: x[:, 1:].exp(), lambda x: jnp.exp(x[:, :-1]), [X], {}),
    "bounded": (lambda x: F.relu(x), lambda x: jnp.clip(x, 0.0, 0.7), [X], {}),
    "too small to tell": (lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, 1e-14), [X], {}),
    "mask rows": (
        lambda x, m: x.masked_fill(m[:, None, :], -9.0).softmax(-1),
        lambda x, m: jax.nn.softmax(jnp.where(m[:, :, None], -9.0, x), -1),
        [dlp.normal(2, 4, 4), dlp.fixed(np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool))],
        {},
    ),
    "with its padding": (
        lambda x: F.pad(x[:, :4].flip(1).cumsum(1).flip(1), (0, 2)),
        lambda x: jnp.where(jnp.arange(6) < 4, jnp.cumsum(x[:, ::-1], 1)[:, ::-1], 0),
        [X],
        {},
    ),
}


def gru_after(p, x, h, order):
    """torch's own, its gates in another order."""
    i, g = jnp.split(x @ p["wi"].T + p["bi"], 3, -1), jnp.split(h @ p["wh"].T + p["bh"], 3, -1)
    (ri, zi, ni), (rh, zh, nh) = (tuple(part[k] for k in order) for part in (i, g))
    z = jax.nn.sigmoid(zi + zh)
    return (1 - z) * jnp.tanh(ni + jax.nn.sigmoid(ri + rh) * nh) + z * h


# name: what must be said, broken over lines
SENTENCES = """
eps: the jax side has eps=0.00037, torch's layer_norm at HERE has eps=1e-05; with eps=0.00037 in torch output and grad.input agree to 53 of 53 bits.
    Write epsilon=1e-05
eps None: the jax side has eps=1e-06, torch's rms_norm at HERE has eps=None, the machine epsilon of the dtype; with eps=1e-06 in torch output and
    grad.input agree to 53 of 53 bits. Write epsilon=jnp.finfo(x.dtype).eps
eps outside: the jax side divides by sqrt(variance) + eps, torch's layer_norm at HERE by sqrt(variance + eps); with torch made to do the same,
    output and grad.input agree to 53 of 53 bits. Write (x - mean) / jnp.sqrt(var + eps)
unbiased: the jax side divides the squares by n-1 = 5, torch's layer_norm at HERE by n = 6; with torch made to do the same, output and grad.input
    agree to 53 of 53 bits. Write jnp.var(x, ddof=0)
variance: the jax side divides the squares by n = 6, torch's var at HERE by n-1 = 5; with correction=0 in torch output and grad.input agree to 53 of
    53 bits. Write jnp.var(x, ddof=1)
rms: the jax side does not subtract the mean (RMSNorm), torch's layer_norm at HERE does; with torch made to do the same, output and grad.input agree
    to 53 of 53 bits. Write (x - x.mean(-1, keepdims=True)) before the division
1 + weight: the jax side multiplies by 1 + weight, torch's layer_norm at HERE by weight; with torch made to do the same, output and grad.input agree
    to 53 of 53 bits. Write x * weight
groups: the jax side has 2 groups, torch's group_norm at HERE has 3; with num_groups=2 in torch output and grad.input agree to 53 of 53 bits. Write
    num_groups=3
statistics: the jax side normalises with the batch's statistics, torch's batch_norm at HERE with the running; with training=True in torch output and
    grad.input agree to 53 of 53 bits. Write use_running_average=True
gelu: jax.nn.gelu(x) at HERE is the tanh approximation; with approximate=False output and grad.input agree to 53 of 53 bits. Write jax.nn.gelu(x,
    approximate=False)
silu: the jax side computes silu, torch's gelu at HERE computes the exact gelu; with silu in torch output and grad.input agree to 53 of 53 bits.
    Write jax.nn.gelu(x, approximate=False)
slope: the jax side has negative_slope=0.3, torch's leaky_relu at HERE has negative_slope=0.01; with negative_slope=0.3 in torch output and
    grad.input agree to 53 of 53 bits. Write negative_slope=0.01
product: the jax side computes silu, torch's mul at HERE computes x * sigmoid(1.702 x); with silu in torch output and grad.input agree to 53 of 53
    bits. Write x * jax.nn.sigmoid(1.702 * x)
scale: the jax side scales the scores by 1/3, torch's scaled_dot_product_attention at HERE by 1/sqrt(3); with scale=1/3 in torch output,
    grad.input0, grad.input1 and one more agree to 53 of 53 bits. Write scale=1/sqrt(3)
queries: the jax side takes the softmax over the queries, torch's scaled_dot_product_attention at HERE over the keys; with torch made to do the
    same, output, grad.input0, grad.input1 and one more agree to 53 of 53 bits. Write jax.nn.softmax(scores, axis=-1)
mask inverted: the jax side attends where the mask is False, torch's scaled_dot_product_attention at HERE where it is True; with ~attn_mask in torch
    output and grad.input0 agree to 53 of 53 bits. Write mask=mask, True where a key is seen
masked_fill: the jax side fills where the mask is False, torch's masked_fill at HERE where it is True; with ~mask in torch output and grad.input0
    agree to 53 of 53 bits. Write jnp.where(mask, value, x)
triangle: the jax side begins at diagonal -1, torch's tril at HERE at 0; with diagonal=-1 in torch output and grad.input agree to 53 of 53 bits.
    Write jnp.tril(x, k=0)
axis: the jax side takes the softmax over axis 0, torch's softmax at HERE over axis 1; with dim=0 in torch output and grad.input agree to 53 of 53
    bits. Write jax.nn.softmax(x, axis=-1)
SAME: the jax side pads (0, 1) on each axis ("SAME"), torch's conv2d at HERE pads (1, 1) on each axis; with torch made to do the same, output,
    grad.input and grad.w agree to 53 of 53 bits. Write padding=((1, 1), (1, 1))
flipped kernel: the jax side flips the kernel (a true convolution), torch's conv2d at HERE does not (a correlation); with torch made to do the same,
    output, grad.input and grad.w agree to 53 of 53 bits. Write jax.lax.conv_general_dilated, which does not flip
dilation: the jax side does not dilate the kernel, torch's conv2d at HERE dilates it by 2; with dilation=1 in torch output, grad.input and grad.w
    agree to 53 of 53 bits. Write kernel_dilation=(2, 2)
transposed: the jax side begins at place 0 of the full transposed convolution, torch's conv_transpose1d at HERE at place 1; with torch made to do
    the same, output, grad.input and grad.w agree to 53 of 53 bits. Write padding=((1, 1),)
pad: the jax side pads with before and after swapped, torch's pad at HERE pads [0, 2]; with pad=[2, 0] in torch output and grad.input agree to 53 of
    53 bits. Write jnp.pad(x, ((0, 0), (0, 2)))
zeros: the jax side pads with zeros, torch's max_pool2d at HERE pads with -inf; with torch made to do the same, output and grad.input agree to 53 of
    53 bits. Write -jnp.inf in the padding: nn.max_pool(..., padding=((1, 1), (1, 1)))
window: the jax side has stride 1, torch's avg_pool1d at HERE (2,); with stride=1 in torch output agrees to 53 of 53 bits. Write strides=(2,)
nearest: the jax side takes the pixel at the pixel's centre (nearest-exact), torch's interpolate at HERE at the left edge (nearest); with
    mode='nearest-exact' in torch output and grad.input agree to 53 of 53 bits. Write x[:, :, jnp.floor(jnp.arange(m) * n / m).astype(int)]
hann: the jax side has the symmetric window, torch's hann_window at HERE the periodic (n points of n + 1) one; with periodic=False in torch output
    and grad.input agree to 53 of 53 bits. Write jnp.hanning(6 + 1)[:-1]
shuffle: the jax side has the block before the channel (depth_to_space, DCR), torch's pixel_shuffle at HERE the channel before the block (CRD); with
    depth_to_space's order in torch output and grad.input agree to 53 of 53 bits. Write x.reshape(b, c, 2, 2, h, w).transpose(0, 1, 4, 2, 5,
    3).reshape(b, c, h * 2, w * 2)
next row: the jax side takes the next row, torch's indexing at HERE does not; with such indices in torch output and grad.e agree to 53 of 53 bits.
    Write x[i]: negative indices count from the end
negative index: the jax side clips an index that is out of range, negative ones too, torch's indexing at HERE does not; with such indices in torch
    output and grad.e agree to 53 of 53 bits. Write x[i]: negative indices count from the end
ties: the jax side takes the last of equal values first, torch's argsort at HERE the first; with the last of equal values first in torch output
    agrees to 53 of 53 bits. Write jnp.argsort(x, stable=True, descending=False)
overflow: the jax side computes in 32 bits, which overflow, torch's mul at HERE in 64; with 32 bits in torch output agrees to 53 of 53 bits. Write
    the product in 64 bits (jax_enable_x64), or its factors reduced first
rounding: the jax side rounds towards zero, torch's floor at HERE does not; with rounding towards zero in torch output agrees to 53 of 53 bits.
    Write jnp.floor(x)
remainder: the jax side gives a remainder the sign of the dividend, torch's remainder at HERE of the divisor; with fmod in torch output agrees to 53
    of 53 bits. Write jnp.remainder(x, y)
cumulated: the jax side accumulates from the end, torch's cumsum at HERE from the beginning; with the reverse in torch output and grad.input agree
    to 53 of 53 bits. Write jnp.cumsum(x, axis=-1)
gates: the jax side takes the rows of the weights for the gates z, r, n, torch's gru_cell at HERE for r, z, n; with torch made to do the same,
    output, grad.input0, grad.input1 and 4 more agree to 53 of 53 bits. Write r, z, n = jnp.split(gates, 3, axis=-1)
reset: the jax side applies the reset gate before the matrix product, torch's gru_cell at HERE after it; with torch made to do the same, output,
    grad.input0, grad.input1 and 4 more agree to 53 of 53 bits. Write n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
bias: the jax side leaves out b_ih, torch's rnn_tanh_cell at HERE adds both biases, b_ih and b_hh; with b_ih = 0 in torch output, grad.input0,
    grad.input1 and 4 more agree to 53 of 53 bits. Write b_hh + b_ih for the one bias
rotary: the jax side takes neighbours as pairs (even and odd places), torch at HERE takes the two halves of the last axis; with pairs of neighbours
    in torch output, grad.input0 and grad.input1 agree to 53 of 53 bits. Write x1, x2 = jnp.split(x, 2, axis=-1), joined by jnp.concatenate
channels last: the jax side puts axes 2, 3, 1 of [2, 3, 6, 6] in this order into one (channels last), torch's flatten at HERE 1, 2, 3; with
    permute(0, 2, 3, 1) first in torch output, grad.input and grad.w agree to 53 of 53 bits. Write jnp.transpose(x, (0, 3, 1, 2)).reshape(2, 108)
square weight: the jax side multiplies by the transpose of w [6, 6], torch's linear at HERE by w as it is; with the transpose in torch output,
    grad.input and grad.w agree to 53 of 53 bits. Write x @ weight.T
sum: the jax side takes the sum, torch's cross_entropy at HERE takes the mean; with torch made to do the same, output and grad.input0 agree to 53 of
    53 bits. Write jnp.mean(loss), one number for each target
smoothing: the jax side does not smooth the labels, torch's cross_entropy at HERE smooths them by 0.1; with label_smoothing=0 in torch output and
    grad.input0 agree to 53 of 53 bits. Write optax.smooth_labels(labels, 0.1)
half: the jax side takes half of the squares (optax.l2_loss), torch's mse_loss at HERE the squares; with torch made to do the same, output,
    grad.input0 and grad.input1 agree to 53 of 53 bits. Write jnp.mean((x - y) ** 2)
huber: the jax side computes huber_loss with delta=0.5, torch's smooth_l1_loss at HERE computes smooth_l1_loss, huber_loss divided by beta; with
    torch made to do the same, output, grad.input0 and grad.input1 agree to 53 of 53 bits. Write optax.huber_loss(x, y, delta=0.5).mean() / 0.5
logarithm: the jax side takes log(p + 0.0001), torch's binary_cross_entropy_with_logits at HERE takes max(0, x) - x y + log(1 + exp(-|x|)); with the
    same in torch output, grad.input0 and grad.input1 agree to 53 of 53 bits. Write optax.sigmoid_binary_cross_entropy(x, y)
detach: the jax side lets the gradient through, torch's detach at HERE cuts it; with no detach in torch grad.input1 agrees to 53 of 53 bits. Write
    jax.lax.stop_gradient(x)
stop_gradient: the jax side stops the gradient at HERE; with no stop_gradient there grad.input1 agrees to 53 of 53 bits. Write x in the place of
    jax.lax.stop_gradient(x)
relu at 0: the jax side passes half of the gradient where the input is exactly 0, torch's relu at HERE none; with the same in torch grad.input
    agrees to 53 of 53 bits. Write jax.nn.relu(x)
largest: the jax side shares the gradient among equal largest values, torch's max at HERE gives it to one of them; with amax in torch grad.input
    agrees to 53 of 53 bits. Write jnp.take_along_axis(x, jnp.argmax(x, axis=-1, keepdims=True), axis=-1)
at a bound: the jax side passes half of the gradient where the input is exactly at a bound, torch's clamp at HERE all of it; with the same in torch
    grad.input agrees to 53 of 53 bits. Write jnp.where(x < low, low, jnp.where(x > high, high, x))
padding_idx: the jax side gives row 0 a gradient as it does every other, torch's embedding at HERE has padding_idx=0, whose row gets none; with
    padding_idx=None in torch grad.e agrees to 53 of 53 bits. Write jnp.where(i[..., None] == 0, jax.lax.stop_gradient(table[0]), table[i])
number of torch: the jax side adds 0.2, torch's add at HERE adds 0.3; with that number in torch output and grad.input agree to 53 of 53 bits. Write
    0.3 there
number of jax: the jax side has 1.25 at HERE; with 1 in its place output and grad.input agree to 53 of 53 bits. Write 1 in the place of 1.25
rounded number: the jax side has 55.5 at HERE; with 55.4256 in its place output and grad.input agree to 53 of 53 bits. Write 55.4256 in the place of
    55.5
factor: the jax side has 1/sqrt(6) times what torch's matmul at HERE gives; with that factor in torch output and grad.input agree to 53 of 53 bits.
    Write the same without the factor
mean: the jax side takes the mean over axis 1, torch's sum at HERE the sum (n = 6); with mean in torch output and grad.input agree to 53 of 53 bits.
    Write jnp.sum(x, axis=-1)
swapped: the jax side has input0 and input1 of sub at HERE swapped, torch does not; with the swap in torch output, grad.input0 and grad.input1 agree
    to 53 of 53 bits
left out: the jax side computes no activation, torch's tanh at HERE computes tanh; with no activation in torch output and grad.input agree to 53 of
    53 bits. Write jnp.tanh(x)
unused: the jax side has ones in the place of g, which torch's mul at HERE takes; with ones in torch output, grad.input and grad.g agree to 53 of 53
    bits. Write g itself
cast: the jax side casts to bfloat16 at HERE; with no such cast output agrees to 53 of 53 bits. Write no cast to bfloat16
conjugate: the jax side has the conjugate of what torch's fft_fft gives at HERE; with the conjugate in torch output and grad.input agree to 53 of 53
    bits. Write jnp.conj(...) there
dropout: the jax side has no dropout, torch's dropout at HERE has it on (p = 0.5); with none in torch output and grad.input agree to 53 of 53 bits.
    Write train=False in the spec, or dropout on both sides
moved padding: the jax side pads (2, 0) and (1, 1) (moved by 1 on one axis), torch's conv2d at HERE pads (1, 1) on each axis; with torch made to do
    the same, output, grad.input and grad.w agree to 53 of 53 bits. Write padding=((1, 1), (1, 1))
dilated: the jax side dilates the kernel by 2, torch's conv2d at HERE by 1; with dilation=2 in torch output, grad.input and grad.w agree to 53 of 53
    bits. Write kernel_dilation=(1, 1)
another axis: the jax side normalises over axis 0, torch's layer_norm at HERE over the last; with torch made to do the same, output and grad.input
    agree to 53 of 53 bits. Write axis=-1
slice: the jax side takes :-1 of axis 1, torch's indexing at HERE takes 1:; with :-1 in torch output and grad.input agree to 53 of 53 bits. Write
    x[1:] on that axis
bounded: the jax side bounds what relu gives by 0.7, torch's relu at HERE does not; with the bound in torch output and grad.input agree to 53 of 53
    bits. Write jax.nn.relu(x)
too small to tell: the jax side has eps=0 (or less than 1e-12), torch's layer_norm at HERE has eps=1e-05; with eps=0 (or less than 1e-12) in torch
    output and grad.input agree to 53 of 53 bits. Write epsilon=1e-05
mask rows: the jax side has the mask's rows and columns swapped, torch's masked_fill at HERE has not; with the transposed mask in torch output and
    grad.input0 agree to 53 of 53 bits. Write the mask as torch has it
with its padding: the jax side runs over the padding of a sequence, torch at HERE cuts it to its length first; with whole sequences in torch output
    and grad.input agree to 53 of 53 bits. Write seq_lengths=lengths
"""


def expected():
    """The sentences by name, each in one line."""
    whole = re.sub(r"\n    ", " ", SENTENCES.strip())
    return dict(line.split(": ", 1) for line in whole.split("\n"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault):
    torch_side, jax_side, inputs, more = FAULTS[fault]
    assert said(dlp.layer(torch=torch_side, jax=jax_side, inputs=inputs, name=fault, **more)) == [expected()[fault]]


def test_every_fault_has_its_sentence():
    assert list(expected()) == list(FAULTS)
