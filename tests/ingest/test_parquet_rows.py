"""Parquet columns are found by their exact names; the types that common tools write are read."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.parameters import Parameters

NOON = 1_378_252_800
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
DATETIME = datetime.datetime(2013, 9, 4, tzinfo=datetime.UTC)


def run(
    tmp_path: Path, table: pa.Table, settings: IngestSettings
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Ingest a file; return the interactions, and the quarantine as (row, reason)."""
    path = tmp_path / "Books.parquet"
    pq.write_table(table, path)
    ingest(path, "Books", settings, tmp_path / "i.parquet", tmp_path / "q.parquet", tmp_path / "c.json")
    quarantine = pq.read_table(tmp_path / "q.parquet").to_pylist()
    return pq.read_table(tmp_path / "i.parquet").to_pylist(), [(row["row"], row["reason"]) for row in quarantine]


def columns(**others: Any) -> dict[str, Any]:
    return {"user_id": ["A1", "A2"], "item_id": ["B1", "B2"], "timestamp": [NOON, NOON + 1]} | others


@pytest.mark.parametrize("other", ["Timestamp", "TIMESTAMP", "User_ID", "ITEM_ID", "Rating"])
@pytest.mark.parametrize("first", [True, False])
def test_column_names_are_case_sensitive(tolerant: IngestSettings, tmp_path: Path, other: str, first: bool) -> None:
    given = columns(rating=[1.0, 5.0])
    given = {other: [1_400_000_000, 7]} | given if first else given | {other: [1_400_000_000, 7]}
    interactions, quarantine = run(tmp_path, pa.table(given), tolerant)
    assert quarantine == []
    assert [(row["user_id"], row["item_id"], row["timestamp"], row["rating"]) for row in interactions] == [
        ("A1", "B1", NOON * 1000, 1.0),
        ("A2", "B2", (NOON + 1) * 1000, 5.0),
    ]


@pytest.mark.parametrize(
    "name", ["file_row_number", "filename", "row", "text", "problem", "reason", "source", 'a"b', "a.b"]
)
def test_columns_named_like_internal_ones_are_read(tolerant: IngestSettings, tmp_path: Path, name: str) -> None:
    interactions, quarantine = run(tmp_path, pa.table({name: [7, 8]} | columns()), tolerant)
    assert [row["row"] for row in interactions] == [1, 2]
    assert quarantine == []


@pytest.mark.parametrize("name", ["user_id", "timestamp"])
def test_a_duplicate_of_a_needed_column_is_refused_in_parquet(
    tolerant: IngestSettings, tmp_path: Path, name: str
) -> None:
    given = columns()
    table = pa.Table.from_arrays([pa.array(values) for values in (*given.values(), given[name])], names=[*given, name])
    with pytest.raises(TapestryError, match=f"Books.parquet: column {name} is there 2 times"):
        run(tmp_path, table, tolerant)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_timestamp_columns_of_every_unit_are_read(
    tolerant: IngestSettings, tmp_path: Path, unit: str, zone: str | None
) -> None:
    times = [DATETIME, DATETIME + datetime.timedelta(milliseconds=0 if unit == "s" else 250)]
    column = pa.array([time.replace(tzinfo=None) for time in times], pa.timestamp(unit))
    column = column if zone is None else column.cast(pa.int64()).cast(pa.timestamp(unit, zone))
    interactions, quarantine = run(tmp_path, pa.table(columns(timestamp=column)), tolerant)
    assert quarantine == []
    assert [row["timestamp"] for row in interactions] == [int(time.timestamp() * 1000) for time in times]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_read_as_its_midnight_in_utc(tolerant: IngestSettings, tmp_path: Path, kind: pa.DataType) -> None:
    dates = pa.array([DATETIME.date(), None], kind)
    interactions, quarantine = run(tmp_path, pa.table(columns(timestamp=dates)), tolerant)
    assert [row["timestamp"] for row in interactions] == [NOON * 1000]
    assert quarantine == [(2, "missing timestamp")]


