"""The plugin as its users meet it: fixture, marker, options, ids, and what stands at the end of a run."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo  # torch imports it in its first seeded run; inside an inner run it would be dropped, and it cannot be imported twice

assert torch._dynamo

PREAMBLE = """
import unittest

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import pytest_dlparity as dlp

SINE = dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)], wrt=[], name="sine")
WRONG = dlp.layer(torch.sin, jnp.cos, inputs=[dlp.normal(3)], wrt=[], name="wrong")


def sine():
    return SINE

"""
FAKE_DEVICE = """
import pytest_dlparity as dlp


def pytest_dlparity_devices(devices):
    devices["fake"] = dlp.Device("fake", "cpu", "cpu", "fake is the CPU under another name")
    devices["gone"] = dlp.Device("gone", "cpu:7", "nowhere")
"""


def write(runner: pytest.Pytester, body: str, **files: str) -> None:
    runner.makepyfile(test_it=PREAMBLE + body, **files)


def run(runner: pytest.Pytester, *options: str) -> pytest.RunResult:
    return runner.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly", *options)


def ids(result: pytest.RunResult) -> list[str]:
    return [line.split("::", 1)[1] for line in result.outlines if "::" in line and not line.startswith(("FAILED", "ERROR", " "))]


def collected(runner: pytest.Pytester, *options: str) -> list[str]:
    return ids(run(runner, "--collect-only", "-q", *options))


def said(result: pytest.RunResult, sentence: str) -> bool:
    """Whether one line of the output is this sentence, whole; the margin belongs to pytest."""
    return any(re.sub(r"^(E\s)?\s*(pytest_dlparity\.errors\.\w+: )?", "", line) == sentence for line in result.outlines)


# ---------------------------------------------------------------- a test that runs a spec


def test_fixture_and_marker_run_specs_and_factories(runner: pytest.Pytester) -> None:
    write(
        runner,
        """
def test_fixture(parity):
    report = parity(SINE)
    assert report is parity.report and report.ok and report["output"].bits > 20 and str(parity.cell) == "cpu-float32"


def test_fixture_with_a_factory(parity):
    assert parity(sine).spec is SINE


@pytest.mark.dlparity(SINE)
def test_marker_with_an_empty_body(): ...


@pytest.mark.dlparity(spec=sine)
def test_marker_with_a_factory(): ...


@pytest.mark.dlparity(sine, dtypes=["bfloat16"])
def test_marker_that_looks_at_the_report(parity):
    assert parity.report["output"].bits > 4 and parity.cell.dtype == "bfloat16"


class TestMethods:
    @pytest.mark.dlparity(spec=sine)
    def test_method(self): ...

    def test_twice(self, parity):
        parity(SINE)
        parity(dlp.layer(torch.cos, jnp.cos, inputs=[dlp.normal(3)], wrt=[]))
""",
    )
    result = run(runner, "--dlparity-report=all")
    result.assert_outcomes(passed=7)
    assert sum(line.startswith(("sine  ", "cos  ")) for line in result.outlines) == 8


def test_a_spec_in_the_marker_runs_although_the_body_is_empty_and_a_wrong_one_fails(runner: pytest.Pytester) -> None:
    write(runner, "@pytest.mark.dlparity(WRONG)\ndef test_wrong(): ...\n")
    result = run(runner)
    result.assert_outcomes(failed=1)
    head = "wrong [cpu-float32]: 1 of 1 leaf disagree: output differs in float64, the two sides compute different mathematics"
    assert said(result, head) and said(result, 'again: pytest "test_it.py::test_wrong[cpu-float32]"')
    assert not any("parity.py" in line or "plugin.py" in line for line in result.outlines)  # no frames of ours


def test_the_short_summary_line_begins_with_the_headline(runner: pytest.Pytester) -> None:
    write(runner, "def test_wrong(parity):\n    parity(WRONG)\n")
    result = run(runner, "-o", "console_output_style=classic")
    assert any(line.startswith("FAILED test_it.py::test_wrong[cpu-float32] - ") for line in result.outlines)


def test_vv_shows_every_leaf(runner: pytest.Pytester) -> None:
    write(
        runner,
        """
