"""Layers that normalise: their epsilon and where it stands, the variance's divisor, batch or running statistics, the rate of running averages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pytest_dlparity.calls import Call
from pytest_dlparity.diagnose.variant import Variant, differs, without

NORMS = {"layer_norm": 1e-5, "group_norm": 1e-5, "instance_norm": 1e-5, "batch_norm": 1e-5, "rms_norm": 2.0**-52}


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this call could be made otherwise."""
    if call.name in NORMS:
        yield from _eps(call)
        yield from _affine(call)
    match call.name:
        case "layer_norm":
            yield from _layer_norm(call)
        case "rms_norm":
            yield from _rms_norm(call)
        case "group_norm":
            yield from _group_norm(call)
        case "batch_norm":
            yield from _batch_norm(call)
        case "var" | "std" | "var_mean" | "std_mean":
            yield from _variance(call)
        case "normalize":
            yield from _unit_length(call)
        case _:
            pass


def _eps(call: Call) -> Iterator[Variant]:
    eps = NORMS[call.name] if call["eps"] is None else float(call["eps"])
    told = f"eps={eps:g}" if call["eps"] is not None else "eps=None, the machine epsilon of the dtype"
    keyword = "epsilon=jnp.finfo(x.dtype).eps" if call["eps"] is None else f"epsilon={eps:g}"
    yield differs(
        f"{call.name} eps {told}", "has eps={c}", f"has {told}", lambda a, c: a.again(eps=c), "eps",
        change="eps={c} in torch", write=keyword, start=eps, rank=0, meaning="eps",
    )  # fmt: skip


def _dims(call: Call) -> tuple[int, ...]:
    return tuple(range(-len(call["normalized_shape"]), 0)) if call["normalized_shape"] is not None else (-1,)


def _scaled(a: Any, y: Any) -> Any:
    y = y if a["weight"] is None else y * a["weight"]
    return y if a["bias"] is None else y + a["bias"]


def _layer_norm(call: Call) -> Iterator[Variant]:
    dims = _dims(call)

    def made(a: Any, correction: int = 0, outside: bool = False, centred: bool = True) -> Any:
        x = a["input"]
        mean = x.mean(dims, keepdim=True) if centred else 0.0
        squares = x.var(dims, keepdim=True, correction=correction) if centred else (x * x).mean(dims, keepdim=True)
        return _scaled(a, (x - mean) / (squares.sqrt() + a["eps"] if outside else (squares + a["eps"]).sqrt()))

    n = math.prod(call["normalized_shape"])
    yield differs(
        "layer_norm unbiased",
        f"divides the squares by n-1 = {n - 1}",
        f"by n = {n}",
        lambda a: made(a, 1),
        "variance",
        write="jnp.var(x, ddof=0)",
    )
    yield differs(
        "layer_norm eps outside", "divides by sqrt(variance) + eps", "by sqrt(variance + eps)", lambda a: made(a, 0, True), "eps",
        write="(x - mean) / jnp.sqrt(var + eps)",
    )  # fmt: skip
    yield differs(
        "layer_norm unbiased, eps outside", f"divides by the sample's standard deviation (n-1 = {n - 1}) plus eps",
        f"by sqrt(variance + eps) with n = {n}", lambda a: made(a, 1, True), "variance", write="(x - mean) / jnp.sqrt(jnp.var(x, ddof=0) + eps)",
    )  # fmt: skip
    yield differs(
        "layer_norm without mean", "does not subtract the mean (RMSNorm)", "does", lambda a: made(a, centred=False), "norm",
        write="(x - x.mean(-1, keepdims=True)) before the division",
    )  # fmt: skip
    if math.prod(call["input"].shape) > n:
        for words, chosen in _other_axes(call):
            yield differs(
                f"layer_norm over {words}", f"normalises over {words}",
                f"over the last {len(dims)} axes" if len(dims) > 1 else "over the last", lambda a, chosen=chosen: _over(a, chosen),
                "axis", write=f"axis={dims if len(dims) > 1 else -1}",
            )  # fmt: skip


def _other_axes(call: Call) -> Iterator[tuple[str, tuple[int, ...]]]:
    rank, last = len(call["input"].shape), len(call["normalized_shape"])
    for chosen in dict.fromkeys([tuple(range(1, rank)), tuple(range(rank - last - 1, rank)), *((axis,) for axis in range(rank))]):
        if chosen and chosen != tuple(range(rank - last, rank)):
            yield f"{'axis' if len(chosen) == 1 else 'axes'} {', '.join(map(str, chosen))}", chosen


