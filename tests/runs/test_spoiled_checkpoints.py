"""Readable checkpoints with spoiled values: `Run` refuses each with one message and never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation import ball
from tests.evaluation.test_reconstruction import drifted_poses
from torch import Tensor

from idr.conf.files import load_conf
from idr.errors import InputError
from idr.model.encodings.sinusoids import Sinusoids, SinusoidsConfig
from idr.runs import Run
from idr.runs.folders import CheckpointFolder, create_run

Parts = dict[str, dict[str, Any]]
B = ball.NUM_VIEWS


def good_parts() -> Parts:
    """A checkpoint with trained poses and intrinsics, and every part that a run reads."""
    model = ball.BallModel({"feature_vector_size": 4})
    poses = torch.as_tensor(drifted_poses())
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    return {
        "ModelParameters": {"epoch": 7, "model_state_dict": model.state_dict()},
        "CamParameters": {"epoch": 7, "pose_vecs_state_dict": {"weight": poses}},
        "CameraState": {
            "epoch": 7,
            "poses": "se3",
            "given_intrinsics": intrinsics.expand(B, 4, 4).clone(),
            "intrinsics": {"focal": torch.full((1, 1), 0.1), "principal_point": torch.zeros(B, 2)},
        },
        "TrainerState": {"epoch": 7, "step": 0, "seed": 0, "scale_mat": torch.eye(4, dtype=torch.float64)},
        "RecipeState": {"epoch": 7, "open_levels": 2.5},
        "ExposureState": {"epoch": 7, "log_gain": torch.zeros(B, 3), "offset": torch.zeros(B, 3)},
    }


def open_parts(parts: Parts, root: Path, data_root: Path) -> Run:
    """Saves the parts as the published code does, opens the run and reads everything it derives."""
    folder = create_run(root / "exps", "ball_3")
    for part, content in parts.items():
        path = folder / "checkpoints" / part / "7.pth"
        path.parent.mkdir(parents=True)
        torch.save(content, path)
    conf = load_conf(ball.conf_text())
    run = Run(conf, folder, device=torch.device("cpu"), scan_id=3, data_root=str(data_root))
    run.read_scene()
    assert run.world_from_unit.shape == (4, 4) and run.training_intrinsics.shape == (B, 4, 4)
    return run


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ball.write_scene(tmp_path_factory.mktemp("scene"))


def test_good_checkpoint_opens(tmp_path: Path, data_root: Path) -> None:
    run = open_parts(good_parts(), tmp_path, data_root)
    assert run.epoch == 7 and run.trained_poses is not None
    expected = ball.INTRINSICS[0, 0] * torch.tensor(0.1).exp()
    torch.testing.assert_close(run.training_intrinsics[:, 0, 0], expected.float().expand(B))


def with_value(tensor: Tensor, value: float) -> Tensor:
    spoiled = tensor.clone()
    spoiled.view(-1)[0] = value
    return spoiled


# Tensors that are wrong wherever a finite floating-point tensor of that shape is expected.
NO_TENSOR: dict[str, Callable[[Tensor], Any]] = {
    "absent": lambda tensor: None,
    "text": lambda tensor: "weights",
    "number": lambda tensor: 3.0,
    "list": lambda tensor: tensor.tolist(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "boolean": lambda tensor: tensor != 0,
    "integer": lambda tensor: tensor.long(),
    "sparse": lambda tensor: tensor.to_sparse(),
    "meta": lambda tensor: tensor.to("meta"),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
}
WRONG_VALUES: dict[str, Callable[[Tensor], Any]] = {
    "flat": lambda tensor: tensor.reshape(-1),
    "empty": lambda tensor: tensor[:0],
    "transposed": lambda tensor: torch.cat((tensor, tensor), dim=-1),
    "nan": lambda tensor: with_value(tensor, torch.nan),
    "infinite": lambda tensor: with_value(tensor, torch.inf),
}
TENSORS = {
    "pose_vecs_state_dict.weight": ("CamParameters", "pose_vecs_state_dict", "weight"),
    "given_intrinsics": ("CameraState", "given_intrinsics"),
    "intrinsics.focal": ("CameraState", "intrinsics", "focal"),
    "intrinsics.principal_point": ("CameraState", "intrinsics", "principal_point"),
    "scale_mat": ("TrainerState", "scale_mat"),
    "log_gain": ("ExposureState", "log_gain"),
    "offset": ("ExposureState", "offset"),
}
LEGAL = {("scale_mat", "absent")}  # published checkpoints lack it
EMPTY = {(what, "empty") for what in ("pose_vecs_state_dict.weight", "given_intrinsics", "log_gain")}
"""Legal shapes, refused since they are of another number of images; tested separately."""
SPOILED = [
    (what, how) for what in TENSORS for how in NO_TENSOR | WRONG_VALUES if (what, how) not in LEGAL | EMPTY
]


@pytest.mark.parametrize(("what", "how"), SPOILED)
def test_spoiled_tensors_are_refused(tmp_path: Path, data_root: Path, what: str, how: str) -> None:
    parts: Any = good_parts()
    *keys, last = TENSORS[what]
    holder = parts
    for key in keys:
        holder = holder[key]
    holder[last] = (NO_TENSOR | WRONG_VALUES)[how](holder[last])
    name = re.escape(f"{TENSORS[what][0]}.{what}")
    message = rf"checkpoint 7 of .*, {name}: got .*; expected .*; continue from another checkpoint"
    with pytest.raises(InputError, match=message):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        ("CamParameters", "pose_vecs_state_dict", "expected intrinsics of 0 images, as many as poses"),
        ("CameraState", "given_intrinsics", "expected one row, or one for each image"),
        ("ExposureState", "log_gain", r"ExposureState\.offset: got .*; expected 0 rows, as many as log_gain"),
    ],
)
def test_tables_of_no_image_are_refused(
    tmp_path: Path, data_root: Path, part: str, key: str, message: str
) -> None:
    parts = good_parts()
    table = parts[part][key]
    parts[part][key] = {"weight": table["weight"][:0]} if isinstance(table, dict) else table[:0]
    with pytest.raises(InputError, match=message):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize("rows", [2, B + 1])
@pytest.mark.parametrize("name", ["focal", "principal_point"])
def test_tables_of_another_number_of_images_are_refused(
    tmp_path: Path, data_root: Path, name: str, rows: int
) -> None:
    parts = good_parts()
    width = parts["CameraState"]["intrinsics"][name].shape[1]
    parts["CameraState"]["intrinsics"][name] = torch.zeros(rows, width)
    with pytest.raises(InputError, match=rf"{name}: got a float32 tensor \({rows}, {width}\)"):
        open_parts(parts, tmp_path, data_root)


def test_a_zero_quaternion_is_refused(tmp_path: Path, data_root: Path) -> None:
    parts = good_parts()
    parts["CamParameters"]["pose_vecs_state_dict"]["weight"][2, :4] = 0
    with pytest.raises(InputError, match="weight: got .*; expected quaternions that are not zero"):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize("table", [None, "poses", 5, [], {}])
def test_a_table_of_poses_that_is_none_is_refused(tmp_path: Path, data_root: Path, table: Any) -> None:
    parts = good_parts()
    parts["CamParameters"]["pose_vecs_state_dict"] = table
    with pytest.raises(InputError, match=r"CamParameters\.pose_vecs_state_dict(\.weight)?: got"):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize("tables", ["shared", 5, [1.0]])
def test_tables_of_intrinsics_that_are_none_are_refused(tmp_path: Path, data_root: Path, tables: Any) -> None:
    parts = good_parts()
    parts["CameraState"]["intrinsics"] = tables
    with pytest.raises(InputError, match=r"CameraState\.intrinsics: got"):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize(
    "epoch", ["seven", None, -1, True, 7.5, float("inf"), float("nan"), [7], torch.tensor(7)]
)
def test_epochs_that_are_no_count_are_refused(tmp_path: Path, data_root: Path, epoch: Any) -> None:
    parts = good_parts()
    parts["ModelParameters"]["epoch"] = epoch
    with pytest.raises(
        InputError, match=r"ModelParameters\.epoch: got .*; expected a whole number, 0 or more"
    ):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize("value", ["two", None, -0.5, True, float("inf"), float("nan"), torch.tensor(2.0)])
@pytest.mark.parametrize("key", ["open_levels", "open_color_levels"])
def test_open_levels_that_are_no_number_are_refused(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    network = {"open_levels": ball.BallField, "open_color_levels": ball.Paint}[key]
    monkeypatch.setattr(network, "encoding", Sinusoids(SinusoidsConfig(multires=4)), raising=False)
    parts = good_parts()
    parts["RecipeState"][key] = value
    with pytest.raises(
        InputError, match=rf"checkpoint 7 of .*: {key} = .*: expected a number of open levels"
    ):
        open_parts(parts, tmp_path, data_root)


@pytest.mark.parametrize("how", NO_TENSOR)
def test_weights_of_another_kind_are_refused(tmp_path: Path, data_root: Path, how: str) -> None:
    parts = good_parts()
    weights = parts["ModelParameters"]["model_state_dict"]
    weights["implicit_network.center"] = NO_TENSOR[how](weights["implicit_network.center"])
    with pytest.raises(InputError, match="implicit_network.center|holds no model_state_dict of tensors"):
        open_parts(parts, tmp_path, data_root)


def test_half_and_double_weights_open(tmp_path: Path, data_root: Path) -> None:
    parts = good_parts()
    weights = parts["ModelParameters"]["model_state_dict"]
    weights["implicit_network.center"] = weights["implicit_network.center"].half()
    weights["implicit_network.radius"] = weights["implicit_network.radius"].double()
    assert float(open_parts(parts, tmp_path, data_root).sdf(torch.zeros(3))) == pytest.approx(-ball.RADIUS)


@pytest.mark.parametrize("kind", ["weights", "poses"])
def test_the_report_reads_cameras_by_the_same_checks(tmp_path: Path, data_root: Path, kind: str) -> None:
    from idr.evaluation.report.figures import camera_paths

    run = open_parts(good_parts(), tmp_path, data_root)
    spoiled = {"weights": torch.full((B, 7), torch.nan), "poses": "text"}[kind]
    content = {"epoch": 8, "pose_vecs_state_dict": {"weight": spoiled}}
    model = CheckpointFolder(run.folder / "checkpoints").load("ModelParameters", "7") | {"epoch": 8}
    torch.save(content, run.folder / "checkpoints" / "CamParameters" / "8.pth")
    torch.save(model, run.folder / "checkpoints" / "ModelParameters" / "8.pth")
    with pytest.raises(
        InputError, match=r"checkpoint 8, CamParameters\.pose.*: got .*; expected a dense tensor"
    ):
        camera_paths(run)
