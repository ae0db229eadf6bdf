"""Write a fingerprint of the raw data of each domain, so that DVC notices when a raw file changes."""

from pathlib import Path

from tapestry.baselines.scripts import check_scripts
from tapestry.core.atomic import atomic_folder, write_json
from tapestry.parameters import load_parameters
from tapestry.source.leftovers import remove_others
from tapestry.source.source import fingerprints


def main() -> None:
    parameters = load_parameters()
    check_scripts(parameters.evaluate.baselines)
    found = fingerprints(parameters.source, parameters.synthetic)
    with atomic_folder(Path("data/source")) as folder:
        for domain, fingerprint in found.items():
            write_json(folder / f"{domain}.json", fingerprint)
    remove_others(Path("data"), parameters.source.domains, parameters.evaluate.baselines)
    Path("data/baselines").mkdir(exist_ok=True)  # the stage figures depends on it, also without a baseline
