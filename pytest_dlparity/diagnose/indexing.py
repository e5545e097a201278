"""Indices and whole numbers: which row an index means, which of equal values comes first, which way a quotient is rounded, what overflows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs

ROUNDED = {"round", "floor", "ceil", "trunc", "fix"}


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this indexing, ordering or whole-number arithmetic could be made otherwise."""
    match call.name:
        case "__getitem__" | "index_select" | "gather" | "embedding":
            yield from _index(call)
            yield from _slices(call)
        case "sort" | "argsort" | "topk" | "argmax" | "argmin":
            yield from _order(call)
        case "mul" | "__mul__" | "__rmul__" | "add" | "__add__" | "sub":
            yield from _overflow(call)
        case "cumsum" | "cumprod" | "logcumsumexp":
            yield from _cumulated(call)
        case "flip" | "roll":
            yield from _moved(call)
        case "floor_divide" | "__floordiv__" | "remainder" | "__mod__" | "fmod" | "div":
            yield from _quotient(call)
        case "one_hot":
            yield from _one_hot(call)
        case "arange":
            yield from _range(call)
        case name if name in ROUNDED:
            yield from _rounded(call)
        case _:
            pass
    if call.name == "embedding":
        yield from _embedding(call)


def _indices(call: Call) -> tuple[str, Any] | None:
    """(argument, the index array) of an index that is one array of whole numbers."""
    name = "input" if call.name == "embedding" else "index"
    value = call[name]
    if isinstance(value, (tuple, list)):
        whole = [part for part in value if isinstance(part, Array) and part.dtype.startswith("int")]
        return (name, value) if len(whole) == 1 else None
    return (name, value) if isinstance(value, Array) and value.dtype.startswith("int") else None


def _index(call: Call) -> Iterator[Variant]:
    found = _indices(call)
    if found is None:
        return
    argument, _ = found
    table = "weight" if call.name == "embedding" else "input"

    def moved(a: Any, function: Any) -> Any:
        axis = a["dim"] if isinstance(a["dim"], int) else 0
        value = a[argument]
        if isinstance(value, (tuple, list)):
            place = next(i for i, part in enumerate(value) if isinstance(part, a.torch.Tensor) and not part.is_floating_point())
            rows = a[table].shape[place]
            return a.again(**{argument: tuple(function(part, rows) if i == place else part for i, part in enumerate(value))})
        return a.again(**{argument: function(value, a[table].shape[axis])})

    line = "x[i]: negative indices count from the end"
    for words, function in (
        ("clips an index that is out of range, negative ones too", lambda i, n: i.clamp(0, n - 1)),
        ("takes an index modulo the number of rows", lambda i, n: i % n),
        ("counts from 1", lambda i, n: (i - 1).clamp(0, n - 1)),
        ("takes the next row", lambda i, n: (i + 1).clamp(max=n - 1)),
        ("takes the next row, after the last the first", lambda i, n: (i + 1) % n),
        ("takes the row before, before the first the last", lambda i, n: (i - 1) % n),
        ("takes rows in reverse", lambda i, n: n - 1 - i % n),
    ):
        yield differs(
            f"{call.name} {words}", words, "does not", lambda a, f=function: moved(a, f), "index", change="such indices in torch", write=line,
            rank=0 if "clip" in words or "modulo" in words else 2 if ", " in words else 1,
        )  # fmt: skip
    if call.name in ("__getitem__", "gather", "index_select"):
        yield differs(
            f"{call.name} filled", "gives NaN for an index that is out of range, negative ones too", "does not", lambda a: _filled(a,
            argument, table), "index",
            write='jnp.take(x, i, axis=0, mode="wrap")',
        )  # fmt: skip


def _slices(call: Call) -> Iterator[Variant]:
    """A slice that begins one later or earlier, or at another of the steps."""
    index = call["index"] if isinstance(call["index"], tuple) else (call["index"],)
    if call.name != "__getitem__" or not any(isinstance(part, slice) for part in index):
        return
    for place, part in enumerate(index):
        for other in _shifted(part) if isinstance(part, slice) else ():
            whole = (*index[:place], other, *index[place + 1 :])
            yield differs(
                f"__getitem__ {place} {_slice(part)} as {_slice(other)}", f"takes {_slice(other)} of axis {place}", f"takes {_slice(part)}",
                lambda a, whole=whole: a["input"][whole], "index", change=f"{_slice(other)} in torch", write=f"x[{_slice(part)}] on that axis", rank=1,
                meaning=f"slice {_slice(other)}",
            )  # fmt: skip


