"""The doctor: sound scenes pass, and each mistake is diagnosed by name."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from idr import failures
from idr.cli import doctor
from idr.cli.demo import make_scene
from idr.datasets.camera_files import read_cameras
from idr.errors import InputError
from idr.preprocess import visual_hull
from idr.preprocess.doctor import diagnose_views, fit_hull
from idr.preprocess.scene_check import diagnose_scene
from idr.preprocess.scene_views import load_views, make_views
from tests.preprocess import scenes
from tests.preprocess.scenes import real_scene

DOCS = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene") / "scan1"
    words = f"--out {folder} --img_res 60 76 --views 14 --holdout 0 --supersampling 1 --mesh_resolution 24"
    assert make_scene.main(words.split()) == 0
    return folder


@pytest.fixture
def diagnosis(scene, tmp_path):
    """Diagnoses the scene with modified matrices or masks."""
    views = load_views(scene)
    scale = read_cameras(scene / "cameras.npz", len(views)).scale_mats[0]

    def diagnose(matrix=lambda views: views.projections, masks=lambda mask: mask, scale=scale):
        changed = make_views(views.names, tuple(masks(mask) for mask in views.masks), matrix(views))
        return diagnose_views(changed, scale)

    diagnose.scale = scale
    return diagnose


def flipped(*signs):
    return lambda v: v.intrinsics @ (np.diag(signs).astype(float) @ np.linalg.inv(v.poses)[:, :3])


def resized(x, y):
    return lambda v: np.diag([x, y, 1.0]) @ v.projections


def test_a_sound_scene_passes(scene, capsys):
    assert doctor.main([str(scene)]) == 0
    assert "fit together" in capsys.readouterr().out


@pytest.mark.parametrize(
    "signs, words",
    [((1, -1, -1), "axes y and z"), ((-1, 1, -1), "axes x and z"), ((-1, -1, 1), "axes x and y")],
)
def test_wrong_axes(diagnosis, signs, words):
    (finding,) = diagnosis(flipped(*signs))
    assert finding.name == failures.WRONG_AXES and words in finding.text


def test_mirrored(diagnosis):
    (finding,) = diagnosis(lambda v: v.projections @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    assert finding.name == failures.MIRRORED_CAMERAS


@pytest.mark.parametrize("factors", [(2.0, 2.0), (0.5, 0.5), (1.6, 1.6), (3.0, 2.0)])
def test_resized(diagnosis, factors):
    (finding,) = diagnosis(resized(*factors))
    assert finding.name == failures.IMAGES_RESIZED
    size = re.search(r"about (\d+) x (\d+) pixels", finding.text).groups()
    assert np.allclose([float(n) for n in size], [76 * factors[0], 60 * factors[1]], rtol=0.1)


def test_masks_inverted(diagnosis):
    (finding,) = diagnosis(masks=lambda mask: ~mask)
    assert finding.name == failures.MASKS_INVERTED


def test_outside_sphere(diagnosis):
    (finding,) = diagnosis(scale=diagnosis.scale @ np.diag([0.3, 0.3, 0.3, 1.0]))
    assert finding.name == failures.OBJECT_OUTSIDE_SPHERE


def cut(views, height, width, down=0.0, right=0.0):
    """The views cropped to shares of the object's median extent, around its middle moved by such shares."""
    corners = np.array([[np.argwhere(m).min(axis=0), np.argwhere(m).max(axis=0) + 1] for m in views.masks])
    extent = np.median(corners[:, 1] - corners[:, 0], axis=0)
    size = (extent * (height, width)).astype(int)
    starts = (corners.mean(axis=1) + extent * (down, right) - size / 2).astype(int)
    starts = np.clip(starts, 0, np.array(views.masks[0].shape) - size)
    masks = tuple(
        m[r : r + size[0], c : c + size[1]] for m, (r, c) in zip(views.masks, starts, strict=True)
    )
    shifts = [np.array([[1.0, 0, -c], [0, 1, -r], [0, 0, 1]]) for r, c in starts]
    return make_views(views.names, masks, np.array(shifts) @ views.projections)


