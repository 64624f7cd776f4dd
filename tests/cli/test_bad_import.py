"""Invalid sources: each is refused with one message and exit status 2, and nothing is written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.importers import colmap_writer, spots, writers

from idr.cli.import_scene import main

Spoil = Callable[[Path], list[str]]


def transforms(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A nerfstudio scene with a modified JSON file."""

    def spoil(folder: Path) -> list[str]:
        writers.write_nerfstudio(folder, folder.parent / "masks")
        path = folder / "transforms.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return ["--masks", str(folder.parent / "masks")]

    return spoil


def frame(**values: Any) -> Spoil:
    """A nerfstudio scene with modified values in its third frame."""
    return transforms(lambda content: content["frames"][2].update(values))


def scaled_matrix(factors: tuple[float, float, float]) -> Spoil:
    """A nerfstudio scene whose third frame has scaled axes."""

    def change(content: dict[str, Any]) -> None:
        matrix = np.array(content["frames"][2]["transform_matrix"])
        matrix[:3, :3] *= factors
        content["frames"][2]["transform_matrix"] = matrix.tolist()

    return transforms(change)


def images(change: Callable[[Path], object], *more: str) -> Spoil:
    """A nerfstudio scene with a modified folder."""

    def spoil(folder: Path) -> list[str]:
        arguments = transforms(lambda content: None)(folder)
        change(folder)
        return [*arguments, *more]

    return spoil


def other_size(folder: Path, shape: tuple[int, int]) -> None:
    cv2.imwrite(str(folder), cv2.resize(cv2.imread(str(folder)), shape[::-1]))


def looking_away(content: dict[str, Any]) -> None:
    """Writes OpenCV matrices to a file that should have OpenGL axes."""
    for entry in content["frames"]:
        entry["transform_matrix"] = (np.array(entry["transform_matrix"]) @ np.diag([1, -1, -1, 1])).tolist()


def masks(change: Callable[[Path], object]) -> Spoil:
    return images(lambda folder: change(folder.parent / "masks"))


def no_masks(*more: str) -> Spoil:
    """Removes the masks of a nerfstudio scene."""

    def spoil(folder: Path) -> list[str]:
        writers.write_nerfstudio(folder)
        return list(more)

    return spoil


def mask_program(text: str) -> Spoil:
    def spoil(folder: Path) -> list[str]:
        writers.write_nerfstudio(folder)
        (folder.parent / "program.py").write_text(text)
        return ["--mask_command", f"{sys.executable} {folder.parent / 'program.py'} {{image}} {{mask}}"]

    return spoil


def par(change: Callable[[str], str]) -> Spoil:
    """A Middlebury scene with a modified par file."""

    def spoil(folder: Path) -> list[str]:
        writers.write_middlebury(folder, folder.parent / "masks")
        path = folder / "ball_par.txt"
        path.write_text(change(path.read_text()))
        return ["--masks", str(folder.parent / "masks")]

    return spoil


def npz(change: Callable[[dict[str, np.ndarray]], object], file: str = "cameras_sphere.npz") -> Spoil:
    """A NeuS scene with modified matrices."""

    def spoil(folder: Path) -> list[str]:
        writers.write_npz(folder, file=file)
        arrays = dict(np.load(folder / file))
        change(arrays)
        np.savez(folder / file, **arrays)
        return []

    return spoil


def colmap(change: Callable[[Path], object], *more: str) -> Spoil:
    """A COLMAP scene with a modified folder."""

    def spoil(folder: Path) -> list[str]:
        pytest.importorskip("pycolmap", reason="needs pycolmap")
        colmap_writer.write_colmap(folder, folder.parent / "masks")
        change(folder)
        return ["--masks", str(folder.parent / "masks"), *more]

    return spoil


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def two_kinds(folder: Path) -> list[str]:
    writers.write_npz(folder, file="cameras.npz")
    writers.write_middlebury(folder)
    return []


def few_texts(folder: Path) -> list[str]:
    writers.write_projections(folder, folder.parent / "masks")
    (folder / "v3.txt").unlink()
    return ["--masks", str(folder.parent / "masks")]


def singular_text(folder: Path) -> list[str]:
    writers.write_projections(folder, folder.parent / "masks")
    (folder / "v3.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 0 1\n")
    return ["--masks", str(folder.parent / "masks")]


def empty_folder(folder: Path) -> list[str]:
    folder.mkdir()
    return []


def uniform_images(folder: Path) -> list[str]:
    writers.write_nerfstudio(folder)
    for path in (folder / "images").iterdir():
        cv2.imwrite(str(path), np.full((spots.HEIGHT, spots.WIDTH, 3), 90, np.uint8))
    return ["--masks", "auto"]


def far_points(folder: Path) -> list[str]:
    writers.write_nerfstudio(folder)
    np.save(folder.parent / "points.npy", np.random.default_rng(0).random((50, 3)) + [80, 0, 0])
    return ["--masks", "auto", "--points", str(folder.parent / "points.npy")]


