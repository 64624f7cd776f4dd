"""Opening a trained run: its network with weights, its trained cameras, and the scene it was trained on.

B images, H, W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyhocon import ConfigTree
from torch import Tensor

from idr.conf.build import build_dataset, build_model
from idr.conf.files import load_conf
from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import pose_matrix
from idr.geometry.frames import check_frame, frame_of
from idr.model.encodings.levels import load_open_levels
from idr.model.weights import load_weights
from idr.runs.folders import CHECKPOINTS, RUNCONF, CheckpointFolder, find_run
from idr.runs.intrinsics import IntrinsicsCorrections, read_corrections


@dataclass(frozen=True)
class LoadedModel:
    """A network with the weights of a checkpoint, in evaluation mode.

    Attributes:
        model: The network, on its device, its parameters frozen.
        epoch: Epoch stored in the checkpoint.
        trained_poses: (B, 4, 4) camera-to-world in unit-sphere coordinates, on the CPU, one for each
            training image; None where the checkpoint holds no cameras.
        bounding_radius: Radius of the object's bounding sphere.
        device: Where the network is.
        name: The checkpoint and its run, for messages.
        scale_mat: (4, 4) unit-sphere to world coordinates in training; None where the run does not tell.
        corrections: Of the given intrinsics; None where the run trained none.
    """

    model: Any
    epoch: int
    trained_poses: Tensor | None
    bounding_radius: float
    device: torch.device
    name: str = "the checkpoint"
    scale_mat: Tensor | None = None
    corrections: IntrinsicsCorrections | None = None

    @property
    def sdf(self) -> Callable[[Tensor], Tensor]:
        """The signed distance: (N, 3) points -> (N,) values, negative inside."""
        network = self.model.implicit_network
        if hasattr(network, "sdf"):  # ours spares the features; a user's own network need not have it
            return network.sdf
        return lambda points: network(points)[:, 0]


@dataclass(frozen=True)
class View:
    """One image of the scene with its intrinsics; poses come from the run, which may have trained them.

    Attributes:
        number: The image's number in its folder.
        intrinsics: (4, 4) K.
        photo: (H, W, 3) colors in [0, 1].
        mask: (H, W) bool, the object.
    """

    number: int
    intrinsics: Tensor
    photo: Tensor
    mask: Tensor


def load_model(conf: ConfigTree, run_folder: Path, checkpoint: str, device: torch.device) -> LoadedModel:
    """Builds the network that a conf describes and loads a checkpoint of a run into it.

    Args:
        conf: The whole conf; its ``train.model_class`` and ``model`` block are used.
        run_folder: The run, which holds ``checkpoints/``.
        checkpoint: ``latest``, or an epoch such as ``2000``.
        device: Where the network is put.

    Returns:
        The network.

    Raises:
        MissingInputError: There is no such checkpoint.
        InputError: The checkpoint is damaged or does not fit the network that the conf describes.
    """
    folder = CheckpointFolder(run_folder / CHECKPOINTS)
    name = folder.resolve(checkpoint)
    model = build_model(conf)
    saved = folder.load("ModelParameters", name)
    where = f"checkpoint {name} of {run_folder}"
    own = run_folder / RUNCONF
    remedy = f"use --conf {own}" if own.is_file() else "use the conf that the run was trained with"
    load_weights(model, saved.get("model_state_dict"), where, remedy)
    if folder.has("RecipeState", name):
        load_open_levels(model, folder.load("RecipeState", name), where=where)
    poses = None
    if folder.has("CamParameters", name):
        vectors = folder.load("CamParameters", name).get("pose_vecs_state_dict", {}).get("weight")
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or vectors.shape[1] != 7:
            raise InputError(
                f"{where}: its CamParameters hold no table of 7-vectors; take another checkpoint"
            )
        poses = pose_matrix(vectors.detach().float().cpu())
    radius = conf.get("model.ray_tracer.object_bounding_sphere", 1.0)
    model.to(device).eval().requires_grad_(False)
    scale_mat = None
    if folder.has("TrainerState", name):
        scale_mat = folder.load("TrainerState", name).get("scale_mat")
    corrections = None
    if folder.has("CameraState", name):
        corrections = read_corrections(folder.load("CameraState", name))
    return LoadedModel(
        model, int(saved.get("epoch", 0)), poses, float(radius), device, where, scale_mat, corrections
    )


def locate_run(path: str | Path, checkpoint: str) -> Path:
    """Finds a run from its folder, or from the folder of all runs of its name.

    Args:
        path: ``exps/<name>/<time>``, or ``exps/<name>`` for the latest run there that holds the checkpoint.
        checkpoint: ``latest`` or an epoch.

    Returns:
        The run's folder.

    Raises:
        MissingInputError: There is no such run or checkpoint.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise MissingInputError(f"no run folder {folder}: expected one that holds {CHECKPOINTS}/")
    folder = folder.resolve()
    if (folder / CHECKPOINTS).is_dir():
        CheckpointFolder(folder / CHECKPOINTS).resolve(checkpoint)
        return folder
    return find_run(folder.parent, folder.name, checkpoint=checkpoint)


