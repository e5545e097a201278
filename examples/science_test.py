"""Derivatives, linear systems, matrix exponentials, contractions: torch, jax, and numpy or scipy as an independent third.

Parity says that two answers are the same; two can be wrong in the same way. So both are also held against an answer that shares no code
with either, and their gradients against the formulas of matrix calculus.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import torch

import pytest_dlparity as dlp


def answers(torch_side, jax_side, inputs, cotangent=None):
    """Each framework's answer in float64: its value, and then, where a cotangent is given, its gradient with respect to every input."""
    leaves = [torch.tensor(x, requires_grad=cotangent is not None) for x in inputs]
    value = torch_side(*leaves)
    if cotangent is None:
        with jax.enable_x64(True):
            return [[value.numpy()], [np.asarray(jax_side(*map(jnp.asarray, inputs)))]]
    value.backward(torch.tensor(cotangent))
    with jax.enable_x64(True):
        jax_value, pullback = jax.vjp(jax_side, *map(jnp.asarray, inputs))
        jax_grads = pullback(jnp.asarray(cotangent))
    return [[value.detach().numpy(), *(x.grad.numpy() for x in leaves)], [np.asarray(x) for x in (jax_value, *jax_grads)]]


def agree(found, third):
    for side in found:
        for ours, theirs in zip(side, third, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


torch_slope = torch.func.vmap(torch.func.grad(torch.sin))
jax_slope = jax.vmap(jax.grad(jnp.sin))


def test_derivative_of_sin(parity):
    parity(dlp.layer(torch=torch_slope, jax=jax_slope, inputs=[dlp.uniform(200, low=-10.0, high=10.0)]))


def test_derivative_of_sin_is_cos():
    x = np.linspace(-10, 10, 200)
    cotangent = np.ones(200)
    agree(answers(torch_slope, jax_slope, [x], cotangent), [np.cos(x), -np.sin(x)])


def well_posed(rng):
    """A matrix far from singular: its diagonal outweighs the rest."""
    return rng.normal(size=(8, 8)) + 8 * np.eye(8)


def test_linear_solve(parity):
    parity(dlp.layer(torch=torch.linalg.solve, jax=jnp.linalg.solve, inputs=[well_posed, dlp.normal(8, 3)]))


def test_linear_solve_and_its_gradients_by_scipy():
    """For x = A^-1 b and a cotangent g: b receives A^-T g, and A receives -(A^-T g) x^T."""
    rng = np.random.default_rng(0)
    a, b, g = well_posed(rng), rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    x, back = scipy.linalg.solve(a, b), scipy.linalg.solve(a.T, g)
    agree(answers(torch.linalg.solve, jnp.linalg.solve, [a, b], g), [x, -back @ x.T, back])


def test_matrix_exponential(parity):
    parity(dlp.layer(torch=torch.linalg.matrix_exp, jax=jax.scipy.linalg.expm, inputs=[dlp.normal(8, 8, scale=0.5)]))


def test_matrix_exponential_and_its_gradient_by_scipy():
    """The gradient of expm at A for a cotangent g is its directional derivative at A^T along g (Al-Mohy & Higham 2009)."""
    rng = np.random.default_rng(0)
    a, g = 0.5 * rng.normal(size=(8, 8)), rng.normal(size=(8, 8))
    third = [scipy.linalg.expm(a), scipy.linalg.expm_frechet(a.T, g, compute_expm=False)]
    agree(answers(torch.linalg.matrix_exp, jax.scipy.linalg.expm, [a], g), third)


@pytest.mark.parametrize("formula", ["bqd,bkd->bqk", "bqd,bkd->bd", "bqd,bkd->"])
def test_einsum(parity, formula):
    parity(
        dlp.layer(
            torch=lambda x, y: torch.einsum(formula, x, y),
            jax=lambda x, y: jnp.einsum(formula, x, y),
            inputs=[dlp.normal(2, 5, 4), dlp.normal(2, 7, 4)],
        )
    )


def test_einsum_by_loops():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 7, 4))
    third = np.zeros((2, 5, 7))
    for b, q, k in np.ndindex(*third.shape):
        third[b, q, k] = sum(x[b, q, d] * y[b, k, d] for d in range(4))
    agree(answers(lambda x, y: torch.einsum("bqd,bkd->bqk", x, y), lambda x, y: jnp.einsum("bqd,bkd->bqk", x, y), [x, y]), [third])
