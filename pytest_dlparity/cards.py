"""Which accelerator each worker of a run gets, in environment variables that are there before anything is imported."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"  # "false": jax takes what it needs and not 75 % of the card, which torch shares
NVIDIA = "/dev/nvidia[0-9]*"
AMD = "/sys/class/kfd/kfd/topology/nodes/*/gpu_id"
# In the order in which a machine's runtime looks at them. Only the first that is set may be divided: ROCr's list renumbers what HIP's names.
OF_NVIDIA = ("CUDA_VISIBLE_DEVICES",)
OF_AMD = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def shares(environ: Mapping[str, str], workers: int) -> list[dict[str, str]]:
    """One card for each worker, in turn where there are more workers than cards; nothing on a machine without cards.

    They come from the caller's own list, if the caller has one: what was hidden from the run stays hidden.

    >>> shares({"CUDA_VISIBLE_DEVICES": "3,GPU-8932f937"}, 3)
    [{'CUDA_VISIBLE_DEVICES': '3'}, {'CUDA_VISIBLE_DEVICES': 'GPU-8932f937'}, {'CUDA_VISIBLE_DEVICES': '3'}]
    >>> shares({"CUDA_VISIBLE_DEVICES": ""}, 2)
    [{}, {}]
    """
    nvidia, amd = len(glob.glob(NVIDIA)), _amd()
    names = OF_AMD if amd and not nvidia else OF_NVIDIA
    name = next((name for name in names if name in environ), names[0])
    found = _listed(environ[name]) if name in environ else [str(number) for number in range(nvidia or amd)]
    return [{name: found[number % len(found)]} if found else {} for number in range(workers)]


def _listed(given: str) -> list[str]:
    """The cards that a list shows. What follows a -1 is hidden, as CUDA has it."""
    cards = [card.strip() for card in given.split(",")]
    shown = cards[: cards.index("-1")] if "-1" in cards else cards
    return [card for card in shown if card]


def _amd() -> int:
    found = 0
    for path in glob.glob(AMD):
        with suppress(OSError):
            found += Path(path).read_text().strip() not in ("", "0")  # 0: a processor
    return found
