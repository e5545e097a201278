"""How far right ports stay below the limits of a verdict, and how far planted faults lie above: the two tables of docs/verdicts.md.

    python benchmarks/calibration.py               three seeds, a few minutes
    python benchmarks/calibration.py --seeds 10    more

Each pair is one `dlp.check` for each seed over all dtypes, as a user would run it. A leaf of a right port that does not agree is a false
alarm, a check of a planted fault in which no leaf is called `semantics` is a miss: each is printed, and the exit status is 1.
The same over the catalogue: benchmarks/calibration_catalog.py.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import textwrap
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
from pytest_dlparity.compare import INACCURATE, RMS, WORST, Verdict

DTYPES = ("float32", "bfloat16", "float16")
SEEDS = 3  # some 400 leaves in each dtype: a 99 % point that is not the largest

# ---------------------------------------------------------------- the jax sides that are more than one expression


def layer_norm(p, x, eps=1e-5, correction=0):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(x.var(-1, keepdims=True, ddof=correction) + eps) * p["weight"] + p["bias"]


def rms_norm(p, x, eps=1e-6):
    """In at least float32, as torch's: it casts up by operations that a check sees, and asks a port for the same."""
    h, weight = (a.astype(jnp.promote_types(x.dtype, jnp.float32)) for a in (x, p["weight"]))
    return (h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + eps) * weight).astype(x.dtype)


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


