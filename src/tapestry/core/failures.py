"""Messages for the operating system's errors that a user can fix, such as a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapestry.core.atomic import SQLITE_FULL, disk_full, final_path
from tapestry.core.errors import TapestryError, for_terminal

_FIXES = {
    errno.EACCES: "this user has no permission: grant it, or choose another path",
    errno.EPERM: "this user has no permission: grant it, or choose another path",
    errno.EROFS: "its file system is read-only: make it writable, or choose another path",
    errno.EISDIR: "a file belongs there, but it is a folder: move it away",
    errno.EEXIST: "a folder belongs there, but it is a file: move it away",
    errno.ENOTDIR: "a folder belongs there, but it is a file or link: move it away",
    errno.ENAMETOOLONG: "the file system takes no name of that length: use a shorter one",
}


@contextmanager
def reported_errors(command: str, database: str | None = None) -> Iterator[None]:
    """Print a message instead of a traceback for a TapestryError, or for an OS error that a user can fix.

    Args:
        command: the stage or command, as messages begin with it.
        database: see `explain`.

    Raises:
        SystemExit: with 1, after such an error.
    """
    try:
        yield
    except Exception as error:
        message = str(error) if isinstance(error, TapestryError) else explain(error, database)
        if message is None:
            raise
        print(f"{command}: error: {for_terminal(message)}", file=sys.stderr)
        raise SystemExit(1) from None


def explain(error: BaseException, database: str | None = None) -> str | None:
    """Return one line on what went wrong, where, and how to fix it; None for an error that a user can't fix.

    The first error of a chain is the cause, so it gives the message. If it names no file, a later error of the chain
    that does gives the message.

    Args:
        database: the file that SQLite's errors are about, since they don't name it.
    """
    links = [(link, _name(link) or (database if SQLITE_FULL in str(link) else None)) for link in _chain(error)]
    lines = [(name, line) for link, name in links if (line := _line(link, name)) is not None]
    named = [line for name, line in lines if name is not None]
    return named[-1] if named else lines[-1][1] if lines else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _name(error: BaseException) -> str | None:
    """Return the file that an error is about: the new name of a renaming, and the final path of a temporary file."""
    name = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    return None if name is None else final_path(os.fsdecode(name))


def _line(error: BaseException, name: str | None) -> str | None:
    code = disk_full(error)
    if code is not None:
        return _disk_full_message(code, name)
    if isinstance(error, OSError) and error.errno in _FIXES and name is not None:
        return f"{name}: {error.strerror}: {_FIXES[error.errno]}"
    return None


def _disk_full_message(code: int, name: str | None) -> str:
    """Make the message for a full disk, or for a file above the limit of file sizes."""
    path = Path(name or ".").absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
    what = f"{name}: {os.strerror(code)}" if name else os.strerror(code)
    elsewhere = ", or set TMPDIR to a folder with more room" if path.parent == Path(tempfile.gettempdir()) else ""
    if code == errno.EFBIG:
        return f"{what}: raise the limit of file sizes (ulimit -f){elsewhere}, then run again"
    free = f"{shutil.disk_usage(existing).free:,} bytes are free in {existing} after the incomplete output was removed"
    return f"{what}: {free}; make room{elsewhere}, then run again"
