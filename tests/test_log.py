"""The log neither loses nor repeats an interaction, whenever its writer ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from efficientrec.errors import DataInvalid, SettingInvalid
from efficientrec.interactions import WeightPolicy
from streams import log as log_module
from streams.log import InteractionLog, Logged, read_log, rows_of
from streams.records import Interaction, decode_interactions, encode

START = 1_700_000_000_000


def event(user: str, item: str, minute: int = 0, event_id: str | None = None, value: float | None = None) -> bytes:
    kind = "like" if value is None else "rating"
    return encode(Interaction(kind, user, item, START + 60_000 * minute, event_id=event_id, value=value))


def add(log: InteractionLog, partition: int, first: int, values: Sequence[bytes], arrived: int = START) -> None:
    """The values as records of a partition at consecutive offsets."""
    keys = [value.split(b'"user_id":"')[1].split(b'"')[0] if b"user_id" in value else b"?" for value in values]
    offsets = range(first, first + len(values))
    decoded = decode_interactions(values, keys, offsets, [arrived] * len(values), START + 10**9, WeightPolicy(), 0)
    log.add(partition, offsets[0], offsets[-1], rows_of(decoded, values))


def pairs(logged: Logged) -> list[tuple[str, str]]:
    return [(logged.users[u], logged.items[i]) for u, i in zip(logged.user, logged.item, strict=True)]


def test_what_is_flushed_is_read_back_in_the_order_of_time(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 3, 1000, [event("u1", "late", 9), event("u2", "early", 1, value=1.0)])
        add(log, 0, 0, [event("u3", "middle", 5)])
        log.flush()

    logged = read_log(tmp_path)

    assert pairs(logged) == [("u2", "early"), ("u3", "middle"), ("u1", "late")]
    assert [logged.event_types[kind] for kind in logged.event_type] == ["rating", "like", "like"]
    np.testing.assert_array_equal(logged.value, [1.0, np.nan, np.nan])
    assert logged.weight.tolist() == pytest.approx([-0.6, 1.0, 1.0])
    assert logged.excludes.tolist() == [True, True, True]
    assert logged.offsets == {3: 1002, 0: 1}
    assert (tmp_path / "partition=3" / "00000000000000001000-00000000000000001001.parquet").is_file()


def test_the_log_is_for_its_user_alone(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path / "log")):
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


def test_a_restart_goes_on_after_the_last_durable_offset(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 5, [event("u1", "a"), event("u1", "b")])
        log.flush()
        add(log, 0, 7, [event("u1", "c")])  # never flushed: a crash
        assert log.read_up_to == {0: 8}

    with closing(InteractionLog(tmp_path)) as log:
        assert log.offsets == log.read_up_to == {0: 7}
        assert log.rows == 2
        add(log, 0, 7, [event("u1", "c")])
        log.flush()

    assert pairs(read_log(tmp_path)) == [("u1", "a"), ("u1", "b"), ("u1", "c")]


def test_refused_records_are_left_out_and_passed_over(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [b"junk", b"more junk"])
        log.flush()
        assert log.offsets == {}
        assert not list(tmp_path.rglob("*.parquet"))

        add(log, 0, 2, [event("u1", "a"), b"junk"])
        log.flush()
        assert log.offsets == {0: 4}

    assert pairs(read_log(tmp_path)) == [("u1", "a")]


def test_an_event_that_its_producer_sent_again_counts_once_for_each_user(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a", 0, "e1"), event("u2", "a", 1, "e1"), event("u1", "b", 2)])
        log.flush()
        add(log, 0, 3, [event("u1", "a", 0, "e1"), event("u1", "b", 2)])
        log.flush()

    assert pairs(read_log(tmp_path)) == [("u1", "a"), ("u2", "a"), ("u1", "b"), ("u1", "b")]


def test_half_written_files_are_cleared_up_and_never_read(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a")])
        log.flush()
    partial = tmp_path / "partition=0" / "00000000000000000001-00000000000000000009.partial"
    partial.write_bytes(b"PAR1 and then the power went")

    before = pairs(read_log(tmp_path))
    with closing(InteractionLog(tmp_path)) as log:
        offsets = log.offsets

    assert before == [("u1", "a")]
    assert offsets == {0: 1}
    assert not partial.exists()


def test_many_small_files_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MERGE_FILES", 4)
    monkeypatch.setattr(log_module, "MERGED_ROWS", 6)
    with closing(InteractionLog(tmp_path)) as log:
        for offset in range(0, 40, 2):
            add(log, 0, offset, [event("u1", f"i{offset}", offset), event("u2", f"i{offset}", offset)])
            log.flush()
        assert log.rows == 40
        assert log.offsets == {0: 40}

    files = sorted((tmp_path / "partition=0").iterdir())
    assert len(files) == 5  # 4 × 2 rows and more are large: 8 + 8 + 8 + 8 + 8
    assert len(pairs(read_log(tmp_path))) == 40


def test_a_crash_amid_merging_repeats_nothing(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        for offset in range(3):
            add(log, 0, offset, [event("u1", f"i{offset}", offset)])
            log.flush()
    folder = tmp_path / "partition=0"
    whole = pq.read_table(str(folder), partitioning=None)
    pq.write_table(whole, folder / f"{0:020d}-{2:020d}.parquet")  # written, but its parts were not removed yet

    while_merging = pairs(read_log(tmp_path))
    with closing(InteractionLog(tmp_path)) as log:
        rows, offsets = log.rows, log.offsets

    assert while_merging == [("u1", "i0"), ("u1", "i1"), ("u1", "i2")]
    assert (rows, offsets) == (3, {0: 3})
    assert len(list(folder.iterdir())) == 1


def test_files_that_overlap_otherwise_are_refused(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a"), event("u1", "b")])
        log.flush()
    folder = tmp_path / "partition=0"
    (folder / f"{1:020d}-{4:020d}.parquet").write_bytes((folder / f"{0:020d}-{1:020d}.parquet").read_bytes())

    with pytest.raises(DataInvalid, match="both hold offset 1"):
        InteractionLog(tmp_path)
    with pytest.raises(DataInvalid, match="both hold offset 1"):
        read_log(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a")])
        log.flush()
    (path,) = (tmp_path / "partition=0").iterdir()
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(DataInvalid, match=path.name):
        read_log(tmp_path)


def test_only_the_newest_are_read_when_there_are_too_many(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        for offset in range(6):
            add(log, offset % 2, offset, [event("u1", f"i{offset}", offset)])
            log.flush()

    logged = read_log(tmp_path, most=3)

    assert pairs(logged) == [("u1", "i3"), ("u1", "i4"), ("u1", "i5")]
    assert logged.offsets == {0: 5, 1: 6}


def test_an_empty_log_is_no_error(tmp_path: Path) -> None:
    logged = read_log(tmp_path)

    assert len(logged) == 0
    assert logged.offsets == {}


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)), pytest.raises(SettingInvalid, match="another trainer"):
        InteractionLog(tmp_path)

    InteractionLog(tmp_path).close()


class PowerCut(Exception):
    """What a step on disk raises when the test has it be the last one."""


def cut_power(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets that many steps on disk happen: to force to disk, to rename, to remove. Then nothing happens any more."""
    steps = count()

    def limited(step: Callable[..., Any]) -> Callable[..., Any]:
        def limited_step(*arguments: Any) -> Any:
            if next(steps) >= after:
                raise PowerCut
            return step(*arguments)

        return limited_step

    monkeypatch.setattr(os, "fsync", limited(os.fsync))
    monkeypatch.setattr(Path, "rename", limited(Path.rename))
    monkeypatch.setattr(Path, "unlink", limited(Path.unlink))


