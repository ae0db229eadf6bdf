"""Files from the web: a download is resumed where it stopped, and appears only when whole and verified."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from itertools import chain
from pathlib import Path

from filelock import FileLock
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter
from tqdm import tqdm

from tapestry.core.errors import TapestryError
from tapestry.source.checksums import Digest, bytes_bar, digest_of, enter, read_record, told
from tapestry.source.part import Part, Version
from tapestry.source.web import BY_HAND, Answer, Bounds, PassingError, ask

CHUNK = 1 << 20
HEAD = 512  # first bytes, which tell a web page from data
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
LINKED_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?', re.IGNORECASE)
WEB_PAGE = re.compile(rb"[\s\xef\xbb\xbf]*<(?:!doctype html|html)", re.IGNORECASE)

_BOUNDS = Bounds()


class _Stuck:
    """Whether so many attempts in a row have brought no `CHUNK` more of the file than there had been."""

    def __init__(self, part: Part, attempts: int) -> None:
        self._part = part
        self._attempts = attempts
        self._furthest = part.size()
        self._in_vain = 0

    def __call__(self, _: RetryCallState) -> bool:
        size = self._part.size()
        if size >= self._furthest + CHUNK:
            self._furthest, self._in_vain = size, 0
        else:
            self._in_vain += 1
        return self._in_vain >= self._attempts


def download(
    url: str, target: Path, record: Path, *, attempts: int = 6, longest_wait: float = 60.0, bounds: Bounds = _BOUNDS
) -> Digest:
    """Make `target` the file at `url`, whole and verified, and return its size and hash.

    `record` is a JSON file {url: {"bytes", "sha256"}}: the first download of a URL adds an entry, later ones
    must equal it, and a `target` that equals it is not fetched again. What an interrupted download has fetched
    stays in <target>.part, from which the next call, in this process or another, goes on. `attempts` are those in a
    row that bring nothing: a line that is cut again and again is gone on with as long as bytes come.

    Raises:
        TapestryError: the file cannot be had, is not what the publisher or `record` says, or does not fit on
            the disk; or `target` or `record` was there and is wrong; or a file cannot be read or written.
    """
    try:
        _require_files(target, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        if (present := _present(url, target, record)) is not None:
            return present
        part = Part(target)
        with FileLock(part.lock):
            # Another process may have fetched it while this one waited for the lock.
            if (present := _present(url, target, record)) is not None:
                return present
            digest = _persist(url, target, attempts, longest_wait, bounds)
            _enter(record, url, digest, target)
            part.path.replace(target)
            part.discard()
            return digest
    except OSError as error:
        raise TapestryError(
            f"{url}: {error.filename or target}: {error.strerror or error}. See that it can be read and written, and "
            "run again"
        ) from error


def _require_files(target: Path, record: Path) -> None:
    """Raise if something that is no file lies where one belongs. A link in the part's place is left to `Part`."""
    part = Part(target)
    for path in (target, record, part.path, part.note, part.lock, Path(f"{record}.lock")):
        if path.is_dir() and not (path == part.path and path.is_symlink()):
            raise TapestryError(f"{path} is a folder, and a file belongs there. Move it away and run again")
    for path in (target, record):
        if path.exists() and not path.is_file():
            raise TapestryError(f"{path} is no file. Move it away and run again")


def _persist(url: str, target: Path, attempts: int, longest_wait: float, bounds: Bounds) -> Digest:
    """Fetch the file, in as many attempts as it takes while they bring something."""
    backoff = wait_exponential_jitter(max=longest_wait)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, PassingError) else 0.0
        return min(max(backoff(state), asked), longest_wait)

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        tqdm.write(f"{url}: {error}; trying again in {state.upcoming_sleep:.0f} s", file=sys.stderr)

    retrying = Retrying(
        stop=_Stuck(Part(target), attempts),
        wait=wait,
        before_sleep=tell,
        retry=retry_if_exception_type(PassingError),
        reraise=True,
    )
    try:
        return retrying(_attempt, url, target, bounds)
    except PassingError as error:
        raise TapestryError(
            f"{url}: {error}; given up after {attempts} attempts in vain. Run again later: it goes on from what "
            f"has come, where the server lets it. {BY_HAND}"
        ) from error


def _present(url: str, target: Path, record: Path) -> Digest | None:
    recorded = read_record(record).get(url)
    if recorded is None or not target.exists():
        return None
    if target.stat().st_size != recorded.bytes or digest_of(target) != recorded:
        raise TapestryError(
            f"{target} is not the file that {record} has for {url} ({told(recorded)}). Delete it to fetch it again"
        )
    return recorded


