"""Names of common failures; docs/troubleshooting.md has an entry with the remedy of each."""

from __future__ import annotations

from dataclasses import dataclass

from idr.places import shipped_name

OBJECT_OUTSIDE_SPHERE = "object-outside-sphere"
MIRRORED_CAMERAS = "mirrored-cameras"
WRONG_AXES = "wrong-axes"
IMAGES_RESIZED = "images-resized"
MASKS_INVERTED = "masks-inverted"
NO_INTRINSICS = "no-intrinsics"
CONTRADICTION = "masks-and-cameras-contradict"
CAMERA_INSIDE_SPHERE = "camera-inside-sphere"
SPHERES_DIFFER = "spheres-differ"
SIZES_DIFFER = "sizes-differ"
MASKS_TOUCH_BORDER = "masks-touch-border"
VIEWS_DISAGREE = "views-disagree"
ONE_SIDED_VIEWS = "one-sided-views"
SPHERE_TOO_LARGE = "sphere-too-large"
FEW_VIEWS = "few-views"
NO_SURFACE = "no-surface-yet"
FILLED_SPHERE = "surface-filled-sphere"
MASK_LOSS_STUCK = "mask-loss-stuck"
OUT_OF_MEMORY = "out-of-memory"
NAMES = (
    OBJECT_OUTSIDE_SPHERE, MIRRORED_CAMERAS, WRONG_AXES, IMAGES_RESIZED, MASKS_INVERTED, NO_INTRINSICS,
    CONTRADICTION, CAMERA_INSIDE_SPHERE, SPHERES_DIFFER, SIZES_DIFFER, MASKS_TOUCH_BORDER, VIEWS_DISAGREE,
    ONE_SIDED_VIEWS, SPHERE_TOO_LARGE, FEW_VIEWS, NO_SURFACE, FILLED_SPHERE, MASK_LOSS_STUCK, OUT_OF_MEMORY,
)  # fmt: skip
MILD = (MASKS_TOUCH_BORDER, VIEWS_DISAGREE, ONE_SIDED_VIEWS, SPHERE_TOO_LARGE, FEW_VIEWS)
"""Names of findings about a scene that limit the result but do not prevent it; all others are severe."""


@dataclass(frozen=True)
class Finding:
    """A detected failure.

    Attributes:
        name: One of `NAMES`.
        text: Observation.
        remedy: What to do; empty if the text says it.
    """

    name: str
    text: str
    remedy: str = ""

    @property
    def is_severe(self) -> bool:
        """Whether it stops `idr photos`, and sets the doctor's exit status to 1."""
        return self.name not in MILD

    def __str__(self) -> str:
        page = shipped_name("docs/troubleshooting.md")
        words = "; ".join(filter(None, (self.text, self.remedy)))
        return f"{self.name}: {words} ({page}#{self.name})"
