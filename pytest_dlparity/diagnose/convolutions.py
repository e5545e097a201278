"""Convolutions and padding: where the zeros stand, which way the kernel lies, which channels meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs, without

CONVOLUTIONS = {f"conv{n}d": n for n in (1, 2, 3)}
MOVED = 8  # zeros of an axis that are moved from one end to the other, one by one
TRANSPOSED = {f"conv_transpose{n}d": n for n in (1, 2, 3)}


def each(value: Any, n: int) -> tuple[int, ...]:
    """
    >>> each(2, 3), each((1, 2), 2), each([3], 2)
    ((2, 2, 2), (1, 2), (3, 3))
    """
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * (n if len(value) == 1 else 1)


def same(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """What "SAME" puts before and after an axis: the odd zero goes after.

    >>> same(12, 7, 2), same(8, 3, 1), same(4, 1, 2)
    ((2, 3), (1, 1), (0, 0))
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def padding(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Pads of each axis in order, as torch's `pad` takes them: the last axis first."""
    return [number for pair in reversed(pads) for number in pair]


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this convolution or padding could be made otherwise."""
    if call.name in CONVOLUTIONS:
        yield from _convolution(call, CONVOLUTIONS[call.name])
    elif call.name in TRANSPOSED:
        yield from _transposed(call, TRANSPOSED[call.name])
    elif call.name == "pad":
        yield from _pad(call)


def _convolution(call: Call, n: int) -> Iterator[Variant]:
    sizes, kernel = call["input"].shape[-n:], call["weight"].shape[2:]
    stride, dilation = each(call["stride"], n), each(call["dilation"], n)
    if isinstance(call["padding"], str):
        own = [same(*part) for part in zip(sizes, kernel, stride, dilation, strict=True)] if call["padding"] == "same" else [(0, 0)] * n
    else:
        own = [(p, p) for p in each(call["padding"], n)]
    line = f"padding={tuple(own)}"
    read = {
        tuple(_read(pads, sizes, kernel, stride, dilation)): (words, pads)
        for words, pads in reversed([*_paddings(own, sizes, kernel, stride, dilation)])
    }
    for places, (words, pads) in reversed(read.items()):
        if places != tuple(_read(own, sizes, kernel, stride, dilation)):
            yield differs(
                f"{call.name} {words}", f"pads {_shown(pads)} ({words})", f"pads {_shown(own)}", lambda a, pads=pads: _padded(a, pads), "padding",
                write=line, meaning=f"padding {words}",
            )  # fmt: skip
    axes = tuple(range(2, 2 + n))
    if any(k > 1 for k in kernel):
        yield differs(
            f"{call.name} flipped kernel", "flips the kernel (a true convolution)", "does not (a correlation)",
            lambda a: a.again(weight=a["weight"].flip(axes)),
            "kernel", write="jax.lax.conv_general_dilated, which does not flip",
        )  # fmt: skip
        for mode in ("circular", "reflect", "replicate"):
            if any(p != (0, 0) for p in own):
                yield differs(
                    f"{call.name} {mode}", f"pads in mode {mode}", "pads with zeros", lambda a, mode=mode: _padded(a, own, mode), "padding",
                    write=line,
                    rank=1,
                )  # fmt: skip
    if n == 2 and kernel[0] == kernel[1] and kernel[0] > 1:
        yield differs(
            f"{call.name} height and width swapped", "has height and width of the kernel swapped", "has height first",
            lambda a: a.again(weight=a["weight"].transpose(2, 3)), "layout", write="jnp.transpose(weight, (2, 3, 1, 0))",
        )  # fmt: skip
    if call["weight"].shape[0] == call["weight"].shape[1] and call["weight"].shape[0] > 1:
        yield differs(
            f"{call.name} channels swapped", "has input and output channels of the kernel swapped", "has output channels first",
            lambda a: a.again(weight=a["weight"].transpose(0, 1)), "layout", write="jnp.transpose(weight, (2, 3, 1, 0))",
        )  # fmt: skip
    if call["bias"] is not None:
        yield differs(
            f"{call.name} without bias", "leaves out the bias", "has one", lambda a: a.again(bias=None), "missing", change="bias=None in torch",
            write="use_bias=True", meaning=without(call["bias"]),
        )  # fmt: skip
    if any(d > 1 for d in dilation):
        yield differs(
            f"{call.name} undilated", "does not dilate the kernel", f"dilates it by {call['dilation']}",
            lambda a: _dilated(a, own, kernel, dilation, 1), "dilation", change="dilation=1 in torch", write=f"kernel_dilation={dilation}",
        )  # fmt: skip
    if any(k > 1 for k in kernel):
        yield differs(
            f"{call.name} dilated by 2", "dilates the kernel by 2", f"by {call['dilation']}", lambda a: _dilated(a, own, kernel, dilation, 2),
            "dilation", change="dilation=2 in torch", write=f"kernel_dilation={dilation}",
        )  # fmt: skip
    yield from _groups(call, n)


def _read(
    pads: Sequence[tuple[int, int]], sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(where the first window begins, how many there are) on each axis: pads that no window reads make no difference."""
    for (before, after), size, k, s, d in zip(pads, sizes, kernel, stride, dilation, strict=True):
        yield before, (before + size + after - (k - 1) * d - 1) // s


def _shown(pads: Sequence[tuple[int, int]]) -> str:
    """
    >>> _shown([(1, 1), (1, 1)]), _shown([(0, 1), (2, 2)])
    ('(1, 1) on each axis', '(0, 1) and (2, 2)')
    """
    if len(set(pads)) == 1:
        return f"{tuple(pads[0])} on each axis" if len(pads) > 1 else f"{tuple(pads[0])}"
    return " and ".join(str(tuple(pair)) for pair in pads)


def _paddings(
    own: list[tuple[int, int]], sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    yield '"SAME"', [same(*part) for part in zip(sizes, kernel, stride, dilation, strict=True)]
    yield '"VALID"', [(0, 0)] * len(own)
    yield "symmetric, half of the kernel", [(r // 2, r // 2) for r in reach]
    yield "causal, all before", [(r, 0) for r in reach]
    yield "all after", [(0, r) for r in reach]
    yield (
        '"SAME" with the odd zero before',
        [(b, a) for a, b in (same(*part) for part in zip(sizes, kernel, stride, dilation, strict=True))],
    )
    yield "the whole kernel on both ends", [(r, r) for r in reach]
    for shift in sorted({s - 1 for s in stride if s > 1}):
        yield f"{shift} less before and more after", [(max(before - shift, 0), after + shift) for before, after in own]
    for axis, (before, after) in enumerate(own):  # one axis alone, the same number of zeros elsewhere
        for moved in range(-before, after + 1) if before + after <= MOVED else ():
            yield f"moved by {moved} on one axis", [*own[:axis], (before + moved, after - moved), *own[axis + 1 :]]


def _padded(a: Any, pads: Sequence[tuple[int, int]], mode: str = "constant") -> Any:
    x = a["input"]
    return a.again(input=a.torch.nn.functional.pad(x, padding(pads), mode), padding=0)


def _dilated(a: Any, own: Sequence[tuple[int, int]], kernel: Sequence[int], dilation: Sequence[int], other: int) -> Any:
    """With another dilation, and as many zeros more or less as keep the result's size."""
    more = [(k - 1) * (other - d) for k, d in zip(kernel, dilation, strict=True)]
    pads = [(before + m // 2, after + m - m // 2) for (before, after), m in zip(own, more, strict=True)]
    return a.again(input=a.torch.nn.functional.pad(a["input"], padding(pads)), padding=0, dilation=other)


def _groups(call: Call, n: int) -> Iterator[Variant]:
    groups, out = call["groups"] or 1, call["weight"].shape[0]
    if groups < 2:
        return
    per = out // groups
    if per > 1:
        order = [g * per + i for i in range(per) for g in range(groups)]
        yield differs(
            f"{call.name} groups interleaved", "takes the groups' output channels in turn", "one group after the other",
            lambda a: a.again(bias=None)[:, order] + (0 if a["bias"] is None else a["bias"].reshape(1, -1, *[1] * n)), "groups",
            write=f"feature_group_count={groups}",
        )  # fmt: skip
    channels = call["input"].shape[1]
    inside = channels // groups
    if inside > 1:
        mixed = [i * groups + g for g in range(groups) for i in range(inside)]
        yield differs(
            f"{call.name} strided groups", "puts every so many-th input channel into a group", "neighbours",
            lambda a: a.again(input=a["input"][:, mixed]),
            "groups", write=f"feature_group_count={groups}",
        )  # fmt: skip


def _transposed(call: Call, n: int) -> Iterator[Variant]:
    kernel, stride = call["weight"].shape[2:], each(call["stride"], n)
    pads, extra, dilation = each(call["padding"], n), each(call["output_padding"], n), each(call["dilation"], n)
    sizes = call["input"].shape[-n:]
    out = [
        (s - 1) * st - 2 * p + d * (k - 1) + e + 1 for s, st, p, d, k, e in zip(sizes, stride, pads, dilation, kernel, extra, strict=True)
    ]
    line = f"padding={tuple((d * (k - 1) - p, d * (k - 1) - p + e) for k, p, e, d in zip(kernel, pads, extra, dilation, strict=True))}"
    whole = [(s - 1) * st + d * (k - 1) + 1 for s, st, d, k in zip(sizes, stride, dilation, kernel, strict=True)]
    targets = {
        "": out,
        ' ("SAME")': [s * st for s, st in zip(sizes, stride, strict=True)],
        ' ("VALID")': [max(w, s * st) for w, s, st in zip(whole, sizes, stride, strict=True)],
    }
    for words, wanted in targets.items():
        for shift in range(max(kernel) * max(dilation)):
            starts = [min(shift, d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
            if starts == list(pads) and wanted == out:
                continue
            yield differs(
                f"{call.name} starting at {shift}{words}", f"begins at place {shift} of the full transposed convolution{words}",
                f"at place {pads[0]}", lambda a, starts=starts, wanted=wanted: _cropped(a, starts, wanted, n), "padding",
                write=line, rank=0 if not words or "SAME" in words else 1, meaning=f"transposed from {shift}",
            )  # fmt: skip
    axes = tuple(range(2, 2 + n))
    yield differs(
        f"{call.name} flipped kernel", "has the kernel the other way round", "flips it", lambda a: a.again(weight=a["weight"].flip(axes)), "kernel",
        write="transpose_kernel=True", change="a flipped kernel in torch",
    )  # fmt: skip
    if call["weight"].shape[0] == call["weight"].shape[1] and call["weight"].shape[0] > 1:
        for flipped in (False, True):
            yield differs(
                f"{call.name} channels swapped{' and flipped' if flipped else ''}",
                f"has input and output channels of the kernel swapped{' and the kernel the other way round' if flipped else ''}",
                "has input channels first",
                lambda a, flipped=flipped: a.again(weight=(a["weight"].flip(axes) if flipped else a["weight"]).transpose(0, 1)), "layout",
                write="jnp.transpose(weight, (2, 3, 1, 0)) with transpose_kernel=True",
            )  # fmt: skip
    if call["bias"] is not None:
        yield differs(
            f"{call.name} without bias", "leaves out the bias", "has one", lambda a: a.again(bias=None), "missing", change="bias=None in torch",
            write="use_bias=True", meaning=without(call["bias"]),
        )  # fmt: skip


def _cropped(a: Any, starts: Sequence[int], sizes: Sequence[int], n: int) -> Any:
    """The full transposed convolution, from `starts` on, cut or filled with zeros to `sizes`."""
    full = a.again(padding=0, output_padding=0, bias=None)
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True), full.dim() - n):
        full = full.narrow(axis, start, min(size, full.shape[axis] - start))
    pads = [(0, size - have) for size, have in zip(sizes, full.shape[-n:], strict=True)]
    full = a.torch.nn.functional.pad(full, padding(pads))
    return full if a["bias"] is None else full + a["bias"].reshape(-1, *[1] * n)


def _pad(call: Call) -> Iterator[Variant]:
    pads, mode = list(call["pad"]), call["mode"] or "constant"
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    line = f"jnp.pad(x, {(*((0, 0),) * (len(_shape(call)) - len(pairs)), *reversed(pairs))})"
    mirrored = [n for before, after in pairs for n in (after, before)]
    swapped = [n for pair in reversed(pairs) for n in pair]
    for words, other in (("before and after swapped", mirrored), ("the axes in the other order", swapped), ("no padding", [0] * len(pads))):
        if other != pads:
            yield differs(
                f"pad {words}", f"pads with {words}" if words != "no padding" else "does not pad", f"pads {pads}",
                lambda a, other=other: a.again(pad=other),
                "padding", change=f"pad={other} in torch", write=line,
            )  # fmt: skip
    for place, (before, after) in enumerate(pairs):
        for moved in (m for m in range(-before, after + 1) if m) if before >= 0 <= after and before + after <= MOVED else ():
            other = [n for i, pair in enumerate(pairs) for n in ((before + moved, after - moved) if i == place else pair)]
            if other != mirrored:
                yield differs(
                    f"pad {other}", f"pads {other}", f"pads {pads}", lambda a, other=other: a.again(pad=other), "padding",
                    change=f"pad={other} in torch", write=line, rank=1,
                )  # fmt: skip
    if any(before != after for before, after in pairs):
        even = [n for before, after in pairs for n in ((before + after) // 2, before + after - (before + after) // 2)]
        if even not in (pads, mirrored):
            yield differs(
                "pad on both ends",
                "pads both ends alike",
                f"pads {pads}",
                lambda a: a.again(pad=even),
                "padding",
                change=f"pad={even} in torch",
                write=line,
            )
    for other_mode in ("constant", "reflect", "replicate", "circular"):
        if other_mode != mode:
            yield differs(
                f"pad {other_mode}", f"pads in mode {other_mode}", f"in mode {mode}",
                lambda a, other_mode=other_mode: a.again(mode=other_mode), "padding",
                change=f"mode={other_mode!r} in torch", write=line,
            )  # fmt: skip
    if mode == "constant":
        now = float(call["value"] or 0.0)
        yield differs(
            "pad value", "pads with {c}", f"pads with {now:g}", lambda a, c: a.again(value=c), "padding", change="value={c} in torch",
            write=line, start=now,
            rank=1,
        )  # fmt: skip


def _shape(call: Call) -> tuple[int, ...]:
    return call["input"].shape if isinstance(call["input"], Array) else ()
