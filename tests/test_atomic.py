from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tapestry.atomic import atomic_file, atomic_folder, write_csv, write_json


class InterruptedWriteError(Exception):
    """Stands for anything that ends a write half-way."""


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_only_when_its_writer_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert files(tmp_path) == {"new/a.txt": "whole"}


def test_a_file_replaces_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert files(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("before", [{}, {"a.txt": "old"}])
def test_an_interrupted_file_leaves_what_was_there_and_nothing_else(tmp_path: Path, before: dict[str, str]) -> None:
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InterruptedWriteError), atomic_file(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise InterruptedWriteError
    assert files(tmp_path) == before


def test_a_partial_file_of_a_killed_process_is_not_continued(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as temporary:
        name = temporary.name
        temporary.write_text("new")
    (tmp_path / name).write_text("left by a killed process")
    with atomic_file(tmp_path / "a.txt") as temporary, temporary.open("a") as file:
        file.write("newer")
    assert files(tmp_path) == {"a.txt": "newer"}


def test_a_file_that_its_writer_never_made_is_an_error_and_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert files(tmp_path) == {"a.txt": "old"}


def test_a_folder_replaces_the_one_before_with_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for content in ({"a": "1", "b": "2"}, {"b": "3", "sub/c": "4"}):
        with atomic_folder(folder) as temporary:
            for name, text in content.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(text)
        assert files(tmp_path / "new") == {f"folder/{name}": text for name, text in content.items()}


@pytest.mark.parametrize("before", [{}, {"folder/a": "old"}])
def test_an_interrupted_folder_leaves_what_was_there_and_nothing_else(tmp_path: Path, before: dict[str, str]) -> None:
    for name, text in before.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    with pytest.raises(InterruptedWriteError), atomic_folder(tmp_path / "folder") as temporary:  # noqa: PT012
        (temporary / "a").write_text("half")
        raise InterruptedWriteError
    assert files(tmp_path) == before
    assert (tmp_path / "folder").exists() == bool(before)
    assert not any(path.name.endswith(".partial") for path in tmp_path.iterdir())


def test_a_partial_folder_of_a_killed_process_is_not_continued(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as temporary:
        name = temporary.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "stale").write_text("left by a killed process")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("new")
    assert files(tmp_path) == {"folder/a": "new"}


def test_json_that_holds_no_number_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [0.5, "é"]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")})
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == [("b", 1), ("a", [0.5, "é"])]


def test_csv_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = [{"a": "1", "b": 'with, "quotes"\nand lines'}, {"a": "é", "b": ""}]
    write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows
