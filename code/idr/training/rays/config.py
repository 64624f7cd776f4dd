"""The block ``train.sampler``: which pixels of an image a step trains."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from idr.errors import InputError


@dataclass(frozen=True)
class SamplerConfig:
    """Keys of the block ``train.sampler``; all but ``type`` belong to ``type = importance``.

    Attributes:
        type: ``uniform`` (published) or ``importance``.
        silhouette: Share of the rays in the band along the mask's silhouette, uniform there.
        silhouette_pixels: Half the band's width: distance to the nearest pixel on the other side, in pixels
            of the image as it is. At least the two rows of pixels along the silhouette count.
        inside: Share of the rays on the object, uniform over the mask's pixels; they are all that colors
            are learned from.
        error: Share of the rays drawn in proportion to the view's error map.
        error_cell: Pixels along the side of a map's cell.
        error_rate: How far a cell's value goes to the mean residual of a step's rays, 0 to 1.
        mask_error: Residual of a ray that hits outside the mask or misses inside; colors differ by 0 to 1.
        far_pixels: Pixels outside the mask and further from it than this many pixels are far; absent, none.
        far: Share of the rays that far pixels keep.
        reweight: False: the loss is the mean over the rays drawn, which is a weighted mean over the image,
            pixels counting as often as they are drawn; silhouettes then weigh more beside colors, and the
            minimum may be another one. True: each ray counts 1 / (N p), p its probability, so that the
            expected loss is the published mean over all pixels and only its variance changes. The Eikonal
            term is over the points as they come in either case.
    """

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
    reweight: bool = False

    def __post_init__(self) -> None:
        if self.type == "uniform":
            set_otherwise = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if set_otherwise:
                raise InputError(
                    f"{set_otherwise[0]}: belongs to type = importance, got type = uniform; set the type, or "
                    "leave the key out"
                )
        for name in ("silhouette", "inside", "error", "far", "error_rate", "mask_error"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)}: expected a share of 0 to 1")
        given_away = self.silhouette + self.inside + self.error + self._far_share
        if given_away >= 1:
            raise InputError(
                f"silhouette + inside + error + far = {given_away:g}: expected less than 1, so that every "
                "pixel can be drawn"
            )
        if self.error_cell < 1 or self.silhouette_pixels < 1:
            raise InputError(
                f"error_cell = {self.error_cell}, silhouette_pixels = {self.silhouette_pixels}: expected "
                "1 or more pixels"
            )
        if self.far_pixels is not None and self.far_pixels < self.silhouette_pixels:
            raise InputError(
                f"far_pixels = {self.far_pixels}: expected at least silhouette_pixels, "
                f"{self.silhouette_pixels}"
            )
        if self.far_pixels is not None and self.far == 0:
            raise InputError("far = 0: expected a share above 0, as a surface may grow there unseen")

    @property
    def _far_share(self) -> float:
        return 0.0 if self.far_pixels is None else self.far
