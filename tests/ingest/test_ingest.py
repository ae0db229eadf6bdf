from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.ingest import Reading, expected, judge_csv, judge_json
from raw_rows import small_pieces

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.parameters import Parameters
from tapestry.sessionize.sessionize import DomainInput

Row = dict[str, Any]

DAY = 86_400
NOON = 1_378_252_800  # seconds; 4 September 2013
NAMES = {
    "2018": ("reviewerID", "asin", "unixReviewTime", "overall"),
    "2023": ("user_id", "parent_asin", "timestamp", "rating"),
    "plain": ("user_id", "item_id", "timestamp", "rating"),
}
OTHER_COLUMNS: Row = {"helpful": "[0, 0]", "reviewText": 'He said "no",\nand left.', "asin": "not the parent's"}


@pytest.fixture(scope="session")
def settings(parameters: Parameters) -> IngestSettings:
    return parameters.ingest


@pytest.fixture(scope="session")
def tolerant(settings: IngestSettings) -> IngestSettings:
    return replace(settings, max_quarantine_share=1.0)


@dataclass(frozen=True)
class Outcome:
    """What ingest returned and what its files hold."""

    summary: Row
    interactions: list[Row]
    quarantine: list[Row]
    counts: Row
    types: dict[str, str]
    bytes: list[bytes]


def ingested(name: str, content: bytes, settings: IngestSettings) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, name)
        raw.write_bytes(content)
        outputs = [Path(folder, "out", part) for part in ("interactions.parquet", "quarantine.parquet", "counts.json")]
        summary = ingest(raw, "Books", settings, *outputs)
        interactions, quarantine = (pq.read_table(path) for path in outputs[:2])
        return Outcome(
            summary=summary,
            interactions=interactions.to_pylist(),
            quarantine=quarantine.to_pylist(),
            counts=json.loads(outputs[2].read_text()),
            types={field.name: str(field.type) for field in interactions.schema},
            bytes=[path.read_bytes() for path in outputs],
        )


