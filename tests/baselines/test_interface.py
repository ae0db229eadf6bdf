"""What a baseline sees, and the scripts that define one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from checkouts import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.ranking import naive_rank
from small import random_sequences, sequences_of

from tapestry.baselines.interface import Requests, without_test
from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.scripts import check_scripts, load_baseline
from tapestry.baselines.settings import BaselineSettings, PeerSettings
from tapestry.core.arrays import Integers
from tapestry.core.errors import TapestryError
from tapestry.core.settings import parse
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.evaluation.ranking import ScoreFunction
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.sequences.reader import Sequences

CHOSEN = BaselineSettings(True, 4, 5, 1, PeerSettings())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_fitted_has_all_interactions_but_those_of_the_test(seed: int) -> None:
    sequences = random_sequences(seed)
    sequences.split[:] = np.random.default_rng(seed).integers(0, 3, len(sequences.split))  # users may be all test
    seen = without_test(sequences)
    expected: list[list[tuple[int, ...]]] = [[] for _ in sequences.user_id]
    for row, user in enumerate(sequences.user.tolist()):
        if sequences.split[row] != TEST:
            columns = (sequences.item, sequences.domain, sequences.timestamp, sequences.split)
            expected[user].append(tuple(int(column[row]) for column in columns))
    for user, rows in enumerate(expected):
        start, end = seen.offsets[user : user + 2]
        columns = (seen.item, seen.domain, seen.timestamp, seen.split)
        assert [tuple(int(c[row]) for c in columns) for row in range(start, end)] == rows
    assert seen.offsets[-1] == len(seen.item)
    lengths = [len(rows) for rows in expected]
    later = [sum(lengths[:user]) + place for user in range(len(lengths)) for place in range(1, lengths[user])]
    wanted = [row for row in later if seen.split[row] == VALIDATION]
    assert seen.targets(VALIDATION).tolist() == wanted


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_request_has_the_history_before_its_target_and_not_the_target(seed: int) -> None:
    sequences = random_sequences(seed)
    targets = sequences.targets(TEST)
    requests = Requests(sequences, targets)
    assert len(requests) == len(targets)
    for number, target in enumerate(targets.tolist()):
        user = next(u for u in range(len(sequences.user_id)) if target < sequences.offsets[u + 1])
        before = range(int(sequences.offsets[user]), target)
        item, moment = requests.history(number)
        assert item.tolist() == [int(sequences.item[row]) for row in before]
        assert moment.tolist() == [int(sequences.timestamp[row]) for row in before]
        assert requests.user[number] == user
        assert requests.domain[number] == sequences.domain[target]
        assert requests.time[number] == sequences.timestamp[target]
    some = np.array([len(targets) - 1, 0])
    row, items = requests.items(some)
    for place, number in enumerate(some):
        assert items[row == place].tolist() == requests.history(number)[0].tolist()


class LastDigit:
    """Scores that depend on all that a baseline sees: an item is good if it ends like the history's last one."""

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        self.splits = set(sequences.split.tolist())
        self.shift = int((sequences.split == TRAIN).sum())

    def scorer(self, requests: Requests) -> ScoreFunction:
        last = np.array([requests.history(number)[0][-1] for number in range(len(requests))])

        def score(index: Integers, items: slice) -> torch.Tensor:
            number = np.arange(items.start, items.stop)
            return torch.from_numpy((number + self.shift) % 10 == last[index, None] % 10).float()

        return score


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), exclude_seen=st.booleans())
def test_any_baseline_is_ranked_as_plain_loops_rank_it(seed: int, exclude_seen: bool) -> None:
    sequences = random_sequences(seed)
    baseline, targets = LastDigit(), sequences.targets(TEST)
    ranks = rank_baseline(
        "digits", baseline, sequences, targets, BaselineSettings(exclude_seen, 4, 5, 1, PeerSettings())
    )
    assert baseline.splits == {TRAIN, VALIDATION}
    for index, target in enumerate(targets.tolist()):
        domain = sequences.domains[sequences.domain[target]]
        digit = int(sequences.item[target - 1]) % 10
        scores = [float((i + baseline.shift) % 10 == digit) for i in range(domain.start, domain.end)]
        assert (ranks.rank[index], ranks.candidates[index]) == naive_rank(sequences, target, scores, exclude_seen)


class Flat(LastDigit):
    def scorer(self, requests: Requests) -> ScoreFunction:
        return lambda index, items: torch.zeros(items.stop - items.start)


