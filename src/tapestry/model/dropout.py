"""Dropout with a fast mask on the CPU, where torch's dropout draws one random number at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BITS = 16


class Dropout(nn.Module):
    """`torch.nn.Dropout`. On the CPU an entry takes 16 random bits, so rates are rounded to multiples of 2^-16.

    Args:
        rate: probability that an entry becomes 0; the other entries are divided by 1 − rate.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._dropped = min(round(rate * 2**_BITS), 2**_BITS - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries of `x` in training mode; return a tensor of the same shape, or `x` in evaluation mode."""
        if not self.training or self._dropped == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        # Each 64-bit random number gives four entries.
        words = torch.empty(-(-x.numel() * _BITS // 64), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = (bits >= self._dropped - 2 ** (_BITS - 1)).to(x.dtype)
        scaled: Tensor = x * kept.div_(1 - self._dropped / 2**_BITS)
        return scaled
