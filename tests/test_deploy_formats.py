"""Compose file and Dockerfile are well-formed, by a schema and a linter that others wrote; docs name real settings."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from streams.settings import PREFIX
from tests.test_deploy import DEPLOY, ROOT, is_setting, loaded

TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_compose_file_is_one_by_the_schema_of_the_compose_specification() -> None:
    schema = resources.files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text()

    jsonschema.Draft7Validator(json.loads(schema)).validate(loaded(ROOT / "docker-compose.yml"))


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"

    done = subprocess.run([hadolint, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_setting_that_is_named_in_the_docs_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b(?!\*)", path.read_text())) - {PREFIX + "CONFIG"}

    assert not [name for name in named if not is_setting(name)]
