"""Rank the test targets with the baselines: popularity within the domain, at all times and lately, and item-kNN."""

from pathlib import Path

import torch

from tapestry.baselines.baselines import rank_baselines
from tapestry.core.atomic import atomic_folder
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.provenance.hashes import content_hash
from tapestry.sequences.reader import read_sequences
from tapestry.tracking.runs import stage_run


def main() -> None:
    settings = load_section(EvaluateSettings, "evaluate")
    source, folder = Path("data/sequences"), Path("data/baselines")
    params = {
        f"evaluate.{key}": getattr(settings, key) for key in ("exclude_seen", "batch_users", "neighbours", "threads")
    }
    with stage_run("baselines", params) as run:
        run.tag(input_hash=run.log_input(source, "evaluation"))
        torch.set_num_threads(settings.threads)
        sequences = read_sequences(source)
        targets = sequences.targets(TEST)
        with atomic_folder(folder) as temporary:
            for name, ranks in rank_baselines(sequences, targets, settings).items():
                write_ranks(ranks_table(sequences, targets, ranks), temporary / f"{name}.parquet")
        run.tag(data_hash=content_hash(folder))
