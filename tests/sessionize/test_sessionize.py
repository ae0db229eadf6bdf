"""Input files that contradict each other, limits on memory, and the same bytes in every run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interactions import DAY, DOMAINS, SETTINGS, sessionized, shoppers, timeline, write_inputs

from tapestry.core.errors import TapestryError
from tapestry.parameters import Parameters
from tapestry.provenance.hashes import content_hash
from tapestry.sessionize.sessionize import DomainInput, sessionize


def test_counts_from_another_run_of_ingest_are_an_error(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, timeline("u", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3)), domains=2)
    counts = json.loads(inputs["Books"].counts.read_text())
    inputs["Books"].counts.write_text(json.dumps(counts | {"rows_in": counts["rows_in"] + 1}))
    with pytest.raises(
        TapestryError, match=r"Books: 5 rows in, but 4 kept, quarantined or filtered; .* run ingest again"
    ):
        sessionize(inputs, SETTINGS, tmp_path / "sequences")
    assert not (tmp_path / "sequences").exists()


def test_a_memory_limit_that_is_not_a_size_is_an_error(tmp_path: Path) -> None:
    interactions = timeline("u", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3))
    with pytest.raises(TapestryError, match="memory_limit: 'plenty' is not a size such as 2GB"):
        sessionized(tmp_path, interactions, replace(SETTINGS, memory_limit="plenty"))


def test_too_little_memory_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(TapestryError, match=r"memory_limit: 1MB is too little here for \d threads; raise it"):
        sessionized(tmp_path, shoppers(5000), replace(SETTINGS, memory_limit="1MB"))
    assert not (tmp_path / "sequences").exists()


def test_the_same_interactions_give_the_same_bytes_at_any_number_of_threads(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, shoppers(1000), domains=2)
    hashes, metrics = set(), []
    for run, threads in enumerate((1, 1, 2, 4)):
        out = tmp_path / f"run{run}"
        metrics.append(sessionize(inputs, replace(SETTINGS, threads=threads), out))
        hashes.add(content_hash(out))
    assert len(hashes) == 1
    assert metrics[1:] == metrics[:1] * 3


def test_the_same_interactions_give_the_same_bytes_when_they_do_not_fit_in_memory(
    parameters: Parameters, tmp_path: Path
) -> None:
    generator = np.random.default_rng(7)
    inputs = {}
    for name in DOMAINS:
        numbers = generator.integers(0, [[30_000], [2_000], [3_000]], (3, 150_000))
        columns = {
            "user_id": [f"user{number:020}" for number in numbers[0]],
            "item_id": [f"{name}{number:020}" for number in numbers[1]],
            "timestamp": numbers[2] * DAY,
            "row": np.arange(1, 150_001),
        }
        inputs[name] = DomainInput(tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
        pq.write_table(pa.table(columns), inputs[name].interactions)
        counts = {"rows_in": 150_000, "rows_quarantined": 0, "rows_duplicate": 0, "reasons": {}}
        inputs[name].counts.write_text(json.dumps(counts))
    hashes = set()
    for limit in ("2GB", "75MB"):
        out = tmp_path / limit
        sessionize(inputs, replace(parameters.sessionize, memory_limit=limit), out)
        hashes.add(content_hash(out))
    assert len(hashes) == 1
