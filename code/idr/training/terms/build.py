"""Builds the terms that the blocks within ``loss`` describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from idr.conf.blocks import plain_value, read_block
from idr.errors import InputError
from idr.training.cameras.poses import LearnablePoses
from idr.training.terms.components import ComponentsConfig, ComponentsTerm
from idr.training.terms.normals import NormalsConfig, NormalsTerm
from idr.training.terms.patch import PatchConfig, PatchTerm
from idr.training.terms.sparse_points import SparsePointsConfig, SparsePointsTerm
from idr.training.terms.step import Cameras, StepRays


class Term(Protocol):
    """A term of the loss.

    Attributes:
        name: Its name among the losses, and its column in ``metrics.csv``.
    """

    name: str

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, a scalar.

        Args:
            rays: The step's rays, with surface points and normals.
            cameras: All cameras, constant.
            time: Fraction of the schedule that is done.
            generator: On the host.
        """
        ...


def build_terms(
    loss_block: Mapping[str, Any], dataset: Any, model: nn.Module, poses: LearnablePoses | None
) -> list[Term]:
    """Returns the terms of a block ``loss``; a term that is null is left out.

    `poses` are learnable poses at the start of training; None for the data set's.

    Raises:
        InputError: A block has a wrong key or value, or the data set lacks what a term needs.
    """
    terms: list[Term] = []
    given = {name: block for name, block in loss_block.items() if plain_value(block) is not None}
    if "patch" in given:
        config = read_block(PatchConfig, given["patch"], "loss.patch")
        _check_photographs(dataset, "loss.patch")
        if config.trace_views:
            _check_is_free(model, "loss.patch.trace_views = true", "set trace_views = false")
        centers = dataset.poses[:, :3, 3] if poses is None else poses.vectors()[:, 4:].cpu()
        terms.append(PatchTerm(config, dataset, centers, model))
    if "normals" in given:
        _check_photographs(dataset, "loss.normals")
        terms.append(NormalsTerm(read_block(NormalsConfig, given["normals"], "loss.normals"), dataset))
    if "components" in given:
        _check_photographs(dataset, "loss.components")
        _check_is_free(model, "loss.components", "leave the block out")
        components = read_block(ComponentsConfig, given["components"], "loss.components")
        terms.append(ComponentsTerm(components, dataset, model))
    if "sparse_points" in given:
        points = read_block(SparsePointsConfig, given["sparse_points"], "loss.sparse_points")
        terms.append(SparsePointsTerm(points, dataset, model))
    return terms


def _check_photographs(dataset: Any, block: str) -> None:
    """Refuses a data set without the photographs and cameras that a block compares."""
    for name in ("images", "masks", "img_res", "intrinsics", "poses"):
        if not hasattr(dataset, name):
            raise InputError(
                f"{block}: {type(dataset).__name__} has no {name}; expected a data set with images "
                "(B, H W, 3) uint8, masks (B, H W), img_res [height, width], intrinsics and poses "
                "(B, 4, 4), as SceneDataset; leave the block out"
            )


def _check_is_free(model: Any, key: str, remedy: str) -> None:
    """Refuses a model without a visibility test."""
    if not hasattr(model, "is_free"):
        raise InputError(
            f"{key}: {type(model).__name__} has no is_free; expected a model with this method of IDRNetwork; "
            f"{remedy}"
        )
