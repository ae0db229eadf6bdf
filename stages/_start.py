"""What comes before a stage's other imports: the code beside it, and what to do where its packages aren't installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

STAGE = Path(sys.argv[0]).stem
ROOT = Path(__file__).resolve().parents[1]
INSTALL = f"run `make install` in {ROOT} once, then `source {ROOT}/.venv/bin/activate` in each shell"


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a missing package in one line, anything else as Python does."""
    if isinstance(error, ModuleNotFoundError):
        print(f"{STAGE}: error: {sys.executable} has no package {error.name}; {INSTALL}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"{STAGE}: error: Python 3.11 or newer is needed, {sys.executable} is older; {INSTALL}")
sys.excepthook = report
sys.path.insert(0, str(ROOT / "src"))
