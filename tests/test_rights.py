"""The rights that are documented are those that are asked for, and they are what the programs use."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from streams import rights
from streams.cli import app
from streams.settings import Settings, variables

SECURITY = (Path(__file__).parent.parent / "docs" / "security.md").read_text(encoding="utf-8")
WITHOUT_KAFKA = {"broker", "demo", "evaluate", "report", "train", "tune", "keys new"}


def test_the_document_has_the_table_of_rights() -> None:
    found = SECURITY.partition("<!-- rights -->\n")[2].partition("<!-- /rights -->")[0]

    assert found.strip() == rights.rights_table().strip(), "put there what `python -m streams.rights` prints"


def test_every_command_that_speaks_to_kafka_has_its_rights() -> None:
    root = typer.main.get_command(app)
    commands = {
        f"{name} {below}".strip()
        for name, command in root.commands.items()  # type: ignore[attr-defined]  # a group has commands
        for below in getattr(command, "commands", {"": None})
    }

    assert commands == set(rights.PROCESSES) | WITHOUT_KAFKA


def test_a_worker_that_forwards_writes_where_it_reads() -> None:
    forwarding = {*rights.rights_of("worker", Settings(wrong_partition="forward"))}

    more = forwarding - {*rights.rights_of("worker", Settings())}
    assert {(right.operation, right.name) for right in more} == {
        ("Write", "reco.interactions.events.v1"),
        ("Write", "reco.users.changes.v1"),
    }


def test_without_fences_no_producer_ids_are_asked_for() -> None:
    kinds = {right.kind for right in rights.rights_of("worker", Settings(fencing="off"))}

    assert kinds == {"Topic", "Group"}


def test_the_document_names_no_variable_that_is_not_there() -> None:
    named = set(re.findall(r"EFFICIENTREC_[A-Z_]+[A-Z]", SECURITY))

    assert named - set(variables()) == set()
