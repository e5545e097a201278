"""Convolutions, transposed ones, and what moves pixels between channels and places."""

from __future__ import annotations

from dataclasses import replace

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import Draw, normal

SIZES = {1: (11,), 2: (9, 6), 3: (5, 4, 3)}  # odd and even
LAYOUT = {"weight (out, in, *kernel)": "kernel (*kernel, in, out)", "padding=1": "padding=1 (the default is 'SAME', torch's 0)"}
WORDS = {
    "linen": {
        "stride": "strides",
        "dilation": "kernel_dilation",
        "groups": "feature_group_count",
        "bias=False": "use_bias=False",
        **LAYOUT,
    },
    "equinox": {"bias=False": "use_bias=False", "bias (out,)": "bias (out, 1, ...)"},
    "haiku": {
        "dilation": "rate",
        "groups": "feature_group_count",
        "bias=False": "with_bias=False",
        "padding=1": "padding=[(1, 1), ...] (the default is 'SAME', torch's 0)",
        "weight (out, in, *kernel)": "w (*kernel, in, out)",
    },
}
WORDS["nnx"] = WORDS["linen"]
DEFAULTS = {
    "padding": "torch pads nothing by default; flax and haiku pad with 'SAME' (flax.linen.Conv, haiku.Conv2D)",
    "SAME and strides": "padding='SAME' with a stride pads less on the left than torch's padding=(k - 1) // 2 (XLA rounds down at the beginning), "
    "so a strided port needs explicit numbers (jax.lax.conv_general_dilated)",
}


def _said(**given: object) -> str:
    """Keyword arguments as text, those that are None left out.

    >>> _said(stride=2, groups=None)
    ', stride=2'
    """
    return "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)


FIRST = "odd and even"


def _cases(dims: int, channels: int = 4) -> dict[str, list[Draw]]:
    one = {} if dims == 3 else {"one, prime": [normal(1, channels, *(7, 5)[:dims])]}
    return {FIRST: [normal(2, channels, *SIZES[dims])], **one}


def _conv(
    name: str,
    dims: int,
    kernel: int | tuple[int, ...] = 3,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int = 1,
    groups: int = 1,
    out: int = 6,
    bias: bool = True,
) -> Entry:
    """A convolution with zeros around it, in every library."""
    kernels, strides, pads = (tuple(n) if isinstance(n, tuple) else (n,) * dims for n in (kernel, stride, padding))
    dilations, pairs, trivial = (dilation,) * dims, [(n, n) for n in pads], (1,) * dims
    stepped = strides if strides != trivial else None
    spread = dilations if dilation > 1 else None
    many = groups if groups > 1 else None
    torch = _said(
        stride=stride if stepped else None,
        padding=padding or None,
        dilation=dilation if spread else None,
        groups=many,
        bias=None if bias else False,
    )
    flax = f"{kernels}" + _said(
        strides=stepped, padding=padding or "VALID", kernel_dilation=spread, feature_group_count=many, use_bias=None if bias else False
    )
    if isinstance(padding, tuple):
        flax = flax.replace(f"padding={padding!r}", f"padding={pairs!r}")
    equinox = _said(
        stride=stride if stepped else None,
        padding=padding or None,
        dilation=dilation if spread else None,
        groups=many,
        use_bias=None if bias else False,
    )
    haiku = _said(
        stride=stride if stepped else None,
        rate=dilation if spread else None,
        padding=pairs if any(pads) else "VALID",
        feature_group_count=many,
        with_bias=None if bias else False,
    )
    lax = f"{strides}, {pairs}" + _said(rhs_dilation=spread, feature_group_count=many)
    added = f' + p["bias"].reshape(-1, {", ".join("1" * dims)})' if bias else ""
    return Entry(
        name=f"conv{dims}d{name}",
        torch=f"torch.nn.Conv{dims}d(4, {out}, {kernel}{torch})",
        jax={
            "jax": f'lambda p, x: lax.conv_general_dilated(x, p["weight"], {lax}){added}',
            "linen": Equivalent(f"linen.Conv({out}, {flax})", WORDS["linen"], channels_last=True),
            "nnx": Equivalent(f"nnx.Conv(4, {out}, {flax}, rngs=nnx.Rngs(0))", WORDS["nnx"], channels_last=True),
            "equinox": Equivalent(f"dlp.vmap(eqx.nn.Conv{dims}d(4, {out}, {kernel}{equinox}, key=jax.random.key(0)))", WORDS["equinox"]),
            "haiku": Equivalent(f"hk.transform(lambda x: hk.Conv{dims}D({out}, {kernel}{haiku})(x))", WORDS["haiku"], channels_last=True),
        },
        cases=_cases(dims),
        notes=DEFAULTS,
    )


