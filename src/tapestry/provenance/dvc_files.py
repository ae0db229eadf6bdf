"""Read dvc.yaml and dvc.lock without importing DVC."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from tapestry.core.checkout import require_made
from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import read_yaml

ALWAYS = ("source", "record")  # stages that run every time, so their entries in dvc.lock say nothing

Locked = dict[str, dict[str, str]]
"""A stage's entry in dvc.lock: {"md5": {output: MD5}, "deps": {input: MD5}, "params": {dotted name: value}}."""


def read_lock(path: Path, declared: Collection[str]) -> dict[str, Locked]:
    """Read the stages of a dvc.lock by name, without those that always run.

    Args:
        declared: the names of the stages that dvc.yaml has; others are left out.

    Raises:
        TapestryError: the file is missing or damaged.
    """
    lock = read_yaml(require_made(path))
    try:
        return {stage: locked(entry) for stage, entry in lock["stages"].items() if stage in {*declared} - {*ALWAYS}}
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


def split_stage(stage: str) -> dict[str, str]:
    """Split a stage's name in dvc.lock: `ingest@Books` → {"stage": "ingest", "domain": "Books"}.

    The second key, `domain` or `baseline`, is that of the stage's matrix in dvc.yaml; a stage without one has no such.
    """
    name, _, item = stage.partition("@")
    return {"stage": name} | ({_MATRIX.get(name, "domain"): item} if item else {})


def join_stage(tags: Mapping[str, str]) -> str:
    """Return the name of which `split_stage` made these entries; others are ignored."""
    items = [tags[key] for key in ("domain", "baseline") if tags.get(key)]
    return "@".join([tags.get("stage", ""), *items])


_MATRIX = {"baseline": "baseline"}  # stage → key of its matrix; that of all others is `domain`


def for_item(spec: Any, values: Mapping[str, str]) -> Any:
    """Fill in `${item.KEY}` in a stage's entry of dvc.yaml, with the values of its matrix."""
    if isinstance(spec, str):
        return _ITEM.sub(lambda found: values[found[1]], spec)
    if isinstance(spec, Mapping):
        return {for_item(key, values): for_item(value, values) for key, value in spec.items()}
    return [for_item(value, values) for value in spec] if isinstance(spec, list) else spec


_ITEM = re.compile(r"\$\{item\.(\w+)\}")


def matrix_values(matrix: Mapping[str, Any], item: str) -> dict[str, str]:
    """Return the value of each key of a matrix for one of its stages: `full-1` → {"recipe": "full", "seed": "1"}.

    Args:
        matrix: of dvc.yaml. If it has several keys, each has a list of values.
        item: what follows `@` in the stage's name: the values, joined by `-` as DVC does.

    Raises:
        KeyError: no such stage.
    """
    if len(matrix) == 1:
        return dict.fromkeys(matrix, item)
    for values in product(*matrix.values()):
        texts = [str(value) for value in values]
        if "-".join(texts) == item:
            return dict(zip(matrix, texts, strict=True))
    raise KeyError(item)


def declared_stages(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stages of dvc.yaml by their names in dvc.lock, with `${item.…}` filled in.

    DVC never removes a stage from dvc.lock, such as that of a domain which `source.domains` no longer names. So readers
    of dvc.lock ask here which of its stages still are.

    Args:
        pipeline, params: the contents of dvc.yaml and params.yaml. A matrix is `{key: ${section.parameter}}`.
    """
    stages: dict[str, Any] = {}
    for name, spec in pipeline["stages"].items():
        if "matrix" not in spec:
            stages[name] = spec
            continue
        ((own_key, source),) = spec["matrix"].items()
        section, _, key = str(source).removeprefix("${").removesuffix("}").partition(".")
        stages |= {f"{name}@{item}": for_item(spec, {own_key: str(item)}) for item in params[section][key]}
    return stages
