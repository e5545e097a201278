"""Pools: largest, mean, power, adaptive, and the way back."""

from __future__ import annotations

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import Draw, fixed, normal, uniform

SIZES = {1: (11,), 2: (7, 6), 3: (5, 4, 3)}  # odd and even
ADAPTIVE = "https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html"
STRIDE = {
    "stride": "torch's stride is the kernel's size by default, flax's and equinox's is 1, haiku has none (flax.linen.max_pool; equinox.nn.MaxPool2d)",
}
FLAX = {"kernel_size=2": "window_shape=(2, 2)", "stride": "strides, 1 by default", "padding=1": "padding=((1, 1), (1, 1))"}


def _images(dims: int, low: float = 0.0) -> dict[str, list[Draw]]:
    return {"odd and even": [normal(2, 3, *SIZES[dims], mean=low)], "one, prime": [normal(1, 1, *(5,) * dims)]}


def _said(**given: object) -> str:
    return "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)


def _pool(kind: str, name: str, dims: int, kernel: int = 2, stride: int = 2, padding: int = 0, counted: bool = True) -> Entry:
    """A pool of every library: kind is max or avg; what is around it is minus infinity or zero."""
    kernels, strides, pairs = (kernel,) * dims, (stride,) * dims, ((padding, padding),) * dims
    window = f"{(1, 1, *kernels)}, {(1, 1, *strides)}, {((0, 0), (0, 0), *pairs)}"
    Kind = kind.capitalize()
    torch = _said(stride=stride if stride != kernel else None, padding=padding or None, count_include_pad=None if counted else False)
    flax = f"{kernels}" + _said(strides=strides, padding=pairs if padding else None, count_include_pad=None if counted else False)
    if kind == "max":
        function = f"lambda x: lax.reduce_window(x, -jnp.inf, lax.max, {window})"
    elif counted:
        function = f"lambda x: lax.reduce_window(x, 0.0, lax.add, {window}) / {kernel**dims}"
    else:
        function = f"lambda x: lax.reduce_window(x, 0.0, lax.add, {window}) / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, {window})"
    return Entry(
        name=f"{kind}-pool{dims}d{name}",
        torch=f"torch.nn.{Kind}Pool{dims}d({kernel}{torch})",
        jax={
            "jax": function,
            "linen": Equivalent(f"lambda x: linen.{kind}_pool(x, {flax})", FLAX, channels_last=True),
            "nnx": Equivalent(f"lambda x: nnx.{kind}_pool(x, {flax})", FLAX, channels_last=True),
            **(
                {"equinox": Equivalent(f"dlp.vmap(eqx.nn.{Kind}Pool{dims}d({kernel}, {stride}{_said(padding=padding or None)}))")}
                if counted
                else {}
            ),
            **(
                {}
                if padding
                else {
                    "haiku": Equivalent(
                        f"hk.transform(lambda x: hk.{kind}_pool(x, {(1, *kernels, 1)}, {(1, *strides, 1)}, 'VALID'))",
                        {"kernel_size=2": "window_shape=(1, 2, 2, 1)", "stride=2": "strides=(1, 2, 2, 1)", "padding=0": "'VALID'"},
                        channels_last=True,
                    )
                }
            ),
        },
        cases=_apart(dims) if kind == "max" else _images(dims, low=-1.0),
        missing={
            **({"haiku": "its pools pad 'SAME' or 'VALID'; 'SAME' pads less on the left than torch"} if padding else {}),
            **({} if counted else {"equinox": "its mean always counts what was padded"}),
        },
        notes=STRIDE,
    )


def _distinct(*shape: int) -> Draw:
    """Numbers of which no two in an image are equal, also when rounded to 8 bits: whose gradient it is has one answer."""
    images, size = int(np.prod(shape[:2])), int(np.prod(shape[2:]))

    def make(rng: np.random.Generator) -> np.ndarray:
        return rng.permuted(np.tile(np.arange(size), (images, 1)), axis=1).reshape(shape) / 16 - 2

    return Draw(f"distinct{shape}", make)


