"""A scene of five views of a ball, 16 x 12 pixels, and networks so small that an epoch takes a blink."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from idr.checkpoints.folder import PARTS, CheckpointFolder
from idr.checkpoints.format import read_content
from idr.conf.build import build_dataset, build_loss, build_model
from idr.conf.files import load_conf, read_block
from idr.training.cameras.intrinsics import make_cameras
from idr.training.config import TrainConfig
from idr.training.terms.build import build_terms
from idr.training.trainer import RunWriters, Trainer

HEIGHT, WIDTH, NUM_VIEWS = 12, 16, 5
RADIUS = 0.5
SCALE, OFFSET = 80.0, np.array([10.0, -20.0, 300.0])
INTRINSICS = np.array([[18.0, 0.0, 7.5], [0.0, 18.0, 5.5], [0.0, 0.0, 1.0]])


def camera_matrix(angle: float, shift: float = 0.0) -> np.ndarray:
    """World-to-camera (3, 4) in unit-sphere coordinates: on a ring, looking inwards; ``shift`` moves it."""
    center = 2.5 * np.array([np.cos(angle), np.sin(angle), 0.3]) + shift
    z = -center / np.linalg.norm(center)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.column_stack([rotation, -rotation @ center])


def photograph(world_to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ball from one view: its color is its normal; (H, W, 3) uint8 and (H, W) bool."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3)
    rotation, center = world_to_camera[:, :3], -world_to_camera[:, :3].T @ world_to_camera[:, 3]
    rays = pixels @ np.linalg.inv(INTRINSICS).T @ rotation
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    root = (rays @ center) ** 2 - (center @ center - RADIUS**2)
    hit = root > 0
    normals = (center + (-(rays @ center) - np.sqrt(root.clip(0)))[:, None] * rays) / RADIUS
    rgb = np.where(hit[:, None], 127.5 * (normals + 1), 0).round().astype(np.uint8)
    return rgb.reshape(HEIGHT, WIDTH, 3), hit.reshape(HEIGHT, WIDTH)


def write_scene(data_root: Path, num_views: int = NUM_VIEWS) -> Path:
    """Writes ``<data_root>/tiny/scan0``, with cameras that are off as its start for trained ones."""
    folder = data_root / "tiny" / "scan0"
    for name in ("image", "mask"):
        (folder / name).mkdir(parents=True)
    scale_mat = np.diag([SCALE, SCALE, SCALE, 1.0])
    scale_mat[:3, 3] = OFFSET
    exact: dict[str, np.ndarray] = {}
    rough: dict[str, np.ndarray] = {}
    for i in range(num_views):
        angle = 2 * np.pi * i / num_views
        rgb, mask = photograph(camera_matrix(angle))
        iio.imwrite(folder / "image" / f"{i:03d}.png", rgb)
        iio.imwrite(folder / "mask" / f"{i:03d}.png", mask.astype(np.uint8) * 255)
        for matrices, shift in ((exact, 0.0), (rough, 0.03)):
            projection = np.vstack((INTRINSICS @ camera_matrix(angle, shift), [0, 0, 0, 1]))
            matrices |= {f"world_mat_{i}": projection @ np.linalg.inv(scale_mat), f"scale_mat_{i}": scale_mat}
    np.savez(folder / "cameras.npz", **exact)
    np.savez(folder / "cameras_linear_init.npz", **rough)
    return data_root


def conf_text(train: str = "", dataset: str = "", dims: tuple[int, ...] = (16, 16, 16)) -> str:
    """A conf for the scene; the texts are added to its blocks, where a later key replaces an earlier one."""
    return f"""
train {{
  expname = tiny
  dataset_class = datasets.scene_dataset.SceneDataset
  model_class = model.implicit_differentiable_renderer.IDRNetwork
  loss_class = model.loss.IDRLoss
  learning_rate = 1.0e-3
  learning_rate_cam = 1.0e-3
  num_pixels = 20
  plot_freq = 100
  checkpoint_freq = 1
  alpha_milestones = [2, 4]
  alpha_factor = 2
  sched_milestones = [3, 5]
  sched_factor = 0.3
  {train}
}}
plot {{ plot_nimgs = 1, max_depth = 3.0, resolution = 8 }}
loss {{ eikonal_weight = 0.1, mask_weight = 100.0, alpha = 50.0 }}
dataset {{ data_dir = tiny, img_res = [{HEIGHT}, {WIDTH}], {dataset} }}
model {{
  feature_vector_size = 6
  implicit_network {{
    d_in = 3, d_out = 1, dims = {list(dims)}, geometric_init = True, bias = 0.6, skip_in = [2]
    weight_norm = True, multires = 1
  }}
  rendering_network {{ mode = idr, d_in = 9, d_out = 3, dims = [16], weight_norm = True, multires_view = 1 }}
  ray_tracer {{
    object_bounding_sphere = 1.0, sdf_threshold = 5.0e-5, line_search_step = 0.5, line_step_iters = 3
    sphere_tracing_iters = 4, n_steps = 8, n_secant_steps = 3
  }}
}}
"""


GRID = """
model.implicit_network.multires = 0
model.implicit_network.encoding {
  type = hashgrid, levels = 3, log2_table = 8, base_resolution = 3, finest_resolution = 12, backend = torch
}
"""
"""Added to a conf: a grid of features in place of sinusoids."""

SCHEDULE = (
    GRID
    + """
