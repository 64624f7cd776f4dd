"""Learnable cameras."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.training import tiny

from idr.geometry.cameras import pixel_rays, pose_matrix
from idr.training.cameras.poses import LearnablePoses


def test_poses_are_stored_as_they_are_and_normalized_at_use() -> None:
    start = torch.tensor([[2.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0], [0.0, 3.0, 0.0, 4.0, 0.0, 0.0, -2.0]])
    poses = LearnablePoses(start)
    start += 1  # a copy is trained, not the caller's tensor
    assert poses(torch.tensor([0]))[0].tolist() == [2, 0, 0, 0, 1, 2, 3]
    rotations = pose_matrix(poses(torch.tensor([0, 1])))[:, :3, :3]
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand(2, 3, 3), atol=1e-6)  # float32
    assert list(poses.state_dict()) == ["weight"]


def test_only_images_of_the_batch_have_gradients() -> None:
    poses = LearnablePoses(torch.rand(4, 7))
    directions, centers = pixel_rays(
        torch.rand(2, 3, 2), poses(torch.tensor([3, 1])), torch.eye(4).expand(2, 4, 4)
    )
    (directions.sum() + centers.sum()).backward()
    assert poses.weight.grad is not None and poses.weight.grad.is_sparse
    assert sorted(poses.weight.grad.coalesce().indices()[0].tolist()) == [1, 3]


def test_images_outside_the_batch_keep_their_bits(scene_root: Path, tmp_path: Path) -> None:
    """Also where they have momentum already, which a dense Adam would act on."""
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=2, cameras=True, batch_size=2)
    poses = trainer.state.poses
    assert poses is not None
    before = [poses.weight.detach().clone()]
    batches: list[set[int]] = []

    def check(outputs: object) -> None:
        del outputs
        now = poses.weight.detach().clone()
        moved = (now != before[-1]).any(dim=1)
        batches.append(set(moved.nonzero().flatten().tolist()))
        before.append(now)

    trainer.loss = tiny.WatchedLoss(trainer.loss, check)
    trainer.train()
    check(None)
    assert batches[0] == set()  # before the first step
    assert [len(moved) for moved in batches[1:]] == [2, 2, 1, 2, 2, 1]
    assert set.union(*batches[1:4]) == set.union(*batches[4:]) == set(range(5))


def test_poses_and_rays_run_on_meta() -> None:
    poses = LearnablePoses(torch.empty(3, 7, device="meta"))
    uv, intrinsics = torch.empty(2, 5, 2, device="meta"), torch.empty(2, 4, 4, device="meta")
    directions, centers = pixel_rays(uv, poses(torch.empty(2, dtype=torch.long, device="meta")), intrinsics)
    assert directions.shape == (2, 5, 3) and centers.shape == (2, 3)
    assert directions.is_meta and centers.is_meta
