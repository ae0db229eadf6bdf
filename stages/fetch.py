"""Simulate, or copy from the user's folder, one domain's raw file: python stages/fetch.py DOMAIN"""

import sys
from pathlib import Path

import _start  # noqa: F401

from tapestry.config import chosen_domain, flatten, load_parameters
from tapestry.data.source import fetch
from tapestry.provenance import content_hash
from tapestry.tracking.runs import reported_errors, stage_run


def main(arguments: list[str]) -> None:
    parameters = load_parameters()
    domain = chosen_domain(arguments, parameters.source.domains)
    folder = Path("data/raw", domain)
    params = flatten(parameters.source, "source")
    if parameters.source.release == "synthetic":
        params |= flatten(parameters.synthetic, "synthetic")
    with stage_run(f"fetch@{domain}", params) as run:
        file = fetch(parameters.source, parameters.synthetic, domain, folder)
        run.tag(data_hash=content_hash(folder))
        run.log_metrics({"bytes": file.stat().st_size}, "raw")


if __name__ == "__main__":
    with reported_errors("fetch"):
        main(sys.argv[1:])
