"""Frames as a film: GIF always, MP4 with an extra.

F frames, H, W image height and width.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import imageio.v2 as iio2
import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.files import write_atomic

FORMATS = (".gif", ".mp4")


def check_video_path(path: Path) -> None:
    """Refuses what could not be written, before any frame is rendered.

    Args:
        path: The film; its ending tells the format.

    Raises:
        InputError: The ending is neither .gif nor .mp4, or MP4's encoder is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--video {path}: expected a name ending in {' or '.join(FORMATS)}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError(f"--video {path}: MP4 needs pip install 'idr[video]'; or write a .gif")


def write_video(frames: Sequence[NDArray[np.uint8]], path: Path, frames_per_second: float) -> None:
    """Writes a film that repeats, whole or not at all.

    Args:
        frames: F images (H, W, 3) of one size.
        path: The film, .gif or .mp4. MP4 wants even sides: a last odd row or column is repeated.
        frames_per_second: Speed.

    Raises:
        InputError: See `check_video_path`.
        OutputError: The file cannot be written.
    """
    check_video_path(path)
    if path.suffix.lower() == ".gif":
        duration = 1000.0 / frames_per_second  # milliseconds a frame
        content = iio.imwrite("<bytes>", np.stack(frames), extension=".gif", duration=duration, loop=0)
    else:
        height, width = frames[0].shape[:2]
        even = [np.pad(f, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") for f in frames]
        with tempfile.TemporaryDirectory() as folder:  # the encoder writes files only
            whole = Path(folder) / "film.mp4"
            iio2.mimwrite(whole, cast(Any, even), fps=frames_per_second, macro_block_size=2, quality=8)
            content = whole.read_bytes()
    write_atomic(path, lambda file: file.write(content))
