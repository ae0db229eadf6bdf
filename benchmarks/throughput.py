"""Training throughput beside RecTools' SASRec and HSTU on one split: python throughput.py [FOLDER]

FOLDER holds the sequences, `data/sequences` by default. All models train with the same width, layers, heads, window
and users a batch. The paper's model and HSTU + ALiBi have a full softmax as the peers have, theirs over the whole
catalogue, ours over the target's domain, as each model ranks; `quality.py` measures the ranking quality of these
trainings. The default recipe trains as `params.yaml` says, with fewer negatives and auxiliary targets; beside it are
the same without DDSR, and HSTU + ALiBi trained in the same way. A figure is tokens a second, of a pass of ours and of
a few batches of theirs, measured in turn. A token is a position with a target.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
from pathlib import Path

from harness import against, report
from peer import NAMES, case_of, finish_training, start_training
from workloads import PARAMETERS, model_settings, train_settings, trainer_of

from tapestry.baselines.rectools_models import export
from tapestry.core.splits import TEST
from tapestry.sequences.reader import read_sequences

TURNS = int(os.environ.get("TURNS", "5"))
PEER_BATCHES = 6


def main(folder: Path) -> None:
    sequences = read_sequences(folder)
    default, full_softmax = PARAMETERS.train, train_settings(negatives=None)
    hstu = model_settings(False)
    models = {
        "ours": (model_settings(True), full_softmax),
        "ours: HSTU + ALiBi": (hstu, full_softmax),
        "ours: default recipe": (PARAMETERS.model, default),
        "ours: default recipe without DDSR": (dataclasses.replace(PARAMETERS.model, ddsr=False), default),
        "ours: HSTU + ALiBi, trained as the default recipe": (dataclasses.replace(hstu, request_time=True), default),
    }
    trainers = {name: trainer_of(sequences, *settings) for name, settings in models.items()}
    rates: dict[str, list[float]] = {name: [] for name in (*trainers, *NAMES)}
    with tempfile.TemporaryDirectory() as temporary:
        data, path = Path(temporary, "data.npz"), Path(temporary, "report.json")
        export(sequences, sequences.targets(TEST), data)
        for turn in range(TURNS):
            for name, trainer in trainers.items():
                passed = trainer.run(f"{name}, turn {turn + 1}")
                rates[name].append(passed.tokens / passed.seconds)
            for name in NAMES:
                # The second of two epochs is timed: the first one includes the start-up of the process.
                figures = finish_training(start_training(name, data, path, epochs=2, batches=PEER_BATCHES), path)
                rates[name].append(figures["tokens"] / figures["seconds"][1])
            print(
                f"turn {turn + 1} of {TURNS}: " + ", ".join(f"{n} {r[-1]:,.0f} tokens/s" for n, r in rates.items()),
                flush=True,
            )
    median = {name: statistics.median(rate) for name, rate in rates.items()}
    rows = [
        against(f"{case_of(sequences)}; 100,000 tokens", name, 1e5 / median["ours"], 1e5 / rate, tokens_per_second=rate)
        for name, rate in median.items()
    ]
    report("throughput", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("data/sequences"))
