"""Names in the drawings of a scene."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idr.preprocess.scene_check import check_scene
from idr.preprocess.scene_drawing import draw_scene, draw_sheet
from tests.cli import bad_input


@pytest.mark.parametrize("name", [b"view \xff.png", "Müll 日本 ²".encode() + b".png", b"a\x1b[31m\n.png"])
def test_any_name_is_drawn(name: bytes, tmp_path: Path) -> None:
    """OpenCV's text crashes on names that are no UTF-8; what it lacks becomes a question mark."""
    scene = bad_input.write_scene(tmp_path / "scan0")
    for kind in ("image", "mask"):
        old = sorted((scene / kind).iterdir())[-1]
        old.rename(scene / kind / os.fsdecode(name))
    check = check_scene(scene, "cameras.npz")
    draw_scene(check, tmp_path / "check")
    assert len(list((tmp_path / "check").glob("check_*.png"))) == len(check.views)
    draw_sheet(check.views, scene / "mask", tmp_path / "masks.png")  # whose names the views have
    for path in (tmp_path / "masks.png", tmp_path / "check" / "contact_sheet.png"):
        assert np.asarray(Image.open(path)).max() > 200
