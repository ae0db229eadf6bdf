"""The states of domains and the attention over them against plain loops in float64, forward and backward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_sequences, sequences_of
from torch import Tensor

from tapestry.model import ddsr
from tapestry.model.ddsr import DomainStateAttention
from tapestry.model.kernels.domain_states import States
from tapestry.model.segments import Segments, arrange
from tapestry.sequences.batches import Batch, pack

SEEDS = st.integers(0, 10_000)


def random_batch(seed: int, domains: int, users: int = 5, longest: int = 9) -> Batch:
    """Random stretches of random histories, the first of them of one token, so with one domain of all."""
    sequences = random_sequences(seed, users=users, items=3 * domains, domains=domains, longest=longest)
    generator = np.random.default_rng(seed)
    starts = sequences.offsets[:-1]
    lengths = generator.integers(1, sequences.offsets[1:] - starts)
    lengths[0] = 1
    return pack(sequences, starts, starts + lengths)


def laid_out(batch: Batch, heads: int, domains: int, intra: bool) -> tuple[Segments, States]:
    segments = arrange(batch, "tiled", heads, domains, intra, True)
    assert segments.states is not None
    return segments, segments.states


def naive_states(batch: Batch) -> list[dict[int, int]]:
    """For each token of the batch, in its order: the last token of each domain that its history has by then."""
    domain = batch.domain_N.tolist()
    states = []
    for start, end in zip(batch.offsets_B1[:-1].tolist(), batch.offsets_B1[1:].tolist(), strict=True):
        for token in range(start, end):
            states.append({domain[before]: before for before in range(start, token + 1)})
    return states


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(1, 5), intra=st.booleans())
def test_the_last_token_of_each_domain_is_found(seed: int, domains: int, intra: bool) -> None:
    batch = random_batch(seed, domains)
    segments, states = laid_out(batch, 2, domains, intra)
    order = segments.order_N.tolist()
    expected = naive_states(batch)
    assert sorted(order) == list(range(len(batch.item_N)))
    assert states.last_DN.shape == (domains, len(order))
    assert states.none_ND.shape == (len(order), domains)
    for place, token in enumerate(order):
        for domain in range(domains):
            last = expected[token].get(domain)
            assert states.none_ND[place, domain].item() is (last is None)
            assert states.last_DN[domain, place] == (0 if last is None else order.index(last))


def test_the_states_of_two_small_histories_are_those_found_by_hand() -> None:
    """Tokens of domains 0, 1, 0 and, of another user, 1; no token of domain 2."""
    sequences = sequences_of([[0, 2, 1, 3], [2, 0]], [0, 0, 1, 2])
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    segments, states = laid_out(batch, 1, 3, intra=False)
    assert segments.order_N.tolist() == [3, 0, 1, 2]
    assert states.last_DN.tolist() == [[0, 1, 1, 3], [0, 0, 2, 2], [0, 0, 0, 0]]
    assert (~states.none_ND).int().tolist() == [[0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    segments, states = laid_out(batch, 1, 3, intra=True)
    assert segments.order_N.tolist() == [1, 3, 0, 2]
    assert states.last_DN.tolist() == [[2, 0, 2, 3], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert (~states.none_ND).int().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]


def random_attention(seed: int, heads: int, width: int = 5) -> DomainStateAttention:
    torch.manual_seed(seed)
    attention = DomainStateAttention(width, 3 * heads, heads).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    return attention


def naive_attention(attention: DomainStateAttention, hidden_NK: Tensor, batch: Batch, order: list[int]) -> Tensor:
    """The attention's output, one token and head at a time; tokens come in `order`, and autograd sees it all."""
    states = naive_states(batch)
    hidden = dict(zip(order, hidden_NK, strict=True))
    parts = {token: (attention.project.weight @ row + attention.project.bias).chunk(3) for token, row in hidden.items()}
    outputs = []
    for token in order:
        heads = []
        for head in range(attention.heads):
            size = len(parts[token][0]) // attention.heads
            place = slice(head * size, (head + 1) * size)
            query = parts[token][0][place]
            held = states[token].values()
            powers = [torch.exp((query * parts[last][1][place]).sum() / math.sqrt(size)) for last in held]
            mixed = torch.zeros(size, dtype=torch.float64)
            for power, last in zip(powers, held, strict=True):
                mixed = mixed + power / sum(powers) * parts[last][2][place]
            heads.append(mixed)
        outputs.append(attention.output.weight @ torch.cat(heads) + attention.output.bias)
    return torch.stack(outputs)


def assert_the_attention_equals_plain_loops(seed: int, domains: int, heads: int, intra: bool, users: int = 4) -> int:
    """Outputs and the gradients of the input and of every parameter; the number of tokens."""
    batch = random_batch(seed, domains, users, longest=12)
    segments, states = laid_out(batch, heads, domains, intra)
    attention = random_attention(seed, heads)
    tokens = len(batch.item_N)
    hidden_NK, weight_NK = torch.randn(2, tokens, 5, dtype=torch.float64).unbind()
    hidden_NK.requires_grad_()
    inputs = [hidden_NK, *attention.parameters()]
    actual = attention(hidden_NK, states)
    expected = naive_attention(attention, hidden_NK, batch, segments.order_N.tolist())
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    gradients = torch.autograd.grad(actual, inputs, weight_NK), torch.autograd.grad(expected, inputs, weight_NK)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    return tokens


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(1, 4), heads=st.integers(1, 3), intra=st.booleans())
def test_attention_over_states_and_its_gradients_equal_plain_loops(
    seed: int, domains: int, heads: int, intra: bool
) -> None:
    assert_the_attention_equals_plain_loops(seed, domains, heads, intra)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("intra", [True, False])
def test_computing_some_tokens_at_a_time_changes_nothing(
    rows: int, intra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddsr, "_ROWS", rows)
    tokens = assert_the_attention_equals_plain_loops(3, 3, 2, intra, users=8)
    assert tokens > 2 * rows
    assert rows == 1 or tokens % rows != 0  # the last rows are fewer


def test_with_one_domain_each_token_reads_itself_alone() -> None:
    batch = random_batch(5, 1)
    _, states = laid_out(batch, 2, 1, intra=True)
    attention = random_attention(5, 2)
    hidden_NK = torch.randn(len(batch.item_N), 5, dtype=torch.float64)
    value_NC = attention.project(hidden_NK).chunk(3, -1)[2]
    torch.testing.assert_close(attention(hidden_NK, states), attention.output(value_NC), rtol=1e-12, atol=1e-12)
