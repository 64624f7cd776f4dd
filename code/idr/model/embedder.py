"""Positional encoding by sinusoids of octaves (paper, section 4; Mildenhall et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor


def encoded_width(dimensions: int, octaves: int) -> int:
    """Returns the width of the encoding of a vector; no octaves leave it as it is."""
    return dimensions * (1 + 2 * octaves)


def positional_encoding(x: Tensor, octaves: int) -> Tensor:
    """Encodes vectors as [x, sin(2^0 x), cos(2^0 x), ..., sin(2^(L-1) x), cos(2^(L-1) x)].

    Args:
        x: (N, D), in the unit-sphere frame or a unit direction.
        octaves: L; 0 returns x.

    Returns:
        (N, D (1 + 2 L)); laid out as x, rows or columns in one piece: columns are many times as quick.
    """
    parts = [x]
    for k in range(octaves):
        parts += [torch.sin(x * 2.0**k), torch.cos(x * 2.0**k)]
    if not octaves:
        return x
    if x.ndim == 2 and not x.is_contiguous() and x.T.is_contiguous():
        return torch.cat([part.T for part in parts]).T
    return torch.cat(parts, dim=-1)
