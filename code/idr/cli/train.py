"""``exp_runner.py``: trains geometry, appearance and, with ``--train_cameras``, the cameras of one scene."""

from __future__ import annotations

import argparse
import functools
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.report import report_after_training
from idr.cli.shared.common import EXIT_INTERRUPTED, EXIT_OK, make_parser, run_command, say
from idr.cli.shared.confs import read_conf
from idr.cli.shared.flags import LATEST, add_flags, check_at_least
from idr.cli.shared.processes import run_in_group
from idr.cli.shared.train_flags import add_train_arguments, choose_threads, cpu_prepared, stop_rule
from idr.cli.shared.train_viewer import add_viewer_argument, check_viewer, viewer_process
from idr.cli.shared.train_watching import camera_monitor, draw_plots
from idr.errors import InputError, MissingInputError
from idr.places import BESIDE_CODE

if TYPE_CHECKING:
    import torch
    from pyhocon import ConfigTree

    from idr.checkpoints.folder import CheckpointFolder
    from idr.pictures.plots import PlotConfig
    from idr.training.cameras.intrinsics import LearnableIntrinsics
    from idr.training.cameras.poses import LearnablePoses
    from idr.training.config import TrainConfig
    from idr.training.processes.distributed import OneProcess
    from idr.training.progress import TensorBoardLog
    from idr.training.stopping import StopRule
    from idr.training.terms.build import Term
    from idr.training.trainer import Trainer

log = logging.getLogger("idr.cli.train")

DESCRIPTION = (
    "Trains a surface and its appearance from masked photographs; with --train_cameras also the cameras, "
    f"from rough ones. Runs go to exps/<expname><suffix>[_<scan>]/<time>/ {BESIDE_CODE}."
)
EXAMPLES = """\
  %(prog)s --conf ./confs/dtu_fixed_cameras.conf --scan_id 65
  %(prog)s --conf ./confs/dtu_trained_cameras.conf --train_cameras --scan_id 65
  %(prog)s --conf ./confs/dtu_fixed_cameras.conf --scan_id 65 --is_continue"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "train")
    add_train_arguments(parser)
    for name, what in (("--timestamp", "folder of the run"), ("--checkpoint", "epoch of the checkpoint")):
        parser.add_argument(name, default=LATEST, help=f"with --is_continue: {what}, or the latest")
    add_flags(parser, "scan_id")
    add_viewer_argument(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    began = time.monotonic()
    return run_command(build_parser(), argv, lambda arguments: _start(arguments, began))


def _start(arguments: argparse.Namespace, began: float) -> int:
    from idr.many_scenes.launchers import end_with_parent

    end_with_parent()
    check_at_least(arguments, batch_size=1, nepoch=0, threads=1, seed=0)
    if not arguments.is_continue and (arguments.timestamp != LATEST or arguments.checkpoint != LATEST):
        raise InputError("--timestamp and --checkpoint choose what to continue from; add --is_continue")
    check_viewer(arguments.viewer)
    stop = stop_rule(arguments, began)

    def train(device: torch.device, group: OneProcess) -> int:
        return TrainingProcess(arguments, device, group, stop).run()

    return run_in_group(arguments.gpu, arguments.device, train)


@dataclass(frozen=True)
class Settings:
    """What conf and flags say.

    The conf names the scene that the flags choose; `scan_id` is None for a data set's only scene. The seed is
    that of a new run. Runs are the folders ``<exps>/<name>/<time>/``.
    """

    conf: ConfigTree
    train: TrainConfig
    plot: PlotConfig
    scan_id: int | None
    seed: int
    exps: Path
    name: str
    tensorboard: TensorBoardLog | None


@dataclass(frozen=True)
class Components:
    """What is trained and on what: the conf's data set, model, loss and its terms, and trained cameras."""

    dataset: Any
    model: torch.nn.Module
    loss: Any
    terms: Sequence[Term]
    poses: LearnablePoses | None = None
    intrinsics: LearnableIntrinsics | None = None


@dataclass(frozen=True)
class Source:
    """A checkpoint to continue from."""

    folder: CheckpointFolder
    name: str