def mean_pool(x, border=True):
    """Windows of 3 with a border of zeros, which torch counts by default."""
    sums = lambda a: jax.lax.reduce_window(a, 0.0, jax.lax.add, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return sums(x) / (9 if border else sums(jnp.ones_like(x)))


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


def layer(name: str, torch_side: Any, jax_side: Any, *inputs: Any, **params: Any) -> dlp.Spec:
    return dlp.layer(torch=torch_side, jax=jax_side, inputs=list(inputs), params=params or None, name=name)


def loss(name: str, torch_side: Any, jax_side: Any, *inputs: Any) -> dlp.Spec:
    return dlp.loss(torch=torch_side, jax=jax_side, inputs=list(inputs), name=name)


def optimizer(name: str, torch_side: Any, jax_side: Any) -> dlp.Spec:
    params, grads = {"w": dlp.normal(16, 8), "b": dlp.normal(8)}, {"w": gradient(16, 8), "b": gradient(8)}
    return dlp.optimizer(torch=torch_side, jax=jax_side, params=params, grads=grads, steps=5, name=name)


def gradient(*shape: int) -> Any:
    """Not near zero: Adam keeps a thousandth of the square, and below 2^-14 float16 loses its digits, on both sides alike."""
    return lambda rng: rng.choice([-1.0, 1.0], shape) * rng.uniform(0.25, 2, shape)


normal = dlp.normal
NEAR_ONE = dlp.normal(64, mean=1, scale=0.1)
ROWS = dlp.normal(16, 64)
SQUARE = dlp.normal(64, 64, scale=1 / 8)  # 1 / sqrt of the width, here and below: each layer keeps the size of what it gets
LABELS = dlp.integers(32, high=10)
IMAGES = dlp.normal(4, 3, 12, 12)
HEADS = dlp.normal(2, 4, 16, 8)


def torch_layer_norm(p, x):
    return F.layer_norm(x, (64,), p["weight"], p["bias"])


PAIRS = {
    spec.name: spec
    for spec in (
        layer("layer norm", torch_layer_norm, layer_norm, ROWS, weight=NEAR_ONE, bias=normal(64)),
        layer("layer norm at mean 10", torch_layer_norm, layer_norm, normal(16, 64, mean=10), weight=NEAR_ONE, bias=normal(64)),
        layer("rms norm", lambda p, x: F.rms_norm(x, (64,), p["weight"], 1e-6), rms_norm, ROWS, weight=NEAR_ONE),
        layer(
            "batch norm in training", lambda p, x: F.batch_norm(x, None, None, p["weight"], p["bias"], True), batch_norm, IMAGES,
            weight=normal(3, mean=1, scale=0.1), bias=normal(3),
        ),
        layer("l2 normalise", F.normalize, lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True).clip(1e-12), ROWS),
        layer("softmax", lambda x: F.softmax(x, -1), lambda x: jax.nn.softmax(x, -1), normal(32, 32, scale=3)),
        layer("log softmax", lambda x: F.log_softmax(x, -1), lambda x: jax.nn.log_softmax(x, -1), normal(32, 32, scale=3)),
        layer("logsumexp", lambda x: torch.logsumexp(x, -1), lambda x: jax.nn.logsumexp(x, -1), normal(32, 32, scale=3)),
        layer("attention", lambda q, k, v: F.softmax(q @ k.mT / math.sqrt(8), -1) @ v, attention, HEADS, HEADS, HEADS),
        loss("cross entropy", F.cross_entropy, cross_entropy, normal(32, 10), LABELS),
        loss("confident cross entropy", F.cross_entropy, cross_entropy, normal(32, 10, scale=10), LABELS),
        loss("smoothed cross entropy", lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), smoothed, normal(32, 10), LABELS),
        loss(
            "next token loss", lambda x, y: F.cross_entropy(x[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
            lambda x, y: cross_entropy(x[:, :-1], y[:, 1:]), normal(4, 16, 11), dlp.integers(4, 16, high=11),
        ),
        loss("mse", F.mse_loss, lambda x, y: jnp.square(x - y).mean(), ROWS, ROWS),
        layer("gelu by erf", F.gelu, lambda x: jax.nn.gelu(x, approximate=False), ROWS),
        layer("gelu by tanh", lambda x: F.gelu(x, approximate="tanh"), jax.nn.gelu, ROWS),
        layer("silu", F.silu, jax.nn.silu, ROWS),
        layer("leaky relu", F.leaky_relu, jax.nn.leaky_relu, ROWS),
        layer(
            "conv", lambda p, x: F.conv2d(x, p["weight"], p["bias"], 2, 1), conv, IMAGES, weight=normal(8, 3, 3, 3, scale=0.2), bias=normal(8)
        ),
        layer("max pool", lambda x: F.max_pool2d(x, 2), max_pool, IMAGES),
        layer("mean pool", lambda x: F.avg_pool2d(x, 3, 2, 1), mean_pool, IMAGES),
        layer("embedding", lambda p, i: F.embedding(i, p["table"]), lambda p, i: p["table"][i], dlp.integers(8, 12, high=20), table=normal(20, 16)),
        layer(
            "LSTM cell", torch_lstm_cell, lstm_cell, normal(8, 16), normal(8, 32), normal(8, 32),
            w_x=normal(128, 16, scale=0.25), w_h=normal(128, 32, scale=0.18), b_x=normal(128), b_h=normal(128),
        ),
        layer("MLP with GELU", torch_mlp, mlp, ROWS, up=SQUARE, up_bias=normal(64), down=SQUARE, down_bias=normal(64)),
        layer("chain of 8 tanh layers", torch_chain, chain, ROWS, **{f"w{i}": SQUARE for i in range(8)}),
        layer("cumsum", lambda x: torch.cumsum(x, -1), lambda x: jnp.cumsum(x, -1), ROWS),
        layer("linear solve", torch.linalg.solve, jnp.linalg.solve, normal(16, 16), normal(16, 4)),
        layer("einsum", lambda a, b: torch.einsum("bik,bjk->bij", a, b), lambda a, b: a @ b.swapaxes(1, 2), normal(4, 8, 32), normal(4, 6, 32)),
        optimizer("sgd", lambda p: torch.optim.SGD(p, lr=0.1), optax.sgd(0.1)),
        optimizer("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        optimizer("adam", torch.optim.Adam, optax.adam(1e-3)),
        optimizer("adam with eps 1e-4", lambda p: torch.optim.Adam(p, eps=1e-4), optax.adam(1e-3, eps=1e-4)),
        optimizer("adamw", torch.optim.AdamW, optax.adamw(1e-3, weight_decay=1e-2)),
        optimizer("rmsprop", torch.optim.RMSprop, optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False)),
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
    Fault("variance over N - 1", "batch norm in training", lambda p, x: batch_norm(p, x, correction=1)),
    Fault("tanh GELU for erf", "gelu by erf", jax.nn.gelu),
    Fault("tanh GELU for erf", "MLP with GELU", lambda p, x: mlp(p, x, approximate=True)),
    Fault("bias dropped", "MLP with GELU", lambda p, x: mlp({**p, "down_bias": 0 * p["down_bias"]}, x)),
    Fault("square weight transposed", "MLP with GELU", lambda p, x: mlp({**p, "up": p["up"].T}, x)),
    Fault("sum for mean", "mse", lambda x, y: jnp.square(x - y).sum()),
    Fault("wrong axis", "softmax", lambda x: jax.nn.softmax(x, 0)),
    Fault("no scale", "attention", lambda q, k, v: attention(q, k, v, scale=1.0)),
    Fault("log(p + 1e-7)", "confident cross entropy", clipped_cross_entropy),
    Fault("smoothed over the other classes", "smoothed cross entropy", smoothed_over_the_others),
    Fault("labels not shifted", "next token loss", lambda x, y: cross_entropy(x[:, :-1], y[:, :-1])),
    Fault("relu for leaky relu", "leaky relu", jax.nn.relu),
    Fault("norm under stop_gradient", "l2 normalise", lambda x: x / jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1, keepdims=True))),
    Fault("border not counted", "mean pool", lambda x: mean_pool(x, border=False)),
    Fault("gates i, g, f, o", "LSTM cell", lambda p, x, h, c: lstm_cell(p, x, h, c, order="igfo")),
    Fault("sum exclusive", "cumsum", lambda x: jnp.cumsum(x, -1) - x),
    Fault("momentum as an average", "momentum", optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1))),
    Fault("eps inside the root", "adam with eps 1e-4", optax.adam(1e-3, eps=0.0, eps_root=1e-4)),
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
        said = f"error {v.error:.3g}, noise {v.noise:.3g}, limit {v.limit:.3g}, worst {v.worst:.3g}"
        return f"{self.pair}, seed {self.seed}, {v.cell}, {v.name}: {v.status} ({v.reason}), {said}"