def _over(a: Any, axes: tuple[int, ...]) -> Any:
    x = a["input"]
    return _scaled(a, (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, correction=0) + a["eps"]).sqrt())


def _affine(call: Call) -> Iterator[Variant]:
    for name in ("weight", "bias"):
        if call[name] is not None:
            yield differs(
                f"{call.name} without {name}", f"leaves out the {'scale' if name == 'weight' else 'bias'}", "has it",
                lambda a, name=name: a.again(**{name: None}), "missing", write="use_scale=True" if name == "weight" else "use_bias=True",
                meaning=without(call[name]),
            )  # fmt: skip
    if call["weight"] is not None:
        yield differs(
            f"{call.name} 1 + weight", "multiplies by 1 + weight", "by weight", lambda a: a.again(weight=a["weight"] + 1), "norm", write="x * weight",
        )  # fmt: skip


def _rms_norm(call: Call) -> Iterator[Variant]:
    dims = _dims(call)

    def made(a: Any, centred: bool = False, outside: bool = False) -> Any:
        x, eps = a["input"], a["eps"] if a["eps"] is not None else 2.0**-52
        x = x - x.mean(dims, keepdim=True) if centred else x
        squares = (x * x).mean(dims, keepdim=True)
        return _scaled(a, x / (squares.sqrt() + eps if outside else (squares + eps).sqrt()))

    yield differs(
        "rms_norm with mean", "subtracts the mean (LayerNorm)", "does not", lambda a: made(a, True), "norm", write="jnp.mean(x * x, -1)"
    )
    yield differs(
        "rms_norm eps outside", "divides by sqrt(mean square) + eps", "by sqrt(mean square + eps)", lambda a: made(a, outside=True), "eps",
        write="x / jnp.sqrt(jnp.mean(x * x) + eps)",
    )  # fmt: skip
    yield differs(
        "rms_norm sum", "divides by the root of the sum of squares", "of their mean", lambda a: _scaled(a,
        a.again(weight=None) / math.sqrt(_count(call))),
        "reduction", write="jnp.mean(x * x, -1)",
    )  # fmt: skip


def _count(call: Call) -> int:
    return math.prod(call["normalized_shape"])


def _group_norm(call: Call) -> Iterator[Variant]:
    channels, groups = call["input"].shape[1], call["num_groups"]
    for other in (n for n in range(1, channels + 1) if channels % n == 0 and n != groups):
        yield differs(
            f"group_norm {other} groups", f"has {other} groups", f"has {groups}", lambda a, other=other: a.again(num_groups=other), "groups",
            change=f"num_groups={other} in torch", write=f"num_groups={groups}", meaning=f"{other} groups",
        )  # fmt: skip
    size = channels // groups
    if 1 < groups < channels:

        def strided(a: Any) -> Any:
            x = a["input"]
            swapped = [j for g in range(groups) for j in range(g, channels, groups)]
            inverse = [swapped.index(i) for i in range(channels)]
            y = a.again(input=x[:, swapped], weight=None, bias=None)[:, inverse]
            shape = (1, channels) + (1,) * (x.dim() - 2)
            y = y if a["weight"] is None else y * a["weight"].reshape(shape)
            return y if a["bias"] is None else y + a["bias"].reshape(shape)

        yield differs(
            "group_norm strided", f"puts every {groups}th channel into a group", f"{size} neighbours", strided, "groups",
            write=f"x.reshape(*x.shape[:-1], {groups}, {size})",
        )  # fmt: skip


