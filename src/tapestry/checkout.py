"""Where the main checkout is, also from DVC's temporary ones."""

from __future__ import annotations

import os
from pathlib import Path


def checkout_root() -> Path:
    """The checkout that the user works in.

    DVC sets DVC_ROOT for its stages; under `dvc exp run --temp` and `--queue` it still names the original
    checkout, while the working directory is a temporary one. Otherwise: the working directory.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
