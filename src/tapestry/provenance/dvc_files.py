"""Read dvc.yaml and dvc.lock without importing DVC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapestry.core.checkout import require_made
from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import read_yaml

ALWAYS = ("source", "record")  # stages that run every time, so their entries in dvc.lock say nothing

Locked = dict[str, dict[str, str]]
"""A stage's entry in dvc.lock: {"md5": {output: MD5}, "deps": {input: MD5}, "params": {dotted name: value}}."""


def read_lock(path: Path) -> dict[str, Locked]:
    """Read the stages of a dvc.lock by name, without those that always run.

    Raises:
        TapestryError: the file is missing or damaged.
    """
    lock = read_yaml(require_made(path))
    try:
        return {stage: locked(entry) for stage, entry in lock["stages"].items() if stage not in ALWAYS}
    except (AttributeError, KeyError, TypeError) as error:
        raise TapestryError(f"{path}: damaged ({error!r}); restore it with `git checkout {path}`") from error


def locked(entry: Mapping[str, Any]) -> Locked:
    """Convert an entry of dvc.lock, or of DVC's run cache."""
    params = flat(entry.get("params", {}).get("params.yaml", {}))
    return {
        "md5": {out["path"]: str(out["md5"]) for out in entry.get("outs", [])},
        "deps": {dep["path"]: str(dep["md5"]) for dep in entry.get("deps", [])},
        "params": {key: str(tuple(value) if isinstance(value, list) else value) for key, value in params.items()},
    }


def lock_hash(stages: Mapping[str, Locked]) -> str:
    """Hash the result of `read_lock` (SHA-256, hex): it is equal if code, parameters, inputs and outputs are."""
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys: {"model": {"width": 8}} → {"model.width": 8}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def for_domain(spec: Any, domain: str) -> Any:
    """Fill in `${item.domain}` in a stage's entry of dvc.yaml."""
    if isinstance(spec, str):
        return spec.replace("${item.domain}", domain)
    if isinstance(spec, Mapping):
        return {for_domain(key, domain): for_domain(value, domain) for key, value in spec.items()}
    return [for_domain(value, domain) for value in spec] if isinstance(spec, list) else spec
