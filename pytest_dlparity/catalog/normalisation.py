"""Norms of batches, layers, groups, instances and vectors, and norms of weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import Draw, fixed, normal, uniform

SIZES = {1: (7,), 2: (5, 4), 3: (3, 2, 4)}
EPSILON = {
    "epsilon": "torch's eps is 1e-5 by default; flax's epsilon is 1e-5 in BatchNorm and 1e-6 in its other norms; equinox and haiku have 1e-5 "
    "(flax.linen.normalization)",
    "variance": "flax computes E[x^2] - E[x]^2 unless use_fast_variance=False, which cancels where the mean is large beside the spread "
    "(flax.linen.normalization._compute_stats)",
}
FLAX = {"eps": "epsilon", "weight": "scale"}
HAIKU = {"weight": "scale", "bias": "offset", "affine=False": "create_scale=False, create_offset=False"}


# ---------------------------------------------------------------- batches

MOMENTUM = {
    "momentum": "torch's momentum is the weight of the new value, everyone else's that of the old one: 0.1 there is 0.9 here "
    "(https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html; flax.linen.BatchNorm)",
    "running variance": "torch keeps the variance of N - 1, the others that of N; both normalise with that of N (torch.nn.BatchNorm2d)",
}


EVALUATED = """
def batch_norm(p, x):
    mean, variance, weight, bias = (p[name].reshape{column} for name in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) * lax.rsqrt(variance + 1e-5) * weight + bias
"""
EQUINOX = Equivalent(
    'dlp.vmap(eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, axis_name="batch", momentum=0.9, mode="batch"), axis_name="batch")',
    {"num_features": "input_size", "momentum=0.1": "momentum=0.9, mode='batch'"},
    words="mode='ema', the old default, normalises with the running statistics in training too. After training, evaluation divides the "
    "statistics by 1 - momentum^steps.",
)
TORCH_STATISTICS = """
def batch_norm(x, weight, bias, mean, variance):
    mean, variance = mean.clone(), variance.clone()
    return F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.1), mean, variance
"""
STATISTICS = """
def batch_norm(x, weight, bias, mean, variance):
    n = x.size / x.shape[1]
    column = (1, -1) + (1,) * (x.ndim - 2)
    axes = (0, *range(2, x.ndim))
    m, v = x.mean(axes), x.var(axes)
    y = (x - m.reshape(column)) * lax.rsqrt(v.reshape(column) + 1e-5) * weight.reshape(column) + bias.reshape(column)
    return y, 0.9 * mean + 0.1 * m, 0.9 * variance + 0.1 * v * n / (n - 1)
