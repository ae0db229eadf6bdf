"""Files from the web: a download is resumed where it stopped, and appears only when whole and verified."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import requests
import urllib3
from filelock import FileLock
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter
from tqdm import tqdm

from tapestry.atomic import write_json
from tapestry.errors import TapestryError

TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
CHUNK = 1 << 20
HEAD = 512  # first bytes, which tell a web page from data
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses worth another attempt
BY_HAND = "Or download the file by hand and use it through source.release: files with source.path"
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
LINKED_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?', re.IGNORECASE)
WEB_PAGE = re.compile(rb"[\s\xef\xbb\xbf]*<(?:!doctype html|html)", re.IGNORECASE)


@dataclass(frozen=True)
class Digest:
    """Size and hash of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Version:
    """Of what a part file is the beginning; kept beside it for a later process."""

    url: str
    validator: str | None
    total: int | None


class _Stuck:
    """Whether so many attempts in a row have brought no `CHUNK` more of the file than there had been."""

    def __init__(self, part: Path, attempts: int) -> None:
        self._part = part
        self._attempts = attempts
        self._furthest = _size(part)
        self._in_vain = 0

    def __call__(self, _: RetryCallState) -> bool:
        size = _size(self._part)
        if size >= self._furthest + CHUNK:
            self._furthest, self._in_vain = size, 0
        else:
            self._in_vain += 1
        return self._in_vain >= self._attempts


class _PassingError(Exception):
    """A fault that another attempt may not meet."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait  # seconds the server asks for


def download(url: str, target: Path, record: Path, *, attempts: int = 6, longest_wait: float = 60.0) -> Digest:
    """Make `target` the file at `url`, whole and verified, and return its size and hash.

    `record` is a JSON file {url: {"bytes", "sha256"}}: the first download of a URL adds an entry, later ones
    must equal it, and a `target` that equals it is not fetched again. What an interrupted download has fetched
    stays in <target>.part, from which the next call, in this process or another, goes on. `attempts` are those in a
    row that bring nothing: a line that is cut again and again is gone on with as long as bytes come.

    Raises:
        TapestryError: the file cannot be had, is not what the publisher or `record` says, or does not fit on
            the disk; or `target` or `record` was there and is wrong.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(target)
    if (present := _present(url, target, record)) is not None:
        return present
    with FileLock(f"{part}.lock"):
        # Another process may have fetched it while this one waited for the lock.
        if (present := _present(url, target, record)) is not None:
            return present
        backoff = wait_exponential_jitter(max=longest_wait)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _PassingError) else 0.0
            return min(max(backoff(state), asked), longest_wait)

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            tqdm.write(f"{url}: {error}; trying again in {state.upcoming_sleep:.0f} s", file=sys.stderr)

        retrying = Retrying(
            stop=_Stuck(part, attempts),
            wait=wait,
            before_sleep=tell,
            retry=retry_if_exception_type(_PassingError),
            reraise=True,
        )
        try:
            digest = retrying(_attempt, url, target)
        except _PassingError as error:
            raise TapestryError(
                f"{url}: {error}; given up after {attempts} attempts in vain. Run again later: it goes on from what "
                f"has come, where the server lets it. {BY_HAND}"
            ) from error
        _enter(record, url, digest, target)
        part.replace(target)
        _discard(target)
        return digest


def _present(url: str, target: Path, record: Path) -> Digest | None:
    recorded = _read(record).get(url)
    if recorded is None or not target.exists():
        return None
    if target.stat().st_size != recorded.bytes or _digest(target) != recorded:
        raise TapestryError(
            f"{target} is not the file that {record} has for {url} ({_told(recorded)}). Delete it to fetch it again"
        )
    return recorded


def _attempt(url: str, target: Path) -> Digest:
    """Fetch what is missing of `target`'s part file and verify the whole against what the server says of it."""
    part = _part(target)
    response, offset = _ask(url, target)
    with response:
        span = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")) if offset else None
        declared = _number(span[3] if span else response.headers.get("Content-Length"))
        linked = _number(_linked(response, "X-Linked-Size"))
        total = linked if declared is None else declared
        if linked not in (None, total):
            _discard(target)
            raise _PassingError(f"the server sends {total} bytes of a file of {linked}")
        if total is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
            raise TapestryError(f"{url}: the server does not say how long the file is; a cut would pass. {BY_HAND}")
        if response.headers.get("Content-Encoding", "identity") != "identity" and not target.name.endswith(".gz"):
            raise TapestryError(f"{url}: the server compresses {target.name}, unasked. {BY_HAND}")
        _write(response, offset, total, url, target)
    size = part.stat().st_size
    if total not in (None, size):
        _discard(target)
        raise _PassingError(f"{size} bytes came, not {total}")
    digest = _digest(part)
    published = LINKED_SHA256.fullmatch(_linked(response, "X-Linked-Etag") or "")
    if published and published[1].lower() != digest.sha256:
        _discard(target)
        raise TapestryError(
            f"{url}: the sha256 of what came is {digest.sha256}, the publisher's is {published[1].lower()}. "
            f"What came is deleted; run again to fetch it anew. {BY_HAND}"
        )
    return digest


