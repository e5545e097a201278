"""Stored times come back as they were, and what cannot be used says why in a sentence."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dlparity import baseline, machine
from pytest_dlparity.gate import Figure, Ratio

WHERE = {"system": "Linux", "architecture": "x86_64", "cpu": "one", "cores": "2", "cards": ""}
VERSIONS = {"torch": "2.13.0", "jax": "0.10.2"}
KNOWN = {"machine": WHERE, "versions": VERSIONS}
NEW = "Store one with --dlparity-save-baseline=new."


def figure(key: str = "t.py::test_a[cpu-float32-forward]", value: float = 2.0, device: str = "cpu") -> Figure:
    return Figure(key, Ratio(value, value - 0.1, value + 0.1), {"torch": 1e-5, "jax": 2e-5}, {"device_name": device, "cpu_threads": "1"})


def saved(folder: Path, *figures: Figure, mode: str = "new", known: dict[str, Any] = KNOWN) -> list[str]:
    return baseline.save(str(folder), mode, [(one, known) for one in figures])


def read(folder: Path, where: dict[str, str] = WHERE, versions: dict[str, str] = VERSIONS) -> baseline.Stored:
    return baseline.read(str(folder), where, versions)


def place(folder: Path) -> Path:
    (path,) = folder.glob("*.json")
    return path


def test_a_figure_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert saved(folder, figure()) == []
    assert read(folder) == baseline.Stored({figure().key: [figure()]})
    assert [path.name for path in folder.iterdir()] == [f"{machine.title(WHERE)}.json"]


def test_new_begins_again_and_leaves_other_tests_alone_and_add_keeps_five(tmp_path: Path) -> None:
    other = figure("t.py::test_b[cpu-float32-step]")
    saved(tmp_path, figure(value=2.0), other)
    for value in (3.0, 4.0, 5.0, 6.0, 7.0):
        saved(tmp_path, figure(value=value), mode="add")
    assert [one.ratio.value for one in read(tmp_path).cells[figure().key]] == [3.0, 4.0, 5.0, 6.0, 7.0]
    saved(tmp_path, figure(value=8.0))
    assert [one.ratio.value for one in read(tmp_path).cells[figure().key]] == [8.0]
    assert read(tmp_path).cells[other.key] == [other]


def test_a_figure_of_another_device_takes_the_place_of_the_stored_ones(tmp_path: Path) -> None:
    saved(tmp_path, figure())
    saved(tmp_path, figure(device="H100"), mode="add")
    (kept,) = read(tmp_path).cells[figure().key]
    assert kept.where["device_name"] == "H100"
    assert baseline.unlike(figure(), [kept]) == f"it was stored on another set-up (device_name H100, now cpu). {NEW}"
    assert baseline.unlike(kept, [kept]) == ""


def test_each_machine_has_a_file(tmp_path: Path) -> None:
    other = {**WHERE, "cpu": "two"}
    assert baseline.save(str(tmp_path), "new", [(figure(), KNOWN), (figure(), {**KNOWN, "machine": other})]) == []
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert read(tmp_path, other).cells and read(tmp_path).cells


def test_none_yet_is_missing_and_says_how_to_store_one(tmp_path: Path) -> None:
    name = machine.title(WHERE)
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert read(folder) == baseline.Stored({}, f"there is no baseline of this machine ({name}) in {folder}. {NEW}", missing=True)
    saved(tmp_path, figure(), known={**KNOWN, "machine": {**WHERE, "cpu": "two"}})
    found = read(tmp_path)
    assert found.missing and found.problem == (
        f"there is no baseline of this machine ({name}) in {tmp_path}. It holds baselines of 1 other machine. {NEW}"
    )


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        kept = json.loads(text)
        replaced = change(kept)
        return json.dumps(kept if replaced is None else replaced)

    return edit


def of_cell(name: str, value: Any) -> Callable[[str], str]:
    return edited(lambda kept: kept["cells"][figure().key][0].update({name: value}))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        edited(lambda kept: []),
        edited(lambda kept: kept.pop("cells") and None),
        edited(lambda kept: kept.update(cells=[1])),
        edited(lambda kept: kept["cells"].update({figure().key: []})),
        of_cell("ratio", [2.0, 1.0]),
        of_cell("ratio", [2.0, 3.0, 1.0]),
        of_cell("ratio", [float("nan")] * 3),
        of_cell("ratio", None),
        of_cell("best", {"torch": 1.0}),
        of_cell("best", {"torch": 0.0, "jax": 1.0}),
        of_cell("where", None),
    ],
)
def test_a_corrupt_file_is_named_and_never_read_and_added_to(tmp_path: Path, edit: Callable[[str], str]) -> None:
    saved(tmp_path, figure())
    path = place(tmp_path)
    path.write_text(edit(path.read_text()))
    said = f"the baseline {path} is corrupt: it is not what a run writes. {NEW}"
    assert read(tmp_path) == baseline.Stored({}, said)
    assert saved(tmp_path, figure(), mode="add") == [f"nothing could be added to the baseline: {said}"]
    assert saved(tmp_path, figure()) == [] and read(tmp_path).cells


def test_other_versions_another_machine_and_another_format_are_said(tmp_path: Path) -> None:
    saved(tmp_path, figure())
    path = place(tmp_path)
    assert read(tmp_path, versions={"torch": "2.14.0", "jax": "0.10.2"}).problem == (
        f"the baseline {path} was stored with other versions (torch 2.13.0, now 2.14.0). {NEW}"
    )
    text = path.read_text()
    path.write_text(edited(lambda kept: kept["machine"].update(cpu="two"))(text))
    assert read(tmp_path).problem == f"the baseline {path} is of another machine (cpu two, now one). {NEW}"
    path.write_text(edited(lambda kept: kept.update(format=2))(text))
    assert read(tmp_path).problem == f"the baseline {path} is of format 2, this pytest-dlparity reads 1. {NEW}"
    assert not any(read(tmp_path).cells)


def test_figures_of_other_versions_do_not_stay_beside_new_ones(tmp_path: Path) -> None:
    saved(tmp_path, figure("old"))
    assert saved(tmp_path, figure(), known={**KNOWN, "versions": {"torch": "2.14.0"}}) == []
    assert list(json.loads(place(tmp_path).read_text())["cells"]) == [figure().key]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    saved(tmp_path, figure())
    path = place(tmp_path)
    path.write_bytes(b"\xff\xfe")
    assert read(tmp_path) == baseline.Stored({}, f"the baseline {path} cannot be read (it is no text). {NEW}")
    path.unlink()
    path.mkdir()
    assert read(tmp_path) == baseline.Stored({}, f"the baseline {path} cannot be read (Is a directory). {NEW}")


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, figure(value=2.0))

    def full(path: Path, text: str, **_: Any) -> int:
        path.write_bytes(b"{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = place(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert saved(tmp_path, figure(value=3.0)) == [f"the baseline {path} could not be written (No space left on device)."]
    assert read(tmp_path).cells[figure().key][0].ratio.value == 2.0
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file"
    (said,) = saved(folder, figure())
    assert said.startswith(f"the baseline {baseline.path(str(folder), WHERE)} could not be written (") and said.endswith(").")
