"""Pools: what the padding holds and counts, where windows begin, which windows there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pytest_dlparity.calls import Call
from pytest_dlparity.diagnose.convolutions import each, padding, same
from pytest_dlparity.diagnose.variant import Variant, differs

POOLS = {f"{kind}_pool{n}d": (kind, n) for kind in ("avg", "max") for n in (1, 2, 3)}
ADAPTIVE = {f"adaptive_{kind}_pool{n}d": (kind, n) for kind in ("avg", "max") for n in (1, 2, 3)}


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this pool could be made otherwise."""
    name = call.name.removesuffix("_with_indices")
    if name in POOLS:
        yield from _pool(call, *POOLS[name])
    elif name in ADAPTIVE:
        yield from _adaptive(call, *ADAPTIVE[name])


def _pool(call: Call, kind: str, n: int) -> Iterator[Variant]:
    sizes = call["input"].shape[-n:]
    kernel = each(call["kernel_size"], n)
    stride = each(call["stride"], n) if call["stride"] not in (None, [], ()) else kernel
    own = each(call["padding"] or 0, n)
    average = kind == "avg"
    full = [same(*part) for part in zip(sizes, kernel, stride, strict=True)]
    line = f"padding={tuple((p, p) for p in own)}"
    counted = bool(call["count_include_pad"])
    if [(p, p) for p in own] != full:
        for words, counts in ((", zeros counted", True), (", zeros not counted", False)) if average else (("", False),):
            yield differs(
                f'{call.name} "SAME"{words}', f'pads {full[0]} on each axis ("SAME"){words}', f"pads {(own[0], own[0])}",
                lambda a, counts=counts: _padded(a, full, kernel, stride, average, counts, n), "padding", write=line, meaning='padding "SAME"',
            )  # fmt: skip
    if average and any(own):
        yield differs(
            f"{call.name} count_include_pad", f"{'leaves the padding out of' if counted else 'counts the padding in'} the average",
            "counts it in" if counted else "leaves it out", lambda a: a.again(count_include_pad=not counted), "padding",
            change=f"count_include_pad={not counted} in torch", write=f"count_include_pad={counted}",
        )  # fmt: skip
    if not average and any(own):
        yield differs(
            f"{call.name} zeros", "pads with zeros", "pads with -inf", lambda a: _zeros(a, own, kernel, stride, n), "padding",
            write=f"-jnp.inf in the padding: nn.max_pool(..., padding={tuple((p, p) for p in own)})",
        )  # fmt: skip
    if any(own):
        yield differs(
            f"{call.name} unpadded",
            "does not pad",
            f"pads {(own[0], own[0])}",
            lambda a: a.again(padding=0),
            "padding",
            change="padding=0 in torch",
            write=line,
        )
    yield differs(
        f"{call.name} ceil_mode", f"{'leaves out' if call['ceil_mode'] else 'has'} a last window that is not full",
        "does not" if call["ceil_mode"] is False else "has it",
        lambda a: a.again(ceil_mode=not call["ceil_mode"]), "window", change=f"ceil_mode={not call['ceil_mode']} in torch", write=line,
    )  # fmt: skip
    if average:
        area = math.prod(kernel)
        yield differs(
            f"{call.name} sum", f"sums each window instead of dividing by {area}", "takes the average", lambda a: a.again() * area, "reduction",
            write="the sum divided by the number of elements",
        )  # fmt: skip
    other = "max" if average else "avg"
    yield differs(
        f"{call.name} as {other}", f"takes the {'largest' if average else 'average'} of each window", f"the {'average' if average else 'largest'}",
        lambda a: getattr(a.torch.nn.functional, f"{other}_pool{n}d")(a["input"], kernel, stride, own), "reduction", write=f"nn.{kind}_pool",
    )  # fmt: skip
    if stride != kernel:
        yield differs(
            f"{call.name} stride", f"has the stride {kernel}", f"{stride}", lambda a: a.again(stride=kernel), "window",
            change=f"stride={kernel} in torch",
            write=f"strides={stride}",
        )  # fmt: skip
    yield differs(
        f"{call.name} stride 1",
        "has stride 1",
        f"{stride}",
        lambda a: a.again(stride=1),
        "window",
        change="stride=1 in torch",
        write=f"strides={stride}",
    )


def _padded(a: Any, pads: list[tuple[int, int]], kernel: Any, stride: Any, average: bool, counted: bool, n: int) -> Any:
    functional = a.torch.nn.functional
    if not average:
        return functional.__dict__[f"max_pool{n}d"](functional.pad(a["input"], padding(pads), value=-math.inf), kernel, stride)
    pool = getattr(functional, f"avg_pool{n}d")
    total = pool(functional.pad(a["input"], padding(pads)), kernel, stride)
    if counted:
        return total
    return total / pool(functional.pad(a.torch.ones_like(a["input"]), padding(pads)), kernel, stride)


def _zeros(a: Any, own: tuple[int, ...], kernel: Any, stride: Any, n: int) -> Any:
    functional = a.torch.nn.functional
    padded = functional.pad(a["input"], padding([(p, p) for p in own]))
    return getattr(functional, f"max_pool{n}d")(padded, kernel, stride, 0, a["dilation"] or 1, bool(a["ceil_mode"]))


def _adaptive(call: Call, kind: str, n: int) -> Iterator[Variant]:
    sizes, out = call["input"].shape[-n:], call["output_size"]
    wanted = each(out, n) if out is not None and None not in (out if isinstance(out, (list, tuple)) else [out]) else sizes
    strides = tuple(s // w for s, w in zip(sizes, wanted, strict=True))
    kernels = tuple(s - (w - 1) * st for s, w, st in zip(sizes, wanted, strides, strict=True))
    if any(s % w for s, w in zip(sizes, wanted, strict=True)):
        yield differs(
            f"{call.name} equal windows", f"has windows of {kernels} every {strides}",
            "has windows that differ in size, floor(i n/m) to ceil((i+1) n/m)",
            lambda a: getattr(a.torch.nn.functional, f"{kind}_pool{n}d")(a["input"], kernels, strides), "window", write="adaptive windows",
        )  # fmt: skip
    other = "max" if kind == "avg" else "avg"
    yield differs(
        f"{call.name} as {other}", f"takes the {'largest' if kind == 'avg' else 'average'} of each window",
        f"the {'average' if kind == 'avg' else 'largest'}",
        lambda a: getattr(a.torch.nn.functional, f"adaptive_{other}_pool{n}d")(a["input"], a["output_size"]), "reduction",
        write="jnp.mean" if kind == "avg" else "jnp.max",
    )  # fmt: skip
