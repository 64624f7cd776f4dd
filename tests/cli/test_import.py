"""The import command: mask sources, image sizes, unit spheres, overwriting, interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.importers import colmap_writer, spots, writers

from idr.cli import train
from idr.cli.import_scene import main
from idr.conf.build import build_dataset
from idr.conf.files import load_conf
from idr.datasets.camera_files import read_cameras
from idr.datasets.points import POINTS_FILE, read_points
from idr.datasets.scene_dataset import SceneDataset
from idr.errors import InputError
from idr.importers import scene_folder
from idr.preprocess.scene_check import check_scene

CODE = Path(__file__).parents[2] / "code"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A nerfstudio scene of six views, with a folder of masks next to it."""
    writers.write_nerfstudio(tmp_path / "source", tmp_path / "masks")
    return tmp_path / "source"


def scene_of(source: Path) -> Path:
    return source.parent / "data" / "mine" / "scan7"


def call(source: Path, *more: str) -> int:
    return main([str(source), "--out", str(scene_of(source)), *more])


def with_masks(source: Path) -> list[str]:
    return ["--masks", str(source.parent / "masks")]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_imported_scene_can_be_trained_on(source: Path, capsys) -> None:
    assert call(source, *with_masks(source)) == 0
    scene = scene_of(source)
    assert sorted(p.name for p in scene.iterdir()) == [
        ".idr_files.json",
        "cameras.npz",
        "image",
        "import.json",
        "mask",
        "masks.png",
        "scene_report.html",
    ]
    dataset = SceneDataset(False, "mine", [96, 128], 7, data_root=str(scene.parents[1]))
    assert len(dataset) == 6
    check = check_scene(scene, "cameras.npz")
    (warning,) = check.findings
    assert warning.text.startswith("6 views: fewer than 8")
    assert not any(view.warnings for view in check.checks)
    assert min(view.hull_iou for view in check.checks) > 0.9
    record = json.loads((scene / "import.json").read_text())
    assert record["kind"] == "transforms" and record["views"][5] == {
        "image": "0005.png",
        "source": "images/frame_6.png",
    }
    output = capsys.readouterr().out
    assert f"WARNING: {warning}" in output and f"report: open {scene / 'scene_report.html'}" in output
    page = (scene / "scene_report.html").read_text()
    assert page.count("<figure>") == 6 and "<h1>source</h1>" in page and warning.remedy in page
    assert "conf: dataset { data_dir = mine, img_res = [96, 128] }" in output
    assert "--scan_id 7 --set dataset.data_dir=mine --set 'dataset.img_res=[96, 128]'" in output


