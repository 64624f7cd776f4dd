"""State of the page: what is shown, and the work requested when a control moves or training saves."""

from __future__ import annotations

import functools
import logging
import time
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idr.evaluation.report.views import compare_view, to_bytes
from idr.runs import Run
from idr.runs.views import given_intrinsics, image_numbers, read_view
from idr.viewer import panel as pages
from idr.viewer import surfaces
from idr.viewer.checkpoints import Checkpoint, CheckpointReader, nearest
from idr.viewer.space import SpaceView, browser_camera, field_of_view, to_array
from idr.viewer.worker import Worker

log = logging.getLogger(__name__)

SURFACE, COMPARE, CAMERAS, BROWSER = "surface", "compared view", "all views", "your view"
URGENCY = {CAMERAS: 0, SURFACE: 1, COMPARE: 2, BROWSER: 3}
THUMBNAIL = 96
"""Pixels along the longer side of an image on a camera."""

MAX_OPEN = 3
"""Networks kept in memory for going back to a checkpoint."""

KEPT_BYTES = 200_000_000
"""Memory of the surfaces kept for replays."""

FAR = 100.0
"""Depth of pixels without a surface, unit-sphere units."""

REPLAY_RESOLUTION = 64
REPLAY_SECONDS = 0.4
"""Shortest time that a replay shows one surface."""


