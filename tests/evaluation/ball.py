"""A scene and a network in closed form: one ball of one color.

The network is a class of the tests, named in the conf as a user's own class would be.
"""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from torch import nn
from torch.nn import functional

import idr.conf.files
import idr.runs.folders
from idr.checkpoints.folder import CheckpointFolder, checkpoint_name
from idr.geometry.cameras import pixel_rays
from idr.runs.folders import create_run

HEIGHT, WIDTH = 24, 32
NUM_VIEWS = 6
RADIUS = 0.6
GRAY = 102 / 255  # what the network renders; exact in 8 bits
PHOTO = 153 / 255  # what the photographs show: 51 levels, 0.2, brighter
SCALE, OFFSET = 120.0, np.array([30.0, -50.0, 600.0])

INTRINSICS = np.array([[40.0, 0, 15.2], [0, 42.0, 11.7], [0, 0, 1]])


class BallField(nn.Module):
    """Signed distance to a ball, and F zeros as features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(3))
        self.radius = nn.Parameter(torch.tensor(RADIUS))
        self.num_features = num_features

    def forward(self, x):
        distance = (x - self.center).norm(dim=1, keepdim=True) - self.radius
        return torch.cat((distance, x.new_zeros(len(x), self.num_features)), dim=1)

    def gradient(self, x):
        return functional.normalize(x - self.center, dim=1).unsqueeze(1)


class Paint(nn.Module):
    """One color, for points with a certain number of features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.rgb = nn.Parameter(torch.full((3,), GRAY * 2 - 1))
        self.num_features = num_features

    def forward(self, points, normals, view_dirs, features):
        if features.shape[1] != self.num_features:
            raise RuntimeError("shapes cannot be multiplied")
        return self.rgb.expand(len(points), 3)


class BallModel(nn.Module):
    """The published seam in closed form."""

    def __init__(self, conf) -> None:
        super().__init__()
        self.feature_vector_size = int(conf["feature_vector_size"])
        self.implicit_network = BallField(self.feature_vector_size)
        self.rendering_network = Paint(self.feature_vector_size)

    def forward(self, inputs):
        directions, centers = pixel_rays(inputs["uv"], inputs["pose"], inputs["intrinsics"])
        v, c = directions[0], centers[0] - self.implicit_network.center
        along = v @ c
        under_root = along**2 - (c @ c - self.implicit_network.radius**2)
        hit = (under_root > 0) & (self.implicit_network.radius > 0)
        depth = torch.where(hit, -along - under_root.clamp_min(0).sqrt(), torch.ones_like(along))
        points = centers[0] + depth[:, None] * v
        output = self.implicit_network(points)
        normals = self.implicit_network.gradient(points)[:, 0]
        rgb = self.rendering_network(points, normals, -v, output[:, 1:])
        return {
            "points": points,
            "rgb_values": torch.where(hit[:, None], rgb, torch.ones(())),
            "sdf_output": output[:, :1],
            "network_object_mask": hit,
            "object_mask": inputs["object_mask"].reshape(-1),
            "grad_theta": None,
        }


