"""Whole runs: limits, stored times, the table, workers that crash, and exit statuses that CI sees."""

from __future__ import annotations

import itertools
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dlparity import baseline, machine, timing
from pytest_dlparity.timing import Contender, Timing

PREAMBLE = """
import jax.numpy as jnp
import pytest
import torch

import pytest_dlparity as dlp

SINE = dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)], wrt=[], name="sine")
WRONG = dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)], wrt=[], name="wrong")
"""
SINES = "def test_sine(parity):\n    parity(SINE)\n"
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each side takes, in seconds; of a side that has several numbers, one round after the other."""
    seconds: dict[str, Any] = {"torch": [1e-5], "jax": [2e-5]}

    def paired(contenders: list[Contender]) -> tuple[Timing, ...]:
        for one in contenders:
            one.wait(one.step())
        return tuple(Timing(one.name, 0.5, 4, (*seconds[one.name],) * (8 // len(seconds[one.name]))) for one in contenders)

    monkeypatch.setattr(timing, "paired", paired)
    return seconds


@pytest.fixture
def run(runner: pytest.Pytester, took: dict[str, Any]) -> Run:
    def inner(body: str, *options: str) -> pytest.RunResult:
        runner.makepyfile(test_it=PREAMBLE + body)
        return runner.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly", "--dlparity-devices=cpu", *options)

    return inner


def told(result: pytest.RunResult) -> list[str]:
    return [line.removeprefix("dlparity: ") for line in result.outlines if line.startswith("dlparity: ") and "; devices" not in line]


def table(result: pytest.RunResult) -> list[str]:
    """The lines of the table of times, until the next section or sentence."""
    titles = [line.strip("= ") for line in result.outlines]
    rest = result.outlines[titles.index("dlparity speed") + 1 :] if "dlparity speed" in titles else []
    rest = rest[rest[:1] == [""] :]
    return [re.sub("  +", "  ", line) for line in itertools.takewhile(lambda line: line.startswith("test"), rest)]


def error(result: pytest.RunResult, sentence: str) -> bool:
    return any(re.sub(r"^E\s+(pytest_dlparity\.errors\.\w+: )?", "", line) == sentence for line in result.outlines)


TABLE = ["test  part  torch  jax  ratio [interval]", "test_sine[cpu-float32]  forward  10 us  20 us  2 [2, 2]"]


def stored() -> Path:
    (path,) = Path(".dlparity-baseline").glob("*.json")
    return path


# ---------------------------------------------------------------- the table and what is recorded


def test_the_table_properties_and_the_summary_of_a_job(run: Run, runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(runner.path / "summary.md"))
    wrong = "\n\ndef test_wrong(parity):\n    parity(WRONG)\n"
    result = run(SINES + wrong, "--dlparity-speed", "--junitxml=junit.xml", "--tb=no")
    result.assert_outcomes(passed=2, failed=2)
    assert table(result) == [*TABLE, "test_wrong[cpu-float32]  forward  10 us  20 us  2 [2, 2]  NOT IN PARITY"]
    found = {case.get("name"): [p.get("value") for p in case.iter("property") if p.get("name") == "dlparity.ratio"]
             for case in ElementTree.parse(runner.path / "junit.xml").iter("testcase")}  # fmt: skip
    assert found["test_sine[cpu-float32-speed]"] == ["forward 2 [2, 2]"] and found["test_sine[cpu-float32]"] == []
    summary = (runner.path / "summary.md").read_text()
    assert r"| test\_wrong\[cpu-float32\] | forward | 10 us | 20 us | 2 \[2, 2\] | NOT IN PARITY |" in summary
    assert "| sine | cpu-float32 | 1 |" in summary
    quiet = run(SINES, "--dlparity-speed", "--dlparity-report=none", "-m", "dlparity_speed")
    quiet.assert_outcomes(passed=1, deselected=1)
    assert table(quiet) == []


def test_two_specs_of_one_test_have_names_of_their_own(run: Run) -> None:
    result = run("def test_two(parity):\n    parity(SINE)\n    parity(SINE)\n", "--dlparity-speed")
    assert [line.split()[0] for line in table(result)[1:]] == ["test_two[cpu-float32]", "test_two[cpu-float32#2]"]


def test_a_summary_that_cannot_be_written_is_red_and_said(run: Run, runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(runner.path))
    result = run(SINES)
    assert result.ret == 1 and told(result) == [f"GITHUB_STEP_SUMMARY={runner.path} could not be written (Is a directory): the run fails."]


# ---------------------------------------------------------------- jax over torch


def test_a_ratio_beyond_its_limit_fails_the_timing_item_and_keeps_its_record(run: Run) -> None:
    result = run(SINES, "--dlparity-max-ratio=1.5", "--benchmark-json=o.json")
    result.assert_outcomes(passed=1, failed=1)
    assert error(result, "sine [cpu-float32] forward: jax takes 2 [2, 2] times as long as torch (best rounds: 2), more than max_ratio=1.5.")
    assert table(result) == TABLE
    assert len(json.loads(Path("o.json").read_text())["benchmarks"]) == 2
    run(SINES, "--dlparity-max-ratio=2").assert_outcomes(passed=2)


def test_a_markers_limit_times_its_test_and_the_nearest_wins(run: Run) -> None:
    body = """
