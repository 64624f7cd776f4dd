"""COLMAP models as users have them: several, without points, truncated, with blanks in names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from idr.errors import InputError
from idr.importers.colmap_files import find_models
from idr.importers.recognize import read_source
from tests.importers import colmap_writer, spots

pycolmap = pytest.importorskip("pycolmap", reason="COLMAP models are read by pycolmap")


def misses(folder: Path, projectors: list[spots.Projector]) -> float:
    """Largest distance between our projections and the writer's, whose views are numbered by their names."""
    views = read_source(folder).views
    differences = [
        spots.project(view.intrinsics @ view.world_to_camera, spots.POINTS)
        - projectors[int(view.image.stem.split()[-1][0])](spots.POINTS)
        for view in views
    ]
    assert len(views) == len(projectors)
    return float(np.abs(differences).max())


@pytest.mark.parametrize("binary", [False, True])
def test_points_are_not_needed(binary: bool, tmp_path: Path) -> None:
    projectors = colmap_writer.write_colmap(tmp_path, binary=binary)
    next((tmp_path / "sparse" / "0").glob("points3D.*")).unlink()
    assert misses(tmp_path, projectors) < 1e-6
    assert read_source(tmp_path).points is None


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_truncated_files_are_refused_and_do_not_hang(part: str, share: float, tmp_path: Path) -> None:
    """pycolmap never returns from half a `points3D.bin`."""
    colmap_writer.write_colmap(tmp_path, binary=True)
    path = tmp_path / "sparse" / "0" / f"{part}.bin"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"{part}\.bin is truncated or corrupted.*copy the model again"):
        read_source(tmp_path)
    path.write_bytes(content)  # the remedy
    assert len(read_source(tmp_path).views) == 6


def test_a_count_beyond_the_file_is_refused(tmp_path: Path) -> None:
    colmap_writer.write_colmap(tmp_path, binary=True)
    path = tmp_path / "sparse" / "0" / "points3D.bin"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(InputError, match=r"points3D\.bin is truncated or corrupted"):
        read_source(tmp_path)


@pytest.mark.parametrize("model", list(colmap_writer.MODELS))
def test_binary_files_of_all_camera_models_are_whole(model: str, tmp_path: Path) -> None:
    colmap_writer.write_colmap(tmp_path, model=model, binary=True)
    assert len(read_source(tmp_path).views) == 6


def test_names_with_blanks_and_brackets_in_text_models(tmp_path: Path) -> None:
    projectors = colmap_writer.write_colmap(tmp_path)
    for k in (0, 1, 4):
        old = tmp_path / "images" / f"cam{k % 2}" / f"{k}.png"
        old.rename(old.with_name(f"my mug [v2] ({k}) {k}.png"))
        table = tmp_path / "sparse" / "0" / "images.txt"
        table.write_text(table.read_text().replace(f"/{k}.png", f"/my mug [v2] ({k}) {k}.png"))
    assert misses(tmp_path, projectors) < 1e-6


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    projectors = colmap_writer.write_colmap(tmp_path)
    for path in (tmp_path / "sparse" / "0").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert misses(tmp_path, projectors) < 1e-6


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Text models are read; of binary ones, pycolmap cannot give the name."""
    projectors = colmap_writer.write_colmap(tmp_path)
    table = tmp_path / "sparse" / "0" / "images.txt"
    table.write_bytes(table.read_bytes().replace(b"cam0/2.png", b"cam0/\xfc 2.png"))
    old = tmp_path / "images" / "cam0" / "2.png"
    old.rename(old.with_name(b"\xfc 2.png".decode("utf-8", "surrogateescape")))
    assert misses(tmp_path, projectors) < 1e-6
    pycolmap.Reconstruction(str(table.parent)).write_binary(str(table.parent))
    with pytest.raises(InputError, match="the name of image 3 is not UTF-8; export the model as text"):
        read_source(tmp_path)


def test_of_several_models_the_largest_is_read_and_said(tmp_path: Path) -> None:
    projectors = colmap_writer.write_colmap(tmp_path)
    sparse = tmp_path / "sparse"
    shutil.copytree(sparse / "0", sparse / "1")
    shutil.copytree(sparse / "0", sparse / "2")
    for name, count in (("0", 3), ("2", 4)):
        lines = (sparse / name / "images.txt").read_text().splitlines()
        (sparse / name / "images.txt").write_text("\n".join(lines[: 2 * count]) + "\n")
    assert [path.name for path in find_models(tmp_path)] == ["1", "2", "0"]
    assert misses(tmp_path, projectors) < 1e-6
    (note,) = read_source(tmp_path).notes
    assert "model with most images (6)" in note and "2 with 4, 0 with 3" in note
    assert len(read_source(sparse / "2").views) == 4  # the remedy
    shutil.rmtree(sparse / "0")
    assert [path.name for path in find_models(tmp_path)] == ["1", "2"]
    assert find_models(sparse) == find_models(tmp_path)


def test_images_that_were_deleted_are_left_out(tmp_path: Path) -> None:
    colmap_writer.write_colmap(tmp_path)
    (tmp_path / "images" / "cam0" / "2.png").unlink()
    source = read_source(tmp_path)
    assert [view.name for view in source.views] == [f"cam{k % 2}/{k}.png" for k in (0, 4, 1, 3, 5)]
    assert source.notes[0].startswith("1 of 6 views left out")
