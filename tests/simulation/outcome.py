"""What a seed came to: what was dealt, what was compared, what was wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Of one seed. Nothing is wrong when `problems` is empty."""

    seed: int
    events: int = 0
    """Interactions that had to be accepted."""
    lost: int = 0
    """Rows that are not there, or know of fewer events than they should."""
    doubled: int = 0
    """Rows that know of more events than they should, or that should not be there."""
    different: int = 0
    """Rows with the right number of events and other bytes than they should have."""
    struck: Counter[str] = field(default_factory=Counter)
    """Faults by kind that really happened."""
    missed: Counter[str] = field(default_factory=Counter)
    """Faults by kind that were dealt and found nothing to strike, such as a step that was never reached."""
    ended: int = 0
    """Workers that ended by themselves and were started again; those without a reason are among the problems."""
    compared: Counter[str] = field(default_factory=Counter)
    """How much of what was compared with what it should be."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each thing that is not as it should be."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and not wrong."""
    seconds: float = 0.0
    replay: str = ""
    """The command that plays this seed again."""
    folder: str = ""
    """Where the logs of its workers are; empty when they were not kept."""
