"""The core of the catalogue: entries, their specs, the judge, the items of --dlparity-catalog and the pages. Each with a planted fault."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
import torch
from flax import linen, nnx

import pytest_dlparity as dlp
from pytest_dlparity import reproducer, speed
from pytest_dlparity.catalog import activations, atlas, code, items, judge, mutations, specs, torch_side
from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import fixed, normal
from pytest_dlparity.matrix import Cell

ROOT = Path(__file__).parent.parent
CELL = Cell("cpu", "float32")
SILU = Entry("silu-here", "F.silu", {"jax": "jax.nn.silu"}, {"odd": [normal(3, 5)]})
ZERO = Difference("grad.input", "zero", "at 0 torch gives the slope, jax 1", "jax/_src/nn/functions.py")
LEAKY = Entry(
    "leaky-here",
    "F.leaky_relu",
    {"jax": Equivalent("jax.nn.leaky_relu", differs=(ZERO,))},
    {"odd": [normal(3, 5)]},
    {"zero": [fixed([0.0, 1.0])]},
)
ROW = Entry("row", "lambda x: torch.cat([x, x])", {"jax": "lambda x: jnp.concatenate([x, x + 1])"}, {"one": [fixed([1.0])]})


def found(entry: Entry, library: str = "jax", cell: Cell = CELL) -> dict[str, judge.Found]:
    return {one.case: one for one in judge.cases(entry, library, cell, judge.Course(dtypes=[cell.dtype]))}


# ---------------------------------------------------------------- entries


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Silu"}, "'Silu' has a name that is not lower case with hyphens: conv2d-strided."),
        ({"kind": "norm"}, "'silu-here' is of kind 'norm'. The kinds are layer, loss, optimizer, model."),
        ({"jax": {"keras": "x"}}, "'silu-here' names the library 'keras'. The libraries are jax, optax, linen, nnx, equinox, haiku."),
        ({"missing": {"jax": "none"}}, "'silu-here' has an equivalent in jax and says that jax has none. Take one of them out."),
        ({"jax": {}}, "'silu-here' has no equivalent, so nothing would be compared. Give jax={library: code}."),
        ({"cases": {}}, "'silu-here' has no cases, so nothing would be compared. Give cases={\"odd\": [dlp.normal(3, 5)]}."),
        ({"edges": {"odd": [normal(1)]}}, "'silu-here' has a case and an edge named 'odd'. Rename one of them."),
        (
            {"dtypes": ("float8",)},
            "'silu-here' is for the dtype 'float8'. The dtypes are float64, float32, float16, bfloat16, complex128, complex64.",
        ),
        (
            {"jax": {"jax": Equivalent("jax.nn.silu", differs=(ZERO,))}},
            "'silu-here' differs in jax in the case 'zero'. The cases it runs are odd.",
        ),
        ({"jax": {"jax": Equivalent("jax.nn.silu", cases=("even",))}}, "'silu-here' runs in jax only the case 'even'. The cases are odd."),
        (
            {"jax": {"jax": Equivalent("jax.nn.silu", differs=(Difference("output", "odd", "", ""),))}},
            "'silu-here' differs in jax at output without words or without a source. Give says= and source=.",
        ),
        (
            {"notes": {"beta": "torch has none"}},
            "'silu-here' has a note of 'beta' without a source. Write it at the end, in parentheses: (torch.nn.Linear).",
        ),
    ],
)
def test_an_entry_that_means_nothing_is_refused(change, said):
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(f'catalogue entry {said}')}$"):
        specs.validate([replace(SILU, **change)])


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(dlp.SpecError, match=r"^catalogue entry 'silu-here' stands there twice\. Rename one of them\.$"):
        specs.validate([SILU, SILU])


def test_every_family_is_found_and_sound():
    assert {"activations", "convolution", "losses"} <= set(dlp.catalog.families())
    assert len(dlp.catalog.entries()) >= 200


@pytest.mark.parametrize(
    ("library", "case", "said"),
    [
        ("linen", "odd", "entry 'silu-here' has no equivalent in 'linen'. It has jax."),
        ("jax", "even", "entry 'silu-here' has no case 'even' in jax. It has odd."),
    ],
)
def test_a_spec_of_nothing_is_refused(library, case, said):
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(said)}$"):
        specs.spec(SILU, library, case)


def test_the_last_definition_is_the_side():
    assert code.evaluated("def half(x):\n    return x / 2\n\ndef quarter(x):\n    return half(half(x))")(4.0) == 1.0


def test_code_whose_package_is_absent_says_so(monkeypatch):
    monkeypatch.setattr(code.importlib.util, "find_spec", lambda name: None if name == "haiku" else name)
    assert code.lacking("hk.Linear(3)") == "dm-haiku is not installed"
    assert code.lacking("jnp.tanh") == ""


def test_constant_parameters_are_stirred():
    torch.manual_seed(0)
    norm = torch_side.stirred(torch.nn.BatchNorm1d(8))
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert len(set(getattr(norm, name).tolist())) == 8, name
    assert (norm.running_var > 0).all() and norm.num_batches_tracked == 0


def test_channels_go_last():
    inputs = np.arange(24.0).reshape(1, 2, 3, 4)
    entry = Entry("two", "lambda x: x", {"jax": Equivalent("lambda x: x", channels_last=True)}, {"one": [fixed(inputs)]})
    spec = specs.spec(entry, "jax", "one")
    drawn = spec.inputs["input"].make(None)
    assert drawn.shape == (1, 3, 4, 2) and (drawn == np.moveaxis(inputs, 1, -1)).all()
    picked = torch_side.wrapped(lambda x: x[:, :1])(torch.tensor(drawn))  # the torch side sees channels in place 1
    assert picked.shape == (1, 3, 4, 1) and (picked[..., 0].numpy() == inputs[:, 0]).all()


@pytest.mark.parametrize("name", activations.REEXPORTED)
def test_flax_exports_the_functions_of_jax(name):
    assert getattr(linen, name) is getattr(nnx, name) is getattr(jax.nn, name)


# ---------------------------------------------------------------- sources

PACKAGES = "torch|jax|flax|optax|equinox|haiku"
UPSTREAM = re.compile(r"torch: (aten/src/ATen/native|torch/csrc/autograd)/[\w/]+\.(cpp|h)(, \w+)?")  # files that the wheels do not hold


def dangling(source: str) -> str:
    """Why one source cannot be looked up here, "" where it can: an address, a name, a file and a word in it, a rule of torch's derivatives."""
    if re.fullmatch(r"https://\S+", source) or UPSTREAM.fullmatch(source):
        return ""
    if found := re.match(r"docs/[\w/]+\.md", source):
        return "" if (ROOT / found[0]).exists() else "no such page"
    if found := re.match(r"torch: tools/autograd/derivatives\.yaml, (\w+)", source):
        return "" if hasattr(torch.ops.aten, found[1]) else "torch has no such operation"
    if found := re.match(rf"({PACKAGES})(/[\w/]+\.py)(?:[,:] (\w+))?", source):
        file = Path(importlib.import_module(found[1]).__file__ or "").parent / found[2][1:]
        return "" if file.exists() and (found[3] or "") in file.read_text() else "no such file, or it says nothing of that"
    if found := re.match(rf"(?:{PACKAGES})(?:\.\w+)+", source):
        return "" if resolves(found[0].split(".")) else "no such name"
    return "neither an address nor a name nor a file"


