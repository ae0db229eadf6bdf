"""Interactions given as plain tuples: written as ingest does, run through sessionize, and read back."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tapestry.sessionize.sessionize import DomainInput, sessionize
from tapestry.sessionize.settings import SessionizeSettings

DAY = 86_400_000


DOMAINS = ("Toys", "Books", "Games")  # not in alphabetical order: the vocabulary follows the list


SETTINGS = SessionizeSettings(
    item_identity="global",
    max_contested_share=1.0,
    min_user_interactions=3,
    min_item_interactions=1,
    min_domains=1,
    max_length=512,
    split="leave_one_out",
    validation_share=0.1,
    test_share=0.1,
    ties="hash",
    seed=7,
    engine="duckdb",
    memory_limit="2GB",
    threads=2,
)
"""Filters that small data passes."""


class Interaction(NamedTuple):
    user: str
    item: str
    domain: int
    day: int
    row: int  # of the domain's raw file
    position: int = 0  # the given ones, which only `order: given` and `split: given` read
    split: int = 0


def write_inputs(folder: Path, interactions: list[Interaction], domains: int) -> dict[str, DomainInput]:
    """Write the files of ingest. In domain number d, d rows were quarantined and 2 d were duplicates."""
    inputs = {}
    schema = pa.schema(
        {
            "user_id": "string",
            "item_id": "string",
            "timestamp": "int64",
            "rating": "float32",
            "domain": "string",
            "row": "int64",
            "position": "int64",
            "split": "int8",
        }
    )
    for domain, name in enumerate(DOMAINS[:domains]):
        rows = sorted(i for i in interactions if i.domain == domain)
        values = [
            {
                "user_id": i.user,
                "item_id": i.item,
                "timestamp": i.day * DAY,
                "domain": name,
                "row": i.row,
                "position": i.position,
                "split": i.split,
            }
            for i in rows
        ]
        inputs[name] = DomainInput(folder / f"{name}.parquet", folder / f"{name}.json")
        pq.write_table(pa.Table.from_pylist(values, schema), inputs[name].interactions)
        counts = {
            "rows_in": len(rows) + 3 * domain,
            "rows_quarantined": domain,
            "rows_duplicate": 2 * domain,
            "reasons": {"missing user": domain},
        }
        inputs[name].counts.write_text(json.dumps(counts))
    return inputs


@dataclass(frozen=True)
class Result:
    """The files of a sequences folder as lists of rows, and the metrics that sessionize returned."""

    sequences: list[tuple[int, ...]]
    users: list[tuple[Any, ...]]
    items: list[tuple[Any, ...]]
    domains: list[dict[str, Any]]
    metrics: dict[str, Any]

    def timelines(self) -> dict[str, list[tuple[int, str]]]:
        """Each user's (day, item), in order."""
        return {
            user_id: [
                (time // DAY, self.items[item][1])
                for _, _, item, _, time, _ in self.sequences[offset : offset + length]
            ]
            for _, user_id, offset, length in self.users
        }


def rows_of(path: Path, types: dict[str, str]) -> list[tuple[Any, ...]]:
    """Read a Parquet file as tuples, and check the names and types of its columns."""
    table = pq.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == types
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def sessionized(
    folder: Path, interactions: list[Interaction], settings: SessionizeSettings, domains: int = 2
) -> Result:
    """Write the interactions as ingest does, run sessionize, and read its files."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "sequences"
    metrics = sessionize(write_inputs(folder, interactions, domains), settings, out)
    return read_result(out, metrics)


def read_result(out: Path, metrics: dict[str, Any]) -> Result:
    """Read the files of the folder `out`, and check that there are no others."""
    assert {path.name for path in out.iterdir()} == {
        "sequences.parquet",
        "users.parquet",
        "items.parquet",
        "domains.json",
    }
    sequence_types = {
        "user": "int32",
        "position": "int32",
        "item": "int32",
        "domain": "int16",
        "timestamp": "int64",
        "split": "int8",
    }
    return Result(
        sequences=rows_of(out / "sequences.parquet", sequence_types),
        users=rows_of(
            out / "users.parquet", {"user": "int32", "user_id": "string", "offset": "int64", "length": "int32"}
        ),
        items=rows_of(
            out / "items.parquet", {"item": "int32", "item_id": "string", "domain": "int16", "train_count": "int64"}
        ),
        domains=json.loads((out / "domains.json").read_text()),
        metrics=metrics,
    )


def timeline(user: str, *steps: tuple[str, int, int]) -> list[Interaction]:
    """A user's interactions from (item, domain, day), in the order of the raw file."""
    return [Interaction(user, item, domain, day, 100 + row) for row, (item, domain, day) in enumerate(steps)]


def shoppers(count: int) -> list[Interaction]:
    """Users with interactions on four days, tied ones on the middle two. The raw rows are in random order."""
    generator = random.Random(7)
    rows = generator.sample(range(1, 6 * count + 1), 6 * count)
    days = [0, 1, 1, 2, 2, 3]
    return [
        Interaction(f"u{user:03}", f"{'ab'[k % 2]}{generator.randrange(5)}", k % 2, days[k], rows.pop())
        for user in range(count)
        for k in range(6)
    ]


filters = st.fixed_dictionaries(
    {
        "item_identity": st.sampled_from(["global", "domain"]),
        "max_contested_share": st.sampled_from([0.2, 1.0, 1.0, 1.0]),
        "min_user_interactions": st.integers(3, 9),
        "min_item_interactions": st.integers(1, 4),
        "min_domains": st.integers(1, 3),
        "max_length": st.integers(3, 20),
        "ties": st.sampled_from(["hash", "row"]),
        "contested_items": st.sampled_from(["owner", "drop"]),
        "min_user_domain_interactions": st.integers(1, 3),
        "k_core": st.sampled_from(["iterated", "once"]),
        "seed": st.integers(-1, 3),
        "threads": st.integers(1, 4),
    }
)
