"""The appearance network M (paper, Eq. 2 and section 3.2).

N points, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.errors import InputError
from idr.model.embedder import encoded_width, positional_encoding
from idr.model.encodings import Encoding, ViewEncoding, make_encoding, make_view_encoding
from idr.model.layers import make_linear

WHERE = "model.rendering_network"
NORMAL_WIDTH = 3
INPUT_WIDTH = {"idr": 9, "no_view_dir": 6, "no_normal": 6}
"""Input width by mode: 3 each for the point, the view direction and the normal."""


@dataclass(frozen=True)
class RenderingNetworkConfig:
    """Keys of the block ``model.rendering_network``.

    Attributes:
        mode: Inputs of the network: idr, no_view_dir or no_normal.
        d_in: Inputs besides features and encodings: 9 for idr, 6 for the ablations.
        d_out: Color channels; must be 3.
        dims: Widths of the hidden layers.
        weight_norm: Use weight normalization.
        multires_view: Octaves of the positional encoding of the view direction; 0 for none.
        encoding_view: Block of another encoding of the view direction (`idr.model.encodings`), which replaces
            ``multires_view``: ``type = spherical_harmonics``, ``degree`` (number of bands), ``direction``
            (``view``, ``mirrored`` about the normal, or ``both``).
        encoding: Block of a point encoding (`idr.model.encodings`) for colors alone, which may be finer than
            the geometry. Without it the network receives the raw point.
        view_dims: Widths of the hidden layers of a separate branch for view-dependent color. Its inputs are
            view direction, normal and features; the other branch has point, normal and features; their
            outputs are summed. Specular color then does not depend on position and can be learned from few
            views. Without it one network has all inputs, as published.
    """

    LARGEST: ClassVar[dict[str, int]] = {"dims": 8192, "view_dims": 8192, "multires_view": 32}

    mode: str
    d_in: int
    d_out: int
    dims: tuple[int, ...]
    weight_norm: bool = True
    multires_view: int = 0
    encoding_view: Mapping[str, Any] | None = None
    encoding: Mapping[str, Any] | None = None
    view_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in INPUT_WIDTH:
            raise InputError(f"mode = {self.mode}: expected one of {', '.join(INPUT_WIDTH)}")
        if self.d_in != INPUT_WIDTH[self.mode]:
            raise InputError(f"d_in = {self.d_in}: mode {self.mode} takes {INPUT_WIDTH[self.mode]}")
        if self.d_out != 3:
            raise InputError(f"d_out = {self.d_out}: expected 3 color channels")
        if not self.dims or min(self.dims) < 1:
            raise InputError(f"dims = {list(self.dims)}: expected one or more positive widths")
        if self.view_dims and self.mode != "idr":
            raise InputError(
                f"view_dims = {list(self.view_dims)}: mode {self.mode} lacks the view direction or the "
                "normal; set mode = idr, or remove the key"
            )
        if min(self.view_dims, default=1) < 1:
            raise InputError(f"view_dims = {list(self.view_dims)}: expected positive widths")
        if self.multires_view < 0:
            raise InputError(f"multires_view = {self.multires_view}: expected 0 or more octaves")
        if self.mode == "no_view_dir" and self.multires_view:
            raise InputError(f"multires_view = {self.multires_view}: mode no_view_dir has none; set it to 0")
        if self.encoding_view is not None and self.mode == "no_view_dir":
            raise InputError("encoding_view: mode no_view_dir has no view direction; remove one of them")
        if self.encoding_view is not None and self.multires_view:
            raise InputError(
                f"encoding_view: it replaces multires_view = {self.multires_view}; remove one of them"
            )


class RenderingNetwork(nn.Module):
    """M(point, normal, view direction, features) -> color.

    Args:
        feature_vector_size: F of the implicit network; may be 0.
        config: The block's values.

    Raises:
        InputError: An encoding is unknown or needs inputs that the mode lacks.
    """

    def __init__(self, feature_vector_size: int, config: RenderingNetworkConfig) -> None:
        super().__init__()
        self.mode = config.mode
        self.octaves = config.multires_view
        self.view_encoding = _view_encoding(config)
        encoding = self.view_encoding
        view_width = encoded_width(3, self.octaves) if encoding is None else encoding.width
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
            normals: (N, 3) gradient of the signed distance, deliberately not normalized.
            view_dirs: (N, 3) unit vectors from the point to the camera.
            features: (N, F) global geometry features.

        Returns:
            (N, 3) RGB in [-1, 1]; in training, with ``view_dims``, possibly beyond.
        """
        if self.encoding is not None:
            points = self.encoding(points)
        if self.view_layers:
            diffuse = torch.tanh(self._apply_layers("lin", self.num_layers, points, normals, features))
            views = self._encode(view_dirs, normals)
            colors = diffuse + self._apply_layers("view", self.view_layers, views, normals, features)
            # Clamping in training would block the gradient of a color that is too bright.
            return colors if self.training else colors.clamp(-1.0, 1.0)
        if self.mode == "no_view_dir":
            inputs: tuple[Tensor, ...] = (points, normals, features)
        elif self.mode == "no_normal":
            inputs = (points, self._encode(view_dirs, normals), features)
        else:
            inputs = (points, self._encode(view_dirs, normals), normals, features)
        return torch.tanh(self._apply_layers("lin", self.num_layers, *inputs))

    def _encode(self, view_dirs: Tensor, normals: Tensor) -> Tensor:
        if self.view_encoding is None:
            return positional_encoding(view_dirs, self.octaves)
        return self.view_encoding(view_dirs, normals)


def _view_encoding(config: RenderingNetworkConfig) -> ViewEncoding | None:
    if config.encoding_view is None:
        return None
    encoding = make_view_encoding(config.encoding_view, f"{WHERE}.encoding_view")
    if encoding.needs_normals and config.mode != "idr":
        raise InputError(
            f"{WHERE}.encoding_view.direction = {config.encoding_view.get('direction')}: mode {config.mode} "
            "does not see both view direction and normal; set mode = idr, or direction = view"
        )
    return encoding
