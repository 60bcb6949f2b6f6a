"""EfficientRec decides what to recommend: pure, typed, usable in a notebook. What delivers it is in `streams`.

    from efficientrec import Recommender, read_dataset

`efficientrec.recommender` shows the rest in ten lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efficientrec.datasets import Dataset, read_dataset
    from efficientrec.recommender import Recommended, Recommender, User

__all__ = ["Dataset", "Recommended", "Recommender", "User", "read_dataset"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for only then: a command that shows its help needs no compiled kernel."""
    from importlib import import_module

    if name in __all__:
        return getattr(import_module("efficientrec.datasets" if "ataset" in name else "efficientrec.recommender"), name)
    raise AttributeError(f"module 'efficientrec' has no attribute {name!r}")
