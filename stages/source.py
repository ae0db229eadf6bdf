"""Write a fingerprint of the raw data of each domain, so that DVC notices when a raw file changes."""

from pathlib import Path

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.parameters import load_parameters
from tapestry.source.other_domains import remove_other_domains
from tapestry.source.source import fingerprints


def main() -> None:
    parameters = load_parameters()
    found = fingerprints(parameters.source, parameters.synthetic)
    with atomic_folder(Path("data/source")) as folder:
        for domain, fingerprint in found.items():
            write_json(folder / f"{domain}.json", fingerprint)
    remove_other_domains(Path("data"), parameters.source.domains)
