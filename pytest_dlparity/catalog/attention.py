"""Attention, the layers made of it, and the dropout beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import Draw, fixed, normal

SDPA = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html"
NOTES = {
    "layout": f"torch's function takes (batch, heads, time, width), the others (batch, time, heads, width) ({SDPA}; jax.nn.dot_product_attention)",
    "masks": f"True is attended to in torch's function, in jax and in flax; in torch.nn.MultiheadAttention True is left out ({SDPA}; "
    "https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html)",
}

# ---------------------------------------------------------------- the function


def _open(*shape: int) -> Draw:
    """Booleans of which the first of each row is True, so that no row is masked out altogether."""

    def make(rng: np.random.Generator) -> np.ndarray:
        drawn = rng.random(shape) < 0.5
        drawn[..., 0] = True
        return drawn

    return Draw(f"booleans{shape} with the first of each row True", make)


def _qkv(batch: int, heads: int, queries: int, keys: int, width: int, groups: int = 1) -> list[Draw]:
    return [normal(batch, heads, queries, width), *[normal(batch, heads // groups, keys, width) for _ in range(2)]]


PLAIN = {"odd and even": _qkv(2, 2, 5, 4, 3), "batch of one": _qkv(1, 1, 2, 2, 1), "prime": _qkv(1, 2, 3, 7, 2)}
FUNCTIONS = {
    "jax": "jax.nn.dot_product_attention",
    "linen": "linen.dot_product_attention",
    "nnx": "nnx.dot_product_attention",
}
MOVED = "{function}(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2){more}).swapaxes(1, 2)"


def _sdpa(
    name: str,
    cases: dict[str, list[Draw]],
    torch: str = "",
    more: Mapping[str, str] | None = None,
    mask: bool = False,
    missing: Mapping[str, str] | None = None,
) -> Entry:
    """Args: more, by library, what its call has besides q, k and v; nothing by default."""
    given = "q, k, v, mask" if mask else "q, k, v"
    absent = missing or {}
    ways = {library: MOVED.format(function=function, more=(more or {}).get(library, "")) for library, function in FUNCTIONS.items()}
    return Entry(
        name=f"attention{name}",
        torch=f"lambda {given}: F.scaled_dot_product_attention(q, k, v{torch})",
        jax={library: f"lambda {given}: {way}" for library, way in ways.items() if library not in absent},
        cases=cases,
        of="torch.nn.functional.scaled_dot_product_attention",
        missing={**absent, **dict.fromkeys(("equinox", "haiku"), "its attention is a layer; use jax.nn.dot_product_attention")},
        notes=NOTES,
    )


def _with(mask: Callable[..., Draw]) -> dict[str, list[Draw]]:
    return {"odd and even": [*PLAIN["odd and even"], mask(2, 1, 5, 4)], "prime": [*PLAIN["prime"], mask(1, 1, 3, 7)]}


CAUSAL = "mask=jnp.tril(jnp.ones((q.shape[2], k.shape[2]), bool))"

MASKED_ROW = np.ones((1, 1, 3, 4), bool)
MASKED_ROW[0, 0, 1] = False

# ---------------------------------------------------------------- the layer

HEADS = """
def attention(p, query, key, value{more}):
    def heads(x, part):
        weight, bias = jnp.split(p["in_proj_weight"], 3)[part], {bias}
        return (x @ weight.T + bias).reshape(*x.shape[:2], 2, -1)
    y = jax.nn.dot_product_attention(heads(query, 0), heads(key, 1), heads(value, 2){mask})
    return y.reshape(query.shape) @ p["out_proj.weight"].T{out}
"""

ATTENTION = """
class Attention(torch.nn.MultiheadAttention):
    def __init__(self):
        super().__init__(6, 2, batch_first=True{options})

    def forward(self, {given}):
        return super().forward({query}, need_weights=False{more})[0]
"""
LAYER_WORDS = {
    "embed_dim=6": "in_features=6 (nnx), taken from the input (linen)",
    "in_proj_weight (3 x 6, 6)": "query, key, value kernels (6, heads, 3)",
    "out_proj.weight (6, 6)": "out kernel (heads, 3, 6)",
}
LINEN = """
class Attention(linen.Module):
    @linen.compact
    def __call__(self, {given}):
        return linen.MultiHeadDotProductAttention(2{bias})({query}{mask})

def attention():
    return Attention()
"""
NNX = """
class Attention(nnx.Module):
    def __init__(self):
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False{bias}, rngs=nnx.Rngs(0))

    def __call__(self, {given}):
        return self.attention({query}{mask})

def attention():
    return Attention()
"""
EQUINOX = """
class Attention(eqx.Module):
    attention: eqx.nn.MultiheadAttention

    def __call__(self, {given}):
        return self.attention({query}{mask})

