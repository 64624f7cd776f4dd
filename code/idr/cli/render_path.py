"""``render_path.py``: a trained run seen along a camera path."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import make_parser, parse, run, say
from idr.cli.shared.runs import ChosenRun, add_run_arguments, check_new, locate_given_run, open_chosen_run
from idr.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from idr.export.path_frames import Path3D, Picture

log = logging.getLogger("idr.cli.render_path")

OUTPUTS = ("color", "depth", "normal", "mask")
BUILT_IN = ("orbit", "spiral", "views")
RECORD = "path.json"
DESCRIPTION = (
    "Renders a trained run along a camera path: colors, depths, normals and masks as PNG files, and as "
    "films. The appearance may be another run's."
)
EXAMPLES = """\
  python evaluation/render_path.py --conf ./confs/demo.conf --scan_id 1 --frames 60 --video turn.mp4
  python evaluation/render_path.py --scan_id 65 --path spiral --outputs color depth normal mask --out skull
  python evaluation/render_path.py --scan_id 65 --path views --key_views 0 9 21 --closed
  python evaluation/render_path.py --scan_id 65 --path skull/path.json --appearance_run exps/dtu_110"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add_run_arguments(parser)
    parser.add_argument(
        "--appearance_run", help="folder of the run whose colors the surface gets; default: its own"
    )
    parser.add_argument("--appearance_checkpoint", default="latest", help="epoch of that run's checkpoint")
    path = parser.add_argument_group("camera path")
    path.add_argument(
        "--path",
        default="orbit",
        metavar="orbit|spiral|views|FILE",
        help="orbit = a circle around the object; spiral = rising from the lowest training view's elevation "
        "to the highest's; views = through training views; FILE = a JSON file of frames in world "
        "coordinates, as this command and transforms.json have them, or nerfstudio's viewer",
    )
    path.add_argument("--frames", type=int, default=60, help="number of frames, but for a FILE")
    path.add_argument(
        "--view", type=int, default=0, help="training view that gives intrinsics and where an orbit starts"
    )
    path.add_argument(
        "--turns", type=float, help="of an orbit or spiral, negative clockwise; default: 1 and 3"
    )
    path.add_argument(
        "--elevation", type=float, help="of an orbit, degrees; default: the training views' mean"
    )
    path.add_argument(
        "--distance",
        type=float,
        help="of an orbit or spiral from the sphere's center, in radii; default: the training views' mean",
    )
    path.add_argument(
        "--key_views", type=int, nargs="+", help="training views that a path of views passes; default: all"
    )
    path.add_argument("--closed", action="store_true", help="let a path of views return to its first")
    output = parser.add_argument_group("output")
    output.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=["color"], help="what to write")
    output.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder of the frames; default: evals/<expname><suffix>[_<scan>]/path_<path>",
    )
    output.add_argument("--force", action="store_true", help="replace frames that are there")
    output.add_argument(
        "--img_res", type=int, nargs=2, metavar=("H", "W"), help="size; default: the photographs'"
    )
    output.add_argument(
        "--video",
        type=Path,
        help="also write a film, .gif or .mp4 (MP4 needs idr[video]); further outputs get films, too",
    )
    output.add_argument("--fps", type=float, default=25.0, help="frames a second of the film")
    output.add_argument(
        "--chunk_pixels", type=int, help="pixels rendered at once; default: plot.chunk_pixels"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _render(arguments))


