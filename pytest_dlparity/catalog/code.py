"""The code of an entry, evaluated: what the atlas prints is what ran."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

# name in the code: the module it stands for. Absent extras are absent names; what needs them is skipped with the reason.
NAMES = MappingProxyType(
    {
        "torch": "torch",
        "F": "torch.nn.functional",
        "jax": "jax",
        "jnp": "jax.numpy",
        "lax": "jax.lax",
        "optax": "optax",
        "linen": "flax.linen",
        "nnx": "flax.nnx",
        "eqx": "equinox",
        "hk": "haiku",
        "dlp": "pytest_dlparity",
    }
)

PACKAGES = MappingProxyType({"haiku": "dm-haiku"})  # what a module is called where it is installed from


def evaluated(code: str) -> Any:
    """The value of an expression, or the last function or class that statements define."""
    tree = ast.parse(code)
    space = {"np": np, "math": math, **{name: _module(path) for name, path in NAMES.items() if _used(tree, name)}}
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
        return eval(compile(code, "<catalogue>", "eval"), space)  # our own text
    exec(compile(code, "<catalogue>", "exec"), space)
    named = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return space[named[-1]]


def lacking(code: str) -> str:
    """Why code cannot be evaluated here: the package that is not installed; "" when there is none.

    >>> lacking("np.tanh")
    ''
    """
    tree = ast.parse(code)
    needed = dict.fromkeys(path.partition(".")[0] for name, path in NAMES.items() if _used(tree, name))
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    return f"{PACKAGES.get(absent[0], absent[0])} is not installed" if absent else ""


def names(*codes: str) -> list[str]:
    """The names of modules that code uses.

    >>> names("jnp.tanh", "np.pi * F.gelu")
    ['np', 'F', 'jnp']
    """
    trees = [ast.parse(code) for code in codes]
    return [name for name in ("np", "math", *NAMES) if any(_used(tree, name) for tree in trees)]


def _used(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


@cache
def _module(path: str) -> Any:
    return importlib.import_module(path)