def resolves(parts: list[str]) -> bool:
    for split in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("family", specs.families())
def test_every_source_can_be_looked_up(family):
    wrong = set()
    for entry in specs.families()[family]:
        told = [d.source for way in entry.equivalents().values() for d in way.differs]
        told += [said[said.rindex(" (") + 2 : -1] for said in entry.notes.values()]
        wrong |= {(entry.name, source, why) for sources in told for source in sources.split("; ") if (why := dangling(source))}
    assert not wrong


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("torch.nn.Linear", ""),
        ("torch.nn.Linaer", "no such name"),
        ("jax/_src/lax/lax.py, pow_p", ""),
        ("jax/_src/lax/lax.py, power_of_p", "no such file, or it says nothing of that"),
        ("jax/_src/lax/lux.py", "no such file, or it says nothing of that"),
        ("torch: tools/autograd/derivatives.yaml, amax", ""),
        ("torch: tools/autograd/derivatives.yaml, amaxi", "torch has no such operation"),
        ("docs/specs.md, shared randomness", ""),
        ("docs/spec.md", "no such page"),
        ("as everybody knows", "neither an address nor a name nor a file"),
    ],
)
def test_a_source_that_leads_nowhere_is_seen(source, why):
    assert dangling(source) == why


# ---------------------------------------------------------------- the judge


