"""``run_scenes.py``: trains a list of scenes, several at a time, and keeps a table of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import EXIT_INTERRUPTED, EXIT_OK, EXIT_STOPPED, make_parser, run_command, say
from idr.cli.shared.confs import check_conf, read_conf
from idr.cli.shared.flags import check_at_least
from idr.cli.shared.train_flags import add_train_arguments
from idr.errors import InputError

if TYPE_CHECKING:
    from idr.many_scenes.scenes import Launcher

DESCRIPTION = (
    "Trains a list of scenes, each in its own process, and continues unfinished ones. Accepts all options of "
    "exp_runner.py. Table and logs go to exps/<expname><suffix>_scenes/."
)
EXAMPLES = """\
  %(prog)s --scans 24 37 40 --jobs 2 --conf ./confs/dtu_quick_fixed_cameras.conf --nepoch 100
  %(prog)s --scans 24 37 40 --gpus 0 1 --conf ./confs/dtu_trained_cameras.conf --train_cameras
  %(prog)s --scans 24 37 40 --cluster slurm --cluster_set slurm_partition=gpu --cluster_set gpus_per_node=1"""  # noqa: E501


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command, which includes the options of ``exp_runner.py``."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "run-scenes")
    _add_own_arguments(parser)
    add_train_arguments(parser)
    return parser


def _add_own_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--scans", type=int, nargs="+", required=True, metavar="N", help="scenes to train")
    add("--jobs", type=int, help="scenes at a time; default: one per GPU of --gpus, all on a cluster, else 1")
    add("--gpus", type=int, nargs="+", default=[], metavar="G", help="GPUs to distribute the scenes over")
    cluster = "submit the scenes (pip install 'idr-surface[cluster]'); local: to this machine, as a trial"
    add("--cluster", choices=("slurm", "local"), help=cluster)
    several = "with --cluster: a parameter of submitit's executor; may be given several times"
    add("--cluster_set", action="append", default=[], metavar="KEY=VALUE", help=several)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    # What a parser of this command's own options leaves over are those of exp_runner.py.
    words = sys.argv[1:] if argv is None else list(argv)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_own_arguments(own)
    return run_command(
        build_parser(), words, lambda arguments: _train_all(arguments, own.parse_known_args(words)[1])
    )


def _train_all(arguments: argparse.Namespace, passed_on: list[str]) -> int:
    """Trains the scenes; `passed_on` are the options of ``exp_runner.py``."""
    jobs = _check(arguments)

    from idr.conf.build import conf_value
    from idr.conf.files import project_root, read_block
    from idr.many_scenes.scenes import DONE, DONE_BEFORE, Scene, SceneQueue, SummaryTable
    from idr.runs.folders import run_name
    from idr.training.config import TrainConfig

    conf = read_conf(arguments.conf, arguments.overrides)
    check_conf(conf)
    expname = read_block(TrainConfig, conf_value(conf, "train"), "train", unknown="warn").expname
    exps = project_root() / Path(arguments.exps_folder).expanduser()
    folder = exps / f"{run_name(expname, arguments.expname)}_scenes"
    train = [sys.executable, "-m", "idr.cli.train", *passed_on]
    train += [] if arguments.is_continue else ["--is_continue"]
    scenes = []
    for scan in arguments.scans:
        name, command = run_name(expname, arguments.expname, scan), (*train, "--scan_id", str(scan))
        scenes.append(Scene(scan, name, command, folder / f"scan{scan}.log"))
    launcher = _launcher(arguments, jobs, folder)
    table = SummaryTable(folder, arguments.nepoch)
    stopped = SceneQueue(scenes, exps, launcher, jobs, table).run()
    say(table.to_markdown().rstrip())
    say(f"table: {folder / 'summary.csv'}, {folder / 'summary.md'}")
    if all(row.status in (DONE, DONE_BEFORE) for row in table.rows.values()):
        return EXIT_OK
    say("to continue unfinished scenes: the same command")
    return EXIT_INTERRUPTED if stopped else EXIT_STOPPED


def _check(arguments: argparse.Namespace) -> int:
    """Checks the command's own flags and returns the number of scenes at a time."""
    repeated = sorted({scan for scan in arguments.scans if arguments.scans.count(scan) > 1})
    if repeated:
        raise InputError(
            f"--scans names {', '.join(map(str, repeated))} more than once; name each scene once"
        )
    if min(arguments.scans) < 0:
        raise InputError(f"--scans {min(arguments.scans)}: expected the numbers of scenes, 0 or more")
    if arguments.gpus and (arguments.cluster is not None or arguments.gpu != "auto"):
        raise InputError(
            "--gpus chooses among the GPUs of this machine; leave out --gpu, and on a cluster request GPUs "
            "with --cluster_set gpus_per_node=1"
        )
    if arguments.cluster_set and arguments.cluster is None:
        raise InputError("--cluster_set is for a cluster; add --cluster slurm or --cluster local")
    check_at_least(arguments, jobs=1)
    all_at_once = len(arguments.scans) if arguments.cluster is not None else 1
    return min(arguments.jobs or len(arguments.gpus) or all_at_once, len(arguments.scans))


def _launcher(arguments: argparse.Namespace, jobs: int, folder: Path) -> Launcher:
    from idr.many_scenes.launchers import ClusterLauncher, ProcessLauncher

    if arguments.cluster is None:
        return ProcessLauncher(jobs, arguments.gpus)
    parameters: dict[str, int | str] = {}
    for entry in arguments.cluster_set:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise InputError(f"--cluster_set {entry}: expected KEY=VALUE, such as gpus_per_node=1")
        parameters[key] = int(value) if value.isdecimal() else value
    return ClusterLauncher(arguments.cluster, folder / "submitit", parameters)


if __name__ == "__main__":
    raise SystemExit(main())