def _check(arguments: argparse.Namespace) -> None:
    """Refuses values out of range before anything is loaded."""
    for flag in ("frames", "chunk_pixels"):
        value = getattr(arguments, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: expected at least 1")
    if not arguments.fps > 0:
        raise InputError(f"--fps {arguments.fps}: expected a positive number")
    if arguments.img_res and min(arguments.img_res) < 1:
        raise InputError(f"--img_res {arguments.img_res}: expected height and width of at least 1")
    if arguments.distance is not None and not arguments.distance > 1:
        raise InputError(f"--distance {arguments.distance}: expected more than 1, outside of the unit sphere")
    if arguments.elevation is not None and not -85 <= arguments.elevation <= 85:
        raise InputError(f"--elevation {arguments.elevation}: expected -85 to 85 degrees")
    used = {"orbit": {"turns", "elevation", "distance"}, "spiral": {"turns", "distance"}}
    used["views"] = {"key_views", "closed"}
    for flag in ("turns", "elevation", "distance", "key_views", "closed"):
        if getattr(arguments, flag) and flag not in used.get(arguments.path, set()):
            kinds = " or ".join(kind for kind in BUILT_IN if flag in used[kind])
            raise InputError(f"--{flag} means nothing to --path {arguments.path}: expected --path {kinds}")


def _films(arguments: argparse.Namespace) -> dict[str, Path]:
    """The film of each output; the first one's has the name given."""
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
    if arguments.out:
        _check_folder(arguments.out, arguments.force)
    chosen = open_chosen_run(arguments)

    from idr.conf.files import read_block
    from idr.export.path_frames import FramePainter, film_frame, write_path
    from idr.pictures.plots import PlotConfig
    from idr.runs.folders import evals_folder
    from idr.runs.shading import SurfaceShader

    kind = arguments.path if arguments.path in BUILT_IN else Path(arguments.path).stem
    out = arguments.out or evals_folder(chosen.name) / f"path_{kind}"
    _check_folder(out, arguments.force)
    path = _path(arguments, chosen)
    loaded = chosen.opened.loaded
    shader = SurfaceShader(loaded.model, loaded.device)
    depths = path.depth_range(loaded.bounding_radius)
    painter = FramePainter(depths, lambda points: shader.normals(points.to(loaded.device)))
    names = {kind: f"{kind}_{{:04d}}.png" for kind in arguments.outputs}
    plot = read_block(PlotConfig, chosen.conf.get("plot", {}), "plot")
    frames: dict[str, list[Any]] = {kind: [] for kind in films}

    def on_frame(number: int, pictures: dict[str, Picture]) -> None:
        log.info("frame %d of %d", number + 1, len(path.poses))
        for kind, kept in frames.items():
            kept.append(film_frame(pictures[kind]))

    model = _model(arguments, chosen)
    chunk_pixels = arguments.chunk_pixels or plot.chunk_pixels
    files = write_path(model, path, out, names, painter, chunk_pixels, on_frame)
    _write_record(out / RECORD, path, depths, chosen)
    _remove_others(out, files)
    say(f"frames: {out} ({len(path.poses)} of {', '.join(names)})")
    for kind, film in films.items():
        write_video(frames[kind], film, arguments.fps)
        say(f"film: {film}")


def _own_files(folder: Path) -> list[Path]:
    """Frames of this command in a folder."""
    pattern = re.compile(rf"({'|'.join(OUTPUTS)})_\d{{4,}}\.png")
    return [path for path in folder.glob("*.png") if pattern.fullmatch(path.name)]


def _check_folder(out: Path, force: bool) -> None:
    if out.is_file():
        raise InputError(f"--out {out} is a file; expected a folder")
    check_new([out / RECORD, *sorted(_own_files(out))[:1]], force)


def _remove_others(out: Path, written: list[Path]) -> None:
    """Removes frames of an earlier, longer path, so that what is there is one path."""
    for path in set(_own_files(out)) - set(written):
        path.unlink()


def _model(arguments: argparse.Namespace, chosen: ChosenRun) -> Any:
    """The network that is rendered: the run's, or its geometry with another's appearance."""
    geometry = chosen.opened.loaded
    if arguments.appearance_run is None:
        return geometry.model
    from idr.evaluation.disentanglement import compose
    from idr.runs.opened import conf_of_run, load_model

    folder = locate_given_run(arguments.appearance_run, arguments.appearance_checkpoint)
    conf = conf_of_run(folder, arguments.conf, arguments.overrides)
    say(f"appearance: {folder}")
    return compose(geometry, load_model(conf, folder, arguments.appearance_checkpoint, geometry.device))


def _path(arguments: argparse.Namespace, chosen: ChosenRun) -> Path3D:
    """The cameras: poses of the path, intrinsics of the view or the file."""
    from idr.export.path_frames import Path3D
    from idr.geometry.camera_set import poses_in_frame
    from idr.geometry.cameras import resized_intrinsics

    opened = chosen.opened
    if not 0 <= arguments.view < len(opened.dataset):
        raise InputError(
            f"--view {arguments.view}: the scene has training views 0 to {len(opened.dataset) - 1}"
        )
    own_res = (int(opened.dataset.img_res[0]), int(opened.dataset.img_res[1]))
    intrinsics = opened.training_intrinsics[arguments.view][None]
    if arguments.path in BUILT_IN:
        poses = _built_in(arguments, opened.training_poses.double().numpy())
    else:
        import numpy as np

        from idr.importers.camera_path import read_path

        given = read_path(Path(arguments.path).expanduser())
        poses = poses_in_frame(given.poses, np.linalg.inv(opened.world_from_unit))
        if given.intrinsics is not None and given.img_res is not None:
            own_res, intrinsics = given.img_res, _homogeneous(given.intrinsics)
    img_res = (arguments.img_res[0], arguments.img_res[1]) if arguments.img_res else own_res
    resized = resized_intrinsics(intrinsics.float(), own_res, img_res).to(opened.loaded.device)
    return Path3D(resized.expand(len(poses), 4, 4), poses, img_res)


def _homogeneous(intrinsics: np.ndarray) -> Tensor:
    """(F, 4, 4) of (F, 3, 3)."""
    import torch

    matrices = torch.eye(4, dtype=torch.float64).repeat(len(intrinsics), 1, 1)
    matrices[:, :3, :3] = torch.from_numpy(intrinsics)
    return matrices


def _built_in(arguments: argparse.Namespace, views: np.ndarray) -> np.ndarray:
    """(F, 4, 4) poses of an orbit, a spiral or a way through views."""
    import numpy as np

    from idr.geometry.paths import between_poses, spiral, surroundings

    if arguments.path == "views":
        keys = list(range(len(views))) if arguments.key_views is None else arguments.key_views
        absent = [key for key in keys if not 0 <= key < len(views)]
        if absent:
            raise InputError(f"--key_views: no view {absent[0]}; the scene has views 0 to {len(views) - 1}")
        return between_poses(views[keys], arguments.frames, arguments.closed)
    around = surroundings(views)
    levels = (float(around.elevations.min()), float(around.elevations.max()))
    turns = 3.0
    if arguments.path == "orbit":
        mean = float(around.elevations.mean())
        level = mean if arguments.elevation is None else float(np.radians(arguments.elevation))
        levels, turns = (level, level), 1.0
    turns = turns if arguments.turns is None else arguments.turns
    distance = arguments.distance or around.distance
    start = views[arguments.view, :3, 3]
    return spiral(around.up, start, distance, levels, turns, arguments.frames)


def _write_record(file: Path, path: Path3D, depths: tuple[float, float], chosen: ChosenRun) -> None:
    """Writes the path in world coordinates, so that it can be rendered again, and what depths mean."""
    import json

    import numpy as np

    from idr.export.cameras import OPENCV_TO_OPENGL, intrinsics_entry
    from idr.files import write_text_atomic
    from idr.geometry.camera_set import poses_in_frame

    world_from_unit = chosen.opened.world_from_unit
    world = poses_in_frame(path.poses, world_from_unit) @ OPENCV_TO_OPENGL
    scale = float(np.cbrt(abs(np.linalg.det(world_from_unit[:3, :3]))))
    frames = [
        {**intrinsics_entry(k.double().cpu().numpy()), "transform_matrix": pose.tolist()}
        for k, pose in zip(path.intrinsics, world, strict=True)
    ]
    content = {
        "run": str(chosen.folder),
        "w": path.img_res[1],
        "h": path.img_res[0],
        "depth": {"at_1": depths[0] * scale, "at_65535": depths[1] * scale, "unit": "world"},
        "frames": frames,
    }
    write_text_atomic(file, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
