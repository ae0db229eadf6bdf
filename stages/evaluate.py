"""Rank every test target in its domain's whole catalogue and summarise, baselines beside the model."""

from pathlib import Path

import _start  # noqa: F401

from tapestry.atomic import write_csv, write_json
from tapestry.config import flatten, load_parameters
from tapestry.cpu import describe_cpu
from tapestry.data.sequences import TEST, read_sequences
from tapestry.evaluation.breakdowns import cutoff_rows, ranks_table, read_baselines, summarise, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.storage import load_model, load_train_config
from tapestry.provenance import content_hash
from tapestry.tracking.runs import model_run, reported_errors
from tapestry.training.device import choose_device, make_deterministic


def main() -> None:
    config = load_parameters().evaluate
    folder = Path("models")
    sequences = read_sequences(Path("data/sequences"))
    model, domains = load_model(folder, sequences.domains)
    trained = flatten(model.config, "model") | flatten(load_train_config(folder), "train")
    with model_run(content_hash(folder), trained) as run:
        device = choose_device(config.device)
        make_deterministic(0, config.threads)
        targets = sequences.targets(TEST)
        ranks = rank_by_model(model.to(device), sequences, targets, config.exclude_seen, config.batch_users)
        table = ranks_table(sequences, targets, ranks)
        names = [domain.name for domain in domains]
        metrics = summarise(table, config.ks, names)
        baselines = read_baselines(Path("data/baselines"), table)
        metrics["baselines"] = {name: summarise(ranked, config.ks, names)["all"] for name, ranked in baselines.items()}
        write_ranks(table, Path("metrics/ranks.parquet"))
        write_csv(
            Path("metrics/cutoffs.csv"), cutoff_rows({"tapestry": metrics["all"], **metrics["baselines"]}, config.ks)
        )
        write_json(Path("metrics/test.json"), metrics)
        run.log_metrics(metrics, "test")
        run.tag(**{f"test_{name}": value for name, value in describe_cpu().items()})


if __name__ == "__main__":
    with reported_errors("evaluate"):
        main()
