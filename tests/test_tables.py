"""Files as columns: every format, other people's names, and times however they are written."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efficientrec.datasets import Dataset, read_dataset
from efficientrec.errors import DataInvalid

TEXT = "user_id,item_id,rating,timestamp\na,x,4,1000000000\nb,y,3.5,1000000001\n"


def told(dataset: Dataset) -> list[tuple[str, str, float, int]]:
    columns = (dataset.user, dataset.item, dataset.value.tolist(), dataset.at.tolist())
    return [(dataset.users[u], dataset.items[i], value, at) for u, i, value, at in zip(*columns, strict=True)]


EXPECTED = [("a", "x", 4.0, 1_000_000_000_000), ("b", "y", 3.5, 1_000_000_001_000)]


def test_a_file_is_a_data_set_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(TEXT)
    (tmp_path / "two.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "three.tsv").write_text(TEXT.replace(",", "\t"))
    table = pa.table(
        {"user_id": ["a", "b"], "item_id": ["x", "y"], "rating": [4.0, 3.5], "timestamp": [10**9, 10**9 + 1]}
    )
    pq.write_table(table, tmp_path / "four.parquet")

    for path in sorted(tmp_path.iterdir()):
        dataset = read_dataset(path)
        assert told(dataset) == EXPECTED
        assert dataset.name == path.name.partition(".")[0]


@pytest.mark.parametrize(
    "header",
    [
        "userId,movieId,rating,timestamp",
        "uid,item,score,ts",
        "User ID,Item-ID,Value,time",
        "user:token,asin,stars,date",
    ],
)
def test_columns_are_known_by_their_usual_names(tmp_path: Path, header: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(TEXT.replace("user_id,item_id,rating,timestamp", header))

    assert told(read_dataset(path)) == EXPECTED


def test_our_own_name_goes_before_any_other(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("user_id,user,item_id,value,rating\na,z,x,9,4\n")

    dataset = read_dataset(path)

    assert (dataset.users, dataset.value.tolist()) == (["a"], [4.0])


@pytest.mark.parametrize(
    "text",
    [
        "1000000000",
        "1000000000.0",
        "1000000000000",
        "1000000000000000",
        "1000000000000000000",
        "2001-09-09T01:46:40Z",
        "2001-09-09 01:46:40",
        "2001-09-09T03:46:40+02:00",
    ],
)
def test_times_are_seconds_milliseconds_or_texts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"user,item,time\na,x,{text}\n")

    assert read_dataset(path).at.tolist() == [1_000_000_000_000]


def test_times_and_whole_numbers_of_parquet_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    table = pa.table(
        {
            "user": pa.array([1, 2], pa.int64()),
            "item": pa.array([7, 8], pa.int32()),
            "rating": pa.array([5, None], pa.float32()),
            "date": pa.array(
                [datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), datetime(2001, 9, 9, 1, 46, 41, tzinfo=UTC)]
            ),
            "tags": pa.array([["a"], []], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, path)

    dataset = read_dataset(path)

    assert (dataset.users, dataset.items) == (["1", "2"], ["7", "8"])
    assert dataset.at.tolist() == [1_000_000_000_000, 1_000_000_001_000]
    assert np.isnan(dataset.value).tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("data.csv", "user,thing\na,x\n", "no column item_id nor any like it; its header is 'user,thing'"),
        ("data.csv", "user,item,time\na,x,1\nb,y,soon\n", "line 3: timestamp is 'soon'; expected ISO 8601"),
        ("data.csv", "user,item,time\na,x,2001-01-01\nb,y,\n", "line 3: timestamp is ''"),
        ("data.xls", "user,item\na,x\n", "no known format; expected one of .csv.gz, .csv"),
        ("data.parquet", "user,item\na,x\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(DataInvalid, match=expected):
        read_dataset(path)
