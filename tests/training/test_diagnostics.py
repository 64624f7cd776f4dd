"""Failures of a training are reported in the right epochs, and good trainings report none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from idr import failures
from idr.cli.train import main
from idr.training.diagnostics import INSIDE_AT_SPHERE, STUCK_LOSS, diagnose, share_inside_at_sphere
from tests.training import tiny


def reported_in(rows: list[dict[str, object]]) -> list[int]:
    """Epochs that report a failure."""
    return [k for k in range(len(rows)) if diagnose(rows[: k + 1])]


def rows_of(count: int, **values: object) -> list[dict[str, object]]:
    return [{"epoch": k, "psnr": 20.0, "mask_loss": 1e-4, **values} for k in range(count)]


def test_good_rows_report_nothing() -> None:
    assert reported_in(rows_of(40)) == []


@pytest.mark.parametrize("nan", [float("nan"), "nan", "NaN"])
def test_no_surface_repeats_at_powers_of_two_and_begins_anew(nan: object) -> None:
    rows = rows_of(20, psnr=nan)
    assert reported_in(rows) == [0, 1, 3, 7, 15]
    (found,) = diagnose(rows[:4])
    assert found.name == failures.NO_SURFACE and "in epoch 3, for 4 epochs in a row" in found.text
    assert reported_in([*rows[:3], *rows_of(2), *rows[:2]]) == [0, 1, 5, 6]


def test_an_empty_cell_is_no_failure() -> None:
    assert reported_in(rows_of(25, psnr="", mask_loss="", **{INSIDE_AT_SPHERE: ""})) == []


def test_a_surface_that_fills_the_sphere() -> None:
    rows = rows_of(4, **{INSIDE_AT_SPHERE: 0.9})
    assert reported_in(rows) == [0, 1, 3] and diagnose(rows[:1])[0].name == failures.FILLED_SPHERE
    assert reported_in(rows_of(4, **{INSIDE_AT_SPHERE: 0.1})) == []


def test_a_mask_loss_that_stays_high() -> None:
    rows = rows_of(40, mask_loss=str(4 * STUCK_LOSS))
    assert reported_in(rows) == [19, 20, 22, 26, 34]  # 2 x 10 epochs are compared
    assert diagnose(rows[:20])[0].name == failures.MASK_LOSS_STUCK


def test_a_mask_loss_that_falls_or_is_low_is_good() -> None:
    assert reported_in([{**row, "mask_loss": 0.1 * 0.99**k} for k, row in enumerate(rows_of(60))]) == []
    assert reported_in(rows_of(40, mask_loss=STUCK_LOSS / 2)) == []


class Ball(torch.nn.Module):
    """A ball in a bounding sphere of 2."""

    object_bounding_sphere = 2.0

    def __init__(self, radius: float, shift: float) -> None:
        super().__init__()
        self.radius, self.shift = torch.nn.Parameter(torch.tensor(radius)), shift

    def implicit_network(self, points: torch.Tensor) -> torch.Tensor:
        return (points - torch.tensor([0.0, 0.0, self.shift])).norm(dim=1, keepdim=True) - self.radius


@pytest.mark.parametrize(
    ("radius", "shift", "share"),
    [(1.0, 0.0, 0.0), (1.99, 0.0, 0.0), (2.01, 0.0, 1.0), (2.0, 2.0, 0.25)],  # a cap of half angle 60 degrees
)
def test_share_of_the_sphere_inside(radius: float, shift: float, share: float) -> None:
    assert share_inside_at_sphere(Ball(radius, shift)) == pytest.approx(share, abs=0.01)
    assert share_inside_at_sphere(torch.nn.Linear(1, 1)) == 0.0  # somebody's model without a field


@pytest.mark.parametrize(
    ("bias", "name"),
    [(-5.0, failures.FILLED_SPHERE), (5.0, failures.NO_SURFACE)],  # added to every signed distance
)
def test_the_command_names_them(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    bias: float, name: str,
) -> None:  # fmt: skip
    from idr.training.trainer import Trainer

    original = Trainer.__init__

    def init(self: Trainer, dataset: object, model: torch.nn.Module, *args: object, **kwargs: object) -> None:
        layers = [layer for key, layer in model.implicit_network.named_children() if key.startswith("lin")]
        layers[-1].bias.data[0] += bias
        original(self, dataset, model, *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", init)
    logging.getLogger("idr").setLevel(logging.INFO)
    assert main(tiny.command(scene_root, nepoch=2, exps=str(tmp_path / "exps"))) == 0
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if f"{name}: in epoch" in line]
    assert len(lines) == 2 and f"docs/troubleshooting.md#{name}" in lines[0]
    assert "for 2 epochs in a row" in lines[1]
    row = tiny.metrics_rows(tiny.only_run(tmp_path / "exps"))[-1]
    assert (float(row.get(INSIDE_AT_SPHERE) or 0.0) > 0.9) == (name == failures.FILLED_SPHERE)
