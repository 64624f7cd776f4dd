"""Images of several sizes in one scene: cameras stay, points keep their pixels, the padding is background."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from idr.cli.import_scene import main
from tests.importers import spots, writers


def write(folder: Path, cut: tuple[int, int]) -> None:
    """Cuts rows and columns off every second photograph and mask, at the bottom and on the right."""
    writers.write_nerfstudio(folder / "source", folder / "masks")
    path = folder / "source" / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"][::2]:
        frame |= {"w": spots.WIDTH - cut[1], "h": spots.HEIGHT - cut[0]}
        name = Path(frame["file_path"]).name
        for image in (folder / "source" / "images" / name, folder / "masks" / name):
            pixels = cv2.imread(str(image))
            cv2.imwrite(str(image), pixels[: spots.HEIGHT - cut[0], : spots.WIDTH - cut[1]])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("cut", "size", "change"),
    [
        ((1, 0), (95, 128), "cropped at right and bottom: 128 x 95"),
        ((2, 1), (94, 127), "cropped at right and bottom: 127 x 94"),
        ((5, 0), (96, 128), "padded with background at right and bottom: 128 x 96"),
        ((6, 20), (96, 128), "padded with background at right and bottom: 128 x 96"),
    ],
)
def test_points_keep_their_pixels(
    cut: tuple[int, int], size: tuple[int, int], change: str, tmp_path: Path
) -> None:
    write(tmp_path, cut)
    scene = tmp_path / "data" / "scan1"
    arguments = [str(tmp_path / "source"), "--out", str(scene), "--masks", str(tmp_path / "masks")]
    assert main(arguments) == 0
    assert spots.largest_miss(scene) < 0.05  # quantization and window
    (note,) = json.loads((scene / "import.json").read_text())["notes"]
    assert change in note
    cameras = np.load(scene / "cameras.npz")
    for k in range(6):
        mask = cv2.imread(str(scene / "mask" / f"{k:04d}.png"), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == size
        truth = spots.silhouette(lambda points, k=k: spots.project(cameras[f"world_mat_{k}"], points), size)
        if k % 2 == 0:
            truth[spots.HEIGHT - cut[0] :], truth[:, spots.WIDTH - cut[1] :] = 0, 0
            assert not mask[spots.HEIGHT - cut[0] :].any() and not mask[:, spots.WIDTH - cut[1] :].any()
        assert ((mask > 0) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum() > 0.97


def test_an_object_cut_off_by_the_padding_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, (0, 50))  # the ball reaches beyond column 78
    scene = tmp_path / "data" / "scan1"
    arguments = [str(tmp_path / "source"), "--out", str(scene), "--masks", str(tmp_path / "masks")]
    assert main(arguments) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "cut off where" in line]
    assert "cut off where 3 images were padded (0000.png (images/frame_1.png)" in line
    for k in (1, 3, 5):  # the remedy
        (tmp_path / "source" / "images" / f"frame_{k}.png").unlink()
    assert main([*arguments, "--force"]) == 0
    assert "cut off where" not in capsys.readouterr().out


def test_padding_is_background_in_made_masks(tmp_path: Path) -> None:
    """A program that takes the whole padded image for the object."""
    write(tmp_path, (6, 20))
    program = tmp_path / "all.py"
    program.write_text(
        "import sys, cv2, numpy as np\n"
        "mask = np.full(cv2.imread(sys.argv[1]).shape[:2], 255, np.uint8)\n"
        "mask[:, :20] = mask[:, 90:] = mask[:12] = 0\n"
        "cv2.imwrite(sys.argv[2], mask)\n"
    )
    scene = tmp_path / "data" / "scan1"
    command = f"{sys.executable} {program} {{image}} {{mask}}"
    assert main([str(tmp_path / "source"), "--out", str(scene), "--mask_command", command]) == 0
    for k in range(6):
        mask = cv2.imread(str(scene / "mask" / f"{k:04d}.png"), cv2.IMREAD_GRAYSCALE)
        assert mask[91:].any() == (k % 2 == 1) and mask[50, 60]
