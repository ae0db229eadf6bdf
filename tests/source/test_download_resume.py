"""Resumption of an interrupted download, and when it starts again from the first byte."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from http_site import CONTENT, DIGEST, OTHER, Reply, Site, in_chunks, leave_part, part_of, sidecar_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.core.atomic import write_json
from tapestry.core.errors import TapestryError
from tapestry.source.download import download
from tapestry.source.web import Limits

pytestmark = pytest.mark.usefixtures("waits")


def test_an_interrupted_download_is_resumed_at_its_offset(site: Site, target: Path, record: Path) -> None:
    site.script = [1000, 700]
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None, "bytes=1000-", "bytes=1700-"]
    assert [headers["If-Range"] for headers in site.requests] == [None, '"one"', '"one"']
    assert target.read_bytes() == CONTENT


def test_attempts_with_progress_do_not_count_towards_giving_up(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapestry.source.download.CHUNK", 64)
    site.script = [len(CONTENT) // 6] * 5
    assert download(site.url, target, record, attempts=2) == DIGEST
    assert len(site.requests) == 6
    target.unlink()
    record.unlink()
    site.script = [len(CONTENT) // 6, 10, 0, 10]
    with pytest.raises(TapestryError, match="given up after 3 attempts without progress"):
        download(site.url, target, record, attempts=3)
    assert len(site.requests) == 10


def test_a_later_call_resumes(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == ["bytes=1000-"]
    assert target.read_bytes() == CONTENT


def test_the_modification_date_is_the_validator_without_an_etag(site: Site, target: Path, record: Path) -> None:
    site.etag, site.last_modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    site.script = [1000]
    download(site.url, target, record)
    assert site.requests[1]["If-Range"] == site.last_modified
    assert site.requested_ranges() == [None, "bytes=1000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_nothing_is_resumed(site: Site, target: Path, record: Path, etag: str | None) -> None:
    site.etag = etag
    leave_part(site, target, record, 1000)
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None]
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_starts_again(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    site.content, site.etag = OTHER, '"two"'
    site.script = [600]
    download(site.url, target, record)
    assert site.requested_ranges() == ["bytes=1000-", "bytes=600-"]
    assert [headers["If-Range"] for headers in site.requests] == ['"one"', '"two"']
    assert target.read_bytes() == OTHER


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_during_the_reset_mixes_no_versions(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    leave_part(site, target, record, 1000)
    site.content, site.etag = OTHER, '"two"'

    def interrupt(path: Path, value: Any) -> None:
        if when == "after":
            write_json(path, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tapestry.source.part.write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download(site.url, target, record)
    download(site.url, target, record)
    assert target.read_bytes() == OTHER


def test_a_server_without_ranges_starts_again(site: Site, target: Path, record: Path) -> None:
    site.ranges = False
    site.script = [1000, 2000]
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None, "bytes=1000-", "bytes=2000-"]
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
def test_a_response_that_does_not_continue_the_file_starts_again(
    site: Site, target: Path, record: Path, refusal: Reply
) -> None:
    leave_part(site, target, record, 1000)
    site.script = [refusal]
    assert download(site.url, target, record, attempts=1) == DIGEST
    assert site.requested_ranges() == ["bytes=1000-", None]
    assert target.read_bytes() == CONTENT


def test_a_range_of_5000_digits_starts_again(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    site.script = [reply_206(1000, len(CONTENT) - 1, "9" * 5000)]
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == ["bytes=1000-", None]


def test_a_partial_download_of_another_url_is_not_resumed(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    download(f"{site.url}?other", target, record)
    assert site.requested_ranges() == [None]
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
def test_a_partial_download_without_a_valid_sidecar_is_not_resumed(
    site: Site, target: Path, record: Path, sidecar: str | bytes | None
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(OTHER[:1000])
    if isinstance(sidecar, str):
        sidecar = sidecar.replace("URL", json.dumps(site.url)).encode()
    if sidecar is not None:
        sidecar_of(target).write_bytes(sidecar)
    download(site.url, target, record)
    assert site.requested_ranges() == [None]
    assert target.read_bytes() == CONTENT


def test_of_a_complete_partial_download_only_the_last_byte_is_fetched(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    part_of(target).write_bytes(CONTENT)
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [f"bytes={len(CONTENT) - 1}-"]
    assert target.read_bytes() == CONTENT


def test_a_partial_download_that_is_too_long_starts_again(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    part_of(target).write_bytes(CONTENT + b"x")
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None]


def test_a_file_of_undeclared_length_is_resumed_too(site: Site, target: Path, record: Path) -> None:
    site.script = [in_chunks(CONTENT[:1200], end=b"")]
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None, "bytes=1200-"]
    assert target.read_bytes() == CONTENT


def test_a_silent_server_is_given_up_and_the_partial_download_stays(site: Site, target: Path, record: Path) -> None:
    """Half the file, then nothing in any attempt."""
    half = len(CONTENT) // 2
    head = {"Content-Length": str(len(CONTENT)), "ETag": '"one"'}
    site.script = [Reply(200, head, CONTENT[:half])]
    with pytest.raises(TapestryError, match="given up after 1 attempts"):
        download(site.url, target, record, attempts=1, limits=Limits(read_timeout=0.2))
    assert part_of(target).read_bytes() == CONTENT[:half]
    assert download(site.url, target, record) == DIGEST


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=5), together=st.booleans())
def test_after_any_interruptions_the_target_is_complete_or_missing(
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
