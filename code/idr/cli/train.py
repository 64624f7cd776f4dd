"""``exp_runner.py``: trains geometry, appearance and, if asked, cameras of one scene."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.report import report_after_training
from idr.cli.shared.common import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    add_conf_arguments,
    add_device_arguments,
    make_parser,
    parse,
    run,
    say,
)
from idr.cli.shared.processes import among_ranks
from idr.cli.shared.stopping import add_stop_arguments, stop_rule
from idr.cli.shared.threads import add_threads_argument, choose_threads, threads_restored
from idr.cli.shared.train_viewer import add_viewer_argument, check_viewer, viewer_beside
from idr.cli.shared.train_watching import camera_monitor, draw_plots
from idr.errors import InputError, MissingInputError

if TYPE_CHECKING:
    import torch
    from pyhocon import ConfigTree

    from idr.checkpoints.folder import CheckpointFolder
    from idr.pictures.plots import PlotConfig
    from idr.training.cameras.intrinsics import LearnableIntrinsics
    from idr.training.cameras.poses import LearnablePoses
    from idr.training.config import TrainConfig
    from idr.training.processes.distributed import OneProcess
    from idr.training.stopping import StopRule
    from idr.training.trainer import Trainer

log = logging.getLogger("idr.cli.train")

LATEST = "latest"
DESCRIPTION = (
    "Trains a surface and its appearance from masked photographs; with --train_cameras from rough cameras. "
    "Runs go to exps/<expname><suffix>[_<scan>]/<time>/ beside code/."
)
EXAMPLES = """\
  python training/exp_runner.py --conf ./confs/dtu_fixed_cameras.conf --scan_id 65
  python training/exp_runner.py --conf ./confs/dtu_trained_cameras.conf --train_cameras --scan_id 65
  python training/exp_runner.py --conf ./confs/dtu_fixed_cameras.conf --scan_id 65 --is_continue"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add_train_arguments(parser)
    parser.add_argument(
        "--timestamp", default=LATEST, help="with --is_continue: the run's folder, or the latest"
    )
    parser.add_argument(
        "--checkpoint", default=LATEST, help="with --is_continue: epoch of the checkpoint, or the latest"
    )
    parser.add_argument(
        "--scan_id", type=int, default=-1, help="scene; -1 takes the conf's dataset.scan_id, if any"
    )
    add_viewer_argument(parser)
    return parser


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that do not choose a scene or a run."""
    add_conf_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images a step")
    parser.add_argument(
        "--nepoch", type=int, default=2000, help="passes over the images, counted from the run's start"
    )
    parser.add_argument("--expname", default="", help="suffix to the conf's train.expname")
    parser.add_argument(
        "--exps_folder",
        default="exps",
        help="folder of all runs: absolute, or relative to the one that holds code/",
    )
    add_device_arguments(parser)
    add_threads_argument(parser)
    parser.add_argument(
        "--is_continue", action="store_true", help="continue a run from its checkpoint, in its folder"
    )
    parser.add_argument(
        "--new_run",
        action="store_true",
        help="with --is_continue: go on in a new folder and leave the old one as it is",
    )
    parser.add_argument(
        "--train_cameras", action="store_true", help="train cameras too, from cameras_linear_init.npz"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="root of all random numbers (default: 0, or the run's)"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write TensorBoard events (idr[tensorboard])"
    )
    add_stop_arguments(parser)
    parser.add_argument(
        "--report", action="store_true", help="write report.html into the run's folder when training ends"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    began = time.monotonic()
    arguments = parse(build_parser(), argv)

    def body() -> int:
        _check_numbers(arguments)
        check_viewer(arguments.viewer)
        stop = stop_rule(arguments, began)

        def train(device: torch.device, ranks: OneProcess) -> int:
            with threads_restored():
                return _train(arguments, device, ranks, stop)

        return among_ranks(arguments.gpu, arguments.device, train)

    return run(body)


def _train(arguments: argparse.Namespace, device: torch.device, ranks: OneProcess, stop: StopRule) -> int:
    """Builds everything, so that bad input leaves no trace, then opens the run's folder and trains."""
    import torch

    from idr.conf.build import scan_id_of
    from idr.conf.files import project_root, save_conf
    from idr.runs.folders import RUNCONF, create_run, run_name
    from idr.training.progress import TensorBoardLog
    from idr.training.schedule.checks import check_recipe
    from idr.training.trainer import Outputs, Trainer

    conf, config, plot_config = ranks.together(lambda: _read_conf(arguments))
    scan_id = scan_id_of(conf, arguments.scan_id)
    tensorboard = ranks.together(
        lambda: TensorBoardLog() if arguments.tensorboard and ranks.is_first else None
    )
    torch.set_flush_denormal(True)

    exps = project_root() / Path(arguments.exps_folder).expanduser()
    name = run_name(config.expname, arguments.expname, scan_id)
    source = None
    if arguments.is_continue:
        source = ranks.from_first(lambda: _find_checkpoint(arguments, exps, name))
    seed = arguments.seed or 0
    dataset, model, loss, poses, intrinsics = ranks.together(
        lambda: _build(arguments, conf, config, scan_id, seed, device)
    )
    ranks.together(lambda: check_recipe(config, dataset, model, loss))
    _check_counts(arguments, config, dataset, ranks)
    threads = choose_threads(arguments.threads, model, device)

    def trainer_in(folder: Path) -> Trainer:
        outputs = Outputs(
            run=folder,
            plot=(lambda trainer, epoch: draw_plots(trainer, epoch, plot_config)) if ranks.is_first else None,
            monitor=camera_monitor(dataset) if poses is not None and ranks.is_first else None,
            tensorboard=tensorboard,
        )
        return Trainer(
            dataset, model, loss, config,
            num_epochs=arguments.nepoch, batch_size=arguments.batch_size, seed=seed,
            outputs=outputs, poses=poses, intrinsics=intrinsics, ranks=ranks, stop=stop,
        )  # fmt: skip

    resolved = _resolved(conf, scan_id, arguments.data_root)
    if source is None:
        folder = ranks.from_first(lambda: create_run(exps, name))
        trainer = trainer_in(folder)
    else:
        checkpoints, checkpoint = source
        # The checkpoint is read before anything is written: one that does not fit leaves no trace.
        trainer = trainer_in(checkpoints.path.parent)
        ranks.together(lambda: trainer.resume(checkpoints, checkpoint, keep_seed=arguments.seed is not None))
        if trainer.state.epoch >= arguments.nepoch:
            say(f"run: {trainer.outputs.run}")
            say(f"nothing to do: {trainer.state.epoch} epochs are done, --nepoch is {arguments.nepoch}")
            return EXIT_OK
        if arguments.new_run:
            trainer.move_to(ranks.from_first(lambda: create_run(exps, name)))
        folder = trainer.outputs.run
        ranks.from_first(lambda: _note_changed_conf(resolved, folder, trainer.state.epoch))
    ranks.from_first(lambda: save_conf(resolved, folder / RUNCONF))
    say(f"run: {folder}")
    among = f", {ranks.size} processes" if ranks.size > 1 else ""
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{len(dataset)} images, {parameters:,} parameters, on {device}{threads}{among}")
    if source is not None:
        say(
            f"continuing from checkpoint {source[1]} (epoch {trainer.state.epoch}, step {trainer.state.step})"
        )
    with viewer_beside(arguments.viewer if ranks.is_first else None, folder):
        all_done = trainer.train()
    return _outcome(arguments, trainer, all_done, device)