CUTS = {"all around": (0.8, 0.8), "below": (0.7, 1.3, -0.25), "at a side": (1.3, 0.6, 0.0, 0.2)}


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Views of the teapot, fine enough to be cut, and their unit sphere."""
    folder = tmp_path_factory.mktemp("larger") / "scan1"
    words = f"--out {folder} --img_res 90 114 --views 14 --holdout 0 --supersampling 1 --mesh_resolution 24"
    assert make_scene.main(words.split()) == 0
    return load_views(folder), read_cameras(folder / "cameras.npz", 14).scale_mats[0]


@pytest.mark.parametrize("where", CUTS)
class TestObjectCutByTheImage:
    def test_right_cameras_have_no_severe_finding(self, larger, where):
        views, scale = larger
        part = cut(views, *CUTS[where])
        assert all(mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in part.masks)
        (finding,) = diagnose_views(part, scale)
        assert finding.name == failures.MASKS_TOUCH_BORDER and not finding.is_severe
        assert finding.text.startswith("14 of 14 masks") and "farther away" in finding.remedy

    @pytest.mark.parametrize("signs", [(1, -1, -1), (-1, 1, -1), (-1, -1, 1)])
    def test_wrong_axes_are_found(self, larger, where, signs):
        part = cut(larger[0], *CUTS[where])
        (finding,) = diagnose_views(make_views(part.names, part.masks, flipped(*signs)(part)), larger[1])
        assert finding.name == failures.WRONG_AXES and finding.is_severe

    def test_mirrored_cameras_and_inverted_masks_are_found(self, larger, where):
        part = cut(larger[0], *CUTS[where])
        mirrored = part.projections @ np.diag([-1.0, 1.0, 1.0, 1.0])
        (finding,) = diagnose_views(make_views(part.names, part.masks, mirrored), larger[1])
        assert finding.name == failures.MIRRORED_CAMERAS
        (finding,) = diagnose_views(replace(part, masks=tuple(~mask for mask in part.masks)), larger[1])
        assert finding.is_severe


def test_close_ups_of_different_parts_are_no_contradiction(larger):
    """Each photograph shows another part of the teapot; few points are in half of the photographs."""
    views, scale = larger
    generator = np.random.default_rng(0)
    corners = [np.argwhere(mask)[generator.integers(mask.sum())] for mask in views.masks]
    starts = np.clip(np.array(corners) - (18, 25), 0, (90 - 36, 114 - 50))
    masks = tuple(m[r : r + 36, c : c + 50] for m, (r, c) in zip(views.masks, starts, strict=True))
    shifts = np.array([[[1.0, 0, -c], [0, 1, -r], [0, 0, 1]] for r, c in starts])
    parts = make_views(views.names, masks, shifts @ views.projections)
    assert not any(finding.is_severe for finding in diagnose_views(parts, scale))


def one_sided_views():
    """Views of three ellipsoids from one side, so near that every image cuts them off."""
    generator = np.random.default_rng(0)
    centers = np.array([-3.2, 0.0, 1.0]) + generator.uniform(-1, 1, (20, 3)) * (0.2, 1.4, 1.2)
    targets = generator.uniform(-0.3, 0.3, (20, 3))
    pairs = zip(centers, targets, strict=True)
    matrices = np.stack([scenes.INTRINSICS @ scenes.look_at(*pair) for pair in pairs])
    middles = np.array([[0, 0, 0], [0, 0.6, 0.7], [0, -0.9, -0.4]])
    radii = np.array([[0.5, 0.9, 0.5], [0.3, 0.3, 0.6], [0.4, 0.7, 0.2]])

    def mask(matrix):
        moved = [matrix @ translation(middle) for middle in middles]
        return np.logical_or.reduce(list(map(scenes.ellipsoid_mask, moved, radii)))

    return make_views(scenes.names_of(20), tuple(map(mask, matrices)), matrices)


def translation(offset):
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def test_an_object_cut_off_and_seen_from_one_side():
    views, scale = one_sided_views(), np.diag([2.2, 2.2, 2.2, 1.0])
    findings = diagnose_views(views, scale)
    assert findings[0].text.startswith("20 of 20 masks") and not any(f.is_severe for f in findings)
    for signs in ((1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
        (finding,) = diagnose_views(make_views(views.names, views.masks, flipped(*signs)(views)), scale)
        assert finding.name == failures.WRONG_AXES
    mirrored = views.projections @ np.diag([-1.0, 1.0, 1.0, 1.0])
    (finding,) = diagnose_views(make_views(views.names, views.masks, mirrored), scale)
    assert finding.name == failures.MIRRORED_CAMERAS


def test_hulls_of_cut_masks_do_not_count_what_the_images_miss(larger):
    """Half of the views see only the left of the teapot: its right contradicts none of them."""
    views, _ = larger
    column = int(np.median([np.argwhere(mask)[:, 1].mean() for mask in views.masks])) + 8
    masks = tuple(mask[:, :column] if k % 2 else mask for k, mask in enumerate(views.masks))
    ious = fit_hull(make_views(views.names, masks, views.projections)).ious
    assert ious.min() > 0.85 and ious.mean() > 0.93


def names_found(views, scale_mats, images=()):
    findings = diagnose_views(views, scale_mats, None, images)
    assert all(finding.remedy for finding in findings)
    return [finding.name for finding in findings]


class TestFindingsBesidesTheHull:
    views = scenes.ellipsoid_views(scenes.sphere_centers(12))

    def test_cameras_inside_a_sphere_that_is_too_large(self):
        names = names_found(self.views, np.diag([8.0, 8.0, 8.0, 1.0]))
        assert names == [failures.CAMERA_INSIDE_SPHERE, failures.SPHERE_TOO_LARGE]

    def test_spheres_and_sizes_that_differ(self):
        scales = np.stack([np.diag([s, s, s, 1.0]) for s in np.linspace(2.0, 2.1, 12)])
        sizes = [(90, 120)] * 11 + [(120, 90)]
        assert names_found(self.views, scales, sizes) == [failures.SPHERES_DIFFER, failures.SIZES_DIFFER]
        assert names_found(self.views, np.diag([2.0, 2.0, 2.0, 1.0]), [(90, 120, 3)] * 12) == []

    def test_few_views_from_one_side(self):
        views = scenes.ellipsoid_views(scenes.ring_centers(4, 8.0))
        names = names_found(views, np.diag([2.0, 2.0, 2.0, 1.0]))
        assert set(names) == {failures.FEW_VIEWS, failures.ONE_SIDED_VIEWS} and set(names) <= set(
            failures.MILD
        )

    def test_a_mask_that_disagrees(self):
        views = scenes.ellipsoid_views(scenes.sphere_centers(14))
        masks = list(views.masks)
        masks[5] = masks[5] & (np.arange(120) > 60)
        findings = diagnose_views(replace(views, masks=tuple(masks)), np.diag([2.0, 2.0, 2.0, 1.0]))
        assert failures.VIEWS_DISAGREE in [finding.name for finding in findings]


def test_masks_of_another_object(diagnosis):
    generator = np.random.default_rng(0)

    def corner(mask):
        other = np.zeros_like(mask)
        row, column = generator.integers([50, 60])
        other[row : row + 8, column : column + 8] = True
        return other

    (finding,) = diagnosis(masks=corner)
    assert finding.name == failures.CONTRADICTION


def normalized(v):
    """K for pixel coordinates from -1 to 1."""
    to_unit = np.array([[2 / 75, 0, -1], [0, 2 / 59, -1], [0, 0, 1]])
    return (to_unit @ v.intrinsics) @ np.linalg.inv(v.poses)[:, :3]


@pytest.mark.parametrize("matrix", [lambda v: np.linalg.inv(v.poses)[:, :3], normalized])
def test_no_intrinsics(diagnosis, matrix):
    (finding,) = diagnosis(matrix)
    assert finding.name == failures.NO_INTRINSICS and "multiply by K, or import the folder" in finding.remedy


def test_a_principal_point_at_zero_ends_no_trial(diagnosis):
    """The size for which such cameras are calibrated cannot be told from it."""

    def shifted(v):
        k = v.intrinsics.copy()
        k[:, :2, 2] = 0.0
        return k @ np.linalg.inv(v.poses)[:, :3]

    (finding,) = diagnosis(shifted)
    assert finding.name == failures.CONTRADICTION


def with_world_mats(scene, folder, change):
    """Copies a scene and changes its world_mats."""
    copy = folder / "scan1"
    shutil.copytree(scene, copy)
    with np.load(copy / "cameras.npz") as file:
        arrays = dict(file)
    for key in arrays:
        if key.startswith("world_mat") and "inv" not in key:
            arrays[key] = change(arrays[key])
    np.savez(copy / "cameras.npz", **arrays)
    return copy


def test_mirrored_cameras_are_named_although_they_look_away_from_the_sphere(scene, tmp_path):
    copy = with_world_mats(scene, tmp_path, lambda matrix: matrix @ np.diag([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(InputError, match="is mirrored or looks away"):
        read_cameras(copy / "cameras.npz", 14)
    (finding,) = diagnose_scene(copy, "cameras.npz")
    assert finding.name == failures.MIRRORED_CAMERAS


def test_command_names_the_failure(scene, tmp_path, capsys):
    copy = with_world_mats(scene, tmp_path, lambda matrix: np.diag([2.0, 2.0, 1.0, 1.0]) @ matrix)
    assert doctor.main([str(copy)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("images-resized: ") and "docs/troubleshooting.md#images-resized" in out


@pytest.mark.parametrize("where", ["device", "torch", "numpy"])
def test_out_of_memory_is_named(capsys, where):
    import torch

    from idr.cli.shared.common import run

    def body():
        if where == "device":
            raise torch.OutOfMemoryError("CUDA out of memory")
        (torch if where == "torch" else np).empty(10**15)

    assert run(body) == 1
    assert capsys.readouterr().err.startswith("stopped: out-of-memory: ")


def test_names_and_docs_agree():
    assert re.findall(r"^## (.+)$", DOCS.read_text(), re.MULTILINE) == list(failures.NAMES)
    assert str(replace(failures.Finding("a", "b"), name="no-surface-yet")).endswith("#no-surface-yet)")


@pytest.mark.usefixtures("full_hulls")
class TestRealScenes:
    @pytest.mark.parametrize("name", ["DTU/scan65", "temple/scan1"])
    def test_sound_scenes_pass(self, name):
        assert doctor.main([str(real_scene(name))]) == 0

    def test_rough_cameras_pass(self, monkeypatch):
        # Nine hulls, at half the resolution: 9 s instead of 90 s, and an IoU of 0.789 instead of 0.791.
        monkeypatch.setattr(visual_hull, "CELLS_BUDGET", 75_000)
        assert doctor.main([str(real_scene("DTU/scan65")), "--use_linear_init"]) == 0

    @pytest.mark.parametrize("name", ["DTU/scan65", "temple/scan1"])
    def test_cut_scenes_pass_and_their_wrong_axes_are_found(self, monkeypatch, name):
        monkeypatch.setattr(visual_hull, "CELLS_BUDGET", 75_000)
        views = load_views(real_scene(name))
        part = cut(views, 0.6, 1.2) if name.startswith("DTU") else cut(views, *CUTS["below"])
        sphere = read_cameras(real_scene(name) / "cameras.npz", len(views)).scale_mats
        assert not any(finding.is_severe for finding in diagnose_views(part, sphere))
        wrong = make_views(part.names, part.masks, flipped(1, -1, -1)(part))
        assert diagnose_views(wrong, sphere)[0].name == failures.WRONG_AXES
