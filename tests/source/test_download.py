"""Download of a file: complete, verified, recorded, and tried again where a fault may pass."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from http_site import CONTENT, DIGEST, OTHER, SHA256, Reply, Site, in_chunks, part_of

from tapestry.core.errors import TapestryError
from tapestry.source import checksums
from tapestry.source.checksums import Digest
from tapestry.source.download import download
from tapestry.source.web import Limits

pytestmark = pytest.mark.usefixtures("waits")


def test_a_file_is_downloaded_recorded_and_nothing_is_printed(
    site: Site, target: Path, record: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT
    assert json.loads(record.read_text()) == {site.url: {"bytes": len(CONTENT), "sha256": SHA256}}
    assert site.requests[0]["Accept-Encoding"] == "identity"
    assert {path.name for path in target.parent.iterdir()} <= {target.name, f"{target.name}.part.lock"}
    assert capfd.readouterr() == ("", "")


def test_an_existing_file_equal_to_its_record_is_not_downloaded_again(site: Site, target: Path, record: Path) -> None:
    download(site.url, target, record)
    assert download(site.url, target, record) == DIGEST
    assert len(site.requests) == 1


@pytest.mark.parametrize("wrong", [OTHER[: len(CONTENT)], CONTENT[:-1]])
def test_an_existing_file_that_differs_from_its_record_is_refused(
    site: Site, target: Path, record: Path, wrong: bytes
) -> None:
    download(site.url, target, record)
    target.write_bytes(wrong)
    with pytest.raises(TapestryError, match=r"Books\.json\.gz is not the file .*Delete it to download it again"):
        download(site.url, target, record)
    assert len(site.requests) == 1
    assert target.read_bytes() == wrong


def test_an_existing_file_without_a_record_is_downloaded_again(site: Site, target: Path, record: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    assert download(site.url, target, record) == DIGEST
    assert target.read_bytes() == CONTENT


def test_a_file_that_is_not_gzip_is_downloaded(site: Site, target: Path, record: Path) -> None:
    site.content = b"user,item,rating,timestamp\n"
    download(site.url, target.with_name("Books.csv"), record)
    assert target.with_name("Books.csv").read_bytes() == site.content


def test_a_file_of_undeclared_length_is_downloaded(site: Site, target: Path, record: Path) -> None:
    site.script = [in_chunks(CONTENT)]
    assert download(site.url, target, record) == DIGEST
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_permanent_status_is_an_error_at_once(site: Site, target: Path, record: Path, status: int) -> None:
    site.script = [Reply(status, {"Content-Length": "0"})]
    with pytest.raises(TapestryError, match=rf"{site.url}: .* {status} .*source\.release: files with source\.path"):
        download(site.url, target, record)
    assert len(site.requests) == 1
    assert not record.exists()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_transient_status_is_retried_after_growing_waits(
    site: Site, target: Path, record: Path, status: int, waits: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    site.script = [Reply(status, {"Content-Length": "0"})] * 3
    assert download(site.url, target, record) == DIGEST
    assert len(site.requests) == 4
    messages = capfd.readouterr().err.splitlines()
    assert len(messages) == 3
    assert all(f"{site.url}: the server answers {status}" in line and "trying again in" in line for line in messages)
    assert all(low <= wait <= low + 1 for low, wait in zip((1, 2, 4), waits, strict=True))


@pytest.mark.parametrize(
    ("retry_after", "expected"), [("7", 7.0), ("500", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("0", None)]
)
def test_the_wait_that_the_server_asks_for_is_respected_up_to_a_limit(
    site: Site, target: Path, record: Path, waits: list[float], retry_after: str, expected: float | None
) -> None:
    site.script = [Reply(503, {"Content-Length": "0", "Retry-After": retry_after})]
    download(site.url, target, record)
    if expected is None:
        assert 1 <= waits[0] <= 2
    else:
        assert waits == [expected]


def test_no_wait_is_longer_than_the_longest_wait(site: Site, target: Path, record: Path, waits: list[float]) -> None:
    site.script = [Reply(500, {"Content-Length": "0"})] * 5
    download(site.url, target, record, longest_wait=0.001)
    assert waits == [0.001] * 5


def test_a_refused_connection_is_an_error_after_all_attempts(target: Path, record: Path, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/Books.json.gz"
    with pytest.raises(TapestryError, match=rf"{url}: .*given up after 3 attempts"):
        download(url, target, record, attempts=3)
    assert len(waits) == 2


def test_an_invalid_address_is_an_error_at_once(target: Path, record: Path, waits: list[float]) -> None:
    with pytest.raises(TapestryError, match=r"^Books\.json\.gz: "):
        download("Books.json.gz", target, record)
    assert waits == []


def test_a_silent_server_is_retried(site: Site, target: Path, record: Path) -> None:
    site.script = [Reply(200, {"Content-Length": str(len(CONTENT)), "ETag": '"one"'}, CONTENT[:1000], stall=0.3)]
    assert download(site.url, target, record, limits=Limits(read_timeout=0.1)) == DIGEST
    assert len(site.requests) == 2


def test_the_record_is_sorted_by_url(site: Site, target: Path, record: Path) -> None:
    for name in ("c", "a", "b"):
        download(f"{site.url}/{name}", target.with_name(f"{name}.json.gz"), record)
    text = record.read_text()
    urls = list(json.loads(text))
    assert urls == [f"{site.url}/{name}" for name in "abc"]
    expected = {url: {"bytes": len(CONTENT), "sha256": SHA256} for url in urls}
    assert text == json.dumps(expected, indent=2) + "\n"


def test_a_download_that_differs_from_its_record_is_refused_and_the_record_stays(
    site: Site, target: Path, record: Path
) -> None:
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
def test_an_invalid_record_is_refused(site: Site, target: Path, record: Path, text: str) -> None:
    record.write_text(text)
    with pytest.raises(TapestryError, match=r"downloads\.json: not a record"):
        download(site.url, target, record)
    assert site.requests == []


def test_concurrent_downloads_lose_no_entry(
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


def test_concurrent_downloads_of_one_file_fetch_it_once(site: Site, target: Path, record: Path) -> None:
    site.script = [1000]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(download, [site.url] * 4, [target] * 4, [record] * 4)) == [DIGEST] * 4
    assert site.requested_ranges() == [None, "bytes=1000-"]