def several(start):
    return lambda x: tuple(x * k for k in range(start, start + 6))


def test_many(parity):
    parity(dlp.layer(several(1), several(2), inputs=[dlp.normal(3)], wrt=[]))
""",
    )
    short, long = run(runner), run(runner, "-vv")
    assert said(short, "and 5 more: output.1, output.2, output.3, output.4, output.5 (-vv shows all)")
    assert not said(long, "and 5 more: output.1, output.2, output.3, output.4, output.5 (-vv shows all)")
    last = "output.5: semantics. output.5 differs in float64, the two sides compute different mathematics"
    assert said(long, last) and not said(short, last)


def test_a_test_that_never_runs_a_spec_fails_in_words(runner: pytest.Pytester) -> None:
    write(runner, "def test_idle(parity): ...\n\ndef test_early(parity):\n    parity.report\n")
    result = run(runner)
    result.assert_outcomes(failed=2)
    assert said(
        result,
        "test_idle asks for parity but never ran a spec, so nothing was tested. Call parity(spec), or give the spec to the marker: "
        "@pytest.mark.dlparity(spec=...).",
    )
    early = "AttributeError: no spec has run in this test yet: call parity(spec) first, or give the spec to the dlparity marker"
    assert said(result, early)


def test_what_is_no_spec_is_answered_in_words(runner: pytest.Pytester) -> None:
    write(runner, "def test_three(parity):\n    parity(3)\n\n\n@pytest.mark.dlparity(spec=lambda: 3)\ndef test_lambda(): ...\n")
    result = run(runner)
    result.assert_outcomes(failed=2)
    assert said(result, "3 is no spec. Make one with dlp.layer, dlp.loss, dlp.optimizer or dlp.model.")


def test_users_skip_xfail_and_assertions_inside_a_body_are_respected(runner: pytest.Pytester) -> None:
    write(
        runner,
        """
@pytest.mark.dlparity(SINE)
def test_skip():
    pytest.skip("the user's own")


@pytest.mark.dlparity(SINE)
@pytest.mark.xfail(reason="the user's own", strict=True)
def test_xfail():
    assert False


@pytest.mark.dlparity(WRONG)
@pytest.mark.xfail(raises=dlp.ParityError, strict=True)
def test_xfail_of_the_spec(): ...


@pytest.mark.dlparity(WRONG)
@pytest.mark.skip
def test_never_begun(): ...


def test_imperative_skip_before_a_spec(parity):
    pytest.skip("before")


@pytest.mark.dlparity(SINE)
def test_assertion():
    assert 1 == 2


def test_expected(parity):
    with pytest.raises(dlp.ParityError, match="wrong") as caught:
        parity(WRONG)
    assert not caught.value.report.ok
""",
    )
    run(runner).assert_outcomes(skipped=3, xfailed=2, failed=1, passed=1)


def test_the_users_exception_is_shown_with_the_users_line(runner: pytest.Pytester) -> None:
    write(
        runner,
        """
def broken(x):
    raise ZeroDivisionError("the user's own")


def test_broken(parity):
    parity(dlp.layer(broken, jnp.sin, inputs=[dlp.normal(3)]))
""",
    )
    result = run(runner, "--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_it.py:*: in broken", "E   ZeroDivisionError: the user's own"])


# ---------------------------------------------------------------- ids and the matrix


def test_ids_are_cells_and_parametrize_composes(runner: pytest.Pytester) -> None:
    write(
        runner,
        """
