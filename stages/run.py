"""Run one stage with the code beside this file: `python stages/run.py ingest Books`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
INSTALL = f"run `make install` in {ROOT} once, then `source {ROOT}/.venv/bin/activate` in each shell"


def run(stage: str, *arguments: str) -> None:
    """Call `main` of the module `stage` in this folder. Print an error that the user can fix in one line."""
    sys.excepthook = print_error
    sys.path.insert(0, str(SOURCE))
    # A child process of the stage must run the same code.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    tapestry = importlib.import_module("tapestry")
    if Path(str(tapestry.__file__)).resolve().parents[1] != SOURCE:  # an installed one, because src/ is missing here
        sys.exit(f"{stage}: error: {missing_module('tapestry')}")
    from tapestry.core.ending import end_if_sending
    from tapestry.core.errors import one_line
    from tapestry.core.failures import reported_errors

    code = 0
    try:
        with reported_errors(one_line("@".join((stage, *arguments)))):
            importlib.import_module(stage).main(*arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:
        print_error(type(error), error, error.__traceback__)
        code = 1
    end_if_sending(code)
    sys.exit(code)


def print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a missing package or a missing module of Tapestry in one line, and any other error as Python does."""
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if name.startswith("tapestry."):
        print(f"{sys.argv[1]}: error: {missing_module(name)}", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError):
        print(f"{sys.argv[1]}: error: {sys.executable} has no package {name}; {INSTALL}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def missing_module(name: str) -> str:
    """Return the message that a module of Tapestry is not in this checkout, with the likely reason."""
    file = f"src/{name.replace('.', '/')}"
    return f"{ROOT} has no {file}; `dvc exp run --temp` and `--queue` see only the files that git tracks: `git add` it"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("python stages/run.py STAGE [DOMAIN]")
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"{sys.argv[1]}: error: Python 3.11 or newer is needed, {sys.executable} is older; {INSTALL}")
    run(*sys.argv[1:])
