"""Photographs from a video: the sharpest frame of each of equally long intervals.

H rows, W columns of a frame, turned upright by the video's rotation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idr.datasets.image_files import PHOTOS_EXTRA
from idr.errors import USER_ERRORS, InputError, MissingInputError
from idr.files import write_atomic

NUM_FRAMES = 60
"""Frames that are taken by default."""
SHARPNESS_SIDE = 960
"""Pixels of the longer side at which sharpness is compared: at full size, noise counts as sharpness."""


def write_frames(video: Path, count: int, folder: Path) -> list[str]:
    """Writes the sharpest frame of each of `count` intervals as a PNG, all frames of a shorter video.

    Returns:
        The files' names, `frame_<number in the video>.png`.

    Raises:
        MissingInputError: imageio-ffmpeg is not installed.
        InputError: The file cannot be read as a video.
    """
    total = _count_frames(video)
    names: list[str] = []
    best: tuple[float, int, NDArray[np.uint8]] | None = None
    count = min(count, total)
    for number, frame in enumerate(_frames(video)):
        score = sharpness(frame)
        if best is None or score > best[0]:
            best = (score, number, frame)
        # Frames beyond the announced number belong to the last interval.
        if len(names) < count - 1 and (number + 1) * count >= (len(names) + 1) * total:
            names.append(_write(folder, *best[1:]))
            best = None
    if best is not None:
        names.append(_write(folder, *best[1:]))
    if not names:
        raise InputError(f"{video} has no frames; expected a video: convert it to MP4")
    return names


def frame_size(video: Path) -> tuple[int, int]:
    """Returns (H, W) of a video's frames; raises like `write_frames`."""
    return next(_frames(video)).shape[:2]


def sharpness(frame: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a frame, (H, W, 3), reduced to `SHARPNESS_SIDE` pixels."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    factor = min(1.0, SHARPNESS_SIDE / max(gray.shape))
    small = cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


def _write(folder: Path, number: int, frame: NDArray[np.uint8]) -> str:
    name, image = f"frame_{number:06d}.png", Image.fromarray(frame)
    write_atomic(folder / name, lambda file: image.save(file, format="PNG", compress_level=1))
    return name


def _ffmpeg(video: Path) -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise MissingInputError(
            f"reading the video {video} needs imageio-ffmpeg, which is not installed: {PHOTOS_EXTRA}, or "
            "save its frames as JPEG"
        ) from error
    return imageio_ffmpeg


def _count_frames(video: Path) -> int:
    try:
        return max(1, int(_ffmpeg(video).count_frames_and_secs(str(video))[0]))
    except USER_ERRORS:
        raise
    except Exception as error:  # of ffmpeg's process and of parsing its output
        raise _unreadable(video, error) from error


def _frames(video: Path) -> Iterator[NDArray[np.uint8]]:
    """Yields all frames; ffmpeg turns them by the video's rotation."""
    try:
        reader = _ffmpeg(video).read_frames(str(video))
        width, height = next(reader)["size"]
        for content in reader:
            yield np.frombuffer(content, np.uint8).reshape(height, width, 3)
    except USER_ERRORS:
        raise
    except Exception as error:
        raise _unreadable(video, error) from error


def _unreadable(video: Path, error: Exception) -> InputError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return InputError(f"{video} cannot be read as a video ({reason}); convert it to MP4, or save its frames")
