"""The whole pipeline on the six real domains, with few epochs, in a clone: python .ci/real_data.py FOLDER

Checks the counts, the accounting, that two runs of ingest and sessionize (with other thread counts) give
the same bytes, and that the model's HR@100 is at least MARGIN times that of popularity.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tapestry.provenance import content_hash

EPOCHS = 5
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
    """Ingest and sessionize again, with one thread in place of two."""
    made = ("interactions", "quarantine", "counts", "sequences")
    before = {name: content_hash(clone / "data" / name) for name in made}
    parameters = clone / "params.yaml"
    parameters.write_text(parameters.read_text(encoding="utf-8").replace("threads: 2", "threads: 1"), encoding="utf-8")
    for domain in domains:
        run([sys.executable, "stages/ingest.py", domain], clone)
    run([sys.executable, "stages/sessionize.py"], clone)
    after = {name: content_hash(clone / "data" / name) for name in made}
    expect(before == after, f"two runs differ: {before} and {after}")
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
