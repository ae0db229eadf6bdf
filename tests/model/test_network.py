"""The network against plain loops in float64, and what may depend on what."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import WHOLE_MODEL, random_sequences, sequences_of

from tapestry.config import ModelConfig
from tapestry.data.batches import Batch, pack
from tapestry.data.sequences import Sequences
from tapestry.model.attention import Layout, alibi_slopes, attend
from tapestry.model.network import Recommender

Array = npt.NDArray[np.float64]
CONFIGS = st.builds(
    dataclasses.replace,
    st.just(WHOLE_MODEL),
    heads=st.sampled_from([1, 2]),
    layers=st.integers(1, 2),
    attention=st.sampled_from(["intra", "full"]),
    tape=st.booleans(),
    tape_tied=st.booleans(),
    ddsr=st.booleans(),
    fusion=st.sampled_from(["sum", "gate"]),
)


def network(config: ModelConfig, sequences: Sequences, seed: int = 0) -> Recommender:
    """A network in float64 and evaluation mode whose parameters are all random, biases and norms too."""
    torch.manual_seed(seed)
    model = Recommender(config, sequences.items, len(sequences.domains)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def whole_histories(sequences: Sequences) -> Batch:
    return pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)


def linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    result: Array = weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]
    return result


def layer_norm(weights: dict[str, Array], name: str, x: Array) -> Array:
    scaled: Array = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def naive_network(
    weights: dict[str, Array], config: ModelConfig, items: list[int], domains: list[int], next_domains: list[int]
) -> Array:
    """model.md's equations, one position, head and domain at a time."""
    width, heads = config.width, config.heads
    hidden = []
    for item, domain, following in zip(items, domains, next_domains, strict=True):
        h = weights["item.weight"][item] * math.sqrt(width) + weights["domain.weight"][domain]
        if config.tape and domain != following:
            table = weights["domain.weight" if config.tape_tied else "tape_domain.weight"]
            h = h + table[following] * linear(weights, "tape.project", table[domain])
        hidden.append(h)
    for number in range(config.layers):
        layer = f"layers.{number}"
        normed = [layer_norm(weights, f"{layer}.norm_in", h) for h in hidden]
        q, k, v, u = zip(*(np.split(linear(weights, f"{layer}.project", x), 4) for x in normed), strict=True)
        mixed = []
        for i in range(len(items)):
            out = np.zeros(width)
            size = width // heads
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                slope = 2 ** (-8 * (head + 1) / heads)
                js = [j for j in range(i + 1) if config.attention == "full" or domains[j] == domains[i]]
                scores = [float(q[i][part] @ k[j][part]) / math.sqrt(size) - slope * (i - j) for j in js]
                for share, j in zip(softmax(scores), js, strict=True):
                    out[part] += share * v[j][part]
            if config.ddsr:
                out = out + naive_ddsr(weights, layer, config, normed, domains, i)
            mixed.append(out)
        for i, out in enumerate(mixed):
            gated = layer_norm(weights, f"{layer}.norm_out", out) * (u[i] / (1 + np.exp(-u[i])))
            hidden[i] = hidden[i] + linear(weights, f"{layer}.output", gated)
    return np.array([h / np.linalg.norm(h) for h in hidden])


