"""``eval.py``: meshes, renders and scores a trained run."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import EXIT_OK, EXIT_STOPPED, make_parser, run_command, say
from idr.cli.shared.flags import add_flags, add_run_arguments, add_switches, check_at_least
from idr.cli.shared.runs import open_run
from idr.errors import InputError
from idr.places import BESIDE_CODE
from idr.replacing import check_writable

if TYPE_CHECKING:
    import torch

    from idr.datasets.points import ScenePoints
    from idr.evaluation.perceptual import ImageDistance
    from idr.evaluation.results import RenderingScores
    from idr.runs import Run

log = logging.getLogger("idr.cli.evaluate")

DESCRIPTION = (
    "Meshes a trained run in world coordinates; on request, renders and scores every view and measures the "
    f"errors of trained cameras. Results go to evals/<expname><suffix>[_<scan>]/ {BESIDE_CODE}."
)
EXAMPLES = """\
  %(prog)s --scan_id 65 --checkpoint 2000 --eval_rendering
  %(prog)s --conf ./confs/dtu_trained_cameras.conf --scan_id 65 --eval_cameras
  %(prog)s --scan_id 65 --eval_rendering --lpips
  %(prog)s --exps_folder trained_models --scan_id 65 --resolution 256"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "eval")
    add_run_arguments(parser)
    add_flags(parser, "resolution", "is_uniform_grid", resolution=512)
    add_switches(
        parser,
        dense="evaluate every sample of the grid, not only those near the surface: slow, the same mesh",
        eval_cameras="measure the errors of trained cameras",
        eval_rendering="render and score every view",
        lpips="with --eval_rendering: also LPIPS (needs pip install 'idr-surface[lpips]' "
        "and AlexNet's weights, downloaded once); if they cannot be loaded, all else is measured and the "
        "exit status is 1",
    )
    parser.add_argument(
        "--points", nargs="?", const="points.npz", metavar="FILE",
        help="measure the distances of points_world (N, 3) of an npz file to the mesh; default: the scene's "
        "points.npz, written by preprocess/triangulate_points.py",
    )  # fmt: skip
    add_flags(parser, "chunk_pixels", "chunk_points")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    check_at_least(arguments, resolution=2, chunk_pixels=1, chunk_points=1)
    if arguments.lpips:
        if not arguments.eval_rendering:
            raise InputError("--lpips scores renderings: add --eval_rendering")
        from idr.evaluation.perceptual import require_lpips

        require_lpips()
    trained, folder = open_run(arguments)
    from idr.evaluation.results import RESULTS, earlier_results

    before = earlier_results(folder, trained.folder)
    check_writable(folder / RESULTS)
    lpips, lpips_error = _load_lpips(trained.device) if arguments.lpips else (None, None)
    points = None if arguments.points is None else _read_points(trained, arguments.points)

    from idr.conf.build import scan_id_of
    from idr.evaluation.camera_error import format_camera_errors
    from idr.evaluation.reconstruction import measure_cameras, point_scores, write_surface
    from idr.evaluation.results import focal_line, results_record, write_results
    from idr.runs.views import given_intrinsics

    scan_id = scan_id_of(trained.conf, arguments.scan_id)
    record: dict[str, Any] = {"run": str(trained.folder), "epoch": trained.epoch, "scan_id": scan_id}
    intrinsics = cameras = None
    if arguments.eval_cameras:
        cameras = measure_cameras(trained)
        say(format_camera_errors(cameras))
        if trained.corrections is not None:
            intrinsics = given_intrinsics(trained.scene), trained.training_intrinsics
            say(focal_line(*intrinsics))

    grid = arguments.resolution, arguments.is_uniform_grid, arguments.chunk_points, arguments.dense
    surface = write_surface(trained, folder, *grid)
    if surface is None:
        say("no surface: the network has no zero set in the bounding sphere yet; no mesh written")
    else:
        say(f"mesh: {surface.path} ({len(surface.mesh.faces)} faces)")
        if points is not None:
            scores = point_scores(surface.mesh, points)
            say(f"POINTS EVALUATION {scan_id}: {scores.line()}")
            record["points"] = asdict(scores)

    renderings: dict[str, RenderingScores] = {}
    if arguments.eval_rendering:
        renderings = _render(trained, folder / "rendering", arguments.chunk_pixels, scan_id, lpips)

    record |= results_record(surface, cameras, renderings)
    if intrinsics is not None:
        given, own = (k[:, :3, :3].tolist() for k in intrinsics)
        record["intrinsics"] = {"given": given, "trained": own}
    if arguments.lpips:
        record["lpips_error"] = lpips_error
    say(f"results: {write_results(record, folder, before)}")
    if before.get("run", record["run"]) != record["run"]:
        say(f"they replace those of {before['run']}, whose pictures were removed")
    if lpips_error is None:
        return EXIT_OK
    say("LPIPS was asked for and not measured (see above); all else was: exit status 1")
    return EXIT_STOPPED


def _read_points(trained: Run, name: str) -> ScenePoints:
    """Reads a file of the scene's folder, or any other file."""
    from idr.datasets.points import POINTS_FILE, read_points

    in_scene = Path(trained.scene.instance_dir) / name
    return read_points(in_scene if in_scene.is_file() or name == POINTS_FILE else Path(name).expanduser())


def _load_lpips(device: torch.device) -> tuple[ImageDistance | None, str | None]:
    """Returns LPIPS, or without its weights the reason, which is also printed."""
    from idr.evaluation.perceptual import WeightsUnavailable, load_lpips

    log.info("loading LPIPS; the weights of AlexNet are downloaded the first time")
    try:
        return load_lpips(device), None
    except WeightsUnavailable as error:
        say(f"LPIPS is not measured: {error}")
        return None, str(error)


def _render(
    trained: Run, folder: Path, chunk_pixels: int, scan_id: int | None, lpips: ImageDistance | None
) -> dict[str, RenderingScores]:
    """Renders the training views and the held-out views, if any; prints and returns their scores."""
    from idr.evaluation.reconstruction import write_renderings

    renderings = {}
    for held_out in (False, True) if trained.held_out is not None else (False,):
        scores = write_renderings(trained, folder, chunk_pixels, held_out, lpips=lpips)
        renderings["rendering_held_out" if held_out else "rendering"] = scores
        for line in scores.lines(scan_id, held_out):
            say(line)
    say(f"renderings: {folder}")
    return renderings


if __name__ == "__main__":
    raise SystemExit(main())