def test_right_and_known():
    assert found(SILU)["odd"].status == "agrees"
    both = found(LEAKY)
    assert both["odd"].status == "agrees"
    assert str(both["zero"]) == "leaky-here [jax, zero, cpu-float32] differs as written: grad.input: at 0 torch gives the slope, jax 1"


def test_a_wrong_equivalent_fails():
    one = found(replace(SILU, jax={"jax": "jax.nn.gelu"}))["odd"]
    assert one.status == "failed"
    assert one.says.splitlines()[0] == (
        "silu-here [jax, odd] [cpu-float32]: 2 of 2 leaves disagree: output differs in float64, the two sides compute different mathematics"
    )


def test_an_unknown_difference_fails_at_an_edge_too():
    assert found(replace(LEAKY, jax={"jax": "jax.nn.leaky_relu"}))["zero"].status == "failed"


def test_a_difference_that_has_disappeared_fails():
    fixed_up = Equivalent("lambda x: jnp.where(x > 0, x, 0.01 * x)", differs=(ZERO,))
    one = found(replace(LEAKY, jax={"jax": fixed_up}))["zero"]
    assert (one.status, one.says) == (
        "failed",
        "leaky-here [jax, zero] in cpu-float32: grad.input agrees, although the catalogue says 'at 0 torch gives the slope, jax 1'. "
        "The difference has disappeared: take it out of the entry.",
    )


def test_a_difference_of_another_leaf_fails():
    one = found(replace(LEAKY, jax={"jax": Equivalent("jax.nn.leaky_relu", differs=(replace(ZERO, leaf="output"),))}))["zero"]
    assert one.status == "failed" and "1 of 2 leaves disagree: grad.input differs in float64" in one.says
    one = found(replace(LEAKY, jax={"jax": Equivalent("jax.nn.leaky_relu", differs=(ZERO, replace(ZERO, leaf="grad.x")))}))["zero"]
    assert (one.status, one.says) == (
        "failed",
        "leaky-here [jax, zero]: there is no leaf grad.x, of which the catalogue says 'at 0 torch gives the slope, jax 1'. "
        "The leaves are output, grad.input.",
    )


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"torch": 1.0, "jax": 2.0}, ""),
        ({"torch": 1.0}, ""),
        ({"torch": 1.0, "jax": 3.0}, "jax gives 2 at [1] where the catalogue says 3"),
        ({"torch": float("nan")}, "torch gives 1 at [1] where the catalogue says nan"),
    ],
)
def test_the_numbers_of_a_difference_are_held(numbers, said):
    entry = replace(ROW, jax={"jax": Equivalent(ROW.jax["jax"], differs=(Difference("output", "one", "one more", "here", **numbers),))})
    one = found(entry)["one"]
    wanted = f"row [jax, one] in cpu-float32: output differs, but not as written: {said}. It says 'one more'."
    assert (one.status, one.says) == (("failed", wanted) if said else ("differs as written", "output: one more"))


def test_a_difference_may_be_of_one_dtype_alone():
    entry = replace(LEAKY, jax={"jax": Equivalent("jax.nn.leaky_relu", differs=(replace(ZERO, dtypes=("bfloat16",)),))})
    assert found(entry)["zero"].status == "failed"
    assert found(entry, cell=Cell("cpu", "bfloat16"))["zero"].status == "differs as written"


def test_an_edge_may_be_zero_on_both_sides_and_a_case_may_not():
    flat = [fixed([-1.0])]
    relu = Entry("relu-here", "F.relu", {"jax": "jax.nn.relu"}, {"odd": [normal(3, 5)], "flat": flat}, {"dead": flat})
    assert {case: one.status for case, one in found(relu).items()} == {"odd": "agrees", "flat": "failed", "dead": "agrees"}


