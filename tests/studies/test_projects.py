"""Studies and protocols are DVC projects of their own, which the commands of the pipeline don't read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkouts import ROOT, make_checkout, run_in

PROJECTS = (Path("studies"), Path("benchmarks/protocols"))
STUDY = """
stages:
  ask:
    cmd: >-
      PYTHONPATH=../src sh {up}/stages/python -c
      "from tapestry.core.checkout import checkout_root; print(checkout_root(), end='')" > answer
    deps: [../src/tapestry/core]
    outs: [answer]
"""


def test_every_pipeline_but_that_of_the_root_is_in_such_a_project() -> None:
    listed = [Path(name) for name in run_in(ROOT, "git", "ls-files", "*dvc.yaml").split()]
    assert {path.parent.parent for path in listed if path != Path("dvc.yaml")} == set(PROJECTS)
    for project in PROJECTS:
        assert (ROOT / project / ".dvc/config").read_text() == (ROOT / ".dvc/config").read_text()
        assert (ROOT / project / "src").resolve() == ROOT / "src"


@pytest.mark.parametrize("project", PROJECTS)
def test_a_stage_knows_its_checkout_and_bytecode_is_no_change(tmp_path: Path, project: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    before = run_in(checkout, "dvc", "status")
    folder = checkout / project / "question"
    shutil.copytree(
        ROOT / project / ".dvc", folder.parent / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local")
    )
    for name in ("src", ".dvcignore"):
        shutil.copy(ROOT / project / name, folder.parent, follow_symlinks=False)
    folder.mkdir()
    (folder / "dvc.yaml").write_text(STUDY.format(up="../" * len(folder.relative_to(checkout).parts)))
    command = ["dvc", "--cd", str(project), "repro", "question/dvc.yaml"]
    run_in(checkout, *command)
    assert (folder / "answer").read_text() == str(checkout)
    (checkout / "src/tapestry/core/__pycache__").mkdir(exist_ok=True)
    (checkout / "src/tapestry/core/__pycache__/new.pyc").touch()
    assert "didn't change" in run_in(checkout, *command)
    (checkout / "src/tapestry/core/arrays.py").write_text("")
    assert "Running stage" in run_in(checkout, *command)
    assert run_in(checkout, "dvc", "status") == before
