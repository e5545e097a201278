"""One computation, written in PyTorch and in JAX: are they the same? How a verdict is reached stands in docs/verdicts.md.

Names are looked up when they are used: a test run that collects nothing of ours imports not even numpy.

PYTEST_DONT_REWRITE
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_dlparity import catalog, strategies
    from pytest_dlparity.draws import Draw, booleans, fixed, integers, normal, uniform
    from pytest_dlparity.errors import ParityError, SpecError, SpeedError
    from pytest_dlparity.locate import Localization, localize
    from pytest_dlparity.matrix import Device
    from pytest_dlparity.parity import check
    from pytest_dlparity.report import Report
    from pytest_dlparity.reproducer import reproduce
    from pytest_dlparity.spec import Spec, layer, loss, model, optimizer, vmap
    from pytest_dlparity.tolerance import Tolerance
    from pytest_dlparity.weights import Mapping, carry, load_mapping, mapping, save_mapping

__version__ = "0.1.0"
__all__ = [
    "Device",
    "Draw",
    "Localization",
    "Mapping",
    "ParityError",
    "Report",
    "Spec",
    "SpecError",
    "SpeedError",
    "Tolerance",
    "booleans",
    "carry",
    "catalog",
    "check",
    "fixed",
    "integers",
    "layer",
    "load_mapping",
    "localize",
    "loss",
    "mapping",
    "model",
    "normal",
    "optimizer",
    "reproduce",
    "save_mapping",
    "strategies",
    "uniform",
    "vmap",
]
_HOMES = {
    "draws": ("Draw", "booleans", "fixed", "integers", "normal", "uniform"),
    "errors": ("ParityError", "SpecError", "SpeedError"),
    "locate": ("Localization", "localize"),
    "matrix": ("Device",),
    "parity": ("check",),
    "report": ("Report",),
    "reproducer": ("reproduce",),
    "spec": ("Spec", "layer", "loss", "model", "optimizer", "vmap"),
    "tolerance": ("Tolerance",),
    "weights": ("Mapping", "carry", "load_mapping", "mapping", "save_mapping"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("catalog", "strategies"):
        return import_module(f"pytest_dlparity.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'pytest_dlparity' has no attribute {name!r}")
    return getattr(import_module(f"pytest_dlparity.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