def ranges(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))


def test_an_erased_user_leaves_every_file_and_no_offset_is_lost(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a", 0), event("u2", "b", 1)])
        log.flush()
        add(log, 0, 2, [event("u1", "c", 2), event("u1", "d", 3)])
        log.flush()
        add(log, 1, 7, [event("u3", "e", 4), event("u1", "f", 5)])
        log.flush()
        before = ranges(tmp_path)

        log.erase({"u1": START, "nobody": START})

        assert pairs(read_log(tmp_path)) == [("u2", "b"), ("u3", "e")]
        assert ranges(tmp_path) == before
        assert (log.rows, log.offsets) == (2, {0: 4, 1: 9})
        log.erase({"u2": START, "u3": START})
        assert (log.rows, log.offsets) == (0, {0: 4, 1: 9})

    logged = read_log(tmp_path)
    with closing(InteractionLog(tmp_path)) as log:
        assert (log.rows, log.offsets) == (0, {0: 4, 1: 9})
    assert len(logged) == 0
    assert logged.offsets == {0: 4, 1: 9}
    assert not any(b"u1" in path.read_bytes() for path in tmp_path.rglob("*.parquet"))  # not in statistics, either


def test_only_files_that_hold_an_erased_user_are_written_again(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a")])
        log.flush()
        add(log, 0, 1, [event("u2", "b")])
        log.flush()
        add(log, 0, 2, [event("u1", "came back")], arrived=START + 1)
        log.flush()
        before = {path: path.stat().st_ino for path in tmp_path.rglob("*.parquet")}

        log.erase({"u1": START})

    changed = [path.name for path, inode in before.items() if path.stat().st_ino != inode]
    assert changed == [f"{0:020d}-{0:020d}.parquet"]


def test_an_erasure_takes_what_came_before_it_and_leaves_what_comes_after(tmp_path: Path) -> None:
    erased = {"u1": START + 1000}
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "long before", 0)], arrived=START)
        log.flush()
        add(log, 0, 1, [event("u1", "pending", 1), event("u2", "another's", 2)], arrived=START + 999)
        log.erase(erased)
        add(log, 0, 3, [event("u1", "same moment, read late", 3)], arrived=START + 1000)
        add(log, 0, 4, [event("u1", "after", 4)], arrived=START + 1001)
        log.flush(erased)
        log.erase(erased)  # read again after a restart

        assert log.offsets == {0: 5}

    assert pairs(read_log(tmp_path)) == [("u2", "another's"), ("u1", "after")]


