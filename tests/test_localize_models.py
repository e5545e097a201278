"""Planted bugs: that each is planted as it is said, that a wrong place is judged to be wrong, and a dozen of them localised.

All of them, over three seeds, are benchmarks/localize.py.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import pytest_dlparity as dlp
from pytest_dlparity.locate import Place

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def of_benchmarks(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


models = of_benchmarks("localize_models")
bench = of_benchmarks("localize")


def bug(pair: str, name: str):
    (found,) = [bug for bug in models.bugs(pair) if bug.name == name]
    return found


def source(pair: str) -> str:
    return Path(models.original(pair).__file__).read_text()


# ---------------------------------------------------------------- the bugs


@pytest.mark.parametrize("pair", models.NAMES)
def test_a_bug_changes_one_line_and_the_truth_is_known_on_both_sides(pair):
    before = source(pair)
    for bug in models.bugs(pair):
        text, lines = models.written(pair, bug, 0)
        changed = [number for number, (a, b) in enumerate(zip(before.splitlines(), text.splitlines(), strict=True), 1) if a != b]
        assert len(changed) == 1, bug.name
        assert lines["torch"] and lines["jax"], bug.name
        assert not unknown(text, models.original(pair)), bug.name


def unknown(text: str, module: ModuleType) -> set[str]:
    """Names that a source reads and nothing binds."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return {node.id for node in names} - bound - set(vars(module)) - set(dir(builtins))


def test_a_name_that_nothing_binds_is_seen():
    assert unknown("def f(x):\n    return x + y + len(F)\n", ModuleType("empty")) == {"y", "F"}


def test_there_are_enough_bugs_and_each_can_be_told_from_the_others():
    all_ = [(pair, bug) for pair in models.NAMES for bug in models.bugs(pair)]
    assert len(models.NAMES) >= 8
    assert sum(bug.effect for _, bug in all_) >= 150
    assert len({(pair, bug.where, bug.old, bug.new) for pair, bug in all_}) == len(all_)


def test_a_bug_is_in_the_block_that_the_seed_draws():
    texts = [models.written("mlp", bug("mlp", "GELU variant (jax gelu)"), seed)[0] for seed in range(20)]
    rows = [next(row.strip() for row in text.splitlines() if "# @gelu" in row and "jax.nn" in row) for text in texts]
    assert set(rows) == {f"h = jax.nn.gelu(h, approximate=(True if index == {k} else False))  # @gelu" for k in range(3)}


def test_an_argument_is_changed_in_its_place():
    text, _ = models.written("resnet", bug("resnet", "batch norm eps (jax make_norm1)"), 0)
    assert "epsilon=(1e-3 if index == " in text


def test_a_bug_whose_text_is_not_on_the_line_is_refused():
    wrong = bug("mlp", "GELU variant (jax gelu)")._replace(old="Maybe")
    with pytest.raises(ValueError) as error:
        models.written("mlp", wrong, 0)
    assert str(error.value) == "GELU variant (jax gelu): 'Maybe' stands 0 times in 'h = jax.nn.gelu(h, approximate=False)', not once"


def test_every_line_of_a_statement_is_right():
    text = "# ---------------- torch\nx = f(\n    1,  # @one\n    2,\n)\ny = 3\n"
    assert models.lines(text, {("torch", "one"): {3}}, "torch", ["one"]) == {2, 3, 4, 5}


# ---------------------------------------------------------------- the judge


@pytest.fixture
def planted(tmp_path):
    file = tmp_path / "gpt.py"
    return models.Planted("gpt", bug("gpt", "GELU variant (jax up)"), 0, None, file, ("blocks.1.mlp",), frozenset({51}), frozenset({120}))


def place(file: Path, line: int, module: str = "") -> Place:
    return Place("mul", "gelu", str(file), line, "forward", "", module, (2, 7), "float64")


def found(planted, torch_line: int, jax_line: int, module: str = "blocks.1.mlp", **more) -> dlp.Localization:
    return dlp.Localization("parts", torch=place(planted.file, torch_line, module), jax=place(planted.file, jax_line), **more)


@pytest.mark.parametrize(
    ("torch_line", "jax_line", "module", "right"),
    [
        (51, 120, "blocks.1.mlp", (True, True, True)),
        (51, 120, "blocks.0", (True, True, True)),  # the line says more than the path
        (52, 120, "blocks.1.mlp.down", (True, False, True)),
        (52, 121, "blocks.1.mlp", (True, False, False)),
        (52, 120, "blocks.1", (False, False, True)),
        (52, 120, "blocks.1.mlp2", (False, False, True)),
        (52, 120, "", (False, False, True)),
    ],
)
def test_layer_and_lines_are_judged(planted, torch_line, jax_line, module, right):
    one = bench.judged(planted, found(planted, torch_line, jax_line, module, certain=True), 0.1)
    assert (one.layer, one.torch_line, one.jax_line) == right
    assert one.falsely_certain == (not right[0])
    assert one.wrong == (right != (True, True, True))