def _ask(url: str, target: Path) -> tuple[requests.Response, int]:
    """The server's answer, and from which byte of the file it goes on."""
    offset, version = _leftover(url, target)
    if offset and version and version.validator:
        response = _get(url, {"Range": f"bytes={offset}-", "If-Range": version.validator}, {200, 206, 416})
        if response.status_code == 200:
            return response, 0
        span = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if (
            response.status_code == 206
            and span
            and int(span[1]) == offset
            and int(span[2]) + 1 == int(span[3])
            and version.total in (None, int(span[3]))
            and _validator(response) in (None, version.validator)
        ):
            return response, offset
        response.close()
    return _get(url, {}, {200}), 0


def _leftover(url: str, target: Path) -> tuple[int, _Version | None]:
    """From which byte to go on, and of which version of the file."""
    try:
        version = _Version(**json.loads(_sidecar(target).read_text(encoding="utf-8")))
        size = _part(target).stat().st_size
    except (FileNotFoundError, ValueError, TypeError):
        return 0, None
    if version.url != url or size > (version.total or size):
        return 0, None
    # Of a whole part the last byte is asked for again: an empty range cannot be, and only an answer has the checksum.
    return (size - 1 if size == version.total else size), version


def _get(url: str, headers: dict[str, str], accepted: set[int]) -> requests.Response:
    # identity: compressed on the way, the lengths and ranges would not be the file's.
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _PassingError(f"no answer ({error})") from error
    except requests.RequestException as error:
        raise TapestryError(f"{url}: {error}. {BY_HAND}") from error
    if response.status_code in accepted:
        return response
    response.close()
    status = f"the server answers {response.status_code} {response.reason}"
    if response.status_code in PASSING:
        raise _PassingError(status, wait=_number(response.headers.get("Retry-After")) or 0)
    raise TapestryError(f"{url}: {status}. Check the address and who may read it. {BY_HAND}")


def _write(response: requests.Response, offset: int, total: int | None, url: str, target: Path) -> None:
    part = _part(target)
    chunks = _chunks(response)
    head = b""
    if not offset:
        while len(head) < HEAD and (chunk := next(chunks, b"")):
            head += chunk
        # Before anything is written: a login page must not cost a part that can be resumed.
        _refuse_page(head, url, target)
    present = _size(part)
    missing = None if total is None else total - present
    if missing is not None and missing > shutil.disk_usage(target.parent).free:
        raise _disk_full(target, missing)
    try:
        if not offset:
            # Emptied first: a new sidecar beside old bytes would be believed.
            part.write_bytes(b"")
            write_json(_sidecar(target), dataclasses.asdict(_Version(url, _validator(response), total)))
        with part.open("ab") as writer, _bar(target.name, offset, total) as bar:
            writer.truncate(offset)
            for chunk in chain([head], chunks):
                writer.write(chunk)
                bar.update(len(chunk))
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(target, missing) from error


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise _PassingError(f"the connection broke ({error})") from error


def _refuse_page(head: bytes, url: str, target: Path) -> None:
    if WEB_PAGE.match(head):
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


def _validator(response: requests.Response) -> str | None:
    """What If-Range may name: a weak ETag does not promise the same bytes."""
    etag = response.headers.get("ETag")
    if etag is None:
        return response.headers.get("Last-Modified")
    return None if etag.startswith("W/") else etag


def _linked(response: requests.Response, header: str) -> str | None:
    """A header of Hugging Face's hub, which is on the redirect to the file's store."""
    return next((answer.headers[header] for answer in (*response.history, response) if header in answer.headers), None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]+", text) else None


def _digest(path: Path) -> Digest:
    total = path.stat().st_size
    sha256 = hashlib.sha256()
    # Not hashlib.file_digest: no bar can follow it.
    with path.open("rb") as reader, _bar(f"{path.name}: sha256", 0, total) as bar:
        while chunk := reader.read(CHUNK):
            sha256.update(chunk)
            bar.update(len(chunk))
    return Digest(total, sha256.hexdigest())


def _bar(name: str, done: int, total: int | None) -> tqdm:
    # disable=None: no bar where the output is not a terminal.
    return tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, disable=None, leave=False)


def _read(record: Path) -> dict[str, Digest]:
    try:
        entries = json.loads(record.read_text(encoding="utf-8"))
        return {url: Digest(**entry) for url, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise TapestryError(f"{record}: not a record of downloads ({error}). Restore it as git has it") from error


def _enter(record: Path, url: str, digest: Digest, target: Path) -> None:
    with FileLock(f"{record}.lock"):
        entries = _read(record)
        recorded = entries.get(url)
        if recorded is None:
            entries[url] = digest
            write_json(record, {key: dataclasses.asdict(entries[key]) for key in sorted(entries)})
    if recorded in (None, digest):
        return
    _discard(target)
    raise TapestryError(
        f"{url}: the publisher's file is not the one recorded. What came: {_told(digest)}; {record} has "
        f"{_told(recorded)}. What came is deleted; to accept it, remove the URL's entry from {record} and run again"
    )


def _told(digest: Digest) -> str:
    return f"{digest.bytes} bytes, sha256 {digest.sha256}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _sidecar(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def _discard(target: Path) -> None:
    _part(target).unlink(missing_ok=True)
    _sidecar(target).unlink(missing_ok=True)