def _shifted(part: slice) -> Iterator[slice]:
    start, stop, step = part.start, part.stop, part.step
    if step is not None and step > 1:
        yield from (slice(first, stop, step) for first in range(step) if first != (start or 0))
    elif start in (None, 0) and stop is not None and stop < 0:
        yield slice(-stop, None, step)
    elif stop is None and isinstance(start, int) and start > 0:
        yield slice(None, -start, step)
    elif isinstance(stop, int) and stop > 0:
        yield slice((start or 0) + 1, stop + 1, step)
        if start:
            yield slice(start - 1, stop - 1, step)


def _slice(part: slice) -> str:
    """
    >>> _slice(slice(None, -1)), _slice(slice(1, None, 2)), _slice(slice(0, 3))
    (':-1', '1::2', '0:3')
    """
    texts = ["" if value is None else str(value) for value in (part.start, part.stop)]
    return ":".join(texts) + (f":{part.step}" if part.step is not None else "")


def _filled(a: Any, argument: str, table: str) -> Any:
    value = a[argument]
    rows = a[table].shape[0]
    outside = (value < 0) | (value >= rows)
    result = a.again(**{argument: value.clamp(0, rows - 1)})
    return a.torch.where(outside.reshape(*outside.shape, *[1] * (result.dim() - outside.dim())), float("nan"), result)


def _embedding(call: Call) -> Iterator[Variant]:
    if call["padding_idx"] is not None and call["padding_idx"] != -1:
        row = call["padding_idx"]
        yield differs(
            "embedding padding_idx", f"gives row {row} a gradient as it does every other", f"has padding_idx={row}, whose row gets none",
            lambda a: a.again(padding_idx=None), "gradient", change="padding_idx=None in torch",
            write=f"jnp.where(i[..., None] == {row}, jax.lax.stop_gradient(table[{row}]), table[i])",
        )  # fmt: skip
        yield differs(
            "embedding padding zero", f"gives zeros for index {row}", "gives the row", lambda a: _zeroed(a, row), "index", write="table[i]",
        )  # fmt: skip
    features = call["weight"].shape[-1]
    yield differs(
        "embedding scaled", "multiplies the embedding by {c}", "does not", lambda a, c: a.again() * c, "scale", change="the factor in torch",
        write="the embedding as it is", start=1.0, rank=1, meaning="factor", sizes=(features,),
    )  # fmt: skip
    if call["max_norm"] is not None:
        yield differs(
            "embedding max_norm", "does not bound the norms of rows", f"has max_norm={call['max_norm']:g}",
            lambda a: a.again(max_norm=None), "clipping",
            change="max_norm=None in torch", write="rows clipped to max_norm",
        )  # fmt: skip


def _zeroed(a: Any, row: int) -> Any:
    return a.again() * (a["input"] != row).unsqueeze(-1)


