"""Columns `position` and `split` of the raw files, which sessionize takes as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from review_files import NOON, Row, assert_refused, csv_bytes, ingested, lines, table_bytes

from tapestry.core.settings import parse
from tapestry.ingest.settings import IngestSettings

COLUMNS = ("user_id", "item_id", "timestamp", "position", "split")


@pytest.fixture
def given_both(tolerant: IngestSettings) -> IngestSettings:
    return replace(tolerant, given_columns=("position", "split"))


def content(kind: str, rows: list[Row]) -> bytes:
    if kind == "parquet":
        return table_bytes(rows)
    return csv_bytes(rows, COLUMNS) if kind == "csv" else lines(*(json.dumps(row).encode() for row in rows))


def rows_of(*given: tuple[Any, Any]) -> list[Row]:
    return [
        dict(zip(COLUMNS, (f"u{number}", "i", NOON, position, split), strict=True))
        for number, (position, split) in enumerate(given)
    ]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_given_columns_are_read_from_every_format(given_both: IngestSettings, kind: str) -> None:
    rows = rows_of((0, "train"), (12345678901, "Validation"), (7, "valid"), (8, "val"), (9, "test"))
    outcome = ingested(f"a.{kind}", content(kind, rows), given_both)
    assert [row["position"] for row in outcome.interactions] == [0, 12345678901, 7, 8, 9]
    assert [row["split"] for row in outcome.interactions] == [0, 1, 1, 1, 2]
    assert outcome.types["position"] == "int64"
    assert outcome.types["split"] == "int8"


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_columns_that_are_not_asked_for_are_ignored(tolerant: IngestSettings, kind: str) -> None:
    outcome = ingested(f"a.{kind}", content(kind, rows_of((0, "train"), (1, "no split"))), tolerant)
    assert list(outcome.types) == ["user_id", "item_id", "timestamp", "rating", "domain", "row"]
    assert outcome.summary["interactions"] == 2


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_row_without_a_usable_position_or_split_is_quarantined(given_both: IngestSettings, kind: str) -> None:
    rows = rows_of(("1", "train"), ("-1", "train"), ("1.5", "train"), ("", "train"), ("2", "dev"), ("3", ""))
    outcome = ingested(f"a.{kind}", content(kind, rows), given_both)
    assert [row["user_id"] for row in outcome.interactions] == ["u0"]
    assert outcome.summary["reasons"] == {
        "position is not a whole number": 3,
        "split is not train, validation or test": 2,
    }


def test_the_same_item_at_two_positions_is_two_interactions(given_both: IngestSettings) -> None:
    same = ("u", "i", NOON)
    rows = [dict(zip(COLUMNS, (*same, position, "train"), strict=True)) for position in (4, 3, 4)]
    outcome = ingested("a.csv", content("csv", rows), given_both)
    assert [(row["position"], row["row"]) for row in outcome.interactions] == [(3, 2), (4, 1)]
    assert outcome.summary["rows_duplicate"] == 1


def test_a_missing_column_is_named(given_both: IngestSettings, tmp_path: Path) -> None:
    raw = tmp_path / "Books.csv"
    raw.write_bytes(b"user_id,item_id,timestamp,split\nu,i,1378252800,train\n")
    assert_refused(raw, given_both, r"no column position, which ingest\.given_columns names\. Found: user_id, item_id")


def test_a_file_of_unusable_positions_says_what_to_do(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    raw = tmp_path / "Books.csv"
    raw.write_bytes(b"user_id,item_id,timestamp,position\n" + b"u,i,1378252800,first\n" * 9)
    settings = replace(ingest_settings, given_columns=("position",))
    assert_refused(raw, settings, r"(?s)position is not a whole number.*Number a user's interactions over all domains")


def test_the_parameter_is_a_list_of_known_columns(ingest_settings: IngestSettings) -> None:
    values = {**vars(ingest_settings), "given_columns": ["split"]}
    assert parse(IngestSettings, values, "ingest").given_columns == ("split",)
    for wrong, message in ((["when"], "not one of position, split"), (["split", "split"], "named twice")):
        with pytest.raises(Exception, match=message):
            parse(IngestSettings, values | {"given_columns": wrong}, "ingest")
