"""Times an epoch of each recipe, in turn, and writes seconds.csv: the medians. One thread."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness import interleaved
from workloads import trainer_of

from tapestry.core.atomic import write_csv
from tapestry.core.yaml_file import read_yaml
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import read_sequences
from tapestry.studies.controlled import PARAMS, SHARED
from tapestry.studies.trials import changed_section
from tapestry.training.settings import TrainSettings

ROUNDS = 2


def main() -> None:
    sequences = read_sequences(Path("data/long/sequences"))
    epochs = {}
    for name, recipe in read_yaml(PARAMS)["recipes"].items():
        model = changed_section(ModelSettings, "model", recipe["model"], SHARED)
        trainer = trainer_of(sequences, model, changed_section(TrainSettings, "train", recipe["train"], SHARED))
        epochs[name] = partial(trainer.run, name)
    seconds = interleaved(epochs, ROUNDS, "epochs")
    write_csv(Path("seconds.csv"), [{"recipe": name, "epoch_s": round(seconds[name], 2)} for name in epochs])


if __name__ == "__main__":
    main()
