"""What ingest must make of a raw file, a row at a time in plain Python."""

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

Reading = tuple[str, str, int, float | None]
"""User, item, milliseconds, rating."""

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_IN_FULL = re.compile(r"[-+]?[0-9]+(\.0*)?")
_UNITS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}


@dataclass(frozen=True)
class Bad:
    """Why a value can't be used; `{}` stands for what it is."""

    reason: str


@dataclass(frozen=True)
class Moment:
    """A timestamp as text, whether it was saved with fewer digits than it has, and the reason if so."""

    text: str | None
    rounded: str | None = None


@dataclass(frozen=True)
class Written:
    """A number with a fraction or an exponent, as JSON has it."""

    text: str


def judge(
    user: str | Bad, item: str | Bad, time: Moment, rating: str | None, settings: IngestSettings, unit: str
) -> str | Reading:
    """A row's fields, or the reason why they can't be used."""
    for name, value in (("user", user), ("item", item)):
        if isinstance(value, Bad):
            return value.reason.format(name)
    text = (time.text or "").strip()
    if not text:
        return "missing timestamp"
    moment = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(moment) or moment != math.floor(moment):
        return "timestamp is not a whole number"
    first, last = settings.time_range()
    if not first <= moment * _UNITS[unit] < last:
        for other, size in _UNITS.items():
            if other != unit and first <= moment * size < last:
                return f"timestamp in {other}, {unit} expected"
        return "timestamp out of range"
    if not _IN_FULL.fullmatch(text):
        return "timestamp in scientific notation, which rounds it"
    if time.rounded:
        return time.rounded
    score = (rating or "").strip()
    if score:
        stars = math.inf if score.lower().lstrip("+-") in ("inf", "infinity") else math.nan
        stars = float(score) if _NUMBER.fullmatch(score) else stars
        if math.isnan(stars):
            return "rating is not a number"
        if not settings.min_rating <= stars <= settings.max_rating:
            return "rating out of range"
    assert isinstance(user, str)
    assert isinstance(item, str)
    return user, item, int(moment * _UNITS[unit]), float(score) if score else None


def text_id(text: str | None) -> str | Bad:
    text = (text or "").strip()
    return text or Bad("missing {}")


def float_id(number: float, bits: int = 53) -> str | Bad:
    if math.isnan(number):
        return Bad("missing {} (NaN)")
    if not math.isfinite(number) or number != math.floor(number):
        return Bad("{} is not a whole number")
    return Bad(f"{{}} is a float above 2^{bits}, which rounds it") if abs(number) > 2**bits else str(int(number))


def csv_id(text: str) -> str | Bad:
    text = text.strip()
    if re.fullmatch(r"-?[0-9]+\.0", text):
        return float_id(float(text))
    if re.fullmatch(r"-?[0-9]\.[0-9]+[eE]\+[0-9]+", text):
        return Bad("{} is a number in scientific notation, which rounds it")
    return Bad("missing {} (NaN)") if text.lower() in ("nan", "null", "none") else text_id(text)


def json_id(value: Any) -> str | Bad:
    if isinstance(value, Written):
        return float_id(float(value.text))
    for kind, what in ((bool, "true or false"), (list, "a list"), (dict, "an object")):
        if isinstance(value, kind):
            return Bad(f"{{}} is {what}, not text or a number")
    return text_id(None if value is None else str(value))


def judge_csv(
    body: bytes, delimiter: bytes, columns: Sequence[str], names: Sequence[str], settings: IngestSettings, unit: str
) -> list[str | Reading]:
    """The rows of CSV below its header, with these columns; `names` are of user, item, timestamp and rating."""
    places = [columns.index(name) if name in columns else None for name in names]
    assert places[2] is not None
    judged: list[str | Reading] = []
    for record in read_records(body, delimiter, len(columns), places[2]):
        if record.problem is not None:
            judged.append(record.problem)
            continue
        fields = [None if place is None else record.fields[place].decode("utf-8", "replace") for place in places]
        if any("\ufffd" in (field or "") for field in fields):
            judged.append("invalid UTF-8")
            continue
        user, item, time, rating = fields
        judged.append(judge(csv_id(user or ""), csv_id(item or ""), Moment(time), rating, settings, unit))
    return judged


def judge_json(line: bytes, names: Sequence[str], settings: IngestSettings, unit: str) -> str | Reading:
    """One line of JSON."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    if not text.strip():
        return "blank line"
    try:
        value = json.loads(text, parse_float=Written, parse_constant=Written)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return "not a JSON object"
    user, item, time, rating = (value.get(name) for name in names)
    if isinstance(time, Written):
        has_exponent = "e" in time.text.lower() and _NUMBER.fullmatch(time.text) is not None
        rounded = "timestamp in scientific notation, which rounds it" if has_exponent else None
        moment = Moment(repr(float(time.text)), rounded)
    else:
        moment = Moment(None if time is None else str(time))
    stars = rating.text if isinstance(rating, Written) else None if rating is None else str(rating)
    return judge(json_id(user), json_id(item), moment, stars, settings, unit)


def expected(
    judged: list[str | Reading], domain: str
) -> tuple[list[dict[str, Any]], list[tuple[int, str]], dict[str, Any]]:
    """The interactions, the quarantine as (row, reason), and the counts of rows judged one by one."""
    quarantine = [(row, reason) for row, reason in enumerate(judged, start=1) if isinstance(reason, str)]
    kept: dict[tuple[str, str, int], tuple[float | None, int]] = {}
    for row, reading in enumerate(judged, start=1):
        if not isinstance(reading, str):
            kept.setdefault(reading[:3], (reading[3], row))
    interactions: list[dict[str, Any]] = [
        {"user_id": user, "item_id": item, "timestamp": time, "rating": rating, "domain": domain, "row": row}
        for (user, item, time), (rating, row) in kept.items()
    ]
    interactions.sort(key=lambda row: (row["user_id"].encode(), row["timestamp"], row["item_id"].encode()))
    counts = {
        "rows_in": len(judged),
        "rows_quarantined": len(quarantine),
        "rows_duplicate": len(judged) - len(quarantine) - len(kept),
        "interactions": len(kept),
        "reasons": Counter(reason for _, reason in quarantine),
    }
    return interactions, quarantine, counts
