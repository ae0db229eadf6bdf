"""Write the figures of data, training and test as small text files, for git, DVC and the report."""

from pathlib import Path

import _start  # noqa: F401

from tapestry.config import load_parameters
from tapestry.evaluation.summary import read_results, write_figures
from tapestry.tracking.runs import reported_errors


def main() -> None:
    ks = load_parameters().evaluate.ks
    models, metrics = Path("models"), Path("metrics")
    results = read_results(Path("data/statistics.json"), models, metrics / "ranks.parquet", Path("data/baselines"))
    write_figures(results, ks, metrics)


if __name__ == "__main__":
    with reported_errors("figures"):
        main()