@pytest.mark.dlparity(dtypes=["float32", "bfloat16"], modes="eager,nojit")
@pytest.mark.parametrize("size", [1, 2])
def test_sizes(parity, size): ...
""",
    )
    cells = ["cpu-float32", "cpu-float32-nojit", "cpu-bfloat16", "cpu-bfloat16-nojit"]
    assert collected(runner, "--dlparity-devices=cpu") == [f"test_sizes[{cell}-{size}]" for cell in cells for size in (1, 2)]


def test_markers_of_module_class_and_function_merge_and_the_nearest_wins(runner: pytest.Pytester) -> None:
    write(
        runner,
        """
pytestmark = pytest.mark.dlparity(devices=["cpu"], dtypes=["float16"], seed=1)


@pytest.mark.dlparity(dtypes="bfloat16", spec=sine)
class TestClass:
    def test_inherits(self, parity):
        assert parity._point.asked.seed == 1 and parity.report.ok

    @pytest.mark.dlparity(seed=2, dtypes=["float64"])
    def test_overrides(self, parity):
        assert parity._point.asked.seed == 2 and "seed 2" in str(parity.report)


def test_of_the_module(parity):
    parity(SINE)
""",
    )
    expected = ["TestClass::test_inherits[cpu-bfloat16]", "TestClass::test_overrides[cpu-float64]", "test_of_the_module[cpu-float16]"]
    assert collected(runner) == expected
    run(runner).assert_outcomes(passed=3)


def test_options_and_ini_values_set_the_matrix_and_options_win(runner: pytest.Pytester) -> None:
    write(runner, "def test_sine(parity):\n    assert 'seed 7' in str(parity(SINE))\n")
    runner.makeini("[pytest]\ndlparity_dtypes = float16,bfloat16\ndlparity_devices = cpu\ndlparity_seed = 7\ndlparity_report = all\n")
    assert collected(runner) == ["test_sine[cpu-float16]", "test_sine[cpu-bfloat16]"]
    assert collected(runner, "--dlparity-dtypes=float64") == ["test_sine[cpu-float64]"]
    result = run(runner)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["dlparity: torch *, jax *; devices cpu, dtypes float16,bfloat16, seed 7"])
    assert sum(line.startswith("sine  ") for line in result.outlines) == 2


def test_a_tolerance_option_reaches_the_verdict(runner: pytest.Pytester) -> None:
    write(runner, "def test_sine(parity):\n    assert parity(SINE)['output'].detail[0] == dlp.Tolerance(rtol=0.5, atol=1e-9)\n")
    run(runner, "--dlparity-tolerance=rtol=0.5,atol=1e-9").assert_outcomes(passed=1)
    run(runner).assert_outcomes(failed=1)


def test_a_conftest_adds_a_device_and_ids_show_it(runner: pytest.Pytester) -> None:
    write(runner, "@pytest.mark.dlparity(SINE, devices=['cpu', 'fake'])\ndef test_sine(): ...\n", conftest=FAKE_DEVICE)
    assert collected(runner) == ["test_sine[cpu-float32]", "test_sine[fake-float32]"]
    result = run(runner, "--dlparity-report=all")
    result.assert_outcomes(passed=2)
    assert [line.split()[1] for line in result.outlines if line.startswith("sine  ")] == ["cpu-float32", "fake-float32"]


def test_a_device_asked_for_by_name_and_absent_fails_and_one_of_auto_is_skipped(
    runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_dlparity import matrix

    monkeypatch.setattr(matrix, "present", lambda: ["cpu", "gone"])
    write(
        runner,
        """
@pytest.mark.dlparity(SINE, devices=["gone"])
def test_named(): ...