def test_as_a_process(source: Path, warm_python: Path) -> None:
    command = [str(warm_python), "preprocess/import_scene.py", str(source), "--out", str(scene_of(source))]
    done = subprocess.run([*command, *with_masks(source)], cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (scene_of(source) / "cameras.npz").is_file()


def pasted(line: str) -> list[str]:
    """Returns the words that bash reads from a printed command."""
    program = f"printf '%s\\0' {line}"
    echo = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return echo.stdout.split("\0")[:-1]


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("folder", ["mine", "my mug's [2]", 'a "b" $HOME;c', "true", "2 = {x}"])
def test_the_printed_commands_can_be_pasted(
    folder: str, gpu: bool, source: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    scene = source.parent / "all data" / folder / "scan7"
    assert main([str(source), "--out", str(scene), *with_masks(source)]) == 0
    check, training = (pasted(line) for line in capsys.readouterr().out.splitlines()[-2:])
    assert check == ["idr", "check", "--source_dir", str(scene)]
    assert training[:2] == ["idr", "train"]
    arguments = train.build_parser().parse_args(training[2:])
    assert (arguments.conf, arguments.nepoch) == (
        ("./confs/dtu_fixed_cameras.conf", 2000) if gpu else ("./confs/photos.conf", 480)
    )
    conf = load_conf(arguments.conf, arguments.overrides)
    dataset = build_dataset(conf, False, arguments.scan_id, arguments.data_root)
    assert dataset.instance_dir == scene and len(dataset) == 6


def test_alpha_masks_do_not_bleed_into_colors(tmp_path: Path) -> None:
    projectors = writers.write_blender(tmp_path / "source")
    for k, projector in enumerate(projectors):
        path = tmp_path / "source" / "train" / f"r_{k}.png"
        alpha = spots.silhouette(projector)
        colors = np.where(alpha[..., None] > 0, np.uint8(200), np.uint8(0)).repeat(3, axis=2)
        cv2.imwrite(str(path), np.dstack([colors, alpha]))
    assert call(tmp_path / "source", "--downscale", "3") == 0
    scene = scene_of(tmp_path / "source")
    for k, projector in enumerate(projectors):
        image = cv2.imread(str(scene / "image" / f"{k:04d}.png"))
        mask = cv2.imread(str(scene / "mask" / f"{k:04d}.png"), 0)
        assert image.shape == (32, 42, 3) and set(np.unique(mask)) == {0, 255}
        assert (image[mask > 0] == 200).all()  # no black from transparent pixels at the edges
        whole = spots.silhouette(projector)[:96, :126].reshape(32, 3, 42, 3).mean(axis=(1, 3))
        assert (mask[whole > 130] == 255).all() and (mask[whole < 125] == 0).all()


def test_masks_are_undistorted_like_images(tmp_path: Path) -> None:
    writers.write_lens(
        tmp_path / "source", tmp_path / "masks", "OPENCV", {"k1": -0.3, "k2": 0.05, "p1": 0, "p2": 0}
    )
    assert call(tmp_path / "source", *with_masks(tmp_path / "source")) == 0
    scene = scene_of(tmp_path / "source")
    cameras = np.load(scene / "cameras.npz")
    for k in range(6):
        mask = cv2.imread(str(scene / "mask" / f"{k:04d}.png"), 0)
        truth = spots.silhouette(lambda points, k=k: spots.project(cameras[f"world_mat_{k}"], points))
        assert ((mask > 0) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum() > 0.97


def test_an_external_segmentation_program(source: Path, tmp_path: Path) -> None:
    program = tmp_path / "segment it.py"
    program.write_text(
        "import sys, cv2, numpy as np\n"
        "image = cv2.imread(sys.argv[1], 0)\n"
        "mask = np.zeros_like(image)\n"
        "cv2.circle(mask, (image.shape[1] // 2, image.shape[0] // 2), 33, 255, -1)\n"
        "cv2.imwrite(sys.argv[2], mask)\n"
    )
    assert call(source, "--mask_command", f"{sys.executable} '{program}' {{image}} {{mask}}") == 0
    masks = [cv2.imread(str(p), 0) for p in sorted((scene_of(source) / "mask").iterdir())]
    assert len(masks) == 6 and all(mask[48, 64] == 255 and mask[2, 2] == 0 for mask in masks)


def test_images_resized_after_calibration(source: Path) -> None:
    for path in (source / "images").iterdir():
        cv2.imwrite(
            str(path), cv2.resize(cv2.imread(str(path)), None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        )
    masks = source.parent / "masks"
    for path in masks.iterdir():
        cv2.imwrite(
            str(path), cv2.resize(cv2.imread(str(path)), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        )
    assert call(source, *with_masks(source)) == 0
    assert spots.largest_miss(scene_of(source), window=8) < 0.1
    assert "2 times the calibrated size" in (scene_of(source) / "import.json").read_text()


def test_spheres(tmp_path: Path) -> None:
    source = tmp_path / "source"
    writers.write_npz(source)
    assert call(source) == 0
    cameras = read_cameras(scene_of(source) / "cameras.npz", 6)
    assert np.allclose(cameras.scale_mats, np.diag([1.5, 1.5, 1.5, 1]))  # the source's own is kept
    assert not (scene_of(source) / POINTS_FILE).exists()
    assert call(source, "--force", "--sphere", "hull") == 0
    hull = read_cameras(scene_of(source) / "cameras.npz", 6).scale_mats[0]
    assert np.abs(hull[:3, 3]).max() < 0.1 and 1.8 < hull[0, 0] < 2.3  # for a ball 3 * 3/4 * 0.9 = 2.03
    shell = np.random.default_rng(0).standard_normal((200, 3))
    shell *= 0.85 / np.linalg.norm(shell, axis=1, keepdims=True)
    np.savetxt(tmp_path / "points.txt", np.vstack([shell, np.full((20, 3), 9.0)]))
    assert call(source, "--force", "--sphere", "points", "--points", str(tmp_path / "points.txt")) == 0
    sphere = read_cameras(scene_of(source) / "cameras.npz", 6).scale_mats[0]
    assert np.abs(sphere[:3, 3]).max() < 0.1 and 1.8 < sphere[0, 0] < 2.0  # 2.25 * 0.85, without outliers
    # The points on the object are kept for loss.sparse_points and eval.py --points.
    np.testing.assert_allclose(read_points(scene_of(source) / POINTS_FILE).points, shell)


def test_a_scene_is_not_replaced_without_force(source: Path, capsys) -> None:
    assert call(source, *with_masks(source)) == 0
    before = content(scene_of(source))
    assert call(source, *with_masks(source), "--downscale", "2") == 2
    assert "add --force" in capsys.readouterr().err
    assert content(scene_of(source)) == before
    assert call(source, *with_masks(source), "--downscale", "2", "--force") == 0
    assert cv2.imread(str(scene_of(source) / "image" / "0000.png")).shape == (48, 64, 3)


def test_force_keeps_foreign_files(source: Path, capsys) -> None:
    assert call(source, *with_masks(source)) == 0
    (scene_of(source) / "notes.txt").write_text("mine")
    assert call(source, *with_masks(source), "--force") == 2
    assert "also has notes.txt" in capsys.readouterr().err
    assert (scene_of(source) / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_import_leaves_no_scene_and_keeps_the_old_one(
    source: Path, force: bool, monkeypatch
) -> None:
    from idr.importers import scene_folder

    if force:
        assert call(source, *with_masks(source)) == 0
    before = content(scene_of(source).parent) if force else {}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_folder, "draw_sheet", stop)  # near the end, when nearly everything is written
    assert call(source, *with_masks(source), "--force") == 130
    parent = scene_of(source).parent
    assert (content(parent) if parent.exists() else {}) == before
    assert not parent.exists() or [p.name for p in parent.iterdir()] == (["scan7"] if force else [])


def test_imports_are_reproducible(source: Path) -> None:
    assert call(source, *with_masks(source)) == 0
    first = content(scene_of(source))
    assert call(source, *with_masks(source), "--force") == 0
    assert content(scene_of(source)) == first


def test_points_of_a_model_describe_the_scene_and_those_of_the_flag_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap", reason="needs the extra `colmap`")
    calls: list[tuple[object, object]] = []

    def make_masks(*arguments: object) -> None:
        points, scene = arguments[3:5]
        calls.append((points, scene))
        raise InputError("stop here")

    monkeypatch.setattr(scene_folder, "make_masks", make_masks)
    colmap_writer.write_colmap(tmp_path / "source")
    on_object = np.random.default_rng(0).standard_normal((20, 3))
    np.savetxt(tmp_path / "points.txt", on_object)
    for more in ([], ["--points", str(tmp_path / "points.txt")]):
        assert call(tmp_path / "source", "--masks", "auto", *more) == 2
    (no_points, scene_points), (object_points, same_points) = calls
    assert no_points is None
    np.testing.assert_allclose(object_points, on_object)
    assert np.shape(scene_points) == np.shape(same_points) == (12, 3)
