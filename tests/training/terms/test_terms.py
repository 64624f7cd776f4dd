"""Terms of the loss beyond the paper's: their values, when they act, and what they train."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.test_patches import HEIGHT, NUM_VIEWS, WIDTH, surface
from tests.training import tiny
from torch import Tensor, nn

from idr.conf.files import read_block
from idr.datasets.points import POINTS_FILE, held_out_points
from idr.errors import InputError, MissingInputError
from idr.model.patches import Photographs
from idr.training.terms.build import build_terms
from idr.training.terms.normals import NormalsConfig, NormalsTerm, color_range, draw_pairs
from idr.training.terms.patch import PatchConfig, PatchTerm, candidate_views
from idr.training.terms.step import Cameras, StepRays

CONFIG = PatchConfig(weight=0.5, begin=0.1, hold=0.5, end=0.9, views=2, best=1, size=5, min_variance=1e-5)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Photographed:
    """A textured sphere in photographs, with a step's rays at given points."""

    def __init__(self, kind: str = "sphere") -> None:
        view, images, self.pixels, self.points, self.normals = surface(kind)
        self.images, self.img_res = images.rgb.reshape(NUM_VIEWS, -1, 3), (HEIGHT, WIDTH)
        self.masks = images.masks.reshape(NUM_VIEWS, -1)
        intrinsics, poses = torch.eye(4).repeat(NUM_VIEWS, 1, 1), torch.eye(4).repeat(NUM_VIEWS, 1, 1)
        intrinsics[:, :3, :3], poses[:, :3, :3] = view.intrinsics.float(), view.rotation.float()
        poses[:, :3, 3] = view.center.float()
        self.cameras = Cameras(intrinsics, poses)

    def rays(self, points: Tensor) -> StepRays:
        count = len(points)
        return StepRays(
            points=points,
            normals=self.normals.float(),
            shaded=torch.ones(count, dtype=torch.bool),
            image=torch.zeros(count, dtype=torch.long),
            pixels=self.pixels.float(),
            intrinsics=self.cameras.intrinsics[:1].expand(count, 4, 4),
            poses=self.cameras.poses[:1].expand(count, 4, 4),
        )

    def term(self, config: PatchConfig = CONFIG, model: Any = None) -> PatchTerm:
        return PatchTerm(config, self, self.cameras.poses[:, :3, 3], model)


def test_patches_pull_points_onto_the_surface() -> None:
    scene = Photographed()
    term, exact = scene.term(), scene.points.float()
    loss = lambda points: term(scene.rays(points), scene.cameras, 0.5, generator())  # noqa: E731
    outward = torch.nn.functional.normalize(exact, dim=1)
    for shift in (-0.02, 0.02):
        points = (exact + shift * outward).requires_grad_()
        off = loss(points)
        assert off.item() > 2 * loss(exact).item()
        (gradient,) = torch.autograd.grad(off, points)
        toward = -(gradient * outward).sum(dim=1) * shift
        assert (toward < 0).float().mean() > 0.8  # the descent leads back for most patches


def test_the_patch_term_acts_within_its_time_and_at_most_at_its_number_of_rays() -> None:
    scene = Photographed()
    rays = scene.rays(scene.points.float() + 0.03)
    values = [
        float(scene.term()(rays, scene.cameras, time, generator())) for time in (0.0, 0.1, 0.5, 0.7, 1.0)
    ]
    assert values[0] == values[4] == 0 and values[1] == values[2] > 0
    assert values[3] == pytest.approx(values[1] / 2)
    points = (scene.points.float() + 0.03).requires_grad_()
    few = read_block(PatchConfig, {"weight": 1.0, "begin": 0.0, "rays": 3, "max_cost": 2.0}, "loss.patch")
    scene.term(few)(scene.rays(points), scene.cameras, 0.5, generator()).backward()
    assert 1 <= int((points.grad != 0).any(dim=1).sum()) <= 3


