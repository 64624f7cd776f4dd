"""Several formats in one folder, cameras that are not read, and folders passed with `--images`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from idr.errors import InputError
from idr.importers import recognize as formats
from idr.importers.photographs.source import KIND as PHOTOGRAPHS
from idr.importers.recognize import KINDS, read_source, recognize
from tests.importers import colmap_writer, spots, writers


def test_the_command_offers_every_kind() -> None:
    from idr.cli import import_scene

    assert import_scene.KINDS == (*KINDS, PHOTOGRAPHS)


def nerfstudio_beside_colmap(folder: Path) -> None:
    writers.write_nerfstudio(folder)
    colmap_writer.write_colmap(folder / "colmap")


def neus_beside_colmap(folder: Path) -> None:
    writers.write_npz(folder)
    colmap_writer.write_colmap(folder)


def mvsnet_beside_colmap(folder: Path) -> None:
    writers.write_mvsnet(folder)
    colmap_writer.write_colmap(folder)


def both_npz(folder: Path) -> None:
    writers.write_npz(folder, file="cameras.npz")
    writers.write_npz(folder)


@pytest.mark.parametrize(
    ("write", "refined", "other"),
    [
        (nerfstudio_beside_colmap, "transforms", "colmap"),
        (neus_beside_colmap, "neus", "colmap"),
        (mvsnet_beside_colmap, "colmap", "mvsnet"),
        (both_npz, "neus", "idr"),
    ],
)
def test_the_refined_format_is_read_and_the_other_named(
    write: Callable[[Path], None], refined: str, other: str, tmp_path: Path
) -> None:
    write(tmp_path)
    if refined == "colmap":
        pytest.importorskip("pycolmap", reason="COLMAP models are read by pycolmap")
    source = read_source(tmp_path)
    assert source.kind == refined
    assert source.notes[0] == f"read as {refined}; also found {other}, read instead with --kind {other}"
    assert formats.kinds_of(tmp_path) == [refined, other]
    if other == "idr":
        assert read_source(tmp_path, other).notes == ()  # whoever chose it needs no note


def photographs(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for k in range(4):
        cv2.imwrite(str(folder / "images" / f"{k}.png"), np.full((8, 9, 3), 40 * k, np.uint8))


XML = '<?xml version="1.0"?><document version="1.2.0"><chunk label="a"></chunk></document>'
FOREIGN = {
    "cameras.xml": (XML, "Agisoft Metashape: export its cameras as COLMAP"),
    "utf16.xml": (XML.encode("utf-16"), "Agisoft Metashape"),
    "poses_bounds.npy": ("", "LLFF: pass the COLMAP model"),
    "bundle.out": ("# Bundle file v0.3\n3 0\n", "Bundler: export as COLMAP"),
    "model.nvm": ("NVM_V3\n", "VisualSFM"),
    "cameras.sfm": ("{}", "Meshroom"),
    "sfm_data.json": ("{}", "openMVG_main_openMVG2Colmap"),
    "reconstruction.json": ("[]", "opensfm export_colmap"),
    "reality.csv": ("#name,x,y,alt,heading,pitch,roll\n", "ns-process-data realitycapture"),
    "keyframes/x.json": ("{}", "ns-process-data polycam"),
    "pose/0.txt": ("1 0 0 0\n", "NSVF"),
    "sparse/0/images.txt": ("", "sparse of COLMAP: a model needs both cameras and images"),
    "intrinsics.yaml": ("fx: 3\n", "intrinsics.yaml looks like cameras of a format that is not read"),
    "poses/0001.txt": ("1 2 3\n", "poses/0001.txt looks like cameras"),
    "all_poses.npy": ("", "all_poses.npy looks like cameras"),
    "cams.json": ('{"frames": []}', "cams.json has `frames`, as transforms.json: pass "),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_cameras_of_other_programs_are_not_passed_over(name: str, tmp_path: Path) -> None:
    photographs(tmp_path)
    assert recognize(tmp_path) == PHOTOGRAPHS
    content, message = FOREIGN[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        recognize(tmp_path)
    assert message in str(caught.value) and str(caught.value).endswith("--kind photographs")


@pytest.mark.parametrize("name", ["notes.xml", "list.csv", "package.json", "arrays.npz", "scampi.txt"])
def test_other_files_beside_photographs_do_no_harm(name: str, tmp_path: Path) -> None:
    photographs(tmp_path)
    if name == "arrays.npz":
        np.savez(tmp_path / name, depth=np.zeros(3))
    else:
        (tmp_path / name).write_text('{"name": 1}' if name.endswith("json") else "<svg/>, 1, 2\n")
    assert recognize(tmp_path) == PHOTOGRAPHS


def test_a_file_of_another_program_is_named_as_well(tmp_path: Path) -> None:
    path = tmp_path / "cameras.xml"
    path.write_text(XML)
    with pytest.raises(InputError, match="Agisoft Metashape"):
        recognize(path)


def test_a_json_of_any_name_can_be_passed(tmp_path: Path) -> None:
    projectors = writers.write_nerfstudio(tmp_path)
    (tmp_path / "transforms.json").rename(tmp_path / "transforms_all.json")
    with pytest.raises(InputError, match=r"transforms_all\.json has `frames`"):
        recognize(tmp_path)
    source = read_source(tmp_path / "transforms_all.json")
    ours = spots.project(source.views[3].intrinsics @ source.views[3].world_to_camera, spots.POINTS)
    np.testing.assert_allclose(ours, projectors[3](spots.POINTS), atol=1e-9)


def test_inner_scenes_are_named(tmp_path: Path) -> None:
    photographs(tmp_path)
    writers.write_npz(tmp_path / "preprocessed")
    with pytest.raises(InputError, match=r"preprocessed is a scene of neus: pass .*preprocessed as SOURCE"):
        recognize(tmp_path)


def test_what_lies_beside_a_colmap_model_is_said(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="COLMAP models are read by pycolmap")
    colmap_writer.write_colmap(tmp_path)
    (tmp_path / "dense").mkdir()
    shutil.copytree(tmp_path / "sparse" / "0", tmp_path / "dense" / "sparse")  # COLMAP's own
    assert read_source(tmp_path).notes == ()
    writers.write_npz(tmp_path / "preprocessed")
    np.savez(tmp_path / "cameras_large.npz", world_mat_0=np.eye(4))
    unnamed, inner = read_source(tmp_path).notes
    assert unnamed.startswith("read COLMAP's model, but cameras_large.npz holds cameras: copy it as")
    assert inner.startswith("read COLMAP's model, but preprocessed is a scene of neus: pass ")


def test_cameras_without_their_folder_of_images_are_named(tmp_path: Path) -> None:
    writers.write_npz(tmp_path, file="cameras.npz")
    (tmp_path / "image").rename(tmp_path / "images_2")
    photographs(tmp_path / "other")
    with pytest.raises(InputError, match=r"cameras\.npz holds cameras: pass the folder .* with --images"):
        recognize(tmp_path)
    assert len(read_source(tmp_path, images=tmp_path / "images_2").views) == 6
    (tmp_path / "cameras.npz").rename(tmp_path / "cameras_large.npz")
    with pytest.raises(InputError, match=r"cameras_large\.npz holds cameras: copy it as cameras\.npz"):
        recognize(tmp_path)


def dtu(folder: Path, lights: tuple[int, ...] = (3,), views: int = 6) -> list[spots.Projector]:
    """DTU's own layout: cameras of all views, rectified images of the first `views`."""
    projectors, matrices = writers.pinhole_projectors()
    (folder / "Calibration" / "cal18").mkdir(parents=True)
    for k, matrix in enumerate(matrices):
        np.savetxt(folder / "Calibration" / "cal18" / f"pos_{k + 1:03d}.txt", matrix)
    for light in lights:
        names = [f"Rectified/scan18/rect_{k + 1:03d}_{light}_r5000.png" for k in range(views)]
        spots.write_photographs(folder, names, projectors[:views], None)
    return projectors


