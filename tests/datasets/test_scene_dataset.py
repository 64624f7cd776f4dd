"""The scene dataset: pixels, splits and cameras compared with direct reading of the same files."""

from __future__ import annotations

import logging

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tests.cli.bad_input import (
    INTRINSICS,
    OFFSET,
    SCALE,
    camera_matrices,
    look_at_origin,
    positions_around,
    rewrite_npz,
    write_scene,
)

from idr.datasets.scene_dataset import SceneDataset
from idr.errors import InputError
from idr.geometry.cameras import pose_matrix

HEIGHT, WIDTH = 12, 16


@pytest.fixture
def scene(tmp_path):
    """A scene with images of noise, so that all pixels differ."""
    folder = write_scene(tmp_path / "data" / "balls" / "scan3")
    rng = np.random.default_rng(0)
    for path in (folder / "image").iterdir():
        iio.imwrite(path, rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))
    return folder


def open_scene(scene, train_cameras=False, **options):
    options = {"img_res": [HEIGHT, WIDTH], "scan_id": 3, "data_root": str(scene.parents[1])} | options
    return SceneDataset(train_cameras, "balls", **options)


# ---- pixels


def test_items_equal_direct_reading(scene):
    dataset = open_scene(scene)
    for index in (0, 4):
        photo = iio.imread(scene / "image" / f"{index:06d}.png")
        mask = iio.imread(scene / "mask" / f"{index:03d}.png")
        found, sample, truth = dataset[index]
        assert found == index
        for row in range(HEIGHT):
            for column in range(WIDTH):
                pixel = row * WIDTH + column
                assert sample["uv"][pixel].tolist() == [column, row]
                assert bool(sample["object_mask"][pixel]) == (mask[row, column] > 127.5)
                # [0, 255] to [-1, 1]; float32 rounding
                expected = photo[row, column].astype(float) / 255 * 2 - 1
                np.testing.assert_allclose(truth["rgb"][pixel], expected, atol=1e-6)


