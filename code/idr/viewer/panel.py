"""The panel of the page: controls, images and texts. It knows no run and calls a listener back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from idr.evaluation.report.views import ComparedView, to_bytes
from idr.viewer.checkpoints import Checkpoint
from idr.viewer.surfaces import PAINTS

PHOTOS, RENDERINGS, ERRORS, NONE = "photographs", "renderings", "errors", "nothing"
MIN_RESOLUTION, MAX_RESOLUTION, RESOLUTION_STEP = 32, 512, 32
MIN_SIDE, MAX_SIDE, SIDE_STEP = 64, 1024, 64
MAX_MARKS = 8
"""Most checkpoints that get marks on the slider."""

LEGEND = (
    "Errors: black where equal, yellow from a mean difference of 0.5 on, blue where silhouette and mask "
    "disagree."
)


class Listener(Protocol):
    """Receives the changes that a browser makes in the panel."""

    def choose_epoch(self, epoch: int) -> None:
        """The slider of epochs moved."""

    def follow(self, newest: bool) -> None:
        """Show each new checkpoint, or not."""

    def replay(self) -> None:
        """Show all checkpoints one after another."""

    def change_surface(self) -> None:
        """Resolution or paint of the surface changed."""

    def change_view(self, index: int) -> None:
        """Compare another view."""

    def go_to_view(self, client: Any) -> None:
        """Move a browser to the compared view's camera."""

    def change_cameras(self) -> None:
        """Images on the cameras changed."""

    def change_novel(self) -> None:
        """Show the mesh, or renderings by the network."""


@dataclass(frozen=True)
class PanelStart:
    """Initial state of the panel.

    Attributes:
        title: Name of the run, Markdown.
        num_views: Number of training views.
        resolution: Resolution of the surface.
        side: Pixels along the longer side of images.
    """

    title: str
    num_views: int
    resolution: int
    side: int