@dataclass(frozen=True)
class TrainingProcess:
    """The command in one process of its group: reads, builds, opens the run's folder, trains.

    Everything that bad input can break is read and built before anything is written.
    """

    arguments: argparse.Namespace
    device: torch.device
    group: OneProcess
    stop: StopRule

    def run(self) -> int:
        """Trains and returns the exit status."""
        with cpu_prepared(), ExitStack() as locks:
            settings = self.group.on_all(self.read)
            source = None
            if self.arguments.is_continue:
                source = self.group.on_first(lambda: _find_checkpoint(self.arguments, settings, locks))
            components = self.group.on_all(lambda: self.build(settings))
            self.check_counts(settings.train, components.dataset)
            threads = choose_threads(self.arguments.threads, components.model, self.device)
            trainer = self.open(settings, components, source, locks)
            if trainer is None:
                return EXIT_OK
            self.say_start(trainer, source, threads)
            viewer_port = self.arguments.viewer if self.group.is_first else None
            with viewer_process(viewer_port, trainer.outputs.run):
                all_done = trainer.train()
            return self.finish(trainer, all_done)

    def read(self) -> Settings:
        """Reads the conf and checks the blocks that the command itself uses."""
        from idr.conf.build import conf_value, scan_id_of
        from idr.conf.files import check_values, project_root, read_block
        from idr.pictures.plots import PlotConfig
        from idr.runs.folders import run_name
        from idr.training.cameras.intrinsics import CamerasConfig
        from idr.training.config import TrainConfig
        from idr.training.progress import TensorBoardLog

        arguments = self.arguments
        conf = read_conf(arguments.conf, arguments.overrides)
        train = read_block(TrainConfig, conf_value(conf, "train"), "train", unknown="warn")
        if arguments.train_cameras and train.learning_rate_cam is None:
            raise InputError("--train_cameras needs train.learning_rate_cam in the conf (published: 1.0e-4)")
        if not arguments.train_cameras and train.cameras != CamerasConfig():
            log.warning("train.cameras has no effect without --train_cameras")
        plot = read_block(PlotConfig, conf.get("plot", {}), "plot")
        scan_id = scan_id_of(conf, arguments.scan_id)
        if scan_id is not None:
            conf.put("dataset.scan_id", scan_id)
        if arguments.data_root is not None:
            conf.put("dataset.data_root", str(Path(arguments.data_root).expanduser().resolve()))
            check_values(conf)
        return Settings(
            conf, train, plot, scan_id, arguments.seed or 0,
            exps=project_root() / Path(arguments.exps_folder).expanduser(),
            name=run_name(train.expname, arguments.expname, scan_id),
            tensorboard=TensorBoardLog() if arguments.tensorboard and self.group.is_first else None,
        )  # fmt: skip

    def build(self, settings: Settings) -> Components:
        """Builds data set, model, loss and trained cameras, equal in every process."""
        from idr.conf.build import build_dataset, build_loss, build_model
        from idr.conf.grids import fit_grids
        from idr.geometry.cameras import pixel_width
        from idr.training.cameras.intrinsics import make_cameras
        from idr.training.capture import check_capture
        from idr.training.rays.randomness import Stream, seed_everything
        from idr.training.schedule.checks import check_schedule
        from idr.training.terms.build import build_terms

        seed_everything(settings.seed, Stream.WEIGHTS)
        train_cameras = self.arguments.train_cameras
        dataset = build_dataset(settings.conf, train_cameras, settings.scan_id, self.arguments.data_root)
        if hasattr(dataset, "intrinsics") and hasattr(dataset, "poses"):
            fit_grids(settings.conf, pixel_width(dataset.intrinsics, dataset.poses))
        model, loss = build_model(settings.conf).to(self.device), build_loss(settings.conf)
        poses = intrinsics = None
        if train_cameras:
            poses, intrinsics = make_cameras(dataset, settings.train.cameras)
            poses = poses.to(self.device)
            intrinsics = None if intrinsics is None else intrinsics.to(self.device)
        check_schedule(settings.train, dataset, model, loss)
        terms = build_terms(settings.conf["loss"], dataset, model, poses)
        check_capture(settings.train, model, terms, train_cameras, self.group.size)
        return Components(dataset, model, loss, terms, poses, intrinsics)

    def check_counts(self, config: TrainConfig, dataset: Any) -> None:
        """Warns of batches larger than the data set; refuses fewer pixels than processes."""
        batch_size, pixels = self.arguments.batch_size, dataset.total_pixels
        if batch_size > len(dataset):
            log.warning("--batch_size %d exceeds the %d images: one step an epoch", batch_size, len(dataset))
        if config.num_pixels > pixels:
            log.warning("train.num_pixels %d is more than an image has (%d)", config.num_pixels, pixels)
        self.group.check_pixels(min(config.num_pixels, pixels // max((1, *config.reductions)) ** 2))

    def open(
        self, settings: Settings, components: Components, source: Source | None, locks: ExitStack
    ) -> Trainer | None:
        """Opens a new run, or the continued one, and saves the conf there; None if all epochs are done.

        A new run's lock is held until `locks` closes.
        """
        from idr.conf.files import save_conf
        from idr.runs.folders import RUNCONF, create_run, read_metrics
        from idr.runs.lock import locked

        group, arguments = self.group, self.arguments

        def create() -> Path:
            run = create_run(settings.exps, settings.name)
            locks.enter_context(locked(run))
            return run

        if source is None:
            folder = group.on_first(create)
            trainer = self.make_trainer(settings, components, folder)
        else:
            # The checkpoint is read before anything is written: one that does not fit leaves no trace.
            trainer = self.make_trainer(settings, components, source.folder.path.parent)
            keep_seed = arguments.seed is not None
            group.on_all(lambda: trainer.resume(source.folder, source.name, keep_seed=keep_seed))
            if trainer.state.epoch >= arguments.nepoch:
                say(f"run: {trainer.outputs.run}")
                say(f"nothing to do: {trainer.state.epoch} epochs are done, --nepoch is {arguments.nepoch}")
                return None
            if arguments.new_run:
                trainer.move_to(group.on_first(create))
            folder = trainer.outputs.run
            group.on_all(lambda: read_metrics(folder / "metrics.csv"))  # before anything is written
            group.on_first(lambda: _keep_changed_conf(settings.conf, folder, trainer.state.epoch))
        group.on_first(lambda: save_conf(settings.conf, folder / RUNCONF))
        return trainer

    def make_trainer(self, settings: Settings, components: Components, folder: Path) -> Trainer:
        """Returns the trainer of a run; the first process of the group writes its files."""
        from idr.training.trainer import RunWriters, Trainer

        watches_cameras = components.poses is not None and self.group.is_first
        outputs = RunWriters(
            run=folder,
            plot=functools.partial(draw_plots, config=settings.plot) if self.group.is_first else None,
            monitor=camera_monitor(components.dataset) if watches_cameras else None,
            tensorboard=settings.tensorboard,
        )
        return Trainer(
            components.dataset, components.model, components.loss, settings.train,
            num_epochs=self.arguments.nepoch, batch_size=self.arguments.batch_size, seed=settings.seed,
            outputs=outputs, poses=components.poses, intrinsics=components.intrinsics, terms=components.terms,
            group=self.group, stop=self.stop,
        )  # fmt: skip

    def say_start(self, trainer: Trainer, source: Source | None, threads: str) -> None:
        """Prints the run's folder, its size and, if it is continued, the checkpoint."""
        state, size = trainer.state, self.group.size
        say(f"run: {trainer.outputs.run}")
        processes = f", {size} processes" if size > 1 else ""
        parameters = sum(p.numel() for p in state.model.parameters())
        say(f"{len(trainer.dataset)} images, {parameters:,} parameters, on {self.device}{threads}{processes}")
        if source is not None:
            say(f"continuing from checkpoint {source.name} (epoch {state.epoch}, step {state.step})")

    def finish(self, trainer: Trainer, all_done: bool) -> int:
        """Prints how training ended, writes the report of ``--report``, and returns the exit status."""
        folder, state = trainer.outputs.run, trainer.state
        if all_done:
            say(f"done: {self.arguments.nepoch} epochs; last checkpoint in {trainer.checkpoints.path}")
        else:
            cause = "" if trainer.interrupted else f": {trainer.stop.reason}"
            say(
                f"stopped in epoch {state.epoch}, step {state.step}{cause}; the state is saved in "
                f"{trainer.checkpoints.path}\nto go on: the same command with --is_continue --timestamp "
                f"{folder.name}"
            )
        if trainer.interrupted:
            return EXIT_INTERRUPTED
        if self.arguments.report:
            self.group.on_first(lambda: report_after_training(folder, self.device))
        return EXIT_OK


def _find_checkpoint(arguments: argparse.Namespace, settings: Settings, locks: ExitStack) -> Source | None:
    """Finds the checkpoint to continue from; without one, says that training starts from scratch.

    If the run is continued in its own folder, its lock is held until `locks` closes.
    """
    from idr.runs.folders import CHECKPOINTS, CheckpointFolder, find_run
    from idr.runs.lock import locked

    try:
        folder = find_run(settings.exps, settings.name, arguments.timestamp, arguments.checkpoint)
    except MissingInputError:
        if arguments.timestamp != LATEST or arguments.checkpoint != LATEST:
            raise
        place = settings.exps / settings.name
        say(f"nothing to continue from, starting from scratch: no run in {place} holds a checkpoint")
        return None
    if not arguments.new_run:
        locks.enter_context(locked(folder))
    checkpoints = CheckpointFolder(folder / CHECKPOINTS)
    return Source(checkpoints, checkpoints.resolve(arguments.checkpoint))


def _keep_changed_conf(conf: ConfigTree, folder: Path, epoch: int) -> None:
    """Keeps the conf of a run's earlier epochs in a file of its own where the run continues with another."""
    from idr.conf.files import load_conf, save_conf
    from idr.runs.folders import RUNCONF

    if not (folder / RUNCONF).is_file():
        return
    before = load_conf(folder / RUNCONF)
    if before != conf:
        ends = ("", *(f"_{number}" for number in range(2, 1000)))
        names = (folder / f"runconf_until_{epoch}{end}.conf" for end in ends)
        kept = next(path for path in names if not path.exists())  # others are of changes in that epoch
        save_conf(before, kept)
        log.warning("the conf differs from the run's earlier one, which is kept as %s", kept.name)


if __name__ == "__main__":
    raise SystemExit(main())
