"""Local faults of a download: a full disk, and folders, links or pipes at the paths of its files."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from http_site import CONTENT, DIGEST, Site, leave_part, part_of, sidecar_of

from tapestry.core.errors import TapestryError
from tapestry.source.download import download
from tapestry.source.part import PartialDownload

pytestmark = pytest.mark.usefixtures("waits")


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(
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
    assert site.requested_ranges() == ["bytes=1000-", "bytes=1000-"]


def test_a_disk_that_fills_leaves_the_partial_download(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[:1500])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PartialDownload, "open_for_writing", lambda part, offset: Full(part.path, "xb"))
        with pytest.raises(TapestryError, match=r"disk is full.* run again"):
            download(site.url, target, record)
    assert part_of(target).read_bytes() == CONTENT[:1500]
    assert len(site.requests) == 1
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None, "bytes=1500-"]
    assert target.read_bytes() == CONTENT


def test_another_disk_error_is_not_reported_as_a_full_disk(
    site: Site, target: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(TapestryError, match=r"Input/output error\. See that it can be read and written"):
        download(site.url, target, record)
    assert not target.exists()


@pytest.mark.parametrize("name", ["target", "part", "sidecar", "record", "lock"])
def test_a_folder_at_the_path_of_a_file_is_refused_before_any_request(
    site: Site, target: Path, record: Path, name: str
) -> None:
    paths = {
        "target": target,
        "part": part_of(target),
        "sidecar": sidecar_of(target),
        "record": record,
        "lock": target.with_name(f"{target.name}.part.lock"),
    }
    paths[name].mkdir(parents=True)
    with pytest.raises(TapestryError, match=f"^{paths[name]} is a folder, and a file belongs there. Move it away"):
        download(site.url, target, record)
    assert site.requests == []


@pytest.mark.parametrize("kind", ["symlink", "dangling", "folder", "hardlink", "fifo"])
@pytest.mark.parametrize("resumable", [True, False])
def test_a_link_at_the_path_of_the_partial_download_is_not_written_through(
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
    assert site.requested_ranges() == [None]
    if kind in ("symlink", "hardlink"):
        assert precious.read_bytes() == CONTENT[:1000]
    else:
        assert precious.is_dir() == (kind == "folder")
        assert kind != "dangling" or not precious.exists()


def test_a_pipe_at_the_path_of_the_sidecar_does_not_block(site: Site, target: Path, record: Path) -> None:
    leave_part(site, target, record, 1000)
    sidecar_of(target).unlink()
    os.mkfifo(sidecar_of(target))
    assert download(site.url, target, record) == DIGEST
    assert site.requested_ranges() == [None]


def test_a_link_that_appears_during_the_download_is_not_written_through(
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


def test_a_path_that_cannot_be_read_or_created_is_one_line(site: Site, target: Path, record: Path) -> None:
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
    assert site.requests == []


@pytest.mark.parametrize("name", ["target", "record", "part", "sidecar"])
def test_a_file_without_read_permission_is_one_line(site: Site, target: Path, record: Path, name: str) -> None:
    download(site.url, target, record)
    if name in ("part", "sidecar"):
        target.unlink()
        leave_part(site, target, record, 1000)
    path = {"target": target, "record": record, "part": part_of(target), "sidecar": sidecar_of(target)}[name]
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(TapestryError, match=f"{path}: Permission denied. See that"):
        download(site.url, target, record)
