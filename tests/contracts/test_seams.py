"""Contract 3: the published calls between data set, model, loss and trainer, on which user classes rely."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.bad_input import (
    CONF,
    EVALUATE,
    HEIGHT,
    NUM_VIEWS,
    SCENE,
    TRAIN,
    WIDTH,
    only_run,
    project_at,
    write_scene,
)

from idr.cli.evaluate import main as evaluate
from idr.cli.train import main as train
from idr.conf.build import build_dataset, build_loss, build_model
from idr.conf.files import load_conf
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.loss import IDRLoss

TOTAL = HEIGHT * WIDTH


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tiny.conf").write_text(CONF)
    write_scene(tmp_path / SCENE)
    with project_at(tmp_path):
        yield tmp_path


def shapes(tensors: dict) -> dict[str, tuple]:
    return {key: (tuple(value.shape), value.dtype) for key, value in tensors.items()}


# ---- data set


@pytest.mark.parametrize("train_cameras", [False, True])
@pytest.mark.parametrize("sampling, count", [(None, TOTAL), (-1, TOTAL), (5, 5)])
def test_dataset_item(root, train_cameras, sampling, count):
    dataset = build_dataset(load_conf(CONF), train_cameras)
    if sampling is not None:
        dataset.change_sampling_idx(sampling)
    index, sample, truth = dataset[2]
    assert index == 2
    expected = {
        "object_mask": ((count,), torch.bool),
        "uv": ((count, 2), torch.float32),
        "intrinsics": ((4, 4), torch.float32),
        "pose": ((4, 4), torch.float32),
    }
    if train_cameras:
        del expected["pose"]
    assert shapes(sample) == expected
    assert shapes(truth) == {"rgb": ((count, 3), torch.float32)}

    indices, samples, truths = dataset.collate_fn([dataset[2], dataset[0]])
    assert indices.tolist() == [2, 0]
    assert shapes(samples) == {key: ((2, *shape), dtype) for key, (shape, dtype) in expected.items()}
    assert shapes(truths) == {"rgb": ((2, count, 3), torch.float32)}


def test_dataset_attributes(root):
    dataset = build_dataset(load_conf(CONF), True)
    assert len(dataset) == NUM_VIEWS
    assert dataset.total_pixels == TOTAL
    assert tuple(dataset.img_res) == (HEIGHT, WIDTH)
    assert np.asarray(dataset.get_scale_mat()).shape == (4, 4)
    for scaled in (False, True):
        assert tuple(dataset.get_gt_pose(scaled).shape) == (NUM_VIEWS, 4, 4)
    assert tuple(dataset.get_pose_init().shape) == (NUM_VIEWS, 7)


# ---- model


def model_input(num_images: int, num_pixels: int, as_vector: bool) -> dict[str, torch.Tensor]:
    pose = torch.eye(4).repeat(num_images, 1, 1)
    pose[:, 2, 3] = -3.0
    vector = torch.tensor([1.0, 0, 0, 0, 0, 0, -3]).repeat(num_images, 1)
    intrinsics = torch.eye(4).repeat(num_images, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 8.0
    generator = torch.Generator().manual_seed(0)
    return {
        "uv": torch.randint(-4, 5, (num_images, num_pixels, 2), generator=generator).float(),
        "intrinsics": intrinsics,
        "pose": vector if as_vector else pose,
        "object_mask": torch.rand(num_images, num_pixels, generator=generator) < 0.5,
    }


@pytest.mark.parametrize("as_vector", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_model_forward(training, as_vector):
    torch.manual_seed(0)
    model = build_model(load_conf(CONF)).train(training)
    assert isinstance(model, IDRNetwork)
    num_images, num_pixels = 2, 15
    rays = num_images * num_pixels
    inputs = model_input(num_images, num_pixels, as_vector)
    outputs = model(inputs)
    grad_theta = outputs.pop("grad_theta")
    if training:  # ours, for the terms within the block loss
        assert outputs.pop("surface_points").shape == outputs["points"].shape
    assert shapes(outputs) == {
        "points": ((rays, 3), torch.float32),
        "rgb_values": ((rays, 3), torch.float32),
        "sdf_output": ((rays, 1), torch.float32),
        "network_object_mask": ((rays,), torch.bool),
        "object_mask": ((rays,), torch.bool),
    }
    assert torch.equal(outputs["object_mask"], inputs["object_mask"].reshape(-1))
    if training:
        assert tuple(grad_theta.shape) == (rays // 2 + rays, 3)
    else:
        assert grad_theta is None
    assert 0 < outputs["network_object_mask"].sum() < rays  # hits and misses occur


def test_model_parts():
    model = build_model(load_conf(CONF))
    points = torch.rand(7, 3)
    output, gradient = model.implicit_network(points), model.implicit_network.gradient(points)
    assert tuple(output.shape) == (7, 1 + 8) and tuple(gradient.shape) == (7, 1, 3)
    rgb = model.rendering_network(points, gradient[:, 0], points, output[:, 1:])
    assert tuple(rgb.shape) == (7, 3)


# ---- loss


def test_loss_keys_and_settable_weights():
    loss = build_loss(load_conf(CONF))
    assert isinstance(loss, IDRLoss)
    assert (loss.eikonal_weight, loss.mask_weight, loss.alpha) == (0.1, 100.0, 50.0)
    torch.manual_seed(0)
    outputs = build_model(load_conf(CONF)).train()(model_input(2, 15, False))
    truth = {"rgb": torch.zeros(2, 15, 3)}
    first = loss(outputs, truth)
    assert list(first) == ["loss", "rgb_loss", "eikonal_loss", "mask_loss"]
    assert all(value.shape == () for value in first.values())
    weights = {"eikonal_weight": 0.3, "mask_weight": 7.0, "alpha": 200.0}
    for name, value in weights.items():
        setattr(loss, name, value)
    second = loss(outputs, truth)
    assert torch.equal(second["rgb_loss"], first["rgb_loss"])
    assert second["mask_loss"] < first["mask_loss"]  # alpha is read in each call
    total = second["rgb_loss"] + 0.3 * second["eikonal_loss"] + 7.0 * second["mask_loss"]
    torch.testing.assert_close(second["loss"], total)


# ---- classes of the user

OWN = '''
import torch
from torch import nn
from torch.nn import functional

LOG = []


class Views(torch.utils.data.Dataset):
    """Three empty views, with only the published methods."""

    def __init__(self, train_cameras, img_res, shade, scan_id=0):
        self.train_cameras, self.img_res, self.shade, self.scan_id = train_cameras, img_res, shade, scan_id
        self.total_pixels = img_res[0] * img_res[1]
        self.sampling_idx = None

    def __len__(self):
        return 3

    def __getitem__(self, index):
        k = torch.arange(self.total_pixels)
        uv = torch.stack((k % self.img_res[1], k // self.img_res[1]), dim=1).float()
        chosen = k if self.sampling_idx is None else self.sampling_idx
        intrinsics = torch.eye(4)
        intrinsics[0, 0] = intrinsics[1, 1] = 8.0
        intrinsics[0, 2] = intrinsics[1, 2] = 3.5
        mask = (uv - 3.5).norm(dim=1) < 1.5
        sample = {"object_mask": mask[chosen], "uv": uv[chosen], "intrinsics": intrinsics}
        sample["pose"] = self.get_gt_pose(True)[index]
        LOG.append(("item", len(chosen)))
        return index, sample, {"rgb": torch.full((len(chosen), 3), float(self.shade))}

    def collate_fn(self, items):
        indices, samples, truths = zip(*items)
        stack = lambda dicts: {key: torch.stack([d[key] for d in dicts]) for key in dicts[0]}
        return torch.LongTensor(indices), stack(samples), stack(truths)

    def change_sampling_idx(self, size):
        self.sampling_idx = None if size == -1 else torch.randperm(self.total_pixels)[:size]

    def get_scale_mat(self):
        return torch.diag(torch.tensor([2.0, 2, 2, 1])).numpy()

    def get_gt_pose(self, scaled=False):
        poses = torch.eye(4).repeat(3, 1, 1)
        poses[:, 2, 3] = -3.0 if scaled else -6.0
        return poses


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.cat((x.norm(dim=1, keepdim=True) - self.radius, x), dim=1)

    def gradient(self, x):
        return functional.normalize(x, dim=1).unsqueeze(1)


class Paint(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb = nn.Parameter(torch.zeros(3))

    def forward(self, points, normals, view_dirs, features):
        return self.rgb.expand(len(points), 3)


class Ball(nn.Module):
    """A ball; its conf block has an additional key."""

    def __init__(self, conf):
        super().__init__()
        self.flavour = conf.get_string("flavour")
        self.implicit_network, self.rendering_network = Field(), Paint()

    def forward(self, inputs):
        uv, pose, intrinsics = inputs["uv"], inputs["pose"], inputs["intrinsics"]
        xy = (uv - intrinsics[:, None, :2, 2]) / intrinsics[:, None, 0, 0, None]
        v = functional.normalize(torch.cat((xy, torch.ones_like(xy[..., :1])), -1), dim=-1).reshape(-1, 3)
        c = pose[:, :3, 3].repeat_interleave(uv.shape[1], dim=0)
        along = -(v * c).sum(1)
        closest = c + along[:, None] * v
        hit = closest.norm(dim=1) < self.implicit_network.radius
        rgb = torch.where(hit[:, None], self.rendering_network(closest, v, -v, closest), torch.ones(()))
        return {
            "points": closest, "rgb_values": rgb, "sdf_output": self.implicit_network(closest)[:, :1],
            "network_object_mask": hit.detach(), "object_mask": inputs["object_mask"].reshape(-1),
            "grad_theta": None,
        }


class Loss(nn.Module):
    """Squared errors; its conf block has an additional key."""

    def __init__(self, sharpness):
        super().__init__()
        self.alpha = sharpness

    def forward(self, outputs, truth):
        LOG.append(("alpha", float(self.alpha)))
        rgb = ((outputs["rgb_values"] - truth["rgb"].reshape(-1, 3)) ** 2).mean()
        mask = functional.softplus(self.alpha * outputs["sdf_output"]).mean() / self.alpha
        return {"loss": rgb + mask, "rgb_loss": rgb, "eikonal_loss": rgb.new_zeros(()), "mask_loss": mask}
'''

OWN_CONF = """
train {
    expname = own
    dataset_class = users_parts.Views, model_class = users_parts.Ball, loss_class = users_parts.Loss
    learning_rate = 0.01, num_pixels = 6, plot_freq = 1000, alpha_milestones = [1], alpha_factor = 3
}
plot { resolution = 8 }
loss { sharpness = 20 }
dataset { img_res = [8, 8], shade = 0.5 }
model { flavour = vanilla }
"""


@pytest.fixture
def own_parts(root, monkeypatch):
    """Puts the module of the user on the path."""
    folder = root / "mine"
    folder.mkdir()
    (folder / "users_parts.py").write_text(OWN)
    (root / "tiny.conf").write_text(OWN_CONF)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "users_parts", raising=False)
    import users_parts

    yield users_parts
    sys.modules.pop("users_parts", None)


def test_own_classes_train_and_are_evaluated(root, own_parts, capsys):
    assert train([*TRAIN[:3], "2", *TRAIN[4:], "--batch_size", "2"]) == 0
    # Schedules set the attribute of the loss; the sampled pixels reach the items of the data set.
    assert [value for kind, value in own_parts.LOG if kind == "alpha"] == [20.0, 20.0, 60.0, 60.0]
    assert {value for kind, value in own_parts.LOG if kind == "item"} == {6, 64}  # training, plots
    run = only_run(root, "own")
    weights = torch.load(run / "checkpoints" / "ModelParameters" / "2.pth", weights_only=True)[
        "model_state_dict"
    ]
    assert list(weights) == ["implicit_network.radius", "rendering_network.rgb"]
    assert (weights["rendering_network.rgb"] > 0).all()  # towards the color of the photographs

    capsys.readouterr()
    assert evaluate([*EVALUATE, "--eval_rendering"]) == 0
    assert "RENDERING EVALUATION" in capsys.readouterr().out
    record = json.loads((root / "evals" / "own" / "results.json").read_text())
    assert record["epoch"] == 2 and len(record["rendering"]["views"]) == 3
    assert Path(root / "evals" / "own" / "rendering" / "eval_002.png").is_file()


@pytest.mark.parametrize(
    "key, path, message",
    [
        ("model", "model.implicit_differentiable_renderer.IDRNetwork", "model.feature_vector_size: missing"),
        ("loss", "model.loss.IDRLoss", "loss.sharpness: unknown key; keys of `loss`: eikonal_weight"),
    ],
)
def test_built_in_classes_check_their_blocks_next_to_user_classes(
    root, own_parts, capsys, key, path, message
):
    assert train([*TRAIN, "--set", f"train.{key}_class={path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and "Traceback" not in error
    assert f"error: {message}" in error
