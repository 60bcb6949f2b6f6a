"""A file as columns of text: CSV, tab-separated, either gzipped, or Parquet.

Knows how others call a column. Knows nothing of what the columns mean.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import DataInvalid

CHUNK = 10_000
SUFFIXES = (".csv.gz", ".csv", ".tsv.gz", ".tsv", ".parquet")
NAMES: Mapping[str, tuple[str, ...]] = {
    "user_id": ("userid", "user", "uid", "customerid", "customer", "visitorid", "reviewerid", "accountid"),
    "item_id": (
        *("itemid", "item", "iid", "movieid", "productid", "product", "asin", "parentasin", "bookid", "isbn"),
        *("songid", "trackid", "artistid", "articleid", "gameid", "businessid", "sku"),
    ),
    "rating": ("rating", "value", "score", "stars", "overall", "bookrating"),
    "timestamp": ("timestamp", "time", "ts", "date", "datetime", "eventtime", "unixreviewtime", "createdat"),
}
"""Our name of a column → what it is called elsewhere, in lower case and without marks; the first there counts."""
UNITS = ((1e17, 1e-6), (1e14, 1e-3), (1e11, 1.0), (0.0, 1000.0))
"""From which size on a number is nanoseconds, microseconds, milliseconds or seconds since 1970, and what makes it
milliseconds. 10¹¹ seconds are the year 5138, as many milliseconds 1973."""


def find(folder: Path, stem: str) -> Path | None:
    """The file of this name in any of the formats."""
    return next((path for path in (folder / f"{stem}{suffix}" for suffix in SUFFIXES) if path.is_file()), None)


def columns(path: Path, needed: Sequence[str], wanted: Sequence[str] = ()) -> dict[str, list[str]]:
    """The columns of a file by name; what is needed or wanted by ours, "" for a value that is missing."""
    read = _parquet if path.suffix == ".parquet" else _text
    if not path.name.endswith(SUFFIXES):
        raise DataInvalid(f"{path} is in no known format; expected one of {', '.join(SUFFIXES)}")
    try:
        found, line = read(path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataInvalid(f"{path} cannot be read: {error}") from error
    header = ",".join(found)
    found = _ours(found, (*needed, *wanted))
    for name in needed:
        if name not in found:
            raise DataInvalid(f"{path} has no column {name} nor any like it; its header is {header!r}")
    if not next(iter(found.values())):
        raise DataInvalid(f"{path} has a header and nothing below it")
    for name in needed:
        if "" in found[name]:
            raise DataInvalid(f"{path}, line {found[name].index('') + line}: {name} is empty")
    return found


def milliseconds(path: Path, name: str, texts: Sequence[str]) -> NDArray[np.int64]:
    """Times since 1970, from numbers (seconds, milliseconds or finer, as their size tells) or ISO 8601, where no zone
    means UTC."""
    try:
        numbers = np.array(texts, np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("a time that is not finite")
    except ValueError:
        return np.array([_moment(path, index, name, text) for index, text in enumerate(texts)], np.int64)
    size = float(np.abs(numbers).max(initial=0.0))
    factor = next(factor for least, factor in UNITS if size >= least)
    return np.round(numbers * factor).astype(np.int64)


def _moment(path: Path, index: int, name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        wanted = "ISO 8601, or in all lines a number of seconds or milliseconds"
        if _is_number(text):
            return 0  # the line that is none will be named
        raise DataInvalid(f"{path}, line {index + 2}: {name} is {text!r}; expected {wanted}") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _ours(found: Mapping[str, list[str]], names: Sequence[str]) -> dict[str, list[str]]:
    """The columns, those of these names called as we call them."""
    bare = {"".join(filter(str.isalnum, name.partition(":")[0])).lower(): name for name in reversed(list(found))}
    renamed: dict[str, str] = {}
    for name in names:
        other = next((bare[alias] for alias in NAMES.get(name, ()) if alias in bare), None)
        if name not in found and other is not None:
            renamed[other] = name
    return {renamed.get(name, name): values for name, values in found.items()}


def _text(path: Path) -> tuple[dict[str, list[str]], int]:
    """The columns, and the line of the first value."""
    with _open(path) as file:
        reader = csv.reader(file, delimiter="\t" if ".tsv" in path.suffixes else ",")
        header = [name.strip() for name in next(reader, [])]
        found: dict[str, list[str]] = {name: [] for name in header}
        line = 2
        while chunk := list(islice(reader, CHUNK)):  # in chunks: a million small lists at once keep the collector busy
            for row in chunk:
                if len(row) != len(header):
                    raise DataInvalid(f"{path}, line {line}: {len(row)} fields; the header has {len(header)}")
                line += 1
            for column, values in zip(found.values(), zip(*chunk, strict=True), strict=True):
                column.extend(values)
    return found, 2


def _open(path: Path) -> TextIO:
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8", newline="")
    )


def _parquet(path: Path) -> tuple[dict[str, list[str]], int]:
    """The columns that can be told as text, and the number of the first row."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataInvalid(f"{path} needs pyarrow: pip install 'efficientrec[train]'") from error
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataInvalid(f"{path} cannot be read: {error}") from error
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    return {name: [text or "" for text in table[name].cast(pa.string()).to_pylist()] for name in flat}, 1
