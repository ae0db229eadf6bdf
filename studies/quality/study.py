"""The stages of the study: python study.py data SPLIT | baselines SPLIT | train SPLIT RECIPE SEED | results | show."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tapestry.baselines.baselines import rank_baselines
from tapestry.core.atomic import atomic_folder, write_csv, write_json
from tapestry.core.failures import reported_errors
from tapestry.core.settings import load_section, parse
from tapestry.core.splits import TEST, VALIDATION
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.comparison import relative_change
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranks import ranks_table, read_ranks, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import read_sequences
from tapestry.sessionize.sessionize import DomainInput, sessionize
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.training.loop import Epoch
from tapestry.training.loop import train as train_model
from tapestry.training.settings import TrainSettings

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
KS = (1, 10, 100)
METRICS = ("hr_1", "hr_10", "hr_100", "ndcg_100", "mrr")
VERSUS = ("hstu", "hstu_levers")  # what each recipe is compared with
_HISTORY = (5, 10, 20)  # bounds of the groups by number of interactions before the target
_DECILES = 10

Floats = npt.NDArray[np.float64]


def data(split: str) -> None:
    """Make the sequences of one split, from the raw files."""
    raw = HERE.parents[1] / load_section(str, "path", PARAMS)
    domains = load_section(tuple[str, ...], "domains", PARAMS)
    rows, settings = (
        load_section(IngestSettings, "ingest", PARAMS),
        load_section(SessionizeSettings, "sessionize", PARAMS),
    )
    with atomic_folder(HERE / "data" / split) as folder:
        inputs = {}
        for domain in domains:
            inputs[domain] = DomainInput(folder / f"rows/{domain}.parquet", folder / f"rows/{domain}.json")
            quarantine = folder / f"rows/{domain}.quarantine.parquet"
            file = raw / f"{domain}.json.gz"
            ingest(file, domain, rows, inputs[domain].interactions, quarantine, inputs[domain].counts)
        counts = sessionize(inputs, settings, folder / "sequences")
        write_json(folder / "statistics.json", counts)


def baselines(split: str) -> None:
    """Rank the test targets by each baseline."""
    sequences = read_sequences(HERE / "data" / split / "sequences")
    targets = sequences.targets(TEST)
    with atomic_folder(HERE / "baselines" / split) as folder:
        for name, ranks in rank_baselines(
            sequences, targets, load_section(EvaluateSettings, "evaluate", PARAMS)
        ).items():
            write_ranks(ranks_table(sequences, targets, ranks), folder / f"{name}.parquet")


def train(split: str, recipe: str, seed: str) -> None:
    """Train a recipe, and rank the test targets."""
    changes = read_yaml(PARAMS)["recipes"][recipe]
    model_settings = _changed(ModelSettings, "model", changes["model"])
    settings = _changed(TrainSettings, "train", changes["train"] | {"seed": int(seed)})
    evaluate = load_section(EvaluateSettings, "evaluate", PARAMS)
    sequences = read_sequences(HERE / "data" / split / "sequences")

    def ranked(model: Recommender, part: int) -> Any:
        return rank_by_model(model, sequences, sequences.targets(part), evaluate.exclude_seen, evaluate.batch_users)

    def validate(model: Recommender) -> dict[str, float]:
        return ranking_metrics(ranked(model, VALIDATION).rank, KS)

    def show(epoch: Epoch) -> None:
        print(epoch, flush=True)

    training = train_model(sequences, model_settings, settings, validate, show)
    with atomic_folder(HERE / "runs" / split / recipe / seed) as folder:
        write_json(folder / "training.json", training.record())
        table = ranks_table(sequences, sequences.targets(TEST), ranked(training.model, TEST))
        write_ranks(table, folder / "ranks.parquet")


def results() -> None:
    """Write results.csv, means over seeds and changes with intervals; and breakdown.csv, the same means of groups."""
    rows: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    for split in sorted(path.name for path in (HERE / "runs").iterdir()):
        tables = {path.name: _tables(path) for path in sorted((HERE / "runs" / split).iterdir())}
        tables |= {path.stem: [read_ranks(path)] for path in sorted((HERE / "baselines" / split).glob("*.parquet"))}
        first = tables[VERSUS[0]][0]
        user = np.unique(first["user_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
        values = {name: _values(of_seeds) for name, of_seeds in tables.items()}
        for name, of_metrics in values.items():
            for metric, found in of_metrics.items():
                row = {"split": split, "recipe": name, "metric": metric, "seeds": len(found)}
                row |= {"mean": _short(found.mean()), "sd": _short(found.mean(1).std(ddof=1)) if len(found) > 1 else ""}
                for other in VERSUS:
                    if name == other or len(found) == 1:
                        row |= {f"{part}_{other}": "" for part in ("change", "low", "high")}
                        continue
                    change = relative_change(found, values[other][metric], user)
                    row |= {f"{part}_{other}": _short(value) for part, value in dataclasses.asdict(change).items()}
                rows.append(row)
            for group, inside in _groups(first):
                row = {"split": split, "recipe": name, "group": group, "targets": int(inside.sum())}
                groups.append(row | {metric: _short(of_metrics[metric][:, inside].mean()) for metric in METRICS})
    write_csv(HERE / "results.csv", rows)
    write_csv(HERE / "breakdown.csv", groups)


def show() -> None:
    """Print results.csv as the README's table."""
    with (HERE / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for split in dict.fromkeys(row["split"] for row in rows):
        print(f"\n{split}: mean over seeds; change against hstu_levers in %, with its 95 % interval\n")
        print("| recipe | seeds | HR@10 | HR@100 | NDCG@100 | MRR | HR@100: change | MRR: change |")
        print("|---|---|---|---|---|---|---|---|")
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            found = {row["metric"]: row for row in rows if (row["split"], row["recipe"]) == (split, recipe)}
            means = [
                f"{float(found[metric]['mean']):.4f}".lstrip("0") for metric in ("hr_10", "hr_100", "ndcg_100", "mrr")
            ]
            changes = [_interval(found[metric]) for metric in ("hr_100", "mrr")]
            print(f"| {' | '.join([recipe, found['mrr']['seeds'], *means, *changes])} |")


def _interval(row: Mapping[str, str]) -> str:
    parts = [row[f"{part}_{VERSUS[1]}"] for part in ("change", "low", "high")]
    change, low, high = (f"{100 * float(part):+.1f}" if part else "" for part in parts)
    return f"{change} [{low}, {high}]" if change else ""


def _changed(section: Any, name: str, changes: Mapping[str, Any]) -> Any:
    """Parse a section of params.yaml with a recipe's changes."""
    return parse(section, read_yaml(PARAMS)[name] | dict(changes), name)


def _tables(recipe: Path) -> list[pa.Table]:
    """Read the ranks of each seed."""
    return [read_ranks(seed / "ranks.parquet") for seed in sorted(recipe.iterdir(), key=lambda path: int(path.name))]


def _values(tables: Sequence[pa.Table]) -> dict[str, Floats]:
    """Compute each metric of each seed and target, (S, N)."""
    rank_SN = np.stack([table["rank"].to_numpy() for table in tables])
    hits = {f"hr_{k}": (rank_SN <= k).astype(float) for k in KS}
    return {**hits, "ndcg_100": np.where(rank_SN <= 100, 1 / np.log2(rank_SN + 1), 0.0), "mrr": 1 / rank_SN}


def _groups(table: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield the groups of targets, with which targets are inside."""
    column = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    for domain in sorted(set(column["domain"])):
        yield f"domain {domain}", column["domain"] == domain
    for name, words in (("switch", ("same domain", "other domain")), ("tied", ("untied", "tied"))):
        for value, word in enumerate(words):
            yield word, column[name] == bool(value)
    bounds = (0, *_HISTORY, np.inf)
    for low, high in pairwise(bounds):
        yield f"history above {low}", (column["history"] > low) & (column["history"] <= high)
    order = np.argsort(column["popularity"], kind="stable")
    for number, part in enumerate(np.array_split(order, _DECILES), start=1):
        inside = np.zeros(len(order), dtype=bool)
        inside[part] = True
        yield f"popularity decile {number}", inside
    if (column["popularity"] == 0).any():
        yield "item without training", column["popularity"] == 0


def _short(value: float) -> float:
    return round(float(value), 5)


if __name__ == "__main__":
    commands = {function.__name__: function for function in (data, baselines, train, results, show)}
    with reported_errors(" ".join(sys.argv[1:])):
        commands[sys.argv[1]](*sys.argv[2:])
