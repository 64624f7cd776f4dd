"""``eval.py`` through its command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.evaluation import ball
from tests.evaluation.test_reconstruction import drifted_poses

import idr.conf.files
import idr.runs.folders
from idr.cli.evaluate import build_parser, main
from idr.cli.shared.runs import find_exps_folder
from idr.errors import MissingInputError
from idr.runs.folders import CheckpointFolder

CODE = Path(idr.conf.files.__file__).parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder with a scene, a conf and a run; results land in it."""
    ball.enter_project(tmp_path, monkeypatch)
    return tmp_path


def evaluate(root, *flags):
    return main([*ball.COMMAND, "--data_root", str(root / "data"), "--resolution", "24", *flags])


def test_published_flags_and_defaults():
    arguments = vars(build_parser().parse_args([]))
    published = {
        "conf": "./confs/dtu_fixed_cameras.conf", "expname": "", "exps_folder": "exps", "gpu": "auto",
        "timestamp": "latest", "checkpoint": "latest", "scan_id": -1, "resolution": 512,
        "is_uniform_grid": False, "eval_cameras": False, "eval_rendering": False,
    }  # fmt: skip
    assert {key: arguments[key] for key in published} == published


def test_everything_at_once(root, capsys):
    ball.write_run(root / "exps")
    assert evaluate(root, "--eval_rendering", "--chunk_pixels", "100", "--chunk_points", "999") == 0
    out = capsys.readouterr().out
    # 20 log10(1 / 0.2)
    assert "RENDERING EVALUATION 3: psnr mean = 13.98 ; psnr std = 0.00\n" in out
    assert "RENDERING EVALUATION HELD-OUT 3: psnr mean = 13.98 ; psnr std = 0.00\n" in out
    assert "MASK EVALUATION 3: iou mean = 1.0000" in out
    folder = root / "evals" / "ball_3"
    record = json.loads((folder / "results.json").read_text())
    assert record["epoch"] == 7 and record["scan_id"] == 3
    assert record["surface"]["watertight"] and record["surface"]["components_before_filter"] == 1
    assert [view["image"] for view in record["rendering_held_out"]["views"]] == [4]
    assert (folder / "surface_world_coordinates_7.ply").is_file()
    assert (folder / "rendering" / "eval_005.png").is_file()


def test_results_of_an_earlier_run_of_that_name_are_replaced_whole(root, capsys):
    first = ball.write_run(root / "exps")
    assert evaluate(root, "--eval_rendering") == 0
    pictures = root / "evals" / "ball_3" / "rendering"
    (pictures / "mine.png").write_text("mine")
    before = sorted(path.name for path in pictures.iterdir())
    assert evaluate(root) == 0  # the same run keeps its pictures
    assert sorted(path.name for path in pictures.iterdir()) == before and "eval_000.png" in before
    assert evaluate(root, "--eval_rendering") == 0
    ball.write_run(root / "exps")
    capsys.readouterr()
    assert evaluate(root) == 0
    assert f"{first}, whose pictures were removed" in capsys.readouterr().out
    assert [path.name for path in pictures.iterdir()] == ["mine.png"]


def test_results_of_runs_of_other_folders_are_kept_apart(root, capsys):
    ball.write_run(root / "exps")
    ball.write_run(root / "others")
    assert evaluate(root) == 0
    results = root / "evals" / "ball_3" / "results.json"
    before = results.read_bytes()
    assert evaluate(root, "--exps_folder", "others") == 2
    error = capsys.readouterr().err
    assert str(root / "exps" / "ball_3") in error and "--evals_folder" in error
    assert evaluate(root, "--exps_folder", "others", "--evals_folder", "evals_others") == 0  # the remedy
    assert (root / "evals_others" / "ball_3" / "results.json").is_file() and results.read_bytes() == before
    ball.write_run(root / "place" / "exps")
    assert evaluate(root, "--exps_folder", str(root / "place" / "exps")) == 0
    assert (root / "place" / "evals" / "ball_3" / "results.json").is_file()
    results.write_text('{"mine": 1}')
    assert evaluate(root) == 2 and "is no results file of eval.py" in capsys.readouterr().err
    assert results.read_text() == '{"mine": 1}'


def test_ssim_is_scored_for_training_and_held_out_views(root, capsys):
    ball.write_run(root / "exps")
    assert evaluate(root, "--eval_rendering") == 0
    out = capsys.readouterr().out
    assert "SSIM EVALUATION 3: ssim mean = 0." in out and "SSIM EVALUATION HELD-OUT 3: ssim mean = 0." in out
    record = json.loads((root / "evals" / "ball_3" / "results.json").read_text())
    for split in ("rendering", "rendering_held_out"):
        views = record[split]["views"]
        assert record[split]["ssim_mean"] == pytest.approx(sum(v["ssim"] for v in views) / len(views))
        assert record[split]["lpips_mean"] is None
    assert "lpips_error" not in record


