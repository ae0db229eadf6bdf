"""Every attention kernel against plain loops in float64 or the reference, and which kernel can run where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.core.errors import TapestryError
from tapestry.model import attention
from tapestry.model.attention import alibi_slopes, attend, choose_kernel
from tapestry.model.kernels import tiles
from tapestry.model.kernels.tiled import attend_tiled, attend_tiled_reference
from tapestry.model.segments import Kernel, Segments, arrange
from tapestry.model.tensors import to_device
from tapestry.sequences.batches import Batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def random_batch(lengths: list[int], domains: int, seed: int, skew: float = 0.0) -> Batch:
    """Histories of these lengths. Domain 0 gets the share `skew` of the tokens; the rest is split evenly over all."""
    generator = np.random.default_rng(seed)
    share = np.full(domains, (1 - skew) / domains)
    share[0] += skew
    domain = generator.choice(domains, sum(lengths), p=share)
    position = np.concatenate([np.arange(length) for length in lengths])
    zeros = torch.zeros(sum(lengths), dtype=torch.int64)
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return Batch(zeros, torch.from_numpy(domain), zeros, zeros, zeros, torch.from_numpy(position), offsets)


def attended(
    segments: Segments, qkv: torch.Tensor, weight: torch.Tensor, device: torch.device = CPU
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in the batch's order, and the gradient of its weighted sum by queries, keys and values, in float64."""
    segments, leaf = to_device(segments, device), qkv.to(device).requires_grad_()
    slopes = alibi_slopes(qkv.shape[2]).to(device)
    out = attend(leaf[segments.order_N], slopes, segments)[segments.inverse_N]
    (grad,) = torch.autograd.grad(out, leaf, weight.to(out))
    return out.detach().double().cpu(), grad.double().cpu()