CONVOLUTIONS = [
    *[
        convolution
        for dims in (1, 2)
        for convolution in (
            _conv("", dims),
            _conv("-strided", dims, stride=2, padding=1),
            _conv("-dilated", dims, dilation=2, padding=2),
            _conv("-grouped", dims, groups=2, padding=1),
        )
    ],
    _conv("-padded", 2, padding=1),
    _conv("-stride-larger-than-kernel", 2, kernel=2, stride=3),
    _conv("-depthwise", 2, groups=4, out=8),
    _conv("-no-bias", 2, bias=False),
    _conv("-pointwise", 2, kernel=1),
    _conv("-oblong", 2, kernel=(3, 2), stride=(1, 2), padding=(1, 0)),
    _conv("", 3, kernel=2),
    _conv("-strided", 3, kernel=2, stride=2, padding=1),
    _conv("-dilated", 3, kernel=2, dilation=2, padding=1),
    _conv("-grouped", 3, kernel=2, groups=2),
]


def _same(dims: int, kernel: int) -> Entry:
    """torch's padding='same', which has no stride; an even kernel pads one more at the end, as XLA does."""
    kernels = (kernel,) * dims
    return Entry(
        name=f"conv{dims}d-same-kernel-{kernel}",
        torch=f"torch.nn.Conv{dims}d(4, 6, {kernel}, padding='same')",
        jax={
            "jax": f'lambda p, x: lax.conv_general_dilated(x, p["weight"], {(1,) * dims}, "SAME") + p["bias"].reshape(-1, {", ".join("1" * dims)})',
            "linen": Equivalent(f"linen.Conv(6, {kernels})", {"padding='same'": "padding='SAME', the default"}, channels_last=True),
            "nnx": Equivalent(
                f"nnx.Conv(4, 6, {kernels}, rngs=nnx.Rngs(0))", {"padding='same'": "padding='SAME', the default"}, channels_last=True
            ),
            "equinox": f"dlp.vmap(eqx.nn.Conv{dims}d(4, 6, {kernel}, padding='SAME', key=jax.random.key(0)))",
            "haiku": Equivalent(
                f"hk.transform(lambda x: hk.Conv{dims}D(6, {kernel})(x))",
                {"padding='same'": "padding='SAME', the default"},
                channels_last=True,
            ),
        },
        cases=_cases(dims),
    )


def _strided_same(code: str, channels_last: bool = True) -> Equivalent:
    """What ports often write for a stride and padding of half the kernel: right for odd sizes."""
    weight = "grad.module.weight" if channels_last else "grad.weight"
    says = "'SAME' with a stride of 2 pads an even size at the end alone, torch's padding=1 on both sides"
    source = "https://docs.jax.dev/en/latest/_autosummary/jax.lax.padtype_to_pads.html"
    return Equivalent(
        code,
        channels_last=channels_last,
        differs=tuple(Difference(leaf, "even", says, source) for leaf in ("output", "grad.input", weight)),
        words="Write the padding in numbers: padding=1, or ((1, 1), (1, 1)).",
    )


# torch: (jnp.pad, flax or None)
MODES = {"reflect": ("reflect", "REFLECT"), "replicate": ("edge", None), "circular": ("wrap", "CIRCULAR")}


