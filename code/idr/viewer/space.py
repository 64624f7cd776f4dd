"""The 3D part of the page: the surface, the cameras with their images, and the browser's camera.

B training images, H, W image height and width. Unit-sphere coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from idr.errors import InputError
from idr.geometry.paths import surroundings
from idr.geometry.quaternions import quaternion_to_rotation, rotation_to_quaternion
from idr.runs import Camera

FRUSTUM = 0.12
"""Size of a camera's frustum, viser's ``scale``."""

GRAY, BLUE, CHOSEN = (120, 120, 120), (45, 105, 190), (214, 90, 20)
"""Colors of the cameras of training views and held-out views, and of the compared view."""
PICTURE_SECONDS = 20.0
"""Time for a browser to send its picture."""

STEEP = 0.85
"""Cosine of the angle between an optical axis and the up direction from which a camera looks up or down."""

LEFT = 0.3
"""Distance from a camera beyond which a browser has left it, unit-sphere units."""


class SpaceView:
    """The surface and the cameras in viser's scene; `place_cameras` comes first.

    Args:
        server: viser's server.
        names: Names of the views.
        colors: Colors of their cameras.
        photos: Small photographs, (H, W, 3) uint8 each.
        on_click: Called with the position among the views of a camera that is clicked.
    """

    def __init__(
        self,
        server: Any,
        names: Sequence[str],
        colors: Sequence[tuple[int, int, int]],
        photos: Sequence[NDArray[np.uint8]],
        on_click: Callable[[int], None],
    ) -> None:
        self._server = server
        self._names, self._colors = names, colors
        self._on_click = on_click
        self._photos = photos
        self._cameras: list[Any] = []
        self._surface: Any | None = None
        self._surface_visible = True
        self._chosen = 0
        self._entered: tuple[int, NDArray[np.float64]] | None = None
        self._arrived = False

    def set_up(self, poses: NDArray[np.floating], first: int, fov: float) -> None:
        """Sets the up direction, and puts new browsers at a camera; `fov` is vertical, radians."""
        own, forward = -np.asarray(poses[first, :3, 1], np.float64), poses[first, :3, 2]
        try:
            up = surroundings(poses).up
        except InputError:  # no common up: use the first camera's
            up = own
        self._server.scene.set_up_direction(up)
        camera = self._server.initial_camera
        camera.up = own if abs(forward @ up) > STEEP else up  # else the picture would lie on its side
        camera.fov = fov
        camera.position, camera.look_at = position_and_target(poses[first])
        self._chosen = first

    def show_surface(self, glb: bytes) -> None:
        """Shows the content of a GLB file in place of the last surface; no surface if it is empty."""
        if not glb:
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
        """Shows or hides the surface and its successors."""
        self._surface_visible = visible
        if self._surface is not None:
            self._surface.visible = visible

    def place_cameras(
        self, poses: NDArray[np.floating], intrinsics: NDArray[np.floating], img_res: tuple[int, int]
    ) -> None:
        """Moves the cameras to their poses, (B, 4, 4), at the shown checkpoint; K is (B, 4, 4)."""
        rotations = rotation_to_quaternion(torch.as_tensor(np.asarray(poses[:, :3, :3], dtype=np.float64)))
        with self._server.atomic():
            for index, quaternion in enumerate(rotations.numpy()):
                fov, aspect = field_of_view(intrinsics[index], img_res)
                if index == len(self._cameras):
                    self._cameras.append(self._add_camera(index, fov, aspect))
                camera = self._cameras[index]
                camera.wxyz, camera.fov = quaternion, fov
                camera.position = np.asarray(poses[index, :3, 3], dtype=np.float64)

    def _add_camera(self, index: int, fov: float, aspect: float) -> Any:
        camera = self._server.scene.add_camera_frustum(
            f"/cameras/view {self._names[index]}", fov, aspect,
            scale=FRUSTUM, thickness=0.008, color=CHOSEN if index == self._chosen else self._colors[index],
            image=self._photos[index], cast_shadow=False, receive_shadow=False,
        )  # fmt: skip
        camera.on_click(lambda _: self._on_click(index))
        return camera

    def mark(self, index: int) -> None:
        """Highlights the camera of the compared view."""
        self._cameras[self._chosen].color = self._colors[self._chosen]
        self._cameras[index].color = CHOSEN
        self._chosen = index

    def set_image(self, index: int, image: NDArray[np.uint8] | None) -> None:
        """Puts an image, (H, W, 3) uint8, on a camera; None for its photograph."""
        self._cameras[index].image = self._photos[index] if image is None else image

    def set_cameras_visible(self, visible: bool) -> None:
        """Shows or hides all cameras."""
        for camera in self._cameras:
            camera.visible = visible

    def step_into(self, index: int, center: NDArray[np.floating]) -> None:
        """Hides a camera with center (3,) that a browser moves into, since its image would cover the view."""
        if self._entered is not None:
            self._cameras[self._entered[0]].visible = True
        self._entered = (index, np.asarray(center, dtype=np.float64))
        self._arrived = False  # browsers may still report earlier positions
        self._cameras[index].visible = False

    def step_out(self, position: NDArray[np.floating]) -> None:
        """Shows that camera again once a browser, now at (3,) ``position``, has left it."""
        if self._entered is None:
            return
        is_near = bool(np.linalg.norm(position - self._entered[1]) < LEFT)
        self._arrived |= is_near
        if is_near or not self._arrived:
            return
        self._cameras[self._entered[0]].visible = True
        self._entered = None

    def show_lines(self, segments: NDArray[np.floating]) -> None:
        """Draws (N, 2, 3) lines from trained to given cameras."""
        self._server.scene.add_line_segments(
            "/moved", np.asarray(segments, dtype=np.float32), colors=(40, 150, 90), thickness=0.006
        )


def position_and_target(pose: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the center of a camera, (4, 4), and the point of its axis nearest to the origin, (3,) each."""
    center, forward = (np.asarray(pose[:3, column], dtype=np.float64) for column in (3, 2))
    return center, center + forward * max(float(-center @ forward), 0.1)


