"""What a stage read, as it was when the stage began: DVC looks only after the end.

A file that is edited while a stage runs would stand in dvc.lock with a content that the stage never saw.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import read_yaml
from tapestry.provenance.dvc_files import for_domain
from tapestry.provenance.hashes import dvc_md5, tracked_names

_DVC_YAML = Path("dvc.yaml")
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Inputs:
    """By path: the MD5 as in dvc.lock, and what changes when the file or folder does."""

    md5: dict[str, str]
    signatures: dict[str, Signature]

    def as_json(self) -> str:
        return json.dumps(self.md5)

    def changed(self) -> list[str]:
        """The paths whose files are no longer those that they were."""
        return [path for path, signature in self.signatures.items() if _signature(Path(path)) != signature]


def stage_inputs(stage: str) -> Inputs:
    """The dependencies that dvc.yaml names for a stage, such as `ingest@Books`, as they are now."""
    paths = [path for path in _declared(stage) if Path(path).exists()]
    signatures = {path: _signature(Path(path)) for path in paths}  # before: a change meanwhile shall be seen
    return Inputs({path: dvc_md5(Path(path)) for path in paths}, signatures)


def _declared(stage: str) -> list[str]:
    name, _, domain = stage.partition("@")
    try:
        spec = read_yaml(_DVC_YAML)["stages"][name]
    except (OSError, KeyError, TypeError, TapestryError):
        return []
    return [str(path) for path in for_domain(spec.get("deps", []), domain)]


def _signature(path: Path) -> Signature:
    found = [(name, (path / name).stat()) for name in ([""] if path.is_file() else tracked_names(path))]
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)