def found(spec: dlp.Spec, seeds: int) -> Iterator[Found]:
    """The verdict of every leaf of a spec in every dtype."""
    for seed in range(seeds):
        for verdict in dlp.check(spec, devices=["cpu"], dtypes=DTYPES, seed=seed).verdicts:
            yield Found(spec.name, seed, verdict)


def is_false_alarm(one: Found) -> bool:
    return one.verdict.status not in ("agree", "inconclusive")


def is_beyond_inputs(v: Verdict) -> bool:
    """Whether rounding of the inputs alone does not explain a leaf that agrees, and rounding inside had to."""
    return not (v.error <= RMS * v.noise and v.worst <= WORST)


def right_row(dtype: str, all_: Sequence[Found]) -> list[str]:
    here = [one for one in all_ if one.verdict.cell.dtype == dtype]
    agreed = [one.verdict for one in here if one.verdict.status == "agree"]
    inconclusive = [one for one in here if one.verdict.status == "inconclusive"]
    return [
        dtype,
        str(len(agreed)),
        quantiles([v.error / v.noise for v in agreed]),
        quantiles([v.worst for v in agreed]),
        f"{max((v.drift for v in agreed if not math.isnan(v.drift)), default=math.nan):.2g}",
        *(str(len(list(these))) for these in (filter(is_beyond_inputs, agreed), inconclusive, filter(is_false_alarm, here))),
    ]


def quantiles(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in np.quantile(values, [0.5, 0.99, 1.0]))


def clearest(one_check: Sequence[Found]) -> Verdict | None:
    """The leaf of one check that tells a fault best; None where no leaf is called `semantics`: a miss."""
    return max((one.verdict for one in one_check if one.verdict.reason == "semantics"), key=margin, default=None)


