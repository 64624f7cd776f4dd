"""Time and SDF evaluations of rendering a view, published and accelerated tracer side by side.

    python benchmarks/render.py --run exps/dtu_quick_fixed_cameras_65 --views 0 20 40

Renders views of a trained run in turns: with the published tracer, with the accelerated one including the
build of its grid, and with the final, refined grid of many views. Prints seconds, SDF evaluations of tracing
and in total, and the difference of the two images: PSNR over pixels hit in both, IoU of the hits. ``--json``
writes them to a file.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch  # noqa: E402
from shared import count_evaluations, machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.conf.build import build_dataset, scan_id_of  # noqa: E402
from idr.model.tracing.accelerated.tracer import REFINE_AFTER  # noqa: E402
from idr.rendering import RenderedImage, render_image  # noqa: E402
from idr.runs import Run  # noqa: E402
from idr.runs.folders import conf_of_run, locate_run  # noqa: E402

WAYS = ("published", "accelerated, grid built", "accelerated, grid kept")


class Renderer:
    """A run's model with one tracer; counts its evaluations.

    Args:
        strategy: The tracer's.
        folder: The run's folder.
        arguments: The command line's.
    """

    def __init__(self, strategy: str, folder: Path, arguments: argparse.Namespace) -> None:
        overrides = [*arguments.overrides, f"model.ray_tracer.strategy={strategy}"]
        self.conf = conf_of_run(folder, None, overrides)
        self.model = Run(self.conf, folder, arguments.checkpoint, torch.device("cpu")).model
        self.traced = self.all = 0
        self._tracing = False
        tracer = self.model.ray_tracer
        trace = tracer.trace

        def count(num_points: int) -> None:
            self.all += num_points
            self.traced += num_points * self._tracing

        def tracing(request: Any) -> Any:
            self._tracing = True
            try:
                return trace(request)
            finally:
                self._tracing = False

        tracer.trace = tracing  # type: ignore[method-assign]
        count_evaluations(self.model.implicit_network, count)

    def render(
        self, sample: dict[str, Any], img_res: tuple[int, int]
    ) -> tuple[RenderedImage, dict[str, float]]:
        """Renders a view; returns it with seconds and evaluations."""
        self.traced = self.all = 0
        started = time.perf_counter()
        image = render_image(self.model, sample["intrinsics"], sample["pose"], img_res)
        seconds = time.perf_counter() - started
        return image, {"seconds": seconds, "traced": float(self.traced), "evaluated": float(self.all)}


def difference(first: RenderedImage, second: RenderedImage) -> dict[str, float]:
    """Returns PSNR over pixels hit in both images and IoU of the hits."""
    both, either = first.hit & second.hit, first.hit | second.hit
    error = float(((first.rgb - second.rgb)[both] / 2).square().mean()) if both.any() else 0.0
    psnr = -10 * math.log10(error) if error > 0 else math.inf
    return {"psnr": psnr, "iou": float(both.sum()) / max(1, int(either.sum()))}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Renders the views in turns; returns the figures."""
    folder = locate_run(arguments.run, arguments.checkpoint)
    published, accelerated = (Renderer(name, folder, arguments) for name in ("published", "accelerated"))
    scan_id = scan_id_of(published.conf, arguments.scan_id)
    dataset = build_dataset(published.conf, False, scan_id, arguments.data_root)
    dataset.change_sampling_idx(-1)
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    differences = []
    for view in arguments.views:
        _, sample, _ = dataset[view]
        for _ in range(arguments.repetitions):
            reference, seen = published.render(sample, dataset.img_res)
            figures[WAYS[0]].append(seen)
            accelerated.model.ray_tracer.discard()
            for way in WAYS[1:]:
                if way == WAYS[2]:
                    served = 0
                    while served <= REFINE_AFTER:  # then the grid is refined
                        image, _ = accelerated.render(sample, dataset.img_res)
                        served += image.hit.numel()
                image, seen = accelerated.render(sample, dataset.img_res)
                seen["hits"], seen["pixels"] = float(image.hit.sum()), float(image.hit.numel())
                figures[way].append(seen)
            differences.append(difference(reference, image))
    return {
        "run": str(folder),
        "views": arguments.views,
        **machine(),
        "pixels": figures[WAYS[1]][0]["pixels"],
        "hits": statistics.mean(seen["hits"] for seen in figures[WAYS[1]]),
        "ways": {
            way: {key: statistics.median(f[key] for f in seen) for key in ("seconds", "traced", "evaluated")}
            for way, seen in figures.items()
        },
        "psnr": min(d["psnr"] for d in differences),
        "iou": min(d["iou"] for d in differences),
    }


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    pixels, ways = result["pixels"], result["ways"]
    say(f"{result['run']}: views {result['views']}, {pixels:.0f} pixels, {result['hits'] / pixels:.1%} hits")
    say(f"{result['threads']} threads, torch {result['torch']}; medians")
    say(f"{'tracer':<28}{'seconds':>10}{'faster':>9}{'traced a pixel':>17}{'evaluated a pixel':>20}")
    for way in WAYS:
        seen = ways[way]
        faster = ways[WAYS[0]]["seconds"] / seen["seconds"]
        traced, evaluated = seen["traced"] / pixels, seen["evaluated"] / pixels
        say(f"{way:<28}{seen['seconds']:>10.2f}{faster:>9.1f}{traced:>17.2f}{evaluated:>20.2f}")
    say(f"worst view: PSNR {result['psnr']:.1f} dB over common hits, IoU of the hits {result['iou']:.4f}")


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Measures time and SDF evaluations of rendering by tracer.")
    parser.add_argument("--run", required=True, help="folder of a scene's runs; the latest run is used")
    parser.add_argument("--checkpoint", default="latest", help="epoch of the checkpoint, or the latest")
    parser.add_argument("--scan_id", type=int, default=-1, help="scene; -1: the conf's")
    parser.add_argument("--data_root", default=None, help="folder of all data sets")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value of the conf")
    parser.add_argument("--views", type=int, nargs="+", default=[0], help="numbers of the views")
    parser.add_argument("--repetitions", type=int, default=3, help="renderings of each view")
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