def test_offsets_of_which_nothing_stays_are_not_read_again(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a")])
        add(log, 1, 0, [b"junk"])
        log.erase({"u1": START})
        add(log, 1, 1, [b"junk"])
        log.flush({"u1": START})

    with closing(InteractionLog(tmp_path)) as log:
        assert (log.rows, log.offsets) == (0, {0: 1, 1: 2})


def test_files_are_merged_after_an_erasure_as_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MERGE_FILES", 4)
    with closing(InteractionLog(tmp_path)) as log:
        for offset in range(0, 6, 2):
            add(log, 0, offset, [event("u1", f"i{offset}", offset), event("u2", f"i{offset}", offset)])
            log.flush()
        log.erase({"u1": START})
        add(log, 0, 6, [event("u2", "i6", 6)])
        log.flush()

        assert ranges(tmp_path) == [f"partition=0/{0:020d}-{6:020d}.parquet"]
        log.erase({"u2": START})
        assert (log.rows, log.offsets) == (0, {0: 7})


def test_files_of_a_release_that_did_not_note_arrivals_are_read_and_erased_from(tmp_path: Path) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a"), event("u2", "b")])
        log.flush()
    (path,) = tmp_path.rglob("*.parquet")
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["arrived_ms"]), path)

    with closing(InteractionLog(tmp_path)) as log:
        log.erase({"u1": 1})

    assert pairs(read_log(tmp_path)) == [("u2", "b")]


def test_a_power_cut_amid_an_erasure_loses_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MERGE_FILES", 3)
    everyone = [("u1", "i0"), ("u2", "i0"), ("u1", "i1"), ("u2", "i1"), ("u1", "i2"), ("u2", "i2")]
    others = [pair for pair in everyone if pair[0] == "u2"]

    def write(log: InteractionLog, partition: int, first: int, number: int) -> None:
        add(log, partition, first, [event("u1", f"i{number}", 2 * number), event("u2", f"i{number}", 2 * number + 1)])

    for after in count():
        folder = tmp_path / str(after)
        with closing(InteractionLog(folder)) as log:
            for number in range(2):
                write(log, 0, 2 * number, number)
                log.flush()
            write(log, 0, 4, 2)  # makes the third file of a merge, unless the power is cut before
            with pytest.MonkeyPatch.context() as patch:
                cut_power(patch, after)
                try:
                    log.erase({"u1": START})
                    is_through = True
                except PowerCut:
                    is_through = False

        seen = pairs(read_log(folder))
        with closing(InteractionLog(folder)) as log:
            again = log.read_up_to[0]
            assert again in (4, 6)
            if again == 4:
                write(log, 0, 4, 2)
            log.erase({"u1": START})
            assert log.offsets == {0: 6}

        assert [pair for pair in seen if pair[0] == "u2"] == others[: again // 2]
        assert pairs(read_log(folder)) == others
        assert all(path.name == ".lock" or path.suffix == ".parquet" for path in folder.rglob("*") if path.is_file())
        if is_through:
            assert seen == others
            break
    assert after > 8  # steps were cut off, one by one


@pytest.mark.parametrize("after", [2, 3])  # before the file has its name, and before the name is forced to disk
def test_an_erasure_reaches_what_a_failed_write_has_left(tmp_path: Path, after: int) -> None:
    with closing(InteractionLog(tmp_path)) as log:
        add(log, 0, 0, [event("u1", "a"), event("u2", "b")])
        with pytest.MonkeyPatch.context() as patch:
            cut_power(patch, after)
            with pytest.raises(PowerCut):
                log.flush()
        add(log, 0, 2, [event("u1", "c"), event("u2", "d")])

        log.erase({"u1": START})

        assert pairs(read_log(tmp_path)) == [("u2", "b"), ("u2", "d")]
        left = [path.name for path in (tmp_path / "partition=0").iterdir()]
        assert left == [f"{0:020d}-{3:020d}.parquet"]
