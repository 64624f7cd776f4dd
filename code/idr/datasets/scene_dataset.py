"""The dataset of one scene: photographs, masks and cameras.

B images, H rows, W columns, P sampled pixels. Images stay uint8 and pixels are indexed, so neither float
images nor grids of pixel coordinates are stored.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from idr.conf.blocks import did_you_mean
from idr.conf.files import project_root
from idr.datasets.camera_files import CameraFile, check_intrinsics, read_cameras
from idr.datasets.images import list_images, load_mask, load_rgb, natural_sorted
from idr.datasets.masks import scene_masks
from idr.errors import InputError, MissingInputError
from idr.geometry.quaternions import rotation_to_quaternion
from idr.places import shipped_name
from idr.progress_bar import with_progress

log = logging.getLogger(__name__)

SPLITS = ("train", "holdout")
Sample = dict[str, Tensor]
Item = tuple[int, Sample, Sample]


@dataclass(frozen=True)
class SceneDatasetConfig:
    """Keys of the block ``dataset``; see `SceneDataset`."""

    data_dir: str
    img_res: tuple[int, ...]
    scan_id: int = 0
    cam_file: str | None = None
    data_root: str | None = None
    holdout: tuple[int, ...] | str = ()
    split: str = "train"


class SceneDataset(torch.utils.data.Dataset):
    """The scene of a folder ``<data_root>/<data_dir>/scan<scan_id>`` (see DATA_CONVENTION.md).

    Args:
        train_cameras: Whether poses are trained: items then have no ``pose``.
        data_dir: Folder of the data set below the data root.
        img_res: [height, width] of the images.
        scan_id: Number of the scene.
        cam_file: Name of an npz to read instead of ``cameras.npz``.
        data_root: Folder of all data sets; default ``data/`` of `project_root`.
        holdout: Images held out of training: their indices, `every N` for 0, N, 2N, ..., or a share such as
            `10%`, evenly spaced.
        split: ``train``, or ``holdout`` for the held-out images.

    Attributes:
        images: (B, H W, 3) uint8.
        masks: (B, H W) bool, True inside the object.
        intrinsics: (B, 4, 4) float32.
        poses: (B, 4, 4) float32 camera-to-world, unit-sphere frame.
        camera_file: The cameras of all images in the folder, in any split.
        indices: Indices of the images in the folder.
        instance_dir: The scene's folder.
        split: The split.

    Raises:
        MissingInputError: The folder or a file is missing.
        InputError: Its content is inconsistent or invalid.
    """

    config_class = SceneDatasetConfig

    def __init__(
        self,
        train_cameras: bool,
        data_dir: str,
        img_res: Sequence[int],
        scan_id: int = 0,
        cam_file: str | None = None,
        data_root: str | None = None,
        holdout: Sequence[int] | str = (),
        split: str = "train",
    ) -> None:
        self.train_cameras = train_cameras
        if len(img_res) != 2 or min(img_res) < 1:
            raise InputError(f"dataset.img_res = {list(img_res)}: expected [height, width] in pixels")
        self.img_res = (int(img_res[0]), int(img_res[1]))
        self.total_pixels = self.img_res[0] * self.img_res[1]
        root = Path(data_root).expanduser() if data_root else project_root() / "data"
        self.instance_dir = _scene_folder(root, data_dir, scan_id)
        self.split = split
        self.sampling_idx: Tensor | None = None

        image_paths = list_images(self.instance_dir / "image")
        mask_paths = scene_masks(self.instance_dir)
        if len(image_paths) != len(mask_paths):
            raise InputError(
                f"scan {scan_id}: {len(image_paths)} images but {len(mask_paths)} masks in "
                f"{self.instance_dir}; expected one mask per image, in the same natural name order"
            )
        self.num_images_in_folder = len(image_paths)
        self.indices = _split_indices(len(image_paths), holdout, split)
        self.camera_file = self._read(cam_file or "cameras.npz")
        intrinsics, poses = self.camera_file.decompose()
        check_intrinsics(self.camera_file.path, intrinsics)
        _check_sphere(self.camera_file)
        self.intrinsics = torch.from_numpy(intrinsics[self.indices]).float()
        self.poses = torch.from_numpy(poses[self.indices]).float()
        _check_distance(poses, self.camera_file.path)
        reading = with_progress(self.indices, "reading images")
        self.images = torch.stack([self._load_image(image_paths[i]) for i in reading])
        self.masks = torch.stack([self._load_mask(mask_paths[i]) for i in self.indices])
        if len(image_paths) == 1:
            log.warning("%s has a single view: the unseen side is undetermined", self.instance_dir)

    @property
    def n_images(self) -> int:
        """B, the number of images of this split."""
        return len(self.indices)

    def _read(self, name: str) -> CameraFile:
        return read_cameras(self.instance_dir / name, self.num_images_in_folder)

    def _load_image(self, path: Path) -> Tensor:
        rgb = load_rgb(path)
        self._check_size(rgb.shape[:2], path)
        return torch.from_numpy(rgb).reshape(-1, 3)

    def _load_mask(self, path: Path) -> Tensor:
        mask = load_mask(path)
        self._check_size(mask.shape, path)
        if mask.all() or not mask.any():
            found = "empty; expected the object in white"
            if mask.any():
                found = "white everywhere; expected black around the object"
            raise InputError(
                f"{path}: the mask is {found}: correct it, remove it with its image and import the folder "
                "again with import_scene.py, or import it with --masks auto"
            )
        return torch.from_numpy(mask).reshape(-1)

    def _check_size(self, shape: tuple[int, ...], path: Path) -> None:
        if tuple(shape) != self.img_res:
            raise InputError(
                f"{path} is {shape[0]} x {shape[1]} (height x width) but dataset.img_res = "
                f"{list(self.img_res)}; correct img_res, or import the folder with "
                "import_scene.py --kind idr, which brings images of several sizes to one"
            )

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, index: int) -> Item:
        return self.sample_item(index, self.sampling_idx)

    def sample_item(self, index: int, pixels: Tensor | None) -> Item:
        """Returns pixels of an image.

        Args:
            index: Position of the image in this split.
            pixels: (P,) pixel indices in row-major order, None for all.

        Returns:
            The index; ``object_mask`` (P,), ``uv`` (P, 2), ``intrinsics`` (4, 4) and, unless cameras are
            trained, ``pose`` (4, 4); ``rgb`` (P, 3) in [-1, 1].
        """
        pixels = torch.arange(self.total_pixels) if pixels is None else pixels
        width = self.img_res[1]
        sample = {
            "object_mask": self.masks[index][pixels],
            "uv": torch.stack((pixels % width, pixels // width), dim=1).float(),
            "intrinsics": self.intrinsics[index],
        }
        if not self.train_cameras:
            sample["pose"] = self.poses[index]
        return index, sample, {"rgb": self.images[index][pixels].float() / 127.5 - 1.0}

    def change_sampling_idx(self, sampling_size: int, generator: torch.Generator | None = None) -> None:
        """Samples the P pixels of subsequent items, without replacement; -1 for all pixels in order."""
        if sampling_size == -1:
            self.sampling_idx = None
        else:
            self.sampling_idx = torch.randperm(self.total_pixels, generator=generator)[:sampling_size]

    @staticmethod
    def collate_fn(items: Sequence[Item]) -> tuple[Tensor, Sample, Sample]:
        """Stacks items into (B,) indices and dictionaries of (B, ...) tensors."""
        indices, samples, truths = torch.utils.data.default_collate(list(items))
        return indices, samples, truths

    def get_scale_mat(self) -> np.ndarray:
        """scale_mat_0, (4, 4): unit-sphere to world coordinates."""
        return self.camera_file.scale_mats[0]

    def get_gt_pose(self, scaled: bool = False) -> Tensor:
        """(B, 4, 4) camera-to-world poses of the file, in unit-sphere (`scaled`) or world coordinates.

        The latter are float64, since worlds may have their origin far away.
        """
        poses = torch.from_numpy(self.camera_file.decompose(scaled)[1][self.indices])
        return poses.float() if scaled else poses

    def get_pose_init(self) -> Tensor:
        """Initial poses of trained cameras, (B, 7): quaternion (w, x, y, z) and center.

        They come from ``cameras_linear_init.npz``, in its unit-sphere coordinates.
        """
        cameras = self._read("cameras_linear_init.npz")
        all_poses = cameras.decompose()[1]
        _check_distance(all_poses, cameras.path)
        poses = torch.from_numpy(all_poses[self.indices])
        return torch.cat((rotation_to_quaternion(poses[:, :3, :3]), poses[:, :3, 3]), dim=1).float()


def _scene_folder(data_root: Path, data_dir: str, scan_id: int) -> Path:
    folder = data_root / data_dir / f"scan{scan_id}"
    if folder.is_dir():
        return folder
    if not folder.parent.is_dir():
        sets = [path.name for path in natural_sorted(data_root.glob("*")) if path.is_dir()]
        existing = f"{data_root} has {', '.join(sets)}{did_you_mean(data_dir, sets)}; " if sets else ""
        raise MissingInputError(
            f"no data folder {folder.parent}; {existing}put the data set there "
            f"({shipped_name('data/download_data.sh')} for DTU), correct dataset.data_dir, or pass another "
            "--data_root"
        )
    scans = [path.name for path in natural_sorted(folder.parent.glob("scan*")) if path.is_dir()]
    raise MissingInputError(
        f"no scene {folder}; {folder.parent} has {', '.join(scans) or 'no scan folders'}; choose one with "
        "--scan_id"
    )


def _holdout_indices(num_images: int, holdout: Sequence[int] | str) -> list[int]:
    """The indices of held-out images, from themselves or a rule; see `SceneDataset`."""
    if isinstance(holdout, str):
        every = re.fullmatch(r"every\s+([0-9]{1,9})", holdout.strip())
        share = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(%?)", holdout.strip())
        if every and int(every[1]) > 1:
            return list(range(0, num_images, int(every[1])))
        fraction = float(share[1]) / (100 if share[2] else 1) if share else 0.0
        if 0 < fraction < 1:
            count = max(1, round(num_images * fraction))
            return [int((k + 0.5) * num_images / count) for k in range(count)]
        raise InputError(
            f"dataset.holdout = {holdout}: expected a list of images such as [0, 8], `every 8`, or a share "
            "such as `10%`"
        )
    wrong = [i for i in holdout if not 0 <= i < num_images]
    if wrong:
        raise InputError(
            f"dataset.holdout names image {wrong[0]}; the scene has images 0 to {num_images - 1}: correct it "
            "in the conf, or hold out none with --set dataset.holdout=[]"
        )
    return list(holdout)


def _split_indices(num_images: int, rule: Sequence[int] | str, split: str) -> list[int]:
    holdout = set(_holdout_indices(num_images, rule))
    if split not in SPLITS:
        raise InputError(f"split {split}: expected one of {', '.join(SPLITS)}")
    indices = [i for i in range(num_images) if (i in holdout) == (split == "holdout")]
    if not indices:
        problem = "no image is held out" if split == "holdout" else "every image is held out"
        remedy = "hold out fewer, or none with --set dataset.holdout=[]"
        remedy = "hold out some, such as --set 'dataset.holdout=every 8'" if split == "holdout" else remedy
        raise InputError(
            f"dataset.holdout = {rule if isinstance(rule, str) else list(rule)}: {problem}; the scene has "
            f"{num_images} images: {remedy}"
        )
    return indices


def _check_sphere(cameras: CameraFile) -> None:
    """Checks that all views share one unit sphere, in which their poses are given."""
    scale_mats = cameras.scale_mats
    if not np.allclose(scale_mats, scale_mats[0], rtol=1e-4, atol=1e-4 * abs(scale_mats[0, 0, 0])):
        raise InputError(
            f"{cameras.path}: the scale_mats differ between views, so the poses have no common frame; run "
            "preprocess_cameras.py, which computes one from the masks"
        )


def _check_distance(poses: np.ndarray, path: Path) -> None:
    """Checks that all cameras are outside the unit sphere."""
    distances = np.linalg.norm(poses[:, :3, 3], axis=1)
    nearest = int(distances.argmin())
    if distances[nearest] < 1.0:
        raise InputError(
            f"{path}: camera {nearest} lies inside the unit sphere (at {distances[nearest]:.2f} of its "
            "radius); expected only the object inside: run preprocess_cameras.py, which computes scale_mat "
            "from the masks"
        )