class Session:
    """One run on one page of viser's server, at first with a resolution and a side of images in pixels."""

    def __init__(self, reader: CheckpointReader, server: Any, resolution: int, side: int) -> None:
        self._reader = reader
        self._server = server
        self._checkpoints: list[Checkpoint] = []
        self._shown: Checkpoint | None = None
        self._surfaces: OrderedDict[tuple[Checkpoint, int, str], tuple[bytes, int]] = OrderedDict()
        self._surface_words = ""  # until the first one is drawn
        self._busy: tuple[str, ...] = ()
        self._last_seen: dict[int, tuple[float, ...]] = {}  # by browser
        self._numbers = image_numbers(reader.dataset)
        photos = [self._thumbnail(k) for k in range(len(self._numbers))]
        self._space = SpaceView(server, self._numbers, photos, self._clicked)
        title = f"{reader.folder.parent.name}/{reader.folder.name}"
        self._panel = pages.Panel(server.gui, title, len(self._numbers), resolution, side)
        # The given cameras stand there before the first checkpoint.
        poses = np.asarray(reader.dataset.get_gt_pose(scaled=True), dtype=np.float64)
        self._space.set_up(poses)
        self._space.place_cameras(poses, to_array(given_intrinsics(reader.dataset)), reader.dataset.img_res)
        self._worker = Worker(self._failed, self._worker_changed)
        self._open = functools.lru_cache(MAX_OPEN)(lambda c: reader.open(c, self._worker.between))
        self._connect()

    def _connect(self) -> None:
        panel = self._panel
        pages.on_user(panel.epoch, lambda: self.choose_epoch(int(panel.epoch.value)))
        pages.on_user(panel.follow, lambda: self.follow(bool(panel.follow.value)))
        pages.on_user(panel.view, lambda: self.change_view(int(panel.view.value)))
        pages.on_user(panel.side, lambda: self.change_view(int(panel.view.value)))
        pages.on_user(panel.resolution, self.change_surface)
        pages.on_user(panel.paint, self.change_surface)
        pages.on_user(panel.shown, self.change_cameras)
        pages.on_user(panel.novel, self.change_novel)
        pages.on_user(panel.novel_side, self.change_novel)
        panel.replay.on_click(lambda _: self.replay())
        panel.go.on_click(lambda event: self.go_to_view(event.client))
        self._server.on_client_connect(self._connected)

    def close(self) -> None:
        """Ends the worker."""
        self._worker.close()

    def poll(self) -> None:
        """Shows a new checkpoint, if there is one; called regularly."""
        checkpoints = self._reader.checkpoints()
        if checkpoints == self._checkpoints:
            return
        self._checkpoints = checkpoints
        if checkpoints and (self._shown is None or self._panel.follow.value):
            self._show(checkpoints[-1])
        else:
            self._panel.show_checkpoints(checkpoints, self._shown)
            self._say()

    def choose_epoch(self, epoch: int) -> None:
        """Shows the checkpoint nearest to an epoch and stops following."""
        chosen = nearest(self._checkpoints, epoch)
        if chosen is not None:
            self._panel.follow.value = False
            if chosen != self._shown:
                self._show(chosen, move_slider=False)

    def follow(self, newest: bool) -> None:
        """Shows the newest checkpoint if ``newest``; `poll` then follows."""
        if newest and self._checkpoints:
            self._show(self._checkpoints[-1])

    def replay(self) -> None:
        """Shows a coarse surface of each checkpoint in turn, then again the shown one."""
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
        """Meshes the surface again, coarse to fine."""
        checkpoint, paint = self._shown, self._panel.paint.value
        if checkpoint is None:
            return
        finest = int(self._panel.resolution.value)

        def work() -> None:
            steps = surfaces.coarse_to_fine(surfaces.COARSEST_GRID, finest)
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
            for size in surfaces.coarse_to_fine(surfaces.COARSE_SIDE, side, 4):
                view = compare_view(run, index, size, surfaces.CHUNK_PIXELS)
                self._panel.show_view(view, index, checkpoint.epoch)
                self._worker.between()

        self._worker.submit(COMPARE, work, URGENCY[COMPARE])

    def go_to_view(self, client: Any) -> None:
        """Moves a browser to the compared view's camera."""
        checkpoint, index = self._shown, int(self._panel.view.value)
        if checkpoint is None or client is None:
            return

        def work() -> None:
            camera = self._open(checkpoint).training_camera(index)
            pose = np.asarray(camera.pose, dtype=np.float64)
            fov, _ = field_of_view(np.asarray(camera.intrinsics), camera.img_res)
            center, forward = pose[:3, 3], pose[:3, 2]
            self._space.step_into(index, center)
            with client.atomic():
                client.camera.position = center
                client.camera.look_at = center + forward * max(float(-center @ forward), 0.1)
                client.camera.up_direction = -pose[:3, 1]
                client.camera.fov = fov

        self._worker.submit(f"go {client.client_id}", work, URGENCY[BROWSER])

    def change_cameras(self) -> None:
        """Changes the images on the cameras: photographs at once, others as they are rendered."""
        which, checkpoint = self._panel.shown.value, self._shown
        self._space.set_cameras_visible(which != pages.NONE)
        self._panel.table.visible = False
        if which not in (pages.RENDERINGS, pages.ERRORS) or checkpoint is None:
            self._worker.drop(CAMERAS)
            for index in range(len(self._numbers)):
                self._space.set_image(index, None)
            return

        def work() -> None:
            run, scores = self._open(checkpoint), []
            for index, number in enumerate(self._numbers):
                view = compare_view(run, index, THUMBNAIL, surfaces.CHUNK_PIXELS)
                self._worker.between()
                self._space.set_image(index, to_bytes(view.error if which == pages.ERRORS else view.rendered))
                scores.append((number, view.psnr, view.iou))
                self._panel.show_table(scores, len(self._numbers))

        self._worker.submit(CAMERAS, work, URGENCY[CAMERAS])

    def change_novel(self) -> None:
        """Switches between the mesh and renderings by the network."""
        by_network = bool(self._panel.novel.value)
        self._space.set_surface_visible(not by_network)
        for client in self._server.get_clients().values():
            if by_network:
                self._render_view(client)
            else:
                self._worker.drop(f"{BROWSER} {client.client_id}")
                client.scene.set_background_image(None)

    def _show(self, checkpoint: Checkpoint, move_slider: bool = True) -> None:
        self._shown = checkpoint
        self._panel.show_trouble("")
        self._panel.show_checkpoints(self._checkpoints, checkpoint if move_slider else None)
        self.change_surface()
        self.change_view(int(self._panel.view.value))
        if self._panel.shown.value in (pages.RENDERINGS, pages.ERRORS):
            self.change_cameras()
        if self._panel.novel.value:
            self.change_novel()
        self._say()

    def _publish(self, checkpoint: Checkpoint, resolution: int, paint: str) -> None:
        """Shows a surface, from memory or computed, with the cameras of its checkpoint."""
        key, kept = (checkpoint, resolution, paint), self._surfaces
        run = self._open(checkpoint)
        self._place(run)
        if key not in kept:
            kept[key] = surfaces.surface_of(run, resolution, paint, self._worker.between)
            while len(kept) > 1 and sum(len(glb) for glb, _ in kept.values()) > KEPT_BYTES:
                kept.popitem(last=False)
        glb, num_faces = kept[key]
        self._space.show_surface(glb)
        what = f"{num_faces:,} faces at {resolution}" if glb else "no surface yet"
        self._surface_words = f"epoch {checkpoint.epoch}: {what}"
        self._say()

    def _render_view(self, client: Any) -> None:
        """Renders a browser's view by the network, coarse to fine."""
        checkpoint, side = self._shown, int(self._panel.novel_side.value)
        if checkpoint is None or not self._panel.novel.value:
            return
        camera = client.camera
        seen = (np.array(camera.wxyz), np.array(camera.position), float(camera.fov), float(camera.aspect))

        def work() -> None:
            run = self._open(checkpoint)
            for size in surfaces.coarse_to_fine(surfaces.COARSE_SIDE, side):
                image = run.render(browser_camera(*seen, size), surfaces.CHUNK_PIXELS)
                self._worker.between()
                depth = np.nan_to_num(image.depth.numpy(), posinf=FAR)
                client.scene.set_background_image(to_bytes(image.rgb01), format="png", depth=depth)

        self._worker.submit(f"{BROWSER} {client.client_id}", work, URGENCY[BROWSER])

    def _connected(self, client: Any) -> None:
        client.camera.on_update(lambda _: self._moved(client))
        self._render_view(client)

    def _moved(self, client: Any) -> None:
        """Renders again if the camera moved; browsers also report cameras at rest."""
        camera = client.camera
        view = (*camera.wxyz, *camera.position, camera.fov, camera.aspect)
        if np.allclose(self._last_seen.get(client.client_id, (np.inf,) * len(view)), view, atol=1e-4):
            return
        self._last_seen[client.client_id] = view
        self._space.step_out(camera.position)
        self._render_view(client)

    def _clicked(self, index: int) -> None:
        self._panel.view.value = index
        self.change_view(index)

    def _thumbnail(self, index: int) -> NDArray[np.uint8]:
        photo = read_view(self._reader.dataset, index).photo
        step = max(1, -(-max(photo.shape[:2]) // THUMBNAIL))
        return to_bytes(photo[::step, ::step])

    def _place(self, run: Run) -> None:
        """Shows the cameras of a checkpoint and their distances to the given ones."""
        poses = to_array(run.training_poses)
        self._space.place_cameras(poses, to_array(run.training_intrinsics), run.img_res)
        if run.alignment is not None:
            given = to_array(run.given_poses)
            self._space.show_lines(np.stack((poses[:, :3, 3], given[:, :3, 3]), axis=1))

    def _failed(self, slot: str, text: str) -> None:
        log.warning("viewer, %s: %s", slot, text)
        self._panel.show_trouble(f"{slot}: {text}")

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
