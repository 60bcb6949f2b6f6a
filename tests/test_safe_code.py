"""What the code must not do, whoever calls it; and what is installed is what was tested."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "efficientrec").rglob("*.py"), *(ROOT / "streams").rglob("*.py")])

NEVER_IMPORTED = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "telnetlib",
    "ftplib",
}
NEVER_CALLED = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "np.load", "numpy.load",
    "pd.read_pickle", "random.seed", "tempfile.mktemp", "ssl._create_unverified_context",
}  # fmt: skip
INSTALLERS = {"pip", "setuptools", "wheel"}  # come with the environment
CLIENTS = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "AIOKafkaClient", "AIOKafkaConnection"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_runs_what_it_reads(file: Path) -> None:
    tree = parsed(file)
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    called = dict(calls(tree))

    assert not imported & NEVER_IMPORTED
    assert not called.keys() & NEVER_CALLED
    for name, node in calls(tree):
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("shell", "False") == "False", f"{name} in line {node.lineno}"
        assert given.get("allow_pickle", "False") == "False", f"{name} in line {node.lineno}"
        assert given.get("verify", "True") == "True", f"{name} in line {node.lineno}"
        assert "CERT_NONE" not in ast.unparse(node), f"{name} in line {node.lineno}"


def test_every_client_of_kafka_gets_its_access_from_one_place() -> None:
    found = 0
    for file in SOURCES:
        for name, node in calls(parsed(file)):
            if name in CLIENTS:
                found += 1
                options = [ast.unparse(word.value) for word in node.keywords if word.arg is None]
                assert any(re.search(r"\.(options|_access)\(\)$", text) for text in options), f"{file}:{node.lineno}"
                assert "bootstrap_servers" not in {word.arg for word in node.keywords}, f"{file}:{node.lineno}"
    assert found >= 9


def test_what_is_installed_is_what_was_tested() -> None:
    """Every package that the project takes in, through others as well, stands in constraints.txt with the version that
    is installed here."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if line and not line.startswith("#"))
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    waiting = [Requirement(text) for text in (*project["dependencies"], *(each for extra in extras for each in extra))]
    seen: set[tuple[str, frozenset[str]]] = set()
    problems = []
    while waiting:
        wanted = waiting.pop()
        name, key = canonicalize_name(wanted.name), (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if name in INSTALLERS or key in seen or not _applies(wanted, {""}):
            continue
        seen.add(key)
        try:
            installed = metadata.version(name).partition("+")[0]  # what follows names who built it
        except metadata.PackageNotFoundError:  # an extra that is not installed here
            continue
        if name not in pinned:
            problems.append(f"{name} {installed} is not pinned")
        elif pinned[name] != installed:
            problems.append(f"{name} is pinned to {pinned[name]}, and {installed} is installed")
        below = [Requirement(text) for text in metadata.requires(name) or []]
        waiting += [each for each in below if _applies(each, {"", *wanted.extras})]
    assert not problems, "\n".join(sorted(problems))


def _applies(wanted: Requirement, extras: set[str]) -> bool:
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