def attention():
    every = dict(use_query_bias={bias}, use_key_bias={bias}, use_value_bias={bias}, use_output_bias={bias})
    return dlp.vmap(Attention(eqx.nn.MultiheadAttention(2, 6, **every, key=jax.random.key(0))))
"""
HAIKU = """
def attention({given}):
    start = hk.initializers.VarianceScaling()
    return hk.MultiHeadAttention(2, 3, w_init=start, with_bias={bias}, model_size=6)({query}{mask})

def transformed():
    return hk.transform(attention)
"""


def _multihead(
    name: str, cases: dict[str, list[Draw]], given: str, query: str, torch: str = "", bias: bool = True, masks: dict[str, str] | None = None
) -> Entry:
    """torch.nn.MultiheadAttention of width 6 with two heads.

    Args:
        given: names of the inputs.
        query: what is attended with, to and of: three of them.
        torch: further arguments of torch's call.
        masks: by library, a further argument of its call.
    """
    masks = masks or {}
    words = {"given": given, "query": query}
    last = ", mask" if given.endswith("mask") else ""
    no_bias = "" if bias else ", use_bias=False"
    in_bias = 'jnp.split(p["in_proj_bias"], 3)[part]' if bias else "0"
    function = HEADS.format(
        more=", *masks" if masks else "", bias=in_bias, mask=masks.get("jax", ""), out=' + p["out_proj.bias"]' if bias else ""
    )
    call = f"\ndef side(p, {given}):\n    return attention(p, {query}{last})\n"
    return Entry(
        name=f"multihead-attention{name}",
        torch=ATTENTION.format(options="" if bias else ", bias=False", more=torch, **words),
        jax={
            "jax": function + call,
            "linen": Equivalent(LINEN.format(bias=no_bias, mask=masks.get("linen", ""), **words), LAYER_WORDS),
            "nnx": Equivalent(NNX.format(bias=no_bias, mask=masks.get("linen", ""), **words), LAYER_WORDS),
            "equinox": Equivalent(
                EQUINOX.format(bias=bias, mask=masks.get("equinox", ""), **words),
                {
                    "embed_dim": "query_size",
                    "bias=True": "use_query_bias, use_key_bias, use_value_bias, use_output_bias, all False by default",
                },
            ),
            "haiku": Equivalent(
                HAIKU.format(bias=bias, mask=masks.get("linen", ""), **words),
                {"embed_dim=6": "model_size=6, key_size=3", "bias": "with_bias"},
            ),
        },
        cases=cases,
        of="torch.nn.MultiheadAttention",
        notes=NOTES,
    )


TIME_MAJOR = """
class Attention(torch.nn.MultiheadAttention):
    def __init__(self):
        super().__init__(6, 2)

    def forward(self, x):
        return super().forward(x, x, x)
"""
WEIGHTS = """
def attention(p, x):
    query, key, value = jnp.split(x @ p["in_proj_weight"].T + p["in_proj_bias"], 3, -1)
    heads = [y.reshape(*y.shape[:2], 2, 3) for y in (query, key, value)]
    weights = jax.nn.softmax(jnp.einsum("qbhd,kbhd->bhqk", *heads[:2]) / math.sqrt(3), -1)
    y = jnp.einsum("bhqk,kbhd->qbhd", weights, heads[2]).reshape(x.shape)
    return y @ p["out_proj.weight"].T + p["out_proj.bias"], weights.mean(1)
"""

# ---------------------------------------------------------------- transformer layers

PARTS = """
def norm(p, name, x):
    x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p[name + ".weight"] + p[name + ".bias"]

def attend(p, name, x, memory, causal=False):
    weights, biases = jnp.split(p[name + ".in_proj_weight"], 3), jnp.split(p[name + ".in_proj_bias"], 3)
    heads = [(y @ w.T + b).reshape(*y.shape[:2], 2, -1) for y, w, b in zip((x, memory, memory), weights, biases)]
    y = jax.nn.dot_product_attention(*heads, is_causal=causal).reshape(x.shape)
    return y @ p[name + ".out_proj.weight"].T + p[name + ".out_proj.bias"]

def feed(p, name, x):
    x = {activation}(x @ p[name + "linear1.weight"].T + p[name + "linear1.bias"]{exact})
    return x @ p[name + "linear2.weight"].T + p[name + "linear2.bias"]
"""
ENCODER = {
    False: """
def encode(p, x, name=""):
    x = norm(p, name + "norm1", x + attend(p, name + "self_attn", x, x{causal}))
    return norm(p, name + "norm2", x + feed(p, name, x))
""",
    True: """
