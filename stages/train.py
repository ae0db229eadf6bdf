"""Train the model, save the weights of the best epoch, and log the validation metrics after each epoch."""

import dataclasses
from importlib.metadata import version
from pathlib import Path

from tapestry.core.checkout import checkout_root
from tapestry.core.cpu import describe_cpu
from tapestry.core.errors import TapestryError
from tapestry.core.settings import flatten, load_section
from tapestry.core.splits import VALIDATION
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.evaluation.validation import validation_figures
from tapestry.model.device import choose_device
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.model.storage import save_model
from tapestry.parallel.launch import joined, launch, launched, require_same
from tapestry.parallel.processes import Processes
from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.sequences.reader import read_sequences
from tapestry.tracking.names import curve_metrics
from tapestry.tracking.runs import stage_run
from tapestry.training.checkpoints import Checkpoints
from tapestry.training.loop import DivergedError, Epoch, train
from tapestry.training.settings import TrainSettings


def main() -> None:
    model_settings, settings = load_section(ModelSettings, "model"), load_section(TrainSettings, "train")
    if settings.launcher == "torchrun" and not launched():
        after_stop = "the next `dvc repro` goes on from a checkpoint"
        launch(settings.processes, settings.threads, ["stages/run.py", "train"], after_stop)
        return
    with joined(choose_device(settings.device), settings.processes) as processes:
        train_and_save(model_settings, settings, processes)


def train_and_save(model_settings: ModelSettings, settings: TrainSettings, processes: Processes) -> None:
    exclude_seen = load_section(EvaluateSettings, "evaluate").exclude_seen
    source, folder = Path("data/sequences"), Path("models")
    params = flatten(model_settings, "model") | flatten(settings, "train") | {"evaluate.exclude_seen": exclude_seen}
    with stage_run("train", params, processes.first) as run:
        data_hash, cpu = run.log_input(source, "training"), describe_cpu()
        run.tag(data_hash=data_hash, **cpu)
        fingerprint = {
            "parameters": {key: params[key] for key in params if key not in ("train.launcher", "train.processes")},
            "data": data_hash,
            "code": code_hash(),
            "packages": {name: version(name) for name in ("torch", "numpy", "scipy")},
            "arithmetic": cpu["cpu_arithmetic"],
        }
        require_same(processes, fingerprint)
        checkpoints = Checkpoints(checkout_root() / "checkpoints", fingerprint, processes)
        sequences = read_sequences(source)
        targets = sequences.targets(VALIDATION)
        recent = sequences.known_counts if model_settings.recent_weight else None

        def validate(model: Recommender) -> dict[str, float]:
            ranks = rank_by_model(model, sequences, targets, exclude_seen, settings.batch_users, processes)
            return validation_figures(sequences, targets, ranks, settings.stop_by)

        def show(epoch: Epoch) -> None:
            run.log_points(curve_metrics(epoch.figures()), epoch.epoch)
            run.log_metrics(epoch.timings(), "train", epoch.epoch)
            if processes.first:
                print(epoch, flush=True)

        try:
            with checkpoints.stopping_at_sigterm():
                training = train(sequences, model_settings, settings, validate, show, checkpoints, processes)
        except DivergedError as error:
            if error.model is None or not processes.first:
                raise
            # Not in the temporary checkout of `dvc exp run --temp`: DVC deletes that.
            last_good = checkout_root() / "models.last_good"
            save_model(last_good, error.model, sequences.domains, dataclasses.asdict(settings), recent=recent)
            raise TapestryError(f"{error}; the best epoch's weights are in {last_good}") from error
        if not processes.first:
            return
        config = dataclasses.asdict(settings)
        save_model(folder, training.model, sequences.domains, config, training.record(), recent)
        checkpoints.remove()
        run.log_metrics({"tokens_per_second": training.tokens_per_second()}, "stage")
        run.tag(model_hash=content_hash(folder))
