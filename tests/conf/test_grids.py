"""Hash grids whose finest cells follow the size of a pixel."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.training import tiny

from idr.cli.evaluate import main as evaluate
from idr.cli.train import main as train
from idr.conf.files import load_conf
from idr.conf.grids import fit_grids, with_grids_of_run
from idr.errors import InputError
from idr.geometry.cameras import pixel_width
from idr.runs import Run
from idr.runs.folders import RUNCONF

KEY = "model.implicit_network.encoding.pixels_per_cell"
RESOLUTION = "model.implicit_network.encoding.finest_resolution"


@pytest.fixture
def conf_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.conf"
    file.write_text(f"{tiny.conf_text()}{tiny.GRID}\n{KEY} = 2\n")
    return file


def test_a_pixels_width_at_the_origin() -> None:
    intrinsics, poses = torch.eye(4).repeat(3, 1, 1), torch.eye(4).repeat(3, 1, 1)
    intrinsics[:, 0, 0] = 500.0
    poses[:, :3, 3] = torch.tensor([[0.0, 3.0, 4.0], [2.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert pixel_width(intrinsics, poses) == pytest.approx(5.0 / 500.0)


@pytest.mark.parametrize(
    ("pixel", "resolution"),
    [(0.00385, 256), (0.004, 256), (0.0030, 362), (0.00385 / 4, 1024), (10.0, 3)],  # 3 is the coarsest level
)
def test_cells_are_two_pixels_wide_up_to_rounding(conf_file: Path, pixel: float, resolution: int) -> None:
    conf = load_conf(conf_file)
    fit_grids(conf, pixel)
    assert conf[RESOLUTION] == resolution and conf.get(KEY, None) is None
    if resolution > 3:
        assert 2**-0.25 <= 2 / resolution / (2 * pixel) <= 2**0.25


def test_a_conf_without_the_key_stays(tmp_path: Path) -> None:
    (tmp_path / "tiny.conf").write_text(tiny.conf_text() + tiny.GRID)
    conf = load_conf(tmp_path / "tiny.conf")
    fit_grids(conf, 1e-4)
    assert conf == load_conf(tmp_path / "tiny.conf")
    assert with_grids_of_run(conf, tmp_path / "no.conf") is conf


@pytest.mark.parametrize("value", ["0", "-2", "wide", "true"])
def test_a_width_that_is_none_is_refused(conf_file: Path, value: str) -> None:
    with pytest.raises(InputError, match=f"{KEY} = .*: expected the width of a cell in pixels, above 0"):
        fit_grids(load_conf(conf_file, [f"{KEY}={value}"]), 0.01)


def test_training_chooses_and_evaluation_follows(
    scene_root: Path, tmp_path: Path, conf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = [
        "--conf",
        str(conf_file),
        "--data_root",
        str(scene_root / "data"),
        "--exps_folder",
        str(tmp_path),
    ]
    assert train([*where, "--nepoch", "1", "--device", "cpu"]) == 0
    (runconf,) = tmp_path.rglob(RUNCONF)
    dataset = tiny.make_trainer(scene_root, tmp_path / "other").dataset
    exact = 2 / (2 * pixel_width(dataset.intrinsics, dataset.poses))
    chosen = load_conf(runconf)[RESOLUTION]
    assert abs(math.log2(chosen / exact)) <= 0.25 + 1e-6 and chosen != load_conf(conf_file)[RESOLUTION]

    run = Run(load_conf(conf_file), runconf.parent, data_root=str(scene_root / "data"))
    assert run.model.implicit_network.encoding.grids[-1].resolution == chosen
    assert evaluate([*where, "--resolution", "8", "--device", "cpu"]) == 0
    runconf.unlink()
    with pytest.raises(InputError, match="runconf.conf is missing"):
        Run(load_conf(conf_file), runconf.parent, data_root=str(scene_root / "data"))
