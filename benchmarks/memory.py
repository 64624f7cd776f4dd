"""Peak memory of training on many large photographs.

    python benchmarks/memory.py --images 64 --width 1600 --height 1200

Writes a scene, trains small networks on it for an epoch, with and without plots, and on tiny images as a
baseline (libraries and networks). Prints the peak resident memory of each process, and the difference to the
baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

MIB = 1024.0
"""KiB per MiB; `ru_maxrss` is in KiB."""

CONF = """
train {{
  expname = memory, learning_rate = 1.0e-4, num_pixels = 2048, plot_freq = {plot_freq}, checkpoint_freq = 1000
  dataset_class = datasets.scene_dataset.SceneDataset
  model_class = model.implicit_differentiable_renderer.IDRNetwork
  loss_class = model.loss.IDRLoss
}}
plot {{ plot_nimgs = 1, max_depth = 3.0, resolution = 32 }}
loss {{ eikonal_weight = 0.1, mask_weight = 100.0, alpha = 50.0 }}
dataset {{ data_dir = memory, img_res = [{height}, {width}] }}
model {{
  feature_vector_size = 16
  implicit_network {{ d_in = 3, d_out = 1, dims = [32, 32], bias = 0.6, skip_in = [], multires = 4 }}
  rendering_network {{ mode = idr, d_in = 9, d_out = 3, dims = [32], multires_view = 2 }}
  ray_tracer {{
    object_bounding_sphere = 1.0, sdf_threshold = 5.0e-5, line_search_step = 0.5, line_step_iters = 3
    sphere_tracing_iters = 10, n_steps = 100, n_secant_steps = 8
  }}
}}
"""


def write_scene(root: Path, num_images: int, height: int, width: int) -> None:
    """Writes ``memory/scan0``: images of noise, discs as masks, and cameras on a ring."""
    import imageio.v3 as iio

    folder = root / "memory" / "scan0"
    for name in ("image", "mask"):
        (folder / name).mkdir(parents=True)
    rows, columns = np.mgrid[:height, :width]
    center = (width - 1) / 2, (height - 1) / 2
    mask = (columns - center[0]) ** 2 + (rows - center[1]) ** 2 < (height / 4) ** 2
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    intrinsics = np.array([[1.2 * height, 0, center[0]], [0, 1.2 * height, center[1]], [0, 0, 1]])
    matrices: dict[str, Any] = {}
    for i in range(num_images):
        iio.imwrite(folder / "image" / f"{i:03d}.png", np.roll(noise, 7 * i, axis=1), compress_level=0)
        iio.imwrite(folder / "mask" / f"{i:03d}.png", mask.astype(np.uint8) * 255)
        turn = 2 * np.pi * i / num_images
        z = -np.array([np.cos(turn), np.sin(turn), 0.0])
        x = np.array([-z[1], z[0], 0.0])
        rotation = np.stack([x, np.cross(z, x), z])
        projection = np.eye(4)
        projection[:3] = intrinsics @ np.column_stack([rotation, rotation @ (3 * z)])
        matrices |= {f"world_mat_{i}": projection, f"scale_mat_{i}": np.eye(4)}
    np.savez(folder / "cameras.npz", **matrices)


def peak_of_training(root: Path, height: int, width: int, plots: bool) -> tuple[float, float]:
    """Trains one epoch in a separate process.

    Args:
        root: Folder of the data.
        height: Rows of the images.
        width: Columns.
        plots: Whether to draw the plots of epoch 0.

    Returns:
        Its peak resident memory in MiB, and its wall time in seconds.
    """
    conf = root / "memory.conf"
    conf.write_text(CONF.format(height=height, width=width, plot_freq=1 if plots else 1000))
    started = time.monotonic()
    arguments = [
        "--conf",
        conf,
        "--data_root",
        root,
        "--exps_folder",
        root / "exps",
        "--nepoch",
        "1",
        "--device",
        "cpu",
    ]
    command = [sys.executable, __file__, "--train", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.splitlines()[-1]) / MIB, time.monotonic() - started


def train_here(arguments: list[str]) -> None:
    """Trains in this process and prints its peak memory in KiB."""
    from idr.cli import train

    if "plot_freq = 1000" in Path(arguments[1]).read_text():
        train.draw_plots = lambda *_, **__: None  # type: ignore[attr-defined]  # including epoch 0
    if train.main(arguments) != 0:
        raise SystemExit("training failed")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # noqa: T201


def main() -> None:
    """Measures, and prints a table; with --json also writes the peaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--height", type=int, default=1200)
    parser.add_argument("--json", type=Path, help="JSON file for the peaks in MiB")
    options = parser.parse_args()

    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count, height, width, plots in (
            ("libraries and networks", 2, 24, 32, False),
            ("scene, no plots", options.images, options.height, options.width, False),
            ("scene and plots", options.images, options.height, options.width, True),
        ):
            root = Path(folder) / f"{count}"
            if not root.exists():
                write_scene(root, count, height, width)
            peaks[name] = peak_of_training(root, height, width, plots)
    base = peaks["libraries and networks"][0]
    pixels = options.images * options.height * options.width
    size = f"{options.images} images of {options.width} x {options.height}"
    print(f"{size}: {4 * pixels / 2**20:.0f} MiB of colors and masks")  # noqa: T201
    for name, (peak, seconds) in peaks.items():
        print(f"{name:24s} peak {peak:7.0f} MiB   above baseline {peak - base:7.0f} MiB   {seconds:5.1f} s")  # noqa: T201
    if options.json:
        options.json.write_text(
            json.dumps({name: peak for name, (peak, _) in peaks.items()}, indent=1) + os.linesep
        )


if __name__ == "__main__":
    train_here(sys.argv[2:]) if sys.argv[1:2] == ["--train"] else main()