@pytest.mark.dlparity(SINE, max_ratio=1.5)
def test_strict(): ...


@pytest.mark.dlparity(SINE, max_ratio="3")
def test_loose(): ...


def test_without(parity):
    parity(SINE)
"""
    run(body).assert_outcomes(passed=4, failed=1)
    run(body, "--dlparity-max-ratio=1").assert_outcomes(passed=4, failed=2)


def test_what_is_too_noisy_is_said_and_has_a_status_of_its_own(run: Run, took: dict[str, Any]) -> None:
    took["jax"] = [1e-5, 4e-5]
    said = "sine [cpu-float32] forward: too noisy to tell: jax takes 2.5 [1, 4] times as long as torch (best rounds: 1), and max_ratio is 2"
    quiet, loud = run(SINES, "--dlparity-max-ratio=2"), run(SINES, "--dlparity-max-ratio=2", "--dlparity-undecided=3")
    assert (quiet.ret, told(quiet)) == (0, [f"{said}."])
    assert (loud.ret, told(loud)) == (3, [f"{said}: the run ends with status 3."])


def test_a_limit_without_anything_timed_is_red(run: Run) -> None:
    said = ["nothing was timed, so --dlparity-max-ratio=5 held nothing: the run fails."]
    for options in (("-m", "not dlparity_speed"), ("--benchmark-disable",), ("--benchmark-skip",), ("-k", "nothing")):
        result = run(SINES, "--dlparity-max-ratio=5", *options)
        assert (int(result.ret), told(result)) == (1, said), options
    assert run(SINES, "--dlparity-max-ratio=5", "--collect-only").ret == 0


def test_a_spec_that_is_not_in_parity_fails_also_where_nothing_may_be_timed(run: Run) -> None:
    result = run("def test_wrong(parity):\n    parity(WRONG)\n", "--dlparity-speed", "--benchmark-disable", "-m", "dlparity_speed", "--tb=no")
    result.assert_outcomes(failed=1, deselected=1)
    assert table(result) == []


def test_a_spec_that_is_not_in_parity_is_held_to_no_limit_and_stored_nowhere(run: Run) -> None:
    result = run("def test_wrong(parity):\n    parity(WRONG)\n", "--dlparity-max-ratio=1.5", "--dlparity-save-baseline=new", "--tb=no")
    result.assert_outcomes(failed=2)
    assert told(result) == ["no baseline was stored, because no timed test is in parity: the run fails."]
    assert not Path(".dlparity-baseline").exists()


# ---------------------------------------------------------------- stored times


def test_a_baseline_is_missing_then_stored_then_held_then_exceeded(run: Run, took: dict[str, Any]) -> None:
    name = machine.title(machine.fingerprint())
    said = f"there is no baseline of this machine ({name}) in .dlparity-baseline. Store one with --dlparity-save-baseline=new"
    missing = run(SINES, "--dlparity-max-regression=10%")
    missing.assert_outcomes(passed=2)
    assert (missing.ret, told(missing)) == (1, [f"{said}: the run ends with status 1."])
    for status in (0, 9):
        chosen = run(SINES, "--dlparity-max-regression=10%", f"--dlparity-no-baseline={status}")
        assert (int(chosen.ret), len(told(chosen))) == (status, 1)
    assert run(SINES, "--dlparity-save-baseline=new").ret == 0
    same = run(SINES, "--dlparity-max-regression=10%")
    assert (same.ret, told(same)) == (0, [])
    took["jax"] = [3e-5]
    slower = run(SINES, "--dlparity-max-regression=10%")
    slower.assert_outcomes(passed=1, failed=1)
    assert error(
        slower,
        "sine [cpu-float32] forward: jax takes 1.5 [1.5, 1.5] times as long beside torch as in the baseline, and its best round 1.5 times as "
        "long, more than max_regression=10%.",
    )
    new = run(SINES + "\n\ndef test_new(parity):\n    parity(SINE)\n", "--dlparity-max-regression=60%")
    assert told(new) == [
        "sine [cpu-float32] forward: the baseline has no figure of it. Store one with --dlparity-save-baseline=new: the run ends with status 1."
    ]
    assert run(SINES, "--dlparity-save-baseline=add").ret == 0
    assert len(json.loads(stored().read_text())["cells"]["test_it.py::test_sine[cpu-float32-forward]"]) == 2


def test_a_baseline_that_cannot_be_used_is_no_pass_whatever_status_is_chosen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--dlparity-max-regression=10%", "--dlparity-no-baseline=0")
    run(SINES, "--dlparity-save-baseline=new")
    path = stored()
    text = path.read_text()
    path.write_text(text[:-20])
    result = run(SINES, *options)
    end = "Store one with --dlparity-save-baseline=new: the run fails."
    assert (result.ret, told(result)) == (1, [f"the baseline {path} is corrupt: it is not what a run writes. {end}"])
    path.write_text(text)
    with monkeypatch.context() as patched:
        patched.setattr(machine, "pool", lambda: 2)
        other = run(SINES, *options, "--dlparity-cpu-threads=2")
    assert (other.ret, told(other)) == (
        1,
        [f"sine [cpu-float32] forward: it was stored on another set-up (cpu_threads 1, now 2, xla_threads 1, now 2). {end}"],
    )
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "1.0"})
    other = run(SINES, *options)
    assert other.ret == 1 and told(other)[0].startswith(f"the baseline {path} was stored with other versions (")


def test_a_full_disk_is_red_and_loses_no_other_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(place: Path, text: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(baseline, "_written", full)
    result = run(SINES, "--dlparity-save-baseline=new", "--dlparity-json=found.json", "--benchmark-json=o.json")
    result.assert_outcomes(passed=2)
    place = baseline.path(".dlparity-baseline", machine.fingerprint())
    assert (result.ret, told(result)) == (1, [f"the baseline {place} could not be written (No space left on device): the run fails."])
    assert table(result) == TABLE
    assert len(json.loads(Path("found.json").read_text())["dlparity"]) == 2
    assert len(json.loads(Path("o.json").read_text())["benchmarks"]) == 2


# ---------------------------------------------------------------- items and options


def test_fewer_items_than_asked_for_are_red(run: Run) -> None:
    body = SINES + "\n\ndef test_other(): ...\n\n\ndef test_skipped(parity):\n    pytest.skip()\n"
    result = run(body, "--dlparity-min-items=2", "--dlparity-speed")
    assert result.ret == 1
    assert told(result) == ["1 parity items ran, and --dlparity-min-items asks for at least 2: the run fails."]
    assert run(body, "--dlparity-min-items=1").ret == 0
    assert run(body, "--dlparity-min-items=1", "-k", "nothing").ret == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--dlparity-max-ratio=fast", "max_ratio is 'fast'. Give the most that jax may take beside torch, a number above 0: 1.5."),
        ("--dlparity-max-regression=10", "max_regression is '10'. Give a percentage: 10%."),
        ("--dlparity-save-baseline=yes", "--dlparity-save-baseline=yes: write new, or add to keep the stored runs too."),
        ("--dlparity-undecided=-1", "--dlparity-undecided=-1: write an exit status from 0 (the run passes) to 125."),
    ],
)
def test_an_option_that_means_nothing_is_a_usage_error(run: Run, option: str, says: str) -> None:
    result = run(SINES, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any(line.endswith(says) for line in result.errlines + result.outlines)


def test_jax_does_not_take_the_whole_card_also_without_workers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "import os\n\n\ndef test_it():\n    assert os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] == '{}'\n"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    run(body.format("false")).assert_outcomes(passed=1)
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    run(body.format("true")).assert_outcomes(passed=1)


# ---------------------------------------------------------------- workers

QUICK = """
import functools
import os