def _outcome(arguments: argparse.Namespace, trainer: Trainer, all_done: bool, device: torch.device) -> int:
    """Says how training ended, writes the report where one is due, and returns the exit status."""
    folder, state = trainer.outputs.run, trainer.state
    if all_done:
        say(f"done: {arguments.nepoch} epochs; last checkpoint in {trainer.checkpoints.path}")
    else:
        cause = "" if trainer.interrupted else f": {trainer.stop.reason}"
        say(
            f"stopped in epoch {state.epoch}, step {state.step}{cause}; the state is saved in "
            f"{trainer.checkpoints.path}\nto go on: the same command with --is_continue --timestamp "
            f"{folder.name}"
        )
    if trainer.interrupted:
        return EXIT_INTERRUPTED
    if arguments.report:
        trainer.ranks.from_first(lambda: report_after_training(folder, device))
    return EXIT_OK


def _read_conf(arguments: argparse.Namespace) -> tuple[ConfigTree, TrainConfig, PlotConfig]:
    """Reads the conf and checks the blocks that the command itself uses."""
    from idr.conf.build import conf_value
    from idr.conf.files import load_conf, read_block
    from idr.pictures.plots import PlotConfig
    from idr.training.cameras.intrinsics import CamerasConfig
    from idr.training.config import TrainConfig

    conf = load_conf(arguments.conf, arguments.overrides)
    config = read_block(TrainConfig, conf_value(conf, "train"), "train", unknown="warn")
    if arguments.train_cameras and config.learning_rate_cam is None:
        raise InputError("--train_cameras needs train.learning_rate_cam in the conf (published: 1.0e-4)")
    if not arguments.train_cameras and config.cameras != CamerasConfig():
        log.warning("train.cameras has no effect without --train_cameras")
    return conf, config, read_block(PlotConfig, conf.get("plot", {}), "plot")


