from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.core.atomic import write_json
from tapestry.core.errors import TapestryError
from tapestry.source import checksums
from tapestry.source.checksums import Digest
from tapestry.source.download import download
from tapestry.source.part import Part
from tapestry.source.web import Bounds

CONTENT = gzip.compress(random.Random(7).randbytes(4000), mtime=0)
OTHER = gzip.compress(random.Random(8).randbytes(4000), mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DIGEST = Digest(len(CONTENT), SHA256)


@dataclass
class Reply:
    """Sent as it is, whatever was asked; then the connection is closed."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stall: float = 0.0  # seconds before the end


@dataclass
class Site:
    """Serves `content` at every path, with ranges, after what `script` has: replies, or bytes to cut after."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    script: list[Reply | int] = field(default_factory=list)
    asked: list[Message] = field(default_factory=list)

    def reply(self, headers: Message) -> Reply:
        self.asked.append(headers)
        step = self.script.pop(0) if self.script else len(self.content)
        if isinstance(step, Reply):
            return step
        answer = {"ETag": self.etag, "Last-Modified": self.modified}
        known = {key: value for key, value in answer.items() if value is not None}
        if self.ranges and "Range" in headers and headers["If-Range"] in known.values():
            start = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
            total = len(self.content)
            if start >= total:
                return Reply(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            known |= {
                "Content-Range": f"bytes {start}-{total - 1}/{total}",
                "Content-Length": str(total - start),
            }
            return Reply(206, known, self.content[start:][:step])
        return Reply(200, {"Content-Length": str(len(self.content)), **known}, self.content[:step])

    def ranges_asked(self) -> list[str | None]:
        return [headers["Range"] for headers in self.asked]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[Site]]]:
    """The address, and a list whose last site is served."""
    sites: list[Site] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = sites[-1].reply(self.headers)
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(reply.body)
            time.sleep(reply.stall)
            self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", sites
        running.shutdown()
        thread.join()


