"""The shape of the package: imports go down only, a heavy package has one home, and loading the plugin loads no framework."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_dlparity"

# From the roof to the ground, a floor a line: a module imports only from the lines below its own.
FLOORS = (
    "plugin",
    "catalog.atlas",
    "catalog.items",
    "catalog.mutations",
    "catalog.judge",
    "catalog.specs",
    "catalog.torch_side",
    "catalog.jax_side",
    "catalog.*",
    "catalog.ties",
    "catalog.entry",
    "catalog.code",
    "hooks",
    "asked",
    "__init__",
    "catalog",
    "record",
    "speed",
    "ending",
    "baseline",
    "benchmark_bridge",
    "machine",
    "cards",
    "lock",
    "reproducer",
    "parity",
    "explain",
    "timing",
    "gate",
    "report",
    "steps",
    "whole",
    "excerpt",
    "compare",
    "precise",
    "locate",
    "diagnose",
    "diagnose.jaxprs",
    "diagnose.search",
    "diagnose.optimizers",
    "diagnose.optimizer_search",
    "diagnose.optimizer_schedule",
    "diagnose.optimizer_words",
    "diagnose.optimizer_torch",
    "diagnose.optimizer_formula",
    "diagnose.pooling",
    "diagnose.*",
    "diagnose.unrolled",
    "diagnose.variant",
    "diagnose.cause",
    "reference",
    "casts",
    "distance",
    "tracing",
    "align",
    "relation",
    "fewer",
    "weights",
    "run",
    "proof",
    "matrix",
    "frameworks",
    "frameworks.jax_models",
    "frameworks.jax_work",
    "frameworks.torch_work",
    "frameworks.torch_models",
    "frameworks.jax",
    "frameworks.jax_flow",
    "frameworks.jax_trace",
    "frameworks.jax_repair",
    "frameworks.jax_sharing",
    "frameworks.jax_source",
    "frameworks.jax_unify",
    "frameworks.jax_*",
    "frameworks.jax_eager",
    "frameworks.jax_program",
    "frameworks.torch_sharing",
    "frameworks.torch_source",
    "frameworks.torch_trace",
    "frameworks.torch_*",
    "frameworks.torch",
    "trace",
    "calls",
    "flow",
    "job",
    "sharing",
    "param_map",
    "param_map.refuse",
    "param_map.infer",
    "param_map.given",
    "param_map.layout",
    "param_map.candidates",
    "param_map.names",
    "param_map.pattern",
    "spec",
    "strategies",
    "draws",
    "tolerance",
    "leaves",
    "when",
    "errors",
)

JAX = ("frameworks.jax", "frameworks.jax_*", "catalog", "catalog.*")
HOMES = {
    "pytest": ("plugin", "catalog.items"),
    "_pytest": ("plugin",),
    "pytest_benchmark": ("benchmark_bridge",),
    "xdist": ("plugin",),
    "torch": ("frameworks.torch", "frameworks.torch_*", "catalog", "catalog.*"),
    "jax": JAX,
    "jaxlib": JAX,
    "flax": JAX,
    "optax": JAX,
    "equinox": JAX,
    "haiku": JAX,
    "hypothesis": ("strategies",),
}


class Import(NamedTuple):
    line: int
    name: str


def sources(package: Path) -> dict[str, str]:
    """The text of every module by its dotted name inside the package. The package itself is `__init__`, a folder is named as it is."""
    names = {path: ".".join(path.relative_to(package).with_suffix("").parts) for path in sorted(package.rglob("*.py"))}
    return {name if name == "__init__" else name.removesuffix(".__init__"): path.read_text() for path, name in names.items()}


def imports(module: str, text: str, known: set[str]) -> Iterator[Import]:
    """Every import in a module, also inside a function, under TYPE_CHECKING or by a call: our own modules as named here, others in full.

    `known` are our modules: `from pytest_dlparity import compare` is an import of one of them, any other name comes from the `__init__`.
    """
    folder = ["pytest_dlparity", *([] if module == "__init__" else module.split("."))]
    if not (module == "__init__" or any(name.startswith(module + ".") for name in known)):
        folder.pop()
    for node in ast.walk(ast.parse(text)):
        for name in _spelled(node, folder):
            ours, _, rest = name.partition("pytest_dlparity")
            yield Import(node.lineno, name if ours or rest[:1] not in ("", ".") else _longest(rest[1:], known))


def _spelled(node: ast.AST, folder: list[str]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=base, names=names, level=level):
            start = folder[: len(folder) - level + 1] if level else []
            return [".".join([*start, *([base] if base else []), alias.name]) for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__" | "importorskip") | ast.Attribute(attr="import_module" | "importorskip"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def _longest(name: str, known: set[str]) -> str:
    parts = name.split(".")
    return next((found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in known), "__init__")


def place(module: str, names: tuple[str, ...]) -> int | None:
    """Which of the names or patterns is the module's: its own name before any pattern. None: it has no place."""
    if module in names:
        return names.index(module)
    return next((i for i, name in enumerate(names) if fnmatchcase(module, name)), None)


def climbs(modules: dict[str, str], floors: tuple[str, ...]) -> list[str]:
    """What keeps the modules from standing on these floors, a sentence each."""
    wrong = [f"{module} has no floor." for module in modules if place(module, floors) is None]
    stands = {module: floor for module in modules if (floor := place(module, floors)) is not None}
    wrong += [f"No module stands on the floor {name}." for i, name in enumerate(floors) if i not in stands.values()]
    for module, floor in stands.items():
        for line, name in imports(module, modules[module], set(modules)):
            if name in stands and stands[name] <= floor:
                wrong.append(f"{module} line {line} imports {name}, which is not below it.")
    return list(dict.fromkeys(wrong))  # `from a import b, c` imports a once


