"""A saved model: what is written, and which damaged files are refused with which message."""

from __future__ import annotations

import dataclasses
import json
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import WHOLE_MODEL, random_sequences, recent_count

from tapestry.core.errors import TapestryError
from tapestry.model import storage
from tapestry.model.network import Recommender
from tapestry.model.storage import load_model, read_latest_counts, save_model
from tapestry.parallel.shard import Shard
from tapestry.sequences.batches import pack
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.sequences.reader import Domain, Sequences

TRAIN = {"epochs": 3, "learning_rate": 0.004}


def whole_model(sequences: Sequences) -> Recommender:
    """A model with every part on."""
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains)).eval()
    model.neighbours = neighbours_of(sequences)
    return model


def test_a_saved_model_gives_the_same_queries_when_loaded(tmp_path: Path) -> None:
    sequences = random_sequences(0)
    model = whole_model(sequences)
    save_model(tmp_path / "models", model, sequences.domains, TRAIN)
    loaded, domains = load_model(tmp_path / "models")
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    segments = model.arrange(batch, "tiled")
    assert torch.equal(model(batch, segments), loaded(batch, segments))
    assert (loaded.settings, domains) == (WHOLE_MODEL, sequences.domains)
    config = json.loads((tmp_path / "models/config.json").read_text(encoding="utf-8"))
    assert config["train"] == TRAIN


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_processes_read_their_shards_of_a_saved_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    sequences = random_sequences(0)
    model = whole_model(sequences)
    save_model(tmp_path, model, sequences.domains, TRAIN)
    monkeypatch.setattr(storage, "_BLOCK", block)
    for index in range(3):
        part, _ = load_model(tmp_path, sequences.domains, Shard(index, 3))
        assert part.shard == Shard(index, 3)
        assert model.neighbours is not None
        assert part.neighbours is not None
        np.testing.assert_array_equal(part.neighbours.item_IK, model.neighbours.item_IK)
        np.testing.assert_array_equal(part.neighbours.similarity_IK, model.neighbours.similarity_IK)
        for name, weight in model.state_dict().items():
            expected = weight[index::3] if name == "item.weight" else weight
            assert torch.equal(part.state_dict()[name], expected)


def test_a_model_is_saved_with_or_without_the_record_of_its_training(tmp_path: Path) -> None:
    sequences = random_sequences(0)
    model, record = whole_model(sequences), {"curve": [{"epoch": 1, "loss": 1 / 3}]}
    for training in (record, None):
        save_model(tmp_path / "models", model, sequences.domains, TRAIN, training)
        assert load_model(tmp_path / "models", sequences.domains)[1] == sequences.domains
        written = tmp_path / "models/training.json"
        assert (json.loads(written.read_text(encoding="utf-8")) if written.exists() else None) == training


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    sequences = random_sequences(0)
    for name in ("a", "b"):
        torch.manual_seed(1)
        save_model(tmp_path / name, whole_model(sequences), sequences.domains, TRAIN)
    for file in ("model.safetensors", "config.json", "neighbours.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "missing", "other width", "unknown key"])
def test_a_damaged_model_is_refused(damage: str, tmp_path: Path) -> None:
    sequences = random_sequences(0)
    save_model(tmp_path, whole_model(sequences), sequences.domains, TRAIN)
    weights, settings = tmp_path / "model.safetensors", tmp_path / "config.json"
    values = json.loads(settings.read_text())
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        weights.unlink()
    elif damage == "other width":
        values["model"]["width"] = 16
    else:
        values["model"]["depth"] = 2
    settings.write_text(json.dumps(values))
    with pytest.raises(TapestryError, match="train"):
        load_model(tmp_path)


def test_a_model_with_recent_counts_keeps_the_latest(tmp_path: Path) -> None:
    sequences = random_sequences(0)
    model = whole_model(sequences)
    save_model(tmp_path, model, sequences.domains, TRAIN, recent=sequences.known_counts)
    counts = read_latest_counts(tmp_path, model)
    assert counts is not None
    assert counts.latest().tolist() == [recent_count(sequences, item, 2**62) for item in range(sequences.items)]
    assert counts.last_day == sequences.timestamp.max() // 86_400_000


def test_a_model_without_recent_counts_has_no_file_of_them(tmp_path: Path) -> None:
    sequences = random_sequences(0)
    model = Recommender(dataclasses.replace(WHOLE_MODEL, recent_weight=0.0), sequences.items, 3)
    save_model(tmp_path, model, sequences.domains, TRAIN, recent=sequences.known_counts)
    assert not (tmp_path / "recent.safetensors").exists()
    assert read_latest_counts(tmp_path, model) is None


COUNT, DAY = torch.zeros(30, dtype=torch.int64), torch.tensor(16_000)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "no trained model"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "damaged"),
        (lambda path: save_file({"other": torch.zeros(30), "last_day": DAY}, path), "damaged"),
        (lambda path: save_file({"count": COUNT}, path), "damaged"),
        (
            lambda path: save_file({"count": COUNT * 1.0, "last_day": DAY}, path),
            "not one count for each of the model's 30",
        ),
        (lambda path: save_file({"count": COUNT[1:], "last_day": DAY}, path), "not one count for each"),
        (lambda path: save_file({"count": COUNT - 1, "last_day": DAY}, path), "not one count for each"),
        (lambda path: save_file({"count": COUNT, "last_day": DAY * 1.0}, path), "last_day is not a number of days"),
        (lambda path: save_file({"count": COUNT, "last_day": -DAY}, path), "last_day is not a number of days"),
    ],
    ids=[
        "missing",
        "truncated",
        "another tensor",
        "no day",
        "no integers",
        "too few",
        "negative",
        "half a day",
        "before",
    ],
)
def test_damaged_recent_counts_are_refused(tmp_path: Path, damage: Callable[[Path], object], complaint: str) -> None:
    sequences = random_sequences(0)
    model = whole_model(sequences)
    save_model(tmp_path, model, sequences.domains, TRAIN, recent=sequences.known_counts)
    damage(tmp_path / "recent.safetensors")
    with pytest.raises(TapestryError, match=f"recent.safetensors: {complaint}.*run `dvc repro train`"):
        read_latest_counts(tmp_path, model)


