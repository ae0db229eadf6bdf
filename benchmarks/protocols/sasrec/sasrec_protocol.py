"""The protocol of SASRec: fetch SET | data SET | train SET RECIPE SEED | results | show (`tapestry.studies.protocol`).

Example: `python sasrec_protocol.py train games recommended 1`. SET is games.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from tapestry.source.download import download
from tapestry.studies.protocol import COLUMNS_WITHOUT_TIMES, Protocol, rows_without_times, write_raw_files

HERE = Path(__file__).resolve().parent
SETS = {"games": ("Video", "Games")}  # name → name at its publishers, and the domain
SOURCE = "https://raw.githubusercontent.com/kang205/SASRec/e3738967fddab206d6eeb4fda433e7a7034dd8b1/data"


def fetch(data: str) -> None:
    """Download a set from its publishers, check it, and write it as a raw file."""
    name, domain = SETS[data]
    file = HERE / "downloads" / f"{name}.txt"
    download(f"{SOURCE}/{name}.txt", file, HERE / "checksums.json")
    rows = {domain: rows_without_times(published_items(file))}
    write_raw_files(COLUMNS_WITHOUT_TIMES, rows, HERE / "raw" / data)


def published_items(file: Path) -> dict[str, list[str]]:
    """Return the items of each user in time order.

    Args:
        file: a line an interaction, "user item", in the time order of each user.
    """
    items_of: dict[str, list[str]] = defaultdict(list)
    for line in file.read_text().splitlines():
        user, item = line.split()
        items_of[user].append(item)
    return items_of


PROTOCOL = Protocol(HERE, fetch)

if __name__ == "__main__":
    PROTOCOL.run(sys.argv[1:])
