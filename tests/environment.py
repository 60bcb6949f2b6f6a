"""The variables that say what some settings say, for a process that a test starts."""

from __future__ import annotations

import os
from dataclasses import fields

from streams.secret import Secret
from streams.settings import PREFIX, Settings


def environment(settings: Settings, **changed: object) -> dict[str, str]:
    """The test's own variables, with these settings instead of whatever it has of ours; `weights` excepted."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for each in fields(Settings):
        value = changed.get(each.name, getattr(settings, each.name))
        if each.name != "weights" and value not in (None, Secret()):
            environ[PREFIX + each.name.upper()] = value.reveal() if isinstance(value, Secret) else str(value)
    return environ
