"""The states of domains, and attention over them, against plain loops in float64, forward and backward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_sequences, sequences_of
from torch import Tensor

from tapestry.model.ddsr import DomainStateAttention
from tapestry.model.kernels import domain_states
from tapestry.model.kernels.domain_states import Reads, States, attend_states, attend_states_reference
from tapestry.model.segments import Kernel, Segments, arrange
from tapestry.model.tensors import to_device
from tapestry.sequences.batches import Batch, pack

SEEDS = st.integers(0, 10_000)


def random_batch(seed: int, domains: int, users: int = 5, longest: int = 9) -> Batch:
    """Random prefixes of random histories. The first has one token, so that it has a state of one domain only."""
    sequences = random_sequences(seed, users=users, items=3 * domains, domains=domains, longest=longest)
    generator = np.random.default_rng(seed)
    starts = sequences.offsets[:-1]
    lengths = generator.integers(1, sequences.offsets[1:] - starts)
    lengths[0] = 1
    return pack(sequences, starts, starts + lengths)


def arranged(batch: Batch, heads: int, domains: int, intra: bool) -> tuple[Segments, States]:
    segments = arrange(batch, "tiled", heads, domains, intra, True)
    assert isinstance(segments.states, States)
    return segments, segments.states


def naive_states(batch: Batch) -> list[dict[int, int]]:
    """For each token, in the batch's order: the last token of each domain that its history has reached."""
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
    segments, states = arranged(batch, 2, domains, intra)
    order = segments.order_N.tolist()
    expected = naive_states(batch)
    assert sorted(order) == list(range(len(batch.item_N)))
    assert states.last_DN.shape == (domains, len(order))
    assert states.unseen_ND.shape == (len(order), domains)
    for index, token in enumerate(order):
        for domain in range(domains):
            last = expected[token].get(domain)
            assert states.unseen_ND[index, domain].item() is (last is None)
            assert states.last_DN[domain, index] == (0 if last is None else order.index(last))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(1, 4), heads=st.integers(1, 3), intra=st.booleans())
def test_the_readers_of_each_state_are_those_that_plain_loops_find(
    seed: int, domains: int, heads: int, intra: bool
) -> None:
    _, states = arranged(random_batch(seed, domains), heads, domains, intra)
    tokens = len(states.unseen_ND)
    offsets = states.read_offsets_M1.tolist()
    assert len(offsets) == tokens * heads + 1
    for token in range(tokens):
        for head in range(heads):
            pair = token * heads + head
            reads = slice(offsets[pair], offsets[pair + 1])
            expected = [
                (reader, domain)
                for reader in range(tokens)
                for domain in range(domains)
                if not states.unseen_ND[reader, domain] and states.last_DN[domain, reader] == token
            ]
            assert states.read_P[reads].tolist() == [(i * domains + d) * heads + head for i, d in expected]
            assert states.reader_P[reads].tolist() == [i * heads + head for i, _ in expected]
            assert states.reader_query_row_P[reads].tolist() == [3 * i * heads + head for i, _ in expected]
            assert states.query_row_NHD[token, head].tolist() == [
                3 * int(last) * heads + head for last in states.last_DN[:, token]
            ]


def test_the_example_of_the_module_is_true() -> None:
    """One history with domains A B A B, as in the docstring of `domain_states`."""
    sequences = sequences_of([[0, 1, 0, 1, 0]], [0, 1])
    _, states = arranged(pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1), 1, 2, intra=False)
    assert states.last_DN.tolist() == [[0, 0, 2, 2], [0, 1, 1, 3]]
    assert states.unseen_ND.tolist() == [[False, True], [False, False], [False, False], [False, False]]


