from __future__ import annotations

import csv
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from tapestry.core.atomic import atomic_file, atomic_folder, temporary_folder, write_csv, write_json


class InterruptedWriteError(Exception):
    """Any error during a write."""


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_only_when_its_writer_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert files(tmp_path) == {"new/a.txt": "whole"}


def test_a_file_replaces_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert files(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("before", [{}, {"a.txt": "old"}])
def test_an_interrupted_file_leaves_only_the_old_one(tmp_path: Path, before: dict[str, str]) -> None:
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InterruptedWriteError), atomic_file(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise InterruptedWriteError
    assert files(tmp_path) == before


def test_outputs_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder", "folder/file")]
    assert modes == [0o640, 0o750, 0o640]


def test_a_file_that_was_not_written_is_an_error_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert files(tmp_path) == {"a.txt": "old"}


def test_a_folder_replaces_the_old_one_with_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for content in ({"a": "1", "b": "2"}, {"b": "3", "sub/c": "4"}):
        with atomic_folder(folder) as temporary:
            for name, text in content.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(text)
        assert files(tmp_path / "new") == {f"folder/{name}": text for name, text in content.items()}


@pytest.mark.parametrize("before", [{}, {"folder/a": "old"}])
def test_an_interrupted_folder_leaves_only_the_old_one(tmp_path: Path, before: dict[str, str]) -> None:
    for name, text in before.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    with pytest.raises(InterruptedWriteError), atomic_folder(tmp_path / "folder") as temporary:  # noqa: PT012
        (temporary / "a").write_text("half")
        raise InterruptedWriteError
    assert files(tmp_path) == before
    assert (tmp_path / "folder").exists() == bool(before)
    assert not any(path.name.endswith(".partial") for path in tmp_path.iterdir())


@pytest.mark.parametrize("in_place", ["file", "link"])
def test_a_file_or_link_at_the_path_of_a_folder_stays(tmp_path: Path, in_place: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    if in_place == "file":
        (tmp_path / "folder").write_text("mine")
    else:
        (tmp_path / "folder").symlink_to("elsewhere")
    with pytest.raises(NotADirectoryError, match="folder"), atomic_folder(tmp_path / "folder"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "folder"]
    assert not (tmp_path / "folder").is_dir() or (tmp_path / "folder").is_symlink()


def waiting(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process that runs `code` up to its `wait()`, in `folder`."""
    prelude = """
import sys
from pathlib import Path
from tapestry.core.atomic import atomic_file, atomic_folder, temporary_folder
def wait():
    print("ready", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


HALF_WRITTEN = {
    "file": "with atomic_file(Path('out')) as t: t.write_text('half'); wait()",
    "folder": "with atomic_folder(Path('out')) as t: (t / 'a').write_text('half'); wait()",
    "spilled": "with temporary_folder(Path('out')) as t: (t / 'a').write_text('half'); wait()",
}


@pytest.mark.parametrize("code", HALF_WRITTEN.values(), ids=HALF_WRITTEN)
def test_the_next_writer_removes_the_temporary_folder_of_a_killed_process_only(tmp_path: Path, code: str) -> None:
    killed, living = waiting(code, tmp_path), waiting(code, tmp_path)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with temporary_folder(tmp_path / "out.other"):  # of another path
        assert len(list(tmp_path.iterdir())) == 3
    with temporary_folder(tmp_path / "out") as mine:
        kept = set(tmp_path.iterdir()) - {mine}
        assert len(kept) == 1
    assert set(tmp_path.iterdir()) == kept
    living.communicate("go on")
    assert living.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ([] if "temporary_folder" in code else ["out"])


WRITER = """
import random, sys, time
from pathlib import Path
from tapestry.core.atomic import atomic_file, atomic_folder
kind, name, until = sys.argv[1], sys.argv[2], time.monotonic() + 3
written = 0
while time.monotonic() < until:
    text = name * random.randrange(1, 100_000)
    if kind == "file":
        with atomic_file(Path("out")) as temporary:
            with temporary.open("w") as file:
                for start in range(0, len(text), 10_000):
                    file.write(text[start:start + 10_000])
                    file.flush()
                file.write(f"{len(text)}")
    else:
        with atomic_folder(Path("out")) as temporary:
            for part in ("a", "b", "c"):
                (temporary / part).write_text(f"{name}{written}")
    written += 1
print(written)
"""


def whole_file(path: Path) -> bool:
    text = path.read_text()
    body = text.rstrip("0123456789")
    return len(set(body)) == 1 and text[len(body) :] == str(len(body))


def whole_folder(path: Path) -> bool:
    """Read through one descriptor: files opened by path could belong to two different folders, each complete."""
    handle = os.open(path, os.O_RDONLY)
    try:
        texts = set()
        for part in ("a", "b", "c"):
            with open(os.open(part, os.O_RDONLY, dir_fd=handle)) as file:
                texts.add(file.read())
        return len(texts) == 1 and "" not in texts
    finally:
        os.close(handle)


@pytest.mark.parametrize(("kind", "whole"), [("file", whole_file), ("folder", whole_folder)])
def test_readers_see_the_complete_output_of_one_of_several_writers(
    tmp_path: Path, kind: str, whole: Callable[[Path], bool]
) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, kind, name], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for name in "xy"
    ]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        # At first there is no output. Also, a folder that is being replaced may be missing for an instant.
        with suppress(FileNotFoundError) if kind == "folder" or reads == 0 else nullcontext():
            assert whole(tmp_path / "out")
            reads += 1
    written = [int(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert min(written) > 10
    assert reads > 10
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert whole(tmp_path / "out")


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [0.5, "é"]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")})
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == [("b", 1), ("a", [0.5, "é"])]


def test_csv_rows_are_read_back(tmp_path: Path) -> None:
    rows = [{"a": "1", "b": 'with, "quotes"\nand lines'}, {"a": "é", "b": ""}]
    write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows
