"""The local record of a run, written before anything is sent to MLflow, so that an outage of the store loses nothing.

Each run has a folder in the main checkout's `mlflow.pending/`. It holds `events.jsonl`, one event a line, and `files/`
with the run's artifacts. The folder is removed once all of it has been sent. The writing process holds a lock (flock)
on the folder. A journal without a lock therefore belongs to a process that has ended.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tapestry.core.atomic import try_lock
from tapestry.core.checkout import checkout_root
from tapestry.core.errors import one_line

EVENTS = "events.jsonl"
FILES = "files"
_MAX_COPIED_BYTES = 1 << 24  # larger files are hard-linked


def pending_folder() -> Path:
    """Return the folder of the journals that are not yet sent."""
    return checkout_root() / "mlflow.pending"


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as MLflow's events have it."""
    return time.time_ns() // 1_000_000


class Journal:
    """The journal that this process writes. Its methods never raise: an error of tracking must not stop a stage."""

    def __init__(self, store: str) -> None:
        """
        Args:
            store: the address of the store that the journal will be sent to.
        """
        self._write = threading.Lock()
        self._warned = False
        self._lock: int | None = None
        self.folder: Path | None = pending_folder() / f"{now_ms()}-{uuid.uuid4().hex[:12]}"
        try:
            (self.folder / FILES).mkdir(parents=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
            try_lock(self._lock)
        except OSError as error:
            self._warn(error)
            self.folder = None
        self.write("store", store)

    def write(self, kind: str, value: Any) -> None:
        """Append an event to the journal."""
        if self.folder is None:
            return
        line = json.dumps([kind, value]) + "\n"
        try:
            with self._write, (self.folder / EVENTS).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._warn(error)

    def add_artifact(self, path: Path, name: str) -> None:
        """Copy a file, or a folder's files, into the journal, as the artifact `name`."""
        self._add_artifact(lambda target: _copy(path, target), name)

    def add_text_artifact(self, text: str, name: str) -> None:
        """Write a text into the journal, as the artifact `name`."""
        self._add_artifact(lambda target: target.write_text(text, encoding="utf-8"), name)

    def _add_artifact(self, write: Callable[[Path], object], name: str) -> None:
        if self.folder is None:
            return
        try:
            write(self.folder / FILES / name)
        except OSError as error:
            self._warn(error)
            return
        self.write("artifact", name)

    def close(self) -> None:
        """Release the lock, so that another process can send the journal."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            path = one_line(str(error.filename or self.folder))
            print(f"MLflow: {path}: {error.strerror}: metrics of this stage may be missing there", file=sys.stderr)


def read_events(folder: Path, start: int = 0) -> tuple[list[tuple[str, Any]], int]:
    """Read the events from byte `start` on; return them and the next offset. An incomplete last line is not read."""
    with (folder / EVENTS).open("rb") as file:
        file.seek(start)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [(kind, value) for kind, value in map(json.loads, whole.splitlines())], start + len(whole)


def pending_journals() -> list[Path]:
    """List the journals that are being written or not yet sent, the oldest first."""
    return sorted(path.parent for path in pending_folder().glob(f"*/{EVENTS}"))


@contextmanager
def locked_journal(folder: Path) -> Iterator[bool]:
    """Lock a journal; yield False if another process holds the lock, or has sent the journal in the meantime."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        yield try_lock(handle) is not False and (folder / EVENTS).exists()
    finally:
        os.close(handle)


def _copy(path: Path, target: Path) -> None:
    """Copy a file or folder. Large files are hard-linked if possible: our writers replace files, never rewrite them."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        copy = target / file.relative_to(path) if path.is_dir() else target
        copy.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            copy.unlink()
        if file.stat().st_size > _MAX_COPIED_BYTES:
            with suppress(OSError):
                os.link(file, copy)
                continue
        shutil.copyfile(file, copy)