@pytest.fixture
def site(server: tuple[str, list[Site]]) -> Site:
    address, sites = server
    sites.append(Site(url=f"{address}/Books.json.gz"))
    return sites[-1]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited between attempts."""
    asked: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=asked.append))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return asked


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "Books.json.gz"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "downloads.json"


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def sidecar_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def leave_part(site: Site, target: Path, record: Path, size: int) -> None:
    """A first process that was stopped after `size` bytes."""
    site.script = [size]
    with pytest.raises(TapestryError, match="1 attempts"):
        download(site.url, target, record, attempts=1)
    assert part_of(target).stat().st_size == size
    assert not target.exists()
    site.asked.clear()


def test_a_file_comes_whole_quietly_and_is_recorded(
    site: Site, target: Path, record: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT
    assert json.loads(record.read_text()) == {site.url: {"bytes": len(CONTENT), "sha256": SHA256}}
    assert site.asked[0]["Accept-Encoding"] == "identity"
    assert {path.name for path in target.parent.iterdir()} <= {target.name, f"{target.name}.part.lock"}
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_there_as_recorded_is_not_fetched_again(site: Site, target: Path, record: Path) -> None:
    download(site.url, target, record)
    assert download(site.url, target, record) == DIGEST
    assert len(site.asked) == 1


@pytest.mark.parametrize("wrong", [OTHER[: len(CONTENT)], CONTENT[:-1]])
def test_a_file_that_is_there_and_not_as_recorded_is_refused(
    site: Site, target: Path, record: Path, wrong: bytes
) -> None:
    download(site.url, target, record)
    target.write_bytes(wrong)
    with pytest.raises(TapestryError, match=r"Books\.json\.gz is not the file .*Delete it to fetch it again"):
        download(site.url, target, record)
    assert len(site.asked) == 1
    assert target.read_bytes() == wrong


def test_a_file_that_is_there_without_a_record_is_fetched(site: Site, target: Path, record: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_status_that_will_not_pass_is_an_error_at_once(site: Site, target: Path, record: Path, status: int) -> None:
    site.script = [Reply(status, {"Content-Length": "0"})]
    with pytest.raises(TapestryError, match=rf"{site.url}: .* {status} .*source\.release: files with source\.path"):
        download(site.url, target, record)
    assert len(site.asked) == 1
    assert not record.exists()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_asked_again_after_growing_waits(
    site: Site, target: Path, record: Path, status: int, waits: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    site.script = [Reply(status, {"Content-Length": "0"})] * 3
    assert download(site.url, target, record) == DIGEST
    assert len(site.asked) == 4
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 3
    assert all(f"{site.url}: the server answers {status}" in line and "trying again in" in line for line in told)
    assert all(low <= wait <= low + 1 for low, wait in zip((1, 2, 4), waits, strict=True))


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7.0), ("500", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("0", None)]
)
def test_the_wait_that_the_server_asks_for_is_kept_within_bounds(
    site: Site, target: Path, record: Path, waits: list[float], asked: str, waited: float | None
) -> None:
    site.script = [Reply(503, {"Content-Length": "0", "Retry-After": asked})]
    download(site.url, target, record)
    if waited is None:
        assert 1 <= waits[0] <= 2
    else:
        assert waits == [waited]


def test_no_wait_is_longer_than_allowed(site: Site, target: Path, record: Path, waits: list[float]) -> None:
    site.script = [Reply(500, {"Content-Length": "0"})] * 5
    download(site.url, target, record, longest_wait=0.001)
    assert waits == [0.001] * 5


def test_a_refused_connection_is_an_error_after_all_attempts(target: Path, record: Path, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/Books.json.gz"
    with pytest.raises(TapestryError, match=rf"{url}: .*given up after 3 attempts"):
        download(url, target, record, attempts=3)
    assert len(waits) == 2


def test_an_address_that_is_none_is_an_error_at_once(target: Path, record: Path, waits: list[float]) -> None:
    with pytest.raises(TapestryError, match=r"^Books\.json\.gz: "):
        download("Books.json.gz", target, record)
    assert waits == []


def test_a_silent_server_is_asked_again(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": str(len(CONTENT)), "ETag": '"one"'}, CONTENT[:1000], stall=0.3)]
    assert download(site.url, target, record, bounds=Bounds(silence=0.1)) == DIGEST
    assert len(site.asked) == 2


def test_a_cut_is_resumed_where_it_came(site: Site, target: Path, record: Path) -> None:
    site.script = [1000, 700]
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None, "bytes=1000-", "bytes=1700-"]
    assert [headers["If-Range"] for headers in site.asked] == [None, '"one"', '"one"']
    assert target.read_bytes() == CONTENT


def test_cuts_between_which_bytes_come_are_no_reason_to_give_up(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapestry.source.download.CHUNK", 64)
    site.script = [len(CONTENT) // 6] * 5
    assert download(site.url, target, record, attempts=2) == DIGEST
    assert len(site.asked) == 6
    target.unlink()
    record.unlink()
    site.script = [len(CONTENT) // 6, 10, 0, 10]
    with pytest.raises(TapestryError, match="given up after 3 attempts in vain"):
        download(site.url, target, record, attempts=3)
    assert len(site.asked) == 10


def test_a_later_process_resumes(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == ["bytes=1000-"]
    assert target.read_bytes() == CONTENT


def test_the_date_is_the_validator_where_there_is_no_etag(site: Site, target: Path, record: Path) -> None:
    site.etag, site.modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    site.script = [1000]
    download(site.url, target, record)
    assert site.asked[1]["If-Range"] == site.modified
    assert site.ranges_asked() == [None, "bytes=1000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_nothing_is_resumed(site: Site, target: Path, record: Path, etag: str | None) -> None:
    site.etag = etag
    leave_part(site, target, record, 1000)
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None]
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_since_the_cut_starts_again(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    site.content, site.etag = OTHER, '"two"'
    site.script = [600]
    download(site.url, target, record)
    assert site.ranges_asked() == ["bytes=1000-", "bytes=600-"]
    assert [headers["If-Range"] for headers in site.asked] == ['"one"', '"two"']
    assert target.read_bytes() == OTHER


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_starting_again_mixes_no_versions(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    leave_part(site, target, record, 1000)
    site.content, site.etag = OTHER, '"two"'

    def killed(path: Path, value: Any) -> None:
        if moment == "after":
            write_json(path, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tapestry.source.part.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            download(site.url, target, record)
    download(site.url, target, record)
    assert target.read_bytes() == OTHER


def test_a_server_without_ranges_starts_again(site: Site, target: Path, record: Path) -> None:
    site.ranges = False
    site.script = [1000, 2000]
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None, "bytes=1000-", "bytes=2000-"]
    assert target.read_bytes() == CONTENT


def reply_206(start: int, end: int, total: int | str, etag: str = '"one"') -> Reply:
    body = CONTENT[start : end + 1]
    headers = {"Content-Range": f"bytes {start}-{end}/{total}", "Content-Length": str(len(body)), "ETag": etag}
    return Reply(206, headers, body)


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(CONTENT)}"}),
        Reply(206, {"Content-Length": str(len(CONTENT))}, CONTENT),
        reply_206(0, len(CONTENT) - 1, len(CONTENT)),
        reply_206(900, len(CONTENT) - 1, len(CONTENT)),
        reply_206(1000, len(CONTENT) - 9, len(CONTENT)),
        reply_206(1000, len(CONTENT) - 1, len(CONTENT), etag='"two"'),
        reply_206(1000, len(CONTENT) - 2, len(CONTENT) - 1),
        reply_206(1000, len(CONTENT) - 1, "*"),
    ],
    ids=["416", "no range", "from 0", "earlier", "not to the end", "other version", "other length", "no length"],
)
def test_an_answer_that_does_not_go_on_starts_again(site: Site, target: Path, record: Path, refusal: Reply) -> None:
    leave_part(site, target, record, 1000)
    site.script = [refusal]
    assert download(site.url, target, record, attempts=1) == DIGEST
    assert site.ranges_asked() == ["bytes=1000-", None]
    assert target.read_bytes() == CONTENT


def test_a_part_of_another_url_is_not_gone_on_with(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    download(f"{site.url}?other", target, record)
    assert site.ranges_asked() == [None]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "sidecar",
    [
        None,
        "",
        "[]",
        "{",
        "null",
        '{"url": 1}',
        '{"url": URL, "validator": 1, "total": 4023}',
        '{"url": URL, "validator": ["one"], "total": 4023}',
        '{"url": URL, "validator": {"a": {"b": []}}, "total": 4023}',
        '{"url": URL, "validator": "a\\r\\nRange: bytes=0-", "total": 4023}',
        '{"url": URL, "validator": "\\u2603", "total": 4023}',
        '{"url": URL, "validator": "", "total": 4023}',
        '{"url": URL, "validator": "one", "total": -1}',
        '{"url": URL, "validator": "one", "total": 0}',
        '{"url": URL, "validator": "one", "total": "4023"}',
        '{"url": URL, "validator": "one", "total": true}',
        '{"url": URL, "validator": "one", "total": [4023]}',
        '{"url": URL, "validator": "one", "total": NaN}',
        '{"url": URL, "validator": "one", "total": 1e999}',
        '{"url": URL, "validator": "one", "total": ' + "9" * 5000 + "}",
        '{"url": URL, "validator": "one", "total": 4023, "more": 1}',
        '{"url": ["a"], "validator": "one", "total": 4023}',
        "[" * 100_000,
        '{"url": "' + "x" * 1_000_000 + '"}',
        b"\xff\xfe{}",
        b"\x00",
    ],
    ids=lambda sidecar: str(sidecar)[:60],
)
def test_a_part_of_unknown_origin_is_not_gone_on_with(
    site: Site, target: Path, record: Path, sidecar: str | bytes | None
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(OTHER[:1000])
    if isinstance(sidecar, str):
        sidecar = sidecar.replace("URL", json.dumps(site.url)).encode()
    if sidecar is not None:
        sidecar_of(target).write_bytes(sidecar)
    download(site.url, target, record)
    assert site.ranges_asked() == [None]
    assert target.read_bytes() == CONTENT


def test_of_a_whole_part_only_the_last_byte_is_fetched(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    part_of(target).write_bytes(CONTENT)
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [f"bytes={len(CONTENT) - 1}-"]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_again(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    part_of(target).write_bytes(CONTENT + b"x")
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None]


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=5), together=st.booleans())
def test_whatever_the_cuts_the_file_is_never_there_in_part(
    server: tuple[str, list[Site]], cuts: list[int], together: bool
) -> None:
    address, sites = server
    site = Site(url=f"{address}/Books.json.gz")
    sites.append(site)
    with tempfile.TemporaryDirectory() as folder:
        target, record = Path(folder, "Books.json.gz"), Path(folder, "downloads.json")
        site.script = [*cuts] if together else []
        for cut in [] if together else cuts:
            site.script = [cut]
            with contextlib.suppress(TapestryError):
                download(site.url, target, record, attempts=1)
            assert target.exists() == record.exists()
            assert not target.exists() or target.read_bytes() == CONTENT
        assert download(site.url, target, record, attempts=6) == DIGEST
        assert target.read_bytes() == CONTENT


def test_a_length_that_never_comes_is_an_error_after_all_attempts(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": "9999"}, CONTENT)] * 3
    with pytest.raises(TapestryError, match="connection broke"):
        download(site.url, target, record, attempts=3)
    assert len(site.asked) == 3
    assert not target.exists()


@pytest.mark.parametrize("difference", [-1, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_length_other_than_the_publishers_is_tried_again(
    site: Site, target: Path, record: Path, difference: int, chunked: bool
) -> None:
    redirect = Reply(
        302, {"Location": "/store", "Content-Length": "0", "X-Linked-Size": str(len(CONTENT) + difference)}
    )
    sent = in_chunks(CONTENT) if chunked else Reply(200, {"Content-Length": str(len(CONTENT))}, CONTENT)
    site.script = [redirect, sent, redirect, sent]
    with pytest.raises(TapestryError, match=rf"{len(CONTENT)} bytes .*given up after 2"):
        download(site.url, target, record, attempts=2)
    assert not part_of(target).exists()
    assert not record.exists()
    assert download(site.url, target, record) == DIGEST


def in_chunks(content: bytes, end: bytes = b"0\r\n\r\n") -> Reply:
    pieces = (content[start : start + 300] for start in range(0, len(content), 300))
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return Reply(200, {"Transfer-Encoding": "chunked", "ETag": '"one"'}, body + end)


def test_a_file_of_undeclared_length_is_resumed_too(site: Site, target: Path, record: Path) -> None:
    site.script = [in_chunks(CONTENT[:1200], end=b"")]
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None, "bytes=1200-"]
    assert target.read_bytes() == CONTENT


def test_a_file_of_undeclared_length_comes_whole(site: Site, target: Path, record: Path) -> None:
    site.script = [in_chunks(CONTENT)]
    assert download(site.url, target, record) == DIGEST
    assert len(site.asked) == 1


def test_an_answer_whose_end_cannot_be_told_is_refused(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {}, CONTENT)]
    with pytest.raises(TapestryError, match="does not say how long"):
        download(site.url, target, record)


def to_store(etag: str) -> Reply:
    """As Hugging Face's hub answers."""
    headers = {"Location": "/store", "Content-Length": "0"}
    return Reply(302, {**headers, "x-linked-etag": etag, "x-linked-size": str(len(CONTENT))})


