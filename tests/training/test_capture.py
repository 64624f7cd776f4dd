"""Training steps of fixed shapes, as a device with graphs records and repeats them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import idr.model.twins as twins
from idr.cli.train import main
from idr.conf.files import load_conf
from idr.errors import InputError, TrainingStoppedError
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.loss import IDRLoss
from idr.training.capture import CapturedStep, check_capture
from idr.training.rays.batches import Batch
from idr.training.trainer import Trainer
from tests.graphs import Graphs, Strict
from tests.training import tiny

FIXED = "\nmodel.ray_tracer.strategy = fixed\n"
CAPTURED = FIXED + "train.capture = auto\n"
LEVELS = tiny.GRID + "train.schedule.levels { start = 1.5, begin = 0.1, end = 0.4 }\n"
IMPORTANCE = """
train.sampler { type = importance, silhouette = 0.3, silhouette_pixels = 1, error = 0.2, error_cell = 4
  far_pixels = 4, reweight = true, mixed_pixels = 1 }
train.schedule.param_groups { rendering_network { factor = 0.5 } }
"""


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in plain torch, as on an accelerator."""
    monkeypatch.setattr(twins, "find_kernel", lambda name: None)
    for module in ("implicit_network", "encodings.hashgrid"):
        monkeypatch.setattr(f"idr.model.{module}.find_kernel", lambda name: None)


def with_graphs(trainer: Trainer) -> Graphs:
    """Makes the CPU a device with graphs."""
    assert trainer.captured is not None
    optimizer = trainer.state.optimizer

    def changed() -> Iterator[torch.Tensor]:
        yield from trainer.state.model.parameters()
        for slot in optimizer.state.values():
            yield from slot.values()

    graphs = Graphs(changed)
    trainer.captured._backend = graphs
    return graphs


def batches(trainer: Trainer, epochs: int) -> Iterator[Batch]:
    """The batches of a training, with the settings of each."""
    trainer.state.model.train()
    for epoch in range(epochs):
        for step, batch in enumerate(trainer.rays.batches(0, epoch, 0)):
            trainer._apply(trainer.schedule.at(epoch, step))
            yield batch


def tracer(iterations: int = 10, samples: int = 100, secants: int = 8) -> str:
    names = ("sphere_tracing_iters", "n_steps", "n_secant_steps")
    pairs = zip(names, (iterations, samples, secants), strict=True)
    return "".join(f"model.ray_tracer.{name} = {value}\n" for name, value in pairs)


# --- nothing is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", tiny.GRID, IMPORTANCE, "train.max_grad_norm = 1\n"])
def test_no_operator_of_a_step_waits_for_the_host(
    scene_root: Path, tmp_path: Path, plain: None, extra: str
) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + CAPTURED + extra)
    assert trainer.captured is not None
    for batch in batches(trainer, 1):
        recording = trainer.captured._recording_for(batch)
        with Strict("cpu") as strict:
            trainer.captured._compute(recording)
        assert strict.operators > 500  # tracing to Adam


def test_what_waits_is_seen(scene_root: Path, tmp_path: Path, plain: None) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + CAPTURED)
    batch = next(batches(trainer, 1))
    recording = trainer.captured._recording_for(batch)  # type: ignore[union-attr]
    network = trainer.state.model
    network.ray_tracer = tiny.make_trainer(scene_root, tmp_path).state.model.ray_tracer
    with pytest.raises(AssertionError, match="waits for the host"), Strict("cpu"):
        trainer.captured._compute(recording)  # type: ignore[union-attr]


@pytest.mark.parametrize("mistake", ["a read", "a copy to the host", "a tensor of the host"])
def test_what_touches_the_host_is_seen(mistake: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        values, host = torch.ones(2, device="cuda"), torch.tensor(2.0)
        work = {
            "a read": values.nonzero, "a copy to the host": values.cpu,
            "a tensor of the host": lambda: values * host,
        }  # fmt: skip
        refused = pytest.raises(AssertionError, match="waits for the host|touches a tensor on cpu")
        with refused, Strict("cuda"):
            work[mistake]()


def dtu_step(device: str, num_rays: int = 2048) -> tuple[CapturedStep, Batch]:
    """The step of the published conf on a device."""
    conf = load_conf("./confs/dtu_fixed_cameras.conf", ["model.ray_tracer.strategy=fixed"])
    with torch.device(device):
        model = IDRNetwork(conf["model"]).train()
        adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True, capturable=True)
        step = CapturedStep(model, IDRLoss(**conf["loss"]), adam, 1.0)
        matrix, inside = torch.eye(4).unsqueeze(0), torch.rand(1, num_rays) > 0.5
        uv = torch.rand(1, num_rays, 2)
        model_input = {"uv": uv, "intrinsics": matrix, "pose": matrix, "object_mask": inside}
        truth = {"rgb": torch.rand(1, num_rays, 3)}
        return step, Batch(torch.zeros(1, dtype=torch.long), model_input, truth)


