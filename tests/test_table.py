"""Rows on a real disk: what a crash, damage, another's folder and a full disk leave behind."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import faust
import pytest
import rocksdict
from faust.types import TP

from efficientrec.errors import EfficientRecError, StateCorrupt, StateMismatch, StateUnwritable
from streams import table
from streams.changelog import Stretch
from streams.disk import IDENTITY_KEY, OFFSET_KEY
from streams.table import ProfileTable, RowStore

FAR = 10**9
"""A fence that no disk is ahead of."""
NOISE = random.Random(1).randbytes(4000)  # the disk gets what was written: compression finds nothing in it
ROOT = Path(__file__).parents[1]


def store(folder: Path, *, fence: int = FAR, group: str = "group", partitions: int = 4) -> RowStore:
    """The store of a worker that was assigned nothing yet; every claim is answered with `fence`."""

    async def claim(partition: int) -> int:
        return fence

    app = faust.App(group, broker="kafka://127.0.0.1:1", store="memory://", autodiscover=False)
    return ProfileTable(
        app, name="profiles", partitions=partitions, directory=folder, cache_bytes=2**20, claim=claim
    ).store


def tps(rows: RowStore, *partitions: int) -> set[TP]:
    return {TP(rows.table.changelog_topic.get_topic_name(), partition) for partition in partitions}


def assign(rows: RowStore, *partitions: int) -> RowStore:
    asyncio.run(rows.on_rebalance(tps(rows, *partitions), set(), tps(rows, *partitions)))
    return rows


def opened(folder: Path, **options: Any) -> RowStore:
    """The store of a worker with partition 0."""
    return assign(store(folder, **options), 0)


def close(rows: RowStore) -> None:
    asyncio.run(rows.on_stop())


def offset(rows: RowStore, partition: int = 0) -> int:
    return rows.persisted_offset(TP("changelog", partition))


def write(rows: RowStore, offsets: Iterable[int], row_bytes: int = 100) -> None:
    """At each changelog offset 100 rows of users of its own, and that of the user `last`, who has one at every offset.
    Each row begins with its offset."""
    for number in offsets:
        row = f"{number:08d}".encode() + NOISE[:row_bytes]
        users = [f"{number}-{user}".encode() for user in range(100)]
        rows.write(0, [(user, row) for user in [*users, b"last"]], number)


def expect_whole(rows: RowStore, most: int) -> int:
    """The rows are those of all offsets up to the one that the disk knows, and of no later one; returns that offset.

    most: the last offset that was ever written.
    """
    reached = offset(rows)
    users = [(number, f"{number}-{user}".encode()) for number in range(most + 2) for user in range(100)]
    found = rows.read(0, [key for _, key in users])
    assert [value is not None for value in found] == [number <= reached for number, _ in users]
    assert all(int(value[:8]) == number for (number, _), value in zip(users, found, strict=True) if value)
    (last,) = rows.read(0, [b"last"])
    assert (-1 if last is None else int(last[:8])) == reached
    return reached


def two_files(folder: Path) -> Path:
    """A closed partition 0 whose offsets 0…4 are in one file and 5…9 in another; returns its folder."""
    for part in (range(5), range(5, 10)):
        rows = opened(folder)
        write(rows, part)
        close(rows)
    return folder / "partition-0"


def contents(folder: Path) -> dict[bytes, bytes]:
    db = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True), access_type=rocksdict.AccessType.read_only())
    try:
        return dict(db.items())
    finally:
        db.close()


def rewrite(folder: Path, key: bytes, value: bytes | None) -> None:
    db = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True))
    if value is None:
        db.delete(key)
    else:
        db.put(key, value)
    db.close()


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix == ".sst"}


def asides(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.aside-*"))


def one(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def test_rows_come_back_after_reopening(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    write(rows, range(3))
    rows.write(0, [(b"0-7", None), (b"never-there", None), (b"\xfffence", None)], 3)
    close(rows)

    again = opened(tmp_path)

    assert offset(again) == 3
    assert again.read(0, [b"0-7", b"never-there"]) == [None, None]
    assert [int((row or b"")[:8]) for row in again.read(0, [b"0-8", b"1-7", b"last"])] == [0, 1, 2]
    assert asides(tmp_path) == []
    close(again)


def test_every_assigned_partition_is_claimed_before_any_is_opened_and_claimed_again_when_it_stays(
    tmp_path: Path,
) -> None:
    rows = store(tmp_path)
    claimed: list[int] = []

    async def claim(partition: int) -> int:
        assert not any((tmp_path / f"partition-{each}").exists() for each in (1, 2, 3) if each not in kept)
        number = len(claimed)
        claimed.append(partition)
        await asyncio.sleep(0)
        return 100 * partition + number

    rows._claim, kept = claim, set[int]()
    assign(rows, 1, 2)
    first, kept = rows.ends, {1, 2}
    asyncio.run(rows.on_rebalance(tps(rows, 2, 3), tps(rows, 1), tps(rows, 3)))

    assert claimed == [1, 2, 2, 3]
    assert first == {1: 101, 2: 202}
    assert rows.ends == {2: 203, 3: 304}
    assert offset(rows, 2) == offset(rows, 3) == -1
    with pytest.raises(AssertionError, match="partition 1 is not open here"):
        rows.read(1, [b"a"])
    close(rows)


def test_partitions_are_claimed_at_the_same_time(tmp_path: Path) -> None:
    rows, waiting = store(tmp_path), asyncio.Barrier(3)

    async def claim(partition: int) -> int:
        await asyncio.wait_for(waiting.wait(), 5)
        return 0

    rows._claim = claim
    assign(rows, 0, 1, 2)

    assert rows.ends == {0: 1, 1: 1, 2: 1}
    close(rows)


def write_for_ever(folder: Path) -> None:
    rows = opened(folder)
    for number in range(10_000):
        write(rows, [number], row_bytes=4000)
        print(number, flush=True)


def child(call: str, folder: Path) -> subprocess.Popen[str]:
    code = f"from pathlib import Path; from tests import test_table; test_table.{call}(Path({str(folder)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("written", [20, 60, 150])  # 400 KB each: in memory only; amid the first file; after it
def test_a_killed_process_leaves_an_earlier_whole_state(written: int, tmp_path: Path) -> None:
    with child("write_for_ever", tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == written:
                process.kill()
                break
        most = max([written, *(int(line) for line in process.stdout if line.endswith("\n"))]) + 1

    rows = opened(tmp_path)

    reached = expect_whole(rows, most)
    assert {20: reached == -1, 60: True, 150: reached >= 0}[written]
    assert asides(tmp_path) == []
    write(rows, range(reached + 1, reached + 5))
    assert expect_whole(rows, most) == reached + 4
    close(rows)


def test_a_disk_ahead_of_the_changelog_is_put_aside_whole_and_the_partition_starts_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = two_files(tmp_path)
    before = contents(folder)

    rows = opened(tmp_path, fence=9)

    assert expect_whole(rows, 9) == -1
    (aside,) = asides(tmp_path)
    assert re.fullmatch(r"partition-0\.aside-\d{8}T\d{6}", aside.name)
    assert contents(aside) == before
    assert f"at offset 9 of a changelog that ends with 9: the topic was truncated or made anew. It is now {aside}" in (
        caplog.text
    )
    write(rows, range(2))
    close(rows)
    assert expect_whole(opened(tmp_path), 9) == 1


def test_a_disk_one_record_behind_its_fence_is_kept(tmp_path: Path) -> None:
    two_files(tmp_path)

    rows = opened(tmp_path, fence=10)

    assert (expect_whole(rows, 9), asides(tmp_path)) == (9, [])
    close(rows)


def test_a_disk_older_than_the_nulls_of_its_changelog_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = two_files(tmp_path)
    for days in (6, 8):
        at = time.time() - days * 86_400
        for file in folder.iterdir():
            os.utime(file, (at, at))

        rows = opened(tmp_path, fence=10)

        assert (expect_whole(rows, 9), len(asides(tmp_path))) == ((9, 0) if days == 6 else (-1, 1))
        close(rows)
    assert "last written more than 7 days ago" in caplog.text


def test_a_partition_that_was_open_all_along_is_put_aside_as_well_and_names_never_clash(tmp_path: Path) -> None:
    rows = store(tmp_path, fence=5)
    assign(rows, 0)

    for _ in range(4):  # within a second or two, so that some get the same timestamp
        write(rows, range(8))
        asyncio.run(rows.on_rebalance(tps(rows, 0), set(), set()))
        assert expect_whole(rows, 8) == -1

    assert len(asides(tmp_path)) == 4
    assert all(int(contents(aside)[OFFSET_KEY]) == 7 for aside in asides(tmp_path))
    close(rows)


def flip(path: Path, place: int, mask: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


def cut(path: Path, size: int = 0) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "CURRENT is garbage": lambda folder: (folder / "CURRENT").write_bytes(b"\0garbage"),
    "CURRENT is empty": lambda folder: cut(folder / "CURRENT"),
    "CURRENT names another file": lambda folder: (folder / "CURRENT").write_text("MANIFEST-999999\n"),
    "CURRENT is missing": lambda folder: (folder / "CURRENT").unlink(),
    "the manifest is missing": lambda folder: one(folder, "MANIFEST-*").unlink(),
    "the manifest is empty": lambda folder: cut(one(folder, "MANIFEST-*")),
    "the manifest is garbage": lambda folder: one(folder, "MANIFEST-*").write_bytes(bytes(range(256))),
    "the manifest is zeros": lambda folder: one(folder, "MANIFEST-*").write_bytes(bytes(400)),
    "the manifest has a flipped byte": lambda folder: flip(one(folder, "MANIFEST-*"), 100),
    "a table is missing": lambda folder: one(folder, "*.sst").unlink(),
    "a table is cut": lambda folder: cut(one(folder, "*.sst"), 1000),
    "a table is empty": lambda folder: cut(one(folder, "*.sst")),
    "a table is zeros": lambda folder: one(folder, "*.sst").write_bytes(bytes(one(folder, "*.sst").stat().st_size)),
    "a table's end is flipped": lambda folder: flip(one(folder, "*.sst"), -5),
    "a record of the manifest has a type that makes RocksDB search for ever": lambda folder: flip(
        one(folder, "MANIFEST-*"), 46 + 6, mask=4
    ),
    "everything is empty": lambda folder: [path.write_bytes(b"") for path in folder.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_folder_that_cannot_be_opened_is_put_aside_and_the_partition_starts_empty(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = two_files(tmp_path)
    DAMAGE[kind](folder)
    damaged = sizes(folder)

    rows = opened(tmp_path)

    assert expect_whole(rows, 9) == -1
    (aside,) = asides(tmp_path)
    assert sizes(aside) == damaged
    assert f"{folder}: damaged (" in caplog.text
    assert f"It is now {aside}; the topic rebuilds it" in caplog.text
    write(rows, range(10))
    close(rows)
    again = opened(tmp_path)
    assert expect_whole(again, 9) == 9
    assert asides(tmp_path) == [aside]
    close(again)


def test_a_manifest_that_lost_its_tail_leaves_an_earlier_whole_state_or_is_put_aside(tmp_path: Path) -> None:
    folder = two_files(tmp_path / "whole")
    length = one(folder, "MANIFEST-*").stat().st_size
    reached = set()

    for size in range(0, length + 1, 9):
        shutil.copytree(folder, tmp_path / str(size) / "partition-0")
        cut(one(tmp_path / str(size) / "partition-0", "MANIFEST-*"), size)
        rows = opened(tmp_path / str(size))
        reached.add(expect_whole(rows, 9))
        close(rows)

    assert {-1, 4} <= reached <= {-1, 4, 9}


def test_damage_that_shows_on_reading_is_put_aside_and_the_next_start_is_empty(tmp_path: Path) -> None:
    folder = two_files(tmp_path)
    flip(one(folder, "*.sst"), 50)
    damaged = sizes(folder)
    rows = opened(tmp_path)

    with pytest.raises(StateCorrupt, match="checksum mismatch") as caught:
        rows.read(0, [f"{number}-{user}".encode() for number in range(10) for user in range(100)])

    (aside,) = asides(tmp_path)
    assert str(caught.value).endswith(f"It is now {aside}; start again, and it is rebuilt from the topic")
    assert sizes(aside) == damaged
    assert not folder.exists()
    close(rows)
    again = opened(tmp_path)
    assert expect_whole(again, 9) == -1
    close(again)


def test_a_damaged_folder_without_a_label_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    folder = two_files(tmp_path)
    rewrite(folder, IDENTITY_KEY, None)
    flip(one(folder, "*.sst"), 50)  # an iterator ends at damage as it ends after the last row

    rows = opened(tmp_path)

    assert expect_whole(rows, 9) == -1
    assert len(asides(tmp_path)) == 1
    close(rows)


def test_a_table_that_vanishes_while_the_worker_runs_counts_as_damage(tmp_path: Path) -> None:
    folder = two_files(tmp_path)
    rows = opened(tmp_path)
    rows._open[0]._db = Broken(
        f"IO error: No such file or directory: While open a file for random read: {folder}/8.sst"
    )

    with pytest.raises(StateCorrupt, match="No such file"):
        rows.read(0, [b"a"])

    assert len(asides(tmp_path)) == 1


def expect_refused(folder: Path, found: str, **options: Any) -> None:
    before = contents(folder)

    with pytest.raises(StateMismatch) as caught:
        opened(folder.parent, **options)

    assert str(caught.value).startswith(f"{folder} holds {found}; expected ")
    assert "choose another EFFICIENTREC_STATE_DIR" in str(caught.value)
    assert contents(folder) == before
    assert asides(folder.parent) == []


def test_rows_of_another_changelog_or_another_number_of_partitions_are_refused_and_left_alone(tmp_path: Path) -> None:
    folder = two_files(tmp_path)
    label = '{"format":1,"changelog":"group-profiles-changelog","partition":0,"partitions":4}'

    expect_refused(folder, label, group="other")
    expect_refused(folder, label, partitions=8)
    expect_refused(folder, label, partitions=8, fence=3)  # not even put aside as being ahead

    rows = opened(tmp_path)
    assert expect_whole(rows, 9) == 9
    close(rows)


def test_rows_of_another_partition_are_refused(tmp_path: Path) -> None:
    two_files(tmp_path).rename(tmp_path / "partition-1")
    before = contents(tmp_path / "partition-1")

    with pytest.raises(StateMismatch, match=r'"partition":0,.*expected .*"partition":1,'):
        assign(store(tmp_path), 1)

    assert contents(tmp_path / "partition-1") == before


def test_rows_of_a_newer_format_or_without_a_label_or_with_a_broken_one_are_refused(tmp_path: Path) -> None:
    folder = two_files(tmp_path)
    newer = contents(folder)[IDENTITY_KEY].replace(b'"format":1', b'"format":2')

    rewrite(folder, IDENTITY_KEY, newer)
    expect_refused(folder, newer.decode())
    rewrite(folder, IDENTITY_KEY, b"\xfe")
    expect_refused(folder, "�")
    rewrite(folder, IDENTITY_KEY, None)
    expect_refused(folder, "rows without a label")


def write_until_refused(folder: Path) -> None:
    """Files may not grow beyond 1 MiB, so the first 16 MiB that go to disk fail in the background."""
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    rows = opened(folder)
    write(rows, range(5))
    close(rows)
    rows = opened(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
    accepted = 4
    try:
        for number in range(5, 1000):
            write(rows, [number], row_bytes=4000)
            accepted = number
    except StateUnwritable as error:
        print("refused:", error)
    print("accepted:", expect_whole(rows, accepted + 1) == accepted)
    for number in (accepted + 1, accepted + 2):
        with suppress(StateUnwritable):
            write(rows, [number])
            print("written after a refusal")
    close(rows)
    print("last:", accepted)


def test_a_disk_that_takes_no_more_is_said_at_the_next_write_and_nothing_is_lost(tmp_path: Path) -> None:
    output, _ = child("write_until_refused", tmp_path).communicate(timeout=60)

    where = re.escape(str(tmp_path / "partition-0"))
    words = rf"{where} cannot be used: IO error: .*File too large\. Nothing is lost: free space or choose another "
    assert re.search(f"^refused: {words}", output, re.MULTILINE), output
    assert re.search(f"^ERROR {words}", output, re.MULTILINE), output
    assert "accepted: True" in output
    assert "written after a refusal" not in output
    last = int(output.split("last: ")[1])
    assert last > 30
    rows = opened(tmp_path)
    assert expect_whole(rows, last + 2) == 4
    write(rows, range(5, last), row_bytes=4000)
    close(rows)
    again = opened(tmp_path)
    assert expect_whole(again, last + 2) == last - 1
    close(again)


def test_a_folder_that_cannot_be_used_is_said_and_left_alone(tmp_path: Path) -> None:
    in_the_way = tmp_path / "partition-0"
    in_the_way.write_text("a file")

    with pytest.raises(StateUnwritable, match=rf"^{re.escape(str(in_the_way))} cannot be used: .*File exists"):
        opened(tmp_path)
    with pytest.raises(StateUnwritable, match="Not a directory"):
        opened(in_the_way)

    assert in_the_way.read_text() == "a file"
    assert asides(tmp_path) == []


class Broken:
    """A RocksDB that answers everything with one error."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_: object) -> None:
            raise Exception(self._text)

        return fail