def _apart(dims: int) -> dict[str, list[Draw]]:
    return {"odd and even": [_distinct(2, 3, *SIZES[dims])], "one, prime": [_distinct(1, 1, *(5,) * dims)]}


TIES = [fixed(np.array([[[[1.0, 1, 0, 0], [1, 1, 0, 0], [2, 0, 0, 3], [0, 2, 3, 0]]]]))]
NOT_FINITE = [fixed(np.array([[[[np.inf, 1, -np.inf, -np.inf], [1, 1, -np.inf, -np.inf], [-np.inf, 2, 5, np.inf], [3, 4, 6, 7]]]]))]
NANS = [fixed(np.array([[[[np.nan, 1, 0, 5], [1, 1, 0, np.nan], [2, 0, np.nan, 3], [0, 2, 3, np.nan]]]]))]

CEIL = (
    "lax.reduce_window({x}, {start}, {operation}, (1, 1, 2, 2), (1, 1, 2, 2), ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2)))"
)

INDICES = """
def pooled(x):
    \"\"\"Values and their places in the flat image: the first of equal ones.\"\"\"
    n, c, h, w = x.shape
    rows, columns = h // 2, w // 2
    windows = x[:, :, : 2 * rows, : 2 * columns].reshape(n, c, rows, 2, columns, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, rows, columns, 4)
    which = windows.argmax(-1)
    row, column = 2 * jnp.arange(rows)[:, None] + which // 2, 2 * jnp.arange(columns) + which % 2
    return jnp.take_along_axis(windows, which[..., None], -1)[..., 0], row * w + column
"""

DILATED = """
def dilated(x):
    h, w = x.shape[2] - 2, x.shape[3] - 2
    windows = jnp.stack([x[:, :, i : h + i, j : w + j] for i in (0, 2) for j in (0, 2)])
    return jnp.take_along_axis(windows, windows.argmax(0)[None], 0)[0]
"""

UNPOOL = """
def unpooled(x, places):
    n, c, h, w = x.shape
    flat = jnp.zeros((n, c, 4 * h * w), x.dtype)
    batch, channel = jnp.arange(n)[:, None, None], jnp.arange(c)[:, None]
    return flat.at[batch, channel, places.reshape(n, c, -1)].set(x.reshape(n, c, -1)).reshape(n, c, 2 * h, 2 * w)
"""


def _places(rng: np.random.Generator) -> np.ndarray:
    """One place of each window of 2 by 2 in an image of 4 by 6, flat."""
    row = 2 * np.arange(2)[:, None] + rng.integers(2, size=(2, 3, 2, 3))
    return row * 6 + 2 * np.arange(3) + rng.integers(2, size=(2, 3, 2, 3))


# a window of torch's adaptive pools begins at floor(i n / m) and ends before ceil((i + 1) n / m)
ADAPTIVE_FUNCTION = """
def adaptive(x):
    for axis, size in zip(range(2, x.ndim), {sizes}, strict=True):
        n = x.shape[axis]
        windows = [lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size), axis=axis) for i in range(size)]
        x = jnp.concatenate([window.{kind}(axis, keepdims=True) for window in windows], axis)
    return x
"""