def encode(p, x, name=""):
    y = norm(p, name + "norm1", x)
    x = x + attend(p, name + "self_attn", y, y{causal})
    return x + feed(p, name, norm(p, name + "norm2", x))
""",
}
DECODER = {
    False: """
def decode(p, x, memory):
    x = norm(p, "norm1", x + attend(p, "self_attn", x, x, causal=True))
    x = norm(p, "norm2", x + attend(p, "multihead_attn", x, memory))
    return norm(p, "norm3", x + feed(p, "", x))
""",
    True: """
def decode(p, x, memory):
    y = norm(p, "norm1", x)
    x = x + attend(p, "self_attn", y, y, causal=True)
    x = x + attend(p, "multihead_attn", norm(p, "norm2", x), memory)
    return x + feed(p, "", norm(p, "norm3", x))
""",
}
TORCH_DECODER = """
class Decoder(torch.nn.TransformerDecoderLayer):
    def __init__(self):
        super().__init__(6, 2, 8, activation={activation!r}, norm_first={first}, batch_first=True)

    def forward(self, x, memory):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return super().forward(x, memory, tgt_mask=mask, tgt_is_causal=True)
"""
NO_LAYER = dict.fromkeys(
    ("linen", "nnx", "equinox", "haiku"), "it has no transformer layers; compose it of its attention, norm and linear layers"
)
TRANSFORMER_NOTES = {
    "order": "norm_first=False, torch's default, normalises after each sum, as the paper does; most ports expect norm_first=True "
    "(https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerEncoderLayer.html)",
    "gelu": "torch's is exact, jax.nn.gelu is tanh's unless approximate=False (jax.nn.gelu)",
}


def _parts(activation: str) -> str:
    return PARTS.format(activation=f"jax.nn.{activation}", exact=", approximate=False" if activation == "gelu" else "")


def _encoder(first: bool, activation: str, name: str) -> Entry:
    return Entry(
        name=f"transformer-encoder-layer{name}",
        torch=f"torch.nn.TransformerEncoderLayer(6, 2, 8, activation={activation!r}, norm_first={first}, batch_first=True)",
        jax={"jax": _parts(activation) + ENCODER[first].format(causal="")},
        cases={"batch": [normal(2, 5, 6)], "batch of one": [normal(1, 3, 6)]},
        options={"train": False},
        missing=NO_LAYER,
        notes=TRANSFORMER_NOTES,
    )


def _decoder(first: bool, activation: str, name: str) -> Entry:
    return Entry(
        name=f"transformer-decoder-layer{name}",
        torch=TORCH_DECODER.format(activation=activation, first=first),
        jax={"jax": _parts(activation) + DECODER[first]},
        cases={"batch": [normal(2, 3, 6), normal(2, 4, 6)], "batch of one": [normal(1, 2, 6), normal(1, 2, 6)]},
        options={"train": False},
        of="torch.nn.TransformerDecoderLayer",
        missing=NO_LAYER,
        notes=TRANSFORMER_NOTES,
    )


STACKED = """
def stacked(p, x):
    for layer in ("layers.0.", "layers.1."):
        x = encode(p, x, layer)
    return norm(p, "norm", x)
