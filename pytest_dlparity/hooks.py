"""Hooks that other plugins and conftest files may implement."""

from __future__ import annotations

from typing import Any


def pytest_dlparity_devices(devices: dict[str, Any]) -> None:
    """Change the table of devices in place: name -> dlp.Device(name, torch, jax, note).

    `torch` is what torch.device() takes, `jax` a platform of jax.devices() with an optional index: `cpu:1`.
    """
