"""Adam on the rows of an embedding, with the whole matrix of second moments of each row.

A row here is what is trained of one camera. Its numbers act on the picture together: a turn of the camera and
a shift of it move the picture alike, and tell apart only what is near from what is far. Most of the gradient,
and of its noise, is then along what they have in common. Adam, which looks at each number by itself, makes
steps of which nearly all is along that direction, too; what tells the two apart is lost in them. Divided by
the root of the matrix, all directions advance at the same pace.

C numbers a row, b rows of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_SHARE = 1e-6
"""Of a matrix's trace: smaller eigenvalues count as that many, as rounding decides them."""


class RowAdam(torch.optim.Optimizer):
    """Adam whose step of a row is lr M^(-1/2) m, with means m of gradients g and M of g g^T.

    Rows without a gradient stay untouched, their means too, as in `torch.optim.SparseAdam`; unlike there each
    row counts its own steps for the correction of its means' start at zero.

    Args:
        params: Embeddings' weights (rows, C), with sparse gradients.
        lr: Step size.
        betas: Decay rates of m and of M.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Makes one step.

        Args:
            closure: Not supported.
        """
        assert closure is None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    gradient = table.grad.coalesce()
                    rows, values = gradient.indices()[0], gradient.values()
                    table[rows] -= group["lr"] * self._direction(table, rows, values, group["betas"])

    def _direction(self, table: Tensor, rows: Tensor, gradient: Tensor, betas: tuple[float, float]) -> Tensor:
        """Updates means, and returns M^(-1/2) m of rows (b,) with gradients (b, C)."""
        state: dict[str, Any] = self.state[table]
        if not state:
            num_rows, num_columns = table.shape
            state["counts"] = table.new_zeros(num_rows)
            state["mean"] = torch.zeros_like(table)
            state["moments"] = table.new_zeros(num_rows, num_columns, num_columns)
        state["counts"][rows] += 1
        state["mean"][rows] = torch.lerp(gradient, state["mean"][rows], betas[0])
        outer = gradient.unsqueeze(2) * gradient.unsqueeze(1)  # (b, C, C)
        state["moments"][rows] = torch.lerp(outer, state["moments"][rows], betas[1])
        first, second = (1 - beta ** state["counts"][rows].double() for beta in betas)
        mean = state["mean"][rows].double() / first.unsqueeze(1)
        moments = state["moments"][rows].double() / second[:, None, None]
        return _inverse_root(moments, mean).to(table.dtype)


def _inverse_root(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Returns M^(-1/2) v of symmetric matrices (b, C, C) without negative eigenvalues; zeros for M = 0."""
    values, axes = torch.linalg.eigh(matrices)  # (b, C), (b, C, C)
    trace = values.sum(dim=1, keepdim=True)
    values = values.clamp(min=0).maximum(SMALLEST_SHARE * trace)
    along = (axes.mT @ vectors.unsqueeze(2)).squeeze(2)  # (b, C)
    along = torch.where(trace > 0, along / values.sqrt().clamp(min=1e-300), torch.zeros_like(along))
    return (axes @ along.unsqueeze(2)).squeeze(2)
