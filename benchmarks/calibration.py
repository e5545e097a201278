"""How far right ports stay below the limits of a verdict, and how far planted faults lie above: the two tables of docs/verdicts.md.

    python benchmarks/calibration.py               three seeds
    python benchmarks/calibration.py --seeds 10    more

Each pair is one `dlp.check` per seed over all dtypes, as a user would run it. A right port that does not agree is a false alarm, a fault
that is not called `semantics` in every dtype is a miss: either is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional as F

import pytest_dlparity as dlp
from pytest_dlparity.compare import RMS, WORST, Verdict

DTYPES = ("float32", "bfloat16", "float16")
SEEDS = 3  # some hundred leaves in each dtype: enough for a 99 % point

# ---------------------------------------------------------------- the jax sides that are more than one expression


def layer_norm(p, x, eps=1e-5, correction=0):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(x.var(-1, keepdims=True, ddof=correction) + eps) * p["weight"] + p["bias"]


def rms_norm(p, x, eps=1e-6):
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * p["weight"]


def batch_norm(p, x, correction=0):
    axes = (0, 2, 3)
    normed = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True, ddof=correction) + 1e-5)
    return normed * p["weight"][:, None, None] + p["bias"][:, None, None]


def attention(q, k, v, scale=None):
    return jax.nn.softmax(q @ k.swapaxes(-2, -1) * (scale or 1 / math.sqrt(q.shape[-1])), -1) @ v


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1).mean()


def clipped_cross_entropy(logits, labels):
    return -jnp.log(jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1) + 1e-7).mean()


def smoothed(logits, labels):
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(labels, 10, dtype=logits.dtype), 0.1)).mean()


def smoothed_over_the_others(logits, labels):
    hot = jax.nn.one_hot(labels, 10, dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, hot * 0.9 + (1 - hot) * (0.1 / 9)).mean()


def conv(p, x):
    y = jax.lax.conv_general_dilated(x, p["weight"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return y + p["bias"][:, None, None]


def max_pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def mean_pool(x, count=None):
    """Windows of 3 with a border of zeros, which torch counts."""
    sums = lambda a: jax.lax.reduce_window(a, 0.0, jax.lax.add, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return sums(x) / (9 if count is None else sums(jnp.ones_like(x)))


def lstm_cell(p, x, h, c, order="ifgo"):
    gates = jnp.split(x @ p["w_x"].T + h @ p["w_h"].T + p["b_x"] + p["b_h"], 4, -1)
    i, f, g, o = (gates[order.index(gate)] for gate in "ifgo")
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def torch_lstm_cell(p, x, h, c):
    return torch.lstm_cell(x, (h, c), p["w_x"], p["w_h"], p["b_x"], p["b_h"])


def torch_mlp(p, x):
    return F.linear(F.gelu(F.linear(x, p["up"], p["up_bias"])), p["down"], p["down_bias"])


def mlp(p, x, approximate=False):
    return jax.nn.gelu(x @ p["up"].T + p["up_bias"], approximate=approximate) @ p["down"].T + p["down_bias"]


def torch_chain(p, x):
    for i in range(8):
        x = torch.tanh(x @ p[f"w{i}"])
    return x


def chain(p, x):
    for i in range(8):
        x = jnp.tanh(x @ p[f"w{i}"])
    return x


# ---------------------------------------------------------------- right pairs


def _layer(name: str, torch_side: Any, jax_side: Any, *inputs: Any, **params: Any) -> dlp.Spec:
    return dlp.layer(torch=torch_side, jax=jax_side, inputs=list(inputs), params=params or None, name=name)


def _loss(name: str, torch_side: Any, jax_side: Any, *inputs: Any) -> dlp.Spec:
    return dlp.loss(torch=torch_side, jax=jax_side, inputs=list(inputs), name=name)


def _optimizer(name: str, torch_side: Any, jax_side: Any) -> dlp.Spec:
    return dlp.optimizer(torch=torch_side, jax=jax_side, params={"w": dlp.normal(16, 8), "b": dlp.normal(8)}, steps=5, name=name)


_N = dlp.normal
_W = dlp.normal(64, mean=1, scale=0.1)
_ROWS = dlp.normal(16, 64)
_SQUARE = dlp.normal(64, 64, scale=1 / 8)  # 1 / sqrt of the width, here and below: each layer keeps the size of what it gets
_LABELS = dlp.integers(32, high=10)
_IMAGES = dlp.normal(4, 3, 12, 12)
_HEADS = dlp.normal(2, 4, 16, 8)


def _torch_layer_norm(p, x):
    return F.layer_norm(x, (64,), p["weight"], p["bias"])


PAIRS = {
    spec.name: spec
    for spec in (
        _layer("layer norm", _torch_layer_norm, layer_norm, _ROWS, weight=_W, bias=_N(64)),
        _layer("layer norm, mean 10", _torch_layer_norm, layer_norm, _N(16, 64, mean=10), weight=_W, bias=_N(64)),
        _layer("rms norm", lambda p, x: F.rms_norm(x, (64,), p["weight"], 1e-6), rms_norm, _ROWS, weight=_W),
        _layer(
            "batch norm, train", lambda p, x: F.batch_norm(x, None, None, p["weight"], p["bias"], True), batch_norm, _IMAGES,
            weight=_N(3, mean=1, scale=0.1), bias=_N(3),
        ),
        _layer("l2 normalise", F.normalize, lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True).clip(1e-12), _ROWS),
        _layer("softmax", lambda x: F.softmax(x, -1), lambda x: jax.nn.softmax(x, -1), _N(32, 32, scale=3)),
        _layer("log softmax", lambda x: F.log_softmax(x, -1), lambda x: jax.nn.log_softmax(x, -1), _N(32, 32, scale=3)),
        _layer("logsumexp", lambda x: torch.logsumexp(x, -1), lambda x: jax.nn.logsumexp(x, -1), _N(32, 32, scale=3)),
        _layer("attention", lambda q, k, v: F.softmax(q @ k.mT / math.sqrt(8), -1) @ v, attention, _HEADS, _HEADS, _HEADS),
        _loss("cross entropy", F.cross_entropy, cross_entropy, _N(32, 10), _LABELS),
        _loss("cross entropy, confident", F.cross_entropy, cross_entropy, _N(32, 10, scale=10), _LABELS),
        _loss("cross entropy, smoothed", lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), smoothed, _N(32, 10), _LABELS),
        _loss(
            "next token loss", lambda x, y: F.cross_entropy(x[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
            lambda x, y: cross_entropy(x[:, :-1], y[:, 1:]), _N(4, 16, 11), dlp.integers(4, 16, high=11),
        ),
        _loss("mse", F.mse_loss, lambda x, y: jnp.square(x - y).mean(), _ROWS, _ROWS),
        _layer("gelu, erf", F.gelu, lambda x: jax.nn.gelu(x, approximate=False), _ROWS),
        _layer("gelu, tanh", lambda x: F.gelu(x, approximate="tanh"), jax.nn.gelu, _ROWS),
        _layer("silu", F.silu, jax.nn.silu, _ROWS),
        _layer("leaky relu", F.leaky_relu, jax.nn.leaky_relu, _ROWS),
        _layer(
            "conv", lambda p, x: F.conv2d(x, p["weight"], p["bias"], 2, 1), conv, _IMAGES, weight=_N(8, 3, 3, 3, scale=0.2), bias=_N(8)
        ),
        _layer("max pool", lambda x: F.max_pool2d(x, 2), max_pool, _IMAGES),
        _layer("mean pool", lambda x: F.avg_pool2d(x, 3, 2, 1), mean_pool, _IMAGES),
        _layer("embedding", lambda p, i: F.embedding(i, p["table"]), lambda p, i: p["table"][i], dlp.integers(8, 12, high=20), table=_N(20, 16)),
        _layer(
            "LSTM cell", torch_lstm_cell, lstm_cell, _N(8, 16), _N(8, 32), _N(8, 32),
            w_x=_N(128, 16, scale=0.25), w_h=_N(128, 32, scale=0.18), b_x=_N(128), b_h=_N(128),
        ),
        _layer("MLP with GELU", torch_mlp, mlp, _ROWS, up=_SQUARE, up_bias=_N(64), down=_SQUARE, down_bias=_N(64)),
        _layer("chain of 8 tanh layers", torch_chain, chain, _ROWS, **{f"w{i}": _SQUARE for i in range(8)}),
        _layer("cumsum", lambda x: torch.cumsum(x, -1), lambda x: jnp.cumsum(x, -1), _ROWS),
        _layer("linear solve", torch.linalg.solve, jnp.linalg.solve, _N(16, 16), _N(16, 4)),
        _layer("einsum", lambda a, b: torch.einsum("bik,bjk->bij", a, b), lambda a, b: a @ b.swapaxes(1, 2), _N(4, 8, 32), _N(4, 6, 32)),
        _optimizer("sgd", lambda p: torch.optim.SGD(p, lr=0.1), optax.sgd(0.1)),
        _optimizer("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        _optimizer("adam", torch.optim.Adam, optax.adam(1e-3)),
        _optimizer("adamw", torch.optim.AdamW, optax.adamw(1e-3, weight_decay=1e-2)),
        _optimizer("rmsprop", torch.optim.RMSprop, optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False)),
    )
}  # fmt: skip

# ---------------------------------------------------------------- planted faults, on the same pairs


class Fault(NamedTuple):
    name: str
    pair: str
    jax: Any


FAULTS = (
    Fault("eps 1e-4 for 1e-5", "layer norm", lambda p, x: layer_norm(p, x, eps=1e-4)),
    Fault("eps 1e-5 for 1e-6", "rms norm", lambda p, x: rms_norm(p, x, eps=1e-5)),
    Fault("variance over N - 1", "layer norm", lambda p, x: layer_norm(p, x, correction=1)),
    Fault("variance over N - 1", "batch norm, train", lambda p, x: batch_norm(p, x, correction=1)),
    Fault("tanh GELU for erf", "gelu, erf", jax.nn.gelu),
    Fault("tanh GELU for erf", "MLP with GELU", lambda p, x: mlp(p, x, approximate=True)),
    Fault("bias dropped", "MLP with GELU", lambda p, x: mlp({**p, "down_bias": 0 * p["down_bias"]}, x)),
    Fault("square weight transposed", "MLP with GELU", lambda p, x: mlp({**p, "up": p["up"].T}, x)),
    Fault("sum for mean", "mse", lambda x, y: jnp.square(x - y).sum()),
    Fault("wrong axis", "softmax", lambda x: jax.nn.softmax(x, 0)),
    Fault("no scale", "attention", lambda q, k, v: attention(q, k, v, scale=1.0)),
    Fault("log(p + 1e-7)", "cross entropy", clipped_cross_entropy),
    Fault("smoothed over the other classes", "cross entropy, smoothed", smoothed_over_the_others),
    Fault("labels not shifted", "next token loss", lambda x, y: cross_entropy(x[:, :-1], y[:, :-1])),
    Fault("relu for leaky relu", "leaky relu", jax.nn.relu),
    Fault("norm under stop_gradient", "l2 normalise", lambda x: x / jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1, keepdims=True))),
    Fault("border not counted", "mean pool", lambda x: mean_pool(x, count="inside")),
    Fault("gates i, g, f, o", "LSTM cell", lambda p, x, h, c: lstm_cell(p, x, h, c, order="igfo")),
    Fault("sum exclusive", "cumsum", lambda x: jnp.cumsum(x, -1) - x),
    Fault("momentum as an average", "momentum", optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1))),
    Fault("eps inside the root", "adam", optax.adam(1e-3, eps=0.0, eps_root=1e-8)),
    Fault("optax's default decay, 1e-4", "adamw", optax.adamw(1e-3)),
    Fault("optax's default decay, 0.9", "rmsprop", optax.rmsprop(1e-2, eps_in_sqrt=False)),
)  # fmt: skip

# ---------------------------------------------------------------- what was found


class Found(NamedTuple):
    pair: str
    seed: int
    verdict: Verdict

    def __str__(self) -> str:
        v = self.verdict
        return f"{self.pair}, seed {self.seed}, {v.cell}, {v.name}: {v.status} ({v.reason}), error {v.error:.3g}, noise {v.noise:.3g}, worst {v.worst:.3g}"


def checked(specs: Sequence[dlp.Spec], seeds: int) -> Iterator[Found]:
    for spec in specs:
        for seed in range(seeds):
            for verdict in dlp.check(spec, devices=["cpu"], dtypes=DTYPES, seed=seed).verdicts:
                yield Found(spec.name, seed, verdict)


def false_alarm(found: Found) -> bool:
    return found.verdict.status not in ("agree", "inconclusive")


def needed(verdict: Verdict) -> bool:
    """Whether a leaf that agrees is beyond what the inputs' rounding explains."""
    return not (verdict.error <= RMS * verdict.noise and verdict.worst <= WORST)


