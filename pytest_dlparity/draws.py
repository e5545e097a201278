"""Inputs from a seed: made by numpy, seeded by (seed, name), the same numbers for both sides and every cell."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_dlparity import tolerance
from pytest_dlparity.errors import SpecError


@dataclass(frozen=True, eq=False)
class Draw:
    """How one array is made. Prints as the call that made it."""

    text: str
    make: Callable[[np.random.Generator], np.ndarray]

    def __repr__(self) -> str:
        return self.text


def normal(*shape: int, mean: float = 0.0, scale: float = 1.0) -> Draw:
    """Normal numbers of the given shape, mean and standard deviation; they take the cell's dtype.

    >>> normal(2, 3, scale=0.1)
    normal(2, 3, scale=0.1)
    """
    _sized("normal", shape)
    text = _called("normal", shape, mean=(mean, 0.0), scale=(scale, 1.0))
    return Draw(text, lambda rng: rng.normal(mean, scale, shape))


def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Draw:
    """Uniform numbers in [low, high); they take the cell's dtype."""
    _sized("uniform", shape)
    if not low < high:
        raise SpecError(f"uniform has low={low!r} and high={high!r}. Give high above low: uniform(8, low=0.0, high=1.0).")
    return Draw(_called("uniform", shape, low=(low, 0.0), high=(high, 1.0)), lambda rng: rng.uniform(low, high, shape))


def integers(*shape: int, low: int = 0, high: int | None = None) -> Draw:
    """Whole numbers in [low, high), int64 in torch; in jax int64 in float64 cells and int32 elsewhere."""
    _sized("integers", shape)
    if high is None:
        raise SpecError("integers has no high. Give the first number that is too large: integers(32, high=10).")
    if not low < high:
        raise SpecError(f"integers has low={low!r} and high={high!r}. Give high above low: integers(32, low=0, high=10).")
    return Draw(_called("integers", shape, low=(low, 0), high=(high, None)), lambda rng: rng.integers(low, high, shape))


def booleans(*shape: int) -> Draw:
    """True or False with even odds."""
    _sized("booleans", shape)
    return Draw(_called("booleans", shape), lambda rng: rng.random(shape) < 0.5)


def fixed(array: Any) -> Draw:
    """These numbers. A copy is kept, so a later change of the array does not change the spec."""
    kept = _numpy(array)
    kept.setflags(write=False)
    shape = ",".join(map(str, kept.shape))
    return Draw(f"fixed({kept.dtype.name}[{shape}])", lambda rng: kept)


def drawn(draw: Draw, seed: int, name: str) -> np.ndarray:
    """The array of a draw: floats in double precision, integers as int64, booleans and complex numbers as they are.

    Raises:
        SpecError: a user's callable gave something that is no array of numbers.

    >>> drawn(as_draw(lambda rng: "text", "x"), 0, "x")
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: the draw of x gives an array of dtype <U4. Give numbers: floats, integers, booleans or complex.
    """
    made = _numpy(draw.make(np.random.default_rng([seed, zlib.crc32(name.encode())])))
    if tolerance.is_floating(made):
        return made.astype(np.float64)
    if made.dtype.kind in "iu":
        return made.astype(np.int64)
    if made.dtype.kind == "c":
        return made.astype(np.complex128)
    if made.dtype.kind == "b":
        return made
    raise SpecError(f"the draw of {name} gives an array of dtype {made.dtype.str}. Give numbers: floats, integers, booleans or complex.")


def as_draw(given: Any, name: str) -> Draw:
    """A Draw, or a Draw made of the user's callable or array.

    Raises:
        SpecError: it is none of these.
    """
    if isinstance(given, Draw):
        return given
    if callable(given) and not hasattr(given, "__array__"):
        return Draw(getattr(given, "__name__", "draw").replace("<lambda>", "draw"), given)
    if hasattr(given, "__array__") or isinstance(given, (int, float, complex, list)):
        return fixed(given)
    raise SpecError(
        f"{name} is {given!r}. Give a draw such as dlp.normal(8, 64), dlp.fixed(array), or a function of a numpy Generator that returns an array."
    )


def _numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # a torch tensor, perhaps one that requires gradients or lies on a device
        array = array.detach().cpu()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
    return np.asarray(array).copy()


def _sized(name: str, shape: tuple[int, ...]) -> None:
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
            raise SpecError(f"{name} has the size {size!r}. Give whole numbers, one for each axis: {name}(8, 64).")


def _called(name: str, shape: tuple[int, ...], **given: tuple[object, object]) -> str:
    said = [str(size) for size in shape] + [f"{key}={value!r}" for key, (value, default) in given.items() if value != default]
    return f"{name}({', '.join(said)})"
