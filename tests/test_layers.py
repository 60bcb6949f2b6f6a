"""Which way imports point, and what the deciding half must not touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "efficientrec"
SOURCES = sorted(LIBRARY.rglob("*.py"))
SERVING = [file for file in SOURCES if file.relative_to(LIBRARY).parts[0] != "training"]

NO_ENVIRONMENT = {"os.environ", "os.environb", "os.getenv"}
NO_CLOCK = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "time.localtime",
    "time.gmtime",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
}
TRAINING_MAY = {"time.perf_counter"}
"""How long a step took is told while training, and decides nothing."""


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module, those inside functions and under conditions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def touched(tree: ast.AST) -> Iterator[str]:
    """The full names, such as `time.time`, of everything that the code takes from a module, under whatever name."""
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origin[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                origin[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = [node.attr]
            below: ast.expr = node.value
            while isinstance(below, ast.Attribute):
                parts.append(below.attr)
                below = below.value
            if isinstance(below, ast.Name) and below.id in origin:
                yield ".".join([origin[below.id], *reversed(parts)])


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time as clock\ndef f():\n    return clock.time()", "time.time"),
        ("from time import time as now", "time.time"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import datetime as dt\ndt.datetime.now()", "datetime.datetime.now"),
        ("import os.path\nos.environ['A']", "os.environ"),
        ("from os import getenv", "os.getenv"),
    ],
)
def test_the_search_sees_through_other_names(code: str, name: str) -> None:
    assert name in set(touched(ast.parse(code)))


@pytest.mark.parametrize("file", SOURCES, ids=named)
def test_the_library_never_imports_what_delivers(file: Path) -> None:
    foreign = {name for name in imports(ast.parse(file.read_text())) if name.partition(".")[0] in ("streams", "tests")}

    assert not foreign, f"{named(file)} imports {foreign}: imports point from streams to efficientrec"


@pytest.mark.parametrize("file", SOURCES, ids=named)
def test_the_library_reads_no_environment_and_no_clock(file: Path) -> None:
    forbidden = NO_ENVIRONMENT | NO_CLOCK
    if file not in SERVING:
        forbidden = forbidden - TRAINING_MAY

    found = forbidden & set(touched(ast.parse(file.read_text())))

    assert not found, (
        f"{named(file)} uses {found}: time and settings are arguments, so that a replay gives the same answer"
    )


def test_serving_loads_neither_torch_nor_kafka() -> None:
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in SERVING]
    # scipy is not among them: numba itself takes it up where it is installed.
    heavy = ["torch", "pyarrow", "faust", "aiokafka", "rocksdict", "streams"]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (result.stderr, result.stdout.strip()) == ("", "[]")
    assert "efficientrec.recommend" in modules
