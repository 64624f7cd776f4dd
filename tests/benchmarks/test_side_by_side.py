"""`benchmarks/side_by_side.py` on runs of a ball with known scores."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from tests.evaluation import ball

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HOLDOUT = (1, 4)
SMALL = 0.8 * ball.RADIUS


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import side_by_side

    return side_by_side


@pytest.fixture
def parsed(side_by_side, tmp_path: Path):
    """Arguments that compare the exact ball with a smaller one."""
    conf = tmp_path / "ball.conf"
    conf.write_text(ball.conf_text(HOLDOUT).replace("data_dir = balls", "data_dir = balls, scan_id = 3"))
    exact = ball.write_run(tmp_path / "exact")
    small = ball.write_run(tmp_path / "small", radius=SMALL)
    data_root = ball.write_scene(tmp_path)

    def arguments(*more: str) -> argparse.Namespace:
        runs = ["--runs", str(exact), str(small), "--conf", str(conf), "--data_root", str(data_root)]
        return side_by_side.build_parser().parse_args([*runs, *more])

    return arguments


def angle(number: int, others: list[int]) -> float:
    """Smallest angle to other cameras, computed one by one."""
    centers = ball.unit_poses()[:, :3, 3]
    cosines = [
        centers[number] @ centers[k] / np.linalg.norm(centers[number]) / np.linalg.norm(centers[k])
        for k in others
    ]
    return float(np.degrees(np.arccos(max(cosines))))


def test_scores_and_angles_of_held_out_views(side_by_side, parsed) -> None:
    found = side_by_side.measure(parsed())
    assert [row["view"] for row in found["views"]] == list(HOLDOUT)
    training = [i for i in range(ball.NUM_VIEWS) if i not in HOLDOUT]
    for row in found["views"]:
        exact, small = row["runs"].values()
        assert row["held_out"] and row["degrees"] == pytest.approx(angle(row["view"], training), abs=1e-3)
        assert exact["iou"] == 1 and small["iou"] < 0.75
        assert exact["psnr"] == pytest.approx(-20 * np.log10(ball.PHOTO - ball.GRAY), abs=1e-3)
        assert small["psnr"] < exact["psnr"]
        assert exact["gaps_kept"] == exact["gaps"] and exact["thin_kept"] == exact["thin"] == small["thin"]
    assert found["means"]["0 ball"]["iou"] == 1


def test_rays_can_be_traced_as_in_training(side_by_side, parsed, monkeypatch) -> None:
    modes, forward = [], ball.BallModel.forward
    monkeypatch.setattr(
        ball.BallModel,
        "forward",
        lambda self, inputs: (
            modes.append((self.training, int(inputs["object_mask"].sum()))) or forward(self, inputs)
        ),
    )
    found = side_by_side.measure(parsed("--views", "4", "--rays", "training"))
    pixels = int(ball.exact_hit(ball.unit_poses()[4]).sum())
    assert modes == [(True, pixels)] * 2
    exact, small = found["means"].values()
    assert exact["missing"] == exact["too_much"] == small["too_much"] == 0 < small["missing"] < pixels
    modes.clear()
    side_by_side.measure(parsed("--views", "4"))
    assert modes == [(False, pixels)] * 2


def test_a_training_view_is_not_its_own_neighbor(side_by_side, parsed) -> None:
    (row,) = side_by_side.measure(parsed("--views", "2"))["views"]
    assert not row["held_out"]
    assert row["degrees"] == pytest.approx(angle(2, [0, 3, 5]), abs=1e-3)


def test_image_shows_photograph_and_runs_enlarged(side_by_side, parsed, tmp_path: Path) -> None:
    column, row, width, height = crop = (12, 9, 6, 4)  # inside both balls
    view = "4:" + ",".join(map(str, crop))
    side_by_side.measure(parsed("--views", view, "--zoom", "3", "--out", str(tmp_path / "crop.png")))
    image = iio.imread(tmp_path / "crop.png")
    step = 3 * width + side_by_side.GAP
    assert image.shape == (3 * height, 3 * step - side_by_side.GAP, 3)
    assert (image[:, : 3 * width] == round(255 * ball.PHOTO)).all()
    for left in (step, 2 * step):
        assert (image[:, left : left + 3 * width] == round(255 * ball.GRAY)).all()
        assert (image[:, left - side_by_side.GAP : left] == 255).all()


def test_silhouettes_distinguish_missing_from_excess(side_by_side, parsed, tmp_path: Path) -> None:
    out = tmp_path / "silhouettes.png"
    side_by_side.measure(parsed("--views", "1", "--show", "silhouettes", "--out", str(out)))
    image = iio.imread(out)
    exact, small = image[:, : ball.WIDTH], image[:, ball.WIDTH + side_by_side.GAP :]
    mask = ball.exact_hit(ball.unit_poses()[1])
    missing, agreed = (
        np.round(255 * np.array(c)).astype(np.uint8) for c in (side_by_side.MISSING, side_by_side.AGREED)
    )
    assert (exact[mask] == agreed).all() and (exact[~mask] == 255).all()
    red = (small == missing).all(axis=-1)
    assert red.any() and (mask | ~red).all() and (small[~mask] == 255).all()
    assert not (small[mask & ~red] != agreed).any()


def test_normals_are_brightest_where_the_ball_faces_the_camera(side_by_side, parsed, tmp_path: Path) -> None:
    out = tmp_path / "normals.png"
    side_by_side.measure(parsed("--views", "1", "--show", "normals", "--out", str(out)))
    exact = iio.imread(out)[:, : ball.WIDTH, 0].astype(int)
    mask = ball.exact_hit(ball.unit_poses()[1])
    middle = np.round(ball.INTRINSICS[:2, 2]).astype(int)  # the camera looks at the ball's center
    assert exact[middle[1], middle[0]] == exact[mask].max() >= round(255 * 0.93)
    assert exact[mask].min() < 0.7 * exact[mask].max()


def test_light_from_the_upper_left_leaves_the_lower_right_dark(side_by_side, parsed, tmp_path: Path) -> None:
    out = tmp_path / "lit.png"
    side_by_side.measure(parsed("--views", "1", "--show", "lit", "--out", str(out)))
    exact = iio.imread(out)[:, : ball.WIDTH, 0].astype(int)
    rows, columns = np.nonzero(ball.exact_hit(ball.unit_poses()[1]))
    across = (columns - ball.INTRINSICS[0, 2]) + 0.6 * (rows - ball.INTRINSICS[1, 2])  # away from the light
    shades = exact[rows, columns]
    assert np.corrcoef(across, shades)[0, 1] < -0.8
    assert shades[across.argmax()] == round(255 * 0.1) and shades[across.argmin()] > round(255 * 0.6)


def test_thin_parts_and_gaps_of_a_drawn_mask(side_by_side) -> None:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[5:35, 5:15] = mask[5:35, 18:35] = True  # two blocks, a gap of three columns between them
    mask[20, 15:18] = True  # a bridge of one row
    mask[2:5, 25] = True  # an antenna of one column
    thin, gaps = side_by_side.thin_and_gaps(mask, 5)
    expected = torch.zeros_like(mask)
    expected[20, 15:18] = expected[2:5, 25] = True
    assert torch.equal(thin, expected)
    expected = torch.zeros_like(mask)
    expected[5:35, 15:18] = True
    assert torch.equal(gaps, expected & ~mask)


@pytest.mark.parametrize("text", ["", "x", "3:", "3:1,2,3", "3:1,2,0,4", "3:1,2,3,-4", "-1"])
def test_invalid_views_are_refused(side_by_side, text: str) -> None:
    with pytest.raises(ValueError, match="expected a view and an optional crop"):
        side_by_side.parse_view(text)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--views", "9"), "has no such view"),
        (("--views", "1:30,0,3,3"), "leaves the image; expected it within 32 x 24"),
        (("--thin", "4"), "an odd number from 3"),
        (("--zoom", "0"), "expected at least 1"),
    ],
)
def test_invalid_values_are_refused(side_by_side, parsed, more, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        side_by_side.measure(parsed(*more))


def test_runs_with_other_training_views_are_refused(side_by_side, parsed, tmp_path: Path) -> None:
    arguments = parsed()
    conf = Path(arguments.conf).read_text()
    own = Path(arguments.runs[1]) / "runconf.conf"
    own.write_text(conf.replace("holdout = [1, 4]", "holdout = [1]"))
    with pytest.raises(ValueError, match="differ in indices.*trained on the same views"):
        side_by_side.measure(arguments)


def test_missing_run_ends_with_status_2(tmp_path: Path, warm_python: Path) -> None:
    command = [str(warm_python), str(BENCHMARKS / "side_by_side.py"), "--runs", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no run folder" in done.stderr
