"""Contract 1: the commands, their flags and the published defaults."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from idr.cli.shared.commands import COMMANDS

ROOT = Path(__file__).parents[2]
CONF = "./confs/dtu_fixed_cameras.conf"

# Default of each flag.
PUBLISHED = {
    "exp_runner": {
        "batch_size": 1,
        "nepoch": 2000,
        "conf": CONF,
        "expname": "",
        "gpu": "auto",
        "is_continue": False,
        "timestamp": "latest",
        "checkpoint": "latest",
        "train_cameras": False,
        "scan_id": -1,
    },
    "eval": {
        "conf": CONF,
        "expname": "",
        "exps_folder": "exps",
        "gpu": "auto",
        "timestamp": "latest",
        "checkpoint": "latest",
        "scan_id": -1,
        "resolution": 512,
        "is_uniform_grid": False,
        "eval_cameras": False,
        "eval_rendering": False,
    },
    "eval_disentanglement": {"conf": CONF, "gpu": "auto", "geometry_id": 65, "appearance_id": 110},
    "preprocess_cameras": {"source_dir": "", "dtu": False, "use_linear_init": False},
}

ADDED = {
    "exp_runner": {
        "overrides": [],
        "data_root": None,
        "exps_folder": "exps",
        "device": None,
        "seed": None,
        "threads": None,
        "new_run": False,
        "tensorboard": False,
        "report": False,
        "viewer": None,
        "max_minutes": None,
        "target_psnr": None,
    },
    "eval": {
        "overrides": [],
        "data_root": None,
        "evals_folder": None,
        "device": None,
        "dense": False,
        "points": None,
        "lpips": False,
        "chunk_pixels": None,
        "chunk_points": None,
    },
    "eval_disentanglement": {
        "overrides": [],
        "data_root": None,
        "device": None,
        "geometry_run": None,
        "appearance_run": None,
        "checkpoint": "2000",
        "geometry_checkpoint": None,
        "appearance_checkpoint": None,
        "view": 0,
        "key_views": None,
        "key_times": None,
        "key_distances": None,
        "frames": 30,
        "img_res": None,
        "video": None,
        "fps": 10.0,
        "chunk_pixels": None,
        "force": False,
    },
    "preprocess_cameras": {"data_root": None, "dry_run": False},
    "check_scene": {"source_dir": None, "out": None, "use_linear_init": False, "force": False},
    "board": {"paper": "a4", "side": 25.0, "tags": "aruco", "out": Path("board.pdf"), "force": False},
    "masks": {
        "scene": None, "object": [], "background": [], "erase": [], "within": [], "keep": None, "brush": None,
        "host": "127.0.0.1", "port": 8090,
    },
    "triangulate_points": {"source_dir": None, "out": None, "overwrite": False, "use_linear_init": False},
    "make_demo_scene": {
        "out": None,
        "seed": 0,
        "img_res": [128, 160],
        "views": 24,
        "holdout": 6,
        "noise_degrees": 1.5,
        "noise_center": 0.03,
        "supersampling": 4,
        "mesh_resolution": 192,
        "force": False,
    },
}

ATTEMPTS = {
    "turntable": False,
    "no_turntable": False,
    "mask_features": False,
    "guided_matching": False,
    "relaxed": False,
    "max_image_size": None,
    "mapper": None,
    "second_try": None,
}
"""Flags of structure from motion."""
ADDED["import_scene"] = {
    "source": None,
    "out": None,
    "kind": None,
    "images": None,
    "masks": None,
    "make_missing_masks": False,
    "mask_command": None,
    "points": None,
    "sphere": "auto",
    "downscale": 1,
    "pixel_center": None,
    "scale_by": [],
    "force": False,
    "camera_model": None,
    "matching": None,
    "frames": None,
    "min_registered": None,
    "threads": None,
    **ATTEMPTS,
    "rough_cameras": False,
    "rough_degrees": 1.5,
    "rough_fraction": 0.03,
    "rough_from": None,
    "seed": 0,
}
ANY_RUN = {
    flag: (PUBLISHED["eval"] | ADDED["eval"])[flag]
    for flag in (
        *("conf", "overrides", "data_root", "expname", "exps_folder", "evals_folder", "gpu", "device"),
        *("timestamp", "checkpoint", "scan_id"),
    )
}
ADDED["export_mesh"] = ANY_RUN | {
    "out": None,
    "force": False,
    "coordinates": "world",
    "up": "auto",
    "on_ground": False,
    "lit": False,
    "resolution": 256,
    "is_uniform_grid": False,
    "max_mb": None,
    "components": "largest",
    "holes": "keep",
    "faces": None,
    "colors": "views",
    "texture": None,
    "chunk_points": None,
}
ADDED["export_cameras"] = ANY_RUN | {
    "cameras": "trained",
    "out": None,
    "formats": ["transforms", "colmap", "npz"],
    "coordinates": "world",
    "copy_images": False,
    "force": False,
}
ADDED["render_path"] = ANY_RUN | {
    "appearance_run": None,
    "appearance_checkpoint": "latest",
    "path": "orbit",
    "frames": 60,
    "view": 0,
    "turns": None,
    "elevation": None,
    "distance": None,
    "key_views": None,
    "closed": False,
    "outputs": ["color"],
    "out": None,
    "force": False,
    "img_res": None,
    "video": None,
    "fps": 25.0,
    "chunk_pixels": None,
    "supersample": 2,
}
ADDED["report"] = ANY_RUN | {
    "out": None,
    "force": False,
    "views": 6,
    "side": 320,
    "resolution": 128,
    "title": None,
    "supersample": 2,
}
ADDED["eval_mesh"] = {
    "mesh": None,
    "reference": None,
    "dtu": None,
    "scan_id": None,
    "threshold": None,
    "samples": 100_000,
    "seed": 0,
    "out": None,
    "force": False,
}
ADDED["summary"] = {
    flag: ANY_RUN[flag] for flag in ("conf", "overrides", "data_root", "expname", "evals_folder")
} | {"scans": None}
ADDED["doctor"] = {"data": None, "use_linear_init": False}
ADDED["serve"] = {
    "run": "latest",
    "conf": None,
    "exps_folder": "exps",
    "data_root": None,
    "gpu": "auto",
    "device": None,
    "threads": None,
    "host": "127.0.0.1",
    "port": 8080,
    "resolution": 96,
    "side": 320,
    "beside_training": False,
}
ADDED["make_photo_scene"] = {
    "out": None,
    "seed": 0,
    "views": 32,
    "img_res": [480, 640],
    "supersampling": 2,
    "mesh_resolution": 192,
}
ADDED["photos"] = {
    "source": None,
    "out": None,
    "max_minutes": 30.0,
    "conf": "./confs/photos.conf",
    "overrides": [],
    "nepoch": None,
    "hold_out": None,
    "faces": None,
    "texture": None,
    "kind": None,
    "images": None,
    "points": None,
    "frames": None,
    **ATTEMPTS,
    "scale_by": [],
    "masks": None,
    "mask_command": None,
    "make_missing_masks": False,
    "downscale": None,
    "resolution": 256,
    "despite": [],
    "from_step": None,
    "gpu": "auto",
    "device": None,
}
CHOOSE_A_RUN = {"scan_id", "timestamp", "checkpoint", "viewer"}
ADDED["run_scenes"] = {
    flag: default
    for flag, default in (PUBLISHED["exp_runner"] | ADDED["exp_runner"]).items()
    if flag not in CHOOSE_A_RUN
} | {"scans": None, "jobs": None, "gpus": [], "cluster": None, "cluster_set": []}


SHARED = {"help", "version", "quiet", "verbose"}
"""Flags of every command."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Parsers by the stem of the script."""
    return {
        Path(command.script).stem: command.load().build_parser()
        for command in COMMANDS.values()
        if command.script
    }


