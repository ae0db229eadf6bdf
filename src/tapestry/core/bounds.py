"""Rules for the values of parameters, for `Annotated` fields of settings (see `tapestry.core.settings`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

from tapestry.core.errors import TapestryError, shown

Rule = Callable[[Any, str], None]
"""Raises a TapestryError if a value breaks the rule; the second argument is the parameter's dotted name."""


def require(condition: bool, message: str) -> None:
    """Raise a TapestryError with `message` unless `condition` holds."""
    if not condition:
        raise TapestryError(message)


def at_most(bound: float) -> Rule:
    """Make the rule value <= bound."""
    return between(-math.inf, bound)


def between(low: float, high: float) -> Rule:
    """Make the rule low <= value <= high."""

    def rule(value: Any, name: str) -> None:
        require(value >= low, f"{name}: {shown(value)} is below {low}")
        require(value <= high, f"{name}: {shown(value)} is above {high}")

    return rule


def fraction(value: Any, name: str) -> None:
    """Rule: 0 <= value <= 1."""
    require(0 <= value <= 1, f"{name}: {shown(value)} is not between 0 and 1")


def memory_size(value: Any, name: str) -> None:
    """Rule: a size in DuckDB's syntax, from 100MB, which DuckDB needs, to 1000TB."""
    form = "a number and a unit (MB, GB, TB, MiB, GiB or TiB), such as 2GB"
    match = _MEMORY.fullmatch(value)
    if match is None:
        raise TapestryError(f"{name}: {shown(value)} is not a size; accepted is {form}")
    size = float(match["number"]) * _UNITS[match["unit"].lower()]
    require(size >= 10**8, f"{name}: {shown(value)} is below 100MB, which DuckDB needs; accepted is {form}")
    require(size <= 10**15, f"{name}: {shown(value)} is above 1000TB; accepted is {form}")


_UNITS = {
    f"{prefix}{unit}".lower(): base**power
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate(("K", "M", "G", "T"), start=1)
}
_MEMORY = re.compile(
    rf"\s*(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[0-9]+)?)\s*(?P<unit>{'|'.join(_UNITS)})\s*",
    re.IGNORECASE | re.ASCII,
)

Count = Annotated[int, between(1, 10**9)]
Fraction = Annotated[float, fraction]
MemorySize = Annotated[str, memory_size]
Seed = Annotated[int, between(0, 2**63 - 1)]
Threads = Annotated[int, between(1, 1024)]
