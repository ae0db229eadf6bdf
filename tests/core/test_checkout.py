"""Outputs of earlier stages that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.core.checkout import require_made
from tapestry.core.errors import TapestryError
from tapestry.provenance.dvc_files import read_lock


def test_a_missing_output_is_an_error_with_the_command_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    with pytest.raises(TapestryError) as error:
        require_made(path, "figures")
    assert str(error.value) == f"{path}: not there; run `dvc repro figures`"
    path.touch()
    assert require_made(path, "figures") == path


def test_a_missing_dvc_lock_is_made_by_no_single_stage(tmp_path: Path) -> None:
    with pytest.raises(TapestryError) as error:
        read_lock(tmp_path / "dvc.lock", ["train"])
    assert str(error.value) == f"{tmp_path / 'dvc.lock'}: not there; run `dvc repro`"
