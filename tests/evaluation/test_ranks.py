"""Tables of ranks: the columns, and which tables of baselines are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small import random_sequences, sequences_of

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table, read_baselines, read_ranks, write_ranks


def test_a_row_has_the_target_its_rank_and_its_groups() -> None:
    day = 86_400_000
    sequences = sequences_of(
        [[0, 3, 1, 1], [3, 3, 4, 4, 0]],
        [0, 0, 0, 1, 1],
        timestamps=[[0, day, 2 * day, 2 * day], [0, day, 2 * day, 3 * day, 4 * day]],
    )
    table = ranks_table(sequences, sequences.targets(TEST), Ranks(np.array([2, 1]), np.array([3, 2])))
    assert table.to_pylist() == [
        {
            "user_id": "u0",
            "item_id": "i1",
            "domain": "D0",
            "rank": 2,
            "candidates": 3,
            "switch": False,
            "tied": True,
            "history": 3,
            "popularity": 0,
        },
        {
            "user_id": "u1",
            "item_id": "i0",
            "domain": "D0",
            "rank": 1,
            "candidates": 2,
            "switch": True,
            "tied": False,
            "history": 4,
            "popularity": 1,
        },
    ]


def test_missing_ranks_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TapestryError, match="dvc repro"):
        read_ranks(tmp_path / "ranks.parquet")


@pytest.fixture
def table() -> pa.Table:
    sequences = random_sequences(3, users=60)
    targets = sequences.targets(TEST)
    return ranks_table(sequences, targets, Ranks(np.ones(len(targets), np.int64), np.full(len(targets), 10)))


@pytest.mark.parametrize("key", ["user_id", "rank", "tied"])
def test_a_null_is_damage(tmp_path: Path, table: pa.Table, key: str) -> None:
    write_ranks(changed(table, key, 1, None), tmp_path / "ranks.parquet")
    with pytest.raises(TapestryError, match=rf"ranks\.parquet: damaged \(nulls in {key}\)"):
        read_ranks(tmp_path / "ranks.parquet")


def changed(table: pa.Table, key: str, row: int, value: object) -> pa.Table:
    values = table[key].to_pylist()
    values[row] = value
    column = table.column_names.index(key)
    return table.set_column(column, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def test_baselines_with_the_same_targets_are_read_by_name(tmp_path: Path, table: pa.Table) -> None:
    for name in ("popularity", "item_knn"):
        write_ranks(changed(table, "rank", 5, 7), tmp_path / f"{name}.parquet")
    (tmp_path / "left_over.parquet").write_bytes(b"of a baseline that no longer runs")
    baselines = read_baselines(tmp_path, ("popularity", "item_knn"), table)
    assert list(baselines) == ["item_knn", "popularity"]
    assert baselines["item_knn"]["rank"][5].as_py() == 7


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("user_id", "u99", r"user_id of row 8 is 'u99', expected 'u7'"),
        ("item_id", "x", r"item_id of row 8 is 'x', expected 'i\d+'"),
        ("domain", "D9", r"domain of row 8 is 'D9', expected 'D\d'"),
        ("candidates", 9, r"candidates of row 8 is .*9.*, expected .*10"),
        ("popularity", 99, r"popularity of row 8 is .*99"),
        ("rank", 0, "a rank is not between 1 and the candidates"),
        ("rank", 11, "a rank is not between 1 and the candidates"),
    ],
)
def test_ranks_of_other_targets_are_an_error_that_names_the_difference(
    tmp_path: Path, table: pa.Table, key: str, value: object, message: str
) -> None:
    write_ranks(changed(table, key, 7, value), tmp_path / "popularity.parquet")
    with pytest.raises(TapestryError, match=rf"popularity\.parquet: .*: {message}.*; run `dvc repro figures`"):
        read_baselines(tmp_path, ["popularity"], table)


def test_ranks_of_fewer_targets_or_other_columns_are_an_error(tmp_path: Path, table: pa.Table) -> None:
    path = tmp_path / "popularity.parquet"
    write_ranks(table.slice(0, 50), path)
    with pytest.raises(TapestryError, match=r"50 targets, expected 60; run `dvc repro figures`"):
        read_baselines(tmp_path, ["popularity"], table)
    write_ranks(table.drop(["tied"]), path)
    with pytest.raises(TapestryError, match=r"columns \['user_id', .*; run `dvc repro figures`"):
        read_baselines(tmp_path, ["popularity"], table)
    path.write_bytes(b"PAR1")
    with pytest.raises(TapestryError, match=r"popularity\.parquet: damaged \(.*run `dvc repro`"):
        read_baselines(tmp_path, ["popularity"], table)
    path.unlink()
    with pytest.raises(TapestryError, match=r"popularity\.parquet: no ranks; run `dvc repro baseline@popularity`"):
        read_baselines(tmp_path, ["popularity"], table)
    assert read_baselines(tmp_path, [], table) == {}
