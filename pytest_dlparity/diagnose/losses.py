"""Losses: what is averaged and by what it is divided, which formula of several that share a name, where an epsilon stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs

REDUCED = frozenset(
    "cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss kl_div binary_cross_entropy binary_cross_entropy_with_logits poisson_nll_loss "
    "gaussian_nll_loss hinge_embedding_loss soft_margin_loss margin_ranking_loss triplet_margin_loss cosine_embedding_loss multi_margin_loss "
    "multilabel_margin_loss multilabel_soft_margin_loss ctc_loss".split()
)
SHARDS = 16  # parts of a batch whose means could have been averaged


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this loss could be computed otherwise."""
    if call.name in REDUCED:
        yield from _reductions(call)
        yield from _shards(call)
    found = _FORMULAS.get(call.name)
    if found is not None:
        yield from found(call)


def _first(call: Call) -> Array | None:
    return next((value for value in call.arguments.values() if isinstance(value, Array)), None)


def _reductions(call: Call) -> Iterator[Variant]:
    own, first = call["reduction"] or "mean", call["input"] if isinstance(call["input"], Array) else _first(call)
    if first is None or own not in ("mean", "sum", "batchmean"):
        return
    shape = first.shape
    rows, size = (shape[0] if shape else 1), math.prod(shape)
    classes = shape[1] if len(shape) > 1 else 1
    mine = {"mean": "the mean", "sum": "the sum", "batchmean": "the sum divided by the batch"}[own]
    if own == "mean" and call["weight"] is not None and call.name in ("cross_entropy", "nll_loss"):
        mine = "the sum divided by the sum of the weights"
    elif own == "mean" and call.name == "kl_div":
        mine = f"the mean over all {size} elements"
    ways: dict[str, tuple[str, float]] = {"the sum": ("", 1.0), f"the sum divided by the batch of {rows}": ("batch", rows)}
    ways[f"the mean over all {size} elements, classes included"] = ("all", size)
    if call.name in ("cross_entropy", "nll_loss"):
        ways[f"the mean over all {size // classes} targets, those that are ignored or weighted included"] = ("targets", size // classes)
    if rows != size and rows * classes != size:
        ways[f"the sum divided by batch and classes, {rows * classes}"] = ("classes", rows * classes)
    for words, (what, count) in ways.items():
        if (
            (own == "sum" and not what)
            or (own == "batchmean" and what == "batch")
            or (own == "mean" and what == "all" and size == _averaged(call, size))
        ):
            continue
        yield differs(
            f"{call.name} {what or 'sum'} instead of {own}", f"takes {words}", f"takes {mine}",
            lambda a, count=count: a.again(reduction="sum") / count,
            "reduction", write=_written(own, call), meaning=f"divided by {count:g}",
        )  # fmt: skip
    if own != "mean":
        yield differs(
            f"{call.name} mean instead of {own}", "takes the mean", f"takes {mine}", lambda a: a.again(reduction="mean"), "reduction",
            change="reduction='mean' in torch", write=_written(own, call), meaning=f"divided by {size:g}",
        )  # fmt: skip


def _averaged(call: Call, size: int) -> int:
    """By how many elements torch's mean divides."""
    return (
        size
        if call.name not in ("cross_entropy", "nll_loss", "cosine_embedding_loss", "triplet_margin_loss", "multi_margin_loss", "ctc_loss")
        else 0
    )


def _written(own: str, call: Call) -> str:
    if own == "mean" and call.name in ("cross_entropy", "nll_loss"):
        return "loss.sum() / weight[labels].sum()" if call["weight"] is not None else "jnp.mean(loss), one number for each target"
    return {"mean": "jnp.mean(loss)", "sum": "jnp.sum(loss)", "batchmean": "jnp.sum(loss) / loss.shape[0]"}[own]


def _shards(call: Call) -> Iterator[Variant]:
    """The mean of the means of equal parts of the batch, which is another number where parts have other weights."""
    first = call["input"] if isinstance(call["input"], Array) else None
    if first is None or not first.shape or (call["reduction"] or "mean") != "mean" or call.name not in ("cross_entropy", "nll_loss"):
        return
    rows = first.shape[0]
    if call["weight"] is None and not isinstance(call["target"], Array):
        return
    for parts in (n for n in range(2, min(rows, SHARDS) + 1) if rows % n == 0):

        def made(a: Any, parts: int = parts) -> Any:
            pairs = zip(a["input"].chunk(parts), a["target"].chunk(parts), strict=True)
            return sum(a.again(input=x, target=y) for x, y in pairs) / parts

        yield differs(
            f"{call.name} mean of {parts} means", f"averages the means of {parts} parts of the batch", "takes one mean over the batch",
            made, "reduction",
            write="jnp.sum(sums) / jnp.sum(counts)",
        )  # fmt: skip


def _cross_entropy(call: Call) -> Iterator[Variant]:
    smoothing, weighted = call["label_smoothing"] or 0.0, call["weight"] is not None
    logits, target = call["input"], call["target"]
    if not isinstance(logits, Array) or len(logits.shape) < 2:
        return
    classes, indices = logits.shape[1], isinstance(target, Array) and not target.floating
    if smoothing:
        yield differs(
            "cross_entropy without smoothing", "does not smooth the labels", f"smooths them by {smoothing:g}", lambda a: a.again(label_smoothing=0.0),
            "smoothing", change="label_smoothing=0 in torch", write=f"optax.smooth_labels(labels, {smoothing:g})",
        )  # fmt: skip
    if smoothing and indices and not weighted:
        for words, constant in (("", False), (", less the entropy of the smoothed label", True)):
            yield differs(
                f"cross_entropy smoothing over the others{words}", f"gives {smoothing:g}/(K-1) to each of the K-1 other classes{words}",
                f"gives {smoothing:g}/K to every class", lambda a, constant=constant: _smoothed(a, constant), "smoothing",
                write=f"optax.smooth_labels(jax.nn.one_hot(y, {classes}), {smoothing:g})",
            )  # fmt: skip
    if weighted and indices:
        yield differs(
            "cross_entropy unweighted", "does not weigh the classes", "does", lambda a: a.again(weight=None), "weights",
            change="weight=None in torch",
            write="loss * weight[labels]",
        )  # fmt: skip
    if indices and not weighted and len(logits.shape) == 2:
        ignored = call["ignore_index"]
        yield differs(
            "cross_entropy without ignored", f"does not leave out the label {ignored}", "does", lambda a: a.again(ignore_index=-(10**6)), "reduction",
            write=f"jnp.where(labels == {ignored}, 0, loss).sum() / (labels != {ignored}).sum()",
        )  # fmt: skip
    yield differs(
        "cross_entropy of probabilities", "takes a softmax before the loss that takes one", "takes one softmax",
        lambda a: a.again(input=a["input"].softmax(1)),
        "softmax", write="the logits, without jax.nn.softmax",
    )  # fmt: skip
    yield differs(
        "cross_entropy without log_softmax", "takes its input for log probabilities", "for logits",
        lambda a: a.torch.nn.functional.nll_loss(a["input"], a["target"]), "softmax", write="jax.nn.log_softmax(logits)",
    )  # fmt: skip
    if len(logits.shape) > 2 or logits.shape[0] == classes:
        yield differs(
            "cross_entropy softmax over another axis", "takes the softmax over the last axis", "over axis 1",
            lambda a: a.torch.nn.functional.nll_loss(a["input"].log_softmax(-1), a["target"]), "axis", write="jax.nn.log_softmax(logits, axis=1)",
        )  # fmt: skip


def _smoothed(a: Any, constant: bool) -> Any:
    """Label smoothing as tensor2tensor and t5x have it: Vaswani et al. 2017 (arXiv:1706.03762), section 5.4."""
    x, y, e = a["input"], a["target"], a["label_smoothing"]
    k = x.shape[1]
    logp = x.log_softmax(1)
    at = logp.gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
    loss = -((1 - e) * at + e / (k - 1) * (logp.sum(1) - at))
    if constant:
        loss = loss + (1 - e) * math.log(1 - e) + e * math.log(e / (k - 1))
    return loss.mean() if a["reduction"] == "mean" else loss.sum() if a["reduction"] == "sum" else loss


def _squared(call: Call) -> Iterator[Variant]:
    yield differs(
        "mse_loss halved", "takes half of the squares (optax.l2_loss)", "the squares", lambda a: a.again() / 2, "factor",
        write="jnp.mean((x - y) ** 2)",
    )  # fmt: skip
    yield differs(
        "mse_loss root",
        "takes the root of the mean square",
        "the mean square",
        lambda a: a.again().sqrt(),
        "formula",
        write="jnp.mean((x - y) ** 2)",
    )
    yield differs(
        "mse_loss absolute", "takes absolute differences", "squares", lambda a: a.torch.nn.functional.l1_loss(a["input"], a["target"],
        reduction=a["reduction"]),
        "formula", write="jnp.mean((x - y) ** 2)",
    )  # fmt: skip
    shape = call["input"].shape if isinstance(call["input"], Array) else ()
    for axis in range(1, len(shape)):
        yield differs(
            f"mse_loss summed over axis {axis}", f"sums the squares over axis {axis} and takes the mean of the rest", "takes the mean of all",
            lambda a, axis=axis: a.again(reduction="none").sum(axis).mean(), "reduction", write="jnp.mean((x - y) ** 2)",
            meaning=f"divided by {math.prod(shape) // shape[axis]:g}",
        )  # fmt: skip


def _smooth(call: Call) -> Iterator[Variant]:
    huber = call.name == "huber_loss"
    name = "delta" if huber else "beta"
    now = float(call[name] if call[name] is not None else 1.0)
    mine = "huber_loss" if huber else "smooth_l1_loss, huber_loss divided by beta"
    if now != 1.0 and now > 0:
        other = "huber_loss divided by delta (smooth L1)" if huber else f"huber_loss with delta={now:g}"
        yield differs(
            f"{call.name} as the other", f"computes {other}", f"computes {mine}", lambda a: a.again() / now if huber else a.again() * now, "formula",
            write=f"optax.huber_loss(x, y, delta={now:g}).mean()" + ("" if huber else f" / {now:g}"), meaning="huber or smooth L1",
        )  # fmt: skip
    yield differs(
        f"{call.name} solved {name}", f"has {name}={{c}}", f"has {name}={now:g}", lambda a, c: a.again(**{name: c}), "formula",
        change=f"{name}={{c}} in torch", write=f"{name}={now:g}", start=now, meaning=name,
    )  # fmt: skip
    if not huber:
        yield differs(
            "smooth_l1_loss as huber of another delta", "computes huber_loss with delta={c}", f"computes {mine}",
            lambda a, c: a.torch.nn.functional.huber_loss(a["input"], a["target"], reduction=a["reduction"], delta=c), "formula", start=now, rank=1,
            write=f"optax.huber_loss(x, y, delta={now:g}).mean() / {now:g}", meaning="huber or smooth L1",
        )  # fmt: skip


def _divergence(call: Call) -> Iterator[Variant]:
    logged = bool(call["log_target"])

    def swapped(a: Any) -> Any:
        return a.again(input=a["target"] if logged else a["target"].log(), target=a["input"] if logged else a["input"].exp())

    yield differs(
        "kl_div swapped", "takes the divergence the other way round, KL(input || target)", "KL(target || input)", swapped, "order",
        write="optax.kl_divergence(log_predictions, targets)",
    )  # fmt: skip
    yield differs(
        "kl_div log_target", f"takes the target for {'probabilities' if logged else 'log probabilities'}",
        f"for {'log probabilities' if logged else 'probabilities'}", lambda a: a.again(log_target=not logged), "formula",
        change=f"log_target={not logged} in torch", write="optax.kl_divergence_with_log_targets" if logged else "optax.kl_divergence",
    )  # fmt: skip
    yield differs(
        "kl_div without entropy", "leaves out the target's entropy (a cross entropy)", "has it",
        lambda a: _reduced(a, -(a["target"].exp() if logged else a["target"]) * a["input"]), "formula",
        write="target * (log(target) - log_prediction)",
    )  # fmt: skip


def _reduced(a: Any, loss: Any) -> Any:
    own = a["reduction"] or "mean"
    return loss.sum() / loss.shape[0] if own == "batchmean" else loss.mean() if own == "mean" else loss.sum() if own == "sum" else loss


def _binary(call: Call) -> Iterator[Variant]:
    logits = call.name.endswith("logits")
    plain = call["weight"] is None and call["pos_weight"] is None
    title = "max(0, x) - x y + log(1 + exp(-|x|))" if logits else "log(p), at least -100"
    right = "optax.sigmoid_binary_cross_entropy(x, y)" if logits else "jnp.maximum(jnp.log(p), -100)"

    def naive(inside: Callable[[Any, Any, float], tuple[Any, Any]]) -> Callable[[Any, float], Any]:
        def made(a: Any, c: float) -> Any:
            p, y = (a["input"].sigmoid() if logits else a["input"]), a["target"]
            of_one, of_zero = inside(a.torch, p, c)
            return _reduced(a, -(y * of_one + (1 - y) * of_zero))

        return made

    if plain:
        ways = {
            "log(p + {c})": lambda t, p, c: ((p + c).log(), (1 - p + c).log()),
            "log of p clipped to [{c}, 1 - {c}]": lambda t, p, c: (p.clamp(c, 1 - c).log(), (1 - p.clamp(c, 1 - c)).log()),
            "log(max(p, {c}))": lambda t, p, c: (p.clamp(min=c).log(), (1 - p).clamp(min=c).log()),
        }
        for words, inside in ways.items():
            yield differs(
                f"{call.name} {words}", f"takes {words}", f"takes {title}", naive(inside), "eps", change="the same in torch", write=right, start=1e-7,
                meaning=words,
            )  # fmt: skip
    yield differs(
        f"{call.name} with another sigmoid", "takes a sigmoid " + ("before the loss that takes one" if logits else "of the probabilities"),
        "takes one" if logits else "takes none", lambda a: a.again(input=a["input"].sigmoid()), "softmax", write=right,
    )  # fmt: skip
    if call["pos_weight"] is not None:
        yield differs(
            f"{call.name} without pos_weight", "does not weigh the positive examples", "does", lambda a: a.again(pos_weight=None), "weights",
            change="pos_weight=None in torch", write="weight * y * log(p)",
        )  # fmt: skip
        yield differs(
            f"{call.name} pos_weight of the whole", "multiplies the whole loss by the positive weight", "the positive term alone",
            lambda a: _reduced(a, a.again(pos_weight=None, reduction="none") * a["pos_weight"]), "weights", write="weight * y * log(p)",
        )  # fmt: skip


_FORMULAS: dict[str, Callable[[Call], Iterator[Variant]]] = {
    "cross_entropy": _cross_entropy,
    "mse_loss": _squared,
    "smooth_l1_loss": _smooth,
    "huber_loss": _smooth,
    "kl_div": _divergence,
    "binary_cross_entropy": _binary,
    "binary_cross_entropy_with_logits": _binary,
}
