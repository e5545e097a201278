"""Every ```python block of README.md and docs/ does what the page says, at the page's own line numbers.

A block with a test function runs under pytest, any other is executed. `<!-- fails: WORD -->` before a block says that it must fail and that
its error has WORD.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
ATLAS = ROOT / "docs" / "atlas"  # its blocks are sides of specs: the catalogue runs them, and tests/test_catalog.py holds the pages to it
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if ATLAS not in page.parents)]
READ = ("console", "text", "toml", "yaml", "json", "ini")  # fences that are read, not run
FAILS = re.compile(r"<!-- fails: (\S.*?) -->")


class Block(NamedTuple):
    page: str
    line: int  # of the first line of code
    code: str
    fails: str = ""  # what its error must say; "": it must pass

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def text(self) -> str:
        """The code under as many empty lines as put it at the page's own line numbers."""
        return "\n" * (self.line - 1) + self.code

    @property
    def has_tests(self) -> bool:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return any(isinstance(node, functions) and node.name.startswith("test_") for node in ast.walk(ast.parse(self.text, self.page)))


def blocks(page: str, text: str) -> list[Block]:
    """The ```python blocks of a page. ValueError, in a sentence, for what would be left out quietly."""
    found, fails = [], ""
    for token in MarkdownIt().parse(text):
        start = f"{page}:{token.map[0] + 1}" if token.map else page
        if fails and (token.type, token.info) != ("fence", "python"):
            raise ValueError(f"{start}: '<!-- fails: {fails} -->' stands before something that is not a ```python block.")
        match token.type, token.info:
            case "fence", "python":
                if not token.content.strip():
                    raise ValueError(f"{start}: an empty ```python block shows nothing.")
                found.append(Block(page, token.map[0] + 2, token.content, fails))
                fails = ""
            case "fence", info if info not in READ:
                raise ValueError(f"{start}: a block marked {info!r} would not be run. Write python, or one of {', '.join(READ)}.")
            case "code_block", _:
                raise ValueError(f"{start}: an indented block would not be run. Write it between ``` fences.")
            case "html_block", _ if token.content.startswith("<!-- fail"):
                if not (marked := FAILS.fullmatch(token.content.strip())):
                    raise ValueError(f"{start}: {token.content.strip()!r} does not say what fails. Write '<!-- fails: WORD -->'.")
                fails = marked[1]
    if fails:
        raise ValueError(f"{page}: '<!-- fails: {fails} -->' stands before nothing.")
    return found


def shortfall(block: Block, runner: pytest.Pytester) -> str:
    """What a block does against its promise, with what it printed; "" where it keeps it."""
    failed, errors, output = (_tested if block.has_tests else _executed)(block, runner)
    if not block.fails:
        return f"{block} should pass.\n{output}" if failed else ""
    if not failed:
        return f"{block} is marked 'fails: {block.fails}' and does not fail.\n{output}"
    return "" if block.fails in errors else f"{block} fails, but no error says {block.fails!r}.\n{output}"


def _tested(block: Block, runner: pytest.Pytester) -> tuple[bool, str, str]:
    """(whether anything but a pass came of it, the lines of its errors, all it printed) under pytest with the plugin."""
    name = re.sub(r"\W", "_", block.page.removesuffix(".md"))
    (runner.path / f"test_{name}.py").write_text(block.text)
    result = runner.runpytest_inprocess("-q", "-W", "error", "-p", "no:cacheprovider")
    errors = [line.removeprefix("E").strip() for line in result.outlines if line.startswith("E ")]
    return set(result.parseoutcomes()) != {"passed"}, "\n".join(errors), "\n".join(result.outlines + result.errlines)


def _executed(block: Block, runner: pytest.Pytester) -> tuple[bool, str, str]:
    """The same for a block without tests. An error that is not promised is raised as itself: its traceback shows the page's line."""
    try:
        exec(compile(block.text, str(ROOT / block.page), "exec"), {"__name__": "__main__"})
    except Exception as error:
        if not block.fails:
            raise
        return True, f"{type(error).__name__}: {error}", f"{type(error).__name__}: {error}"
    return False, "", ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_code(page):
    assert page.name != "README.md" or blocks(page.name, page.read_text())


