"""``import_scene.py``: imports a scene of another program, or photographs alone, as a data folder."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.commands import command_line, conf_text, scene_flags
from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_switches, check_at_least
from idr.errors import InputError
from idr.replacing import check_writable

if TYPE_CHECKING:
    from idr.importers.scene_folder import ImportedScene, Roughen
    from idr.importers.source import Source

PHOTOGRAPHS = "photographs"
KINDS = (
    *("neus", "idr", "transforms", "sdfstudio", "colmap", "mvsnet", "middlebury", "projections"),
    PHOTOGRAPHS,
)
CAMERA_MODELS = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"),
    *("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"),
)
"""Models of COLMAP that a reconstruction may use."""
ATTEMPT_FLAGS = (
    *("turntable", "no_turntable", "mask_features", "guided_matching", "relaxed"),
    *("max_image_size", "mapper", "second_try"),
)
"""Flags for photographs alone that say how to reconstruct."""
FAST_STEPS = 2880
"""Steps of ``photos.conf`` on a CPU: 90 epochs of 32 photographs in docs/results.md."""
_EXAMPLES = """  %(prog)s ~/photos/mug --out ../data/mine/scan0
  %(prog)s ~/captures/mug --out ../data/mine/scan4 --masks auto
  %(prog)s ~/nerf_synthetic/lego --out ../data/lego/scan1 --downscale 2
  %(prog)s ~/colmap/shoe --out ../data/mine/scan2 --masks ~/colmap/shoe/masks
  %(prog)s ~/photos/mug --out ../data/mine/scan0 --scale_by board:24.8
  %(prog)s ~/mug --out ../data/mine/scan3 --mask_command 'segment {image} {mask}'"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Writes a data folder (image/, mask/, cameras.npz) from a scene of nerfstudio, Blender, COLMAP, "
        "NeuS, NeuS2, IDR, DVR, sdfstudio, MVSNet or Middlebury, from images with a text file of 3 x 4 "
        "projections, or from photographs alone, whose cameras structure from motion estimates. Removes lens "
        "distortion, computes missing masks on request, fits the unit sphere.",
        _EXAMPLES,
        "import",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or file of the scene")
    parser.add_argument("--out", required=True, help="folder to write: data/<dir>/scan<N>")
    parser.add_argument("--kind", choices=KINDS, help="type of SOURCE; default: recognized")
    parser.add_argument("--images", help="folder of the images, if SOURCE does not name it")
    parser.add_argument(
        "--masks",
        help="folder of masks for the original photographs, alpha (their alpha channel), auto (segmented "
        "from photographs and cameras), or rembg (its network, needs pip install 'idr-surface[segment]'); "
        "default: the source's masks, else its alpha channel, else auto for "
        "photographs alone",
    )
    missing = "if only some views have a mask, there or in the source: compute the others from them"
    add_switches(parser, make_missing_masks=missing)
    program = "program that writes the mask of an image: 'prog {image} {mask}', called once per image"
    parser.add_argument("--mask_command", metavar="COMMAND", help=program)
    parser.add_argument(
        "--points",
        help="sparse points on the object (ply, npz, npy, txt): seeds of --masks auto (default: where the "
        "cameras look), and input of --sphere points (default: the source's)",
    )
    parser.add_argument(
        "--sphere", choices=("auto", "hull", "points", "source"), default="auto",
        help="unit sphere from the visual hull of the masks, from sparse points, or the source's own; "
        "auto = the source's own if it has one, else hull",
    )  # fmt: skip
    parser.add_argument("--downscale", type=int, default=1, help="integer factor by which images are reduced")
    center = "coordinate of the first pixel's center in SOURCE; default: the convention of its type"
    parser.add_argument("--pixel_center", "--pixel_centre", type=float, choices=(0.0, 0.5), help=center)
    parser.add_argument(
        "--scale_by", action="append", default=[], metavar="MEASURE",
        help="make the unit a meter by a known length: board or board:MM (a printed idr board, side of a "
        "square in millimeters), cameras:IMAGE1,IMAGE2=METERS, points:FILE.json (two marked points), gps; "
        "further ones must agree with the first",
    )  # fmt: skip
    add_switches(parser, force="replace a scene that was imported to --out before")
    _add_reconstruction(parser)
    _add_rough(parser)
    seed = "seed of the reconstruction and of the noise of --rough_cameras"
    parser.add_argument("--seed", type=int, default=0, help=seed)
    return parser


