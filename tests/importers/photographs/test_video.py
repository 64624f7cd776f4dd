"""Frames of a video: which are taken, which way up, and broken videos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest

from idr.datasets.images import load_rgb
from idr.errors import InputError, MissingInputError
from idr.importers.photographs.video import frame_size, sharpness, write_frames

ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra `photos`")
SHAPE = (96, 160)
SHARP = (3, 4, 11, 13)
"""Frames that are not blurred, of 16; 4 is sharper than 3."""


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """Noise with a dark upper and a bright lower half; the mean of red tells the number."""
    generator = np.random.default_rng(0)
    made = []
    for k in range(16):
        noise = generator.integers(0, 60, SHAPE).astype(np.float32)
        noise[SHAPE[0] // 2 :] += 120
        blur = {4: 0.1, 3: 1.0}.get(k, 0.1 if k in SHARP else 4.0)
        frame = np.dstack([cv2.GaussianBlur(noise, (0, 0), blur)] * 3)
        made.append(np.clip(frame + [4 * k, 0, 0], 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def video(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "mug.mp4"
    iio.imwrite(path, frames, plugin="FFMPEG", fps=8, codec="libx264", quality=9, macro_block_size=2)
    return path


def test_the_sharpest_frame_of_each_interval_is_taken(
    video: Path, frames: list[np.ndarray], tmp_path: Path
) -> None:
    assert sharpness(frames[4]) > sharpness(frames[3]) > sharpness(frames[5])
    names = write_frames(video, 4, tmp_path)
    assert len(names) == 4 and sorted(path.name for path in tmp_path.iterdir()) == names
    numbers = [int(name[6:12]) for name in names]
    assert numbers[0] == 3 and numbers[1] == 4 and numbers[2] == 11 and numbers[3] == 13
    for name, number in zip(names, numbers, strict=True):
        found = load_rgb(tmp_path / name).astype(int)
        assert found.shape == (*SHAPE, 3)
        assert np.abs(found.mean((0, 1)) - frames[number].mean((0, 1))).max() < 6  # lossy video
    assert len(write_frames(video, 100, tmp_path / "all")) == 16


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_upright(video: Path, degrees: int, tmp_path: Path) -> None:
    """A phone held otherwise writes the same frames, and the counterclockwise rotation to show them."""
    turned = tmp_path / "turned.mov"
    command = [ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", str(degrees), "-i", str(video)]
    subprocess.run([*command, "-c", "copy", str(turned)], check=True)
    expected = np.rot90(iio.imread(video, plugin="FFMPEG", index=4), degrees // 90)
    assert frame_size(turned) == expected.shape[:2]
    (name,) = write_frames(turned, 1, tmp_path / "frames")
    shown = load_rgb(tmp_path / "frames" / name)
    assert int(name[6:12]) in SHARP
    half = np.rot90(np.arange(SHAPE[0])[:, None] * np.ones(SHAPE) >= SHAPE[0] // 2, degrees // 90)
    assert shown[half].mean() > shown[~half].mean() + 60


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_broken_videos_are_refused(video: Path, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(video.read_bytes()[:2000] if content is None else content)
    with pytest.raises(InputError, match=r"a\.mp4 (cannot be read as a video|has no frames).*to MP4"):
        write_frames(path, 4, tmp_path / "frames")


def test_without_the_library_the_remedy_is_named(video: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingInputError, match=r"pip install 'idr-surface\[photos\]'"):
        write_frames(video, 4, tmp_path)
