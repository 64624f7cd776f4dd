"""What is shown of a run, and what is asked of the worker when something is moved or training saves."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idr.evaluation.reconstruction import poses_to_model_frame
from idr.evaluation.report.views import compare_view, to_bytes
from idr.runs.api import LoadedRun
from idr.runs.opened import image_numbers, read_view
from idr.viewer import panel as pages
from idr.viewer import pictures
from idr.viewer.runs import Checkpoint, WatchedRun, nearest
from idr.viewer.scene import SpaceView, to_array
from idr.viewer.worker import Worker

log = logging.getLogger(__name__)

SURFACE, COMPARE, CAMERAS, BROWSER = "surface", "compared view", "all views", "your view"
URGENCY = {CAMERAS: 0, SURFACE: 1, COMPARE: 2, BROWSER: 3}
THUMBNAIL = 96
"""Pixels along the longer side of a picture on a camera."""

KEPT_BYTES = 200_000_000
"""Of surfaces kept for replays."""

FAR = 100.0
"""Depth given to pixels without a surface, unit-sphere units."""

REPLAY_RESOLUTION = 64
REPLAY_SECONDS = 0.4
"""Least time for which a replay shows one surface."""


class Session:
    """One run on one page.

    Args:
        run: The run.
        server: viser's server.
        resolution: Of the surface at first.
        side: Pixels along the longer side of pictures at first.
    """

    def __init__(self, run: WatchedRun, server: Any, resolution: int, side: int) -> None:
        self._run = run
        self._server = server
        self._checkpoints: list[Checkpoint] = []
        self._shown: Checkpoint | None = None
        self._surfaces: OrderedDict[tuple[Checkpoint, int, str], pictures.ShownSurface | None] = OrderedDict()
        self._surface_words = ""  # until the first one is drawn
        self._busy: tuple[str, ...] = ()
        self._looked: dict[int, tuple[float, ...]] = {}  # by browser
        self._numbers = image_numbers(run.dataset)
        photos = [self._thumbnail(k) for k in range(len(self._numbers))]
        self._space = SpaceView(server, self._numbers, photos, self._clicked)
        self._img_res = (int(run.dataset.img_res[0]), int(run.dataset.img_res[1]))
        title = f"`{run.folder.parent.name}/{run.folder.name}`"
        start = pages.PanelStart(title, len(self._numbers), resolution, side)
        self._panel = pages.Panel(server.gui, start, self)
        self._place_given()
        self._worker = Worker(self._failed, self._worker_changed)
        server.on_client_connect(self._greet)

    def close(self) -> None:
        """Ends the worker."""
        self._worker.close()

    def poll(self) -> None:
        """Looks for new checkpoints; called every now and then."""
        checkpoints = self._run.checkpoints()
        if checkpoints == self._checkpoints:
            return
        self._checkpoints = checkpoints
        if checkpoints and (self._shown is None or self._panel.follow.value):
            self._show(checkpoints[-1])
        else:
            self._panel.show_checkpoints(checkpoints, self._shown)
            self._say()

    # ---- what is moved

    def choose_epoch(self, epoch: int) -> None:
        """Shows the checkpoint nearest to an epoch, and follows no more."""
        chosen = nearest(self._checkpoints, epoch)
        if chosen is not None:
            self._panel.follow.value = False
            if chosen != self._shown:
                self._show(chosen, move_slider=False)

    def follow(self, newest: bool) -> None:
        """Shows the newest checkpoint from now on, or stays."""
        if newest and self._checkpoints:
            self._show(self._checkpoints[-1])

    def replay(self) -> None:
        """Shows the surface of each checkpoint in turn, coarse, and then the shown one as before."""
        checkpoints, paint = sorted(self._checkpoints), self._panel.paint.value
        resolution = min(REPLAY_RESOLUTION, int(self._panel.resolution.value))

        def work() -> None:
            for checkpoint in checkpoints:
                started = time.monotonic()
                self._publish(checkpoint, resolution, paint)
                self._panel.epoch.value = checkpoint.epoch
                while time.monotonic() - started < REPLAY_SECONDS:
                    self._worker.between()
                    time.sleep(0.02)
            if self._shown is not None:
                self._panel.epoch.value = self._shown.epoch
            self.change_surface()

        self._worker.submit(SURFACE, work, URGENCY[SURFACE])

    def change_surface(self) -> None:
        """Meshes anew, coarse to fine."""
        checkpoint, paint = self._shown, self._panel.paint.value
        if checkpoint is None:
            return
        finest = int(self._panel.resolution.value)

        def work() -> None:
            steps = pictures.coarse_to_fine(pictures.COARSEST_GRID, finest)
            if (checkpoint, finest, paint) in self._surfaces:
                steps = steps[-1:]
            for resolution in steps:
                self._publish(checkpoint, resolution, paint)
                self._worker.between()

        self._worker.submit(SURFACE, work, URGENCY[SURFACE])

    def change_view(self, index: int) -> None:
        """Compares a training view, coarse to fine."""
        checkpoint, side = self._shown, int(self._panel.side.value)
        index = min(index, len(self._numbers) - 1)
        self._space.mark(index)
        if checkpoint is None:
            return

        def work() -> None:
            run = self._open(checkpoint)
            for size in pictures.coarse_to_fine(pictures.COARSE_SIDE, side, 4):
                view = compare_view(run, index, size, pictures.CHUNK_PIXELS)
                self._panel.show_view(view, index, checkpoint.epoch)
                self._worker.between()

        self._worker.submit(COMPARE, work, URGENCY[COMPARE])

    def go_to_view(self, client: Any) -> None:
        """Puts a browser where the compared view's camera stands."""
        checkpoint, index = self._shown, int(self._panel.view.value)
        if checkpoint is None or client is None:
            return

        def work() -> None:
            camera = self._open(checkpoint).training_camera(index)
            pose = np.asarray(camera.pose, dtype=np.float64)
            fov, _ = pictures.field_of_view(np.asarray(camera.intrinsics), camera.img_res)
            center, forward = pose[:3, 3], pose[:3, 2]
            self._space.step_into(index, center)
            with client.atomic():
                client.camera.position = center
                client.camera.look_at = center + forward * max(float(-center @ forward), 0.1)
                client.camera.up_direction = -pose[:3, 1]
                client.camera.fov = fov

        self._worker.submit(f"go {client.client_id}", work, URGENCY[BROWSER])

    def change_cameras(self) -> None:
        """Puts other pictures on the cameras: photographs at once, others as they are rendered."""
        which, checkpoint = self._panel.pictures.value, self._shown
        self._space.set_cameras_visible(which != pages.NONE)
        self._panel.table.visible = False
        if which not in (pages.RENDERINGS, pages.ERRORS) or checkpoint is None:
            self._worker.drop(CAMERAS)
            for index in range(len(self._numbers)):
                self._space.set_picture(index, None)
            return

        def work() -> None:
            run, scores = self._open(checkpoint), {}
            for index, number in enumerate(self._numbers):
                view = compare_view(run, index, THUMBNAIL, pictures.CHUNK_PIXELS)
                self._worker.between()
                self._space.set_picture(
                    index, to_bytes(view.error if which == pages.ERRORS else view.rendered)
                )
                scores[index] = (number, view.psnr, view.iou)
                self._panel.show_table(scores, len(self._numbers))

        self._worker.submit(CAMERAS, work, URGENCY[CAMERAS])

    def change_novel(self) -> None:
        """Shows space by the network itself, or by its mesh."""
        by_network = bool(self._panel.novel.value)
        self._space.set_surface_visible(not by_network)
        for client in self._server.get_clients().values():
            if by_network:
                self._look(client)
            else:
                self._worker.drop(f"{BROWSER} {client.client_id}")
                client.scene.set_background_image(None)

    # ---- what is computed

    def _show(self, checkpoint: Checkpoint, move_slider: bool = True) -> None:
        self._shown = checkpoint
        self._panel.tell_trouble("")
        self._panel.show_checkpoints(self._checkpoints, checkpoint if move_slider else None)
        self.change_surface()
        self.change_view(int(self._panel.view.value))
        if self._panel.pictures.value in (pages.RENDERINGS, pages.ERRORS):
            self.change_cameras()
        if self._panel.novel.value:
            self.change_novel()
        self._say()

    def _open(self, checkpoint: Checkpoint) -> LoadedRun:
        return self._run.open(checkpoint, self._worker.between)

    def _publish(self, checkpoint: Checkpoint, resolution: int, paint: str) -> None:
        """Shows a surface, from memory or computed, with the cameras of its checkpoint."""
        key = (checkpoint, resolution, paint)
        run = self._open(checkpoint)
        self._place(run)
        if key not in self._surfaces:
            self._surfaces[key] = pictures.surface_of(run, resolution, paint, self._worker.between)
            while (
                sum(len(s.glb) for s in self._surfaces.values() if s) > KEPT_BYTES and len(self._surfaces) > 1
            ):
                self._surfaces.popitem(last=False)
        surface = self._surfaces[key]
        self._space.show_surface(None if surface is None else surface.glb)
        what = "no surface yet" if surface is None else f"{surface.num_faces:,} faces at {resolution}"
        self._surface_words = f"epoch {checkpoint.epoch}: {what}"
        self._say()

    def _look(self, client: Any) -> None:
        """Renders what a browser's camera sees, coarse to fine."""
        checkpoint, side = self._shown, int(self._panel.novel_side.value)
        if checkpoint is None or not self._panel.novel.value:
            return
        camera = client.camera
        seen = (np.array(camera.wxyz), np.array(camera.position), float(camera.fov), float(camera.aspect))

        def work() -> None:
            run = self._open(checkpoint)
            for size in pictures.coarse_to_fine(pictures.COARSE_SIDE, side):
                image = run.render(pictures.browser_camera(*seen, size), pictures.CHUNK_PIXELS)
                self._worker.between()
                depth = np.nan_to_num(image.depth.numpy(), posinf=FAR)
                client.scene.set_background_image(to_bytes(image.rgb01), format="png", depth=depth)

        self._worker.submit(f"{BROWSER} {client.client_id}", work, URGENCY[BROWSER])

    def _greet(self, client: Any) -> None:
        client.camera.on_update(lambda _: self._moved(client))
        self._look(client)

    def _moved(self, client: Any) -> None:
        """Browsers also tell of cameras that stand still: these must not end what is rendered for them."""
        camera = client.camera
        looks = (*camera.wxyz, *camera.position, camera.fov, camera.aspect)
        if np.allclose(self._looked.get(client.client_id, (np.inf,) * len(looks)), looks, atol=1e-4):
            return
        self._looked[client.client_id] = looks
        self._space.step_out(camera.position)
        self._look(client)

    def _clicked(self, index: int) -> None:
        self._panel.view.value = index
        self.change_view(index)

    # ---- cameras

    def _thumbnail(self, index: int) -> NDArray[np.uint8]:
        photo = read_view(self._run.dataset, index).photo
        step = max(1, -(-max(photo.shape[:2]) // THUMBNAIL))
        return to_bytes(photo[::step, ::step])

    def _place_given(self) -> None:
        """Before the first checkpoint cameras stand where they are given."""
        poses = np.asarray(self._run.dataset.get_gt_pose(scaled=True), dtype=np.float64)
        self._space.stand(poses)
        intrinsics = np.stack(
            [np.asarray(read_view(self._run.dataset, k).intrinsics) for k in range(len(poses))]
        )
        self._space.place_cameras(poses, intrinsics, self._img_res)

    def _place(self, run: LoadedRun) -> None:
        """Puts cameras where they stood at a checkpoint, and draws how far from the given ones."""
        poses = to_array(run.scene.training_poses)
        self._space.place_cameras(poses, to_array(run.scene.training_intrinsics), self._img_res)
        if run.scene.alignment is not None:
            given = np.asarray(run.scene.dataset.get_gt_pose(scaled=False), dtype=np.float64)
            aligned = poses_to_model_frame(given, run.scene.alignment)
            self._space.show_lines(np.stack((poses[:, :3, 3], aligned[:, :3, 3]), axis=1))

    # ---- words

    def _failed(self, slot: str, text: str) -> None:
        log.warning("viewer, %s: %s", slot, text)
        self._panel.tell_trouble(f"{slot}: {text}")

    def _worker_changed(self, slots: tuple[str, ...]) -> None:
        self._busy = slots
        self._say()

    def _say(self) -> None:
        newest = max((c.epoch for c in self._checkpoints), default=None)
        count = len(self._checkpoints)
        of = f", {count} checkpoint{'s' if count > 1 else ''} up to epoch {newest}" if count else ""
        doing = f"; computing: {self._busy[-1].rstrip(' 0123456789')}" if self._busy else ""
        nothing = "no surface drawn yet" if count else "waiting for the first checkpoint"
        self._panel.say(f"{self._surface_words or nothing}{of}{doing}")
