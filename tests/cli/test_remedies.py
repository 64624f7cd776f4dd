"""What messages advise helps: each fault is refused or found, its remedy followed, and the scene accepted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.importers import colmap_writer, spots, writers

from idr.cli import check_scene, doctor, import_scene, preprocess_cameras
from idr.datasets.scene_dataset import SceneDataset
from idr.errors import USER_ERRORS

Change = Callable[[Path], object]
Matrices = Callable[[str, np.ndarray], np.ndarray | None]


def edit(change: Matrices, file: str = "cameras.npz") -> Change:
    """Changes each matrix of a camera file; None removes it."""

    def run(folder: Path) -> None:
        with np.load(folder / file, allow_pickle=True) as old:
            arrays = {name: change(name, old[name]) for name in old.files}
        np.savez(folder / file, **{name: array for name, array in arrays.items() if array is not None})

    return run


def of(prefix: str, change: Callable[[np.ndarray], np.ndarray], number: str = "") -> Matrices:
    return lambda name, matrix: change(matrix) if name.startswith(f"{prefix}_{number}") else matrix


def scene(folder: Path) -> Path:
    """A data folder of six views, `data/mine/scan1` below the test's folder."""
    target = folder / "data" / "mine" / "scan1"
    writers.write_npz(target, file="cameras.npz")
    edit(of("scale_mat", lambda _: np.diag([2.0, 2.0, 2.0, 1.0])))(target)
    return target


def train(folder: Path, **options: object) -> None:
    """Opens the scene as training does."""
    arguments = {"data_root": str(folder.parents[1]), "img_res": [96, 128]} | options
    SceneDataset(False, "mine", scan_id=int(folder.name[4:]), **arguments)  # type: ignore[arg-type]