def test_a_line_of_another_file_is_wrong(planted):
    other = replace(found(planted, 51, 120), torch=place(Path("other.py"), 51, "blocks.2"))
    assert not bench.judged(planted, other, 0.1).layer


def test_no_place_is_wrong(planted):
    one = bench.judged(planted, dlp.Localization("unknown", reason="it is not deterministic"), 0.1)
    assert (one.found, one.layer, one.torch_line, one.jax_line, one.falsely_certain, one.wrong) == (False, False, False, False, False, True)


def test_a_right_pair_that_is_said_to_part_is_wrong(planted):
    right = planted._replace(bug=None, layers=(), torch_lines=frozenset(), jax_lines=frozenset())
    assert bench.judged(right, found(planted, 51, 120, certain=True), 0.1).falsely_certain
    assert bench.judged(right, found(planted, 51, 120), 0.1).wrong
    assert not bench.judged(right, dlp.Localization("agree"), 0.1).wrong


def test_the_tables(planted):
    ones = [bench.judged(planted, found(planted, 51, line, certain=True), 0.25) for line in (120, 121)]
    ones.append(bench.judged(planted._replace(bug=None), dlp.Localization("agree"), 0.1))
    assert bench.report(ones) == "\n".join([
        "| kind | planted | found | layer right | torch line | jax line | both lines | wrong, yet certain | median s |",
        "|---|---|---|---|---|---|---|---|---|",
        "| GELU variant | 2 | 2 | 2 | 2 | 1 | 1 | 0 | 0.25 |",
        "| all | 2 | 2 (100.0%) | 2 (100.0%) | 2 (100.0%) | 1 (50.0%) | 1 (50.0%) | 0 | 0.25 |",
        "",
        "| model | planted | found | layer right | torch line | jax line | both lines | wrong, yet certain | median s |",
        "|---|---|---|---|---|---|---|---|---|",
        "| gpt | 2 | 2 | 2 | 2 | 1 | 1 | 0 | 0.25 |",
        "| all | 2 | 2 (100.0%) | 2 (100.0%) | 2 (100.0%) | 1 (50.0%) | 1 (50.0%) | 0 | 0.25 |",
        "",
        "1 of 1 right pairs and bugs without effect were said to agree.",
    ])  # fmt: skip
    assert bench.as_json(ones)["kinds"]["GELU variant"]["both"] == 1
    assert [wrong["jax_line"] for wrong in bench.as_json(ones)["wrong"]] == [False]


# ---------------------------------------------------------------- a dozen, localised


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        ("mlp", "layer norm eps (jax root)"),
        ("mlp", "dropout left on (jax gelu)"),
        ("mlp", "stop_gradient (jax mix)"),
        ("cnn", "flatten order (jax flatten)"),
        ("lstm", "square weight transposed (jax gates)"),
        ("gpt", "GELU variant (jax up)"),
        ("gpt", "causal mask off by one (jax causal)"),
        ("bert", "mask inverted (jax masked)"),
        ("vit", "class token order (jax head)"),
        ("resnet_train", "residual of the activation (torch join)"),
        ("llama", "gate and value swapped (jax gate)"),
        ("stax_net", "layer norm eps (jax norm)"),
    ],
)
def test_a_planted_bug_is_found(pair, name, tmp_path):
    one = bench.tried(pair, bug(pair, name), 0, tmp_path)
    assert not one.wrong, one.said
    assert not one.falsely_certain


@pytest.mark.parametrize(("pair", "name"), [("mlp", ""), ("mlp", "no effect (jax final)"), ("gpt", "no effect (jax masked)")])
def test_what_agrees_is_said_to_agree(pair, name, tmp_path):
    one = bench.tried(pair, bug(pair, name) if name else None, 0, tmp_path)
    assert one.status == "agree", one.said


def test_a_bug_that_is_none_fails_the_check_of_the_bugs(tmp_path):
    none = bug("mlp", "no effect (jax final)")
    assert not bench.checked("mlp", none, 0, tmp_path).wrong
    assert bench.checked("mlp", none._replace(effect=True), 0, tmp_path).wrong
    assert not bench.checked("mlp", bug("mlp", "stop_gradient (jax mix)"), 0, tmp_path).wrong
    assert bench.checked("mlp", bug("mlp", "reduction (jax loss)")._replace(backward=True), 0, tmp_path).wrong
