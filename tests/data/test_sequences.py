from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.config import Parameters
from tapestry.data.sequences import TEST, TRAIN, VALIDATION, Domain, read_sequences
from tapestry.data.sessionize import DomainInput, sessionize
from tapestry.errors import TapestryError

HISTORIES = {
    "u": [("a", "Toys", 1), ("b", "Books", 2), ("c", "Toys", 3), ("b", "Books", 4)],
    "v": [("c", "Toys", 5), ("a", "Toys", 6), ("b", "Books", 7)],
}


@pytest.fixture(scope="module")
def folder(parameters: Parameters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sessionize makes of HISTORIES."""
    tmp_path = tmp_path_factory.mktemp("histories")
    inputs = {}
    for domain in ("Toys", "Books"):
        rows = [
            {"user_id": user, "item_id": item, "timestamp": time, "row": row}
            for user, steps in HISTORIES.items()
            for row, (item, of_domain, time) in enumerate(steps)
            if of_domain == domain
        ]
        inputs[domain] = DomainInput(tmp_path / f"{domain}.parquet", tmp_path / f"{domain}.json")
        pq.write_table(pa.Table.from_pylist(rows), inputs[domain].interactions)
        inputs[domain].counts.write_text(
            f'{{"rows_in": {len(rows)}, "rows_quarantined": 0, "rows_duplicate": 0, "reasons": {{}}}}'
        )
    config = replace(parameters.sessionize, min_user_interactions=3, min_item_interactions=1, split="leave_one_out")
    sessionize(inputs, config, tmp_path / "sequences")
    return tmp_path / "sequences"


def test_sequences_come_back_as_the_histories_that_went_in(folder: Path) -> None:
    sequences = read_sequences(folder)
    assert sequences.domains == (Domain("Toys", 0, 2), Domain("Books", 2, 3))
    assert sequences.items == 3
    found = {
        user_id: [
            (sequences.item_id[sequences.item[k]], sequences.domains[sequences.domain[k]].name, sequences.timestamp[k])
            for k in range(sequences.offsets[user], sequences.offsets[user + 1])
        ]
        for user, user_id in enumerate(sequences.user_id)
    }
    assert found == HISTORIES
    assert sequences.owner.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert sequences.split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TEST]
    assert dict(zip(sequences.item_id, sequences.train_count, strict=True)) == {"a": 1, "b": 1, "c": 1}


def test_targets_are_the_interactions_of_a_split_with_a_history(folder: Path) -> None:
    sequences = read_sequences(folder)
    assert sequences.targets(TEST).tolist() == [3, 6]
    assert sequences.targets(VALIDATION).tolist() == [2, 5]
    assert sequences.targets(TRAIN).tolist() == [1]


@pytest.mark.parametrize("name", ["sequences.parquet", "users.parquet", "items.parquet", "domains.json"])
def test_a_missing_file_says_which_stage_makes_it(folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "sequences")
    (copy / name).unlink()
    with pytest.raises(TapestryError, match=r"no sequences; run `dvc repro sessionize`"):
        read_sequences(copy)
