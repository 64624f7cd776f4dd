"""The page's panel: sliders, pictures and words. It holds no run; what is moved here is told to callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from idr.evaluation.report.views import ComparedView, to_bytes
from idr.viewer.pictures import PAINTS
from idr.viewer.runs import Checkpoint

PHOTOS, RENDERINGS, ERRORS, NONE = "photographs", "renderings", "errors", "nothing"
LEAST_RESOLUTION, MOST_RESOLUTION, RESOLUTION_STEP = 32, 512, 32
LEAST_SIDE, MOST_SIDE, SIDE_STEP = 64, 1024, 64
MOST_MARKS = 8
"""Checkpoints beyond which the slider gets no marks of theirs."""

LEGEND = (
    "Errors: black where equal, yellow from a mean difference of 0.5 on, blue where silhouette and mask "
    "disagree."
)


class Listener(Protocol):
    """Who is told what was moved."""

    def choose_epoch(self, epoch: int) -> None:
        """The slider of epochs was moved."""

    def follow(self, newest: bool) -> None:
        """Whether to show each new checkpoint."""

    def replay(self) -> None:
        """Show all checkpoints one after another."""

    def change_surface(self) -> None:
        """Another resolution or paint of the surface."""

    def change_view(self, index: int) -> None:
        """Another view is to be compared."""

    def go_to_view(self, client: Any) -> None:
        """A browser is to stand where the compared view's camera does."""

    def change_cameras(self) -> None:
        """Other pictures on the cameras."""

    def change_novel(self) -> None:
        """Whether space shows the surface or the network's own picture."""


@dataclass(frozen=True)
class PanelStart:
    """What the panel shows at first.

    Attributes:
        title: The run, in words.
        num_views: Training views.
        resolution: Of the surface.
        side: Pixels along the longer side of pictures.
    """

    title: str
    num_views: int
    resolution: int
    side: int


class Panel:
    """Builds the panel on viser's ``gui`` and keeps its handles."""

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
                "Resolution", LEAST_RESOLUTION, MOST_RESOLUTION, RESOLUTION_STEP, start.resolution,
                hint="Grid samples along the shortest side",
            )  # fmt: skip
            self.paint = gui.add_dropdown("Painted by", PAINTS)
        with gui.add_folder("Compare a view"):
            self.view = gui.add_slider(
                "View", 0, max(1, start.num_views - 1), 1, 0, hint="Or click its camera"
            )
            self.side = gui.add_slider(
                "Pixels", LEAST_SIDE, MOST_SIDE, SIDE_STEP, start.side, hint="Along the longer side"
            )
            self.go = gui.add_button("Stand where this camera does")
            self.scores = gui.add_markdown("")
            empty = np.full((3, 4, 3), 255, dtype=np.uint8)
            self.photo = gui.add_image(empty, label="photograph", format="png", visible=False)
            self.rendering = gui.add_image(empty, label="rendering", format="png", visible=False)
            self.error = gui.add_image(empty, label="error", format="png", visible=False)
        with gui.add_folder("Cameras"):
            self.pictures = gui.add_dropdown(
                "Show", (PHOTOS, RENDERINGS, ERRORS, NONE), hint="Pictures on the cameras in space"
            )
            self.table = gui.add_markdown("", visible=False)
        with gui.add_folder("From where you stand"):
            self.novel = gui.add_checkbox(
                "Rendered by the network", False, hint="In place of the mesh; again whenever you move"
            )
            self.novel_side = gui.add_slider("Pixels", LEAST_SIDE, MOST_SIDE, SIDE_STEP, start.side)
        self._connect(listener)

    def _connect(self, listener: Listener) -> None:
        self._on_user(self.epoch, lambda: listener.choose_epoch(int(self.epoch.value)))
        self._on_user(self.follow, lambda: listener.follow(bool(self.follow.value)))
        self._on_user(self.view, lambda: listener.change_view(int(self.view.value)))
        self._on_user(self.side, lambda: listener.change_view(int(self.view.value)))
        for handle in (self.resolution, self.paint):
            self._on_user(handle, listener.change_surface)
        self._on_user(self.pictures, listener.change_cameras)
        for handle in (self.novel, self.novel_side):
            self._on_user(handle, listener.change_novel)
        self.replay.on_click(lambda _: listener.replay())
        self.go.on_click(lambda event: listener.go_to_view(event.client))

    @staticmethod
    def _on_user(handle: Any, act: Callable[[], None]) -> None:
        """Calls back for what a browser changed; what the program itself sets has no client."""

        @handle.on_update
        def _(event: Any) -> None:
            if event.client_id is not None:
                act()

    def show_checkpoints(self, checkpoints: Sequence[Checkpoint], shown: Checkpoint | None) -> None:
        """Sets the slider of epochs to the checkpoints there are and the one that is shown."""
        if not checkpoints:
            return
        epochs = sorted({checkpoint.epoch for checkpoint in checkpoints})
        first, last = epochs[0], max(epochs[-1], epochs[0] + 1)
        self.epoch.min, self.epoch.max = first, last
        self.epoch.marks = tuple(epochs) if len(epochs) <= MOST_MARKS else (first, last)
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
        """Lists the views' scores, the worst first.

        Args:
            scores: By position, the image's number, PSNR and mask IoU.
            total: Number of views.
        """
        rows = sorted(scores.values(), key=lambda row: (math.isfinite(row[1]), row[1]))
        lines = [f"| {number} | {psnr:.2f} | {iou:.4f} |" for number, psnr, iou in rows]
        head = [f"{len(scores)} of {total} views scored, the worst first", ""]
        columns = ["| view | PSNR, dB | mask IoU |", "|---|---|---|"]
        self.table.content = "\n".join(head + columns + lines)
        self.table.visible = True

    def say(self, text: str) -> None:
        """Shows what is shown and what is computed."""
        if self.status.content != text:
            self.status.content = text

    def tell_trouble(self, text: str) -> None:
        """Shows what went wrong; an empty text takes it away."""
        if self.trouble.content != text:
            self.trouble.content = text and f"**{text}**"
            self.trouble.visible = bool(text)


def _decibels(psnr: float) -> str:
    return f"PSNR {psnr:.2f} dB" if math.isfinite(psnr) else "no PSNR"