def test_patches_of_reduced_images_are_those_of_smaller_photographs() -> None:
    """A step on reduced images, against a scene whose photographs were reduced and whose cameras fit them."""
    scene, small, factor = Photographed(), Photographed(), 2
    assert HEIGHT % factor == WIDTH % factor == 0
    small.img_res = (HEIGHT // factor, WIDTH // factor)
    blocks = scene.images.view(NUM_VIEWS, HEIGHT // 2, 2, WIDTH // 2, 2, 3).double().mean(dim=(2, 4))
    small.images = blocks.round().to(torch.uint8).view(NUM_VIEWS, -1, 3)
    covered = scene.masks.view(NUM_VIEWS, HEIGHT // 2, 2, WIDTH // 2, 2).double().mean(dim=(2, 4))
    small.masks = (covered >= 0.5).view(NUM_VIEWS, -1)
    intrinsics = scene.cameras.intrinsics.clone()
    intrinsics[:, :2] /= factor
    intrinsics[:, :2, 2] -= 0.25  # the first pixel's center lies at 0 in both
    small.cameras = Cameras(intrinsics, scene.cameras.poses)
    small.pixels = (scene.pixels + 0.5) / factor - 0.5
    points = scene.points.float() + 0.01
    reduced = StepRays(**{**vars(scene.rays(points)), "reduction": factor})
    value = scene.term()(reduced, scene.cameras, 0.5, generator())
    assert value.item() > 0
    expected = small.term()(small.rays(points), small.cameras, 0.5, generator())
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    full = scene.term()(scene.rays(points), scene.cameras, 0.5, generator())
    assert full.item() != pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize("case", ["no hit", "no neighbors", "seen from behind"])
def test_the_patch_term_is_zero_without_anything_to_compare(case: str) -> None:
    scene = Photographed()
    rays = scene.rays((scene.points.float() + 0.03).requires_grad_())
    config = CONFIG
    if case == "no hit":
        rays = StepRays(**{**vars(rays), "shaded": torch.zeros(len(rays.shaded), dtype=torch.bool)})
    elif case == "seen from behind":
        rays = StepRays(**{**vars(rays), "normals": -rays.normals})
    else:
        config = PatchConfig(weight=1.0, begin=0.0, min_degrees=170, max_degrees=175)
    assert scene.term(config)(rays, scene.cameras, 0.5, generator()).item() == 0


class OneWay:
    """A model whose surface hides all points from some cameras."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden, self.asked = hidden, 0

    def is_free(self, origins: Tensor, targets: Tensor, margin: float) -> Tensor:
        assert 0 < margin < 0.1 and origins.shape == targets.shape
        self.asked += len(origins)
        return ~(origins.unsqueeze(1) == self.hidden).all(dim=2).any(dim=1)


def test_hidden_source_views_do_not_count() -> None:
    """A patch of two views, of which one is hidden, against one that has the other view alone."""
    scene = Photographed()
    rays, centers = scene.rays(scene.points.float() + 0.01), scene.cameras.poses[:, :3, 3]
    config = replace(CONFIG, trace_views=True, best=2, max_cost=2.0)
    untraced = replace(config, trace_views=False)
    candidates = scene.term(config).candidates[0].tolist()
    value = lambda config, model: scene.term(config, model)(rays, scene.cameras, 0.5, generator()).item()  # noqa: E731
    none, every = OneWay(centers[:0]), OneWay(centers)
    assert value(config, none) == value(untraced, None) > 0 and none.asked > 0
    assert value(config, every) == 0
    seen = [k for k in candidates if k >= 0]
    alone = [value(config, OneWay(centers[[k for k in seen if k != kept]])) for kept in seen]
    assert min(alone) > 0 and sum(alone) == pytest.approx(value(untraced, None), rel=1e-5)


def test_views_are_traced_by_models_that_can() -> None:
    scene = Photographed()
    scene.intrinsics, scene.poses = scene.cameras.intrinsics, scene.cameras.poses
    blocks = {"patch": {"weight": 1.0, "trace_views": True}}
    with pytest.raises(InputError, match="Linear has no is_free; .* set trace_views = false"):
        build_terms(blocks, scene, nn.Linear(3, 1), None)
    with pytest.raises(InputError, match="loss.components: Linear has no is_free; .* leave the block out"):
        build_terms({"components": {"weight": 1.0}}, scene, nn.Linear(3, 1), None)
    (term,) = build_terms(blocks, scene, OneWay(scene.poses[:0, :3, 3]), None)
    assert isinstance(term, PatchTerm)


def test_candidates_are_the_nearest_views_within_the_angles() -> None:
    degrees = torch.tensor([0.0, 2.0, 10.0, 25.0, 52.0, 180.0])
    angles = torch.deg2rad(degrees)
    centers = 2.5 * torch.stack((angles.cos(), angles.sin(), torch.zeros(6)), dim=1)
    found = candidate_views(centers, 3, min_degrees=4, max_degrees=40)
    assert found.tolist() == [
        [2, 3, -1], [2, 3, -1], [1, 0, 3], [2, 1, 0], [3, -1, -1], [-1, -1, -1],
    ]  # fmt: skip


class Ball(nn.Module):
    """f(x) = |x| - 0.5 as a model with an implicit network."""

    def __init__(self) -> None:
        super().__init__()
        self.implicit_network = self

    def sdf_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.norm(dim=1, keepdim=True) - 0.5, x / x.norm(dim=1, keepdim=True)

    def sdf(self, x: Tensor) -> Tensor:
        return x.norm(dim=1) - 0.5


class TwoTones:
    """Two photographs of 40 x 30 pixels: columns from 20 on are 51 brighter in red; a column has no mask."""

    img_res = (30, 40)

    def __init__(self) -> None:
        images = torch.full((2, 30, 40, 3), 100, dtype=torch.uint8)
        images[:, :, 20:, 0] = 151
        masks = torch.ones((2, 30, 40), dtype=torch.bool)
        masks[:, :, 35] = False
        self.images, self.masks = images.view(2, -1, 3), masks.view(2, -1)

    @staticmethod
    def rays(image: list[int], pixels: list[list[float]], normals: Tensor) -> StepRays:
        count = len(image)
        return StepRays(
            points=torch.zeros(count, 3), normals=normals, shaded=torch.ones(count, dtype=torch.bool),
            image=torch.tensor(image), pixels=torch.tensor(pixels),
            intrinsics=torch.eye(4).expand(count, 4, 4), poses=torch.eye(4).expand(count, 4, 4),
        )  # fmt: skip


CAMERAS = Cameras(torch.eye(4)[None], torch.eye(4)[None])


def test_the_range_of_colors_between_two_pixels() -> None:
    images = Photographs.of(TwoTones())
    image = torch.tensor([0, 1, 0, 1])
    start = torch.tensor([[2.0, 3.0], [19.0, 0.0], [36.0, 29.0], [30.0, 5.0]])
    end = torch.tensor([[19.4, 20.0], [20.0, 29.0], [39.0, 2.0], [37.0, 5.0]])
    assert color_range(images, image, start, end).tolist() == pytest.approx([0, 0.2, 0, math.inf])


@pytest.mark.parametrize(
    ("image", "pixels", "weight"),
    [
        ([0, 0], [[3.0, 4.0], [12.0, 9.0]], 1.0),
        ([1, 1], [[12.0, 4.0], [23.0, 4.0]], math.exp(-2)),  # an edge between them
        ([0, 1], [[3.0, 4.0], [12.0, 9.0]], 0.0),  # in two images
        ([0, 0], [[3.0, 4.0], [19.0, 9.0]], 0.0),  # 16.8 pixels apart; the radius is 16
        ([0, 0], [[30.0, 4.0], [37.0, 4.0]], 0.0),  # the line leaves the mask
        ([0, 0], [[3.0, 4.0], [3.0, 4.0]], 0.0),  # one pixel, drawn twice
    ],
)
def test_normals_agree_where_no_edge_lies_between_them(
    image: list[int], pixels: list[list[float]], weight: float
) -> None:
    angle = math.radians(50)
    normals = torch.tensor([[0.0, 0.0, 2.0], [0.0, 3 * math.sin(angle), 3 * math.cos(angle)]])
    normals.requires_grad_()
    term = NormalsTerm(NormalsConfig(weight=3.0, radius=0.4, contrast=0.1), TwoTones())
    loss = term(TwoTones.rays(image, pixels, normals), CAMERAS, 0.9, generator())
    assert loss.item() == pytest.approx(3 * weight * (1 - math.cos(angle)), abs=1e-6)
    if weight:
        (gradient,) = torch.autograd.grad(loss, normals)
        assert gradient[0, 1] < 0 and gradient[1, 1] > 0  # the descent turns them towards each other


def test_neighbors_are_drawn_evenly_within_each_image() -> None:
    image = torch.tensor([4, 0, 4, 4, 2, 0, 4])
    pixels = torch.tensor(
        [[0.0, 0], [1, 0], [3, 4], [0, 5], [2, 2], [2, 0], [9, 9]]
    )  # the last one is far off
    draws, counts = generator(), torch.zeros(7, 7)
    for _ in range(2000):
        counts.index_put_(draw_pairs(image, pixels, 5.0, draws), torch.ones(()), accumulate=True)
    expected = torch.zeros(7, 7)
    for group in ([0, 2, 3], [1, 5]):
        expected[torch.tensor(group)[:, None], torch.tensor(group)] = 2000 / (len(group) - 1)
    expected.fill_diagonal_(0)
    assert torch.equal(counts > 0, expected > 0)
    assert torch.allclose(counts, expected, atol=110)  # five standard deviations


@pytest.mark.parametrize(
    ("first", "second", "weight"),
    [
        ([245.0, 80.0], [390.0, 100.0], 1.0),
        ([245.0, 80.0], [460.0, 100.0], math.exp(-2)),
        ([790.0, 590.0], [799.0, 599.0], 1.0),  # in the last corner
        ([0.0, 0.0], [330.0, 0.0], 0.0),  # 165 pixels of 400 apart; the radius is 160
    ],
)
def test_normals_of_large_photographs_are_compared_in_small_ones(
    first: list[float], second: list[float], weight: float
) -> None:
    scene, large = TwoTones(), TwoTones()
    grow = lambda values: values.repeat_interleave(20, dim=1).repeat_interleave(20, dim=2).flatten(1, 2)  # noqa: E731
    large.img_res = (600, 800)
    large.images, large.masks = grow(scene.images.view(2, 30, 40, 3)), grow(scene.masks.view(2, 30, 40))
    term = NormalsTerm(NormalsConfig(weight=1.0, radius=0.4, contrast=0.1), large)
    assert term.images.rgb.shape == (2, 300, 400, 3)
    rays = TwoTones.rays([1, 1], [first, second], torch.eye(3)[:2])  # at right angles
    assert term(rays, CAMERAS, 0.9, generator()).item() == pytest.approx(weight, abs=1e-6)


def test_a_step_without_hits_has_no_normals_to_compare() -> None:
    rays = TwoTones.rays([0, 0], [[3.0, 4.0], [12.0, 9.0]], torch.eye(3)[:2])
    missed = replace(rays, shaded=torch.zeros(2, dtype=torch.bool))
    assert NormalsTerm(NormalsConfig(weight=3.0), TwoTones())(missed, CAMERAS, 0.5, generator()).item() == 0


@pytest.mark.parametrize("cameras", [False, True])
def test_terms_are_trained_recorded_and_part_of_the_loss(
    scene_root: Path, tmp_path: Path, cameras: bool
) -> None:
    conf = tiny.conf_text() + tiny.TERMS
    trainer = tiny.make_trainer(scene_root, tmp_path / "terms", cameras=cameras, conf=conf, batch_size=2)
    trainer.train()
    plain = tiny.make_trainer(scene_root, tmp_path / "plain", cameras=cameras, batch_size=2)
    plain.train()
    with (tmp_path / "terms" / "metrics.csv").open() as stream:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    for row in rows:
        assert row["patch_loss"] > 0 and row["normals_loss"] > 0
        terms = 0.1 * row["eikonal_loss"] + 100 * row["mask_loss"]
        terms += row["patch_loss"] + row["normals_loss"] + row["components_loss"]
        assert row["loss"] == pytest.approx(row["rgb_loss"] + terms, rel=1e-4)
    ours, theirs = (tiny.parts_of(tmp_path / name)["ModelParameters"] for name in ("terms", "plain"))
    assert not tiny.same(ours, theirs)


def test_patches_move_the_trained_cameras(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text() + tiny.TERMS + "\nloss.patch.weight = 1e3\n"
    trainer = tiny.make_trainer(scene_root, tmp_path, cameras=True, conf=conf, batch_size=2)
    batch = next(trainer.rays.batches(0, 0, 0))
    trainer.state.model.train()
    assert trainer.state.cameras is not None
    model_input = {**batch.model_input, **trainer.state.cameras.inputs(batch.indices)}
    outputs = trainer.model(model_input)
    losses = trainer._add_terms({"loss": torch.zeros(())}, StepRays.of(batch, model_input, outputs))
    losses["patch_loss"].backward()
    assert trainer.state.poses is not None and trainer.state.poses.weight.grad is not None
    assert trainer.state.poses.weight.grad.coalesce().values().abs().max() > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss.patch.wieght = 1", "wieght"),
        ("loss.patch { weight = 0 }", "loss.patch.weight = 0"),
        ("loss.patch { weight = 1, size = 4 }", "odd"),
        ("loss.patch { weight = 1, hold = 0.9, end = 0.5 }", "in order"),
        ("loss.patch { weight = 1, best = 5 }", "best = 5"),
        ("loss.patch { weight = 1, min_cos = 1 }", "min_cos"),
        ("loss.patch { weight = 1, min_degrees = 50 }", "min_degrees"),
        ("loss.normals { weight = 1, contrast = 0 }", "loss.normals.contrast"),
        ("loss.normals { weight = -1 }", "loss.normals.weight"),
        ("loss.components { weight = 0 }", "loss.components.weight"),
        ("loss.components { weight = 1, resolution = 90 }", "loss.components.resolution = 90"),
        ("loss.components { weight = 1, begin = 2 }", "loss.components.begin = 2"),
    ],
)
def test_wrong_blocks_are_refused(scene_root: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny.make_trainer(scene_root, tmp_path, conf=f"{tiny.conf_text()}\n{text}\n")


def test_null_leaves_a_term_out(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text() + tiny.TERMS + "\nloss.patch = null\nloss.sparse_points = null\n"
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=conf)
    assert [term.name for term in trainer.terms] == ["normals_loss", "components_loss"]


def test_a_model_without_surface_points_is_refused(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + tiny.TERMS)
    published: Callable[..., dict[str, Tensor]] = trainer.model
    trainer.model = lambda inputs: {
        name: value for name, value in published(inputs).items() if name != "surface_points"
    }
    with pytest.raises(InputError, match="surface_points"):
        trainer.train()
    assert math.isfinite(sum(p.sum().item() for p in trainer.state.model.parameters()))


def points_file(root: Path, points: np.ndarray) -> Path:
    """Copies the scene and writes sparse points (N, 3) of the unit sphere into it, in the world."""
    shutil.copytree(root / "data", root / "with_points" / "data", dirs_exist_ok=True)
    world = tiny.SCALE * points + tiny.OFFSET
    np.savez(root / "with_points" / "data" / "tiny" / "scan0" / POINTS_FILE, points_world=world)
    return root / "with_points"


def test_sparse_points_pull_f_to_zero_within_their_time(scene_root: Path, tmp_path: Path) -> None:
    directions = np.random.default_rng(0).standard_normal((50, 3))
    points = 0.7 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    shutil.copytree(scene_root / "data", tmp_path / "data")
    root = points_file(tmp_path, np.vstack((points, [[5.0, 0.0, 0.0]])))  # the last is outside the sphere
    conf = tiny.conf_text() + "\nloss.sparse_points { weight = 2.0, until = 0.5, scale = 0.02 }\n"
    trainer = tiny.make_trainer(root, tmp_path / "run", conf=conf)
    (term,) = trainer.terms
    assert len(term.points) == (~held_out_points(51))[:50].sum()
    assert term.points.norm(dim=1).allclose(torch.tensor(0.7))
    rays = Photographed().rays(torch.zeros(40, 3))
    cameras = Photographed().cameras
    term.model = Ball()
    distance = torch.tensor(0.2)  # of all points from the ball
    expected = 2.0 * 0.02 * math.log1p(float(distance) / 0.02)
    assert float(term(rays, cameras, 0.0, generator())) == pytest.approx(expected, rel=1e-4)
    assert float(term(rays, cameras, 0.25, generator())) == pytest.approx(expected / 2, rel=1e-4)
    assert float(term(rays, cameras, 0.5, generator())) == 0


@pytest.mark.parametrize(
    ("points", "message"), [(None, "triangulate_points.py"), (np.full((3, 3), 9.0), "inside the unit sphere")]
)
def test_a_scene_without_usable_points_is_refused(
    scene_root: Path, tmp_path: Path, points: np.ndarray | None, message: str
) -> None:
    shutil.copytree(scene_root / "data", tmp_path / "data")
    root = tmp_path if points is None else points_file(tmp_path, points)
    conf = tiny.conf_text() + "\nloss.sparse_points.weight = 1.0\n"
    with pytest.raises((InputError, MissingInputError), match=message):
        tiny.make_trainer(root, tmp_path / "run", conf=conf)
