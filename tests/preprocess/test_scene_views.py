"""Reading camera files, and writing scale_mats to them."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest

from idr.datasets.camera_files import read_cameras
from idr.errors import InputError, MissingInputError, OutputError
from idr.preprocess.scene_views import backup_path, read_world_mats, write_scale_mats


@pytest.fixture
def camera_file(tmp_path):
    """Three cameras with a wrong scale_mat, an inverse, and unrelated entries."""
    path = tmp_path / "cameras.npz"
    rng = np.random.default_rng(0)
    entries = {f"world_mat_{k}": rng.normal(size=(4, 4)) for k in range(3)}
    entries |= {"world_mat_inv_0": np.eye(4), "scale_mat_0": np.eye(4), "scale_mat_inv_0": 3 * np.eye(4)}
    np.savez(path, note=np.array("hand-made"), float32=np.ones(2, np.float32), **entries)
    return path


def entries_of(path):
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def test_scale_mats_are_written_and_the_rest_is_kept(camera_file):
    before = entries_of(camera_file)
    assert write_scale_mats(camera_file, np.array([1.0, 2.0, 3.0]), 5.0)
    after = entries_of(camera_file)
    expected = np.array([[5.0, 0, 0, 1], [0, 5, 0, 2], [0, 0, 5, 3], [0, 0, 0, 1]])
    for k in range(3):
        np.testing.assert_array_equal(after.pop(f"scale_mat_{k}"), expected)
    np.testing.assert_allclose(after.pop("scale_mat_inv_0") @ expected, np.eye(4), atol=1e-15)
    assert set(after) == set(before) - {"scale_mat_0", "scale_mat_inv_0"}
    for key, value in after.items():
        np.testing.assert_array_equal(value, before[key])
        assert value.dtype == before[key].dtype


def test_the_first_backup_is_kept(camera_file):
    original = camera_file.read_bytes()
    assert write_scale_mats(camera_file, np.zeros(3), 1.0)
    first = camera_file.read_bytes()
    assert not write_scale_mats(camera_file, np.ones(3), 2.0)
    assert backup_path(camera_file).read_bytes() == original
    assert not write_scale_mats(camera_file, np.zeros(3), 1.0)
    assert camera_file.read_bytes() == first  # reproducible bytes
    assert sorted(p.name for p in camera_file.parent.iterdir()) == ["cameras.npz", "cameras_backup.npz"]


def test_a_second_original_is_kept_too(camera_file):
    first = camera_file.read_bytes()
    write_scale_mats(camera_file, np.zeros(3), 1.0)
    np.savez(camera_file, **{f"world_mat_{k}": 2 * np.eye(4) for k in range(2)})
    second = camera_file.read_bytes()
    assert write_scale_mats(camera_file, np.zeros(3), 1.0).name == "cameras_backup_2.npz"
    assert backup_path(camera_file).read_bytes() == first
    assert camera_file.with_name("cameras_backup_2.npz").read_bytes() == second
    camera_file.write_bytes(first)
    assert write_scale_mats(camera_file, np.zeros(3), 1.0) is None  # kept already


def test_members_that_numpy_would_not_load_are_kept(camera_file):
    """Pickled entries are copied, never run."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(camera_file, "a") as archive:
        archive.writestr("names.npy", buffer.getvalue())
    write_scale_mats(camera_file, np.zeros(3), 1.0)
    with zipfile.ZipFile(camera_file) as archive:
        assert archive.read("names.npy") == buffer.getvalue()


def test_compression_is_kept(camera_file):
    np.savez_compressed(camera_file, **{f"world_mat_{k}": np.eye(4) for k in range(2)})
    write_scale_mats(camera_file, np.zeros(3), 1.0)
    with zipfile.ZipFile(camera_file) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("call", [1, 2])
def test_failed_write_leaves_the_file_alone(camera_file, monkeypatch, failing, call):
    """The backup, or the file itself, cannot be written."""
    before = camera_file.read_bytes()
    real, calls = getattr(os, failing), []

    def refuse(*args):
        calls.append(args)
        if len(calls) >= call:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(OutputError, match="no space left.*free some space"):
        write_scale_mats(camera_file, np.zeros(3), 1.0)
    assert camera_file.read_bytes() == before
    assert not list(camera_file.parent.glob(".*"))


def test_written_scale_mats_can_be_read_by_the_dataset(tmp_path):
    """With an object in front of the camera."""
    path = tmp_path / "cameras.npz"
    np.savez(path, world_mat_0=np.eye(4), world_mat_1=np.eye(4)[:3])
    write_scale_mats(path, np.array([0.0, 0.0, 7.0]), 2.0)
    cameras = read_cameras(path, 2)
    np.testing.assert_array_equal(cameras.scale_mats[1] @ [0, 0, 1, 1], [0, 0, 9, 1])


def test_matrices_are_in_numerical_order(tmp_path):
    path = tmp_path / "cameras.npz"
    np.savez(path, **{f"world_mat_{k}": np.full((4, 4), k) for k in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)})
    assert [matrix[0, 0] for matrix in read_world_mats(path)] == list(range(11))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"scale_mat_0": np.eye(4)}, "has no world_mat_0"),
        (
            {"world_mat_0": np.eye(4), "world_mat_2": np.eye(4)},
            "has world_mat_2 but not world_mat_1",
        ),
        ({"world_mat_0": np.eye(4), "world_mat_99999999999": np.eye(4)}, "but not world_mat_1; add it"),
        ({"world_mat_0": np.eye(3)}, r"world_mat_0 has shape \(3, 3\); expected \(4, 4\)"),
        ({"world_mat_0": np.array([None, 1])}, "has pickled object arrays.*float64"),
        ({"world_mat_0": np.array(["a", "b"])}, "world_mat matrices are not numbers"),
    ],
)
def test_invalid_files(tmp_path, entries, message):
    path = tmp_path / "cameras.npz"
    np.savez(path, **entries)
    with pytest.raises(InputError, match=message):
        read_world_mats(path)


@pytest.mark.parametrize("keep", [0, 10, 700, -40])
def test_truncated_file(camera_file, keep):
    camera_file.write_bytes(camera_file.read_bytes()[:keep])
    with pytest.raises(InputError, match="cannot be read as an npz.*download it again"):
        read_world_mats(camera_file)


def test_a_missing_file_lists_the_existing_ones(camera_file):
    with pytest.raises(
        MissingInputError, match="no camera file .*linear_init.npz; npz files there: cameras.npz"
    ):
        read_world_mats(camera_file.with_name("cameras_linear_init.npz"))