def look_at_origin(direction, distance):
    """Camera-to-world pose, x right, y down, z forward, at ``distance`` times ``direction``."""
    z = -np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    x = np.cross(z, [0.0, 0.1, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack((x, np.cross(z, x), z))
    pose[:3, 3] = -distance * z
    return pose


def unit_poses():
    """(B, 4, 4) poses in unit-sphere coordinates, all around the ball."""
    rng = np.random.default_rng(5)
    return np.stack([look_at_origin(rng.normal(size=3), 2.6 + 0.1 * i) for i in range(NUM_VIEWS)])


def world_poses():
    """The same in world coordinates."""
    poses = unit_poses()
    poses[:, :3, 3] = SCALE * poses[:, :3, 3] + OFFSET
    return poses


def exact_hit(pose):
    """(H, W) bool, pixel by pixel: the slow way to the silhouette."""
    hit = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            ray = pose[:3, :3] @ np.linalg.solve(INTRINSICS, [column, row, 1.0])
            ray /= np.linalg.norm(ray)
            center = pose[:3, 3]
            hit[row, column] = center @ center - (center @ ray) ** 2 < RADIUS**2
    return hit


def write_scene(root: Path, extra_mask_pixels: int = 0) -> Path:
    """Writes ``data/balls/scan3`` below a folder.

    Args:
        root: The folder.
        extra_mask_pixels: Pixels of view 0's corner that its mask claims although no ball is there.

    Returns:
        The data root.
    """
    folder = root / "data" / "balls" / "scan3"
    for name in ("image", "mask"):
        (folder / name).mkdir(parents=True)
    matrices = {}
    scale_mat = np.diag([SCALE, SCALE, SCALE, 1.0])
    scale_mat[:3, 3] = OFFSET
    for i, (unit, world) in enumerate(zip(unit_poses(), world_poses(), strict=True)):
        mask = exact_hit(unit)
        photo = np.where(mask[..., None], round(PHOTO * 255), 0).astype(np.uint8).repeat(3, axis=2)
        if i == 0:
            mask[0, :extra_mask_pixels] = True
        iio.imwrite(folder / "image" / f"{i:03d}.png", photo)
        iio.imwrite(folder / "mask" / f"{i:03d}.png", mask.astype(np.uint8) * 255)
        world_mat = np.eye(4)
        world_mat[:3] = INTRINSICS @ np.linalg.inv(world)[:3]
        matrices |= {f"world_mat_{i}": world_mat, f"scale_mat_{i}": scale_mat}
    np.savez(folder / "cameras.npz", **matrices)
    return root / "data"


def conf_text(holdout=(), features: int = 4, extra_model: str = "") -> str:
    """The conf of the ball."""
    return f"""
train {{
  expname = ball
  dataset_class = datasets.scene_dataset.SceneDataset
  model_class = {__name__}.BallModel
  loss_class = model.loss.IDRLoss
}}
plot {{ resolution = 24 }}
dataset {{ data_dir = balls, img_res = [{HEIGHT}, {WIDTH}], holdout = {list(holdout)} }}
model {{ feature_vector_size = {features}, ray_tracer {{ object_bounding_sphere = 1.0 }} {extra_model} }}
"""


def write_run(
    exps: Path, name: str = "ball_3", center=(0, 0, 0), radius=RADIUS, poses=None, rgb=None, exposures=None
) -> Path:
    """Saves a network as epoch 7 of a new run, with trained cameras if (B, 7) ``poses`` are given.

    ``exposures`` are log gains and offsets, (2, B, 3).
    """
    model = BallModel({"feature_vector_size": 4})
    with torch.no_grad():
        model.implicit_network.center.copy_(torch.tensor(center))
        model.implicit_network.radius.fill_(radius)
        if rgb is not None:
            model.rendering_network.rgb.copy_(torch.tensor(rgb))
    parts = {"ModelParameters": {"epoch": 7, "model_state_dict": model.state_dict()}}
    if poses is not None:
        parts["CamParameters"] = {"epoch": 7, "pose_vecs_state_dict": {"weight": torch.as_tensor(poses)}}
    if exposures is not None:
        log_gain, offset = torch.as_tensor(exposures).float()
        parts["ExposureState"] = {"epoch": 7, "log_gain": log_gain, "offset": offset}
    run = create_run(exps, name)
    CheckpointFolder(run / "checkpoints").save(checkpoint_name(7), 7, 0, parts)
    return run


COMMAND = ["--conf", "ball.conf", "--scan_id", "3", "--device", "cpu", "--gpu", "ignore"]
"""Flags of a command on the run in a project of `enter_project`."""


def enter_project(root: Path, monkeypatch, holdout=(4,)) -> None:
    """Makes a folder the project and the working directory, with the ball's scene and ``ball.conf``."""
    for module in (idr.conf.files, idr.runs.folders):
        monkeypatch.setattr(module, "project_root", lambda: root)
    monkeypatch.chdir(root)
    write_scene(root)
    (root / "ball.conf").write_text(conf_text(holdout))


def files_of(root: Path) -> dict[Path, bytes]:
    """The content of all files below a folder."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
