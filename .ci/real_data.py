"""The whole pipeline on the six real domains, with few epochs, in a clone: python .ci/real_data.py FOLDER

Checks the counts, the accounting, that two runs of ingest and sessionize (with other thread counts) give
the same bytes, and that the model's HR@100 is at least MARGIN times that of popularity.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tapestry.ingest.ingest import ingest
from tapestry.parameters import load_parameters
from tapestry.provenance.hashes import content_hash
from tapestry.sessionize.sessionize import DomainInput, sessionize

EPOCHS = 3
MARGIN = 2.0
COUNTS = {"users": 8278, "items": 15378, "interactions": 212897, "rows_in": 726125, "rows_kept": 212897}


def main(raw: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tapestry-ci-") as temporary:
        clone = Path(temporary, "clone")
        run(["git", "clone", "--quiet", ".", str(clone)], Path.cwd())
        domains = sorted(file.name.removesuffix(".json.gz") for file in raw.glob("*.json.gz"))
        settings = ["source.release=files", f"source.path={raw.resolve()}", f"source.domains=[{','.join(domains)}]"]
        command = ["dvc", "exp", "run", *(f"-S{setting}" for setting in [*settings, f"train.epochs={EPOCHS}"])]
        run(command, clone)
        check_rows(json.loads((clone / "metrics/data.json").read_text(encoding="utf-8")))
        check_bytes(clone, domains)
        check_quality(json.loads((clone / "metrics/test.json").read_text(encoding="utf-8")))


def check_rows(metrics: dict[str, Any]) -> None:
    found = {name: metrics["all"][name] for name in COUNTS}
    expect(found == COUNTS, f"counts {found}, not {COUNTS}")
    for name, rows in {"all": metrics["all"], **metrics["domain"]}.items():
        parts = rows["rows_kept"] + rows["rows_quarantined"] + rows["rows_filtered"]
        expect(rows["rows_in"] == parts, f"{name}: {rows['rows_in']} rows in, {parts} accounted for")
    print(f"real data: {found}, rows add up in every domain", flush=True)


def check_bytes(clone: Path, domains: list[str]) -> None:
    """Ingest and sessionize again, with one thread in place of the parameters' two."""
    parameters = load_parameters(clone / "params.yaml")
    again = clone / "again"
    inputs = {}
    for domain in domains:
        (raw,) = (clone / "data/raw" / domain).iterdir()
        inputs[domain] = DomainInput(again / f"interactions/{domain}.parquet", again / f"counts/{domain}.json")
        settings = dataclasses.replace(parameters.ingest, threads=1)
        quarantine = again / f"quarantine/{domain}.parquet"
        ingest(raw, domain, settings, inputs[domain].interactions, quarantine, inputs[domain].counts)
    sessionize(inputs, dataclasses.replace(parameters.sessionize, threads=1), again / "sequences")
    for name in ("interactions", "quarantine", "counts", "sequences"):
        same = content_hash(clone / "data" / name) == content_hash(again / name)
        expect(same, f"two runs made different {name}")
    print("real data: two runs of ingest and sessionize gave the same bytes", flush=True)


def check_quality(metrics: dict[str, Any]) -> None:
    model, popularity = metrics["all"]["hr_100"], metrics["baselines"]["popularity"]["hr_100"]
    print(f"real data: HR@100 {model:.4f} after {EPOCHS} epochs, popularity {popularity:.4f}", flush=True)
    expect(model >= MARGIN * popularity, f"HR@100 {model} is below {MARGIN} x {popularity} (popularity)")


def run(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=True)


def expect(holds: bool, message: str) -> None:
    if not holds:
        raise SystemExit(f"real-data check failed: {message}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
