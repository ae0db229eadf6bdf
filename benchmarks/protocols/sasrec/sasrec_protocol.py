"""The protocol of SASRec: fetch SET | data SET | train SET RECIPE SEED | results | show (`tapestry.studies.protocol`).

Example: `python sasrec_protocol.py train games recommended 1`. SET is games.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from tapestry.source.download import download
from tapestry.studies.protocol import Protocol, write_raw_files

HERE = Path(__file__).resolve().parent
SETS = {"games": ("Video", "Games")}  # name → name at its publishers, and the domain
SOURCE = "https://raw.githubusercontent.com/kang205/SASRec/e3738967fddab206d6eeb4fda433e7a7034dd8b1/data"
COLUMNS = ("user_id", "item_id", "timestamp", "position", "split")
FIRST_DAY, DAY = 946_684_800, 86_400  # 2000-01-01 UTC, in seconds since 1970


def fetch(data: str) -> None:
    """Download a set from its publishers, check it, and write it as a raw file."""
    name, domain = SETS[data]
    file = HERE / "downloads" / f"{name}.txt"
    download(f"{SOURCE}/{name}.txt", file, HERE / "checksums.json")
    write_raw_files(COLUMNS, {domain: published_rows(file)}, HERE / "raw" / data)


def published_rows(file: Path) -> list[tuple[str, str, int, int, str]]:
    """Return a row for each interaction: user, item, time (s), position in the user's order, and split.

    The times are made up, a day for each position, because the published file has none. Of a user with at least three
    interactions the last one is for test and the one before it for validation; all others are for training.

    Args:
        file: a line an interaction, "user item", in the time order of each user.
    """
    items_of: dict[str, list[str]] = defaultdict(list)
    for line in file.read_text().splitlines():
        user, item = line.split()
        items_of[user].append(item)
    rows = []
    for user, items in items_of.items():
        last = ["validation", "test"] if len(items) >= 3 else []
        splits = ["train"] * (len(items) - len(last)) + last
        for position, (item, split) in enumerate(zip(items, splits, strict=True)):
            rows.append((user, item, FIRST_DAY + DAY * position, position, split))
    return rows


PROTOCOL = Protocol(HERE, "SASRec", fetch)

if __name__ == "__main__":
    PROTOCOL.run(sys.argv[1:])
