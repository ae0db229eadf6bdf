"""Fingerprint the raw data of each domain, so that DVC sees when a file of the user's changes."""

import shutil
from pathlib import Path

import _start  # noqa: F401

from tapestry.atomic import atomic_folder, write_json
from tapestry.config import load_parameters
from tapestry.data.source import describe
from tapestry.tracking.runs import reported_errors

DERIVED = ("raw", "interactions", "quarantine", "counts")


def main() -> None:
    parameters = load_parameters()
    fingerprints = describe(parameters.source, parameters.synthetic)
    with atomic_folder(Path("data/source")) as folder:
        for domain, fingerprint in fingerprints.items():
            write_json(folder / f"{domain}.json", fingerprint)
    # What other choices of domains left behind would be taken for input; DVC's cache still has it.
    for left in (path for name in DERIVED for path in Path("data", name).glob("*")):
        if not left.name.startswith(".") and left.name.partition(".")[0] not in fingerprints:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


if __name__ == "__main__":
    with reported_errors("source"):
        main()
