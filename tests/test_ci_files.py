"""The files for CI that people copy, and the pages about it: valid, and of options that exist."""

from __future__ import annotations

import re
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
