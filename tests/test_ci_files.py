"""The files for CI that people copy, and the pages about it: valid, and of options that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "examples" / "ci").glob("*.yml"))
PAGES = [ROOT / "README.md", ROOT / "docs" / "ci.md", ROOT / "docs" / "speed.md"]


def options(text: str) -> set[str]:
    return set(re.findall(r"--dlparity-[a-z-]*[a-z]", text))


def test_there_is_a_file_for_each_kind_of_runner() -> None:
    assert [file.stem for file in FILES] == ["cpu", "gpu", "tpu"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_a_workflow(file: Path) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(file.read_text())
    assert set(workflow) <= {"name", True, "jobs", "concurrency"} and workflow[True]  # YAML 1.1 reads `on` as True
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["steps"]
        for step in job["steps"]:
            assert len({"uses", "run"} & set(step)) == 1 and set(step) <= {"uses", "run", "with", "if", "name"}
    assert any("--dlparity-min-items" in step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])


@pytest.mark.parametrize("place", [*FILES, *PAGES], ids=lambda file: file.name)
def test_every_option_that_is_written_exists(place: Path, request: pytest.FixtureRequest) -> None:
    known = {f"--{name.replace('_', '-')}" for name in vars(request.config.option) if name.startswith("dlparity_")}
    assert options(place.read_text()) and options(place.read_text()) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_yaml_are_yaml(page: Path) -> None:
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence" and token.info == "yaml":
            assert yaml.safe_load(token.content)


def test_an_option_that_does_not_exist_is_seen() -> None:
    assert options("pytest --dlparity-max-ratios=1.5, --dlparity-json.") == {"--dlparity-max-ratios", "--dlparity-json"}


# ---------------------------------------------------------------- which families of the catalogue were changed


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., str]:
    """Runs git in a repository with the script and two families, of which the last commit changed one."""
    catalog = tmp_path / "pytest_dlparity" / "catalog"
    catalog.mkdir(parents=True)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "changed", tmp_path / ".ci" / "changed")

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    run("git", "init", "--quiet", "--initial-branch=main")
    run("git", "config", "user.email", "ci@localhost")
    run("git", "config", "user.name", "ci")
    for message, names in (("first", ("pooling", "resizing", "judge")), ("second", ("resizing", "judge"))):
        for name in names:
            (catalog / f"{name}.py").write_text(f"# {message}\n" + ("" if name == "judge" else "ENTRIES = ()\n"))
        run("git", "add", ".")
        run("git", "commit", "--quiet", "--message", message)
    return run


def test_ci_runs_the_families_that_were_changed(repository: Callable[..., str]) -> None:
    assert repository(".ci/changed") == ",resizing"
    assert repository(".ci/changed", "HEAD") == ""
    assert repository(".ci/changed", "nowhere") == ""
    repository("git", "update-ref", "refs/remotes/origin/main", "HEAD")
    assert repository(".ci/changed") == ",resizing"  # on main itself: the commit before
    repository("git", "commit", "--quiet", "--allow-empty", "--message", "third")
    assert repository(".ci/changed") == ""  # nothing since origin/main


def test_ci_asks_for_them() -> None:
    assert 'make catalog SHARE="1/3$(.ci/changed)"' in (ROOT / ".ci" / "run").read_text()