def _order(call: Call) -> Iterator[Variant]:
    name, descending = call.name, bool(call["descending"]) or call.name in ("topk", "argmax")
    if name in ("topk",) and call["largest"] is False:
        descending = False
    line = {"topk": "jax.lax.top_k(x, k)", "argmax": "jnp.argmax(x, axis)", "argmin": "jnp.argmin(x, axis)"}.get(
        name, f"jnp.argsort(x, stable=True, descending={descending})"
    )

    def last(a: Any) -> Any:
        """The same order, in which equal values come in reverse."""
        axis = a["dim"] if a["dim"] is not None else -1
        size = a["input"].shape[axis]
        turned = a.again(input=a["input"].flip(axis), **({"stable": True} if name in ("sort", "argsort") else {}))
        if name in ("sort", "topk"):
            return type(turned)((turned[0], size - 1 - turned[1])) if type(turned) is not tuple else (turned[0], size - 1 - turned[1])
        return size - 1 - turned

    if call["dim"] is not None or name in ("sort", "argsort", "topk"):
        yield differs(
            f"{name} ties",
            "takes the last of equal values first",
            "the first",
            last,
            "ties",
            change="the last of equal values first in torch",
            write=line,
        )
        yield differs(
            f"{name} first of ties", "takes the first of equal values", "another of them", lambda a: _stable(a, name, descending), "ties",
            change="a stable order in torch", write=line,
        )  # fmt: skip
    if name in ("sort", "argsort"):
        yield differs(
            f"{name} direction", f"sorts {'upwards' if descending else 'downwards'}", f"sorts {'downwards' if descending else 'upwards'}",
            lambda a: a.again(descending=not descending), "order", change=f"descending={not descending} in torch", write=line,
        )  # fmt: skip
    elif name == "topk":
        yield differs(
            "topk smallest", f"takes the {'smallest' if descending else 'largest'}", f"the {'largest' if descending else 'smallest'}",
            lambda a: a.again(largest=not descending), "order", change=f"largest={not descending} in torch", write=line,
        )  # fmt: skip
        yield differs(
            "topk ascending", "gives the largest last", "first", lambda a: type(r := a.again())((r[0].flip(-1), r[1].flip(-1))), "order",
            change="the reverse in torch", write=line,
        )  # fmt: skip


def _stable(a: Any, name: str, descending: bool) -> Any:
    axis = a["dim"] if a["dim"] is not None else -1
    values, places = a.torch.sort(a["input"], dim=axis, descending=descending, stable=True)
    if name == "topk":
        kind = a.torch.return_types.topk
        return kind((values.narrow(axis, 0, a["k"]), places.narrow(axis, 0, a["k"])))
    if name == "sort":
        return a.torch.return_types.sort((values, places))
    if name == "argsort":
        return places
    first = places.narrow(axis, 0, 1)
    return first if a["keepdim"] else first.squeeze(axis)


def _overflow(call: Call) -> Iterator[Variant]:
    if call.out is not None and call.out.dtype == "int64":
        line = "the product in 64 bits (jax_enable_x64), or its factors reduced first"
        for bits in (32, 16, 8):
            yield differs(
                f"{call.name} in int{bits}", f"computes in {bits} bits, which overflow", "in 64", lambda a, bits=bits: _wrapped(a.again(),
                bits), "overflow",
                change=f"{bits} bits in torch", write=line,
            )  # fmt: skip
        yield differs(
            f"{call.name} in uint32", "computes in 32 bits without a sign, which overflow", "in 64", lambda a: a.again() % 2**32, "overflow",
            change="32 bits in torch", write=line,
        )  # fmt: skip


def _wrapped(value: Any, bits: int) -> Any:
    half = 2 ** (bits - 1)
    return (value + half) % (2 * half) - half


def _cumulated(call: Call) -> Iterator[Variant]:
    axis = call["dim"]
    line = f"jnp.{call.name}(x, axis={axis})"
    yield differs(
        f"{call.name} reversed", "accumulates from the end", "from the beginning", lambda a: a.again(input=a["input"].flip(axis)).flip(axis), "order",
        change="the reverse in torch", write=line,
    )  # fmt: skip
    if call.name == "cumsum":
        yield differs(
            "cumsum exclusive", "leaves each element out of its own sum", "has it in", lambda a: a.again() - a["input"], "index",
            change="exclusive sums in torch", write=line,
        )  # fmt: skip
    shape = call["input"].shape if isinstance(call["input"], Array) else ()
    for other in range(len(shape)):
        if isinstance(axis, int) and other != axis % len(shape):
            yield differs(
                f"{call.name} axis {other}", f"accumulates over axis {other}", f"over axis {axis % len(shape)}",
                lambda a, other=other: a.again(dim=other), "axis",
                change=f"dim={other} in torch", write=line,
            )  # fmt: skip


