"""Vectors of one head, read and written by Triton kernels. The channels of a block are rounded up to a power of two."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_vectors(base, token, valid, stride, width, WIDTH: tl.constexpr):
    """The `width` channels of each token at base + token · stride; 0 where not valid, and in added channels."""
    channel = tl.arange(0, WIDTH)
    pointer = base + token[:, None].to(tl.int64) * stride + channel[None, :]
    return tl.load(pointer, mask=valid[:, None] & (channel[None, :] < width), other=0.0)


@triton.jit
def store_vectors(base, token, valid, stride, width, value, WIDTH: tl.constexpr):
    """Write what `load_vectors` reads."""
    channel = tl.arange(0, WIDTH)
    pointer = base + token[:, None].to(tl.int64) * stride + channel[None, :]
    tl.store(pointer, value.to(base.dtype.element_ty), mask=valid[:, None] & (channel[None, :] < width))