@pytest.mark.parametrize("etag", [f'"{SHA256}"', f'W/"{SHA256.upper()}"', f'"{"a" * 40}"', '"none"'])
def test_the_publishers_checksum_is_kept(site: Site, target: Path, record: Path, etag: str) -> None:
    site.script = [to_store(etag)]
    assert download(site.url, target, record) == DIGEST
    assert site.url in json.loads(record.read_text())


def test_another_checksum_than_the_publishers_is_an_error(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    site.script = [to_store(f'"{"a" * 64}"')]
    with pytest.raises(TapestryError, match=f"{SHA256}, the publisher's is {'a' * 64}"):
        download(site.url, target, record)
    assert site.ranges_asked() == ["bytes=1000-", "bytes=1000-"]
    assert not target.exists()
    assert not part_of(target).exists()
    assert not record.exists()


def test_the_checksum_may_be_on_the_answer_itself(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": str(len(CONTENT)), "X-Linked-ETag": f'"{"a" * 64}"'}, CONTENT)]
    with pytest.raises(TapestryError, match="the publisher's is aaaa"):
        download(site.url, target, record)


def test_the_record_is_sorted_and_grows(site: Site, target: Path, record: Path) -> None:
    for name in ("c", "a", "b"):
        download(f"{site.url}/{name}", target.with_name(f"{name}.json.gz"), record)
    text = record.read_text()
    urls = list(json.loads(text))
    assert urls == [f"{site.url}/{name}" for name in "abc"]
    expected = {url: {"bytes": len(CONTENT), "sha256": SHA256} for url in urls}
    assert text == json.dumps(expected, indent=2) + "\n"


def test_a_file_other_than_recorded_is_refused_and_the_record_kept(site: Site, target: Path, record: Path) -> None:
    download(site.url, target, record)
    before = record.read_bytes()
    target.unlink()
    site.content, site.etag = OTHER, '"two"'
    with pytest.raises(TapestryError, match=f"remove the URL's entry from {record}") as caught:
        download(site.url, target, record)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert record.read_bytes() == before
    assert not target.exists()
    assert not part_of(target).exists()
    record.write_text("{}")
    download(site.url, target, record)
    assert target.read_bytes() == OTHER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "<<<<<<< HEAD",
        '{"u": 1}',
        '{"u": {"bytes": 1}}',
        '{"u": {"bytes": 0, "sha256": "' + hashlib.sha256(b"").hexdigest() + '"}}',
        '{"u": {"bytes": "1", "sha256": "' + SHA256 + '"}}',
        '{"u": {"bytes": 1, "sha256": 1}}',
        '{"u": {"bytes": 1, "sha256": "none"}}',
        '{"u": {"bytes": ' + "9" * 5000 + ', "sha256": "' + SHA256 + '"}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_record_that_is_none_is_refused(site: Site, target: Path, record: Path, text: str) -> None:
    record.write_text(text)
    with pytest.raises(TapestryError, match=r"downloads\.json: not a record"):
        download(site.url, target, record)
    assert site.asked == []


def test_downloads_at_once_lose_no_entry(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = checksums.read_record

    def slow_read(path: Path) -> dict[str, Digest]:
        entries = read(path)
        time.sleep(0.02)
        return entries

    monkeypatch.setattr(checksums, "read_record", slow_read)
    urls = [f"{site.url}/{number}" for number in range(6)]
    with ThreadPoolExecutor(len(urls)) as pool:
        targets = [target.with_name(f"{number}.json.gz") for number in range(len(urls))]
        assert list(pool.map(download, urls, targets, [record] * len(urls))) == [DIGEST] * len(urls)
    assert sorted(json.loads(record.read_text())) == urls


def test_one_file_wanted_twice_at_once_is_fetched_once(site: Site, target: Path, record: Path) -> None:
    site.script = [1000]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(download, [site.url] * 4, [target] * 4, [record] * 4)) == [DIGEST] * 4
    assert site.ranges_asked() == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("Books.json.gz", b"<!DOCTYPE html><title>Log in</title>", "a web page came"),
        ("Books.csv", b"\xef\xbb\xbf\r\n  <HTML><body>Log in</body>", "a web page came"),
        ("Books.json.gz", b'{"error": "quota"}', "not gzip came"),
        ("Books.json.gz", b"", "an empty file came"),
        ("Books.csv", b"", "an empty file came"),
    ],
)
def test_a_page_instead_of_the_file_is_told(
    site: Site, target: Path, record: Path, name: str, body: bytes, message: str
) -> None:
    leave_part(site, target.with_name(name), record, 1000)
    site.script = [Reply(200, {"Content-Length": str(len(body)), "Content-Type": "text/html"}, body)]
    with pytest.raises(TapestryError, match=rf"{site.url}: .*{message} instead .*proxy or a login"):
        download(site.url, target.with_name(name), record)
    assert len(site.asked) == 1
    assert not record.exists()
    download(site.url, target.with_name(name), record)
    assert site.ranges_asked() == ["bytes=1000-", "bytes=1000-"]


