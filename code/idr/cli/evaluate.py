"""``eval.py``: meshes, renders and measures a trained run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import EXIT_OK, EXIT_STOPPED, choose_device, make_parser, parse, run, say
from idr.cli.shared.runs import add_run_arguments, find_exps_folder
from idr.errors import InputError

if TYPE_CHECKING:
    import torch

    from idr.evaluation.perceptual import PictureDistance
    from idr.evaluation.reconstruction import Reconstruction
    from idr.evaluation.results import RenderingScores

DESCRIPTION = (
    "Meshes a trained run in world coordinates; on request renders and scores every view and measures "
    "trained cameras. Results go to evals/<expname><suffix>[_<scan>]/ beside code/."
)
EXAMPLES = """\
  python evaluation/eval.py --scan_id 65 --checkpoint 2000 --eval_rendering
  python evaluation/eval.py --conf ./confs/dtu_trained_cameras.conf --scan_id 65 --eval_cameras
  python evaluation/eval.py --scan_id 65 --eval_rendering --lpips
  python evaluation/eval.py --exps_folder trained_models --scan_id 65 --resolution 256"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add_run_arguments(parser)
    parser.add_argument(
        "--resolution", type=_resolution, default=512, help="grid samples along the shortest side"
    )
    parser.add_argument(
        "--is_uniform_grid",
        action="store_true",
        help="mesh in the axis-aligned cube around the bounding sphere, not along the surface's axes",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="evaluate all samples of the grid, not only those that the surface needs: slow, the same mesh",
    )
    parser.add_argument("--eval_cameras", action="store_true", help="report the error of trained cameras")
    parser.add_argument("--eval_rendering", action="store_true", help="render and score every view")
    parser.add_argument(
        "--lpips",
        action="store_true",
        help="with --eval_rendering: LPIPS too (needs idr[lpips] and AlexNet's weights, downloaded once); "
        "where they cannot be loaded all else is measured, and the exit status is 1",
    )
    parser.add_argument(
        "--chunk_pixels",
        type=_positive,
        help="pixels rendered at once, bounds memory; default: plot.chunk_pixels",
    )
    parser.add_argument(
        "--chunk_points",
        type=_positive,
        help="points meshed at once, bounds memory; default: plot.chunk_points",
    )
    return parser


def _positive(text: str) -> int:
    """Parses a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected at least 1")
    return value


def _resolution(text: str) -> int:
    """Parses a number of samples along a side."""
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value}: expected at least 2")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.lpips and not arguments.eval_rendering:
        raise InputError("--lpips scores renderings: add --eval_rendering")

    from idr.conf.files import load_conf, read_block

    # Before torch is imported, so that a mistake in the conf is answered at once.
    conf = load_conf(arguments.conf, arguments.overrides)
    device = choose_device(arguments.gpu, arguments.device)

    from idr.conf.build import conf_value, scan_id_of
    from idr.evaluation import reconstruction as measuring
    from idr.evaluation.camera_error import format_camera_errors
    from idr.evaluation.perceptual import require_lpips
    from idr.evaluation.results import results_record, write_results
    from idr.pictures.plots import PlotConfig
    from idr.runs.folders import evals_folder, find_run, run_name
    from idr.runs.intrinsics import focal_line, given_of

    scan_id = scan_id_of(conf, arguments.scan_id)
    name = run_name(str(conf_value(conf, "train.expname")), arguments.expname, scan_id)
    run_folder = find_run(
        find_exps_folder(arguments.exps_folder), name, arguments.timestamp, arguments.checkpoint
    )
    if arguments.lpips:
        require_lpips()
    plot = read_block(PlotConfig, conf.get("plot", {}), "plot")
    say(f"run: {run_folder}")
    opened = measuring.open_reconstruction(
        conf, run_folder, arguments.checkpoint, scan_id, arguments.data_root, device
    )
    say(f"checkpoint of epoch {opened.loaded.epoch} on {device}")
    folder = evals_folder(name)

    cameras = None
    if arguments.eval_cameras:
        cameras = measuring.measure_cameras(opened)
        say(format_camera_errors(cameras))
        if opened.loaded.corrections is not None:
            say(focal_line(given_of(opened.dataset), opened.training_intrinsics))

    chunk_points = arguments.chunk_points or plot.chunk_points
    surface = measuring.write_surface(
        opened, folder, arguments.resolution, arguments.is_uniform_grid, chunk_points, arguments.dense
    )
    if surface is None:
        say("no surface: the network has no zero set in the bounding sphere yet; no mesh written")
    else:
        say(f"mesh: {surface.path} ({len(surface.mesh.faces)} faces)")

    renderings: dict[str, RenderingScores] = {}
    lpips_error = None
    if arguments.eval_rendering:
        lpips, lpips_error = _load_lpips(device) if arguments.lpips else (None, None)
        chunk_pixels = arguments.chunk_pixels or plot.chunk_pixels
        renderings = _render(opened, folder / "rendering", chunk_pixels, scan_id, lpips)

    record: dict[str, Any] = {"run": str(run_folder), "epoch": opened.loaded.epoch, "scan_id": scan_id}
    record |= results_record(surface, cameras, renderings)
    if arguments.eval_cameras and opened.loaded.corrections is not None:
        record["intrinsics"] = {
            "given": given_of(opened.dataset)[:, :3, :3].tolist(),
            "trained": opened.training_intrinsics[:, :3, :3].tolist(),
        }
    if arguments.lpips:
        record["lpips_error"] = lpips_error
    say(f"results: {write_results(record, folder)}")
    if lpips_error is None:
        return EXIT_OK
    say("LPIPS was asked for and not measured (see above); all else was: exit status 1")
    return EXIT_STOPPED


def _load_lpips(device: torch.device) -> tuple[PictureDistance | None, str | None]:
    """Loads LPIPS; without its weights says why, and returns that in the distance's place."""
    from idr.evaluation.perceptual import WeightsUnavailable, load_lpips

    try:
        return load_lpips(device), None
    except WeightsUnavailable as error:
        say(f"LPIPS is not measured: {error}")
        return None, str(error)


def _render(
    opened: Reconstruction,
    folder: Path,
    chunk_pixels: int,
    scan_id: int | None,
    lpips: PictureDistance | None,
) -> dict[str, RenderingScores]:
    """Renders the training views, then the held-out ones if there are any; says the scores."""
    from idr.evaluation.reconstruction import write_renderings

    renderings = {"rendering": write_renderings(opened, folder, chunk_pixels, lpips=lpips)}
    for line in renderings["rendering"].lines(scan_id):
        say(line)
    if opened.held_out is not None:
        renderings["rendering_held_out"] = write_renderings(
            opened, folder, chunk_pixels, held_out=True, lpips=lpips
        )
        for line in renderings["rendering_held_out"].lines(scan_id, held_out=True):
            say(line)
    say(f"renderings: {folder}")
    return renderings


if __name__ == "__main__":
    raise SystemExit(main())
