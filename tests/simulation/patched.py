"""Modules with changes in their text, for a process that is to run something other than what is in the files."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import NamedTuple


class Patch(NamedTuple):
    """A passage of a module's text, which must stand there exactly once, and what stands there instead."""

    module: str
    old: str
    new: str


class PatchUnfit(Exception):
    """The text has changed since the patch was written: correct the patch."""


def applied(patch: Patch, source: str) -> str:
    """The changed text."""
    found = source.count(patch.old)
    if found != 1:
        raise PatchUnfit(f"{patch.module} holds {found} times, and should once:\n{patch.old}")
    return source.replace(patch.old, patch.new)


def install(patches: Iterable[Patch]) -> None:
    """From now on these modules are imported with their changes. None of them may have been imported before."""
    by_module: dict[str, list[Patch]] = defaultdict(list)
    for patch in patches:
        if patch.module in sys.modules:
            raise AssertionError(f"{patch.module} has been imported already")
        by_module[patch.module].append(patch)
    sys.meta_path.insert(0, _Finder(by_module))


class _Finder(MetaPathFinder):
    def __init__(self, patches: dict[str, list[Patch]]) -> None:
        self._patches = patches

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._patches:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None, f"there is no module {name}"
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._patches[name])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, patches: list[Patch]) -> None:
        super().__init__(name, path)
        self._patches = patches

    def get_code(self, fullname: str) -> CodeType:
        """From the changed text, whatever is in the cache of compiled files."""
        source = self.get_data(self.path).decode()
        for patch in self._patches:
            source = applied(patch, source)
        code: CodeType = self.source_to_code(source.encode(), self.path)
        return code