def test_images_are_stored_as_bytes(scene):
    dataset = open_scene(scene)
    assert dataset.images.dtype == torch.uint8 and tuple(dataset.images.shape) == (6, HEIGHT * WIDTH, 3)
    assert dataset.masks.dtype == torch.bool and tuple(dataset.masks.shape) == (6, HEIGHT * WIDTH)
    tensors = [value for value in vars(dataset).values() if isinstance(value, torch.Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) <= 6 * (4 * HEIGHT * WIDTH + 2 * 64)


def test_sampled_pixels_equal_those_of_the_whole_image(scene):
    dataset = open_scene(scene)
    _, whole, truth = dataset[1]
    chosen = torch.tensor([7, 0, 191, 50])
    _, some, some_truth = dataset.sample_item(1, chosen)
    for key in ("uv", "object_mask"):
        assert torch.equal(some[key], whole[key][chosen])
    assert torch.equal(some_truth["rgb"], truth["rgb"][chosen])


def test_change_sampling_idx(scene):
    dataset = open_scene(scene)
    total = HEIGHT * WIDTH

    def drawn(seed):
        dataset.change_sampling_idx(20, torch.Generator().manual_seed(seed))
        uv = dataset[0][1]["uv"].long()
        assert torch.equal(dataset[3][1]["uv"].long(), uv)  # the same sample for all images, as published
        return (uv[:, 1] * WIDTH + uv[:, 0]).tolist()

    first = drawn(0)
    assert len(set(first)) == 20  # without replacement
    assert drawn(0) == first and drawn(1) != first
    dataset.change_sampling_idx(10 * total)
    assert len(dataset[0][1]["uv"]) == total
    dataset.change_sampling_idx(5)
    dataset.change_sampling_idx(-1)
    assert len(dataset[0][1]["uv"]) == total
    seen = set()
    for seed in range(60):
        seen |= set(drawn(seed))
    assert len(seen) > 0.98 * total  # 60 draws of 20 from 192 miss a pixel with probability 0.1 %


def test_images_and_masks_are_paired_in_natural_order(scene):
    """Images 1.png .. 12.png, masks v0 .. v11: alphabetical order would pair the tenth with the second."""
    for kind in ("image", "mask"):
        for path in (scene / kind).iterdir():
            path.unlink()
    for k in range(12):
        photo, mask = np.full((HEIGHT, WIDTH, 3), 10 * k, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[0, : k + 1] = 255
        iio.imwrite(scene / "image" / f"{k + 1}.png", photo)
        iio.imwrite(scene / "mask" / f"v{k}.png", mask)
    poses = [look_at_origin(position) for position in positions_around(12)]
    np.savez(scene / "cameras.npz", **camera_matrices(poses))
    dataset = open_scene(scene)
    assert (dataset.images[:, 0, 0] // 10).tolist() == list(range(12))
    assert (dataset.masks.sum(1) - 1).tolist() == list(range(12))
    np.testing.assert_allclose(dataset.poses, np.stack(poses), atol=1e-5)


# ---- splits


def test_splits_are_complementary(scene):
    whole = open_scene(scene)
    train = open_scene(scene, holdout=[4, 1])
    held_out = open_scene(scene, holdout=[4, 1], split="holdout")
    assert train.indices == [0, 2, 3, 5] and held_out.indices == [1, 4]
    for dataset in (train, held_out):
        assert len(dataset) == dataset.n_images == len(dataset.indices)
        for position, number in enumerate(dataset.indices):
            index, sample, truth = dataset[position]
            _, whole_sample, whole_truth = whole[number]
            assert index == position
            assert torch.equal(truth["rgb"], whole_truth["rgb"])
            for key, value in whole_sample.items():
                assert torch.equal(sample[key], value)
        for name in ("get_gt_pose", "get_pose_init"):
            assert torch.equal(getattr(dataset, name)(), getattr(whole, name)()[dataset.indices])
        np.testing.assert_array_equal(dataset.get_scale_mat(), whole.get_scale_mat())


def test_an_empty_split_is_refused(scene):
    with pytest.raises(InputError, match="no image is held out; the scene has 6 images"):
        open_scene(scene, split="holdout")


# ---- cameras


def test_poses_in_both_frames(scene):
    dataset = open_scene(scene)
    unit = np.stack([look_at_origin(position) for position in positions_around()])
    world = unit.copy()
    world[:, :3, 3] = SCALE * unit[:, :3, 3] + OFFSET
    # float32 of unit size, and of size 1000
    np.testing.assert_allclose(dataset.poses, unit, atol=1e-5)
    np.testing.assert_allclose(dataset.get_gt_pose(scaled=True), unit, atol=1e-5)
    np.testing.assert_allclose(dataset.get_gt_pose(), world, atol=1e-3)
    np.testing.assert_allclose(dataset.intrinsics[:, :3, :3], np.stack([INTRINSICS] * 6), atol=1e-5)
    assert torch.equal(dataset[2][1]["pose"], dataset.poses[2])


def test_initial_poses_use_the_noisy_files_own_scale_mat(scene):
    """The noisy file has another radius, center and K; only its poses are used."""
    with np.load(scene / "cameras_linear_init.npz") as archive:
        world_mats = [archive[f"world_mat_{i}"] for i in range(6)]
    scale_mat = np.diag([1.5 * SCALE, 1.5 * SCALE, 1.5 * SCALE, 1.0])
    scale_mat[:3, 3] = OFFSET + [5.0, -3.0, 2.0]
    other_k = np.diag([1.3, 0.8, 1.0])
    changes = {f"scale_mat_{i}": scale_mat for i in range(6)}
    for i, world_mat in enumerate(world_mats):
        changed = world_mat.copy()
        changed[:3] = other_k @ world_mat[:3]
        changes[f"world_mat_{i}"] = changed
    rewrite_npz(scene / "cameras_linear_init.npz", **changes)

    dataset = open_scene(scene, train_cameras=True)
    assert "pose" not in dataset[0][1]
    np.testing.assert_allclose(dataset.intrinsics[0, :3, :3], INTRINSICS, atol=1e-5)  # from cameras.npz
    start = dataset.get_pose_init()
    assert tuple(start.shape) == (6, 7) and start.dtype == torch.float32
    assert (start[:, 0] >= 0).all()  # w
    np.testing.assert_allclose(start[:, :4].norm(dim=1), np.ones(6), atol=1e-6)
    matrices = pose_matrix(start)
    for i, position in enumerate(positions_around()):
        exact = look_at_origin(position)
        np.testing.assert_allclose(matrices[i, :3, :3], exact[:3, :3], atol=1e-5)
        world_center = SCALE * position * (1 + 0.01 * (-1) ** i) + OFFSET
        np.testing.assert_allclose(
            matrices[i, :3, 3], (world_center - scale_mat[:3, 3]) / (1.5 * SCALE), atol=1e-5
        )


def test_cam_file_replaces_cameras_npz(scene):
    other = [look_at_origin(1.2 * position) for position in positions_around()]
    np.savez(scene / "other.npz", **camera_matrices(other, INTRINSICS * [[1.1], [1.2], [1.0]]))
    scale_mat = np.diag([SCALE / 2, SCALE / 2, SCALE / 2, 1.0])
    scale_mat[:3, 3] = OFFSET
    rewrite_npz(scene / "other.npz", **{f"scale_mat_{i}": scale_mat for i in range(6)})
    (scene / "cameras.npz").unlink()
    dataset = open_scene(scene, cam_file="other.npz")
    np.testing.assert_allclose(dataset.intrinsics[3, 0, 0], 1.1 * INTRINSICS[0, 0], rtol=1e-6)
    np.testing.assert_allclose(dataset.poses[3, :3, 3], 2.4 * positions_around()[3], atol=1e-5)
    np.testing.assert_array_equal(dataset.get_scale_mat(), scale_mat)
    np.testing.assert_allclose(
        dataset.get_gt_pose()[3, :3, 3], 1.2 * SCALE * positions_around()[3] + OFFSET, atol=1e-3
    )
    np.testing.assert_allclose(  # initial poses still come from the noisy file
        dataset.get_pose_init()[3, 4:], 0.99 * positions_around()[3], atol=1e-5
    )


def test_a_single_view_gives_a_warning(scene, caplog):
    with caplog.at_level(logging.WARNING, logger="idr"):
        open_scene(scene)
        assert not caplog.records
        write_scene(scene, positions=positions_around()[:1])
        dataset = open_scene(scene)
    assert len(dataset) == 1
    assert "has a single view: the unseen side is undetermined" in caplog.text


def test_data_root_in_the_home_folder(scene, monkeypatch):
    monkeypatch.setenv("HOME", str(scene.parents[2]))
    assert open_scene(scene, data_root="~/data").instance_dir == scene


def test_works_with_a_data_loader(scene):
    dataset = open_scene(scene)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=dataset.collate_fn)
    batches = [(indices.tolist(), tuple(truth["rgb"].shape)) for indices, _, truth in loader]
    assert batches == [([0, 1, 2, 3], (4, 192, 3)), ([4, 5], (2, 192, 3))]


@pytest.mark.parametrize(
    ("rule", "held_out"),
    [("every 2", [0, 2, 4]), ("every 4", [0, 4]), ("50%", [1, 3, 5]), ("0.2", [3]), ("1 %", [3])],
)
def test_rules_hold_out_images(scene, rule, held_out):
    dataset = open_scene(scene, holdout=rule, split="holdout")
    assert dataset.indices == held_out
    assert open_scene(scene, holdout=rule).indices == [k for k in range(6) if k not in held_out]


@pytest.mark.parametrize("rule", ["every 0", "every 1", "0%", "100%", "8", "all", "every", "-5%"])
def test_other_rules_are_refused(scene, rule):
    with pytest.raises(InputError, match="expected a list of images such as"):
        open_scene(scene, holdout=rule)


def test_a_conf_may_have_a_rule(scene):
    from idr.conf.blocks import read_block
    from idr.conf.files import load_conf
    from idr.datasets.scene_dataset import SceneDatasetConfig

    for text, value in (("every 8", "every 8"), ("10%", "10%"), ("[0,8]", (0, 8))):
        conf = load_conf("./confs/demo.conf", [f"dataset.holdout={text}"])
        assert read_block(SceneDatasetConfig, conf["dataset"], "dataset").holdout == value


def test_world_poses_far_from_the_origin_are_exact(scene):
    shift = np.array([500_000.123, 4_200_000.456, 230.789])
    to_utm, back = np.eye(4), np.eye(4)
    to_utm[:3, 3], back[:3, 3] = shift, -shift
    before = open_scene(scene)
    with np.load(scene / "cameras.npz") as old:
        moved = {
            name: old[name] @ back if name.startswith("world_mat") else to_utm @ old[name]
            for name in old.files
        }
    np.savez(scene / "cameras.npz", **moved)
    after = open_scene(scene)
    np.testing.assert_allclose(
        after.get_gt_pose()[:, :3, 3], before.get_gt_pose()[:, :3, 3].numpy() + shift, rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(after.poses, before.poses, atol=1e-5)
