"""The inputs of a stage at the time it starts. DVC hashes them only after the stage has ended.

If a file is edited while a stage runs, dvc.lock gets the new content's hash, though the stage read the old content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import read_yaml
from tapestry.provenance.dvc_files import for_item, matrix_values
from tapestry.provenance.hashes import dvc_md5, tracked_names

_DVC_YAML = Path("dvc.yaml")
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Inputs:
    """The inputs by path: the MD5 as in dvc.lock, and the files' names, modification times (ns) and sizes (bytes)."""

    md5: dict[str, str]
    signatures: dict[str, Signature]

    def as_json(self) -> str:
        """Return the MD5s by path as a JSON object, for the tag dvc_inputs."""
        return json.dumps(self.md5)

    def changed(self) -> list[str]:
        """List the paths whose files have changed since."""
        return [path for path, signature in self.signatures.items() if _signature(Path(path)) != signature]


def stage_inputs(stage: str) -> Inputs:
    """Hash the dependencies that ./dvc.yaml lists for a stage, such as `ingest@Books`."""
    paths = [path for path in _declared(stage) if Path(path).exists()]
    signatures = {path: _signature(Path(path)) for path in paths}  # before hashing, to detect a change during it
    return Inputs({path: dvc_md5(Path(path)) for path in paths}, signatures)


def _declared(stage: str) -> list[str]:
    name, _, item = stage.partition("@")
    try:
        spec = read_yaml(_DVC_YAML)["stages"][name]
        values = matrix_values(spec["matrix"], item) if item else {}
    except (OSError, KeyError, TypeError, TapestryError):
        return []
    return [str(path) for path in for_item(spec.get("deps", []), values)]


def _signature(path: Path) -> Signature:
    found = [(name, (path / name).stat()) for name in ([""] if path.is_file() else tracked_names(path))]
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)
