"""Checkpoints both ways: published files load here, and files saved here load in the published code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import tiny
from torch import nn

from idr.checkpoints.folder import STATE_KEYS, CheckpointFolder
from idr.errors import MissingInputError

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
PUBLISHED_KEYS = {
    "ModelParameters": "model_state_dict",
    "OptimizerParameters": "optimizer_state_dict",
    "SchedulerParameters": "scheduler_state_dict",
    "CamParameters": "pose_vecs_state_dict",
    "OptimizerCamParameters": "optimizer_cam_state_dict",
}


class Training:
    """A model, poses and their optimizers in the published form after a few steps."""

    def __init__(self, seed: int, steps: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1))
        self.poses = nn.Embedding(5, 7, sparse=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4], gamma=0.5)
        self.optimizer_cam = torch.optim.SparseAdam(list(self.poses.parameters()), lr=1e-3)
        for step in range(steps):
            self.step(step)

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        self.optimizer_cam.zero_grad()
        pose = self.poses(torch.tensor([number % 5]))
        (self.model(pose[:, :3]) + pose.sum()).square().sum().backward()
        self.optimizer.step()
        self.optimizer_cam.step()
        self.scheduler.step()

    def parts(self, epoch: int) -> dict[str, dict[str, Any]]:
        states = (self.model, self.optimizer, self.scheduler, self.poses, self.optimizer_cam)
        pairs = zip(PUBLISHED_KEYS.items(), states, strict=True)
        return {part: {"epoch": epoch, key: state.state_dict()} for (part, key), state in pairs}

    def load_as_published(self, checkpoints: Path, name: str) -> int:
        """Resumes with the calls of the published code."""
        epoch = -1
        states = (self.model, self.optimizer, self.scheduler, self.poses, self.optimizer_cam)
        for (part, key), state in zip(PUBLISHED_KEYS.items(), states, strict=True):
            data = torch.load(str(checkpoints / part / name) + ".pth", weights_only=False)
            state.load_state_dict(data[key])
            epoch = data["epoch"]
        return epoch

    def weights(self) -> list[torch.Tensor]:
        return [*self.model.state_dict().values(), self.poses.weight.detach()]


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_golden_checkpoints_load(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoints" / "ModelParameters"
    folder.mkdir(parents=True)
    (folder / "2000.pth").write_bytes((GOLDEN / name / "checkpoint.pth").read_bytes())
    checkpoints = CheckpointFolder(folder.parent)
    assert checkpoints.resolve("latest") == "2000"  # as in pretrained runs, which have no latest
    content = checkpoints.load("ModelParameters", "2000")
    assert list(content) == ["epoch", "model_state_dict"]
    first = next(iter(content["model_state_dict"]))
    assert first == ("implicit_network.lin0.weight" if name == "b" else "implicit_network.lin0.bias")
    assert checkpoints.epoch_of("2000") == content["epoch"]
    assert not checkpoints.has("CamParameters", "2000")
    with pytest.raises(
        MissingInputError, match=r"checkpoint 2000 in .* holds no OptimizerParameters, only ModelParam"
    ):
        checkpoints.load("OptimizerParameters", "2000")


def test_part_names_and_keys_are_the_published_ones() -> None:
    ours = ("TrainerState", "TracerState", "CameraState", "RecipeState", "ExposureState")
    assert {part: key for part, key in STATE_KEYS.items() if part not in ours} == PUBLISHED_KEYS


def test_ours_resumes_in_the_published_code(tmp_path: Path) -> None:
    training = Training(seed=0)
    CheckpointFolder(tmp_path).save(
        "100", 100, 0, training.parts(100) | {"TrainerState": {"epoch": 100, "seed": 1}}
    )
    for name in ("100", "latest"):
        other = Training(seed=1, steps=1)
        assert other.load_as_published(tmp_path, name) == 100
        reference = Training(seed=0)
        for number in (3, 4, 5):
            other.step(number)
            reference.step(number)
        assert all(map(torch.equal, other.weights(), reference.weights()))
        assert other.scheduler.get_last_lr() == reference.scheduler.get_last_lr()


def test_published_run_resumes_here_and_continues(tmp_path: Path) -> None:
    training = Training(seed=0)
    for name, epoch in (("0", 0), ("100", 100), ("latest", 100)):
        for part, content in training.parts(epoch).items():
            (tmp_path / part).mkdir(exist_ok=True)
            torch.save(content, tmp_path / part / f"{name}.pth")
    checkpoints = CheckpointFolder(tmp_path)
    assert checkpoints.names() == ["0", "100", "latest"] and checkpoints.epoch_of() == 100
    parts = checkpoints.load_all()
    assert set(parts) == set(PUBLISHED_KEYS)
    other = Training(seed=3)
    other.optimizer_cam.load_state_dict(parts["OptimizerCamParameters"]["optimizer_cam_state_dict"])
    other.model.load_state_dict(parts["ModelParameters"]["model_state_dict"])
    assert all(map(torch.equal, other.weights()[:4], training.weights()[:4]))

    training.step(3)
    checkpoints.save("101", 101, 0, training.parts(101))
    assert checkpoints.names() == ["0", "100", "101"] and checkpoints.resolve() == "101"
    assert Training(seed=1).load_as_published(tmp_path, "latest") == 101


def test_files_are_in_the_format_of_the_published_torch(tmp_path: Path) -> None:
    """torch 1.2 does not read zip files; its files begin with a pickled magic number."""
    CheckpointFolder(tmp_path).save("1", 1, 0, Training(seed=0).parts(1))
    for part in PUBLISHED_KEYS:
        file = tmp_path / part / "1.pth"
        assert not zipfile.is_zipfile(file)
        assert file.read_bytes().startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def test_equal_states_give_equal_content(tmp_path: Path) -> None:
    """Resumed training can be compared with uninterrupted training part by part."""
    training = Training(seed=0)
    first, second = CheckpointFolder(tmp_path / "first"), CheckpointFolder(tmp_path / "second")
    first.save("1", 1, 0, training.parts(1))
    other = Training(seed=5)
    other.load_as_published(first.path, "1")
    second.save("1", 1, 0, other.parts(1))
    for part in PUBLISHED_KEYS:
        assert tiny.same(first.load(part, "1"), second.load(part, "1")), part


def test_files_from_a_gpu_load_on_the_cpu(tmp_path: Path) -> None:
    """Pretrained runs hold CUDA tensors; here the device name in the file is replaced, without a GPU."""
    checkpoints = CheckpointFolder(tmp_path)
    checkpoints.save("1", 1, 0, Training(seed=0).parts(1))
    content = (tmp_path / "ModelParameters" / "1.pth").read_bytes()
    assert b"X\x03\x00\x00\x00cpu" in content
    folder = tmp_path / "gpu" / "ModelParameters"
    folder.mkdir(parents=True)
    (folder / "2000.pth").write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    weights = CheckpointFolder(folder.parent).load("ModelParameters")["model_state_dict"]
    assert {str(value.device) for value in weights.values()} == {"cpu"}
