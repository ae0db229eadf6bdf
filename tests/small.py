"""Small sequences, given as plain lists, and a small model with every part on."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.model.storage import save_model
from tapestry.parameters import Parameters, load_parameters
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.sequences.reader import Domain, Sequences
from tapestry.training.settings import TrainSettings

WHOLE_MODEL = ModelSettings(
    width=8,
    layers=2,
    heads=2,
    window=64,
    attention="intra",
    kernel="auto",
    tape=True,
    tape_tied=False,
    ddsr=True,
    state_dim=6,
    fusion="gate",
    request_time=True,
    target_state=True,
    dropout=0.3,
    recent_weight=0.1,
    target_gate=0.5,
    neighbour_weight=0.4,
)


def recent_count(
    sequences: Sequences, item: int, time: int, splits: tuple[int, ...] = (TRAIN, VALIDATION, TEST)
) -> int:
    """Interactions with an item in the 30 days before the day of a time; at most before the day after the last one."""
    splits_and_days = zip(sequences.split.tolist(), (sequences.timestamp // 86_400_000).tolist(), strict=True)
    counted = [
        (of, day) for of, (split, day) in zip(sequences.item.tolist(), splits_and_days, strict=True) if split in splits
    ]
    asked = min(time // 86_400_000, max(day for _, day in counted) + 1)
    return sum(of == item and asked - 30 <= day < asked for of, day in counted)


def recent_addition(sequences: Sequences, item: int, time: int, weight: float, trained_until: int) -> float:
    """What recent counts add to an item's score at a time, by a model whose training ended on a day."""
    asked = min(time // 86_400_000, int(sequences.timestamp.max()) // 86_400_000 + 1)
    of_age: float = min(weight * 2.0 ** (max(asked - trained_until, 0) / 30), 1.0)
    return of_age * math.log(1 + recent_count(sequences, item, time))


def naive_similarity(sequences: Sequences) -> dict[tuple[int, int], float]:
    """(item, other) → how much they have in common, of items of one domain with users in common."""
    training = sequences.split == TRAIN
    of_user = [
        set(sequences.item[training & (sequences.user == user)].tolist()) for user in range(len(sequences.user_id))
    ]
    common: dict[tuple[int, int], float] = {}
    for items in of_user:
        for pair in permutations(items, 2):
            common[pair] = common.get(pair, 0.0) + 1 / math.log2(2 + len(items))
    total = [sum(value for (one, _), value in common.items() if one == item) for item in range(sequences.items)]
    domain = [next(d.name for d in sequences.domains if item < d.end) for item in range(sequences.items)]
    mean = sum(total) / len(total)
    return {
        (item, other): mean * value / math.sqrt(total[item] * total[other])
        for (item, other), value in common.items()
        if domain[item] == domain[other]
    }


def neighbour_addition(
    similarity: dict[tuple[int, int], float], sequences: Sequences, history: list[int], item: int, weight: float
) -> float:
    """What the neighbours of a history's items add to an item's score."""
    domain = next(d for d in sequences.domains if item < d.end)
    latest = [before for before in reversed(history) if domain.start <= before < domain.end][:32]
    total = sum(0.9**k * similarity.get((before, item), 0.0) for k, before in enumerate(latest))
    return weight * total / (1 + total)


def sequences_of(
    histories: list[list[int]],
    domain_of_item: list[int],
    timestamps: list[list[int]] | None = None,
    split: list[list[int]] | None = None,
) -> Sequences:
    """Sequences of item-id histories; by default one day between items and a leave-one-out split.

    `domain_of_item` is ascending: item ids are contiguous by domain.
    """
    flat = np.array([item for history in histories for item in history], dtype=np.int32)
    domain = np.array(domain_of_item, dtype=np.int16)
    if split is None:
        split = [[0] * (len(history) - 2) + [1, 2] for history in histories]
    if timestamps is None:
        timestamps = [[86_400_000 * day for day in range(len(history))] for history in histories]
    splits = np.array([part for history in split for part in history], dtype=np.int8)
    domains = tuple(
        Domain(f"D{d}", int(np.flatnonzero(domain == d)[0]), int(np.flatnonzero(domain == d)[-1]) + 1)
        for d in range(int(domain.max()) + 1)
    )
    return Sequences(
        item=flat,
        domain=domain[flat],
        timestamp=np.array([moment for history in timestamps for moment in history], dtype=np.int64),
        split=splits,
        offsets=np.cumsum([0] + [len(history) for history in histories]),
        user_id=np.array([f"u{user}" for user in range(len(histories))], dtype=object),
        item_id=np.array([f"i{item}" for item in range(len(domain))], dtype=object),
        train_count=np.bincount(flat[splits == 0], minlength=len(domain)).astype(np.int64),
        domains=domains,
    )


def random_sequences(seed: int, users: int = 12, items: int = 30, domains: int = 3, longest: int = 15) -> Sequences:
    """Random histories of 3 to `longest` items, on days that are often the same."""
    generator = np.random.default_rng(seed)
    histories = [generator.integers(0, items, generator.integers(3, longest + 1)).tolist() for _ in range(users)]
    timestamps = [(86_400_000 * np.cumsum(generator.integers(0, 3, len(history)))).tolist() for history in histories]
    return sequences_of(histories, sorted(item % domains for item in range(items)), timestamps)


def all_in_training(sequences: Sequences) -> Sequences:
    """The same interactions, all of them training interactions."""
    train_count = np.bincount(sequences.item, minlength=sequences.items)
    return dataclasses.replace(sequences, split=np.zeros_like(sequences.split), train_count=train_count)


def write_sequences(sequences: Sequences, folder: Path) -> None:
    """Write the files that sessionize makes."""
    folder.mkdir(parents=True)
    item_domain = np.repeat(
        np.arange(len(sequences.domains), dtype=np.int16), [d.end - d.start for d in sequences.domains]
    )
    columns = {
        "sequences": {
            "user": sequences.user.astype(np.int32),
            **{name: getattr(sequences, name) for name in ("item", "domain", "timestamp", "split")},
        },
        "users": {"user_id": sequences.user_id, "offset": sequences.offsets[:-1].astype(np.int64)},
        "items": {"item_id": sequences.item_id, "domain": item_domain, "train_count": sequences.train_count},
    }
    for name, table in columns.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    (folder / "domains.json").write_text(json.dumps([dataclasses.asdict(domain) for domain in sequences.domains]))


def write_checkout(sequences: Sequences, folder: Path, params_yaml: Path, seed: int = 0) -> Recommender:
    """Write what `tapestry recommend` reads: parameters, sequences, and an untrained model, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(params_yaml, folder / "params.yaml")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / ".dvc").mkdir(exist_ok=True)
    write_sequences(sequences, folder / "data/sequences")
    torch.manual_seed(seed)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains)).eval()
    assert model.request_time is not None
    torch.nn.init.normal_(model.request_time.period.weight)
    model.neighbours = neighbours_of(sequences)
    train = dataclasses.asdict(load_parameters(params_yaml).train)
    save_model(folder / "models", model, sequences.domains, train, recent=sequences.known_counts)
    return model


def quick_training(parameters: Parameters, **changes: Any) -> TrainSettings:
    """Settings of a training on small sequences, without levers, in one thread of the CPU."""
    plain: dict[str, Any] = {
        "epochs": 3,
        "patience": 5,
        "init": "random",
        "schedule": "constant",
        "average_share": 0.0,
        "auxiliary": "none",
        "batch_users": 8,
        "negatives": None,
        "temperature": 0.1,
        "device": "cpu",
        "threads": 1,
    }
    return dataclasses.replace(parameters.train, **(plain | changes))