@pytest.mark.parametrize("views", [6, 4])
def test_dtu_is_paired_by_number(views: int, tmp_path: Path) -> None:
    projectors = dtu(tmp_path, views=views)
    with pytest.raises(InputError, match="DTU: pass Calibration/cal18 as SOURCE and --images Rectified"):
        recognize(tmp_path)
    source = read_source(tmp_path / "Calibration/cal18", images=tmp_path / "Rectified/scan18")
    assert len(source.views) == views
    for view, projector in zip(source.views, projectors, strict=False):
        ours = spots.project(view.intrinsics @ view.world_to_camera, spots.POINTS)
        np.testing.assert_allclose(ours, projector(spots.POINTS), atol=1e-6)


def test_several_lights_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    dtu(tmp_path, lights=(0, 1, 2))
    images = tmp_path / "Rectified" / "scan18"
    with pytest.raises(InputError, match=r"3 images have the number of pos_001\.txt.*folder of their own"):
        read_source(tmp_path / "Calibration/cal18", images=images)
    (tmp_path / "light1").mkdir()
    for path in images.glob("*_1_r5000.png"):
        shutil.copy(path, tmp_path / "light1")
    assert len(read_source(tmp_path / "Calibration/cal18", images=tmp_path / "light1").views) == 6


def test_numbers_from_zero_and_from_one_are_not_mixed_up(tmp_path: Path) -> None:
    """Six images 1 to 6 and six cameras 0 to 5 go in order; with seven cameras nobody can tell."""
    projectors, matrices = writers.pinhole_projectors()
    spots.write_photographs(tmp_path, [f"images/r{k + 1}.png" for k in range(6)], projectors, None)
    for k, matrix in enumerate(matrices):
        np.savetxt(tmp_path / f"pos{k}.txt", matrix)
    for view, projector in zip(read_source(tmp_path).views, projectors, strict=True):
        ours = spots.project(view.intrinsics @ view.world_to_camera, spots.POINTS)
        np.testing.assert_allclose(ours, projector(spots.POINTS), atol=1e-6)
    shutil.copy(tmp_path / "pos5.txt", tmp_path / "pos6.txt")
    with pytest.raises(InputError, match="6 images but 7 text files"):
        read_source(tmp_path)


