"""Causal self-attention with ALiBi over packed histories, within each domain or over all domains.

`attend` is one interface to three kernels that give equal results, and `choose_kernel` says which of them can run on a
device. Tokens are sorted by segment (`segments.py`), and a token attends only to its own segment. A segment is a
history's tokens of one domain, or the whole history, so the same kernels compute both forms of attention.

Suffixes: N tokens of a batch, B histories, S longest history, H heads, E width of a head.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tapestry.core.errors import TapestryError
from tapestry.model.kernels.tiled import attend_tiled
from tapestry.model.segments import Kernel, Segments

_BY_SPEED: tuple[Kernel, ...] = ("tiled", "triton", "reference")
_WIDEST = 128  # channels of a head for the kernel `triton`


def attend(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """out_i = Σ_j P_ij v_j, with P_ij = softmax of q_i · k_j / √E − m_h (i − j) over the j ≤ i of i's segment.

    i and j are positions in the whole history, also where attention is within a domain (arXiv 2508.20945, section 3).

    Args:
        qkv_N3HE: queries, keys and values, in the order of `segments`.
        slopes_H: ALiBi's slope m_h of each head.
        segments: the order of the tokens, and the kernel to use.

    Returns:
        (N, H, E)
    """
    match segments.kernel:
        case "tiled":
            return attend_tiled(qkv_N3HE, slopes_H, segments)
        case "triton":
            from tapestry.model.kernels.triton_attention import attend_triton  # Triton comes with torch for CUDA only

            return attend_triton(qkv_N3HE, slopes_H, segments)
        case _:
            return attend_reference(qkv_N3HE, slopes_H, segments)


def attend_reference(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend` in plain torch: a dense mask over histories that are padded to the longest. It is the paper's form.

    All other kernels are tested against it. It is slow: it computes every score, also where the mask hides it.
    """
    batch, longest = int(segments.history_N.max()) + 1, int(segments.position_N.max()) + 1
    slot_N = segments.history_N * longest + segments.position_N
    segment_BS = slot_N.new_full((batch * longest,), -1).index_copy(0, slot_N, segments.start_N).view(batch, longest)
    qkv_BS3HE = qkv_N3HE.new_zeros(batch * longest, *qkv_N3HE.shape[1:]).index_copy(0, slot_N, qkv_N3HE)
    q, k, v = qkv_BS3HE.unflatten(0, (batch, longest)).permute(2, 0, 3, 1, 4)
    position_S = torch.arange(longest, device=slot_N.device)
    distance_SS = position_S[:, None] - position_S
    allowed_BSS = (segment_BS[:, :, None] == segment_BS[:, None, :]) & (distance_SS >= 0)
    bias_HSS = -slopes_H.to(q.dtype)[:, None, None] * distance_SS
    # Padding comes after all tokens of a history and has segment −1, so no token attends to it.
    bias_BHSS = torch.where(allowed_BSS[:, None], bias_HSS, float("-inf"))
    out_BHSE = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_BHSS)
    return out_BHSE.transpose(1, 2).flatten(0, 1)[slot_N]


def alibi_slopes(heads: int) -> Tensor:
    """m_h = 2^(-8h/H), h = 1 … H (arXiv 2108.12409). (H,)"""
    return torch.tensor([2 ** (-8 * (head + 1) / heads) for head in range(heads)])


def choose_kernel(name: Literal["auto"] | Kernel, device: torch.device, head_width: int) -> Kernel:
    """The kernel that `model.kernel` selects. `auto` is tiled on the CPU, and on CUDA triton or else reference.

    Args:
        name: `model.kernel`.
        device: where attention runs.
        head_width: E.

    Raises:
        TapestryError: the kernel can't run there; the message says why, and names the kernels that can.
    """
    cuda = device.type == "cuda"
    refusals: dict[Kernel, str | None] = {
        "reference": None,
        "tiled": "it runs on the CPU only" if cuda else None,
        "triton": _triton_refusal(cuda, head_width),
    }
    able = [kernel for kernel, refusal in refusals.items() if refusal is None]
    if name == "auto":
        return next(kernel for kernel in _BY_SPEED if kernel in able)
    if name not in able:
        raise TapestryError(
            f"model.kernel: {name} can't run here ({refusals[name]}); these can: auto, {', '.join(able)}"
        )
    return name


def _triton_refusal(cuda: bool, head_width: int) -> str | None:
    if not cuda:
        return "it needs a CUDA device"
    if find_spec("triton") is None:
        return "it needs the package triton, which torch brings along for CUDA on Linux"
    if head_width > _WIDEST:
        return f"it needs heads of a width up to {_WIDEST}, not {head_width}"
    return None
