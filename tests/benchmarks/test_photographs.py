"""`benchmarks/photographs.py`: masks made with a scene's cameras, scored by its masks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.importers.masks.test_automatic import ball_photographs, projections, truth

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import photographs  # noqa: E402


def test_masks_of_a_scene(tmp_path: Path) -> None:
    matrices = projections()
    scene, arrays = tmp_path / "scene", {}
    for kind in ("image", "mask"):
        (scene / kind).mkdir(parents=True)
    for k, (matrix, image) in enumerate(zip(matrices, ball_photographs(matrices), strict=True)):
        cv2.imwrite(str(scene / "image" / f"{k:03d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(scene / "mask" / f"{k:03d}.png"), 255 * truth(matrix).astype(np.uint8))
        arrays |= {f"world_mat_{k}": np.vstack([matrix, [0, 0, 0, 1]]), f"scale_mat_{k}": np.eye(4)}
    np.savez(scene / "cameras.npz", **arrays)
    arguments = photographs.build_parser().parse_args(
        [str(scene), "--only", "masks", "--out", str(tmp_path / "out")]
    )
    photographs.measure(arguments)
    (scores,) = json.loads((tmp_path / "out" / "photographs.json").read_text())["photographs"].values()
    assert scores["masks"]["iou_worst"] > 0.95, scores
