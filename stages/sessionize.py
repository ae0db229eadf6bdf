"""Join the domains' interactions into per-user, time-ordered sequences with a split."""

from pathlib import Path

import _start  # noqa: F401

from tapestry.atomic import write_json
from tapestry.checkout import require_made
from tapestry.config import flatten, load_parameters
from tapestry.data.sessionize import DomainInput, contested_interactions, sessionize
from tapestry.provenance import content_hash
from tapestry.tracking.runs import reported_errors, stage_run


def main() -> None:
    parameters = load_parameters()
    inputs = {
        domain: DomainInput(
            require_made(Path(f"data/interactions/{domain}.parquet"), f"ingest@{domain}"),
            require_made(Path(f"data/counts/{domain}.json"), f"ingest@{domain}"),
        )
        for domain in parameters.source.domains
    }
    folder = Path("data/sequences")
    params = flatten(parameters.sessionize, "sessionize") | {"source.domains": parameters.source.domains}
    with stage_run("sessionize", params) as run:
        run.tag(input_hash=run.read(Path("data/interactions"), "sessionize"))
        metrics = sessionize(inputs, parameters.sessionize, folder)
        write_json(Path("data/statistics.json"), metrics)
        run.tag(data_hash=content_hash(folder))
        run.log_metrics(metrics, "data")
        if line := contested_interactions(metrics):
            print(line)
        whole = metrics["all"]
        print(f"{whole['users']} users, {whole['items']} items, {whole['interactions']} interactions")


if __name__ == "__main__":
    with reported_errors("sessionize"):
        main()
