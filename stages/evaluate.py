"""Rank every test target in its domain's whole catalogue."""

from pathlib import Path

import _start  # noqa: F401

from tapestry.config import load_parameters
from tapestry.cpu import describe_cpu
from tapestry.data.sequences import TEST, read_sequences
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.storage import load_model
from tapestry.provenance import content_hash
from tapestry.tracking.runs import reported_errors, stage_run
from tapestry.training.device import choose_device, make_deterministic


def main() -> None:
    config = load_parameters().evaluate
    source, folder = Path("data/sequences"), Path("models")
    params = {f"evaluate.{key}": getattr(config, key) for key in ("exclude_seen", "batch_users", "device", "threads")}
    with stage_run("evaluate", params) as run:
        run.tag(input_hash=run.read(source, "evaluation"), model_hash=content_hash(folder), **describe_cpu())
        sequences = read_sequences(source)
        model, _ = load_model(folder, sequences.domains)
        device = choose_device(config.device)
        make_deterministic(0, config.threads)
        targets = sequences.targets(TEST)
        ranks = rank_by_model(model.to(device), sequences, targets, config.exclude_seen, config.batch_users)
        write_ranks(ranks_table(sequences, targets, ranks), Path("metrics/ranks.parquet"))


if __name__ == "__main__":
    with reported_errors("evaluate"):
        main()
