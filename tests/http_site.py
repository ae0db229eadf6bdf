"""A web server of one file on this machine, with ranges and scripted faults, and fixtures of its downloads."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest

from tapestry.core.errors import TapestryError
from tapestry.source.checksums import Digest
from tapestry.source.download import download

CONTENT = gzip.compress(random.Random(7).randbytes(4000), mtime=0)
OTHER = gzip.compress(random.Random(8).randbytes(4000), mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DIGEST = Digest(len(CONTENT), SHA256)


@dataclass
class Reply:
    """A response sent as it is, whatever the request. Then the server closes the connection."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stall: float = 0.0  # seconds before the connection is closed


@dataclass
class Site:
    """Serves `content` at every path, with ranges.

    `script` holds faults of the first requests, one a request: a reply, or the bytes after which the body is cut.
    """

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    script: list[Reply | int] = field(default_factory=list)
    requests: list[Message] = field(default_factory=list)

    def reply(self, headers: Message) -> Reply:
        self.requests.append(headers)
        step = self.script.pop(0) if self.script else len(self.content)
        if isinstance(step, Reply):
            return step
        headers_of_version = {"ETag": self.etag, "Last-Modified": self.last_modified}
        validators = {key: value for key, value in headers_of_version.items() if value is not None}
        if self.ranges and "Range" in headers and headers["If-Range"] in validators.values():
            start = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
            total = len(self.content)
            if start >= total:
                return Reply(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            validators |= {
                "Content-Range": f"bytes {start}-{total - 1}/{total}",
                "Content-Length": str(total - start),
            }
            return Reply(206, validators, self.content[start:][:step])
        return Reply(200, {"Content-Length": str(len(self.content)), **validators}, self.content[:step])

    def requested_ranges(self) -> list[str | None]:
        return [headers["Range"] for headers in self.requests]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[Site]]]:
    """Start a server; return its address, and a list of which it serves the last site."""
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


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds between attempts, without waiting, and use no proxy."""
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=seconds.append))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return seconds


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
    """Interrupt a first download after `size` bytes."""
    site.script = [size]
    with pytest.raises(TapestryError, match="1 attempts"):
        download(site.url, target, record, attempts=1)
    assert part_of(target).stat().st_size == size
    assert not target.exists()
    site.requests.clear()


def in_chunks(content: bytes, end: bytes = b"0\r\n\r\n") -> Reply:
    """A reply with chunked transfer encoding, thus of undeclared length."""
    chunks = (content[start : start + 300] for start in range(0, len(content), 300))
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return Reply(200, {"Transfer-Encoding": "chunked", "ETag": '"one"'}, body + end)
