"""Download of a file: an interrupted download is resumed, and the file appears only when complete and verified."""

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
from tapestry.source.checksums import Digest, digest_of, progress_bar, read_record, record_digest
from tapestry.source.part import PartialDownload, Version
from tapestry.source.web import MANUAL_DOWNLOAD, Limits, Response, TransientError, get

CHUNK = 1 << 20  # bytes; a smaller addition to the partial download is no progress
HEAD = 512  # first bytes, which show whether a web page came instead of the file
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
LINKED_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?', re.IGNORECASE)
WEB_PAGE = re.compile(rb"[\s\xef\xbb\xbf]*<(?:!doctype html|html)", re.IGNORECASE)

_DEFAULT_LIMITS = Limits()


class _StopWithoutProgress:
    """Stop after `attempts` consecutive attempts without progress, which is CHUNK more bytes than at the last progress.

    Small additions add up: two attempts of CHUNK / 2 bytes each are one without progress and one with progress.
    """

    def __init__(self, part: PartialDownload, attempts: int) -> None:
        self._part = part
        self._attempts = attempts
        self._size_at_progress = part.size()
        self._attempts_without_progress = 0

    def __call__(self, _: RetryCallState) -> bool:
        size = self._part.size()
        if size >= self._size_at_progress + CHUNK:
            self._size_at_progress, self._attempts_without_progress = size, 0
        else:
            self._attempts_without_progress += 1
        return self._attempts_without_progress >= self._attempts