def _add_reconstruction(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "photographs alone",
        "needs pip install 'idr-surface[colmap]'; work files in reconstruction_scan<N> next to --out",
    )
    group.add_argument("--camera_model", choices=CAMERA_MODELS, help="COLMAP's model; default: SIMPLE_RADIAL")
    group.add_argument(
        "--matching", choices=("auto", "exhaustive", "sequential"),
        help="pairs of photographs to match: all, or neighbors in name order; default: auto, all up to 80 "
        "photographs",
    )  # fmt: skip
    needed = "photographs that must be registered; default: half of them"
    group.add_argument("--min_registered", type=int, help=needed)
    frames = "frames to take from a video, the sharpest of as many intervals; default: 60"
    group.add_argument("--frames", type=int, metavar="N", help=frames)
    add_attempt_flags(group)
    threads = "threads of the reconstruction; 1: reproducible cameras; default: one per core"
    group.add_argument("--threads", type=int, help=threads)


def add_attempt_flags(parser: argparse._ActionsContainer) -> None:
    """Adds the flags `ATTEMPT_FLAGS`, which `idr photos` passes on."""
    add_switches(
        parser, turntable="the camera stood still while the object turned: features on the backdrop do not "
        "count; default: if the photographs show it", no_turntable="features count everywhere",
        mask_features="find features only inside masks, of --masks FOLDER or beside the photographs",
        guided_matching="search matches again along epipolar lines",
        relaxed="accept photographs with few matches, and pairs with small angles",
    )  # fmt: skip
    side = "longest side at which features are found, pixels; default: 2000, in a second try 3200"
    parser.add_argument("--max_image_size", type=int, metavar="N", help=side)
    mapper = "one camera after the other, or all at once; default: auto, which is incremental"
    parser.add_argument("--mapper", choices=("auto", "incremental", "global"), help=mapper)
    again = "whether to try harder if fewer than 90 %% of the photographs are registered; default: on"
    parser.add_argument("--second_try", choices=("on", "off"), help=again)


def _add_rough(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rough cameras", "cameras_linear_init.npz, for --train_cameras")
    add_switches(group, rough_cameras="write perturbed copies of the exact ones")
    group.add_argument("--rough_degrees", type=float, default=1.5, help="mean angle of the perturbation")
    group.add_argument(
        "--rough_fraction", type=float, default=0.03, help="mean shift of a camera, relative to its distance"
    )
    other = "write those of another source of the same photographs, aligned with SOURCE"
    group.add_argument("--rough_from", metavar="SOURCE2", help=other)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _import)


def _import(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out).expanduser().resolve()
    _check(arguments, out)
    from idr.importers.points import read_points
    from idr.importers.recognize import recognize
    from idr.importers.scene_folder import ImportOptions, check_target, write_scene
    from idr.importers.true_size.measures import parse_measure, to_meters

    began = time.monotonic()
    check_target(out, arguments.force)
    check_writable(out / "cameras.npz")
    measures = [parse_measure(text) for text in arguments.scale_by]
    points = read_points(Path(arguments.points).expanduser()) if arguments.points else None
    if arguments.rough_from:
        recognize(Path(arguments.rough_from).expanduser())
    path = Path(arguments.source).expanduser()
    source = _read(path, out, arguments)
    sparse = f", {len(source.points)} sparse points" if source.points is not None else ""
    say(f"{path}: {source.kind}, {len(source.views)} views{sparse}")
    if measures:
        originals = Path(arguments.images).expanduser() if arguments.images else path
        source = to_meters(source, measures, originals, say)
        if points is not None and source.true_size is not None:
            points = points * source.true_size.meters_per_unit
    options = ImportOptions(
        _mask_choice(arguments, source), arguments.make_missing_masks, arguments.mask_command,
        arguments.sphere, arguments.downscale, points, arguments.force, _roughen(arguments, source, out),
    )  # fmt: skip
    done = write_scene(source, out, options, str(path.resolve()), say)
    _say_done(done, time.monotonic() - began)


