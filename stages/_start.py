"""What comes before a stage's other imports: the code beside it, and what to do where its packages aren't installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

STAGE = Path(sys.argv[0]).stem
ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
INSTALL = f"run `make install` in {ROOT} once, then `source {ROOT}/.venv/bin/activate` in each shell"


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a missing package, or module of ours, in one line, anything else as Python does."""
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if name.startswith("tapestry."):
        print(f"{STAGE}: error: {absent(name)}", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError):
        print(f"{STAGE}: error: {sys.executable} has no package {name}; {INSTALL}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def absent(name: str) -> str:
    """That a module of ours isn't beside the stage, and why it may be so."""
    file = f"src/{name.replace('.', '/')}"
    return f"{ROOT} has no {file}; `dvc exp run --temp` and `--queue` see the files that git knows alone: `git add` it"


if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"{STAGE}: error: Python 3.11 or newer is needed, {sys.executable} is older; {INSTALL}")
sys.excepthook = report
sys.path.insert(0, str(SOURCE))
# So that a process which the stage starts runs the same code.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))

import tapestry  # noqa: E402

if Path(str(tapestry.__file__)).resolve().parents[1] != SOURCE:  # an installed one, where there is none here
    sys.exit(f"{STAGE}: error: {absent('tapestry')}")
