"""Training learns, stops early, repeats itself to the byte, and stops if the loss or a weight is NaN."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from small import WHOLE_MODEL, quick_training, random_sequences, recent_count, sequences_of

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.device import choose_device
from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender
from tapestry.model.request_time import Requests
from tapestry.model.segments import Kernel
from tapestry.parameters import Parameters
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.sequences.reader import Sequences
from tapestry.training import trainer
from tapestry.training.loop import DivergedError, Epoch, Training, train
from tapestry.training.optimizer import NetworkAdam
from tapestry.training.settings import TrainSettings

MODEL = dataclasses.replace(WHOLE_MODEL, width=16, state_dim=16, dropout=0.0)


@pytest.fixture
def settings(parameters: Parameters) -> TrainSettings:
    return quick_training(parameters)


def trained(sequences: Sequences, settings: TrainSettings, dropout: float = 0.0) -> Training:
    model_settings = dataclasses.replace(MODEL, dropout=dropout)
    targets = sequences.targets(VALIDATION)

    def validate(model: Recommender) -> dict[str, float]:
        return ranking_metrics(rank_by_model(model, sequences, targets, False, 16).rank, [1, 10, 100])

    return train(sequences, model_settings, settings, validate, lambda epoch: None)


def cyclic_sequences() -> Sequences:
    """In each of two domains a user's items follow a cycle; the domain of an interaction is random."""
    generator = np.random.default_rng(0)
    histories = []
    for _ in range(48):
        following = generator.integers(0, 10, 2)
        history = []
        for domain in generator.integers(0, 2, 14):
            history.append(int(10 * domain + following[domain]))
            following[domain] = (following[domain] + 1) % 10
        histories.append(history)
    return sequences_of(histories, [0] * 10 + [1] * 10)


def test_training_overfits_a_planted_pattern(settings: TrainSettings) -> None:
    sequences = cyclic_sequences()
    training = trained(
        sequences, dataclasses.replace(settings, epochs=60, patience=60, learning_rate=0.02, batch_users=16)
    )
    targets = sequences.targets(TEST)
    ranks = rank_by_model(training.model, sequences, targets, False, 16)
    known = np.array(
        [
            sequences.domain[target] in sequences.domain[sequences.offsets[sequences.user[target]] : target]
            for target in targets
        ]
    )
    assert (ranks.rank[known] == 1).mean() > 0.9


def test_two_trainings_give_the_same_bytes_and_another_seed_gives_other_weights(settings: TrainSettings) -> None:
    sequences = random_sequences(1, users=40)
    first, second = (trained(sequences, settings, dropout=0.3) for _ in range(2))
    other = trained(sequences, dataclasses.replace(settings, seed=settings.seed + 1), dropout=0.3)
    assert [epoch.figures() for epoch in first.epochs] == [epoch.figures() for epoch in second.epochs]
    for name, tensor in first.model.state_dict().items():
        assert tensor.numpy().tobytes() == second.model.state_dict()[name].numpy().tobytes()
    assert not torch.equal(first.model.item.weight, other.model.item.weight)


def test_targets_between_training_interactions_are_not_trained_on(settings: TrainSettings) -> None:
    """Weights are those of the same users without their targets, wherever these stand."""
    sequences = random_sequences(2, users=30)
    generator = np.random.default_rng(0)
    shuffled = [generator.permutation(sequences.split[sequences.user == user]).tolist() for user in range(30)]
    items = [sequences.item[sequences.user == user].tolist() for user in range(30)]
    days = [sequences.timestamp[sequences.user == user].tolist() for user in range(30)]
    domain_of_item = np.repeat(range(3), [domain.end - domain.start for domain in sequences.domains]).tolist()
    holes = sequences_of(items, domain_of_item, days, shuffled)
    at_the_end = [np.argsort(split, kind="stable").tolist() for split in shuffled]

    def in_order(of: list[list[int]]) -> list[list[int]]:
        return [[values[place] for place in order] for values, order in zip(of, at_the_end, strict=True)]

    prefixes = sequences_of(in_order(items), domain_of_item, in_order(days), in_order(shuffled))
    settings = dataclasses.replace(settings, refit="none", patience=settings.epochs)
    first, second = trained(holes, settings), trained(prefixes, settings)
    assert [epoch.training.loss for epoch in first.epochs] == [epoch.training.loss for epoch in second.epochs]
    assert any(split != sorted(split) for split in shuffled)