def message_of(call: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """What a call or command says, empty if it accepts the scene."""
    capsys.readouterr()
    try:
        status = call()
    except USER_ERRORS as error:
        return str(error)
    said = capsys.readouterr()
    return said.err + said.out if status else ""


def preprocess(folder: Path) -> None:
    assert preprocess_cameras.main(["--source_dir", str(folder)]) == 0


def remove_view(number: int) -> Change:
    def run(folder: Path) -> None:
        for kind in ("image", "mask"):
            (folder / kind / f"{number:03d}.png").unlink()

    return run


def imported(folder: Path, *more: str) -> Path:
    out = folder.parent / "scan2"
    assert import_scene.main([str(folder), "--out", str(out), "--kind", "idr", *more]) == 0
    return out


def size_of_one(folder: Path) -> None:
    for kind in ("image", "mask"):
        path = folder / kind / "002.png"
        cv2.imwrite(str(path), cv2.imread(str(path))[:80])


def empty_mask(folder: Path) -> None:
    cv2.imwrite(str(folder / "mask" / "002.png"), np.zeros((96, 128), np.uint8))


def extra_camera(folder: Path) -> None:
    remove_view(3)(folder)


def without_k(matrix: np.ndarray) -> np.ndarray:
    """[R | t] of a projection of either sign and any scale."""
    return K_INVERSE @ (matrix / np.linalg.norm(matrix[2, :3]) * np.sign(np.linalg.det(matrix)))


@dataclass(frozen=True)
class Case:
    """A fault of a data folder, a part of the message, and what it advises; the result is trained on."""

    spoil: Change
    message: str
    remedy: Change


K_INVERSE = np.linalg.inv(np.array(writers.square(writers.pinhole_k())))
DATA = {
    "scale_mat is no similarity": Case(
        edit(of("scale_mat", lambda m: m @ np.diag([1, 2, 1, 1.0]))), "run preprocess_cameras.py", preprocess
    ),
    "no scale_mat": Case(
        edit(lambda name, m: None if name.startswith("scale") else m), "run preprocess_cameras.py", preprocess
    ),
    "scale_mats differ": Case(
        edit(of("scale_mat", lambda m: m @ np.diag([1.2, 1.2, 1.2, 1]), "3")),
        "differ between views.*run preprocess_cameras.py",
        preprocess,
    ),
    "camera inside the sphere": Case(
        edit(of("scale_mat", lambda m: m @ np.diag([3, 3, 3, 1.0]))), "run preprocess_cameras.py", preprocess
    ),
    "object arrays": Case(
        edit(lambda name, m: m.astype(object)),
        r"a = np\.load\(path, allow_pickle=True\); np\.savez\(path, \*\*\{.*\}\)$",
        lambda folder: subprocess.run(
            [
                sys.executable,
                "-c",
                f"import numpy as np; path = '{folder / 'cameras.npz'}'; "
                "a = np.load(path, allow_pickle=True); "
                "np.savez(path, **{k: np.asarray(a[k].tolist(), float) for k in a.files})",
            ],
            check=True,
        ),
    ),
    "another size": Case(size_of_one, "import the folder with import_scene.py --kind idr", imported),
    "empty mask": Case(
        empty_mask,
        "remove it with its image and import the folder again with import_scene.py",
        lambda folder: (remove_view(2)(folder), imported(folder))[1],
    ),
    "a camera without image": Case(extra_camera, "import the folder with import_scene.py", imported),
    "no intrinsics": Case(
        edit(of("world_mat", without_k)),
        r"write world_mat_i = K \[R \| t\]",
        edit(of("world_mat", lambda m: np.array(writers.square(writers.pinhole_k())) @ m)),
    ),
}


@pytest.mark.parametrize("what", DATA)
def test_a_data_folder_can_be_trained_on_after_the_remedy(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, case = scene(tmp_path), DATA[what]
    train(folder)
    case.spoil(folder)
    message = message_of(lambda: train(folder), capsys)
    assert re.search(case.message, message), message
    result = case.remedy(folder)
    result = result if isinstance(result, Path) else folder
    height, width = cv2.imread(str(next((result / "image").iterdir()))).shape[:2]
    train(result, img_res=[height, width])
    if what != "another size":  # whose spots may be cut off
        assert spots.largest_miss(result) < 0.05


@pytest.mark.parametrize(
    ("holdout", "message", "remedy"),
    [
        ([29], r"or hold out none with --set dataset\.holdout=\[\]", []),
        ("every 1", r"expected a list of images .*, `every 8`, or a share such as `10%`", "10%"),
        (list(range(6)), r"every image is held out.*--set dataset\.holdout=\[\]", []),
    ],
)
def test_holdout(
    holdout: object, message: str, remedy: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = scene(tmp_path)
    assert re.search(message, message_of(lambda: train(folder, holdout=holdout), capsys))
    train(folder, holdout=remedy)


def swap(signs: tuple[int, int, int]) -> Matrices:
    """Flips the camera's axes: K diag(signs) K^-1 P."""
    k = np.array(writers.square(writers.pinhole_k()))
    return of("world_mat", lambda m: k @ np.diag([*signs, 1.0]) @ np.linalg.inv(k) @ m)


FOUND = {
    "masks-inverted": (
        lambda f: [cv2.imwrite(str(p), 255 - cv2.imread(str(p))) for p in sorted((f / "mask").iterdir())],
        lambda f, _: [cv2.imwrite(str(p), 255 - cv2.imread(str(p))) for p in sorted((f / "mask").iterdir())],
    ),
    "images-resized": (
        edit(of("world_mat", lambda m: np.diag([2.0, 2.0, 1, 1]) @ m)),
        lambda f, text: edit(
            of("world_mat", lambda m: np.diag([*map(float, re.findall(r"by ([0-9.]+)", text)[:2]), 1, 1]) @ m)
        )(f),
    ),
    "object-outside-sphere": (
        edit(of("scale_mat", lambda m: m @ np.diag([0.3, 0.3, 0.3, 1]))),
        lambda f, _: preprocess(f),
    ),
    "mirrored-cameras": (
        edit(of("world_mat", lambda m: m @ np.diag([1.0, -1, 1, 1]))),
        lambda f, _: (edit(of("world_mat", lambda m: m @ np.diag([1, 1, -1.0, 1])))(f), preprocess(f)),
    ),
    "wrong-axes": (edit(swap((1, -1, -1))), lambda f, _: edit(swap((1, -1, -1)))(f)),
    "no-intrinsics": (
        edit(of("world_mat", without_k)),
        lambda f, _: edit(of("world_mat", lambda m: np.array(writers.square(writers.pinhole_k())) @ m))(f),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_doctor_is_content_after_its_remedy(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = scene(tmp_path)
    spoil, remedy = FOUND[name]
    spoil(folder)
    text = message_of(lambda: doctor.main([str(folder)]), capsys)
    assert text.startswith(f"{name}: "), text
    remedy(folder, text)
    assert message_of(lambda: doctor.main([str(folder)]), capsys) == ""
    train(folder)


def colmap(folder: Path) -> None:
    pytest.importorskip("pycolmap", reason="COLMAP models are read by pycolmap")
    colmap_writer.write_colmap(folder, folder.parent / "masks")
    (folder / "images").rename(folder / "pictures")


def two_kinds(folder: Path) -> None:
    writers.write_npz(folder, file="cameras.npz")
    writers.write_middlebury(folder)


def masks_of_another_number(folder: Path) -> None:
    writers.write_npz(folder)
    (folder / "mask").rename(folder.parent / "masks")
    (folder / "mask").mkdir()
    cv2.imwrite(str(folder / "mask" / "0.png"), np.zeros((9, 9)))


def large_sphere(folder: Path) -> None:
    writers.write_npz(folder)
    edit(of("scale_mat", lambda m: m @ np.diag([2.7, 2.7, 2.7, 1])), "cameras_sphere.npz")(folder)


def sphere_elsewhere(folder: Path) -> None:
    """Centers of the spheres behind the cameras, which are sound."""
    writers.write_npz(folder)
    far = np.diag([1.0, 1, 1, 1])
    far[:3, 3] = 40, 40, 40
    edit(of("scale_mat", lambda m: far), "cameras_sphere.npz")(folder)


SOURCES: dict[str, tuple[Change, list[str], str, Change, list[str]]] = {
    "no images near COLMAP's model": (
        colmap, ["--masks", "masks"], "pass it with --images", lambda f: 0,
        ["--masks", "masks", "--images", "source/pictures"],
    ),
    "two kinds": (two_kinds, [], "choose one, such as --kind idr", lambda f: 0, ["--kind", "idr"]),
    "number of masks": (
        masks_of_another_number, [], r"pass a folder with all of them as --masks, or .*--make_missing_masks",
        lambda f: [p.unlink() for p in (f / "mask").iterdir()] and (f / "mask").rmdir(), ["--masks", "masks"],
    ),
    "no sphere in the source": (
        lambda f: writers.write_nerfstudio(f, f.parent / "masks"), ["--masks", "masks", "--sphere", "source"],
        "use hull", lambda f: 0, ["--masks", "masks", "--sphere", "hull"],
    ),
    "cameras inside the source's sphere": (
        large_sphere, [], "try another --sphere", lambda f: 0, ["--sphere", "hull"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SOURCES)
def test_a_source_is_imported_after_the_remedy(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write, before, message, remedy, after = SOURCES[what]
    write(tmp_path / "source")
    command = ["source", "--out", str(tmp_path / "data" / "mine" / "scan2")]
    text = message_of(lambda: import_scene.main([*command, *before]), capsys)
    assert re.search(message, text), text
    remedy(tmp_path / "source")
    assert message_of(lambda: import_scene.main([*command, *after]), capsys) == ""
    assert spots.largest_miss(tmp_path / "data" / "mine" / "scan2") < 0.05


@pytest.mark.parametrize("normalized", [False, True])
def test_cameras_of_dvr_are_refused_everywhere_and_imported(
    normalized: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "mine" / "scan1"
    writers.write_dvr(folder, normalized=normalized)
    commands = (
        lambda: train(folder),
        lambda: preprocess_cameras.main(["--source_dir", str(folder)]),
        lambda: check_scene.main(["--source_dir", str(folder)]) or 1,
        lambda: doctor.main([str(folder)]),
    )
    for command in commands:
        message = message_of(command, capsys)
        assert "holds no intrinsics" in message and "import the folder with import_scene.py" in message
    train(imported(folder))
    assert message_of(lambda: doctor.main([str(imported(folder, "--force"))]), capsys) == ""
    assert spots.largest_miss(imported(folder, "--force")) < 0.05


def test_rough_cameras_are_paired_whatever_the_separator(tmp_path: Path) -> None:
    """Rough cameras of a JSON written on Windows, in another order than the exact ones."""
    writers.write_nerfstudio(tmp_path / "source", tmp_path / "masks")
    writers.write_nerfstudio(tmp_path / "rough")
    path = tmp_path / "rough" / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        frame["file_path"] = frame["file_path"].replace("/", "\\")
    content["frames"].reverse()
    path.write_text(json.dumps(content))
    out = tmp_path / "data" / "mine" / "scan1"
    arguments = [str(path.parents[1] / "source"), "--out", str(out), "--masks", str(tmp_path / "masks")]
    assert import_scene.main([*arguments, "--rough_from", str(path.parent)]) == 0
    with np.load(out / "cameras.npz") as exact, np.load(out / "cameras_linear_init.npz") as rough:
        for k in range(6):
            np.testing.assert_allclose(rough[f"world_mat_{k}"], exact[f"world_mat_{k}"], atol=1e-6)


def test_unusable_spheres_of_a_source_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sphere_elsewhere(tmp_path / "source")
    out = tmp_path / "data" / "mine" / "scan2"
    assert import_scene.main([str(tmp_path / "source"), "--out", str(out)]) == 0
    assert "the scale_mats were left out: " in capsys.readouterr().out
    train(out)
    assert spots.largest_miss(out) < 0.05
