"""The time of attention, forward and backward: within domains, against dense causal attention and the paper's mask.

All contenders compute the same tokens: `tapestry.model.attention.attend` within domains; the same kernel over whole
histories (dense causal; on the CPU, long histories use torch's fused kernel); and the paper's form, a mask over
interleaved domains. HEAD_WIDTH is the width of a head, 32 by default; the default model's is 16.

On the CPU: float32, 16,384 tokens, and the mask by `attend_reference`. On CUDA: bf16, 131,072 tokens, the mask by
FlexAttention, and one more contender: torch's flash attention, dense causal, which has no ALiBi. FlexAttention's blocks
of the mask are made before the clock starts. There a figure is the mean of 10 passes in a row, as the launches of one
pass overlap with the one before it in training.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import against, interleaved, report
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from workloads import PRECISION, TOKENS, random_batch, shares, train_settings

from tapestry.model.attention import alibi_slopes, attend, choose_kernel
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.segments import Kernel, arrange
from tapestry.model.tensors import to_device
from tapestry.sequences.batches import Batch

HEADS, WIDTH, DOMAINS = 4, int(os.environ.get("HEAD_WIDTH", "32")), 5
LENGTHS = (64, 200, 512, 1024, 2048, 4096)
CUDA_LENGTHS = (64, 256, 1024, 4096, 8192, 16_384)
ROUNDS = 7

compiled_flex_attention = torch.compile(flex_attention)


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def contender(
    batch: Batch, kernel: Kernel, intra: bool, device: torch.device, domains: int = DOMAINS
) -> Callable[[], object]:
    """One forward and backward pass over the batch."""
    segments = to_device(arrange(batch, kernel, HEADS, domains, intra, False), device)
    tokens, dtype = len(batch.domain_N), dtype_on(device)
    qkv = torch.randn(tokens, 3, HEADS, WIDTH, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn(tokens, HEADS, WIDTH, device=device, dtype=dtype)
    slopes = alibi_slopes(HEADS).to(device)
    return lambda: torch.autograd.grad(attend(qkv, slopes, segments), qkv, grad)


def flex_with_mask(batch: Batch, length: int, device: torch.device) -> Callable[[], object]:
    """The same by FlexAttention over interleaved domains, with a mask."""
    domain_BS = batch.domain_N.view(-1, length).to(device)
    slopes = alibi_slopes(HEADS).to(device)

    def visible(b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (domain_BS[b, i] == domain_BS[b, j]) & (i >= j)

    def with_alibi(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes[h] * (i - j)

    mask = create_block_mask(visible, len(domain_BS), None, length, length, device=str(device), _compile=True)
    q, k, v, grad = _padded(len(domain_BS), length, device)
    return lambda: torch.autograd.grad(
        compiled_flex_attention(q, k, v, score_mod=with_alibi, block_mask=mask), (q, k, v), grad
    )


def dense_flash(batch: Batch, length: int, device: torch.device) -> Callable[[], object]:
    """Dense causal attention by torch's flash attention, without ALiBi."""
    q, k, v, grad = _padded(len(batch.domain_N) // length, length, device)

    def run() -> object:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), grad)

    return run


def _padded(users: int, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and a gradient, (B, H, S, E)."""
    q, k, v, grad = (torch.randn(users, HEADS, length, WIDTH, device=device, dtype=dtype_on(device)) for _ in range(4))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), grad


def repeated(run: Callable[[], object], passes: int) -> Callable[[], None]:
    def run_all() -> None:
        for _ in range(passes):
            run()

    return run_all


def main() -> None:
    device = choose_device("auto")
    make_deterministic(7, train_settings().threads)
    cuda = device.type == "cuda"
    passes = 10 if cuda else 1
    fast = choose_kernel("auto", device, WIDTH)
    rows = []
    for name, share in (("balanced", shares(DOMAINS)), ("80 % in one domain", shares(DOMAINS, 0.8))):
        for length in CUDA_LENGTHS if cuda else LENGTHS:
            batch = random_batch(length, share)
            contenders = {
                "ours": contender(batch, fast, True, device),
                "dense causal": contender(batch, fast, False, device),
            }
            if cuda:
                contenders["the paper's mask, FlexAttention"] = flex_with_mask(batch, length, device)
                contenders["dense causal without ALiBi, torch's flash attention"] = dense_flash(batch, length, device)
            else:
                contenders["the paper's mask"] = contender(batch, "reference", True, device)
            in_a_row = {contender: repeated(run, passes) for contender, run in contenders.items()}
            times = interleaved(in_a_row, ROUNDS, f"attention S={length} {name}")
            seconds = {contender: taken / passes for contender, taken in times.items()}
            ideal = 1 / float((share**2).sum())
            for other in list(contenders)[1:]:
                case = f"S={length} D={DOMAINS} {name} {PRECISION}"
                rows.append(against(case, other, seconds["ours"], seconds[other], ideal_over_dense=ideal))
    report("attention" if WIDTH == 32 else f"attention_{WIDTH}", rows)
    print(f"\n{TOKENS} tokens, {HEADS} heads of {WIDTH}, forward and backward; medians of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
