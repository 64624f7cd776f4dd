"""Adam with matrices of second moments, against slow twins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from idr.training.cameras.row_adam import RowAdam

BETAS = (0.8, 0.95)
DOUBLE = torch.float64


def table_of(rows: torch.Tensor) -> nn.Embedding:
    return nn.Embedding(*rows.shape, sparse=True, _weight=rows.clone())


def give(table: nn.Embedding, rows: list[int], gradients: torch.Tensor) -> None:
    table.weight.grad = torch.sparse_coo_tensor(
        torch.tensor([rows]), gradients, table.weight.shape, check_invariants=True
    )


def slow_steps(gradients: list[torch.Tensor], lr: float) -> torch.Tensor:
    """The way that one row goes, by weighted sums over all of its gradients and a matrix root by SVD."""
    total = torch.zeros_like(gradients[0])
    for end in range(1, len(gradients) + 1):
        sums = []
        for beta, terms in ((BETAS[0], gradients), (BETAS[1], [torch.outer(g, g) for g in gradients])):
            weights = torch.tensor([beta ** (end - 1 - k) for k in range(end)], dtype=DOUBLE)
            sums.append(sum(w * t for w, t in zip(weights / weights.sum(), terms[:end], strict=True)))
        mean, moments = sums
        left, values, _ = torch.linalg.svd(moments)
        kept = values > 1e-6 * values.sum()
        root = left[:, kept] @ torch.diag(values[kept] ** -0.5) @ left[:, kept].T
        total = total - lr * root @ mean
    return total


def test_steps_are_those_of_the_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator, dtype=DOUBLE)
    table = table_of(torch.zeros(3, 4, dtype=DOUBLE))
    optimizer = RowAdam([table.weight], lr=0.1, betas=BETAS)
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    for step in range(30):
        rows = [2, 0] if step % 3 else [2]
        gradients = torch.randn(len(rows), 4, generator=generator, dtype=DOUBLE) @ mix + 0.3
        give(table, rows, gradients)
        optimizer.step()
        for row, gradient in zip(rows, gradients, strict=True):
            seen[row].append(gradient)
    for row in (0, 2):
        assert torch.allclose(table.weight[row], slow_steps(seen[row], 0.1), atol=1e-7)
    assert not table.weight[1].any()  # never in a batch


def test_one_number_is_adam() -> None:
    ours, theirs = table_of(torch.ones(1, 1)), nn.Parameter(torch.ones(1, 1))
    optimizers = RowAdam([ours.weight], lr=0.1, betas=BETAS), torch.optim.Adam([theirs], lr=0.1, betas=BETAS)
    for value in (0.3, -0.2, 5.0, 0.7):
        give(ours, [0], torch.tensor([[value]]))
        theirs.grad = torch.tensor([[value]])
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(ours.weight, theirs, atol=1e-6)  # float32, and Adam's addend 1e-8


def test_a_turned_frame_goes_the_same_way() -> None:
    generator = torch.Generator().manual_seed(1)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=DOUBLE))
    plain, turned = (table_of(torch.zeros(1, 5, dtype=DOUBLE)) for _ in range(2))
    optimizers = [RowAdam([t.weight], lr=0.1, betas=BETAS) for t in (plain, turned)]
    for _ in range(12):
        gradient = torch.randn(1, 5, generator=generator, dtype=DOUBLE) * torch.tensor([9.0, 1, 1, 0.1, 2])
        for table, values in ((plain, gradient), (turned, gradient @ turn.T)):
            give(table, [0], values)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(plain.weight @ turn.T, turned.weight, atol=1e-9)


@pytest.mark.parametrize("gradient", [[0.0, 0.0, 0.0], [1e-30, 0.0, 0.0], [2.0, 2.0, 0.0], [1e18, 1.0, 0.0]])
def test_a_step_is_finite_and_bounded(gradient: list[float]) -> None:
    table = table_of(torch.zeros(1, 3))
    optimizer = RowAdam([table.weight], lr=0.1, betas=BETAS)
    for _ in range(20):
        before = table.weight.detach().clone()
        give(table, [0], torch.tensor([gradient]))
        optimizer.step()
        assert torch.isfinite(table.weight).all()
        assert (table.weight - before).norm() <= 0.1 * 1.001
