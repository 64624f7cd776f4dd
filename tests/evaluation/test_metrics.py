"""Measures against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from idr.evaluation.metrics import mask_iou, masked_psnr


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    rendered, photo = (torch.rand(7, 9, 3, generator=generator) for _ in range(2))
    return rendered, photo, torch.rand(7, 9, generator=generator) > 0.4


def test_psnr_by_a_slow_loop(images):
    rendered, photo, mask = images
    total = count = 0
    for row in range(7):
        for column in range(9):
            if mask[row, column]:
                count += 1
                for channel in range(3):
                    total += float(rendered[row, column, channel] - photo[row, column, channel]) ** 2
    expected = 10 * math.log10(1 / (total / (3 * count)))
    assert masked_psnr(rendered, photo, mask) == pytest.approx(expected, abs=1e-5)
    flat = masked_psnr(rendered.view(-1, 3), photo.view(-1, 3), mask.view(-1))
    assert flat == pytest.approx(expected, abs=1e-5)


def test_psnr_over_the_whole_image_is_the_usual_one(images):
    rendered, photo, _ = images
    expected = peak_signal_noise_ratio(photo.numpy(), rendered.numpy(), data_range=1.0)
    assert masked_psnr(rendered, photo, torch.ones(7, 9, dtype=torch.bool)) == pytest.approx(
        expected, abs=1e-4
    )


def test_psnr_ignores_what_is_outside_the_mask(images):
    rendered, photo, mask = images
    changed = torch.where(mask[..., None], rendered, 0.0)
    assert masked_psnr(changed, photo, mask) == masked_psnr(rendered, photo, mask)


def test_psnr_at_its_ends(images):
    rendered, photo, mask = images
    assert masked_psnr(photo, photo, mask) == math.inf
    assert math.isnan(masked_psnr(rendered, photo, torch.zeros_like(mask)))
    with pytest.raises(ValueError, match="expected"):
        masked_psnr(rendered, photo, mask.T)


def test_iou_by_sets():
    generator = torch.Generator().manual_seed(1)
    hit, mask = (torch.rand(8, 8, generator=generator) > 0.5 for _ in range(2))
    first = {tuple(p.tolist()) for p in hit.nonzero()}
    second = {tuple(p.tolist()) for p in mask.nonzero()}
    assert mask_iou(hit, mask) == pytest.approx(len(first & second) / len(first | second))
    assert mask_iou(hit, hit) == 1.0
    assert mask_iou(hit, ~hit) == 0.0
    assert mask_iou(hit & ~hit, hit & ~hit) == 1.0
    with pytest.raises(ValueError, match="same shape"):
        mask_iou(hit, mask[:4])
