"""Writes phone-like photographs of a teapot on a table, and the ground truth separately.

<folder>/photos/IMG_0000.jpg ...   the user's input: JPEG with EXIF, distorted, some taken sideways
<folder>/truth/                    ground truth: mask/ and cameras.npz for the pixels as stored,
                                   exact_surface.ply in world coordinates, scene.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import IFD, Base

from idr.demo.cameras import UNIT_TO_WORLD, look_at, write_cameras
from idr.demo.photo_render import PhoneLens, Room, render_photo
from idr.demo.scene import SETTINGS_FILE, SURFACE_FILE, Extractor, exact_mesh, write_surface
from idr.demo.teapot import Array
from idr.errors import InputError
from idr.files import whole_folder

PHOTOS, TRUTH = "photos", "truth"
GENERATOR = "idr photo-like scene"

_FOCAL = 0.94  # over the longer side
_RADIAL = (-0.075, 0.012)
_RINGS = ((14.0, 0.4), (34.0, 0.35), (57.0, 0.25))  # elevation in degrees, share of the views
_DISTANCE, _DISTANCE_JITTER, _ANGLE_JITTER, _TARGET_JITTER = 2.9, 0.15, 4.0, 0.05
_TARGET = np.array([0.0, 0.0, -0.08])
_SENSOR_NOISE = 0.006
_JPEG_QUALITY = 92
_FILM_WIDTH = 36.0  # mm, of 35 mm film
_CROP = 7.6  # crop factor of a phone
# Roll in degrees and EXIF orientation, by the view's number modulo 8.
_HOLDS = {3: (90.0, 6), 6: (180.0, 3)}
_UPRIGHT = (0.0, 1)


@dataclass(frozen=True)
class PhotoSettings:
    """Settings of the photographs, as in `SceneSettings`; `img_res` is their size as stored.

    The seed is that of textures, cameras and noise.
    """

    seed: int = 0
    num_views: int = 32
    img_res: tuple[int, int] = (480, 640)
    supersampling: int = 2
    mesh_resolution: int = 192

    def __post_init__(self) -> None:
        """Raises `InputError` if a value is out of range."""
        checks = (
            ("--seed", self.seed, self.seed >= 0, "0 or more"),
            ("--views", self.num_views, self.num_views >= 3, "at least 3"),
            ("--img_res", self.img_res, min(self.img_res) >= 32, "height and width of at least 32"),
            ("--supersampling", self.supersampling, 1 <= self.supersampling <= 16, "1 to 16"),
            ("--mesh_resolution", self.mesh_resolution, 16 <= self.mesh_resolution <= 1024, "16 to 1024"),
        )
        for name, value, valid, expected in checks:
            if not valid:
                raise InputError(f"{name} {value}: expected {expected}")


def phone_lens(img_res: tuple[int, int]) -> PhoneLens:
    """The camera of all photographs: square pixels, centered principal point."""
    height, width = img_res
    intrinsics = np.diag([_FOCAL * max(img_res), _FOCAL * max(img_res), 1.0, 1.0])
    intrinsics[:2, 2] = (width - 1) / 2, (height - 1) / 2
    return PhoneLens(intrinsics, _RADIAL)


def photo_poses(num_views: int, generator: np.random.Generator) -> Array:
    """(B, 4, 4) poses on three rings of increasing elevation around the table, for pixels as stored."""
    ends = np.rint(np.cumsum([share for _, share in _RINGS]) * num_views).astype(int)
    poses = []
    for i in range(num_views):
        ring = int(np.searchsorted(ends, i, side="right"))
        first = 0 if ring == 0 else ends[ring - 1]
        elevation = np.radians(_RINGS[ring][0] + generator.uniform(-1, 1) * _ANGLE_JITTER)
        step = 2 * np.pi / (ends[ring] - first)
        azimuth = (i - first + 0.4 * ring) * step + np.radians(generator.uniform(-1, 1) * _ANGLE_JITTER)
        across = np.cos(elevation)
        away = np.array([np.cos(azimuth) * across, np.sin(azimuth) * across, np.sin(elevation)])
        distance = _DISTANCE * (1 + generator.uniform(-1, 1) * _DISTANCE_JITTER)
        target = _TARGET + generator.uniform(-1, 1, 3) * _TARGET_JITTER
        roll = _HOLDS.get(i % 8, _UPRIGHT)[0] + generator.uniform(-1, 1) * _ANGLE_JITTER
        poses.append(look_at(target + distance * away, target, np.radians(roll), steep=1.0))
    return np.stack(poses)


def write_photos(
    folder: Path, settings: PhotoSettings, extract: Extractor, progress: Callable[[str], None]
) -> None:
    """Writes photographs and ground truth to an empty folder, completely or not at all.

    Raises:
        InputError: The folder is not empty.
        OutputError: Writing failed.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists: choose another --out, or move it away")
    with whole_folder(folder) as unfinished:
        photos, truth = unfinished / PHOTOS, unfinished / TRUTH
        photos.mkdir()
        (truth / "mask").mkdir(parents=True)
        layout, prints, noise = (np.random.default_rng([settings.seed, stream]) for stream in range(3))
        lens, room = phone_lens(settings.img_res), Room(prints)
        poses = photo_poses(settings.num_views, layout)
        for i, pose in enumerate(poses):
            view = render_photo(lens, pose, settings.img_res, settings.supersampling, room)
            noisy = view.rgb + _SENSOR_NOISE * noise.standard_normal(view.rgb.shape)
            pixels = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
            name = f"IMG_{i:04d}"
            image = Image.fromarray(pixels)
            exif = _exif(lens, settings.img_res, _HOLDS.get(i % 8, _UPRIGHT)[1])
            image.save(photos / f"{name}.jpg", quality=_JPEG_QUALITY, exif=exif)
            iio.imwrite(truth / "mask" / f"{name}.png", view.mask)
            progress(f"photograph {i + 1} of {settings.num_views}")
        write_cameras(truth / "cameras.npz", lens.intrinsics, poses)
        write_surface(truth / SURFACE_FILE, *exact_mesh(extract, settings.mesh_resolution))
        record = {"generator": GENERATOR, **asdict(settings), "radial": lens.radial}
        record |= {"intrinsics": lens.intrinsics[:3, :3].tolist(), "unit_to_world": UNIT_TO_WORLD.tolist()}
        (truth / SETTINGS_FILE).write_text(json.dumps(record, indent=2) + "\n")


def _exif(lens: PhoneLens, img_res: tuple[int, int], orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "Fictive", "Phone 1"
    if orientation != _UPRIGHT[1]:
        exif[Base.Orientation] = orientation
    focal_35mm = lens.intrinsics[0, 0] / max(img_res) * _FILM_WIDTH
    block = exif.get_ifd(IFD.Exif)
    block[Base.FocalLength] = TiffImagePlugin.IFDRational(round(100 * focal_35mm / _CROP), 100)
    block[Base.FocalLengthIn35mmFilm] = round(focal_35mm)
    block[Base.ExifImageHeight], block[Base.ExifImageWidth] = img_res
    return exif
