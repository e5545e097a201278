"""What a step of the jax side costs beside time: its memory and its work, as XLA planned them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

Step = Callable[[], Any]
Known = dict[str, Any]


def measured(step: Step, made: Any, platform: str) -> Known:
    """After the step has been timed: it may run here once more. `made` is what XLA compiled of it, None where it runs operation by operation."""
    name, _, index = platform.partition(":")
    device = jax.devices(name)[int(index or 0)]
    return {"device_name": device.device_kind, "memory": memory(step, made, device), "work": work(made)}


def memory(step: Step, made: Any, device: Any) -> Known:
    """The most that one step holds beyond its arguments."""
    before = _statistics(device)
    if "peak_bytes_in_use" in before and "bytes_in_use" in before:
        jax.block_until_ready(step())
        after = _statistics(device)
        if after["peak_bytes_in_use"] > before["peak_bytes_in_use"]:  # the peak of a device cannot be set back: it tells only what is higher
            return {"peak_bytes": after["peak_bytes_in_use"] - before["bytes_in_use"], "how": "memory_stats(), beyond what was there"}
    if made is None:
        return {"peak_bytes": None, "how": "not measured: without jit XLA plans each operation by itself"}
    try:
        plan = made.memory_analysis()
        peak = plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
    except (AttributeError, NotImplementedError, RuntimeError):
        return {"peak_bytes": None, "how": "not measured: XLA gives no memory_analysis() here"}
    return {"peak_bytes": int(peak), "how": "XLA's memory_analysis(): results and temporaries beyond the arguments"}


def _statistics(device: Any) -> dict[str, int]:
    try:
        return dict(device.memory_stats() or {})
    except (NotImplementedError, RuntimeError):
        return {}


def work(made: Any) -> Known:
    """Floating-point operations and bytes of the whole program as XLA counts them."""
    if made is None:
        return {"flops": None, "bytes": None, "how": "not counted: without jit there is no program to count"}
    try:
        counted = made.cost_analysis() or {}
    except (NotImplementedError, RuntimeError):
        counted = {}
    flops, moved = (_number(counted.get(name)) for name in ("flops", "bytes accessed"))
    told = "XLA's cost_analysis()" if (flops, moved) != (None, None) else "not counted: XLA gives no cost_analysis() here"
    return {"flops": flops, "bytes": moved, "how": told}


def _number(given: Any) -> float | None:
    """XLA says -1 where it does not know."""
    return float(given) if isinstance(given, (int, float)) and math.isfinite(given) and given >= 0 else None
