"""Cameras beyond the published: intrinsics, twists, frozen ones; kept in checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import tiny
from torch.nn import functional

from idr.errors import InputError
from idr.geometry.cameras import pose_matrix
from idr.training.cameras.intrinsics import CamerasConfig, LearnableIntrinsics, given_intrinsics, make_cameras
from idr.training.cameras.poses import LearnablePoses, OrbitPoses, TwistPoses
from idr.training.trainer import RunWriters, Trainer

ALL = CamerasConfig(poses="se3", frozen="first", focal="shared", principal_point="per_image")
FULL = CamerasConfig(poses="se3", preconditioner="full")
DIAGONAL = CamerasConfig(poses="se3")


def trainer_of(root: Path, run: Path, cameras: CamerasConfig, nepoch: int = 2, **options: Any) -> Trainer:
    """The small trainer with a block train.cameras."""
    plain = tiny.make_trainer(root, run, nepoch=nepoch, cameras=True, batch_size=2, **options)
    config = replace(plain.config, cameras=cameras)
    poses, intrinsics = make_cameras(plain.dataset, cameras)
    state = plain.state
    return Trainer(
        plain.dataset, state.model, plain.loss, config, num_epochs=nepoch, batch_size=2, seed=0,
        outputs=RunWriters(run), poses=poses, intrinsics=intrinsics,
    )  # fmt: skip


def test_intrinsics_start_at_the_camera_file_and_shared_ones_stay_equal(
    scene_root: Path, tmp_path: Path
) -> None:
    config = CamerasConfig(focal="shared", principal_point="per_image")
    trainer = trainer_of(scene_root, tmp_path, config)
    intrinsics = trainer.state.intrinsics
    assert intrinsics is not None
    initial = given_intrinsics(trainer.dataset)
    assert torch.equal(intrinsics.matrices(), initial)
    trainer.train()
    now = intrinsics.matrices()
    factors = now[:, 0, 0] / initial[:, 0, 0]
    assert factors[0] != 1 and torch.allclose(factors, factors[:1].expand(5), rtol=1e-6)
    assert len({tuple(k[:2, 2].tolist()) for k in now}) == 5


def test_first_camera_frozen_keeps_its_bits_and_others_move(scene_root: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(("quaternion", "se3", "orbit")):
        run = tmp_path / str(number)
        trainer = trainer_of(scene_root, run, CamerasConfig(poses=kind, frozen="first"))  # type: ignore[arg-type]
        start = trainer.dataset.get_pose_init()
        trainer.train()
        end = tiny.parts_of(run)["CamParameters"]["pose_vecs_state_dict"]["weight"]
        assert tiny.same(end[0], start[0])
        assert bool((end[1:] != start[1:]).any(dim=1).all())


def test_all_frozen_train_intrinsics_alone(scene_root: Path, tmp_path: Path) -> None:
    trainer = trainer_of(scene_root, tmp_path, CamerasConfig(frozen="all", focal="per_image"))
    trainer.train()
    parts = tiny.parts_of(tmp_path)
    assert tiny.same(
        parts["CamParameters"]["pose_vecs_state_dict"]["weight"], trainer.dataset.get_pose_init()
    )
    assert bool((parts["CameraState"]["intrinsics"]["focal"] != 0).all())


def test_published_files_keep_their_form_and_new_state_is_apart(scene_root: Path, tmp_path: Path) -> None:
    trainer_of(scene_root, tmp_path / "plain", CamerasConfig()).train()
    plain = tiny.parts_of(tmp_path / "plain")
    assert "CameraState" not in plain
    tiny.make_trainer(scene_root, tmp_path / "default", cameras=True, batch_size=2).train()
    assert (
        tiny.checkpoint_digests(tmp_path / "plain")["CamParameters"]
        == (tiny.checkpoint_digests(tmp_path / "default")["CamParameters"])
    )
    trainer_of(scene_root, tmp_path / "all", ALL).train()
    beyond = tiny.parts_of(tmp_path / "all")
    assert set(beyond) - set(plain) == {"CameraState"} and set(plain) - set(beyond) == {
        "OptimizerCamParameters"
    }
    weight = beyond["CamParameters"]["pose_vecs_state_dict"]["weight"]
    assert weight.shape == (5, 7) and weight.dtype == torch.float32


@pytest.mark.parametrize("cameras", [ALL, replace(ALL, poses="orbit", preconditioner="full")])
def test_resumed_training_is_the_same_to_the_bit(
    scene_root: Path, tmp_path: Path, cameras: CamerasConfig
) -> None:
    trainer_of(scene_root, tmp_path / "whole", cameras, nepoch=3).train()
    trainer_of(scene_root, tmp_path / "parts", cameras, nepoch=1).train()
    again = trainer_of(scene_root, tmp_path / "parts", cameras, nepoch=3)
    again.resume(again.checkpoints, "latest", keep_seed=False)
    again.train()
    whole, parts = (tiny.parts_of(tmp_path / name) for name in ("whole", "parts"))
    assert bool(whole["CameraState"]["twists"][1:].any())
    assert tiny.same(whole, parts)


def test_betas_reach_the_optimizer_of_the_poses(scene_root: Path, tmp_path: Path) -> None:
    optimizer = trainer_of(
        scene_root, tmp_path, CamerasConfig(betas=(0.8, 0.95))
    ).state.cameras.pose_optimizer
    assert optimizer is not None and optimizer.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize(
    ("saved", "wanted", "message"),
    [
        (CamerasConfig(), CamerasConfig(poses="se3"), "poses trained as quaternion, the conf says se3"),
        (CamerasConfig(poses="se3"), CamerasConfig(), "poses trained as se3, the conf says quaternion"),
        (CamerasConfig(poses="orbit"), CamerasConfig(poses="se3"), "trained as orbit, the conf says se3"),
        (FULL, DIAGONAL, "with preconditioner = full, the conf says diagonal"),
        (DIAGONAL, FULL, "with preconditioner = diagonal, the conf says full"),
        (CamerasConfig(focal="shared"), CamerasConfig(), "holds trained intrinsics, the conf says"),
        (CamerasConfig(focal="shared"), CamerasConfig(focal="per_image"), r"focal \(1 row\).*\(5 rows\)"),
    ],
)  # fmt: skip
def test_other_cameras_are_refused(
    scene_root: Path, tmp_path: Path, saved: CamerasConfig, wanted: CamerasConfig, message: str
) -> None:
    trainer_of(scene_root, tmp_path, saved, nepoch=1).train()
    other = trainer_of(scene_root, tmp_path, wanted)
    with pytest.raises(InputError, match=message):
        other.resume(other.checkpoints, "latest", keep_seed=False)


def test_intrinsics_of_another_scene_are_refused(scene_root: Path, tmp_path: Path) -> None:
    config = CamerasConfig(focal="shared")
    trainer_of(scene_root, tmp_path, config, nepoch=1).train()
    other = trainer_of(scene_root, tmp_path, config)
    assert other.state.intrinsics is not None
    other.state.intrinsics.given[0, 0, 0] += 1
    with pytest.raises(InputError, match="corrections of other intrinsics"):
        other.resume(other.checkpoints, "latest", keep_seed=False)


def test_a_conf_that_trains_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="nothing of the cameras is left to train"):
        CamerasConfig(frozen="all")


def test_centers_are_frozen_until_their_time(scene_root: Path, tmp_path: Path) -> None:
    cameras = CamerasConfig(poses="orbit", freeze_centers_until=0.5)
    trainer_of(scene_root, tmp_path / "half", cameras, nepoch=2).train()
    trainer = trainer_of(scene_root, tmp_path / "all", replace(cameras, freeze_centers_until=1.0), nepoch=2)
    trainer.train()
    moved, frozen = (tiny.parts_of(tmp_path / name)["CameraState"]["twists"] for name in ("half", "all"))
    assert bool((moved != 0).all()) and bool((frozen[:, :3] != 0).all())
    assert not frozen[:, 3:].any()


def test_keys_of_orbits_belong_to_orbits() -> None:
    with pytest.raises(
        InputError, match="freeze_centers_until = 0.2: belongs to poses = orbit, got poses = quat"
    ):
        CamerasConfig(freeze_centers_until=0.2)
    with pytest.raises(InputError, match="freeze_centers_until = 2: expected a fraction of training, 0 to 1"):
        CamerasConfig(poses="orbit", freeze_centers_until=2)
    with pytest.raises(InputError, match="orbit_scale = 0.3: belongs to poses = orbit, got poses = se3"):
        CamerasConfig(poses="se3", orbit_scale=0.3)
    with pytest.raises(InputError, match="orbit_scale = 0.0: expected a factor above 0"):
        CamerasConfig(poses="orbit", orbit_scale=0.0)
    with pytest.raises(InputError, match="preconditioner = full: .*expected poses = se3 or orbit"):
        CamerasConfig(preconditioner="full")
    with pytest.raises(InputError, match="two numbers from 0 to below 1"):
        CamerasConfig(betas=(0.9, 1.0))


def test_only_rows_of_the_batch_that_are_free_have_gradients() -> None:
    poses = TwistPoses(LearnablePoses(torch.rand(4, 7)).vectors(), frozen=(3,))
    poses(torch.tensor([3, 1])).square().sum().backward()
    assert poses.weight.grad is not None
    assert poses.weight.grad.coalesce().indices()[0].tolist() == [1]
    assert poses.rows(torch.tensor([3, 1])).tolist() == [1]


def test_a_twist_is_in_the_axes_of_the_camera() -> None:
    start = torch.tensor([[0.8, 0.1, -0.5, 0.3, 1.0, -2.0, 0.5]], dtype=torch.float64)
    poses = TwistPoses(start)
    before = pose_matrix(start)[0]
    with torch.no_grad():
        poses.weight[0, 2] = 0.25  # forward along the optical axis
    shifted = poses(torch.tensor([0]))[0]
    assert torch.allclose(shifted[:3, 3], before[:3, 3] + 0.25 * before[:3, 2], atol=1e-12)
    with torch.no_grad():
        poses.weight[0] = torch.tensor([0, 0, 0, 0, 0.3, 0])  # about its own vertical axis
    turned = poses(torch.tensor([0]))[0]
    assert torch.allclose(turned[:3, 3], before[:3, 3]) and torch.allclose(turned[:3, 1], before[:3, 1])
    assert torch.allclose(pose_matrix(poses.vectors())[0], turned, atol=1e-12)


ORBIT_START = torch.tensor(
    [[0.8, 0.1, -0.5, 0.3, 1.0, -2.0, 0.5], [0.2, -0.9, 0.1, 0.4, -0.3, 0.7, 2.4]], dtype=torch.float64
)


def orbit_moved(row: list[float], scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Poses (2, 4, 4) before and after each row of the table is set to `row`."""
    poses = OrbitPoses(ORBIT_START, orbit_scale=scale)
    with torch.no_grad():
        poses.weight.copy_(torch.tensor(row, dtype=torch.float64).expand(2, 6))
    after = poses(torch.arange(2))
    assert torch.allclose(pose_matrix(poses.vectors()), after, atol=1e-12)
    return pose_matrix(ORBIT_START), after