def conf_of_run(run_folder: Path, otherwise: str | Path | None, overrides: Sequence[str] = ()) -> ConfigTree:
    """Reads the conf saved with a run; published pretrained runs have none.

    Args:
        run_folder: The run.
        otherwise: Conf to take where the run has none of its own, or None.
        overrides: ``key=value`` texts that replace keys.

    Raises:
        MissingInputError: The run has no conf and none is given in its place.
    """
    own = run_folder / RUNCONF
    if own.is_file():
        return load_conf(own, overrides)
    if otherwise is None:
        raise MissingInputError(
            f"{run_folder} holds no {RUNCONF}: give the conf that the run was trained with"
        )
    return load_conf(otherwise, overrides)


def open_dataset(conf: ConfigTree, scan_id: int | None, data_root: str | None, split: str = "train") -> Any:
    """Opens the scene that a conf names, with the given cameras.

    Args:
        conf: The whole conf; its ``train.dataset_class`` and ``dataset`` block are used.
        scan_id: Scene, or None for the dataset's default.
        data_root: Folder of the data sets, or None for the default.
        split: ``train``, or ``holdout`` for the views that are never trained on.

    Returns:
        The dataset, its items whole images.
    """
    dataset = build_dataset(conf, False, scan_id, data_root, split)
    dataset.change_sampling_idx(-1)
    return dataset


def holds_out_views(conf: ConfigTree) -> bool:
    """True where the conf keeps views out of training (``dataset.holdout``)."""
    return bool(conf.get("dataset.holdout", None))


def image_numbers(dataset: Any) -> list[int]:
    """Returns the number in the scene's folder of each image of a dataset."""
    return [int(number) for number in getattr(dataset, "indices", range(len(dataset)))]


def read_view(dataset: Any, index: int) -> View:
    """Returns one image of a dataset whose items are whole images.

    Args:
        dataset: The dataset.
        index: Position in the dataset.

    Returns:
        The view, on the CPU.
    """
    _, sample, truth = dataset[index]
    height, width = (int(size) for size in dataset.img_res)
    return View(
        number=image_numbers(dataset)[index],
        intrinsics=sample["intrinsics"],
        photo=((truth["rgb"] + 1.0) / 2.0).view(height, width, 3),
        mask=sample["object_mask"].view(height, width).bool(),
    )


def check_scene(loaded: LoadedModel, dataset: Any) -> None:
    """Refuses a scene that is not the one of the run: another number of images, or another unit sphere.

    Trained cameras bring their own frame along, so that the scene's does not matter to them.

    Raises:
        InputError: It is another one.
    """
    if loaded.trained_poses is None:
        check_frame(loaded.scale_mat, frame_of(dataset), loaded.name)
    elif len(loaded.trained_poses) != len(dataset):
        raise InputError(
            f"the checkpoint holds {len(loaded.trained_poses)} trained cameras but the scene has "
            f"{len(dataset)} training images; use the scene and dataset.holdout that the run was trained with"
        )
