"""Distributions: log densities, distribution functions, entropies and divergences of torch.distributions against jax.scipy.stats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity.catalog.entry import Entry, Equivalent
from pytest_dlparity.draws import Draw, booleans, fixed, integers, normal, uniform

STATS = "jax.scipy.stats."


class Row(NamedTuple):
    """A distribution, its value and its parameters a, b in both frameworks."""

    name: str
    torch: str
    jax: str
    draws: tuple[Any, ...]
    words: str = ""
    wrt: tuple[str, ...] | None = None


def positive(*shape: int) -> Draw:
    return uniform(*shape, low=0.3, high=3)


def large(*shape: int) -> Draw:
    """Where the logarithms of the gamma function stay away from their zeros at 1 and 2."""
    return uniform(*shape, low=2.5, high=6)


def share(*shape: int) -> Draw:
    return uniform(*shape, low=0.1, high=0.9)


def counts(high: int) -> Any:
    return lambda *shape: integers(*shape, high=high)


LOG = [
    Row("normal", "Normal(a, b)", "norm.logpdf(x, a, b)", (normal, normal, positive)),
    Row("log-normal", "LogNormal(a, b)", "norm.logpdf(jnp.log(x), a, b) - jnp.log(x)", (positive, normal, positive)),
    Row("half-normal", "HalfNormal(a)", "norm.logpdf(x, 0, a) + jnp.log(2)", (positive, positive)),
    Row(
        "uniform",
        "Uniform(a, b)",
        "uniform.logpdf(x, a, b - a)",
        (share, lambda *s: uniform(*s, low=-2, high=-1), lambda *s: uniform(*s, low=1, high=2)),
        "scale is the length.",
        ("input1", "input2"),
    ),
    Row("exponential", "Exponential(a)", "expon.logpdf(x, scale=1 / a)", (positive, positive), "torch takes the rate, scipy the scale."),
    Row(
        "gamma", "Gamma(a, b)", "gamma.logpdf(x, a, scale=1 / b)", (positive, positive, positive), "torch takes the rate, scipy the scale."
    ),
    Row("inverse-gamma", "InverseGamma(a, b)", "gamma.logpdf(1 / x, a, scale=1 / b) - 2 * jnp.log(x)", (positive, positive, positive)),
    Row("chi2", "Chi2(a)", "chi2.logpdf(x, a)", (positive, positive)),
    Row("beta", "Beta(a, b)", "beta.logpdf(x, a, b)", (share, large, large)),
    Row("cauchy", "Cauchy(a, b)", "cauchy.logpdf(x, a, b)", (normal, normal, positive)),
    Row("half-cauchy", "HalfCauchy(a)", "cauchy.logpdf(x, 0, a) + jnp.log(2)", (positive, positive)),
    Row("laplace", "Laplace(a, b)", "laplace.logpdf(x, a, b)", (normal, normal, positive)),
    Row("student-t", "StudentT(c, a, b)", "t.logpdf(x, c, a, b)", (normal, normal, positive, large)),
    Row(
        "gumbel",
        "Gumbel(a, b)",
        "expon.logpdf(jnp.exp((a - x) / b)) + (a - x) / b - jnp.log(b)",
        (normal, normal, lambda *s: uniform(*s, low=0.8, high=3)),
        "gumbel_r.logpdf has no gradient in jax 0.10: it takes xlogy of the integer -1.",
    ),
    Row("pareto", "Pareto(a, b)", "pareto.logpdf(x, b, scale=a)", (lambda *s: uniform(*s, low=2, high=4), share, positive)),
    Row("von-mises", "VonMises(a, b)", "vonmises.logpdf(x - a, b)", (normal, normal, positive)),
    Row(
        "weibull", "Weibull(a, b)", "expon.logpdf((x / a) ** b) + jnp.log(b / a) + (b - 1) * jnp.log(x / a)", (positive, positive, positive)
    ),
    Row(
        "kumaraswamy",
        "Kumaraswamy(a, b)",
        "expon.logpdf(-b * jnp.log1p(-(x**a))) + jnp.log(a * b) + (a - 1) * jnp.log(x) - jnp.log1p(-(x**a))",
        (lambda *s: uniform(*s, low=0.3, high=0.7), lambda *s: uniform(*s, low=0.5, high=2), positive),
    ),
    Row("bernoulli", "Bernoulli(a)", "bernoulli.logpmf(x, a)", (booleans, share)),
    Row("bernoulli-logits", "Bernoulli(logits=a)", "bernoulli.logpmf(x, jax.nn.sigmoid(a))", (booleans, normal)),
    Row("binomial", "Binomial(5, a)", "binom.logpmf(x, 5, a)", (counts(6), share)),
    Row("geometric", "Geometric(a)", "geom.logpmf(x + 1, a)", (counts(6), share), "torch counts failures, scipy trials."),
    Row(
        "negative-binomial",
        "NegativeBinomial(3, a)",
        "nbinom.logpmf(x, 3, 1 - a)",
        (counts(6), share),
        "torch's probability is that of a success, scipy's that of the last failure.",
    ),
    Row("poisson", "Poisson(a)", "poisson.logpmf(x, a)", (counts(6), positive)),
]

CDF = [
    Row("normal", "Normal(a, b)", "norm.cdf(x, a, b)", (normal, normal, positive)),
    Row("exponential", "Exponential(a)", "expon.cdf(x, scale=1 / a)", (positive, positive)),
    Row("cauchy", "Cauchy(a, b)", "cauchy.cdf(x, a, b)", (normal, normal, positive)),
    Row("laplace", "Laplace(a, b)", "laplace.cdf(x, a, b)", (normal, normal, positive)),
    Row("gamma", "Gamma(a, b)", "gamma.cdf(x, a, scale=1 / b)", (positive, positive, positive), wrt=("input0",)),
]

# functions of the parameters alone
ENTROPY = [
    ("entropy-normal", "Normal(0.0, a).entropy()", "jnp.log(2 * jnp.pi * jnp.e * a**2) / 2", (positive,)),
    ("entropy-bernoulli", "Bernoulli(a).entropy()", "jax.scipy.special.entr(a) + jax.scipy.special.entr(1 - a)", (share,)),
    ("entropy-categorical", "Categorical(logits=a).entropy()", "-(jax.nn.softmax(a) * jax.nn.log_softmax(a)).sum(-1)", (normal,)),
    ("entropy-exponential", "Exponential(a).entropy()", "1 - jnp.log(a)", (positive,)),
    (
        "entropy-gamma",
        "Gamma(a, b).entropy()",
        "a - jnp.log(b) + jax.scipy.special.gammaln(a) + (1 - a) * jax.scipy.special.digamma(a)",
        (positive, positive),
    ),
]
KL = [
    (
        "kl-normal",
        "Normal(a, b)",
        "Normal(c, d)",
        "jnp.log(d / b) + (b**2 + (a - c) ** 2) / (2 * d**2) - 0.5",
        (normal, positive, normal, positive),
        "a, b, c, d",
    ),
    (
        "kl-bernoulli",
        "Bernoulli(a)",
        "Bernoulli(b)",
        "jax.scipy.special.rel_entr(a, b) + jax.scipy.special.rel_entr(1 - a, 1 - b)",
        (share, share),
        "a, b",
    ),
    (
        "kl-categorical",
        "Categorical(logits=a)",
        "Categorical(logits=b)",
        "optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(b), jax.nn.log_softmax(a))",
        (normal, normal),
        "a, b",
    ),
]
SHAPES = ((3, 5), (5,), (3, 1), (1,))  # of the value and the parameters: they broadcast


def entries() -> Iterator[Entry]:
    for method, prefix, rows in (("log_prob", "", LOG), ("cdf", "cdf-", CDF)):
        for row in rows:
            takes = ", ".join(("x", *"abc"[: len(row.draws) - 1]))
            whole = row.draws[0] in (booleans,) or row.draws[0](1).text.startswith("integers")
            value = "x.to(a.dtype)" if whole else "x"
            yield Entry(
                f"{prefix or 'log-prob-'}{row.name}",
                f"lambda {takes}: torch.distributions.{row.torch.removesuffix(')')}, validate_args=False).{method}({value})",
                {"jax": Equivalent(f"lambda {takes}: {STATS}{row.jax}", words=row.words)},
                {"broadcast": tuple(draw(*shape) for draw, shape in zip(row.draws, SHAPES, strict=False))},
                of=f"torch.distributions.{row.torch.partition('(')[0]}",
                options={} if row.wrt is None else {"wrt": list(row.wrt)},
            )
    for name, torch, jax, draws in ENTROPY:
        takes = ", ".join("ab"[: len(draws)])
        cases = {case: tuple(draw(*shape) for draw in draws) for case, shape in {"odd": (3, 5), "row": (1, 3)}.items()}
        yield Entry(
            name,
            f"lambda {takes}: torch.distributions.{torch}",
            {"jax": f"lambda {takes}: {jax}"},
            cases,
            of=f"torch.distributions.{torch.partition('(')[0]}",
        )
    for name, p, q, jax, draws, takes in KL:
        cases = {case: tuple(draw(*shape) for draw in draws) for case, shape in {"odd": (3, 5), "row": (1, 3)}.items()}
        torch = f"lambda {takes}: torch.distributions.kl_divergence(torch.distributions.{p}, torch.distributions.{q})"
        yield Entry(
            name, torch, {"optax" if "optax" in jax else "jax": f"lambda {takes}: {jax}"}, cases, of="torch.distributions.kl_divergence"
        )


def definite(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.array([1.0, 2.0, 3.0]) @ q.T)


VECTORS = [
    Entry(
        "log-prob-categorical",
        "lambda x, a: torch.distributions.Categorical(logits=a).log_prob(x)",
        {"jax": "lambda x, a: jnp.take_along_axis(jax.nn.log_softmax(a), x[..., None], -1)[..., 0]"},
        {"odd": (integers(7, high=5), normal(7, 5)), "one": (integers(1, high=2), normal(1, 2))},
        of="torch.distributions.Categorical",
    ),
    Entry(
        "log-prob-multinomial",
        "lambda x, a: torch.distributions.Multinomial(4, a.softmax(-1), validate_args=False).log_prob(x.to(a.dtype))",
        {"jax": "lambda x, a: jax.scipy.stats.multinomial.logpmf(x, 4, jax.nn.softmax(a))"},
        {"odd": (fixed([1, 0, 3]), normal(3))},
        of="torch.distributions.Multinomial",
    ),
    Entry(
        "log-prob-dirichlet",
        "lambda x, a: torch.distributions.Dirichlet(a, validate_args=False).log_prob(x)",
        {"jax": "lambda x, a: jax.scipy.stats.dirichlet.logpdf(x, a)"},
        {"odd": (fixed([0.125, 0.25, 0.5, 0.0625, 0.0625]), positive(5))},
        of="torch.distributions.Dirichlet",
    ),
    Entry(
        "log-prob-multivariate-normal",
        "lambda x, a, b: torch.distributions.MultivariateNormal(a, b, validate_args=False).log_prob(x)",
        {"jax": "lambda x, a, b: jax.scipy.stats.multivariate_normal.logpdf(x, a, b)"},
        {"odd": (normal(5, 3), normal(3), definite)},
        of="torch.distributions.MultivariateNormal",
    ),
]

ENTRIES: tuple[Entry, ...] = (*entries(), *VECTORS)