def test_code_that_raises_fails_and_the_other_cases_run():
    entry = replace(SILU, jax={"jax": "lambda x: jax.nn.silu(x.reshape(3, 5))"}, cases={"odd": [normal(3, 5)], "even": [normal(4, 6)]})
    both = found(entry)
    assert (both["odd"].status, both["even"].status) == ("agrees", "failed")
    assert both["even"].says.startswith("it could not be run.\n") and "TypeError: cannot reshape" in both["even"].says


@pytest.mark.parametrize(
    ("entry", "cell", "said"),
    [
        (replace(SILU, dtypes=("float64",)), CELL, "it is for float64"),
        (SILU, Cell("mps", "float32"), "torch has no device 'mps' here"),
    ],
)
def test_what_cannot_be_run_is_skipped_with_its_reason(entry, cell, said):
    one = found(entry, cell=cell)["odd"]
    assert one.status == "skipped" and one.says.startswith(said)


@pytest.mark.parametrize(("dtypes", "seen"), [((), [1000.0, 1000.0]), (("float32",), [1000.0, 1001.0])])
def test_a_dtype_that_an_entry_is_not_for_does_not_coarsen_its_inputs(dtypes, seen):
    """1000 and 1001 are one number in bfloat16."""
    entry = replace(SILU, cases={"odd": [fixed([1000.0, 1001.0])]}, dtypes=dtypes)
    begun = judge.Course(dtypes=["float32", "bfloat16"]).begun(entry, "jax", "odd")
    assert begun.prep.inputs["input"].tolist() == seen


def test_a_dtype_that_a_side_does_not_have_is_skipped_with_its_reason():
    entry = Entry("inverse", "torch.linalg.inv", {"jax": "jnp.linalg.inv"}, {"odd": [normal(3, 3)]})
    one = found(entry, cell=Cell("cpu", "bfloat16"))["odd"]
    assert one.status == "skipped" and one.says.startswith("torch cannot run it in bfloat16: ")


def test_check_runs_entries_by_name():
    assert {one.status for one in dlp.catalog.check("silu", devices=["cpu"])} == {"agrees"}
    with pytest.raises(dlp.SpecError, match=r"^the catalogue has no entry 'siluu'\. Its entries are "):
        dlp.catalog.check("siluu")


# ---------------------------------------------------------------- pytest --dlparity-catalog

WRONG = replace(SILU, name="wrong", jax={"jax": "jax.nn.gelu"})


@pytest.fixture
def planted(monkeypatch, runner):
    """Runs pytest with these families in place of the catalogue's."""

    def run(families: dict[str, tuple[Entry, ...]], *arguments: str, files: bool = False) -> Any:
        def validated() -> dict[str, tuple[Entry, ...]]:
            specs.validate([entry for family in families.values() for entry in family])
            return families

        monkeypatch.setattr(specs, "families", validated)
        if files:
            runner.makepyfile(test_mine="def test_mine(): pass")
        return runner.runpytest_inprocess("-p", "no:cacheprovider", "--dlparity-devices=cpu", *arguments)

    return run


def test_the_catalogue_runs_without_a_file(planted):
    result = planted({"one": (SILU, LEAKY)}, "--dlparity-catalog", "-v", "--dlparity-json=found.json", files=True)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "catalog/one.py::silu-here[[]jax-cpu-float32[]] PASSED*",
            "catalog/one.py::leaky-here[[]jax-cpu-float32[]] PASSED*",
            "family  entries  agree  differ as written  failed  skipped",
            "one     2        1      1                  0       0",
        ]
    )
    assert result.ret == 0
    rows = json.loads(Path("found.json").read_text())["dlparity"]
    assert [(row["catalog"]["case"], row["verdict"], row["ok"]) for row in rows] == [
        ("odd", "agree", True), ("odd", "agree", True), ("zero", "differs as written", True),
    ]  # fmt: skip
    assert rows[0]["catalog"]["version"].startswith("jax ") and rows[0]["catalog"]["family"] == "one"


