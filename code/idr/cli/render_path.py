"""``render_path.py``: renders a trained run along a camera path."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import (
    SUPERSAMPLES,
    add_flags,
    add_run_arguments,
    add_switches,
    check_frame_arguments,
    check_within,
)
from idr.cli.shared.runs import (
    check_folder,
    check_new,
    check_view,
    find_named_run,
    frame_intrinsics,
    open_run,
)
from idr.errors import InputError
from idr.files import read_json

if TYPE_CHECKING:
    import numpy as np

    from idr.export.path_frames import FrameImage, Path3D
    from idr.runs import Run

OUTPUTS = ("color", "depth", "normal", "mask")
BUILT_IN = ("orbit", "spiral", "views")
RECORD = "path.json"
DESCRIPTION = (
    "Renders a trained run along a camera path: colors, depths, normals and masks as PNG files and films. "
    "The appearance may be another run's."
)
EXAMPLES = """\
  %(prog)s --conf ./confs/demo.conf --scan_id 1 --frames 60 --video turn.mp4
  %(prog)s --scan_id 65 --path spiral --outputs color depth normal mask --out skull
  %(prog)s --scan_id 65 --path views --key_views 0 9 21 --closed
  %(prog)s --scan_id 65 --path skull/path.json --appearance_run exps/dtu_110"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "render-path")
    add_run_arguments(parser)
    appearance = "folder of a run whose appearance network replaces the run's own"
    parser.add_argument("--appearance_run", help=appearance)
    parser.add_argument("--appearance_checkpoint", default="latest", help="epoch of that run's checkpoint")
    path = parser.add_argument_group("camera path")
    add = path.add_argument
    add(
        "--path", default="orbit", metavar="orbit|spiral|views|FILE",
        help="orbit = a circle around the object; spiral = rising from the lowest training view's elevation "
        "to the highest's; views = through training views; FILE = a JSON file of frames in world "
        "coordinates, as this command and transforms.json have them, or nerfstudio's viewer",
    )  # fmt: skip
    add("--frames", type=int, default=60, help="number of frames, except for a FILE")
    add("--view", type=int, default=0, help="training view of the intrinsics and of an orbit's start")
    add("--turns", type=float, help="turns of an orbit or spiral, negative clockwise; default: 1 and 3")
    add("--elevation", type=float, help="elevation of an orbit, degrees; default: the training views' mean")
    distance = "distance of an orbit or spiral from the origin, in radii; default: the training views' mean"
    add("--distance", type=float, help=distance)
    add("--key_views", type=int, nargs="+", help="training views of a path of views; default: all")
    add_switches(path, closed="return to the first view at the end of a path of views")
    output = parser.add_argument_group("output")
    images = "images to write; each also gets a film with --video"
    output.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=["color"], help=images)
    folder = "folder to write; default: evals/<expname><suffix>[_<scan>]/path_<path>"
    output.add_argument("--out", type=Path, metavar="FOLDER", help=folder)
    add_switches(output, force="replace existing files")
    add_flags(output, "img_res", "video", "fps", "chunk_pixels", "supersample", fps=25.0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _render)


def _check(arguments: argparse.Namespace) -> None:
    check_frame_arguments(arguments)
    check_within(arguments, supersample=SUPERSAMPLES)
    if arguments.distance is not None and not arguments.distance > 1:
        raise InputError(f"--distance {arguments.distance}: expected more than 1, outside of the unit sphere")
    if arguments.elevation is not None and not -85 <= arguments.elevation <= 85:
        raise InputError(f"--elevation {arguments.elevation}: expected -85 to 85 degrees")
    paths = {"turns": ("orbit", "spiral"), "elevation": ("orbit",), "distance": ("orbit", "spiral")}
    paths |= {"key_views": ("views",), "closed": ("views",)}
    for flag, kinds in paths.items():
        if getattr(arguments, flag) and arguments.path not in kinds:
            expected = " or ".join(kinds)
            raise InputError(f"--{flag} means nothing to --path {arguments.path}: expected --path {expected}")


def _films(arguments: argparse.Namespace) -> dict[str, Path]:
    """Returns the film of each output; the first one has the name of ``--video``."""
    if not arguments.video:
        return {}
    video, (first, *others) = arguments.video, list(dict.fromkeys(arguments.outputs))
    return {first: video} | {kind: video.with_stem(f"{video.stem}_{kind}") for kind in others}


def _render(arguments: argparse.Namespace) -> None:
    _check(arguments)
    from idr.evaluation.video import check_video_path, write_video

    films = _films(arguments)
    for film in films.values():
        check_video_path(film)
    check_new(films.values(), arguments.force, "--video")
    if arguments.out:
        _check_out(arguments.out, arguments.force)
    trained, results = open_run(arguments)

    from idr.export.path_frames import FramePainter, film_frame, write_path
    from idr.runs.shading import SurfaceShader

    kind = arguments.path if arguments.path in BUILT_IN else Path(arguments.path).stem
    out = arguments.out or results / f"path_{kind}"
    _check_out(out, arguments.force)
    path = _path(arguments, trained)
    shader = SurfaceShader(trained.model, trained.device)
    depths = path.depth_range(trained.bounding_radius)
    painter = FramePainter(depths, lambda points: shader.normals(points.to(trained.device)))
    names = {kind: f"{kind}_{{:04d}}.png" for kind in arguments.outputs}
    frames: dict[str, list[Any]] = {kind: [] for kind in films}

    def on_frame(number: int, images: dict[str, FrameImage]) -> None:
        for kind, kept in frames.items():
            kept.append(film_frame(images[kind]))

    model = _model(arguments, trained)
    sampling = (arguments.chunk_pixels, on_frame, arguments.supersample)
    before = _own_files(out)
    files = write_path(model, path, out, names, painter, *sampling)
    _write_record(out / RECORD, path, depths, trained)
    for stale in set(before) - set(files):  # of an earlier, longer path
        stale.unlink(missing_ok=True)
    say(f"frames: {out} ({len(path.poses)} of {', '.join(names)})")
    for kind, film in films.items():
        write_video(frames[kind], film, arguments.fps)
        say(f"film: {film}")


