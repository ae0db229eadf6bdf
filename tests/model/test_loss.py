"""The loss and its kernel against plain loops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.model.kernels import softmax
from tapestry.model.kernels.softmax import DomainTargets, Offsets, softmax_loss, softmax_loss_reference
from tapestry.model.loss import domain_softmax_loss


@dataclass(frozen=True)
class Case:
    """Random targets in domains of `sizes` items. Candidates are drawn from all items of a domain.

    The hits are the accidental ones; with `more_hits` any others too, several of a query, and some twice. With
    `offsets`, scores add random numbers, of one to three days.
    """

    seed: int
    sizes: list[int]
    candidates: int
    tokens: int
    more_hits: bool
    offsets: bool

    def targets(self) -> tuple[np.random.Generator, list[DomainTargets]]:
        """The targets, and the generator for what else a test draws."""
        generator = np.random.default_rng(self.seed)
        domain_of = generator.integers(0, len(self.sizes), self.tokens)
        found, start = [], 0
        for domain, size in enumerate(self.sizes):
            members = np.flatnonzero(domain_of == domain)
            drawn = start + np.sort(generator.choice(size, min(self.candidates, size), replace=False))
            target = start + generator.integers(0, size, len(members))
            hits = [(t, c) for t, row in enumerate(target) for c, candidate in enumerate(drawn) if candidate == row]
            if self.more_hits:
                others = [(t, c) for t in range(len(target)) for c in range(len(drawn)) for _ in range(2)]
                hits = sorted(hits + [pair for pair in others if generator.random() < 0.3])
            hit = np.array(hits, dtype=np.int64).reshape(-1, 2)
            if len(members):
                arrays = (members, target, drawn, hit[:, 0].copy(), hit[:, 1].copy())
                offsets = None
                if self.offsets:
                    days = int(generator.integers(1, 4))
                    added = (
                        generator.normal(size=(days, len(drawn))),
                        generator.integers(0, days, len(members)),
                        generator.normal(size=len(members)),
                    )
                    offsets = Offsets(*(torch.from_numpy(array) for array in added))
                found.append(DomainTargets(*(torch.from_numpy(array) for array in arrays), offsets=offsets))
            start += size
        return generator, found


cases = st.builds(
    Case,
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    candidates=st.integers(1, 12),
    tokens=st.integers(1, 20),
    more_hits=st.booleans(),
    offsets=st.booleans(),
)


def naive_loss(
    query: torch.Tensor, table: torch.Tensor, targets: list[DomainTargets], temperature: float, weight: list[float]
) -> torch.Tensor:
    """Weighted sum of −log softmax, a query at a time, in torch operations that autograd knows."""
    losses = []
    for domain in targets:
        hits = set(zip(domain.hit_query_M.tolist(), domain.hit_candidate_M.tolist(), strict=True))
        for number, (row, target) in enumerate(zip(domain.query_T.tolist(), domain.target_T.tolist(), strict=True)):
            others = [
                (index, candidate)
                for index, candidate in enumerate(domain.candidates_C.tolist())
                if candidate != target and (number, index) not in hits
            ]
            rows = table[[target, *(candidate for _, candidate in others)]]
            added = torch.zeros(len(rows), dtype=torch.float64)
            if domain.offsets is not None:
                of_day = domain.offsets.day_PC[int(domain.offsets.row_T[number])]
                values = [float(domain.offsets.target_T[number]), *(float(of_day[index]) for index, _ in others)]
                added = torch.tensor(values, dtype=torch.float64)
            scores = (rows @ query[row] / rows.square().sum(1).sqrt() + added) / temperature
            losses.append(weight[row] * (torch.logsumexp(scores, 0) - scores[0]))
    return torch.stack(losses).sum()


@settings(max_examples=40, deadline=None)
@given(
    case=cases,
    temperature=st.sampled_from([0.01, 0.2, 1.0]),
    block=st.sampled_from([1, 20, 10**6]),
    weighted=st.booleans(),
)
def test_the_loss_and_its_gradients_equal_plain_loops(
    case: Case, temperature: float, block: int, weighted: bool
) -> None:
    generator, targets = case.targets()
    query = torch.nn.functional.normalize(
        torch.from_numpy(generator.normal(size=(case.tokens, 5))), dim=1
    ).requires_grad_()
    table = torch.from_numpy(generator.normal(size=(sum(case.sizes), 5))).requires_grad_()
    weight = generator.uniform(0, 2, case.tokens) if weighted else np.ones(case.tokens)
    of_tokens = max(1, case.tokens // 2) if weighted else case.tokens
    expected = naive_loss(query, table, targets, temperature, weight.tolist()) / of_tokens
    expected_grads = torch.autograd.grad(expected, (query, table), allow_unused=True)
    with patch.dict(softmax._SCORES, cpu=block):
        given_too = (torch.from_numpy(weight), of_tokens) if weighted else ()
        actual = domain_softmax_loss(query, table, targets, temperature, *given_too)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    for grad, wanted in zip(torch.autograd.grad(actual, (query, table)), expected_grads, strict=True):
        torch.testing.assert_close(grad, torch.zeros_like(grad) if wanted is None else wanted, rtol=1e-7, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    case=cases,
    temperature=st.sampled_from([0.05, 1.0]),
    block=st.sampled_from([1, 20, 10**6]),
    weighted=st.booleans(),
)
def test_the_kernel_equals_its_reference_with_its_gradients(
    case: Case, temperature: float, block: int, weighted: bool
) -> None:
    generator, targets = case.targets()
    query = torch.from_numpy(generator.normal(size=(case.tokens, 5))).requires_grad_()
    unit = torch.nn.functional.normalize(torch.from_numpy(generator.normal(size=(sum(case.sizes), 5))), dim=1)
    unit.requires_grad_()
    with patch.dict(softmax._SCORES, cpu=block):
        weight = torch.from_numpy(generator.uniform(0, 2, case.tokens)) if weighted else None
        losses = [
            kernel(query, unit, targets, temperature, weight) for kernel in (softmax_loss, softmax_loss_reference)
        ]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-11)
    ours, theirs = (torch.autograd.grad(2 * loss, (query, unit)) for loss in losses)
    for gradient, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


def one_domain(target: list[int], rows: int) -> list[DomainTargets]:
    """All rows are candidates of all tokens."""
    tokens = torch.arange(len(target))
    return [DomainTargets(tokens, torch.tensor(target), torch.arange(rows), tokens, torch.tensor(target))]


def test_a_hand_computed_loss() -> None:
    table = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])  # unit vectors east, north, west
    query = torch.tensor([[1.0, 0.0]])
    loss = domain_softmax_loss(query, table, one_domain([0], 3), 0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2) + math.exp(-4)), rel=1e-6)


def test_a_hopeless_target_has_a_finite_loss_and_gradient_at_a_low_temperature() -> None:
    table = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    query = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    loss = domain_softmax_loss(query, table, one_domain([0], 2), 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(200.0, rel=1e-6)  # its probability, e^-200, is 0 in float32
    assert query.grad is not None
    assert query.grad.tolist() == [[-200.0, 0.0]]


def test_no_item_outside_the_target_domain_is_pushed_away() -> None:
    generator = np.random.default_rng(5)
    table = torch.from_numpy(generator.normal(size=(9, 4))).requires_grad_()
    query = torch.nn.functional.normalize(torch.from_numpy(generator.normal(size=(6, 4))), dim=1)
    domain_softmax_loss(query, table, one_domain([0, 1, 2, 3, 1, 0], 4), 0.1).backward()
    assert table.grad is not None
    assert table.grad[:4].abs().sum(1).gt(0).all()
    assert table.grad[4:].eq(0).all()
