"""What stands in space on the page: the surface, and the cameras with their pictures.

B training images. Unit-sphere coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.errors import InputError
from idr.geometry.paths import surroundings
from idr.geometry.quaternions import rotation_to_quaternion
from idr.viewer.pictures import field_of_view

FRUSTUM = 0.12
"""Size of a camera in space, viser's ``scale``."""

GRAY, CHOSEN = (120, 120, 120), (214, 90, 20)
LEFT = 0.3
"""Distance from a camera at which a browser has left it, unit-sphere units."""

NEARER = 0.75
"""Where a browser stands at first: this share of the first camera's way from the origin, past its picture."""


class SpaceView:
    """The surface and the cameras.

    Args:
        server: viser's server.
        numbers: The images' numbers, for names.
        photos: Small photographs, (H, W, 3) uint8 each.
        on_click: Called with a camera's position among the training views when somebody clicks it.
    """

    def __init__(
        self,
        server: Any,
        numbers: Sequence[int],
        photos: Sequence[NDArray[np.uint8]],
        on_click: Callable[[int], None],
    ) -> None:
        self._server = server
        self._numbers = numbers
        self._on_click = on_click
        self._photos = list(photos)
        self._pictures = list(photos)
        self._cameras: list[Any] = []
        self._surface: Any | None = None
        self._surface_visible = True
        self._chosen = 0
        self._entered: tuple[int, NDArray[np.float64]] | None = None
        self._arrived = False

    def stand(self, poses: NDArray[np.floating]) -> None:
        """Turns the scene upright and puts new browsers near the first camera.

        Args:
            poses: (B, 4, 4) the cameras.
        """
        try:
            up = surroundings(poses).up
        except InputError:  # held in all ways: as the first camera is held
            up = -np.asarray(poses[0, :3, 1], dtype=np.float64)
        self._server.scene.set_up_direction(up)
        camera = self._server.initial_camera
        camera.up = up
        camera.position = NEARER * np.asarray(poses[0, :3, 3], dtype=np.float64)
        camera.look_at = np.zeros(3)

    def show_surface(self, glb: bytes | None) -> None:
        """Shows a surface, the content of a GLB file, in place of the last one; None shows none."""
        if glb is None:
            if self._surface is not None:
                self._surface.remove()
            self._surface = None
        elif self._surface is None:
            self._surface = self._server.scene.add_glb(
                "/surface", glb, visible=self._surface_visible, cast_shadow=False, receive_shadow=False
            )
        else:
            self._surface.glb_data = glb

    def set_surface_visible(self, visible: bool) -> None:
        """Shows or hides the surface, also one that comes later."""
        self._surface_visible = visible
        if self._surface is not None:
            self._surface.visible = visible

    def place_cameras(
        self, poses: NDArray[np.floating], intrinsics: NDArray[np.floating], img_res: tuple[int, int]
    ) -> None:
        """Puts the cameras where they stand at the shown checkpoint.

        Args:
            poses: (B, 4, 4).
            intrinsics: (B, 4, 4).
            img_res: Height and width.
        """
        rotations = rotation_to_quaternion(torch.as_tensor(np.asarray(poses[:, :3, :3], dtype=np.float64)))
        with self._server.atomic():
            for index, quaternion in enumerate(rotations.numpy()):
                fov, aspect = field_of_view(intrinsics[index], img_res)
                center = np.asarray(poses[index, :3, 3], dtype=np.float64)
                if index < len(self._cameras):
                    camera = self._cameras[index]
                    camera.wxyz, camera.position, camera.fov = quaternion, center, fov
                else:
                    self._cameras.append(self._add_camera(index, fov, aspect, quaternion, center))

    def _add_camera(
        self,
        index: int,
        fov: float,
        aspect: float,
        wxyz: NDArray[np.floating],
        position: NDArray[np.floating],
    ) -> Any:
        camera = self._server.scene.add_camera_frustum(
            f"/cameras/view {self._numbers[index]}", fov, aspect,
            scale=FRUSTUM, thickness=0.008, color=CHOSEN if index == self._chosen else GRAY,
            image=self._pictures[index], wxyz=wxyz, position=position,
            cast_shadow=False, receive_shadow=False,
        )  # fmt: skip
        camera.on_click(lambda _: self._on_click(index))
        return camera

    def mark(self, index: int) -> None:
        """Marks the camera that is compared."""
        before, self._chosen = self._chosen, index
        if self._cameras:
            self._cameras[before].color = GRAY
            self._cameras[index].color = CHOSEN

    def set_picture(self, index: int, picture: NDArray[np.uint8] | None) -> None:
        """Puts a picture, (H, W, 3) uint8, on a camera; None for its photograph."""
        self._pictures[index] = self._photos[index] if picture is None else picture
        if self._cameras:
            self._cameras[index].image = self._pictures[index]

    def set_cameras_visible(self, visible: bool) -> None:
        """Shows or hides all cameras."""
        for camera in self._cameras:
            camera.visible = visible

    def step_into(self, index: int, center: NDArray[np.floating]) -> None:
        """Hides a camera in which a browser is about to stand: its picture would cover all.

        Args:
            index: Position among the training views.
            center: (3,) where it stands.
        """
        if self._entered is not None:
            self._cameras[self._entered[0]].visible = True
        self._entered = (index, np.asarray(center, dtype=np.float64))
        self._arrived = False  # browsers still tell of where they stood
        self._cameras[index].visible = False

    def step_out(self, position: NDArray[np.floating]) -> None:
        """Shows that camera again once a browser has moved away from it, to (3,) ``position``."""
        if self._entered is None:
            return
        is_near = bool(np.linalg.norm(position - self._entered[1]) < LEFT)
        self._arrived |= is_near
        if is_near or not self._arrived:
            return
        self._cameras[self._entered[0]].visible = True
        self._entered = None

    def show_lines(self, segments: NDArray[np.floating] | None) -> None:
        """Draws (N, 2, 3) lines from trained cameras to where they are given; None takes them away."""
        if segments is None:
            self._server.scene.remove_by_name("/moved")
            return
        self._server.scene.add_line_segments(
            "/moved", np.asarray(segments, dtype=np.float32), colors=(40, 150, 90), thickness=0.006
        )


def to_array(values: Tensor) -> NDArray[np.float64]:
    """A tensor as float64 on the CPU."""
    return values.detach().double().cpu().numpy()
