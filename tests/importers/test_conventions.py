"""Compares the importers with each format's convention, implemented independently in the writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from idr.cli.import_scene import main
from idr.importers.recognize import read_source
from tests.importers import colmap_writer, spots, writers

PINHOLES = {
    "transforms": writers.write_nerfstudio,
    "transforms, own cameras": writers.write_several_cameras,
    "transforms, Blender": writers.write_blender,
    "neus": writers.write_npz,
    "idr": lambda folder, masks: writers.write_npz(folder, masks, "cameras.npz"),
    "idr, DVR": writers.write_dvr,
    "idr, DVR, normalized": lambda folder, masks: writers.write_dvr(folder, masks, normalized=True),
    "idr, zero-padded": writers.write_padded,
    "transforms, NeuS2": writers.write_neus2,
    "sdfstudio": writers.write_sdfstudio,
    "mvsnet": writers.write_mvsnet,
    "mvsnet, BlendedMVS": lambda folder, masks: writers.write_mvsnet(folder, masks, "blended_images"),
    "middlebury": writers.write_middlebury,
    "projections": writers.write_projections,
    "projections, PMVS": writers.write_pmvs,
    "colmap": colmap_writer.write_colmap,
    "colmap, binary": lambda folder, masks: colmap_writer.write_colmap(folder, masks, binary=True),
    "colmap, SIMPLE": lambda folder, masks: colmap_writer.write_colmap(folder, masks, "SIMPLE_PINHOLE"),
}
LENSES = {
    "transforms OPENCV": lambda folder, masks: writers.write_lens(folder, masks, "OPENCV", writers.OPENCV),
    "transforms OPENCV_FISHEYE": lambda folder, masks: writers.write_lens(
        folder, masks, "OPENCV_FISHEYE", writers.FISHEYE
    ),
    **{
        f"colmap {model}": lambda folder, masks, model=model: colmap_writer.write_colmap(folder, masks, model)
        for model in ("SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE", "FOV")
    },
}


SEEN = [name for name in PINHOLES if name not in ("transforms, NeuS2", "sdfstudio", "idr, zero-padded")]
"""Those whose spots are looked at: the readers of the others share their last steps with these."""


def needs_pycolmap(name: str) -> None:
    if name.startswith("colmap"):
        pytest.importorskip("pycolmap", reason="COLMAP models are read by pycolmap, which is not installed")


@pytest.mark.parametrize("name", PINHOLES)
def test_points_project_to_the_same_pixels(name: str, tmp_path: Path) -> None:
    needs_pycolmap(name)
    projectors = PINHOLES[name](tmp_path, None)
    source = read_source(tmp_path)
    assert source.kind == name.split(",")[0]
    assert len(source.views) == len(projectors)
    for view, projector in zip(source.views, match(projectors, source.views), strict=True):
        ours = spots.project(view.intrinsics @ view.world_to_camera, spots.POINTS)
        assert np.allclose(ours, projector(spots.POINTS), atol=1e-9)  # rounding of a matrix product


def match(projectors: list[spots.Projector], views: tuple) -> list[spots.Projector]:
    """Orders projectors like the views. Writers number views in order; COLMAP sorts them by folder first."""
    numbers = [int("".join(c for c in Path(view.name).stem if c.isdigit())) for view in views]
    return [projectors[number - min(numbers)] for number in numbers]


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("name", [*SEEN, *LENSES])
def test_spots_appear_where_cameras_npz_projects_them(name: str, downscale: int, tmp_path: Path) -> None:
    needs_pycolmap(name)
    {**PINHOLES, **LENSES}[name](tmp_path / "source", tmp_path / "masks")
    scene = tmp_path / "data" / "mine" / "scan3"
    masks = [] if name.startswith(("neus", "idr")) else ["--masks", str(tmp_path / "masks")]
    arguments = [str(tmp_path / "source"), "--out", str(scene), "--downscale", str(downscale), *masks]
    assert main(arguments) == 0
    # Quantization and the 11-pixel window cost 0.03 pixels, undistortion 0.1. A half-pixel shift would show
    # as 0.5 (0.25 after downscaling), an ignored lens as several pixels.
    tolerance = 0.15 if name in LENSES else 0.05
    assert spots.largest_miss(scene, window=5 if downscale == 1 else 3) < tolerance


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_pixel_center_is_configurable(shift: float, tmp_path: Path) -> None:
    projectors = writers.write_middlebury(tmp_path)
    view = read_source(tmp_path, pixel_center=shift).views[0]
    ours = spots.project(view.intrinsics @ view.world_to_camera, spots.POINTS)
    assert np.allclose(ours, projectors[0](spots.POINTS) - shift, atol=1e-9)


def test_colmap_points_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="COLMAP models are read by pycolmap, which is not installed")
    colmap_writer.write_colmap(tmp_path)
    points = read_source(tmp_path).points
    assert points is not None and points.shape == (12, 3)
    assert np.allclose(np.linalg.norm(points, axis=1), 0.8, atol=1e-5)


def test_views_are_in_natural_order(tmp_path: Path) -> None:
    poses = [writers.to_opengl(pose) for pose in spots.camera_to_world(12)]
    names = [f"images/f{k}.png" for k in range(12)]
    projectors = [writers.opengl_projector(pose, 100, 100, 64, 48) for pose in poses]
    spots.write_photographs(tmp_path, names, projectors, None)
    order = [10, 2, 0, 11, 1, 9, 3, 8, 4, 7, 5, 6]
    writers.write_json(tmp_path, {"fl_x": 100.0}, [names[k] for k in order], [poses[k] for k in order])
    assert [view.name for view in read_source(tmp_path).views] == names