from pytest_dlparity import cards, lock, machine, timing

timing.paired = functools.partial(timing.paired, max_time=0.02, min_rounds=4, max_rounds=4)
here = os.path.dirname(__file__)
cards.NVIDIA = os.path.join(here, "nvidia[0-9]*")  # a machine with cards, as far as anyone asks
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    with open(os.path.join(here, f"seen-{worker}"), "w") as file:
        file.write(os.environ["CUDA_VISIBLE_DEVICES"] + " " + os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"])
"""
CRASHES = """
import os


def dies_when_timed(x):
    if not torch.is_grad_enabled():  # a forward pass is timed without gradients, and compared with them
        os._exit(11)
    return x.sin()


def test_early(parity):
    parity(SINE)


def test_dies(parity):
    parity(dlp.layer(dies_when_timed, jnp.sin, inputs=[dlp.normal(3)], wrt=[], name="dies"))


def test_late(parity):
    parity(SINE)
"""


def workers(runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, conftest: str, body: str, *options: str) -> pytest.RunResult:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    monkeypatch.setenv("TMPDIR", str(runner.path))
    for number in (0, 1):
        (runner.path / f"nvidia{number}").touch()
    runner.makeconftest(conftest)
    runner.makepyfile(test_it=PREAMBLE + body)
    args = ("-p", "no:cacheprovider", "-n2", "--dlparity-devices=cpu", "--tb=line", *options)
    return runner.runpytest_subprocess(*args, timeout=240)


def test_a_worker_that_dies_while_it_times_loses_its_own_item_alone(runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """And lock files that a killed run of the same name left do no harm."""
    from pytest_dlparity import lock

    with monkeypatch.context() as patched:
        patched.setattr(lock.tempfile, "tempdir", str(runner.path))
        left = lock._paths("a killed run")
    for path in left:
        path.write_text("left over")
    result = workers(
        runner, monkeypatch, QUICK, CRASHES, "--dlparity-speed", "--dlparity-save-baseline=new", "--dlparity-max-ratio=1e9",
        "--testrunuid=a killed run", "--benchmark-json=o.json",
    )  # fmt: skip
    result.assert_outcomes(passed=5, failed=1)
    assert result.ret == 1 and "INTERNALERROR" not in result.stdout.str()
    assert any("crashed while running 'test_it.py::test_dies[cpu-float32-speed]'" in line for line in result.outlines)
    assert sorted(line.split()[0] for line in table(result)[1:]) == ["test_early[cpu-float32]", "test_late[cpu-float32]"]
    names = sorted(row["name"] for row in json.loads((runner.path / "o.json").read_text())["benchmarks"])
    assert names == [f"test_{name}[cpu-float32-forward-{side}]" for name in ("early", "late") for side in ("jax", "torch")]
    (path,) = (runner.path / ".dlparity-baseline").glob("*.json")
    assert sorted(json.loads(path.read_text())["cells"]) == [f"test_it.py::test_{name}[cpu-float32-forward]" for name in ("early", "late")]
    assert path.stem == machine.title(machine.fingerprint())  # what a serial run on this machine looks for
    assert not any(path.exists() for path in left)
    seen = {path.name.removeprefix("seen-"): path.read_text() for path in runner.path.glob("seen-*")}
    again = seen.pop("gw2")  # takes the place of the one that died, with its card
    assert seen == {"gw0": "0 false", "gw1": "1 false"} and again in seen.values()


def test_without_a_lock_nothing_is_timed_beside_others_which_is_said_and_no_pass_of_a_limit(
    runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = SINES + "\n\n@pytest.mark.dlparity(SINE, max_ratio=1e9)\ndef test_limit(): ...\n"
    conftest = QUICK + "lock.opened = lambda run: None\n"
    result = workers(runner, monkeypatch, conftest, body, "--dlparity-speed")
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    said = "this platform has no file lock, so a timing item cannot run alone beside other workers: time it with -n 0"
    assert told(result) == [f"{said}."]
    assert f"test_limit[cpu-float32-speed] was not timed, so its limit held nothing: {said}." in result.outlines
