"""Tables of ranks, of the model (metrics/ranks.parquet) and of the baselines. All test figures come from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tapestry.core.arrays import Integers
from tapestry.core.arrow import booleans, integers, texts, to_numpy
from tapestry.core.atomic import atomic_file
from tapestry.core.errors import TapestryError, one_line, shown

if TYPE_CHECKING:  # reading a table must not import torch
    from tapestry.evaluation.ranking import Ranks
    from tapestry.sequences.reader import Sequences


def ranks_table(sequences: Sequences, targets: Integers, ranks: Ranks) -> pa.Table:
    """Build the table of ranks, one row a target.

    Columns: user_id, item_id, domain (text). rank and candidates (int64) as in `Ranks`. history (int64): number of
    interactions before the target. popularity (int64): training interactions of the item. switch (bool): the
    interaction before the target has another domain. tied (bool): it has the same timestamp.

    Args:
        targets: indices of interactions.
    """
    item = sequences.item[targets]
    names = np.array([domain.name for domain in sequences.domains], dtype=object)
    return pa.table(
        {
            "user_id": texts(sequences.user_id[sequences.user[targets]]),
            "item_id": texts(sequences.item_id[item]),
            "domain": texts(names[sequences.domain[targets]]),
            "rank": integers(ranks.rank),
            "candidates": integers(ranks.candidates),
            "switch": booleans(sequences.domain[targets] != sequences.domain[targets - 1]),
            "tied": booleans(sequences.timestamp[targets] == sequences.timestamp[targets - 1]),
            "history": integers(targets - sequences.offsets[sequences.user[targets]]),
            "popularity": integers(sequences.train_count[item]),
        }
    )


def write_ranks(table: pa.Table, path: Path) -> None:
    """Write a table of ranks as Parquet, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_ranks(path: Path, stage: str = "") -> pa.Table:
    """Read a table of ranks.

    Args:
        stage: the DVC stage that makes the file, for messages.

    Raises:
        TapestryError: the file is missing or damaged.
    """
    if not path.is_file():
        raise TapestryError(f"{path}: no ranks; run `{f'dvc repro {stage}'.strip()}`")
    try:
        table = pq.ParquetFile(path).read()  # read_table would load pyarrow's data sets
        if nulls := [name for name in table.column_names if table[name].null_count]:
            raise ValueError(f"nulls in {', '.join(nulls)}")
    except (OSError, ValueError) as error:
        raise TapestryError(f"{path}: damaged ({one_line(str(error))}); remove it and run `dvc repro`") from error
    return table


def read_baselines(folder: Path, names: Iterable[str], table: pa.Table) -> dict[str, pa.Table]:
    """Read the ranks of baselines in `folder`, by name, in the order of the alphabet.

    Args:
        names: of the baselines; other files of the folder are not read.
        table: the model's ranks. The baselines must have the same targets, in the same order and with as many
            candidates.

    Raises:
        TapestryError: a file is missing or damaged, or a baseline ranks other targets.
    """
    baselines = {name: read_ranks(folder / f"{name}.parquet", f"baseline@{name}") for name in sorted(names)}
    for name, ranked in baselines.items():
        wrong = _difference(ranked, table)
        if wrong:
            raise TapestryError(
                f"{folder / name}.parquet: not of the same targets as the model's ranks: {wrong}; "
                "run `dvc repro figures`"
            )
    return baselines


def _difference(ranked: pa.Table, expected: pa.Table) -> str | None:
    """Return the first difference between the targets, with both values; None if they are the same."""
    if ranked.schema != expected.schema:
        return f"columns {one_line(str(ranked.column_names))} of types {one_line(str(ranked.schema.types))}"
    if len(ranked) != len(expected):
        return f"{len(ranked)} targets, expected {len(expected)}"
    for key in (name for name in expected.column_names if name != "rank"):
        wanted, found = (to_numpy(table[key]) for table in (expected, ranked))
        (rows,) = np.nonzero(wanted != found)
        if len(rows):
            row = int(rows[0])
            return f"{key} of row {row + 1} is {shown(found[row])}, expected {shown(wanted[row])}"
    rank = to_numpy(ranked["rank"])
    if ((rank < 1) | (rank > to_numpy(ranked["candidates"]))).any():
        return "a rank is not between 1 and the candidates"
    return None
