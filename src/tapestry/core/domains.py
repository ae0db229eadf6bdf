"""The names of the domains, in the order of their numbers: the only part of section `source` that most stages need."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tapestry.core.bounds import require
from tapestry.core.errors import TapestryError, shown
from tapestry.core.settings import PARAMETERS, load_section

_LONGEST = 200  # bytes; names of files and temporary files add to it, and may have 255


def load_domains(path: Path = PARAMETERS) -> tuple[str, ...]:
    """Read `source.domains` of params.yaml.

    Raises:
        TapestryError: see `load_section` and `check_domains`.
    """
    domains = load_section(tuple[str, ...], "source.domains", path)
    try:
        check_domains(domains)
    except TapestryError as error:
        raise TapestryError(f"{path}: {error}") from error
    return domains


def check_domains(domains: Sequence[str]) -> None:
    """Check that there are 1 to 63 domains, and that each name is a valid and unique file name.

    Raises:
        TapestryError: the message names the domain.
    """
    require(len(domains) >= 1, "source.domains: at least 1 domain is needed")
    require(len(domains) <= 63, "source.domains: at most 63 domains (one bit each in a 64-bit number)")
    require(len(set(domains)) == len(domains), "source.domains: a domain is named twice")
    for domain in domains:
        require(
            domain != "" and all(c.isalnum() or c in "_-" for c in unicodedata.normalize("NFC", domain)),
            f"source.domains: {shown(domain)} may hold only letters, digits, _ and -",
        )
        require(
            len(domain.encode()) <= _LONGEST,
            f"source.domains: {shown(domain)} is longer than {_LONGEST} bytes, too long for file names",
        )
    names: dict[str, str] = {}
    for domain in domains:
        other = names.setdefault(unicodedata.normalize("NFC", domain).casefold(), domain)
        require(
            other == domain,
            f"source.domains: {other!r} and {domain!r} would be one name on a file system that ignores case or "
            "how letters are composed; rename one",
        )
