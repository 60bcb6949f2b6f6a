"""docs/operations.md and docs/procedures.md: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from streams.cli import app
from tests.measured import asked, derived
from tests.test_deploy import ROOT

PAGES = [ROOT / "docs" / "operations.md", ROOT / "docs" / "procedures.md"]
COMMANDS = typer.main.get_command(app)


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text()


def anchors(text: str) -> set[str]:
    """Of every heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_exists_with_its_options(page: str) -> None:
    lines = re.findall(r"^\s*efficientrec (.+)$|`efficientrec (.+?)`", page, re.MULTILINE)
    assert lines
    for line in (first or second for first, second in lines):
        command, words = COMMANDS, re.split(r"\s+[>&#].*", line)[0].split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]  # it is a group
        options = {option for each in command.params for option in each.opts}
        assert not hasattr(command, "commands"), f"efficientrec {line}"
        assert {word for word in words if word.startswith("-")} <= options, f"efficientrec {line}"


def test_every_link_leads_somewhere(page: str) -> None:
    for name, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", page):
        path = ROOT / "docs" / name
        assert not name or path.exists(), name
        assert not anchor or anchor in anchors(path.read_text() if name else page), f"{name}#{anchor}"


def test_every_file_exists(page: str) -> None:
    named = re.findall(r"`((?:deploy|tests|streams)/[\w./-]+?)`", page)

    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_queries_of_the_experiment_are_tried_out() -> None:
    """By promtool, on series whose answer is known (tests/integration/test_prometheus.py)."""
    blocks = re.findall(r"```promql\n(.*?)```", PAGES[1].read_text(), re.DOTALL)
    queries = [line for block in blocks for line in block.splitlines()]
    tried = (ROOT / "deploy/prometheus/tests/quality.yml").read_text()

    assert len(queries) == 4
    assert [query for query in queries if query not in tried] == []
    assert {name for query in queries for name in asked(query)} <= derived().keys()


def test_every_procedure_names_a_test_that_exists() -> None:
    page = PAGES[1].read_text()
    cited = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    sections = [each for each in re.split(r"\n(?=##+ )", page)[1:] if "### " not in each[3:]]

    assert not [f"{file}::{name}" for file, name in cited if f"def {name}(" not in (ROOT / file).read_text()]
    bare = [each.splitlines()[0] for each in sections if "::test_" not in each]
    assert bare == ["## What is the truth, and what follows from it", "## Restore"]
