"""What a step of the torch side costs beside time: its device, its memory, its work."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], Any]
Known = dict[str, Any]

COMPILED: Known = {"flops": None, "bytes": None, "how": "not counted: torch's counter does not see what torch.compile made"}


def measured(step: Step, device: str, compiled: bool) -> Known:
    """After the step has been timed: it runs here up to two times more."""
    return {"device_name": device_name(device), "memory": memory(step, device), "work": COMPILED if compiled else work(step)}


def device_name(device: str) -> str:
    kind = torch.device(device).type
    return torch.cuda.get_device_name(torch.device(device)) if kind == "cuda" else kind


def memory(step: Step, device: str) -> Known:
    """The most that one step holds beyond what was there before it: results, what is kept for the backward pass, temporaries."""
    kind = torch.device(device).type
    if kind == "cuda":
        place = torch.device(device)
        torch.cuda.synchronize(place)
        before = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        step()
        torch.cuda.synchronize(place)
        return {"peak_bytes": torch.cuda.max_memory_allocated(place) - before, "how": "torch.cuda.max_memory_allocated, beyond what was there"}
    if kind != "cpu":
        return {"peak_bytes": None, "how": f"not measured: torch does not tell it on {kind}"}
    try:
        return {"peak_bytes": _peak(step), "how": "torch.profiler, the CPU allocator beyond what was there"}
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # another profiler is open, or its file is another
        return {"peak_bytes": None, "how": f"not measured: torch.profiler refused ({type(error).__name__})"}


def _peak(step: Step) -> int:
    """Of the bytes that the allocator gave and took back during the step, as the profiler saw them."""
    quiet = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = quiet or "6"  # it greets on stderr
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            step()
    finally:
        if quiet is None:
            del os.environ["KINETO_LOG_LEVEL"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    moved = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = most = 0
    for _, size in moved:
        held += size
        most = max(most, held)
    return most


def work(step: Step) -> Known:
    """Floating-point operations of the products: what torch's counter knows."""
    try:
        with FlopCounterMode(display=False) as counter:
            step()
    except Exception as error:  # noqa: BLE001  a user's code or torch.compile need not run under a counter
        return {"flops": None, "bytes": None, "how": f"not counted: {type(error).__name__} under torch's counter"}
    return {"flops": counter.get_total_flops(), "bytes": None, "how": "torch.utils.flop_counter: matrix products, convolutions, attention"}
