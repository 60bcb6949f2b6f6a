"""Which of two models a user gets lists of, while an experiment runs.

A user's arm follows from the user's id, the share and the salt alone: every worker comes to the same answer, and a
restart changes none. The hash is neither the one that chooses partitions (murmur2) nor the one by which quality.py
takes its sample (crc32), and each experiment has a salt of its own: so its arms are alike in all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from efficientrec.model import Model

CONTROL: Final = "control"
TREATMENT: Final = "treatment"
ARMS: Final = (CONTROL, TREATMENT)


class Arm(NamedTuple):
    """The model that a part of the users gets lists of."""

    name: str
    """One of ARMS."""
    model: Model | None = None
    """None before the first model."""
    trained_up_to: Mapping[int, int] = MappingProxyType({})
    """Partition → offset after the last interaction that the model was trained on."""


@dataclass(frozen=True, slots=True)
class Arms:
    """The models in service at one moment: the released one, and in an experiment a second one for some users."""

    control: Arm
    treatment: Arm | None = None
    """None while no experiment runs; then all users are of the control."""
    share: float = 0.0
    """Of the users, who get lists of the treatment's model."""
    salt: str = ""

    def divided(self, keys: Sequence[bytes]) -> list[tuple[Arm, NDArray[np.intp]]]:
        """The arms that have users among these keys, each with their places, rising; without an experiment the control
        alone, and all."""
        if self.treatment is None:
            return [(self.control, np.arange(len(keys)))]
        treated = is_treated(keys, self.share, self.salt)
        both = ((self.control, np.flatnonzero(~treated)), (self.treatment, np.flatnonzero(treated)))
        return [(arm, places) for arm, places in both if len(places)]


def is_treated(keys: Sequence[bytes], share: float, salt: str) -> NDArray[np.bool_]:
    """Whether each user (users,) is of the treatment. keys: ids in UTF-8; share: between 0 and 1.

    >>> is_treated([b"anna", b"bert", b"carl"], 0.5, "2024-05").tolist()
    [False, True, False]
    """
    before = salt.encode() + b"\0"
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(before + key) for key in keys), np.uint64, len(keys))
    return hashes < np.uint64(int(share * 2.0**64))
