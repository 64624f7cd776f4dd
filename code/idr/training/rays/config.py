"""The block ``train.sampler``: which pixels of an image a step trains."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from idr.errors import InputError


@dataclass(frozen=True)
class SamplerConfig:
    """Keys of the block ``train.sampler``; all but ``type`` belong to ``type = importance``.

    Attributes:
        type: ``uniform`` (published) or ``importance``.
        silhouette: Share of rays drawn uniformly from the band along the mask's silhouette.
        silhouette_pixels: Half the width of that band: distance to the nearest pixel on the other side, in
            pixels at full resolution. The two rows of pixels along the silhouette always belong to it.
        inside: Share of rays drawn uniformly from the object's pixels, the only ones that colors learn from.
        error: Share of rays drawn in proportion to the view's error map.
        error_cell: Pixels along the side of an error map's cell.
        error_rate: Weight of a step's mean residual in a cell's running mean, 0 to 1.
        mask_error: Residual of a ray that hits outside the mask or misses inside it; those of colors are 0 to
            1.
        far_pixels: Distance in pixels from the mask beyond which pixels are far; absent, none are.
        far: Share of rays drawn from far pixels.
        mixed_pixels: Width, in pixels of the step's images, of the strip along the inner side of the
            silhouette whose pixels show object and background mixed. Their colors train the appearance, but
            do not move the surface: it would recede from background that it cannot explain. 0 for none.
        reweight: False: the loss is the mean over the drawn rays, which weights pixels by their probability:
            silhouettes count more than colors, and the minimum may move. True: each ray has the weight
            1 / (N p), p its probability, so the expected loss is the published mean over all N pixels and
            only its variance changes. The Eikonal term is over all points in either case.
    """

    LARGEST: ClassVar[dict[str, int]] = {
        "error_cell": 10_000, "silhouette_pixels": 1000, "far_pixels": 10_000, "mixed_pixels": 1000
    }  # fmt: skip

    type: Literal["uniform", "importance"] = "uniform"
    silhouette: float = 0.25
    silhouette_pixels: float = 3.0
    inside: float = 0.0
    error: float = 0.25
    error_cell: int = 8
    error_rate: float = 0.5
    mask_error: float = 0.25
    far_pixels: float | None = None
    far: float = 0.02
    mixed_pixels: float = 0.0
    reweight: bool = False

    def __post_init__(self) -> None:
        if self.type == "uniform":
            changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if changed:
                raise InputError(
                    f"{changed[0]}: belongs to type = importance, got type = uniform; set the type, or "
                    "leave the key out"
                )
        for name in ("silhouette", "inside", "error", "far", "error_rate", "mask_error"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)}: expected a share of 0 to 1")
        far = 0.0 if self.far_pixels is None else self.far
        special = self.silhouette + self.inside + self.error + far
        if special >= 1:
            raise InputError(
                f"silhouette + inside + error + far = {special:g}: expected less than 1, so that every "
                "pixel can be drawn"
            )
        if self.error_cell < 1 or self.silhouette_pixels < 1:
            raise InputError(
                f"error_cell = {self.error_cell}, silhouette_pixels = {self.silhouette_pixels}: expected "
                "1 or more pixels"
            )
        if self.mixed_pixels < 0:
            raise InputError(f"mixed_pixels = {self.mixed_pixels}: expected a width of 0 or more pixels")
        if self.far_pixels is not None and self.far_pixels < self.silhouette_pixels:
            raise InputError(
                f"far_pixels = {self.far_pixels}: expected at least silhouette_pixels, "
                f"{self.silhouette_pixels}"
            )
        if self.far_pixels is not None and self.far == 0:
            raise InputError("far = 0: expected a share above 0, as a surface may grow there unseen")