def _build(
    arguments: argparse.Namespace,
    conf: ConfigTree,
    config: TrainConfig,
    scan_id: int | None,
    seed: int,
    device: torch.device,
) -> tuple[Any, Any, Any, LearnablePoses | None, LearnableIntrinsics | None]:
    """Builds data set, model, loss and, if asked, poses and intrinsics, the same in every process."""
    from idr.conf.build import build_dataset, build_loss, build_model
    from idr.training.cameras.intrinsics import make_cameras
    from idr.training.rays.randomness import Stream, seed_everything

    seed_everything(seed, Stream.WEIGHTS)
    dataset = build_dataset(conf, arguments.train_cameras, scan_id, arguments.data_root)
    model, loss = build_model(conf).to(device), build_loss(conf)
    if not arguments.train_cameras:
        return dataset, model, loss, None, None
    poses, intrinsics = make_cameras(dataset, config.cameras)
    return dataset, model, loss, poses.to(device), None if intrinsics is None else intrinsics.to(device)


def _check_counts(
    arguments: argparse.Namespace, config: TrainConfig, dataset: Any, ranks: OneProcess
) -> None:
    """Says what a batch cannot be, and stops where its pixels are too few for all processes."""
    if arguments.batch_size > len(dataset):
        log.warning(
            "--batch_size %d is more than the %d images: one step an epoch",
            arguments.batch_size,
            len(dataset),
        )
    if config.num_pixels > dataset.total_pixels:
        log.warning(
            "train.num_pixels %d is more than an image has (%d)", config.num_pixels, dataset.total_pixels
        )
    fewest = dataset.total_pixels // max((1, *config.reductions)) ** 2
    ranks.check_pixels(min(config.num_pixels, fewest))


def _check_numbers(arguments: argparse.Namespace) -> None:
    for flag, least in (("batch_size", 1), ("nepoch", 0)):
        if getattr(arguments, flag) < least:
            raise InputError(f"--{flag} {getattr(arguments, flag)}: expected {least} or more")
    if arguments.threads is not None and arguments.threads < 1:
        raise InputError(f"--threads {arguments.threads}: expected 1 or more")
    if arguments.seed is not None and arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: expected 0 or more")
    if not arguments.is_continue and (arguments.timestamp != LATEST or arguments.checkpoint != LATEST):
        raise InputError("--timestamp and --checkpoint choose what to continue from; add --is_continue")


def _find_checkpoint(
    arguments: argparse.Namespace, exps: Path, name: str
) -> tuple[CheckpointFolder, str] | None:
    """Finds what to continue from; without a checkpoint training starts from scratch, and says so."""
    from idr.runs.folders import CHECKPOINTS, CheckpointFolder, find_run

    try:
        folder = find_run(exps, name, arguments.timestamp, arguments.checkpoint)
    except MissingInputError as error:
        if arguments.timestamp != LATEST or arguments.checkpoint != LATEST:
            raise
        say(f"nothing to continue from, starting from scratch ({error})")
        return None
    checkpoints = CheckpointFolder(folder / CHECKPOINTS)
    return checkpoints, checkpoints.resolve(arguments.checkpoint)


def _resolved(conf: Any, scan_id: int | None, data_root: str | None) -> Any:
    """Returns the conf with what the command line decided in it."""
    if scan_id is not None:
        conf.put("dataset.scan_id", scan_id)
    if data_root is not None:
        conf.put("dataset.data_root", str(Path(data_root).expanduser().resolve()))
    return conf


def _note_changed_conf(resolved: Any, folder: Path, epoch: int) -> None:
    """Keeps the conf that a run had so far where it goes on with another one."""
    from idr.conf.files import load_conf, save_conf
    from idr.runs.folders import RUNCONF

    if not (folder / RUNCONF).is_file():
        return
    before = load_conf(folder / RUNCONF)
    if before != resolved:
        kept = folder / f"runconf_until_{epoch}.conf"
        save_conf(before, kept)
        log.warning("the conf differs from the run's so far, which is kept as %s", kept.name)


if __name__ == "__main__":
    raise SystemExit(main())