def test_a_page_is_told_from_its_first_bytes(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": str(10**10)}, b"<html>".ljust(1 << 21))]
    with pytest.raises(TapestryError, match="a web page came"):
        download(site.url, target, record)
    assert len(site.asked) == 1


def test_data_that_is_no_gzip_comes_whole(site: Site, target: Path, record: Path) -> None:
    site.content = b"user,item,rating,timestamp\n"
    download(site.url, target.with_name("Books.csv"), record)
    assert target.with_name("Books.csv").read_bytes() == site.content


def test_what_the_server_compresses_unasked(site: Site, target: Path, record: Path) -> None:
    headers = {"Content-Length": str(len(CONTENT)), "Content-Encoding": "gzip"}
    site.script = [Reply(200, headers, CONTENT)] * 2
    with pytest.raises(TapestryError, match=r"compresses Books\.csv"):
        download(site.url, target.with_name("Books.csv"), record)
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT


def test_a_disk_that_is_too_small_is_told_before(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_part(site, target, record, 1000)
    missing = len(CONTENT) - 1000
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=missing - 1))
        with pytest.raises(TapestryError, match=f"{target.parent}: .*needs {missing} bytes more, {missing - 1} are"):
            download(site.url, target, record)
        assert part_of(target).read_bytes() == CONTENT[:1000]
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=missing))
        assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == ["bytes=1000-", "bytes=1000-"]