def test_a_turn_in_place_leaves_the_center() -> None:
    before, after = orbit_moved([0.1, -0.2, 0.3, 0, 0, 0])
    assert torch.allclose(after[:, :3, 3], before[:, :3, 3])
    angle = torch.acos((torch.einsum("bij,bij->b", after[:, :3, :3], before[:, :3, :3]) - 1) / 2)
    assert torch.allclose(angle, torch.tensor([0.1, -0.2, 0.3]).double().norm().expand(2))


def test_an_orbit_keeps_the_pixel_and_the_distance_of_the_scene_center() -> None:
    before, after = orbit_moved([0, 0, 0, 0.3, -0.4, 0])
    origin = [-(pose[:, :3, :3].mT @ pose[:, :3, 3:]) for pose in (before, after)]  # in the cameras' axes
    assert torch.allclose(*origin, atol=1e-12)
    cosine = functional.cosine_similarity(before[:, :3, 3], after[:, :3, 3])
    assert torch.allclose(cosine, torch.tensor(math.cos(0.5)).double().expand(2))
    _, less = orbit_moved([0, 0, 0, 1.2, -1.6, 0], scale=0.25)
    assert torch.allclose(less, after)


def test_distance_moves_along_the_line_of_sight_to_the_scene_center() -> None:
    before, after = orbit_moved([0, 0, 0, 0, 0, math.log(1.5)])
    assert torch.allclose(after[:, :3, 3], 1.5 * before[:, :3, 3])
    assert torch.allclose(after[:, :3, :3], before[:, :3, :3])