def to_array(values: Tensor) -> NDArray[np.float64]:
    """A tensor as float64 on the CPU."""
    return values.detach().double().cpu().numpy()


def browser_camera(quaternion: ArrayLike, center: ArrayLike, fov: float, aspect: float, side: int) -> Camera:
    """Returns the camera of a browser's view with `side` pixels along the longer side.

    The quaternion, (w, x, y, z), is camera-to-world with axes x right, y down, z forward. `fov` is vertical,
    in radians; `aspect` is width over height.
    """
    width, height = (side, side / aspect) if aspect >= 1 else (side * aspect, side)
    height, width = max(1, round(height)), max(1, round(width))
    focal = 0.5 * height / math.tan(0.5 * fov)
    intrinsics = np.diag([focal, focal, 1.0])
    # The center of the first pixel is at (0, 0), so the image begins at -0.5.
    intrinsics[:2, 2] = 0.5 * (width - 1), 0.5 * (height - 1)
    pose = np.eye(4)
    pose[:3, :3] = quaternion_to_rotation(torch.as_tensor(np.asarray(quaternion, dtype=np.float64))).numpy()
    pose[:3, 3] = center
    return Camera(intrinsics, pose, (height, width))


def field_of_view(intrinsics: NDArray[np.floating], img_res: tuple[int, int]) -> tuple[float, float]:
    """Returns the vertical field of view, radians, and width over height of a browser's frustum.

    A browser's frustum is centered on the optical axis, so an off-center principal point is ignored.
    """
    height, width = img_res
    fov = 2 * math.atan(0.5 * height / float(intrinsics[1, 1]))
    return fov, (width / float(intrinsics[0, 0])) / (height / float(intrinsics[1, 1]))


def fitting_field_of_view(fov: float, aspect: float, window: float) -> float:
    """Returns the vertical field of view of a window, width over height, that shows all of an image."""
    return 2 * math.atan(math.tan(0.5 * fov) * max(1.0, aspect / window))


def picture_of(client: Any) -> bytes:
    """Returns what a browser shows, before white: the content of a PNG file.

    Raises:
        TimeoutError: The browser sends nothing, as one in the background does.
    """
    camera = client.camera
    picture = client.get_render(
        camera.image_height, camera.image_width, transport_format="png", timeout=PICTURE_SECONDS
    )
    opacity = picture[..., 3:] / 255
    white = np.round(picture[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return iio.imwrite("<bytes>", white, extension=".png")