def _adaptive(kind: str, dims: int, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Entry:
    divides = all(n % m == 0 for n, m in zip(shape, sizes, strict=True))
    name = "mean" if kind == "avg" else "max"
    says = "torch's windows overlap where the size does not divide, equinox's do not"
    drawn = _distinct if kind == "max" else normal
    cases = {"batch": [drawn(2, 3, *shape)], "one": [drawn(1, 1, *shape)]}
    return Entry(
        name=f"adaptive-{kind}-pool{dims}d{'' if divides else '-uneven'}",
        torch=f"torch.nn.Adaptive{kind.capitalize()}Pool{dims}d({sizes})",
        jax={
            "jax": ADAPTIVE_FUNCTION.format(sizes=sizes, kind=name),
            "equinox": Equivalent(
                f"dlp.vmap(eqx.nn.Adaptive{kind.capitalize()}Pool{dims}d({sizes}))",
                {"output_size": "target_shape"},
                differs=()
                if divides
                else tuple(Difference(leaf, case, says, ADAPTIVE) for case in cases for leaf in ("output", "grad.input")),
            ),
        },
        cases=cases,
        missing=dict.fromkeys(("linen", "nnx", "haiku"), "it has no adaptive pools; use reshape and mean where the size divides"),
    )


def _power(dims: int, power: float, kernel: int) -> Entry:
    window = f"{(1, 1, *(kernel,) * dims)}, {(1, 1, *(kernel,) * dims)}, 'VALID'"
    return Entry(
        name=f"lp-pool{dims}d-{power:g}",
        torch=f"torch.nn.LPPool{dims}d({power}, {kernel})",
        jax={"jax": f"lambda x: lax.reduce_window(x**{power:g}, 0.0, lax.add, {window}) ** (1 / {power:g})"},
        cases={
            name: [uniform(*shape, low=0.5, high=2.0)] for name, shape in (("batch", (2, 3, *SIZES[dims])), ("one", (1, 1, *(5,) * dims)))
        },
        edges={"of both signs": [normal(2, 3, *SIZES[dims])]},
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no power pools"),
        notes={"odd powers": "the root of a negative sum is NaN on both sides: take the absolute value before (torch.nn.LPPool2d)"},
    )


ENTRIES: tuple[Entry, ...] = (
    *[
        pool
        for kind in ("max", "avg")
        for dims in (1, 2, 3)
        for pool in (_pool(kind, "", dims), _pool(kind, "-padded", dims, kernel=3, stride=2, padding=1))
    ],
    *[_pool(kind, "-stride-larger-than-kernel", 2, kernel=2, stride=3) for kind in ("max", "avg")],
    *[_pool("avg", "-pad-not-counted", dims, kernel=3, stride=2, padding=1, counted=False) for dims in (1, 2)],
    Entry(
        name="max-pool2d-dilated",
        torch="torch.nn.MaxPool2d(2, stride=1, dilation=2)",
        jax={
            "jax": Equivalent(
                DILATED,
                words="lax.reduce_window has window_dilation, but no gradient with it. Equal numbers: the first has the gradient.",
            )
        },
        cases=_apart(2),
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "its pools have no dilation"),
    ),
    Entry(
        name="max-pool2d-ceil-mode",
        torch="torch.nn.MaxPool2d(2, ceil_mode=True)",
        jax={
            "jax": f"lambda x: {CEIL.format(x='x', start='-jnp.inf', operation='lax.max')}",
            "equinox": Equivalent("dlp.vmap(eqx.nn.MaxPool2d(2, 2, use_ceil=True))", {"ceil_mode": "use_ceil"}),
        },
        cases=_apart(2),
        missing=dict.fromkeys(("linen", "nnx", "haiku"), "it has no ceil_mode; pad at the end with minus infinity"),
    ),
    Entry(
        name="avg-pool2d-ceil-mode",
        torch="torch.nn.AvgPool2d(2, ceil_mode=True)",
        jax={
            "jax": Equivalent(
                f"lambda x: {CEIL.format(x='x', start='0.0', operation='lax.add')}"
                f" / {CEIL.format(x='jnp.ones_like(x)', start='0.0', operation='lax.add')}",
                words="What ceil_mode adds at the end is not counted.",
            ),
            "equinox": Equivalent(
                "dlp.vmap(eqx.nn.AvgPool2d(2, 2, use_ceil=True))",
                {"ceil_mode": "use_ceil"},
                differs=tuple(
                    Difference(
                        leaf, case, "torch divides the windows that stand out by what they hold, equinox by the whole kernel", source
                    )
                    for case in _images(2)
                    for leaf, source in (("output", "equinox.nn.AvgPool2d.__call__"), ("grad.input", "equinox.nn.AvgPool2d.__call__"))
                ),
            ),
        },
        cases=_images(2),
        missing=dict.fromkeys(("linen", "nnx", "haiku"), "it has no ceil_mode"),
    ),
    Entry(
        name="avg-pool2d-divisor",
        torch="torch.nn.AvgPool2d(2, divisor_override=3)",
        jax={"jax": 'lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 3'},
        cases=_images(2),
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "its mean divides by what is counted; use a sum"),
    ),
    Entry(
        name="max-pool2d-ties",
        torch="torch.nn.MaxPool2d(2)",
        jax={
            library: Equivalent(
                code,
                differs=(
                    Difference(
                        "grad.input",
                        "nan",
                        "torch gives the gradient to the NaN that a window gave out, XLA's select compares with >= and passes it over",
                        "https://openxla.org/xla/operation_semantics#selectandscatter",
                    ),
                ),
            )
            for library, code in {
                "jax": 'lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")',
                "equinox": "dlp.vmap(eqx.nn.MaxPool2d(2, 2))",
            }.items()
        },
        cases={"ties": TIES},
        edges={"infinite": NOT_FINITE, "nan": NANS},
        notes={
            "ties": "both give the gradient to the first of equal numbers in a window (torch: aten/src/ATen/native/cpu/MaxPoolKernel.cpp; https://openxla.org/xla/operation_semantics#selectandscatter)",
            "random windows": "torch.nn.FractionalMaxPool2d is not here: it draws its windows from torch's generator, and no jax library has it "
            "(torch.nn.FractionalMaxPool2d)",
        },
    ),
    Entry(
        name="max-pool2d-indices",
        torch="torch.nn.MaxPool2d(2, return_indices=True)",
        jax={"jax": INDICES},
        cases=_apart(2),
        edges={"ties": TIES},
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "its pools give no places"),
    ),
    Entry(
        name="max-unpool2d",
        torch="torch.nn.MaxUnpool2d(2)",
        jax={"jax": UNPOOL},
        cases={"batch": [normal(2, 3, 2, 3), _places]},
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such layer"),
    ),
    *[
        _adaptive(kind, dims, sizes, shape)
        for kind in ("avg", "max")
        for dims, sizes, shape in (
            (1, (3,), (6,)),
            (2, (2, 3), (4, 6)),
            (2, (3, 2), (7, 5)),
            (3, (2, 1, 3), (4, 3, 3)),
        )
    ],
    Entry(
        name="adaptive-max-pool2d-ties",
        torch="torch.nn.AdaptiveMaxPool2d((2, 2))",
        jax={
            "jax": Equivalent(
                'lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")',
                words="Where the size divides, an adaptive pool is an ordinary one.",
            ),
            "equinox": Equivalent(
                "dlp.vmap(eqx.nn.AdaptiveMaxPool2d((2, 2)))",
                differs=(
                    Difference(
                        "grad.input",
                        "ties",
                        "torch gives the gradient to the first of equal numbers, jnp.max shares it among them",
                        "equinox.nn.AdaptiveMaxPool2d, which calls jnp.max; https://docs.jax.dev/en/latest/_autosummary/jax.numpy.max.html",
                    ),
                ),
            ),
        },
        cases={"distinct": [_distinct(2, 3, 4, 4)], "ties": TIES},
        missing=dict.fromkeys(("linen", "nnx", "haiku"), "it has no adaptive pools"),
    ),
    *[
        Entry(
            name=f"global-{kind}-pool2d",
            torch=f"torch.nn.Adaptive{kind.capitalize()}Pool2d(1)",
            jax={"jax": f"lambda x: x.{name}((2, 3), keepdims=True)"},
            cases=_apart(2) if kind == "max" else _images(2),
            missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), f"a pool over everything is {name} of jax.numpy"),
        )
        for kind, name in (("avg", "mean"), ("max", "max"))
    ],
    _power(1, 2.0, 3),
    _power(2, 2.0, 2),
    _power(2, 3.0, 2),
    _power(3, 2.0, 2),
)
