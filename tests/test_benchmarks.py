"""The benchmarks' harness: fair turns, honest ratios, results in the agreed form."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import harness
import numpy as np
import pytest
from harness import exponent
from workloads import random_batch, random_sequences, shares


def test_contenders_run_equally_often_and_each_comes_first_in_turn() -> None:
    ran: list[str] = []
    seconds = harness.interleaved({name: partial(ran.append, name) for name in "abc"}, 5, "test")
    rounds = [ran[first : first + 3] for first in range(0, len(ran), 3)]
    assert len(rounds) == 6  # one warms up
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0] for turn in rounds} == {"a", "b", "c"}
    assert set(seconds) == {"a", "b", "c"}


def test_a_figure_is_the_median_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 101.0, 200.0, 202.0, 300.0, 330.0])  # a start, then starts and ends
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert harness.interleaved({"one": lambda: None}, 3, "test") == {"one": 2.0}


def test_results_are_written_as_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["benchmarks/attention.py"])
    harness.report("attention", [harness.against("S=64", "dense", 0.5, 1.25, tokens=3)])
    rows = json.loads((tmp_path / "results/attention.json").read_text())
    assert rows == [{"case": "S=64", "other": "dense", "ours_s": 0.5, "other_s": 1.25, "ratio": 2.5, "tokens": 3}]
    meta = json.loads((tmp_path / "results/attention.meta.json").read_text())
    assert {"machine", "versions", "command"} <= set(meta)
    assert "| S=64 | dense | 0.5 | 1.25 | 2.5 | 3 |" in capsys.readouterr().out


def test_the_exponent_of_a_power_is_its_power() -> None:
    sizes = (2, 4, 32)
    assert exponent(sizes, [7 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_workloads_have_the_shape_they_say() -> None:
    share = shares(5, 0.8)
    assert share.sum() == pytest.approx(1)
    batch = random_batch(512, share, tokens=40_960)
    assert batch.offsets_B1.diff().eq(512).all()
    assert np.bincount(batch.domain_N.numpy()) / 40_960 == pytest.approx(share, abs=0.01)
    sequences = random_sequences(20, 30, shares(3), 100)
    assert np.diff(sequences.offsets).tolist() == [21] * 30
    for index, domain in enumerate(sequences.domains):
        items = sequences.item[sequences.domain == index]
        assert domain.start <= items.min()
        assert items.max() < domain.end
