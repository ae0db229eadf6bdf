"""The time of attention, forward and backward: within domains, against dense causal attention and the paper's mask.

All contenders compute the same 16,384 tokens through `tapestry.model.attention.attend`: the device's fastest kernel
within domains; the same kernel over whole histories (dense causal; long histories use torch's fused kernel); and the
reference, a mask over interleaved domains. The CPU computes in float32. CUDA computes in bf16, with FlexAttention as
one more contender.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import against, interleaved, report
from workloads import TOKENS, random_batch, shares, train_settings

from tapestry.model.attention import alibi_slopes, attend, choose_kernel
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.segments import Kernel, arrange
from tapestry.model.tensors import to_device
from tapestry.sequences.batches import Batch

HEADS, WIDTH, DOMAINS = 4, 32, 5
LENGTHS = (64, 200, 512, 1024, 2048, 4096)
ROUNDS = 7


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


def main() -> None:
    device = choose_device("auto")
    make_deterministic(7, train_settings().threads)
    cuda = device.type == "cuda"
    fast = choose_kernel("auto", device, dtype_on(device), HEADS, WIDTH, True)
    rows = []
    for name, share in (("balanced", shares(DOMAINS)), ("80 % in one domain", shares(DOMAINS, 0.8))):
        for length in (*LENGTHS, 8192, 16_384) if cuda else LENGTHS:
            batch = random_batch(length, share)
            contenders = {
                "ours": contender(batch, fast, True, device),
                "dense causal": contender(batch, fast, False, device),
            }
            if length <= LENGTHS[-1]:  # the mask of longer histories doesn't fit into memory
                contenders["the paper's mask"] = contender(batch, "reference", True, device)
            if cuda:
                contenders["FlexAttention"] = contender(batch, "flex", True, device)
            seconds = interleaved(contenders, ROUNDS, f"attention S={length} {name}")
            ideal = 1 / float((share**2).sum())
            for other in list(contenders)[1:]:
                case = f"S={length} D={DOMAINS} {name} {'bf16' if cuda else 'fp32'}"
                rows.append(against(case, other, seconds["ours"], seconds[other], ideal_over_dense=ideal))
    report("attention", rows)
    print(f"\n{TOKENS} tokens, {HEADS} heads of {WIDTH}, forward and backward; medians of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
