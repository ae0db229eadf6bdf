"""Responses that are not the file: wrong length or checksum, web pages, hostile headers."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from http_site import CONTENT, DIGEST, SHA256, Reply, Site, in_chunks, leave_part, part_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.core.errors import TapestryError
from tapestry.source.checksums import Digest
from tapestry.source.download import download
from tapestry.source.web import Limits

pytestmark = pytest.mark.usefixtures("waits")


def test_a_body_shorter_than_declared_is_an_error_after_all_attempts(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": "9999"}, CONTENT)] * 3
    with pytest.raises(TapestryError, match="connection broke"):
        download(site.url, target, record, attempts=3)
    assert len(site.requests) == 3
    assert not target.exists()


@pytest.mark.parametrize("difference", [-1, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_length_that_differs_from_the_publishers_is_retried(
    site: Site, target: Path, record: Path, difference: int, chunked: bool
) -> None:
    redirect = Reply(
        302, {"Location": "/store", "Content-Length": "0", "X-Linked-Size": str(len(CONTENT) + difference)}
    )
    sent = in_chunks(CONTENT) if chunked else Reply(200, {"Content-Length": str(len(CONTENT))}, CONTENT)
    site.script = [redirect, sent, redirect, sent]
    with pytest.raises(TapestryError, match=rf"{len(CONTENT)} bytes\b.*given up after 2"):
        download(site.url, target, record, attempts=2)
    assert not part_of(target).exists()
    assert not record.exists()
    assert download(site.url, target, record) == DIGEST


def test_a_response_without_length_and_end_is_refused(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {}, CONTENT)]
    with pytest.raises(TapestryError, match="does not say how long"):
        download(site.url, target, record)


def to_store(etag: str) -> Reply:
    """As Hugging Face's hub answers."""
    headers = {"Location": "/store", "Content-Length": "0"}
    return Reply(302, {**headers, "x-linked-etag": etag, "x-linked-size": str(len(CONTENT))})


@pytest.mark.parametrize("etag", [f'"{SHA256}"', f'W/"{SHA256.upper()}"', f'"{"a" * 40}"', '"none"'])
def test_a_file_with_the_publishers_checksum_is_accepted(site: Site, target: Path, record: Path, etag: str) -> None:
    site.script = [to_store(etag)]
    assert download(site.url, target, record) == DIGEST
    assert site.url in json.loads(record.read_text())


def test_a_checksum_that_differs_from_the_publishers_is_an_error(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    site.script = [to_store(f'"{"a" * 64}"')]
    with pytest.raises(TapestryError, match=f"{SHA256}, the publisher's is {'a' * 64}"):
        download(site.url, target, record)
    assert site.requested_ranges() == ["bytes=1000-", "bytes=1000-"]
    assert not target.exists()
    assert not part_of(target).exists()
    assert not record.exists()


def test_the_checksum_may_be_in_the_final_response(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": str(len(CONTENT)), "X-Linked-ETag": f'"{"a" * 64}"'}, CONTENT)]
    with pytest.raises(TapestryError, match="the publisher's is aaaa"):
        download(site.url, target, record)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("Books.json.gz", b"<!DOCTYPE html><title>Log in</title>", "received a web page"),
        ("Books.csv", b"\xef\xbb\xbf\r\n  <HTML><body>Log in</body>", "received a web page"),
        ("Books.json.gz", b'{"error": "quota"}', "something that is not gzip"),
        ("Books.json.gz", b"", "received an empty file"),
        ("Books.csv", b"", "received an empty file"),
    ],
)
def test_a_web_page_instead_of_the_file_is_refused(
    site: Site, target: Path, record: Path, name: str, body: bytes, message: str
) -> None:
    leave_part(site, target.with_name(name), record, 1000)
    site.script = [Reply(200, {"Content-Length": str(len(body)), "Content-Type": "text/html"}, body)]
    with pytest.raises(TapestryError, match=rf"{site.url}: .*{message} instead .*proxy or a login"):
        download(site.url, target.with_name(name), record)
    assert len(site.requests) == 1
    assert not record.exists()
    download(site.url, target.with_name(name), record)
    assert site.requested_ranges() == ["bytes=1000-", "bytes=1000-"]


