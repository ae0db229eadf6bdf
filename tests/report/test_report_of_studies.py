"""Studies in the report: title, answer without links, and a picture that takes the page's colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import ROOT
from tiny_checkout import read_yaml

from tapestry.core.errors import TapestryError
from tapestry.report.studies import read_studies
from tapestry.studies.pictures import draw

README = """# Does it <matter>?

**Question.** Not shown.

## Answer

**Yes**, see [the table](../other/README.md) and <b>this</b>.

A second paragraph.

| a | table |
| --- | --- |

## Command

Not shown.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    (tmp_path / "without_picture").mkdir()
    (tmp_path / "one/README.md").write_text(README, encoding="utf-8")
    rows = [{"data": "few", "recipe": "base", "mrr": "0.1"}]
    panels = [{"y": "mrr", "kind": "mean", "label": "MRR"}]
    draw({"description": "What", "x": "recipe", "panels": panels}, rows, "other", tmp_path / "one/picture.svg")
    return tmp_path


def test_a_study_is_its_title_its_answer_and_its_picture(folder: Path) -> None:
    (study,) = read_studies(folder)
    assert study.title == "Does it <matter>?"
    assert study.answer == (
        "<p><strong>Yes</strong>, see the table and &lt;b&gt;this&lt;/b&gt;.</p>\n<p>A second paragraph.</p>\n"
    )
    assert study.picture.startswith("<svg ")
    assert study.picture.endswith("</svg>")
    assert "prefers-color-scheme" in (folder / "one/picture.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme" not in study.picture
    assert "var(--ink)" in study.picture


@pytest.mark.parametrize("text", ["", "no title\n\n## Answer\n", "# Title\n\nno answer\n"])
def test_a_readme_without_title_or_answer_is_an_error_that_names_it(folder: Path, text: str) -> None:
    (folder / "one/README.md").write_text(text, encoding="utf-8")
    with pytest.raises(TapestryError, match=r"one/README\.md: a study has a title"):
        read_studies(folder)


def test_the_stage_depends_on_the_files_of_each_study_with_a_picture() -> None:
    deps = [name for name in read_yaml(ROOT / "dvc.yaml")["stages"]["report"]["deps"] if name.startswith("studies/")]
    folders = sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("studies/*/picture.svg"))
    assert deps == [f"{folder}/{name}" for folder in folders for name in ("README.md", "picture.svg")]


def test_the_pipeline_runs_no_study() -> None:
    """An output of a study's stage that a stage of the pipeline depends on would make `dvc repro` run the study."""
    deps = [Path(name) for stage in read_yaml(ROOT / "dvc.yaml")["stages"].values() for name in stage.get("deps", [])]
    for study in {path.parent for path in deps if path.parts[0] == "studies"}:
        for stage in read_yaml(ROOT / study / "dvc.yaml")["stages"].values():
            outputs = [study / (next(iter(out)) if isinstance(out, dict) else out) for out in stage["outs"]]
            assert not set(outputs) & set(deps)
