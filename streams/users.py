"""What a run of the users topic says about each user: erased, described, or both in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import RecordInvalid
from efficientrec.features import trait_keys
from streams.aside import DeadLetter
from streams.features import feature_texts
from streams.follower import Record
from streams.records import check_user_key, decode_user


class UserChange(NamedTuple):
    """What the last records of a user in a run come to."""

    offset: int
    """Of the last one."""
    erases: bool
    """A null was among them: what was kept before is gone."""
    remains: bool
    """The last one describes the user."""
    traits: NDArray[np.uint64]


def user_changes(records: Sequence[Record]) -> tuple[dict[bytes, UserChange], list[DeadLetter]]:
    """The user's key → what becomes of the user; and the records that cannot be used."""
    changes: dict[bytes, UserChange] = {}
    letters = []
    for record in records:
        key = record.key
        try:
            if key is None:
                raise RecordInvalid("the record has no key; expected the user_id")
            check_user_key(key)
            user = None if record.value is None else decode_user(record.value, key)
        except RecordInvalid as error:
            letters.append(DeadLetter(record, "undecodable", str(error)))
            continue
        erases = user is None or (key in changes and changes[key].erases)
        traits = trait_keys({} if user is None else feature_texts(user.features))
        changes[key] = UserChange(record.offset, erases, user is not None, traits)
    return changes, letters
