"""Computes object masks from photographs and cameras alone.

1. The photographs are reduced to `COARSE_SIDE`, freed of noise, and dark ones brightened. Two color
   histograms over all views: pixels in the object's probable region (outline of sparse points, or the ball
   that all cameras see) and outside.
2. GrabCut, initialized with their log odds, segments each photograph.
3. The masks carve a visual hull. GrabCut restarts from each mask; pixels well outside the hull of the OTHER
   views are fixed as background. This is repeated three times.
4. If sparse points show a ground plane below the object, steps 1 to 3 are also run with its evidence
   (`ground_plane.py`), which does not depend on color. The result whose masks agree better with the hull of
   the other views is kept. `plate.py` removes a plate.
5. The masks are enlarged, and step 3 is done once at `FINE_SIDE`. `polishing.py` removes what continues the
   background's color.

GrabCut finds the object more reliably in small photographs, and its outline more precisely in large ones.

Pixels that a user labels (`hints.py`) are fixed in each step, and weigh more in the histograms. Views with
all pixels labelled keep their masks, and their hull gives the first region of the others.

B views, N points, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

from idr.errors import InputError
from idr.importers.masks.ground_plane import Bytes
from idr.importers.masks.hints import Hints, checked_hints, obeying
from idr.importers.masks.segmentation import MadeMasks, Segmenter, enlarged
from idr.importers.masks.sparse_points import sparse_points
from idr.importers.source import Array

COARSE_SIDE, FINE_SIDE = 320, 480
"""Pixels of a photograph's longest side when the object is found, and when its outline is."""


def make_masks(
    images: list[Bytes],
    names: list[str],
    projections: Array,
    points: Array | None,
    scene_points: Array | None = None,
    hints: Hints | None = None,
) -> MadeMasks:
    """Computes a mask for every view.

    Args:
        images: B arrays (H, W, 3), RGB, without lens distortion.
        names: B names, for messages.
        projections: (B, 3, 4) world to pixels.
        points: (N, 3) sparse points on the object, None to start from the ball that all cameras see.
        scene_points: (N, 3) sparse points of the whole scene, for the ground plane; None to triangulate some.
        hints: B labelings (H, W) of pixels that are certain, see `hints.py`, each of them None for no label.

    Raises:
        InputError: Fewer than three views, no common object in view, no object found, or invalid hints.
    """
    if len(images) < 3:
        raise InputError(
            f"{len(images)} views; expected at least three to compute masks: pass masks with --masks FOLDER"
        )
    full_hints = checked_hints(hints, [image.shape[:2] for image in images], names)
    arguments = (images, names, projections, points, full_hints)
    fine, coarse = Segmenter.at(FINE_SIDE, *arguments), Segmenter.at(COARSE_SIDE, *arguments)
    if scene_points is None:
        scene_points = sparse_points(fine.images, fine.projections, fine.seeds.center)
    found = coarse.without_plate(*coarse.segmented(scene_points))
    best = fine.polished(*fine.continued(*found))
    masks = zip(best.masks, full_hints, strict=True)
    return MadeMasks(tuple(obeying(enlarged(mask, hint.shape), hint) for mask, hint in masks), best.agreement)
