"""The views of a page: those of training, then those held out, by position in this order.

B views, H, W image height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from idr.evaluation.report.views import ComparedView, compare_view, to_bytes
from idr.runs import Camera, Run
from idr.runs.views import given_intrinsics, image_numbers, read_view
from idr.viewer.checkpoints import CheckpointReader
from idr.viewer.space import BLUE, GRAY, to_array
from idr.viewer.surfaces import CHUNK_PIXELS

HELD_OUT = " (held out)"
"""End of the names of views that were held out."""

THUMBNAIL = 96
"""Pixels along the longer side of an image on a camera."""


class PageViews:
    """The views of a run's scene.

    Attributes:
        names: Their numbers in the image folder, of held-out ones with `HELD_OUT`.
        in_order: Their positions, by number.
        colors: Colors of their cameras.
        poses: (B, 4, 4) given camera-to-world poses, unit-sphere coordinates.
        intrinsics: (B, 4, 4) given K.
    """

    def __init__(self, reader: CheckpointReader) -> None:
        self._parts = [reader.dataset, *([] if reader.held_out is None else [reader.held_out])]
        self._num_training = len(reader.dataset)
        numbers = [number for part in self._parts for number in image_numbers(part)]
        held_out = [k >= self._num_training for k in range(len(numbers))]
        self.names = [f"{n}{HELD_OUT if out else ''}" for n, out in zip(numbers, held_out, strict=True)]
        self.in_order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self.colors = [BLUE if out else GRAY for out in held_out]
        poses = [np.asarray(part.get_gt_pose(scaled=True), dtype=np.float64) for part in self._parts]
        self.poses = np.concatenate(poses)
        self.intrinsics = np.concatenate([to_array(given_intrinsics(part)) for part in self._parts])

    def thumbnails(self) -> list[NDArray[np.uint8]]:
        """Returns small photographs, (H, W, 3)."""
        photos = (read_view(part, k).photo for part in self._parts for k in range(len(part)))
        steps = ((photo, max(1, -(-max(photo.shape[:2]) // THUMBNAIL))) for photo in photos)
        return [to_bytes(photo[::step, ::step]) for photo, step in steps]

    def compare(self, run: Run, index: int, side: int) -> ComparedView:
        """Renders and compares a view; see `compare_view`."""
        k, held_out = self._in_its_part(index)
        return compare_view(run, k, side, CHUNK_PIXELS, held_out=held_out)

    def camera(self, run: Run, index: int) -> Camera:
        """Returns the camera of a view, trained if the run trained it."""
        k, held_out = self._in_its_part(index)
        return run.held_out_camera(k) if held_out else run.training_camera(k)

    def cameras(self, run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the poses and K of all views, (B, 4, 4) each, trained if the run trained them."""
        pairs: list[tuple[Any, Any]] = [(run.training_poses, run.training_intrinsics)]
        if run.held_out is not None:
            pairs.append((run.held_out_poses, run.held_out_intrinsics))
        poses, intrinsics = (np.concatenate([to_array(p) for p in part]) for part in zip(*pairs, strict=True))
        return poses, intrinsics

    def _in_its_part(self, index: int) -> tuple[int, bool]:
        held_out = index >= self._num_training
        return index - self._num_training if held_out else index, held_out
