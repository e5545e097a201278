"""Resizing, padding and sampling of images."""

from __future__ import annotations

import math

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import Draw, normal

NO_LAYER = dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such layer; use jax.image or jnp.pad")
INTERPOLATE = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html"
RESIZE = "https://docs.jax.dev/en/latest/_autosummary/jax.image.resize.html"
NOTES = {
    "antialias": f"jax.image.resize smooths when it makes smaller unless antialias=False; torch only with antialias=True ({RESIZE}; {INTERPOLATE})",
    "nearest": f"torch's 'nearest' takes the pixel at floor(i / scale), jax's the nearest centre, which torch calls 'nearest-exact' ({INTERPOLATE})",
    "cubic": "torch's bicubic has a = -0.75, with antialias=True -0.5; jax's a = -0.5 "
    "(https://doi.org/10.1109/TASSP.1981.1163711; torch: aten/src/ATen/native/UpSample.h; jax.image.resize)",
}

# name: (torch's mode, jax's method)
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
SIZES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}
LARGER = {1: (11,), 2: (7, 10), 3: (5, 7, 4)}
SMALLER = {1: (3,), 2: (3, 2), 3: (2, 3, 1)}


def _images(dims: int, size: tuple[int, ...] = ()) -> dict[str, list[Draw]]:
    return {"batch": [normal(2, 3, *(size or SIZES[dims]))], "one": [normal(1, 1, *(size or SIZES[dims]))]}


def _resize(name: str, dims: int, size: tuple[int, ...], torch: str, jax: str, **more: object) -> Entry:
    return Entry(
        name=f"interpolate-{name}",
        torch=f"lambda x: F.interpolate(x, {size}, {torch})",
        jax={"jax": jax},
        cases=_images(dims),
        of="torch.nn.functional.interpolate",
        missing=NO_LAYER,
        notes=NOTES,
        **more,  # type: ignore[arg-type]
    )


def _jax(size: tuple[int, ...], method: str, antialias: bool = False) -> str:
    return f"lambda x: jax.image.resize(x, (*x.shape[:2], *{size}), {method!r}, antialias={antialias})"


CORNERS = """
def resized(x):
    scale = jnp.array([(m - 1) / (n - 1) for n, m in zip(x.shape[2:], {size}, strict=True)], x.dtype)
    shape, axes = (*x.shape[:2], *{size}), range(2, x.ndim)
    return jax.image.scale_and_translate(x, shape, axes, scale, (1 - scale) / 2, "linear", antialias=False)
"""

SCALED = """
def resized(x):
    shape = (*x.shape[:2], *(int(n * 1.5) for n in x.shape[2:]))
    return jax.image.scale_and_translate(x, shape, (2, 3), jnp.full(2, 1.5, x.dtype), jnp.zeros(2, x.dtype), "linear", antialias=False)
"""

FLOOR = """
def resized(x):
    for axis, size in zip(range(2, x.ndim), {size}, strict=True):
        x = jnp.take(x, np.arange(size) * x.shape[axis] // size, axis)
    return x
"""

CUBIC = """
def resized(x):
    def weights(n, m):
        \"\"\"(m, n): four neighbours each, those outside taken from the border. Keys 1981 with a = -0.75.\"\"\"
        place = (np.arange(m) + 0.5) * n / m - 0.5
        w = np.zeros((m, n))
        for offset in (-1, 0, 1, 2):
            i = np.floor(place).astype(int) + offset
            d = np.abs(place - i)
            near = (1.25 * d - 2.25) * d * d + 1
            far = ((-0.75 * d + 3.75) * d - 6) * d + 3
            np.add.at(w, (np.arange(m), i.clip(0, n - 1)), np.where(d <= 1, near, far))
        return jnp.asarray(w, x.dtype)
    rows, columns = weights(x.shape[2], {0}), weights(x.shape[3], {1})
    return jnp.einsum("ph,nchw,qw->ncpq", rows, x, columns)
"""

AREA = """
def resized(x):
    for axis, size in zip(range(2, x.ndim), {size}, strict=True):
        n = x.shape[axis]
        windows = [lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size), axis=axis) for i in range(size)]
        x = jnp.concatenate([window.mean(axis, keepdims=True) for window in windows], axis)
    return x
"""


# ---------------------------------------------------------------- padding