def test_a_wrong_equivalent_makes_the_run_red(planted):
    result = planted({"one": (SILU, WRONG)}, "--dlparity-catalog")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*wrong [[]jax, odd[]] [[]cpu-float32[]]: 2 of 2 leaves disagree: output differs in float64*"])
    result.stdout.fnmatch_lines(["one     2        1      0                  1       0"])
    result.stdout.fnmatch_lines(['*again: pytest --dlparity-catalog -k "wrong[[]jax-cpu-float32[]]" --dlparity-dtypes=float32'])
    assert result.ret == 1


def test_a_failure_leaves_a_reproducer(planted):
    result = planted({"one": (WRONG,)}, "--dlparity-catalog", "--dlparity-reproduce=shown")
    result.assert_outcomes(failed=1)
    (script,) = Path("shown").glob("*/*.py")
    result.stdout.fnmatch_lines([f"*{script.as_posix()}*"])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "they differ" in done.stdout


def test_a_reproducer_that_cannot_be_written_is_told(planted, monkeypatch):
    monkeypatch.setattr(reproducer, "_placed", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
    result = planted({"one": (WRONG,)}, "--dlparity-catalog", "--dlparity-reproduce=shown")
    folder = reproducer.folder("wrong[jax-odd-cpu-float32]")
    assert f"dlparity: a reproducer is missing, shown/{folder} could not be written (Permission denied): the run fails." in result.outlines


def test_paths_run_beside_it(planted):
    planted({"one": (SILU,)}, "--dlparity-catalog", "-q").assert_outcomes(passed=1)
    planted({"one": (SILU,)}, "test_mine.py", "--dlparity-catalog", "-q", files=True).assert_outcomes(passed=2)
    planted({"one": (SILU,)}, "-q", files=True).assert_outcomes(passed=1)


def test_k_and_m_choose(planted):
    result = planted({"one": (SILU,), "two": (LEAKY,)}, "--dlparity-catalog", "-k", "two", "--strict-markers")
    result.assert_outcomes(passed=1, deselected=1)
    result = planted({"one": (SILU,)}, "test_mine.py", "--dlparity-catalog", "-m", "dlparity_catalog", "--strict-markers", files=True)
    result.assert_outcomes(passed=1, deselected=1)


NOTHING = "dlparity: nothing of the catalogue ran (--dlparity-catalog): the run fails."


def test_a_run_of_nothing_is_red(planted):
    result = planted({"one": (SILU,)}, "--dlparity-catalog", "-k", "nowhere")
    assert NOTHING in result.outlines and result.ret == 1
    result = planted({"one": (replace(SILU, dtypes=("float64",)),)}, "--dlparity-catalog")
    result.assert_outcomes(skipped=1)
    assert NOTHING in result.outlines and "skipped: 1 case, it is for float64" in result.outlines and result.ret == 1


def test_collecting_alone_is_not_red(planted):
    result = planted({"one": (SILU,)}, "--dlparity-catalog", "--collect-only", "-q")
    assert "catalog/one.py::silu-here[jax-cpu-float32]" in result.outlines and NOTHING not in result.outlines and result.ret == 0


def test_an_entry_that_means_nothing_is_an_error_of_collection(planted):
    result = planted({"one": (replace(SILU, kind="norm"),)}, "--dlparity-catalog")
    result.assert_outcomes(errors=1)
    assert "catalogue entry 'silu-here' is of kind 'norm'. The kinds are layer, loss, optimizer, model." in result.outlines


@pytest.mark.parametrize(("text", "part"), [("4/3", "4/3"), ("0/3", "0/3"), ("tests", "tests"), ("1/3,tow", "tow"), ("one,", "")])
def test_a_choice_that_means_nothing_is_refused(planted, text, part):
    result = planted({"one": (SILU,), "two": (LEAKY,)}, f"--dlparity-catalog={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        f"ERROR: --dlparity-catalog={text}: {part!r} is no share such as 1/3, no family and no entry. Write --dlparity-catalog alone for all of the "
        "catalogue; a path stands before it. The families are one, two."
    )


def test_a_name_is_refused_with_the_entry_that_means_nothing(planted):
    result = planted({"one": (replace(SILU, kind="norm"),)}, "--dlparity-catalog=one")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == "ERROR: catalogue entry 'silu-here' is of kind 'norm'. The kinds are layer, loss, optimizer, model."


@pytest.mark.parametrize(
    ("text", "ran"), [("one", ["silu-here"]), ("leaky-here", ["leaky-here"]), ("two,silu-here", ["leaky-here", "silu-here"]), ("1/1", None)]
)
def test_families_and_entries_are_chosen_by_name(planted, text, ran):
    result = planted({"one": (SILU,), "two": (LEAKY,)}, f"--dlparity-catalog={text}", "-v")
    assert sorted(set(re.findall(r"(\S+)\[jax-cpu-float32\] PASSED", result.stdout.str().replace("::", " ")))) == sorted(
        ran or ["leaky-here", "silu-here"]
    )


def test_a_name_is_added_to_a_share(planted):
    family = tuple(replace(SILU, name=f"silu-{number}") for number in range(6))
    other = next(entry.name for entry in family if not items.Share(2, 3).has(entry.name))
    wanted = 1 + sum(items.Share(2, 3).has(entry.name) for entry in family)
    planted({"one": family}, f"--dlparity-catalog=2/3,{other}").assert_outcomes(passed=wanted)


def test_shares_are_the_whole():
    names = list(dlp.catalog.entries())
    shares = [[name for name in names if items.Share(number, 3).has(name)] for number in (1, 2, 3)]
    assert sorted(name for share in shares for name in share) == sorted(names) and min(map(len, shares)) > len(names) / 5


def test_a_share_runs_its_part(planted):
    family = tuple(replace(SILU, name=f"silu-{number}") for number in range(6))
    wanted = [entry.name for entry in family if items.Share(2, 3).has(entry.name)]
    planted({"one": family}, "--dlparity-catalog=2/3").assert_outcomes(passed=len(wanted))
    planted({"one": family}, "--dlparity-catalog=1/3,2/3,3/3").assert_outcomes(passed=6)


def test_workers_share_it(runner):
    arguments = ("--dlparity-catalog", "-k", "relu6 or silu or mish", "-n2", "--dlparity-devices=cpu", "--dlparity-dtypes=float32,bfloat16")
    result = runner.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["activations  3        4      2                  0       0"])