@pytest.mark.parametrize(("scale", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_timestamps_in_another_unit_are_refused_with_the_name_of_the_unit(
    parameters: Parameters, tmp_path: Path, scale: int, unit: str
) -> None:
    with pytest.raises(TapestryError, match=f"timestamp in {unit}, seconds expected.*\n.*\nConvert the timestamps"):
        run(tmp_path, pa.table(columns(timestamp=[NOON * scale, NOON * scale + 1])), parameters.ingest)


IDS = [
    (pa.array([1.0, 2.0]), ["1", "2"]),
    (pa.array([1.0, None]), ["1", "missing user"]),
    (pa.array([1.0, float("nan")]), ["1", "missing user (NaN)"]),
    (pa.array([-0.0, 1e15]), ["0", "1000000000000000"]),
    (pa.array([2.0**53, 2.0**53 + 2]), ["9007199254740992", "user is a float above 2^53, which rounds it"]),
    (pa.array([1.5, float("inf")]), ["user is not a whole number"] * 2),
    (pa.array([3.0, 2.0**24 + 2], pa.float32()), ["3", "user is a float above 2^24, which rounds it"]),
    (pa.array([7, 2**64 - 1], pa.uint64()), ["7", "18446744073709551615"]),
    (pa.array([Decimal("7.00"), Decimal("-1.00")]), ["7", "-1"]),
    (pa.array([True, None]), ["user is true or false, not text or a number", "missing user"]),
    (pa.array([[1], []], pa.list_(pa.int64())), ["user is a list, not text or a number"] * 2),
    (pa.array([{"a": 1}, None]), ["user is an object, not text or a number", "missing user"]),
    (pa.array([DATETIME, DATETIME]), ["user is a time, not text or a number"] * 2),
    (pa.array(["A1", "NaN"]), ["A1", "NaN"]),
    (pa.array(["A1", None]).dictionary_encode(), ["A1", "missing user"]),
    (pa.array([b"A1", b"\xff"]), ["A1", "invalid UTF-8"]),
    (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
    (pa.array([b"A1", b"\xff"], pa.binary_view()), ["A1", "invalid UTF-8"]),
    (pa.array(["A1", None], pa.string_view()), ["A1", "missing user"]),
    (
        pa.array([UUID.bytes, None], pa.uuid()) if hasattr(pa, "uuid") else pa.nulls(2),
        [str(UUID) if hasattr(pa, "uuid") else "missing user", "missing user"],
    ),
    (pa.nulls(2), ["missing user"] * 2),
]


@pytest.mark.parametrize(("ids", "read"), IDS, ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "")
def test_ids_are_read_by_their_type(tolerant: IngestSettings, tmp_path: Path, ids: pa.Array, read: list[str]) -> None:
    given = columns(user_id=pa.concat_arrays([ids, ids]), item_id=list("BBBB"), timestamp=[NOON] * 2 + [NOON + 1] * 2)
    known = {"user_id": pa.array(["Z"]), "item_id": pa.array(["B"]), "timestamp": pa.array([NOON])}
    if ids.type == pa.string():  # one usable row, since a file with only bad rows is refused
        given = {name: pa.concat_arrays([pa.array(given[name]), known[name]]) for name in given}
    bad = [(row, why) for row, why in enumerate(read * 2, start=1) if " " in why]
    if len(bad) == 4:
        with pytest.raises(TapestryError, match=f"row 1: {read[0]}".replace("(", r"\(").replace(")", r"\)")):
            run(tmp_path, pa.table(given), tolerant)
        return
    interactions, quarantine = run(tmp_path, pa.table(given), tolerant)
    assert quarantine == bad
    assert {row["user_id"] for row in interactions} - {"Z"} == {name for name in read if " " not in name}


def test_timestamps_of_32_bit_floats_are_refused(parameters: Parameters, tmp_path: Path) -> None:
    times = pa.array([NOON, NOON + 1], pa.float64()).cast(pa.float32())
    with pytest.raises(
        TapestryError, match=r"timestamp is a 32-bit float, which rounds it.*\n.*\nSave the column as whole"
    ):
        run(tmp_path, pa.table(columns(timestamp=times)), parameters.ingest)


def test_a_rating_that_is_nan_is_missing(tolerant: IngestSettings, tmp_path: Path) -> None:
    interactions, quarantine = run(tmp_path, pa.table(columns(rating=[float("nan"), 4.0])), tolerant)
    assert [row["rating"] for row in interactions] == [None, 4.0]
    assert quarantine == []
