"""The calibration of the catalogue: what it counts, and that docs/verdicts.md and its figure show the stored figures."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_dlparity.catalog import judge, specs
from pytest_dlparity.catalog.entry import Entry, Equivalent
from pytest_dlparity.draws import fixed, normal
from pytest_dlparity.matrix import Cell

ROOT = Path(__file__).parent.parent


@pytest.fixture
def calibration(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("calibration_catalog")
    sys.modules.pop("calibration_catalog", None)


@pytest.fixture
def stored(calibration) -> dict[str, Any]:
    return json.loads(calibration.STORED.read_text())


# ---------------------------------------------------------------- the page


def test_the_page_shows_the_stored_figures(calibration, stored):
    inside = calibration.parts(calibration.PAGE.read_text())[1]
    assert inside.strip() == calibration.section(stored).strip(), (
        "docs/verdicts.md is stale. Write: python benchmarks/calibration_catalog.py --render"
    )


def test_the_figure_shows_the_stored_figures(calibration, stored):
    assert calibration.digest(stored) in calibration.FIGURE.read_text(), (
        "docs/calibration.svg is stale. Write: python benchmarks/calibration_catalog.py --render"
    )


def test_the_stored_run_is_of_everything_and_has_no_alarm_and_no_miss(calibration, stored):
    assert stored["setup"]["seeds"] >= 20 and list(stored["dtypes"]) == ["float32", "bfloat16", "float16"]
    assert stored["setup"]["entries"] >= 600 and sum(sum(row[1:5]) for row in stored["mutants"]) > 1000
    assert list(calibration.wrong(stored)) == []
    for here in stored["dtypes"].values():
        assert sum(here["rms histogram"]) == sum(here["worst histogram"]) == here["leaves"]


def test_the_parts_of_a_page_are_its_text(calibration):
    page = f"before\n{calibration.BEGIN}inside\n{calibration.END}after\n"
    assert calibration.parts(page) == ("before\n", "inside\n", "after\n")


# ---------------------------------------------------------------- what is counted

RIGHT = Entry("half", "lambda x: x / 2", {"jax": "lambda x: x * 0.5"}, {"odd": [normal(3, 5)]})
WRONG = Entry("half", "lambda x: x / 2", {"jax": "lambda x: x * 0.51"}, {"odd": [normal(3, 5)]})


@pytest.fixture
def measured(calibration, monkeypatch):
    def run(entry: Entry, seeds: int = 2) -> dict[str, Any]:
        monkeypatch.setattr(specs, "entries", lambda: {entry.name: entry})
        return calibration.measured(entry.name, seeds, True)

    return run


def test_an_entry_is_counted_in_every_seed_and_dtype(measured):
    found = measured(RIGHT)
    for here in found["dtypes"].values():
        assert here["statuses"] == {"agrees": 2, "differs as written": 0, "failed": 0, "skipped": 0}
        assert len(here["rms"]) == len(here["worst"]) == 4 and here["inside"] == 0
    assert found["alarms"] == []
    assert [(name, outcome) for _, name, _, outcome, *_ in found["trials"]] == [("constant off by a tenth", "caught")]


def test_numbers_of_each_dtype_have_all_their_bits(measured, monkeypatch):
    """1000 and 1001 are one number in bfloat16, and not in float32."""
    seen: dict[str, judge.Course] = {}

    def cases(entry: Entry, library: str, cell: Cell, course: judge.Course) -> list[judge.Found]:
        seen.setdefault(cell.dtype, course)
        return []

    monkeypatch.setattr(judge, "cases", cases)
    entry = Entry("half", "lambda x: x / 2", {"jax": "lambda x: x * 0.5"}, {"odd": [fixed([1000.0, 1001.0])]})
    measured(entry, 1)
    inputs = {dtype: course.begun(entry, "jax", "odd").prep.inputs["input"].tolist() for dtype, course in seen.items()}
    assert inputs == {"float32": [1000.0, 1001.0], "bfloat16": [1000.0, 1000.0], "float16": [1000.0, 1001.0]}


def test_a_wrong_entry_is_a_false_alarm_of_every_seed_and_dtype(measured):
    found = measured(WRONG)
    assert [alarm.partition(": ")[0] for alarm in found["alarms"]] == [
        f"half [jax, odd], seed {seed}, {dtype}" for seed in (0, 1) for dtype in ("float32", "bfloat16", "float16")
    ]


def test_draws_that_are_paired_are_paired_anew_for_each_seed(measured):
    options = {"train": True, "shared_randomness": True}
    entry = Entry("dropped", "torch.nn.Dropout(0.25)", {"linen": Equivalent("linen.Dropout(0.25)")}, {"odd": [normal(5, 7)]}, options=options)
    assert measured(entry)["alarms"] == []


def test_a_summary_counts_misses_and_alarms(calibration):
    one = {
        "entry": "half", "equivalents": 1, "alarms": ["half [jax, odd], seed 0, float32: it differs"],
        "trials": [
            ["jax", "sign", "a + b", "missed", 0.5, math.nan],
            ["jax", "sign", "a + c", "caught", math.nan, 30.0],
            ["jax", "axis", "a.T", "refused", math.nan, math.nan],
            ["jax", "axis", "a.S", "the same", 0.0, math.nan],
        ],
        "dtypes": {
            dtype: {"statuses": {"agrees": 1, "differs as written": 0, "failed": 1, "skipped": 0}, "rms": [0.8, 16.0], "worst": [0.5, 640.0], "inside": 1}
            for dtype in calibration.DTYPES
        },
    }  # fmt: skip
    stored = calibration.summary([one], 2)
    assert list(calibration.wrong(stored)) == [
        "false alarm: half [jax, odd], seed 0, float32: it differs",
        "miss: half [jax], sign: a + b",
    ]
    assert stored["mutants"] == [["axis", 0, 1, 0, 1, None], ["sign", 1, 0, 1, 0, 30.0]]
    assert stored["dtypes"]["float32"]["rms"] == pytest.approx([8.4, 15.85, 15.98], abs=0.01) and sum(stored["margins"]) == 1
    said = calibration.section(stored)
    assert "Printed by `python benchmarks/calibration_catalog.py --seeds 2`: 1 entries" in said
    assert "Score: 2 of 3 mutants that change the mathematics did not pass; 1 change nothing." in said.replace("\n", " ")


def test_rows_of_one_kind_are_one_row_of_the_table(calibration):
    rows = [["default lr", 1, 0, 0, 2, 30.0], ["default b1", 1, 1, 0, 0, None], ["causal the other way", 2, 0, 0, 0, 5.0], ["sign", 1, 0, 0, 0, None]]
    assert calibration.grouped(rows) == [
        ["a flag the other way", 2, 0, 0, 0, 5.0],
        ["an argument left to its default", 2, 1, 0, 2, 30.0],
        ["sign", 1, 0, 0, 0, None],
    ]


def test_numbers_beyond_the_bins_count_in_the_first_and_the_last(calibration):
    counts = calibration.histogram([0.0, 1e-9, 1.0, 1e99])
    assert (counts[0], counts[-1], sum(counts)) == (2, 1, 4)


# ---------------------------------------------------------------- a run that goes on


def test_a_run_goes_on_where_it_was_broken_off(calibration, tmp_path):
    keep = tmp_path / "kept.jsonl"
    known = {"entry": "relu", "trials": [], "dtypes": {}}
    keep.write_text(f"{json.dumps([1, False])}\n{json.dumps(known)}\n")
    assert calibration.gathered(["relu"], 1, False, 1, keep) == [known]


def test_what_another_run_kept_is_refused(calibration, tmp_path):
    keep = tmp_path / "kept.jsonl"
    keep.write_text(f"{json.dumps([2, True])}\n")
    with pytest.raises(SystemExit, match=r"kept\.jsonl is of another run: 2 seeds, mutants True\. Delete it, or give another --keep\.$"):
        calibration.gathered(["relu"], 1, False, 1, keep)


def test_the_readme_says_what_is_stored(calibration, stored):
    cases = sum(sum(here["statuses"].values()) - here["statuses"]["skipped"] for here in stored["dtypes"].values())
    mutants = sum(sum(row[1:4]) for row in stored["mutants"])
    said = " ".join((ROOT / "README.md").read_text().split())
    assert f"of {cases:_} cases of right pairs that ran none failed, and of {mutants} mutants".replace("_", " ") in said
