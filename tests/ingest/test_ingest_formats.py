"""The same reviews give the same interactions, whatever the release, the format and the storage of the file."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from raw_rows import small_blocks
from review_files import (
    DAY,
    INTERACTIONS,
    NAMES,
    NOON,
    REVIEWS,
    Row,
    csv_bytes,
    ingested,
    lines,
    review,
    reviews_file,
    table_bytes,
)

from tapestry.ingest.settings import IngestSettings


@pytest.mark.parametrize("release", NAMES)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_every_release_and_format_gives_the_same_interactions(
    ingest_settings: IngestSettings, release: str, name: str
) -> None:
    kind = name.split(".")[1].removesuffix("l")
    content = reviews_file(release, kind)
    outcome = ingested(name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content, ingest_settings)
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
def test_ingest_of_a_valid_file_loads_no_pandas(params_yaml: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"a.{kind}").write_bytes(reviews_file("2018", kind))
    code = """
import sys
from pathlib import Path
from tapestry.core.settings import load_section
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
raw, *files = map(Path, sys.argv[2:])
ingest(raw, "Books", load_section(IngestSettings, "ingest", Path(sys.argv[1])), *files)
print("pandas" in sys.modules)
"""
    files = [tmp_path / name for name in (f"a.{kind}", "interactions", "quarantine", "counts")]
    command: list[str | Path] = [sys.executable, "-c", code, params_yaml, *files]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize("change", ["byte order mark", "gzip", "crlf", "no final newline", "capitals"])
def test_byte_order_mark_compression_and_line_ends_do_not_matter(
    ingest_settings: IngestSettings, kind: str, change: str
) -> None:
    content = reviews_file("2018", kind)
    stored = {
        "byte order mark": b"\xef\xbb\xbf" + content,
        "gzip": gzip.compress(content, mtime=0),
        "crlf": content.replace(b"\n", b"\r\n"),
        "no final newline": content[:-1],
        "capitals": content,
    }[change]
    name = f"a.{kind.upper()}" if change == "capitals" else f"a.{kind}"
    assert ingested(name, stored, ingest_settings).interactions == INTERACTIONS


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_file_without_ratings_gives_interactions_without_ratings(ingest_settings: IngestSettings, kind: str) -> None:
    names = NAMES["plain"][:3]
    rows = [dict(zip(names, review[:3], strict=True)) for review in REVIEWS]
    content = {
        "json": lambda: lines(*(json.dumps(row).encode() for row in rows)),
        "csv": lambda: csv_bytes(rows, names),
        "parquet": lambda: table_bytes(rows),
    }[kind]()
    outcome = ingested(f"a.{kind}", content, ingest_settings)
    assert outcome.interactions == [row | {"rating": None} for row in INTERACTIONS]
    assert outcome.types["rating"] == "float"


@pytest.mark.parametrize("block_bytes", [7, 64])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_lines_longer_than_a_block_are_read(ingest_settings: IngestSettings, name: str, block_bytes: int) -> None:
    content = reviews_file("2018", "json")
    with small_blocks(block_bytes):
        outcome = ingested(name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content, ingest_settings)
    assert outcome.interactions == INTERACTIONS


def test_every_notation_of_a_whole_number_is_read(ingest_settings: IngestSettings) -> None:
    forms = [str(NOON), f" {NOON}\t", float(NOON), f"{NOON}.0", f"{NOON}.", f"+{NOON}"]
    content = lines(*(review(f"A{number}", "B1", form) for number, form in enumerate(forms)))
    outcome = ingested("a.json", content, ingest_settings)
    assert [row["timestamp"] for row in outcome.interactions] == [NOON * 1000] * len(forms)


def test_whitespace_around_ids_is_removed(ingest_settings: IngestSettings) -> None:
    content = lines(review(" A1\t", "\u00a0B1 ", NOON), review("A1", "B1", NOON))
    outcome = ingested("a.json", content, ingest_settings)
    assert [(row["user_id"], row["item_id"], row["row"]) for row in outcome.interactions] == [("A1", "B1", 1)]
    assert outcome.summary["rows_duplicate"] == 1


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
    with small_blocks(1 << 16):
        outcomes = [ingested(f"a.{kind}", content, replace(tolerant, threads=n)).bytes for n in (1, 1, 2, 4)]
    assert outcomes[1:] == outcomes[:1] * 3
