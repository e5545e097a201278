"""Torch entities beside their exact equivalents, as specs that are run: what `pytest --dlparity-catalog` tests and docs/atlas/ shows.

Names are looked up when they are used, as in pytest_dlparity itself: this module imports nothing.

PYTEST_DONT_REWRITE
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "entry": ("LIBRARIES", "Difference", "Entry", "Equivalent"),
    "judge": ("Found", "check"),
    "like": ("optax_like",),  # not a module of its own name, which an import would put in the function's place
    "specs": ("entries", "families", "spec"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["LIBRARIES", "Difference", "Entry", "Equivalent", "Found", "check", "entries", "families", "optax_like", "spec"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pytest_dlparity.catalog' has no attribute {name!r}")
    return getattr(import_module(f"pytest_dlparity.catalog.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