def test_orbits_have_a_correct_gradient() -> None:
    poses = OrbitPoses(ORBIT_START, orbit_scale=0.3)

    def moved(rows: torch.Tensor) -> torch.Tensor:
        return poses._move(pose_matrix(ORBIT_START), rows)

    for rows in (torch.zeros(2, 6), torch.rand(2, 6, generator=torch.Generator().manual_seed(1))):
        assert torch.autograd.gradcheck(moved, (rows.double().requires_grad_(),))


def test_losses_reach_intrinsics_through_the_surface_point(scene_root: Path, tmp_path: Path) -> None:
    """The surface point's gradient to focal length and principal point, against differences.

    The differentiable intersection has the first derivatives of the true one: traced anew at other
    intrinsics, the surface's points move as the gradient predicts.
    """
    trainer = trainer_of(
        scene_root, tmp_path, CamerasConfig(frozen="all", focal="shared", principal_point="shared")
    )
    model: Any = trainer.state.model.double().eval()
    initial = given_intrinsics(trainer.dataset).double()
    intrinsics = LearnableIntrinsics(
        initial, CamerasConfig(focal="shared", principal_point="shared")
    ).double()
    pose = pose_matrix(trainer.dataset.get_pose_init().double())[:1]
    uv = torch.tensor([[[7.0, 5.0], [8.0, 6.0], [6.0, 6.0]]], dtype=torch.float64)

    def hits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions, centers and exact depths where the rays meet the network's zero set, by bisection."""
        from idr.geometry.cameras import pixel_rays

        directions, centers = pixel_rays(uv, pose, intrinsics(torch.tensor([0])))
        direction, center = directions[0], centers.expand(3, 3)
        with torch.no_grad():
            near, far = torch.full((3, 1), 1.0).double(), torch.full((3, 1), 2.6).double()
            for _ in range(60):
                middle = (near + far) / 2
                outside = model.implicit_network(center + middle * direction)[:, :1] > 0
                near, far = torch.where(outside, middle, near), torch.where(outside, far, middle)
        return direction, center, near

    from idr.model.sample_network import differentiable_intersection

    weights = torch.tensor([[0.3, -1.0, 0.7], [0.5, 0.2, -0.4], [-0.6, 0.9, 0.1]]).double()
    direction, center, depth = hits()
    points = center + depth * direction
    output, normal = model.implicit_network.value_and_gradient(points)
    surface = differentiable_intersection(center, direction, depth, output[:, :1], normal)
    assert float(output[:, 0].detach().abs().max()) < 1e-9
    (surface * weights).sum().backward()
    for name, table in intrinsics.tables.items():
        weight: Any = table.weight
        gradient = weight.grad.to_dense()[0]
        for column in range(weight.shape[1]):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[0, column] += step
                    direction, center, depth = hits()
                    values.append(float(((center + depth * direction) * weights).sum()))
                    weight[0, column] -= step
            difference = (values[0] - values[1]) / 2e-5
            # Central differences err by the square of the step, and the network bends gently.
            assert float(gradient[column]) == pytest.approx(difference, rel=1e-4, abs=1e-6), name