train.sampler {
  type = importance, silhouette = 0.3, silhouette_pixels = 1, error = 0.2, error_cell = 4, far_pixels = 4
  reweight = true
}
train.schedule {
  learning_rate { decay = cosine, warmup = 0.1, final = 0.2 }
  learning_rate_cam { decay = exponential, hold = 0.3, final = 0.5 }
  alpha { final = 300, end = 0.8 }
  levels { start = 1.5, begin = 0.1, end = 0.7 }
  pyramid { factors = [4, 2], until = [0.2, 0.5] }
  param_groups {
    encoding { factor = 3, betas = [0.8, 0.99], eps = 1.0e-12 }
    rendering_network { factor = 0.5 }
  }
}
"""
)
"""Added to a conf: all that changes from step to step, and a grid of features whose levels open."""


TERMS = """
loss.patch {
  weight = 0.5, begin = 0, rays = 60, size = 5, stride = 0.25, views = 4, best = 2, max_cost = 2
  min_variance = 1e-7, min_cos = 0.01, max_degrees = 150
}
loss.normals { weight = 0.1, rays = 60, radius = 1, contrast = 0.5 }
loss.components { weight = 0.1, begin = 0, every = 2, resolution = 12 }
"""
"""Added to a conf: all further terms of the loss."""


def write_conf(path: Path, **changes: Any) -> Path:
    """Writes the conf to a file."""
    path.write_text(conf_text(**changes))
    return path


def command(
    root: Path, *flags: object, nepoch: int = 2, conf: str = "tiny.conf", exps: str = "exps"
) -> list[str]:
    """Arguments of ``exp_runner.py`` for the scene below a folder."""
    return [
        "--conf", str(root / conf), "--data_root", str(root / "data"), "--exps_folder", str(root / exps),
        "--device", "cpu", "--nepoch", str(nepoch), *map(str, flags),
    ]  # fmt: skip


def only_run(exps: Path) -> Path:
    """The one run below a folder of experiments."""
    (run,) = [path for path in exps.glob("tiny*/*") if path.is_dir()]
    return run


def make_trainer(root: Path, run: Path, *, nepoch: int = 2, cameras: bool = False, **options: Any) -> Trainer:
    """Builds a trainer without the command line.

    Args:
        root: Folder with the scene's ``data``.
        run: The run's folder.
        nepoch: Where training ends.
        cameras: Train them.
        options: ``batch_size``, ``seed``, ``stop``; ``conf``, a conf's text; ``plot``, ``monitor``; ``loss``,
            a function from the loss that would be used to the one that is used instead.
    """
    conf = load_conf(options.get("conf") or conf_text())
    torch.manual_seed(options.get("seed", 0))
    dataset = build_dataset(conf, cameras, None, str(root / "data"))
    model, loss = build_model(conf), build_loss(conf)
    config = read_block(TrainConfig, conf["train"], "train")
    poses, intrinsics = make_cameras(dataset, config.cameras) if cameras else (None, None)
    return Trainer(
        dataset,
        model,
        options.get("loss", lambda same: same)(loss),
        config,
        num_epochs=nepoch,
        batch_size=options.get("batch_size", 1),
        seed=options.get("seed", 0),
        outputs=RunWriters(run, options.get("plot"), options.get("monitor")),
        poses=poses,
        intrinsics=intrinsics,
        terms=build_terms(conf["loss"], dataset, model, poses),
        stop=options.get("stop"),
    )


class WatchedLoss:
    """A loss that calls a function before each of its calls.

    Args:
        loss: The loss.
        before: Called with the number of the call, counted from 1.
    """

    def __init__(self, loss: Any, before: Callable[[int], None]) -> None:
        self.inner, self.before, self.calls = loss, before, 0

    @property
    def alpha(self) -> float:
        return self.inner.alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self.inner.alpha = value

    @property
    def takes_weights(self) -> bool:
        return bool(getattr(self.inner, "takes_weights", False))

    def __call__(self, outputs: Any, truth: Any) -> Any:
        self.calls += 1
        self.before(self.calls)
        return self.inner(outputs, truth)


def press_ctrl_c() -> None:
    """Does what the terminal does."""
    os.kill(os.getpid(), signal.SIGINT)


def parts_of(run: Path, name: str = "latest") -> dict[str, dict[str, Any]]:
    """All parts of a run's checkpoint."""
    return CheckpointFolder(run / "checkpoints").load_all(name)


def same(left: Any, right: Any) -> bool:
    """Whether nested content is equal, tensors to the last bit (a NaN equals itself)."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and left.numpy().tobytes() == right.numpy().tobytes()
        )
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and list(left) == list(right)
            and all(same(left[k], right[k]) for k in left)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return type(left) is type(right) and left == right


def checkpoint_digests(run: Path, name: str = "latest") -> dict[str, str]:
    """Digest of the content of each file of a checkpoint: keys, types, bits of numbers and tensors."""
    files = {part: run / "checkpoints" / part / f"{name}.pth" for part in PARTS}
    return {part: content_digest(read_content(path)) for part, path in files.items() if path.is_file()}


def content_digest(content: Any) -> str:
    """Digest of nested content."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(type(value).__name__.encode())
        if isinstance(value, torch.Tensor):
            digest.update(repr((value.dtype, tuple(value.shape))).encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, (list, tuple)):
            digest.update(str(len(value)).encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def tree_digest(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def metrics_rows(run: Path) -> list[dict[str, str]]:
    """Rows of a run's ``metrics.csv``."""
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def interrupted_at(call: int) -> Callable[[Any], WatchedLoss]:
    """A ``loss`` option of `make_trainer`: Ctrl-C in the n-th step."""
    return lambda loss: WatchedLoss(loss, lambda number: press_ctrl_c() if number == call else None)
