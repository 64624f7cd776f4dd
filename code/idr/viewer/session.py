"""State of the page: what is shown, and the work requested when a control moves or training saves."""

from __future__ import annotations

import functools
import logging
import time
from collections import OrderedDict
from typing import Any

import numpy as np

from idr.evaluation.report.views import to_bytes
from idr.export.surface import Surface
from idr.runs import Run
from idr.viewer import panel as pages
from idr.viewer import surfaces
from idr.viewer.checkpoints import Checkpoint, CheckpointReader, nearest
from idr.viewer.space import (
    SpaceView,
    browser_camera,
    field_of_view,
    fitting_field_of_view,
    picture_of,
    position_and_target,
    to_array,
)
from idr.viewer.views import THUMBNAIL, PageViews
from idr.viewer.worker import Worker

log = logging.getLogger(__name__)

SURFACE, COMPARE, CAMERAS, BROWSER, SAVE = "surface", "compared view", "all views", "your view", "save"
URGENCY = {CAMERAS: 0, SAVE: 1, SURFACE: 2, COMPARE: 3, BROWSER: 4}  # a mesh is saved once it is finest
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
        self._surfaces: OrderedDict[tuple[Checkpoint, int, str], Surface | None] = OrderedDict()
        self._drawn: tuple[Checkpoint, int, str] | None = None
        self._surface_words = ""  # until the first one is drawn
        self._busy: tuple[str, ...] = ()
        self._last_seen: dict[int, tuple[float, ...]] = {}  # by browser
        views = self._views = PageViews(reader)
        self._space = SpaceView(server, views.names, views.colors, views.thumbnails(), self._clicked)
        title = f"{reader.folder.parent.name}/{reader.folder.name}"
        names = [views.names[k] for k in views.in_order]
        self._panel = pages.Panel(server.gui, title, names, resolution, side)
        first, img_res = views.in_order[0], reader.dataset.img_res
        self._start = field_of_view(views.intrinsics[first], img_res)
        self._space.set_up(views.poses, first, self._start[0])
        # The given cameras stand there before the first checkpoint.
        self._space.place_cameras(views.poses, views.intrinsics, img_res)
        self._space.step_into(first, views.poses[first, :3, 3])
        self._worker = Worker(self._failed, self._worker_changed)
        self._open = functools.lru_cache(MAX_OPEN)(lambda c: reader.open(c, self._worker.between))
        self._connect()

    def _connect(self) -> None:
        panel = self._panel
        pages.on_user(panel.epoch, lambda: self.choose_epoch(int(panel.epoch.value)))
        pages.on_user(panel.follow, lambda: self.follow(bool(panel.follow.value)))
        pages.on_user(panel.view, self.change_view)
        pages.on_user(panel.side, self.change_view)
        pages.on_user(panel.resolution, self.change_surface)
        pages.on_user(panel.paint, self.change_surface)
        pages.on_user(panel.shown, self.change_cameras)
        pages.on_user(panel.novel, self.change_novel)
        pages.on_user(panel.novel_side, self.change_novel)
        panel.replay.on_click(lambda _: self.replay())
        panel.go.on_click(lambda event: self.go_to_view(event.client))
        panel.save_mesh.on_click(lambda event: self.save_mesh(event.client))
        panel.save_picture.on_click(lambda event: self.save_picture(event.client))
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

    def change_view(self) -> None:
        """Compares the chosen view, coarse to fine."""
        checkpoint, side, index = self._shown, int(self._panel.side.value), self._chosen_view()
        self._space.mark(index)
        if checkpoint is None:
            return

        def work() -> None:
            run = self._open(checkpoint)
            for size in surfaces.coarse_to_fine(surfaces.COARSE_SIDE, side, 4):
                view = self._views.compare(run, index, size)
                self._panel.show_view(view, self._views.names[index], checkpoint.epoch)
                self._worker.between()

        self._worker.submit(COMPARE, work, URGENCY[COMPARE])

    def go_to_view(self, client: Any) -> None:
        """Moves a browser to the compared view's camera."""
        checkpoint, index = self._shown, self._chosen_view()
        if checkpoint is None or client is None:
            return

        def work() -> None:
            camera = self._views.camera(self._open(checkpoint), index)
            pose = np.asarray(camera.pose, dtype=np.float64)
            seen = field_of_view(np.asarray(camera.intrinsics), camera.img_res)
            center, target = position_and_target(pose)
            self._space.step_into(index, center)
            with client.atomic():
                client.camera.position, client.camera.look_at = center, target
                client.camera.up_direction = -pose[:3, 1]
                client.camera.fov = fitting_field_of_view(*seen, client.camera.aspect)

        self._worker.submit(f"go {client.client_id}", work, URGENCY[BROWSER])

    def change_cameras(self) -> None:
        """Changes the images on the cameras: photographs at once, others as they are rendered."""
        which, checkpoint = self._panel.shown.value, self._shown
        self._space.set_cameras_visible(which != pages.NONE)
        self._panel.table.visible = False
        if which not in (pages.RENDERINGS, pages.ERRORS) or checkpoint is None:
            self._worker.drop(CAMERAS)
            for index in range(len(self._views.names)):
                self._space.set_image(index, None)
            return

        def work() -> None:
            run, scores = self._open(checkpoint), []
            for index, name in enumerate(self._views.names):
                view = self._views.compare(run, index, THUMBNAIL)
                self._worker.between()
                self._space.set_image(index, to_bytes(view.error if which == pages.ERRORS else view.rendered))
                scores.append((name, view.psnr, view.iou))
                self._panel.show_table(scores, len(self._views.names))

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

    def save_mesh(self, client: Any) -> None:
        """Sends the surface, once it is drawn, to a browser's downloads: GLB, in world units and upright."""

        def work() -> None:
            surface = None if self._drawn is None else self._surfaces[self._drawn]
            if client is None or self._drawn is None or surface is None:
                self._panel.show_trouble("there is no surface yet to save: wait for a later checkpoint")
                return
            checkpoint, _, paint = self._drawn
            content = surfaces.glb_of(surface, paint, self._open(checkpoint))
            client.send_file_download(f"{self._file_name(checkpoint)}.glb", content, save_immediately=True)

        self._worker.submit(SAVE, work, URGENCY[SAVE])

    def save_picture(self, client: Any) -> None:
        """Sends what a browser shows, before white, to its downloads: PNG. Called on a thread of viser's."""
        if client is None:
            return
        try:
            content = picture_of(client)
        except TimeoutError:
            self._panel.show_trouble("the browser sent no picture: bring its window to the front and retry")
            return
        client.send_file_download(f"{self._file_name(self._shown)}.png", content, save_immediately=True)

    def _file_name(self, checkpoint: Checkpoint | None) -> str:
        name = self._reader.folder.parent.name
        return name if checkpoint is None else f"{name}_{checkpoint.name}"

    def _show(self, checkpoint: Checkpoint, move_slider: bool = True) -> None:
        self._shown = checkpoint
        self._panel.show_trouble("")
        self._panel.show_checkpoints(self._checkpoints, checkpoint if move_slider else None)
        self.change_surface()
        self.change_view()
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
            while len(kept) > 1 and sum(map(surfaces.num_bytes, kept.values())) > KEPT_BYTES:
                kept.popitem(last=False)
        surface, self._drawn = kept[key], key
        self._space.show_surface(b"" if surface is None else surfaces.glb_of(surface, paint))
        what = "no surface yet" if surface is None else f"{len(surface.faces):,} faces at {resolution}"
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
        client.camera.fov = fitting_field_of_view(*self._start, client.camera.aspect)
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
        self._panel.view.value = self._views.names[index]
        self.change_view()

    def _chosen_view(self) -> int:
        return self._views.names.index(self._panel.view.value)

    def _place(self, run: Run) -> None:
        """Shows the cameras of a checkpoint and their distances to the given ones."""
        poses, intrinsics = self._views.cameras(run)
        self._space.place_cameras(poses, intrinsics, run.img_res)
        if run.alignment is not None:
            given = to_array(run.given_poses)
            self._space.show_lines(np.stack((poses[: len(given), :3, 3], given[:, :3, 3]), axis=1))

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
