"""A model whose rays are shared by several processes.

Each process traces and renders every N-th pixel of each image. The model's outputs are joined, so every
process evaluates the loss over all rays. Loss and gradients equal those of one process up to rounding, for
any loss and however unequal the shares are.

N processes, B images of a batch, P pixels an image, R = B P rays of a step, E Eikonal points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from idr.errors import InputError
from idr.model.implicit_differentiable_renderer import draw_step

Outputs = Mapping[str, Any]


class SharedModel:
    """A model that renders this process's share of the rays and returns the outputs of all rays.

    Eikonal points and depths of the smallest-f search are drawn for the whole step, as in one process, and
    each process uses its share of the points. A model without `tracer_config` draws by itself.

    Args:
        model: The seam of `IDRNetwork`; its parameters' gradients become those of the loss over all rays.
        rank: Number of this process.
        size: N.
    """

    def __init__(self, model: nn.Module, rank: int, size: int) -> None:
        self.model, self.rank, self.size = model, rank, size
        # A step may use some parameters in no process, or only in some. Nothing is rebuilt after the first
        # step then either: a run that is continued adds in the same order as one that was not interrupted.
        self.parallel = DistributedDataParallel(model, find_unused_parameters=True)

    def __call__(self, model_input: Outputs) -> Outputs:
        """Renders the whole batch, and returns the outputs for all rays in the order of one process.

        Raises:
            InputError: The model returns a tensor without rows, which cannot be joined.
        """
        images, pixels = model_input["uv"].shape[:2]
        own = self._share(model_input)
        outputs = self.parallel(own)

        names = [name for name, value in outputs.items() if isinstance(value, Tensor)]
        for name in names:
            if outputs[name].dim() == 0:
                raise InputError(
                    f"the model returns {name} as a single number: expected one row a ray or a point, which "
                    "processes can join; return rows, or train in one process"
                )
        places = self._places([outputs[name].shape[0] for name in names], images, pixels)
        whole = JoinRows.apply(self.size, places, *(outputs[name] for name in names))
        return {**outputs, **dict(zip(names, whole, strict=True))}

    def _share(self, model_input: Outputs) -> dict[str, Any]:
        """Returns every N-th pixel of each image, and values per image unchanged."""
        every_nth = slice(self.rank, None, self.size)
        shape = model_input["uv"].shape[:2]  # (B, P)
        own = {}
        for name, value in model_input.items():
            is_per_pixel = name not in ("intrinsics", "pose") and getattr(value, "shape", ())[:2] == shape
            own[name] = value[:, every_nth] if is_per_pixel else value
        config = getattr(self.model, "tracer_config", None)
        if config is not None:
            draws = model_input.get("draws")
            if draws is None:
                generator = model_input.get("generator")
                draws = draw_step(shape.numel(), config, model_input["pose"], generator)
            own["draws"] = replace(draws, eikonal_points=draws.eikonal_points[every_nth])
        return own

    def _places(self, own_rows: list[int], images: int, pixels: int) -> list[tuple[Tensor, int]]:
        """Returns the positions of this process's rows of each tensor among all rows, and their number."""
        rank, size = self.rank, self.size
        rows = torch.zeros(size, len(own_rows), dtype=torch.int64)
        rows[rank] = torch.tensor(own_rows)
        distributed.all_reduce(rows)

        num_rays = images * pixels
        rays = torch.arange(num_rays).view(images, pixels)
        ray_counts = [images * len(range(n, pixels, size)) for n in range(size)]
        point_counts = [len(range(n, num_rays // 2, size)) for n in range(size)]  # of the Eikonal cube
        own_rays = rays[:, rank::size].reshape(-1)
        places = []
        for counts in rows.T.tolist():
            if counts == ray_counts:
                places.append((own_rays, num_rays))
            elif counts == [p + r for p, r in zip(point_counts, ray_counts, strict=True)]:
                own_points = torch.arange(rank, num_rays // 2, size)
                places.append((torch.cat((own_points, num_rays // 2 + own_rays)), num_rays // 2 + num_rays))
            else:  # a model with points of its own: ordered by process
                first = sum(counts[:rank])
                places.append((torch.arange(first, first + counts[rank]), sum(counts)))
        return places


class JoinRows(torch.autograd.Function):
    """Joins the rows of all processes; the backward pass returns the gradient of each process's own rows.

    DistributedDataParallel averages gradients over processes, but their sum is needed: the gradient is
    multiplied by N. A tensor that the loss does not use gets a gradient of zeros, so that all processes
    average the same parameters.
    """

    @staticmethod
    def forward(ctx: Any, size: int, places: list[tuple[Tensor, int]], *own: Tensor) -> tuple[Tensor, ...]:
        """Joins tensors (rows, ...): each process fills its positions, the sum over processes fills all."""
        ctx.size, ctx.places = size, [place.to(own[0].device) for place, _ in places]
        whole, transfers = [], []
        for tensor, place, (_, total) in zip(own, ctx.places, places, strict=True):
            values = tensor.detach().to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
            joined_rows = values.new_zeros(total, *tensor.shape[1:])
            joined_rows[place] = values
            transfers.append(distributed.all_reduce(joined_rows, async_op=True))
            whole.append(joined_rows)
        for transfer in transfers:
            transfer.wait()
        outputs = tuple(rows.to(tensor.dtype) for rows, tensor in zip(whole, own, strict=True))
        ctx.mark_non_differentiable(
            *(rows for rows, tensor in zip(outputs, own, strict=True) if not tensor.requires_grad)
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Returns the gradients of this process's rows, multiplied by N."""
        needed = ctx.needs_input_grad[2:]
        own = (
            gradient[place] * ctx.size if is_needed else None
            for gradient, place, is_needed in zip(gradients, ctx.places, needed, strict=True)
        )
        return None, None, *own
