"""Files without a header, and lines that are Python's: what they hold is looked at, not assumed."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.layouts import columns_without_header
from tapestry.ingest.settings import IngestSettings
from tapestry.parameters import Parameters

NOON = 1_378_252_800
# Of the kinds that Amazon's ids have: short and long users; items of books (digits) and of all else.
RATINGS = [
    ("AKM1MP6P0OYPR", "0132793040", 5.0, NOON),
    ("A2CX7LUOHB2NDG", "B00004T1WX", 4.0, NOON + 86_400),
    ("A00472881KT6WR48K907X", "043935806X", 1.0, NOON),
    ("A1YJEY40YU", "B000HPV1UY", 2.0, NOON + 2 * 86_400),
]


@pytest.fixture
def settings(parameters: Parameters) -> IngestSettings:
    return parameters.ingest


def read(path: Path, settings: IngestSettings) -> list[tuple[str, str, float, int]]:
    """(user, item, rating, seconds), as the interactions are ordered."""
    out = path.parent / "out"
    ingest(path, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")
    rows = pq.read_table(out / "i.parquet").to_pylist()
    return [(row["user_id"], row["item_id"], row["rating"], row["timestamp"] // 1000) for row in rows]


def ratings_only(user_first: bool) -> bytes:
    """As the publisher has them: the 2014 form, or that of 2018."""
    rows = [(user, item) if user_first else (item, user) for user, item, _, _ in RATINGS]
    return "".join(
        f"{first},{second},{rating},{time}\n"
        for (first, second), (_, _, rating, time) in zip(rows, RATINGS, strict=True)
    ).encode()


@pytest.mark.parametrize("user_first", [True, False], ids=["2014", "2018"])
@pytest.mark.parametrize("name", ["ratings_Books.csv", "Books.csv.gz"])
def test_ratings_without_a_header_are_read_in_either_order(
    settings: IngestSettings, tmp_path: Path, user_first: bool, name: str
) -> None:
    content = ratings_only(user_first)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert read(path, settings) == sorted(RATINGS)


def test_the_first_row_of_a_file_without_a_header_is_row_1(settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    bad = b"A2CX7LUOHB2NDG,,3.0,1378252800\nA2CX7LUOHB2NDG,B000HPV1UY\n"
    path.write_bytes(ratings_only(user_first=True) + bad + b"AKM1MP6P0OYPR,B000HPV1UY,1.0,1378252800\n")
    read(path, dataclasses.replace(settings, max_quarantine_share=0.5))
    quarantine = pq.read_table(tmp_path / "out/q.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in quarantine] == [(5, "missing item"), (6, "wrong number of fields")]
    rows = pq.read_table(tmp_path / "out/i.parquet").to_pylist()
    assert sorted(row["row"] for row in rows) == [1, 2, 3, 4, 7]


def test_a_few_odd_ids_do_not_hide_the_order() -> None:
    rows = [[user, item, str(rating), str(time)] for user, item, rating, time in RATINGS] * 10
    odd = ["A300UEGL26", "A300UEGL27", "3.0", str(NOON)]
    assert columns_without_header([*rows, odd]) == ("reviewerID", "asin", "overall", "unixReviewTime")
    assert columns_without_header([[item, user, *more] for user, item, *more in [*rows, odd]]) == (
        "asin",
        "reviewerID",
        "overall",
        "unixReviewTime",
    )


@pytest.mark.parametrize(
    "row",
    ["someone,something,5.0,1378252800", "B000HPV1UY,B000HPV1UY,5.0,1378252800", "A1YJEY40YU,B000HPV1UY,5.0,09 4 2013"],
)
def test_a_file_without_a_header_that_tells_no_order_is_refused(
    settings: IngestSettings, tmp_path: Path, row: str
) -> None:
    path = tmp_path / "Books.csv"
    path.write_text(f"{row}\n" * 20)
    with pytest.raises(TapestryError, match="no known set of columns") as caught:
        read(path, settings)
    assert str(path) in str(caught.value)
    assert "without a header" in str(caught.value)


def python_literal(user: str, item: str, rating: float, time: int) -> bytes:
    review = {"reviewerID": user, "asin": item, "helpful": [0, 1], "reviewText": 'It\'s "so" so', "overall": rating}
    return repr(review | {"unixReviewTime": time, "verified": True, "style": None}).encode()


def test_lines_that_are_pythons_are_read_among_those_that_are_json(settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.json.gz"
    (first, *more) = RATINGS
    as_json = json.dumps({"reviewerID": first[0], "asin": first[1], "overall": first[2], "unixReviewTime": first[3]})
    literals = [python_literal(*row) for row in more]
    assert all(line.startswith(b"{'") for line in literals)
    path.write_bytes(gzip.compress(b"\n".join([as_json.encode(), *literals])))
    assert read(path, settings) == sorted(RATINGS)


def test_python_that_is_no_literal_is_quarantined_and_not_run(settings: IngestSettings, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bad = [
        b"{'reviewerID': __import__('pathlib').Path(%r).touch()}" % str(trap),
        b"{'reviewerID': 'A1', 'asin': b'B1', 'unixReviewTime': 1378252800}",
        b"{'reviewerID': 'A1', 'asin'",
        b"{'" + b"[" * 100_000,
    ]
    path = tmp_path / "Books.json"
    path.write_bytes(b"\n".join([*(python_literal(*row) for row in RATINGS), *bad]))
    assert read(path, dataclasses.replace(settings, max_quarantine_share=0.9)) == sorted(RATINGS)
    quarantine = pq.read_table(tmp_path / "out/q.parquet").to_pylist()
    assert [row["row"] for row in quarantine] == [5, 6, 7, 8]
    assert {row["reason"] for row in quarantine} == {"not a JSON object"}
    assert [row["text"] for row in quarantine] == [line.decode()[:500] for line in bad]
    assert not trap.exists()


def test_the_order_is_told_from_shuffled_rows_of_either_form() -> None:
    generator = random.Random(0)
    rows = [[user, item, str(rating), str(time)] for user, item, rating, time in RATINGS] * 50
    generator.shuffle(rows)
    assert columns_without_header(rows) == ("reviewerID", "asin", "overall", "unixReviewTime")
    assert columns_without_header([]) is None


IDS = [f"A{row:010d},B{row % 9:09d}" for row in range(60)]


@pytest.mark.parametrize(
    ("header", "rating", "time"),
    [
        ("user_id,item_id,rating,timestamp", 2, 3),
        ("user_id,item_id,helpful,timestamp", None, 3),
        ("user_id,item_id,timestamp,rating", 3, 2),
        ("reviewerID,asin,overall,unixReviewTime", 2, 3),
    ],
)
def test_a_header_over_amazons_ids_is_read_in_any_order(
    settings: IngestSettings, tmp_path: Path, header: str, rating: int | None, time: int
) -> None:
    path = tmp_path / "Books.csv"
    fields = {2: "4.0", 3: "4.0"} | {time: str(NOON)}
    path.write_text(f"{header}\n" + "".join(f"{ids},{fields[2]},{fields[3]}\n" for ids in IDS))
    rows = read(path, settings)
    assert [row[:2] for row in rows] == sorted(tuple(ids.split(",")) for ids in IDS)
    assert {(row[2], row[3]) for row in rows} == {(4.0 if rating else None, NOON)}
    assert pq.read_table(tmp_path / "out/q.parquet").num_rows == 0


def test_an_unknown_header_over_amazons_ids_is_no_row(settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    path.write_text("reviewer,product,helpful,when\n" + "".join(f"{ids},4.0,{NOON}\n" for ids in IDS))
    with pytest.raises(TapestryError, match=r"Found: reviewer, product, helpful, when. Accepted"):
        read(path, settings)


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_ratings_without_a_header_may_have_another_delimiter(
    settings: IngestSettings, tmp_path: Path, delimiter: str
) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(ratings_only(user_first=False).replace(b",", delimiter.encode()))
    assert read(path, settings) == sorted(RATINGS)


def test_recboles_atomic_files_are_read(settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.inter"
    rows = "".join(f"{user}\t{item}\t{rating}\t{time}.0\n" for user, item, rating, time in RATINGS)
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    assert read(path, settings) == sorted(RATINGS)
