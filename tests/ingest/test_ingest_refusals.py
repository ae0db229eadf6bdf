"""Files that can't be ingested: one error that names the file, and no output."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from review_files import (
    NAMES,
    NOON,
    assert_refused,
    csv_bytes,
    ingested,
    lines,
    review,
    reviews_file,
    table_bytes,
)

from tapestry.ingest.settings import IngestSettings

NOISE = [random.Random(n).randbytes(2500).hex() for n in range(400)]  # two megabytes that gzip can't compress
MANY_LINES = lines(*(review(f"A{n}", "B1", NOON, reviewText=text) for n, text in enumerate(NOISE)))
MANY_ROWS = lines(
    b"user_id,item_id,timestamp,text", *(f"A{n},B1,{NOON},{text}".encode() for n, text in enumerate(NOISE))
)
GOOD_PARQUET = table_bytes([{"user_id": "A1", "item_id": "B1", "timestamp": NOON + n} for n in range(100)])


def overwritten(content: bytes, start: int, end: int) -> bytes:
    start, end = (index % len(content) for index in (start, end))
    return content[:start] + b"\xff" * (end - start) + content[end:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "the file is empty"),
        ("a.json.gz", b"", "the file is empty"),
        ("a.parquet", b"", "the file is empty"),
        ("a.json.gz", gzip.compress(b"", mtime=0), "holds no rows"),
        ("a.csv", b"user_id,item_id,timestamp\n", "holds no rows"),
        ("a.csv", b"user_id,item_id,timestamp", "holds no rows"),
        (
            "a.json.gz",
            gzip.compress(reviews_file("2018", "json"), mtime=0)[:-20],
            "gzip stream is truncated or damaged",
        ),
        ("a.json.gz", gzip.compress(MANY_LINES, mtime=0)[:-2000], "gzip stream is truncated or damaged"),
        ("a.csv.gz", gzip.compress(MANY_ROWS, mtime=0)[:-2000], "gzip stream is truncated or damaged"),
        ("a.json.gz", gzip.compress(MANY_LINES, mtime=0) + b"more", "gzip stream is truncated or damaged"),
        (
            "a.json.gz",
            overwritten(gzip.compress(MANY_LINES, mtime=0), 9000, 9100),
            "gzip stream is truncated or damaged",
        ),
        ("a.json.gz", reviews_file("2018", "json"), "named .gz but not gzipped"),
        ("a.csv.gz", b"<html>404</html>", "named .gz but not gzipped"),
        ("a.txt", b"x", "unknown kind of file; known are .json, .jsonl, .csv, .parquet"),
        ("a", b"x", "unknown kind of file"),
        ("a.gz", gzip.compress(b"x", mtime=0), "unknown kind of file"),
        ("a.xml.gz", gzip.compress(b"x", mtime=0), "unknown kind of file"),
        ("a.json", b'[\n{"reviewerID": "A1"}\n]\n', "a JSON array; one object a line is needed"),
        ("a.json", b"<html>\n404\n</html>\n", "no known set of columns. Found: none. Accepted"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
        ("a.parquet", GOOD_PARQUET[:-100], "not a Parquet file"),
        ("a.parquet", overwritten(GOOD_PARQUET, -60, -20), "not a Parquet file"),
        ("a.parquet", overwritten(GOOD_PARQUET, 4, 44), "can't be read"),
        ("a.parquet", gzip.compress(GOOD_PARQUET, mtime=0), "not a Parquet file"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_a_damaged_empty_or_unknown_file_is_refused(
    tolerant: IngestSettings, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, tolerant, message)


def test_a_missing_file_is_refused(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.json", ingest_settings, "no such file")


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_file_without_a_needed_column_is_refused_with_the_columns_found_and_accepted(
    ingest_settings: IngestSettings, tmp_path: Path, kind: str
) -> None:
    row = {"reviewerID": "A1", "item": "B1", "unixReviewTime": NOON}
    content = {
        "json": lines(json.dumps(row).encode()),
        "csv": csv_bytes([row], list(row)),
        "parquet": table_bytes([row]),
    }[kind]
    (tmp_path / f"a.{kind}").write_bytes(content)
    message = assert_refused(tmp_path / f"a.{kind}", ingest_settings, "no known set of columns")
    assert "Found: reviewerID, item, unixReviewTime. Accepted:" in message
    for names in NAMES.values():
        assert f"{', '.join(names[:3])}[, {names[3]}]" in message


def test_too_many_bad_rows_are_refused_and_the_first_are_shown(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    rows = [review(f"A{n}", "B1", NOON) for n in range(100)]
    for index in (90, 20, 11, 10):
        rows[index] = review("", f"B{index}", NOON)
    (tmp_path / "a.json").write_bytes(lines(*rows))
    allowing = replace(ingest_settings, max_quarantine_share=0.039)
    message = assert_refused(tmp_path / "a.json", allowing, r"4 of 100 rows can't be used \(4\.0%; .* allows 3\.9%\)")
    assert [line.partition(": {")[0] for line in message.splitlines()[1:4]] == [
        f"  row {index + 1}: missing user" for index in (10, 11, 20)
    ]
    assert '"asin": "B10"' in message
    assert "B90" not in message
    outcome = ingested("a.json", lines(*rows), replace(ingest_settings, max_quarantine_share=0.04))
    assert outcome.summary["rows_quarantined"] == 4


def test_a_file_with_only_bad_rows_is_refused_at_any_allowed_share(tolerant: IngestSettings, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines(review("", "B1", NOON), review("A1", "", NOON)))
    assert_refused(tmp_path / "a.json", tolerant, "2 of 2 rows can't be used")
