"""``export_mesh.py``: a run's surface as a colored PLY, OBJ or GLB."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_flags, add_run_arguments, add_switches, check_at_least
from idr.cli.shared.runs import check_new, open_run
from idr.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import trimesh
    from numpy.typing import NDArray

    from idr.datasets.record import TrueSize
    from idr.export.surface import Surface
    from idr.runs import Run

DESCRIPTION = (
    "Writes the surface of a trained run as a mesh for other programs, with colors of its appearance network "
    "at the vertices or baked into a texture."
)
EXAMPLES = """\
  %(prog)s --conf ./confs/demo.conf --scan_id 1
  %(prog)s --scan_id 65 --faces 50000 --texture 2048 --out skull.glb skull.obj
  %(prog)s --scan_id 65 --coordinates unit --colors normal --out skull.ply"""
LARGEST_TEXTURE = 16384
SHOWN_METERS = 0.25
"""Longest side of a USDZ of unknown size: AR viewers show it beside real things."""
MIN_MB = 0.01
"""Smallest limit of a GLB's size: some 200 faces."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "export-mesh")
    add_run_arguments(parser)
    output = parser.add_argument_group("output")
    formats = "files to write, .glb, .obj, .ply, .stl, .usdz (needs pip install 'idr-surface[usd]')"
    out = f"{formats}; default: evals/<expname><suffix>[_<scan>]/mesh_<epoch>.glb"
    output.add_argument("--out", type=Path, nargs="+", metavar="FILE", help=out)
    add_switches(output, force="replace existing files")
    add_flags(output, "coordinates")
    add_switches(output, lit="let viewers of a GLB or USDZ add their own light to that of the photographs")
    output.add_argument(
        "--up", type=_up, default="auto", metavar="auto|none|X,Y,Z",
        help="up direction of a GLB or USDZ (+Y): auto = the cameras' upright; none = leave the axes; "
        "or a direction in --coordinates, written --up=0,-1,0",
    )  # fmt: skip
    ground = "stand the mesh on z = 0, centered: the plane of the printed board, or its lowest point"
    add_switches(output, on_ground=ground)
    mesh = parser.add_argument_group("mesh")
    add_flags(mesh, "resolution", "is_uniform_grid", resolution=256)
    kept = "components to keep: the largest, all, or those of at least SHARE of the largest one's area"
    share = "largest|all|SHARE"
    mesh.add_argument("--components", type=_components, default="largest", metavar=share, help=kept)
    holes = "keep holes open, fill them with flat lids, or fill those of at most N boundary edges"
    mesh.add_argument("--holes", type=_holes, default="keep", metavar="keep|fill|N", help=holes)
    faces = "reduce the mesh to this many faces; default: all (needs pip install 'idr-surface[mesh]')"
    mesh.add_argument("--faces", type=int, help=faces)
    size = "reduce the mesh until a GLB with colors at its vertices has at most M megabytes"
    needs = "needs pip install 'idr-surface[mesh]' if the mesh is larger"
    mesh.add_argument("--max_mb", type=float, metavar="M", help=f"{size}; default: no limit ({needs})")
    colors = parser.add_argument_group("colors")
    colors.add_argument(
        "--colors", choices=("views", "normal", "none"), default="views",
        help="views = mean over the training views that see a point (needs pip install 'idr-surface[mesh]'); "
        "normal = seen along the normal; none",
    )  # fmt: skip
    texels = "bake colors into a texture of SIZE x SIZE texels (needs pip install 'idr-surface[mesh]')"
    colors.add_argument("--texture", type=int, metavar="SIZE", help=f"{texels}; default: colors at vertices")
    add_flags(colors, "chunk_points")
    return parser


def _up(text: str) -> str | tuple[float, ...]:
    if text in ("auto", "none"):
        return text
    try:
        direction = tuple(float(part) for part in text.split(","))
    except ValueError:
        direction = ()
    if len(direction) != 3 or not 0 < math.hypot(*direction) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected auto, none or three numbers such as 0,-1,0")
    return direction


def _components(text: str) -> float:
    """Parses a fraction of the largest component's area."""
    words = {"largest": 1.0, "all": 0.0}
    try:
        share = words[text] if text in words else float(text)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text}: expected largest, all or a share from 0 to 1")
    return share


def _holes(text: str) -> float:
    """Parses the largest number of boundary edges of a hole to fill."""
    words = {"keep": 0.0, "fill": math.inf}
    if text not in words and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected keep, fill or a number of edges")
    return words[text] if text in words else int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _export)


