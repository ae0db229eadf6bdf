"""The root of the checkout, also from DVC's temporary checkouts, and the outputs of earlier stages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tapestry.core.errors import TapestryError, one_line


def checkout_root() -> Path:
    """Return the root of the checkout that the user works in.

    DVC sets DVC_ROOT for its stages. Under `dvc exp run --temp` and `--queue` the working directory is a temporary
    checkout, but DVC_ROOT is still the original one. Outside DVC, the root is the working directory. For stages of
    studies and protocols, which are DVC projects inside the checkout, it is the checkout around DVC_ROOT.
    """
    project = os.environ.get("DVC_ROOT")
    if not project:
        return Path.cwd().resolve()
    return _checkout_around(Path(project).resolve()) or Path(project).resolve()


def _checkout_around(folder: Path) -> Path | None:
    """Return the nearest of `folder` and its parents that has dvc.yaml and .dvc; None if there is none."""
    parents = (folder, *folder.parents)
    return next((each for each in parents if (each / "dvc.yaml").is_file() and (each / ".dvc").is_dir()), None)


def find_checkout() -> Path:
    """Find the root of the checkout around the working directory: the nearest parent with dvc.yaml and .dvc.

    Raises:
        TapestryError: there is no such folder.
    """
    here = Path.cwd().resolve()
    root = _checkout_around(here)
    if root is None:
        raise TapestryError(f"{here} is in no checkout of Tapestry (a folder with dvc.yaml and .dvc): change to one")
    return root


def enter_checkout() -> Path:
    """Change to the root of the checkout, to which the paths of the stages are relative, and return it.

    Raises:
        TapestryError: the working directory is in no checkout.
    """
    root = find_checkout()
    os.chdir(root)
    return root


def require_root() -> None:
    """Raise a TapestryError unless the working directory is the root of a checkout."""
    if not Path("dvc.yaml").is_file():
        raise TapestryError(f"dvc.yaml not found in {Path.cwd()}: run from the checkout's root")


def require_made(path: Path, stage: str | None = None) -> Path:
    """Return `path`, an output of `stage`; of any stage if it is None.

    Raises:
        TapestryError: it doesn't exist.
    """
    if not path.exists():
        raise TapestryError(f"{path}: not there; run `dvc repro{f' {stage}' if stage else ''}`")
    return path


def read_json(path: Path, stage: str) -> Any:
    """Read a JSON file, an output of `stage`.

    Raises:
        TapestryError: it doesn't exist or is damaged.
    """
    try:
        return json.loads(require_made(path, stage).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TapestryError(f"{path}: damaged ({one_line(str(error))}); run `dvc repro --force {stage}`") from error


def only_file(folder: Path, stage: str) -> Path:
    """Return the only file in `folder`, an output of `stage`.

    Raises:
        TapestryError: the folder doesn't exist, or doesn't contain exactly one file.
    """
    files = sorted(require_made(folder, stage).iterdir())
    if len(files) != 1:
        found = one_line(", ".join(path.name for path in files)) or "none"
        raise TapestryError(f"{folder}: one file is expected there, found {found}; run `dvc repro --force {stage}`")
    return files[0]