def test_a_row_tells_of_its_speed(planted):
    result = planted({"one": (SILU,)}, "--dlparity-catalog", "--dlparity-speed", "--dlparity-json=found.json", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["catalog/one.py::silu-here[[]jax-cpu-float32[]] PASSED*", "catalog/one.py::silu-here[[]jax-cpu-float32-speed[]] PASSED*"]
    )
    result.stdout.fnmatch_lines(["one     1        1      0                  0       0"])  # timing is no second verdict
    found = [row["catalog"].get("speed") for row in json.loads(Path("found.json").read_text())["dlparity"]]
    assert found[0] is None and set(found[1]) == {"forward", "forward+backward"}


def test_timing_items_of_the_catalogue_come_last_and_can_be_chosen(planted):
    two = {"one": (SILU, replace(SILU, name="silu-there"))}
    result = planted(two, "--dlparity-catalog", "--dlparity-speed", "--collect-only", "-q")
    assert [line for line in result.outlines if "::" in line] == [
        f"catalog/one.py::{name}[jax-cpu-float32{ending}]" for ending in ("", "-speed") for name in ("silu-here", "silu-there")
    ]
    planted(two, "--dlparity-catalog", "--dlparity-speed", "-m", "not dlparity_speed").assert_outcomes(passed=2, deselected=2)


def test_timing_items_of_the_catalogue_have_the_threads_that_were_asked_for(planted, monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "measure", lambda *given, **limits: seen.append((given[6], limits)))
    planted({"one": (SILU,)}, "--dlparity-catalog", "--dlparity-speed", "--dlparity-cpu-threads=3").assert_outcomes(passed=2)
    assert seen == [(3, {"max_time": items.BRIEF})]


def test_threads_that_mean_nothing_are_refused_before_anything_runs(planted):
    result = planted({"one": (SILU,)}, "--dlparity-catalog", "--dlparity-cpu-threads=many")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == "ERROR: --dlparity-cpu-threads=many: write a whole number above 0."


