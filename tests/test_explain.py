"""After a failure: the place and the cause in the report, found once, asked for or not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import explain


def gelu(**bug: Any) -> dlp.Spec:
    return dlp.layer(torch=torch.nn.functional.gelu, jax=lambda x: jax.nn.gelu(x, **bug), inputs=[dlp.normal(4, 8)], name="gelu")


def test_a_failure_says_why_and_where() -> None:
    report = dlp.check(gelu(), dtypes=["float32", "bfloat16"], localize="auto")
    text = str(report)
    assert report.causes
    assert f"  why: {report.causes[0].sentence}\n    write: {report.causes[0].write}\n" in text
    assert "\n  where: the two sides part, on the way forward to output\n    both have  torch  " in text


def test_a_check_looks_for_no_place_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain.locate, "located", _never)
    report = dlp.check(gelu())
    assert not report.ok
    assert (report.where, report.causes) == (None, ())


def test_a_passing_spec_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain.locate, "located", _never)
    monkeypatch.setattr(explain.diagnose, "causes", _never)
    assert dlp.check(gelu(approximate=False), localize="auto").ok


def test_always_follows_a_passing_spec_too() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    side = lambda p, x: jnp.tanh(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]
    report = dlp.check(dlp.layer(net, side, inputs=[dlp.normal(4, 8)]), localize="always")
    assert report.ok
    said = "the two sides agree in every leaf, in float64\n    along the way, values of torch that jax has too:\n      0 to 2: all 5\n"
    assert f"\n  where: {said}" in str(report)


def test_a_loss_of_precision_has_its_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain.diagnose, "causes", _never)
    monkeypatch.setattr(explain.locate, "located", _never)
    side = lambda x: (x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x).astype(x.dtype) * 2  # @cast
    report = dlp.check(dlp.layer(torch=lambda x: x * 2, jax=side, inputs=[dlp.normal(64)]), localize="auto")
    assert report["output"].status == "precision"
    said = next(text for text in str(report).splitlines() if text.startswith("  where: "))
    here = next(k for k, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# @cast"))
    jump = re.fullmatch(
        r"  where: in float32 the jax side's error jumps from 0 to (\d+) roundoffs at astype \(convert_element_type\) at test_explain.py:(\d+) \[64\]; "
        r"torch's same value has 0",
        said,
    )
    assert jump is not None, said
    assert (int(jump[1]) > 2**13, int(jump[2])) == (True, here)


def test_a_search_for_causes_that_breaks_leaves_verdict_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain.diagnose, "causes", _never)
    text = str(dlp.check(gelu(), localize="auto"))
    assert "\n  note: the cause could not be looked for: AssertionError: nobody asked for it\n" in text
    assert "\n  where: the two sides part, on the way forward to output\n" in text


def test_a_word_that_means_nothing() -> None:
    with pytest.raises(dlp.SpecError, match=r"^localize is 'yes'. Write off, auto \(after a failure\) or always.$"):
        dlp.check(gelu(), localize="yes")


def test_patience_ends_after_two_seconds() -> None:
    said: list[str] = []
    patience = explain._Patience("net", said.append)
    patience.expects(1.0, "looking for where the two sides part")
    assert said == []
    patience.expects(3.0, "looking for where the two sides part")
    assert said == ["dlparity: net: looking for where the two sides part ..."]


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nobody asked for it")


# ---------------------------------------------------------------- in a test run

FILE = """
import jax, pytest, torch
import pytest_dlparity as dlp

def spec():
    return dlp.layer(torch=torch.nn.functional.gelu, jax=jax.nn.gelu, inputs=[dlp.normal(4, 8)])

@pytest.mark.dlparity(spec=spec, dtypes=["float32", "bfloat16"])
def test_gelu(parity):
    pass

def test_after(parity):
    parity(dlp.layer(torch=torch.tanh, jax=jax.numpy.tanh, inputs=[dlp.normal(4, 8)]))
"""


def ran(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    pytester.makepyfile(FILE)
    return pytester.runpytest("-p", "no:cacheprovider", *options)


def test_a_run_says_it_by_itself_in_each_cell_and_looks_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    located = explain.locate.located
    monkeypatch.setattr(explain.locate, "located", lambda *a, **k: looked.append(1) or located(*a, **k))
    result = ran(pytester)
    result.assert_outcomes(failed=2, passed=1)
    assert result.stdout.str().count("where: the two sides part") == 2
    assert len(looked) == 1


def test_the_short_summary_has_the_verdict_and_no_more(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")  # where pytest cuts no message
    said = ran(pytester, "--junit-xml=junit.xml").stdout.str().partition("short test summary info")[2]
    first = "gelu [cpu-float32]: 2 of 2 leaves disagree: output differs in float64, the two sides compute different mathematics"
    assert [line.partition(" - ")[2] for line in said.splitlines() if "float32" in line] == [f"pytest_dlparity.errors.ParityError: {first}"]
    assert said.count("\n") == 3  # two failures between two rules
    message = ElementTree.parse(pytester.path / "junit.xml").getroot().find(".//failure")
    assert message is not None
    assert message.attrib["message"].endswith(first)
    assert message.text is not None
    assert "where: the two sides part" in message.text


def test_a_run_can_be_told_not_to(pytester: pytest.Pytester) -> None:
    result = ran(pytester, "--dlparity-localize=off")
    result.assert_outcomes(failed=2, passed=1)
    assert "where: " not in result.stdout.str()


def test_an_option_that_means_nothing(pytester: pytest.Pytester) -> None:
    result = ran(pytester, "--dlparity-localize=yes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --dlparity options: localize is 'yes'. Write off, auto (after a failure) or always."])


def test_a_place_that_cannot_be_found_loses_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RecursionError

    monkeypatch.setattr(explain.locate.tracing, "torch_trace", broken)
    result = ran(pytester)
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*where: where the two sides part cannot be told: the trace does not fit: RecursionError."])
