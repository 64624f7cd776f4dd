"""Image scores against slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from idr.evaluation.metrics import mask_iou, masked_psnr, masked_ssim


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


def test_psnr_of_equal_images_and_of_an_empty_mask(images):
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


def slow_ssim(rendered, photo, mask):
    """Wang's formula, one window at a time, far enough from the border that none reaches over it."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2) / 1.5**2)
    weights /= weights.sum()
    a, b = ((picture * mask[..., None]).double().numpy() for picture in (photo, rendered))
    found = []
    for row, column in mask.nonzero().tolist():
        for channel in range(3):
            x, y = (p[row - 5 : row + 6, column - 5 : column + 6, channel] for p in (a, b))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            both = (weights * (x - mx) * (y - my)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(found))


def test_ssim_by_a_slow_loop():
    generator = torch.Generator().manual_seed(2)
    photo = torch.rand(18, 20, 3, generator=generator)
    rendered = (photo + 0.3 * torch.rand(18, 20, 3, generator=generator)).clamp(0, 1)
    mask = torch.zeros(18, 20, dtype=torch.bool)
    mask[6:12, 6:13] = torch.rand(6, 7, generator=generator) > 0.3
    expected = slow_ssim(rendered, photo, mask)
    assert 0.3 < expected < 0.99
    assert masked_ssim(rendered, photo, mask) == pytest.approx(expected, abs=1e-9)
    assert masked_ssim(torch.where(mask[..., None], rendered, 0.7), photo, mask) == pytest.approx(expected)


def test_ssim_at_its_ends(images):
    rendered, photo, mask = images
    big = torch.rand(12, 12, 3)
    assert masked_ssim(big, big, torch.ones(12, 12, dtype=torch.bool)) == pytest.approx(1.0)
    assert math.isnan(masked_ssim(rendered, photo, mask))  # smaller than a window
    assert math.isnan(masked_ssim(big, big, torch.zeros(12, 12, dtype=torch.bool)))
    with pytest.raises(ValueError, match="expected"):
        masked_ssim(rendered, photo, mask.T)
