"""A run's record on this machine, written before anything is sent to MLflow: an outage there loses nothing.

Each run has a folder in the main checkout's `mlflow.pending/`: `events.jsonl`, one event a line, and `files/`, what is
to become its artifacts. The folder is removed when all of it has been sent. Its process holds a lock (flock) on it, so
that a journal without a lock is known to be of a process that has ended.
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
_COPIED = 1 << 24  # bytes of a file up to which it is copied


def pending_folder() -> Path:
    """Where journals are kept until MLflow has them."""
    return checkout_root() / "mlflow.pending"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Journal:
    """The journal that this process writes. It never raises: tracking must not stop what it tracks."""

    def __init__(self, store: str) -> None:
        """
        Args:
            store: the address of the store that it is for.
        """
        self._write = threading.Lock()
        self._told = False
        self._lock: int | None = None
        self.folder: Path | None = pending_folder() / f"{now_ms()}-{uuid.uuid4().hex[:12]}"
        try:
            (self.folder / FILES).mkdir(parents=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
            try_lock(self._lock)
        except OSError as error:
            self._tell(error)
            self.folder = None
        self.write("store", store)

    def write(self, kind: str, value: Any) -> None:
        """Append an event."""
        if self.folder is None:
            return
        line = json.dumps([kind, value]) + "\n"
        try:
            with self._write, (self.folder / EVENTS).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._tell(error)

    def keep(self, path: Path, name: str) -> None:
        """Keep a file, or a folder's files, as they are now, to become the artifact of that name."""
        self._keep(lambda target: _copy(path, target), name)

    def keep_text(self, text: str, name: str) -> None:
        """Keep a text, to become the artifact of that name."""
        self._keep(lambda target: target.write_text(text, encoding="utf-8"), name)

    def _keep(self, write: Callable[[Path], object], name: str) -> None:
        if self.folder is None:
            return
        try:
            write(self.folder / FILES / name)
        except OSError as error:
            self._tell(error)
            return
        self.write("artifact", name)

    def close(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            place = one_line(str(error.filename or self.folder))
            print(f"MLflow: {place}: {error.strerror}: figures of this stage may be missing there", file=sys.stderr)


def read_events(folder: Path, start: int = 0) -> tuple[list[tuple[str, Any]], int]:
    """The events from byte `start` on, and where the next begins. A last line that was cut is not read."""
    with (folder / EVENTS).open("rb") as file:
        file.seek(start)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [(kind, value) for kind, value in map(json.loads, whole.splitlines())], start + len(whole)


def left_journals() -> list[Path]:
    """Journals that are still there, the oldest first: being written, or not yet sent."""
    return sorted(path.parent for path in pending_folder().glob(f"*/{EVENTS}"))


@contextmanager
def owned(folder: Path) -> Iterator[bool]:
    """Hold a journal that no process writes or sends; False if one does, or another sent it meanwhile."""
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
    """Large files, which our writers replace and never rewrite, by a second name where that is possible."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        copy = target / file.relative_to(path) if path.is_dir() else target
        copy.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            copy.unlink()
        if file.stat().st_size > _COPIED:
            with suppress(OSError):
                os.link(file, copy)
                continue
        shutil.copyfile(file, copy)