def test_a_pose_in_a_text_file_is_no_projection(tmp_path: Path) -> None:
    projectors, _ = writers.pinhole_projectors()
    spots.write_photographs(tmp_path, [f"{k}.png" for k in range(6)], projectors, None)
    for k, pose in enumerate(spots.camera_to_world()):
        np.savetxt(tmp_path / f"{k}.txt", pose)
    with pytest.raises(InputError, match=r"is \[R \| t\] without intrinsics.*multiply it by K"):
        read_source(tmp_path)
    for k, matrix in enumerate(writers.world_to_camera()):  # the remedy
        np.savetxt(tmp_path / f"{k}.txt", np.array(writers.square(writers.pinhole_k())) @ matrix)
    ours = read_source(tmp_path).views[2]
    pixels = spots.project(ours.intrinsics @ ours.world_to_camera, spots.POINTS)
    np.testing.assert_allclose(pixels, projectors[2](spots.POINTS), atol=1e-6)


def test_masked_copies_of_blendedmvs_are_no_views(tmp_path: Path) -> None:
    writers.write_mvsnet(tmp_path, images="blended_images")
    for path in list((tmp_path / "blended_images").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}_masked.png"))
    assert len(read_source(tmp_path).views) == 6


def test_json_with_frames_of_sdfstudio_is_not_read_as_transforms(tmp_path: Path) -> None:
    writers.write_sdfstudio(tmp_path)
    assert recognize(tmp_path / "meta_data.json") == "sdfstudio"
    content = json.loads((tmp_path / "meta_data.json").read_text())
    assert len(read_source(tmp_path / "meta_data.json").views) == len(content["frames"])
