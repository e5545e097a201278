"""The jax side of an entry, made quickly; and jax's memory given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """Inside, XLA compiles without optimising: what a module's first numbers are made by runs once, and the numbers are torch's in the end."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def forget() -> None:
    """Compiled programs are kept for ever otherwise: some 15 MB a case, gigabytes for all of the catalogue."""
    jax.clear_caches()