"""
STATE = [normal(4), normal(4), normal(4), uniform(4, low=0.5, high=2.0)]


def _batch(shape: tuple[int, ...], train: bool) -> Entry:
    """Batch norm of (batch, 4) or (batch, 4, *shape)."""
    dims = max(len(shape), 1)
    name = f"batch-norm{dims}d{'' if shape else '-vectors'}-{'train' if train else 'eval'}"
    cases = {"batch": [normal(5, 4, *shape, mean=0.5)], **({} if train and not shape else {"one": [normal(1, 4, *shape)]})}
    column = f"(1, -1, {', '.join('1' * len(shape))})" if shape else "(1, -1)"
    prefix = "module." if shape else ""  # of the torch module whose channels are moved

    def state(leaf: str, says: str, source: str, before: str = "") -> tuple[Difference, ...]:
        return tuple(Difference(f"state.{before}{leaf}", case, says, source) for case in cases) if train else ()

    variance = (
        "running_var",
        "torch's running variance is that of N - 1, this one that of N",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html",
    )
    debiased = (
        "running_mean",
        "haiku's average is divided by 1 - decay^steps, torch's begins at its first value",
        "haiku.ExponentialMovingAverage, zero_debias",
    )
    flax = {**FLAX, "momentum=0.1": "momentum=0.9", "running_mean": "mean", "running_var": "var"}
    return Entry(
        name=name,
        torch=f"torch.nn.BatchNorm{dims}d(4)",
        jax={
            **({} if train else {"jax": EVALUATED.format(column=column)}),
            "linen": Equivalent(
                "linen.BatchNorm(momentum=0.9, epsilon=1e-5, use_fast_variance=False)",
                {**flax, "train, eval": "use_running_average=False, True"},
                channels_last=bool(shape),
                differs=state(*variance, prefix),
            ),
            "nnx": Equivalent(
                "nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))",
                flax,
                channels_last=bool(shape),
                differs=state(*variance, prefix),
            ),
            "equinox": replace(EQUINOX, differs=state(*variance)),
            "haiku": Equivalent(
                "hk.transform_with_state(lambda x, is_training: hk.BatchNorm(True, True, 0.9)(x, is_training))",
                {"momentum=0.1": "decay_rate=0.9", **HAIKU},
                channels_last=bool(shape),
                differs=(*state(*variance, prefix), *state(*debiased, prefix)),
            ),
        },
        cases=cases,
        options={"train": train},
        notes={**EPSILON, **MOMENTUM},
    )


# ---------------------------------------------------------------- layers, groups, instances

ROWS = {"rows": [normal(7, 5, mean=0.5)], "one": [normal(1, 5)], "sequence": [normal(2, 3, 5)]}
CONSTANT = [fixed(np.array([[0.0] * 5, [1.0] * 5, [-3.0] * 5, [1.0, 2, -4, 0, 3]]))]
ROW = ("rows", "one", "a constant row")  # what equinox takes under one vmap
FULL = "y = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # in half precision too, as in torch"
LAYER_NORM = f"""
def layer_norm(p, x):
    {FULL}
    y = (y - y.mean(AXES, keepdims=True)) * lax.rsqrt(y.var(AXES, keepdims=True) + 1e-5)
    return (ySCALEBIAS).astype(x.dtype)