def margin(v: Verdict) -> float:
    """How far a difference in float64 lies above its limit; where the limit holds for the whole leaf, one element was beyond its own."""
    return max(v.error / v.limit, v.worst / WORST if v.error <= v.limit else 0.0)


def fault_row(fault: Fault, told: Sequence[Verdict | None]) -> list[str]:
    seen = [v for v in told if v is not None]
    called = f"{len(seen)} of {len(told)}"
    if not seen:
        return [fault.name, fault.pair, "", "", "", called]
    least = min(seen, key=margin)
    return [fault.name, fault.pair, least.name, f"{least.detail[0]:.1e}", f"{margin(least):.2g}", called]


def table(head: list[str], rows: list[list[str]]) -> str:
    line = lambda row: f"| {' | '.join(row)} |"
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


RIGHT = [
    "dtype", "leaves", f"error / noise (rms; limit {RMS:g}): median, 99 %, largest", f"worst element / its noise (limit {WORST:g}): median, 99 %, largest",
    "largest drift / noise", "needed rounding inside", "not measured", "false alarms",
]  # fmt: skip
WRONG = ["fault", "in", "leaf", "difference", "margin", "called `semantics`"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    right = [one for spec in PAIRS.values() for one in found(spec, seeds)]
    told = {fault: clear(fault, seeds) for fault in FAULTS}
    alarms = [one for one in right if is_false_alarm(one)]
    misses = [fault for fault, seen in told.items() if None in seen]
    print(paragraph(
        f"Printed by `python benchmarks/calibration.py --seeds {seeds}`: {len(PAIRS)} right pairs and {len(FAULTS)} planted faults, "
        f"torch {torch.__version__}, jax {jax.__version__}, CPU."
    ), end="")  # fmt: skip
    print(table(RIGHT, [right_row(dtype, right) for dtype in DTYPES]), end="\n\n")
    print(paragraph(about_right(right)), end="")
    print(table(WRONG, [fault_row(fault, seen) for fault, seen in told.items()]), end="\n\n")
    print(paragraph(ABOUT_WRONG), end="")
    for text in (*(f"false alarm: {one}" for one in alarms), *(f"miss: {fault.name}, {fault.pair}" for fault in misses)):
        print(text, file=sys.stderr)
    return int(bool(alarms or misses))


def clear(fault: Fault, seeds: int) -> list[Verdict | None]:
    """What each check of a fault, one for each seed and dtype, says at its clearest leaf."""
    all_ = list(found(replace(PAIRS[fault.pair], jax=fault.jax), seeds))
    return [
        clearest([one for one in all_ if (one.seed, one.verdict.cell.dtype) == (seed, dtype)]) for seed in range(seeds) for dtype in DTYPES
    ]


def about_right(right: Sequence[Found]) -> str:
    """What the columns of the first table mean, and which pairs they speak of."""
    inside = dict.fromkeys(one.pair for one in right if one.verdict.status == "agree" and is_beyond_inputs(one.verdict))
    lacking = dict.fromkeys(one.pair for one in right if one.verdict.status == "inconclusive")
    return (
        "A leaf counts with its worse side, beside the noise of the inputs; drift is that of an optimizer that runs freely. "
        f"Rounding inside was needed by {', '.join(inside) or 'none'}. Not measured, because torch or jax has no such operation in that dtype on a "
        f"CPU: {', '.join(lacking) or 'none'}."
        " Some right pairs are made to be right in half precision too: the rms norm's port casts up as torch does, and the optimizers' gradients keep "
        "away from zero. With normal ones Adam and RMSprop in float16 divide by a square that underflows, on both sides, and that is told as `precision`."
    )


ABOUT_WRONG = (
    "Of each fault the check in which it is hardest to see, one of every seed and dtype, and there the leaf that tells it best: the difference of the "
    f"float64 runs relative to the leaf, and how many times that is the limit, {INACCURATE:g} or what rounding explains where that is more."
)


def paragraph(text: str) -> str:
    return textwrap.fill(text, 150) + "\n\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as kept:  # the seeds of a pair compile the same programs: once is enough
        jax.config.update("jax_compilation_cache_dir", kept)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        sys.exit(main())
