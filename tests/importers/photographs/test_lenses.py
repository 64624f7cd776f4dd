"""Undistortion compared with cv2.undistort, and invalid lenses."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest

from idr.errors import InputError
from idr.importers.photographs.lenses import (
    fisheye_distorted,
    lens_pixels,
    opencv_distorted,
    pinhole_for,
    undistortion_maps,
)
from idr.importers.source import Lens

K = np.array([[150.0, 0, 61.3], [0, 146.0, 50.2], [0, 0, 1]])
SIZE = (96, 128)
COEFFICIENTS = (-0.16, 0.05, 0.004, -0.006, 0.01)


def polynomial(*coefficients: float) -> Lens:
    return partial(opencv_distorted, coefficients)


def texture() -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (127 + 60 * np.sin(rows / 5) + 60 * np.cos(columns / 7)).astype(np.float32)


def test_maps_agree_with_cv2_undistort() -> None:
    lens = polynomial(*COEFFICIENTS)
    new = pinhole_for(K, lens, SIZE, "camera")
    ours = cv2.remap(texture(), *undistortion_maps(K, lens, new, SIZE), cv2.INTER_LINEAR)
    theirs = cv2.undistort(texture(), K, np.array(COEFFICIENTS), None, new)
    # remap and undistort interpolate at 1/32 pixel; the texture's gradient is at most 12 per pixel
    assert np.abs(ours - theirs).max() < 1.0


def test_fisheye_maps_agree_with_cv2() -> None:
    values = (0.06, -0.02, 0.003, -0.001)
    lens = partial(fisheye_distorted, values)
    new = pinhole_for(K, lens, SIZE, "camera")
    ours = undistortion_maps(K, lens, new, SIZE)
    theirs = cv2.fisheye.initUndistortRectifyMap(
        K, np.array(values), np.eye(3), new, SIZE[::-1], cv2.CV_32FC1
    )
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) < 1e-3


@pytest.mark.parametrize("lens", [polynomial(*COEFFICIENTS), polynomial(0.2, 0.0, 0.0, 0.0)])
def test_the_pinhole_image_lies_tightly_within_the_distorted_one(lens: Lens) -> None:
    new = pinhole_for(K, lens, SIZE, "camera")
    border = [[u, v] for u in np.linspace(-0.5, 127.5, 50) for v in (-0.5, 95.5)]
    border += [[u, v] for v in np.linspace(-0.5, 95.5, 50) for u in (-0.5, 127.5)]
    seen = lens_pixels(K, lens, new, np.array(border))
    assert seen.min() > -0.5 - 1e-3 and seen[:, 0].max() < 127.5 + 1e-3 and seen[:, 1].max() < 95.5 + 1e-3
    margin = np.minimum(seen + 0.5, np.array([127.5, 95.5]) - seen).min()
    assert margin < 1.5  # one search step moves the border by 2 % of half the image


def test_a_lens_that_folds_is_refused() -> None:
    with pytest.raises(InputError, match="folds the image over"):
        pinhole_for(K, polynomial(-300.0, 0.0, 0.0, 0.0), SIZE, "camera 3")


def test_a_mild_fold_beyond_the_image_narrows_the_view_instead() -> None:
    lens = polynomial(-1.2, 0.0, 0.0, 0.0)  # folds at r = 0.53; the image's corners lie at 0.54
    new = pinhole_for(K, lens, SIZE, "camera")
    columns, rows = undistortion_maps(K, lens, new, SIZE)
    assert (np.diff(columns, axis=1) > 0).all() and (np.diff(rows, axis=0) > 0).all()