@pytest.mark.dlparity(SINE)
def test_auto(): ...
""",
        conftest=FAKE_DEVICE,
    )
    result = run(runner, "-rs")
    result.assert_outcomes(failed=1, passed=1, skipped=1)
    assert any(line.startswith("gone was asked for by name, but jax has no device 'nowhere' here (") for line in result.outlines)
    assert any("dlparity: device 'gone' is not available: jax has no device 'nowhere' here (" in line for line in result.outlines)


# ---------------------------------------------------------------- what is written wrong


@pytest.mark.parametrize(
    ("marker", "sentence"),
    [
        ("SINE, dtype='float16'", "the dlparity marker has no argument 'dtype'. Write dtypes=."),
        (
            "SINE, colour=1",
            "the dlparity marker has no argument 'colour'. It has devices, dtypes, modes, seed, tolerance, strict, speed, localize, max_ratio, "
            "max_regression, spec.",
        ),
        ("SINE, WRONG", "the dlparity marker has 2 positional arguments. It takes one: a spec, or a function that makes one."),
        ("SINE, spec=WRONG", "the dlparity marker has two specs, one positional and one as spec=. Give one."),
        ("3", "the dlparity marker got 3. Give a spec, or a function that makes one: @pytest.mark.dlparity(spec=gelu)."),
        (
            "SINE, dtypes=['float31']",
            "'float31' is no dtype. Did you mean 'float32'? The dtypes are float64, float32, float16, bfloat16, complex128, complex64.",
        ),
        ("SINE, devices='cuba'", "'cuba' is no device. Did you mean 'cuda'? The devices are cpu, cuda, rocm, tpu, mps, auto."),
        ("SINE, modes='jitted'", "'jitted' is no mode. Did you mean 'jit'? The modes are eager, jit, default, compiled, nojit."),
        ("SINE, dtypes=[]", "dtypes is empty, so nothing would run. Name at least one, or leave it out."),
        ("SINE, seed='7'", "seed is '7'. Give a whole number that is not negative."),
        ("SINE, strict='no'", "strict is 'no'. Write True or False."),
        (
            "SINE, tolerance=1e-3",
            'tolerance is 0.001. Write "auto", "conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5), or a dict from dtypes to Tolerances.',
        ),
    ],
)
def test_a_marker_argument_that_means_nothing_fails_that_test_in_words_and_the_rest_runs(
    runner: pytest.Pytester, marker: str, sentence: str
) -> None:
    write(runner, f"@pytest.mark.dlparity({marker})\ndef test_bad(): ...\n\n\ndef test_rest(): ...\n")
    result = run(runner)
    result.assert_outcomes(failed=1, passed=1)
    assert said(result, sentence), result.outlines
    assert collected(runner)[0] == "test_bad[bad-marker]"


def test_a_bad_marker_never_reaches_the_body(runner: pytest.Pytester) -> None:
    write(runner, "@pytest.mark.dlparity(dtype='float16')\ndef test_bad(parity):\n    raise ZeroDivisionError\n")
    result = run(runner)
    result.assert_outcomes(failed=1)
    assert said(result, "the dlparity marker has no argument 'dtype'. Write dtypes=.") and "ZeroDivisionError" not in result.stdout.str()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            "--dlparity-dtypes=float31",
            "--dlparity options: 'float31' is no dtype. Did you mean 'float32'? The dtypes are float64, float32, float16, bfloat16, "
            "complex128, complex64.",
        ),
        ("--dlparity-devices=", "--dlparity options: devices is empty, so nothing would run. Name at least one, or leave it out."),
        ("--dlparity-modes=fast", "--dlparity options: 'fast' is no mode. The modes are eager, jit, default, compiled, nojit."),
        ("--dlparity-seed=-1", "--dlparity-seed=-1: write a whole number that is not negative."),
        ("--dlparity-seed=x", "--dlparity-seed=x: write a whole number that is not negative."),
        ("--dlparity-report=some", "--dlparity-report=some: write failures, all or none."),
        ("--dlparity-tolerance=1e-3", '--dlparity options: tolerance is \'1e-3\'. Write "auto", "conventional" or "rtol=1e-3,atol=1e-5".'),
        (
            "--dlparity-tolerance=rtol=1e-3",
            "--dlparity options: Tolerance gives rtol but not atol. Give both: Tolerance(rtol=0.001, atol=1e-05). With one of them a test "
            "can pass because of the other.",
        ),
    ],
)
def test_an_option_that_means_nothing_is_a_usage_error(runner: pytest.Pytester, option: str, sentence: str) -> None:
    write(runner, "def test_sine(parity):\n    parity(SINE)\n")
    result = run(runner, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {sentence}" in [*result.outlines, *result.errlines]


def test_an_unknown_option_is_a_usage_error(runner: pytest.Pytester) -> None:
    assert run(runner, "--dlparity-colour=red").ret == pytest.ExitCode.USAGE_ERROR


def test_a_unittest_method_with_a_marker_fails_in_words(runner: pytest.Pytester) -> None:
    write(runner, "class TestOld(unittest.TestCase):\n    @pytest.mark.dlparity(SINE)\n    def test_method(self): ...\n")
    result = run(runner)
    result.assert_outcomes(failed=1)
    assert said(
        result,
        "test_method has a dlparity marker with a spec, but is no plain pytest function, so the spec never ran. Write a function, or a "
        "method of a class that is no unittest.TestCase.",
    )


def test_a_factory_that_pytest_takes_for_the_test_is_no_silent_pass(runner: pytest.Pytester) -> None:
    """`@pytest.mark.dlparity(factory)` alone is pytest's way to decorate `factory`: the test would be called, or vanish."""
    write(runner, "def sized(n=3):\n    return SINE\n\n\n@pytest.mark.dlparity(sized)\ndef test_lost(): ...\n\n\ndef test_rest(): ...\n")
    result = run(runner)
    assert result.ret != 0 and "spec=" in result.stdout.str()