"""


def _layer_function(axes: str, weight: bool, bias: bool) -> str:
    code = (
        LAYER_NORM.replace("AXES", axes)
        .replace("SCALE", " * p['weight']" if weight else "")
        .replace("BIAS", " + p['bias']" if bias else "")
    )
    return code if weight else code.replace("(p, x)", "(x)")


def _overflow(case: str) -> Difference:
    says = "in float16 the gradient of rsqrt(variance + 1e-5) overflows where the variance is 0; torch and the others normalise in float32"
    return Difference("grad.input", case, says, "haiku.LayerNorm.__call__; haiku.GroupNorm.__call__", dtypes=("float16",))


def _layer_norm(name: str, weight: bool, bias: bool) -> Entry:
    said = "" if bias else ", bias=False" if weight else ", elementwise_affine=False"
    flax = "epsilon=1e-5, use_fast_variance=False" + ("" if weight else ", use_scale=False") + ("" if bias else ", use_bias=False")
    off = {"elementwise_affine=False": "use_bias=False, use_scale=False"}
    return Entry(
        name=f"layer-norm{name}",
        torch=f"torch.nn.LayerNorm(5{said})",
        jax={
            "jax": _layer_function("-1", weight, bias),
            "linen": Equivalent(f"linen.LayerNorm({flax})", {**FLAX, **off}),
            "nnx": Equivalent(f"nnx.LayerNorm(5, {flax}, rngs=nnx.Rngs(0))", {**FLAX, **off}),
            "equinox": Equivalent(
                f"dlp.vmap(eqx.nn.LayerNorm(5, use_weight={weight}, use_bias={bias}))",
                {"elementwise_affine=False": "use_weight=False, use_bias=False"},
                cases=ROW if weight and bias else (),
                words="Takes one vector.",
            ),
            "haiku": Equivalent(
                f"hk.transform(lambda x: hk.LayerNorm(-1, {weight}, {bias})(x))", HAIKU, differs=(_overflow("a constant row"),)
            ),
        },
        cases=ROWS if weight and bias else {"rows": ROWS["rows"]},
        edges={"a constant row": CONSTANT},
        notes=EPSILON,
    )


def _images(dims: int) -> dict[str, list[Draw]]:
    return {"batch": [normal(3, 4, *SIZES[dims], mean=0.5)], "one": [normal(1, 4, *SIZES[dims])]}


def _constant(dims: int) -> list[Draw]:
    """Some channels are zero everywhere, the others are not. A constant of 2 would not do: torch takes E[x^2] - E[x]^2 in channels last."""
    made = np.random.default_rng(0).normal(size=(2, 4, *SIZES[dims]))
    made[0] = made[1, 1] = 0.0
    return [fixed(made)]


GROUP_NORM = f"""
def group_norm(p, x):
    {FULL}
    y = y.reshape(len(x), GROUPS, -1)
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    return (y.reshape(x.shape) * p["weight"][:, None, None] + p["bias"][:, None, None]).astype(x.dtype)
"""


def _group(groups: int) -> Entry:
    return Entry(
        name=f"group-norm-{groups}-of-4",
        torch=f"torch.nn.GroupNorm({groups}, 4)",
        jax={
            "jax": GROUP_NORM.replace("GROUPS", str(groups)),
            "linen": Equivalent(f"linen.GroupNorm({groups}, epsilon=1e-5, use_fast_variance=False)", FLAX, channels_last=True),
            "nnx": Equivalent(
                f"nnx.GroupNorm(4, num_groups={groups}, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))",
                {**FLAX, "num_channels": "num_features"},
                channels_last=True,
            ),
            "equinox": Equivalent(f"dlp.vmap(eqx.nn.GroupNorm({groups}, 4))", {"num_groups": "groups", "num_channels": "channels"}),
            "haiku": Equivalent(
                f"hk.transform(lambda x: hk.GroupNorm({groups})(x))",
                {"num_groups": "groups", **HAIKU},
                channels_last=True,
                differs=(_overflow("constant"),),
            ),
        },
        cases=_images(2),
        edges={"constant": _constant(2)},
        notes={**EPSILON, "groups": "torch has no default; flax's is 32 groups (flax.linen.GroupNorm)"},
    )


WRONG = (
    "torch's gradient is wrong on the CPU where the batch is one and the gradient that comes in has channels last in memory; "
    "made contiguous, it agrees"
)


def _instance(dims: int, affine: bool) -> Entry:
    axes = tuple(range(2, 2 + dims))
    column = f"(-1, {', '.join('1' * dims)})"
    flax = "epsilon=1e-5, use_fast_variance=False" + ("" if affine else ", use_scale=False, use_bias=False")
    images = dims > 1  # torch knows channels_last for images and volumes
    wrong = tuple(
        Difference(leaf, "one", WRONG, "torch.nn.functional.instance_norm in torch 2.13.0, found by this catalogue")
        for leaf in ("grad.input", *(("grad.module.weight", "grad.module.bias") if affine else ()))
        if images
    )
    scaled = f" * p['weight'].reshape{column} + p['bias'].reshape{column}" if affine else ""
    return Entry(
        name=f"instance-norm{dims}d{'-affine' if affine else ''}",
        torch=f"torch.nn.InstanceNorm{dims}d(4{', affine=True' if affine else ''})",
        jax={
            "jax": f"def instance_norm({'p, ' if affine else ''}x):\n    {FULL}\n"
            f"    y = (y - y.mean({axes}, keepdims=True)) * lax.rsqrt(y.var({axes}, keepdims=True) + 1e-5)\n"
            f"    return (y{scaled}).astype(x.dtype)",
            "linen": Equivalent(f"linen.InstanceNorm({flax})", FLAX, channels_last=True, differs=wrong),
            "nnx": Equivalent(f"nnx.InstanceNorm(4, {flax}, rngs=nnx.Rngs(0))", FLAX, channels_last=True, differs=wrong),
            "equinox": Equivalent(
                f"dlp.vmap(eqx.nn.GroupNorm(4, {'4' if affine else 'channelwise_affine=False'}))",
                {"num_features": "groups and channels"},
                words="An instance norm is a group norm with one channel a group.",
            ),
            "haiku": Equivalent(
                f"hk.transform(lambda x: hk.InstanceNorm({affine}, {affine})(x))",
                HAIKU,
                channels_last=True,
                differs=(*wrong, _overflow("constant")),
            ),
        },
        cases=_images(dims),
        edges={"constant": _constant(dims)},
        notes={**EPSILON, "affine": "torch has no weight and bias by default, flax has (torch.nn.InstanceNorm2d; flax.linen.InstanceNorm)"},
    )


# ---------------------------------------------------------------- vectors

RMS = f"""
def rms_norm(p, x):
    {FULL}
    y = y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + EPS)
    return (y * p["weight"]).astype(x.dtype)
