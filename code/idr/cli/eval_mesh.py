"""``eval_mesh.py``: scores a mesh against a mesh, a point cloud or a DTU scan."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_switches
from idr.errors import InputError

DESCRIPTION = (
    "Measures Chamfer distance, accuracy, completeness and F-score of a mesh against a mesh or point cloud "
    "in the same frame, or by the DTU protocol against the official data. Writes the scores as JSON."
)
EXAMPLES = """\
  %(prog)s ../evals/demo_1/surface.ply --reference truth.ply
  %(prog)s surface_world_coordinates_2000.ply --dtu /data/MVS_Data --scan_id 65"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "eval-mesh")
    parser.add_argument("mesh", help="the reconstruction: .ply, .obj, .stl or .glb")
    parser.add_argument("--reference", help="the true mesh or point cloud")
    parser.add_argument("--dtu", help="folder of the official data: Points/stl/, ObsMask/")
    parser.add_argument("--scan_id", type=int, help="with --dtu: scan number")
    threshold = "threshold of the F-score; default: 1 %% of the diagonal of the reference's bounding box"
    parser.add_argument("--threshold", type=float, help=threshold)
    parser.add_argument("--samples", type=int, default=100_000, help="points drawn on each surface")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--out", help="JSON file; default: <mesh>_scores.json in the mesh's folder")
    add_switches(parser, force="replace an existing file that holds no scores")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    if (arguments.reference is None) == (arguments.dtu is None):
        raise InputError("expected one of --reference FILE and --dtu FOLDER --scan_id N")
    if (arguments.dtu is None) != (arguments.scan_id is None):
        raise InputError("--dtu and --scan_id belong together: --dtu FOLDER --scan_id N")
    if arguments.samples < 1 or arguments.seed < 0:
        raise InputError(
            f"--samples {arguments.samples} --seed {arguments.seed}: expected at least 1 and 0 or more"
        )

    import trimesh

    from idr.evaluation.chamfer import mesh_scores
    from idr.evaluation.dtu import dtu_scores, read_geometry, read_reference
    from idr.evaluation.results import is_own_scores
    from idr.files import write_text_atomic
    from idr.replacing import check_file

    path = Path(arguments.mesh).expanduser()
    out = Path(arguments.out).expanduser() if arguments.out else path.with_name(f"{path.stem}_scores.json")
    check_file(out, arguments.force, is_own_scores)
    mesh = read_geometry(path)
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise InputError(f"{path} holds points but no triangles; expected a mesh")
    if arguments.dtu is not None:
        reference = read_reference(Path(arguments.dtu).expanduser(), arguments.scan_id)
        dtu = dtu_scores(mesh, reference, arguments.seed)
        record = {"protocol": "dtu", "scan_id": arguments.scan_id, **asdict(dtu)}
        line = f"DTU EVALUATION {arguments.scan_id}: accuracy = {dtu.accuracy:.3f} ; "
        line += f"completeness = {dtu.completeness:.3f} ; overall = {dtu.overall:.3f}"
    else:
        truth = read_geometry(Path(arguments.reference).expanduser())
        scores = mesh_scores(mesh, truth, arguments.threshold, arguments.samples, arguments.seed)
        record = {"protocol": "chamfer", "reference": arguments.reference, "samples": arguments.samples}
        record |= asdict(scores)
        line = (
            f"MESH EVALUATION {path.name}: chamfer = {scores.chamfer:.5g} ; "
            f"accuracy = {scores.accuracy:.5g} ; completeness = {scores.completeness:.5g} ; "
            f"f-score({scores.threshold:.3g}) = {scores.f_score:.4f}"
        )
    record |= {"mesh": str(path), "seed": arguments.seed}
    write_text_atomic(out, json.dumps(record, indent=2, allow_nan=False) + "\n")
    say(line)
    say(f"results: {out}")


if __name__ == "__main__":
    raise SystemExit(main())
