"""Gradients where the values agree: cut on one side, and the conventions at ties, corners and bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs

CONST = "the same in torch"


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which the gradient of this call could be another. Its value stays."""
    match call.name:
        case "detach" | "detach_" | "data":
            yield differs(
                f"{call.name} left out", "lets the gradient through", "cuts it", lambda a: a["input"] * 1, "detach", change="no detach in torch",
                write="jax.lax.stop_gradient(x)",
            )  # fmt: skip
        case "_set_grad_enabled":
            if call["input"] is False:
                yield differs(
                    "no_grad left out", "lets the gradient through", "is in torch.no_grad()", lambda a: None, "detach",
                    change="gradients on in torch",
                    write="jax.lax.stop_gradient(x)", meaning="no_grad",
                )._replace(fact="the jax side lets the gradient through, torch{at} is in torch.no_grad()")  # fmt: skip
        case "relu" | "relu_" | "leaky_relu" | "prelu" | "threshold":
            yield from _corner(call)
        case "relu6" | "hardtanh" | "clamp" | "clip" | "clamp_min" | "clamp_max" | "clamp_" | "hardtanh_":
            yield from _bounds(call)
        case "max" | "min" | "amax" | "amin":
            yield from _largest(call)
        case "maximum" | "minimum":
            yield from _larger(call)
        case "abs":
            yield from _absolute(call)
        case "sqrt" | "norm" | "linalg_vector_norm" | "linalg_norm" | "normalize":
            yield from _at_zero(call)
        case "round" | "floor" | "ceil" | "trunc" | "sign":
            yield differs(
                f"{call.name} straight through", "passes the gradient straight through", "has gradient 0",
                lambda a: a["input"] + (a.again() - a["input"]).detach(),
                "detach", change=CONST, write=f"jnp.{call.name}(x), which has gradient 0",
            )  # fmt: skip
        case _:
            pass


def cuts(call: Call) -> Iterator[Variant]:
    """The gradient of one argument, or of the result, cut on the jax side."""
    if call.name.endswith("_") or call.name in ("detach", "data", "grad", "backward"):
        return
    if call.out is not None and call.out.floating:
        yield differs(
            f"{call.name} detached", "stops the gradient", "lets it through", lambda a: a.again().detach(), "detach", change="detach() in torch",
            write="no jax.lax.stop_gradient there", rank=1, meaning="cut",
        )._replace(fact=f"the jax side stops the gradient of what torch's {call.name}{{at}} gives")  # fmt: skip
    arguments = [(name, value) for name, value in call.arguments.items() if isinstance(value, Array) and value.floating]
    for name, value in arguments if len(arguments) > 1 else ():
        title = value.name or name
        yield differs(
            f"{call.name} {name} detached", "stops the gradient", "lets it through",
            lambda a, name=name: a.again(**{name: a[name].detach()}), "detach",
            change="detach() in torch", write="no jax.lax.stop_gradient there", rank=1, meaning="cut",
        )._replace(fact=f"the jax side stops the gradient of {title} in what torch's {call.name}{{at}} computes")  # fmt: skip


def _corner(call: Call) -> Iterator[Variant]:
    line = {"relu": "jax.nn.relu(x)", "leaky_relu": "jax.nn.leaky_relu(x)"}.get(call.name.removesuffix("_"), "jnp.where(x > 0, x, 0)")
    slope = call["negative_slope"] if call["negative_slope"] is not None else 0.0 if call.name.startswith("relu") else None
    if slope is None:
        return
    for words, share in (("half of the gradient", 0.5), ("the whole gradient", 1.0), ("no gradient", 0.0)):
        if share != slope:
            yield differs(
                f"{call.name} {words} at 0", f"passes {words} where the input is exactly 0", "none" if not slope else f"{slope:g} of it",
                lambda a, share=share: _shared(a, a["input"] == 0, share), "subgradient", change=CONST, write=line,
            )  # fmt: skip


def _shared(a: Any, there: Any, share: float) -> Any:
    """The call's value; its gradient too, but for `share` of it at these places."""
    result, passed = a.again(), a["input"] * share
    return a.torch.where(there, passed + (result - passed).detach(), result)


def _bounds(call: Call) -> Iterator[Variant]:
    line = "jnp.where(x < low, low, jnp.where(x > high, high, x))"
    low = {"relu6": 0.0, "hardtanh": call["min_val"], "hardtanh_": call["min_val"], "clamp_min": call["min"]}.get(call.name, call["min"])
    high = {"relu6": 6.0, "hardtanh": call["max_val"], "hardtanh_": call["max_val"], "clamp_max": call["max"]}.get(call.name, call["max"])
    if call.name == "clamp_max" and high is None:
        high = call["min"]
        low = None

    def at(a: Any) -> Any:
        x = a["input"]
        there = a.torch.zeros_like(x, dtype=a.torch.bool)
        for bound in (low, high):
            if isinstance(bound, (int, float)):
                there = there | (x == bound)
        return there

    if not any(isinstance(bound, (int, float)) for bound in (low, high)):
        return
    own = "none" if call.name in ("relu6", "hardtanh", "hardtanh_") else "all of it"
    for words, share in (("half of the gradient", 0.5), ("no gradient", 0.0), ("the whole gradient", 1.0)):
        yield differs(
            f"{call.name} {words} at the bounds", f"passes {words} where the input is exactly at a bound", own,
            lambda a, share=share: _shared(a, at(a), share),
            "subgradient", change=CONST, write=line,
        )  # fmt: skip


