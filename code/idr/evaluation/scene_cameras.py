"""The cameras of a whole scene in world coordinates, given or trained.

B images of the scene, held-out ones included.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from idr.datasets.images import list_images
from idr.errors import InputError
from idr.geometry.camera_set import CameraSet
from idr.runs import Run
from idr.runs.views import image_numbers


def given_cameras(dataset: Any) -> CameraSet:
    """Returns all B cameras of the camera file of a split's scene, float64, world coordinates.

    Raises:
        InputError: The data set is a user's own class that does not read a data folder.
    """
    if not hasattr(dataset, "camera_file") or not hasattr(dataset, "instance_dir"):
        raise InputError(
            f"{type(dataset).__name__} is not read from a data folder; expected a conf whose "
            "train.dataset_class is datasets.scene_dataset.SceneDataset"
        )
    cameras = dataset.camera_file
    intrinsics, poses = cameras.decompose(scaled=False)
    names = tuple(path.name for path in list_images(dataset.instance_dir / "image"))
    in_split, is_holdout = set(image_numbers(dataset)), dataset.split == "holdout"
    held_out = tuple((number in in_split) == is_holdout for number in range(len(names)))
    height, width = (int(size) for size in dataset.img_res)
    return CameraSet(names, intrinsics[:, :3, :3], poses, (height, width), cameras.scale_mats[0], held_out)


def trained_cameras(run: Run) -> CameraSet:
    """Returns all B cameras of a run in world coordinates, the trained ones aligned with the given ones.

    Held-out views were not trained and keep their given poses. If intrinsics were trained, they get the mean
    correction of the training views.

    Raises:
        InputError: The run trained no cameras, or the alignment mirrors them.
    """
    trained, alignment = run.trained_poses, run.alignment
    if trained is None or alignment is None:
        raise InputError(
            f"{run.name} holds no trained cameras (CamParameters); export the scene's own "
            "with --cameras given"
        )
    if alignment.scale <= 0:
        raise InputError(
            "the trained cameras fit the given ones only mirrored: they have diverged; train again from "
            "better ones"
        )
    given = given_cameras(run.scene)
    poses = given.poses.copy()
    numbers = image_numbers(run.scene)
    own = trained.double().numpy()
    poses[numbers, :3, :3] = alignment.rotation @ own[:, :3, :3]
    poses[numbers, :3, 3] = own[:, :3, 3] @ alignment.matrix[:3, :3].T + alignment.translation
    intrinsics = given.intrinsics
    if run.corrections is not None:
        padded = torch.eye(4, dtype=torch.float64).repeat(len(intrinsics), 1, 1)
        padded[:, :3, :3] = torch.from_numpy(intrinsics)
        corrected = run.corrections.of_other_views(padded)
        corrected[numbers] = run.corrections.of_training_views(padded[numbers])
        intrinsics = corrected[:, :3, :3].numpy()
    return replace(given, intrinsics=intrinsics, poses=poses, scale_mat=alignment.matrix)