def _attempt(url: str, target: Path, bounds: Bounds) -> Digest:
    """Fetch what is missing of `target`'s part file and verify the whole against what the server says of it."""
    part = Part(target)
    answer, offset = _ask(url, target, bounds)
    with answer:
        total = _total(answer, offset, url, target)
        _write(answer, offset, total, url, target, bounds)
    size = part.size()
    if total not in (None, size):
        Part(target).discard()
        raise PassingError(f"{size} bytes came, not {total}")
    digest = digest_of(part.path)
    published = LINKED_SHA256.fullmatch(answer.linked("X-Linked-Etag") or "")
    if published and published[1].lower() != digest.sha256:
        Part(target).discard()
        raise TapestryError(
            f"{url}: the sha256 of what came is {digest.sha256}, the publisher's is {published[1].lower()}. "
            f"What came is deleted; run again to fetch it anew. {BY_HAND}"
        )
    return digest


def _total(answer: Answer, offset: int, url: str, target: Path) -> int | None:
    """The length of the whole file; None if the server doesn't say, and the end can be told all the same."""
    span = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "")) if offset else None
    declared = int(span[3]) if span else answer.size("Content-Length", answer.headers.get("Content-Length"))
    linked = answer.size("X-Linked-Size", answer.linked("X-Linked-Size"))
    total = linked if declared is None else declared
    if linked not in (None, total):
        Part(target).discard()
        raise PassingError(f"the server sends {total} bytes of a file of {linked}")
    if total is None and answer.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise TapestryError(f"{url}: the server does not say how long the file is; a cut would pass. {BY_HAND}")
    if answer.headers.get("Content-Encoding", "identity") != "identity" and not target.name.endswith(".gz"):
        raise TapestryError(f"{url}: the server compresses {target.name}, unasked. {BY_HAND}")
    return total


def _ask(url: str, target: Path, bounds: Bounds) -> tuple[Answer, int]:
    """The server's answer, and from which byte of the file it goes on."""
    offset, version = Part(target).leftover(url)
    if offset and version and version.validator:
        answer = ask(url, {"Range": f"bytes={offset}-", "If-Range": version.validator}, {200, 206, 416}, bounds)
        if answer.status == 200:
            return answer, 0
        span = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if (
            answer.status == 206
            and span
            and int(span[1]) == offset
            and int(span[2]) + 1 == int(span[3])
            and version.total in (None, int(span[3]))
            and _validator(answer) in (None, version.validator)
        ):
            return answer, offset
        answer.close()
    return ask(url, {}, {200}, bounds), 0


def _write(answer: Answer, offset: int, total: int | None, url: str, target: Path, bounds: Bounds) -> None:
    part = Part(target)
    pieces = answer.pieces()
    head = b""
    if not offset:
        while len(head) < HEAD and (piece := next(pieces, b"")):
            head += piece
        # Before anything is written: a login page must not cost a part that can be resumed.
        _refuse_page(head, url, target)
    missing = None if total is None else total - part.size()
    if missing is not None and missing > shutil.disk_usage(target.parent).free:
        raise _disk_full(target, missing)
    try:
        if not offset:
            part.start(Version(url, _validator(answer), total))
        with part.writer(offset) as writer, bytes_bar(target.name, offset, total) as bar:
            came = offset
            for piece in chain([head], pieces):
                came += len(piece)
                _refuse_endless(came, total, url, target, bounds)
                writer.write(piece)
                bar.update(len(piece))
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(target, missing) from error


def _refuse_endless(came: int, total: int | None, url: str, target: Path, bounds: Bounds) -> None:
    if total is not None and came > total:
        Part(target).discard()
        raise PassingError(f"{came} bytes came, and not their end, of a file of {total}")
    if total is None and came > bounds.undeclared:
        Part(target).discard()
        raise TapestryError(
            f"{url}: {came} bytes came, and not their end, of a file whose length the server does not say. What came "
            f"is deleted. {BY_HAND}"
        )


def _refuse_page(head: bytes, url: str, target: Path) -> None:
    if not head:
        came = "an empty file"
    elif WEB_PAGE.match(head):
        came = "a web page"
    elif target.name.endswith(".gz") and not head.startswith(b"\x1f\x8b"):
        came = "something that is not gzip"
    else:
        return
    raise TapestryError(f"{url}: {came} came instead of the file. Look for a proxy or a login in between. {BY_HAND}")


def _disk_full(target: Path, missing: int | None) -> TapestryError:
    needed = "more" if missing is None else f"{missing} bytes more"
    return TapestryError(
        f"{target.parent}: the disk is full. {target.name} needs {needed}, "
        f"{shutil.disk_usage(target.parent).free} are free. Make room and run again: it goes on from what has come"
    )


def _validator(answer: Answer) -> str | None:
    """What If-Range may name: a weak ETag does not promise the same bytes."""
    etag = answer.headers.get("ETag")
    if etag is None:
        return answer.headers.get("Last-Modified")
    return None if etag.startswith("W/") else etag


def _enter(record: Path, url: str, digest: Digest, target: Path) -> None:
    recorded = enter(record, url, digest)
    if recorded == digest:
        return
    Part(target).discard()
    raise TapestryError(
        f"{url}: the publisher's file is not the one recorded. What came: {told(digest)}; {record} has "
        f"{told(recorded)}. What came is deleted; to accept it, remove the URL's entry from {record} and run again"
    )