def test_published_step_on_a_fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # `lazy`: PyTorch's engine runs its backward pass without a driver, which it does not for `cuda`.
    optimizers = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["lazy"])
    with FakeTensorMode(allow_non_fake_inputs=False):
        step, batch = dtu_step("lazy")
        recording = step._recording_for(batch)
        with Strict("lazy"):
            result = step._compute(recording)
    assert result.outputs["points"].shape == (2048, 3)
    assert result.losses["loss"].device.type == "lazy"


def test_published_tracing_and_adam_on_a_fake_cuda_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        step, batch = dtu_step("cuda")
        with torch.device("cuda"), Strict("cuda"):
            rays, inside = torch.rand(1, 2048, 3), batch.model_input["object_mask"][0]
            draws = step._recording_for(batch).draws
            traced = step.model._trace(rays[:, 0], rays, inside, draws)
            for parameter in step.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            with step._tensors_in_place():
                step.optimizer.step()
    assert traced.depth.device.type == "cuda" and traced.hit.shape == (2048,)
    counts = [slot["step"].device.type for slot in step.optimizer.state.values()]
    assert set(counts) == {"cuda"}


# --- the same training --------------------------------------------------------------------------------------


def losses(
    root: Path, run: Path, conf: str, epochs: int, change: Callable[[Batch], Batch] = lambda batch: batch
) -> torch.Tensor:
    """The losses (N,) of a training."""
    trainer = tiny.make_trainer(root, run, conf=conf, nepoch=epochs)
    found = [trainer._train_step(change(batch))[0]["loss"].detach() for batch in batches(trainer, epochs)]
    return torch.stack(found)


def in_double(batch: Batch) -> Batch:
    parts = (
        {key: x.double() if x.is_floating_point() else x for key, x in part.items()}
        for part in (batch.model_input, batch.ground_truth)
    )
    return replace(batch, **dict(zip(("model_input", "ground_truth"), parts, strict=True)))


def test_fifty_steps_equal_those_without_capture(scene_root: Path, tmp_path: Path) -> None:
    # The arithmetic is the same but for the order of Adam's operations, with learning rates that float32
    # holds exactly. In float32, rounding alone parts two trainings within ten steps: Adam divides small
    # gradients by their own size. In float64 they stay within a few roundings; a wrong rate would differ by
    # 1e-2.
    torch.set_default_dtype(torch.float64)
    try:
        conf = tiny.conf_text(f"max_grad_norm = 5, learning_rate = {2**-10}, sched_factor = 0.25")
        off, auto = (
            losses(scene_root, tmp_path, conf + extra, 10, in_double) for extra in (FIXED, CAPTURED)
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert off.shape == (50,) and off.dtype == torch.float64
    assert ((off - auto).abs() / off).max() <= 1e-12


def test_fifty_steps_follow_the_published_tracer(scene_root: Path, tmp_path: Path) -> None:
    # The tracers differ in the minima of f on misses, which the published one samples at random: the losses
    # by up to 0.5 %, always the same way. The published learning rate; larger ones amplify rounding.
    conf = tiny.conf_text("learning_rate = 1.0e-4, num_pixels = 60") + tracer()
    published, auto = (
        losses(scene_root, tmp_path, conf + extra, 10)
        for extra in ("\nmodel.ray_tracer.strategy = published\n", CAPTURED)
    )
    assert ((published - auto).abs() / published).max() <= 0.01


@pytest.mark.parametrize("extra", ["", LEVELS, IMPORTANCE])
def test_repeated_steps_equal_those_that_run(
    scene_root: Path, tmp_path: Path, plain: None, extra: str
) -> None:
    # Six epochs pass milestones of alpha and of the learning rate; the last batch of each is a short one, and
    # levels open in the first three. Both shapes are recorded once, after three steps.
    conf, recorded = tiny.conf_text() + CAPTURED + extra, []
    for name in ("runs", "repeats"):
        trainer = tiny.make_trainer(scene_root, tmp_path / name, conf=conf, nepoch=6, batch_size=2)
        (tmp_path / name).mkdir()
        recorded.append(with_graphs(trainer) if name == "repeats" else None)
        assert trainer.train()
    assert recorded[1] is not None and recorded[1].recorded == 2
    runs, repeats = (tmp_path / name for name in ("runs", "repeats"))
    assert tiny.same(tiny.parts_of(runs), tiny.parts_of(repeats))
    rows = [[row | {"minutes": ""} for row in tiny.metrics_rows(run)] for run in (runs, repeats)]
    assert rows[0] == rows[1] and len(rows[0]) == 6


def test_rendering_sees_the_weights_of_repeated_steps(scene_root: Path, tmp_path: Path, plain: None) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + CAPTURED)
    graphs, versions = with_graphs(trainer), []
    for batch in batches(trainer, 1):
        trainer._train_step(batch)
        versions.append(trainer.state.model._weights_version())
    assert graphs.recorded == 1 and len(set(versions)) == 5  # caches of f compare them