def trainer_of(sequences: Sequences, settings: TrainSettings) -> trainer.Trainer:
    torch.manual_seed(0)
    return trainer.Trainer(Recommender(MODEL, sequences.items, len(sequences.domains)), sequences, settings)


@pytest.mark.parametrize("own_items_as_negatives", [True, False])
@pytest.mark.parametrize("kind", ["domains", "items"])
def test_a_steps_loss_has_the_auxiliary_targets_at_their_weight(
    settings: TrainSettings, kind: Any, own_items_as_negatives: bool
) -> None:
    """Probability 0.5 would draw half of them at twice the weight; with 1, all are drawn and the loss is known."""
    sequences = random_sequences(4, users=6)
    settings = dataclasses.replace(
        settings,
        auxiliary=kind,
        auxiliary_rate=1.0,
        auxiliary_weight=0.3,
        own_items_as_negatives=own_items_as_negatives,
    )
    trainer = trainer_of(sequences, settings)
    step = next(trainer.steps())
    model = trainer.model.train()
    items = torch.nn.functional.normalize(model.item.weight.detach(), dim=1).double()
    batch = dataclasses.replace(step.batch, item_N=step.touched_U[step.batch.item_N])
    position, lengths = batch.position_N.tolist(), batch.offsets_B1.diff().tolist()
    user_of = np.repeat(step.users, lengths)

    def loss_of(token: int, target: int) -> float:
        start, length = sequences.offsets[user_of[token]], sequences.train_length[user_of[token]]
        left_out = set() if own_items_as_negatives else set(sequences.item[start : start + length].tolist())
        left_out -= {int(sequences.item[target])}
        asked = (step.segments.inverse_N[token].item(), sequences.domain[target], sequences.timestamp[target])
        with torch.no_grad():
            query = model(batch, step.segments, requests=Requests(*(torch.tensor([int(x)]) for x in asked)))[0].double()
        domain = sequences.domains[sequences.domain[target]]
        time = int(sequences.timestamp[target])
        recent = {
            item: model.settings.recent_weight * math.log(1 + recent_count(sequences, item, time, (TRAIN,)))
            for item in range(domain.start, domain.end)
        }
        scores = {
            item: (items[item] @ query + recent[item]) / settings.temperature
            for item in range(domain.start, domain.end)
            if sequences.train_count[item] > 0 and item not in left_out
        }
        return float(torch.stack(list(scores.values())).logsumexp(0) - scores[int(sequences.item[target])])

    total = 0.0
    for token, user in enumerate(user_of):
        index = int(sequences.offsets[user]) + position[token]
        later = range(index + 2, int(sequences.offsets[user] + sequences.train_length[user]))
        firsts: dict[int, int] = {}
        for other in later:
            firsts.setdefault(int(sequences.domain[other]), other)
        firsts.pop(int(sequences.domain[index + 1]), None)
        auxiliary = firsts.values() if kind == "domains" else later[:3]
        total += loss_of(token, index + 1) + 0.3 * sum(loss_of(token, other) for other in auxiliary)
    assert trainer.step(step) == pytest.approx(total / len(user_of), rel=1e-5)


def test_auxiliary_targets_fade_out_and_their_weight_makes_up_for_the_rate(settings: TrainSettings) -> None:
    sequences = random_sequences(4, users=300, longest=30)
    settings = dataclasses.replace(settings, auxiliary="items", epochs=1, batch_users=10)
    trainer = trainer_of(sequences, settings)
    steps = list(trainer.steps())
    shares = [len(step.requests.token_R) / len(step.batch.item_N) - 1 for step in steps]
    assert len(steps) == 30
    assert np.mean(shares[:15]) == pytest.approx(0.5 * 2.6, rel=0.1)  # a few tokens have fewer than 3 later items
    assert np.mean(shares[22:24]) == pytest.approx(0.25 * 2.6, rel=0.3)
    assert shares[-1] == 0
    (weight,) = {float(step.weight_R[-1]) for step in steps[:15] if step.weight_R is not None}
    assert weight == pytest.approx(0.3 / 0.5)


