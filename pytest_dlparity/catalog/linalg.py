"""Linear algebra: products, solvers, factorisations and norms, with their gradients and the signs that are free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import Draw, fixed, normal


class Row(NamedTuple):
    """A function in both frameworks, its inputs by case, and what is known of it."""

    name: str
    torch: str
    jax: str
    cases: Mapping[str, tuple[Any, ...]]
    edges: Mapping[str, tuple[Any, ...]] = {}
    differs: tuple[Difference, ...] = ()
    options: Mapping[str, Any] = {}
    words: str = ""
    dtypes: tuple[str, ...] = ()  # the only ones


def conditioned(*shape: int) -> Draw:
    """Matrices whose singular values lie between 1 and 3, apart from each other: their inverses are no test of rounding."""

    def make(rng: np.random.Generator) -> np.ndarray:
        u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        return np.asarray(u * np.linspace(3, 1, min(shape[-2:])) @ v)

    return Draw(f"conditioned{shape}", make)


def cube(*shape: int) -> Draw:
    """A tensor that is a well conditioned square matrix when its axes are joined."""
    side = math.isqrt(math.prod(shape))
    square = conditioned(side, side)
    return Draw(f"conditioned{shape}", lambda rng: square.make(rng).reshape(shape))


def definite(size: int) -> Draw:
    """A symmetric matrix with eigenvalues from 1 to 3."""

    def make(rng: np.random.Generator) -> np.ndarray:
        q, _ = np.linalg.qr(rng.normal(size=(size, size)))
        return np.asarray(q * np.linspace(1, 3, size) @ q.T)

    return Draw(f"definite({size})", make)


def symmetric(size: int) -> Draw:
    def make(rng: np.random.Generator) -> np.ndarray:
        q, _ = np.linalg.qr(rng.normal(size=(size, size)))
        return np.asarray(q * np.linspace(-2, 3, size) @ q.T)

    return Draw(f"symmetric({size})", make)


SQUARE = {"odd": (conditioned(5, 5),), "one": (conditioned(1, 1),), "batch": (conditioned(3, 4, 4),)}
TALL = {"tall": (conditioned(5, 3),), "wide": (conditioned(3, 5),)}
DEFINITE = {"odd": (definite(5),), "one": (fixed([[2.0]]),)}
SYMMETRIC = {"odd": (symmetric(5),), "even": (symmetric(4),)}
SYSTEM = {"vector": (conditioned(5, 5), normal(5)), "matrix": (conditioned(4, 4), normal(4, 3))}
BOTH = {"odd": (normal(3, 5), normal(5, 2)), "one": (normal(1, 1), normal(1, 1))}

PRODUCTS = [
    Row("mv", "torch.mv", "jnp.dot", {"odd": (normal(3, 5), normal(5))}),
    Row(
        "einsum-attention",
        'lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k)',
        'lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k)',
        {"odd": (normal(2, 3, 2, 5), normal(2, 7, 2, 5))},
    ),
    Row("einsum-trace", 'lambda x: torch.einsum("bii->b", x)', 'lambda x: jnp.einsum("bii->b", x)', {"odd": (normal(2, 3, 3),)}),
    Row(
        "multi-dot",
        "lambda a, b, c: torch.linalg.multi_dot([a, b, c])",
        "lambda a, b, c: jnp.linalg.multi_dot([a, b, c])",
        {"odd": (normal(2, 5), normal(5, 3), normal(3, 4))},
    ),
    Row("cross", "lambda a, b: torch.linalg.cross(a, b)", "lambda a, b: jnp.cross(a, b)", {"odd": (normal(5, 3), normal(5, 3))}),
    Row("vecdot", "torch.linalg.vecdot", "jnp.linalg.vecdot", {"odd": (normal(3, 5), normal(3, 5))}),
    Row("trace", "torch.trace", "jnp.trace", {"odd": (normal(3, 3),), "wide": (normal(2, 5),)}),
    Row("matrix-power", "lambda x: torch.linalg.matrix_power(x, 3)", "lambda x: jnp.linalg.matrix_power(x, 3)", SQUARE),
    Row("vander", "lambda x: torch.linalg.vander(x, N=4)", "lambda x: jnp.vander(x, 4, increasing=True)", {"odd": (normal(5),), "one": (normal(1),)}),
    Row(
        "pdist",
        "F.pdist",
        "lambda x: jnp.linalg.norm(x[jnp.triu_indices(len(x), 1)[0]] - x[jnp.triu_indices(len(x), 1)[1]], axis=1)",
        {"odd": (normal(5, 3),), "two": (normal(2, 4),)},
    ),
    Row(
        "cdist",
        "lambda a, b: torch.cdist(a, b)",
        "lambda a, b: jnp.sqrt(((a[:, None] - b) ** 2).sum(-1))",
        {"odd": (normal(3, 5), normal(4, 5))},
    ),
]

SOLVERS = [
    Row("tensorinv", "lambda x: torch.linalg.tensorinv(x, ind=1)", "lambda x: jnp.linalg.tensorinv(x, ind=1)", {"odd": (cube(6, 2, 3),)}),
    Row("tensorsolve", "torch.linalg.tensorsolve", "jnp.linalg.tensorsolve", {"odd": (cube(2, 3, 6), normal(2, 3))}),
    Row("solve", "torch.linalg.solve", "jnp.linalg.solve", SYSTEM),
    Row("inv", "torch.linalg.inv", "jnp.linalg.inv", SQUARE),
    Row("pinv", "torch.linalg.pinv", "jnp.linalg.pinv", TALL, dtypes=("float32",)),
    Row(
        "lstsq",
        "lambda a, b: torch.linalg.lstsq(a, b).solution",
        "lambda a, b: jnp.linalg.lstsq(a, b)[0]",
        {"tall": (conditioned(5, 3), normal(5, 2))},
        dtypes=("float32",),
    ),
    Row(
        "solve-triangular",
        "lambda a, b: torch.linalg.solve_triangular(a, b, upper=True)",
        "lambda a, b: jax.scipy.linalg.solve_triangular(a, b)",
        {"odd": (definite(5), normal(5, 2))},
    ),
    Row(
        "solve-triangular-unit",
        "lambda a, b: torch.linalg.solve_triangular(a, b, upper=False, unitriangular=True)",
        "lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True, unit_diagonal=True)",
        {"odd": (definite(5), normal(5, 2))},
    ),
    Row(
        "cholesky-solve",
        "lambda a, b: torch.cholesky_solve(b, torch.linalg.cholesky(a))",
        "lambda a, b: jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(a), True), b)",
        {"odd": (definite(5), normal(5, 2))},
    ),
    Row(
        "lu-solve",
        "lambda a, b: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), b)",
        "lambda a, b: jax.scipy.linalg.lu_solve(jax.scipy.linalg.lu_factor(a), b)",
        {"odd": (conditioned(5, 5), normal(5, 2))},
    ),
    Row(
        "matrix-exp",
        "torch.linalg.matrix_exp",
        "jax.scipy.linalg.expm",
        {"odd": (normal(5, 5),)},
    ),
]

FACTORS = [
    Row(
        "det",
        "torch.linalg.det",
        "jnp.linalg.det",
        SQUARE,
        {"singular": (fixed([[1.0, 2.0], [2.0, 4.0]]),)},
        (
            Difference(
                "grad.input",
                "singular",
                "of a singular matrix torch's gradient is 0, jax's the matrix of cofactors",
                "torch: torch/csrc/autograd/FunctionsManual.cpp, linalg_det_backward; jax/_src/numpy/linalg.py, _det_jvp by cofactors",
                torch=0.0,
            ),
        ),
    ),
    Row("slogdet", "lambda x: tuple(torch.linalg.slogdet(x))", "lambda x: tuple(jnp.linalg.slogdet(x))", SQUARE),
    Row("cholesky", "torch.linalg.cholesky", "jnp.linalg.cholesky", DEFINITE),
    Row(
        "qr",
        "lambda x: tuple(torch.linalg.qr(x))",
        "lambda x: tuple(jnp.linalg.qr(x))",
        {"tall": (conditioned(5, 3),), "square": (conditioned(4, 4),)},
        words="Both take LAPACK's signs: the diagonal of R may be negative.",
    ),
    Row("svdvals", "torch.linalg.svdvals", "jnp.linalg.svdvals", {**TALL, "square": (conditioned(4, 4),)}),
    Row(
        "svd-low-rank",
        "def low_rank(x):\n    u, s, v = torch.linalg.svd(x, full_matrices=False)\n    return u[:, :2] * s[:2] @ v[:2]",
        "def low_rank(x):\n    u, s, v = jnp.linalg.svd(x, full_matrices=False)\n    return u[:, :2] * s[:2] @ v[:2]",
        TALL,
        words="Each singular vector has a free sign; their products do not.",
    ),
    Row("eigvalsh", "torch.linalg.eigvalsh", "jnp.linalg.eigvalsh", SYMMETRIC),
    Row(
        "eigh-projector",
        "def projector(x):\n    v = torch.linalg.eigh(x).eigenvectors[:, :2]\n    return v @ v.T",
        "def projector(x):\n    v = jnp.linalg.eigh(x).eigenvectors[:, :2]\n    return v @ v.T",
        SYMMETRIC,
        words="Each eigenvector has a free sign; the projector on two of them has none.",
    ),
    Row(
        "eigvals",
        "lambda x: torch.linalg.eigvals(x).abs().sort().values",
        "lambda x: jnp.sort(jnp.abs(jnp.linalg.eigvals(x)))",
        {"odd": (conditioned(5, 5),)},
        options={"wrt": []},
    ),
    Row(
        "matrix-rank",
        "torch.linalg.matrix_rank",
        "jnp.linalg.matrix_rank",
        {"one": (fixed(np.outer([1.0, 2.0, 4.0], [1.0, 3.0])),)},
        options={"wrt": []},
        dtypes=("float32",),
    ),
    Row("lu", "lambda x: tuple(torch.linalg.lu(x))", "jax.scipy.linalg.lu", {"odd": (conditioned(5, 5),), "tall": (conditioned(5, 3),)}),
]

NORMS = [
    *[
        Row(
            f"matrix-norm-{name}",
            f"lambda x: torch.linalg.matrix_norm(x, {torch})",
            f"lambda x: jnp.linalg.matrix_norm(x, ord={jax})",
            TALL,
        )
        for name, torch, jax in [
            ("fro", '"fro"', '"fro"'),
            ("nuc", '"nuc"', '"nuc"'),
            ("2", "2", "2"),
            ("1", "1", "1"),
            ("inf", "torch.inf", "jnp.inf"),
        ]
    ],
    Row("cond", "torch.linalg.cond", "jnp.linalg.cond", {"odd": (conditioned(5, 5),)}),
]


def entries() -> Iterator[Entry]:
    for row in (*PRODUCTS, *SOLVERS, *FACTORS, *NORMS):
        way = Equivalent(row.jax, differs=row.differs, words=row.words)
        yield Entry(row.name, row.torch, {"jax": way}, row.cases, edges=row.edges, options=row.options, dtypes=row.dtypes)


ENTRIES: tuple[Entry, ...] = tuple(entries())
