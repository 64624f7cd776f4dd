"""Projection matrices, poses, pixels and rays.

B images, P pixels, N points. Axes are OpenCV's (x right, y down, z forward); pixels are integers
uv = (column, row) without a half-pixel shift. A pose is camera-to-world: its columns are the camera's
axes and its last column the camera's center, in the frame of the unit sphere unless stated otherwise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import rq
from torch import Tensor

from idr.geometry.quaternions import quaternion_to_rotation


def decompose_projection(projection: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Splits a projection matrix into intrinsics and pose (RQ decomposition).

    P and -P are the same camera. The sign with det(P[:, :3]) > 0 gives a proper rotation and positive focal
    lengths.

    Args:
        projection: (3, 4) matrix P = K [R | t], up to a factor.

    Returns:
        intrinsics: (4, 4) with K in its upper left corner, K[2, 2] = 1, positive focal lengths.
        pose: (4, 4) camera-to-world, in the frame of the points that P projects.

    Raises:
        ValueError: The matrix has another shape, is not finite, or its left 3x3 part is singular.
    """
    matrix = np.asarray(projection, dtype=np.float64)
    if matrix.shape != (3, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"projection matrix of shape {matrix.shape}: expected a finite (3, 4) matrix")
    if np.linalg.matrix_rank(matrix[:, :3]) < 3:
        raise ValueError("projection matrix whose left 3x3 part is singular: no camera center exists")
    if np.linalg.det(matrix[:, :3]) < 0:
        matrix = -matrix
    upper, rotation = rq(matrix[:, :3])
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    upper, rotation = upper * signs, rotation * signs[:, None]

    intrinsics, pose = np.eye(4), np.eye(4)
    intrinsics[:3, :3] = upper / upper[2, 2]
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -np.linalg.solve(matrix[:, :3], matrix[:, 3])
    return intrinsics, pose


def pose_matrix(pose: Tensor) -> Tensor:
    """Returns poses as (B, 4, 4) camera-to-world matrices, differentiable with respect to vectors.

    Args:
        pose: (B, 4, 4) matrices, returned as they are, or (B, 7) vectors: quaternion (w, x, y, z) of the
            camera-to-world rotation, of any positive norm, then the camera's center.
    """
    if pose.shape[1:] == (4, 4):
        return pose
    rotation_and_center = torch.cat((quaternion_to_rotation(pose[:, :4]), pose[:, 4:].unsqueeze(-1)), dim=-1)
    last_row = pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(pose.shape[0], 1, 4)
    return torch.cat((rotation_and_center, last_row), dim=1)


def pixel_rays(uv: Tensor, pose: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the rays through pixels.

    The order of operations is the published code's, because gradients near a network's kinks amplify
    rounding.

    Args:
        uv: (B, P, 2) pixels (column, row).
        pose: (B, 4, 4) or (B, 7), see `pose_matrix`.
        intrinsics: (B, 4, 4), upper triangular K with skew, K[2, 2] = 1.

    Returns:
        directions: (B, P, 3) unit vectors away from the camera.
        centers: (B, 3) camera centers.
    """
    camera_to_world = pose_matrix(pose)
    centers = camera_to_world[:, :3, 3]
    fx, skew, cx = (intrinsics[:, 0, k].unsqueeze(-1) for k in range(3))  # each (B, 1)
    fy, cy = (intrinsics[:, 1, k].unsqueeze(-1) for k in (1, 2))
    u, v = uv[..., 0], uv[..., 1]  # (B, P)

    x = (u - cx + cy * skew / fy - skew * v / fy) / fx
    y = (v - cy) / fy
    one = torch.ones_like(x)
    at_depth_one = torch.stack((x, y, one, one), dim=-1)  # (B, P, 4), in the camera's frame
    in_world = torch.bmm(camera_to_world, at_depth_one.transpose(1, 2)).transpose(1, 2)[..., :3]  # (B, P, 3)
    directions = torch.nn.functional.normalize(in_world - centers[:, None, :], dim=2)
    return directions, centers


def pixel_width(intrinsics: Tensor, poses: Tensor) -> float:
    """Returns the width of a pixel at the origin, median over the views, in units of the poses.

    Args:
        intrinsics: (B, 4, 4) K.
        poses: (B, 4, 4) camera-to-world.
    """
    return float((poses[:, :3, 3].norm(dim=1) / intrinsics[:, 0, 0].abs()).median())


def resized_intrinsics(intrinsics: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Returns (..., 4, 4) K for the same view in another (height, width); integer uv are pixel centers."""
    scale_y, scale_x = new[0] / old[0], new[1] / old[1]
    resize = torch.eye(4, dtype=intrinsics.dtype, device=intrinsics.device)
    resize[0, 0], resize[1, 1] = scale_x, scale_y
    # The image's edges are half a pixel outside the centers of its outermost pixels.
    resize[0, 2], resize[1, 2] = 0.5 * scale_x - 0.5, 0.5 * scale_y - 0.5
    return resize @ intrinsics


def corrected_intrinsics(intrinsics: Tensor, log_focal: Tensor, principal_point: Tensor) -> Tensor:
    """Returns corrected K, (B, 4, 4), differentiable with respect to the corrections.

    Both focal lengths and the skew are multiplied by exp(log_focal), which keeps the pixels' aspect ratio and
    the angle between their axes. The principal point moves by a fraction of the uncorrected focal lengths; a
    small fraction is the angle in radians by which the optical axis is off. The corrections do not depend on
    the resolution.

    Args:
        intrinsics: (B, 4, 4) K.
        log_focal: (B, 1).
        principal_point: (B, 2) along columns and rows, in units of focal lengths.
    """
    factor = torch.exp(log_focal)  # (B, 1)
    fx, fy = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    shift = principal_point * torch.stack((fx, fy), dim=1)  # (B, 2) pixels
    axes = intrinsics[:, :2, :2] * factor.unsqueeze(-1)  # (B, 2, 2)
    center = intrinsics[:, :2, 2:3] + shift.unsqueeze(-1)  # (B, 2, 1)
    moved = torch.cat((axes, center, intrinsics[:, :2, 3:]), dim=2)  # (B, 2, 4)
    return torch.cat((moved, intrinsics[:, 2:]), dim=1)


def project_points(
    points: NDArray[np.floating], projection: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Projects (N, 3) points to pixels by a (3, 4) matrix of their frame, of either sign and any scale.

    Returns:
        uv: (N, 2) pixels (column, row), not rounded; NaN for points in the camera's focal plane.
        depth: (N,) distance along the optical axis in the points' unit, negative behind the camera.
    """
    matrix = np.asarray(projection, dtype=np.float64)
    matrix = matrix * (np.sign(np.linalg.det(matrix[:, :3])) / np.linalg.norm(matrix[2, :3]))
    homogeneous = np.asarray(points, dtype=np.float64) @ matrix[:, :3].T + matrix[:, 3]  # (N, 3)
    depth = homogeneous[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = homogeneous[:, :2] / depth[:, None]
    uv[~np.isfinite(uv)] = np.nan
    return uv, depth


def camera_depth(points: Tensor, pose: Tensor) -> Tensor:
    """Returns z, (B, N), of (B, N, 3) points along the optical axis of a `pose_matrix`, negative behind."""
    camera_to_world = pose_matrix(pose)
    from_center = points - camera_to_world[:, None, :3, 3]
    return (from_center @ camera_to_world[:, :3, 2].unsqueeze(-1)).squeeze(-1)
