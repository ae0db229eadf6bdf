"""Hostile and damaged files: every row is accounted for, or one error names the file."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.json_rows import LONGEST_LINE
from tapestry.ingest.settings import IngestSettings

NOON = 1_378_252_800
SOUND = [{"reviewerID": f"A{row}", "asin": f"B{row % 7}", "unixReviewTime": NOON + row} for row in range(64)]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def run(path: Path, settings: IngestSettings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ingest a file; return the interactions and the quarantine. Check that they and the duplicates are all rows."""
    out = path.parent / "out"
    summary = ingest(path, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")
    interactions, quarantine = (pq.read_table(out / name).to_pylist() for name in ("i.parquet", "q.parquet"))
    assert summary["rows_in"] == len(interactions) + len(quarantine) + summary["rows_duplicate"]
    assert summary["reasons"] == Counter(row["reason"] for row in quarantine)
    return interactions, quarantine


@pytest.mark.parametrize("sixteenth", range(16))
@pytest.mark.parametrize("name", ["Books.json.gz", "Books.csv.gz"])
def test_a_truncated_gzip_is_refused(tolerant: IngestSettings, tmp_path: Path, name: str, sixteenth: int) -> None:
    rows = "".join(f"A{row},B{row % 7},{NOON + row}\n" for row in range(2000))
    content = as_lines(SOUND * 40) if "json" in name else f"user_id,item_id,timestamp\n{rows}".encode()
    whole = gzip.compress(content, mtime=0)
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) * sixteenth // 16])
    with pytest.raises(TapestryError, match=r"truncated or damaged|the file is empty") as caught:
        run(path, tolerant)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_damaged_gzip_is_refused(tolerant: IngestSettings, tmp_path: Path, at: float) -> None:
    damaged = bytearray(gzip.compress(as_lines(SOUND * 40), mtime=0))
    start = int(len(damaged) * at)
    damaged[start : start + 16] = bytes(byte ^ 0x5A for byte in damaged[start : start + 16])
    path = tmp_path / "Books.json.gz"
    path.write_bytes(damaged)
    with pytest.raises(TapestryError, match="truncated or damaged"):
        run(path, tolerant)


def test_two_gzip_members_are_one_file(tolerant: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.json.gz"
    path.write_bytes(gzip.compress(as_lines(SOUND[:20]), mtime=0) + gzip.compress(as_lines(SOUND[20:])))
    interactions, quarantine = run(path, tolerant)
    assert (len(interactions), len(quarantine)) == (64, 0)


def test_nul_bytes_are_bad_rows_or_part_of_an_id(tolerant: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.json"
    raw = b'{"reviewerID": "A\x00", "asin": "B", "unixReviewTime": 1378252800}\n\x00\x00\x00\n'
    path.write_bytes(as_lines([*SOUND, {"reviewerID": "N\0U\0L", "asin": "B1", "unixReviewTime": NOON}]) + raw)
    interactions, quarantine = run(path, tolerant)
    assert [row["row"] for row in quarantine] == [66, 67]
    assert {row["reason"] for row in quarantine} == {"not a JSON object"}
    assert "N\0U\0L" in {row["user_id"] for row in interactions}


@pytest.mark.parametrize("length", [LONGEST_LINE - 200, LONGEST_LINE + 1, 1 << 26])
def test_a_line_longer_than_the_longest_line_is_quarantined(
    tolerant: IngestSettings, tmp_path: Path, length: int
) -> None:
    path = tmp_path / "Books.json"
    long = {"reviewerID": "LONG", "asin": "B1", "unixReviewTime": NOON, "reviewText": "x" * length}
    path.write_bytes(as_lines([SOUND[0], long, *SOUND[1:]]))
    interactions, quarantine = run(path, tolerant)
    assert sorted(row["row"] for row in interactions) == [n for n in range(1, 66) if length < LONGEST_LINE or n != 2]
    assert [(row["row"], row["reason"]) for row in quarantine] == (
        [] if length < LONGEST_LINE else [(2, "longer than 16 MiB")]
    )
    assert all(len(row["text"]) == 500 for row in quarantine)


@pytest.mark.parametrize("bomb", [b"[" * 1_000_000, b'{"a":' * 1_000_000, b'{"a":' * 500_000 + b"1" + b"}" * 500_000])
def test_nested_json_is_a_bad_row(tolerant: IngestSettings, tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(as_lines(SOUND[:1]) + bomb + b"\n" + as_lines(SOUND[1:]))
    interactions, quarantine = run(path, tolerant)
    assert len(interactions) == 64
    assert [(row["row"], row["reason"] in {"not a JSON object", "missing user"}) for row in quarantine] == [(2, True)]


HOSTILE_IDS = [
    "'; DROP TABLE classified; --",
    'A"1"',
    "A,1",
    "A\n1",
    "A\r\n1",
    "$.reviewerID",
    "{'a': 1}",
    "%s{}\\",
    "A'||'B",
    "\u202eA1",
    "𝔄1",
    "../../etc/passwd",
    "A" * 10_000,
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
]


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_ids_with_any_characters_are_read_as_they_are(tolerant: IngestSettings, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"Books.{kind}"
    if kind == "json":
        path.write_bytes(as_lines([{"reviewerID": i, "asin": i, "unixReviewTime": NOON} for i in HOSTILE_IDS]))
    else:
        quoted = [id_.replace('"', '""') for id_ in HOSTILE_IDS]
        rows = "".join(f'"{id_}","{id_}",{NOON}\n' for id_ in quoted)
        path.write_text("user_id,item_id,timestamp\n" + rows, newline="", encoding="utf-8")
    interactions, quarantine = run(path, tolerant)
    assert quarantine == []
    assert {row["user_id"] for row in interactions} == {row["item_id"] for row in interactions} == set(HOSTILE_IDS)


@pytest.mark.parametrize("column", ["reviewerID'; --", 'a"b', "$.x", "row", "line", "text", "reason", "source", "f"])
def test_columns_with_any_name_are_ignored(tolerant: IngestSettings, tmp_path: Path, column: str) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(as_lines([{column: "x"} | row for row in SOUND]))
    assert len(run(path, tolerant)[0]) == 64
    path = tmp_path / "Toys.csv"
    header = '"' + column.replace('"', '""') + '"'
    path.write_text(f"user_id,{header},item_id,timestamp\n" + f"A1,x,B1,{NOON}\n")
    assert len(run(path, tolerant)[0]) == 1


def test_implausible_timestamps_are_quarantined(tolerant: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.json"
    times = [-1, -NOON, -(2**63), 2**63 - 1, 2**64, 10**20, 253_402_300_800, 1e300]
    path.write_bytes(as_lines([*SOUND, *({"reviewerID": "A", "asin": "B", "unixReviewTime": t} for t in times)]))
    interactions, quarantine = run(path, tolerant)
    assert (len(interactions), len(quarantine)) == (64, len(times))
    assert {row["reason"] for row in quarantine} <= {"timestamp out of range", "timestamp is not a whole number"}


def test_a_repeated_header_is_a_bad_row(tolerant: IngestSettings, tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp\r\n"
    path = tmp_path / "Books.csv"
    path.write_text(
        "\ufeff" + header + f"A1,B1,{NOON}\r\n" + header + f"A2,B1,{NOON}\r\n", newline="", encoding="utf-8"
    )
    interactions, quarantine = run(path, tolerant)
    assert [row["user_id"] for row in interactions] == ["A1", "A2"]
    assert [(row["row"], row["reason"]) for row in quarantine] == [(2, "timestamp is not a whole number")]