def _batch_norm(call: Call) -> Iterator[Variant]:
    training, momentum = bool(call["training"]), call["momentum"]
    running = call["running_mean"] is not None and call["running_var"] is not None
    if running:
        now, other = ("the batch's", "the running") if not training else ("the running", "the batch's")
        for words, change in (
            ("", lambda a: a.again(training=not training)),
            (" and leaves the running ones alone", lambda a: a.again(training=not training, momentum=0.0)),
        ):
            yield differs(
                f"batch_norm in the other mode{words}", f"normalises with {now} statistics{words}", f"with {other}", change, "mode",
                change=f"training={not training} in torch", write=f"use_running_average={not training}", meaning="mode",
            )  # fmt: skip
    if running and training and momentum is not None:
        yield differs(
            f"batch_norm momentum {momentum:g}", f"keeps {momentum:g} of the old running statistics", f"keeps 1 - momentum = {1 - momentum:g}",
            lambda a: a.again(momentum=1 - a["momentum"]), "momentum", change=f"momentum={1 - momentum:g} in torch",
            write=f"momentum={1 - momentum:g}",
        )  # fmt: skip
        yield differs(
            "batch_norm solved momentum", "keeps 1 - {c} of the old running statistics", f"keeps 1 - {momentum:g}", lambda a, c: a.again(momentum=c),
            "momentum", change="momentum={c} in torch", write=f"momentum={1 - momentum:g}", start=float(momentum), rank=1,
        )  # fmt: skip
        yield differs(
            "batch_norm biased running variance", "averages the variance divided by n", "divided by n-1", _biased, "variance",
            write="momentum * old + (1 - momentum) * var * n / (n - 1)",
        )  # fmt: skip
        yield differs(
            "batch_norm momentum and biased running variance", "keeps {c} of the old running statistics, and averages the variance divided by n",
            f"keeps {1 - momentum:g}, and divides by n-1", lambda a, c: _biased(a, 1 - c), "momentum",
            write=f"momentum={1 - momentum:g}, and the variance times n / (n - 1)", start=0.5, rank=2,
        )  # fmt: skip
        yield differs(
            "batch_norm no update", "leaves the running statistics as they are", "updates them", lambda a: a.again(momentum=0.0), "momentum",
            change="momentum=0 in torch", write='mutable=["batch_stats"]',
        )  # fmt: skip


def _biased(a: Any, momentum: float | None = None) -> Any:
    x, running = a["input"], a["running_var"]
    axes = [0, *range(2, x.dim())]
    before, share = running.detach().clone(), a["momentum"] if momentum is None else momentum
    result = a.again(momentum=share)
    running.data.copy_((1 - share) * before + share * x.detach().var(axes, correction=0))  # unseen by the backward pass, which reads it
    return result


def _variance(call: Call) -> Iterator[Variant]:
    told = call["correction"] if call["correction"] is not None else call["unbiased"]
    now = 1 if told is None else int(told)
    axes = call["dim"]
    shape = call["input"].shape
    n = (
        math.prod(shape[d] for d in ((axes,) if isinstance(axes, int) else axes))
        if axes is not None and not isinstance(axes, bool)
        else math.prod(shape)
    )
    words = {0: f"n = {n}", 1: f"n-1 = {n - 1}"}
    other = 1 - now if now in (0, 1) else 0

    def again(a: Any) -> Any:
        kept = {
            k: v for k, v in a.arguments().items() if k in ("dim", "keepdim") and v is not None and not isinstance(v, bool | type(None))
        }
        keep = a["keepdim"] or False
        return getattr(a.torch, call.name)(a["input"], **kept, correction=other, **({"keepdim": keep} if kept else {}))

    yield differs(
        f"{call.name} correction {now}", f"divides the squares by {words[other]}", f"by {words.get(now, f'n-{now}')}", again, "variance",
        change=f"correction={other} in torch", write=f"jnp.{call.name.removesuffix('_mean')}(x, ddof={now})", meaning=f"ddof {other}",
    )  # fmt: skip


def _unit_length(call: Call) -> Iterator[Variant]:
    p, dim, eps = call["p"] or 2.0, 1 if call["dim"] is None else call["dim"], call["eps"] or 1e-12

    def norm(a: Any) -> Any:
        return a["input"].norm(p=p, dim=dim, keepdim=True)

    yield differs(
        "normalize solved eps", "divides by max(norm, {c})", f"by max(norm, {eps:g})", lambda a, c: a.again(eps=c), "eps",
        change="eps={c} in torch", write=f"x / jnp.maximum(norm, {eps:g})", start=eps,
    )  # fmt: skip
    for words, made in (
        ("norm + {c}", lambda a, c: a["input"] / (norm(a) + c)),
        ("sqrt(norm^2 + {c})", lambda a, c: a["input"] / (norm(a) ** 2 + c).sqrt()),
    ):
        yield differs(
            f"normalize {words}",
            f"divides by {words}",
            f"by max(norm, {eps:g})",
            made,
            "eps",
            write=f"x / jnp.maximum(norm, {eps:g})",
            start=1e-6,
            rank=1,
        )
    for axis in range(len(call["input"].shape)):
        if axis != dim % len(call["input"].shape):
            yield differs(
                f"normalize axis {axis}", f"normalises over axis {axis}", f"over axis {dim}", lambda a, axis=axis: a.again(dim=axis), "axis",
                change=f"dim={axis} in torch", write=f"axis={dim}",
            )  # fmt: skip
