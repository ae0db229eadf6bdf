"""The column names of raw review files by release, and how a file's layout is found.

To add a release's layout, add one entry to `LAYOUTS`, and its names and unit to `CASES` in
tests/ingest/test_layouts.py. Every reader (JSON lines, CSV, Parquet) then reads such files, and the error for an
unknown file lists it. For example, for files with the columns uid, sku, ts (in milliseconds) and stars:

    Layout(name="shop-2030", user="uid", item="sku", timestamp="ts", rating="stars", unit="ms"),

A file has the first layout of `LAYOUTS` whose user, item and timestamp columns it all has; the rating is optional. So
if the columns of one layout are a subset of another's, the larger one comes first. To also download the release, add
its addresses to `RELEASES` in tapestry/source/releases.py and its name to `SourceSettings.release`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Column names of one release and the unit of its timestamps."""

    name: str
    user: str
    item: str
    timestamp: str
    rating: str
    unit: Literal["s", "ms"]
    given: tuple[str, ...] = ()
    """Further columns to read, of the same names in every layout: `position` and `split` (`ingest.given_columns`)."""

    @property
    def needed(self) -> tuple[str, str, str]:
        """The columns that a file must have."""
        return self.user, self.item, self.timestamp

    @property
    def by_key(self) -> dict[str, str]:
        """{field of an interaction: the name of its column in the file}; the fields are `tapestry.ingest.rows.KEYS`."""
        own = {"user": self.user, "item": self.item, "timestamp": self.timestamp, "rating": self.rating}
        return own | {name: name for name in self.given}

    def __str__(self) -> str:
        return f"{', '.join(self.needed)}[, {self.rating}] ({self.name}, timestamps in {self.unit})"


LAYOUTS = (
    Layout(
        name="amazon-2014 and amazon-2018",
        user="reviewerID",
        item="asin",
        timestamp="unixReviewTime",
        rating="overall",
        unit="s",
    ),
    Layout(name="amazon-2023", user="user_id", item="parent_asin", timestamp="timestamp", rating="rating", unit="ms"),
    Layout(name="plain", user="user_id", item="item_id", timestamp="timestamp", rating="rating", unit="s"),
)
_RATINGS_ONLY = LAYOUTS[0]  # of Amazon's CSV files without a header
_USER_FIRST = (_RATINGS_ONLY.user, _RATINGS_ONLY.item, _RATINGS_ONLY.rating, _RATINGS_ONLY.timestamp)  # 2014
_ITEM_FIRST = (_RATINGS_ONLY.item, _RATINGS_ONLY.user, _RATINGS_ONLY.rating, _RATINGS_ONLY.timestamp)  # 2018
_USER = re.compile(r"A[0-9A-Z]{9,20}")
_ITEM = re.compile(r"[0-9B][0-9A-Z]{9}")
_SECONDS = re.compile(r"-?[0-9]{9,10}")
_RECBOLE_TYPE = re.compile(r":(token|token_seq|float|float_seq)\Z")


def layout_of(columns: Sequence[str]) -> Layout | None:
    """Find the first layout of which `columns` has all needed columns; None if there is none."""
    return next((layout for layout in LAYOUTS if all(name in columns for name in layout.needed)), None)


def header_names(fields: Sequence[str]) -> list[str]:
    """Clean the fields of a header: no whitespace or quotes around them, no RecBole types (`user_id:token`)."""
    names = [field.strip() for field in fields]
    names = [name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name for name in names]
    if all(_RECBOLE_TYPE.search(name) for name in names):
        names = [_RECBOLE_TYPE.sub("", name) for name in names]
    return names


def columns_without_header(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Find the column names of Amazon's ratings-only files, which have no header.

    The files of 2014 have (user, item, rating, timestamp), those of 2018 (item, user, rating, timestamp). A user read
    as an item would not be noticed later, so the ids decide. Amazon's user ids are an A and 9 to 20 letters and
    digits. Its item ids are ten letters and digits, and the first is a B or a digit.

    Args:
        rows: the fields of the file's first lines.

    Returns:
        The names; None if no more than half of the rows have such ids, or if the first row has four fields and the
        fourth is no time: then the first row is a header, with unknown names.
    """
    if rows and len(rows[0]) == 4 and not _SECONDS.fullmatch(rows[0][3].strip()):
        return None
    rows = [row for row in rows if len(row) == 4 and _SECONDS.fullmatch(row[3].strip())]
    for columns, users, items in ((_USER_FIRST, 0, 1), (_ITEM_FIRST, 1, 0)):
        matching = sum(
            bool(_USER.fullmatch(row[users].strip())) and bool(_ITEM.fullmatch(row[items].strip())) for row in rows
        )
        if 2 * matching > len(rows):
            return columns
    return None
