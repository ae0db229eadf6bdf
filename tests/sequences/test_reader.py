"""Sequences read back equal the histories that were written; damaged or contradicting files are errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import random_sequences, sequences_of

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.parameters import Parameters
from tapestry.sequences.reader import Domain, read_sequences
from tapestry.sessionize.sessionize import DomainInput, sessionize

HISTORIES = {
    "u": [("a", "Toys", 1), ("b", "Books", 2), ("c", "Toys", 3), ("b", "Books", 4)],
    "v": [("c", "Toys", 5), ("a", "Toys", 6), ("b", "Books", 7)],
}


@pytest.fixture(scope="module")
def folder(parameters: Parameters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that sessionize writes for HISTORIES."""
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
    settings = replace(parameters.sessionize, min_user_interactions=3, min_item_interactions=1, split="leave_one_out")
    sessionize(inputs, settings, tmp_path / "sequences")
    return tmp_path / "sequences"


def test_sequences_equal_the_histories_that_were_written(folder: Path) -> None:
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
    assert sequences.user.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert sequences.split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TEST]
    assert dict(zip(sequences.item_id, sequences.train_count, strict=True)) == {"a": 1, "b": 1, "c": 1}


def test_validation_can_count_as_training(folder: Path) -> None:
    sequences = read_sequences(folder)
    merged = sequences.with_validation_trained()
    assert merged.split.tolist() == [TRAIN, TRAIN, TRAIN, TEST, TRAIN, TRAIN, TEST]
    assert merged.train_length.tolist() == [3, 2]
    expected = [merged.item[merged.split == TRAIN].tolist().count(item) for item in range(merged.items)]
    assert merged.train_count.tolist() == expected
    assert merged.targets(TEST).tolist() == sequences.targets(TEST).tolist()
    assert sequences.split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TEST]


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


def rewrite(path: Path, change: Callable[[dict[str, list[object]]], None]) -> None:
    """Change the values of a Parquet file, not its column types."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, schema=table.schema), path)


def dropped_user(columns: dict[str, list[object]]) -> None:
    for values in columns.values():
        del values[0]


CONTRADICTIONS: dict[str, tuple[str, Callable[[dict[str, list[object]]], None], str]] = {
    "users of other data": ("users", dropped_user, "the offsets in users.parquet"),
    "users in another order": ("users", lambda c: c["offset"].reverse(), "the offsets in users.parquet"),
    "a shifted offset": ("users", lambda c: c["offset"].__setitem__(1, 3), "the offsets in users.parquet"),
    "fewer items": ("items", dropped_user, "domains.json has 3 items, items.parquet 2"),
    "items of other domains": ("items", lambda c: c["domain"].reverse(), "domains.json and items.parquet"),
    "other counts": ("items", lambda c: c["train_count"].__setitem__(0, 9), "train_count in items.parquet"),
    "unknown item": ("sequences", lambda c: c["item"].__setitem__(0, 3), "outside the 3 of items.parquet"),
    "negative item": ("sequences", lambda c: c["item"].__setitem__(0, -1), "outside the 3 of items.parquet"),
    "other domain": ("sequences", lambda c: c["domain"].__setitem__(0, 1), "sequences.parquet and items.parquet"),
    "other split": ("sequences", lambda c: c["split"].__setitem__(0, 1), "train_count"),
}


@pytest.mark.parametrize(("name", "change", "complaint"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_files_from_different_runs_are_an_error_that_names_the_difference(
    folder: Path, tmp_path: Path, name: str, change: Callable[[dict[str, list[object]]], None], complaint: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "sequences")
    rewrite(copy / f"{name}.parquet", change)
    with pytest.raises(TapestryError, match=f"from different runs: .*{complaint}.*; remove the folder and run"):
        read_sequences(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("domains.json", b'[{"name": "Toys", "start": 0, "end": 1}, {"name": "Books", "start": 1, "end": 3}]'),
        ("domains.json", b'[{"name": "Toys", "start": 0, "end": 3}, {"name": "Books", "start": 2, "end": 3}]'),
        ("domains.json", b'[{"name": "Toys", "start": 0, "end": 2}, {"name": "Toys", "start": 2, "end": 3}]'),
        ("domains.json", b'[{"name": "Toys", "start": 0, "end": 2}]'),
        ("domains.json", b"[]"),
        ("domains.json", b'[{"name": "Toys", "start": 0, "end": Infinity}]'),
        ("domains.json", b'[{"name": "Toys", "start": 0}]'),
        ("domains.json", b'{"name": "Toys"}'),
        ("domains.json", b"[" * 100_000),
        ("domains.json", b"\xff\xfe"),
        ("domains.json", b""),
        ("users.parquet", b""),
        ("items.parquet", b"PAR1 and no more"),
    ],
)
def test_a_damaged_file_is_an_error(folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    copy = shutil.copytree(folder, tmp_path / "sequences")
    (copy / name).write_bytes(content)
    with pytest.raises(TapestryError, match=r"(damaged|from different runs).*run `dvc repro sessionize`"):
        read_sequences(copy)


@pytest.mark.parametrize("change", ["null", "float", "dropped"])
def test_a_column_of_another_type_is_an_error(folder: Path, tmp_path: Path, change: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "sequences")
    table = pq.read_table(copy / "sequences.parquet")
    if change == "null":
        table = table.set_column(2, "item", pa.array([None] * len(table), pa.int32()))
    elif change == "float":
        table = table.set_column(2, "item", table["item"].cast(pa.float64()))
    else:
        table = table.drop(["item"])
    pq.write_table(table, copy / "sequences.parquet")
    with pytest.raises(TapestryError, match=r"damaged or from another version \(.*item.*run `dvc repro sessionize`"):
        read_sequences(copy)


def test_the_training_part_leaves_out_targets_between_training_interactions() -> None:
    split = [[0, 1, 2, 0, 0], [0, 0, 1, 2], [1, 2, 0]]
    sequences = sequences_of([[0, 1, 2, 3, 4], [4, 3, 2, 1], [2, 1, 0]], [0, 0, 0, 1, 1], split=split)
    part = sequences.training_part()
    histories = [part.item[part.offsets[u] : part.offsets[u + 1]].tolist() for u in range(3)]
    assert histories == [[0, 3, 4], [4, 3], [0]]
    assert part.domain.tolist() == [0, 1, 1, 1, 1, 0]
    assert part.timestamp.tolist() == [86_400_000 * day for day in (0, 3, 4, 0, 1, 2)]
    assert part.train_length.tolist() == [3, 2, 1]
    assert part.train_count.tolist() == sequences.train_count.tolist()


def test_the_training_part_of_sequences_that_begin_with_training_is_the_sequences() -> None:
    sequences = random_sequences(0)
    assert sequences.training_part() is sequences