def _pad(layer: str, dims: int, mode: str, more: str = "", value: str = "") -> Entry:
    around = {1: (2, 1), 2: (1, 2, 0, 1), 3: (1, 0, 0, 1, 1, 2)}[dims]
    pairs = [(0, 0), (0, 0), *[(around[2 * i], around[2 * i + 1]) for i in reversed(range(dims))]]
    return Entry(
        name=f"{layer.lower()}-pad{dims}d",
        torch=f"torch.nn.{layer}Pad{dims}d({around}{more})",
        jax={
            "jax": Equivalent(
                f"lambda x: jnp.pad(x, {pairs}, {mode!r}{value})",
                {"padding=(left, right, top, bottom)": "pad_width in the order of the axes: [..., (top, bottom), (left, right)]"},
            )
        },
        cases={"batch": [normal(2, 3, *(5, 4, 3)[:dims])], "one": [normal(1, 1, *(3, 3, 3)[:dims])]},
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no padding layers; use jnp.pad"),
    )


# ---------------------------------------------------------------- sampling

SAMPLE = """
def sampled(x, grid):
    height, width = x.shape[2:]
    if {corners}:
        column, row = (grid[..., 0] + 1) / 2 * (width - 1), (grid[..., 1] + 1) / 2 * (height - 1)
    else:
        column, row = ((grid[..., 0] + 1) * width - 1) / 2, ((grid[..., 1] + 1) * height - 1) / 2
    def one(image, row, column):
        return jax.scipy.ndimage.map_coordinates(image, [row, column], order={order}, mode={mode!r})
    return jax.vmap(jax.vmap(one, (0, None, None)))(x, row, column)
"""


def _between(*shape: int, high: float) -> Draw:
    """Odd multiples of 1/8: they and what is computed of them are exact in every dtype, and none is a pixel's place or halfway between two."""
    most = math.ceil(high * 4)
    return Draw(f"places between pixels within {(2 * most - 1) / 8:g}", lambda rng: (2 * rng.integers(-most, most, shape) + 1) / 8)


def _sample(mode: str, padding: str, corners: bool) -> Entry:
    modes = {"zeros": "constant", "border": "nearest", "reflection": "mirror" if corners else "reflect"}
    order = {"bilinear": 1, "nearest": 0}[mode]
    return Entry(
        name=f"grid-sample-{mode}-{padding}{'-corners' if corners else ''}",
        torch=f"lambda x, grid: F.grid_sample(x, grid, mode={mode!r}, padding_mode={padding!r}, align_corners={corners})",
        jax={
            "jax": Equivalent(
                SAMPLE.format(corners=corners, order=order, mode=modes[padding]),
                {f"padding_mode={padding!r}": f"mode={modes[padding]!r}", f"mode={mode!r}": f"order={order}"},
                words="The grid is (column, row), map_coordinates takes (row, column).",
            )
        },
        cases={
            "batch": [normal(2, 3, 5, 4), _between(2, 3, 4, 2, high=1.2)],
            "one": [normal(1, 1, 3, 3), _between(1, 1, 5, 2, high=0.9)],
        },
        of="torch.nn.functional.grid_sample",
        missing=dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such layer; use jax.scipy.ndimage.map_coordinates"),
    )


AFFINE = """
def grid(theta):
    def centres(n):
        return jnp.asarray(np.linspace(-1, 1, n) if {corners} else (2 * np.arange(n) + 1) / n - 1, theta.dtype)
    row, column = jnp.meshgrid(centres(4), centres(5), indexing="ij")
    return jnp.einsum("hwi,noi->nhwo", jnp.stack([column, row, jnp.ones_like(row)], -1), theta)
"""

