"""Where the main checkout is, also from DVC's temporary ones, and what earlier stages must have made in this one."""

from __future__ import annotations

import os
from pathlib import Path

from tapestry.core.errors import TapestryError, one_line


def checkout_root() -> Path:
    """The checkout that the user works in.

    DVC sets DVC_ROOT for its stages; under `dvc exp run --temp` and `--queue` it still names the original
    checkout, while the working directory is a temporary one. Otherwise: the working directory.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def find_checkout() -> Path:
    """The checkout that the working directory is in: the nearest folder upwards with dvc.yaml beside .dvc.

    Raises:
        TapestryError: there is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise TapestryError(f"{here} is in no checkout of Tapestry (a folder with dvc.yaml and .dvc): change to one")


def enter_checkout() -> Path:
    """Make the checkout's root the working directory, so that relative paths mean what they do to stages; the root.

    Raises:
        TapestryError: the working directory is in no checkout.
    """
    root = find_checkout()
    os.chdir(root)
    return root


def require_root() -> None:
    """Raise a TapestryError where the working directory is no checkout's root."""
    if not Path("dvc.yaml").is_file():
        raise TapestryError(f"dvc.yaml not found in {Path.cwd()}: run from the checkout's root")


def require_made(path: Path, stage: str) -> Path:
    """`path`, which `stage` makes.

    Raises:
        TapestryError: it isn't there.
    """
    if not path.exists():
        raise TapestryError(f"{path}: not there; run `dvc repro {stage}`")
    return path


def only_file(folder: Path, stage: str) -> Path:
    """The one file in `folder`, which `stage` makes.

    Raises:
        TapestryError: there is none, or there are several.
    """
    files = sorted(require_made(folder, stage).iterdir())
    if len(files) != 1:
        found = one_line(", ".join(path.name for path in files)) or "none"
        raise TapestryError(f"{folder}: one file is expected there, found {found}; run `dvc repro --force {stage}`")
    return files[0]
