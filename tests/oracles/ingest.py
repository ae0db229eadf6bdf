"""An independent ingest: classifies a raw file row by row in plain Python."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oracles.csv_records import read_records
from tapestry.ingest.settings import IngestSettings

Interaction = tuple[str, str, int, float | None]
"""User, item, timestamp in milliseconds, rating."""

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_IN_FULL = re.compile(r"[-+]?[0-9]+(\.0*)?")
_UNITS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}


@dataclass(frozen=True)
class Unusable:
    """Why a value can't be used; `{}` stands for the name of the field."""

    reason: str


@dataclass(frozen=True)
class Timestamp:
    """A timestamp as text, and the reason why it is rounded, if it is."""

    text: str | None
    rounded: str | None = None


@dataclass(frozen=True)
class NumberText:
    """The text of a JSON number with a fraction or an exponent, or of NaN or an infinity."""

    text: str


def classify(
    user: str | Unusable, item: str | Unusable, time: Timestamp, rating: str | None, settings: IngestSettings, unit: str
) -> str | Interaction:
    """Return the interaction of a row, or the reason why the row is unusable."""
    for name, value in (("user", user), ("item", item)):
        if isinstance(value, Unusable):
            return value.reason.format(name)
    text = (time.text or "").strip()
    if not text:
        return "missing timestamp"
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number) or number != math.floor(number):
        return "timestamp is not a whole number"
    first, last = settings.time_range()
    if not first <= number * _UNITS[unit] < last:
        for other, size in _UNITS.items():
            if other != unit and first <= number * size < last:
                return f"timestamp in {other}, {unit} expected"
        return "timestamp out of range"
    if not _IN_FULL.fullmatch(text):
        return "timestamp in scientific notation, which rounds it"
    if time.rounded:
        return time.rounded
    rating_text = (rating or "").strip()
    if rating_text:
        parsed = math.inf if rating_text.lower().lstrip("+-") in ("inf", "infinity") else math.nan
        parsed = float(rating_text) if _NUMBER.fullmatch(rating_text) else parsed
        if math.isnan(parsed):
            return "rating is not a number"
        if not settings.min_rating <= parsed <= settings.max_rating:
            return "rating out of range"
    assert isinstance(user, str)
    assert isinstance(item, str)
    return user, item, int(number * _UNITS[unit]), float(rating_text) if rating_text else None


def text_id(text: str | None) -> str | Unusable:
    text = (text or "").strip()
    return text or Unusable("missing {}")


def float_id(number: float, bits: int = 53) -> str | Unusable:
    if math.isnan(number):
        return Unusable("missing {} (NaN)")
    if not math.isfinite(number) or number != math.floor(number):
        return Unusable("{} is not a whole number")
    return Unusable(f"{{}} is a float above 2^{bits}, which rounds it") if abs(number) > 2**bits else str(int(number))


def csv_id(text: str) -> str | Unusable:
    text = text.strip()
    if re.fullmatch(r"-?[0-9]+\.0", text):
        return float_id(float(text))
    if re.fullmatch(r"-?[0-9]\.[0-9]+[eE]\+[0-9]+", text):
        return Unusable("{} is a number in scientific notation, which rounds it")
    return Unusable("missing {} (NaN)") if text.lower() in ("nan", "null", "none") else text_id(text)


def json_id(value: Any) -> str | Unusable:
    if isinstance(value, NumberText):
        return float_id(float(value.text))
    for kind, what in ((bool, "true or false"), (list, "a list"), (dict, "an object")):
        if isinstance(value, kind):
            return Unusable(f"{{}} is {what}, not text or a number")
    return text_id(None if value is None else str(value))


def classify_csv(
    body: bytes, delimiter: bytes, columns: Sequence[str], names: Sequence[str], settings: IngestSettings, unit: str
) -> list[str | Interaction]:
    """Classify the rows of CSV below its header.

    Args:
        columns: the names of all columns.
        names: the names of the user, item, timestamp and rating columns.
    """
    indices = [columns.index(name) if name in columns else None for name in names]
    assert indices[2] is not None
    classified: list[str | Interaction] = []
    for record in read_records(body, delimiter, len(columns), indices[2]):
        if record.problem is not None:
            classified.append(record.problem)
            continue
        fields = [None if index is None else record.fields[index].decode("utf-8", "replace") for index in indices]
        if any("\ufffd" in (field or "") for field in fields):
            classified.append("invalid UTF-8")
            continue
        user, item, time, rating = fields
        classified.append(classify(csv_id(user or ""), csv_id(item or ""), Timestamp(time), rating, settings, unit))
    return classified


def classify_json(line: bytes, names: Sequence[str], settings: IngestSettings, unit: str) -> str | Interaction:
    """Classify one line of a file of JSON lines."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    if not text.strip():
        return "blank line"
    try:
        value = json.loads(text, parse_float=NumberText, parse_constant=NumberText)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return "not a JSON object"
    user, item, time, rating = (value.get(name) for name in names)
    if isinstance(time, NumberText):
        has_exponent = "e" in time.text.lower() and _NUMBER.fullmatch(time.text) is not None
        rounded = "timestamp in scientific notation, which rounds it" if has_exponent else None
        timestamp = Timestamp(repr(float(time.text)), rounded)
    else:
        timestamp = Timestamp(None if time is None else str(time))
    rating_text = rating.text if isinstance(rating, NumberText) else None if rating is None else str(rating)
    return classify(json_id(user), json_id(item), timestamp, rating_text, settings, unit)


def expected(
    classified: list[str | Interaction], domain: str
) -> tuple[list[dict[str, Any]], list[tuple[int, str]], dict[str, Any]]:
    """Return the interactions, the quarantine as (row, reason), and the counts that ingest must give for these rows."""
    quarantine = [(row, reason) for row, reason in enumerate(classified, start=1) if isinstance(reason, str)]
    kept: dict[tuple[str, str, int], tuple[float | None, int]] = {}
    for row, interaction in enumerate(classified, start=1):
        if not isinstance(interaction, str):
            kept.setdefault(interaction[:3], (interaction[3], row))
    interactions: list[dict[str, Any]] = [
        {"user_id": user, "item_id": item, "timestamp": time, "rating": rating, "domain": domain, "row": row}
        for (user, item, time), (rating, row) in kept.items()
    ]
    interactions.sort(key=lambda row: (row["user_id"].encode(), row["timestamp"], row["item_id"].encode()))
    counts = {
        "rows_in": len(classified),
        "rows_quarantined": len(quarantine),
        "rows_duplicate": len(classified) - len(quarantine) - len(kept),
        "interactions": len(kept),
        "reasons": Counter(reason for _, reason in quarantine),
    }
    return interactions, quarantine, counts
