"""Atomic writes: a killed process leaves no incomplete file that a later process would trust.

Every writer uses a temporary folder, `.<name>.<random>.partial` beside the path, and locks it until its process ends.
So several processes can write the same path, and the last one wins. A temporary folder without a lock belongs to a
killed process; the next writer of the same path removes it.
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

_DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SQLITE_FULL = "database or disk is full"
_TEMPORARY = re.compile(r"^(.*?/|)\.([^/]+)\.[a-z0-9_]{8}\.partial(/.*)?$", re.DOTALL)
_TARGET_EXISTS = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, it replaces `path`."""
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; on success, it replaces the folder `path`.

    No file system can replace a folder that isn't empty in one step. So for an instant there is no folder at `path`,
    but there is never a mix of the old and the new one.

    Raises:
        NotADirectoryError: `path` is a file or a link.
    """
    if _is_not_folder(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _sync(written)
        _replace_folder(path, temporary, folder)
        _sync(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path` and remove it at the end. First remove those of killed processes.

    The folder is locked by flock(2), which ends with the process. On a file system without such locks, the folders of
    killed processes stay.

    Raises:
        OSError: the disk was too full; the error names `path`, whichever error the writing library raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    folder, lock = _make_locked(path)
    try:
        yield folder
    except Exception as error:
        code = disk_full(error)
        if code is not None and _concerns(folder, error):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _is_not_folder(path: Path) -> bool:
    """Whether something other than a folder is at `path`.

    One system call, because a folder may disappear while another writer replaces it.
    """
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def disk_full(error: BaseException) -> int | None:
    """Return the errno of an error about a full disk, else None. DuckDB and other libraries give it only as text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _DISK_FULL_CODES else None
    if isinstance(error, TapestryError):  # its message is already complete
        return None
    if SQLITE_FULL in str(error):
        return errno.ENOSPC
    return next((code for code in _DISK_FULL_CODES if os.strerror(code) in str(error)), None)


def _concerns(folder: Path, error: Exception) -> bool:
    """Whether an error is about a file in the temporary folder: it names such a file, or no temporary file."""
    if isinstance(error, OSError) and error.filename is not None:
        return folder.name in str(error.filename)
    return folder.name in str(error) or ".partial/" not in str(error)


def final_path(temporary: str) -> str:
    """Return the final path of a temporary path; any other path unchanged."""
    return _TEMPORARY.sub(r"\1\2", temporary)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV with a header, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, with keys in their given order, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """Format `value` as `write_json` writes it."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _make_locked(path: Path) -> tuple[Path, int]:
    """Make a temporary folder; return it and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        # Before it is locked, another writer may take it for abandoned. Then it is removed, so make another.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            if try_lock(handle) is not False and folder.exists():
                return folder, handle
            os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary folders of processes that have ended."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.partial")
    for entry in os.scandir(path.parent):
        if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # it belongs to another user, or another writer has just removed it
                handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    if try_lock(handle):
                        shutil.rmtree(entry.path, ignore_errors=True)
                finally:
                    os.close(handle)


def try_lock(handle: int) -> bool | None:
    """Try to lock an open file or folder (flock), without waiting.

    Returns:
        True if this process has the lock, False if another has it, None if the file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _replace_folder(path: Path, new: Path, aside: Path) -> None:
    """Move the folder `path` into `aside`, and `new` to `path`. Repeat if another writer was faster."""
    for number in itertools.count():
        with suppress(FileNotFoundError):
            path.rename(aside / f"{number}.old")
        try:
            new.rename(path)
            return
        except OSError as error:
            if error.errno not in _TARGET_EXISTS:
                raise


def _sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system can't sync folders
            raise
    finally:
        os.close(handle)
