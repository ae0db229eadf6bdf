"""Errors of the operating system that a user can mend, in words."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapestry.core.atomic import SQLITE_FULL, disk_full, path_of
from tapestry.core.errors import TapestryError, for_terminal

_MENDS = {
    errno.EACCES: "this user has no right to it: give it, or choose another place",
    errno.EPERM: "this user has no right to it: give it, or choose another place",
    errno.EROFS: "its file system is read-only: make it writable, or choose another place",
    errno.EISDIR: "a folder is in the place of a file: move it away",
    errno.EEXIST: "a file is in the place of a folder: move it away",
    errno.ENOTDIR: "a file or link is in the place of a folder: move it away",
    errno.ENAMETOOLONG: "the file system takes no name of that length: use a shorter one",
}


@contextmanager
def reported_errors(command: str, database: str | None = None) -> Iterator[None]:
    """Print a TapestryError, or an error of the operating system that a user can mend, in place of a traceback.

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
    """One line on what went wrong, where, and how to mend it; None for an error that isn't of these.

    Of errors in a chain the first tells, the others came of it; but its file's name is known to those that handled it.

    Args:
        database: what SQLite's errors are about, since they name no file.
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
    """The file that an error is about; of a renaming, the new name; of a temporary one, what it was to become."""
    name = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    return None if name is None else path_of(os.fsdecode(name))


def _line(error: BaseException, name: str | None) -> str | None:
    code = disk_full(error)
    if code is not None:
        return _full(code, name)
    if isinstance(error, OSError) and error.errno in _MENDS and name is not None:
        return f"{name}: {error.strerror}: {_MENDS[error.errno]}"
    return None


def _full(code: int, name: str | None) -> str:
    """Of a full disk, or a file that is larger than may be."""
    path = Path(name or ".").absolute()
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    what = f"{name}: {os.strerror(code)}" if name else os.strerror(code)
    elsewhere = ", or set TMPDIR to a folder with more room" if path.parent == Path(tempfile.gettempdir()) else ""
    if code == errno.EFBIG:
        return f"{what}: raise the limit of file sizes (ulimit -f){elsewhere}, then run again"
    free = f"{shutil.disk_usage(place).free:,} bytes are free in {place} now that what was half-written is gone"
    return f"{what}: {free}; make room{elsewhere}, then run again"
