"""Linear maps, embeddings, products and distances."""

from __future__ import annotations

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import fixed, integers, normal

NO_LAYER = dict.fromkeys(("linen", "nnx", "equinox", "haiku"), "it has no such layer; use the function of jax")
INPUT_OF_KERNEL = {"weight (out, in)": "kernel (in, out), the transpose", "in_features": "taken from the input by linen and haiku"}


def _linear(bias: bool) -> Entry:
    said = "" if bias else ", bias=False"
    flax = "" if bias else ", use_bias=False"
    haiku = "" if bias else ", with_bias=False"
    return Entry(
        name="linear" if bias else "linear-no-bias",
        torch=f"torch.nn.Linear(5, 3{said})",
        jax={
            "jax": 'lambda p, x: x @ p["weight"].T' + (' + p["bias"]' if bias else ""),
            "linen": Equivalent(f"linen.Dense(3{flax})", {"out_features": "features", "bias=False": "use_bias=False", **INPUT_OF_KERNEL}),
            "nnx": Equivalent(f"nnx.Linear(5, 3{flax}, rngs=nnx.Rngs(0))", {"bias=False": "use_bias=False", **INPUT_OF_KERNEL}),
            "equinox": Equivalent(
                f"dlp.vmap(eqx.nn.Linear(5, 3{flax}, key=jax.random.key(0)))",
                {"bias=False": "use_bias=False", "weight (out, in)": "weight (out, in)"},
                cases=("batch", "one"),
                words="Takes one vector: map it over every axis before the last.",
            ),
            "haiku": Equivalent(
                f"hk.transform(lambda x: hk.Linear(3{haiku})(x))",
                {"out_features": "output_size", "bias=False": "with_bias=False", "weight (out, in)": "w (in, out), the transpose"},
            ),
        },
        cases={"batch": [normal(7, 5)], "one": [normal(1, 5)], "sequence": [normal(2, 3, 5)]},
        notes={
            "initialisation": "torch draws weight and bias uniformly within 1/sqrt(in_features); flax and haiku draw the weight from a "
            "truncated normal of variance 1/in and begin with a bias of zero (torch.nn.Linear.reset_parameters; "
            "flax.linen.linear.default_kernel_init; haiku.Linear)"
        },
    )


EMBEDDED = {"batch": [integers(3, 5, high=11)], "one": [integers(1, high=11)]}

FROZEN_ROW = """
def embedding(p, i):
    weight = p["weight"]
    return weight.at[0].set(lax.stop_gradient(weight[0]))[i]
"""

PADDED = {"batch": [fixed(np.array([[0, 3, 0], [10, 0, 7]]))]}
ONLY_PADDING = {"only padding": [fixed(np.array([0, 0]))]}


def _padded(code: str, leaf: str = "grad.weight", cases: tuple[str, ...] = ()) -> Equivalent:
    return Equivalent(
        code,
        {"padding_idx=0": "none: mask the gradient, or the row"},
        differs=tuple(
            Difference(
                leaf,
                case,
                "torch gives the row padding_idx no gradient, the layer does not know such a row",
                "https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html",
            )
            for case in PADDED | ONLY_PADDING
        ),
        cases=cases,
    )


BAG = {
    "sum": "p['weight'][i].sum(1)",
    "mean": "p['weight'][i].mean(1)",
    "max": "p['weight'][i].max(1)",
}

TORCH_BAG = {  # its rows have no number twice, also in eight bits
    "max": 'torch.nn.EmbeddingBag.from_pretrained(torch.randperm(44).reshape(11, 4) / 8 - 2.75, mode="max", freeze=False)'
}
RAGGED = """
def bag(p, i, start):
    segment = jnp.searchsorted(start, jnp.arange(len(i)), side="right") - 1
    return jax.ops.segment_sum(p["weight"][i], segment, num_segments=len(start))
"""

COSINE = """
def cosine(x, y, eps=1e-8):
    def norm(v):
        square = jnp.sum(v * v, -1)
        return jnp.sqrt(jnp.maximum(square, eps * eps))
    return jnp.sum(x * y, -1) / (norm(x) * norm(y))
"""

DISTANCE = "lambda x, y: jnp.linalg.norm(x - y + 1e-6, ord={}, axis=-1)"

PAIR = {"batch": [normal(4, 7), normal(4, 7)], "one": [normal(1, 3), normal(1, 3)]}
ZEROS = {"a row of zeros": [fixed(np.array([[0.0, 0, 0], [1, 2, 3]])), fixed(np.array([[1.0, 2, 3], [0, 0, 0]]))]}
EQUAL = {"equal rows": [fixed(np.array([[1.0, 2, 3], [0, 0, 0]])), fixed(np.array([[1.0, 2, 3], [0, 0, 0]]))]}
WIDE = ("float64", "float32", "bfloat16")  # their range holds the square of an epsilon
IN_HALF = {
    "cosine": {"float16": "eps=1e-8 is 0 there, and a row of zeros NaN (torch.nn.functional.cosine_similarity)"},
    "distance": {"float16": "the square of eps=1e-6 is 0 there (torch.nn.functional.pairwise_distance)"},
}

