"""A full disk, or a folder at the path of a file: one line of error, and no incomplete output."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tapestry.core.atomic import atomic_file, atomic_folder, temporary_folder, write_csv, write_json
from tapestry.core.errors import TapestryError
from tapestry.core.failures import explain, reported_errors
from tapestry.tables.database import connect, write_parquet

MEGABYTE = 1 << 20


def reported(capsys: pytest.CaptureFixture[str], action: Callable[[], object]) -> str:
    """The one line that ends a stage which does `action`."""
    with pytest.raises(SystemExit) as end, reported_errors("stage"):
        action()
    assert end.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("stage: error: ")
    assert printed.count("\n") == 1
    return printed.removeprefix("stage: error: ")


def by_arrow(path: Path) -> None:
    with atomic_file(path) as temporary:
        pq.write_table(pa.table({"a": np.random.default_rng(0).random(10**6)}), temporary)


def by_safetensors(path: Path) -> None:
    with atomic_folder(path) as temporary:
        write_json(temporary / "config.json", {})
        save_file({"a": torch.zeros(10**6)}, temporary / "model.safetensors")


def by_json_in_a_folder(path: Path) -> None:
    with atomic_folder(path) as temporary:
        write_json(temporary / "a.json", "x" * 2 * MEGABYTE)


def by_duckdb(path: Path) -> None:
    with connect("1GB", 1) as connection:
        write_parquet(connection, "SELECT random() AS a FROM range(1000000)", path)


def by_duckdb_in_a_folder(path: Path) -> None:
    with connect("1GB", 1) as connection, atomic_folder(path) as temporary:
        write_parquet(connection, "SELECT random() AS a FROM range(1000000)", temporary / "a.parquet")


WRITERS = {
    "JSON": lambda path: write_json(path, "x" * 2 * MEGABYTE),
    "CSV": lambda path: write_csv(path, [{"a": "x" * 2 * MEGABYTE}]),
    "pyarrow": by_arrow,
    "safetensors": by_safetensors,
    "JSON in a folder": by_json_in_a_folder,
    "DuckDB": by_duckdb,
    "DuckDB in a folder": by_duckdb_in_a_folder,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line_that_names_the_output_and_other_files_stay(
    small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str], write: Callable[[Path], None]
) -> None:
    disk = small_disk(MEGABYTE)
    (disk / "other").write_text("kept")
    line = reported(capsys, lambda: write(disk / "output"))
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    assert line == (
        f"{disk / 'output'}: No space left on device: {free:,} bytes are free in {disk} after the "
        "incomplete output was removed; make room, then run again\n"
    )
    assert {path.name for path in disk.iterdir()} == {"other"}


@pytest.mark.parametrize("inside", [False, True], ids=["a table", "a file elsewhere"])
def test_a_full_disk_of_spilled_files_names_them_and_tmpdir(
    small_disk: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    inside: bool,
) -> None:
    disk = small_disk(MEGABYTE)
    monkeypatch.setattr("tempfile.tempdir", str(disk))

    def spill() -> None:
        with connect("100MB", 1) as connection:
            query = "SELECT random() AS a FROM range(30000000) ORDER BY a"
            if inside:
                write_parquet(connection, query, tmp_path / "output")
            else:
                connection.execute(f"CREATE TABLE t AS {query}")

    line = reported(capsys, spill)
    assert line.startswith(f"{disk / 'tapestry-spill'}: No space left on device: ")
    assert line.endswith("; make room, or set TMPDIR to a folder with more room, then run again\n")
    assert list(disk.iterdir()) == []
    assert not (tmp_path / "output").exists()


def test_a_full_disk_under_output_and_store_is_reported_for_the_output(
    small_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    disk = small_disk(4 * MEGABYTE)
    code = """
from pathlib import Path
from tapestry.core.atomic import write_json
from tapestry.core.failures import reported_errors
from tapestry.tracking.runs import stage_run
with reported_errors("stage"), stage_run("stage", {}) as run:
    with open("filler", "ab", 0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    if Path("logs").exists():
        run.log_metrics({f"m{i}": i for i in range(3000)}, "x")
    write_json(Path("out.json"), "x" * 10_000)
"""
    environment = os.environ | {"DVC_ROOT": str(disk)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    for _ in range(2):  # the second time the disk is full while figures are kept, too
        done = subprocess.run([sys.executable, "-c", code], cwd=disk, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        (line,) = (line for line in done.stderr.splitlines() if not line.startswith("MLflow: "))
        assert line.startswith(f"stage: error: out.json: No space left on device: 0 bytes are free in {disk} after")
        assert not (disk / "out.json").exists()
        (disk / "filler").unlink()
        (disk / "logs").touch()


def test_an_error_that_names_a_file_in_words_is_about_that_file(tmp_path: Path) -> None:
    """While DuckDB writes an output it spills, and may fail to do either."""

    def fail(inside: str) -> None:
        with temporary_folder(tmp_path / "spill") as spill, atomic_file(tmp_path / "output") as output:
            file = {"spill": spill, "output": output}[inside]
            raise duckdb.IOException(f'Could not write file "{file}/x": No space left on device')

    for inside in ("spill", "output"):
        with pytest.raises(OSError, match="No space left") as failure:
            fail(inside)
        assert str(explain(failure.value, "mlflow.db")).startswith(f"{tmp_path / inside}: No space left on device")


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_failures import WRITERS
from tapestry.core.failures import reported_errors
write = WRITERS[{writer!r}]
with reported_errors("stage"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    write(Path("output"))
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_of_file_sizes_is_one_line_that_names_the_output(tmp_path: Path, writer: str) -> None:
    code = LIMITED.format(tests=str(Path(__file__).parent), writer=writer)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "stage: error: output: File too large: raise the limit of file sizes (ulimit -f), then run again\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_at_the_path_of_a_file_and_a_file_at_that_of_a_folder_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    is_file = "file: Not a directory: a folder belongs there, but it is a file or link: move it away\n"
    assert reported(capsys, lambda: write_json(Path("folder"), 1)) == (
        "folder: Is a directory: a file belongs there, but it is a folder: move it away\n"
    )
    assert reported(capsys, lambda: by_json_in_a_folder(Path("file"))) == is_file
    assert reported(capsys, lambda: write_json(Path("file/a.json"), 1)) == (
        "file: File exists: a folder belongs there, but it is a file: move it away\n"
    )
    assert reported(capsys, lambda: write_json(Path("file/b/a.json"), 1)).startswith("file/b: Not a directory: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir(0o500)
    line = reported(capsys, lambda: write_json(tmp_path / "folder" / "a.json", 1))
    assert line.startswith(f"{tmp_path}/folder/a.json: Permission denied: this user has no permission: ")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_an_error_about_a_temporary_file_names_the_final_path(code: int) -> None:
    error = OSError(code, os.strerror(code), "data/.Books.parquet.abc_d012.partial/Books.parquet")
    assert str(explain(error, "mlflow.db")).startswith(f"data/Books.parquet: {os.strerror(code)}: ")


def test_other_errors_keep_their_traceback() -> None:
    for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "x", "file"), OSError("x"), KeyError("y")):
        assert explain(error, "mlflow.db") is None
        with pytest.raises(type(error)), reported_errors("stage"):
            raise error


def test_a_tapestry_error_about_a_full_disk_is_printed_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with atomic_file(tmp_path / "a"):
            raise TapestryError(f"b: {os.strerror(errno.ENOSPC)} there")

    assert re.fullmatch("b: No space left on device there\n", reported(capsys, fail))
