"""The confs in confs/: published values, no unknown keys, and models that can be built."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from idr.cli import train
from idr.conf.build import LOSS_TERMS, scan_id_of
from idr.conf.files import load_conf, read_block, resolve_class
from idr.errors import InputError
from idr.model.implicit_differentiable_renderer import ModelConfig
from idr.model.implicit_network import ImplicitNetworkConfig
from idr.model.loss import LossConfig
from idr.model.rendering_network import RenderingNetworkConfig
from idr.model.tracing.common import TracerConfig
from idr.pictures.plots import PlotConfig
from idr.runs.folders import run_name
from idr.training.config import TrainConfig
from idr.training.terms.components import ComponentsConfig
from idr.training.terms.normals import NormalsConfig
from idr.training.terms.patch import PatchConfig
from idr.training.terms.sparse_points import SparsePointsConfig

CONFS = Path(__file__).parents[2] / "confs"
ALL = sorted(CONFS.rglob("*.conf"))
GOLDEN = sorted((Path(__file__).parents[1] / "parity" / "golden").glob("*/model.conf"))
PUBLISHED = {
    "train": {
        "expname": "dtu_fixed_cameras",
        "dataset_class": "datasets.scene_dataset.SceneDataset",
        "model_class": "model.implicit_differentiable_renderer.IDRNetwork",
        "loss_class": "model.loss.IDRLoss",
        "learning_rate": 1e-4,
        "num_pixels": 2048,
        "plot_freq": 100,
        "alpha_milestones": [250, 500, 750, 1000, 1250],
        "alpha_factor": 2,
        "sched_milestones": [1000, 1500],
        "sched_factor": 0.5,
    },
    "plot": {"plot_nimgs": 1, "max_depth": 3.0, "resolution": 100},
    "loss": {"eikonal_weight": 0.1, "mask_weight": 100.0, "alpha": 50.0},
    "dataset": {"data_dir": "DTU", "img_res": [1200, 1600], "scan_id": 65},
    "model": {
        "feature_vector_size": 256,
        "implicit_network": {
            "d_in": 3, "d_out": 1, "dims": [512] * 8, "geometric_init": True, "bias": 0.6, "skip_in": [4],
            "weight_norm": True, "multires": 6,
        },
        "rendering_network": {
            "mode": "idr", "d_in": 9, "d_out": 3, "dims": [512] * 4, "weight_norm": True, "multires_view": 4,
        },
        "ray_tracer": {
            "object_bounding_sphere": 1.0, "sdf_threshold": 5e-5, "line_search_step": 0.5,
            "line_step_iters": 3, "sphere_tracing_iters": 10, "n_steps": 100, "n_secant_steps": 8,
        },
    },
}  # fmt: skip

NO_VIEW = {"mode": "no_view_dir", "d_in": 6, "multires_view": 0}
CHANGES: dict[str, dict[str, Any]] = {
    "dtu_fixed_cameras": {},
    "dtu_trained_cameras": {"train": {"learning_rate_cam": 1e-4}},
    "ablation/dtu_no_view_dir": {"dataset": {"scan_id": 114}, "model": {"rendering_network": NO_VIEW}},
    "ablation/dtu_no_normal": {
        "dataset": {"scan_id": 114},
        "model": {"rendering_network": {"mode": "no_normal", "d_in": 6}},
    },
    "ablation/dtu_no_feature_vector": {"dataset": {"scan_id": 114}, "model": {"feature_vector_size": 0}},
    "ablation/dtu_fixed_noisy_cameras": {"dataset": {"scan_id": 114, "cam_file": "cameras_linear_init.npz"}},
}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for key, value in change.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) else value
    return result


TERM_CONFIGS = {
    "components": ComponentsConfig, "normals": NormalsConfig, "patch": PatchConfig,
    "sparse_points": SparsePointsConfig,
}  # fmt: skip
assert set(TERM_CONFIGS) == set(LOSS_TERMS)


@pytest.mark.parametrize("name", CHANGES)
def test_published_confs_hold_the_published_values(name: str) -> None:
    expected = merged(PUBLISHED, CHANGES[name])
    expected["train"]["expname"] = name.split("/")[-1]
    assert load_conf(CONFS / f"{name}.conf") == expected


def test_the_published_confs_exist() -> None:
    names = {str(path.relative_to(CONFS).with_suffix("")) for path in ALL}
    assert set(CHANGES) | {"demo"} <= names


@pytest.mark.parametrize("path", ALL + GOLDEN, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_key_is_known(path: Path) -> None:
    conf = load_conf(path)
    assert set(conf) == {"train", "plot", "loss", "dataset", "model"}
    read_block(TrainConfig, conf["train"], "train")
    read_block(PlotConfig, conf["plot"], "plot")
    terms = {name: conf["loss"].pop(name) for name in LOSS_TERMS if name in conf["loss"]}
    read_block(LossConfig, conf["loss"], "loss")
    for name, block in terms.items():
        read_block(TERM_CONFIGS[name], block, f"loss.{name}")
    model = conf["model"]
    read_block(ImplicitNetworkConfig, model["implicit_network"], "model.implicit_network")
    rendering = read_block(RenderingNetworkConfig, model["rendering_network"], "model.rendering_network")
    read_block(TracerConfig, model["ray_tracer"], "model.ray_tracer")
    required = {"feature_vector_size", "implicit_network", "rendering_network", "ray_tracer"}
    assert required <= set(model) <= {key.name for key in fields(ModelConfig)}
    assert (rendering.mode == "idr") == (rendering.d_in == 9)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_model_is_built(path: Path) -> None:
    conf = load_conf(path)
    for key in ("dataset_class", "model_class", "loss_class"):
        assert isinstance(resolve_class(conf["train"][key]), type)
    with torch.device("meta"):
        network = resolve_class(conf["train"]["model_class"])(conf=conf["model"])
    feature, rendering = conf["model"]["feature_vector_size"], conf["model"]["rendering_network"]
    encoded = 6 * rendering.get("multires_view", 0)
    if "encoding_view" in rendering:  # replaces the three components of the direction
        view = rendering["encoding_view"]
        encoded = view["degree"] ** 2 * (2 if view.get("direction", "view") == "both" else 1) - 3
    if "view_dims" in rendering:  # a separate branch for the direction
        encoded = -3
    if "encoding" in rendering:  # in addition to the point
        encoded += rendering["encoding"]["levels"] * rendering["encoding"]["features"]
    first = next(
        value
        for name, value in network.named_parameters()
        if name.startswith("rendering_network.lin0.weight_v")
    )
    assert first.shape[1] == rendering["d_in"] + feature + encoded


@pytest.mark.parametrize(
    ("config", "block"),
    [
        (ImplicitNetworkConfig, "model.implicit_network"),
        (RenderingNetworkConfig, "model.rendering_network"),
        (TracerConfig, "model.ray_tracer"),
        (LossConfig, "loss"),
        (PlotConfig, "plot"),
        (TrainConfig, "train"),
    ],
)  # fmt: skip
def test_typos_are_refused_with_the_nearest_key(config: type, block: str) -> None:
    conf = load_conf(CONFS / "dtu_fixed_cameras.conf")
    key = [field.name for field in fields(config) if f"{block}.{field.name}" in conf][-1]
    conf.put(f"{block}.{key}s_", 1)
    with pytest.raises(InputError, match=rf"{block}\.{key}s_: unknown key \(did you mean {key}\?\)"):
        read_block(config, conf[block], block)


def test_defaults_are_the_published_ones() -> None:
    configs = (ImplicitNetworkConfig, RenderingNetworkConfig, TracerConfig)
    defaults = {field.name: field.default for config in configs for field in fields(config)}
    expected = {
        "geometric_init": True, "bias": 1.0, "skip_in": (), "weight_norm": True, "multires": 0,
        "multires_view": 0, "line_step_iters": 1, "sdf_threshold": 5e-5, "line_search_step": 0.5,
        "sphere_tracing_iters": 10,
        "n_steps": 100, "n_secant_steps": 8,
    }  # fmt: skip
    assert {key: defaults[key] for key in expected} == expected
    train = {field.name: field.default for field in fields(TrainConfig)}
    assert (train["alpha_milestones"], train["sched_milestones"]) == ((), ())
    assert (train["alpha_factor"], train["sched_factor"], train["learning_rate_cam"]) == (0.0, 0.0, None)


@pytest.mark.parametrize("name", ["dtu_fixed_cameras", "dtu_trained_cameras"])
def test_commands_without_scan_id_use_the_published_scan(name: str) -> None:
    conf = load_conf(CONFS / f"{name}.conf")
    scan_id = scan_id_of(conf, train.build_parser().parse_args([]).scan_id)
    assert scan_id == 65 and run_name(conf["train"]["expname"], "", scan_id) == f"{name}_65"
    assert scan_id_of(conf, train.build_parser().parse_args(["--scan_id", "24"]).scan_id) == 24
