"""Examples for the report: evenly spread targets, what the model recommended for them, and nobody's id."""

from __future__ import annotations

import json

import torch
from small import WHOLE_MODEL, random_sequences

from tapestry.core.splits import TEST
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.recommending.examples import example_recommendations


def test_examples_are_evenly_spread_targets_with_what_the_model_ranks_first() -> None:
    sequences = random_sequences(0, users=30)
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains)).eval()
    targets = sequences.targets(TEST)
    ranks = rank_by_model(model, sequences, targets, exclude_seen=True, batch_users=8)
    examples = example_recommendations(model, sequences, targets, ranks, exclude_seen=True)
    indices = [len(targets) * eighths // 8 for eighths in (1, 3, 5, 7)]
    assert len(examples) == len(indices)
    for example, index in zip(examples, indices, strict=True):
        target = targets[index]
        first = sequences.offsets[sequences.user[target]]
        history = sequences.item[first:target]
        assert [item["item_id"] for item in example["history"]] == [str(sequences.item_id[i]) for i in history[-6:]]
        assert example["earlier"] + len(example["history"]) == len(history)
        assert example["target"]["item_id"] == str(sequences.item_id[sequences.item[target]])
        assert example["domain"] == sequences.domains[sequences.domain[target]].name
        assert (example["rank"], example["candidates"]) == (ranks.rank[index], ranks.candidates[index])
        recommended = [item["item_id"] for item in example["recommended"]]
        if example["target"]["item_id"] in recommended:
            assert recommended.index(example["target"]["item_id"]) + 1 == example["rank"]
        elif sequences.item[target] not in history:  # an item that was chosen again is ranked but not recommended
            assert example["rank"] > len(recommended)
        assert {item["domain"] for item in example["recommended"]} == {example["domain"]}
        assert not {str(sequences.item_id[i]) for i in history} & set(recommended)
    assert not any(f'"{user_id}"' in json.dumps(examples) for user_id in sequences.user_id)
