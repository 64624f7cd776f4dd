"""The flags of training that ``run_scenes.py`` passes on."""

from __future__ import annotations

import argparse

from idr.cli.shared.common import add_conf_arguments, add_device_arguments, add_seed_argument
from idr.cli.shared.stopping import add_stop_arguments
from idr.cli.shared.threads import add_threads_argument

LATEST = "latest"


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose neither a scene nor a run."""
    add_conf_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images per step")
    parser.add_argument(
        "--nepoch", type=int, default=2000, help="passes over the images, counted from the start of the run"
    )
    parser.add_argument("--expname", default="", help="suffix to the conf's train.expname")
    parser.add_argument(
        "--exps_folder",
        default="exps",
        help="folder of all runs: absolute, or relative to the folder that holds code/",
    )
    add_device_arguments(parser)
    add_threads_argument(parser)
    parser.add_argument(
        "--is_continue", action="store_true", help="continue a run from its checkpoint, in its folder"
    )
    parser.add_argument(
        "--new_run",
        action="store_true",
        help="with --is_continue: continue in a new folder and leave the old one unchanged",
    )
    parser.add_argument(
        "--train_cameras", action="store_true", help="train the cameras too, from cameras_linear_init.npz"
    )
    add_seed_argument(parser, "all random numbers; default: 0, or the continued run's", default=None)
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write TensorBoard events (idr[tensorboard])"
    )
    add_stop_arguments(parser)
    parser.add_argument(
        "--report", action="store_true", help="write report.html into the run's folder after training"
    )
