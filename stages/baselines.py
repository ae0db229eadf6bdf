"""Rank the test targets by popularity within the domain and by item-kNN."""

from pathlib import Path

import _start  # noqa: F401
import torch

from tapestry.atomic import atomic_folder
from tapestry.config import load_parameters
from tapestry.data.sequences import TEST, read_sequences
from tapestry.evaluation.baselines import rank_baselines
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.provenance import content_hash
from tapestry.tracking.runs import reported_errors, stage_run


def main() -> None:
    config = load_parameters().evaluate
    source, folder = Path("data/sequences"), Path("data/baselines")
    params = {
        f"evaluate.{key}": getattr(config, key) for key in ("exclude_seen", "batch_users", "neighbours", "threads")
    }
    with stage_run("baselines", params) as run:
        run.tag(input_hash=run.read(source, "evaluation"))
        torch.set_num_threads(config.threads)
        sequences = read_sequences(source)
        targets = sequences.targets(TEST)
        with atomic_folder(folder) as temporary:
            for name, ranks in rank_baselines(sequences, targets, config).items():
                write_ranks(ranks_table(sequences, targets, ranks), temporary / f"{name}.parquet")
        run.tag(data_hash=content_hash(folder))


if __name__ == "__main__":
    with reported_errors("baselines"):
        main()
