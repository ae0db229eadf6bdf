"""The command-line interface."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tapestry.cli import app


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    commands = {"champion", "doctor", "figures", "plan", "recommend", "relocate", "sync", "ui"}
    assert commands <= set(result.output.split())


def test_figures_shows_the_model_beside_the_baselines(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(
        json.dumps(
            {"all": {"n": 8, "hr_10": 0.125, "mrr": 0.5}, "baselines": {"popularity": {"hr_10": 0.25, "mrr": 0}}}
        )
    )
    result = CliRunner().invoke(app, ["figures", "--path", str(path)])
    assert [line.split() for line in result.output.splitlines()] == [
        ["8", "test", "targets"],
        ["tapestry", "popularity"],
        ["hr_10", "12.50%", "25.00%"],
        ["mrr", "50.00%", "0.00%"],
    ]


def test_figures_without_a_run_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["figures", "--path", str(tmp_path / "test.json")])
    assert result.exit_code == 1
    assert "run `dvc repro`" in result.output


def test_figures_finds_the_checkout_from_any_folder_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".dvc", "metrics", "src/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "metrics/test.json").write_text(json.dumps({"all": {"n": 8, "mrr": 0.5}, "baselines": {}}))
    monkeypatch.chdir(tmp_path / "src/deep")
    assert CliRunner().invoke(app, ["figures"]).output.splitlines()[-1].split() == ["mrr", "50.00%"]
    monkeypatch.chdir(tmp_path.parent)
    result = CliRunner().invoke(app, ["figures"])
    assert result.exit_code == 1
    assert "is in no checkout of Tapestry" in result.output
