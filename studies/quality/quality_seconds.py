"""Times an epoch of some recipes with all levers, in turn, and writes seconds.csv: the medians. One thread."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness import interleaved
from workloads import trainer_of

from tapestry.core.atomic import write_csv
from tapestry.core.yaml_file import read_yaml
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import read_sequences
from tapestry.studies.trials import changed_section
from tapestry.training.settings import TrainSettings

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
TIMED = ("hstu_items", "hybrid_state", "hstu_fewer", "hstu_state_long", "hstu_state_deep", "hybrid_fewer")
ROUNDS = 3


def main() -> None:
    sequences = read_sequences(HERE / "data/leave_one_out/sequences")
    epochs = {}
    for name in TIMED:
        recipe = read_yaml(PARAMS)["recipes"][name]
        model = changed_section(ModelSettings, "model", recipe["model"], PARAMS)
        trainer = trainer_of(sequences, model, changed_section(TrainSettings, "train", recipe["train"], PARAMS))
        epochs[name] = partial(trainer.run, name)
    seconds = interleaved(epochs, ROUNDS, "epochs")
    write_csv(HERE / "seconds.csv", [{"recipe": name, "epoch_s": round(seconds[name], 2)} for name in TIMED])


if __name__ == "__main__":
    main()
