"""Our outputs and gradients against the published code's, for fixed weights and rays."""

from __future__ import annotations

import pytest
import torch

from idr.geometry.cameras import decompose_projection
from idr.geometry.quaternions import quaternion_to_rotation, rotation_to_quaternion
from tests.parity import comparisons, golden
from tests.parity.golden import VALUES, difference


@pytest.mark.parametrize("name", golden.NAMES)
def test_networks(name: str) -> None:
    assert comparisons.networks(name) == []


@pytest.mark.parametrize("view", ["eval0", "eval7"])
@pytest.mark.parametrize("name", golden.NAMES)
def test_evaluation(name: str, view: str) -> None:
    assert comparisons.evaluation(name, view) == []


@pytest.mark.parametrize("name", golden.NAMES)
def test_training_without_random_rays(name: str) -> None:
    assert comparisons.training(name) == []


@pytest.mark.parametrize("name", golden.NAMES)
def test_trained_cameras_without_random_rays(name: str) -> None:
    assert comparisons.trained_cameras(name) == []


@pytest.mark.parametrize("name", golden.NAMES)
def test_whole_step(name: str) -> None:
    assert comparisons.whole_step(name) == []


@pytest.mark.parametrize("camera", range(4))
def test_projection_decomposition(camera: int) -> None:
    arrays = golden.arrays("a")
    intrinsics, pose = decompose_projection(arrays[f"P{camera}"].numpy())
    assert difference(torch.from_numpy(intrinsics).float(), arrays[f"P{camera}.K"].float()) < VALUES
    assert difference(torch.from_numpy(pose).float(), arrays[f"P{camera}.pose"].float()) < VALUES


def test_rotation_to_quaternion() -> None:
    arrays = golden.section(golden.arrays("a"), "quat")
    expected = torch.where(arrays["q"][:, :1] < 0, -arrays["q"], arrays["q"])
    assert difference(rotation_to_quaternion(arrays["R"]), expected) < VALUES
    assert difference(quaternion_to_rotation(arrays["q"]), arrays["R"]) < VALUES
