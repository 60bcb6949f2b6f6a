"""Reading data sets: every shape of folder, and what is wrong with one."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from efficientrec.datasets import Dataset, read_dataset, weight_rules
from efficientrec.errors import DataInvalid
from efficientrec.interactions import WeightPolicy

DEMO = Path(__file__).parents[1] / "streams" / "data" / "ml-latest-small"


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    return [(dataset.users[u], dataset.items[i]) for u, i in zip(dataset.user, dataset.item, strict=True)]


def test_the_demo_data_are_read_whole() -> None:
    dataset = read_dataset(DEMO)

    assert (len(dataset), len(dataset.users), len(dataset.items), len(dataset.catalogue)) == (
        100_836,
        610,
        9_724,
        9_742,
    )
    assert dataset.clock == "timestamp"
    assert (np.diff(dataset.at) >= 0).all()
    assert dataset.catalogue["1"].categories[0] == "Adventure"
    assert dataset.catalogue["1"].features == {"year": "1995"}


def test_interactions_are_sorted_by_time_in_milliseconds(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, interactions="user_id,item_id,rating,timestamp\na,x,4,20\nb,y,2.5,10.5\n"))

    assert pairs(dataset) == [("b", "y"), ("a", "x")]
    assert dataset.at.tolist() == [10_500, 20_000]
    assert dataset.value.tolist() == [2.5, 4.0]
    assert dataset.event_type == "rating"


def test_the_order_of_equal_times_does_not_depend_on_the_file(tmp_path: Path) -> None:
    rows = [f"u,{item},5,7" for item in range(40)]
    one = read_dataset(written(tmp_path, interactions="\n".join(["user_id,item_id,rating,timestamp", *rows])))
    other = read_dataset(written(tmp_path, interactions="\n".join(["user_id,item_id,rating,timestamp", *rows[::-1]])))

    assert pairs(one) == pairs(other)
    assert pairs(one) != sorted(pairs(one), key=lambda pair: int(pair[1]))


def test_positions_become_times_that_keep_each_users_order_and_let_users_interleave(tmp_path: Path) -> None:
    rows = [f"{user},i{place},{place}" for user in "abcd" for place in (3, 1, 2)]
    dataset = read_dataset(written(tmp_path, interactions="\n".join(["user_id,item_id,position", *rows])))

    assert dataset.clock == "position"
    for user in "abcd":
        assert [item for owner, item in pairs(dataset) if owner == user] == ["i1", "i2", "i3"]
    assert len({owner for owner, _ in pairs(dataset)[:4]}) > 1
    assert dataset.event_type == "like"


def test_without_any_order_the_rows_of_the_file_are_one(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, interactions="user_id,item_id,rating\nb,y,7\na,x,\n"))

    assert dataset.clock == "rows"
    assert pairs(dataset) == [("b", "y"), ("a", "x")]
    assert np.isnan(dataset.value).tolist() == [False, True]


def test_items_users_and_splits_are_read_where_they_are(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        interactions="user_id,item_id,timestamp,split\nb,y,2,test\na,x,1,train\n",
        items="item_id,title,attributes,brand\nx,Ex,red|big,\n",
        users="user_id,age,city\na,,Rome\n",
    )
    dataset = read_dataset(folder)

    assert dataset.split == ["train", "test"]
    assert (dataset.catalogue["x"].title, dataset.catalogue["x"].categories) == ("Ex", ("red", "big"))
    assert dataset.catalogue["x"].features == {}
    assert dataset.people == {"a": {"city": "Rome"}}


@pytest.mark.parametrize(("greatest", "neutral"), [(5, 2.5), (4.5, 2.5), (10, 5), (100, 50), (7, 3.5), (1, 0.5)])
def test_the_line_of_ratings_fits_the_scale_of_the_data(tmp_path: Path, greatest: float, neutral: float) -> None:
    dataset = read_dataset(written(tmp_path, interactions=f"user_id,item_id,rating\na,x,{greatest}\nb,x,0.5\n"))
    rules = weight_rules(dataset)

    assert (rules["rating"].neutral, rules["rating"].span) == (neutral, neutral)
    assert WeightPolicy(rules).weights(["rating"], np.array([2 * neutral])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id,rating\na,1\n", "no column item_id"),
        ("", "no column user_id"),
        ("user_id,item_id\n", "nothing below it"),
        ("user_id,item_id\na,x\nb\n", "line 3: 1 fields; the header has 2"),
        ("user_id,item_id\na,x\n,y\n", "line 3: user_id is empty"),
        ("user_id,item_id,rating\na,x,1\nb,x,good\n", "line 3: rating is 'good'"),
        ("user_id,item_id,rating\na,x,1\nb,x,inf\n", "line 3: rating is 'inf'"),
        ("user_id,item_id,timestamp\na,x,1\nb,x,\n", "line 3: timestamp is ''"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    folder = written(tmp_path, interactions=text)

    with pytest.raises(DataInvalid, match=expected):
        read_dataset(folder)


def test_a_folder_without_interactions_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="has no interactions"):
        read_dataset(tmp_path)

    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(b"user_id,item_id\na,x\n" * 100)[:-12])
    with pytest.raises(DataInvalid, match="cannot be read"):
        read_dataset(tmp_path)
