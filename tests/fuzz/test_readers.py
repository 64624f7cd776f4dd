"""Every reader returns or refuses a damaged file, in time, and leaves it as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyhocon import ConfigFactory

from idr.checkpoints.folder import CheckpointFolder
from idr.checkpoints.metrics import read_metrics
from idr.conf.build import build_loss, build_model, scan_id_of
from idr.conf.files import load_conf, read_block, save_conf
from idr.datasets.camera_files import read_cameras
from idr.datasets.points import read_points as read_scene_points
from idr.evaluation.summary import read_scan, write_summary
from idr.importers.camera_path import read_path
from idr.importers.points import read_points
from idr.importers.recognize import read_source
from idr.pictures.plots import PlotConfig
from idr.runs.folders import conf_of_run
from idr.training.config import TrainConfig
from idr.training.progress import MetricsFile
from tests.cli.bad_input import CONF, NUM_VIEWS, write_scene
from tests.evaluation import ball
from tests.fuzz.damage import (
    VALUES,
    bounded,
    damaged_arrays,
    damaged_bytes,
    damaged_text,
    damaged_tree,
    reads_or_refuses,
)
from tests.importers import colmap_writer, writers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def tree_of(conf: str) -> dict[str, Any]:
    return json.loads(json.dumps(ConfigFactory.parse_string(conf)))


def dump(tree: Any) -> bytes:
    return json.dumps(tree).encode()


# ---- confs


@bounded(60)
@given(text=damaged_text(CONF))
def test_conf_text(folder, text):
    path = folder / "x.conf"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    reads_or_refuses(lambda: load_conf(path), path)


@bounded(60)
@given(content=damaged_bytes(CONF.encode()))
def test_conf_bytes(folder, content):
    path = folder / "runconf.conf"
    path.write_bytes(content)
    reads_or_refuses(lambda: conf_of_run(folder, None), path)


@bounded(60)
@given(tree=damaged_tree(tree_of(CONF)))
def test_conf_values(folder, tree):
    """All blocks are read, and what they describe is built."""
    if not isinstance(tree, dict):
        return

    def read() -> None:
        path = folder / "y.conf"
        save_conf(ConfigFactory.from_dict(tree), path)
        conf = load_conf(path)
        read_block(TrainConfig, conf.get("train", None), "train", unknown="warn")
        read_block(PlotConfig, conf.get("plot", None), "plot")
        scan_id_of(conf)
        build_model(conf)
        build_loss(conf)

    reads_or_refuses(read)


keys = st.sampled_from(["train.num_pixels", "model.implicit_network.dims", "dataset.data_dir", "x", ""])


@bounded(80)
@given(key=keys, value=st.one_of(st.text(max_size=20), damaged_text("[1, {a = 2}, x]")))
def test_override(key, value):
    text = "train { num_pixels = 1 }\nmodel { implicit_network { dims = [1] } }\n"
    reads_or_refuses(lambda: load_conf(text, [f"{key}={value}"]))


# ---- cameras and points


@pytest.fixture(scope="module")
def cameras(folder: Path) -> dict[str, np.ndarray]:
    with np.load(write_scene(folder / "scan3") / "cameras.npz") as archive:
        return dict(archive)


@bounded(60)
@given(data=st.data())
def test_camera_arrays(folder, cameras, data):
    path = folder / "cameras.npz"
    np.savez(path, **data.draw(damaged_arrays(cameras)))
    reads_or_refuses(lambda: read_cameras(path, NUM_VIEWS), path)


@bounded(40)
@given(data=st.data())
def test_camera_bytes(folder, cameras, data):
    path = folder / "cameras.npz"
    np.savez(path, **cameras)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    reads_or_refuses(lambda: read_cameras(path, NUM_VIEWS), path)


@bounded(40)
@given(arrays=damaged_arrays({"points_world": np.random.default_rng(0).random((20, 3))}))
def test_point_arrays(folder, arrays):
    path = folder / "points.npz"
    np.savez(path, **arrays)
    reads_or_refuses(lambda: read_scene_points(path), path)
    reads_or_refuses(lambda: read_points(path), path)


PLY = """ply
format ascii 1.0
element vertex 12
property float x
property float y
property float z
end_header
""" + "0 1 2\n3 4 5.5\n" * 6


@pytest.mark.parametrize("ending", ["ply", "txt", "npy", "npz"])
def test_point_bytes(folder, ending):
    @bounded(30)
    @given(content=damaged_bytes(PLY.encode()))
    def check(content):
        path = folder / f"points.{ending}"
        path.write_bytes(content)
        reads_or_refuses(lambda: read_points(path), path)
        reads_or_refuses(lambda: read_scene_points(path), path)

    check()


# ---- sources of scenes


SOURCES = {
    "transforms.json": writers.write_nerfstudio,
    "cameras_sphere.npz": writers.write_npz,
    "scene_par.txt": writers.write_middlebury,
    "sparse/0/cameras.txt": colmap_writer.write_colmap,
    "sparse/0/images.txt": colmap_writer.write_colmap,
    "sparse/0/points3D.txt": colmap_writer.write_colmap,
}


@pytest.fixture(scope="module", params=SOURCES)
def damaged_source(request, tmp_path_factory):
    """A scene, and the file of it to damage with its whole content."""
    source = tmp_path_factory.mktemp("source")
    SOURCES[request.param](source, source / "mask")
    named = sorted(source.rglob(Path(request.param).name))
    path = named[0] if named else sorted(source.glob("*_par.txt"))[0]
    return source, path, path.read_bytes()


@bounded(40)
@given(data=st.data())
def test_source(damaged_source, data):
    source, path, whole = damaged_source
    if path.suffix == ".json":
        content = data.draw(st.one_of(damaged_tree(json.loads(whole)).map(dump), damaged_bytes(whole)))
    elif path.suffix == ".npz":
        content = data.draw(damaged_bytes(whole))
    else:
        content = data.draw(damaged_text(whole.decode())).encode("utf-8", "surrogatepass")
    path.write_bytes(content)
    try:
        reads_or_refuses(lambda: read_source(source), path)
    finally:
        path.write_bytes(whole)


@bounded(80)
@given(data=st.data())
def test_camera_path(folder, data):
    frame = {"transform_matrix": np.eye(4).tolist()}
    frames = {"w": 8, "h": 6, "camera_angle_x": 0.9, "frames": [frame, frame]}
    entry = {"camera_to_world": np.eye(4).reshape(-1).tolist(), "fov": 50}
    path = folder / "path.json"
    saved = {"render_height": 6, "render_width": 8, "camera_path": [entry]}
    whole = data.draw(st.sampled_from([frames, saved]))
    path.write_bytes(data.draw(st.one_of(damaged_tree(whole).map(dump), damaged_bytes(dump(whole)))))
    reads_or_refuses(lambda: read_path(path), path)


def test_deep_json(folder):
    for name, read in (("path.json", read_path), ("results.json", lambda _: read_scan(3, folder))):
        (folder / name).write_text("[" * 100_000)
        reads_or_refuses(lambda name=name, read=read: read(folder / name), folder / name)


# ---- runs and results


METRICS = "epoch,loss,psnr,minutes\n0,0.5,20,0.1\n1,0.4,,0.2\n2,0.3,22,0.3\n"


@bounded(80)
@given(content=st.one_of(damaged_bytes(METRICS.encode()), damaged_text(METRICS).map(str.encode)))
def test_metrics(folder, content):
    path = folder / "metrics.csv"
    path.write_bytes(content)
    reads_or_refuses(lambda: MetricsFile(path, 2).minutes_so_far, path)
    reads_or_refuses(lambda: read_metrics(path), path)


RESULTS = {
    "epoch": 7, "surface": {"file": "mesh.ply"}, "cameras": {"rotation_degrees_mean": 0.1},
    "rendering": {"psnr_mean": 20.0, "exposure": "x"}, "rendering_held_out": {}, "lpips_error": "y",
}  # fmt: skip
SCORES = {"protocol": "dtu", "accuracy": 1.0, "completeness": 2.0, "overall": 1.5, "chamfer": 3.0}


@bounded(80)
@given(results=damaged_tree(RESULTS), scores=st.one_of(st.just(SCORES), damaged_tree(SCORES)))
def test_results(folder, results, scores):
    (folder / "results.json").write_bytes(dump(results))
    (folder / "mesh_scores.json").write_bytes(dump(scores))
    files = folder / "results.json", folder / "mesh_scores.json"
    reads_or_refuses(lambda: write_summary([read_scan(3, folder)[0]], folder / "summary"), *files)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    ball.write_scene(root)
    run = ball.write_run(root / "exps", poses=np.tile([1.0, 0, 0, 0, 0, 0, -3], (6, 1)))
    conf = f'{ball.conf_text()}\ndataset.scan_id = 3\ndataset.data_root = "{root / "data"}"\n'
    (run / "runconf.conf").write_text(conf)
    return run


@bounded(40)
@given(data=st.data())
def test_manifest(run, data):
    (path, *_) = sorted((run / "checkpoints").rglob("7.json"))
    whole = path.read_bytes()
    path.write_bytes(data.draw(st.one_of(damaged_tree(json.loads(whole)).map(dump), damaged_bytes(whole))))
    try:
        reads_or_refuses(lambda: CheckpointFolder(run / "checkpoints").load_all(), path)
    finally:
        path.write_bytes(whole)


TENSORS: list[Any] = [
    torch.zeros(0), torch.full((6, 7), torch.nan), torch.zeros(6, 7), torch.eye(3, dtype=torch.complex64),
    torch.zeros(3, dtype=torch.bool), torch.zeros(6, 7).to_sparse(), torch.zeros(2, device="meta"), -1,
]  # fmt: skip


@bounded(50)
@given(data=st.data())
def test_checkpoint_parts(run, data):
    import idr

    checkpoints = run / "checkpoints"
    part = data.draw(st.sampled_from(["ModelParameters", "CamParameters"]))
    paths = [checkpoints / part / name for name in ("7.pth", "latest.pth")]
    whole = [path.read_bytes() for path in paths]
    manifests = {path: path.read_bytes() for path in checkpoints.rglob("*.json")}
    content = torch.load(paths[0], weights_only=True)
    tree = data.draw(damaged_tree(plain(content), [*TENSORS, *VALUES]))
    try:
        for path in manifests:
            path.unlink()  # their digests would refuse it first
        for path in paths:
            torch.save(tree, path)
        reads_or_refuses(lambda: idr.load_run(run).sdf(np.zeros(3)), *paths)
    finally:
        for path, text in [*zip(paths, whole, strict=True), *manifests.items()]:
            path.write_bytes(text)


def plain(content: Any) -> Any:
    return {key: plain(value) for key, value in content.items()} if isinstance(content, dict) else content