# name: (torch, jax, cases)
PRODUCTS = {
    "matmul": ("torch.matmul", "jnp.matmul", {"stack": [normal(2, 3, 5), normal(5, 4)], "vectors": [normal(7), normal(7)]}),
    "bmm": ("torch.bmm", "jnp.matmul", {"stack": [normal(3, 2, 5), normal(3, 5, 4)], "one": [normal(1, 1, 1), normal(1, 1, 1)]}),
    "addmm": (
        "lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2.0)",
        "lambda c, a, b: 0.5 * c + 2.0 * (a @ b)",
        {"matrix": [normal(3, 4), normal(3, 5), normal(5, 4)], "broadcast": [normal(4), normal(1, 5), normal(5, 4)]},
    ),
    "einsum": (
        'lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b)',
        'lambda a, b: jnp.einsum("bhqd,bhkd->bhqk", a, b)',
        {"heads": [normal(2, 3, 5, 4), normal(2, 3, 7, 4)], "one": [normal(1, 1, 1, 1), normal(1, 1, 1, 1)]},
    ),
    "einsum-diagonal": (
        'lambda a: torch.einsum("bii->bi", a)',
        'lambda a: jnp.einsum("bii->bi", a)',
        {"square": [normal(2, 5, 5)], "one": [normal(1, 1, 1)]},
    ),
    "tensordot": (
        "lambda a, b: torch.tensordot(a, b, dims=([1, 2], [1, 0]))",
        "lambda a, b: jnp.tensordot(a, b, axes=([1, 2], [1, 0]))",
        {"cube": [normal(2, 3, 5), normal(5, 3, 4)], "one": [normal(1, 1, 1), normal(1, 1, 1)]},
    ),
    "outer": ("torch.outer", "jnp.outer", {"vectors": [normal(3), normal(5)], "one": [normal(1), normal(1)]}),
    "kron": ("torch.kron", "jnp.kron", {"matrices": [normal(2, 3), normal(3, 2)], "one": [normal(1, 1), normal(2, 3)]}),
}

