"""Every row is an interaction, quarantined or a duplicate, as an independent reader finds."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.ingest import Interaction, classify_csv, classify_json, expected
from review_files import (
    DAY,
    NAMES,
    NOON,
    Outcome,
    ingested,
    lines,
    review,
)

from tapestry.ingest.settings import IngestSettings
from tapestry.sessionize.sessionize import DomainInput

UNIT = "seconds"


@pytest.mark.parametrize("ratings", [(4.0, 2.0), (2.0, 4.0), (None, 4.0), (4.0, None)])
def test_the_first_of_several_rows_with_equal_user_item_and_timestamp_is_kept(
    ingest_settings: IngestSettings, ratings: tuple[float | None, float | None]
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
    outcome = ingested("a.json", content, ingest_settings)
    kept = [(row["user_id"], row["item_id"], row["timestamp"] // 1000, row["row"]) for row in outcome.interactions]
    assert kept == [
        ("A1", "B1", NOON, 2),
        ("A1", "B2", NOON, 4),
        ("A1", "B1", NOON + DAY, 1),
        ("A2", "B1", NOON, 3),
    ]
    assert outcome.interactions[0]["rating"] == first
    assert outcome.summary["rows_duplicate"] == 2


def classify_line(line: bytes, settings: IngestSettings) -> str | Interaction:
    return classify_json(line, NAMES["2018"], settings, UNIT)


def assert_accounted(outcome: Outcome, classified: list[str | Interaction]) -> None:
    """The outcome must be that of rows classified one by one."""
    interactions, quarantine, counts = expected(classified, "Books")
    assert [(row["row"], row["reason"]) for row in outcome.quarantine] == quarantine
    assert outcome.interactions == interactions
    assert outcome.summary == counts


users = st.sampled_from(["A1", "A2", "a1", "é", " A1"])
items = st.sampled_from(["B1", "B2", "B,3"])
times = st.sampled_from([NOON, NOON + DAY, float(NOON), f"{NOON + DAY}", f"{NOON}.0"])
ratings = st.sampled_from([None, 1, 5, 4.5, "3"])
good_fields = st.tuples(users, items, times, ratings)
empty_fields = st.sampled_from([None, "", "  ", "\t"])
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
    users | empty_fields, items | empty_fields, times | empty_fields | odd_times, ratings | odd_ratings
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
    rows_written = [review("A1", "B1", NOON)] + [row if isinstance(row, bytes) else review(*row) for row in rows]
    classified = [classify_line(line, tolerant) for line in rows_written]
    assert_accounted(ingested("a.json", lines(*rows_written), tolerant), classified)


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
    classified = classify_csv(body, b",", NAMES["2018"], NAMES["2018"], tolerant, UNIT)
    assert_accounted(ingested("a.csv", content, tolerant), classified)


DAMAGE = [b"", b"{", b"}", b'"', b"\\", b"\\u00", b"\\ud800", b"\x00", b"\xff", b",", b"[", b"\xef\xbb\xbf", b"9e9"]


def test_damaged_json_lines_do_not_stop_ingest_or_lose_a_row(tolerant: IngestSettings) -> None:
    generator = random.Random(7)
    damaged = [bytearray(review("Aé1", 'B"1', NOON, 5.0, style={"Size:": [1, None, True]})) for _ in range(2000)]
    for line in damaged:
        for _ in range(generator.randint(1, 4)):
            index = generator.randrange(len(line))
            line[index : index + generator.randint(0, 3)] = generator.choice(DAMAGE)
    outcome = ingested("a.json", lines(review("A1", "B1", NOON), *damaged), tolerant)
    assert outcome.summary["rows_in"] == 2001
    assert len(outcome.quarantine) > 1000
    accounted = [row["row"] for row in outcome.interactions + outcome.quarantine]
    assert len(accounted) == len(set(accounted)) == 2001 - outcome.summary["rows_duplicate"]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "rows"), [("All_Beauty_5", 5269), ("AMAZON_FASHION_5", 3176), ("Gift_Cards_5", 2972)])
def test_every_row_of_the_publishers_files_is_accounted_for(
    ingest_settings: IngestSettings, amazon: Path, name: str, rows: int
) -> None:
    raw = amazon / "raw-2018" / f"{name}.json.gz"
    outcome = ingested(raw.name, raw.read_bytes(), ingest_settings)
    classified = [classify_line(line, ingest_settings) for line in gzip.decompress(raw.read_bytes()).splitlines()]
    assert outcome.summary["rows_in"] == rows
    assert_accounted(outcome, classified)


@pytest.mark.real_data
def test_the_six_real_domains_lose_no_row_and_have_no_ratings(six_domains: dict[str, DomainInput]) -> None:
    counts = [json.loads(domain.counts.read_text()) for domain in six_domains.values()]
    assert sum(count["rows_in"] for count in counts) == sum(count["interactions"] for count in counts) == 726_125
    assert {(count["rows_quarantined"], count["rows_duplicate"]) for count in counts} == {(0, 0)}
    for domain in six_domains.values():
        ratings = pq.read_table(domain.interactions, columns=["rating"])["rating"]
        assert ratings.null_count == len(ratings)
