"""Atomic writes: a killed process leaves nothing half-written that a later one would trust.

Every writer works in a folder of its own, `.<name>.<random>.partial` beside the path, and holds a lock on that folder
for as long as its process lives. So several may write one path, the last wins, and a folder without a lock is known
to be left by a killed process: the next writer of the path removes it.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tapestry.core.errors import TapestryError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SQLITE_FULL = "database or disk is full"
_TEMPORARY = re.compile(r"^(.*?/|)\.([^/]+)\.[a-z0-9_]{8}\.partial(/.*)?$", re.DOTALL)
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; what is there takes the place of `path` only on success."""
    with own_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it takes the place of the folder `path` only on success.

    No file system replaces a folder that isn't empty: for an instant there is none, but never a mix of two.

    Raises:
        NotADirectoryError: `path` is a file or a link.
    """
    if _is_no_folder(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    with own_folder(path) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _sync(written)
        _replace_folder(path, temporary, folder)
        _sync(path.parent)


@contextmanager
def own_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which is removed at the end, after those that killed processes left there.

    The folder is locked by flock(2), a lock that goes with the process. Where a file system has no such locks,
    nothing is taken for left.

    Raises:
        OSError: with the name of `path`, where the disk was too full for what was written to the folder, whatever
            error the library that wrote it raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    folder, lock = _make_own(path)
    try:
        yield folder
    except Exception as error:
        code = disk_full(error)
        if code is not None and _is_of(folder, error):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _is_no_folder(path: Path) -> bool:
    """Whether something else is there, by one look: a folder may go while another writer replaces it."""
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def disk_full(error: BaseException) -> int | None:
    """The errno of an error that says that a disk is full; None of any other. DuckDB and others give it as text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL else None
    if isinstance(error, TapestryError):  # says already what it has to
        return None
    if SQLITE_FULL in str(error):
        return errno.ENOSPC
    return next((code for code in _FULL if os.strerror(code) in str(error)), None)


def _is_of(folder: Path, error: Exception) -> bool:
    """Whether an error is about a file of the folder: it says so, or names no file."""
    if isinstance(error, OSError) and error.filename is not None:
        return folder.name in str(error.filename)
    return folder.name in str(error) or ".partial/" not in str(error)


def path_of(temporary: str) -> str:
    """The path that a temporary path stands for; any other as it is."""
    return _TEMPORARY.sub(r"\1\2", temporary)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys as CSV with a header, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """Format `value` as `write_json` writes it."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _make_own(path: Path) -> tuple[Path, int]:
    """A new folder and the open descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        # Another writer may take it for left before it is locked: then it is gone, or about to be.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            if try_lock(handle) is not False and folder.exists():
                return folder, handle
            os.close(handle)


def _remove_left(path: Path) -> None:
    """Remove the folders of processes that no longer live."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.partial")
    for entry in os.scandir(path.parent):
        if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # another user's, or removed by another writer meanwhile
                handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    if try_lock(handle):
                        shutil.rmtree(entry.path, ignore_errors=True)
                finally:
                    os.close(handle)


def try_lock(handle: int) -> bool | None:
    """Whether the lock (flock) of an open file or folder is had; None where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _replace_folder(path: Path, new: Path, aside: Path) -> None:
    """Put `new` in the place of `path`, whose folder goes to `aside`, also while others do the same."""
    for number in itertools.count():
        with suppress(FileNotFoundError):
            path.rename(aside / f"{number}.old")
        try:
            new.rename(path)
            return
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that can't do so for folders
            raise
    finally:
        os.close(handle)