def _check(arguments: argparse.Namespace, out: Path) -> None:
    if not re.fullmatch(r"scan(0|[1-9][0-9]*)", out.name):
        raise InputError(
            f"--out {arguments.out}: expected a folder named scan<N>, without leading zeros, such as "
            "data/mine/scan0"
        )
    check_at_least(arguments, downscale=1, threads=1, min_registered=3, frames=3, seed=0, max_image_size=64)
    if arguments.turntable and arguments.no_turntable:
        raise InputError("got both --turntable and --no_turntable; expected one of them")
    if arguments.rough_cameras and arguments.rough_from:
        raise InputError("got both --rough_cameras and --rough_from; expected one of them")
    from idr.importers.rough_cameras import check_roughness

    if arguments.rough_cameras:
        check_roughness(arguments.rough_degrees, arguments.rough_fraction)
    check_masks(arguments)


def check_masks(arguments: argparse.Namespace) -> None:
    """Refuses flags of masks that contradict each other, or name what is not there."""
    from idr.datasets.masks import MAKE_MISSING, list_masks
    from idr.importers.masks.network import REMBG, require_rembg
    from idr.importers.masks.sources import ALPHA, AUTO, check_command

    if arguments.mask_command and arguments.masks:
        raise InputError("got both --masks and --mask_command; expected only one of them")
    if arguments.make_missing_masks and (arguments.mask_command or arguments.masks in (AUTO, REMBG)):
        other = "--mask_command" if arguments.mask_command else f"--masks {arguments.masks}"
        raise InputError(f"got both {MAKE_MISSING} and {other}, which makes all masks; leave one out")
    if arguments.mask_command:
        check_command(arguments.mask_command)
    if arguments.masks == REMBG:
        require_rembg()
    elif arguments.masks not in (None, ALPHA, AUTO):
        list_masks(Path(arguments.masks).expanduser())


def _read(path: Path, out: Path, arguments: argparse.Namespace) -> Source:
    """Reads a scene with cameras, or estimates those of photographs."""
    from idr.importers.recognize import read_source, recognize

    images = Path(arguments.images).expanduser() if arguments.images else None
    kind = arguments.kind or recognize(path, images)
    if kind != PHOTOGRAPHS:
        _refuse_flags(arguments, kind, path)
        return read_source(path, arguments.kind, images, arguments.pixel_center)
    if arguments.pixel_center is not None:
        raise InputError(f"--pixel_center is for sources with cameras; {path} holds photographs alone")
    if arguments.sphere == "source":
        raise InputError(f"--sphere source: {path} holds photographs alone, which have none; use hull")
    from idr.importers.photographs.structure_from_motion import ReconstructionSettings, reconstruct

    settings = ReconstructionSettings(
        arguments.camera_model or ReconstructionSettings.camera_model,
        arguments.matching or ReconstructionSettings.matching,
        arguments.min_registered, arguments.seed, arguments.threads or ReconstructionSettings.threads,
        arguments.frames,
        turntable="on" if arguments.turntable else "off" if arguments.no_turntable else "auto",
        mask_features=arguments.mask_features, some_masks=arguments.make_missing_masks,
        masks=_mask_folder(arguments),
        max_image_size=arguments.max_image_size, guided_matching=arguments.guided_matching,
        relaxed=arguments.relaxed, mapper=arguments.mapper or ReconstructionSettings.mapper,
        second_try=arguments.second_try != "off",
    )  # fmt: skip
    say(f"{path}: photographs alone; estimating their cameras takes a while")
    return reconstruct(images or path, out.parent / f"reconstruction_{out.name}", settings, say)


