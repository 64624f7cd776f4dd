"""The panel of the page: controls, images and texts. It knows no run; `Session` connects the controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from idr.evaluation.report.views import ComparedView, to_bytes
from idr.viewer.checkpoints import Checkpoint
from idr.viewer.guard import escape_markup
from idr.viewer.limits import RESOLUTIONS, SIDES
from idr.viewer.surfaces import PAINTS
from idr.viewer.views import HELD_OUT

PHOTOS, RENDERINGS, ERRORS, NONE = "photographs", "renderings", "errors", "nothing"

MAX_MARKS = 8
"""Most checkpoints that get marks on the slider."""

LEGEND = (
    "Errors: black where equal, yellow from a mean difference of 0.5 on, blue where silhouette and mask "
    "disagree."
)


class Panel:
    """Builds the panel on viser's ``gui`` and keeps the handles.

    `views` are the names of the views. Resolution and pixels along the longer side of images are initial
    values.
    """

    def __init__(self, gui: Any, title: str, views: Sequence[str], resolution: int, side: int) -> None:
        name, _, folder = map(escape_markup, title.partition("/"))
        gui.add_markdown(f"**{name}**  \n{folder}")  # in two lines, for phones
        self.status = gui.add_markdown("reading the run")
        self.trouble = gui.add_markdown("", visible=False)
        controls = gui.add_panel()  # on a phone, a section of the bottom sheet that begins closed
        with controls.add_tab("Controls"):
            self._add_surface(gui, resolution)
            self._add_training(gui)
            self._add_views(gui, views, side)
        gui.main_panel.float(x=12, y=-12)  # at the lower left: notices of viser come at the top
        controls.dock_right()

    def _add_surface(self, gui: Any, resolution: int) -> None:
        with gui.add_folder("Surface"):
            self.resolution = gui.add_slider(
                "Resolution", *RESOLUTIONS, resolution, hint="Grid samples along the shortest side"
            )
            self.paint = gui.add_dropdown("Painted by", PAINTS)
            self.save_mesh = gui.add_button("Save mesh (GLB)", hint="As shown, upright and in world units")
            self.save_picture = gui.add_button("Save picture (PNG)", hint="What you see beside this panel")

    def _add_training(self, gui: Any) -> None:
        with gui.add_folder("Training"):
            self.follow = gui.add_checkbox(
                "Follow newest", True, hint="Show each new checkpoint when it is saved"
            )
            self.epoch = gui.add_slider(
                "Epoch", 0, 1, 1, 0, hint="The nearest checkpoint is shown", disabled=True
            )
            self.replay = gui.add_button("Replay from the first checkpoint")

    def _add_views(self, gui: Any, views: Sequence[str], side: int) -> None:
        with gui.add_folder("Compare a view"):
            self.view = gui.add_dropdown("View", tuple(views), hint="Or click its camera")
            self.side = gui.add_slider("Pixels", *SIDES, side, hint="Along the longer side")
            self.go = gui.add_button("Move to this camera")
            self.scores = gui.add_markdown("")
            empty = np.full((3, 4, 3), 255, dtype=np.uint8)
            self._images = [
                gui.add_image(empty, label=label, format="png", visible=False)
                for label in ("photograph", "rendering", "error")
            ]
        with gui.add_folder("Cameras"):
            self.shown = gui.add_dropdown(
                "Show", (PHOTOS, RENDERINGS, ERRORS, NONE), hint="Images on the cameras in space"
            )
            if any(name.endswith(HELD_OUT) for name in views):
                gui.add_markdown("Blue cameras are held out: training does not see their photographs.")
            self.table = gui.add_markdown("", visible=False)
        with gui.add_folder("Your view"):
            self.novel = gui.add_checkbox(
                "Rendered by the network", False, hint="In place of the mesh; again whenever you move"
            )
            self.novel_side = gui.add_slider("Pixels", *SIDES, side)

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

    def show_view(self, view: ComparedView, name: str, epoch: int) -> None:
        """Shows photograph, rendering and error of a view."""
        for handle, image in zip(self._images, (view.photo, view.rendered, view.error), strict=True):
            handle.image = to_bytes(image)
            handle.visible = True
        pixels = f", one pixel in {view.step} each way" if view.step > 1 else ""
        psnr = f"PSNR {view.psnr:.2f} dB" if math.isfinite(view.psnr) else "no PSNR"
        self.scores.content = (
            f"**View {name}**, epoch {epoch}{pixels}: {psnr}, mask IoU {view.iou:.4f}\n\n{LEGEND}"
        )

    def show_table(self, scores: Sequence[tuple[str, float, float]], total: int) -> None:
        """Shows name, PSNR and mask IoU of the views scored so far, the worst first."""
        rows = sorted(scores, key=lambda row: (math.isfinite(row[1]), row[1]))
        lines = [f"{len(scores)} of {total} views scored, the worst first", ""]
        lines += ["| view | PSNR, dB | mask IoU |", "|---|---|---|"]
        lines += [f"| {name} | {psnr:.2f} | {iou:.4f} |" for name, psnr, iou in rows]
        self.table.content = "\n".join(lines)
        self.table.visible = True

    def say(self, text: str) -> None:
        """Shows a status text."""
        content = escape_markup(text)
        if self.status.content != content:
            self.status.content = content

    def show_trouble(self, text: str) -> None:
        """Shows an error; an empty text hides it."""
        content = text and f"**{escape_markup(text)}**"
        if self.trouble.content != content:
            self.trouble.content = content
            self.trouble.visible = bool(text)


def on_user(handle: Any, act: Callable[[], None]) -> None:
    """Calls back for a change of a control by a browser; a change by the program has no client."""

    @handle.on_update
    def _(event: Any) -> None:
        if event.client_id is not None:
            act()