def test_what_is_wrong_is_not_timed(planted):
    result = planted({"one": (WRONG,)}, "--dlparity-catalog", "--dlparity-speed", "--dlparity-json=found.json")
    result.assert_outcomes(failed=2)
    assert not any("speed" in row["catalog"] for row in json.loads(Path("found.json").read_text())["dlparity"])


# ---------------------------------------------------------------- the atlas

FAMILIES = {"one": (SILU, LEAKY)}
ENTRIES = {entry.name: entry for entry in FAMILIES["one"]}


@pytest.fixture(scope="module")
def results() -> Any:
    rows = [items.row(one, "x", "one") for entry in FAMILIES["one"] for one in found(entry).values()]
    return atlas.gathered(rows, ENTRIES)


def written(folder: Path, results: Any) -> Path:
    for name, page in {**atlas.pages(FAMILIES, results), "results.json": atlas.text(results)}.items():
        (folder / name).write_text(page)
    return folder


def test_a_page_shows_what_ran_and_what_was_measured(results):
    page = atlas.pages(FAMILIES, results)["one.md"]
    assert (
        "## leaky-here\n\n`torch.nn.functional.leaky_relu`\n\n```python\nF.leaky_relu\n```\n\n### jax\n\n```python\njax.nn.leaky_relu\n```\n"
        in page
    )
    assert "- Differs in `grad.input` at zero: At 0 torch gives the slope, jax 1. Source: jax/_src/nn/functions.py.\n" in page
    assert "\nMeasured: cpu-float32 differs as written, 24.0 of 24 bits.\n" in page
    assert "| `torch.nn.functional.leaky_relu` | [leaky-here](one.md#leaky-here) | differs |" in atlas.pages(FAMILIES, results)["index.md"]


def test_pages_that_show_the_catalogue_are_not_stale(results, tmp_path):
    assert atlas.stale(written(tmp_path, results), FAMILIES) == []


def test_pages_that_do_not_show_the_catalogue_are_stale(results, tmp_path):
    other = {"one": (replace(SILU, jax={"jax": "lambda x: x * jax.nn.sigmoid(x)"}), LEAKY)}
    again = f"Write it: {atlas.AGAIN}"
    assert atlas.stale(written(tmp_path, results), other) == [
        f"index.md does not show the catalogue as it is. {again}",
        f"one.md does not show the catalogue as it is. {again}",
        f"silu-here [jax] is not measured. Run it: {atlas.RUN}",
    ]
    (tmp_path / "one.md").unlink()
    (tmp_path / "old.md").write_text("# Old")
    assert atlas.stale(tmp_path, FAMILIES) == [
        f"one.md is missing. {again}",
        f"old.md belongs to no family. Write the pages: {atlas.AGAIN}",
    ]


def test_results_of_another_device_stand_beside(results):
    more = json.loads(json.dumps(results).replace("cpu-float32", "cuda-float32").replace('"cpu"', '"cuda"'))
    both = atlas.merged(results, more)
    assert set(both["entries"]["silu-here"]["jax"]["cells"]) == {"cpu-float32", "cuda-float32"} and set(both["environments"]) == {
        "cpu",
        "cuda",
    }


PAGES = Path(__file__).parent.parent / "docs" / "atlas"


def test_the_atlas_shows_the_catalogue():
    wrong = [one for one in atlas.stale(PAGES, dlp.catalog.families()) if "is not measured" not in one]
    assert not wrong, "\n".join(wrong)


def test_all_of_the_catalogue_is_measured():
    lacking = atlas.lacking(atlas.known(PAGES), dlp.catalog.entries())
    assert not lacking, f"{len(lacking)} equivalents are not measured, or were changed since: {', '.join(lacking[:20])}. Write: make atlas"


# ---------------------------------------------------------------- mutants