def _moved(call: Call) -> Iterator[Variant]:
    words = "flip" if call.name == "flip" else "roll"
    yield differs(
        f"{call.name} left out",
        f"does not {words}",
        "does",
        lambda a: a["input"] * 1,
        "order",
        change=f"no {words} in torch",
        write=f"jnp.{words}(x, ...)",
    )
    if call.name == "roll":
        shifts = call["shifts"]
        other = [-s for s in shifts] if isinstance(shifts, (list, tuple)) else -shifts
        yield differs(
            "roll direction", "rolls the other way", f"by {shifts}", lambda a: a.again(shifts=other), "order", change=f"shifts={other} in torch",
            write=f"jnp.roll(x, {shifts})",
        )  # fmt: skip
    elif isinstance(call["input"], Array):
        for axis in range(len(call["input"].shape)):
            yield differs(
                f"flip axis {axis}", f"flips axis {axis}", f"flips {call['dims']}", lambda a, axis=axis: a["input"].flip(axis), "order",
                change=f"flip({axis}) in torch", write=f"jnp.flip(x, {call['dims']})",
            )  # fmt: skip


def _quotient(call: Call) -> Iterator[Variant]:
    mode = call["rounding_mode"]
    if call.name in ("floor_divide", "__floordiv__") or (call.name == "div" and mode in ("floor", "trunc")):
        to = "trunc" if mode != "trunc" else "floor"
        yield differs(
            f"{call.name} rounding", f"rounds quotients {'towards zero' if to == 'trunc' else 'down'}",
            f"{'down' if to == 'trunc' else 'towards zero'}",
            lambda a: a.torch.div(a["input"], a["other"], rounding_mode=to), "rounding", change=f"rounding_mode={to!r} in torch",
            write="x // y, which rounds down" if to == "trunc" else "jnp.trunc(x / y)",
        )  # fmt: skip
    elif call.name in ("remainder", "__mod__", "fmod"):
        other = "fmod" if call.name != "fmod" else "remainder"
        yield differs(
            f"{call.name} sign", f"gives a remainder the sign of the {'dividend' if other == 'fmod' else 'divisor'}",
            f"of the {'divisor' if other == 'fmod' else 'dividend'}", lambda a: getattr(a.torch, other)(a["input"], a["other"]), "rounding",
            change=f"{other} in torch", write="jnp.remainder(x, y)" if other == "fmod" else "jnp.fmod(x, y)",
        )  # fmt: skip


def _rounded(call: Call) -> Iterator[Variant]:
    for other, words, function in (
        ("floor", "down", lambda x: x.floor()),
        ("ceil", "up", lambda x: x.ceil()),
        ("trunc", "towards zero", lambda x: x.trunc()),
        ("round", "to the nearest, halves to even", lambda x: x.round()),
        ("half up", "to the nearest, halves up", lambda x: (x + 0.5).floor()),
        ("half away", "to the nearest, halves away from zero", lambda x: x.sign() * (x.abs() + 0.5).floor()),
    ):
        if other != call.name:
            yield differs(
                f"{call.name} {other}", f"rounds {words}", "does not", lambda a, f=function: f(a["input"]), "rounding",
                change=f"rounding {words} in torch",
                write=f"jnp.{call.name}(x)",
            )  # fmt: skip


def _one_hot(call: Call) -> Iterator[Variant]:
    yield differs(
        "one_hot from 1", "counts classes from 1", "from 0", lambda a: a.torch.nn.functional.pad(a.again(), (0, 1))[..., 1:], "index",
        change="classes from 1 in torch", write=f"jax.nn.one_hot(i, {call['num_classes']})",
    )  # fmt: skip


def _range(call: Call) -> Iterator[Variant]:
    for shift in (1, -1):
        yield differs(
            f"arange {shift:+d}", f"begins {'one later' if shift > 0 else 'one earlier'}", "does not",
            lambda a, shift=shift: a.again() + shift, "index",
            change=f"arange(...) {'+' if shift > 0 else '-'} 1 in torch", write="jnp.arange(n), from the same number",
        )  # fmt: skip
    yield differs(
        "arange reversed", "counts down", "counts up", lambda a: a.again().flip(0), "order", change="the reverse in torch", write="jnp.arange(n)",
    )  # fmt: skip
