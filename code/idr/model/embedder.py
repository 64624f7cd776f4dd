"""Positional encoding (paper, section 4; Mildenhall et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor


def encoded_width(dimensions: int, octaves: int) -> int:
    """Returns the width of an encoded vector; 0 octaves leave the vector as it is."""
    return dimensions * (1 + 2 * octaves)


def positional_encoding(x: Tensor, octaves: int) -> Tensor:
    """Encodes vectors as [x, sin(2^0 x), cos(2^0 x), ..., sin(2^(L-1) x), cos(2^(L-1) x)].

    Args:
        x: (N, D), points in the unit-sphere frame or unit directions.
        octaves: L; 0 returns x.

    Returns:
        (N, D (1 + 2 L)), in the memory layout of x: contiguous columns are many times faster than rows.
    """
    if not octaves:
        return x
    parts = [x, *(f(x * 2.0**k) for k in range(octaves) for f in (torch.sin, torch.cos))]
    if x.ndim == 2 and not x.is_contiguous() and x.T.is_contiguous():
        return torch.cat([part.T for part in parts]).T
    return torch.cat(parts, dim=-1)