ENTRIES: tuple[Entry, ...] = (
    _linear(bias=True),
    _linear(bias=False),
    Entry(
        name="bilinear",
        torch="torch.nn.Bilinear(3, 5, 2)",
        jax={"jax": 'lambda p, x, y: jnp.einsum("...i,oij,...j->...o", x, p["weight"], y) + p["bias"]'},
        cases={"batch": [normal(4, 3), normal(4, 5)], "one": [normal(1, 3), normal(1, 5)], "more axes": [normal(2, 3, 3), normal(2, 3, 5)]},
        missing=NO_LAYER,
    ),
    Entry(
        name="identity",
        torch="torch.nn.Identity()",
        jax={"jax": "lambda x: x", "nnx": "nnx.identity", "equinox": "eqx.nn.Identity()"},
        cases={"batch": [normal(3, 5)], "one": [normal(1)]},
        edges={"edges": [fixed(np.array([0.0, -0.0, np.inf, -np.inf, np.nan]))]},
        missing=dict.fromkeys(("linen", "haiku"), "it has no identity layer; use lambda x: x"),
    ),
    Entry(
        name="flatten",
        torch="torch.nn.Flatten()",
        jax={
            "jax": "lambda x: x.reshape(len(x), -1)",
            "haiku": Equivalent("hk.transform(lambda x: hk.Flatten()(x))", {"start_dim=1": "preserve_dims=1"}),
        },
        cases={"image": [normal(2, 3, 5, 1)], "one": [normal(1, 1)]},
        missing=dict.fromkeys(("linen", "nnx", "equinox"), "it has no such layer; use reshape"),
        notes={
            "order": "torch flattens (channels, height, width); the same layer after a channels-last convolution flattens (height, width, "
            "channels), so the weight of the next linear layer must be moved (docs/specs.md)"
        },
    ),
    Entry(
        name="unflatten",
        torch="torch.nn.Unflatten(1, (3, 4))",
        jax={
            "jax": "lambda x: x.reshape(len(x), 3, 4)",
            "haiku": Equivalent(
                "hk.transform(lambda x: hk.Reshape((3, 4))(x))", {"dim=1": "preserve_dims=1", "unflattened_size": "output_shape"}
            ),
        },
        cases={"batch": [normal(5, 12)], "one": [normal(1, 12)]},
        missing=dict.fromkeys(("linen", "nnx", "equinox"), "it has no such layer; use reshape"),
    ),
    Entry(
        name="embedding",
        torch="torch.nn.Embedding(11, 4)",
        jax={
            "jax": 'lambda p, i: p["weight"][i]',
            "linen": Equivalent("linen.Embed(11, 4)", {"embedding_dim": "features", "weight": "embedding"}),
            "nnx": Equivalent("nnx.Embed(11, 4, rngs=nnx.Rngs(0))", {"embedding_dim": "features", "weight": "embedding"}),
            "equinox": Equivalent(
                "dlp.vmap(eqx.nn.Embedding(11, 4, key=jax.random.key(0)))",
                {"embedding_dim": "embedding_size"},
                cases=("one",),
                words="Takes one index: map it over every axis.",
            ),
            "haiku": Equivalent(
                "hk.transform(lambda i: hk.Embed(11, 4)(i))",
                {"num_embeddings": "vocab_size", "embedding_dim": "embed_dim", "weight": "embeddings"},
            ),
        },
        cases=EMBEDDED,
        notes={
            "indices out of range": "torch raises an error on the CPU; jax clamps them when it reads, and drops their gradient "
            "(https://docs.jax.dev/en/latest/notebooks/Common_Gotchas_in_JAX.html#out-of-bounds-indexing)",
            "initialisation": "torch draws from a normal of variance 1, flax of variance 1/features, haiku from a truncated normal of 1 "
            "(torch.nn.Embedding; flax.linen.Embed; haiku.Embed)",
        },
    ),
    Entry(
        name="embedding-padding-idx",
        torch="torch.nn.Embedding(11, 4, padding_idx=0)",
        jax={
            "jax": Equivalent(FROZEN_ROW, {"padding_idx=0": "the row under stop_gradient"}),
            "linen": _padded("linen.Embed(11, 4)"),
            "nnx": _padded("nnx.Embed(11, 4, rngs=nnx.Rngs(0))"),
            "haiku": _padded("hk.transform(lambda i: hk.Embed(11, 4)(i))"),
        },
        cases=PADDED,
        edges=ONLY_PADDING,
        missing={"equinox": "eqx.nn.Embedding has no padding index; write the function"},
    ),
    *[
        Entry(
            name=f"embedding-bag-{mode}",
            torch=TORCH_BAG.get(mode, f"torch.nn.EmbeddingBag(11, 4, mode={mode!r})"),
            jax={"jax": f"lambda p, i: {code}"},
            cases={"bags": [integers(3, 5, high=11)], "one": [integers(1, 1, high=11)]},
            missing=NO_LAYER,
        )
        for mode, code in BAG.items()
    ],
    Entry(
        name="embedding-bag-offsets",
        torch='torch.nn.EmbeddingBag(11, 4, mode="sum")',
        jax={"jax": RAGGED},
        cases={
            "ragged": [integers(7, high=11), fixed(np.array([0, 2, 3]))],
            "an empty bag": [integers(5, high=11), fixed(np.array([0, 2, 2, 4]))],
        },
        missing=NO_LAYER,
    ),
    Entry(
        name="embedding-bag-weighted",
        torch='lambda i, w, table: F.embedding_bag(i, table, mode="sum", per_sample_weights=w)',
        jax={"jax": 'lambda i, w, table: jnp.einsum("bn,bnd->bd", w, table[i])'},
        cases={"bags": [integers(3, 5, high=11), normal(3, 5), normal(11, 4)], "one": [integers(1, 1, high=3), normal(1, 1), normal(3, 4)]},
        of="torch.nn.functional.embedding_bag",
        missing=NO_LAYER,
    ),
    Entry(
        name="one-hot",
        torch="lambda i: F.one_hot(i, 7)",
        jax={"jax": Equivalent("lambda i: jax.nn.one_hot(i, 7, dtype=int)", words="Without dtype jax gives floats, torch whole numbers.")},
        cases={"batch": [integers(3, 5, high=7)], "one": [integers(1, high=7)]},
        of="torch.nn.functional.one_hot",
        notes={"indices out of range": "torch raises an error, jax gives a row of zeros (jax.nn.one_hot)"},
    ),
    *[
        Entry(
            name=name,
            torch=torch,
            jax={"jax": jax},
            cases=cases,
            of=f"torch.{name.split('-')[0]}",
        )
        for name, (torch, jax, cases) in PRODUCTS.items()
    ],
    *[
        Entry(
            name=f"cosine-similarity{name}",
            torch="torch.nn.CosineSimilarity(dim=-1)",
            jax={"jax": Equivalent(COSINE, words="torch clamps each norm from below, not their product.")},
            missing=NO_LAYER,
            **more,
        )
        for name, more in (
            ("", {"cases": PAIR}),
            ("-zeros", {"cases": ZEROS, "dtypes": WIDE, "notes": IN_HALF["cosine"]}),
        )
    ],
    *[
        Entry(
            name=f"pairwise-distance-{name}",
            torch=f"torch.nn.PairwiseDistance({p})",
            jax={"jax": Equivalent(DISTANCE.format(order), words="torch adds eps to the difference, not to the norm.")},
            missing=NO_LAYER,
            **more,
        )
        for name, p, order, more in (
            ("1", "1.0", "1", {"cases": PAIR, "edges": EQUAL}),
            ("2", "2.0", "2", {"cases": PAIR}),
            ("2-equal", "2.0", "2", {"cases": EQUAL, "dtypes": WIDE, "notes": IN_HALF["distance"]}),
            ("inf", "float('inf')", "jnp.inf", {"cases": PAIR, "edges": EQUAL}),
        )
    ],
)
