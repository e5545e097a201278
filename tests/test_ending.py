"""What the times of a run come to: its table, its sentences, its exit status."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_dlparity import baseline, ending, gate
from pytest_dlparity.ending import Asked, Problem, Run
from pytest_dlparity.errors import SpecError

DEFAULTS = {
    "max_ratio": "", "max_regression": "", "min_items": "0", "baseline": "b", "save_baseline": "", "no_baseline": "1", "undecided": "0",
    "cpu_threads": "1",
}  # fmt: skip


def row(side: str, test: str = "test_a", part: str = "forward", parity: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "fullname": f"t.py::{test}[cpu-float32-{part}-{side}]",
        "group": f"{test}[cpu-float32]-{part}",
        "params": {"side": side, "what": part},
        "rounds": [3e-6, 1e-6, 2e-6] if side == "torch" else [4.5e-3, 5e-3, 4e-3],
        "extra_info": {"parity": parity, **({"ratio": 1.25, "ratio_low": 1.2, "ratio_high": 1.3} if side == "jax" else {}), **more},
    }


def times(**given: Any) -> list[ending.Row]:
    return [row("torch", **given), row("jax", **given)]


def report(**given: Any) -> dict[str, Any]:
    return {"rows": [], "times": [], "rulings": [], "untimed": [], "timing": False, **given}


# ---------------------------------------------------------------- what is asked


def test_nothing_asked() -> None:
    assert ending.asked(DEFAULTS) == Asked(folder="b")


def test_gates_are_named_as_they_are_written() -> None:
    found = ending.asked({**DEFAULTS, "max_ratio": "1.5", "save_baseline": "add", "no_baseline": "7", "undecided": "3", "min_items": "12"})
    assert found == Asked(("--dlparity-max-ratio=1.5", "--dlparity-save-baseline=add"), 12, "b", "add", 3, 7)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("save_baseline", "yes", "--dlparity-save-baseline=yes: write new, or add to keep the stored runs too."),
        ("min_items", "-1", "--dlparity-min-items=-1: write a whole number that is not negative."),
        ("min_items", "many", "--dlparity-min-items=many: write a whole number that is not negative."),
        ("undecided", "126", "--dlparity-undecided=126: write an exit status from 0 (the run passes) to 125."),
        ("no_baseline", "skip", "--dlparity-no-baseline=skip: write an exit status from 0 (the run passes) to 125."),
        ("cpu_threads", "0", "--dlparity-cpu-threads=0: write a whole number above 0."),
        ("cpu_threads", "all", "--dlparity-cpu-threads=all: write a whole number above 0."),
    ],
)
def test_what_means_nothing(name: str, given: str, says: str) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(says)}$"):
        ending.asked({**DEFAULTS, name: given})


# ---------------------------------------------------------------- sentences and statuses


GATES = ("--dlparity-max-ratio=1.5", "--dlparity-max-regression=10%")


@pytest.mark.parametrize(
    ("run", "asked", "found"),
    [
        (Run(), Asked(), []),
        (
            Run(ran={"a", "b"}),
            Asked(min_items=3),
            [Problem("2 parity items ran, and --dlparity-min-items asks for at least 3: the run fails.")],
        ),
        (Run(ran={"a", "b", "c"}), Asked(min_items=3), []),
        (
            Run(),
            Asked(GATES),
            [Problem("nothing was timed, so --dlparity-max-ratio=1.5 and --dlparity-max-regression=10% held nothing: the run fails.")],
        ),
        (Run(untimed=["no lock", "no lock"]), Asked(), [Problem("no lock.", 0)]),
        (Run(untimed=["no lock"], times=times()), Asked(GATES), [Problem("no lock: the run fails.")]),
        (
            Run(rulings=[{"status": gate.UNDECIDED, "sentence": "a: too noisy."}, {"status": gate.HELD, "sentence": "b: held."}]),
            Asked(),
            [Problem("a: too noisy.", 0)],
        ),
        (
            Run(rulings=[{"status": gate.UNDECIDED, "sentence": "a: too noisy."}]),
            Asked(undecided=3),
            [Problem("a: too noisy: the run ends with status 3.", 3)],
        ),
        (Run(rulings=[{"status": "missing", "sentence": "none."}] * 2), Asked(), [Problem("none: the run ends with status 1.", 1)]),
        (Run(rulings=[{"status": "missing", "sentence": "none."}]), Asked(no_baseline=0), [Problem("none.", 0)]),
        (Run(rulings=[{"status": "unusable", "sentence": "corrupt."}] * 2), Asked(no_baseline=0), [Problem("corrupt: the run fails.")]),
    ],
)
def test_problems(run: Run, asked: Asked, found: list[Problem]) -> None:
    assert ending.problems(run, asked) == found


@pytest.mark.parametrize(
    ("statuses", "before", "after"),
    [([], 0, 0), ([], 5, 5), ([0], 0, 0), ([3], 0, 3), ([3, 7], 0, 7), ([3, 1], 0, 1), ([1], 5, 1), ([3], 1, 1), ([1], 2, 2), ([7], 4, 4)],
)
def test_the_exit_status(statuses: list[int], before: int, after: int) -> None:
    assert ending.status([Problem("", status) for status in statuses], before) == after


def test_items_are_counted_once_and_timing_items_are_no_parity_items() -> None:
    run = Run()
    run.add(report(rows=[{"spec": "one"}, {"spec": "two"}]), "t.py::test_a[cpu-float32]")
    run.add(report(rows=[{"spec": "one"}], times=times(), timing=True), "t.py::test_a[cpu-float32-speed]")
    run.add(report(), "t.py::test_plain")
    assert run.ran == {"t.py::test_a[cpu-float32]"} and len(run.rows) == 2 and len(run.times) == 2


# ---------------------------------------------------------------- storing


def test_only_what_is_in_parity_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[str] = []
    monkeypatch.setattr(baseline, "save", lambda folder, mode, rows: stored.extend(figure.key for figure, _ in rows) or ["lost."])
    run = Run(times=[*times(), *times(test="test_wrong", parity=False)])
    assert ending.saved(run, Asked()) == [] and stored == []
    assert ending.saved(run, Asked(save="new")) == [Problem("lost: the run fails.")]
    assert stored == ["t.py::test_a[cpu-float32-forward]"]
    wrong = Run(times=times(parity=False))
    assert ending.saved(wrong, Asked(save="new")) == [Problem("no baseline was stored, because no timed test is in parity: the run fails.")]


# ---------------------------------------------------------------- the table


def test_the_table_marks_what_is_not_in_parity() -> None:
    assert ending.table([*times(), *times(test="test_wrong", part="step", parity=False)]) == [
        "test                     part     torch  jax     ratio [interval]",
        "test_a[cpu-float32]      forward  2 us   4.5 ms  1.25 [1.2, 1.3]",
        "test_wrong[cpu-float32]  step     2 us   4.5 ms  1.25 [1.2, 1.3]   NOT IN PARITY",
    ]
    assert ending.table([]) == []


def test_the_summary_of_a_job(tmp_path: Path) -> None:
    run = Run(times=times(test="test_a|b", parity=False))
    run.rows = [{"spec": "<b>", "cell": "cpu-float32", "leaves": 1, "bits": "24.0 of 24", "verdict": "agree"}]
    place = tmp_path / "summary.md"
    place.write_text("# before\n")
    assert ending.summarised(run, [Problem("too *noisy*", 0)], str(place)) == []
    assert place.read_text().splitlines() == [
        "# before",
        "## dlparity",
        "",
        "| spec | cell | leaves | bits | verdict |",
        "| --- | --- | --- | --- | --- |",
        r"| \<b\> | cpu-float32 | 1 | 24.0 of 24 | agree |",
        "",
        r"| test | part | torch | jax | ratio \[interval\] | parity |",
        "| --- | --- | --- | --- | --- | --- |",
        r"| test\_a\|b\[cpu-float32\] | forward | 2 us | 4.5 ms | 1.25 \[1.2, 1.3\] | NOT IN PARITY |",
        "",
        r"- too \*noisy\*",
        "",
    ]


def test_no_summary_where_there_is_no_job_or_nothing_to_say(tmp_path: Path) -> None:
    assert ending.summarised(Run(times=times()), [], "") == []
    assert ending.summarised(Run(), [], str(tmp_path / "summary.md")) == []
    assert list(tmp_path.iterdir()) == []


def test_a_summary_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (found,) = ending.summarised(Run(times=times()), [], str(tmp_path))
    assert found == Problem(f"GITHUB_STEP_SUMMARY={tmp_path} could not be written ({os.strerror(errno.EISDIR)}): the run fails.")


def test_properties_are_one_short_line() -> None:
    assert ending.properties([*times(), *times(part="step")]) == [("dlparity.ratio", "forward 1.25 [1.2, 1.3]; step 1.25 [1.2, 1.3]")]
    assert ending.properties([]) == []