def test_a_model_without_neighbours_has_no_file_of_them(tmp_path: Path) -> None:
    sequences = random_sequences(0)
    model = Recommender(dataclasses.replace(WHOLE_MODEL, neighbour_weight=0.0), sequences.items, 3)
    save_model(tmp_path, model, sequences.domains, TRAIN)
    assert not (tmp_path / "neighbours.safetensors").exists()
    assert load_model(tmp_path)[0].neighbours is None


OTHER = torch.full((30, 50), -1, dtype=torch.int32)
OF_FIRST = OTHER.index_fill(0, torch.tensor(0), 1)  # item 1 is a neighbour of item 0
SIMILAR = torch.zeros(30, 50).index_fill(0, torch.tensor(0), 0.5)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (None, "no trained model"),
        ({"item": OTHER}, "damaged"),
        ({"item": OF_FIRST[1:], "similarity": SIMILAR[1:]}, "not 50 neighbours of each of the model's 30 items"),
        ({"item": OF_FIRST, "similarity": SIMILAR[:, 1:].contiguous()}, "not 50 neighbours of each"),
        ({"item": OF_FIRST.long(), "similarity": SIMILAR}, "not 50 neighbours of each"),
        ({"item": OF_FIRST, "similarity": SIMILAR.double()}, "not 50 neighbours of each"),
        ({"item": OF_FIRST * 10, "similarity": SIMILAR}, "neighbours of other domains"),
        ({"item": OF_FIRST * 30, "similarity": SIMILAR}, "neighbours of other domains"),
        ({"item": OTHER, "similarity": SIMILAR}, "neighbours of other domains, or without a similarity"),
        ({"item": OF_FIRST, "similarity": -SIMILAR}, "neighbours of other domains, or without a similarity"),
        ({"item": OF_FIRST, "similarity": SIMILAR / 0}, "neighbours of other domains, or without a similarity"),
    ],
    ids=["missing", "one", "few", "narrow", "int64", "double", "other domain", "no item", "none", "negative", "NaN"],
)
def test_damaged_neighbours_are_refused(saved: Path, tensors: dict[str, torch.Tensor] | None, complaint: str) -> None:
    file = saved / "neighbours.safetensors"
    save_file({"item": OF_FIRST, "similarity": SIMILAR}, file)
    assert load_model(saved)[0].neighbours is not None
    file.unlink()
    if tensors is not None:
        save_file(tensors, file)
    with pytest.raises(TapestryError, match=f"neighbours.safetensors: {complaint}.*run `dvc repro train`"):
        load_model(saved)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model of 30 items: 10 in each of the domains D0, D1 and D2."""
    sequences = random_sequences(0)
    save_model(tmp_path / "models", whole_model(sequences), sequences.domains, TRAIN)
    return tmp_path / "models"


def test_the_files_have_the_permissions_of_new_files(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (*saved.iterdir(), tmp_path / "new")}
    assert len(modes) == 1


D = (Domain("D0", 0, 10), Domain("D1", 10, 20), Domain("D2", 20, 30))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            (D[0], Domain("D2", 10, 20), Domain("D1", 20, 30)),
            "domain 2 is D1 with 10 items from 10, expected D2 with 10",
        ),
        (
            (D[0], D[1], Domain("D3", 20, 30)),
            "domain 3 is D2 with 10 items from 20, expected D3 with 10 items from 20$",
        ),
        (
            (Domain("D0", 0, 9), Domain("D1", 9, 20), D[2]),
            "domain 1 is D0 with 10 items from 0, expected D0 with 9 items",
        ),
        ((D[0], D[1], Domain("D2", 20, 31)), "domain 3 is D2 with 10 items from 20, expected D2 with 11 items from 20"),
        (D[:2], "domain 3 is D2 with 10 items from 20, expected none"),
        ((*D, Domain("D3", 30, 40)), "domain 4 is missing, expected D3 with 10 items from 30"),
    ],
    ids=["order", "name", "counts", "more items", "fewer domains", "more domains"],
)
def test_a_model_of_other_data_is_refused_with_both_values(
    saved: Path, data: tuple[Domain, ...], complaint: str
) -> None:
    assert load_model(saved, D)[1] == D
    with pytest.raises(TapestryError, match=f"a model of other data: {complaint.rstrip('$')}.*run `dvc repro train`"):
        load_model(saved, data)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "one more item": (
        lambda w: w.update({"item.weight": torch.zeros(31, 8)}),
        r"item\.weight is F32 \[31, 8\], expected F32 \[30, 8\]",
    ),
    "missing": (lambda w: w.pop("layers.1.norm_in.bias"), r"layers\.1\.norm_in\.bias is missing, expected F32 \[8\]"),
    "extra": (lambda w: w.update(more=torch.zeros(1)), r"more is F32 \[1\], expected none"),
    "of another type": (
        lambda w: w.update({"item.weight": w["item.weight"].double()}),
        r"item\.weight is F64 \[30, 8\], expected F32 \[30, 8\]",
    ),
    "many": (lambda w: w.clear(), r"missing, .*missing, .*missing, .* and \d+ more"),
    "NaN": (
        lambda w: w["item.weight"][3, :2].fill_(math.nan),
        r"weights are NaN or infinite: item\.weight \(2 of 240\);",
    ),
    "infinite": (
        lambda w: (w["item.weight"][3, 0].fill_(math.inf), w["domain.weight"][0, 0].fill_(-math.inf)),
        r"weights are NaN or infinite: domain\.weight \(1 of 24\), item\.weight \(1 of 240\);",
    ),
}


@pytest.mark.parametrize(("change", "complaint"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_are_refused_and_named(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], Any], complaint: str
) -> None:
    change_weights(saved, change)
    with pytest.raises(TapestryError, match=complaint + ".*run `dvc repro train`"):
        load_model(saved)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, b"\x02" + bytes(7) + b"{}", b"\x0a" + bytes(7) + b"{}"])
def test_a_file_without_weights_is_refused(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(TapestryError, match=r"model\.safetensors: (damaged|not the weights).*run `dvc repro train`"):
        load_model(saved)


CONFIGS: dict[str, tuple[bytes, bytes, str]] = {
    "cut short": (b'"layers": 2,', b'"layers": 2,\0', "Invalid control|Expecting"),
    "not UTF-8": (b'"layers": 2,', b'"layers": 2, "\xff": 1,', "utf-8"),
    "nested": (b'"layers": 2,', b'"layers": ' + b"[" * 100_000 + b",", "recursion"),
    "a key missing": (b'"layers": 2,', b"", r"model\.layers: missing"),
    "a section missing": (b'"domains": [', b'"domain": [', "domains: missing"),
    "text": (b'"layers": 2,', b'"layers": "2",', r"model\.layers: expected a whole number, got '2'"),
    "infinite": (b'"layers": 2,', b'"layers": Infinity,', r"model\.layers: expected a whole number, got inf"),
    "infinite share": (b'"dropout": 0.3', b'"dropout": Infinity', r"model\.dropout: expected a finite number, got inf"),
    "NaN": (b'"dropout": 0.3', b'"dropout": NaN', r"model\.dropout: expected a finite number, got nan"),
    "huge": (
        b'"layers": 2,',
        b'"layers": 1' + b"0" * 30 + b",",
        r"model\.layers: 1000000000000000000000000000000 is above",
    ),
    "far too long": (b'"layers": 2,', b'"layers": ' + b"9" * 5000 + b",", "4300 digits"),
    "many items": (
        b'"end": 30',
        b'"end": 3000000000000',
        r"item\.weight is F32 \[30, 8\], expected F32 \[3000000000000, 8\]",
    ),
    "a gap between domains": (b'"end": 10', b'"end": 9', "domains: their items don't follow each other"),
    "a domain without a name": (b'"name": "D1"', b'"name": null', r"domains\[1\]\.name: expected text, got None"),
}


@pytest.mark.parametrize(("before", "after", "complaint"), CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_config_is_refused_with_the_reason(saved: Path, before: bytes, after: bytes, complaint: str) -> None:
    settings = saved / "config.json"
    content = settings.read_bytes()
    assert before in content
    settings.write_bytes(content.replace(before, after))
    with pytest.raises(TapestryError, match=f"({complaint}).*run `dvc repro train`"):
        load_model(saved)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"model": 1, "train": 2, "domains": []}'])
def test_a_file_that_is_no_config_is_refused(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(TapestryError, match=r"config\.json: damaged or of another version .*run `dvc repro train`"):
        load_model(saved)


def test_a_model_without_domains_is_refused(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(values | {"domains": []}))
    with pytest.raises(TapestryError, match="domains"):
        load_model(saved)