def _own_files(folder: Path) -> list[Path]:
    """Returns the frames that this command may have written to a folder, by the path of its record."""
    try:
        count = len(read_json(folder / RECORD)["frames"])
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [folder / f"{kind}_{number:04d}.png" for kind in OUTPUTS for number in range(count)]


def _check_out(out: Path, force: bool) -> None:
    frames = sorted(path.name for kind in OUTPUTS for path in out.glob(f"{kind}_[0-9]*.png"))
    check_folder(out, [RECORD, *frames[:1]], force)


def _model(arguments: argparse.Namespace, trained: Run) -> Any:
    """Returns the run's network, or its geometry with the appearance of ``--appearance_run``."""
    if arguments.appearance_run is None:
        return trained.model
    from idr.evaluation.disentanglement import compose
    from idr.runs import Run
    from idr.runs.folders import conf_of_run

    folder = find_named_run(arguments.appearance_run, arguments.appearance_checkpoint)
    conf = conf_of_run(folder, arguments.conf, arguments.overrides)
    say(f"appearance: {folder}")
    appearance = Run(conf, folder, arguments.appearance_checkpoint, trained.device)
    return compose(trained.model, appearance.model, trained.device)


def _path(arguments: argparse.Namespace, trained: Run) -> Path3D:
    from idr.export.path_frames import Path3D
    from idr.geometry.camera_set import poses_in_frame

    check_view(arguments, trained)
    own = None
    if arguments.path in BUILT_IN:
        poses = _built_in(arguments, trained.training_poses.double().numpy())
    else:
        import numpy as np
        import torch

        from idr.importers.camera_path import read_path

        file = read_path(Path(arguments.path).expanduser())
        poses = poses_in_frame(file.poses, np.linalg.inv(trained.world_from_unit))
        if file.intrinsics is not None and file.img_res is not None:
            matrices = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
            matrices[:, :3, :3] = torch.from_numpy(file.intrinsics)
            own = matrices, file.img_res
    intrinsics, img_res = frame_intrinsics(arguments, trained, own)
    return Path3D(intrinsics.expand(len(poses), 4, 4), poses, img_res)


def _built_in(arguments: argparse.Namespace, views: np.ndarray) -> np.ndarray:
    """Returns (F, 4, 4) poses of an orbit, a spiral or a path through views."""
    import numpy as np

    from idr.geometry.paths import between_poses, spiral, surroundings

    if arguments.path == "views":
        keys = list(range(len(views))) if arguments.key_views is None else arguments.key_views
        absent = [key for key in keys if not 0 <= key < len(views)]
        if absent:
            raise InputError(f"--key_views: no view {absent[0]}; the scene has views 0 to {len(views) - 1}")
        return between_poses(views[keys], arguments.frames, arguments.closed)
    around = surroundings(views)
    levels, turns = (float(around.elevations.min()), float(around.elevations.max())), 3.0
    if arguments.path == "orbit":
        mean = float(around.elevations.mean())
        level = mean if arguments.elevation is None else float(np.radians(arguments.elevation))
        levels, turns = (level, level), 1.0
    turns = turns if arguments.turns is None else arguments.turns
    distance, start = arguments.distance or around.distance, views[arguments.view, :3, 3]
    return spiral(around.up, start, distance, levels, turns, arguments.frames)


def _write_record(file: Path, path: Path3D, depths: tuple[float, float], trained: Run) -> None:
    """Writes the path in world coordinates, for ``--path`` to render again, and the scale of the depths."""
    import numpy as np

    from idr.export.cameras import OPENCV_TO_OPENGL, intrinsics_entry
    from idr.files import write_text_atomic
    from idr.geometry.camera_set import poses_in_frame

    world_from_unit = trained.world_from_unit
    world = poses_in_frame(path.poses, world_from_unit) @ OPENCV_TO_OPENGL
    scale = float(np.cbrt(abs(np.linalg.det(world_from_unit[:3, :3]))))
    frames = [
        {**intrinsics_entry(k.double().cpu().numpy()), "transform_matrix": pose.tolist()}
        for k, pose in zip(path.intrinsics, world, strict=True)
    ]
    ends = {"at_1": depths[0] * scale, "at_65535": depths[1] * scale, "unit": "world"}
    height, width = path.img_res
    content = {"run": str(trained.folder), "w": width, "h": height, "depth": ends, "frames": frames}
    write_text_atomic(file, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
