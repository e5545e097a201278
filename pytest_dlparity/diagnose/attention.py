"""Attention: its scale, its mask, which axis is normalised, which of two is the query; softmax by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this attention, softmax or mask could be made otherwise."""
    match call.name:
        case "scaled_dot_product_attention":
            yield from _attention(call)
        case "softmax" | "log_softmax" | "softmin":
            yield from _softmax(call)
        case "masked_fill" | "masked_fill_":
            yield from _masked_fill(call)
        case "where":
            yield from _where(call)
        case "tril" | "triu":
            yield from _triangle(call)
        case _:
            pass


def _attention(call: Call) -> Iterator[Variant]:
    d = call["query"].shape[-1]
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(d)
    told = f"{scale:g}" if call["scale"] is not None else f"1/sqrt({d})"
    masked, causal = call["attn_mask"] is not None, bool(call["is_causal"])
    heads = call["query"].shape[-3] if len(call["query"].shape) > 2 else 1
    yield differs(
        f"scaled_dot_product_attention scale {told}", "scales the scores by {c}", f"by {told}", lambda a, c: a.again(scale=c), "scale",
        change="scale={c} in torch", write=f"scale={told}", start=float(scale), meaning="scale", sizes=(d, d * heads),
    )  # fmt: skip
    lengths = call["query"].shape[-2], call["key"].shape[-2]
    if causal:
        yield differs(
            "scaled_dot_product_attention uncausal", "does not mask the future", "does", lambda a: a.again(is_causal=False), "mask",
            change="is_causal=False in torch", write="is_causal=True",
        )  # fmt: skip
        if lengths[0] != lengths[1]:
            yield differs(
                "scaled_dot_product_attention causal alignment", "aligns the causal mask at the last key (bottom right)", "at the first (top left)",
                lambda a: a.again(is_causal=False, attn_mask=_bottom(a)), "mask", write="jnp.tril(jnp.ones((t, s), bool))",
            )  # fmt: skip
        for shift in (-1, 1):
            yield differs(
                f"scaled_dot_product_attention causal {shift:+d}", f"masks {'the present too' if shift < 0 else 'from the second next position on'}",
                "masks the future", lambda a, shift=shift: a.again(is_causal=False, attn_mask=_causal(a, shift)), "mask",
                write="jnp.tril(jnp.ones((t, t), bool))",
            )  # fmt: skip
        yield differs(
            "scaled_dot_product_attention anticausal", "masks the past", "masks the future", lambda a: a.again(is_causal=False,
            attn_mask=_causal(a, 0).mT), "mask",
            write="jnp.tril(jnp.ones((t, t), bool))",
        )  # fmt: skip
    elif not masked:
        yield differs(
            "scaled_dot_product_attention causal", "masks the future", "does not", lambda a: a.again(is_causal=True), "mask",
            change="is_causal=True in torch",
            write="no mask",
        )  # fmt: skip
    if masked:
        yield from _mask(call)
    yield differs(
        "scaled_dot_product_attention query and key swapped", "has query and key swapped", "has not", lambda a: a.again(query=a["key"],
        key=a["query"]), "order",
        write="q @ k.swapaxes(-1, -2)",
    )  # fmt: skip
    yield differs(
        "scaled_dot_product_attention softmax over queries", "takes the softmax over the queries", "over the keys", lambda a: _by_hand(a,
        axis=-2), "axis",
        write="jax.nn.softmax(scores, axis=-1)",
    )  # fmt: skip
    yield differs(
        "scaled_dot_product_attention masked after the softmax", "masks after the softmax", "before it", lambda a: _by_hand(a, after=True), "mask",
        write="jnp.where(mask, scores, -jnp.inf) before jax.nn.softmax",
    )  # fmt: skip
    if call["dropout_p"]:
        yield differs(
            "scaled_dot_product_attention without dropout", "has no dropout", f"has dropout_p={call['dropout_p']:g}",
            lambda a: a.again(dropout_p=0.0), "dropout",
            change="dropout_p=0 in torch", write="train=False on both sides",
        )  # fmt: skip
    if call["key"].shape[:-2] != call["query"].shape[:-2]:
        yield differs(
            "scaled_dot_product_attention tiled heads", "repeats all heads of keys and values in turn", "repeats each in place", _tiled, "heads",
            write="jnp.repeat(k, groups, axis=-3)",
        )  # fmt: skip