def two_points(folder: Path) -> list[str]:
    writers.write_nerfstudio(folder)
    (folder.parent / "points.txt").write_text("1 2 3\n4 5 6\n")
    return ["--masks", "auto", "--points", str(folder.parent / "points.txt")]


def without_images(folder: Path) -> None:
    for k in range(1, 5):
        (folder / "images" / f"frame_{k}.png").unlink()


WRONG: dict[str, tuple[Spoil, str]] = {
    "source missing": (lambda folder: [], r"no file or folder .*source"),
    "unknown format": (empty_folder, r"has no known format; expected one of neus: cameras_sphere\.npz"),
    "ambiguous format": (two_kinds, r"may be idr or middlebury; choose one, such as --kind idr"),
    "wrong --kind": (no_masks("--kind", "middlebury"), r"no \*_par\.txt in"),
    "invalid JSON": (
        images(lambda f: (f / "transforms.json").write_text('{"frames": [')),
        r"is not valid JSON",
    ),
    "no frames": (transforms(lambda c: c.pop("frames")), r"has no list `frames`"),
    "no file_path": (transforms(lambda c: c["frames"][2].pop("file_path")), r"frame 2 has no `file_path`"),
    "most images missing": (images(without_images), r"4 of 6 images do not exist .*--images"),
    "duplicate image": (frame(file_path="images/frame_1.png"), r"two views use the same photograph"),
    "no focal length": (
        transforms(lambda c: [c.pop(k) for k in ("fl_x", "fl_y")]),
        r"has no focal length; expected fl_x",
    ),
    "negative focal length": (frame(fl_x=-5.0), r"focal lengths -5 and 146; expected positive"),
    "angle in degrees": (
        transforms(lambda c: (c.pop("fl_x"), c.update(camera_angle_x=45.0))),
        r"camera_angle_x is 45\.0; expected radians",
    ),
    "3 x 3 matrix": (frame(transform_matrix=np.eye(3).tolist()), r"shape \(3, 3\); expected 4 x 4"),
    "matrix with NaN": (
        frame(transform_matrix=np.full((4, 4), np.nan).tolist()),
        r"non-finite values; remove this",
    ),
    "scaled rotation": (
        scaled_matrix((2, 2, 1)),
        r"is not a rotation \(R\^T R differs from the identity by 3\)",
    ),
    "mirrored rotation": (scaled_matrix((1, 1, -1)), r"is mirrored \(determinant -1\)"),
    "unknown camera model": (
        frame(camera_model="EQUIRECTANGULAR"),
        r"camera_model EQUIRECTANGULAR; expected",
    ),
    "k4 for a non-fisheye lens": (frame(k4=0.1), r"k4 = 0\.1 for a non-fisheye lens"),
    "distortion folds over": (frame(k1=-300.0), r"folds the image over"),
    "wrong camera axes": (transforms(looking_away), r"lies behind camera.*other axes"),
    "wrong aspect ratio": (
        images(lambda f: other_size(f / "images" / "frame_3.png", (40, 64))),
        r"64 x 40 pixels, but its camera was calibrated for 128 x 96, another aspect ratio",
    ),
    "two sources of masks": (
        images(lambda f: 0, "--mask_command", "a {image} {mask}"),
        r"got both --masks and --mask_command",
    ),
    "unreadable image": (
        images(lambda f: (f / "images" / "frame_3.png").write_bytes(b"\x89PNG\r\n")),
        r"frame_3\.png cannot be read as an image",
    ),
    "no masks": (no_masks(), r"has neither masks nor an alpha channel; expected --masks FOLDER"),
    "no alpha channel": (no_masks("--masks", "alpha"), r"has no alpha channel to use as mask"),
    "missing mask": (masks(lambda f: (f / "frame_4.png").unlink()), r"no mask for frame_4\.png \(1 of 6"),
    "mask size differs": (
        masks(lambda f: other_size(f / "frame_4.png", (30, 40))),
        r"frame_4\.png has 40 x 30 pixels, its image frame_4\.png 128 x 96",
    ),
    "empty mask": (
        masks(lambda f: cv2.imwrite(str(f / "frame_4.png"), np.zeros((96, 128)))),
        r"mask 3 \(0003\.png \(images/frame_4\.png\)\) marks no pixel as object",
    ),
    "inverted masks": (
        masks(lambda f: [cv2.imwrite(str(p), 255 - cv2.imread(str(p), 0)) for p in sorted(f.iterdir())]),
        r"border is marked as object .*: invert the masks",
    ),
    "mask command without placeholder": (no_masks("--mask_command", "prog {image}"), r"lacks \{mask\}"),
    "mask command not found": (
        no_masks("--mask_command", "no-such-program {image} {mask}"),
        r"no-such-program cannot be started",
    ),
    "mask command fails": (
        mask_program("raise SystemExit('no weights found')"),
        r"exited with status 1 on 0000\.png: no weights found",
    ),
    "mask command writes no mask": (
        mask_program(""),
        r"exited with status 0 but wrote no mask for 0000\.png",
    ),
    "mask command writes another size": (
        mask_program("import sys, cv2, numpy as np; cv2.imwrite(sys.argv[2], np.ones((9, 7)))"),
        r"wrote a mask of 7 x 9 pixels for 0000\.png of 128 x 96",
    ),
    "no contrast to the background": (uniform_images, r"object and background could not be separated"),
    "points in another frame": (far_points, r"view \d+ sees 0 of 50 sparse points"),
    "too few points": (two_points, r"shape \(2, 3\); expected 10 or more points"),
    "no points for --sphere points": (
        images(lambda f: 0, "--sphere", "points"),
        r"source has no sparse points",
    ),
    "no scale_mat for --sphere source": (
        images(lambda f: 0, "--sphere", "source"),
        r"the source has no scale_mat",
    ),
    "--downscale too large": (images(lambda f: 0, "--downscale", "100"), r"leaves no pixel of"),
    "par file truncated": (par(lambda t: t.rsplit("\n", 2)[0]), r"announces 6 images and lists 5"),
    "par file without count": (
        par(lambda t: t.split("\n", 1)[1]),
        r"does not begin with the number of images",
    ),
    "par file with words": (
        par(lambda t: t.replace("150.0", "abc", 1)),
        r"ball0001\.png: .*'abc'; expected numbers",
    ),
    "par file with a short line": (
        par(lambda t: t.rsplit(" ", 1)[0]),
        r"ball0006\.png is followed by 20 numbers",
    ),
    "npz lacks a camera": (npz(lambda a: a.pop("world_mat_5")), r"lacks world_mat_5"),
    "npz with a singular matrix": (
        npz(lambda a: a.update(world_mat_2=np.diag([1.0, 1, 0, 1]))),
        r"world_mat_2: .*singular",
    ),
    "missing projection file": (few_texts, r"6 images but 5 text files with a camera"),
    "singular projection": (singular_text, r"camera of v3\.png: .*singular"),
    "COLMAP images missing": (
        colmap(lambda f: [path.unlink() for path in list((f / "images").rglob("*.png"))[:4]]),
        r"sparse/0: 4 of 6 images do not exist",
    ),
    "COLMAP image folder missing": (
        colmap(lambda f: (f / "images").rename(f / "pictures")),
        r"no folder images/ near the COLMAP model.*--images",
    ),
    "unreadable COLMAP model": (
        colmap(lambda f: (f / "sparse/0/cameras.txt").write_text("1 PINHOLE 128\n")),
        r"cannot be read as a COLMAP model|no COLMAP model",
    ),
    "spherical COLMAP camera": (
        colmap(lambda f: (f / "sparse/0/cameras.txt").write_text("1 EQUIRECTANGULAR 128 96 128 96\n")),
        r"is EQUIRECTANGULAR; expected a camera with an image plane",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_invalid_source_is_refused_with_one_message_and_nothing_is_written(
    what: str, tmp_path: Path, capsys
) -> None:
    spoil, message = WRONG[what]
    arguments = spoil(tmp_path / "source")
    out = tmp_path / "data" / "mine" / "scan0"
    capsys.readouterr()
    assert main([str(tmp_path / "source"), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not out.exists() and (not out.parent.exists() or list(out.parent.iterdir()) == [])


@pytest.mark.parametrize(
    ("out", "message"),
    [(name, "expected a folder named scan<N>") for name in ("mine", "scan1x", "scan007", "scan²")],
)
def test_out_must_be_a_scan(out: str, message: str, tmp_path: Path, capsys) -> None:
    writers.write_nerfstudio(tmp_path / "source")
    assert main([str(tmp_path / "source"), "--out", str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err


def test_a_foreign_folder_is_not_replaced(tmp_path: Path, capsys) -> None:
    writers.write_npz(tmp_path / "source")
    out = tmp_path / "scan1"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    assert main([str(tmp_path / "source"), "--out", str(out), "--force"]) == 2
    assert "was not written by an import" in capsys.readouterr().err
    assert (out / "thesis.tex").read_text() == "years"


def test_a_file_as_out_is_refused(tmp_path: Path, capsys) -> None:
    writers.write_npz(tmp_path / "source")
    (tmp_path / "scan1").write_text("x")
    assert main([str(tmp_path / "source"), "--out", str(tmp_path / "scan1"), "--force"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_missing_pycolmap_names_the_install_command(tmp_path: Path, monkeypatch, capsys) -> None:
    colmap_writer.write_colmap(tmp_path / "source")
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert main([str(tmp_path / "source"), "--out", str(tmp_path / "scan1")]) == 2
    assert "pip install 'idr-surface[colmap]'" in capsys.readouterr().err
