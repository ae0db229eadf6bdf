"""The protocol of ABXI: fetch SET | data SET | train SET RECIPE SEED | results | show (`tapestry.studies.protocol`).

Example: `python abxi_protocol.py train beauty_electronics recommended 1`. SET is beauty_electronics or food_kitchen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tapestry.core.errors import TapestryError
from tapestry.source.download import download
from tapestry.studies.protocol import Protocol, write_raw_files

HERE = Path(__file__).resolve().parent
SETS = {  # name → name at its publishers, and the two domains
    "beauty_electronics": ("abe", ("Beauty", "Electronics")),
    "food_kitchen": ("afk", ("Food", "Kitchen")),
}
SOURCE = "https://raw.githubusercontent.com/DiMarzioBian/ABXI/72e52c9f85c740cb5dbdab11f7e5a70eb28ae00d/data"
COLUMNS = ("user_id", "item_id", "timestamp", "position")


def fetch(data: str) -> None:
    """Download a set from its publishers, check it, and write it as raw files: one a domain."""
    folder, domains = SETS[data]
    names = f"{folder}_50_preprocessed.txt", "map_item_50.txt", "map_user_50.txt"
    files = [HERE / "downloads" / folder / name for name in names]
    for name, file in zip(names, files, strict=True):
        download(f"{SOURCE}/{folder}/{name}", file, HERE / "checksums.json")
    sequences, items, users = files
    write_raw_files(COLUMNS, published_rows(sequences, items, users, domains), HERE / "raw" / data)


def published_rows(
    sequences: Path, items: Path, users: Path, domains: tuple[str, ...]
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each domain, with Amazon's ids, times in seconds, and the published order of each user.

    Args:
        sequences: a line a user, in order: its number, then item|time (s) of each interaction.
        items: JSON, {item_id: [number, index of the domain]}.
        users: JSON, {user_id: number}.

    Raises:
        TapestryError: an interaction of a user or item that is in neither map.
    """
    item_of = {number: (item_id, domain) for item_id, (number, domain) in json.loads(items.read_text()).items()}
    user_of = {number: user_id for user_id, number in json.loads(users.read_text()).items()}
    rows: dict[str, list[tuple[Any, ...]]] = {domain: [] for domain in domains}
    for line in sequences.read_text().splitlines():
        user, *steps = line.split()
        for position, step in enumerate(steps):
            number, _, time = step.partition("|")
            if int(number) not in item_of or int(user) not in user_of:
                raise TapestryError(f"{sequences}: user {user}, item {number}: not in {users.name} or {items.name}")
            item_id, domain = item_of[int(number)]
            rows[domains[domain]].append((user_of[int(user)], item_id, time, position))
    return rows


PROTOCOL = Protocol(HERE, fetch)

if __name__ == "__main__":
    PROTOCOL.run(sys.argv[1:])
