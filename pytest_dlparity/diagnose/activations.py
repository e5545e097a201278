"""Activation functions: another function, another approximation of it, another slope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs

Function = Callable[[Any, Any], Any]

# name -> (what a sentence calls it, (torch, x) -> result, the line in jax)
KINDS: dict[str, tuple[str, Function, str]] = {
    "erf gelu": ("the exact gelu", lambda t, x: t.nn.functional.gelu(x), "jax.nn.gelu(x, approximate=False)"),
    "tanh gelu": (
        "the tanh approximation of gelu",
        lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
        "jax.nn.gelu(x, approximate=True)",
    ),
    "quick gelu": ("x * sigmoid(1.702 x), the quick gelu", lambda t, x: x * t.sigmoid(1.702 * x), "x * jax.nn.sigmoid(1.702 * x)"),
    "silu": ("silu", lambda t, x: x * t.sigmoid(x), "jax.nn.silu(x)"),
    "relu": ("relu", lambda t, x: t.relu(x), "jax.nn.relu(x)"),
    "relu6": ("relu6", lambda t, x: t.nn.functional.relu6(x), "jax.nn.relu6(x)"),
    "leaky_relu": ("leaky_relu with slope 0.01", lambda t, x: t.nn.functional.leaky_relu(x, 0.01), "jax.nn.leaky_relu(x, 0.01)"),
    "elu": ("elu", lambda t, x: t.nn.functional.elu(x), "jax.nn.elu(x)"),
    "selu": ("selu", lambda t, x: t.selu(x), "jax.nn.selu(x)"),
    "celu": ("celu", lambda t, x: t.celu(x), "jax.nn.celu(x)"),
    "mish": ("mish", lambda t, x: t.nn.functional.mish(x), "jax.nn.mish(x)"),
    "softplus": ("softplus", lambda t, x: t.logaddexp(x, t.zeros_like(x)), "jax.nn.softplus(x)"),
    "softsign": ("softsign", lambda t, x: x / (1 + x.abs()), "jax.nn.soft_sign(x)"),
    "tanh": ("tanh", lambda t, x: t.tanh(x), "jnp.tanh(x)"),
    "sigmoid": ("sigmoid", lambda t, x: t.sigmoid(x), "jax.nn.sigmoid(x)"),
    "hardtanh": ("hard tanh", lambda t, x: x.clamp(-1, 1), "jax.nn.hard_tanh(x)"),
    "hardsigmoid": ("hard sigmoid (x/6 + 1/2)", lambda t, x: t.nn.functional.hardsigmoid(x), "jax.nn.hard_sigmoid(x)"),
    "keras hardsigmoid": ("hard sigmoid with slope 0.2", lambda t, x: (0.2 * x + 0.5).clamp(0, 1), "jnp.clip(0.2 * x + 0.5, 0, 1)"),
    "hardswish": ("hard swish", lambda t, x: t.nn.functional.hardswish(x), "jax.nn.hard_swish(x)"),
    "log_sigmoid": ("log sigmoid", lambda t, x: t.nn.functional.logsigmoid(x), "jax.nn.log_sigmoid(x)"),
    "squared relu": ("relu squared", lambda t, x: t.relu(x) ** 2, "jnp.square(jax.nn.relu(x))"),
    "identity": ("no activation", lambda t, x: x * 1, "x"),
}
CALLED = {
    "relu_": "relu", "sigmoid_": "sigmoid", "tanh_": "tanh", "swish": "silu", "logsigmoid": "log_sigmoid", "hard_tanh": "hardtanh",
    "leaky_relu_": "leaky_relu",
}  # fmt: skip
SLOPES = {"leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0), "celu": ("alpha", 1.0), "softplus": ("beta", 1.0)}


def kind(call: Call) -> str:
    """Which of KINDS a call is, "" for none.

    >>> kind(Call(0, "gelu", {"approximate": "tanh"})), kind(Call(0, "relu_", {})), kind(Call(0, "conv2d", {}))
    ('tanh gelu', 'relu', '')
    """
    if call.name == "gelu":
        return "tanh gelu" if call["approximate"] == "tanh" else "erf gelu"
    name = CALLED.get(call.name, call.name)
    return name if name in KINDS else ""


def variants(call: Call) -> Iterator[Variant]:
    """The other activations in its place; the slope as an unknown."""
    own = kind(call)
    if own:
        yield from _others(call, own, "input")
    if own == "relu":
        yield differs(
            f"{call.name} bounded", "bounds what relu gives by {c}", "does not", lambda a, c: a.again().clamp(max=c), "activation",
            change="the bound in torch", write="jax.nn.relu(x)", start=1.0, rank=1, meaning="bound",
        )  # fmt: skip
    if call.name in SLOPES:
        name, default = SLOPES[call.name]
        now = default if call[name] is None else float(call[name])
        yield differs(
            f"{call.name} slope {now:g}", f"has {name}={{c}}", f"has {name}={now:g}", lambda a, c: a.again(**{name: c}), "activation",
            change=f"{name}={{c}} in torch", write=f"{name}={now:g}", start=now, meaning="slope",
        )  # fmt: skip


def products(call: Call, calls: Sequence[Call]) -> Iterator[Variant]:
    """`x * sigmoid(a * x)` written out: the other activations in the place of the product."""
    if call.name not in ("mul", "__mul__", "__rmul__"):
        return
    for gate, argument in (("other", "input"), ("input", "other")):
        made = _maker(call[gate], calls)
        if made is None or made.name != "sigmoid" or not isinstance(call[argument], Array):
            continue
        inner = _maker(made["input"], calls)
        numbers = [inner[name] for name in ("input", "other") if isinstance(inner[name], (int, float))] if inner is not None else []
        constant = numbers[0] if numbers else 1.0
        own = "quick gelu" if constant == 1.702 else "silu" if constant == 1.0 else ""
        yield from _others(call, own, argument, f"x * sigmoid({constant:g} x)")


def _maker(value: Any, calls: Sequence[Call]) -> Call | None:
    return calls[value.made] if isinstance(value, Array) and 0 <= value.made < len(calls) else None


def _others(call: Call, own: str, argument: str, words: str = "") -> Iterator[Variant]:
    mine, _, line = KINDS.get(own, (words, None, "x * jax.nn.sigmoid(a * x)"))
    for name, (title, function, _) in KINDS.items():
        if name != own:
            yield differs(
                f"{call.name} {own or words} as {name}", f"computes {title}", f"computes {words or mine}",
                lambda a, function=function: function(a.torch, a[argument]), "activation", write=line, change=_change(call, name, title),
                meaning=f"activation {name}",
            )  # fmt: skip


def _change(call: Call, name: str, title: str) -> str:
    if call.name == "gelu" and name in ("tanh gelu", "erf gelu"):
        return f"approximate={'tanh' if name == 'tanh gelu' else 'none'!r} in torch"
    return f"{title} in torch"