def download(
    url: str,
    target: Path,
    record: Path,
    *,
    attempts: int = 6,
    longest_wait: float = 60.0,
    limits: Limits = _DEFAULT_LIMITS,
) -> Digest:
    """Download `url` to `target`, verify it, and return its size and hash.

    An interrupted download leaves its bytes in <target>.part. The next call resumes from there, in this process or in
    another.

    Args:
        url: the address of the file.
        target: where the file goes. It is not downloaded again if it equals its entry in `record`.
        record: JSON file {url: {"bytes", "sha256"}}. The first download of a URL adds its entry. Later downloads must
            equal the entry.
        attempts: give up after this many consecutive attempts without progress. There is no limit on the attempts of a
            connection that breaks again and again, if each adds bytes.
        longest_wait: seconds between two attempts, at most.
        limits: limits on each response.

    Raises:
        TapestryError: the file can't be downloaded, differs from the publisher's checksum or from `record`, or is too
            large for the disk; or `target` or `record` exists and is wrong; or a file can't be read or written.
    """
    try:
        _require_files(target, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        if (existing := _verify_existing(url, target, record)) is not None:
            return existing
        part = PartialDownload(target)
        with FileLock(part.lock):
            # While this process waited for the lock, another may have downloaded the file.
            if (existing := _verify_existing(url, target, record)) is not None:
                return existing
            digest = _download_with_retries(url, target, attempts, longest_wait, limits)
            _check_record(record, url, digest, target)
            part.path.replace(target)
            part.discard()
            return digest
    except OSError as error:
        raise TapestryError(
            f"{url}: {error.filename or target}: {error.strerror or error}. See that it can be read and written, and "
            "run again"
        ) from error


def _require_files(target: Path, record: Path) -> None:
    """Raise if a path that must be a file is something else. `PartialDownload` handles a link at its own path."""
    part = PartialDownload(target)
    for path in (target, record, part.path, part.sidecar, part.lock, Path(f"{record}.lock")):
        if path.is_dir() and not (path == part.path and path.is_symlink()):
            raise TapestryError(f"{path} is a folder, and a file belongs there. Move it away and run again")
    for path in (target, record):
        if path.exists() and not path.is_file():
            raise TapestryError(f"{path} is no file. Move it away and run again")


def _verify_existing(url: str, target: Path, record: Path) -> Digest | None:
    """Return the recorded digest if `target` exists and equals it; None if there is no target or no entry.

    Raises:
        TapestryError: `target` differs from its entry.
    """
    recorded = read_record(record).get(url)
    if recorded is None or not target.exists():
        return None
    if target.stat().st_size != recorded.bytes or digest_of(target) != recorded:
        raise TapestryError(
            f"{target} is not the file that {record} has for {url} ({recorded}). Delete it to download it again"
        )
    return recorded


def _download_with_retries(url: str, target: Path, attempts: int, longest_wait: float, limits: Limits) -> Digest:
    backoff = wait_exponential_jitter(max=longest_wait)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, TransientError) else 0.0
        return min(max(backoff(state), retry_after), longest_wait)

    def print_retry(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        tqdm.write(f"{url}: {error}; trying again in {state.upcoming_sleep:.0f} s", file=sys.stderr)

    retrying = Retrying(
        stop=_StopWithoutProgress(PartialDownload(target), attempts),
        wait=wait,
        before_sleep=print_retry,
        retry=retry_if_exception_type(TransientError),
        reraise=True,
    )
    try:
        return retrying(_attempt, url, target, limits)
    except TransientError as error:
        raise TapestryError(
            f"{url}: {error}; given up after {attempts} attempts without progress. Run again later: the download is "
            f"resumed if the server allows it. {MANUAL_DOWNLOAD}"
        ) from error


def _attempt(url: str, target: Path, limits: Limits) -> Digest:
    """Download the missing bytes and verify the whole file against what the server says of it."""
    part = PartialDownload(target)
    response, offset = _request(url, part, limits)
    with response:
        total = _total_size(response, offset, url, target)
        _write_body(response, offset, total, url, target, limits)
    size = part.size()
    if total not in (None, size):
        part.discard()
        raise TransientError(f"received {size} bytes, not {total}")
    digest = digest_of(part.path)
    published = LINKED_SHA256.fullmatch(response.first_header("X-Linked-Etag") or "")
    if published and published[1].lower() != digest.sha256:
        part.discard()
        raise TapestryError(
            f"{url}: the sha256 of the download is {digest.sha256}, the publisher's is {published[1].lower()}. "
            f"The download is deleted; run again to download it again. {MANUAL_DOWNLOAD}"
        )
    return digest


def _request(url: str, part: PartialDownload, limits: Limits) -> tuple[Response, int]:
    """Request the missing bytes. Return the response and the offset in the file where its body starts.

    The offset is 0 where the server doesn't resume, or where the file has changed since.
    """
    offset, version = part.resume_point(url)
    if offset and version and version.validator:
        response = get(url, {"Range": f"bytes={offset}-", "If-Range": version.validator}, {200, 206, 416}, limits)
        if response.status == 200:
            return response, 0
        content_range = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if (
            response.status == 206
            and content_range
            and int(content_range[1]) == offset
            and int(content_range[2]) + 1 == int(content_range[3])
            and version.total in (None, int(content_range[3]))
            and _validator(response) in (None, version.validator)
        ):
            return response, offset
        response.close()
    return get(url, {}, {200}, limits), 0


def _total_size(response: Response, offset: int, url: str, target: Path) -> int | None:
    """Return the bytes of the whole file; None if the server doesn't say, but marks the end of the body.

    Raises:
        TransientError: the server declares two different sizes.
        TapestryError: neither size nor end is known, or the body is compressed.
    """
    content_range = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")) if offset else None
    declared = (
        int(content_range[3])
        if content_range
        else response.parse_size("Content-Length", response.headers.get("Content-Length"))
    )
    linked = response.parse_size("X-Linked-Size", response.first_header("X-Linked-Size"))
    total = linked if declared is None else declared
    if linked not in (None, total):
        PartialDownload(target).discard()
        raise TransientError(f"the server sends {total} bytes of a file of {linked}")
    if total is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise TapestryError(
            f"{url}: the server does not say how long the file is, so a cut would not be noticed. {MANUAL_DOWNLOAD}"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity" and not target.name.endswith(".gz"):
        raise TapestryError(f"{url}: the server compresses {target.name}, which was not requested. {MANUAL_DOWNLOAD}")
    return total


def _write_body(response: Response, offset: int, total: int | None, url: str, target: Path, limits: Limits) -> None:
    """Append the body to the partial download, or start it again where `offset` is 0."""
    part = PartialDownload(target)
    chunks = response.chunks()
    head = b""
    if not offset:
        while len(head) < HEAD and (chunk := next(chunks, b"")):
            head += chunk
        # Check before the reset: a login page must not delete a partial download that can be resumed.
        _refuse_other_content(head, url, target)
    missing = None if total is None else total - part.size()
    if missing is not None and missing > shutil.disk_usage(target.parent).free:
        raise _disk_full_error(target, missing)
    try:
        if not offset:
            part.reset(Version(url, _validator(response), total))
        with part.open_for_writing(offset) as writer, progress_bar(target.name, offset, total) as bar:
            received = offset
            for chunk in chain([head], chunks):
                received += len(chunk)
                _refuse_excess(received, total, url, target, limits)
                writer.write(chunk)
                bar.update(len(chunk))
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full_error(target, missing) from error


def _refuse_excess(received: int, total: int | None, url: str, target: Path, limits: Limits) -> None:
    """Raise, and delete the partial download, if more bytes came than the file may have."""
    if total is not None and received > total:
        PartialDownload(target).discard()
        raise TransientError(f"received {received} bytes, without an end, of a file of {total}")
    if total is None and received > limits.max_undeclared_size:
        PartialDownload(target).discard()
        raise TapestryError(
            f"{url}: received {received} bytes, without an end, of a file whose length the server does not say. The "
            f"download is deleted. {MANUAL_DOWNLOAD}"
        )


def _refuse_other_content(head: bytes, url: str, target: Path) -> None:
    """Raise if the first bytes show an empty file, a web page, or a .gz file that is not gzip."""
    if not head:
        found = "an empty file"
    elif WEB_PAGE.match(head):
        found = "a web page"
    elif target.name.endswith(".gz") and not head.startswith(b"\x1f\x8b"):
        found = "something that is not gzip"
    else:
        return
    raise TapestryError(
        f"{url}: received {found} instead of the file. Look for a proxy or a login in between. {MANUAL_DOWNLOAD}"
    )


def _disk_full_error(target: Path, missing: int | None) -> TapestryError:
    needed = "more" if missing is None else f"{missing} bytes more"
    return TapestryError(
        f"{target.parent}: the disk is full. {target.name} needs {needed}, "
        f"{shutil.disk_usage(target.parent).free} are free. Make room and run again: the download is resumed"
    )


def _validator(response: Response) -> str | None:
    """Return the validator for If-Range. A weak ETag (W/"…") doesn't promise the same bytes, so it is none."""
    etag = response.headers.get("ETag")
    if etag is None:
        return response.headers.get("Last-Modified")
    return None if etag.startswith("W/") else etag


def _check_record(record: Path, url: str, digest: Digest, target: Path) -> None:
    """Record the first download of `url`; raise, and delete the partial download, if a later one differs."""
    recorded = record_digest(record, url, digest)
    if recorded == digest:
        return
    PartialDownload(target).discard()
    raise TapestryError(
        f"{url}: the publisher's file is not the one recorded. Downloaded: {digest}; {record} has {recorded}. The "
        f"download is deleted; to accept it, remove the URL's entry from {record} and run again"
    )
