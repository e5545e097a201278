"""What every test of this project has: all that is heavy loaded once, torch on one thread, and `runner`, a pytester that stands alone."""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module

import pytest
import torch

import pytest_dlparity

os.environ["PJRT_NPROC"] = "1"  # what a run that times anything gives to jax; jax reads it once, and inner runs share this process

# pytester drops from sys.modules what a run inside this process imported. A second import of torch or jax segfaults, one of our own modules
# makes a second class Draw that functions of the first refuse, and one of hypothesis, which its plugin makes as each run ends, is slow.
# torch and numpy load the last three when an optimizer first steps and a linear algebra function is first wrapped.
_LAZY = ("torch._dynamo", "torch._inductor.test_operators", "numpy.fft")
for _name in ("jax", "flax.linen", "flax.nnx", "optax", "equinox", "haiku", "hypothesis", *_LAZY):
    import_module(_name)
for _module in pkgutil.walk_packages(pytest_dlparity.__path__, "pytest_dlparity."):
    import_module(_module.name)

pytest_plugins = ["pytester"]

torch.set_num_threads(1)  # two workers on two cores: torch's barriers collapse with more


@pytest.fixture
def runner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytester whose inner runs are no workers of ours and write no summary of a CI job. The plugin is there by its entry point."""
    xdist = ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID")
    for name in (*xdist, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return pytester
