"""Train RecTools' SASRec or HSTU on exported sequences, for `tapestry.baselines.rectools_models` and benchmarks.

Runs in an environment of its own (``requirements-rectools.txt``), and so imports nothing of Tapestry.

Reads ``--data``, an npz of 1-D arrays: ``item`` (item of each interaction, 0..items-1; user after user, each in
time order), ``offsets`` (users + 1; where each user's interactions begin), ``split`` (of each interaction: 0 train,
1 validation, 2 test), ``targets`` (indices of the interactions to predict) and ``items`` (their number); with
``--times`` also ``timestamp`` (of each interaction, ms).

After every epoch writes ``--report``, a JSON file of timings and settings, and into the folder ``--vectors``
``<epoch>.npz``: ``query`` (targets, width) and ``item`` (items, width) in float32, such that the dot product of two
rows is the score by which RecTools ranks. A target's history is every interaction of its user before it, whatever
its split. Items that RecTools doesn't know (only users with two training interactions or more count, and of those
the last ``window`` + 1 interactions) are dropped from histories and get rows of NaN, and so does the query of a
target with no known item before it. Beside it is ``<epoch>.pt``, the network: with ``--network FILE`` nothing is
trained, and the vectors of other targets are written as ``<name of FILE>.npz``.

Everything is RecTools' default but for three things. The trainer is the default one with a clock, on the CPU.
Without ``--times``, HSTU goes without its relative *time* bias (its relative position bias stays). And HSTU's cosine
logits are divided by the temperature of the HSTU authors' configurations: at RecTools' default of 1 they lie within
[-1, 1], too narrow a range for a softmax over a catalogue.
"""

import argparse
import json
import logging
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel
from rectools.models.rank import Distance

HSTU_TEMPERATURE = 0.05
ENCODE_BATCH = 256

Data = dict[str, NDArray[np.int64]]
Model = SASRecModel | HSTUModel


@dataclass(frozen=True)
class Trained:
    """What is needed to embed: the network, the items that it knows, and RecTools' own number of each item (I,)."""

    network: torch.nn.Module
    known: NDArray[np.int64]
    internal: NDArray[np.int64]
    window: int


class Recorder(Callback):
    """Wall seconds and mean loss of every training epoch; calls ``record`` after each, its time not counted."""

    def __init__(self, record: Callable[["Recorder"], None]) -> None:
        self.record = record
        self.began = 0.0
        self.seconds: list[float] = []
        self.loss: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.loss.append(float(trainer.callback_metrics["train_loss"]))
        self.record(self)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="npz to read")
    parser.add_argument("--model", choices=["sasrec", "hstu"], required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batches", type=int, help="at most so many batches an epoch")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--window", type=int, default=64, help="items of a history that a model sees")
    parser.add_argument("--batch-users", type=int, default=128)
    parser.add_argument("--loss", choices=["sampled_softmax", "softmax"], default="sampled_softmax")
    parser.add_argument("--negatives", type=int, default=512, help="a position, for sampled_softmax")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--times", action="store_true", help="real times, and HSTU with its relative time bias")
    parser.add_argument("--network", type=Path, help="a network to embed with, instead of training")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--vectors", type=Path, help="folder for each epoch's vectors; without it there are none")
    return parser.parse_args()


def training_set(data: Data) -> Dataset:
    """The training interactions. RecTools sorts by time (stable); without times, an interaction's is its index."""
    rows = np.flatnonzero(data["split"] == 0)
    moments = data["timestamp"][rows] * 1_000_000 if "timestamp" in data else rows
    users = np.repeat(np.arange(len(data["offsets"]) - 1), np.diff(data["offsets"]))
    columns = {
        Columns.User: users[rows],
        Columns.Item: data["item"][rows],
        Columns.Weight: 1.0,
        Columns.Datetime: moments.astype("datetime64[ns]"),
    }
    return Dataset.construct(pd.DataFrame(columns))


