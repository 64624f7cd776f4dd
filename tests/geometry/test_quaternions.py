"""Quaternions against scipy's rotations, and what must hold for every rotation.

float64 unless stated: a handful of products of numbers up to 1 round to about 1e-15, hence 1e-12 wherever the
formula itself is exact.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from idr.geometry.quaternions import quaternion_to_rotation, rotation_to_quaternion

EXACT = 1e-12
component = st.floats(-1, 1, allow_nan=False, allow_subnormal=False)
quaternions = st.tuples(component, component, component, component).filter(lambda q: math.hypot(*q) > 1e-2)
axes = st.tuples(component, component, component).filter(lambda v: math.hypot(*v) > 1e-2)
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hamilton_product(p, q):
    """The product of quaternions (w, x, y, z), term by term."""
    (a, b, c, d), (e, f, g, h) = p, q
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )


def about(axis, angle: float) -> torch.Tensor:
    """The rotation matrix by Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return double(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def same_rotation(p: torch.Tensor, q: torch.Tensor) -> float:
    """The largest difference of two unit quaternions, up to sign."""
    return min((p - q).abs().max().item(), (p + q).abs().max().item())


@EXAMPLES
@given(quaternions)
def test_rotation_equals_scipy(q) -> None:
    ours = quaternion_to_rotation(double(q))
    theirs = Rotation.from_quat([*q[1:], q[0]]).as_matrix()
    assert (ours - double(theirs)).abs().max() < EXACT


@EXAMPLES
@given(quaternions, quaternions)
def test_product_of_quaternions_is_product_of_rotations(p, q) -> None:
    product = quaternion_to_rotation(double(hamilton_product(p, q)))
    assert (
        product - quaternion_to_rotation(double(p)) @ quaternion_to_rotation(double(q))
    ).abs().max() < 1e-11


@EXAMPLES
@given(quaternions)
def test_rotation_is_orthogonal_and_proper(q) -> None:
    rotation = quaternion_to_rotation(double(q))
    assert (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max() < EXACT
    assert abs(torch.linalg.det(rotation).item() - 1) < EXACT


@EXAMPLES
@given(quaternions)
def test_round_trip_from_quaternion(q) -> None:
    unit = double(q) / math.hypot(*q)
    back = rotation_to_quaternion(quaternion_to_rotation(unit))
    assert back[0] >= 0
    assert abs(back.norm().item() - 1) < EXACT
    assert same_rotation(back, unit) < EXACT


@EXAMPLES
@given(axes)
def test_half_turn_about_any_axis(axis) -> None:
    rotation = about(axis, math.pi)
    quaternion = rotation_to_quaternion(rotation)
    unit = double(axis) / math.hypot(*axis)
    assert quaternion[0] >= 0
    assert same_rotation(quaternion[1:], unit) < EXACT
    assert (quaternion_to_rotation(quaternion) - rotation).abs().max() < EXACT


@pytest.mark.parametrize(
    "axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 0), (1, 1, 0), (1, 0, -1), (1, 1, 1)]
)
@pytest.mark.parametrize(
    "from_half_turn", [0.0, 1e-12, -1e-12, 1e-8, -1e-8, 1e-4, -1e-4, 0.3, math.pi - 1e-9, math.pi]
)
def test_near_the_half_turn_and_the_identity(axis, from_half_turn: float) -> None:
    angle = math.pi - from_half_turn
    quaternion = rotation_to_quaternion(about(axis, angle))
    unit = double(axis) / math.sqrt(sum(a * a for a in axis))
    expected = torch.cat((double([math.cos(angle / 2)]), math.sin(angle / 2) * unit))
    assert quaternion[0] >= 0
    assert same_rotation(quaternion, expected) < EXACT


def test_float32_half_turns_lose_no_digits() -> None:
    rng = np.random.default_rng(0)
    rotations = torch.stack([about(axis, math.pi) for axis in rng.normal(size=(200, 3))]).float()
    back = quaternion_to_rotation(rotation_to_quaternion(rotations))
    # Entries are rounded to 6e-8; dividing by w, here 0, would lose half the digits (3e-4).
    assert (back - rotations).abs().max() < 1e-6


@EXAMPLES
@given(quaternions, st.floats(1e-3, 1e3))
def test_norm_and_sign_play_no_part(q, factor: float) -> None:
    rotation = quaternion_to_rotation(double(q))
    assert (quaternion_to_rotation(factor * double(q)) - rotation).abs().max() < EXACT
    assert (quaternion_to_rotation(-double(q)) - rotation).abs().max() < EXACT


def test_gradient_equals_finite_differences_at_any_norm() -> None:
    torch.manual_seed(0)
    for norm in (0.3, 1.0, 4.0):
        q = (
            norm * torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1)
        ).requires_grad_(True)
        assert torch.autograd.gradcheck(quaternion_to_rotation, (q,))
        assert torch.autograd.gradgradcheck(quaternion_to_rotation, (q,))


def test_gradient_has_no_part_along_the_quaternion() -> None:
    torch.manual_seed(1)
    q = (2.5 * torch.randn(20, 4, dtype=torch.float64)).requires_grad_(True)
    weight = torch.randn(20, 3, 3, dtype=torch.float64)
    (quaternion_to_rotation(q) * weight).sum().backward()
    assert ((q.grad * q).sum(dim=1)).abs().max() < EXACT  # the norm is divided out inside the graph
    assert q.grad.norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,), (2, 0, 3)])
def test_batch_shapes(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    q = torch.randn(*shape, 4, dtype=torch.float64)
    rotation = quaternion_to_rotation(q)
    back = rotation_to_quaternion(rotation)
    assert rotation.shape == (*shape, 3, 3) and back.shape == (*shape, 4)
    for one, expected in zip(q.reshape(-1, 4), rotation.reshape(-1, 3, 3), strict=True):
        assert torch.equal(quaternion_to_rotation(one), expected)
    for one, expected in zip(rotation.reshape(-1, 3, 3), back.reshape(-1, 4), strict=True):
        assert torch.equal(rotation_to_quaternion(one), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    q = torch.tensor([0.5, -0.5, 0.5, 0.5], dtype=dtype)
    assert quaternion_to_rotation(q).dtype == dtype
    assert rotation_to_quaternion(quaternion_to_rotation(q)).dtype == dtype
