"""The whole pipeline on a single domain, as most published protocols have it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkouts import commit
from small import quick_training, random_sequences
from tiny_checkout import make_checkout, run_for_output, runs_of

from tapestry.core.splits import VALIDATION
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.validation import validation_figures
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.parameters import Parameters
from tapestry.training.loop import train

SEQUENCES = random_sequences(5, users=40, domains=1)


def test_raw_file_to_report_audit_and_recommendations(tmp_path: Path, parameters: Parameters) -> None:
    changes = {
        "sessionize.min_domains": 1,
        "model.attention": "intra_full",
        "model.layers": 2,
        "model.recent_weight": 0.07,
        "model.neighbour_weight": 0.25,
        "train.auxiliary": "domains",
        "train.stop_by": "domain_mrr_of_9",
        "evaluate.sampled_negatives": 9,
    }
    make_checkout(tmp_path, parameters, ("Books",), changes)
    test = json.loads((tmp_path / "metrics/test.json").read_text())
    assert test["domain"] == {"Books": test["all"]}
    assert test["transition"] == {"same": test["all"], "switch": {"n": 0}}
    data = json.loads((tmp_path / "metrics/data.json").read_text())
    assert (data["all"]["delta"], data["all"]["transition_entropy"], data["all"]["tied_switches"]) == (1, 0, 0)
    page = (tmp_path / "reports/index.html").read_text()
    assert " interactions in 1 domain: Books." in page
    assert "How often an interaction in one domain is followed by" not in page  # a map of one cell
    (row,) = runs_of(tmp_path, "train")
    assert ", 1 domain (files). Test:" in row.data.tags["mlflow.note.content"]
    assert "recent counts by 0.07, neighbours by 0.25;" in row.data.tags["mlflow.note.content"]
    assert (tmp_path / "models/recent.safetensors").is_file()
    assert (tmp_path / "models/neighbours.safetensors").is_file()

    commit(tmp_path)
    assert run_for_output(["tapestry", "audit"], tmp_path).splitlines()[-1] == "11 PASS, 0 UNKNOWN, 0 FAIL"
    user = pq.read_table(tmp_path / "data/sequences/users.parquet")["user_id"][0].as_py()
    listed = run_for_output(["tapestry", "recommend", "--user", user, "-k", "3"], tmp_path)
    assert len(re.findall(r"(?m)^ +[1-3]  S00\d{7} ", listed)) == 3


@pytest.mark.parametrize("kernel", ["reference", "tiled"])
@pytest.mark.parametrize("fusion", ["sum", "gate"])
def test_attention_within_the_only_domain_is_attention_over_the_whole_sequence(
    parameters: Parameters, kernel: str, fusion: str
) -> None:
    """With TAPE, which is 0 without another domain, DDSR, the target's state and auxiliary targets of other domains."""
    small = {"width": 8, "layers": 2, "heads": 2, "state_dim": 6, "dropout": 0.0, "kernel": kernel, "fusion": fusion}
    values = vars(parameters.model) | small | {"tape": True, "ddsr": True, "target_state": True}
    settings = quick_training(parameters, auxiliary="domains", stop_by="mrr")

    def curve(attention: str) -> list[dict[str, float]]:
        def validate(network: Recommender) -> dict[str, float]:
            targets = SEQUENCES.targets(VALIDATION)
            return validation_figures(SEQUENCES, targets, rank_by_model(network, SEQUENCES, targets, True, 8), "mrr")

        model = ModelSettings(**values | {"attention": attention})
        return list(train(SEQUENCES, model, settings, validate, lambda epoch: None).record()["curve"])

    within, whole = curve("intra"), curve("full")
    losses = [epoch["loss"] for epoch in within]
    assert losses == pytest.approx([epoch["loss"] for epoch in whole], rel=1e-4)
    assert losses[-1] < losses[0]
    assert [epoch["tape_norm"] for epoch in [*within, *whole]] == [0.0] * 6
