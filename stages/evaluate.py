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
from tapestry.parallel.launch import joined, launch, launched, require_same
from tapestry.parallel.processes import Processes
from tapestry.parallel.shard import WHOLE
from tapestry.provenance.hashes import content_hash
from tapestry.recommending.examples import example_recommendations
from tapestry.sequences.reader import read_sequences
from tapestry.tracking.runs import stage_run


def main() -> None:
    settings = load_section(EvaluateSettings, "evaluate")
    if settings.processes > 1 and not launched():
        launch(settings.processes, settings.threads, ["stages/run.py", "evaluate"])
        return
    with joined(choose_device(settings.device), settings.processes) as processes:
        evaluate(settings, processes)


def evaluate(settings: EvaluateSettings, processes: Processes) -> None:
    source, folder = Path("data/sequences"), Path("models")
    names = ("exclude_seen", "batch_users", "device", "threads", "processes", "item_table")
    params = {f"evaluate.{key}": getattr(settings, key) for key in names}
    with stage_run("evaluate", params, processes.first) as run:
        input_hash, model_hash = run.log_input(source, "evaluation"), content_hash(folder)
        run.tag(input_hash=input_hash, model_hash=model_hash, **describe_cpu())
        require_same(processes, {"data": input_hash, "model": model_hash, "parameters": params})
        sequences = read_sequences(source)
        sharded = settings.item_table == "sharded"
        model, _ = load_model(folder, sequences.domains, processes.shard if sharded else WHOLE)
        device = choose_device(settings.device)
        make_deterministic(0, settings.threads)
        targets, excluded = sequences.targets(TEST), settings.exclude_seen
        ranks = rank_by_model(model.to(device), sequences, targets, excluded, settings.batch_users, processes)
        if not processes.first:
            return
        made = Path("metrics/ranks.parquet")
        write_ranks(ranks_table(sequences, targets, ranks), made)
        run.tag(data_hash=content_hash(made))
        if sharded:  # the examples are few, and computed on the CPU
            model, _ = load_model(folder, sequences.domains)
        examples = example_recommendations(model, sequences, targets, ranks, settings.exclude_seen)
        write_json(Path("data/examples.json"), examples)
