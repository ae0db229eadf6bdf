"""Unusable rows are quarantined with their row number, reason and text."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from review_files import (
    DAY,
    NOON,
    ingested,
    lines,
    review,
)

from tapestry.ingest.settings import IngestSettings

BAD_JSON = {
    review("A1", "B1", NOON)[:40]: "not a JSON object",
    b"": "blank line",
    b" \t ": "blank line",
    b'["A1", "B1", 1378252800]': "not a JSON object",
    b"null": "not a JSON object",
    b'"reviewerID asin"': "not a JSON object",
    b"\xef\xbb\xbf{}": "not a JSON object",
    b'{"reviewerID": "A\xff1", "asin": "B1", "unixReviewTime": 1378252800}': "invalid UTF-8",
    b"\xff\xfe": "invalid UTF-8",
    b'{"asin": "B1", "unixReviewTime": 1378252800}': "missing user",
    review(None, "B1", NOON): "missing user",
    review("", "B1", NOON): "missing user",
    review("  ", "B1", NOON): "missing user",
    review(" \t\u00a0\n", "B1", NOON): "missing user",
    b'{"reviewerID": "A1", "unixReviewTime": 1378252800}': "missing item",
    review("A1", None, NOON): "missing item",
    review("A1", "", NOON): "missing item",
    review("A1", "\t", NOON): "missing item",
    b'{"reviewerID": "A1", "asin": "B1"}': "missing timestamp",
    review("A1", "B1", None): "missing timestamp",
    review("A1", "B1", " "): "missing timestamp",
    review("A1", "B1", "09 4, 2013"): "timestamp is not a whole number",
    review("A1", "B1", NOON + 0.5): "timestamp is not a whole number",
    review("A1", "B1", float("nan")): "timestamp is not a whole number",
    review("A1", "B1", float("inf")): "timestamp is not a whole number",
    review("A1", "B1", [NOON]): "timestamp is not a whole number",
    review("A1", "B1", True): "timestamp is not a whole number",
    review("A1", "B1", 0): "timestamp out of range",
    review("A1", "B1", -NOON): "timestamp out of range",
    review("A1", "B1", 10**30): "timestamp out of range",
    review("A1", "B1", NOON * 1000): "timestamp in milliseconds, seconds expected",
    review("A1", "B1", NOON, 0): "rating out of range",
    review("A1", "B1", NOON, 5.5): "rating out of range",
    review("A1", "B1", NOON, float("inf")): "rating out of range",
    review("A1", "B1", NOON, "five"): "rating is not a number",
    review("A1", "B1", NOON, float("nan")): "rating is not a number",
}
BAD_CSV = {
    b"A1,B1": "wrong number of fields",
    b"A1,B1,1378252800,5,and more": "wrong number of fields",
    b"A\xff1,B1": "wrong number of fields",
    b"A\xff1,B1,1378252800,5": "invalid UTF-8",
    b"A1,B1,1378252800,\xff": "invalid UTF-8",
    b",B1,1378252800,5": "missing user",
    b" \t,B1,1378252800,5": "missing user",
    b",,,": "missing user",
    b"A1,,1378252800,5": "missing item",
    b"A1,B1,,5": "missing timestamp",
    b"A1,B1,soon,5": "timestamp is not a whole number",
    b"A1,B1,1378252800.5,5": "timestamp is not a whole number",
    b"A1,B1,nan,5": "timestamp is not a whole number",
    b"A1,B1,-inf,5": "timestamp is not a whole number",
    b"A1,B1,12,5": "timestamp out of range",
    b"A1,B1,1378252800000,5": "timestamp in milliseconds, seconds expected",
    b"A1,B1,1378252800,6": "rating out of range",
    b"A1,B1,1378252800,good": "rating is not a number",
    b"A1,B1,1378252800,nan": "rating is not a number",
}


def between_good_rows(bad: Mapping[bytes, str]) -> tuple[list[bytes], list[tuple[int, str, str]]]:
    """Put each bad row after a good one. Return the rows, and the expected (row number, reason, text)."""
    rows: list[bytes] = []
    expected = []
    for number, (row, reason) in enumerate(bad.items()):
        rows += [b"good%d" % number, row]
        expected.append((len(rows), reason, row))
    return rows, [(row, reason, text.decode("utf-8", "replace")) for row, reason, text in expected]


def without_replacements(text: str) -> str:
    """Replace U+FFFD: decoders differ in how many they put for invalid bytes."""
    return text.replace("\ufffd", "?")


def test_every_kind_of_bad_json_line_is_quarantined_with_its_reason(tolerant: IngestSettings) -> None:
    rows, expected = between_good_rows(BAD_JSON)
    content = lines(*(review(row.decode(), "B1", NOON) if row.startswith(b"good") else row for row in rows))
    outcome = ingested("Books_5.json", content, tolerant)
    assert [(row["row"], row["reason"], without_replacements(row["text"])) for row in outcome.quarantine] == [
        (row, reason, without_replacements(text)) for row, reason, text in expected
    ]
    assert {row["file"] for row in outcome.quarantine} == {"Books_5.json"}
    assert outcome.summary["reasons"] == Counter(BAD_JSON.values())
    assert sorted(row["row"] for row in outcome.interactions) == list(range(1, len(rows), 2))


def test_every_kind_of_bad_csv_row_is_quarantined_with_its_reason(tolerant: IngestSettings) -> None:
    rows, expected = between_good_rows(BAD_CSV)
    header = b"reviewerID,asin,unixReviewTime,overall"
    content = lines(header, *(row + b",B1,1378252800,5" if row.startswith(b"good") else row for row in rows))
    outcome = ingested("a.csv", content, tolerant)
    assert [(row["row"], row["reason"], without_replacements(row["text"])) for row in outcome.quarantine] == [
        (row, reason, without_replacements(text)) for row, reason, text in expected
    ]
    assert outcome.summary["reasons"] == Counter(BAD_CSV.values())
    assert sorted(row["row"] for row in outcome.interactions) == list(range(1, len(rows), 2))


def test_bad_rows_of_a_parquet_file_are_quarantined_with_their_reason(tolerant: IngestSettings) -> None:
    columns = {
        "user_id": ["A1", None, " ", "A1", "A1", "A1", "A1", "A1", "A1"],
        "item_id": ["B1", "B1", "B1", None, "B1", "B1", "B1", "B1", "B1"],
        "timestamp": [NOON, NOON, NOON, NOON, None, NOON + 0.5, float("nan"), NOON * 1000, NOON + DAY],
        "rating": [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 9.0],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    outcome = ingested("a.parquet", sink.getvalue(), tolerant)
    assert [(row["row"], row["reason"]) for row in outcome.quarantine] == [
        (2, "missing user"),
        (3, "missing user"),
        (4, "missing item"),
        (5, "missing timestamp"),
        (6, "timestamp is not a whole number"),
        (7, "timestamp is not a whole number"),
        (8, "timestamp in milliseconds, seconds expected"),
        (9, "rating out of range"),
    ]
    assert outcome.quarantine[2]["text"] == "A1,,1378252800,5"
    assert [row["row"] for row in outcome.interactions] == [1]


def test_seconds_in_a_release_of_milliseconds_are_quarantined(tolerant: IngestSettings) -> None:
    good, bad = (
        json.dumps({"user_id": "A1", "parent_asin": "B1", "timestamp": time}).encode() for time in (NOON * 1000, NOON)
    )
    outcome = ingested("a.jsonl", lines(good, bad), tolerant)
    assert outcome.summary["reasons"] == {"timestamp in seconds, milliseconds expected": 1}


def test_the_text_of_a_long_bad_row_is_shortened(tolerant: IngestSettings) -> None:
    row = review("A1", "B1", "never", reviewText="long " * 1000)
    outcome = ingested("a.json", lines(review("A1", "B1", NOON), row), tolerant)
    assert outcome.quarantine[0]["text"] == row.decode()[:500]


def test_the_range_of_plausible_timestamps_is_that_of_the_parameters(
    ingest_settings: IngestSettings, tolerant: IngestSettings
) -> None:
    first, past = (milliseconds // 1000 for milliseconds in ingest_settings.time_range())
    content = lines(*(review("A1", "B1", time) for time in (first - 1, first, past - 1, past)))
    outcome = ingested("a.json", content, tolerant)
    assert [row["timestamp"] for row in outcome.interactions] == [first * 1000, (past - 1) * 1000]
    assert [(row["row"], row["reason"]) for row in outcome.quarantine] == [
        (1, "timestamp out of range"),
        (4, "timestamp out of range"),
    ]
