"""The network against plain loops in float64, causality, and the fusions."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import WHOLE_MODEL, random_sequences, sequences_of

from tapestry.model.ddsr import FUSIONS
from tapestry.model.network import Recommender
from tapestry.model.request_time import Requests
from tapestry.model.segments import Kernel
from tapestry.model.settings import ModelSettings
from tapestry.sequences.batches import Batch, pack
from tapestry.sequences.reader import Sequences

Array = npt.NDArray[np.float64]
ATTENTIONS = get_args(get_type_hints(ModelSettings)["attention"])
CONFIGS = st.builds(
    lambda query, **others: dataclasses.replace(WHOLE_MODEL, **query, **others),
    st.sampled_from(
        [
            {"attention": attention, "target_state": state}
            for attention in ATTENTIONS
            for state in (True, False)
            if state or attention != "intra_and_full"
        ]
    ),
    heads=st.sampled_from([1, 2]),
    layers=st.integers(1, 3),
    tape=st.booleans(),
    tape_tied=st.booleans(),
    ddsr=st.booleans(),
    fusion=st.sampled_from(sorted(FUSIONS)),
    request_time=st.booleans(),
)


def network(settings: ModelSettings, sequences: Sequences, seed: int = 0) -> Recommender:
    """A network in float64 and evaluation mode. All parameters are random, also biases and norms."""
    torch.manual_seed(seed)
    model = Recommender(settings, sequences.items, len(sequences.domains)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def queries(model: Recommender, batch: Batch, kernel: Kernel = "tiled") -> torch.Tensor:
    """The queries in the batch's order."""
    segments = model.arrange(batch, kernel)
    result: torch.Tensor = model(batch, segments)[segments.inverse_N]
    return result


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
    weights: dict[str, Array],
    settings: ModelSettings,
    items: list[int],
    domains: list[int],
    next_domains: list[int],
    next_times: list[int],
) -> Array:
    """The equations of `tapestry.model.network`, one position, head and domain at a time."""
    hidden = []
    for item, domain, following in zip(items, domains, next_domains, strict=True):
        h = weights["item.weight"][item] * math.sqrt(settings.width) + weights["domain.weight"][domain]
        if settings.tape and domain != following:
            table = weights["domain.weight" if settings.tape_tied else "tape_domain.weight"]
            h = h + table[following] * linear(weights, "tape.project", table[domain])
        hidden.append(h)

    def through(h: list[Array], name: str, full: bool) -> list[Array]:
        return naive_layer(weights, name, settings, h, domains, full)

    attention, numbers = settings.attention, range(settings.layers)
    own = hidden
    for number in numbers if attention == "intra_and_full" else []:
        own = through(own, f"intra_layers.{number}", False)
    for number in numbers:
        last = number == settings.layers - 1
        full = attention in ("full", "intra_and_full") or (last and attention == "intra_full")
        hidden = through(hidden, f"layers.{number}", full)
    if attention != "intra_and_full":
        own = hidden
    if settings.target_state:
        states = [[j for j in range(i + 1) if domains[j] == following] for i, following in enumerate(next_domains)]
        gate = weights["target_state.gate_K"]
        hidden = [h + gate * own[js[-1]] if js else h for h, js in zip(hidden, states, strict=True)]
    if settings.request_time:
        days = [time // 86_400_000 for time in next_times]
        hidden = [h + weights["request_time.period.weight"][day // 30] for h, day in zip(hidden, days, strict=True)]
    return np.array([h / np.linalg.norm(h) for h in hidden])


def naive_layer(
    weights: dict[str, Array], layer: str, settings: ModelSettings, hidden: list[Array], domains: list[int], full: bool
) -> list[Array]:
    """One layer, which attends to all earlier positions (`full`) or to those of the position's own domain."""
    width, heads = settings.width, settings.heads
    normed = [layer_norm(weights, f"{layer}.norm_in", h) for h in hidden]
    q, k, v, u = zip(*(np.split(linear(weights, f"{layer}.project", x), 4) for x in normed), strict=True)
    updated = []
    for i in range(len(hidden)):
        out = np.zeros(width)
        size = width // heads
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            slope = 2 ** (-8 * (head + 1) / heads)
            js = [j for j in range(i + 1) if full or domains[j] == domains[i]]
            scores = [float(q[i][part] @ k[j][part]) / math.sqrt(size) - slope * (i - j) for j in js]
            for share, j in zip(softmax(scores), js, strict=True):
                out[part] += share * v[j][part]
        if settings.ddsr and (not full or settings.attention == "full"):
            cross = naive_ddsr(weights, layer, settings, normed, domains, i)
            out = NAIVE_FUSIONS[settings.fusion](weights, layer, out, cross, normed[i])
        gated = layer_norm(weights, f"{layer}.norm_out", out) * (u[i] / (1 + np.exp(-u[i])))
        updated.append(hidden[i] + linear(weights, f"{layer}.output", gated))
    return updated


def naive_ddsr(
    weights: dict[str, Array], layer: str, settings: ModelSettings, normed: list[Array], domains: list[int], i: int
) -> Array:
    """DDSR at position i, before its fusion with self-attention."""
    last: dict[int, int] = {}
    for j in range(i + 1):
        last[domains[j]] = j
    projected = {j: np.split(linear(weights, f"{layer}.ddsr.project", normed[j]), 3) for j in [i, *last.values()]}
    size = settings.state_dim // settings.heads
    out = np.zeros(settings.state_dim)
    for head in range(settings.heads):
        part = slice(head * size, (head + 1) * size)
        scores = [float(projected[i][0][part] @ projected[j][1][part]) / math.sqrt(size) for j in last.values()]
        for share, j in zip(softmax(scores), last.values(), strict=True):
            out[part] += share * projected[j][2][part]
    return linear(weights, f"{layer}.ddsr.output", out)


def naive_sum(weights: dict[str, Array], layer: str, own: Array, cross: Array, x: Array) -> Array:
    return own + cross


def naive_gate(weights: dict[str, Array], layer: str, own: Array, cross: Array, x: Array) -> Array:
    gate = 1 / (1 + np.exp(-linear(weights, f"{layer}.fusion.gate", x)))
    return own + cross * np.repeat(gate, len(cross) // len(gate))


NAIVE_FUSIONS = {"sum": naive_sum, "gate": naive_gate}
"""Each fusion of self-attention's output `own` and DDSR's output `cross` at a position with the normalised input x."""


@settings(max_examples=30, deadline=None)
@given(
    settings=CONFIGS,
    seed=st.integers(0, 10_000),
    domains=st.integers(1, 4),
    kernel=st.sampled_from(["tiled", "reference"]),
)
def test_the_network_equals_plain_loops(settings: ModelSettings, seed: int, domains: int, kernel: Kernel) -> None:
    sequences = random_sequences(seed, users=5, items=4 * domains, domains=domains, longest=9)
    model = network(settings, sequences, seed)
    batch = whole_histories(sequences)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    actual = queries(model, batch, kernel).detach().numpy()
    for start, end in zip(batch.offsets_B1[:-1].tolist(), batch.offsets_B1[1:].tolist(), strict=True):
        tensors = (batch.item_N, batch.domain_N, batch.target_domain_N, batch.target_time_N)
        columns: list[Any] = [tensor[start:end].tolist() for tensor in tensors]
        expected = naive_network(weights, settings, *columns)
        np.testing.assert_allclose(actual[start:end], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(settings=CONFIGS, seed=st.integers(0, 10_000), data=st.data())
def test_no_output_depends_on_later_items_or_later_target_domains(
    settings: ModelSettings, seed: int, data: st.DataObject
) -> None:
    sequences = random_sequences(seed, users=1, longest=12)
    model = network(settings, sequences, seed)
    batch = whole_histories(sequences)
    j = data.draw(st.integers(0, len(batch.item_N) - 1))
    changed = {name: tensor.clone() for name, tensor in vars(batch).items()}
    changed["item_N"][j] = (changed["item_N"][j] + 1) % sequences.items
    changed["domain_N"][j] = (changed["domain_N"][j] + 1) % 3
    changed["target_domain_N"][j] = (changed["target_domain_N"][j] + 1) % 3
    before, after = queries(model, batch), queries(model, Batch(**changed))
    # With another domain a segment may be in another tile, where sums may round differently.
    torch.testing.assert_close(before[:j], after[:j], rtol=1e-11, atol=1e-13)
    assert not torch.allclose(before[j], after[j])


def test_a_request_is_the_query_of_its_token_for_its_domain_and_time() -> None:
    sequences = random_sequences(5)
    batch = whole_histories(sequences)
    model = network(dataclasses.replace(WHOLE_MODEL, tape=False), sequences)  # TAPE's input knows the domain too
    segments = model.arrange(batch, "tiled")
    token = torch.tensor([4, 0, 4, 4, 4])
    day = 86_400_000
    time = torch.tensor([3 * day, 40 * day, 95 * day, 3 * day, 3 * day])
    domain = torch.tensor([0, 2, 0, 0, 1])
    found = model(batch, segments, requests=Requests(token, domain, time))
    for row, (place, of, moment) in enumerate(zip(token.tolist(), domain.tolist(), time.tolist(), strict=True)):
        at_once = dataclasses.replace(
            batch,
            target_domain_N=torch.full_like(batch.target_domain_N, of),
            target_time_N=torch.full_like(batch.target_time_N, moment),
        )
        torch.testing.assert_close(found[row], model(at_once, segments)[place])
    assert torch.equal(found[0], found[3])
    assert not torch.allclose(found[0], found[2])
    assert not torch.allclose(found[0], found[4])


def test_the_target_domain_changes_its_position_only_through_tape_and_its_state() -> None:
    sequences = random_sequences(1, users=1, longest=12)
    batch = whole_histories(sequences)
    other = dataclasses.replace(batch, target_domain_N=(batch.target_domain_N + 1) % 3)
    for tape in (True, False):
        for state in (True, False):
            model = network(dataclasses.replace(WHOLE_MODEL, tape=tape, target_state=state), sequences)
            assert torch.equal(queries(model, batch), queries(model, other)) is not (tape or state)


def test_tape_is_zero_where_the_domain_stays() -> None:
    sequences = random_sequences(2)
    batch = whole_histories(sequences)
    model = network(WHOLE_MODEL, sequences)
    encoding = model.transitions()[batch.domain_N, batch.target_domain_N]
    torch.testing.assert_close(model.tape_norm(batch), encoding.norm(dim=-1))
    stays = batch.domain_N == batch.target_domain_N
    assert stays.any()
    assert encoding[stays].eq(0).all()
    assert encoding[~stays].ne(0).all()


def test_with_intra_and_full_an_item_of_another_domain_reaches_the_layers_over_all_domains_alone() -> None:
    domain_of_item = [0, 0, 1, 1, 0]  # the last query is of item 1 for item 4, both of domain 0
    sequences = [sequences_of([[0, between, 1, 4]], domain_of_item) for between in (2, 3)]
    settings = dataclasses.replace(WHOLE_MODEL, attention="intra_and_full", ddsr=False, request_time=False)
    model = Recommender(settings, sequences[0].items, 2).double().eval()

    def last_queries() -> tuple[torch.Tensor, torch.Tensor]:
        first, second = (queries(model, whole_histories(each))[2] for each in sequences)
        return first, second

    first, second = last_queries()
    assert not torch.allclose(first, second)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("layers.") and ".output." in name:
                parameter.zero_()  # these layers then leave the last item's input as it is
    torch.testing.assert_close(*last_queries())


def test_the_gate_of_the_targets_state_starts_as_the_settings_say() -> None:
    model = Recommender(dataclasses.replace(WHOLE_MODEL, target_gate=0.25), 4, 2)
    assert model.target_state is not None
    assert model.target_state.gate_K.tolist() == [0.25] * WHOLE_MODEL.width


def test_every_fusion_of_the_settings_has_a_module() -> None:
    fusions = get_args(get_type_hints(ModelSettings)["fusion"])
    assert set(FUSIONS) == set(fusions) == set(NAIVE_FUSIONS)


def test_ddsr_reaches_what_intra_domain_attention_cannot() -> None:
    domain_of_item = [0, 0, 1, 1]
    batch = whole_histories(sequences_of([[0, 2, 3]], domain_of_item))
    changed = whole_histories(sequences_of([[1, 2, 3]], domain_of_item))
    for ddsr in (True, False):
        model = network(dataclasses.replace(WHOLE_MODEL, ddsr=ddsr), sequences_of([[0, 2, 3]], domain_of_item))
        assert torch.equal(queries(model, batch)[1], queries(model, changed)[1]) is not ddsr


def test_the_gradients_of_the_network_equal_those_with_the_reference_kernel() -> None:
    sequences = random_sequences(4, users=9, longest=40)
    batch = whole_histories(sequences)
    grads = []
    for kernel in ("reference", "tiled"):
        model = network(WHOLE_MODEL, sequences)
        weight = torch.randn(len(batch.item_N), WHOLE_MODEL.width, generator=torch.Generator().manual_seed(1))
        (queries(model, batch, kernel) * weight).sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, expected in grads[0].items():
        assert expected is not None
        assert expected.abs().sum() > 0
        torch.testing.assert_close(grads[1][name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_model_and_training_import_without_the_data_stack() -> None:
    """A GPU machine may have only torch, NumPy, ruamel.yaml, safetensors and tqdm of this project's packages."""
    absent = ["duckdb", "dvc", "mlflow", "pandera", "pydantic", "pandas", "pyarrow", "ibis", "sklearn", "scipy"]
    modules = ["model.network", "model.storage", "training.loop", "evaluation.scoring", "evaluation.metrics"]
    script = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n" + "\n".join(
        f"import tapestry.{module}" for module in modules
    )
    subprocess.run([sys.executable, "-c", script], check=True)
