"""Activations. The functions of jax.nn are those of flax.linen and flax.nnx too, where `REEXPORTED` names them: the very same objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent, Inputs
from pytest_dlparity.catalog.ties import apart
from pytest_dlparity.draws import as_draw, fixed, normal

REEXPORTED = ("relu relu6 leaky_relu elu celu selu gelu silu softplus soft_sign sigmoid log_sigmoid hard_sigmoid hard_silu hard_tanh softmax "
              "log_softmax glu tanh").split()  # fmt: skip
ONE = [normal(1, mean=0.75, scale=0.02)]
CASES = {"odd": [normal(3, 5, scale=3)], "prime": [normal(2, 1, 7)], "one": ONE}
PAIRS = {"even": [normal(3, 6, scale=3)], "two": [normal(1, 2)]}  # what is split in two
ROWS = {"odd": [normal(3, 5, scale=3)], "prime": [normal(2, 4, 7)], "batch of one": [normal(1, 3)]}
IMAGES = {"odd": [normal(2, 3, 5, 4)], "batch of one": [normal(1, 3, 1, 7)]}
NAN, INF = np.nan, np.inf
EDGES = {
    "zeros": [fixed([0.0, -0.0, 0.75])],
    "large": [fixed([30.0, -30.0, 300.0, -300.0, 0.75])],
    "tiny": [fixed([2.0**-12, -(2.0**-12), 2.0**-14, -(2.0**-14), 0.5])],
    "infinite": [fixed([INF, -INF, 0.75])],
    "nan": [fixed([NAN, 0.75])],
}
CLIP = "jax/_src/lax/lax.py: the gradient of max and min at a tie is a half to each side"
JAX = "jax/_src/nn/functions.py"
AT_ZERO = "At 0 torch's gradient is the slope of the negative side, jax's is 1."
AT_NAN = "At NaN torch hands the gradient on, jax gives {}."
AT_BOUNDS = "At its bounds torch's gradient is 0, jax's is {}."


def elementwise(name: str, torch: str, jax: str | Equivalent, *bounds: float, one: Inputs = ONE, **more: Any) -> Entry:
    """An elementwise function at ordinary inputs, at zero, at its bounds, and where it is large, tiny or not finite."""
    edges = EDGES | ({"bounds": [fixed([*bounds, 0.75])]} if bounds else {})
    edges |= more.pop("more_edges", {})
    cases = {case: [apart(as_draw(draw, case), bounds) for draw in inputs] for case, inputs in (CASES | {"one": one}).items()}
    return Entry(name=name, torch=torch, jax={"jax": exported(jax), **more.pop("others", {})}, cases=cases, edges=edges, **more)


def exported(way: str | Equivalent) -> Equivalent:
    """An equivalent that says where else its function is to be had."""
    way = way if isinstance(way, Equivalent) else Equivalent(way)
    found = re.search(r"jax\.nn\.(\w+)", way.code)
    return replace(way, also=("linen", "nnx")) if found and found[1] in REEXPORTED else way


def rows(name: str, torch: str, jax: str | Equivalent, cases: Mapping[str, Inputs] = ROWS, **more: Any) -> Entry:
    """A function of whole rows, also of rows in which one class is masked out, all are alike, or one is far above the others."""
    edges = {
        "ties": [fixed(np.ones((2, 3)))],
        "one class": [normal(3, 1)],
        "masked": [fixed([[0.0, -INF, 1.0], [-INF, 2.0, -INF]])],
        "all masked": [fixed([[-INF, -INF], [0.0, 1.0]])],
        "far apart": [fixed([[300.0, 0.0, -300.0]])],
    }
    return Entry(name=name, torch=torch, jax={"jax": exported(jax)}, cases=cases, edges=more.pop("edges", edges), **more)


def at_zero(code: str, source: str = f"{JAX}: leaky_relu is where(x >= 0, ...)", **translation: str) -> Equivalent:
    return Equivalent(code, translation, differs=(Difference("grad.input", "zeros", AT_ZERO, source),))


def at_nan(code: str, gives: str, source: str, *more: Difference, **translation: str) -> Equivalent:
    return Equivalent(code, translation, differs=(Difference("grad.input", "nan", AT_NAN.format(gives), source), *more))


def at_bounds(gives: str, source: str) -> Difference:
    return Difference("grad.input", "bounds", AT_BOUNDS.format(gives), source)


def in_half(code: str, why: str, then: str, translation: Mapping[str, str] = MappingProxyType({})) -> Equivalent:
    says = f"In float16 at 300 {why}: {then}; torch computes in float32."
    differs = Difference("grad.input", "large", says, f"{JAX} computes in the input's dtype", dtypes=("float16",))
    return Equivalent(code, translation, differs=(differs,))


def prelu(code: str, source: str) -> Equivalent:
    """A PReLU with one slope: its gradient is a product with every input, also with those above zero, which count zero times."""
    infinite = Difference("grad.weight", "infinite", "With an infinite input torch's gradient of the slope is infinite, jax's NaN: 0 * inf.", source)
    zero = Difference("grad.input", "zeros", AT_ZERO, source)
    return Equivalent(code, {"init": "negative_slope_init"} if "PReLU" in code else {}, differs=(infinite, *([zero] if "PReLU" in code else [])))


ENTRIES = (
    elementwise("relu", "torch.nn.ReLU()", at_nan("jax.nn.relu", "0", f"{JAX}: relu's rule is where(x > 0, g, 0)")),
    elementwise("relu6", "torch.nn.ReLU6()", at_nan("jax.nn.relu6", "0", f"{JAX}: relu6's rule is where((x > 0) & (x < 6), g, 0)"), 6.0),
    elementwise("leaky-relu", "torch.nn.LeakyReLU(0.2)", at_zero("lambda x: jax.nn.leaky_relu(x, negative_slope=0.2)")),
    elementwise(
        "prelu", "torch.nn.PReLU()", prelu("lambda p, x: jnp.where(x > 0, x, p['weight'] * x)", "https://docs.jax.dev/en/latest/faq.html#gradients-contain-nan-where-using-where"),
        others={
            "linen": prelu("linen.PReLU()", "flax/linen/activation.py: PReLU is where(x >= 0, ...)"),
            "nnx": prelu("nnx.PReLU()", "flax/nnx/nn/activations.py: PReLU is where(x >= 0, ...)"),
            "equinox": prelu("eqx.nn.PReLU()", "equinox/nn/_activations.py: PReLU is where(x >= 0, ...)"),
        },
        one=[normal(1, mean=-0.75, scale=0.02)],
        missing={"haiku": "haiku has no PReLU."},
    ),
    Entry(
        name="prelu-channels",
        torch="torch.nn.PReLU(3)",
        jax={"jax": "lambda p, x: jnp.where(x > 0, x, p['weight'][:, None, None] * x)"},
        cases=IMAGES,
        missing={
            "linen": "linen.PReLU has one slope for all channels.",
            "nnx": "nnx.PReLU has one slope for all channels.",
            "haiku": "haiku has no PReLU.",
        },
    ),
    elementwise("rrelu-eval", "torch.nn.RReLU(0.1, 0.3).eval()", at_zero("lambda x: jax.nn.leaky_relu(x, negative_slope=(0.1 + 0.3) / 2)")),
    elementwise("elu", "torch.nn.ELU(alpha=1.5)", at_nan("lambda x: jax.nn.elu(x, alpha=1.5)", "NaN", f"{JAX}: elu multiplies by exp(x)")),
    elementwise("celu", "torch.nn.CELU(alpha=1.5)", at_nan("lambda x: jax.nn.celu(x, alpha=1.5)", "NaN", f"{JAX}: celu multiplies by exp(x)")),
    elementwise("selu", "torch.nn.SELU()", at_nan("jax.nn.selu", "NaN", f"{JAX}: selu multiplies by exp(x)")),
    elementwise(
        "gelu", "torch.nn.GELU()", Equivalent("lambda x: jax.nn.gelu(x, approximate=False)", {'approximate="none"': "approximate=False"}),
        notes={"defaults": "they are opposite: torch computes erf, jax.nn.gelu the tanh form (torch.nn.GELU; jax.nn.gelu)"},
    ),
    elementwise(
        "gelu-tanh", 'torch.nn.GELU(approximate="tanh")',
        in_half("jax.nn.gelu", "its cube is infinite", "jax is NaN", {'approximate="tanh"': "approximate=True, the default"}),
    ),
    elementwise("silu", "torch.nn.SiLU()", "jax.nn.silu"),
    elementwise("mish", "torch.nn.Mish()", "jax.nn.mish"),
    elementwise("softplus", "torch.nn.Softplus()", "jax.nn.softplus"),
    elementwise(
        "softplus-beta", "torch.nn.Softplus(beta=2.0, threshold=5.0)",
        "lambda x: jnp.where(2.0 * x > 5.0, x, jax.nn.softplus(2.0 * x) / 2.0)", 2.5,
        notes={"arguments": "jax.nn.softplus has neither beta nor threshold (jax.nn.softplus)"},
    ),
    elementwise(
        "softsign", "torch.nn.Softsign()",
        in_half("jax.nn.soft_sign", "the two terms of its gradient cancel", "jax has no digit right"),
        more_edges={"large": [fixed([290.0, -290.0, 300.0, -300.0, 310.0, -310.0])]},
    ),
    elementwise("sigmoid", "torch.nn.Sigmoid()", "jax.nn.sigmoid"),
    elementwise("log-sigmoid", "torch.nn.LogSigmoid()", "jax.nn.log_sigmoid"),
    elementwise("nn-tanh", "torch.nn.Tanh()", "jax.nn.tanh"),
    elementwise(
        "hardtanh", "torch.nn.Hardtanh()", Equivalent("jax.nn.hard_tanh", differs=(at_bounds("1", f"{JAX}: hard_tanh is where(x > 1, ...)"),)), 1.0, -1.0,
    ),
    elementwise(
        "hardtanh-range", "torch.nn.Hardtanh(-0.5, 2.0)",
        at_nan("lambda x: jnp.clip(x, -0.5, 2.0)", "0", CLIP, at_bounds("a half", CLIP)), 2.0, -0.5,
    ),
    elementwise("hardsigmoid", "torch.nn.Hardsigmoid()", "jax.nn.hard_sigmoid", 3.0, -3.0),
    elementwise("hardswish", "torch.nn.Hardswish()", at_nan("jax.nn.hard_silu", "NaN", f"{JAX}: hard_silu is x * hard_sigmoid(x)"), 3.0, -3.0),
    elementwise("hardshrink", "torch.nn.Hardshrink(0.5)", "lambda x: jnp.where(jnp.abs(x) <= 0.5, 0, x)", 0.5, -0.5),
    elementwise(
        "softshrink", "torch.nn.Softshrink(0.5)", "lambda x: jnp.where(jnp.abs(x) <= 0.5, 0, x - 0.5 * jnp.sign(x))", 0.5, -0.5,
    ),
    elementwise("tanhshrink", "torch.nn.Tanhshrink()", "lambda x: x - jnp.tanh(x)"),
    elementwise("threshold", "torch.nn.Threshold(0.5, -1.0)", "lambda x: jnp.where(x <= 0.5, -1.0, x)", 0.5),
    rows("glu", "torch.nn.GLU()", Equivalent("jax.nn.glu", {"dim": "axis"}), PAIRS, edges={"far apart": [fixed([[1.0, 2.0, 300.0, -300.0]])]}),
    rows("glu-dim", "torch.nn.GLU(1)", Equivalent("lambda x: jax.nn.glu(x, axis=1)", {"dim": "axis"}), {"odd": [normal(3, 4, 5)]}, edges={}),
    rows("nn-softmax", "torch.nn.Softmax(dim=-1)", Equivalent("jax.nn.softmax", {"dim": "axis"})),
    rows(
        "nn-softmax-dim", "torch.nn.Softmax(dim=0)", Equivalent("lambda x: jax.nn.softmax(x, axis=0)", {"dim": "axis"}),
        {"odd": [normal(3, 5)], "two": [normal(2, 1)]},
    ),
    rows("softmin", "torch.nn.Softmin(dim=-1)", Equivalent("lambda x: jax.nn.softmax(-x)", {"dim": "axis"}),
         edges={"ties": [fixed(np.ones((2, 3)))], "masked": [fixed([[0.0, INF, 1.0]])]}),
    rows("nn-log-softmax", "torch.nn.LogSoftmax(dim=-1)", Equivalent("jax.nn.log_softmax", {"dim": "axis"})),
    rows(
        "softmax2d", "torch.nn.Softmax2d()", Equivalent("lambda x: jax.nn.softmax(x, axis=-3)"),
        IMAGES, edges={},
    ),
)  # fmt: skip