"""

LOCAL = """
def local_response(x):
    square = jnp.pad(x * x, [(0, 0), ({before}, {after}), (0, 0), (0, 0)])
    total = sum(square[:, i : i + x.shape[1]] for i in range({size}))
    return x / (1.0 + 1e-2 / {size} * total) ** 0.75
"""

ZERO_ROW = [fixed(np.array([[0.0, 0, 0], [3, 0, 4]]))]

SAFE = """
def normalised(x):
    square = jnp.sum(x * x, -1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))
"""

# ---------------------------------------------------------------- weights

SPECTRAL = """
def spectral(p, x):
    weight, u, v = (p["parametrizations.weight." + name] for name in ("original", "0._u", "0._v"))
    return x @ (weight / (u @ weight @ v)).T + p["bias"]
"""
VECTORS = {"rows": [normal(7, 5)], "one": [normal(1, 5)]}
ORIGINAL = "parametrizations.weight.original"

ENTRIES: tuple[Entry, ...] = (
    *[_batch(shape, train) for shape in ((), SIZES[1], SIZES[2], SIZES[3]) for train in (True, False)],
    Entry(
        name="batch-norm-statistics",
        torch=TORCH_STATISTICS,
        jax={"jax": Equivalent(STATISTICS, words="The running variance is that of N - 1, the one that normalises that of N.")},
        cases={
            "vectors": [normal(5, 4), *STATE],
            "images": [normal(3, 4, 5, 4), *STATE],
            "one image": [normal(1, 4, 3, 3), *STATE],
        },
        options={"wrt": ["input0", "input1", "input2"]},
        of="torch.nn.functional.batch_norm",
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has the layer and no function"),
        notes=MOMENTUM,
    ),
    _layer_norm("", True, True),
    _layer_norm("-no-bias", True, False),
    _layer_norm("-plain", False, False),
    Entry(
        name="layer-norm-of-flax",
        torch="torch.nn.LayerNorm(5)",
        jax={
            library: Equivalent(
                code,
                differs=tuple(
                    Difference(leaf, "rows", "flax's epsilon is 1e-6 by default, torch's 1e-5", "flax.linen.LayerNorm; torch.nn.LayerNorm")
                    for leaf in ("output", "grad.input", "grad.weight")
                ),
            )
            for library, code in {"linen": "linen.LayerNorm()", "nnx": "nnx.LayerNorm(5, rngs=nnx.Rngs(0))"}.items()
        },
        cases={"rows": ROWS["rows"]},
        notes=EPSILON,
    ),
    Entry(
        name="layer-norm-large-mean",
        torch="torch.nn.LayerNorm(5)",
        jax={
            library: Equivalent(
                code,
                differs=tuple(
                    Difference(
                        leaf,
                        "a mean of 1000",
                        "E[x^2] - E[x]^2 has lost the digits of the variance",
                        "flax.linen.normalization._compute_stats, use_fast_variance",
                    )
                    for leaf in ("output", "grad.input", "grad.weight")
                ),
                words="Give use_fast_variance=False.",
            )
            for library, code in {
                "linen": "linen.LayerNorm(epsilon=1e-5)",
                "nnx": "nnx.LayerNorm(5, epsilon=1e-5, rngs=nnx.Rngs(0))",
            }.items()
        },
        cases={"rows": ROWS["rows"]},
        edges={"a mean of 1000": [normal(7, 5, mean=1000.0)]},
        notes=EPSILON,
        dtypes=("float32",),
    ),
    Entry(
        name="layer-norm-two-axes",
        torch="torch.nn.LayerNorm((3, 5))",
        jax={
            "jax": _layer_function("(-2, -1)", True, True),
            "linen": Equivalent(
                "linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, reduction_axes=(-2, -1), feature_axes=(-2, -1))",
                {**FLAX, "normalized_shape=(3, 5)": "reduction_axes=(-2, -1), feature_axes=(-2, -1)"},
            ),
            "equinox": Equivalent("dlp.vmap(eqx.nn.LayerNorm((3, 5)))", {"normalized_shape": "shape"}),
            "haiku": Equivalent(
                "hk.transform(lambda x: hk.LayerNorm((-2, -1), True, True, param_axis=(-2, -1))(x))",
                {"normalized_shape=(3, 5)": "axis=(-2, -1), param_axis=(-2, -1)", **HAIKU},
            ),
        },
        cases={"batch": [normal(4, 3, 5)], "one": [normal(1, 3, 5)]},
        missing={"nnx": "its LayerNorm has the parameters of one axis, num_features"},
        notes=EPSILON,
    ),
    *[_group(groups) for groups in (1, 2, 4)],
    *[_instance(dims, affine) for dims in (1, 2, 3) for affine in (False, True) if affine or dims == 2],
    Entry(
        name="rms-norm",
        torch="torch.nn.RMSNorm(5, eps=1e-5)",
        jax={
            "jax": RMS.replace("EPS", "1e-5"),
            "linen": Equivalent("linen.RMSNorm(epsilon=1e-5)", FLAX),
            "nnx": Equivalent("nnx.RMSNorm(5, epsilon=1e-5, rngs=nnx.Rngs(0))", FLAX),
            "equinox": Equivalent(
                "dlp.vmap(eqx.nn.RMSNorm(5, use_bias=False))",
                {"elementwise_affine=False": "use_weight=False"},
                cases=("rows", "one", "zeros and large"),
                words="Has a bias by default, torch has none. Takes one vector.",
            ),
            "haiku": Equivalent("hk.transform(lambda x: hk.RMSNorm(-1)(x))", HAIKU, differs=(_overflow("zeros and large"),)),
        },
        cases=ROWS,
        edges={"zeros and large": [fixed(np.array([[0.0] * 5, [64.0, -64, 32, 1, 0]]))]},
        notes={
            "epsilon": "torch's eps is that of the dtype by default (torch.finfo(x.dtype).eps), flax's 1e-6, equinox's and haiku's 1e-5 "
            "(https://docs.pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html)"
        },
    ),
    Entry(
        name="rms-norm-default-eps",
        torch="torch.nn.RMSNorm(5)",
        jax={"jax": RMS.replace("EPS", "jnp.finfo(x.dtype).eps")},
        cases=ROWS,
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "its epsilon does not follow the dtype; give torch an eps"),
    ),
    *[
        Entry(
            name=f"local-response-norm-{size}",
            torch=f"torch.nn.LocalResponseNorm({size}, alpha=1e-2)",
            jax={
                "jax": Equivalent(LOCAL.format(size=size, before=size // 2, after=(size - 1) // 2), words="alpha is divided by the size.")
            },
            cases=_images(2),
            missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such layer"),
        )
        for size in (2, 3)
    ],
    Entry(
        name="normalize",
        torch="lambda x: F.normalize(x, dim=-1)",
        jax={
            "jax": Equivalent(
                "lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)",
                differs=(
                    Difference(
                        "grad.input",
                        "a row of zeros",
                        "torch's norm has a gradient of 0 at zero, jax's is NaN",
                        "https://docs.jax.dev/en/latest/faq.html#gradients-contain-nan-where-using-where",
                    ),
                ),
            ),
        },
        cases={**ROWS, "prime": [normal(3, 7)]},
        edges={"a row of zeros": ZERO_ROW},
        of="torch.nn.functional.normalize",
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such function"),
        notes={"float16": "eps=1e-12 is 0 there, and torch's row of zeros NaN (torch.nn.functional.normalize)"},
        dtypes=("float32", "float64", "bfloat16"),
    ),
    Entry(
        name="normalize-safe",
        torch="lambda x: F.normalize(x, dim=-1)",
        jax={"jax": Equivalent(SAFE, words="The square is clamped before the root, so a row of zeros has torch's gradient.")},
        cases=ROWS,
        edges={"a row of zeros": ZERO_ROW},
        of="torch.nn.functional.normalize",
        dtypes=("float32", "float64", "bfloat16"),
    ),
    Entry(
        name="normalize-1-norm",
        torch="lambda x: F.normalize(x, p=1.0, dim=1)",
        jax={"jax": "lambda x: x / jnp.maximum(jnp.abs(x).sum(1, keepdims=True), 1e-12)"},
        cases=_images(2),
        of="torch.nn.functional.normalize",
    ),
    Entry(
        name="weight-norm",
        torch="torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 3))",
        jax={
            "jax": "def normed(p, x):\n"
            '    g, v = p["parametrizations.weight.original0"], p["parametrizations.weight.original1"]\n'
            '    return x @ (g * v / jnp.linalg.norm(v, axis=1, keepdims=True)).T + p["bias"]',
            "linen": Equivalent(
                "linen.WeightNorm(linen.Dense(3))", {"dim=0": "feature_axes=-1", "original0": "scale", "original1": "kernel"}
            ),
            "equinox": Equivalent(
                "dlp.vmap(eqx.nn.WeightNorm(eqx.nn.Linear(5, 3, key=jax.random.key(0))))",
                {"dim=0": "axis=0", "original0": "g", "original1": "layer.weight"},
                options={"param_map": {ORIGINAL + "0": "g", ORIGINAL + "1": "layer.weight"}},
            ),
        },
        cases=VECTORS,
        missing={
            "haiku": "it has no weight norm",
            "nnx": "the scales of nnx.WeightNorm are plain arrays and no nnx.Param, so they are not trained (flax.nnx.WeightNorm)",
        },
        notes={"epsilon": "flax adds 1e-12 to the square of the norm, torch and equinox nothing (flax.linen.normalization._l2_normalize)"},
    ),
    *[
        Entry(
            name=f"spectral-norm-{'train' if train else 'eval'}",
            torch="torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(5, 3))",
            jax={
                **({} if train else {"jax": SPECTRAL}),
                "equinox": Equivalent(
                    'dlp.vmap(eqx.nn.make_with_state(eqx.nn.SpectralNorm)(eqx.nn.Linear(5, 3, key=jax.random.key(1)), "weight", '
                    "key=jax.random.key(0)))",
                    {"n_power_iterations": "num_power_iterations", "_u, _v": "the state uv_index"},
                    options={"param_map": {"parametrizations.weight.0._u": "uv_index.0", "parametrizations.weight.0._v": "uv_index.1"}},
                ),
            },
            cases=VECTORS,
            options={"train": train},
            missing={
                **dict.fromkeys(
                    ("linen", "nnx"), "its SpectralNorm keeps u alone and makes v anew: with torch's u and v it gives another sigma"
                ),
                "haiku": "hk.SpectralNorm normalises an array that is given, and keeps u alone",
            },
        )
        for train in (True, False)
    ],
)