def test_a_disk_that_fills_keeps_what_came(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[:1500])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Part, "writer", lambda part, offset: Full(part.path, "xb"))
        with pytest.raises(TapestryError, match=r"disk is full.* run again"):
            download(site.url, target, record)
    assert part_of(target).read_bytes() == CONTENT[:1500]
    assert len(site.asked) == 1
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None, "bytes=1500-"]
    assert target.read_bytes() == CONTENT


def test_a_disk_error_of_another_kind_is_not_called_full(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(TapestryError, match=r"Input/output error\. See that it can be read and written"):
        download(site.url, target, record)
    assert not target.exists()


# Files where others belong.


@pytest.mark.parametrize("name", ["target", "part", "sidecar", "record", "lock"])
def test_a_folder_in_a_files_place_is_told_before_anything_is_fetched(
    site: Site, target: Path, record: Path, name: str
) -> None:
    places = {
        "target": target,
        "part": part_of(target),
        "sidecar": sidecar_of(target),
        "record": record,
        "lock": target.with_name(f"{target.name}.part.lock"),
    }
    places[name].mkdir(parents=True)
    with pytest.raises(TapestryError, match=f"^{places[name]} is a folder, and a file belongs there. Move it away"):
        download(site.url, target, record)
    assert site.asked == []


@pytest.mark.parametrize("kind", ["symlink", "dangling", "folder", "hardlink", "fifo"])
@pytest.mark.parametrize("resumable", [True, False])
def test_a_link_in_the_parts_place_is_not_written_through(
    site: Site, target: Path, record: Path, tmp_path: Path, kind: str, resumable: bool
) -> None:
    leave_part(site, target, record, 1000)
    if not resumable:
        sidecar_of(target).unlink()
    precious = tmp_path / "precious"
    part = part_of(target)
    part.unlink()
    if kind == "folder":
        precious.mkdir()
    elif kind in ("symlink", "hardlink"):
        precious.write_bytes(CONTENT[:1000])
    if kind == "hardlink":
        part.hardlink_to(precious)
    elif kind == "fifo":
        os.mkfifo(part)
    else:
        part.symlink_to(precious)
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT
    assert not target.is_symlink()
    assert site.ranges_asked() == [None]
    if kind in ("symlink", "hardlink"):
        assert precious.read_bytes() == CONTENT[:1000]
    else:
        assert precious.is_dir() == (kind == "folder")
        assert kind != "dangling" or not precious.exists()


def test_a_pipe_in_the_place_of_what_tells_of_a_part_is_not_waited_for(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    sidecar_of(target).unlink()
    os.mkfifo(sidecar_of(target))
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == [None]


def test_a_link_that_appears_on_the_way_is_not_written_through(
    site: Site, target: Path, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_part(site, target, record, 1000)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")

    def usage(path: Path) -> SimpleNamespace:
        part_of(target).unlink()
        part_of(target).symlink_to(precious)
        return SimpleNamespace(free=10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(TapestryError, match=rf"{part_of(target)}: Too many levels of symbolic links"):
        download(site.url, target, record)
    assert precious.read_bytes() == b"precious"


def test_what_cannot_be_read_or_made_is_one_clear_line(site: Site, target: Path, record: Path) -> None:
    target.parent.write_bytes(b"a file")
    with pytest.raises(TapestryError, match=rf"^{site.url}: {target.parent}: File exists\. See that"):
        download(site.url, target, record)
    target.parent.unlink()
    record.symlink_to(record)
    with pytest.raises(TapestryError, match=rf"^{site.url}: {record}: Too many levels of symbolic links\. See that"):
        download(site.url, target, record)
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(TapestryError, match=rf"^{record} is no file\. Move it away"):
        download(site.url, target, record)
    assert site.asked == []


@pytest.mark.parametrize("name", ["target", "record", "part", "sidecar"])
def test_a_file_that_may_not_be_read_is_one_clear_line(site: Site, target: Path, record: Path, name: str) -> None:
    download(site.url, target, record)
    if name in ("part", "sidecar"):
        target.unlink()
        leave_part(site, target, record, 1000)
    place = {"target": target, "record": record, "part": part_of(target), "sidecar": sidecar_of(target)}[name]
    place.chmod(0)
    if os.access(place, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(TapestryError, match=f"{place}: Permission denied. See that"):
        download(site.url, target, record)


# Servers that keep to no rule; tests/data/test_web.py has more.


def test_more_than_the_publisher_has_is_given_up_before_it_ends(site: Site, target: Path, record: Path) -> None:
    redirect = Reply(302, {"Location": "/store", "Content-Length": "0", "X-Linked-Size": "2000"})
    site.script = [redirect, in_chunks(CONTENT, end=b""), redirect, in_chunks(CONTENT, end=b"")]
    with pytest.raises(TapestryError, match=r"2100 bytes came, and not their end, of a file of 2000; given up after 2"):
        download(site.url, target, record, attempts=2)
    assert not part_of(target).exists()
    assert not record.exists()


def test_a_file_of_undeclared_length_is_bounded(site: Site, target: Path, record: Path) -> None:
    site.script = [in_chunks(CONTENT, end=b"")]
    with pytest.raises(TapestryError, match=r"^http.*: 2100 bytes came, and not their end, of a file whose length the"):
        download(site.url, target, record, bounds=Bounds(undeclared=2000))
    assert not part_of(target).exists()
    assert len(site.asked) == 1


@pytest.mark.parametrize("header", ["Content-Length", "X-Linked-Size"])
def test_a_length_of_5000_digits_is_one_clear_line(site: Site, target: Path, record: Path, header: str) -> None:
    site.script = [Reply(200, {"Content-Length": str(len(CONTENT)), header: "9" * 5000}, CONTENT)]
    with pytest.raises(TapestryError, match=rf"^{site.url}: the server's {header} has 5000 digits and is no size"):
        download(site.url, target, record)
    assert len(site.asked) == 1


def test_a_range_of_5000_digits_starts_again(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    site.script = [reply_206(1000, len(CONTENT) - 1, "9" * 5000)]
    assert download(site.url, target, record) == DIGEST
    assert site.ranges_asked() == ["bytes=1000-", None]


def test_a_body_in_an_encoding_beside_chunks_is_refused(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Transfer-Encoding": "gzip, chunked"}, CONTENT)]
    with pytest.raises(TapestryError, match="does not say how long"):
        download(site.url, target, record)


def test_a_server_that_trickles_is_given_up_with_what_came_kept(site: Site, target: Path, record: Path) -> None:
    """Half the file, then nothing in any attempt."""
    half = len(CONTENT) // 2
    head = {"Content-Length": str(len(CONTENT)), "ETag": '"one"'}
    site.script = [Reply(200, head, CONTENT[:half])]
    with pytest.raises(TapestryError, match="given up after 1 attempts"):
        download(site.url, target, record, attempts=1, bounds=Bounds(silence=0.2))
    assert part_of(target).read_bytes() == CONTENT[:half]
    assert download(site.url, target, record) == DIGEST


NUMBERS = ["0", "1", "2000", "-1", "+5", "1_0", " 7 ", "", "12, 12", "1, 2", "abc", "9" * 18, "9" * 5000, "\xb2", "1e3"]
PLACES = [
    "/store",
    "",
    "//",
    "?",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "http://.a/",
    "ftp://a/",
    "\xff",
    "/\x1b[2J",
]
hostile_headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Length": st.sampled_from([str(len(CONTENT)), *NUMBERS]),
        "Transfer-Encoding": st.sampled_from(["chunked", "Chunked", "gzip, chunked", "identity", ""]),
        "Content-Range": st.sampled_from(
            [
                f"bytes {start}-{end}/{total}"
                for start in ("0", "1000", "-1")
                for end in ("2022", "x")
                for total in NUMBERS
            ]
        ),
        "Content-Encoding": st.sampled_from(["gzip", "identity", "br", ""]),
        "Location": st.sampled_from(PLACES),
        "ETag": st.sampled_from(['"one"', "W/", "", "\xe9", "\x1b[2J", "x" * 9999]),
        "Retry-After": st.sampled_from(NUMBERS),
        "X-Linked-Size": st.sampled_from([str(len(CONTENT)), *NUMBERS]),
        "X-Linked-Etag": st.sampled_from([f'"{SHA256}"', f'"{"a" * 64}"', "\xe9"]),
    },
)
hostile_replies = st.builds(
    Reply,
    st.sampled_from([200, 200, 200, 206, 206, 204, 301, 302, 304, 308, 404, 416, 503]),
    hostile_headers,
    st.sampled_from([CONTENT, CONTENT[1000:], CONTENT[:1000], b"", b"<html>", in_chunks(CONTENT).body, b"0\r\n\r\n"]),
)


@settings(max_examples=150, deadline=None)
@given(replies=st.lists(hostile_replies, min_size=1, max_size=4), resumed=st.booleans(), name=st.sampled_from("az"))
def test_whatever_a_server_answers_the_file_is_whole_or_there_is_one_clear_line(
    server: tuple[str, list[Site]], replies: list[Reply], resumed: bool, name: str
) -> None:
    """Whatever is taken for the file is recorded as what it is, and is as long as the server has said."""
    address, sites = server
    site = Site(url=f"{address}/Books.{'csv' if name == 'a' else 'json.gz'}")
    sites.append(site)
    with tempfile.TemporaryDirectory() as folder:
        target, record = Path(folder, "raw", site.url.rpartition("/")[2]), Path(folder, "downloads.json")
        if resumed:
            leave_part(site, target, record, 1000)
        site.script = [*replies]
        bounds = Bounds(silence=0.5, headers=1.0, window=0.5)
        try:
            digest = download(site.url, target, record, attempts=2, longest_wait=0.001, bounds=bounds)
        except TapestryError as error:
            told = str(error)
        else:
            content = target.read_bytes()
            assert digest == Digest(len(content), hashlib.sha256(content).hexdigest())
            assert content
            assert any(body.startswith(content) for body in (CONTENT, *(reply.body for reply in replies)))
            assert json.loads(record.read_text()) == {site.url: {"bytes": digest.bytes, "sha256": digest.sha256}}
            return
        assert told.isprintable()
        assert len(told) < 2000
        assert not target.exists()
        assert not record.exists()
