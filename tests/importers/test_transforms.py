"""`transforms.json` as other machines and programs leave it: each view projects as its writer says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from idr.cli.import_scene import main
from idr.errors import InputError, MissingInputError
from idr.importers.recognize import read_source
from idr.importers.source import Source
from tests.importers import spots, writers


def change(folder: Path, edit: Any) -> list[spots.Projector]:
    """Writes a nerfstudio scene of six views whose content `edit` changes."""
    projectors = writers.write_nerfstudio(folder)
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return projectors


def rename(content: dict[str, Any], pattern: str) -> None:
    for frame in content["frames"]:
        frame["file_path"] = pattern.format(Path(frame["file_path"]).name, Path(frame["file_path"]).stem)


def assert_projects(source: Source, projectors: list[spots.Projector]) -> None:
    assert len(source.views) == len(projectors)
    for view, projector in zip(source.views, projectors, strict=True):
        ours = spots.project(view.intrinsics @ view.world_to_camera, spots.POINTS)
        np.testing.assert_allclose(ours, projector(spots.POINTS), atol=1e-9)  # rounding of a matrix product


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_any_unicode_encoding_is_read(encoding: str, tmp_path: Path) -> None:
    projectors = writers.write_nerfstudio(tmp_path)
    path = tmp_path / "transforms.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert_projects(read_source(tmp_path), projectors)


def test_null_stands_for_the_default(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content.update(dict.fromkeys(["k1", "k4", "p2", "ply_file_path", "is_fisheye", "camera_model"]))
        content["frames"][2].update(dict.fromkeys(["fl_x", "cx", "w", "h", "mask_path", "camera_model"]))

    projectors = change(tmp_path, edit)
    assert_projects(read_source(tmp_path), projectors)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cx": 61.3', '"cx": 1' + "0" * 400, "cx is inf; expected a number"),
        ('"cx": 61.3', '"cx": 1e999', "cx is inf; expected a number"),
        ('"cx": 61.3', '"cx": -Infinity', "cx is -inf; expected a number"),
        ('"w": 128', '"w": 1' + "0" * 400, "w and h are inf and 96; expected whole pixels"),
        ('"cx": 61.3', '"cx": ' + "[" * 10000 + "]" * 10000, "nested too deeply"),
    ],
)
def test_numbers_and_nesting_beyond_bounds_are_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    writers.write_nerfstudio(tmp_path)
    path = tmp_path / "transforms.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_source(tmp_path)


def test_a_matrix_beyond_float_is_refused(tmp_path: Path) -> None:
    writers.write_nerfstudio(tmp_path)
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][1]["transform_matrix"][0][3] = 10**400
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="transform_matrix has non-finite values"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "images"),
    [
        (r"images\{}", None),
        (r".\images\{}", None),
        (r"C:\Users\anna\capture\images\{}", None),
        (r"C:\Users\anna\capture\images\{}", "images"),
        ("D:/capture/images/{}", "images"),
        ("/home/anna/capture/images/{}", "images"),
        ("/home/anna/capture/images/{}", "pictures"),
        (r"\\server\share\images\{}", "images"),
        ("../elsewhere/{}", "pictures"),
    ],
)
def test_paths_of_other_machines_are_found(pattern: str, images: str | None, tmp_path: Path) -> None:
    projectors = change(tmp_path, lambda content: rename(content, pattern))
    if images == "pictures":
        (tmp_path / "images").rename(tmp_path / "pictures")
    assert_projects(read_source(tmp_path, images=tmp_path / images if images else None), projectors)


def test_the_longest_matching_end_of_a_path_counts(tmp_path: Path) -> None:
    """Two rigs have images of the same names."""

    def edit(content: dict[str, Any]) -> None:
        for k, frame in enumerate(content["frames"]):
            frame["file_path"] = f"/home/anna/images/cam{k % 2}/{k // 2}.png"

    change(tmp_path, edit)
    for k in range(6):
        target = tmp_path / "pictures" / f"cam{k % 2}" / f"{k // 2}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / f"frame_{k + 1}.png").rename(target)
    for view in read_source(tmp_path, images=tmp_path / "pictures").views:
        assert view.image.parts[-2:] == Path(view.name).parts[-2:]


def test_cutouts_with_another_ending_are_found_and_said(tmp_path: Path) -> None:
    projectors = change(tmp_path, lambda content: rename(content, "images/{1}.jpg"))
    source = read_source(tmp_path)
    assert_projects(source, projectors)
    assert source.notes == ("6 images have another ending than listed (frame_1.png for frame_1.jpg)",)
    shutil.copyfile(tmp_path / "images" / "frame_2.png", tmp_path / "images" / "frame_2.webp")
    with pytest.raises(InputError, match=r"names frame_2\.jpg, which matches frame_2\.png and frame_2\.webp"):
        read_source(tmp_path)


def test_views_of_deleted_images_are_left_out_with_a_note(tmp_path: Path) -> None:
    projectors = writers.write_nerfstudio(tmp_path)
    for k in (2, 4, 5):
        (tmp_path / "images" / f"frame_{k}.png").unlink()
    source = read_source(tmp_path)
    assert_projects(source, [projectors[k] for k in (0, 2, 5)])
    (note,) = source.notes
    assert note.startswith("3 of 6 views left out") and "images/frame_2.png" in note
    (tmp_path / "images" / "frame_1.png").unlink()
    with pytest.raises(MissingInputError, match="4 of 6 images do not exist"):
        read_source(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "images", "a\0b.png", "a" * 300 + ".png"])
def test_names_that_are_no_files_are_missing_images(name: str, tmp_path: Path) -> None:
    change(tmp_path, lambda content: content["frames"][1].update(file_path=name))
    source = read_source(tmp_path)
    assert len(source.views) == 5 and source.notes[0].startswith("1 of 6 views left out")


def test_scaled_cameras_are_read_with_a_note(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for frame in content["frames"][:2]:
            matrix = np.array(frame["transform_matrix"])
            matrix[:3, :3] *= 0.1
            frame["transform_matrix"] = matrix.tolist()

    projectors = change(tmp_path, edit)
    source = read_source(tmp_path)
    assert_projects(source, projectors)
    assert source.notes == ("2 of 6 cameras are scaled (Blender's matrix_world): scale removed",)


def test_missing_sparse_points_are_a_note(tmp_path: Path) -> None:
    projectors = change(tmp_path, lambda content: content.update(ply_file_path="sparse_pc.ply"))
    source = read_source(tmp_path)
    assert_projects(source, projectors)
    assert source.points is None and "sparse_pc.ply" in source.notes[0]


def test_cameras_of_sdfstudio_are_moved_to_the_ground_truth(tmp_path: Path) -> None:
    to_truth = np.eye(4)
    to_truth[:3, :3] = 3 * spots.camera_to_world()[2][:3, :3]
    to_truth[:3, 3] = 5, -1, 2
    projectors = writers.write_sdfstudio(tmp_path, to_truth=to_truth)
    source = read_source(tmp_path)
    assert_projects(source, projectors)
    assert source.notes == ("cameras moved by worldtogt to the frame of the ground truth",)


def test_masks_of_sdfstudio_are_used(tmp_path: Path) -> None:
    writers.write_sdfstudio(tmp_path / "source", tmp_path / "masks")
    path = tmp_path / "source" / "meta_data.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        frame["foreground_mask"] = frame["rgb_path"].replace("rgb", "foreground_mask")
        (tmp_path / "masks" / frame["rgb_path"]).rename(path.parent / frame["foreground_mask"])
    path.write_text(json.dumps(content))
    scene = tmp_path / "data" / "scan1"
    assert main([str(path.parent), "--out", str(scene)]) == 0
    own = path.parent / "000003_foreground_mask.png"
    assert (scene / "mask" / "0003.png").is_file() and own.is_file()
    assert np.array_equal(cv2.imread(str(scene / "mask" / "0003.png"), 0), cv2.imread(str(own), 0))
