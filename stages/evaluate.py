"""Rank every test target among all items of its domain, and recommend for a few of them."""

from pathlib import Path

from tapestry.core.atomic import write_json
from tapestry.core.cpu import describe_cpu
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.storage import load_model
from tapestry.provenance.hashes import content_hash
from tapestry.recommending.examples import example_recommendations
from tapestry.sequences.reader import read_sequences
from tapestry.tracking.runs import stage_run


def main() -> None:
    settings = load_section(EvaluateSettings, "evaluate")
    source, folder = Path("data/sequences"), Path("models")
    params = {f"evaluate.{key}": getattr(settings, key) for key in ("exclude_seen", "batch_users", "device", "threads")}
    with stage_run("evaluate", params) as run:
        run.tag(input_hash=run.log_input(source, "evaluation"), model_hash=content_hash(folder), **describe_cpu())
        sequences = read_sequences(source)
        model, _ = load_model(folder, sequences.domains)
        device = choose_device(settings.device)
        make_deterministic(0, settings.threads)
        targets = sequences.targets(TEST)
        ranks = rank_by_model(model.to(device), sequences, targets, settings.exclude_seen, settings.batch_users)
        write_ranks(ranks_table(sequences, targets, ranks), Path("metrics/ranks.parquet"))
        examples = example_recommendations(model, sequences, targets, ranks, settings.exclude_seen)
        write_json(Path("data/examples.json"), examples)