@pytest.mark.parametrize(
    "text",
    [
        "IO error: No space left on device: While appending to file: 8.sst: No space left on device",
        "Invalid argument: Found options incompatible with filesystem: IO error: CURRENT: Too many open files",
        "Corruption: Corruption: IO error: While pread offset 0 len 53: 8.sst: Input/output error",
        "IO error: While open a file for random read: 8.sst: Permission denied",
        "Read-only file system (os error 30)",
    ],
)
def test_what_the_system_refuses_is_not_taken_for_damage(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = opened(tmp_path)
    close(rows)
    disk = opened(tmp_path)._open[0]
    disk._db = Broken(text)

    with pytest.raises(StateUnwritable, match=re.escape(text)):
        disk.read([b"a"])
    disk.close()  # raises nothing

    assert asides(tmp_path) == []
    assert f"{tmp_path / 'partition-0'} cannot be used: {text}. Nothing is lost" in caplog.text


def test_an_error_of_another_kind_passes_as_it_is(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    rows._open[0]._db = Broken("Not implemented: a bug")

    with pytest.raises(Exception, match=r"^Not implemented: a bug$") as caught:
        rows.read(0, [b"a"])

    assert not isinstance(caught.value, EfficientRecError)


def test_a_folder_that_a_neighbour_is_closing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LOCK_RETRY_SECONDS", 0.02)
    neighbour, rows = opened(tmp_path), store(tmp_path)
    write(neighbour, range(3))

    async def handover() -> None:
        opening = asyncio.create_task(rows.on_rebalance(tps(rows, 0), set(), tps(rows, 0)))
        await asyncio.sleep(0.1)
        assert not opening.done()
        await neighbour.on_stop()
        await opening

    asyncio.run(handover())

    assert expect_whole(rows, 3) == 2
    close(rows)


def test_a_folder_that_stays_open_elsewhere_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LOCK_RETRY_SECONDS", 0.001)
    neighbour = opened(tmp_path)

    with pytest.raises(StateUnwritable, match="give each worker an EFFICIENTREC_STATE_DIR of its own"):
        opened(tmp_path)

    write(neighbour, range(3))
    assert expect_whole(neighbour, 3) == 2
    close(neighbour)


def test_recovery_takes_rows_and_deletes(tmp_path: Path) -> None:
    rows = opened(tmp_path)

    rows.restore(Stretch(0, {b"a": b"1", b"b": b"1"}, 0, 2))
    rows.restore(Stretch(0, {b"b": None, b"c": b"1"}, 3, 6))

    assert rows.read(0, [b"a", b"b", b"c"]) == [b"1", None, b"1"]
    assert offset(rows) == 6
    close(rows)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the weight of threads")
def test_what_flushes_gives_way_to_what_serves(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    for first in range(0, 12_000, 1_000):  # three write buffers full
        rows.write(0, [(b"%d" % number, NOISE) for number in range(first, first + 1_000)], first)

    deadline = time.monotonic() + 30
    while (weights := _weights()).get("rocksdb:high") != 19 and time.monotonic() < deadline:
        time.sleep(0.01)
    close(rows)

    assert weights.get("rocksdb:high") == 19, weights


def _weights() -> dict[str, int]:
    """The name of each thread → its nice value."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            _, _, rest = (thread / "stat").read_text().partition("(")
            name, _, fields = rest.rpartition(") ")
            found[name] = int(fields.split()[16])
    return found
