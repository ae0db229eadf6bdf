"""A short form of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

from fuzz import fuzz


def test_ingest_equals_the_oracle_on_generated_raw_files(tmp_path: Path) -> None:
    kinds, faults = fuzz(first=1_000_000, inputs=120, keep=tmp_path)
    assert faults == []
    assert {kind.partition(".")[0] for kind in kinds} == {"csv", "tsv", "inter", "json", "jsonl", "ndjson", "parquet"}