def naive_attention(qkv: torch.Tensor, batch: Batch, intra: bool) -> Iterator[torch.Tensor]:
    """One token at a time. Yields (H, E)."""
    _, heads, width = qkv.shape[1:]
    for i in range(len(qkv)):
        start = i - int(batch.position_N[i])
        seen = [j for j in range(start, i + 1) if not intra or batch.domain_N[j] == batch.domain_N[i]]
        out = torch.zeros(heads, width, dtype=qkv.dtype)
        for head in range(heads):
            scores = [float(qkv[i, 0, head] @ qkv[j, 1, head]) / math.sqrt(width) for j in seen]
            scores = [score - 2 ** (-8 * (head + 1) / heads) * (i - j) for score, j in zip(scores, seen, strict=True)]
            powers = [math.exp(score - max(scores)) for score in scores]
            for power, j in zip(powers, seen, strict=True):
                out[head] += power / sum(powers) * qkv[j, 2, head]
        yield out


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    domains=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    heads=st.sampled_from([1, 3, 4]),
    intra=st.booleans(),
    kernel=st.sampled_from(["reference", "tiled"]),
)
def test_every_kernel_equals_plain_loops(
    lengths: list[int], domains: int, seed: int, heads: int, intra: bool, kernel: Kernel
) -> None:
    batch = random_batch(lengths, domains, seed)
    qkv = torch.randn(sum(lengths), 3, heads, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    segments = arrange(batch, kernel, heads, domains, intra, False)
    with torch.no_grad():
        slopes = torch.tensor([2 ** (-8 * (head + 1) / heads) for head in range(heads)], dtype=torch.float64)
        actual = attend(qkv[segments.order_N], slopes, segments)[segments.inverse_N]
    expected = torch.stack(list(naive_attention(qkv, batch, intra)))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300) | st.just(1), min_size=1, max_size=6),
    domains=st.integers(1, 6),
    skew=st.sampled_from([0.0, 0.8, 0.99]),
    seed=st.integers(0, 10_000),
    heads=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([1, 3, 8]),
    intra=st.booleans(),
    longest=st.sampled_from([1, 20, 2048]),
)
def test_tiled_equals_the_reference_in_float64_with_its_gradients(
    lengths: list[int], domains: int, skew: float, seed: int, heads: int, width: int, intra: bool, longest: int
) -> None:
    """By `longest`, segments are computed by the fused kernel, in blocks, or some by each."""
    batch = random_batch(lengths, domains, seed, skew)
    generator = torch.Generator().manual_seed(seed)
    qkv = 2 * torch.randn(sum(lengths), 3, heads, width, dtype=torch.float64, generator=generator)
    weight = torch.randn(sum(lengths), heads, width, dtype=torch.float64, generator=generator)
    with patch.object(tiles, "LONGEST", longest):
        arranged = [arrange(batch, kernel, heads, domains, intra, False) for kernel in ("tiled", "reference")]
    (out, grad), (wanted, wanted_grad) = (attended(segments, qkv, weight) for segments in arranged)
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("lengths", "domains", "skew", "intra"),
    [([4096], 5, 0.0, True), ([4096, 64], 2, 0.8, True), ([4096], 3, 0.0, False), ([4096], 1, 0.0, True)],
)
def test_tiled_in_float32_equals_the_float64_reference_up_to_rounding(
    lengths: list[int], domains: int, skew: float, intra: bool
) -> None:
    batch = random_batch(lengths, domains, 0, skew)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, 2, 16, generator=generator)
    weight = torch.randn(sum(lengths), 2, 16, generator=generator)
    out, grad = attended(arrange(batch, "tiled", 2, domains, intra, False), qkv, weight)
    segments = arrange(batch, "reference", 2, domains, intra, False)
    wanted, wanted_grad = attended(segments, qkv.double(), weight.double())
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-4, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150) | st.just(1), min_size=1, max_size=6),
    domains=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    intra=st.booleans(),
    longest=st.sampled_from([20, 2048]),
)
def test_the_tiled_kernel_equals_its_own_reference_with_its_gradients(
    lengths: list[int], domains: int, seed: int, intra: bool, longest: int
) -> None:
    with patch.object(tiles, "LONGEST", longest):
        segments = arrange(random_batch(lengths, domains, seed), "tiled", 2, domains, intra, False)
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(sum(lengths), 2, 4, dtype=torch.float64, generator=generator)
    slopes = alibi_slopes(2).double()
    out, expected = (kernel(qkv, slopes, segments) for kernel in (attend_tiled, attend_tiled_reference))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-11)
    gradients = [torch.autograd.grad(x, qkv, weight)[0] for x in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_the_slopes_of_four_and_eight_heads_are_those_of_the_paper() -> None:
    assert alibi_slopes(4).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert alibi_slopes(8).tolist() == [1 / 2**k for k in range(1, 9)]


def test_segments_are_contiguous_and_in_time_order_inside() -> None:
    batch = random_batch([7, 1, 9, 4], 3, 1)
    segments = arrange(batch, "tiled", 2, 3, True, False)
    assert sorted(segments.order_N.tolist()) == list(range(21))
    assert segments.order_N[segments.inverse_N].tolist() == list(range(21))
    history_of = torch.repeat_interleave(torch.arange(4), batch.offsets_B1.diff())
    seen: set[tuple[int, int]] = set()
    start = 0
    for length in segments.lengths_G.tolist():
        tokens = segments.order_N[start : start + length]
        assert segments.start_N[start : start + length].eq(start).all()
        assert segments.end_N[start : start + length].eq(start + length).all()
        keys = {(int(history_of[i]), int(batch.domain_N[i])) for i in tokens}
        assert len(keys) == 1
        assert not keys & seen
        assert batch.position_N[tokens].tolist() == sorted(batch.position_N[tokens].tolist())
        seen |= keys
        start += length
    assert segments.lengths_G.tolist() == sorted(segments.lengths_G.tolist())


def test_a_second_forward_pass_leaves_what_the_first_backward_pass_reads() -> None:
    """Scratch memory is reused between calls; what a backward pass reads must not be in it."""
    batch = random_batch([300, 20, 150], 2, 3)
    segments = arrange(batch, "tiled", 2, 2, True, False)
    qkv, other = (torch.randn(470, 3, 2, 8, requires_grad=True) for _ in range(2))
    expected = torch.autograd.grad(attend(qkv, alibi_slopes(2), segments).sum(), qkv)[0]
    first = attend(qkv, alibi_slopes(2), segments)
    second = attend(other, alibi_slopes(2), segments)
    torch.autograd.grad(second.sum(), other)
    assert torch.equal(torch.autograd.grad(first.sum(), qkv)[0], expected)


def test_training_works_after_inference_mode_allocated_the_scratch_memory() -> None:
    batch = random_batch([50, 50], 2, 4)
    segments = arrange(batch, "tiled", 2, 2, True, False)
    qkv = torch.randn(100, 3, 2, 24, requires_grad=True)
    with torch.inference_mode():
        inferred = attend(qkv.detach(), alibi_slopes(2), segments)
    out = attend(qkv, alibi_slopes(2), segments)
    out.sum().backward()
    assert torch.equal(out.detach(), inferred)


@pytest.mark.parametrize(
    ("name", "device", "width", "message"),
    [
        ("triton", CPU, 32, r"triton can't run here \(it needs a CUDA device\); these can: auto, reference, tiled$"),
        ("triton", CUDA, 136, "heads of a width up to 128, not 136.*: auto, reference$"),
        ("tiled", CUDA, 32, "it runs on the CPU only.*: auto, reference, triton$"),
    ],
)
def test_the_error_for_a_kernel_that_cannot_run_names_the_kernels_that_can(
    name: Kernel, device: torch.device, width: int, message: str
) -> None:
    with patch.object(attention, "find_spec", return_value=object()), pytest.raises(TapestryError, match=message):
        choose_kernel(name, device, width)


def test_auto_selects_a_kernel_that_can_run() -> None:
    with patch.object(attention, "find_spec", return_value=object()):
        assert choose_kernel("auto", CPU, 7) == "tiled"
        assert choose_kernel("auto", CUDA, 7) == "triton"
        assert choose_kernel("auto", CUDA, 256) == "reference"
    with patch.object(attention, "find_spec", return_value=None):
        assert choose_kernel("auto", CUDA, 32) == "reference"
        with pytest.raises(TapestryError, match="it needs the package triton"):
            choose_kernel("triton", CUDA, 32)


@needs_cuda
@pytest.mark.parametrize("intra", [True, False])
@pytest.mark.parametrize("lengths", [[300, 1, 77, 1024], [3] * 500, [1], [129, 64]])
@pytest.mark.parametrize(("heads", "width"), [(4, 16), (3, 32), (2, 20), (1, 128)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_triton_equals_the_reference(
    dtype: torch.dtype, tolerance: float, heads: int, width: int, lengths: list[int], intra: bool
) -> None:
    batch, tokens = random_batch(lengths, 4, 5), sum(lengths)
    qkv = torch.randn(tokens, 3, heads, width).to(dtype)
    weight = torch.randn(tokens, heads, width).to(dtype)
    out, grad = attended(arrange(batch, "triton", heads, 4, intra, False), qkv, weight, CUDA)
    segments = arrange(batch, "reference", heads, 4, intra, False)
    wanted, wanted_grad = attended(segments, qkv.double(), weight.double())
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(grad, wanted_grad, rtol=tolerance, atol=tolerance)
    again = attended(arrange(batch, "triton", heads, 4, intra, False), qkv, weight, CUDA)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], grad)