def build(args: argparse.Namespace, recorder: Recorder) -> Model:
    settings = {
        "n_blocks": args.layers,
        "n_heads": args.heads,
        "n_factors": args.width,
        "dropout_rate": args.dropout,
        "session_max_len": args.window,
        "loss": args.loss,
        "n_negatives": args.negatives,
        "lr": args.learning_rate,
        "batch_size": args.batch_users,
    }
    model: Model
    if args.model == "sasrec":
        model = SASRecModel(**settings)
    else:
        temperature = {"logits_t": HSTU_TEMPERATURE}
        model = HSTUModel(**settings, relative_time_attention=args.times, lightning_module_kwargs=temperature)
    model._trainer = Trainer(  # RecTools' documented way to have a trainer of one's own
        accelerator="cpu",
        devices=1,
        max_epochs=args.epochs,
        min_epochs=args.epochs,
        limit_train_batches=args.batches,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return model


def trained(model: Model, data: Data) -> Trained:
    preparator = model.data_preparator
    known = preparator.get_known_item_ids().astype(np.int64)
    internal = np.zeros(int(data["items"]), np.int64)  # 0 is the padding
    internal[known] = preparator.get_known_items_sorted_internal_ids()
    return Trained(model.torch_model, known, internal, preparator.session_max_len)


@torch.no_grad()
def embed(found: Trained, data: Data) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Query vectors of the targets and item vectors, in the order of the data's own ids."""
    network, known, internal, window = found.network, found.known, found.internal, found.window
    training = network.training
    network.eval()
    targets = data["targets"]
    begins = data["offsets"][np.searchsorted(data["offsets"], targets, side="right") - 1]
    histories = np.zeros((len(targets), window), np.int64)
    moments = np.zeros((len(targets), window + 1), np.int64)  # seconds; the last is that of the request
    for row, times, begin, target in zip(histories, moments, begins, targets, strict=True):
        history = internal[data["item"][begin:target]]
        (kept,) = np.nonzero(history)
        kept = kept[-window:]
        row[window - len(kept) :] = history[kept]
        if "timestamp" in data:
            of_known = data["timestamp"][begin + np.append(kept, target - begin)] // 1000
            times[:] = of_known[0]  # as RecTools pads
            times[window - len(kept) :] = of_known

    table = network.item_model.get_all_embeddings()
    parts = (torch.from_numpy(whole).split(ENCODE_BATCH) for whole in (histories, moments))
    encoded = [network.encode_sessions({"x": x, "unix_ts": t}, table)[:, -1] for x, t in zip(*parts, strict=True)]
    queries = torch.cat(encoded)
    if network.similarity_module.distance == Distance.COSINE:
        table = torch.nn.functional.normalize(table, dim=-1, eps=1e-8)
        queries = torch.nn.functional.normalize(queries, dim=-1, eps=1e-8)
    network.train(training)
    query = queries.numpy()
    query[histories[:, -1] == 0] = np.nan
    item = np.full((len(internal), table.shape[1]), np.nan, np.float32)
    item[known] = table.numpy()[internal[known]]
    return query, item


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore", module="pytorch_lightning|pydantic|rectools")
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)

    names = ["item", "offsets", "split", "targets", "items", *(["timestamp"] if args.times else [])]
    with np.load(args.data) as arrays:
        data: Data = {name: arrays[name] for name in names}
    if args.network is not None:
        write_vectors(torch.load(args.network, weights_only=False), data, args.vectors / f"{args.network.stem}.npz")
        return

    def record(recorder: Recorder) -> None:
        vectors = {}
        if args.vectors is not None:
            args.vectors.mkdir(parents=True, exist_ok=True)
            now, whole = trained(model, data), args.vectors / f"{len(recorder.seconds)}.npz"
            vectors = write_vectors(now, data, whole)
            torch.save(now, whole.with_suffix(".pt"))
        write_report(args, model, recorder, vectors)

    model = build(args, Recorder(record))
    model.fit(training_set(data))


def write_vectors(found: Trained, data: Data, whole: Path) -> dict[str, int]:
    """Write the vectors; return how many items and targets have none."""
    query, item = embed(found, data)
    np.savez(whole.with_suffix(".part.npz"), query=query, item=item)
    whole.with_suffix(".part.npz").replace(whole)
    return {
        "unknown_items": int(np.isnan(item[:, 0]).sum()),
        "unknown_histories": int(np.isnan(query[:, 0]).sum()),
    }


def write_report(args: argparse.Namespace, model: Model, recorder: Recorder, vectors: dict[str, int]) -> None:
    trained = model.data_preparator.train_dataset.interactions.df  # what the batches of every epoch are made of
    users = trained[Columns.User].nunique()
    share = min(1.0, (args.batches or users) * args.batch_users / users)
    report = {
        "model": args.model,
        "epochs": len(recorder.seconds),
        "seconds": recorder.seconds,
        "tokens": share * (len(trained) - users),  # an epoch's; a user's first item is input only
        "positions": share * users * args.window,  # what is computed: tokens and padding
        "parameters": sum(parameter.numel() for parameter in model.torch_model.parameters()),
        "loss": recorder.loss,
        **vectors,
        "versions": {name: version(name) for name in ("rectools", "torch", "numpy")}
        | {"python": platform.python_version()},
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        | ({"temperature": HSTU_TEMPERATURE} if args.model == "hstu" else {}),
    }
    part = args.report.with_suffix(".part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(args.report)


if __name__ == "__main__":
    main()