@pytest.mark.parametrize("extra", ["", tiny.SCHEDULE, CAPTURED])
def test_each_step_counts_the_versions_of_the_weights(scene_root: Path, tmp_path: Path, extra: str) -> None:
    trainer, versions = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + extra), []
    for batch in batches(trainer, 1):
        trainer._train_step(batch)
        network = trainer.state.model.implicit_network
        versions.append([parameter._version for parameter in network.parameters()])
    columns = zip(*versions, strict=True)
    assert all(counts == sorted(set(counts)) for counts in map(list, columns)) and len(versions) == 5


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights(
    scene_root: Path, tmp_path: Path, plain: None, what: str
) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + CAPTURED, nepoch=3)
    if what != "gradient":
        with_graphs(trainer)
    original, weights, model = trainer.rays.batches, {}, trainer.state.model
    terms = "the gradient" if what == "gradient" else "loss, rgb_loss"

    def spoiled(seed: int, epoch: int, *rest: Any) -> Iterator[Batch]:
        for step, batch in enumerate(original(seed, epoch, *rest)):
            if (epoch, step) == (1, 2):
                weights.update({k: x.clone() for k, x in model.state_dict().items()})
                if what == "gradient":
                    model.rendering_network.lin0.bias.register_hook(lambda gradient: gradient * torch.inf)
                else:
                    batch.ground_truth["rgb"][:] = float(what)
            yield batch

    trainer.rays.batches = spoiled  # type: ignore[method-assign]
    with pytest.raises(TrainingStoppedError, match=rf"epoch 1, step 2: {terms} not finite in view \d"):
        trainer.train()
    saved = torch.load(tmp_path / "nonfinite_1_2.pth", weights_only=True)
    assert saved["TrainerState"]["step"] == 2 and len(saved["batch"]["indices"]) == 1
    assert tiny.same(dict(saved["ModelParameters"]["model_state_dict"]), weights)
    counts = [slot["step"] for slot in saved["OptimizerParameters"]["optimizer_state_dict"]["state"].values()]
    assert set(counts) == {7}


@pytest.mark.parametrize(("first", "then"), [("off", "auto"), ("auto", "off")])
def test_a_run_goes_on_with_and_without_capture(
    scene_root: Path, tmp_path: Path, first: str, then: str
) -> None:
    conf = tiny.conf_text() + FIXED
    tiny.make_trainer(scene_root, tmp_path, conf=conf + f"train.capture = {first}\n", nepoch=1).train()
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=conf + f"train.capture = {then}\n", nepoch=2)
    trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
    assert trainer.train()
    parts = tiny.parts_of(tmp_path)["OptimizerParameters"]["optimizer_state_dict"]
    assert {slot["step"] for slot in parts["state"].values()} == {10}
    assert type(parts["param_groups"][0]["lr"]) is float


def test_the_grid_of_another_tracer_is_not_carried_on(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text(), nepoch=1).train()
    assert "TracerState" in tiny.parts_of(tmp_path)
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + FIXED, nepoch=2)
    trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
    assert trainer.train() and "TracerState" not in tiny.parts_of(tmp_path)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "cameras", "message"),
    [
        ("", False, "strategy = accelerated, .* expected fixed; add --set model.ray_tracer.strategy=fixed"),
        (FIXED, True, "trained cameras, .* expected fixed cameras"),
        (FIXED + tiny.TERMS, False, "the term patch_loss; expected a loss without further terms"),
        (FIXED + "train.exposure.type = per_image\n", False, "exposure.type = per_image; expected fixed"),
    ],
)
def test_what_cannot_be_captured_is_refused(
    scene_root: Path, tmp_path: Path, extra: str, cameras: bool, message: str
) -> None:
    conf = tiny.conf_text() + "train.capture = auto\n" + extra
    with pytest.raises(InputError, match=rf"train.capture = auto: got .*{message}, or train.capture = off"):
        tiny.make_trainer(scene_root, tmp_path, conf=conf, cameras=cameras)


def test_the_command_refuses_before_it_makes_a_run(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exps, auto = tmp_path / "exps", ("--set", "train.capture=auto")
    assert main(tiny.command(scene_root, *auto, exps=str(exps))) == 2
    message = capsys.readouterr().err
    assert "add --set model.ray_tracer.strategy=fixed" in message and not list(exps.rglob("*"))
    remedy = ("--set", "model.ray_tracer.strategy=fixed")
    assert main(tiny.command(scene_root, *auto, *remedy, nepoch=1, exps=str(exps))) == 0


def test_other_models_and_several_processes_are_refused(scene_root: Path, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + CAPTURED)
    with pytest.raises(InputError, match="a model of class Linear; expected IDRNetwork"):
        check_capture(trainer.config, torch.nn.Linear(1, 1), (), False, 1)
    with pytest.raises(InputError, match="2 processes that share the rays; expected one"):
        check_capture(trainer.config, trainer.state.model, (), False, 2)


def test_a_step_that_cannot_be_recorded_is_refused(
    scene_root: Path, tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text() + CAPTURED)
    graphs = with_graphs(trainer)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "graph", broken)
    message = r"cannot record a step \(operation not permitted when stream is capturing\); set train"
    with pytest.raises(InputError, match=message):
        for batch in batches(trainer, 1):
            trainer._train_step(batch)
