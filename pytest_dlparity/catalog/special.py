"""Functions of numbers: special functions, roundings, extremes, scans, orders and statistics, at poles, ties, zeros, infinities and NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.catalog.ties import apart, distinct, lower, upper
from pytest_dlparity.draws import Draw, fixed, normal, uniform

INF, NAN = math.inf, math.nan
SCIPY = "jax.scipy.special."


class Row(NamedTuple):
    """A function in both frameworks, the numbers it is for, and its edges."""

    name: str
    torch: str
    jax: str
    draw: Any = None
    edges: Mapping[str, Any] = {}
    differs: tuple[Difference, ...] = ()
    options: Mapping[str, Any] = {}
    words: str = ""
    dtypes: tuple[str, ...] = ()  # the only ones


def everywhere(*shape: int) -> Draw:
    return normal(*shape, scale=2)


def positive(*shape: int) -> Draw:
    return uniform(*shape, low=0.1, high=5)


def inside(*shape: int) -> Draw:
    return uniform(*shape, low=-0.95, high=0.95)


def share(*shape: int) -> Draw:
    return uniform(*shape, low=0.05, high=0.95)


def above_one(*shape: int) -> Draw:
    return uniform(*shape, low=1.1, high=6)


ENDS = {"ends": [1.0, 0.0, -0.0, INF, -INF, NAN]}
WIDE = {"ends": [0.0, -0.0, 1.0, -1.0, 1e-4, 10.0, -60.0, INF, -INF, NAN]}


def gradient(
    case: str, says: str, source: str, *, leaf: str = "grad.input", torch: float | None = None, jax: float | None = None
) -> tuple[Difference, ...]:
    return (Difference(leaf, case, says, source, torch, jax),)


YAML = "torch: tools/autograd/derivatives.yaml"
ABS = "jax/_src/lax/lax.py, _abs_jvp_rule: select(x >= 0, g, -g)"

UNARY = [
    Row("erf", "torch.erf", SCIPY + "erf", everywhere, WIDE),
    Row("erfc", "torch.erfc", SCIPY + "erfc", everywhere, WIDE),
    Row("erfcx", "torch.special.erfcx", SCIPY + "erfcx", everywhere, {"ends": [0.0, 60.0, INF, NAN]}),
    Row("erfinv", "torch.erfinv", SCIPY + "erfinv", inside, {"ends": [0.0, 1.0, -1.0, 1.5, NAN]}),
    Row(
        "lgamma",
        "torch.lgamma",
        SCIPY + "gammaln",
        lambda *shape: uniform(*shape, low=2.5, high=9),
        {"poles": [0.0, -1.0, 2.5], "ends": [0.5, -0.5, 60.0, INF, NAN]},
        words="Near 1 and 2, where it is 0, jax's keeps three or four of seven digits in float32.",
        differs=gradient(
            "poles",
            "torch gives the infinity of the left, jax NaN, which is its digamma of a pole",
            "torch: tools/autograd/derivatives.yaml, lgamma; jax.lax.digamma",
            leaf="grad.input",
            torch=None,
            jax=None,
        ),
    ),
    Row(
        "digamma",
        "torch.digamma",
        SCIPY + "digamma",
        positive,
        {"poles": [0.0, -1.0, 2.5], "ends": [1.0, -0.5, 60.0, NAN], "infinity": [INF, 1.0]},
        gradient("infinity", "torch gives 0, jax NaN", "torch: tools/autograd/derivatives.yaml, digamma; jax.scipy.special.polygamma", torch=0.0, jax=NAN)
        + gradient("poles", "at 0 torch gives minus infinity, jax NaN", "torch.digamma; jax.lax.digamma", leaf="output")
        + gradient("poles", "at -1 torch gives a large number, jax infinity", "torch.polygamma; jax.scipy.special.polygamma"),
    ),
    *[
        Row(
            f"polygamma-{n}",
            f"lambda x: torch.polygamma({n}, x)",
            f"lambda x: jax.scipy.special.polygamma({n}, x)",
            positive,
            {"ends": [2.0, 60.0]},
        )
        for n in (1, 2)
    ],
    Row("multigammaln", "lambda x: torch.special.multigammaln(x, 3)", "lambda x: jax.scipy.special.multigammaln(x, 3)", above_one),
    Row(
        "bessel-i0",
        "torch.special.i0",
        SCIPY + "i0",
        everywhere,
        {"ends": [1.0, -1.0, 10.0, NAN], "zero": [0.0]},
        gradient(
            "zero",
            "torch gives I1(0) = 0, jax the derivative of exp(abs(x)) from the right",
            f"jax/_src/scipy/special.py, i0; {ABS}",
            torch=0.0,
        ),
    ),
    *[Row(f"bessel-{n}", f"torch.special.{n}", SCIPY + n, everywhere, {"ends": [0.0, 1.0, -1.0, 10.0]}) for n in ("i0e", "i1", "i1e")],
    Row("ndtr", "torch.special.ndtr", SCIPY + "ndtr", everywhere, WIDE),
    Row("log-ndtr", "torch.special.log_ndtr", SCIPY + "log_ndtr", everywhere, {"ends": [0.0, 5.0, -5.0, -30.0, NAN]}),
    Row(
        "ndtri",
        "torch.special.ndtri",
        SCIPY + "ndtri",
        share,
        {"ends": [0.5, 1.5, NAN], "zero and one": [0.0, 0.5, 1.0]},
        gradient("zero and one", "torch gives infinity, jax 0", f"{YAML}, special_ndtri; jax/_src/scipy/special.py, ndtri"),
    ),
    Row("entr", "torch.special.entr", SCIPY + "entr", positive, {"ends": [0.0, 1.0, 60.0, NAN]}),
    Row(
        "logit",
        "torch.logit",
        SCIPY + "logit",
        share,
        {"ends": [0.5, 0.0, 1.0, NAN], "outside": [1.5, 0.5]},
        gradient("outside", "beyond [0, 1] torch's gradient is NaN, jax's that of the formula", f"{YAML}, logit", torch=NAN),
    ),
    Row("expit", "torch.special.expit", SCIPY + "expit", everywhere, WIDE),
    Row("sinc", "torch.sinc", "jnp.sinc", everywhere, {"ends": [0.0, 1.0, 0.5, 0.0625]}),
    *[Row(n, f"torch.{n}", f"jnp.{n}", everywhere, WIDE) for n in ("exp", "expm1", "tanh", "square", "sin", "cos")],
    *[Row(n, f"torch.{n}", f"jnp.{n}", positive, ENDS) for n in ("log", "log2", "log10", "sqrt")],
    Row("log1p", "torch.log1p", "jnp.log1p", positive, {"ends": [0.0, -1.0, -2.0, 1e-4, INF, NAN]}),
    Row("rsqrt", "torch.rsqrt", "lax.rsqrt", positive, {"ends": [0.0, 1.0, INF, NAN]}),
    Row("reciprocal", "torch.reciprocal", "jnp.reciprocal", positive, ENDS),
    *[Row(n, f"torch.{n}", f"jnp.{n}", inside, {"ends": [0.0, 1.0, -1.0, 1.5, NAN]}) for n in ("asin", "acos", "atanh")],
    *[
        Row(n, f"torch.{n}", f"jnp.{n}", everywhere, {"ends": [0.0, -0.0, 1.0, 1e-4, NAN]})
        for n in ("tan", "atan", "sinh", "cosh", "asinh")
    ],
    Row("acosh", "torch.acosh", "jnp.acosh", above_one, {"ends": [1.0, 0.5, INF, NAN]}),
    Row(
        "abs",
        "torch.abs",
        "jnp.abs",
        everywhere,
        {"ends": [1.0, -1.0, INF, -INF], "zero": [0.0], "nan": [NAN, 1.0]},
        gradient("zero", "torch gives 0, jax 1", f"{YAML}, abs: grad * self.sgn(); {ABS}", torch=0.0)
        + gradient("nan", "torch gives 0, jax -1", f"{YAML}, abs: grad * self.sgn(); {ABS}", torch=0.0),
    ),
    *[
        Row(n, f"torch.{n}", f"jnp.{n}", everywhere, {"ends": [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, INF, -INF, NAN]})
        for n in ("round", "floor", "ceil", "trunc")
    ],
    Row(
        "sign",
        "torch.sign",
        "jnp.sign",
        everywhere,
        {"ends": [0.0, -0.0, 0.5, INF, -INF], "nan": [NAN, 1.0]},
        gradient("nan", "torch's sign of NaN is 0, jax's NaN", "torch.sign; jax.numpy.sign", leaf="output", torch=0.0, jax=NAN),
    ),
    Row("round-decimals", "lambda x: torch.round(x, decimals=2)", "lambda x: jnp.round(x, 2)", everywhere),
    Row("frac", "torch.frac", "lambda x: x - jnp.trunc(x)", everywhere, {"ends": [0.0, 1.0, -1.5, 2.5]}),
    Row(
        "nan-to-num",
        "lambda x: torch.nan_to_num(x, 0.5, 100.0, -100.0)",
        "lambda x: jnp.nan_to_num(x, nan=0.5, posinf=100.0, neginf=-100.0)",
        everywhere,
        WIDE,
    ),
    Row(
        "clamp",
        "lambda x: x.clamp(-1, 1)",
        "lambda x: jnp.clip(x, -1, 1)",
        lambda *shape: apart(everywhere(*shape), (-1.0, 1.0)),
        {"ends": [0.0, 60.0, INF, -INF, NAN], "bounds": [1.0, -1.0]},
        gradient(
            "bounds", "at a bound torch's gradient is 1, jax's one half", f"{YAML}, clamp; jax/_src/lax/lax.py, min_p and max_p share a tie"
        ),
    ),
    Row("deg2rad", "torch.deg2rad", "jnp.deg2rad", everywhere),
    Row("exp2", "torch.exp2", "jnp.exp2", everywhere, {"ends": [0.0, 1.0, -1.0, NAN]}),
]

BINARY = [
    Row(
        "atan2",
        "torch.atan2",
        "jnp.arctan2",
        (everywhere, everywhere),
        {"origin": ([0.0, 1.0], [0.0, 1.0]), "axes": ([1.0, 0.0, -1.0, 0.0, -0.0, INF], [0.0, 1.0, 0.0, -1.0, -1.0, 1.0])},
        differs=gradient(
            "origin",
            "torch gives 0, jax NaN",
            "torch: tools/autograd/derivatives.yaml, atan2: masked where both are 0; jax/_src/lax/lax.py, atan2_p",
            leaf="grad.input0",
            torch=0.0,
            jax=NAN,
        )
        + gradient(
            "origin",
            "torch gives 0, jax NaN",
            "torch: tools/autograd/derivatives.yaml, atan2: masked where both are 0; jax/_src/lax/lax.py, atan2_p",
            leaf="grad.input1",
            torch=0.0,
            jax=NAN,
        ),
    ),
    Row(
        "hypot",
        "torch.hypot",
        "jnp.hypot",
        (everywhere, everywhere),
        {"origin": ([0.0, 1.0], [0.0, 1.0]), "axes": ([3.0, 0.0, -1.0], [4.0, 1.0, 0.0])},
        differs=gradient(
            "origin",
            "torch gives NaN, jax the derivative of max(abs(x)) from the right",
            "torch: tools/autograd/derivatives.yaml, hypot; jax/_src/numpy/ufuncs.py, hypot",
            leaf="grad.input0",
            torch=NAN,
            jax=None,
        )
        + gradient(
            "origin",
            "torch gives NaN, jax the derivative of max(abs(x)) from the right",
            "torch: tools/autograd/derivatives.yaml, hypot; jax/_src/numpy/ufuncs.py, hypot",
            leaf="grad.input1",
            torch=NAN,
            jax=None,
        ),
    ),
    Row(
        "xlogy",
        "torch.xlogy",
        SCIPY + "xlogy",
        (positive, positive),
        {"zero and zero": ([0.0, 2.0], [0.0, 1.0]), "zero times": ([0.0, 2.0], [2.0, 1.0])},
        differs=gradient(
            "zero and zero",
            "torch gives 0, jax minus infinity: the logarithm of 0",
            "torch: tools/autograd/derivatives.yaml, xlogy; jax/_src/scipy/special.py, _xlogy_jvp",
            leaf="grad.input0",
            torch=0.0,
            jax=None,
        ),
    ),
    Row("xlog1py", "torch.special.xlog1py", SCIPY + "xlog1py", (positive, positive), {"zero times": ([0.0, 2.0], [2.0, 1.0])}),
    Row(
        "logaddexp",
        "torch.logaddexp",
        "jnp.logaddexp",
        (everywhere, everywhere),
        {"far apart": ([0.0, 60.0, 1.0, -INF], [0.0, -60.0, 1.0, 2.0])},
    ),
    Row("logaddexp2", "torch.logaddexp2", "jnp.logaddexp2", (everywhere, everywhere)),
    Row(
        "pow",
        "torch.pow",
        "jnp.power",
        (positive, everywhere),
        {"zero to zero": ([0.0, 2.0], [0.0, 1.0]), "base zero": ([0.0, 0.0, 1.0], [2.0, 3.0, 0.0])},
        differs=gradient(
            "zero to zero",
            "the derivative of x to the 0 at 0: torch gives 0, jax NaN",
            "torch: tools/autograd/derivatives.yaml, pow; jax/_src/lax/lax.py, _pow_jvp_lhs",
            leaf="grad.input0",
            torch=0.0,
            jax=NAN,
        ),
    ),
    Row(
        "remainder",
        "torch.remainder",
        "jnp.remainder",
        (everywhere, everywhere),
        {"by zero": ([1.0, 3.5], [0.0, 2.0]), "signs": ([5.5, -5.5, 5.5, -5.5], [2.0, 2.0, -2.0, -2.0])},
    ),
    Row("fmod", "torch.fmod", "jnp.fmod", (everywhere, everywhere), {"signs": ([5.5, -5.5, 5.5, -5.5], [2.0, 2.0, -2.0, -2.0])}),
    Row(
        "floor-divide",
        "torch.floor_divide",
        "jnp.floor_divide",
        (everywhere, everywhere),
        {"signs": ([5.5, -5.5, 5.5, -5.5], [2.0, 2.0, -2.0, -2.0])},
        options={"wrt": []},
    ),
    *[
        Row(
            n,
            f"torch.{n}",
            f"jnp.{n}",
            (lower, upper),
            {"ties": ([0.0, 1.0, 2.0], [0.0, 1.0, -1.0]), "nan": ([NAN, 1.0, 2.0], [1.0, NAN, 0.0])},
            tuple(
                Difference(
                    f"grad.input{i}",
                    "nan",
                    "beside NaN torch gives both the whole gradient, jax none",
                    f"{YAML}, {n}",
                )
                for i in (0, 1)
            ),
        )
        for n in ("maximum", "minimum")
    ],
    *[
        Row(
            n,
            f"torch.{n}",
            f"jnp.{n}",
            (lower, upper),
            {"nan": ([NAN, 1.0, 2.0], [1.0, NAN, 0.0]), "ties": ([0.0, 1.0], [0.0, 1.0])},
            tuple(
                Difference(
                    f"grad.input{i}",
                    "ties",
                    "at a tie torch's gradient goes to the first, jax's to the second",
                    f"{YAML}, {n}; jax.numpy.{n}",
                )
                for i in (0, 1)
            ),
        )
        for n in ("fmax", "fmin")
    ],
    Row(
        "copysign",
        "torch.copysign",
        "jnp.copysign",
        (everywhere, everywhere),
        {"zeros": ([1.0, 1.0, -2.0], [0.0, -0.0, 0.0])},
        options={"wrt": ["input0"]},
    ),
    Row(
        "heaviside",
        "torch.heaviside",
        "jnp.heaviside",
        (everywhere, everywhere),
        {"zero": ([0.0, 1.0, -1.0], [0.5, 0.5, 0.5])},
        options={"wrt": []},
    ),
    Row("lerp", "lambda x, y: torch.lerp(x, y, 0.25)", "lambda x, y: x + 0.25 * (y - x)", (everywhere, everywhere)),
    Row("zeta", "torch.special.zeta", SCIPY + "zeta", (above_one, positive), options={"wrt": ["input1"]}),
    Row("gammainc", "torch.special.gammainc", SCIPY + "gammainc", (positive, positive), options={"wrt": ["input1"]}),
    Row("gammaincc", "torch.special.gammaincc", SCIPY + "gammaincc", (positive, positive), options={"wrt": ["input1"]}),
    Row("where", "lambda x, y: torch.where(x > y, x, y ** 2)", "lambda x, y: jnp.where(x > y, x, y ** 2)", (everywhere, everywhere)),
    Row(
        "where-guarded",
        "lambda x, y: torch.where(x > 0, y * x.clamp(min=0.5).log(), y)",
        "lambda x, y: jnp.where(x > 0, y * jnp.log(jnp.clip(x, 0.5)), y)",
        (everywhere, everywhere),
    ),
]

TIED = [[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
FLAT = {"ties": TIED}
ALONG = [
    Row(
        "logsumexp",
        "lambda x: torch.logsumexp(x, 1)",
        "lambda x: jax.nn.logsumexp(x, 1)",
        everywhere,
        {"nothing": [[-INF, -INF, -INF], [0.0, 1.0, 2.0]], "large": [[100.0, 100.0, -100.0], [-INF, 0.0, 1.0]], "ties": TIED},
    ),
    Row(
        "softmax",
        "lambda x: torch.softmax(x, 1)",
        "lambda x: jax.nn.softmax(x, 1)",
        everywhere,
        {"large": [[100.0, 100.0, -100.0], [-INF, 0.0, 1.0]]},
    ),
    Row(
        "softmax-masked-row",
        "lambda x: torch.softmax(x, 1)",
        "lambda x: jax.nn.softmax(x, 1)",
        everywhere,
        {"no class left": [[-INF, -INF, -INF], [-INF, 0.0, 1.0]]},
    ),
    Row(
        "log-softmax",
        "lambda x: torch.log_softmax(x, 1)",
        "lambda x: jax.nn.log_softmax(x, 1)",
        everywhere,
        {"large": [[100.0, 100.0, -100.0], [30.0, 0.0, 1.0]]},
    ),
    Row("cumsum", "lambda x: x.cumsum(1)", "lambda x: jnp.cumsum(x, 1)", everywhere),
    Row("cumprod", "lambda x: x.cumprod(1)", "lambda x: jnp.cumprod(x, 1)", everywhere, {"one zero": [[2.0, 0.0, 3.0], [1.0, 2.0, 0.0]]}),
    Row("logcumsumexp", "lambda x: x.logcumsumexp(1)", "lambda x: lax.cumlogsumexp(x, 1)", everywhere, {"large": [[100.0, 100.0, -100.0]]}),
    Row(
        "cummax",
        "lambda x: x.cummax(1).values",
        "lambda x: lax.cummax(x, 1)",
        distinct,
        {"ties": TIED},
        differs=gradient(
            "ties",
            "at a tie torch's gradient goes to the last, jax's is shared",
            "torch: tools/autograd/derivatives.yaml, cummax; jax/_src/lax/control_flow/loops.py, cumulative reductions",
            leaf="grad.input",
            torch=None,
            jax=None,
        ),
    ),
    Row(
        "cummin",
        "lambda x: x.cummin(1).values",
        "lambda x: lax.cummin(x, 1)",
        distinct,
        {"ties": TIED},
        differs=gradient(
            "ties",
            "at a tie torch's gradient goes to the last, jax's is shared",
            "torch: tools/autograd/derivatives.yaml, cummin; jax/_src/lax/control_flow/loops.py, cumulative reductions",
            leaf="grad.input",
            torch=None,
            jax=None,
        ),
    ),
    Row("diff", "lambda x: x.diff(dim=1)", "lambda x: jnp.diff(x, axis=1)", everywhere),
    Row(
        "sort",
        "lambda x: torch.sort(x, dim=1, stable=True)",
        "lambda x: (jnp.sort(x, 1), jnp.argsort(x, 1))",
        distinct,
        {"ties": TIED, "ends": [[NAN, INF, -INF, 0.0]]},
    ),
    Row(
        "sort-descending",
        "lambda x: torch.sort(x, dim=1, stable=True, descending=True)",
        "lambda x: (jnp.sort(x, 1, descending=True), jnp.argsort(x, 1, descending=True))",
        distinct,
        {"ties": TIED},
        gradient(
            "ties",
            "jnp.sort turns the ascending order round, and with it the order of ties, jnp.argsort does not",
            "jax/_src/numpy/sorting.py, sort",
        ),
    ),
    Row(
        "topk",
        "lambda x: x.topk(2, 1).values",
        "lambda x: lax.top_k(x, 2)[0]",
        distinct,
        {"ties": TIED},
        differs=gradient(
            "ties",
            "which of those that tie is taken is not defined in torch; jax takes the first",
            "torch.topk; jax.lax.top_k",
            leaf="grad.input",
            torch=None,
            jax=None,
        ),
    ),
    Row("topk-indices", "lambda x: x.topk(2, 1).indices", "lambda x: lax.top_k(x, 2)[1]", distinct),
    Row(
        "argmax",
        "lambda x: x.argmax(1)",
        "lambda x: jnp.argmax(x, 1)",
        distinct,
        {"ties": TIED, "nan": [[1.0, NAN, NAN]]},
        options={"wrt": []},
    ),
    Row(
        "argmin",
        "lambda x: x.argmin(1)",
        "lambda x: jnp.argmin(x, 1)",
        distinct,
        {"ties": TIED, "nan": [[1.0, NAN, NAN]]},
        options={"wrt": []},
    ),
    Row(
        "amax",
        "lambda x: x.amax(1)",
        "lambda x: jnp.max(x, 1)",
        distinct,
        {"ties": TIED, "nan": [[1.0, NAN, 2.0], [0.0, 1.0, 2.0]]},
        gradient("nan", "in a row with a NaN torch's gradient is NaN, jax's 0", f"{YAML}, amax", torch=NAN),
    ),
    Row("amin", "lambda x: x.amin(1)", "lambda x: jnp.min(x, 1)", distinct, {"ties": TIED}),
    Row(
        "max-dim",
        "lambda x: x.max(1).values",
        "lambda x: jnp.max(x, 1)",
        distinct,
        {"ties": TIED},
        gradient(
            "ties",
            "torch's gradient goes to the one element it names, jax's to all that tie",
            f"{YAML}, max.dim; jax/_src/lax/lax.py, _reduce_chooser_jvp_rule",
        ),
    ),
    Row("max", "lambda x: x.max()", "lambda x: jnp.max(x)", distinct, {"ties": TIED}),
    Row(
        "median",
        "lambda x: x.median(1).values",
        'lambda x: jnp.quantile(x, 0.5, axis=1, method="lower")',
        distinct,
        {"four": [[1.0, 2.0, 4.0, 8.0]]},
        words="torch's median of an even count is the lower of the two, jnp.median their mean.",
    ),
    Row(
        "median-mean",
        "lambda x: x.quantile(0.5, 1)",
        "lambda x: jnp.median(x, 1)",
        distinct,
        {"four": [[1.0, 2.0, 4.0, 8.0]]},
        dtypes=("float32",),
    ),
    *[
        Row(
            f"quantile-{m}",
            f'lambda x: x.quantile(0.3, 1, interpolation="{m}")',
            f'lambda x: jnp.quantile(x, 0.3, axis=1, method="{m}")',
            everywhere,
            dtypes=("float32",),
        )
        for m in ("linear", "lower", "higher", "midpoint")
    ],
    Row(
        "quantile-nearest",
        'lambda x: x.quantile(0.3, 1, interpolation="nearest")',
        'lambda x: jnp.quantile(x, 0.3, axis=1, method="nearest")',
        everywhere,
        dtypes=("float32",),
        differs=tuple(
            Difference(
                leaf,
                "even",
                "halfway between two, torch takes the one of even rank, jax the lower",
                "torch.round; jax/_src/numpy/reductions.py, _quantile",
            )
            for leaf in ("output", "grad.input")
        ),
    ),
    *[Row(f"var-correction-{c}", f"lambda x: x.var(1, correction={c})", f"lambda x: jnp.var(x, 1, ddof={c})", everywhere) for c in (0, 1)],
    Row(
        "std",
        "lambda x: x.std(1)",
        "lambda x: jnp.std(x, 1, ddof=1)",
        everywhere,
        {"constant": [[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]], "constant row": [[1.0, 2.0, 4.0]]},
        words="torch divides by n - 1, jax by n: ddof=1.",
        differs=gradient(
            "constant",
            "torch gives 0, jax NaN",
            "torch: tools/autograd/derivatives.yaml, std: masked where the result is 0; jax.numpy.std is a square root",
            leaf="grad.input",
            torch=0.0,
            jax=NAN,
        ),
    ),
    Row("mean", "lambda x: x.mean((0, 1))", "lambda x: jnp.mean(x, (0, 1))", everywhere),
    Row("nanmean", "lambda x: x.nanmean(1)", "lambda x: jnp.nanmean(x, 1)", everywhere, {"nan": [[1.0, NAN, 3.0], [2.0, 1.0, 0.0]]}),
    Row("nansum", "lambda x: x.nansum(1)", "lambda x: jnp.nansum(x, 1)", everywhere, {"nan": [[1.0, NAN, 3.0], [2.0, 1.0, 0.0]]}),
    Row("prod", "lambda x: x.prod(1)", "lambda x: jnp.prod(x, 1)", everywhere, {"zeros": [[0.0, 2.0, 3.0], [0.0, 0.0, 3.0]]}),
    *[
        Row(
            f"norm-{n}",
            f"lambda x: torch.linalg.vector_norm(x, {t}, 1)",
            f"lambda x: jnp.linalg.norm(x, {j}, 1)",
            everywhere,
            {"zero row": [[0.0, 0.0, 0.0]]},
            gradient(
                "zero row",
                f"torch gives 0, jax {g}",
                f"{YAML}, linalg_vector_norm (subgradient 0); jax.numpy.linalg.norm",
                torch=0.0,
                jax=NAN if g == "NaN" else None,
            ),
        )
        for n, t, j, g in [("1", 1, 1, "1"), ("2", 2, 2, "NaN"), ("3", 3, 3, "NaN"), ("inf", "torch.inf", "jnp.inf", "shares of 1")]
    ],
    Row("trapezoid", "lambda x: torch.trapezoid(x, dim=1)", "lambda x: jnp.trapezoid(x, axis=1)", everywhere),
    Row("cov", "lambda x: torch.cov(x)", "lambda x: jnp.cov(x)", everywhere),
    Row("roll", "lambda x: x.roll(2, 1)", "lambda x: jnp.roll(x, 2, 1)", everywhere),
    Row("tril", "lambda x: x.tril(-1)", "lambda x: jnp.tril(x, -1)", everywhere),
]


def entries() -> Iterator[Entry]:
    for rows, shapes in ((UNARY, {"odd": (5, 3)}), (BINARY, {"odd": (5, 3), "row": (1, 7)}), (ALONG, {"odd": (4, 7), "even": (2, 6)})):
        for row in rows:
            draws = row.draw if isinstance(row.draw, tuple) else (row.draw,)
            yield Entry(
                row.name,
                row.torch,
                {"jax": Equivalent(row.jax, differs=row.differs, words=row.words)},
                {name: tuple(draw(*shape) for draw in draws) for name, shape in shapes.items()},
                edges={
                    name: tuple(fixed(np.array(array)) for array in (edge if isinstance(edge, tuple) else (edge,)))
                    for name, edge in row.edges.items()
                },
                options=row.options,
                dtypes=row.dtypes,
            )


ENTRIES: tuple[Entry, ...] = tuple(entries())