"""

X = {"odd and even": [normal(2, 5, 6)], "batch of one": [normal(1, 3, 6)]}
FIRST = {"odd and even": X["odd and even"]}
PADDED = {"batch": [normal(2, 5, 6), _open(2, 5)]}

ENTRIES: tuple[Entry, ...] = (
    # what takes longest comes first, so that two workers end together
    _decoder(False, "relu", ""),
    _decoder(True, "gelu", "-norm-first-gelu"),
    _encoder(False, "relu", ""),
    _encoder(True, "gelu", "-norm-first-gelu"),
    Entry(
        name="transformer-encoder",
        torch="torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(6, 2, 8, norm_first=True, batch_first=True), 2, "
        "norm=torch.nn.LayerNorm(6), enable_nested_tensor=False)",
        jax={"jax": _parts("relu") + ENCODER[True].format(causal="") + STACKED},
        cases={"batch": [normal(2, 3, 6)]},
        options={"train": False},
        missing=NO_LAYER,
        notes=TRANSFORMER_NOTES,
    ),
    _sdpa("", PLAIN),
    _sdpa("-bias", _with(normal), ", attn_mask=mask", dict.fromkeys(FUNCTIONS, ", bias=mask"), mask=True),
    _sdpa("-mask", _with(_open), ", attn_mask=mask", dict.fromkeys(FUNCTIONS, ", mask=mask"), mask=True),
    _sdpa("-causal", PLAIN, ", is_causal=True", {**dict.fromkeys(FUNCTIONS, ", is_causal=True"), "linen": f", {CAUSAL}"}),
    _sdpa(
        "-scale",
        PLAIN,
        ", scale=0.5",
        {"jax": ", scale=0.5"},
        missing=dict.fromkeys(("linen", "nnx"), "its function always divides by the root of the width"),
    ),
    _sdpa(
        "-grouped-queries",
        {"two a group": _qkv(2, 4, 5, 3, 2, groups=2), "one group": _qkv(1, 3, 2, 2, 3, groups=3)},
        ", enable_gqa=True",
        missing={"linen": "its function wants as many heads of keys as of queries; repeat them"},
    ),
    Entry(
        name="attention-masked-out-row",
        torch="lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
        jax={
            library: Equivalent(
                f"lambda q, k, v, mask: {MOVED.format(function=function, more=', mask=mask')}",
                differs=tuple(
                    Difference(leaf, "a row without keys", "torch gives zeros, this one the mean of all values", SDPA)
                    for leaf in ("output", "grad.input2")
                ),
            )
            for library, function in FUNCTIONS.items()
        },
        cases={"ordinary": [*_qkv(1, 2, 3, 4, 5), _open(1, 1, 3, 4)]},
        edges={"a row without keys": [*_qkv(1, 2, 3, 4, 5), fixed(MASKED_ROW)]},
        of="torch.nn.functional.scaled_dot_product_attention",
        notes=NOTES,
    ),
    Entry(
        name="softmax-masked",
        torch="lambda x, mask: x.masked_fill(~mask, -torch.inf).softmax(-1)",
        jax={
            "jax": Equivalent(
                "lambda x, mask: jax.nn.softmax(jnp.where(mask, x, -jnp.inf), axis=-1)",
                words="A row without a place is NaN on both sides.",
            )
        },
        cases={"batch": [normal(3, 5), _open(3, 5)], "one row": [normal(1, 3), fixed(np.array([[True, False, True]]))]},
        edges={"a row without places": [normal(2, 3), fixed(np.array([[True, False, True], [False, False, False]]))]},
        of="torch.softmax",
    ),
    _multihead("-self", X, "x", "x, x, x"),
    _multihead("-no-bias", FIRST, "x", "x, x, x", bias=False),
    _multihead(
        "-cross",
        {"batch": [normal(2, 3, 6), normal(2, 5, 6)], "batch of one": [normal(1, 1, 6), normal(1, 2, 6)]},
        "x, memory",
        "x, memory, memory",
    ),
    _multihead(
        "-key-padding",
        PADDED,
        "x, mask",
        "x, x, x",
        ", key_padding_mask=~mask",
        masks={
            "jax": ", mask=masks[0][:, None, None]",
            "linen": ", mask=mask[:, None, None]",
            "equinox": ", jnp.broadcast_to(mask, (len(x), len(x)))",
        },
    ),
    _multihead(
        "-causal",
        FIRST,
        "x",
        "x, x, x",
        ", attn_mask=torch.ones(x.shape[1], x.shape[1], dtype=bool).triu(1)",
        masks={
            "jax": ", is_causal=True",
            "linen": ", mask=jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool))",
            "equinox": ", jnp.tril(jnp.ones((len(x), len(x)), bool))",
        },
    ),
    Entry(
        name="multihead-attention-weights",
        torch=TIME_MAJOR,
        jax={"jax": WEIGHTS},
        cases={"batch": [normal(5, 2, 6)], "batch of one": [normal(2, 1, 6)]},
        of="torch.nn.MultiheadAttention",
        missing={
            **dict.fromkeys(("linen", "nnx"), "it sows weights of each head, and gives none back"),
            **dict.fromkeys(("equinox", "haiku"), "its layer gives no weights"),
        },
        notes={"layout": "(time, batch, width) unless batch_first=True (torch.nn.MultiheadAttention)"},
    ),
    *[
        Entry(
            name=f"dropout-{'shared' if train else 'eval'}",
            torch="torch.nn.Dropout(0.25)",
            jax={
                **({} if train else {"jax": "lambda x: x"}),
                "linen": "linen.Dropout(0.25)",
                "nnx": "nnx.Dropout(0.25, rngs=nnx.Rngs(0))",
                "equinox": "eqx.nn.Dropout(0.25)",
                "haiku": "hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.25, x))" if train else "hk.transform(lambda x: x)",
            },
            cases={"batch": [normal(5, 7)], "batch of one": [normal(1, 11)]},
            options={"train": True, "shared_randomness": True} if train else {"train": False},
            notes={"draws": "each library draws its own numbers; both sides get the same ones here (docs/specs.md, shared randomness)"}
            if train
            else {},
        )
        for train in (False, True)
    ],
)
