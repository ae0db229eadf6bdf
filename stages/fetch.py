"""Simulate, copy or download the raw file of one domain: `python stages/run.py fetch DOMAIN`."""

from pathlib import Path

from tapestry.core.settings import flatten, load_section
from tapestry.core.stage_argument import stage_argument
from tapestry.provenance.hashes import content_hash
from tapestry.source.settings import SourceSettings, SyntheticSettings
from tapestry.source.source import fetch
from tapestry.tracking.runs import stage_run


def main(*arguments: str) -> None:
    source = load_section(SourceSettings, "source")
    synthetic = load_section(SyntheticSettings, "synthetic")
    domain = stage_argument(arguments, source.domains, "source.domains")
    folder = Path("data/raw", domain)
    params = flatten(source, "source")
    if source.release == "synthetic":
        params |= flatten(synthetic, "synthetic")
    with stage_run(f"fetch@{domain}", params) as run:
        file = fetch(source, synthetic, domain, folder)
        run.tag(data_hash=content_hash(folder))
        run.log_metrics({"bytes": file.stat().st_size}, "raw")
