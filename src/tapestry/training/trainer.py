"""Training steps: one pass over the training tokens at a time, and the state from which it goes on after a stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import ITEM_WEIGHT, Recommender
from tapestry.model.request_time import PERIODS, period_of
from tapestry.model.tensors import not_finite, pinned, to_device
from tapestry.parallel.processes import ALONE, Processes
from tapestry.sequences.batches import balanced, trained_users, training_batches
from tapestry.sequences.reader import Sequences
from tapestry.training.auxiliary import AuxiliaryTargets
from tapestry.training.checkpoints import weights_state
from tapestry.training.optimizer import Optimizer
from tapestry.training.schedule import schedule_of
from tapestry.training.settings import TrainSettings
from tapestry.training.steps import Step, prefetched, prepare_step

_USERS_NAMED = 10


@dataclass(frozen=True)
class Pass:
    """One pass over the training tokens.

    loss: mean a token, with auxiliary targets. tape_norm: mean |r_i| of TAPE a token, 0 without TAPE. computed:
    positions that attention computed for the tokens, padding included.
    """

    loss: float
    tape_norm: float
    tokens: int
    computed: int
    seconds: float


@dataclass(eq=False)
class _Part:
    """Sums over the steps of a pass so far."""

    steps: int = 0
    loss: float = 0.0
    tape_norm: float = 0.0
    tokens: int = 0
    computed: int = 0
    seconds: float = 0.0


def _nothing() -> None:
    pass


class Trainer:
    """Trains a model in place, one pass over the training tokens at a time.

    Between two steps, the state of a training is that of this object, see `state`, and the `Progress` of its epochs.

    Args:
        processes: those that train the model together. Each computes some histories of every step and holds a shard of
            the item embedding; the rest of the model is the same in all. Gradients are those of the whole step.
    """

    def __init__(
        self, model: Recommender, sequences: Sequences, settings: TrainSettings, processes: Processes = ALONE
    ) -> None:
        self.model, self._sequences, self._settings, self._processes = model, sequences, settings, processes
        self._network = model if processes.count == 1 else _replicated(model)
        self._device = model.item.weight.device
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self._kernel = model.kernel(self._device, train=True)
        self._steps_a_pass = -(-len(trained_users(sequences)) // settings.batch_users)
        steps = settings.epochs * self._steps_a_pass
        self._optimizer = Optimizer(model, settings, schedule_of(settings, self._steps_a_pass), processes)
        self._shuffle = np.random.default_rng(settings.seed)
        self._draws = np.random.default_rng([settings.seed, 1])
        self._auxiliary = AuxiliaryTargets(sequences, model.settings.window, settings, steps)
        self._trained_P = torch.zeros(PERIODS, dtype=torch.bool)  # periods of a target
        if model.trained_until is not None:
            model.trained_until.fill_(sequences.training_counts.last_day)
        self._part = _Part()
        self._shuffled: Mapping[str, Any] = {}
        self._drawn: Mapping[str, Any] = {}

    def set_rate_factor(self, factor: float) -> None:
        """Multiply the learning rate of the steps from here on by a factor, instead of the factor before (1 at first).

        Args:
            factor: beside that of the schedule. A training that goes on from a checkpoint has the factor already.
        """
        self._optimizer.set_rate_factor(factor)

    def run(self, name: str, after_step: Callable[[], None] = _nothing) -> Pass:
        """Train on all training tokens once, or on the rest of a pass that was stopped.

        Args:
            name: labels the progress bar.
            after_step: called after each step but the last; `state` is then that of the pass so far.

        Raises:
            NotFiniteError: the loss, or a weight after the pass, is NaN or infinite.
        """
        part = self._part
        self.model.train()
        resumed_after, started = part.seconds, time.perf_counter()
        steps = prefetched(self._steps_and_draws())
        bar = tqdm(
            steps,
            total=self._steps_a_pass,
            initial=part.steps,
            desc=name,
            unit="step",
            leave=False,
            disable=None if self._processes.first else True,
        )
        with bar:
            for ready, drawn in bar:
                step = to_device(ready, self._device)
                loss = self.step(step)
                if not math.isfinite(loss):
                    raise NotFiniteError(f"step {part.steps + 1}: the loss is {loss}; {self._describe(step)}")
                part.steps += 1
                part.loss += loss * step.tokens
                part.tape_norm += self._processes.sum(float(self.model.tape_norm(step.batch).sum()))
                part.tokens += step.tokens
                part.computed += int(self._processes.sum(step.segments.computed))
                part.seconds = resumed_after + time.perf_counter() - started
                self._drawn = drawn
                bar.set_postfix(loss=f"{part.loss / part.tokens:.4f}")
                if part.steps < self._steps_a_pass:
                    after_step()
        self._optimizer.catch_up_all()
        if self.model.request_time is not None:
            self.model.request_time.fill(self._trained_periods().to(self._device))
        # A loss shows only weights from before its step, and only weights that the step reads.
        told = self._processes.gather(not_finite(self.model.state_dict()))
        broken = ", ".join(dict.fromkeys(filter(None, told)))
        if broken:
            raise NotFiniteError(f"after step {part.steps}: weights are NaN or infinite: {broken}")
        self._part = _Part()
        seconds = resumed_after + time.perf_counter() - started
        return Pass(part.loss / part.tokens, part.tape_norm / part.tokens, part.tokens, part.computed, seconds)

    def state(self) -> dict[str, Any]:
        """Return all that training needs to go on after the last step and to end in the same bytes.

        A tree of dictionaries whose leaves are tensors, not copied, and values for JSON: weights, the optimizers'
        states, the periods that have a target, the sums of the pass so far, and the states of the generators.
        `shuffled` is of the one that orders the users, as of before the pass; `drawn` of the one that draws negatives
        and auxiliary targets, as of after the last step, since a thread may have prepared the step after it. `Rows` are
        of this process's shard. Other processes have the same in all else, and must call this at the same time.
        """
        return {
            "model": weights_state(self.model.state_dict()),
            "optimizer": self._optimizer.state(),
            "trained_periods": self._trained_periods(),
            "part": asdict(self._part),
            "shuffled": self._shuffled if self._part.steps else self._shuffle.bit_generator.state,
            "drawn": self._drawn if self._part.steps else self._draw_state(),
            "torch": _torch_generators(self._device),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the state that `state` has returned; the trainer must have the same model, data and settings."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state(state["optimizer"])
        self._trained_P = state["trained_periods"]
        self._part = _Part(**state["part"])
        self._shuffle.bit_generator.state = state["shuffled"]
        self._draws.bit_generator.state = state["drawn"]["generator"]
        self._auxiliary.step = state["drawn"]["auxiliary_step"]
        _set_torch_generators(self._device, state["torch"])

    def step(self, step: Step) -> float:
        """Do one training step: forward pass, backward pass and update of all weights. Return its loss.

        If the loss is NaN or infinite, the weights are not updated.
        """
        if self._processes.count > 1:  # dropout of this part of this step, whatever the parts before were
            draw = np.random.SeedSequence([self._settings.seed, self._optimizer.steps, self._processes.rank])
            torch.manual_seed(int(draw.generate_state(1)[0]))
        table_UK = self._optimizer.read(step.touched_U)
        with self._autocast:
            query_RK = self._network(step.batch, step.segments, table_UK, step.requests)
        loss = domain_softmax_loss(
            query_RK, table_UK, step.targets, self._settings.temperature, step.weight_R, step.tokens
        )
        value = self._processes.sum(loss.item())
        if math.isfinite(value):
            loss.backward()
            self._optimizer.step()
        return value

    def steps(self) -> Iterator[Step]:
        """Yield the steps of one pass; their tensors are on the CPU."""
        return (step for step, _ in self._steps_and_draws())

    def _steps_and_draws(self) -> Iterator[tuple[Step, dict[str, Any]]]:
        """Yield the steps of one pass, or of the rest of it, each with the state of the draws after it."""
        settings, sequences, window = self._settings, self._sequences, self.model.settings.window
        self._shuffled = self._shuffle.bit_generator.state
        batches = training_batches(sequences, window, settings.batch_users, self._shuffle, self._part.steps)
        for users, batch in batches:
            auxiliary = self._auxiliary.of_next_step(users, batch, self._draws)
            part = None
            if self._processes.count > 1:
                lengths = batch.offsets_B1.diff().numpy()
                part = balanced(lengths, self._processes.count)[self._processes.rank]
            step = prepare_step(
                self.model,
                self._kernel,
                sequences,
                users,
                batch,
                settings.negatives,
                self._draws,
                auxiliary,
                part,
                settings.own_items_as_negatives,
            )
            self._trained_P[period_of(step.requests.time_R)] = True
            yield pinned(step) if self._device.type == "cuda" else step, self._draw_state()

    def _trained_periods(self) -> Tensor:
        """Return the periods that have a target in any process."""
        return self._processes.add(self._trained_P.long()) > 0

    def _draw_state(self) -> dict[str, Any]:
        return {"generator": self._draws.bit_generator.state, "auxiliary_step": self._auxiliary.step}

    def _describe(self, step: Step) -> str:
        """Return the step's users, and the largest norms, for the message about a loss that isn't finite."""
        users = [str(self._sequences.user_id[user]) for user in step.users[:_USERS_NAMED]]
        more = f" and {len(step.users) - len(users)} more" if len(step.users) > len(users) else ""
        norms = {name: float(parameter.detach().norm()) for name, parameter in self.model.named_parameters()}
        largest = ", ".join(f"{name} {norms[name]:.3g}" for name in sorted(norms, key=norms.__getitem__)[-3:])
        tape = float(self.model.tape_norm(step.batch).max())
        return f"users {', '.join(users)}{more}; TAPE's |r| is at most {tape:.3g}; largest norms: {largest}"


class NotFiniteError(Exception):
    """A loss or weights aren't finite; the message describes them."""


def _replicated(model: Recommender) -> nn.Module:
    """Wrap a model, so that backward passes add up the gradients of all processes, but for those of item rows."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [ITEM_WEIGHT])
    wrapped = DistributedDataParallel(model)

    def add_up(_state, bucket):  # type: ignore[no-untyped-def]  # torch refuses annotations that are text
        """Sum gradients; by default torch would return their mean."""
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    wrapped.register_comm_hook(None, add_up)
    return wrapped


def _torch_generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's default generators, which dropout uses."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _set_torch_generators(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