def test_a_web_page_is_recognized_by_its_first_bytes(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": str(10**10)}, b"<html>".ljust(1 << 21))]
    with pytest.raises(TapestryError, match="received a web page"):
        download(site.url, target, record)
    assert len(site.requests) == 1


def test_compression_that_was_not_requested_is_refused_unless_the_file_is_gzip(
    site: Site, target: Path, record: Path
) -> None:
    headers = {"Content-Length": str(len(CONTENT)), "Content-Encoding": "gzip"}
    site.script = [Reply(200, headers, CONTENT)] * 2
    with pytest.raises(TapestryError, match=r"compresses Books\.csv"):
        download(site.url, target.with_name("Books.csv"), record)
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT


def test_a_body_longer_than_the_publishers_file_is_stopped_before_its_end(
    site: Site, target: Path, record: Path
) -> None:
    redirect = Reply(302, {"Location": "/store", "Content-Length": "0", "X-Linked-Size": "2000"})
    site.script = [redirect, in_chunks(CONTENT, end=b""), redirect, in_chunks(CONTENT, end=b"")]
    with pytest.raises(
        TapestryError, match=r"received 2100 bytes, without an end, of a file of 2000; given up after 2"
    ):
        download(site.url, target, record, attempts=2)
    assert not part_of(target).exists()
    assert not record.exists()


def test_a_body_of_undeclared_length_is_limited(site: Site, target: Path, record: Path) -> None:
    site.script = [in_chunks(CONTENT, end=b"")]
    with pytest.raises(TapestryError, match=r"^http.*: received 2100 bytes, without an end, of a file whose length"):
        download(site.url, target, record, limits=Limits(max_undeclared_size=2000))
    assert not part_of(target).exists()
    assert len(site.requests) == 1


@pytest.mark.parametrize("header", ["Content-Length", "X-Linked-Size"])
def test_a_length_of_5000_digits_is_refused_in_one_line(site: Site, target: Path, record: Path, header: str) -> None:
    site.script = [Reply(200, {"Content-Length": str(len(CONTENT)), header: "9" * 5000}, CONTENT)]
    with pytest.raises(TapestryError, match=rf"^{site.url}: the server's {header} has 5000 digits and is no size"):
        download(site.url, target, record)
    assert len(site.requests) == 1


def test_a_transfer_encoding_other_than_chunked_is_refused(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Transfer-Encoding": "gzip, chunked"}, CONTENT)]
    with pytest.raises(TapestryError, match="does not say how long"):
        download(site.url, target, record)


NUMBERS = ["0", "1", "2000", "-1", "+5", "1_0", " 7 ", "", "12, 12", "1, 2", "abc", "9" * 18, "9" * 5000, "\xb2", "1e3"]
LOCATIONS = [
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
        "Location": st.sampled_from(LOCATIONS),
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
def test_any_response_gives_the_complete_file_or_an_error_of_one_line(
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
        limits = Limits(read_timeout=0.5, header_timeout=1.0, speed_window=0.5)
        try:
            digest = download(site.url, target, record, attempts=2, longest_wait=0.001, limits=limits)
        except TapestryError as error:
            message = str(error)
        else:
            content = target.read_bytes()
            assert digest == Digest(len(content), hashlib.sha256(content).hexdigest())
            assert content
            assert any(body.startswith(content) for body in (CONTENT, *(reply.body for reply in replies)))
            assert json.loads(record.read_text()) == {site.url: {"bytes": digest.bytes, "sha256": digest.sha256}}
            return
        assert message.isprintable()
        assert len(message) < 2000
        assert not target.exists()
        assert not record.exists()
