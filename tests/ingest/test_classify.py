"""When a file with too many unusable rows is given up, and what the error says."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_rows import small_blocks

from tapestry.core.errors import TapestryError
from tapestry.ingest.classify import Tally
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings

NOON = 1_378_252_800
HEADER = b"user_id,item_id,timestamp,rating\n"


def run(path: Path, settings: IngestSettings) -> None:
    out = path.parent / "out"
    ingest(path, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")


def refused(path: Path, content: bytes, settings: IngestSettings) -> str:
    path.write_bytes(content)
    with pytest.raises(TapestryError) as caught:
        run(path, settings)
    assert str(path) in str(caught.value)
    assert not (path.parent / "out").exists()
    return str(caught.value)


@given(
    rows=st.integers(0, 50),
    unusable=st.integers(0, 50),
    blank=st.integers(0, 50),
    rows_left=st.integers(0, 50),
    allowed=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    bad=st.data(),
)
def test_a_file_is_given_up_only_if_no_remaining_rows_could_save_it(
    rows: int, unusable: int, blank: int, rows_left: int, allowed: float, bad: st.DataObject
) -> None:
    unusable, blank = min(unusable, rows), min(blank, unusable, rows)
    given_up = Tally(rows, unusable, blank).exceeds(allowed, rows_left)
    # Whatever rows follow, up to `rows_left`, a file that is given up would also be refused at its end.
    more = bad.draw(st.integers(0, rows_left))
    more_unusable = bad.draw(st.integers(0, more))
    more_blank = bad.draw(st.integers(0, more_unusable))
    at_the_end = Tally(rows + more, unusable + more_unusable, blank + more_blank).exceeds(allowed)
    assert at_the_end or not given_up


def test_blank_lines_count_only_above_the_number_of_other_rows() -> None:
    assert not Tally(rows=20, unusable=10, blank=10).exceeds(0.0)
    assert Tally(rows=20, unusable=11, blank=11).exceeds(0.01)
    assert Tally(rows=20, unusable=11, blank=10).exceeds(0.01)


@pytest.mark.parametrize("name", ["Books.csv.gz", "Books.json.gz", "Books.csv", "Books.json"])
@pytest.mark.parametrize("bad", [b"\n", b"{}\n"])
def test_a_file_of_bad_rows_is_given_up_early(
    ingest_settings: IngestSettings, tmp_path: Path, name: str, bad: bytes
) -> None:
    good = (
        b'{"user_id": "A", "item_id": "B", "timestamp": 1378252800}\n'
        if "json" in name
        else HEADER + b"A,B,1378252800,5\n"
    )
    content = good + bad * 400_000
    with small_blocks(1 << 16, 1 << 12):
        message = refused(
            tmp_path / name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content, ingest_settings
        )
    shown = int(message.split(" of the first ")[1].split()[0])
    assert shown < 250_000
    assert "which can't be met any more" in message


def test_a_parquet_file_of_bad_rows_is_given_up_early(
    ingest_settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapestry.ingest.parquet_rows.BATCH_ROWS", 100)
    path = tmp_path / "Books.parquet"
    pq.write_table(pa.table({"user_id": [""] * 50_000, "item_id": ["B"] * 50_000, "timestamp": [NOON] * 50_000}), path)
    with pytest.raises(TapestryError, match=r"of the first [0-9]{3} rows can't be used"):
        run(path, ingest_settings)


def test_a_file_with_only_bad_first_rows_is_read(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(HEADER + b"x\n" * 90 + b"".join(b"A%d,B,%d,5\n" % (row, NOON) for row in range(9_000)))
    with small_blocks(256, 16):
        run(path, ingest_settings)


@pytest.mark.parametrize(
    ("row", "reason", "fix"),
    [
        (
            b"A,B,1378252800,0",
            "rating out of range",
            "set these to the file's scale (min_rating to 0 where 0 means not",
        ),
        (b"A,B,1378252800,9", "rating out of range", "Ratings from 9 to 9 are beyond ingest.min_rating and ingest.max"),
        (
            b"A,B,1.3782E+09,5",
            "timestamp in scientific notation, which rounds it",
            "Save the column with all its digits",
        ),
        (b"A,B,7,5", "timestamp out of range", "ingest.first_year and ingest.last_year say"),
        (b"A,B,1378252800000,5", "timestamp in milliseconds, seconds expected", "Convert the timestamps"),
        (b"A,B,1_378_252_800,5", "timestamp is not a whole number", "Write times as whole numbers"),
        (b"A,B,1378252800 UTC,5", "timestamp is not a whole number", "Write times as whole"),
        (b"A,B,1378252800,1_0", "rating is not a number", "Write ratings as numbers, with a point"),
        (b"\xff,B,1378252800,5", "invalid UTF-8", "Save the file as UTF-8"),
        (b'"A,B,1378252800,5', "quote not closed", "Write a quote inside a field as two"),
        (b'"A"x,B,1378252800,5', "text after a closing quote", "Write a quote inside a field as two"),
        (b"nan,B,1378252800,5", "missing user (NaN)", "Fix the file"),
        (
            b"A,7.65612E+16,1378252800,5",
            "item is a number in scientific notation, which rounds it",
            "Save the column with",
        ),
        (
            b"A,76561197970982481.0,1378252800,5",
            "item is a float above 2^53, which rounds it",
            "Save the column as whole",
        ),
    ],
)
def test_the_error_names_file_row_reason_and_fix(
    ingest_settings: IngestSettings, tmp_path: Path, row: bytes, reason: str, fix: str
) -> None:
    message = refused(tmp_path / "Books.csv", HEADER + b"A,B,1378252800,5\n" + row + b"\n", ingest_settings)
    assert f"row 2: {reason}: " in message
    assert fix in message
    assert "ingest.max_quarantine_share" in message


def test_the_accepted_range_of_ratings_is_that_of_the_parameters(
    ingest_settings: IngestSettings, tmp_path: Path
) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(HEADER + b"A,B,1378252800,0\nA,B,1378252801,10\n")
    run(path, dataclasses.replace(ingest_settings, min_rating=0.0, max_rating=10.0))
    assert pq.read_table(tmp_path / "out/i.parquet")["rating"].to_pylist() == [0.0, 10.0]


def test_control_characters_of_a_file_are_escaped_in_messages(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    evil = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31m\xe2\x80\xae"
    for name, content in {
        "Books.csv": HEADER + b"A" + evil + b",B,never,5\n",
        "Toys.csv": b"user_id,item_id," + evil + b"\nA,B,C\n",
        "Games.json": b'{"' + evil + b'": 1}\n',
    }.items():
        message = refused(tmp_path / name, content, ingest_settings)
        assert message.replace("\n", "").isprintable()
    message = refused(
        tmp_path / "Wide.csv", ",".join(f"column_{n}" for n in range(5000)).encode() + b"\n", ingest_settings
    )
    assert "and 4970 more" in message
    assert len(message) < 2000


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("Books.csv", b'{"user_id": "A"}\n', "This looks like JSON lines: name it .jsonl"),
        ("Books.json", b"user_id,item_id,timestamp\n", "a file of columns is named .csv or .tsv"),
        ("Books.csv", b"<!DOCTYPE html><html>", "This looks like a web page"),
        ("Books.json", b'{"user_id": "A"},\n{"user_id": "B"},\n', "Its lines end in a comma"),
    ],
)
def test_the_error_hints_at_the_format_that_the_file_seems_to_have(
    ingest_settings: IngestSettings, tmp_path: Path, name: str, content: bytes, hint: str
) -> None:
    assert hint in refused(tmp_path / name, content, ingest_settings)