def test_scores_of_a_wrong_shape_are_an_error_that_names_the_baseline() -> None:
    sequences = sequences_of([[0, 1, 2, 3]], [0, 0, 0, 0])
    with pytest.raises(
        TapestryError, match=r"flat: the scores have the shape \(4,\), not \(requests, items\) = \(1, 4\)"
    ):
        rank_baseline("flat", Flat(), sequences, sequences.targets(TEST), CHOSEN)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of scripts of a checkout that is the working directory."""
    (tmp_path / "baselines").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "baselines"


SCRIPT = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Baseline:
    bias: float = 0.5

    def fit(self, sequences, settings): ...

    def scorer(self, requests): ...
"""


def test_a_script_is_loaded_by_its_name(folder: Path) -> None:
    (folder / "mine.py").write_text(SCRIPT)
    assert load_baseline("mine").bias == 0.5  # type: ignore[attr-defined]


def test_the_example_of_the_documentation_is_a_baseline(folder: Path) -> None:
    """It counts, in training, how often an item came right after the history's last one."""
    page = (Path(__file__).parents[2] / "docs/baselines.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (folder / "last_item.py").write_text(example)
    sequences = random_sequences(6, users=40, items=12)
    targets = sequences.targets(TEST)
    ranks = rank_baseline("last_item", load_baseline("last_item"), sequences, targets, CHOSEN)
    follows = Counter[tuple[int, int]]()
    for row in range(1, len(sequences.item)):
        if sequences.user[row] == sequences.user[row - 1] and sequences.split[row] == TRAIN:
            follows[int(sequences.item[row - 1]), int(sequences.item[row])] += 1
    for index, target in enumerate(targets.tolist()):
        domain, last = sequences.domains[sequences.domain[target]], int(sequences.item[target - 1])
        scores = [float(follows[last, item]) for item in range(domain.start, domain.end)]
        assert (ranks.rank[index], ranks.candidates[index]) == naive_rank(sequences, target, scores, True)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("class Baseline: pass", r"baselines/mine\.py: has no class Baseline with the methods fit and scorer"),
        ("", r"baselines/mine\.py: has no class Baseline"),
        ("import no_such_thing.part", r"baselines/mine\.py: \S+ has no package no_such_thing; `\S+ -m pip install no_"),
    ],
)
def test_a_script_that_is_no_baseline_is_an_error_that_names_it(folder: Path, script: str, message: str) -> None:
    (folder / "mine.py").write_text(script)
    with pytest.raises(TapestryError, match=message):
        load_baseline("mine")


def test_an_unknown_baseline_is_an_error_that_lists_the_known(folder: Path) -> None:
    for name in ("mine", "als"):
        (folder / f"{name}.py").write_text(SCRIPT)
    check_scripts([])
    check_scripts(["mine", "als"])
    with pytest.raises(
        TapestryError, match=r"evaluate\.baselines: there is no baselines/alz\.py; known are als, mine$"
    ):
        check_scripts(["mine", "alz"])


@pytest.mark.parametrize(
    "code",
    [
        "import tapestry.baselines.scripts",  # the stage `source` checks them in each run of the pipeline
        """
from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.scripts import load_baseline
from tapestry.evaluation.ranks import ranks_table
for name in ("popularity", "recent_popularity", "item_knn"):
    load_baseline(name)
""",
    ],
)
def test_a_stage_that_needs_no_torch_does_not_import_it(code: str) -> None:
    """It takes two seconds of CPU time."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print('torch' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["peers/mine.py"], r"evaluate\.baselines: 'peers/mine\.py' is not the name of a script: .* is my_model"),
        (["a b"], "not the name of a script"),
        ([""], "not the name of a script"),
        (["als", "ALS"], "a baseline is named twice"),
        (["Tapestry"], "is the name of the model in tables"),
    ],
)
def test_a_name_that_no_file_and_no_table_can_have_is_an_error(names: list[str], message: str) -> None:
    values = {"exclude_seen": True, "ks": [10], "batch_users": 8, "neighbours": 5, "device": "cpu", "threads": 1}
    assert parse(EvaluateSettings, values | {"baselines": []}, "evaluate").baselines == ()
    assert parse(EvaluateSettings, values, "evaluate").baselines == ("popularity", "recent_popularity", "item_knn")
    with pytest.raises(TapestryError, match=message):
        parse(EvaluateSettings, values | {"baselines": names}, "evaluate")
