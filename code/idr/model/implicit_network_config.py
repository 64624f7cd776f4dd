"""The keys of the block ``model.implicit_network`` and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from idr.errors import InputError

WHERE = "model.implicit_network"


@dataclass(frozen=True)
class ImplicitNetworkConfig:
    """Keys of the block ``model.implicit_network``.

    Attributes:
        d_in: Coordinates of a point; must be 3.
        d_out: Outputs before the features: the signed distance; must be 1.
        dims: Widths of the hidden layers.
        geometric_init: Initialize f as the signed distance to a sphere.
        bias: Radius of that sphere, unit-sphere frame.
        skip_in: Layers, counted from 0, whose input also contains the encoded point.
        weight_norm: Use weight normalization.
        multires: Octaves of the positional encoding; 0 for none.
        encoding: Block of another point encoding (`idr.model.encodings`); replaces ``multires``.
        gradient: ``analytic``, or ``numerical`` for central differences (Li et al. 2023, section 3.1), both
            in training and in evaluation.
        gradient_step: Step of the ``numerical`` gradient to either side, in cell sizes of the finest open
            level.
    """

    LARGEST: ClassVar[dict[str, int]] = {"dims": 8192, "multires": 32}

    d_in: int
    d_out: int
    dims: tuple[int, ...]
    geometric_init: bool = True
    bias: float = 1.0
    skip_in: tuple[int, ...] = ()
    weight_norm: bool = True
    multires: int = 0
    encoding: Mapping[str, Any] | None = None
    gradient: Literal["analytic", "numerical"] = "analytic"
    gradient_step: float = 1.0

    def __post_init__(self) -> None:
        if self.d_in != 3 or self.d_out != 1:
            raise InputError(
                f"d_in = {self.d_in}, {WHERE}.d_out = {self.d_out}: expected 3 coordinates and 1 distance"
            )
        if self.multires < 0:
            raise InputError(f"multires = {self.multires}: expected 0 or more octaves")
        if self.encoding is not None and self.multires:
            raise InputError(
                f"multires = {self.multires}: the block {WHERE}.encoding replaces it; remove one of them"
            )
        if self.gradient_step <= 0:
            raise InputError(f"gradient_step = {self.gradient_step}: expected a step above 0, in cell sizes")
        if self.gradient != "numerical" and self.gradient_step != 1:
            raise InputError(
                f"gradient_step: belongs to gradient = numerical, got gradient = {self.gradient}; "
                "set gradient = numerical, or remove the key"
            )

    @property
    def encoding_block(self) -> Mapping[str, Any]:
        """The block of the point encoding; that of the published encoding for ``multires``."""
        return {"type": "sinusoids", "multires": self.multires} if self.encoding is None else self.encoding

    def check_layers(self, encoded_width: int, has_levels: bool) -> None:
        """Checks the layers against the width of an encoded point, and whether the encoding has levels.

        Raises:
            InputError: Such layers cannot exist, or ``gradient = numerical`` has no levels for its step.
        """
        if self.gradient == "numerical" and not has_levels:
            kind = self.encoding_block["type"]
            raise InputError(
                f"{WHERE}.gradient = numerical: its step follows the encoding's levels, and {kind} has none; "
                f"use an {WHERE}.encoding with levels (hashgrid), or gradient = analytic"
            )
        if not self.dims or min(self.dims) < 1:
            raise InputError(f"{WHERE}.dims = {list(self.dims)}: expected one or more positive widths")
        for index in self.skip_in:
            if not 1 <= index <= len(self.dims):
                raise InputError(
                    f"{WHERE}.skip_in = {list(self.skip_in)}: layer {index} cannot be a skip layer; "
                    f"with {len(self.dims)} hidden layers choose from 1 to {len(self.dims)}"
                )
            width = self.dims[index - 1]
            if width <= encoded_width:
                lower = "the encoding narrower" if self.encoding else f"lower multires ({self.multires})"
                raise InputError(
                    f"{WHERE}.skip_in = {list(self.skip_in)}: layer {index - 1} has width {width}, of which "
                    f"the encoded point takes {encoded_width}; make it wider or {lower}"
                )
