"""Auxiliary targets: later interactions that a token also has to predict, beside the one that follows it.

    L = 1/N Σ_i [ ℓ(q_i(t_{i+1}), x_{i+1}) + λ/p Σ_j b_j ℓ(q_i(t_j), x_j) ],   b_j ~ Bernoulli(p·f)

ℓ is the loss of a query and a target among the candidates of the target's domain, q_i(t) the query of token i at time
t, λ `train.auxiliary_weight` and p `train.auxiliary_rate`. `train.auxiliary` says which targets j token i has:

- `domains`: for each domain other than that of i+1, the first interaction after i in it;
- `items`: the second to the fourth interaction after i, of any domain.

All are training interactions. f is 1 in the first half of the steps and falls to 0 in the second, so that training ends
on the task itself. The hidden state of a token is computed once; only rows of the loss are added.

Suffixes: N tokens, A drawn auxiliary targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tapestry.core.arrays import Integers
from tapestry.core.splits import TRAIN
from tapestry.sequences.batches import Batch, training_histories
from tapestry.sequences.reader import Sequences
from tapestry.training.schedule import half_linear
from tapestry.training.settings import TrainSettings

_ITEMS = (2, 3, 4)


@dataclass(frozen=True)
class Auxiliary:
    """Auxiliary targets of a batch: token_A is the token (its index in the batch), target_A the interaction.

    weight: of each of them in the loss.
    """

    token_A: Integers
    target_A: Integers
    weight: float

    def among(self, tokens: Integers) -> Auxiliary:
        """Return those of some tokens of the batch (ascending), numbered as they are among these tokens."""
        place_A = np.minimum(np.searchsorted(tokens, self.token_A), len(tokens) - 1)
        inside = tokens[place_A] == self.token_A
        return Auxiliary(place_A[inside], self.target_A[inside], self.weight)


Draw = Callable[[Integers, Integers, float, np.random.Generator], tuple[Integers, Integers]]
"""(interaction of each token (N,), end of the training interactions of its user (N,), probability to keep an auxiliary
target, generator) → token_A and target_A."""


class AuxiliaryTargets:
    """Draws the auxiliary targets of each step of a training. Its state is the number of steps so far.

    Args:
        window: the model's.
        steps: how many steps the training has at most, for f.
    """

    def __init__(self, sequences: Sequences, window: int, settings: TrainSettings, steps: int) -> None:
        self._draw: Draw | None = None
        if settings.auxiliary != "none":
            self._draw = next_of_each_domain(sequences) if settings.auxiliary == "domains" else next_items
        self._starts, ends = training_histories(sequences, window)
        self._ends = ends + 1
        self._rate, self._share = settings.auxiliary_rate, half_linear(steps)
        self._weight = settings.auxiliary_weight / settings.auxiliary_rate
        self.step = 0

    def of_next_step(self, users: Integers, batch: Batch, generator: np.random.Generator) -> Auxiliary | None:
        """Draw the auxiliary targets of the next step, whose batch has the training histories of `users`."""
        self.step += 1
        if self._draw is None:
            return None
        lengths = batch.offsets_B1.diff().numpy()
        index_N = batch.position_N.numpy() + np.repeat(self._starts[users], lengths)
        end_N = np.repeat(self._ends[users], lengths)
        return Auxiliary(*self._draw(index_N, end_N, self._rate * self._share(self.step), generator), self._weight)


def next_of_each_domain(sequences: Sequences) -> Draw:
    """`domains`: for each domain but that of the following interaction, the first interaction in it."""
    training = np.flatnonzero(sequences.split == TRAIN)
    by_domain = [training[sequences.domain[training] == number] for number in range(len(sequences.domains))]

    def draw(
        index_N: Integers, end_N: Integers, rate: float, generator: np.random.Generator
    ) -> tuple[Integers, Integers]:
        tokens, targets = [], []
        for number, interactions in enumerate(by_domain):
            other_N = sequences.domain[index_N + 1] != number
            token = np.flatnonzero((generator.random(len(index_N)) < rate) & other_N)
            place = np.searchsorted(interactions, index_N[token] + 1)
            token, place = token[place < len(interactions)], place[place < len(interactions)]
            inside = interactions[place] < end_N[token]
            tokens.append(token[inside])
            targets.append(interactions[place[inside]])
        return np.concatenate(tokens), np.concatenate(targets)

    return draw


def next_items(
    index_N: Integers, end_N: Integers, rate: float, generator: np.random.Generator
) -> tuple[Integers, Integers]:
    """`items`: the second to the fourth interaction after each token."""
    tokens, targets = [], []
    for ahead in _ITEMS:
        token = np.flatnonzero((generator.random(len(index_N)) < rate) & (index_N + ahead < end_N))
        tokens.append(token)
        targets.append(index_N[token] + ahead)
    return np.concatenate(tokens), np.concatenate(targets)