def _mode(dims: int, mode: str) -> Entry:
    """A padding mode, of which flax has two, for odd kernels at their full width."""
    pad, flax = MODES[mode]
    around = [(0, 0), (0, 0), *[(1, 1)] * dims]
    shape = ", ".join("1" * dims)
    libraries = {} if flax is None else {
        "linen": Equivalent(f"linen.Conv(6, {(3,) * dims}, padding={flax!r})", {f"padding=1, padding_mode={mode!r}": f"padding={flax!r}"}, True),
        "nnx": Equivalent(
            f"nnx.Conv(4, 6, {(3,) * dims}, padding={flax!r}, rngs=nnx.Rngs(0))", {f"padding=1, padding_mode={mode!r}": f"padding={flax!r}"}, True
        ),
    }  # fmt: skip
    absent = (
        {}
        if flax
        else dict.fromkeys(("linen", "nnx"), "its padding is 'SAME', 'VALID', 'CIRCULAR', 'REFLECT', 'CAUSAL' or zeros; use jnp.pad")
    )
    return Entry(
        name=f"conv{dims}d-{mode}",
        torch=f"torch.nn.Conv{dims}d(4, 6, 3, padding=1, padding_mode={mode!r})",
        jax={
            "jax": f'lambda p, x: lax.conv_general_dilated(jnp.pad(x, {around}, {pad!r}), p["weight"], {(1,) * dims}, "VALID")'
            f' + p["bias"].reshape(-1, {shape})',
            **libraries,
            "equinox": Equivalent(
                f"dlp.vmap(eqx.nn.Conv{dims}d(4, 6, 3, padding=1, padding_mode={mode.upper()!r}, key=jax.random.key(0)))",
                {f"padding_mode={mode!r}": f"padding_mode={mode.upper()!r}"},
            ),
        },
        cases=_cases(dims),
        missing={**absent, "haiku": "its padding is zeros only; use jnp.pad before it"},
        notes={} if flax is None else {"width": "flax pads by half the kernel, whatever torch's padding= says (flax.linen.Conv)"},
    )


TRANSPOSED = """
def transposed(p, x):
    weight = p["weight"].reshape({groups}, -1, *p["weight"].shape[1:])  # (group, in, out, *kernel)
    weight = jnp.flip(weight.swapaxes(1, 2), range(3, weight.ndim)).reshape(-1, weight.shape[1], *weight.shape[3:])
    y = lax.conv_general_dilated(x, weight, {ones}, {pairs}, lhs_dilation={strides}, rhs_dilation={dilations}, feature_group_count={groups})
    return y + p["bias"].reshape(-1, {shape})
"""


