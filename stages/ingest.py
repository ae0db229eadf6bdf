"""Validate the raw rows of one domain and quarantine the invalid ones: `python stages/run.py ingest DOMAIN`."""

from pathlib import Path

from tapestry.core.checkout import only_file
from tapestry.core.domains import load_domains
from tapestry.core.settings import flatten, load_section
from tapestry.core.stage_argument import stage_argument
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.provenance.hashes import content_hash
from tapestry.tracking.runs import stage_run


def main(*arguments: str) -> None:
    settings = load_section(IngestSettings, "ingest")
    domain = stage_argument(arguments, load_domains(), "source.domains")
    raw = only_file(Path("data/raw", domain), f"fetch@{domain}")
    interactions = Path(f"data/interactions/{domain}.parquet")
    quarantine = Path(f"data/quarantine/{domain}.parquet")
    counts = Path(f"data/counts/{domain}.json")
    with stage_run(f"ingest@{domain}", flatten(settings, "ingest")) as run:
        run.tag(input_hash=run.log_input(raw.parent, "ingest"))
        summary = ingest(raw, domain, settings, interactions, quarantine, counts)
        run.tag(data_hash=content_hash(interactions))
        run.log_metrics(summary, "ingest")
        reasons = "".join(f"; {rows} for: {reason}" for reason, rows in summary["reasons"].items())
        print(
            f"{domain}: {summary['rows_in']} rows in, {summary['interactions']} interactions, "
            f"{summary['rows_duplicate']} duplicates, {summary['rows_quarantined']} quarantined{reasons}"
        )
