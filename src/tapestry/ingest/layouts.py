"""The columns of raw review files by release, and which of them a file has: looked at, never assumed."""

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

    @property
    def needed(self) -> tuple[str, str, str]:
        return self.user, self.item, self.timestamp

    @property
    def by_key(self) -> dict[str, str]:
        """The file's names of what we call user, item, timestamp and rating."""
        return {"user": self.user, "item": self.item, "timestamp": self.timestamp, "rating": self.rating}

    def __str__(self) -> str:
        return f"{', '.join(self.needed)}[, {self.rating}] ({self.name}, timestamps in {self.unit})"


LAYOUTS = (
    Layout("amazon-2014 and amazon-2018", "reviewerID", "asin", "unixReviewTime", "overall", "s"),
    Layout("amazon-2023", "user_id", "parent_asin", "timestamp", "rating", "ms"),
    Layout("plain", "user_id", "item_id", "timestamp", "rating", "s"),
)
RATINGS_ONLY = LAYOUTS[0]
_USER_FIRST = (RATINGS_ONLY.user, RATINGS_ONLY.item, RATINGS_ONLY.rating, RATINGS_ONLY.timestamp)  # 2014
_ITEM_FIRST = (RATINGS_ONLY.item, RATINGS_ONLY.user, RATINGS_ONLY.rating, RATINGS_ONLY.timestamp)  # 2018
_USER = re.compile(r"A[0-9A-Z]{9,20}")
_ITEM = re.compile(r"[0-9B][0-9A-Z]{9}")
_SECONDS = re.compile(r"-?[0-9]{9,10}")
_RECBOLE_TYPE = re.compile(r":(token|token_seq|float|float_seq)\Z")


def layout_of(columns: Sequence[str]) -> Layout | None:
    """The release whose column names are all there."""
    return next((layout for layout in LAYOUTS if all(name in columns for name in layout.needed)), None)


def header_names(fields: Sequence[str]) -> list[str]:
    """Column names of a header's fields, without blanks around them and without RecBole's types (`user_id:token`)."""
    names = [field.strip() for field in fields]
    names = [name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name for name in names]
    if all(_RECBOLE_TYPE.search(name) for name in names):
        names = [_RECBOLE_TYPE.sub("", name) for name in names]
    return names


def columns_without_header(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """The column names of ratings-only rows, which have no header: user or item first, as their ids tell.

    The 2014 files are (user, item, rating, timestamp), those of 2018 (item, user, rating, timestamp); a swap would
    go through unnoticed. Amazon's user ids are an A and 9 to 20 letters and digits; its items' are ten of these, the
    first a B or a digit. None where most rows are neither, or where the first has four fields and no time as the
    fourth: that is a header, if one with names of its own.
    """
    if rows and len(rows[0]) == 4 and not _SECONDS.fullmatch(rows[0][3].strip()):
        return None
    rows = [row for row in rows if len(row) == 4 and _SECONDS.fullmatch(row[3].strip())]
    for columns, users, items in ((_USER_FIRST, 0, 1), (_ITEM_FIRST, 1, 0)):
        alike = sum(
            bool(_USER.fullmatch(row[users].strip())) and bool(_ITEM.fullmatch(row[items].strip())) for row in rows
        )
        if 2 * alike > len(rows):
            return columns
    return None
