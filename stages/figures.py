"""Write the figures of data, training and test as small text files, for git, DVC and the report."""

import json
from pathlib import Path

import _start  # noqa: F401

from tapestry.config import load_parameters
from tapestry.evaluation.summary import read_results, write_figures
from tapestry.provenance import content_hash
from tapestry.tracking import model_run, reported_errors


def main() -> None:
    ks = load_parameters().evaluate.ks
    models, metrics = Path("models"), Path("metrics")
    results = read_results(Path("data/statistics.json"), models, metrics / "ranks.parquet", Path("data/baselines"))
    test = write_figures(results, ks, metrics)
    config = json.loads((models / "config.json").read_text(encoding="utf-8"))
    trained = {f"{part}.{key}": value for part in ("model", "train") for key, value in config[part].items()}
    with model_run(content_hash(models), trained) as run:
        run.log_metrics(test, "test")


if __name__ == "__main__":
    with reported_errors("figures"):
        main()