def test_a_model_learns_what_is_chosen_in_each_period(settings: TrainSettings) -> None:
    """In period p everybody chooses item p. A history tells only which periods are over."""
    day = 86_400_000
    generator = np.random.default_rng(0)
    histories = [sorted(generator.choice(7, 3, replace=False).tolist()) for _ in range(60)]
    times = [[day * (30 * item + int(generator.integers(0, 30))) for item in history] for history in histories]
    split = [[0, 0, 0]] * 59 + [[0, 0, 2]]
    sequences = sequences_of(histories, [0] * 7, times, split)
    trainer = trainer_of(sequences, dataclasses.replace(settings, learning_rate=0.02))
    for _ in range(30):
        trainer.run("")
    for item in range(max(histories[-1][:2]) + 1, 7):
        for days in (30 * item + 3, 500) if item == 6 else (30 * item + 3,):  # later times are as the last trained one
            sequences.item[-1], sequences.timestamp[-1] = item, day * days
            assert rank_by_model(trainer.model, sequences, sequences.targets(TEST), False, 8).rank.tolist() == [1]


def test_refit_trains_anew_on_validation_too_for_the_best_epochs_number(settings: TrainSettings) -> None:
    sequences = random_sequences(2, users=20)

    def fit(sequences: Sequences, figures: list[float], **changes: Any) -> Training:
        left = iter(figures)
        validate = lambda model: {"ndcg_10": next(left), "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}  # noqa: E731
        return train(sequences, MODEL, dataclasses.replace(settings, **changes), validate, lambda epoch: None)

    figures = [0.1, 0.3, 0.2]
    refit = fit(sequences, figures, refit="validation")
    plain = fit(sequences, figures)
    alone = fit(sequences.with_validation_trained(), [0.1, 0.2, 0.1])
    assert [epoch.figures() for epoch in refit.epochs] == [epoch.figures() for epoch in plain.epochs]
    assert refit.best.epoch == alone.best.epoch == 2
    for name, tensor in refit.model.state_dict().items():
        assert torch.equal(tensor, alone.model.state_dict()[name])
    assert not torch.equal(refit.model.item.weight, plain.model.item.weight)


@pytest.mark.parametrize(("refit", "splits"), [("none", (TRAIN,)), ("validation", (TRAIN, VALIDATION))])
def test_a_model_with_recent_counts_knows_when_its_training_data_end(
    settings: TrainSettings, refit: Any, splits: tuple[int, ...]
) -> None:
    sequences = random_sequences(5, users=30)
    of_training = max(
        int(time) // 86_400_000
        for time, split in zip(sequences.timestamp, sequences.split, strict=True)
        if split in splits
    )
    settings = dataclasses.replace(settings, epochs=1, refit=refit)
    model = train(sequences, WHOLE_MODEL, settings, lambda _: {"ndcg_10": 1.0}, lambda _: None).model
    assert model.trained_until is not None
    assert int(model.trained_until) == of_training


@pytest.mark.parametrize("refit", ["none", "validation"])
def test_a_model_has_the_neighbours_of_what_it_was_trained_on(settings: TrainSettings, refit: Any) -> None:
    sequences = random_sequences(5, users=30)
    settings = dataclasses.replace(settings, epochs=1, refit=refit)
    model = train(sequences, WHOLE_MODEL, settings, lambda _: {"ndcg_10": 1.0}, lambda _: None).model
    assert model.neighbours is not None
    trained = sequences if refit == "none" else sequences.with_validation_trained()
    np.testing.assert_array_equal(model.neighbours.item_IK, neighbours_of(trained).item_IK)
    np.testing.assert_array_equal(model.neighbours.similarity_IK, neighbours_of(trained).similarity_IK)
    without = dataclasses.replace(WHOLE_MODEL, neighbour_weight=0.0)
    assert train(sequences, without, settings, lambda _: {"ndcg_10": 1.0}, lambda _: None).model.neighbours is None


def test_a_nan_in_the_refit_is_an_error_that_says_so(settings: TrainSettings) -> None:
    settings = dataclasses.replace(settings, epochs=1, refit="validation")
    sequences = random_sequences(2, users=20)
    started: list[str] = []
    run = trainer.Trainer.run

    def broken(self: trainer.Trainer, name: str, after_step: Any) -> Any:
        started.append(name)
        if name.startswith("refit"):
            self.model.item.weight.data[0, 0] = math.nan
        return run(self, name, after_step)

    with (
        patch.object(trainer.Trainer, "run", broken),
        pytest.raises(DivergedError, match=r"epoch 1 of the refit, .*(the loss is nan|weights are NaN)") as failure,
    ):
        trained(sequences, settings)
    assert started == ["epoch 1/1", "refit 1/1"]
    assert failure.value.model is not None


def test_training_stops_early_and_keeps_the_best_epochs_weights(settings: TrainSettings) -> None:
    sequences = random_sequences(2, users=20)
    figures = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2])
    weights: list[torch.Tensor] = []
    shown: list[Epoch] = []

    def validate(model: Recommender) -> dict[str, float]:
        weights.append(model.item.weight.detach().clone())
        return {"ndcg_10": next(figures), "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}

    training = train(sequences, MODEL, dataclasses.replace(settings, epochs=7, patience=3), validate, shown.append)
    assert [epoch.epoch for epoch in training.epochs] == [1, 2, 3, 4, 5]
    assert shown == list(training.epochs)
    record = training.record()
    assert record["curve"] == [epoch.figures() for epoch in shown]
    assert record["summary"]["best"] in record["curve"]
    assert record["summary"]["final"] == record["curve"][-1]
    assert training.best.epoch == 2
    assert torch.equal(training.model.item.weight, weights[1])
    assert not torch.equal(weights[1], weights[-1])


def test_a_training_is_stopped_by_the_figure_of_its_settings_and_its_line_shows_it(settings: TrainSettings) -> None:
    """NDCG@10 gets better with each epoch, MRR over domains is best in the second."""
    figures = iter([0.1, 0.3, 0.2, 0.2, 0.2])
    shown: list[Epoch] = []

    def validate(model: Recommender) -> dict[str, float]:
        ndcg = 0.1 * (1 + len(shown))
        return {"ndcg_10": ndcg, "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0, "domain_mrr": next(figures)}

    settings = dataclasses.replace(settings, epochs=9, patience=3, stop_by="domain_mrr")
    training = train(random_sequences(2, users=20), MODEL, settings, validate, shown.append)
    assert (training.best.epoch, len(training.epochs)) == (2, 5)
    assert ", ndcg_10 0.2000, mrr 0.0000, domain_mrr 0.3000; " in str(training.best)
    assert training.record()["summary"]["best"]["domain_mrr"] == 0.3


@pytest.mark.parametrize("refit", ["none", "validation"])
def test_the_learning_rate_warms_up_and_falls_when_the_stopping_figure_gets_no_better(
    settings: TrainSettings, refit: Any
) -> None:
    """3 steps an epoch. The figure is best in epoch 5; epochs 3 and 4 and epochs 6 and 7 bring no better one."""
    figures = iter([0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.1, 0.2])
    rates: list[float] = []
    step = NetworkAdam.step

    def recorded(self: NetworkAdam, learning_rate: float) -> None:
        rates.append(learning_rate)
        step(self, learning_rate)

    def validate(model: Recommender) -> dict[str, float]:
        return {"ndcg_10": 0.1, "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0, "hr_3": next(figures)}

    settings = dataclasses.replace(
        settings,
        epochs=8,
        patience=8,
        stop_by="hr_3",
        schedule="plateau",
        warmup_epochs=2,
        plateau_factor=0.5,
        plateau_patience=1,
        refit=refit,
        learning_rate=0.01,
    )
    with patch.object(NetworkAdam, "step", recorded):
        best = train(random_sequences(2, users=20), MODEL, settings, validate, lambda epoch: None).best.epoch
    assert best == 5
    expected = [0.01 * number / 6 for number in range(1, 7)] + [0.01] * 6 + [0.005] * 9 + [0.0025] * 3
    assert rates == pytest.approx(expected + (expected[:15] if refit == "validation" else []))


def test_a_nan_loss_is_an_error_with_the_users_and_the_largest_norms(settings: TrainSettings) -> None:
    expected = r"epoch 1, step \d+: the loss is nan; users u\d+, .*TAPE's \|r\| is at most .*; largest norms: "
    with pytest.raises(DivergedError, match=expected) as failure:
        trained(random_sequences(3), dataclasses.replace(settings, learning_rate=1e30))
    assert failure.value.model is None


def test_a_nan_loss_in_a_later_epoch_leaves_the_best_epochs_weights(settings: TrainSettings) -> None:
    sequences = random_sequences(3, users=30)
    spoiled: list[bool] = []

    def validate(model: Recommender) -> dict[str, float]:
        return {"ndcg_10": 1.0, "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}

    def loss(*args: Any) -> torch.Tensor:
        return domain_softmax_loss(*args) * (math.nan if spoiled else 1.0)

    best = train(sequences, MODEL, dataclasses.replace(settings, epochs=1), validate, lambda epoch: None).model
    with (
        patch.object(trainer, "domain_softmax_loss", loss),
        pytest.raises(DivergedError, match="epoch 3, step 1: the loss is nan") as failure,
    ):
        train(sequences, MODEL, settings, validate, lambda epoch: spoiled.append(True) if epoch.epoch == 2 else None)
    assert failure.value.model is not None
    assert failure.value.model.neighbours is not None  # else the saved model couldn't be read
    for name, tensor in failure.value.model.state_dict().items():
        assert torch.equal(tensor, best.state_dict()[name])


def test_an_update_that_breaks_the_weights_in_the_only_step_is_an_error(settings: TrainSettings) -> None:
    """The loss of that step is finite, and no later loss reads the broken weights."""
    overflowing = dataclasses.replace(settings, epochs=1, batch_users=100, temperature=1e-36, learning_rate=1000.0)
    with pytest.raises(
        DivergedError, match=r"epoch 1, after step 1: weights are NaN or infinite: .*item.weight"
    ) as failure:
        trained(random_sequences(3), overflowing)
    assert failure.value.model is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("epochs", [2, 3])
def test_a_weight_broken_by_an_epochs_last_step_leaves_the_epoch_before(
    settings: TrainSettings, epochs: int, value: float
) -> None:
    """The weight is of an item without training interactions: no loss reads it."""
    sequences = sequences_of([[0, 1, 0, 1, 2]] * 20, [0] * 3)
    settings = dataclasses.replace(settings, epochs=epochs, negatives=1)
    broken: list[bool] = []
    saved: list[torch.Tensor] = []
    step = trainer.Trainer.step

    def breaking(self: trainer.Trainer, ready: Any) -> float:
        loss = step(self, ready)
        if broken:
            self.model.item.weight.data[2, 3] = value
        return loss

    def validate(model: Recommender) -> dict[str, float]:
        saved.append(model.item.weight.detach().clone())
        return {"ndcg_10": float(len(saved)), "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}

    with (
        patch.object(trainer.Trainer, "step", breaking),
        pytest.raises(
            DivergedError, match=rf"epoch {epochs}, after step 3: .* infinite: item.weight \(1 of 48\); "
        ) as failure,
    ):
        train(sequences, MODEL, settings, validate, lambda e: broken.append(True) if e.epoch == epochs - 1 else None)
    assert failure.value.model is not None
    assert torch.equal(failure.value.model.item.weight, saved[-1])
    assert len(saved) == epochs - 1


def test_bf16_trains_to_nearly_the_same_loss(settings: TrainSettings) -> None:
    """Only matrix products are rounded to 8 bits; weights, moments and the loss are in fp32."""
    sequences = cyclic_sequences()
    exact, rounded = (
        trained(sequences, dataclasses.replace(settings, epochs=5, precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert exact.best.training.loss != rounded.best.training.loss
    assert exact.epochs[-1].training.loss == pytest.approx(rounded.epochs[-1].training.loss, rel=0.02)
    assert {parameter.dtype for parameter in rounded.model.parameters()} == {torch.float32}


def test_the_reference_kernel_gives_the_same_losses(settings: TrainSettings) -> None:
    sequences = random_sequences(6, users=30)
    targets = sequences.targets(VALIDATION)

    def validate(model: Recommender) -> dict[str, float]:
        return ranking_metrics(rank_by_model(model, sequences, targets, False, 16).rank, [1, 10, 100])

    kernels: list[Kernel] = ["tiled", "reference"]
    losses = []
    for kernel in kernels:
        model = dataclasses.replace(MODEL, kernel=kernel)
        epochs = train(sequences, model, settings, validate, lambda epoch: None).epochs
        losses.append([epoch.training.loss for epoch in epochs])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_kernel_that_cannot_train_here_is_an_error_before_training(settings: TrainSettings) -> None:
    model = dataclasses.replace(MODEL, kernel="triton")
    with pytest.raises(TapestryError, match=r"model\.kernel: triton can't run here .*: auto, reference, tiled"):
        train(random_sequences(3), model, settings, lambda model: {}, lambda epoch: None)


def test_an_epoch_has_its_speed_and_the_share_of_padding_in_attention(settings: TrainSettings) -> None:
    sequences = random_sequences(8, users=20)
    epoch = trained(sequences, settings).epochs[0]
    trained_items = [int((sequences.split[a:b] == 0).sum()) for a, b in pairwise(sequences.offsets.tolist())]
    tokens = sum(items - 1 for items in trained_items if items >= 2)
    assert epoch.training.tokens == tokens <= epoch.training.computed
    timings = epoch.timings()
    assert timings["useful_tokens"] == tokens / epoch.training.computed
    assert timings["tokens_per_second"] == tokens / timings["seconds"]


def test_nothing_to_learn_from_is_an_error(settings: TrainSettings) -> None:
    sequences = sequences_of([[0, 1, 2]], [0, 0, 0])
    with pytest.raises(TapestryError, match="no user has two training interactions"):
        trained(sequences, settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_an_error() -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(TapestryError, match="no CUDA device"):
        choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_trains_on_cuda(settings: TrainSettings) -> None:
    training = trained(random_sequences(4), dataclasses.replace(settings, device="auto"))
    assert choose_device("auto").type == "cuda"
    assert training.model.item.weight.device.type == "cpu"


def test_training_and_loading_a_model_do_not_import_torchs_compiler(params_yaml: Path, tmp_path: Path) -> None:
    """It takes as long as to import torch. An import of a module that is None fails."""
    script = f"""
import dataclasses, sys
sys.modules["torch._dynamo"] = None
from pathlib import Path
from small import WHOLE_MODEL, random_sequences
from tapestry.model.device import make_deterministic
from tapestry.model.storage import load_model, save_model
from tapestry.parameters import load_parameters
from tapestry.training.loop import train
sequences = random_sequences(0)
make_deterministic(0, 1)
settings = dataclasses.replace(load_parameters(Path({str(params_yaml)!r})).train, epochs=2, threads=1, device="cpu")
training = train(sequences, WHOLE_MODEL, settings, lambda model: {{"ndcg_10": 0.5}}, lambda epoch: None)
save_model(Path({str(tmp_path / "models")!r}), training.model, sequences.domains, {{}})
load_model(Path({str(tmp_path / "models")!r}))
"""
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": paths})