BLOCKS = [block for page in PAGES if page.exists() for block in blocks(str(page.relative_to(ROOT)), page.read_text())]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block(block, runner):
    if said := shortfall(block, runner):
        pytest.fail(said, pytrace=False)


def only(text: str) -> Block:
    (block,) = blocks("page.md", text)
    return block


def test_lines_are_those_of_the_page(runner):
    block = only("# A page\n\nwords\n\n```python\ndef test_it():\n    assert 1 == 2\n```\n")
    assert str(block) == "page.md:6"
    assert "test_page.py:7: AssertionError" in shortfall(block, runner)


def test_lines_of_a_block_without_tests_are_those_of_the_page(runner):
    with pytest.raises(ZeroDivisionError) as error:
        shortfall(only("words\n\n- in a list:\n\n  ```python\n  x = 1\n  1 / 0\n  ```\n"), runner)
    assert (str(error.traceback[-1].path), error.traceback[-1].lineno + 1) == (str(ROOT / "page.md"), 7)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def test_it():\n    assert 1 == 2", "page.md:3 should pass."),
        ("def test_it(nowhere):\n    pass", "page.md:3 should pass."),
        ("import pytest\ndef test_it():\n    pytest.skip()", "page.md:3 should pass."),
        ("import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert 0", "page.md:3 should pass."),
        ("import nowhere\ndef test_it():\n    pass", "page.md:3 should pass."),
        ("import warnings\ndef test_it():\n    warnings.warn('old')", "page.md:3 should pass."),
        ("def outer():\n    def test_inner():\n        pass", "page.md:3 should pass."),  # collects nothing
    ],
)
def test_a_block_that_fails_is_caught(runner, code, said):
    assert shortfall(only(f"words\n```python\n{code}\n```\n"), runner).splitlines()[0] == said


@pytest.mark.parametrize("code", ["def test_it():\n    raise ValueError('it is blue')", "raise ValueError('it is blue')"])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("it is blue", ""),
        ("ValueError", ""),
        ("red", "page.md:3 fails, but no error says 'red'."),
    ],
)
def test_a_block_that_must_fail_says_its_word(runner, code, word, said):
    assert shortfall(only(f"<!-- fails: {word} -->\n```python\n{code}\n```\n"), runner).partition("\n")[0] == said


def test_the_word_is_looked_for_in_the_error_alone(runner):
    block = only("<!-- fails: red -->\n```python\ndef test_it():\n    red = 1\n    assert red != 1, 'it is blue'\n```\n")
    assert shortfall(block, runner).startswith("page.md:3 fails, but no error says 'red'.")


@pytest.mark.parametrize("code", ["def test_it():\n    pass", "x = 1"])
def test_a_block_that_must_fail_and_passes_is_caught(runner, code):
    block = only(f"<!-- fails: red -->\n```python\n{code}\n```\n")
    assert shortfall(block, runner).startswith("page.md:3 is marked 'fails: red' and does not fail.")


NOT_RUN = "would not be run. Write python, or one of console, text, toml, yaml, json, ini."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words\n```py\nx\n```\n", f"page.md:2: a block marked 'py' {NOT_RUN}"),
        ("```\nx\n```\n", f"page.md:1: a block marked '' {NOT_RUN}"),
        ("```python notest\nx\n```\n", f"page.md:1: a block marked 'python notest' {NOT_RUN}"),
        ("words\n\n    x = 1\n", "page.md:3: an indented block would not be run. Write it between ``` fences."),
        ("```python\n\n```\n", "page.md:1: an empty ```python block shows nothing."),
        ("<!-- fails -->\n```python\nx\n```\n", "page.md:1: '<!-- fails -->' does not say what fails. Write '<!-- fails: WORD -->'."),
        ("<!-- fails: red -->\n\nwords\n", "page.md:3: '<!-- fails: red -->' stands before something that is not a ```python block."),
        ("<!-- fails: red -->\n", "page.md: '<!-- fails: red -->' stands before nothing."),
    ],
)
def test_what_would_be_left_out_is_an_error(text, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        blocks("page.md", text)


def test_blocks_to_read_are_left_alone():
    assert blocks("page.md", "```console\n$ make demo\n```\n\n~~~text\nhello\n~~~\n") == []