def _transposed(
    name: str, dims: int, kernel: int = 3, stride: int = 1, padding: int = 0, more: int = 0, dilation: int = 1, groups: int = 1
) -> Entry:
    """A transposed convolution: the padding of the jax side is that of the input with holes, dilation * (kernel - 1) - padding."""
    ones, strides, dilations, kernels = ((n,) * dims for n in (1, stride, dilation, kernel))
    pairs = [(dilation * (kernel - 1) - padding, dilation * (kernel - 1) - padding + more)] * dims
    shape = ", ".join("1" * dims)
    torch = _said(
        stride=stride if stride > 1 else None,
        padding=padding or None,
        output_padding=more or None,
        groups=groups if groups > 1 else None,
        dilation=dilation if dilation > 1 else None,
    )
    flax = f"{kernels}" + _said(strides=strides, padding=pairs, kernel_dilation=dilations if dilation > 1 else None, transpose_kernel=True)
    words = {
        "padding, output_padding": "padding=[(dilation * (kernel - 1) - padding, the same + output_padding), ...]",
        "dilation": "kernel_dilation",
        "weight (in, out, *kernel)": "kernel (*kernel, out, in) with transpose_kernel=True",
    }
    flip = {"weight (in, out, *kernel)": "weight (out, in, *kernel), every kernel axis flipped"}
    has_groups = groups > 1
    places = " ".join("hwd"[:dims])
    flipped = " ".join(f"-{axis}" for axis in places.split())
    equal, channels_last = {}, {}
    if has_groups or stride > kernel:  # where values cannot prove the flip it is written
        equal = {"param_map": {"weight": ("weight", f"(g i) o {places} -> (g o) i {flipped}", {"g": groups})}}
        channels_last = {"param_map": {"module.weight": (f"conv{dims}_d_transpose.w", f"i o {places} -> {flipped} o i")}}
    return Entry(
        name=f"conv-transpose{dims}d{name}",
        torch=f"torch.nn.ConvTranspose{dims}d(4, 6, {kernel}{torch})",
        jax={
            "jax": Equivalent(
                TRANSPOSED.format(groups=groups, ones=ones, pairs=pairs, strides=strides, dilations=dilations, shape=shape),
                {"padding": "dilation * (kernel - 1) - padding", "output_padding": "added at the end"},
            ),
            **(
                {}
                if has_groups
                else {
                    "linen": Equivalent(f"linen.ConvTranspose(6, {flax})", words, channels_last=True),
                    "nnx": Equivalent(f"nnx.ConvTranspose(4, 6, {flax}, rngs=nnx.Rngs(0))", words, channels_last=True),
                }
            ),
            "equinox": Equivalent(
                f"dlp.vmap(eqx.nn.ConvTranspose{dims}d(4, 6, {kernel}{torch}, key=jax.random.key(0)))", flip, options=equal
            ),
            **(
                {}
                if has_groups or dilation > 1
                else {
                    "haiku": Equivalent(
                        f"hk.transform(lambda x: hk.Conv{dims}DTranspose(6, {kernel}, stride={stride}, padding={pairs})(x))",
                        {
                            "padding": "padding=[(kernel - 1 - padding, the same + output_padding), ...]",
                            "weight (in, out, *kernel)": "w, flipped",
                        },
                        channels_last=True,
                        options=channels_last,
                    )
                }
            ),
        },
        cases=_cases(dims),
        missing={
            **(dict.fromkeys(("linen", "nnx"), "its ConvTranspose has no groups") if has_groups else {}),
            **({"haiku": "its transposed convolutions have no groups and no rate"} if has_groups or dilation > 1 else {}),
        },
        notes={
            "flip": "torch's transposed convolution is the gradient of a convolution: its kernel is flipped. lax.conv_transpose flips only "
            "with transpose_kernel=True (jax.lax.conv_transpose)"
        },
    )


FOLD = """
def unfold(x):
    patches = lax.conv_general_dilated_patches(x, {kernel}, {stride}, {pairs}, rhs_dilation={dilation})
    return patches.reshape(*patches.shape[:2], -1)
"""

SHUFFLES = {
    "pixel-shuffle": (
        "torch.nn.PixelShuffle(2)",
        "lambda x: x.reshape(len(x), -1, 2, 2, *x.shape[2:]).transpose(0, 1, 4, 2, 5, 3).reshape(len(x), -1, 2 * x.shape[2], 2 * x.shape[3])",
        {"odd and even": [normal(2, 12, 3, 4)], "one": [normal(1, 4, 1, 1)]},
    ),
    "pixel-unshuffle": (
        "torch.nn.PixelUnshuffle(2)",
        "lambda x: x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).transpose(0, 1, 3, 5, 2, 4)"
        ".reshape(len(x), -1, x.shape[2] // 2, x.shape[3] // 2)",
        {"odd and even": [normal(2, 3, 6, 4)], "one": [normal(1, 1, 2, 2)]},
    ),
    "channel-shuffle": (
        "torch.nn.ChannelShuffle(2)",
        "lambda x: x.reshape(len(x), 2, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)",
        {"odd and even": [normal(2, 6, 3, 4)], "one": [normal(1, 2, 1, 1)]},
    ),
}

