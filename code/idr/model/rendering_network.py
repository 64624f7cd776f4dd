"""The appearance network M (paper, Eq. 2 and section 3.2).

N points, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.errors import InputError
from idr.model.embedder import encoded_width, positional_encoding
from idr.model.encodings import Encoding, make_encoding, read_view_encoding
from idr.model.encodings.spherical_harmonics import mirror, spherical_harmonics
from idr.model.layers import make_linear

WHERE = "model.rendering_network"
MODES = ("idr", "no_view_dir", "no_normal")
NORMAL_WIDTH = 3
INPUT_WIDTH = {"idr": 9, "no_view_dir": 6, "no_normal": 6}  # point, view direction, normal: 3 numbers each


@dataclass(frozen=True)
class RenderingNetworkConfig:
    """Keys of the block ``model.rendering_network``.

    Attributes:
        mode: Which inputs the network sees: idr, no_view_dir or no_normal.
        d_in: Numbers before features and encoding: 9 for idr, 6 for the ablations.
        d_out: Color channels.
        dims: Widths of the hidden layers.
        weight_norm: Normalize weight rows.
        multires_view: Octaves of the view direction's encoding; 0 for none.
        encoding_view: Block of another encoding of the view direction, in place of ``multires_view``:
            ``type = spherical_harmonics``, ``degree`` (number of bands), ``direction`` (``view``,
            ``mirrored`` at the normal, or ``both``).
        encoding: Block of an encoding of points (`idr.model.encodings`) for colors alone: they may then be
            finer than the geometry. Absent: the network sees the point as it is.
        view_dims: Widths of the hidden layers of a branch of its own for what depends on the view. It sees
            view direction, normal and feature, the other one point, normal and feature; light that is
            mirrored adds to light that is scattered, whatever the color below. A place's own grid then says
            nothing of how it shines, and few views suffice. Absent: one network sees all, as published.
    """

    mode: str
    d_in: int
    d_out: int
    dims: tuple[int, ...]
    weight_norm: bool = True
    multires_view: int = 0
    encoding_view: Mapping[str, Any] | None = None
    encoding: Mapping[str, Any] | None = None
    view_dims: tuple[int, ...] = ()


class RenderingNetwork(nn.Module):
    """M(point, normal, view direction, feature) -> color.

    Args:
        feature_vector_size: F of the implicit network; may be 0.
        config: The block's values.

    Raises:
        InputError: Unknown mode, or a d_in that does not fit it.
    """

    def __init__(self, feature_vector_size: int, config: RenderingNetworkConfig) -> None:
        super().__init__()
        _check(config)
        self.mode = config.mode
        self.octaves = config.multires_view
        self.bands, self.direction = 0, "view"
        view_width = encoded_width(3, config.multires_view)
        if config.encoding_view is not None:
            view = read_view_encoding(config.encoding_view, f"{WHERE}.encoding_view")
            self.bands, self.direction, view_width = view.degree, view.direction, view.width
            if view.direction != "view" and config.mode != "idr":
                raise InputError(
                    f"{WHERE}.encoding_view.direction = {view.direction}: mode {config.mode} does not "
                    "see both view direction and normal; take mode = idr, or direction = view"
                )
        width = config.d_in + feature_vector_size
        if config.mode != "no_view_dir":
            width += view_width - 3
        self.encoding: Encoding | None = None
        if config.encoding is not None:
            self.encoding = make_encoding(config.encoding, f"{WHERE}.encoding")
            width += self.encoding.width - 3
        self.view_layers = 0
        if config.view_dims:
            width -= view_width
            inputs = view_width + NORMAL_WIDTH + feature_vector_size
            self.view_layers = self._add_layers("view", (inputs, *config.view_dims, config.d_out), config)
        self.num_layers = self._add_layers("lin", (width, *config.dims, config.d_out), config)

    def _add_layers(self, name: str, dims: tuple[int, ...], config: RenderingNetworkConfig) -> int:
        """Makes the layers ``<name>0``, ... between widths; returns their number."""
        for index in range(len(dims) - 1):
            setattr(self, f"{name}{index}", make_linear(dims[index], dims[index + 1], config.weight_norm))
        return len(dims) - 1

    def _apply_layers(self, name: str, count: int, *inputs: Tensor) -> Tensor:
        """Returns the outputs (N, 3), before tanh, of the layers ``<name>0``, ..."""
        hidden = torch.cat(inputs, dim=-1)
        for index in range(count - 1):
            hidden = functional.relu(self.get_submodule(f"{name}{index}")(hidden))
        return self.get_submodule(f"{name}{count - 1}")(hidden)

    def forward(self, points: Tensor, normals: Tensor, view_dirs: Tensor, features: Tensor) -> Tensor:
        """Renders points.

        Args:
            points: (N, 3), unit-sphere frame.
            normals: (N, 3) gradient of the signed distance, not normalized, by design.
            view_dirs: (N, 3) unit vectors from the point to the camera.
            features: (N, F) global geometry features.

        Returns:
            (N, 3) RGB in [-1, 1]; in training, with ``view_dims``, also beyond.
        """
        if self.encoding is not None:
            points = self.encoding(points)
        if self.view_layers:
            matt = torch.tanh(self._apply_layers("lin", self.num_layers, points, normals, features))
            views = self._encode_all(view_dirs, normals)
            colors = matt + self._apply_layers("view", self.view_layers, *views, normals, features)
            # In training a color that is too bright must still be drawn back.
            return colors if self.training else colors.clamp(-1.0, 1.0)
        if self.mode == "no_view_dir":
            inputs: tuple[Tensor, ...] = (points, normals, features)
        elif self.mode == "no_normal":
            inputs = (points, self._encode(view_dirs), features)
        else:
            inputs = (points, *self._encode_all(view_dirs, normals), normals, features)
        return torch.tanh(self._apply_layers("lin", self.num_layers, *inputs))

    def _encode_all(self, view_dirs: Tensor, normals: Tensor) -> list[Tensor]:
        """Encodes view directions (N, 3), mirrored ones, or both."""
        seen = [view_dirs] if self.direction != "mirrored" else []
        mirrored = [mirror(view_dirs, normals)] if self.direction != "view" else []
        return [self._encode(direction) for direction in seen + mirrored]

    def _encode(self, view_dirs: Tensor) -> Tensor:
        """Encodes view directions (N, 3)."""
        if self.bands:
            return spherical_harmonics(view_dirs, self.bands)
        return positional_encoding(view_dirs, self.octaves)


def _check(config: RenderingNetworkConfig) -> None:
    """Refuses a mode or an input width that the method does not have."""
    where = WHERE
    if config.mode not in MODES:
        raise InputError(f"{where}.mode = {config.mode}: expected one of {', '.join(MODES)}")
    if config.d_in != INPUT_WIDTH[config.mode]:
        raise InputError(f"{where}.d_in = {config.d_in}: mode {config.mode} takes {INPUT_WIDTH[config.mode]}")
    if config.d_out != 3:
        raise InputError(f"{where}.d_out = {config.d_out}: expected 3 color channels")
    if not config.dims or min(config.dims) < 1:
        raise InputError(f"{where}.dims = {list(config.dims)}: expected one or more positive widths")
    if config.view_dims and config.mode != "idr":
        raise InputError(
            f"{where}.view_dims = {list(config.view_dims)}: mode {config.mode} lacks the view direction or "
            "the normal; take mode = idr, or leave it out"
        )
    if min(config.view_dims, default=1) < 1:
        raise InputError(f"{where}.view_dims = {list(config.view_dims)}: expected positive widths")
    if config.multires_view < 0:
        raise InputError(f"{where}.multires_view = {config.multires_view}: expected 0 or more octaves")
    if config.mode == "no_view_dir" and config.multires_view:
        raise InputError(
            f"{where}.multires_view = {config.multires_view}: mode no_view_dir has none; set it to 0"
        )
    if config.encoding_view is not None and (config.multires_view or config.mode == "no_view_dir"):
        other = (
            "mode no_view_dir has no view direction"
            if config.mode == "no_view_dir"
            else (f"it takes the place of multires_view = {config.multires_view}")
        )
        raise InputError(f"{where}.encoding_view: {other}; leave one of them out")
