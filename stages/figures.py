"""Write the metrics of data, training and test as small text files, for git, DVC and the report."""

from pathlib import Path

from tapestry.core.settings import load_section
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.figures.summary import read_results, write_figures


def main() -> None:
    settings = load_section(EvaluateSettings, "evaluate")
    models, metrics = Path("models"), Path("metrics")
    baselines = Path("data/baselines")
    ranks = metrics / "ranks.parquet"
    results = read_results(Path("data/statistics.json"), models, ranks, baselines, settings.baselines)
    write_figures(results, settings.ks, settings.sampled_negatives, metrics)
