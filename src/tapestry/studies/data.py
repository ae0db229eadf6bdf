"""The sequences of a study: raw or simulated files of several domains → ingest → sessionize, by its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tapestry.core.atomic import write_json
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.sessionize.sessionize import DomainInput, sessionize
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.settings import SyntheticSettings
from tapestry.source.synthetic import write_domain


def make_sequences(
    raw_files: Mapping[str, Path], ingesting: IngestSettings, rules: SessionizeSettings, folder: Path
) -> None:
    """Write the sequences of {domain: raw file} to `folder`/sequences, with statistics.json and the rows beside it.

    Raises:
        TapestryError: an unreadable file, too large a share of unusable rows, or nothing left to train on.
    """
    inputs = {}
    for domain, raw in raw_files.items():
        inputs[domain] = DomainInput(folder / f"rows/{domain}.parquet", folder / f"rows/{domain}.json")
        quarantine = folder / f"rows/{domain}.quarantine.parquet"
        ingest(raw, domain, ingesting, inputs[domain].interactions, quarantine, inputs[domain].counts)
    write_json(folder / "statistics.json", sessionize(inputs, rules, folder / "sequences"))


def simulate_sequences(
    simulator: SyntheticSettings,
    domains: tuple[str, ...],
    ingesting: IngestSettings,
    rules: SessionizeSettings,
    folder: Path,
) -> None:
    """Simulate the files of all domains in `folder`/raw, and make their sequences as `make_sequences` does."""
    files = {domain: folder / f"raw/{domain}.json.gz" for domain in domains}
    for domain, file in files.items():
        write_domain(simulator, domains, domain, file)
    make_sequences(files, ingesting, rules, folder)
