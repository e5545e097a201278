"""Each worker has a card of its own, out of the caller's list, and of one list only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_dlparity import cards


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with so many cards of each maker."""

    def made(nvidia: int = 0, amd: int = 0) -> None:
        for number in range(nvidia):
            (tmp_path / f"nvidia{number}").touch()
        (tmp_path / "nvidiactl").touch()
        for number in range(amd + 1):
            (tmp_path / f"node{number}").mkdir()
            (tmp_path / f"node{number}" / "gpu_id").write_text(f"{number * 7}\n")  # 0 is the processor
        monkeypatch.setattr(cards, "NVIDIA", str(tmp_path / "nvidia[0-9]*"))
        monkeypatch.setattr(cards, "AMD", str(tmp_path / "*" / "gpu_id"))

    return made


@pytest.mark.parametrize(
    ("nvidia", "amd", "environ", "workers", "found"),
    [
        (0, 0, {}, 2, [{}, {}]),
        (1, 0, {}, 2, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "0"}]),
        (2, 0, {}, 3, [{"CUDA_VISIBLE_DEVICES": number} for number in "010"]),
        (8, 0, {"CUDA_VISIBLE_DEVICES": "5, 7"}, 2, [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}]),
        (8, 0, {"CUDA_VISIBLE_DEVICES": ""}, 1, [{}]),
        (8, 0, {"CUDA_VISIBLE_DEVICES": "-1"}, 1, [{}]),
        (8, 0, {"CUDA_VISIBLE_DEVICES": "2,-1,3"}, 2, [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "2"}]),
        (8, 0, {"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"}, 2, [{"CUDA_VISIBLE_DEVICES": "MIG-1"}, {"CUDA_VISIBLE_DEVICES": "MIG-2"}]),
        (0, 2, {}, 2, [{"HIP_VISIBLE_DEVICES": "0"}, {"HIP_VISIBLE_DEVICES": "1"}]),
        (0, 4, {"ROCR_VISIBLE_DEVICES": "2,3"}, 2, [{"ROCR_VISIBLE_DEVICES": "2"}, {"ROCR_VISIBLE_DEVICES": "3"}]),
        (0, 4, {"CUDA_VISIBLE_DEVICES": "1,2"}, 2, [{"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "2"}]),
        (0, 4, {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "0,1"}, 2, [{"HIP_VISIBLE_DEVICES": "0"}, {"HIP_VISIBLE_DEVICES": "1"}]),
        (0, 0, {"CUDA_VISIBLE_DEVICES": "0,1"}, 2, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
    ],
)
def test_shares(machine: Any, nvidia: int, amd: int, environ: dict[str, str], workers: int, found: list[dict[str, str]]) -> None:
    machine(nvidia, amd)
    assert cards.shares(environ, workers) == found