def test_an_async_test_with_a_marker_does_not_pass_unseen(runner: pytest.Pytester) -> None:
    write(runner, "@pytest.mark.dlparity(SINE)\nasync def test_async(): ...\n")
    run(runner).assert_outcomes(failed=1)


# ---------------------------------------------------------------- the end of a run


TWO = "def test_right(parity):\n    parity(SINE)\n\n\ndef test_wrong(parity):\n    parity(WRONG)\n"


@pytest.mark.parametrize(("what", "specs"), [("failures", ["wrong"]), ("all", ["sine", "wrong"]), ("none", [])])
def test_the_table_at_the_end(runner: pytest.Pytester, what: str, specs: list[str]) -> None:
    write(runner, TWO)
    result = run(runner, f"--dlparity-report={what}", "--tb=no")
    starts = (["spec", "cell"], ["sine", "cpu-float32"], ["wrong", "cpu-float32"])
    rows = [line.split() for line in result.outlines if line.split()[:2] in starts]
    assert [row[0] for row in rows] == (["spec", *specs] if specs else [])
    if "wrong" in specs:
        assert rows[0] == ["spec", "cell", "leaves", "bits", "verdict"] and rows[-1][-1] == "semantics" and rows[-1][2] == "1"
    assert any(line.strip("= ") == "dlparity" for line in result.outlines) == bool(specs)


