"""The protocol of S3-Rec: fetch SET | data SET | train SET RECIPE SEED | results | show (`tapestry.studies.protocol`).

Example: `python s3rec_protocol.py train beauty recommended 1`. SET is beauty, sports or toys.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tapestry.source.download import download
from tapestry.studies.protocol import COLUMNS_WITHOUT_TIMES, Protocol, rows_without_times, write_raw_files

HERE = Path(__file__).resolve().parent
SETS = {"beauty": "Beauty", "sports": "Sports_and_Outdoors", "toys": "Toys_and_Games"}  # name → domain, as published
SOURCE = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/2a81540ae18615d88ef88227b0c066e5b74781e5/data"


def fetch(data: str) -> None:
    """Download a set from its publishers, check it, and write it as a raw file."""
    domain = SETS[data]
    file = HERE / "downloads" / f"{domain}.txt"
    download(f"{SOURCE}/{domain}.txt", file, HERE / "checksums.json")
    rows = {domain: rows_without_times(published_items(file))}
    write_raw_files(COLUMNS_WITHOUT_TIMES, rows, HERE / "raw" / data)


def published_items(file: Path) -> dict[str, list[str]]:
    """Return the items of each user in time order.

    Args:
        file: a line a user, "user item item …", in time order.
    """
    items_of = {}
    for line in file.read_text().splitlines():
        user, *items = line.split()
        items_of[user] = items
    return items_of


PROTOCOL = Protocol(HERE, fetch)

if __name__ == "__main__":
    PROTOCOL.run(sys.argv[1:])