def _export(arguments: argparse.Namespace) -> None:
    check_at_least(arguments, resolution=2, faces=4, chunk_points=1)
    if arguments.max_mb is not None and arguments.max_mb < MIN_MB:
        raise InputError(f"--max_mb {arguments.max_mb:g}: expected {MIN_MB} megabytes or more")
    textured = arguments.texture is not None
    check_texture(arguments.texture)
    if textured and arguments.max_mb is not None:
        raise InputError("--max_mb with --texture: expected colors at vertices; choose --faces for a texture")
    if textured and arguments.colors == "none":
        raise InputError("--texture with --colors none: expected colors to bake; choose views or normal")

    if arguments.on_ground and (arguments.up == "none" or arguments.coordinates == "unit"):
        raise InputError("--on_ground with --up none or --coordinates unit: expected only one of them")

    import numpy as np

    from idr.evaluation.reconstruction import true_size_of
    from idr.export.mesh_files import UPRIGHT_FORMATS, check_formats, write_surface

    if arguments.out:
        check_formats(arguments.out, textured)
        check_new(_all_files(arguments.out, textured), arguments.force)
    _check_packages(arguments)
    trained, results = open_run(arguments)
    out = arguments.out or [results / f"mesh_{trained.epoch}.glb"]
    check_new(_all_files(out, textured), arguments.force)
    true_size = true_size_of(trained) if arguments.coordinates == "world" else None
    board = true_size.ground if true_size is not None and arguments.up == "auto" else None
    has_up = any(path.suffix.lower() in UPRIGHT_FORMATS for path in out)
    needs_up = board is None if arguments.on_ground else has_up
    up = _up_direction(arguments, trained) if needs_up else None
    if arguments.on_ground and board is None and up is None:
        raise InputError("--on_ground: which way is up is unknown; give the direction with --up=X,Y,Z")
    mesh = _mesh(arguments, trained)
    surface = _colored(arguments, trained, mesh)
    if arguments.coordinates == "world":
        surface = surface.moved(trained.world_from_unit)
    upright = None if up is None else _upright(arguments, trained, up)
    if arguments.on_ground:
        ground = board if up is None else (*up, float((surface.vertices @ up).min()))
        assert ground is not None
        surface, upright = _standing(surface, ground, trained)
    if true_size is not None:
        _say_size(surface, true_size)
    for path in out:
        factor = _factor(path.suffix.lower(), surface, true_size)
        scaled = surface if factor == 1 else surface.moved(np.diag([factor, factor, factor, 1.0]))
        write_surface(scaled, path, arguments.lit, upright)
        size = sum(file.stat().st_size for file in _all_files([path], textured)) / 1e6
        where = f"{arguments.coordinates} coordinates"
        where = "in meters, on the origin" if path.suffix.lower() == ".usdz" else where
        say(f"mesh: {path} ({len(surface.faces)} faces, {where}, {size:.1f} MB)")


def _factor(ending: str, surface: Surface, true_size: TrueSize | None) -> float:
    """Returns the factor from the surface's unit to that of a file."""
    if ending == ".stl" and true_size is not None:
        return 1000.0  # STL has no unit; slicers assume millimeters
    if ending != ".usdz" or true_size is not None:
        return 1.0
    say(
        f"usdz: the scene has no true size, so the object is made about {SHOWN_METERS:g} m large; an import "
        "with --scale_by gives its own"
    )
    return SHOWN_METERS / float((surface.vertices.max(axis=0) - surface.vertices.min(axis=0)).max())


def _standing(
    surface: Surface, ground: tuple[float, ...], trained: Run
) -> tuple[Surface, NDArray[np.float64]]:
    """Moves a surface into the frame of the ground: z up from it, the box's center above the origin.

    Also returns the rotation from this frame to glTF's axes.
    """
    import numpy as np

    from idr.geometry.paths import upright_rotation

    to_gltf = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    front = (trained.world_from_unit @ np.asarray(trained.training_poses[0].double()))[:3, 3]
    matrix = np.eye(4)
    matrix[:3, :3] = to_gltf.T @ upright_rotation(np.array(ground[:3]), front - surface.vertices.mean(axis=0))
    turned = surface.moved(matrix).vertices
    middle = (turned.min(axis=0) + turned.max(axis=0)) / 2
    matrix[:3, 3] = -middle[0], -middle[1], -ground[3]
    return surface.moved(matrix), to_gltf


def _say_size(surface: Surface, size: TrueSize) -> None:
    """Prints the sides of the tightest box around a surface in meters; the error is that of the scale."""
    say(f"size: {size.of_box(surface.vertices)}; the unit is m, in STL mm")


def check_texture(size: int | None) -> None:
    """Raises `InputError` unless ``--texture`` is left out or has a size that programs read."""
    if size is not None and not 16 <= size <= LARGEST_TEXTURE:
        raise InputError(f"--texture {size}: expected 16 to {LARGEST_TEXTURE} texels")


def check_mesh_packages(faces: int | None, texture: int | None) -> None:
    """Raises `MissingInputError` if a package that ``--faces`` or ``--texture`` needs is not installed."""
    from idr.export.mesh_files import import_mesh_package

    if texture is not None:
        import_mesh_package("xatlas", "--texture")
    if faces is not None:
        import_mesh_package("fast_simplification", "--faces")