def test_missing_lpips_weights_show_in_output_results_and_status(root, capsys, monkeypatch):
    def no_network(*arguments, **keywords):
        raise OSError("no route to host")

    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(root / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    ball.write_run(root / "exps")
    assert evaluate(root, "--eval_rendering", "--lpips") == 1
    out = capsys.readouterr().out
    assert "LPIPS is not measured: the weights of AlexNet" in out and "no route to host" in out
    assert "RENDERING EVALUATION 3: psnr mean = 13.98" in out and "exit status 1" in out
    record = json.loads((root / "evals" / "ball_3" / "results.json").read_text())
    assert "no route to host" in record["lpips_error"] and record["rendering"]["lpips_mean"] is None


def test_lpips_needs_its_package_and_renderings(root, capsys, monkeypatch):
    ball.write_run(root / "exps")
    assert evaluate(root, "--lpips") == 2
    assert "add --eval_rendering" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert evaluate(root, "--lpips", "--eval_rendering") == 2
    assert "pip install 'idr-surface[lpips]'" in capsys.readouterr().err
    assert not (root / "evals").exists()


def test_camera_errors_of_a_run_chosen_by_suffix_and_timestamp(root, capsys):
    run = ball.write_run(root / "exps", "ballSUFFIX_3", poses=drifted_poses((4,)))
    run.rename(run.with_name("2020"))
    flags = ("--expname", "SUFFIX", "--timestamp", "2020", "--checkpoint", "7", "--eval_cameras")
    assert evaluate(root, *flags) == 0
    line = "CAMERAS EVALUATION: R error mean = 0.00 ; t error mean = 0.00 ; R error median = 0.00 ;"
    assert line in capsys.readouterr().out
    assert "cameras" in json.loads((root / "evals" / "ballSUFFIX_3" / "results.json").read_text())


def test_without_a_surface_rendering_continues(root, capsys):
    ball.write_run(root / "exps", radius=-1.0)
    assert evaluate(root, "--eval_rendering", "--is_uniform_grid") == 0
    out = capsys.readouterr().out
    assert "no surface" in out and "RENDERING EVALUATION 3" in out
    assert not list((root / "evals").rglob("*.ply"))


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--eval_cameras",), "no trained cameras (CamParameters)"),
        (("--scan_id", "9"), "ball_9"),
        (("--checkpoint", "100"), "100"),
        (("--exps_folder", "nowhere"), "--exps_folder"),
        (("--set", "plot.resolutoin=3"), "plot.resolutoin"),
        (("--set", "dataset.holdot=[1]"), "dataset.holdot"),
        (("--set", "dataset.holdout=[77]"), "77"),
        (("--conf", "boll.conf"), "boll.conf"),
        (("--set", "dataset.img_res=[30,40]"), "img_res"),
    ],
)
def test_mistakes_give_one_message_and_change_nothing(root, capsys, flags, message):
    ball.write_run(root / "exps")
    before = ball.files_of(root)
    assert evaluate(root, *flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("error:") == 1
    assert "Traceback" not in captured.err
    assert ball.files_of(root) == before


def test_checkpoint_of_another_architecture_names_the_runs_own_conf(root, capsys):
    run = ball.write_run(root / "exps")
    (run / "runconf.conf").write_text(ball.conf_text())
    state = {"implicit_network.radius": torch.ones(2), "more": torch.ones(1)}
    parts = {"ModelParameters": {"epoch": 9, "model_state_dict": state}}
    CheckpointFolder(run / "checkpoints").save("9", 9, 0, parts)
    assert evaluate(root) == 2
    err = capsys.readouterr().err
    assert "implicit_network.radius is [2] there, [] in the conf's model" in err
    assert f"--conf {run / 'runconf.conf'}" in err


def test_damaged_checkpoint_is_named(root, capsys):
    run = ball.write_run(root / "exps")
    for path in (run / "checkpoints" / "ModelParameters").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert evaluate(root) == 2
    assert "damaged" in capsys.readouterr().err


def test_exps_folder_is_looked_up_at_the_root_then_in_the_working_directory(root, monkeypatch):
    with pytest.raises(MissingInputError, match="no folder of runs"):
        find_exps_folder("exps")
    (root / "sub" / "exps").mkdir(parents=True)
    monkeypatch.chdir(root / "sub")
    assert find_exps_folder("exps") == root / "sub" / "exps"
    (root / "exps").mkdir()
    assert find_exps_folder("exps") == root / "exps"
    assert find_exps_folder(str(root / "sub" / "exps")) == root / "sub" / "exps"


@pytest.mark.parametrize("flags", [("--resolution", "1"), ("--chunk_pixels", "0"), ("--chunk_points", "0")])
def test_numbers_out_of_range_are_refused(flags, capsys):
    assert main(list(flags)) == 2
    assert re.search(rf"error: {' '.join(flags)}: expected \d or more", capsys.readouterr().err)


def test_text_for_a_number_is_an_argument_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--chunk_points", "x"])
    assert stop.value.code == 2
    assert "--chunk_points" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["eval.py", "eval_disentanglement.py"])
def test_help_in_a_real_process_is_quick(script):
    environment = {**os.environ, "PYTHONPATH": ""}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, f"evaluation/{script}", "-h"],
        cwd=CODE, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.monotonic() - started < 5  # a second on a machine of its own
    assert re.search(r"--conf CONF", done.stdout) and "--gpu" in done.stdout


def test_mistake_in_a_real_process(warm_python):
    done = subprocess.run(
        [warm_python, "evaluation/eval.py", "--conf", "./confs/absent.conf", "--gpu", "ignore"],
        cwd=CODE, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error:") and "absent.conf" in done.stderr and "Traceback" not in done.stderr
    )