def right_rows(found: Sequence[Found]) -> Iterator[list[str]]:
    for dtype in DTYPES:
        here = [f for f in found if f.verdict.cell.dtype == dtype]
        agreed = [f.verdict for f in here if f.verdict.status == "agree"]
        inside = [v for v in agreed if needed(v)]
        rms = [v.error / v.noise for v in agreed if v.noise]
        worst = [v.worst for v in agreed if v.noise]
        yield [
            dtype, str(len(agreed)), *(_quantiles(rms)), *(_quantiles(worst)), str(len(inside)),
            str(len(here) - len(agreed) - sum(map(false_alarm, here))), str(sum(map(false_alarm, here))),
        ]  # fmt: skip


def _quantiles(values: Sequence[float]) -> list[str]:
    return [f"{value:.2g}" for value in np.quantile(values, [0.5, 0.99, 1.0])]


if __name__ == "__main__":
    import time
    from pytest_dlparity import spec as _s
    torch.set_num_threads(1)
    which = sys.argv[1:] 
    all_ = []
    for name, spec in PAIRS.items():
        if which and name not in which: continue
        t = time.time()
        f = list(checked([spec], 1))
        all_ += f
        print(f"{name:26} {time.time()-t:.1f}s", Counter((x.verdict.cell.dtype, x.verdict.status, x.verdict.note) for x in f if x.verdict.status != "agree" or x.verdict.note), flush=True)
        for x in f:
            if false_alarm(x): print(x)
    for r in right_rows(all_): print(r)