def test_the_states_of_two_small_histories_are_those_found_by_hand() -> None:
    """Tokens of domains 0, 1, 0 and, of another user, 1; no token of domain 2."""
    sequences = sequences_of([[0, 2, 1, 3], [2, 0]], [0, 0, 1, 2])
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    segments, states = arranged(batch, 1, 3, intra=False)
    assert segments.order_N.tolist() == [3, 0, 1, 2]
    assert states.last_DN.tolist() == [[0, 1, 1, 3], [0, 0, 2, 2], [0, 0, 0, 0]]
    assert (~states.unseen_ND).int().tolist() == [[0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    segments, states = arranged(batch, 1, 3, intra=True)
    assert segments.order_N.tolist() == [1, 3, 0, 2]
    assert states.last_DN.tolist() == [[2, 0, 2, 3], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert (~states.unseen_ND).int().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]


def random_attention(seed: int, heads: int, width: int = 5) -> DomainStateAttention:
    torch.manual_seed(seed)
    attention = DomainStateAttention(width, 3 * heads, heads).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    return attention


def naive_attention(attention: DomainStateAttention, hidden_NK: Tensor, batch: Batch, order: list[int]) -> Tensor:
    """The attention's output, one token and head at a time, in operations that autograd knows. Tokens in `order`."""
    states = naive_states(batch)
    hidden = dict(zip(order, hidden_NK, strict=True))
    parts = {token: (attention.project.weight @ row + attention.project.bias).chunk(3) for token, row in hidden.items()}
    outputs = []
    for token in order:
        heads = []
        for head in range(attention.heads):
            size = len(parts[token][0]) // attention.heads
            channels = slice(head * size, (head + 1) * size)
            query = parts[token][0][channels]
            lasts = states[token].values()
            powers = [torch.exp((query * parts[last][1][channels]).sum() / math.sqrt(size)) for last in lasts]
            output = torch.zeros(size, dtype=torch.float64)
            for power, last in zip(powers, lasts, strict=True):
                output = output + power / sum(powers) * parts[last][2][channels]
            heads.append(output)
        outputs.append(attention.output.weight @ torch.cat(heads) + attention.output.bias)
    return torch.stack(outputs)


def assert_the_attention_equals_plain_loops(seed: int, domains: int, heads: int, intra: bool, users: int = 4) -> int:
    """Outputs and the gradients of the input and of every parameter; the number of tokens."""
    batch = random_batch(seed, domains, users, longest=12)
    segments, states = arranged(batch, heads, domains, intra)
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


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(1, 5), heads=st.integers(1, 4), width=st.sampled_from([1, 3, 8]))
def test_the_kernel_equals_its_reference_with_its_gradients(seed: int, domains: int, heads: int, width: int) -> None:
    _, states = arranged(random_batch(seed, domains, longest=40), heads, domains, intra=True)
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(len(states.unseen_ND), 3, heads, width, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(len(states.unseen_ND), heads, width, dtype=torch.float64, generator=generator)
    out, expected = attend_states(qkv, states), attend_states_reference(qkv, states)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(x, qkv, weight)[0] for x in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("intra", [True, False])
def test_the_size_of_a_block_of_tokens_changes_no_result(
    size: int, intra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_states, "_BLOCK", size)
    tokens = assert_the_attention_equals_plain_loops(3, 3, 2, intra, users=8)
    assert tokens > 2 * size
    assert size == 1 or tokens % size != 0  # the last block is smaller


def test_with_one_domain_each_token_attends_only_to_itself() -> None:
    batch = random_batch(5, 1)
    _, states = arranged(batch, 2, 1, intra=True)
    attention = random_attention(5, 2)
    hidden_NK = torch.randn(len(batch.item_N), 5, dtype=torch.float64)
    value_NC = attention.project(hidden_NK).chunk(3, -1)[2]
    torch.testing.assert_close(attention(hidden_NK, states), attention.output(value_NC), rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(1, 4), intra=st.booleans())
def test_the_reads_for_triton_are_those_that_plain_loops_find(seed: int, domains: int, intra: bool) -> None:
    batch = random_batch(seed, domains)
    segments = arrange(batch, "triton", 2, domains, intra, True)
    reads, order = segments.states, segments.order_N.tolist()
    assert isinstance(reads, Reads)
    states = naive_states(batch)
    expected = [
        [order.index(states[token][d]) if d in states[token] else -1 for d in range(domains)] for token in order
    ]
    assert reads.last_ND.tolist() == expected
    for token in range(len(order)):
        readers = [reader for reader, row in enumerate(expected) for state in row if state == token]
        read_by = reads.inverse_N[reads.order_N[token] : reads.until_N[token]].tolist()
        assert sorted(read_by) == readers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize(("domains", "heads", "width"), [(5, 4, 16), (1, 1, 3), (20, 2, 128)])
def test_triton_equals_the_reference(
    domains: int, heads: int, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    batch = random_batch(3, domains, users=50, longest=40)
    device, tokens = torch.device("cuda"), len(batch.item_N)
    qkv = torch.randn(tokens, 3, heads, width).to(dtype)
    weight = torch.randn(tokens, heads, width).to(dtype)
    results = []
    kernels: tuple[Kernel, ...] = ("triton", "triton", "reference")
    for kernel in kernels:
        states = to_device(arrange(batch, kernel, heads, domains, True, True), device).states
        leaf = qkv.to(device, torch.float64 if kernel == "reference" else dtype).requires_grad_()
        assert states is not None
        out = (attend_states_reference if kernel == "reference" else attend_states)(leaf, states)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, weight.to(out))))
    for first, again, wanted in zip(*results, strict=True):
        assert torch.equal(first, again)
        torch.testing.assert_close(first.double(), wanted, rtol=tolerance, atol=tolerance)
