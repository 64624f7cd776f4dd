"""Checks that data set, model and loss can follow ``train.sampler`` and ``train.schedule``."""

from __future__ import annotations

from typing import Any

from idr.errors import InputError
from idr.model.encodings.levels import NETWORKS, find_encoding, leveled_encoding
from idr.training.config import TrainConfig
from idr.training.optimizers import PREFIXES


def check_schedule(config: TrainConfig, dataset: Any, model: Any, loss: Any, batch_size: int = 1) -> None:
    """Refuses a conf that data set, model or loss cannot follow; published confs need nothing of them.

    Args:
        config: The block ``train``.
        dataset: Must return single pixels if pixels are chosen or images reduced.
        model: Must have the levels and parameter groups that the conf names, and compute on its device.
        loss: Must accept weights if rays are weighted.
        batch_size: Images of a batch, each of ``images_per_step`` times as many.

    Raises:
        InputError: One of them cannot.
    """
    if 1 < config.images_per_step > len(dataset) // batch_size:
        raise InputError(
            f"train.images_per_step = {config.images_per_step} with --batch_size {batch_size}: expected no "
            f"more images than there are, {len(dataset)}"
        )
    by_importance = config.sampler.type == "importance"
    if by_importance or config.reductions:
        _check_seam(dataset, "sampler.type = importance" if by_importance else "schedule.pyramid")
    if config.reductions and min(dataset.img_res) < config.reductions[0]:
        raise InputError(
            f"train.schedule.pyramid.factors = {list(config.reductions)}: images of "
            f"{' x '.join(map(str, dataset.img_res))} pixels hold no block of that side; expected smaller "
            "factors"
        )
    for network in NETWORKS.values():
        encoding = find_encoding(model, network)
        if encoding is not None:
            encoding.check_device()
    for network, schedule in config.schedule.openings.items():
        leveled_encoding(model, network, schedule.start)
    _check_param_groups(config, model)
    if config.sampler.reweight and not getattr(loss, "takes_weights", False):
        raise InputError(
            f"train.sampler.reweight = true: {type(loss).__name__} takes no weights; expected a loss with "
            "takes_weights = True that multiplies its rays by ground_truth['weights'], as IDRLoss does"
        )


def _check_seam(dataset: Any, key: str) -> None:
    missing = [name for name in ("sample_item", "img_res") if not hasattr(dataset, name)]
    if missing:
        raise InputError(
            f"train.{key}: {type(dataset).__name__} has no {missing[0]}; expected a data set with "
            "sample_item(index, pixels) and img_res [height, width], see CONTRIBUTING.md; add them, or leave "
            "the block out"
        )


def _check_param_groups(config: TrainConfig, model: Any) -> None:
    groups = list(config.schedule.param_groups.named())
    names = [name for name, _ in model.named_parameters()] if groups else []
    found = {next((group for group in groups if name.startswith(PREFIXES[group])), None) for name in names}
    for group in groups:
        if group not in found:
            raise InputError(
                f"train.schedule.param_groups.{group}: the model has no parameters {PREFIXES[group]}*; leave "
                "the block out"
            )
