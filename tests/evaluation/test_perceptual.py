"""LPIPS: what its network is handed, and its own arithmetic with weights that need no download."""

from __future__ import annotations

import math

import pytest
import torch

from idr.errors import InputError
from idr.evaluation.perceptual import network_distance

CPU = torch.device("cpu")


def test_network_sees_signed_colors_on_black():
    seen = []

    def network(photo, rendered):
        seen.extend((photo, rendered))
        return torch.tensor([[[[0.25]]]])

    rendered, photo = torch.full((32, 40, 3), 0.75), torch.full((32, 40, 3), 1.5)
    mask = torch.zeros(32, 40, dtype=torch.bool)
    mask[3, 7] = True
    assert network_distance(network, CPU)(rendered, photo, mask) == 0.25
    assert seen[0].shape == (1, 3, 32, 40)
    assert seen[0][0, :, 3, 7].tolist() == [1.0] * 3 and seen[1][0, :, 3, 7].tolist() == [0.5] * 3
    assert seen[0][0, :, 4, 7].tolist() == [-1.0] * 3 and seen[1][0, :, 0, 0].tolist() == [-1.0] * 3


def test_the_package_measures_with_any_backbone():
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()  # its own layers are in the wheel
    distance = network_distance(network, CPU)
    photo, mask = torch.rand(40, 36, 3), torch.ones(40, 36, dtype=torch.bool)
    assert distance(photo, photo, mask) == 0
    near, far = distance((photo + 0.02).clamp(0, 1), photo, mask), distance(1 - photo, photo, mask)
    assert 0 < near < far
    mask[:, 20:] = False
    assert distance(torch.where(mask[..., None], photo, 0.3), photo, mask) == 0


def test_small_pictures_have_none_and_shapes_must_fit():
    distance = network_distance(lambda *_: torch.tensor(1.0), CPU)
    small = torch.zeros(31, 40, 3)
    assert math.isnan(distance(small, small, torch.ones(31, 40, dtype=torch.bool)))
    with pytest.raises(InputError, match="expected"):
        distance(small, small[:9], torch.ones(31, 40, dtype=torch.bool))
