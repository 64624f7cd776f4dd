"""Twists, and K with corrections."""

from __future__ import annotations

import torch

from idr.geometry.cameras import corrected_intrinsics, pixel_rays
from idr.geometry.rigid_motions import cross_matrix, se3_exp


def test_exponential_is_that_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    for size in (0.0, 1e-9, 1e-3, 0.3, 1.0, 2.5):  # on both sides of where the series ends
        twist = directions * size
        matrix = torch.zeros(8, 4, 4, dtype=torch.float64)
        matrix[:, :3, :3], matrix[:, :3, 3] = cross_matrix(twist[:, 3:]), twist[:, :3]
        assert torch.allclose(se3_exp(twist), torch.linalg.matrix_exp(matrix), atol=1e-12)
        # float32 has seven digits
        assert torch.allclose(se3_exp(twist.float()).double(), torch.linalg.matrix_exp(matrix), atol=1e-5)


def test_exponential_has_its_gradient_at_zero_and_elsewhere() -> None:
    generator = torch.Generator().manual_seed(1)
    for size in (0.0, 0.4, 1.5):
        twist = (torch.randn(2, 6, generator=generator, dtype=torch.float64) * size).requires_grad_()
        assert torch.autograd.gradcheck(se3_exp, (twist,))


def test_intrinsics_are_corrected_and_rays_have_their_gradient() -> None:
    intrinsics = torch.eye(4, dtype=torch.float64)[None].repeat(2, 1, 1)
    intrinsics[:, 0, :3] = torch.tensor([200.0, 1.5, 79.0])
    intrinsics[:, 1, 1:3] = torch.tensor([210.0, 63.0])
    focal, shift = torch.full((2, 1), 0.05).double(), torch.tensor([[0.01, -0.02], [0.0, 0.03]]).double()
    corrected = corrected_intrinsics(intrinsics, focal, shift)
    factor = torch.tensor(0.05, dtype=torch.float64).exp()
    assert torch.allclose(
        corrected[0, 0, :3], torch.stack((200 * factor, 1.5 * factor, 79 + 0.01 * 200 * factor**0))
    )
    assert torch.allclose(corrected[1, 1, 1:3], torch.stack((210 * factor, 63 + 0.03 * 210 * factor**0)))
    assert torch.equal(corrected[:, 2:], intrinsics[:, 2:])
    uv, pose = torch.rand(2, 3, 2).double() * 100, torch.eye(4).double()[None].repeat(2, 1, 1)

    def directions(log_focal: torch.Tensor, principal_point: torch.Tensor) -> torch.Tensor:
        return pixel_rays(uv, pose, corrected_intrinsics(intrinsics, log_focal, principal_point))[0]

    assert torch.autograd.gradcheck(directions, (focal.requires_grad_(), shift.requires_grad_()))