def strays(modules: dict[str, str], homes: dict[str, tuple[str, ...]]) -> list[str]:
    """Imports of a heavy package outside its home, a sentence each."""
    return [
        f"{module} line {line} imports {name}, which only {' and '.join(homes[top])} may."
        for module, text in modules.items()
        for line, name in imports(module, text, set(modules))
        if (top := name.partition(".")[0]) in homes and name not in modules and place(module, homes[top]) is None
    ]


def test_imports_go_down_only():
    assert climbs(sources(PACKAGE), FLOORS) == []


def test_a_heavy_package_has_one_home():
    assert strays(sources(PACKAGE), HOMES) == []


SOUND = {
    "__init__": "from pytest_dlparity.report import Report",
    "report": "from pytest_dlparity import leaves\nfrom pytest_dlparity.frameworks import torch",
    "frameworks": "",
    "frameworks.torch": "import torch\nfrom ..leaves import names",
    "leaves": "import numpy",
}
STORIES = ("__init__", "report", "frameworks", "frameworks.*", "leaves")


def test_sound_modules_pass():
    assert climbs(SOUND, STORIES) == []
    assert strays(SOUND, {"torch": ("frameworks.torch",)}) == []


UP = "which is not below it."
HOME = "which only frameworks.torch may."


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({"leaves": "import pytest_dlparity.report"}, f"leaves line 1 imports report, {UP}"),
        ({"leaves": "import numpy\nfrom pytest_dlparity import report"}, f"leaves line 2 imports report, {UP}"),
        ({"leaves": "from pytest_dlparity.report import Report"}, f"leaves line 1 imports report, {UP}"),
        ({"leaves": "from . import report"}, f"leaves line 1 imports report, {UP}"),
        ({"leaves": "from .report import Report"}, f"leaves line 1 imports report, {UP}"),
        ({"leaves": "import pytest_dlparity as dlp"}, f"leaves line 1 imports __init__, {UP}"),
        ({"leaves": "from pytest_dlparity import Report"}, f"leaves line 1 imports __init__, {UP}"),
        ({"leaves": "def late():\n    from .frameworks.torch import run"}, f"leaves line 2 imports frameworks.torch, {UP}"),
        ({"leaves": "if TYPE_CHECKING:\n    from .report import Report"}, f"leaves line 2 imports report, {UP}"),
        ({"leaves": "importlib.import_module('pytest_dlparity.report')"}, f"leaves line 1 imports report, {UP}"),
        ({"frameworks.torch": "from ..report import Report"}, f"frameworks.torch line 1 imports report, {UP}"),
        ({"frameworks.torch": "from .. import report"}, f"frameworks.torch line 1 imports report, {UP}"),
        ({"frameworks.torch": "from . import jax", "frameworks.jax": ""}, f"frameworks.torch line 1 imports frameworks.jax, {UP}"),
        ({"frameworks": "from . import torch", "frameworks.torch": "from . import x"}, f"frameworks.torch line 1 imports frameworks, {UP}"),
        ({"report": "from .report import Report"}, f"report line 1 imports report, {UP}"),
        ({"attic": ""}, "attic has no floor."),
    ],
)
def test_an_upward_import_is_caught(planted, said):
    assert climbs(SOUND | planted, STORIES) == [said]


def test_a_floor_without_a_module_is_caught():
    assert climbs(SOUND, (*STORIES, "cellar")) == ["No module stands on the floor cellar."]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({"leaves": "import torch"}, f"leaves line 1 imports torch, {HOME}"),
        ({"leaves": "import torch.nn.functional as F"}, f"leaves line 1 imports torch.nn.functional, {HOME}"),
        ({"leaves": "from torch import nn"}, f"leaves line 1 imports torch.nn, {HOME}"),
        ({"leaves": "def late():\n    import torch"}, f"leaves line 2 imports torch, {HOME}"),
        ({"leaves": "importlib.import_module('torch')"}, f"leaves line 1 imports torch, {HOME}"),
        ({"leaves": "__import__('torch')"}, f"leaves line 1 imports torch, {HOME}"),
    ],
)
def test_a_stray_import_is_caught(planted, said):
    assert strays(SOUND | planted, {"torch": ("frameworks.torch",)}) == [said]


HEAVY = "sorted({'torch', 'jax', 'flax', 'optax', 'equinox', 'haiku'} & set(sys.modules))"
COLLECT = f"""
import sys
import pytest

class Probe:
    def pytest_sessionfinish(self, session):
        print("dlparity:", session.config.pluginmanager.hasplugin("dlparity"), "heavy:", {HEAVY})

sys.exit(pytest.main(["--collect-only", "-q", "-s"], plugins=[Probe()]))
"""


def python(code: str, cwd: Path) -> str:
    """What a fresh interpreter prints when it runs the code in a folder of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_importing_the_plugin_imports_no_framework(tmp_path):
    assert python(f"import sys, pytest_dlparity, pytest_dlparity.plugin; print({HEAVY})", tmp_path) == "[]\n"


def test_collecting_nothing_imports_no_framework(tmp_path):
    assert "dlparity: True heavy: []" in python(COLLECT, tmp_path)


def test_collecting_the_catalogue_imports_no_framework(tmp_path):
    found = python(COLLECT.replace('"-q"', '"-q", "--dlparity-catalog"'), tmp_path)
    assert "dlparity: True heavy: []" in found and "catalog/activations.py::relu[jax-cpu-float32]" in found


def test_collecting_a_conftest_that_imports_a_framework_is_seen(tmp_path):
    (tmp_path / "torch.py").write_text("")  # an empty stand-in: what is looked for is the name
    (tmp_path / "conftest.py").write_text("import torch")
    assert "dlparity: True heavy: ['torch']" in python(COLLECT, tmp_path)
