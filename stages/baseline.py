"""Rank the test targets with one baseline: python stages/run.py baseline popularity"""

import os
from pathlib import Path

from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.scripts import load_baseline
from tapestry.baselines.settings import PeerSettings, baseline_settings
from tapestry.core.settings import flatten, load_section
from tapestry.core.splits import TEST
from tapestry.core.stage_argument import stage_argument
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.provenance.hashes import content_hash
from tapestry.sequences.reader import read_sequences
from tapestry.tracking.runs import stage_run


def main(*arguments: str) -> None:
    evaluate, peers = load_section(EvaluateSettings, "evaluate"), load_section(PeerSettings, "peers")
    name = stage_argument(arguments, evaluate.baselines, "evaluate.baselines")
    source, made = Path("data/sequences"), Path(f"data/baselines/{name}.parquet")
    keys = ("exclude_seen", "batch_users", "neighbours", "threads")
    params = {f"evaluate.{key}": getattr(evaluate, key) for key in keys} | flatten(peers, "peers")
    with stage_run(f"baseline@{name}", params) as run:
        run.tag(input_hash=run.log_input(source, "evaluation"))
        os.environ["OMP_NUM_THREADS"] = str(evaluate.threads)  # of torch, if the script loads it
        sequences = read_sequences(source)
        targets = sequences.targets(TEST)
        settings = baseline_settings(evaluate, peers)
        ranks = rank_baseline(name, load_baseline(name), sequences, targets, settings)
        write_ranks(ranks_table(sequences, targets, ranks), made)
        run.tag(data_hash=content_hash(made))
