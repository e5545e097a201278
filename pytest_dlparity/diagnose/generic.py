"""Changes that any call can have: a constant, a factor, arguments swapped, a term left out, an axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs, without

ARITHMETIC = frozenset(
    "add sub mul div true_divide pow __add__ __sub__ __mul__ __truediv__ __radd__ __rsub__ __rmul__ __rdiv__ __rpow__ __pow__ rsub add_ sub_ mul_ div_ "
    "addcmul addcdiv addcmul_ addcdiv_ lerp lerp_ clamp clamp_ clamp_min clamp_max addmm baddbmm maximum minimum".split()
)
REDUCTIONS = {"mean": "sum", "sum": "mean", "nanmean": "nansum", "nansum": "nanmean"}
SPEECH = {
    "mul": "multiplies by", "__mul__": "multiplies by", "__rmul__": "multiplies by", "mul_": "multiplies by", "div": "divides by",
    "true_divide": "divides by",
    "__truediv__": "divides by", "div_": "divides by", "add": "adds", "__add__": "adds", "__radd__": "adds", "add_": "adds", "sub": "subtracts",
    "__sub__": "subtracts", "sub_": "subtracts", "__rsub__": "subtracts from", "rsub": "subtracts from", "pow": "raises to the power",
    "__rdiv__": "divides",
    "__pow__": "raises to the power",
}  # fmt: skip
CONSTANTS = frozenset({"dim", "dims", "dtype", "device", "keepdim", "size", "p", "k"})


def constants(call: Call) -> Iterator[Variant]:
    """Each number that the call was given, as an unknown."""
    for name, value in call.arguments.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, float) or (whole and call.name in ARITHMETIC)) or name in CONSTANTS or not math.isfinite(value):
            continue
        if call.out is not None and not call.out.floating:
            continue
        verb = SPEECH.get(call.name, "") if name == "other" else ""
        jax, torch = (f"{verb} {{c}}", f"{verb} {value:g}") if verb else (f"has {name.strip('#')}={{c}}", f"{name.strip('#')}={value:g}")
        yield differs(
            f"{call.name} {name} {value:g}", jax, torch, lambda a, c, name=name: a.again(**{name: c}), "constant", change="that number in torch",
            write=f"{value:g} there", start=float(value), rank=2, meaning="constant",
        )  # fmt: skip


def factors(call: Call) -> Iterator[Variant]:
    """What the call gave, times an unknown."""
    if call.out is None or not call.out.floating or call.name.endswith("_") or _is_movement(call):
        return
    yield differs(
        f"{call.name} factor", "has {c} times", "once", lambda a, c: a.again() * c, "factor", change="that factor in torch",
        write="the same without the factor",
        start=1.0, rank=3, meaning="factor",
    )._replace(fact=f"the jax side has {{c}} times what torch's {call.name}{{at}} gives")  # fmt: skip


def reductions(call: Call) -> Iterator[Variant]:
    """A mean for a sum, and over which axes."""
    array = call["input"]
    if call.name not in REDUCTIONS or not isinstance(array, Array) or not array.shape:
        return
    other, axes = REDUCTIONS[call.name], call["dim"]
    chosen = (
        [d % len(array.shape) for d in ((axes,) if isinstance(axes, int) else axes)]
        if axes not in (None, ()) and not isinstance(axes, bool)
        else []
    )
    count = math.prod(array.shape[d] for d in chosen) if chosen else math.prod(array.shape)
    to_mean = other.endswith("mean")
    over = f" over axis {', '.join(map(str, chosen))}" if chosen else ""
    yield differs(
        f"{call.name} as {other}", f"takes the {other}{over}", f"the {call.name} (n = {count})",
        lambda a: a.again() / count if to_mean else a.again() * count,
        "reduction", change=f"{other} in torch", write=f"jnp.{call.name}(x{f', axis={axes}' if chosen else ''})", meaning=f"reduction {other}",
    )  # fmt: skip
    for axis in range(len(array.shape)):
        size = array.shape[axis]
        if size > 1 and (not chosen or axis in chosen) and len(array.shape) > 1 and count != size:
            words = "sums over" if not to_mean else "takes the mean over"
            yield differs(
                f"{call.name} {other} over {axis}", f"{words} axis {axis} and the {call.name} of the rest", f"the {call.name} of all",
                lambda a, size=size: a.again() / size if to_mean else a.again() * size, "reduction", change=CHANGE,
                write=f"jnp.{call.name}(x)", rank=1,
                meaning=f"reduction of axis {axis}",
            )  # fmt: skip
        if len(chosen) == 1 and axis != chosen[0]:
            yield differs(
                f"{call.name} over {axis}", f"takes the {call.name} over axis {axis}", f"over axis {chosen[0]}",
                lambda a, axis=axis: a.again(dim=axis), "axis",
                change=f"dim={axis} in torch", write=f"jnp.{call.name}(x, axis={axes})",
            )  # fmt: skip


CHANGE = "the same in torch"


def _is_movement(call: Call) -> bool:
    return call.name in MOVEMENTS


MOVEMENTS = frozenset(
    "reshape view flatten unflatten permute transpose swapaxes movedim t T mT H mH squeeze unsqueeze expand expand_as contiguous clone detach "
    "chunk split unbind flip roll to double float type_as data real imag view_as_real view_as_complex __getitem__ repeat tile "
    "repeat_interleave cat stack zeros ones full arange zeros_like ones_like full_like empty "
    "empty_like tensor as_tensor eye linspace tril triu requires_grad_ detach_".split()
)


def unused(call: Call) -> Iterator[Variant]:
    """A parameter that the other side does not have: ones or zeros in its place."""
    for name, array in call.arguments.items():
        if isinstance(array, Array) and array.name and array.floating:
            for words, made in (("zeros", "zeros_like"), ("ones", "ones_like")):
                yield differs(
                    f"{call.name} {array.name} as {words}", "has", "has", lambda a, name=name, made=made: _filled(a, name, made), "missing",
                    change=f"{words} in torch", write=f"{array.name} itself", rank=1, meaning=without(array),
                )._replace(fact=f"the jax side has {words} in the place of {array.name}, which torch's {call.name}{{at}} takes")  # fmt: skip


def _filled(a: Any, argument: str, made: str) -> Any:
    return a.again(**{argument: getattr(a.torch, made)(a[argument])})


def structure(call: Call) -> Iterator[Variant]:
    """A call left out, its arguments swapped, its result turned round."""
    out = call.out
    if out is None or call.name.endswith("_") or not out.floating:
        return
    arrays = [(name, value) for name, value in call.arguments.items() if isinstance(value, Array) and value.floating]
    if not _is_movement(call):
        for name, value in arrays:
            if value.shape == out.shape:
                title = value.name or name
                yield _of(
                    call,
                    f"left out, {name} kept",
                    f"leaves out {call.name}{{at}} and keeps {title}",
                    lambda a, name=name: a[name] * 1,
                    "missing",
                    "that in torch",
                )
    for i, (one, first) in enumerate(arrays):
        for two, second in arrays[i + 1 :]:
            if first.shape == second.shape and call.name not in COMMUTES:
                yield _of(
                    call, f"{one} and {two} swapped", f"has {first.name or one} and {second.name or two} of {call.name}{{at}} swapped",
                    lambda a, one=one, two=two: a.again(**{one: a[two], two: a[one]}), "order", "the swap in torch",
                )._replace(rank=2)  # fmt: skip
    if call.name in MOVEMENTS and call.name in ("zeros", "ones", "full", "empty"):
        return
    yield _of(
        call, "negated", f"has the other sign of what {call.name}{{at}} gives", lambda a: -a.again(), "sign", "the other sign in torch"
    )
    if len(out.shape) >= 2 and out.shape[-1] == out.shape[-2] > 1:
        yield _of(
            call,
            "transposed",
            f"has the transpose of what {call.name}{{at}} gives",
            lambda a: a.again().mT,
            "layout",
            "the transpose in torch",
        )
    for axis, size in enumerate(out.shape):
        if size > 1 and len(out.shape) <= 4:
            yield _of(
                call, f"flipped along {axis}", f"has what {call.name}{{at}} gives in reverse along axis {axis}",
                lambda a, axis=axis: a.again().flip(axis), "order",
                f"flip({axis}) in torch",
            )  # fmt: skip
            for shift in (1, -1):
                yield _of(
                    call, f"rolled by {shift} along {axis}", f"has what {call.name}{{at}} gives moved by {shift} along axis {axis}, round the end",
                    lambda a, axis=axis, shift=shift: a.again().roll(shift, axis), "index", f"roll({shift}, {axis}) in torch",
                )  # fmt: skip


COMMUTES = frozenset({"add", "mul", "__add__", "__mul__", "__radd__", "__rmul__", "maximum", "minimum"})


def _of(call: Call, key: str, jax: str, apply: Any, family: str, change: str) -> Variant:
    return differs(f"{call.name} {key}", "", "", apply, family, change=change, rank=4)._replace(fact=f"the jax side {jax}, torch does not")


def complex_numbers(call: Call) -> Iterator[Variant]:
    """The conjugate of what a call gave."""
    results = call.result if isinstance(call.result, tuple) else (call.result,)
    if any(isinstance(part, Array) and part.dtype.startswith("complex") for part in results) and not call.name.endswith("_"):

        def conjugated(a: Any) -> Any:
            result = a.again()
            if isinstance(result, (tuple, list)):
                return tuple(part.conj().resolve_conj() if part is not None and part.is_complex() else part for part in result)
            return result.conj().resolve_conj()

        gradient = call.name in ("grad", "backward")
        given = "the gradient that torch has" if gradient else f"what torch's {call.name} gives"
        yield differs(
            f"{call.name} conjugated", "has the conjugate of", "", conjugated, "complex", change="the conjugate in torch",
            write="jnp.conj(jax.grad(f)(z)): jax gives the conjugate of torch's gradient" if gradient else "jnp.conj(...) there",
            rank=0 if gradient else 1, meaning="conjugate",
        )._replace(fact=f"the jax side has the conjugate of {given}{{at}}")  # fmt: skip


def rounded(call: Call) -> Iterator[Variant]:
    """A result rounded to a narrower dtype."""
    for part in [call.out] if call.out is not None else []:
        if part.dtype in ("float64", "int64") and not call.name.endswith("_"):
            for dtype in ("bfloat16", "float16", "float32"):
                yield differs(
                    f"{call.name} in {dtype}", "", "", lambda a, dtype=dtype: (r := a.again()).to(getattr(a.torch, dtype)).to(r.dtype), "cast",
                    change="the same cast in torch", write=f"no cast to {dtype} there", rank=1 if dtype != "float32" else 2,
                    meaning=f"cast to {dtype}",
                )._replace(fact=f"the jax side casts what torch's {call.name}{{at}} gives to {dtype}, torch does not")  # fmt: skip


def dropout(call: Call) -> Iterator[Variant]:
    """Dropout that one side leaves off."""
    if "dropout" in call.name:
        yield differs(
            f"{call.name} off", "has no dropout", f"has it on (p = {call['p'] or 0:g})", lambda a: a["input"] * 1, "dropout", change="none in torch",
            write="train=False in the spec, or dropout on both sides",
        )  # fmt: skip