def flags_of(parser: argparse.ArgumentParser) -> dict[str, object]:
    return {action.dest: action.default for action in parser._actions if action.dest not in SHARED}


@pytest.mark.parametrize("command", PUBLISHED)
def test_published_flags_and_defaults(command):
    parser = parsers()[command]
    arguments = vars(parser.parse_args([]))
    assert {flag: arguments[flag] for flag in PUBLISHED[command]} == PUBLISHED[command]
    written = {action.dest: action.option_strings for action in parser._actions}
    assert {flag: written[flag] for flag in PUBLISHED[command]} == {
        flag: [f"--{flag}"] for flag in PUBLISHED[command]
    }


@pytest.mark.parametrize("command", ADDED)
def test_flags_and_defaults_are_the_listed_ones(command):
    assert flags_of(parsers()[command]) == PUBLISHED.get(command, {}) | ADDED[command]


@pytest.mark.parametrize(
    "command, line, values",
    [
        (
            "exp_runner",
            "--batch_size 2 --nepoch 10 --conf a.conf --expname X --gpu 3 --is_continue --timestamp 2020 "
            "--checkpoint 100 --train_cameras --scan_id 65",
            {
                "batch_size": 2,
                "nepoch": 10,
                "conf": "a.conf",
                "expname": "X",
                "gpu": "3",
                "is_continue": True,
                "timestamp": "2020",
                "checkpoint": "100",
                "train_cameras": True,
                "scan_id": 65,
            },
        ),
        (
            "eval",
            "--exps_folder trained_models --timestamp 2020 --checkpoint 2000 --scan_id 114 --resolution 128 "
            "--is_uniform_grid --eval_cameras --eval_rendering --gpu ignore",
            {
                "exps_folder": "trained_models",
                "checkpoint": "2000",
                "scan_id": 114,
                "resolution": 128,
                "is_uniform_grid": True,
                "eval_cameras": True,
                "eval_rendering": True,
                "gpu": "ignore",
            },
        ),
        (
            "eval_disentanglement",
            "--geometry_id 24 --appearance_id 37",
            {"geometry_id": 24, "appearance_id": 37},
        ),
        ("preprocess_cameras", "--dtu --use_linear_init", {"dtu": True, "use_linear_init": True}),
    ],
)
def test_published_command_lines_are_parsed(command, line, values):
    arguments = vars(parsers()[command].parse_args(line.split()))
    assert {flag: arguments[flag] for flag in values} == values


@pytest.mark.parametrize("command", [*ADDED])
def test_every_flag_is_explained(command):
    for action in parsers()[command]._actions:
        assert action.help and len(action.help) > 5, action.dest
    assert SHARED <= {action.dest for action in parsers()[command]._actions}


@pytest.mark.parametrize("command", [*ADDED])
def test_version_is_that_of_pyproject(command, capsys):
    with pytest.raises(SystemExit) as end:
        parsers()[command].parse_args(["--version"])
    line = re.search(r"^version = .*$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert end.value.code == 0 and line is not None
    assert line[0] == f'version = "{capsys.readouterr().out.removeprefix("idr ").rstrip()}"'


def test_version_of_an_installed_package_is_that_of_its_metadata(tmp_path):
    """A copy without a pyproject.toml, next to the metadata that pip writes."""
    site = tmp_path / "lib" / "site"
    shutil.copytree(ROOT / "code" / "idr", site / "idr", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "idr_surface-7.8.9.dist-info").mkdir()
    (site / "idr_surface-7.8.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: idr-surface\nVersion: 7.8.9\n"
    )
    command = [sys.executable, "-m", "idr.cli.train", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "idr 7.8.9\n", "")
