"""Controlled studies: settings and stages are in step, and figures of popularity equal plain loops."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkouts import ROOT
from hypothesis import given
from hypothesis import strategies as st
from small import random_sequences
from tiny_checkout import read_yaml

from tapestry.core.splits import TEST
from tapestry.evaluation.scoring import item_scores, last_queries
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.ingest.settings import IngestSettings
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.sequences.batches import pack
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.settings import SyntheticSettings
from tapestry.studies.controlled_results import show
from tapestry.studies.pictures import draw
from tapestry.studies.popularity import FIRST, gini, popularity_figures, recommended_items
from tapestry.studies.trials import changed_section
from tapestry.training.settings import TrainSettings

SHARED = ROOT / "studies/controlled.yaml"
STUDIES = sorted(path.parent.name for path in (ROOT / "studies").glob("*/dvc.yaml") if "controlled" in path.read_text())


def test_the_shared_settings_are_valid() -> None:
    sections: dict[str, Any] = {
        "synthetic": SyntheticSettings,
        "ingest": IngestSettings,
        "sessionize": SessionizeSettings,
        "model": ModelSettings,
        "train": TrainSettings,
        "evaluate": EvaluateSettings,
    }
    assert read_yaml(SHARED).keys() == sections.keys()
    for name, section in sections.items():
        changed_section(section, name, {}, SHARED)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_valid_settings_and_a_stage_for_each_data_set_and_recipe(study: str) -> None:
    params, stages = (read_yaml(ROOT / "studies" / study / f"{name}.yaml") for name in ("params", "dvc"))
    matrices = {name: stage["matrix"] for name, stage in stages["stages"].items() if "matrix" in stage}
    own = {name: data for name, data in params["data"].items() if "folder" not in data}
    for data in own.values():
        assert data.keys() == {"domains", "synthetic", "sessionize"}
        changed_section(SyntheticSettings, "synthetic", data["synthetic"], SHARED)
        changed_section(SessionizeSettings, "sessionize", data["sessionize"], SHARED)
    assert matrices.get("simulate", {"data": []})["data"] == list(own)
    trained = {name: recipe for name, recipe in params["recipes"].items() if "study" not in recipe}
    for recipe in trained.values():
        assert recipe.keys() - {"line"} == {"name", "model", "train"}
        changed_section(ModelSettings, "model", recipe["model"], SHARED)
        changed_section(TrainSettings, "train", recipe["train"], SHARED)
    trainings = [matrix for name, matrix in matrices.items() if name.startswith("train")]
    if trained:
        assert [data for matrix in trainings for data in matrix["data"]] == list(params["data"])
    assert all(sorted(matrix["recipe"]) == sorted(trained) for matrix in trainings)
    assert stages["stages"]["results"]["params"] == [{"params.yaml": None}]  # all of the file; a string is a parameter
    inputs = stages["stages"]["results"]["deps"]
    for name, recipe in params["recipes"].items():
        if name not in trained:
            other = read_yaml(ROOT / "studies" / study / recipe["study"] / "params.yaml")
            assert name in other["recipes"]
            assert params["data"].keys() <= other["data"].keys()
            assert {f"{recipe['study']}/params.yaml", f"{recipe['study']}/runs"} <= set(inputs)
    assert {data["folder"] for data in params["data"].values() if "folder" in data} <= set(inputs)
    assert {params["against"]}.union(*params.get("pairs", ())) <= params["recipes"].keys()


@pytest.mark.parametrize("study", [name for name in STUDIES if (ROOT / "studies" / name / "results.csv").is_file()])
def test_the_readme_has_the_tables_of_the_tracked_results(
    study: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ROOT / "studies" / study
    monkeypatch.chdir(folder)
    show()
    shown = capsys.readouterr().out
    readme = (folder / "README.md").read_text(encoding="utf-8")
    tables = shown.strip().split("\n\n")
    params = read_yaml(folder / "params.yaml")
    assert len(tables) == 2 + ("pairs" in params) + len(params["data"]) * ("groups" in params)
    assert all(table in readme for table in tables)
    assert "](picture.svg)" in readme


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_gini_is_half_the_mean_difference_of_all_pairs_by_the_mean(counts: list[int]) -> None:
    if not any(counts):
        assert gini(np.array(counts)) == 0
        return
    pairs = [abs(a - b) for a in counts for b in counts]
    assert gini(np.array(counts)) == pytest.approx(np.mean(pairs) / (2 * np.mean(counts)), abs=1e-12)


def test_recommended_items_are_the_best_ones_that_the_user_has_not_seen() -> None:
    sequences = random_sequences(0, users=30)
    settings = changed_section(ModelSettings, "model", {"width": 8, "state_dim": 8, "window": 5}, SHARED)
    torch.manual_seed(0)
    model = Recommender(settings, sequences.items, len(sequences.domains)).eval()
    targets = sequences.targets(TEST)
    recommended_NK = recommended_items(model, sequences, targets, batch_users=7)
    assert recommended_NK.shape == (len(targets), FIRST)
    for target, found in zip(targets, recommended_NK, strict=True):
        first = sequences.offsets[sequences.user[target]]
        domain = sequences.domains[sequences.domain[target]]
        start = max(first, target - settings.window)
        with torch.inference_mode():
            query = last_queries(model, pack(sequences, np.array([start]), np.array([target])))
            items, time = slice(domain.start, domain.end), np.zeros(1, dtype=np.int64)
            score = item_scores(model, query, items, time, None, None)[0].tolist()
        seen = set(sequences.item[first:target].tolist())
        unseen = [item for item in range(domain.start, domain.end) if item not in seen]
        best = sorted(unseen, key=lambda item: (-score[item - domain.start], item))[:FIRST]
        assert [item for item in found.tolist() if item >= 0] == pytest.approx(best)
        assert (found[len(best) :] == -1).all()


def test_popularity_figures_of_hand_made_recommendations() -> None:
    sequences = random_sequences(0, users=30)
    targets = sequences.targets(TEST)
    number = int(sequences.domain[targets[0]])
    of_domain = targets[sequences.domain[targets] == number]
    trained = sequences.trained_items[number]
    by_count = trained[np.lexsort((trained, sequences.train_count[trained]))]
    most_popular = np.full((len(of_domain), FIRST), by_count[-1])
    figures = popularity_figures(sequences, of_domain, most_popular)
    count = sequences.train_count[trained]

    def percentile(item: int) -> float:
        own = sequences.train_count[item]
        return float(((count < own).sum() + ((count == own).sum() - 1) / 2) / (len(trained) - 1))

    assert figures["coverage"] == pytest.approx(1 / len(trained))
    assert figures["gini"] == pytest.approx(1 - 1 / len(trained))
    assert figures["recommended_popularity"] == pytest.approx(percentile(by_count[-1]))
    consumed = [percentile(item) if item in trained else 0.0 for item in sequences.item[of_domain].tolist()]
    assert figures["consumed_popularity"] == pytest.approx(np.mean(consumed))
    assert figures["popularity_lift"] == pytest.approx(percentile(by_count[-1]) - np.mean(consumed))


@pytest.mark.parametrize("x", ["recipe", "delta"])
def test_a_picture_is_one_svg_file_with_all_labels_and_the_same_bytes_each_time(tmp_path: Path, x: str) -> None:
    rows = [
        {"data": data, "delta": str(delta), "recipe": recipe, "mrr": "0.1", "mrr_sd": "", "hr_1_change": "0.02"}
        | {"hr_1_low": "-0.01", "hr_1_high": "0.05"}
        for data, delta in (("few", 0.5), ("many", 0.2))
        for recipe in ("base", "other")
    ]
    picture: dict[str, Any] = {
        "description": "What it shows",
        "x": x,
        "x_label": "δ",
        "names": {"other": "Another recipe"},
    }
    picture |= {
        "panels": [{"y": "mrr", "kind": "mean", "label": "MRR"}, {"y": "hr_1", "kind": "change", "label": "HR@1"}]
    }
    texts = []
    for name in ("one.svg", "two.svg"):
        draw(picture, rows, "base", tmp_path / name)
        texts.append((tmp_path / name).read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    root = ElementTree.fromstring(texts[0])
    assert root.attrib["aria-label"] == "What it shows"
    shown = "".join(root.itertext())
    for label in ("MRR", "HR@1", "Another recipe", *(["δ"] if x == "delta" else [])):
        assert label in shown
