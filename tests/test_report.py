"""Every sentence a user reads about a verdict, whole: made by hand where the numbers matter, by a run where the wiring does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import report as words
from pytest_dlparity.compare import STATUSES, Verdict
from pytest_dlparity.matrix import Cell
from pytest_dlparity.report import Report
from pytest_dlparity.tolerance import Tolerance

CELL, LOW = Cell("cpu", "float32"), Cell("cpu", "bfloat16")
SPEC = dlp.layer(torch.sin, jnp.sin, inputs=[dlp.normal(3)], name="sine")
AGREES = Verdict("output", "agree", CELL, bits=21.84, error=1e-9, noise=2e-9, limit=1.6e-8, power=2e-14, scale=1.0, worst=1.0)


def verdict(reason: str, status: str, name: str = "output", **more: Any) -> Verdict:
    return Verdict(name, status, CELL, reason=reason, **more)


def report(*verdicts: Verdict, **more: Any) -> Report:
    return Report(SPEC, tuple(dict.fromkeys(v.cell for v in verdicts)) or (CELL,), verdicts, **more)


SEMANTICS = verdict(
    "semantics", "semantics", bits=9.9, error=1.25e-3, noise=1e-8, limit=8e-8, power=1e-7, scale=0.8, worst=1e5, where=(1, 2),
    values=(0.5, 0.25, 0.5), detail=(0.0015625,),
)  # fmt: skip
PRECISION = verdict(
    "precision", "precision", bits=9.2, error=1.58e-3, noise=1.5e-6, limit=1.2e-5, power=2e-5, scale=0.7, worst=1510.0, side="jax", where=(2,),
    values=(0.955838621, 0.958984375, 0.955838642), detail=(1, True),
)  # fmt: skip
TOLERANCE = verdict(
    "tolerance", "precision", bits=9.2, error=1.58e-3, noise=1.5e-6, limit=1e-5, scale=0.7, worst=280.4, where=(2,), values=(1.5, 1.25, 1.25),
    detail=(Tolerance(rtol=1.3e-6, atol=1e-5),),
)  # fmt: skip

# verdict, the first line's half sentence, then the lines below its status
SAID: dict[str, tuple[Verdict, str, list[str]]] = {
    "semantics": (
        SEMANTICS,
        "output differs in float64, the two sides compute different mathematics",
        [
            "relative difference 0.00156 in float64 where at most 1e-07 is rounding; error 0.00125, limit 8e-08",
            "at [1, 2]: torch 0.5, jax 0.25",
            "Rounding cannot do this: look for an epsilon, a default, a reduction, a mask, a layout or a formula that differs.",
        ],
    ),
    "unequal64": (
        verdict("unequal64", "semantics", where=(1,), values=(3, 4, 3), detail=(2, 4)),
        "output is unequal in 2 of 4 places in float64, the two sides compute different mathematics",
        ["at [1]: torch 3, jax 4", "Look at ties, index conventions and integer widths."],
    ),
    "nonfinite64": (
        verdict("nonfinite64", "nonfinite", "grad.input", where=(0, 0), values=(0.0, math.nan, 0.0), detail=(6, 8)),
        "grad.input is not finite at the same places in float64 (6 of 8)",
        ["at [0, 0]: torch 0, jax nan", "Look at masked rows, log and division of zero, and gradients at zero (where, norm, sqrt)."],
    ),
    "nonfinite": (
        verdict("nonfinite", "nonfinite", where=(1,), values=(math.inf, 101.5, 101.25), detail=(1, 2)),
        "output is not finite at the same places (1 of 2)",
        [
            "at [1]: torch inf, jax 101.5, reference 101.25",
            "float64 is finite there on both sides: look for a value beyond the range of float32, or a mask constant of another dtype.",
        ],
    ),
    "missing": (
        verdict("missing", "structure", "output.aux", side="torch", detail=([4, 8],)),
        "only torch returns output.aux, of shape [4, 8]",
        ["Return it on both sides, or take it out of the torch side."],
    ),
    "shapes": (
        verdict("shapes", "structure", detail=([4, 1], [4])),
        "output has torch shape [4, 1] and jax shape [4]",
        ["Nothing is broadcast: give both sides the same layout."],
    ),
    "classes": (
        verdict("classes", "structure", detail=("floating", "boolean")),
        "output is floating in torch and boolean in jax",
        ["Return the same kind of numbers on both sides."],
    ),
    "precision": (
        PRECISION,
        "output is the same mathematics, but in float32 the jax side is 1.05e+03 x noise farther from float64 than rounding explains",
        [
            "error 0.00158 = 1.05e+03 x noise, limit 8; worst element 1.51e+03 x its noise; the sides agree to 9.2 of 24 bits",
            "at [2]: torch 0.955838621, jax 0.958984375, reference 0.955838642",
            "Look for a cast, a TF32 or bfloat16 product, or a difference of large numbers on that side.",
        ],
    ),
    "unequal": (
        verdict("unequal", "precision", where=(), values=(True, False, True), detail=(1, 1)),
        "output is unequal in 1 of 1 places where rounding in float32 changes nothing",
        ["its value: torch True, jax False, reference True", "Look for a comparison or a rounding that one side does in another dtype."],
    ),
    "tolerance": (
        TOLERANCE,
        "output differs by more than rtol=1.3e-06, atol=1e-05",
        [
            "rms difference 0.00158, worst element 280 x what is allowed",
            "at [2]: torch 1.5, jax 1.25",
            'tolerance="auto" tells whether this is mathematics or rounding.',
        ],
    ),
    "accumulated": (
        verdict("accumulated", "precision", "update.9.w", bits=14.0, error=3e-6, noise=1e-8, limit=8e-8, worst=700.0, side="torch", drift=300.0,
                where=(0,), values=(0.25, 0.5, 0.5)),
        "update.9.w is right step by step, but over the steps the torch side drifts 300 x noise from float64, more than rounding explains",
        [
            "error 3e-06 = 300 x noise, limit 8; worst element 700 x its noise; the sides agree to 14.0 of 24 bits",
            "at [0]: torch 0.25, jax 0.5, reference 0.5",
            "Look at the dtype in which that side keeps its state.",
        ],
    ),
    "no float64 apart": (
        verdict("no float64 apart", "precision", bits=1.0, error=1.03, noise=1e-6, limit=1.6e-5, worst=2e6, where=(1, 5),
                values=(1.9375, 2.90625, 1.9375), detail=("RuntimeError at kernel.py:7: no doubles",)),
        "output differs by more than rounding in float32 explains, and there is no float64 run to say why",
        [
            "error 1.03 = 1.03e+06 x noise, limit 16; worst element 2e+06 x its noise; the sides agree to 1.0 of 24 bits",
            "at [1, 5]: torch 1.9375, jax 2.90625",
            "RuntimeError at kernel.py:7: no doubles",
        ],
    ),
    "overflow": (
        verdict("overflow", "precision", side="both", where=(1,), values=(math.inf, math.inf, 101.25), detail=(1, 2)),
        "output is not finite in 1 of 2 places on both sides where float64 is",
        ["at [1]: torch inf, jax inf, reference 101.25",
         "Both sides leave the range of float32 there, or divide by what it rounds to zero: scale, or draw other inputs."],
    ),
    "below float64": (
        replace(verdict("below float64", "precision", bits=24.5, side="torch", where=(1,), values=(0.5, 0.25, 0.5),
                        detail=("float32", "torch", "port.py:7")), cell=Cell("cpu", "float64")),
        "output is the same mathematics, but the torch side casts to float32 (port.py:7)",
        ["the sides agree to 24.5 of 53 bits",
         "at [1]: torch 0.5, jax 0.25, reference 0.5",
         "Compute in float64 there, or check in float32, where it makes no difference."],
    ),
    "casts": (
        replace(verdict("casts", "precision", bits=6.5, error=1e-3, noise=1e-3, limit=8e-3, worst=2.0, side="jax", where=(1,),
                        values=(0.5, 0.25, 0.375), detail=("jax", "port.py:7", "model.py:3")), cell=LOW),
        "output is the same mathematics, but the jax side rounds to bfloat16 before use (model.py:3) what torch keeps in float32 (port.py:7)",
        ["at [1]: torch 0.5, jax 0.25, reference 0.375",
         "Move the cast, so that both sides leave and enter the low precision at the same place."],
    ),
    "no leaves": (
        verdict("no leaves", "vacuous"),
        "nothing was compared (vacuous): neither side returns an array",
        ["Return what should be compared."],
    ),
    "empty": (
        verdict("empty", "vacuous", detail=([0, 8],)),
        "output is vacuous: its shape [0, 8] holds no element",
        ["Give an input of at least one element."],
    ),
    "no finite": (
        verdict("no finite", "vacuous"),
        "output is vacuous: it is nowhere finite on either side",
        ["Look for a mask over everything, or inputs outside the function's domain."],
    ),
    "constant": (
        verdict("constant", "vacuous"),
        "output is vacuous: no input moves it",
        ["Check that the output depends on the inputs, or leave it out."],
    ),
    "flat": (
        verdict("flat", "vacuous", detail=(-0.5,)),
        "output is vacuous: at these inputs it is -0.5 everywhere, and every gradient is zero",
        ["Nothing was tested: draw inputs at which it is not constant."],
    ),
    "zero gradient": (
        verdict("zero gradient", "vacuous", "grad.fc.bias"),
        "grad.fc.bias is vacuous: zero everywhere on both sides, and no output depends on fc.bias",
        ["Nothing was tested. Draw inputs at which it has a gradient, or leave the name out of wrt."],
    ),
    "zero update": (
        verdict("zero update", "vacuous", "update.1.w"),
        "update.1.w is vacuous: no step changes w on either side",
        ["Nothing was tested. Check the learning rate, the schedule's first steps and which parameters are trained."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", SAID)
def test_a_failure_says_what_where_how_much_and_what_to_look_at(reason: str) -> None:
    failed, half, lines = SAID[reason]
    head = f"sine [{failed.cell}]: 1 of 2 leaves disagree: {half}"
    found = report(failed, replace(AGREES, name="other", cell=failed.cell))
    told = [head, f"  {failed.name}: {failed.status}", *(f"    {line}" for line in lines)]
    assert str(found).splitlines() == [*told, f"  agreed, in bits of {words.significand(failed.cell)}: other (21.8)"]


def test_every_reason_that_compare_gives_is_tested_here() -> None:
    assert set(words._SUMMARIES) - set(SAID) == {"no float64", "unsupported"}  # inconclusive: below
    assert set(words._ADVICE) == set(words._SUMMARIES)


def test_a_function_that_is_less_accurate_than_float64_has_no_cast_to_name() -> None:
    found = replace(verdict("below float64", "precision", bits=30.0), cell=Cell("cpu", "float64"))
    assert words.summary(found) == "output is the same mathematics, but one side's function is less accurate than float64"


def test_a_torch_leaf_that_is_zero_everywhere_has_no_relative_difference() -> None:
    found = verdict("semantics", "semantics", error=0.5, limit=1e-9, power=math.inf, detail=(math.inf,))
    assert words.numbers(found) == "torch is zero everywhere in float64 and jax is not; error 0.5"


def test_a_report_without_verdicts_says_that_nothing_was_compared() -> None:
    assert str(report()) == "sine [cpu-float32]: nothing was compared"


def test_all_agree() -> None:
    worse = replace(AGREES, name="grad.input", bits=20.04)
    assert str(report(AGREES, worse)).splitlines() == [
        "sine [cpu-float32]: 2 of 2 leaves agree (least: grad.input, 20.0 of 24 bits)",
        "  agreed, in bits of 24: output (21.8), grad.input (20.0)",
    ]


def test_equal_integers_have_no_least_bits() -> None:
    equal = replace(AGREES, bits=math.inf)
    assert str(report(equal)) == "sine [cpu-float32]: 1 of 1 leaf agree\n  agreed, in bits of 24: output (equal)"


def unsure() -> Verdict:
    return verdict("no float64", "inconclusive", bits=23.5, error=1e-8, noise=1e-8, limit=1.6e-7, power=2e-7, worst=2.0, scale=0.8,
                   detail=("RuntimeError at kernel.py:7: no doubles",))  # fmt: skip


def test_inconclusive_leaves_are_said_and_are_no_failure_unless_strict() -> None:
    found = report(AGREES, replace(unsure(), name="grad.input"))
    assert found.ok and str(found).splitlines() == [
        "sine [cpu-float32]: 1 of 2 leaves agree, 1 inconclusive (least: output, 21.8 of 24 bits)",
        "  agreed, in bits of 24: output (21.8)",
        "  grad.input: inconclusive. grad.input agrees as far as float32 can tell, there is no float64 run to tell more; "
        "error 1e-08 = 1 x noise, limit 16; worst element 2 x its noise; the sides agree to 23.5 of 24 bits; "
        "RuntimeError at kernel.py:7: no doubles",
    ]
    strict = replace(found, strict=True)
    assert not strict.ok and [v.name for v in strict.failed] == ["grad.input"]
    lines = str(strict).splitlines()
    assert lines[1] == "  grad.input: inconclusive" and lines[-1] == "  agreed, in bits of 24: output (21.8)"


def test_a_dtype_that_one_framework_cannot_run_is_said() -> None:
    found = report(verdict("unsupported", "inconclusive", side="torch", power=2e-15, detail=("NotImplementedError: no such kernel for Half",)))
    assert found.ok and str(found).splitlines() == [
        "sine [cpu-float32]: 0 of 1 leaf agree, 1 inconclusive",
        "  output: inconclusive. output is the same mathematics in float64, and the torch side cannot run it in float32; "
        "NotImplementedError: no such kernel for Half",
    ]


def test_the_other_failures_carry_their_own_sentence() -> None:
    lines = str(report(SEMANTICS, verdict("constant", "vacuous", "extra"))).splitlines()
    assert lines[0] == "sine [cpu-float32]: 2 of 2 leaves disagree: output differs in float64, the two sides compute different mathematics"
    assert lines[-2:] == [
        "  extra: vacuous. extra is vacuous: no input moves it",
        "    Check that the output depends on the inputs, or leave it out.",
    ]


def test_three_failures_are_shown_and_the_others_named_and_every_shows_all() -> None:
    found = report(*(replace(SEMANTICS, name=f"output.{i}", error=1e-3 / (i + 1)) for i in range(11)))
    short, long = str(found).splitlines(), found.text(every=True).splitlines()
    assert short[-1] == "  and 8 more: output.3, output.4, output.5, output.6, output.7, output.8 and 2 more (-vv shows all)"
    assert [line for line in short if line.endswith(": semantics") or ": semantics." in line] == [
        "  output.0: semantics",
        "  output.1: semantics. output.1 differs in float64, the two sides compute different mathematics",
        "  output.2: semantics. output.2 differs in float64, the two sides compute different mathematics",
    ]
    assert sum(": semantics" in line for line in long) == 11 and not any("-vv" in line for line in long)


def test_many_agreed_leaves_are_cut_short_and_every_shows_all() -> None:
    found = report(*(replace(AGREES, name=f"o{i}") for i in range(8)))
    assert str(found).splitlines()[1] == (
        "  agreed, in bits of 24: o0 (21.8), o1 (21.8), o2 (21.8), o3 (21.8), o4 (21.8), o5 (21.8) and 2 more"
    )
    assert found.text(every=True).splitlines()[1].endswith("o6 (21.8), o7 (21.8)")


def test_the_worst_comes_first_by_status_then_by_family_then_by_how_far_beyond_the_limit() -> None:
    made = [
        replace(AGREES, name="fine"),
        verdict("zero gradient", "vacuous", "grad.c"),
        replace(PRECISION, name="grad.a"),
        replace(SEMANTICS, name="grad.b", error=9.0),
        replace(SEMANTICS, name="output", error=2e-7),
        replace(SEMANTICS, name="output.far", error=3e-7),
        verdict("nonfinite", "nonfinite", "grad.d", detail=(1, 2)),
        verdict("shapes", "structure", "update.1.w", detail=([1], [2])),
    ]
    names = ["update.1.w", "grad.d", "output.far", "output", "grad.b", "grad.a", "grad.c"]
    assert [v.name for v in report(*made).failed] == names
    assert [STATUSES.index(v.status) for v in report(*made).failed] == [0, 1, 2, 2, 2, 3, 4]


def test_several_cells_are_named_where_it_matters() -> None:
    low = replace(PRECISION, cell=LOW)
    lines = str(report(AGREES, low)).splitlines()
    assert lines[0] == (
        "sine [cpu-float32, cpu-bfloat16]: 1 of 2 leaves disagree: output is the same mathematics, but in bfloat16 the jax side is "
        "1.05e+03 x noise farther from float64 than rounding explains in cpu-bfloat16"
    )
    assert lines[1] == "  output [cpu-bfloat16]: precision" and lines[-1] == "  agreed [cpu-float32], in bits of 24: output (21.8)"
    both = str(report(AGREES, replace(AGREES, cell=LOW, bits=7.5))).splitlines()
    assert both == [
        "sine [cpu-float32, cpu-bfloat16]: 2 of 2 leaves agree (least: output, 7.5 of 8 bits)",
        "  agreed [cpu-float32], in bits of 24: output (21.8)",
        "  agreed [cpu-bfloat16], in bits of 8: output (7.5)",
    ]


def test_remarks_environment_and_the_again_line_stand_last() -> None:
    found = report(AGREES, remarks=("  note: one",), environment="torch 2, jax 1, seed 0", again='pytest "a.py::test[cpu-float32]"')
    assert str(found).splitlines()[-3:] == ["  note: one", "  environment: torch 2, jax 1, seed 0", '  again: pytest "a.py::test[cpu-float32]"']


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"note": "less accurate", "power": 5e-7},
            "output: one side's float64 is less accurate than float64: changes below 5e-07 would not be seen",
        ),
        (
            {"note": "less accurate", "power": 5e-7, "detail": ("float32", "jax", "model.py:12")},
            "output: one side's float64 is less accurate than float64 (a cast to float32 on the jax side, model.py:12): changes below 5e-07 "
            "would not be seen",
        ),
        (
            {"note": "cast", "power": 1e-6, "detail": ("float32", "torch", "model.py:12")},
            "output: the torch side casts to float32 inside the float64 run (model.py:12): changes below 1e-06 would not be seen",
        ),
        (
            {"note": "cast", "power": 1e-2, "detail": ("bfloat16", "both", "model.py:12")},
            "output: both sides cast to bfloat16 inside the float64 run (model.py:12): changes below 0.01 would not be seen",
        ),
        (
            {"note": "blind", "scale": 1.03e-8, "detail": (Tolerance(rtol=1e-6, atol=1e-5),)},
            "output: atol=1e-05 is above the leaf's own size 1.03e-08, so this tolerance is blind here",
        ),
        (
            {"note": "allowed", "detail": (Tolerance(rtol=1e-2, atol=1e-2), 2.04e-4)},
            "output: the sides differ by 0.000204 in float64, which is other mathematics and which this tolerance allows",
        ),
    ],
)
def test_a_leaf_that_agrees_with_reserve_has_a_note(more: dict[str, Any], said: str) -> None:
    assert str(report(replace(AGREES, **more))).splitlines()[-1] == f"  note: {said}"


@pytest.mark.parametrize("note", ["", "rounding inside", "alike", "flips"])
def test_a_leaf_that_agrees_without_reserve_has_none(note: str) -> None:
    assert words.notes(replace(AGREES, note=note)) == ""


def test_a_worst_element_beyond_its_limit_is_said_as_one_element() -> None:
    found = replace(PRECISION, error=3e-6, detail=(1, False), worst=80.0)
    assert words.summary(found) == (
        "output is the same mathematics, but in float32 the jax side is 80 x noise at one element farther from float64 than rounding explains"
    )


def test_no_noise_is_said_without_dividing_by_zero() -> None:
    found = replace(PRECISION, noise=0.0, limit=0.0)
    assert words.numbers(found).startswith("error 0.00158 = inf x noise, limit inf;")


@pytest.mark.parametrize("reason", SAID)
def test_no_sentence_has_a_hole_a_doubled_space_or_a_lost_name(reason: str) -> None:
    failed, *_ = SAID[reason]
    text = str(report(failed))
    assert not any(hole in text for hole in ("{", "}", "None", "lambda", "  :", " ,", "..")) and words.advice(failed)
    assert all("  " not in line.strip() for line in text.splitlines())
    assert reason == "no leaves" or failed.name in words.summary(failed)


# ---------------------------------------------------------------- a report as a value


def test_a_leaf_is_found_by_name_the_worst_of_its_cells_first() -> None:
    low = replace(PRECISION, cell=LOW)
    assert report(AGREES, low)["output"] is low and report(low, AGREES)["output"] is low


def test_a_name_that_is_no_leaf_is_answered_with_those_that_are() -> None:
    with pytest.raises(KeyError) as caught:
        report(AGREES, replace(AGREES, name="grad.input"))["grad.weight"]
    assert caught.value.args == ("no leaf 'grad.weight'; the leaves are output, grad.input",)


def test_cell_is_of_a_report_of_one_cell() -> None:
    assert report(AGREES).cell == CELL
    with pytest.raises(ValueError, match=r"^the report has 2 cells\. Ask a verdict for its cell: report\[name\]\.cell\.$"):
        _ = report(AGREES, replace(AGREES, cell=LOW)).cell


def test_raise_if_failed_raises_the_report_and_nothing_when_all_agree() -> None:
    report(AGREES).raise_if_failed()
    found = report(*(replace(SEMANTICS, name=f"output.{i}") for i in range(5)))
    with pytest.raises(dlp.ParityError) as caught:
        found.raise_if_failed()
    assert str(caught.value) == str(found) and caught.value.report is found and isinstance(caught.value, AssertionError)
    with pytest.raises(dlp.ParityError) as caught:
        found.raise_if_failed(every=True)
    assert str(caught.value) == found.text(every=True) != str(found)


def test_a_report_and_its_verdicts_do_not_change() -> None:
    with pytest.raises(AttributeError):
        report(AGREES).verdicts = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        AGREES.status = "agree"  # type: ignore[misc]


# ---------------------------------------------------------------- the rest of the words


@pytest.mark.parametrize(
    ("cell", "precision", "kind", "said"),
    [
        (CELL, "highest", "cuda", ""),
        (CELL, "default", "cpu", ""),
        (LOW, "default", "cuda", ""),
        (
            CELL, "default", "cuda",
            'precision="default": float32 products may run in TF32 there, so the cell is judged by a roundoff of 2^-11.',
        ),
        (
            Cell("tpu", "complex64"), "default", "tpu",
            'precision="default": complex64 products may run in bfloat16 there, so the cell is judged by a roundoff of 2^-8.',
        ),
    ],
)  # fmt: skip
def test_what_precision_default_means_in_a_cell(cell: Cell, precision: str, kind: str, said: str) -> None:
    assert words.judged_by(cell, precision, kind) == said


def test_the_table_is_aligned_and_has_no_trailing_space() -> None:
    rows = [
        {"spec": "sine", "cell": "cpu-float32", "leaves": 2, "bits": "23.5 of 24", "verdict": "agree"},
        {"spec": "layernorm", "cell": "cuda-bfloat16-compiled", "leaves": 12, "bits": "-", "verdict": "structure"},
    ]
    assert words.table(rows) == [
        "spec       cell                    leaves  bits        verdict",
        "sine       cpu-float32             2       23.5 of 24  agree",
        "layernorm  cuda-bfloat16-compiled  12      -           structure",
    ]


def test_a_real_failure_reads_as_designed() -> None:
    spec = dlp.layer(lambda x: x.mean(1, keepdim=True), lambda x: x.mean(1), inputs=[dlp.normal(4, 8)], name="mean")
    lines = str(dlp.check(spec, devices=["cpu"], seed=3)).splitlines()
    assert lines[:3] == [
        "mean [cpu-float32]: 1 of 1 leaf disagree: output has torch shape [4, 1] and jax shape [4]",
        "  output: structure",
        "    Nothing is broadcast: give both sides the same layout.",
    ]
    assert lines[3].startswith("  environment: torch ") and lines[3].endswith(", seed 3")
    assert lines[4:] == ["  again: dlp.check(spec, devices=['cpu'], dtypes=['float32'], seed=3)"]
