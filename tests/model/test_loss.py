"""The loss against plain loops."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import WHOLE_MODEL, random_sequences

from tapestry.data.batches import pack
from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender


def naive_loss(
    model: Recommender, query: torch.Tensor, targets: list[int], candidates: list[list[int]], temperature: float
) -> float:
    """Mean of −log softmax; `candidates`: the negatives of each token, its target left out."""
    vectors = model.item.weight.detach().numpy()
    losses = []
    for row, target, others in zip(query.detach().numpy(), targets, candidates, strict=True):
        scores = [float(row @ vectors[i]) / math.sqrt(float(vectors[i] @ vectors[i])) for i in [target, *others]]
        powers = [math.exp(score / temperature) for score in scores]
        losses.append(-math.log(powers[0] / sum(powers)))
    return sum(losses) / len(losses)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), negatives=st.sampled_from([1, 4, 9, 10, 500, None]))
def test_the_loss_equals_plain_loops(seed: int, negatives: int | None) -> None:
    sequences = random_sequences(seed)
    torch.manual_seed(seed)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains)).double().eval()
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    query = model(batch)
    loss = domain_softmax_loss(
        model,
        query,
        batch.target_N,
        batch.target_domain_N,
        sequences.domains,
        negatives,
        0.2,
        torch.Generator().manual_seed(seed),
    )
    generator = torch.Generator().manual_seed(seed)
    pool = []
    for index, domain in enumerate(sequences.domains):
        if negatives is None or negatives >= domain.end - domain.start:
            pool.append(list(range(domain.start, domain.end)))
        elif (batch.target_domain_N == index).any():
            pool.append(torch.randint(domain.start, domain.end, (negatives,), generator=generator).tolist())
        else:
            pool.append([])
    targets = batch.target_N.tolist()
    candidates = [
        [item for item in pool[domain] if item != target]
        for target, domain in zip(targets, batch.target_domain_N.tolist(), strict=True)
    ]
    assert math.isclose(loss.item(), naive_loss(model, query, targets, candidates, 0.2), rel_tol=1e-9)


def test_no_item_outside_the_target_domain_is_pushed_away() -> None:
    sequences = random_sequences(5)
    model = Recommender(WHOLE_MODEL, sequences.items, 3)
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    first = sequences.domains[0]
    of_first = batch.target_domain_N == 0
    loss = domain_softmax_loss(
        model,
        model(batch).detach()[of_first],
        batch.target_N[of_first],
        batch.target_domain_N[of_first],
        sequences.domains,
        None,
        0.05,
        torch.Generator(),
    )
    loss.backward()  # type: ignore[no-untyped-call]
    touched = model.item.weight.grad
    assert touched is not None
    assert touched[: first.end].abs().sum(1).gt(0).all()
    assert touched[first.end :].eq(0).all()
