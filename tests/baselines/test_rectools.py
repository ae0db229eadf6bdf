"""SASRec and HSTU of the library RecTools, in its own environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from oracles.ranking import naive_rank
from small import random_sequences, sequences_of

from tapestry.baselines import rectools_models
from tapestry.baselines.interface import Requests
from tapestry.baselines.ranks import rank_by_scores
from tapestry.baselines.rectools_models import SCRIPT, RecTools, export, rectools_python
from tapestry.baselines.settings import BaselineSettings, PeerSettings
from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST, TRAIN
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.sequences.reader import Sequences

CHOSEN = BaselineSettings(True, 16, 5, 1, PeerSettings(width=8, window=6, epochs=3, seed=1))
Name = Literal["sasrec", "hstu"]
both = pytest.mark.parametrize("name", ["sasrec", "hstu"])


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return rectools_python()
    except TapestryError as error:
        pytest.skip(str(error))


@both
def test_vectors_give_the_scores_of_rectools_own_recommendations(python: Path, tmp_path: Path, name: str) -> None:
    sequences = random_sequences(5, users=30)
    export(sequences, sequences.targets(TEST), tmp_path / "data.npz")
    script = Path(__file__).with_name("rectools_recommend.py")
    command: list[str | Path] = [python, script, SCRIPT.parent, name, tmp_path / "data.npz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["compared"] > 500
    assert found["difference"] < 1e-4


def fitted(name: Name, sequences: Sequences) -> RecTools:
    model = RecTools(name)
    model.fit(sequences, CHOSEN)
    return model


@both
@pytest.mark.usefixtures("python")
def test_the_epoch_of_the_best_validation_is_kept_and_a_seed_repeats_it(
    name: Name, capfd: pytest.CaptureFixture[str]
) -> None:
    sequences = random_sequences(3, users=60)
    model = fitted(name, sequences)
    printed = [line.split() for line in capfd.readouterr().out.splitlines() if line.startswith("epoch ")]
    figures = [float(words[-1]) for words in printed]
    assert len(figures) == CHOSEN.peers.epochs
    assert figures[model.best_epoch - 1] == max(figures)
    targets = sequences.targets(TEST)
    score = model.scorer(Requests(sequences, targets))
    ranks = rank_by_scores(name, score, sequences, targets, CHOSEN)
    for index, target in enumerate(targets.tolist()):
        domain = sequences.domains[sequences.domain[target]]
        (scores,) = score(np.array([index]), slice(domain.start, domain.end)).tolist()
        assert (ranks.rank[index], ranks.candidates[index]) == naive_rank(sequences, target, scores, True)
    again = rank_by_scores(
        name, fitted(name, sequences).scorer(Requests(sequences, targets)), sequences, targets, CHOSEN
    )
    assert again.rank.tolist() == ranks.rank.tolist()


@pytest.mark.usefixtures("python")
def test_it_learns_which_item_follows_which() -> None:
    """Item i is followed by i + 1: after a few epochs the target is near the top."""
    items = 20
    histories = [[(start + step) % items for step in range(8)] for start in range(items) for _ in range(8)]
    sequences = sequences_of(histories, [0] * items)
    learned = BaselineSettings(True, 64, 5, 2, PeerSettings(width=32, window=8, epochs=40, seed=1))
    model = RecTools("sasrec")
    model.fit(sequences, learned)
    targets = sequences.targets(TEST)
    ranks = rank_by_scores("sasrec", model.scorer(Requests(sequences, targets)), sequences, targets, learned)
    assert ranking_metrics(ranks.rank, (1,))["hr_1"] > 0.9


def test_what_it_cannot_be_trained_with_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(3)
    odd = BaselineSettings(True, 16, 5, 1, PeerSettings(width=6))
    with pytest.raises(TapestryError, match=r"peers\.width: 6 is not divisible by 4, RecTools' heads"):
        RecTools("sasrec").fit(sequences, odd)
    monkeypatch.setattr(rectools_models, "ENVIRONMENT", ".venv-nowhere")
    with pytest.raises(TapestryError, match=r"RecTools isn't installed: .* has no \.venv-nowhere; run `make peers`"):
        RecTools("sasrec").fit(sequences, CHOSEN)
    sequences.split[:] = TRAIN
    with pytest.raises(TapestryError, match="hstu: there is no validation target to choose an epoch by"):
        RecTools("hstu").fit(sequences, CHOSEN)
