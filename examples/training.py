"""The same training in both frameworks: one loop each, fed with the same batches in the same order, from the same start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from data import Dataset

Batch = tuple[np.ndarray, np.ndarray]

# Of the two final accuracies: float32 rounds each side differently, training amplifies it, and a few doubtful examples fall the other way
# (this allows 7 pictures of 397, 20 texts of 1000). Seen at the end of these trainings: one picture at most.
MARGIN = 0.02


class Curve(NamedTuple):
    """What one side reached: the mean loss of each pass, and the accuracy on the test set after it."""

    losses: list[float]
    accuracies: list[float]


def begin(module: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The module, and the parameters it begins with by name, as arrays that training leaves alone."""
    return module, {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


def torch_curve(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Callable, passes: Sequence[Sequence[Batch]], dataset: Dataset
) -> Curve:
    """Trains the module where it lies."""
    curve = Curve([], [])
    for batches in passes:
        losses = []
        for x, y in batches:
            optimizer.zero_grad()
            value = loss(module(torch.from_numpy(x)), torch.from_numpy(y))
            value.backward()
            optimizer.step()
            losses.append(value.item())
        with torch.no_grad():
            guess = module(torch.from_numpy(dataset.test_x)).argmax(-1).numpy()
        curve.losses.append(float(np.mean(losses)))
        curve.accuracies.append(float((guess == dataset.test_y).mean()))
    return curve


def jax_curve(
    apply: Callable,
    params: Any,
    optimizer: optax.GradientTransformation,
    loss: Callable,
    passes: Sequence[Sequence[Batch]],
    dataset: Dataset,
) -> Curve:
    """Trains apply(params, x) -> logits; `params` is any tree of arrays."""

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, grads = jax.value_and_grad(lambda p: loss(apply(p, x), y))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    guesses = jax.jit(lambda params, x: apply(params, x).argmax(-1))
    state, curve = optimizer.init(params), Curve([], [])
    for batches in passes:
        losses = []
        for x, y in batches:
            params, state, value = step(params, state, x, y)
            losses.append(value)
        curve.losses.append(float(jnp.stack(losses).mean()))
        curve.accuracies.append(float((np.asarray(guesses(params, dataset.test_x)) == dataset.test_y).mean()))
    return curve


def table(title: str, torch_side: Curve, jax_side: Curve, width: int = 40) -> str:
    """Both curves as text, a line for each pass: the losses, the accuracies, and the accuracies drawn between 0 and 1.

    >>> print(table("coin", Curve([0.7, 0.6], [0.5, 0.9]), Curve([0.7, 0.6], [0.5, 0.8]), width=11))
    coin
    pass   loss torch     jax   accuracy torch     jax   0         1
       1       0.7000  0.7000            0.500   0.500   |    *    |
       2       0.6000  0.6000            0.900   0.800   |       jt|
    """
    lines = [title, f"pass   loss torch     jax   accuracy torch     jax   0{' ' * (width - 2)}1"]
    columns = zip(torch_side.losses, jax_side.losses, torch_side.accuracies, jax_side.accuracies, strict=True)
    for i, (loss, other, hits, its) in enumerate(columns, 1):
        lines.append(f"{i:4} {loss:12.4f} {other:7.4f}   {hits:14.3f} {its:7.3f}   {_drawn(hits, its, width)}")
    return "\n".join(lines)


def _drawn(torch_value: float, jax_value: float, width: int) -> str:
    """t and j at their places on an axis from 0 to 1, * where they meet."""
    axis = ["|", *" " * (width - 2), "|"]
    t, j = (min(width - 1, int(value * (width - 1))) for value in (torch_value, jax_value))
    axis[t], axis[j] = "t", "j"
    if t == j:
        axis[t] = "*"
    return "".join(axis)
