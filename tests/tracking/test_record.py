"""The stage `record`, before it writes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.core.errors import TapestryError
from tapestry.parameters import Parameters
from tapestry.tracking.record import ARTIFACTS, record


@pytest.mark.parametrize("missing", ARTIFACTS)
def test_a_missing_artifact_is_an_error_and_nothing_is_logged(
    missing: str, tmp_path: Path, parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "record")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in set(ARTIFACTS) - {missing}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(TapestryError, match=f"^{missing}: not there; run `dvc repro`$"):
        record(parameters)
    assert not (tmp_path / "mlflow.pending").exists()
