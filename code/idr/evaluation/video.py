"""Videos of rendered frames: GIF, or MP4 with the extra ``video``.

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
    """Checks that a video can be written, before any frame is rendered.

    Raises:
        InputError: The suffix is neither .gif nor .mp4, or the MP4 encoder is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--video {path}: expected a name ending in {' or '.join(FORMATS)}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError(f"--video {path}: MP4 needs pip install 'idr-surface[video]'; or write a .gif")


def write_video(frames: Sequence[NDArray[np.uint8]], path: Path, frames_per_second: float) -> None:
    """Writes F images (H, W, 3) of one size as a looping video, .gif or .mp4, atomically.

    MP4 needs even sides, so an odd last row or column is repeated.

    Raises:
        InputError: See `check_video_path`.
        OutputError: The file cannot be written.
    """
    check_video_path(path)
    if path.suffix.lower() == ".gif":
        duration = 1000.0 / frames_per_second  # milliseconds per frame
        content = iio.imwrite("<bytes>", np.stack(frames), extension=".gif", duration=duration, loop=0)
    else:
        height, width = frames[0].shape[:2]
        even = [np.pad(f, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") for f in frames]
        with tempfile.TemporaryDirectory() as folder:  # the encoder writes files only
            whole = Path(folder) / "film.mp4"
            iio2.mimwrite(whole, cast(Any, even), fps=frames_per_second, macro_block_size=2, quality=8)
            content = whole.read_bytes()
    write_atomic(path, lambda file: file.write(content))