def test_json_holds_every_verdict_with_plain_numbers(runner: pytest.Pytester) -> None:
    write(runner, TWO + "def test_b(parity):\n    parity(dlp.layer(lambda x: x > 0, lambda x: x > 0, inputs=[dlp.normal(32)], wrt=[]))\n")
    run(runner, "--dlparity-json=found.json")
    rows = json.loads((runner.path / "found.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["dlparity"]
    assert [row["nodeid"] for row in rows] == [f"test_it.py::{name}[cpu-float32]" for name in ("test_right", "test_wrong", "test_b")]
    assert [row["verdict"] for row in rows] == ["agree", "semantics", "agree"] and [row["ok"] for row in rows] == [True, False, True]
    assert rows[0]["spec"] == "sine" and rows[0]["kind"] == "layer" and rows[0]["cell"] == "cpu-float32" and rows[0]["devices"] == ["cpu"]
    found = rows[1]["verdicts"]
    assert [(v["name"], v["status"], v["cell"], v["reason"]) for v in found] == [("output", "semantics", "cpu-float32", "semantics")]
    assert found[0]["error"] > found[0]["limit"] > 0
    assert rows[2]["verdicts"][0]["bits"] is None  # equal booleans: infinitely many


def test_json_into_a_folder_that_is_not_there_yet_is_written_or_refused_in_words(runner: pytest.Pytester) -> None:
    write(runner, "def test_right(parity):\n    parity(SINE)\n")
    result = run(runner, "--dlparity-json=not/there/found.json")
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert (runner.path / "not/there/found.json").exists() or result.ret == pytest.ExitCode.USAGE_ERROR


def test_junit_properties_say_cell_verdict_bits_and_leaves(runner: pytest.Pytester) -> None:
    write(runner, TWO)
    run(runner, "--junitxml=junit.xml")
    cases = ElementTree.parse(runner.path / "junit.xml").iter("testcase")
    found = [{p.get("name"): p.get("value") for p in case.iter("property")} for case in cases]
    assert [one["dlparity.verdict"] for one in found] == ["agree", "semantics"]
    assert all(one["dlparity.cell"] == "cpu-float32" and one["dlparity.leaves"] == "1" for one in found)
    assert all(re.fullmatch(r"\d+\.\d of 24", one["dlparity.bits"]) for one in found)


RERUN = """
from _pytest.runner import runtestprotocol


def pytest_runtest_protocol(item, nextitem):
    for attempt in (1, 2):  # as pytest-rerunfailures does
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = attempt == 1 and any(report.failed for report in reports)
        for report in reports:
            if again and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
            if report.outcome == "rerun":
                break
        if not again:
            return True
"""


def test_a_rerun_does_not_double_rows_or_properties(runner: pytest.Pytester) -> None:
    body = """
tried = []


@pytest.mark.dlparity(SINE)
def test_flaky():
    tried.append(1)
    assert len(tried) == 2
"""
    write(runner, body, conftest=RERUN)
    run(runner, "--dlparity-json=found.json", "--junitxml=junit.xml")
    assert len(json.loads((runner.path / "found.json").read_text())["dlparity"]) == 1
    names = [p.get("name") for p in ElementTree.parse(runner.path / "junit.xml").iter("property")]
    assert len(names) == len(set(names)) == 4


def test_require_fails_a_run_without_that_device_and_passes_one_with_it(runner: pytest.Pytester) -> None:
    write(runner, "def test_right(parity):\n    parity(SINE)\n\n\ndef test_other(): ...\n", conftest=FAKE_DEVICE)
    missing = run(runner, "--dlparity-require=cpu,fake")
    missing.assert_outcomes(passed=2)
    assert missing.ret == pytest.ExitCode.TESTS_FAILED
    assert "dlparity: fake was required (--dlparity-require), and no spec ran on it: the run fails." in missing.outlines
    assert not any("cpu was required" in line for line in missing.outlines)
    assert run(runner, "--dlparity-require=cpu, fake", "--dlparity-devices=cpu,fake").ret == 0
    nothing = run(runner, "--dlparity-require=cpu", "-k", "nothing")
    assert nothing.ret == pytest.ExitCode.TESTS_FAILED
    assert run(runner, "--dlparity-require=cpu", "-k", "other").ret == pytest.ExitCode.TESTS_FAILED
    assert run(runner, "--dlparity-require=cpu", "--collect-only").ret == 0


def test_a_required_name_that_is_no_device_is_a_failure(runner: pytest.Pytester) -> None:
    write(runner, "def test_right(parity):\n    parity(SINE)\n")
    assert run(runner, "--dlparity-require=cpuu").ret != 0


def test_strict_makes_inconclusive_a_failure(runner: pytest.Pytester) -> None:
    body = """
def no_doubles(x):
    if x.dtype == torch.float64:
        raise RuntimeError("no doubles here")
    return x.sin()


def test_unsure(parity):
    parity(dlp.layer(no_doubles, jnp.sin, inputs=[dlp.normal(3)], wrt=[]))
"""
    write(runner, body)
    run(runner).assert_outcomes(passed=1)
    run(runner, "--dlparity-strict").assert_outcomes(failed=1)
    runner.makeini("[pytest]\ndlparity_strict = true\n")
    run(runner).assert_outcomes(failed=1)


# ---------------------------------------------------------------- beside other plugins


def test_xdist_workers_give_one_set_of_rows_in_two_processes(runner: pytest.Pytester) -> None:
    write(runner, TWO + "\n\n@pytest.mark.dlparity(SINE, dtypes='float64,bfloat16')\ndef test_more(): ...\n")
    options = ("-p", "no:cacheprovider", "--dlparity-json=found.json", "--dlparity-require=cpu", "--tb=no")
    result = runner.runpytest_subprocess("-n2", *options, timeout=120)
    result.assert_outcomes(passed=3, failed=1)
    rows = json.loads((runner.path / "found.json").read_text())["dlparity"]
    assert sorted(row["nodeid"].split("::")[1] for row in rows) == [
        "test_more[cpu-bfloat16]", "test_more[cpu-float64]", "test_right[cpu-float32]", "test_wrong[cpu-float32]",
    ]  # fmt: skip
    assert sum(line.startswith("wrong  ") for line in result.outlines) == 1
    assert not any("was required" in line for line in result.outlines)


def test_without_the_plugin_a_run_knows_nothing_of_it(runner: pytest.Pytester) -> None:
    runner.makepyfile("def test_plain(): ...")
    result = run(runner, "-p", "no:dlparity")
    result.assert_outcomes(passed=1)
    assert "dlparity:" not in result.stdout.str()
    write(runner, "def test_sine(parity):\n    parity(SINE)\n")
    lost = run(runner, "-p", "no:dlparity", "test_it.py")
    lost.assert_outcomes(errors=1)
    lost.stdout.fnmatch_lines(["E       fixture 'parity' not found"])


def test_a_run_without_our_tests_prints_nothing_at_its_end(runner: pytest.Pytester) -> None:
    runner.makepyfile("def test_plain(): ...")
    result = run(runner)
    result.assert_outcomes(passed=1)
    assert [line for line in result.outlines if "dlparity" in line and not line.startswith(("plugins:", "dlparity: torch"))] == []


def test_help_lists_every_option_and_the_marker_is_registered(runner: pytest.Pytester) -> None:
    text = re.sub(r"\s+", " ", run(runner, "--help").stdout.str())
    for name in ("devices", "dtypes", "modes", "seed", "tolerance", "require", "report", "json", "strict", "speed"):
        assert f"--dlparity-{name}" in text and f"dlparity_{name}" in text
    markers = run(runner, "--markers", "--strict-markers").stdout.str()
    assert "@pytest.mark.dlparity(" in markers and "@pytest.mark.dlparity_speed" in markers
    assert "dlparity_devices (string): Devices to run on: auto (those that are here), or names such as cpu,cuda,tpu,mps" in text


def test_torchs_random_state_is_the_users_again_after_a_test_and_the_seed_within_it(runner: pytest.Pytester) -> None:
    body = """
def test_first(parity):
    before = torch.rand(1).item()
    parity(SINE)
    assert torch.rand(1).item() == before == torch.rand(1, generator=torch.Generator().manual_seed(0)).item()


@pytest.fixture
def outside():
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


def test_second(outside, parity):
    torch.rand(3)
    parity(SINE)
"""
    write(runner, body)
    run(runner).assert_outcomes(passed=2)


def test_rows_stay_plain_so_that_they_cross_to_the_controller(tmp_path: Path) -> None:
    import jax.numpy as jnp
    import torch

    import pytest_dlparity as dlp
    from pytest_dlparity import record

    report = dlp.check(dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)]), devices=["cpu"])

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        return all(map(plain, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))

    assert plain(record.row(report, "nodeid"))