def _mask(call: Call) -> Iterator[Variant]:
    mask = call["attn_mask"]
    yield differs(
        "scaled_dot_product_attention unmasked", "leaves out the mask", "has one", lambda a: a.again(attn_mask=None), "mask",
        change="attn_mask=None in torch", write="mask=mask",
    )  # fmt: skip
    if not mask.floating:
        yield differs(
            "scaled_dot_product_attention mask inverted", "attends where the mask is False", "where it is True",
            lambda a: a.again(attn_mask=~a["attn_mask"]), "mask",
            change="~attn_mask in torch", write="mask=mask, True where a key is seen",
        )  # fmt: skip
        yield differs(
            "scaled_dot_product_attention fully masked rows",
            "gives a row that is masked everywhere the mean of all values (the mask is a large finite number)",
            "gives it 0 (the mask is -inf)", lambda a: _by_hand(a, low=-1e30), "mask", change="finfo.min in the place of -inf in torch",
            write="jnp.where(mask.any(-1, keepdims=True), output, 0)",
        )  # fmt: skip
        yield differs(
            "scaled_dot_product_attention mask added", "adds the mask to the scores as 0 and 1", "hides the scores where it is False",
            lambda a: a.again(attn_mask=a["attn_mask"].to(a["query"].dtype)), "mask", write="jnp.where(mask, scores, -jnp.inf)",
        )  # fmt: skip
    else:
        yield differs(
            "scaled_dot_product_attention mask scaled", "scales the added mask with the scores", "adds it to the scaled scores",
            lambda a: a.again(attn_mask=a["attn_mask"] * (a["scale"] or a["query"].shape[-1] ** -0.5)), "mask",
            write="q @ k.swapaxes(-1, -2) * scale + mask",
        )  # fmt: skip
    if len(mask.shape) >= 2 and mask.shape[-1] == mask.shape[-2] > 1:
        yield differs(
            "scaled_dot_product_attention mask transposed", "has the mask's rows and columns swapped", "has queries in rows",
            lambda a: a.again(attn_mask=a["attn_mask"].mT), "mask", write="mask[query, key]",
        )  # fmt: skip
    yield differs(
        "scaled_dot_product_attention finite mask", "masks with {c}", "with -inf", lambda a, c: _by_hand(a, low=c), "mask", start=-1e2, rank=1,
        write="-jnp.inf or jnp.finfo(x.dtype).min",
    )  # fmt: skip


def _causal(a: Any, shift: int) -> Any:
    rows, columns = a["query"].shape[-2], a["key"].shape[-2]
    return a.torch.ones(rows, columns, dtype=a.torch.bool).tril(shift)


def _bottom(a: Any) -> Any:
    rows, columns = a["query"].shape[-2], a["key"].shape[-2]
    return a.torch.ones(rows, columns, dtype=a.torch.bool).tril(columns - rows)


def _tiled(a: Any) -> Any:
    groups = a["query"].shape[-3] // a["key"].shape[-3]
    shape = [1] * (a["key"].dim() - 3) + [groups, 1, 1]
    return a.again(key=a["key"].repeat(*shape), value=a["value"].repeat(*shape), enable_gqa=False)


def _by_hand(a: Any, axis: int = -1, low: float = -math.inf, after: bool = False) -> Any:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    scale = a["scale"] if a["scale"] is not None else 1 / math.sqrt(q.shape[-1])
    scores = q @ k.mT * scale
    mask = _causal(a, 0) if a["is_causal"] else mask
    if mask is None:
        return scores.softmax(axis) @ v
    if after:
        seen = mask if mask.dtype is a.torch.bool else mask > -1
        return scores.softmax(axis) * seen @ v
    scores = scores.masked_fill(~mask, low) if mask.dtype is a.torch.bool else scores + mask
    return scores.softmax(axis) @ v


