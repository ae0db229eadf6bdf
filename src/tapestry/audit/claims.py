"""The data types of the audit: claims, and the findings that support or contradict them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """The status of a claim or finding; the greatest value is the worst."""

    PASS = 0
    UNKNOWN = 1
    FAIL = 2


@dataclass(frozen=True)
class Finding:
    """One piece of evidence, and how to fix it if it contradicts the claim."""

    status: Status
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim: its short name, its title and all findings."""

    name: str
    title: str
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The worst finding's status; UNKNOWN without any finding."""
        return max((finding.status for finding in self.findings), default=Status.UNKNOWN)


class NoEvidenceError(Exception):
    """The evidence that a claim needs is missing, so the claim can be neither confirmed nor refuted."""

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(text)
        self.finding = Finding(Status.UNKNOWN, text, mend)


def passed(text: str) -> Finding:
    """Return a finding that confirms a claim."""
    return Finding(Status.PASS, text)


def unknown(text: str, mend: str = "") -> Finding:
    """Return a finding that neither confirms nor refutes a claim, and how to get the missing evidence."""
    return Finding(Status.UNKNOWN, text, mend)


def failed(text: str, mend: str) -> Finding:
    """Return a finding that refutes a claim, and how to fix it."""
    return Finding(Status.FAIL, text, mend)


def or_passed(findings: Sequence[Finding], text: str) -> list[Finding]:
    """Return the findings; if there are none, a single PASS with `text`."""
    return list(findings) or [passed(text)]
