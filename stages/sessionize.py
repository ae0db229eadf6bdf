"""Turn the interactions of all domains into one time-ordered sequence per user, with a split."""

from pathlib import Path

from tapestry.core.atomic import write_json
from tapestry.core.checkout import require_made
from tapestry.core.domains import load_domains
from tapestry.core.settings import flatten, load_section
from tapestry.provenance.hashes import content_hash
from tapestry.sessionize.sessionize import DomainInput, contested_interactions, sessionize
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.tracking.runs import stage_run


def main() -> None:
    settings, domains = load_section(SessionizeSettings, "sessionize"), load_domains()
    inputs = {
        domain: DomainInput(
            require_made(Path(f"data/interactions/{domain}.parquet"), f"ingest@{domain}"),
            require_made(Path(f"data/counts/{domain}.json"), f"ingest@{domain}"),
        )
        for domain in domains
    }
    folder = Path("data/sequences")
    params = flatten(settings, "sessionize") | {"source.domains": domains}
    with stage_run("sessionize", params) as run:
        run.tag(input_hash=run.log_input(Path("data/interactions"), "sessionize"))
        metrics = sessionize(inputs, settings, folder)
        write_json(Path("data/statistics.json"), metrics)
        run.tag(data_hash=content_hash(folder))
        run.log_metrics({name: metrics[name] for name in ("all", "domain")}, "data")
        if line := contested_interactions(metrics):
            print(line)
        whole = metrics["all"]
        print(f"{whole['users']} users, {whole['items']} items, {whole['interactions']} interactions")