def naive_ddsr(
    weights: dict[str, Array], layer: str, config: ModelConfig, normed: list[Array], domains: list[int], i: int
) -> Array:
    last: dict[int, int] = {}
    for j in range(i + 1):
        last[domains[j]] = j
    projected = {j: np.split(linear(weights, f"{layer}.ddsr.project", normed[j]), 3) for j in [i, *last.values()]}
    size = config.state_dim // config.heads
    out = np.zeros(config.state_dim)
    for head in range(config.heads):
        part = slice(head * size, (head + 1) * size)
        scores = [float(projected[i][0][part] @ projected[j][1][part]) / math.sqrt(size) for j in last.values()]
        for share, j in zip(softmax(scores), last.values(), strict=True):
            out[part] += share * projected[j][2][part]
    states = linear(weights, f"{layer}.ddsr.output", out)
    if config.fusion == "gate":
        gate = 1 / (1 + np.exp(-linear(weights, f"{layer}.gate", normed[i])))
        states = states * np.repeat(gate, config.width // config.heads)
    return states


@settings(max_examples=30, deadline=None)
@given(config=CONFIGS, seed=st.integers(0, 10_000), domains=st.integers(1, 4))
def test_the_network_equals_plain_loops(config: ModelConfig, seed: int, domains: int) -> None:
    sequences = random_sequences(seed, users=5, items=4 * domains, domains=domains, longest=9)
    model = network(config, sequences, seed)
    batch = whole_histories(sequences)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    actual = model(batch).detach().numpy()
    for start, end in zip(batch.offsets_B1[:-1].tolist(), batch.offsets_B1[1:].tolist(), strict=True):
        columns: list[Any] = [x[start:end].tolist() for x in (batch.item_N, batch.domain_N, batch.target_domain_N)]
        expected = naive_network(weights, config, *columns)
        np.testing.assert_allclose(actual[start:end], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(config=CONFIGS, seed=st.integers(0, 10_000), data=st.data())
def test_later_items_and_later_next_domains_change_no_output_before(
    config: ModelConfig, seed: int, data: st.DataObject
) -> None:
    sequences = random_sequences(seed, users=1, longest=12)
    model = network(config, sequences, seed)
    batch = whole_histories(sequences)
    j = data.draw(st.integers(0, len(batch.item_N) - 1))
    changed = {name: tensor.clone() for name, tensor in vars(batch).items()}
    changed["item_N"][j] = (changed["item_N"][j] + 1) % sequences.items
    changed["domain_N"][j] = (changed["domain_N"][j] + 1) % 3
    changed["target_domain_N"][j] = (changed["target_domain_N"][j] + 1) % 3
    before, after = model(batch), model(Batch(**changed))
    assert torch.equal(before[:j], after[:j])
    assert not torch.allclose(before[j], after[j])


def test_the_next_domain_enters_its_own_position_through_tape_alone() -> None:
    sequences = random_sequences(1, users=1, longest=12)
    batch = whole_histories(sequences)
    other = dataclasses.replace(batch, target_domain_N=(batch.target_domain_N + 1) % 3)
    with_tape = network(WHOLE_MODEL, sequences)
    without = network(dataclasses.replace(WHOLE_MODEL, tape=False), sequences)
    assert not torch.allclose(with_tape(batch), with_tape(other))
    assert torch.equal(without(batch), without(other))


def test_tape_is_zero_where_the_domain_stays() -> None:
    sequences = random_sequences(2)
    batch = whole_histories(sequences)
    encoding = network(WHOLE_MODEL, sequences).transition(batch)
    stays = batch.domain_N == batch.target_domain_N
    assert stays.any()
    assert encoding[stays].eq(0).all()
    assert encoding[~stays].ne(0).all()


def test_ddsr_reaches_what_intra_domain_attention_cannot() -> None:
    domain_of_item = [0, 0, 1, 1]
    batch = whole_histories(sequences_of([[0, 2, 3]], domain_of_item))
    changed = whole_histories(sequences_of([[1, 2, 3]], domain_of_item))
    for ddsr in (True, False):
        model = network(dataclasses.replace(WHOLE_MODEL, ddsr=ddsr), sequences_of([[0, 2, 3]], domain_of_item))
        assert torch.equal(model(batch)[1], model(changed)[1]) is not ddsr


@pytest.mark.parametrize("intra", [True, False])
def test_the_gradients_of_attention_are_those_of_finite_differences(intra: bool) -> None:
    batch = whole_histories(random_sequences(4, users=3, longest=6))
    layout = Layout(batch.domain_N, batch.position_N, batch.offsets_B1)
    torch.manual_seed(0)
    q, k, v = (torch.randn(len(batch.item_N), 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, layout, alibi_slopes(2), intra)

    assert torch.autograd.gradcheck(attention, (q, k, v))


@given(seed=st.integers(0, 10_000), domains=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_last_token_of_each_domain_is_found(seed: int, domains: int) -> None:
    batch = whole_histories(random_sequences(seed, items=3 * domains, domains=domains))
    last = Layout(batch.domain_N, batch.position_N, batch.offsets_B1).last_of_domain(domains)
    for i in range(len(batch.item_N)):
        start = i - int(batch.position_N[i])
        for d in range(domains):
            places = [j for j in range(start, i + 1) if batch.domain_N[j] == d]
            assert last[i, d] == (places[-1] if places else -1)