def assert_refused(raw: Path, settings: IngestSettings, message: str) -> str:
    """Ingest must stop with a message that matches, name the file, and write nothing."""
    out = raw.parent / "out"
    with pytest.raises(TapestryError, match=message) as caught:
        ingest(raw, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")
    assert str(raw) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def review(user: Any, item: Any, timestamp: Any, rating: Any = None, **others: Any) -> bytes:
    """A JSON line with the publisher's 2014 names."""
    values = {"reviewerID": user, "asin": item, "unixReviewTime": timestamp, **others}
    return json.dumps(values if rating is None else values | {"overall": rating}).encode()


def lines(*rows: bytes | bytearray) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def table_bytes(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=2048)
    return sink.getvalue()


def csv_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


# The same interactions, whatever the file.

REVIEWS = [
    ("A2", "B1", NOON, 5.0),
    ("A1", "B2", NOON + 2 * DAY, 1.0),
    ('Ä, "z"', "B1", NOON, 2.5),
    ("A1", "B1", NOON + 2 * DAY, None),
    ("A1", "B3", NOON, 4.0),
]
INTERACTIONS = [
    {"user_id": user, "item_id": item, "timestamp": 1000 * time, "rating": rating, "domain": "Books", "row": row}
    for user, item, time, rating, row in [
        ("A1", "B3", NOON, 4.0, 5),
        ("A1", "B1", NOON + 2 * DAY, None, 4),
        ("A1", "B2", NOON + 2 * DAY, 1.0, 2),
        ("A2", "B1", NOON, 5.0, 1),
        ('Ä, "z"', "B1", NOON, 2.5, 3),
    ]
]


def written(release: str, kind: str) -> bytes:
    """REVIEWS as a file of one release's names and unit, among other columns."""
    names = NAMES[release]
    scale = 1000 if release == "2023" else 1
    rows = [
        OTHER_COLUMNS | Row(zip(names, (user, item, time * scale, rating), strict=True))
        for user, item, time, rating in REVIEWS
    ]
    if kind == "parquet":
        return table_bytes(rows)
    if kind == "csv":
        first = [name for name in OTHER_COLUMNS if name not in names]
        return csv_bytes(rows, [*first, *reversed(names)])
    return lines(*(json.dumps({k: v for k, v in row.items() if v is not None}).encode() for row in rows))


@pytest.mark.parametrize("release", NAMES)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_the_same_interactions_come_from_every_release_and_kind_of_file(
    settings: IngestSettings, release: str, name: str
) -> None:
    kind = name.split(".")[1].removesuffix("l")
    content = written(release, kind)
    outcome = ingested(name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content, settings)
    assert outcome.interactions == INTERACTIONS
    assert outcome.quarantine == []
    assert outcome.summary == {
        "rows_in": 5,
        "rows_quarantined": 0,
        "rows_duplicate": 0,
        "interactions": 5,
        "reasons": {},
    }
    assert outcome.counts == {"file": name, **outcome.summary}
    assert outcome.types == {
        "user_id": "string",
        "item_id": "string",
        "timestamp": "int64",
        "rating": "float",
        "domain": "string",
        "row": "int64",
    }


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize("change", ["mark", "gzip", "crlf", "no final newline", "capitals"])
def test_how_a_text_file_is_stored_does_not_matter(settings: IngestSettings, kind: str, change: str) -> None:
    content = written("2018", kind)
    stored = {
        "mark": b"\xef\xbb\xbf" + content,
        "gzip": gzip.compress(content, mtime=0),
        "crlf": content.replace(b"\n", b"\r\n"),
        "no final newline": content[:-1],
        "capitals": content,
    }[change]
    name = f"a.{kind.upper()}" if change == "capitals" else f"a.{kind}"
    assert ingested(name, stored, settings).interactions == INTERACTIONS


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_file_without_ratings_gives_interactions_without(settings: IngestSettings, kind: str) -> None:
    names = NAMES["plain"][:3]
    rows = [dict(zip(names, review[:3], strict=True)) for review in REVIEWS]
    content = {
        "json": lambda: lines(*(json.dumps(row).encode() for row in rows)),
        "csv": lambda: csv_bytes(rows, names),
        "parquet": lambda: table_bytes(rows),
    }[kind]()
    outcome = ingested(f"a.{kind}", content, settings)
    assert outcome.interactions == [row | {"rating": None} for row in INTERACTIONS]
    assert outcome.types["rating"] == "float"


@pytest.mark.parametrize("block_bytes", [7, 64])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_lines_that_span_read_blocks_are_ingested_whole(settings: IngestSettings, name: str, block_bytes: int) -> None:
    content = written("2018", "json")
    with small_pieces(block_bytes):
        outcome = ingested(name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content, settings)
    assert outcome.interactions == INTERACTIONS


# What can't be used is quarantined, with its place, its reason and its text.

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


def planted(bad: Mapping[bytes, str]) -> tuple[list[bytes], list[tuple[int, str, str]]]:
    """Good rows with each bad one after a good one, and the quarantine that they call for."""
    rows: list[bytes] = []
    expected = []
    for number, (row, reason) in enumerate(bad.items()):
        rows += [b"good%d" % number, row]
        expected.append((len(rows), reason, row))
    return rows, [(row, reason, text.decode("utf-8", "replace")) for row, reason, text in expected]


def without_replacements(text: str) -> str:
    """What stands for a byte that is no UTF-8 is the decoder's choice."""
    return text.replace("\ufffd", "?")


def test_every_kind_of_bad_json_line_is_quarantined_with_its_reason(tolerant: IngestSettings) -> None:
    rows, expected = planted(BAD_JSON)
    content = lines(*(review(row.decode(), "B1", NOON) if row.startswith(b"good") else row for row in rows))
    outcome = ingested("Books_5.json", content, tolerant)
    assert [(row["row"], row["reason"], without_replacements(row["text"])) for row in outcome.quarantine] == [
        (row, reason, without_replacements(text)) for row, reason, text in expected
    ]
    assert {row["file"] for row in outcome.quarantine} == {"Books_5.json"}
    assert outcome.summary["reasons"] == Counter(BAD_JSON.values())
    assert sorted(row["row"] for row in outcome.interactions) == list(range(1, len(rows), 2))


def test_every_kind_of_bad_csv_row_is_quarantined_with_its_reason(tolerant: IngestSettings) -> None:
    rows, expected = planted(BAD_CSV)
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


def test_the_text_of_a_long_bad_row_is_cut(tolerant: IngestSettings) -> None:
    row = review("A1", "B1", "never", reviewText="long " * 1000)
    outcome = ingested("a.json", lines(review("A1", "B1", NOON), row), tolerant)
    assert outcome.quarantine[0]["text"] == row.decode()[:500]


def test_whole_numbers_are_read_however_they_are_written(settings: IngestSettings) -> None:
    forms = [str(NOON), f" {NOON}\t", float(NOON), f"{NOON}.0", f"{NOON}.", f"+{NOON}"]
    content = lines(*(review(f"A{number}", "B1", form) for number, form in enumerate(forms)))
    outcome = ingested("a.json", content, settings)
    assert [row["timestamp"] for row in outcome.interactions] == [NOON * 1000] * len(forms)


def test_plausible_timestamps_end_where_the_parameters_say(settings: IngestSettings, tolerant: IngestSettings) -> None:
    first, past = (moment // 1000 for moment in settings.time_range())
    content = lines(*(review("A1", "B1", time) for time in (first - 1, first, past - 1, past)))
    outcome = ingested("a.json", content, tolerant)
    assert [row["timestamp"] for row in outcome.interactions] == [first * 1000, (past - 1) * 1000]
    assert [(row["row"], row["reason"]) for row in outcome.quarantine] == [
        (1, "timestamp out of range"),
        (4, "timestamp out of range"),
    ]


def test_blanks_around_ids_are_no_part_of_them(settings: IngestSettings) -> None:
    content = lines(review(" A1\t", "\u00a0B1 ", NOON), review("A1", "B1", NOON))
    outcome = ingested("a.json", content, settings)
    assert [(row["user_id"], row["item_id"], row["row"]) for row in outcome.interactions] == [("A1", "B1", 1)]
    assert outcome.summary["rows_duplicate"] == 1


# Duplicates.


@pytest.mark.parametrize("ratings", [(4.0, 2.0), (2.0, 4.0), (None, 4.0), (4.0, None)])
def test_of_the_same_user_item_and_timestamp_the_first_row_is_kept(
    settings: IngestSettings, ratings: tuple[float | None, float | None]
) -> None:
    first, second = ratings
    content = lines(
        review("A1", "B1", NOON + DAY, 3.0),
        review("A1", "B1", NOON, first),
        review("A2", "B1", NOON, 3.0),
        review("A1", "B2", NOON, 3.0),
        review("A1", "B1", NOON, second),
        review("A1", "B1", str(NOON), 5.0),
    )
    outcome = ingested("a.json", content, settings)
    kept = [(row["user_id"], row["item_id"], row["timestamp"] // 1000, row["row"]) for row in outcome.interactions]
    assert kept == [
        ("A1", "B1", NOON, 2),
        ("A1", "B2", NOON, 4),
        ("A1", "B1", NOON + DAY, 1),
        ("A2", "B1", NOON, 3),
    ]
    assert outcome.interactions[0]["rating"] == first
    assert outcome.summary["rows_duplicate"] == 2


# Accounting, against plain Python that reads the same file.

UNIT = "seconds"


def judge_line(line: bytes, settings: IngestSettings) -> str | Reading:
    return judge_json(line, NAMES["2018"], settings, UNIT)


def assert_accounted(outcome: Outcome, judged: list[str | Reading]) -> None:
    """The outcome must be that of rows judged one by one."""
    interactions, quarantine, counts = expected(judged, "Books")
    assert [(row["row"], row["reason"]) for row in outcome.quarantine] == quarantine
    assert outcome.interactions == interactions
    assert outcome.summary == counts


users = st.sampled_from(["A1", "A2", "a1", "é", " A1"])
items = st.sampled_from(["B1", "B2", "B,3"])
times = st.sampled_from([NOON, NOON + DAY, float(NOON), f"{NOON + DAY}", f"{NOON}.0"])
ratings = st.sampled_from([None, 1, 5, 4.5, "3"])
good_fields = st.tuples(users, items, times, ratings)
blank_fields = st.sampled_from([None, "", "  ", "\t"])
odd_times = st.sampled_from(
    [
        "soon",
        NOON + 0.5,
        "NaN",
        "-inf",
        NOON * 1000,
        NOON * 10**6,
        f"{NOON}0" + "0" * 8,
        0,
        -5,
        788_918_399,
        788_918_400,
        4e18,
    ]
)
odd_ratings = st.sampled_from([0, 5.5, "five", "nan", -1, "inf", "", " "])
any_fields = st.tuples(
    users | blank_fields, items | blank_fields, times | blank_fields | odd_times, ratings | odd_ratings
)
json_junk = st.sampled_from(
    [b"", b"  ", b"[1, 2]", b"null", b"17", b'"text"', b"{}", b'{"reviewerID": "A1"', b"\xff", b'{"asin": "\xc3\x28"}']
)
csv_junk = st.sampled_from([["A1"], ["A1", "B1", str(NOON)], ["A1", "B1", str(NOON), "5", ""], []])


@hypothesis.settings(max_examples=12, deadline=None)
@given(rows=st.lists(good_fields | good_fields | any_fields | json_junk, min_size=20, max_size=120))
def test_every_json_line_is_kept_quarantined_or_a_duplicate(
    tolerant: IngestSettings, rows: list[bytes | tuple[Any, ...]]
) -> None:
    written = [review("A1", "B1", NOON)] + [row if isinstance(row, bytes) else review(*row) for row in rows]
    judged = [judge_line(line, tolerant) for line in written]
    assert_accounted(ingested("a.json", lines(*written), tolerant), judged)


@hypothesis.settings(max_examples=12, deadline=None)
@given(rows=st.lists(good_fields | good_fields | any_fields | csv_junk, min_size=20, max_size=120))
def test_every_csv_row_is_kept_quarantined_or_a_duplicate(
    tolerant: IngestSettings, rows: list[list[str] | tuple[Any, ...]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([NAMES["2018"], ("A1", "B1", NOON, None), *rows])
    content = text.getvalue().encode()
    body = content.partition(b"\n")[2]
    judged = judge_csv(body, b",", NAMES["2018"], NAMES["2018"], tolerant, UNIT)
    assert_accounted(ingested("a.csv", content, tolerant), judged)


DAMAGE = [b"", b"{", b"}", b'"', b"\\", b"\\u00", b"\\ud800", b"\x00", b"\xff", b",", b"[", b"\xef\xbb\xbf", b"9e9"]


def test_no_damage_to_json_lines_stops_ingest_or_loses_a_row(tolerant: IngestSettings) -> None:
    generator = random.Random(7)
    damaged = [bytearray(review("Aé1", 'B"1', NOON, 5.0, style={"Size:": [1, None, True]})) for _ in range(2000)]
    for line in damaged:
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(line))
            line[place : place + generator.randint(0, 3)] = generator.choice(DAMAGE)
    outcome = ingested("a.json", lines(review("A1", "B1", NOON), *damaged), tolerant)
    assert outcome.summary["rows_in"] == 2001
    assert len(outcome.quarantine) > 1000
    accounted = [row["row"] for row in outcome.interactions + outcome.quarantine]
    assert len(accounted) == len(set(accounted)) == 2001 - outcome.summary["rows_duplicate"]


# Files that can't be ingested.

NOISE = [random.Random(n).randbytes(2500).hex() for n in range(400)]  # two megabytes that gzip can't make small
MANY_LINES = lines(*(review(f"A{n}", "B1", NOON, reviewText=text) for n, text in enumerate(NOISE)))
MANY_ROWS = lines(
    b"user_id,item_id,timestamp,text", *(f"A{n},B1,{NOON},{text}".encode() for n, text in enumerate(NOISE))
)
GOOD_PARQUET = table_bytes([{"user_id": "A1", "item_id": "B1", "timestamp": NOON + n} for n in range(100)])


def overwritten(content: bytes, start: int, end: int) -> bytes:
    start, end = (place % len(content) for place in (start, end))
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
        ("a.json.gz", gzip.compress(written("2018", "json"), mtime=0)[:-20], "gzip stream is truncated or damaged"),
        ("a.json.gz", gzip.compress(MANY_LINES, mtime=0)[:-2000], "gzip stream is truncated or damaged"),
        ("a.csv.gz", gzip.compress(MANY_ROWS, mtime=0)[:-2000], "gzip stream is truncated or damaged"),
        ("a.json.gz", gzip.compress(MANY_LINES, mtime=0) + b"more", "gzip stream is truncated or damaged"),
        (
            "a.json.gz",
            overwritten(gzip.compress(MANY_LINES, mtime=0), 9000, 9100),
            "gzip stream is truncated or damaged",
        ),
        ("a.json.gz", written("2018", "json"), "named .gz but not gzipped"),
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
def test_a_file_that_is_no_whole_file_of_reviews_is_refused(
    tolerant: IngestSettings, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, tolerant, message)


def test_a_missing_file_is_refused(settings: IngestSettings, tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.json", settings, "no such file")


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_file_without_a_needed_column_is_refused_with_those_found_and_accepted(
    settings: IngestSettings, tmp_path: Path, kind: str
) -> None:
    row = {"reviewerID": "A1", "item": "B1", "unixReviewTime": NOON}
    content = {
        "json": lines(json.dumps(row).encode()),
        "csv": csv_bytes([row], list(row)),
        "parquet": table_bytes([row]),
    }[kind]
    (tmp_path / f"a.{kind}").write_bytes(content)
    message = assert_refused(tmp_path / f"a.{kind}", settings, "no known set of columns")
    assert "Found: reviewerID, item, unixReviewTime. Accepted:" in message
    for names in NAMES.values():
        assert f"{', '.join(names[:3])}[, {names[3]}]" in message


def test_too_many_bad_rows_are_refused_with_the_first_of_them(settings: IngestSettings, tmp_path: Path) -> None:
    rows = [review(f"A{n}", "B1", NOON) for n in range(100)]
    for place in (90, 20, 11, 10):
        rows[place] = review("", f"B{place}", NOON)
    (tmp_path / "a.json").write_bytes(lines(*rows))
    allowing = replace(settings, max_quarantine_share=0.039)
    message = assert_refused(tmp_path / "a.json", allowing, r"4 of 100 rows can't be used \(4\.0%; .* allows 3\.9%\)")
    assert [line.partition(": {")[0] for line in message.splitlines()[1:4]] == [
        f"  row {place + 1}: missing user" for place in (10, 11, 20)
    ]
    assert '"asin": "B10"' in message
    assert "B90" not in message
    outcome = ingested("a.json", lines(*rows), replace(settings, max_quarantine_share=0.04))
    assert outcome.summary["rows_quarantined"] == 4


def test_a_file_of_bad_rows_alone_is_refused_whatever_is_allowed(tolerant: IngestSettings, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines(review("", "B1", NOON), review("A1", "", NOON)))
    assert_refused(tmp_path / "a.json", tolerant, "2 of 2 rows can't be used")


# The same bytes every time.


def shuffled_reviews(count: int) -> list[Row]:
    generator = random.Random(7)
    return [
        {
            "user_id": f"A{generator.randrange(count // 8)}",
            "item_id": f"B{generator.randrange(50)}",
            "timestamp": NOON + DAY * generator.randrange(20) if generator.random() < 0.95 else None,
            "rating": generator.choice([1.0, 5.0, None]),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_the_same_file_gives_the_same_bytes_at_any_number_of_threads(tolerant: IngestSettings, kind: str) -> None:
    rows = shuffled_reviews(10_000)
    content = {
        "json": lambda: lines(*(json.dumps(row).encode() for row in rows)),
        "csv": lambda: csv_bytes(rows, list(rows[0])),
        "parquet": lambda: table_bytes(rows),
    }[kind]()
    with small_pieces(1 << 16):
        outcomes = [ingested(f"a.{kind}", content, replace(tolerant, threads=n)).bytes for n in (1, 1, 2, 4)]
    assert outcomes[1:] == outcomes[:1] * 3


# Real files.


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "rows"), [("All_Beauty_5", 5269), ("AMAZON_FASHION_5", 3176), ("Gift_Cards_5", 2972)])
def test_the_publishers_own_files_are_ingested_with_every_row_accounted_for(
    settings: IngestSettings, amazon: Path, name: str, rows: int
) -> None:
    raw = amazon / "raw-2018" / f"{name}.json.gz"
    outcome = ingested(raw.name, raw.read_bytes(), settings)
    judged = [judge_line(line, settings) for line in gzip.decompress(raw.read_bytes()).splitlines()]
    assert outcome.summary["rows_in"] == rows
    assert_accounted(outcome, judged)


@pytest.mark.real_data
def test_the_six_real_domains_lose_no_row_and_have_no_ratings(six_domains: dict[str, DomainInput]) -> None:
    counts = [json.loads(domain.counts.read_text()) for domain in six_domains.values()]
    assert sum(count["rows_in"] for count in counts) == sum(count["interactions"] for count in counts) == 726_125
    assert {(count["rows_quarantined"], count["rows_duplicate"]) for count in counts} == {(0, 0)}
    for domain in six_domains.values():
        ratings = pq.read_table(domain.interactions, columns=["rating"])["rating"]
        assert ratings.null_count == len(ratings)
