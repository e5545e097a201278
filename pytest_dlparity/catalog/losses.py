"""Losses: every loss of torch with its weights, smoothing, ignored indices and reductions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent, Inputs
from pytest_dlparity.catalog.ties import lower, upper
from pytest_dlparity.draws import booleans, fixed, integers, normal, uniform

LOSS_SOURCE = "torch/nn/modules/loss.py"
SUFFIX = {"mean": ".mean()", "sum": ".sum()", "none": ""}


def positive(*shape: int) -> Any:
    return uniform(*shape, low=0.1, high=2.0)


def signs(*shape: int) -> Any:
    """Targets of -1 and 1."""
    return lambda rng: rng.choice([-1.0, 1.0], shape)


def probabilities(*shape: int) -> Any:
    """Rows that sum to one, up to the rounding of the dtype."""
    return lambda rng: rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def log_probabilities(*shape: int) -> Any:
    return lambda rng: np.log(rng.dirichlet(np.full(shape[-1], 2.0), shape[:-1]))


def reduced(
    name: str,
    torch: str,
    formula: Mapping[str, str],
    cases: Mapping[str, Inputs],
    *,
    takes: str = "x, y",
    reductions: str = "mean sum none",
    edges: Mapping[str, Inputs] | None = None,
    options: Mapping[str, Any] | None = None,
    differs: Mapping[str, tuple[Difference, ...]] | None = None,
    words: str = "",
    notes: Mapping[str, str] | None = None,
    missing: Mapping[str, str] | None = None,
) -> Iterator[Entry]:
    """An entry for each reduction of a loss that is a formula of elements (or rows): torch.nn.NAME(torch, reduction=...)."""
    of, _, given = torch.partition("(")
    for reduction in reductions.split():
        said = ", ".join(part for part in (given.removesuffix(")"), "" if reduction == "mean" else f'reduction="{reduction}"') if part)
        yield Entry(
            name if reduction == "mean" else f"{name}-{reduction}",
            f"{of}({said})",
            {
                library: Equivalent(
                    f"lambda {takes}: {_reduced(code, reduction)}",
                    translation={"reduction": SUFFIX[reduction] or "nothing"},
                    differs=(differs or {}).get(library, ()) if reduction == "mean" else (),
                    words=words,
                )
                for library, code in formula.items()
            },
            cases,
            edges=(edges or {}) if reduction == "mean" else {},
            kind="layer" if reduction == "none" else "loss",
            options=options or {},
            notes=notes or {},
            missing=missing or {},
        )


def _reduced(code: str, reduction: str) -> str:
    simple = code.endswith(")") and code.startswith(("optax.", "jnp.")) and _closes_at_end(code)
    return code + SUFFIX[reduction] if simple or reduction == "none" else f"({code}){SUFFIX[reduction]}"


def _closes_at_end(code: str) -> bool:
    """Whether the first parenthesis closes at the end: then the call needs none around it."""
    depth = 0
    for at, letter in enumerate(code):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return at == len(code) - 1
    return False


# ---------------------------------------------------------------- classes

CLASSES = {
    "batch": (normal(8, 5, scale=3), integers(8, high=5)),
    "one row": (normal(1, 7), integers(1, high=7)),
    "two classes": (normal(3, 2), integers(3, high=2)),
}
WEIGHTED = {"batch": (normal(8, 5, scale=3), integers(8, high=5), positive(5)), "one row": (normal(1, 7), integers(1, high=7), positive(7))}
PIXELS = {"picture": (normal(2, 5, 3, 4), integers(2, 3, 4, high=5)), "one pixel": (normal(1, 3, 1, 1), integers(1, 1, 1, high=3))}
SOFT = {"batch": (normal(8, 5, scale=3), probabilities(8, 5)), "one row": (normal(1, 7), probabilities(1, 7))}
IGNORED = {
    "some ignored": (normal(6, 5), fixed([0, -100, 3, 4, -100, 1])),
    "one counted": (normal(3, 4), fixed([-100, 2, -100])),
}
SURE = (fixed([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0], [-1e4, 1e4, 1e4]]), fixed([0, 2, 1]))
WRONG = (fixed([[1e4, 0.0, -1e4], [30.0, -30.0, 0.0]]), fixed([2, 1]))
MASKED = (fixed([[0.5, -math.inf, 1.0], [-math.inf, 2.0, -math.inf]]), fixed([2, 1]))
FIRST = {"wrt": ["input0"]}
INTEGER = "optax.softmax_cross_entropy_with_integer_labels"

CROSS_ENTROPY = [
    *reduced(
        "cross-entropy",
        "torch.nn.CrossEntropyLoss()",
        {"optax": f"{INTEGER}(x, y)"},
        CLASSES,
        edges={"sure": SURE, "sure and wrong": WRONG, "masked classes": MASKED},
        notes={"mean": "torch takes the mean over the batch, optax gives a loss for each row (torch.nn.CrossEntropyLoss; optax.softmax_cross_entropy)"},
    ),
    *reduced(
        "cross-entropy-smoothed",
        "torch.nn.CrossEntropyLoss(label_smoothing=0.1)",
        {"optax": "optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(y, x.shape[-1]), 0.1))"},
        CLASSES,
        words="optax's smoothing, like torch's, gives each class alpha / classes, the right one too.",
    ),
    *reduced("cross-entropy-soft", "torch.nn.CrossEntropyLoss()", {"optax": "optax.softmax_cross_entropy(x, y)"}, SOFT),
    *reduced(
        "cross-entropy-soft-smoothed",
        "torch.nn.CrossEntropyLoss(label_smoothing=0.2)",
        {"optax": "optax.softmax_cross_entropy(x, optax.smooth_labels(y, 0.2))"},
        SOFT,
        reductions="mean",
    ),
    *reduced("cross-entropy-2d", "torch.nn.CrossEntropyLoss()", {"optax": f"{INTEGER}(x, y, axis=1)"}, PIXELS, reductions="mean none"),
    *[
        Entry(
            f"cross-entropy-{name}",
            f"lambda x, y, w: F.cross_entropy(x, y, w{more})",
            {"optax": Equivalent(code, words=words)},
            WEIGHTED,
            kind=kind,
            options=FIRST,
            of="torch.nn.CrossEntropyLoss",
        )
        for name, more, kind, code, words in [
            (
                "weighted",
                "",
                "loss",
                f"lambda x, y, w: jnp.average({INTEGER}(x, y), weights=w[y])",
                "The mean is weighted: divided by the sum of the weights.",
            ),
            ("weighted-sum", ', reduction="sum"', "loss", f"lambda x, y, w: (w[y] * {INTEGER}(x, y)).sum()", ""),
            ("weighted-none", ', reduction="none"', "layer", f"lambda x, y, w: w[y] * {INTEGER}(x, y)", ""),
            (
                "weighted-smoothed",
                ", label_smoothing=0.1",
                "loss",
                "lambda x, y, w: optax.softmax_cross_entropy(x, w * optax.smooth_labels(jax.nn.one_hot(y, len(w)), 0.1)).sum() / w[y].sum()",
                "Every class of the smoothed label has its own weight; the mean is divided by the weights of the right ones alone.",
            ),
        ]
    ],
    Entry(
        "cross-entropy-soft-weighted",
        "lambda x, y, w: F.cross_entropy(x, y, w)",
        {
            "optax": Equivalent(
                "lambda x, y, w: optax.softmax_cross_entropy(x, w * y).mean()",
                words="With probabilities as targets the mean is over rows, not weights.",
            )
        },
        {"batch": (*SOFT["batch"], positive(5)), "one row": (*SOFT["one row"], positive(7))},
        kind="loss",
        options=FIRST,
        of="torch.nn.CrossEntropyLoss",
    ),
    *[
        Entry(
            f"cross-entropy-ignored{name}",
            f"torch.nn.CrossEntropyLoss({torch})",
            {"optax": code},
            IGNORED,
            kind="layer" if "none" in name else "loss",
        )
        for name, torch, code in [
            ("", "ignore_index=-100", f"lambda x, y: {INTEGER}(x, jnp.where(y == -100, 0, y)).mean(where=y != -100)"),
            ("-sum", 'ignore_index=-100, reduction="sum"', f"lambda x, y: {INTEGER}(x, jnp.where(y == -100, 0, y)).sum(where=y != -100)"),
            (
                "-none",
                'ignore_index=-100, reduction="none"',
                f"lambda x, y: jnp.where(y == -100, 0, {INTEGER}(x, jnp.where(y == -100, 0, y)))",
            ),
        ]
    ],
    Entry(
        "cross-entropy-ignored-smoothed",
        "torch.nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=0.1)",
        {
            "optax": "lambda x, y: optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(y, x.shape[-1]), 0.1)).mean(where=y != -100)"
        },
        IGNORED,
        kind="loss",
    ),
    Entry(
        "linear-cross-entropy",
        "torch.nn.LinearCrossEntropyLoss(6, 5, options=None)",
        {"optax": f'lambda p, x, y: {INTEGER}(x @ p["linear.weight"].T, y).mean()'},
        {"batch": (normal(7, 6), integers(7, high=5)), "one row": (normal(1, 6), integers(1, high=5))},
        kind="layer",
    ),
]

ROWS = "-jnp.take_along_axis(x, y[:, None], 1)[:, 0]"
LOGS = {"batch": (log_probabilities(8, 5), integers(8, high=5)), "one row": (normal(1, 7), integers(1, high=7))}
NLL = [
    *reduced("nll", "torch.nn.NLLLoss()", {"jax": ROWS}, LOGS),
    *reduced("nll-2d", "torch.nn.NLLLoss()", {"jax": "-jnp.take_along_axis(x, y[:, None], 1)[:, 0]"}, PIXELS, reductions="mean"),
    *[
        Entry(
            f"nll-weighted{name}",
            f"lambda x, y, w: F.nll_loss(x, y, w{more})",
            {"jax": f"lambda x, y, w: {code}"},
            {"batch": (*LOGS["batch"], positive(5)), "one row": (*LOGS["one row"], positive(7))},
            kind=kind,
            options=FIRST,
            of="torch.nn.NLLLoss",
        )
        for name, more, kind, code in [
            ("", "", "loss", f"jnp.average({ROWS}, weights=w[y])"),
            ("-sum", ', reduction="sum"', "loss", f"(w[y] * {ROWS}).sum()"),
        ]
    ],
    Entry(
        "nll-ignored",
        "torch.nn.NLLLoss(ignore_index=0)",
        {"jax": f"lambda x, y: ({ROWS}).mean(where=y != 0)"},
        {"some ignored": (normal(6, 5), fixed([0, 1, 3, 4, 0, 1])), "one counted": (normal(3, 4), fixed([0, 2, 0]))},
        kind="loss",
    ),
]

# ---------------------------------------------------------------- probabilities

HALVES = {"batch": (uniform(4, 5, low=0.05, high=0.95), uniform(4, 5)), "row": (uniform(7, low=0.05, high=0.95), uniform(7))}
SCORES = {"batch": (normal(4, 5, scale=3), uniform(4, 5)), "labels": (normal(1, 7), lambda rng: rng.integers(0, 2, (1, 7)) * 1.0)}
BCE = "-(y * jnp.maximum(jnp.log(x), -100) + (1 - y) * jnp.maximum(jnp.log1p(-x), -100))"
LARGE = (fixed([0.0, 100.0, -100.0, 1e4, -1e4]), fixed([0.5, 1.0, 1.0, 0.0, 1.0]))
SIGMOID = "optax.sigmoid_binary_cross_entropy"
WITH_POSITIVE = "(1 - y) * jax.nn.softplus(x) + w * y * jax.nn.softplus(-x)"

BINARY = [
    *reduced(
        "bce",
        "torch.nn.BCELoss()",
        {"jax": BCE},
        HALVES,
        options=FIRST,
        words="torch cuts the logarithms off at -100.",
        notes={"log": f"BCELoss cuts its logarithms off at -100 ({LOSS_SOURCE}, BCELoss)"},
    ),
    Entry(
        "bce-weighted",
        "lambda x, y, w: F.binary_cross_entropy(x, y, w)",
        {"jax": f"lambda x, y, w: (w * ({BCE})).mean()"},
        {"batch": (*HALVES["batch"], positive(4, 5)), "one weight": (*HALVES["row"], positive(1))},
        kind="loss",
        options=FIRST,
        of="torch.nn.BCELoss",
    ),
    Entry(
        "bce-labels",
        "lambda x, y: F.binary_cross_entropy(x, y.to(x.dtype))",
        {"jax": f"lambda x, y: ({BCE}).mean()"},
        {"batch": (HALVES["batch"][0], booleans(4, 5)), "one": (uniform(1, low=0.05, high=0.95), fixed([True]))},
        kind="loss",
        of="torch.nn.BCELoss",
    ),
    *reduced("bce-logits", "torch.nn.BCEWithLogitsLoss()", {"optax": f"{SIGMOID}(x, y)"}, SCORES, edges={"large": LARGE}),
    *[
        Entry(
            f"bce-logits-{name}",
            f"lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, {keyword}=w)",
            {library: f"lambda x, y, w: ({code}).mean()"},
            {"batch": (*SCORES["batch"], positive(5)), "labels": (*SCORES["labels"], positive(7))},
            kind="loss",
            options=FIRST,
            of="torch.nn.BCEWithLogitsLoss",
        )
        for name, keyword, library, code in [
            ("weighted", "weight", "optax", f"w * {SIGMOID}(x, y)"),
            ("positive-weight", "pos_weight", "jax", WITH_POSITIVE),
        ]
    ],
    *reduced(
        "kl-div",
        "torch.nn.KLDivLoss()",
        {"jax": "jax.scipy.special.xlogy(y, y) - y * x"},
        {"batch": (log_probabilities(6, 5), probabilities(6, 5)), "one row": (log_probabilities(1, 7), probabilities(1, 7))},
        options=FIRST,
        edges={"zeros in the target": (log_probabilities(2, 3), fixed([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]))},
        notes={"mean": "reduction='mean' divides by every element, which is no divergence; 'batchmean' is (torch.nn.KLDivLoss)"},
    ),
    *reduced(
        "kl-div-log-target",
        "torch.nn.KLDivLoss(log_target=True)",
        {"jax": "jnp.exp(y) * (y - x)"},
        {"batch": (log_probabilities(6, 5), log_probabilities(6, 5)), "one row": (log_probabilities(1, 7), log_probabilities(1, 7))},
    ),
    *[
        Entry(
            f"kl-div-batchmean{name}",
            f'torch.nn.KLDivLoss(reduction="batchmean"{more})',
            {"optax": f"lambda x, y: {code}(x, y).mean()"},
            {"batch": (log_probabilities(6, 5), target(6, 5)), "one row": (log_probabilities(1, 7), target(1, 7))},
            kind="loss",
            options=FIRST,
        )
        for name, more, code, target in [
            ("", "", "optax.losses.kl_divergence", probabilities),
            ("-log-target", ", log_target=True", "optax.losses.kl_divergence_with_log_targets", log_probabilities),
        ]
    ],
]

# ---------------------------------------------------------------- numbers

PAIRS = {"batch": (lower(5, 7), upper(5, 7)), "one": (lower(1), upper(1)), "prime": (lower(13), upper(13))}
TIES = {"ties": (fixed([0.0, 1.0, 2.0, -3.0]), fixed([0.0, 1.0, 1.0, -4.0]))}
RATES = {"batch": (normal(4, 5), uniform(4, 5, low=0.2, high=4)), "one": (normal(1), uniform(1, low=1.5, high=4))}

REGRESSION = [
    *reduced(
        "mse",
        "torch.nn.MSELoss()",
        {"optax": "optax.squared_error(x, y)"},
        PAIRS,
        edges=TIES,
        notes={"half": "optax.l2_loss is half of it (optax.l2_loss)"},
    ),
    *reduced(
        "l1",
        "torch.nn.L1Loss()",
        {"jax": "jnp.abs(x - y)"},
        PAIRS,
        edges=TIES,
        differs={
            "jax": tuple(
                Difference(
                    f"grad.input{i}",
                    "ties",
                    "where both are equal torch's gradient is 0, jax's is that of x > 0",
                    "torch: tools/autograd/derivatives.yaml, abs: grad * self.sgn(); jax/_src/lax/lax.py, _abs_jvp_rule: select(x >= 0, g, -g)",
                    torch=0.0,
                    jax=sign / 4,
                )
                for i, sign in enumerate((1, -1))
            )
        },
    ),
    *reduced("huber", "torch.nn.HuberLoss()", {"optax": "optax.huber_loss(x, y)"}, PAIRS, edges=TIES),
    *reduced("huber-delta", "torch.nn.HuberLoss(delta=0.5)", {"optax": "optax.huber_loss(x, y, delta=0.5)"}, PAIRS, reductions="mean"),
    *reduced("smooth-l1", "torch.nn.SmoothL1Loss()", {"optax": "optax.huber_loss(x, y)"}, PAIRS, edges=TIES),
    *reduced(
        "smooth-l1-beta",
        "torch.nn.SmoothL1Loss(beta=0.25)",
        {"optax": "optax.huber_loss(x, y, delta=0.25) / 0.25"},
        PAIRS,
        reductions="mean",
        words="It is the Huber loss of delta=beta, divided by beta.",
    ),
    *reduced("poisson-nll", "torch.nn.PoissonNLLLoss()", {"jax": "jnp.exp(x) - y * x"}, RATES),
    *reduced(
        "poisson-nll-rate",
        "torch.nn.PoissonNLLLoss(log_input=False)",
        {"jax": "x - y * jnp.log(x + 1e-8)"},
        {"batch": (positive(4, 5), positive(4, 5)), "one": (positive(1), positive(1))},
        reductions="mean none",
    ),
    *reduced(
        "poisson-nll-full",
        "torch.nn.PoissonNLLLoss(full=True)",
        {"jax": "jnp.exp(x) - y * x + jnp.where(y > 1, y * jnp.log(y) - y + jnp.log(2 * jnp.pi * y) / 2, 0)"},
        RATES,
        reductions="mean",
        options=FIRST,
        words="Stirling's approximation, for targets above 1.",
    ),
    *[
        Entry(
            f"gaussian-nll{name}",
            f"torch.nn.GaussianNLLLoss({arguments})",
            {"jax": f"def gaussian(x, y, v):\n    v = v + lax.stop_gradient(jnp.maximum(v, {eps}) - v)\n    return {code}"},
            {"batch": (normal(4, 5), normal(4, 5), positive(4, 5)), "one variance a row": (normal(3, 4), normal(3, 4), positive(3, 1))},
            edges={"below eps": (fixed([1.0, 2.0]), fixed([0.0, 2.0]), fixed([0.0, 1e-3]))} if "none" in name else {},
            kind=kind,
        )
        for name, arguments, eps, code, kind in [
            ("", "", 1e-6, "(jnp.log(v) + (x - y) ** 2 / v).mean() / 2", "loss"),
            ("-full-sum", 'full=True, reduction="sum"', 1e-6, "((jnp.log(v) + (x - y) ** 2 / v + jnp.log(2 * jnp.pi)) / 2).sum()", "loss"),
            ("-none", 'eps=1e-2, reduction="none"', 1e-2, "(jnp.log(v) + (x - y) ** 2 / v) / 2", "layer"),
        ]
    ],
]

# ---------------------------------------------------------------- margins

SIGNED = {"batch": (normal(4, 5), signs(4, 5)), "one": (normal(1), signs(1)), "prime": (normal(13), signs(13))}
RANKED = {
    "batch": (lower(11), upper(11), signs(11)),
    "one": (normal(1, mean=-2, scale=0.1), normal(1, mean=2, scale=0.1), fixed([1.0])),
}
VECTORS = {"batch": (normal(6, 7), normal(6, 7), signs(6)), "one": (normal(1, 3), normal(1, 3), fixed([1.0]))}
TRIPLES = {
    "batch": (normal(6, 7), normal(6, 7), normal(6, 7)),
    "one": (normal(1, 3, mean=3), normal(1, 3, mean=-3), normal(1, 3, mean=3)),  # a margin that is not kept
}
LABELS = {"batch": (normal(6, 5), integers(6, high=5)), "one row": (normal(1, 3, scale=0.1), integers(1, high=3))}
SETS = {"batch": (normal(4, 5), lambda rng: rng.integers(0, 2, (4, 5)) * 1.0), "one row": (normal(1, 3), fixed([[1.0, 0.0, 1.0]]))}
OTHER_EPS = {"optax": "optax.losses.triplet_margin_loss adds its eps to the sum of powers, torch to every difference (optax 0.2.8)"}
DISTANCE = "jnp.linalg.norm(x - y + 1e-6, axis=-1)"
COSINE = """def cosine_embedding(x, y, t):
    cosine = (x * y).sum(-1) / jnp.sqrt(((x * x).sum(-1) + 1e-12) * ((y * y).sum(-1) + 1e-12))
    return jnp.where(t == 1, 1 - cosine, jax.nn.relu(cosine - {margin})){suffix}"""
TRIPLET = """def triplet(a, p, n):
    def distance(x, y):
        return {distance}
    return jax.nn.relu(distance(a, p) - {far} + {margin}){suffix}"""
NORM = "(jnp.abs(x - y + 1e-6) ** {p}).sum(-1) ** (1 / {p})"
MULTI = """def multi_margin(x, y{more}):
    right = jnp.take_along_axis(x, y[:, None], 1)
    loss = jax.nn.relu({margin} - right + x) ** {p}{weight}
    return jnp.where(jax.nn.one_hot(y, x.shape[1], dtype=bool), 0, loss).sum(1){suffix} / x.shape[1]"""
SET_MARGIN = """def multi_label_margin(x, y):
    valid = jnp.cumprod(y >= 0, axis=1).astype(bool)
    member = (jax.nn.one_hot(y, x.shape[1], dtype=bool) & valid[..., None]).any(1)
    right = jnp.take_along_axis(x, jnp.where(valid, y, 0), 1)
    loss = jax.nn.relu(1 - right[:, :, None] + x[:, None, :])
    return jnp.where(valid[:, :, None] & ~member[:, None, :], loss, 0).sum((1, 2)){suffix} / x.shape[1]"""

MARGINS = [
    *reduced(
        "hinge-embedding", "torch.nn.HingeEmbeddingLoss()", {"jax": "jnp.where(y == 1, x, jax.nn.relu(1 - x))"}, SIGNED, options=FIRST
    ),
    *reduced(
        "hinge-embedding-margin",
        "torch.nn.HingeEmbeddingLoss(margin=0.5)",
        {"jax": "jnp.where(y == 1, x, jax.nn.relu(0.5 - x))"},
        SIGNED,
        options=FIRST,
        reductions="mean",
    ),
    *reduced("soft-margin", "torch.nn.SoftMarginLoss()", {"jax": "jax.nn.softplus(-y * x)"}, SIGNED, options=FIRST),
    *reduced(
        "margin-ranking",
        "torch.nn.MarginRankingLoss()",
        {"jax": "jax.nn.relu(-t * (x - y))"},
        RANKED,
        takes="x, y, t",
        options={"wrt": ["input0", "input1"]},
    ),
    *reduced(
        "margin-ranking-margin",
        "torch.nn.MarginRankingLoss(margin=0.47)",
        {"optax": "optax.hinge_loss((x - y) / 0.47, t) * 0.47"},
        RANKED,
        takes="x, y, t",
        reductions="mean",
        options={"wrt": ["input0", "input1"]},
        words="It is the hinge loss of the difference, scaled to the margin.",
    ),
    *[
        Entry(
            f"cosine-embedding{name}",
            f"torch.nn.CosineEmbeddingLoss({arguments})",
            {"jax": COSINE.format(margin=margin, suffix=suffix)},
            VECTORS,
            kind=kind,
            options={"wrt": ["input0", "input1"]},
        )
        for name, arguments, margin, suffix, kind in [
            ("", "", 0, ".mean()", "loss"),
            ("-margin-sum", 'margin=0.25, reduction="sum"', 0.25, ".sum()", "loss"),
            ("-none", 'reduction="none"', 0, "", "layer"),
        ]
    ],
    *[
        Entry(
            f"triplet-margin{name}",
            f"torch.nn.TripletMarginLoss({arguments})",
            {"jax": TRIPLET.format(distance=distance, far=far, margin=margin, suffix=suffix)},
            TRIPLES,
            kind=kind,
            missing=OTHER_EPS,
        )
        for name, arguments, distance, far, margin, suffix, kind in [
            ("", "", DISTANCE, "distance(a, n)", 1, ".mean()", "loss"),
            ("-sum", 'margin=0.5, reduction="sum"', DISTANCE, "distance(a, n)", 0.5, ".sum()", "loss"),
            ("-none", 'reduction="none"', DISTANCE, "distance(a, n)", 1, "", "layer"),
            ("-swap", "swap=True", DISTANCE, "jnp.minimum(distance(a, n), distance(p, n))", 1, ".mean()", "loss"),
            ("-p1", "p=1", NORM.format(p=1), "distance(a, n)", 1, ".mean()", "loss"),
            ("-p3", "p=3", NORM.format(p=3), "distance(a, n)", 1, ".mean()", "loss"),
        ]
    ],
    Entry(
        "triplet-margin-with-distance",
        "torch.nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: 1 - F.cosine_similarity(x, y), margin=0.5)",
        {"optax": "lambda a, p, n: jax.nn.relu(optax.cosine_distance(a, p) - optax.cosine_distance(a, n) + 0.5).mean()"},
        TRIPLES,
        kind="loss",
    ),
    *[
        Entry(
            f"multi-margin{name}",
            f"torch.nn.MultiMarginLoss({arguments})",
            {"jax": MULTI.format(margin=margin, p=p, suffix=suffix, more="", weight="")},
            LABELS,
            kind=kind,
        )
        for name, arguments, margin, p, suffix, kind in [
            ("", "", 1, 1, ".mean()", "loss"),
            ("-p2-sum", 'p=2, margin=0.5, reduction="sum"', 0.5, 2, ".sum()", "loss"),
            ("-none", 'reduction="none"', 1, 1, "", "layer"),
        ]
    ],
    Entry(
        "multi-margin-weighted",
        "lambda x, y, w: F.multi_margin_loss(x, y, weight=w)",
        {"jax": MULTI.format(margin=1, p=1, suffix=".mean()", more=", w", weight=" * w[y][:, None]")},
        {"batch": (*LABELS["batch"], positive(5)), "one row": (*LABELS["one row"], positive(3))},
        kind="loss",
        options=FIRST,
        of="torch.nn.MultiMarginLoss",
    ),
    *[
        Entry(
            f"multi-label-margin{name}",
            f"torch.nn.MultiLabelMarginLoss({arguments})",
            {"jax": SET_MARGIN.format(suffix=suffix)},
            {
                "batch": (normal(3, 4), fixed([[3, 0, -1, 1], [1, -1, 0, 2], [0, 1, 2, -1]])),
                "one row": (normal(1, 3, scale=0.1), fixed([[2, -1, -1]])),
            },
            kind=kind,
        )
        for name, arguments, suffix, kind in [("", "", ".mean()", "loss"), ("-none", 'reduction="none"', "", "layer")]
    ],
    *reduced(
        "multi-label-soft-margin",
        "torch.nn.MultiLabelSoftMarginLoss()",
        {"optax": f"{SIGMOID}(x, y).mean(-1)"},
        SETS,
        notes={"mean": "each row is the mean over classes, also with reduction='sum' and 'none' (torch.nn.MultiLabelSoftMarginLoss)"},
    ),
]

# ---------------------------------------------------------------- sequences

CTC = """def ctc(logits, labels, frames, lengths):
    def padding(lengths, size):
        return (jnp.arange(size) >= lengths[:, None]).astype(logits.dtype)
    x = logits.swapaxes(0, 1)
    loss = optax.ctc_loss(x, padding(frames, x.shape[1]), labels, padding(lengths, labels.shape[1]))
    return {code}"""
SEQUENCES = {
    "batch": (normal(7, 3, 5), integers(3, 3, low=1, high=5), fixed([7, 5, 6]), fixed([3, 2, 1])),
    "repeated labels": (normal(8, 1, 4), fixed([[2, 2, 2]]), fixed([8]), fixed([3])),
}
SEQUENTIAL = [
    Entry(
        f"ctc{name}",
        f"lambda x, y, n, m: F.ctc_loss(x.log_softmax(-1), y, n, m{more})",
        {"optax": Equivalent(CTC.format(code=code), words=words)},
        SEQUENCES,
        kind=kind,
        of="torch.nn.CTCLoss",
    )
    for name, more, code, kind, words in [
        (
            "",
            "",
            "(loss / jnp.maximum(lengths, 1)).mean()",
            "loss",
            "torch takes log probabilities, optax logits; torch's mean divides each loss by its label's length.",
        ),
        ("-none", ', reduction="none"', "loss", "layer", ""),
    ]
]

ADAPTIVE = """def adaptive(p, x, y):
    head = jax.nn.log_softmax(x @ p["head.weight"].T)
    tail = jax.nn.log_softmax(x @ p["tail.0.0.weight"].T @ p["tail.0.1.weight"].T)
    every = jnp.concatenate([head[:, :3], head[:, 3:] + tail], 1)
    output = jnp.take_along_axis(every, y[:, None], 1)[:, 0]
    return {"output": output, "loss": -output.mean()}"""
SEQUENTIAL += [
    Entry(
        "adaptive-log-softmax",
        "torch.nn.AdaptiveLogSoftmaxWithLoss(8, 7, cutoffs=[3])",
        {"jax": ADAPTIVE},
        {"both clusters": (normal(5, 8), fixed([0, 6, 3, 2, 4]))},
    )
]

ENTRIES: tuple[Entry, ...] = (*CROSS_ENTROPY, *NLL, *BINARY, *REGRESSION, *MARGINS, *SEQUENTIAL)
