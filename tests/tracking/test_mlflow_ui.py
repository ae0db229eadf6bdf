"""MLflow's UI, as `tapestry ui` serves it, in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import opened_page
from checkouts import environment
from tiny_checkout import runs_of
from ui_server import UI, free_port

from tapestry.report.origin import with_origin

ALL = "[...document.querySelectorAll('*')]"
RUNS = "[...document.querySelectorAll('a[href*=\"/runs/\"]')]"
CHARTS = "document.querySelector('input[placeholder=\"Search metric charts\"]')"
LINE = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data).find(line => line.y.length > 1)"


def labelled(text: str) -> str:
    """Return JavaScript for the innermost element with this text."""
    return f"{ALL}.filter(element => (element.innerText || '').trim() === '{text}').pop()"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Start `tapestry ui` and yield the address that it prints."""
    command = [*UI, str(free_port())]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def checkout(narrowed: Path, tmp_path: Path) -> Path:
    """A checkout with two models."""
    return shutil.copytree(narrowed, tmp_path / "checkout")


def test_the_models_are_listed_sorted_and_opened_with_curve_and_report(
    browser: str, checkout: Path, tmp_path: Path
) -> None:
    by_mrr = sorted(runs_of(checkout, "train"), key=lambda run: -run.data.metrics["test/all/mrr"])
    assert by_mrr[0].data.metrics["test/all/mrr"] > by_mrr[1].data.metrics["test/all/mrr"]  # HR@100 is 1
    (narrow,) = (run for run in by_mrr if run.info.run_name == "train · narrow")
    with served(checkout) as address, opened_page(browser, tmp_path / "profile") as page:
        page.open(address)
        page.wait_for(f"{RUNS}.some(link => link.innerText === 'train · narrow')")
        listed = page.evaluate(f"{RUNS}.map(link => link.innerText)")
        assert {name for name in listed if "·" in name} == {run.info.run_name for run in by_mrr}
        page.click("[...document.querySelectorAll('button')].find(button => button.innerText.includes('Sort:'))")
        page.wait_for("document.activeElement.tagName === 'INPUT'")
        page.write("test/all/mrr")
        page.click(labelled("test/all/mrr"))
        page.wait_for("location.href.includes('mrr') && document.body.innerText.includes('Sort: test/all/mrr')")
        expected = [run.info.run_name for run in by_mrr]
        names = f"{RUNS}.map(link => link.innerText).filter(name => name.startsWith('train ')).join()"
        page.wait_for(f"{names} === '{','.join(expected)}'")
        page.screenshot(tmp_path / "sorted.png")
        page.click(f"{RUNS}.find(link => link.innerText === 'train · narrow')")
        page.click(labelled("Model metrics"))
        page.click(CHARTS)
        page.write("^val/ndcg_10$")
        page.wait_for(f"{LINE} && {LINE}.y.length === 3")
        assert page.evaluate(f"[...{LINE}.y]")[-1] == pytest.approx(narrow.data.metrics["val/ndcg_10"])
        page.screenshot(tmp_path / "curve.png")
        page.click(labelled("Artifacts"))
        page.click(labelled("reports"))
        page.click(labelled("index.html"))
        page.wait_for("!!document.querySelector('iframe')")
        report = page.evaluate("fetch(document.querySelector('iframe').src).then(answer => answer.text())")
        tags = narrow.data.tags
        origin = {"Commit": tags["git_commit"], "DVC experiment": "narrow"}
        origin |= {"Processor": tags["cpu"], "Device": tags["device"]}
        assert report == with_origin((checkout / "reports/index.html").read_text(encoding="utf-8"), origin)
        page.screenshot(tmp_path / "report.png")
