"""Train the model, keep the best epoch's weights, log the validation curve as it goes."""

from pathlib import Path

import _start  # noqa: F401

from tapestry.checkout import checkout_root
from tapestry.config import flatten, load_parameters
from tapestry.cpu import describe_cpu
from tapestry.data.sequences import VALIDATION, read_sequences
from tapestry.errors import TapestryError
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.model.storage import save_model
from tapestry.provenance import content_hash
from tapestry.tracking.names import curve_metrics
from tapestry.tracking.runs import reported_errors, stage_run
from tapestry.training.loop import DivergedError, Epoch, train

KS = (1, 10, 100)


def main() -> None:
    parameters = load_parameters()
    exclude_seen = parameters.evaluate.exclude_seen
    source, folder = Path("data/sequences"), Path("models")
    params = flatten(parameters.model, "model") | flatten(parameters.train, "train")
    with stage_run("train", params | {"evaluate.exclude_seen": exclude_seen}) as run:
        run.tag(data_hash=run.read(source, "training"), **describe_cpu())
        sequences = read_sequences(source)
        targets = sequences.targets(VALIDATION)

        def validate(model: Recommender) -> dict[str, float]:
            ranks = rank_by_model(model, sequences, targets, exclude_seen, parameters.train.batch_users)
            return ranking_metrics(ranks.rank, KS)

        def show(epoch: Epoch) -> None:
            run.log_points(curve_metrics(epoch.figures()), epoch.epoch)
            run.log_metrics(epoch.timings(), "train", epoch.epoch)
            print(epoch, flush=True)

        try:
            training = train(sequences, parameters.model, parameters.train, validate, show)
        except DivergedError as error:
            if error.model is None:
                raise
            last_good = checkout_root() / "models.last_good"  # a temporary checkout would take it along
            save_model(last_good, error.model, sequences.domains, parameters.train)
            raise TapestryError(f"{error}; the best epoch's weights are in {last_good}") from error
        save_model(folder, training.model, sequences.domains, parameters.train, training.record())
        run.log_metrics({"tokens_per_second": training.tokens_per_second()}, "stage")
        run.tag(model_hash=content_hash(folder))


if __name__ == "__main__":
    with reported_errors("train"):
        main()