ENTRIES: tuple[Entry, ...] = (
    *[
        Entry(
            name=f"upsample{dims}d-nearest",
            torch="torch.nn.Upsample(scale_factor=2)",
            jax={
                "jax": Equivalent(
                    "lambda x: jax.image.resize(x, (*x.shape[:2], *(2 * n for n in x.shape[2:])), 'nearest')",
                    words="At whole factors 'nearest' is 'nearest-exact'; jnp.repeat along each axis is the same.",
                )
            },
            cases=_images(dims),
            missing=NO_LAYER,
        )
        for dims in (1, 2, 3)
    ],
    *[
        _resize(
            f"nearest-{dims}d-{way}",
            dims,
            size,
            "mode='nearest'",
            FLOOR.format(size=size),
        )
        for dims in (1, 2)
        for way, size in (("up", LARGER[dims]), ("down", SMALLER[dims]))
    ],
    *[_resize(f"nearest-exact-{dims}d", dims, LARGER[dims], "mode='nearest-exact'", _jax(LARGER[dims], "nearest")) for dims in (1, 2)],
    *[
        _resize(f"{mode}-{way}", dims, size, f"mode={mode!r}", _jax(size, "linear"))
        for dims, mode in LINEAR.items()
        for way, size in (("up", LARGER[dims]), ("down", SMALLER[dims]))
    ],
    *[
        _resize(f"{mode}-corners", dims, LARGER[dims], f"mode={mode!r}, align_corners=True", CORNERS.format(size=LARGER[dims]))
        for dims, mode in LINEAR.items()
    ],
    _resize("bilinear-antialias", 2, SMALLER[2], "mode='bilinear', antialias=True", _jax(SMALLER[2], "linear", True)),
    _resize("bicubic-antialias", 2, SMALLER[2], "mode='bicubic', antialias=True", _jax(SMALLER[2], "cubic", True)),
    Entry(
        name="interpolate-bilinear-scale-factor",
        torch="lambda x: F.interpolate(x, scale_factor=1.5, mode='bilinear')",
        jax={
            "jax": Equivalent(
                SCALED, words="torch samples at the scale that was given, not at that of the sizes, unless recompute_scale_factor=True."
            )
        },
        cases=_images(2),
        of="torch.nn.functional.interpolate",
        missing=NO_LAYER,
    ),
    Entry(
        name="interpolate-bicubic",
        torch=f"lambda x: F.interpolate(x, {LARGER[2]}, mode='bicubic')",
        jax={"jax": CUBIC.format(*LARGER[2])},
        cases=_images(2),
        of="torch.nn.functional.interpolate",
        missing=NO_LAYER,
        notes=NOTES,
    ),
    *[
        Entry(
            name=f"interpolate-{name}-of-jax",
            torch=f"lambda x: F.interpolate(x, {size}, mode={name.split('-')[0]!r})",
            jax={
                "jax": Equivalent(
                    f"lambda x: jax.image.resize(x, (*x.shape[:2], *{size}), {method!r})",
                    differs=tuple(Difference(leaf, case, says, INTERPOLATE) for case in _images(2) for leaf in ("output", "grad.input")),
                )
            },
            cases=_images(2),
            of="torch.nn.functional.interpolate",
            missing=NO_LAYER,
            notes=NOTES,
        )
        for name, size, method, says in (
            ("nearest", LARGER[2], "nearest", "torch takes the pixel at floor(i / scale), jax the nearest centre"),
            ("bilinear-down", SMALLER[2], "linear", "jax smooths when it makes smaller, torch does not unless antialias=True"),
            ("bicubic", LARGER[2], "cubic", "torch's cubic has a = -0.75 and repeats the border, jax's has a = -0.5 and weighs anew there"),
        )
    ],
    _resize("area", 2, SMALLER[2], "mode='area'", AREA.format(size=SMALLER[2])),
    *[_pad("Constant", dims, "constant", ", 0.5", ", constant_values=0.5") for dims in (1, 2, 3)],
    *[_pad("Zero", dims, "constant") for dims in (1, 2, 3)],
    *[
        _pad(layer, dims, mode)
        for layer, mode in (("Reflection", "reflect"), ("Replication", "edge"), ("Circular", "wrap"))
        for dims in (1, 2, 3)
    ],
    Entry(
        name="upsampling-nearest2d",
        torch="torch.nn.UpsamplingNearest2d(scale_factor=2)",
        jax={"jax": "lambda x: jax.image.resize(x, (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), 'nearest')"},
        cases=_images(2),
        missing=NO_LAYER,
    ),
    Entry(
        name="upsampling-bilinear2d",
        torch=f"torch.nn.UpsamplingBilinear2d(size={LARGER[2]})",
        jax={"jax": Equivalent(CORNERS.format(size=LARGER[2]), words="It has the corners aligned, which torch.nn.Upsample has not.")},
        cases=_images(2),
        missing=NO_LAYER,
    ),
    Entry(
        name="constant-pad-negative",
        torch="torch.nn.ConstantPad2d((-1, 2, 1, -2), 0.5)",
        jax={
            "jax": Equivalent(
                "lambda x: lax.pad(x, jnp.asarray(0.5, x.dtype), [(0, 0, 0), (0, 0, 0), (1, -2, 0), (-1, 2, 0)])",
                words="A negative number crops; jnp.pad takes none.",
            )
        },
        cases=_images(2),
        missing=NO_LAYER,
    ),
    *[_sample("bilinear", padding, corners) for padding in ("zeros", "border", "reflection") for corners in (False, True)],
    _sample("nearest", "zeros", False),
    *[
        Entry(
            name=f"affine-grid{'-corners' if corners else ''}",
            torch=f"lambda theta: F.affine_grid(theta, (len(theta), 1, 4, 5), align_corners={corners})",
            jax={"jax": AFFINE.format(corners=corners)},
            cases={"batch": [normal(2, 2, 3)], "one": [normal(1, 2, 3)]},
            of="torch.nn.functional.affine_grid",
            missing=NO_LAYER,
        )
        for corners in (False, True)
    ],
)