def _mask_folder(arguments: argparse.Namespace) -> Path | None:
    """Returns the folder of --masks, None for another choice."""
    from idr.importers.masks.network import REMBG
    from idr.importers.masks.sources import ALPHA, AUTO

    return None if arguments.masks in (None, ALPHA, AUTO, REMBG) else Path(arguments.masks).expanduser()


def _refuse_flags(arguments: argparse.Namespace, kind: str, path: Path) -> None:
    for flag in ("camera_model", "matching", "min_registered", "threads", "frames", *ATTEMPT_FLAGS):
        if getattr(arguments, flag) not in (None, False):
            raise InputError(
                f"--{flag} is for photographs alone, but {path} has cameras ({kind}); leave it out, or "
                f"ignore these cameras with --kind {PHOTOGRAPHS}"
            )


def _mask_choice(arguments: argparse.Namespace, source: Source) -> str | None:
    """Returns --masks, by default automatic masks for photographs alone without an alpha channel."""
    from idr.importers.masks.sources import AUTO, has_masks

    chosen = arguments.masks or arguments.mask_command or arguments.make_missing_masks
    if source.kind != PHOTOGRAPHS or chosen or has_masks(source):
        return arguments.masks
    say("no masks given, no folder of masks, no alpha channel: computing masks")
    return AUTO


def _roughen(arguments: argparse.Namespace, source: Source, out: Path) -> Roughen | None:
    """Returns the function that computes the rough cameras, or None without any."""
    from idr.importers.rough_cameras import disturbed_poses, paired_views, poses_from

    if arguments.rough_cameras:
        return lambda poses, center: disturbed_poses(
            poses, center, arguments.rough_degrees, arguments.rough_fraction, arguments.seed
        )
    if not arguments.rough_from:
        return None
    path = Path(arguments.rough_from).expanduser()
    plain = argparse.Namespace(**vars(arguments) | {"kind": None, "images": None, "pixel_center": None})
    second = _read(path, out, plain)
    # Checked before masks are computed, which takes long.
    paired = paired_views(second, [view.name for view in source.views], str(path))
    return lambda poses, center: poses_from(paired, poses)


def _say_done(done: ImportedScene, seconds: float) -> None:
    height, width = done.size
    for note in done.notes:
        say(note)
    center = ", ".join(f"{value:.6g}" for value in done.sphere.center)
    say(f"unit sphere: center ({center}), radius {done.sphere.radius:.6g}, from {done.sphere.origin}")
    for warning in done.warnings:
        say(f"WARNING: {warning}")
    say(f"wrote {done.folder}: {done.num_views} views of {width} x {height} pixels, in {seconds:.0f} s")
    say(f"masks ({done.mask_source}): look at {done.folder / 'masks.png'}")
    say(f"to mend them: {command_line('masks', done.folder)}")
    say(f"report: open {done.folder / 'scene_report.html'}")
    data_dir = conf_text(done.folder.parent.name)
    say(f"conf: dataset {{ data_dir = {data_dir}, img_res = [{height}, {width}] }}")
    size = {"img_res": [height, width]}
    say("next:")
    say(f"  {command_line('check', '--source_dir', done.folder)}")
    say(f"  {command_line('train', *_training(done.num_views), *scene_flags(done.folder, **size))}")


def _training(num_views: int) -> list[str]:
    """Returns conf and epochs that suit this machine: the published conf takes days without a GPU."""
    import torch

    if torch.cuda.is_available():
        return ["--conf", "./confs/dtu_fixed_cameras.conf"]
    return ["--conf", "./confs/photos.conf", "--nepoch", str(-(-FAST_STEPS // num_views))]


if __name__ == "__main__":
    raise SystemExit(main())
