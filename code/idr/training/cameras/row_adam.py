"""Adam on the rows of an embedding with a full-matrix preconditioner for each row.

A row holds the parameters of one camera, which are strongly coupled: rotating the camera and translating it
shift the image in almost the same way and differ only in parallax. Most of the gradient, and of its noise, is
along their common direction. Diagonal Adam normalizes each parameter by itself, so nearly all of its step is
along that direction, too, and the difference of the two is lost in it. Dividing by the square root of the
full matrix of second moments makes all directions advance at the same rate.

C numbers of a row, b rows of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MIN_EIGENVALUE = 1e-6
"""Floor of the eigenvalues, as a fraction of the trace; smaller ones are rounding errors."""


class RowAdam(torch.optim.Optimizer):
    """Adam whose step of a row is lr M^(-1/2) m, with running means m of the gradient g and M of g g^T.

    Rows without a gradient and their means stay unchanged, as in `torch.optim.SparseAdam`. Unlike there, each
    row counts its own steps for the bias correction. Parameters are weights (rows, C) of embeddings with
    sparse gradients; betas are the decay rates of m and of M.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Makes one step; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    gradient = table.grad.coalesce()
                    rows, values = gradient.indices()[0], gradient.values()
                    table[rows] -= group["lr"] * self._direction(table, rows, values, group["betas"])

    def _direction(self, table: Tensor, rows: Tensor, gradient: Tensor, betas: tuple[float, float]) -> Tensor:
        """Updates the means of rows (b,) by their gradients (b, C) and returns M^(-1/2) m, (b, C)."""
        state: dict[str, Any] = self.state[table]
        if not state:
            state["counts"] = table.new_zeros(len(table))
            state["mean"] = torch.zeros_like(table)
            state["moments"] = table.new_zeros(*table.shape, table.shape[1])
        state["counts"][rows] += 1
        state["mean"][rows] = torch.lerp(gradient, state["mean"][rows], betas[0])
        outer = gradient.unsqueeze(2) * gradient.unsqueeze(1)  # (b, C, C)
        state["moments"][rows] = torch.lerp(outer, state["moments"][rows], betas[1])
        first, second = (1 - beta ** state["counts"][rows].double() for beta in betas)
        mean = state["mean"][rows].double() / first.unsqueeze(1)
        moments = state["moments"][rows].double() / second[:, None, None]
        return _inverse_root(moments, mean).to(table.dtype)


def _inverse_root(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Returns M^(-1/2) v of positive semidefinite matrices (b, C, C); zeros for M = 0."""
    values, axes = torch.linalg.eigh(matrices)  # (b, C), (b, C, C)
    trace = values.sum(dim=1, keepdim=True)
    values = values.clamp(min=0).maximum(MIN_EIGENVALUE * trace)
    along = (axes.mT @ vectors.unsqueeze(2)).squeeze(2)  # (b, C)
    along = torch.where(trace > 0, along / values.sqrt().clamp(min=1e-300), torch.zeros_like(along))
    return (axes @ along.unsqueeze(2)).squeeze(2)