@pytest.mark.parametrize(
    ("text", "name", "other"),
    [
        ("nnx.LayerNorm(8, epsilon=1e-05)", "epsilon times ten", "nnx.LayerNorm(8, epsilon=0.0001)"),
        ("nnx.LayerNorm(8, epsilon=1e-05)", "default epsilon", "nnx.LayerNorm(8)"),
        ("lambda x: jax.nn.gelu(x, approximate=False)", "GELU by the other formula", "lambda x: jax.nn.gelu(x, approximate=True)"),
        ("jax.nn.gelu", "GELU by the other formula", "lambda x: jax.nn.gelu(x, approximate=False)"),
        ("lambda p, x: x + p['bias']", "bias dropped", "lambda p, x: x + 0 * p['bias']"),
        ("linen.Dense(3, use_bias=True)", "bias dropped", "linen.Dense(3, use_bias=False)"),
        ("lambda p, x: x @ p['weight'].T", "weight transposed", "lambda p, x: x @ p['weight']"),
        ("lambda x: jnp.var(x, axis=1)", "variance over N - 1", "lambda x: jnp.var(x, axis=1, ddof=1)"),
        ("lambda x: jnp.var(x, ddof=1)", "variance over N", "lambda x: jnp.var(x, ddof=0)"),
        ("linen.Conv(3, (3, 3), padding=1)", "padding moved by one", "linen.Conv(3, (3, 3), padding=((0, 2),) * 2)"),
        ("linen.Conv(3, (3, 3), padding=[(1, 1), (0, 2)])", "padding moved by one", "linen.Conv(3, (3, 3), padding=[(0, 2), (0, 2)])"),
        ("lambda x: jnp.abs(x).mean()", "reduction changed", "lambda x: jnp.abs(x).sum()"),
        ("lambda x: jnp.mean(x)", "reduction changed", "lambda x: jnp.sum(x)"),
        ("nnx.BatchNorm(3, momentum=0.9)", "momentum of the other form", "nnx.BatchNorm(3, momentum=0.1)"),
        ("optax.sgd(0.1, momentum=0.9, nesterov=True)", "other momentum", "optax.sgd(0.1, momentum=0.9, nesterov=False)"),
        ("lambda x: jnp.cumsum(x, axis=-1)", "wrong axis", "lambda x: jnp.cumsum(x, axis=0)"),
    ],
)
def test_a_mutant_is_what_a_person_would_write(text, name, other):
    assert mutations.Mutant(name, other) in list(mutations.mutants(text, 2))


NORM = Entry(
    "norm",
    "lambda x: F.layer_norm(x, (5,))",
    {"jax": "lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)"},
    {"odd": [normal(3, 5)]},
)


def test_every_mutant_of_a_norm_is_caught():
    outcomes = {trial.mutant.name: trial.outcome for trial in mutations.trials(NORM, "jax")}
    assert outcomes == {
        "sign": "caught",
        "reduction changed": "caught",
        "variance over N - 1": "caught",
        "epsilon times ten": "caught",
        "default keepdims": "refused",
        "keepdims the other way": "refused",
    }


def test_a_mutant_that_changes_nothing_is_no_miss():
    """A change far below what a check can tell."""
    entry = replace(SILU, jax={"jax": "lambda x: jax.nn.silu(x) + 1e-12"})
    (trial,) = mutations.trials(entry, "jax")
    assert (trial.mutant.name, trial.outcome) == ("epsilon times ten", "the same") and 0 < trial.change < mutations.SEEN


def test_a_mutant_that_the_judge_lets_pass_is_a_miss(monkeypatch):
    """Planted: a judge that calls everything right. What the mutant changes is measured apart from it."""
    monkeypatch.setattr(judge, "verdict", lambda *_: (judge.AGREES, "", None))
    missed = {trial.mutant.name: trial.change for trial in mutations.trials(NORM, "jax") if trial.outcome == "missed"}
    assert set(missed) == {"sign", "reduction changed", "variance over N - 1", "epsilon times ten"}
    assert missed["epsilon times ten"] > mutations.SEEN


def test_a_function_among_the_options_is_the_same_in_each_process():
    made = [replace(SILU, options={"grads": {"w": lambda rng: rng.normal(size=3)}}) for _ in range(2)]
    prints = {atlas.fingerprint(entry, entry.equivalents()["jax"]) for entry in made}
    assert len(prints) == 1 and atlas.fingerprint(SILU, SILU.equivalents()["jax"]) not in prints