class Panel:
    """Builds the panel on viser's ``gui`` and keeps the handles."""

    def __init__(self, gui: Any, start: PanelStart, listener: Listener) -> None:
        self._gui = gui
        gui.add_markdown(start.title)
        self.status = gui.add_markdown("reading the run")
        self.trouble = gui.add_markdown("", visible=False)
        with gui.add_folder("Training"):
            self.follow = gui.add_checkbox(
                "Follow newest", True, hint="Show each new checkpoint when it is saved"
            )
            self.epoch = gui.add_slider(
                "Epoch", 0, 1, 1, 0, hint="The nearest checkpoint is shown", disabled=True
            )
            self.replay = gui.add_button("Replay from the first checkpoint")
        with gui.add_folder("Surface"):
            self.resolution = gui.add_slider(
                "Resolution", MIN_RESOLUTION, MAX_RESOLUTION, RESOLUTION_STEP, start.resolution,
                hint="Grid samples along the shortest side",
            )  # fmt: skip
            self.paint = gui.add_dropdown("Painted by", PAINTS)
        with gui.add_folder("Compare a view"):
            self.view = gui.add_slider(
                "View", 0, max(1, start.num_views - 1), 1, 0, hint="Or click its camera"
            )
            self.side = gui.add_slider(
                "Pixels", MIN_SIDE, MAX_SIDE, SIDE_STEP, start.side, hint="Along the longer side"
            )
            self.go = gui.add_button("Move to this camera")
            self.scores = gui.add_markdown("")
            empty = np.full((3, 4, 3), 255, dtype=np.uint8)
            self.photo = gui.add_image(empty, label="photograph", format="png", visible=False)
            self.rendering = gui.add_image(empty, label="rendering", format="png", visible=False)
            self.error = gui.add_image(empty, label="error", format="png", visible=False)
        with gui.add_folder("Cameras"):
            self.shown = gui.add_dropdown(
                "Show", (PHOTOS, RENDERINGS, ERRORS, NONE), hint="Images on the cameras in space"
            )
            self.table = gui.add_markdown("", visible=False)
        with gui.add_folder("Your view"):
            self.novel = gui.add_checkbox(
                "Rendered by the network", False, hint="In place of the mesh; again whenever you move"
            )
            self.novel_side = gui.add_slider("Pixels", MIN_SIDE, MAX_SIDE, SIDE_STEP, start.side)
        self._connect(listener)

    def _connect(self, listener: Listener) -> None:
        self._on_user(self.epoch, lambda: listener.choose_epoch(int(self.epoch.value)))
        self._on_user(self.follow, lambda: listener.follow(bool(self.follow.value)))
        self._on_user(self.view, lambda: listener.change_view(int(self.view.value)))
        self._on_user(self.side, lambda: listener.change_view(int(self.view.value)))
        for handle in (self.resolution, self.paint):
            self._on_user(handle, listener.change_surface)
        self._on_user(self.shown, listener.change_cameras)
        for handle in (self.novel, self.novel_side):
            self._on_user(handle, listener.change_novel)
        self.replay.on_click(lambda _: listener.replay())
        self.go.on_click(lambda event: listener.go_to_view(event.client))

    @staticmethod
    def _on_user(handle: Any, act: Callable[[], None]) -> None:
        """Calls back for a change by a browser; a change by the program has no client."""

        @handle.on_update
        def _(event: Any) -> None:
            if event.client_id is not None:
                act()

    def show_checkpoints(self, checkpoints: Sequence[Checkpoint], shown: Checkpoint | None) -> None:
        """Sets the range of the slider of epochs and the shown checkpoint."""
        if not checkpoints:
            return
        epochs = sorted({checkpoint.epoch for checkpoint in checkpoints})
        first, last = epochs[0], max(epochs[-1], epochs[0] + 1)
        self.epoch.min, self.epoch.max = first, last
        self.epoch.marks = tuple(epochs) if len(epochs) <= MAX_MARKS else (first, last)
        self.epoch.disabled = len(epochs) < 2
        if shown is not None:
            self.epoch.value = shown.epoch

    def show_view(self, view: ComparedView, index: int, epoch: int) -> None:
        """Shows photograph, rendering and error of a view."""
        for handle, image in (
            (self.photo, view.photo),
            (self.rendering, view.rendered),
            (self.error, view.error),
        ):
            handle.image = to_bytes(image)
            handle.visible = True
        pixels = f", one pixel in {view.step} each way" if view.step > 1 else ""
        self.scores.content = (
            f"**View {index} (image {view.number})**, epoch {epoch}{pixels}: {_decibels(view.psnr)}, "
            f"mask IoU {view.iou:.4f}\n\n{LEGEND}"
        )

    def show_table(self, scores: dict[int, tuple[int, float, float]], total: int) -> None:
        """Shows the views' scores, the worst first.

        Args:
            scores: Image number, PSNR and mask IoU by position.
            total: Number of views.
        """
        rows = sorted(scores.values(), key=lambda row: (math.isfinite(row[1]), row[1]))
        lines = [f"| {number} | {psnr:.2f} | {iou:.4f} |" for number, psnr, iou in rows]
        head = [f"{len(scores)} of {total} views scored, the worst first", ""]
        columns = ["| view | PSNR, dB | mask IoU |", "|---|---|---|"]
        self.table.content = "\n".join(head + columns + lines)
        self.table.visible = True

    def say(self, text: str) -> None:
        """Shows a status text."""
        if self.status.content != text:
            self.status.content = text

    def show_trouble(self, text: str) -> None:
        """Shows an error; an empty text hides it."""
        if self.trouble.content != text:
            self.trouble.content = text and f"**{text}**"
            self.trouble.visible = bool(text)


def _decibels(psnr: float) -> str:
    return f"PSNR {psnr:.2f} dB" if math.isfinite(psnr) else "no PSNR"