def _largest(call: Call) -> Iterator[Variant]:
    """Reductions to the largest or smallest: one of the equal values gets the gradient, or each a share."""
    smallest = call.name.endswith("min")
    name = "amin" if smallest else "amax"
    axis, keep = call["dim"], bool(call["keepdim"])
    if isinstance(axis, Array):  # max of two arrays
        yield from _larger(call)
        return

    def shared(a: Any) -> Any:
        x = a["input"]
        own = a.again()
        value = getattr(a.torch, name)(x, *(() if axis is None else (axis, keep)))
        if isinstance(own, a.torch.Tensor):
            return value
        return type(own)((value, own[1]))

    def first(a: Any) -> Any:
        x = a["input"]
        if axis is None or axis == ():
            flat = x.reshape(-1)
            return flat[flat.argmin() if smallest else flat.argmax()]
        values = (a.torch.min if smallest else a.torch.max)(x, axis, keep)
        return values[0] if isinstance(a.again(), a.torch.Tensor) else values

    axis_words = "" if axis is None else f", axis={axis}"
    kind = "smallest" if smallest else "largest"
    jax_first = f"jnp.take_along_axis(x, jnp.arg{'min' if smallest else 'max'}(x{axis_words}, keepdims=True){axis_words})"
    if isinstance(axis, int) or axis is None:
        yield differs(
            f"{call.name} shared", f"shares the gradient among equal {kind} values", "gives it to one of them", shared, "subgradient",
            change="amin in torch"
            if smallest else "amax in torch", write=jax_first,
        )  # fmt: skip
        yield differs(
            f"{call.name} first", f"gives the gradient to the first of equal {kind} values", "shares it among them", first, "subgradient",
            change=f"torch.{'min' if smallest else 'max'}(dim) in torch", write=f"jnp.{'min' if smallest else 'max'}(x{axis_words})",
        )  # fmt: skip


def _larger(call: Call) -> Iterator[Variant]:
    if not isinstance(call["other"] if call["other"] is not None else call["dim"], Array):
        return
    other = "other" if call["other"] is not None else "dim"
    sign = -1 if call.name.startswith("min") else 1
    for words, chosen in (
        ("the first of two equal values", lambda x, y: x * sign >= y * sign),
        ("the second of two equal values", lambda x, y: x * sign > y * sign),
    ):
        yield differs(
            f"{call.name} {words}", f"gives the gradient to {words}", "half to each", lambda a, f=chosen: a.torch.where(f(a["input"],
            a[other]), a["input"], a[other]),
            "subgradient", change=CONST, write=f"jnp.{call.name}(x, y), which gives half to each",
        )  # fmt: skip


def _absolute(call: Call) -> Iterator[Variant]:
    for words, share in (("1", 1.0), ("-1", -1.0)):
        yield differs(
            f"abs gradient {words} at 0", f"has gradient {words} at exactly 0", "0", lambda a, share=share: _shared(a, a["input"] == 0,
            share), "subgradient",
            change=CONST, write="jnp.abs(x)",
        )  # fmt: skip


def _at_zero(call: Call) -> Iterator[Variant]:
    """Roots have no derivative at 0: one side gives 0 or an infinity, the other NaN."""
    line = "jnp.sqrt(jnp.where(x > 0, x, 1)) * (x > 0)"
    if call.name == "sqrt":
        yield differs(
            "sqrt gradient 0 at 0", "has gradient 0 where the input is 0", "an infinite one",
            lambda a: a.torch.where(a["input"] > 0, a.torch.where(a["input"] > 0, a["input"], 1.0).sqrt(), a["input"].detach() * 0), "subgradient",
            change=CONST, write="jnp.sqrt(x)",
        )  # fmt: skip
        return
    if call.name == "normalize":
        return

    def rooted(a: Any) -> Any:
        kept = {name: a[name] for name in ("dim", "keepdim") if a[name] not in (None, False)}
        return (a["input"] * a["input"]).sum(**kept).sqrt()

    told = call["p"] if call.name == "norm" else call["ord"]
    if told in (2, 2.0, "fro", None):
        yield differs(
            f"{call.name} as a root", "takes the root of the sum of squares, whose gradient at 0 is NaN", "has gradient 0 there", rooted,
            "subgradient",
            change="sqrt((x * x).sum()) in torch", write=line,
        )  # fmt: skip
