"""Reading camera files: correct matrices, or an error of our own."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cli.bad_input import INTRINSICS, OFFSET, SCALE, camera_matrices, look_at_origin, positions_around

from idr.datasets.camera_files import read_cameras
from idr.errors import InputError, MissingInputError

POSES = [look_at_origin(position) for position in positions_around(3)]


@pytest.fixture
def write(tmp_path):
    """Writes three cameras with modified entries."""

    def write_npz(**changes):
        entries = camera_matrices(POSES) | changes
        path = tmp_path / "cameras.npz"
        np.savez(path, **{key: value for key, value in entries.items() if value is not None})
        return path

    return write_npz


def assert_same_cameras(path):
    cameras = read_cameras(path, 3)
    for scaled in (True, False):
        intrinsics, poses = cameras.decompose(scaled)
        for k in range(3):
            expected = POSES[k].copy()
            if not scaled:
                expected[:3, 3] = SCALE * expected[:3, 3] + OFFSET
            # float64 through an inverse and an RQ decomposition, at lengths of up to 1000
            np.testing.assert_allclose(intrinsics[k][:3, :3], INTRINSICS, atol=1e-9)
            np.testing.assert_allclose(poses[k], expected, atol=1e-8)
    np.testing.assert_array_equal(cameras.scale_mats[1][:3, 3], OFFSET)


def test_decomposition_inverts_composition(write):
    assert_same_cameras(write())


@pytest.mark.parametrize("factor", [-1.0, 1e-3, -250.0])
def test_sign_and_scale_of_a_projection_do_not_matter(write, factor):
    world_mat = camera_matrices(POSES)["world_mat_1"]
    world_mat[:3] *= factor
    assert_same_cameras(write(world_mat_1=world_mat))


def test_matrices_of_three_rows_and_single_precision(write):
    matrices = camera_matrices(POSES)
    assert_same_cameras(
        write(world_mat_0=matrices["world_mat_0"][:3], scale_mat_2=matrices["scale_mat_2"][:3])
    )
    cameras = read_cameras(write(world_mat_0=matrices["world_mat_0"].astype(np.float32)), 3)
    assert cameras.world_mats.dtype == np.float64


def test_other_entries_are_ignored(write):
    bad = np.full((2, 2), np.nan)
    assert_same_cameras(
        write(world_mat_inv_0=bad, scale_mat_inv_9=bad, camera_mat_0=bad, world_mat_x=bad, note=bad)
    )


@pytest.mark.parametrize(
    "changes, num_images, message",
    [
        ({}, 2, r"also has world_mat_2: 3 world_mat matrices for 2 images"),
        ({}, 4, r"lacks world_mat_3: 3 world_mat matrices for 4 images"),
        ({"scale_mat_1": None}, 3, r"lacks scale_mat_1: 2 scale_mat matrices for 3 images"),
        ({"world_mat_0": np.full((4, 4), np.inf)}, 3, r"world_mat_0 has non-finite values"),
        ({"world_mat_0": np.eye(4)[:2]}, 3, r"world_mat_0 has shape \(2, 4\) and type float64; expected 4"),
        (
            {"world_mat_0": np.eye(4) > 0},
            3,
            r"world_mat_0 has shape \(4, 4\) and type .*; expected 4 x 4 real numbers",
        ),
        ({"scale_mat_0": np.diag([1.0, 1.0, 1.01, 1.0])}, 3, r"scale_mat_0 is not a similarity"),
        ({"scale_mat_0": np.diag([-1.0, -1.0, -1.0, 1.0])}, 3, r"expected uniform positive scale"),
        ({"world_mat_0": np.eye(4) * (1 + 1j)}, 3, r"type complex128; expected 4 x 4 real numbers"),
        ({"world_mat_2": np.ones((4, 4))}, 3, r"world_mat_2: .*singular"),
    ],
)
def test_invalid_matrices_are_refused(write, changes, num_images, message):
    with pytest.raises(InputError, match=message):
        read_cameras(write(**changes), num_images)


def test_a_missing_file_lists_the_existing_ones(write):
    path = write()
    with pytest.raises(MissingInputError, match=r"no camera file .*cams\.npz; npz files there: cameras\.npz"):
        read_cameras(path.with_name("cams.npz"), 3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_corruption_gives_our_error_or_the_same_cameras(tmp_path, save):
    """Truncation at many lengths, and flipped bytes at many positions, which checksums detect."""
    path = tmp_path / "cameras.npz"
    save(path, **camera_matrices(POSES))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(0, len(whole), 41)]
    for position in rng.choice(len(whole), 200, replace=False):
        content = bytearray(whole)
        content[position] ^= int(rng.integers(1, 256))
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            assert_same_cameras(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(damaged) / 2


def padded(path):
    """Renames the matrices of a file to `world_mat_00`, `scale_mat_00`, ..."""
    with np.load(path) as old:
        entries = {f"{name[:-1]}{int(name[-1]):02d}": old[name] for name in old.files}
    np.savez(path, **entries)
    return path


def test_zero_padded_numbers_are_read(write):
    assert_same_cameras(padded(write()))


def test_two_different_matrices_of_one_number_are_refused(write):
    path = write(world_mat_01=camera_matrices(POSES)["world_mat_1"])
    assert_same_cameras(path)  # the same matrix twice does no harm
    with pytest.raises(InputError, match="two different matrices world_mat_1.*remove one"):
        read_cameras(write(world_mat_01=camera_matrices(POSES)["world_mat_2"]), 3)


def test_zero_padded_files_everywhere(tmp_path):
    """Training, check, doctor and preprocessing; importing is in tests/importers/test_conventions.py."""
    from tests.importers import writers

    from idr.cli import check_scene, doctor, preprocess_cameras
    from idr.datasets.scene_dataset import SceneDataset

    folder = tmp_path / "data" / "mine" / "scan1"
    writers.write_padded(folder)
    assert check_scene.main(["--source_dir", str(folder)]) == 0
    assert preprocess_cameras.main(["--source_dir", str(folder)]) == 0
    assert doctor.main([str(folder)]) == 0
    with np.load(folder / "cameras.npz") as arrays:
        names = sorted(name for name in arrays.files if name.startswith("scale_mat_"))
        assert names == [f"scale_mat_{k:02d}" for k in range(6)]
        spheres = np.stack([arrays[name] for name in names])
    dataset = SceneDataset(False, "mine", [96, 128], 1, data_root=str(tmp_path / "data"))
    np.testing.assert_array_equal(dataset.camera_file.scale_mats, spheres)
