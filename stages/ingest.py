"""Validate one domain's raw rows and quarantine what can't be used: python stages/ingest.py DOMAIN"""

import sys
from pathlib import Path

import _start  # noqa: F401

from tapestry.checkout import only_file
from tapestry.config import chosen_domain, flatten, load_parameters
from tapestry.data.ingest import ingest
from tapestry.provenance import content_hash
from tapestry.tracking.runs import reported_errors, stage_run


def main(arguments: list[str]) -> None:
    parameters = load_parameters()
    domain = chosen_domain(arguments, parameters.source.domains)
    raw = only_file(Path("data/raw", domain), f"fetch@{domain}")
    interactions = Path(f"data/interactions/{domain}.parquet")
    quarantine = Path(f"data/quarantine/{domain}.parquet")
    counts = Path(f"data/counts/{domain}.json")
    with stage_run(f"ingest@{domain}", flatten(parameters.ingest, "ingest")) as run:
        run.tag(input_hash=run.read(raw.parent, "ingest"))
        summary = ingest(raw, domain, parameters.ingest, interactions, quarantine, counts)
        run.tag(data_hash=content_hash(interactions))
        run.log_metrics(summary, "ingest")
        reasons = "".join(f"; {rows} for: {reason}" for reason, rows in summary["reasons"].items())
        print(
            f"{domain}: {summary['rows_in']} rows in, {summary['interactions']} interactions, "
            f"{summary['rows_duplicate']} duplicates, {summary['rows_quarantined']} quarantined{reasons}"
        )


if __name__ == "__main__":
    with reported_errors("ingest"):
        main(sys.argv[1:])
