"""Histories given by the caller: lists of item ids, in a file or in a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapestry.core.errors import TapestryError, one_line, shown

_ITEM = 'expected text, a whole number, or {"item_id": …, "domain": …}'
_LINE = '{"history": [item ids in time order], "user_id": text} (user_id is optional), or only the list'
_LARGEST_WHOLE_FLOAT = 2**53  # above it, not every integer is a float


@dataclass(frozen=True)
class History:
    """A user's item ids in time order, and the domain of each item, None if not given."""

    user_id: str
    item_ids: list[str]
    domains: list[str | None]


def parse_history(user_id: str, entries: Iterable[Any]) -> History:
    """Parse a history. An entry is an id (text or a whole number) or {"item_id": id, "domain": name}.

    Raises:
        TapestryError: an entry is something else.
    """
    item_ids: list[str] = []
    domains: list[str | None] = []
    for number, entry in enumerate(entries, start=1):
        named = entry if isinstance(entry, dict) else {"item_id": entry}
        item_id, domain = _id(named.get("item_id")), named.get("domain")
        if item_id is None or not isinstance(domain, str | None) or named.keys() - {"item_id", "domain"}:
            raise TapestryError(f"item {number} of the history is {shown(entry)}: {_ITEM}")
        item_ids.append(item_id)
        domains.append(domain)
    return History(user_id, item_ids, domains)


def read_histories(content: bytes, name: str) -> list[History]:
    """Parse a file's histories: JSON lines if its first line begins with { or [, else one history, one item id a line.

    Blank lines are skipped. The user_id of a history without one is its line number, for example "line 3".

    Args:
        name: the file's name, for messages.

    Raises:
        TapestryError: the file is not UTF-8, has no history, or a line is not a history; the message names the file
            and the line.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TapestryError(f"{name}, line {line}: not UTF-8; save the file as UTF-8") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise TapestryError(f"{name}: no history in it; expected item ids, one a line, or JSON lines of {_LINE}")
    first, text = numbered[0]
    if not text.startswith(("{", "[")):
        return [parse_history(f"line {first}", [text for _, text in numbered])]
    return list(_json_lines(numbered, name))


def _json_lines(numbered: Iterable[tuple[int, str]], name: str) -> Iterator[History]:
    for number, text in numbered:
        try:
            row = json.loads(text)
            row = {"history": row} if isinstance(row, list) else row
            if not isinstance(row, dict) or not isinstance(row.get("history"), list):
                raise TapestryError(f"found {one_line(text)}, expected {_LINE}")
            if unknown := row.keys() - {"user_id", "history"}:
                raise TapestryError(f"unknown key {shown(min(unknown))}, expected {_LINE}")
            user_id = _id(row.get("user_id"))
            if user_id is None and row.get("user_id") is not None:
                raise TapestryError(f"user_id is {shown(row['user_id'])}, expected text or a whole number")
            yield parse_history(f"line {number}" if user_id is None else user_id, row["history"])
        except (ValueError, RecursionError) as error:
            raise TapestryError(f"{name}, line {number}: not JSON ({error}); expected {_LINE}") from error
        except TapestryError as error:
            raise TapestryError(f"{name}, line {number}: {error}") from error


def _id(value: Any) -> str | None:
    """Return an id as ingest writes it: text, or a whole number (1.0 is one); None if `value` is neither."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) <= _LARGEST_WHOLE_FLOAT else None
    return None