EVERYWHERE = ("conv1d", "conv2d", "conv2d-strided", "conv2d-same-kernel-4", "conv-transpose2d", "conv-transpose2d-strided")


def _lighter(entry: Entry) -> Entry:
    """The layers of the libraries run the first case alone where the function of jax runs them all: a variant differs in one argument."""
    if entry.name in EVERYWHERE:
        return entry
    ways = {name: way if name == "jax" else replace(way, cases=(FIRST,)) for name, way in entry.equivalents().items()}
    return replace(entry, jax=ways)


NO_LAYER = dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such layer; use the function")

LAYERS = [
    *CONVOLUTIONS,
    _same(1, 4),
    _same(2, 3),
    _same(2, 4),
    _mode(1, "circular"),
    *[_mode(2, mode) for mode in MODES],
    *[
        _transposed(name, dims, **given)
        for dims in (1, 2)
        for name, given in {"": {}, "-strided": {"stride": 2, "padding": 1, "more": 1}, "-dilated": {"dilation": 2, "padding": 1}}.items()
    ],
    _transposed("-grouped", 2, groups=2, stride=2),
    _transposed("-stride-larger-than-kernel", 2, kernel=2, stride=3),
    _transposed("", 3, kernel=2),
    _transposed("-strided", 3, kernel=2, stride=2, padding=1, more=1),
]

ENTRIES: tuple[Entry, ...] = (
    *[_lighter(entry) for entry in LAYERS],
    Entry(
        name="conv2d-strided-same",
        torch="torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)",
        jax={
            "linen": _strided_same("linen.Conv(6, (3, 3), strides=(2, 2))"),
            "nnx": _strided_same("nnx.Conv(4, 6, (3, 3), strides=(2, 2), rngs=nnx.Rngs(0))"),
            "equinox": _strided_same("dlp.vmap(eqx.nn.Conv2d(4, 6, 3, stride=2, padding='SAME', key=jax.random.key(0)))", False),
            "haiku": _strided_same("hk.transform(lambda x: hk.Conv2D(6, 3, stride=2)(x))"),
        },
        cases={"odd": [normal(2, 4, 7, 5)], "even": [normal(1, 4, 6, 8)]},
        notes=DEFAULTS,
    ),
    *[
        Entry(
            name=f"unfold{name}",
            torch=f"torch.nn.Unfold({kernel}, dilation={dilation}, padding={padding}, stride={stride})",
            jax={"jax": FOLD.format(kernel=(kernel,) * 2, stride=(stride,) * 2, pairs=[(padding,) * 2] * 2, dilation=(dilation,) * 2)},
            cases={"odd and even": [normal(2, 3, 7, 6)], "one": [normal(1, 1, 5, 5)]},
            missing=NO_LAYER,
        )
        for name, kernel, dilation, padding, stride in (("", 2, 1, 0, 1), ("-strided", 3, 1, 1, 2), ("-dilated", 2, 2, 0, 3))
    ],
    Entry(
        name="fold",
        torch="torch.nn.Fold((7, 6), 3, padding=1, stride=2)",
        jax={
            "jax": Equivalent(
                """
def fold(x):
    def unfold(image):
        patches = lax.conv_general_dilated_patches(image, (3, 3), (2, 2), [(1, 1), (1, 1)])
        return patches.reshape(*patches.shape[:2], -1)
    image = jnp.zeros((len(x), x.shape[1] // 9, 7, 6), x.dtype)
    return jax.linear_transpose(unfold, image)(x)[0]
""",
                words="The transpose of Unfold, which jax makes by itself.",
            )
        },
        cases={"patches": [normal(2, 27, 12)], "one": [normal(1, 9, 12)]},
        missing=NO_LAYER,
    ),
    *[Entry(name=name, torch=torch, jax={"jax": jax}, cases=cases, missing=NO_LAYER) for name, (torch, jax, cases) in SHUFFLES.items()],
)