def _check_packages(arguments: argparse.Namespace) -> None:
    """Imports the optional packages that will be needed; raises `MissingInputError` without one."""
    from idr.export.visibility import require_rays

    if arguments.colors == "views":
        require_rays()
    if any(path.suffix.lower() == ".usdz" for path in arguments.out or ()):
        from idr.export.usdz import import_usd

        import_usd("Usd")
    check_mesh_packages(arguments.faces, arguments.texture)


def _turn(arguments: argparse.Namespace, trained: Run) -> NDArray[np.float64]:
    """Returns the rotation from the unit sphere's frame to that of the mesh."""
    import numpy as np

    from idr.geometry.alignment import rotation_of

    return rotation_of(trained.world_from_unit) if arguments.coordinates == "world" else np.eye(3)


def _upright(arguments: argparse.Namespace, trained: Run, up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the rotation that makes a GLB upright."""
    from idr.geometry.paths import upright_rotation

    first = trained.training_poses[0, :3, 3].double().numpy()
    return upright_rotation(up, _turn(arguments, trained) @ first)


def _up_direction(arguments: argparse.Namespace, trained: Run) -> NDArray[np.float64] | None:
    """Returns the upward unit vector (3,), by ``--up`` or the cameras, which is printed; None without one."""
    import numpy as np

    from idr.geometry.paths import surroundings

    if arguments.up == "none":
        return None
    if arguments.up != "auto":
        return np.array(arguments.up) / np.linalg.norm(arguments.up)
    try:
        up = _turn(arguments, trained) @ surroundings(trained.training_poses.double().numpy()).up
    except InputError:
        say("up: the cameras have none in common, the GLB keeps its axes; give one with --up=X,Y,Z")
        return None
    say(f"up: ({', '.join(f'{value:.3f}' for value in up)}), from the cameras; a GLB is shown so")
    return up


def _all_files(out: list[Path], textured: bool) -> list[Path]:
    from idr.export.mesh_files import companions

    return [file for path in out for file in companions(path, textured)]


def _mesh(arguments: argparse.Namespace, trained: Run) -> trimesh.Trimesh:
    """Meshes the run and tidies the mesh; prints what was done."""
    from idr.export.tidy import faces_of_glb, tidy, wholeness

    whole = trained.surface(arguments.resolution, arguments.chunk_points, arguments.is_uniform_grid)
    if whole is None:
        raise InputError(
            f"{trained.name} has no surface in the bounding sphere yet: train longer, or choose "
            "another --checkpoint"
        )
    max_bytes = math.inf if arguments.max_mb is None else arguments.max_mb * 1e6
    num_faces = min(arguments.faces or math.inf, faces_of_glb(max_bytes))
    tidied = tidy(whole, arguments.components, arguments.holes, num_faces)
    say(f"components: kept {tidied.components[1]} of {tidied.components[0]}")
    if tidied.holes[0]:
        say(f"holes: closed {tidied.holes[1]} of {tidied.holes[0]}")
    if tidied.faces[1] < tidied.faces[0] or arguments.faces is not None:
        say(f"faces: {tidied.faces[0]} reduced to {tidied.faces[1]}")
    say(f"watertight: {wholeness(tidied.mesh)}")
    return tidied.mesh


def _colored(arguments: argparse.Namespace, trained: Run, mesh: trimesh.Trimesh) -> Surface:
    """Adds normals of the signed distance, and colors; prints how many points no view sees."""
    import numpy as np
    import torch

    from idr.evaluation.report.surface import coloring_of
    from idr.export.surface import Surface
    from idr.export.texture import bake
    from idr.runs.shading import SurfaceShader

    shader = SurfaceShader(trained.model, trained.device)
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    chunks = torch.from_numpy(vertices).float().split(arguments.chunk_points)
    normals = torch.cat([shader.normals(chunk.to(trained.device)).cpu() for chunk in chunks]).double().numpy()
    surface = Surface(vertices, np.asarray(mesh.faces), normals)
    if arguments.colors == "none":
        return surface
    coloring = coloring_of(trained, shader, mesh, arguments.colors == "views", arguments.chunk_points)
    size = arguments.texture
    if size is not None:
        baked = bake(surface, size, coloring)
        say(f"texture: {size} x {size} texels, {baked.used:.0%} of them on the surface")
        surface, num_unseen, samples = baked.surface, baked.num_unseen, f"{baked.num_texels} texels"
    else:
        colors = coloring(vertices, normals)
        surface = Surface(vertices, surface.faces, normals, colors.rgb)
        num_unseen, samples = colors.num_unseen, f"{len(vertices)} vertices"
    if num_unseen:
        say(f"colors: {num_unseen} of {samples} are seen by no training view; colored along the normal")
    return surface


if __name__ == "__main__":
    raise SystemExit(main())
