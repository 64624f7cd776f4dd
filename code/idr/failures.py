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
NO_SURFACE = "no-surface-yet"
FILLED_SPHERE = "surface-filled-sphere"
MASK_LOSS_STUCK = "mask-loss-stuck"
OUT_OF_MEMORY = "out-of-memory"
NAMES = (
    OBJECT_OUTSIDE_SPHERE, MIRRORED_CAMERAS, WRONG_AXES, IMAGES_RESIZED, MASKS_INVERTED, NO_INTRINSICS,
    CONTRADICTION, NO_SURFACE, FILLED_SPHERE, MASK_LOSS_STUCK, OUT_OF_MEMORY,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A detected failure.

    Attributes:
        name: One of `NAMES`.
        text: Observation and remedy.
    """

    name: str
    text: str

    def __str__(self) -> str:
        page = shipped_name("docs/troubleshooting.md")
        return f"{self.name}: {self.text} ({page}#{self.name})"
