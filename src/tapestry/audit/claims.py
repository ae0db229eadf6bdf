"""A claim of the audit, and what was found for or against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """The worst of several findings is the greatest."""

    PASS = 0
    UNKNOWN = 1
    FAIL = 2


@dataclass(frozen=True)
class Finding:
    """One piece of evidence, and what mends it where it is against the claim."""

    status: Status
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim by its short name and in words, with all that was found."""

    name: str
    title: str
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The worst finding's; nothing found is nothing known."""
        return max((finding.status for finding in self.findings), default=Status.UNKNOWN)


class NoEvidenceError(Exception):
    """What a claim rests on isn't there, so that it is neither held nor refuted."""

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(text)
        self.finding = Finding(Status.UNKNOWN, text, mend)


def passed(text: str) -> Finding:
    return Finding(Status.PASS, text)


def unknown(text: str, mend: str = "") -> Finding:
    return Finding(Status.UNKNOWN, text, mend)


def failed(text: str, mend: str) -> Finding:
    return Finding(Status.FAIL, text, mend)


def or_passed(findings: Sequence[Finding], text: str) -> list[Finding]:
    """What was found; if that is nothing against the claim, that it holds."""
    return list(findings) or [passed(text)]