def _softmax(call: Call) -> Iterator[Variant]:
    shape, dim = (call["input"].shape, call["dim"]) if isinstance(call["input"], Array) else ((), None)
    if dim is None or not shape:
        return
    own = dim % len(shape)
    line = f"jax.nn.{'softmax' if call.name == 'softmin' else call.name}(x, axis={dim})"
    for axis in range(len(shape)):
        if axis != own:
            yield differs(
                f"{call.name} axis {axis}", f"takes the softmax over axis {axis}", f"over axis {own}", lambda a, axis=axis: a.again(dim=axis), "axis",
                change=f"dim={axis} in torch", write=line,
            )  # fmt: skip
    yield differs(
        f"{call.name} of all", "takes the softmax over all elements", f"over axis {own}",
        lambda a: getattr(a["input"].reshape(-1), "log_softmax" if call.name == "log_softmax" else "softmax")(0).reshape(shape),
        "axis", write=line, rank=1,
    )  # fmt: skip
    yield differs(
        f"{call.name} temperature", "divides the logits by {c} first", "does not", lambda a, c: a.again(input=a["input"] / c), "scale",
        change="the division in torch", write="the logits as they are", start=1.0, rank=1, meaning="scale",
    )  # fmt: skip
    if call.name == "log_softmax":
        yield differs(
            "log_softmax as softmax", "takes the softmax", "its logarithm", lambda a: a["input"].softmax(own), "softmax", write=line
        )
    else:
        yield differs(
            f"{call.name} as log_softmax",
            "takes the logarithm of the softmax",
            "the softmax",
            lambda a: a["input"].log_softmax(own),
            "softmax",
            write=line,
        )
        yield differs(
            f"{call.name} as sigmoid",
            "takes a sigmoid of each element",
            "the softmax",
            lambda a: a["input"].sigmoid(),
            "softmax",
            write=line,
            rank=1,
        )


def _masked_fill(call: Call) -> Iterator[Variant]:
    value = call["value"]
    yield differs(
        "masked_fill inverted", "fills where the mask is False", "where it is True", lambda a: a.again(mask=~a["mask"].bool()), "mask",
        change="~mask in torch", write="jnp.where(mask, value, x)",
    )  # fmt: skip
    if isinstance(value, (int, float)):
        now = float(value)
        if math.isinf(now) or abs(now) > 1e3:
            yield differs(
                "masked_fill finite", "fills with a large finite number", f"with {now:g}", lambda a: a.again(value=math.copysign(1e30, now)), "mask",
                change="finfo.min in torch", write=f"jnp.where(mask, {'-jnp.inf' if now == -math.inf else f'{now:g}'}, x)",
            )  # fmt: skip
            yield differs(
                "masked_fill infinite", "fills with -inf", f"with {now:g}", lambda a: a.again(value=math.copysign(math.inf, now)), "mask",
                change="-inf in torch", write=f"jnp.where(mask, {now:g}, x)",
            )  # fmt: skip
        start = now if math.isfinite(now) and abs(now) < 1e3 else math.copysign(2.0, now)
        yield differs(
            "masked_fill value", "fills with {c}", f"with {now:g}", lambda a, c: a.again(value=c), "mask", change="{c} in torch",
            write=f"jnp.where(mask, {now:g}, x)", start=start, rank=1,
        )  # fmt: skip
    yield differs(
        "masked_fill left out",
        "does not mask",
        "does",
        lambda a: a["input"] * 1,
        "mask",
        change="no mask in torch",
        write="jnp.where(mask, value, x)",
    )
    yield from _transposed_mask(call, "mask")


def _transposed_mask(call: Call, argument: str) -> Iterator[Variant]:
    mask, shape = call[argument], call.out.shape if call.out is not None else ()
    if isinstance(mask, Array) and len(mask.shape) >= 2 and len(shape) >= 2 and shape[-1] == shape[-2] > 1 and mask.shape[-2:] != (1, 1):
        yield differs(
            f"{call.name} transposed", "has the mask's rows and columns swapped", "has not", lambda a: a.again(**{argument: a[argument].mT}), "mask",
            change="the transposed mask in torch", write="the mask as torch has it",
        )  # fmt: skip


def _where(call: Call) -> Iterator[Variant]:
    if call["other"] is None:
        return
    yield differs(
        "where swapped", "has the two branches swapped", "has not", lambda a: a.again(condition=~a["condition"]), "mask",
        change="~condition in torch",
        write="jnp.where(condition, x, y)",
    )  # fmt: skip
    yield from _transposed_mask(call, "condition")


def _triangle(call: Call) -> Iterator[Variant]:
    now = call["diagonal"] or 0
    for other in (now - 1, now + 1):
        yield differs(
            f"{call.name} diagonal {other}", f"begins at diagonal {other}", f"at {now}", lambda a, other=other: a.again(diagonal=other), "mask",
            change=f"diagonal={other} in torch", write=f"jnp.{call.name}(x, k={now})",
        )  # fmt: skip
    opposite = "triu" if call.name == "tril" else "tril"
    yield differs(
        f"{call.name} as {opposite}", f"keeps the {'upper' if opposite == 'triu' else 'lower'} triangle",
        f"the {'lower' if opposite == 'triu' else 'upper'}",
        lambda a: getattr(a["input"], opposite)(now), "mask", change=f"{opposite} in torch", write=f"jnp.{call.name}(x, k={now})",
    )  # fmt: skip
